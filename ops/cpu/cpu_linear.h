/* ops/cpu/cpu_linear.h - the kernels of the products: what one instruction set provides.
 *
 * A kernel computes one panel of 16 outputs (packed.h) for some rows of x; linear.c cuts a product into such pieces.
 * Outputs lie in the lanes, so no lane is ever summed with another, and every level computes, for output o and row r:
 *
 *   floats     acc = 0;  for k = 0, 1, 2 ...:  acc = fma(x[k], w[k], acc)                      w expanded to f32 (fp8: times its scale, rounded)
 *   integers   acc = 0;  for each group g of the weight's 16 or 32 k, in order:
 *                  idot = sum over the group of (code - zero) * xcode                          exact, in integers
 *                  acc  = fma((float)idot, ws * xs, acc)                                        |idot| < 2^24: the conversion is exact
 *                  acc  = fma(wm, xm, acc)                                                      only where the format has minima
 *              with ws the group's scale and wm its minimum as f32 (packed_get_scale; an integer sub-scale times its super-scale is exact),
 *              xs the scale of the 32 codes of x that hold the group, xm = xs * (float)(sum of the group's xcodes), rounded, kept in the row
 *
 * whatever the number of rows: hence the same bits from every level, alone or in a batch.  The one exception is bf16 weights where the machine multiplies bf16,
 * by pairs or by tiles: the instruction fixes the order (2 or 32 k at a time), and there every batch size takes that path. */
#ifndef OPS_CPU_CPU_LINEAR_H
#define OPS_CPU_CPU_LINEAR_H

#include "ops/cpu/cpu_internal.h"

/* OPS_Q8 rows, and where a row's planes lie (bytes from its start). */
typedef struct cpu_q8_view {
    const char *rows;
    size_t stride;
    size_t scale, sum32, scaled32, sum16, scaled16;
} cpu_q8_view;

static inline cpu_q8_view cpu_q8_view_of(const void *rows, size_t stride, int32_t cols)
{
    size_t k = cpu_q8_padded(cols), g = k / 32 * 4;
    return (cpu_q8_view){(const char *)rows, stride, k, k + g, k + 2 * g, k + 3 * g, k + 5 * g};
}

/* Some units of one panel, unpacked to what the level's many-row kernel reads: a byte a code in the order of packed.h's 8-bit plane (signed or unsigned
 * as the level likes), f32 scales and minima. */
#define CPU_TILE_UNITS 16
typedef struct cpu_tile {
    _Alignas(64) uint8_t codes[CPU_TILE_UNITS * PACKED_UNIT * PACKED_ROWS];
    float scale[CPU_TILE_UNITS * 2][PACKED_ROWS]; /* by group */
    union {
        float min[CPU_TILE_UNITS * 2][PACKED_ROWS];
        int32_t negative[CPU_TILE_UNITS * 2][PACKED_ROWS];
    };
    /* AVX2, of signed codes: all bits of a byte where a code is negative.  `codes` are magnitudes then, and `negative` the sum by group of those of negative codes. */
    _Alignas(64) uint8_t signs[CPU_TILE_UNITS * PACKED_UNIT * PACKED_ROWS];
} cpu_tile;

/* What is fetched ahead of its use.  With each unit of weights that come from memory, further than the hardware looks: the codes so many units on, at a panel's end
 * those that the next one begins with, and the next one's scales and minima, which lie behind its codes.  And the lines that the sums of rows go to, each far from
 * the others. */
typedef struct cpu_ahead {
    const char *codes, *next, *side;
    int32_t near; /* units whose codes ahead are of this panel */
    size_t side_bytes; /* a unit */
    const char *out; /* NULL, or where the first row's sums will be written; from row to row so many bytes: */
    size_t out_stride;
    bool direct;     /* by the kernel itself (PACKED_ROWS of them a row), not through acc */
} cpu_ahead;

/* Of what lies behind a panel's codes, bytes for each unit. */
static inline size_t cpu_side_bytes(const packed_layout *l)
{
    return l->units > 0 ? (l->panel_bytes - l->scale_offset) / (size_t)l->units : 0;
}

static inline cpu_ahead cpu_ahead_of(const packed_layout *l, const char *panel, size_t bytes)
{
    int32_t units = (int32_t)(bytes / l->unit_bytes);
    const char *next = panel + l->panel_bytes; /* behind the last panel: memory may be fetched that nobody has */
    return (cpu_ahead){.codes = panel + (size_t)units * l->unit_bytes,
                       .next = next,
                       .side = next + l->scale_offset,
                       .near = l->units > units ? l->units - units : 0,
                       .side_bytes = cpu_side_bytes(l)};
}

/* Of n_units from `unit` on of a panel, which are computed: codes of as many (at `codes`), and their part of what lies behind the codes of the panel at `next`. */
static inline cpu_ahead cpu_ahead_block(const packed_layout *l, const char *codes, const char *next, int32_t unit, int32_t n_units)
{
    size_t each = cpu_side_bytes(l);
    return (cpu_ahead){.codes = codes, .side = next + l->scale_offset + (size_t)unit * each, .near = n_units, .side_bytes = each};
}

/* Of row r's sums. */
static inline __attribute__((always_inline)) void cpu_fetch_out(const cpu_ahead *a, int32_t r)
{
    if (a->out != NULL)
        __builtin_prefetch(a->out + (size_t)r * a->out_stride, 1);
}

/* Where a kernel leaves row r's sums, whose place in acc is `sums`. */
static inline __attribute__((always_inline)) float *cpu_sums_to(const cpu_ahead *a, int32_t r, float *sums)
{
    return a->direct ? (float *)(uintptr_t)(a->out + (size_t)r * a->out_stride) : sums;
}

static inline __attribute__((always_inline)) void cpu_fetch(const cpu_ahead *a, int32_t unit, size_t unit_bytes)
{
    const char *at = unit < a->near ? a->codes + (size_t)unit * unit_bytes : a->next + (size_t)(unit - a->near) * unit_bytes;
#pragma GCC unroll 8
    for (size_t b = 0; b < unit_bytes; b += 64)
        __builtin_prefetch(at + b);
    if (a->side_bytes > 0)
        __builtin_prefetch(a->side + (size_t)unit * a->side_bytes);
}

/* A case for each number of rows that a kernel takes at once, so that each has a loop of its own. */
#define CPU_ROWS_6(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#define CPU_ROWS_12(CASE) CPU_ROWS_6(CASE) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)

/* acc[r][0..15]: the sums of row r; the kernels of floats continue from what is there, except those said to begin at zero; those of integers begin at zero with unit 0. */
typedef float cpu_acc[PACKED_ROWS];

/* One row of x against n_panels panels that follow one another (integers). */
typedef void (*cpu_one_fn)(const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc);
/* n_rows (2 to few_rows) rows of x from row `row` on against one panel, begun at zero: unpacked on the way, since memory decides how long it takes. */
typedef void (*cpu_few_fn)(const packed_layout *l, const char *panel, const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc);
typedef void (*cpu_unpack_fn)(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile);
/* Rows [row, row + n_rows) of x against units [unit, unit + n_units) of one panel or more, at most many_panels, each unpacked in a tile; the first panel's rows in
 * acc, then the second's, or where ahead says so.  ahead, of each panel: what will be unpacked next, which is fetched meanwhile. */
typedef void (*cpu_many_fn)(const packed_layout *l, const cpu_tile *tile, int32_t n_panels, int32_t unit, int32_t n_units, const cpu_ahead *ahead,
                            const cpu_q8_view *x, int32_t row, int32_t n_rows, cpu_acc *acc);

/* k in [k0, k1) (k0 even) of a panel of floats, of whose type the function is (l may be another's, whose block was expanded); x: f32 rows, x_stride bytes apart, the first element is k = 0. */
typedef void (*cpu_floats_fn)(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc);
/* One row against n_panels panels, begun at zero. */
typedef void (*cpu_floats_one_fn)(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc);
/* k in [k0, k1) of a panel of f16, bf16 or fp8 as a panel of f32, from its start on. */
typedef void (*cpu_expand_fn)(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, float *out);
/* Rounds of the instructions that multiply, on registers alone, as the kernels chain them: how many operations that were (a multiply-add is two).  What bounds them. */
typedef enum cpu_peak { CPU_PEAK_CODES4, CPU_PEAK_CODES8, CPU_PEAK_F32, CPU_PEAK_BF16, CPU_PEAKS } cpu_peak;
typedef int64_t (*cpu_peak_fn)(cpu_peak what, int64_t rounds);
/* One or two panels of bf16 against bf16 rows, all k, begun at zero: the first panel's rows in acc, then the second's. */
typedef void (*cpu_bf16_fn)(const packed_layout *l, const char *panel, int32_t n_panels, const uint16_t *x, size_t x_stride, int32_t n_rows, cpu_acc *acc);

struct cpu_linear_kernels {
    cpu_one_fn one[PACKED_TYPES];       /* of the integer types */
    int32_t few_rows;                   /* 0: unpacked first, however few the rows */
    cpu_few_fn few[PACKED_TYPES];
    cpu_unpack_fn unpack[PACKED_TYPES];
    int32_t many_panels;                /* 1, or 2 where a number of x that was read once should be multiplied by both */
    cpu_many_fn many[PACKED_TYPES];
    cpu_floats_fn floats[PACKED_TYPES]; /* of the float types; NULL: expanded first, however few the rows */
    cpu_floats_one_fn floats_one[PACKED_TYPES];
    cpu_expand_fn expand[PACKED_TYPES]; /* NULL: expanding first gains nothing */
    cpu_bf16_fn bf16;                   /* NULL: bf16 weights take f32 rows */
    void (*quantise)(const float *x, int32_t cols, void *row);
    cpu_peak_fn peak;                   /* NULL: not known */
};

extern const cpu_linear_kernels cpu_linear_c, cpu_linear_avx2, cpu_linear_avx512, cpu_linear_avx512bf16, cpu_linear_amx;

/* linear_quantise.c, compiled for each level. */
void cpu_quantise_c(const float *x, int32_t cols, void *row);
void cpu_quantise_avx2(const float *x, int32_t cols, void *row);
void cpu_quantise_avx512(const float *x, int32_t cols, void *row);

/* Of fp8: where the super-group of column k ends, k1 at most. */
static inline int32_t cpu_f8_end(const packed_layout *l, int32_t k, int32_t k1)
{
    int32_t end = (packed_super_of(l, k) + 1) * PACKED_F8_SUPER - l->shape.phase;
    return end < k1 ? end : k1;
}

/* Weight codes are multiplied as bytes.  Where they are signed (8 bits, codebook values) a kernel for unsigned codes adds 128 and takes it back as a zero point. */
static inline bool cpu_codes_signed(const packed_format *f)
{
    return f->bits == 8 || f->codebook != NULL;
}

#endif
