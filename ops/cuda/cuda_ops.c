/* ops/cuda/cuda_ops.c - the operations: checked as the CPU's, translated to device addresses, launched. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/check.h"
#include "ops/cuda/cuda_internal.h"

/* ---- translation ---- */

status cuda_mat_check(const char *op, const char *name, const ops_mat *m, int32_t rows, int32_t cols)
{
    return ops_mat_check(op, name, m, m->buf != NULL ? m->buf->bytes : 0, rows, cols);
}

gpu_mat cuda_mat(const ops_mat *m)
{
    return (gpu_mat){m->buf->p + m->offset, (int32_t)m->type, m->cols, (int64_t)m->stride};
}

status cuda_vec_at(const char *op, const ops_vec *v, int32_t least, const float **out)
{
    *out = NULL;
    if (v->buf == NULL)
        return ST_OK;
    size_t bytes = (size_t)(v->n > 0 ? v->n : 0) * sizeof(float);
    if (v->n < least || v->offset % sizeof(float) != 0 || v->offset > v->buf->bytes || bytes > v->buf->bytes - v->offset)
        return FAIL(ST_INVALID, "%s: a vector of %d at %zu, %d needed, in a buffer of %zu bytes", op, v->n, v->offset, least, v->buf->bytes);
    *out = (const float *)(const void *)(v->buf->p + v->offset);
    return ST_OK;
}

gpu_weight cuda_weight(const ops_weight *w, const packed_layout *l)
{
    return (gpu_weight){
        .p = w->buf->p + w->offset, .type = (int32_t)w->shape.type, .rows = w->shape.rows, .cols = w->shape.cols, .phase = w->shape.phase,
        .panels = l->panels, .units = l->units, .groups = l->groups, .supers = l->supers, .panel_bytes = (int64_t)l->panel_bytes,
        .unit_bytes = (int64_t)l->unit_bytes, .scale_offset = (int64_t)l->scale_offset, .min_offset = (int64_t)l->min_offset, .super_offset = (int64_t)l->super_offset};
}

/* gemm: who multiplies by it, NULL: the own kernels (may be NULL for who does not multiply). */
static status weight_at(const char *op, const ops_weight *w, gpu_weight *out, const cuda_gemm **gemm)
{
    packed_layout l;
    *out = (gpu_weight){0};
    if (w->buf == NULL)
        return ST_OK;
    if (!packed_layout_of(w->shape, &l))
        return FAIL(ST_INVALID, "%s: a weight has an impossible shape [%d, %d]", op, w->shape.rows, w->shape.cols);
    if (w->offset % 64 != 0 || w->offset > w->buf->bytes || l.bytes > w->buf->bytes - w->offset)
        return FAIL(ST_INVALID, "%s: a weight of %zu bytes at %zu exceeds its buffer of %zu", op, l.bytes, w->offset, w->buf->bytes);
    const cuda_turned *t = cuda_buf_turned(w->buf, w->offset, l.bytes);
    if (t != NULL && (t->offset != w->offset || t->rows != w->shape.rows || t->cols != w->shape.cols || t->type != w->shape.type))
        return FAIL(ST_INVALID, "%s: a weight [%d, %d] at %zu is a part of one that was declared ready", op, w->shape.rows, w->shape.cols, w->offset);
    if (gemm != NULL)
        *gemm = t != NULL ? t->gemm : NULL;
    *out = cuda_weight(w, &l);
    out->turned = t != NULL;
    return ST_OK;
}

/* ---- the cache ---- */

static bool kv_bytes(const ops_kv_spec *spec, gpu_kv *layout, size_t *block, size_t *all)
{
    size_t heads;
    if (spec->n_layers < 0 || spec->n_kv_heads < 0 || spec->n_blocks < 0 || !gpu_kv_layout(spec, layout))
        return false;
    return mem_mul((size_t)spec->n_layers, (size_t)spec->n_kv_heads, &heads) && mem_mul(heads, (size_t)layout->head_bytes, block) &&
           mem_mul(*block, (size_t)spec->n_blocks, all);
}

size_t cuda_kv_block_bytes(const ops_kv_spec *spec)
{
    gpu_kv layout;
    size_t block, all;
    return kv_bytes(spec, &layout, &block, &all) ? block : 0;
}

static status kv_memory(ops_ctx *ctx, ops_kv *kv)
{
    void *p;
    if (kv->bytes == 0)
        return ST_OK;
    CUDA_TRY(cudaMalloc(&p, kv->bytes), "%zu bytes for the KV cache", kv->bytes);
    kv->layout.p = p;
    CUDA_TRY(cudaMemsetAsync(p, 0, kv->bytes, ctx->stream), "the KV cache");
    return ST_OK;
}

status cuda_kv_create(ops_ctx *ctx, const ops_kv_spec *spec, ops_kv **out)
{
    gpu_kv layout;
    size_t block, bytes;
    *out = NULL;
    TRY(cuda_enter(ctx));
    if (!kv_bytes(spec, &layout, &block, &bytes))
        return FAIL(ST_INVALID, "KV cache of %lld blocks, %d layers, %d KV heads of %d: impossible size", (long long)spec->n_blocks, spec->n_layers,
                    spec->n_kv_heads, spec->head_dim);
    ops_kv *kv;
    TRY(mem_calloc(1, sizeof(*kv), "KV cache", &kv));
    *kv = (ops_kv){.spec = *spec, .layout = layout, .bytes = bytes};
    kv->layout.p = NULL;
    status st = kv_memory(ctx, kv);
    if (st != ST_OK) {
        cuda_kv_destroy(ctx, &kv);
        return st;
    }
    *out = kv;
    return ST_OK;
}

void cuda_kv_destroy(ops_ctx *ctx, ops_kv **kv)
{
    if (*kv == NULL)
        return;
    (void)cudaSetDevice(ctx->device);
    (void)cudaStreamSynchronize(ctx->stream);
    (void)cudaFree((*kv)->layout.p);
    free(*kv);
    *kv = NULL;
}

status cuda_kv_copy_block(ops_ctx *ctx, ops_kv *kv, int32_t from, int32_t to)
{
    if (from < 0 || to < 0 || from >= kv->spec.n_blocks || to >= kv->spec.n_blocks)
        return FAIL(ST_INVALID, "KV block copy %d to %d: the cache has %lld blocks", from, to, (long long)kv->spec.n_blocks);
    TRY(cuda_enter(ctx)); /* the first thing a step does */
    if (from != to && kv->bytes > 0)
        CUDA_TRY(k_kv_copy_block(&kv->layout, from, to, ctx->stream), "copy of KV block %d to %d", from, to);
    return ST_OK;
}

/* ---- embed ---- */

status cuda_embed(ops_ctx *ctx, const ops_batch *batch, const ops_embed_args *args)
{
    int32_t rows = batch->n_rows;
    TRY(cuda_mat_check("embed", "y", &args->y, rows, args->w.shape.cols));
    if (args->y.type != OPS_F32 || args->w.buf == NULL || (args->positions.buf != NULL && args->positions.shape.cols != args->w.shape.cols) || args->position_offset < 0)
        return FAIL(ST_INVALID, "embed: rows of %d into f32 rows of %d", args->w.shape.cols, args->y.cols);
    gpu_embed a = {.row_begin = args->row_begin, .position_offset = args->position_offset, .scale = args->scale, .y = cuda_mat(&args->y)};
    TRY(weight_at("embed", &args->w, &a.w, NULL));
    TRY(weight_at("embed", &args->positions, &a.positions, NULL));
    if (rows > 0)
        CUDA_TRY(k_embed(cuda_step(batch), cuda_rows(ctx, rows), &a, ctx->stream), "%d rows of %d", rows, args->w.shape.cols);
    return ST_OK;
}

/* ---- norm ---- */

static status parts_at(const ops_ctx *ctx, const ops_norm_args *args, int32_t rows, gpu_norm *a)
{
    if (args->parts.n < 0 || args->parts.n > (int32_t)ARRAY_LEN(a->part))
        return FAIL(ST_LIMIT, "norm: %d partial sums, at most %zu", args->parts.n, ARRAY_LEN(a->part));
    size_t bytes = rows > 0 ? ((size_t)(rows - 1) * args->parts.stride + (size_t)args->x.cols) * sizeof(float) : 0;
    for (int32_t i = 0; i < args->parts.n; i++) {
        a->part[i] = cuda_address(ctx, args->parts.part[i], bytes);
        if (a->part[i] == NULL)
            return FAIL(ST_INVALID, "norm: partial sum %d lies in memory that the device does not see", i);
    }
    a->n_parts = args->parts.n;
    a->part_stride = (int64_t)args->parts.stride;
    return ST_OK;
}

status cuda_norm(ops_ctx *ctx, const ops_batch *batch, const ops_norm_args *args)
{
    int32_t rows = args->select ? batch->n_out : batch->n_rows, cols = args->x.cols;
    TRY(cuda_mat_check("norm", "x", &args->x, batch->n_rows, cols));
    if (args->row_end > 0)
        return FAIL(ST_UNSUPPORTED, "norm: on a device all rows of a batch are computed");
    if (args->x.type != OPS_F32 || args->n_y < 0 || args->n_y > 2)
        return FAIL(ST_INVALID, "norm: x must be f32, and y at most two matrices");
    gpu_norm a = {.x = cuda_mat(&args->x), .replace = args->replace, .select = args->select, .residual_scale = args->residual_scale, .post = (int32_t)args->post,
                  .norm = (int32_t)args->norm, .eps = args->eps, .n_y = args->n_y};
    for (int32_t i = 0; i < args->n_y; i++) {
        TRY(cuda_mat_check("norm", "y", &args->y[i], rows, cols));
        if (args->y[i].cols != cols)
            return FAIL(ST_INVALID, "norm: y has %d columns, x %d", args->y[i].cols, cols);
        a.y[i] = cuda_mat(&args->y[i]);
    }
    TRY(parts_at(ctx, args, batch->n_rows, &a));
    TRY(cuda_vec_at("norm", &args->part_bias, cols, &a.part_bias));
    TRY(cuda_vec_at("norm", &args->post_weight, cols, &a.post_weight));
    TRY(cuda_vec_at("norm", &args->post_bias, cols, &a.post_bias));
    TRY(cuda_vec_at("norm", &args->weight, cols, &a.weight));
    TRY(cuda_vec_at("norm", &args->bias, cols, &a.bias));
    if (rows > 0)
        CUDA_TRY(k_norm(cuda_step(batch), cuda_rows(ctx, rows), &a, ctx->stream), "%d rows of %d", rows, cols);
    return ST_OK;
}

/* ---- linear ---- */

ops_type cuda_linear_input(const ops_ctx *ctx, packed_type type)
{
    (void)ctx;
    return gpu_linear_input(type);
}

/* x in the format that some weights want, made from f32 where it is not in that format already; so many rows of it may be read, the last ones anything. */
static status linear_x(ops_ctx *ctx, const ops_linear_args *args, ops_type want, int32_t padded, gpu_mat *out)
{
    const ops_mat *x = &args->x;
    int32_t rows = cuda_rows(ctx, args->rows);
    size_t row = ops_row_bytes(x->type, x->cols), apart = x->stride > row ? x->stride : row, stride = x->type == want ? apart : ops_row_bytes(want, x->cols), bytes;
    *out = cuda_mat(x);
    out->stride = (int64_t)apart; /* of a single row it may be anything */
    if (x->type != want && x->type != OPS_F32)
        return FAIL(ST_INVALID, "linear: a weight cannot take this format of x");
    size_t there = 1 + (x->buf->bytes - x->offset - row) / apart; /* rows that lie in the buffer */
    if (x->type == want && there >= (size_t)padded)
        return ST_OK;
    if (!mem_mul(stride, (size_t)(rows > padded ? rows : padded), &bytes))
        return FAIL(ST_INVALID, "linear: x [%d, %d]: impossible size", args->rows, args->x.cols);
    TRY(cuda_block_grow(ctx, &ctx->quantise, bytes, "quantised activations"));
    if (ctx->reserving)
        return ST_OK;
    *out = (gpu_mat){ctx->quantise.p, (int32_t)want, x->cols, (int64_t)stride};
    if (x->type == want)
        CUDA_TRY(cudaMemcpyAsync(out->p, x->buf->p + x->offset, ((there < (size_t)rows ? there : (size_t)rows) - 1) * stride + row, cudaMemcpyDeviceToDevice, ctx->stream), "%d rows of %d",
                 args->rows, x->cols);
    else
        CUDA_TRY(k_quantise(rows, cuda_n(ctx), cuda_mat(x), *out, ctx->stream), "%d rows of %d", args->rows, x->cols);
    return ST_OK;
}

/* The products of a call by weights that want one format of x. */
typedef struct linear_parts {
    gpu_linear own;
    int64_t out;        /* of those */
    cuda_product by[OPS_MAX_FUSED]; /* cuBLASLt */
    int32_t n_by, padded;
} linear_parts;

static status linear_own(ops_ctx *ctx, const ops_linear_args *args, linear_parts *p)
{
    if (p->own.n == 0)
        return ST_OK;
    if (p->out > INT32_MAX)
        return FAIL(ST_INVALID, "linear: %lld outputs in one call", (long long)p->out);
    int64_t floats = gpu_linear_scratch(cuda_rows(ctx, args->rows), (int32_t)p->out, args->x.cols);
    TRY(cuda_block_grow(ctx, &ctx->linear, (size_t)floats * sizeof(float), "partial products"));
    if (ctx->reserving)
        return ST_OK;
    p->own.partial = ctx->linear.p;
    CUDA_TRY(k_linear(cuda_rows(ctx, args->rows), cuda_n(ctx), &p->own, ctx->stream), "[%d, %d] x [%d, %d]^T", args->rows, args->x.cols, (int32_t)p->out, args->x.cols);
    return ST_OK;
}

static status linear_part(ops_ctx *ctx, const ops_linear_args *args, int i, linear_parts *p)
{
    gpu_weight w;
    const float *bias;
    const cuda_gemm *gemm;
    TRY(cuda_mat_check("linear", "y", &args->y[i], args->rows, args->w[i].shape.rows));
    TRY(weight_at("linear", &args->w[i], &w, &gemm));
    TRY(cuda_vec_at("linear", &args->bias[i], args->w[i].shape.rows, &bias));
#ifdef CUDA_BLASLT
    if (gemm != NULL) {
        int32_t rows = cuda_gemm_is_f8(gemm) ? 0 : cuda_blaslt_rows(gemm, cuda_rows(ctx, args->rows)); /* fp8 has its own memory */
        p->padded = rows > p->padded ? rows : p->padded;
        p->by[p->n_by++] = (cuda_product){gemm, w, bias, cuda_mat(&args->y[i]), args->y[i].buf->host == NULL};
        return ST_OK;
    }
#else
    (void)ctx;
#endif
    p->own.w[p->own.n] = w;
    p->own.bias[p->own.n] = bias;
    p->own.y[p->own.n++] = cuda_mat(&args->y[i]);
    p->out += args->w[i].shape.rows;
    return ST_OK;
}

static status linear_format(ops_ctx *ctx, const ops_linear_args *args, ops_type want)
{
    linear_parts p = {.own = {.accumulate = args->accumulate}};
    for (int i = 0; i < args->n; i++) {
        const ops_weight *w = &args->w[i];
        if (gpu_linear_input(w->shape.type) != want)
            continue;
        if (w->buf == NULL || w->shape.cols != args->x.cols || args->y[i].type != OPS_F32)
            return FAIL(ST_INVALID, "linear: weight %d [%d, %d] does not fit x of %d columns and y of %d", i, w->shape.rows, w->shape.cols, args->x.cols, args->y[i].cols);
        TRY(linear_part(ctx, args, i, &p));
    }
    if (p.own.n + p.n_by == 0)
        return ST_OK;
    TRY(linear_x(ctx, args, want, p.padded, &p.own.x));
#ifdef CUDA_BLASLT
    if (want == OPS_F32)
        TRY(cuda_blaslt_codes(ctx, p.by, p.n_by, &p.own.x, cuda_rows(ctx, args->rows), cuda_n(ctx)));
    for (int32_t i = 0; i < p.n_by && !ctx->reserving; i++)
        TRY(cuda_blaslt_linear(ctx, &p.by[i], &p.own.x, cuda_rows(ctx, args->rows), cuda_n(ctx), args->accumulate));
#endif
    return linear_own(ctx, args, &p);
}

status cuda_linear(ops_ctx *ctx, const ops_linear_args *args)
{
    if (args->rows <= 0 || args->n <= 0)
        return ST_OK;
    if (args->n > OPS_MAX_FUSED)
        return FAIL(ST_INVALID, "linear: %d weights in one call, at most %d", args->n, OPS_MAX_FUSED);
    TRY(cuda_mat_check("linear", "x", &args->x, args->rows, args->x.cols));
    for (ops_type t = OPS_F32; t <= OPS_Q8; t++)
        TRY(linear_format(ctx, args, t));
    return ST_OK;
}

/* ---- sum of squares ---- */

status cuda_sumsq(ops_ctx *ctx, const ops_sumsq_args *args)
{
    TRY(cuda_mat_check("sumsq", "x", &args->x, args->rows, args->col_end));
    if (args->x.type != OPS_F32 || args->col_begin < 0 || args->col_begin > args->col_end || args->rows > ctx->max_rows)
        return FAIL(ST_INVALID, "sumsq: columns %d to %d of %d rows", args->col_begin, args->col_end, args->rows);
    if (args->rows <= 0)
        return ST_OK;
    if (ctx->reserving)
        return cuda_results_reserve(ctx, CUDA_PENDING * mem_align((size_t)args->rows * sizeof(float), 64));
    if (ctx->n_pending == CUDA_PENDING)
        TRY(cuda_sync(ctx));
    float *out = ctx->sums + (size_t)ctx->n_pending * (size_t)ctx->max_rows;
    CUDA_TRY(k_sumsq(args->rows, NULL, cuda_mat(&args->x), args->col_begin, args->col_end, out, ctx->stream), "%d rows", args->rows);
    return cuda_download(ctx, out, args->out, (size_t)args->rows * sizeof(float), "sums of squares");
}

/* ---- q, k, v ---- */

static status qkv_check(const ops_batch *batch, const ops_qkv_args *args)
{
    int32_t hd = args->head_dim, rows = batch->n_rows;
    TRY(cuda_mat_check("qkv", "q", &args->q, rows, args->n_heads * hd));
    TRY(cuda_mat_check("qkv", "k", &args->k, rows, args->n_kv_heads * hd));
    TRY(cuda_mat_check("qkv", "v", &args->v, rows, args->n_kv_heads * hd));
    return ops_qkv_check(&batch->limits, batch->spans, batch->n_spans, batch->tables, &args->kv->spec, args);
}

/* The sums over all ranks' heads were added up on the host. */
static status qkv_sums(ops_ctx *ctx, const ops_qkv_args *args, int32_t rows, gpu_qkv *a)
{
    if (args->norm != OPS_QK_FULL_RMS)
        return ST_OK;
    if (rows > ctx->max_rows)
        return FAIL(ST_INVALID, "qkv: %d rows, the context was made for %d", rows, ctx->max_rows);
    float *q = ctx->sums + (size_t)CUDA_PENDING * (size_t)ctx->max_rows, *k = q + ctx->max_rows;
    TRY(cuda_upload(ctx, q, args->q_sumsq, (size_t)rows * sizeof(float), "sums of squares"));
    TRY(cuda_upload(ctx, k, args->k_sumsq, (size_t)rows * sizeof(float), "sums of squares"));
    a->q_sumsq = q;
    a->k_sumsq = k;
    return ST_OK;
}

status cuda_qkv(ops_ctx *ctx, const ops_batch *batch, const ops_qkv_args *args)
{
    int32_t rows = batch->n_rows;
    if (ctx->reserving)
        return ST_OK;
    TRY(qkv_check(batch, args));
    gpu_qkv a = {.q = cuda_mat(&args->q), .k = cuda_mat(&args->k), .v = cuda_mat(&args->v), .n_heads = args->n_heads, .n_kv_heads = args->n_kv_heads,
                 .head_dim = args->head_dim, .clip = args->clip, .norm = (int32_t)args->norm, .eps = args->eps, .q_total = args->q_total, .k_total = args->k_total,
                 .rope = args->rope, .kv = args->kv->layout, .kv_group = args->kv_group, .kv_layer = args->kv_layer};
    if (args->rope >= 0) {
        a.rope_dims = batch->limits.ropes[args->rope].dims;
        a.interleaved = batch->limits.ropes[args->rope].interleaved;
    }
    /* One head's norm weights for all, or each head its own. */
    a.q_step = args->q_weight.n > args->head_dim ? args->head_dim : 0;
    a.k_step = args->k_weight.n > args->head_dim ? args->head_dim : 0;
    TRY(cuda_vec_at("qkv", &args->q_weight, a.q_step > 0 ? args->n_heads * args->head_dim : args->head_dim, &a.q_weight));
    TRY(cuda_vec_at("qkv", &args->k_weight, a.k_step > 0 ? args->n_kv_heads * args->head_dim : args->head_dim, &a.k_weight));
    if (rows <= 0)
        return ST_OK;
    TRY(qkv_sums(ctx, args, rows, &a));
    CUDA_TRY(k_qkv(cuda_step(batch), cuda_rows(ctx, rows), &a, ctx->stream), "%d rows of %d + %d heads of %d", rows, args->n_heads, args->n_kv_heads, args->head_dim);
    return ST_OK;
}

/* ---- attention ---- */

static status attention_check(const ops_batch *batch, const ops_attention_args *a)
{
    int32_t hd = a->head_dim, width = a->n_heads * hd;
    const ops_kv_spec *spec = &a->kv->spec;
    TRY(cuda_mat_check("attention", "q", &a->q, batch->n_rows, width));
    TRY(cuda_mat_check("attention", "y", &a->y, batch->n_rows, a->y_col + width));
    if (a->q.type != OPS_F32 || a->n_heads < 1 || hd < 1 || a->heads_per_kv < 1 || a->y_col < 0 || a->window < 0)
        return FAIL(ST_INVALID, "attention: %d heads of %d dimensions into rows of %d", a->n_heads, hd, a->y.cols);
    int32_t first_kv = a->head_begin / a->heads_per_kv - a->kv_head_begin, last_kv = (a->head_begin + a->n_heads - 1) / a->heads_per_kv - a->kv_head_begin;
    if (spec->head_dim != hd || first_kv < 0 || last_kv >= spec->n_kv_heads || a->kv_layer < 0 || a->kv_layer >= spec->n_layers || a->kv_group < 0 ||
        a->kv_group >= batch->limits.n_kv_groups)
        return FAIL(ST_INVALID, "attention: heads use KV heads %d to %d; the cache has %d of %d dimensions in %d layers", first_kv, last_kv, spec->n_kv_heads,
                    spec->head_dim, spec->n_layers);
    return ST_OK;
}

status cuda_attention(ops_ctx *ctx, const ops_batch *batch, const ops_attention_args *args)
{
    cuda_window *w;
    ops_batch *b = (ops_batch *)(uintptr_t)batch; /* its work lists */
    TRY(attention_check(batch, args));
    if (batch->n_rows == 0 && !ctx->reserving)
        return ST_OK;
    int64_t floats = gpu_attention_scratch(batch->max_slots, args->n_heads, args->head_dim);
    TRY(cuda_block_grow(ctx, &ctx->attention, (size_t)floats * sizeof(float), "partial attention"));
    TRY(cuda_batch_window(ctx, b, args->window, &w));
    w->kv_blocks[args->kv_group] = args->kv->spec.n_blocks;
    if (ctx->reserving)
        return ST_OK;
    TRY(cuda_batch_check_read(b, w, args->kv_group, args->kv->spec.n_blocks));
    gpu_attention a = {.q = cuda_mat(&args->q), .n_heads = args->n_heads, .head_dim = args->head_dim, .head_begin = args->head_begin, .heads_per_kv = args->heads_per_kv,
                       .kv_head_begin = args->kv_head_begin, .scale = args->scale, .softcap = args->softcap, .window = args->window, .kv = args->kv->layout,
                       .kv_group = args->kv_group, .kv_layer = args->kv_layer, .y = cuda_mat(&args->y), .y_col = args->y_col};
    TRY(cuda_vec_at("attention", &args->sinks, args->n_heads, &a.sinks));
    TRY(cuda_vec_at("attention", &args->slopes, args->n_heads, &a.slopes));
    a.list = w->list;
    a.max_work = ctx->graph_batch != NULL ? ctx->graph->work : w->pinned[batch->which]->n_work;
    a.max_rows = ctx->graph_batch != NULL ? ctx->graph->piece_rows : w->pinned[batch->which]->most_rows;
    a.max_slots = batch->max_slots;
    a.partial = ctx->attention.p;
    CUDA_TRY(k_attention(cuda_step(batch), cuda_rows(ctx, batch->n_rows), &a, ctx->stream), "%d rows of %d heads of %d, %d pieces", batch->n_rows, args->n_heads, args->head_dim, a.max_work);
    return ST_OK;
}

/* ---- gate ---- */

status cuda_gate(ops_ctx *ctx, const ops_gate_args *args)
{
    int32_t rows = args->rows, bound = cuda_rows(ctx, args->rows);
    const int32_t *n = cuda_n(ctx);
    if (args->pairs != NULL)
        cuda_pairs(args->pairs, &rows, &bound, &n);
    TRY(cuda_mat_check("gate", "gate", &args->gate, rows, args->gate.cols));
    if (args->up.buf != NULL)
        TRY(cuda_mat_check("gate", "up", &args->up, rows, args->gate.cols));
    TRY(cuda_mat_check("gate", "y", &args->y, rows, args->y_col + args->gate.cols));
    if (args->gate.type != OPS_F32 || (args->up.buf != NULL && args->up.type != OPS_F32) || args->y_col < 0)
        return FAIL(ST_INVALID, "gate: f32 of %d columns into %d at column %d", args->gate.cols, args->y.cols, args->y_col);
    gpu_gate a = {.gate = cuda_mat(&args->gate), .activation = (int32_t)args->activation, .y = cuda_mat(&args->y), .y_col = args->y_col};
    if (args->up.buf != NULL)
        a.up = cuda_mat(&args->up);
    if (rows > 0 && !ctx->reserving)
        CUDA_TRY(k_gate(bound, n, &a, ctx->stream), "%d rows of %d", rows, args->gate.cols);
    return ST_OK;
}
