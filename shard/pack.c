/* shard/pack.c - blocks of a file taken apart once, into codes and scales, for both unpacking and packing.
 *
 * The block layouts are GGUF's (ggml's quantised types).  `parts` is the neutral form between the file's block and the packed
 * layout, whose byte order base/packed.c alone knows. */
#include "shard/pack.h"

#include <string.h>

#include "base/half.h"

enum { MAX_BLOCK = 256, MAX_GROUPS = 16, FLOAT_TILE = 256, HALF_UNIT = 16 };

typedef struct parts {
    uint8_t codes[MAX_BLOCK];                    /* before the format's zero is subtracted; 8-bit codes signed */
    uint16_t scale[MAX_GROUPS], min[MAX_GROUPS]; /* of each group: f16 bits or integers, as the packed format has them */
    uint16_t super_scale, super_min;             /* f16 bits */
} parts;

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* ---- one function for each block type: block -> parts ---- */

/* 16 bytes: low nibbles are elements 0..15, high nibbles 16..31. */
static void nibbles_32(const uint8_t *q, uint8_t *codes)
{
    for (int i = 0; i < 16; i++) {
        codes[i] = q[i] & 15;
        codes[i + 16] = q[i] >> 4;
    }
}

/* 4 bytes: the fifth bit of each of 32 codes. */
static void fifth_bits_32(const uint8_t *q, uint8_t *codes)
{
    for (int i = 0; i < 4; i++) { /* bit j of a byte to bit 4 of byte j of a word */
        uint64_t bits = q[i] * 0x0101010101010101u & 0x8040201008040201u, word;
        memcpy(&word, codes + 8 * i, 8);
        word |= (bits + 0x7f7f7f7f7f7f7f7fu) >> 3 & 0x1010101010101010u;
        memcpy(codes + 8 * i, &word, 8);
    }
}

static void take_q4_0(const uint8_t *b, parts *out) /* d, 16 bytes of nibbles */
{
    out->scale[0] = u16_at(b);
    nibbles_32(b + 2, out->codes);
}

static void take_q4_1(const uint8_t *b, parts *out) /* d, m, nibbles */
{
    out->scale[0] = u16_at(b);
    out->min[0] = u16_at(b + 2);
    nibbles_32(b + 4, out->codes);
}

static void take_q5_0(const uint8_t *b, parts *out) /* d, 4 bytes of fifth bits, nibbles */
{
    out->scale[0] = u16_at(b);
    nibbles_32(b + 6, out->codes);
    fifth_bits_32(b + 2, out->codes);
}

static void take_q5_1(const uint8_t *b, parts *out) /* d, m, fifth bits, nibbles */
{
    out->scale[0] = u16_at(b);
    out->min[0] = u16_at(b + 2);
    nibbles_32(b + 8, out->codes);
    fifth_bits_32(b + 4, out->codes);
}

static void take_q8_0(const uint8_t *b, parts *out) /* d, 32 signed bytes */
{
    out->scale[0] = u16_at(b);
    memcpy(out->codes, b + 2, 32);
}

/* 64 bytes: each half of 32 bytes covers 128 elements, bit pair j of byte i being element 32 j + i. */
static void bit_pairs_256(const uint8_t *q, uint8_t *codes)
{
    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 32; i++)
                codes[half * 128 + j * 32 + i] = q[half * 32 + i] >> (2 * j) & 3;
        }
    }
}

static void take_q2_k(const uint8_t *b, parts *out) /* 16 bytes scale | min << 4, bit pairs, d, dmin */
{
    for (int g = 0; g < 16; g++) {
        out->scale[g] = b[g] & 15;
        out->min[g] = b[g] >> 4;
    }
    bit_pairs_256(b + 16, out->codes);
    out->super_scale = u16_at(b + 80);
    out->super_min = u16_at(b + 82);
}

static void take_q3_k(const uint8_t *b, parts *out) /* 32 bytes of third bits, bit pairs, 12 bytes of 6-bit scales, d */
{
    bit_pairs_256(b + 32, out->codes);
    for (int j = 0; j < 8; j++) { /* bit j of byte i: element 32 j + i */
        for (int i = 0; i < 32; i++)
            out->codes[j * 32 + i] |= (uint8_t)((b[i] >> j & 1) << 2);
    }
    const uint8_t *s = b + 96; /* low nibbles in bytes 0..7, the upper two bits of each in bytes 8..11 */
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high = s[8 + g % 4] >> (2 * (g / 4)) & 3;
        out->scale[g] = (uint16_t)(int16_t)((low | high << 4) - 32);
    }
    out->super_scale = u16_at(b + 108);
}

/* 12 bytes: eight 6-bit scales and eight 6-bit minima. */
static void scales_k4(const uint8_t *s, parts *out)
{
    for (int g = 0; g < 4; g++) {
        out->scale[g] = s[g] & 63;
        out->min[g] = s[g + 4] & 63;
        out->scale[g + 4] = (uint16_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        out->min[g + 4] = (uint16_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

/* 128 bytes: each 32 bytes hold 64 elements, low nibbles first. */
static void nibbles_256(const uint8_t *q, uint8_t *codes)
{
    for (int j = 0; j < 4; j++) {
        for (int i = 0; i < 32; i++) {
            codes[j * 64 + i] = q[j * 32 + i] & 15;
            codes[j * 64 + 32 + i] = q[j * 32 + i] >> 4;
        }
    }
}

static void take_q4_k(const uint8_t *b, parts *out) /* d, dmin, scales, nibbles */
{
    out->super_scale = u16_at(b);
    out->super_min = u16_at(b + 2);
    scales_k4(b + 4, out);
    nibbles_256(b + 16, out->codes);
}

static void take_q5_k(const uint8_t *b, parts *out) /* d, dmin, scales, 32 bytes of fifth bits, nibbles */
{
    out->super_scale = u16_at(b);
    out->super_min = u16_at(b + 2);
    scales_k4(b + 4, out);
    nibbles_256(b + 48, out->codes);
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < 32; i++)
            out->codes[j * 32 + i] |= (uint8_t)((b[16 + i] >> j & 1) << 4);
    }
}

static void take_q6_k(const uint8_t *b, parts *out) /* 128 bytes low nibbles, 64 bytes upper bit pairs, 16 signed scales, d */
{
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = b + half * 64, *high = b + 128 + half * 32;
        uint8_t *codes = out->codes + half * 128;
        for (int i = 0; i < 32; i++) {
            codes[i] = (uint8_t)((low[i] & 15) | (high[i] & 3) << 4);
            codes[i + 32] = (uint8_t)((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
            codes[i + 64] = (uint8_t)(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
            codes[i + 96] = (uint8_t)(low[i + 32] >> 4 | (high[i] >> 6 & 3) << 4);
        }
    }
    for (int g = 0; g < 16; g++)
        out->scale[g] = (uint16_t)(int16_t)(int8_t)b[192 + g];
    out->super_scale = u16_at(b + 208);
}

typedef void (*take_fn)(const uint8_t *block, parts *out);

/* NULL: not a block type. */
static take_fn take_of(shard_dtype t)
{
    switch (t) {
    case SHARD_Q4_0:
    case SHARD_IQ4_NL:
        return take_q4_0;
    case SHARD_Q4_1:
        return take_q4_1;
    case SHARD_Q5_0:
        return take_q5_0;
    case SHARD_Q5_1:
        return take_q5_1;
    case SHARD_Q8_0:
        return take_q8_0;
    case SHARD_Q2_K:
        return take_q2_k;
    case SHARD_Q3_K:
        return take_q3_k;
    case SHARD_Q4_K:
        return take_q4_k;
    case SHARD_Q5_K:
        return take_q5_k;
    case SHARD_Q6_K:
        return take_q6_k;
    default:
        return NULL;
    }
}

static bool is_float(shard_dtype t)
{
    return t == SHARD_F32 || t == SHARD_F16 || t == SHARD_BF16 || t == SHARD_F64 || t == SHARD_F8_E4M3;
}

bool shard_pack_possible(shard_dtype from, packed_type to)
{
    if ((unsigned)to >= PACKED_TYPES)
        return false;
    if (to == PACKED_F8)
        return from == SHARD_F8_E4M3; /* nothing is rounded to so few bits */
    if (!packed_format_of(to)->integer)
        return is_float(from) || take_of(from) != NULL;
    return take_of(from) != NULL && shard_dtype_packed(from) == to;
}

/* ---- unpacking ---- */

/* What group g multiplies its codes by, and what it adds. */
static void group_scale(const packed_format *f, const parts *p, int g, float *scale, float *min)
{
    if (!packed_has_super(f)) {
        *scale = half_f16_to_f32(p->scale[g]);
        *min = half_f16_to_f32(p->min[g]);
        return;
    }
    *scale = half_f16_to_f32(p->super_scale) * (float)(int16_t)p->scale[g];
    *min = f->min == PACKED_SCALE_NONE ? 0 : -(half_f16_to_f32(p->super_min) * (float)p->min[g]);
}

/* Elements [begin, end) of a block. */
static void parts_to_f32(const packed_format *f, const parts *p, int32_t begin, int32_t end, float *out)
{
    for (int32_t i = begin; i < end;) {
        float scale, min;
        int32_t g = i / f->group, stop = (g + 1) * f->group < end ? (g + 1) * f->group : end;
        group_scale(f, p, g, &scale, &min);
        for (; i < stop; i++) {
            int code = f->codebook != NULL ? f->codebook[p->codes[i]] : f->bits == 8 ? (int8_t)p->codes[i] : p->codes[i] - f->zero;
            float v = scale * (float)code;
            *out++ = f->min == PACKED_SCALE_NONE ? v : v + min;
        }
    }
}

static void floats_to_f32(shard_dtype from, const uint8_t *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        double d;
        switch (from) {
        case SHARD_F32:
            memcpy(&out[i], src + 4 * i, 4);
            break;
        case SHARD_F16:
            out[i] = half_f16_to_f32(u16_at(src + 2 * i));
            break;
        case SHARD_BF16:
            out[i] = half_bf16_to_f32(u16_at(src + 2 * i));
            break;
        case SHARD_F8_E4M3:
            out[i] = half_e4m3_to_f32(src[i]);
            break;
        default:
            memcpy(&d, src + 8 * i, 8);
            out[i] = (float)d;
        }
    }
}

status shard_unpack_f32(shard_dtype from, const void *src, int32_t skip, int64_t n, float *out)
{
    take_fn take = take_of(from);
    if (take == NULL && !is_float(from))
        return FAIL(ST_UNSUPPORTED, "elements of type %s cannot be read as numbers", shard_dtype_name(from));
    if (n < 0 || skip < 0 || skip >= shard_dtype_block(from))
        return FAIL(ST_INVALID, "unpack %s: %lld elements after %d", shard_dtype_name(from), (long long)n, skip);
    if (take == NULL) {
        floats_to_f32(from, src, n, out);
        return ST_OK;
    }
    const packed_format *f = packed_format_of(shard_dtype_packed(from));
    int32_t block = shard_dtype_block(from);
    parts p = {0};
    for (const uint8_t *b = src; n > 0; b += shard_dtype_block_bytes(from), skip = 0) {
        int32_t end = n < block - skip ? skip + (int32_t)n : block;
        take(b, &p);
        parts_to_f32(f, &p, skip, end, out);
        out += end - skip;
        n -= end - skip;
    }
    return ST_OK;
}

/* ---- packing ---- */

/* A row of a block type into its own packed type.  In steps of 16, the smallest group: a slice may begin in the middle of what
 * was a unit of 32.  p: any parts of this type, or zeros. */
static void pack_codes(shard_dtype from, const uint8_t *src, int32_t skip, const packed_layout *l, int32_t row, void *matrix, parts *p)
{
    const packed_format *f = l->format;
    take_fn take = take_of(from);
    int32_t block = shard_dtype_block(from), block_bytes = shard_dtype_block_bytes(from), cols = l->shape.cols, at = skip;
    uint8_t unit[PACKED_UNIT];
    take(src, p);
    int32_t k = 0, groups = PACKED_UNIT / f->group, group = 0, of_block = at / f->group;
    for (; skip % PACKED_UNIT == 0 && cols - k >= PACKED_UNIT; k += PACKED_UNIT, at += PACKED_UNIT) { /* whole units of one block: nearly all of them, and a load's time */
        if (at == block) {
            take(src += block_bytes, p);
            at = of_block = 0;
        }
        if (packed_has_super(f) && (at == 0 || k == 0))
            packed_set_super(l, matrix, row, packed_super_of(l, group), p->super_scale, p->super_min);
        for (int32_t g = 0; g < groups; g++, group++, of_block++)
            packed_set_scale(l, matrix, row, group, p->scale[of_block], p->min[of_block]);
        packed_set_unit(l, matrix, row, k / PACKED_UNIT, p->codes + at);
    }
    for (; k < cols; k += HALF_UNIT, at += HALF_UNIT) {
        if (at == block) {
            take(src += block_bytes, p);
            at = 0;
        }
        if (packed_has_super(f) && (at == 0 || k == 0))
            packed_set_super(l, matrix, row, packed_super_of(l, k / f->group), p->super_scale, p->super_min);
        if (k % f->group == 0)
            packed_set_scale(l, matrix, row, k / f->group, p->scale[at / f->group], p->min[at / f->group]);
        if (k % PACKED_UNIT == 0)
            memset(unit, 0, sizeof(unit));
        memcpy(unit + k % PACKED_UNIT, p->codes + at, (size_t)(cols - k < HALF_UNIT ? cols - k : HALF_UNIT));
        if (k % PACKED_UNIT != 0 || k + HALF_UNIT >= cols)
            packed_set_unit(l, matrix, row, k / PACKED_UNIT, unit);
    }
}

/* n elements from f32 into the float format of l, at column k. */
static void pack_f32_tile(const packed_layout *l, const float *x, int32_t row, int32_t k, int32_t n, void *matrix)
{
    uint16_t h[FLOAT_TILE];
    if (l->shape.type == PACKED_F32) {
        packed_set_floats(l, matrix, row, k, n, x);
        return;
    }
    for (int32_t i = 0; i < n; i++)
        h[i] = l->shape.type == PACKED_BF16 ? half_f32_to_bf16(x[i]) : half_f32_to_f16(x[i]);
    packed_set_floats(l, matrix, row, k, n, h);
}

/* The scale of column k of row i of those that are packed. */
static float scale_at(const shard_scales *s, int32_t i, int32_t k)
{
    return s == NULL ? 1 : s->values[(s->row + i * s->row_step) / s->rows * s->stride + (s->col + k) / s->cols];
}

/* Row i of those that are packed. */
static status pack_f8(const uint8_t *src, const shard_scales *s, const packed_layout *l, int32_t i, int32_t row, void *matrix)
{
    int32_t cols = l->shape.cols;
    for (int32_t k = 0; k < cols; k++)
        if ((src[k] & 0x7f) == 0x7f)
            return FAIL(ST_FORMAT, "fp8: element %d of a row is not a number", k);
    packed_set_floats(l, matrix, row, 0, cols, src);
    for (int32_t super = 0; super < l->supers; super++) {
        int32_t k = super * PACKED_F8_SUPER - l->shape.phase;
        if (k < cols)
            packed_set_super_f32(l, matrix, row, super, scale_at(s, i, k > 0 ? k : 0));
    }
    return ST_OK;
}

/* A row of anything into a float format, tile by tile. */
static status pack_floats(shard_dtype from, const uint8_t *src, int32_t skip, const shard_scales *s, const packed_layout *l, int32_t i, int32_t row, void *matrix)
{
    int32_t block = shard_dtype_block(from), cols = l->shape.cols;
    if (l->shape.type == PACKED_F8)
        return pack_f8(src, s, l, i, row, matrix);
    if (shard_dtype_packed(from) == l->shape.type) {
        packed_set_floats(l, matrix, row, 0, cols, src);
        return ST_OK;
    }
    float x[FLOAT_TILE];
    for (int32_t k = 0; k < cols;) {
        int32_t n = cols - k < FLOAT_TILE - skip ? cols - k : FLOAT_TILE - skip; /* tiles end on block boundaries */
        TRY(shard_unpack_f32(from, src, skip, n, x));
        for (int32_t j = 0; s != NULL && j < n; j++)
            x[j] *= scale_at(s, i, k + j);
        pack_f32_tile(l, x, row, k, n, matrix);
        src += (size_t)(skip + n) / (size_t)block * (size_t)shard_dtype_block_bytes(from);
        k += n;
        skip = 0;
    }
    return ST_OK;
}

/* Blocks of scales begin where super-groups do. */
static bool scales_fit(shard_dtype from, const shard_scales *s, packed_shape shape)
{
    if (s == NULL)
        return true;
    bool whole = s->col >= 0 && s->col + shape.cols <= s->cols;
    return from == SHARD_F8_E4M3 && s->rows > 0 && s->cols > 0 && s->row >= 0 && s->col >= 0 && (whole || s->cols % PACKED_F8_SUPER == 0) &&
           (shape.type != PACKED_F8 || whole || s->col % PACKED_F8_SUPER == shape.phase);
}

status shard_pack_rows(shard_dtype from, const void *src, size_t stride, int32_t skip, const shard_scales *scales, packed_shape shape, int32_t row, int32_t n,
                       void *matrix)
{
    packed_layout l;
    if (!shard_pack_possible(from, shape.type))
        return FAIL(ST_UNSUPPORTED, "elements of type %s cannot be packed as %s exactly", shard_dtype_name(from),
                    (unsigned)shape.type < PACKED_TYPES ? packed_format_of(shape.type)->name : "?");
    if (!packed_layout_of(shape, &l) || row < 0 || n < 0 || n > shape.rows - row || skip < 0 || skip >= shard_dtype_block(from))
        return FAIL(ST_INVALID, "pack %s: rows %d + %d of a matrix [%d, %d], %d elements skipped", shard_dtype_name(from), row, n, shape.rows,
                    shape.cols, skip);
    const packed_format *f = l.format;
    if (!scales_fit(from, scales, shape))
        return FAIL(ST_INVALID, "pack %s: scales of %lld x %lld elements do not fit a slice that begins at column %lld (phase %d)", f->name, (long long)scales->rows,
                    (long long)scales->cols, (long long)scales->col, shape.phase);
    if (f->integer && (skip % f->group != 0 || (packed_has_super(f) && shape.phase != skip)))
        return FAIL(ST_INVALID, "pack %s: a slice that begins %d elements into a block (phase %d) cuts a group of %d", f->name, skip, shape.phase,
                    f->group);
    parts p = {0};
    for (int32_t i = 0; i < n; i++) {
        const uint8_t *from_row = (const uint8_t *)src + (size_t)i * stride;
        if (f->integer)
            pack_codes(from, from_row, skip, &l, row + i, matrix, &p);
        else
            TRY(pack_floats(from, from_row, skip, scales, &l, i, row + i, matrix));
    }
    return ST_OK;
}
