/* coordinator/gateway/api_answer.c - pieces that answers of several routes share: log-probabilities, usage, chunks. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/api_internal.h"

/* ---- log-probabilities ---- */

static void token_text(const api_call *c, int32_t token, mem_str *out)
{
    const shard_tokenizer *t = shard_text_tokenizer(c->model->text);
    mem_str_clear(out);
    if (t != NULL)
        shard_tokenizer_token_bytes(t, token, out);
}

static bool is_utf8(const mem_str *s)
{
    json_t *v = json_stringn(api_str(s), s->len);
    json_decref(v);
    return v != NULL;
}

/* How a token is called: its text, what OpenAI writes for half a character, or its id. */
static void put_token(const api_call *c, int32_t token, const mem_str *bytes, mem_str *out)
{
    char id[32];
    if (c->fields.return_tokens_as_token_ids) {
        snprintf(id, sizeof(id), "token_id:%d", token);
        api_put_text(out, id);
    } else if (c->ops == &api_completions_ops && !is_utf8(bytes)) {
        mem_str spelled = {0};
        mem_str_puts(&spelled, "bytes:");
        for (size_t i = 0; i < bytes->len; i++)
            mem_str_printf(&spelled, "\\x%02x", (unsigned char)bytes->data[i]);
        api_put_string(out, api_str(&spelled), spelled.len);
        mem_str_free(&spelled);
    } else {
        api_put_string(out, api_str(bytes), bytes->len);
    }
}

static void comma(mem_str *s)
{
    if (s->len > 0)
        mem_str_putc(s, ',');
}

/* {"token", "logprob", "bytes"}, without the closing brace. */
static void put_entry(const api_call *c, int32_t token, float logprob, mem_str *scratch, mem_str *out)
{
    token_text(c, token, scratch);
    mem_str_puts(out, "{\"token\":");
    put_token(c, token, scratch, out);
    mem_str_puts(out, ",\"logprob\":");
    api_put_float(out, (double)logprob);
    mem_str_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < scratch->len; i++)
        mem_str_printf(out, "%s%u", i == 0 ? "" : ",", (unsigned char)scratch->data[i]);
    mem_str_putc(out, ']');
}

static void record_chat(api_call *c, api_sequence *s, const Trireme__Event *ev)
{
    mem_str *out = &s->logprobs.entries, scratch = {0};
    comma(out);
    put_entry(c, ev->token, ev->logprob, &scratch, out);
    mem_str_puts(out, ",\"top_logprobs\":[");
    for (size_t i = 0; i < ev->n_top; i++) {
        if (i > 0)
            mem_str_putc(out, ',');
        put_entry(c, ev->top[i]->token, ev->top[i]->logprob, &scratch, out);
        mem_str_putc(out, '}');
    }
    mem_str_puts(out, "]}");
    mem_str_free(&scratch);
}

/* A map from tokens' texts; of equal texts the first, which is the likelier, counts.  first: the token itself. */
static void put_map(const api_call *c, const Trireme__Event *ev, mem_str *out)
{
    mem_str text = {0}, key = {0}, keys = {0};
    mem_str_putc(out, '{');
    for (size_t i = 0; i <= ev->n_top; i++) {
        int32_t token = i == 0 ? ev->token : ev->top[i - 1]->token;
        float logprob = i == 0 ? ev->logprob : ev->top[i - 1]->logprob;
        token_text(c, token, &text);
        mem_str_clear(&key);
        put_token(c, token, &text, &key);
        mem_str_putc(&key, '\n'); /* no key holds one unescaped */
        if (keys.len > 0 && memmem(keys.data, keys.len, key.data, key.len) != NULL)
            continue;
        mem_str_append(&keys, key.data, key.len);
        if (i > 0)
            mem_str_putc(out, ',');
        mem_str_append(out, key.data, key.len - 1);
        mem_str_putc(out, ':');
        api_put_float(out, (double)logprob);
    }
    mem_str_putc(out, '}');
    mem_str_free(&text);
    mem_str_free(&key);
    mem_str_free(&keys);
}

/* One token's place in the four lists of /v1/completions; ev NULL: a first token, about which nothing is known. */
static void record_lists(api_call *c, api_sequence *s, int32_t token, const Trireme__Event *ev)
{
    api_logprobs *l = &s->logprobs;
    mem_str text = {0};
    token_text(c, token, &text);
    comma(&l->tokens);
    put_token(c, token, &text, &l->tokens);
    comma(&l->values);
    comma(&l->tops);
    if (ev == NULL) {
        mem_str_puts(&l->values, "null");
        mem_str_puts(&l->tops, "null");
    } else {
        api_put_float(&l->values, (double)ev->logprob);
        put_map(c, ev, &l->tops);
    }
    comma(&l->offsets);
    mem_str_printf(&l->offsets, "%zu", l->n_characters);
    for (size_t i = 0; i < text.len; i++)
        l->n_characters += ((unsigned char)text.data[i] & 0xc0) != 0x80;
    mem_str_free(&text);
}

void api_call_record_logprobs(api_call *c, api_sequence *s, const Trireme__Event *ev)
{
    if (c->ops == &api_completions_ops)
        record_lists(c, s, ev->token, ev);
    else
        record_chat(c, s, ev);
}

static void put_rank(const Trireme__Event *ev, size_t i, mem_str *out)
{
    if (ev->top[i]->rank > 0)
        mem_str_printf(out, "%d", ev->top[i]->rank);
    else
        mem_str_printf(out, "%zu", i + 1);
}

void api_call_record_prompt_logprobs(api_call *c, api_sequence *s, const Trireme__Event *ev)
{
    mem_str *out = &s->prompt_logprobs, text = {0};
    bool listed = false;
    if (ev->index == 1)
        mem_str_puts(out, "null"); /* the first token has nothing before it */
    mem_str_puts(out, ",{");
    for (size_t i = 0; i <= ev->n_top; i++) {
        if (i == ev->n_top && listed)
            break;
        int32_t token = i < ev->n_top ? ev->top[i]->token : ev->token;
        listed = listed || token == ev->token;
        token_text(c, token, &text);
        mem_str_printf(out, "%s\"%d\":{\"logprob\":", i > 0 ? "," : "", token);
        api_put_float(out, (double)(i < ev->n_top ? ev->top[i]->logprob : ev->logprob));
        mem_str_puts(out, ",\"rank\":");
        if (i < ev->n_top)
            put_rank(ev, i, out);
        else
            mem_str_puts(out, "null");
        mem_str_puts(out, ",\"decoded_token\":");
        api_put_string(out, api_str(&text), text.len);
        mem_str_putc(out, '}');
    }
    mem_str_putc(out, '}');
    mem_str_free(&text);
    if (c->ops == &api_completions_ops && c->fields.echo && c->want_logprobs) {
        if (ev->index == 1)
            record_lists(c, s, s->tokens.data[0], NULL);
        record_lists(c, s, ev->token, ev);
    }
}

/* ---- pieces ---- */

void api_put_usage(const api_call *c, mem_str *out)
{
    api_call_usage u;
    api_call_usage_get(c, &u);
    mem_str_printf(out, "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d}}", u.prompt_tokens,
                   u.completion_tokens, u.prompt_tokens + u.completion_tokens, u.cached_tokens);
}

void api_put_stop_reason(const api_sequence *s, mem_str *out)
{
    if (s->stop != NULL)
        api_put_text(out, s->stop);
    else if (s->stop_token >= 0)
        mem_str_printf(out, "%d", s->stop_token);
    else
        mem_str_puts(out, "null");
}

void api_put_tokens(const api_call *c, const api_sequence *s, size_t *sent, mem_str *out)
{
    size_t n, from = sent == NULL ? 0 : *sent;
    const int32_t *ids = api_generated(s, &n);
    if (sent != NULL)
        *sent = n;
    if (!c->fields.return_token_ids)
        return;
    mem_str_puts(out, ",\"token_ids\":");
    api_put_ids(out, ids + from, n - from);
    if (s->ended)
        mem_str_printf(out, ",\"logits_hash\":\"%016llx\"", (unsigned long long)s->hash);
}

void api_put_entries(mem_str *out, const mem_str *from, size_t *sent)
{
    size_t at = sent == NULL ? 0 : *sent;
    if (at > 0 && at < from->len)
        at++; /* the comma */
    if (at < from->len)
        mem_str_append(out, from->data + at, from->len - at);
    if (sent != NULL)
        *sent = from->len;
}

void api_put_head(const api_call *c, const char *object, mem_str *out)
{
    mem_str_puts(out, "{\"id\":");
    api_put_text(out, c->id);
    mem_str_printf(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object, (long long)c->created);
    api_put_text(out, c->model->name);
    mem_str_puts(out, ",\"system_fingerprint\":");
    api_put_text(out, c->model->fingerprint);
}

void api_put_data(mem_str *out, const char *json, size_t len)
{
    mem_str_puts(out, "data: ");
    mem_str_append(out, json, len);
    mem_str_puts(out, "\n\n");
}
