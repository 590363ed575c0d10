/* shard/text/grammar_automaton.c - expressions to automata: Thompson's construction, subsets, minimal.
 *
 * The alphabet is bytes and calls of rules.  Characters become their UTF-8 bytes: a range of characters is cut into ranges whose
 * bytes range independently of one another (as in Thompson's grep and RE2). */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shard/text/grammar_internal.h"
#include "shard/text/tokenizer_text.h"

enum { START, END };
/* A repeat that would take more states than this becomes a counted rule. */
enum { COUNT_FROM = 160, SCRATCH_MIB = 96 };

/* ---- building ---- */

status gram_nfa_init(gram_ctx *c, bool regular, gram_nfa *out)
{
    *out = (gram_nfa){.ctx = c, .n_states = 2, .regular = regular};
    return ST_OK;
}

status gram_nfa_edge(gram_nfa *n, gram_nedge edge)
{
    TRY(gram_work(n->ctx, 1));
    TRY(gram_grow(n->ctx, &n->edges, n->n_edges, &n->cap, sizeof(*n->edges)));
    n->edges[n->n_edges++] = edge;
    return ST_OK;
}

status gram_nfa_skip(gram_nfa *n, uint32_t from, uint32_t to)
{
    return gram_nfa_edge(n, (gram_nedge){.from = from, .to = to, .label = GRAM_ON_NOTHING});
}

static status bytes_edge(gram_nfa *n, uint32_t from, uint32_t to, uint8_t first, uint8_t last)
{
    return gram_nfa_edge(n, (gram_nedge){.from = from, .to = to, .label = GRAM_ON_BYTES, .first = first, .last = last});
}

/* first and last are UTF-8 of one length, and each byte may range from first's to last's whatever the others are. */
static status byte_ranges(gram_nfa *n, uint32_t from, uint32_t to, const char *first, const char *last, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        uint32_t next = i + 1 == len ? to : n->n_states++;
        TRY(bytes_edge(n, from, next, (uint8_t)first[i], (uint8_t)last[i]));
        from = next;
    }
    return ST_OK;
}

static status char_range(gram_nfa *n, uint32_t from, uint32_t to, uint32_t first, uint32_t last)
{
    static const uint32_t ends[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff, 0x10ffff};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        if (first <= ends[i] && last > ends[i]) {
            TRY(char_range(n, from, to, first, ends[i]));
            return char_range(n, from, to, ends[i] + 1, last);
        }
    }
    if (first >= 0xd800 && first <= 0xdfff)
        return ST_OK;
    /* Cut where the last i * 6 bits do not run from all zeros to all ones. */
    for (int bits = 6; bits <= 18 && last > 0x7f; bits += 6) {
        uint32_t low = (1u << bits) - 1;
        if ((first & ~low) == (last & ~low))
            break;
        if ((first & low) != 0) {
            TRY(char_range(n, from, to, first, first | low));
            return char_range(n, from, to, (first | low) + 1, last);
        }
        if ((last & low) != low) {
            TRY(char_range(n, from, to, first, (last & ~low) - 1));
            return char_range(n, from, to, last & ~low, last);
        }
    }
    char a[4], b[4];
    size_t len = tok_utf8_encode(first, a);
    tok_utf8_encode(last, b);
    return byte_ranges(n, from, to, a, b, len);
}

static status call_edge(gram_nfa *n, uint32_t from, uint32_t to, uint32_t rule)
{
    return gram_nfa_edge(n, (gram_nedge){.from = from, .to = to, .label = GRAM_ON_CALL, .rule = rule});
}

static status repeat(gram_nfa *n, const gram_expr *e, uint32_t from, uint32_t to)
{
    const gram_expr *item = e->items[0];
    if (!n->regular && e->size > COUNT_FROM && (e->max == GRAM_NO_LIMIT ? e->min : e->max) > 1) {
        uint32_t rule;
        TRY(gram_rule_counted(n->ctx, item, e->min, e->max, &rule));
        return call_edge(n, from, to, rule);
    }
    for (uint32_t i = 0; i < e->min; i++) {
        uint32_t next = n->n_states++;
        TRY(gram_nfa_expr(n, item, from, next));
        from = next;
    }
    if (e->max == GRAM_NO_LIMIT) {
        uint32_t loop = n->n_states++;
        TRY(gram_nfa_skip(n, from, loop));
        TRY(gram_nfa_expr(n, item, loop, loop));
        return gram_nfa_skip(n, loop, to);
    }
    for (uint32_t i = e->min; i < e->max; i++) {
        uint32_t next = n->n_states++;
        TRY(gram_nfa_skip(n, from, to));
        TRY(gram_nfa_expr(n, item, from, next));
        from = next;
    }
    return gram_nfa_skip(n, from, to);
}

status gram_nfa_dfa(gram_nfa *n, const gram_dfa *d, uint32_t from, uint32_t to)
{
    uint32_t base = n->n_states;
    if (d->n == 0)
        return ST_OK;
    n->n_states += d->n;
    TRY(gram_nfa_skip(n, from, base));
    for (uint32_t i = 0; i < d->n; i++) {
        const gram_dstate *s = &d->states[i];
        for (uint32_t j = 0; j < s->n_edges; j++)
            TRY(bytes_edge(n, base + i, base + s->edges[j].to, s->edges[j].first, s->edges[j].last));
        for (uint32_t j = 0; j < s->n_calls; j++)
            TRY(call_edge(n, base + i, base + s->calls[j].to, s->calls[j].rule));
        if (s->final)
            TRY(gram_nfa_skip(n, base + i, to));
    }
    return ST_OK;
}

status gram_nfa_expr(gram_nfa *n, const gram_expr *e, uint32_t from, uint32_t to)
{
    switch (e->kind) {
    case GRAM_NOTHING:
        return ST_OK;
    case GRAM_EMPTY:
        return gram_nfa_skip(n, from, to);
    case GRAM_TEXT:
        return byte_ranges(n, from, to, e->text, e->text, e->len);
    case GRAM_CHARS:
        for (size_t i = 0; i < e->chars.n; i++)
            TRY(char_range(n, from, to, e->chars.at[i].first, e->chars.at[i].last));
        return ST_OK;
    case GRAM_SEQ:
        for (size_t i = 0; i < e->n; i++) {
            uint32_t next = i + 1 == e->n ? to : n->n_states++;
            TRY(gram_nfa_expr(n, e->items[i], from, next));
            from = next;
        }
        return ST_OK;
    case GRAM_ALT:
        for (size_t i = 0; i < e->n; i++)
            TRY(gram_nfa_expr(n, e->items[i], from, to));
        return ST_OK;
    case GRAM_REPEAT:
        return repeat(n, e, from, to);
    case GRAM_CALL:
        return call_edge(n, from, to, e->rule);
    case GRAM_AUTOMATON:
        return gram_nfa_dfa(n, &e->dfa, from, to);
    }
    return ST_OK;
}

/* ---- subsets ---- */

/* Working memory of one determinisation, freed as a whole. */
typedef struct subset {
    uint32_t *states; /* of the NFA, ascending */
    uint32_t n;
} subset;
typedef struct builder {
    gram_ctx *ctx;
    const gram_nfa *nfa;
    uint32_t *first;    /* [n_states + 1] edges by state, in `order` */
    gram_nedge *order;
    uint32_t *mark;     /* [n_states] the last closure that took it */
    uint32_t stamp;
    uint32_t *stack, *found;
    uint32_t n_found;
    subset *sets;
    gram_dstate *states;
    size_t n, cap_sets, cap_states;
    uint32_t *slots;    /* set + 1, or 0 */
    size_t n_slots;
} builder;

static status index_edges(builder *b)
{
    const gram_nfa *n = b->nfa;
    TRY(gram_alloc(b->ctx, (size_t)n->n_states + 1, sizeof(*b->first), &b->first));
    TRY(gram_alloc(b->ctx, n->n_edges, sizeof(*b->order), &b->order));
    for (size_t i = 0; i < n->n_edges; i++)
        b->first[n->edges[i].from + 1]++;
    for (uint32_t i = 0; i < n->n_states; i++)
        b->first[i + 1] += b->first[i];
    uint32_t *at;
    TRY(gram_alloc(b->ctx, n->n_states, sizeof(*at), &at));
    memcpy(at, b->first, n->n_states * sizeof(*at));
    for (size_t i = 0; i < n->n_edges; i++)
        b->order[at[n->edges[i].from]++] = n->edges[i];
    return ST_OK;
}

/* Adds a state and all that it reaches on nothing to `found`. */
static status close_over(builder *b, uint32_t state)
{
    uint32_t top = 0;
    if (b->mark[state] == b->stamp)
        return ST_OK;
    b->mark[state] = b->stamp;
    b->stack[top++] = state;
    while (top > 0) {
        uint32_t s = b->stack[--top];
        b->found[b->n_found++] = s;
        TRY(gram_work(b->ctx, 1 + b->first[s + 1] - b->first[s]));
        for (uint32_t i = b->first[s]; i < b->first[s + 1]; i++) {
            const gram_nedge *e = &b->order[i];
            if (e->label == GRAM_ON_NOTHING && b->mark[e->to] != b->stamp) {
                b->mark[e->to] = b->stamp;
                b->stack[top++] = e->to;
            }
        }
    }
    return ST_OK;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static status grow_slots(builder *b)
{
    size_t n = b->n_slots == 0 ? 64 : b->n_slots * 2;
    TRY(gram_alloc(b->ctx, n, sizeof(*b->slots), &b->slots));
    b->n_slots = n;
    for (size_t i = 0; i < b->n; i++) {
        size_t at = hash_fast(b->sets[i].states, b->sets[i].n * sizeof(uint32_t), 0) & (n - 1);
        while (b->slots[at] != 0)
            at = (at + 1) & (n - 1);
        b->slots[at] = (uint32_t)i + 1;
    }
    return ST_OK;
}

/* States that only lead on by nothing tell no subsets apart. */
static void drop_idle(builder *b)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < b->n_found; i++) {
        uint32_t s = b->found[i];
        bool counts = s == END;
        for (uint32_t j = b->first[s]; j < b->first[s + 1] && !counts; j++)
            counts = b->order[j].label != GRAM_ON_NOTHING;
        if (counts)
            b->found[kept++] = s;
    }
    b->n_found = kept;
}

/* The number of the subset in `found`, a new one if need be. */
static status intern(builder *b, uint32_t *out)
{
    drop_idle(b);
    qsort(b->found, b->n_found, sizeof(*b->found), by_number);
    TRY(gram_work(b->ctx, b->n_found));
    if (b->n * 2 >= b->n_slots)
        TRY(grow_slots(b));
    size_t bytes = b->n_found * sizeof(uint32_t);
    size_t at = hash_fast(b->found, bytes, 0) & (b->n_slots - 1);
    for (; b->slots[at] != 0; at = (at + 1) & (b->n_slots - 1)) {
        const subset *s = &b->sets[b->slots[at] - 1];
        if (s->n == b->n_found && memcmp(s->states, b->found, bytes) == 0) {
            *out = b->slots[at] - 1;
            return ST_OK;
        }
    }
    TRY(gram_grow(b->ctx, &b->sets, b->n, &b->cap_sets, sizeof(*b->sets)));
    TRY(gram_grow(b->ctx, &b->states, b->n, &b->cap_states, sizeof(*b->states)));
    subset *s = &b->sets[b->n];
    s->n = b->n_found;
    TRY(gram_alloc(b->ctx, s->n, sizeof(*s->states), &s->states));
    memcpy(s->states, b->found, bytes);
    b->states[b->n] = (gram_dstate){0};
    b->slots[at] = (uint32_t)b->n + 1;
    *out = (uint32_t)b->n++;
    return ST_OK;
}

static void begin_subset(builder *b)
{
    b->stamp++;
    b->n_found = 0;
}

/* The edges of a subset's states, byte edges first. */
static status gather(builder *b, const subset *s, gram_nedge **out, size_t *n_bytes, size_t *n)
{
    size_t count = 0, bytes = 0, calls = 0;
    for (uint32_t i = 0; i < s->n; i++)
        count += b->first[s->states[i] + 1] - b->first[s->states[i]];
    TRY(gram_alloc(b->ctx, count, sizeof(**out), out));
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < s->n; i++) {
            for (uint32_t j = b->first[s->states[i]]; j < b->first[s->states[i] + 1]; j++) {
                if (b->order[j].label == GRAM_ON_BYTES && pass == 0)
                    (*out)[bytes++] = b->order[j];
                else if (b->order[j].label == GRAM_ON_CALL && pass == 1)
                    (*out)[bytes + calls++] = b->order[j];
            }
        }
    }
    *n_bytes = bytes;
    *n = bytes + calls;
    return ST_OK;
}

static status byte_moves(builder *b, uint32_t from, const gram_nedge *edges, size_t n)
{
    bool cut[257] = {false};
    gram_edge made[256];
    uint32_t n_made = 0;
    for (size_t i = 0; i < n; i++) {
        cut[edges[i].first] = true;
        cut[edges[i].last + 1] = true;
    }
    for (int first = 0, last; first < 256; first = last + 1) {
        for (last = first; last < 255 && !cut[last + 1]; last++)
            ;
        begin_subset(b);
        TRY(gram_work(b->ctx, n));
        for (size_t i = 0; i < n; i++) {
            if (edges[i].first <= first && edges[i].last >= last)
                TRY(close_over(b, edges[i].to));
        }
        if (b->n_found == 0)
            continue;
        uint32_t to;
        TRY(intern(b, &to));
        if (n_made > 0 && made[n_made - 1].to == to && made[n_made - 1].last + 1 == first)
            made[n_made - 1].last = (uint8_t)last;
        else
            made[n_made++] = (gram_edge){.to = to, .first = (uint8_t)first, .last = (uint8_t)last};
    }
    gram_edge *kept;
    TRY(gram_alloc(b->ctx, n_made, sizeof(*kept), &kept));
    memcpy(kept, made, n_made * sizeof(*kept));
    b->states[from].edges = kept;
    b->states[from].n_edges = n_made;
    return ST_OK;
}

static int by_rule(const void *a, const void *b)
{
    const gram_nedge *x = a, *y = b;
    return x->rule < y->rule ? -1 : x->rule > y->rule;
}

static status call_moves(builder *b, uint32_t from, gram_nedge *edges, size_t n)
{
    gram_call *made;
    uint32_t n_made = 0;
    if (n == 0)
        return ST_OK;
    TRY(gram_alloc(b->ctx, n, sizeof(*made), &made));
    qsort(edges, n, sizeof(*edges), by_rule);
    for (size_t i = 0, next; i < n; i = next) {
        begin_subset(b);
        for (next = i; next < n && edges[next].rule == edges[i].rule; next++)
            TRY(close_over(b, edges[next].to));
        uint32_t to;
        TRY(intern(b, &to));
        made[n_made++] = (gram_call){.rule = edges[i].rule, .to = to};
    }
    b->states[from].calls = made;
    b->states[from].n_calls = n_made;
    return ST_OK;
}

static status determinise(builder *b)
{
    uint32_t ignored;
    TRY(index_edges(b));
    TRY(gram_alloc(b->ctx, b->nfa->n_states, sizeof(*b->mark), &b->mark));
    TRY(gram_alloc(b->ctx, b->nfa->n_states, sizeof(*b->stack), &b->stack));
    TRY(gram_alloc(b->ctx, b->nfa->n_states, sizeof(*b->found), &b->found));
    begin_subset(b);
    TRY(close_over(b, START));
    TRY(intern(b, &ignored));
    for (uint32_t i = 0; i < b->n; i++) {
        gram_nedge *edges;
        size_t n_bytes, n;
        subset s = b->sets[i];
        TRY(gather(b, &s, &edges, &n_bytes, &n));
        TRY(byte_moves(b, i, edges, n_bytes));
        TRY(call_moves(b, i, edges + n_bytes, n - n_bytes));
        for (uint32_t j = 0; j < s.n; j++)
            b->states[i].final = b->states[i].final || s.states[j] == END;
    }
    return ST_OK;
}

/* ---- trimming and minimising ---- */

/* ends[i]: a final state can be reached from i (calls taken to return). */
static status find_ends(gram_ctx *c, const gram_dstate *s, uint32_t n, bool *ends)
{
    /* Edges backwards, as lists. */
    uint32_t *head, *next, *from, *stack, top = 0;
    size_t n_edges = 0;
    for (uint32_t i = 0; i < n; i++)
        n_edges += s[i].n_edges + s[i].n_calls;
    TRY(gram_work(c, n + n_edges));
    TRY(gram_alloc(c, n, sizeof(*head), &head));
    TRY(gram_alloc(c, n_edges + 1, sizeof(*next), &next));
    TRY(gram_alloc(c, n_edges + 1, sizeof(*from), &from));
    TRY(gram_alloc(c, n, sizeof(*stack), &stack));
    uint32_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < s[i].n_edges + s[i].n_calls; j++) {
            uint32_t to = j < s[i].n_edges ? s[i].edges[j].to : s[i].calls[j - s[i].n_edges].to;
            from[++at] = i;
            next[at] = head[to];
            head[to] = at;
        }
        if (s[i].final) {
            ends[i] = true;
            stack[top++] = i;
        }
    }
    while (top > 0) {
        for (uint32_t e = head[stack[--top]]; e != 0; e = next[e]) {
            if (!ends[from[e]]) {
                ends[from[e]] = true;
                stack[top++] = from[e];
            }
        }
    }
    return ST_OK;
}

static uint64_t fold(uint64_t h, uint64_t v)
{
    return hash_mix(h * 0x9e3779b97f4a7c15u + hash_mix(v + 1));
}

static uint64_t signature(const gram_dstate *s, const uint32_t *block, const bool *ends)
{
    uint64_t h = hash_mix(s->final ? 1 : 2);
    uint32_t last_block = UINT32_MAX;
    int last_byte = -2;
    for (uint32_t i = 0; i < s->n_edges; i++) {
        if (!ends[s->edges[i].to])
            continue;
        uint32_t to = block[s->edges[i].to];
        /* Adjacent ranges to one block count as one. */
        if (to != last_block || s->edges[i].first != last_byte + 1)
            h = fold(h, (uint64_t)to << 10 | 0x100 | s->edges[i].first);
        last_block = to;
        last_byte = s->edges[i].last;
        bool open = i + 1 < s->n_edges && ends[s->edges[i + 1].to] && block[s->edges[i + 1].to] == to && s->edges[i + 1].first == last_byte + 1;
        if (!open)
            h = fold(h, 0x200 | (uint64_t)last_byte);
    }
    for (uint32_t i = 0; i < s->n_calls; i++) {
        if (ends[s->calls[i].to])
            h = fold(fold(h, s->calls[i].rule), block[s->calls[i].to]);
    }
    return h;
}

typedef struct mini_key {
    uint64_t sign;
    uint32_t block, state;
} mini_key;

static int by_key(const void *a, const void *b)
{
    const mini_key *x = a, *y = b;
    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    if (x->sign != y->sign)
        return x->sign < y->sign ? -1 : 1;
    return x->state < y->state ? -1 : x->state > y->state;
}

/* Moore's refinement by 64-bit signatures.  A collision would need about 2^32 states; yet it is bounded in rounds: an automaton that
 * is not minimal is as right, so a long chain is left as it is. */
static status refine(gram_ctx *c, const gram_dstate *s, uint32_t n, const bool *ends, uint32_t *block, uint32_t *n_blocks)
{
    enum { MAX_WORK = 4000000 };
    mini_key *keys;
    uint64_t work = 0;
    TRY(gram_alloc(c, n, sizeof(*keys), &keys));
    for (uint32_t count = 1;;) {
        uint64_t cost = 0;
        for (uint32_t i = 0; i < n; i++) {
            keys[i] = (mini_key){.sign = signature(&s[i], block, ends), .block = block[i], .state = i};
            cost += 4 + s[i].n_edges + s[i].n_calls;
        }
        qsort(keys, n, sizeof(*keys), by_key);
        uint32_t blocks = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (i > 0 && (keys[i].block != keys[i - 1].block || keys[i].sign != keys[i - 1].sign))
                blocks++;
            block[keys[i].state] = blocks;
        }
        TRY(gram_work(c, cost));
        work += cost;
        bool stable = ++blocks == count;
        count = blocks;
        if (!stable && work > MAX_WORK) {
            for (uint32_t i = 0; i < n; i++)
                block[i] = i;
            count = n;
            stable = true;
        }
        if (stable) {
            *n_blocks = count;
            return ST_OK;
        }
    }
}

static status copy_state(gram_ctx *c, const gram_dstate *s, const bool *ends, const uint32_t *number, gram_dstate *out)
{
    gram_edge *edges;
    gram_call *calls;
    *out = (gram_dstate){.final = s->final};
    TRY(gram_alloc(c, s->n_edges, sizeof(*edges), &edges));
    TRY(gram_alloc(c, s->n_calls, sizeof(*calls), &calls));
    for (uint32_t i = 0; i < s->n_edges; i++) {
        gram_edge e = s->edges[i];
        if (!ends[e.to])
            continue;
        e.to = number[e.to];
        if (out->n_edges > 0 && edges[out->n_edges - 1].to == e.to && edges[out->n_edges - 1].last + 1 == e.first)
            edges[out->n_edges - 1].last = e.last;
        else
            edges[out->n_edges++] = e;
    }
    for (uint32_t i = 0; i < s->n_calls; i++) {
        if (ends[s->calls[i].to])
            calls[out->n_calls++] = (gram_call){.rule = s->calls[i].rule, .to = number[s->calls[i].to]};
    }
    out->edges = edges;
    out->calls = calls;
    return ST_OK;
}

/* Scratch lies in the arena `c` works in; the result in `home`. */
static status shrink(gram_ctx *c, gram_ctx *home, const gram_dstate *s, uint32_t n, gram_dfa *out)
{
    bool *ends;
    uint32_t *block, *number, *chosen, n_blocks, kept = 0;
    *out = (gram_dfa){0};
    TRY(gram_alloc(c, n, sizeof(*ends), &ends));
    TRY(find_ends(c, s, n, ends));
    if (!ends[0])
        return ST_OK;
    TRY(gram_alloc(c, n, sizeof(*block), &block));
    TRY(refine(c, s, n, ends, block, &n_blocks));
    TRY(gram_alloc(c, n_blocks, sizeof(*number), &number));
    TRY(gram_alloc(c, n_blocks, sizeof(*chosen), &chosen));
    memset(number, 0xff, n_blocks * sizeof(*number));
    for (uint32_t i = 0; i < n; i++) { /* in order of discovery: the start stays 0 */
        if (ends[i] && number[block[i]] == UINT32_MAX) {
            number[block[i]] = kept;
            chosen[kept++] = i;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        block[i] = ends[i] ? number[block[i]] : UINT32_MAX;
    TRY(gram_alloc(home, kept, sizeof(*out->states), &out->states));
    for (uint32_t i = 0; i < kept; i++)
        TRY(copy_state(home, &s[chosen[i]], ends, block, &out->states[i]));
    out->n = kept;
    return ST_OK;
}

status gram_nfa_finish(gram_nfa *n, gram_dfa *out)
{
    gram_ctx *home = n->ctx, scratch = *home;
    scratch.arena = mem_arena_create((size_t)SCRATCH_MIB << 20);
    if (scratch.arena == NULL)
        return FAIL(ST_NO_MEMORY, "grammar: no memory");
    builder b = {.ctx = &scratch, .nfa = n};
    status st = determinise(&b);
    home->steps = scratch.steps;
    if (st == ST_OK) {
        st = shrink(&scratch, home, b.states, (uint32_t)b.n, out);
        home->steps = scratch.steps < home->steps ? scratch.steps : home->steps;
    }
    mem_arena_destroy(&scratch.arena);
    return st;
}

status gram_dfa_of(gram_ctx *c, const gram_expr *e, bool regular, gram_dfa *out)
{
    gram_nfa n;
    TRY(gram_nfa_init(c, regular, &n));
    TRY(gram_nfa_expr(&n, e, START, END));
    return gram_nfa_finish(&n, out);
}
