/* tests/bench/bench_comm.c - what a synchronisation costs.
 *
 *   bench_comm [--ranks N] [--no-spin] [--idle SECONDS]        ranks as threads
 *   mpirun -n N bench_comm [--no-spin] [--idle SECONDS]        real ranks
 *
 * For each size: the median, p90 and mean time of an exchange (begin, write the partial, end, add the parts), of an exchange without the
 * arithmetic, of an all-reduce; then a message there and back; then the CPU time of a rank that waits idle for a message. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "comm/comm.h"

typedef struct options {
    int n_ranks;
    bool no_spin;
    double idle;
} options;

typedef struct rank_job {
    pthread_t thread;
    comm_world *world;
    const options *o;
    int failed;
} rank_job;

enum { MOST = 4000 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_row(const char *name, size_t bytes, double *t, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += t[i];
    qsort(t, (size_t)n, sizeof(*t), by_value);
    printf("%-10s %9zu B  median %9.2f  p90 %9.2f  mean %9.2f us\n", name, bytes, 1e6 * t[n / 2], 1e6 * t[n * 9 / 10], 1e6 * sum / n);
}

static status exchange(comm_group *g, size_t n, float *x, bool arithmetic)
{
    void *slot;
    const float *const *parts;
    int n_parts;
    TRY(comm_exchange_begin(g, n * sizeof(float), &slot));
    if (arithmetic)
        memcpy(slot, x, n * sizeof(float));
    TRY(comm_exchange_end(g, n * sizeof(float), &parts, &n_parts));
    for (int k = 0; k < n_parts && arithmetic; k++)
        for (size_t i = 0; i < n; i++)
            x[i] = k == 0 ? parts[0][i] * 0.5f : x[i] + parts[k][i] * 0.5f;
    return ST_OK;
}

static status measure(comm_world *w, comm_group *g, size_t bytes, double *t, float *x)
{
    static const char *const names[] = {"sync", "exchange", "all-reduce"};
    int n_rounds = bytes > 65536 ? 400 : MOST;
    for (int kind = 0; kind < 3; kind++) {
        TRY(comm_barrier(g));
        for (int i = 0; i < n_rounds; i++) {
            double begin = log_clock();
            TRY(kind == 2 ? comm_all_reduce(g, x, bytes / 4) : exchange(g, bytes / 4, x, kind == 1));
            t[i] = log_clock() - begin;
        }
        if (comm_world_rank(w) == 0)
            print_row(names[kind], bytes, t, n_rounds);
    }
    return ST_OK;
}

static status ping_pong(comm_world *w, size_t bytes, double *t, char *data)
{
    int me = comm_world_rank(w), n_rounds = bytes > 100000 ? 100 : 1000;
    comm_request *r;
    if (me > 1)
        return ST_OK;
    for (int i = 0; i < n_rounds; i++) {
        double begin = log_clock();
        for (int leg = 0; leg < 2; leg++) {
            TRY(leg == me ? comm_send(w, 1 - me, 1, data, bytes, &r) : comm_recv(w, 1 - me, 1, data, bytes, &r));
            TRY(comm_wait(w, &r, 10000, NULL));
        }
        t[i] = log_clock() - begin;
    }
    if (me == 0)
        print_row("there-back", bytes, t, n_rounds);
    return ST_OK;
}

static status idle(comm_world *w, double seconds)
{
    comm_request *r;
    struct timespec cpu0, cpu1, nap = {.tv_sec = (time_t)seconds, .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
    char byte = 0;
    int n = comm_world_size(w);
    if (comm_world_rank(w) == 0) {
        nanosleep(&nap, NULL);
        for (int i = 1; i < n; i++) {
            TRY(comm_send(w, i, 2, &byte, 1, &r));
            TRY(comm_wait(w, &r, 10000, NULL));
        }
        return ST_OK;
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu0);
    TRY(comm_recv(w, 0, 2, &byte, 1, &r));
    TRY(comm_wait(w, &r, -1, NULL));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu1);
    double used = (double)(cpu1.tv_sec - cpu0.tv_sec) + 1e-9 * (double)(cpu1.tv_nsec - cpu0.tv_nsec);
    printf("rank %d waiting idle: %.2f %% of a core\n", comm_world_rank(w), 100 * used / seconds);
    return ST_OK;
}

static status run(comm_world *w, const options *o)
{
    static const size_t sizes[] = {256, 2304, 8192, 65536, 1 << 20};
    int ranks[256], n = comm_world_size(w);
    double *t = calloc(MOST, sizeof(*t));
    float *x = calloc(1, sizes[ARRAY_LEN(sizes) - 1]);
    comm_group *g = NULL;
    if (t == NULL || x == NULL || n > 256)
        return FAIL(ST_NO_MEMORY, "bench: out of memory, or more than 256 ranks");
    for (int i = 0; i < n; i++)
        ranks[i] = i;
    if (o->no_spin)
        comm_world_set_spin(w, false);
    status st = comm_group_create(w, ranks, n, 1 << 20, 60000, &g);
    for (size_t i = 0; i < ARRAY_LEN(sizes) && st == ST_OK; i++)
        st = measure(w, g, sizes[i], t, x);
    for (size_t i = 0; i < ARRAY_LEN(sizes) && st == ST_OK && n > 1; i++)
        st = ping_pong(w, sizes[i], t, (char *)x);
    if (st == ST_OK && o->idle > 0 && n > 1)
        st = idle(w, o->idle);
    if (st == ST_OK)
        st = comm_barrier(g);
    comm_group_destroy(&g);
    free(t);
    free(x);
    return st;
}

static void *thread_main(void *arg)
{
    rank_job *j = arg;
    j->failed = run(j->world, j->o) != ST_OK;
    comm_world_destroy(&j->world);
    return NULL;
}

static int run_threads(const options *o)
{
    comm_world *worlds[64];
    rank_job jobs[64];
    int failed = 0;
    if (comm_world_threads(o->n_ranks, worlds) != ST_OK)
        return 1;
    for (int i = 0; i < o->n_ranks; i++) {
        jobs[i] = (rank_job){.world = worlds[i], .o = o};
        pthread_create(&jobs[i].thread, NULL, thread_main, &jobs[i]);
    }
    for (int i = 0; i < o->n_ranks; i++) {
        pthread_join(jobs[i].thread, NULL);
        failed |= jobs[i].failed;
    }
    return failed;
}

int main(int argc, char **argv)
{
    options o = {.n_ranks = 2};
    int launched, rank;
    comm_world *w;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-spin") == 0)
            o.no_spin = true;
        else if (strcmp(argv[i], "--ranks") == 0 && i + 1 < argc)
            o.n_ranks = atoi(argv[++i]);
        else if (strcmp(argv[i], "--idle") == 0 && i + 1 < argc)
            o.idle = atof(argv[++i]);
        else
            return fprintf(stderr, "usage: %s [--ranks N] [--no-spin] [--idle SECONDS]\n", argv[0]), 2;
    }
    if (o.n_ranks < 1 || o.n_ranks > 64)
        return 2;
    if (!comm_launched(&launched, &rank))
        return run_threads(&o);
    if (comm_world_mpi(&w) != ST_OK)
        return 1;
    int failed = run(w, &o) != ST_OK;
    comm_world_destroy(&w);
    return failed;
}
