/* coordinator/gateway/api_completions.c - POST /v1/completions: text goes on. */
#include <string.h>

#include "coordinator/gateway/api_grammar.h"
#include "coordinator/gateway/api_internal.h"

static status prepare(api_call *c, api_error *e)
{
    api_fields *f = &c->fields;
    const shard_tokenizer *t = shard_text_tokenizer(c->model->text);
    if (json_is_boolean(f->logprobs))
        return api_refuse(e, ST_INVALID, "logprobs", "logprobs must be a whole number here: how many of the likeliest tokens to list");
    if (f->suffix != NULL && f->echo)
        return api_refuse(e, ST_INVALID, "echo", "echo and suffix cannot both be given");
    if (f->suffix != NULL && !json_is_string(f->prompt))
        return api_refuse(e, ST_INVALID, "suffix", "suffix needs a prompt that is one string");
    TRY(api_call_read_prompts(c, "prompt", f->prompt, !f->has_add_special_tokens || f->add_special_tokens, e));
    for (int i = 0; i < c->n_prompts && f->echo && t != NULL; i++) {
        api_prompt *p = &c->prompts[i];
        if (p->text.len == 0 && shard_tokenizer_decode(t, p->ids.data, p->ids.n, f->skip_special_tokens, &p->text) != ST_OK)
            return api_refuse_message(e, ST_NO_MEMORY, "prompt");
    }
    TRY(api_grammar_make(f, NULL, &c->grammar, e));
    return api_call_make_sequences(c, e);
}

static void put_logprobs(const api_call *c, const api_sequence *s, api_sent *sent, mem_str *out)
{
    const api_logprobs *l = &s->logprobs;
    if (!c->want_logprobs) {
        mem_str_puts(out, "null");
        return;
    }
    mem_str_puts(out, "{\"text_offset\":[");
    api_put_entries(out, &l->offsets, sent == NULL ? NULL : &sent->offsets);
    mem_str_puts(out, "],\"token_logprobs\":[");
    api_put_entries(out, &l->values, sent == NULL ? NULL : &sent->values);
    mem_str_puts(out, "],\"tokens\":[");
    api_put_entries(out, &l->tokens, sent == NULL ? NULL : &sent->tokens);
    mem_str_puts(out, "],\"top_logprobs\":[");
    api_put_entries(out, &l->tops, sent == NULL ? NULL : &sent->tops);
    mem_str_puts(out, "]}");
}

/* A choice: all of it, or (sent) what is new. */
static void put_choice(const api_call *c, const api_sequence *s, api_sent *sent, mem_str *out)
{
    const mem_str *text = &api_parser_parts(s->parser)->content;
    size_t from = sent == NULL ? 0 : sent->content;
    mem_str_printf(out, "{\"index\":%d,\"text\":", s->prompt * c->n + s->choice);
    api_put_string(out, api_str(text) + from, text->len - from);
    mem_str_puts(out, ",\"logprobs\":");
    put_logprobs(c, s, sent, out);
    mem_str_puts(out, ",\"finish_reason\":");
    api_put_text(out, s->finish);
    mem_str_puts(out, ",\"stop_reason\":");
    api_put_stop_reason(s, out);
    api_put_tokens(c, s, sent == NULL ? NULL : &sent->ids, out);
    if (c->fields.return_token_ids && (sent == NULL || !sent->prompt)) {
        mem_str_puts(out, ",\"prompt_token_ids\":");
        api_put_ids(out, s->tokens.data, s->n_prompt);
    }
    if (c->fields.prompt_logprobs != API_ABSENT && (sent == NULL || !sent->prompt)) {
        mem_str_puts(out, ",\"prompt_logprobs\":[");
        mem_str_append(out, s->prompt_logprobs.len == 0 ? "null" : s->prompt_logprobs.data, s->prompt_logprobs.len == 0 ? 4 : s->prompt_logprobs.len);
        mem_str_putc(out, ']');
    }
    mem_str_putc(out, '}');
    if (sent != NULL) {
        sent->content = text->len;
        sent->prompt = true;
    }
}

static bool has_news(const api_call *c, const api_sequence *s)
{
    return s->ended || s->sent.content < api_parser_parts(s->parser)->content.len || s->sent.tokens < s->logprobs.tokens.len || c->fields.return_token_ids;
}

static void chunk(api_call *c, api_sequence *s, mem_str *out)
{
    if (!has_news(c, s))
        return;
    mem_str_puts(out, "data: ");
    mem_str_append(out, c->head.data, c->head.len);
    mem_str_puts(out, ",\"choices\":[");
    put_choice(c, s, &s->sent, out);
    mem_str_putc(out, ']');
    if (c->include_usage) {
        mem_str_puts(out, ",\"usage\":");
        if (c->continuous_usage)
            api_put_usage(c, out);
        else
            mem_str_puts(out, "null");
    }
    mem_str_puts(out, "}\n\n");
}

static void finish(api_call *c, mem_str *out)
{
    if (c->include_usage) {
        mem_str_puts(out, "data: ");
        mem_str_append(out, c->head.data, c->head.len);
        mem_str_puts(out, ",\"choices\":[],\"usage\":");
        api_put_usage(c, out);
        mem_str_puts(out, "}\n\n");
    }
    mem_str_puts(out, "data: [DONE]\n\n");
}

static void fail(api_call *c, mem_str *out)
{
    mem_str_puts(out, "data: ");
    api_error_json(&c->failure, out);
    mem_str_puts(out, "\n\ndata: [DONE]\n\n");
}

static void answer(const api_call *c, mem_str *out)
{
    api_put_head(c, c->ops->object, out);
    mem_str_puts(out, ",\"choices\":[");
    for (int i = 0; i < c->n_sequences; i++) {
        if (i > 0)
            mem_str_putc(out, ',');
        put_choice(c, &c->sequences[i], NULL, out);
    }
    mem_str_puts(out, "],\"usage\":");
    api_put_usage(c, out);
    mem_str_putc(out, '}');
}

const api_route_ops api_completions_ops = {
    .prefix = "cmpl-", .object = "text_completion", .chunk_object = "text_completion", .who = API_FOR_COMPLETIONS,
    .default_max_tokens = 16, .prepare = prepare, .chunk = chunk, .finish = finish, .fail = fail, .answer = answer,
};
