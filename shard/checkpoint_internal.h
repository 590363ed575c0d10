/* shard/checkpoint_internal.h - what the files of an open checkpoint share: checkpoint.c opens and binds, checkpoint_read.c reads slices,
 * checkpoint_text.c gives tokenizer, template and generation defaults, describe.c says what it is, cut.c is the `trireme shard` form.
 *
 *   model (path or hub name) -> source -> files + tensor table -> architecture -> bound[layer][role] -> slices
 */
#ifndef SHARD_CHECKPOINT_INTERNAL_H
#define SHARD_CHECKPOINT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "shard/arch.h"
#include "shard/checkpoint.h"
#include "shard/gguf.h"
#include "shard/tensors.h"

typedef enum shard_source {
    SHARD_SOURCE_HF,   /* a folder with config.json and safetensors */
    SHARD_SOURCE_GGUF,
    SHARD_SOURCE_CUT,  /* a folder that `trireme shard` wrote */
} shard_source;

typedef struct shard_file {
    char *path;
    int fd; /* -1: not open now */
    uint64_t bytes, header_bytes; /* header: all before the data */
} shard_file;

/* A role of a layer bound to the tensor that holds it.  tensor NULL: the architecture has no such role. */
typedef struct shard_bound {
    const shard_tensor *tensor;
    int64_t rows, cols;               /* of the role */
    int64_t stored_rows, stored_cols; /* of the tensor, transpose undone */
    bool transposed;
    shard_row_map map;
    int64_t row_begin;
    int32_t group_rows, group_begin, group_take, rotary;
    float add;
    const shard_tensor *scale;        /* of an fp8 tensor: what its elements are multiplied by, a value for each block of so many of its rows and columns */
    int64_t scale_rows, scale_cols;
    int32_t pieces;                   /* > 0: the rows lie in this many tensors of stored_rows each (vectors only); `tensor` is the first */
    const shard_tensor **piece;
} shard_bound;

typedef struct shard_scratch {
    struct shard_scratch *next;
    size_t bytes;
    _Alignas(64) unsigned char data[];
} shard_scratch;

typedef struct shard_cut shard_cut;

struct shard_checkpoint {
    shard_source source;
    char *model;    /* as it was named */
    char *folder;   /* where the text files lie */
    char *path;     /* the folder, or the (first) GGUF file */
    char *hub_name; /* "org/name" where known, else NULL */
    char *revision; /* commit where known, else NULL */
    bool has_weights, to_plan;

    shard_file *files;
    int32_t n_files;
    shard_tensors tensors;
    shard_gguf *gguf;      /* the first file's */
    json_t *config;        /* config.json; NULL for GGUF */
    json_t *tokenizer_config, *special_tokens, *generation_config; /* NULL where absent */
    shard_cut *cut;

    shard_arch arch;
    shard_bound *bound;    /* [n_layers * SHARD_ROLES], layer 0 for roles outside layers */
    uint8_t *types_of;
    shard_types types, types_f32;
    shard_generation generation;

    _Atomic uint64_t bytes_read, bytes_needed, tensors_read;

    pthread_mutex_t lock;  /* guards what follows */
    shard_scratch *scratch;
    shard_text *text; /* NULL until asked for */
    char digest[80];
};

/* SHARD_HEAD of tied embeddings is the embedding. */
shard_role shard_checkpoint_stored_role(const shard_checkpoint *c, shard_role role);
const shard_bound *shard_checkpoint_bound(const shard_checkpoint *c, shard_role role, int32_t layer);

/* "attn_q of layer 3", "final_norm"; returns out. */
const char *shard_checkpoint_role_text(shard_role role, int32_t layer, char out[96]);

/* Adds a regular file to the checkpoint's; *index is its number.  later: it is closed again until shard_checkpoint_file_fd wants it (a cut has a file for each
 * rank, and a process may not have that many open). */
status shard_checkpoint_add_file(shard_checkpoint *c, const char *path, bool later, int32_t *index);
status shard_checkpoint_file_fd(shard_checkpoint *c, int32_t index, int *fd);
/* The architecture of a `trireme shard` folder: from its config.json or metadata.gguf, with the source's tensors in c->tensors. */
status shard_checkpoint_open_config(shard_checkpoint *c);
/* Reads n bytes of a tensor at byte `offset` of it; messages name file and tensor. */
status shard_checkpoint_read_bytes(shard_checkpoint *c, const shard_tensor *t, uint64_t offset, void *dst, size_t n);

/* checkpoint_text.c */
status shard_checkpoint_load_text(shard_checkpoint *c);
void shard_checkpoint_close_text(shard_checkpoint *c);
/* The chat template named (NULL or "default": the default one) as text; *text NULL if there is none.  Caller frees *text and *where. */
status shard_checkpoint_template_source(shard_checkpoint *c, const char *name, char **text, size_t *len, char **where);
/* Names of all chat templates the checkpoint brings: a JSON list of strings. */
json_t *shard_checkpoint_template_names(shard_checkpoint *c);

/* cut.c: the form `trireme shard` writes. */
bool shard_cut_is(const char *folder);
status shard_cut_open(shard_checkpoint *c);
void shard_cut_close(shard_cut **cut);
status shard_cut_read_matrix(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, shard_slice cols, packed_shape shape, int32_t row_begin,
                             int32_t row_end, void *dst);
/* The values of a small source tensor that the manifest keeps. */
status shard_cut_values(const shard_checkpoint *c, const char *name, int64_t elements, int64_t *n, float **out);
status shard_cut_verify(shard_checkpoint *c);
status shard_cut_read_vector(shard_checkpoint *c, shard_role role, int32_t layer, shard_slice rows, float *dst);

#endif
