/* ops/cpu/vec_attention.c - one tile of queries against one chunk of the cache (online softmax, arXiv:1805.02867).
 *
 * Scores:  a lane is a token.  s[t] = sum over d, in order, of q[d] * K[d][t].
 * Values:  a lane is a dimension.  o[d] = sum over t, in order, of p[t] * V[t][d].
 * Both run in register tiles of up to GROUP queries, so that a key or value loaded (and widened) once serves all of them.
 * Only tokens a query sees enter its sums: what lies in the rest of a block, stale or not yet written, is never multiplied. */
#include "ops/cpu/vec_kernels.h"
#include "ops/cpu/vec_math.h"

#define CHUNK OPS_ATTENTION_CHUNK

/* The queries that one register tile holds: their sums stay in registers, and are enough to hide the latency of a multiply-add. */
#ifdef CPU_LEVEL_AVX512
#define GROUP 12
#else
#define GROUP 6
#endif

/* Blocks of values taken together. */
#define VALUE_BLOCKS 4

/* How many of the queries that are left are taken together: each number is code of its own. */
VEC int32_t group_of(int32_t left)
{
    return left >= GROUP ? GROUP : left >= 8 ? 8 : left >= 6 ? 6 : left;
}

/* M(0) ... M(n - 1), n a constant after inlining: accumulators are named, so that they stay in registers. */
#define EACH(n, M)      \
    do {                \
        if ((n) > 0)    \
            M(0);       \
        if ((n) > 1)    \
            M(1);       \
        if ((n) > 2)    \
            M(2);       \
        if ((n) > 3)    \
            M(3);       \
        if ((n) > 4)    \
            M(4);       \
        if ((n) > 5)    \
            M(5);       \
        if ((n) > 6)    \
            M(6);       \
        if ((n) > 7)    \
            M(7);       \
        if ((n) > 8)    \
            M(8);       \
        if ((n) > 9)    \
            M(9);       \
        if ((n) > 10)   \
            M(10);      \
        if ((n) > 11)   \
            M(11);      \
    } while (0)
#define SUMS a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11

VEC vf load_code(ops_kv_type type, const char *p, size_t element)
{
    switch (type) {
    case OPS_KV_F32:
        return vf_load((const float *)(const void *)p + element);
    case OPS_KV_F16:
        return vf_load_f16((const uint16_t *)(const void *)p + element);
    case OPS_KV_BF16:
        return vf_load_bf16((const uint16_t *)(const void *)p + element);
    case OPS_KV_F8:
        return vf_load_e4m3((const uint8_t *)p + element);
    default:
        return vi_to_vf(vi_load_i8((const int8_t *)p + element));
    }
}

void VEC_NAME(attention_pack)(const float *const *q, int32_t n, int32_t head_dim, float *packed)
{
    for (int32_t g = 0, m; g < n; g += m) {
        m = group_of(n - g);
        for (int32_t d = 0; d < head_dim; d++)
            for (int32_t i = 0; i < m; i++)
                *packed++ = q[g + i][d];
    }
}

/* Blocks lie scattered, so the processor cannot foresee the next one: while one is worked on, `ahead` (the same place in the next, or in this one) is
 * fetched line by line.  Decoding at long context reads the cache more than twice as fast for it. */
VEC void fetch(const char *ahead)
{
    __builtin_prefetch(ahead);
}

VEC size_t code_bytes(ops_kv_type type)
{
    return type == OPS_KV_F32 ? 4 : type == OPS_KV_Q8 || type == OPS_KV_F8 ? 1 : 2;
}

/* scores[i][16 tokens of one block] = q[i] . K for nq queries packed [d][nq] */
VEC void block_scores(ops_kv_type type, int nq, const cpu_kv_layout *kv, const float *q, const char *block, const char *ahead, float *scores)
{
    int32_t dim = kv->head_dim, step = type == OPS_KV_Q8 ? CPU_KV_GROUP : dim;
    for (int32_t begin = 0; begin < dim; begin += step) {
        int32_t end = dim - begin < step ? dim : begin + step;
        vf SUMS;
#define M(i) a##i = vf_zero()
        EACH(nq, M);
#undef M
        for (int32_t d = begin; d < end; d++, q += nq) {
            vf k = load_code(type, block, (size_t)d * OPS_KV_BLOCK);
            fetch(ahead + (size_t)d * OPS_KV_BLOCK * code_bytes(type));
#define M(i) a##i = vf_fma(vf_set1(q[i]), k, a##i)
            EACH(nq, M);
#undef M
        }
        if (type == OPS_KV_Q8) {
            vf scale = vf_load_f16((const uint16_t *)(const void *)(block + kv->k_scales) + begin / CPU_KV_GROUP * OPS_KV_BLOCK);
#define M(i) vf_store(scores + (i) * CHUNK, begin == 0 ? vf_mul(a##i, scale) : vf_fma(a##i, scale, vf_load(scores + (i) * CHUNK)))
            EACH(nq, M);
#undef M
        } else {
#define M(i) vf_store(scores + (i) * CHUNK, a##i)
            EACH(nq, M);
#undef M
        }
    }
}

/* o[i] += p[i][t] * V[t] for tokens [t0, t1) of blocks that follow one another, in order.  p, o: rows CHUNK and kv->padded apart. */
VEC void block_values(ops_kv_type type, int nq, const cpu_kv_layout *kv, const float *p, const char *const *block, const char *const *ahead, int t0, int t1, float *o)
{
    const size_t e = (size_t)kv->padded;
    float scaled[GROUP * VALUE_BLOCKS * OPS_KV_BLOCK];
    size_t p_step = type == OPS_KV_Q8 ? VALUE_BLOCKS * OPS_KV_BLOCK : CHUNK;
    const float *w = type == OPS_KV_Q8 ? scaled : p;
    for (size_t d = 0; d < e; d += VEC_LANES) {
        for (int b = 0; type == OPS_KV_Q8 && d % CPU_KV_GROUP == 0 && b * OPS_KV_BLOCK < t1; b++) {
            vf scale = vf_load_f16((const uint16_t *)(const void *)(block[b] + kv->v_scales) + d / CPU_KV_GROUP * OPS_KV_BLOCK);
            for (int i = 0; i < nq; i++)
                vf_store(scaled + (i * VALUE_BLOCKS + b) * OPS_KV_BLOCK, vf_mul(vf_load(p + i * CHUNK + b * OPS_KV_BLOCK), scale));
        }
        vf SUMS;
#define M(i) a##i = vf_load(o + (i) * e + d)
        EACH(nq, M);
#undef M
        for (int b = 0; b * OPS_KV_BLOCK < t1; b++) {
            const char *values = block[b] + kv->v_codes, *next = ahead[b] + kv->v_codes;
            int end = t1 - b * OPS_KV_BLOCK < OPS_KV_BLOCK ? t1 - b * OPS_KV_BLOCK : OPS_KV_BLOCK;
            for (int t = b == 0 ? t0 : 0; t < end; t++) {
                vf v = load_code(type, values, (size_t)t * e + d);
                fetch(next + (d * OPS_KV_BLOCK + (size_t)t * VEC_LANES) * code_bytes(type));
#define M(i) a##i = vf_fma(vf_set1(w[(size_t)(i) * p_step + (size_t)(b * OPS_KV_BLOCK + t)]), v, a##i)
                EACH(nq, M);
#undef M
            }
        }
#define M(i) vf_store(o + (i) * e + d, a##i)
        EACH(nq, M);
#undef M
    }
}

/* One function for each (type, nq): the constants make them different code. */
#if GROUP > 6
#define BY_WIDE(CALL)  \
    case 8:            \
        CALL(8);       \
        break;         \
    case 12:           \
        CALL(12);      \
        break;
#else
#define BY_WIDE(CALL)
#endif
#define BY_COUNT(n, CALL)  \
    switch (n) {           \
        BY_WIDE(CALL)      \
    case 1:                \
        CALL(1);           \
        break;             \
    case 2:                \
        CALL(2);           \
        break;             \
    case 3:                \
        CALL(3);           \
        break;             \
    case 4:                \
        CALL(4);           \
        break;             \
    case 5:                \
        CALL(5);           \
        break;             \
    default:               \
        CALL(6);           \
    }

#define DEFINE(NAME, TYPE)                                                                                                              \
    static void scores_##NAME(int nq, const cpu_kv_layout *kv, const float *q, const char *block, const char *ahead, float *scores)                        \
    {                                                                                                                                   \
        BY_COUNT(nq, SCORES_##NAME)                                                                                                     \
    }                                                                                                                                   \
    static void values_##NAME(int nq, const cpu_kv_layout *kv, const float *p, const char *const *block, const char *const *ahead, int t0, int t1, float *o) \
    {                                                                                                                                   \
        BY_COUNT(nq, VALUES_##NAME)                                                                                                     \
    }
#define SCORES_f32(n) block_scores(OPS_KV_F32, n, kv, q, block, ahead, scores)
#define VALUES_f32(n) block_values(OPS_KV_F32, n, kv, p, block, ahead, t0, t1, o)
#define SCORES_f16(n) block_scores(OPS_KV_F16, n, kv, q, block, ahead, scores)
#define VALUES_f16(n) block_values(OPS_KV_F16, n, kv, p, block, ahead, t0, t1, o)
#define SCORES_bf16(n) block_scores(OPS_KV_BF16, n, kv, q, block, ahead, scores)
#define VALUES_bf16(n) block_values(OPS_KV_BF16, n, kv, p, block, ahead, t0, t1, o)
#define SCORES_q8(n) block_scores(OPS_KV_Q8, n, kv, q, block, ahead, scores)
#define VALUES_q8(n) block_values(OPS_KV_Q8, n, kv, p, block, ahead, t0, t1, o)
#define SCORES_f8(n) block_scores(OPS_KV_F8, n, kv, q, block, ahead, scores)
#define VALUES_f8(n) block_values(OPS_KV_F8, n, kv, p, block, ahead, t0, t1, o)
DEFINE(f32, OPS_KV_F32)
DEFINE(f16, OPS_KV_F16)
DEFINE(bf16, OPS_KV_BF16)
DEFINE(q8, OPS_KV_Q8)
DEFINE(f8, OPS_KV_F8)

typedef void (*scores_fn)(int nq, const cpu_kv_layout *kv, const float *q, const char *block, const char *ahead, float *scores);
typedef void (*values_fn)(int nq, const cpu_kv_layout *kv, const float *p, const char *const *block, const char *const *ahead, int t0, int t1, float *o);

static inline int32_t min_i(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
static inline int32_t max_i(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Scores of query i to probabilities against the chunk's own maximum; [lo, hi): what it sees, in positions from the chunk's start. */
static void soften(const cpu_attention_tile *t, int32_t i, int32_t lo, int32_t hi)
{
    float *s = t->scores + (size_t)i * CHUNK;
    int32_t first = lo / VEC_LANES * VEC_LANES;
    vf scale = vf_set1(t->scale), cap = vf_set1(t->softcap), below = vf_set1(-INFINITY), max = below;
    vf distance = vi_to_vf(vi_add(vi_iota(), vi_set1(t->chunk + first - t->position[i]))), slope = vf_set1(t->slope[i]);
    for (int32_t b = first; b < hi; b += VEC_LANES) {
        vf v = vf_mul(vf_load(s + b), scale);
        if (t->softcap > 0.0f)
            v = vf_mul(cap, vf_tanh(vf_div(v, cap)));
        if (t->slopes) {
            v = vf_fma(slope, distance, v);
            distance = vf_add(distance, vf_set1((float)VEC_LANES));
        }
        if (b < lo || b + VEC_LANES > hi) {
            vi at = vi_add(vi_iota(), vi_set1(b));
            v = vf_select(vm_and(vi_gt(at, vi_set1(lo - 1)), vi_gt(vi_set1(hi), at)), v, below);
        }
        vf_store(s + b, v);
        max = vf_max(max, v);
    }
    t->max[i] = vf_hmax(max);
    vf m = vf_set1(t->max[i]), sum = vf_zero();
    for (int32_t b = first; b < hi; b += VEC_LANES) {
        vf p = vf_exp(vf_sub(vf_load(s + b), m));
        vf_store(s + b, p);
        sum = vf_add(sum, p);
    }
    t->sum[i] = vf_sum(sum);
}

/* The values of one block at positions [lo, hi), for those of the queries [q0, q0 + nq) that see them; heads of one row see the same, and go together. */
static void part_values(const cpu_attention_tile *t, values_fn values, int32_t q0, int32_t nq, int32_t b, const char *ahead, int32_t lo, int32_t hi)
{
    const cpu_kv_layout *kv = t->kv;
    int32_t base = t->chunk + b * OPS_KV_BLOCK;
    for (int32_t q = q0, n; q < q0 + nq; q += n) {
        int32_t from = max_i(lo, t->begin[q]), to = min_i(hi, t->end[q]), same = 1;
        while (q + same < q0 + nq && t->begin[q + same] == t->begin[q] && t->end[q + same] == t->end[q])
            same++;
        n = group_of(same);
        if (from < to)
            values(n, kv, t->scores + (size_t)q * CHUNK + (size_t)b * OPS_KV_BLOCK, &t->block[b], &ahead, from - base, to - base, t->out + (size_t)q * (size_t)kv->padded);
    }
}

/* The values of one block for the queries [q0, q0 + nq): what all see together, before and after it what each sees alone. */
static void group_values(const cpu_attention_tile *t, values_fn values, int32_t q0, int32_t nq, int32_t b, const char *ahead)
{
    const cpu_kv_layout *kv = t->kv;
    int32_t base = t->chunk + b * OPS_KV_BLOCK, end = base + OPS_KV_BLOCK;
    int32_t lo = max_i(base, t->begin[q0 + nq - 1]), hi = min_i(end, t->end[q0]);
    if (lo >= hi) {
        part_values(t, values, q0, nq, b, ahead, base, end);
        return;
    }
    if (base < lo)
        part_values(t, values, q0, nq, b, ahead, base, lo);
    values(nq, kv, t->scores + (size_t)q0 * CHUNK + (size_t)b * OPS_KV_BLOCK, &t->block[b], &ahead, lo - base, hi - base, t->out + (size_t)q0 * (size_t)kv->padded);
    if (hi < end)
        part_values(t, values, q0, nq, b, ahead, hi, end);
}

/* The same of n blocks: the sums of those that all queries see stay in registers. */
static void blocks_values(const cpu_attention_tile *t, values_fn values, int32_t q0, int32_t nq, int32_t b, int32_t n, const char *const *ahead)
{
    int32_t base = t->chunk + b * OPS_KV_BLOCK;
    if (t->begin[q0 + nq - 1] <= base && t->end[q0] >= base + n * OPS_KV_BLOCK) {
        values(nq, t->kv, t->scores + (size_t)q0 * CHUNK + (size_t)b * OPS_KV_BLOCK, &t->block[b], ahead, 0, n * OPS_KV_BLOCK, t->out + (size_t)q0 * (size_t)t->kv->padded);
        return;
    }
    for (int32_t i = 0; i < n; i++, base += OPS_KV_BLOCK) {
        if (t->begin[q0] < base + OPS_KV_BLOCK && t->end[q0 + nq - 1] > base)
            group_values(t, values, q0, nq, b + i, ahead[i]);
    }
}

void VEC_NAME(attention_chunk)(const cpu_attention_tile *t)
{
    static const scores_fn SCORES[] = {scores_f32, scores_f16, scores_bf16, scores_q8, scores_f8};
    static const values_fn VALUES[] = {values_f32, values_f16, values_bf16, values_q8, values_f8};
    const scores_fn scores = SCORES[t->kv->type];
    const values_fn values = VALUES[t->kv->type];
    const int32_t dim = t->kv->head_dim, chunk_end = t->chunk + CHUNK;
    int32_t lo = max_i(t->begin[0], t->chunk), hi = min_i(t->end[t->n - 1], chunk_end);
    const int32_t first = (lo - t->chunk) / OPS_KV_BLOCK, last = (hi - 1 - t->chunk) / OPS_KV_BLOCK;
    for (int32_t b = first; b <= last; b++)
        for (int32_t q0 = 0, nq; q0 < t->n; q0 += nq) {
            nq = group_of(t->n - q0);
            int32_t base = t->chunk + b * OPS_KV_BLOCK;
            const char *ahead = q0 > 0 ? t->block[b] : b < last ? t->block[b + 1] : t->block[first] + t->kv->v_codes;
            if (t->begin[q0] < base + OPS_KV_BLOCK && t->end[q0 + nq - 1] > base)
                scores(nq, t->kv, t->q + (size_t)q0 * (size_t)dim, t->block[b], ahead, t->scores + (size_t)q0 * CHUNK + (size_t)b * OPS_KV_BLOCK);
        }
    memset(t->out, 0, sizeof(float) * (size_t)t->n * (size_t)t->kv->padded);
    for (int32_t i = 0; i < t->n; i++) {
        int32_t from = max_i(t->begin[i], t->chunk), to = min_i(t->end[i], chunk_end);
        t->max[i] = -INFINITY;
        t->sum[i] = 0.0f;
        if (from < to)
            soften(t, i, from - t->chunk, to - t->chunk);
    }
    for (int32_t b = first, n; b <= last; b += n) {
        n = min_i(last - b + 1, VALUE_BLOCKS);
        const char *ahead[VALUE_BLOCKS];
        for (int32_t i = 0; i < n; i++)
            ahead[i] = t->block[min_i(b + n + i, last)];
        for (int32_t q0 = 0, nq; q0 < t->n; q0 += nq) {
            nq = group_of(t->n - q0);
            blocks_values(t, values, q0, nq, b, n, q0 == 0 ? ahead : &t->block[b]);
        }
    }
}

static float exp_one(float x)
{
    float lanes[VEC_LANES];
    vf_store(lanes, vf_exp(vf_set1(x)));
    return lanes[0];
}

void VEC_NAME(attention_merge)(float *m, float *l, float *o, float chunk_m, float chunk_l, const float *chunk_o, int32_t dim)
{
    if (chunk_m == -INFINITY)
        return;
    float max = *m > chunk_m ? *m : chunk_m;
    float old = exp_one(*m - max), new = exp_one(chunk_m - max);
    *m = max;
    *l = fmaf(chunk_l, new, *l * old);
    vf a = vf_set1(old), b = vf_set1(new);
    for (int32_t d = 0; d < dim; d += VEC_LANES)
        vf_store_n(o + d, dim - d, vf_fma(vf_load_n(chunk_o + d, dim - d), b, vf_mul(vf_load_n(o + d, dim - d), a)));
}

void VEC_NAME(attention_finish)(float m, float l, const float *o, const float *sink, int32_t dim, float *y)
{
    float inverse = 1.0f / l;
    if (sink != NULL) {
        float max = m > *sink ? m : *sink, old = exp_one(m - max);
        inverse = old / fmaf(l, old, exp_one(*sink - max));
    }
    for (int32_t d = 0; d < dim; d += VEC_LANES)
        vf_store_n(y + d, dim - d, vf_mul(vf_load_n(o + d, dim - d), vf_set1(inverse)));
}
