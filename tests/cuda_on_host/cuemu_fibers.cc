/* tests/cuda_on_host/cuemu_fibers.cc - runs a grid: each CUDA thread a fiber on the calling OS thread, blocks one after another.
 *
 *   ready --barrier / warp operation--> waiting --all have come--> ready --kernel returns--> done
 *
 * A warp keeps a bit for each ready lane, the block one for each warp with any, so the next fiber is found with two bit scans; which bit is the order
 * (forward, reverse, random).  Nobody ready and somebody not done: a deadlock, reported with the lines they wait at.
 *
 * This file is compiled without sanitizers, whatever the kernels are compiled with, and calls no memcpy or memset: those are intercepted even so.  Under
 * ThreadSanitizer each fiber is a thread to it; only block starts and ends, barriers and __syncwarp order them, shuffles do not.
 * Under AddressSanitizer the switches tell it the stack in use. */
#include "tests/cuda_on_host/cuemu_internal.h"
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef CUEMU_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void *, unsigned);
void *__tsan_get_current_fiber(void);
void __tsan_acquire(void *);
void __tsan_release(void *);
}
#define ACQUIRE(what) __tsan_acquire(&(what))
#define RELEASE(what) __tsan_release(&(what))
#else
#define ACQUIRE(what) (void)0
#define RELEASE(what) (void)0
#endif
#ifdef CUEMU_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void **, const void *, size_t);
void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
void __asan_poison_memory_region(void const volatile *, size_t);
void __asan_unpoison_memory_region(void const volatile *, size_t);
}
#endif

enum { MAX_THREADS = 1024, WARPS = MAX_THREADS / 32, BARRIERS = 16, GROUPS = 48, PAGE = 4096, MAX_SMEM = 256 << 10 };
#if defined(CUEMU_ASAN) || defined(CUEMU_TSAN)
static const size_t stack_bytes = 256 << 10;
#else
static const size_t stack_bytes = 64 << 10;
#endif

enum fiber_state { READY, AT_BARRIER, AT_WARP, DONE };
struct fiber {
    cuemu_thread self; /* first: cuemu_self points here */
    void *sp;
    char *stack;
    fiber_state state;
    cuemu_site site;
    uint32_t wants; /* barrier id, or mask */
    /* Asynchronous copies: copies[first..n), group_end[g] of those committed. */
    cuemu_copy *copies;
    int copies_first, copies_n, copies_max;
    int *group_end;
    int groups_first, groups_n, groups_max;
#ifdef CUEMU_TSAN
    void *tsan;
#endif
#ifdef CUEMU_ASAN
    void *fake_stack;
#endif
};
/* The lanes of one mask on their way to a warp operation.  Two sets of slots: a lane may arrive at the next one while others still read this one's;
 * nobody passes the next before all have left this one. */
struct meeting {
    uint32_t mask, arrived;
    int phase;
    cuemu_op op;
    cuemu_site site;
    alignas(64) unsigned char slots[2][32][CUEMU_SLOT];
};
struct warp {
    uint32_t ready, alive;
    int n_meetings, last;
    meeting *meetings; /* [GROUPS] */
};
struct barrier {
    int arrived, wanted, votes, result, result_all;
    cuemu_site site;
};

cuemu_settings cuemu_options = {CUEMU_FORWARD, false, 1, 163 << 10};
extern "C" {
cuemu_thread *cuemu_self;
cuemu_block cuemu_this_block;
}
static fiber fibers[MAX_THREADS];
static warp warps[WARPS];
static barrier barriers[BARRIERS];
static uint32_t warps_ready;
static int n_threads, n_warps, n_alive;
static unsigned epoch;
static size_t static_bytes;
static const cuemu_launch *launch;
static fiber *current;
static void *host_sp;
static uint64_t random_state;
#ifdef CUEMU_TSAN
static void *host_tsan;
static char at_start, at_end, at_barrier[BARRIERS], at_warp[WARPS];
#endif
#ifdef CUEMU_ASAN
static void *host_fake_stack;
static const void *host_bottom;
static size_t host_size;
#endif

/* ---- the switch ----
 * Saves the callee-saved registers and the stack, and takes the others'.  It ends in a jump, since a return would upset the return predictor. */
extern "C" void cuemu_switch(void **save, void *load);
asm(R"(
.text
.globl cuemu_switch
.hidden cuemu_switch
.type cuemu_switch, @function
cuemu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size cuemu_switch, .-cuemu_switch
)");

uint64_t cuemu_random(uint64_t *s) /* xorshift64 */
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static int pick(uint32_t bits)
{
    if (cuemu_options.order == CUEMU_FORWARD)
        return __builtin_ctz(bits);
    if (cuemu_options.order == CUEMU_REVERSE)
        return 31 - __builtin_clz(bits);
    for (uint64_t k = cuemu_random(&random_state) % (unsigned)__builtin_popcount(bits); k > 0; k--)
        bits &= bits - 1;
    return __builtin_ctz(bits);
}

static void print_where(void)
{
    fprintf(stderr, "  kernel %s block (%u,%u,%u)", launch ? launch->name : "none", cuemu_this_block.bid.x, cuemu_this_block.bid.y,
            cuemu_this_block.bid.z);
    if (cuemu_self != NULL)
        fprintf(stderr, " thread (%u,%u,%u)", cuemu_self->tid.x, cuemu_self->tid.y, cuemu_self->tid.z);
    fprintf(stderr, "\n");
}

void cuemu_fault(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "cuemu (EMULATED): ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    if (launch != NULL)
        print_where();
    abort();
}

void cuemu_trap(const char *message, cuemu_site site)
{
    cuemu_fault("%s at %s:%d", message, site.file, site.line);
}

const char *cuemu_running_kernel(void)
{
    return launch != NULL ? launch->name : NULL;
}

bool cuemu_in_fiber_stack(const void *p)
{
    const char *at = (const char *)p;
    return current != NULL && at >= current->stack - PAGE && at < current->stack + stack_bytes;
}

static void deadlock(void)
{
    static const char *const what[] = {"ready", "waits at the barrier", "waits at the warp operation", "has returned"};
    fprintf(stderr, "cuemu (EMULATED): DEADLOCK: a barrier or warp operation that not all of its threads reach\n");
    cuemu_self = NULL;
    print_where();
    for (int i = 0; i < n_threads;) {
        const fiber *f = &fibers[i];
        int j = i + 1;
        while (j < n_threads && fibers[j].state == f->state && fibers[j].site.line == f->site.line && fibers[j].wants == f->wants)
            j++;
        fprintf(stderr, "  threads %d..%d: %s", i, j - 1, what[f->state]);
        if (f->state != DONE)
            fprintf(stderr, " %s:%d", f->site.file, f->site.line);
        if (f->state == AT_WARP)
            fprintf(stderr, " mask %08x", f->wants);
        fprintf(stderr, "\n");
        i = j;
    }
    abort();
}

/* The next fiber to run, of this warp if any is ready, else another's; NULL: all are done. */
static fiber *next_fiber(int w)
{
    if (warps_ready == 0) {
        if (n_alive > 0)
            deadlock();
        return NULL;
    }
    if (cuemu_options.order == CUEMU_RANDOM || warps[w].ready == 0) {
        uint32_t others = warps_ready;
        /* Forward goes round: the warps after this one first. */
        if (cuemu_options.order == CUEMU_FORWARD && (others & ~((2u << w) - 1)) != 0)
            others &= ~((2u << w) - 1);
        w = pick(others);
    }
    return &fibers[w * 32 + pick(warps[w].ready)];
}

static void set_ready(fiber *f)
{
    f->state = READY;
    warps[f->self.warp].ready |= 1u << f->self.lane;
    warps_ready |= 1u << f->self.warp;
}

static void set_waiting(fiber *f, fiber_state state)
{
    warp *w = &warps[f->self.warp];
    f->state = state;
    w->ready &= ~(1u << f->self.lane);
    if (w->ready == 0)
        warps_ready &= ~(1u << f->self.warp);
}

/* From a fiber or the host (NULL) to another. */
static void switch_to(fiber *from, fiber *to)
{
    if (from == to)
        return;
    current = to;
    cuemu_self = to != NULL ? &to->self : NULL;
#ifdef CUEMU_ASAN
    __sanitizer_start_switch_fiber(from != NULL ? &from->fake_stack : &host_fake_stack, to != NULL ? to->stack : host_bottom,
                                   to != NULL ? stack_bytes : host_size);
#endif
#ifdef CUEMU_TSAN
    __tsan_switch_to_fiber(to != NULL ? to->tsan : host_tsan, 1 /* orders nothing */);
#endif
    cuemu_switch(from != NULL ? &from->sp : &host_sp, to != NULL ? to->sp : host_sp);
#ifdef CUEMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(from != NULL ? from->fake_stack : host_fake_stack, &bottom, &size);
    if (from != NULL && current == from && host_bottom == NULL) {
        host_bottom = bottom;
        host_size = size;
    }
#endif
}

/* A fiber lives on: it runs one CUDA thread after another. */
static void fiber_main(void)
{
#ifdef CUEMU_ASAN
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
    if (host_bottom == NULL) { /* the first ever to run comes from the host's stack */
        host_bottom = bottom;
        host_size = size;
    }
#endif
    for (;;) {
        fiber *f = current;
        ACQUIRE(at_start);
        launch->thunk(launch->fn, launch->args);
        RELEASE(at_end);
        set_waiting(f, DONE);
        warps[f->self.warp].alive &= ~(1u << f->self.lane);
        f->site = {NULL, 0};
        f->wants = 0;
        n_alive--;
        switch_to(f, next_fiber(f->self.warp));
    }
}

/* ---- barriers ---- */

int cuemu_barrier(int id, int count, int vote, int *all, cuemu_site site)
{
    fiber *f = current;
    barrier *b = &barriers[id];
    if (f == NULL)
        cuemu_trap("a barrier outside a kernel", site);
    if (id < 0 || id >= BARRIERS || count < 0 || count % 32 != 0 || count > n_threads)
        cuemu_trap("a named barrier of an impossible id or number of threads", site);
    int wanted = count != 0 ? count : n_threads;
    if (b->arrived == 0) {
        b->site = site;
        b->wanted = wanted;
        b->votes = 0;
    } else if (b->site.line != site.line || b->site.file != site.file) {
        cuemu_fault("threads of one block meet at DIFFERENT barriers: %s:%d and %s:%d", b->site.file, b->site.line, site.file, site.line);
    } else if (b->wanted != wanted) {
        cuemu_trap("threads of one barrier disagree about its number of threads", site);
    }
    b->votes += vote;
#ifdef CUEMU_TSAN
    __tsan_release(&at_barrier[id]);
#endif
    if (++b->arrived == wanted) {
        b->arrived = 0;
        b->result = b->votes;
        b->result_all = b->votes == wanted;
        for (int i = 0; i < n_threads; i++)
            if (fibers[i].state == AT_BARRIER && fibers[i].wants == (uint32_t)id)
                set_ready(&fibers[i]);
        if (cuemu_options.order != CUEMU_FORWARD) /* the last to come need not be the first to go on */
            switch_to(f, next_fiber(f->self.warp));
    } else {
        f->site = site;
        f->wants = (uint32_t)id;
        set_waiting(f, AT_BARRIER);
        switch_to(f, next_fiber(f->self.warp));
    }
#ifdef CUEMU_TSAN
    __tsan_acquire(&at_barrier[id]);
#endif
    if (all != NULL)
        *all = b->result_all;
    return b->result;
}

void cuemu_yield(void)
{
    fiber *f = current;
    if (f == NULL) {
        sched_yield();
        return;
    }
    /* Another warp if one is ready, else another lane, else the processor for another process. */
    uint32_t others = warps_ready & ~(1u << f->self.warp), lanes = warps[f->self.warp].ready & ~(1u << f->self.lane);
    static unsigned turn;
    if (++turn % 16 == 0)
        sched_yield();
    if (others != 0) {
        uint32_t after = others & ~((2u << f->self.warp) - 1);
        int w = __builtin_ctz(after != 0 ? after : others);
        switch_to(f, &fibers[w * 32 + pick(warps[w].ready)]);
    } else if (lanes != 0) {
        uint32_t after = lanes & ~((2u << f->self.lane) - 1);
        switch_to(f, &fibers[f->self.warp * 32 + __builtin_ctz(after != 0 ? after : lanes)]);
    }
}

/* ---- warp operations ---- */

static float bf16(uint32_t pair, int half)
{
    uint32_t u = half ? pair & 0xffff0000u : pair << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}

static float f16(uint32_t pair, int half)
{
    uint16_t u = (uint16_t)(half ? pair >> 16 : pair);
    _Float16 h;
    __builtin_memcpy(&h, &u, 2);
    return (float)h;
}

/* Both from the fragments as PTX lays them out (see gpu.cuh), with results in place of what the lanes brought. */
static void mma_16(unsigned char (*slots)[CUEMU_SLOT], bool is_f16)
{
    static float a[16][16], b[8][16];
    for (int l = 0; l < 32; l++) {
        const uint32_t *in = (const uint32_t *)slots[l];
        int g = l / 4, t = l % 4;
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 2; h++)
                a[g + 8 * (r & 1)][2 * t + h + 8 * (r / 2)] = is_f16 ? f16(in[r], h) : bf16(in[r], h);
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 2; h++)
                b[g][2 * t + h + 8 * r] = is_f16 ? f16(in[4 + r], h) : bf16(in[4 + r], h);
    }
    for (int l = 0; l < 32; l++) {
        float *out = (float *)slots[l];
        int g = l / 4, t = l % 4;
        for (int e = 0; e < 4; e++) {
            const float *x = a[g + 8 * (e / 2)], *y = b[2 * t + (e & 1)];
            float sum[4] = {0, 0, 0, 0};
            for (int k = 0; k < 16; k += 4)
                for (int i = 0; i < 4; i++)
                    sum[i] += x[k + i] * y[k + i];
            out[e] = ((const float *)slots[l])[6 + e] + ((sum[0] + sum[2]) + (sum[1] + sum[3]));
        }
    }
}

static void mma_32(unsigned char (*slots)[CUEMU_SLOT], bool a_unsigned)
{
    static int16_t a[16][32], b[8][32];
    for (int l = 0; l < 32; l++) {
        const uint32_t *in = (const uint32_t *)slots[l];
        int g = l / 4, t = l % 4;
        for (int r = 0; r < 4; r++)
            for (int h = 0; h < 4; h++) {
                uint8_t v = (uint8_t)(in[r] >> 8 * h);
                a[g + 8 * (r & 1)][4 * t + h + 16 * (r / 2)] = a_unsigned ? (int16_t)v : (int16_t)(int8_t)v;
            }
        for (int r = 0; r < 2; r++)
            for (int h = 0; h < 4; h++)
                b[g][4 * t + h + 16 * r] = (int8_t)(in[4 + r] >> 8 * h);
    }
    for (int l = 0; l < 32; l++) {
        uint32_t *out = (uint32_t *)slots[l];
        int g = l / 4, t = l % 4;
        for (int e = 0; e < 4; e++) {
            const int16_t *x = a[g + 8 * (e / 2)], *y = b[2 * t + (e & 1)];
            int32_t sum = 0;
            for (int k = 0; k < 32; k++)
                sum += x[k] * y[k];
            out[e] = ((const uint32_t *)slots[l])[6 + e] + (uint32_t)sum;
        }
    }
}

/* The butterfly's tree: at each step lane i takes lane i ^ offset. */
static void butterfly(unsigned char (*slots)[CUEMU_SLOT], bool sum)
{
    float v[32];
    for (int l = 0; l < 32; l++)
        v[l] = *(const float *)slots[l];
    for (int o = 16; o > 0; o /= 2)
        for (int i = 0; i < o; i++)
            v[i] = sum ? v[i] + v[i + o] : __builtin_fmaxf(v[i], v[i + o]);
    for (int l = 0; l < 32; l++)
        *(float *)slots[l] = v[0];
}

static void combine(meeting *m)
{
    unsigned char(*slots)[CUEMU_SLOT] = m->slots[m->phase];
    switch (m->op) {
    case CUEMU_MMA_BF16:
    case CUEMU_MMA_F16:
        mma_16(slots, m->op == CUEMU_MMA_F16);
        break;
    case CUEMU_MMA_S8:
    case CUEMU_MMA_U8S8:
        mma_32(slots, m->op == CUEMU_MMA_U8S8);
        break;
    case CUEMU_SUM:
    case CUEMU_MAX:
        butterfly(slots, m->op == CUEMU_SUM);
        break;
    default:
        break;
    }
}

static meeting *meeting_of(warp *w, uint32_t mask, int lane, cuemu_site site)
{
    if (w->meetings[w->last].mask == mask && w->last < w->n_meetings)
        return &w->meetings[w->last];
    if (!(mask >> lane & 1))
        cuemu_trap("a lane calls a warp operation whose mask does not name it", site);
    if ((mask & ~w->alive) != 0)
        cuemu_trap("the mask of a warp operation names a lane that has returned or never was", site);
    for (int i = 0; i < w->n_meetings; i++)
        if (w->meetings[i].mask == mask) {
            w->last = i;
            return &w->meetings[i];
        }
    if (w->n_meetings == GROUPS)
        cuemu_trap("more different masks in one warp than the emulation keeps", site);
    meeting *m = &w->meetings[w->last = w->n_meetings++];
    m->mask = mask;
    m->arrived = 0;
    m->phase = 0;
    return m;
}

const unsigned char *cuemu_warp(uint32_t mask, const void *in, size_t bytes, cuemu_op op, cuemu_site site)
{
    fiber *f = current;
    if (f == NULL)
        cuemu_trap("a warp operation outside a kernel", site);
    warp *w = &warps[f->self.warp];
    int lane = f->self.lane;
    meeting *m = meeting_of(w, mask, lane, site);
    if (!(mask >> lane & 1))
        cuemu_trap("a lane calls a warp operation whose mask does not name it", site);
    if (m->arrived == 0) {
        m->op = op;
        m->site = site;
    } else if (m->op != op || m->site.line != site.line || m->site.file != site.file) {
        cuemu_fault("lanes of one warp meet at DIFFERENT operations: %s:%d and %s:%d", m->site.file, m->site.line, site.file, site.line);
    }
    unsigned char(*slots)[CUEMU_SLOT] = m->slots[m->phase];
    for (size_t i = 0; i < bytes / 4; i++)
        ((volatile uint32_t *)slots[lane])[i] = ((const uint32_t *)in)[i];
#ifdef CUEMU_TSAN
    if (op == CUEMU_SYNC)
        __tsan_release(&at_warp[f->self.warp]);
#endif
    m->arrived |= 1u << lane;
    if (m->arrived == mask) {
        combine(m);
        m->arrived = 0;
        m->phase ^= 1;
        for (uint32_t others = mask & ~(1u << lane); others != 0; others &= others - 1)
            set_ready(&fibers[f->self.warp * 32 + __builtin_ctz(others)]);
        if (cuemu_options.order != CUEMU_FORWARD)
            switch_to(f, next_fiber(f->self.warp));
    } else {
        f->site = site;
        f->wants = mask;
        set_waiting(f, AT_WARP);
        switch_to(f, next_fiber(f->self.warp));
    }
#ifdef CUEMU_TSAN
    if (op == CUEMU_SYNC)
        __tsan_acquire(&at_warp[f->self.warp]);
#endif
    return slots[0];
}

/* ---- asynchronous copies of a thread ---- */

template <class T> static void grow(T **array, int n, int *max)
{
    if (n < *max)
        return;
    int more = *max != 0 ? 2 * *max : 16;
    T *bigger = (T *)malloc(sizeof(T) * (size_t)more);
    if (bigger == NULL)
        abort();
    for (int i = 0; i < n; i++)
        bigger[i] = (*array)[i];
    free(*array);
    *array = bigger;
    *max = more;
}

bool cuemu_copies_early(void)
{
    return cuemu_options.copies_early;
}

void cuemu_copy_push(const cuemu_copy *c)
{
    fiber *f = current;
    grow(&f->copies, f->copies_n, &f->copies_max);
    f->copies[f->copies_n++] = *c;
}

void cuemu_copy_commit(void)
{
    fiber *f = current;
    grow(&f->group_end, f->groups_n, &f->groups_max);
    f->group_end[f->groups_n++] = f->copies_n;
}

bool cuemu_copy_next(int keep, cuemu_copy *c)
{
    fiber *f = current;
    while (f->groups_n - f->groups_first > keep) {
        if (f->copies_first < f->group_end[f->groups_first]) {
            *c = f->copies[f->copies_first++];
            return true;
        }
        f->groups_first++;
    }
    if (f->copies_first == f->copies_n && f->groups_first == f->groups_n)
        f->copies_first = f->copies_n = f->groups_first = f->groups_n = 0;
    return false;
}

/* ---- blocks and grids ---- */

static void poison(void *p, size_t n)
{
    asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0xff) : "memory");
}

void *cuemu_shared(unsigned *seen, void *p, size_t bytes)
{
    if (__builtin_expect(*seen == epoch, 1))
        return p;
    *seen = epoch;
    poison(p, bytes);
    static_bytes += (bytes + 15) & ~(size_t)15;
    if (static_bytes > 48 << 10)
        cuemu_fault("%zu bytes of static shared memory: more than 48 KiB", static_bytes);
    if (static_bytes + cuemu_this_block.dynamic_bytes > cuemu_options.block_smem)
        cuemu_fault("%zu bytes of static and %zu of dynamic shared memory: more than %zu", static_bytes, cuemu_this_block.dynamic_bytes,
                    cuemu_options.block_smem);
    return p;
}

static char *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return (char *)p;
}

static void fiber_make(int i)
{
    fiber *f = &fibers[i];
    char *p = map(stack_bytes + PAGE);
    mprotect(p, PAGE, PROT_NONE);
    f->stack = p + PAGE;
    /* Stack tops apart: at equal offsets all frames would fall into the same cache sets. */
    void **sp = (void **)(f->stack + stack_bytes - 64 - i * 2112 % 32768);
    *--sp = NULL; /* so that rsp is 8 more than a multiple of 16, as after a call */
    *--sp = (void *)fiber_main;
    for (int r = 0; r < 6; r++)
        *--sp = NULL;
    f->sp = sp;
#ifdef CUEMU_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
}

/* Dynamic shared memory ends at an inaccessible page, as far as its alignment to 128 bytes allows. */
static unsigned char *dynamic_memory(size_t bytes)
{
    static char *area;
    if (area == NULL) {
        area = map(MAX_SMEM + PAGE);
        mprotect(area + MAX_SMEM, PAGE, PROT_NONE);
    }
    char *p = area + MAX_SMEM - ((bytes + 127) & ~(size_t)127);
#ifdef CUEMU_ASAN
    __asan_poison_memory_region(area, MAX_SMEM);
    __asan_unpoison_memory_region(p, bytes);
#endif
    return (unsigned char *)p;
}

static void run_block(uint64_t index)
{
    const dim3 g = launch->grid;
    cuemu_this_block.bid = uint3{(unsigned)(index % g.x), (unsigned)(index / g.x % g.y), (unsigned)(index / ((uint64_t)g.x * g.y))};
    poison(cuemu_this_block.dynamic, cuemu_this_block.dynamic_bytes);
    epoch++;
    static_bytes = 0;
    for (int i = 0; i < n_threads; i++) {
        fiber *f = &fibers[i];
        f->state = READY;
        f->copies_first = f->copies_n = f->groups_first = f->groups_n = 0;
    }
    for (int w = 0; w < n_warps; w++) {
        int lanes = n_threads - w * 32;
        warps[w].alive = warps[w].ready = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        warps[w].n_meetings = warps[w].last = 0;
    }
    for (barrier &b : barriers)
        b.arrived = 0;
    warps_ready = n_warps >= 32 ? 0xffffffffu : (1u << n_warps) - 1;
    n_alive = n_threads;
    RELEASE(at_start);
    switch_to(NULL, next_fiber(pick(warps_ready)));
    ACQUIRE(at_end);
}

void cuemu_run_grid(const cuemu_launch *l)
{
    const dim3 g = l->grid, b = l->block;
    if (launch != NULL)
        cuemu_fault("a launch from within a kernel");
    n_threads = (int)(b.x * b.y * b.z);
    n_warps = (n_threads + 31) / 32;
    random_state = cuemu_options.seed * 0x9e3779b97f4a7c15u + 1;
    for (int i = 0; i < n_threads; i++) {
        fiber *f = &fibers[i];
        if (f->stack == NULL)
            fiber_make(i);
        unsigned x = (unsigned)i;
        f->self.tid = uint3{x % b.x, x / b.x % b.y, x / (b.x * b.y)};
        f->self.lane = i % 32;
        f->self.warp = i / 32;
        f->self.linear = i;
    }
    for (int w = 0; w < n_warps; w++)
        if (warps[w].meetings == NULL)
            warps[w].meetings = (meeting *)map(sizeof(meeting) * GROUPS);
    launch = l;
    cuemu_this_block.bdim = uint3{b.x, b.y, b.z};
    cuemu_this_block.gdim = uint3{g.x, g.y, g.z};
    cuemu_this_block.dynamic = dynamic_memory(l->dynamic_bytes);
    cuemu_this_block.dynamic_bytes = l->dynamic_bytes;
#ifdef CUEMU_TSAN
    host_tsan = __tsan_get_current_fiber();
#endif
#ifdef CUEMU_ASAN
    host_bottom = NULL; /* this may be another OS thread than last time's */
#endif
    uint64_t n = (uint64_t)g.x * g.y * g.z;
    uint64_t stride = 1; /* random order: multiples of a number without common factor with n */
    if (cuemu_options.order == CUEMU_RANDOM && n > 2)
        for (stride = cuemu_random(&random_state) % (n - 1) + 1;; stride = stride % (n - 1) + 1) {
            uint64_t x = n, y = stride;
            while (y != 0) {
                uint64_t rest = x % y;
                x = y;
                y = rest;
            }
            if (x == 1)
                break;
        }
    uint64_t at = cuemu_options.order == CUEMU_RANDOM ? cuemu_random(&random_state) % n : 0;
    for (uint64_t k = 0; k < n; k++) {
        run_block(cuemu_options.order == CUEMU_FORWARD ? k : cuemu_options.order == CUEMU_REVERSE ? n - 1 - k : at);
        at = (at + stride) % n;
    }
    launch = NULL;
}
