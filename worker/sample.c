/* worker/sample.c - from logits to tokens on the ranks of the last stage.
 *
 * Each rank looks at its slice of the vocabulary (ops->sample) and the ranks exchange maxima, sums of exponentials and their best
 * candidates; all of them then come to the same choice.  Sampling is Gumbel-max (arXiv:1411.0030): the token with the highest
 * adjusted logit + noise, the noise a pure function of (seed, choice, position, token), so without truncation one candidate a rank is exact
 * and nothing else travels.  Truncation (top-k, then top-p, then min-p, as transformers orders them, after temperature) is decided on the merged
 * candidates; where these cannot prove the cut, the row's slices are gathered whole: the second round.  So are rows of which more
 * log-probabilities are wanted than candidates travel.  Ranks of tokens, and log-probabilities of tokens named by a request, are summed up
 * over the slices afterwards (lookups). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker/worker_internal.h"

typedef struct head { /* the fixed part of what ranks exchange for a row; n_candidates + n_raw ops_candidates follow */
    float raw_max, raw_sum, target_logit, max, sum;
    ops_candidate best;
    uint64_t hash;
    int32_t n_candidates, n_raw;
} head;

typedef struct merged {
    head h;
    int32_t n, n_raw;
    float floor; /* candidates above it are surely the best there are */
    ops_candidate *candidates, *raw;
} merged;

static int32_t row_bytes(const ops_sample_row *r)
{
    return (int32_t)mem_align(sizeof(head) + (size_t)(r->n_candidates + r->n_raw) * sizeof(ops_candidate), 16);
}

status worker_sample_create(worker *w)
{
    int32_t tp = w->opt.plan->tp;
    size_t rows = (size_t)w->logits_rows, max_row = mem_align(sizeof(head) + 2 * OPS_MAX_CANDIDATES * sizeof(ops_candidate), 16);
    w->max_tops = w->opt.max_batched_tokens * 8;
    TRY(mem_calloc(rows, sizeof(*w->sample_rows), "sampling", &w->sample_rows));
    TRY(mem_calloc(rows, sizeof(*w->sample_outs), "sampling", &w->sample_outs));
    w->gather_bytes = rows * max_row;
    TRY(mem_calloc(1, w->gather_bytes, "sampling", &w->gather_mine));
    TRY(mem_calloc((size_t)tp, w->gather_bytes, "sampling", &w->gather_all));
    TRY(mem_calloc((size_t)w->opt.max_batched_tokens, sizeof(*w->result_rows), "results", &w->result_rows));
    TRY(mem_calloc((size_t)w->max_tops, sizeof(*w->result_tops), "results", &w->result_tops));
    return ST_OK;
}

void worker_sample_destroy(worker *w)
{
    free(w->sample_rows);
    free(w->sample_outs);
    free(w->gather_mine);
    free(w->gather_all);
    free(w->full_row);
    free(w->full_sort);
    free(w->result_rows);
    free(w->result_tops);
    free(w->lookups);
    free(w->lookup_sums);
    free(w->embeddings);
    free(w->pool_row);
}

static bool truncates(const step_sampling *s)
{
    return s->temperature > 0 && (s->top_k > 0 || s->top_p < 1.0f || s->min_p > 0.0f);
}

static status row_describe(worker *w, const worker_out *o, int32_t row, ops_sample_row *r)
{
    worker_seq *q = &w->seqs[o->slot];
    const step_sampling *s = &q->sampling;
    int32_t tops = o->target >= 0 ? s->n_prompt_logprobs : s->n_logprobs;
    *r = (ops_sample_row){.row = row, .repetition_penalty = 1, .target = o->target};
    r->n_raw = tops <= 0 || tops > OPS_MAX_CANDIDATES ? 0 : tops;
    if (o->target >= 0)
        return ST_OK;
    r->temperature = s->temperature;
    r->repetition_penalty = s->repetition_penalty;
    r->presence_penalty = s->presence_penalty;
    r->frequency_penalty = s->frequency_penalty;
    r->n_counts = q->n_counts;
    r->counts = q->counts;
    r->seed = s->seed;
    r->choice = s->choice;
    r->position = o->position + 1;
    r->want_sample = true;
    r->want_hash = s->want_hash;
    r->want_sum = r->temperature > 0 && s->top_p < 1.0f && s->top_k <= 0; /* cut sums up what top-k left by itself */
    if (truncates(s))
        r->n_candidates = s->top_k > 0 && s->top_k < OPS_MAX_CANDIDATES ? s->top_k : OPS_MAX_CANDIDATES;
    return worker_constrain_row(w, q, r);
}

/* ---- merging ---- */

static bool better(const ops_candidate *a, const ops_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static int by_logit(const void *a, const void *b)
{
    return better(a, b) ? -1 : 1;
}

static void merge_sums(float *max, float *sum, float m, float s)
{
    if (m == -INFINITY)
        return;
    if (m > *max) {
        *sum = (float)((double)*sum * exp((double)*max - m) + s);
        *max = m;
    } else {
        *sum = (float)(*sum + (double)s * exp((double)m - *max));
    }
}

/* Adds one rank's candidates to the merge, ranks in order.  Lists keep the best `want` in by_logit order; true if some were left out. */
static bool list_merge(ops_candidate *list, int32_t *n, int32_t want, const ops_candidate *more, int32_t n_more)
{
    ops_candidate both[2 * OPS_MAX_CANDIDATES];
    int32_t i = 0, j = 0, k = 0;
    while (k < want && (i < *n || j < n_more))
        both[k++] = j >= n_more || (i < *n && better(&list[i], &more[j])) ? list[i++] : more[j++];
    bool left_out = i < *n || j < n_more;
    memcpy(list, both, (size_t)k * sizeof(*list));
    *n = k;
    return left_out;
}

static void merge_row(const worker *w, const ops_sample_row *r, const char *all, size_t stride, merged *out)
{
    int32_t tp = w->opt.plan->tp;
    out->h = (head){.raw_max = -INFINITY, .target_logit = -INFINITY, .max = -INFINITY, .best = {-1, -INFINITY, -INFINITY}};
    out->n = out->n_raw = 0;
    out->floor = -INFINITY;
    for (int32_t i = 0; i < tp; i++) {
        head h;
        const char *at = all + (size_t)i * stride;
        memcpy(&h, at, sizeof(h));
        const ops_candidate *c = (const ops_candidate *)(at + sizeof(h));
        merge_sums(&out->h.raw_max, &out->h.raw_sum, h.raw_max, h.raw_sum);
        merge_sums(&out->h.max, &out->h.sum, h.max, h.sum);
        if (h.target_logit > out->h.target_logit)
            out->h.target_logit = h.target_logit;
        if (h.best.token >= 0 && (out->h.best.token < 0 || better(&h.best, &out->h.best)))
            out->h.best = h.best;
        out->h.hash += h.hash;
        /* A rank that filled its list may hold more at or under its last candidate. */
        if (h.n_candidates == r->n_candidates && h.n_candidates > 0 && c[h.n_candidates - 1].logit > out->floor)
            out->floor = c[h.n_candidates - 1].logit;
        if (list_merge(out->candidates, &out->n, r->n_candidates, c, h.n_candidates) && out->n > 0 && out->candidates[out->n - 1].logit > out->floor)
            out->floor = out->candidates[out->n - 1].logit;
        list_merge(out->raw, &out->n_raw, r->n_raw, c + r->n_candidates, h.n_raw);
    }
}

/* ---- truncation ---- */

/* How many of the first n candidates (by_logit order) stay; -1: the list ends before the cut is sure.  `complete`: nothing else exists;
 * else candidates above `floor` are surely the best there are. */
static int32_t cut(const step_sampling *s, const ops_candidate *c, int32_t n, bool complete, float floor, double max, double sum)
{
    int32_t keep = n;
    bool sure = complete;
    if (s->top_k > 0 && s->top_k <= n) {
        keep = s->top_k;
        sure = true; /* each rank gave its best top_k: the first top_k of all are among them */
    } else if (s->top_k > 0 && !complete) {
        return -1;
    }
    if (s->top_k > 0) { /* what follows sees only these, renormalised */
        sum = 0;
        for (int32_t i = 0; i < keep; i++)
            sum += exp((double)c[i].logit - max);
    }
    int32_t last = keep;
    bool ended = false;
    if (s->top_p < 1.0f) {
        double mass = 0;
        for (int32_t i = 0; i < keep && !ended; i++) {
            mass += exp((double)c[i].logit - max) / sum;
            if (mass >= s->top_p) {
                last = i + 1;
                ended = true;
            }
        }
    }
    if (s->min_p > 0.0f) {
        double limit = max + log((double)s->min_p);
        for (int32_t i = 0; i < last; i++) {
            if (c[i].logit < limit) {
                last = i;
                ended = true;
                break;
            }
        }
    }
    if (last < 1)
        last = 1;
    if (sure)
        return last;
    return ended && c[last - 1].logit > floor ? last : -1;
}

static ops_candidate choose(const step_sampling *s, const ops_candidate *c, int32_t n, int32_t position)
{
    ops_candidate best = c[0];
    float best_value = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        float v = c[i].logit + ops_gumbel(s->seed, s->choice, position, c[i].token);
        if (v > best_value || (v == best_value && c[i].token < best.token)) {
            best = c[i];
            best_value = v;
        }
    }
    return best;
}

static status full_row_create(worker *w)
{
    size_t vocab = (size_t)w->arch->vocab;
    if (w->full_row == NULL)
        TRY(mem_calloc(vocab * 2, sizeof(float), "sampling", &w->full_row));
    if (w->full_sort == NULL)
        TRY(mem_calloc(vocab, sizeof(ops_candidate), "sampling", &w->full_sort));
    return ST_OK;
}

/* Every rank's slice of one row of `from` (raw or adjusted logits): *n candidates in by_logit order, in w->full_sort. */
static status gather_row(worker *w, ops_mat from, int32_t row, int32_t *n)
{
    const shard_plan *plan = w->opt.plan;
    int32_t vocab = w->arch->vocab, first = w->rank->rank - w->rank->tp_index;
    TRY(full_row_create(w));
    size_t *bytes;
    TRY(mem_calloc((size_t)plan->tp, sizeof(size_t), "sampling", &bytes));
    for (int32_t i = 0; i < plan->tp; i++)
        bytes[i] = (size_t)(plan->ranks[first + i].head_rows.end - plan->ranks[first + i].head_rows.begin) * sizeof(float);
    float *mine = w->full_row + vocab;
    status st = w->ops->buf_read(w->ctx, from.buf, from.offset + (size_t)row * from.stride, mine, bytes[w->rank->tp_index]);
    if (st == ST_OK)
        st = comm_all_gather(w->group, mine, bytes, w->full_row);
    free(bytes);
    TRY(st);
    *n = 0;
    for (int32_t t = 0; t < vocab; t++) {
        if (w->full_row[t] > -INFINITY)
            w->full_sort[(*n)++] = (ops_candidate){t, w->full_row[t], NAN};
    }
    qsort(w->full_sort, (size_t)*n, sizeof(ops_candidate), by_logit);
    return ST_OK;
}

/* The second round. */
static status choose_from_all(worker *w, const ops_sample_row *r, const step_sampling *s, const merged *m, ops_candidate *out)
{
    int32_t n;
    TRY(gather_row(w, w->adjusted, r->row, &n));
    *out = n == 0 ? m->h.best : choose(s, w->full_sort, cut(s, w->full_sort, n, true, -INFINITY, m->h.max, m->h.sum), r->position);
    return ST_OK;
}

static status sample_token(worker *w, const ops_sample_row *r, const step_sampling *s, const merged *m, ops_candidate *out)
{
    if (!truncates(s)) {
        *out = m->h.best;
        return ST_OK;
    }
    bool complete = m->floor == -INFINITY;
    if (m->n > 0) {
        int32_t n = cut(s, m->candidates, m->n, complete, m->floor, m->h.max, m->h.sum);
        if (n > 0) {
            *out = choose(s, m->candidates, n, r->position);
            return ST_OK;
        }
    }
    return choose_from_all(w, r, s, m, out);
}

/* ---- results ---- */

static status tops_reserve(worker *w, int32_t used, int32_t more)
{
    if (used + more <= w->max_tops)
        return ST_OK;
    int32_t cap = (used + more) * 2;
    step_logprob *p = realloc(w->result_tops, (size_t)cap * sizeof(*p));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for %d log-probabilities", cap);
    w->result_tops = p;
    w->max_tops = cap;
    return ST_OK;
}

static uint8_t finish_of(const worker *w, const worker_seq *q, int32_t token)
{
    const step_sampling *s = &q->sampling;
    for (int32_t i = 0; i < s->n_stop; i++) {
        if (s->stop[i] == token)
            return STEP_END_TOKEN;
    }
    if (worker_grammar_ends(w, q, token))
        return STEP_END_TOKEN;
    return q->n_generated >= s->max_tokens ? STEP_LENGTH : STEP_GOES_ON;
}

/* The raw logit of a token that the second round chose: its rank tells the others. */
static status raw_of(worker *w, int32_t row, int32_t token, float *raw)
{
    shard_slice own = w->rank->head_rows;
    float mine = 0;
    if (token >= own.begin && token < own.end)
        TRY(w->ops->buf_read(w->ctx, w->logits.buf, w->logits.offset + (size_t)row * w->logits.stride + (size_t)(token - own.begin) * sizeof(float),
                             &mine, sizeof(mine)));
    TRY(comm_all_reduce(w->group, &mine, 1)); /* all others bring zero */
    *raw = mine;
    return ST_OK;
}

/* To be found by lookups_find, once all rows at hand have their tokens. */
static status lookup_add(worker *w, worker_lookup l)
{
    if (w->n_lookups == w->max_lookups) {
        int32_t cap = w->max_lookups * 2 + 64;
        worker_lookup *p = realloc(w->lookups, (size_t)cap * sizeof(*p));
        if (p == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for %d log-probabilities", cap);
        w->lookups = p;
        float *sums = realloc(w->lookup_sums, (size_t)cap * sizeof(*sums));
        if (sums == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for %d log-probabilities", cap);
        w->lookup_sums = sums;
        w->max_lookups = cap;
    }
    w->lookups[w->n_lookups++] = l;
    return ST_OK;
}

/* The `want` highest log-probabilities of a row, then places for `more` tokens. */
static status row_tops(worker *w, int32_t want, const step_tokens *more, int32_t row, const merged *m, double norm, step_result_row *out,
                       int32_t *n_tops)
{
    const ops_candidate *c = m->raw;
    int32_t n = m->n_raw;
    if (want > OPS_MAX_CANDIDATES) {
        TRY(gather_row(w, w->logits, row, &n));
        c = w->full_sort;
        n = n > want ? want : n;
    }
    TRY(tops_reserve(w, *n_tops, n + more->n));
    out->n_top = n + more->n;
    for (int32_t i = 0; i < n; i++) {
        w->result_tops[(*n_tops)++] = (step_logprob){c[i].token, (float)(c[i].logit - norm), i + 1};
        if (c[i].token == out->token)
            out->rank = i + 1;
    }
    for (int32_t i = 0; i < more->n; i++) {
        TRY(lookup_add(w, (worker_lookup){.row = row, .token = more->tokens[i], .result = w->result.n_rows, .top = *n_tops, .norm = norm}));
        w->result_tops[(*n_tops)++] = (step_logprob){.token = more->tokens[i]};
    }
    return ST_OK;
}

/* The token of a sampling row into *out: chosen, counted, hashed; or why there is none. */
static status row_token(worker *w, const worker_out *o, const ops_sample_row *r, const merged *m, double norm, step_result_row *out)
{
    worker_seq *q = &w->seqs[o->slot];
    ops_candidate c;
    TRY(sample_token(w, r, &q->sampling, m, &c));
    if (c.token < 0) {
        out->finish = isfinite(m->h.raw_max) ? STEP_NO_TOKEN : STEP_NOT_NUMBERS;
        return ST_OK;
    }
    if (isnan(c.raw))
        TRY(raw_of(w, r->row, c.token, &c.raw));
    out->token = c.token;
    out->logprob = (float)(c.raw - norm);
    q->n_generated++;
    TRY(worker_seq_saw(w, q, c.token, false));
    if (q->sampling.want_hash)
        q->hash = hash_mix(q->hash + m->h.hash + 0x9e3779b97f4a7c15u);
    out->hash = q->hash;
    out->finish = finish_of(w, q, c.token);
    return ST_OK;
}

static status row_result(worker *w, const worker_out *o, const ops_sample_row *r, const merged *m, int32_t *n_tops)
{
    static const step_tokens none;
    const worker_seq *q = &w->seqs[o->slot];
    step_result_row *out = &w->result_rows[w->result.n_rows];
    double norm = (double)m->h.raw_max + log((double)m->h.raw_sum);
    bool prompt = o->target >= 0;
    int32_t want = prompt ? q->sampling.n_prompt_logprobs : q->sampling.n_logprobs;
    *out = (step_result_row){.slot = o->slot, .position = o->position, .token = o->target};
    if (prompt)
        out->logprob = (float)(m->h.target_logit - norm);
    else
        TRY(row_token(w, o, r, m, norm, out));
    if (out->token >= 0)
        TRY(row_tops(w, want, prompt ? &none : &q->sampling.logprob_tokens, r->row, m, norm, out, n_tops));
    if (out->token >= 0 && want >= 0 && out->rank == 0)
        TRY(lookup_add(w, (worker_lookup){.row = r->row, .token = out->token, .result = w->result.n_rows, .top = -1, .norm = norm}));
    if (prompt)
        out->token = -1;
    w->result.n_rows++;
    return ST_OK;
}

/* ---- log-probabilities and ranks of named tokens ---- */

enum { LOOKUPS_SORTED = 16 }; /* from so many of one row on the row is sorted once */

/* This rank's slice of a row, as candidates in w->full_sort. */
static status slice_read(worker *w, int32_t row, int32_t *n)
{
    shard_slice own = w->rank->head_rows;
    *n = (int32_t)(own.end - own.begin);
    TRY(full_row_create(w));
    TRY(w->ops->buf_read(w->ctx, w->logits.buf, w->logits.offset + (size_t)row * w->logits.stride, w->full_row, (size_t)*n * sizeof(float)));
    for (int32_t i = 0; i < *n; i++)
        w->full_sort[i] = (ops_candidate){(int32_t)own.begin + i, w->full_row[i], 0};
    return ST_OK;
}

static int32_t better_in_sorted(const ops_candidate *sorted, int32_t n, const ops_candidate *than)
{
    int32_t low = 0, high = n;
    while (low < high) {
        int32_t mid = low + (high - low) / 2;
        if (better(&sorted[mid], than))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* l[0 .. n): lookups of one row. */
static status lookups_count(worker *w, worker_lookup *l, int32_t n)
{
    int32_t cols;
    TRY(slice_read(w, l->row, &cols));
    if (n >= LOOKUPS_SORTED)
        qsort(w->full_sort, (size_t)cols, sizeof(ops_candidate), by_logit);
    for (int32_t i = 0; i < n; i++) {
        ops_candidate c = {l[i].token, l[i].raw, 0};
        if (n >= LOOKUPS_SORTED) {
            l[i].before = better_in_sorted(w->full_sort, cols, &c);
            continue;
        }
        for (int32_t j = 0; j < cols; j++)
            l[i].before += better(&w->full_sort[j], &c);
    }
    return ST_OK;
}

/* One number for each lookup, added over the ranks: exact, since all but one are zero, or all are small whole numbers. */
static status lookups_sum(worker *w)
{
    double started = log_clock();
    status st = comm_all_reduce(w->group, w->lookup_sums, (size_t)w->n_lookups);
    w->times.exchange_seconds += log_clock() - started;
    return st;
}

/* Every rank has the same list: two sums over the ranks, of the tokens' logits and of the numbers of likelier tokens. */
static status lookups_find(worker *w)
{
    shard_slice own = w->rank->head_rows;
    if (w->n_lookups == 0)
        return ST_OK;
    for (int32_t i = 0; i < w->n_lookups; i++) {
        const worker_lookup *l = &w->lookups[i];
        w->lookup_sums[i] = 0;
        if (l->token >= own.begin && l->token < own.end)
            TRY(w->ops->buf_read(w->ctx, w->logits.buf,
                                 w->logits.offset + (size_t)l->row * w->logits.stride + (size_t)(l->token - own.begin) * sizeof(float),
                                 &w->lookup_sums[i], sizeof(float)));
    }
    TRY(lookups_sum(w));
    for (int32_t i = 0; i < w->n_lookups; i++)
        w->lookups[i].raw = w->lookup_sums[i];
    for (int32_t i = 0, n; i < w->n_lookups; i += n) {
        for (n = 1; i + n < w->n_lookups && w->lookups[i + n].row == w->lookups[i].row;)
            n++;
        TRY(lookups_count(w, &w->lookups[i], n));
    }
    for (int32_t i = 0; i < w->n_lookups; i++)
        w->lookup_sums[i] = (float)w->lookups[i].before;
    TRY(lookups_sum(w));
    for (int32_t i = 0; i < w->n_lookups; i++) {
        const worker_lookup *l = &w->lookups[i];
        int32_t rank = 1 + (int32_t)w->lookup_sums[i];
        if (l->top < 0)
            w->result_rows[l->result].rank = rank;
        else
            w->result_tops[l->top] = (step_logprob){l->token, (float)(l->raw - l->norm), rank};
    }
    w->n_lookups = 0;
    return ST_OK;
}

/* Every rank's rows for all ranks: *all holds tp rows for each row, rank's rows `*stride` apart. */
static status gather(worker *w, int32_t n, const char **all, size_t *stride)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        const ops_sample_row *r = &w->sample_rows[i];
        const ops_sample_out *o = &w->sample_outs[i];
        head h = {o->raw_max, o->raw_sum, o->target_logit, o->max, o->sum, o->best, o->hash, o->n_candidates, o->n_raw};
        if (!r->want_sample)
            h.best.token = -1;
        char *at = w->gather_mine + bytes;
        memcpy(at, &h, sizeof(h));
        memcpy(at + sizeof(h), o->candidates, (size_t)o->n_candidates * sizeof(ops_candidate));
        memcpy(at + sizeof(h) + (size_t)r->n_candidates * sizeof(ops_candidate), o->raw, (size_t)o->n_raw * sizeof(ops_candidate));
        bytes += (size_t)row_bytes(r);
    }
    *stride = bytes;
    *all = w->gather_mine;
    int32_t tp = w->opt.plan->tp;
    if (tp == 1)
        return ST_OK;
    size_t *sizes;
    TRY(mem_calloc((size_t)tp, sizeof(size_t), "sampling", &sizes));
    for (int32_t i = 0; i < tp; i++)
        sizes[i] = bytes;
    double started = log_clock();
    worker_note(w, WORKER_EXCHANGE);
    status st = comm_all_gather(w->group, w->gather_mine, sizes, w->gather_all);
    w->times.exchange_seconds += log_clock() - started;
    free(sizes);
    *all = w->gather_all;
    return st;
}

status worker_sample_reserve(worker *w)
{
    static const uint32_t some;
    int32_t n = w->logits_rows < w->opt.max_batched_tokens ? w->logits_rows : w->opt.max_batched_tokens;
    int32_t counts = w->opt.max_context < w->arch->vocab ? w->opt.max_context : w->arch->vocab;
    for (int32_t i = 0; i < n; i++)
        w->sample_rows[i] = (ops_sample_row){.row = i, .n_counts = counts, .allow = &some, .target = -1, .want_sample = true};
    ops_sample_args a = {.logits = w->logits, .adjusted = w->adjusted, .vocab_begin = (int32_t)w->rank->head_rows.begin, .n = n, .rows = w->sample_rows, .out = w->sample_outs};
    return w->ops->sample(w->ctx, &a);
}

static status sample_rows(worker *w, int32_t begin, int32_t n, int32_t *n_tops)
{
    worker_note(w, WORKER_HEAD);
    TRY(worker_head(w, begin, n));
    for (int32_t i = 0; i < n; i++)
        TRY(row_describe(w, &w->outs[begin + i], i, &w->sample_rows[i]));
    ops_sample_args a = {
        .logits = w->logits,
        .adjusted = w->adjusted,
        .vocab_begin = (int32_t)w->rank->head_rows.begin,
        .multiplier = w->arch->logit_multiplier,
        .softcap = w->arch->logit_softcap,
        .n = n,
        .rows = w->sample_rows,
        .out = w->sample_outs,
    };
    worker_note(w, WORKER_SAMPLE);
    TRY(w->ops->sample(w->ctx, &a));
    TRY(w->ops->sync(w->ctx));
    const char *all;
    size_t stride, offset = 0;
    TRY(gather(w, n, &all, &stride));
    worker_mark(w, WORKER_SAMPLE);
    ops_candidate candidates[OPS_MAX_CANDIDATES], raw[OPS_MAX_CANDIDATES];
    for (int32_t i = 0; i < n; i++) {
        merged m = {.candidates = candidates, .raw = raw};
        merge_row(w, &w->sample_rows[i], all + offset, stride, &m);
        offset += (size_t)row_bytes(&w->sample_rows[i]);
        TRY(row_result(w, &w->outs[begin + i], &w->sample_rows[i], &m, n_tops));
    }
    return lookups_find(w);
}

status worker_sample(worker *w, uint64_t step_number)
{
    double started = log_clock(), waited = w->times.exchange_seconds;
    int32_t n_tops = 0;
    w->result = (step_result){.number = step_number, .rows = w->result_rows};
    w->n_lookups = 0;
    for (int32_t begin = 0; begin < w->n_sampled; begin += w->logits_rows) {
        int32_t n = w->n_sampled - begin < w->logits_rows ? w->n_sampled - begin : w->logits_rows;
        TRY(sample_rows(w, begin, n, &n_tops));
    }
    const step_logprob *top = w->result_tops; /* it may have moved while it grew */
    for (int32_t i = 0; i < w->result.n_rows; i++) {
        w->result_rows[i].top = top;
        top += w->result_rows[i].n_top;
    }
    w->times.head_seconds += log_clock() - started - (w->times.exchange_seconds - waited);
    return ST_OK;
}
