/* shard/text/bundle.h - all text a checkpoint brings, apart from its weights: tokenizer, chat templates, generation defaults.
 *
 * A replica exports it as named assets (shard_checkpoint_text_assets in shard/checkpoint.h); a gateway, which has no checkpoint, opens
 * them.  A checkpoint answers its own questions from the same assets, so both give the same ids, prompts and defaults.
 *
 *   tokenizer.json         as the checkpoint has it, or
 *   vocab.bin              a GGUF file's vocabulary (shard_vocab_encode below)
 *   template/NAME.jinja    each chat template; NAME of the usual one is "default"
 *   text.json              {"version", "family", "vocab", "max_positions", "pooling", "fim", "generation", "variables"}
 *
 * An opened bundle is immutable to its callers: any number of threads may ask it.  Templates are parsed at first use, under its lock. */
#ifndef SHARD_TEXT_BUNDLE_H
#define SHARD_TEXT_BUNDLE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "shard/text/template.h"
#include "shard/text/tokenizer.h"

typedef struct shard_text_asset {
    char *name;
    void *data;
    size_t len;
    char *where; /* file and key it came from, for messages; NULL: its name.  Need not travel */
} shard_text_asset;
void shard_text_assets_free(shard_text_asset *assets, size_t n);

/* What the checkpoint says about generating (generation_config.json, tokenizer_config.json, GGUF metadata). */
enum { SHARD_TEXT_MAX_EOS = 16 };
typedef struct shard_generation {
    int32_t bos;               /* -1 none */
    int32_t n_eos, eos[SHARD_TEXT_MAX_EOS];
    float temperature, top_p, min_p, repetition_penalty; /* the checkpoint's defaults; < 0 where it is silent */
    int32_t top_k;             /* -1 silent */
} shard_generation;

/* How token vectors become one vector of a text, where that is asked for. */
typedef enum shard_pooling { SHARD_POOL_LAST, SHARD_POOL_MEAN } shard_pooling;

typedef struct shard_text_info {
    char family[64];                /* "qwen3", "llama" */
    int32_t fim_prefix, fim_suffix, fim_middle; /* fill-in-the-middle token ids, -1 = none */
    bool fim_suffix_first;          /* suffix, prefix, text; else prefix, suffix, middle, text */
    int32_t vocab, max_positions;   /* rows of the embedding; longest sequence */
    shard_pooling pooling;
} shard_text_info;

typedef struct shard_text shard_text;

/* Copies what it keeps.  Hostile bytes give ST_FORMAT, what a newer version wrote ST_UNSUPPORTED. */
status shard_text_create(const shard_text_asset *assets, size_t n, shard_text **out);
/* The same for a checkpoint's own assets: the tokenizer is made when first asked for; `where` (its path) starts messages. */
status shard_text_create_lazy(const char *where, const shard_text_asset *assets, size_t n, shard_text **out);
void shard_text_destroy(shard_text **t);

/* NULL: it has none (or, if created lazily, a broken one: then shard_text_tokenizer_get says why). */
const shard_tokenizer *shard_text_tokenizer(const shard_text *t);
status shard_text_tokenizer_get(const shard_text *t, const shard_tokenizer **out); /* ST_NOT_FOUND: none */
/* Takes the tokenizer out of the bundle; caller owns it.  ST_NOT_FOUND as above. */
status shard_text_tokenizer_take(shard_text *t, shard_tokenizer **out);

/* The template named (NULL or "default": the usual one) and its variables (bos_token ...: an object of strings).  ST_NOT_FOUND: none of that name. */
status shard_text_template(const shard_text *t, const char *name, const shard_template **out, const json_t **variables);
/* Its source; NULL: none of that name. */
const char *shard_text_template_source(const shard_text *t, const char *name, size_t *len);

const shard_generation *shard_text_generation(const shard_text *t);
const shard_text_info *shard_text_info_get(const shard_text *t);

/* ---- for whoever exports ---- */

/* text.json: caller frees *out. */
status shard_text_describe(const shard_text_info *info, const shard_generation *generation, const json_t *variables, char **out);

/* A vocabulary as bytes, version 1, little endian:
 *
 *   "TRVOCAB1" | u32 flags | u32 tokens | u32 merges | u32 charsmap bytes | i32 bos eos unk sep cls pad mask | i8 add_bos add_eos
 *   add_space_prefix remove_extra_whitespaces | model | pre | token * tokens | f32 score * tokens | u8 type * tokens | merge * merges | charsmap
 *
 * with strings as LEB128 length + bytes; flags: 1 pre, 2 scores, 4 types. */
status shard_vocab_encode(const shard_vocab *vocab, mem_str *out);
/* *memory holds what *out points to besides `data`; caller frees it. */
status shard_vocab_decode(const char *where, const void *data, size_t len, shard_vocab *out, void **memory);

#endif
