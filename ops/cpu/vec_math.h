/* ops/cpu/vec_math.h - exp, log, tanh, erf, sine and cosine on sixteen lanes, the same bits on every instruction set.
 *
 * Each reduces its argument exactly (or nearly so) by fused multiply-adds and evaluates a minimax polynomial (Remez exchange in
 * 40 digits, coefficients rounded to f32); errors measured by tests/ops/test_ops_math.c are below 2 units in the last place. */
#ifndef OPS_CPU_VEC_MATH_H
#define OPS_CPU_VEC_MATH_H

#include "ops/cpu/vec.h"

/* Adding 1.5 * 2^23 rounds to the nearest integer, which then sits in the low bits. */
#define VEC_ROUND_MAGIC 0x1.8p23f

VEC vf vf_pow2(vi n) /* 2^n, n in -126 .. 127 */
{
    return vi_as_vf(vi_sll(vi_add(n, vi_set1(127)), 23));
}

/* e^x; 0 below -104, infinity above 88.8, subnormal results rounded once; exp(0) = 1 and exp(-inf) = 0 exactly.
 * x = n ln 2 + r, |r| <= ln 2 / 2; the power of two goes in two factors so that neither end overflows early. */
VEC vf vf_exp(vf x)
{
    x = vf_max(vf_set1(-105.0f), vf_min(vf_set1(90.0f), x)); /* NaN, the second operand, passes */
    vf t = vf_fma(x, vf_set1(0x1.715476p+0f), vf_set1(VEC_ROUND_MAGIC));
    vf n = vf_sub(t, vf_set1(VEC_ROUND_MAGIC));
    vi i = vi_sub(vf_as_vi(t), vf_as_vi(vf_set1(VEC_ROUND_MAGIC)));
    vf r = vf_fnma(n, vf_set1(-0x1.05c610p-29f), vf_fnma(n, vf_set1(0x1.62e430p-1f), x));
    vf p = vf_set1(0x1.6a1a9cp-10f);
    p = vf_fma(p, r, vf_set1(0x1.123fc6p-7f));
    p = vf_fma(p, r, vf_set1(0x1.555916p-5f));
    p = vf_fma(p, r, vf_set1(0x1.55548ap-3f));
    p = vf_fma(p, r, vf_set1(0x1.fffffcp-2f));
    p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
    vi half = vi_sra(i, 1);
    return vf_mul(vf_mul(p, vf_pow2(half)), vf_pow2(vi_sub(i, half)));
}

/* log(1 + f) for f in [-0.293, 0.415]. */
VEC vf vf_log1p_core(vf f)
{
    vf q = vf_set1(0x1.1b467ep-4f);
    q = vf_fma(q, f, vf_set1(-0x1.e316720p-4f));
    q = vf_fma(q, f, vf_set1(0x1.e665f00p-4f));
    q = vf_fma(q, f, vf_set1(-0x1.fb3d680p-4f));
    q = vf_fma(q, f, vf_set1(0x1.2331100p-3f));
    q = vf_fma(q, f, vf_set1(-0x1.5562fe0p-3f));
    q = vf_fma(q, f, vf_set1(0x1.99a55a0p-3f));
    q = vf_fma(q, f, vf_set1(-0x1.ffffee0p-3f));
    q = vf_fma(q, f, vf_set1(0x1.5555460p-2f));
    return vf_fma(vf_mul(f, f), vf_fma(q, f, vf_set1(-0.5f)), f);
}
/* x = 2^e m, m in [sqrt(1/2), sqrt(2)); x a positive normal number. */
VEC vf vf_split(vf x, vf *e)
{
    vi u = vf_as_vi(x);
    vi k = vi_sra(vi_sub(u, vi_set1(0x3f3504f3)), 23);
    *e = vi_to_vf(k);
    return vi_as_vf(vi_sub(u, vi_sll(k, 23)));
}
/* Natural logarithm of positive normal x. */
VEC vf vf_log(vf x)
{
    vf e, m = vf_split(x, &e);
    vf l = vf_log1p_core(vf_sub(m, vf_set1(1.0f)));
    return vf_fma(e, vf_set1(0x1.62p-1f), vf_fma(e, vf_set1(0x1.c85fe0p-10f), l));
}
/* log(1 - v) for v in (0, 1): where 1 - v lies in [sqrt(1/2), 1) the polynomial takes v itself, which loses nothing. */
VEC vf vf_log1m(vf v)
{
    vf e, m = vf_split(vf_sub(vf_set1(1.0f), v), &e);
    vf f = vf_select(vf_gt(vf_zero(), e), vf_sub(m, vf_set1(1.0f)), vf_neg(v));
    vf l = vf_log1p_core(f);
    return vf_fma(e, vf_set1(0x1.62p-1f), vf_fma(e, vf_set1(0x1.c85fe0p-10f), l));
}

VEC vf vf_tanh(vf x)
{
    vf a = vf_abs(x), z = vf_mul(x, x);
    vf p = vf_set1(0x1.197c5cp-9f);
    p = vf_fma(p, z, vf_set1(-0x1.0c2186p-7f));
    p = vf_fma(p, z, vf_set1(0x1.6394e8p-6f));
    p = vf_fma(p, z, vf_set1(-0x1.b9ef7ep-5f));
    p = vf_fma(p, z, vf_set1(0x1.11106cp-3f));
    p = vf_fma(p, z, vf_set1(-0x1.555554p-2f));
    vf small = vf_fma(vf_mul(p, z), x, x);
    vf t = vf_exp(vf_mul(a, vf_set1(-2.0f)));
    vf large = vf_div(vf_sub(vf_set1(1.0f), t), vf_add(vf_set1(1.0f), t));
    return vf_select(vf_gt(vf_set1(0.625f), a), small, vf_copysign(large, x));
}

VEC vf vf_erf(vf x)
{
    vf a = vf_abs(x), z = vf_mul(x, x);
    vf p = vf_set1(0x1.60bc60p-14f);
    p = vf_fma(p, z, vf_set1(-0x1.ab6e92p-11f));
    p = vf_fma(p, z, vf_set1(0x1.54ea64p-8f));
    p = vf_fma(p, z, vf_set1(-0x1.b81228p-6f));
    p = vf_fma(p, z, vf_set1(0x1.ce2e34p-4f));
    p = vf_fma(p, z, vf_set1(-0x1.812744p-2f));
    p = vf_fma(p, z, vf_set1(0x1.20dd76p+0f));
    vf small = vf_mul(x, p);
    /* erfc(a) = exp(-q(a)) on [0.9, 4.05]; beyond, erf is 1 in f32 */
    vf b = vf_min(vf_set1(4.05f), a);
    vf q = vf_set1(0x1.5ed0f4p-16f);
    q = vf_fma(q, b, vf_set1(-0x1.c54fa0p-12f));
    q = vf_fma(q, b, vf_set1(0x1.10aab2p-8f));
    q = vf_fma(q, b, vf_set1(-0x1.9b19c4p-6f));
    q = vf_fma(q, b, vf_set1(0x1.bb5678p-4f));
    q = vf_fma(q, b, vf_set1(0x1.444b3ep-1f));
    q = vf_fma(q, b, vf_set1(0x1.21269ap+0f));
    q = vf_fma(q, b, vf_set1(-0x1.65b278p-13f));
    vf large = vf_sub(vf_set1(1.0f), vf_exp(vf_neg(q)));
    return vf_select(vf_gt(vf_set1(0.91f), a), small, vf_copysign(large, x));
}

/* Sine and cosine for |x| up to 2^22: x = n pi/2 + r with pi/2 in three parts; the first difference is exact. */
VEC void vf_sincos(vf x, vf *sine, vf *cosine)
{
    vf t = vf_fma(x, vf_set1(0x1.45f306p-1f), vf_set1(VEC_ROUND_MAGIC));
    vf n = vf_sub(t, vf_set1(VEC_ROUND_MAGIC));
    vi i = vf_as_vi(t);
    vf r = vf_fnma(n, vf_set1(0x1.921fb6p+0f), x);
    r = vf_fnma(n, vf_set1(-0x1.777a5cp-25f), r);
    r = vf_fnma(n, vf_set1(-0x1.ee59dap-50f), r);
    vf z = vf_mul(r, r);
    vf s = vf_fma(vf_set1(0x1.6bb6e6p-19f), z, vf_set1(-0x1.a00a66p-13f));
    s = vf_fma(s, z, vf_set1(0x1.111102p-7f));
    s = vf_fma(s, z, vf_set1(-0x1.555556p-3f));
    s = vf_fma(vf_mul(s, z), r, r);
    vf c = vf_fma(vf_set1(0x1.98a358p-16f), z, vf_set1(-0x1.6c076ap-10f));
    c = vf_fma(c, z, vf_set1(0x1.555542p-5f));
    c = vf_fma(vf_mul(z, z), c, vf_fma(z, vf_set1(-0.5f), vf_set1(1.0f)));
    /* quadrant n mod 4: odd swaps the two; bit 1 flips sine, bit 1 of n + 1 flips cosine */
    vm odd = vi_gt(vi_and(i, vi_set1(1)), vi_set1(0));
    vi flip_s = vi_sll(vi_and(i, vi_set1(2)), 30), flip_c = vi_sll(vi_and(vi_add(i, vi_set1(1)), vi_set1(2)), 30);
    *sine = vi_as_vf(vi_xor(vf_as_vi(vf_select(odd, c, s)), flip_s));
    *cosine = vi_as_vf(vi_xor(vf_as_vi(vf_select(odd, s, c)), flip_c));
}

#endif
