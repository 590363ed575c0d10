#include "shard/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    int32_t block, bytes;
    packed_type packed;
} dtypes[SHARD_DTYPES] = {
#define SHARD_DTYPE_ROW(name, text, elements, bytes, packed) [SHARD_##name] = {text, elements, bytes, packed},
    SHARD_DTYPE_LIST(SHARD_DTYPE_ROW)
#undef SHARD_DTYPE_ROW
};

const char *shard_dtype_name(shard_dtype t)
{
    return (unsigned)t < SHARD_DTYPES ? dtypes[t].name : "unknown";
}

shard_dtype shard_dtype_parse(const char *name)
{
    shard_dtype t = 0;
    while (t < SHARD_DTYPES && strcmp(dtypes[t].name, name) != 0)
        t++;
    return t;
}

int32_t shard_dtype_block(shard_dtype t)
{
    return (unsigned)t < SHARD_DTYPES ? dtypes[t].block : 1;
}

int32_t shard_dtype_block_bytes(shard_dtype t)
{
    return (unsigned)t < SHARD_DTYPES ? dtypes[t].bytes : 1;
}

packed_type shard_dtype_packed(shard_dtype t)
{
    return (unsigned)t < SHARD_DTYPES ? dtypes[t].packed : PACKED_TYPES;
}
