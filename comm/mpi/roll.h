/* comm/mpi/roll.h - who has come how far, told and asked beside MPI: so that a start-up that does not complete names the ranks that are absent.
 *
 * MPI cannot say it: MPI_Init and collectives wait for all, and a message that never came has no sender.  The launcher's PMIx server can: each rank leaves a mark
 * there as it comes to a phase of the start-up, and whoever has waited too long asks for everybody's.  Built without PMIx, or started by a launcher
 * that has none, nobody is named. */
#ifndef COMM_MPI_ROLL_H
#define COMM_MPI_ROLL_H

#include <stdbool.h>
#include <stddef.h>

enum { ROLL_INIT = 1 }; /* MPI_Init; each later phase one more */

/* Before MPI_Init; leaves the mark of ROLL_INIT. */
void roll_open(void);
void roll_close(void);
/* This rank has come to the phase; it still waits there, and half of the time is over.  Any thread. */
void roll_come(int phase);
void roll_wait(int phase);
/* Time is up: asks for all ranks' marks.  Puts "ranks 3, 5 of 8 did not come" or "rank 3 of 8 came and has not been heard of since" into text; false: not known.  Any
 * thread, also while another is inside MPI_Init; takes some seconds.  *tells: of those that are there this is the rank of lowest number, whose part it is to say so (where
 * nothing is known, each is); it has had its time when the others return. */
bool roll_absent(int phase, char *text, size_t size, bool *tells);

#endif
