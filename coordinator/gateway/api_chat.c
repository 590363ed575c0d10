/* coordinator/gateway/api_chat.c - POST /v1/chat/completions: a conversation gets its next message. */
#include <string.h>

#include "coordinator/gateway/api_internal.h"

/* echo: an answer that goes on with the last message shows that message too. */
static void lead_of(api_call *c)
{
    size_t n = json_array_size(c->messages);
    const json_t *last = n == 0 ? NULL : json_array_get(c->messages, n - 1), *content = json_object_get(last, "content");
    const char *role = json_string_value(json_object_get(last, "role"));
    if (c->fields.echo && role != NULL && strcmp(role, "assistant") == 0 && json_is_string(content))
        mem_str_append(&c->lead, json_string_value(content), json_string_length(content));
}

static status prepare(api_call *c, api_error *e)
{
    api_fields *f = &c->fields;
    if (f->messages == NULL)
        return api_refuse(e, ST_INVALID, "messages", "messages is missing");
    if (json_is_integer(f->logprobs))
        return api_refuse(e, ST_INVALID, "logprobs", "logprobs must be true or false here; top_logprobs says how many");
    c->messages = json_incref((json_t *)f->messages);
    c->tools = json_incref((json_t *)f->tools);
    lead_of(c);
    return api_call_chat_prompt(c, "messages", e);
}

/* ---- what a message holds ---- */

static void put_reasoning(const mem_str *reasoning, size_t from, mem_str *out)
{
    /* Clients look for either name. */
    static const char *const names[] = {"reasoning", "reasoning_content"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        mem_str_printf(out, ",\"%s\":", names[i]);
        api_put_string(out, api_str(reasoning) + from, reasoning->len - from);
    }
}

static void put_logprobs(const api_call *c, const api_sequence *s, api_sent *sent, mem_str *out)
{
    if (!c->want_logprobs) {
        mem_str_puts(out, "null");
        return;
    }
    mem_str_puts(out, "{\"content\":[");
    api_put_entries(out, &s->logprobs.entries, sent == NULL ? NULL : &sent->entries);
    mem_str_puts(out, "],\"refusal\":null}");
}

static void put_end(const api_call *c, const api_sequence *s, api_sent *sent, mem_str *out)
{
    mem_str_puts(out, ",\"logprobs\":");
    put_logprobs(c, s, sent, out);
    mem_str_puts(out, ",\"finish_reason\":");
    api_put_text(out, s->finish);
    mem_str_puts(out, ",\"stop_reason\":");
    api_put_stop_reason(s, out);
    api_put_tokens(c, s, sent == NULL ? NULL : &sent->ids, out);
    mem_str_putc(out, '}');
}

static void put_prompt(const api_call *c, const api_sequence *s, mem_str *out)
{
    if (c->fields.return_token_ids) {
        mem_str_puts(out, ",\"prompt_token_ids\":");
        api_put_ids(out, s->tokens.data, s->n_prompt);
    }
    if (c->fields.prompt_logprobs != API_ABSENT) {
        mem_str_puts(out, ",\"prompt_logprobs\":[");
        mem_str_puts(out, s->prompt_logprobs.len == 0 ? "null" : s->prompt_logprobs.data);
        mem_str_putc(out, ']');
    }
}

/* ---- whole ---- */

static void put_calls(const api_parts *p, mem_str *out)
{
    mem_str_puts(out, ",\"tool_calls\":[");
    for (size_t i = 0; i < p->n_calls; i++) {
        mem_str_printf(out, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", i == 0 ? "" : ",", p->calls[i].id);
        api_put_text(out, p->calls[i].name);
        mem_str_puts(out, ",\"arguments\":");
        api_put_string(out, api_str(&p->calls[i].arguments), p->calls[i].arguments.len);
        mem_str_puts(out, "}}");
    }
    mem_str_putc(out, ']');
}

static void answer(const api_call *c, mem_str *out)
{
    api_put_head(c, c->ops->object, out);
    mem_str_puts(out, ",\"choices\":[");
    for (int i = 0; i < c->n_sequences; i++) {
        const api_sequence *s = &c->sequences[i];
        const api_parts *p = api_parser_parts(s->parser);
        mem_str_printf(out, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", i == 0 ? "" : ",", i);
        if (p->content.len == 0 && p->n_calls > 0)
            mem_str_puts(out, "null");
        else
            api_put_string(out, api_str(&p->content), p->content.len);
        mem_str_puts(out, ",\"refusal\":null");
        if (p->reasoning.len > 0 && !c->hide_reasoning)
            put_reasoning(&p->reasoning, 0, out);
        if (p->n_calls > 0)
            put_calls(p, out);
        mem_str_putc(out, '}');
        put_end(c, s, NULL, out);
    }
    mem_str_puts(out, "],\"usage\":");
    api_put_usage(c, out);
    put_prompt(c, &c->sequences[0], out);
    mem_str_putc(out, '}');
}

/* ---- streamed ---- */

/* What is new about calls: new ones with id and name, and further arguments of the last one sent. */
static bool put_call_deltas(const api_parts *p, api_sent *sent, mem_str *out)
{
    bool any = false;
    for (size_t i = sent->calls > 0 ? sent->calls - 1 : 0; i < p->n_calls; i++) {
        const api_tool_call *t = &p->calls[i];
        bool is_new = i >= sent->calls;
        size_t from = is_new ? 0 : sent->arguments;
        if (!is_new && from == t->arguments.len)
            continue;
        mem_str_printf(out, "%s{\"index\":%zu,", any ? "," : ",\"tool_calls\":[", i);
        if (is_new) {
            mem_str_printf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", t->id);
            api_put_text(out, t->name);
            mem_str_putc(out, ',');
        } else {
            mem_str_puts(out, "\"function\":{");
        }
        mem_str_puts(out, "\"arguments\":");
        api_put_string(out, api_str(&t->arguments) + from, t->arguments.len - from);
        mem_str_puts(out, "}}");
        any = true;
        sent->calls = i + 1;
        sent->arguments = t->arguments.len;
    }
    if (any)
        mem_str_putc(out, ']');
    return any;
}

static bool calls_have_news(const api_parts *p, const api_sent *sent)
{
    return p->n_calls > sent->calls || (sent->calls > 0 && p->calls[sent->calls - 1].arguments.len > sent->arguments);
}

static bool has_news(const api_call *c, const api_sequence *s)
{
    const api_parts *p = api_parser_parts(s->parser);
    return s->ended || s->sent.content < p->content.len || (!c->hide_reasoning && s->sent.reasoning < p->reasoning.len) || calls_have_news(p, &s->sent) ||
           s->sent.entries < s->logprobs.entries.len || c->fields.return_token_ids;
}

static void begin_chunk(const api_call *c, const api_sequence *s, mem_str *out)
{
    mem_str_puts(out, "data: ");
    mem_str_append(out, c->head.data, c->head.len);
    mem_str_printf(out, ",\"choices\":[{\"index\":%d,\"delta\":{", s->choice);
}

static void end_chunk(const api_call *c, mem_str *out)
{
    if (c->include_usage) {
        mem_str_puts(out, ",\"usage\":");
        if (c->continuous_usage)
            api_put_usage(c, out);
        else
            mem_str_puts(out, "null");
    }
    mem_str_puts(out, "}\n\n");
}

static void begin_message(const api_call *c, api_sequence *s, mem_str *out)
{
    begin_chunk(c, s, out);
    mem_str_puts(out, "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]");
    put_prompt(c, s, out);
    end_chunk(c, out);
    s->sent.begun = true;
}

static void chunk(api_call *c, api_sequence *s, mem_str *out)
{
    const api_parts *p = api_parser_parts(s->parser);
    mem_str delta = {0};
    if (!s->sent.begun)
        begin_message(c, s, out);
    if (!has_news(c, s))
        return;
    if (s->sent.content < p->content.len) {
        mem_str_puts(&delta, ",\"content\":");
        api_put_string(&delta, p->content.data + s->sent.content, p->content.len - s->sent.content);
        s->sent.content = p->content.len;
    }
    if (!c->hide_reasoning && s->sent.reasoning < p->reasoning.len) {
        put_reasoning(&p->reasoning, s->sent.reasoning, &delta);
        s->sent.reasoning = p->reasoning.len;
    }
    put_call_deltas(p, &s->sent, &delta);
    begin_chunk(c, s, out);
    if (delta.len > 0)
        mem_str_append(out, delta.data + 1, delta.len - 1);
    mem_str_putc(out, '}');
    put_end(c, s, &s->sent, out);
    mem_str_putc(out, ']');
    end_chunk(c, out);
    out->failed = out->failed || delta.failed;
    mem_str_free(&delta);
}

static void finish(api_call *c, mem_str *out)
{
    api_completions_ops.finish(c, out);
}

static void fail(api_call *c, mem_str *out)
{
    api_completions_ops.fail(c, out);
}

const api_route_ops api_chat_ops = {
    .prefix = "chatcmpl-", .object = "chat.completion", .chunk_object = "chat.completion.chunk", .who = API_FOR_CHAT,
    .default_max_tokens = INT32_MAX, .prepare = prepare, .chunk = chunk, .finish = finish, .fail = fail, .answer = answer,
};
