/* shard/text/tokenizer_added.c - added tokens: registering them, and cutting them out of a text.
 *
 * Tokens are looked for in two passes: those marked normalized=false in the raw text, the others (in their normalised
 * spelling) in the normalised text.  A search is leftmost-longest and goes on behind each hit, even one that is then
 * refused (single_word, plain). */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/text/tokenizer_internal.h"

void tok_added_free(tok_added *a)
{
    for (size_t i = 0; i < a->n; i++) {
        free(a->tokens[i].content.data);
        free(a->tokens[i].normalised.data);
    }
    free(a->tokens);
    tok_vocab_free(&a->by_content);
    tok_trie_free(&a->raw);
    tok_trie_free(&a->normal);
}

static status normalise_token(const shard_tokenizer *t, tok_added_token *token)
{
    tok_buffer b = {0};
    mem_str spare = {0};
    tok_matcher *m = NULL;
    mem_str_append(&b.text, token->content.data, token->content.len);
    status st = tok_matcher_create(token->content.len, true, &m);
    for (size_t i = 0; i < t->n_norms && st == ST_OK; i++)
        st = tok_norm_apply(&t->norms[i], m, &b, &spare);
    if (st == ST_OK && (b.text.len != token->content.len || memcmp(b.text.data, token->content.data, b.text.len) != 0))
        st = tok_string_copy(b.text.len == 0 ? "" : b.text.data, b.text.len, &token->normalised);
    tok_matcher_destroy(&m);
    mem_str_free(&b.text);
    mem_str_free(&spare);
    return st;
}

status tok_add_token(shard_tokenizer *t, const tok_added_token *token)
{
    tok_added *a = &t->added;
    if (token->content.len == 0)
        return ST_OK;
    int32_t at = tok_vocab_find(&a->by_content, token->content.data, token->content.len);
    int32_t id = at >= 0 ? a->tokens[at].id : tok_vocab_find(&t->vocab, token->content.data, token->content.len);
    tok_added_token copy = *token;
    copy.content = copy.normalised = (tok_string){0};
    if (id < 0) {
        /* The reference counts on from the number of the model's tokens, whatever id the file gives. */
        id = (int32_t)t->vocab.n + a->n_new++;
    }
    copy.id = id;
    if (at < 0) {
        TRY(mem_grow(&a->tokens, &a->cap, a->n + 1, sizeof(*a->tokens), "tokenizer: added tokens"));
        at = (int32_t)a->n;
        TRY(tok_vocab_add(&a->by_content, t->where, token->content.data, token->content.len, at));
        a->tokens[a->n++] = (tok_added_token){0};
    } else {
        /* Once special, a text stays special to the reference, even when it is added again as an ordinary token. */
        copy.special = copy.special || a->tokens[at].special;
    }
    tok_added_token *slot = &a->tokens[at];
    free(slot->content.data);
    free(slot->normalised.data);
    *slot = copy;
    TRY(tok_string_copy(token->content.data, token->content.len, &slot->content));
    return slot->normalized ? normalise_token(t, slot) : ST_OK;
}

static status build_tries(shard_tokenizer *t)
{
    tok_added *a = &t->added;
    TRY(tok_trie_init(&a->raw));
    TRY(tok_trie_init(&a->normal));
    for (size_t i = 0; i < a->n; i++) {
        const tok_added_token *k = &a->tokens[i];
        const tok_string *text = k->normalized && k->normalised.data != NULL ? &k->normalised : &k->content;
        if (text->len == 0)
            continue;
        TRY(tok_trie_add(k->normalized ? &a->normal : &a->raw, text->data, text->len, (int32_t)i));
        *(k->normalized ? &a->has_normal : &a->has_raw) = true;
    }
    return ST_OK;
}

/* Which ids decoding skips: those whose token, as it is decoded, is spelled like a special one. */
static status mark_special(shard_tokenizer *t)
{
    TRY(mem_calloc((size_t)t->n_ids + 1, 1, "tokenizer: special tokens", &t->special));
    for (size_t i = 0; i < t->added.n; i++) {
        size_t len;
        const char *token = tok_decode_token(t, t->added.tokens[i].id, &len);
        int32_t like = token == NULL ? -1 : tok_vocab_find(&t->added.by_content, token, len);
        if (like >= 0 && t->added.tokens[like].special)
            t->special[t->added.tokens[i].id] = 1;
    }
    return ST_OK;
}

status tok_finish(shard_tokenizer *t)
{
    t->n_ids = t->vocab.n_ids;
    for (size_t i = 0; i < t->added.n; i++)
        t->n_ids = t->added.tokens[i].id >= t->n_ids ? t->added.tokens[i].id + 1 : t->n_ids;
    TRY(mem_calloc((size_t)t->n_ids + 1, sizeof(*t->added_by_id), "tokenizer: added tokens by id", &t->added_by_id));
    for (size_t i = 0; i < t->added.n; i++)
        t->added_by_id[t->added.tokens[i].id] = (uint32_t)i + 1;
    TRY(build_tries(t));
    return mark_special(t);
}

/* ---- cutting them out ---- */

static bool word_before(const char *text, size_t at)
{
    if (at == 0)
        return false;
    size_t from = at - 1;
    while (from > 0 && ((unsigned char)text[from] & 0xc0) == 0x80)
        from--;
    return tok_is_word(tok_utf8_next(text, &from));
}

static bool word_after(const char *text, size_t at, size_t len)
{
    return at < len && tok_is_word(tok_utf8_next(text, &at));
}

static size_t spaces_before(const char *text, size_t at, size_t limit)
{
    while (at > limit) {
        size_t from = at - 1, pos;
        while (from > limit && ((unsigned char)text[from] & 0xc0) == 0x80)
            from--;
        pos = from;
        if (!tok_is_space(tok_utf8_next(text, &pos)))
            break;
        at = from;
    }
    return at;
}

static size_t spaces_after(const char *text, size_t at, size_t len)
{
    while (at < len) {
        size_t next = at;
        if (!tok_is_space(tok_utf8_next(text, &next)))
            break;
        at = next;
    }
    return at;
}

/* The longest token at `at`; -1 none. */
static int32_t token_at(const tok_trie *trie, const char *text, size_t at, size_t len, size_t *end)
{
    int32_t best = -1;
    uint32_t node = 0;
    for (size_t i = at; i < len; i++) {
        node = tok_trie_step(trie, node, text[i]);
        if (node == 0)
            break;
        if (trie->values[node] >= 0) {
            best = trie->values[node];
            *end = i + 1;
        }
    }
    return best;
}

static status push_text(tok_work *w, const tok_piece *p, size_t from, size_t to)
{
    if (from == to)
        return ST_OK;
    size_t zero = p->zero > from ? p->zero - from : 0;
    return tok_pieces_push(&w->next, (tok_piece){.offset = p->offset + from, .len = to - from, .zero = zero < to - from ? zero : to - from, .id = -1});
}

static status cut_piece(const shard_tokenizer *t, tok_work *w, const tok_trie *trie, const tok_piece *p, bool plain)
{
    const char *text = w->text.data + p->offset;
    size_t done = 0;
    for (size_t at = 0; at < p->len;) {
        size_t end = at;
        int32_t index = trie->root[(uint8_t)text[at]] == 0 ? -1 : token_at(trie, text, at, p->len, &end);
        if (index < 0) {
            at++;
            continue;
        }
        const tok_added_token *k = &t->added.tokens[index];
        size_t from = at, to = end;
        at = end;
        if (plain && k->special)
            continue;
        if (k->single_word && (word_before(text, from) || word_after(text, to, p->len)))
            continue;
        if (k->lstrip) {
            from = spaces_before(text, from, done);
            from = from < done ? done : from;
        }
        if (k->rstrip)
            to = spaces_after(text, to, p->len);
        /* A token that stripped on its right may have taken the blanks that this one lies in: both count. */
        if (done < from)
            TRY(push_text(w, p, done, from));
        if (to > from)
            TRY(tok_pieces_push(&w->next, (tok_piece){.offset = p->offset + from, .len = to - from, .id = k->id}));
        done = to;
    }
    return push_text(w, p, done < p->len ? done : p->len, p->len);
}

status tok_added_split(const shard_tokenizer *t, tok_work *w, bool normal, bool plain)
{
    if (!(normal ? t->added.has_normal : t->added.has_raw))
        return ST_OK;
    const tok_trie *trie = normal ? &t->added.normal : &t->added.raw;
    for (size_t i = 0; i < w->pieces.n; i++) {
        tok_piece p = w->pieces.data[i];
        if (p.id >= 0)
            TRY(tok_pieces_push(&w->next, p));
        else
            TRY(cut_piece(t, w, trie, &p, plain));
    }
    tok_pieces old = w->pieces;
    w->pieces = w->next;
    w->next = old;
    w->next.n = 0;
    return ST_OK;
}
