/* shard/arch.h - families: from config.json or GGUF metadata to shard_arch, and from tensor names to roles.
 *
 * A family is one descriptor in arch_families.c: facts, name patterns, and how stored tensors map to roles.  A stored tensor may
 * be transposed (GPT-2), hold several roles at once (fused qkv, gate_up), have its rows in another order (GGUF's rotary pairs, GPT-NeoX's
 * per-head qkv) or its values shifted (Gemma's 1 + w). */
#ifndef SHARD_ARCH_H
#define SHARD_ARCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "shard/plan/arch.h"

/* What GGUF metadata looks like to the descriptors: typed look-ups by key; false where absent or of another kind. */
typedef struct shard_meta {
    void *arg;
    bool (*get_int)(void *arg, const char *key, int64_t *out);
    bool (*get_f64)(void *arg, const char *key, double *out);
    bool (*get_bool)(void *arg, const char *key, bool *out);
    const char *(*get_str)(void *arg, const char *key);             /* NULL if absent */
    int64_t (*get_int_array)(void *arg, const char *key, const int64_t **out); /* length, -1 if absent; booleans as 0/1 */
    int64_t (*get_f64_array)(void *arg, const char *key, const double **out);
    /* Shape of a tensor ([rows, cols]; 1-D has cols 1); false if there is none: some facts live in tensors alone (rope_freqs; tied where output.weight is absent). */
    bool (*tensor_shape)(void *arg, const char *name, int64_t *rows, int64_t *cols);
    /* f32 values of a small 1-D tensor (rope_freqs, rope_factors_long/short); caller frees. */
    status (*tensor_f32)(void *arg, const char *name, int64_t *n, float **out);
} shard_meta;

/* `where` names the file in messages.  has_tensor tells whether the checkpoint holds a tensor (tied or not, biases); NULL when planning from a config alone. */
typedef bool (*shard_has_tensor_fn)(void *arg, const char *name);
status shard_arch_from_config(const char *where, const json_t *config, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out);
/* The same from a configuration alone, and for families too that can be planned but not run yet: layers of experts, latent attention. */
status shard_arch_to_plan(const char *where, const json_t *config, shard_arch *out);
/* Whether a quantization_config says that weights are e4m3 with scales beside them, as DeepSeek, FBGEMM and compressed-tensors write them. */
bool shard_config_is_f8(const json_t *quantization_config);
status shard_arch_from_gguf(const char *where, const shard_meta *meta, shard_arch *out);

/* Where rows of a role come from inside its stored tensor. */
typedef enum shard_row_map {
    SHARD_ROWS_PLAIN,     /* stored row = row_begin + r */
    SHARD_ROWS_GROUPED,   /* the stored tensor is a sequence of groups of group_rows rows; this role owns rows [group_begin, group_begin + group_take) of each:
                           * stored row = (r / group_take) * group_rows + group_begin + r % group_take  (GPT-NeoX, Falcon, BLOOM qkv) */
    SHARD_ROWS_ROTARY,    /* GGUF's pairs back to halves within each head of group_rows rows, of which the first `rotary` are permuted:
                           * r = head * group_rows + j (j < rotary): stored = row_begin + head * group_rows + (j < rotary/2 ? 2j : 2(j - rotary/2) + 1) */
} shard_row_map;

typedef struct shard_stored {
    char name[192];       /* the tensor's name in the file */
    bool transposed;      /* stored [cols, rows] */
    shard_row_map map;
    int64_t row_begin;
    int32_t group_rows, group_begin, group_take, rotary;
    float add;            /* added to each value (Gemma norms: 1), 0 */
    /* 0, or the role is cut along its rows into this many tensors of stored_rows rows each (StableLM's q/k norms): `name` is then a pattern
     * with one %d; shard_stored_piece gives each piece's name. */
    int32_t pieces;
    int64_t stored_rows, stored_cols; /* the stored tensor's shape that the checker demands (the whole tensor's, after undoing the transpose) */
} shard_stored;

/* How the role is stored in a Hugging Face (gguf false) or GGUF checkpoint of this architecture.  has_tensor chooses between spellings (with or without
 * "model." prefix, fused or separate); may be NULL.  false: the family lacks the role (or it is tied: ask for SHARD_TOKEN_EMBED). */
bool shard_arch_stored(const shard_arch *arch, bool gguf, shard_role role, int32_t layer, shard_has_tensor_fn has_tensor, void *arg, shard_stored *out);

/* The name of piece i (0 .. pieces - 1) of a role kept in several tensors; the name itself where pieces is 0. */
void shard_stored_piece(const shard_stored *stored, int32_t i, char out[192]);

/* The rope set of a sequence whose prompt has n tokens: 0; 1 where n exceeds a rope's switch_length; with dynamic scaling n itself,
 * whose frequencies shard_rope_frequencies gives. */
int32_t shard_arch_rope_set(const shard_arch *arch, int64_t n_tokens);

/* inv_freq [dims / 2] of one rope for a rope set. */
void shard_rope_frequencies(const shard_rope *rope, int32_t rope_set, float *inv_freq);

/* For the README's table and --help: family i (0 ..), Hugging Face architectures and GGUF names separated by blanks; false past the last. */
typedef struct shard_family_info {
    const char *family, *title, *hf_architectures, *gguf_names, *notes;
} shard_family_info;
bool shard_family(int i, shard_family_info *out);

#endif
