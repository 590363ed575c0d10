/* base/packed.h - the packed weight formats: what a byte of a weight means, on disk and in memory.
 *
 * The one layout for all instruction sets.  A matrix [rows, cols] (rows = outputs, cols = inputs, "k") is cut
 * into panels of 16 rows; inside a panel k advances in chunks of 4 bytes a row, so one 64-byte vector holds
 * 16 rows x 4 bytes: 4 k of an 8-bit format (VNNI and AMX order), 2 k of bf16/f16 (pairs), 1 k of f32.
 * Rows are padded to 16 and cols to the format's group with codes that contribute nothing.
 *
 * Integer formats are one family: value = scale * (code - zero) + min, or scale * codebook[code], where
 *   bits   2 3 4 5 6 8  stored as planes: 8 | 4 | 4+1 | 4+2 | 2 | 2+1 bits
 *   group  16 or 32 k share one scale (and one minimum)
 *   scale  f16 a group, or an integer sub-scale (signed or unsigned 8 bit, 4 bit) times an f16 super-scale a super-group of 256
 *   min    none, f16 a group, or an integer sub-minimum (same width) times an f16 super-minimum, subtracted
 * so that every GGUF type imports without requantising.  packed.c documents each plane's byte order. */
#ifndef BASE_PACKED_H
#define BASE_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED_ROWS 16
#define PACKED_SUPER 256 /* k covered by one super-scale */

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
    PACKED_TYPES
} packed_type;

typedef enum packed_scale { PACKED_SCALE_NONE, PACKED_SCALE_F16, PACKED_SCALE_S8, PACKED_SCALE_U8, PACKED_SCALE_U4 } packed_scale;

typedef struct packed_format {
    const char *name;    /* "q4_1": used in plans, manifests, --help */
    bool integer;        /* else f32, f16, bf16 */
    uint8_t bits;
    uint8_t group;       /* k per scale; 1 for the float types */
    packed_scale scale;
    packed_scale min;
    int16_t zero;        /* subtracted from codes */
    const int8_t *codebook; /* 16 entries or NULL */
} packed_format;

const packed_format *packed_format_of(packed_type type);
/* PACKED_TYPES if no such name. */
packed_type packed_type_parse(const char *name);

/* The shape of one packed matrix.  phase: how many k lie between the start of the super-group that the first
 * column belongs to and that column (a column slice that starts inside a super-group; a multiple of the group,
 * 0 where formats have no super-scale). */
typedef struct packed_shape {
    packed_type type;
    int32_t rows, cols; /* logical; cols counts what is kept, the lead of a cut group included */
    int32_t phase;
} packed_shape;

/* Where the planes of a matrix lie, in bytes from its start (all 64-byte aligned). */
typedef struct packed_layout {
    int32_t panels;              /* ceil(rows / 16) */
    int32_t groups;              /* groups along k after padding */
    int32_t supers;              /* super-groups touched, 0 if the format has none */
    size_t code_offset, code_panel_bytes;   /* codes: [panel][group][...] */
    size_t scale_offset, scale_panel_bytes; /* scales and sub-scales: [panel][group][16 rows ...] */
    size_t min_offset, min_panel_bytes;
    size_t super_offset, super_panel_bytes; /* f16 super-scales (and super-minima): [panel][super][...] */
    size_t bytes;                /* of the whole matrix */
} packed_layout;

/* false if the shape is impossible (negative, or sizes overflow). */
bool packed_layout_of(packed_shape shape, packed_layout *out);
size_t packed_bytes(packed_shape shape); /* 0 if impossible */

/* Scalar reference: row r, k in [k0, k0 + n) of a packed matrix to f32. */
void packed_dequantise(packed_shape shape, const void *matrix, int32_t row, int32_t k0, int32_t n, float *out);

#endif
