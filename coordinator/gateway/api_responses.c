/* coordinator/gateway/api_responses.c - POST /v1/responses: items in, items out, and a stream of named events.
 *
 * An answer's items are its reasoning, its message and its function calls.  In a stream each is opened when its first text comes, and gets
 * its place in the output then; reasoning closes when anything else opens, a call when the next does, the message at the end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/api_internal.h"

/* ---- input ---- */

static json_t *last_assistant(json_t *messages)
{
    size_t n = json_array_size(messages);
    json_t *last = n == 0 ? NULL : json_array_get(messages, n - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    return role != NULL && strcmp(role, "assistant") == 0 ? last : NULL;
}

/* A call belongs to the assistant's message before it, if there is one. */
static status add_call(json_t *messages, const json_t *item, size_t at, api_error *e)
{
    const json_t *name = json_object_get(item, "name"), *arguments = json_object_get(item, "arguments"), *id = json_object_get(item, "call_id");
    if (!json_is_string(name) || !json_is_string(arguments) || !json_is_string(id))
        return api_refuse(e, ST_INVALID, "input", "input[%zu]: function_call needs call_id, name and arguments", at);
    json_t *message = last_assistant(messages);
    if (message == NULL) {
        message = json_pack("{ss sn}", "role", "assistant", "content");
        json_array_append_new(messages, message);
    }
    json_t *calls = json_object_get(message, "tool_calls");
    if (calls == NULL) {
        calls = json_array();
        json_object_set_new(message, "tool_calls", calls);
    }
    json_array_append_new(calls, json_pack("{sO ss s{sO sO}}", "id", id, "type", "function", "function", "name", name, "arguments", arguments));
    return ST_OK;
}

static status add_output(json_t *messages, const json_t *item, size_t at, api_error *e)
{
    const json_t *id = json_object_get(item, "call_id"), *output = json_object_get(item, "output");
    if (!json_is_string(id) || (!json_is_string(output) && !json_is_array(output)))
        return api_refuse(e, ST_INVALID, "input", "input[%zu]: function_call_output needs call_id and output", at);
    json_array_append_new(messages, json_pack("{ss sO sO}", "role", "tool", "tool_call_id", id, "content", output));
    return ST_OK;
}

static void add_reasoning(json_t *messages, const json_t *item)
{
    const json_t *text = json_object_get(json_array_get(json_object_get(item, "content"), 0), "text");
    if (json_is_string(text))
        json_array_append_new(messages, json_pack("{ss sn sO}", "role", "assistant", "content", "reasoning_content", text));
}

static status add_message(json_t *messages, const json_t *item, size_t at, api_error *e)
{
    json_t *before = last_assistant(messages), *role = json_object_get(item, "role");
    if (!json_is_string(role))
        return api_refuse(e, ST_INVALID, "input", "input[%zu]: a message needs a role", at);
    /* An assistant's message after its reasoning is one message. */
    if (before != NULL && strcmp(json_string_value(role), "assistant") == 0 && json_is_null(json_object_get(before, "content")) &&
        json_object_get(before, "tool_calls") == NULL) {
        json_object_set(before, "content", json_object_get(item, "content"));
        return ST_OK;
    }
    json_array_append_new(messages, json_pack("{sO sO*}", "role", role, "content", json_object_get(item, "content")));
    return ST_OK;
}

static status add_item(json_t *messages, const json_t *item, size_t at, api_error *e)
{
    const char *type = json_string_value(json_object_get(item, "type"));
    if (!json_is_object(item))
        return api_refuse(e, ST_INVALID, "input", "input[%zu] must be an object", at);
    if (type == NULL || strcmp(type, "message") == 0)
        return add_message(messages, item, at, e);
    if (strcmp(type, "function_call") == 0)
        return add_call(messages, item, at, e);
    if (strcmp(type, "function_call_output") == 0)
        return add_output(messages, item, at, e);
    if (strcmp(type, "reasoning") != 0)
        return api_refuse(e, ST_INVALID, "input", "input[%zu]: type \"%.40s\" is not supported (message, function_call, function_call_output and reasoning are)", at, type);
    add_reasoning(messages, item);
    return ST_OK;
}

/* The conversation: earlier items, and the input as items. */
static status gather_items(api_call *c, api_error *e)
{
    const api_fields *f = &c->fields;
    if (f->input == NULL)
        return api_refuse(e, ST_INVALID, "input", "input is missing");
    if (f->store && c->options.store.find == NULL)
        return api_refuse(e, ST_UNSUPPORTED, "store", "store: true is not supported here: responses are not kept");
    if (f->previous_response_id != NULL && c->options.store.find == NULL)
        return api_refuse(e, ST_UNSUPPORTED, "previous_response_id", "previous_response_id is not supported here: responses are not kept");
    json_t *before = f->previous_response_id == NULL ? json_array() : c->options.store.find(c->options.store.arg, f->previous_response_id);
    if (before == NULL) {
        api_refuse(e, ST_NOT_FOUND, "previous_response_id", "no response with the id \"%.128s\" is kept here", f->previous_response_id);
        e->code = "previous_response_not_found";
        return ST_NOT_FOUND;
    }
    c->items = json_copy(before);
    json_decref(before);
    if (json_is_string(f->input))
        json_array_append_new(c->items, json_pack("{ss ss sO}", "type", "message", "role", "user", "content", f->input));
    else
        json_array_extend(c->items, (json_t *)f->input);
    return ST_OK;
}

static status make_messages(api_call *c, api_error *e)
{
    size_t i;
    json_t *item;
    c->messages = json_array();
    if (c->fields.instructions != NULL)
        json_array_append_new(c->messages, json_pack("{ss ss}", "role", "system", "content", c->fields.instructions));
    json_array_foreach(c->items, i, item)
        TRY(add_item(c->messages, item, i, e));
    return ST_OK;
}

/* Tools stand flat here: {"type", "name", "parameters"}. */
static status make_tools(api_call *c, api_error *e)
{
    size_t i;
    json_t *tool;
    if (json_array_size(c->fields.tools) == 0)
        return ST_OK;
    c->tools = json_array();
    json_array_foreach((json_t *)c->fields.tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        if (type == NULL || strcmp(type, "function") != 0)
            return api_refuse(e, ST_INVALID, "tools", "tools[%zu]: type \"%.40s\" is not supported (function is)", i, type == NULL ? "" : type);
        json_t *function = json_copy(tool);
        json_object_del(function, "type");
        json_array_append_new(c->tools, json_pack("{ss so}", "type", "function", "function", function));
    }
    return ST_OK;
}

static status read_options(api_call *c, api_error *e)
{
    static const char *const known[] = {"effort", "summary", "generate_summary"};
    api_fields *f = &c->fields;
    size_t i;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)f->reasoning, key, v)
    {
        size_t k = 0;
        while (k < ARRAY_LEN(known) && strcmp(known[k], key) != 0)
            k++;
        if (k == ARRAY_LEN(known) || (!json_is_string(v) && !json_is_null(v)))
            return api_refuse(e, ST_INVALID, "reasoning", "reasoning.%.40s is not supported (effort is, a string)", key);
    }
    f->reasoning_effort = json_string_value(json_object_get(f->reasoning, "effort"));
    json_object_foreach((json_t *)f->text, key, v)
    {
        bool harmless = json_is_null(v) || (strcmp(key, "verbosity") == 0 && json_is_string(v) && strcmp(json_string_value(v), "medium") == 0);
        if (strcmp(key, "format") != 0 && !harmless)
            return api_refuse(e, ST_INVALID, "text", "text.%.40s is not supported (format is)", key);
    }
    json_array_foreach((json_t *)f->include, i, v)
    {
        if (!json_is_string(v) || strcmp(json_string_value(v), "message.output_text.logprobs") != 0)
            return api_refuse(e, ST_INVALID, "include", "include: \"%.60s\" is not supported (message.output_text.logprobs is)", json_is_string(v) ? json_string_value(v) : "");
        f->logprobs = json_true();
    }
    if (f->top_logprobs != API_ABSENT && f->top_logprobs > 0)
        f->logprobs = json_true();
    return ST_OK;
}

static status prepare(api_call *c, api_error *e)
{
    TRY(read_options(c, e));
    TRY(gather_items(c, e));
    TRY(make_messages(c, e));
    TRY(make_tools(c, e));
    return api_call_chat_prompt(c, "input", e);
}

/* ---- output items ---- */

typedef enum item_kind { REASONING, MESSAGE, CALL } item_kind;

typedef struct out_item {
    item_kind kind;
    size_t call;
    bool closed;
    size_t sent;
} out_item;

/* Kept for a stream; reasoning and message are at most one each. */
typedef struct out_items {
    out_item *list;
    size_t n;
} out_items;

static void put_item_id(const api_call *c, const out_item *it, mem_str *out)
{
    static const char *const prefixes[] = {"rs_", "msg_", "fc_"};
    char id[192];
    const char *base = c->id + strlen(c->ops->prefix);
    if (it->kind == CALL)
        snprintf(id, sizeof(id), "fc_%s_%zu", base, it->call);
    else
        snprintf(id, sizeof(id), "%s%s", prefixes[it->kind], base);
    api_put_text(out, id);
}

static const mem_str *item_text(const api_sequence *s, const out_item *it)
{
    const api_parts *p = api_parser_parts(s->parser);
    return it->kind == REASONING ? &p->reasoning : it->kind == MESSAGE ? &p->content : &p->calls[it->call].arguments;
}

/* A content part: its text, or none yet. */
static void put_part(const api_sequence *s, const out_item *it, bool whole, mem_str *out)
{
    const mem_str *text = item_text(s, it);
    mem_str_printf(out, "{\"type\":\"%s\",\"text\":", it->kind == REASONING ? "reasoning_text" : "output_text");
    api_put_string(out, api_str(text), whole ? text->len : 0);
    if (it->kind == MESSAGE) {
        mem_str_puts(out, ",\"annotations\":[],\"logprobs\":[");
        if (whole)
            api_put_entries(out, &s->logprobs.entries, NULL);
        mem_str_putc(out, ']');
    }
    mem_str_putc(out, '}');
}

static void put_item(const api_call *c, const api_sequence *s, const out_item *it, bool whole, mem_str *out)
{
    static const char *const types[] = {"reasoning", "message", "function_call"};
    const api_parts *p = api_parser_parts(s->parser);
    mem_str_puts(out, "{\"id\":");
    put_item_id(c, it, out);
    mem_str_printf(out, ",\"type\":\"%s\",\"status\":\"%s\"", types[it->kind],
                   !whole ? "in_progress" : s->finish != NULL && strcmp(s->finish, "length") == 0 ? "incomplete" : "completed");
    if (it->kind == CALL) {
        const api_tool_call *t = &p->calls[it->call];
        mem_str_printf(out, ",\"call_id\":\"%s\",\"name\":", t->id);
        api_put_text(out, t->name);
        mem_str_puts(out, ",\"arguments\":");
        api_put_string(out, api_str(&t->arguments), whole ? t->arguments.len : 0);
    } else {
        mem_str_puts(out, it->kind == REASONING ? ",\"summary\":[],\"content\":[" : ",\"role\":\"assistant\",\"content\":[");
        if (whole)
            put_part(s, it, true, out);
        mem_str_putc(out, ']');
    }
    mem_str_putc(out, '}');
}

/* The item in place `at` of the output; an answer with nothing in it is an empty message. */
static bool item_at(const api_sequence *s, size_t at, out_item *it)
{
    const api_parts *p = api_parser_parts(s->parser);
    static const item_kind kinds[] = {[API_PART_REASONING] = REASONING, [API_PART_CONTENT] = MESSAGE, [API_PART_CALL] = CALL};
    *it = (out_item){.kind = MESSAGE};
    if (at >= p->n_order)
        return at == 0 && s->ended;
    it->kind = kinds[p->order[at]];
    for (size_t i = 0; i < at; i++)
        it->call += p->order[i] == API_PART_CALL;
    it->call = it->kind == CALL ? it->call : 0;
    return true;
}

static void put_output(const api_call *c, mem_str *out)
{
    const api_sequence *s = &c->sequences[0];
    out_item it;
    mem_str_putc(out, '[');
    for (size_t i = 0; item_at(s, i, &it); i++) {
        mem_str_puts(out, i == 0 ? "" : ",");
        put_item(c, s, &it, true, out);
    }
    mem_str_putc(out, ']');
}

/* ---- the response ---- */

static void put_json(const char *name, const json_t *v, const char *otherwise, mem_str *out)
{
    char *text = v == NULL ? NULL : json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    mem_str_printf(out, ",\"%s\":%s", name, text != NULL ? text : otherwise);
    free(text);
}

static void put_number(const char *name, int32_t v, const char *otherwise, mem_str *out)
{
    if (v == API_ABSENT)
        mem_str_printf(out, ",\"%s\":%s", name, otherwise);
    else
        mem_str_printf(out, ",\"%s\":%d", name, v);
}

static void put_options(const api_call *c, mem_str *out)
{
    const api_fields *f = &c->fields;
    const json_t *format = json_object_get(f->text, "format");
    mem_str_puts(out, ",\"instructions\":");
    api_put_text(out, f->instructions);
    mem_str_puts(out, ",\"previous_response_id\":");
    api_put_text(out, f->previous_response_id);
    put_number("max_output_tokens", f->max_output_tokens, "null", out);
    put_number("top_logprobs", f->top_logprobs, "0", out);
    mem_str_printf(out, ",\"parallel_tool_calls\":%s,\"store\":%s,\"background\":false,\"truncation\":\"disabled\",\"service_tier\":\"default\"",
                   f->parallel_tool_calls ? "true" : "false", c->options.store.find != NULL && (!f->has_store || f->store) ? "true" : "false");
    mem_str_puts(out, ",\"temperature\":");
    api_put_float(out, (double)c->sampling.message.temperature);
    mem_str_puts(out, ",\"top_p\":");
    api_put_float(out, (double)c->sampling.message.top_p);
    mem_str_puts(out, ",\"reasoning\":{\"effort\":");
    api_put_text(out, f->reasoning_effort);
    mem_str_puts(out, ",\"summary\":null},\"text\":{\"format\":");
    char *text = format == NULL || json_is_null(format) ? NULL : json_dumps(format, JSON_COMPACT);
    mem_str_printf(out, "%s}", text != NULL ? text : "{\"type\":\"text\"}");
    free(text);
    put_json("tool_choice", f->tool_choice, "\"auto\"", out);
    put_json("tools", f->tools, "[]", out);
    put_json("metadata", f->metadata, "{}", out);
    put_json("user", f->user, "null", out);
}

static void put_response_usage(const api_call *c, mem_str *out)
{
    api_call_usage u;
    api_call_usage_get(c, &u);
    mem_str_printf(out,
                   ",\"usage\":{\"input_tokens\":%d,\"input_tokens_details\":{\"cached_tokens\":%d,\"cache_write_tokens\":0},\"output_tokens\":%d,"
                   "\"output_tokens_details\":{\"reasoning_tokens\":%d},\"total_tokens\":%d}",
                   u.prompt_tokens, u.cached_tokens, u.completion_tokens, c->sequences[0].n_reasoning, u.prompt_tokens + u.completion_tokens);
}

static const char *status_of(const api_call *c)
{
    const char *finish = c->sequences[0].finish;
    return c->failed ? "failed" : finish == NULL ? "in_progress" : strcmp(finish, "length") == 0 ? "incomplete" : "completed";
}

static void put_response_as(const api_call *c, const char *st, mem_str *out)
{
    bool under_way = strcmp(st, "in_progress") == 0;
    mem_str_puts(out, "{\"id\":");
    api_put_text(out, c->id);
    mem_str_printf(out, ",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\",\"model\":", (long long)c->created, st);
    api_put_text(out, c->model->name);
    mem_str_puts(out, ",\"system_fingerprint\":");
    api_put_text(out, c->model->fingerprint);
    mem_str_puts(out, ",\"error\":");
    if (c->failed) {
        mem_str_puts(out, "{\"code\":\"server_error\",\"message\":");
        api_put_text(out, c->failure.message);
        mem_str_putc(out, '}');
    } else {
        mem_str_puts(out, "null");
    }
    mem_str_printf(out, ",\"incomplete_details\":%s", strcmp(st, "incomplete") == 0 ? "{\"reason\":\"max_output_tokens\"}" : "null");
    mem_str_puts(out, ",\"output\":");
    if (under_way || c->failed)
        mem_str_puts(out, "[]");
    else
        put_output(c, out);
    put_options(c, out);
    if (under_way || c->failed)
        mem_str_puts(out, ",\"usage\":null");
    else
        put_response_usage(c, out);
    mem_str_putc(out, '}');
}

static void put_response(const api_call *c, mem_str *out)
{
    put_response_as(c, status_of(c), out);
}

/* ---- the stream ---- */

static void begin_event(api_call *c, const char *type, mem_str *out)
{
    mem_str_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%llu", type, type, (unsigned long long)c->event_number++);
}

static void end_event(mem_str *out)
{
    mem_str_puts(out, "}\n\n");
}

static void response_event(api_call *c, const char *type, const char *st, mem_str *out)
{
    begin_event(c, type, out);
    mem_str_puts(out, ",\"response\":");
    put_response_as(c, st, out);
    end_event(out);
}

static void item_event(api_call *c, const api_sequence *s, const out_item *it, size_t at, const char *type, bool whole, mem_str *out)
{
    begin_event(c, type, out);
    mem_str_printf(out, ",\"output_index\":%zu,\"item\":", at);
    put_item(c, s, it, whole, out);
    end_event(out);
}

/* Up to the part that differs: item_id, output_index and, for parts of content, content_index. */
static void begin_part_event(api_call *c, const out_item *it, size_t at, const char *type, mem_str *out)
{
    begin_event(c, type, out);
    mem_str_puts(out, ",\"item_id\":");
    put_item_id(c, it, out);
    mem_str_printf(out, ",\"output_index\":%zu%s", at, it->kind == CALL ? "" : ",\"content_index\":0");
}

static void part_event(api_call *c, const api_sequence *s, const out_item *it, size_t at, const char *type, bool whole, mem_str *out)
{
    begin_part_event(c, it, at, type, out);
    mem_str_puts(out, ",\"part\":");
    put_part(s, it, whole, out);
    end_event(out);
}

static const char *const delta_events[] = {"response.reasoning_text.delta", "response.output_text.delta", "response.function_call_arguments.delta"};
static const char *const done_events[] = {"response.reasoning_text.done", "response.output_text.done", "response.function_call_arguments.done"};

static void send_delta(api_call *c, api_sequence *s, out_item *it, size_t at, mem_str *out)
{
    const mem_str *text = item_text(s, it);
    if (it->closed || (it->sent == text->len && !(it->kind == MESSAGE && s->sent.entries < s->logprobs.entries.len)))
        return;
    begin_part_event(c, it, at, delta_events[it->kind], out);
    mem_str_puts(out, ",\"delta\":");
    api_put_string(out, api_str(text) + it->sent, text->len - it->sent);
    if (it->kind == MESSAGE) {
        mem_str_puts(out, ",\"logprobs\":[");
        api_put_entries(out, &s->logprobs.entries, &s->sent.entries);
        mem_str_putc(out, ']');
    }
    end_event(out);
    it->sent = text->len;
}

static void close_item(api_call *c, api_sequence *s, out_item *it, size_t at, mem_str *out)
{
    const mem_str *text = item_text(s, it);
    if (it->closed)
        return;
    send_delta(c, s, it, at, out);
    it->closed = true;
    begin_part_event(c, it, at, done_events[it->kind], out);
    mem_str_printf(out, ",\"%s\":", it->kind == CALL ? "arguments" : "text");
    api_put_string(out, api_str(text), text->len);
    if (it->kind == CALL) {
        mem_str_puts(out, ",\"name\":");
        api_put_text(out, api_parser_parts(s->parser)->calls[it->call].name);
    } else if (it->kind == MESSAGE) {
        mem_str_puts(out, ",\"logprobs\":[");
        api_put_entries(out, &s->logprobs.entries, NULL);
        mem_str_putc(out, ']');
    }
    end_event(out);
    if (it->kind != CALL)
        part_event(c, s, it, at, "response.content_part.done", true, out);
    item_event(c, s, it, at, "response.output_item.done", true, out);
}

/* Closes what must be closed before another item opens. */
static void close_others(api_call *c, api_sequence *s, out_items *items, item_kind kind, mem_str *out)
{
    for (size_t i = 0; i < items->n; i++) {
        if (items->list[i].kind == REASONING || (kind == CALL && items->list[i].kind == CALL))
            close_item(c, s, &items->list[i], i, out);
    }
}

static void open_item(api_call *c, api_sequence *s, out_items *items, const out_item *new, mem_str *out)
{
    close_others(c, s, items, new->kind, out);
    out_item *grown = realloc(items->list, (items->n + 1) * sizeof(*grown));
    if (grown == NULL) {
        out->failed = true;
        return;
    }
    items->list = grown;
    grown[items->n] = *new;
    item_event(c, s, new, items->n, "response.output_item.added", false, out);
    if (new->kind != CALL)
        part_event(c, s, new, items->n, "response.content_part.added", false, out);
    items->n++;
}

static void chunk(api_call *c, api_sequence *s, mem_str *out)
{
    if (s->items == NULL) {
        s->items = calloc(1, sizeof(out_items));
        if (s->items == NULL) {
            out->failed = true;
            return;
        }
        response_event(c, "response.created", "in_progress", out);
        response_event(c, "response.in_progress", "in_progress", out);
    }
    out_items *items = s->items;
    for (out_item it; item_at(s, items->n, &it) && !out->failed;)
        open_item(c, s, items, &it, out);
    for (size_t i = 0; i < items->n; i++)
        send_delta(c, s, &items->list[i], i, out);
}

static void finish(api_call *c, mem_str *out)
{
    api_sequence *s = &c->sequences[0];
    out_items *items = s->items;
    for (size_t i = 0; items != NULL && i < items->n; i++)
        close_item(c, s, &items->list[i], i, out);
    const char *st = status_of(c);
    response_event(c, strcmp(st, "incomplete") == 0 ? "response.incomplete" : "response.completed", st, out);
}

static void fail(api_call *c, mem_str *out)
{
    response_event(c, "response.failed", "failed", out);
}

static void drop(api_sequence *s)
{
    out_items *items = s->items;
    if (items != NULL)
        free(items->list);
}

json_t *api_call_conversation(const api_call *c)
{
    mem_str output = {0};
    if (c->ops != &api_responses_ops || !api_call_ended(c) || c->failed || (c->fields.has_store && !c->fields.store))
        return NULL;
    put_output(c, &output);
    json_t *items = output.failed ? NULL : json_loadb(output.data, output.len, 0, NULL), *all = json_copy(c->items);
    mem_str_free(&output);
    if (items != NULL)
        json_array_extend(all, items);
    json_decref(items);
    return all;
}

const api_route_ops api_responses_ops = {
    .prefix = "resp_", .object = "response", .chunk_object = "response", .who = API_FOR_RESPONSES,
    .default_max_tokens = INT32_MAX, .prepare = prepare, .chunk = chunk, .finish = finish, .fail = fail, .answer = put_response, .drop = drop,
};
