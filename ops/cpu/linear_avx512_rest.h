/* ops/cpu/linear_avx512_rest.h - what the levels above AVX-512 leave to it: functions for their tables, which look up the type that AVX-512's own are made for. */
#ifndef OPS_CPU_LINEAR_AVX512_REST_H
#define OPS_CPU_LINEAR_AVX512_REST_H

#include "ops/cpu/cpu_linear.h"

static inline void rest_one(const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)
{
    cpu_linear_avx512.one[l->shape.type](l, panel, n_panels, x, acc);
}

static inline void rest_few(const packed_layout *l, const char *panel, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)
{
    cpu_linear_avx512.few[l->shape.type](l, panel, x, row, n_rows, acc);
}

static inline void rest_floats(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    cpu_linear_avx512.floats[l->shape.type](l, panel, k0, k1, x, x_stride, n_rows, acc);
}

/* Of a block that was expanded too, whatever its panel's type is. */
static inline void rest_floats_f32(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    cpu_linear_avx512.floats[PACKED_F32](l, panel, k0, k1, x, x_stride, n_rows, acc);
}

static inline void rest_floats_one(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    cpu_linear_avx512.floats_one[l->shape.type](l, panel, n_panels, x, acc);
}

static inline void rest_expand(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out)
{
    cpu_linear_avx512.expand[l->shape.type](l, panel, k0, k1, out);
}

/* The members of a table that are AVX-512's for every level above it, all of which multiply bf16 themselves. */
#define REST_ONE(name, type, ...) [type] = rest_one,
#define REST_FEW(name, type, ...) [type] = rest_few,
#define REST_OF_AVX512                                                                                                                        \
    .one = {INTEGERS(REST_ONE)}, .few_rows = FEW_ROWS, .few = {INTEGERS(REST_FEW)},                                                           \
    .floats = {[PACKED_F32] = rest_floats_f32, [PACKED_F16] = rest_floats},                                                                   \
    .floats_one = {[PACKED_F32] = rest_floats_one, [PACKED_F16] = rest_floats_one, [PACKED_F8] = rest_floats_one},                            \
    .expand = {[PACKED_F8] = rest_expand}, .quantise = cpu_quantise_avx512

#endif
