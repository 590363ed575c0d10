/* ops/cpu/linear_avx2.c - the products with AVX2, FMA and F16C.
 *
 * A panel's 16 outputs are two registers ("halves") of 8 lanes of 4 bytes.  Unsigned codes of b bits times signed bytes of x: vpmaddubsw adds
 * pairs into 16 bits, and as many of its results as cannot overflow are added there before vpmaddwd widens them ("chain": 2 * (2^b - 1) * 127
 * each: 8 of 4 bits, 4 of 5, 2 of 6).  Signed codes: |w| times x with w's sign (|w| <= 128, so one pair fits), widened each time.  A tile holds |w|
 * and signs apart, and where w < 0 x is inverted: -x - 1, whose surplus, the sum of those |w|, the tile holds as well.
 *
 * One template serves a panel as it is packed (one row of x: unpacked in registers on the way) and as unpacked in a tile (many rows). */
#include <immintrin.h>
#include <string.h>

#include "ops/cpu/cpu_linear.h"

/* Weights read once come from memory: the hardware's own prefetching of one stream leaves a third of the bandwidth. */
#ifndef PREFETCH
#define PREFETCH 4096
#endif

#define INLINE static inline __attribute__((always_inline))

/* What a kernel is specialised by: all constants where it is inlined. */
typedef struct kind {
    int bits;  /* planes of the codes: 8 in a tile */
    int chain;
    int group;
    int zero_shift; /* log2 of the zero point, -1 none */
    bool is_signed, has_min;
    packed_scale scale; /* how scales and minima are stored: PACKED_SCALE_NONE = f32, in a tile */
} kind;

/* Where the units of one panel lie. */
typedef struct source {
    const uint8_t *codes;
    const char *scale, *min, *super;
    const int8_t *codebook;
    int32_t phase; /* k before the first one, in its super-group */
    const uint8_t *signs; /* of signed codes in a tile */
    const int32_t *negative;
} source;

/* The compiler may not reorder sums across this: left alone, gcc turns chains of additions into trees that need more registers than there are. */
#define KEEP(v) __asm__("" : "+x"(v))

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* The codes of chunk c (4 k of 8 outputs: half h), as stored; `unit` is where the unit begins. */
INLINE __m256i chunk_codes(int bits, const uint8_t *unit, int c, int h)
{
    const uint8_t *half = unit + h * 32;
    __m256i v;
    if (bits == 8)
        return load(half + c * 64);
    if (bits >= 4) {
        v = load(half + c / 2 * 64);
        v = _mm256_and_si256(c % 2 != 0 ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
    } else {
        v = load(half + c / 4 * 64);
        v = _mm256_and_si256(_mm256_srli_epi16(v, c % 4 * 2), _mm256_set1_epi8(3));
    }
    if (bits == 5 || bits == 3) {
        int at = bits - 1; /* the plane of single bits follows the others, and its bit c goes to place `at` */
        __m256i b = load(half + at * 64);
        b = c < at ? _mm256_slli_epi16(b, at - c) : _mm256_srli_epi16(b, c - at);
        v = _mm256_or_si256(v, _mm256_and_si256(b, _mm256_set1_epi8((char)(1 << at))));
    } else if (bits == 6) {
        int from = c % 4 * 2;
        __m256i b = load(half + (4 + c / 4) * 64);
        b = from < 4 ? _mm256_slli_epi16(b, 4 - from) : _mm256_srli_epi16(b, from - 4);
        v = _mm256_or_si256(v, _mm256_and_si256(b, _mm256_set1_epi8(0x30)));
    }
    return v;
}

INLINE __m256 half_floats(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}

INLINE __m256 bytes_to_floats(const char *p, bool is_signed)
{
    __m128i b = _mm_loadl_epi64((const void *)p);
    return _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(b) : _mm256_cvtepu8_epi32(b));
}

INLINE const char *super_at(kind k, const source *s, int32_t g)
{
    return s->super + ((uint32_t)s->phase + (uint32_t)g * (uint32_t)k.group) / PACKED_SUPER * (k.has_min ? 64 : 32);
}

INLINE __m256 group_scale(kind k, const source *s, int32_t g, int h)
{
    if (k.scale == PACKED_SCALE_NONE)
        return _mm256_load_ps((const float *)(const void *)s->scale + (size_t)g * 16 + h * 8);
    if (k.scale == PACKED_SCALE_F16)
        return half_floats(s->scale + (size_t)g * 32 + h * 16);
    __m256 sub;
    if (k.scale == PACKED_SCALE_U4) {
        __m128i b = _mm_and_si128(_mm_loadl_epi64((const void *)(s->scale + (size_t)g * 16 + h * 8)), _mm_set1_epi8(15));
        sub = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b));
    } else {
        sub = bytes_to_floats(s->scale + (size_t)g * 16 + h * 8, k.scale == PACKED_SCALE_S8);
    }
    return _mm256_mul_ps(half_floats(super_at(k, s, g) + h * 16), sub);
}

INLINE __m256 group_min(kind k, const source *s, int32_t g, int h)
{
    if (k.scale == PACKED_SCALE_NONE)
        return _mm256_load_ps((const float *)(const void *)s->min + (size_t)g * 16 + h * 8);
    if (k.scale == PACKED_SCALE_F16)
        return half_floats(s->min + (size_t)g * 32 + h * 16);
    __m256 sub;
    if (k.scale == PACKED_SCALE_U4) {
        __m128i b = _mm_srli_epi16(_mm_loadl_epi64((const void *)(s->scale + (size_t)g * 16 + h * 8)), 4);
        sub = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_and_si128(b, _mm_set1_epi8(15))));
    } else {
        sub = bytes_to_floats(s->min + (size_t)g * 16 + h * 8, false);
    }
    __m256 m = _mm256_mul_ps(half_floats(super_at(k, s, g) + 32 + h * 16), sub);
    return _mm256_xor_ps(m, _mm256_set1_ps(-0.0f));
}

INLINE __m256i codebook_of(const source *s)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)s->codebook));
}

/* dot[r][h] = the exact dots of group g: its chunks in the unit that begins at `unit` bytes, with rows of x whose unit starts at x[r]. */
INLINE void group_dots(kind k, const source *s, size_t unit, int32_t g, int n_rows, const char *const x[], __m256i dot[][2])
{
    const __m256i ones = _mm256_set1_epi16(1);
    const bool split = k.is_signed && k.scale == PACKED_SCALE_NONE; /* magnitudes and signs */
    const int c0 = g % (PACKED_UNIT / k.group) * k.group / 4;
#pragma GCC unroll 8
    for (int c = c0; c < c0 + k.group / 4; c += k.chain) {
        __m256i sum[4][2];
#pragma GCC unroll 8
        for (int i = 0; i < k.chain; i++) {
            __m256i w[2], magnitude[2];
            for (int h = 0; h < 2; h++) {
                w[h] = chunk_codes(k.bits, s->codes + unit, c + i, h);
                if (s->codebook != NULL)
                    w[h] = _mm256_shuffle_epi8(codebook_of(s), w[h]);
                magnitude[h] = k.is_signed && !split ? _mm256_abs_epi8(w[h]) : w[h];
            }
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; r++) {
                int32_t four;
                memcpy(&four, x[r] + (c + i) * 4, 4);
                __m256i xb = _mm256_set1_epi32(four);
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    __m256i with_sign = split ? _mm256_xor_si256(xb, load(s->signs + unit + c * 64 + h * 32)) : k.is_signed ? _mm256_sign_epi8(xb, w[h]) : xb;
                    __m256i p = _mm256_maddubs_epi16(magnitude[h], with_sign);
                    if (k.chain == 1) {
                        p = _mm256_madd_epi16(p, ones);
                        dot[r][h] = c != c0 ? _mm256_add_epi32(dot[r][h], p) : split ? _mm256_add_epi32(load(s->negative + (size_t)g * PACKED_ROWS + h * 8), p) : p;
                        KEEP(dot[r][h]);
                    } else {
                        sum[r][h] = i == 0 ? p : _mm256_add_epi16(sum[r][h], p);
                        KEEP(sum[r][h]);
                    }
                }
            }
        }
        for (int r = 0; k.chain > 1 && r < n_rows; r++) {
            for (int h = 0; h < 2; h++) {
                __m256i wide = _mm256_madd_epi16(sum[r][h], ones);
                dot[r][h] = c == c0 ? wide : _mm256_add_epi32(dot[r][h], wide);
                KEEP(dot[r][h]);
            }
        }
    }
}

/* n_rows (at most 4; those beyond `last` are it again) rows of x from row `row` on against units [0, n_units) of s, which are units unit0 ... of the matrix.
 * The sums are or will be written as rows out_row ... of ahead->out.  With each unit `ahead_bytes` of codes are fetched. */
INLINE void rows_units(kind k, const source *s, int32_t unit0, int32_t n_units, const cpu_ahead *ahead, size_t ahead_bytes, const cpu_q8_view *x, int32_t row, int n_rows, int last,
                       cpu_acc *acc, int32_t out_row)
{
    const size_t unit_bytes = (size_t)k.bits * 64;
    __m256 a[4][2];
    const char *xr[4];
    for (int r = 0; r < n_rows; r++) {
        xr[r] = x->rows + (size_t)(row + (r < last ? r : last)) * x->stride;
        for (int h = 0; h < 2; h++)
            a[r][h] = unit0 == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(acc[r] + h * 8);
        cpu_fetch_out(ahead, out_row + r);
    }
    for (int32_t u = 0; u < n_units; u++) {
        size_t xu = (size_t)(unit0 + u) * 4; /* bytes into a plane of one number a unit */
        if (ahead_bytes > 0)
            cpu_fetch(ahead, u, ahead_bytes);
#pragma GCC unroll 2
        for (int g = 0; g < PACKED_UNIT / k.group; g++) {
            __m256i dot[4][2];
            const char *codes[4];
            for (int r = 0; r < n_rows; r++)
                codes[r] = xr[r] + (size_t)(unit0 + u) * PACKED_UNIT;
            int32_t at = u * (PACKED_UNIT / k.group) + g;
            group_dots(k, s, (size_t)u * unit_bytes, at, n_rows, codes, dot);
            size_t sums = k.group == 32 ? xu : xu * 2 + (size_t)g * 4;
            __m256 ws[2] = {group_scale(k, s, at, 0), group_scale(k, s, at, 1)}, wm[2];
            if (k.has_min) {
                wm[0] = group_min(k, s, at, 0);
                wm[1] = group_min(k, s, at, 1);
            }
            for (int r = 0; r < n_rows; r++) {
                __m256 xs = _mm256_broadcast_ss((const float *)(const void *)(xr[r] + x->scale + xu));
                for (int h = 0; h < 2; h++) {
                    __m256i d = dot[r][h];
                    if (k.zero_shift >= 0) {
                        int32_t sum;
                        memcpy(&sum, xr[r] + (k.group == 32 ? x->sum32 : x->sum16) + sums, 4);
                        d = _mm256_sub_epi32(d, _mm256_slli_epi32(_mm256_set1_epi32(sum), k.zero_shift));
                    }
                    a[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d), _mm256_mul_ps(ws[h], xs), a[r][h]);
                    if (k.has_min) {
                        __m256 xm = _mm256_broadcast_ss((const float *)(const void *)(xr[r] + (k.group == 32 ? x->scaled32 : x->scaled16) + sums));
                        a[r][h] = _mm256_fmadd_ps(wm[h], xm, a[r][h]);
                    }
                }
            }
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(cpu_sums_to(ahead, out_row + r, acc[r]) + h * 8, a[r][h]);
}

INLINE source packed_source(const packed_layout *l, const char *panel, int32_t unit, const kind k)
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

INLINE void one_template(kind k, bool has_codebook, const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)
{
    for (int32_t p = 0; p < n_panels; p++) {
        const char *at = panel + (size_t)p * l->panel_bytes;
        source s = packed_source(l, at, 0, k);
        cpu_ahead ahead = cpu_ahead_of(l, at, PREFETCH);
        if (!has_codebook)
            s.codebook = NULL;
        rows_units(k, &s, 0, l->units, &ahead, (size_t)k.bits * 64, x, 0, 1, 0, &acc[p], 0);
    }
}

#define FEW_ROWS 4

INLINE void few_template(kind k, bool has_codebook, const packed_layout *l, const char *panel, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)
{
    source s = packed_source(l, panel, 0, k);
    cpu_ahead ahead = cpu_ahead_of(l, panel, PREFETCH);
    const size_t bytes = (size_t)k.bits * 64;
    cpu_acc sums[FEW_ROWS];
    if (!has_codebook)
        s.codebook = NULL;
    if (n_rows <= 2)
        rows_units(k, &s, 0, l->units, &ahead, bytes, x, row, 2, n_rows - 1, sums, 0);
    else
        rows_units(k, &s, 0, l->units, &ahead, bytes, x, row, 4, n_rows - 1, sums, 0);
    memcpy(acc, sums, (size_t)n_rows * sizeof(*acc));
}

/* Signed codes of group g and half h in a tile become magnitudes and signs. */
INLINE void split_signs(cpu_tile *tile, int32_t g, int chunks, int h)
{
    __m256i sum = _mm256_setzero_si256();
    for (int c = 0; c < chunks; c++) {
        size_t at = (size_t)(g * chunks + c) * 64 + (size_t)h * 32;
        __m256i w = load(tile->codes + at), magnitude = _mm256_abs_epi8(w), sign = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_and_si256(magnitude, sign), _mm256_set1_epi8(1));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        _mm256_store_si256((__m256i *)(void *)(tile->codes + at), magnitude);
        _mm256_store_si256((__m256i *)(void *)(tile->signs + at), sign);
    }
    _mm256_store_si256((__m256i *)(void *)(tile->negative[g] + h * 8), sum);
}

INLINE void unpack_template(kind k, bool has_codebook, const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)
{
    source s = packed_source(l, panel, unit, k);
    for (int32_t u = 0; u < n_units; u++) {
        for (int c = 0; c < 8; c++) {
            for (int h = 0; h < 2; h++) {
                __m256i w = chunk_codes(k.bits, s.codes + (size_t)u * (size_t)k.bits * 64, c, h);
                if (has_codebook)
                    w = _mm256_shuffle_epi8(codebook_of(&s), w);
                _mm256_store_si256((__m256i *)(void *)(tile->codes + (size_t)(u * 8 + c) * 64 + h * 32), w);
            }
        }
    }
    for (int32_t g = 0; g < n_units * (PACKED_UNIT / k.group); g++) {
        for (int h = 0; h < 2; h++) {
            _mm256_store_ps(tile->scale[g] + h * 8, group_scale(k, &s, g, h));
            if (k.has_min)
                _mm256_store_ps(tile->min[g] + h * 8, group_min(k, &s, g, h));
            if (k.is_signed)
                split_signs(tile, g, k.group / 4, h);
        }
    }
}

INLINE void many_template(kind k, const packed_layout *l, const cpu_tile *tile, int32_t unit, int32_t n_units, const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row,
                          int32_t n_rows, cpu_acc *acc)
{
    const size_t bytes = l->unit_bytes; /* by the first rows alone */
    source s = {.codes = tile->codes, .scale = (const char *)tile->scale, .min = (const char *)tile->min, .signs = tile->signs, .negative = tile->negative[0]};
    k.bits = 8;
    k.scale = PACKED_SCALE_NONE;
    int32_t r = 0;
    for (; r + 4 <= n_rows; r += 4)
        rows_units(k, &s, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, 4, 3, acc + r, r);
    if (n_rows & 2) {
        rows_units(k, &s, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, 2, 1, acc + r, r);
        r += 2;
    }
    if (n_rows & 1)
        rows_units(k, &s, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, 1, 0, acc + r, r);
}

/* name, type, bits, chain, group, zero shift, signed, minimum, scale, codebook */
#define INTEGERS(X)                                                                 \
    X(q8_0, PACKED_Q8_0, 8, 1, 32, -1, true, false, PACKED_SCALE_F16, false)        \
    X(q4_0, PACKED_Q4_0, 4, 8, 32, 3, false, false, PACKED_SCALE_F16, false)        \
    X(q4_1, PACKED_Q4_1, 4, 8, 32, -1, false, true, PACKED_SCALE_F16, false)        \
    X(q5_0, PACKED_Q5_0, 5, 4, 32, 4, false, false, PACKED_SCALE_F16, false)        \
    X(q5_1, PACKED_Q5_1, 5, 4, 32, -1, false, true, PACKED_SCALE_F16, false)        \
    X(q2_k, PACKED_Q2_K, 2, 4, 16, -1, false, true, PACKED_SCALE_U4, false)         \
    X(q3_k, PACKED_Q3_K, 3, 4, 16, 2, false, false, PACKED_SCALE_S8, false)         \
    X(q4_k, PACKED_Q4_K, 4, 8, 32, -1, false, true, PACKED_SCALE_U8, false)         \
    X(q5_k, PACKED_Q5_K, 5, 4, 32, -1, false, true, PACKED_SCALE_U8, false)         \
    X(q6_k, PACKED_Q6_K, 6, 2, 16, 5, false, false, PACKED_SCALE_S8, false)         \
    X(iq4_nl, PACKED_IQ4_NL, 4, 1, 32, -1, true, false, PACKED_SCALE_F16, true)

/* Tiles hold bytes: types that differ only in how they are stored share the kernel for many rows. */
#define TILES(X)                        \
    X(s8, 1, 32, -1, true, false)       \
    X(u4_zero, 8, 32, 3, false, false)  \
    X(u4_min, 8, 32, -1, false, true)   \
    X(u5_zero, 4, 32, 4, false, false)  \
    X(u5_min, 4, 32, -1, false, true)   \
    X(u2_min16, 4, 16, -1, false, true) \
    X(u3_zero16, 4, 16, 2, false, false) \
    X(u6_zero16, 2, 16, 5, false, false)

#define DEFINE_PACKED(name, type, bits, chain, group, zero, is_signed, has_min, scale, codebook)                                              \
    static void one_##name(const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)                  \
    {                                                                                                                                        \
        one_template((kind){bits, chain, group, zero, is_signed, has_min, scale}, codebook, l, panel, n_panels, x, acc);                     \
    }                                                                                                                                        \
    static void few_##name(const packed_layout *l, const char *panel, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)       \
    {                                                                                                                                        \
        few_template((kind){bits, chain, group, zero, is_signed, has_min, scale}, codebook, l, panel, x, row, n_rows, acc);                  \
    }                                                                                                                                        \
    static void unpack_##name(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)                      \
    {                                                                                                                                        \
        unpack_template((kind){bits, chain, group, zero, is_signed, has_min, scale}, codebook, l, panel, unit, n_units, tile);               \
    }
INTEGERS(DEFINE_PACKED)

#define DEFINE_TILE(name, chain, group, zero, is_signed, has_min)                                                                             \
    static void many_##name(const packed_layout *l, const cpu_tile *tile, int32_t n_panels, int32_t unit, int32_t n_units,                   \
                            const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)                         \
    {                                                                                                                                        \
        (void)n_panels;                                                                                                                      \
        many_template((kind){8, chain, group, zero, is_signed, has_min, PACKED_SCALE_NONE}, l, tile, unit, n_units, ahead, x, row, n_rows,   \
                      acc);                                                                                                                  \
    }
TILES(DEFINE_TILE)

/* ---- floats ---- */

/* Half h of column k of a panel, as f32.  k_odd is a constant: the parity of k. */
INLINE __m256 float_weights(packed_type type, const char *panel, int32_t k, int k_odd, int h)
{
    const char *pair = panel + (size_t)(k / 2) * 64;
    if (type == PACKED_F32)
        return _mm256_loadu_ps((const float *)(const void *)panel + (size_t)k * 16 + h * 8);
    if (type == PACKED_F16)
        return half_floats(pair + k_odd * 32 + h * 16);
    __m256i both = load(pair + h * 32);
    return _mm256_castsi256_ps(k_odd ? _mm256_and_si256(both, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(both, 16));
}

#define FLOAT_ROWS 6

/* n_panels * n_rows <= FLOAT_ROWS: two accumulators each. */
INLINE void floats_block(packed_type type, const char *panel, size_t panel_bytes, int n_panels, int32_t k0, int32_t k1, const char *x, size_t x_stride, int n_rows,
                         cpu_acc *acc, bool ahead)
{
    __m256 a[FLOAT_ROWS][2];
    const int n = n_panels * n_rows;
    for (int i = 0; i < n; i++)
        for (int h = 0; h < 2; h++)
            a[i][h] = _mm256_loadu_ps(acc[i] + h * 8);
    int32_t k = k0;
    for (; k + 2 <= k1; k += 2) {
        if (ahead) {
            const char *at = panel + (size_t)k * (type == PACKED_F32 ? 64 : 32) + PREFETCH;
            _mm_prefetch(at, _MM_HINT_T0);
            if (type == PACKED_F32)
                _mm_prefetch(at + 64, _MM_HINT_T0);
        }
        for (int odd = 0; odd < 2; odd++) {
            for (int p = 0; p < n_panels; p++) {
                __m256 w[2];
                for (int h = 0; h < 2; h++)
                    w[h] = float_weights(type, panel + (size_t)p * panel_bytes, k + odd, odd, h);
                for (int r = 0; r < n_rows; r++) {
                    __m256 xk = _mm256_broadcast_ss((const float *)(const void *)(x + (size_t)r * x_stride) + k + odd);
                    for (int h = 0; h < 2; h++)
                        a[p * n_rows + r][h] = _mm256_fmadd_ps(xk, w[h], a[p * n_rows + r][h]);
                }
            }
        }
    }
    if (k < k1) {
        for (int i = 0; i < n; i++) {
            __m256 xk = _mm256_broadcast_ss((const float *)(const void *)(x + (size_t)(i % n_rows) * x_stride) + k);
            for (int h = 0; h < 2; h++)
                a[i][h] = _mm256_fmadd_ps(xk, float_weights(type, panel + (size_t)(i / n_rows) * panel_bytes, k, 0, h), a[i][h]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(acc[i] + h * 8, a[i][h]);
}

/* from_memory: the panel, which the first rows then fetch ahead of its use; else it lies in L1. */
INLINE void floats_template(packed_type type, bool from_memory, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    int32_t blocks = (n_rows + FLOAT_ROWS - 1) / FLOAT_ROWS;
    for (int32_t r = 0; blocks > 0; blocks--) { /* even ones: a block of one row takes as long as one of four */
        int32_t n = (n_rows - r + blocks - 1) / blocks;
        const char *xr = (const char *)x + (size_t)r * x_stride;
        const bool first = from_memory && r == 0;
        switch (n) {
#define CASE(n)                                                                    \
    case n:                                                                        \
        floats_block(type, panel, 0, 1, k0, k1, xr, x_stride, n, acc + r, first);  \
        break;
            CPU_ROWS_6(CASE)
#undef CASE
        }
        r += n;
    }
}

INLINE void floats_one_template(packed_type type, const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    memset(acc, 0, (size_t)n_panels * sizeof(*acc));
    int32_t p = 0;
    for (; p + 4 <= n_panels; p += 4) /* enough sums at once to hide the latency of a multiply-add; of so many streams the hardware fetches enough */
        floats_block(type, panel + (size_t)p * l->panel_bytes, l->panel_bytes, 4, 0, l->shape.cols, (const char *)x, 0, 1, acc + p, false);
    for (; p < n_panels; p++)
        floats_block(type, panel + (size_t)p * l->panel_bytes, 0, 1, 0, l->shape.cols, (const char *)x, 0, 1, acc + p, true);
}

INLINE void expand_template(packed_type type, const char *panel, int32_t k0, int32_t k1, float *out)
{
    for (int32_t k = k0; k < k1; k += 2) {
        _mm_prefetch(panel + (size_t)k * 32 + PREFETCH, _MM_HINT_T0);
        for (int odd = 0; odd < 2 && k + odd < k1; odd++)
            for (int h = 0; h < 2; h++)
                _mm256_storeu_ps(out + (size_t)(k + odd - k0) * PACKED_ROWS + h * 8, float_weights(type, panel, k + odd, odd, h));
    }
}

static void expand_f16(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out)
{
    (void)l;
    expand_template(PACKED_F16, panel, k0, k1, out);
}

static void expand_bf16(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out)
{
    (void)l;
    expand_template(PACKED_BF16, panel, k0, k1, out);
}

/* A column of a panel of fp8 as f16 times 2^-8: e4m3 with its bits one place up, but for NaN, which is refused at import. */
INLINE __m256i f8_halves(const char *panel, int32_t k)
{
    __m256i bits = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(panel + (size_t)k * PACKED_ROWS)));
    return _mm256_and_si256(_mm256_slli_epi16(bits, 7), _mm256_set1_epi16((short)0xbf80));
}

/* Half h of f8_halves. */
INLINE __m256 f8_half(__m256i halves, int h)
{
    return _mm256_cvtph_ps(h == 0 ? _mm256_castsi256_si128(halves) : _mm256_extracti128_si256(halves, 1));
}

/* 256 times the scales that column k has: what halves are multiplied by.  Exact, as are the halves: a weight is rounded once. */
INLINE void f8_scales(const packed_layout *l, const char *panel, int32_t k, __m256 scale[2])
{
    const float *at = (const float *)(const void *)(panel + l->super_offset) + (size_t)packed_super_of(l, k) * PACKED_ROWS;
    for (int h = 0; h < 2; h++)
        scale[h] = _mm256_mul_ps(_mm256_loadu_ps(at + h * 8), _mm256_set1_ps(256));
}

static void expand_f8(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out)
{
    for (int32_t k = k0; k < k1;) {
        int32_t end = cpu_f8_end(l, k, k1);
        __m256 scale[2];
        f8_scales(l, panel, k, scale);
        for (; k < end; k++, out += PACKED_ROWS) {
            if (k % 4 == 0)
                _mm_prefetch(panel + (size_t)k * PACKED_ROWS + PREFETCH, _MM_HINT_T0);
            __m256i halves = f8_halves(panel, k);
            for (int h = 0; h < 2; h++)
                _mm256_storeu_ps(out + h * 8, _mm256_mul_ps(f8_half(halves, h), scale[h]));
        }
    }
}

INLINE void f8_panels(const packed_layout *l, const char *panel, int n, const float *x, cpu_acc *acc)
{
    __m256 a[4][2], scale[4][2];
    for (int p = 0; p < n; p++)
        a[p][0] = a[p][1] = _mm256_setzero_ps();
    for (int32_t k = 0; k < l->shape.cols;) {
        int32_t end = cpu_f8_end(l, k, l->shape.cols);
        for (int p = 0; p < n; p++)
            f8_scales(l, panel + (size_t)p * l->panel_bytes, k, scale[p]);
        for (; k < end; k++) {
            __m256 xk = _mm256_broadcast_ss(x + k);
            for (int p = 0; p < n; p++) {
                const char *at = panel + (size_t)p * l->panel_bytes;
                if (k % 4 == 0)
                    _mm_prefetch(at + (size_t)k * PACKED_ROWS + PREFETCH / 8, _MM_HINT_T0);
                __m256i halves = f8_halves(at, k);
                for (int h = 0; h < 2; h++)
                    a[p][h] = _mm256_fmadd_ps(xk, _mm256_mul_ps(f8_half(halves, h), scale[p][h]), a[p][h]);
            }
        }
    }
    for (int p = 0; p < n; p++)
        for (int h = 0; h < 2; h++)
            _mm256_storeu_ps(acc[p] + h * 8, a[p][h]);
}

static void floats_one_f8(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    int32_t p = 0;
    for (; p + 4 <= n_panels; p += 4)
        f8_panels(l, panel + (size_t)p * l->panel_bytes, 4, x, acc + p);
    for (; p < n_panels; p++)
        f8_panels(l, panel + (size_t)p * l->panel_bytes, 1, x, acc + p);
}

#define DEFINE_FLOATS(name, of)                                                                                                               \
    static void floats_##name(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride,            \
                              int32_t n_rows, cpu_acc *acc)                                                                                  \
    {                                                                                                                                        \
        floats_template(of, l->shape.type == (of), panel, k0, k1, x, x_stride, n_rows, acc);                                                 \
    }                                                                                                                                        \
    static void floats_one_##name(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)                 \
    {                                                                                                                                        \
        floats_one_template(of, l, panel, n_panels, x, acc);                                                                                 \
    }
DEFINE_FLOATS(f32, PACKED_F32)
DEFINE_FLOATS(f16, PACKED_F16)
DEFINE_FLOATS(bf16, PACKED_BF16)

INLINE int64_t integer_peak(int chain, int64_t rounds)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(1), dots[8] = {w, w, w, w, w, w, w, w};
    for (int64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m256i sum = _mm256_maddubs_epi16(w, x);
#pragma GCC unroll 8
            for (int c = 1; c < chain; c++) {
                KEEP(x); /* else the products are all one */
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
            }
            KEEP(x);
            dots[i] = _mm256_add_epi32(dots[i], _mm256_madd_epi16(sum, ones));
            KEEP(dots[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        __asm__ volatile("" : : "x"(dots[i])); /* it is wanted */
    return rounds * 8 * chain * 64;
}

static int64_t peak(cpu_peak what, int64_t rounds)
{
    if (what == CPU_PEAK_CODES4)
        return integer_peak(8, rounds);
    if (what == CPU_PEAK_CODES8)
        return integer_peak(1, rounds);
    __m256 w = _mm256_set1_ps(0.5f), sums[12] = {w, w, w, w, w, w, w, w, w, w, w, w}; /* bf16 is expanded to f32 */
    for (int64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            sums[i] = _mm256_fmadd_ps(w, w, sums[i]);
            KEEP(sums[i]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        __asm__ volatile("" : : "x"(sums[i]));
    return rounds * 12 * 16;
}

#define ONE_ENTRY(name, type, ...) [type] = one_##name,
#define FEW_ENTRY(name, type, ...) [type] = few_##name,
#define UNPACK_ENTRY(name, type, ...) [type] = unpack_##name,

const cpu_linear_kernels cpu_linear_avx2 = {
    .one = {INTEGERS(ONE_ENTRY)},
    .few_rows = FEW_ROWS,
    .few = {INTEGERS(FEW_ENTRY)},
    .unpack = {INTEGERS(UNPACK_ENTRY)},
    .many_panels = 1,
    .many = {[PACKED_Q8_0] = many_s8, [PACKED_IQ4_NL] = many_s8, [PACKED_Q4_0] = many_u4_zero, [PACKED_Q4_1] = many_u4_min, [PACKED_Q4_K] = many_u4_min,
             [PACKED_Q5_0] = many_u5_zero, [PACKED_Q5_1] = many_u5_min, [PACKED_Q5_K] = many_u5_min, [PACKED_Q2_K] = many_u2_min16,
             [PACKED_Q3_K] = many_u3_zero16, [PACKED_Q6_K] = many_u6_zero16},
    .floats = {[PACKED_F32] = floats_f32, [PACKED_F16] = floats_f16, [PACKED_BF16] = floats_bf16},
    .floats_one = {[PACKED_F32] = floats_one_f32, [PACKED_F16] = floats_one_f16, [PACKED_BF16] = floats_one_bf16, [PACKED_F8] = floats_one_f8},
    .expand = {[PACKED_F16] = expand_f16, [PACKED_BF16] = expand_bf16, [PACKED_F8] = expand_f8},
    .quantise = cpu_quantise_avx2,
    .peak = peak,
};
