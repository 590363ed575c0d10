/* coordinator/replica_internal.h - what the replica's files share.  Stays in this folder.
 *
 *   replica.c           creation; the loop of rank 0 and that of the others
 *   replica_messages.c  steps and results between ranks
 *   replica_loads.c     figures that ranks tell rank 0 while they work
 *   replica_report.c    what a replica says of itself
 *
 * Messages between ranks (comm send/recv), each in one part or two so that any length fits a posted receive:
 *   TAG_STEP    rank 0 -> each other rank        u64 length, then bytes as far as they fit in FIRST_BYTES
 *   TAG_RESULT  last stage's first rank -> rank 0   the same
 *   TAG_REST    the same pair                    what did not fit
 *   TAG_LOAD    each other rank -> rank 0        its figures; a last one when it leaves
 * With pp stages up to pp steps are in flight: rank 0 computes its part of one step while later stages are at earlier ones. */
#ifndef COORDINATOR_REPLICA_INTERNAL_H
#define COORDINATOR_REPLICA_INTERNAL_H

#include "base/hash.h"
#include "coordinator/device.h"
#include "coordinator/placement.h"
#include "coordinator/replica.h"
#include "coordinator/trace.h"
#include "coordinator/waves.h"
#include "worker/worker.h"

enum { TAG_STEP = 2, TAG_REST = 3, TAG_RESULT = 4, TAG_LOAD = 5 };
#define LOAD_SECONDS 1.0
#define FIRST_BYTES ((size_t)16 << 10)

/* A message while its sends are under way. */
typedef struct outgoing {
    char *bytes; /* u64 length, then the message */
    size_t cap;
    comm_request **requests; /* [2 * n_to]: first parts and rests */
    int n_requests;
} outgoing;

/* A message being received: the first part's posted buffer, and the whole. */
typedef struct incoming {
    char *first; /* [FIRST_BYTES] */
    comm_request *request;
    char *bytes;
    size_t cap;
} incoming;

typedef struct load_message {
    uint32_t version, last; /* last: the rank leaves */
    coord_rank_load load;
} load_message;

struct coord_replica {
    coord_replica_options opt;
    comm_world *world;
    comm_group *everyone;
    shard_checkpoint *checkpoint;
    shard_plan *plan;
    worker *worker;
    coord_device device; /* what computes */
    coord_place place;   /* and where */
    trace_clock clock;   /* at the start, where steps are traced */
    int rank, n_ranks, result_rank, n_threads;
    int *lent_cores; /* [n_lent] of ranks of other stages, this rank's while they wait */
    int n_lent;
    bool lend;       /* some rank has such */
    bool lent;       /* the last step was */
    uint8_t prefix_seed[HASH_SHA256_BYTES];
    double started, ready_seconds;
    size_t base_bytes;

    outgoing *out;  /* [n_out] messages of steps (rank 0) or results, used in turn */
    int n_out;
    incoming *in;   /* [n_in] results (rank 0; as many as steps in flight) or steps */
    int n_in;
    step_arena arena;
    breakdown *breakdown; /* NULL: not asked for */

    /* figures: on rank 0 of all ranks ([n_ranks], requests NULL where nothing is awaited), elsewhere [1] */
    load_message *loads;
    coord_rank_load *loads_known; /* rank 0, [n_ranks] */
    comm_request **load_requests;
    double load_at; /* sent, or looked at, last */
    uint64_t load_steps, load_told; /* steps computed; those that the figures sent last include */

    /* rank 0 */
    coord_sched *sched;
    coord_waves waves;
    int depth, n_in_flight;
    uint64_t steps_sent, results_taken;
    double result_seconds; /* waited for them */
    coord_breakdown *broken_down; /* [ranges][n_ranks], when stopped */
    bool stopped;
    bool failed; /* the job is at its end */
};

/* replica_messages.c */
status replica_messages_create(coord_replica *r);
/* Waits until o's earlier sends are over. */
status replica_outgoing_done(coord_replica *r, outgoing *o);
/* Encoded into o, once those are over; *len: of the whole. */
status replica_outgoing_step(coord_replica *r, outgoing *o, const step *s, size_t *len);
status replica_outgoing_result(coord_replica *r, outgoing *o, const step_result *result, size_t *len);
/* requests[0..1]: where the two parts' sends are kept. */
status replica_outgoing_send(coord_replica *r, const outgoing *o, size_t len, int to, int tag, comm_request **requests);
status replica_incoming_post(coord_replica *r, incoming *in, int from, int tag);
/* The whole message of a posted receive, in in->bytes.  After a `lent` step the core is left to others at once. */
status replica_incoming_wait(coord_replica *r, incoming *in, int from, int timeout_ms, size_t *len);

/* replica_loads.c; without opt.loads nothing is sent. */
status replica_loads_create(coord_replica *r);
/* Ranks other than 0.  Not more often than once a second, and not while the one before is on its way, except for the last. */
status replica_load_send(coord_replica *r, bool last);
/* Rank 0: what has come. */
status replica_loads_take(coord_replica *r);
/* Every rank's last figures: nobody's message is left without a taker. */
status replica_loads_end(coord_replica *r);

#endif
