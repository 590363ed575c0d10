/* ops/cpu/linear_amx.c - the products with AMX tiles, for more than one row; the rest of the level is AVX-512's.
 *
 * Integers: tile A = up to 16 rows of x times one group of k (32 or 16 bytes), as it lies in the quantised rows; tile B = the group of a panel unpacked to
 * signed bytes, the zero point taken off (a row for each 4 k, 16 outputs of 4 bytes); tile C = their exact dots, scaled and added by AVX-512.
 * bf16: the tile instruction adds 32 k in its own order, so every number of rows takes this path, and x is rounded to bf16. */
#include "ops/cpu/linear_avx512.h"
#include "ops/cpu/linear_avx512_rest.h"

#ifdef CPU_EMULATE
#include "ops/cpu/emulate_tiles.h"
#endif

#define TILE_ROWS 16

/* The intrinsics do not tell the compiler how much memory a tile load or a configuration reads. */
#define MEMORY_IS_READ() __asm__ volatile("" ::: "memory")

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "the instruction reads 64 bytes");

/* Tiles 0, 1 C; 2, 3 A; 4, 5 B: two steps are in flight. */
static void configure(int rows, int k_bytes)
{
    _Alignas(64) tile_config c = {.palette = 1};
    for (int i = 0; i < 2; i++) {
        c.rows[i] = c.rows[2 + i] = (uint8_t)rows;
        c.bytes[i] = c.bytes[4 + i] = 64;
        c.bytes[2 + i] = (uint16_t)k_bytes;
        c.rows[4 + i] = (uint8_t)(k_bytes / 4);
    }
    MEMORY_IS_READ();
    _tile_loadconfig(&c);
}

/* Codes as signed bytes, so that the dots need no term for the zero point. */
INLINE void unpack_signed(kind k, const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)
{
    source s = packed_source(l, panel, unit, k);
    const __m512i zero = _mm512_set1_epi8(k.zero_shift < 0 ? 0 : (char)(1 << k.zero_shift));
    for (int32_t u = 0; u < n_units; u++) {
        const uint8_t *from = s.codes + (size_t)u * (size_t)k.bits * 64;
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++) {
            __m512i v = k.bits == 8 ? _mm512_loadu_si512(from + c * 64) : chunk_codes(k, &s, from, c);
            _mm512_storeu_si512(tile->codes + (size_t)(u * 8 + c) * 64, k.bits == 8 || k.zero_shift < 0 ? v : _mm512_sub_epi8(v, zero));
        }
    }
    unpack_scales(k, &s, n_units, tile);
}

/* Group `at` of the tile for the rows of x that start at xr: dots of all rows and outputs.  Even and odd groups use different registers. */
INLINE void group_dots(int group, const cpu_tile *tile, int32_t at, const char *codes, size_t stride, int32_t dots[TILE_ROWS][PACKED_ROWS])
{
    const uint8_t *w = tile->codes + (size_t)at * (size_t)group * PACKED_ROWS;
    if (at % 2 == 0) {
        _tile_zero(0);
        _tile_loadd(2, codes, stride);
        _tile_loadd(4, w, 64);
        _tile_dpbssd(0, 2, 4);
        _tile_stored(0, dots, 64);
    } else {
        _tile_zero(1);
        _tile_loadd(3, codes, stride);
        _tile_loadd(5, w, 64);
        _tile_dpbssd(1, 3, 5);
        _tile_stored(1, dots, 64);
    }
}

/* n_rows: a constant or not, at most 16, as the tiles are configured for.  The sums are or will be written as rows out_row ... of
 * ahead->out; with each unit `ahead_bytes` of codes are fetched. */
INLINE void rows_units(kind k, const cpu_tile *tile, int32_t unit, int32_t n_units, const cpu_ahead *ahead, size_t ahead_bytes, const cpu_q8_view *x, int32_t row, int n_rows,
                       cpu_acc *acc, int32_t out_row)
{
    _Alignas(64) int32_t dots[2][TILE_ROWS][PACKED_ROWS];
    const char *x0 = x->rows + (size_t)row * x->stride;
    const int per_unit = PACKED_UNIT / k.group;
    source s = {.scale = (const char *)tile->scale, .min = (const char *)tile->min};
    __m512 a[TILE_ROWS]; /* of 16 rows the sums stay in registers */
    const bool whole = n_rows == TILE_ROWS;
    for (int r = 0; whole && r < TILE_ROWS; r++)
        a[r] = unit == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(acc[r]);
    if (!whole && unit == 0)
        memset(acc, 0, (size_t)n_rows * sizeof(*acc));
    for (int r = 0; r < n_rows; r++)
        cpu_fetch_out(ahead, out_row + r);
    int32_t n_groups = n_units * per_unit;
    group_dots(k.group, tile, 0, x0 + (size_t)unit * PACKED_UNIT, x->stride, dots[0]);
    for (int32_t g = 0; g < n_groups; g++) {
        size_t group = (size_t)unit * (size_t)per_unit + (size_t)g, xg = group * 4, xu = group / (size_t)per_unit * 4;
        if (g + 1 < n_groups) /* the tiles work on the next group while this one is scaled */
            group_dots(k.group, tile, g + 1, x0 + (group + 1) * (size_t)k.group, x->stride, dots[(g + 1) % 2]);
        if (ahead_bytes > 0 && g % per_unit == 0)
            cpu_fetch(ahead, g / per_unit, ahead_bytes);
        __m512 ws = group_scale(k, &s, g), wm = k.has_min ? group_min(k, &s, g) : ws;
        if (whole) {
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; r++)
                a[r] = add_group(k, x, x0 + (size_t)r * x->stride, xu, xg, _mm512_load_si512(dots[g % 2][r]), ws, wm, a[r]);
        } else {
            for (int r = 0; r < n_rows; r++)
                _mm512_storeu_ps(acc[r], add_group(k, x, x0 + (size_t)r * x->stride, xu, xg, _mm512_load_si512(dots[g % 2][r]), ws, wm, _mm512_loadu_ps(acc[r])));
        }
    }
    for (int r = 0; r < n_rows; r++)
        _mm512_storeu_ps(cpu_sums_to(ahead, out_row + r, acc[r]), whole ? a[r] : _mm512_loadu_ps(acc[r]));
}

INLINE void many_template(kind k, const packed_layout *l, const cpu_tile *tile, int32_t unit, int32_t n_units, const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row,
                          int32_t n_rows, cpu_acc *acc)
{
    const size_t bytes = l->unit_bytes; /* by the first rows alone */
    int32_t r = 0;
    if (n_rows >= TILE_ROWS) {
        configure(TILE_ROWS, k.group);
        for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
            rows_units(k, tile, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, TILE_ROWS, acc + r, r);
    }
    if (r < n_rows) {
        configure(n_rows - r, k.group);
        rows_units(k, tile, unit, n_units, ahead, r == 0 ? bytes : 0, x, row + r, n_rows - r, acc + r, r);
    }
    _tile_release();
}

#define DEFINE_UNPACK(name, type, bits, group, zero, has_min, codebook, scale)                                                               \
    static void unpack_##name(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)                      \
    {                                                                                                                                        \
        unpack_signed((kind){bits, group, zero, has_min, codebook, false, scale}, l, panel, unit, n_units, tile);                            \
    }
INTEGERS(DEFINE_UNPACK)

#define DEFINE_TILE(name, group, has_min)                                                                                                     \
    static void many_##name(const packed_layout *l, const cpu_tile *tile, int32_t n_panels, int32_t unit, int32_t n_units,                   \
                            const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc)                         \
    {                                                                                                                                        \
        (void)n_panels;                                                                                                                      \
        many_template((kind){8, group, -1, has_min, false, true, PACKED_SCALE_NONE}, l, tile, unit, n_units, ahead, x, row, n_rows, acc);    \
    }
DEFINE_TILE(32, 32, false)
DEFINE_TILE(32_min, 32, true)
DEFINE_TILE(16, 16, false)
DEFINE_TILE(16_min, 16, true)

/* ---- bf16 ---- */

#define BF16_K 32 /* k of one tile */

/* Tiles 0 to 3 C, of panel p and block b of rows 2 p + b; 4, 5 A by block; 6, 7 B by panel.  Up to four sums are under way at once: each waits some 50 cycles for itself. */
static void configure_bf16(int rows0, int rows1)
{
    _Alignas(64) tile_config c = {.palette = 1};
    const int rows[8] = {rows0, rows1, rows0, rows1, rows0, rows1, BF16_K / 2, BF16_K / 2};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = (uint8_t)rows[i];
        c.bytes[i] = rows[i] > 0 ? 64 : 0;
    }
    MEMORY_IS_READ();
    _tile_loadconfig(&c);
}

/* 32 k of one or two panels against one or two blocks of rows. */
INLINE void bf16_step(int n_panels, int n_blocks, const char *w, size_t w_step, const char *x0, const char *x1, size_t x_stride)
{
    _tile_loadd(4, x0, x_stride);
    _tile_loadd(6, w, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (n_panels > 1) {
        _tile_loadd(7, w + w_step, 64);
        _tile_dpbf16ps(2, 4, 7);
    }
    if (n_blocks > 1) {
        _tile_loadd(5, x1, x_stride);
        _tile_dpbf16ps(1, 5, 6);
        if (n_panels > 1)
            _tile_dpbf16ps(3, 5, 7);
    }
}

/* All k; the last, short of a tile, are padded with zeros. */
INLINE void bf16_blocks(int n_panels, int n_blocks, const packed_layout *l, const char *panel, const char *x, size_t x_stride, int n_rows, cpu_acc *acc, size_t acc_step)
{
    const int32_t cols = l->shape.cols, full = cols / BF16_K, left = cols % BF16_K;
    const char *x1 = x + TILE_ROWS * x_stride;
    _tile_zero(0);
    if (n_blocks > 1)
        _tile_zero(1);
    if (n_panels > 1)
        _tile_zero(2);
    if (n_panels > 1 && n_blocks > 1)
        _tile_zero(3);
    for (int32_t i = 0; i < full; i++)
        bf16_step(n_panels, n_blocks, panel + (size_t)i * BF16_K * PACKED_ROWS * 2, l->panel_bytes, x + (size_t)i * BF16_K * 2, x1 + (size_t)i * BF16_K * 2, x_stride);
    if (left != 0) {
        _Alignas(64) char xt[2 * TILE_ROWS][64] = {{0}}, wt[2][BF16_K / 2][64] = {{{0}}};
        for (int r = 0; r < n_rows; r++)
            memcpy(xt[r], x + (size_t)r * x_stride + (size_t)full * BF16_K * 2, (size_t)left * 2);
        for (int p = 0; p < n_panels; p++)
            memcpy(wt[p], panel + (size_t)p * l->panel_bytes + (size_t)full * BF16_K * PACKED_ROWS * 2, (size_t)(left + 1) / 2 * 64);
        MEMORY_IS_READ();
        bf16_step(n_panels, n_blocks, wt[0][0], sizeof(wt[0]), xt[0], xt[TILE_ROWS], 64);
    }
    _tile_stored(0, acc, sizeof(*acc));
    if (n_blocks > 1)
        _tile_stored(1, acc + TILE_ROWS, sizeof(*acc));
    if (n_panels > 1)
        _tile_stored(2, acc + acc_step, sizeof(*acc));
    if (n_panels > 1 && n_blocks > 1)
        _tile_stored(3, acc + acc_step + TILE_ROWS, sizeof(*acc));
}

static void bf16(const packed_layout *l, const char *panel, int32_t n_panels, const uint16_t *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    int32_t configured = 0;
    for (int32_t r = 0; r < n_rows; r += 2 * TILE_ROWS) {
        int32_t n = n_rows - r < 2 * TILE_ROWS ? n_rows - r : 2 * TILE_ROWS;
        const char *at = (const char *)x + (size_t)r * x_stride;
        if (n != configured)
            configure_bf16(n < TILE_ROWS ? n : TILE_ROWS, n > TILE_ROWS ? n - TILE_ROWS : 0);
        configured = n;
        if (n_panels == 1 && n <= TILE_ROWS)
            bf16_blocks(1, 1, l, panel, at, x_stride, n, acc + r, 0);
        else if (n_panels == 1)
            bf16_blocks(1, 2, l, panel, at, x_stride, n, acc + r, 0);
        else if (n <= TILE_ROWS)
            bf16_blocks(2, 1, l, panel, at, x_stride, n, acc + r, (size_t)n_rows);
        else
            bf16_blocks(2, 2, l, panel, at, x_stride, n, acc + r, (size_t)n_rows);
    }
    _tile_release();
}

/* Four tiles of sums hide the latency of one; the kernels load each operand too. */
static int64_t peak(cpu_peak what, int64_t rounds)
{
    if (what == CPU_PEAK_F32)
        return cpu_linear_avx512.peak(what, rounds);
    _Alignas(64) tile_config c = {.palette = 1};
    for (int i = 0; i < 6; i++) {
        c.rows[i] = TILE_ROWS;
        c.bytes[i] = 64;
    }
    MEMORY_IS_READ();
    _tile_loadconfig(&c);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t n = 0; n < rounds; n++) {
        if (what == CPU_PEAK_BF16) {
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 5);
            _tile_dpbf16ps(2, 4, 5);
            _tile_dpbf16ps(3, 4, 5);
        } else {
            _tile_dpbssd(0, 4, 5);
            _tile_dpbssd(1, 4, 5);
            _tile_dpbssd(2, 4, 5);
            _tile_dpbssd(3, 4, 5);
        }
    }
    _tile_release();
    return rounds * 4 * TILE_ROWS * PACKED_ROWS * (what == CPU_PEAK_BF16 ? 64 : 128);
}

#define UNPACK_ENTRY(name, type, ...) [type] = unpack_##name,

const cpu_linear_kernels cpu_linear_amx = {
    REST_OF_AVX512,
    .unpack = {INTEGERS(UNPACK_ENTRY)},
    .many_panels = 1,
    .many = {[PACKED_Q8_0] = many_32, [PACKED_IQ4_NL] = many_32, [PACKED_Q4_0] = many_32, [PACKED_Q4_1] = many_32_min, [PACKED_Q4_K] = many_32_min, [PACKED_Q5_0] = many_32,
             [PACKED_Q5_1] = many_32_min, [PACKED_Q5_K] = many_32_min, [PACKED_Q2_K] = many_16_min, [PACKED_Q3_K] = many_16, [PACKED_Q6_K] = many_16},
    .bf16 = bf16,
    .peak = peak,
};
