/* comm/mpi/roll.h - who has come how far, told and asked beside MPI: so that a start-up that does not complete names the ranks that are absent, with their hosts.
 *
 * MPI cannot say it: MPI_Init and collectives wait for all, and a message that never came has no sender.  The launcher's PMIx server (of mpirun's daemons, of slurmd) can:
 * each rank leaves a mark there as it comes to a phase of the start-up, and whoever has waited too long asks for everybody's.  Built without PMIx, or started by a launcher
 * that has none or another release of it, nobody is named. */
#ifndef COMM_MPI_ROLL_H
#define COMM_MPI_ROLL_H

#include <stdbool.h>
#include <stddef.h>

enum { ROLL_INIT = 1 };    /* MPI_Init; each later phase one more */
enum { ROLL_TEXT = 1536 }; /* bytes that texts of this need at most */

/* Before MPI_Init; leaves the mark of ROLL_INIT.  roll_close: after MPI_Finalize. */
void roll_open(void);
void roll_close(void);
/* This rank has come to the phase; it still waits there, and half of the time is over.  Any thread. */
void roll_come(int phase);
void roll_wait(int phase);
/* For a warning on the way: "ranks 3 (node7), 5 (node8) of 8 did not come".  False: not known, all have come, or it is for another rank to say so: the first that has
 * come of 0, 1, 2, 4, 8...  Any thread, also while another is inside MPI_Init, as roll_absent; both take some seconds. */
bool roll_late(int phase, char *text, size_t size);
/* Time is up: as roll_late, or "rank 3 (node7) of 8 came and has not been heard of since"; false: not known.  *tells: it is for this rank to say so (where nothing is
 * known, for each); the one that does has had its time when the others return. */
bool roll_absent(int phase, char *text, size_t size, bool *tells);
/* "rank 3 (node7)", "ranks 3 (node7), 5 (node8)" of those marked among n; hosts where they are known.  Returns how many there are. */
int roll_names(const bool *marked, int n, char *text, size_t size);

#endif
