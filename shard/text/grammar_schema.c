/* shard/text/grammar_schema.c - JSON schemas (drafts 4 to 2020-12) as grammars: conjunctions to rules, shapes to expressions.
 *
 * A value of an object is a rule named by the conjunction of schemas that apply to it; recursion ends because there are only so many. */
#include "shard/text/grammar_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"

/* ---- conjunctions ---- */

static uint64_t hash_conj(const sch_conj *conj)
{
    uint64_t h = conj->n;
    for (size_t i = 0; i < conj->n; i++)
        h = hash_mix(h * 31 + (uint64_t)(uintptr_t)conj->at[i].schema) + conj->at[i].negated;
    return h;
}

static bool same_conj(const sch_conj *a, const sch_conj *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++) {
        if (a->at[i].schema != b->at[i].schema || a->at[i].negated != b->at[i].negated)
            return false;
    }
    return a->n == b->n;
}

status sch_conj_expr(sch_ctx *s, const sch_conj *conj, const gram_expr **out)
{
    uint64_t hash = hash_conj(conj);
    *out = conj->never ? gram_nothing() : s->any;
    if (conj->never || conj->n == 0)
        return ST_OK;
    TRY(gram_work(s->c, s->n_rules / 8 + 1));
    for (size_t i = 0; i < s->n_rules; i++) {
        if (s->rules[i].hash == hash && same_conj(&s->rules[i].conj, conj))
            return gram_call_rule(s->c, s->rules[i].rule, out);
    }
    TRY(gram_grow(s->c, &s->rules, s->n_rules, &s->cap_rules, sizeof(*s->rules)));
    sch_rule *r = &s->rules[s->n_rules++];
    *r = (sch_rule){.conj = *conj, .hash = hash};
    TRY(gram_rule_add(s->c, &r->rule));
    return gram_call_rule(s->c, r->rule, out);
}

/* ---- values as they are written ---- */

status sch_text_key(sch_ctx *s, const char *text, size_t len, const gram_expr **out)
{
    mem_str line = {0};
    json_t *value = json_stringn(text, len);
    char *dump = value == NULL ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    json_decref(value);
    if (dump == NULL)
        return FAIL(ST_INVALID, "schema: a text is not UTF-8");
    mem_str_puts(&line, dump);
    free(dump);
    status st = line.failed ? FAIL(ST_NO_MEMORY, "schema: no memory") : gram_text(s->c, line.data, line.len, out);
    mem_str_free(&line);
    return st;
}

static status literal_list(sch_ctx *s, const json_t *value, gram_list *l)
{
    const gram_expr *e;
    for (size_t i = 0; i < json_array_size(value); i++) {
        if (i > 0)
            TRY(gram_push(s->c, l, s->comma));
        TRY(sch_literal(s, json_array_get(value, i), &e));
        TRY(gram_push(s->c, l, e));
    }
    return ST_OK;
}

static status literal_map(sch_ctx *s, const json_t *value, gram_list *l)
{
    const char *key;
    json_t *member;
    bool first = true;
    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        const gram_expr *e;
        if (!first)
            TRY(gram_push(s->c, l, s->comma));
        first = false;
        TRY(sch_text_key(s, key, strlen(key), &e));
        TRY(gram_push(s->c, l, e));
        TRY(gram_push(s->c, l, s->colon));
        TRY(sch_literal(s, member, &e));
        TRY(gram_push(s->c, l, e));
    }
    return ST_OK;
}

static status literal_scalar(sch_ctx *s, const json_t *value, const gram_expr **out)
{
    if (json_is_string(value))
        return sch_text_key(s, json_string_value(value), json_string_length(value), out);
    char text[64], *end = text;
    if (json_is_real(value)) { /* the shortest that reads the same */
        for (int digits = 1; digits <= 17; digits++) {
            snprintf(text, sizeof(text), "%.*g", digits, json_real_value(value));
            if (strtod(text, &end) == json_real_value(value))
                break;
        }
    } else if (json_is_integer(value)) {
        snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(value));
    } else {
        snprintf(text, sizeof(text), "%s", json_is_null(value) ? "null" : json_is_true(value) ? "true" : "false");
    }
    return gram_text(s->c, text, strlen(text), out);
}

status sch_literal(sch_ctx *s, const json_t *value, const gram_expr **out)
{
    gram_list l = {0};
    if (!json_is_array(value) && !json_is_object(value))
        return literal_scalar(s, value, out);
    if (++s->depth > GRAM_MAX_DEPTH / 2)
        return FAIL(ST_LIMIT, "schema: a listed value is nested too deeply");
    TRY(gram_push_text(s->c, &l, json_is_array(value) ? "[" : "{"));
    TRY(json_is_array(value) ? literal_list(s, value, &l) : literal_map(s, value, &l));
    TRY(gram_push_text(s->c, &l, json_is_array(value) ? "]" : "}"));
    s->depth--;
    return gram_seq(s->c, &l, out);
}

/* ---- shapes ---- */

static status listed(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    gram_list l = {0};
    for (const sch_cell *v = sh->values; v != NULL; v = v->next) {
        const gram_expr *e;
        bool ok;
        TRY(sch_shape_ok(s, sh, v->json, &ok));
        if (!ok)
            continue;
        TRY(sch_literal(s, v->json, &e));
        TRY(gram_push(s->c, &l, e));
    }
    return gram_alt(s->c, &l, out);
}

static bool is_excluded(const sch_shape *sh, const json_t *value)
{
    for (const sch_cell *e = sh->excluded; e != NULL; e = e->next) {
        if (sch_equal(e->json, value))
            return true;
    }
    return false;
}

static status constants(sch_ctx *s, const sch_shape *sh, gram_list *l)
{
    const struct { unsigned type; const json_t *value; const char *text; } all[] = {{SCH_NULL, json_null(), "null"}, {SCH_FALSE, json_false(), "false"}, {SCH_TRUE, json_true(), "true"}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        if ((sh->types & all[i].type) != 0 && !is_excluded(sh, all[i].value))
            TRY(gram_push_text(s->c, l, all[i].text));
    }
    return ST_OK;
}

static status shape_expr(sch_ctx *s, const sch_shape *sh, const gram_expr **out)
{
    static const struct { unsigned types; status (*make)(sch_ctx *, const sch_shape *, const gram_expr **); } makers[] = {
        {SCH_NUMBER, sch_number}, {SCH_STRING, sch_string}, {SCH_ARRAY, sch_array}, {SCH_OBJECT, sch_object}};
    gram_list l = {0};
    if (sh->listed)
        return listed(s, sh, out);
    TRY(constants(s, sh, &l));
    for (size_t i = 0; i < ARRAY_LEN(makers); i++) {
        const gram_expr *e;
        if ((sh->types & makers[i].types) == 0)
            continue;
        TRY(makers[i].make(s, sh, &e));
        if (e->kind != GRAM_NOTHING)
            TRY(gram_push(s->c, &l, e));
    }
    return gram_alt(s->c, &l, out);
}

static status build_rule(sch_ctx *s, size_t i)
{
    sch_shapes shapes;
    gram_list l = {0};
    const gram_expr *e;
    sch_conj conj = s->rules[i].conj;
    uint32_t rule = s->rules[i].rule;
    TRY(sch_expand(s, &conj, &shapes));
    for (size_t k = 0; k < shapes.n; k++) {
        TRY(shape_expr(s, &shapes.at[k], &e));
        if (e->kind != GRAM_NOTHING)
            TRY(gram_push(s->c, &l, e));
    }
    TRY(gram_alt(s->c, &l, &e));
    s->c->rules[rule].body = e;
    return ST_OK;
}

static status build(sch_ctx *s, const gram_expr **out)
{
    sch_conj whole = {0};
    TRY(gram_json_separator(s->c, ',', &s->comma));
    TRY(gram_json_separator(s->c, ':', &s->colon));
    TRY(gram_json_any(s->c, &s->any, &s->any_object));
    TRY(sch_index(s));
    TRY(sch_conj_add(s, &whole, (sch_lit){s->root, false}));
    TRY(sch_conj_expr(s, &whole, out));
    for (size_t i = 0; i < s->n_rules; i++) /* more come as they are met */
        TRY(build_rule(s, i));
    if (s->left_out[0] != '\0')
        s->c->why_empty = mem_arena_strndup(s->c->arena, s->left_out, strlen(s->left_out));
    return ST_OK;
}

status gram_json_schema(gram_ctx *c, const char *text, size_t len, const gram_expr **out)
{
    json_t *root;
    TRY(json_parse("schema", text, len, &root));
    sch_ctx s = {.c = c, .root = root};
    status st = json_is_object(root) || json_is_boolean(root) ? build(&s, out) : FAIL(ST_INVALID, "schema: must be an object or a boolean");
    json_decref(root);
    return st;
}
