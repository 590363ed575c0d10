/* ops/cpu/linear_avx512.h - what the AVX-512 and AMX kernels share: packed planes to bytes, scales to f32, one vector per 16 outputs.
 * Codes are always made unsigned (signed ones plus 128, taken back as a zero point of 2^7), as the dot-product instructions want them. */
#ifndef OPS_CPU_LINEAR_AVX512_H
#define OPS_CPU_LINEAR_AVX512_H

#ifdef CPU_EMULATE
#include "ops/cpu/emulate.h"
#else
#include <immintrin.h>
#endif
#include <string.h>

#include "ops/cpu/cpu_linear.h"

#define INLINE static inline __attribute__((always_inline))

#define FEW_ROWS 8    /* of the `few` kernels, which AMX takes from AVX-512 */
#define MANY_PANELS 2 /* of its `many` kernels */

/* Of a value that is computed for its time alone: it is made, and wanted. */
#ifdef CPU_EMULATE
#define KEEP(v) __asm__("" : "+m"(v))
#define WANTED(v) __asm__ volatile("" : : "m"(v))
#else
#define KEEP(v) __asm__("" : "+v"(v))
#define WANTED(v) __asm__ volatile("" : : "v"(v))
#endif

/* What a kernel is specialised by: all constants where it is inlined. */
typedef struct kind {
    int bits;       /* planes of the codes: 8 in a tile */
    int group;
    int zero_shift; /* log2 of the zero point, -1 none */
    bool has_min, has_codebook, in_tile;
    packed_scale scale; /* how scales and minima are stored: PACKED_SCALE_NONE = f32, in a tile */
} kind;

/* Where the units of one panel lie. */
typedef struct source {
    const uint8_t *codes;
    const char *scale, *min, *super;
    const int8_t *codebook;
    int32_t phase; /* k before the first one, in its super-group */
} source;

/* The codes of chunk c (4 k of 16 outputs); `unit` is where the unit begins. */
INLINE __m512i chunk_codes(kind k, const source *s, const uint8_t *unit, int c)
{
    __m512i v;
    if (k.bits == 8) {
        v = _mm512_loadu_si512(unit + c * 64);
        return k.in_tile ? v : _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
    }
    if (k.bits >= 4) {
        v = _mm512_loadu_si512(unit + c / 2 * 64);
        v = _mm512_and_si512(c % 2 != 0 ? _mm512_srli_epi16(v, 4) : v, _mm512_set1_epi8(15));
    } else {
        v = _mm512_loadu_si512(unit + c / 4 * 64);
        v = _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)(c % 4 * 2)), _mm512_set1_epi8(3));
    }
    if (k.bits == 5 || k.bits == 3) {
        int at = k.bits - 1; /* the plane of single bits follows the others, and its bit c goes to place `at` */
        __m512i b = _mm512_loadu_si512(unit + at * 64);
        b = c < at ? _mm512_slli_epi16(b, (unsigned)(at - c)) : _mm512_srli_epi16(b, (unsigned)(c - at));
        v = _mm512_or_si512(v, _mm512_and_si512(b, _mm512_set1_epi8((char)(1 << at))));
    } else if (k.bits == 6) {
        int from = c % 4 * 2;
        __m512i b = _mm512_loadu_si512(unit + (4 + c / 4) * 64);
        b = from < 4 ? _mm512_slli_epi16(b, (unsigned)(4 - from)) : _mm512_srli_epi16(b, (unsigned)(from - 4));
        v = _mm512_or_si512(v, _mm512_and_si512(b, _mm512_set1_epi8(0x30)));
    } else if (k.has_codebook) {
        __m512i table = _mm512_broadcast_i32x4(_mm_xor_si128(_mm_loadu_si128((const void *)s->codebook), _mm_set1_epi8((char)0x80)));
        v = _mm512_shuffle_epi8(table, v);
    }
    return v;
}

INLINE __m512 half_floats(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

INLINE const char *super_at(kind k, const source *s, int32_t g)
{
    return s->super + ((uint32_t)s->phase + (uint32_t)g * (uint32_t)k.group) / PACKED_SUPER * (k.has_min ? 64 : 32);
}

INLINE __m512 group_scale(kind k, const source *s, int32_t g)
{
    if (k.scale == PACKED_SCALE_NONE)
        return _mm512_loadu_ps(s->scale + (size_t)g * 64);
    if (k.scale == PACKED_SCALE_F16)
        return half_floats(s->scale + (size_t)g * 32);
    __m128i sub = _mm_loadu_si128((const void *)(s->scale + (size_t)g * 16));
    if (k.scale == PACKED_SCALE_U4)
        sub = _mm_and_si128(sub, _mm_set1_epi8(15));
    __m512i wide = k.scale == PACKED_SCALE_S8 ? _mm512_cvtepi8_epi32(sub) : _mm512_cvtepu8_epi32(sub);
    return _mm512_mul_ps(half_floats(super_at(k, s, g)), _mm512_cvtepi32_ps(wide));
}

INLINE __m512 group_min(kind k, const source *s, int32_t g)
{
    if (k.scale == PACKED_SCALE_NONE)
        return _mm512_loadu_ps(s->min + (size_t)g * 64);
    if (k.scale == PACKED_SCALE_F16)
        return half_floats(s->min + (size_t)g * 32);
    __m128i sub = _mm_loadu_si128((const void *)((k.scale == PACKED_SCALE_U4 ? s->scale : s->min) + (size_t)g * 16));
    if (k.scale == PACKED_SCALE_U4)
        sub = _mm_and_si128(_mm_srli_epi16(sub, 4), _mm_set1_epi8(15));
    __m512 m = _mm512_mul_ps(half_floats(super_at(k, s, g) + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sub)));
    return _mm512_mul_ps(m, _mm512_set1_ps(-1.0f));
}

INLINE source packed_source(const packed_layout *l, const char *panel, int32_t unit, kind k)
{
    int32_t group = unit * (PACKED_UNIT / k.group);
    size_t each = k.scale == PACKED_SCALE_F16 ? 32 : 16;
    return (source){.codes = (const uint8_t *)panel + (size_t)unit * l->unit_bytes,
                    .scale = panel + l->scale_offset + (size_t)group * each,
                    .min = panel + l->min_offset + (size_t)group * each,
                    .super = panel + l->super_offset,
                    .codebook = l->format->codebook,
                    .phase = l->shape.phase + unit * PACKED_UNIT};
}

INLINE void unpack_scales(kind k, const source *s, int32_t n_units, cpu_tile *tile)
{
    for (int32_t g = 0; g < n_units * (PACKED_UNIT / k.group); g++) {
        _mm512_storeu_ps(tile->scale[g], group_scale(k, s, g));
        if (k.has_min)
            _mm512_storeu_ps(tile->min[g], group_min(k, s, g));
    }
}

INLINE void unpack_template(kind k, const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)
{
    source s = packed_source(l, panel, unit, k);
    for (int32_t u = 0; u < n_units; u++)
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++)
            _mm512_storeu_si512(tile->codes + (size_t)(u * 8 + c) * 64, chunk_codes(k, &s, s.codes + (size_t)u * (size_t)k.bits * 64, c));
    unpack_scales(k, &s, n_units, tile);
}

/* acc + (exact dot - zero * sum) * ws * xs + wm * xm for one row: xg = bytes to the group's place in a plane of one number a group of this size,
 * xu = the same for units. */
INLINE __m512 add_group(kind k, const cpu_q8_view *x, const char *xr, size_t xu, size_t xg, __m512i dot, __m512 ws, __m512 wm, __m512 acc)
{
    __m512 xs = _mm512_set1_ps(*(const float *)(const void *)(xr + x->scale + xu));
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(ws, xs), acc);
    if (k.has_min)
        acc = _mm512_fmadd_ps(wm, _mm512_set1_ps(*(const float *)(const void *)(xr + (k.group == 32 ? x->scaled32 : x->scaled16) + xg)), acc);
    return acc;
}

/* -zero * (sum of the group's xcodes): what a dot begins with. */
INLINE int32_t zero_term(kind k, const cpu_q8_view *x, const char *xr, size_t xg)
{
    if (k.zero_shift < 0)
        return 0;
    return -(*(const int32_t *)(const void *)(xr + (k.group == 32 ? x->sum32 : x->sum16) + xg) * (1 << k.zero_shift));
}

/* name, type, bits, group, zero shift, minimum, codebook, scale */
#define INTEGERS(X)                                                          \
    X(q8_0, PACKED_Q8_0, 8, 32, 7, false, false, PACKED_SCALE_F16)           \
    X(q4_0, PACKED_Q4_0, 4, 32, 3, false, false, PACKED_SCALE_F16)           \
    X(q4_1, PACKED_Q4_1, 4, 32, -1, true, false, PACKED_SCALE_F16)           \
    X(q5_0, PACKED_Q5_0, 5, 32, 4, false, false, PACKED_SCALE_F16)           \
    X(q5_1, PACKED_Q5_1, 5, 32, -1, true, false, PACKED_SCALE_F16)           \
    X(q2_k, PACKED_Q2_K, 2, 16, -1, true, false, PACKED_SCALE_U4)            \
    X(q3_k, PACKED_Q3_K, 3, 16, 2, false, false, PACKED_SCALE_S8)            \
    X(q4_k, PACKED_Q4_K, 4, 32, -1, true, false, PACKED_SCALE_U8)            \
    X(q5_k, PACKED_Q5_K, 5, 32, -1, true, false, PACKED_SCALE_U8)            \
    X(q6_k, PACKED_Q6_K, 6, 16, 5, false, false, PACKED_SCALE_S8)            \
    X(iq4_nl, PACKED_IQ4_NL, 4, 32, 7, false, true, PACKED_SCALE_F16)

#endif
