#include "shard/text/tokenizer_vocab.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

void tok_vocab_free(tok_vocab *v)
{
    mem_str_free(&v->text);
    free(v->entries);
    free(v->slots);
    free(v->by_id);
    *v = (tok_vocab){0};
}

static const char *entry_text(const tok_vocab *v, const tok_entry *e)
{
    return v->text.data + e->offset;
}

static size_t slot_of(const tok_vocab *v, const char *token, size_t len)
{
    size_t i = (size_t)hash_fast(token, len, 0) & v->mask;
    while (v->slots[i] != 0) {
        const tok_entry *e = &v->entries[v->slots[i] - 1];
        if (e->len == len && memcmp(entry_text(v, e), token, len) == 0)
            break;
        i = (i + 1) & v->mask;
    }
    return i;
}

static status vocab_grow(tok_vocab *v)
{
    size_t cap = v->cap == 0 ? 1024 : v->cap * 2;
    tok_entry *entries = realloc(v->entries, cap * sizeof(*entries));
    if (entries == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for %zu tokens", cap);
    v->entries = entries;
    v->cap = cap;
    free(v->slots);
    v->mask = cap * 2 - 1;
    TRY(mem_calloc(cap * 2, sizeof(*v->slots), "tokenizer: token table", &v->slots));
    for (size_t i = 0; i < v->n; i++)
        v->slots[slot_of(v, entry_text(v, &v->entries[i]), v->entries[i].len)] = (uint32_t)i + 1;
    return ST_OK;
}

status tok_vocab_add(tok_vocab *v, const char *where, const char *token, size_t len, int64_t id)
{
    if (id < 0 || id >= TOK_MAX_ID)
        return FAIL(ST_FORMAT, "%s: token \"%.*s\" has id %lld; ids from 0 to %d are accepted", where, (int)(len > 60 ? 60 : len), token,
                    (long long)id, TOK_MAX_ID - 1);
    if (len > (1u << 20))
        return FAIL(ST_LIMIT, "%s: the token with id %lld is %zu bytes long; at most 1 MiB is accepted", where, (long long)id, len);
    if (v->n == v->cap)
        TRY(vocab_grow(v));
    size_t i = slot_of(v, token, len);
    if (v->slots[i] != 0 && !v->keep_duplicates) {
        v->entries[v->slots[i] - 1].id = (int32_t)id;
    } else {
        if (v->n >= TOK_MAX_TOKENS)
            return FAIL(ST_LIMIT, "%s: more than %d tokens", where, TOK_MAX_TOKENS);
        v->entries[v->n] = (tok_entry){.offset = v->text.len, .len = (uint32_t)len, .id = (int32_t)id};
        mem_str_append(&v->text, token, len);
        if (v->text.failed)
            return FAIL(ST_NO_MEMORY, "tokenizer: no memory for the vocabulary");
        v->slots[i] = (uint32_t)++v->n;
    }
    if (len > v->max_len)
        v->max_len = (uint32_t)len;
    if (id >= v->n_ids)
        v->n_ids = (int32_t)id + 1;
    return ST_OK;
}

status tok_vocab_finish(tok_vocab *v, const char *where)
{
    /* A few tokens with enormous ids would cost memory out of all proportion. */
    if ((size_t)v->n_ids > v->n * 16 + (1u << 20))
        return FAIL(ST_FORMAT, "%s: the highest token id is %d but there are only %zu tokens", where, v->n_ids - 1, v->n);
    TRY(mem_calloc((size_t)v->n_ids + 1, sizeof(*v->by_id), "tokenizer: tokens by id", &v->by_id));
    for (size_t i = 0; i < v->n; i++)
        v->by_id[v->entries[i].id] = (uint32_t)i + 1;
    return ST_OK;
}

int32_t tok_vocab_find(const tok_vocab *v, const char *token, size_t len)
{
    if (v->n == 0 || len > v->max_len)
        return -1;
    size_t i = slot_of(v, token, len);
    return v->slots[i] == 0 ? -1 : v->entries[v->slots[i] - 1].id;
}

const char *tok_vocab_token(const tok_vocab *v, int32_t id, size_t *len)
{
    if (id < 0 || id >= v->n_ids || v->by_id[id] == 0)
        return NULL;
    const tok_entry *e = &v->entries[v->by_id[id] - 1];
    *len = e->len;
    return entry_text(v, e);
}

void tok_trie_free(tok_trie *t)
{
    free(t->keys);
    free(t->children);
    free(t->values);
    *t = (tok_trie){0};
}

static status trie_grow_edges(tok_trie *t, size_t cap)
{
    uint64_t *old_keys = t->keys;
    uint32_t *old_children = t->children;
    size_t old = t->keys == NULL ? 0 : t->mask + 1;
    t->keys = NULL;
    t->children = NULL;
    status st = mem_calloc(cap, sizeof(*t->keys), "tokenizer: trie", &t->keys);
    if (st == ST_OK)
        st = mem_calloc(cap, sizeof(*t->children), "tokenizer: trie", &t->children);
    if (st == ST_OK) {
        t->mask = cap - 1;
        for (size_t i = 0; i < old; i++) {
            if (old_keys[i] == 0)
                continue;
            size_t j = (size_t)hash_mix(old_keys[i]) & t->mask;
            while (t->keys[j] != 0)
                j = (j + 1) & t->mask;
            t->keys[j] = old_keys[i];
            t->children[j] = old_children[i];
        }
    }
    free(old_keys);
    free(old_children);
    return st;
}

static status trie_new_node(tok_trie *t, uint32_t *node)
{
    if (t->n_nodes == t->cap_nodes) {
        if (t->n_nodes >= 1u << 28)
            return FAIL(ST_LIMIT, "tokenizer: the vocabulary's trie is too large");
        uint32_t cap = t->cap_nodes == 0 ? 256 : t->cap_nodes * 2;
        int32_t *values = realloc(t->values, cap * sizeof(*values));
        if (values == NULL)
            return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a trie of %u nodes", cap);
        t->values = values;
        t->cap_nodes = cap;
    }
    *node = t->n_nodes++;
    t->values[*node] = -1;
    return ST_OK;
}

status tok_trie_init(tok_trie *t)
{
    *t = (tok_trie){0};
    uint32_t root;
    TRY(trie_grow_edges(t, 1024));
    return trie_new_node(t, &root);
}

uint32_t tok_trie_find_edge(const tok_trie *t, uint32_t node, uint8_t byte)
{
    uint64_t key = ((uint64_t)node << 8 | byte) + 1;
    size_t i = (size_t)hash_mix(key) & t->mask;
    while (t->keys[i] != 0) {
        if (t->keys[i] == key)
            return t->children[i];
        i = (i + 1) & t->mask;
    }
    return 0;
}

status tok_trie_add(tok_trie *t, const char *key, size_t len, int32_t value)
{
    uint32_t node = 0;
    for (size_t k = 0; k < len; k++) {
        uint32_t child = tok_trie_find_edge(t, node, (uint8_t)key[k]);
        if (child == 0) {
            TRY(trie_new_node(t, &child));
            if (++t->n_edges * 2 > t->mask)
                TRY(trie_grow_edges(t, (t->mask + 1) * 2));
            uint64_t edge = ((uint64_t)node << 8 | (uint8_t)key[k]) + 1;
            size_t i = (size_t)hash_mix(edge) & t->mask;
            while (t->keys[i] != 0)
                i = (i + 1) & t->mask;
            t->keys[i] = edge;
            t->children[i] = child;
            if (node == 0)
                t->root[(uint8_t)key[k]] = child;
        }
        node = child;
    }
    t->values[node] = value;
    return ST_OK;
}
