#include "coordinator/service.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/service_internal.h"

#define IDLE_SECONDS 0.1     /* between looks for dead ranks while there is nothing to run */
#define PUBLISH_SECONDS 0.05
#define LOADS_SECONDS 0.4

void service_command_free(service_command **command)
{
    service_command *c = *command;
    if (c == NULL)
        return;
    free(c->tokens);
    free(c->lists);
    free(c->salt);
    free(c);
    *command = NULL;
}

void service_batch_free(service_batch **batch)
{
    service_batch *b = *batch;
    if (b == NULL)
        return;
    free(b->events);
    free(b->tops);
    free(b->floats);
    free(b);
    *batch = NULL;
}

void service_command_push(service *s, service_command **c)
{
    pthread_mutex_lock(&s->lock);
    (*c)->next = NULL;
    *s->commands_end = *c;
    s->commands_end = &(*c)->next;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    *c = NULL;
}

/* ---- requests under way ---- */

static int32_t *bucket_of(const service *s, uint64_t gateway_id)
{
    return &s->buckets[hash_mix(gateway_id) % (uint64_t)s->n_entries];
}

static service_entry *entry_find(service *s, uint64_t session, uint64_t gateway_id)
{
    int32_t i = *bucket_of(s, gateway_id);
    while (i >= 0 && (s->entries[i].gateway_id != gateway_id || s->entries[i].session != session))
        i = s->entries[i].next;
    return i < 0 ? NULL : &s->entries[i];
}

/* NULL: no room, which the wire thread's count prevents. */
static service_entry *entry_add(service *s, const service_command *c)
{
    int32_t i = s->first_free, *bucket = bucket_of(s, c->gateway_id);
    if (i < 0)
        return NULL;
    service_entry *e = &s->entries[i];
    s->first_free = e->next;
    *e = (service_entry){.id = ++s->serial * (uint64_t)s->n_entries + (uint64_t)i, .gateway_id = c->gateway_id, .session = c->session,
                         .arrival = c->arrival, .bytes = c->bytes, .next = *bucket};
    *bucket = i;
    s->n_under_way++;
    return e;
}

static void entry_remove(service *s, service_entry *e)
{
    int32_t i = (int32_t)(e - s->entries), *at = bucket_of(s, e->gateway_id);
    while (*at != i)
        at = &s->entries[*at].next;
    *at = e->next;
    s->n_gone++;
    s->gone_bytes += e->bytes;
    *e = (service_entry){.next = s->first_free};
    s->first_free = i;
    s->n_under_way--;
}

/* Requests count as alive until what ended them lies in the outbox. */
static void settle(service *s)
{
    atomic_fetch_sub(&s->bytes, s->gone_bytes);
    atomic_fetch_sub(&s->alive, s->n_gone);
    s->gone_bytes = 0;
    s->n_gone = 0;
}

/* ---- what goes out ---- */

size_t service_batch_bytes(const service_batch *b)
{
    return sizeof(*b) + b->cap * sizeof(*b->events) + b->cap_tops * sizeof(*b->tops) + b->cap_floats * sizeof(*b->floats);
}

static status batch_push(service *s, service_batch **batch)
{
    size_t bytes = service_batch_bytes(*batch);
    pthread_mutex_lock(&s->lock);
    bool full = s->outbox_bytes + bytes > SERVICE_OUTBOX_BYTES;
    if (!full) {
        s->outbox_bytes += bytes;
        (*batch)->next = NULL;
        *s->batches_end = *batch;
        s->batches_end = &(*batch)->next;
        *batch = NULL;
        if (s->client != NULL)
            wire_client_wake(s->client);
    }
    pthread_mutex_unlock(&s->lock);
    return full ? FAIL(ST_INTERNAL, "%zu MiB of answers wait to be sent: the wire thread does not get on", SERVICE_OUTBOX_BYTES >> 20) : ST_OK;
}

status service_send_back(service *s, uint64_t session, uint64_t gateway_id, status why, const char *message, bool retry)
{
    service_batch *b;
    TRY(mem_calloc(1, sizeof(*b), "an answer", &b));
    b->session = session;
    b->aborted_id = gateway_id;
    b->aborted = why;
    b->retry = retry;
    size_t n = strnlen(message, sizeof(b->message) - 1);
    memcpy(b->message, message, n);
    status st = batch_push(s, &b);
    service_batch_free(&b);
    return st;
}

static status event_add(service *s, service_entry *e, const coord_event *c)
{
    service_batch *b = s->batch;
    if (b == NULL) {
        TRY(mem_calloc(1, sizeof(*b), "events", &b));
        b->session = e->session;
        s->batch = b;
    }
    TRY(mem_grow(&b->events, &b->cap, b->n + 1, sizeof(*b->events), "a step's events"));
    TRY(mem_grow(&b->tops, &b->cap_tops, b->n_tops + (size_t)c->n_top, sizeof(*b->tops), "a step's events"));
    TRY(mem_grow(&b->floats, &b->cap_floats, b->n_floats + (size_t)c->n_embedding, sizeof(*b->floats), "a step's events"));
    service_event *out = &b->events[b->n++];
    *out = (service_event){.gateway_id = e->gateway_id, .hash = c->hash, .prompt = c->prompt, .index = c->index, .token = c->token, .rank = c->rank,
                           .finish = c->finish, .logprob = c->logprob, .first_top = b->n_tops, .n_top = (size_t)c->n_top, .first_float = b->n_floats,
                           .n_embedding = (size_t)c->n_embedding};
    if (c->n_top > 0)
        memcpy(b->tops + b->n_tops, c->top, (size_t)c->n_top * sizeof(*b->tops));
    if (c->n_embedding > 0)
        memcpy(b->floats + b->n_floats, c->embedding, (size_t)c->n_embedding * sizeof(*b->floats));
    b->n_tops += (size_t)c->n_top;
    b->n_floats += (size_t)c->n_embedding;
    if (!e->told) {
        e->told = true;
        out->cached_tokens = c->cached_tokens;
        out->queue_seconds = c->began - e->arrival;
        out->prefill_seconds = log_clock() - c->began;
    }
    return ST_OK;
}

static status event_take(service *s, const coord_event *c)
{
    service_entry *e = &s->entries[c->id % (uint64_t)s->n_entries];
    if (e->id != c->id)
        return FAIL(ST_INTERNAL, "an event of request %llu, which is not under way", (unsigned long long)c->id);
    if (c->finish == STEP_NO_TOKEN || c->finish == STEP_NOT_NUMBERS) {
        const char *why = c->finish == STEP_NO_TOKEN ? "no token can follow: bans, allowed tokens and grammar of this request leave none"
                                                     : "the logits of this request are not numbers";
        TRY(service_send_back(s, e->session, e->gateway_id, ST_INVALID, why, false));
    } else {
        TRY(event_add(s, e, c));
    }
    if (c->finish != STEP_GOES_ON)
        entry_remove(s, e);
    return ST_OK;
}

static void on_event(void *arg, const coord_event *c)
{
    service *s = arg;
    if (s->failed == ST_OK)
        s->failed = event_take(s, c);
}

/* ---- commands ---- */

static status submit(service *s, service_command *c)
{
    if (entry_find(s, c->session, c->gateway_id) != NULL) {
        s->n_gone++;
        s->gone_bytes += c->bytes;
        return service_send_back(s, c->session, c->gateway_id, ST_INVALID, "a request of this id is under way", false);
    }
    service_entry *e = entry_add(s, c);
    if (e == NULL)
        return FAIL(ST_INTERNAL, "more requests under way than there is room for");
    c->request.id = e->id;
    status_mute();
    status st = coord_replica_submit(s->replica, &c->request);
    status_unmute();
    if (st == ST_OK)
        return ST_OK;
    entry_remove(s, e);
    return service_send_back(s, c->session, c->gateway_id, st, status_message(), st == ST_NO_MEMORY);
}

static void cancel(service *s, service_entry *e)
{
    coord_replica_cancel(s->replica, e->id);
    entry_remove(s, e);
}

static status cancel_all(service *s, bool tell)
{
    for (int32_t i = 0; i < s->n_entries; i++) {
        service_entry *e = &s->entries[i];
        if (e->id == 0)
            continue;
        if (tell)
            TRY(service_send_back(s, e->session, e->gateway_id, ST_ABORTED, "the replica leaves", true));
        cancel(s, e);
    }
    return ST_OK;
}

static status command_do(service *s, service_command *c)
{
    service_entry *e;
    switch (c->kind) {
    case COMMAND_SUBMIT:
        return submit(s, c);
    case COMMAND_CANCEL:
        e = entry_find(s, c->session, c->gateway_id);
        if (e != NULL) /* else it has ended meanwhile */
            cancel(s, e);
        return ST_OK;
    case COMMAND_VOID:
        return cancel_all(s, false);
    case COMMAND_ABORT:
        return cancel_all(s, true);
    }
    return ST_OK;
}

static status commands_do(service *s, service_command *list)
{
    status st = ST_OK;
    while (list != NULL) {
        service_command *c = list;
        list = c->next;
        if (st == ST_OK)
            st = command_do(s, c);
        service_command_free(&c);
    }
    return st;
}

/* ---- the step thread ---- */

static void publish(service *s, bool now)
{
    double clock = log_clock();
    if (!now && clock - s->published < PUBLISH_SECONDS)
        return;
    coord_sched_stats stats;
    coord_replica_sched_stats(s->replica, &stats);
    pthread_mutex_lock(&s->lock);
    s->stats = stats;
    if (clock - s->loads_published >= LOADS_SECONDS) {
        coord_replica_loads(s->replica, s->loads);
        s->loads_published = clock;
    }
    pthread_mutex_unlock(&s->lock);
    s->published = clock;
}

/* Commands that came; with `idle` waits a while for some.  true in *end: nothing will come any more. */
static service_command *commands_take(service *s, bool idle, bool *end)
{
    struct timespec until;
    pthread_mutex_lock(&s->lock);
    if (idle && s->commands == NULL && !s->ending) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += (long)(IDLE_SECONDS * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->wake, &s->lock, &until);
    }
    service_command *list = s->commands;
    s->commands = NULL;
    s->commands_end = &s->commands;
    *end = s->ending && list == NULL;
    pthread_mutex_unlock(&s->lock);
    return list;
}

static status run_step(service *s, bool *idle)
{
    if (!atomic_load(&s->working)) {
        atomic_store(&s->progress, log_clock());
        atomic_store(&s->working, true);
    }
    TRY(coord_replica_run(s->replica, on_event, s, idle));
    TRY(s->failed);
    atomic_store(&s->progress, log_clock());
    if (s->batch != NULL) {
        coord_sched_stats stats;
        coord_replica_sched_stats(s->replica, &stats);
        s->batch->step = stats.n_steps;
        TRY(batch_push(s, &s->batch));
    }
    return ST_OK;
}

static status step_loop(service *s)
{
    bool idle = true, end = false;
    for (;;) {
        service_command *list = commands_take(s, idle, &end);
        bool came = list != NULL;
        TRY(commands_do(s, list));
        settle(s);
        if (idle && !came) {
            if (end)
                return ST_OK;
            TRY(coord_replica_poll(s->replica));
            publish(s, false);
            continue;
        }
        TRY(run_step(s, &idle));
        settle(s);
        if (idle) {
            atomic_store(&s->working, false);
            if (s->n_under_way > 0)
                return FAIL(ST_INTERNAL, "%d requests wait, and no step can be made for them", s->n_under_way);
        }
        publish(s, idle);
    }
}

/* ---- life ---- */

static status entries_create(service *s)
{
    s->n_entries = s->opt.max_waiting + s->opt.max_seqs;
    TRY(mem_calloc((size_t)s->n_entries, sizeof(*s->entries), "requests", &s->entries));
    TRY(mem_calloc((size_t)s->n_entries, sizeof(*s->buckets), "requests", &s->buckets));
    for (int32_t i = 0; i < s->n_entries; i++) {
        s->entries[i].next = i + 1 < s->n_entries ? i + 1 : -1;
        s->buckets[i] = -1;
    }
    return ST_OK;
}

static status service_create(coord_replica *replica, const coord_rank_report *reports, const coord_service_options *o, service **out)
{
    service *s;
    pthread_condattr_t monotonic;
    TRY(mem_calloc(1, sizeof(*s), "service", &s));
    s->opt = *o;
    s->replica = replica;
    s->reports = reports;
    s->arch = shard_checkpoint_arch(coord_replica_checkpoint(replica));
    s->max_model_len = coord_replica_max_context(replica);
    s->n_ranks = coord_replica_plan(replica)->n_ranks;
    s->commands_end = &s->commands;
    s->batches_end = &s->batches;
    atomic_store(&s->session, 1);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = s;
    TRY(mem_calloc((size_t)s->n_ranks, sizeof(*s->loads), "figures", &s->loads));
    TRY(entries_create(s));
    publish(s, true);
    return service_wire_create(s);
}

static void service_destroy(service **service_)
{
    service *s = *service_;
    if (s == NULL)
        return;
    service_wire_destroy(s);
    for (service_command *c = s->commands, *next; c != NULL; c = next) {
        next = c->next;
        service_command_free(&c);
    }
    for (service_batch *b = s->batches, *next; b != NULL; b = next) {
        next = b->next;
        service_batch_free(&b);
    }
    service_batch_free(&s->batch);
    free(s->entries);
    free(s->buckets);
    free(s->loads);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
    *service_ = NULL;
}

static status service_serve(service *s)
{
    pthread_t wire;
    int error = pthread_create(&wire, NULL, service_wire_main, s);
    if (error != 0)
        return FAIL(ST_NO_MEMORY, "cannot start a thread: %s", strerror(error));
    status st = step_loop(s);
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    s->result = st;
    if (st != ST_OK) {
        size_t n = strnlen(status_message(), sizeof(s->why) - 1);
        memcpy(s->why, status_message(), n);
    }
    if (s->client != NULL)
        wire_client_wake(s->client);
    pthread_mutex_unlock(&s->lock);
    pthread_join(wire, NULL);
    return st != ST_OK ? st : s->verdict;
}

status coord_service_run(coord_replica *replica, const coord_rank_report *reports, const coord_service_options *options)
{
    service *s = NULL;
    status st = service_create(replica, reports, options, &s);
    if (st == ST_OK)
        st = service_serve(s);
    service_destroy(&s);
    return st;
}
