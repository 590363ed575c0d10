/* base/half.h - bf16, f16 and fp8 against f32, round to nearest even; NaN stays NaN.  The scalar reference
 * that vector code must equal bit for bit. */
#ifndef BASE_HALF_H
#define BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float half_bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline float half_bf16_to_f32(uint16_t h)
{
    return half_bits_f32((uint32_t)h << 16);
}
static inline uint16_t half_f32_to_bf16(float f)
{
    uint32_t u = half_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
static inline float half_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff;
    if (exp == 31)
        return half_bits_f32(sign | 0x7f800000u | man << 13 | (man != 0 ? 0x400000u : 0));
    if (exp == 0) { /* zero or subnormal: man * 2^-24 is exact in f32 */
        float v = (float)man * 0x1p-24f;
        return half_bits_f32(half_f32_bits(v) | sign);
    }
    return half_bits_f32(sign | (exp + 112) << 23 | man << 13);
}
static inline uint16_t half_f32_to_f16(float f)
{
    uint32_t u = half_f32_bits(f), sign = (u >> 16) & 0x8000, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | ((a >> 13) & 0x3ff));
    if (a >= 0x47800000u) /* 65536 and more, infinity included */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000u) { /* below 2^-14: subnormal, in units of 2^-24 */
        float v = half_bits_f32(a) * 0x1p24f;
        uint32_t n = (uint32_t)v;
        float rest = v - (float)n;
        n += rest > 0.5f || (rest == 0.5f && (n & 1));
        return (uint16_t)(sign | n);
    }
    uint32_t r = a - 0x38000000u; /* exponent rebased to f16's */
    r += 0xfff + ((r >> 13) & 1);
    return (uint16_t)(sign | r >> 13); /* a carry into the exponent gives infinity at the top */
}
/* fp8 is E4M3 of OCP's "8-bit Floating Point Specification" 1.0: bias 7, no infinities, NaN in all other bits set.  What is beyond 448 becomes 448. */
static inline float half_e4m3_to_f32(uint8_t e)
{
    uint32_t sign = (uint32_t)(e & 0x80) << 24, a = e & 0x7f;
    if (a == 0x7f)
        return half_bits_f32(sign | 0x7fc00000u);
    if (a < 8) /* zero or subnormal: in units of 2^-9 */
        return half_bits_f32(half_f32_bits((float)a * 0x1p-9f) | sign);
    return half_bits_f32(sign | (a + (120 << 3)) << 20);
}
static inline uint8_t half_f32_to_e4m3(float f)
{
    uint32_t u = half_f32_bits(f), sign = u >> 24 & 0x80, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint8_t)(sign | 0x7f);
    if (a >= 0x43e00000u) /* 448 and more, infinity included */
        return (uint8_t)(sign | 0x7e);
    if (a < 0x3c800000u) /* below 2^-6: a sum whose unit is 2^-9 rounds it */
        return (uint8_t)(sign | (half_f32_bits(half_bits_f32(a) + 0x1p14f) - half_f32_bits(0x1p14f)));
    return (uint8_t)(sign | (((a + 0x7ffff + (a >> 20 & 1)) >> 20) - (120 << 3)));
}

#endif
