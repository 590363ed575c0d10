#include "base/packed.h"

#include <string.h>

#include "base/half.h"
#include "base/mem.h"

/* The values of IQ4_NL's sixteen codes, as the GGUF format defines them. */
static const int8_t iq4_nl_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static const packed_format formats[PACKED_TYPES] = {
    [PACKED_F32] = {"f32", .bits = 32, .group = 1},
    [PACKED_F16] = {"f16", .bits = 16, .group = 1},
    [PACKED_BF16] = {"bf16", .bits = 16, .group = 1},
    [PACKED_Q8_0] = {"q8_0", true, 8, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 0, NULL},
    [PACKED_Q4_0] = {"q4_0", true, 4, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 8, NULL},
    [PACKED_Q4_1] = {"q4_1", true, 4, 32, PACKED_SCALE_F16, PACKED_SCALE_F16, 0, NULL},
    [PACKED_Q5_0] = {"q5_0", true, 5, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 16, NULL},
    [PACKED_Q5_1] = {"q5_1", true, 5, 32, PACKED_SCALE_F16, PACKED_SCALE_F16, 0, NULL},
    [PACKED_Q2_K] = {"q2_k", true, 2, 16, PACKED_SCALE_U4, PACKED_SCALE_U4, 0, NULL, PACKED_SUPER},
    [PACKED_Q3_K] = {"q3_k", true, 3, 16, PACKED_SCALE_S8, PACKED_SCALE_NONE, 4, NULL, PACKED_SUPER},
    [PACKED_Q4_K] = {"q4_k", true, 4, 32, PACKED_SCALE_U8, PACKED_SCALE_U8, 0, NULL, PACKED_SUPER},
    [PACKED_Q5_K] = {"q5_k", true, 5, 32, PACKED_SCALE_U8, PACKED_SCALE_U8, 0, NULL, PACKED_SUPER},
    [PACKED_Q6_K] = {"q6_k", true, 6, 16, PACKED_SCALE_S8, PACKED_SCALE_NONE, 32, NULL, PACKED_SUPER},
    [PACKED_IQ4_NL] = {"iq4_nl", true, 4, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 0, iq4_nl_values},
    [PACKED_F8] = {"fp8", .bits = 8, .group = 1, .super = PACKED_F8_SUPER},
};

const packed_format *packed_format_of(packed_type type)
{
    return &formats[type];
}

packed_type packed_type_parse(const char *name)
{
    for (int t = 0; t < PACKED_TYPES; t++)
        if (strcmp(formats[t].name, name) == 0)
            return (packed_type)t;
    return PACKED_TYPES;
}

static int scale_bytes(packed_scale s) /* of one group and row */
{
    return s == PACKED_SCALE_NONE ? 0 : s == PACKED_SCALE_F16 ? 2 : 1;
}

/* Adds a plane of count * each bytes to *end, which stays a multiple of 64. */
static bool add_plane(size_t count, size_t each, size_t *end)
{
    size_t bytes;
    return mem_mul(count, each, &bytes) && mem_add(bytes, 63, &bytes) && mem_add(*end, bytes & ~(size_t)63, end);
}

bool packed_layout_of(packed_shape shape, packed_layout *out)
{
    if ((unsigned)shape.type >= PACKED_TYPES || shape.rows <= 0 || shape.cols <= 0 || shape.cols > INT32_MAX - 2 * PACKED_SUPER || shape.phase < 0)
        return false;
    const packed_format *f = &formats[shape.type];
    packed_layout l = {.format = f, .shape = shape};
    if (shape.phase % f->group != 0 || (shape.phase != 0 && shape.phase >= f->super))
        return false;
    int unit = f->integer ? PACKED_UNIT : 32 / f->bits; /* a vector of 64 bytes */
    l.panels = (int32_t)(((int64_t)shape.rows + PACKED_ROWS - 1) / PACKED_ROWS);
    l.units = (shape.cols + unit - 1) / unit;
    l.groups = f->integer ? l.units * (unit / f->group) : 0;
    l.supers = packed_has_super(f) ? (shape.phase + l.units * unit + f->super - 1) / f->super : 0;
    l.unit_bytes = (size_t)PACKED_ROWS * (size_t)unit * f->bits / 8;

    size_t end = 0, min_bytes = f->min == PACKED_SCALE_U4 ? 0 : (size_t)scale_bytes(f->min);
    if (!add_plane((size_t)l.units, l.unit_bytes, &end))
        return false;
    l.scale_offset = end;
    if (!add_plane((size_t)l.groups, PACKED_ROWS * (size_t)scale_bytes(f->scale), &end))
        return false;
    l.min_offset = end;
    if (!add_plane((size_t)l.groups, PACKED_ROWS * min_bytes, &end))
        return false;
    l.super_offset = end;
    if (!add_plane((size_t)l.supers, PACKED_ROWS * 2 * (f->min != PACKED_SCALE_NONE || !f->integer ? 2 : 1), &end))
        return false;
    l.panel_bytes = end;
    if (!mem_mul((size_t)l.panels, l.panel_bytes, &l.bytes))
        return false;
    *out = l;
    return true;
}

size_t packed_bytes(packed_shape shape)
{
    packed_layout l;
    return packed_layout_of(shape, &l) ? l.bytes : 0;
}

static char *panel_of(const packed_layout *l, const void *matrix, int32_t row)
{
    return (char *)(uintptr_t)matrix + (size_t)(row / PACKED_ROWS) * l->panel_bytes;
}

static inline size_t float_index(packed_type type, int32_t r, int32_t k)
{
    size_t pair = (size_t)(k / 2) * 2 * PACKED_ROWS;
    switch (type) {
    case PACKED_F32:
        return (size_t)k * PACKED_ROWS + (size_t)r;
    case PACKED_BF16:
        return pair + (size_t)r * 2 + (size_t)(k % 2);
    case PACKED_F8:
        return (size_t)k * PACKED_ROWS + (size_t)r;
    default:
        return pair + (size_t)(k % 2) * PACKED_ROWS + (size_t)r;
    }
}

/* Compiled for each type and element size, since loading spends its time here. */
static inline __attribute__((always_inline)) void set_floats(char *panel, packed_type type, size_t size, int32_t r, int32_t k, int32_t n,
                                                             const char *elements)
{
    for (int32_t i = 0; i < n; i++)
        memcpy(panel + float_index(type, r, k + i) * size, elements + (size_t)i * size, size);
}

void packed_set_floats(const packed_layout *l, void *matrix, int32_t row, int32_t k, int32_t n, const void *elements)
{
    char *panel = panel_of(l, matrix, row);
    if (l->shape.type == PACKED_F32)
        set_floats(panel, PACKED_F32, 4, row % PACKED_ROWS, k, n, elements);
    else if (l->shape.type == PACKED_BF16)
        set_floats(panel, PACKED_BF16, 2, row % PACKED_ROWS, k, n, elements);
    else if (l->shape.type == PACKED_F8)
        set_floats(panel, PACKED_F8, 1, row % PACKED_ROWS, k, n, elements);
    else
        set_floats(panel, PACKED_F16, 2, row % PACKED_ROWS, k, n, elements);
}

/* One row's word of vector `v` of a unit. */
static inline char *unit_word(const packed_layout *l, const void *matrix, int32_t row, int32_t unit, int v)
{
    return panel_of(l, matrix, row) + (size_t)unit * l->unit_bytes + (size_t)v * 64 + (size_t)(row % PACKED_ROWS) * 4;
}

static inline __attribute__((always_inline)) void set_unit(char *at, int bits, const uint8_t codes[PACKED_UNIT])
{
    uint32_t c[8], word[8] = {0};
    int low = bits >= 4 ? 4 : 2, low_words = bits == 8 ? 8 : low;
    if (bits == 4) { /* the same as below, without the words between: a load spends its time here */
        for (int v = 0; v < 4; v++) {
            uint64_t two;
            memcpy(&two, codes + 8 * v, 8);
            two &= 0x0f0f0f0f0f0f0f0fu;
            uint32_t both = (uint32_t)(two | two >> 28);
            memcpy(at + v * 64, &both, 4);
        }
        return;
    }
    memcpy(c, codes, sizeof(c));
    for (int i = 0; i < 8; i++) {
        if (bits == 8)
            word[i] = c[i];
        else if (low == 4)
            word[i / 2] |= (c[i] & 0x0f0f0f0fu) << (i % 2 * 4);
        else
            word[i / 4] |= (c[i] & 0x03030303u) << (i % 4 * 2);
        if (bits == low + 1)
            word[low_words] |= ((c[i] >> low) & 0x01010101u) << i;
        else if (bits == low + 2 && low == 4)
            word[low_words + i / 4] |= ((c[i] >> 4) & 0x03030303u) << (i % 4 * 2);
    }
    for (int v = 0; v < bits; v++) /* a plane of b bits is b vectors */
        memcpy(at + v * 64, &word[v], 4);
}

void packed_set_unit(const packed_layout *l, void *matrix, int32_t row, int32_t unit, const uint8_t codes[PACKED_UNIT])
{
    char *at = unit_word(l, matrix, row, unit, 0);
    switch (l->format->bits) { /* constants, so that each case unrolls: loading spends its time here */
    case 2:
        set_unit(at, 2, codes);
        return;
    case 3:
        set_unit(at, 3, codes);
        return;
    case 4:
        set_unit(at, 4, codes);
        return;
    case 5:
        set_unit(at, 5, codes);
        return;
    case 6:
        set_unit(at, 6, codes);
        return;
    default:
        set_unit(at, 8, codes);
    }
}

void packed_get_unit(const packed_layout *l, const void *matrix, int32_t row, int32_t unit, uint8_t codes[PACKED_UNIT])
{
    uint32_t c[8], word[8];
    int bits = l->format->bits, low = bits >= 4 ? 4 : 2, low_words = bits == 8 ? 8 : low;
    for (int v = 0; v < bits; v++)
        memcpy(&word[v], unit_word(l, matrix, row, unit, v), 4);
    for (int i = 0; i < 8; i++) {
        if (bits == 8)
            c[i] = word[i];
        else if (low == 4)
            c[i] = (word[i / 2] >> (i % 2 * 4)) & 0x0f0f0f0fu;
        else
            c[i] = (word[i / 4] >> (i % 4 * 2)) & 0x03030303u;
        if (bits == low + 1)
            c[i] |= ((word[low_words] >> i) & 0x01010101u) << low;
        else if (bits == low + 2 && low == 4)
            c[i] |= ((word[low_words + i / 4] >> (i % 4 * 2)) & 0x03030303u) << 4;
    }
    memcpy(codes, c, sizeof(c));
}

void packed_set_scale(const packed_layout *l, void *matrix, int32_t row, int32_t group, uint16_t scale, uint16_t min)
{
    const packed_format *f = l->format;
    char *panel = panel_of(l, matrix, row);
    size_t i = (size_t)group * PACKED_ROWS + (size_t)(row % PACKED_ROWS);
    if (f->scale == PACKED_SCALE_F16)
        memcpy(panel + l->scale_offset + i * 2, &scale, 2);
    else if (f->scale == PACKED_SCALE_U4)
        panel[l->scale_offset + i] = (char)((scale & 15) | (min & 15) << 4);
    else
        panel[l->scale_offset + i] = (char)scale;
    if (f->min == PACKED_SCALE_F16)
        memcpy(panel + l->min_offset + i * 2, &min, 2);
    else if (f->min == PACKED_SCALE_U8 || f->min == PACKED_SCALE_S8)
        panel[l->min_offset + i] = (char)min;
}

void packed_set_super(const packed_layout *l, void *matrix, int32_t row, int32_t super, uint16_t scale, uint16_t min)
{
    bool has_min = l->format->min != PACKED_SCALE_NONE;
    char *at = panel_of(l, matrix, row) + l->super_offset + (size_t)super * (has_min ? 64 : 32) + (size_t)(row % PACKED_ROWS) * 2;
    memcpy(at, &scale, 2);
    if (has_min)
        memcpy(at + 32, &min, 2);
}

static char *super_f32(const packed_layout *l, const void *matrix, int32_t row, int32_t super)
{
    return panel_of(l, matrix, row) + l->super_offset + ((size_t)super * PACKED_ROWS + (size_t)(row % PACKED_ROWS)) * sizeof(float);
}

void packed_set_super_f32(const packed_layout *l, void *matrix, int32_t row, int32_t super, float scale)
{
    memcpy(super_f32(l, matrix, row, super), &scale, sizeof(scale));
}

static float half_at(const char *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return half_f16_to_f32(h);
}

void packed_get_scale(const packed_layout *l, const void *matrix, int32_t row, int32_t group, float *scale, float *min)
{
    const packed_format *f = l->format;
    const char *panel = panel_of(l, matrix, row);
    size_t i = (size_t)group * PACKED_ROWS + (size_t)(row % PACKED_ROWS);
    *min = 0;
    if (!f->integer) {
        memcpy(scale, super_f32(l, matrix, row, packed_super_of(l, group)), sizeof(*scale));
        return;
    }
    if (f->scale == PACKED_SCALE_F16) {
        *scale = half_at(panel + l->scale_offset + i * 2);
        if (f->min == PACKED_SCALE_F16)
            *min = half_at(panel + l->min_offset + i * 2);
        return;
    }
    bool has_min = f->min != PACKED_SCALE_NONE;
    const char *super = panel + l->super_offset + (size_t)packed_super_of(l, group) * (has_min ? 64 : 32) + (size_t)(row % PACKED_ROWS) * 2;
    uint8_t s = (uint8_t)panel[l->scale_offset + i];
    if (f->scale == PACKED_SCALE_S8)
        *scale = half_at(super) * (float)(int8_t)s;
    else
        *scale = half_at(super) * (float)(f->scale == PACKED_SCALE_U4 ? s & 15 : s);
    if (f->min == PACKED_SCALE_U4)
        *min = -(half_at(super + 32) * (float)(s >> 4));
    else if (f->min == PACKED_SCALE_U8)
        *min = -(half_at(super + 32) * (float)(uint8_t)panel[l->min_offset + i]);
}

static float code_value(const packed_format *f, uint8_t code)
{
    if (f->codebook != NULL)
        return (float)f->codebook[code];
    return f->bits == 8 ? (float)((int8_t)code - f->zero) : (float)(code - f->zero);
}

static void dequantise_integers(const packed_layout *l, const void *matrix, int32_t row, int32_t k0, int32_t n, float *out)
{
    const packed_format *f = l->format;
    uint8_t codes[PACKED_UNIT];
    int32_t unit = -1, group = -1;
    float scale = 0, min = 0;
    for (int32_t k = k0; k < k0 + n; k++) {
        if (k / PACKED_UNIT != unit)
            packed_get_unit(l, matrix, row, unit = k / PACKED_UNIT, codes);
        if (k / f->group != group)
            packed_get_scale(l, matrix, row, group = k / f->group, &scale, &min);
        float v = scale * code_value(f, codes[k % PACKED_UNIT]);
        out[k - k0] = f->min != PACKED_SCALE_NONE ? v + min : v;
    }
}

void packed_dequantise(packed_shape shape, const void *matrix, int32_t row, int32_t k0, int32_t n, float *out)
{
    packed_layout l;
    if (!packed_layout_of(shape, &l))
        return;
    if (l.format->integer) {
        dequantise_integers(&l, matrix, row, k0, n, out);
        return;
    }
    const char *panel = panel_of(&l, matrix, row);
    for (int32_t k = k0; k < k0 + n; k++) {
        size_t i = float_index(shape.type, row % PACKED_ROWS, k);
        uint16_t h;
        if (shape.type == PACKED_F32) {
            memcpy(&out[k - k0], panel + i * 4, 4);
            continue;
        }
        if (shape.type == PACKED_F8) {
            float scale, min;
            packed_get_scale(&l, matrix, row, k, &scale, &min);
            out[k - k0] = half_e4m3_to_f32((uint8_t)panel[i]) * scale;
            continue;
        }
        memcpy(&h, panel + i * 2, 2);
        out[k - k0] = shape.type == PACKED_BF16 ? half_bf16_to_f32(h) : half_f16_to_f32(h);
    }
}
