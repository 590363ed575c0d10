/* shard/text/tokenizer_internal.h - the parts of a tokenizer and what passes between them.
 *
 *   text ─ added tokens (raw) ─ normalisers ─ added tokens (normalised) ─ pre-tokenizers ─ model ─ post-processor ─ ids
 *   ids ─ tokens ─ decoders ─ text
 *
 * tokenizer_json.c and tokenizer_gguf.c build one; tokenizer.c runs it.  Sequences of normalisers, pre-tokenizers and
 * decoders are flattened into arrays of steps. */
#ifndef SHARD_TEXT_TOKENIZER_INTERNAL_H
#define SHARD_TEXT_TOKENIZER_INTERNAL_H

#include <jansson.h>

#include "shard/text/tokenizer.h"
#include "shard/text/tokenizer_regex.h"
#include "shard/text/tokenizer_text.h"
#include "shard/text/tokenizer_vocab.h"

/* A string owned by a step. */
typedef struct tok_string {
    char *data;
    size_t len;
} tok_string;
status tok_string_copy(const char *s, size_t len, tok_string *out);

/* Text to look for: a literal (searched as bytes) or a regular expression. */
typedef struct tok_pattern {
    tok_string literal; /* used when regex is NULL */
    tok_regex *regex;
} tok_pattern;
void tok_pattern_free(tok_pattern *p);
status tok_pattern_next(const tok_pattern *p, tok_matcher *m, tok_find *f, bool *found);

/* ---- normalisers (tokenizer_normalise.c) ---- */
typedef enum tok_norm_kind {
    TOK_NORM_NFC, TOK_NORM_NFD, TOK_NORM_NFKC, TOK_NORM_NFKD, TOK_NORM_LOWERCASE, TOK_NORM_STRIP, TOK_NORM_STRIP_ACCENTS,
    TOK_NORM_REPLACE, TOK_NORM_PREPEND, TOK_NORM_NMT, TOK_NORM_BERT, TOK_NORM_CHARSMAP, TOK_NORM_BYTES
} tok_norm_kind;

typedef struct tok_charsmap tok_charsmap;
/* SentencePiece's precompiled_charsmap: a double array of keys and the texts that replace them. */
status tok_charsmap_create(const char *where, const void *blob, size_t len, tok_charsmap **out);
void tok_charsmap_destroy(tok_charsmap **m);
void tok_charsmap_apply(const tok_charsmap *m, const char *text, size_t len, mem_str *out);

typedef struct tok_norm {
    tok_norm_kind kind;
    bool left, right;                                       /* STRIP */
    bool clean, chinese, strip_accents, lowercase;          /* BERT */
    tok_pattern pattern;                                    /* REPLACE */
    tok_string content;                                     /* REPLACE, PREPEND */
    tok_charsmap *charsmap;                                 /* CHARSMAP */
} tok_norm;
void tok_norm_free(tok_norm *n);

/* Text on its way through the normalisers.  `zero`: how many of its first bytes come from the first character of the
 * whole input: the Metaspace pre-tokenizer's scheme "first" asks. */
typedef struct tok_buffer {
    mem_str text;
    size_t zero;
} tok_buffer;
/* In place; spare: scratch. */
status tok_norm_apply(const tok_norm *n, tok_matcher *m, tok_buffer *buffer, mem_str *spare);
void tok_bytes_to_chars(const char *text, size_t len, mem_str *out);

/* ---- pre-tokenizers (tokenizer_split.c) ---- */
typedef enum tok_split_kind {
    TOK_SPLIT_BYTES, TOK_SPLIT_PATTERN, TOK_SPLIT_METASPACE, TOK_SPLIT_WHITESPACE, TOK_SPLIT_SPACES, TOK_SPLIT_BERT, TOK_SPLIT_PUNCTUATION,
    TOK_SPLIT_DIGITS, TOK_SPLIT_DELIMITER, TOK_SPLIT_SCRIPTS, TOK_SPLIT_FIXED
} tok_split_kind;
typedef enum tok_behaviour {
    TOK_REMOVED, TOK_ISOLATED, TOK_MERGED_WITH_PREVIOUS, TOK_MERGED_WITH_NEXT, TOK_CONTIGUOUS
} tok_behaviour;
typedef enum tok_scheme { TOK_PREPEND_ALWAYS, TOK_PREPEND_FIRST, TOK_PREPEND_NEVER } tok_scheme;

typedef struct tok_split {
    tok_split_kind kind;
    tok_behaviour behaviour;  /* PATTERN, PUNCTUATION, DIGITS */
    bool invert;              /* PATTERN */
    bool add_prefix_space;    /* BYTES */
    bool split;               /* METASPACE: at its character; BYTES: with `pattern` */
    tok_scheme scheme;        /* METASPACE */
    uint32_t character;       /* METASPACE, DELIMITER */
    size_t length;            /* FIXED: characters a piece */
    tok_pattern pattern;      /* PATTERN, BYTES */
} tok_split;
void tok_split_free(tok_split *s);
/* Fills in `pattern` for the kinds whose pattern is ours. */
status tok_split_prepare(tok_split *s, const char *where);

/* A piece of the text; id >= 0: an added token, done. */
typedef struct tok_piece {
    size_t offset, len, zero;
    int32_t id;
} tok_piece;

typedef struct tok_pieces {
    tok_piece *data;
    size_t n, cap;
} tok_pieces;
status tok_pieces_push(tok_pieces *p, tok_piece piece);

/* All that one encode works on. */
typedef struct tok_work {
    mem_str text, spare;
    tok_pieces pieces, next;
    tok_matcher *matcher;
    bool raw_bytes; /* the last pre-tokenizer was ByteLevel and left the mapping of bytes to the model */
} tok_work;
/* last: no step follows, and the model maps bytes by itself. */
status tok_split_apply(const tok_split *s, tok_work *w, bool last);

/* ---- models ---- */
typedef enum tok_model_kind { TOK_BPE, TOK_UNIGRAM, TOK_WORDPIECE, TOK_WORDLEVEL } tok_model_kind;

typedef struct tok_merge {
    uint32_t rank;
    int32_t id; /* of the merged token; -1 none */
} tok_merge;

typedef struct tok_bpe {
    uint64_t *keys;       /* (left << 32 | right) + 1 */
    tok_merge *merges;
    size_t mask, n_merges;
    int32_t unk;          /* -1: unknown characters vanish */
    bool has_unk, fuse_unk, byte_fallback, ignore_merges;
    tok_string prefix, suffix;
    int32_t fallback[256]; /* ids of <0x00> ..., -1 none */
    int32_t bytes[256];    /* ids of the bytes' characters, -1 none */
    tok_merge *byte_pairs; /* [256][256] merges of two bytes; NULL: words are only taken as characters */
    bool lower_block_starts; /* no merge joins anything to a U+2581 behind it: a text may be cut before each run of them */
} tok_bpe;

typedef struct tok_unigram {
    tok_trie trie;
    double *scores;       /* by id */
    double min_score;
    int32_t unk;          /* -1 none */
    bool byte_fallback;
    int32_t fallback[256];
} tok_unigram;

typedef struct tok_wordpiece {
    tok_trie trie;
    uint32_t continuation; /* node that the continuing prefix leads to */
    bool has_continuation;
    int32_t unk;
    size_t max_chars;
} tok_wordpiece;

/* Scratch of a model during one encode; zero-initialise. */
typedef struct tok_symbol {
    int32_t id, prev, next;
    uint32_t len;
} tok_symbol;
typedef struct tok_candidate {
    uint64_t order; /* rank << 32 | position */
    int32_t id;
} tok_candidate;
typedef struct tok_best {
    double score;
    int64_t from; /* -1: unreached */
    int32_t id;
} tok_best;
typedef struct tok_scratch {
    tok_symbol *symbols;
    size_t cap_symbols;
    tok_candidate *heap;
    size_t n_heap, cap_heap;
    tok_best *best;
    size_t cap_best;
    int32_t *ids;         /* Unigram's path, backwards */
    size_t cap_ids;
    mem_str text, word;
    bool plain;           /* control tokens are not to be made from text */
    const uint8_t *special; /* by id */
} tok_scratch;
void tok_scratch_free(tok_scratch *s);

status tok_bpe_init(tok_bpe *b, size_t n_merges);
status tok_bpe_add_merge(tok_bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t merged); /* the last of equal pairs counts */
/* After merges and options: tables of bytes. */
status tok_bpe_prepare(tok_bpe *b, const tok_vocab *v);
void tok_bpe_free(tok_bpe *b);
status tok_bpe_encode(const tok_bpe *b, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, bool raw_bytes, shard_ids *out);

/* Where the word that begins at `from` ends: at the end of the text unless it may be cut before. */
size_t tok_bpe_word_end(const tok_bpe *b, const char *text, size_t len, size_t from);

status tok_unigram_prepare(tok_unigram *u, const tok_vocab *v);
void tok_unigram_free(tok_unigram *u);
status tok_unigram_encode(const tok_unigram *u, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out);

status tok_wordpiece_prepare(tok_wordpiece *w, const tok_vocab *v, const char *prefix, size_t prefix_len);
void tok_wordpiece_free(tok_wordpiece *w);
status tok_wordpiece_encode(const tok_wordpiece *w, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out);
status tok_wordlevel_encode(const tok_wordpiece *w, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out);

/* Fills fallback[b] with the id of "<0xBB>". */
void tok_fallback_ids(const tok_vocab *v, int32_t fallback[256]);
status tok_ids_push(shard_ids *ids, int32_t id);

/* ---- added tokens (tokenizer_added.c) ---- */
typedef struct tok_added_token {
    tok_string content, normalised; /* normalised.data NULL: as content */
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized;
} tok_added_token;

typedef struct tok_added {
    tok_added_token *tokens; /* in the order of first addition */
    size_t n, cap;
    int32_t n_new;           /* of them not in the model's vocabulary */
    tok_vocab by_content;    /* content -> index into tokens */
    tok_trie raw, normal;    /* -> index into tokens */
    bool has_raw, has_normal;
} tok_added;
void tok_added_free(tok_added *a);

/* ---- post-processor: the single-sequence template, flattened ---- */
typedef struct tok_post {
    int32_t *ops; /* ids, or TOK_POST_SEQUENCE */
    size_t n;
    bool present;
} tok_post;
enum { TOK_POST_SEQUENCE = -1 };

/* ---- decoders (tokenizer_decode.c) ---- */
typedef enum tok_dec_kind {
    TOK_DEC_BYTES, TOK_DEC_FALLBACK, TOK_DEC_METASPACE, TOK_DEC_WORDPIECE, TOK_DEC_BPE, TOK_DEC_CTC, TOK_DEC_FUSE, TOK_DEC_STRIP,
    TOK_DEC_REPLACE
} tok_dec_kind;
typedef struct tok_dec {
    tok_dec_kind kind;
    uint32_t character;    /* METASPACE, STRIP */
    tok_scheme scheme;     /* METASPACE */
    size_t start, stop;    /* STRIP */
    tok_string prefix;     /* WORDPIECE; BPE: suffix; CTC: pad token */
    tok_string delimiter;  /* CTC */
    bool cleanup;          /* WORDPIECE, CTC */
    tok_pattern pattern;   /* REPLACE */
    tok_string content;    /* REPLACE */
} tok_dec;
void tok_dec_free(tok_dec *d);

struct shard_tokenizer {
    char *where;
    tok_model_kind model;
    tok_vocab vocab;
    tok_bpe bpe;
    tok_unigram unigram;
    tok_wordpiece wordpiece; /* and WordLevel's unknown token */
    tok_norm *norms;
    size_t n_norms;
    tok_split *splits;
    size_t n_splits;
    tok_dec *decs;
    size_t n_decs;
    tok_post post;
    tok_added added;
    uint32_t *added_by_id;   /* index into added.tokens + 1, or 0 */
    uint8_t *special;        /* by id: skipped when special tokens are */
    int32_t n_ids;
    bool has_decoder;
};

/* Step constructors for both builders: a new zeroed step at the end. */
status tok_add_norm(shard_tokenizer *t, tok_norm_kind kind, tok_norm **out);
status tok_add_split(shard_tokenizer *t, tok_split_kind kind, tok_split **out);
status tok_add_dec(shard_tokenizer *t, tok_dec_kind kind, tok_dec **out);
status tok_post_push(shard_tokenizer *t, int32_t op);
/* Registers an added token as the reference does when it loads a file (normalisers and model must be complete):
 * the id is the model's or the next free one. */
status tok_add_token(shard_tokenizer *t, const tok_added_token *token);
/* After the last token: search structures, tables by id. */
status tok_finish(shard_tokenizer *t);

status tok_added_split(const shard_tokenizer *t, tok_work *w, bool normal, bool plain);
const char *tok_decode_token(const shard_tokenizer *t, int32_t id, size_t *len);

#endif
