#include "shard/jobs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/threads.h"

enum { MAX_THREADS = 64 };

typedef struct jobs {
    status (*fn)(void *arg, size_t i);
    void *arg;
    size_t n;
    _Atomic size_t next;
    _Atomic int failed;
    pthread_mutex_t lock;
    status st;
    char message[1024];
} jobs;

static void *work(void *arg)
{
    jobs *j = arg;
    size_t i;
    status_mute(); /* the caller reports the first failure, once */
    while (!atomic_load(&j->failed) && (i = atomic_fetch_add(&j->next, 1)) < j->n) {
        status st = j->fn(j->arg, i);
        if (st == ST_OK)
            continue;
        pthread_mutex_lock(&j->lock);
        if (!atomic_exchange(&j->failed, 1)) {
            j->st = st;
            snprintf(j->message, sizeof(j->message), "%s", status_message());
        }
        pthread_mutex_unlock(&j->lock);
    }
    status_unmute();
    return NULL;
}

status shard_jobs_run(int n_threads, size_t n, status (*fn)(void *arg, size_t i), void *arg)
{
    jobs j = {.fn = fn, .arg = arg, .n = n};
    pthread_t threads[MAX_THREADS];
    int want = n_threads > 0 ? n_threads : threads_cores_granted(), started = 0;
    want = want > MAX_THREADS ? MAX_THREADS : want;
    want = (size_t)want > n ? (int)n : want;
    pthread_mutex_init(&j.lock, NULL);
    while (started < want - 1 && pthread_create(&threads[started], NULL, work, &j) == 0)
        started++;
    work(&j); /* a thread that could not be started only makes it slower */
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&j.lock);
    return j.st == ST_OK ? ST_OK : FAIL(j.st, "%s", j.message);
}
