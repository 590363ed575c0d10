/* shard/jobs.h - many independent pieces of work over a few threads, the first failure ending all. */
#ifndef SHARD_JOBS_H
#define SHARD_JOBS_H

#include <stddef.h>

#include "base/status.h"

/* Runs fn(arg, i) for every i in [0, n), in no order; n_threads 0 = the cores granted.  The first failure stops the rest from starting; it is
 * reported once, by the caller's thread. */
status shard_jobs_run(int n_threads, size_t n, status (*fn)(void *arg, size_t i), void *arg);

#endif
