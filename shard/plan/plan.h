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
 * Every rank waits for the slowest at each all-reduce, so each phase between two all-reduces is evened on its
 * own; `weights` makes ranks of unequal speed get unequal shares.  Only a rank short of memory gets fewer
 * channels, and the plan shows the price. */
#ifndef SHARD_PLAN_PLAN_H
#define SHARD_PLAN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/packed.h"
#include "base/status.h"
#include "shard/plan/arch.h"

typedef enum shard_kv_type { SHARD_KV_F32, SHARD_KV_F16, SHARD_KV_BF16, SHARD_KV_Q8 } shard_kv_type;
#define SHARD_KV_BLOCK 16 /* tokens in a block of KV cache */
/* false if no such name ("f32" "f16" "bf16" "q8"). */
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
    shard_slice embed_rows, head_rows;       /* vocabulary rows; equal where tied and both on this stage, so that one copy serves */
    /* Columns kept of o and down: the slice widened to whole quantisation groups (lead = o_cols.begin .. heads.begin * head_dim). */
    shard_slice o_cols, down_cols;

    size_t weight_bytes, kv_block_bytes /* one block of every group of this rank's layers */, scratch_bytes, kv_bytes;
    int64_t kv_blocks;         /* blocks that `kv_bytes` holds */
    double cost_attention, cost_mlp, cost_embed, cost_head; /* seconds of one decode step under the cost model, per layer x layers */
} shard_rank_plan;

typedef struct shard_plan_options {
    int32_t tp, pp;               /* 0, 0: choose (needs n_ranks) */
    int32_t n_ranks;              /* for choosing; 0 = tp * pp */
    size_t memory_per_rank;       /* 0 = unlimited */
    const double *rank_weights;   /* [tp * pp] relative speed; NULL: equal */
    int32_t max_seqs, max_context, max_batched_tokens;
    shard_kv_type kv_type;
    shard_types types;
    const int32_t *stage_layers;  /* [pp] fixed layers per stage; NULL: by cost */
} shard_plan_options;

typedef struct shard_plan {
    int32_t tp, pp, n_ranks;
    shard_rank_plan *ranks;       /* [n_ranks], by world rank */
    /* Sum over phases of the slowest rank's cost, divided by the mean's; and the bound that whole heads impose on it. */
    double imbalance, imbalance_bound;
    bool fits;
} shard_plan;

/* ST_INVALID: more tp than heads or channels, more stages than layers (the message says what would work);
 * ST_NO_MEMORY: memory_per_rank is too small (the message names the rank and what it needs).
 * *out is freed with shard_plan_destroy. */
status shard_plan_create(const shard_arch *arch, const shard_plan_options *options, shard_plan **out);
void shard_plan_destroy(shard_plan **plan);

/* The slice of a role that a rank keeps: rows and columns of the logical matrix (vectors: rows only); false: none.
 * This is the single source of truth for loading, `trireme shard` and the byte counts. */
bool shard_plan_slice(const shard_arch *arch, const shard_rank_plan *rank, shard_role role, int32_t layer, shard_slice *rows,
                      shard_slice *cols);
/* The packed shape of that slice (type from options->types, phase filled in). */
bool shard_plan_packed(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types, shard_role role, int32_t layer,
                       packed_shape *out);

/* Bytes of one KV block (16 tokens, K and V) of one layer on a rank. */
size_t shard_plan_kv_block_bytes(const shard_arch *arch, const shard_rank_plan *rank, shard_kv_type type);

#endif
