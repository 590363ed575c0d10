/* shard/text/grammar_object.c - objects of a schema: its properties in its order, then others.
 *
 * Optional properties may be skipped.  Properties that no schema names are written only if one says what they are (additionalProperties,
 * patternProperties, propertyNames, unevaluatedProperties), none names any, or more are asked for than are named.
 *
 *   states (properties passed, how many written): a property leads to the next with one more, skipping one to the next as it is
 *
 * Names of other properties are any text but the named ones, divided by the patterns that they match.  One could come twice, which a
 * reader takes for one: where a least number is asked for, the names that make it up have each its own length. */
#include <string.h>

#include "shard/text/grammar_schema.h"

enum { MAX_STATES = 100000, MAX_PATTERNS = 5 };

typedef struct property {
    const char *name;
    size_t len;
    bool required;
} property;

typedef struct object {
    const sch_shape *sh;
    property *named;
    size_t n_named, cap;
    const char *patterns[MAX_PATTERNS]; /* of all layers */
    size_t n_patterns;
    gram_dfa other; /* names that are not named and keep to propertyNames */
    bool any_name;  /* `other` is every text */
    bool unmatched; /* names that match no pattern may be written */
    const gram_expr *pair; /* a property of any such name */
} object;

static status add_named(sch_ctx *s, object *o, const char *name, size_t len, bool required)
{
    for (size_t i = 0; i < o->n_named; i++) {
        if (o->named[i].len == len && memcmp(o->named[i].name, name, len) == 0) {
            o->named[i].required = o->named[i].required || required;
            return ST_OK;
        }
    }
    TRY(gram_work(s->c, o->n_named));
    TRY(gram_grow(s->c, &o->named, o->n_named, &o->cap, sizeof(*o->named)));
    o->named[o->n_named++] = (property){name, len, required};
    return ST_OK;
}

/* The layer that was found first comes first: lists have it last. */
static status name_layers(sch_ctx *s, object *o, const sch_cell *l)
{
    const char *key;
    json_t *value;
    size_t n = 0;
    const sch_cell **order;
    for (const sch_cell *at = l; at != NULL; at = at->next)
        n++;
    TRY(gram_alloc(s->c, n, sizeof(*order), &order));
    for (const sch_cell *at = l; at != NULL; at = at->next)
        order[--n] = at;
    for (const sch_cell *at = l; at != NULL; at = at->next, n++) {
        json_object_foreach(json_object_get(order[n]->json, "properties"), key, value)
            TRY(add_named(s, o, key, strlen(key), false));
    }
    return ST_OK;
}

static status add_patterns(object *o, const json_t *layer)
{
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(layer, "patternProperties"), key, value) {
        size_t i = 0;
        while (i < o->n_patterns && strcmp(o->patterns[i], key) != 0)
            i++;
        if (i == MAX_PATTERNS)
            return FAIL(ST_UNSUPPORTED, "schema: patternProperties of more than %d patterns is not supported", MAX_PATTERNS);
        o->patterns[i] = key;
        o->n_patterns = i == o->n_patterns ? i + 1 : o->n_patterns;
    }
    return ST_OK;
}

/* What holds of every name. */
static status names_conj(sch_ctx *s, const sch_shape *sh, sch_conj *out)
{
    *out = (sch_conj){0};
    for (const sch_cell *l = sh->name_lits; l != NULL; l = l->next)
        TRY(sch_conj_add(s, out, l->lit));
    return ST_OK;
}

/* What a layer says of a name: adds it; *found: it says something. */
static status layer_conj(sch_ctx *s, const json_t *layer, const char *name, size_t len, sch_conj *out, bool *found)
{
    const json_t *schema = json_object_getn(json_object_get(layer, "properties"), name, len), *other = json_object_get(layer, "additionalProperties");
    const char *key;
    json_t *value;
    *found = schema != NULL;
    if (schema != NULL)
        TRY(sch_conj_add(s, out, (sch_lit){schema, false}));
    json_object_foreach(json_object_get(layer, "patternProperties"), key, value) {
        const gram_dfa *d;
        TRY(sch_pattern_dfa(s, key, strlen(key), false, &d));
        if (!gram_dfa_matches(d, name, len))
            continue;
        *found = true;
        TRY(sch_conj_add(s, out, (sch_lit){value, false}));
    }
    if (!*found && other != NULL) {
        *found = true;
        TRY(sch_conj_add(s, out, (sch_lit){other, false}));
    }
    return ST_OK;
}

/* seen: the scopes in which something is said of the name. */
static status scopes_conj(sch_ctx *s, const sch_shape *sh, uint32_t seen, sch_conj *out)
{
    for (const sch_cell *l = sh->property_scopes; l != NULL; l = l->next) {
        if ((l->min & seen) == 0)
            TRY(sch_conj_add(s, out, (sch_lit){json_object_get(l->json, "unevaluatedProperties"), false}));
    }
    return ST_OK;
}

/* All that must hold of the property of a name, if there is one. */
static status property_conj(sch_ctx *s, const sch_shape *sh, const char *name, size_t len, sch_conj *out)
{
    sch_conj names;
    uint32_t seen = 0;
    *out = (sch_conj){0};
    for (const sch_cell *l = sh->property_layers; l != NULL; l = l->next) {
        bool found;
        TRY(layer_conj(s, l->json, name, len, out, &found));
        seen |= found ? l->min : 0;
    }
    TRY(scopes_conj(s, sh, seen, out));
    for (const sch_cell *l = sh->property_lits; l != NULL; l = l->next) {
        if (l->len == len && memcmp(l->text, name, len) == 0)
            TRY(sch_conj_add(s, out, l->lit));
    }
    TRY(names_conj(s, sh, &names));
    if (names.n > 0 && !names.never) {
        json_t *text = json_stringn(name, len);
        bool ok = false;
        status st = text == NULL ? FAIL(ST_NO_MEMORY, "schema: no memory") : sch_conj_ok(s, &names, text, &ok);
        json_decref(text);
        TRY(st);
        out->never = out->never || !ok;
    }
    out->never = out->never || names.never;
    return ST_OK;
}

/* ---- other names ---- */

static status union_dfa(sch_ctx *s, const gram_dfa *a, const gram_dfa *b, gram_dfa *out)
{
    gram_nfa n;
    TRY(gram_nfa_init(s->c, true, &n));
    TRY(gram_nfa_dfa(&n, a, 0, 1));
    TRY(gram_nfa_dfa(&n, b, 0, 1));
    return gram_nfa_finish(&n, out);
}

static status listed_names(sch_ctx *s, const sch_shape *sh, gram_dfa *out)
{
    gram_list l = {0};
    const gram_expr *e;
    for (const sch_cell *v = sh->values; v != NULL; v = v->next) {
        bool ok = json_is_string(v->json);
        if (ok)
            TRY(sch_shape_ok(s, sh, v->json, &ok));
        if (!ok)
            continue;
        TRY(gram_text(s->c, json_string_value(v->json), json_string_length(v->json), &e));
        TRY(gram_push(s->c, &l, e));
    }
    TRY(gram_alt(s->c, &l, &e));
    return gram_dfa_of(s->c, e, true, out);
}

static status allowed_names(sch_ctx *s, const sch_shape *sh, gram_dfa *out)
{
    sch_conj names;
    sch_shapes shapes;
    TRY(names_conj(s, sh, &names));
    if (names.n == 0 && !names.never)
        return sch_length_dfa(s, 0, GRAM_NO_LIMIT, out);
    *out = (gram_dfa){0};
    TRY(sch_expand(s, &names, &shapes));
    for (size_t i = 0; i < shapes.n; i++) {
        gram_dfa d;
        if ((shapes.at[i].types & SCH_STRING) == 0)
            continue;
        TRY(shapes.at[i].listed ? listed_names(s, &shapes.at[i], &d) : sch_string_dfa(s, &shapes.at[i], &d));
        TRY(union_dfa(s, out, &d, out));
    }
    return ST_OK;
}

static status find_other_names(sch_ctx *s, object *o)
{
    gram_list l = {0};
    const gram_expr *e;
    gram_dfa d;
    o->any_name = o->n_named == 0 && o->n_patterns == 0 && o->sh->name_lits == NULL;
    if (o->any_name)
        return ST_OK;
    TRY(allowed_names(s, o->sh, &o->other));
    for (size_t i = 0; i < o->n_named; i++) {
        TRY(gram_text(s->c, o->named[i].name, o->named[i].len, &e));
        TRY(gram_push(s->c, &l, e));
    }
    if (l.n == 0)
        return ST_OK;
    TRY(gram_alt(s->c, &l, &e));
    TRY(gram_dfa_of(s->c, e, true, &d));
    TRY(gram_dfa_not(s->c, &d, &d));
    return gram_dfa_both(s->c, &o->other, &d, &o->other);
}

static size_t pattern_number(const object *o, const char *pattern)
{
    size_t i = 0;
    while (strcmp(o->patterns[i], pattern) != 0)
        i++;
    return i;
}

/* The values under names that match just the patterns in the set. */
static status class_conj(sch_ctx *s, const object *o, unsigned set, sch_conj *out)
{
    uint32_t seen = 0;
    *out = (sch_conj){0};
    for (const sch_cell *l = o->sh->property_layers; l != NULL; l = l->next) {
        const json_t *other = json_object_get(l->json, "additionalProperties");
        const char *key;
        json_t *value;
        bool found = false;
        json_object_foreach(json_object_get(l->json, "patternProperties"), key, value) {
            if ((set >> pattern_number(o, key) & 1) == 0)
                continue;
            found = true;
            TRY(sch_conj_add(s, out, (sch_lit){value, false}));
        }
        if (!found && other != NULL)
            TRY(sch_conj_add(s, out, (sch_lit){other, false}));
        seen |= found || other != NULL ? l->min : 0;
    }
    return scopes_conj(s, o->sh, seen, out);
}

static status class_names(sch_ctx *s, const object *o, unsigned set, gram_dfa *out)
{
    *out = o->other;
    for (size_t i = 0; i < o->n_patterns; i++) {
        const gram_dfa *d;
        gram_dfa inverse;
        bool in = (set >> i & 1) != 0;
        TRY(sch_pattern_dfa(s, o->patterns[i], strlen(o->patterns[i]), !in, &d));
        if (!in) {
            TRY(gram_dfa_not(s->c, d, &inverse));
            d = &inverse;
        }
        TRY(gram_dfa_both(s->c, out, d, out));
    }
    return ST_OK;
}

/* "name": value, of names in a class; length 0: of any length. */
static status class_pair(sch_ctx *s, const object *o, unsigned set, uint32_t length, gram_list *l)
{
    sch_conj conj;
    gram_list parts = {0};
    gram_dfa names, size;
    const gram_expr *key, *value, *pair;
    TRY(class_conj(s, o, set, &conj));
    TRY(sch_conj_expr(s, &conj, &value));
    if (value->kind == GRAM_NOTHING)
        return ST_OK;
    if (o->any_name) {
        TRY(gram_json_string(s->c, length, length == 0 ? GRAM_NO_LIMIT : length, &key));
    } else {
        TRY(class_names(s, o, set, &names));
        if (length > 0) {
            TRY(sch_length_dfa(s, length, length, &size));
            TRY(gram_dfa_both(s->c, &names, &size, &names));
        }
        TRY(gram_dfa_json(s->c, &names, &names));
        TRY(gram_automaton(s->c, names, &key));
        if (key->kind == GRAM_NOTHING)
            return ST_OK;
        TRY(gram_push_text(s->c, &parts, "\""));
        TRY(gram_push(s->c, &parts, key));
        TRY(gram_push_text(s->c, &parts, "\""));
        TRY(gram_seq(s->c, &parts, &key));
    }
    TRY(gram_json_pair(s->c, key, value, &pair));
    return gram_push(s->c, l, pair);
}

static status other_pair(sch_ctx *s, const object *o, uint32_t length, const gram_expr **out)
{
    gram_list l = {0};
    for (unsigned set = o->unmatched ? 0 : 1; set < 1u << o->n_patterns; set++)
        TRY(class_pair(s, o, set, length, &l));
    return gram_alt(s->c, &l, out);
}

/* ---- the whole ---- */

static status gather(sch_ctx *s, const sch_shape *sh, object *o)
{
    bool said = sh->name_lits != NULL || sh->property_scopes != NULL;
    *o = (object){.sh = sh};
    TRY(name_layers(s, o, sh->property_layers));
    for (const sch_cell *l = sh->property_lits; l != NULL; l = l->next)
        TRY(add_named(s, o, l->text, l->len, false));
    for (const sch_cell *l = sh->required; l != NULL; l = l->next)
        TRY(add_named(s, o, l->text, l->len, true));
    bool named = false;
    for (const sch_cell *l = sh->property_layers; l != NULL; l = l->next) {
        TRY(add_patterns(o, l->json));
        said = said || json_object_get(l->json, "additionalProperties") != NULL;
        named = named || json_object_size(json_object_get(l->json, "properties")) > 0;
    }
    o->unmatched = said || !named || sh->min_properties > o->n_named;
    TRY(find_other_names(s, o));
    return other_pair(s, o, 0, &o->pair);
}

typedef struct grid {
    gram_nfa n;
    uint32_t columns; /* how many were written: 0 .. columns - 1, the last also for more where that tells nothing */
    bool saturates;
} grid;

static uint32_t grid_state(const grid *g, size_t passed, uint32_t written)
{
    return 2 + (uint32_t)passed * g->columns + written;
}

static status grid_property(sch_ctx *s, grid *g, const object *o, size_t i)
{
    const property *p = &o->named[i];
    sch_conj conj;
    const gram_expr *key, *value, *pair;
    TRY(property_conj(s, o->sh, p->name, p->len, &conj));
    TRY(sch_conj_expr(s, &conj, &value));
    TRY(sch_text_key(s, p->name, p->len, &key));
    TRY(gram_json_pair(s->c, key, value, &pair));
    for (uint32_t w = 0; w < g->columns; w++) {
        uint32_t from = grid_state(g, i, w), next = w + 1 < g->columns ? w + 1 : w;
        if (!p->required)
            TRY(gram_nfa_skip(&g->n, from, grid_state(g, i + 1, w)));
        if ((next == w && !g->saturates) || value->kind == GRAM_NOTHING)
            continue;
        if (w > 0) {
            uint32_t behind = g->n.n_states++;
            TRY(gram_nfa_expr(&g->n, s->comma, from, behind));
            from = behind;
        }
        TRY(gram_nfa_expr(&g->n, pair, from, grid_state(g, i + 1, next)));
    }
    return ST_OK;
}

/* Behind the named ones, w written: as many others as are asked for, then as many as may be. */
static status grid_others(sch_ctx *s, grid *g, const object *o, uint32_t w)
{
    const sch_shape *sh = o->sh;
    uint32_t missing = sh->min_properties > w ? sh->min_properties - w : 0, from = grid_state(g, o->n_named, w);
    const gram_expr *pair, *more;
    gram_list l = {0}, whole = {0};
    for (uint32_t i = 0; i < missing; i++) {
        if (w + i > 0)
            TRY(gram_push(s->c, &whole, s->comma));
        pair = o->pair;
        if (missing > 1)
            TRY(other_pair(s, o, i + 1, &pair));
        TRY(gram_push(s->c, &whole, pair));
    }
    uint32_t room = sh->max_properties == GRAM_NO_LIMIT ? GRAM_NO_LIMIT : sh->max_properties - (w + missing);
    if (room > 0) {
        pair = o->pair;
        if (w + missing > 0)
            TRY(gram_push(s->c, &l, s->comma));
        TRY(gram_push(s->c, &l, pair));
        TRY(gram_seq(s->c, &l, &more));
        if (w + missing == 0) { /* the first without a comma */
            gram_list next = {0}, all = {0};
            TRY(gram_push(s->c, &next, s->comma));
            TRY(gram_push(s->c, &next, pair));
            TRY(gram_seq(s->c, &next, &more));
            TRY(gram_repeat(s->c, more, 0, room == GRAM_NO_LIMIT ? room : room - 1, &more));
            TRY(gram_push(s->c, &all, pair));
            TRY(gram_push(s->c, &all, more));
            TRY(gram_seq(s->c, &all, &more));
            room = 1;
        }
        TRY(gram_repeat(s->c, more, 0, room, &more));
        TRY(gram_push(s->c, &whole, more));
    }
    TRY(gram_seq(s->c, &whole, &more));
    return gram_nfa_expr(&g->n, more, from, 1);
}

static status members(sch_ctx *s, const object *o, const gram_expr **out)
{
    const sch_shape *sh = o->sh;
    grid g = {.saturates = sh->max_properties == GRAM_NO_LIMIT};
    gram_dfa d;
    /* Without a limit only the least number matters, and whether a comma is due.  With one, counts are exact. */
    uint32_t last = sh->min_properties > 1 ? sh->min_properties : 1;
    if (!g.saturates)
        last = sh->max_properties < o->n_named ? sh->max_properties : (uint32_t)o->n_named;
    g.columns = last + 1;
    if (last > MAX_STATES || (o->n_named + 1) * (uint64_t)g.columns > MAX_STATES)
        return FAIL(ST_LIMIT, "schema: too many properties to count");
    TRY(gram_nfa_init(s->c, false, &g.n));
    g.n.n_states = grid_state(&g, o->n_named + 1, 0);
    TRY(gram_nfa_skip(&g.n, 0, grid_state(&g, 0, 0)));
    for (size_t i = 0; i < o->n_named; i++)
        TRY(grid_property(s, &g, o, i));
    for (uint32_t w = 0; w < g.columns; w++)
        TRY(grid_others(s, &g, o, w));
    TRY(gram_nfa_finish(&g.n, &d));
    return gram_automaton(s->c, d, out);
}

status sch_object(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    object o;
    gram_list l = {0};
    const gram_expr *inside;
    for (const sch_cell *x = sh->excluded; x != NULL; x = x->next) {
        if (json_is_object(x->json))
            return FAIL(ST_UNSUPPORTED, "schema: the keyword \"not\" is not supported with a listed object");
    }
    if (sh->min_properties > sh->max_properties) {
        *out = gram_nothing();
        return ST_OK;
    }
    TRY(gather(s, sh, &o));
    TRY(members(s, &o, &inside));
    TRY(gram_push_text(s->c, &l, "{"));
    TRY(gram_push(s->c, &l, inside));
    TRY(gram_push_text(s->c, &l, "}"));
    return gram_seq(s->c, &l, out);
}

status sch_object_ok(sch_ctx *s, const sch_shape *sh, const json_t *value, bool *ok)
{
    size_t n = json_object_size(value);
    const char *key;
    json_t *member;
    *ok = n >= sh->min_properties && n <= sh->max_properties;
    for (const sch_cell *r = sh->required; r != NULL && *ok; r = r->next)
        *ok = json_object_get(value, r->text) != NULL;
    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        sch_conj conj;
        if (!*ok)
            break;
        TRY(property_conj(s, sh, key, strlen(key), &conj));
        TRY(sch_conj_ok(s, &conj, member, ok));
    }
    return ST_OK;
}
