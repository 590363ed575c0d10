/* ops/cpu/vec_c.h - vec.h's lanes in plain C (four short vectors of the compiler's own, which any target has): the reference, and what machines
 * other than x86-64 run.  Elements are named one by one, not looped over: sanitizers would check every subscript. */
#ifndef OPS_CPU_VEC_C_H
#define OPS_CPU_VEC_C_H

typedef float vec_f4 __attribute__((vector_size(16)));
typedef int32_t vec_i4 __attribute__((vector_size(16)));
typedef uint32_t vec_u4 __attribute__((vector_size(16)));

/* Lanes 4 q .. 4 q + 3 in v[q].  A condition is all ones or all zeros in each lane. */
typedef struct vf {
    vec_f4 v[4];
} vf;
typedef struct vi {
    vec_i4 v[4];
} vi;
typedef struct vm {
    vec_i4 v[4];
} vm;

/* {f(0), f(1), f(2), f(3)} and the same with a base: quarters of a value, elements of a quarter. */
#define VEC_QUARTERS(f) {{f(0), f(1), f(2), f(3)}}
#define VEC_ELEMENTS(f, q) {f(q, 0), f(q, 1), f(q, 2), f(q, 3)}

VEC vf vf_zero(void)
{
#define F(q) (vec_f4){0}
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_set1(float a)
{
#define E(q, i) a
#define F(q) (vec_f4)VEC_ELEMENTS(E, q)
    return (vf)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vf vf_load(const float *p)
{
    vf r;
    memcpy(&r, p, sizeof(r));
    return r;
}
VEC void vf_store(float *p, vf a)
{
    memcpy(p, &a, sizeof(a));
}
/* The first n lanes (n may exceed 16); the others zero, their memory not touched. */
VEC vf vf_load_n(const float *p, int n)
{
    vf r = vf_zero();
    memcpy(&r, p, sizeof(float) * (size_t)(n < VEC_LANES ? n : VEC_LANES));
    return r;
}
VEC void vf_store_n(float *p, int n, vf a)
{
    memcpy(p, &a, sizeof(float) * (size_t)(n < VEC_LANES ? n : VEC_LANES));
}
VEC vf vf_add(vf a, vf b)
{
#define F(q) a.v[q] + b.v[q]
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_sub(vf a, vf b)
{
#define F(q) a.v[q] - b.v[q]
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_mul(vf a, vf b)
{
#define F(q) a.v[q] * b.v[q]
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_div(vf a, vf b)
{
#define F(q) a.v[q] / b.v[q]
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_fma(vf a, vf b, vf c) /* a * b + c */
{
#define E(q, i) fmaf(a.v[q][i], b.v[q][i], c.v[q][i])
#define F(q) (vec_f4)VEC_ELEMENTS(E, q)
    return (vf)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vf vf_fnma(vf a, vf b, vf c) /* c - a * b */
{
#define E(q, i) fmaf(-a.v[q][i], b.v[q][i], c.v[q][i])
#define F(q) (vec_f4)VEC_ELEMENTS(E, q)
    return (vf)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vec_f4 vec_select4(vec_i4 m, vec_f4 a, vec_f4 b)
{
    return (vec_f4)((m & (vec_i4)a) | (~m & (vec_i4)b));
}
VEC vf vf_min(vf a, vf b)
{
#define F(q) vec_select4(a.v[q] < b.v[q], a.v[q], b.v[q])
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_max(vf a, vf b)
{
#define F(q) vec_select4(a.v[q] > b.v[q], a.v[q], b.v[q])
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vi vf_as_vi(vf a)
{
#define F(q) (vec_i4)a.v[q]
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vf vi_as_vf(vi a)
{
#define F(q) (vec_f4)a.v[q]
    return (vf)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_set1(int32_t a)
{
#define E(q, i) a
#define F(q) (vec_i4)VEC_ELEMENTS(E, q)
    return (vi)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vi vi_iota(void)
{
#define E(q, i) 4 * q + i
#define F(q) (vec_i4)VEC_ELEMENTS(E, q)
    return (vi)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vi vi_add(vi a, vi b)
{
#define F(q) (vec_i4)((vec_u4)a.v[q] + (vec_u4)b.v[q])
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_sub(vi a, vi b)
{
#define F(q) (vec_i4)((vec_u4)a.v[q] - (vec_u4)b.v[q])
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_and(vi a, vi b)
{
#define F(q) a.v[q] & b.v[q]
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_andnot(vi a, vi b) /* ~a & b */
{
#define F(q) ~a.v[q] & b.v[q]
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_or(vi a, vi b)
{
#define F(q) a.v[q] | b.v[q]
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_xor(vi a, vi b)
{
#define F(q) a.v[q] ^ b.v[q]
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_sll(vi a, int n)
{
#define F(q) (vec_i4)((vec_u4)a.v[q] << n)
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_srl(vi a, int n)
{
#define F(q) (vec_i4)((vec_u4)a.v[q] >> n)
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_sra(vi a, int n)
{
#define F(q) a.v[q] >> n
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vf vi_to_vf(vi a)
{
#define F(q) __builtin_convertvector(a.v[q], vec_f4)
    return (vf)VEC_QUARTERS(F);
#undef F
}
/* Low and high 32 bits of the unsigned products with m. */
VEC vi vi_mullo(vi a, uint32_t m)
{
#define F(q) (vec_i4)((vec_u4)a.v[q] * m)
    return (vi)VEC_QUARTERS(F);
#undef F
}
VEC vi vi_mulhi(vi a, uint32_t m)
{
#define E(q, i) (int32_t)((uint64_t)(uint32_t)a.v[q][i] * m >> 32)
#define F(q) (vec_i4)VEC_ELEMENTS(E, q)
    return (vi)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vi vi_load_i8(const int8_t *p)
{
#define E(q, i) p[4 * q + i]
#define F(q) (vec_i4)VEC_ELEMENTS(E, q)
    return (vi)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC vi vi_load_u16(const uint16_t *p)
{
#define E(q, i) p[4 * q + i]
#define F(q) (vec_i4)VEC_ELEMENTS(E, q)
    return (vi)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC void vi_store_i8(int8_t *p, vi a) /* lanes within -128 .. 127 */
{
    for (int q = 0; q < 4; q++, p += 4) {
        p[0] = (int8_t)a.v[q][0];
        p[1] = (int8_t)a.v[q][1];
        p[2] = (int8_t)a.v[q][2];
        p[3] = (int8_t)a.v[q][3];
    }
}
/* Calls: expanded in place sixteen times they would dwarf what uses them. */
static __attribute__((noinline, unused)) vf vf_load_f16(const uint16_t *p)
{
    float f[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++)
        f[i] = half_f16_to_f32(p[i]);
    return vf_load(f);
}
static __attribute__((noinline, unused)) vf vf_load_e4m3(const uint8_t *p)
{
    float f[VEC_LANES];
    for (int i = 0; i < VEC_LANES; i++)
        f[i] = half_e4m3_to_f32(p[i]);
    return vf_load(f);
}
static __attribute__((noinline, unused)) void vf_store_f16(uint16_t *p, vf a)
{
    float f[VEC_LANES];
    vf_store(f, a);
    for (int i = 0; i < VEC_LANES; i++)
        p[i] = half_f32_to_f16(f[i]);
}
VEC void vi_store_u16(uint16_t *p, vi a) /* the low halves of the lanes */
{
    for (int q = 0; q < 4; q++, p += 4) {
        p[0] = (uint16_t)a.v[q][0];
        p[1] = (uint16_t)a.v[q][1];
        p[2] = (uint16_t)a.v[q][2];
        p[3] = (uint16_t)a.v[q][3];
    }
}
VEC vm vf_gt(vf a, vf b)
{
#define F(q) (a.v[q] > b.v[q])
    return (vm)VEC_QUARTERS(F);
#undef F
}
VEC vm vf_ge(vf a, vf b)
{
#define F(q) (a.v[q] >= b.v[q])
    return (vm)VEC_QUARTERS(F);
#undef F
}
VEC vm vf_unordered(vf a, vf b)
{
#define F(q) ((a.v[q] != a.v[q]) | (b.v[q] != b.v[q]))
    return (vm)VEC_QUARTERS(F);
#undef F
}
VEC vm vi_gt(vi a, vi b)
{
#define F(q) (a.v[q] > b.v[q])
    return (vm)VEC_QUARTERS(F);
#undef F
}
VEC vm vm_from_bits(uint32_t bits)
{
#define E(q, i) -(int32_t)(bits >> (4 * q + i) & 1)
#define F(q) (vec_i4)VEC_ELEMENTS(E, q)
    return (vm)VEC_QUARTERS(F);
#undef F
#undef E
}
VEC uint32_t vm_bits4(vec_i4 m)
{
    return (uint32_t)((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
}
VEC uint32_t vm_bits(vm m)
{
    return vm_bits4(m.v[0]) | vm_bits4(m.v[1]) << 4 | vm_bits4(m.v[2]) << 8 | vm_bits4(m.v[3]) << 12;
}
VEC vm vm_and(vm a, vm b)
{
#define F(q) a.v[q] & b.v[q]
    return (vm)VEC_QUARTERS(F);
#undef F
}
VEC vf vf_select(vm m, vf a, vf b) /* m ? a : b */
{
#define F(q) vec_select4(m.v[q], a.v[q], b.v[q])
    return (vf)VEC_QUARTERS(F);
#undef F
}
/* Sum and maximum of the lanes by the tree 8, 4, 2, 1. */
VEC float vf_sum(vf a)
{
    vec_f4 s = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    return (s[0] + s[2]) + (s[1] + s[3]);
}
VEC float vec_max2(float a, float b)
{
    return a > b ? a : b;
}
VEC float vf_hmax(vf a)
{
    vec_f4 m = vec_select4(a.v[0] > a.v[2], a.v[0], a.v[2]), n = vec_select4(a.v[1] > a.v[3], a.v[1], a.v[3]);
    m = vec_select4(m > n, m, n);
    return vec_max2(vec_max2(m[0], m[2]), vec_max2(m[1], m[3]));
}
#undef VEC_QUARTERS
#undef VEC_ELEMENTS

#endif
