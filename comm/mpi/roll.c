#include "comm/mpi/roll.h"

#include <stdio.h>
#include <string.h>

#define MOST_NAMED 16

#ifdef COMM_PMIX
#include <pmix.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define ASK_SECONDS 1  /* the server answers for a rank that has come at once, and for others not before */
#define WAIT_SECONDS 3 /* for all the answers together */

static pmix_proc_t self;
static bool opened;
static int n_ranks;

enum { COMES = 0, WAITS = 1 };

static void key_of(int phase, int what, pmix_key_t key)
{
    snprintf(key, sizeof(pmix_key_t), "trireme.start.%d.%d", phase, what);
}

static void leave_mark(int phase, int what)
{
    pmix_key_t key;
    pmix_value_t mark = {.type = PMIX_BOOL, .data = {.flag = true}};
    key_of(phase, what, key);
    if (opened && PMIx_Put(PMIX_GLOBAL, key, &mark) == PMIX_SUCCESS)
        PMIx_Commit();
}

/* The MPI library speaks PMIx too: only the very same one may be used beside it. */
static bool same_release(void)
{
    const char *server = getenv("PMIX_VERSION");
    return getenv("PMIX_RANK") != NULL && getenv("PMIX_NAMESPACE") != NULL && server != NULL && *server != '\0' && strstr(PMIx_Get_version(), server) != NULL;
}

static int job_size(void)
{
    pmix_proc_t job;
    pmix_value_t *value = NULL;
    PMIX_LOAD_PROCID(&job, self.nspace, PMIX_RANK_WILDCARD);
    if (PMIx_Get(&job, PMIX_JOB_SIZE, NULL, 0, &value) != PMIX_SUCCESS)
        return 0;
    int n = value->type == PMIX_UINT32 && value->data.uint32 < 1u << 24 ? (int)value->data.uint32 : 0;
    PMIX_VALUE_RELEASE(value);
    return n;
}

void roll_open(void)
{
    if (!same_release() || PMIx_Init(&self, NULL, 0) != PMIX_SUCCESS)
        return;
    opened = true;
    n_ranks = job_size();
    roll_come(ROLL_INIT);
}

void roll_close(void)
{
    if (opened)
        PMIx_Finalize(NULL, 0);
    opened = false;
}

void roll_come(int phase)
{
    leave_mark(phase, COMES);
}

void roll_wait(int phase)
{
    leave_mark(phase, WAITS);
}

/* Answers come on PMIx's own thread, perhaps after the asker has gone: the last of them frees it. */
typedef struct inquiry {
    atomic_int holders; /* answers under way, and the asker */
    pmix_key_t key[2];  /* the library keeps their addresses, and that of info */
    pmix_info_t info[2];
    struct answer {
        struct inquiry *of;
        atomic_bool there;
    } answers[]; /* a row of ranks for each key */
} inquiry;

static void inquiry_drop(inquiry *q)
{
    if (atomic_fetch_sub(&q->holders, 1) == 1)
        free(q);
}

static void answered(pmix_status_t code, pmix_value_t *value, void *arg)
{
    struct answer *a = arg;
    (void)value; /* the library's */
    atomic_store(&a->there, code == PMIX_SUCCESS);
    inquiry_drop(a->of);
}

/* Sets there[n] for those of the ranks (NULL: 0 to n - 1) that have left the mark; whoever has come to the next phase waits in this one no more, but is there. */
static bool ask(const int *ranks, int n, int phase, int what, bool *there)
{
    int seconds = ASK_SECONDS, n_answers = what == WAITS ? 2 * n : n;
    bool yes = true;
    inquiry *q = calloc(1, sizeof(*q) + (size_t)n_answers * sizeof(q->answers[0]));
    if (q == NULL)
        return false;
    atomic_store(&q->holders, n_answers + 1);
    key_of(phase, what, q->key[0]);
    key_of(phase + 1, COMES, q->key[1]);
    PMIX_INFO_LOAD(&q->info[0], PMIX_TIMEOUT, &seconds, PMIX_INT);
    PMIX_INFO_LOAD(&q->info[1], PMIX_GET_REFRESH_CACHE, &yes, PMIX_BOOL); /* what MPI_Init exchanged is older than later phases' marks */
    for (int i = 0; i < n_answers; i++) {
        pmix_proc_t p;
        int r = ranks != NULL ? ranks[i % n] : i % n;
        q->answers[i].of = q;
        PMIX_LOAD_PROCID(&p, self.nspace, (pmix_rank_t)r);
        if (r == (int)self.rank || PMIx_Get_nb(&p, q->key[i / n], q->info, phase == ROLL_INIT ? 1 : 2, answered, &q->answers[i]) != PMIX_SUCCESS)
            answered(r == (int)self.rank ? PMIX_SUCCESS : PMIX_ERROR, NULL, &q->answers[i]);
    }
    for (int waited = 0; waited < WAIT_SECONDS * 1000 && atomic_load(&q->holders) > 1; waited += 10)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    for (int i = 0; i < n_answers; i++)
        there[i % n] = (i >= n && there[i % n]) || atomic_load(&q->answers[i].there);
    inquiry_drop(q);
    return true;
}

/* Mostly rank 0 is there, and the others need not look further.  Ranks beside those of the row speak only if none of it is there. */
static bool another_tells(int phase, int what)
{
    int row[32], n = 0;
    bool there[32], any = false;
    for (int r = 0; r < n_ranks && r != (int)self.rank; r = r == 0 ? 1 : 2 * r)
        row[n++] = r;
    if (n == 0 || !ask(row, n, phase, what, there))
        return false;
    for (int i = 0; i < n; i++)
        any = any || there[i];
    return any;
}

/* "ranks 3 (node7), 5 (node8) of 8 did not come"; false: all are there. */
static bool name_absent(int phase, int what, const char *how, char *text, size_t size)
{
    bool *marks = calloc((size_t)n_ranks, sizeof(*marks));
    int n = 0;
    if (marks != NULL && ask(NULL, n_ranks, phase, what, marks)) {
        for (int r = 0; r < n_ranks; r++)
            marks[r] = !marks[r];
        n = roll_names(marks, n_ranks, text, size);
        size_t at = strlen(text);
        snprintf(text + at, size - at, " of %d %s", n_ranks, how);
    }
    free(marks);
    return n > 0;
}

bool roll_late(int phase, char *text, size_t size)
{
    return opened && n_ranks > 1 && !another_tells(phase, COMES) && name_absent(phase, COMES, "did not come", text, size);
}

bool roll_absent(int phase, char *text, size_t size, bool *tells)
{
    *tells = true;
    if (!opened || n_ranks < 2)
        return false;
    if (another_tells(phase, WAITS)) {
        *tells = false;
        nanosleep(&(struct timespec){.tv_sec = 2 * WAIT_SECONDS}, NULL);
        return false;
    }
    return name_absent(phase, COMES, "did not come", text, size) || name_absent(phase, WAITS, "came and has not been heard of since", text, size);
}

/* " (HOST)" of a rank, or nothing where it is not known. */
static void host_of(int rank, char *text, size_t size)
{
    pmix_proc_t proc;
    pmix_value_t *value = NULL;
    pmix_info_t info;
    bool at_once = true; /* the launcher's own knowledge */
    text[0] = '\0';
    if (!opened)
        return;
    PMIX_LOAD_PROCID(&proc, self.nspace, (pmix_rank_t)rank);
    PMIX_INFO_LOAD(&info, PMIX_IMMEDIATE, &at_once, PMIX_BOOL);
    if (PMIx_Get(&proc, PMIX_HOSTNAME, &info, 1, &value) != PMIX_SUCCESS)
        return;
    if (value->type == PMIX_STRING)
        snprintf(text, size, " (%.64s)", value->data.string);
    PMIX_VALUE_RELEASE(value);
}

#else /* no PMIx where this was built: nobody is named */

void roll_open(void)
{
}

void roll_close(void)
{
}

void roll_come(int phase)
{
    (void)phase;
}

void roll_wait(int phase)
{
    (void)phase;
}

bool roll_late(int phase, char *text, size_t size)
{
    (void)phase;
    (void)text;
    (void)size;
    return false;
}

bool roll_absent(int phase, char *text, size_t size, bool *tells)
{
    *tells = true;
    return roll_late(phase, text, size);
}

static void host_of(int rank, char *text, size_t size)
{
    (void)rank;
    (void)size;
    text[0] = '\0';
}

#endif

int roll_names(const bool *marked, int n, char *text, size_t size)
{
    int count = 0, named = 0;
    for (int r = 0; r < n; r++)
        count += marked[r];
    size_t at = (size_t)snprintf(text, size, "rank%s", count > 1 ? "s" : "");
    for (int r = 0; r < n && named < MOST_NAMED; r++) {
        char host[80];
        if (!marked[r])
            continue;
        host_of(r, host, sizeof(host));
        at += (size_t)snprintf(text + at, size - at, "%s%d%s", named++ > 0 ? ", " : " ", r, host);
    }
    if (named < count)
        snprintf(text + at, size - at, " and %d more", count - named);
    return count;
}
