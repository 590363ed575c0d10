/* The core thread's side of calls: what is promised, which replica computes it, and what happens when that one does not. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/gateway/gateway_internal.h"

enum { MAX_CANDIDATES = 256 };
static const double BUSY_SECONDS = 0.05;   /* a replica whose queue of messages was full is left alone for so long */
static const double NO_ROOM_SECONDS = 1;   /* one that said it has no room gets no more than it has, for so long */

/* ---- calls by id ---- */

static call **bucket_of(const gateway *g, uint64_t id)
{
    return &g->calls[hash_mix(id) & (g->n_call_buckets - 1)];
}

static call *call_find(const gateway *g, uint64_t id)
{
    call *c = *bucket_of(g, id);
    while (c != NULL && c->id != id)
        c = c->chain;
    return c;
}

static void grow_calls(gateway *g)
{
    size_t n = g->n_call_buckets;
    call **old = g->calls, **grown = calloc(n * 2, sizeof(*grown));
    if (grown == NULL)
        return; /* longer chains */
    g->calls = grown;
    g->n_call_buckets = n * 2;
    for (size_t i = 0; i < n; i++) {
        for (call *c = old[i], *next; c != NULL; c = next) {
            next = c->chain;
            call **b = bucket_of(g, c->id);
            c->chain = *b;
            *b = c;
        }
    }
    free(old);
}

static void call_know(gateway *g, call *c)
{
    if (g->n_calls_known >= g->n_call_buckets)
        grow_calls(g);
    call **b = bucket_of(g, c->id);
    c->chain = *b;
    *b = c;
    g->n_calls_known++;
}

/* The core is done with it: its last event. */
static void call_leave(gateway *g, call *c)
{
    call **at = bucket_of(g, c->id);
    while (*at != NULL && *at != c)
        at = &(*at)->chain;
    if (*at == c) {
        *at = c->chain;
        g->n_calls_known--;
    }
    gateway_workers_post(g->workers, &c->actor, &c->end.work);
}

static void send_cancel(gateway *g, wire_peer peer, uint64_t id)
{
    Trireme__Cancel cancel = TRIREME__CANCEL__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    cancel.id = id;
    e.body_case = TRIREME__ENVELOPE__BODY_CANCEL;
    e.cancel = &cancel;
    if (peer != 0 && wire_server_send(g->wire, peer, &e) == ST_LIMIT)
        log_warn("a cancel found no room in a replica's queue: it goes on computing for nobody");
}

/* One sequence is over; not the call itself. */
static void sequence_end(gateway *g, call *c, int32_t i, bool tell)
{
    gateway_entry *e = c->entries[i];
    if (e == NULL)
        return;
    if (tell)
        send_cancel(g, e->peer, e->id);
    gateway_journal_end(g->journal, &c->entries[i]);
    c->n_live--;
}

static void end_all(gateway *g, call *c)
{
    for (int32_t i = 0; i < c->n_sequences; i++)
        sequence_end(g, c, i, true);
}

static void fail_call(gateway *g, call *c, const api_error *error, int retry_after_s)
{
    call_failure *f = calloc(1, sizeof(*f));
    end_all(g, c);
    g->n_failed++;
    if (f != NULL) {
        f->head.kind = WORK_FAIL;
        f->error = *error;
        f->retry_after_s = retry_after_s;
        gateway_workers_post(g->workers, &c->actor, &f->head.work);
    }
    call_leave(g, c);
}

/* ---- submitting ---- */

static bool has_room(gateway *g, const call *c, api_error *e)
{
    gateway_journal_stats s;
    gateway_journal_stats_get(g->journal, &s);
    int64_t n = (int64_t)s.n_unstarted + c->n_sequences;
    if (s.n_unstarted == 0 || (n <= (int64_t)g->opt.max_waiting + g->capacity && s.unstarted_tokens + c->n_prompt_tokens <= g->opt.max_waiting_tokens))
        return true;
    *e = (api_error){.http = 429, .type = "rate_limit_error", .code = "overloaded", .message = "too many requests are waiting: try again later"};
    return false;
}

static status promise_all(gateway *g, call *c)
{
    double now = gateway_clock();
    for (int32_t i = 0; i < c->n_sequences; i++) {
        const Trireme__Submit *s = &c->submits[i];
        gateway_promise p = {.owner = c, .sequence = i, .model = c->model->served, .priority = s->priority, .prompt = s->tokens, .n_prompt = (int32_t)s->n_tokens,
                             .deadline = now + g->opt.request_seconds};
        TRY(gateway_journal_add(g->journal, &p, now, &c->entries[i]));
        c->n_live++;
    }
    return ST_OK;
}

void dispatch_submit(gateway *g, call *c)
{
    api_error e = {0};
    if (atomic_load(&g->stopping)) {
        e = (api_error){.http = 503, .type = "server_error", .code = "draining", .message = "the gateway is going down"};
        fail_call(g, c, &e, 5);
        return;
    }
    if (c->request != NULL && http_request_gone(c->request)) {
        call_leave(g, c);
        return;
    }
    if (!has_room(g, c, &e)) {
        const char *labels[1] = {"capacity"};
        metrics_add(metrics_get(g->metrics, METRIC_REQUESTS_REFUSED, labels), 1);
        fail_call(g, c, &e, g->retry_after_s);
        return;
    }
    call_know(g, c);
    if (promise_all(g, c) != ST_OK) {
        e = (api_error){.http = 503, .type = "server_error", .message = "out of memory"};
        fail_call(g, c, &e, 5);
        return;
    }
    g->pump_again = true;
}

/* Tokens of a Submit that goes on where another replica stopped; NULL: out of memory.  Caller frees. */
static int32_t *joined_tokens(const gateway_entry *e)
{
    int32_t *all = malloc(((size_t)e->n_prompt + (size_t)e->n_tokens) * sizeof(*all));
    if (all != NULL) {
        memcpy(all, e->prompt, (size_t)e->n_prompt * sizeof(*all));
        memcpy(all + e->n_prompt, e->tokens, (size_t)e->n_tokens * sizeof(*all));
    }
    return all;
}

static status send_submit(gateway *g, const gateway_entry *e, wire_peer peer)
{
    const call *c = e->owner;
    Trireme__Submit s = c->submits[e->sequence];
    Trireme__Envelope envelope = TRIREME__ENVELOPE__INIT;
    int32_t *all = NULL;
    s.id = e->id;
    s.hash = e->hash;
    if (e->n_tokens > 0) {
        all = joined_tokens(e);
        if (all == NULL)
            return ST_LIMIT;
        s.tokens = all;
        s.n_tokens = (size_t)e->n_prompt + (size_t)e->n_tokens;
    }
    envelope.body_case = TRIREME__ENVELOPE__BODY_SUBMIT;
    envelope.submit = &s;
    status st = wire_server_send(g->wire, peer, &envelope);
    free(all);
    return st;
}

/* ---- choosing a replica ---- */

/* More are kept here, for whoever is free first. */
static int32_t most_at_once(const gateway_replica *r)
{
    return r->hello->max_num_seqs * 4 > 64 ? r->hello->max_num_seqs * 4 : 64;
}

static bool has_queue(const gateway *g, const gateway_replica *r, double now)
{
    int32_t load = gateway_journal_peer_load(g->journal, r->peer);
    return r->ready && !r->draining && !state_is_stalled(g, r, now) && load < most_at_once(r) && (r->busy_until <= now || load < r->busy_load);
}

static bool can_take(const gateway *g, const gateway_replica *r, const gateway_entry *e, double now)
{
    const call *c = e->owner;
    const Trireme__Submit *s = &c->submits[e->sequence];
    int64_t longest = (int64_t)e->n_prompt + (s->sampling != NULL ? s->sampling->max_tokens : 0);
    return r->served == e->model && (e->numerics == 0 || e->numerics == r->numerics) && longest <= r->hello->max_model_len && has_queue(g, r, now);
}

static gateway_candidate candidate_of(const gateway *g, const gateway_replica *r, const uint64_t *hashes, size_t n)
{
    gateway_candidate c = {.max_num_seqs = r->hello->max_num_seqs, .n_requests = gateway_journal_peer_load(g->journal, r->peer)};
    c.cached_tokens = (int32_t)gateway_prefixes_match(r->prefixes, hashes, n) * r->hello->block_tokens;
    if (r->load != NULL && r->load->kv_blocks > 0)
        c.kv_used = 1 - (double)r->load->kv_blocks_free / (double)r->load->kv_blocks;
    return c;
}

static gateway_replica *choose(gateway *g, const gateway_entry *e, double now)
{
    const call *c = e->owner;
    const uint64_t *hashes = c->hashes + c->hash_first[e->sequence];
    size_t n_hashes = c->hash_first[e->sequence + 1] - c->hash_first[e->sequence];
    gateway_replica *able[MAX_CANDIDATES], *avoided = NULL;
    gateway_candidate candidates[MAX_CANDIDATES];
    int n = 0;
    for (gateway_replica *r = gateway_registry_first(g->registry); r != NULL && n < MAX_CANDIDATES; r = r->next) {
        if (!can_take(g, r, e, now))
            continue;
        if (r->peer == e->avoid_peer) {
            avoided = r;
            continue;
        }
        candidates[n] = candidate_of(g, r, hashes, n_hashes);
        able[n++] = r;
    }
    int best = gateway_route(candidates, n, e->n_prompt);
    return best >= 0 ? able[best] : now - e->waiting_since >= BUSY_SECONDS ? avoided : NULL;
}

static void note_sent(gateway *g, gateway_entry *e, gateway_replica *r, double now)
{
    call *c = e->owner;
    if (gateway_journal_peer_load(g->journal, r->peer) == 0)
        r->progressed = now;
    gateway_prefixes_add(r->prefixes, c->hashes + c->hash_first[e->sequence], c->hash_first[e->sequence + 1] - c->hash_first[e->sequence]);
    if (e->replays > 0)
        log_info("a request goes on at replica %s after %d of its tokens", r->hello->replica, e->n_tokens);
    if (!c->sent && e->replays == 0) {
        uint64_t took = http_now() - c->arrived_ns;
        gateway_latency_add(&g->submit_latency, took);
        metrics_observe(metrics_get(g->metrics, METRIC_GATEWAY_SUBMIT_SECONDS, NULL), (double)took * 1e-9);
    }
    if (!c->sent || e->replays > 0)
        spans_sent(c, r);
    c->sent = true;
}

static void leave_alone(gateway_replica *r, int32_t load, double until)
{
    r->busy_load = load;
    r->busy_until = until;
}

/* Sends the entry to a replica if there is one for it.  false: its call failed, and with it other entries. */
static bool place(gateway *g, gateway_entry *e, double now)
{
    gateway_replica *r = choose(g, e, now);
    if (r == NULL)
        return true;
    status st = send_submit(g, e, r->peer);
    if (st == ST_INVALID) {
        api_error error = {.http = 400, .type = "invalid_request_error", .message = "the request is too large for one message to a replica"};
        fail_call(g, e->owner, &error, 0);
        return false;
    }
    if (st != ST_OK) {
        leave_alone(r, 0, now + BUSY_SECONDS);
        return true;
    }
    note_sent(g, e, r, now);
    if (gateway_journal_sent(g->journal, e, r->peer, r->numerics) != ST_OK) { /* it would be answered to nobody */
        send_cancel(g, r->peer, e->id);
        leave_alone(r, 0, now + BUSY_SECONDS);
    }
    return true;
}

void dispatch_pump(gateway *g)
{
    double now = gateway_clock();
    g->pump_again = false;
    const gateway_replica *r = gateway_registry_first(g->registry);
    while (r != NULL && !has_queue(g, r, now))
        r = r->next;
    if (r == NULL)
        return; /* thousands may be waiting: they are not looked at for nothing */
    for (gateway_entry *e = gateway_journal_waiting(g->journal), *next; e != NULL; e = next) {
        next = e->next;
        if (!place(g, e, now)) {
            g->pump_again = true;
            return;
        }
    }
}

/* ---- tokens ---- */

static size_t event_bytes(const Trireme__Event *e)
{
    return sizeof(call_event) + e->n_embedding * sizeof(float) + e->n_top * (sizeof(Trireme__LogProb *) + sizeof(Trireme__LogProb));
}

/* A deep copy in one block; what the api does not read (unknown fields) stays behind. */
static call_event *copy_event(const Trireme__Event *e)
{
    call_event *w = malloc(event_bytes(e));
    if (w == NULL)
        return NULL;
    memset(w, 0, sizeof(*w));
    w->head.kind = WORK_EVENT;
    w->event = *e;
    w->event.base.n_unknown_fields = 0;
    w->event.base.unknown_fields = NULL;
    Trireme__LogProb **pointers = (Trireme__LogProb **)(w + 1);
    Trireme__LogProb *top = (Trireme__LogProb *)(pointers + e->n_top);
    for (size_t i = 0; i < e->n_top; i++) {
        top[i] = *e->top[i];
        top[i].base.n_unknown_fields = 0;
        top[i].base.unknown_fields = NULL;
        pointers[i] = &top[i];
    }
    w->event.top = pointers;
    w->event.embedding = (float *)(top + e->n_top);
    if (e->n_embedding > 0)
        memcpy(w->event.embedding, e->embedding, e->n_embedding * sizeof(float));
    return w;
}

static void hand_on(gateway *g, const gateway_replica *r, gateway_entry *e, const Trireme__Event *event, uint64_t step, uint64_t received_ns)
{
    call *c = e->owner;
    int32_t i = e->sequence;
    call_event *w = copy_event(event);
    if (w == NULL) {
        api_error error = {.http = 503, .type = "server_error", .message = "out of memory"};
        fail_call(g, c, &error, 5);
        return;
    }
    w->sequence = i;
    w->received_ns = received_ns;
    w->step = step;
    w->replays = e->replays;
    snprintf(w->replica, sizeof(w->replica), "%s", r->hello->replica);
    gateway_workers_post(g->workers, &c->actor, &w->head.work);
    if (event->prompt || event->finish == 0)
        return;
    sequence_end(g, c, i, false);
    if (c->n_live == 0) {
        spans_computed(c, r);
        g->n_finished++;
        call_leave(g, c);
    }
}

static void take_event(gateway *g, gateway_replica *r, const Trireme__Event *event, uint64_t step, uint64_t received_ns)
{
    gateway_token t = {.id = event->id, .prompt = event->prompt, .index = event->index, .token = event->token, .hash = event->hash};
    gateway_verdict verdict;
    gateway_entry *e = NULL;
    api_error error = {.http = 500, .type = "server_error"};
    if (gateway_journal_token(g->journal, r->peer, &t, &verdict, &e) != ST_OK) {
        snprintf(error.message, sizeof(error.message), "out of memory");
        fail_call(g, e->owner, &error, 5);
    } else if (verdict == GATEWAY_TAKE) {
        hand_on(g, r, e, event, step, received_ns);
    } else if (verdict == GATEWAY_GAP) {
        log_error("replica %s: token %d of a request came, %d was expected", r->hello->replica, event->index, e->n_tokens);
        snprintf(error.message, sizeof(error.message), "the replica left out a token");
        fail_call(g, e->owner, &error, 0);
    }
}

void dispatch_tokens(gateway *g, wire_peer peer, const Trireme__Tokens *t, uint64_t received_ns)
{
    gateway_replica *r = gateway_registry_find(g->registry, peer);
    if (r == NULL)
        return;
    r->progressed = gateway_clock();
    r->n_tokens += t->n_events;
    for (size_t i = 0; i < t->n_events; i++)
        take_event(g, r, t->events[i], t->step, received_ns);
    if (gateway_journal_waiting(g->journal) != NULL)
        g->pump_again = true; /* room may be there now */
}

/* ---- when it does not go on ---- */

static api_error abort_error(const Trireme__Aborted *a)
{
    api_error e = {.http = 500, .type = "server_error"};
    if (a->status == ST_INVALID || a->status == ST_UNSUPPORTED || a->status == ST_LIMIT)
        e = (api_error){.http = 400, .type = "invalid_request_error"};
    else if (a->status == ST_BUSY || a->status == ST_NO_MEMORY)
        e = (api_error){.http = 503, .type = "server_error", .code = "overloaded"};
    snprintf(e.message, sizeof(e.message), "%s", a->message[0] != '\0' ? a->message : status_text((status)a->status));
    return e;
}

void dispatch_aborted(gateway *g, wire_peer peer, const Trireme__Aborted *a)
{
    gateway_entry *e = gateway_journal_find(g->journal, a->id);
    if (e == NULL || e->peer != peer)
        return;
    if (a->retry) {
        gateway_replica *r = gateway_registry_find(g->registry, peer);
        bool no_room = a->status == ST_BUSY;
        gateway_journal_retry(g->journal, e, !no_room, gateway_clock());
        if (r != NULL && no_room)
            leave_alone(r, gateway_journal_peer_load(g->journal, peer), gateway_clock() + NO_ROOM_SECONDS);
        g->pump_again = true;
        return;
    }
    api_error error = abort_error(a);
    fail_call(g, e->owner, &error, error.http == 503 ? 5 : 0);
}

void dispatch_cancel(gateway *g, uint64_t call_id, int32_t sequence)
{
    call *c = call_find(g, call_id);
    if (c == NULL)
        return;
    if (sequence < 0)
        end_all(g, c);
    else if (sequence < c->n_sequences)
        sequence_end(g, c, sequence, true);
    if (c->n_live > 0)
        return;
    *(sequence < 0 ? &g->n_cancelled : &g->n_finished) += 1;
    call_leave(g, c);
}

void dispatch_replica_left(gateway *g, const gateway_replica *r)
{
    int n = gateway_journal_gone(g->journal, r->peer, gateway_clock());
    if (n > 0) {
        const char *labels[1] = {r->hello->model};
        metrics_add(metrics_get(g->metrics, METRIC_REPLAYS, labels), n);
        log_warn("replica %s left %d request%s: they go on elsewhere, or after its restart", r->hello->replica, n, n == 1 ? "" : "s");
    }
    state_hide_replica(g, r);
    g->pump_again = true;
}

static api_error give_up_error(const gateway *g, gateway_give_up why)
{
    api_error e = {.http = 503, .type = "server_error", .code = "no_replica"};
    if (why == GATEWAY_DEADLINE) {
        e = (api_error){.http = 504, .type = "server_error", .code = "timeout"};
        snprintf(e.message, sizeof(e.message), "the request was not over within %.0f s", g->opt.request_seconds);
    } else if (why == GATEWAY_ATTEMPTS) {
        e = (api_error){.http = 500, .type = "server_error", .code = "replica_failed"};
        snprintf(e.message, sizeof(e.message), "%d replicas in a row failed while computing this request", g->opt.max_replays);
    } else {
        snprintf(e.message, sizeof(e.message), "no replica could take the request within %.0f s", g->opt.replay_seconds);
    }
    return e;
}

void dispatch_expire(gateway *g)
{
    gateway_give_up why;
    gateway_entry *e;
    double now = gateway_clock();
    while ((e = gateway_journal_expired(g->journal, now, &why)) != NULL) {
        api_error error = give_up_error(g, why);
        fail_call(g, e->owner, &error, why == GATEWAY_WAITED ? 5 : 0);
    }
}

void dispatch_fail_all(gateway *g)
{
    api_error e = {.http = 503, .type = "server_error", .code = "draining", .message = "the gateway is going down"};
    for (size_t i = 0; i < g->n_call_buckets; i++)
        while (g->calls[i] != NULL)
            fail_call(g, g->calls[i], &e, 5);
}
