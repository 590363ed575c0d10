/* shard/text/grammar_vocab.c - a tokenizer's tokens as the bytes they add to a text, in tries.
 *
 * Inside a JSON string most tokens may stand as they are.  They are told apart once, by how many characters they have: where a grammar
 * takes any text of so many characters, one mask says it for all of them, and only the rest is walked. */
#include <stdlib.h>
#include <string.h>

#include "shard/text/grammar_internal.h"
#include "shard/text/tokenizer_internal.h"

/* Characters of a token: the largest slice has no bound. */
static const uint32_t slice_chars[GRAM_SLICES] = {UINT32_MAX, 16, 8, 4, 2};

/* ---- a token's bytes ---- */

static status refuse(const tok_dec *d)
{
    static const char *const names[] = {"ByteLevel", "ByteFallback", "Metaspace", "WordPiece", "BPEDecoder", "CTC", "Fuse", "Strip", "Replace"};
    return FAIL(ST_UNSUPPORTED, "grammar: tokens of a %s decoder have no text of their own", names[d->kind]);
}

/* Only decoders under which a token's text does not depend on its neighbours (but for blanks at the very beginning, which Strip and
 * Metaspace take from the first token of a text: an answer does not begin one). */
static status check_decoders(const shard_tokenizer *t)
{
    for (size_t i = 0; i < t->n_decs; i++) {
        const tok_dec *d = &t->decs[i];
        if (d->kind == TOK_DEC_WORDPIECE || d->kind == TOK_DEC_BPE || d->kind == TOK_DEC_CTC || (d->kind == TOK_DEC_REPLACE && d->pattern.regex != NULL))
            return refuse(d);
    }
    return t->n_decs > 0 ? ST_OK : FAIL(ST_UNSUPPORTED, "grammar: the tokenizer has no decoder");
}

static status take_tokens(shard_grammar_vocab *v, const shard_tokenizer *t)
{
    mem_str one = {0};
    status st = ST_OK;
    int32_t known = shard_tokenizer_size(t);
    for (int32_t i = 0; i < v->n_vocab; i++) {
        v->offset[i] = (uint32_t)v->text.len;
        if (i < known && (v->end_mask[i / 32] >> (i % 32) & 1) == 0) {
            mem_str_clear(&one);
            if (!shard_tokenizer_is_special(t, i))
                TRY_GOTO(shard_tokenizer_token_bytes(t, i, &one), out);
            if (one.len > 0 && one.len < UINT16_MAX)
                mem_str_append(&v->text, one.data, one.len);
        }
        uint32_t len = (uint32_t)v->text.len - v->offset[i];
        v->max_len = len > v->max_len ? len : v->max_len;
        if (v->text.len > UINT32_MAX / 2)
            break;
    }
    v->offset[v->n_vocab] = (uint32_t)v->text.len;
    if (one.failed || v->text.failed || v->text.len > UINT32_MAX / 2)
        st = FAIL(ST_NO_MEMORY, "grammar: no memory for the vocabulary");
out:
    mem_str_free(&one);
    return st;
}

/* ---- tries ---- */

typedef struct sorted {
    const shard_grammar_vocab *v;
    int32_t *ids;
    uint32_t n;
} sorted;

static int by_bytes(const void *a, const void *b, void *vocab)
{
    const shard_grammar_vocab *v = vocab;
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    size_t nx = v->offset[x + 1] - v->offset[x], ny = v->offset[y + 1] - v->offset[y];
    int order = memcmp(v->text.data + v->offset[x], v->text.data + v->offset[y], nx < ny ? nx : ny);
    if (order != 0)
        return order;
    return nx != ny ? (nx < ny ? -1 : 1) : x < y ? -1 : x > y;
}

static size_t shared_prefix(const shard_grammar_vocab *v, int32_t a, int32_t b)
{
    size_t na = v->offset[a + 1] - v->offset[a], nb = v->offset[b + 1] - v->offset[b], n = 0;
    while (n < na && n < nb && v->text.data[v->offset[a] + n] == v->text.data[v->offset[b] + n])
        n++;
    return n;
}

static size_t count_nodes(const sorted *s)
{
    size_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        size_t len = s->v->offset[s->ids[i] + 1] - s->v->offset[s->ids[i]];
        n += len - (i == 0 ? 0 : shared_prefix(s->v, s->ids[i - 1], s->ids[i]));
    }
    return n;
}

/* From sorted tokens: preorder comes by itself.  A token equal to the one before hangs on its `same` list. */
static status build_trie(const sorted *s, int32_t *same, gram_trie *out)
{
    const shard_grammar_vocab *v = s->v;
    uint32_t *open; /* nodes on the path to the last token */
    size_t depth = 0;
    TRY(mem_calloc(count_nodes(s), sizeof(*out->at), "grammar", &out->at));
    TRY(mem_calloc((size_t)v->max_len + 1, sizeof(*open), "grammar", &open));
    for (uint32_t i = 0; i < s->n; i++) {
        int32_t id = s->ids[i];
        size_t len = v->offset[id + 1] - v->offset[id], keep = i == 0 ? 0 : shared_prefix(v, s->ids[i - 1], id);
        while (depth > keep)
            out->at[open[--depth]].end = out->n;
        for (; depth < len; depth++) {
            open[depth] = out->n;
            out->at[out->n++] = (gram_trie_node){.token = -1, .depth = (uint16_t)(depth + 1), .byte = (uint8_t)v->text.data[v->offset[id] + depth]};
        }
        int32_t *slot = &out->at[open[len - 1]].token;
        if (same != NULL)
            same[id] = *slot;
        *slot = id;
    }
    while (depth > 0)
        out->at[open[--depth]].end = out->n;
    free(open);
    return ST_OK;
}

/* ---- slices ---- */

/* How many characters (the last one may lack its end) if the bytes may stand in a JSON string as they are; 0: they may not. */
static uint32_t plain_chars(const char *s, size_t n)
{
    uint32_t chars = 0;
    for (size_t i = 0; i < n; chars++) {
        bool valid, open;
        size_t step = tok_utf8_scan(s + i, n - i, &valid, &open);
        if ((!valid && !open) || (unsigned char)s[i] < 0x20 || s[i] == '"' || s[i] == '\\')
            return 0;
        i += step;
    }
    return chars;
}

static status build_slices(shard_grammar_vocab *v, const sorted *all)
{
    sorted rest = {.v = v};
    status st = ST_OK;
    TRY(mem_calloc(all->n, sizeof(*rest.ids), "grammar", &rest.ids));
    for (int k = 0; k < GRAM_SLICES && st == ST_OK; k++) {
        gram_slice *s = &v->slices[k];
        s->chars = slice_chars[k];
        st = mem_calloc(v->words, sizeof(*s->mask), "grammar", &s->mask);
        rest.n = 0;
        for (uint32_t i = 0; i < all->n && st == ST_OK; i++) {
            int32_t id = all->ids[i];
            uint32_t chars = plain_chars(v->text.data + v->offset[id], v->offset[id + 1] - v->offset[id]);
            if (chars > 0 && chars <= s->chars)
                s->mask[id / 32] |= 1u << (id % 32);
            else
                rest.ids[rest.n++] = id;
        }
        if (st == ST_OK)
            st = build_trie(&rest, NULL, &s->rest);
    }
    free(rest.ids);
    return st;
}

static status arrange(shard_grammar_vocab *v)
{
    sorted all = {.v = v};
    TRY(mem_calloc((size_t)v->n_vocab, sizeof(*all.ids), "grammar", &all.ids));
    for (int32_t i = 0; i < v->n_vocab; i++) {
        v->same[i] = -1;
        if (v->offset[i + 1] > v->offset[i])
            all.ids[all.n++] = i;
    }
    qsort_r(all.ids, all.n, sizeof(*all.ids), by_bytes, v);
    status st = build_trie(&all, v->same, &v->all);
    if (st == ST_OK)
        st = build_slices(v, &all);
    free(all.ids);
    return st;
}

static status fill(shard_grammar_vocab *v, const shard_tokenizer *t, const int32_t *end_tokens, int32_t n_end)
{
    v->words = ((uint32_t)v->n_vocab + 31) / 32;
    TRY(mem_calloc((size_t)v->n_vocab + 1, sizeof(*v->offset), "grammar", &v->offset));
    TRY(mem_calloc((size_t)v->n_vocab, sizeof(*v->same), "grammar", &v->same));
    TRY(mem_calloc(v->words, sizeof(*v->end_mask), "grammar", &v->end_mask));
    for (int32_t i = 0; i < n_end; i++) {
        if (end_tokens[i] >= 0 && end_tokens[i] < v->n_vocab)
            v->end_mask[end_tokens[i] / 32] |= 1u << (end_tokens[i] % 32);
    }
    TRY(take_tokens(v, t));
    return arrange(v);
}

status shard_grammar_vocab_create(const shard_tokenizer *t, int32_t n_vocab, const int32_t *end_tokens, int32_t n_end, shard_grammar_vocab **out)
{
    shard_grammar_vocab *v;
    if (n_vocab <= 0 || n_vocab > TOK_MAX_ID)
        return FAIL(ST_INVALID, "grammar: a vocabulary of %d", n_vocab);
    TRY(check_decoders(t));
    TRY(mem_calloc(1, sizeof(*v), "grammar", &v));
    v->n_vocab = n_vocab;
    status st = fill(v, t, end_tokens, n_end);
    if (st != ST_OK) {
        shard_grammar_vocab_destroy(&v);
        return st;
    }
    *out = v;
    return ST_OK;
}

void shard_grammar_vocab_destroy(shard_grammar_vocab **vocab)
{
    shard_grammar_vocab *v = *vocab;
    if (v == NULL)
        return;
    for (int k = 0; k < GRAM_SLICES; k++) {
        free(v->slices[k].mask);
        free(v->slices[k].rest.at);
    }
    free(v->all.at);
    free(v->offset);
    free(v->same);
    free(v->end_mask);
    mem_str_free(&v->text);
    free(v);
    *vocab = NULL;
}
