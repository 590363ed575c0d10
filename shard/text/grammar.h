/* shard/text/grammar.h - structured output: which tokens may come next.
 *
 * A grammar is compiled from a JSON schema, a regular expression, a list of choices or EBNF into bytes that know no tokenizer (the
 * gateway does it once, within limits); a last-stage rank loads the bytes, and walks them with each token.
 *
 * The bytes hold a recursive transition network: one deterministic automaton over bytes for each rule, with edges that call rules.
 * It runs as a pushdown automaton that follows all readings at once (generalised LL, Scott and Johnstone 2010); configurations are
 * interned, so that the pushdown automaton turns into a table as it runs, and each configuration keeps its mask (masks by
 * precomputation per automaton position: XGrammar, arXiv:2411.15100). */
#ifndef SHARD_TEXT_GRAMMAR_H
#define SHARD_TEXT_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "shard/text/tokenizer.h"

typedef enum shard_grammar_kind {
    SHARD_GRAMMAR_JSON_SCHEMA,
    SHARD_GRAMMAR_JSON_OBJECT, /* any JSON object; the source is ignored */
    SHARD_GRAMMAR_REGEX,       /* the whole output matches */
    SHARD_GRAMMAR_CHOICE,      /* source: a JSON list of strings */
    SHARD_GRAMMAR_EBNF         /* GBNF; the rule "root" is the whole output */
} shard_grammar_kind;

/* 0 = the default. */
typedef struct shard_grammar_limits {
    size_t max_source;  /* bytes in (1 MiB) */
    size_t max_bytes;   /* bytes out (4 MiB) */
    int64_t max_steps;  /* units of work (50 million) */
    double max_seconds; /* of the calling thread's processor time (2) */
} shard_grammar_limits;

/* Appends the compiled bytes.  ST_UNSUPPORTED names the keyword; ST_INVALID the fault; ST_LIMIT. */
status shard_grammar_compile(shard_grammar_kind kind, const char *source, size_t len, const shard_grammar_limits *limits, mem_str *out);

/* A tokenizer's tokens as bytes, arranged for walking; one for a checkpoint, immutable, shared by threads.  Borrows nothing.
 * Tokens from the tokenizer's size to n_vocab (padding), special ones and empty ones are never allowed, end tokens only at an end.
 * ST_UNSUPPORTED: a decoder whose tokens have no text of their own (WordPiece, CTC ...). */
typedef struct shard_grammar_vocab shard_grammar_vocab;
status shard_grammar_vocab_create(const shard_tokenizer *t, int32_t n_vocab, const int32_t *end_tokens, int32_t n_end, shard_grammar_vocab **out);
void shard_grammar_vocab_destroy(shard_grammar_vocab **v);

/* Loaded bytes with a vocabulary (borrowed) and the cache of masks.  A grammar and its states belong to one thread at a time; they may
 * serve any number of sequences.  Hostile bytes: ST_FORMAT. */
typedef struct shard_grammar shard_grammar;
status shard_grammar_load(const void *bytes, size_t len, const shard_grammar_vocab *vocab, shard_grammar **out);
void shard_grammar_destroy(shard_grammar **g); /* after its states */

/* Of one sequence. */
typedef struct shard_grammar_state shard_grammar_state;
status shard_grammar_state_create(shard_grammar *g, shard_grammar_state **out);
status shard_grammar_state_copy(const shard_grammar_state *s, shard_grammar_state **out);
void shard_grammar_state_destroy(shard_grammar_state **s);

/* Bit i of mask[i / 32]: token i may come next; words = (n_vocab + 31) / 32.  End tokens are allowed exactly where the grammar may end.
 * ST_LIMIT: a grammar so ambiguous that its readings outgrow memory (none of JSON's does); ST_UNSUPPORTED: no token continues. */
status shard_grammar_mask(shard_grammar_state *s, uint32_t *mask);
/* ST_INVALID: the token was not allowed; the state stays as it was. */
status shard_grammar_accept(shard_grammar_state *s, int32_t token);
bool shard_grammar_ended(const shard_grammar_state *s); /* nothing but an end token may follow */

#endif
