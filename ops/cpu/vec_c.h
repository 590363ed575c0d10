/* ops/cpu/vec_c.h - vec.h's lanes as plain C arrays: the reference, and what machines other than x86-64 run. */
#ifndef OPS_CPU_VEC_C_H
#define OPS_CPU_VEC_C_H

typedef struct vf {
    float v[16];
} vf;
typedef struct vi {
    int32_t v[16];
} vi;
typedef struct vm {
    uint16_t bits;
} vm;

#define VEC_EACH(type, expr)              \
    type r_;                              \
    for (int i = 0; i < VEC_LANES; i++)   \
        r_.v[i] = (expr);                 \
    return r_

VEC vf vf_zero(void)
{
    VEC_EACH(vf, 0.0f);
}
VEC vf vf_set1(float a)
{
    VEC_EACH(vf, a);
}
VEC vf vf_load(const float *p)
{
    VEC_EACH(vf, p[i]);
}
VEC void vf_store(float *p, vf a)
{
    memcpy(p, a.v, sizeof(a.v));
}
/* The first n lanes (n may exceed 16); the others zero, their memory not touched. */
VEC vf vf_load_n(const float *p, int n)
{
    VEC_EACH(vf, i < n ? p[i] : 0.0f);
}
VEC void vf_store_n(float *p, int n, vf a)
{
    memcpy(p, a.v, sizeof(float) * (size_t)(n < VEC_LANES ? n : VEC_LANES));
}
VEC vf vf_add(vf a, vf b)
{
    VEC_EACH(vf, a.v[i] + b.v[i]);
}
VEC vf vf_sub(vf a, vf b)
{
    VEC_EACH(vf, a.v[i] - b.v[i]);
}
VEC vf vf_mul(vf a, vf b)
{
    VEC_EACH(vf, a.v[i] * b.v[i]);
}
VEC vf vf_div(vf a, vf b)
{
    VEC_EACH(vf, a.v[i] / b.v[i]);
}
VEC vf vf_fma(vf a, vf b, vf c) /* a * b + c */
{
    VEC_EACH(vf, fmaf(a.v[i], b.v[i], c.v[i]));
}
VEC vf vf_fnma(vf a, vf b, vf c) /* c - a * b */
{
    VEC_EACH(vf, fmaf(-a.v[i], b.v[i], c.v[i]));
}
VEC vf vf_min(vf a, vf b)
{
    VEC_EACH(vf, a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
VEC vf vf_max(vf a, vf b)
{
    VEC_EACH(vf, a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
VEC vi vf_as_vi(vf a)
{
    vi r;
    memcpy(r.v, a.v, sizeof(r.v));
    return r;
}
VEC vf vi_as_vf(vi a)
{
    vf r;
    memcpy(r.v, a.v, sizeof(r.v));
    return r;
}
VEC vi vi_set1(int32_t a)
{
    VEC_EACH(vi, a);
}
VEC vi vi_iota(void)
{
    VEC_EACH(vi, i);
}
VEC vi vi_add(vi a, vi b)
{
    VEC_EACH(vi, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]));
}
VEC vi vi_sub(vi a, vi b)
{
    VEC_EACH(vi, (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i]));
}
VEC vi vi_and(vi a, vi b)
{
    VEC_EACH(vi, a.v[i] & b.v[i]);
}
VEC vi vi_andnot(vi a, vi b) /* ~a & b */
{
    VEC_EACH(vi, ~a.v[i] & b.v[i]);
}
VEC vi vi_or(vi a, vi b)
{
    VEC_EACH(vi, a.v[i] | b.v[i]);
}
VEC vi vi_xor(vi a, vi b)
{
    VEC_EACH(vi, a.v[i] ^ b.v[i]);
}
VEC vi vi_sll(vi a, int n)
{
    VEC_EACH(vi, (int32_t)((uint32_t)a.v[i] << n));
}
VEC vi vi_srl(vi a, int n)
{
    VEC_EACH(vi, (int32_t)((uint32_t)a.v[i] >> n));
}
VEC vi vi_sra(vi a, int n)
{
    VEC_EACH(vi, a.v[i] >> n);
}
VEC vf vi_to_vf(vi a)
{
    VEC_EACH(vf, (float)a.v[i]);
}
/* Low and high 32 bits of the unsigned products with m. */
VEC vi vi_mullo(vi a, uint32_t m)
{
    VEC_EACH(vi, (int32_t)((uint32_t)a.v[i] * m));
}
VEC vi vi_mulhi(vi a, uint32_t m)
{
    VEC_EACH(vi, (int32_t)((uint64_t)(uint32_t)a.v[i] * m >> 32));
}
VEC vi vi_load_i8(const int8_t *p)
{
    VEC_EACH(vi, p[i]);
}
VEC vi vi_load_u16(const uint16_t *p)
{
    VEC_EACH(vi, p[i]);
}
VEC void vi_store_u16(uint16_t *p, vi a) /* the low halves of the lanes */
{
    for (int i = 0; i < VEC_LANES; i++)
        p[i] = (uint16_t)a.v[i];
}
VEC vf vf_load_f16(const uint16_t *p)
{
    VEC_EACH(vf, half_f16_to_f32(p[i]));
}
VEC void vf_store_f16(uint16_t *p, vf a)
{
    for (int i = 0; i < VEC_LANES; i++)
        p[i] = half_f32_to_f16(a.v[i]);
}
#define VEC_TEST(expr)                     \
    uint32_t r_ = 0;                       \
    for (int i = 0; i < VEC_LANES; i++)    \
        r_ |= (uint32_t)(expr) << i;       \
    return (vm){(uint16_t)r_}
VEC vm vf_gt(vf a, vf b)
{
    VEC_TEST(a.v[i] > b.v[i]);
}
VEC vm vf_ge(vf a, vf b)
{
    VEC_TEST(a.v[i] >= b.v[i]);
}
VEC vm vf_unordered(vf a, vf b)
{
    VEC_TEST(a.v[i] != a.v[i] || b.v[i] != b.v[i]);
}
VEC vm vi_gt(vi a, vi b)
{
    VEC_TEST(a.v[i] > b.v[i]);
}
VEC vm vm_from_bits(uint32_t bits)
{
    return (vm){(uint16_t)bits};
}
VEC uint32_t vm_bits(vm m)
{
    return m.bits;
}
VEC vm vm_and(vm a, vm b)
{
    return (vm){a.bits & b.bits};
}
VEC vf vf_select(vm m, vf a, vf b) /* m ? a : b */
{
    VEC_EACH(vf, (m.bits >> i & 1) ? a.v[i] : b.v[i]);
}
/* Sum and maximum of the lanes by the tree 8, 4, 2, 1. */
VEC float vf_sum(vf a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] = a.v[i] + a.v[i + half];
    return a.v[0];
}
VEC float vf_hmax(vf a)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
#undef VEC_EACH
#undef VEC_TEST

#endif
