/* tests/shard_files/make.h - small checkpoints whose every value is known from its place.
 *
 * A weight's value is a function of its tensor's Hugging Face name, row and column, exact in bf16 and f16: any slice, read any way, can be checked without a
 * second copy of the weights. */
#ifndef TESTS_SHARD_FILES_MAKE_H
#define TESTS_SHARD_FILES_MAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "shard/dtype.h"

/* A fresh folder under the system's temporary one; removed with make_remove. */
char *make_folder(void);
void make_remove(const char *folder);
char *make_path(const char *folder, const char *name); /* caller frees */
void make_file(const char *folder, const char *name, const void *bytes, size_t n);
void make_text(const char *folder, const char *name, const char *text);

/* The value of an element, a multiple of 1/64 between -2 and 2. */
float make_value(const char *hf_name, int64_t row, int64_t col);

/* ---- safetensors ---- */

typedef struct make_st {
    mem_str header, data;
} make_st;
/* Appends a tensor [rows, cols] (cols 0: a vector) of F32, F16 or BF16 with make_value's values of hf_name; transposed: stored [cols, rows]. */
void make_st_tensor(make_st *s, const char *name, const char *hf_name, shard_dtype dtype, int64_t rows, int64_t cols, bool transposed);
void make_st_write(make_st *s, const char *folder, const char *name); /* and frees */
/* A file from a header as given and that many bytes of data. */
void make_st_raw(const char *folder, const char *name, const char *header, size_t data_bytes);

/* ---- GGUF ---- */

typedef struct make_gguf {
    mem_str kv, infos, data;
    uint64_t n_kv, n_tensors;
    uint32_t version;
} make_gguf;
void make_gguf_u32(make_gguf *g, const char *key, uint32_t v);
void make_gguf_u16(make_gguf *g, const char *key, uint16_t v);
void make_gguf_f32(make_gguf *g, const char *key, float v);
void make_gguf_str(make_gguf *g, const char *key, const char *v);
void make_gguf_strs(make_gguf *g, const char *key, const char *const *v, size_t n);
/* Rows of the Hugging Face tensor hf_name; rotary > 0: rows permuted in pairs within heads of that size; dtype F32, F16, BF16 or Q8_0 (exact: scale 1/64). */
void make_gguf_tensor(make_gguf *g, const char *name, const char *hf_name, shard_dtype dtype, int64_t rows, int64_t cols, int64_t rotary);
void make_gguf_bytes(make_gguf *g, mem_str *out); /* the whole file */
void make_gguf_write(make_gguf *g, const char *folder, const char *name); /* and frees */

/* ---- whole checkpoints: a llama of 2 layers, hidden 64, 4 heads over 2 KV heads, head_dim 16, intermediate 96, vocabulary 70, tied ---- */

void make_llama_folder(const char *folder, shard_dtype dtype);
void make_llama_config(const char *folder);
void make_llama_gguf(const char *folder, const char *name, shard_dtype dtype);
/* The metadata of that GGUF alone; parts: split.no and split.count where count > 0. */
void make_llama_metadata(make_gguf *g, int part, int count);
void make_llama_gguf_layer(make_gguf *g, int layer, shard_dtype dtype);

#endif
