/* ops/cpu/linear_amx.c - the products with AMX tiles, for many rows; the rest of the level is AVX-512's.
 *
 * Integers: tile A = 16 rows of x times one group of k (32 or 16 bytes), as it lies in the quantised rows; tile B = the group of a panel as it lies unpacked
 * (a row for each 4 k, 16 outputs of 4 bytes); tile C = their exact dots, scaled and added by AVX-512.  Rows short of 16 take the AVX-512 kernel: the same bits.
 * bf16: the tile instruction adds 32 k in its own order, so every number of rows takes this path, and x is rounded to bf16. */
#include "ops/cpu/linear_avx512.h"

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

/* Group `at` of the tile for 16 rows of x that start at xr: dots of all rows and outputs.  Even and odd groups use different registers. */
INLINE void group_dots(int group, const cpu_tile *tile, int32_t at, const char *codes, size_t stride, int32_t dots[TILE_ROWS][PACKED_ROWS])
{
    const uint8_t *w = tile->codes + (size_t)at * (size_t)group * PACKED_ROWS;
    if (at % 2 == 0) {
        _tile_zero(0);
        _tile_loadd(2, codes, stride);
        _tile_loadd(4, w, 64);
        _tile_dpbsud(0, 2, 4);
        _tile_stored(0, dots, 64);
    } else {
        _tile_zero(1);
        _tile_loadd(3, codes, stride);
        _tile_loadd(5, w, 64);
        _tile_dpbsud(1, 3, 5);
        _tile_stored(1, dots, 64);
    }
}

INLINE void rows_units(kind k, const cpu_tile *tile, int32_t unit, int32_t n_units, const cpu_q8_view *x, int32_t row, cpu_acc *acc)
{
    _Alignas(64) int32_t dots[2][TILE_ROWS][PACKED_ROWS];
    const char *x0 = x->rows + (size_t)row * x->stride;
    const int per_unit = PACKED_UNIT / k.group;
    source s = {.scale = (const char *)tile->scale, .min = (const char *)tile->min};
    __m512 a[TILE_ROWS];
    for (int r = 0; r < TILE_ROWS; r++)
        a[r] = _mm512_loadu_ps(acc[r]);
    int32_t n_groups = n_units * per_unit;
    group_dots(k.group, tile, 0, x0 + (size_t)unit * PACKED_UNIT, x->stride, dots[0]);
    for (int32_t g = 0; g < n_groups; g++) {
        size_t group = (size_t)unit * (size_t)per_unit + (size_t)g, xg = group * 4, xu = group / (size_t)per_unit * 4;
        if (g + 1 < n_groups) /* the tiles work on the next group while this one is scaled */
            group_dots(k.group, tile, g + 1, x0 + (group + 1) * (size_t)k.group, x->stride, dots[(g + 1) % 2]);
        __m512 ws = group_scale(k, &s, g), wm = k.has_min ? group_min(k, &s, g) : ws;
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++) {
            const char *xr = x0 + (size_t)r * x->stride;
            __m512i dot = _mm512_loadu_si512(dots[g % 2][r]);
            if (k.zero_shift >= 0)
                dot = _mm512_add_epi32(dot, _mm512_set1_epi32(zero_term(k, x, xr, xg)));
            a[r] = add_group(k, x, xr, xu, xg, dot, ws, wm, a[r]);
        }
    }
    for (int r = 0; r < TILE_ROWS; r++)
        _mm512_storeu_ps(acc[r], a[r]);
}

INLINE void many_template(kind k, const packed_layout *l, const cpu_tile *tile, int32_t unit, int32_t n_units, const cpu_q8_view *x, int32_t row, int32_t n_rows,
                          cpu_acc *acc)
{
    int32_t r = 0;
    if (n_rows >= TILE_ROWS) {
        configure(TILE_ROWS, k.group);
        for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
            rows_units(k, tile, unit, n_units, x, row + r, acc + r);
        _tile_release();
    }
    if (r < n_rows)
        cpu_linear_avx512.many[l->shape.type](l, tile, unit, n_units, x, row + r, n_rows - r, acc + r);
}

#define DEFINE_TILE(name, group, zero, has_min)                                                                                               \
    static void many_##name(const packed_layout *l, const cpu_tile *tile, int32_t unit, int32_t n_units, const cpu_q8_view *x, int32_t row,  \
                            int32_t n_rows, cpu_acc *acc)                                                                                    \
    {                                                                                                                                        \
        many_template((kind){8, group, zero, has_min, false, true, PACKED_SCALE_NONE}, l, tile, unit, n_units, x, row, n_rows, acc);         \
    }
TILES(DEFINE_TILE)

static void one(const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)
{
    cpu_linear_avx512.one[l->shape.type](l, panel, n_panels, x, acc);
}

static void unpack(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)
{
    cpu_linear_avx512.unpack[l->shape.type](l, panel, unit, n_units, tile);
}

static void floats(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    cpu_linear_avx512.floats[l->shape.type](l, panel, k0, k1, x, x_stride, n_rows, acc);
}

/* Of a block that was expanded too, whatever its panel's type is. */
static void floats_f32(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    cpu_linear_avx512.floats[PACKED_F32](l, panel, k0, k1, x, x_stride, n_rows, acc);
}

static void expand(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out)
{
    cpu_linear_avx512.expand[l->shape.type](l, panel, k0, k1, out);
}

static void floats_one(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    cpu_linear_avx512.floats_one[l->shape.type](l, panel, n_panels, x, acc);
}

/* ---- bf16 ---- */

#define BF16_K 32 /* k of one tile */

/* A block of rows against all k; the last k, short of a tile, are padded with zeros. */
static void bf16_rows(const packed_layout *l, const char *panel, const char *x, size_t x_stride, int n_rows, cpu_acc *acc)
{
    int32_t cols = l->shape.cols, full = cols / BF16_K, left = cols % BF16_K;
    _tile_zero(0);
    for (int32_t i = 0; i < full; i++) {
        const char *xi = x + (size_t)i * BF16_K * 2, *wi = panel + (size_t)i * BF16_K * PACKED_ROWS * 2;
        if (i % 2 == 0) {
            _tile_loadd(2, xi, x_stride);
            _tile_loadd(4, wi, 64);
            _tile_dpbf16ps(0, 2, 4);
        } else {
            _tile_loadd(3, xi, x_stride);
            _tile_loadd(5, wi, 64);
            _tile_dpbf16ps(0, 3, 5);
        }
    }
    if (left != 0) {
        _Alignas(64) char xt[TILE_ROWS][64] = {{0}}, wt[BF16_K / 2][64] = {{0}};
        for (int r = 0; r < n_rows; r++)
            memcpy(xt[r], x + (size_t)r * x_stride + (size_t)full * BF16_K * 2, (size_t)left * 2);
        memcpy(wt, panel + (size_t)full * BF16_K * PACKED_ROWS * 2, (size_t)(left + 1) / 2 * 64);
        MEMORY_IS_READ();
        _tile_loadd(2, xt, 64);
        _tile_loadd(4, wt, 64);
        _tile_dpbf16ps(0, 2, 4);
    }
    _tile_stored(0, acc, sizeof(*acc));
}

static void bf16(const packed_layout *l, const char *panel, const uint16_t *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    for (int32_t r = 0; r < n_rows;) {
        int n = n_rows - r < TILE_ROWS ? (int)(n_rows - r) : TILE_ROWS;
        configure(n, 64);
        do {
            bf16_rows(l, panel, (const char *)x + (size_t)r * x_stride, x_stride, n, acc + r);
            r += n;
        } while (r + n <= n_rows);
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
            _tile_dpbsud(0, 4, 5);
            _tile_dpbsud(1, 4, 5);
            _tile_dpbsud(2, 4, 5);
            _tile_dpbsud(3, 4, 5);
        }
    }
    _tile_release();
    return rounds * 4 * TILE_ROWS * PACKED_ROWS * (what == CPU_PEAK_BF16 ? 64 : 128);
}

#define ONE_ENTRY(name, type, ...) [type] = one,
#define UNPACK_ENTRY(name, type, ...) [type] = unpack,

const cpu_linear_kernels cpu_linear_amx = {
    .one = {INTEGERS(ONE_ENTRY)},
    .unpack = {INTEGERS(UNPACK_ENTRY)},
    .many = MANY_TABLE,
    .floats = {[PACKED_F32] = floats_f32, [PACKED_F16] = floats, [PACKED_BF16] = floats},
    .floats_one = {[PACKED_F32] = floats_one, [PACKED_F16] = floats_one, [PACKED_BF16] = floats_one},
    .expand = {[PACKED_F8] = expand},
    .bf16 = bf16,
    .quantise = cpu_quantise_avx512,
    .peak = peak,
};
