#include "base/threads.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

/* A waiter spins this many pauses (some 100 us), then sleeps: a peer that lost its core is waited for without
 * burning ours.  Most regions end within a hundred. */
#define SPINS 4000
#define YIELDS 200 /* about as long */

typedef struct helper {
    threads_pool *pool;
    pthread_t thread;
    int index;
} helper;

/* A number that others wait on to change. */
typedef struct bell {
    _Alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} bell;

struct threads_pool {
    int n, own, all, started; /* threads of this step; without, and with those on lent cores */
    bool spin;
    threads_fn fn; /* of the running region; published by `region` */
    void *arg;
    helper *helpers; /* all - 1 */
    bell region;     /* counts regions; also moved by step_begin, so that sleepers come to spin */
    bell lent;       /* the same, of steps with lent cores: in others their threads are not woken */
    bell done;       /* regions ended */
    bell barrier;    /* barriers passed */
    _Alignas(64) _Atomic uint32_t running;  /* helpers still inside the region */
    _Atomic uint32_t arrived;               /* at the barrier */
    _Atomic uint64_t job;                   /* JOB of the last region started */
    _Atomic int awake;                      /* inside a step: how many threads it has; else 0 */
    _Atomic bool stop;
};

/* A region's number and how many threads it has, in one word: a thread on a lent core may look late, and must not take part in a region that does not wait for it. */
#define JOB(number, n_threads) ((uint64_t)(number) << 16 | (uint64_t)(n_threads))
#define JOB_NUMBER(job) ((job) >> 16)
#define JOB_THREADS(job) ((int)((job) & 0xffff))
#define MAX_THREADS 0xffff

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sleeps until the bell rings or, at once, if it no longer shows `seen`.  Whoever rings counts sleepers after moving the
 * value, whoever sleeps counts itself before comparing it: one of them sees the other. */
static void bell_sleep(bell *b, uint32_t seen)
{
    atomic_fetch_add(&b->sleepers, 1);
    if (atomic_load(&b->value) == seen)
        syscall(SYS_futex, &b->value, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&b->sleepers, 1);
}

static void bell_ring(bell *b)
{
    atomic_fetch_add(&b->value, 1);
    if (atomic_load(&b->sleepers) != 0)
        syscall(SYS_futex, &b->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* On a lent core, when a step has ended: whoever lent it may take it at once, and does not find it halted. */
static void bell_yield(bell *b, uint32_t seen)
{
    for (int i = 0; i < YIELDS && atomic_load_explicit(&b->value, memory_order_acquire) == seen; i++)
        sched_yield();
}

static void bell_wait(bell *b, uint32_t seen, bool spin)
{
    for (int i = 0; spin && i < SPINS; i++) {
        if (atomic_load_explicit(&b->value, memory_order_acquire) != seen)
            return;
        pause_briefly();
    }
    while (atomic_load_explicit(&b->value, memory_order_acquire) == seen)
        bell_sleep(b, seen);
}

static void *helper_main(void *arg)
{
    helper *h = arg;
    threads_pool *p = h->pool;
    bell *called = h->index < p->own ? &p->region : &p->lent;
    for (uint64_t next = 1;;) {
        uint32_t seen = atomic_load(&called->value);
        if (atomic_load(&p->stop))
            return NULL;
        uint64_t job = atomic_load(&p->job);
        if (JOB_NUMBER(job) < next) {
            if (called == &p->lent && atomic_load(&p->awake) == 0)
                bell_yield(called, seen);
            bell_wait(called, seen, p->spin && h->index < atomic_load(&p->awake));
            continue;
        }
        next = JOB_NUMBER(job) + 1;
        if (h->index >= JOB_THREADS(job))
            continue;
        p->fn(p->arg, h->index, JOB_THREADS(job));
        if (atomic_fetch_sub(&p->running, 1) == 1)
            bell_ring(&p->done);
    }
}

/* Granted core number `i` modulo their count; false if affinity cannot be read. */
static bool core_at(int i, cpu_set_t *out)
{
    cpu_set_t granted;
    if (sched_getaffinity(0, sizeof(granted), &granted) != 0 || CPU_COUNT(&granted) == 0)
        return false;
    i %= CPU_COUNT(&granted);
    CPU_ZERO(out);
    for (int c = 0; c < CPU_SETSIZE; c++) {
        if (!CPU_ISSET(c, &granted) || i-- != 0)
            continue;
        CPU_SET(c, out);
        return true;
    }
    return false;
}

static bool core_of(const threads_options *o, int index, int own, cpu_set_t *out)
{
    if (index < own)
        return o->first_core >= 0 && core_at(o->first_core + index, out);
    CPU_ZERO(out);
    CPU_SET(o->lent_cores[index - own], out);
    return true;
}

static status start_helper(threads_pool *p, int index, const threads_options *o)
{
    helper *h = &p->helpers[index - 1];
    *h = (helper){.pool = p, .index = index};
    int e = pthread_create(&h->thread, NULL, helper_main, h);
    if (e != 0)
        return FAIL(ST_NO_MEMORY, "threads: cannot start thread %d of %d: %s (lower --threads)", index, p->all, strerror(e));
    p->started++;
    cpu_set_t core;
    if (core_of(o, index, p->own, &core))
        (void)pthread_setaffinity_np(h->thread, sizeof(core), &core); /* unpinned still works */
    return ST_OK;
}

status threads_create(const threads_options *o, threads_pool **out)
{
    int cores = threads_cores_granted();
    int n = o->n_threads > 0 ? o->n_threads : cores;
    if (n > MAX_THREADS - o->n_lent)
        return FAIL(ST_LIMIT, "threads: %d are more than %d (lower --threads)", n, MAX_THREADS - o->n_lent);
    threads_pool *p = aligned_alloc(64, mem_align(sizeof(*p), 64));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "threads: no memory for a pool");
    memset(p, 0, sizeof(*p));
    p->n = p->own = n;
    p->all = n + o->n_lent;
    p->spin = o->spin && n <= cores;
    status st = mem_calloc((size_t)p->all, sizeof(*p->helpers), "threads", &p->helpers);
    for (int i = 1; st == ST_OK && i < p->all; i++)
        st = start_helper(p, i, o);
    if (st != ST_OK) {
        threads_destroy(&p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void threads_destroy(threads_pool **pool)
{
    threads_pool *p = *pool;
    if (p == NULL)
        return;
    atomic_store(&p->stop, true);
    bell_ring(&p->region);
    bell_ring(&p->lent);
    for (int i = 0; i < p->started; i++)
        pthread_join(p->helpers[i].thread, NULL);
    free(p->helpers);
    free(p);
    *pool = NULL;
}

int threads_count(const threads_pool *pool)
{
    return pool->n;
}

void threads_run(threads_pool *p, threads_fn fn, void *arg)
{
    if (p->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    uint32_t done = atomic_load(&p->done.value);
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->running, (uint32_t)(p->n - 1));
    atomic_store(&p->job, JOB(JOB_NUMBER(atomic_load(&p->job)) + 1, p->n));
    bell_ring(&p->region);
    if (p->n > p->own)
        bell_ring(&p->lent);
    fn(arg, 0, p->n);
    bell_wait(&p->done, done, p->spin);
}

void threads_barrier(threads_pool *p)
{
    uint32_t seen = atomic_load(&p->barrier.value);
    if (atomic_fetch_add(&p->arrived, 1) + 1 == (uint32_t)p->n) {
        atomic_store(&p->arrived, 0);
        bell_ring(&p->barrier);
        return;
    }
    bell_wait(&p->barrier, seen, p->spin);
}

void threads_step_begin(threads_pool *p, bool lent)
{
    p->n = lent ? p->all : p->own;
    atomic_store(&p->awake, p->n);
    if (p->spin && p->own > 1)
        bell_ring(&p->region);
    if (p->spin && p->n > p->own)
        bell_ring(&p->lent);
}

void threads_step_end(threads_pool *p)
{
    atomic_store(&p->awake, 0);
    if (p->n > p->own) /* who spins goes to sleep */
        bell_ring(&p->lent);
    p->n = p->own;
}

void threads_share(size_t n_items, size_t unit, int thread, int n_threads, size_t *begin, size_t *end)
{
    size_t units = n_items / unit + (n_items % unit != 0), n = (size_t)n_threads, i = (size_t)thread;
    size_t each = units / n, more = units % n; /* the first `more` threads take one unit more */
    size_t first = i * each + (i < more ? i : more), last = first + each + (i < more);
    *begin = first * unit < n_items ? first * unit : n_items;
    *end = last * unit < n_items ? last * unit : n_items;
}

/* ---- cores granted ---- */

/* Two numbers of a file ("max" reads as -1); false if it cannot be read. */
static bool read_numbers(const char *path, long long *a, long long *b)
{
    char text[64] = "";
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    bool ok = fgets(text, sizeof(text), f) != NULL;
    fclose(f);
    if (!ok)
        return false;
    char *end = text + (strncmp(text, "max", 3) == 0 ? 3 : 0);
    *a = end != text ? -1 : strtoll(text, &end, 10);
    *b = strtoll(end, NULL, 10);
    return true;
}

/* Whole cores that the quota of one group and its parents allows, rounded up; INT_MAX-like when unlimited. */
static long long quota_cores(const char *root, bool v2, char *sub)
{
    long long cores = INT32_MAX;
    char path[1024];
    for (;;) {
        long long quota = -1, period = 0, unused;
        snprintf(path, sizeof(path), "%s%s/%s", root, sub, v2 ? "cpu.max" : "cpu.cfs_quota_us");
        bool ok = read_numbers(path, &quota, &period);
        if (ok && !v2) {
            snprintf(path, sizeof(path), "%s%s/cpu.cfs_period_us", root, sub);
            ok = read_numbers(path, &period, &unused);
        }
        if (ok && quota > 0 && period > 0 && (quota + period - 1) / period < cores)
            cores = (quota + period - 1) / period;
        char *slash = strrchr(sub, '/');
        if (slash == NULL)
            return cores;
        *slash = '\0'; /* the parent; "" is the root itself */
    }
}

/* `name` is one of the comma-separated names in `list`. */
static bool has_controller(const char *list, size_t n, const char *name)
{
    for (size_t i = 0, len = strlen(name); i + len <= n; i++)
        if (strncmp(list + i, name, len) == 0 && (i == 0 || list[i - 1] == ',') && (i + len == n || list[i + len] == ','))
            return true;
    return false;
}

static long long cgroup_cores(void)
{
    char line[512];
    long long cores = INT32_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f == NULL)
        return cores;
    while (fgets(line, sizeof(line), f) != NULL) { /* id:controllers:/path */
        line[strcspn(line, "\n")] = '\0';
        char *list = strchr(line, ':'), *sub = list != NULL ? strchr(list + 1, ':') : NULL;
        if (sub == NULL)
            continue;
        list++;
        bool v2 = list == sub, v1 = has_controller(list, (size_t)(sub - list), "cpu");
        if (!v2 && !v1)
            continue;
        long long here = quota_cores(v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu", v2, sub + 1);
        if (here < cores)
            cores = here;
    }
    fclose(f);
    return cores;
}

int threads_cores_granted(void)
{
    cpu_set_t granted;
    long long cores = sched_getaffinity(0, sizeof(granted), &granted) == 0 ? CPU_COUNT(&granted) : sysconf(_SC_NPROCESSORS_ONLN);
    long long quota = cgroup_cores();
    if (quota < cores)
        cores = quota;
    return cores < 1 ? 1 : (int)cores;
}
