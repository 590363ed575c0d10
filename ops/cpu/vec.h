/* ops/cpu/vec.h - sixteen f32 lanes, the same on every instruction set.
 *
 * The kernels in vec_*.c are written once over these types and compiled for each level (one AVX-512 register, two of AVX2, or an array in
 * plain C).  Every operation here is exactly rounded or exact, so that the levels agree bit for bit by construction; nothing is fused
 * unless it says fma.  min and max return their second operand when they cannot order the two (x86's rule).
 *
 *   vf 16 x f32    vi 16 x i32    vm 16 lane conditions */
#ifndef OPS_CPU_VEC_H
#define OPS_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"

#define VEC static inline __attribute__((always_inline, unused))
#define VEC_LANES 16

/* Kernels carry their level in their names: VEC_NAME(norm_row) is vec_avx2_norm_row. */
#define VEC_PASTE_(level, name) vec_##level##_##name
#define VEC_PASTE(level, name) VEC_PASTE_(level, name)
#define VEC_NAME(name) VEC_PASTE(CPU_LEVEL, name)
#define VEC_TABLE_PASTE_(level) cpu_vec_##level
#define VEC_TABLE_PASTE(level) VEC_TABLE_PASTE_(level)
#define VEC_TABLE VEC_TABLE_PASTE(CPU_LEVEL) /* cpu_vec_avx2 */

#if defined(CPU_LEVEL_AVX512) || defined(CPU_LEVEL_AVX2)
#include <immintrin.h>
/* Sixteen e4m3 codes as f16, each a 256th of its value: exponent and mantissa keep their places, and the smallest are subnormal in both.  NaN stays NaN. */
VEC __m256i vec_e4m3_to_f16(const uint8_t *p)
{
    __m256i top = _mm256_set1_epi16(0x3f80), h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)), 7);
    __m256i nan = _mm256_srli_epi16(_mm256_cmpeq_epi16(_mm256_and_si256(h, top), top), 1);
    return _mm256_or_si256(_mm256_and_si256(h, _mm256_set1_epi16((int16_t)0xbfff)), nan);
}
#endif
#if defined(CPU_LEVEL_AVX512)
#include "ops/cpu/vec_avx512.h"
#elif defined(CPU_LEVEL_AVX2)
#include "ops/cpu/vec_avx2.h"
#else
#include "ops/cpu/vec_c.h"
#endif

VEC vf vf_abs(vf a)
{
    return vi_as_vf(vi_and(vf_as_vi(a), vi_set1(0x7fffffff)));
}
VEC vf vf_neg(vf a)
{
    return vi_as_vf(vi_xor(vf_as_vi(a), vi_set1((int32_t)0x80000000u)));
}
/* The magnitude of a with the sign of b. */
VEC vf vf_copysign(vf a, vf b)
{
    vi sign = vi_set1((int32_t)0x80000000u);
    return vi_as_vf(vi_or(vi_andnot(sign, vf_as_vi(a)), vi_and(sign, vf_as_vi(b))));
}
/* Lanes 0 .. n - 1. */
VEC vm vm_first(int n)
{
    return vm_from_bits(n >= VEC_LANES ? 0xffffu : (1u << n) - 1);
}
/* bf16 bits of the lanes, round to nearest even, NaN stays NaN. */
VEC vi vf_to_bf16_bits(vf a)
{
    vi u = vf_as_vi(a);
    vi rounded = vi_srl(vi_add(u, vi_add(vi_set1(0x7fff), vi_and(vi_srl(u, 16), vi_set1(1)))), 16);
    vi quiet = vi_or(vi_srl(u, 16), vi_set1(0x40));
    return vf_as_vi(vf_select(vf_unordered(a, a), vi_as_vf(quiet), vi_as_vf(rounded)));
}
VEC void vf_store_bf16(uint16_t *p, vf a)
{
    vi_store_u16(p, vf_to_bf16_bits(a));
}
VEC vf vf_load_bf16(const uint16_t *p)
{
    return vi_as_vf(vi_sll(vi_load_u16(p), 16));
}

#endif
