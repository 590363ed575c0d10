/* ops/cpu/vec_avx512.h - vec.h's lanes in one AVX-512 register (F, BW, DQ, VL); in tests also through SIMDe. */
#ifndef OPS_CPU_VEC_AVX512_H
#define OPS_CPU_VEC_AVX512_H

#ifdef CPU_EMULATE
#include "ops/cpu/emulate.h"
#else
#include <immintrin.h>
#endif

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

VEC vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
VEC vf vf_set1(float a)
{
    return _mm512_set1_ps(a);
}
VEC vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
VEC void vf_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
/* The first n lanes (n may exceed 16); the others zero, their memory not touched. */
VEC vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1), p);
}
VEC void vf_store_n(float *p, int n, vf a)
{
    _mm512_mask_storeu_ps(p, (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1), a);
}
VEC vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
VEC vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
VEC vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
VEC vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
VEC vf vf_fma(vf a, vf b, vf c) /* a * b + c */
{
    return _mm512_fmadd_ps(a, b, c);
}
VEC vf vf_fnma(vf a, vf b, vf c) /* c - a * b */
{
    return _mm512_fnmadd_ps(a, b, c);
}
VEC vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
VEC vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
VEC vi vf_as_vi(vf a)
{
    return _mm512_castps_si512(a);
}
VEC vf vi_as_vf(vi a)
{
    return _mm512_castsi512_ps(a);
}
VEC vi vi_set1(int32_t a)
{
    return _mm512_set1_epi32(a);
}
VEC vi vi_iota(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
VEC vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
VEC vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
VEC vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
VEC vi vi_andnot(vi a, vi b) /* ~a & b */
{
    return _mm512_andnot_si512(a, b);
}
VEC vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
VEC vi vi_xor(vi a, vi b)
{
    return _mm512_xor_si512(a, b);
}
VEC vi vi_sll(vi a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}
VEC vi vi_srl(vi a, int n)
{
    return _mm512_srli_epi32(a, (unsigned)n);
}
VEC vi vi_sra(vi a, int n)
{
    return _mm512_srai_epi32(a, (unsigned)n);
}
VEC vf vi_to_vf(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
/* Low and high 32 bits of the unsigned products with m. */
VEC vi vi_mullo(vi a, uint32_t m)
{
    return _mm512_mullo_epi32(a, _mm512_set1_epi32((int32_t)m));
}
VEC vi vi_mulhi(vi a, uint32_t m)
{
    __m512i c = _mm512_set1_epi64((long long)m);
    __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(a, c), 32), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), c);
    return _mm512_mask_blend_epi32(0xaaaa, even, odd);
}
VEC vi vi_load_i8(const int8_t *p)
{
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}
VEC vi vi_load_u16(const uint16_t *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
}
VEC void vi_store_u16(uint16_t *p, vi a) /* the low halves of the lanes */
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(a));
}
VEC void vi_store_i8(int8_t *p, vi a) /* lanes within -128 .. 127 */
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a));
}
VEC vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
VEC vf vf_load_e4m3(const uint8_t *p)
{
    return _mm512_mul_ps(_mm512_cvtph_ps(vec_e4m3_to_f16(p)), _mm512_set1_ps(256.0f));
}
VEC void vf_store_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
VEC vm vf_gt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
VEC vm vf_ge(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
VEC vm vf_unordered(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
}
VEC vm vi_gt(vi a, vi b)
{
    return _mm512_cmpgt_epi32_mask(a, b);
}
VEC vm vm_from_bits(uint32_t bits)
{
    return (__mmask16)bits;
}
VEC uint32_t vm_bits(vm m)
{
    return m;
}
VEC vm vm_and(vm a, vm b)
{
    return (__mmask16)(a & b);
}
VEC vf vf_select(vm m, vf a, vf b) /* m ? a : b */
{
    return _mm512_mask_blend_ps(m, b, a);
}
/* Sum and maximum of the lanes by the tree 8, 4, 2, 1. */
VEC float vf_sum(vf a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
VEC float vf_hmax(vf a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

#endif
