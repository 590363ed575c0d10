/* base/packed.h - the packed weight formats: what a byte of a weight means, on disk and in memory.
 *
 * The one layout for all instruction sets.  A matrix [rows, cols] (rows = outputs, cols = inputs, "k") is cut
 * into panels of 16 rows; inside a panel k advances in chunks of 4 bytes a row, so one 64-byte vector holds
 * 16 rows x 4 bytes: 4 k of an 8-bit format (VNNI and AMX order), 2 k of bf16 (pairs), 1 k of f32.
 * Rows are padded to 16 and cols to the format's unit with zero codes under zero scales: they contribute nothing.
 *
 * Integer formats are one family: value = scale * (code - zero) + min, or scale * codebook[code], where
 *   bits   2 3 4 5 6 8  stored as planes: 8 | 4 | 4+1 | 4+2 | 2 | 2+1 bits
 *   group  16 or 32 k share one scale (and one minimum)
 *   scale  f16 a group, or an integer sub-scale (signed or unsigned 8 bit, 4 bit) times an f16 super-scale a super-group of 256
 *   min    none, f16 a group, or an integer sub-minimum (same width) times an f16 super-minimum, subtracted
 * so that every GGUF type imports without requantising.
 *
 * Bytes.  A panel is contiguous (a slice of rows at a multiple of 16 is one block of bytes) and starts at a multiple
 * of 64; its planes follow one another, each padded to 64:  codes | scales | minima | supers.  r = row in the panel.
 *
 *   floats     PACKED_F32   [k][r] f32                     unit: 1 k
 *              PACKED_BF16  [k / 2][r][k % 2]              unit: 2 k (pairs, as the dot-product instructions take them)
 *              PACKED_F16   [k / 2][k % 2][r]              unit: 2 k (a vector of rows converts at once)
 *              PACKED_F8    [k][r] e4m3 (base/half.h)      unit: 4 k; each times the f32 super-scale of its super-group of 128
 *   integers   a unit is 32 k whatever the group.  With k = 4 * chunk + b inside the unit (chunk 0..7, b 0..3) a vector is
 *              64 bytes at [r][b], and the unit's vectors are
 *     8 bits   8: vector chunk holds the signed code
 *     4 bits   4: vector j holds chunk 2j in its low and chunk 2j + 1 in its high nibbles
 *     4+1      the 4 of the low nibbles, then 1: bit `chunk` of a byte is the code's bit 4
 *     4+2      the 4 of the low nibbles, then 2: vector chunk / 4 holds bits 4 and 5 at 2 * (chunk % 4)
 *     2 bits   2: vector chunk / 4 holds the code at 2 * (chunk % 4)
 *     2+1      the 2 of the low two bits, then 1: bit `chunk` of a byte is the code's bit 2
 *   scales     F16 [group][r] u16; S8, U8 [group][r] one byte; U4 [group][r] one byte: scale low nibble, minimum high nibble
 *   minima     as scales (none for U4: they share its bytes)
 *   supers     [super][r] f16, or with a minimum [super][2][r]: 16 super-scales, then 16 super-minima; of PACKED_F8 [super][r] f32
 * Writers use the functions below and need to know none of it. */
#ifndef BASE_PACKED_H
#define BASE_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED_ROWS 16
#define PACKED_UNIT 32   /* k of one unit of an integer format */
#define PACKED_SUPER 256 /* k covered by one super-scale of an integer format */
#define PACKED_F8_SUPER 128

typedef enum packed_type {
    PACKED_F32,
    PACKED_F16,
    PACKED_BF16,
    PACKED_Q8_0,   /* 8 bit, group 32, f16 scale (signed codes) */
    PACKED_Q4_0,
    PACKED_Q4_1,
    PACKED_Q5_0,
    PACKED_Q5_1,
    PACKED_Q2_K,
    PACKED_Q3_K,
    PACKED_Q4_K,
    PACKED_Q5_K,
    PACKED_Q6_K,
    PACKED_IQ4_NL, /* 4 bit codes into a table of 16 signed bytes */
    PACKED_F8,     /* e4m3 bytes */
    PACKED_TYPES
} packed_type;

typedef enum packed_scale { PACKED_SCALE_NONE, PACKED_SCALE_F16, PACKED_SCALE_S8, PACKED_SCALE_U8, PACKED_SCALE_U4 } packed_scale;

typedef struct packed_format {
    const char *name;    /* "q4_1": used in plans, manifests, --help */
    bool integer;        /* else f32, f16, bf16, fp8 */
    uint8_t bits;
    uint8_t group;       /* k per scale; 1 for the float types */
    packed_scale scale;
    packed_scale min;
    int16_t zero;        /* subtracted from codes */
    const int8_t *codebook; /* 16 entries or NULL */
    int16_t super;       /* k per super-scale, 0: none */
} packed_format;

const packed_format *packed_format_of(packed_type type);
/* PACKED_TYPES if no such name. */
packed_type packed_type_parse(const char *name);
static inline bool packed_has_super(const packed_format *f)
{
    return f->super != 0;
}

/* The shape of one packed matrix.  phase: how many k lie between the start of the super-group that the first
 * column belongs to and that column (a column slice that starts inside a super-group; a multiple of the group,
 * 0 where formats have no super-scale). */
typedef struct packed_shape {
    packed_type type;
    int32_t rows, cols; /* logical; cols counts what is kept, the lead of a cut group included */
    int32_t phase;
} packed_shape;

/* Where the planes of a matrix lie: plane X of panel p starts at p * panel_bytes + X_offset (all multiples of 64). */
typedef struct packed_layout {
    const packed_format *format;
    packed_shape shape;
    int32_t panels; /* ceil(rows / 16) */
    int32_t units;  /* units of k, the last one padded */
    int32_t groups; /* groups along k, padding included: units * unit / group */
    int32_t supers; /* super-groups touched, 0 if the format has none */
    size_t unit_bytes; /* codes of one unit of a panel */
    size_t scale_offset, min_offset, super_offset; /* codes are at 0 */
    size_t panel_bytes;
    size_t bytes;   /* of the whole matrix */
} packed_layout;

/* false if the shape is impossible (not positive, a bad phase, or sizes overflow). */
bool packed_layout_of(packed_shape shape, packed_layout *out);
size_t packed_bytes(packed_shape shape); /* 0 if impossible */

/* The super-group that group g lies in. */
static inline int32_t packed_super_of(const packed_layout *l, int32_t group)
{
    return (l->shape.phase + group * l->format->group) / l->format->super;
}

/* ---- writing (into zeroed memory; rows of different panels may be written by different threads) ---- */

/* n elements of one row as the type stores them (uint32_t for f32, uint16_t for f16 and bf16, a byte for fp8), from column k on. */
void packed_set_floats(const packed_layout *l, void *matrix, int32_t row, int32_t k, int32_t n, const void *elements);
/* The 32 codes of one unit of one row: unsigned codes, or for 8-bit formats the bytes of the signed ones.  Codes past the last column: 0. */
void packed_set_unit(const packed_layout *l, void *matrix, int32_t row, int32_t unit, const uint8_t codes[PACKED_UNIT]);
/* The scale of one group of one row, and its minimum where the format has one: f16 bits, or the integer (S8: its byte). */
void packed_set_scale(const packed_layout *l, void *matrix, int32_t row, int32_t group, uint16_t scale, uint16_t min);
/* f16 bits of the super-scale, and of the super-minimum where the format has minima. */
void packed_set_super(const packed_layout *l, void *matrix, int32_t row, int32_t super, uint16_t scale, uint16_t min);
/* Of PACKED_F8. */
void packed_set_super_f32(const packed_layout *l, void *matrix, int32_t row, int32_t super, float scale);

/* ---- reading: the scalar reference that every kernel is tested against ---- */

void packed_get_unit(const packed_layout *l, const void *matrix, int32_t row, int32_t unit, uint8_t codes[PACKED_UNIT]);
/* The f32 factor of (code - zero), or of an fp8 value, in a group of a row, and what is added (0 where there is no minimum). */
void packed_get_scale(const packed_layout *l, const void *matrix, int32_t row, int32_t group, float *scale, float *min);
/* Row r, k in [k0, k0 + n) to f32: (code - zero) * scale, or fp8 * scale, rounded, then + min. */
void packed_dequantise(packed_shape shape, const void *matrix, int32_t row, int32_t k0, int32_t n, float *out);

#endif
