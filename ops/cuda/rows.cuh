/* ops/cuda/rows.cuh - what kernels that work along rows share: reading columns, writing them in any activation format, sums over a block, and the CPU's own
 * exp, tanh and erf (ops/cpu/vec_math.h: the same polynomials, rounded as there, so the same bits: compiled without contraction).
 *
 * Threads own columns by fours: thread t of a row's threads has columns 4t .. 4t + 3, and those a fixed step further on.  A warp then reads and writes whole
 * 128-byte lines with one 16-byte access a lane, and eight lanes that follow one another hold a group of 32 codes, four of them a half. */
#ifndef OPS_CUDA_ROWS_CUH
#define OPS_CUDA_ROWS_CUH

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"

#define ROWS_ALL 0xffffffffu
#define ROWS_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, halves to even, which then sits in the low bits */

struct row4 {
    float v[4];
};

/* p[i .. i + 4) of n floats, zeros outside [0, n); in one access where the address allows.  ALIGNED: it always does, and n is a multiple of 4. */
template <bool ALIGNED = false> GPU_FN row4 row_load4(const float *p, int32_t i, int32_t n)
{
    row4 r = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (ALIGNED ? (uint32_t)i < (uint32_t)n : i >= 0 && n - i >= 4 && ((uintptr_t)(p + i) & 15) == 0) {
        const float4 f = *(const float4 *)(p + i);
        r.v[0] = f.x;
        r.v[1] = f.y;
        r.v[2] = f.z;
        r.v[3] = f.w;
    } else if (!ALIGNED) {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (i + k >= 0 && i + k < n)
                r.v[k] = p[i + k];
    }
    return r;
}

/* p[i .. i + 4) = r, nothing from n on. */
template <bool ALIGNED = false> GPU_FN void row_store4(float *p, int32_t i, int32_t n, row4 r)
{
    if (ALIGNED ? i < n : n - i >= 4 && ((uintptr_t)(p + i) & 15) == 0) {
        *(float4 *)(p + i) = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
    } else if (!ALIGNED) {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (i + k < n)
                p[i + k] = r.v[k];
    }
}

static inline bool row_aligned(const void *p) /* NULL too */
{
    return ((uintptr_t)p & 15) == 0;
}

GPU_FN char *row_at(const gpu_mat *m, int64_t row)
{
    return (char *)m->p + row * m->stride;
}

/* Columns of a row with its padding, all of which are written. */
static __host__ __device__ __forceinline__ int32_t row_padded(int32_t type, int32_t cols)
{
    const int32_t unit = type == OPS_F32 ? 16 : type == OPS_BF16 ? 32 : 64;
    return (int32_t)(((int64_t)cols + unit - 1) / unit * unit);
}

/* Sum over the block's threads (whole warps), the same bits for all.  red: 2 x 32 floats of shared memory; turn: 0, 1, 0 ... from one call to the next, so that
 * one barrier a call suffices: who writes a half again has met everybody at the other half's barrier. */
GPU_FN float row_block_sum(float v, float *red, int turn)
{
    const int lane = (int)threadIdx.x & 31, warps = (int)blockDim.x >> 5;
    float *at = red + 32 * turn;
    v = gpu_warp_sum(v);
    if (lane == 0)
        at[threadIdx.x >> 5] = v;
    __syncthreads();
    return gpu_warp_sum(lane < warps ? at[lane] : 0.0f);
}

/* ---- writing a row in its format ---- */

/* W columns of a q8 row (kernels.h), as the CPU quantises them (linear_quantise.c): scale = amax / 127, code = round(x * (127 / amax)).  The largest magnitude
 * is found among bits, so that a NaN or an infinity ends on top: then codes 0 under a scale of that kind, and every product is NaN. */
template <int W> GPU_FN void row_put_q8(char *row, int32_t cols, int32_t i, const float (&v)[W])
{
    const int64_t padded = row_padded(OPS_Q8, cols), groups = padded / 32;
    uint32_t top = 0;
#pragma unroll
    for (int k = 0; k < W; k++) {
        const uint32_t magnitude = __float_as_uint(v[k]) & 0x7fffffffu;
        top = magnitude > top ? magnitude : top;
    }
#pragma unroll
    for (int o = 1; o < 32 / W; o *= 2) {
        const uint32_t other = __shfl_xor_sync(ROWS_ALL, top, o);
        top = other > top ? other : top;
    }
    const float amax = __uint_as_float(top);
    const bool usable = amax >= 0x1p-100f && amax < INFINITY; /* below 2^-100 the inverse could overflow: the group counts as zero */
    const float scale = amax < 0x1p-100f ? 0.0f : amax / 127.0f, inverse = usable ? 127.0f / amax : 0.0f;
    uint32_t codes = 0;
    int32_t sum = 0;
#pragma unroll
    for (int k = 0; k < W; k++) {
        const float rounded = (usable ? v[k] : 0.0f) * inverse + ROWS_MAGIC;
        const int32_t code = (int32_t)(__float_as_uint(rounded) - __float_as_uint(ROWS_MAGIC));
        codes |= ((uint32_t)code & 255u) << (8 * k);
        sum += code;
    }
#pragma unroll
    for (int o = 1; o < 16 / W; o *= 2)
        sum += __shfl_xor_sync(ROWS_ALL, sum, o);
    const int32_t sum32 = sum + __shfl_xor_sync(ROWS_ALL, sum, 16 / W);
    if (i >= padded)
        return;
    char *plane = row + padded;
    const int64_t group = i / 32, half = i / 16;
    if (W == 4)
        *(uint32_t *)(row + i) = codes;
    else
        *(uint8_t *)(row + i) = (uint8_t)codes;
    if (i % 16 == 0) {
        *(int32_t *)(plane + 12 * groups + 4 * half) = sum;
        *(float *)(plane + 20 * groups + 4 * half) = scale * (float)sum;
    }
    if (i % 32 == 0) {
        *(float *)(plane + 4 * group) = scale;
        *(int32_t *)(plane + 4 * groups + 4 * group) = sum32;
        *(float *)(plane + 8 * groups + 4 * group) = scale * (float)sum32;
    }
}

/* Columns [i, i + 4) of a row of y.  All lanes of a warp call together, lane l with the columns 4 l after lane 0's, which are a multiple of 128; columns past the
 * row's padded end are dropped, and those of the padding must be given as zeros. */
GPU_FN void row_put4(const gpu_mat *y, char *row, int32_t i, row4 r)
{
    if (y->type == OPS_Q8) {
        row_put_q8<4>(row, y->cols, i, r.v);
        return;
    }
    if (i >= row_padded(y->type, y->cols))
        return;
    if (y->type == OPS_F32)
        *(float4 *)(row + (int64_t)i * 4) = make_float4(r.v[0], r.v[1], r.v[2], r.v[3]);
    else
        *(uint2 *)(row + (int64_t)i * 2) = make_uint2(gpu_pack_bf16(r.v[0], r.v[1]), gpu_pack_bf16(r.v[2], r.v[3]));
}

/* The same with one column a lane: lane 0's is a multiple of 32. */
GPU_FN void row_put1(const gpu_mat *y, char *row, int32_t i, float v)
{
    const float one[1] = {v};
    if (y->type == OPS_Q8) {
        row_put_q8<1>(row, y->cols, i, one);
        return;
    }
    if (i >= row_padded(y->type, y->cols))
        return;
    if (y->type == OPS_F32)
        *(float *)(row + (int64_t)i * 4) = v;
    else
        *(uint16_t *)(row + (int64_t)i * 2) = gpu_f32_to_bf16(v);
}

/* ---- functions of the CPU's ops/cpu/vec_math.h ---- */

GPU_FN float row_pow2(int32_t n) /* 2^n, n in -126 .. 127 */
{
    return __uint_as_float((uint32_t)(n + 127) << 23);
}

GPU_FN float row_exp(float x)
{
    x = x > 90.0f ? 90.0f : x; /* NaN passes */
    x = x < -105.0f ? -105.0f : x;
    const float t = gpu_fma(x, 0x1.715476p+0f, ROWS_MAGIC), n = t - ROWS_MAGIC;
    const int32_t i = (int32_t)(__float_as_uint(t) - __float_as_uint(ROWS_MAGIC)), half = i >> 1;
    const float r = gpu_fma(n, 0x1.05c610p-29f, gpu_fma(-n, 0x1.62e430p-1f, x));
    float p = 0x1.6a1a9cp-10f;
    p = gpu_fma(p, r, 0x1.123fc6p-7f);
    p = gpu_fma(p, r, 0x1.555916p-5f);
    p = gpu_fma(p, r, 0x1.55548ap-3f);
    p = gpu_fma(p, r, 0x1.fffffcp-2f);
    p = gpu_fma(p, r * r, r) + 1.0f;
    return p * row_pow2(half) * row_pow2(i - half);
}

GPU_FN float row_tanh(float x)
{
    const float a = fabsf(x), z = x * x;
    float p = 0x1.197c5cp-9f;
    p = gpu_fma(p, z, -0x1.0c2186p-7f);
    p = gpu_fma(p, z, 0x1.6394e8p-6f);
    p = gpu_fma(p, z, -0x1.b9ef7ep-5f);
    p = gpu_fma(p, z, 0x1.11106cp-3f);
    p = gpu_fma(p, z, -0x1.555554p-2f);
    const float small = gpu_fma(p * z, x, x), t = row_exp(a * -2.0f), large = (1.0f - t) / (1.0f + t);
    return a < 0.625f ? small : copysignf(large, x);
}

GPU_FN float row_erf(float x)
{
    const float a = fabsf(x), z = x * x;
    float p = 0x1.60bc60p-14f;
    p = gpu_fma(p, z, -0x1.ab6e92p-11f);
    p = gpu_fma(p, z, 0x1.54ea64p-8f);
    p = gpu_fma(p, z, -0x1.b81228p-6f);
    p = gpu_fma(p, z, 0x1.ce2e34p-4f);
    p = gpu_fma(p, z, -0x1.812744p-2f);
    p = gpu_fma(p, z, 0x1.20dd76p+0f);
    const float small = x * p, b = a > 4.05f ? 4.05f : a; /* erfc(a) = exp(-q(a)) on [0.9, 4.05]; beyond, erf is 1 in f32 */
    float q = 0x1.5ed0f4p-16f;
    q = gpu_fma(q, b, -0x1.c54fa0p-12f);
    q = gpu_fma(q, b, 0x1.10aab2p-8f);
    q = gpu_fma(q, b, -0x1.9b19c4p-6f);
    q = gpu_fma(q, b, 0x1.bb5678p-4f);
    q = gpu_fma(q, b, 0x1.444b3ep-1f);
    q = gpu_fma(q, b, 0x1.21269ap+0f);
    q = gpu_fma(q, b, -0x1.65b278p-13f);
    const float large = 1.0f - row_exp(-q);
    return a < 0.91f ? small : copysignf(large, x);
}

#endif
