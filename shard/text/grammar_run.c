/* shard/text/grammar_run.c - moves from configuration to configuration.
 *
 * A move on a byte: 1. items with an edge for it go along; 2. items at the end of their rule return to all that called it; 3. items
 * that may call predict, rules in rank order, so that a rule's node is made once all its callers here are known.  A call behind which
 * only the end lies passes its own callers on instead of waiting (right recursion takes no stack). */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "shard/text/grammar_run.h"

typedef struct run_push {
    uint32_t rule;
    bool tail;      /* `ret.stack` is where the callee itself returns */
    run_item ret;
} run_push;

enum { MAX_PUSHES = 2 * RUN_MAX_ITEMS };
/* Bytes of the run before it is rebuilt, and at which a single walk gives up. */
static const size_t soft_bytes = (size_t)16 << 20, hard_bytes = (size_t)256 << 20;

static status too_ambiguous(void)
{
    return FAIL(ST_LIMIT, "grammar: too many readings at once");
}

static int by_item(const void *a, const void *b)
{
    const run_item *x = a, *y = b;
    if (x->state != y->state)
        return x->state < y->state ? -1 : 1;
    if (x->count != y->count)
        return x->count < y->count ? -1 : 1;
    return x->stack < y->stack ? -1 : x->stack > y->stack;
}

size_t run_sort(run_item *items, size_t n)
{
    size_t kept = 0;
    if (n > 1)
        qsort(items, n, sizeof(*items), by_item);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || memcmp(&items[kept - 1], &items[i], sizeof(*items)) != 0)
            items[kept++] = items[i];
    }
    return kept;
}

/* ---- interning ---- */

static uint64_t hash_items(const run_item *items, size_t n, uint64_t seed)
{
    return hash_fast(items, n * sizeof(*items), seed);
}

static status table_grow(run_table *t, size_t n, const shard_grammar *g, bool configs)
{
    if (n * 2 < t->n_slots)
        return ST_OK;
    size_t size = t->n_slots == 0 ? 64 : t->n_slots * 2;
    uint32_t *slots = calloc(size, sizeof(*slots));
    if (slots == NULL)
        return FAIL(ST_NO_MEMORY, "grammar: no memory");
    for (size_t i = 0; i < n; i++) {
        uint64_t h = configs ? hash_items(g->items + g->configs[i].at, g->configs[i].n, g->configs[i].accept) : hash_items(g->items + g->nodes[i].at, g->nodes[i].n, 0);
        size_t at = h & (size - 1);
        while (slots[at] != 0)
            at = (at + 1) & (size - 1);
        slots[at] = (uint32_t)i + 1;
    }
    free(t->slots);
    *t = (run_table){.slots = slots, .n_slots = size};
    return ST_OK;
}

static status keep_items(shard_grammar *g, const run_item *items, size_t n, uint32_t *at)
{
    if ((g->n_items + n) * sizeof(*items) > hard_bytes)
        return too_ambiguous();
    TRY(mem_grow(&g->items, &g->cap_items, g->n_items + n, sizeof(*g->items), "grammar"));
    *at = (uint32_t)g->n_items;
    if (n > 0)
        memcpy(g->items + g->n_items, items, n * sizeof(*items));
    g->n_items += n;
    return ST_OK;
}

/* items: sorted and unique. */
status run_intern_config(shard_grammar *g, const run_item *items, size_t n, bool accept, int32_t *out)
{
    TRY(table_grow(&g->config_table, g->n_configs, g, true));
    size_t mask = g->config_table.n_slots - 1, at = hash_items(items, n, accept) & mask;
    for (; g->config_table.slots[at] != 0; at = (at + 1) & mask) {
        uint32_t number = g->config_table.slots[at] - 1;
        const run_config *c = &g->configs[number];
        if (c->n == n && c->accept == accept && memcmp(g->items + c->at, items, n * sizeof(*items)) == 0) {
            *out = (int32_t)number;
            return ST_OK;
        }
    }
    run_config c = {.n = (uint32_t)n, .row = RUN_NONE, .mask = -1, .accept = accept};
    TRY(mem_grow(&g->configs, &g->cap_configs, g->n_configs + 1, sizeof(*g->configs), "grammar"));
    TRY(keep_items(g, items, n, &c.at));
    g->configs[g->n_configs] = c;
    g->config_table.slots[at] = (uint32_t)g->n_configs + 1;
    *out = (int32_t)g->n_configs++;
    return ST_OK;
}

static status intern_node(shard_grammar *g, run_item *edges, size_t n, uint32_t *out)
{
    n = run_sort(edges, n);
    TRY(table_grow(&g->node_table, g->n_nodes, g, false));
    size_t mask = g->node_table.n_slots - 1, at = hash_items(edges, n, 0) & mask;
    for (; g->node_table.slots[at] != 0; at = (at + 1) & mask) {
        uint32_t number = g->node_table.slots[at] - 1;
        const run_node *node = &g->nodes[number];
        if (node->n == n && memcmp(g->items + node->at, edges, n * sizeof(*edges)) == 0) {
            *out = number;
            return ST_OK;
        }
    }
    run_node node = {.n = (uint32_t)n};
    for (size_t i = 0; i < n; i++) {
        uint32_t below = g->nodes[edges[i].stack].depth;
        node.depth = below + 1 > node.depth ? below + 1 : node.depth;
    }
    TRY(mem_grow(&g->nodes, &g->cap_nodes, g->n_nodes + 1, sizeof(*g->nodes), "grammar"));
    TRY(keep_items(g, edges, n, &node.at));
    g->nodes[g->n_nodes] = node;
    g->node_table.slots[at] = (uint32_t)g->n_nodes + 1;
    *out = (uint32_t)g->n_nodes++;
    return ST_OK;
}

/* ---- items ---- */

static bool is_head(const shard_grammar *g, uint32_t state)
{
    const run_rule *r = &g->rules[g->states[state].rule];
    return r->counted && r->first == state;
}

/* May the item's rule end here? */
static bool ends(const shard_grammar *g, const run_item *i)
{
    const run_state *s = &g->states[i->state];
    return s->final || (is_head(g, i->state) && i->count > 0 && i->count >= g->rules[s->rule].min);
}

/* May it go on? */
static bool goes_on(const shard_grammar *g, const run_item *i)
{
    const run_state *s = &g->states[i->state];
    return !s->idle && !(is_head(g, i->state) && i->count >= g->rules[s->rule].max);
}

/* Adds an item that its rule could finish within the depth allowed; one that is there already is not added twice. */
static status add(shard_grammar *g, run_item item)
{
    if (g->nodes[item.stack].depth + g->states[item.state].height > RUN_MAX_DEPTH)
        return ST_OK;
    g->work += g->n_set + 8;
    for (size_t i = 0; i < g->n_set; i++) {
        if (g->set[i].state == item.state && g->set[i].stack == item.stack && g->set[i].count == item.count)
            return ST_OK;
    }
    if (g->n_set == RUN_MAX_ITEMS || g->work > RUN_MAX_WORK)
        return too_ambiguous();
    g->set[g->n_set++] = item;
    return ST_OK;
}

/* The item at `to`, of the rule run that has `count` on `stack`: entering a head by an edge or a return counts a round. */
static status arrive(shard_grammar *g, uint32_t to, uint32_t count, uint32_t stack)
{
    if (is_head(g, to)) {
        const run_rule *r = &g->rules[g->states[to].rule];
        if (r->max != UINT32_MAX || count < r->min || count == 0)
            count++; /* without a limit, past the minimum all counts are one */
    }
    return add(g, (run_item){.state = to, .count = count, .stack = stack});
}

static const run_edge *edge_on(const shard_grammar *g, uint32_t state, uint8_t byte)
{
    uint32_t low = g->states[state].edges, high = g->states[state + 1].edges, end = high;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (byte > g->edges[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < end && byte >= g->edges[low].first ? &g->edges[low] : NULL;
}

static status scan(shard_grammar *g, int32_t config, uint8_t byte)
{
    for (uint32_t i = 0; i < g->configs[config].n; i++) {
        run_item item = g->items[g->configs[config].at + i];
        const run_edge *e = goes_on(g, &item) ? edge_on(g, item.state, byte) : NULL;
        if (e != NULL)
            TRY(arrive(g, e->to, item.count, item.stack));
    }
    return ST_OK;
}

static status return_all(shard_grammar *g, bool *accept)
{
    for (size_t i = 0; i < g->n_set; i++) {
        run_item item = g->set[i];
        if (!ends(g, &item))
            continue;
        if (item.stack == RUN_ROOT)
            *accept = true;
        for (uint32_t j = 0; j < g->nodes[item.stack].n; j++) {
            run_item ret = g->items[g->nodes[item.stack].at + j];
            TRY(arrive(g, ret.state, ret.count, ret.stack));
        }
    }
    return ST_OK;
}

/* ---- prediction ---- */

static status push_calls(shard_grammar *g, run_item item)
{
    uint32_t state = item.state;
    if (!goes_on(g, &item))
        return ST_OK;
    for (uint32_t i = g->states[state].calls; i < g->states[state + 1].calls; i++) {
        const run_call *c = &g->calls[i];
        bool tail = g->states[c->to].final && g->states[c->to].idle;
        if (!tail && g->nodes[item.stack].depth + g->states[c->to].height > RUN_MAX_DEPTH)
            continue;
        if (g->n_pushes == MAX_PUSHES)
            return too_ambiguous();
        g->pushes[g->n_pushes++] = (run_push){.rule = c->rule, .tail = tail, .ret = {.state = c->to, .count = item.count, .stack = item.stack}};
    }
    return ST_OK;
}

/* The waiting call whose rule has the lowest rank; false: none. */
static bool lowest(const shard_grammar *g, uint32_t *rule)
{
    uint32_t best = UINT32_MAX;
    for (size_t i = 0; i < g->n_pushes; i++) {
        if (g->rules[g->pushes[i].rule].rank < best) {
            best = g->rules[g->pushes[i].rule].rank;
            *rule = g->pushes[i].rule;
        }
    }
    return best != UINT32_MAX;
}

static status begin_rule(shard_grammar *g, uint32_t rule, uint32_t stack)
{
    size_t before = g->n_set;
    TRY(add(g, (run_item){.state = g->rules[rule].first, .stack = stack}));
    return g->n_set > before ? push_calls(g, g->set[before]) : ST_OK;
}

static status predict(shard_grammar *g)
{
    uint32_t rule;
    g->n_pushes = 0;
    for (size_t i = 0, n = g->n_set; i < n; i++)
        TRY(push_calls(g, g->set[i]));
    while (lowest(g, &rule)) {
        run_item edges[RUN_MAX_ITEMS];
        uint32_t tails[RUN_MAX_ITEMS];
        size_t n = 0, n_tails = 0, kept = 0;
        for (size_t i = 0; i < g->n_pushes; i++) {
            const run_push *p = &g->pushes[i];
            if (p->rule != rule) {
                g->pushes[kept++] = *p;
                continue;
            }
            if (n == RUN_MAX_ITEMS || n_tails == RUN_MAX_ITEMS)
                return too_ambiguous();
            if (p->tail)
                tails[n_tails++] = p->ret.stack;
            else
                edges[n++] = p->ret;
        }
        g->n_pushes = kept;
        if (n > 0) {
            uint32_t node;
            TRY(intern_node(g, edges, n, &node));
            TRY(begin_rule(g, rule, node));
        }
        for (size_t i = 0; i < n_tails; i++)
            TRY(begin_rule(g, rule, tails[i]));
    }
    return ST_OK;
}

/* The configuration of `set`, closed: RUN_DEAD if nothing is left. */
static status settle(shard_grammar *g, bool accept, int32_t *out)
{
    TRY(return_all(g, &accept));
    TRY(predict(g));
    size_t kept = 0;
    for (size_t i = 0; i < g->n_set; i++) { /* items without byte edges have done what they can */
        uint32_t s = g->set[i].state;
        if (g->states[s].edges < g->states[s + 1].edges && goes_on(g, &g->set[i]))
            g->set[kept++] = g->set[i];
    }
    kept = run_sort(g->set, kept);
    if (kept == 0 && !accept) {
        *out = RUN_DEAD;
        return ST_OK;
    }
    return run_intern_config(g, g->set, kept, accept, out);
}

status run_move_slow(shard_grammar *g, int32_t config, uint8_t class, int32_t *out)
{
    if (g->configs[config].row == RUN_NONE) {
        if ((g->n_moves + g->n_classes) * sizeof(*g->moves) > hard_bytes)
            return too_ambiguous();
        TRY(mem_grow(&g->moves, &g->cap_moves, g->n_moves + g->n_classes, sizeof(*g->moves), "grammar"));
        for (uint32_t i = 0; i < g->n_classes; i++)
            g->moves[g->n_moves + i] = RUN_UNKNOWN;
        g->configs[config].row = (uint32_t)g->n_moves;
        g->n_moves += g->n_classes;
    }
    int32_t *move = &g->moves[g->configs[config].row + class];
    if (*move != RUN_UNKNOWN) {
        *out = *move;
        return ST_OK;
    }
    g->n_set = 0;
    TRY(scan(g, config, g->byte_of[class]));
    *out = RUN_DEAD;
    if (g->n_set > 0)
        TRY(settle(g, false, out));
    g->moves[g->configs[config].row + class] = *out;
    return ST_OK;
}

/* ---- beginning, ending, renewing ---- */

static void free_tables(shard_grammar *g)
{
    free(g->items);
    free(g->nodes);
    free(g->configs);
    free(g->moves);
    free(g->node_table.slots);
    free(g->config_table.slots);
}

static void forget(shard_grammar *g)
{
    g->items = NULL;
    g->nodes = NULL;
    g->configs = NULL;
    g->moves = NULL;
    g->n_items = g->n_nodes = g->n_configs = g->n_moves = 0;
    g->cap_items = g->cap_nodes = g->cap_configs = g->cap_moves = 0;
    g->node_table = g->config_table = (run_table){0};
}

static status start(shard_grammar *g)
{
    uint32_t root;
    TRY(mem_grow(&g->items, &g->cap_items, 1, sizeof(*g->items), "grammar"));
    TRY(intern_node(g, g->set, 0, &root)); /* number 0: RUN_ROOT */
    g->n_set = 0;
    TRY(add(g, (run_item){.state = g->rules[0].first, .stack = root}));
    TRY(settle(g, g->empty, &g->initial));
    if (g->initial == RUN_DEAD)
        TRY(run_intern_config(g, g->set, 0, false, &g->initial));
    return ST_OK;
}

status run_begin(shard_grammar *g)
{
    TRY(mem_calloc(RUN_MAX_ITEMS, sizeof(*g->set), "grammar", &g->set));
    TRY(mem_calloc(MAX_PUSHES, sizeof(*g->pushes), "grammar", &g->pushes));
    TRY(mem_calloc((size_t)g->vocab->max_len + 1, sizeof(*g->path), "grammar", &g->path));
    TRY(mem_calloc((size_t)g->vocab->max_len + 1, sizeof(*g->rows), "grammar", &g->rows));
    TRY(mem_calloc(g->vocab->words, sizeof(*g->bits), "grammar", &g->bits));
    return start(g);
}

void run_free(shard_grammar *g)
{
    run_free_masks(g);
    free_tables(g);
    free(g->masks);
    free(g->set);
    free(g->pushes);
    free(g->path);
    free(g->rows);
    free(g->bits);
}

/* Copies a node and what lies below it into the new run.  Depth is bounded by RUN_MAX_DEPTH. */
static status copy_node(shard_grammar *g, const shard_grammar *old, uint32_t node, uint32_t *number)
{
    const run_node *n = &old->nodes[node];
    run_item *edges;
    status st = ST_OK;
    if (number[node] != RUN_NONE)
        return ST_OK;
    TRY(mem_calloc(n->n, sizeof(*edges), "grammar", &edges));
    for (uint32_t i = 0; i < n->n && st == ST_OK; i++) {
        edges[i] = old->items[n->at + i];
        st = copy_node(g, old, edges[i].stack, number);
        edges[i].stack = number[edges[i].stack];
    }
    if (st == ST_OK)
        st = intern_node(g, edges, n->n, &number[node]);
    free(edges);
    return st;
}

static status copy_config(shard_grammar *g, const shard_grammar *old, int32_t config, uint32_t *number, int32_t *out)
{
    const run_config *c = &old->configs[config];
    for (uint32_t i = 0; i < c->n; i++) {
        run_item item = old->items[c->at + i];
        TRY(copy_node(g, old, item.stack, number));
        item.stack = number[item.stack];
        g->set[i] = item;
    }
    return run_intern_config(g, g->set, run_sort(g->set, c->n), c->accept, out);
}

/* The run's tables from nothing; what states hold is copied over from `old`. */
static status renew(shard_grammar *g, shard_grammar *old)
{
    uint32_t *number;
    status st;
    TRY(mem_calloc(old->n_nodes, sizeof(*number), "grammar", &number));
    memset(number, 0xff, old->n_nodes * sizeof(*number));
    st = start(g);
    number[RUN_ROOT] = RUN_ROOT;
    for (shard_grammar_state *s = g->live; s != NULL && st == ST_OK; s = s->next)
        st = copy_config(g, old, s->config, number, &s->renewed);
    for (shard_grammar_state *s = g->live; s != NULL && st == ST_OK; s = s->next)
        s->config = s->renewed;
    free(number);
    return st;
}

status run_tidy(shard_grammar *g)
{
    size_t bytes = g->n_items * sizeof(*g->items) + g->n_configs * sizeof(*g->configs) + g->n_moves * sizeof(*g->moves) + g->n_nodes * sizeof(*g->nodes);
    g->work = 0;
    if (bytes < soft_bytes)
        return ST_OK;
    run_free_masks(g);
    shard_grammar old = *g;
    forget(g);
    status st = renew(g, &old);
    if (st != ST_OK) {
        free_tables(g);
        *g = old;
        return st;
    }
    free_tables(&old);
    return ST_OK;
}
