/* coordinator/links.h - what is between the ranks: clocks, and how fast bytes go from one to another.
 *
 * Everything goes as it does in steps: messages and sums of comm.h in the host's memory (what GPUs have between them `trireme bench comm` measures). */
#ifndef COORDINATOR_LINKS_H
#define COORDINATOR_LINKS_H

#include <stdbool.h>

#include "base/status.h"
#include "comm/comm.h"

/* Rank 0's clocks against this rank's: mine + offset = rank 0's, right to within `error`.  The exchange of least delay of some tells (as in RFC 5905). */
typedef struct links_clock {
    double monotonic_offset, real_offset, error; /* seconds; of log_clock, and of the time of day */
} links_clock;
/* Collective over the world; rank 0 answers the others one after the other.  ST_TIMEOUT names who did not answer. */
status links_clock_measure(comm_world *w, int timeout_ms, links_clock *out);

/* Two ranks, what a message takes from one to the other, and how many bytes a second go. */
typedef struct links_pair {
    int a, b, slot; /* pairs of one slot are measured at once: none shares a rank, nor the way between two hosts */
    double seconds, bytes_per_second;
} links_pair;

/* All pairs, or (not `all`) those of each host and one for each two hosts.  host_of [n].  Caller frees *out; pure. */
status links_schedule(const int *host_of, int n, bool all, links_pair **out, int *n_pairs, int *n_slots);
/* Collective over `everyone`, the group of the world's ranks: measures each pair, and all ranks have the figures. */
status links_measure(comm_world *w, comm_group *everyone, int timeout_ms, links_pair *pairs, int n_pairs, int n_slots);

/* Median seconds of a sum of `bytes` (of f32) in the group, one at a time with a little computing in between; collective over it. */
status links_sum(comm_group *g, size_t bytes, int rounds, double *seconds);

#endif
