/* shard/pack.h - from a file's elements to the packed formats, without requantising.
 *
 * Any float or block type unpacks to f32, f16 (rounding), bf16 (rounding); a block type packs bit for bit into its own
 * packed type (the packed values, dequantised, equal the file's dequantised values exactly).  Eight-bit floats (e4m3) pack as they are, with the scales that a file
 * keeps beside them: one for the tensor, for each row, or for each block of rows and columns. */
#ifndef SHARD_PACK_H
#define SHARD_PACK_H

#include <stdint.h>

#include "base/packed.h"
#include "base/status.h"
#include "shard/dtype.h"

/* Scales are smaller: the largest code (448) times one is a number then, and so is 256 times one, which kernels multiply by. */
#define SHARD_F8_SCALE_LIMIT 0x1p119f

/* What the elements of an fp8 tensor are multiplied by: element (r, c) by values[(r / rows) * stride + c / cols].  NULL: 1. */
typedef struct shard_scales {
    const float *values;
    int64_t rows, cols, stride; /* cols: a multiple of PACKED_F8_SUPER, or all there are */
    int64_t row, row_step, col; /* place in the tensor of the first element given, and from row to row */
} shard_scales;

/* Whether `from` can be packed as `to`. */
bool shard_pack_possible(shard_dtype from, packed_type to);

/* Packs n source rows into rows [row, row + n) of the packed matrix `matrix` (packed_bytes(shape) bytes, zeroed before
 * its first rows are packed).  Source row i starts at (char *)src + i * stride, at the block that holds the first wanted
 * element; `skip` elements of that block come before it (0 for plain types); shape.cols elements are taken.  A block type
 * into its own packed type needs skip to be a multiple of the group and, for types with super-scales, shape.phase == skip.
 * Rows of different calls may be packed by different threads if they lie in different panels of 16.  scales: of SHARD_F8_E4M3 only; NaN is refused there. */
status shard_pack_rows(shard_dtype from, const void *src, size_t stride, int32_t skip, const shard_scales *scales, packed_shape shape, int32_t row, int32_t n,
                       void *matrix);

/* n elements of one row to f32: the reference for every type (skip as above; fp8 without its scales). */
status shard_unpack_f32(shard_dtype from, const void *src, int32_t skip, int64_t n, float *out);

#endif
