/* shard/safetensors.h - headers of safetensors files, fully checked.
 *
 * A file is: u64 header length (little endian) | JSON header of that length | data.  The header maps tensor names to dtype, shape and
 * [begin, end) offsets in the data; tensors fill the data without holes or overlaps.  All functions are pure in (bytes, length). */
#ifndef SHARD_SAFETENSORS_H
#define SHARD_SAFETENSORS_H

#include <jansson.h>

#include "shard/tensors.h"

#define SHARD_SAFETENSORS_MAX_HEADER ((uint64_t)100 << 20) /* what the format's own library allows */
#define SHARD_SAFETENSORS_MAX_FILES 4096

/* The header's length from a file's first 8 bytes; file_bytes is the whole file. */
status shard_safetensors_header_bytes(const char *where, const uint8_t first[8], uint64_t file_bytes, uint64_t *out);

/* Parses the header json[0..len) of a file of file_bytes and adds its tensors with their offsets in the file. */
status shard_safetensors_parse(const char *where, const char *json, size_t len, uint64_t file_bytes, int32_t file, shard_tensors *out);

/* The file names an index (model.safetensors.index.json) lists, each once, in order of first mention: caller frees the array and json_decref()s the
 * index, which owns the strings.  A name must be a plain file name: it cannot lead out of the folder. */
status shard_safetensors_index_files(const char *where, const json_t *index, const char ***names, size_t *n);
/* After all files are read: each tensor must be where the index says. */
status shard_safetensors_index_check(const char *where, const json_t *index, const shard_tensors *t, const char *const *names);

#endif
