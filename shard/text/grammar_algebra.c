/* shard/text/grammar_algebra.c - what holds of texts, combined: both, not, and as JSON writes them.
 *
 * For automata without calls whose texts are UTF-8. */
#include <string.h>

#include "base/hash.h"
#include "shard/text/grammar_internal.h"

enum { DEAD = UINT32_MAX };

static uint32_t step(const gram_dfa *d, uint32_t state, uint8_t byte)
{
    if (state == DEAD)
        return DEAD;
    const gram_dstate *s = &d->states[state];
    uint32_t low = 0, high = s->n_edges;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (byte > s->edges[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->n_edges && byte >= s->edges[low].first ? s->edges[low].to : DEAD;
}

bool gram_dfa_matches(const gram_dfa *d, const char *text, size_t len)
{
    uint32_t state = d->n == 0 ? DEAD : 0;
    for (size_t i = 0; i < len && state != DEAD; i++)
        state = step(d, state, (uint8_t)text[i]);
    return state != DEAD && d->states[state].final;
}

/* Pairs of states, numbered as they are found. */
typedef struct pairs {
    gram_ctx *ctx;
    uint64_t *at;
    size_t n, cap;
    uint32_t *slots; /* number + 1 */
    size_t n_slots;
} pairs;

static status pair_number(pairs *p, uint32_t a, uint32_t b, uint32_t *out)
{
    uint64_t key = (uint64_t)a << 32 | b;
    if (p->n * 2 >= p->n_slots) {
        size_t n = p->n_slots == 0 ? 64 : p->n_slots * 2;
        TRY(gram_alloc(p->ctx, n, sizeof(*p->slots), &p->slots));
        p->n_slots = n;
        for (size_t i = 0; i < p->n; i++) {
            size_t s = hash_mix(p->at[i]) & (n - 1);
            while (p->slots[s] != 0)
                s = (s + 1) & (n - 1);
            p->slots[s] = (uint32_t)i + 1;
        }
    }
    size_t s = hash_mix(key) & (p->n_slots - 1);
    for (; p->slots[s] != 0; s = (s + 1) & (p->n_slots - 1)) {
        if (p->at[p->slots[s] - 1] == key) {
            *out = p->slots[s] - 1;
            return ST_OK;
        }
    }
    TRY(gram_grow(p->ctx, &p->at, p->n, &p->cap, sizeof(*p->at)));
    p->at[p->n] = key;
    *out = (uint32_t)p->n++;
    p->slots[s] = *out + 1;
    return ST_OK;
}

/* Where an edge of either automaton begins or ends: between cuts all bytes behave alike. */
static void cut_at(const gram_dfa *d, uint32_t state, bool cut[257])
{
    if (state == DEAD)
        return;
    for (uint32_t i = 0; i < d->states[state].n_edges; i++) {
        cut[d->states[state].edges[i].first] = true;
        cut[d->states[state].edges[i].last + 1] = true;
    }
}

/* The product, in which a text is accepted if `two` accepts it and `one` does (or does not, with `without`). */
static status product(gram_ctx *c, const gram_dfa *one, const gram_dfa *two, bool without, gram_dfa *out)
{
    gram_dfa first_one = *one, second = *two; /* out may be one of them */
    const gram_dfa *a = &first_one, *b = &second;
    gram_nfa n;
    pairs p = {.ctx = c};
    uint32_t number;
    *out = (gram_dfa){0};
    if (b->n == 0 || (a->n == 0 && !without))
        return ST_OK;
    TRY(gram_nfa_init(c, true, &n));
    TRY(pair_number(&p, a->n == 0 ? DEAD : 0, 0, &number));
    for (size_t i = 0; i < p.n; i++) {
        uint32_t sa = (uint32_t)(p.at[i] >> 32), sb = (uint32_t)p.at[i], from = i == 0 ? 0 : (uint32_t)i + 1;
        bool cut[257] = {false};
        cut_at(a, sa, cut);
        cut_at(b, sb, cut);
        for (int first = 0, last; first < 256; first = last + 1) {
            for (last = first; last < 255 && !cut[last + 1]; last++)
                ;
            uint32_t ta = step(a, sa, (uint8_t)first), tb = step(b, sb, (uint8_t)first);
            if (tb == DEAD || (ta == DEAD && !without))
                continue;
            TRY(pair_number(&p, ta, tb, &number));
            /* The start is state 0 of the nondeterministic one, the end 1. */
            TRY(gram_nfa_edge(&n, (gram_nedge){.from = from, .to = number == 0 ? 0 : number + 1, .label = GRAM_ON_BYTES, .first = (uint8_t)first, .last = (uint8_t)last}));
        }
        bool in_a = sa != DEAD && a->states[sa].final;
        if (b->states[sb].final && in_a != without)
            TRY(gram_nfa_skip(&n, from, 1));
    }
    n.n_states = (uint32_t)p.n + 1;
    if (n.n_states < 2)
        n.n_states = 2;
    return gram_nfa_finish(&n, out);
}

status gram_dfa_both(gram_ctx *c, const gram_dfa *a, const gram_dfa *b, gram_dfa *out)
{
    return product(c, a, b, false, out);
}

status gram_dfa_not(gram_ctx *c, const gram_dfa *a, gram_dfa *out)
{
    gram_set all = {0};
    const gram_expr *e;
    gram_dfa any;
    TRY(gram_set_add(c, &all, 0, 0x10ffff));
    TRY(gram_chars(c, all, &e));
    TRY(gram_repeat(c, e, 0, GRAM_NO_LIMIT, &e));
    TRY(gram_dfa_of(c, e, true, &any));
    return product(c, a, &any, true, out);
}

/* The text of one ASCII character inside a JSON string. */
static size_t json_escape(uint8_t byte, char out[7])
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char *hit = byte == 0 ? NULL : strchr(from, byte);
    if (hit != NULL) {
        out[0] = '\\';
        out[1] = to[hit - from];
        return 2;
    }
    if (byte >= 0x20) {
        out[0] = (char)byte;
        return 1;
    }
    memcpy(out, "\\u00", 4);
    out[4] = hex[byte >> 4];
    out[5] = hex[byte & 15];
    return 6;
}

status gram_dfa_json(gram_ctx *c, const gram_dfa *a, gram_dfa *out)
{
    gram_nfa n;
    TRY(gram_nfa_init(c, true, &n));
    n.n_states = a->n + 2;
    if (a->n > 0)
        TRY(gram_nfa_skip(&n, 0, 2));
    for (uint32_t i = 0; i < a->n; i++) {
        const gram_dstate *s = &a->states[i];
        if (s->final)
            TRY(gram_nfa_skip(&n, i + 2, 1));
        for (uint32_t j = 0; j < s->n_edges; j++) {
            int first = s->edges[j].first, last = s->edges[j].last, plain = first;
            for (int b = first; b <= last && b < 0x80; b++) {
                char text[7];
                size_t len = json_escape((uint8_t)b, text);
                uint32_t from = i + 2;
                for (size_t k = 0; k < len; k++) {
                    uint32_t to = k + 1 == len ? s->edges[j].to + 2 : n.n_states++;
                    TRY(gram_nfa_edge(&n, (gram_nedge){.from = from, .to = to, .label = GRAM_ON_BYTES, .first = (uint8_t)text[k], .last = (uint8_t)text[k]}));
                    from = to;
                }
                plain = b + 1;
            }
            if (plain <= last)
                TRY(gram_nfa_edge(&n, (gram_nedge){.from = i + 2, .to = s->edges[j].to + 2, .label = GRAM_ON_BYTES, .first = (uint8_t)plain, .last = (uint8_t)last}));
        }
    }
    return gram_nfa_finish(&n, out);
}
