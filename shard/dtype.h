/* shard/dtype.h - element types as files store them: safetensors dtypes and GGUF block types. */
#ifndef SHARD_DTYPE_H
#define SHARD_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/packed.h"

/* X(name, text, elements in a block, bytes of a block, packed type it imports to exactly or PACKED_TYPES) */
#define SHARD_DTYPE_LIST(X)                          \
    X(F32, "F32", 1, 4, PACKED_F32)                  \
    X(F16, "F16", 1, 2, PACKED_F16)                  \
    X(BF16, "BF16", 1, 2, PACKED_BF16)               \
    X(F64, "F64", 1, 8, PACKED_TYPES)                \
    X(I8, "I8", 1, 1, PACKED_TYPES)                  \
    X(U8, "U8", 1, 1, PACKED_TYPES)                  \
    X(I16, "I16", 1, 2, PACKED_TYPES)                \
    X(U16, "U16", 1, 2, PACKED_TYPES)                \
    X(I32, "I32", 1, 4, PACKED_TYPES)                \
    X(U32, "U32", 1, 4, PACKED_TYPES)                \
    X(I64, "I64", 1, 8, PACKED_TYPES)                \
    X(U64, "U64", 1, 8, PACKED_TYPES)                \
    X(BOOL, "BOOL", 1, 1, PACKED_TYPES)              \
    X(F8_E4M3, "F8_E4M3", 1, 1, PACKED_F8)           \
    X(F8_E5M2, "F8_E5M2", 1, 1, PACKED_TYPES)        \
    X(Q4_0, "Q4_0", 32, 18, PACKED_Q4_0)             \
    X(Q4_1, "Q4_1", 32, 20, PACKED_Q4_1)             \
    X(Q5_0, "Q5_0", 32, 22, PACKED_Q5_0)             \
    X(Q5_1, "Q5_1", 32, 24, PACKED_Q5_1)             \
    X(Q8_0, "Q8_0", 32, 34, PACKED_Q8_0)             \
    X(Q2_K, "Q2_K", 256, 84, PACKED_Q2_K)            \
    X(Q3_K, "Q3_K", 256, 110, PACKED_Q3_K)           \
    X(Q4_K, "Q4_K", 256, 144, PACKED_Q4_K)           \
    X(Q5_K, "Q5_K", 256, 176, PACKED_Q5_K)           \
    X(Q6_K, "Q6_K", 256, 210, PACKED_Q6_K)           \
    X(IQ4_NL, "IQ4_NL", 32, 18, PACKED_IQ4_NL)

typedef enum shard_dtype {
#define SHARD_DTYPE_ENUM(name, text, elements, bytes, packed) SHARD_##name,
    SHARD_DTYPE_LIST(SHARD_DTYPE_ENUM)
#undef SHARD_DTYPE_ENUM
    SHARD_DTYPES
} shard_dtype;

const char *shard_dtype_name(shard_dtype t);
shard_dtype shard_dtype_parse(const char *name); /* SHARD_DTYPES if unknown */
int32_t shard_dtype_block(shard_dtype t);        /* elements in a block */
int32_t shard_dtype_block_bytes(shard_dtype t);
packed_type shard_dtype_packed(shard_dtype t);   /* PACKED_TYPES: no exact packed type */

#endif
