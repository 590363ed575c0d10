/* A call on the workers: from its body to what is submitted, and from tokens to what the client reads. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/gateway/gateway_internal.h"

enum {
    CHARGE_TOKENS = 32,   /* generated tokens are charged to the key so many at a time */
    MAX_EMBEDDINGS = 2048 /* inputs of one request, as clients have come to expect */
};

static void call_destroy(call *c)
{
    gateway *g = c->g;
    api_call_destroy(&c->api);
    gateway_model_release(&c->model);
    free(c->submits);
    free(c->prompts);
    free(c->hashes);
    free(c->hash_first);
    free(c->token_ns);
    free(c->entries);
    free(c->ranks);
    mem_str_free(&c->out);
    gateway_actor_destroy(&c->actor);
    gateway_actor_destroy(&c->maker);
    free(c);
    atomic_fetch_sub(&g->n_calls, 1);
}

/* ---- metrics and log ---- */

static metrics_series *series(const call *c, metrics_id id, const char *third)
{
    const char *labels[3] = {c->model->name, c->replica, third};
    return metrics_get(c->g->metrics, id, labels);
}

static double seconds_between(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-9 : 0;
}

static void observe(const call *c, metrics_id id, double value)
{
    metrics_observe(series(c, id, NULL), value);
}

static void count_end(const call *c, const api_call_usage *u, const char *finish)
{
    uint64_t now = http_now();
    double decode = seconds_between(c->first_token_ns, c->last_token_ns);
    metrics_add(series(c, METRIC_REQUEST_SUCCESS, finish), 1);
    if (c->n_tokens == 0)
        return;
    observe(c, METRIC_E2E_REQUEST_LATENCY, seconds_between(c->arrived_ns, now));
    observe(c, METRIC_REQUEST_PROMPT_TOKENS, u->prompt_tokens);
    observe(c, METRIC_REQUEST_PREFILL_KV_COMPUTED, u->prompt_tokens - u->cached_tokens);
    observe(c, METRIC_REQUEST_GENERATION_TOKENS, u->completion_tokens);
    observe(c, METRIC_REQUEST_MAX_GENERATION_TOKENS, c->most_tokens);
    observe(c, METRIC_REQUEST_PARAMS_N, u->n);
    observe(c, METRIC_REQUEST_PARAMS_MAX_TOKENS, u->max_tokens);
    observe(c, METRIC_REQUEST_QUEUE_TIME, c->queue_seconds);
    observe(c, METRIC_REQUEST_PREFILL_TIME, c->prefill_seconds);
    observe(c, METRIC_REQUEST_DECODE_TIME, decode);
    observe(c, METRIC_REQUEST_INFERENCE_TIME, c->prefill_seconds + decode);
    if (c->most_tokens > 1)
        observe(c, METRIC_REQUEST_TIME_PER_OUTPUT_TOKEN, decode / (c->most_tokens - 1));
}

static void note_end(call *c, const api_call_usage *u, const char *finish)
{
    access_note n = ACCESS_NOTE_NONE;
    n.model = c->model->name;
    n.digest = c->model->digest;
    n.adapter = "";
    n.build = c->model->build;
    n.split = c->model->split;
    n.replica = c->replica[0] != '\0' ? c->replica : NULL;
    n.finish = finish;
    n.prompt_tokens = u->prompt_tokens;
    n.completion_tokens = u->completion_tokens;
    n.cached_tokens = u->cached_tokens;
    n.n = u->n;
    n.replays = (int32_t)c->replays;
    if (c->n_tokens > 0) {
        n.queue_ms = c->queue_seconds * 1e3;
        n.ttft_ms = seconds_between(c->arrived_ns, c->first_token_ns) * 1e3;
        n.generation_ms = seconds_between(c->first_token_ns, c->last_token_ns) * 1e3;
    }
    char *text = access_note_text(&n);
    if (text != NULL)
        http_request_note(c->request, &text);
}

static void trace_end(const call *c, const api_call_usage *u, const char *finish, const char *error)
{
    static const char *const paths[] = {[API_COMPLETIONS] = "/v1/completions", [API_CHAT] = "/v1/chat/completions", [API_RESPONSES] = "/v1/responses", [API_EMBEDDINGS] = "/v1/embeddings"};
    const char *path = (size_t)c->route < ARRAY_LEN(paths) && paths[c->route] != NULL ? paths[c->route] : "";
    if (c->g->otlp != NULL)
        spans_request(c, path, c->request != NULL ? http_request_name(c->request) : NULL, u, finish, error);
}

static void charge(call *c)
{
    if (c->caller >= 0 && c->n_tokens > c->n_charged)
        limits_charge(c->g->limits, c->caller, c->n_tokens - c->n_charged, http_now());
    c->n_charged = c->n_tokens;
}

/* ---- answering ---- */

/* An answer of /v1/responses that was asked to be kept, with its conversation; otherwise what was kept for a cancel goes. */
static void store(call *c)
{
    mem_str body = {0};
    int http;
    if (c->route != API_RESPONSES)
        return;
    json_t *conversation = api_call_ended(c->api) ? api_call_conversation(c->api) : NULL;
    if (conversation != NULL && api_call_answer(c->api, &body, &http) == ST_OK && !body.failed)
        responses_put(c->g->responses, c->caller, api_call_id(c->api), body.data, body.len, conversation);
    else
        responses_remove(c->g->responses, c->caller, api_call_id(c->api));
    json_decref(conversation);
    mem_str_free(&body);
}

static json_t *find_conversation(void *arg, const char *response_id)
{
    const call *c = arg;
    return responses_conversation(c->g->responses, c->caller, response_id);
}

static void respond_whole(call *c)
{
    mem_str body = {0};
    http_answer a = {.status = 200};
    if (api_call_answer(c->api, &body, &a.status) == ST_OK && !body.failed) {
        http_respond_take(&c->request, &a, &body);
        return;
    }
    mem_str_free(&body);
    http_respond_error(&c->request, 500, "server_error", NULL, NULL, "no memory for the answer", 0);
}

/* The call is over for its client: gives the request back, once. */
static void finish(call *c, const char *failed)
{
    api_call_usage u = {0};
    if (c->over)
        return;
    c->over = true;
    api_call_usage_get(c->api, &u);
    const char *why = failed != NULL ? failed : u.finish != NULL ? u.finish : "stop";
    charge(c);
    count_end(c, &u, why);
    trace_end(c, &u, why, failed);
    store(c);
    if (c->request == NULL)
        return;
    note_end(c, &u, why);
    if (c->begun)
        http_stream_end(&c->request);
    else
        respond_whole(c);
}

static void write_out(call *c, uint64_t received_ns)
{
    if (c->request == NULL) {
        mem_str_clear(&c->out);
        return;
    }
    if (c->out.failed) {
        log_error("no memory for a stream: it is cut");
        http_abort(&c->request);
        gateway_post_cancel(c->g, c->id, -1);
        mem_str_free(&c->out);
        return;
    }
    if (c->out.len == 0)
        return;
    http_answer a = {.status = 200};
    if (!c->begun)
        c->begun = http_stream_begin(c->request, &a) == ST_OK;
    http_stream_append(c->request, c->out.data, c->out.len, received_ns); /* a client that left is told by `gone` */
    mem_str_clear(&c->out);
}

/* Before anything was answered: the error is the answer. */
static void refuse(call *c, const api_error *e, int retry_after_s)
{
    c->over = true;
    if (c->request != NULL)
        http_respond_error(&c->request, e->http, e->type, e->code, e->param[0] != '\0' ? e->param : NULL, e->message, retry_after_s);
}

static void fail(call *c, const api_error *e, int retry_after_s)
{
    if (c->over)
        return;
    mem_str_clear(&c->out);
    api_call_fail(c->api, e, &c->out);
    if (c->begun) {
        write_out(c, 0);
        finish(c, "error");
        return;
    }
    api_call_usage u = {0};
    api_call_usage_get(c->api, &u);
    const char *why = e->http == 499 ? "abort" : "error";
    charge(c);
    count_end(c, &u, why);
    trace_end(c, &u, why, e->message);
    store(c);
    if (c->request != NULL)
        note_end(c, &u, why);
    refuse(c, e, retry_after_s);
}

/* ---- creating ---- */

static void unknown_model(const gateway *g, const char *name, api_error *e)
{
    gateway_model *models[32];
    size_t n = gateway_registry_models(g->registry, models, ARRAY_LEN(models));
    mem_str s = {.limit = sizeof(e->message) - 1};
    *e = (api_error){.http = 404, .type = "invalid_request_error", .code = "model_not_found", .param = "model"};
    if (name[0] != '\0')
        mem_str_printf(&s, "The model `%.200s` does not exist. Served here: ", name);
    else
        mem_str_puts(&s, "\"model\" must name one of those served here: ");
    for (size_t i = 0; i < n; i++) {
        mem_str more = {.limit = 0};
        mem_str_printf(&more, "%s%s", i > 0 ? ", " : "", models[i]->name);
        if (!more.failed && s.len + more.len < s.limit)
            mem_str_puts(&s, more.data);
        mem_str_free(&more);
        gateway_model_release(&models[i]);
    }
    snprintf(e->message, sizeof(e->message), "%s%s", s.data != NULL ? s.data : "", n == 0 ? "none at the moment" : "");
    mem_str_free(&s);
}

static bool find_model(call *c, const char *body, size_t len, api_error *e, int *retry_after_s)
{
    char name[256];
    status_mute();
    status st = api_body_model(body, len, name, sizeof(name));
    status_unmute();
    if (st != ST_OK) {
        *e = (api_error){.http = 400, .type = "invalid_request_error"};
        snprintf(e->message, sizeof(e->message), "%s", status_message());
        return false;
    }
    st = gateway_registry_model(c->g->registry, name, &c->model);
    if (st == ST_OK)
        return true;
    if (st == ST_BUSY) {
        *e = (api_error){.http = 503, .type = "server_error", .code = "no_replica", .message = "no replica has joined this gateway yet: try again soon"};
        *retry_after_s = 2;
    } else {
        unknown_model(c->g, name, e);
    }
    return false;
}

/* The api's Submits grow with the answer; what a replay needs of the beginning is kept apart, where no worker touches it. */
static status copy_submits(call *c)
{
    size_t n_tokens = 0, at = 0;
    for (int i = 0; i < c->n_sequences; i++) {
        c->submits[i] = *api_call_sequence(c->api, i);
        n_tokens += c->submits[i].n_tokens;
    }
    TRY(mem_calloc(n_tokens > 0 ? n_tokens : 1, sizeof(*c->prompts), "a call's prompts", &c->prompts));
    for (int i = 0; i < c->n_sequences; i++) {
        Trireme__Submit *s = &c->submits[i];
        memcpy(c->prompts + at, s->tokens, s->n_tokens * sizeof(*s->tokens));
        s->tokens = c->prompts + at;
        at += s->n_tokens;
    }
    c->n_prompt_tokens = (int64_t)n_tokens;
    return ST_OK;
}

static status prepare(call *c)
{
    size_t n = (size_t)c->n_sequences, total = 0, at = 0;
    TRY(mem_calloc(n, sizeof(*c->submits), "a call", &c->submits));
    TRY(mem_calloc(n, sizeof(*c->token_ns), "a call", &c->token_ns));
    TRY(mem_calloc(n, sizeof(*c->entries), "a call", &c->entries));
    TRY(mem_calloc(n + 1, sizeof(*c->hash_first), "a call", &c->hash_first));
    TRY(copy_submits(c));
    for (size_t i = 0; i < n; i++)
        total += gateway_prefix_count(c->submits[i].n_tokens, c->model->block_tokens);
    TRY(mem_calloc(total > 0 ? total : 1, sizeof(*c->hashes), "a call's prefixes", &c->hashes));
    for (size_t i = 0; i < n; i++) {
        const Trireme__Submit *s = &c->submits[i];
        c->hash_first[i] = at;
        at += gateway_prefix_hash(s->tokens, s->n_tokens, c->model->block_tokens, s->cache_salt.data, s->cache_salt.len, c->hashes + at, total - at);
    }
    c->hash_first[n] = at;
    return ST_OK;
}

static bool parse(call *c, api_error *e, int *retry_after_s)
{
    size_t len;
    const char *body = http_request_body(c->request, &len);
    if (!find_model(c, body, len, e, retry_after_s))
        return false;
    bool many = c->route == API_EMBEDDINGS && c->g->opt.max_sequences < MAX_EMBEDDINGS;
    api_call_options o = {.model = &c->model->api, .request_id = http_request_name(c->request), .max_sequences = many ? MAX_EMBEDDINGS : c->g->opt.max_sequences, .store = {find_conversation, c},
                          .max_prompt_tokens_total = (int32_t)(c->g->opt.max_waiting_tokens < INT32_MAX ? c->g->opt.max_waiting_tokens : INT32_MAX)};
    status_mute();
    status st = api_call_create(c->route, body, len, &o, &c->api, e);
    status_unmute();
    if (st != ST_OK)
        return false;
    http_request_free_body(c->request);
    c->n_sequences = api_call_n_sequences(c->api);
    c->streams = api_call_streams(c->api);
    if (c->n_sequences == 0 || prepare(c) == ST_OK)
        return true;
    *e = (api_error){.http = 500, .type = "server_error", .message = "out of memory"};
    return false;
}

/* Always the last event of its actor: once submitted, the call belongs to others. */
static bool create(call *c)
{
    api_error e = {0};
    int retry_after_s = 0;
    if (!parse(c, &e, &retry_after_s)) {
        trace_end(c, NULL, NULL, e.message);
        refuse(c, &e, retry_after_s);
        call_destroy(c);
        return true;
    }
    if (c->n_sequences == 0) {
        respond_whole(c);
        call_destroy(c);
        return true;
    }
    if (c->caller >= 0)
        limits_charge(c->g->limits, c->caller, c->n_prompt_tokens, http_now());
    if (c->route == API_RESPONSES)
        responses_begin(c->g->responses, c->caller, api_call_id(c->api), c->id);
    c->submit = (command){.kind = COMMAND_SUBMIT, .call = c};
    gateway_post(c->g, &c->submit);
    return true;
}

/* ---- tokens ---- */

static void measure(call *c, const call_event *e)
{
    uint64_t *last = &c->token_ns[e->sequence];
    if (e->event.prompt)
        return;
    c->replays = e->replays > c->replays ? e->replays : c->replays;
    c->first_step = c->first_step == 0 || strcmp(c->replica, e->replica) != 0 ? e->step : c->first_step;
    c->last_step = e->step;
    snprintf(c->replica, sizeof(c->replica), "%s", e->replica);
    c->n_tokens++;
    c->most_tokens = e->event.index + 1 > c->most_tokens ? e->event.index + 1 : c->most_tokens;
    if (c->first_token_ns == 0) {
        c->first_token_ns = e->received_ns;
        c->queue_seconds = e->event.queue_seconds;
        c->prefill_seconds = e->event.prefill_seconds;
        observe(c, METRIC_TIME_TO_FIRST_TOKEN, seconds_between(c->arrived_ns, e->received_ns));
        c->inter_token = series(c, METRIC_INTER_TOKEN_LATENCY, NULL);
    }
    if (*last != 0)
        metrics_observe(c->inter_token, seconds_between(*last, e->received_ns));
    *last = c->last_token_ns = e->received_ns;
    if (c->n_tokens - c->n_charged >= CHARGE_TOKENS)
        charge(c);
}

static void take_event(call *c, const call_event *e)
{
    bool cancel = false;
    if (c->over)
        return;
    measure(c, e);
    status_mute();
    status st = api_call_event(c->api, e->sequence, &e->event, &c->out, &cancel);
    status_unmute();
    if (st != ST_OK) {
        api_error error = {.http = 500, .type = "server_error"};
        snprintf(error.message, sizeof(error.message), "%s", status_message());
        fail(c, &error, 0);
        gateway_post_cancel(c->g, c->id, -1);
        return;
    }
    write_out(c, e->received_ns);
    if (api_call_ended(c->api))
        finish(c, NULL);
    if (cancel)
        gateway_post_cancel(c->g, c->id, e->sequence);
}

/* ---- the workers' entry ---- */

static bool end(call *c)
{
    if (!c->over) { /* its client is gone, or the request was cancelled */
        api_error e = {.http = 499, .type = "cancelled", .code = "cancelled", .message = "the request was cancelled"};
        fail(c, &e, 0);
    }
    call_destroy(c);
    return true;
}

bool call_work_run(void *arg, gateway_actor *actor, gateway_work *work)
{
    gateway *g = arg;
    call_work *w = (call_work *)work;
    call *c = (call *)actor;
    switch (w->kind) {
    case WORK_CREATE:
        return create((call *)((char *)w - offsetof(call, create)));
    case WORK_EVENT:
        take_event(c, (call_event *)w);
        free(w);
        return false;
    case WORK_FAIL:
        fail(c, &((call_failure *)w)->error, ((call_failure *)w)->retry_after_s);
        free(w);
        return false;
    case WORK_END:
        return end(c);
    case WORK_TEXT:
        return call_open_text(g, (text_job *)actor);
    }
    return false;
}

void call_begin(gateway *g, http_request *r, api_route route)
{
    call *c = NULL;
    status_mute();
    status st = mem_calloc(1, sizeof(*c), "a call", &c);
    status_unmute();
    if (st != ST_OK) {
        http_respond_error(&r, 503, "server_error", NULL, NULL, "out of memory", 5);
        return;
    }
    gateway_actor_init(&c->actor);
    gateway_actor_init(&c->maker);
    c->g = g;
    c->id = http_request_id(r);
    c->caller = http_request_caller(r) >> 1;
    c->request = r;
    c->route = route;
    c->arrived_ns = http_request_body_read(r);
    if (g->otlp != NULL)
        otlp_context_make(g->otlp, http_request_header(r, "traceparent"), &c->trace);
    c->create.kind = WORK_CREATE;
    c->end.kind = WORK_END;
    atomic_fetch_add(&g->n_calls, 1);
    gateway_workers_post(g->makers, &c->maker, &c->create.work);
}
