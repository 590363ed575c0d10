/* ops/cuda/k_sample.cu - rows of logits: maxima, sums, penalties, noise, the best tokens.
 *
 * Two launches.  sample_pieces: a block takes PIECE columns of a row, writes raw and adjusted logits, and leaves in scratch what its warps (units of
 * UNIT columns) found and the piece's own top tokens.  sample_merge: two blocks a row make one answer of them.  Pieces and units lie at fixed
 * columns and are merged in one order: no bit depends on the number of rows.  exp, log, tanh and the noise are step for step the CPU's (vec_math.h,
 * cpu_gumbel.c), so that raw and adjusted logits, noise and lists are its bits, given its logits; sums differ in the last bits (another tree).
 *
 * Top lists are exact: a token's place is a 64-bit word, the logit in an order-preserving form over the complement of the token, so that no two are
 * equal; the k greatest are found by radix selection (8 bits a pass, integer counts in shared memory), and at the end placed by their ranks. */
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"
#include "ops/cuda/rows.cuh"


namespace {

constexpr int THREADS = 256;
constexpr int UNIT = 512;              /* columns of a warp */
constexpr int PIECE = THREADS / 32 * UNIT;
constexpr int QUADS = UNIT / 32 / 4;   /* float4 a lane */
constexpr int KEEP = OPS_MAX_CANDIDATES;
constexpr int BINS = 256;
constexpr int MERGE_THREADS = 512;
constexpr int MERGE_KEYS = 16;         /* keys a thread holds */

/* What a warp found in its columns. */
struct alignas(16) found {
    float raw_max, raw_sum, max, sum; /* sums of exp(l - the unit's max) */
    unsigned long long best, hash;
};

/* ---- scratch: for each row the units' finds, then for each piece the places of its top tokens, raw and adjusted ---- */

__host__ __device__ int64_t pieces_of(int32_t cols)
{
    return ((int64_t)cols + PIECE - 1) / PIECE;
}

__host__ __device__ int64_t row_scratch(int64_t pieces)
{
    return pieces * (int64_t)(PIECE / UNIT * sizeof(found) + 2 * KEEP * sizeof(unsigned long long));
}

GPU_FN found *units_of(const gpu_sample &a, int32_t i, int64_t pieces)
{
    return (found *)((char *)a.scratch + i * row_scratch(pieces));
}

/* list 0: raw, 1: adjusted; k places a piece */
GPU_FN unsigned long long *places_of(const gpu_sample &a, int32_t i, int64_t pieces, int list)
{
    return (unsigned long long *)(units_of(a, i, pieces) + pieces * (PIECE / UNIT)) + list * pieces * KEEP;
}

/* ---- noise: each rounding where the CPU rounds (cpu_gumbel.c) ---- */

/* log(2^e (1 + f)) */
GPU_FN float log_of(float e, float f)
{
    float q = 0x1.1b467ep-4f;
    q = gpu_fma(q, f, -0x1.e316720p-4f);
    q = gpu_fma(q, f, 0x1.e665f00p-4f);
    q = gpu_fma(q, f, -0x1.fb3d680p-4f);
    q = gpu_fma(q, f, 0x1.2331100p-3f);
    q = gpu_fma(q, f, -0x1.5562fe0p-3f);
    q = gpu_fma(q, f, 0x1.99a55a0p-3f);
    q = gpu_fma(q, f, -0x1.ffffee0p-3f);
    q = gpu_fma(q, f, 0x1.5555460p-2f);
    float l = gpu_fma(gpu_mul(f, f), gpu_fma(q, f, -0.5f), f);
    return gpu_fma(e, 0x1.62p-1f, gpu_fma(e, 0x1.c85fe0p-10f, l));
}

/* x = 2^e m, m in [sqrt(1/2), sqrt(2)) */
GPU_FN float split(float x, float *e)
{
    uint32_t u = __float_as_uint(x);
    int32_t k = (int32_t)(u - 0x3f3504f3u) >> 23;
    *e = (float)k;
    return __uint_as_float(u - ((uint32_t)k << 23));
}

GPU_FN float gumbel_of(uint32_t word)
{
    float v = gpu_mul(gpu_fma((float)(word >> 16), 65536.0f, (float)(word & 0xffff) + 0.5f), 0x1p-32f);
    v = v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f;
    float e, m = split(1.0f - v, &e);
    float exponential = -log_of(e, e < 0.0f ? m - 1.0f : -v);
    m = split(exponential, &e);
    return -log_of(e, m - 1.0f);
}
#define GUMBEL_MAX 22.9f /* no draw lies above or below these (v in [2^-33, 1 - 2^-24]) */
#define GUMBEL_MIN (-2.82f)

/* Philox4x32-10 (base/philox.h) */
GPU_FN void philox(uint32_t c0, uint32_t c1, uint32_t c2, uint64_t seed, uint32_t word[4])
{
    uint32_t c3 = 0, k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    word[0] = c0;
    word[1] = c1;
    word[2] = c2;
    word[3] = c3;
}

/* hash_mix of base/hash.h */
GPU_FN unsigned long long mix(unsigned long long x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- places: greater = better; 0: no candidate (-infinity, NaN) ---- */

GPU_FN unsigned long long place_of(float l, int32_t token)
{
    uint32_t u = __float_as_uint(l + 0.0f); /* -0 and 0 are one */
    u = u >> 31 ? ~u : u | 0x80000000u;
    return l > -INFINITY ? (unsigned long long)u << 32 | (uint32_t)~token : 0;
}

GPU_FN int32_t token_of(unsigned long long place)
{
    return (int32_t)~(uint32_t)place;
}

GPU_FN float logit_of(unsigned long long place)
{
    uint32_t u = (uint32_t)(place >> 32);
    return __uint_as_float(u >> 31 ? u & 0x7fffffffu : ~u);
}

/* ---- one warp ---- */

GPU_FN unsigned long long warp_sum(unsigned long long v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

GPU_FN unsigned long long warp_best(unsigned long long v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        unsigned long long o = __shfl_xor_sync(0xffffffffu, v, d);
        v = o > v ? o : v;
    }
    return v;
}

/* ---- the k greatest places of a block ---- */

/* A bar that exactly min(k, places above 0) of the block's places reach: each thread has N of them, at(0) ... at(N - 1).  k > 0.  hist: 3 * BINS
 * words; each pass counts in one part while the next is zero already, so a pass needs one barrier; every warp reads the counts for itself.  A
 * barrier lies before the first at(); the caller has one before hist is used again. */
template <int N, class AT>
GPU_FN unsigned long long bar_of(AT at, uint32_t k, uint32_t *hist)
{
    const int lane = threadIdx.x % 32;
    unsigned long long bar = 0, mask = 0;
    uint32_t left = k;
    for (int i = threadIdx.x; i < 2 * BINS; i += blockDim.x)
        hist[i] = 0;
    __syncthreads();
    for (int shift = 56, pass = 0; shift >= 0; shift -= 8, pass++) {
        uint32_t *count = hist + pass % 3 * BINS;
#pragma unroll
        for (int i = 0; i < N; i++) {
            unsigned long long x = at(i);
            if (x != 0 && ((x ^ bar) & mask) == 0)
                atomicAdd(&count[x >> shift & (BINS - 1)], 1u);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < BINS; i += blockDim.x)
            hist[(pass + 2) % 3 * BINS + i] = 0;

        /* from the top: lane 0 has the last eight bins */
        uint32_t mine[BINS / 32], sum = 0;
#pragma unroll
        for (int j = 0; j < BINS / 32; j++)
            sum += mine[j] = count[BINS - 1 - lane * (BINS / 32) - j];
        uint32_t upto = sum;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            uint32_t below = __shfl_up_sync(0xffffffffu, upto, d);
            upto += lane >= d ? below : 0;
        }
        uint32_t here = __ballot_sync(0xffffffffu, upto >= left);
        if (here == 0)
            return 1; /* fewer than k in all (first pass) */
        int source = __ffs((int)here) - 1, bin = 0;
        uint32_t above = upto - sum, in_bin = 0, taken = 0;
#pragma unroll
        for (int j = 0; j < BINS / 32; j++) {
            if (in_bin == 0 && above + mine[j] >= left) {
                bin = BINS - 1 - lane * (BINS / 32) - j;
                in_bin = mine[j];
                taken = above;
            }
            above += mine[j];
        }
        bin = __shfl_sync(0xffffffffu, bin, source);
        in_bin = __shfl_sync(0xffffffffu, in_bin, source);
        left -= __shfl_sync(0xffffffffu, taken, source);
        bar |= (unsigned long long)bin << shift;
        mask |= (unsigned long long)(BINS - 1) << shift;
        if (in_bin == left)
            break; /* all of the bin */
    }
    return bar == 0 ? 1 : bar;
}

/* ---- pieces ---- */

/* Penalties and biases of the warp's n columns from token `first`, in the lists' order (a token may come twice); the warp meets after each. */
template <class ENTRY, class APPLY>
GPU_FN void each_of(const ENTRY *list, int32_t n_list, int32_t first, int32_t n, APPLY apply)
{
    const int lane = threadIdx.x % 32;
    for (int32_t at = 0; at < n_list; at += 32) {
        int32_t i = at + lane, col = -1;
        if (i < n_list)
            col = (int32_t)((uint32_t)list[i].token - (uint32_t)first);
        for (uint32_t hit = __ballot_sync(0xffffffffu, (uint32_t)col < (uint32_t)n); hit != 0; hit &= hit - 1) {
            if (lane == __ffs((int)hit) - 1)
                apply(list[i], col);
            __syncwarp();
        }
    }
}

GPU_FN void penalise(const ops_sample_row &w, float *l, int32_t first, int32_t n)
{
    if (w.repetition_penalty != 1.0f || w.presence_penalty != 0.0f || w.frequency_penalty != 0.0f)
        each_of(w.counts, w.n_counts, first, n, [&](const ops_token_count &c, int32_t col) {
            float v = l[col];
            if (w.repetition_penalty != 1.0f && (c.in_prompt || c.generated > 0))
                v = v > 0.0f ? v / w.repetition_penalty : gpu_mul(v, w.repetition_penalty);
            if (c.generated > 0) {
                v = v - w.presence_penalty;
                v = v - gpu_mul(w.frequency_penalty, (float)c.generated);
            }
            l[col] = v;
        });
    each_of(w.bias, w.n_bias, first, n, [&](const ops_token_bias &b, int32_t col) { l[col] = l[col] + b.bias; });
}

/* Four bits of the map from token t; words without any of the n tokens are not read. */
GPU_FN uint32_t allowed(const uint32_t *map, int32_t t, int32_t n)
{
    uint32_t bits = map[t >> 5] >> (t & 31);
    if ((t & 31) + n > 32)
        bits |= map[(t >> 5) + 1] << (32 - (t & 31));
    return bits;
}

/* The best of the warp's n adjusted logits with noise.  The four words of a counter serve four tokens, 16 apart: a lane takes four such.  What lies
 * too far below the warp's greatest logit to win with any noise draws none. */
GPU_FN unsigned long long best_noisy(const ops_sample_row &w, const float *l, int32_t first, int32_t n, float max)
{
    unsigned long long best = 0;
    const int lane = threadIdx.x % 32;
    const int32_t begin = first / 64 * 64;
    for (int32_t q = lane; q / 16 * 64 < first - begin + n; q += 32) {
        int32_t at = begin - first + q / 16 * 64 + q % 16; /* its first column */
        float v[4], most = -INFINITY;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int32_t c = at + 16 * k;
            v[k] = c >= 0 && c < n ? l[c] : -INFINITY;
            most = fmaxf(most, v[k]);
        }
        if (most + GUMBEL_MAX < max + GUMBEL_MIN)
            continue;
        uint32_t word[4];
        philox((uint32_t)(begin / 4 + q), (uint32_t)w.position, w.choice, w.seed, word);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            unsigned long long p = place_of(v[k] + gumbel_of(word[k]), first + at + 16 * k);
            best = p > best ? p : best;
        }
    }
    return warp_best(best);
}

/* The k best of the block's piece l into row i's list (k entries, 0 where there are fewer).  All threads; a barrier behind it. */
GPU_FN void top_of_piece(const gpu_sample &a, int32_t i, int64_t pieces, int which, int32_t k, const float *l, uint32_t *hist, uint32_t *n_list)
{
    const int32_t begin = (int32_t)blockIdx.x * PIECE, rest = a.logits.cols - begin, n = rest < PIECE ? rest : PIECE, token = a.vocab_begin + begin;
    unsigned long long *list = places_of(a, i, pieces, which) + (int64_t)blockIdx.x * k;
    auto at = [&](int j) {
        int32_t c = j * THREADS + (int32_t)threadIdx.x;
        return c < n ? place_of(l[c], token + c) : 0;
    };
    if (threadIdx.x == 0)
        *n_list = 0;
    unsigned long long bar = bar_of<PIECE / THREADS>(at, (uint32_t)k, hist);
    for (int j = 0; j < PIECE / THREADS; j++) {
        unsigned long long x = at(j);
        if (x >= bar)
            list[atomicAdd(n_list, 1u)] = x;
    }
    __syncthreads();
    for (int32_t j = (int32_t)*n_list + (int32_t)threadIdx.x; j < k; j += THREADS)
        list[j] = 0;
    __syncthreads();
}

/* grid: (pieces, rows); THREADS threads; shared: 16 KiB logits, 3 KiB counts.
 * A warp reads UNIT columns as float4 (lane after lane), keeps them in shared memory, and works there alone; the block meets for the top lists only.
 * Limits: memory for many rows (reads cols * 4 bytes, writes them where the cap or the multiplier changes them, and adjusted); for a row that draws noise
 * everywhere about 60 integer and 50 float instructions a token come close to it; the lists add 2 .. 4 passes over shared memory. */
__global__ void __launch_bounds__(THREADS, 4) sample_pieces(const gpu_sample a, const int32_t *n_rows, int32_t pieces)
{
    GPU_SHARED(float, piece, [PIECE]);
    GPU_SHARED(uint32_t, hist, [3 * BINS]);
    GPU_SHARED(uint32_t, n_list, [1]);
    const int32_t i = (int32_t)blockIdx.y;
    if (n_rows != NULL && i >= *n_rows)
        return;
    const ops_sample_row &w = a.rows[i].row;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int32_t begin = (int32_t)blockIdx.x * PIECE + warp * UNIT, left = a.logits.cols - begin, n = left < 0 ? 0 : left < UNIT ? left : UNIT;
    const int32_t first = a.vocab_begin + begin; /* token */
    float *raw = (float *)((char *)a.logits.p + w.row * a.logits.stride) + begin, *l = piece + warp * UNIT;
    found f = {-INFINITY, 0.0f, -INFINITY, 0.0f, 0, 0};

    /* raw logits */
    const bool change = a.multiplier != 1.0f || a.softcap > 0.0f, want_hash = w.want_hash;
    float v[QUADS][4];
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        int32_t c = j * 128 + lane * 4;
        if (c + 4 <= n) {
            float4 q = *(const float4 *)(raw + c);
            v[j][0] = q.x, v[j][1] = q.y, v[j][2] = q.z, v[j][3] = q.w;
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++)
                v[j][k] = c + k < n ? raw[c + k] : -INFINITY;
        }
    }
#pragma unroll
    for (int j = 0; j < QUADS; j++) {
        int32_t c = j * 128 + lane * 4;
        if (change) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (c + k >= n)
                    continue;
                v[j][k] = gpu_mul(v[j][k], a.multiplier);
                if (a.softcap > 0.0f)
                    v[j][k] = gpu_mul(a.softcap, row_tanh(v[j][k] / a.softcap));
            }
            if (c + 4 <= n)
                *(float4 *)(raw + c) = make_float4(v[j][0], v[j][1], v[j][2], v[j][3]);
            else
                for (int k = 0; k < 4; k++)
                    if (c + k < n)
                        raw[c + k] = v[j][k];
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            f.raw_max = fmaxf(f.raw_max, v[j][k]);
            if (want_hash && c + k < n)
                f.hash += mix((unsigned long long)(uint32_t)(first + c + k) << 32 | __float_as_uint(v[j][k]));
        }
        *(float4 *)(l + c) = make_float4(v[j][0], v[j][1], v[j][2], v[j][3]);
    }
    f.raw_max = gpu_warp_max(f.raw_max);
    f.hash = warp_sum(f.hash);
    float base = f.raw_max > -INFINITY ? f.raw_max : 0.0f;
#pragma unroll
    for (int j = 0; j < QUADS; j++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            f.raw_sum += row_exp(v[j][k] - base);
    f.raw_sum = gpu_warp_sum(f.raw_sum);
    if (w.n_raw > 0)
        top_of_piece(a, i, pieces, 0, w.n_raw, piece, hist, n_list);

    /* adjusted logits */
    if (w.want_sample) {
        __syncwarp();
        penalise(w, l, first, n);
        float *adjusted = (float *)((char *)a.adjusted.p + i * a.adjusted.stride) + begin;
        const bool divide = w.temperature > 0.0f && w.temperature != 1.0f;
#pragma unroll
        for (int j = 0; j < QUADS; j++) {
            int32_t c = j * 128 + lane * 4;
            float4 q = *(const float4 *)(l + c);
            v[j][0] = q.x, v[j][1] = q.y, v[j][2] = q.z, v[j][3] = q.w;
            uint32_t bits = w.allow != NULL && c < n ? allowed(w.allow, first + c, n - c < 4 ? n - c : 4) : 15;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                v[j][k] = bits >> k & 1 ? v[j][k] : -INFINITY;
                if (divide)
                    v[j][k] = v[j][k] / w.temperature;
                f.max = fmaxf(f.max, v[j][k]);
            }
            if (c + 4 <= n)
                *(float4 *)(adjusted + c) = make_float4(v[j][0], v[j][1], v[j][2], v[j][3]);
            else
                for (int k = 0; k < 4; k++)
                    if (c + k < n)
                        adjusted[c + k] = v[j][k];
            *(float4 *)(l + c) = make_float4(v[j][0], v[j][1], v[j][2], v[j][3]);
        }
        f.max = gpu_warp_max(f.max);
        if (w.want_sum) {
            base = f.max > -INFINITY ? f.max : 0.0f;
#pragma unroll
            for (int j = 0; j < QUADS; j++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    f.sum += row_exp(v[j][k] - base);
            f.sum = gpu_warp_sum(f.sum);
        }
        if (w.temperature > 0.0f) {
            __syncwarp();
            f.best = best_noisy(w, l, first, n, f.max);
        } else {
#pragma unroll
            for (int j = 0; j < QUADS; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    unsigned long long p = place_of(v[j][k], first + j * 128 + lane * 4 + k);
                    f.best = p > f.best ? p : f.best;
                }
            f.best = warp_best(f.best);
        }
        if (w.n_candidates > 0)
            top_of_piece(a, i, pieces, 1, w.n_candidates, piece, hist, n_list);
    }
    if (lane == 0)
        units_of(a, i, pieces)[(int64_t)blockIdx.x * (PIECE / UNIT) + warp] = f;
}

/* ---- merging ---- */

GPU_FN ops_candidate candidate_of(const gpu_sample &a, const float *raw, unsigned long long place, float logit)
{
    ops_candidate c = {token_of(place), logit, raw[token_of(place) - a.vocab_begin]};
    return c;
}

/* Maxima, sums, hash and best of the row's units: thread t takes units t, t + threads, ...; then a tree over the lanes; then the warps in order. */
GPU_FN void merge_units(const gpu_sample &a, int32_t i, int64_t pieces, const float *raw, const float *adjusted, float *warps, unsigned long long *words)
{
    const ops_sample_row &w = a.rows[i].row;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = MERGE_THREADS / 32;
    const found *u = units_of(a, i, pieces);
    const int64_t n = pieces * (PIECE / UNIT);
    float raw_max = -INFINITY, max = -INFINITY;
    unsigned long long best = 0, hash = 0;
    for (int64_t k = threadIdx.x; k < n; k += MERGE_THREADS) {
        found f = u[k];
        raw_max = fmaxf(raw_max, f.raw_max);
        max = fmaxf(max, f.max);
        best = f.best > best ? f.best : best;
        hash += f.hash;
    }
    raw_max = gpu_warp_max(raw_max);
    max = gpu_warp_max(max);
    best = warp_best(best);
    hash = warp_sum(hash);
    if (lane == 0) {
        warps[warp] = raw_max;
        warps[n_warps + warp] = max;
        words[warp] = best;
        words[n_warps + warp] = hash;
    }
    __syncthreads();
    for (int k = 0; k < n_warps; k++) {
        raw_max = fmaxf(raw_max, warps[k]);
        max = fmaxf(max, warps[n_warps + k]);
    }
    float raw_sum = 0.0f, sum = 0.0f;
    for (int64_t k = threadIdx.x; k < n; k += MERGE_THREADS) {
        found f = u[k];
        raw_sum = gpu_fma(f.raw_sum, row_exp(f.raw_max - raw_max), raw_sum);
        sum = gpu_fma(f.sum, row_exp(f.max - max), sum);
    }
    raw_sum = gpu_warp_sum(raw_sum);
    sum = gpu_warp_sum(sum);
    if (lane == 0) {
        warps[2 * n_warps + warp] = raw_sum;
        warps[3 * n_warps + warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    ops_sample_out *o = &a.out[i];
    raw_sum = sum = 0.0f;
    best = hash = 0;
    for (int k = 0; k < n_warps; k++) {
        raw_sum += warps[2 * n_warps + k];
        sum += warps[3 * n_warps + k];
        best = words[k] > best ? words[k] : best;
        hash += words[n_warps + k];
    }
    const int64_t target = (int64_t)w.target - a.vocab_begin;
    o->raw_max = raw_max;
    o->raw_sum = raw_max > -INFINITY ? raw_sum : 0.0f;
    o->target_logit = w.target >= 0 && target >= 0 && target < a.logits.cols ? raw[target] : -INFINITY;
    o->max = max;
    o->sum = w.want_sample && w.want_sum && max > -INFINITY ? sum : 0.0f;
    ops_candidate none = {-1, -INFINITY, -INFINITY};
    o->best = best == 0 ? none : candidate_of(a, raw, best, w.temperature > 0.0f ? logit_of(best) : adjusted[token_of(best) - a.vocab_begin]);
    o->hash = hash;
}

/* grid: (2, rows): blocks 0 merge the units and the raw lists, blocks 1 the adjusted lists; shared: 5 KiB.
 * Lists longer than the threads hold are taken in rounds, the best so far among the next.  Limited by latency: a barrier a pass, a handful of passes
 * a round. */
__global__ void __launch_bounds__(MERGE_THREADS) sample_merge(const gpu_sample a, const int32_t *n_rows, int32_t pieces)
{
    GPU_SHARED(float, warps, [4 * MERGE_THREADS / 32]);
    GPU_SHARED(unsigned long long, words, [2 * MERGE_THREADS / 32]);
    GPU_SHARED(unsigned long long, top, [KEEP]);
    GPU_SHARED(uint32_t, hist, [3 * BINS]);
    GPU_SHARED(uint32_t, n_taken, [1]);
    const int32_t i = (int32_t)blockIdx.y, list = (int32_t)blockIdx.x, t = (int32_t)threadIdx.x;
    if (n_rows != NULL && i >= *n_rows)
        return;
    const ops_sample_row &w = a.rows[i].row;
    const float *raw = (const float *)((const char *)a.logits.p + w.row * a.logits.stride);
    const float *adjusted = (const float *)((const char *)a.adjusted.p + i * a.adjusted.stride);
    ops_sample_out *o = &a.out[i];
    if (list == 0)
        merge_units(a, i, pieces, raw, adjusted, warps, words);

    const int32_t k = list == 0 ? w.n_raw : w.want_sample ? w.n_candidates : 0;
    const int64_t total = pieces * (int64_t)k;
    const unsigned long long *places = places_of(a, i, pieces, list);
    int32_t n = 0;
    for (int64_t next = 0; next < total;) {
        unsigned long long key[MERGE_KEYS];
#pragma unroll
        for (int j = 0; j < MERGE_KEYS; j++) {
            int64_t s = j * MERGE_THREADS + t, from = next + s - n;
            key[j] = s < n ? top[s] : from < total ? places[from] : 0;
        }
        next += MERGE_KEYS * MERGE_THREADS - n;
        if (t == 0)
            *n_taken = 0;
        unsigned long long bar = bar_of<MERGE_KEYS>([&](int j) { return key[j]; }, (uint32_t)k, hist);
#pragma unroll
        for (int j = 0; j < MERGE_KEYS; j++)
            if (key[j] >= bar)
                top[atomicAdd(n_taken, 1u)] = key[j];
        __syncthreads();
        n = (int32_t)*n_taken;
        __syncthreads();
    }

    if (t < n) {
        unsigned long long mine = top[t];
        int32_t rank = 0;
        for (int32_t j = 0; j < n; j++)
            rank += top[j] > mine;
        if (list == 0)
            o->raw[rank] = candidate_of(a, raw, mine, raw[token_of(mine) - a.vocab_begin]);
        else
            o->candidates[rank] = candidate_of(a, raw, mine, adjusted[token_of(mine) - a.vocab_begin]);
    }
    if (t == 0)
        *(list == 0 ? &o->n_raw : &o->n_candidates) = n;
}

} // namespace

extern "C" int64_t gpu_sample_scratch(int32_t max_rows, int32_t max_cols)
{
    return max_rows * row_scratch(pieces_of(max_cols));
}

extern "C" cudaError_t k_sample(int32_t rows, const int32_t *n, const gpu_sample *a, cudaStream_t s)
{
    if (rows <= 0 || a->logits.cols <= 0)
        return cudaSuccess;
    const int32_t pieces = (int32_t)pieces_of(a->logits.cols);
    cudaError_t e = GPU_LAUNCH(sample_pieces, dim3((unsigned)pieces, (unsigned)rows), dim3(THREADS), 0, s, *a, n, pieces);
    if (e != cudaSuccess)
        return e;
    return GPU_LAUNCH(sample_merge, dim3(2, (unsigned)rows), dim3(MERGE_THREADS), 0, s, *a, n, pieces);
}
