/* coordinator/gateway/workers.h - a bounded pool of threads that runs the work of many actors.
 *
 * An actor is something with events of its own (a call): they are handled in the order they were posted, by one thread at a time, so that its state needs no
 * lock; different actors run side by side.  A thread handles a few events of one actor and then goes to the next, so that a busy stream
 * does not hold up the others.  Posting never waits.
 *
 * An actor's last event tells its end: after it the pool does not touch the actor again, so the handler may free it. */
#ifndef COORDINATOR_GATEWAY_WORKERS_H
#define COORDINATOR_GATEWAY_WORKERS_H

#include <pthread.h>
#include <stdbool.h>

#include "base/status.h"

/* Placed first in what is posted. */
typedef struct gateway_work {
    struct gateway_work *next;
} gateway_work;

/* Embedded in the actor; zeroed, then gateway_actor_init. */
typedef struct gateway_actor {
    pthread_mutex_t lock;
    gateway_work *first, *last;
    bool scheduled; /* in the pool's queue, or on a thread */
    struct gateway_actor *next;
} gateway_actor;
void gateway_actor_init(gateway_actor *a);
void gateway_actor_destroy(gateway_actor *a); /* nothing may be posted or running */

typedef struct gateway_workers gateway_workers;
/* Handles one event.  true: it was the last, and the actor may be gone already. */
typedef bool (*gateway_work_fn)(void *arg, gateway_actor *actor, gateway_work *work);
status gateway_workers_create(int n_threads, gateway_work_fn fn, void *arg, gateway_workers **out); /* 0: as many as cores, 2 to 8 */
/* Handles all that was posted, then ends the threads. */
void gateway_workers_destroy(gateway_workers **w);
void gateway_workers_post(gateway_workers *w, gateway_actor *actor, gateway_work *work);

#endif
