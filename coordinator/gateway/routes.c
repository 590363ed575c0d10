/* The table of routes, who is let in, and the answers that need no call. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "coordinator/gateway/gateway_internal.h"
#include "coordinator/gateway/page.h"

enum { ROUTE_WORK = 1 << 16 /* counts against limits and capacity */ };

/* ---- the work itself ---- */

#define WORK_ROUTE(name, route)                                                                                                                       \
    static void name(void *arg, http_request *r)                                                                                                      \
    {                                                                                                                                                 \
        call_begin(arg, r, route);                                                                                                                    \
    }
WORK_ROUTE(serve_completions, API_COMPLETIONS)
WORK_ROUTE(serve_chat, API_CHAT)
WORK_ROUTE(serve_responses, API_RESPONSES)
WORK_ROUTE(serve_embeddings, API_EMBEDDINGS)
WORK_ROUTE(serve_tokenize, API_TOKENIZE)
WORK_ROUTE(serve_detokenize, API_DETOKENIZE)

/* ---- small answers ---- */

void routes_respond_json(http_request **r, json_t *body)
{
    char *line = body != NULL ? json_line(body) : NULL;
    json_decref(body);
    if (line == NULL) {
        http_respond_error(r, 500, "server_error", NULL, NULL, "out of memory", 0);
        return;
    }
    http_answer a = {.status = 200, .body = line, .body_len = strlen(line)};
    http_respond(r, &a);
    free(line);
}

static json_t *model_card(const gateway_model *m)
{
    return json_pack("{ss, ss, sI, ss, ss, sn, si, s[]}", "id", m->name, "object", "model", "created", (json_int_t)m->api.created, "owned_by", "trireme", "root", m->name,
                     "parent", "max_model_len", (int)m->api.max_model_len, "permission");
}

static void serve_models(void *arg, http_request *r)
{
    gateway *g = arg;
    gateway_model *models[256];
    size_t n = gateway_registry_models(g->registry, models, ARRAY_LEN(models));
    json_t *data = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(data, model_card(models[i]));
        gateway_model_release(&models[i]);
    }
    routes_respond_json(&r, json_pack("{ss, so}", "object", "list", "data", data));
}

static void serve_model(void *arg, http_request *r)
{
    gateway *g = arg;
    gateway_model *m = NULL;
    const char *name = http_request_param(r);
    if (name[0] == '\0' || gateway_registry_model(g->registry, name, &m) != ST_OK) {
        http_respond_error(&r, 404, "invalid_request_error", "model_not_found", "model", "no model of this name is served here: see /v1/models", 0);
        return;
    }
    routes_respond_json(&r, model_card(m));
    gateway_model_release(&m);
}

static void serve_version(void *arg, http_request *r)
{
    const gateway *g = arg;
    routes_respond_json(&r, json_pack("{ss, ss}", "version", g->opt.version, "commit", g->opt.commit));
}

static void serve_ping(void *arg, http_request *r)
{
    (void)arg;
    routes_respond_json(&r, json_object());
}

/* Answered from what the core thread published, so that it also tells when that one hangs. */
static void serve_health(void *arg, http_request *r)
{
    const gateway *g = arg;
    static const uint64_t patience_ns = 10000000000;
    uint64_t now = http_now(), alive = atomic_load(&g->core_alive_ns);
    const char *why = NULL;
    if (atomic_load(&g->draining))
        why = "draining";
    else if (now > alive && now - alive > patience_ns)
        why = "the gateway makes no progress";
    else if (atomic_load(&g->n_ready) == 0)
        why = "no replica is ready";
    else if (!atomic_load(&g->healthy))
        why = "work is waiting and no step has ended in time";
    if (why != NULL)
        http_respond_error(&r, 503, "server_error", "unhealthy", NULL, why, 1);
    else
        routes_respond_json(&r, json_pack("{ss, si}", "status", "ok", "replicas", atomic_load(&g->n_ready)));
}

static void serve_load(void *arg, http_request *r)
{
    gateway_ask(arg, r, state_load_answer);
}

static void serve_state(void *arg, http_request *r)
{
    gateway_ask(arg, r, state_answer);
}

static void serve_metrics(void *arg, http_request *r)
{
    gateway *g = arg;
    mem_str body = {0};
    http_answer a = {.status = 200};
    metrics_set(metrics_get(g->metrics, METRIC_GATEWAY_CONNECTIONS, NULL), http_server_connections(g->http));
    metrics_set(metrics_get(g->metrics, METRIC_GATEWAY_ACTIVE, NULL), http_server_active(g->http));
    metrics_set(metrics_get(g->metrics, METRIC_ACCESS_DROPPED, NULL), g->access != NULL ? (double)access_dropped(g->access) : 0);
    if (metrics_text(g->metrics, http_request_header(r, "Accept"), &body, &a.content_type) != ST_OK || body.failed) {
        mem_str_free(&body);
        http_respond_error(&r, 500, "server_error", NULL, NULL, "out of memory", 0);
        return;
    }
    http_respond_take(&r, &a, &body);
}

static void serve_page(void *arg, http_request *r)
{
    (void)arg;
    const gateway_page *page = gateway_page_find(http_request_path(r));
    const char *known = http_request_header(r, "If-None-Match");
    if (page == NULL) {
        http_respond_error(&r, 404, "invalid_request_error", NULL, NULL, "there is no such page", 0);
        return;
    }
    const http_header headers[] = {{"ETag", page->etag},          {"Cache-Control", GATEWAY_PAGE_CACHE}, {"Content-Security-Policy", GATEWAY_PAGE_CSP},
                                   {"X-Frame-Options", "DENY"},   {"X-Content-Type-Options", "nosniff"}, {"Referrer-Policy", "no-referrer"}};
    http_answer a = {.status = 200, .content_type = page->content_type, .headers = headers, .n_headers = (int)ARRAY_LEN(headers), .body = page->data,
                     .body_len = page->len, .body_is_static = true};
    if (known != NULL && strcmp(known, page->etag) == 0) {
        a.status = 304;
        a.body_len = 0;
    }
    http_respond(&r, &a);
}

static void serve_adapter(void *arg, http_request *r)
{
    (void)arg;
    http_respond_error(&r, 501, "server_error", "not_implemented", NULL, "adapters cannot be loaded while serving", 0);
}

/* ---- stored responses ---- */

/* body may be NULL. */
static bool find_response(gateway *g, http_request **r, mem_str *body, uint64_t *call_id)
{
    if (responses_get(g->responses, http_request_caller(*r) >> 1, http_request_param(*r), body, call_id))
        return true;
    http_respond_error(r, 404, "invalid_request_error", "response_not_found", NULL, "no response of this id is kept here", 0);
    return false;
}

static void serve_response(void *arg, http_request *r)
{
    gateway *g = arg;
    mem_str body = {0};
    uint64_t call_id = 0;
    http_answer a = {.status = 200};
    if (!find_response(g, &r, &body, &call_id))
        return;
    if (call_id == 0) {
        http_respond_take(&r, &a, &body);
        return;
    }
    json_t *o = json_pack("{ss, ss, ss, s[]}", "id", http_request_param(r), "object", "response", "status", "in_progress", "output");
    routes_respond_json(&r, o);
}

static void serve_response_cancel(void *arg, http_request *r)
{
    gateway *g = arg;
    uint64_t call_id = 0;
    if (!find_response(g, &r, NULL, &call_id))
        return;
    if (call_id == 0) {
        http_respond_error(&r, 400, "invalid_request_error", NULL, NULL, "the response has ended already", 0);
        return;
    }
    gateway_post_cancel(g, call_id, -1);
    json_t *o = json_pack("{ss, ss, ss, s[]}", "id", http_request_param(r), "object", "response", "status", "cancelled", "output");
    routes_respond_json(&r, o);
}

static void serve_response_delete(void *arg, http_request *r)
{
    gateway *g = arg;
    uint64_t call_id = 0;
    if (!find_response(g, &r, NULL, &call_id))
        return;
    if (call_id != 0)
        gateway_post_cancel(g, call_id, -1);
    responses_remove(g->responses, http_request_caller(r) >> 1, http_request_param(r));
    json_t *o = json_pack("{ss, ss, sb}", "id", http_request_param(r), "object", "response", "deleted", 1);
    routes_respond_json(&r, o);
}

static const http_route routes[] = {
    {"POST", "/v1/completions", serve_completions, HTTP_NEEDS_KEY | ROUTE_WORK, 0},
    {"POST", "/v1/chat/completions", serve_chat, HTTP_NEEDS_KEY | ROUTE_WORK, 0},
    {"POST", "/v1/responses", serve_responses, HTTP_NEEDS_KEY | ROUTE_WORK, 0},
    {"POST", "/v1/embeddings", serve_embeddings, HTTP_NEEDS_KEY | ROUTE_WORK, 0},
    {"POST", "/tokenize", serve_tokenize, HTTP_NEEDS_KEY | ROUTE_WORK, 0},
    {"POST", "/detokenize", serve_detokenize, HTTP_NEEDS_KEY | ROUTE_WORK, 0},
    {"GET", "/v1/responses/{id}", serve_response, HTTP_NEEDS_KEY | HTTP_WHILE_DRAINING, 0},
    {"DELETE", "/v1/responses/{id}", serve_response_delete, HTTP_NEEDS_KEY | HTTP_WHILE_DRAINING, 0},
    {"POST", "/v1/responses/{id}/cancel", serve_response_cancel, HTTP_NEEDS_KEY | HTTP_WHILE_DRAINING, 0},
    {"GET", "/v1/models", serve_models, HTTP_NEEDS_KEY | HTTP_WHILE_DRAINING, 0},
    {"GET", "/v1/models/{*}", serve_model, HTTP_NEEDS_KEY | HTTP_WHILE_DRAINING, 0},
    {"POST", "/v1/load_lora_adapter", serve_adapter, HTTP_NEEDS_KEY | HTTP_NEEDS_ADMIN, 0},
    {"POST", "/v1/unload_lora_adapter", serve_adapter, HTTP_NEEDS_KEY | HTTP_NEEDS_ADMIN, 0},
    {"GET", "/health", serve_health, HTTP_WHILE_DRAINING, 0},
    {"GET", "/ping", serve_ping, HTTP_WHILE_DRAINING, 0},
    {"POST", "/ping", serve_ping, HTTP_WHILE_DRAINING, 0},
    {"GET", "/version", serve_version, HTTP_WHILE_DRAINING, 0},
    {"GET", "/load", serve_load, HTTP_WHILE_DRAINING, 0},
    {"GET", "/metrics", serve_metrics, HTTP_WHILE_DRAINING, 0},
    {"GET", "/", serve_page, HTTP_WHILE_DRAINING, 0},
    {"GET", "/style.css", serve_page, HTTP_WHILE_DRAINING, 0},
    {"GET", "/app.js", serve_page, HTTP_WHILE_DRAINING, 0},
    {"GET", "/state", serve_state, HTTP_NEEDS_KEY | HTTP_WHILE_DRAINING, 0},
};

const http_route *gateway_routes(int *n)
{
    *n = (int)ARRAY_LEN(routes);
    return routes;
}

/* ---- who is let in ---- */

static bool refuse_with(gateway *g, http_answer *a, int code, const char *type, const char *error, const char *message, int retry_after_s, const char *reason)
{
    const char *labels[1] = {reason};
    metrics_add(metrics_get(g->metrics, METRIC_REQUESTS_REFUSED, labels), 1);
    mem_str_clear(&g->refusal);
    http_error_body(&g->refusal, type, error, NULL, message);
    *a = (http_answer){.status = code, .body = g->refusal.data, .body_len = g->refusal.len};
    if (code == 401)
        g->refusal_header = (http_header){"WWW-Authenticate", "Bearer"};
    if (retry_after_s > 0) {
        snprintf(g->refusal_value, sizeof(g->refusal_value), "%d", retry_after_s);
        g->refusal_header = (http_header){"Retry-After", g->refusal_value};
    }
    if (code == 401 || retry_after_s > 0) {
        a->headers = &g->refusal_header;
        a->n_headers = 1;
    }
    return false;
}

static bool within_limits(gateway *g, http_request *r, const auth_key *key, http_answer *refuse)
{
    static const char *const reasons[] = {[LIMITS_REQUESTS] = "requests", [LIMITS_TOKENS] = "tokens", [LIMITS_CONCURRENT] = "concurrent"};
    int retry_after_s = 0;
    if (atomic_load(&g->n_calls) >= (int64_t)g->opt.max_waiting + atomic_load(&g->capacity))
        return refuse_with(g, refuse, 429, "rate_limit_error", "overloaded", "too many requests are waiting: try again later", atomic_load(&g->retry_after_s), "capacity");
    limits_verdict v = limits_admit(g->limits, key, http_now(), &retry_after_s);
    if (v != LIMITS_OK) {
        char message[160];
        snprintf(message, sizeof(message), "this key's limit of %s is reached: try again in %d s", limits_text(v), retry_after_s);
        return refuse_with(g, refuse, 429, "rate_limit_error", "rate_limit_exceeded", message, retry_after_s, reasons[v]);
    }
    http_request_caller_set(r, key->number * 2 + 1);
    return true;
}

bool routes_admit(void *arg, http_request *r, const http_route *route, http_answer *refuse)
{
    gateway *g = arg;
    auth_key key;
    if ((route->flags & HTTP_NEEDS_KEY) == 0)
        return true;
    auth_verdict v = auth_check(g->auth, http_request_header(r, "Authorization"), http_request_header(r, "X-Api-Key"), &key);
    if (v == AUTH_MISSING)
        return refuse_with(g, refuse, 401, "invalid_request_error", "missing_api_key", "an API key is needed: Authorization: Bearer KEY", 0, "key");
    if (v != AUTH_OK)
        return refuse_with(g, refuse, 401, "invalid_request_error", "invalid_api_key", "the API key is not one of those allowed", 0, "key");
    http_request_caller_set(r, key.number * 2);
    if ((route->flags & HTTP_NEEDS_ADMIN) != 0 && !key.admin)
        return refuse_with(g, refuse, 403, "invalid_request_error", "admin_key_needed", "this needs a key with admin rights", 0, "key");
    return (route->flags & ROUTE_WORK) == 0 || within_limits(g, r, &key, refuse);
}

void routes_gone(void *arg, uint64_t id)
{
    gateway_post_cancel(arg, id, -1);
}

void routes_done(void *arg, const http_record *record)
{
    gateway *g = arg;
    int32_t number = record->caller >> 1;
    if (record->caller >= 0 && (record->caller & 1) != 0)
        limits_release(g->limits, number);
    uint64_t from = record->head_read != 0 ? record->head_read : record->ended;
    metrics_http(g->metrics, record->route, record->method, record->status, record->bytes_in, record->bytes_out, (double)(record->ended - from) * 1e-9);
    if (g->access != NULL)
        access_write(g->access, record, record->caller >= 0 ? auth_name(g->auth, number) : "");
}

void routes_written(void *arg, uint64_t received_ns, uint64_t written_ns)
{
    gateway *g = arg;
    uint64_t took = written_ns > received_ns ? written_ns - received_ns : 0;
    gateway_latency_add(&g->write_latency, took);
    metrics_observe(g->write_series, (double)took * 1e-9);
}
