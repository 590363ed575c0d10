/* A request's spans, for collectors of traces: its own, and below it what it waited for and what computed it.
 *
 *   POST /v1/completions      from the body's arrival to the last token; attributes by OpenTelemetry's conventions for generative AI, and the latencies as vLLM names them
 *     gateway                 parsed, tokenised, waiting for a replica
 *     queue, prefill, decode  as the replica tells of its first token; decode with the numbers of its first and last step
 *     rank 0, rank 1 ...      of the replica that ended it: what each rank's steps went into meanwhile, as ranks tell about once a second */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coordinator/gateway/gateway_internal.h"

/* A rank's totals when the request was sent. */
struct span_rank {
    int32_t rank;
    uint64_t steps;
    double step, exchange, wait;
};

static void put(const call *c, const char *name, uint64_t begin, uint64_t end, json_t *attributes)
{
    otlp_put(c->g->otlp, &c->trace, &(otlp_span){.name = name, .begin_ns = begin, .end_ns = end, .attributes = attributes});
}

/* ---- the core thread ---- */

void spans_sent(call *c, const gateway_replica *r)
{
    if (!c->trace.sampled)
        return;
    free(c->ranks);
    c->ranks = NULL;
    c->n_ranks = 0;
    c->sent_ns = http_now();
    if (r->load == NULL || r->load->n_ranks == 0)
        return;
    c->ranks = calloc(r->load->n_ranks, sizeof(*c->ranks));
    if (c->ranks == NULL)
        return; /* spans less */
    c->n_ranks = r->load->n_ranks;
    for (size_t i = 0; i < c->n_ranks; i++) {
        const Trireme__RankLoad *l = r->load->ranks[i];
        c->ranks[i] = (struct span_rank){l->rank, l->steps, l->step_seconds, l->exchange_seconds, l->wait_seconds};
    }
}

void spans_computed(const call *c, const gateway_replica *r)
{
    if (!c->trace.sampled || r->load == NULL)
        return;
    for (size_t i = 0; i < c->n_ranks && i < r->load->n_ranks; i++) {
        const Trireme__RankLoad *l = r->load->ranks[i];
        const struct span_rank *before = &c->ranks[i];
        char name[32];
        if (l->rank != before->rank || l->steps <= before->steps) /* another replica's, or nothing was told meanwhile */
            continue;
        json_t *a = json_array();
        snprintf(name, sizeof(name), "rank %d", l->rank);
        otlp_int(a, "trireme.rank", l->rank);
        otlp_int(a, "trireme.stage", l->stage);
        otlp_int(a, "trireme.tp_index", l->tp_index);
        otlp_text(a, "host.name", l->host);
        otlp_int(a, "trireme.steps", (int64_t)(l->steps - before->steps));
        otlp_number(a, "trireme.compute_seconds", l->step_seconds - before->step - (l->exchange_seconds - before->exchange) - (l->wait_seconds - before->wait));
        otlp_number(a, "trireme.collective_seconds", l->exchange_seconds - before->exchange);
        otlp_number(a, "trireme.bubble_seconds", l->wait_seconds - before->wait);
        put(c, name, c->sent_ns, http_now(), a);
    }
}

/* ---- a worker, at the end ---- */

static uint64_t earlier(uint64_t at, double seconds, uint64_t least)
{
    uint64_t ns = seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
    return ns < at - least ? at - ns : least;
}

static void put_parts(const call *c)
{
    uint64_t first = c->first_token_ns > c->arrived_ns ? c->first_token_ns : c->arrived_ns;
    uint64_t prefill = earlier(first, c->prefill_seconds, c->arrived_ns), queue = earlier(prefill, c->queue_seconds, c->arrived_ns);
    json_t *decode = json_array(), *replica = json_array();
    otlp_text(replica, "trireme.replica", c->replica);
    put(c, "gateway", c->arrived_ns, queue, NULL);
    put(c, "queue", queue, prefill, NULL);
    put(c, "prefill", prefill, first, replica);
    otlp_text(decode, "trireme.replica", c->replica);
    otlp_int(decode, "trireme.first_step", (int64_t)c->first_step);
    otlp_int(decode, "trireme.last_step", (int64_t)c->last_step);
    otlp_int(decode, "trireme.tokens", c->n_tokens);
    put(c, "decode", first, c->last_token_ns, decode);
}

void spans_request(const call *c, const char *path, const char *request_id, const api_call_usage *u, const char *finish, const char *error)
{
    char name[96];
    uint64_t now = http_now();
    json_t *a = json_array();
    if (!c->trace.sampled) {
        json_decref(a);
        return;
    }
    snprintf(name, sizeof(name), "POST %s", path);
    otlp_text(a, "http.request.method", "POST");
    otlp_text(a, "url.path", path);
    otlp_text(a, "gen_ai.operation.name", c->route == API_EMBEDDINGS ? "embeddings" : c->route == API_COMPLETIONS ? "text_completion" : "chat");
    otlp_text(a, "gen_ai.request.id", request_id);
    if (c->model != NULL)
        otlp_text(a, "gen_ai.response.model", c->model->name);
    if (u != NULL) {
        otlp_int(a, "gen_ai.usage.input_tokens", u->prompt_tokens);
        otlp_int(a, "gen_ai.usage.output_tokens", u->completion_tokens);
        otlp_int(a, "gen_ai.request.max_tokens", u->max_tokens);
        otlp_int(a, "gen_ai.request.choice.count", u->n);
        otlp_int(a, "trireme.cached_tokens", u->cached_tokens);
        otlp_text(a, "gen_ai.response.finish_reason", finish);
    }
    otlp_int(a, "trireme.replays", c->replays);
    if (c->first_token_ns != 0) {
        otlp_number(a, "gen_ai.latency.time_in_queue", c->queue_seconds);
        otlp_number(a, "gen_ai.latency.time_to_first_token", (double)(c->first_token_ns - c->arrived_ns) * 1e-9);
        otlp_number(a, "gen_ai.latency.time_in_model_prefill", c->prefill_seconds);
        otlp_number(a, "gen_ai.latency.time_in_model_decode", (double)(c->last_token_ns - c->first_token_ns) * 1e-9);
        otlp_number(a, "gen_ai.latency.e2e", (double)(now - c->arrived_ns) * 1e-9);
        put_parts(c);
    }
    otlp_put(c->g->otlp, &c->trace, &(otlp_span){.name = name, .root = true, .begin_ns = c->arrived_ns, .end_ns = now, .error = error, .attributes = a});
}
