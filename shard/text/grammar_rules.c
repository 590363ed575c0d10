/* shard/text/grammar_rules.c - rules made fit to run, and written as bytes.
 *
 * A pushdown automaton that predicts calls must come to an end before it reads a byte, and must return only after it has read one.  So:
 *   1. each rule becomes an automaton, with calls as symbols;
 *   2. rules that match the empty text lose it, and every call of them may be skipped instead; calls of rules that match
 *      nothing go; small rules that do not recur are copied into their callers (callees first: Tarjan's order);
 *   3. left recursion goes: A = A x | y becomes y x*, and in a cycle through other rules those are copied in first
 *      (Paull's algorithm, on automata). */
#include <string.h>

#include "shard/text/grammar_internal.h"

/* Rules of at most so many states are copied into their callers, while callers stay below the second bound. */
enum { INLINE_STATES = 48, INLINE_INTO = 4000 };

status gram_rule_add(gram_ctx *c, uint32_t *rule)
{
    size_t cap = c->cap_rules;
    TRY(gram_grow(c, &c->rules, c->n_rules, &cap, sizeof(*c->rules)));
    c->cap_rules = (uint32_t)cap;
    c->rules[c->n_rules] = (gram_rule){0};
    *rule = c->n_rules++;
    return ST_OK;
}

/* May be the body of a counted loop: not empty, no text of it begins another, and nothing inside leads back to the start. */
static bool can_loop(const gram_dfa *d)
{
    for (uint32_t i = 0; i < d->n; i++) {
        const gram_dstate *s = &d->states[i];
        if (s->final && (i == 0 || s->n_edges > 0 || s->n_calls > 0))
            return false;
        for (uint32_t j = 0; j < s->n_edges; j++) {
            if (s->edges[j].to == 0)
                return false;
        }
        for (uint32_t j = 0; j < s->n_calls; j++) {
            if (s->calls[j].to == 0)
                return false;
        }
    }
    return true;
}

/* Where the loop's text ends it is back at the head, which tells the count: so no text may begin another, else the end of one
 * would be a guess.  Those that do become a rule to call: a call is one symbol. */
status gram_rule_counted(gram_ctx *c, const gram_expr *e, uint32_t min, uint32_t max, uint32_t *rule)
{
    gram_dfa d;
    TRY(gram_dfa_of(c, e, false, &d));
    if (!can_loop(&d)) {
        uint32_t inner;
        const gram_expr *call;
        TRY(gram_rule_add(c, &inner));
        c->rules[inner].body = e;
        TRY(gram_call_rule(c, inner, &call));
        TRY(gram_dfa_of(c, call, false, &d));
    }
    TRY(gram_rule_add(c, rule));
    c->rules[*rule] = (gram_rule){.dfa = d, .counted = true, .min = min, .max = max};
    return ST_OK;
}

/* ---- which rules match the empty text, which match anything ---- */

typedef struct marks {
    bool *seen; /* of one rule's states */
    uint32_t *stack;
} marks;

/* Can a final state be reached by edges that `may` lets pass? */
static bool reaches_end(const gram_ctx *c, const gram_rule *r, marks *m, bool on_nothing)
{
    uint32_t top = 0;
    if (r->dfa.n == 0)
        return false;
    memset(m->seen, 0, r->dfa.n * sizeof(*m->seen));
    m->seen[0] = true;
    m->stack[top++] = 0;
    while (top > 0) {
        const gram_dstate *s = &r->dfa.states[m->stack[--top]];
        if (s->final)
            return true;
        for (uint32_t i = 0; i < s->n_edges && !on_nothing; i++) {
            if (!m->seen[s->edges[i].to]) {
                m->seen[s->edges[i].to] = true;
                m->stack[top++] = s->edges[i].to;
            }
        }
        for (uint32_t i = 0; i < s->n_calls; i++) {
            const gram_rule *callee = &c->rules[s->calls[i].rule];
            if ((on_nothing ? callee->nullable : callee->productive) && !m->seen[s->calls[i].to]) {
                m->seen[s->calls[i].to] = true;
                m->stack[top++] = s->calls[i].to;
            }
        }
    }
    return false;
}

/* nullable: or it is settled already. */
static status find_facts(gram_ctx *c, marks *m, bool find_nullable)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < c->n_rules; i++) {
            gram_rule *r = &c->rules[i];
            TRY(gram_work(c, r->dfa.n + 1));
            bool nullable = find_nullable && ((r->counted && r->min == 0) || reaches_end(c, r, m, true));
            bool productive = nullable || reaches_end(c, r, m, false);
            changed = changed || nullable != r->nullable || productive != r->productive;
            r->nullable = nullable;
            r->productive = productive;
        }
    }
    return ST_OK;
}

static status marks_for(gram_ctx *c, marks *out)
{
    uint32_t most = 1;
    for (uint32_t i = 0; i < c->n_rules; i++)
        most = c->rules[i].dfa.n > most ? c->rules[i].dfa.n : most;
    TRY(gram_alloc(c, most, sizeof(*out->seen), &out->seen));
    return gram_alloc(c, most, sizeof(*out->stack), &out->stack);
}

/* ---- rebuilding rules without empty matches ---- */

/* A start that is final becomes two: the new one is not, and nothing leads back to it. */
static status split_start(gram_ctx *c, gram_dfa *d)
{
    gram_dstate *states;
    if (d->n == 0 || !d->states[0].final)
        return ST_OK;
    TRY(gram_alloc(c, (size_t)d->n + 1, sizeof(*states), &states));
    memcpy(states + 1, d->states, d->n * sizeof(*states));
    for (uint32_t i = 1; i <= d->n; i++) {
        gram_edge *edges;
        gram_call *calls;
        TRY(gram_alloc(c, states[i].n_edges, sizeof(*edges), &edges));
        TRY(gram_alloc(c, states[i].n_calls, sizeof(*calls), &calls));
        for (uint32_t j = 0; j < states[i].n_edges; j++) {
            edges[j] = states[i].edges[j];
            edges[j].to++;
        }
        for (uint32_t j = 0; j < states[i].n_calls; j++)
            calls[j] = (gram_call){.rule = states[i].calls[j].rule, .to = states[i].calls[j].to + 1};
        states[i].edges = edges;
        states[i].calls = calls;
    }
    states[0] = states[1];
    states[0].final = false;
    d->states = states;
    d->n++;
    if (d->states[0].n_edges == 0 && d->states[0].n_calls == 0)
        *d = (gram_dfa){0}; /* it matched only the empty text */
    return ST_OK;
}

static bool worth_copying(const gram_rule *r, uint32_t into)
{
    return !r->counted && !r->recursive && r->body == NULL && r->dfa.n <= INLINE_STATES && into < INLINE_INTO;
}

/* Rebuilds from its own automaton: calls skipped, dropped, or replaced by copies of those already rebuilt. */
static status rebuild(gram_ctx *c, gram_rule *r)
{
    gram_nfa n;
    gram_dfa d = r->dfa;
    TRY(gram_nfa_init(c, false, &n));
    n.n_states = 2 + d.n;
    if (d.n > 0)
        TRY(gram_nfa_skip(&n, 0, 2));
    for (uint32_t i = 0; i < d.n; i++) {
        const gram_dstate *s = &d.states[i];
        for (uint32_t j = 0; j < s->n_edges; j++)
            TRY(gram_nfa_edge(&n, (gram_nedge){.from = 2 + i, .to = 2 + s->edges[j].to, .label = GRAM_ON_BYTES, .first = s->edges[j].first, .last = s->edges[j].last}));
        for (uint32_t j = 0; j < s->n_calls; j++) {
            uint32_t to = 2 + s->calls[j].to;
            const gram_rule *callee = &c->rules[s->calls[j].rule];
            if (callee->nullable)
                TRY(gram_nfa_skip(&n, 2 + i, to));
            if (!callee->productive)
                continue;
            if (worth_copying(callee, n.n_states))
                TRY(gram_nfa_dfa(&n, &callee->dfa, 2 + i, to));
            else
                TRY(gram_nfa_edge(&n, (gram_nedge){.from = 2 + i, .to = to, .label = GRAM_ON_CALL, .rule = s->calls[j].rule}));
        }
        if (s->final)
            TRY(gram_nfa_skip(&n, 2 + i, 1));
    }
    TRY(gram_nfa_finish(&n, &r->dfa));
    return split_start(c, &r->dfa);
}

/* The loop's body of a counted rule: its own text must not be empty, and its end is the head. */
static status rebuild_counted(gram_ctx *c, gram_rule *r)
{
    r->min = r->nullable ? 0 : r->min; /* some of the rounds may be empty */
    TRY(rebuild(c, r));
    if (can_loop(&r->dfa))
        return ST_OK;
    /* A call in it could be skipped or was copied in, and now one text begins another. */
    uint32_t inner;
    gram_rule kept = *r;
    uint32_t self = (uint32_t)(r - c->rules);
    const gram_expr *call;
    TRY(gram_rule_add(c, &inner));
    c->rules[inner] = (gram_rule){.dfa = kept.dfa, .productive = true, .recursive = kept.recursive};
    TRY(gram_call_rule(c, inner, &call));
    c->rules[self] = kept;
    return gram_dfa_of(c, call, false, &c->rules[self].dfa);
}

/* ---- callees first ---- */

typedef struct tarjan {
    uint32_t *index, *low, *stack, *order; /* order: rules, callees first */
    uint32_t n_stack, n_order, next;
    bool *on_stack;
    struct {
        uint32_t rule, state, call;
    } *frames; /* the recursion, unrolled: grammars may be deep */
} tarjan;

static bool calls_itself(const gram_rule *r, uint32_t self)
{
    for (uint32_t i = 0; i < r->dfa.n; i++) {
        for (uint32_t j = 0; j < r->dfa.states[i].n_calls; j++) {
            if (r->dfa.states[i].calls[j].rule == self)
                return true;
        }
    }
    return false;
}

static void leave_component(gram_ctx *c, tarjan *t, uint32_t v)
{
    uint32_t first = t->n_order, w;
    do {
        w = t->stack[--t->n_stack];
        t->on_stack[w] = false;
        t->order[t->n_order++] = w;
    } while (w != v);
    bool several = t->n_order - first > 1;
    for (uint32_t i = first; i < t->n_order; i++)
        c->rules[t->order[i]].recursive = several || calls_itself(&c->rules[t->order[i]], t->order[i]);
}

static void enter(tarjan *t, uint32_t v, uint32_t depth)
{
    t->index[v] = t->low[v] = ++t->next;
    t->stack[t->n_stack++] = v;
    t->on_stack[v] = true;
    t->frames[depth].rule = v;
    t->frames[depth].state = t->frames[depth].call = 0;
}

static status visit(gram_ctx *c, tarjan *t, uint32_t root)
{
    uint32_t depth = 1;
    enter(t, root, 0);
    while (depth > 0) {
        uint32_t v = t->frames[depth - 1].rule;
        const gram_dfa *d = &c->rules[v].dfa;
        uint32_t *state = &t->frames[depth - 1].state, *call = &t->frames[depth - 1].call;
        TRY(gram_work(c, 1));
        if (*state == d->n) {
            if (t->low[v] == t->index[v])
                leave_component(c, t, v);
            if (--depth > 0) {
                uint32_t u = t->frames[depth - 1].rule;
                t->low[u] = t->low[v] < t->low[u] ? t->low[v] : t->low[u];
            }
        } else if (*call == d->states[*state].n_calls) {
            *call = 0;
            ++*state;
        } else {
            uint32_t w = d->states[*state].calls[(*call)++].rule;
            if (t->index[w] == 0)
                enter(t, w, depth++);
            else if (t->on_stack[w])
                t->low[v] = t->index[w] < t->low[v] ? t->index[w] : t->low[v];
        }
    }
    return ST_OK;
}

static status order_rules(gram_ctx *c, uint32_t root, tarjan *t)
{
    size_t n = c->n_rules;
    *t = (tarjan){0};
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t->index));
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t->low));
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t->stack));
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t->order));
    TRY(gram_alloc(c, n, sizeof(bool), &t->on_stack));
    TRY(gram_alloc(c, n, sizeof(*t->frames), &t->frames));
    return visit(c, t, root);
}

/* ---- left recursion ---- */

/* The rule's automaton with a start of its own; calls of `of` at that start replaced: by the end's going on behind the call where the rule
 * is `of` itself, else by a copy. */
static status replace_left_call(gram_ctx *c, uint32_t rule, uint32_t of)
{
    gram_nfa n;
    gram_dfa d = c->rules[rule].dfa;
    TRY(gram_nfa_init(c, false, &n));
    n.n_states = 2 + d.n;
    for (uint32_t from = 0; from < d.n + 1; from++) { /* the last round: the start again, as state 0 */
        bool start = from == d.n;
        const gram_dstate *s = &d.states[start ? 0 : from];
        uint32_t at = start ? 0 : 2 + from;
        for (uint32_t j = 0; j < s->n_edges; j++)
            TRY(gram_nfa_edge(&n, (gram_nedge){.from = at, .to = 2 + s->edges[j].to, .label = GRAM_ON_BYTES, .first = s->edges[j].first, .last = s->edges[j].last}));
        for (uint32_t j = 0; j < s->n_calls; j++) {
            uint32_t to = 2 + s->calls[j].to;
            if (!start || s->calls[j].rule != of)
                TRY(gram_nfa_edge(&n, (gram_nedge){.from = at, .to = to, .label = GRAM_ON_CALL, .rule = s->calls[j].rule}));
            else if (rule == of)
                TRY(gram_nfa_skip(&n, 1, to));
            else
                TRY(gram_nfa_dfa(&n, &c->rules[of].dfa, at, to));
        }
        if (s->final)
            TRY(gram_nfa_skip(&n, at, 1));
    }
    TRY(gram_nfa_finish(&n, &c->rules[rule].dfa));
    return split_start(c, &c->rules[rule].dfa);
}

static bool left_calls(const gram_rule *r, uint32_t of)
{
    for (uint32_t j = 0; r->dfa.n > 0 && j < r->dfa.states[0].n_calls; j++) {
        if (r->dfa.states[0].calls[j].rule == of)
            return true;
    }
    return false;
}

/* A counted rule's head is left-recursive only through another rule: its calls can be neither copied nor turned.  Wrap the head's first round. */
static status refuse_counted(const gram_rule *r)
{
    return r->counted ? FAIL(ST_UNSUPPORTED, "grammar: left recursion through a counted repetition") : ST_OK;
}

/* Rules of one component of the graph of left calls. */
static status unwind(gram_ctx *c, const uint32_t *rules, uint32_t n)
{
    if (n == 1 && !left_calls(&c->rules[rules[0]], rules[0]))
        return ST_OK;
    for (uint32_t i = 0; i < n; i++) {
        TRY(refuse_counted(&c->rules[rules[i]]));
        for (uint32_t j = 0; j < i; j++) {
            if (left_calls(&c->rules[rules[i]], rules[j]))
                TRY(replace_left_call(c, rules[i], rules[j]));
        }
        if (left_calls(&c->rules[rules[i]], rules[i]))
            TRY(replace_left_call(c, rules[i], rules[i]));
    }
    return ST_OK;
}

/* Components of left calls by the same search, over automata cut down to their start's calls. */
static status unwind_all(gram_ctx *c)
{
    gram_ctx left = *c;
    tarjan t = {0};
    size_t n = c->n_rules;
    TRY(gram_alloc(c, n, sizeof(*left.rules), &left.rules));
    for (uint32_t i = 0; i < n; i++) {
        left.rules[i] = c->rules[i];
        left.rules[i].dfa.n = c->rules[i].dfa.n > 0;
    }
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t.index));
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t.low));
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t.stack));
    TRY(gram_alloc(c, n, sizeof(uint32_t), &t.order));
    TRY(gram_alloc(c, n, sizeof(bool), &t.on_stack));
    TRY(gram_alloc(c, n, sizeof(*t.frames), &t.frames));
    for (uint32_t i = 0; i < n; i++) {
        if (t.index[i] == 0)
            TRY(visit(&left, &t, i));
    }
    for (uint32_t i = 0, next; i < t.n_order; i = next) {
        /* A component is a run of `order`: it ends with the rule it was entered by, whose low is its index. */
        for (next = i; t.low[t.order[next]] != t.index[t.order[next]]; next++)
            ;
        next++;
        TRY(unwind(c, t.order + i, next - i));
    }
    return ST_OK;
}

/* ---- bytes ---- */

static void put_number(mem_str *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        mem_str_putc(out, (char)(v | 0x80));
    mem_str_putc(out, (char)v);
}

/* A counted rule's body ends in its head. */
static uint32_t lead(const gram_rule *r, uint32_t to)
{
    return r->counted && r->dfa.states[to].final ? 0 : to;
}

static void put_state(const gram_ctx *c, const gram_rule *r, const gram_dstate *s, mem_str *out)
{
    mem_str_putc(out, s->final && !r->counted ? 1 : 0);
    put_number(out, s->n_edges);
    put_number(out, s->n_calls);
    for (uint32_t j = 0; j < s->n_edges; j++) {
        mem_str_putc(out, (char)s->edges[j].first);
        mem_str_putc(out, (char)(s->edges[j].last - s->edges[j].first));
        put_number(out, lead(r, s->edges[j].to));
    }
    for (uint32_t j = 0; j < s->n_calls; j++) {
        put_number(out, c->rules[s->calls[j].rule].number);
        put_number(out, lead(r, s->calls[j].to));
    }
}

static void put_rule(const gram_ctx *c, const gram_rule *r, mem_str *out)
{
    static const gram_dstate dead = {0};
    put_number(out, r->dfa.n == 0 ? 1 : r->dfa.n);
    mem_str_putc(out, r->counted ? 1 : 0);
    put_number(out, r->counted ? r->min : 0);
    put_number(out, r->counted && r->max != GRAM_NO_LIMIT ? r->max : 0);
    for (uint32_t i = 0; i < r->dfa.n; i++)
        put_state(c, r, &r->dfa.states[i], out);
    if (r->dfa.n == 0) /* a root that matches only the empty text */
        put_state(c, r, &dead, out);
}

/* Numbers the rules that the root reaches. */
static status number_rules(gram_ctx *c, uint32_t root, uint32_t **list, uint32_t *n)
{
    TRY(gram_alloc(c, c->n_rules, sizeof(**list), list));
    for (uint32_t i = 0; i < c->n_rules; i++)
        c->rules[i].number = UINT32_MAX;
    c->rules[root].number = 0;
    (*list)[0] = root;
    *n = 1;
    for (uint32_t i = 0; i < *n; i++) {
        const gram_dfa *d = &c->rules[(*list)[i]].dfa;
        for (uint32_t s = 0; s < d->n; s++) {
            for (uint32_t j = 0; j < d->states[s].n_calls; j++) {
                gram_rule *callee = &c->rules[d->states[s].calls[j].rule];
                if (callee->number == UINT32_MAX) {
                    callee->number = *n;
                    (*list)[(*n)++] = d->states[s].calls[j].rule;
                }
            }
        }
    }
    return ST_OK;
}

static status write_rules(gram_ctx *c, uint32_t root, bool empty, mem_str *out)
{
    uint32_t *list, n;
    mem_str text = {.limit = c->max_bytes};
    TRY(number_rules(c, root, &list, &n));
    mem_str_puts(&text, GRAM_MAGIC);
    mem_str_putc(&text, GRAM_VERSION);
    mem_str_putc(&text, empty ? GRAM_FLAG_EMPTY : 0);
    put_number(&text, n);
    for (uint32_t i = 0; i < n && !text.failed; i++)
        put_rule(c, &c->rules[list[i]], &text);
    if (!text.failed)
        mem_str_append(out, text.data, text.len);
    bool failed = text.failed || out->failed;
    mem_str_free(&text);
    return failed ? FAIL(ST_LIMIT, "grammar: more than %zu bytes when compiled", c->max_bytes) : ST_OK;
}

/* Without their empty matches some rules may match nothing any more. */
static status drop_unproductive(gram_ctx *c)
{
    marks m;
    for (uint32_t i = 0; i < c->n_rules; i++)
        c->rules[i].productive = c->rules[i].nullable = false;
    TRY(marks_for(c, &m));
    TRY(find_facts(c, &m, false));
    for (uint32_t i = 0; i < c->n_rules; i++) {
        if (!c->rules[i].productive)
            c->rules[i].dfa = (gram_dfa){0};
    }
    for (uint32_t i = 0; i < c->n_rules; i++) {
        bool stale = false;
        for (uint32_t s = 0; s < c->rules[i].dfa.n && !stale; s++) {
            for (uint32_t j = 0; j < c->rules[i].dfa.states[s].n_calls && !stale; j++)
                stale = !c->rules[c->rules[i].dfa.states[s].calls[j].rule].productive;
        }
        if (stale)
            TRY(rebuild(c, &c->rules[i]));
    }
    return ST_OK;
}

static status build_bodies(gram_ctx *c)
{
    for (uint32_t i = 0; i < c->n_rules; i++) { /* more may come as counts are met */
        gram_dfa d;
        if (c->rules[i].body == NULL)
            continue;
        TRY(gram_dfa_of(c, c->rules[i].body, false, &d));
        c->rules[i].dfa = d;
        c->rules[i].body = NULL;
    }
    return ST_OK;
}

status gram_rules_write(gram_ctx *c, uint32_t root, mem_str *out)
{
    marks m;
    tarjan t;
    TRY(build_bodies(c));
    TRY(marks_for(c, &m));
    TRY(find_facts(c, &m, true));
    if (!c->rules[root].productive)
        return c->why_empty != NULL ? FAIL(ST_UNSUPPORTED, "schema: %s is not supported here", c->why_empty) : FAIL(ST_INVALID, "grammar: no text matches it");
    TRY(order_rules(c, root, &t));
    for (uint32_t i = 0; i < t.n_order; i++) {
        gram_rule *r = &c->rules[t.order[i]];
        TRY(r->counted ? rebuild_counted(c, r) : rebuild(c, r));
    }
    bool empty = c->rules[root].nullable;
    TRY(drop_unproductive(c));
    TRY(unwind_all(c));
    return write_rules(c, root, empty, out);
}
