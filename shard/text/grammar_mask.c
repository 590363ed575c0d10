/* shard/text/grammar_mask.c - sequences over a loaded grammar: masks and taken tokens.
 *
 * A mask is found by walking the trie of all tokens, leaving a subtree where the configuration dies.  Two things make that short: tokens
 * which a JSON string takes as they are need not be walked where any such text is allowed (gram_slice), and a configuration's mask is
 * kept.  Counts that differ only in what no token is long enough to reach share a mask. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "shard/text/grammar_run.h"

/* Bytes of masks kept for one grammar. */
static const size_t max_mask_bytes = (size_t)16 << 20;

void run_free_masks(shard_grammar *g)
{
    for (size_t i = 0; i < g->n_masks; i++) {
        free(g->masks[i].bits);
        free(g->masks[i].tokens);
    }
    for (size_t i = 0; i < g->n_configs; i++)
        g->configs[i].mask = -1;
    g->n_masks = g->mask_bytes = 0;
}

status shard_grammar_load(const void *bytes, size_t len, const shard_grammar_vocab *vocab, shard_grammar **out)
{
    shard_grammar *g;
    TRY(mem_calloc(1, sizeof(*g), "grammar", &g));
    g->vocab = vocab;
    status st = run_parse(g, bytes, len);
    if (st == ST_OK)
        st = run_begin(g);
    if (st != ST_OK) {
        shard_grammar_destroy(&g);
        return st;
    }
    *out = g;
    return ST_OK;
}

void shard_grammar_destroy(shard_grammar **grammar)
{
    shard_grammar *g = *grammar;
    if (g == NULL)
        return;
    run_free(g);
    run_free_grammar(g);
    free(g);
    *grammar = NULL;
}

/* ---- states ---- */

static status create(shard_grammar *g, int32_t config, bool done, shard_grammar_state **out)
{
    shard_grammar_state *s;
    TRY(mem_calloc(1, sizeof(*s), "grammar", &s));
    *s = (shard_grammar_state){.grammar = g, .next = g->live, .config = config, .done = done};
    if (g->live != NULL)
        g->live->prev = s;
    g->live = s;
    *out = s;
    return ST_OK;
}

status shard_grammar_state_create(shard_grammar *g, shard_grammar_state **out)
{
    return create(g, g->initial, false, out);
}

status shard_grammar_state_copy(const shard_grammar_state *s, shard_grammar_state **out)
{
    return create(s->grammar, s->config, s->done, out);
}

void shard_grammar_state_destroy(shard_grammar_state **state)
{
    shard_grammar_state *s = *state;
    if (s == NULL)
        return;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        s->grammar->live = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    free(s);
    *state = NULL;
}

status shard_grammar_accept(shard_grammar_state *s, int32_t token)
{
    shard_grammar *g = s->grammar;
    const shard_grammar_vocab *v = g->vocab;
    bool end = token >= 0 && token < v->n_vocab && (v->end_mask[token / 32] >> (token % 32) & 1) != 0;
    if (token < 0 || token >= v->n_vocab || (s->done && !end))
        return FAIL(ST_INVALID, "grammar: token %d is not allowed", token);
    if (end) {
        if (!s->done && !g->configs[s->config].accept)
            return FAIL(ST_INVALID, "grammar: it cannot end here");
        s->done = true;
        return ST_OK;
    }
    TRY(run_tidy(g));
    int32_t config = v->offset[token] == v->offset[token + 1] ? RUN_DEAD : s->config;
    for (uint32_t i = v->offset[token]; i < v->offset[token + 1] && config != RUN_DEAD; i++)
        TRY(run_move(g, config, (uint8_t)v->text.data[i], &config));
    if (config == RUN_DEAD)
        return FAIL(ST_INVALID, "grammar: token %d is not allowed", token);
    s->config = config;
    return ST_OK;
}

bool shard_grammar_ended(const shard_grammar_state *s)
{
    return s->done || s->grammar->configs[s->config].n == 0;
}

/* ---- masks ---- */

/* The configuration with counts moved to where the nearest bound is as far as it matters: a token of max_len bytes counts no more
 * rounds than that. */
static status widen(shard_grammar *g, int32_t config, int32_t *out)
{
    const run_config *c = &g->configs[config];
    uint32_t reach = g->vocab->max_len + 1;
    bool changed = false;
    for (uint32_t i = 0; i < c->n; i++) {
        run_item item = g->items[c->at + i];
        const run_rule *r = &g->rules[g->states[item.state].rule];
        uint32_t need = item.count < r->min ? r->min - item.count : 0, room = r->max - item.count, to = item.count;
        if (r->counted && room > reach) {
            if (need > reach)
                to = 1;
            else if (need == 0 && r->max != UINT32_MAX)
                to = r->min > 0 ? r->min : 1;
        }
        /* The first round differs from later ones: a rule does not end before it has read something. */
        if (r->counted && item.count > 0 && to < item.count) {
            item.count = to;
            changed = true;
        }
        g->set[i] = item;
    }
    *out = config;
    return changed ? run_intern_config(g, g->set, run_sort(g->set, c->n), c->accept, out) : ST_OK;
}

/* ---- slices ---- */

/* UTF-8 without '"', '\' and control characters, by what may come next: state 0 is between characters. */
typedef struct plain_edge {
    uint8_t state, first, last, to;
} plain_edge;
static const plain_edge plain_edges[] = {
    {0, 0x20, 0x21, 0}, {0, 0x23, 0x5b, 0}, {0, 0x5d, 0x7f, 0}, {0, 0xc2, 0xdf, 1}, {0, 0xe0, 0xe0, 2}, {0, 0xe1, 0xec, 3}, {0, 0xed, 0xed, 4}, {0, 0xee, 0xef, 3},
    {0, 0xf0, 0xf0, 5}, {0, 0xf1, 0xf3, 6}, {0, 0xf4, 0xf4, 7}, {1, 0x80, 0xbf, 0}, {2, 0xa0, 0xbf, 1}, {3, 0x80, 0xbf, 1}, {4, 0x80, 0x9f, 1},
    {5, 0x90, 0xbf, 3}, {6, 0x80, 0xbf, 3}, {7, 0x80, 0x8f, 3},
};

typedef struct place { /* in the product of a configuration's moves and plain text */
    int32_t config;
    uint8_t state;
} place;
enum { MAX_PLACES = 320 };

static bool find_place(const place *at, size_t n, place p)
{
    for (size_t i = 0; i < n; i++) {
        if (at[i].config == p.config && at[i].state == p.state)
            return true;
    }
    return false;
}

/* Takes all plain edges from one place; the ends of characters go to `next`, the rest to `inner`.  *all: each move was possible. */
static status spread(shard_grammar *g, place p, place *places, size_t *n, place *next, size_t *n_next, bool *all)
{
    for (size_t i = 0; i < ARRAY_LEN(plain_edges); i++) {
        const plain_edge *e = &plain_edges[i];
        int last_class = -1;
        if (e->state != p.state)
            continue;
        for (int b = e->first; b <= e->last; b++) {
            place to = {.state = e->to};
            if (g->class_of[b] == last_class)
                continue;
            last_class = g->class_of[b];
            TRY(run_move(g, p.config, (uint8_t)b, &to.config));
            if (to.config == RUN_DEAD || *n == MAX_PLACES || *n_next == MAX_PLACES) {
                *all = false;
                return ST_OK;
            }
            if (to.state == 0 && !find_place(next, *n_next, to))
                next[(*n_next)++] = to;
            else if (to.state != 0 && !find_place(places, *n, to))
                places[(*n)++] = to;
        }
    }
    return ST_OK;
}

/* How many characters of plain text, whatever they are, may follow: UINT32_MAX if any number. */
static status plain_reach(shard_grammar *g, int32_t config, uint32_t most, uint32_t *out)
{
    place seen[MAX_PLACES], places[MAX_PLACES], next[MAX_PLACES];
    size_t n_seen = 1, n_next = 1;
    next[0] = seen[0] = (place){.config = config};
    for (*out = 0; *out < most; ++*out) {
        size_t n = n_next;
        bool all = true, fresh = false;
        memcpy(places, next, n * sizeof(*places));
        n_next = 0;
        for (size_t i = 0; i < n && all; i++)
            TRY(spread(g, places[i], places, &n, next, &n_next, &all));
        if (!all)
            return ST_OK;
        for (size_t i = 0; i < n_next; i++) {
            if (find_place(seen, n_seen, next[i]))
                continue;
            fresh = true;
            if (n_seen < MAX_PLACES)
                seen[n_seen++] = next[i];
        }
        if (!fresh) {
            *out = UINT32_MAX;
            return ST_OK;
        }
    }
    return ST_OK;
}

/* ---- walking ---- */

static void allow(const shard_grammar_vocab *v, int32_t token, uint32_t *bits)
{
    for (; token >= 0; token = v->same[token])
        bits[token / 32] |= 1u << (token % 32);
}

/* The common move is one load from the row of the node above; a leaf needs no row of its own. */
static status walk(shard_grammar *g, int32_t config, const gram_trie *t, uint32_t *bits)
{
    g->path[0] = config;
    g->rows[0] = g->configs[config].row;
    for (uint32_t i = 0; i < t->n;) {
        const gram_trie_node *node = &t->at[i];
        uint32_t row = g->rows[node->depth - 1];
        int32_t to = row == RUN_NONE ? RUN_UNKNOWN : g->moves[row + g->class_of[node->byte]];
        if (to == RUN_UNKNOWN) {
            TRY(run_move(g, g->path[node->depth - 1], node->byte, &to));
            g->rows[node->depth - 1] = g->configs[g->path[node->depth - 1]].row;
        }
        if (to == RUN_DEAD) {
            i = node->end;
            continue;
        }
        if (node->token >= 0)
            bits[node->token / 32] |= 1u << (node->token % 32);
        if (node->end > ++i) {
            g->path[node->depth] = to;
            g->rows[node->depth] = g->configs[to].row;
        }
    }
    return ST_OK;
}

static void add_equals(const shard_grammar_vocab *v, uint32_t *bits)
{
    for (uint32_t w = 0; w < v->words; w++) {
        for (uint32_t left = bits[w]; left != 0; left &= left - 1) {
            int32_t token = (int32_t)(w * 32 + (uint32_t)__builtin_ctz(left));
            if (v->same[token] >= 0)
                allow(v, v->same[token], bits);
        }
    }
}

static status find_mask(shard_grammar *g, int32_t config, run_mask *out)
{
    const shard_grammar_vocab *v = g->vocab;
    const gram_trie *t = &v->all;
    uint32_t reach, n = 0;
    *out = (run_mask){.slice = -1};
    TRY(plain_reach(g, config, v->slices[1].chars, &reach));
    for (int k = 0; k < GRAM_SLICES && out->slice < 0; k++) {
        if (reach >= v->slices[k].chars)
            out->slice = k;
    }
    if (out->slice >= 0)
        t = &v->slices[out->slice].rest;
    memset(g->bits, 0, v->words * sizeof(*g->bits));
    TRY(walk(g, config, t, g->bits));
    add_equals(v, g->bits);
    for (uint32_t w = 0; w < v->words; w++)
        n += (uint32_t)__builtin_popcount(g->bits[w]);
    if (n >= v->words) {
        TRY(mem_calloc(v->words, sizeof(*out->bits), "grammar", &out->bits));
        memcpy(out->bits, g->bits, v->words * sizeof(*out->bits));
        return ST_OK;
    }
    TRY(mem_calloc(n, sizeof(*out->tokens), "grammar", &out->tokens));
    for (uint32_t w = 0; w < v->words; w++) {
        for (uint32_t left = g->bits[w]; left != 0; left &= left - 1)
            out->tokens[out->n_tokens++] = (int32_t)(w * 32 + (uint32_t)__builtin_ctz(left));
    }
    return ST_OK;
}

static status keep_mask(shard_grammar *g, int32_t config, run_mask m)
{
    if (g->mask_bytes > max_mask_bytes)
        run_free_masks(g);
    status st = mem_grow(&g->masks, &g->cap_masks, g->n_masks + 1, sizeof(*g->masks), "grammar");
    if (st != ST_OK) {
        free(m.bits);
        free(m.tokens);
        return st;
    }
    g->mask_bytes += sizeof(m) + (m.bits != NULL ? g->vocab->words : m.n_tokens) * sizeof(uint32_t);
    g->configs[config].mask = (int32_t)g->n_masks;
    g->masks[g->n_masks++] = m;
    return ST_OK;
}

/* Slices hold only tokens that come first among their equals' list or not: their equals are in them as well. */
static void put_mask(const shard_grammar_vocab *v, const run_mask *m, uint32_t *mask)
{
    if (m->bits != NULL)
        memcpy(mask, m->bits, v->words * sizeof(*mask));
    else
        memset(mask, 0, v->words * sizeof(*mask));
    for (uint32_t i = 0; i < m->n_tokens; i++)
        mask[m->tokens[i] / 32] |= 1u << (m->tokens[i] % 32);
    for (uint32_t w = 0; m->slice >= 0 && w < v->words; w++)
        mask[w] |= v->slices[m->slice].mask[w];
}

status shard_grammar_mask(shard_grammar_state *s, uint32_t *mask)
{
    shard_grammar *g = s->grammar;
    const shard_grammar_vocab *v = g->vocab;
    int32_t config;
    if (s->done) {
        memcpy(mask, v->end_mask, v->words * sizeof(*mask));
        return ST_OK;
    }
    TRY(run_tidy(g));
    TRY(widen(g, s->config, &config));
    if (g->configs[config].mask < 0) {
        run_mask m;
        TRY(find_mask(g, config, &m));
        TRY(keep_mask(g, config, m));
    }
    const run_mask *m = &g->masks[g->configs[config].mask];
    put_mask(v, m, mask);
    bool accept = g->configs[config].accept;
    for (uint32_t w = 0; accept && w < v->words; w++)
        mask[w] |= v->end_mask[w];
    if (!accept && m->bits == NULL && m->n_tokens == 0 && m->slice < 0)
        return FAIL(ST_UNSUPPORTED, "grammar: no token of the vocabulary goes on from here");
    return ST_OK;
}
