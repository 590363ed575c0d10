/* shard/pack.h - from a file's elements to the packed formats, without requantising.
 *
 * Any float or block type unpacks to f32, f16 (rounding), bf16 (rounding); a block type packs bit for bit into its own
 * packed type (the packed values, dequantised, equal the file's dequantised values exactly). */
#ifndef SHARD_PACK_H
#define SHARD_PACK_H

#include <stdint.h>

#include "base/packed.h"
#include "base/status.h"
#include "shard/dtype.h"

/* Whether `from` can be packed as `to`. */
bool shard_pack_possible(shard_dtype from, packed_type to);

/* Packs n source rows into rows [row, row + n) of the packed matrix `matrix` (packed_bytes(shape) bytes, zeroed before
 * its first rows are packed).  Source row i starts at (char *)src + i * stride, at the block that holds the first wanted
 * element; `skip` elements of that block come before it (0 for plain types); shape.cols elements are taken.  A block type
 * into its own packed type needs skip to be a multiple of the group and, for types with super-scales, shape.phase == skip.
 * Rows of different calls may be packed by different threads if they lie in different panels of 16. */
status shard_pack_rows(shard_dtype from, const void *src, size_t stride, int32_t skip, packed_shape shape, int32_t row, int32_t n, void *matrix);

/* n elements of one row to f32: the reference for every type (skip as above). */
status shard_unpack_f32(shard_dtype from, const void *src, int32_t skip, int64_t n, float *out);

#endif
