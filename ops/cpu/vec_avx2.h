/* ops/cpu/vec_avx2.h - vec.h's lanes in two AVX registers (AVX2, FMA, F16C). */
#ifndef OPS_CPU_VEC_AVX2_H
#define OPS_CPU_VEC_AVX2_H

#include <immintrin.h>

/* a: lanes 0 .. 7, b: lanes 8 .. 15.  A condition is all ones or all zeros in each lane. */
typedef struct vf {
    __m256 a, b;
} vf;
typedef struct vi {
    __m256i a, b;
} vi;
typedef struct vm {
    __m256 a, b;
} vm;

VEC vf vf_zero(void)
{
    return (vf){_mm256_setzero_ps(), _mm256_setzero_ps()};
}
VEC vf vf_set1(float a)
{
    __m256 v = _mm256_set1_ps(a);
    return (vf){v, v};
}
VEC vf vf_load(const float *p)
{
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
VEC void vf_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a.a);
    _mm256_storeu_ps(p + 8, a.b);
}
VEC __m256i vec_first8(int n) /* lanes 0 .. n - 1 */
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/* The first n lanes (n may exceed 16); the others zero, their memory not touched. */
VEC vf vf_load_n(const float *p, int n)
{
    if (n >= 16)
        return vf_load(p);
    return (vf){_mm256_maskload_ps(p, vec_first8(n)), n > 8 ? _mm256_maskload_ps(p + 8, vec_first8(n - 8)) : _mm256_setzero_ps()};
}
VEC void vf_store_n(float *p, int n, vf a)
{
    if (n >= 16) { /* masked stores are slow on some processors */
        vf_store(p, a);
        return;
    }
    _mm256_maskstore_ps(p, vec_first8(n), a.a);
    if (n > 8)
        _mm256_maskstore_ps(p + 8, vec_first8(n - 8), a.b);
}
VEC vf vf_add(vf x, vf y)
{
    return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
VEC vf vf_sub(vf x, vf y)
{
    return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
VEC vf vf_mul(vf x, vf y)
{
    return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
VEC vf vf_div(vf x, vf y)
{
    return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
VEC vf vf_fma(vf x, vf y, vf z) /* x * y + z */
{
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
VEC vf vf_fnma(vf x, vf y, vf z) /* z - x * y */
{
    return (vf){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}
VEC vf vf_min(vf x, vf y)
{
    return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
VEC vf vf_max(vf x, vf y)
{
    return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
VEC vi vf_as_vi(vf x)
{
    return (vi){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
VEC vf vi_as_vf(vi x)
{
    return (vf){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
VEC vi vi_set1(int32_t x)
{
    __m256i v = _mm256_set1_epi32(x);
    return (vi){v, v};
}
VEC vi vi_iota(void)
{
    return (vi){_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}
VEC vi vi_add(vi x, vi y)
{
    return (vi){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
VEC vi vi_sub(vi x, vi y)
{
    return (vi){_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)};
}
VEC vi vi_and(vi x, vi y)
{
    return (vi){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
VEC vi vi_andnot(vi x, vi y) /* ~x & y */
{
    return (vi){_mm256_andnot_si256(x.a, y.a), _mm256_andnot_si256(x.b, y.b)};
}
VEC vi vi_or(vi x, vi y)
{
    return (vi){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
VEC vi vi_xor(vi x, vi y)
{
    return (vi){_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
VEC vi vi_sll(vi x, int n)
{
    return (vi){_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
VEC vi vi_srl(vi x, int n)
{
    return (vi){_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
VEC vi vi_sra(vi x, int n)
{
    return (vi){_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)};
}
VEC vf vi_to_vf(vi x)
{
    return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
/* Low and high 32 bits of the unsigned products with m. */
VEC vi vi_mullo(vi x, uint32_t m)
{
    return (vi){_mm256_mullo_epi32(x.a, _mm256_set1_epi32((int32_t)m)), _mm256_mullo_epi32(x.b, _mm256_set1_epi32((int32_t)m))};
}
VEC __m256i vec_mulhi8(__m256i x, uint32_t m)
{
    __m256i c = _mm256_set1_epi64x((long long)m);
    __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(x, c), 32), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), c);
    return _mm256_blend_epi32(even, odd, 0xaa);
}
VEC vi vi_mulhi(vi x, uint32_t m)
{
    return (vi){vec_mulhi8(x.a, m), vec_mulhi8(x.b, m)};
}
VEC vi vi_load_i8(const int8_t *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)p);
    return (vi){_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
VEC vi vi_load_u16(const uint16_t *p)
{
    return (vi){_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
VEC void vi_store_u16(uint16_t *p, vi x) /* the low halves of the lanes */
{
    __m256i low = _mm256_set1_epi32(0xffff);
    __m256i both = _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(both, 0xd8));
}
VEC void vi_store_i8(int8_t *p, vi x) /* lanes within -128 .. 127 */
{
    __m256i h = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}
VEC vf vf_load_f16(const uint16_t *p)
{
    return (vf){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
VEC vf vf_load_e4m3(const uint8_t *p)
{
    __m256i h = vec_e4m3_to_f16(p);
    __m256 scale = _mm256_set1_ps(256.0f);
    return (vf){_mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), scale), _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), scale)};
}
VEC void vf_store_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
VEC vm vf_gt(vf x, vf y)
{
    return (vm){_mm256_cmp_ps(x.a, y.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GT_OQ)};
}
VEC vm vf_ge(vf x, vf y)
{
    return (vm){_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)};
}
VEC vm vf_unordered(vf x, vf y)
{
    return (vm){_mm256_cmp_ps(x.a, y.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, y.b, _CMP_UNORD_Q)};
}
VEC vm vi_gt(vi x, vi y)
{
    return (vm){_mm256_castsi256_ps(_mm256_cmpgt_epi32(x.a, y.a)), _mm256_castsi256_ps(_mm256_cmpgt_epi32(x.b, y.b))};
}
VEC vm vm_from_bits(uint32_t bits)
{
    __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i lo = _mm256_and_si256(_mm256_set1_epi32((int32_t)bits), lane), hi = _mm256_and_si256(_mm256_set1_epi32((int32_t)(bits >> 8)), lane);
    return (vm){_mm256_castsi256_ps(_mm256_cmpeq_epi32(lo, lane)), _mm256_castsi256_ps(_mm256_cmpeq_epi32(hi, lane))};
}
VEC uint32_t vm_bits(vm m)
{
    return (uint32_t)_mm256_movemask_ps(m.a) | (uint32_t)_mm256_movemask_ps(m.b) << 8;
}
VEC vm vm_and(vm x, vm y)
{
    return (vm){_mm256_and_ps(x.a, y.a), _mm256_and_ps(x.b, y.b)};
}
VEC vf vf_select(vm m, vf x, vf y) /* m ? x : y */
{
    return (vf){_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}
/* Sum and maximum of the lanes by the tree 8, 4, 2, 1. */
VEC float vf_sum(vf x)
{
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
VEC float vf_hmax(vf x)
{
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

#endif
