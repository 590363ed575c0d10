/* coordinator/sched.c - requests and their life; results. */
#include "coordinator/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coordinator/sched_internal.h"

enum { DEFAULT_PARTIAL_PREFILLS = 4 };

/* Takes a sequence that no step in flight names off the ranks: its slot and blocks go back, its computed tokens are forgotten. */
static void seq_unplace(coord_sched *s, seq *q)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        sched_blocks_drop_before(s, q, g, q->tables[g].n);
        q->tables[g].n = q->tables[g].first = q->tables[g].n_sent = 0;
    }
    s->retire[s->n_retire++] = q->slot;
    s->free_slots[s->n_free_slots++] = q->slot;
    q->slot = -1;
    q->n_computed = 0;
    q->last_step = 0; /* its number may come again, after a loss */
    q->awaiting_sample = false;
}

static void running_remove(coord_sched *s, seq *q)
{
    for (int32_t i = s->n_running; i-- > 0;) {
        if (s->running[i] == q) {
            memmove(&s->running[i], &s->running[i + 1], (size_t)(s->n_running - i - 1) * sizeof(seq *));
            s->n_running--;
            return;
        }
    }
}

static void seq_end(coord_sched *s, seq *q)
{
    seq_unplace(s, q);
    running_remove(s, q);
    sched_seq_forget(s, q);
}

void sched_seq_requeue(coord_sched *s, seq *q)
{
    seq_unplace(s, q);
    running_remove(s, q);
    q->state = SEQ_WAITING;
    sched_heap_push(s, q);
}

/* ---- life ---- */

status coord_sched_create(const coord_sched_options *o, coord_sched **out)
{
    status st;
    if (o->max_seqs < 1 || o->max_batched_tokens < 1 || o->depth < 1 || o->block_tokens < 1 || o->n_kv_groups < 1 ||
        o->n_kv_groups > STEP_MAX_KV_GROUPS || o->max_context < 1)
        return FAIL(ST_INVALID, "scheduler: options must be positive (%d sequences, %d tokens, depth %d, %d KV groups)",
                    o->max_seqs, o->max_batched_tokens, o->depth, o->n_kv_groups);
    coord_sched *s;
    TRY(mem_calloc(1, sizeof(*s), "scheduler", &s));
    s->opt = *o;
    if (s->opt.max_prefill_chunk <= 0 || s->opt.max_prefill_chunk > o->max_batched_tokens)
        s->opt.max_prefill_chunk = o->max_batched_tokens;
    if (s->opt.max_partial_prefills <= 0)
        s->opt.max_partial_prefills = DEFAULT_PARTIAL_PREFILLS;
    s->next_step = 1;
    s->waves = o->depth;
    s->n_buckets = 1024;
    size_t n = (size_t)o->max_seqs;
    TRY_GOTO(mem_calloc(s->n_buckets, sizeof(*s->buckets), "scheduler ids", &s->buckets), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->running), "scheduler", &s->running), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->free_slots), "scheduler", &s->free_slots), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->retire), "scheduler", &s->retire), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->admits), "scheduler", &s->admits), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->spans), "scheduler", &s->spans), err);
    TRY_GOTO(mem_calloc((size_t)o->max_batched_tokens, sizeof(*s->span_tokens), "scheduler", &s->span_tokens), err);
    TRY_GOTO(mem_calloc((size_t)o->depth, sizeof(*s->flights), "scheduler", &s->flights), err);
    for (int i = 0; i < o->depth; i++) {
        TRY_GOTO(mem_calloc(n, sizeof(seq *), "scheduler", &s->flights[i].seqs), err);
        for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
            s->flights[i].given[g] = (block_list){-1, -1, 0};
    }
    for (int32_t i = o->max_seqs; i-- > 0;)
        s->free_slots[s->n_free_slots++] = i;
    for (int g = 0; g < o->n_kv_groups; g++)
        TRY_GOTO(sched_pool_create(s, g), err);
    if (!o->no_prefix_cache)
        TRY_GOTO(sched_prefix_create(s), err);
    *out = s;
    return ST_OK;
err:
    coord_sched_destroy(&s);
    return st;
}

void coord_sched_destroy(coord_sched **sched)
{
    coord_sched *s = *sched;
    if (s == NULL)
        return;
    for (size_t i = 0; s->buckets != NULL && i < s->n_buckets; i++) {
        for (seq *q = s->buckets[i], *next; q != NULL; q = next) {
            next = q->hash_next;
            sched_seq_free(q);
        }
    }
    for (int i = 0; s->flights != NULL && i < s->opt.depth; i++)
        free(s->flights[i].seqs);
    for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
        sched_pool_destroy(&s->pools[g]);
    for (int h = 0; h < N_HEAPS; h++)
        free(s->heaps[h]);
    hash_sha256_destroy(&s->hash);
    free(s->buckets);
    free(s->running);
    free(s->free_slots);
    free(s->retire);
    free(s->admits);
    free(s->spans);
    free(s->span_tokens);
    free(s->flights);
    free(s);
    *sched = NULL;
}

static status request_check(const coord_sched *s, const coord_request *r)
{
    if (r->n_tokens < 1 || r->n_prompt < 1 || r->n_prompt > r->n_tokens)
        return FAIL(ST_INVALID, "the prompt is empty: at least one token is needed");
    if (r->n_tokens >= s->opt.max_context)
        return FAIL(ST_INVALID, "the prompt has %d tokens, and the context is %d: at most %d leave room for an answer", r->n_tokens,
                    s->opt.max_context, s->opt.max_context - 1);
    if (r->n_tokens - r->n_prompt >= r->sampling.max_tokens)
        return FAIL(ST_INVALID, "max_tokens is %d: at least one more than the %d generated", r->sampling.max_tokens,
                    r->n_tokens - r->n_prompt);
    int64_t last = (int64_t)r->n_prompt + r->sampling.max_tokens - 1; /* the last token generated is never computed */
    if (last > s->opt.max_context - 1)
        last = s->opt.max_context - 1;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int64_t need = sched_blocks_at_once(s, g, last, 1);
        if (need > s->opt.n_blocks[g])
            return FAIL(ST_INVALID,
                        "prompt and max_tokens may need %lld KV blocks of %d tokens, and there are %lld: ask for fewer tokens, or give "
                        "the KV cache more memory",
                        (long long)need, s->opt.block_tokens, (long long)s->opt.n_blocks[g]);
    }
    if (sched_seq_find(s, r->id) != NULL)
        return FAIL(ST_INVALID, "request id %llu is already in use", (unsigned long long)r->id);
    return ST_OK;
}

status coord_sched_submit(coord_sched *s, const coord_request *r)
{
    status st;
    TRY(request_check(s, r));
    TRY(sched_heap_reserve(s));
    TRY(sched_ids_reserve(s));
    seq *q;
    TRY(mem_calloc(1, sizeof(*q), "request", &q));
    q->request = *r;
    q->request.tokens = NULL;
    TRY_GOTO(step_sampling_copy(&r->sampling, &q->request.sampling, &q->lists), err);
    q->request.cache_salt = NULL;
    int64_t most = (int64_t)r->n_prompt + r->sampling.max_tokens;
    if (most > s->opt.max_context) {
        most = s->opt.max_context;
        q->request.sampling.max_tokens = s->opt.max_context - r->n_prompt;
    }
    q->cap = (int32_t)(most > r->n_tokens + 64 ? r->n_tokens + 64 : most + 1);
    TRY_GOTO(mem_calloc((size_t)q->cap, sizeof(int32_t), "request", &q->tokens), err);
    memcpy(q->tokens, r->tokens, (size_t)r->n_tokens * sizeof(int32_t));
    q->n_tokens = r->n_tokens;
    q->state = SEQ_WAITING;
    q->slot = -1;
    q->arrival = ++s->arrivals;
    q->due = (int64_t)s->stats.n_steps + (int64_t)r->priority * COORD_PRIORITY_STEPS;
    sched_prefix_root(s, q, r);
    sched_seq_remember(s, q);
    sched_heap_push(s, q);
    return ST_OK;
err:
    sched_seq_free(q);
    return st;
}

bool coord_sched_cancel(coord_sched *s, uint64_t id)
{
    seq *q = sched_seq_find(s, id);
    if (q == NULL || q->cancelled)
        return false;
    if (q->state == SEQ_WAITING) {
        sched_heap_remove(s, q);
        sched_seq_forget(s, q);
    } else if (q->n_in_flight == 0) {
        seq_end(s, q);
    } else {
        q->cancelled = true;
    }
    return true;
}

void coord_sched_divide(coord_sched *s, int32_t n)
{
    s->waves = n < 1 ? 1 : n > s->opt.depth ? s->opt.depth : n;
}

void coord_sched_began(coord_sched *s, double clock)
{
    if (s->n_flights == 0)
        return;
    const flight *f = &s->flights[(s->flight_head + s->n_flights - 1) % s->opt.depth];
    for (int32_t i = 0; i < f->n; i++) {
        if (f->seqs[i]->began == 0)
            f->seqs[i]->began = clock;
    }
}

/* ---- results ---- */

/* The sequence of a slot in a step; *at is where the last one was found: rows come in the order of the step's spans. */
static seq *flight_seq(const flight *f, int32_t slot, int32_t *at)
{
    for (int32_t i = 0; i < f->n; i++, *at = *at + 1 < f->n ? *at + 1 : 0) {
        if (f->seqs[*at]->slot == slot)
            return f->seqs[*at];
    }
    return NULL;
}

static bool token_append(seq *q, int32_t token)
{
    if (q->n_tokens == q->cap) {
        int32_t cap = q->cap * 2;
        int32_t *p = realloc(q->tokens, (size_t)cap * sizeof(*p));
        if (p == NULL)
            return false;
        q->tokens = p;
        q->cap = cap;
    }
    q->tokens[q->n_tokens++] = token;
    return true;
}

static status row_apply(coord_sched *s, seq *q, const step_result_row *row, coord_event_fn fn, void *arg, bool *ended)
{
    coord_event e = {.id = q->request.id, .cached_tokens = q->cached_tokens, .token = row->token, .finish = row->finish, .hash = row->hash, .logprob = row->logprob,
                     .rank = row->rank, .n_top = row->n_top, .top = row->top, .n_embedding = row->n_embedding, .embedding = row->embedding,
                     .began = q->began};
    if (row->token < 0 && row->finish == STEP_GOES_ON) { /* a prompt token's log-probabilities; a replay repeats some */
        if (row->position + 1 <= q->prompt_logprobs_done || row->position + 1 >= q->request.n_prompt)
            return ST_OK;
        e.prompt = true;
        e.index = row->position + 1;
        e.token = q->tokens[e.index];
        q->prompt_logprobs_done = e.index;
    } else {
        if (!q->awaiting_sample || row->position != q->n_tokens - 1)
            return FAIL(ST_FORMAT, "a token came for position %d of request %llu, which has %d tokens", row->position,
                        (unsigned long long)q->request.id, q->n_tokens);
        q->awaiting_sample = false;
        q->request.hash = row->hash;
        e.index = q->n_tokens - q->request.n_prompt;
        if (row->finish == STEP_GOES_ON && e.index + 1 >= q->request.sampling.max_tokens)
            return FAIL(ST_FORMAT, "request %llu goes on after its last token (%d)", (unsigned long long)q->request.id, e.index + 1);
        if (row->token >= 0 && !token_append(q, row->token))
            return FAIL(ST_NO_MEMORY, "no memory for the tokens of request %llu", (unsigned long long)q->request.id);
        *ended = row->finish != STEP_GOES_ON;
    }
    s->stats.n_generated_tokens += row->token >= 0;
    if (!q->cancelled && fn != NULL)
        fn(arg, &e);
    return ST_OK;
}

status coord_sched_apply(coord_sched *s, const step_result *result, coord_event_fn fn, void *arg)
{
    flight *f = &s->flights[s->flight_head];
    if (s->n_flights == 0 || f->number != result->number)
        return FAIL(ST_FORMAT, "a result came for step %llu; step %llu is the oldest in flight", (unsigned long long)result->number,
                    (unsigned long long)(s->n_flights == 0 ? 0 : f->number));
    s->flight_head = (s->flight_head + 1) % s->opt.depth;
    s->n_flights--;
    s->retired_step = f->number;
    sched_blocks_retired(s, f);
    for (int32_t i = 0; i < f->n; i++)
        f->seqs[i]->n_in_flight--;
    for (int32_t r = 0, at = 0; r < result->n_rows; r++) {
        seq *q = flight_seq(f, result->rows[r].slot, &at);
        if (q == NULL)
            return FAIL(ST_FORMAT, "step %llu's result names slot %d, which the step does not", (unsigned long long)f->number,
                        result->rows[r].slot);
        bool ended = false;
        TRY(row_apply(s, q, &result->rows[r], fn, arg, &ended));
        q->cancelled |= ended;
    }
    for (int32_t i = 0; i < f->n; i++) {
        seq *q = f->seqs[i];
        if (q->cancelled && q->n_in_flight == 0)
            seq_end(s, q);
    }
    return ST_OK;
}

void coord_sched_lost(coord_sched *s)
{
    s->retired_step = s->next_step; /* no step is left to wait for */
    for (int i = 0; i < s->opt.depth; i++)
        sched_blocks_retired(s, &s->flights[i]);
    while (s->n_running > 0) {
        seq *q = s->running[s->n_running - 1];
        q->n_in_flight = 0;
        if (q->cancelled)
            seq_end(s, q);
        else
            sched_seq_requeue(s, q);
    }
    sched_blocks_forget_all(s);
    s->n_retire = 0; /* nobody is left to tell */
    s->n_flights = 0;
    s->flight_head = 0;
    s->next_step = 1;
    s->retired_step = 0;
}

void coord_sched_stats_get(const coord_sched *s, coord_sched_stats *out)
{
    *out = s->stats;
    out->n_waiting = s->n_waiting;
    out->n_running = s->n_running;
    out->n_in_flight = s->n_flights;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        out->free_blocks[g] = s->pools[g].free.n;
        out->cached_blocks[g] = s->pools[g].n_cached;
    }
}
