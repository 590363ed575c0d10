/* tests/gateway/api_lines.c - calls of the API from lines of JSON, with a replica that says what the line tells it to: the tests' way in.
 *
 * In:  {"route": "chat", "body": {...} | "raw": "...", "answers": ["text of sequence 0", ...], "finish": "stop" | "length" | N (an end token) | null (goes on),
 *       "template": "...", "templates": {...}, "tokens": [[...]], "fail": "message", "replay": true, "dim": N, "embedding": [...], "max_model_len": N,
 *       "store": {"resp_1": [...]}, "fim": true}
 * Out: {"error": {...}, "http": N} or {"requests": [...], "answer": ..., "http": N, "sse": "...", "cancelled": [...], "usage": {...}, "conversation": [...]}
 *
 * The tokenizer has a token for each byte, 256 and up are the words in `specials`, then "ab", " the". */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/gateway/api.h"
#include "tests/gateway/api_fixture.h"

static const char *const route_names[] = {"completions", "chat", "responses", "embeddings", "tokenize", "detokenize"};

typedef struct line {
    const json_t *in;
    json_t *out;
    api_model model;
    api_call *call;
    mem_str sse;
    json_t *cancelled;
} line;

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *request_json(const Trireme__Submit *s)
{
    const Trireme__Sampling *p = s->sampling;
    json_t *bias = json_array(), *words = json_array();
    for (size_t i = 0; i < p->n_bias_tokens; i++)
        json_array_append_new(bias, json_pack("[if]", p->bias_tokens[i], (double)p->bias_values[i]));
    for (size_t i = 0; i < p->n_bad_words; i++)
        json_array_append_new(words, ids_json(p->bad_words[i]->tokens, p->bad_words[i]->n_tokens));
    json_t *o = json_pack("{so si si sI ss# si sb}", "tokens", ids_json(s->tokens, s->n_tokens), "n_prompt", s->n_prompt, "priority", s->priority, "hash",
                          (json_int_t)s->hash, "cache_salt", s->cache_salt.len == 0 ? "" : (const char *)s->cache_salt.data, (int)s->cache_salt.len, "pooling",
                          (int)s->pooling, "normalize", s->normalize);
    json_object_update_new(o, json_pack("{sf si sf sf sf sf sf sI sI si si si si}", "temperature", (double)p->temperature, "top_k", p->top_k, "top_p", (double)p->top_p,
                                        "min_p", (double)p->min_p, "repetition_penalty", (double)p->repetition_penalty, "presence_penalty",
                                        (double)p->presence_penalty, "frequency_penalty", (double)p->frequency_penalty, "seed", (json_int_t)p->seed, "choice",
                                        (json_int_t)p->choice, "n_logprobs", p->n_logprobs, "n_prompt_logprobs", p->n_prompt_logprobs, "min_tokens",
                                        p->min_tokens, "max_tokens", p->max_tokens));
    json_object_set_new(o, "stop", ids_json(p->stop, p->n_stop));
    json_object_set_new(o, "bias", bias);
    json_object_set_new(o, "bad_words", words);
    json_object_set_new(o, "allowed", ids_json(p->allowed_tokens, p->n_allowed_tokens));
    json_object_set_new(o, "logprob_tokens", ids_json(p->logprob_tokens, p->n_logprob_tokens));
    json_object_set_new(o, "grammar", json_integer((json_int_t)p->grammar.len));
    return o;
}

/* ---- events ---- */

enum { MAX_TOP = 32 };

typedef struct made_event {
    Trireme__Event event;
    Trireme__LogProb top[MAX_TOP], *pointers[MAX_TOP];
} made_event;

static void make_event(const line *l, made_event *m, const Trireme__Sampling *p, bool prompt, int32_t index, int32_t token)
{
    trireme__event__init(&m->event);
    m->event.prompt = prompt;
    m->event.index = index;
    m->event.token = token;
    m->event.hash = (uint64_t)(1000 + index);
    m->event.logprob = -0.25f * (float)(1 + index % 8);
    m->event.cached_tokens = 3;
    int32_t n = prompt ? p->n_prompt_logprobs : p->n_logprobs, i;
    for (i = 0; i < n && i < MAX_TOP; i++) {
        trireme__log_prob__init(&m->top[i]);
        m->top[i].token = (token + i) % l->model.vocab;
        m->top[i].logprob = m->event.logprob - (float)i;
        m->top[i].rank = i + 1;
        m->pointers[i] = &m->top[i];
    }
    for (size_t k = 0; !prompt && k < p->n_logprob_tokens && i < MAX_TOP; k++, i++) {
        trireme__log_prob__init(&m->top[i]);
        m->top[i].token = p->logprob_tokens[k];
        m->top[i].logprob = -INFINITY;
        m->pointers[i] = &m->top[i];
    }
    m->event.n_top = (size_t)(i > 0 ? i : 0);
    m->event.top = m->pointers;
}

static status send(line *l, int i, const Trireme__Event *e)
{
    bool cancel = false;
    TRY(api_call_event(l->call, i, e, &l->sse, &cancel));
    if (cancel)
        json_array_append_new(l->cancelled, json_integer(i));
    return ST_OK;
}

static status send_prompt(line *l, int i)
{
    const Trireme__Submit *s = api_call_sequence(l->call, i);
    for (int32_t k = 1; s->sampling->n_prompt_logprobs >= 0 && k < s->n_prompt; k++) {
        made_event m;
        make_event(l, &m, s->sampling, true, k, s->tokens[k]);
        TRY(send(l, i, &m.event));
    }
    return ST_OK;
}

/* One token of sequence i; false: it has no more. */
static bool next_token(const line *l, int i, size_t at, const shard_ids *ids, int32_t *token, uint32_t *finish)
{
    const json_t *how = json_object_get(l->in, "finish");
    const char *word = json_string_value(how);
    int32_t max = api_call_sequence(l->call, i)->sampling->max_tokens;
    *finish = (int32_t)at + 1 == max ? 2 : 0;
    if (at < ids->n) {
        *token = ids->data[at];
        if (word != NULL && strcmp(word, "length") == 0 && at + 1 == ids->n)
            *finish = 2;
        return true;
    }
    *token = json_is_integer(how) ? (int32_t)json_integer_value(how) : fixture_eos;
    *finish = 1;
    return at == ids->n && !(json_is_null(how) && how != NULL);
}

static status send_tokens(line *l, int i, const shard_ids *ids)
{
    const Trireme__Submit *s = api_call_sequence(l->call, i);
    int32_t token;
    uint32_t finish = 0;
    if (s->pooling != TRIREME__POOLING__GENERATE) {
        const json_t *list = json_object_get(l->in, "embedding");
        float v[64];
        made_event m;
        make_event(l, &m, s->sampling, false, 0, 0);
        for (size_t k = 0; k < 64; k++)
            v[k] = (float)json_number_value(json_array_get(list, k));
        m.event.embedding = v;
        m.event.n_embedding = json_array_size(list);
        m.event.finish = 1;
        return send(l, i, &m.event);
    }
    for (size_t at = 0; finish == 0 && next_token(l, i, at, ids, &token, &finish); at++) {
        made_event m;
        make_event(l, &m, s->sampling, false, (int32_t)at, token);
        m.event.finish = finish;
        TRY(send(l, i, &m.event));
        if (json_is_true(json_object_get(l->in, "replay")) && finish == 0) /* the same again, as after a replica's death */
            TRY(send(l, i, &m.event));
    }
    return ST_OK;
}

static status answer_sequence(line *l, int i)
{
    const json_t *texts = json_object_get(l->in, "answers"), *lists = json_object_get(l->in, "tokens");
    const json_t *text = json_array_get(texts, (size_t)i % (json_array_size(texts) > 0 ? json_array_size(texts) : 1));
    shard_ids ids = {0};
    size_t k;
    json_t *v;
    status st = ST_OK;
    if (lists != NULL) {
        ids.data = calloc(json_array_size(json_array_get(lists, 0)) + 1, sizeof(int32_t));
        json_array_foreach(json_array_get(lists, 0), k, v)
            ids.data[ids.n++] = (int32_t)json_integer_value(v);
    } else {
        st = shard_tokenizer_encode(shard_text_tokenizer(l->model.text), json_is_string(text) ? json_string_value(text) : "",
                                    json_is_string(text) ? json_string_length(text) : 0, 0, &ids);
    }
    if (st == ST_OK)
        st = send_prompt(l, i);
    if (st == ST_OK)
        st = send_tokens(l, i, &ids);
    shard_ids_free(&ids);
    return st;
}

/* ---- a line ---- */

static json_t *find_response(void *arg, const char *id)
{
    const line *l = arg;
    return json_incref(json_object_get(json_object_get(l->in, "store"), id));
}

static void put_answer(line *l)
{
    mem_str text = {0};
    int http;
    json_t *v = NULL;
    if (api_call_answer(l->call, &text, &http) == ST_OK)
        v = json_loadb(text.data, text.len, JSON_REJECT_DUPLICATES, NULL);
    json_object_set_new(l->out, "answer", v != NULL ? v : json_pack("{ss}", "is no JSON", text.data == NULL ? "" : text.data));
    json_object_set_new(l->out, "http", json_integer(http));
    mem_str_free(&text);
    json_t *conversation = api_call_conversation(l->call);
    if (conversation != NULL)
        json_object_set_new(l->out, "conversation", conversation);
    api_call_usage u;
    api_call_usage_get(l->call, &u);
    json_object_set_new(l->out, "usage", json_pack("{si si si si si ss?}", "prompt", u.prompt_tokens, "completion", u.completion_tokens, "cached", u.cached_tokens,
                                                   "n", u.n, "max", u.max_tokens, "finish", u.finish));
}

static void run_call(line *l)
{
    json_t *requests = json_array();
    status st = ST_OK;
    for (int i = 0; i < api_call_n_sequences(l->call); i++)
        json_array_append_new(requests, request_json(api_call_sequence(l->call, i)));
    json_object_set_new(l->out, "requests", requests);
    json_object_set_new(l->out, "id", json_string(api_call_id(l->call)));
    for (int i = 0; i < api_call_n_sequences(l->call) && st == ST_OK; i++)
        st = answer_sequence(l, i);
    const char *fail = json_string_value(json_object_get(l->in, "fail"));
    if (fail != NULL) {
        api_error e = {.http = 500, .type = "server_error"};
        snprintf(e.message, sizeof(e.message), "%s", fail);
        api_call_fail(l->call, &e, &l->sse);
    }
    if (st != ST_OK)
        json_object_set_new(l->out, "event_error", json_string(status_message()));
    json_object_set_new(l->out, "ended", json_boolean(api_call_ended(l->call)));
    if (api_call_ended(l->call))
        put_answer(l);
    json_object_set_new(l->out, "sse", json_stringn(l->sse.data == NULL ? "" : l->sse.data, l->sse.len));
}

static int route_of(const json_t *in)
{
    const char *name = json_string_value(json_object_get(in, "route"));
    for (int i = 0; name != NULL && i < (int)ARRAY_LEN(route_names); i++) {
        if (strcmp(route_names[i], name) == 0)
            return i;
    }
    return API_CHAT;
}

static json_t *run_line(const json_t *in)
{
    line l = {.in = in, .out = json_object(), .cancelled = json_array()};
    const json_t *raw = json_object_get(in, "raw"), *limit = json_object_get(in, "max_model_len"), *dim = json_object_get(in, "dim");
    shard_text *text = fixture_text(json_string_value(json_object_get(in, "template")), json_object_get(in, "templates"), !json_is_false(json_object_get(in, "fim")));
    l.model = fixture_model(text);
    l.model.max_model_len = json_is_integer(limit) ? (int32_t)json_integer_value(limit) : l.model.max_model_len;
    l.model.embedding_dim = json_is_integer(dim) ? (int32_t)json_integer_value(dim) : 0;
    char *body = raw != NULL ? strdup(json_string_value(raw)) : json_line(json_object_get(in, "body"));
    api_call_options options = {.model = &l.model, .request_id = "1"};
    if (json_object_get(in, "store") != NULL)
        options.store = (api_store){find_response, &l};
    api_error e;
    if (api_call_create((api_route)route_of(in), body, strlen(body), &options, &l.call, &e) == ST_OK) {
        run_call(&l);
        api_call_destroy(&l.call);
    } else {
        mem_str error = {0};
        api_error_json(&e, &error);
        json_object_set_new(l.out, "http", json_integer(e.http));
        json_object_update_new(l.out, json_loads(error.data, 0, NULL));
        mem_str_free(&error);
    }
    json_object_set_new(l.out, "cancelled", l.cancelled);
    mem_str_free(&l.sse);
    shard_text_destroy(&text);
    free(body);
    return l.out;
}

int main(void)
{
    char *text = NULL;
    size_t cap = 0;
    ssize_t n;
    status_mute();
    while ((n = getline(&text, &cap, stdin)) > 0) {
        json_t *in = json_loadb(text, (size_t)n, 0, NULL), *out = in == NULL ? json_pack("{ss}", "error", "no JSON") : run_line(in);
        char *printed = json_dumps(out, JSON_COMPACT | JSON_ENCODE_ANY);
        puts(printed == NULL ? "{}" : printed);
        fflush(stdout);
        free(printed);
        json_decref(in);
        json_decref(out);
    }
    free(text);
    return 0;
}
