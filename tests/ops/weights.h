/* tests/ops/weights.h - random packed weights and activations for the tests of products, and a context to run them in. */
#ifndef TESTS_OPS_WEIGHTS_H
#define TESTS_OPS_WEIGHTS_H

#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/mem.h"
#include "ops/cpu/cpu_linear.h"
#include "ops/cpu/cpu_vec.h"

static inline uint32_t weights_random(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}
static inline float weights_uniform(uint32_t *s) /* [-1, 1) */
{
    return (float)(int32_t)(weights_random(s) & 0xffff) / 32768.0f - 1.0f;
}
static inline uint16_t weights_half(uint32_t *s, float scale)
{
    return half_f32_to_f16(weights_uniform(s) * scale);
}

static inline void weights_fill_row(const packed_layout *l, void *m, int32_t r, uint32_t *seed)
{
    const packed_format *f = l->format;
    for (int32_t k = 0; !f->integer && k < l->shape.cols; k++) {
        float v = weights_uniform(seed);
        uint32_t bits = half_f32_bits(v);
        uint16_t h = l->shape.type == PACKED_BF16 ? half_f32_to_bf16(v) : half_f32_to_f16(v);
        uint8_t e = half_f32_to_e4m3(v * (k % 7 == 0 ? 0.01f : 30.0f)); /* subnormal ones too */
        packed_set_floats(l, m, r, k, 1, l->shape.type == PACKED_F32 ? (const void *)&bits : l->shape.type == PACKED_F8 ? (const void *)&e : (const void *)&h);
    }
    for (int32_t s = 0; !f->integer && s < l->supers; s++)
        packed_set_super_f32(l, m, r, s, weights_uniform(seed) * 0.05f);
    if (!f->integer)
        return;
    for (int32_t u = 0; u < l->units; u++) {
        uint8_t codes[PACKED_UNIT];
        for (int k = 0; k < PACKED_UNIT; k++)
            codes[k] = u * PACKED_UNIT + k < l->shape.cols ? (uint8_t)(weights_random(seed) & ((1u << f->bits) - 1)) : 0;
        packed_set_unit(l, m, r, u, codes);
    }
    for (int32_t g = 0; g < l->groups && g * f->group < l->shape.cols; g++) {
        if (f->scale == PACKED_SCALE_F16)
            packed_set_scale(l, m, r, g, weights_half(seed, 0.1f), weights_half(seed, 0.5f));
        else
            packed_set_scale(l, m, r, g, (uint16_t)(weights_random(seed) & 255), (uint16_t)(weights_random(seed) & 255));
    }
    for (int32_t s = 0; s < l->supers; s++)
        packed_set_super(l, m, r, s, weights_half(seed, 0.01f), weights_half(seed, 0.01f));
}

static inline ops_buf weights_buf(size_t bytes)
{
    ops_buf b = {.bytes = mem_align(bytes, 64), .owned = true};
    b.data = aligned_alloc(64, b.bytes);
    memset(b.data, 0, b.bytes);
    return b;
}

static inline ops_buf weights_make(packed_shape shape, uint32_t seed)
{
    packed_layout l;
    if (!packed_layout_of(shape, &l))
        abort();
    ops_buf b = weights_buf(l.bytes);
    for (int32_t r = 0; r < shape.rows; r++)
        weights_fill_row(&l, b.data, r, &seed);
    return b;
}

static inline ops_mat weights_mat(ops_buf *buf, ops_type type, int32_t cols)
{
    return (ops_mat){.buf = buf, .type = type, .cols = cols, .stride = ops_row_bytes(type, cols)};
}

/* Only what linear uses of a context. */
static inline status weights_ctx(cpu_isa isa, int n_threads, int32_t max_rows, int32_t max_cols, ops_ctx *out)
{
    *out = (ops_ctx){.isa = isa, .linear = cpu_linear_kernels_of(isa), .n_threads = n_threads, .max_rows = max_rows, .max_cols = max_cols};
    TRY(threads_create(&(threads_options){.n_threads = n_threads, .spin = true, .first_core = -1}, &out->pool));
    out->thread_scratch_bytes = cpu_linear_scratch_bytes(max_rows, max_cols);
    out->thread_scratch = aligned_alloc(64, out->thread_scratch_bytes * (size_t)n_threads);
    out->quantise_scratch = aligned_alloc(64, mem_align(cpu_quantise_scratch_bytes(max_rows, max_cols), 64));
    return ST_OK;
}
static inline void weights_ctx_free(ops_ctx *ctx)
{
    threads_destroy(&ctx->pool);
    free(ctx->thread_scratch);
    free(ctx->quantise_scratch);
}

/* The levels that can run here: all of them where they are emulated. */
static inline int weights_levels(cpu_isa out[CPU_ISAS])
{
    int n = 0;
    for (int i = 0; i < CPU_ISAS; i++)
        if (cpu_isa_lacks((cpu_isa)i) == NULL && cpu_linear_kernels_of((cpu_isa)i) != NULL)
            out[n++] = (cpu_isa)i;
    return n;
}

#endif
