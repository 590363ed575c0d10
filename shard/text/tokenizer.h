/* shard/text/tokenizer.h - text to token ids and back.
 *
 * One engine reads what real checkpoints carry: tokenizer.json (byte-level BPE, SentencePiece-style BPE and
 * Unigram, WordPiece; normalisers, pre-tokenisers, added tokens, post-processors, decoders as the file lists
 * them), or the vocabulary in a GGUF file's metadata.  Results equal Hugging Face `tokenizers` id for id.
 * Immutable after creation: any number of threads may encode and decode with one tokenizer. */
#ifndef SHARD_TEXT_TOKENIZER_H
#define SHARD_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct shard_tokenizer shard_tokenizer;

/* From the text of a tokenizer.json; `where` (a path) starts every message. */
status shard_tokenizer_from_json(const char *where, const char *json, size_t len, shard_tokenizer **out);

/* A GGUF file's tokenizer.ggml.* as plain arrays (borrowed during the call). */
typedef struct shard_vocab {
    const char *model;        /* "gpt2", "llama", "bert", "t5" ... (tokenizer.ggml.model) */
    const char *pre;          /* "llama-bpe", "smollm", "qwen2" ... or NULL */
    int32_t n_tokens;
    const char *const *tokens;      /* [n_tokens] UTF-8, with token_lens (may hold NUL) */
    const size_t *token_lens;
    const float *scores;            /* [n_tokens] or NULL */
    const int32_t *types;           /* [n_tokens] or NULL: 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte */
    int32_t n_merges;
    const char *const *merges;      /* "left right" */
    const size_t *merge_lens;
    int32_t bos, eos, unk, sep, cls, pad, mask; /* -1 = none */
    int8_t add_bos, add_eos, add_space_prefix, remove_extra_whitespaces; /* 0, 1, or -1 where the file is silent */
    const void *precompiled_charsmap; /* SentencePiece normalisation (T5-like) or NULL */
    size_t charsmap_len;
} shard_vocab;
status shard_tokenizer_from_vocab(const char *where, const shard_vocab *vocab, shard_tokenizer **out);
void shard_tokenizer_destroy(shard_tokenizer **t);

/* A growing list of ids; zero-initialise, release with shard_ids_free. */
typedef struct shard_ids {
    int32_t *data;
    size_t n, cap;
} shard_ids;
void shard_ids_free(shard_ids *ids);

/* Appends the ids of text[0..len) (any bytes; invalid UTF-8 is taken as U+FFFD).  add_special: what the post-processor adds
 * (bos ...).  Special tokens written in the text are recognised, as the reference does; `plain` switches that off
 * (user text that must not smuggle control tokens). */
enum { SHARD_ENCODE_ADD_SPECIAL = 1, SHARD_ENCODE_PLAIN = 2 };
status shard_tokenizer_encode(const shard_tokenizer *t, const char *text, size_t len, int flags, shard_ids *ids);

/* Appends the text of ids; ids outside the vocabulary give nothing (as the reference).  Broken UTF-8 becomes U+FFFD. */
status shard_tokenizer_decode(const shard_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, mem_str *out);

/* Streaming decode of one sequence: what push appends over time equals decode of all ids, and a UTF-8 character or a
 * byte-fallback run is never split: its bytes come once complete; flush gives what is left (U+FFFD where broken).  `tokenizer`
 * is borrowed. */
typedef struct shard_stream shard_stream;
status shard_stream_create(const shard_tokenizer *t, bool skip_special, shard_stream **out);
status shard_stream_push(shard_stream *s, int32_t id, mem_str *out);
status shard_stream_flush(shard_stream *s, mem_str *out);
void shard_stream_destroy(shard_stream **s);

int32_t shard_tokenizer_size(const shard_tokenizer *t); /* highest id + 1, added tokens included */
/* -1 if the text is no token.  Added tokens included. */
int32_t shard_tokenizer_id(const shard_tokenizer *t, const char *token);
/* The token as the vocabulary spells it; NULL if there is none. */
const char *shard_tokenizer_token(const shard_tokenizer *t, int32_t id, size_t *len);
/* Appends the bytes that the token stands for in the middle of a text: perhaps half a character, and with the blank it brings (ids outside the
 * vocabulary: nothing). */
status shard_tokenizer_token_bytes(const shard_tokenizer *t, int32_t id, mem_str *out);
bool shard_tokenizer_is_special(const shard_tokenizer *t, int32_t id);
/* "byte-level BPE", "SentencePiece BPE", "Unigram", "WordPiece": for inspect. */
const char *shard_tokenizer_kind(const shard_tokenizer *t);

#endif
