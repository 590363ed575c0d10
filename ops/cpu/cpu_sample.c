/* ops/cpu/cpu_sample.c - rows of logits: maxima, sums, penalties, noise, the best tokens.
 *
 * A row is cut into pieces of CPU_SAMPLE_PIECE columns; sums are taken over each piece by the lanes rule and added in the order of the
 * pieces, so it does not matter which thread took which piece.  Many rows: a thread a row.  Few rows: all threads share a row's pieces. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/half.h"
#include "base/hash.h"
#include "ops/cpu/cpu_vec.h"

#define PIECES_MAX 4096
#define REGION_COST 5000

/* What a thread keeps of the row it works on; in its scratch. */
typedef struct part {
    float raw_max[PIECES_MAX], raw_sum[PIECES_MAX], max[PIECES_MAX], sum[PIECES_MAX]; /* by piece; of thread 0 when a row is shared */
    ops_candidate candidates[OPS_MAX_CANDIDATES], raw[OPS_MAX_CANDIDATES], best;
    int32_t n_candidates, n_raw;
    uint64_t hash;
} part;

size_t cpu_sample_scratch_bytes(void)
{
    return sizeof(part);
}

typedef struct job {
    ops_ctx *ctx;
    const ops_sample_args *args;
    _Atomic int32_t next;
} job;

/* ---- the best so far ---- */
static bool worse(const ops_candidate *a, const ops_candidate *b)
{
    return a->logit < b->logit || (a->logit == b->logit && a->token > b->token);
}

static void sink(cpu_top *t, int32_t i)
{
    for (;;) {
        int32_t worst = i, l = 2 * i + 1, r = l + 1;
        if (l < t->n && worse(&t->heap[l], &t->heap[worst]))
            worst = l;
        if (r < t->n && worse(&t->heap[r], &t->heap[worst]))
            worst = r;
        if (worst == i)
            return;
        ops_candidate c = t->heap[i];
        t->heap[i] = t->heap[worst];
        t->heap[worst] = c;
        i = worst;
    }
}

void cpu_top_offer(cpu_top *t, int32_t token, float logit)
{
    ops_candidate c = {token, logit, 0.0f};
    if (t->n < t->limit) {
        int32_t i = t->n++;
        for (; i > 0 && worse(&c, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
            t->heap[i] = t->heap[(i - 1) / 2];
        t->heap[i] = c;
    } else if (t->limit > 0 && worse(&t->heap[0], &c)) {
        t->heap[0] = c;
        sink(t, 0);
    }
}

void cpu_top_sort(cpu_top *t)
{
    int32_t n = t->n;
    for (; t->n > 1;) { /* the worst goes to the end */
        ops_candidate c = t->heap[--t->n];
        t->heap[t->n] = t->heap[0];
        t->heap[0] = c;
        sink(t, 0);
    }
    t->n = n;
}

/* ---- one row ---- */
typedef struct row {
    ops_ctx *ctx;
    const ops_sample_args *args;
    const ops_sample_row *want;
    float *logits, *adjusted;
    int32_t cols, vocab_begin;
    bool plain;  /* adjusted logits are the raw ones */
    part *shared; /* the pieces' results */
} row;

static void row_of(job *j, int32_t i, part *shared, row *r)
{
    const ops_sample_args *a = j->args;
    const ops_sample_row *w = &a->rows[i];
    *r = (row){.ctx = j->ctx, .args = a, .want = w, .cols = a->logits.cols, .vocab_begin = a->vocab_begin, .shared = shared};
    r->logits = cpu_row(&a->logits, w->row);
    r->adjusted = w->want_sample ? cpu_row(&a->adjusted, i) : NULL;
    r->plain = w->n_counts == 0 && w->n_bias == 0 && w->allow == NULL && (w->temperature == 0.0f || w->temperature == 1.0f);
}

static int32_t n_pieces(int32_t cols)
{
    return cols / CPU_SAMPLE_PIECE + (cols % CPU_SAMPLE_PIECE != 0);
}

static int32_t piece_cols(const row *r, int32_t piece)
{
    int32_t left = r->cols - piece * CPU_SAMPLE_PIECE;
    return left < CPU_SAMPLE_PIECE ? left : CPU_SAMPLE_PIECE;
}

static uint64_t hash_of(const float *l, int32_t n, int32_t token)
{
    uint64_t h = 0;
    for (int32_t i = 0; i < n; i++)
        h += hash_mix((uint64_t)(uint32_t)(token + i) << 32 | half_f32_bits(l[i]));
    return h;
}

/* Penalties and biases of tokens in columns [begin, end). */
static void penalise(const row *r, int32_t begin, int32_t end)
{
    const ops_sample_row *w = r->want;
    for (int32_t i = 0; i < w->n_counts; i++) {
        const ops_token_count *c = &w->counts[i];
        int64_t col = (int64_t)c->token - r->vocab_begin;
        if (col < begin || col >= end)
            continue;
        float *l = &r->adjusted[col];
        if (w->repetition_penalty != 1.0f && (c->in_prompt || c->generated > 0))
            *l = *l > 0.0f ? *l / w->repetition_penalty : *l * w->repetition_penalty;
        if (c->generated > 0) {
            *l = *l - w->presence_penalty;
            *l = *l - w->frequency_penalty * (float)c->generated;
        }
    }
    for (int32_t i = 0; i < w->n_bias; i++) {
        int64_t col = (int64_t)w->bias[i].token - r->vocab_begin;
        if (col >= begin && col < end)
            r->adjusted[col] = r->adjusted[col] + w->bias[i].bias;
    }
}

/* Raw and adjusted logits of pieces [p0, p1), and their maxima. */
static void first_pass(const row *r, int32_t p0, int32_t p1, part *mine)
{
    const ops_sample_row *w = r->want;
    mine->hash = 0;
    for (int32_t p = p0; p < p1; p++) {
        int32_t at = p * CPU_SAMPLE_PIECE, n = piece_cols(r, p);
        r->shared->raw_max[p] = r->ctx->vec->logits_raw(r->logits + at, n, r->args->multiplier, r->args->softcap);
        if (w->want_hash)
            mine->hash += hash_of(r->logits + at, n, r->vocab_begin + at);
        if (r->adjusted != NULL)
            memcpy(r->adjusted + at, r->logits + at, (size_t)n * sizeof(float));
    }
    if (r->adjusted == NULL || p0 == p1)
        return;
    if (w->n_counts > 0 || w->n_bias > 0)
        penalise(r, p0 * CPU_SAMPLE_PIECE, p1 == n_pieces(r->cols) ? r->cols : p1 * CPU_SAMPLE_PIECE);
    for (int32_t p = p0; p < p1; p++) {
        int32_t at = p * CPU_SAMPLE_PIECE;
        r->shared->max[p] = r->plain ? r->shared->raw_max[p]
                                     : r->ctx->vec->logits_adjust(r->adjusted + at, piece_cols(r, p), w->allow, r->vocab_begin + at, w->temperature);
    }
}

static float max_of(const float *v, int32_t n)
{
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        max = v[i] > max ? v[i] : max;
    return max;
}

static float sum_of(const float *v, int32_t n)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < n; i++)
        sum = sum + v[i];
    return sum;
}

/* Sums against the whole row's maxima, and the best of pieces [p0, p1). */
static void second_pass(const row *r, int32_t p0, int32_t p1, uint64_t hash, part *mine)
{
    const cpu_vec_kernels *vec = r->ctx->vec;
    const ops_sample_row *w = r->want;
    int32_t pieces = n_pieces(r->cols);
    float raw_max = max_of(r->shared->raw_max, pieces), max = r->adjusted != NULL ? max_of(r->shared->max, pieces) : 0.0f;
    cpu_top raw = {.limit = w->n_raw, .heap = mine->raw}, top = {.limit = r->adjusted != NULL ? w->n_candidates : 0, .heap = mine->candidates};
    mine->best = (ops_candidate){-1, -INFINITY, -INFINITY};
    mine->hash = hash;
    for (int32_t p = p0; p < p1; p++) {
        int32_t at = p * CPU_SAMPLE_PIECE, n = piece_cols(r, p), token = r->vocab_begin + at;
        r->shared->raw_sum[p] = raw_max > -INFINITY ? vec->sum_exp(r->logits + at, n, raw_max) : 0.0f;
        vec->top(r->logits + at, n, token, &raw);
        if (r->adjusted == NULL)
            continue;
        if (w->want_sum)
            r->shared->sum[p] = r->plain ? r->shared->raw_sum[p] : max > -INFINITY ? vec->sum_exp(r->adjusted + at, n, max) : 0.0f;
        vec->top(r->adjusted + at, n, token, &top);
        vec->best(r->adjusted + at, n, token, w->temperature > 0.0f, w->seed, w->choice, w->position, &mine->best);
    }
    mine->n_raw = raw.n;
    mine->n_candidates = top.n;
}

static void set_raw(const row *r, ops_candidate *c, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        c[i].raw = r->logits[c[i].token - r->vocab_begin];
}

/* The parts of all threads into the answer. */
static void merge(const row *r, int32_t n_threads, ops_sample_out *out)
{
    const ops_sample_row *w = r->want;
    int32_t pieces = n_pieces(r->cols);
    int64_t target = (int64_t)w->target - r->vocab_begin;
    out->raw_max = max_of(r->shared->raw_max, pieces);
    out->raw_sum = sum_of(r->shared->raw_sum, pieces);
    out->target_logit = w->target >= 0 && target >= 0 && target < r->cols ? r->logits[target] : -INFINITY;
    out->max = r->adjusted != NULL ? max_of(r->shared->max, pieces) : -INFINITY;
    out->sum = r->adjusted != NULL && w->want_sum ? sum_of(r->shared->sum, pieces) : 0.0f;
    out->best = (ops_candidate){-1, -INFINITY, -INFINITY};
    out->hash = 0;
    cpu_top raw = {.limit = w->n_raw, .heap = out->raw}, top = {.limit = w->n_candidates, .heap = out->candidates};
    for (int32_t t = 0; t < n_threads; t++) {
        const part *p = n_threads == 1 ? r->shared : (const part *)(const void *)cpu_scratch(r->ctx, t);
        out->hash += p->hash;
        if (p->best.token >= 0 && (out->best.token < 0 || worse(&out->best, &p->best)))
            out->best = p->best;
        for (int32_t i = 0; i < p->n_raw; i++)
            cpu_top_offer(&raw, p->raw[i].token, p->raw[i].logit);
        for (int32_t i = 0; i < p->n_candidates; i++)
            cpu_top_offer(&top, p->candidates[i].token, p->candidates[i].logit);
    }
    cpu_top_sort(&raw);
    cpu_top_sort(&top);
    out->n_raw = raw.n;
    out->n_candidates = top.n;
    set_raw(r, out->raw, raw.n);
    set_raw(r, out->candidates, top.n);
    if (out->best.token >= 0)
        set_raw(r, &out->best, 1);
}

static void a_row_each(void *arg, int thread, int n_threads)
{
    job *j = arg;
    part *mine = (part *)(void *)cpu_scratch(j->ctx, thread);
    (void)n_threads;
    for (int32_t i; (i = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed)) < j->args->n;) {
        row r;
        row_of(j, i, mine, &r);
        first_pass(&r, 0, n_pieces(r.cols), mine);
        second_pass(&r, 0, n_pieces(r.cols), mine->hash, mine);
        merge(&r, 1, &j->args->out[i]);
    }
}

/* While thread 0 merges row i the others may begin row i + 1: its first pass writes what the merge does not read. */
static void rows_together(void *arg, int thread, int n_threads)
{
    job *j = arg;
    part *mine = (part *)(void *)cpu_scratch(j->ctx, thread);
    for (int32_t i = 0; i < j->args->n; i++) {
        row r;
        row_of(j, i, (part *)(void *)cpu_scratch(j->ctx, 0), &r);
        size_t p0, p1;
        threads_share((size_t)n_pieces(r.cols), 1, thread, n_threads, &p0, &p1);
        first_pass(&r, (int32_t)p0, (int32_t)p1, mine);
        threads_barrier(j->ctx->pool);
        second_pass(&r, (int32_t)p0, (int32_t)p1, mine->hash, mine);
        threads_barrier(j->ctx->pool);
        if (thread == 0)
            merge(&r, n_threads, &j->args->out[i]);
        threads_barrier(j->ctx->pool);
    }
}

static status check(const ops_ctx *ctx, const ops_sample_args *a)
{
    bool any_sample = false;
    int32_t rows = 0;
    for (int32_t i = 0; i < a->n; i++) {
        const ops_sample_row *w = &a->rows[i];
        any_sample = any_sample || w->want_sample;
        rows = w->row >= rows ? w->row + 1 : rows;
        if (w->row < 0 || w->n_candidates < 0 || w->n_candidates > OPS_MAX_CANDIDATES || w->n_raw < 0 || w->n_raw > OPS_MAX_CANDIDATES || !(w->temperature >= 0.0f))
            return FAIL(ST_INVALID, "sample: row %d, %d candidates, %d raw, temperature %g", w->row, w->n_candidates, w->n_raw, (double)w->temperature);
    }
    TRY(cpu_mat_check("sample", "logits", &a->logits, rows, a->logits.cols));
    if (any_sample)
        TRY(cpu_mat_check("sample", "adjusted", &a->adjusted, a->n, a->logits.cols));
    if (a->logits.type != OPS_F32 || (any_sample && a->adjusted.type != OPS_F32) || n_pieces(a->logits.cols) > PIECES_MAX || a->vocab_begin < 0 ||
        a->vocab_begin > INT32_MAX - a->logits.cols || ctx->thread_scratch_bytes < sizeof(part))
        return FAIL(ST_INVALID, "sample: %d columns of logits from token %d", a->logits.cols, a->vocab_begin);
    return ST_OK;
}

status cpu_sample(ops_ctx *ctx, const ops_sample_args *args)
{
    if (args->n == 0)
        return ST_OK;
    TRY(check(ctx, args));
    job j = {.ctx = ctx, .args = args};
    size_t cost = (size_t)args->n * (size_t)args->logits.cols * 2;
    if (ctx->n_threads == 1 || cost < REGION_COST)
        a_row_each(&j, 0, 1);
    else
        threads_run(ctx->pool, args->n >= 2 * ctx->n_threads ? a_row_each : rows_together, &j);
    return ST_OK;
}
