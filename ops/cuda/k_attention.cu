/* ops/cuda/k_attention.cu - ragged causal attention over the paged cache (arXiv:2309.06180) with an online softmax (arXiv:1805.02867).
 *
 * Kernels that attend (the tensor cores' or the plain one: the cache's type and the head's width say which, never the number of rows) and one that merges
 * and writes y.
 * Work comes as a list of pieces (attention_list.c): up to 128 rows of one sequence against some chunks of 256 positions, to be done for each KV head by
 * one block.  Queries of a piece are numbered row by row: query i is row i / G, head i % G of the G that share the KV head, so that decoding
 * (one row) fills a tensor core's 16 rows with heads, and a prompt with rows and heads.
 *
 * One arithmetic.  For a query, in base 2 (scores times log2 e):
 *   tile of 64 positions   s = q.k;  m' = max(m, s...);  p = 2^(s - m') rounded to the operands' type;  o = o 2^(m - m') + p v;  l likewise with v = 1
 *   chunk of 256           begins at m = -inf, l = 0, o = 0 and goes through its four tiles in order
 *   row                    chunks merged in order (attend_merge), kept in scratch or not: the same operations
 * A position not seen has p = 0: a tile or chunk that a query does not see leaves m, l and o as they are, bit for bit.  What a query gets thus depends on
 * its own row, its keys and its values, not on which queries share its tile: elements of a tensor core's product meet only their own row and column.
 * Sums: q.k along dimensions and p v along positions, 16 at a time in order.  l is p times a column of ones on the tensor core as well, so that it has the
 * order, and the rounded p, of o, and needs no sum across lanes.
 * (One exception, in the values: infinities and NaN that a later token of the same sequence wrote meet p = 0 where they share a tile, and 0 inf is NaN.)
 *
 * Two shapes of a block, a kernel each.  Both do the above operation for operation, so the number of queries may choose:
 *   tall  128 queries, eight warps: a warp has 16 of them, S and P stay in its registers (arXiv:2307.08691), the chunks so far lie in shared memory.
 *         (256 dimensions: 32 queries, four warps for each 16.)
 *   flat  16 queries, four warps: warp w takes positions 16 w ... of the tile for S, dimensions D w / 4 ... of o; P passes through shared memory
 * Prompts are bound by the tensor cores, and by shared memory that feeds them: 16 queries a warp read all keys and values, so some two thirds of
 * mma.sync's rate is the most (by arithmetic, not measured); 128 queries a block keep L2 out of the way.  Decoding is bound by the cache's bytes: per SM of an
 * H100 25 bytes a ns arrive, so a chunk of 64 KiB of keys and as much of values takes 5 us of which four warps compute under 1 us.  Keys and
 * values come by cp.async in a ring of four tiles (three at 128 dimensions, so that three flat blocks share an SM: 34 KiB each on their way, where some 20 KiB
 * an SM hide the latency), in 16-byte pieces of whole contiguous blocks.  One barrier a tile: it says both that the tile is there and that the one
 * before is done with.
 *
 * q and p are rounded to the cache's type.  q8 and fp8: to f16, into which the codes are expanded tile by tile (q8: times scales and rounded; fp8: exactly), so
 * that they share the path.  The ring then holds codes, half the bytes: flat blocks have 48 KiB an SM on their way, which is still enough. */
#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"
#include "ops/cuda/rows.cuh"

#define THREADS 128
#define TOKENS 64 /* positions of a tile */
#define CHUNK OPS_ATTENTION_CHUNK
#define BLOCKS 1024 /* most blocks of a launch: they walk the list; some 8 an SM start and end in a few us */
#define PLAIN_QUERIES 8
#define PLAIN_SLICE 32
#define BELOW (-INFINITY)

/* What the kernels need of gpu_attention, with constants made ready. */
struct attend_args {
    const float *q;
    int64_t q_stride; /* floats */
    int32_t n_heads, head_dim, head_begin, heads_per_kv, kv_head_begin, first_kv, n_kv;
    int32_t window, kv_group, most_heads, most_rows; /* most_heads: of this rank that share a KV head; most_rows: of a piece, at most */
    float pre, post;                      /* softcap: post tanh(pre q.k), else post q.k; base 2 */
    bool capped;
    const float *slopes;
    const char *cache;                    /* this layer's; [KV head][block] */
    int32_t padded;
    int64_t n_blocks, head_bytes, k_scales, v_codes, v_scales;
    const gpu_attention_list *list;
    float *out, *state;                   /* [slot][head][padded], [slot][head][2] */
};

/* Scores in base 2 of q.k: capped (tanh(y) = 1 - 2 / (e^2y + 1); pre holds 2 log2 e) or not. */
GPU_FN float attend_capped(const attend_args &a, float dot)
{
    return gpu_mul(a.post, gpu_add(1.0f, -gpu_div(2.0f, gpu_add(gpu_exp2(gpu_mul(dot, a.pre)), 1.0f))));
}
GPU_FN float attend_plainly(const attend_args &a, float dot)
{
    return gpu_mul(dot, a.post);
}
GPU_FN float attend_biased(float x, float slope, int32_t back)
{
    return gpu_fma(slope, (float)-back, x);
}

/* (m, l, o) and a chunk's: factors of both; false: nothing to do. */
GPU_FN bool attend_weights(float &m, float chunk_m, float &old_w, float &new_w)
{
    if (chunk_m == BELOW)
        return false;
    const float max = fmaxf(m, chunk_m);
    old_w = gpu_exp2(gpu_add(m, -max));
    new_w = gpu_exp2(gpu_add(chunk_m, -max));
    m = max;
    return true;
}
GPU_FN float attend_merge(float o, float old_w, float chunk_o, float new_w)
{
    return gpu_fma(chunk_o, new_w, gpu_mul(o, old_w));
}

/* ---- a block's item: some queries of one piece and one KV head ---- */

struct attend_item {
    gpu_work w;
    int32_t kv, head, n_group; /* KV head of the cache, first query head of this rank, how many share it */
    int32_t first, n;          /* queries [first, first + n) */
    int32_t lo, hi;            /* positions any of them sees within the piece's chunks */
    const int32_t *table;
};

GPU_FN int32_t first_seen(int32_t window, int32_t position)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

/* Items are numbered [tile of queries][piece][KV head], those that exist for every piece first.  n <= 0: no such queries. */
GPU_FN void attend_find(const gpu_step *step, const attend_args &a, int32_t n_work, int64_t index, int32_t queries, attend_item &it)
{
    const gpu_work *works = (const gpu_work *)((const gpu_row_slots *)(a.list + 1) + a.list->max_rows);
    const int64_t per_tile = (int64_t)n_work * a.n_kv, tile = index / per_tile, rest = index % per_tile;
    it.w = works[rest / a.n_kv];
    it.kv = a.first_kv + (int32_t)(rest % a.n_kv);
    const int64_t begin = (int64_t)(a.kv_head_begin + it.kv) * a.heads_per_kv - a.head_begin, end = begin + a.heads_per_kv;
    it.head = begin > 0 ? (int32_t)begin : 0;
    it.n_group = (int32_t)(end < a.n_heads ? end : a.n_heads) - it.head;
    const int64_t n = (int64_t)it.w.n_rows * it.n_group - tile * queries;
    it.n = 0;
    if (n <= 0)
        return;
    it.first = (int32_t)(tile * queries);
    it.n = n < queries ? (int32_t)n : queries;
    it.lo = first_seen(a.window, it.w.position + it.first / it.n_group);
    it.hi = it.w.position + (it.first + it.n - 1) / it.n_group + 1;
    it.lo = max(it.lo, it.w.chunk * CHUNK);
    it.hi = min(it.hi, (it.w.chunk + it.w.n_chunks) * CHUNK);
    it.table = step->tables[a.kv_group] + step->spans[it.w.span].table[a.kv_group];
}

/* Where the block of a position lies, for this KV head; NULL: none that the item sees. */
GPU_FN const char *attend_block(const attend_args &a, const attend_item &it, int32_t position)
{
    if (position + OPS_KV_BLOCK <= it.lo || position >= it.hi)
        return nullptr;
    const int32_t id = it.table[position / OPS_KV_BLOCK];
    return id >= 0 && id < a.n_blocks ? a.cache + ((int64_t)it.kv * a.n_blocks + id) * a.head_bytes : nullptr;
}

/* Query i of the item at position p sees the key `back` = p - its position before it if (unsigned)back < attend_reach.  No query: p = -1 sees nothing. */
GPU_FN uint32_t attend_reach(const attend_args &a)
{
    return a.window > 0 ? (uint32_t)a.window : 0x80000000u;
}
GPU_FN int32_t attend_position(const attend_item &it, int32_t i)
{
    return i < it.n ? it.w.position + (it.first + i) / it.n_group : -1;
}
GPU_FN float attend_slope(const attend_args &a, const attend_item &it, int32_t i)
{
    return i < it.n && a.slopes != nullptr ? gpu_mul(a.slopes[it.head + (it.first + i) % it.n_group], 0x1.715476p+0f) : 0.0f;
}
/* slot * heads + head of its result for a chunk (from the piece's first) */
GPU_FN int64_t attend_slot(const attend_args &a, const attend_item &it, int32_t i, int32_t chunk)
{
    const int32_t row = (it.first + i) / it.n_group, head = it.head + (it.first + i) % it.n_group;
    return (int64_t)(it.w.slot + chunk * it.w.n_rows + row) * a.n_heads + head;
}

/* ---- on the tensor cores ---- */

template <int KV, int D, int WM, int WN> struct attend_shape {
    static constexpr bool Q8 = KV == OPS_KV_Q8, CODES = Q8 || KV == OPS_KV_F8; /* CODES: a byte an element, to be expanded */
    static constexpr int QUERIES = 16 * WM, N_THREADS = 32 * WM * WN;
    static constexpr bool KEEP = WN > 1;         /* the chunks so far stay in registers */
    static constexpr int STAGES = D == 128 ? 3 : 4;
    static constexpr int BLOCKS_SM = WM > 1 || D > 128 ? 1 : D > 64 ? 3 : 4; /* for which shared memory (H100) and registers are to suffice */
    static constexpr int PITCH = D + 8;          /* 16-bit elements of a row in shared memory: 16 bytes more, so that eight rows lie in different banks */
    static constexpr int P_PITCH = TOKENS + 8;
    static constexpr int OPERAND = TOKENS * PITCH * 2;
    static constexpr int SLOT = CODES ? TOKENS * D + (Q8 ? TOKENS * (D / 32) * 2 : 0) : OPERAND; /* codes [64][D], q8: scales [4 blocks][D / 32][16] */
    static constexpr int P_AT = QUERIES * PITCH * 2;                               /* after the queries */
    static constexpr int MAX_AT = P_AT + (WN > 1 ? QUERIES * P_PITCH * 2 : 0);
    static constexpr int ALL_AT = MAX_AT + (WN > 1 ? WN * QUERIES * 4 : 0);
    static constexpr int WIDE_AT = ALL_AT + (KEEP ? 0 : QUERIES * D * 4);          /* CODES: the tile expanded */
    static constexpr int RING_AT = WIDE_AT + (CODES ? OPERAND : 0);
    static constexpr int BYTES = RING_AT + STAGES * SLOT;
    static_assert(BYTES <= 163 * 1024, "what a block of an A100 may have");
    static_assert(WM > 1 || BLOCKS_SM * (STAGES - 1) * TOKENS * D * (CODES ? 1 : 2) >= 28 * 1024, "what a B200's SM wants on its way (chips.py); the gate reads no trip counts");
};

template <int KV> GPU_FN uint32_t attend_pack(float lo, float hi)
{
    if constexpr (KV == OPS_KV_BF16)
        return gpu_pack_bf16(lo, hi);
    else
        return gpu_pack_f16(lo, hi);
}

template <int KV> GPU_FN void attend_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const uint32_t b[2] = {b0, b1};
    if constexpr (KV == OPS_KV_BF16)
        gpu_mma_bf16(d, a, b);
    else
        gpu_mma_f16(d, a, b);
}

/* This warp's block of a tile (16 positions from `position` on), keys or values, on its way to a slot of the ring; what the item does not see becomes zeros.
 * Of eight warps two share a block. */
template <int KV, int D, int WM, int WN>
GPU_FN void attend_fetch(const attend_args &a, const attend_item &it, const char *block, int32_t position, bool values, char *slot)
{
    using shape = attend_shape<KV, D, WM, WN>;
    constexpr int ELEM = shape::CODES ? 1 : 2, PIECES = D * ELEM / 16;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4, half = (int)threadIdx.x / 128;
    const char *codes = block != nullptr ? block + (values ? a.v_codes : 0) : a.cache;
    char *to = slot + warp * OPS_KV_BLOCK * (shape::CODES ? D : shape::PITCH * 2);
#pragma unroll 2
    for (int i = half * 32 + lane; i < OPS_KV_BLOCK * PIECES; i += shape::N_THREADS / 4) {
        const int token = i / PIECES, piece = i % PIECES;
        int bytes = a.head_dim * ELEM - piece * 16;
        bytes = block == nullptr || bytes < 0 || position + token < it.lo || position + token >= it.hi ? 0 : bytes < 16 ? bytes : 16;
        gpu_cp_async16_fill(to + token * (shape::CODES ? D : shape::PITCH * 2) + piece * 16, bytes > 0 ? codes + token * a.padded * ELEM + piece * 16 : a.cache, bytes);
    }
    if constexpr (shape::Q8) {
        constexpr int SCALES = D / 32 * 2; /* pieces */
        static_assert(SCALES <= 32, "a lane has one piece of the scales");
        if (half == 0 && lane < SCALES) {
            const bool there = block != nullptr && lane < (a.head_dim + 31) / 32 * 2;
            gpu_cp_async16_fill(slot + TOKENS * D + warp * SCALES * 16 + lane * 16, there ? block + (values ? a.v_scales : a.k_scales) + lane * 16 : a.cache, there ? 16 : 0);
        }
    }
}

/* Codes as f16, for q8 times their scales. */
template <int KV, int D, int WM, int WN> GPU_FN void attend_expand(const attend_item &it, int32_t position, const char *slot, char *wide)
{
    using shape = attend_shape<KV, D, WM, WN>;
    constexpr int PIECES = D / 16;
    const uint16_t *scales = (const uint16_t *)(slot + TOKENS * D);
#pragma unroll(WN > 1 ? 2 : 1)
    for (int i = (int)threadIdx.x; i < TOKENS * PIECES; i += shape::N_THREADS) {
        const int token = i / PIECES, piece = i % PIECES;
        const uint4 codes = *(const uint4 *)(slot + token * D + piece * 16);
        const uint32_t c[4] = {codes.x, codes.y, codes.z, codes.w};
        uint32_t h[8];
        if constexpr (shape::Q8) {
            const bool seen = position + token >= it.lo && position + token < it.hi;
            const float scale = seen ? gpu_f16_to_f32(scales[(token / 16 * (D / 32) + piece / 2) * 16 + token % 16]) : 0.0f;
#pragma unroll
            for (int k = 0; k < 8; k++)
                h[k] = attend_pack<KV>(gpu_mul((float)(int8_t)(c[k / 2] >> (k % 2 * 16)), scale), gpu_mul((float)(int8_t)(c[k / 2] >> (k % 2 * 16 + 8)), scale));
        } else {
#pragma unroll
            for (int k = 0; k < 8; k++)
                h[k] = gpu_e4m3_to_f16x2(__byte_perm(c[k / 2], 0, k % 2 == 0 ? 0x1404 : 0x3424));
        }
        uint4 *to = (uint4 *)(wide + token * shape::PITCH * 2 + piece * 32);
        to[0] = make_uint4(h[0], h[1], h[2], h[3]);
        to[1] = make_uint4(h[4], h[5], h[6], h[7]);
    }
}

/* The item's queries to shared memory, rounded; rows without a query and dimensions past the head's become zeros. */
template <int KV, int D, int WM, int WN> GPU_FN void attend_load_q(const attend_args &a, const attend_item &it, char *to)
{
    using shape = attend_shape<KV, D, WM, WN>;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < shape::QUERIES * (D / 2); i += shape::N_THREADS) {
        const int query = i / (D / 2), d = i % (D / 2) * 2;
        float lo = 0.0f, hi = 0.0f;
        if (query < it.n) {
            const int32_t row = it.w.row + (it.first + query) / it.n_group, head = it.head + (it.first + query) % it.n_group;
            const float *q = a.q + row * a.q_stride + (int64_t)head * a.head_dim;
            lo = d < a.head_dim ? q[d] : 0.0f;
            hi = d + 1 < a.head_dim ? q[d + 1] : 0.0f;
        }
        *(uint32_t *)(to + (query * shape::PITCH + d) * 2) = attend_pack<KV>(lo, hi);
    }
}

/* One item by WM x WN warps: 16 WM queries; positions (of S) and dimensions (of o) shared out among WN. */
template <int KV, int D, int WM, int WN> GPU_FN void attend_tiles(const attend_args &a, const attend_item &it, char *smem)
{
    using shape = attend_shape<KV, D, WM, WN>;
    constexpr int NS = TOKENS / 8 / WN, NO = D / 8 / WN; /* columns of 8 that a warp has of S and of o */
    static_assert(NS % 2 == 0 && D % 32 == 0 && D / 8 % WN == 0, "");
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4, t = lane % 4, wm = warp / WN, wn = warp % WN;
    char *const q_at = smem, *const p_at = smem + shape::P_AT, *const wide = smem + shape::WIDE_AT, *const ring = smem + shape::RING_AT;
    float *const max_at = (float *)(smem + shape::MAX_AT); /* [WN][16 WM] */

    int32_t at[2]; /* positions of rows g and g + 8 of the warp's 16 */
    float slope[2];
    const uint32_t reach = attend_reach(a);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        at[h] = attend_position(it, wm * 16 + g + 8 * h);
        slope[h] = attend_slope(a, it, wm * 16 + g + 8 * h);
    }
    const int32_t last = it.w.position + (it.first + it.n - 1) / it.n_group;
    const int32_t warp_first = it.w.position + (it.first + wm * 16) / it.n_group, warp_last = it.w.position + (min(it.first + wm * 16 + 15, it.first + it.n - 1)) / it.n_group;
    const int32_t warp_lo = first_seen(a.window, warp_first);
    const int32_t all_lo = first_seen(a.window, last), all_hi = it.w.position + it.first / it.n_group + 1; /* what all see */

    /* the ring: tile of keys, tile of values, tile of keys ... */
    const int32_t first_tile = it.lo / TOKENS, n_steps = it.lo < it.hi ? 2 * ((it.hi + TOKENS - 1) / TOKENS - first_tile) : 0;
    const char *block = nullptr, *next_block = n_steps > 0 ? attend_block(a, it, first_tile * TOKENS + warp % 4 * OPS_KV_BLOCK) : nullptr;
    int32_t fetched = 0;
    auto fetch = [&]() { /* always a group, if an empty one: waiting counts groups */
        if (fetched < n_steps) {
            const int32_t position = (first_tile + fetched / 2) * TOKENS + warp % 4 * OPS_KV_BLOCK;
            const bool values = fetched % 2 != 0;
            if (!values) {
                block = next_block;
                next_block = attend_block(a, it, position + TOKENS); /* looked up two tiles before it is wanted */
            }
            attend_fetch<KV, D, WM, WN>(a, it, block, position, values, ring + fetched % shape::STAGES * shape::SLOT);
        }
        fetched++;
        gpu_cp_commit();
    };
    /* The next tile: its operand in shared memory. */
    int32_t taken = 0;
    auto take = [&]() -> const char * {
        gpu_cp_wait<shape::STAGES - 2>();
        __syncthreads();
        fetch();
        const char *slot = ring + taken % shape::STAGES * shape::SLOT;
        if constexpr (shape::CODES) {
            attend_expand<KV, D, WM, WN>(it, (first_tile + taken / 2) * TOKENS, slot, wide);
            __syncthreads();
            slot = wide;
        }
        taken++;
        return slot;
    };
#pragma unroll
    for (int i = 0; i < shape::STAGES - 1; i++)
        fetch();
    attend_load_q<KV, D, WM, WN>(a, it, q_at);

    /* whole pieces: the chunks so far, in registers or shared memory (a thread's own: four floats a column of 8) */
    float all[shape::KEEP ? NO : 1][4], all_m[2] = {BELOW, BELOW}, all_l[2] = {0.0f, 0.0f};
    float4 *const kept = (float4 *)(smem + shape::ALL_AT) + threadIdx.x;
#pragma unroll
    for (int n = 0; n < NO; n++) {
        if constexpr (shape::KEEP)
            all[n][0] = all[n][1] = all[n][2] = all[n][3] = 0.0f;
        else
            kept[n * shape::N_THREADS] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }

    auto store = [&](int32_t chunk, auto value, const float (&m)[2], const float (&l)[2]) { /* value(n, h): two columns */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int32_t query = wm * 16 + g + 8 * h;
            if (query >= it.n)
                continue;
            const int64_t slot = attend_slot(a, it, query, chunk);
            if (t == 0 && wn == 0)
                *(float2 *)(a.state + slot * 2) = make_float2(m[h], l[h]);
#pragma unroll
            for (int n = 0; n < NO; n++) {
                const int d = (wn * NO + n) * 8 + 2 * t;
                if (d < a.padded)
                    *(float2 *)(a.out + slot * a.padded + d) = value(n, h);
            }
        }
    };

    for (int32_t c = it.w.chunk; c < it.w.chunk + it.w.n_chunks; c++) {
        const int32_t from = max(it.lo, c * CHUNK) / TOKENS, to = (min(it.hi, (c + 1) * CHUNK) + TOKENS - 1) / TOKENS;
        float o[NO][4], sum[4] = {0.0f, 0.0f, 0.0f, 0.0f}, m[2] = {BELOW, BELOW};
#pragma unroll
        for (int n = 0; n < NO; n++)
#pragma unroll
            for (int k = 0; k < 4; k++)
                o[n][k] = 0.0f;
        for (int32_t tile = from; tile < to; tile++) {
            /* S = Q K^T */
            const char *keys = take();
            /* a warp none of whose queries see the tile leaves it out (where it need not meet others inside) */
            const bool busy = WN > 1 || (wm * 16 < it.n && tile * TOKENS <= warp_last && (tile + 1) * TOKENS > warp_lo);
            uint32_t p[NS / 2][4]; /* the products' A operand: 16 positions each */
            if (busy) {
                float s[NS][4];
#pragma unroll
                for (int n = 0; n < NS; n++)
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        s[n][k] = 0.0f;
                const char *q_row = q_at + ((wm * 16 + lane % 16) * shape::PITCH + lane / 16 * 8) * 2;
                const char *k_row = keys + ((wn * NS * 8 + lane / 16 * 8 + lane % 8) * shape::PITCH + lane / 8 % 2 * 8) * 2;
#pragma unroll
                for (int d = 0; d < D; d += 16) {
                    uint32_t qa[4], kb[4];
                    gpu_ldmatrix_x4(qa, q_row + d * 2);
#pragma unroll
                    for (int n = 0; n < NS; n += 2) {
                        gpu_ldmatrix_x4(kb, k_row + (n * 8 * shape::PITCH + d) * 2);
                        attend_mma<KV>(s[n], qa, kb[0], kb[1]);
                        attend_mma<KV>(s[n + 1], qa, kb[2], kb[3]);
                    }
                }
                /* scores, and which of them count */
                const int32_t column = tile * TOKENS + wn * NS * 8 + 2 * t;
                if (a.capped) {
#pragma unroll
                    for (int n = 0; n < NS; n++)
#pragma unroll
                        for (int k = 0; k < 4; k++)
                            s[n][k] = attend_capped(a, s[n][k]);
                } else {
#pragma unroll
                    for (int n = 0; n < NS; n++)
#pragma unroll
                        for (int k = 0; k < 4; k++)
                            s[n][k] = attend_plainly(a, s[n][k]);
                }
                if (a.slopes != nullptr) {
#pragma unroll
                    for (int n = 0; n < NS; n++)
#pragma unroll
                        for (int k = 0; k < 4; k++)
                            s[n][k] = attend_biased(s[n][k], slope[k / 2], at[k / 2] - (column + n * 8 + k % 2));
                }
                if (tile * TOKENS < all_lo || (tile + 1) * TOKENS > all_hi) {
#pragma unroll
                    for (int n = 0; n < NS; n++)
#pragma unroll
                        for (int k = 0; k < 4; k++)
                            s[n][k] = (uint32_t)(at[k / 2] - (column + n * 8 + k % 2)) < reach ? s[n][k] : BELOW;
                }
                float top[2] = {BELOW, BELOW};
#pragma unroll
                for (int n = 0; n < NS; n++)
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        top[k / 2] = fmaxf(top[k / 2], s[n][k]);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
                    top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
                }
                if constexpr (WN > 1) {
                    if (t == 0) {
                        max_at[wn * 16 * WM + wm * 16 + g] = top[0];
                        max_at[wn * 16 * WM + wm * 16 + g + 8] = top[1];
                    }
                    __syncthreads();
#pragma unroll
                    for (int w = 0; w < WN; w++) {
                        top[0] = fmaxf(top[0], max_at[w * 16 * WM + wm * 16 + g]);
                        top[1] = fmaxf(top[1], max_at[w * 16 * WM + wm * 16 + g + 8]);
                    }
                }
                float scale[2], base[2];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const float max = fmaxf(m[h], top[h]);
                    base[h] = max == BELOW ? 0.0f : max; /* nothing seen yet: 2^(-inf - 0) = 0 */
                    scale[h] = gpu_exp2(gpu_add(m[h], -base[h]));
                    m[h] = max;
                }
#pragma unroll
                for (int n = 0; n < NS; n++) {
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        p[n / 2][n % 2 * 2 + h] = attend_pack<KV>(gpu_exp2(gpu_add(s[n][2 * h], -base[h])), gpu_exp2(gpu_add(s[n][2 * h + 1], -base[h])));
                }
                if constexpr (WN > 1) {
#pragma unroll
                    for (int n = 0; n < NS; n++)
#pragma unroll
                        for (int h = 0; h < 2; h++)
                            *(uint32_t *)(p_at + ((wm * 16 + g + 8 * h) * shape::P_PITCH + (wn * NS + n) * 8 + 2 * t) * 2) = p[n / 2][n % 2 * 2 + h];
                }
#pragma unroll
                for (int n = 0; n < NO; n++)
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        o[n][k] = gpu_mul(o[n][k], scale[k / 2]);
#pragma unroll
                for (int k = 0; k < 4; k++)
                    sum[k] = gpu_mul(sum[k], scale[k / 2]);
            }
            /* o += P V, 32 positions at a time */
            const char *values = take();
            if (!busy)
                continue;
            const uint32_t ones = KV == OPS_KV_BF16 ? 0x3f803f80u : 0x3c003c00u;
            const char *v_row = values + (lane * shape::PITCH + wn * NO * 8) * 2;
#pragma unroll
            for (int j = 0; j < TOKENS / 32; j++) {
                uint32_t pa[2][4];
                if constexpr (WN > 1) {
                    const char *p_row = p_at + ((wm * 16 + lane % 16) * shape::P_PITCH + lane / 16 * 8 + j * 32) * 2;
                    gpu_ldmatrix_x4(pa[0], p_row);
                    gpu_ldmatrix_x4(pa[1], p_row + 32);
                } else {
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        pa[0][k] = p[2 * j][k];
                        pa[1][k] = p[2 * j + 1][k];
                    }
                }
                attend_mma<KV>(sum, pa[0], ones, ones);
                attend_mma<KV>(sum, pa[1], ones, ones);
#pragma unroll
                for (int n = 0; n < NO; n++) {
                    uint32_t vb[4];
                    gpu_ldmatrix_x4_t(vb, v_row + (j * 32 * shape::PITCH + n * 8) * 2);
                    attend_mma<KV>(o[n], pa[0], vb[0], vb[1]);
                    attend_mma<KV>(o[n], pa[1], vb[2], vb[3]);
                }
            }
        }
        const float l[2] = {sum[0], sum[2]};
        if (!it.w.whole) {
            store(c - it.w.chunk, [&](int n, int h) { return make_float2(o[n][2 * h], o[n][2 * h + 1]); }, m, l);
            continue;
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float old_w, new_w;
            if (!attend_weights(all_m[h], m[h], old_w, new_w))
                continue;
            all_l[h] = attend_merge(all_l[h], old_w, l[h], new_w);
#pragma unroll
            for (int n = 0; n < NO; n++) {
                if constexpr (shape::KEEP) {
                    all[n][2 * h] = attend_merge(all[n][2 * h], old_w, o[n][2 * h], new_w);
                    all[n][2 * h + 1] = attend_merge(all[n][2 * h + 1], old_w, o[n][2 * h + 1], new_w);
                } else {
                    float2 *to = (float2 *)(kept + n * shape::N_THREADS) + h;
                    *to = make_float2(attend_merge(to->x, old_w, o[n][2 * h], new_w), attend_merge(to->y, old_w, o[n][2 * h + 1], new_w));
                }
            }
        }
    }
    if (it.w.whole)
        store(
            0,
            [&](int n, int h) {
                if constexpr (shape::KEEP)
                    return make_float2(all[n][2 * h], all[n][2 * h + 1]);
                else
                    return *((const float2 *)(kept + n * shape::N_THREADS) + h);
            },
            all_m, all_l);
}

template <int KV, int D, int WM, int WN>
static __global__ void __launch_bounds__(attend_shape<KV, D, WM, WN>::N_THREADS, attend_shape<KV, D, WM, WN>::BLOCKS_SM) attend_tensor(const gpu_step *step, const attend_args a)
{
    using shape = attend_shape<KV, D, WM, WN>;
    GPU_DYN_SMEM(char, smem);
    GPU_SHARED(attend_item, item, [1]); /* in shared memory, not in registers, of which the accumulators want all */
    constexpr bool FLAT = WM == 1;
    const int32_t n_work = a.list->n_work;
    const int64_t tiles = FLAT ? 1 : ((int64_t)a.list->most_rows * a.most_heads + shape::QUERIES - 1) / shape::QUERIES, n = tiles * n_work * a.n_kv;
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x) {
        if (threadIdx.x == 0) {
            attend_find(step, a, n_work, i, shape::QUERIES, *item);
            if (FLAT != (item->w.n_rows * item->n_group <= 16)) /* the other kernel's */
                item->n = 0;
        }
        __syncthreads();
        if (item->n > 0)
            attend_tiles<KV, D, WM, WN>(a, *item, smem);
        __syncthreads(); /* the next item writes where this one read */
    }
}

/* ---- without them: f32 caches, and heads of more than 256 dimensions ----
 *
 * A thread has two positions of the chunk for the scores (dimensions in order, keys staged 32 dimensions at a time), then ND dimensions for the values
 * (positions in order); 8 queries at a time.  The chunk's maximum is known before its first exponential: no rescaling inside.  Bound by its
 * multiply-adds and shared loads; for reference and for unusual models. */

struct attend_plain_smem {
    float q[PLAIN_QUERIES][512];
    float score[PLAIN_QUERIES][CHUNK];
    float keys[CHUNK][PLAIN_SLICE + 1];
    float max[PLAIN_QUERIES], sum[PLAIN_QUERIES];
    const char *block[CHUNK / OPS_KV_BLOCK];
};

/* Element d of a token of a block's keys or values (codes, scales: that plane). */
template <int KV> GPU_FN float attend_element(const char *codes, const char *scales, int32_t padded, int token, int d)
{
    const int64_t at = (int64_t)token * padded + d;
    if constexpr (KV == OPS_KV_F32)
        return ((const float *)codes)[at];
    else if constexpr (KV == OPS_KV_F16)
        return gpu_f16_to_f32(((const uint16_t *)codes)[at]);
    else if constexpr (KV == OPS_KV_BF16)
        return gpu_bf16_to_f32(((const uint16_t *)codes)[at]);
    else if constexpr (KV == OPS_KV_F8)
        return gpu_e4m3_to_f32(((const uint8_t *)codes)[at]);
    else
        return gpu_mul((float)((const int8_t *)codes)[at], gpu_f16_to_f32(((const uint16_t *)scales)[d / 32 * 16 + token]));
}

template <int KV, int ND> GPU_FN void attend_plain_item(const attend_args &a, const attend_item &it, attend_plain_smem &s)
{
    const int tid = (int)threadIdx.x, lane = tid % 32, warp = tid / 32;
    float all[PLAIN_QUERIES][ND], all_m[PLAIN_QUERIES], all_l[PLAIN_QUERIES];
#pragma unroll
    for (int i = 0; i < PLAIN_QUERIES; i++) {
        all_m[i] = BELOW;
        all_l[i] = 0.0f;
#pragma unroll
        for (int k = 0; k < ND; k++)
            all[i][k] = 0.0f;
    }
    for (int i = tid; i < PLAIN_QUERIES * 512; i += THREADS) {
        const int query = i / 512, d = i % 512;
        float v = 0.0f;
        if (query < it.n && d < a.head_dim) {
            const int32_t row = it.w.row + (it.first + query) / it.n_group, head = it.head + (it.first + query) % it.n_group;
            v = a.q[row * a.q_stride + (int64_t)head * a.head_dim + d];
        }
        s.q[query][d] = v;
    }
    for (int32_t c = it.w.chunk; c < it.w.chunk + it.w.n_chunks; c++) {
        const int32_t base = c * CHUNK, lo = max(it.lo, base) - base, hi = min(it.hi, base + CHUNK) - base; /* seen by some, from the chunk's start */
        __syncthreads();
        if (tid < CHUNK / OPS_KV_BLOCK)
            s.block[tid] = attend_block(a, it, base + tid * OPS_KV_BLOCK);
        /* scores of positions tid and tid + 128 */
        float dot[PLAIN_QUERIES][2];
#pragma unroll
        for (int i = 0; i < PLAIN_QUERIES; i++)
            dot[i][0] = dot[i][1] = 0.0f;
        for (int d0 = 0; d0 < a.head_dim && lo < hi; d0 += PLAIN_SLICE) {
            __syncthreads();
#pragma unroll 8
            for (int i = tid; i < CHUNK * PLAIN_SLICE; i += THREADS) {
                const int token = i / PLAIN_SLICE, d = i % PLAIN_SLICE;
                const char *block = s.block[token / OPS_KV_BLOCK];
                const bool there = block != nullptr && token >= lo && token < hi && d0 + d < a.head_dim;
                s.keys[token][d] = there ? attend_element<KV>(block, block + a.k_scales, a.padded, token % OPS_KV_BLOCK, d0 + d) : 0.0f;
            }
            __syncthreads();
#pragma unroll 4
            for (int d = 0; d < PLAIN_SLICE; d++) {
                const float k0 = s.keys[tid][d], k1 = s.keys[tid + THREADS][d];
#pragma unroll
                for (int i = 0; i < PLAIN_QUERIES; i++) {
                    const float q = s.q[i][d0 + d];
                    dot[i][0] = gpu_fma(q, k0, dot[i][0]);
                    dot[i][1] = gpu_fma(q, k1, dot[i][1]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PLAIN_QUERIES; i++) {
            const int32_t at = attend_position(it, i);
            const float slope = attend_slope(a, it, i);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int32_t back = at - (base + tid + k * THREADS);
                float x = a.capped ? attend_capped(a, dot[i][k]) : attend_plainly(a, dot[i][k]);
                if (a.slopes != nullptr)
                    x = attend_biased(x, slope, back);
                s.score[i][tid + k * THREADS] = (uint32_t)back < attend_reach(a) ? x : BELOW;
            }
        }
        __syncthreads();
        for (int i = warp; i < PLAIN_QUERIES; i += THREADS / 32) {
            float v[CHUNK / 32], m = BELOW, sum = 0.0f;
#pragma unroll
            for (int k = 0; k < CHUNK / 32; k++) {
                v[k] = s.score[i][k * 32 + lane];
                m = fmaxf(m, v[k]);
            }
            m = gpu_warp_max(m);
            const float from = m == BELOW ? 0.0f : m;
#pragma unroll
            for (int k = 0; k < CHUNK / 32; k++) {
                const float p = gpu_exp2(gpu_add(v[k], -from));
                s.score[i][k * 32 + lane] = p;
                sum = gpu_add(sum, p);
            }
            sum = gpu_warp_sum(sum);
            if (lane == 0) {
                s.max[i] = m;
                s.sum[i] = sum;
            }
        }
        __syncthreads();
        float o[PLAIN_QUERIES][ND];
#pragma unroll
        for (int i = 0; i < PLAIN_QUERIES; i++)
#pragma unroll
            for (int k = 0; k < ND; k++)
                o[i][k] = 0.0f;
#pragma unroll 4
        for (int token = lo; token < hi; token++) {
            const char *block = s.block[token / OPS_KV_BLOCK];
            float v[ND];
#pragma unroll
            for (int k = 0; k < ND; k++) {
                const int d = tid + k * THREADS;
                v[k] = block != nullptr && d < a.head_dim ? attend_element<KV>(block + a.v_codes, block + a.v_scales, a.padded, token % OPS_KV_BLOCK, d) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < PLAIN_QUERIES; i++) {
                const float p = s.score[i][token];
#pragma unroll
                for (int k = 0; k < ND; k++)
                    o[i][k] = gpu_fma(p, v[k], o[i][k]);
            }
        }
        auto store = [&](int i, int32_t chunk, const float (&from)[ND], float m, float l) {
            if (i >= it.n)
                return;
            const int64_t slot = attend_slot(a, it, i, chunk);
            if (tid == 0)
                *(float2 *)(a.state + slot * 2) = make_float2(m, l);
#pragma unroll
            for (int k = 0; k < ND; k++)
                if (tid + k * THREADS < a.head_dim)
                    a.out[slot * a.padded + tid + k * THREADS] = from[k];
        };
        const bool last = c + 1 == it.w.chunk + it.w.n_chunks;
#pragma unroll
        for (int i = 0; i < PLAIN_QUERIES; i++) {
            if (!it.w.whole) {
                store(i, c - it.w.chunk, o[i], s.max[i], s.sum[i]);
                continue;
            }
            float old_w, new_w;
            if (attend_weights(all_m[i], s.max[i], old_w, new_w)) {
                all_l[i] = attend_merge(all_l[i], old_w, s.sum[i], new_w);
#pragma unroll
                for (int k = 0; k < ND; k++)
                    all[i][k] = attend_merge(all[i][k], old_w, o[i][k], new_w);
            }
            if (last)
                store(i, 0, all[i], all_m[i], all_l[i]);
        }
    }
}

template <int KV, int ND> static __global__ void __launch_bounds__(THREADS, 2) attend_plain(const gpu_step *step, const attend_args a)
{
    GPU_DYN_SMEM(attend_plain_smem, smem);
    const int32_t n_work = a.list->n_work;
    const int64_t tiles = ((int64_t)a.list->most_rows * a.most_heads + PLAIN_QUERIES - 1) / PLAIN_QUERIES, n = tiles * n_work * a.n_kv;
    GPU_SHARED(attend_item, item, [1]);
    for (int64_t i = blockIdx.x; i < n; i += gridDim.x) {
        if (threadIdx.x == 0)
            attend_find(step, a, n_work, i, PLAIN_QUERIES, *item);
        __syncthreads();
        if (item->n > 0)
            attend_plain_item<KV, ND>(a, *item, *smem);
        __syncthreads();
    }
}

/* ---- y ---- */

/* N columns from `at` on (float index within a slot's row of heads, in steps of `padded`): the chunks of one head merged, divided, with the sink. */
template <int N> GPU_FN void attend_finish(const float *out, const float *state, int32_t padded, int32_t n_heads, gpu_row_slots r, int32_t head, int32_t d,
                                                                      const float *sinks, float *v)
{
    constexpr int BATCH = 16; /* results on their way together */
    const int64_t step = (int64_t)r.stride * n_heads;
    int64_t at = (int64_t)r.slot * n_heads + head;
    float m = BELOW, l = 0.0f;
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = 0.0f;
    for (int32_t c = 0; c < r.n; c += BATCH, at += BATCH * step) {
        float2 ml[BATCH];
        float o[BATCH][N];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const bool there = c + j < r.n;
            ml[j] = there ? *(const float2 *)(state + (at + j * step) * 2) : make_float2(BELOW, 0.0f);
            const float *from = out + (at + j * step) * padded + d;
            if constexpr (N == 4) {
                const float4 f = there ? *(const float4 *)from : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                o[j][0] = f.x;
                o[j][1] = f.y;
                o[j][2] = f.z;
                o[j][3] = f.w;
            } else {
#pragma unroll
                for (int k = 0; k < N; k++)
                    o[j][k] = there ? from[k] : 0.0f;
            }
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            float old_w, new_w;
            if (!attend_weights(m, ml[j].x, old_w, new_w))
                continue;
            l = attend_merge(l, old_w, ml[j].y, new_w);
#pragma unroll
            for (int k = 0; k < N; k++)
                v[k] = attend_merge(v[k], old_w, o[j][k], new_w);
        }
    }
    float factor;
    if (sinks != nullptr) {
        const float sink = gpu_mul(sinks[head], 0x1.715476p+0f), max = fmaxf(m, sink), old_w = gpu_exp2(gpu_add(m, -max));
        factor = gpu_div(old_w, gpu_fma(l, old_w, gpu_exp2(gpu_add(sink, -max))));
    } else
        factor = gpu_div(1.0f, l);
#pragma unroll
    for (int k = 0; k < N; k++)
        v[k] = gpu_add(gpu_mul(v[k], factor), 0.0f); /* -0 becomes 0: its sign may come from positions not seen */
}

/* A warp writes 128 columns of a row of y, a lane four of them: all heads', and zeros beside.  Split rows: 16 results on their way a lane, 32 KiB an SM with four warps. */
static __global__ void __launch_bounds__(64, 4) attend_write(const gpu_step *step, const gpu_mat y, int32_t y_col, int32_t n_heads, int32_t head_dim, int32_t padded,
                                                             const gpu_attention_list *list, const float *out, const float *state, const float *sinks)
{
    const int32_t row = (int32_t)blockIdx.y, col = ((int32_t)blockIdx.x * 64 + (int32_t)threadIdx.x) * 4, first = col - y_col, width = n_heads * head_dim;
    if (row >= step->n_rows)
        return;
    const gpu_row_slots slots = ((const gpu_row_slots *)(list + 1))[row];
    row4 v = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (first >= 0 && first + 4 <= width && head_dim % 4 == 0 && y_col % 4 == 0)
        attend_finish<4>(out, state, padded, n_heads, slots, first / head_dim, first % head_dim, sinks, v.v);
    else if (first > -4 && first < width) {
#pragma unroll 1
        for (int k = 0; k < 4; k++) {
            float one = 0.0f;
            if (first + k >= 0 && first + k < width)
                attend_finish<1>(out, state, padded, n_heads, slots, (first + k) / head_dim, (first + k) % head_dim, sinks, &one);
            v.v[0] = k == 0 ? one : v.v[0];
            v.v[1] = k == 1 ? one : v.v[1];
            v.v[2] = k == 2 ? one : v.v[2];
            v.v[3] = k == 3 ? one : v.v[3];
        }
    }
    row_put4(&y, row_at(&y, row), col, v);
}

/* ---- launching ---- */

typedef cudaError_t (*attend_launcher)(const gpu_step *step, const attend_args *a, int64_t items, cudaStream_t s); /* step NULL: allow the shared memory */

template <int KV, int D, int WM, int WN> static cudaError_t launch_shape(const gpu_step *step, const attend_args *a, int64_t items, cudaStream_t s)
{
    using shape = attend_shape<KV, D, WM, WN>;
    if (step == nullptr)
        return gpu_allow_smem(attend_tensor<KV, D, WM, WN>, shape::BYTES);
    return GPU_LAUNCH((attend_tensor<KV, D, WM, WN>), dim3((unsigned)(items < BLOCKS ? items : BLOCKS)), dim3(shape::N_THREADS), shape::BYTES, s, step, *a);
}

/* Pieces of few queries to the flat kernel, the others to the tall one; each leaves the other's alone. */
template <int KV, int D> static cudaError_t launch_tensor(const gpu_step *step, const attend_args *a, int64_t pieces, cudaStream_t s)
{
    constexpr int WM = D > 128 ? 2 : 8, WN = D > 128 ? 4 : 1;
    const cudaError_t e = launch_shape<KV, D, 1, 4>(step, a, pieces, s);
    if (e != cudaSuccess || (step != nullptr && a->most_rows * a->most_heads <= 16))
        return e;
    return launch_shape<KV, D, WM, WN>(step, a, step != nullptr ? pieces * ((a->most_rows * a->most_heads + 16 * WM - 1) / (16 * WM)) : 0, s);
}

template <int KV, int ND> static cudaError_t launch_plain(const gpu_step *step, const attend_args *a, int64_t pieces, cudaStream_t s)
{
    if (step == nullptr)
        return gpu_allow_smem(attend_plain<KV, ND>, sizeof(attend_plain_smem));
    const int64_t n = pieces * ((a->most_rows * a->most_heads + PLAIN_QUERIES - 1) / PLAIN_QUERIES);
    return GPU_LAUNCH((attend_plain<KV, ND>), dim3((unsigned)(n < BLOCKS ? n : BLOCKS)), dim3(THREADS), sizeof(attend_plain_smem), s, step, *a);
}

/* The kernel of a cache type and head width: the number of rows has no say. */
static attend_launcher launcher_of(int32_t type, int32_t head_dim)
{
    static const int32_t tensor_dims[] = {64, 96, 128, 256};
    static const attend_launcher tensor[4][4] = {
        {launch_tensor<OPS_KV_F16, 64>, launch_tensor<OPS_KV_F16, 96>, launch_tensor<OPS_KV_F16, 128>, launch_tensor<OPS_KV_F16, 256>},
        {launch_tensor<OPS_KV_BF16, 64>, launch_tensor<OPS_KV_BF16, 96>, launch_tensor<OPS_KV_BF16, 128>, launch_tensor<OPS_KV_BF16, 256>},
        {launch_tensor<OPS_KV_Q8, 64>, launch_tensor<OPS_KV_Q8, 96>, launch_tensor<OPS_KV_Q8, 128>, launch_tensor<OPS_KV_Q8, 256>},
        {launch_tensor<OPS_KV_F8, 64>, launch_tensor<OPS_KV_F8, 96>, launch_tensor<OPS_KV_F8, 128>, launch_tensor<OPS_KV_F8, 256>},
    };
    static const attend_launcher wide[OPS_KV_TYPES] = {launch_plain<OPS_KV_F32, 4>, launch_plain<OPS_KV_F16, 4>, launch_plain<OPS_KV_BF16, 4>, launch_plain<OPS_KV_Q8, 4>,
                                                       launch_plain<OPS_KV_F8, 4>};
    if (type == OPS_KV_F32 && head_dim <= 256)
        return head_dim <= 128 ? launch_plain<OPS_KV_F32, 1> : launch_plain<OPS_KV_F32, 2>;
    for (int i = 0; i < 4 && type != OPS_KV_F32; i++)
        if (head_dim <= tensor_dims[i])
            return tensor[type - OPS_KV_F16][i];
    return head_dim <= 512 ? wide[type] : nullptr;
}

static const int32_t dims[] = {64, 96, 128, 256, 512};
static bool too_much[OPS_KV_TYPES][sizeof(dims) / sizeof(dims[0])]; /* shared memory, for this process's devices, which are of one kind */

static bool fits(int32_t type, int32_t head_dim)
{
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        if (head_dim <= dims[i])
            return !too_much[type][i];
    return true;
}

extern "C" cudaError_t k_attention_init(void)
{
    for (int32_t type = OPS_KV_F32; type < OPS_KV_TYPES; type++)
        for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
            const cudaError_t e = launcher_of(type, dims[i])(nullptr, nullptr, 0, nullptr);
            too_much[type][i] = e == cudaErrorInvalidValue; /* a device with less than 8.0 or 9.0 has: told when it is asked for */
            if (too_much[type][i])
                (void)cudaGetLastError();
            else if (e != cudaSuccess)
                return e;
        }
    return cudaSuccess;
}

extern "C" cudaError_t k_attention(const gpu_step *step, int32_t rows, const gpu_attention *g, cudaStream_t s)
{
    const attend_launcher launch = g->kv.type >= OPS_KV_F32 && g->kv.type < OPS_KV_TYPES ? launcher_of(g->kv.type, g->head_dim) : nullptr;
    if (launch == nullptr || g->n_heads < 1 || g->heads_per_kv < 1 || g->kv.head_dim != g->head_dim)
        return cudaErrorInvalidValue;
    if (!fits(g->kv.type, g->head_dim))
        return cudaErrorNotSupported;
    if (rows < 1 || g->max_work < 1)
        return cudaSuccess;
    attend_args a = {};
    const float log2e = 0x1.715476p+0f;
    a.q = (const float *)g->q.p;
    a.q_stride = g->q.stride / 4;
    a.n_heads = g->n_heads;
    a.head_dim = g->head_dim;
    a.head_begin = g->head_begin;
    a.heads_per_kv = g->heads_per_kv;
    a.kv_head_begin = g->kv_head_begin;
    a.first_kv = g->head_begin / g->heads_per_kv - g->kv_head_begin;
    a.n_kv = (g->head_begin + g->n_heads - 1) / g->heads_per_kv - g->kv_head_begin - a.first_kv + 1;
    a.most_heads = g->n_heads < g->heads_per_kv ? g->n_heads : g->heads_per_kv;
    a.most_rows = rows < GPU_ATTENTION_ROWS ? rows : GPU_ATTENTION_ROWS;
    if (g->max_rows > 0 && g->max_rows < a.most_rows)
        a.most_rows = g->max_rows;
    a.window = g->window;
    a.kv_group = g->kv_group;
    a.capped = g->softcap > 0.0f;
    a.pre = a.capped ? 2.0f * log2e * g->scale / g->softcap : 0.0f;
    a.post = (a.capped ? g->softcap : g->scale) * log2e;
    a.slopes = g->slopes;
    a.cache = g->kv.p + (int64_t)g->kv_layer * g->kv.n_kv_heads * g->kv.n_blocks * g->kv.head_bytes;
    a.padded = g->kv.padded;
    a.n_blocks = g->kv.n_blocks;
    a.head_bytes = g->kv.head_bytes;
    a.k_scales = g->kv.k_scales;
    a.v_codes = g->kv.v_codes;
    a.v_scales = g->kv.v_scales;
    a.list = g->list;
    a.out = g->partial;
    a.state = g->partial + (int64_t)g->max_slots * g->n_heads * g->kv.padded;
    const cudaError_t e = launch(step, &a, (int64_t)g->max_work * a.n_kv, s);
    if (e != cudaSuccess)
        return e;
    const int32_t columns = row_padded(g->y.type, g->y.cols);
    return GPU_LAUNCH(attend_write, dim3((unsigned)((columns + 255) / 256), (unsigned)rows), dim3(64), 0, s, step, g->y, g->y_col, g->n_heads, g->head_dim, g->kv.padded, g->list,
                      (const float *)a.out, (const float *)a.state, g->sinks);
}
