/* What the gateway says of itself: /state, /load, and what the core thread publishes for metrics and health. */
#include <string.h>

#include "coordinator/gateway/gateway_internal.h"

bool state_is_stalled(const gateway *g, const gateway_replica *r, double now)
{
    return r->unwell || (gateway_journal_peer_load(g->journal, r->peer) > 0 && now - r->progressed > g->opt.stall_seconds);
}

static const char *state_of(const gateway *g, const gateway_replica *r)
{
    return r->ready && state_is_stalled(g, r, gateway_clock()) ? "stalled" : gateway_replica_state(r);
}

/* ---- /state ---- */

static json_t *rank_json(const Trireme__RankLoad *k)
{
    return json_pack("{si, si, si, ss, sI, sI, sI, sI, sf, sf, sf, sf}", "rank", k->rank, "stage", k->stage, "tp_index", k->tp_index, "host", k->host, "resident_bytes",
                     (json_int_t)k->resident_bytes, "weight_bytes", (json_int_t)k->weight_bytes, "kv_bytes", (json_int_t)k->kv_bytes, "steps", (json_int_t)k->steps,
                     "step_seconds", k->step_seconds, "exchange_seconds", k->exchange_seconds, "wait_seconds", k->wait_seconds, "skew_seconds", k->skew_seconds);
}

static json_t *replica_json(const gateway *g, const gateway_replica *r)
{
    static const Trireme__Load none = TRIREME__LOAD__INIT;
    const Trireme__Load *l = r->load != NULL ? r->load : &none;
    const Trireme__Hello *h = r->hello;
    json_t *ranks = json_array();
    for (size_t i = 0; i < l->n_ranks; i++)
        json_array_append_new(ranks, rank_json(l->ranks[i]));
    json_t *o = json_pack("{ss, ss, ss, ss, si, si, ss, si, si, sI, sI, sI, si, sI, sI, sI, sI, sI, sI, sf}", "name", h->replica, "state", state_of(g, r), "model", h->model,
                          "backend", h->backend, "tp", h->tp, "pp", h->pp, "version", h->version, "running", l->running, "waiting", l->waiting, "kv_blocks",
                          (json_int_t)(r->load != NULL ? l->kv_blocks : h->kv_blocks), "kv_blocks_free", (json_int_t)(r->load != NULL ? l->kv_blocks_free : h->kv_blocks),
                          "kv_blocks_cached", (json_int_t)l->kv_blocks_cached, "block_tokens", h->block_tokens, "steps", (json_int_t)l->steps, "prompt_tokens",
                          (json_int_t)l->prompt_tokens, "generated_tokens", (json_int_t)l->generated_tokens, "prefix_queries", (json_int_t)l->prefix_queries, "prefix_hits",
                          (json_int_t)l->prefix_hits, "preemptions", (json_int_t)l->preemptions, "stalled_seconds", r->stalled_seconds);
    if (o == NULL) {
        json_decref(ranks);
        return NULL;
    }
    json_object_set_new(o, "max_num_seqs", json_integer(h->max_num_seqs));
    json_object_set_new(o, "held", json_integer(gateway_journal_peer_load(g->journal, r->peer)));
    json_object_set_new(o, "ranks", ranks);
    return o;
}

static json_t *latency_json(const gateway_latency *l)
{
    return json_pack("{sI, sf, sf, sf}", "n", (json_int_t)atomic_load(&l->n), "p50_ms", gateway_latency_at(l, 0.5) * 1e-6, "p99_ms", gateway_latency_at(l, 0.99) * 1e-6,
                     "max_ms", (double)atomic_load(&l->max_ns) * 1e-6);
}

static json_t *models_json(gateway *g)
{
    gateway_model *models[256];
    json_t *all = json_array();
    size_t n = gateway_registry_models(g->registry, models, ARRAY_LEN(models));
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(all, json_pack("{ss, si, ss, ss}", "id", models[i]->name, "max_model_len", (int)models[i]->api.max_model_len, "digest", models[i]->digest,
                                             "fingerprint", models[i]->fingerprint));
        gateway_model_release(&models[i]);
    }
    return all;
}

static json_t *requests_json(const gateway *g)
{
    gateway_journal_stats s;
    gateway_journal_stats_get(g->journal, &s);
    return json_pack("{si, si, sI, sI, sI, sI}", "running", s.n_entries - s.n_unstarted, "waiting", s.n_unstarted, "finished", (json_int_t)g->n_finished, "failed",
                     (json_int_t)g->n_failed, "cancelled", (json_int_t)g->n_cancelled, "replayed", (json_int_t)s.n_replays);
}

void state_answer(gateway *g, http_request *r)
{
    json_t *replicas = json_array();
    for (const gateway_replica *p = gateway_registry_first(g->registry); p != NULL; p = p->next)
        json_array_append_new(replicas, replica_json(g, p));
    routes_respond_json(&r, json_pack("{ss, ss, sf, sb, so, so, so, s{so, so}}", "version", g->opt.version, "commit", g->opt.commit, "uptime_seconds",
                         (double)(http_now() - g->started_ns) * 1e-9, "draining", (int)atomic_load(&g->draining), "requests", requests_json(g), "models", models_json(g),
                         "replicas", replicas, "latency", "submit", latency_json(&g->submit_latency), "write", latency_json(&g->write_latency)));
}

void state_load_answer(gateway *g, http_request *r)
{
    gateway_journal_stats s;
    gateway_journal_stats_get(g->journal, &s);
    routes_respond_json(&r, json_pack("{si, si, si}", "server_load", s.n_entries, "running", s.n_entries - s.n_unstarted, "waiting", s.n_unstarted));
}

/* ---- metrics ---- */

static void set(gateway *g, const gateway_replica *r, metrics_id id, double value)
{
    const char *labels[2] = {r->hello->model, r->hello->replica};
    metrics_set(metrics_get(g->metrics, id, labels), value);
}

static void publish_ranks(gateway *g, const gateway_replica *r)
{
    for (size_t i = 0; i < r->load->n_ranks; i++) {
        const Trireme__RankLoad *k = r->load->ranks[i];
        char rank[16];
        snprintf(rank, sizeof(rank), "%d", k->rank);
        const char *labels[3] = {r->hello->model, r->hello->replica, rank};
        metrics_set(metrics_get(g->metrics, METRIC_RANK_STEP_SECONDS, labels), k->step_seconds);
        metrics_set(metrics_get(g->metrics, METRIC_RANK_STEPS, labels), (double)k->steps);
        metrics_set(metrics_get(g->metrics, METRIC_RANK_COLLECTIVE_SECONDS, labels), k->exchange_seconds);
        metrics_set(metrics_get(g->metrics, METRIC_RANK_ARRIVAL_SKEW_SECONDS, labels), k->skew_seconds);
    }
}

/* Tokens a step: the replica's buckets are powers of two, finer than the histogram's; a step counts with its bucket's upper end.  A count that leaps is not
 * believed: no replica takes that many steps between two messages. */
static void publish_steps(gateway *g, gateway_replica *r)
{
    enum { MOST_STEPS = 100000 };
    const char *labels[2] = {r->hello->model, r->hello->replica};
    metrics_series *s = metrics_get(g->metrics, METRIC_ITERATION_TOKENS, labels);
    for (size_t i = 0; i < r->load->n_step_tokens_buckets && i < GATEWAY_STEP_BUCKETS; i++) {
        uint64_t now = r->load->step_tokens_buckets[i], shown = r->shown_steps[i];
        for (uint64_t k = shown; k < now && now - shown <= MOST_STEPS; k++)
            metrics_observe(s, (double)(1ull << i));
        r->shown_steps[i] = now;
    }
}

static double rate_of(uint64_t now, uint64_t *shown, double passed)
{
    double rate = now > *shown ? (double)(now - *shown) / passed : 0;
    *shown = now;
    return rate;
}

/* What the stock boards call throughput: tokens a second since the last time. */
static void publish_throughput(gateway *g, gateway_replica *r, double passed)
{
    set(g, r, METRIC_AVG_PROMPT_THROUGHPUT, rate_of(r->load->prompt_tokens, &r->shown_prompt, passed));
    set(g, r, METRIC_AVG_GENERATION_THROUGHPUT, rate_of(r->load->generated_tokens, &r->shown_generated, passed));
}

static void publish_config(gateway *g, const gateway_replica *r)
{
    char block[16], blocks[24];
    snprintf(block, sizeof(block), "%d", r->hello->block_tokens);
    snprintf(blocks, sizeof(blocks), "%lld", (long long)r->hello->kv_blocks);
    const char *labels[6] = {r->hello->model, r->hello->replica, block, blocks, "auto", "True"};
    metrics_set(metrics_get(g->metrics, METRIC_CACHE_CONFIG, labels), 1);
}

static void publish_replica(gateway *g, gateway_replica *r, double passed)
{
    const Trireme__Load *l = r->load;
    if (l == NULL)
        return;
    double used = l->kv_blocks > 0 ? 1 - (double)l->kv_blocks_free / (double)l->kv_blocks : 0;
    set(g, r, METRIC_NUM_REQUESTS_RUNNING, l->running);
    set(g, r, METRIC_NUM_REQUESTS_WAITING, l->waiting);
    set(g, r, METRIC_KV_CACHE_USAGE, used);
    set(g, r, METRIC_CPU_CACHE_USAGE, 0);
    set(g, r, METRIC_NUM_REQUESTS_SWAPPED, 0);
    set(g, r, METRIC_PREFIX_CACHE_QUERIES, (double)l->prefix_queries);
    set(g, r, METRIC_PREFIX_CACHE_HITS, (double)l->prefix_hits);
    set(g, r, METRIC_PREFIX_CACHE_HIT_RATE, l->prefix_queries > 0 ? (double)l->prefix_hits / (double)l->prefix_queries : 0);
    set(g, r, METRIC_NUM_PREEMPTIONS, (double)l->preemptions);
    set(g, r, METRIC_PROMPT_TOKENS, (double)l->prompt_tokens); /* the cached ones included */
    set(g, r, METRIC_PROMPT_TOKENS_CACHED, (double)l->prefix_hits);
    set(g, r, METRIC_GENERATION_TOKENS, (double)l->generated_tokens);
    const char *computed[3] = {r->hello->model, r->hello->replica, "local_compute"}, *cached[3] = {r->hello->model, r->hello->replica, "local_cache_hit"};
    metrics_set(metrics_get(g->metrics, METRIC_PROMPT_TOKENS_BY_SOURCE, computed), l->prompt_tokens > l->prefix_hits ? (double)(l->prompt_tokens - l->prefix_hits) : 0);
    metrics_set(metrics_get(g->metrics, METRIC_PROMPT_TOKENS_BY_SOURCE, cached), (double)l->prefix_hits);
    publish_ranks(g, r);
    publish_steps(g, r);
    publish_throughput(g, r, passed);
    publish_config(g, r);
}

/* Sequences that no replica has: waiting for room or for a replica. */
static void publish_held(gateway *g)
{
    gateway_journal_stats s;
    gateway_journal_stats_get(g->journal, &s);
    gateway_model *models[256];
    size_t n = gateway_registry_models(g->registry, models, ARRAY_LEN(models));
    for (size_t i = 0; i < n; i++) {
        int held = 0;
        for (const gateway_entry *e = gateway_journal_waiting(g->journal); e != NULL; e = e->next)
            held += e->model == models[i]->served;
        const char *labels[2] = {models[i]->name, "gateway"};
        metrics_set(metrics_get(g->metrics, METRIC_NUM_REQUESTS_WAITING, labels), held);
        gateway_model_release(&models[i]);
    }
    atomic_store(&g->n_unstarted, s.n_unstarted);
}

static void publish_states(gateway *g)
{
    static const char *const states[] = {"joining", "ready", "draining", "stalled"};
    for (const gateway_replica *r = gateway_registry_first(g->registry); r != NULL; r = r->next) {
        for (size_t i = 0; i < ARRAY_LEN(states); i++) {
            int n = 0;
            for (const gateway_replica *o = gateway_registry_first(g->registry); o != NULL; o = o->next)
                n += strcmp(o->hello->model, r->hello->model) == 0 && strcmp(state_of(g, o), states[i]) == 0;
            const char *labels[2] = {r->hello->model, states[i]};
            metrics_set(metrics_get(g->metrics, METRIC_REPLICAS, labels), n);
        }
    }
}

static void publish_rate(gateway *g, double passed)
{
    double lately = (double)(g->n_finished - g->n_finished_before) / passed;
    g->n_finished_before = g->n_finished;
    g->finish_rate = 0.7 * g->finish_rate + 0.3 * lately;
    double wait = (double)atomic_load(&g->n_unstarted) / (g->finish_rate > 0.5 ? g->finish_rate : 0.5);
    atomic_store(&g->retry_after_s, wait < 1 ? 1 : wait > 30 ? 30 : (int)wait);
}

void state_publish_health(gateway *g, double now)
{
    int capacity = 0, ready = 0, well = 0;
    for (const gateway_replica *r = gateway_registry_first(g->registry); r != NULL; r = r->next) {
        if (!r->ready)
            continue;
        ready++;
        well += !state_is_stalled(g, r, now);
        capacity += r->draining ? 0 : r->hello->max_num_seqs;
    }
    atomic_store(&g->capacity, capacity);
    atomic_store(&g->n_ready, ready);
    atomic_store(&g->healthy, well > 0);
}

void state_publish(gateway *g, double passed)
{
    for (gateway_replica *r = gateway_registry_first(g->registry); r != NULL; r = r->next)
        publish_replica(g, r, passed);
    publish_held(g);
    publish_states(g);
    publish_rate(g, passed);
}

void state_hide_replica(gateway *g, const gateway_replica *r)
{
    const char *labels[2] = {r->hello->model, "ready"};
    metrics_hide(g->metrics, "engine", r->hello->replica);
    metrics_set(metrics_get(g->metrics, METRIC_REPLICAS, labels), 0); /* counted anew at the next tick, if any is left */
}
