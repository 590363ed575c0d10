/* tests/comm/victim.c - a job in which rank 2 comes to grief; test_death.c runs it under mpirun and looks at how it ends.
 *
 *   victim collective|message|agree|start|hang|leave       exit code 0: it ended well (which it must not), 1: it was told of the failure */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "comm/comm.h"

#define VICTIM 2

static void nap(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&t, NULL);
}

static void die(const char *mode)
{
    if (strcmp(mode, "hang") == 0)
        nap(30);
    else if (strcmp(mode, "leave") == 0)
        _exit(0);
    else
        raise(SIGKILL);
}

static status work(comm_world *w, const char *mode)
{
    int ranks[64], me = comm_world_rank(w);
    comm_group *g;
    comm_request *r;
    float x[500] = {0};
    char byte = 0;
    for (int i = 0; i < comm_world_size(w); i++)
        ranks[i] = i;
    if (strcmp(mode, "agree") == 0) {
        if (me == VICTIM)
            die(mode);
        return comm_agree(w, ST_OK, 20000, NULL);
    }
    TRY(comm_group_create(w, ranks, comm_world_size(w), 4096, strcmp(mode, "hang") == 0 ? 1500 : 60000, &g));
    for (int i = 0; i < 100; i++)
        TRY(comm_all_reduce(g, x, 500));
    if (me == VICTIM)
        die(mode);
    if (strcmp(mode, "message") == 0) {
        TRY(comm_recv(w, VICTIM, 1, &byte, 1, &r));
        return comm_wait(w, &r, -1, NULL);
    }
    return comm_all_reduce(g, x, 500);
}

int main(int argc, char **argv)
{
    comm_world *w;
    int n, rank;
    const char *mode = argc > 1 ? argv[1] : "collective";
    if (comm_launched(&n, &rank) && rank == VICTIM && strcmp(mode, "start") == 0)
        raise(SIGKILL);
    if (comm_world_mpi(getenv("TRIREME_STOP_AT") != NULL ? 1500 : 0, &w) != ST_OK)
        return 1;
    status st = work(w, mode);
    fprintf(stderr, "rank %d: %s: %s\n", rank, status_text(st), status_message());
    comm_world_destroy(&w);
    return st == ST_OK ? 0 : 1;
}
