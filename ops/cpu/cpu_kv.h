/* ops/cpu/cpu_kv.h - the paged KV cache of the CPU: how a block is laid out.
 *
 *   cache   [block][layer][KV head] of head_bytes each, so that a sequence's blocks are touched in the order they are given out
 *   head    K | V, with e = head_dim rounded up to 16:
 *           K codes [e][16 tokens]                 a lane is a token: a score is never summed across lanes
 *           (q8) f16 scales [ceil(e / 32)][16 tokens]
 *           V codes [16 tokens][e]                 a lane is a dimension
 *           (q8) f16 scales [ceil(e / 32)][16 tokens]
 * q8: scale = amax / 127 rounded up to f16, code = round-half-even(x / scale); one scale for a token and 32 dimensions.
 * fp8: e4m3, no scales; what is beyond 448 is stored as 448.
 * Rounding happens when a token is stored: attention reads nothing else, so a recomputed prompt meets the same keys and values. */
#ifndef OPS_CPU_CPU_KV_H
#define OPS_CPU_CPU_KV_H

#include "ops/ops.h"

#define CPU_KV_GROUP 32 /* dimensions of one q8 scale */

typedef struct cpu_kv_layout {
    ops_kv_type type;
    int32_t head_dim, padded; /* padded = e */
    size_t k_scales, v_codes, v_scales; /* bytes from the start of a head's part of a block */
    size_t head_bytes, layer_bytes, block_bytes;
} cpu_kv_layout;

struct ops_kv {
    ops_kv_spec spec;
    cpu_kv_layout layout;
    char *data;
    size_t bytes;
};

/* false: impossible sizes */
bool cpu_kv_layout_of(const ops_kv_spec *spec, cpu_kv_layout *out);
static inline char *cpu_kv_head(const ops_kv *kv, int32_t block, int32_t layer, int32_t head)
{
    return kv->data + (size_t)block * kv->layout.block_bytes + (size_t)layer * kv->layout.layer_bytes + (size_t)head * kv->layout.head_bytes;
}

size_t cpu_kv_block_bytes(const ops_kv_spec *spec);
status cpu_kv_create(ops_ctx *ctx, const ops_kv_spec *spec, ops_kv **out);
void cpu_kv_destroy(ops_ctx *ctx, ops_kv **kv);
status cpu_kv_copy_block(ops_ctx *ctx, ops_kv *kv, int32_t from, int32_t to);

#endif
