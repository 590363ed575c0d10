/* tests/comm/stop.c - preloaded into ranks: stops the one that TRIREME_STOP_RANK names for good as it calls the function of MPI that TRIREME_STOP_AT names, or "" as it
 * starts. */
#include <mpi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void stop_at(const char *function)
{
    const char *at = getenv("TRIREME_STOP_AT"), *which = getenv("TRIREME_STOP_RANK"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (at != NULL && which != NULL && rank != NULL && strcmp(at, function) == 0 && strcmp(which, rank) == 0)
        raise(SIGSTOP);
}

__attribute__((constructor)) static void start(void)
{
    stop_at("");
}

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided)
{
    stop_at("MPI_Init_thread");
    return PMPI_Init_thread(argc, argv, required, provided);
}

int MPI_Comm_idup(MPI_Comm comm, MPI_Comm *out, MPI_Request *request)
{
    stop_at("MPI_Comm_idup");
    return PMPI_Comm_idup(comm, out, request);
}

int MPI_Iallgather(const void *mine, int count, MPI_Datatype type, void *all, int all_count, MPI_Datatype all_type, MPI_Comm comm, MPI_Request *request)
{
    stop_at("MPI_Iallgather");
    return PMPI_Iallgather(mine, count, type, all, all_count, all_type, comm, request);
}
