/* shard/gguf.h - GGUF files (versions 2 and 3): metadata and the tensor table, fully checked.
 *
 * A file is: "GGUF" | u32 version | u64 tensors | u64 keys | key-value pairs | tensor infos | padding to the alignment | data.
 * A string is u64 length + bytes; shapes list the fastest dimension first (the table turns them round).  The parser is a pure function
 * of a prefix of the file and the file's size: given too short a prefix it asks for more. */
#ifndef SHARD_GGUF_H
#define SHARD_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shard/tensors.h"

typedef enum shard_gguf_kind {
    SHARD_GGUF_U8, SHARD_GGUF_I8, SHARD_GGUF_U16, SHARD_GGUF_I16, SHARD_GGUF_U32, SHARD_GGUF_I32, SHARD_GGUF_F32, SHARD_GGUF_BOOL,
    SHARD_GGUF_STRING, SHARD_GGUF_ARRAY, SHARD_GGUF_U64, SHARD_GGUF_I64, SHARD_GGUF_F64,
    SHARD_GGUF_KINDS
} shard_gguf_kind;

typedef struct shard_gguf_value {
    const char *key;          /* NUL-terminated, owned by the gguf */
    shard_gguf_kind kind;     /* of the value, or of an array's elements */
    bool array;
    uint64_t n;               /* elements (1 for a scalar); for a string its bytes */
    const uint8_t *data;      /* as in the file: numbers unaligned little endian, strings with their lengths; a scalar string's bytes alone */
    const void *converted;    /* cache of the array getters */
} shard_gguf_value;

typedef struct shard_gguf {
    char *where;
    uint8_t *bytes;           /* the header */
    uint64_t header_bytes;    /* up to the padding before the data */
    uint64_t data_begin, kv_begin, kv_end;
    uint32_t version;
    mem_arena *arena;
    shard_gguf_value *values;
    size_t n_values;
} shard_gguf;

/* Parses the first `len` bytes of a file of `file_bytes`; tensors go into `tensors` as of file number `file`.  Takes over `bytes` (malloc'ed) on ST_OK only.
 * *need_more: the prefix is too short (len < file_bytes): call again with a longer one; nothing was kept then, and the tensors' table
 * is unchanged. */
status shard_gguf_parse(const char *where, uint8_t *bytes, size_t len, uint64_t file_bytes, int32_t file, shard_tensors *tensors, bool *need_more,
                        shard_gguf **out);
/* The same from an open file: reads as much as the header takes. */
status shard_gguf_read(const char *where, int fd, uint64_t file_bytes, int32_t file, shard_tensors *tensors, shard_gguf **out);
void shard_gguf_destroy(shard_gguf **g);

const shard_gguf_value *shard_gguf_find(const shard_gguf *g, const char *key); /* NULL if absent */
/* false: absent, or of another kind.  Integers of every width; booleans; f64 also from integers and f32. */
bool shard_gguf_int(const shard_gguf *g, const char *key, int64_t *out);
bool shard_gguf_f64(const shard_gguf *g, const char *key, double *out);
bool shard_gguf_bool(const shard_gguf *g, const char *key, bool *out);
const char *shard_gguf_str(const shard_gguf *g, const char *key); /* NUL-terminated, owned; NULL if absent or it holds a NUL */
/* Length, or -1 if absent or of another kind.  Converted once, owned; not thread-safe. */
int64_t shard_gguf_int_array(shard_gguf *g, const char *key, const int64_t **out);
int64_t shard_gguf_f64_array(shard_gguf *g, const char *key, const double **out);
/* Strings with lengths (not NUL-terminated); both arrays owned. */
int64_t shard_gguf_str_array(shard_gguf *g, const char *key, const char *const **out, const size_t **lens);

#endif
