#include "comm/mpi/roll.h"

#ifdef COMM_PMIX
#include <pmix.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ASK_SECONDS 1  /* the server answers for a rank that has come at once, and for others not before */
#define WAIT_SECONDS 3 /* for all the answers together */
#define TELLERS 4      /* ranks that may tell: enough that one of them is there, few enough for the servers */

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

void roll_open(void)
{
    pmix_proc_t all;
    pmix_value_t *size = NULL;
    if (getenv("PMIX_NAMESPACE") == NULL || PMIx_Init(&self, NULL, 0) != PMIX_SUCCESS)
        return;
    opened = true;
    PMIX_LOAD_PROCID(&all, self.nspace, PMIX_RANK_WILDCARD);
    if (PMIx_Get(&all, PMIX_JOB_SIZE, NULL, 0, &size) == PMIX_SUCCESS && size->type == PMIX_UINT32)
        n_ranks = (int)size->data.uint32;
    if (size != NULL)
        PMIX_VALUE_RELEASE(size);
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

/* Answers come on PMIx's own thread, perhaps after the asker has gone: so this is never freed, and the process ends soon anyway. */
typedef struct inquiry {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int left;
    struct answer {
        struct inquiry *of;
        bool there;
    } answers[];
} inquiry;

static void answered(pmix_status_t code, pmix_value_t *value, void *arg)
{
    struct answer *a = arg;
    (void)value; /* the library's */
    pthread_mutex_lock(&a->of->mutex);
    a->there = code == PMIX_SUCCESS;
    if (--a->of->left == 0)
        pthread_cond_signal(&a->of->cond);
    pthread_mutex_unlock(&a->of->mutex);
}

/* Asks for the ranks' marks: [begin, end).  NULL: out of memory. */
static inquiry *ask(int phase, int what, int begin, int end)
{
    pmix_key_t key;
    int seconds = ASK_SECONDS;
    inquiry *q = calloc(1, sizeof(*q) + (size_t)end * sizeof(q->answers[0]));
    pmix_info_t *info = calloc(2, sizeof(*info)); /* outlives the call, like the inquiry */
    if (q == NULL || info == NULL) {
        free(q);
        free(info);
        return NULL;
    }
    bool yes = true;
    PMIX_INFO_LOAD(&info[0], PMIX_TIMEOUT, &seconds, PMIX_INT);
    PMIX_INFO_LOAD(&info[1], PMIX_GET_REFRESH_CACHE, &yes, PMIX_BOOL); /* what MPI_Init exchanged is older than later phases' marks */
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->cond, &attr);
    pthread_condattr_destroy(&attr);
    key_of(phase, what, key);
    q->left = end - begin;
    for (int r = begin; r < end; r++) {
        pmix_proc_t p;
        q->answers[r].of = q;
        PMIX_LOAD_PROCID(&p, self.nspace, (pmix_rank_t)r);
        if (r == (int)self.rank || PMIx_Get_nb(&p, key, info, phase == ROLL_INIT ? 1 : 2, answered, &q->answers[r]) != PMIX_SUCCESS)
            answered(r == (int)self.rank ? PMIX_SUCCESS : PMIX_ERROR, NULL, &q->answers[r]);
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_SECONDS;
    pthread_mutex_lock(&q->mutex);
    int error = 0;
    while (q->left > 0 && error == 0)
        error = pthread_cond_timedwait(&q->cond, &q->mutex, &until);
    pthread_mutex_unlock(&q->mutex);
    return q;
}

/* "ranks 3, 5 of 8" whose mark is not there; false: all are. */
static bool name_absent(const inquiry *q, char *text, size_t size, size_t *at)
{
    int n = 0, named = 0;
    for (int r = 0; q != NULL && r < n_ranks; r++)
        n += !q->answers[r].there;
    if (n == 0)
        return false;
    *at = (size_t)snprintf(text, size, "rank%s", n > 1 ? "s" : "");
    for (int r = 0; r < n_ranks && *at + 100 < size; r++) { /* room for one more and for the end */
        if (!q->answers[r].there)
            *at += (size_t)snprintf(text + *at, size - *at, "%s%d", named++ > 0 ? ", " : " ", r);
    }
    if (named < n)
        *at += (size_t)snprintf(text + *at, size - *at, " and %d more", n - named);
    *at += (size_t)snprintf(text + *at, size - *at, " of %d", n_ranks);
    return true;
}

static void let_another_tell(void)
{
    struct timespec t = {.tv_sec = 2 * WAIT_SECONDS};
    nanosleep(&t, NULL);
}

/* Mostly rank 0 is there, and the others need not look further. */
static bool lower_rank_is_there(int phase)
{
    for (int r = 0; r < (int)self.rank && r < TELLERS; r++) {
        inquiry *q = ask(phase, WAITS, r, r + 1);
        if (q == NULL || q->answers[r].there)
            return true;
    }
    return self.rank >= TELLERS;
}

bool roll_absent(int phase, char *text, size_t size, bool *tells)
{
    size_t at = 0;
    *tells = true;
    if (!opened || n_ranks < 2)
        return false;
    if (lower_rank_is_there(phase)) {
        *tells = false;
        let_another_tell();
        return false;
    }
    if (name_absent(ask(phase, COMES, 0, n_ranks), text, size, &at)) {
        snprintf(text + at, size - at, " did not come");
        return true;
    }
    if (!name_absent(ask(phase, WAITS, 0, n_ranks), text, size, &at))
        return false;
    snprintf(text + at, size - at, " came and has not been heard of since");
    return true;
}

#else

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

bool roll_absent(int phase, char *text, size_t size, bool *tells)
{
    (void)phase;
    (void)text;
    (void)size;
    *tells = true;
    return false;
}

#endif
