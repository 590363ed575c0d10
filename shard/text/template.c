/* shard/text/template.c - chat templates from outside: parse once, render many times, as transformers prepares and trims. */
#include "shard/text/template.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "shard/text/template_internal.h"

#define MAX_SOURCE ((size_t)4 << 20)
#define PARSE_MEMORY ((size_t)256 << 20)
#define PARSE_STEPS 50000000
#define PARSE_DEPTH 1000
#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG " /* transformers' own mark */

/* ---- parsing ---- */

static void parse_all(tmpl_run *r, shard_template *t)
{
    tmpl_parse(r, tmpl_lex(r, t->source, t->source_len), t);
    tmpl_scope(r, t);
}

status shard_template_parse(const char *where, const char *source, size_t len, shard_template **out)
{
    if (len > MAX_SOURCE)
        return FAIL(ST_LIMIT, "%s: a chat template of %zu bytes; the most is %zu", where, len, MAX_SOURCE);
    mem_arena *arena = mem_arena_create(PARSE_MEMORY);
    shard_template *t = arena == NULL ? NULL : mem_arena_alloc(arena, sizeof(*t));
    if (t == NULL) {
        mem_arena_destroy(&arena);
        return FAIL(ST_NO_MEMORY, "%s: no memory for a chat template", where);
    }
    t->arena = arena;
    t->where = mem_arena_strndup(arena, where, strlen(where));
    t->source = mem_arena_strndup(arena, source, len);
    t->source_len = len;
    tmpl_run r = {.where = where, .arena = arena, .max_steps = PARSE_STEPS, .max_depth = PARSE_DEPTH};
    if (t->where == NULL || t->source == NULL) {
        mem_arena_destroy(&arena);
        return FAIL(ST_NO_MEMORY, "%s: no memory for a chat template", where);
    }
    if (setjmp(r.fail) != 0) {
        status st = FAIL(r.st, "%s: line %d: %s", where, r.line, r.message);
        shard_template_destroy(&t);
        return st;
    }
    parse_all(&r, t);
    *out = t;
    return ST_OK;
}

void shard_template_destroy(shard_template **t)
{
    if (*t == NULL)
        return;
    mem_arena *arena = (*t)->arena;
    mem_arena_destroy(&arena);
    *t = NULL;
}

/* ---- values from JSON ---- */

static tv from_json(tmpl_run *r, const json_t *j)
{
    const char *key;
    size_t key_len, i;
    json_t *item;
    tmpl_charge(r, 0);
    switch (json_typeof(j)) {
    case JSON_NULL:
        return tv_none();
    case JSON_TRUE:
        return tv_bool(true);
    case JSON_FALSE:
        return tv_bool(false);
    case JSON_INTEGER:
        return tv_int(json_integer_value(j));
    case JSON_REAL:
        return tv_float(json_real_value(j));
    case JSON_STRING: /* shares the caller's bytes */
        return tv_view_of(r, json_string_value(j), json_string_length(j));
    case JSON_ARRAY: {
        tv list = tv_list_of(r, TV_LIST, json_array_size(j));
        tmpl_enter(r);
        json_array_foreach((json_t *)j, i, item)
            list.u.l->v[i] = from_json(r, item);
        tmpl_leave(r);
        return list;
    }
    case JSON_OBJECT: {
        tv dict = tv_dict_new(r);
        tmpl_enter(r);
        json_object_keylen_foreach((json_t *)j, key, key_len, item)
            tv_dict_set(r, dict.u.d, tv_view_of(r, key, key_len), from_json(r, item));
        tmpl_leave(r);
        return dict;
    }
    }
    return tv_none();
}

static tv optional(tmpl_run *r, const json_t *j, const char *name, bool of_dicts)
{
    if (j == NULL || json_is_null(j))
        return tv_none();
    if (!json_is_array(j))
        tmpl_fail(r, ST_INVALID, "%s must be a list", name);
    for (size_t i = 0; of_dicts && i < json_array_size(j); i++) {
        if (!json_is_object(json_array_get(j, i)))
            tmpl_fail(r, ST_INVALID, "%s must be a list of objects; item %zu is not one", name, i);
    }
    return from_json(r, j);
}

/* ---- what transformers does around rendering ---- */

static const char *const reasoning_fields[] = {"reasoning_content", "thinking", "reasoning"};

/* A message's reasoning, under whichever of the three names, is given as "thinking" (first) and "reasoning_content". */
static void alias_reasoning(tmpl_run *r, tv messages)
{
    for (size_t m = 0; m < messages.u.l->n; m++) {
        tv message = messages.u.l->v[m], aliased = tv_dict_new(r);
        const tv *reasoning = NULL;
        for (size_t i = 0; i < ARRAY_LEN(reasoning_fields) && reasoning == NULL; i++) {
            reasoning = tv_dict_get_text(r, message.u.d, reasoning_fields[i]);
            if (reasoning != NULL && reasoning->type == TV_NONE)
                reasoning = NULL;
        }
        if (reasoning == NULL)
            continue;
        tv_dict_set(r, aliased.u.d, tv_text(r, "thinking"), *reasoning);
        for (size_t i = 0; i < message.u.d->n; i++)
            tv_dict_set(r, aliased.u.d, message.u.d->e[i].key, message.u.d->e[i].value);
        tv_dict_set(r, aliased.u.d, tv_text(r, "reasoning_content"), *reasoning);
        messages.u.l->v[m] = aliased;
    }
}

static bool is_reasoning(const char *field)
{
    for (size_t i = 0; i < ARRAY_LEN(reasoning_fields); i++) {
        if (strcmp(field, reasoning_fields[i]) == 0)
            return true;
    }
    return false;
}

/* The fields that hold the text to continue: `field`, and for reasoning its copies under the other names. */
static size_t continued_fields(tmpl_run *r, const char *field, tv last, tv content, const char *out[ARRAY_LEN(reasoning_fields)])
{
    size_t n = 0;
    out[n++] = field;
    for (size_t i = 0; is_reasoning(field) && i < ARRAY_LEN(reasoning_fields); i++) {
        const tv *copy = tv_dict_get_text(r, last.u.d, reasoning_fields[i]);
        if (strcmp(reasoning_fields[i], field) != 0 && copy != NULL && tv_equal(r, *copy, content))
            out[n++] = reasoning_fields[i];
    }
    return n;
}

/* Marks where the final message's text ends; returns that text. */
static tv mark_final(tmpl_run *r, const shard_template *t, tv messages, const char *field)
{
    const char *fields[ARRAY_LEN(reasoning_fields)];
    if (messages.u.l->n == 0)
        tmpl_fail(r, ST_INVALID, "continue_final_message is set but there are no messages");
    tv last = messages.u.l->v[messages.u.l->n - 1];
    const tv *content = tv_dict_get_text(r, last.u.d, field);
    if (content == NULL || content->type == TV_NONE)
        tmpl_fail(r, ST_INVALID, "continue_final_message is set but the final message has no \"%s\" to continue", field);
    tv tag = tv_text(r, CONTINUE_TAG), text = *content;
    size_t n = continued_fields(r, field, last, text, fields);
    bool used = false;
    for (size_t i = 0; i < n; i++)
        used = used || memmem(t->source, t->source_len, fields[i], strlen(fields[i])) != NULL;
    if (!used)
        tmpl_fail(r, ST_INVALID, "continue_final_message is set but the template does not use \"%s\"", field);
    for (size_t i = 0; text.type == TV_STR && i < n; i++)
        tv_dict_set(r, last.u.d, tv_text(r, fields[i]), tv_concat(r, text, tag));
    if (text.type == TV_STR)
        return text;
    for (size_t i = text.type == TV_LIST ? text.u.l->n : 0; i > 0; i--) {
        tv block = text.u.l->v[i - 1];
        const tv *part = block.type == TV_DICT ? tv_dict_get_text(r, block.u.d, "text") : NULL;
        if (part == NULL)
            continue;
        tv_need_str(r, *part, "the text to continue");
        text = *part;
        tv_dict_set(r, block.u.d, tv_text(r, "text"), tv_concat(r, text, tag));
        return text;
    }
    tmpl_fail(r, ST_INVALID, "continue_final_message is set but the final message holds no text to continue");
}

/* Cuts the rendered text (out from `begin`) at the mark. */
static void cut_at_mark(tmpl_run *r, mem_str *out, size_t begin, tv final)
{
    const char *text = out->data + begin, *at = NULL, *found;
    size_t len = out->len - begin, tag = strlen(CONTINUE_TAG), bare = tag - 1;
    tv stripped = tmpl_str_strip(r, final, NULL, true, true);
    for (const char *p = text; (found = memmem(p, len - (size_t)(p - text), CONTINUE_TAG, bare)) != NULL; p = found + 1)
        at = found;
    if (at == NULL || memmem(text, len, stripped.u.s->p, stripped.u.s->len) == NULL)
        tmpl_fail(r, ST_INVALID, "continue_final_message is set but the final message does not appear in the rendered chat; the template may "
                                 "change or drop it");
    size_t keep = (size_t)(at - text);
    if (len - keep < tag || memcmp(at, CONTINUE_TAG, tag) != 0) /* the message's trailing blanks were trimmed: so is the text's end */
        keep = tmpl_str_strip(r, tv_view_of(r, text, keep), NULL, false, true).u.s->len;
    out->len = begin + keep;
    out->data[out->len] = '\0';
}

static void set_context(tmpl_run *r, const json_t *extra)
{
    const char *key;
    size_t key_len;
    json_t *value;
    if (extra == NULL || json_is_null(extra))
        return;
    if (!json_is_object(extra))
        tmpl_fail(r, ST_INVALID, "extra variables must be an object");
    json_object_keylen_foreach((json_t *)extra, key, key_len, value)
        tv_dict_set(r, r->globals, tv_view_of(r, key, key_len), from_json(r, value));
}

static void render_all(tmpl_run *r, const shard_template *t, const shard_template_input *in, mem_str *out)
{
    size_t begin = out->len;
    r->globals = tv_dict_new(r).u.d;
    tmpl_add_globals(r, r->globals);
    if (in->messages == NULL || !json_is_array(in->messages))
        tmpl_fail(r, ST_INVALID, "messages must be a list");
    tv messages = optional(r, in->messages, "messages", true), final = tv_none();
    alias_reasoning(r, messages);
    if (in->continue_final_message)
        final = mark_final(r, t, messages, in->continue_field == NULL ? "content" : in->continue_field);
    tv_dict_set(r, r->globals, tv_text(r, "messages"), messages);
    tv_dict_set(r, r->globals, tv_text(r, "tools"), optional(r, in->tools, "tools", true));
    tv_dict_set(r, r->globals, tv_text(r, "documents"), optional(r, in->documents, "documents", true));
    tv_dict_set(r, r->globals, tv_text(r, "add_generation_prompt"), tv_bool(in->add_generation_prompt));
    set_context(r, in->variables);
    set_context(r, in->kwargs);
    tmpl_exec(r, t);
    if (in->continue_final_message) {
        mem_str_append(out, "", 0);
        cut_at_mark(r, out, begin, final);
    }
}

static void free_captures(tmpl_run *r)
{
    for (int i = 1; i < r->cap_captures; i++) {
        if (r->captures[i] != NULL)
            mem_str_free(r->captures[i]);
    }
}

status shard_template_render(const shard_template *t, const shard_template_input *input, const shard_template_limits *limits, mem_str *out)
{
    shard_template_limits l = limits == NULL ? (shard_template_limits){0} : *limits;
    int depth = l.max_depth > 0 ? l.max_depth : 200;
    mem_str *captures[16] = {out};
    size_t begin = out->len;
    tmpl_run r = {
        .where = t->where,
        .max_steps = l.max_steps > 0 ? l.max_steps : 10000000,
        .max_output = l.max_output > 0 ? l.max_output : (size_t)16 << 20,
        .max_calls = depth,
        .max_depth = depth * 5,
        .captures = captures,
        .n_captures = 1,
        .cap_captures = ARRAY_LEN(captures),
        .now = input->now,
    };
    r.arena = mem_arena_create(l.max_memory > 0 ? l.max_memory : (size_t)64 << 20);
    if (r.arena == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory to render", t->where);
    status st = ST_OK;
    if (setjmp(r.fail) == 0) {
        render_all(&r, t, input, out);
    } else {
        out->len = begin;
        if (out->data != NULL)
            out->data[begin] = '\0';
        st = r.raised ? FAIL(r.st, "%s: line %d: the template refused the conversation: %s", t->where, r.line, r.message)
                      : FAIL(r.st, "%s: line %d: %s", t->where, r.line, r.message);
    }
    free_captures(&r);
    mem_arena_destroy(&r.arena);
    return st;
}
