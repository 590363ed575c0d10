/* ops/cpu/cpu_gumbel.c - the noise of one token, step for step what vec_sample.c does in sixteen lanes (a test holds them equal). */
#include <math.h>

#include "base/half.h"
#include "base/philox.h"
#include "ops/ops.h"

/* log of 2^e m given f = m - 1: vec_math.h's polynomial. */
static float log_of(float e, float f)
{
    static const float Q[] = {-0x1.e316720p-4f, 0x1.e665f00p-4f, -0x1.fb3d680p-4f, 0x1.2331100p-3f, -0x1.5562fe0p-3f, 0x1.99a55a0p-3f, -0x1.ffffee0p-3f,
                              0x1.5555460p-2f};
    float q = 0x1.1b467ep-4f;
    for (int i = 0; i < 8; i++)
        q = fmaf(q, f, Q[i]);
    float l = fmaf(f * f, fmaf(q, f, -0.5f), f);
    return fmaf(e, 0x1.62p-1f, fmaf(e, 0x1.c85fe0p-10f, l));
}

static float split(float x, float *e)
{
    uint32_t u = half_f32_bits(x);
    int32_t k = (int32_t)(u - 0x3f3504f3u) >> 23;
    *e = (float)k;
    return half_bits_f32(u - ((uint32_t)k << 23));
}

float ops_gumbel(uint64_t seed, uint32_t choice, int32_t position, int32_t token)
{
    uint32_t t = (uint32_t)token, counter[4] = {t / 64 * 16 + t % 16, (uint32_t)position, choice, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, word[4];
    philox4x32(counter, key, word);
    uint32_t w = word[t / 16 % 4];
    float v = fmaf((float)(w >> 16), 65536.0f, (float)(w & 0xffff) + 0.5f) * 0x1p-32f;
    v = v < 0x1.fffffep-1f ? v : 0x1.fffffep-1f;
    float e, m = split(1.0f - v, &e);
    float exponential = -log_of(e, e < 0.0f ? m - 1.0f : -v);
    m = split(exponential, &e);
    return -log_of(e, m - 1.0f);
}
