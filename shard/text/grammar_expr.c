/* shard/text/grammar_expr.c - expressions: what front ends build and rules are made of. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "shard/text/grammar_internal.h"

/* ---- work and memory ---- */

status gram_work(gram_ctx *c, uint64_t steps)
{
    int64_t before = c->steps;
    c->steps = steps > (uint64_t)before ? -1 : before - (int64_t)steps;
    if (c->steps < 0)
        return FAIL(ST_LIMIT, "grammar: it takes too much work to compile");
    /* The clock is read once in about 65,000 steps. */
    if ((before ^ c->steps) >> 16 != 0 && log_thread_clock() > c->deadline)
        return FAIL(ST_LIMIT, "grammar: it takes too long to compile");
    return ST_OK;
}

status gram_alloc(gram_ctx *c, size_t n, size_t size, void *out)
{
    size_t bytes;
    void *p = mem_mul(n, size, &bytes) ? mem_arena_alloc(c->arena, bytes == 0 ? 1 : bytes) : NULL;
    memcpy(out, &p, sizeof(p));
    return p != NULL ? ST_OK : FAIL(ST_LIMIT, "grammar: it takes too much memory to compile");
}

status gram_grow(gram_ctx *c, void *array, size_t n, size_t *cap, size_t size)
{
    void *old, *grown = NULL;
    if (n < *cap)
        return ST_OK;
    size_t want = *cap == 0 ? 8 : *cap * 2;
    memcpy(&old, array, sizeof(old));
    TRY(gram_alloc(c, want, size, &grown));
    if (n > 0)
        memcpy(grown, old, n * size);
    memcpy(array, &grown, sizeof(grown));
    *cap = want;
    return ST_OK;
}

/* ---- sets of characters ---- */

status gram_set_add(gram_ctx *c, gram_set *s, uint32_t first, uint32_t last)
{
    TRY(gram_work(c, 1));
    TRY(gram_grow(c, &s->at, s->n, &s->cap, sizeof(*s->at)));
    s->at[s->n++] = (gram_range){first, last};
    return ST_OK;
}

status gram_set_add_all(gram_ctx *c, gram_set *s, const gram_set *other)
{
    for (size_t i = 0; i < other->n; i++)
        TRY(gram_set_add(c, s, other->at[i].first, other->at[i].last));
    return ST_OK;
}

static int by_first(const void *a, const void *b)
{
    const gram_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

static size_t merge(gram_range *at, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (at[i].first > at[i].last)
            continue;
        if (kept > 0 && at[i].first <= at[kept - 1].last + 1) {
            if (at[i].last > at[kept - 1].last)
                at[kept - 1].last = at[i].last;
        } else {
            at[kept++] = at[i];
        }
    }
    return kept;
}

/* Surrogates stay inside ranges here: gram_nfa_expr leaves them out, as UTF-8 cannot say them. */
void gram_set_finish(gram_set *s)
{
    if (s->n > 0)
        qsort(s->at, s->n, sizeof(*s->at), by_first);
    for (size_t i = 0; i < s->n; i++) {
        if (s->at[i].last > 0x10ffff)
            s->at[i].last = 0x10ffff;
    }
    s->n = merge(s->at, s->n);
}

status gram_set_invert(gram_ctx *c, gram_set *s)
{
    gram_set out = {0};
    uint32_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->at[i].first > next)
            TRY(gram_set_add(c, &out, next, s->at[i].first - 1));
        next = s->at[i].last + 1;
    }
    if (next <= 0x10ffff)
        TRY(gram_set_add(c, &out, next, 0x10ffff));
    *s = out;
    return ST_OK;
}

/* ---- expressions ---- */

static const gram_expr empty = {.kind = GRAM_EMPTY, .size = 1, .depth = 1};
static const gram_expr nothing = {.kind = GRAM_NOTHING, .size = 1, .depth = 1};

const gram_expr *gram_empty(void)
{
    return &empty;
}

const gram_expr *gram_nothing(void)
{
    return &nothing;
}

static status create(gram_ctx *c, gram_expr e, const gram_expr **out)
{
    gram_expr *made = NULL;
    if (e.depth > GRAM_MAX_DEPTH)
        return FAIL(ST_LIMIT, "grammar: nested deeper than %d", GRAM_MAX_DEPTH);
    TRY(gram_work(c, 1));
    TRY(gram_alloc(c, 1, sizeof(*made), &made));
    *made = e;
    *out = made;
    return ST_OK;
}

static uint32_t sum(uint64_t a, uint64_t b)
{
    return a + b > UINT32_MAX ? UINT32_MAX : (uint32_t)(a + b);
}

status gram_text(gram_ctx *c, const char *text, size_t len, const gram_expr **out)
{
    if (len == 0) {
        *out = &empty;
        return ST_OK;
    }
    char *copy = mem_arena_strndup(c->arena, text, len);
    if (copy == NULL)
        return FAIL(ST_LIMIT, "grammar: it takes too much memory to compile");
    return create(c, (gram_expr){.kind = GRAM_TEXT, .text = copy, .len = len, .size = sum(len, 0), .depth = 1}, out);
}

/* A class of many ranges as its minimal automaton, made once: hundreds of ranges share most of their bytes. */
static status large_class(gram_ctx *c, const gram_expr *chars, const gram_expr **out)
{
    gram_dfa d;
    const gram_set *set = &chars->chars;
    for (size_t i = 0; i < c->n_classes; i++) {
        const gram_class *k = &c->classes[i];
        if (k->set.n == set->n && memcmp(k->set.at, set->at, set->n * sizeof(*set->at)) == 0) {
            *out = k->expr;
            return ST_OK;
        }
    }
    TRY(gram_dfa_of(c, chars, true, &d));
    TRY(gram_automaton(c, d, out));
    TRY(gram_grow(c, &c->classes, c->n_classes, &c->cap_classes, sizeof(*c->classes)));
    c->classes[c->n_classes++] = (gram_class){*set, *out};
    return ST_OK;
}

status gram_chars(gram_ctx *c, gram_set set, const gram_expr **out)
{
    enum { MANY = 8 };
    uint32_t wide = set.n > 0 && set.at[set.n - 1].last > 0x7f ? 4 : 0;
    TRY(create(c, (gram_expr){.kind = set.n == 0 ? GRAM_NOTHING : GRAM_CHARS, .chars = set, .size = 1 + wide, .depth = 1}, out));
    return set.n > MANY ? large_class(c, *out, out) : ST_OK;
}

status gram_push(gram_ctx *c, gram_list *l, const gram_expr *e)
{
    TRY(gram_grow(c, &l->items, l->n, &l->cap, sizeof(*l->items)));
    l->items[l->n++] = e;
    return ST_OK;
}

status gram_push_text(gram_ctx *c, gram_list *l, const char *text)
{
    const gram_expr *e;
    TRY(gram_text(c, text, strlen(text), &e));
    return gram_push(c, l, e);
}

static status list(gram_ctx *c, gram_expr_kind kind, const gram_list *l, const gram_expr **out)
{
    gram_expr e = {.kind = kind, .items = l->items, .n = l->n, .size = 1};
    for (size_t i = 0; i < l->n; i++) {
        e.size = sum(e.size, l->items[i]->size);
        e.depth = l->items[i]->depth > e.depth ? l->items[i]->depth : e.depth;
    }
    e.depth++;
    return create(c, e, out);
}

status gram_seq(gram_ctx *c, const gram_list *l, const gram_expr **out)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i]->kind == GRAM_NOTHING) {
            *out = &nothing;
            return ST_OK;
        }
    }
    *out = l->n == 0 ? &empty : l->items[0];
    return l->n <= 1 ? ST_OK : list(c, GRAM_SEQ, l, out);
}

status gram_alt(gram_ctx *c, const gram_list *l, const gram_expr **out)
{
    *out = l->n == 0 ? &nothing : l->items[0];
    return l->n <= 1 ? ST_OK : list(c, GRAM_ALT, l, out);
}

status gram_repeat(gram_ctx *c, const gram_expr *e, uint32_t min, uint32_t max, const gram_expr **out)
{
    if (max < min) {
        *out = &nothing;
        return ST_OK;
    }
    if (max == 0 || e->kind == GRAM_EMPTY || (e->kind == GRAM_NOTHING && min == 0)) {
        *out = &empty;
        return ST_OK;
    }
    *out = e;
    if ((min == 1 && max == 1) || e->kind == GRAM_NOTHING)
        return ST_OK;
    const gram_expr **item = NULL;
    TRY(gram_alloc(c, 1, sizeof(*item), &item));
    *item = e;
    uint64_t copies = max == GRAM_NO_LIMIT ? (uint64_t)min + 1 : max;
    uint64_t size = copies * e->size > UINT32_MAX ? UINT32_MAX : copies * e->size;
    return create(c, (gram_expr){.kind = GRAM_REPEAT, .items = item, .n = 1, .min = min, .max = max, .size = sum(size, 1), .depth = e->depth + 1}, out);
}

status gram_call_rule(gram_ctx *c, uint32_t rule, const gram_expr **out)
{
    return create(c, (gram_expr){.kind = GRAM_CALL, .rule = rule, .size = 1, .depth = 1}, out);
}

status gram_automaton(gram_ctx *c, gram_dfa dfa, const gram_expr **out)
{
    if (dfa.n == 0) {
        *out = &nothing;
        return ST_OK;
    }
    return create(c, (gram_expr){.kind = GRAM_AUTOMATON, .dfa = dfa, .size = dfa.n, .depth = 1}, out);
}
