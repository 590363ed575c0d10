/* coordinator/sched_step.c - building a step: who gets how many of its tokens.
 *
 * First everybody's tokens are granted, in several passes that may add to one another, and their blocks taken; then spans are written.
 *
 *   running, by age    decodes; prefills, but for the half kept back if somebody has less left to compute than the oldest
 *   short              that half: prefills, running or waiting, the least left first
 *   rest               prefills running, then waiting, by age
 */
#include <stdlib.h>
#include <string.h>

#include "coordinator/sched_internal.h"

typedef struct builder {
    coord_sched *s;
    step *out;
    flight *f;
    int32_t decodes;         /* decoding sequences that this step still takes */
    uint64_t served_before;  /* of those, only ones whose last step is before this one, */
    int32_t decodes_at;      /* and this many of those whose last step it is */
    int32_t prefill_budget;  /* tokens left for chunks of prefills */
    int32_t decodes_unserved; /* given a place, but no block */
    bool stalled;            /* an older sequence waits for blocks: younger ones take none */
} builder;

static int32_t seq_left(const seq *q)
{
    return q->n_tokens - q->n_computed;
}

static bool seq_ready(const seq *q)
{
    return !q->cancelled && !q->awaiting_sample && seq_left(q) > 0;
}

static bool in_step(const builder *b, const seq *q)
{
    return q->last_step == b->out->number;
}

/* A prefill that may go on in this step.  A sequence with one token left is a decoding one, unless it is here already. */
static bool prefills(const builder *b, const seq *q)
{
    return seq_ready(q) && (seq_left(q) > 1 || in_step(b, q));
}

/* ---- granting ---- */

/* q, which has the blocks for them, computes n more tokens in this step. */
static void grant(builder *b, seq *q, int32_t n)
{
    if (!in_step(b, q)) {
        q->last_step = b->out->number;
        q->span_begin = q->n_computed;
        q->n_in_flight++;
        b->f->seqs[b->f->n++] = q;
    }
    q->n_computed += n;
    q->awaiting_sample = q->n_computed == q->n_tokens;
    b->s->stats.n_tokens_computed += (uint64_t)n;
    sched_prefix_publish(b->s, q);
}

/* Gives q blocks for its next tokens, at most n: returns how many tokens they allow, 0 = none now.  A chunk shrinks to the blocks
 * that are free before anybody is preempted. */
static int32_t blocks_secure(builder *b, seq *q, int32_t n)
{
    coord_sched *s = b->s;
    if (!sched_blocks_available(s, q, q->n_computed + n)) {
        int64_t reach = sched_blocks_reach(s, q) - q->n_computed;
        if (b->stalled) /* what it has already is its own; the free ones are promised */
            return 0;
        if (reach >= 1)
            n = (int32_t)reach;
        else if (sched_blocks_wrest(s, q, q->n_computed + 1))
            n = n < s->opt.block_tokens ? n : s->opt.block_tokens;
        else
            return 0;
        reach = sched_blocks_reach(s, q) - q->n_computed;
        n = n < reach ? n : (int32_t)reach;
    } else if (b->stalled) {
        for (int g = 0; g < s->opt.n_kv_groups; g++) {
            if (sched_blocks_missing(s, q, g, q->n_computed + n) > 0)
                return 0;
        }
    }
    if (!sched_tables_reserve(s, q, q->n_computed + n))
        return 0;
    sched_blocks_take(s, q, q->n_computed + n);
    return n;
}

static int32_t min_of(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Tokens that q may still prefill in this step: what is left of it, of the chunk cap, of the limit. */
static int32_t chunk_size(const builder *b, const seq *q, int32_t limit)
{
    int32_t had = in_step(b, q) ? q->n_computed - q->span_begin : 0;
    return min_of(min_of(seq_left(q), b->s->opt.max_prefill_chunk - had), min_of(limit, b->prefill_budget));
}

static int32_t prefill(builder *b, seq *q, int32_t limit)
{
    int32_t want = chunk_size(b, q, limit);
    if (want <= 0)
        return 0;
    int32_t n = blocks_secure(b, q, want);
    if (n == 0) {
        b->stalled = true;
        return 0;
    }
    b->prefill_budget -= n;
    grant(b, q, n);
    return n;
}

/* Whether this step has a place for a decoding sequence. */
static bool decode_takes(builder *b, const seq *q)
{
    if (b->decodes == 0 || q->last_step > b->served_before)
        return false;
    if (q->last_step == b->served_before) {
        if (b->decodes_at == 0)
            return false;
        b->decodes_at--;
    }
    b->decodes--;
    return true;
}

static void decode(builder *b, seq *q)
{
    if (!decode_takes(b, q))
        return;
    if (blocks_secure(b, q, 1) == 1) {
        grant(b, q, 1);
        b->f->decodes = true;
        return;
    }
    b->stalled = true;
    b->decodes_unserved++;
}

/* Decodes and chunks in order of age, so that what is scarce goes to the oldest.  Prefills take at most `limit` together. */
static void add_running(builder *b, int32_t limit)
{
    coord_sched *s = b->s;
    for (int32_t i = 0; i < s->n_running; i++) {
        seq *q = s->running[i];
        if (prefills(b, q))
            limit -= prefill(b, q, limit);
        else if (seq_ready(q) && !in_step(b, q))
            decode(b, q);
    }
}

/* ---- admissions ---- */

static int32_t partial_prefills(const coord_sched *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_running; i++)
        n += !s->running[i]->awaiting_sample && seq_left(s->running[i]) > 1;
    return n;
}

/* Inserts by age, so that `running` stays ordered through preemptions. */
static void running_insert(coord_sched *s, seq *q)
{
    int32_t i = s->n_running++;
    while (i > 0 && sched_seq_before(q, s->running[i - 1])) {
        s->running[i] = s->running[i - 1];
        i--;
    }
    s->running[i] = q;
}

static void first_admission(coord_sched *s, seq *q)
{
    bool asked = s->hash != NULL && !q->request.no_prefix_cache;
    q->admitted_before = true;
    q->cached_tokens = min_of(q->n_computed, q->request.n_prompt);
    s->stats.n_prompt_tokens += (uint64_t)q->request.n_prompt;
    s->stats.prefix_queries += asked ? (uint64_t)q->n_tokens : 0;
    s->stats.prefix_hits += (uint64_t)q->n_computed;
}

static void seq_admit(builder *b, seq *q, int32_t hit)
{
    coord_sched *s = b->s;
    sched_heap_remove(s, q);
    q->state = SEQ_RUNNING;
    q->slot = s->free_slots[--s->n_free_slots];
    sched_prefix_take(s, q, hit);
    running_insert(s, q);
    if (!q->admitted_before)
        first_admission(s, q);
    step_admit *a = &s->admits[b->out->n_admit++];
    *a = (step_admit){
        .slot = q->slot,
        .rope_set = q->request.rope_set,
        .n_prompt = q->request.n_prompt,
        .n_generated = q->n_tokens - q->request.n_prompt,
        .hash = q->request.hash,
        .n_prefix = q->n_computed,
        .pooling = q->request.pooling,
        .normalize = q->request.normalize,
        .sampling = q->request.sampling,
    };
    a->prefix = q->tokens + (q->n_computed - step_prefix_told(a));
}

/* Blocks at hand that q, waiting, takes until it has computed all it has now and one token more; hit: blocks that the cache has of it. */
static void room_add(const coord_sched *s, const seq *q, int32_t hit, int64_t *need)
{
    int64_t all = (int64_t)q->n_tokens + 1 < s->opt.max_context ? q->n_tokens + 1 : q->n_tokens;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int32_t had_free, had = sched_prefix_needs(s, q, g, hit, &had_free);
        need[g] += sched_blocks_at_once(s, g, all, s->opt.max_prefill_chunk) - had + had_free;
    }
}

/* All of it must fit, beside a hundredth of the blocks for those that run to grow into; else it would soon be thrown out again.  Who overtakes
 * the oldest leaves room for it too.  Alone it fits: request_check saw to that. */
static bool has_room(coord_sched *s, const seq *q, int32_t hit)
{
    int64_t need[STEP_MAX_KV_GROUPS] = {0};
    seq *oldest = s->heaps[HEAP_BY_AGE][0];
    room_add(s, q, hit, need);
    if (q != oldest)
        room_add(s, oldest, sched_prefix_find(s, oldest), need);
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        const block_pool *p = &s->pools[g];
        if (need[g] + (s->n_running > 0 ? p->n_blocks / 100 : 0) > p->free.n)
            return q == oldest && s->n_running == 0 && p->n_held + p->n_deferred == 0;
    }
    return true;
}

enum { ADMIT_NOTHING, ADMIT_NO_PLACE, ADMIT_NO_ROOM };

/* Lets the waiting q in with at most `limit` tokens: how many it got, or 0 and why not.  Who overtakes the oldest leaves it a slot, and a place among
 * the partial prefills. */
static int32_t admit(builder *b, seq *q, int32_t limit, int *why)
{
    coord_sched *s = b->s;
    int32_t leave = q != s->heaps[HEAP_BY_AGE][0];
    *why = ADMIT_NO_PLACE;
    if (s->n_free_slots <= leave || limit <= 0 || b->prefill_budget <= 0)
        return 0;
    int32_t hit = sched_prefix_find(s, q), left = q->n_tokens - hit * s->opt.block_tokens;
    int32_t n = min_of(min_of(left, s->opt.max_prefill_chunk), min_of(limit, b->prefill_budget));
    if (n < left && partial_prefills(s) + leave >= s->opt.max_partial_prefills)
        return 0;
    *why = ADMIT_NO_ROOM;
    if (!has_room(s, q, hit) || !sched_tables_reserve(s, q, q->n_tokens))
        return 0;
    seq_admit(b, q, hit);
    n = min_of(n, (int32_t)(sched_blocks_reach(s, q) - q->n_computed));
    sched_blocks_take(s, q, q->n_computed + n);
    b->prefill_budget -= n;
    grant(b, q, n);
    *why = ADMIT_NOTHING;
    return n;
}

/* By age.  Nobody overtakes who waits for room. */
static void add_waiting(builder *b)
{
    int why = ADMIT_NOTHING;
    while (b->s->n_waiting > 0 && !b->stalled && why == ADMIT_NOTHING)
        (void)admit(b, b->s->heaps[HEAP_BY_AGE][0], b->prefill_budget, &why);
    b->stalled |= why == ADMIT_NO_ROOM;
}

/* ---- short before long ---- */

/* The prefill that has the least left to compute, running or (NULL: none of those) waiting. */
static seq *shortest(const builder *b, int32_t limit)
{
    const coord_sched *s = b->s;
    seq *best = NULL;
    for (int32_t i = 0; i < s->n_running; i++) {
        seq *q = s->running[i];
        if (prefills(b, q) && chunk_size(b, q, limit) > 0 && (best == NULL || sched_seq_shorter(q, best)))
            best = q;
    }
    return best;
}

/* Spends up to `limit` on those with the least left to compute. */
static void add_short(builder *b, int32_t limit)
{
    coord_sched *s = b->s;
    int why = ADMIT_NOTHING;
    while (limit > 0 && b->prefill_budget > 0 && !b->stalled) {
        seq *q = shortest(b, limit), *w = s->n_waiting > 0 && s->n_free_slots > 0 && why == ADMIT_NOTHING ? s->heaps[HEAP_BY_LENGTH][0] : NULL;
        if (w != NULL && (q == NULL || sched_seq_shorter(w, q))) {
            limit -= admit(b, w, limit, &why);
            continue;
        }
        if (q == NULL)
            return;
        limit -= prefill(b, q, limit);
    }
}

/* Half of the prefills' budget, if somebody has less left to compute than the oldest of them. */
static int32_t kept_for_short(const builder *b)
{
    const coord_sched *s = b->s;
    const seq *oldest = NULL;
    for (int32_t i = 0; i < s->n_running; i++) {
        const seq *q = s->running[i];
        if (!prefills(b, q))
            continue;
        if (oldest != NULL && sched_seq_shorter(q, oldest))
            return b->prefill_budget / 2;
        oldest = oldest == NULL ? q : oldest;
    }
    if (s->n_waiting == 0 || s->n_free_slots == 0)
        return 0;
    oldest = oldest != NULL ? oldest : s->heaps[HEAP_BY_AGE][0];
    const seq *w = s->heaps[HEAP_BY_LENGTH][0];
    return w != oldest && sched_seq_shorter(w, oldest) ? b->prefill_budget / 2 : 0;
}

/* ---- the step ---- */

/* Tokens [span_begin, n_computed) of q. */
static void span_write(builder *b, const seq *q, int32_t *tokens, step_span *sp)
{
    int32_t n = q->n_computed - q->span_begin;
    *sp = (step_span){.slot = q->slot, .position = q->span_begin, .n_tokens = n, .tokens = tokens, .next_token = -1};
    memcpy(tokens, q->tokens + q->span_begin, (size_t)n * sizeof(int32_t));
    for (int g = 0; g < b->s->opt.n_kv_groups; g++) {
        sp->n_new_blocks[g] = q->tables[g].n - q->tables[g].n_sent;
        sp->new_blocks[g] = q->tables[g].blocks + q->tables[g].n_sent;
    }
    /* The logits of position p tell of the prompt's token p + 1. */
    int32_t end = q->n_computed, last_told = min_of(end, q->request.n_prompt - 1);
    if (q->request.sampling.n_prompt_logprobs >= 0 && last_told > q->prompt_logprobs_done && last_told > q->span_begin) {
        sp->flags |= STEP_SPAN_PROMPT_LOGPROBS;
        if (end < q->request.n_prompt)
            sp->next_token = q->tokens[end];
    }
    if (q->awaiting_sample)
        sp->flags |= STEP_SPAN_SAMPLE;
}

/* Another step might be built beside this one. */
static bool more_wanted(const builder *b)
{
    const coord_sched *s = b->s;
    for (int32_t i = 0; i < s->n_running; i++) {
        if (seq_ready(s->running[i]))
            return true;
    }
    return s->n_waiting > 0 && s->n_free_slots > 0 && !b->stalled;
}

static void step_finish(builder *b)
{
    coord_sched *s = b->s;
    step *out = b->out;
    int32_t *tokens = s->span_tokens;
    for (int32_t i = 0; i < b->f->n; i++) {
        seq *q = b->f->seqs[i];
        span_write(b, q, tokens, &s->spans[i]);
        tokens += s->spans[i].n_tokens;
    }
    out->n_kv_groups = s->opt.n_kv_groups;
    out->admit = s->admits;
    out->spans = s->spans;
    out->n_spans = b->f->n;
    out->retire = s->retire;
    out->n_retire = s->n_retire;
    s->n_retire = 0;
    out->lent = s->lent = s->opt.lend && s->n_flights == 0 && !more_wanted(b);
    s->n_flights++;
    s->next_step++;
    for (int32_t i = 0; i < b->f->n; i++) {
        seq *q = b->f->seqs[i];
        for (int g = 0; g < s->opt.n_kv_groups; g++) {
            q->tables[g].n_sent = q->tables[g].n;
            sched_blocks_drop_before(s, q, g, sched_first_visible(s, g, q->n_computed));
        }
    }
    int bucket = 0;
    while (bucket < COORD_STEP_BUCKETS - 1 && tokens - s->span_tokens > (ptrdiff_t)1 << bucket)
        bucket++;
    s->stats.steps_by_tokens[bucket]++;
    s->stats.n_steps++;
}

/* Somebody's prompt could be computed in this step. */
static bool prefill_wanted(const coord_sched *s)
{
    for (int32_t i = 0; i < s->n_running; i++) {
        if (seq_ready(s->running[i]) && seq_left(s->running[i]) > 1)
            return true;
    }
    return s->n_waiting > 0 && s->n_free_slots > 0;
}

/* How many decoding sequences the step takes, and which: with several steps in flight each takes its share, so that no stage
 * idles; the ones served longest ago come first.  Where they could fill the budget, an eighth of it is left for prompts. */
static void decodes_share(builder *b)
{
    enum { AGES = 64 };
    const coord_sched *s = b->s;
    int32_t decoding = 0, ready = 0, of_age[AGES] = {0};
    for (int32_t i = 0; i < s->n_running; i++) {
        const seq *q = s->running[i];
        if (q->cancelled || (!q->awaiting_sample && seq_left(q) != 1))
            continue;
        decoding++;
        if (!seq_ready(q))
            continue;
        uint64_t age = s->next_step - q->last_step;
        of_age[age < AGES ? age : AGES - 1]++;
        ready++;
    }
    int32_t share = (decoding + s->waves - 1) / s->waves, most = s->opt.max_batched_tokens, waves = 0;
    for (int32_t i = 0; i < s->n_flights; i++)
        waves += s->flights[(s->flight_head + i) % s->opt.depth].decodes;
    b->decodes = waves >= s->waves ? 0 : min_of(share, prefill_wanted(s) ? most - most / 8 : most);
    b->served_before = UINT64_MAX;
    b->prefill_budget = most - min_of(b->decodes, ready);
    if (ready <= b->decodes)
        return;
    int32_t age = AGES - 1, left = b->decodes;
    for (; of_age[age] < left; age--)
        left -= of_age[age];
    if (age == AGES - 1) /* all of them waited very long: any will do */
        return;
    b->served_before = s->next_step - (uint64_t)age;
    b->decodes_at = left;
}

bool coord_sched_next(coord_sched *s, step *out)
{
    if (s->n_flights >= s->opt.depth || (s->n_flights > 0 && s->lent))
        return false;
    *out = (step){.number = s->next_step};
    builder b = {.s = s, .out = out};
    b.f = &s->flights[(s->flight_head + s->n_flights) % s->opt.depth];
    b.f->number = s->next_step;
    b.f->n = 0;
    b.f->decodes = false;
    decodes_share(&b);
    int32_t kept = kept_for_short(&b);
    add_running(&b, b.prefill_budget - kept);
    if (b.decodes_unserved > 0) { /* their places go to whoever can use them, the oldest first */
        b.decodes = b.decodes_unserved;
        b.served_before = UINT64_MAX;
        b.stalled = false;
        add_running(&b, 0);
        b.stalled = true;
    }
    add_short(&b, kept);
    add_running(&b, b.prefill_budget);
    add_waiting(&b);
    add_short(&b, b.prefill_budget); /* past a long one that may not begin yet */
    if (b.f->n == 0)
        return false;
    step_finish(&b);
    return true;
}
