/* coordinator/sched.c - requests and their life; building a step; results. */
#include "coordinator/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "coordinator/sched_internal.h"

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

/* Back among the waiting, at its old age. */
static void seq_requeue(coord_sched *s, seq *q)
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
        s->opt.max_partial_prefills = o->max_seqs;
    s->next_step = 1;
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
            s->flights[i].freed[g] = -1;
    }
    for (int32_t i = o->max_seqs; i-- > 0;)
        s->free_slots[s->n_free_slots++] = i;
    for (int g = 0; g < o->n_kv_groups; g++) {
        if (o->n_blocks[g] < 1 || o->n_blocks[g] > INT32_MAX) {
            st = FAIL(ST_INVALID, "scheduler: %lld KV blocks in group %d: at least 1 is needed", (long long)o->n_blocks[g], g);
            goto err;
        }
        size_t blocks = (size_t)o->n_blocks[g];
        TRY_GOTO(mem_calloc(blocks, sizeof(int32_t), "scheduler blocks", &s->free_blocks[g]), err);
        TRY_GOTO(mem_calloc(blocks, sizeof(int32_t), "scheduler blocks", &s->next_block[g]), err);
        TRY_GOTO(mem_calloc(blocks, sizeof(int32_t), "scheduler blocks", &s->place[g]), err);
        for (int64_t b = o->n_blocks[g]; b-- > 0;) {
            s->place[g][b] = AT_FREE;
            sched_block_free(s, g, (int32_t)b);
        }
    }
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
    for (int g = 0; g < STEP_MAX_KV_GROUPS; g++) {
        free(s->free_blocks[g]);
        free(s->next_block[g]);
        free(s->place[g]);
    }
    free(s->buckets);
    free(s->running);
    free(s->free_slots);
    free(s->retire);
    free(s->admits);
    free(s->spans);
    free(s->span_tokens);
    free(s->flights);
    free(s->heap);
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

/* ---- building a step ---- */

typedef struct builder {
    coord_sched *s;
    step *out;
    flight *f;
    int32_t decodes;         /* decoding sequences that this step still takes */
    uint64_t served_before;  /* of those, only ones whose last step is before this one, */
    int32_t decodes_at;      /* and this many of those whose last step it is */
    int32_t prefill_budget;  /* tokens left for chunks of prefills */
    int32_t n_span_tokens;
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

/* Adds tokens [n_computed, n_computed + n) of q, whose blocks it has. */
static void span_add(builder *b, seq *q, int32_t n)
{
    coord_sched *s = b->s;
    step_span *sp = &s->spans[b->out->n_spans++];
    int32_t *tokens = s->span_tokens + b->n_span_tokens;
    int32_t end = q->n_computed + n;
    *sp = (step_span){.slot = q->slot, .position = q->n_computed, .n_tokens = n, .tokens = tokens, .next_token = -1};
    memcpy(tokens, q->tokens + q->n_computed, (size_t)n * sizeof(int32_t));
    b->n_span_tokens += n;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        sp->n_new_blocks[g] = t->n - t->n_sent;
        sp->new_blocks[g] = t->blocks + t->n_sent;
        t->n_sent = t->n;
    }
    /* The logits of position p tell of the prompt's token p + 1. */
    int32_t last_told = end < q->request.n_prompt ? end : q->request.n_prompt - 1;
    if (q->request.sampling.n_prompt_logprobs >= 0 && last_told > q->prompt_logprobs_done && last_told > q->n_computed) {
        sp->flags |= STEP_SPAN_PROMPT_LOGPROBS;
        if (end < q->request.n_prompt)
            sp->next_token = q->tokens[end];
    }
    if (end == q->n_tokens) {
        sp->flags |= STEP_SPAN_SAMPLE;
        q->awaiting_sample = true;
    }
    q->n_computed = end;
    q->n_in_flight++;
    q->last_step = b->out->number;
    b->f->seqs[b->f->n++] = q;
    s->n_tokens_computed += (uint64_t)n;
}

/* Preempts from the young end of the queue until q has blocks up to `end`.  Only if that many can be had at all: who is in flight keeps
 * its own, and so does who comes before q. */
static bool blocks_wrest(coord_sched *s, seq *q, int32_t end)
{
    int64_t can[STEP_MAX_KV_GROUPS];
    int32_t mine = s->n_running - 1;
    memcpy(can, s->n_free, sizeof(can));
    for (; s->running[mine] != q; mine--) {
        for (int g = 0; s->running[mine]->n_in_flight == 0 && g < s->opt.n_kv_groups; g++)
            can[g] += s->running[mine]->tables[g].n - s->running[mine]->tables[g].first;
    }
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (sched_blocks_missing(s, q, g, end) > can[g])
            return false;
    }
    for (int32_t i = s->n_running - 1; i > mine && !sched_blocks_available(s, q, end); i--) {
        if (s->running[i]->n_in_flight > 0)
            continue;
        seq_requeue(s, s->running[i]);
        s->n_preemptions++;
    }
    return sched_blocks_available(s, q, end);
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
        else if (blocks_wrest(s, q, q->n_computed + 1))
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

/* Tokens of a prefill chunk: what is left, the chunk cap, the budget. */
static int32_t chunk_size(const builder *b, const seq *q)
{
    int32_t n = seq_left(q);
    if (n > b->s->opt.max_prefill_chunk)
        n = b->s->opt.max_prefill_chunk;
    return n > b->prefill_budget ? b->prefill_budget : n;
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

/* Decodes and chunks in order of age, so that what is scarce goes to the oldest. */
static void add_running(builder *b)
{
    coord_sched *s = b->s;
    for (int32_t i = 0; i < s->n_running; i++) {
        seq *q = s->running[i];
        if (!seq_ready(q) || q->last_step == b->out->number)
            continue;
        bool decode = seq_left(q) == 1;
        int32_t want = decode ? decode_takes(b, q) : chunk_size(b, q);
        if (want == 0)
            continue;
        int32_t n = blocks_secure(b, q, want);
        if (n == 0) {
            b->stalled = true;
            b->decodes_unserved += decode;
            continue;
        }
        if (!decode)
            b->prefill_budget -= n;
        span_add(b, q, n);
    }
}

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

static void seq_admit(builder *b, seq *q)
{
    coord_sched *s = b->s;
    q->state = SEQ_RUNNING;
    q->slot = s->free_slots[--s->n_free_slots];
    running_insert(s, q);
    s->admits[b->out->n_admit++] = (step_admit){
        .slot = q->slot,
        .rope_set = q->request.rope_set,
        .n_prompt = q->request.n_prompt,
        .n_generated = q->n_tokens - q->request.n_prompt,
        .hash = q->request.hash,
        .pooling = q->request.pooling,
        .normalize = q->request.normalize,
        .sampling = q->request.sampling,
    };
}

/* All it has now and one token more must fit, beside a hundredth of the blocks for those that run to grow into; else it would
 * soon be thrown out again.  Alone it fits: request_check saw to that. */
static bool admissible(const coord_sched *s, const seq *q)
{
    int64_t all = (int64_t)q->n_tokens + 1 < s->opt.max_context ? q->n_tokens + 1 : q->n_tokens;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int64_t spare = s->n_running > 0 ? s->opt.n_blocks[g] / 100 : 0;
        if (sched_blocks_at_once(s, g, all, s->opt.max_prefill_chunk) + spare > s->n_free[g])
            return s->n_running == 0 && s->held[g] + s->n_deferred[g] == 0;
    }
    return true;
}

static void add_waiting(builder *b)
{
    coord_sched *s = b->s;
    int32_t partial = partial_prefills(s);
    while (s->n_heap > 0 && s->n_free_slots > 0 && b->prefill_budget > 0 && !b->stalled && partial < s->opt.max_partial_prefills) {
        seq *q = s->heap[0];
        int32_t n = chunk_size(b, q);
        int64_t reach = sched_blocks_reach(s, q);
        n = n < reach ? n : (int32_t)reach;
        if (n < 1 || !admissible(s, q) || !sched_tables_reserve(s, q, n))
            return;
        sched_heap_remove(s, q);
        seq_admit(b, q);
        sched_blocks_take(s, q, n);
        b->prefill_budget -= n;
        partial += n < seq_left(q);
        span_add(b, q, n);
    }
}

static void step_finish(builder *b)
{
    coord_sched *s = b->s;
    step *out = b->out;
    out->n_kv_groups = s->opt.n_kv_groups;
    out->admit = s->admits;
    out->spans = s->spans;
    out->retire = s->retire;
    out->n_retire = s->n_retire;
    s->n_retire = 0;
    s->n_flights++;
    s->next_step++;
    for (int32_t i = 0; i < b->f->n; i++) {
        seq *q = b->f->seqs[i];
        for (int g = 0; g < s->opt.n_kv_groups; g++)
            sched_blocks_drop_before(s, q, g, sched_first_visible(s, g, q->n_computed));
    }
}

/* How many decoding sequences the step takes, and which: with several steps in flight each takes its share, so that no stage
 * idles; the ones served longest ago come first. */
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
    int32_t share = (decoding + s->opt.depth - 1) / s->opt.depth, most = s->opt.max_batched_tokens;
    b->decodes = share < most ? share : most;
    b->served_before = UINT64_MAX;
    b->prefill_budget = most - (b->decodes < ready ? b->decodes : ready);
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
    if (s->n_flights >= s->opt.depth)
        return false;
    *out = (step){.number = s->next_step};
    builder b = {.s = s, .out = out};
    b.f = &s->flights[(s->flight_head + s->n_flights) % s->opt.depth];
    b.f->number = s->next_step;
    b.f->n = 0;
    decodes_share(&b);
    add_running(&b);
    if (b.decodes_unserved > 0) { /* their places go to whoever can use them, the oldest first */
        b.decodes = b.decodes_unserved;
        b.served_before = UINT64_MAX;
        b.stalled = false;
        add_running(&b);
        b.stalled = true;
    }
    add_waiting(&b);
    if (out->n_spans == 0)
        return false;
    step_finish(&b);
    return true;
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

static status row_apply(seq *q, const step_result_row *row, coord_event_fn fn, void *arg, bool *ended)
{
    coord_event e = {.id = q->request.id, .token = row->token, .finish = row->finish, .hash = row->hash, .logprob = row->logprob,
                     .rank = row->rank, .n_top = row->n_top, .top = row->top, .n_embedding = row->n_embedding, .embedding = row->embedding};
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
        TRY(row_apply(q, &result->rows[r], fn, arg, &ended));
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
            seq_requeue(s, q);
    }
    s->n_retire = 0; /* nobody is left to tell */
    s->n_flights = 0;
    s->flight_head = 0;
    s->next_step = 1;
    s->retired_step = 0;
}

void coord_sched_stats_get(const coord_sched *s, coord_sched_stats *out)
{
    *out = (coord_sched_stats){.n_waiting = s->n_heap,
                               .n_running = s->n_running,
                               .n_in_flight = s->n_flights,
                               .n_preemptions = s->n_preemptions,
                               .n_steps = s->next_step - 1,
                               .n_tokens_computed = s->n_tokens_computed};
    for (int g = 0; g < s->opt.n_kv_groups; g++)
        out->free_blocks[g] = s->n_free[g];
}
