/* ops/cuda/k_blaslt.cu - what goes with a product by cuBLASLt: weights turned to its order at load, the bias and what is added to, and the start-up check; x in fp8.
 *
 * A launch has 256 threads a block; a thread has four neighbouring columns of a row (16 bytes) or fewer at the row's end. */
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"

#define THREADS 256

/* A panel is [cols / 2][16] words of two bf16, and becomes [16][cols / 2]; or [cols][16] bytes, and becomes [16][cols].  Grid: x panels, y runs of 16 x 16 bytes of all 16 rows.
 * Neighbouring threads have neighbouring rows, so that what is read lies together; a thread writes 16 bytes.  At load only. */
template <class T> static __global__ void __launch_bounds__(THREADS) blaslt_turn_kernel(const char *from, int64_t from_bytes, T *to, int32_t words)
{
    constexpr int EACH = 16 / sizeof(T);
    const int32_t row = (int32_t)threadIdx.x % PACKED_ROWS, word = ((int32_t)blockIdx.y * (THREADS / PACKED_ROWS) + (int32_t)threadIdx.x / PACKED_ROWS) * EACH;
    if (word >= words)
        return;
    const T *at = reinterpret_cast<const T *>(from + blockIdx.x * from_bytes) + (int64_t)word * PACKED_ROWS + row;
    uint32_t v[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < EACH; i++)
        v[i * (int)sizeof(T) / 4] |= (uint32_t)at[i * PACKED_ROWS] << (i * (int)sizeof(T) % 4 * 8);
    *reinterpret_cast<uint4 *>(to + (int64_t)blockIdx.x * PACKED_ROWS * words + (int64_t)row * words + word) = make_uint4(v[0], v[1], v[2], v[3]);
}

cudaError_t k_blaslt_turn(const void *from, int64_t from_bytes, void *to, int32_t panels, int32_t cols, int32_t bytes, cudaStream_t s)
{
    const int32_t runs = (cols * bytes + THREADS - 1) / THREADS;
    const dim3 grid((unsigned)panels, (unsigned)runs);
    if (bytes == 2)
        return GPU_LAUNCH((blaslt_turn_kernel<uint32_t>), grid, dim3(THREADS), 0, s, static_cast<const char *>(from), from_bytes, static_cast<uint32_t *>(to), cols / 2);
    return GPU_LAUNCH((blaslt_turn_kernel<uint8_t>), grid, dim3(THREADS), 0, s, static_cast<const char *>(from), from_bytes, static_cast<uint8_t *>(to), cols);
}

/* Grid: x rows, y runs of 1024 columns.  The order is that of the own kernels (linear_store): the product and the bias first, then what was there. */
static __global__ void __launch_bounds__(THREADS) blaslt_add_kernel(const int32_t *n, const __grid_constant__ gpu_blaslt_add a)
{
    const int32_t row = (int32_t)blockIdx.x, c = ((int32_t)blockIdx.y * THREADS + (int32_t)threadIdx.x) * 4;
    if ((n != nullptr && a.row + row >= *n) || c >= a.cols)
        return;
    const float4 p = *reinterpret_cast<const float4 *>(a.p + row * a.p_stride + c);
    float *y = reinterpret_cast<float *>(static_cast<char *>(a.y.p) + (int64_t)(a.row + row) * a.y.stride) + c;
    float v[4] = {p.x, p.y, p.z, p.w};
    const bool whole = c + 4 <= a.cols;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (c + i >= a.cols)
            continue;
        if (a.row_scale != nullptr)
            v[i] = v[i] * a.col_scale[c + i] * a.row_scale[a.row + row];
        if (a.bias != nullptr)
            v[i] += a.bias[c + i];
        if (a.accumulate)
            v[i] = y[i] + v[i];
        if (!whole)
            y[i] = v[i];
    }
    if (whole)
        *reinterpret_cast<float4 *>(y) = make_float4(v[0], v[1], v[2], v[3]);
}

cudaError_t k_blaslt_add(const int32_t *n, const gpu_blaslt_add *a, cudaStream_t s)
{
    if (a->rows <= 0)
        return cudaSuccess;
    return GPU_LAUNCH(blaslt_add_kernel, dim3((unsigned)a->rows, (unsigned)((a->cols + 4 * THREADS - 1) / (4 * THREADS))), dim3(THREADS), 0, s, n, *a);
}

/* Word i: 16 bits of a mixed counter as an integer over 2^15, for either half. */
static __global__ void __launch_bounds__(THREADS) blaslt_numbers_kernel(uint32_t *x, int64_t words)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= words)
        return;
    uint64_t h = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 32) * 0xbf58476d1ce4e5b9u;
    x[i] = gpu_pack_bf16((float)(int16_t)(h >> 32) * 0x1p-15f, (float)(int16_t)(h >> 48) * 0x1p-15f);
}

/* Byte i: a sign, an exponent from -3 to 1 and a fraction from a mixed counter. */
static __global__ void __launch_bounds__(THREADS) blaslt_numbers8_kernel(uint32_t *x, int64_t words)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= words)
        return;
    uint64_t h = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
    h = (h ^ h >> 32) * 0xbf58476d1ce4e5b9u;
    x[i] = ((uint32_t)(h >> 32) & 0x8f8f8f8fu) + 0x20202020u + ((uint32_t)(h >> 20) & 0x18181818u);
}

cudaError_t k_blaslt_numbers(void *x, int64_t n, int32_t bytes, cudaStream_t s)
{
    if (bytes == 1)
        return GPU_LAUNCH(blaslt_numbers8_kernel, dim3((unsigned)((n / 4 + THREADS - 1) / THREADS)), dim3(THREADS), 0, s, static_cast<uint32_t *>(x), n / 4);
    return GPU_LAUNCH(blaslt_numbers_kernel, dim3((unsigned)((n / 2 + THREADS - 1) / THREADS)), dim3(THREADS), 0, s, static_cast<uint32_t *>(x), n / 2);
}

/* Grid: x rows, y runs of 256 columns. */
static __global__ void __launch_bounds__(THREADS) blaslt_compare_kernel(const float *a, const float *b, int64_t stride, int32_t cols, uint32_t *differ)
{
    const int32_t c = (int32_t)blockIdx.y * THREADS + (int32_t)threadIdx.x;
    const int64_t at = (int64_t)blockIdx.x * stride + c;
    if (c < cols && __float_as_uint(a[at]) != __float_as_uint(b[at]))
        atomicOr(differ, 1u);
}

cudaError_t k_blaslt_compare(const float *a, const float *b, int64_t stride, int32_t rows, int32_t cols, uint32_t *differ, cudaStream_t s)
{
    return GPU_LAUNCH(blaslt_compare_kernel, dim3((unsigned)rows, (unsigned)((cols + THREADS - 1) / THREADS)), dim3(THREADS), 0, s, a, b, stride, cols, differ);
}

/* ---- fp8 ---- */

/* The largest of a block's values, in every thread. */
GPU_FN float block_max(float v, float *shared)
{
#pragma unroll
    for (int m = 16; m > 0; m /= 2)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, m));
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++)
        v = fmaxf(v, shared[w]);
    return v;
}

/* A block a row, read twice.  Limit: memory (the second time, the L2 cache). */
static __global__ void __launch_bounds__(THREADS) blaslt_codes_kernel(const int32_t *n, gpu_mat x, char *codes, float *scales)
{
    GPU_SHARED(float, shared, [THREADS / 32]);
    const int32_t row = (int32_t)blockIdx.x, cols = x.cols;
    if (n != nullptr && row >= *n)
        return;
    const float4 *from = reinterpret_cast<const float4 *>(static_cast<const char *>(x.p) + row * x.stride);
    float largest = 0.0f;
    for (int32_t i = (int32_t)threadIdx.x; i < cols / 4; i += THREADS) {
        const float4 v = from[i];
        largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
    }
    const float scale = fmaxf(block_max(largest, shared) / 448.0f, 0x1p-126f), up = 1.0f / scale; /* of a row of nothing, or next to it, a number too */
    uint32_t *to = reinterpret_cast<uint32_t *>(codes + (int64_t)row * cols);
    for (int32_t i = (int32_t)threadIdx.x; i < cols / 4; i += THREADS) {
        const float4 v = from[i];
        to[i] = (uint32_t)gpu_f32_to_e4m3(v.x * up) | (uint32_t)gpu_f32_to_e4m3(v.y * up) << 8 | (uint32_t)gpu_f32_to_e4m3(v.z * up) << 16 | (uint32_t)gpu_f32_to_e4m3(v.w * up) << 24;
    }
    if (threadIdx.x == 0)
        scales[row] = scale;
}

cudaError_t k_blaslt_codes(int32_t rows, const int32_t *n, gpu_mat x, void *codes, float *scale, cudaStream_t s)
{
    if (rows <= 0)
        return cudaSuccess;
    return GPU_LAUNCH(blaslt_codes_kernel, dim3((unsigned)rows), dim3(THREADS), 0, s, n, x, static_cast<char *>(codes), scale);
}

/* A thread a row.  At load only. */
static __global__ void __launch_bounds__(THREADS) blaslt_scales_kernel(const __grid_constant__ gpu_weight w, float *scale, uint32_t *differ)
{
    const int32_t row = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (row >= w.panels * PACKED_ROWS)
        return;
    const float *at = reinterpret_cast<const float *>(static_cast<const char *>(w.p) + (int64_t)(row / PACKED_ROWS) * w.panel_bytes + w.super_offset) + row % PACKED_ROWS;
    for (int32_t i = 1; i < w.supers; i++)
        if (row < w.rows && at[(int64_t)i * PACKED_ROWS] != at[0])
            atomicOr(differ, 1u);
    scale[row] = at[0];
}

cudaError_t k_blaslt_scales(const gpu_weight *w, float *scale, uint32_t *differ, cudaStream_t s)
{
    return GPU_LAUNCH(blaslt_scales_kernel, dim3((unsigned)((w->panels * PACKED_ROWS + THREADS - 1) / THREADS)), dim3(THREADS), 0, s, *w, scale, differ);
}

/* A warp an output.  At load only. */
static __global__ void __launch_bounds__(THREADS) blaslt_near_kernel(const uint8_t *w, const uint8_t *x, const float *y, int32_t cols, int32_t k, uint32_t *differ)
{
    const int32_t out = (int32_t)(blockIdx.x * (THREADS / 32) + threadIdx.x / 32);
    if (out >= cols)
        return;
    float sum = 0.0f, size = 0.0f;
    for (int32_t i = (int32_t)threadIdx.x % 32; i < k; i += 32) {
        const float p = gpu_e4m3_to_f32(w[(int64_t)out * k + i]) * gpu_e4m3_to_f32(x[i]);
        sum += p;
        size += fabsf(p);
    }
    sum = gpu_warp_sum(sum);
    size = gpu_warp_sum(size);
    if (threadIdx.x % 32 == 0 && !(fabsf(sum - y[out]) <= size * 0x1p-7f))
        atomicOr(differ, 1u);
}

cudaError_t k_blaslt_near(const void *w, const void *x, const float *y, int32_t cols, int32_t k, uint32_t *differ, cudaStream_t s)
{
    return GPU_LAUNCH(blaslt_near_kernel, dim3((unsigned)((cols + THREADS / 32 - 1) / (THREADS / 32))), dim3(THREADS), 0, s, static_cast<const uint8_t *>(w),
                      static_cast<const uint8_t *>(x), y, cols, k, differ);
}
