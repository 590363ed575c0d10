/* shard/tensors.h - the table of tensors a checkpoint's files hold: name, element type, shape and place.
 *
 * The safetensors and GGUF readers fill it from headers they do not trust; everything after them relies on it: names are unique,
 * sizes do not overflow, every tensor lies inside its file.  Knows nothing of families or roles. */
#ifndef SHARD_TENSORS_H
#define SHARD_TENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "shard/dtype.h"

#define SHARD_MAX_DIMS 8
#define SHARD_MAX_TENSORS 1000000
#define SHARD_MAX_NAME 512 /* bytes of a tensor's name */

typedef struct shard_tensor {
    const char *name; /* owned by the table; no control characters */
    shard_dtype dtype;
    int32_t file;     /* index the caller gave */
    int32_t n_dims;
    int64_t dims[SHARD_MAX_DIMS]; /* outermost first; the last one is contiguous */
    int64_t elements;
    uint64_t offset, bytes; /* in its file */
} shard_tensor;

typedef struct shard_tensors {
    mem_arena *arena;
    shard_tensor *list;
    size_t n, cap;
    uint32_t *slots; /* open addressing: index + 1, 0 = free; power of two */
    size_t n_slots;
} shard_tensors;

status shard_tensors_init(shard_tensors *t);
void shard_tensors_free(shard_tensors *t);

/* Adds a tensor whose dtype, dims, file and offset are set: checks the name, computes elements and bytes with checked arithmetic (the last
 * dimension must be whole blocks) and refuses a name twice.  `where` starts messages. */
status shard_tensors_add(shard_tensors *t, const char *where, const char *name, size_t name_len, const shard_tensor *entry);

/* NULL if there is none. */
const shard_tensor *shard_tensors_find(const shard_tensors *t, const char *name);

/* Tensors of `file` must lie inside [begin, end) and not overlap; with `dense` they must also leave no hole (the safetensors rule). */
status shard_tensors_check_layout(const shard_tensors *t, const char *where, int32_t file, uint64_t begin, uint64_t end, bool dense);

/* "[4096, 11008]" into out. */
const char *shard_tensor_shape_text(const shard_tensor *tensor, char out[160]);

#endif
