/* shard/plan/plan_internal.h - what the files of the planner share.  Stays in this folder.
 *
 *   plan.c   chooses tp, pp, stages and shares, in this order: heads, vocabulary, layers, channels, memory, KV blocks
 *   split.c  cutting consecutive items into parts so that the slowest part is fastest
 *   cost.c   the cost model: seconds of a phase
 *   machine.c  machines, and seconds of what ranks say to each other
 *   predict.c  from phases to tokens a second: stages, batches, prompts, memory
 *   sweep.c  every split of so many devices
 *   kv.c     blocks of KV cache: how many fit, how many are of use
 *   slice.c  what a rank keeps of each role, and how many bytes that is */
#ifndef SHARD_PLAN_INTERNAL_H
#define SHARD_PLAN_INTERNAL_H

#include "shard/plan/plan.h"

static inline int64_t slice_width(shard_slice s)
{
    return s.end - s.begin;
}

/* ---- split.c ---- */

/* Cost of items [begin, end) as part `part`; grows with more items.  INFINITY: not allowed. */
typedef double (*split_cost_fn)(const void *arg, int32_t begin, int32_t end, int32_t part);
/* Cuts n consecutive items into n_parts parts of at least one item: cuts[0] = 0 ... cuts[n_parts] = n.  The costliest part costs as
 * little as possible; among such splits the parts are as even as possible (least sum of squares).  *worst: its cost; INFINITY: no
 * split is allowed.  false: out of memory. */
bool split_items(int32_t n, int32_t n_parts, split_cost_fn cost, const void *arg, int32_t *cuts, double *worst);
/* Deals `units` equal units to n parts, at least one each, so that the largest (base[i] + units[i] * each) / weight[i] is as small as
 * possible; ties go to the part with the smallest base.  base NULL: 0. */
void split_units(int64_t units, int32_t n, double each, const double *base, const double *weight, int64_t *out);

/* ---- cost.c ---- */

/* Seconds of one layer on a rank of speed 1: linear in what the rank has, but that scores and cache reads may go on at once. */
typedef struct layer_cost {
    bool overlaps;
    double head, kv_head, o_col, attention_fixed; /* a query head (o and scores apart), a KV head (its cache apart), a column of o, whatever is replicated */
    double scores, cache;                         /* a query head's scores, a KV head's keys and values */
    double channel, down_col, mlp_fixed;          /* a channel (down apart), a column of down */
} layer_cost;

/* A step: `rows` tokens of `seqs` sequences; a row attends to `keys` tokens on average, `cached` tokens are read of a sequence; logits for out_rows. */
typedef struct cost_model {
    const shard_arch *arch;
    const shard_types *types;
    shard_device device;
    shard_kv_type kv_type;
    double rows, seqs, keys, cached, out_rows;
} cost_model;

cost_model cost_model_of(const shard_arch *arch, const shard_plan_options *options);
layer_cost cost_of_layer(const cost_model *m, int32_t layer);
double cost_attention(const layer_cost *c, int64_t heads, int64_t kv_heads, int64_t o_cols);
double cost_mlp(const layer_cost *c, int64_t channels, int64_t down_cols);
/* Latent attention with `heads` query heads here: `absorbed`, over the cached vectors themselves, or with keys and values made from them (prompts). */
double cost_latent(const cost_model *m, int32_t layer, int64_t heads, bool absorbed);
/* The experts' half of a layer on a rank.  ranks: that share the experts, whole ones; 1: this rank has a slice of `width` channels of each.  tokens: of all those ranks. */
typedef struct expert_share {
    int32_t ranks;
    int64_t width, shared_width;
    double tokens;
} expert_share;
double cost_experts(const cost_model *m, int32_t layer, const expert_share *s);
double cost_embed(const cost_model *m);
double cost_head(const cost_model *m, int64_t rows);
double cost_head_row(const cost_model *m);
/* One sum of a step's residual rows over tp ranks on some hosts, and one hand-over to the next stage. */
double cost_exchange(const cost_model *m, int32_t tp, int32_t hosts);
double cost_handover(const cost_model *m, bool across_hosts);

/* ---- kv.c ---- */

shard_plan_options options_filled(const shard_arch *arch, const shard_plan_options *options);
/* Bytes of KV that `blocks` blocks' worth of tokens take on a rank. */
size_t kv_bytes_for(const shard_arch *arch, const shard_plan_options *options, const shard_rank_plan *rank, int32_t pp, int64_t blocks);
/* The blocks that one sequence of the longest wanted context takes: the least that a plan must have room for. */
int64_t kv_blocks_needed(const shard_arch *arch, const shard_plan_options *options);
/* rank->kv_block_bytes from its layers and KV heads. */
void kv_block_bytes_set(const shard_arch *arch, const shard_plan_options *options, shard_rank_plan *rank);

/* ---- slice.c ---- */

/* Bytes of KV elements; q8 counts its scales apart. */
size_t kv_element_bytes(shard_kv_type type);
/* The group of k that columns of a role are cut at: the largest over the layers. */
int32_t role_group(const shard_arch *arch, const shard_types *types, shard_role role);
/* [begin, end) widened to whole groups, within cols. */
shard_slice slice_widen(int64_t begin, int64_t end, int64_t group, int64_t cols);
/* KV heads that query heads [begin, end) read. */
shard_slice kv_heads_of(const shard_arch *arch, shard_slice heads);
/* Bytes of everything a rank keeps, as the worker places it: each slice at a multiple of 64. */
size_t rank_weight_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types);
/* The part of it in one layer, and outside the layers. */
size_t rank_layer_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types, int32_t layer);
size_t rank_outside_bytes(const shard_arch *arch, const shard_rank_plan *rank, const shard_types *types);

#endif
