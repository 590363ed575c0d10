/* ops/cuda/cuda_moe.c - layers of experts: checked as the CPU's, translated to device addresses, launched.
 *
 * How many pairs there are only the device knows.  Launches are made for all that there can be (in a recorded step: that its bucket can have), and what the host
 * checks is that there is room for them. */
#include <stdlib.h>

#include "base/mem.h"
#include "ops/check.h"
#include "ops/cuda/cuda_internal.h"

void cuda_pairs(const ops_routing *r, int32_t *rows, int32_t *bound, const int32_t **n)
{
    *rows = r->rows * r->spec.top_k;
    *bound = r->bound * r->spec.top_k;
    *n = &r->device.offset[r->spec.n_local];
}

/* ---- the routing ---- */

static status routing_memory(ops_routing *r)
{
    const ops_routing_spec *s = &r->spec;
    size_t pairs = mem_align((size_t)s->max_rows * (size_t)s->top_k, 64), offsets = mem_align((size_t)s->n_local + 2, 64);
    size_t tiles = (size_t)gpu_expert_tiles((int32_t)((size_t)s->max_rows * (size_t)s->top_k), s->n_local, gpu_expert_tile_rows(0, 1)); /* the smallest, so the most */
    size_t bytes = (4 * pairs + offsets) * sizeof(int32_t) + tiles * sizeof(gpu_expert_tile);
    CUDA_TRY(cudaMalloc(&r->memory, bytes), "%zu bytes for a routing of %d rows to %d of %d experts", bytes, s->max_rows, s->top_k, s->n_experts);
    int32_t *at = r->memory;
    r->device = (gpu_routing){.n_experts = s->n_experts, .top_k = s->top_k, .expert_begin = s->expert_begin, .n_local = s->n_local};
    r->device.expert = at;
    r->device.weight = (float *)(at + pairs);
    r->device.place = at + 2 * pairs;
    r->device.order = at + 3 * pairs;
    r->device.offset = at + 4 * pairs;
    r->device.n_tiles = r->device.offset + s->n_local + 1;
    r->device.tiles = (gpu_expert_tile *)(void *)(at + 4 * pairs + offsets);
    return ST_OK;
}

status cuda_routing_create(ops_ctx *ctx, const ops_routing_spec *spec, ops_routing **out)
{
    *out = NULL;
    TRY(cuda_enter(ctx));
    TRY(ops_routing_check(spec));
    ops_routing *r;
    TRY(mem_calloc(1, sizeof(*r), "routing", &r));
    r->spec = *spec;
    status st = routing_memory(r);
    if (st != ST_OK) {
        cuda_routing_destroy(ctx, &r);
        return st;
    }
    *out = r;
    return ST_OK;
}

void cuda_routing_destroy(ops_ctx *ctx, ops_routing **routing)
{
    if (*routing == NULL)
        return;
    (void)cudaSetDevice(ctx->device);
    (void)cudaStreamSynchronize(ctx->stream);
    (void)cudaFree((*routing)->memory);
    free(*routing);
    *routing = NULL;
}

status cuda_route(ops_ctx *ctx, const ops_route_args *args)
{
    ops_routing *r = args->routing;
    TRY(ops_route_check(&r->spec, args));
    TRY(cuda_mat_check("route", "logits", &args->logits, args->rows, r->spec.n_experts));
    gpu_route a = {.logits = cuda_mat(&args->logits), .scoring = (int32_t)args->scoring, .n_groups = args->n_groups, .top_groups = args->top_groups,
                   .rate_by_two = args->rate_by_two, .renormalise = args->renormalise, .scale = args->scale, .to = r->device};
    TRY(cuda_vec_at("route", &args->bias, r->spec.n_experts, &a.bias));
    r->rows = args->rows;
    r->bound = args->rows > 0 ? cuda_rows(ctx, args->rows) : 0;
    if (r->bound > r->spec.max_rows) /* the bucket of a recorded step; it has no more rows than that */
        r->bound = r->spec.max_rows;
    if (!ctx->reserving)
        CUDA_TRY(k_route(r->bound, cuda_n(ctx), &a, ctx->stream), "%d rows to %d of %d experts", args->rows, r->spec.top_k, r->spec.n_experts);
    return ST_OK;
}

/* ---- rows for pairs, and pairs for rows ---- */

status cuda_dispatch(ops_ctx *ctx, const ops_dispatch_args *args)
{
    const ops_routing *r = args->routing;
    int32_t cols = args->x.cols;
    TRY(cuda_mat_check("dispatch", "x", &args->x, r->rows, cols));
    TRY(cuda_mat_check("dispatch", "y", &args->y, r->rows * r->spec.top_k, cols));
    if (args->x.type != OPS_F32 || args->y.cols != cols)
        return FAIL(ST_INVALID, "dispatch: f32 of %d columns into %d", cols, args->y.cols);
    if (!ctx->reserving)
        CUDA_TRY(k_dispatch(r->bound, &r->device, cuda_mat(&args->x), cuda_mat(&args->y), ctx->stream), "%d rows of %d", r->rows, cols);
    return ST_OK;
}

status cuda_combine(ops_ctx *ctx, const ops_combine_args *args)
{
    const ops_routing *r = args->routing;
    TRY(cuda_mat_check("combine", "x", &args->x, r->rows * r->spec.top_k, args->x.cols));
    TRY(cuda_mat_check("combine", "y", &args->y, r->rows, args->x.cols));
    if (args->x.type != OPS_F32 || args->y.type != OPS_F32)
        return FAIL(ST_INVALID, "combine: x and y must be f32");
    gpu_combine a = {.from = r->device, .x = cuda_mat(&args->x), .y = cuda_mat(&args->y), .weighed = args->weighed, .accumulate = args->accumulate};
    if (!ctx->reserving)
        CUDA_TRY(k_combine(r->bound, cuda_n(ctx), &a, ctx->stream), "%d rows of %d", r->rows, args->x.cols);
    return ST_OK;
}

/* ---- products ---- */

status cuda_experts(ops_ctx *ctx, const ops_experts_args *args)
{
    const ops_routing *r = args->routing;
    int32_t pairs = r->rows * r->spec.top_k;
    int64_t out = 0;
    gpu_experts a = {.routing = r->device, .x_by_row = args->x_by_row, .n = args->n};
    if (args->n < 0 || args->n > OPS_MAX_FUSED)
        return FAIL(ST_INVALID, "experts: %d weights in one call, at most %d", args->n, OPS_MAX_FUSED);
    TRY(cuda_mat_check("experts", "x", &args->x, args->x_by_row ? r->rows : pairs, args->x.cols));
    a.x = cuda_mat(&args->x);
    for (int i = 0; i < args->n; i++) {
        const ops_expert_weights *w = &args->w[i];
        packed_layout l;
        TRY(ops_experts_check(&r->spec, args, i, w->first.buf != NULL ? w->first.buf->bytes : 0, w->bias.buf != NULL ? w->bias.buf->bytes : 0, &l));
        TRY(cuda_mat_check("experts", "y", &args->y[i], pairs, w->first.shape.rows));
        TRY(cuda_vec_at("experts", &w->bias, 0, &a.bias[i]));
        if (gpu_linear_input(w->first.shape.type) != args->x.type)
            return FAIL(ST_INVALID, "experts: %s weights cannot take this format of x", l.format->name);
        if (r->spec.n_local > 0 && cuda_buf_turned(w->first.buf, w->first.offset, w->stride * (size_t)(r->spec.n_local - 1) + l.bytes) != NULL)
            return FAIL(ST_INVALID, "experts: a weight [%d, %d] was declared ready, which is for linear", w->first.shape.rows, w->first.shape.cols);
        a.w[i] = cuda_weight(&w->first, &l);
        a.stride[i] = (int64_t)w->stride;
        a.y[i] = cuda_mat(&args->y[i]);
        out += w->first.shape.rows;
    }
    if (!ctx->reserving)
        CUDA_TRY(k_experts(r->bound, &a, ctx->stream), "%d rows to %d of %d experts, [%lld, %d]", r->rows, r->spec.top_k, r->spec.n_experts, (long long)out, args->x.cols);
    return ST_OK;
}
