/* ops/cpu/emulate.h - AVX-512 intrinsics in software (SIMDe, and here what it leaves out), for tests on machines that lack the instructions.
 * Never part of the program. */
#ifndef OPS_CPU_EMULATE_H
#define OPS_CPU_EMULATE_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#pragma GCC diagnostic ignored "-Wshadow"
#include <simde/x86/avx512.h>
#pragma GCC diagnostic pop

#define EMULATE static inline __attribute__((unused))

/* The two halves of a register. */
typedef union emulate_512 {
    simde__m512 f;
    simde__m512i i;
    __m256 half_f[2];
    __m256i half[2];
    int32_t lane[16];
} emulate_512;

typedef simde__m512i emulate_512bh;
#define __m512bh emulate_512bh
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps emulate_dpbf16_ps
/* In the instruction's order, which SIMDe's is not; but for subnormals, which the instruction takes as zero. */
EMULATE simde__m512 emulate_dpbf16_ps(simde__m512 acc, emulate_512bh a, emulate_512bh b)
{
    emulate_512 r = {.f = acc}, x = {.i = a}, y = {.i = b};
    for (int k = 0; k < 16; k++) {
        float sum, f[4];
        uint32_t bits[4] = {(uint32_t)x.lane[k] & 0xffff0000u, (uint32_t)y.lane[k] & 0xffff0000u, (uint32_t)x.lane[k] << 16, (uint32_t)y.lane[k] << 16};
        memcpy(f, bits, sizeof(f));
        memcpy(&sum, &r.lane[k], 4);
        sum = __builtin_fmaf(f[2], f[3], __builtin_fmaf(f[0], f[1], sum));
        memcpy(&r.lane[k], &sum, 4);
    }
    return r.f;
}
#define _mm512_maskz_loadu_ps emulate_maskz_loadu_ps
EMULATE simde__m512 emulate_maskz_loadu_ps(uint16_t m, const void *p)
{
    emulate_512 r;
    for (int k = 0; k < 16; k++) {
        r.lane[k] = 0;
        if (m >> k & 1)
            memcpy(&r.lane[k], (const char *)p + 4 * k, 4);
    }
    return r.f;
}
#define _mm512_mask_storeu_ps emulate_mask_storeu_ps
EMULATE void emulate_mask_storeu_ps(void *p, uint16_t m, simde__m512 a)
{
    emulate_512 r = {.f = a};
    for (int k = 0; k < 16; k++)
        if (m >> k & 1)
            memcpy((char *)p + 4 * k, &r.lane[k], 4);
}
#define _mm512_cvtepi32_epi16 emulate_cvtepi32_epi16
EMULATE __m256i emulate_cvtepi32_epi16(simde__m512i a)
{
    emulate_512 r = {.i = a};
    uint16_t h[16];
    for (int k = 0; k < 16; k++)
        h[k] = (uint16_t)r.lane[k];
    return _mm256_loadu_si256((const __m256i *)(const void *)h);
}
#define _mm512_cvtepi32_epi8 emulate_cvtepi32_epi8
EMULATE __m128i emulate_cvtepi32_epi8(simde__m512i a)
{
    emulate_512 r = {.i = a};
    uint8_t b[16];
    for (int k = 0; k < 16; k++)
        b[k] = (uint8_t)r.lane[k];
    return _mm_loadu_si128((const __m128i *)(const void *)b);
}
#define _mm512_cvtepi32_ps emulate_cvtepi32_ps
EMULATE simde__m512 emulate_cvtepi32_ps(simde__m512i a)
{
    emulate_512 r = {.i = a};
    r.half_f[0] = _mm256_cvtepi32_ps(r.half[0]);
    r.half_f[1] = _mm256_cvtepi32_ps(r.half[1]);
    return r.f;
}
#define _mm512_cvtepi8_epi32 emulate_cvtepi8_epi32
EMULATE simde__m512i emulate_cvtepi8_epi32(__m128i a)
{
    emulate_512 r;
    r.half[0] = _mm256_cvtepi8_epi32(a);
    r.half[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));
    return r.i;
}
#define _mm512_cvtepu8_epi32 emulate_cvtepu8_epi32
EMULATE simde__m512i emulate_cvtepu8_epi32(__m128i a)
{
    emulate_512 r;
    r.half[0] = _mm256_cvtepu8_epi32(a);
    r.half[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8));
    return r.i;
}
#define _mm512_cvtepu16_epi32 emulate_cvtepu16_epi32
EMULATE simde__m512i emulate_cvtepu16_epi32(__m256i a)
{
    emulate_512 r;
    r.half[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
    r.half[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
    return r.i;
}
#define _mm512_cvtph_ps emulate_cvtph_ps
EMULATE simde__m512 emulate_cvtph_ps(__m256i a)
{
    emulate_512 r;
    r.half_f[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
    r.half_f[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
    return r.f;
}
#define _mm512_cvtps_ph(a, rounding) emulate_cvtps_ph(a) /* to nearest even, the only one used */
EMULATE __m256i emulate_cvtps_ph(simde__m512 a)
{
    emulate_512 r = {.f = a};
    return _mm256_set_m128i(_mm256_cvtps_ph(r.half_f[1], _MM_FROUND_TO_NEAREST_INT), _mm256_cvtps_ph(r.half_f[0], _MM_FROUND_TO_NEAREST_INT));
}
#define _mm512_extractf32x8_ps emulate_extractf32x8_ps
EMULATE __m256 emulate_extractf32x8_ps(simde__m512 a, int which)
{
    emulate_512 r = {.f = a};
    return r.half_f[which];
}
#define _mm512_srai_epi32 emulate_srai_epi32
EMULATE simde__m512i emulate_srai_epi32(simde__m512i a, unsigned n)
{
    emulate_512 r = {.i = a};
    r.half[0] = _mm256_srai_epi32(r.half[0], (int)n);
    r.half[1] = _mm256_srai_epi32(r.half[1], (int)n);
    return r.i;
}

#endif
