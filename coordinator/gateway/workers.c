#include "coordinator/gateway/workers.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

enum { EVENTS_AT_ONCE = 16 }; /* of one actor before others have their turn */

struct gateway_workers {
    gateway_work_fn fn;
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    gateway_actor *first, *last; /* actors with work, each once */
    int n_idle;
    bool stopping;
    int n_threads;
    pthread_t threads[];
};

void gateway_actor_init(gateway_actor *a)
{
    pthread_mutex_init(&a->lock, NULL);
}

void gateway_actor_destroy(gateway_actor *a)
{
    pthread_mutex_destroy(&a->lock);
}

static void enqueue(gateway_workers *w, gateway_actor *a)
{
    pthread_mutex_lock(&w->lock);
    a->next = NULL;
    *(w->last != NULL ? &w->last->next : &w->first) = a;
    w->last = a;
    bool wake = w->n_idle > 0;
    pthread_mutex_unlock(&w->lock);
    if (wake)
        pthread_cond_signal(&w->wake);
}

/* NULL: the pool stops and nothing is left. */
static gateway_actor *dequeue(gateway_workers *w)
{
    pthread_mutex_lock(&w->lock);
    while (w->first == NULL && !w->stopping) {
        w->n_idle++;
        pthread_cond_wait(&w->wake, &w->lock);
        w->n_idle--;
    }
    gateway_actor *a = w->first;
    if (a != NULL) {
        w->first = a->next;
        if (w->first == NULL)
            w->last = NULL;
    }
    pthread_mutex_unlock(&w->lock);
    return a;
}

void gateway_workers_post(gateway_workers *w, gateway_actor *actor, gateway_work *work)
{
    work->next = NULL;
    pthread_mutex_lock(&actor->lock);
    *(actor->last != NULL ? &actor->last->next : &actor->first) = work;
    actor->last = work;
    bool schedule = !actor->scheduled;
    actor->scheduled = true;
    pthread_mutex_unlock(&actor->lock);
    if (schedule)
        enqueue(w, actor);
}

/* NULL: nothing is left, and the actor is no longer scheduled. */
static gateway_work *take_work(gateway_actor *a)
{
    pthread_mutex_lock(&a->lock);
    gateway_work *work = a->first;
    if (work != NULL) {
        a->first = work->next;
        if (a->first == NULL)
            a->last = NULL;
    } else {
        a->scheduled = false;
    }
    pthread_mutex_unlock(&a->lock);
    return work;
}

static void *work_loop(void *arg)
{
    gateway_workers *w = arg;
    gateway_actor *a;
    while ((a = dequeue(w)) != NULL) {
        bool gone = false, empty = false;
        for (int i = 0; i < EVENTS_AT_ONCE && !gone && !empty; i++) {
            gateway_work *work = take_work(a);
            if (work == NULL)
                empty = true;
            else
                gone = w->fn(w->arg, a, work);
        }
        if (!gone && !empty)
            enqueue(w, a);
    }
    return NULL;
}

status gateway_workers_create(int n_threads, gateway_work_fn fn, void *arg, gateway_workers **out)
{
    if (n_threads <= 0) {
        n_threads = threads_cores_granted();
        n_threads = n_threads < 2 ? 2 : n_threads > 8 ? 8 : n_threads;
    }
    gateway_workers *w = calloc(1, sizeof(*w) + (size_t)n_threads * sizeof(pthread_t));
    if (w == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for %d workers", n_threads);
    w->fn = fn;
    w->arg = arg;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    for (; w->n_threads < n_threads; w->n_threads++) {
        int err = pthread_create(&w->threads[w->n_threads], NULL, work_loop, w);
        if (err != 0) {
            gateway_workers_destroy(&w);
            return FAIL(ST_LIMIT, "cannot start a worker thread: %s", strerror(err));
        }
    }
    *out = w;
    return ST_OK;
}

void gateway_workers_destroy(gateway_workers **workers)
{
    gateway_workers *w = *workers;
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_mutex_unlock(&w->lock);
    pthread_cond_broadcast(&w->wake);
    for (int i = 0; i < w->n_threads; i++)
        pthread_join(w->threads[i], NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    free(w);
    *workers = NULL;
}
