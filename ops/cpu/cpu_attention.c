/* ops/cpu/cpu_attention.c - attention over the paged cache: cutting it into tiles, sharing them among threads, merging.
 *
 *   run    up to CPU_TILE_QUERIES query heads that share a KV head
 *   tile   some rows of one sequence x one run: its queries meet the keys and values together
 *   chunk  OPS_ATTENTION_CHUNK absolute positions, attended apart and merged in order
 * Normally a thread takes a tile through all its chunks.  Where few tiles hold most of the work (decoding at long context) the chunks are
 * shared out as well, their results kept and merged afterwards: in the same order by the same arithmetic, so to the same bits. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "ops/cpu/cpu_vec.h"

#define REGION_COST 5000                /* vector operations (some 0.5 ns each) worth waking the other threads for */
#define PARTIALS_MAX ((size_t)256 << 20) /* bytes of kept chunk results; beyond, tiles are not cut */

typedef struct job {
    ops_ctx *ctx;
    const ops_batch *batch;
    const ops_attention_args *args;
    int32_t n_runs, run_heads, tile_rows; /* run_heads: of the largest run */
    bool split, convert;
    float *out;       /* f32 rows */
    size_t out_step;  /* floats from row to row */
    float *partials;  /* split: [item] records */
    size_t items, tiles;
    _Atomic size_t next_item, next_tile;
    _Atomic bool bad_block;
} job;

typedef struct place { /* one tile (and chunk) of the step */
    const ops_span *span;
    int32_t row, n_rows;   /* rows of the batch */
    int32_t kv_head, head, n_heads;
    int32_t chunk;         /* split: which */
    size_t record;         /* split: where the tile's first chunk's result lies, in floats */
    int32_t first_chunk, n_chunks;
} place;

static int32_t ceil_div(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int32_t group_heads(const ops_attention_args *a, int32_t kv, int32_t *first)
{
    int64_t begin = (int64_t)(a->kv_head_begin + kv) * a->heads_per_kv - a->head_begin, end = begin + a->heads_per_kv;
    begin = begin > 0 ? begin : 0;
    end = end < a->n_heads ? end : a->n_heads;
    *first = (int32_t)begin;
    return end > begin ? (int32_t)(end - begin) : 0;
}

static void find_run(const ops_attention_args *a, int32_t run, place *p)
{
    for (int32_t kv = 0;; kv++) {
        int32_t first, n = group_heads(a, kv, &first), runs = ceil_div(n, CPU_TILE_QUERIES);
        if (run < runs) {
            int32_t skip = run * CPU_TILE_QUERIES;
            *p = (place){.kv_head = kv, .head = first + skip, .n_heads = n - skip < CPU_TILE_QUERIES ? n - skip : CPU_TILE_QUERIES};
            return;
        }
        run -= runs;
    }
}

static int32_t first_seen(const ops_attention_args *a, int32_t position)
{
    return a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

static int32_t span_tiles(const job *j, const ops_span *s)
{
    return ceil_div(s->n_rows, j->tile_rows);
}

static void span_chunks(const job *j, const ops_span *s, int32_t *first, int32_t *n)
{
    *first = first_seen(j->args, s->position) / OPS_ATTENTION_CHUNK;
    *n = (s->position + s->n_rows - 1) / OPS_ATTENTION_CHUNK - *first + 1;
}

static size_t record_floats(const job *j, const ops_span *s)
{
    int32_t rows = s->n_rows < j->tile_rows ? s->n_rows : j->tile_rows;
    return (size_t)rows * (size_t)j->run_heads * ((size_t)j->args->kv->layout.padded + 2);
}

/* A walk over the spans: indices only grow, so each thread goes forward once. */
typedef struct cursor {
    int32_t span;
    size_t before, record; /* tiles (or tile chunks) and record floats of the spans passed */
} cursor;

static void locate(const job *j, cursor *c, size_t index, bool chunks, place *p)
{
    for (;; c->span++) {
        const ops_span *s = &j->batch->spans[c->span];
        int32_t first, n, tiles = span_tiles(j, s);
        span_chunks(j, s, &first, &n);
        size_t units = (size_t)tiles * (size_t)j->n_runs * (size_t)(chunks ? n : 1);
        if (index - c->before >= units) {
            c->before += units;
            c->record += (size_t)tiles * (size_t)j->n_runs * (size_t)n * record_floats(j, s);
            continue;
        }
        size_t at = index - c->before, tile = chunks ? at / (size_t)n : at;
        int32_t t = tiles - 1 - (int32_t)(tile % (size_t)tiles); /* the heaviest first */
        find_run(j->args, (int32_t)(tile / (size_t)tiles), p);
        p->span = s;
        p->row = s->row + t * j->tile_rows;
        p->n_rows = s->row + s->n_rows - p->row < j->tile_rows ? s->row + s->n_rows - p->row : j->tile_rows;
        p->first_chunk = first;
        p->n_chunks = n;
        p->chunk = chunks ? first + (int32_t)(at % (size_t)n) : 0;
        p->record = c->record + tile * (size_t)n * record_floats(j, s);
        return;
    }
}

typedef struct tile_scratch { /* one thread's */
    float *q, *scores, *chunk_out, *out;
    float chunk_max[CPU_TILE_QUERIES], chunk_sum[CPU_TILE_QUERIES], max[CPU_TILE_QUERIES], sum[CPU_TILE_QUERIES];
} tile_scratch;

size_t cpu_attention_scratch_floats(int32_t head_dim)
{
    return CPU_TILE_QUERIES * (OPS_ATTENTION_CHUNK + 3 * mem_align((size_t)head_dim, 16));
}

static void scratch_of(const job *j, int thread, tile_scratch *s)
{
    size_t e = CPU_TILE_QUERIES * (size_t)j->args->kv->layout.padded;
    s->scores = cpu_scratch(j->ctx, thread);
    s->q = s->scores + CPU_TILE_QUERIES * OPS_ATTENTION_CHUNK;
    s->chunk_out = s->q + e;
    s->out = s->chunk_out + e;
}

static void tile_begin(const job *j, const place *p, tile_scratch *s, cpu_attention_tile *t)
{
    const ops_attention_args *a = j->args;
    const float *slopes = cpu_vec_at(&a->slopes), *q[CPU_TILE_QUERIES];
    *t = (cpu_attention_tile){.kv = &a->kv->layout, .scale = a->scale, .softcap = a->softcap, .n = p->n_rows * p->n_heads, .q = s->q, .slopes = slopes != NULL,
                              .scores = s->scores, .max = s->chunk_max, .sum = s->chunk_sum, .out = s->chunk_out};
    for (int32_t r = 0, i = 0; r < p->n_rows; r++)
        for (int32_t h = 0; h < p->n_heads; h++, i++) {
            t->position[i] = j->batch->position[p->row + r];
            t->begin[i] = first_seen(a, t->position[i]);
            t->end[i] = t->position[i] + 1;
            t->slope[i] = slopes != NULL ? slopes[p->head + h] : 0.0f;
            q[i] = (const float *)cpu_row(&a->q, p->row + r) + (size_t)(p->head + h) * (size_t)a->head_dim;
        }
    j->ctx->vec->attention_pack(q, t->n, a->head_dim, s->q);
}

/* Where the chunk's blocks lie; only blocks that some query sees are looked up. */
static bool tile_chunk(job *j, const place *p, cpu_attention_tile *t, int32_t chunk)
{
    const ops_attention_args *a = j->args;
    const int32_t *table = j->batch->tables[a->kv_group] + p->span->table[a->kv_group];
    int32_t lo = t->begin[0], hi = t->end[t->n - 1], base = chunk * OPS_ATTENTION_CHUNK;
    lo = lo > base ? lo : base;
    hi = hi < base + OPS_ATTENTION_CHUNK ? hi : base + OPS_ATTENTION_CHUNK;
    if (lo >= hi)
        return false;
    t->chunk = base;
    for (int32_t b = lo / OPS_KV_BLOCK; b * OPS_KV_BLOCK < hi; b++) {
        int32_t block = table[b];
        if (block < 0 || block >= a->kv->spec.n_blocks) {
            atomic_store_explicit(&j->bad_block, true, memory_order_relaxed);
            return false;
        }
        t->block[b - base / OPS_KV_BLOCK] = cpu_kv_head(a->kv, block, a->kv_layer, p->kv_head);
    }
    return true;
}

static void tile_finish(const job *j, const place *p, const tile_scratch *s)
{
    const ops_attention_args *a = j->args;
    const float *sinks = cpu_vec_at(&a->sinks);
    size_t e = (size_t)a->kv->layout.padded;
    for (int32_t r = 0, i = 0; r < p->n_rows; r++)
        for (int32_t h = 0; h < p->n_heads; h++, i++)
            j->ctx->vec->attention_finish(s->max[i], s->sum[i], s->out + (size_t)i * e, sinks != NULL ? &sinks[p->head + h] : NULL, a->head_dim,
                                          j->out + (size_t)(p->row + r) * j->out_step + (size_t)(p->head + h) * (size_t)a->head_dim);
}

static void state_clear(const job *j, int32_t n, tile_scratch *s)
{
    for (int32_t i = 0; i < n; i++) {
        s->max[i] = -INFINITY;
        s->sum[i] = 0.0f;
    }
    memset(s->out, 0, (size_t)n * (size_t)j->args->kv->layout.padded * sizeof(float));
}

static void state_merge(const job *j, int32_t n, tile_scratch *s, const float *max, const float *sum, const float *out)
{
    int32_t e = j->args->kv->layout.padded;
    for (int32_t i = 0; i < n; i++)
        j->ctx->vec->attention_merge(&s->max[i], &s->sum[i], s->out + (size_t)i * (size_t)e, max[i], sum[i], out + (size_t)i * (size_t)e, e);
}

static void whole_tile(job *j, const place *p, tile_scratch *s)
{
    cpu_attention_tile t;
    tile_begin(j, p, s, &t);
    state_clear(j, t.n, s);
    for (int32_t c = t.begin[0] / OPS_ATTENTION_CHUNK; c * OPS_ATTENTION_CHUNK < t.end[t.n - 1]; c++)
        if (tile_chunk(j, p, &t, c)) {
            j->ctx->vec->attention_chunk(&t);
            state_merge(j, t.n, s, t.max, t.sum, t.out);
        }
    tile_finish(j, p, s);
}

/* A record: max [n], sum [n], out [n][padded]. */
static float *record_of(const job *j, const place *p, int32_t chunk)
{
    return j->partials + p->record + (size_t)(chunk - p->first_chunk) * record_floats(j, p->span);
}

static void one_chunk(job *j, const place *p, tile_scratch *s)
{
    cpu_attention_tile t;
    float *record = record_of(j, p, p->chunk);
    tile_begin(j, p, s, &t);
    t.max = record;
    t.sum = record + t.n;
    t.out = record + 2 * t.n;
    if (tile_chunk(j, p, &t, p->chunk))
        j->ctx->vec->attention_chunk(&t);
    else
        for (int32_t i = 0; i < t.n; i++)
            t.max[i] = -INFINITY;
}

static void merge_chunks(const job *j, const place *p, tile_scratch *s)
{
    int32_t n = p->n_rows * p->n_heads;
    state_clear(j, n, s);
    for (int32_t c = p->first_chunk; c < p->first_chunk + p->n_chunks; c++) {
        const float *record = record_of(j, p, c);
        state_merge(j, n, s, record, record + n, record + 2 * n);
    }
    tile_finish(j, p, s);
}

static void convert_rows(const job *j, size_t begin, size_t end, int thread)
{
    const ops_attention_args *a = j->args;
    for (size_t r = begin; r < end; r++)
        cpu_put_row(j->ctx, &a->y, (int32_t)r, j->out + r * j->out_step, a->y_col, a->n_heads * a->head_dim, cpu_scratch(j->ctx, thread));
}

static void run(void *arg, int thread, int n_threads)
{
    job *j = arg;
    tile_scratch s;
    cursor c = {0};
    place p;
    scratch_of(j, thread, &s);
    for (size_t i; (i = atomic_fetch_add_explicit(&j->next_item, 1, memory_order_relaxed)) < j->items;) {
        locate(j, &c, i, j->split, &p);
        if (j->split)
            one_chunk(j, &p, &s);
        else
            whole_tile(j, &p, &s);
    }
    if (j->split) {
        if (n_threads > 1)
            threads_barrier(j->ctx->pool);
        c = (cursor){0};
        for (size_t i; (i = atomic_fetch_add_explicit(&j->next_tile, 1, memory_order_relaxed)) < j->tiles;) {
            locate(j, &c, i, false, &p);
            merge_chunks(j, &p, &s);
        }
    }
    if (j->convert) {
        if (n_threads > 1)
            threads_barrier(j->ctx->pool);
        size_t begin, end;
        threads_share((size_t)j->batch->n_rows, 1, thread, n_threads, &begin, &end);
        convert_rows(j, begin, end, thread);
    }
}

/* How much work there is, in vector operations, and how much of it the largest tile holds. */
static void weigh(job *j, size_t *total, size_t *largest)
{
    size_t per_token = (size_t)j->args->head_dim / 8 + 4; /* a query against one token */
    *total = *largest = 0;
    for (int32_t i = 0; i < j->batch->n_spans; i++) {
        const ops_span *s = &j->batch->spans[i];
        int32_t last = s->position + s->n_rows - 1;
        size_t seen = (size_t)(last - first_seen(j->args, last) + 1), rows = (size_t)(s->n_rows < j->tile_rows ? s->n_rows : j->tile_rows);
        size_t tile = seen * rows * (size_t)j->run_heads * per_token;
        *total += seen * (size_t)s->n_rows * (size_t)j->args->n_heads * per_token;
        *largest = tile > *largest ? tile : *largest;
    }
}

static status plan_split(job *j)
{
    size_t floats = 0, chunks = 0;
    for (int32_t i = 0; i < j->batch->n_spans; i++) {
        const ops_span *s = &j->batch->spans[i];
        int32_t first, n;
        span_chunks(j, s, &first, &n);
        size_t units = (size_t)span_tiles(j, s) * (size_t)j->n_runs * (size_t)n;
        chunks += units;
        floats += units * record_floats(j, s);
    }
    if (chunks == j->tiles || floats > PARTIALS_MAX / sizeof(float))
        return ST_OK;
    if (floats > j->ctx->n_partials) { /* grown in doubling steps, so not again soon */
        size_t want = floats + floats / 2;
        void *grown;
        TRY(mem_huge_alloc(want * sizeof(float), "attention's chunk results", &grown));
        if (j->ctx->partials != NULL)
            mem_huge_free(j->ctx->partials, j->ctx->n_partials * sizeof(float));
        j->ctx->partials = grown;
        j->ctx->n_partials = want;
    }
    j->partials = j->ctx->partials;
    j->split = true;
    j->items = chunks;
    return ST_OK;
}

static status check(const ops_ctx *ctx, const ops_batch *batch, const ops_attention_args *a)
{
    int32_t hd = a->head_dim, width = a->n_heads * hd;
    const ops_kv_spec *spec = &a->kv->spec;
    TRY(cpu_mat_check("attention", "q", &a->q, batch->n_rows, width));
    TRY(cpu_mat_check("attention", "y", &a->y, batch->n_rows, a->y_col + width));
    if (a->q.type != OPS_F32 || a->n_heads < 1 || hd < 1 || a->heads_per_kv < 1 || a->y_col < 0 || a->y.cols > ctx->max_cols ||
        cpu_attention_scratch_floats(hd) * sizeof(float) > ctx->thread_scratch_bytes)
        return FAIL(ST_INVALID, "attention: %d heads of %d dimensions into rows of %d", a->n_heads, hd, a->y.cols);
    int32_t first_kv = a->head_begin / a->heads_per_kv - a->kv_head_begin, last_kv = (a->head_begin + a->n_heads - 1) / a->heads_per_kv - a->kv_head_begin;
    if (spec->head_dim != hd || first_kv < 0 || last_kv >= spec->n_kv_heads || a->kv_layer < 0 || a->kv_layer >= spec->n_layers || a->kv_group < 0 ||
        a->kv_group >= batch->limits.n_kv_groups)
        return FAIL(ST_INVALID, "attention: heads use KV heads %d to %d; the cache has %d of %d dimensions in %d layers", first_kv, last_kv, spec->n_kv_heads,
                    spec->head_dim, spec->n_layers);
    return ST_OK;
}

static void count_runs(job *j)
{
    const ops_attention_args *a = j->args;
    int32_t last_kv = (a->head_begin + a->n_heads - 1) / a->heads_per_kv - a->kv_head_begin;
    for (int32_t kv = 0; kv <= last_kv; kv++) {
        int32_t first, n = group_heads(a, kv, &first), most = n < CPU_TILE_QUERIES ? n : CPU_TILE_QUERIES;
        j->n_runs += ceil_div(n, CPU_TILE_QUERIES);
        j->run_heads = most > j->run_heads ? most : j->run_heads;
    }
    j->tile_rows = CPU_TILE_QUERIES / j->run_heads;
    for (int32_t i = 0; i < j->batch->n_spans; i++)
        j->tiles += (size_t)span_tiles(j, &j->batch->spans[i]) * (size_t)j->n_runs;
    j->items = j->tiles;
}

status cpu_attention(ops_ctx *ctx, const ops_batch *batch, const ops_attention_args *args)
{
    TRY(check(ctx, batch, args));
    if (batch->n_rows == 0)
        return ST_OK;
    int32_t width = args->n_heads * args->head_dim;
    job j = {.ctx = ctx, .batch = batch, .args = args};
    if (args->y.type == OPS_F32) {
        j.out = (float *)cpu_row(&args->y, 0) + args->y_col;
        j.out_step = args->y.stride / sizeof(float);
        j.convert = (size_t)width * sizeof(float) != ops_row_bytes(OPS_F32, args->y.cols); /* something is left to be zeroed */
    } else {
        j.out = ctx->rows_scratch;
        j.out_step = (size_t)width;
        j.convert = true;
        if (batch->n_rows > ctx->max_rows)
            return FAIL(ST_INVALID, "attention: %d rows, the context was made for %d", batch->n_rows, ctx->max_rows);
    }
    count_runs(&j);
    size_t total, largest;
    weigh(&j, &total, &largest);
    bool alone = ctx->n_threads == 1 || total < REGION_COST;
    if (!alone && largest > total / (3 * (size_t)ctx->n_threads))
        TRY(plan_split(&j));
    if (alone)
        run(&j, 0, 1);
    else
        threads_run(ctx->pool, run, &j);
    if (atomic_load_explicit(&j.bad_block, memory_order_relaxed))
        return FAIL(ST_INVALID, "attention: a block table names a KV block beyond the cache's %lld", (long long)args->kv->spec.n_blocks);
    return ST_OK;
}
