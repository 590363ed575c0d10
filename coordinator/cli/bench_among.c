#include "coordinator/cli/bench_among.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "shard/arch.h"

enum { ALONE_STEPS = 32 }; /* decode steps measured before the prompt comes */

/* The events of one run. */
typedef struct watch {
    uint64_t prompt;     /* id of the prompt; others decode */
    uint64_t first;      /* id of the first sequence that decodes */
    int32_t n;
    double *last;        /* [n] when each had its last token */
    double *gaps;        /* [n_gaps] between tokens of one sequence */
    size_t n_gaps, cap_gaps;
    bool gaps_lost;      /* out of memory */
    int32_t n_started;
    double first_token;  /* of the prompt */
} watch;

static void gap_add(watch *w, double seconds)
{
    w->gaps_lost = w->gaps_lost || mem_grow(&w->gaps, &w->cap_gaps, w->n_gaps + 1, sizeof(*w->gaps), "times between tokens") != ST_OK;
    if (!w->gaps_lost)
        w->gaps[w->n_gaps++] = seconds;
}

static void on_event(void *arg, const coord_event *e)
{
    watch *w = arg;
    double now = log_clock();
    if (e->id == w->prompt) {
        if (e->index == 0)
            w->first_token = now;
        return;
    }
    if (e->id < w->first || e->id >= w->first + (uint64_t)w->n)
        return;
    double *last = &w->last[e->id - w->first];
    if (*last > 0)
        gap_add(w, now - *last);
    else
        w->n_started++;
    *last = now;
}

/* Token ids from a seed. */
static void draw(coord_replica *r, uint64_t seed, int32_t *tokens, int32_t n)
{
    int32_t vocab = shard_checkpoint_arch(coord_replica_checkpoint(r))->vocab;
    for (int32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(hash_mix(seed << 32 | (uint32_t)i) % (uint64_t)vocab);
}

static status submit(coord_replica *r, uint64_t id, const int32_t *tokens, int32_t n, int32_t max_tokens, const uint64_t *salt)
{
    coord_request q = {
        .id = id,
        .tokens = tokens,
        .n_tokens = n,
        .n_prompt = n,
        .rope_set = shard_arch_rope_set(shard_checkpoint_arch(coord_replica_checkpoint(r)), n),
        .no_prefix_cache = salt == NULL,
        .cache_salt = (const uint8_t *)salt,
        .n_cache_salt = salt == NULL ? 0 : sizeof(*salt),
        .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .n_prompt_logprobs = -1, .max_tokens = max_tokens},
    };
    return coord_replica_submit(r, &q);
}

static uint64_t next_id(void)
{
    static uint64_t last = 1u << 20; /* above those of the other rows */
    return ++last;
}

static status advance(coord_replica *r, watch *w)
{
    bool idle;
    TRY(coord_replica_run(r, on_event, w, &idle));
    if (w->gaps_lost)
        return FAIL(ST_NO_MEMORY, "no memory for the times of a benchmark");
    return idle ? FAIL(ST_INTERNAL, "the benchmark waits for ever") : ST_OK;
}

/* Seconds to the first token of a prompt with nothing beside it. */
static status time_alone(coord_replica *r, const int32_t *tokens, int32_t n, const uint64_t *salt, double *seconds)
{
    watch w = {.prompt = next_id()};
    double t0 = log_clock();
    TRY(submit(r, w.prompt, tokens, n, 1, salt));
    while (w.first_token == 0)
        TRY(advance(r, &w));
    *seconds = w.first_token - t0;
    for (bool idle = false; !idle;) /* steps still under way */
        TRY(coord_replica_run(r, on_event, &w, &idle));
    return ST_OK;
}

status bench_shared_measure(coord_replica *r, bench_shared *b)
{
    int32_t n = b->tokens + BENCH_OWN_TOKENS, *tokens;
    TRY(mem_calloc((size_t)n, sizeof(*tokens), "prompt", &tokens));
    double cold = 0, shared = 0;
    status st = ST_OK;
    b->cold_seconds = b->shared_seconds = 0;
    draw(r, 1, tokens, n);
    for (int32_t i = -1; i < b->repeat && st == ST_OK; i++) { /* the first run warms up */
        uint64_t salt = next_id();
        draw(r, 2 * salt, tokens + b->tokens, BENCH_OWN_TOKENS);
        st = time_alone(r, tokens, n, &salt, &cold);
        draw(r, 2 * salt + 1, tokens + b->tokens, BENCH_OWN_TOKENS);
        if (st == ST_OK)
            st = time_alone(r, tokens, n, &salt, &shared);
        b->cold_seconds += i < 0 ? 0 : cold / b->repeat;
        b->shared_seconds += i < 0 ? 0 : shared / b->repeat;
    }
    free(tokens);
    return st;
}

int32_t bench_among_generated(int32_t tokens, int32_t batch, int32_t budget)
{
    int32_t chunk = budget > batch ? budget - batch : 1;
    return 2 * ALONE_STEPS + 2 * (tokens / chunk + 1) + 64;
}

/* All sequences decode; then ALONE_STEPS tokens of each. */
static status decode_alone(coord_replica *r, watch *w, const int32_t *tokens, int32_t max_tokens)
{
    for (int32_t i = 0; i < w->n; i++)
        TRY(submit(r, w->first + (uint64_t)i, tokens, BENCH_OWN_TOKENS, max_tokens, NULL));
    while (w->n_started < w->n)
        TRY(advance(r, w));
    w->n_gaps = 0;
    while (w->n_gaps < (size_t)ALONE_STEPS * (size_t)w->n)
        TRY(advance(r, w));
    return ST_OK;
}

static status among(coord_replica *r, bench_among *b, watch *w, const int32_t *tokens)
{
    TRY(time_alone(r, tokens, b->tokens, NULL, &b->ttft_alone)); /* warms up */
    TRY(time_alone(r, tokens, b->tokens, NULL, &b->ttft_alone));
    TRY(decode_alone(r, w, tokens, bench_among_generated(b->tokens, b->batch, b->budget)));
    b->itl_alone_p50 = numbers_median(w->gaps, w->n_gaps);
    b->itl_alone_p99 = numbers_at(w->gaps, w->n_gaps, 0.99);
    w->n_gaps = 0;
    w->prompt = next_id();
    double t0 = log_clock();
    TRY(submit(r, w->prompt, tokens, b->tokens, 1, NULL));
    while (w->first_token == 0)
        TRY(advance(r, w));
    b->ttft = w->first_token - t0;
    b->itl_during_p50 = numbers_median(w->gaps, w->n_gaps);
    b->itl_during_p99 = numbers_at(w->gaps, w->n_gaps, 0.99);
    int32_t chunks = (b->tokens + b->budget - 1) / b->budget;
    b->budget_step = b->ttft_alone / chunks;
    b->ttft_fair = b->ttft_alone + chunks * b->itl_alone_p50;
    for (int32_t i = 0; i < w->n; i++)
        coord_replica_cancel(r, w->first + (uint64_t)i);
    for (bool idle = false; !idle;)
        TRY(coord_replica_run(r, on_event, w, &idle));
    return ST_OK;
}

status bench_among_measure(coord_replica *r, bench_among *b)
{
    int32_t *tokens;
    int32_t n = b->tokens > BENCH_OWN_TOKENS ? b->tokens : BENCH_OWN_TOKENS;
    watch w = {.prompt = UINT64_MAX, .n = b->batch};
    TRY(mem_calloc((size_t)n, sizeof(*tokens), "prompt", &tokens));
    status st = mem_calloc((size_t)b->batch, sizeof(*w.last), "benchmark", &w.last);
    if (st == ST_OK) {
        draw(r, 3, tokens, n);
        w.first = next_id();
        for (int32_t i = 1; i < b->batch; i++)
            (void)next_id();
        st = among(r, b, &w, tokens);
    }
    free(tokens);
    free(w.last);
    free(w.gaps);
    return st;
}
