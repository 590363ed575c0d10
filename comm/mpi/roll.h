/* comm/mpi/roll.h - who of the job has come, at a time when MPI cannot say.
 *
 * MPI_Init waits for all ranks without naming those it waits for.  So each rank first leaves a mark with its launcher (mpirun's daemons or slurmd, over
 * PMIx); a rank that waits too long asks the launcher for all marks and names the ranks that left none, with their hosts.  Without PMIx, or under a
 * launcher of another version, nobody is named. */
#ifndef COMM_MPI_ROLL_H
#define COMM_MPI_ROLL_H

#include <stdbool.h>
#include <stddef.h>

/* Before MPI_Init: leaves this rank's mark. */
void roll_open(void);
/* Names the ranks that left none, "rank 2 (node7), rank 3 (node7)": asks for timeout_ms at most.  False: unknown, all are there, or it is for another rank
 * to tell (the first that has come of 0, 1, 2, 4, 8...).  Any thread's. */
bool roll_call(int timeout_ms, char *text, size_t size);
/* " (HOST)" of a rank, or nothing where it is not known. */
void roll_host(int rank, char *text, size_t size);
/* After MPI_Finalize. */
void roll_close(void);

#endif
