/* coordinator/gateway/api_tokenize.c - POST /tokenize and /detokenize: answered here, with nothing to submit. */
#include <string.h>

#include "coordinator/gateway/api_internal.h"

static status made(api_call *c, api_error *e)
{
    c->ready = true;
    return c->made.failed ? api_refuse(e, ST_NO_MEMORY, NULL, "no memory for an answer") : ST_OK;
}

static void put_spellings(const api_call *c, const shard_ids *ids, mem_str *out)
{
    const shard_tokenizer *t = shard_text_tokenizer(c->model->text);
    mem_str_puts(out, ",\"token_strs\":[");
    for (size_t i = 0; i < ids->n; i++) {
        size_t len = 0;
        const char *s = t == NULL ? NULL : shard_tokenizer_token(t, ids->data[i], &len);
        if (i > 0)
            mem_str_putc(out, ',');
        api_put_string(out, s == NULL ? "" : s, len);
    }
    mem_str_putc(out, ']');
}

static status tokens_of(api_call *c, api_prompt *p, api_error *e)
{
    const api_fields *f = &c->fields;
    if ((f->prompt != NULL) + (f->messages != NULL) != 1)
        return api_refuse(e, ST_INVALID, "prompt", "exactly one of prompt and messages is needed");
    if (f->prompt != NULL) {
        if (!json_is_string(f->prompt))
            return api_refuse(e, ST_INVALID, "prompt", "prompt must be a string");
        return api_prompt_text("prompt", json_string_value(f->prompt), json_string_length(f->prompt), !f->has_add_special_tokens || f->add_special_tokens, c->model->text,
                               &p->ids, e);
    }
    if (f->tools != NULL)
        TRY(api_tools_check(f->tools, e));
    const api_chat chat = {.messages = f->messages, .tools = json_array_size(f->tools) > 0 ? f->tools : NULL, .messages_name = "messages"};
    return api_prompt_chat(f, &chat, c->model->text, &p->text, &p->ids, e);
}

static status tokenize(api_call *c, api_error *e)
{
    api_prompt *p;
    TRY(api_call_add_prompt(c, &p, e));
    TRY(tokens_of(c, p, e));
    mem_str_printf(&c->made, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":", p->ids.n, c->model->max_model_len);
    api_put_ids(&c->made, p->ids.data, p->ids.n);
    if (c->fields.return_token_strs)
        put_spellings(c, &p->ids, &c->made);
    else
        mem_str_puts(&c->made, ",\"token_strs\":null");
    mem_str_putc(&c->made, '}');
    return made(c, e);
}

static status detokenize(api_call *c, api_error *e)
{
    const shard_tokenizer *t = shard_text_tokenizer(c->model->text);
    shard_ids ids = {0};
    mem_str text = {0};
    if (c->fields.tokens == NULL)
        return api_refuse(e, ST_INVALID, "tokens", "tokens is missing");
    if (t == NULL)
        return api_refuse(e, ST_NOT_FOUND, "tokens", "the checkpoint brings no tokenizer");
    status st = api_token_ids("tokens", c->fields.tokens, c->model->vocab, &ids, e);
    if (st == ST_OK && shard_tokenizer_decode(t, ids.data, ids.n, false, &text) != ST_OK)
        st = api_refuse_message(e, ST_NO_MEMORY, "tokens");
    if (st == ST_OK) {
        mem_str_puts(&c->made, "{\"prompt\":");
        api_put_string(&c->made, api_str(&text), text.len);
        mem_str_putc(&c->made, '}');
        st = made(c, e);
    }
    shard_ids_free(&ids);
    mem_str_free(&text);
    return st;
}

const api_route_ops api_tokenize_ops = {.prefix = "tok-", .object = "", .chunk_object = "", .who = API_FOR_TOKENIZE, .prepare = tokenize};
const api_route_ops api_detokenize_ops = {.prefix = "detok-", .object = "", .chunk_object = "", .who = API_FOR_DETOKENIZE, .prepare = detokenize};
