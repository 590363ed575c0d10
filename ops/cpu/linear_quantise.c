/* ops/cpu/linear_quantise.c - one row of f32 to OPS_Q8; compiled for each instruction set over the sixteen lanes of vec.h. */
#include <string.h>

#include "ops/cpu/cpu_linear.h"
#include "ops/cpu/vec.h"

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

/* A group that holds an infinity or NaN gets codes of 0 under a scale of that kind, so that the product is NaN on every level: the largest magnitude as an
 * integer puts NaN on top. */
static float worst_of(const float *x)
{
    uint32_t top = 0;
    for (int i = 0; i < 32; i++) {
        uint32_t mag = half_f32_bits(x[i]) & 0x7fffffff;
        top = mag > top ? mag : top;
    }
    return half_bits_f32(top);
}

/* 32 floats.  Below 2^-100 the inverse scale could overflow: the group counts as zero. */
static inline void quantise_group(const float *x, int8_t *codes, float *scale, int32_t sums[2])
{
    vf v[2] = {vf_load(x), vf_load(x + 16)};
    vf lo = vf_abs(v[0]), hi = vf_abs(v[1]);
    float amax = vf_hmax(vf_max(lo, hi));
    if (vm_bits(vf_unordered(lo, hi)) != 0 || !(amax < INFINITY))
        amax = worst_of(x);
    *scale = amax < 0x1p-100f ? 0.0f : amax / 127.0f;
    if (!(amax >= 0x1p-100f && amax < INFINITY)) {
        memset(codes, 0, 32);
        sums[0] = sums[1] = 0;
        return;
    }
    vf inverse = vf_set1(127.0f / amax), magic = vf_set1(12582912.0f); /* 1.5 * 2^23: rounds to an integer, halves to even */
    for (int h = 0; h < 2; h++) {
        vf r = vf_add(vf_mul(v[h], inverse), magic);
        vi_store_i8(codes + 16 * h, vi_sub(vf_as_vi(r), vf_as_vi(magic)));
        sums[h] = (int32_t)vf_sum(vf_sub(r, magic)); /* exact: small integers */
    }
}

void PASTE(cpu_quantise, CPU_LEVEL)(const float *x, int32_t cols, void *row)
{
    cpu_q8_view at = cpu_q8_view_of(row, 0, cols);
    char *out = row;
    float *scale = (float *)(void *)(out + at.scale), *scaled32 = (float *)(void *)(out + at.scaled32), *scaled16 = (float *)(void *)(out + at.scaled16);
    int32_t *sum32 = (int32_t *)(void *)(out + at.sum32), *sum16 = (int32_t *)(void *)(out + at.sum16);
    int32_t groups = (int32_t)(cpu_q8_padded(cols) / 32);
    for (int32_t g = 0; g < groups; g++) {
        float tail[32] = {0};
        const float *from = x + 32 * g;
        if (32 * (g + 1) > cols) {
            if (32 * g < cols)
                memcpy(tail, from, (size_t)(cols - 32 * g) * 4);
            from = tail;
        }
        quantise_group(from, (int8_t *)out + 32 * g, &scale[g], &sum16[2 * g]);
        sum32[g] = sum16[2 * g] + sum16[2 * g + 1];
        scaled32[g] = scale[g] * (float)sum32[g];
        for (int h = 0; h < 2; h++)
            scaled16[2 * g + h] = scale[g] * (float)sum16[2 * g + h];
    }
}
