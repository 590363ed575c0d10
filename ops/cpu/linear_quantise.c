/* ops/cpu/linear_quantise.c - one row of f32 to OPS_Q8; compiled for each instruction set from portable vectors. */
#include <string.h>

#include "ops/cpu/cpu_linear.h"

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

/* 32 floats.  Comparing magnitudes as integers is exact and free of order, and puts infinities and NaN on top: such a group gets codes of 0 under that
 * scale, so that the product is NaN on every level.  Below 2^-100 the inverse scale could overflow: the group counts as zero. */
static void quantise_group(const float *x, int8_t *codes, float *scale, int32_t sums[2])
{
    f32x16 v[2];
    i32x16 mag[2], most;
    memcpy(v, x, sizeof(v));
    memcpy(mag, x, sizeof(mag));
    mag[0] &= 0x7fffffff;
    mag[1] &= 0x7fffffff;
    i32x16 first = mag[0] > mag[1];
    most = (mag[0] & first) | (mag[1] & ~first);
    int32_t top = 0;
    for (int i = 0; i < 16; i++)
        top = most[i] > top ? most[i] : top;
    float amax;
    memcpy(&amax, &top, 4);
    *scale = amax < 0x1p-100f ? 0.0f : amax / 127.0f;
    if (top >= 0x7f800000 || amax < 0x1p-100f) {
        memset(codes, 0, 32);
        sums[0] = sums[1] = 0;
        return;
    }
    float inverse = 127.0f / amax;
    for (int h = 0; h < 2; h++) {
        f32x16 r = v[h] * inverse + 12582912.0f; /* 1.5 * 2^23: rounds to an integer, halves to even */
        i32x16 q;
        memcpy(&q, &r, sizeof(q));
        q -= 0x4b400000; /* the bits of that constant */
        i8x16 bytes = __builtin_convertvector(q, i8x16);
        memcpy(codes + 16 * h, &bytes, 16);
        int32_t sum = 0;
        for (int i = 0; i < 16; i++)
            sum += q[i];
        sums[h] = sum;
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
