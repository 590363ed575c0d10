/* tests/comm/ranks.h - runs a case on every rank: threads of this process, or this process as one of mpirun's.
 *
 * A case returns 0, or prints what failed and returns 1: a failed assertion must not jump out of a rank's thread. */
#ifndef TESTS_COMM_RANKS_H
#define TESTS_COMM_RANKS_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "comm/comm.h"

#define CHECK(condition)                                                                                              \
    do {                                                                                                              \
        if (!(condition)) {                                                                                           \
            fprintf(stderr, "%s:%d: %s (last message: %s)\n", __FILE__, __LINE__, #condition, status_message());      \
            return 1;                                                                                                 \
        }                                                                                                             \
    } while (0)
#define CHECK_OK(expr) CHECK((expr) == ST_OK)

typedef int (*rank_case)(comm_world *w);

typedef struct rank_thread {
    pthread_t thread;
    rank_case run;
    comm_world *world;
    int failed;
} rank_thread;

static inline void *rank_main(void *arg)
{
    rank_thread *t = arg;
    t->failed = t->run(t->world);
    if (t->failed)
        comm_abort(t->world, "a rank's case failed");
    comm_world_destroy(&t->world);
    return NULL;
}

/* The number of ranks that failed. */
static inline int ranks_run_threads(int n, rank_case run)
{
    comm_world *worlds[64];
    rank_thread threads[64];
    int failed = 0;
    if (comm_world_threads(n, worlds) != ST_OK)
        return n;
    for (int i = 0; i < n; i++) {
        threads[i] = (rank_thread){.run = run, .world = worlds[i]};
        pthread_create(&threads[i].thread, NULL, rank_main, &threads[i]);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i].thread, NULL);
        failed += threads[i].failed;
    }
    return failed;
}

static inline void nap_us(unsigned us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

static inline unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

#endif
