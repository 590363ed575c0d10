/* ops/cuda/k_moe.cu - layers of experts: which rows go where, rows for pairs, and results back together (the words: kernels.h; what is chosen: ops.h).
 *
 * route is two launches.  In the first a warp chooses for a row: keys lie in shared memory, and each choice is the greatest key below the one before, so that
 * nothing has to be marked.  Scores, sums and order are the CPU's bit for bit (sixteen lanes, one tree).  In the second a block places one expert's pairs: it counts all
 * pairs by expert, which says where its own begin and which tiles are its own, then numbers its own in order.  No block waits for another, nothing depends on which
 * runs first, and a step of a few rows costs each block a few hundred bytes of L2.  Limit: latency. */
#include "ops/cuda/rows.cuh"

#define LANES 16 /* of sums (ops.h) */
#define SORT_THREADS 256
#define PIECE_THREADS 128
#define PIECE (4 * PIECE_THREADS) /* columns of a row that one block has */

int32_t gpu_expert_tile_rows(int32_t pairs, int32_t n_experts)
{
    return pairs / 8 <= n_experts ? 8 : 32;
}

int32_t gpu_expert_tiles(int32_t pairs, int32_t n_local, int32_t tile_rows)
{
    /* n pairs of one expert are at most n / tile_rows + 1 tiles, and no more than n. */
    const int64_t most = (int64_t)pairs / tile_rows + n_local;
    return (int32_t)(most < pairs ? most : pairs);
}

/* ---- the choice ---- */

/* Greater is better: the key in a form that keeps its order, NaN below all; of equal keys the lowest index. */
GPU_FN unsigned long long rank_of(float key, int32_t index)
{
    uint32_t u = __float_as_uint(key + 0.0f); /* -0 and 0 are one */
    u = u >> 31 ? ~u : u | 0x80000000u;
    return (unsigned long long)(key == key ? u : 0) << 32 | (uint32_t)~index;
}

GPU_FN int32_t index_of(unsigned long long rank)
{
    return (int32_t)~(uint32_t)rank;
}

GPU_FN unsigned long long warp_greatest(unsigned long long v)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2) {
        const unsigned long long other = __shfl_xor_sync(ROWS_ALL, v, o);
        v = other > v ? other : v;
    }
    return v;
}

/* Maximum and sum of exp(l - maximum) of n logits, for all lanes. */
GPU_FN void softmax_of(const float *l, int32_t n, int lane, float *max, float *sum)
{
    float m = -INFINITY, acc = 0.0f;
    for (int32_t i = lane; i < n; i += 32)
        m = l[i] > m ? l[i] : m;
    *max = m = gpu_warp_max(m);
    for (int32_t i = lane % LANES; i < n; i += LANES) /* both halves of the warp the same */
        acc += row_exp(l[i] - m);
#pragma unroll
    for (int o = LANES / 2; o > 0; o /= 2)
        acc += __shfl_xor_sync(ROWS_ALL, acc, o);
    *sum = acc;
}

/* What the group of keys is worth: its best, or its two best together. */
GPU_FN float group_key(const float *key, int32_t n, bool by_two)
{
    unsigned long long first = 0, second = 0;
    for (int32_t i = 0; i < n; i++) {
        const unsigned long long r = rank_of(key[i], i);
        if (r > first) {
            second = first;
            first = r;
        } else if (r > second) {
            second = r;
        }
    }
    const float best = key[index_of(first)];
    return by_two && n > 1 ? best + key[index_of(second)] : best;
}

/* A warp, and a block, a row.  Shared: the groups' ranks, then the experts' keys. */
static __global__ void __launch_bounds__(32) route_kernel(int32_t rows, const int32_t *n, const __grid_constant__ gpu_route a)
{
    GPU_DYN_SMEM(unsigned long long, group);
    const int32_t row = (int32_t)blockIdx.x, experts = a.to.n_experts, k = a.to.top_k, groups = a.n_groups > 1 ? a.n_groups : 1, each = experts / groups;
    if (row >= (n != NULL ? *n : rows))
        return;
    float *key = (float *)(group + groups);
    const int lane = (int)threadIdx.x;
    const float *l = (const float *)row_at(&a.logits, row);
    const bool sigmoid = a.scoring == OPS_SCORE_SIGMOID, by_score = a.bias != NULL || a.rate_by_two;
    float max = 0.0f, sum = 1.0f;
    if (a.scoring == OPS_SCORE_SOFTMAX)
        softmax_of(l, experts, lane, &max, &sum);
    for (int32_t e = lane; e < experts; e += 32) {
        float v = l[e];
        if (by_score)
            v = sigmoid ? 1.0f / (1.0f + row_exp(-v)) : row_exp(v - max) / sum;
        key[e] = a.bias != NULL ? v + a.bias[e] : v;
    }
    __syncwarp();

    unsigned long long bar = ~0ull; /* the least rank of a group that takes part */
    if (groups > 1) {
        for (int32_t g = lane; g < groups; g += 32)
            group[g] = rank_of(group_key(key + g * each, each, a.rate_by_two), g);
        __syncwarp();
        for (int32_t j = 0; j < a.top_groups; j++) {
            unsigned long long best = 0;
            for (int32_t g = lane; g < groups; g += 32)
                best = group[g] < bar && group[g] > best ? group[g] : best;
            bar = warp_greatest(best);
        }
    }
    unsigned long long last = ~0ull;
    int32_t mine = 0; /* lane j: choice j */
    for (int32_t j = 0; j < k; j++) {
        unsigned long long best = 0;
        for (int32_t e = lane; e < experts; e += 32) {
            const unsigned long long r = rank_of(key[e], e);
            if (r < last && r > best && (groups == 1 || group[e / each] >= bar))
                best = r;
        }
        last = warp_greatest(best);
        mine = lane == j ? index_of(last) : mine;
    }

    const bool chosen = lane < k;
    float w = chosen ? l[mine] : -INFINITY;
    if (a.scoring == OPS_SCORE_CHOSEN) {
        max = gpu_warp_max(w);
        w = chosen ? row_exp(w - max) : 0.0f;
        w = w / gpu_warp_sum(w);
    } else {
        w = sigmoid ? 1.0f / (1.0f + row_exp(-w)) : row_exp(w - max) / sum;
    }
    w = chosen ? w : 0.0f;
    if (a.renormalise)
        w = w / (gpu_warp_sum(w) + 1e-20f);
    w = w * a.scale;
    if (chosen) {
        a.to.expert[(int64_t)row * k + lane] = mine;
        a.to.weight[(int64_t)row * k + lane] = w;
    }
}

/* ---- the order ---- */

/* Sum over the block's threads; all get it.  red: a word a warp; a barrier before it is used again is the caller's. */
GPU_FN int32_t block_sum(int32_t v, int32_t *red)
{
    const int lane = (int)threadIdx.x % 32;
    v = gpu_warp_sum_s32(v);
    if (lane == 0)
        red[threadIdx.x / 32] = v;
    __syncthreads();
    return gpu_warp_sum_s32(lane < SORT_THREADS / 32 ? red[lane] : 0);
}

/* A block an expert of this rank.  Shared: pairs of each of them. */
static __global__ void __launch_bounds__(SORT_THREADS) sort_kernel(int32_t rows, const int32_t *n, const __grid_constant__ gpu_routing r, int32_t tile_rows)
{
    GPU_DYN_SMEM(int32_t, count);
    GPU_SHARED(int32_t, red, [4][SORT_THREADS / 32]);
    const int32_t me = (int32_t)blockIdx.x, tid = (int32_t)threadIdx.x, there = n != NULL && *n < rows ? *n : rows, pairs = there * r.top_k;
    for (int32_t e = tid; e < r.n_local; e += SORT_THREADS)
        count[e] = 0;
    __syncthreads();
    for (int32_t p = tid; p < pairs; p += SORT_THREADS) {
        const int32_t e = r.expert[p] - r.expert_begin;
        if ((uint32_t)e < (uint32_t)r.n_local)
            atomicAdd(&count[e], 1);
    }
    __syncthreads();
    int32_t before = 0, tiles = 0;
    for (int32_t e = tid; e < me; e += SORT_THREADS) {
        before += count[e];
        tiles += (count[e] + tile_rows - 1) / tile_rows;
    }
    before = block_sum(before, red[0]);
    tiles = block_sum(tiles, red[1]);
    const int32_t own = count[me], own_tiles = (own + tile_rows - 1) / tile_rows;
    if (tid == 0) {
        r.offset[me] = before;
        if (me == r.n_local - 1) {
            r.offset[me + 1] = before + own;
            *r.n_tiles = tiles + own_tiles;
        }
    }
    for (int32_t i = tid; i < own_tiles; i += SORT_THREADS) {
        const int32_t end = (i + 1) * tile_rows;
        r.tiles[tiles + i] = {me, before + i * tile_rows, before + (end < own ? end : own), 0};
    }

    /* The own pairs, SORT_THREADS at a time, by turns in one half of the sums and the other: whoever writes a half again has met all at the other's barrier. */
    int32_t at = before, turn = 0;
    for (int32_t p0 = 0; p0 < pairs && at < before + own; p0 += SORT_THREADS) {
        const int32_t p = p0 + tid, warp = tid / 32;
        const bool hit = p < pairs && r.expert[p] - r.expert_begin == me;
        const uint32_t hits = __ballot_sync(ROWS_ALL, hit);
        int32_t *sums = red[2 + turn];
        if (tid % 32 == 0)
            sums[warp] = __popc(hits);
        __syncthreads();
        int32_t position = at + __popc(hits & ((1u << (tid % 32)) - 1u));
#pragma unroll
        for (int32_t w = 0; w < SORT_THREADS / 32; w++) {
            position += w < warp ? sums[w] : 0;
            at += sums[w];
        }
        if (hit) {
            r.order[position] = p;
            r.place[p] = position;
        }
        turn ^= 1;
    }
}

cudaError_t k_route(int32_t rows, const int32_t *n, const gpu_route *a, cudaStream_t s)
{
    if (rows <= 0)
        return cudaSuccess;
    const gpu_routing *r = &a->to;
    const size_t keys = (size_t)(a->n_groups > 1 ? a->n_groups : 1) * sizeof(unsigned long long) + (size_t)r->n_experts * sizeof(float);
    cudaError_t e = GPU_LAUNCH(route_kernel, dim3((unsigned)rows), dim3(32), keys, s, rows, n, *a);
    if (e != cudaSuccess || r->n_local == 0)
        return e;
    return GPU_LAUNCH(sort_kernel, dim3((unsigned)r->n_local), dim3(SORT_THREADS), (size_t)r->n_local * sizeof(int32_t), s, rows, n, *r,
                      gpu_expert_tile_rows(rows * r->top_k, r->n_experts));
}

/* ---- rows for pairs, and pairs for rows: 512 columns a block ---- */

static __global__ void __launch_bounds__(PIECE_THREADS) dispatch_kernel(const __grid_constant__ gpu_routing r, const __grid_constant__ gpu_mat x, const __grid_constant__ gpu_mat y)
{
    const int32_t position = (int32_t)blockIdx.x, i = (int32_t)(blockIdx.y * PIECE + threadIdx.x * 4);
    if (position >= r.offset[r.n_local])
        return;
    const int32_t pair = r.order[position];
    const float w = r.weight[pair];
    row4 v = row_load4((const float *)row_at(&x, pair / r.top_k), i, x.cols);
#pragma unroll
    for (int k = 0; k < 4; k++)
        v.v[k] = i + k < x.cols ? v.v[k] * w : 0.0f; /* the padding is zero whatever the weight is */
    row_put4(&y, row_at(&y, position), i, v);
}

cudaError_t k_dispatch(int32_t rows, const gpu_routing *r, gpu_mat x, gpu_mat y, cudaStream_t s)
{
    if (rows <= 0 || r->n_local == 0)
        return cudaSuccess;
    const dim3 grid((unsigned)(rows * r->top_k), (unsigned)(((int64_t)row_padded(y.type, y.cols) + PIECE - 1) / PIECE));
    return GPU_LAUNCH(dispatch_kernel, grid, dim3(PIECE_THREADS), 0, s, *r, x, y);
}

#define AT_ONCE 4 /* of a row's pairs, loaded together */

/* A row's pairs are looked up by a lane each, so that the loads of their results do not wait for one another. */
template <bool ALIGNED>
static __global__ void __launch_bounds__(PIECE_THREADS) combine_kernel(int32_t rows, const int32_t *n, const __grid_constant__ gpu_combine a)
{
    const int32_t row = (int32_t)blockIdx.x, i = (int32_t)(blockIdx.y * PIECE + threadIdx.x * 4), cols = a.x.cols, k = a.from.top_k;
    const int lane = (int)threadIdx.x % 32;
    if (row >= (n != NULL ? *n : rows))
        return;
    const int64_t pair = (int64_t)row * k + lane;
    int32_t place = -1;
    float weight = 1.0f;
    if (lane < k && (uint32_t)(a.from.expert[pair] - a.from.expert_begin) < (uint32_t)a.from.n_local) {
        place = a.from.place[pair];
        weight = a.weighed ? 1.0f : a.from.weight[pair];
    }
    float *y = (float *)row_at(&a.y, row);
    row4 sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (a.accumulate)
        sum = row_load4<ALIGNED>(y, i, cols);
    static_assert(OPS_MAX_CHOSEN == 32 && 32 % AT_ONCE == 0, "a lane a choice");
    for (int32_t j = 0; j < k; j += AT_ONCE) {
        row4 v[AT_ONCE];
        int32_t from[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            from[u] = __shfl_sync(ROWS_ALL, place, j + u); /* past the last choice: -1 */
            if (from[u] >= 0)
                v[u] = row_load4<ALIGNED>((const float *)row_at(&a.x, from[u]), i, cols);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            const float w = __shfl_sync(ROWS_ALL, weight, j + u);
#pragma unroll
            for (int c = 0; c < 4; c++)
                sum.v[c] = from[u] >= 0 ? gpu_fma(w, v[u].v[c], sum.v[c]) : sum.v[c];
        }
    }
    row_store4<ALIGNED>(y, i, cols, sum);
}

cudaError_t k_combine(int32_t rows, const int32_t *n, const gpu_combine *a, cudaStream_t s)
{
    if (rows <= 0)
        return cudaSuccess;
    const dim3 grid((unsigned)rows, (unsigned)(((int64_t)a->x.cols + PIECE - 1) / PIECE));
    return a->x.cols % 4 == 0 ? GPU_LAUNCH((combine_kernel<true>), grid, dim3(PIECE_THREADS), 0, s, rows, n, *a)
                              : GPU_LAUNCH((combine_kernel<false>), grid, dim3(PIECE_THREADS), 0, s, rows, n, *a);
}
