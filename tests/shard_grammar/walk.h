/* tests/shard_grammar/walk.h - what the grammar's tests share: a vocabulary of bytes, compiling and loading in one, walks. */
#ifndef TESTS_SHARD_GRAMMAR_WALK_H
#define TESTS_SHARD_GRAMMAR_WALK_H

#include "shard/text/grammar.h"

/* A byte-level tokenizer with the 256 bytes and the end token 256. */
enum { WALK_END = 256, WALK_BYTES = 257 };
status walk_byte_tokenizer(shard_tokenizer **out);

typedef struct walk {
    shard_grammar_vocab *vocab;
    shard_grammar *grammar;
    mem_str compiled;
} walk;
/* vocab is borrowed.  Only filled in on ST_OK. */
status walk_open(shard_grammar_kind kind, const char *source, size_t len, shard_grammar_vocab *vocab, walk *out);
void walk_close(walk *w);

/* Over the vocabulary of bytes: does the grammar accept all of the text?  *prefix: may it begin so? */
bool walk_accepts(walk *w, const char *text, size_t len, bool *prefix);

#endif
