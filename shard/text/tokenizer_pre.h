/* shard/text/tokenizer_pre.h - the splitting rules that GGUF files name (tokenizer.ggml.pre), one row a name. */
#ifndef SHARD_TEXT_TOKENIZER_PRE_H
#define SHARD_TEXT_TOKENIZER_PRE_H

#include <stdbool.h>

enum { TOK_PRE_STEPS = 8 };

/* Steps that are not patterns. */
#define TOK_PRE_GPT2 "(gpt2)"               /* the ByteLevel pre-tokenizer with its own pattern */
#define TOK_PRE_DIGITS "(digits)"           /* each digit alone */
#define TOK_PRE_DIGIT_RUNS "(digit runs)"   /* runs of digits */
#define TOK_PRE_PUNCTUATION "(punctuation)" /* runs of punctuation */

typedef struct tok_pre {
    const char *name;
    const char *steps[TOK_PRE_STEPS]; /* each splits what the one before left; NULL ends */
    bool ignore_merges; /* a word that is a token is taken whole */
    bool add_bos, add_eos; /* where the file is silent */
    bool nfc;           /* the model's own tokenizer normalises; the file does not say so */
} tok_pre;

const tok_pre *tok_pre_find(const char *name); /* NULL: unknown */
const char *tok_pre_name(int i);               /* the i-th name; NULL behind the last */

#endif
