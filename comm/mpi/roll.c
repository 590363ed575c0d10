#include "comm/mpi/roll.h"

#include <stdio.h>
#include <string.h>

#ifdef WITH_PMIX

#include <pmix.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define MARK "trireme.here"
#define MOST_NAMED 16

static bool opened;
static pmix_proc_t me;
static int n_ranks;

/* Answers may come after the one who asked has gone: the last of them frees it. */
typedef struct roll_question {
    atomic_int pending; /* answers under way, and the asker */
    atomic_uchar *here; /* [n] */
    pmix_info_t info;   /* the library keeps its address */
    struct roll_place {
        struct roll_question *question;
        int i;
    } *places;
} roll_question;

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
    PMIX_LOAD_PROCID(&job, me.nspace, PMIX_RANK_WILDCARD);
    if (PMIx_Get(&job, PMIX_JOB_SIZE, NULL, 0, &value) != PMIX_SUCCESS)
        return 0;
    int n = value->type == PMIX_UINT32 && value->data.uint32 < 1u << 24 ? (int)value->data.uint32 : 0;
    PMIX_VALUE_RELEASE(value);
    return n;
}

void roll_open(void)
{
    if (!same_release() || PMIx_Init(&me, NULL, 0) != PMIX_SUCCESS)
        return;
    pmix_value_t mark = {.type = PMIX_BOOL, .data.flag = true};
    opened = PMIx_Put(PMIX_GLOBAL, MARK, &mark) == PMIX_SUCCESS && PMIx_Commit() == PMIX_SUCCESS;
    n_ranks = opened ? job_size() : 0;
}

void roll_close(void)
{
    if (opened)
        PMIx_Finalize(NULL, 0);
    opened = false;
}

static void question_drop(roll_question *q, int n)
{
    if (atomic_fetch_sub(&q->pending, n) > n)
        return;
    free(q->here);
    free(q->places);
    free(q);
}

static void on_answer(pmix_status_t st, pmix_value_t *value, void *arg)
{
    (void)value;
    struct roll_place *p = arg;
    atomic_store(&p->question->here[p->i], st == PMIX_SUCCESS);
    question_drop(p->question, 1);
}

static roll_question *question_make(int n)
{
    roll_question *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return NULL;
    q->here = calloc((size_t)n, sizeof(*q->here));
    q->places = calloc((size_t)n, sizeof(*q->places));
    atomic_store(&q->pending, n + 1);
    if (q->here == NULL || q->places == NULL) {
        question_drop(q, n + 1);
        return NULL;
    }
    return q;
}

/* Asks for the marks of n ranks; the caller drops *q.  Waits until all have answered, or for timeout_ms. */
static roll_question *ask(const int *ranks, int n, int timeout_ms)
{
    roll_question *q = question_make(n);
    int seconds = timeout_ms / 1000 + 1;
    if (q == NULL)
        return NULL;
    PMIX_INFO_LOAD(&q->info, PMIX_TIMEOUT, &seconds, PMIX_INT);
    for (int i = 0; i < n; i++) {
        pmix_proc_t rank;
        PMIX_LOAD_PROCID(&rank, me.nspace, (pmix_rank_t)ranks[i]);
        q->places[i] = (struct roll_place){q, i};
        if (PMIx_Get_nb(&rank, MARK, &q->info, 1, on_answer, &q->places[i]) != PMIX_SUCCESS)
            question_drop(q, 1);
    }
    for (int waited = 0; waited < timeout_ms && atomic_load(&q->pending) > 1; waited += 10) {
        const struct timespec t = {.tv_nsec = 10000000};
        nanosleep(&t, NULL);
    }
    return q;
}

/* Whether it is this rank's turn: it is 0 or a power of two, and none of those below has come. */
static bool my_turn(int timeout_ms)
{
    int below[32], n = 0, rank = (int)me.rank;
    if ((rank & (rank - 1)) != 0)
        return false;
    for (int r = 0; r < rank; r = r == 0 ? 1 : 2 * r)
        below[n++] = r;
    if (n == 0)
        return true;
    roll_question *q = ask(below, n, timeout_ms);
    bool mine = q != NULL;
    for (int i = 0; mine && i < n; i++)
        mine = !atomic_load(&q->here[i]);
    if (q != NULL)
        question_drop(q, 1);
    return mine;
}

void roll_host(int rank, char *text, size_t size)
{
    pmix_proc_t proc;
    pmix_value_t *value = NULL;
    text[0] = '\0';
    if (!opened)
        return;
    PMIX_LOAD_PROCID(&proc, me.nspace, (pmix_rank_t)rank);
    pmix_info_t info;
    bool at_once = true; /* the launcher's own knowledge */
    PMIX_INFO_LOAD(&info, PMIX_IMMEDIATE, &at_once, PMIX_BOOL);
    if (PMIx_Get(&proc, PMIX_HOSTNAME, &info, 1, &value) != PMIX_SUCCESS)
        return;
    if (value->type == PMIX_STRING)
        snprintf(text, size, " (%s)", value->data.string);
    PMIX_VALUE_RELEASE(value);
}

static bool name_absent(const roll_question *q, char *text, size_t size)
{
    size_t at = 0;
    int n = 0;
    for (int r = 0; r < n_ranks; r++) {
        if (atomic_load(&q->here[r]) || r == (int)me.rank || n++ >= MOST_NAMED)
            continue;
        char host[256];
        roll_host(r, host, sizeof(host));
        int k = snprintf(text + at, size - at, "%srank %d%s", n > 1 ? ", " : "", r, host);
        at = k > 0 && (size_t)k < size - at ? at + (size_t)k : at;
    }
    if (n > MOST_NAMED)
        snprintf(text + at, size - at, " and %d more", n - MOST_NAMED);
    return n > 0;
}

bool roll_call(int timeout_ms, char *text, size_t size)
{
    text[0] = '\0';
    if (!opened || n_ranks < 2 || !my_turn(timeout_ms / 2))
        return false;
    int *all = calloc((size_t)n_ranks, sizeof(*all));
    if (all == NULL)
        return false;
    for (int r = 0; r < n_ranks; r++)
        all[r] = r;
    roll_question *q = ask(all, n_ranks, timeout_ms / 2);
    bool any = q != NULL && name_absent(q, text, size);
    if (q != NULL)
        question_drop(q, 1);
    free(all);
    return any;
}

#else /* no PMIx where this was built: nobody is named */

void roll_open(void)
{
}

bool roll_call(int timeout_ms, char *text, size_t size)
{
    (void)timeout_ms;
    (void)size;
    text[0] = '\0';
    return false;
}

void roll_host(int rank, char *text, size_t size)
{
    (void)rank;
    (void)size;
    text[0] = '\0';
}

void roll_close(void)
{
}

#endif
