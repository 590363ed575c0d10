/* tests/cuda_on_host/probe.cu - kernels that try the emulation: one for each thing it offers, and one for each mistake it has to notice.
 * They are compiled by nvcc too, so that the host's twin of each wrapper stands beside PTX that assembles. */
#include "tests/cuda_on_host/probe.h"
#include "ops/cuda/gpu.cuh"

/* y[block] = sum of the block's x, by shuffles and shared memory. */
static __global__ void sum_kernel(const float *x, int n, float *y)
{
    GPU_SHARED(float, part, [32]);
    int t = (int)threadIdx.x, warp = t / 32, lane = t % 32;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + t;
    float v = i < n ? x[i] : 0.0f;
    for (int o = 16; o > 0; o /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = lane < (int)blockDim.x / 32 ? part[lane] : 0.0f;
        v = gpu_warp_sum(v);
        if (lane == 0)
            y[blockIdx.x] = v;
    }
}
extern "C" cudaError_t probe_sum(const float *x, int n, int threads, float *y, cudaStream_t s)
{
    return GPU_LAUNCH(sum_kernel, (unsigned)((n + threads - 1) / threads), (unsigned)threads, 0, s, x, n, y);
}

/* y[i] += add, for chains of launches whose order shows in the result: y = y * 3 + add. */
static __global__ void chain_kernel(int *y, int n, int add)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n)
        y[i] = (int)((unsigned)y[i] * 3u + (unsigned)add);
}
extern "C" cudaError_t probe_chain(int *y, int n, int add, cudaStream_t s)
{
    return GPU_LAUNCH(chain_kernel, (unsigned)((n + 63) / 64), 64, 0, s, y, n, add);
}

/* c[16][8] (f32) of a[16][16] and b[8][16] (16-bit, rows of k), through ldmatrix or by direct loads. */
template <bool F16, bool TRANSPOSED> static __global__ void mma_kernel(const uint16_t *a, const uint16_t *b, float *c)
{
    GPU_SHARED(uint16_t, sa, [16][16]);
    GPU_SHARED(uint16_t, sb, [16][8]); /* k rows when transposed */
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    for (int i = lane; i < 256; i += 32)
        sa[i / 16][i % 16] = a[i];
    for (int i = lane; i < 128; i += 32)
        if (TRANSPOSED)
            sb[i % 16][i / 16] = b[i];
        else
            (&sb[0][0])[i] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[2];
    float d[4] = {0, 0, 0, 0};
    gpu_ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
    if (TRANSPOSED)
        gpu_ldmatrix_x2_t(fb, &sb[lane % 16][0]);
    else
        gpu_ldmatrix_x2(fb, &sb[0][0] + lane % 8 * 16 + lane / 8 % 2 * 8);
    if (F16)
        gpu_mma_f16(d, fa, fb);
    else
        gpu_mma_bf16(d, fa, fb);
    for (int e = 0; e < 4; e++)
        c[(g + e / 2 * 8) * 8 + 2 * t + (e & 1)] = d[e];
}
extern "C" cudaError_t probe_mma(const uint16_t *a, const uint16_t *b, bool f16, bool transposed, float *c, cudaStream_t s)
{
    if (f16)
        return transposed ? GPU_LAUNCH((mma_kernel<true, true>), 1, 32, 0, s, a, b, c) : GPU_LAUNCH((mma_kernel<true, false>), 1, 32, 0, s, a, b, c);
    return transposed ? GPU_LAUNCH((mma_kernel<false, true>), 1, 32, 0, s, a, b, c) : GPU_LAUNCH((mma_kernel<false, false>), 1, 32, 0, s, a, b, c);
}

/* c[16][8] (s32) of a[16][32] and b[8][32] (bytes). */
template <bool A_UNSIGNED> static __global__ void mma_s8_kernel(const uint8_t *a, const int8_t *b, int32_t *c)
{
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    uint32_t fa[4], fb[2];
    for (int r = 0; r < 4; r++)
        fa[r] = *(const uint32_t *)(a + (g + r % 2 * 8) * 32 + r / 2 * 16 + 4 * t);
    for (int r = 0; r < 2; r++)
        fb[r] = *(const uint32_t *)(b + g * 32 + r * 16 + 4 * t);
    int32_t d[4];
    for (int e = 0; e < 4; e++)
        d[e] = c[(g + e / 2 * 8) * 8 + 2 * t + (e & 1)];
    if (A_UNSIGNED)
        gpu_mma_u8s8(d, fa, fb);
    else
        gpu_mma_s8(d, fa, fb);
    for (int e = 0; e < 4; e++)
        c[(g + e / 2 * 8) * 8 + 2 * t + (e & 1)] = d[e];
}
extern "C" cudaError_t probe_mma_s8(const uint8_t *a, const int8_t *b, bool a_unsigned, int32_t *c, cudaStream_t s)
{
    return a_unsigned ? GPU_LAUNCH(mma_s8_kernel<true>, 1, 32, 0, s, a, b, c) : GPU_LAUNCH(mma_s8_kernel<false>, 1, 32, 0, s, a, b, c);
}

/* y = x through shared memory in double-buffered asynchronous copies of 16, 8 and 4 bytes; n a multiple of 1024 bytes. */
static __global__ void staged_kernel(const unsigned char *x, int n, unsigned char *y, int mistake)
{
    GPU_DYN_SMEM(unsigned char, stage); /* [2][512] */
    int t = (int)threadIdx.x, steps = n / 512;
    for (int k = 0; k < 2; k++) {
        gpu_cp_async16(stage + k * 512 + t * 16, x + k * 512 + t * 16);
        gpu_cp_commit();
    }
    for (int k = 0; k < steps; k++) {
        if (mistake != 1)
            gpu_cp_wait<1>();
        __syncthreads();
        int other = (t + 7) % 32 * 16;
        *(uint4 *)(y + k * 512 + other) = *(const uint4 *)(stage + k % 2 * 512 + other);
        if (mistake != 2)
            __syncthreads();
        if (k + 2 < steps)
            gpu_cp_async16_fill(stage + k % 2 * 512 + t * 16, x + (k + 2) * 512 + t * 16, 16);
        gpu_cp_commit();
    }
}
extern "C" cudaError_t probe_staged(const unsigned char *x, int n, unsigned char *y, int mistake, cudaStream_t s)
{
    return GPU_LAUNCH(staged_kernel, 1, 32, 1024, s, x, n, y, mistake);
}

/* out[i] = results of the conversions and integer helpers on in[i]. */
static __global__ void numbers_kernel(const float *in, int n, probe_numbers *out)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n)
        return;
    float f = in[i];
    uint32_t u = __float_as_uint(f);
    probe_numbers r = {};
    r.bf16 = gpu_f32_to_bf16(f);
    r.f16 = gpu_f32_to_f16(f);
    r.e4m3 = gpu_f32_to_e4m3(f);
    r.from_bf16 = gpu_bf16_to_f32(r.bf16);
    r.from_f16 = gpu_f16_to_f32(r.f16);
    r.from_e4m3 = gpu_e4m3_to_f32(r.e4m3);
    r.from_e4m3x2 = gpu_e4m3_to_f16x2(((uint32_t)i & 255u) << 8 | (~(uint32_t)i & 255u) << 24 | 0x00a500ffu);
    r.mul16 = gpu_mul_f16x2(gpu_pack_f16(f, 1.0f), 0xc0003a00u);
    r.pack = gpu_pack_bf16(f, 1.0f);
    r.pack16 = gpu_pack_f16(f, 1.0f);
    r.fma = gpu_fma(f, f, -1.0f);
    r.dp4a = gpu_dp4a(u, 0x80017fffu, 5);
    r.dp4a_us = gpu_dp4a_us(u, 0x80017fffu, 5);
    r.rounded = __float2int_rn(f);
    r.perm = __byte_perm(u, ~u, 0x7150u);
    out[i] = r;
}
extern "C" cudaError_t probe_numbers_of(const float *in, int n, probe_numbers *out, cudaStream_t s)
{
    return GPU_LAUNCH(numbers_kernel, (unsigned)((n + 127) / 128), 128, 0, s, in, n, out);
}

/* out[8 warps]: what the warp operations give. */
static __global__ void warp_kernel(int *out)
{
    int t = (int)threadIdx.x, lane = t % 32, warp = t / 32;
    int v = t * 7 % 31;
    unsigned low = 0x0000ffffu, mine = lane < 16 ? low : ~low;
    int sum = v;
    for (int o = 8; o > 0; o /= 2)
        sum += __shfl_down_sync(mine, sum, (unsigned)o, 16);
    sum = __shfl_sync(mine, sum, 0, 16); /* lane 0 of its half */
    unsigned ballot = __ballot_sync(0xffffffffu, v > 15), same = __match_any_sync(0xffffffffu, v % 4);
    int up = __shfl_up_sync(0xffffffffu, v, 3), most = __reduce_max_sync(0xffffffffu, v), all = gpu_warp_sum_s32(v);
    int any = __any_sync(0xffffffffu, v == 30), every = __all_sync(0xffffffffu, v >= 0);
    int count = __syncthreads_count(v > 15);
    out[t] = sum + 31 * up + 7 * most + 3 * all + any + 2 * every + (int)(ballot % 1009) + (int)(same % 997) + 13 * count + 1000000 * (warp % 2);
}
extern "C" cudaError_t probe_warp(int *out, int threads, cudaStream_t s)
{
    return GPU_LAUNCH(warp_kernel, 1, (unsigned)threads, 0, s, out);
}

/* The last block to come adds up what the others wrote. */
static __global__ void ticket_kernel(uint32_t *ticket, int *part, int *total)
{
    GPU_SHARED(int, last, [1]);
    if (threadIdx.x == 0) {
        part[blockIdx.x] = (int)blockIdx.x + 1;
        last[0] = gpu_add_acq_rel_gpu(ticket, 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last[0] && threadIdx.x == 0) {
        int sum = 0;
        for (unsigned b = 0; b < gridDim.x; b++)
            sum += part[b];
        *total = sum;
        *ticket = 0;
    }
}
extern "C" cudaError_t probe_ticket(uint32_t *ticket, int *part, int *total, int blocks, cudaStream_t s)
{
    return GPU_LAUNCH(ticket_kernel, (unsigned)blocks, 64, 0, s, ticket, part, total);
}

/* Waits for another process to raise a flag, then raises its own. */
static __global__ void flag_kernel(const uint32_t *theirs, uint32_t *ours, const int *data, int *out, uint32_t value)
{
    if (threadIdx.x == 0) {
        gpu_store_release_sys(ours, value);
        while (gpu_load_acquire_sys(theirs) < value)
            gpu_pause();
    }
    __syncthreads();
    out[threadIdx.x] = data[threadIdx.x];
}
extern "C" cudaError_t probe_flag(const uint32_t *theirs, uint32_t *ours, const int *data, int *out, uint32_t value, cudaStream_t s)
{
    return GPU_LAUNCH(flag_kernel, 1, 64, 0, s, theirs, ours, data, out, value);
}

/* More dynamic shared memory than 48 KiB. */
static __global__ void big_kernel(int *out, int words)
{
    GPU_DYN_SMEM(int, s);
    for (int i = (int)threadIdx.x; i < words; i += 32)
        s[i] = i;
    __syncthreads();
    if (threadIdx.x == 0)
        *out = s[words - 1] + s[0];
}
extern "C" cudaError_t probe_big(int *out, int words, bool allow, cudaStream_t s)
{
    if (allow) {
        cudaError_t e = gpu_allow_smem(big_kernel, (size_t)words * 4);
        if (e != cudaSuccess)
            return e;
    }
    return GPU_LAUNCH(big_kernel, 1, 32, (size_t)words * 4, s, out, words);
}

/* ---- mistakes: out[i] would be 2 * x[(i + 1) % 64] of x[64], by 64 threads, if they were not made ---- */

static __global__ void mistake_kernel(int which, const float *x, float *out, unsigned *word)
{
    GPU_SHARED(float, tile, [64]);
    int t = (int)threadIdx.x, lane = t % 32, warp = t / 32;
    if (which != PROBE_UNINITIALISED_SHARED)
        tile[t] = x[t];
    switch (which) {
    case PROBE_NO_BARRIER:
        break;
    case PROBE_DIVERGENT_BARRIER:
        if (t < 32)
            __syncthreads();
        else
            __syncthreads();
        break;
    case PROBE_BARRIER_AFTER_RETURN:
        if (t == 5)
            return;
        __syncthreads();
        break;
    case PROBE_NO_SYNCWARP:
        tile[t] = x[t];
        out[t] = 2 * tile[warp * 32 + (lane + 1) % 32];
        return;
    case PROBE_HALF_WARP:
        if (lane < 16)
            tile[t] = gpu_warp_sum(tile[t]);
        __syncthreads();
        break;
    case PROBE_LANE_NOT_IN_MASK:
        tile[t] += __shfl_xor_sync(0x0000ffffu, 0.0f, 1);
        __syncthreads();
        break;
    case PROBE_LANE_OUTSIDE_MASK:
        if (lane < 16)
            tile[t] += __shfl_xor_sync(0x0000ffffu, 0.0f, 16);
        __syncthreads();
        break;
    case PROBE_TWO_OPERATIONS:
        if (lane < 16)
            tile[t] += __shfl_xor_sync(0xffffffffu, 0.0f, 1);
        else
            tile[t] += __shfl_xor_sync(0xffffffffu, 0.0f, 1);
        __syncthreads();
        break;
    case PROBE_READ_PAST_END:
        __syncthreads();
        out[t] = x[t + 64];
        return;
    case PROBE_WRITE_PAST_END:
        __syncthreads();
        out[t + 1] = 2 * tile[(t + 1) % 64];
        return;
    case PROBE_SHARED_PAST_END:
        __syncthreads();
        out[t] = tile[t + 1];
        return;
    case PROBE_SAME_WORD:
        *word = (unsigned)t;
        __syncthreads();
        break;
    case PROBE_MISALIGNED:
        __syncthreads();
        out[t] = (float)gpu_load_once16((const char *)x + 4).x;
        return;
    case PROBE_TRAP:
        GPU_TRAP("as asked");
        break;
    default:
        __syncthreads();
        break;
    }
    out[t] = 2 * tile[(t + 1) % 64];
}
extern "C" cudaError_t probe_mistake(int which, const float *x, float *out, unsigned *word, cudaStream_t s)
{
    return GPU_LAUNCH(mistake_kernel, 1, 64, 0, s, which, x, out, word);
}
