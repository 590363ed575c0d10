/* shard/text/tokenizer_models.c - Unigram, WordPiece and WordLevel: one word into ids. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shard/text/tokenizer_internal.h"

/* ---- Unigram: the path of highest score through the word (Viterbi), SentencePiece's algorithm ---- */

/* What an unknown character costs beyond the worst token. */
#define UNKNOWN_PENALTY 10.0

status tok_unigram_prepare(tok_unigram *u, const tok_vocab *v)
{
    tok_fallback_ids(v, u->fallback);
    u->min_score = INFINITY;
    for (int32_t i = 0; i < v->n_ids; i++) {
        if (u->scores[i] < u->min_score)
            u->min_score = u->scores[i];
    }
    TRY(tok_trie_init(&u->trie));
    for (size_t i = 0; i < v->n; i++) {
        if (v->entries[i].len > 0)
            TRY(tok_trie_add(&u->trie, v->text.data + v->entries[i].offset, v->entries[i].len, v->entries[i].id));
    }
    return ST_OK;
}

void tok_unigram_free(tok_unigram *u)
{
    tok_trie_free(&u->trie);
    free(u->scores);
}

static void reach(tok_best *to, double score, size_t from, int32_t id)
{
    if (to->from < 0 || score > to->score)
        *to = (tok_best){.score = score, .from = (int64_t)from, .id = id};
}

static status reserve_path(tok_scratch *s, size_t n)
{
    if (n > s->cap_best) {
        tok_best *best = realloc(s->best, n * sizeof(*best));
        if (best == NULL)
            return FAIL(ST_NO_MEMORY, "tokenizer: no memory for a word of %zu bytes", n);
        s->best = best;
        s->cap_best = n;
    }
    for (size_t i = 0; i < n; i++)
        s->best[i] = (tok_best){.from = -1};
    return ST_OK;
}

static status fill_path(const tok_unigram *u, tok_scratch *s, const char *word, size_t len)
{
    for (size_t at = 0; at < len;) {
        double here = s->best[at].score;
        size_t step = tok_utf8_len(word[at]);
        bool single = false;
        uint32_t node = 0;
        for (size_t i = at; i < len; i++) {
            node = tok_trie_step(&u->trie, node, word[i]);
            if (node == 0)
                break;
            int32_t id = u->trie.values[node];
            if (id < 0 || (s->plain && s->special[id]))
                continue;
            reach(&s->best[i + 1], here + u->scores[id], at, id);
            single = single || i + 1 - at == step;
        }
        if (!single) {
            if (u->unk < 0)
                return FAIL(ST_FORMAT, "tokenizer: the text holds an unknown character and the vocabulary has no unknown token (unk_id)");
            reach(&s->best[at + step], here + (u->min_score - UNKNOWN_PENALTY), at, u->unk);
        }
        at += step;
    }
    return ST_OK;
}

/* Neighbouring unknown characters are one token: a known text after all, its bytes, or the unknown token. */
static status push_unknown(const tok_unigram *u, const tok_vocab *v, const char *text, size_t len, shard_ids *out)
{
    int32_t id = tok_vocab_find(v, text, len);
    if (id >= 0)
        return tok_ids_push(out, id);
    bool bytes = u->byte_fallback;
    for (size_t i = 0; i < len && bytes; i++)
        bytes = u->fallback[(uint8_t)text[i]] >= 0;
    if (!bytes)
        return tok_ids_push(out, u->unk);
    for (size_t i = 0; i < len; i++)
        TRY(tok_ids_push(out, u->fallback[(uint8_t)text[i]]));
    return ST_OK;
}

status tok_unigram_encode(const tok_unigram *u, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out)
{
    TRY(reserve_path(s, len + 1));
    TRY(fill_path(u, s, word, len));
    /* Turn the backward links of the best path round: best[from].from becomes where the token ends. */
    size_t end = len;
    while (end > 0) {
        tok_best *b = &s->best[end];
        size_t from = (size_t)b->from;
        s->best[from].score = (double)end; /* exact: below 2^53 */
        end = from;
    }
    for (size_t at = 0; at < len;) {
        size_t to = (size_t)s->best[at].score;
        int32_t id = s->best[to].id;
        if (id != u->unk) {
            TRY(tok_ids_push(out, id));
            at = to;
            continue;
        }
        size_t stop = to;
        while (stop < len) {
            size_t next = (size_t)s->best[stop].score;
            if (s->best[next].id != u->unk)
                break;
            stop = next;
        }
        TRY(push_unknown(u, v, word + at, stop - at, out));
        at = stop;
    }
    return ST_OK;
}

/* ---- WordPiece: the longest token first, continuing ones behind a prefix ---- */

status tok_wordpiece_prepare(tok_wordpiece *w, const tok_vocab *v, const char *prefix, size_t prefix_len)
{
    TRY(tok_trie_init(&w->trie));
    for (size_t i = 0; i < v->n; i++) {
        if (v->entries[i].len > 0)
            TRY(tok_trie_add(&w->trie, v->text.data + v->entries[i].offset, v->entries[i].len, v->entries[i].id));
    }
    uint32_t node = 0;
    size_t i = 0;
    for (; i < prefix_len; i++) {
        node = tok_trie_step(&w->trie, node, prefix[i]);
        if (node == 0)
            break;
    }
    w->continuation = node;
    w->has_continuation = i == prefix_len;
    return ST_OK;
}

void tok_wordpiece_free(tok_wordpiece *w)
{
    tok_trie_free(&w->trie);
}

static status push_unk(const tok_wordpiece *w, shard_ids *out)
{
    if (w->unk < 0)
        return FAIL(ST_FORMAT, "tokenizer: the text needs the unknown token, which the vocabulary lacks");
    return tok_ids_push(out, w->unk);
}

static bool too_many_chars(const char *word, size_t len, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < len && n <= max; i += tok_utf8_len(word[i]))
        n++;
    return n > max;
}

status tok_wordpiece_encode(const tok_wordpiece *w, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out)
{
    (void)v;
    if (too_many_chars(word, len, w->max_chars))
        return push_unk(w, out);
    size_t first = out->n;
    for (size_t at = 0; at < len;) {
        uint32_t node = at == 0 ? 0 : w->continuation;
        size_t best = at;
        int32_t best_id = -1;
        for (size_t i = at; i < len && (at == 0 || w->has_continuation); i++) {
            node = tok_trie_step(&w->trie, node, word[i]);
            if (node == 0)
                break;
            int32_t id = w->trie.values[node];
            bool whole = i + 1 == len || ((unsigned char)word[i + 1] & 0xc0) != 0x80;
            if (id >= 0 && whole && !(s->plain && s->special[id])) {
                best = i + 1;
                best_id = id;
            }
        }
        if (best_id < 0) {
            out->n = first;
            return push_unk(w, out);
        }
        TRY(tok_ids_push(out, best_id));
        at = best;
    }
    return ST_OK;
}

status tok_wordlevel_encode(const tok_wordpiece *w, const tok_vocab *v, tok_scratch *s, const char *word, size_t len, shard_ids *out)
{
    int32_t id = tok_vocab_find(v, word, len);
    if (id < 0 || (s->plain && s->special[id]))
        return push_unk(w, out);
    return tok_ids_push(out, id);
}
