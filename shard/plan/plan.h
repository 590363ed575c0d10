/* shard/plan/plan.h - which rank holds which slice of which tensor, and what that costs.
 *
 * A pure function of (architecture, packed types, ranks, options): nothing is read, nothing allocated but the
 * plan, so that a thousand ranks are planned in a blink with no checkpoint at hand.
 *
 * World rank r = stage * tp + i: stage s runs layers [layer_begin, layer_end), its tp ranks split every layer:
 *   attention  by query head: rank i computes heads [head_begin, head_end); it keeps every KV head those heads
 *              use, so a KV head on a boundary is kept by both ranks (beyond n_kv_heads they are replicated)
 *   mlp        by channel, in whole quantisation groups of the down projection where possible
 *   vocabulary by rows, of the embedding (first stage) and of the head (last stage)
 * Every rank waits for the slowest at each all-reduce, so each phase between two all-reduces is evened on its own (attention and
 * MLP together in a parallel block); rank_weights makes ranks of unequal speed get unequal shares.  Only a rank short of
 * memory gets fewer channels, and the plan shows the price.  Stages take consecutive layers so that the slowest stage, embedding and
 * head counted, is as fast as can be.
 *
 * What is not split: norm weights are on every rank of a stage, and so are the biases of o and down, since every rank sums the
 * partials itself (ops_norm_args.part_bias).  Learned positions are on the first stage's first rank alone, which adds
 * them once.  Tied embeddings are one copy where a rank holds the same rows for both ends, else one at each end. */
#ifndef SHARD_PLAN_PLAN_H
#define SHARD_PLAN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/packed.h"
#include "base/status.h"
#include "shard/plan/arch.h"

typedef enum shard_kv_type { SHARD_KV_F32, SHARD_KV_F16, SHARD_KV_BF16, SHARD_KV_Q8, SHARD_KV_F8 } shard_kv_type;
#define SHARD_KV_BLOCK 16 /* tokens in a block of KV cache */
/* false if no such name ("f32" "f16" "bf16" "q8" "fp8", also "fp8_e4m3"). */
bool shard_kv_type_parse(const char *name, shard_kv_type *out);
const char *shard_kv_type_name(shard_kv_type type);

/* The packed type of each matrix role, by layer: GGUF files mix types.  type(role, layer) is asked for matrices only. */
typedef struct shard_types {
    packed_type dflt;
    /* NULL: every matrix is dflt.  Else [SHARD_ROLES * n_layers], index layer * SHARD_ROLES + role (layer 0 for roles outside layers). */
    const uint8_t *of;
} shard_types;

typedef struct shard_slice {
    int64_t begin, end;
} shard_slice;

typedef struct shard_rank_plan {
    int32_t rank, stage, tp_index;
    int32_t layer_begin, layer_end;
    bool has_embed, has_head;
    shard_slice heads, kv_heads, channels;   /* the same in every layer of the stage */
    shard_slice embed_rows, head_rows;       /* vocabulary rows, cut alike at both ends; empty on stages that lack that end */
    /* Columns kept of o and down: the slice widened to whole quantisation groups (lead = heads.begin * head_dim - o_cols.begin). */
    shard_slice o_cols, down_cols;

    size_t weight_bytes, scratch_bytes, kv_bytes;    /* what the worker allocates, to the byte */
    size_t kv_block_bytes[SHARD_MAX_KV_GROUPS];      /* one block of a group, for all of this rank's layers in it */
    double cost_attention, cost_mlp, cost_embed, cost_head; /* seconds of one decode step under the cost model, all layers of this rank */
} shard_rank_plan;

/* What a sum over so many ranks on so many hosts took. */
typedef struct shard_sum {
    int32_t ranks, hosts;
    double bytes, seconds;
} shard_sum;
enum { SHARD_MOST_SUMS = 32 };

/* What a device does in a second.  A phase's cost is the sum of its parts: weights read and unpacked (once, whatever the batch),
 * multiply-adds (for each activation row), KV bytes read, elements touched by norms, rope and gates, and a fixed start of the phase and of each matrix.  The figures of "cpu" are
 * one core of an ordinary server; coordinator/measure.h takes those of the machine at hand. */
typedef struct shard_device {
    const char *name;
    double weights_per_second[PACKED_TYPES];
    double macs_per_second[PACKED_TYPES];
    double bytes_per_second;              /* of KV cache */
    double attention_macs_per_second;     /* q.k and p.v, softmax included */
    double attention_head_seconds;        /* the start of one query head's attention for one sequence */
    double elements_per_second;           /* of norms and gates */
    double rotated_per_second;            /* elements of q, k and v rotated and put into the cache */
    double phase_seconds;
    double matrix_seconds;                /* the start of each matrix: the first misses */
    double step_seconds;                  /* of a step outside the phases: scheduling, what every rank is told, the way of the tokens */
    bool overlaps;                        /* reading and computing go on at once, so that the longer counts (GPUs); else both do, one after the other */
    double attention_scale, mlp_scale, head_scale; /* of a whole phase against the sum of its parts; 0 = 1 */
    double exchange_seconds, exchange_bytes_per_second; /* a sum between ranks of one host: start, and bytes of one partial */
    double network_seconds, network_bytes_per_second;   /* the same between hosts */
    shard_sum sums[SHARD_MOST_SUMS]; /* measured ones, by ranks, hosts and bytes: they go before what the two links say */
    int32_t n_sums;
} shard_device;
/* The device of a built-in machine (shard/plan/machine.h), "cpu" (the default), "h100" ...; NULL if unknown.  The list of names, for --help. */
const shard_device *shard_device_find(const char *name);
const char *shard_device_names(void);
/* device x n: every rate n times as high (threads of a rank). */
shard_device shard_device_scale(const shard_device *device, double n);

typedef struct shard_plan_options {
    int32_t tp, pp;               /* 0: choose (from n_ranks) */
    int32_t n_ranks;              /* for choosing; 0 = tp * pp */
    int32_t ranks_per_host;       /* 0 = all on one */
    size_t memory_per_rank;       /* 0 = unlimited */
    const size_t *rank_memory;    /* [tp * pp] instead, where ranks differ; NULL */
    bool may_not_fit;             /* a plan that does not fit is returned all the same, fits = false */
    const double *rank_weights;   /* [tp * pp] relative speed; NULL: equal */
    int32_t max_seqs, max_context, max_batched_tokens; /* 0 = 16, the checkpoint's longest, 512 */
    shard_kv_type kv_type;
    int64_t kv_blocks;            /* 0 = as many as fit and max_seqs x max_context can use; else this many in each group */
    shard_types types;
    const int32_t *stage_layers;  /* [pp] fixed layers per stage; NULL: by cost */
    const shard_device *device;   /* NULL = "cpu" */
    int32_t cost_seqs, cost_context; /* the step that costs are of: sequences, tokens before each; 0 = 1, 1024 (with cost_rows: none) */
    int32_t cost_rows;            /* ... tokens that each brings: 0 or 1 = a decode step, more = a step that computes prompts */
} shard_plan_options;

typedef struct shard_plan {
    int32_t tp, pp, n_ranks;
    shard_rank_plan *ranks;       /* [n_ranks], by world rank */

    /* Blocks of each KV group: what fits on every rank, and no more than max_seqs sequences of max_context can use (a group with a window
     * needs few).  kv_tokens: tokens that one sequence, or all together, may hold. */
    int64_t kv_blocks[SHARD_MAX_KV_GROUPS];
    int64_t kv_tokens;

    /* Sum over phases of the slowest rank's cost, divided by the mean's (ranks of unequal speed: by what perfect shares would take);
     * and the least that a split into whole heads, whole groups of channels and whole panels of 16 rows can reach. */
    double imbalance, imbalance_bound;
    double imbalance_heads;       /* the least that whole heads alone impose, everything else perfectly even */
    double stage_imbalance;       /* the slowest stage's time over the mean stage's */
    double memory_price;          /* sum over phases of the slowest rank's cost with memory_per_rank, divided by that without limit */
    double step_seconds;          /* one decode step through all stages, exchanges included */
    double exchange_seconds;      /* of these, in sums and hand-overs */
    int32_t stage_hosts;          /* hosts that a stage spans, at most */

    bool fits;
    int32_t short_rank;           /* if not: the rank that lacks most, */
    size_t short_bytes;           /* what it needs in all, one sequence's KV included */
} shard_plan;

/* ST_INVALID: more tp than heads or channels, more stages than layers (the message says what would work);
 * ST_NO_MEMORY: memory is too small (the message names the rank and what it needs).
 * *out is freed with shard_plan_destroy. */
status shard_plan_create(const shard_arch *arch, const shard_plan_options *options, shard_plan **out);
void shard_plan_destroy(shard_plan **plan);

/* The slice of a role that a rank keeps: rows and columns of the logical matrix (vectors: rows only, cols [0, 1)); false: none.
 * This is the single source of truth for loading, `trireme shard` and the byte counts. */
bool shard_plan_slice(const shard_arch *arch, const shard_rank_plan *rank, shard_role role, int32_t layer, shard_slice *rows,
                      shard_slice *cols);
/* The packed shape of that slice (type from types, phase filled in). */
bool shard_plan_packed(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types, shard_role role, int32_t layer,
                       packed_shape *out);
/* The type of a matrix; a tied head has the embedding's. */
packed_type shard_plan_type(const shard_arch *arch, const shard_types *types, shard_role role, int32_t layer);
/* Whether the rank's head is its embedding: tied, and the same rows, so that one copy serves both. */
bool shard_plan_head_is_embedding(const shard_arch *arch, const shard_rank_plan *rank);

/* Bytes of one KV block (16 tokens, K and V) of one layer on a rank. */
size_t shard_plan_kv_block_bytes(const shard_arch *arch, const shard_rank_plan *rank, shard_kv_type type);

/* How many blocks' worth of tokens, at most max_seqs x max_context, a rank can keep in `bytes` of KV memory; and the blocks of each group for
 * that many: a group with a window needs no more than its sequences' windows and the chunks under way.  Options with defaults filled in as
 * shard_plan_create does. */
int64_t shard_plan_kv_fit(const shard_arch *arch, const shard_plan_options *options, const shard_rank_plan *rank, int32_t pp, size_t bytes);
void shard_plan_kv_blocks(const shard_arch *arch, const shard_plan_options *options, int32_t pp, int64_t blocks,
                          int64_t of_group[SHARD_MAX_KV_GROUPS]);

/* The buffers a worker computes a step in: rows x cols of f32, each row a multiple of 64 bytes, one after the other.  The planner
 * predicts scratch_bytes with this and the worker allocates by it, so that they agree by construction. */
typedef enum shard_buffer {
    SHARD_BUFFER_X0, SHARD_BUFFER_X1, /* residual stream; the second while the first is on its way to the next stage */
    SHARD_BUFFER_H0, SHARD_BUFFER_H1, /* a norm's output, in up to two formats */
    SHARD_BUFFER_Q, SHARD_BUFFER_K, SHARD_BUFFER_V, SHARD_BUFFER_ATT,
    SHARD_BUFFER_GATE, SHARD_BUFFER_UP, SHARD_BUFFER_ACT,
    SHARD_BUFFER_Y, SHARD_BUFFER_LOGITS, SHARD_BUFFER_ADJUSTED, /* last stage */
    SHARD_BUFFERS
} shard_buffer;
#define SHARD_LOGITS_ROWS 32 /* rows of logits computed at a time, unless more sequences run */
typedef struct shard_buffers {
    int32_t rows[SHARD_BUFFERS]; /* 0: not needed */
    int32_t cols[SHARD_BUFFERS];
    size_t offset[SHARD_BUFFERS];
    size_t bytes;
} shard_buffers;
void shard_plan_buffers(const shard_arch *arch, const shard_rank_plan *rank, int32_t pp, int32_t max_seqs, int32_t max_batched_tokens,
                        shard_buffers *out);

#endif
