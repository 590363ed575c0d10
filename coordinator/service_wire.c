/* coordinator/service_wire.c - the wire thread: the gateway's messages in, answers out, loads, the watchdog, the end.
 *
 * Never touches the replica, except to ask what its ranks are at and to abort the job.  Nothing here waits longer than LOOK_MS.
 * Answers that the connection does not take wait in the outbox, in order: a gateway that stands still for a moment loses nothing. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/service_internal.h"

#define LOOK_MS 100
#define UNSENT_MS 2                           /* between two attempts to send what the connection did not take */
#define SEND_QUEUE 256                        /* messages on their way: the outbox, which counts bytes, holds the others */
#define SLOW_SECONDS 10.0                    /* in which a gateway must take an answer */
#define LOAD_SECONDS 1.0
#define MESSAGE_BYTES ((size_t)2 << 20)       /* a Tokens message is cut about there */
#define QUEUE_BYTES ((size_t)512 << 20)       /* of requests under way */
#define GOODBYE_SECONDS 5.0                   /* for the gateway to answer our Goodbye */
#define END_SECONDS 3.0                       /* until a step thread that was told to end must have */

/* ---- what we are ---- */

typedef struct hello {
    Trireme__Hello m;
    Trireme__AssetName *names;
    Trireme__AssetName **name_ptrs;
    char numerics[COORD_NUMERICS_ID], digest[HASH_SHA256_HEX + 8];
} hello;

static void hello_free(hello *h)
{
    free(h->names);
    free(h->name_ptrs);
}

static status assets_load(service *s)
{
    TRY(shard_checkpoint_text_assets(coord_replica_checkpoint(s->replica), &s->assets, &s->n_assets));
    TRY(mem_calloc(s->n_assets + 1, sizeof(*s->digests), "assets", &s->digests));
    for (size_t i = 0; i < s->n_assets; i++)
        TRY(hash_sha256_of(s->assets[i].data, s->assets[i].len, s->digests[i]));
    return ST_OK;
}

static status hello_assets(service *s, hello *h)
{
    TRY(mem_calloc(s->n_assets + 1, sizeof(*h->names), "assets", &h->names));
    TRY(mem_calloc(s->n_assets + 1, sizeof(*h->name_ptrs), "assets", &h->name_ptrs));
    for (size_t i = 0; i < s->n_assets; i++) {
        trireme__asset_name__init(&h->names[i]);
        h->names[i].name = s->assets[i].name;
        h->names[i].sha256 = (ProtobufCBinaryData){HASH_SHA256_BYTES, s->digests[i]};
        h->names[i].bytes = s->assets[i].len;
        h->name_ptrs[i] = &h->names[i];
    }
    h->m.n_assets = s->n_assets;
    h->m.assets = h->name_ptrs;
    return ST_OK;
}

static status hello_make(service *s, hello *h)
{
    const shard_plan *plan = coord_replica_plan(s->replica);
    trireme__hello__init(&h->m);
    TRY(coord_replica_numerics(s->replica, s->reports, s->opt.version, h->numerics));
    const char *digest = shard_checkpoint_digest(coord_replica_checkpoint(s->replica));
    memcpy(h->digest, digest, strnlen(digest, sizeof(h->digest) - 1));
    h->m.version = (char *)(uintptr_t)s->opt.version;
    h->m.replica = (char *)(uintptr_t)s->opt.name;
    h->m.epoch = s->epoch;
    h->m.numerics_id = h->numerics;
    h->m.checkpoint_digest = h->digest;
    h->m.model = (char *)(uintptr_t)s->opt.model;
    h->m.max_model_len = s->max_model_len;
    h->m.vocab = s->arch->vocab;
    h->m.max_num_seqs = s->opt.max_seqs;
    h->m.max_num_batched_tokens = s->opt.max_batched_tokens;
    h->m.block_tokens = SHARD_KV_BLOCK;
    h->m.kv_blocks = plan->kv_blocks[0];
    h->m.tp = plan->tp;
    h->m.pp = plan->pp;
    h->m.backend = (char *)(uintptr_t)s->reports[0].backend;
    h->m.embedding_dim = s->arch->hidden;
    return hello_assets(s, h);
}

/* A fresh connection; the one before, with what is queued in it, is gone. */
static status client_open(service *s)
{
    hello h = {0};
    wire_client *client = NULL, *old;
    status st = hello_make(s, &h);
    wire_client_options o = {.endpoint = s->opt.endpoint, .security = s->opt.security, .hello = &h.m, .send_queue = SEND_QUEUE};
    if (st == ST_OK)
        st = wire_client_create(&o, &client);
    hello_free(&h);
    pthread_mutex_lock(&s->lock);
    old = s->client;
    s->client = client;
    pthread_mutex_unlock(&s->lock);
    wire_client_destroy(&old);
    return st;
}

status service_wire_create(service *s)
{
    while (s->epoch == 0) {
        if (getrandom(&s->epoch, sizeof(s->epoch), 0) != (ssize_t)sizeof(s->epoch))
            return FAIL(ST_IO, "cannot draw an epoch: %s", strerror(errno));
    }
    TRY(assets_load(s));
    service_grammars_prepare(s);
    return client_open(s);
}

void service_wire_destroy(service *s)
{
    wire_client_destroy(&s->client);
    shard_grammar_vocab_destroy(&s->grammar_vocab);
    shard_text_assets_free(s->assets, s->n_assets);
    free(s->digests);
}

/* ---- sending ---- */

static status send_envelope(service *s, const Trireme__Envelope *e)
{
    return wire_client_send(s->client, e);
}

static status send_aborted(service *s, const service_batch *b)
{
    Trireme__Aborted a = TRIREME__ABORTED__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    a.id = b->aborted_id;
    a.status = b->aborted;
    a.message = (char *)(uintptr_t)b->message;
    a.retry = b->retry;
    e.body_case = TRIREME__ENVELOPE__BODY_ABORTED;
    e.aborted = &a;
    return send_envelope(s, &e);
}

static void send_goodbye(service *s, const char *reason, bool again)
{
    Trireme__Goodbye g = TRIREME__GOODBYE__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    g.reason = (char *)(uintptr_t)reason;
    g.retry = again;
    e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e.goodbye = &g;
    send_envelope(s, &e);
}

static void send_health(service *s, double stalled, const char *detail)
{
    Trireme__Health h = TRIREME__HEALTH__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    h.ok = detail[0] == '\0';
    h.stalled_seconds = stalled;
    h.detail = (char *)(uintptr_t)detail;
    e.body_case = TRIREME__ENVELOPE__BODY_HEALTH;
    e.health = &h;
    send_envelope(s, &e);
}

/* The messages of one Tokens: arrays that point into each other. */
typedef struct tokens_message {
    Trireme__Event *events, **event_ptrs;
    Trireme__LogProb *tops, **top_ptrs;
} tokens_message;

static status tokens_message_make(const service_batch *b, tokens_message *t)
{
    TRY(mem_calloc(b->n, sizeof(*t->events), "events", &t->events));
    TRY(mem_calloc(b->n, sizeof(*t->event_ptrs), "events", &t->event_ptrs));
    TRY(mem_calloc(b->n_tops + 1, sizeof(*t->tops), "events", &t->tops));
    TRY(mem_calloc(b->n_tops + 1, sizeof(*t->top_ptrs), "events", &t->top_ptrs));
    for (size_t i = 0; i < b->n_tops; i++) {
        trireme__log_prob__init(&t->tops[i]);
        t->tops[i].token = b->tops[i].token;
        t->tops[i].logprob = b->tops[i].logprob;
        t->tops[i].rank = b->tops[i].rank;
        t->top_ptrs[i] = &t->tops[i];
    }
    for (size_t i = 0; i < b->n; i++) {
        const service_event *e = &b->events[i];
        Trireme__Event *m = t->event_ptrs[i] = &t->events[i];
        trireme__event__init(m);
        m->id = e->gateway_id;
        m->prompt = e->prompt;
        m->index = e->index;
        m->token = e->token;
        m->finish = e->finish;
        m->hash = e->hash;
        m->logprob = e->logprob;
        m->rank = e->rank;
        m->n_top = e->n_top;
        m->top = e->n_top > 0 ? t->top_ptrs + e->first_top : NULL;
        m->cached_tokens = e->cached_tokens;
        m->queue_seconds = e->queue_seconds;
        m->prefill_seconds = e->prefill_seconds;
        m->n_embedding = e->n_embedding;
        m->embedding = e->n_embedding > 0 ? b->floats + e->first_float : NULL;
    }
    return ST_OK;
}

static void tokens_message_free(tokens_message *t)
{
    free(t->events);
    free(t->event_ptrs);
    free(t->tops);
    free(t->top_ptrs);
}

/* About what an event takes when packed. */
static size_t event_bytes(const service_event *e)
{
    return 80 + e->n_top * 20 + e->n_embedding * sizeof(float);
}

/* From where the last attempt stopped. */
static status send_tokens(service *s, service_batch *b)
{
    tokens_message t = {0};
    status st = tokens_message_make(b, &t);
    for (size_t n = 0; st == ST_OK && b->sent < b->n;) {
        size_t bytes = 0;
        for (n = 0; b->sent + n < b->n && (n == 0 || bytes + event_bytes(&b->events[b->sent + n]) <= MESSAGE_BYTES); n++)
            bytes += event_bytes(&b->events[b->sent + n]);
        Trireme__Tokens tokens = TRIREME__TOKENS__INIT;
        Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
        tokens.step = b->step;
        tokens.n_events = n;
        tokens.events = t.event_ptrs + b->sent;
        e.body_case = TRIREME__ENVELOPE__BODY_TOKENS;
        e.tokens = &tokens;
        st = send_envelope(s, &e);
        b->sent += st == ST_OK ? n : 0;
    }
    tokens_message_free(&t);
    return st;
}

/* ---- the session's end and beginning ---- */

/* What was submitted is void; nothing of it is answered. */
static void session_end(service *s)
{
    service_command *c;
    s->welcomed = false;
    uint64_t session = atomic_fetch_add(&s->session, 1);
    if (mem_calloc(1, sizeof(*c), "a command", &c) != ST_OK)
        return;
    c->kind = COMMAND_VOID;
    c->session = session;
    service_command_push(s, &c);
}

/* The step thread appends only: the first one is ours until it is dropped. */
static service_batch *outbox_first(service *s, size_t *bytes)
{
    pthread_mutex_lock(&s->lock);
    service_batch *b = s->batches;
    *bytes = s->outbox_bytes;
    pthread_mutex_unlock(&s->lock);
    return b;
}

static void outbox_drop_first(service *s)
{
    pthread_mutex_lock(&s->lock);
    service_batch *b = s->batches;
    s->batches = b->next;
    if (s->batches == NULL)
        s->batches_end = &s->batches;
    s->outbox_bytes -= service_batch_bytes(b);
    pthread_mutex_unlock(&s->lock);
    service_batch_free(&b);
}

/* True when nothing is left. */
static bool outbox_send(service *s)
{
    status st = ST_OK;
    size_t bytes;
    service_batch *b;
    while ((b = outbox_first(s, &bytes)) != NULL && st == ST_OK) {
        if (b->session == atomic_load(&s->session))
            st = b->n > 0 ? send_tokens(s, b) : send_aborted(s, b);
        if (st == ST_LIMIT)
            break;
        if (st == ST_NOT_FOUND) /* the session's end is about to be told */
            st = ST_OK;
        outbox_drop_first(s);
        s->outbox_moved = log_clock();
    }
    if (b == NULL)
        s->outbox_moved = log_clock();
    bool slow = st == ST_LIMIT && (bytes > SERVICE_OUTBOX_BYTES / 2 || log_clock() - s->outbox_moved > SLOW_SECONDS);
    if (s->welcomed && (slow || (st != ST_OK && st != ST_LIMIT))) { /* tokens would be missing in the middle of answers: the session must end */
        if (slow)
            log_warn("the gateway reads too slowly, %zu KiB of answers wait: its session ends", bytes >> 10);
        else
            log_warn("answers cannot be sent (%s): the gateway's session ends", status_message());
        session_end(s);
        s->verdict = client_open(s);
    }
    return b == NULL;
}

/* ---- the gateway's messages ---- */

/* By way of the outbox: a full queue must not lose it. */
static void send_back(service *s, uint64_t id, status why, const char *message, bool again)
{
    status st = service_send_back(s, atomic_load(&s->session), id, why, message, again);
    if (st != ST_OK)
        s->verdict = st; /* an answer that is lost would be waited for */
}

static void take_submit(service *s, const Trireme__Submit *m)
{
    service_command *c = NULL;
    if (s->draining) {
        send_back(s, m->id, ST_BUSY, "the replica is leaving", true);
        return;
    }
    if (atomic_load(&s->alive) >= s->opt.max_waiting + s->opt.max_seqs || atomic_load(&s->bytes) > QUEUE_BYTES) {
        send_back(s, m->id, ST_BUSY, "the replica's queue is full", true);
        return;
    }
    status st = service_request_of(s, m, &c);
    if (st != ST_OK) {
        send_back(s, m->id, st, status_message(), false);
        return;
    }
    c->session = atomic_load(&s->session);
    c->arrival = log_clock();
    atomic_fetch_add(&s->alive, 1);
    atomic_fetch_add(&s->bytes, c->bytes);
    service_command_push(s, &c);
}

static void take_cancel(service *s, const Trireme__Cancel *m)
{
    service_command *c;
    if (mem_calloc(1, sizeof(*c), "a command", &c) != ST_OK)
        return;
    c->kind = COMMAND_CANCEL;
    c->session = atomic_load(&s->session);
    c->gateway_id = m->id;
    service_command_push(s, &c);
}

static void take_asset_request(service *s, const Trireme__AssetRequest *m)
{
    Trireme__AssetChunk chunk = TRIREME__ASSET_CHUNK__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    size_t i = 0;
    while (i < s->n_assets && memcmp(s->digests[i], m->sha256.data, HASH_SHA256_BYTES) != 0)
        i++;
    chunk.sha256 = m->sha256;
    chunk.offset = m->offset;
    if (i < s->n_assets && m->offset < s->assets[i].len) { /* else an empty chunk: there is nothing */
        size_t left = s->assets[i].len - m->offset;
        chunk.data.data = (uint8_t *)s->assets[i].data + m->offset;
        chunk.data.len = left < m->bytes ? left : m->bytes;
    }
    e.body_case = TRIREME__ENVELOPE__BODY_ASSET_CHUNK;
    e.asset_chunk = &chunk;
    send_envelope(s, &e);
}

static void drain_begin(service *s, double seconds, const char *why)
{
    if (s->draining)
        return;
    s->draining = true;
    s->drain_deadline = seconds > 0 ? log_clock() + seconds : 0;
    s->load_at = 0; /* tell at once */
    log_info("%s: %d requests run to their end, no more are taken", why, atomic_load(&s->alive));
}

static void take_message(service *s, const Trireme__Envelope *e)
{
    switch (e->body_case) {
    case TRIREME__ENVELOPE__BODY_WELCOME:
        s->welcomed = true;
        s->load_at = 0;
        log_info("in service: gateway %s at %s", e->welcome->gateway, s->opt.endpoint);
        break;
    case TRIREME__ENVELOPE__BODY_GOODBYE:
        if (!e->goodbye->retry)
            s->verdict = FAIL(ST_INVALID, "the gateway at %s sends this replica away: %s", s->opt.endpoint, e->goodbye->reason);
        break;
    case TRIREME__ENVELOPE__BODY_SUBMIT:
        take_submit(s, e->submit);
        break;
    case TRIREME__ENVELOPE__BODY_CANCEL:
        take_cancel(s, e->cancel);
        break;
    case TRIREME__ENVELOPE__BODY_ASSET_REQUEST:
        take_asset_request(s, e->asset_request);
        break;
    case TRIREME__ENVELOPE__BODY_DRAIN:
        drain_begin(s, e->drain->deadline_ms * 1e-3, "the gateway drains this replica");
        break;
    default:
        break;
    }
}

/* ---- loads ---- */

static void rank_load(const service *s, int i, const coord_rank_load *l, Trireme__RankLoad *m)
{
    const coord_rank_report *r = &s->reports[i];
    trireme__rank_load__init(m);
    m->rank = r->rank;
    m->stage = r->stage;
    m->tp_index = r->tp_index;
    m->host = (char *)(uintptr_t)r->host;
    m->resident_bytes = (int64_t)(l->resident_bytes > 0 ? l->resident_bytes : r->resident_bytes);
    m->weight_bytes = (int64_t)r->weight_bytes;
    m->kv_bytes = (int64_t)r->kv_bytes;
    m->steps = l->steps;
    m->step_seconds = l->step_seconds;
    m->exchange_seconds = l->exchange_seconds;
    m->wait_seconds = l->wait_seconds;
    m->skew_seconds = l->skew_seconds;
}

/* The KV group that is fullest speaks for all. */
static void load_blocks(const service *s, const coord_sched_stats *stats, Trireme__Load *m)
{
    const shard_plan *plan = coord_replica_plan(s->replica);
    double least = 2;
    for (int g = 0; g < s->arch->n_kv_groups; g++) {
        double free_part = (double)stats->free_blocks[g] / (double)plan->kv_blocks[g];
        if (free_part >= least)
            continue;
        least = free_part;
        m->kv_blocks = plan->kv_blocks[g];
        m->kv_blocks_free = stats->free_blocks[g];
        m->kv_blocks_cached = stats->cached_blocks[g];
    }
}

static status send_load(service *s)
{
    Trireme__Load m = TRIREME__LOAD__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    Trireme__RankLoad *ranks = NULL, **ptrs = NULL;
    coord_rank_load *loads = NULL;
    uint32_t buckets[COORD_STEP_BUCKETS];
    size_t n = (size_t)s->n_ranks;
    status st = mem_calloc(n, sizeof(*ranks), "figures", &ranks);
    if (st == ST_OK)
        st = mem_calloc(n, sizeof(*ptrs), "figures", &ptrs);
    if (st == ST_OK)
        st = mem_calloc(n, sizeof(*loads), "figures", &loads);
    if (st == ST_OK) {
        pthread_mutex_lock(&s->lock);
        coord_sched_stats stats = s->stats;
        memcpy(loads, s->loads, n * sizeof(*loads));
        pthread_mutex_unlock(&s->lock);
        for (size_t i = 0; i < n; i++) {
            rank_load(s, (int)i, &loads[i], &ranks[i]);
            ptrs[i] = &ranks[i];
        }
        load_blocks(s, &stats, &m);
        m.running = stats.n_running;
        m.waiting = stats.n_waiting;
        m.preemptions = stats.n_preemptions;
        m.steps = stats.n_steps;
        m.prompt_tokens = stats.n_prompt_tokens;
        m.generated_tokens = stats.n_generated_tokens;
        m.prefix_queries = stats.prefix_queries;
        m.prefix_hits = stats.prefix_hits;
        for (int i = 0; i < COORD_STEP_BUCKETS; i++)
            buckets[i] = stats.steps_by_tokens[i] < UINT32_MAX ? (uint32_t)stats.steps_by_tokens[i] : UINT32_MAX;
        m.n_step_tokens_buckets = COORD_STEP_BUCKETS;
        m.step_tokens_buckets = buckets;
        m.draining = s->draining;
        m.n_ranks = n;
        m.ranks = ptrs;
        e.body_case = TRIREME__ENVELOPE__BODY_LOAD;
        e.load = &m;
        st = send_envelope(s, &e);
    }
    free(ranks);
    free(ptrs);
    free(loads);
    return st;
}

/* ---- the watchdog ---- */

static double stalled_seconds(const service *s)
{
    if (!atomic_load(&s->working))
        return 0;
    double stalled = log_clock() - atomic_load(&s->progress);
    return stalled > 0 ? stalled : 0;
}

/* The step thread's end, for as long as we can wait. */
static bool step_thread_ended(service *s, double seconds)
{
    wire_received in;
    bool ended = false;
    for (double until = log_clock() + seconds; !ended && log_clock() < until;) {
        if (wire_client_receive(s->client, LOOK_MS, &in) != ST_OK) /* what we said last is on its way meanwhile */
            usleep(LOOK_MS * 1000);
        pthread_mutex_lock(&s->lock);
        ended = s->ended;
        pthread_mutex_unlock(&s->lock);
    }
    return ended;
}

/* A step hangs: says so, and ends the job.  A thread that hangs cannot be ended any other way than with its process. */
static void stall_end(service *s, double stalled)
{
    char at[256], why[512];
    coord_replica_activity(s->replica, at, sizeof(at));
    snprintf(why, sizeof(why), "no step has ended for %.0f s (--step-timeout %.0f): %s", stalled, s->opt.step_timeout, at);
    s->stalled = true;
    if (s->welcomed) {
        send_health(s, stalled, why);
        send_goodbye(s, why, true);
    }
    coord_replica_abort(s->replica, why);
    if (step_thread_ended(s, END_SECONDS))
        return;
    pthread_mutex_lock(&s->lock);
    wire_client_destroy(&s->client); /* gives what is queued its time to leave */
    _exit(1);
}

/* ---- the end ---- */

static void let_end(service *s)
{
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

static void look_at_signals(service *s)
{
    int n = s->opt.signals == NULL ? 0 : (int)*s->opt.signals;
    if (n == s->signals_seen)
        return;
    s->signals_seen = n;
    drain_begin(s, s->opt.drain_seconds, "told to end");
    if (n > 1) /* several may have come since the last look */
        s->drain_deadline = log_clock();
}

/* Where a drain stands: true when all is done. */
static bool drained(service *s)
{
    service_command *c;
    if (!s->draining)
        return false;
    if (atomic_load(&s->alive) == 0)
        return true;
    if (s->drain_deadline > 0 && log_clock() >= s->drain_deadline && mem_calloc(1, sizeof(*c), "a command", &c) == ST_OK) {
        c->kind = COMMAND_ABORT;
        s->drain_deadline = log_clock() + END_SECONDS;
        service_command_push(s, &c);
    }
    return false;
}

static void look(service *s)
{
    double now = log_clock(), stalled = stalled_seconds(s);
    look_at_signals(s);
    if (s->welcomed && now - s->load_at >= LOAD_SECONDS) {
        s->load_at = now;
        send_load(s);
        send_health(s, stalled, "");
    }
    if (stalled >= s->opt.step_timeout && !s->stalled)
        stall_end(s, stalled);
}

/* The last word is said.  Closing a connection may lose what the other side has not read, so it answers, and we wait for that. */
static void await_answer(service *s)
{
    wire_received in;
    for (double until = log_clock() + GOODBYE_SECONDS; log_clock() < until;) {
        if (wire_client_receive(s->client, LOOK_MS, &in) != ST_OK || in.kind == WIRE_GONE ||
            (in.kind == WIRE_MESSAGE && in.message->body_case == TRIREME__ENVELOPE__BODY_GOODBYE))
            return;
    }
}

static void *wire_end(service *s)
{
    wire_received in;
    if (s->verdict != ST_OK)
        session_end(s);
    for (double until = log_clock() + GOODBYE_SECONDS; !outbox_send(s) && s->welcomed && log_clock() < until;) {
        if (wire_client_receive(s->client, UNSENT_MS, &in) != ST_OK || in.kind == WIRE_GONE)
            break;
    }
    if (s->welcomed && !s->stalled) {
        pthread_mutex_lock(&s->lock);
        bool broke = s->ended && s->result != ST_OK;
        pthread_mutex_unlock(&s->lock);
        send_goodbye(s, broke ? s->why : "the replica leaves", broke);
        await_answer(s);
    }
    let_end(s);
    return NULL;
}

void *service_wire_main(void *arg)
{
    service *s = arg;
    bool all_sent = true;
    for (;;) {
        wire_received in;
        s->verdict = wire_client_receive(s->client, all_sent ? LOOK_MS : UNSENT_MS, &in);
        if (s->verdict != ST_OK)
            return wire_end(s);
        if (in.kind == WIRE_GONE)
            session_end(s);
        else if (in.kind == WIRE_MESSAGE)
            take_message(s, in.message);
        if (s->verdict == ST_OK)
            all_sent = outbox_send(s);
        look(s);
        pthread_mutex_lock(&s->lock);
        bool ended = s->ended;
        pthread_mutex_unlock(&s->lock);
        if (ended || s->verdict != ST_OK || drained(s))
            return wire_end(s);
    }
}
