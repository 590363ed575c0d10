/* tests/shard_jinja/render.h - renders a template given as text, for the tests here. */
#ifndef TESTS_SHARD_JINJA_RENDER_H
#define TESTS_SHARD_JINJA_RENDER_H

#include <jansson.h>

#include "shard/text/template.h"

/* The conversation's fields as in `trireme template`'s lines. */
static inline status render_json(const char *source, size_t len, const json_t *line, const shard_template_limits *limits, mem_str *out)
{
    shard_template *t;
    status st = shard_template_parse("template", source, len, &t);
    if (st != ST_OK)
        return st;
    json_t *none = json_array(), *messages = json_object_get(line, "messages"), *go = json_object_get(line, "continue_final_message");
    shard_template_input in = {
        .messages = messages == NULL ? none : messages,
        .tools = json_object_get(line, "tools"),
        .documents = json_object_get(line, "documents"),
        .add_generation_prompt = json_is_true(json_object_get(line, "add_generation_prompt")),
        .continue_final_message = json_is_true(go) || json_is_string(go),
        .continue_field = json_string_value(go),
        .kwargs = json_object_get(line, "kwargs"),
        .variables = json_object_get(line, "variables"),
        .now = json_string_value(json_object_get(line, "now")),
    };
    st = shard_template_render(t, &in, limits, out);
    shard_template_destroy(&t);
    json_decref(none);
    return st;
}

#endif
