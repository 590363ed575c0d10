/* shard/text/grammar_shape.c - from a conjunction of literals to shapes: every keyword taken apart, every choice made.
 *
 * A depth-first search over choices (anyOf, oneOf, if, dependencies, and a negation, which is the choice of the keyword that fails). What
 * does not hold of a value fails by some keyword; a keyword whose failing cannot be said is left out of that choice: fewer texts,
 * none wrong.
 *
 * unevaluatedProperties and unevaluatedItems see what the schemas inside theirs, at the same place of the value, say of properties and items.
 * So each such schema opens a scope, a bit, and what is said remembers in which scopes.  Of branches only those chosen count. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/text/grammar_schema.h"

enum { MAX_SHAPES = 3000, MAX_CHOICES = 400 };

typedef enum choice { CHOOSE_ANY, CHOOSE_ONE, CHOOSE_IF, CHOOSE_NOT, CHOOSE_NOT_ONE, CHOOSE_NOT_IF, CHOOSE_SCHEMAS, CHOOSE_NAMES } choice;

/* What is still to be taken in. */
typedef struct todo {
    const sch_cell *lits, *choices; /* min: scopes */
    uint32_t scopes;                /* of what is being taken in */
    int depth;
} todo;

static status expand(sch_ctx *s, sch_shape sh, todo t, sch_shapes *out);

status sch_cons(sch_ctx *s, const sch_cell **list, sch_cell cell)
{
    sch_cell *made = NULL;
    TRY(gram_work(s->c, 1));
    TRY(gram_alloc(s->c, 1, sizeof(*made), &made));
    cell.next = *list;
    *made = cell;
    *list = made;
    return ST_OK;
}

/* ---- conjunctions ---- */

static bool always(sch_lit l)
{
    return (json_is_object(l.schema) && json_object_size(l.schema) == 0 && !l.negated) || (json_is_boolean(l.schema) && json_is_true(l.schema) != l.negated);
}

static bool never(sch_lit l)
{
    return (json_is_object(l.schema) && json_object_size(l.schema) == 0 && l.negated) || (json_is_boolean(l.schema) && json_is_true(l.schema) == l.negated);
}

status sch_conj_add(sch_ctx *s, sch_conj *conj, sch_lit lit)
{
    size_t at = 0;
    if (!json_is_object(lit.schema) && !json_is_boolean(lit.schema))
        return FAIL(ST_INVALID, "schema: a schema must be an object or a boolean");
    conj->never = conj->never || never(lit);
    if (always(lit) || conj->never)
        return ST_OK;
    while (at < conj->n && (conj->at[at].schema < lit.schema || (conj->at[at].schema == lit.schema && conj->at[at].negated < lit.negated)))
        at++;
    if (at < conj->n && conj->at[at].schema == lit.schema && conj->at[at].negated == lit.negated)
        return ST_OK;
    TRY(gram_grow(s->c, &conj->at, conj->n, &conj->cap, sizeof(*conj->at)));
    memmove(conj->at + at + 1, conj->at + at, (conj->n - at) * sizeof(*conj->at));
    conj->at[at] = lit;
    conj->n++;
    return ST_OK;
}

/* ---- small things ---- */

static status want(sch_ctx *s, todo *t, const json_t *schema, bool negated)
{
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return FAIL(ST_INVALID, "schema: a schema must be an object or a boolean");
    return sch_cons(s, &t->lits, (sch_cell){.lit = {schema, negated}, .min = negated ? 0 : t->scopes});
}

static status choose(sch_ctx *s, todo *t, choice kind, const json_t *json, const char *text)
{
    return sch_cons(s, &t->choices, (sch_cell){.kind = (int)kind, .json = json, .text = text, .min = t->scopes});
}

static status count_of(const char *key, const json_t *value, uint32_t *out)
{
    double v = json_number_value(value);
    if (!json_is_number(value) || v < 0 || v != floor(v))
        return FAIL(ST_INVALID, "schema: %s must be a whole number of at least 0", key);
    *out = v > 1e9 ? GRAM_NO_LIMIT : (uint32_t)v;
    return ST_OK;
}

static status types_of(const json_t *value, unsigned *out)
{
    static const struct { const char *name; unsigned types; } names[] = {{"null", SCH_NULL}, {"boolean", SCH_BOOL}, {"integer", SCH_INT}, {"number", SCH_NUMBER}, {"string", SCH_STRING},
                                                                         {"array", SCH_ARRAY}, {"object", SCH_OBJECT}};
    const char *name = json_string_value(value);
    for (size_t i = 0; name != NULL && i < ARRAY_LEN(names); i++) {
        if (strcmp(name, names[i].name) == 0) {
            *out |= names[i].types;
            return ST_OK;
        }
    }
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
        if (!json_is_string(json_array_get(value, i)))
            return FAIL(ST_INVALID, "schema: type must be a name or a list of names");
        TRY(types_of(json_array_get(value, i), out));
    }
    if (json_is_array(value))
        return ST_OK;
    return FAIL(ST_INVALID, "schema: type \"%.40s\" is none", name == NULL ? "" : name);
}

static status need_list(const char *key, const json_t *value)
{
    return json_is_array(value) ? ST_OK : FAIL(ST_INVALID, "schema: %s must be a list", key);
}
static status need_map(const char *key, const json_t *value)
{
    return json_is_object(value) ? ST_OK : FAIL(ST_INVALID, "schema: %s must be an object", key);
}
static status need_text(const char *key, const json_t *value)
{
    return json_is_string(value) ? ST_OK : FAIL(ST_INVALID, "schema: %s must be a string", key);
}
static status need_number(const char *key, const json_t *value)
{
    return json_is_number(value) ? ST_OK : FAIL(ST_INVALID, "schema: %s must be a number", key);
}

static status refused(const char *key)
{
    return FAIL(ST_UNSUPPORTED, "schema: the keyword \"%s\" is not supported", key);
}

static void raise(sch_bound *b, const json_t *value, bool exclusive, int sign)
{
    int order = b->value == NULL ? 1 : sch_compare(value, b->value) * sign;
    if (order > 0 || (order == 0 && exclusive))
        *b = (sch_bound){value, exclusive};
}

static void at_least(uint32_t *have, uint32_t v)
{
    *have = v > *have ? v : *have;
}
static void at_most(uint32_t *have, uint32_t v)
{
    *have = v < *have ? v : *have;
}

/* ---- keywords that must hold ---- */

typedef status apply_fn(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value);

static status apply_nothing(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)s, (void)sh, (void)t, (void)schema, (void)key, (void)value;
    return ST_OK;
}

static status scope_of(sch_ctx *s, const json_t *schema, uint32_t *bit)
{
    size_t i = 0;
    while (i < s->n_scopes && s->scopes[i] != schema)
        i++;
    if (i == ARRAY_LEN(s->scopes))
        return FAIL(ST_LIMIT, "schema: more than %zu schemas with unevaluated properties or items", ARRAY_LEN(s->scopes));
    s->scopes[i] = schema;
    s->n_scopes = i == s->n_scopes ? i + 1 : s->n_scopes;
    *bit = 1u << i;
    return ST_OK;
}

static status apply_unevaluated(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    uint32_t bit;
    (void)t, (void)value;
    TRY(scope_of(s, schema, &bit));
    return sch_cons(s, strcmp(key, "unevaluatedItems") == 0 ? &sh->item_scopes : &sh->property_scopes, (sch_cell){.json = schema, .min = bit});
}

/* The scope that a schema opens, if it does. */
static status enter_scope(sch_ctx *s, const json_t *schema, todo *t)
{
    uint32_t bit;
    if (json_object_get(schema, "unevaluatedItems") == NULL && json_object_get(schema, "unevaluatedProperties") == NULL)
        return ST_OK;
    TRY(scope_of(s, schema, &bit));
    t->scopes |= bit;
    return ST_OK;
}

static status apply_type(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    unsigned types = 0;
    (void)s, (void)t, (void)schema, (void)key;
    TRY(types_of(value, &types));
    sh->types &= types;
    return ST_OK;
}

/* The values that both lists hold. */
static status list_values(sch_ctx *s, sch_shape *sh, const json_t *const *values, size_t n)
{
    const sch_cell *kept = NULL;
    for (size_t i = n; i-- > 0;) {
        bool in = !sh->listed;
        for (const sch_cell *v = sh->values; v != NULL && !in; v = v->next)
            in = sch_equal(v->json, values[i]);
        TRY(gram_work(s->c, 1));
        if (in)
            TRY(sch_cons(s, &kept, (sch_cell){.json = values[i]}));
    }
    sh->listed = true;
    sh->values = kept;
    return ST_OK;
}

static status apply_enum(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    const json_t **list;
    size_t n = json_array_size(value);
    (void)t, (void)schema;
    TRY(need_list(key, value));
    TRY(gram_alloc(s->c, n, sizeof(*list), &list));
    for (size_t i = 0; i < n; i++)
        list[i] = json_array_get(value, i);
    return list_values(s, sh, list, n);
}

static status apply_const(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)t, (void)schema, (void)key;
    return list_values(s, sh, &value, 1);
}

static status apply_all_of(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)sh, (void)schema;
    TRY(need_list(key, value));
    for (size_t i = json_array_size(value); i-- > 0;)
        TRY(want(s, t, json_array_get(value, i), false));
    return ST_OK;
}

static status apply_any_of(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)sh, (void)schema;
    TRY(need_list(key, value));
    return choose(s, t, strcmp(key, "oneOf") == 0 ? CHOOSE_ONE : CHOOSE_ANY, value, NULL);
}

static status apply_not(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)sh, (void)schema, (void)key;
    return want(s, t, value, true);
}

static status apply_if(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)sh, (void)key, (void)value;
    if (json_object_get(schema, "then") == NULL && json_object_get(schema, "else") == NULL)
        return ST_OK;
    return choose(s, t, CHOOSE_IF, schema, NULL);
}

static status apply_ref(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    const json_t *target;
    (void)sh;
    TRY(need_text(key, value));
    TRY(sch_resolve(s, schema, json_string_value(value), &target));
    return want(s, t, target, false);
}

static status apply_length(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    uint32_t n;
    (void)s, (void)t, (void)schema;
    TRY(count_of(key, value, &n));
    if (strcmp(key, "minLength") == 0)
        at_least(&sh->min_length, n);
    else if (strcmp(key, "maxLength") == 0)
        at_most(&sh->max_length, n);
    else if (strcmp(key, "minItems") == 0)
        at_least(&sh->min_items, n);
    else if (strcmp(key, "maxItems") == 0)
        at_most(&sh->max_items, n);
    else if (strcmp(key, "minProperties") == 0)
        at_least(&sh->min_properties, n);
    else
        at_most(&sh->max_properties, n);
    return ST_OK;
}

static status apply_pattern(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)t, (void)schema;
    TRY(need_text(key, value));
    return sch_cons(s, &sh->patterns, (sch_cell){.text = json_string_value(value), .len = json_string_length(value)});
}

static status apply_format(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)t, (void)schema;
    TRY(need_text(key, value));
    return sch_cons(s, &sh->formats, (sch_cell){.text = json_string_value(value), .len = json_string_length(value)});
}

static status apply_bound(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)s, (void)t;
    bool low = strcmp(key, "minimum") == 0 || strcmp(key, "exclusiveMinimum") == 0;
    bool exclusive = key[0] == 'e';
    if (exclusive && json_is_boolean(value)) /* draft 4: it qualifies the other keyword */
        return ST_OK;
    TRY(need_number(key, value));
    exclusive = exclusive || json_is_true(json_object_get(schema, low ? "exclusiveMinimum" : "exclusiveMaximum"));
    raise(low ? &sh->low : &sh->high, value, exclusive, low ? 1 : -1);
    return ST_OK;
}

static status apply_multiple(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)t, (void)schema;
    TRY(need_number(key, value));
    if (json_number_value(value) <= 0)
        return FAIL(ST_INVALID, "schema: %s must be more than 0", key);
    return sch_cons(s, &sh->multiples, (sch_cell){.json = value});
}

/* One layer for all keywords on items (or properties) of one schema. */
static status add_layer(sch_ctx *s, const todo *t, const sch_cell **layers, const json_t *schema)
{
    if (*layers != NULL && (*layers)->json == schema && (*layers)->min == t->scopes)
        return ST_OK;
    return sch_cons(s, layers, (sch_cell){.json = schema, .min = t->scopes});
}

static status apply_items(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)key, (void)value;
    return add_layer(s, t, &sh->item_layers, schema);
}

static status apply_contains(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    uint32_t min = 1, max = GRAM_NO_LIMIT;
    const json_t *v;
    (void)t, (void)key;
    if ((v = json_object_get(schema, "minContains")) != NULL)
        TRY(count_of("minContains", v, &min));
    if ((v = json_object_get(schema, "maxContains")) != NULL)
        TRY(count_of("maxContains", v, &max));
    if (min == 0 && max == GRAM_NO_LIMIT)
        return ST_OK;
    return sch_cons(s, &sh->contains, (sch_cell){.lit = {value, false}, .min = min, .max = max});
}

static status apply_unique(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)s, (void)t, (void)schema, (void)key;
    sh->unique = sh->unique || json_is_true(value);
    return ST_OK;
}

static status apply_properties(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    if (strcmp(key, "additionalProperties") != 0)
        TRY(need_map(key, value));
    return add_layer(s, t, &sh->property_layers, schema);
}

static status require(sch_ctx *s, sch_shape *sh, const json_t *name)
{
    TRY(need_text("required", name));
    for (const sch_cell *r = sh->required; r != NULL; r = r->next) {
        if (strcmp(r->text, json_string_value(name)) == 0)
            return ST_OK;
    }
    return sch_cons(s, &sh->required, (sch_cell){.text = json_string_value(name), .len = json_string_length(name)});
}

static status apply_required(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    size_t i;
    const json_t *name;
    (void)t, (void)schema;
    if (json_is_boolean(value)) /* draft 3 */
        return refused("required (as a boolean)");
    TRY(need_list(key, value));
    json_array_foreach(value, i, name)
        TRY(require(s, sh, name));
    return ST_OK;
}

static status apply_names(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    (void)t, (void)schema, (void)key;
    return sch_cons(s, &sh->name_lits, (sch_cell){.lit = {value, false}});
}

static status apply_dependent(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    const char *name;
    json_t *needs;
    (void)sh, (void)schema;
    TRY(need_map(key, value));
    json_object_foreach((json_t *)(uintptr_t)value, name, needs)
        TRY(choose(s, t, json_is_array(needs) ? CHOOSE_NAMES : CHOOSE_SCHEMAS, needs, name));
    return ST_OK;
}

static status apply_recursive(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema, const char *key, const json_t *value)
{
    /* Without anchors that could move it, a dynamic reference is a plain one. */
    char *all = json_dumps(s->root, JSON_COMPACT);
    if (all == NULL)
        return FAIL(ST_NO_MEMORY, "schema: no memory");
    bool moves = strstr(all, strcmp(key, "$recursiveRef") == 0 ? "\"$recursiveAnchor\":true" : "\"$dynamicAnchor\"") != NULL;
    free(all);
    return moves ? refused(key) : apply_ref(s, sh, t, schema, key, value);
}

static const struct keyword { const char *name; apply_fn *apply; } keywords[] = {
    {"type", apply_type}, {"enum", apply_enum}, {"const", apply_const}, {"allOf", apply_all_of}, {"anyOf", apply_any_of}, {"oneOf", apply_any_of}, {"not", apply_not},
    {"if", apply_if}, {"then", apply_nothing}, {"else", apply_nothing}, {"$ref", apply_ref}, {"minLength", apply_length}, {"maxLength", apply_length}, {"minItems", apply_length},
    {"maxItems", apply_length}, {"minProperties", apply_length}, {"maxProperties", apply_length}, {"pattern", apply_pattern}, {"format", apply_format}, {"minimum", apply_bound},
    {"maximum", apply_bound}, {"exclusiveMinimum", apply_bound}, {"exclusiveMaximum", apply_bound}, {"multipleOf", apply_multiple}, {"items", apply_items}, {"prefixItems", apply_items},
    {"additionalItems", apply_items}, {"contains", apply_contains}, {"minContains", apply_nothing}, {"maxContains", apply_nothing}, {"uniqueItems", apply_unique},
    {"properties", apply_properties}, {"patternProperties", apply_properties}, {"additionalProperties", apply_properties}, {"required", apply_required}, {"propertyNames", apply_names},
    {"dependentRequired", apply_dependent}, {"dependentSchemas", apply_dependent}, {"dependencies", apply_dependent}, {"unevaluatedItems", apply_unevaluated},
    {"unevaluatedProperties", apply_unevaluated}, {"$recursiveRef", apply_recursive}, {"$dynamicRef", apply_recursive},
    /* annotations */
    {"$schema", apply_nothing}, {"$id", apply_nothing}, {"id", apply_nothing}, {"$anchor", apply_nothing}, {"$dynamicAnchor", apply_nothing}, {"$recursiveAnchor", apply_nothing},
    {"$defs", apply_nothing}, {"definitions", apply_nothing}, {"$comment", apply_nothing}, {"title", apply_nothing}, {"description", apply_nothing}, {"default", apply_nothing},
    {"example", apply_nothing}, {"examples", apply_nothing}, {"deprecated", apply_nothing}, {"readOnly", apply_nothing}, {"writeOnly", apply_nothing}, {"contentEncoding", apply_nothing},
    {"contentMediaType", apply_nothing}, {"contentSchema", apply_nothing},
};

static const struct keyword *keyword_of(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(keywords); i++) {
        if (strcmp(keywords[i].name, name) == 0)
            return &keywords[i];
    }
    return NULL;
}

/* Only $ref counts where it stands, in older drafts. */
static bool counts(const sch_ctx *s, const json_t *schema, const char *key)
{
    return !s->old || json_object_get(schema, "$ref") == NULL || strcmp(key, "$ref") == 0;
}

static status apply(sch_ctx *s, sch_shape *sh, todo *t, const json_t *schema)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        if (!counts(s, schema, key) || strncmp(key, "x-", 2) == 0)
            continue;
        const struct keyword *k = keyword_of(key);
        if (k == NULL)
            return refused(key);
        TRY(k->apply(s, sh, t, schema, key, value));
    }
    return ST_OK;
}

/* ---- keywords that must fail ---- */

static void leave_out(sch_ctx *s, const char *key)
{
    if (s->left_out[0] == '\0')
        snprintf(s->left_out, sizeof(s->left_out), "not \"%s\"", key);
}

static status deny_length(sch_ctx *s, sch_shape sh, todo t, const char *key, const json_t *value, sch_shapes *out)
{
    uint32_t n;
    TRY(count_of(key, value, &n));
    bool min = strncmp(key, "min", 3) == 0;
    if (min ? n == 0 : n == GRAM_NO_LIMIT)
        return ST_OK;
    sh.types &= strstr(key, "Length") != NULL ? SCH_STRING : strstr(key, "Items") != NULL ? SCH_ARRAY : SCH_OBJECT;
    uint32_t *low = strstr(key, "Length") != NULL ? &sh.min_length : strstr(key, "Items") != NULL ? &sh.min_items : &sh.min_properties;
    uint32_t *high = strstr(key, "Length") != NULL ? &sh.max_length : strstr(key, "Items") != NULL ? &sh.max_items : &sh.max_properties;
    if (min)
        at_most(high, n - 1);
    else
        at_least(low, n + 1);
    return expand(s, sh, t, out);
}

static status deny_bound(sch_ctx *s, sch_shape sh, todo t, const json_t *schema, const char *key, const json_t *value, sch_shapes *out)
{
    bool low = strcmp(key, "minimum") == 0 || strcmp(key, "exclusiveMinimum") == 0, exclusive = key[0] == 'e';
    if (exclusive && json_is_boolean(value))
        return ST_OK;
    TRY(need_number(key, value));
    exclusive = exclusive || json_is_true(json_object_get(schema, low ? "exclusiveMinimum" : "exclusiveMaximum"));
    sh.types &= SCH_NUMBER;
    raise(low ? &sh.high : &sh.low, value, !exclusive, low ? -1 : 1);
    return expand(s, sh, t, out);
}

static status deny_properties(sch_ctx *s, sch_shape sh, todo t, const json_t *value, sch_shapes *out)
{
    const char *name;
    json_t *schema;
    sh.types &= SCH_OBJECT;
    json_object_foreach((json_t *)(uintptr_t)value, name, schema) {
        sch_shape one = sh;
        TRY(sch_cons(s, &one.required, (sch_cell){.text = name, .len = strlen(name)}));
        TRY(sch_cons(s, &one.property_lits, (sch_cell){.text = name, .len = strlen(name), .lit = {schema, true}}));
        TRY(expand(s, one, t, out));
    }
    return ST_OK;
}

static status deny_required(sch_ctx *s, sch_shape sh, todo t, const json_t *value, sch_shapes *out)
{
    size_t i;
    const json_t *name;
    sh.types &= SCH_OBJECT;
    TRY(need_list("required", value));
    json_array_foreach(value, i, name) {
        sch_shape one = sh;
        TRY(need_text("required", name));
        TRY(sch_cons(s, &one.property_lits, (sch_cell){.text = json_string_value(name), .len = json_string_length(name), .lit = {json_false(), false}}));
        TRY(expand(s, one, t, out));
    }
    return ST_OK;
}

/* Some item at a position does not hold, or some item at all. */
static status deny_items(sch_ctx *s, sch_shape sh, todo t, const json_t *schema, const char *key, const json_t *value, sch_shapes *out)
{
    sh.types &= SCH_ARRAY;
    if (json_is_array(value)) {
        for (uint32_t i = 0; i < json_array_size(value); i++) {
            sch_shape one = sh;
            at_least(&one.min_items, i + 1);
            TRY(sch_cons(s, &one.item_lits, (sch_cell){.min = i, .lit = {json_array_get(value, i), true}}));
            TRY(expand(s, one, t, out));
        }
        return ST_OK;
    }
    if (strcmp(key, "additionalItems") == 0 || json_object_get(schema, "prefixItems") != NULL) {
        leave_out(s, key);
        return ST_OK;
    }
    TRY(sch_cons(s, &sh.contains, (sch_cell){.lit = {value, true}, .min = 1, .max = GRAM_NO_LIMIT}));
    return expand(s, sh, t, out);
}

static status deny_contains(sch_ctx *s, sch_shape sh, todo t, const json_t *schema, const json_t *value, sch_shapes *out)
{
    uint32_t min = 1, max = GRAM_NO_LIMIT;
    const json_t *v;
    if ((v = json_object_get(schema, "minContains")) != NULL)
        TRY(count_of("minContains", v, &min));
    if ((v = json_object_get(schema, "maxContains")) != NULL)
        TRY(count_of("maxContains", v, &max));
    sh.types &= SCH_ARRAY;
    if (min > 0) {
        sch_shape few = sh;
        TRY(sch_cons(s, &few.contains, (sch_cell){.lit = {value, false}, .min = 0, .max = min - 1}));
        TRY(expand(s, few, t, out));
    }
    if (max < GRAM_NO_LIMIT) {
        TRY(sch_cons(s, &sh.contains, (sch_cell){.lit = {value, false}, .min = max + 1, .max = GRAM_NO_LIMIT}));
        TRY(expand(s, sh, t, out));
    }
    return ST_OK;
}

static status deny_values(sch_ctx *s, sch_shape sh, todo t, const char *key, const json_t *value, sch_shapes *out)
{
    size_t i;
    const json_t *item;
    if (strcmp(key, "const") == 0) {
        TRY(sch_cons(s, &sh.excluded, (sch_cell){.json = value}));
        return expand(s, sh, t, out);
    }
    TRY(need_list(key, value));
    json_array_foreach(value, i, item)
        TRY(sch_cons(s, &sh.excluded, (sch_cell){.json = item}));
    return expand(s, sh, t, out);
}

/* There is the property, and what it asks for fails. */
static status deny_dependent(sch_ctx *s, sch_shape sh, todo t, const json_t *value, sch_shapes *out)
{
    const char *name;
    json_t *needs;
    sh.types &= SCH_OBJECT;
    json_object_foreach((json_t *)(uintptr_t)value, name, needs) {
        sch_shape one = sh;
        todo rest = t;
        TRY(sch_cons(s, &one.required, (sch_cell){.text = name, .len = strlen(name)}));
        if (json_is_array(needs)) {
            TRY(deny_required(s, one, rest, needs, out));
            continue;
        }
        TRY(want(s, &rest, needs, true));
        TRY(expand(s, one, rest, out));
    }
    return ST_OK;
}

static status deny_list(sch_ctx *s, sch_shape sh, todo t, const char *key, const json_t *value, sch_shapes *out)
{
    size_t i;
    const json_t *item;
    TRY(need_list(key, value));
    if (strcmp(key, "allOf") == 0) {
        json_array_foreach(value, i, item) {
            todo one = t;
            TRY(want(s, &one, item, true));
            TRY(expand(s, sh, one, out));
        }
        return ST_OK;
    }
    if (strcmp(key, "oneOf") == 0) {
        TRY(choose(s, &t, CHOOSE_NOT_ONE, value, NULL));
        return expand(s, sh, t, out);
    }
    json_array_foreach(value, i, item)
        TRY(want(s, &t, item, true));
    return expand(s, sh, t, out);
}

static status deny(sch_ctx *s, sch_shape sh, todo t, const json_t *schema, const char *key, const json_t *value, sch_shapes *out)
{
    const struct keyword *k = keyword_of(key);
    if (k == NULL)
        return strncmp(key, "x-", 2) == 0 ? ST_OK : refused(key);
    if (k->apply == apply_nothing)
        return ST_OK;
    if (k->apply == apply_type) {
        unsigned types = 0;
        TRY(types_of(value, &types));
        sh.types &= ~types;
        return expand(s, sh, t, out);
    }
    if (k->apply == apply_enum || k->apply == apply_const)
        return deny_values(s, sh, t, key, value, out);
    if (k->apply == apply_length)
        return deny_length(s, sh, t, key, value, out);
    if (k->apply == apply_bound)
        return deny_bound(s, sh, t, schema, key, value, out);
    if (k->apply == apply_all_of || k->apply == apply_any_of)
        return deny_list(s, sh, t, key, value, out);
    if (k->apply == apply_required)
        return deny_required(s, sh, t, value, out);
    if (strcmp(key, "properties") == 0)
        return deny_properties(s, sh, t, value, out);
    if (k->apply == apply_items)
        return deny_items(s, sh, t, schema, key, value, out);
    if (k->apply == apply_contains)
        return deny_contains(s, sh, t, schema, value, out);
    if (k->apply == apply_dependent)
        return deny_dependent(s, sh, t, value, out);
    if (k->apply == apply_not) {
        TRY(want(s, &t, value, false));
        return expand(s, sh, t, out);
    }
    if (k->apply == apply_if) {
        TRY(choose(s, &t, CHOOSE_NOT_IF, schema, NULL));
        return expand(s, sh, t, out);
    }
    if (k->apply == apply_pattern) {
        TRY(need_text(key, value));
        sh.types &= SCH_STRING;
        TRY(sch_cons(s, &sh.patterns, (sch_cell){.text = json_string_value(value), .len = json_string_length(value), .kind = 1}));
        return expand(s, sh, t, out);
    }
    if (k->apply == apply_ref) {
        const json_t *target;
        TRY(need_text(key, value));
        TRY(sch_resolve(s, schema, json_string_value(value), &target));
        TRY(want(s, &t, target, true));
        return expand(s, sh, t, out);
    }
    leave_out(s, key);
    return ST_OK;
}

/* ---- choices ---- */

static status deny_any(sch_ctx *s, const sch_shape *sh, todo t, const json_t *schema, sch_shapes *out)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)schema, key, value) {
        if (counts(s, schema, key))
            TRY(deny(s, *sh, t, schema, key, value, out));
    }
    return ST_OK;
}

/* One of the list holds, and (exactly) no other. */
static status choose_one(sch_ctx *s, const sch_shape *sh, todo t, const json_t *list, bool exactly, sch_shapes *out)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        todo one = t;
        for (size_t j = 0; j < n && exactly; j++) {
            if (j != i)
                TRY(want(s, &one, json_array_get(list, j), true));
        }
        TRY(want(s, &one, json_array_get(list, i), false));
        TRY(expand(s, *sh, one, out));
    }
    return ST_OK;
}

/* None holds, or two do. */
static status choose_not_one(sch_ctx *s, const sch_shape *sh, todo t, const json_t *list, sch_shapes *out)
{
    size_t n = json_array_size(list);
    todo none = t;
    for (size_t i = 0; i < n; i++) {
        TRY(want(s, &none, json_array_get(list, i), true));
        for (size_t j = 0; j < i; j++) {
            todo two = t;
            TRY(want(s, &two, json_array_get(list, i), false));
            TRY(want(s, &two, json_array_get(list, j), false));
            TRY(expand(s, *sh, two, out));
        }
    }
    return expand(s, *sh, none, out);
}

/* fails: some branch that applies must not hold. */
static status choose_if(sch_ctx *s, const sch_shape *sh, todo t, const json_t *schema, bool fails, sch_shapes *out)
{
    for (int holds = 1; holds >= 0; holds--) {
        todo one = t;
        const json_t *branch = json_object_get(schema, holds ? "then" : "else");
        TRY(want(s, &one, json_object_get(schema, "if"), !holds));
        if (branch == NULL && fails)
            continue;
        if (branch != NULL)
            TRY(want(s, &one, branch, fails));
        TRY(expand(s, *sh, one, out));
    }
    return ST_OK;
}

/* No object with the property; or one, and what that asks for. */
static status choose_dependent(sch_ctx *s, const sch_shape *sh, todo t, const sch_cell *c, sch_shapes *out)
{
    sch_shape with = *sh, without = *sh;
    size_t i;
    const json_t *name;
    sch_cell absent = {.text = c->text, .len = strlen(c->text), .lit = {json_false(), false}};
    TRY(sch_cons(s, &without.property_lits, absent));
    TRY(expand(s, without, t, out));
    with.types &= SCH_OBJECT;
    TRY(sch_cons(s, &with.required, (sch_cell){.text = c->text, .len = strlen(c->text)}));
    json_array_foreach(c->json, i, name)
        TRY(require(s, &with, name));
    if (!json_is_array(c->json))
        TRY(want(s, &t, c->json, false));
    return expand(s, with, t, out);
}

static status make_choice(sch_ctx *s, const sch_shape *sh, todo t, const sch_cell *c, sch_shapes *out)
{
    switch ((choice)c->kind) {
    case CHOOSE_ANY:
    case CHOOSE_ONE:
        return choose_one(s, sh, t, c->json, c->kind == CHOOSE_ONE, out);
    case CHOOSE_IF:
    case CHOOSE_NOT_IF:
        return choose_if(s, sh, t, c->json, c->kind == CHOOSE_NOT_IF, out);
    case CHOOSE_NOT:
        return deny_any(s, sh, t, c->json, out);
    case CHOOSE_NOT_ONE:
        return choose_not_one(s, sh, t, c->json, out);
    case CHOOSE_NAMES:
    case CHOOSE_SCHEMAS:
        return choose_dependent(s, sh, t, c, out);
    }
    return ST_OK;
}

/* *possible: false if the literal contradicts one that holds. */
static status take(sch_ctx *s, sch_shape *sh, todo *t, sch_lit lit, bool *possible)
{
    *possible = true;
    for (const sch_cell *d = sh->done; d != NULL; d = d->next) {
        if (d->lit.schema != lit.schema)
            continue;
        *possible = d->lit.negated == lit.negated;
        if (!*possible || (d->min & t->scopes) == t->scopes) /* else once more, for what new scopes see */
            return ST_OK;
    }
    *possible = !never(lit);
    if (always(lit) || never(lit))
        return ST_OK;
    TRY(sch_cons(s, &sh->done, (sch_cell){.lit = lit, .min = t->scopes}));
    if (!lit.negated)
        TRY(enter_scope(s, lit.schema, t));
    return lit.negated ? choose(s, t, CHOOSE_NOT, lit.schema, NULL) : apply(s, sh, t, lit.schema);
}

static status expand(sch_ctx *s, sch_shape sh, todo t, sch_shapes *out)
{
    TRY(gram_work(s->c, 50));
    if (++t.depth > MAX_CHOICES)
        return FAIL(ST_LIMIT, "schema: too many choices in one place");
    while (t.lits != NULL && sh.types != 0) {
        bool possible;
        sch_lit lit = t.lits->lit;
        t.scopes = t.lits->min;
        t.lits = t.lits->next;
        TRY(take(s, &sh, &t, lit, &possible));
        if (!possible)
            return ST_OK;
    }
    if (sh.types == 0 || (sh.listed && sh.values == NULL))
        return ST_OK;
    if (t.choices != NULL) {
        const sch_cell *c = t.choices;
        t.choices = c->next;
        t.scopes = c->min;
        return make_choice(s, &sh, t, c, out);
    }
    if (out->n == MAX_SHAPES)
        return FAIL(ST_LIMIT, "schema: more than %d alternatives in one place", MAX_SHAPES);
    TRY(gram_grow(s->c, &out->at, out->n, &out->cap, sizeof(*out->at)));
    out->at[out->n++] = sh;
    return ST_OK;
}

status sch_expand(sch_ctx *s, const sch_conj *conj, sch_shapes *out)
{
    todo t = {0};
    sch_shape any = {.types = SCH_ANY, .max_length = GRAM_NO_LIMIT, .max_items = GRAM_NO_LIMIT, .max_properties = GRAM_NO_LIMIT};
    *out = (sch_shapes){0};
    if (conj->never)
        return ST_OK;
    for (size_t i = conj->n; i-- > 0;)
        TRY(want(s, &t, conj->at[i].schema, conj->at[i].negated));
    return expand(s, any, t, out);
}
