/* ops/cpu/linear_avx512.c - the products with AVX-512 and VNNI: a panel's 16 outputs are one register; vpdpbusd adds four unsigned codes times
 * four signed bytes of x, broadcast from memory, into each 32-bit lane. */
#include "ops/cpu/linear_avx512.h"

/* Weights read once come from memory, further ahead than the hardware looks; few rows take longer with what is there, and hide less. */
#define PREFETCH 4096
#define PREFETCH_FEW 8192
#define MANY_BLOCK 6 /* rows of x at once, times two panels */

INLINE __m512i broadcast_four(const char *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

/* n_rows (at most 8 times one panel, 6 times two; those beyond `last` are it again) rows of x from row `row` on against units [0, n_units) of each s, which are units
 * unit0 ... of the matrix; panel p's sums lie from acc[p * acc_step] on, and are or will be written as rows out_row ... of ahead->out.  With each unit `ahead_bytes` of codes
 * are fetched for each panel. */
INLINE void rows_units(kind k, const source *s, const int n_panels, int32_t unit0, int32_t n_units, const cpu_ahead *ahead, size_t ahead_bytes, const cpu_q8_view *x,
                       int32_t row, const int n_rows, int last, cpu_acc *acc, size_t acc_step, int32_t out_row)
{
    const size_t unit_bytes = (size_t)k.bits * 64;
    __m512 a[MANY_PANELS][8];
    const char *xr[8];
    for (int r = 0; r < n_rows; r++) {
        xr[r] = x->rows + (size_t)(row + (r < last ? r : last)) * x->stride;
        for (int p = 0; p < n_panels; p++)
            a[p][r] = unit0 == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(acc[(size_t)p * acc_step + (size_t)r]);
        for (int p = 0; p < n_panels; p++)
            cpu_fetch_out(&ahead[p], out_row + r);
    }
    for (int32_t u = 0; u < n_units; u++) {
        for (int p = 0; p < n_panels && ahead_bytes > 0; p++)
            cpu_fetch(&ahead[p], u, ahead_bytes);
        size_t xk = (size_t)(unit0 + u) * PACKED_UNIT, xu = xk / 8;
#pragma GCC unroll 2
        for (int g = 0; g < PACKED_UNIT / k.group; g++) {
            size_t xg = k.group == 32 ? xu : xu * 2 + (size_t)g * 4;
            __m512i dot[MANY_PANELS][8], odd = _mm512_setzero_si512();
            for (int r = 0; r < n_rows; r++)
                for (int p = 0; p < n_panels; p++)
                    dot[p][r] = _mm512_set1_epi32(zero_term(k, x, xr[r], xg));
#pragma GCC unroll 8
            for (int c = g * k.group / 4; c < (g + 1) * k.group / 4; c++) {
                __m512i w[MANY_PANELS];
                for (int p = 0; p < n_panels; p++)
                    w[p] = chunk_codes(k, &s[p], s[p].codes + (size_t)u * unit_bytes, c);
                if (n_panels == 1 && n_rows == 1 && c % 2 != 0) { /* two sums: one would wait for itself */
                    odd = _mm512_dpbusd_epi32(odd, w[0], broadcast_four(xr[0] + xk + c * 4));
                    continue;
                }
#pragma GCC unroll 8
                for (int r = 0; r < n_rows; r++) {
                    __m512i four = broadcast_four(xr[r] + xk + c * 4);
                    for (int p = 0; p < n_panels; p++)
                        dot[p][r] = _mm512_dpbusd_epi32(dot[p][r], w[p], four);
                }
            }
            if (n_panels == 1 && n_rows == 1)
                dot[0][0] = _mm512_add_epi32(dot[0][0], odd);
            int32_t at = u * (PACKED_UNIT / k.group) + g;
            for (int p = 0; p < n_panels; p++) {
                __m512 ws = group_scale(k, &s[p], at), wm = k.has_min ? group_min(k, &s[p], at) : ws;
                for (int r = 0; r < n_rows; r++)
                    a[p][r] = add_group(k, x, xr[r], xu, xg, dot[p][r], ws, wm, a[p][r]);
            }
        }
    }
    for (int p = 0; p < n_panels; p++)
        for (int r = 0; r < n_rows; r++)
            _mm512_storeu_ps(cpu_sums_to(&ahead[p], out_row + r, acc[(size_t)p * acc_step + (size_t)r]), a[p][r]);
}

INLINE void one_template(kind k, const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)
{
    for (int32_t p = 0; p < n_panels; p++) {
        const char *at = panel + (size_t)p * l->panel_bytes;
        source s = packed_source(l, at, 0, k);
        cpu_ahead ahead = cpu_ahead_of(l, at, PREFETCH);
        rows_units(k, &s, 1, 0, l->units, &ahead, (size_t)k.bits * 64, x, 0, 1, 0, &acc[p], 0, 0);
    }
}

INLINE void few_template(kind k, const packed_layout *l, const char *panel, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)
{
    source s = packed_source(l, panel, 0, k);
    cpu_ahead ahead = cpu_ahead_of(l, panel, PREFETCH_FEW);
    const size_t bytes = (size_t)k.bits * 64;
    cpu_acc sums[FEW_ROWS];
    if (n_rows <= 2)
        rows_units(k, &s, 1, 0, l->units, &ahead, bytes, x, row, 2, n_rows - 1, sums, 0, 0);
    else if (n_rows <= 4)
        rows_units(k, &s, 1, 0, l->units, &ahead, bytes, x, row, 4, n_rows - 1, sums, 0, 0);
    else if (n_rows <= 6)
        rows_units(k, &s, 1, 0, l->units, &ahead, bytes, x, row, 6, n_rows - 1, sums, 0, 0);
    else
        rows_units(k, &s, 1, 0, l->units, &ahead, bytes, x, row, 8, n_rows - 1, sums, 0, 0);
    memcpy(acc, sums, (size_t)n_rows * sizeof(*acc));
}

/* Rows at once: as many sums as registers hold, beside what they are made of. */
INLINE void many_template(kind k, const packed_layout *l, const cpu_tile *tile, const int n_panels, int32_t unit, int32_t n_units, const cpu_ahead *ahead,
                          const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)
{
    size_t bytes = l->unit_bytes; /* by the first rows alone */
    source s[MANY_PANELS];
    for (int p = 0; p < n_panels; p++)
        s[p] = (source){.codes = tile[p].codes, .scale = (const char *)tile[p].scale, .min = (const char *)tile[p].min};
    const size_t step = (size_t)n_rows;
    const int block = n_panels == 1 ? 8 : MANY_BLOCK;
    int32_t r = 0;
    for (; r + block <= n_rows; r += block)
        rows_units(k, s, n_panels, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, block, block - 1, acc + r, step, r);
    if (n_rows - r >= 4) {
        rows_units(k, s, n_panels, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, 4, 3, acc + r, step, r);
        r += 4;
    }
    if (n_rows - r >= 2) {
        rows_units(k, s, n_panels, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, 2, 1, acc + r, step, r);
        r += 2;
    }
    if (n_rows - r >= 1)
        rows_units(k, s, n_panels, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, 1, 0, acc + r, step, r);
}

#define DEFINE_PACKED(name, type, bits, group, zero, has_min, codebook, scale)                                                                \
    static void one_##name(const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)                  \
    {                                                                                                                                        \
        one_template((kind){bits, group, zero, has_min, codebook, false, scale}, l, panel, n_panels, x, acc);                                \
    }                                                                                                                                        \
    static void few_##name(const packed_layout *l, const char *panel, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)       \
    {                                                                                                                                        \
        few_template((kind){bits, group, zero, has_min, codebook, false, scale}, l, panel, x, row, n_rows, acc);                             \
    }                                                                                                                                        \
    static void unpack_##name(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)                      \
    {                                                                                                                                        \
        unpack_template((kind){bits, group, zero, has_min, codebook, false, scale}, l, panel, unit, n_units, tile);                          \
    }
INTEGERS(DEFINE_PACKED)

/* Tiles hold bytes: types that differ only in how they are stored share the kernel for many rows.  name, group, zero shift, minimum */
#define TILES(X)               \
    X(zero7, 32, 7, false)     \
    X(zero3, 32, 3, false)     \
    X(zero4, 32, 4, false)     \
    X(min, 32, -1, true)       \
    X(min16, 16, -1, true)     \
    X(zero2_16, 16, 2, false)  \
    X(zero5_16, 16, 5, false)

#define DEFINE_TILE(name, group, zero, has_min)                                                                                               \
    static void many_##name(const packed_layout *l, const cpu_tile *tile, int32_t n_panels, int32_t unit, int32_t n_units,                   \
                            const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)                         \
    {                                                                                                                                        \
        const kind k = {8, group, zero, has_min, false, true, PACKED_SCALE_NONE};                                                            \
        if (n_panels == 2)                                                                                                                   \
            many_template(k, l, tile, 2, unit, n_units, ahead, x, row, n_rows, acc);                                                         \
        else                                                                                                                                 \
            many_template(k, l, tile, 1, unit, n_units, ahead, x, row, n_rows, acc);                                                         \
    }
TILES(DEFINE_TILE)

/* ---- floats ---- */

/* Column k of a panel, as f32.  odd is a constant: the parity of k. */
INLINE __m512 float_weights(packed_type type, const char *panel, int32_t k, int odd)
{
    const char *pair = panel + (size_t)(k / 2) * 64;
    if (type == PACKED_F32)
        return _mm512_loadu_ps(panel + (size_t)k * 64);
    if (type == PACKED_F16)
        return half_floats(pair + odd * 32);
    __m512i both = _mm512_loadu_si512(pair);
    return _mm512_castsi512_ps(odd ? _mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(both, 16));
}

#define FLOAT_ROWS 12

/* n_panels * n_rows <= FLOAT_ROWS accumulators. */
INLINE void floats_block(packed_type type, const char *panel, size_t panel_bytes, int n_panels, int32_t k0, int32_t k1, const char *x, size_t x_stride, int n_rows,
                         cpu_acc *acc, bool ahead)
{
    __m512 a[FLOAT_ROWS];
    const int n = n_panels * n_rows;
    for (int i = 0; i < n; i++)
        a[i] = _mm512_loadu_ps(acc[i]);
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
                __m512 w = float_weights(type, panel + (size_t)p * panel_bytes, k + odd, odd);
                for (int r = 0; r < n_rows; r++) {
                    __m512 xk = _mm512_set1_ps(((const float *)(const void *)(x + (size_t)r * x_stride))[k + odd]);
                    a[p * n_rows + r] = _mm512_fmadd_ps(xk, w, a[p * n_rows + r]);
                }
            }
        }
    }
    if (k < k1) {
        for (int i = 0; i < n; i++) {
            __m512 xk = _mm512_set1_ps(((const float *)(const void *)(x + (size_t)(i % n_rows) * x_stride))[k]);
            a[i] = _mm512_fmadd_ps(xk, float_weights(type, panel + (size_t)(i / n_rows) * panel_bytes, k, 0), a[i]);
        }
    }
    for (int i = 0; i < n; i++)
        _mm512_storeu_ps(acc[i], a[i]);
}

/* from_memory: the panel, which the first rows then fetch ahead of its use; else it lies in L1. */
INLINE void floats_template(packed_type type, bool from_memory, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    int32_t blocks = (n_rows + FLOAT_ROWS - 1) / FLOAT_ROWS;
    for (int32_t r = 0; blocks > 0; blocks--) { /* even ones: a block of one row takes as long as one of eight */
        int32_t n = (n_rows - r + blocks - 1) / blocks;
        const char *xr = (const char *)x + (size_t)r * x_stride;
        const bool first = from_memory && r == 0;
        switch (n) {
#define CASE(n)                                                                    \
    case n:                                                                        \
        floats_block(type, panel, 0, 1, k0, k1, xr, x_stride, n, acc + r, first);  \
        break;
            CPU_ROWS_12(CASE)
#undef CASE
        }
        r += n;
    }
}

INLINE void floats_one_template(packed_type type, const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    memset(acc, 0, (size_t)n_panels * sizeof(*acc));
    int32_t p = 0;
    for (; p + 8 <= n_panels; p += 8) /* enough sums at once to hide the latency of a multiply-add; of so many streams the hardware fetches enough */
        floats_block(type, panel + (size_t)p * l->panel_bytes, l->panel_bytes, 8, 0, l->shape.cols, (const char *)x, 0, 1, acc + p, false);
    for (; p < n_panels; p++)
        floats_block(type, panel + (size_t)p * l->panel_bytes, 0, 1, 0, l->shape.cols, (const char *)x, 0, 1, acc + p, true);
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

/* Two k of a panel of fp8 (lanes 0 to 15 the first), as f16 times 2^-8: e4m3 with its bits one place up, but for NaN, which is refused at import. */
INLINE __m512i f8_halves(const char *panel, int32_t k)
{
    __m512i bits = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)(panel + (size_t)k * PACKED_ROWS)));
    return _mm512_and_si512(_mm512_slli_epi16(bits, 7), _mm512_set1_epi16((short)0xbf80));
}

/* 256 times the scales that column k has: what halves are multiplied by.  Exact, as are the halves: a weight is rounded once. */
INLINE __m512 f8_scales(const packed_layout *l, const char *panel, int32_t k)
{
    return _mm512_mul_ps(_mm512_loadu_ps(panel + l->super_offset + (size_t)packed_super_of(l, k) * PACKED_ROWS * sizeof(float)), _mm512_set1_ps(256));
}

INLINE __m512 f8_low(__m512i halves)
{
    return _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
}

INLINE __m512 f8_high(__m512i halves)
{
    return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
}

/* The last column of a super-group that has an odd number. */
INLINE __m512 f8_last(const char *panel, int32_t k)
{
    __m256i bits = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(panel + (size_t)k * PACKED_ROWS)));
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(bits, 7), _mm256_set1_epi16((short)0xbf80)));
}

static void expand_f8(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out)
{
    for (int32_t k = k0; k < k1;) {
        int32_t end = cpu_f8_end(l, k, k1);
        __m512 scale = f8_scales(l, panel, k);
        for (; k + 2 <= end; k += 2, out += 2 * PACKED_ROWS) {
            if (k % 4 == 0)
                _mm_prefetch(panel + (size_t)k * PACKED_ROWS + PREFETCH, _MM_HINT_T0);
            __m512i halves = f8_halves(panel, k);
            _mm512_storeu_ps(out, _mm512_mul_ps(f8_low(halves), scale));
            _mm512_storeu_ps(out + PACKED_ROWS, _mm512_mul_ps(f8_high(halves), scale));
        }
        if (k < end) {
            _mm512_storeu_ps(out, _mm512_mul_ps(f8_last(panel, k), scale));
            k++;
            out += PACKED_ROWS;
        }
    }
}

INLINE void f8_panels(const packed_layout *l, const char *panel, int n, const float *x, cpu_acc *acc)
{
    __m512 a[8], scale[8];
    for (int p = 0; p < n; p++)
        a[p] = _mm512_setzero_ps();
    for (int32_t k = 0; k < l->shape.cols;) {
        int32_t end = cpu_f8_end(l, k, l->shape.cols);
        for (int p = 0; p < n; p++)
            scale[p] = f8_scales(l, panel + (size_t)p * l->panel_bytes, k);
        for (; k + 2 <= end; k += 2) {
            for (int p = 0; p < n; p++) {
                const char *at = panel + (size_t)p * l->panel_bytes;
                if (k % 4 == 0)
                    _mm_prefetch(at + (size_t)k * PACKED_ROWS + PREFETCH / 8, _MM_HINT_T0);
                __m512i halves = f8_halves(at, k);
                a[p] = _mm512_fmadd_ps(_mm512_set1_ps(x[k]), _mm512_mul_ps(f8_low(halves), scale[p]), a[p]);
                a[p] = _mm512_fmadd_ps(_mm512_set1_ps(x[k + 1]), _mm512_mul_ps(f8_high(halves), scale[p]), a[p]);
            }
        }
        if (k < end) {
            for (int p = 0; p < n; p++)
                a[p] = _mm512_fmadd_ps(_mm512_set1_ps(x[k]), _mm512_mul_ps(f8_last(panel + (size_t)p * l->panel_bytes, k), scale[p]), a[p]);
            k++;
        }
    }
    for (int p = 0; p < n; p++)
        _mm512_storeu_ps(acc[p], a[p]);
}

static void floats_one_f8(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    int32_t p = 0;
    for (; p + 8 <= n_panels; p += 8)
        f8_panels(l, panel + (size_t)p * l->panel_bytes, 8, x, acc + p);
    for (; p < n_panels; p++)
        f8_panels(l, panel + (size_t)p * l->panel_bytes, 1, x, acc + p);
}

static int64_t peak(cpu_peak what, int64_t rounds)
{
    __m512i c = _mm512_set1_epi8(3), dots[12] = {c, c, c, c, c, c, c, c, c, c, c, c};
    __m512 w = _mm512_set1_ps(0.5f), sums[12] = {w, w, w, w, w, w, w, w, w, w, w, w}; /* bf16 is expanded to f32 */
    bool floats = what >= CPU_PEAK_F32;
    for (int64_t n = 0; n < rounds && floats; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            sums[i] = _mm512_fmadd_ps(w, w, sums[i]);
            KEEP(sums[i]);
        }
    }
    for (int64_t n = 0; n < rounds && !floats; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            dots[i] = _mm512_dpbusd_epi32(dots[i], c, c);
            KEEP(dots[i]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) { /* they are wanted */
        WANTED(dots[i]);
        WANTED(sums[i]);
    }
    return rounds * 12 * (floats ? 32 : 128);
}

#define ONE_ENTRY(name, type, ...) [type] = one_##name,
#define FEW_ENTRY(name, type, ...) [type] = few_##name,
#define UNPACK_ENTRY(name, type, ...) [type] = unpack_##name,

const cpu_linear_kernels cpu_linear_avx512 = {
    .one = {INTEGERS(ONE_ENTRY)},
    .few_rows = FEW_ROWS,
    .few = {INTEGERS(FEW_ENTRY)},
    .unpack = {INTEGERS(UNPACK_ENTRY)},
    .many_panels = MANY_PANELS,
    .many = {[PACKED_Q8_0] = many_zero7, [PACKED_IQ4_NL] = many_zero7, [PACKED_Q4_0] = many_zero3, [PACKED_Q4_1] = many_min, [PACKED_Q4_K] = many_min,
             [PACKED_Q5_0] = many_zero4, [PACKED_Q5_1] = many_min, [PACKED_Q5_K] = many_min, [PACKED_Q2_K] = many_min16, [PACKED_Q3_K] = many_zero2_16,
             [PACKED_Q6_K] = many_zero5_16},
    .floats = {[PACKED_F32] = floats_f32, [PACKED_F16] = floats_f16, [PACKED_BF16] = floats_bf16},
    .floats_one = {[PACKED_F32] = floats_one_f32, [PACKED_F16] = floats_one_f16, [PACKED_BF16] = floats_one_bf16, [PACKED_F8] = floats_one_f8},
    .expand = {[PACKED_F8] = expand_f8},
    .quantise = cpu_quantise_avx512,
    .peak = peak,
};
