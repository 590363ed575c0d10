/* base/half.h - bf16 and f16 against f32, round to nearest even; NaN stays NaN.  The scalar reference
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

#endif
