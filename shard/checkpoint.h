/* shard/checkpoint.h - a checkpoint opened, whatever it came as.
 *
 * A Hugging Face directory (single or indexed safetensors), a GGUF file (or the first of a split set), a directory written by
 * `trireme shard`, or a hub name (looked up in, or downloaded into, the standard cache).  Opening reads and checks headers only;
 * weights are then read slice by slice straight into their final place.  After opening, all calls may come from several threads. */
#ifndef SHARD_CHECKPOINT_H
#define SHARD_CHECKPOINT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/packed.h"
#include "base/status.h"
#include "shard/plan/arch.h"
#include "shard/plan/plan.h"
#include "shard/text/bundle.h"

typedef struct shard_checkpoint shard_checkpoint;

typedef struct shard_open_options {
    const char *revision; /* of a hub name: branch, tag or commit; NULL = main */
    bool offline;         /* never the network */
    bool config_only;     /* a config.json, or a directory without weights, will do (planning) */
    bool to_plan;         /* with config_only: families too that can be planned but not run (shard_arch_to_plan) */
} shard_open_options;

/* ST_NOT_FOUND, ST_FORMAT, ST_UNSUPPORTED (an unlisted family is refused by name) ...: each message names file, tensor or key, and the remedy. */
status shard_checkpoint_open(const char *model, const shard_open_options *options, shard_checkpoint **out);
void shard_checkpoint_close(shard_checkpoint **c);

const shard_arch *shard_checkpoint_arch(const shard_checkpoint *c);

/* The packed type of each matrix: as the file stores it, or f32 throughout (`f32`).  Owned by the checkpoint. */
const shard_types *shard_checkpoint_types(const shard_checkpoint *c, bool f32);

/* Bytes read from disk against bytes that were needed; atomically counted, per checkpoint object. */
typedef struct shard_io_stats {
    uint64_t bytes_read, bytes_needed, tensors_read;
} shard_io_stats;
void shard_checkpoint_io_stats(const shard_checkpoint *c, shard_io_stats *out);

/* Reads the slice rows x cols (as shard_plan_slice gives it) of a matrix into `dst`, packed as `shape`
 * (shard_plan_packed; packed_bytes(shape) zeroed bytes, 64-byte aligned).  SHARD_HEAD of tied embeddings reads the embedding. */
status shard_checkpoint_read_matrix(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape,
                                    void *dst);
/* The same, only rows [row_begin, row_end) of the packed matrix (a multiple of 16, and a multiple of 16 or the last row): so that several threads share one
 * large matrix. */
status shard_checkpoint_read_part(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape,
                                  int32_t row_begin, int32_t row_end, void *dst);
/* Reads rows [begin, end) of a vector (norm weight, bias, sinks) as f32. */
status shard_checkpoint_read_vector(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, float *dst);

/* A directory written by `trireme shard` serves one split: plan with these and nothing else.  false: any split will do.  Borrowed. */
typedef struct shard_cut_info {
    int32_t tp, pp;
    bool f32;                    /* cut with f32 weights */
    const int32_t *stage_layers; /* [pp] */
    const double *rank_weights;  /* [tp * pp]; NULL: equal */
} shard_cut_info;
bool shard_checkpoint_cut_info(const shard_checkpoint *c, shard_cut_info *out);

/* Checks every byte against the manifest's SHA-256 (a `trireme shard` directory); names the tensor that differs. */
status shard_checkpoint_verify(shard_checkpoint *c);

const shard_generation *shard_checkpoint_generation(const shard_checkpoint *c);

/* All its text: as assets for a process without the checkpoint (caller frees with shard_text_assets_free), and opened (made on first call, owned by the
 * checkpoint).  The three functions below ask the latter. */
status shard_checkpoint_text_assets(shard_checkpoint *c, shard_text_asset **assets, size_t *n);
status shard_checkpoint_text(shard_checkpoint *c, const shard_text **out);

/* The tokenizer alone of what lies at `path`: a tokenizer.json, a folder with one, or a GGUF file, which need be neither whole nor of a
 * family that we can run (a vocabulary-only GGUF will do).  Anything else is opened as a checkpoint.  Caller owns *out. */
status shard_tokenizer_open(const char *path, shard_tokenizer **out);

/* Created on first call, owned by the checkpoint.  ST_NOT_FOUND: it has none (the message says what was looked for). */
status shard_checkpoint_tokenizer(shard_checkpoint *c, const shard_tokenizer **out);
/* The (default) chat template and its variables (bos_token, eos_token ...; an object owned by the checkpoint). */
status shard_checkpoint_template(shard_checkpoint *c, const shard_template **out, const json_t **variables);
/* One of several by name ("tool_use", "rag"); NULL or "default" is the default one.  Parsed once, owned by the checkpoint. */
status shard_checkpoint_template_named(shard_checkpoint *c, const char *name, const shard_template **out, const json_t **variables);

/* Name, source, format, revision, licence, base, parent, recipe, policies, evaluations, digest, architecture, tensors by type:
 * an object with null where unknown; caller json_decref()s.  What `trireme inspect` prints and the manifest keeps. */
status shard_checkpoint_describe(shard_checkpoint *c, json_t **out);
/* Every tensor of its files: a list of {name, type, shape, bytes, file}; caller json_decref()s. */
status shard_checkpoint_list_tensors(shard_checkpoint *c, json_t **out);
/* SHA-256 ("sha256:...") of the configuration and of each tensor's name, type, shape and three samples: equal for the same weights however they are spread over
 * files, and kept by a cut.  Computed on first call, reading a few KiB a tensor; "" if that fails. */
const char *shard_checkpoint_digest(const shard_checkpoint *c);
/* The i-th file that its weights lie in; NULL after the last.  Borrowed. */
const char *shard_checkpoint_file(const shard_checkpoint *c, int i);

#endif
