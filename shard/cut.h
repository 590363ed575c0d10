/* shard/cut.h - the folder that `trireme shard` writes: every rank's packed bytes, ready to be copied into place.
 *
 *   manifest.json      format version; where the weights come from; options of the cut; SHA-256 of each tensor of each rank
 *   rank-00000.bin ... one file for each rank: its matrices packed, its vectors as f32, each at a multiple of 64 bytes
 *   config.json, tokenizer.json ...   as the source had them; or metadata.gguf, a GGUF of the source's metadata and no tensors
 *
 * A folder serves the split it was cut for and no other. */
#ifndef SHARD_CUT_H
#define SHARD_CUT_H

#include <jansson.h>

#include "shard/checkpoint.h"

#define SHARD_CUT_FORMAT "trireme-shard"
#define SHARD_CUT_VERSION 1
#define SHARD_CUT_ALIGN 64

typedef struct shard_cut_entry {
    shard_role role;
    int32_t layer, rank;
    shard_slice rows, cols;
    packed_shape shape;     /* of a matrix; of a vector rows x 1 f32 */
    uint64_t offset, bytes; /* in the rank's file */
    char sha256[65];
} shard_cut_entry;

typedef struct shard_cut {
    char *where;            /* the manifest's path */
    json_t *manifest;
    int32_t tp, pp, n_ranks;
    bool f32;
    int32_t *stage_layers;  /* [pp] */
    double *rank_weights;   /* [n_ranks], NULL: equal */
    shard_cut_entry *entries; /* by (role, layer, rank) */
    size_t n;
    int32_t *files;         /* [n_ranks] index into the checkpoint's files */
    int32_t last_rank;      /* whose file was read last: slices that ranks share are taken from there */
} shard_cut;

/* Hash of a whole file as 64 hex digits. */
status shard_cut_hash_file(const char *path, char out[65], uint64_t *bytes);

#endif
