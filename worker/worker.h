/* worker/worker.h - one rank at work: its shard's weights in place, its KV cache, and the computation of steps.
 *
 * A worker owns the compute context, the weights, the cache and the state of every sequence in a slot.  Steps (comm/step.h) come
 * in order; the ranks of a stage sum their partial products by comm exchanges, a stage hands its residual stream to the next, and the
 * last stage samples.  One thread calls. */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "comm/device.h"
#include "comm/step.h"
#include "ops/ops.h"
#include "shard/checkpoint.h"
#include "shard/plan/plan.h"

typedef struct worker worker;

typedef struct worker_options {
    shard_checkpoint *checkpoint; /* borrowed for the worker's life, as plan and world */
    const shard_plan *plan;       /* its rank comm_world_rank(world) is ours */
    comm_world *world;
    const ops_backend *ops;
    ops_ctx_options ctx;          /* max_rows and max_cols are set by the worker */
    bool f32;                     /* weights expanded to f32 */
    shard_kv_type kv_type;
    int32_t max_seqs, max_batched_tokens, max_context;
    int64_t kv_blocks[OPS_MAX_KV_GROUPS]; /* of each KV group */
    int timeout_ms;
    const char *collectives;      /* how sums between devices go by size, as comm_choice_parse takes it; NULL: comm_choice_default */
    int32_t overlap_rows;         /* between devices: a step of so many rows or more is computed in two pieces that take turns, one's sums under way meanwhile; 0: never */
    bool quiet;                   /* no progress display while loading */
    bool phase_times;             /* measure the phases on the device, where there is one, which slows it down a little; else they are those of the host's calls */
    bool grammars;                /* be ready for grammars before the first one comes, where the checkpoint's tokenizer allows any */
    uint64_t trace_first, trace_steps; /* record what this rank is at in so many steps from that number on; 0: none */
} worker_options;

/* Everything this rank can do alone: context, weights read, cache and buffers allocated. */
status worker_create(const worker_options *options, worker **out);
/* Collective over all ranks of the world, once every rank's worker_create is known to have gone well. */
status worker_join(worker *w);
void worker_destroy(worker **w);

/* Computes one step on this rank; collective over the ranks (later stages may lag behind).  On rank tp_index 0 of the last stage
 * *result is set (borrowed until the next step), elsewhere NULL. */
status worker_step(worker *w, const step *s, const step_result **result);

/* Bounds for step_decode. */
void worker_step_limits(const worker *w, step_limits *out);

typedef struct worker_memory {
    size_t weight_bytes, kv_bytes, scratch_bytes;
} worker_memory;
void worker_memory_get(const worker *w, worker_memory *out);
const char *worker_backend(const worker *w);  /* "cpu avx2, 2 threads" */
const char *worker_numerics(const worker *w); /* what of the backend may change a bit of the results */

/* What a rank is at, as worker_step notes it all the while (comm_note). */
typedef enum worker_operation {
    WORKER_IDLE, /* between steps */
    WORKER_BATCH,
    WORKER_EMBED,
    WORKER_ATTENTION,
    WORKER_MLP,
    WORKER_HEAD,
    WORKER_SAMPLE,
    WORKER_EXCHANGE, /* waiting for the stage's ranks */
    WORKER_STAGE     /* waiting for the stage before, or for the next to take what was sent */
} worker_operation;
typedef struct worker_activity {
    uint64_t step;
    worker_operation operation;
    int32_t layer;
} worker_activity;
worker_activity worker_activity_of(uint64_t note);

/* From `at` (log_clock) until the next event the rank was at what the note says, as the host sees it: on a device operations are queued, and run later. */
typedef struct worker_event {
    double at;
    uint64_t note;
} worker_event;
/* In order; borrowed.  A step ends with WORKER_IDLE. */
size_t worker_events(const worker *w, const worker_event **out);
const char *worker_operation_text(worker_operation o);

typedef struct worker_times {
    uint64_t steps, tokens;
    double load_seconds;                       /* reading the weights */
    double step_seconds;                       /* inside worker_step */
    double stage_wait_seconds;                 /* waiting for the stage before, or for a buffer the next one still reads */
    double exchange_seconds;                   /* in the stage's collectives */
    double skew_seconds;                       /* of that: waiting for the last rank to come */
    double embed_seconds, attention_seconds, mlp_seconds, head_seconds; /* the plan's phases, exchanges left out */
} worker_times;
void worker_times_get(const worker *w, worker_times *out); /* with phase_times on a device: waits for it */

#endif
