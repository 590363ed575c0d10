/* coordinator/gateway/api.c - a call's life: made from a body, fed with events, asked for its answer. */
#include "coordinator/gateway/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/mem.h"
#include "coordinator/gateway/api_internal.h"

enum { MAX_NESTING = 128, MAX_REQUEST_ID = 128, DEFAULT_MAX_SEQUENCES = 128 };
#define MAX_BODY ((size_t)64 << 20)

static const api_route_ops *const routes[] = {
    [API_COMPLETIONS] = &api_completions_ops, [API_CHAT] = &api_chat_ops, [API_RESPONSES] = &api_responses_ops,
    [API_EMBEDDINGS] = &api_embeddings_ops,   [API_TOKENIZE] = &api_tokenize_ops, [API_DETOKENIZE] = &api_detokenize_ops,
};

void api_error_json(const api_error *e, mem_str *out)
{
    mem_str_puts(out, "{\"error\":{\"message\":");
    api_put_text(out, e->message);
    mem_str_puts(out, ",\"type\":");
    api_put_text(out, e->type);
    mem_str_puts(out, ",\"param\":");
    api_put_text(out, e->param[0] == '\0' ? NULL : e->param);
    mem_str_puts(out, ",\"code\":");
    api_put_text(out, e->code);
    mem_str_puts(out, "}}");
}

/* ---- making ---- */

/* Deeper nesting than any request needs is refused before a parser that recurses sees it. */
static bool nests_too_deep(const char *s, size_t len)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        if (in_string) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                in_string = false;
        } else if (s[i] == '"') {
            in_string = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > MAX_NESTING)
                return true;
        } else if (s[i] == '}' || s[i] == ']') {
            depth--;
        }
    }
    return false;
}

static status parse_body(const char *body, size_t len, json_t **out, api_error *e)
{
    if (len > MAX_BODY) {
        status st = api_refuse(e, ST_LIMIT, NULL, "the body has %zu bytes; at most %zu are accepted", len, MAX_BODY);
        e->http = 413;
        return st;
    }
    if (nests_too_deep(body, len))
        return api_refuse(e, ST_LIMIT, NULL, "the body nests deeper than %d levels", MAX_NESTING);
    status_mute();
    status st = json_parse("the body", body, len, out);
    status_unmute();
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, NULL);
}

status api_body_model(const char *body, size_t len, char *out, size_t cap)
{
    json_t *o = NULL;
    api_error e;
    out[0] = '\0';
    TRY(parse_body(body, len, &o, &e));
    const char *name = json_string_value(json_object_get(o, "model"));
    if (name != NULL)
        snprintf(out, cap, "%s", name);
    json_decref(o);
    return ST_OK;
}

static bool plain_id(const char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)s[i] <= ' ' || (unsigned char)s[i] >= 0x7f || s[i] == '"' || s[i] == '\\')
            return false;
    }
    return n > 0 && n <= MAX_REQUEST_ID;
}

static status read_stream_options(api_call *c, api_error *e)
{
    const char *key;
    json_t *v;
    if (c->fields.stream_options != NULL && !c->stream)
        return api_refuse(e, ST_INVALID, "stream_options", "stream_options needs stream to be true");
    json_object_foreach((json_t *)c->fields.stream_options, key, v)
    {
        bool *to = strcmp(key, "include_usage") == 0 ? &c->include_usage : strcmp(key, "continuous_usage_stats") == 0 ? &c->continuous_usage : NULL;
        if (to == NULL && strcmp(key, "include_obfuscation") == 0 && (json_is_false(v) || json_is_null(v)))
            continue;
        if (to == NULL || (!json_is_boolean(v) && !json_is_null(v)))
            return api_refuse(e, ST_INVALID, "stream_options", "stream_options.%.40s is not supported (include_usage and continuous_usage_stats are, true or false)", key);
        *to = json_is_true(v);
    }
    c->continuous_usage = c->continuous_usage && c->include_usage;
    return ST_OK;
}

static status check_model(const api_call *c, api_error *e)
{
    if (c->fields.model == NULL || c->fields.model[0] == '\0' || strcmp(c->fields.model, c->model->name) == 0)
        return ST_OK;
    api_refuse(e, ST_NOT_FOUND, "model", "the model \"%.128s\" does not exist here: \"%.128s\" does", c->fields.model, c->model->name);
    e->http = 404;
    e->code = "model_not_found";
    return ST_NOT_FOUND;
}

static status make(api_call *c, const char *body, size_t len, api_error *e)
{
    c->options.max_sequences = c->options.max_sequences > 0 ? c->options.max_sequences : DEFAULT_MAX_SEQUENCES;
    TRY(parse_body(body, len, &c->body, e));
    TRY(api_fields_read(c->ops->who, c->body, &c->fields, e));
    TRY(check_model(c, e));
    const char *id = c->fields.request_id != NULL ? c->fields.request_id : c->options.request_id;
    if (id == NULL || !plain_id(id))
        return api_refuse(e, ST_INVALID, "request_id", "a request id has 1 to %d printable characters without blanks and quotes", MAX_REQUEST_ID);
    snprintf(c->id, sizeof(c->id), "%s%s", c->ops->prefix, id);
    c->options.request_id = NULL;
    c->created = (int64_t)time(NULL);
    c->stream = c->fields.stream;
    c->n = c->fields.n == API_ABSENT ? 1 : c->fields.n;
    c->limits = (api_limits){c->model->vocab, c->model->max_model_len, c->ops->default_max_tokens};
    TRY(read_stream_options(c, e));
    TRY(c->ops->prepare(c, e));
    api_put_head(c, c->ops->chunk_object, &c->head);
    return c->head.failed ? api_refuse(e, ST_NO_MEMORY, NULL, "no memory for a request") : ST_OK;
}

status api_call_create(api_route route, const char *body, size_t len, const api_call_options *options, api_call **out, api_error *error)
{
    api_call *c;
    *error = (api_error){0};
    status_mute();
    status st = mem_calloc(1, sizeof(*c), "request", &c);
    status_unmute();
    if (st != ST_OK)
        return api_refuse_message(error, st, NULL);
    c->ops = routes[route];
    c->options = *options;
    c->model = options->model;
    st = make(c, body, len, error);
    if (st != ST_OK)
        api_call_destroy(&c);
    else
        *out = c;
    return st;
}

static void free_sequence(const api_call *c, api_sequence *s)
{
    if (c->ops->drop != NULL)
        c->ops->drop(s);
    shard_ids_free(&s->tokens);
    api_text_destroy(&s->text);
    api_parser_destroy(&s->parser);
    mem_str_free(&s->logprobs.entries);
    mem_str_free(&s->logprobs.tokens);
    mem_str_free(&s->logprobs.values);
    mem_str_free(&s->logprobs.tops);
    mem_str_free(&s->logprobs.offsets);
    mem_str_free(&s->prompt_logprobs);
    free(s->embedding);
    free(s->items);
}

void api_call_destroy(api_call **cp)
{
    api_call *c = *cp;
    if (c == NULL)
        return;
    for (int i = 0; i < c->n_sequences; i++)
        free_sequence(c, &c->sequences[i]);
    for (int i = 0; i < c->n_prompts; i++) {
        shard_ids_free(&c->prompts[i].ids);
        mem_str_free(&c->prompts[i].text);
    }
    free(c->sequences);
    free(c->prompts);
    api_sampling_free(&c->sampling);
    mem_str_free(&c->grammar);
    mem_str_free(&c->head);
    mem_str_free(&c->made);
    mem_str_free(&c->lead);
    json_decref(c->messages);
    json_decref(c->tools);
    json_decref(c->items);
    json_decref(c->body);
    free(c);
    *cp = NULL;
}

/* ---- asking ---- */

int api_call_n_sequences(const api_call *c)
{
    return c->n_sequences;
}

const Trireme__Submit *api_call_sequence(const api_call *c, int i)
{
    api_sequence *s = &c->sequences[i];
    s->submit.tokens = s->tokens.data;
    s->submit.n_tokens = s->tokens.n;
    s->submit.n_prompt = (int32_t)s->n_prompt;
    s->submit.hash = s->hash;
    return &s->submit;
}

bool api_call_streams(const api_call *c)
{
    return c->stream;
}

const char *api_call_id(const api_call *c)
{
    return c->id;
}

bool api_call_ended(const api_call *c)
{
    return c->ready || c->failed || c->n_ended == c->n_sequences;
}

const int32_t *api_call_tokens(const api_call *c, int i, int32_t *n, uint64_t *hash)
{
    const api_sequence *s = &c->sequences[i];
    *n = (int32_t)s->tokens.n;
    *hash = s->hash;
    return s->tokens.data;
}

void api_call_usage_get(const api_call *c, api_call_usage *out)
{
    *out = (api_call_usage){.n = c->n};
    for (int i = 0; i < c->n_sequences; i++) {
        const api_sequence *s = &c->sequences[i];
        size_t generated;
        api_generated(s, &generated);
        out->completion_tokens += (int32_t)generated;
        out->max_tokens = s->sampling.max_tokens > out->max_tokens ? s->sampling.max_tokens : out->max_tokens;
        if (s->choice == 0) {
            out->prompt_tokens += (int32_t)s->n_prompt;
            out->cached_tokens += s->cached_tokens;
        }
    }
    out->finish = c->failed ? "error" : c->n_sequences > 0 ? c->sequences[0].finish : NULL;
}

status api_call_answer(const api_call *c, mem_str *out, int *http)
{
    *http = c->failed ? c->failure.http : 200;
    if (c->failed)
        api_error_json(&c->failure, out);
    else if (c->ready)
        mem_str_append(out, c->made.data, c->made.len);
    else
        c->ops->answer(c, out);
    return out->failed ? FAIL(ST_NO_MEMORY, "no memory for an answer") : ST_OK;
}

/* ---- events ---- */

static status push_token(api_sequence *s, int32_t token)
{
    TRY(mem_grow(&s->tokens.data, &s->tokens.cap, s->tokens.n + 1, sizeof(*s->tokens.data), "tokens"));
    s->tokens.data[s->tokens.n++] = token;
    return ST_OK;
}

static bool is_eos(const api_call *c, int32_t token)
{
    for (int32_t i = 0; i < c->sampling.n_eos; i++) {
        if (c->sampling.stop[i] == token)
            return true;
    }
    return false;
}

static status end_sequence(api_call *c, api_sequence *s, const char *finish)
{
    TRY(api_parser_end(s->parser));
    bool called = api_parser_parts(s->parser)->n_calls > 0 && c->parsing.calls != API_CALLS_ONE;
    s->finish = called && strcmp(finish, "stop") == 0 ? "tool_calls" : finish;
    s->ended = true;
    c->n_ended++;
    return ST_OK;
}

static status take_token(api_call *c, api_sequence *s, const Trireme__Event *event, bool *cancel)
{
    bool stopped = false, done = false;
    size_t n;
    TRY(push_token(s, event->token));
    s->hash = event->hash;
    if (event->index == 0)
        s->cached_tokens = event->cached_tokens;
    if (s->discard) {
        *cancel = event->finish == 0;
        return end_sequence(c, s, "length");
    }
    TRY(api_text_push(s->text, event->token, event->finish, &stopped));
    if (c->want_logprobs)
        api_call_record_logprobs(c, s, event);
    const char *text = api_text_take(s->text, &n);
    size_t thought = api_parser_parts(s->parser)->reasoning.len;
    TRY(api_parser_push(s->parser, text, n, &done));
    s->n_reasoning += api_parser_parts(s->parser)->reasoning.len > thought;
    if (stopped)
        s->stop = api_text_stop(s->text);
    else if (event->finish == 1 && !is_eos(c, event->token))
        s->stop_token = event->token;
    if (!stopped && !done && event->finish == 0)
        return ST_OK;
    *cancel = event->finish == 0;
    return end_sequence(c, s, stopped || done || event->finish == 1 ? "stop" : "length");
}

static status take_embedding(api_call *c, api_sequence *s, const Trireme__Event *event)
{
    if (event->n_embedding != (size_t)c->model->embedding_dim)
        return FAIL(ST_FORMAT, "an embedding of %zu numbers instead of %d", event->n_embedding, c->model->embedding_dim);
    TRY(mem_calloc(event->n_embedding, sizeof(float), "embedding", &s->embedding));
    memcpy(s->embedding, event->embedding, event->n_embedding * sizeof(float));
    s->n_embedding = event->n_embedding;
    s->cached_tokens = event->cached_tokens;
    s->finish = "stop";
    s->ended = true;
    c->n_ended++;
    return ST_OK;
}

static status take(api_call *c, api_sequence *s, const Trireme__Event *event, bool *cancel)
{
    int32_t have = (int32_t)(s->tokens.n - s->n_prompt);
    if (s->submit.pooling != TRIREME__POOLING__GENERATE)
        return take_embedding(c, s, event);
    if (event->prompt) {
        if (event->index != s->n_prompt_events + 1 || event->index >= (int32_t)s->n_prompt || s->sampling.n_prompt_logprobs < 0)
            return event->index <= s->n_prompt_events ? ST_OK : FAIL(ST_FORMAT, "a prompt token's event out of order");
        s->n_prompt_events++;
        api_call_record_prompt_logprobs(c, s, event);
        return ST_OK;
    }
    if (event->index < have)
        return ST_OK; /* known before a replay */
    if (event->index > have || event->token < 0 || event->token >= c->model->vocab)
        return FAIL(ST_FORMAT, "token %d of a sequence came where token %d was due", event->index, have);
    return take_token(c, s, event, cancel);
}

status api_call_event(api_call *c, int i, const Trireme__Event *event, mem_str *out, bool *cancel)
{
    api_sequence *s = &c->sequences[i];
    int32_t before = (int32_t)s->tokens.n;
    *cancel = false;
    if (s->ended || c->failed)
        return ST_OK;
    TRY(take(c, s, event, cancel));
    if (!c->stream || (int32_t)s->tokens.n == before)
        return ST_OK;
    c->ops->chunk(c, s, out);
    if (c->n_ended == c->n_sequences)
        c->ops->finish(c, out);
    return out->failed ? FAIL(ST_NO_MEMORY, "no memory for a stream") : ST_OK;
}

void api_call_fail(api_call *c, const api_error *error, mem_str *out)
{
    if (api_call_ended(c))
        return;
    c->failed = true;
    c->failure = *error;
    if (c->stream)
        c->ops->fail(c, out);
}
