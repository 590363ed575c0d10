#include "coordinator/sched.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

typedef enum seq_state { SEQ_WAITING, SEQ_RUNNING } seq_state;

typedef struct block_table {
    int32_t *blocks;      /* [n]; -1 once given back (before the window) */
    int32_t n, cap;
    int32_t first;        /* blocks before this were given back */
    int32_t n_sent;       /* blocks the ranks have been told of */
} block_table;

typedef struct seq {
    coord_request request; /* tokens and bias owned */
    int32_t *tokens;
    int32_t n_tokens, cap;
    seq_state state;
    bool cancelled, admitted_told; /* ranks know its slot */
    int32_t slot;
    int32_t n_computed;    /* tokens computed by steps handed out */
    int32_t n_in_flight;   /* steps that name it */
    bool awaiting_sample;
    int32_t prompt_logprobs_done; /* prompt tokens reported */
    uint64_t arrival;      /* order of age; kept through preemption */
    uint64_t last_step;
    block_table tables[STEP_MAX_KV_GROUPS];
    struct seq *hash_next;
} seq;

/* What one step names: sequences, to count them out when it retires. */
typedef struct flight {
    uint64_t number;
    int32_t n;
    seq **seqs; /* [max_seqs] */
} flight;

/* Blocks and slots wait here until the step that last named them retires. */
typedef struct deferred {
    uint64_t step;
    int32_t group; /* -1: a slot */
    int32_t id;
} deferred;

struct coord_sched {
    coord_sched_options opt;
    uint64_t next_step, retired_step, arrivals;

    seq **heap; /* waiting, by (priority, arrival) */
    int32_t n_heap, cap_heap;
    seq **running; /* by arrival */
    int32_t n_running;
    seq **buckets; /* id -> seq, chained */
    size_t n_buckets, n_alive;

    int32_t *free_blocks[STEP_MAX_KV_GROUPS];
    int64_t n_free[STEP_MAX_KV_GROUPS];
    int32_t *free_slots;
    int32_t n_free_slots;
    deferred *deferred; /* ring ordered by step */
    size_t deferred_head, n_deferred, cap_deferred;
    int32_t *retire; /* slots to name in the next step */
    int32_t n_retire;

    flight *flights; /* ring [depth] */
    int32_t flight_head, n_flights;

    step_admit *admits;
    step_span *spans;
    int32_t *span_tokens;
    uint64_t n_preemptions, n_tokens_computed;
};

static bool seq_before(const seq *a, const seq *b)
{
    if (a->request.priority != b->request.priority)
        return a->request.priority < b->request.priority;
    return a->arrival < b->arrival;
}

/* ---- waiting heap ---- */

static void heap_sift_up(coord_sched *s, int32_t i)
{
    while (i > 0 && seq_before(s->heap[i], s->heap[(i - 1) / 2])) {
        seq *t = s->heap[i];
        s->heap[i] = s->heap[(i - 1) / 2];
        s->heap[(i - 1) / 2] = t;
        i = (i - 1) / 2;
    }
}

static void heap_sift_down(coord_sched *s, int32_t i)
{
    for (;;) {
        int32_t best = i;
        for (int32_t c = 2 * i + 1; c <= 2 * i + 2; c++) {
            if (c < s->n_heap && seq_before(s->heap[c], s->heap[best]))
                best = c;
        }
        if (best == i)
            return;
        seq *t = s->heap[i];
        s->heap[i] = s->heap[best];
        s->heap[best] = t;
        i = best;
    }
}

/* Room is made at submit, so that putting a preempted sequence back cannot fail. */
static status heap_reserve(coord_sched *s)
{
    size_t need = s->n_alive + 1;
    if (need <= (size_t)s->cap_heap)
        return ST_OK;
    int32_t cap = s->cap_heap == 0 ? 64 : s->cap_heap * 2;
    seq **p = realloc(s->heap, (size_t)cap * sizeof(*p));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "scheduler: no memory for %d waiting requests", cap);
    s->heap = p;
    s->cap_heap = cap;
    return ST_OK;
}

static void heap_push(coord_sched *s, seq *q)
{
    s->heap[s->n_heap] = q;
    heap_sift_up(s, s->n_heap++);
}

static void heap_remove(coord_sched *s, seq *q)
{
    for (int32_t i = 0; i < s->n_heap; i++) {
        if (s->heap[i] != q)
            continue;
        s->heap[i] = s->heap[--s->n_heap];
        if (i < s->n_heap) {
            heap_sift_up(s, i);
            heap_sift_down(s, i);
        }
        return;
    }
}

/* ---- ids ---- */

static seq **bucket_of(const coord_sched *s, uint64_t id)
{
    return &s->buckets[(id * 0x9e3779b97f4a7c15u >> 20) & (s->n_buckets - 1)];
}

static seq *seq_find(const coord_sched *s, uint64_t id)
{
    seq *q = *bucket_of(s, id);
    while (q != NULL && q->request.id != id)
        q = q->hash_next;
    return q;
}

static status ids_grow(coord_sched *s)
{
    if (s->n_alive < s->n_buckets)
        return ST_OK;
    size_t old_n = s->n_buckets;
    seq **old = s->buckets;
    TRY(mem_calloc(old_n * 2, sizeof(*s->buckets), "scheduler ids", &s->buckets));
    s->n_buckets = old_n * 2;
    for (size_t i = 0; i < old_n; i++) {
        for (seq *q = old[i], *next; q != NULL; q = next) {
            next = q->hash_next;
            seq **b = bucket_of(s, q->request.id);
            q->hash_next = *b;
            *b = q;
        }
    }
    free(old);
    return ST_OK;
}

static void seq_free(seq *q)
{
    for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
        free(q->tables[g].blocks);
    free((void *)q->request.sampling.bias);
    free(q->tokens);
    free(q);
}

static void seq_forget(coord_sched *s, seq *q)
{
    seq **b = bucket_of(s, q->request.id);
    while (*b != q)
        b = &(*b)->hash_next;
    *b = q->hash_next;
    s->n_alive--;
    seq_free(q);
}

/* ---- blocks and slots ---- */

static void release(coord_sched *s, uint64_t last_step, int32_t group, int32_t id)
{
    if (last_step <= s->retired_step) {
        if (group < 0)
            s->free_slots[s->n_free_slots++] = id;
        else
            s->free_blocks[group][s->n_free[group]++] = id;
        return;
    }
    /* The ring holds every block and slot there is, so it cannot overflow.  Entries stay ordered by step: insertion from the back. */
    size_t at = s->n_deferred++;
    while (at > 0 && s->deferred[(s->deferred_head + at - 1) % s->cap_deferred].step > last_step) {
        s->deferred[(s->deferred_head + at) % s->cap_deferred] = s->deferred[(s->deferred_head + at - 1) % s->cap_deferred];
        at--;
    }
    s->deferred[(s->deferred_head + at) % s->cap_deferred] = (deferred){last_step, group, id};
}

static void release_retired(coord_sched *s)
{
    while (s->n_deferred > 0 && s->deferred[s->deferred_head].step <= s->retired_step) {
        deferred d = s->deferred[s->deferred_head];
        s->deferred_head = (s->deferred_head + 1) % s->cap_deferred;
        s->n_deferred--;
        release(s, 0, d.group, d.id);
    }
}

static int32_t blocks_for(const coord_sched *s, int64_t n_tokens)
{
    return (int32_t)((n_tokens + s->opt.block_tokens - 1) / s->opt.block_tokens);
}

/* First block a query at `position` may still read. */
static int32_t first_visible_block(const coord_sched *s, int g, int32_t position)
{
    int32_t w = s->opt.window[g];
    return w == 0 || position < w ? 0 : (position - w + 1) / s->opt.block_tokens;
}

/* Blocks group g lacks before tokens [.., end) can be computed. */
static int64_t blocks_missing(const coord_sched *s, const seq *q, int g, int32_t end)
{
    int64_t need = blocks_for(s, end) - (int64_t)q->tables[g].n;
    return need > 0 ? need : 0;
}

static bool blocks_available(const coord_sched *s, const seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (blocks_missing(s, q, g, end) > s->n_free[g])
            return false;
    }
    return true;
}

static bool blocks_take(coord_sched *s, seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        int32_t need = blocks_for(s, end);
        if (need > t->cap) {
            int32_t cap = need + need / 2 + 4;
            int32_t *p = realloc(t->blocks, (size_t)cap * sizeof(*p));
            if (p == NULL)
                return false;
            t->blocks = p;
            t->cap = cap;
        }
    }
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        for (int32_t need = blocks_for(s, end); t->n < need;)
            t->blocks[t->n++] = s->free_blocks[g][--s->n_free[g]];
    }
    return true;
}

static void blocks_drop_before(coord_sched *s, seq *q, int g, int32_t first)
{
    block_table *t = &q->tables[g];
    for (; t->first < first && t->first < t->n; t->first++) {
        release(s, q->last_step, g, t->blocks[t->first]);
        t->blocks[t->first] = -1;
    }
}

/* Takes a sequence off the ranks: its slot and blocks go back, its computed tokens are forgotten. */
static void seq_unplace(coord_sched *s, seq *q)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        blocks_drop_before(s, q, g, q->tables[g].n);
        q->tables[g].n = q->tables[g].first = q->tables[g].n_sent = 0;
    }
    if (q->admitted_told)
        s->retire[s->n_retire++] = q->slot; /* free once the step that says so is out: see step_finish */
    else
        release(s, 0, -1, q->slot);
    q->slot = -1;
    q->admitted_told = false;
    q->n_computed = 0;
    q->awaiting_sample = false;
}

static void running_remove(coord_sched *s, seq *q)
{
    for (int32_t i = 0; i < s->n_running; i++) {
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
    seq_forget(s, q);
}

static void seq_preempt(coord_sched *s, seq *q)
{
    seq_unplace(s, q);
    running_remove(s, q);
    q->state = SEQ_WAITING;
    heap_push(s, q);
    s->n_preemptions++;
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
    size_t n = (size_t)o->max_seqs, total = n;
    TRY_GOTO(mem_calloc(s->n_buckets, sizeof(*s->buckets), "scheduler ids", &s->buckets), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->running), "scheduler", &s->running), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->free_slots), "scheduler", &s->free_slots), err);
    TRY_GOTO(mem_calloc(2 * n, sizeof(*s->retire), "scheduler", &s->retire), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->admits), "scheduler", &s->admits), err);
    TRY_GOTO(mem_calloc(n, sizeof(*s->spans), "scheduler", &s->spans), err);
    TRY_GOTO(mem_calloc((size_t)o->max_batched_tokens, sizeof(*s->span_tokens), "scheduler", &s->span_tokens), err);
    TRY_GOTO(mem_calloc((size_t)o->depth, sizeof(*s->flights), "scheduler", &s->flights), err);
    for (int i = 0; i < o->depth; i++)
        TRY_GOTO(mem_calloc(n, sizeof(seq *), "scheduler", &s->flights[i].seqs), err);
    for (int32_t i = o->max_seqs; i-- > 0;)
        s->free_slots[s->n_free_slots++] = i;
    for (int g = 0; g < o->n_kv_groups; g++) {
        if (o->n_blocks[g] < 1 || o->n_blocks[g] > INT32_MAX) {
            st = FAIL(ST_INVALID, "scheduler: %lld KV blocks in group %d: at least 1 is needed", (long long)o->n_blocks[g], g);
            goto err;
        }
        TRY_GOTO(mem_calloc((size_t)o->n_blocks[g], sizeof(int32_t), "scheduler blocks", &s->free_blocks[g]), err);
        for (int64_t b = o->n_blocks[g]; b-- > 0;)
            s->free_blocks[g][s->n_free[g]++] = (int32_t)b;
        total += (size_t)o->n_blocks[g];
    }
    s->cap_deferred = total;
    TRY_GOTO(mem_calloc(total, sizeof(*s->deferred), "scheduler", &s->deferred), err);
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
            seq_free(q);
        }
    }
    for (int i = 0; s->flights != NULL && i < s->opt.depth; i++)
        free(s->flights[i].seqs);
    for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
        free(s->free_blocks[g]);
    free(s->buckets);
    free(s->running);
    free(s->free_slots);
    free(s->retire);
    free(s->admits);
    free(s->spans);
    free(s->span_tokens);
    free(s->flights);
    free(s->deferred);
    free(s->heap);
    free(s);
    *sched = NULL;
}

static status request_check(const coord_sched *s, const coord_request *r)
{
    if (r->n_tokens < 1 || r->n_prompt < 1 || r->n_prompt > r->n_tokens)
        return FAIL(ST_INVALID, "the prompt is empty: at least one token is needed");
    if (r->n_tokens >= s->opt.max_context)
        return FAIL(ST_INVALID, "the prompt has %d tokens; with max_model_len %d at most %d leave room for an answer", r->n_tokens,
                    s->opt.max_context, s->opt.max_context - 1);
    if (r->n_tokens - r->n_prompt >= r->sampling.max_tokens)
        return FAIL(ST_INVALID, "max_tokens is %d: at least one more than the %d generated", r->sampling.max_tokens,
                    r->n_tokens - r->n_prompt);
    int64_t last = (int64_t)r->n_prompt + r->sampling.max_tokens - 1; /* the last token generated is never computed */
    if (last > s->opt.max_context - 1)
        last = s->opt.max_context - 1;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (blocks_for(s, last) > s->opt.n_blocks[g])
            return FAIL(ST_INVALID,
                        "prompt and max_tokens may need %d KV blocks of %d tokens, and there are %lld: ask for fewer tokens, or give "
                        "the KV cache more memory",
                        blocks_for(s, last), s->opt.block_tokens, (long long)s->opt.n_blocks[g]);
    }
    if (seq_find(s, r->id) != NULL)
        return FAIL(ST_INVALID, "request id %llu is already in use", (unsigned long long)r->id);
    return ST_OK;
}

status coord_sched_submit(coord_sched *s, const coord_request *r)
{
    status st;
    TRY(request_check(s, r));
    TRY(heap_reserve(s));
    TRY(ids_grow(s));
    seq *q;
    TRY(mem_calloc(1, sizeof(*q), "request", &q));
    q->request = *r;
    q->request.sampling.bias = NULL;
    q->request.tokens = NULL;
    int64_t most = (int64_t)r->n_prompt + r->sampling.max_tokens;
    if (most > s->opt.max_context) {
        most = s->opt.max_context;
        q->request.sampling.max_tokens = s->opt.max_context - r->n_prompt;
    }
    q->cap = (int32_t)(most > r->n_tokens + 64 ? r->n_tokens + 64 : most + 1);
    TRY_GOTO(mem_calloc((size_t)q->cap, sizeof(int32_t), "request", &q->tokens), err);
    memcpy(q->tokens, r->tokens, (size_t)r->n_tokens * sizeof(int32_t));
    q->n_tokens = r->n_tokens;
    if (r->sampling.n_bias > 0) {
        step_bias *copy;
        TRY_GOTO(mem_calloc((size_t)r->sampling.n_bias, sizeof(step_bias), "request", &copy), err);
        memcpy(copy, r->sampling.bias, (size_t)r->sampling.n_bias * sizeof(step_bias));
        q->request.sampling.bias = copy;
    }
    q->state = SEQ_WAITING;
    q->slot = -1;
    q->arrival = ++s->arrivals;
    seq **b = bucket_of(s, r->id);
    q->hash_next = *b;
    *b = q;
    s->n_alive++;
    heap_push(s, q);
    return ST_OK;
err:
    seq_free(q);
    return st;
}

bool coord_sched_cancel(coord_sched *s, uint64_t id)
{
    seq *q = seq_find(s, id);
    if (q == NULL || q->cancelled)
        return false;
    if (q->state == SEQ_WAITING) {
        heap_remove(s, q);
        seq_forget(s, q);
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
    int32_t budget, n_span_tokens;
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
    b->budget -= n;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        sp->n_new_blocks[g] = t->n - t->n_sent;
        sp->new_blocks[g] = t->blocks + t->n_sent;
        t->n_sent = t->n;
    }
    if (q->request.sampling.n_prompt_logprobs >= 0 && end > q->prompt_logprobs_done + 1 && q->n_computed < q->request.n_prompt - 1) {
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

/* The running sequence that gives way first: lowest priority, then youngest; none in flight; must come after `than`. */
static seq *victim_find(const coord_sched *s, const seq *than)
{
    seq *worst = NULL;
    for (int32_t i = 0; i < s->n_running; i++) {
        seq *q = s->running[i];
        if (q->n_in_flight == 0 && (worst == NULL || seq_before(worst, q)))
            worst = q;
    }
    return worst != NULL && seq_before(than, worst) ? worst : NULL;
}

/* Gets blocks for tokens up to end, preempting younger sequences; false: not now. */
static bool blocks_secure(coord_sched *s, seq *q, int32_t end)
{
    while (!blocks_available(s, q, end)) {
        seq *victim = victim_find(s, q);
        if (victim == NULL)
            return false;
        seq_preempt(s, victim);
    }
    return blocks_take(s, q, end);
}

/* Tokens of a prefill chunk: what is left, the chunk cap, the budget. */
static int32_t chunk_size(const builder *b, const seq *q)
{
    int32_t n = seq_left(q);
    if (n > b->s->opt.max_prefill_chunk)
        n = b->s->opt.max_prefill_chunk;
    return n > b->budget ? b->budget : n;
}

static void add_running(builder *b, bool decodes)
{
    coord_sched *s = b->s;
    for (int32_t i = 0; i < s->n_running && b->budget > 0; i++) {
        seq *q = s->running[i];
        bool decode = seq_left(q) == 1;
        if (!seq_ready(q) || decode != decodes)
            continue;
        int32_t n = chunk_size(b, q);
        int32_t before = s->n_running;
        if (blocks_secure(s, q, q->n_computed + n)) {
            /* Preempting younger ones removed entries; find our place again. */
            while (before != s->n_running && s->running[i] != q)
                i--;
            span_add(b, q, n);
            continue;
        }
        while (before != s->n_running && s->running[i] != q)
            i--;
        /* Nobody younger to take from.  Alone at the end of the queue: give way oneself, if others hold what is missing. */
        if (q->n_in_flight == 0 && s->n_running > 1 && s->n_flights == 0 && b->out->n_spans == 0 && i == s->n_running - 1) {
            seq_preempt(s, q);
            i--;
        }
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
    while (i > 0 && seq_before(q, s->running[i - 1])) {
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
    q->admitted_told = true;
    running_insert(s, q);
    s->admits[b->out->n_admit++] = (step_admit){
        .slot = q->slot,
        .rope_set = q->request.rope_set,
        .n_prompt = q->request.n_prompt,
        .n_generated = q->n_tokens - q->request.n_prompt,
        .hash = q->request.hash,
        .sampling = q->request.sampling,
    };
}

static void add_waiting(builder *b)
{
    coord_sched *s = b->s;
    int32_t partial = partial_prefills(s);
    while (s->n_heap > 0 && s->n_free_slots > 0 && b->budget > 0 && partial < s->opt.max_partial_prefills) {
        seq *q = s->heap[0];
        /* All it has now and one token more must fit, else it would soon be thrown out again. */
        int32_t whole = q->n_tokens + 1 < s->opt.max_context ? q->n_tokens + 1 : q->n_tokens;
        if (!blocks_available(s, q, whole) && !(s->n_running == 0 && s->n_deferred == 0 && blocks_available(s, q, q->n_tokens)))
            return;
        int32_t n = chunk_size(b, q);
        if (!blocks_take(s, q, n))
            return;
        s->heap[0] = s->heap[--s->n_heap];
        heap_sift_down(s, 0);
        seq_admit(b, q);
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
    for (int32_t i = 0; i < s->n_retire; i++)
        release(s, out->number, -1, s->retire[i]); /* ranks retire before they admit, but a slot is named by one life a step */
    s->n_retire = 0;
    s->n_flights++;
    s->next_step++;
    for (int32_t i = 0; i < b->f->n; i++) {
        seq *q = b->f->seqs[i];
        for (int g = 0; g < s->opt.n_kv_groups; g++)
            blocks_drop_before(s, q, g, first_visible_block(s, g, q->n_computed));
    }
}

bool coord_sched_next(coord_sched *s, step *out)
{
    if (s->n_flights >= s->opt.depth)
        return false;
    *out = (step){.number = s->next_step};
    builder b = {.s = s, .out = out, .budget = s->opt.max_batched_tokens};
    b.f = &s->flights[(s->flight_head + s->n_flights) % s->opt.depth];
    b.f->number = s->next_step;
    b.f->n = 0;
    add_running(&b, true);
    add_running(&b, false);
    add_waiting(&b);
    if (out->n_spans == 0)
        return false;
    step_finish(&b);
    return true;
}

/* ---- results ---- */

static seq *flight_seq(const flight *f, int32_t slot)
{
    for (int32_t i = 0; i < f->n; i++) {
        if (f->seqs[i]->slot == slot)
            return f->seqs[i];
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
    coord_event e = {.id = q->request.id, .logprob = row->logprob, .n_top = row->n_top, .top = row->top};
    if (row->token < 0) { /* a prompt token's log-probabilities; a replay repeats some */
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
        e.token = row->token;
        e.finish = row->finish;
        e.hash = row->hash;
        if (!token_append(q, row->token))
            return FAIL(ST_NO_MEMORY, "no memory for the tokens of request %llu", (unsigned long long)q->request.id);
        *ended = row->finish != 0;
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
    release_retired(s);
    for (int32_t i = 0; i < f->n; i++)
        f->seqs[i]->n_in_flight--;
    for (int32_t r = 0; r < result->n_rows; r++) {
        seq *q = flight_seq(f, result->rows[r].slot);
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
    s->retired_step = s->next_step;
    release_retired(s);
    while (s->n_running > 0) {
        seq *q = s->running[s->n_running - 1];
        q->n_in_flight = 0;
        q->admitted_told = false; /* nobody is left to tell */
        q->last_step = 0;
        if (q->cancelled) {
            seq_end(s, q);
            continue;
        }
        seq_unplace(s, q);
        running_remove(s, q);
        q->state = SEQ_WAITING;
        heap_push(s, q);
    }
    for (int32_t i = 0; i < s->n_retire; i++)
        release(s, 0, -1, s->retire[i]);
    s->n_retire = 0;
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

const char *coord_sched_check(const coord_sched *s)
{
    if (s->n_running + s->n_free_slots > s->opt.max_seqs)
        return "more slots than there are";
    int64_t deferred_blocks[STEP_MAX_KV_GROUPS] = {0}, deferred_slots = 0;
    uint64_t last = 0;
    for (size_t i = 0; i < s->n_deferred; i++) {
        const deferred *d = &s->deferred[(s->deferred_head + i) % s->cap_deferred];
        if (d->step < last)
            return "deferred releases out of order";
        last = d->step;
        if (d->group < 0)
            deferred_slots++;
        else
            deferred_blocks[d->group]++;
    }
    if (s->n_running + s->n_free_slots + deferred_slots + s->n_retire != s->opt.max_seqs)
        return "a slot is lost or held twice";
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int64_t held = s->n_free[g] + deferred_blocks[g];
        for (int32_t i = 0; i < s->n_running; i++) {
            const block_table *t = &s->running[i]->tables[g];
            held += t->n - t->first;
            if ((int64_t)t->n * s->opt.block_tokens < s->running[i]->n_computed)
                return "a token was computed without a block";
        }
        if (held != s->opt.n_blocks[g])
            return "a block is lost or held twice";
    }
    for (int32_t i = 0; i < s->n_running; i++) {
        const seq *q = s->running[i];
        if (i > 0 && seq_before(q, s->running[i - 1]))
            return "running sequences out of order";
        if (q->n_computed > q->n_tokens || (q->awaiting_sample && q->n_in_flight == 0))
            return "a sequence waits for a token no step will bring";
    }
    return NULL;
}
