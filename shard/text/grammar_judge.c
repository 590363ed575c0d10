/* shard/text/grammar_judge.c - whether a value that a schema lists (enum, const) satisfies the rest of it. */
#include <string.h>

#include "shard/text/grammar_schema.h"

enum { MAX_VALUE_DEPTH = 60 };

unsigned sch_type_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
        return SCH_NULL;
    case JSON_FALSE:
        return SCH_FALSE;
    case JSON_TRUE:
        return SCH_TRUE;
    case JSON_STRING:
        return SCH_STRING;
    case JSON_ARRAY:
        return SCH_ARRAY;
    case JSON_OBJECT:
        return SCH_OBJECT;
    default:
        return sch_is_whole(value) ? SCH_INT : SCH_FRACTION;
    }
}

bool sch_equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return sch_compare(a, b) == 0;
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_string(a))
        return json_string_length(a) == json_string_length(b) && memcmp(json_string_value(a), json_string_value(b), json_string_length(a)) == 0;
    if (json_is_array(a)) {
        for (size_t i = 0; i < json_array_size(a) && json_array_size(a) == json_array_size(b); i++) {
            if (!sch_equal(json_array_get(a, i), json_array_get(b, i)))
                return false;
        }
        return json_array_size(a) == json_array_size(b);
    }
    if (json_is_object(a)) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)a, key, value) {
            const json_t *other = json_object_get(b, key);
            if (other == NULL || !sch_equal(value, other))
                return false;
        }
        return json_object_size(a) == json_object_size(b);
    }
    return true;
}

static bool is_listed(const sch_cell *list, const json_t *value)
{
    for (; list != NULL; list = list->next) {
        if (sch_equal(list->json, value))
            return true;
    }
    return false;
}

status sch_shape_ok(sch_ctx *s, const sch_shape *sh, const json_t *value, bool *ok)
{
    unsigned type = sch_type_of(value);
    *ok = (sh->types & type) != 0 && (!sh->listed || is_listed(sh->values, value)) && !is_listed(sh->excluded, value);
    if (!*ok)
        return ST_OK;
    if (type == SCH_STRING)
        return sch_string_ok(s, sh, json_string_value(value), json_string_length(value), ok);
    if ((type & SCH_NUMBER) != 0)
        return sch_number_ok(sh, value, ok);
    if (type == SCH_ARRAY)
        return sch_array_ok(s, sh, value, ok);
    return type == SCH_OBJECT ? sch_object_ok(s, sh, value, ok) : ST_OK;
}

status sch_conj_ok(sch_ctx *s, const sch_conj *conj, const json_t *value, bool *ok)
{
    sch_shapes shapes = {0};
    *ok = !conj->never;
    if (conj->never || conj->n == 0)
        return ST_OK;
    if (s->depth > MAX_VALUE_DEPTH)
        return FAIL(ST_LIMIT, "schema: a listed value is nested deeper than %d", MAX_VALUE_DEPTH);
    TRY(sch_expand(s, conj, &shapes));
    *ok = false;
    s->depth++;
    for (size_t i = 0; i < shapes.n && !*ok; i++)
        TRY(sch_shape_ok(s, &shapes.at[i], value, ok));
    s->depth--;
    return ST_OK;
}
