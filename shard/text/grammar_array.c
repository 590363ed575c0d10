/* shard/text/grammar_array.c - arrays of a schema: items by position, then the rest; how many; how many of a kind (contains).
 *
 * Items behind those that a schema lists by position are written only if it says what they are, or asks for that many.  Items that must
 * differ can be kept apart only where their values are listed. */
#include <string.h>

#include "shard/text/grammar_schema.h"

enum { MAX_POSITIONS = 200, MAX_STATES = 20000, MAX_UNIQUE = 60, MAX_ANY_ORDER = 6 };

/* What one layer says of an item: NULL: nothing. */
static const json_t *item_schema(const json_t *layer, uint32_t at, uint32_t *listed, bool *rest)
{
    const json_t *prefix = json_object_get(layer, "prefixItems"), *items = json_object_get(layer, "items"), *more = items;
    if (json_is_array(items)) { /* up to 2019-09 */
        prefix = items;
        more = json_object_get(layer, "additionalItems");
    }
    *listed = (uint32_t)json_array_size(prefix);
    *rest = more != NULL;
    return at < *listed ? json_array_get(prefix, at) : more;
}

static status check_layers(const sch_shape *sh)
{
    for (const sch_cell *l = sh->item_layers; l != NULL; l = l->next) {
        const json_t *prefix = json_object_get(l->json, "prefixItems"), *items = json_object_get(l->json, "items");
        if ((prefix != NULL && !json_is_array(prefix)) || (prefix != NULL && json_is_array(items)))
            return FAIL(ST_INVALID, "schema: prefixItems must be a list, and items beside it a schema");
        if (json_array_size(prefix) > MAX_POSITIONS || json_array_size(items) > MAX_POSITIONS)
            return FAIL(ST_LIMIT, "schema: more than %d items by position", MAX_POSITIONS);
    }
    return ST_OK;
}

/* Does another schema inside the scope say something of the item?  (contains is not asked: fewer texts, none wrong.) */
static bool evaluated(const sch_shape *sh, const sch_cell *scope, uint32_t at)
{
    for (const sch_cell *l = sh->item_layers; l != NULL; l = l->next) {
        uint32_t listed;
        bool rest;
        if ((l->min & scope->min) != 0 && item_schema(l->json, at, &listed, &rest) != NULL)
            return true;
    }
    return false;
}

/* All that must hold of the item at a position. */
static status item_conj(sch_ctx *s, const sch_shape *sh, uint32_t at, sch_conj *out)
{
    *out = (sch_conj){0};
    for (const sch_cell *l = sh->item_layers; l != NULL; l = l->next) {
        uint32_t listed;
        bool rest;
        const json_t *schema = item_schema(l->json, at, &listed, &rest);
        if (schema != NULL)
            TRY(sch_conj_add(s, out, (sch_lit){schema, false}));
    }
    for (const sch_cell *l = sh->item_scopes; l != NULL; l = l->next) {
        if (!evaluated(sh, l, at))
            TRY(sch_conj_add(s, out, (sch_lit){json_object_get(l->json, "unevaluatedItems"), false}));
    }
    for (const sch_cell *l = sh->item_lits; l != NULL; l = l->next) {
        if (l->min == at)
            TRY(sch_conj_add(s, out, l->lit));
    }
    return ST_OK;
}

/* Positions that differ from the rest, and whether the rest may be written unasked. */
static void measure(const sch_shape *sh, uint32_t *positions, bool *open)
{
    bool said = sh->item_scopes != NULL;
    *positions = 0;
    for (const sch_cell *l = sh->item_layers; l != NULL; l = l->next) {
        uint32_t listed;
        bool rest;
        item_schema(l->json, 0, &listed, &rest);
        *positions = listed > *positions ? listed : *positions;
        said = said || rest;
    }
    for (const sch_cell *l = sh->item_lits; l != NULL; l = l->next)
        *positions = l->min + 1 > *positions ? l->min + 1 : *positions;
    *open = said || *positions == 0 || sh->min_items > *positions || sh->contains != NULL;
}

static status item_expr(sch_ctx *s, const sch_shape *sh, uint32_t at, const sch_cell *kind, bool negated, const gram_expr **out)
{
    sch_conj conj;
    TRY(item_conj(s, sh, at, &conj));
    if (kind != NULL)
        TRY(sch_conj_add(s, &conj, (sch_lit){kind->lit.schema, kind->lit.negated != negated}));
    return sch_conj_expr(s, &conj, out);
}

/* ---- without contains ---- */

/* The rest, behind `before` items: at least min more, at most max. */
static status rest_expr(sch_ctx *s, const sch_shape *sh, uint32_t before, uint32_t min, uint32_t max, const gram_expr **out)
{
    const gram_expr *item, *more;
    gram_list one = {0}, whole = {0};
    TRY(item_expr(s, sh, before, NULL, false, &item));
    TRY(gram_push(s->c, &one, s->comma));
    TRY(gram_push(s->c, &one, item));
    TRY(gram_seq(s->c, &one, &more));
    if (before > 0)
        return gram_repeat(s->c, more, min, max, out);
    if (max == 0) {
        *out = gram_empty();
        return ST_OK;
    }
    TRY(gram_repeat(s->c, more, min > 0 ? min - 1 : 0, max == GRAM_NO_LIMIT ? max : max - 1, &more));
    TRY(gram_push(s->c, &whole, item));
    TRY(gram_push(s->c, &whole, more));
    TRY(gram_seq(s->c, &whole, out));
    return gram_repeat(s->c, *out, min > 0, 1, out);
}

/* From the last position back: item (, next ...)?  */
static status by_position(sch_ctx *s, const sch_shape *sh, uint32_t positions, bool open, const gram_expr **out)
{
    uint32_t max = !open && sh->max_items > positions ? positions : sh->max_items;
    uint32_t listed = positions < max ? positions : max;
    const gram_expr *tail = gram_empty();
    if (max > positions)
        TRY(rest_expr(s, sh, positions, sh->min_items > positions ? sh->min_items - positions : 0, max == GRAM_NO_LIMIT ? max : max - positions, &tail));
    else if (sh->min_items > max)
        tail = gram_nothing();
    for (uint32_t i = listed; i-- > 0;) {
        gram_list l = {0};
        const gram_expr *item;
        if (i > 0)
            TRY(gram_push(s->c, &l, s->comma));
        TRY(item_expr(s, sh, i, NULL, false, &item));
        TRY(gram_push(s->c, &l, item));
        TRY(gram_push(s->c, &l, tail));
        TRY(gram_seq(s->c, &l, &tail));
        if (i >= sh->min_items)
            TRY(gram_repeat(s->c, tail, 0, 1, &tail));
    }
    *out = tail;
    return ST_OK;
}

/* ---- with contains: states (position, how many of the kind) ---- */

typedef struct grid {
    gram_nfa n;
    uint32_t columns; /* counts 0 .. columns - 1 */
} grid;

static uint32_t grid_state(const grid *g, uint32_t at, uint32_t count)
{
    return 2 + at * g->columns + count;
}

static status grid_item(sch_ctx *s, grid *g, const sch_shape *sh, uint32_t at, uint32_t count, bool of_kind, uint32_t to_at, uint32_t to_count)
{
    const sch_cell *kind = sh->contains;
    const gram_expr *item;
    uint32_t from = grid_state(g, at, count);
    if (!of_kind && kind->max == GRAM_NO_LIMIT)
        kind = NULL; /* one of the kind more than counted does no harm */
    TRY(item_expr(s, sh, at, kind, !of_kind, &item));
    if (at > 0) {
        uint32_t behind = g->n.n_states++;
        TRY(gram_nfa_expr(&g->n, s->comma, from, behind));
        from = behind;
    }
    return gram_nfa_expr(&g->n, item, from, grid_state(g, to_at, to_count));
}

static status grid_row(sch_ctx *s, grid *g, const sch_shape *sh, uint32_t at, uint32_t rows)
{
    const sch_cell *kind = sh->contains;
    for (uint32_t count = 0; count < g->columns; count++) {
        bool last = at == rows;
        if (at >= sh->min_items && count >= kind->min && (kind->max == GRAM_NO_LIMIT || count <= kind->max))
            TRY(gram_nfa_skip(&g->n, grid_state(g, at, count), 1));
        if (last && sh->max_items != GRAM_NO_LIMIT)
            continue;
        uint32_t next = last ? at : at + 1;
        TRY(grid_item(s, g, sh, at, count, false, next, count));
        if (count + 1 < g->columns)
            TRY(grid_item(s, g, sh, at, count, true, next, count + 1));
        else if (kind->max == GRAM_NO_LIMIT)
            continue; /* all that are left may be of the kind anyhow */
    }
    return ST_OK;
}

static status with_contains(sch_ctx *s, const sch_shape *sh, uint32_t positions, const gram_expr **out)
{
    const sch_cell *kind = sh->contains;
    grid g = {.columns = (kind->max == GRAM_NO_LIMIT ? kind->min : kind->max) + 1};
    gram_dfa d;
    uint64_t rows = positions > sh->min_items ? positions : sh->min_items;
    if (kind->next != NULL)
        return FAIL(ST_UNSUPPORTED, "schema: the keyword \"contains\" is not supported twice in one place");
    if (sh->max_items != GRAM_NO_LIMIT)
        rows = sh->max_items;
    if (sh->max_items == 0) {
        *out = sh->min_items == 0 && kind->min == 0 ? gram_empty() : gram_nothing();
        return ST_OK;
    }
    rows = rows == 0 ? 1 : rows;
    if ((rows + 1) * g.columns > MAX_STATES || rows > MAX_STATES || g.columns > MAX_STATES)
        return FAIL(ST_LIMIT, "schema: contains with so large counts");
    TRY(gram_nfa_init(s->c, false, &g.n));
    g.n.n_states = grid_state(&g, (uint32_t)rows + 1, 0);
    TRY(gram_nfa_skip(&g.n, 0, grid_state(&g, 0, 0)));
    for (uint32_t at = 0; at <= rows; at++)
        TRY(grid_row(s, &g, sh, at, (uint32_t)rows));
    TRY(gram_nfa_finish(&g.n, &d));
    return gram_automaton(s->c, d, out);
}

/* ---- without doubles: items out of a list ---- */

/* The values that an item may have, if they are listed; doubles left out.  *listed: they are. */
static status item_values(sch_ctx *s, const sch_shape *sh, const json_t **values, size_t *n, bool *listed)
{
    sch_conj conj;
    sch_shapes shapes;
    *n = 0;
    TRY(item_conj(s, sh, 0, &conj));
    TRY(sch_expand(s, &conj, &shapes));
    *listed = conj.n > 0 && sh->contains == NULL && sh->item_lits == NULL;
    for (size_t i = 0; i < shapes.n && *listed; i++) {
        *listed = shapes.at[i].listed;
        for (const sch_cell *v = shapes.at[i].values; v != NULL && *listed; v = v->next) {
            bool ok;
            size_t k = 0;
            TRY(sch_shape_ok(s, &shapes.at[i], v->json, &ok));
            while (k < *n && !sch_equal(values[k], v->json))
                k++;
            if (ok && k == MAX_UNIQUE)
                return FAIL(ST_UNSUPPORTED, "schema: \"uniqueItems\" with more than %d listed values is not supported", MAX_UNIQUE);
            if (ok && k == *n)
                values[(*n)++] = v->json;
        }
    }
    return ST_OK;
}

/* Value i from one state to another, behind a comma where something was written. */
static status unique_item(sch_ctx *s, gram_nfa *n, const json_t *value, bool comma, uint32_t from, uint32_t to)
{
    const gram_expr *e;
    TRY(sch_literal(s, value, &e));
    if (comma) {
        uint32_t behind = n->n_states++;
        TRY(gram_nfa_expr(n, s->comma, from, behind));
        from = behind;
    }
    return gram_nfa_expr(n, e, from, to);
}

/* Few values in any order: a state for each set of them; many only in the order of the list: a state for each place in it and count. */
static status unique_states(sch_ctx *s, const sch_shape *sh, const json_t *const *values, size_t n_values, gram_nfa *n)
{
    bool any_order = n_values <= MAX_ANY_ORDER;
    uint32_t rows = any_order ? 1u << n_values : (uint32_t)n_values + 1, columns = any_order ? 1 : (uint32_t)n_values + 1;
    n->n_states = 2 + rows * columns;
    TRY(gram_nfa_skip(n, 0, 2));
    for (uint32_t at = 0; at < rows * columns; at++) {
        uint32_t row = at / columns, count = any_order ? (uint32_t)__builtin_popcount(row) : at % columns;
        if (count >= sh->min_items && count <= sh->max_items)
            TRY(gram_nfa_skip(n, 2 + at, 1));
        for (uint32_t i = 0; i < n_values && any_order && count < sh->max_items; i++) {
            if ((row >> i & 1) == 0)
                TRY(unique_item(s, n, values[i], count > 0, 2 + at, 2 + (row | 1u << i)));
        }
        if (any_order || row == n_values)
            continue;
        TRY(gram_nfa_skip(n, 2 + at, 2 + at + columns));
        if (count < n_values && count < sh->max_items)
            TRY(unique_item(s, n, values[row], count > 0, 2 + at, 2 + at + columns + 1));
    }
    return ST_OK;
}

static status without_doubles(sch_ctx *s, const sch_shape *sh, uint32_t positions, const gram_expr **out)
{
    const json_t *values[MAX_UNIQUE];
    size_t n;
    bool listed = false;
    gram_nfa a;
    gram_dfa d;
    if (positions == 0)
        TRY(item_values(s, sh, values, &n, &listed));
    if (!listed)
        return FAIL(ST_UNSUPPORTED, "schema: the keyword \"uniqueItems\" is not supported but for items out of a list");
    TRY(gram_nfa_init(s->c, false, &a));
    TRY(unique_states(s, sh, values, n, &a));
    TRY(gram_nfa_finish(&a, &d));
    return gram_automaton(s->c, d, out);
}

static status array_inside(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    uint32_t positions;
    bool open;
    measure(sh, &positions, &open);
    if (sh->unique && sh->max_items > 1 && (open || positions > 1))
        return without_doubles(s, sh, positions, out);
    return sh->contains != NULL ? with_contains(s, sh, positions, out) : by_position(s, sh, positions, open, out);
}

status sch_array(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    gram_list l = {0};
    const gram_expr *inside;
    for (const sch_cell *x = sh->excluded; x != NULL; x = x->next) {
        if (json_is_array(x->json))
            return FAIL(ST_UNSUPPORTED, "schema: the keyword \"not\" is not supported with a listed array");
    }
    TRY(check_layers(sh));
    TRY(array_inside(s, sh, &inside));
    TRY(gram_push_text(s->c, &l, "["));
    TRY(gram_push(s->c, &l, inside));
    TRY(gram_push_text(s->c, &l, "]"));
    return gram_seq(s->c, &l, out);
}

/* ---- judging ---- */

static status contains_ok(sch_ctx *s, const sch_cell *kind, const json_t *value, bool *ok)
{
    sch_conj conj = {0};
    uint32_t n = 0;
    TRY(sch_conj_add(s, &conj, kind->lit));
    for (size_t i = 0; i < json_array_size(value); i++) {
        bool is;
        TRY(sch_conj_ok(s, &conj, json_array_get(value, i), &is));
        n += is;
    }
    *ok = n >= kind->min && (kind->max == GRAM_NO_LIMIT || n <= kind->max);
    return ST_OK;
}

status sch_array_ok(sch_ctx *s, const sch_shape *sh, const json_t *value, bool *ok)
{
    size_t n = json_array_size(value);
    TRY(check_layers(sh));
    *ok = n >= sh->min_items && n <= sh->max_items;
    for (uint32_t i = 0; i < n && *ok; i++) {
        sch_conj conj;
        TRY(item_conj(s, sh, i, &conj));
        TRY(sch_conj_ok(s, &conj, json_array_get(value, i), ok));
        for (uint32_t j = 0; j < i && *ok && sh->unique; j++)
            *ok = !sch_equal(json_array_get(value, i), json_array_get(value, j));
    }
    for (const sch_cell *k = sh->contains; k != NULL && *ok; k = k->next)
        TRY(contains_ok(s, k, value, ok));
    return ST_OK;
}
