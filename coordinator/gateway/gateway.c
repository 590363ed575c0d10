#include "coordinator/gateway/gateway.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/threads.h"
#include "coordinator/gateway/gateway_internal.h"

enum { RECEIVES_IN_A_ROW = 64 /* messages before commands have their turn */ };
static const double TICK_SECONDS = 0.1, PUBLISH_SECONDS = 0.5;

double gateway_clock(void)
{
    return (double)http_now() * 1e-9;
}

/* ---- the core thread's mailbox ---- */

void gateway_post(gateway *g, command *c)
{
    c->next = NULL;
    pthread_mutex_lock(&g->mail_lock);
    bool first = g->mail_first == NULL;
    *(first ? &g->mail_first : &g->mail_last->next) = c;
    g->mail_last = c;
    pthread_mutex_unlock(&g->mail_lock);
    if (first)
        wire_server_wake(g->wire);
}

static command *command_make(command_kind kind)
{
    command *c = calloc(1, sizeof(*c));
    if (c != NULL)
        c->kind = kind;
    else
        log_error("no memory for a command");
    return c;
}

void gateway_post_cancel(gateway *g, uint64_t call_id, int32_t sequence)
{
    command *c = command_make(COMMAND_CANCEL);
    if (c == NULL)
        return; /* the request's deadline ends it */
    c->call_id = call_id;
    c->sequence = sequence;
    gateway_post(g, c);
}

void gateway_ask(gateway *g, http_request *r, void (*answer)(gateway *g, http_request *r))
{
    command *c = command_make(COMMAND_ASK);
    if (c == NULL) {
        http_respond_error(&r, 503, "server_error", NULL, NULL, "out of memory", 5);
        return;
    }
    c->request = r;
    c->answer = answer;
    gateway_post(g, c);
}

/* Something about the replicas has changed. */
static void on_news(gateway *g)
{
    state_publish_health(g, gateway_clock());
    g->pump_again = true;
}

static void obey(gateway *g, command *c)
{
    switch (c->kind) {
    case COMMAND_SUBMIT:
        dispatch_submit(g, c->call); /* the command is part of the call, which may be gone now */
        return;
    case COMMAND_CANCEL:
        dispatch_cancel(g, c->call_id, c->sequence);
        break;
    case COMMAND_TEXT:
        gateway_registry_opened(g->registry, c->text, gateway_clock());
        on_news(g);
        break;
    case COMMAND_ASK:
        c->answer(g, c->request);
        break;
    }
    free(c);
}

static void obey_all(gateway *g)
{
    pthread_mutex_lock(&g->mail_lock);
    command *c = g->mail_first;
    g->mail_first = g->mail_last = NULL;
    pthread_mutex_unlock(&g->mail_lock);
    for (command *next; c != NULL; c = next) {
        next = c->next;
        obey(g, c);
    }
}

/* ---- what the registry has done for it ---- */

static status hook_send(void *arg, wire_peer peer, const Trireme__Envelope *message)
{
    gateway *g = arg;
    return wire_server_send(g->wire, peer, message);
}

static void hook_drop(void *arg, wire_peer peer)
{
    gateway *g = arg;
    wire_server_drop(g->wire, peer);
}

static void hook_left(void *arg, const gateway_replica *replica)
{
    dispatch_replica_left(arg, replica);
}

static void hook_open(void *arg, gateway_text *text)
{
    gateway *g = arg;
    text_job *job = calloc(1, sizeof(*job));
    if (job == NULL) { /* here then, though it takes a while */
        gateway_text_open(text);
        command *c = command_make(COMMAND_TEXT);
        if (c != NULL) {
            c->text = text;
            gateway_post(g, c);
        }
        return;
    }
    gateway_actor_init(&job->actor);
    job->work.kind = WORK_TEXT;
    job->text = text;
    gateway_workers_post(g->makers, &job->actor, &job->work.work);
}

bool call_open_text(gateway *g, text_job *job)
{
    gateway_text *text = job->text;
    status_mute();
    gateway_text_open(text);
    status_unmute();
    gateway_actor_destroy(&job->actor);
    free(job);
    command *c = command_make(COMMAND_TEXT);
    if (c != NULL) {
        c->text = text;
        gateway_post(g, c);
    }
    return true;
}

/* ---- the core thread ---- */

static void say_goodbye(gateway *g, wire_peer peer, const char *reason)
{
    Trireme__Goodbye bye = TRIREME__GOODBYE__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    bye.reason = (char *)reason;
    bye.retry = true;
    e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e.goodbye = &bye;
    wire_server_send(g->wire, peer, &e);
    wire_server_drop(g->wire, peer);
}

static void take_message(gateway *g, const wire_received *m)
{
    const Trireme__Envelope *e = m->message;
    double now = gateway_clock();
    switch (e->body_case) {
    case TRIREME__ENVELOPE__BODY_HELLO:
        gateway_registry_hello(g->registry, m->peer, m->user, e->hello, now);
        on_news(g);
        break;
    case TRIREME__ENVELOPE__BODY_ASSET_CHUNK:
        gateway_registry_chunk(g->registry, m->peer, e->asset_chunk, now);
        break;
    case TRIREME__ENVELOPE__BODY_TOKENS:
        dispatch_tokens(g, m->peer, e->tokens, http_now());
        break;
    case TRIREME__ENVELOPE__BODY_ABORTED:
        dispatch_aborted(g, m->peer, e->aborted);
        break;
    case TRIREME__ENVELOPE__BODY_LOAD:
        gateway_registry_load(g->registry, m->peer, e->load, now);
        on_news(g);
        break;
    case TRIREME__ENVELOPE__BODY_HEALTH:
        gateway_registry_health(g->registry, m->peer, e->health);
        on_news(g);
        break;
    case TRIREME__ENVELOPE__BODY_GOODBYE:
        gateway_registry_gone(g->registry, m->peer, e->goodbye->reason);
        say_goodbye(g, m->peer, "farewell"); /* it waits to know that its last words were read */
        on_news(g);
        break;
    default: /* of a later version: not for us */
        break;
    }
}

static void receive(gateway *g, int timeout_ms)
{
    for (int i = 0; i < RECEIVES_IN_A_ROW; i++) {
        wire_received m;
        if (wire_server_receive(g->wire, i == 0 ? timeout_ms : 0, &m) != ST_OK || m.kind == WIRE_NOTHING)
            return;
        if (m.kind == WIRE_GONE) {
            gateway_registry_gone(g->registry, m.peer, m.reason);
            on_news(g);
        } else {
            take_message(g, &m);
        }
    }
}

/* One that has been stalled for as long again is given up, whatever it says of itself: what it has is computed elsewhere. */
static void drop_stalled(gateway *g, double now)
{
    for (const gateway_replica *r = gateway_registry_first(g->registry); r != NULL; r = r->next) {
        if (gateway_journal_peer_load(g->journal, r->peer) == 0 || now - r->progressed <= 2 * g->opt.stall_seconds)
            continue;
        wire_peer peer = r->peer;
        gateway_registry_gone(g->registry, peer, "it has work and ended no step for too long");
        say_goodbye(g, peer, "no step has ended for too long");
        return; /* the list has changed; the next tick goes on */
    }
}

static void tick(gateway *g)
{
    double now = gateway_clock();
    atomic_store(&g->core_alive_ns, http_now());
    if (now < g->next_tick)
        return;
    g->next_tick = now + TICK_SECONDS;
    gateway_registry_tick(g->registry, now);
    drop_stalled(g, now);
    dispatch_expire(g);
    state_publish_health(g, now);
    g->pump_again = true;
    if (now - g->published >= PUBLISH_SECONDS) {
        state_publish(g, now - g->published);
        g->published = now;
    }
}

static void *core_loop(void *arg)
{
    gateway *g = arg;
    g->published = gateway_clock();
    while (!atomic_load(&g->core_ends)) {
        receive(g, (int)(TICK_SECONDS * 1e3));
        obey_all(g);
        tick(g);
        if (g->pump_again)
            dispatch_pump(g);
        if (atomic_load(&g->stopping))
            dispatch_fail_all(g);
    }
    obey_all(g);
    dispatch_fail_all(g);
    return NULL;
}

/* ---- creation ---- */

static status make_wire(gateway *g)
{
    wire_security security = {.plain = g->opt.plain};
    if (!g->opt.plain)
        TRY(wire_security_gateway(g->opt.keys_dir, &security));
    wire_server_options o = {.endpoint = g->opt.replicas, .security = &security};
    status st = wire_server_create(&o, &g->wire);
    wire_security_clear(&security);
    return st;
}

static status make_registry(gateway *g)
{
    gateway_registry_options o = {.gateway = g->opt.name, .log_text = g->opt.log_text, .arg = g, .send = hook_send, .drop = hook_drop, .open = hook_open, .left = hook_left};
    if (getrandom(&o.epoch, sizeof(o.epoch), 0) != (ssize_t)sizeof(o.epoch))
        return FAIL(ST_IO, "no random number from the kernel");
    return gateway_registry_create(&o, &g->registry);
}

static status make_http(gateway *g)
{
    http_options o = {.listen = g->opt.listen, .n_listen = g->opt.n_listen, .tls_cert = g->opt.tls_cert, .tls_key = g->opt.tls_key,
                      .cors_origins = g->opt.cors_origins, .n_cors_origins = g->opt.n_cors_origins, .max_body = g->opt.max_body,
                      .max_connections = g->opt.max_connections, .arg = g, .admit = routes_admit, .gone = routes_gone, .done = routes_done, .written = routes_written};
    o.routes = gateway_routes(&o.n_routes);
    return http_server_create(&o, &g->http);
}

static void defaults(gateway_options *o)
{
    o->name = o->name != NULL ? o->name : "gateway";
    o->version = o->version != NULL ? o->version : "";
    o->commit = o->commit != NULL ? o->commit : "";
    int cores = threads_cores_granted();
    o->n_makers = cores < 2 ? 2 : cores > 4 ? 4 : cores;
    if (o->n_workers > 0)
        o->n_makers = o->n_workers;
    o->max_waiting = o->max_waiting > 0 ? o->max_waiting : 2048;
    o->max_waiting_tokens = o->max_waiting_tokens > 0 ? o->max_waiting_tokens : (int64_t)4 << 20;
    o->max_sequences = o->max_sequences > 0 ? o->max_sequences : 128;
    o->max_replays = o->max_replays > 0 ? o->max_replays : 5;
    o->replay_seconds = o->replay_seconds > 0 ? o->replay_seconds : 120;
    o->request_seconds = o->request_seconds > 0 ? o->request_seconds : 3600;
    o->stall_seconds = o->stall_seconds > 0 ? o->stall_seconds : 60;
    o->stored_bytes = o->stored_bytes > 0 ? o->stored_bytes : (size_t)64 << 20;
}

static status make_parts(gateway *g)
{
    auth_options keys = {.path = g->opt.api_keys, .single = g->opt.api_key};
    metrics_options names = {.vllm_names = g->opt.vllm_metrics};
    gateway_journal_options promises = {.max_attempts = g->opt.max_replays, .wait_seconds = g->opt.replay_seconds};
    TRY(auth_create(&keys, &g->auth));
    TRY(limits_create(&g->limits));
    TRY(metrics_create(&names, &g->metrics));
    g->write_series = metrics_get(g->metrics, METRIC_GATEWAY_WRITE_SECONDS, NULL);
    TRY(access_open(g->opt.access_log, &g->access));
    TRY(responses_create(g->opt.stored_bytes, &g->responses));
    if (g->opt.otlp_endpoint != NULL) {
        otlp_options traces = {.endpoint = g->opt.otlp_endpoint, .headers = g->opt.otlp_headers, .service = "trireme", .instance = g->opt.name, .version = g->opt.version,
                               .ratio = g->opt.trace_ratio};
        TRY(otlp_create(&traces, &g->otlp));
    }
    g->n_call_buckets = 256;
    TRY(mem_calloc(g->n_call_buckets, sizeof(*g->calls), "calls", &g->calls));
    TRY(gateway_journal_create(&promises, &g->journal));
    TRY(make_registry(g));
    TRY(make_wire(g));
    TRY(gateway_workers_create(g->opt.n_makers, call_work_run, g, &g->makers));
    return gateway_workers_create(g->opt.n_workers, call_work_run, g, &g->workers);
}

static status start_core(gateway *g)
{
    int err = pthread_create(&g->core, NULL, core_loop, g);
    if (err != 0)
        return FAIL(ST_LIMIT, "cannot start the gateway's thread: %s", strerror(err));
    g->core_started = true;
    return ST_OK;
}

status gateway_create(const gateway_options *options, gateway **out)
{
    gateway *g;
    status st;
    int got;
    TRY(mem_calloc(1, sizeof(*g), "gateway", &g));
    g->opt = *options;
    defaults(&g->opt);
    pthread_mutex_init(&g->mail_lock, NULL);
    g->started_ns = http_now();
    atomic_store(&g->core_alive_ns, g->started_ns);
    atomic_store(&g->retry_after_s, 1);
    TRY_GOTO(http_raise_open_files((g->opt.max_connections > 0 ? g->opt.max_connections : 4096) + 256, &got), failed);
    TRY_GOTO(make_parts(g), failed);
    TRY_GOTO(start_core(g), failed);
    TRY_GOTO(make_http(g), failed);
    *out = g;
    return ST_OK;
failed:
    gateway_destroy(&g, 0);
    return st;
}

/* ---- the end ---- */

void gateway_drain(gateway *g)
{
    if (atomic_exchange(&g->draining, true))
        return;
    http_server_drain(g->http);
}

int gateway_active(const gateway *g)
{
    return http_server_active(g->http);
}

void gateway_destroy(gateway **gateway_, int timeout_ms)
{
    gateway *g = *gateway_;
    if (g == NULL)
        return;
    *gateway_ = NULL;
    if (g->http != NULL) {
        uint64_t until = http_now() + (uint64_t)timeout_ms * 1000000;
        gateway_drain(g);
        while (http_server_active(g->http) > 0 && http_now() < until)
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        atomic_store(&g->stopping, true); /* what is left gets an error instead of a cut */
        http_server_destroy(&g->http, 2000);
    }
    atomic_store(&g->core_ends, true);
    if (g->core_started) {
        wire_server_wake(g->wire);
        pthread_join(g->core, NULL);
    }
    gateway_workers_destroy(&g->makers);
    gateway_workers_destroy(&g->workers);
    for (const gateway_replica *r = g->registry != NULL ? gateway_registry_first(g->registry) : NULL; r != NULL; r = r->next)
        say_goodbye(g, r->peer, "the gateway goes down");
    for (command *c = g->mail_first, *next; c != NULL; c = next) { /* cancels from the last events */
        next = c->next;
        free(c);
    }
    wire_server_destroy(&g->wire);
    gateway_registry_destroy(&g->registry);
    gateway_journal_destroy(&g->journal);
    responses_destroy(&g->responses);
    access_close(&g->access);
    otlp_destroy(&g->otlp, 3000);
    metrics_destroy(&g->metrics);
    limits_destroy(&g->limits);
    auth_destroy(&g->auth);
    mem_str_free(&g->refusal);
    free(g->calls);
    pthread_mutex_destroy(&g->mail_lock);
    free(g);
}

int gateway_http_port(const gateway *g, int i)
{
    return http_server_port(g->http, i);
}

const char *gateway_replicas_endpoint(const gateway *g)
{
    return wire_server_endpoint(g->wire);
}

void gateway_reload(gateway *g)
{
    if (g->access != NULL)
        access_reopen(g->access);
    if (auth_reload(g->auth) != ST_OK)
        log_warn("the API keys stay as they were");
}

static void show(const char *what, const gateway_latency *l)
{
    if (atomic_load(&l->n) > 0)
        log_info("%s: p50 %.3f ms, p99 %.3f ms, longest %.3f ms, %llu times", what, gateway_latency_at(l, 0.5) * 1e-6, gateway_latency_at(l, 0.99) * 1e-6,
                 (double)atomic_load(&l->max_ns) * 1e-6, (unsigned long long)atomic_load(&l->n));
}

void gateway_show_latency(const gateway *g)
{
    show("body read to submit sent", &g->submit_latency);
    show("tokens received to socket written", &g->write_latency);
}
