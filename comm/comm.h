/* comm/comm.h - groups of ranks and the collectives between them.
 *
 * A backend is chosen once at start-up: `local` (ranks as threads of one process, or processes of one host over
 * shared memory: one implementation) or `mpi` (comm_mpi.so, loaded with dlopen: bootstrap, and the wire between
 * hosts; inside a host it uses the same shared-memory code).  Groups whose ranks compute on devices may exchange
 * in their memory: comm/device.h.
 *
 * Sums are f32 in one order fixed by the plan, whatever the size or algorithm: inside a host in rank order, then
 * across hosts in host order.  No call waits for ever: each has the group's deadline, after which it fails with
 * ST_TIMEOUT naming the ranks that did not come; comm_abort makes every pending and later call of every rank of
 * the world fail with ST_ABORTED soon.  A collective that fails, and a rank that dies, abort the world: the cause is logged
 * once, by who noticed first, and is every other rank's status_message().  One thread per rank calls
 * (MPI_THREAD_FUNNELED); comm_abort alone may be called by any. */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct comm_world comm_world; /* this rank's membership of the job */
typedef struct comm_group comm_group; /* some ranks, in a fixed order */
typedef struct comm_request comm_request; /* a pending send or receive */

/* Whether this process was started as one rank of several (mpirun, srun) and how many, from the environment alone. */
bool comm_launched(int *n_ranks, int *rank);

/* World of one rank, no MPI. */
status comm_world_single(comm_world **out);
/* Loads comm_mpi.so (beside the program, in ../lib/trireme, or TRIREME_PLUGIN_DIR), calls MPI_Init.  Ranks that have not come after timeout_ms (0: two minutes) are named:
 * ST_TIMEOUT, or ST_PEER where rank 0 is one of them and this rank the one to say so; a process that hangs in MPI_Init can only be ended, which is done with the same message. */
status comm_world_mpi(int timeout_ms, comm_world **out);
/* n ranks as threads of this process, for tests: out[n]. */
status comm_world_threads(int n, comm_world **out);
/* Leaves the job; ranks over MPI wait here for each other (at most two minutes).  After an abort nobody waits: end the process then
 * with a non-zero code, and the launcher ends what is left. */
void comm_world_destroy(comm_world **world);

int comm_world_rank(const comm_world *w);
int comm_world_size(const comm_world *w);
/* Ranks on this host, and this rank's place among them (for dividing cores and memory). */
int comm_world_host_size(const comm_world *w);
int comm_world_host_rank(const comm_world *w);
/* The same number for ranks of one host (they see the same kernel, host name and /dev/shm); numbered from 0 in rank order. */
int comm_world_host(const comm_world *w, int rank);

/* "Open MPI v4.1.4"; "" for ranks that are threads, or one alone. */
const char *comm_world_library(const comm_world *w);

/* Makes every rank's pending and later calls fail.  `why` is logged once by the first caller, and reaches the others (on other hosts when
 * the rank's own thread next calls). */
void comm_abort(comm_world *w, const char *why);

/* Ends a start-up phase: every rank brings its status and last message; all get the same result: ST_OK if all had it, else the
 * failing rank of lowest number's status, its message as status_message() on every rank, *failed_rank set. Waits at most timeout_ms for
 * ranks that do not come: ST_TIMEOUT naming them.  Nothing is logged: the caller reports once (rank 0). */
status comm_agree(comm_world *w, status mine, int timeout_ms, int *failed_rank);

/* A group of the world's ranks ranks[0..n), the same list on every member; collective over the members.
 * exchange_bytes: largest exchange slot; timeout_ms: deadline of each call. */
status comm_group_create(comm_world *w, const int *ranks, int n, size_t exchange_bytes, int timeout_ms, comm_group **out);
/* The same with common_bytes of memory more that all members see and write wherever they have agreed to, if all are on one host: comm_group_common. */
status comm_group_create_common(comm_world *w, const int *ranks, int n, size_t exchange_bytes, size_t common_bytes, int timeout_ms, comm_group **out);
void comm_group_destroy(comm_group **group);
int comm_group_size(const comm_group *g);
int comm_group_rank(const comm_group *g); /* my index in the list */
/* Page-aligned, zero at first, in the memory of comm_exchange_memory; NULL: none was asked for, or the members are on several hosts.  What a member writes there others
 * may read once both have been to a barrier. */
void *comm_group_common(const comm_group *g);

/* Zero-copy sum: exchange_begin gives this rank's slot (64-byte aligned, at least `bytes`); the caller writes its partial there;
 * exchange_end waits for the others and gives n_parts pointers to f32 partials, to be added in that order: one for each member where all
 * share a host, one already reduced buffer otherwise.  They stay valid until this rank's next collective in the group ends (slots alternate:
 * the next partial may be written while these are read), so a sum needs one synchronisation.  In a group of one rank end gives the slot itself. */
status comm_exchange_begin(comm_group *g, size_t bytes, void **slot);
status comm_exchange_end(comm_group *g, size_t bytes, const float *const **parts, int *n_parts);
/* The memory in which all slots and parts lie, one mapping for the group's life, page-aligned: for a device that must be told of it. */
void comm_exchange_memory(const comm_group *g, void **base, size_t *bytes);

/* In place, f32, the group's order.  Any size. */
status comm_all_reduce(comm_group *g, float *data, size_t n);
/* Uneven: rank i contributes bytes[i] from mine; all gets them one after the other in group order. */
status comm_all_gather(comm_group *g, const void *mine, const size_t *bytes, void *all);
status comm_all_gather_equal(comm_group *g, const void *mine, size_t bytes, void *all); /* each member has as many */
status comm_broadcast(comm_group *g, int root, void *data, size_t bytes);
status comm_barrier(comm_group *g);

/* Point to point between world ranks.  The buffer stays the caller's until comm_wait/comm_test says done.  Messages of one (from, to, tag)
 * arrive in order.  A receive names the most it takes and learns what came.  Nobody blocks in a send. */
status comm_send(comm_world *w, int to, int tag, const void *data, size_t bytes, comm_request **out);
status comm_recv(comm_world *w, int from, int tag, void *data, size_t max_bytes, comm_request **out);
/* done: freed and *req = NULL. got may be NULL. */
status comm_test(comm_world *w, comm_request **req, bool *done, size_t *got);
/* Waits at most timeout_ms (-1: only abort ends it; back-off, no busy core when idle).  On ST_TIMEOUT the request is still pending; nothing
 * is logged.  On any other failure it is gone. */
status comm_wait(comm_world *w, comm_request **req, int timeout_ms, size_t *got);

/* The same for who has lent its core meanwhile: it does not spin, but yields at first, then sleeps. */
status comm_wait_lending(comm_world *w, comm_request **req, int timeout_ms, size_t *got);

/* Seconds this rank has spent waiting in collectives, and bytes moved, since the group was made. */
typedef struct comm_stats {
    double wait_seconds;
    uint64_t calls, bytes;
} comm_stats;
void comm_group_stats(const comm_group *g, comm_stats *out);

/* What this rank is at, as its owner encodes it, for a watchdog: one store into the host's shared block.  comm_note_of may be called by any thread; false: that
 * rank is on another host. */
void comm_note(comm_world *w, uint64_t note);
bool comm_note_of(const comm_world *w, int rank, uint64_t *note);

/* Sleep-friendly waiting: spinning is off when ranks x threads exceed the cores granted. */
void comm_world_set_spin(comm_world *w, bool spin);

#endif
