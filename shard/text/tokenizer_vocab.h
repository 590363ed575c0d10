/* shard/text/tokenizer_vocab.h - tokens by text and by id, and a byte trie for longest and all-prefix search. */
#ifndef SHARD_TEXT_TOKENIZER_VOCAB_H
#define SHARD_TEXT_TOKENIZER_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct tok_entry {
    size_t offset;
    uint32_t len;
    int32_t id;
} tok_entry;

/* Text to id by hashing; ids need not be dense.  Of equal texts the last one added counts; with keep_duplicates the ids
 * of the others still have that text. */
typedef struct tok_vocab {
    mem_str text;        /* all tokens, back to back */
    tok_entry *entries;
    size_t n, cap;
    uint32_t *slots;     /* entry + 1, or 0 */
    size_t mask;
    uint32_t *by_id;     /* entry + 1, or 0 */
    int32_t n_ids;       /* highest id + 1 */
    uint32_t max_len;    /* bytes of the longest token */
    bool keep_duplicates;
} tok_vocab;

enum { TOK_MAX_TOKENS = 1 << 23, TOK_MAX_ID = 1 << 25 };

void tok_vocab_free(tok_vocab *v);
status tok_vocab_add(tok_vocab *v, const char *where, const char *token, size_t len, int64_t id);
/* After the last add: makes ids findable. */
status tok_vocab_finish(tok_vocab *v, const char *where);
int32_t tok_vocab_find(const tok_vocab *v, const char *token, size_t len); /* -1: none */
const char *tok_vocab_token(const tok_vocab *v, int32_t id, size_t *len);  /* NULL: none */

/* Node 0 is the root.  Edges live in one hash table, so a step costs one probe whatever the fan-out. */
typedef struct tok_trie {
    uint64_t *keys;      /* (node << 8 | byte) + 1, or 0 */
    uint32_t *children;
    size_t mask, n_edges;
    int32_t *values;     /* by node; -1 none */
    uint32_t n_nodes, cap_nodes;
    uint32_t root[256];  /* the root's children, 0 none */
} tok_trie;

void tok_trie_free(tok_trie *t);
status tok_trie_init(tok_trie *t);
status tok_trie_add(tok_trie *t, const char *key, size_t len, int32_t value); /* the last value of a key counts */
uint32_t tok_trie_find_edge(const tok_trie *t, uint32_t node, uint8_t byte); /* 0: none */

static inline uint32_t tok_trie_step(const tok_trie *t, uint32_t node, char byte)
{
    return node == 0 ? t->root[(uint8_t)byte] : tok_trie_find_edge(t, node, (uint8_t)byte);
}

#endif
