/* ops/cpu/cpu_rows.c - the operations that work row by row: embed, norm, sumsq, qkv, gate; and how rows are shared among threads. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "ops/check.h"
#include "ops/cpu/cpu_vec.h"

/* Waking the others and waiting for them costs about half as much as this many vector operations of 16 lanes (0.5 ns each with AVX2). */
#define REGION_COST 4000

typedef struct items {
    ops_ctx *ctx;
    size_t n, unit;
    cpu_items_fn fn;
    const void *arg;
} items;

static void items_run(void *arg, int thread, int n_threads)
{
    const items *it = arg;
    size_t begin, end;
    threads_share(it->n, it->unit, thread, n_threads, &begin, &end);
    if (begin < end)
        it->fn(it->ctx, it->arg, begin, end, thread);
}

void cpu_for(ops_ctx *ctx, size_t n, size_t unit, size_t weight, cpu_items_fn fn, const void *arg)
{
    if (n == 0)
        return;
    if (ctx->n_threads == 1 || n <= unit || n * weight < REGION_COST) {
        fn(ctx, arg, 0, n, 0);
        return;
    }
    items it = {ctx, n, unit, fn, arg};
    threads_run(ctx->pool, items_run, &it);
}

status cpu_mat_check(const char *op, const char *name, const ops_mat *m, int32_t rows, int32_t cols)
{
    return ops_mat_check(op, name, m, m->buf != NULL ? m->buf->bytes : 0, rows, cols);
}

void cpu_put_row(const ops_ctx *ctx, const ops_mat *y, int32_t row, const float *src, int32_t col, int32_t n, float *wide)
{
    char *dst = cpu_row(y, row);
    size_t begin = (size_t)col, end = (size_t)col + (size_t)n, bytes = ops_row_bytes(y->type, y->cols);
    if (y->type == OPS_F32) {
        float *f = (float *)(void *)dst;
        if (src != f + begin)
            memcpy(f + begin, src, (size_t)n * sizeof(float));
        memset(f, 0, begin * sizeof(float));
        memset(f + end, 0, bytes - end * sizeof(float));
    } else if (y->type == OPS_BF16) {
        uint16_t *h = (uint16_t *)(void *)dst;
        ctx->vec->to_bf16(src, n, h + begin);
        memset(h, 0, begin * sizeof(uint16_t));
        memset(h + end, 0, bytes - end * sizeof(uint16_t));
    } else if (n == y->cols) {
        cpu_quantise_row(ctx, src, n, dst);
    } else {
        memset(wide, 0, (size_t)y->cols * sizeof(float));
        memcpy(wide + begin, src, (size_t)n * sizeof(float));
        cpu_quantise_row(ctx, wide, y->cols, dst);
    }
}

/* A thread's two scratch rows, each of max_cols rounded up. */
static float *second_row(const ops_ctx *ctx, float *first)
{
    return first + mem_align((size_t)ctx->max_cols, 64);
}

/* ---- embed ---- */
typedef struct embed_job {
    const ops_embed_args *args;
    const ops_batch *batch;
} embed_job;

static void embed_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const embed_job *job = arg;
    const ops_embed_args *a = job->args;
    float *pos = cpu_scratch(ctx, thread);
    for (size_t r = begin; r < end; r++) {
        float *y = cpu_row(&a->y, (int32_t)r);
        int32_t cols = a->w.shape.cols, token = job->batch->tokens[r] - a->row_begin;
        int64_t p = (int64_t)job->batch->position[r] + a->position_offset;
        bool known = job->batch->tokens[r] >= 0 && token >= 0 && token < a->w.shape.rows, placed = a->positions.buf != NULL && p < a->positions.shape.rows;
        if (placed)
            packed_dequantise(a->positions.shape, a->positions.buf->data + a->positions.offset, (int32_t)p, 0, cols, pos);
        if (known)
            packed_dequantise(a->w.shape, a->w.buf->data + a->w.offset, token, 0, cols, y);
        else
            memset(y, 0, (size_t)cols * sizeof(float));
        if (a->scale != 1.0f || placed)
            ctx->vec->scale_add(y, cols, a->scale, placed ? pos : NULL);
        memset(y + cols, 0, ops_row_bytes(OPS_F32, a->y.cols) - (size_t)cols * sizeof(float));
    }
}

status cpu_embed(ops_ctx *ctx, const ops_batch *batch, const ops_embed_args *args)
{
    TRY(cpu_mat_check("embed", "y", &args->y, batch->n_rows, args->w.shape.cols));
    if (args->y.type != OPS_F32 || args->w.buf == NULL || args->w.shape.cols > ctx->max_cols ||
        (args->positions.buf != NULL && args->positions.shape.cols != args->w.shape.cols) || args->position_offset < 0)
        return FAIL(ST_INVALID, "embed: rows of %d into f32 rows of %d", args->w.shape.cols, args->y.cols);
    embed_job job = {args, batch};
    cpu_for(ctx, (size_t)batch->n_rows, 1, (size_t)args->w.shape.cols, embed_rows, &job);
    return ST_OK;
}

/* ---- norm ---- */
typedef struct norm_rows_job {
    const ops_norm_args *args;
    const int32_t *rows; /* NULL: row i */
    size_t first;        /* of the rows, or of `rows` */
    cpu_norm_job kernel;
} norm_rows_job;

static void norm_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const norm_rows_job *job = arg;
    const ops_norm_args *a = job->args;
    float *s = cpu_scratch(ctx, thread), *wide = second_row(ctx, s);
    for (size_t i = job->first + begin; i < job->first + end; i++) {
        int32_t row = job->rows != NULL ? job->rows[i] : (int32_t)i;
        float *x = cpu_row(&a->x, row), *y = NULL;
        if (a->n_y > 0) /* the norm's f32 result: in place if it is wanted so, x itself if there is no norm */
            y = a->norm == OPS_NORM_NONE ? x : a->y[0].type == OPS_F32 ? cpu_row(&a->y[0], (int32_t)i) : wide;
        ctx->vec->norm_row(&job->kernel, row, x, s, y);
        for (int32_t k = 0; k < a->n_y; k++)
            cpu_put_row(ctx, &a->y[k], (int32_t)i, y, 0, job->kernel.cols, s);
    }
}

/* The first of the rows whose logits are wanted that is not before `row`: they ascend. */
static int32_t first_from(const ops_batch *batch, int32_t row)
{
    int32_t i = 0;
    while (i < batch->n_out && batch->out_rows[i] < row)
        i++;
    return i;
}

status cpu_norm(ops_ctx *ctx, const ops_batch *batch, const ops_norm_args *args)
{
    int32_t rows = args->select ? batch->n_out : batch->n_rows, cols = args->x.cols, first = 0, end = rows;
    TRY(cpu_mat_check("norm", "x", &args->x, batch->n_rows, cols));
    if (args->x.type != OPS_F32 || cols > ctx->max_cols || args->n_y < 0 || args->n_y > 2)
        return FAIL(ST_INVALID, "norm: x must be f32 of at most %d columns", ctx->max_cols);
    for (int32_t i = 0; i < args->n_y; i++) {
        TRY(cpu_mat_check("norm", "y", &args->y[i], rows, cols));
        if (args->y[i].cols != cols)
            return FAIL(ST_INVALID, "norm: y has %d columns, x %d", args->y[i].cols, cols);
    }
    if (args->row_end > 0) {
        if (args->row_begin < 0 || args->row_begin > args->row_end || args->row_end > batch->n_rows)
            return FAIL(ST_INVALID, "norm: rows %d to %d of %d", args->row_begin, args->row_end, batch->n_rows);
        first = args->select ? first_from(batch, args->row_begin) : args->row_begin;
        end = args->select ? first_from(batch, args->row_end) : args->row_end;
    }
    norm_rows_job job = {.args = args, .rows = args->select ? batch->out_rows : NULL, .first = (size_t)first};
    job.kernel = (cpu_norm_job){.cols = cols, .parts = args->parts, .replace = args->replace, .residual_scale = args->residual_scale, .eps = args->eps,
                                .post = args->post, .norm = args->norm, .part_bias = cpu_vec_at(&args->part_bias),
                                .post_weight = cpu_vec_at(&args->post_weight), .post_bias = cpu_vec_at(&args->post_bias),
                                .weight = cpu_vec_at(&args->weight), .bias = cpu_vec_at(&args->bias)};
    size_t passes = (size_t)args->parts.n * 2 + (args->post != OPS_NORM_NONE) * 4 + (args->norm != OPS_NORM_NONE) * 4 + (size_t)args->n_y * 4;
    cpu_for(ctx, (size_t)(end - first), 1, (size_t)cols / 8 * passes + 16, norm_rows, &job);
    return ST_OK;
}

/* ---- sum of squares ---- */
static void sumsq_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const ops_sumsq_args *a = arg;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        a->out[r] = ctx->vec->sumsq((const float *)cpu_row(&a->x, (int32_t)r) + a->col_begin, a->col_end - a->col_begin);
}

status cpu_sumsq(ops_ctx *ctx, const ops_sumsq_args *args)
{
    TRY(cpu_mat_check("sumsq", "x", &args->x, args->rows, args->col_end));
    if (args->x.type != OPS_F32 || args->col_begin < 0 || args->col_begin > args->col_end)
        return FAIL(ST_INVALID, "sumsq: columns %d to %d", args->col_begin, args->col_end);
    cpu_for(ctx, (size_t)args->rows, 1, (size_t)(args->col_end - args->col_begin) / 16 + 16, sumsq_rows, args);
    return ST_OK;
}

/* ---- q, k, v ---- */
typedef struct qkv_job {
    const ops_qkv_args *args;
    const ops_batch *batch;
    cpu_head_job kernel;
    const float *q_weight, *k_weight;
    size_t q_step, k_step; /* floats from one head's norm weights to the next's; 0: shared */
} qkv_job;

static void heads_of(ops_ctx *ctx, const qkv_job *job, size_t row, const float *cosine, const float *sine, float *k, float *v)
{
    const ops_qkv_args *a = job->args;
    int32_t hd = a->head_dim;
    const ops_batch *b = job->batch;
    const ops_span *span = &b->spans[b->span_of[row]];
    bool full = a->norm == OPS_QK_FULL_RMS;
    float q_inverse = full ? 1.0f / sqrtf(a->q_sumsq[row] / (float)a->q_total + a->eps) : 1.0f;
    float k_inverse = full ? 1.0f / sqrtf(a->k_sumsq[row] / (float)a->k_total + a->eps) : 1.0f;
    for (int32_t h = 0; h < a->n_heads; h++) {
        float *q = (float *)cpu_row(&a->q, (int32_t)row) + (size_t)h * (size_t)hd;
        ctx->vec->head(&job->kernel, q, q, job->q_weight == NULL ? NULL : job->q_weight + (size_t)h * job->q_step, q_inverse, cosine, sine);
    }
    cpu_head_job plain = {.head_dim = hd, .clip = a->clip};
    int32_t block = b->tables[a->kv_group][span->table[a->kv_group] + b->position[row] / OPS_KV_BLOCK];
    for (int32_t h = 0; h < a->n_kv_heads; h++) {
        const float *kin = (const float *)cpu_row(&a->k, (int32_t)row) + (size_t)h * (size_t)hd;
        const float *vin = (const float *)cpu_row(&a->v, (int32_t)row) + (size_t)h * (size_t)hd;
        ctx->vec->head(&job->kernel, kin, k, job->k_weight == NULL ? NULL : job->k_weight + (size_t)h * job->k_step, k_inverse, cosine, sine);
        ctx->vec->head(&plain, vin, v, NULL, 1.0f, NULL, NULL);
        ctx->vec->kv_put(&a->kv->layout, cpu_kv_head(a->kv, block, a->kv_layer, h), b->position[row] % OPS_KV_BLOCK, k, v);
    }
}

static void qkv_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const qkv_job *job = arg;
    float *k = cpu_scratch(ctx, thread), *v = second_row(ctx, k);
    int32_t rope = job->args->rope;
    size_t half = rope >= 0 ? (size_t)job->batch->limits.ropes[rope].dims / 2 : 0;
    for (size_t r = begin; r < end; r++)
        heads_of(ctx, job, r, rope >= 0 ? job->batch->cosine[rope] + r * half : NULL, rope >= 0 ? job->batch->sine[rope] + r * half : NULL, k, v);
}

status cpu_qkv(ops_ctx *ctx, const ops_batch *batch, const ops_qkv_args *args)
{
    int32_t hd = args->head_dim, rows = batch->n_rows;
    if (hd > ctx->max_cols)
        return FAIL(ST_INVALID, "qkv: heads of %d dimensions, the context was made for %d", hd, ctx->max_cols);
    TRY(ops_qkv_check(&batch->limits, batch->spans, batch->n_spans, (const int32_t *const *)batch->tables, &args->kv->spec, args));
    TRY(cpu_mat_check("qkv", "q", &args->q, rows, args->n_heads * hd));
    TRY(cpu_mat_check("qkv", "k", &args->k, rows, args->n_kv_heads * hd));
    TRY(cpu_mat_check("qkv", "v", &args->v, rows, args->n_kv_heads * hd));
    qkv_job job = {.args = args, .batch = batch, .q_weight = cpu_vec_at(&args->q_weight), .k_weight = cpu_vec_at(&args->k_weight)};
    job.q_step = args->q_weight.n > hd ? (size_t)hd : 0;
    job.k_step = args->k_weight.n > hd ? (size_t)hd : 0;
    job.kernel = (cpu_head_job){.head_dim = hd, .clip = args->clip, .eps = args->eps, .norm = args->norm};
    if (args->rope >= 0) {
        job.kernel.rope_dims = batch->limits.ropes[args->rope].dims;
        job.kernel.interleaved = batch->limits.ropes[args->rope].interleaved;
    }
    /* of a prompt's rows whole blocks go to one thread: they share cache lines */
    size_t unit = rows >= 4 * batch->n_spans ? OPS_KV_BLOCK : 1;
    size_t heads = (size_t)args->n_heads + 4 * (size_t)args->n_kv_heads;
    cpu_for(ctx, (size_t)rows, unit, heads * (size_t)hd / 2, qkv_rows, &job);
    return ST_OK;
}

/* ---- gate ---- */
static void gate_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const ops_gate_args *a = arg;
    float *s = cpu_scratch(ctx, thread), *wide = second_row(ctx, s);
    for (size_t r = begin; r < end; r++) {
        const float *up = a->up.buf != NULL ? cpu_row(&a->up, (int32_t)r) : NULL;
        float *y = a->y.type == OPS_F32 ? (float *)cpu_row(&a->y, (int32_t)r) + a->y_col : s;
        ctx->vec->gate_row(a->activation, cpu_row(&a->gate, (int32_t)r), up, a->gate.cols, y);
        cpu_put_row(ctx, &a->y, (int32_t)r, y, a->y_col, a->gate.cols, wide);
    }
}

status cpu_gate(ops_ctx *ctx, const ops_gate_args *args)
{
    int32_t rows = args->pairs != NULL ? args->pairs->rows * args->pairs->spec.top_k : args->rows;
    TRY(cpu_mat_check("gate", "gate", &args->gate, rows, args->gate.cols));
    if (args->up.buf != NULL)
        TRY(cpu_mat_check("gate", "up", &args->up, rows, args->gate.cols));
    TRY(cpu_mat_check("gate", "y", &args->y, rows, args->y_col + args->gate.cols));
    if (args->gate.type != OPS_F32 || (args->up.buf != NULL && args->up.type != OPS_F32) || args->y_col < 0 || args->y.cols > ctx->max_cols ||
        args->gate.cols > ctx->max_cols)
        return FAIL(ST_INVALID, "gate: f32 of %d columns into %d at column %d", args->gate.cols, args->y.cols, args->y_col);
    cpu_for(ctx, (size_t)(args->pairs != NULL ? cpu_pairs(args->pairs) : args->rows), 1, (size_t)args->gate.cols * 2, gate_rows, args);
    return ST_OK;
}
