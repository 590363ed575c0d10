#include "ops/cpu/cpu_kv.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool cpu_kv_layout_of(const ops_kv_spec *spec, cpu_kv_layout *out)
{
    static const size_t element[] = {[OPS_KV_F32] = 4, [OPS_KV_F16] = 2, [OPS_KV_BF16] = 2, [OPS_KV_Q8] = 1, [OPS_KV_F8] = 1};
    if ((unsigned)spec->type >= OPS_KV_TYPES || spec->n_layers < 0 || spec->n_kv_heads < 0 || spec->head_dim <= 0 || spec->head_dim > 65536 || spec->n_blocks < 0)
        return false;
    size_t e = mem_align((size_t)spec->head_dim, 16);
    size_t codes = OPS_KV_BLOCK * e * element[spec->type];
    size_t scales = spec->type == OPS_KV_Q8 ? mem_align((e + CPU_KV_GROUP - 1) / CPU_KV_GROUP * OPS_KV_BLOCK * 2, 64) : 0;
    *out = (cpu_kv_layout){.type = spec->type, .head_dim = spec->head_dim, .padded = (int32_t)e, .k_scales = codes, .v_codes = codes + scales,
                           .v_scales = codes + scales + codes, .head_bytes = 2 * (codes + scales)};
    return mem_mul(out->head_bytes, (size_t)spec->n_kv_heads, &out->layer_bytes) && mem_mul(out->layer_bytes, (size_t)spec->n_layers, &out->block_bytes);
}

size_t cpu_kv_block_bytes(const ops_kv_spec *spec)
{
    cpu_kv_layout l;
    return cpu_kv_layout_of(spec, &l) ? l.block_bytes : 0;
}

status cpu_kv_create(ops_ctx *ctx, const ops_kv_spec *spec, ops_kv **out)
{
    (void)ctx;
    cpu_kv_layout layout;
    size_t bytes;
    *out = NULL;
    if (!cpu_kv_layout_of(spec, &layout) || !mem_mul(layout.block_bytes, (size_t)spec->n_blocks, &bytes))
        return FAIL(ST_INVALID, "KV cache of %lld blocks, %d layers, %d KV heads of %d: impossible size", (long long)spec->n_blocks, spec->n_layers,
                    spec->n_kv_heads, spec->head_dim);
    ops_kv *kv;
    TRY(mem_calloc(1, sizeof(*kv), "KV cache", &kv));
    *kv = (ops_kv){.spec = *spec, .layout = layout, .bytes = bytes};
    if (bytes > 0) {
        void *data;
        status st = mem_huge_alloc(bytes, "KV cache", &data);
        if (st != ST_OK) {
            free(kv);
            return st;
        }
        kv->data = data;
    }
    *out = kv;
    return ST_OK;
}

void cpu_kv_destroy(ops_ctx *ctx, ops_kv **kv)
{
    (void)ctx;
    if (*kv == NULL)
        return;
    if ((*kv)->bytes > 0)
        mem_huge_free((*kv)->data, (*kv)->bytes);
    free(*kv);
    *kv = NULL;
}

status cpu_kv_copy_block(ops_ctx *ctx, ops_kv *kv, int32_t from, int32_t to)
{
    (void)ctx;
    if (from < 0 || to < 0 || from >= kv->spec.n_blocks || to >= kv->spec.n_blocks)
        return FAIL(ST_INVALID, "KV block copy %d to %d: the cache has %lld blocks", from, to, (long long)kv->spec.n_blocks);
    if (from != to)
        memcpy(kv->data + (size_t)to * kv->layout.block_bytes, kv->data + (size_t)from * kv->layout.block_bytes, kv->layout.block_bytes);
    return ST_OK;
}
