/* ops/cpu/linear_avx512bf16.c - the products of bf16 weights where AVX-512 multiplies pairs of bf16; the rest of the level is AVX-512's.
 *
 * vdpbf16ps adds a pair's second product to each output's sum, then its first, each addition rounded to nearest even, subnormals taken as zero (Intel's manual; AMD's Zen 5 gives the
 * same bits).  Pairs follow one another along k whatever the number of rows, so every number of rows takes this path, and x is rounded to bf16. */
#include "ops/cpu/linear_avx512.h"
#include "ops/cpu/linear_avx512_rest.h"

#define BLOCK_ROWS 12 /* times two panels: 24 sums at once */
#define PREFETCH 4096 /* weights of few rows come from memory, further ahead than the hardware looks */

INLINE __m512i broadcast_pair(const char *x)
{
    uint32_t pair;
    memcpy(&pair, x, sizeof(pair));
    return _mm512_set1_epi32((int)pair);
}

INLINE __m512 add_pair(__m512 acc, __m512i w, __m512i x)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x);
}

INLINE void block(const packed_layout *l, const char *panel, int n_panels, const char *x, size_t x_stride, int n_rows, cpu_acc *acc, size_t acc_step)
{
    __m512 a[2][BLOCK_ROWS];
    const int32_t pairs = l->shape.cols / 2;
    for (int p = 0; p < n_panels; p++)
        for (int r = 0; r < n_rows; r++)
            a[p][r] = _mm512_setzero_ps();
    for (int32_t i = 0; i < pairs; i++) {
        __m512i w[2];
        for (int p = 0; p < n_panels; p++) {
            const char *at = panel + (size_t)p * l->panel_bytes + (size_t)i * 64;
            _mm_prefetch(at + PREFETCH, _MM_HINT_T0);
            w[p] = _mm512_loadu_si512(at);
        }
        for (int r = 0; r < n_rows; r++) {
            __m512i both = broadcast_pair(x + (size_t)r * x_stride + (size_t)i * 4);
            for (int p = 0; p < n_panels; p++)
                a[p][r] = add_pair(a[p][r], w[p], both);
        }
    }
    if (l->shape.cols % 2 != 0) { /* beside the last column is padding: zero in the panel, anything in the row */
        for (int r = 0; r < n_rows; r++) {
            uint16_t last;
            memcpy(&last, x + (size_t)r * x_stride + (size_t)pairs * 4, sizeof(last));
            for (int p = 0; p < n_panels; p++)
                a[p][r] = add_pair(a[p][r], _mm512_loadu_si512(panel + (size_t)p * l->panel_bytes + (size_t)pairs * 64), _mm512_set1_epi32(last));
        }
    }
    for (int p = 0; p < n_panels; p++)
        for (int r = 0; r < n_rows; r++)
            _mm512_storeu_ps(acc[(size_t)p * acc_step + (size_t)r], a[p][r]);
}

#define CASE(n)                                                                  \
    case n:                                                                      \
        if (n_panels == 2)                                                       \
            block(l, panel, 2, x, x_stride, n, acc, acc_step);                   \
        else                                                                     \
            block(l, panel, 1, x, x_stride, n, acc, acc_step);                   \
        break;

/* At most BLOCK_ROWS rows, however many: a loop for each number. */
static void rows(const packed_layout *l, const char *panel, int32_t n_panels, const char *x, size_t x_stride, int32_t n_rows, cpu_acc *acc, size_t acc_step)
{
    switch (n_rows) {
        CPU_ROWS_12(CASE)
    }
}

static void bf16(const packed_layout *l, const char *panel, int32_t n_panels, const uint16_t *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    const char *from = (const char *)x;
    for (int32_t r = 0; r < n_rows; r += BLOCK_ROWS) {
        int32_t n = n_rows - r < BLOCK_ROWS ? n_rows - r : BLOCK_ROWS;
        rows(l, panel, n_panels, from + (size_t)r * x_stride, x_stride, n, acc + r, (size_t)n_rows);
    }
}

static void unpack(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)
{
    cpu_linear_avx512.unpack[l->shape.type](l, panel, unit, n_units, tile);
}

static void many(const packed_layout *l, const cpu_tile *tile, int32_t n_panels, int32_t unit, int32_t n_units, const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row,
                 int32_t n_rows, cpu_acc *acc)
{
    cpu_linear_avx512.many[l->shape.type](l, tile, n_panels, unit, n_units, ahead, x, row, n_rows, acc);
}

static int64_t peak(cpu_peak what, int64_t rounds)
{
    if (what != CPU_PEAK_BF16)
        return cpu_linear_avx512.peak(what, rounds);
    const __m512i w = _mm512_set1_epi32(0x3f003f00);
    __m512 z = _mm512_setzero_ps(), sums[12] = {z, z, z, z, z, z, z, z, z, z, z, z};
    for (int64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
            sums[i] = add_pair(sums[i], w, w);
            KEEP(sums[i]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++)
        WANTED(sums[i]);
    return rounds * 12 * 64;
}

#define UNPACK(name, type, ...) [type] = unpack,
#define MANY(name, type, ...) [type] = many,

const cpu_linear_kernels cpu_linear_avx512bf16 = {
    REST_OF_AVX512,
    .unpack = {INTEGERS(UNPACK)},
    .many_panels = MANY_PANELS,
    .many = {INTEGERS(MANY)},
    .bf16 = bf16,
    .peak = peak,
};
