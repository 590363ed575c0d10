/* shard/text/tokenizer.c - running a tokenizer: text through its parts into ids, and what there is to ask about it. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shard/text/tokenizer_internal.h"

enum { MAX_TEXT = 1 << 30, CACHE_MIN = 64, CACHE_MAX = 8192, CACHE_WORD_MAX = 64 };

void shard_ids_free(shard_ids *ids)
{
    free(ids->data);
    *ids = (shard_ids){0};
}

void tok_dec_free(tok_dec *d)
{
    free(d->prefix.data);
    free(d->delimiter.data);
    free(d->content.data);
    tok_pattern_free(&d->pattern);
}

void shard_tokenizer_destroy(shard_tokenizer **tp)
{
    shard_tokenizer *t = *tp;
    if (t == NULL)
        return;
    tok_vocab_free(&t->vocab);
    tok_bpe_free(&t->bpe);
    tok_unigram_free(&t->unigram);
    tok_wordpiece_free(&t->wordpiece);
    for (size_t i = 0; i < t->n_norms; i++)
        tok_norm_free(&t->norms[i]);
    for (size_t i = 0; i < t->n_splits; i++)
        tok_split_free(&t->splits[i]);
    for (size_t i = 0; i < t->n_decs; i++)
        tok_dec_free(&t->decs[i]);
    free(t->norms);
    free(t->splits);
    free(t->decs);
    free(t->post.ops);
    tok_added_free(&t->added);
    free(t->added_by_id);
    free(t->special);
    free(t->where);
    free(t);
    *tp = NULL;
}

/* ---- steps of a tokenizer under construction ---- */

/* Real files have a handful. */
enum { MAX_STEPS = 256 };

static status grow_steps(void *array /* T ** */, size_t *n, size_t size)
{
    if (*n >= MAX_STEPS)
        return FAIL(ST_LIMIT, "tokenizer: more than %d steps of one kind", MAX_STEPS);
    void *old, *grown;
    memcpy(&old, array, sizeof(old));
    grown = realloc(old, (*n + 1) * size);
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for its steps");
    memset((char *)grown + *n * size, 0, size);
    memcpy(array, &grown, sizeof(grown));
    ++*n;
    return ST_OK;
}

status tok_add_norm(shard_tokenizer *t, tok_norm_kind kind, tok_norm **out)
{
    TRY(grow_steps(&t->norms, &t->n_norms, sizeof(*t->norms)));
    *out = &t->norms[t->n_norms - 1];
    (*out)->kind = kind;
    return ST_OK;
}

status tok_add_split(shard_tokenizer *t, tok_split_kind kind, tok_split **out)
{
    TRY(grow_steps(&t->splits, &t->n_splits, sizeof(*t->splits)));
    *out = &t->splits[t->n_splits - 1];
    (*out)->kind = kind;
    return ST_OK;
}

status tok_add_dec(shard_tokenizer *t, tok_dec_kind kind, tok_dec **out)
{
    TRY(grow_steps(&t->decs, &t->n_decs, sizeof(*t->decs)));
    *out = &t->decs[t->n_decs - 1];
    (*out)->kind = kind;
    t->has_decoder = true;
    return ST_OK;
}

status tok_post_push(shard_tokenizer *t, int32_t op)
{
    if (t->post.n >= 4096)
        return FAIL(ST_LIMIT, "%s: the post-processor adds too many tokens", t->where);
    int32_t *ops = realloc(t->post.ops, (t->post.n + 1) * sizeof(*ops));
    if (ops == NULL)
        return FAIL(ST_NO_MEMORY, "tokenizer: no memory for the post-processor");
    t->post.ops = ops;
    t->post.ops[t->post.n++] = op;
    t->post.present = true;
    return ST_OK;
}

/* ---- encoding ---- */

static status normalise_pieces(const shard_tokenizer *t, tok_work *w)
{
    if (t->n_norms == 0)
        return ST_OK;
    tok_buffer b = {0};
    mem_str spare = {0};
    status st = ST_OK;
    mem_str_clear(&w->spare);
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece *p = &w->pieces.data[i];
        if (p->id >= 0)
            continue;
        mem_str_clear(&b.text);
        mem_str_append(&b.text, w->text.data + p->offset, p->len);
        b.zero = p->zero;
        for (size_t k = 0; k < t->n_norms; k++)
            TRY_GOTO(tok_norm_apply(&t->norms[k], w->matcher, &b, &spare), done);
        *p = (tok_piece){.offset = w->spare.len, .len = b.text.len, .zero = b.zero, .id = -1};
        mem_str_append(&w->spare, b.text.len == 0 ? "" : b.text.data, b.text.len);
    }
    if (w->spare.failed || b.text.failed)
        st = FAIL(ST_NO_MEMORY, "tokenizer: no memory for a normalised text");
    mem_str old = w->text;
    w->text = w->spare;
    w->spare = old;
done:
    mem_str_free(&b.text);
    mem_str_free(&spare);
    return st;
}

/* Words seen in this text, by hash: the ids they gave are still in the output. */
typedef struct seen_word {
    const char *word;
    uint32_t len, n_ids;
    size_t first_id;
} seen_word;

static status encode_word(const shard_tokenizer *t, tok_scratch *s, const char *word, size_t len, bool raw_bytes, shard_ids *ids)
{
    switch (t->model) {
    case TOK_BPE:
        return tok_bpe_encode(&t->bpe, &t->vocab, s, word, len, raw_bytes, ids);
    case TOK_UNIGRAM:
        return tok_unigram_encode(&t->unigram, &t->vocab, s, word, len, ids);
    case TOK_WORDPIECE:
        return tok_wordpiece_encode(&t->wordpiece, &t->vocab, s, word, len, ids);
    case TOK_WORDLEVEL:
        return tok_wordlevel_encode(&t->wordpiece, &t->vocab, s, word, len, ids);
    }
    return ST_INTERNAL;
}

typedef struct word_cache {
    seen_word *seen;
    size_t mask;
} word_cache;

static status encode_cached(const shard_tokenizer *t, tok_scratch *s, const word_cache *cache, const char *word, size_t len, bool raw_bytes, shard_ids *ids)
{
    if (len > CACHE_WORD_MAX)
        return encode_word(t, s, word, len, raw_bytes, ids);
    seen_word *hit = &cache->seen[(size_t)hash_fast(word, len, 0) & cache->mask];
    if (hit->len == len && memcmp(hit->word, word, len) == 0) {
        for (uint32_t k = 0; k < hit->n_ids; k++)
            TRY(tok_ids_push(ids, ids->data[hit->first_id + k]));
        return ST_OK;
    }
    size_t first = ids->n;
    TRY(encode_word(t, s, word, len, raw_bytes, ids));
    *hit = (seen_word){.word = word, .len = (uint32_t)len, .first_id = first, .n_ids = (uint32_t)(ids->n - first)};
    return ST_OK;
}

/* A piece that merges cannot cross everywhere is encoded word by word: short words are found again, and long texts stay fast. */
static status encode_piece(const shard_tokenizer *t, tok_scratch *s, const word_cache *cache, const char *text, size_t len, bool raw_bytes, shard_ids *ids)
{
    bool whole = t->model != TOK_BPE || raw_bytes || (t->bpe.ignore_merges && len <= t->vocab.max_len);
    for (size_t at = 0; at < len;) {
        size_t end = whole ? len : tok_bpe_word_end(&t->bpe, text, len, at);
        TRY(encode_cached(t, s, cache, text + at, end - at, raw_bytes, ids));
        at = end;
    }
    return ST_OK;
}

static status encode_pieces(const shard_tokenizer *t, tok_work *w, bool plain, shard_ids *ids)
{
    tok_scratch scratch = {.plain = plain, .special = t->special};
    size_t slots = CACHE_MIN;
    while (slots < CACHE_MAX && slots < w->text.len / 8)
        slots *= 2;
    word_cache cache = {.mask = slots - 1};
    TRY(mem_calloc(slots, sizeof(*cache.seen), "tokenizer: words seen", &cache.seen));
    status st = ST_OK;
    for (size_t i = 0; i < w->pieces.n && st == ST_OK; i++) {
        const tok_piece *p = &w->pieces.data[i];
        st = p->id >= 0 ? tok_ids_push(ids, p->id) : encode_piece(t, &scratch, &cache, w->text.data + p->offset, p->len, w->raw_bytes, ids);
    }
    free(cache.seen);
    tok_scratch_free(&scratch);
    return st;
}

static status split_and_encode(const shard_tokenizer *t, tok_work *w, size_t text_len, bool plain, shard_ids *ids)
{
    TRY(tok_matcher_create(text_len, tok_text_is_newer(w->text.len == 0 ? "" : w->text.data, w->text.len), &w->matcher));
    if (w->text.len > 0)
        TRY(tok_pieces_push(&w->pieces, (tok_piece){.len = w->text.len, .zero = tok_utf8_len(w->text.data[0]), .id = -1}));
    TRY(tok_added_split(t, w, false, plain));
    TRY(normalise_pieces(t, w));
    TRY(tok_added_split(t, w, true, plain));
    /* Pieces that normalisation emptied are none. */
    size_t kept = 0;
    for (size_t i = 0; i < w->pieces.n; i++) {
        if (w->pieces.data[i].id >= 0 || w->pieces.data[i].len > 0)
            w->pieces.data[kept++] = w->pieces.data[i];
    }
    w->pieces.n = kept;
    for (size_t i = 0; i < t->n_splits; i++)
        TRY(tok_split_apply(&t->splits[i], w, i + 1 == t->n_splits && t->model == TOK_BPE && t->bpe.byte_pairs != NULL));
    return encode_pieces(t, w, plain, ids);
}

status shard_tokenizer_encode(const shard_tokenizer *t, const char *text, size_t len, int flags, shard_ids *ids)
{
    if (len > MAX_TEXT)
        return FAIL(ST_LIMIT, "tokenizer: a text of %zu bytes; at most 1 GiB is accepted", len);
    tok_work w = {0};
    shard_ids own = {0};
    if (tok_utf8_valid(text, len))
        mem_str_append(&w.text, text, len);
    else
        tok_utf8_repair(text, len, &w.text);
    status st = w.text.failed ? FAIL(ST_NO_MEMORY, "tokenizer: no memory for a text of %zu bytes", len)
                              : split_and_encode(t, &w, len, (flags & SHARD_ENCODE_PLAIN) != 0, &own);
    bool special = (flags & SHARD_ENCODE_ADD_SPECIAL) != 0;
    size_t n_ops = t->post.present ? t->post.n : 1;
    for (size_t i = 0; i < n_ops && st == ST_OK; i++) {
        int32_t op = t->post.present ? t->post.ops[i] : TOK_POST_SEQUENCE;
        if (op >= 0 && special)
            st = tok_ids_push(ids, op);
        for (size_t k = 0; op == TOK_POST_SEQUENCE && k < own.n && st == ST_OK; k++)
            st = tok_ids_push(ids, own.data[k]);
    }
    shard_ids_free(&own);
    mem_str_free(&w.text);
    mem_str_free(&w.spare);
    free(w.pieces.data);
    free(w.next.data);
    tok_matcher_destroy(&w.matcher);
    return st;
}

/* ---- questions ---- */

const char *tok_decode_token(const shard_tokenizer *t, int32_t id, size_t *len)
{
    if (id < 0 || id >= t->n_ids)
        return NULL;
    if (t->added_by_id[id] == 0)
        return tok_vocab_token(&t->vocab, id, len);
    const tok_added_token *k = &t->added.tokens[t->added_by_id[id] - 1];
    /* An added token decodes as it was normalised, so that the decoders can undo it. */
    const tok_string *s = k->normalised.data != NULL ? &k->normalised : &k->content;
    *len = s->len;
    return s->data;
}

int32_t shard_tokenizer_size(const shard_tokenizer *t)
{
    return t->n_ids;
}

int32_t shard_tokenizer_id(const shard_tokenizer *t, const char *token)
{
    size_t len = strlen(token);
    int32_t at = tok_vocab_find(&t->added.by_content, token, len);
    return at >= 0 ? t->added.tokens[at].id : tok_vocab_find(&t->vocab, token, len);
}

const char *shard_tokenizer_token(const shard_tokenizer *t, int32_t id, size_t *len)
{
    size_t unused;
    len = len == NULL ? &unused : len;
    if (id >= 0 && id < t->n_ids && t->added_by_id[id] != 0) {
        const tok_string *s = &t->added.tokens[t->added_by_id[id] - 1].content;
        *len = s->len;
        return s->data;
    }
    return tok_decode_token(t, id, len);
}

bool shard_tokenizer_is_special(const shard_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_ids && t->special[id] != 0;
}

const char *shard_tokenizer_kind(const shard_tokenizer *t)
{
    switch (t->model) {
    case TOK_UNIGRAM:
        return "Unigram";
    case TOK_WORDPIECE:
        return "WordPiece";
    case TOK_WORDLEVEL:
        return "WordLevel";
    case TOK_BPE:
        break;
    }
    bool bytes = false;
    for (size_t i = 0; i < t->n_splits; i++)
        bytes = bytes || t->splits[i].kind == TOK_SPLIT_BYTES;
    for (size_t i = 0; i < t->n_norms; i++)
        bytes = bytes || t->norms[i].kind == TOK_NORM_BYTES;
    return bytes ? "byte-level BPE" : t->bpe.byte_fallback ? "SentencePiece BPE" : "BPE";
}
