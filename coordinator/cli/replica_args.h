/* coordinator/cli/replica_args.h - the options of every command that runs a checkpoint, and the life of its replica.
 *
 * Commands give cli_replica_argp to argp as a child.  Under mpirun or srun every rank runs the same command: cli_replica_start brings the
 * world and the replica up on all of them, ranks other than 0 then serve inside cli_replica_start and return with `done`. */
#ifndef COORDINATOR_CLI_REPLICA_ARGS_H
#define COORDINATOR_CLI_REPLICA_ARGS_H

#include <argp.h>

#include "coordinator/replica.h"

typedef struct cli_replica_args {
    coord_replica_options options;
    double *rank_weights; /* as given, options.rank_weights points here */
    int n_rank_weights;
    bool kv_given;
} cli_replica_args;

extern const struct argp cli_replica_argp; /* its input is a cli_replica_args * */

typedef struct cli_replica {
    comm_world *world;
    coord_replica *replica;
    coord_rank_report *reports; /* [n_ranks], rank 0 */
    int rank, n_ranks;
} cli_replica;

/* The job this process belongs to: MPI's, or itself alone.  timeout_ms: as comm_world_mpi takes it. */
status cli_world_create(int timeout_ms, comm_world **out);

/* *done: this process has nothing more to do, and *exit_code is its exit code (a rank that served, or a failure, reported). */
void cli_replica_start(cli_replica_args *args, cli_replica *out, bool *done, int *exit_code);
/* Rank 0: stops the other ranks and cleans up.  st: how the run went; returns the exit code. */
int cli_replica_finish(cli_replica *r, status st);

#endif
