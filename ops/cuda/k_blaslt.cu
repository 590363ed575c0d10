/* ops/cuda/k_blaslt.cu - what goes with a product by cuBLASLt: weights turned to its order at load, the bias and what is added to, and the start-up check.
 *
 * A launch has 256 threads a block; a thread has four neighbouring columns of a row (16 bytes) or fewer at the row's end. */
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"

#define THREADS 256

/* A panel is [cols / 2][16] words of two bf16, and becomes [16][cols / 2].  Grid: x panels, y runs of 16 x 4 words of all 16 rows.  Neighbouring threads have
 * neighbouring rows, so that what is read lies together; a thread writes 16 bytes.  At load only. */
static __global__ void __launch_bounds__(THREADS) blaslt_turn_kernel(const uint32_t *from, uint32_t *to, int32_t words)
{
    const int32_t row = (int32_t)threadIdx.x % PACKED_ROWS, word = ((int32_t)blockIdx.y * (THREADS / PACKED_ROWS) + (int32_t)threadIdx.x / PACKED_ROWS) * 4;
    const int64_t panel = (int64_t)blockIdx.x * PACKED_ROWS * words;
    if (word >= words)
        return;
    const uint32_t *at = from + panel + (int64_t)word * PACKED_ROWS + row;
    *reinterpret_cast<uint4 *>(to + panel + (int64_t)row * words + word) = make_uint4(at[0], at[PACKED_ROWS], at[2 * PACKED_ROWS], at[3 * PACKED_ROWS]);
}

cudaError_t k_blaslt_turn(const void *from, void *to, int32_t panels, int32_t cols, cudaStream_t s)
{
    const int32_t words = cols / 2, run = THREADS / PACKED_ROWS * 4;
    return GPU_LAUNCH(blaslt_turn_kernel, dim3((unsigned)panels, (unsigned)((words + run - 1) / run)), dim3(THREADS), 0, s, static_cast<const uint32_t *>(from),
                      static_cast<uint32_t *>(to), words);
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

cudaError_t k_blaslt_numbers(void *x, int64_t n, cudaStream_t s)
{
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
