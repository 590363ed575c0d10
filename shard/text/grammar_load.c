/* shard/text/grammar_load.c - compiled bytes to arrays; whatever the bytes say, a run of them ends and stays inside its arrays.
 *
 * Checked here: every number in range, edges in order, no rule that returns before it read a byte, no ring of rules that call one
 * another at their starts. */
#include <stdlib.h>
#include <string.h>

#include "shard/text/grammar_run.h"

typedef struct reader {
    const uint8_t *at, *end;
    bool bad;
} reader;

static uint8_t take_byte(reader *r)
{
    if (r->at == r->end) {
        r->bad = true;
        return 0;
    }
    return *r->at++;
}

static uint32_t take_number(reader *r)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        uint8_t b = take_byte(r);
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            r->bad = r->bad || v > UINT32_MAX;
            return r->bad ? 0 : (uint32_t)v;
        }
    }
    r->bad = true;
    return 0;
}

static status bad(const char *what)
{
    return FAIL(ST_FORMAT, "grammar: compiled bytes: %s", what);
}

/* ---- two passes over the same bytes: count, then fill ---- */

static bool take_edges(shard_grammar *g, reader *r, const run_rule *rule, uint32_t n, bool fill)
{
    int before = -1;
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        uint32_t first = take_byte(r), last = first + take_byte(r), to = take_number(r);
        if ((int)first <= before || last > 255 || to >= rule->n)
            return false;
        before = (int)last;
        if (fill)
            g->edges[g->n_edges] = (run_edge){.to = rule->first + to, .first = (uint8_t)first, .last = (uint8_t)last};
        g->n_edges++;
    }
    return !r->bad;
}

static bool take_calls(shard_grammar *g, reader *r, const run_rule *rule, uint32_t n, bool fill)
{
    for (uint32_t i = 0; i < n && !r->bad; i++) {
        uint32_t callee = take_number(r), to = take_number(r);
        if (callee >= g->n_rules || to >= rule->n)
            return false;
        if (fill)
            g->calls[g->n_calls] = (run_call){.rule = callee, .to = rule->first + to};
        g->n_calls++;
    }
    return !r->bad;
}

static bool take_rule(shard_grammar *g, reader *r, uint32_t number, bool fill)
{
    run_rule rule = {.first = g->n_states, .n = take_number(r)};
    uint8_t counted = take_byte(r);
    rule.min = take_number(r);
    rule.max = take_number(r);
    rule.max = rule.max == 0 ? UINT32_MAX : rule.max;
    rule.counted = counted == 1;
    /* Three bytes a state at least. */
    if (r->bad || counted > 1 || rule.n == 0 || rule.n > (size_t)(r->end - r->at) / 3 || rule.min > rule.max)
        return false;
    if (fill)
        g->rules[number] = rule;
    for (uint32_t i = 0; i < rule.n; i++) {
        uint8_t flags = take_byte(r);
        uint32_t n_edges = take_number(r), n_calls = take_number(r);
        bool final = flags == 1;
        if (r->bad || flags > 1 || (final && (i == 0 || rule.counted)))
            return false;
        if (fill)
            g->states[g->n_states] = (run_state){.edges = g->n_edges, .calls = g->n_calls, .rule = number, .final = final, .idle = n_edges == 0 && n_calls == 0};
        g->n_states++;
        if (!take_edges(g, r, &rule, n_edges, fill) || !take_calls(g, r, &rule, n_calls, fill))
            return false;
    }
    return true;
}

static bool take_all(shard_grammar *g, const uint8_t *bytes, size_t len, bool fill)
{
    reader r = {.at = bytes + 6, .end = bytes + len};
    g->n_states = g->n_edges = g->n_calls = 0;
    g->n_rules = take_number(&r);
    if (r.bad || g->n_rules == 0 || g->n_rules > len / 7)
        return false;
    for (uint32_t i = 0; i < g->n_rules; i++) {
        if (!take_rule(g, &r, i, fill))
            return false;
    }
    return r.at == r.end;
}

/* ---- what a run needs to know ---- */

/* Ranks such that a rule called at another's start has the higher one (Kahn's algorithm); a ring has none. */
static status rank_rules(shard_grammar *g)
{
    uint32_t *callers, *queue, head = 0, tail = 0;
    status st;
    TRY(mem_calloc(g->n_rules, sizeof(*callers), "grammar", &callers));
    TRY_GOTO(mem_calloc(g->n_rules, sizeof(*queue), "grammar", &queue), out_callers);
    for (uint32_t i = 0; i < g->n_rules; i++) {
        const run_state *s = &g->states[g->rules[i].first];
        for (uint32_t j = s->calls; j < s[1].calls; j++)
            callers[g->calls[j].rule]++;
    }
    for (uint32_t i = 0; i < g->n_rules; i++) {
        if (callers[i] == 0)
            queue[tail++] = i;
    }
    while (head < tail) {
        g->rules[queue[head]].rank = head;
        const run_state *s = &g->states[g->rules[queue[head++]].first];
        for (uint32_t j = s->calls; j < s[1].calls; j++) {
            if (--callers[g->calls[j].rule] == 0)
                queue[tail++] = g->calls[j].rule;
        }
    }
    st = tail == g->n_rules ? ST_OK : bad("left recursion");
    free(queue);
out_callers:
    free(callers);
    return st;
}

static uint32_t height_of(const shard_grammar *g, uint32_t state)
{
    const run_state *s = &g->states[state];
    const run_rule *rule = &g->rules[s->rule];
    uint32_t best = s->final || (rule->counted && rule->first == state && rule->min == 0) ? 0 : UINT32_MAX;
    for (uint32_t i = s->edges; i < s[1].edges && best > 0; i++) {
        uint32_t h = g->edges[i].to == rule->first && rule->counted ? 0 : g->states[g->edges[i].to].height;
        best = h < best ? h : best;
    }
    for (uint32_t i = s->calls; i < s[1].calls && best > 0; i++) {
        const run_call *c = &g->calls[i];
        uint32_t callee = g->states[g->rules[c->rule].first].height;
        uint32_t after = c->to == rule->first && rule->counted ? 0 : g->states[c->to].height;
        if (callee == UINT32_MAX || after == UINT32_MAX)
            continue;
        uint32_t h = callee + 1 > after ? callee + 1 : after;
        best = h < best ? h : best;
    }
    return best;
}

/* Stack that ending a rule takes from each state, by going over the states until nothing changes: forth and back, so that chains
 * settle in one round.  (Behind a round of a counted loop: 0, as its other rounds take what this one took.) */
static status measure_heights(shard_grammar *g)
{
    enum { MAX_ROUNDS = 400 };
    for (uint32_t i = 0; i < g->n_states; i++)
        g->states[i].height = UINT32_MAX;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        bool changed = false;
        for (uint32_t i = 0; i < g->n_states; i++) {
            uint32_t at = round % 2 == 0 ? g->n_states - 1 - i : i, h = height_of(g, at);
            changed = changed || h != g->states[at].height;
            g->states[at].height = h;
        }
        if (!changed)
            return ST_OK;
    }
    return bad("too entangled");
}

static void find_classes(shard_grammar *g)
{
    bool cut[257] = {false};
    for (uint32_t i = 0; i < g->n_edges; i++) {
        cut[g->edges[i].first] = true;
        cut[g->edges[i].last + 1] = true;
    }
    g->n_classes = 1;
    for (int b = 0; b < 256; b++) {
        if (b > 0 && cut[b])
            g->n_classes++;
        g->class_of[b] = (uint8_t)(g->n_classes - 1);
        g->byte_of[g->n_classes - 1] = (uint8_t)b;
    }
}

status run_parse(shard_grammar *g, const uint8_t *bytes, size_t len)
{
    if (len < 8 || len > UINT32_MAX || memcmp(bytes, GRAM_MAGIC, 4) != 0)
        return bad("not a grammar");
    if (bytes[4] != GRAM_VERSION || bytes[5] > GRAM_FLAG_EMPTY)
        return FAIL(ST_FORMAT, "grammar: compiled bytes: version %d, not %d", bytes[4], GRAM_VERSION);
    g->empty = (bytes[5] & GRAM_FLAG_EMPTY) != 0;
    if (!take_all(g, bytes, len, false))
        return bad("malformed");
    TRY(mem_calloc(g->n_rules, sizeof(*g->rules), "grammar", &g->rules));
    TRY(mem_calloc((size_t)g->n_states + 1, sizeof(*g->states), "grammar", &g->states));
    TRY(mem_calloc(g->n_edges, sizeof(*g->edges), "grammar", &g->edges));
    TRY(mem_calloc(g->n_calls, sizeof(*g->calls), "grammar", &g->calls));
    if (!take_all(g, bytes, len, true))
        return bad("malformed");
    g->states[g->n_states] = (run_state){.edges = g->n_edges, .calls = g->n_calls};
    TRY(rank_rules(g));
    TRY(measure_heights(g));
    find_classes(g);
    return ST_OK;
}

void run_free_grammar(shard_grammar *g)
{
    free(g->rules);
    free(g->states);
    free(g->edges);
    free(g->calls);
}
