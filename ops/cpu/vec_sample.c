/* ops/cpu/vec_sample.c - what sampling does along a row of logits. */
#include "ops/cpu/vec_kernels.h"
#include "ops/cpu/vec_math.h"

float VEC_NAME(logits_raw)(float *l, int32_t n, float multiplier, float softcap)
{
    vf max = vf_set1(-INFINITY), scale = vf_set1(multiplier), cap = vf_set1(softcap), below = max;
    bool change = multiplier != 1.0f || softcap > 0.0f;
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        int left = n - i;
        vf v = vf_load_n(l + i, left);
        if (change) {
            v = vf_mul(v, scale);
            if (softcap > 0.0f)
                v = vf_mul(cap, vf_tanh(vf_div(v, cap)));
            vf_store_n(l + i, left, v);
        }
        max = vf_max(left < VEC_LANES ? vf_select(vm_first(left), v, below) : v, max); /* NaN loses */
    }
    return vf_hmax(max);
}

/* 16 bits of a bitmap from bit `at`; words past the one that holds bit `last` are not read. */
static uint32_t bits16(const uint32_t *map, int64_t at, int64_t last)
{
    uint64_t w = map[at / 32];
    if (at / 32 < last / 32)
        w |= (uint64_t)map[at / 32 + 1] << 32;
    return (uint32_t)(w >> (at % 32)) & 0xffff;
}

float VEC_NAME(logits_adjust)(float *l, int32_t n, const uint32_t *allow, int32_t first, float temperature)
{
    vf max = vf_set1(-INFINITY), below = max, t = vf_set1(temperature);
    bool divide = temperature > 0.0f && temperature != 1.0f;
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        int left = n - i;
        vf v = vf_load_n(l + i, left);
        if (allow != NULL)
            v = vf_select(vm_from_bits(bits16(allow, (int64_t)first + i, (int64_t)first + n - 1)), v, below);
        if (divide)
            v = vf_div(v, t);
        if (divide || allow != NULL)
            vf_store_n(l + i, left, v);
        max = vf_max(left < VEC_LANES ? vf_select(vm_first(left), v, below) : v, max);
    }
    return vf_hmax(max);
}

float VEC_NAME(sum_exp)(const float *l, int32_t n, float max)
{
    vf acc = vf_zero(), m = vf_set1(max);
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        int left = n - i;
        vf e = vf_exp(vf_sub(vf_load_n(l + i, left), m));
        acc = vf_add(acc, left < VEC_LANES ? vf_select(vm_first(left), e, vf_zero()) : e);
    }
    return vf_sum(acc);
}

/* ---- Gumbel noise ---- */

/* Philox4x32-10 (base/philox.h) of counters {c0, position, choice, 0} in sixteen lanes. */
VEC void philox_words(vi c0, uint32_t position, uint32_t choice, uint64_t seed, vi out[4])
{
    vi c1 = vi_set1((int32_t)position), c2 = vi_set1((int32_t)choice), c3 = vi_set1(0);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        vi h0 = vi_mulhi(c0, 0xD2511F53u), l0 = vi_mullo(c0, 0xD2511F53u), h1 = vi_mulhi(c2, 0xCD9E8D57u), l1 = vi_mullo(c2, 0xCD9E8D57u);
        c0 = vi_xor(vi_xor(h1, c1), vi_set1((int32_t)k0));
        c1 = l1;
        c2 = vi_xor(vi_xor(h0, c3), vi_set1((int32_t)k1));
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* u = 1 - v with v = (word + 1/2) / 2^32 rounded to f32: the upper tail, which decides, keeps all 32 bits.  -log(-log u). */
VEC vf gumbel(vi word)
{
    vf high = vi_to_vf(vi_srl(word, 16)), low = vi_to_vf(vi_and(word, vi_set1(0xffff)));
    vf v = vf_mul(vf_fma(high, vf_set1(65536.0f), vf_add(low, vf_set1(0.5f))), vf_set1(0x1p-32f));
    v = vf_min(v, vf_set1(0x1.fffffep-1f));
    return vf_neg(vf_log(vf_neg(vf_log1m(v))));
}

/* No draw exceeds this (v is at least 2^-33): logits so far below the best so far need none. */
#define GUMBEL_MAX 22.9f

static void better(ops_candidate *best, int32_t token, float logit)
{
    if (logit > best->logit || (logit == best->logit && logit > -INFINITY && (best->token < 0 || token < best->token)))
        *best = (ops_candidate){token, logit, 0.0f};
}

/* Lanes i .. i + 15 of a row of n; those outside it are -infinity. */
VEC vf load_part(const float *l, int32_t n, int32_t i)
{
    if (i >= 0 && n - i >= VEC_LANES)
        return vf_load(l + i);
    float part[VEC_LANES];
    for (int32_t k = 0; k < VEC_LANES; k++)
        part[k] = i + k >= 0 && i + k < n ? l[i + k] : -INFINITY;
    return vf_load(part);
}

VEC void best_of(vf v, int32_t token, ops_candidate *best)
{
    uint32_t beats = vm_bits(vf_ge(v, vf_set1(best->logit)));
    if (beats == 0)
        return;
    float lanes[VEC_LANES];
    vf_store(lanes, v);
    for (; beats != 0; beats &= beats - 1) {
        int lane = __builtin_ctz(beats);
        better(best, token + lane, lanes[lane]);
    }
}

void VEC_NAME(best)(const float *l, int32_t n, int32_t first, bool noise, uint64_t seed, uint32_t choice, int32_t position, ops_candidate *best)
{
    if (!noise) {
        for (int32_t i = 0; i < n; i += VEC_LANES)
            best_of(load_part(l, n, i), first + i, best);
        return;
    }
    const vf reach = vf_set1(GUMBEL_MAX);
    for (int32_t at = first / 64 * 64; at < first + n; at += 64) { /* the four words of a counter serve four tokens, 16 apart */
        vf v[4], m;
        for (int k = 0; k < 4; k++)
            v[k] = load_part(l, n, at + 16 * k - first);
        m = vf_max(vf_max(v[0], v[1]), vf_max(v[2], v[3]));
        if (vm_bits(vf_ge(vf_add(m, reach), vf_set1(best->logit))) == 0 && vm_bits(vf_unordered(m, m)) == 0)
            continue;
        vi words[4];
        philox_words(vi_add(vi_iota(), vi_set1(at / 4)), (uint32_t)position, choice, seed, words);
        for (int k = 0; k < 4; k++)
            if (vm_bits(vf_ge(vf_add(v[k], reach), vf_set1(best->logit))) != 0)
                best_of(vf_add(v[k], gumbel(words[k])), at + 16 * k, best);
    }
}

void VEC_NAME(top)(const float *l, int32_t n, int32_t first, cpu_top *top)
{
    if (top->limit == 0)
        return;
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        int left = n - i;
        vf v = vf_load_n(l + i, left);
        float bar = top->n < top->limit ? -INFINITY : top->heap[0].logit;
        uint32_t over = vm_bits(vf_gt(v, vf_set1(bar))) & (left < VEC_LANES ? (1u << left) - 1 : 0xffffu);
        for (; over != 0; over &= over - 1) {
            int lane = __builtin_ctz(over);
            cpu_top_offer(top, first + i + lane, l[i + lane]);
        }
    }
}
