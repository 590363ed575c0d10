/* coordinator/replica.h - one replica: a checkpoint on tp x pp ranks, and the loop that runs its steps.
 *
 * Every rank of the world creates the replica together: open the checkpoint, plan, load, agree.  Then ranks other than 0 serve
 * (coord_replica_serve) until rank 0 stops; rank 0 submits requests and calls coord_replica_run, which schedules steps, sends them,
 * computes rank 0's own part, and hands out tokens as results come back.  One thread per rank calls everything here. */
#ifndef COORDINATOR_REPLICA_H
#define COORDINATOR_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "coordinator/breakdown.h"
#include "coordinator/sched.h"
#include "ops/device.h"
#include "shard/checkpoint.h"
#include "shard/plan/plan.h"

enum {
    COORD_BATCHED_TOKENS = 512, /* token budget of a step, where none is given */
    COORD_OVERLAP_ROWS = 512    /* tokens of a step that is cut in two between GPUs, likewise: half of it still keeps a GPU at arithmetic; measured nowhere yet */
};

typedef struct coord_replica coord_replica;

typedef struct coord_replica_options {
    const char *model;          /* directory, GGUF file or hub name */
    shard_open_options open;
    int32_t tp, pp;             /* 0, 0: tp = as many ranks as the checkpoint's heads allow, pp = the rest */
    const double *rank_weights; /* [world size] relative speed; NULL = equal */
    bool f32;                   /* weights are expanded to f32 at load */
    shard_kv_type kv_type;      /* commands default to f32 with f32 weights, else f16 */
    int32_t n_threads;          /* per rank; 0 = the host's cores divided among its ranks */
    const char *isa;            /* NULL = best */
    const char *gemm;           /* as ops_ctx_options has it (borrowed) */
    const char *collectives;    /* sums between devices, as comm_choice_parse takes it (borrowed); NULL: by guess */
    int32_t overlap_rows;       /* as worker_options.overlap_rows, but 0 = COORD_OVERLAP_ROWS, negative: never */
    ops_device_kind device;     /* AUTO: CUDA where every rank has a device, else the CPU */
    int32_t max_seqs;           /* 0 = 16 */
    int32_t max_batched_tokens; /* 0 = COORD_BATCHED_TOKENS */
    int32_t max_prefill_chunk;  /* 0 = the budget */
    int32_t max_partial_prefills; /* 0 = as the scheduler's */
    bool no_prefix_cache;
    int32_t max_context;        /* 0 = the checkpoint's, as far as memory goes */
    int64_t kv_blocks;          /* 0 = as memory and the limits above allow; else this many (tests: to force preemption) */
    size_t memory;              /* bytes this rank may use; 0 = what the host or the device has left, divided among its ranks */
    int timeout_ms;             /* of a collective; 0 = 60 s */
    bool quiet;                 /* no progress display */
    bool phase_times;           /* as worker_options.phase_times */
    bool grammars;              /* ready for requests with grammars from the start */
    bool loads;                 /* ranks tell rank 0 their figures about once a second (coord_replica_loads) */
    uint64_t trace_first, trace_steps; /* what every rank is at in these steps is written to trace_file when the replica stops; 0 steps: none */
    const char *trace_file;     /* borrowed */
    bool breakdown;             /* every rank keeps the times of its steps, for coord_replica_measured */
} coord_replica_options;

/* Collective.  On failure every rank returns the same status, and the message of the first rank that failed is its status_message();
 * nothing was logged: the caller reports once, on rank 0. */
status coord_replica_create(comm_world *world, const coord_replica_options *options, coord_replica **out);
void coord_replica_destroy(coord_replica **replica);

/* Ranks other than 0: computes steps until rank 0 stops (ST_OK) or the job breaks. */
status coord_replica_serve(coord_replica *r);

/* Rank 0.  As coord_sched_submit / cancel. */
status coord_replica_submit(coord_replica *r, const coord_request *request);
bool coord_replica_cancel(coord_replica *r, uint64_t id);
/* Advances by at least one result: fills the pipeline with steps, then waits for the oldest one's result and calls fn for each of its tokens.  *idle:
 * nothing was there to do. */
status coord_replica_run(coord_replica *r, coord_event_fn fn, void *arg, bool *idle);
/* While there is nothing to run: notices a dead rank or an abort, takes what figures have come.  Never waits; call it several times a second. */
status coord_replica_poll(coord_replica *r);
/* Tells the other ranks to leave coord_replica_serve.  Called once, also after a failure. */
status coord_replica_stop(coord_replica *r);

shard_checkpoint *coord_replica_checkpoint(coord_replica *r);
const shard_plan *coord_replica_plan(const coord_replica *r);
int32_t coord_replica_max_context(const coord_replica *r); /* prompt + generated tokens */

/* What each rank took and how long things took; collective (every rank calls it before serving), [n_ranks] filled on rank 0. */
typedef struct coord_rank_report {
    int32_t rank, stage, tp_index, n_threads;
    size_t weight_bytes, kv_bytes, scratch_bytes; /* as allocated */
    size_t predicted_bytes;                       /* as planned */
    /* Resident memory of the process: before anything was allocated (program, libraries, MPI, the checkpoint's opened files), what has been touched so far of the
     * allocations above (a KV cache fills with use), and all of it now.  The first two explain the third. */
    size_t base_bytes, touched_bytes, resident_bytes;
    uint64_t io_read, io_needed;
    double load_seconds, ready_seconds;           /* weights read; from the world's creation to ready */
    char backend[128];
    char numerics[96], host[64];
    char place[160];                              /* "cores 0-7, numa 0, ...": coordinator/placement.h */
    bool cores_shared, gpu_far;
} coord_rank_report;
status coord_replica_report(coord_replica *r, coord_rank_report *reports);

/* Equal ids give equal tokens: SHA-256 of version, checkpoint, formats, KV type and, layer by layer, which rank of a stage holds what and how it computes.  The number of
 * stages does not enter. */
enum { COORD_NUMERICS_ID = 65 };
status coord_replica_numerics(const coord_replica *r, const coord_rank_report *reports, const char *version, char out[COORD_NUMERICS_ID]);

/* Rank 0, with options.loads: each rank's figures as last told; totals since start. */
typedef struct coord_rank_load {
    uint64_t steps, resident_bytes;
    double step_seconds, exchange_seconds, wait_seconds, skew_seconds; /* in steps; in collectives; for other stages; for the last rank to come */
} coord_rank_load;
void coord_replica_loads(const coord_replica *r, coord_rank_load *out /* [n_ranks] */);

/* Ends the job: every rank's pending and later calls fail with `why`.  Any thread. */
void coord_replica_abort(coord_replica *r, const char *why);

/* What the ranks of this host are at, the one that keeps the others waiting first: one line for a watchdog.  Any thread. */
void coord_replica_activity(const coord_replica *r, char *out, size_t cap);

/* Rank 0: the scheduler's counters. */
void coord_replica_sched_stats(const coord_replica *r, coord_sched_stats *out);

/* Time of this rank's steps so far. */
typedef struct coord_replica_times {
    uint64_t steps, tokens;
    double compute_seconds, exchange_seconds, stage_wait_seconds;
    double attention_seconds, mlp_seconds, embed_seconds, head_seconds; /* the plan's phases */
} coord_replica_times;
void coord_replica_times_get(const coord_replica *r, coord_replica_times *out);

/* Rank 0, with options.breakdown: asks where the time of a stretch went, and, after coord_replica_stop, what came of it for the i-th stretch: [n_ranks], borrowed. */
status coord_replica_measured(coord_replica *r, const breakdown_range *range);
const coord_breakdown *coord_replica_breakdown(const coord_replica *r, int32_t i);

#endif
