/* shard/plan/kv.c - blocks of KV cache: how many fit a rank, how many are of use.
 *
 * The amount is one number t, "blocks' worth of tokens": a group without a window has t blocks, one with a window min(t, what its
 * sequences can use), since blocks before the window go back.  So whatever t blocks of tokens hold, every group holds. */
#include <string.h>

#include "shard/plan/plan_internal.h"

enum { DEFAULT_SEQS = 16, DEFAULT_BATCHED_TOKENS = 512, LEAST_CONTEXT = 2048 };

shard_plan_options options_filled(const shard_arch *arch, const shard_plan_options *options)
{
    shard_plan_options o = *options;
    o.max_seqs = o.max_seqs > 0 ? o.max_seqs : DEFAULT_SEQS;
    o.max_batched_tokens = o.max_batched_tokens > 0 ? o.max_batched_tokens : DEFAULT_BATCHED_TOKENS;
    if (o.max_context <= 0)
        o.max_context = arch->max_positions > 0 ? arch->max_positions : LEAST_CONTEXT;
    return o;
}

static int64_t blocks_of(int64_t tokens)
{
    return (tokens + SHARD_KV_BLOCK - 1) / SHARD_KV_BLOCK;
}

static int64_t blocks_wanted(const shard_plan_options *o)
{
    return blocks_of(o->max_context) * o->max_seqs;
}

int64_t kv_blocks_needed(const shard_arch *arch, const shard_plan_options *options)
{
    int64_t context = options->max_context > 0 ? options->max_context : LEAST_CONTEXT;
    if (context > arch->max_positions && arch->max_positions > 0)
        context = arch->max_positions;
    return blocks_of(context);
}

/* The most blocks that a group can have in use.  With a window: each sequence's window (which may straddle a block at both ends), and for
 * each of the pp steps in flight the tokens it computes, whose blocks go back only when it retires. */
static int64_t group_most(const shard_arch *arch, const shard_plan_options *o, int32_t pp, int g)
{
    int64_t window = arch->kv_groups[g].window;
    if (window <= 0)
        return INT64_MAX;
    return o->max_seqs * (blocks_of(window) + 2 + pp) + pp * blocks_of(o->max_batched_tokens);
}

void shard_plan_kv_blocks(const shard_arch *arch, const shard_plan_options *options, int32_t pp, int64_t blocks,
                          int64_t of_group[SHARD_MAX_KV_GROUPS])
{
    shard_plan_options o = options_filled(arch, options);
    memset(of_group, 0, SHARD_MAX_KV_GROUPS * sizeof(*of_group));
    for (int g = 0; g < arch->n_kv_groups; g++) {
        int64_t most = group_most(arch, &o, pp, g);
        of_group[g] = o.kv_blocks > 0 ? o.kv_blocks : blocks < most ? blocks : most;
    }
}

size_t kv_bytes_for(const shard_arch *arch, const shard_plan_options *options, const shard_rank_plan *rank, int32_t pp, int64_t blocks)
{
    int64_t of_group[SHARD_MAX_KV_GROUPS];
    size_t bytes = 0;
    shard_plan_kv_blocks(arch, options, pp, blocks, of_group);
    for (int g = 0; g < arch->n_kv_groups; g++)
        bytes += (size_t)of_group[g] * rank->kv_block_bytes[g];
    return bytes;
}

int64_t shard_plan_kv_fit(const shard_arch *arch, const shard_plan_options *options, const shard_rank_plan *rank, int32_t pp, size_t bytes)
{
    shard_plan_options o = options_filled(arch, options);
    int64_t low = 0, high = o.kv_blocks > 0 ? o.kv_blocks : blocks_wanted(&o);
    if (kv_bytes_for(arch, &o, rank, pp, high) <= bytes)
        return high;
    while (low < high) {
        int64_t mid = high - (high - low) / 2;
        if (kv_bytes_for(arch, &o, rank, pp, mid) <= bytes)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

void kv_block_bytes_set(const shard_arch *arch, const shard_plan_options *options, shard_rank_plan *rank)
{
    size_t layer = shard_plan_kv_block_bytes(arch, rank, options->kv_type);
    memset(rank->kv_block_bytes, 0, sizeof(rank->kv_block_bytes));
    for (int32_t l = rank->layer_begin; l < rank->layer_end; l++)
        rank->kv_block_bytes[arch->layers[l].kv_group] += layer;
}
