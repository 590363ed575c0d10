/* base/threads.h - a persistent pool: the same threads run every parallel region of a step.
 *
 * The caller is thread 0; n - 1 helpers are pinned to the cores this process was granted and sleep on a
 * futex between steps.  Between threads_step_begin and threads_step_end they spin (with a pause) for the
 * next region, so that a region costs well under a microsecond to enter; outside they block.  When more
 * threads than cores were granted spinning is off throughout.
 *
 * Cores of other processes, which wait while this one computes, may be lent to it: further helpers, one on each, that take
 * part in the regions of such steps alone, and otherwise sleep whatever runs. */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct threads_pool threads_pool;

typedef struct threads_options {
    int n_threads;  /* 0: as many as cores granted */
    bool spin;      /* inside a step */
    int first_core; /* index into the granted cores where pinning starts, -1 pins nothing */
    const int *lent_cores; /* [n_lent] by the system's numbers; borrowed */
    int n_lent;
} threads_options;
status threads_create(const threads_options *options, threads_pool **out);
void threads_destroy(threads_pool **pool);
int threads_count(const threads_pool *pool); /* of the step, or outside of one: without those on lent cores */

/* Runs fn(arg, i, n) on every thread i of n and returns when all have ended.  Not reentrant; one caller. */
typedef void (*threads_fn)(void *arg, int thread, int n_threads);
void threads_run(threads_pool *pool, threads_fn fn, void *arg);

/* Inside a region: waits until all its threads have come here (reusable). */
void threads_barrier(threads_pool *pool);

/* lent: threads on lent cores take part.  When a step has ended they leave those cores at once. */
void threads_step_begin(threads_pool *pool, bool lent);
void threads_step_end(threads_pool *pool);

/* Thread i's share of n items in units of `unit`: [*begin, *end), even to within one unit. */
void threads_share(size_t n_items, size_t unit, int thread, int n_threads, size_t *begin, size_t *end);

/* Cores this process may run on (affinity and cgroup quota). */
int threads_cores_granted(void);

#endif
