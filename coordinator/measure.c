/* coordinator/measure.c - how fast this machine is.
 *
 * Weights are timed as a decode step reads them: matrix after matrix of a working set as large as the checkpoint (at most WORKING_SET, more than
 * caches hold), with one row and with MANY rows; the difference tells a row's part from the part paid once. */
#include "coordinator/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

enum { MANY = 8, PASSES = 8, SMALL_PASSES = 100, MAX_KV_TOKENS = 4096, KV_LAYERS = 32, MAX_SHAPE = 8192, NORM_ROWS = 16 };
static const size_t WORKING_SET = (size_t)96 << 20;

typedef struct bench {
    const ops_backend *ops;
    const shard_arch *a;
    ops_ctx *ctx;
    ops_buf *weights, *rows;     /* rows: x, h, y, q, att */
    ops_mat x, h, y;
    ops_batch *batch;
    ops_kv *kv;
    size_t working_set;
    int32_t out, in;             /* shape of a matrix */
    int32_t kv_layers, kv_tokens; /* a cache that fills the working set too: between two reads of it a step reads all weights */
} bench;

typedef struct job {
    bench *b;
    packed_type type;
    int32_t rows, count;
    ops_mat input;
    size_t stride;
    packed_shape shape;
} job;

/* Does item i of a job. */
typedef status (*job_fn)(const job *j, int32_t i);

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of all items of a job, one after the other: the sum of each one's median over the passes.  A step takes what is usual, not what is
 * best; and a moment taken by another process spoils one item of one pass and no more. */
static status usual_of(bench *b, job_fn fn, const job *j, int passes, double *seconds)
{
    status st = ST_OK;
    double *taken; /* [count][passes] */
    TRY(mem_calloc((size_t)j->count * (size_t)passes, sizeof(*taken), "measuring", &taken));
    b->ops->step_begin(b->ctx);
    for (int pass = 0; st == ST_OK && pass < passes; pass++) {
        double last = log_clock();
        for (int32_t i = 0; st == ST_OK && i < j->count; i++) {
            st = fn(j, i);
            double now = log_clock();
            taken[(size_t)i * (size_t)passes + (size_t)pass] = now - last;
            last = now;
        }
    }
    b->ops->step_end(b->ctx);
    *seconds = 0;
    for (int32_t i = 0; i < j->count; i++) {
        double *of = taken + (size_t)i * (size_t)passes;
        qsort(of, (size_t)passes, sizeof(*of), ascending);
        *seconds += of[passes / 2];
    }
    free(taken);
    return st;
}

/* One norm over the batch's rows, into the format and width that the job's input has. */
static status run_norm(const job *j, int32_t i)
{
    (void)i;
    bench *b = j->b;
    ops_norm_args n = {.x = b->x, .norm = OPS_NORM_RMS, .eps = 1e-5f, .n_y = 1, .y = {j->input}};
    n.x.cols = j->input.cols;
    return b->ops->norm(b->ctx, b->batch, &n);
}

static status run_linear(const job *j, int32_t i)
{
    bench *b = j->b;
    ops_linear_args l = {.rows = j->rows, .x = j->input, .n = 1, .w = {{b->weights, (size_t)i * j->stride, j->shape}}, .y = {b->y}};
    l.y[0].cols = j->shape.rows;
    return b->ops->linear(b->ctx, &l);
}

static status run_attention(const job *j, int32_t i)
{
    bench *b = j->b;
    ops_attention_args a = {.q = b->x, .n_heads = b->a->n_heads, .head_dim = b->a->head_dim, .heads_per_kv = b->a->n_heads / b->a->n_kv_heads,
                            .scale = 0.1f, .kv = b->kv, .kv_layer = i, .y = b->h};
    a.q.cols = a.y.cols = b->a->n_heads * b->a->head_dim;
    return b->ops->attention(b->ctx, b->batch, &a);
}

/* Rotation and the write into the cache; the products before it are another job's. */
static status run_qkv(const job *j, int32_t i)
{
    bench *b = j->b;
    ops_qkv_args q = {.q = b->x, .k = b->x, .v = b->x, .n_heads = b->a->n_heads, .n_kv_heads = b->a->n_kv_heads, .head_dim = b->a->head_dim,
                      .rope = b->a->n_ropes > 0 ? 0 : -1, .kv = b->kv, .kv_layer = i};
    q.q.cols = b->a->n_heads * b->a->head_dim;
    q.k.cols = q.v.cols = b->a->n_kv_heads * b->a->head_dim;
    return b->ops->qkv(b->ctx, b->batch, &q);
}

static job job_of(bench *b, packed_type type, int32_t rows, int32_t out, int32_t in)
{
    job j = {.b = b, .type = type, .rows = rows, .input = b->h, .shape = {type, out, in, 0}};
    j.input.type = b->ops->linear_input(b->ctx, type);
    j.input.cols = in;
    j.input.stride = ops_row_bytes(j.input.type, in);
    j.stride = mem_align(packed_bytes(j.shape), 64);
    j.count = (int32_t)(b->working_set / j.stride);
    j.count = j.count > 0 ? j.count : 1;
    return j;
}

static status batch_of(bench *b, int32_t rows, int32_t n_spans, const ops_span *spans)
{
    int32_t tokens[NORM_ROWS] = {0}, table[MAX_KV_TOKENS / OPS_KV_BLOCK];
    for (int32_t i = 0; i < MAX_KV_TOKENS / OPS_KV_BLOCK; i++)
        table[i] = i;
    ops_batch_desc d = {.n_rows = rows, .tokens = tokens, .n_spans = n_spans, .spans = spans, .tables = {table}, .n_table = {b->kv_tokens / OPS_KV_BLOCK}};
    return b->ops->batch_set(b->ctx, b->batch, &d);
}

/* `rows` rows of one sequence, the last at position kv_tokens - 1. */
static status batch_fill(bench *b, int32_t rows)
{
    ops_span span = {.row = 0, .n_rows = rows, .position = b->kv_tokens - rows};
    return batch_of(b, rows, 1, &span);
}

/* n sequences that decode, each with one block of keys and values. */
static status batch_fill_short(bench *b, int32_t n)
{
    ops_span spans[MANY];
    for (int32_t i = 0; i < n; i++)
        spans[i] = (ops_span){.row = i, .n_rows = 1, .position = OPS_KV_BLOCK - 1, .table = {i}};
    return batch_of(b, n, n, spans);
}

static status measure_weights(bench *b, packed_type type, shard_device *d)
{
    double one, many, overhead;
    job j = job_of(b, type, 1, b->out, b->in);
    double n = (double)j.count * b->out * b->in;
    TRY(batch_fill(b, MANY));
    TRY(run_norm(&j, 0));
    TRY(usual_of(b, run_linear, &j, PASSES, &one));
    j.rows = MANY;
    TRY(usual_of(b, run_linear, &j, PASSES, &many));
    job tiny = job_of(b, type, 1, PACKED_ROWS, 32);
    tiny.count = 1;
    TRY(usual_of(b, run_linear, &tiny, SMALL_PASSES, &overhead));
    one -= overhead * j.count;
    many -= overhead * j.count;
    double row = (many - one) / (MANY - 1); /* noise may not make either part vanish */
    row = fmin(fmax(row, 0.02 * one), 0.98 * one);
    d->macs_per_second[type] = n / row;
    d->weights_per_second[type] = n / fmax(one - row, 0.02 * one);
    double bytes = (double)j.stride * j.count / one, narrow;
    d->bytes_per_second = fmax(d->bytes_per_second, bytes);
    /* A matrix as narrow as k and v are takes longer than its share of a wide one's time. */
    int32_t rows = b->a->n_kv_heads * b->a->head_dim;
    job small = job_of(b, type, 1, rows < b->out ? rows : b->out, b->in);
    TRY(usual_of(b, run_linear, &small, PASSES, &narrow));
    double extra = narrow / small.count - overhead - (one / n) * small.shape.rows * (double)b->in;
    d->matrix_seconds = fmin(d->matrix_seconds, fmax(extra, 0)); /* the least of the types: noise only adds */
    return ST_OK;
}

static status measure_rest(bench *b, shard_kv_type kv_type, shard_device *d)
{
    double norm, small, linear, attention, short_one, short_many, qkv;
    job wide = job_of(b, PACKED_F32, 1, PACKED_ROWS, b->in), tiny = job_of(b, PACKED_F32, 1, PACKED_ROWS, 32), layers = wide;
    wide.count = tiny.count = 1;
    layers.count = b->kv_layers;
    TRY(batch_fill(b, NORM_ROWS));
    TRY(usual_of(b, run_norm, &wide, SMALL_PASSES, &norm));
    TRY(batch_fill(b, 1));
    TRY(usual_of(b, run_norm, &tiny, SMALL_PASSES, &small));
    TRY(usual_of(b, run_linear, &tiny, SMALL_PASSES, &linear));
    TRY(usual_of(b, run_attention, &layers, PASSES, &attention));
    TRY(usual_of(b, run_qkv, &layers, PASSES, &qkv));
    TRY(batch_fill_short(b, 1));
    TRY(usual_of(b, run_attention, &layers, PASSES, &short_one));
    TRY(batch_fill_short(b, MANY));
    TRY(usual_of(b, run_attention, &layers, PASSES, &short_many));
    d->elements_per_second = (double)NORM_ROWS * b->in / fmax(norm - small, norm * 0.1);
    d->phase_seconds = 2.25 * (small + linear); /* four or five operations in a phase */
    double heads = b->a->n_heads + 2.0 * b->a->n_kv_heads;
    d->rotated_per_second = heads * b->a->head_dim / fmax(qkv / b->kv_layers - linear, 1e-9);
    double macs = (double)b->kv_layers * b->kv_tokens * 2 * b->a->head_dim * b->a->n_heads;
    shard_rank_plan r = {.kv_heads = {0, b->a->n_kv_heads}};
    double bytes = (double)shard_plan_kv_block_bytes(b->a, &r, kv_type) * b->kv_layers * (b->kv_tokens / OPS_KV_BLOCK);
    double work = attention - b->kv_layers * linear - bytes / d->bytes_per_second;
    if (work < 0.2 * attention) { /* the cache comes slower than weights, or faster: what counts is the sum */
        work = 0.2 * attention;
        d->bytes_per_second = bytes / (attention - b->kv_layers * linear - work);
    }
    d->attention_macs_per_second = macs / work;
    /* What a sequence takes even where it has hardly any keys. */
    double share = OPS_KV_BLOCK / ((double)b->kv_tokens * b->kv_layers), keys = share * (work + bytes / d->bytes_per_second);
    d->attention_head_seconds = fmax((short_many - short_one) / (MANY - 1) / b->kv_layers - keys, 0) / b->a->n_heads;
    return ST_OK;
}

static ops_kv_type kv_type_of(shard_kv_type t)
{
    return t == SHARD_KV_F32 ? OPS_KV_F32 : t == SHARD_KV_F16 ? OPS_KV_F16 : t == SHARD_KV_BF16 ? OPS_KV_BF16 : OPS_KV_Q8;
}

static status kv_make(bench *b, shard_kv_type type)
{
    shard_rank_plan r = {.kv_heads = {0, b->a->n_kv_heads}};
    b->kv_layers = b->a->n_layers < KV_LAYERS ? b->a->n_layers : KV_LAYERS;
    size_t blocks = WORKING_SET / (shard_plan_kv_block_bytes(b->a, &r, type) * (size_t)b->kv_layers), most = MAX_KV_TOKENS / OPS_KV_BLOCK;
    blocks = blocks < 16 ? 16 : blocks < most ? blocks : most;
    b->kv_tokens = (int32_t)blocks * OPS_KV_BLOCK;
    ops_kv_spec spec = {kv_type_of(type), b->kv_layers, b->a->n_kv_heads, b->a->head_dim, (int64_t)blocks};
    TRY(b->ops->kv_create(b->ctx, &spec, &b->kv));
    for (int32_t i = spec.n_blocks > 1; i < spec.n_blocks; i++) /* written once, so that the memory is its own */
        TRY(b->ops->kv_copy_block(b->ctx, b->kv, 0, i));
    return spec.n_blocks > 1 ? b->ops->kv_copy_block(b->ctx, b->kv, 1, 0) : ST_OK;
}

static status fill(bench *b, ops_buf *buf, size_t bytes)
{
    enum { PIECE = 1 << 20 };
    char *piece;
    TRY(mem_calloc(1, PIECE, "measuring", &piece));
    memset(piece, 0x3c, PIECE); /* an ordinary number in every format */
    status st = ST_OK;
    for (size_t at = 0; st == ST_OK && at < bytes; at += PIECE)
        st = b->ops->buf_write(b->ctx, buf, at, piece, bytes - at < PIECE ? bytes - at : PIECE);
    free(piece);
    return st;
}

static status bench_make(bench *b, int n_threads, shard_kv_type kv_type)
{
    int32_t q = b->a->n_heads * b->a->head_dim, widest = q > b->in ? q : b->in;
    ops_ctx_options o = {.n_threads = n_threads, .first_core = -1, .spin = true, .max_rows = NORM_ROWS, .max_cols = widest};
    TRY(b->ops->ctx_create(&o, &b->ctx));
    size_t in = ops_row_bytes(OPS_F32, widest) * NORM_ROWS, out = ops_row_bytes(OPS_F32, b->out) * MANY;
    TRY(b->ops->buf_create(b->ctx, 2 * in + out, "measuring", &b->rows));
    TRY(fill(b, b->rows, 2 * in + out));
    b->x = (ops_mat){b->rows, 0, OPS_F32, widest, ops_row_bytes(OPS_F32, widest)};
    b->h = (ops_mat){b->rows, in, OPS_F32, widest, ops_row_bytes(OPS_F32, widest)};
    b->y = (ops_mat){b->rows, 2 * in, OPS_F32, b->out, ops_row_bytes(OPS_F32, b->out)};
    size_t matrix = mem_align(packed_bytes((packed_shape){PACKED_F32, b->out, b->in, 0}), 64); /* one of the widest type must fit */
    size_t bytes = b->working_set > matrix ? b->working_set : matrix;
    TRY(b->ops->buf_create(b->ctx, bytes, "measuring", &b->weights));
    TRY(fill(b, b->weights, bytes));
    ops_batch_limits l = {.max_rows = NORM_ROWS, .max_spans = MANY, .max_out = 1, .max_blocks = MAX_KV_TOKENS / OPS_KV_BLOCK, .n_kv_groups = 1};
    float freq[SHARD_MAX_ROPE_DIMS / 2] = {0};
    if (b->a->n_ropes > 0) {
        l.n_ropes = 1;
        l.ropes[0] = (ops_rope_spec){b->a->ropes[0].dims, b->a->ropes[0].interleaved, 1, {freq, freq}, {1, 1}};
    }
    TRY(b->ops->batch_create(b->ctx, &l, &b->batch));
    return kv_make(b, kv_type);
}

static void bench_free(bench *b)
{
    if (b->ctx == NULL)
        return;
    if (b->kv != NULL)
        b->ops->kv_destroy(b->ctx, &b->kv);
    if (b->batch != NULL)
        b->ops->batch_destroy(b->ctx, &b->batch);
    if (b->weights != NULL)
        b->ops->buf_destroy(b->ctx, &b->weights);
    if (b->rows != NULL)
        b->ops->buf_destroy(b->ctx, &b->rows);
    b->ops->ctx_destroy(&b->ctx);
}

/* The types of matrices that a step multiplies with. */
static void types_used(const shard_arch *a, const shard_types *types, bool used[PACKED_TYPES])
{
    static const shard_role roles[] = {SHARD_Q, SHARD_K, SHARD_V, SHARD_O, SHARD_GATE, SHARD_UP, SHARD_DOWN, SHARD_HEAD, SHARD_TOKEN_EMBED};
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        for (int32_t l = 0; l < a->n_layers; l++)
            used[shard_plan_type(a, types, roles[i], l)] = true;
    }
}

static status measure(bench *b, int n_threads, const shard_types *types, shard_kv_type kv_type, shard_device *d)
{
    bool used[PACKED_TYPES] = {false};
    TRY(bench_make(b, n_threads, kv_type));
    types_used(b->a, types, used);
    d->bytes_per_second = 0;
    d->matrix_seconds = INFINITY;
    for (int t = 0; t < PACKED_TYPES; t++) {
        if (used[t])
            TRY(measure_weights(b, (packed_type)t, d));
    }
    return measure_rest(b, kv_type, d);
}

status coord_measure_device(const ops_backend *ops, int n_threads, const shard_arch *arch, const shard_types *types, shard_kv_type kv_type,
                            shard_device *out)
{
    bench b = {.ops = ops, .a = arch, .out = arch->intermediate < MAX_SHAPE ? arch->intermediate : MAX_SHAPE,
               .in = arch->hidden < MAX_SHAPE ? arch->hidden : MAX_SHAPE};
    double weights = 0;
    for (int32_t l = 0; l < arch->n_layers; l++) {
        packed_shape shape = {shard_plan_type(arch, types, SHARD_UP, l), PACKED_ROWS, arch->hidden, 0};
        weights += (double)packed_bytes(shape) / PACKED_ROWS * (3.0 * arch->intermediate + 4.0 * arch->hidden);
    }
    b.working_set = weights < (double)WORKING_SET ? (size_t)weights : WORKING_SET;
    *out = *shard_device_find("cpu");
    out->name = "this machine";
    status st = measure(&b, n_threads, types, kv_type, out);
    bench_free(&b);
    return st;
}
