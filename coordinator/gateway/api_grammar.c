#include "coordinator/gateway/api_grammar.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "shard/text/grammar.h"

/* What was asked for: at most one of these may be. */
typedef struct wanted {
    const char *param; /* the field's name; NULL: nothing yet */
    shard_grammar_kind kind;
    const json_t *source; /* a string is taken as it is; anything else is written as JSON */
} wanted;

static status want(wanted *w, const char *param, shard_grammar_kind kind, const json_t *source, api_error *e)
{
    if (source == NULL || json_is_null(source))
        return ST_OK;
    if (kind == SHARD_GRAMMAR_JSON_OBJECT && !json_is_true(source))
        return json_is_false(source) ? ST_OK : api_refuse(e, ST_INVALID, param, "%s must be true or false", param);
    if (w->param != NULL)
        return api_refuse(e, ST_INVALID, param, "%s and %s cannot both be given: an answer has one form", w->param, param);
    *w = (wanted){.param = param, .kind = kind, .source = source};
    return ST_OK;
}

/* {"type": "text" | "json_object" | "json_schema", "json_schema": {"schema": ...}}; in the Responses API the schema stands beside the type. */
static status from_format(wanted *w, const char *param, const json_t *format, api_error *e)
{
    if (format == NULL || json_is_null(format))
        return ST_OK;
    const char *type = json_string_value(json_object_get(format, "type"));
    if (type == NULL)
        return api_refuse(e, ST_INVALID, param, "%s must be an object with a type", param);
    if (strcmp(type, "text") == 0)
        return ST_OK;
    if (strcmp(type, "json_object") == 0)
        return want(w, param, SHARD_GRAMMAR_JSON_OBJECT, json_true(), e);
    if (strcmp(type, "json_schema") != 0)
        return api_refuse(e, ST_INVALID, param, "%s: type \"%.40s\" is not supported (text, json_object and json_schema are)", param, type);
    const json_t *holder = json_object_get(format, "json_schema");
    const json_t *schema = json_object_get(holder != NULL ? holder : format, "schema");
    if (!json_is_object(schema) && !json_is_boolean(schema))
        return api_refuse(e, ST_INVALID, param, "%s: json_schema needs a schema", param);
    return want(w, param, SHARD_GRAMMAR_JSON_SCHEMA, schema, e);
}

static status from_structured(wanted *w, const json_t *o, api_error *e)
{
    static const struct { const char *key, *param; shard_grammar_kind kind; unsigned string, list, any; } kinds[] = {
        {"json", "structured_outputs.json", SHARD_GRAMMAR_JSON_SCHEMA, 1, 0, 1},
        {"regex", "structured_outputs.regex", SHARD_GRAMMAR_REGEX, 1, 0, 0},
        {"choice", "structured_outputs.choice", SHARD_GRAMMAR_CHOICE, 0, 1, 0},
        {"grammar", "structured_outputs.grammar", SHARD_GRAMMAR_EBNF, 1, 0, 0},
        {"json_object", "structured_outputs.json_object", SHARD_GRAMMAR_JSON_OBJECT, 0, 0, 1},
    };
    static const char *const harmless[] = {"disable_fallback", "disable_any_whitespace", "disable_additional_properties", "whitespace_pattern", "structural_tag"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)o, key, v)
    {
        size_t i = 0, k = 0;
        while (i < ARRAY_LEN(kinds) && strcmp(kinds[i].key, key) != 0)
            i++;
        while (k < ARRAY_LEN(harmless) && strcmp(harmless[k], key) != 0)
            k++;
        if (json_is_null(v) || (k < ARRAY_LEN(harmless) && json_is_false(v)))
            continue;
        if (i == ARRAY_LEN(kinds))
            return api_refuse(e, ST_INVALID, "structured_outputs", "structured_outputs.%.40s is not supported (json, regex, choice, grammar and json_object are)", key);
        if (!kinds[i].any && !(kinds[i].string && json_is_string(v)) && !(kinds[i].list && json_is_array(v)))
            return api_refuse(e, ST_INVALID, kinds[i].param, "%s must be a %s", kinds[i].param, kinds[i].string ? "string" : "list of strings");
        TRY(want(w, kinds[i].param, kinds[i].kind, v, e));
    }
    return ST_OK;
}

static status compile(const wanted *w, mem_str *out, api_error *e)
{
    char *text = NULL;
    const char *source = json_string_value(w->source);
    size_t len = json_string_length(w->source);
    if (source == NULL) {
        text = json_dumps(w->source, JSON_COMPACT | JSON_ENCODE_ANY);
        if (text == NULL)
            return api_refuse(e, ST_NO_MEMORY, w->param, "no memory for a grammar");
        source = text;
        len = strlen(text);
    }
    status_mute();
    status st = shard_grammar_compile(w->kind, source, len, NULL, out);
    status_unmute();
    free(text);
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, w->param);
}

status api_grammar_make(const api_fields *f, const json_t *forced, mem_str *out, api_error *e)
{
    wanted w = {0};
    TRY(want(&w, "tool_choice", SHARD_GRAMMAR_JSON_SCHEMA, forced, e));
    TRY(from_format(&w, "response_format", f->response_format, e));
    TRY(from_format(&w, "text.format", json_object_get(f->text, "format"), e));
    TRY(from_structured(&w, f->structured_outputs, e));
    TRY(want(&w, "guided_json", SHARD_GRAMMAR_JSON_SCHEMA, f->guided_json, e));
    TRY(want(&w, "guided_regex", SHARD_GRAMMAR_REGEX, f->guided_regex, e));
    TRY(want(&w, "guided_choice", SHARD_GRAMMAR_CHOICE, f->guided_choice, e));
    TRY(want(&w, "guided_grammar", SHARD_GRAMMAR_EBNF, f->guided_grammar, e));
    TRY(want(&w, "guided_json_object", SHARD_GRAMMAR_JSON_OBJECT, f->guided_json_object, e));
    return w.param == NULL ? ST_OK : compile(&w, out, e);
}
