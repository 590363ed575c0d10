/* ops/cpu/linear_c.c - the products in plain C: the definition that the other levels must equal bit for bit. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "ops/cpu/cpu_linear.h"

static void unpack(const packed_layout *l, const char *panel, int32_t unit, int32_t n_units, cpu_tile *tile)
{
    const packed_format *f = l->format;
    int32_t per_unit = PACKED_UNIT / f->group;
    for (int32_t r = 0; r < PACKED_ROWS; r++) {
        for (int32_t u = 0; u < n_units; u++) {
            uint8_t codes[PACKED_UNIT];
            packed_get_unit(l, panel, r, unit + u, codes);
            for (int k = 0; k < PACKED_UNIT; k++) {
                uint8_t c = f->codebook != NULL ? (uint8_t)f->codebook[codes[k]] : codes[k];
                tile->codes[(u * 8 + k / 4) * 64 + r * 4 + k % 4] = c;
            }
        }
        for (int32_t g = 0; g < n_units * per_unit; g++)
            packed_get_scale(l, panel, r, unit * per_unit + g, &tile->scale[g][r], &tile->min[g][r]);
    }
}

/* One group of one output: its codes lie 64 bytes apart, four at a time. */
static int32_t group_dot(const uint8_t *w, const int8_t *x, int chunks, bool is_signed)
{
    int32_t dot = 0;
    for (int c = 0; c < chunks; c++)
        for (int b = 0; b < 4; b++)
            dot += (is_signed ? (int8_t)w[c * 64 + b] : w[c * 64 + b]) * x[c * 4 + b];
    return dot;
}

static void many(const packed_layout *l, const cpu_tile *tile, int32_t n_panels, int32_t unit, int32_t n_units, const cpu_ahead *ahead, const cpu_q8_view *x, int32_t row,
                 int32_t n_rows, cpu_acc *acc)
{
    (void)n_panels;
    const packed_format *f = l->format;
    int32_t group = f->group, per_unit = PACKED_UNIT / group;
    bool is_signed = cpu_codes_signed(f), has_min = f->min != PACKED_SCALE_NONE;
    for (int32_t r = 0; r < n_rows; r++) {
        if (unit == 0)
            memset(acc[r], 0, sizeof(*acc));
        const char *xr = x->rows + (size_t)(row + r) * x->stride;
        const float *xs = (const float *)(const void *)(xr + x->scale);
        const float *xm = (const float *)(const void *)(xr + (group == 32 ? x->scaled32 : x->scaled16));
        const int32_t *sum = (const int32_t *)(const void *)(xr + (group == 32 ? x->sum32 : x->sum16));
        for (int32_t g = 0; g < n_units * per_unit; g++) {
            int32_t xg = unit * per_unit + g;
            const int8_t *codes = (const int8_t *)xr + (size_t)xg * (size_t)group;
            for (int o = 0; o < PACKED_ROWS; o++) {
                int32_t dot = group_dot(tile->codes + (size_t)g * (size_t)group * PACKED_ROWS + o * 4, codes, group / 4, is_signed) - f->zero * sum[xg];
                acc[r][o] = fmaf((float)dot, tile->scale[g][o] * xs[xg / per_unit], acc[r][o]);
                if (has_min)
                    acc[r][o] = fmaf(tile->min[g][o], xm[xg], acc[r][o]);
            }
        }
        if (ahead->direct)
            memcpy(cpu_sums_to(ahead, r, acc[r]), acc[r], sizeof(*acc));
    }
}

static void one(const packed_layout *l, const char *panel, int32_t n_panels, const cpu_q8_view *x, cpu_acc *acc)
{
    const cpu_ahead ahead = {0};
    cpu_tile tile;
    for (int32_t p = 0; p < n_panels; p++) {
        for (int32_t u = 0; u < l->units; u += CPU_TILE_UNITS) {
            int32_t n = l->units - u < CPU_TILE_UNITS ? l->units - u : CPU_TILE_UNITS;
            unpack(l, panel + (size_t)p * l->panel_bytes, u, n, &tile);
            many(l, &tile, 1, u, n, &ahead, x, 0, 1, &acc[p]);
        }
    }
}

static float float_at(const packed_layout *l, const char *panel, int32_t k, int o)
{
    const uint16_t *h = (const uint16_t *)(const void *)panel + k / 2 * 2 * PACKED_ROWS;
    float scale, min;
    switch (l->shape.type) {
    case PACKED_F32:
        return ((const float *)(const void *)panel)[k * PACKED_ROWS + o];
    case PACKED_F8:
        packed_get_scale(l, panel, o, k, &scale, &min);
        return half_e4m3_to_f32((uint8_t)panel[k * PACKED_ROWS + o]) * scale;
    case PACKED_BF16:
        return half_bf16_to_f32(h[o * 2 + k % 2]);
    default:
        return half_f16_to_f32(h[k % 2 * PACKED_ROWS + o]);
    }
}

static void floats(const packed_layout *l, const char *panel, int32_t k0, int32_t k1, const float *x, size_t x_stride, int32_t n_rows, cpu_acc *acc)
{
    for (int32_t k = k0; k < k1; k++) {
        float w[PACKED_ROWS];
        for (int o = 0; o < PACKED_ROWS; o++)
            w[o] = float_at(l, panel, k, o);
        for (int32_t r = 0; r < n_rows; r++) {
            float xk = ((const float *)(const void *)((const char *)x + (size_t)r * x_stride))[k];
            for (int o = 0; o < PACKED_ROWS; o++)
                acc[r][o] = fmaf(xk, w[o], acc[r][o]);
        }
    }
}

static void floats_one(const packed_layout *l, const char *panel, int32_t n_panels, const float *x, cpu_acc *acc)
{
    memset(acc, 0, (size_t)n_panels * sizeof(*acc));
    for (int32_t p = 0; p < n_panels; p++)
        floats(l, panel + (size_t)p * l->panel_bytes, 0, l->shape.cols, x, 0, 1, &acc[p]);
}

#define EACH_INTEGER(x)                                                                                                                                      \
    [PACKED_Q8_0] = x, [PACKED_Q4_0] = x, [PACKED_Q4_1] = x, [PACKED_Q5_0] = x, [PACKED_Q5_1] = x, [PACKED_Q2_K] = x, [PACKED_Q3_K] = x, [PACKED_Q4_K] = x,   \
    [PACKED_Q5_K] = x, [PACKED_Q6_K] = x, [PACKED_IQ4_NL] = x
#define EACH_FLOAT(x) [PACKED_F32] = x, [PACKED_F16] = x, [PACKED_BF16] = x, [PACKED_F8] = x

const cpu_linear_kernels cpu_linear_c = {
    .one = {EACH_INTEGER(one)},
    .unpack = {EACH_INTEGER(unpack)},
    .many_panels = 1,
    .many = {EACH_INTEGER(many)},
    .floats = {EACH_FLOAT(floats)},
    .floats_one = {EACH_FLOAT(floats_one)},
    .quantise = cpu_quantise_c,
};
