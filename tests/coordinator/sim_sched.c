/* tests/coordinator/sim_sched.c - the scheduler against simulated ranks: many requests, cancels and lost ranks from a seed.
 *
 *   sim_sched [REQUESTS [SEED]]
 *
 * Runs episodes with random options (depth, blocks, windows, budgets, priorities). After every step coord_sched_check counts every slot and
 * block; beside it this file keeps a model of what ranks know, and checks what they would be told:
 *   steps are numbered without a gap; a slot is retired before it is admitted again, and only when no step in flight names it
 *   a span continues where its sequence ended, with the right tokens, inside the budget; a sequence waiting for its token has none
 *   ranks write into each block what was computed, and every position that a span sees holds what its own sequence would have computed there, whoever
 *   did; a block is written by a new owner only when no step in flight names it
 *   nobody is served from the cache who must not be: other salt, other rope set, switched off, log-probabilities of the prompt still wanted
 * and what users would see: every request ends exactly once, with all of its tokens in order, cancelled ones silently; none starves. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "coordinator/sched.h"

enum { POOL = 4096, MAX_SLOTS = 256, MAX_DEPTH = 8, MAX_ROWS = 8192, VOCAB = 30000, MAX_BLOCK = 16, MAX_TABLE = 512 };

typedef struct user { /* what the submitter of a request knows */
    uint64_t id;
    bool alive, cancelled;
    int32_t n_prompt, max_tokens, n_seen, n_prompt_seen, priority;
    bool want_prompt;
    int32_t cached; /* tokens at its first admission; -1: not yet admitted */
    uint64_t hash;         /* running hash of its logits */
    uint64_t submitted_at; /* clock */
    int32_t ahead;         /* requests alive then */
} user;

typedef struct slot { /* what ranks know */
    bool live;
    uint64_t id;
    int32_t n_computed, n_known, n_prompt, n_prefix;
    bool awaiting;
    uint64_t last_step;
    int32_t n_table[2], table[2][MAX_TABLE];
    uint64_t chain[MAX_TABLE]; /* of each token computed: what keys and values there depend on */
} slot;

typedef struct block {
    uint64_t holds[MAX_BLOCK]; /* the chain of the token computed into each place */
    uint64_t last_named;       /* the last step that may read it */
} block;

typedef struct flight {
    uint64_t number;
    int32_t n;
    step_span spans[MAX_SLOTS];
    uint64_t ids[MAX_SLOTS];
} flight;

typedef struct sim {
    uint64_t seed;
    bool lent; /* the last step */
    coord_sched *sched;
    coord_sched_options opt;
    user users[POOL];
    int32_t n_alive;
    uint64_t n_submitted, n_ended, n_cancelled, n_refused, n_lost, n_steps, n_tokens, n_preempted, n_cached, clock, longest;
    slot slots[MAX_SLOTS];
    block *blocks[2];
    flight flights[MAX_DEPTH];
    int n_flights, head;
    uint64_t next_number, retired;
    int32_t most_prompt, most_new, most_alive;
    int cancel_one_in, lost_one_in;
    int32_t n_priorities, n_salts, cache_off_one_in;
    const char *fault;
    step_result_row rows[MAX_ROWS];
} sim;

static uint64_t next_u64(sim *s)
{
    return hash_mix(s->seed += 0x9e3779b97f4a7c15u);
}

static int32_t between(sim *s, int32_t low, int32_t high)
{
    return low + (int32_t)(next_u64(s) % (uint64_t)(high - low + 1));
}

static bool one_in(sim *s, int n)
{
    return n > 0 && next_u64(s) % (uint64_t)n == 0;
}

static void fault(sim *s, const char *what)
{
    if (s->fault == NULL)
        s->fault = what;
}

/* Requests of a family begin alike, each for its own number of tokens. */
static struct {
    uint64_t n;
    int32_t most;
} families;

/* Token i of a request, prompt and answer alike. */
static int32_t token_of(uint64_t id, int32_t i)
{
    if (families.n > 0 && i < (int32_t)(hash_mix(id ^ 0x5a5a5a5a) % (uint64_t)(families.most + 1)))
        id = UINT64_MAX - hash_mix(id ^ 0xa5a5a5a5) % families.n;
    return (int32_t)(hash_mix(id * 0x9e3779b97f4a7c15u + (uint64_t)i) % VOCAB);
}

/* The running hash after generated token i. */
static uint64_t hash_of(uint64_t id, int32_t i)
{
    return i < 0 ? 0 : hash_mix(id + (uint64_t)i);
}

/* How the generated token of index i ends its request: 0 goes on, 1 stop, 2 length. */
static uint8_t finish_of(const user *u, int32_t i)
{
    if (hash_mix(u->id ^ (uint64_t)i << 32) % 40 == 0)
        return 1;
    return i + 1 >= u->max_tokens ? 2 : 0;
}

static uint8_t salt_of(const sim *s, uint64_t id)
{
    return (uint8_t)((id >> 1) % (uint64_t)s->n_salts);
}

static int32_t rope_set_of(uint64_t id)
{
    return (int32_t)(hash_mix(id ^ 77) % 8 == 0);
}

/* Nothing from the cache: switched off, or the whole prompt is pooled. */
static bool uncached(const sim *s, uint64_t id)
{
    return s->cache_off_one_in > 0 && hash_mix(id ^ 99) % (uint64_t)s->cache_off_one_in == 0;
}

/* What the keys and values of token i depend on, after those of token i - 1. */
static uint64_t chain_of(const sim *s, uint64_t id, int32_t i, uint64_t before)
{
    uint64_t begin = (uint64_t)salt_of(s, id) * 2 + (uint64_t)rope_set_of(id) + 1;
    return hash_mix((i == 0 ? begin : before) * 0x9e3779b97f4a7c15u + (uint64_t)token_of(id, i) + 1);
}

static user *user_of(sim *s, uint64_t id)
{
    user *u = &s->users[id % POOL];
    return u->alive && u->id == id ? u : NULL;
}

static void user_end(sim *s, user *u)
{
    u->alive = false;
    s->n_alive--;
    s->n_ended++;
    uint64_t took = s->clock - u->submitted_at, turns = (uint64_t)u->ahead / (uint64_t)s->opt.max_seqs + 2;
    s->longest = took > s->longest ? took : s->longest;
    /* Nobody waits longer than those ahead of it can take, each alone and computed again after each loss. */
    uint64_t alone = (uint64_t)(s->most_new + s->most_prompt) * 4 + 64;
    alone += (uint64_t)u->priority * 4 * COORD_PRIORITY_STEPS;
    if (s->lost_one_in == 0 && took > (uint64_t)(u->ahead + 2) * alone && took > turns * alone * 4)
        fault(s, "a request starved");
}

/* ---- submitting and cancelling ---- */

static void submit(sim *s)
{
    static int32_t tokens[1 << 12];
    uint64_t id = s->n_submitted + 1;
    user *u = &s->users[id % POOL];
    if (u->alive)
        return;
    *u = (user){.id = id, .alive = true, .n_prompt = between(s, 1, s->most_prompt), .max_tokens = between(s, 1, s->most_new),
                .want_prompt = one_in(s, 40), .submitted_at = s->clock, .ahead = s->n_alive, .cached = -1, .priority = between(s, 0, s->n_priorities - 1)};
    if (u->n_prompt + u->max_tokens > s->opt.max_context) /* the scheduler cuts it */
        u->max_tokens = s->opt.max_context - u->n_prompt;
    if (one_in(s, 8)) { /* one that another replica had begun */
        int32_t begun = between(s, 0, u->max_tokens - 1);
        while (u->n_seen < begun && finish_of(u, u->n_seen) == 0)
            u->n_seen++;
        u->hash = hash_of(id, u->n_seen - 1);
    }
    for (int32_t i = 0; i < u->n_prompt + u->n_seen; i++)
        tokens[i] = token_of(id, i);
    uint8_t salt = salt_of(s, id);
    coord_request r = {.id = id, .no_prefix_cache = uncached(s, id) && (id & 1) != 0,
                       .pooling = uncached(s, id) && (id & 1) == 0 ? STEP_POOL_MEAN : STEP_GENERATE, .cache_salt = &salt, .n_cache_salt = salt > 0, .tokens = tokens, .n_tokens = u->n_prompt + u->n_seen, .n_prompt = u->n_prompt, .priority = u->priority, .hash = u->hash, .rope_set = rope_set_of(id),
                       .sampling = {.max_tokens = u->max_tokens, .repetition_penalty = id % 3 == 0 ? 1.5f : 1.0f, .seed = id /* tells the ranks whose slot it is */, .n_prompt_logprobs = u->want_prompt ? 0 : -1}};
    if (coord_sched_submit(s->sched, &r) != ST_OK) {
        fault(s, "a request that fits was refused");
        return;
    }
    s->n_submitted++;
    s->n_alive++;
    if (one_in(s, 500)) { /* what cannot be served is refused at once */
        r.id = id;
        status_mute();
        if (coord_sched_submit(s->sched, &r) != ST_INVALID)
            fault(s, "an id was taken twice");
        r.id = UINT64_MAX;
        r.n_tokens = r.n_prompt = s->opt.max_context;
        if (coord_sched_submit(s->sched, &r) != ST_INVALID)
            fault(s, "a prompt longer than the context was taken");
        status_unmute();
        s->n_refused += 2;
    }
}

static void cancel(sim *s)
{
    uint64_t id = s->n_submitted - next_u64(s) % (uint64_t)(2 * s->most_alive);
    user *u = user_of(s, id);
    if (coord_sched_cancel(s->sched, id) != (u != NULL && !u->cancelled))
        fault(s, "cancel found a request that had ended, or lost one that had not");
    if (u == NULL)
        return;
    u->cancelled = true;
    user_end(s, u);
    s->n_cancelled++;
}

/* ---- what ranks would be told ---- */

static int32_t first_read(const sim *s, int g, int32_t position)
{
    int32_t w = s->opt.window[g];
    return w == 0 || position < w ? 0 : (position - w + 1) / s->opt.block_tokens;
}

static void check_new_blocks(sim *s, const step_span *sp, slot *q, int g)
{
    for (int32_t i = 0; i < sp->n_new_blocks[g] && q->n_table[g] < MAX_TABLE; i++) {
        int32_t id = sp->new_blocks[g][i], index = q->n_table[g]++;
        if (id < 0 || id >= s->opt.n_blocks[g]) {
            fault(s, "a block that does not exist");
            return;
        }
        q->table[g][index] = id;
        if (index * s->opt.block_tokens < q->n_prefix)
            continue; /* shared: read_check looks into it */
        if (s->blocks[g][id].last_named > s->retired)
            fault(s, "a block was given away while a step in flight names it");
        memset(s->blocks[g][id].holds, 0, sizeof(s->blocks[g][id].holds));
    }
    if ((int64_t)q->n_table[g] * s->opt.block_tokens < sp->position + sp->n_tokens)
        fault(s, "tokens without a block");
}

/* What ranks do with a span, first for all spans of a step, then (read_check) what they see. */
static void span_compute(sim *s, const step_span *sp, slot *q, uint64_t number)
{
    int32_t size = s->opt.block_tokens, end = sp->position + sp->n_tokens;
    for (int32_t p = sp->position; p < end && p < MAX_TABLE; p++)
        q->chain[p] = chain_of(s, q->id, p, p > 0 ? q->chain[p - 1] : 0);
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        for (int32_t i = first_read(s, g, sp->position); i * size < end; i++)
            s->blocks[g][q->table[g][i]].last_named = number;
        for (int32_t p = sp->position; p < end; p++)
            s->blocks[g][q->table[g][p / size]].holds[p % size] = q->chain[p];
    }
}

static void read_check(sim *s, const step_span *sp, const slot *q)
{
    int32_t size = s->opt.block_tokens, end = sp->position + sp->n_tokens;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int32_t w = s->opt.window[g];
        for (int32_t p = w == 0 || sp->position < w ? 0 : sp->position - w + 1; p < end; p++) {
            if (s->blocks[g][q->table[g][p / size]].holds[p % size] != q->chain[p])
                fault(s, "a sequence sees keys and values that are not its own");
        }
    }
}

static void check_span(sim *s, const step *st, const step_span *sp)
{
    slot *q = &s->slots[sp->slot];
    if (sp->slot < 0 || sp->slot >= s->opt.max_seqs || !q->live) {
        fault(s, "a span for a slot that is not live");
        return;
    }
    if (q->last_step == st->number)
        fault(s, "two spans of one slot");
    if (q->awaiting)
        fault(s, "a span for a sequence that waits for its token");
    if (sp->position != q->n_computed || sp->n_tokens < 1 || sp->n_tokens > q->n_known - sp->position)
        fault(s, "a span that does not continue its sequence");
    for (int32_t i = 0; i < sp->n_tokens; i++) {
        if (sp->tokens[i] != token_of(q->id, sp->position + i))
            fault(s, "a wrong token");
    }
    int32_t end = sp->position + sp->n_tokens;
    if (sp->next_token >= 0 && sp->next_token != token_of(q->id, end))
        fault(s, "a wrong next token");
    if (((sp->flags & STEP_SPAN_SAMPLE) != 0) != (end == q->n_known))
        fault(s, "sampling is asked for at the wrong place");
    if (sp->n_tokens > s->opt.max_prefill_chunk && s->opt.max_prefill_chunk > 0)
        fault(s, "a chunk longer than allowed");
    for (int g = 0; g < s->opt.n_kv_groups; g++)
        check_new_blocks(s, sp, q, g);
    if (s->fault == NULL)
        span_compute(s, sp, q, st->number);
    q->n_computed = end;
    q->awaiting = (sp->flags & STEP_SPAN_SAMPLE) != 0;
    q->last_step = st->number;
}

static void check_prefix(sim *s, const step_admit *a, user *u, slot *q)
{
    if (a->n_prefix % s->opt.block_tokens != 0 || a->n_prefix >= q->n_known || a->n_prefix < 0)
        fault(s, "a cached prefix of a wrong length");
    if (a->n_prefix > 0 && (s->opt.no_prefix_cache || uncached(s, q->id) ||
                            (u->want_prompt && u->n_prompt_seen < u->n_prompt - 1 && a->n_prefix > u->n_prompt_seen)))
        fault(s, "a prefix was taken from the cache that must be computed");
    for (int32_t i = 0; i < a->n_prefix; i++) {
        int32_t told = i - (a->n_prefix - step_prefix_told(a));
        if (told >= 0 && a->prefix[told] != token_of(q->id, i))
            fault(s, "a wrong token in a cached prefix");
        q->chain[i] = chain_of(s, q->id, i, i > 0 ? q->chain[i - 1] : 0);
    }
    if (u->cached < 0)
        u->cached = a->n_prefix < u->n_prompt ? a->n_prefix : u->n_prompt;
    s->n_cached += (uint64_t)a->n_prefix;
}

static void check_admissions(sim *s, const step *st)
{
    for (int32_t i = 0; i < st->n_retire; i++) {
        slot *q = &s->slots[st->retire[i]];
        if (!q->live || q->last_step > s->retired)
            fault(s, "a slot was retired that is not live, or that a step in flight names");
        q->live = false;
    }
    for (int32_t i = 0; i < st->n_admit; i++) {
        const step_admit *a = &st->admit[i];
        slot *q = &s->slots[a->slot];
        if (q->live)
            fault(s, "a slot was admitted twice");
        user *u = user_of(s, a->sampling.seed);
        if (u == NULL || u->n_prompt != a->n_prompt || u->n_seen != a->n_generated || u->hash != a->hash ||
            a->rope_set != rope_set_of(u->id)) {
            fault(s, "a sequence was admitted that nobody waits for, or not from where it was");
            return;
        }
        *q = (slot){.live = true, .id = a->sampling.seed, .n_prompt = a->n_prompt, .n_known = a->n_prompt + a->n_generated, .n_computed = a->n_prefix,
                    .n_prefix = a->n_prefix};
        check_prefix(s, a, u, q);
    }
}

static bool next(sim *s)
{
    step st;
    if (!coord_sched_next(s->sched, &st))
        return false;
    if (s->n_flights >= s->opt.depth)
        fault(s, "more steps in flight than the depth");
    if (s->n_flights > 0 && (s->lent || st.lent))
        fault(s, "a step is beside one to which the others' cores are lent");
    if (st.lent && !s->opt.lend)
        fault(s, "cores are lent where they may not be");
    s->lent = st.lent;
    if (st.number != s->next_number)
        fault(s, "a step's number does not follow");
    s->next_number = st.number + 1;
    check_admissions(s, &st);
    flight *f = &s->flights[(s->head + s->n_flights++) % MAX_DEPTH];
    f->number = st.number;
    f->n = st.n_spans;
    int32_t tokens = 0;
    for (int32_t i = 0; i < st.n_spans && s->fault == NULL; i++) {
        slot *q = &s->slots[st.spans[i].slot];
        check_span(s, &st, &st.spans[i]);
        f->spans[i] = st.spans[i];
        f->ids[i] = q->id;
        tokens += st.spans[i].n_tokens;
    }
    for (int32_t i = 0; i < st.n_spans && s->fault == NULL; i++)
        read_check(s, &st.spans[i], &s->slots[st.spans[i].slot]);
    if (tokens > s->opt.max_batched_tokens || st.n_spans > s->opt.max_seqs || st.n_spans == 0)
        fault(s, "a step outside its budget");
    s->n_steps++;
    s->n_tokens += (uint64_t)tokens;
    return true;
}

/* ---- results ---- */

static void on_event(void *arg, const coord_event *e)
{
    sim *s = arg;
    user *u = user_of(s, e->id);
    if (u == NULL || u->cancelled) {
        fault(s, "a token for a request that has ended");
        return;
    }
    if (e->cached_tokens != u->cached)
        fault(s, "an event tells of other cached tokens than there were");
    if (e->prompt) {
        if (!u->want_prompt || e->index != u->n_prompt_seen + 1 || e->token != token_of(e->id, e->index))
            fault(s, "a prompt token out of order");
        u->n_prompt_seen = e->index;
        return;
    }
    if (e->index != u->n_seen || e->token != token_of(e->id, u->n_prompt + e->index) || e->hash != hash_of(e->id, e->index))
        fault(s, "a token out of order");
    if (u->want_prompt && u->n_prompt_seen != u->n_prompt - 1)
        fault(s, "a prompt's log-probabilities are missing");
    u->n_seen++;
    u->hash = e->hash;
    if (e->finish != finish_of(u, e->index))
        fault(s, "a wrong end");
    if (e->finish != 0)
        user_end(s, u);
}

static int32_t span_rows(sim *s, const step_span *sp, uint64_t id, int32_t n_prompt, int32_t n)
{
    if ((sp->flags & STEP_SPAN_PROMPT_LOGPROBS) != 0) {
        for (int32_t p = sp->position; p < sp->position + sp->n_tokens && p + 1 < n_prompt; p++) {
            if (p + 1 < sp->position + sp->n_tokens || sp->next_token >= 0)
                s->rows[n++] = (step_result_row){.slot = sp->slot, .position = p, .token = -1};
        }
    }
    if ((sp->flags & STEP_SPAN_SAMPLE) == 0)
        return n;
    int32_t position = sp->position + sp->n_tokens - 1, index = position + 1 - n_prompt;
    const user *u = &s->users[id % POOL];
    user known = *u; /* a cancelled request's place may be another's already: any answer will do for it */
    known.id = id;
    s->rows[n] = (step_result_row){.slot = sp->slot, .position = position, .token = token_of(id, position + 1),
                                   .hash = hash_of(id, index), .finish = u->id == id ? finish_of(&known, index) : 2};
    return n + 1;
}

static void retire_oldest(sim *s)
{
    flight *f = &s->flights[s->head];
    int32_t n = 0;
    for (int32_t i = 0; i < f->n; i++) {
        slot *q = &s->slots[f->spans[i].slot];
        n = span_rows(s, &f->spans[i], f->ids[i], q->n_prompt, n);
        if ((f->spans[i].flags & STEP_SPAN_SAMPLE) != 0) {
            q->awaiting = false;
            q->n_known++;
        }
    }
    s->retired = f->number;
    s->head = (s->head + 1) % MAX_DEPTH;
    s->n_flights--;
    step_result r = {.number = f->number, .n_rows = n, .rows = s->rows};
    if (coord_sched_apply(s->sched, &r, on_event, s) != ST_OK)
        fault(s, "a good result was refused");
}

static void lose_ranks(sim *s)
{
    coord_sched_lost(s->sched);
    for (int i = 0; i < MAX_SLOTS; i++)
        s->slots[i].live = false;
    for (int g = 0; g < s->opt.n_kv_groups; g++)
        memset(s->blocks[g], 0, (size_t)s->opt.n_blocks[g] * sizeof(block));
    s->n_flights = 0;
    s->next_number = 1;
    s->retired = 0;
    s->n_lost++;
}

/* ---- episodes ---- */

static bool episode_begin(sim *s)
{
    bool large = one_in(s, 4);
    s->opt = (coord_sched_options){.max_seqs = between(s, 1, large ? MAX_SLOTS : 40), .max_batched_tokens = between(s, 1, large ? 1000 : 150),
                                   .depth = between(s, 1, MAX_DEPTH), .block_tokens = between(s, 1, 16), .n_kv_groups = between(s, 1, 2)};
    s->opt.max_prefill_chunk = one_in(s, 2) ? between(s, 1, s->opt.max_batched_tokens) : 0;
    s->opt.max_partial_prefills = one_in(s, 2) ? between(s, 1, 4) : 0;
    s->most_prompt = between(s, 1, large ? 200 : 60);
    s->most_new = between(s, 1, large ? 100 : 20);
    s->opt.max_context = s->most_prompt + between(s, 1, s->most_new); /* some are cut short by it */
    s->most_alive = between(s, 1, 3 * s->opt.max_seqs);
    s->cancel_one_in = one_in(s, 2) ? between(s, 5, 100) : 0;
    s->lost_one_in = one_in(s, 2) ? between(s, 100, 5000) : 0;
    s->n_priorities = one_in(s, 3) ? 3 : 1;
    s->n_salts = one_in(s, 3) ? 3 : 1;
    s->cache_off_one_in = one_in(s, 3) ? 4 : 0;
    s->opt.no_prefix_cache = one_in(s, 8);
    s->opt.lend = one_in(s, 3);
    s->lent = false;
    families.n = one_in(s, 4) ? 0 : (uint64_t)between(s, 1, 10);
    families.most = between(s, 0, s->most_prompt + s->most_new);
    s->longest = 0;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (g == 1 || one_in(s, 4))
            s->opt.window[g] = between(s, 1, 40);
        int32_t one = (s->most_prompt + s->most_new + s->opt.block_tokens - 1) / s->opt.block_tokens; /* the largest request */
        s->opt.n_blocks[g] = one + between(s, 0, one_in(s, 2) ? 3 : one * s->opt.max_seqs);
        free(s->blocks[g]);
        s->blocks[g] = calloc((size_t)s->opt.n_blocks[g], sizeof(block));
    }
    memset(s->slots, 0, sizeof(s->slots));
    s->n_flights = s->head = 0;
    s->next_number = 1;
    s->retired = 0;
    return coord_sched_create(&s->opt, &s->sched) == ST_OK;
}

static void advance(sim *s)
{
    s->clock++;
    bool built = false;
    if (one_in(s, 50))
        coord_sched_divide(s->sched, between(s, 0, MAX_DEPTH + 1)); /* out of range: the nearest */
    if (s->n_flights == 0 || !one_in(s, 3)) /* mostly fill the pipeline first, as the replica does */
        built = next(s);
    if (!built && s->n_flights > 0)
        retire_oldest(s);
    else if (!built && s->n_alive > 0)
        fault(s, "requests are there, and no step");
    if (one_in(s, s->lost_one_in))
        lose_ranks(s);
    const char *broken = s->clock % 256 == 0 ? coord_sched_check_whole(s->sched) : coord_sched_check(s->sched);
    if (broken != NULL)
        fault(s, broken);
}

static void episode(sim *s, uint64_t until)
{
    if (!episode_begin(s)) {
        fault(s, "good options were refused");
        return;
    }
    while (s->fault == NULL && (s->n_submitted < until || s->n_alive > 0 || s->n_flights > 0)) {
        while (s->fault == NULL && s->n_submitted < until && s->n_alive < s->most_alive && !one_in(s, 4))
            submit(s);
        if (one_in(s, s->cancel_one_in) && s->n_submitted > (uint64_t)(2 * s->most_alive))
            cancel(s);
        advance(s);
    }
    coord_sched_stats stats;
    coord_sched_stats_get(s->sched, &stats);
    s->n_preempted += stats.n_preemptions;
    const char *broken = coord_sched_check_whole(s->sched);
    if (broken != NULL)
        fault(s, broken);
    if (s->fault == NULL && (stats.n_running != 0 || stats.n_waiting != 0))
        fault(s, "requests are left when all have ended");
    for (int g = 0; s->fault == NULL && g < s->opt.n_kv_groups; g++) {
        if (stats.free_blocks[g] != s->opt.n_blocks[g])
            fault(s, "blocks are missing when all requests have ended");
    }
    coord_sched_destroy(&s->sched);
}

int main(int argc, char **argv)
{
    uint64_t requests = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000, seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    static sim s;
    s.seed = seed;
    double start = log_clock();
    int episodes = 0;
    uint64_t each = requests / 100 > 500 ? requests / 100 : 500;
    while (s.n_submitted < requests && s.fault == NULL) {
        uint64_t until = s.n_submitted + each;
        episode(&s, until < requests ? until : requests);
        episodes++;
    }
    free(s.blocks[0]);
    free(s.blocks[1]);
    if (s.fault != NULL) {
        printf("FAILED after %llu requests, step %llu of episode %d, seed %llu: %s\n", (unsigned long long)s.n_submitted, (unsigned long long)s.next_number - 1,
               episodes, (unsigned long long)seed, s.fault);
        printf("depth %d, %d slots, budget %d, chunk %d, blocks of %d: %lld %lld, windows %d %d\n", s.opt.depth, s.opt.max_seqs, s.opt.max_batched_tokens,
               s.opt.max_prefill_chunk, s.opt.block_tokens, (long long)s.opt.n_blocks[0], (long long)s.opt.n_blocks[1], s.opt.window[0], s.opt.window[1]);
        return 1;
    }
    printf("%llu requests (%llu cancelled), %llu steps, %llu tokens computed, %llu preemptions, %llu tokens taken from the cache, %llu losses of all ranks, %d episodes: every invariant held; %.1f s\n",
           (unsigned long long)s.n_ended, (unsigned long long)s.n_cancelled, (unsigned long long)s.n_steps, (unsigned long long)s.n_tokens,
           (unsigned long long)s.n_preempted, (unsigned long long)s.n_cached, (unsigned long long)s.n_lost, episodes, log_clock() - start);
    return s.n_ended == s.n_submitted ? 0 : 1;
}
