/* ops/cpu/cpu_moe.c - layers of experts: which rows go where, and their results back together.  The products themselves are in linear.c.
 *
 * Rows are scored and chosen for in parallel; ordering the pairs is a counting sort on one thread, which for the longest steps takes less than a product's
 * smallest part. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/mem.h"
#include "ops/check.h"
#include "ops/cpu/cpu_vec.h"

status cpu_routing_create(ops_ctx *ctx, const ops_routing_spec *spec, ops_routing **out)
{
    *out = NULL;
    TRY(ops_routing_check(spec));
    ops_routing *r;
    TRY(mem_calloc(1, sizeof(*r), "routing", &r));
    size_t pairs = mem_align((size_t)spec->max_rows * (size_t)spec->top_k, 16), experts = mem_align((size_t)spec->n_local + 1, 16);
    r->spec = *spec;
    r->bytes = (4 * pairs + experts) * sizeof(int32_t) + (size_t)ctx->max_threads * CPU_ROUTING_SCRATCH;
    status st = mem_huge_alloc(r->bytes, "routing", &r->memory);
    if (st != ST_OK) {
        free(r);
        return st;
    }
    r->scratch = r->memory; /* first: its rows are aligned */
    r->expert = (int32_t *)(void *)(r->scratch + (size_t)ctx->max_threads * CPU_ROUTING_SCRATCH);
    r->weight = (float *)(r->expert + pairs);
    r->place = r->expert + 2 * pairs;
    r->order = r->expert + 3 * pairs;
    r->offset = r->expert + 4 * pairs;
    *out = r;
    return ST_OK;
}

void cpu_routing_destroy(ops_ctx *ctx, ops_routing **routing)
{
    (void)ctx;
    if (*routing == NULL)
        return;
    mem_huge_free((*routing)->memory, (*routing)->bytes);
    free(*routing);
    *routing = NULL;
}

/* ---- the choice ---- */

/* Greater is better: the key in a form that keeps its order, NaN below all; of equal keys the lowest index. */
static uint64_t rank_of(float key, int32_t index)
{
    uint32_t u = half_f32_bits(key + 0.0f); /* -0 and 0 are one */
    u = u >> 31 ? ~u : u | 0x80000000u;
    return (uint64_t)(isnan(key) ? 0 : u) << 32 | (uint32_t)~index;
}

static int32_t index_of(uint64_t rank)
{
    return (int32_t)~(uint32_t)rank;
}

/* best [limit] holds the n greatest so far, descending. */
static void offer(uint64_t *best, int32_t *n, int32_t limit, uint64_t rank)
{
    if (*n == limit && rank < best[limit - 1])
        return;
    int32_t i = *n < limit ? (*n)++ : limit - 1;
    for (; i > 0 && best[i - 1] < rank; i--)
        best[i] = best[i - 1];
    best[i] = rank;
}

typedef struct choice { /* a thread's scratch */
    uint64_t group[OPS_MAX_EXPERTS], best_groups[OPS_MAX_EXPERTS];
    float score[OPS_MAX_EXPERTS], key[OPS_MAX_EXPERTS];
} choice;
_Static_assert(sizeof(choice) <= CPU_ROUTING_SCRATCH, "a choice fits a thread's scratch");

static float group_key(const float *key, int32_t n, bool by_two)
{
    uint64_t best[2];
    int32_t found = 0;
    for (int32_t i = 0; i < n; i++)
        offer(best, &found, 2, rank_of(key[i], i));
    return by_two && found == 2 ? key[index_of(best[0])] + key[index_of(best[1])] : key[index_of(best[0])];
}

/* The rank that a group needs to take part. */
static uint64_t group_bar(const ops_route_args *a, int32_t each, choice *c)
{
    int32_t n = 0;
    for (int32_t g = 0; g < a->n_groups; g++) {
        c->group[g] = rank_of(group_key(c->key + (size_t)g * (size_t)each, each, a->rate_by_two), g);
        offer(c->best_groups, &n, a->top_groups, c->group[g]);
    }
    return c->best_groups[a->top_groups - 1];
}

static void choose(const ops_ctx *ctx, const ops_route_args *a, int32_t row, choice *c)
{
    ops_routing *r = a->routing;
    int32_t n = r->spec.n_experts, k = r->spec.top_k, found = 0, groups = a->n_groups > 1 ? a->n_groups : 1, each = n / groups;
    const float *logits = cpu_row(&a->logits, row), *bias = cpu_vec_at(&a->bias);
    float *weight = r->weight + (size_t)row * (size_t)k;
    uint64_t best[OPS_MAX_CHOSEN];
    if (a->scoring == OPS_SCORE_SOFTMAX)
        ctx->vec->softmax(logits, n, c->score);
    else if (a->scoring == OPS_SCORE_SIGMOID)
        ctx->vec->sigmoid(logits, n, c->score);
    for (int32_t e = 0; e < n; e++)
        c->key[e] = bias != NULL ? c->score[e] + bias[e] : a->rate_by_two ? c->score[e] : logits[e];
    uint64_t bar = groups > 1 ? group_bar(a, each, c) : 0;
    for (int32_t g = 0; g < groups; g++)
        for (int32_t e = g * each; e < (g + 1) * each && (groups == 1 || c->group[g] >= bar); e++)
            offer(best, &found, k, rank_of(c->key[e], e));
    for (int32_t j = 0; j < k; j++) {
        int32_t e = index_of(best[j]);
        r->expert[(size_t)row * (size_t)k + (size_t)j] = e;
        weight[j] = a->scoring == OPS_SCORE_CHOSEN ? logits[e] : c->score[e];
    }
    if (a->scoring == OPS_SCORE_CHOSEN)
        ctx->vec->softmax(weight, k, weight);
    float sum = a->renormalise ? ctx->vec->sum(weight, k) + 1e-20f : 1.0f;
    for (int32_t j = 0; j < k; j++)
        weight[j] = weight[j] / sum * a->scale;
}

static void choose_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const ops_route_args *a = arg;
    choice *c = (choice *)(void *)(a->routing->scratch + (size_t)thread * CPU_ROUTING_SCRATCH);
    for (size_t r = begin; r < end; r++)
        choose(ctx, a, (int32_t)r, c);
}

/* ---- the order ---- */

static void sort_pairs(ops_routing *r)
{
    int32_t n = r->spec.n_local, pairs = r->rows * r->spec.top_k;
    int32_t *next = r->offset; /* ends up one expert late, and is set right */
    memset(r->offset, 0, ((size_t)n + 1) * sizeof(int32_t));
    for (int32_t p = 0; p < pairs; p++) {
        uint32_t e = (uint32_t)(r->expert[p] - r->spec.expert_begin);
        if (e < (uint32_t)n)
            next[e + 1]++;
    }
    for (int32_t e = 0; e < n; e++)
        next[e + 1] += next[e];
    for (int32_t p = 0; p < pairs; p++) {
        uint32_t e = (uint32_t)(r->expert[p] - r->spec.expert_begin);
        r->place[p] = e < (uint32_t)n ? next[e]++ : -1;
        if (e < (uint32_t)n)
            r->order[r->place[p]] = p;
    }
    memmove(r->offset + 1, r->offset, (size_t)n * sizeof(int32_t));
    r->offset[0] = 0;
}

status cpu_route(ops_ctx *ctx, const ops_route_args *args)
{
    ops_routing *r = args->routing;
    TRY(ops_route_check(&r->spec, args));
    TRY(cpu_mat_check("route", "logits", &args->logits, args->rows, r->spec.n_experts));
    if (args->bias.buf != NULL && args->bias.n < r->spec.n_experts)
        return FAIL(ST_INVALID, "route: %d biases for %d experts", args->bias.n, r->spec.n_experts);
    r->rows = args->rows;
    cpu_for(ctx, (size_t)args->rows, 1, (size_t)r->spec.n_experts * 2, choose_rows, args);
    sort_pairs(r);
    return ST_OK;
}

/* ---- rows for pairs, and pairs for rows ---- */

static void dispatch_pairs(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const ops_dispatch_args *a = arg;
    const ops_routing *r = a->routing;
    float *s = cpu_scratch(ctx, thread);
    for (size_t p = begin; p < end; p++) {
        int32_t pair = r->order[p];
        float *y = a->y.type == OPS_F32 ? cpu_row(&a->y, (int32_t)p) : s;
        memcpy(y, cpu_row(&a->x, pair / r->spec.top_k), (size_t)a->x.cols * sizeof(float));
        ctx->vec->scale_add(y, a->x.cols, r->weight[pair], NULL);
        cpu_put_row(ctx, &a->y, (int32_t)p, y, 0, a->x.cols, NULL);
    }
}

status cpu_dispatch(ops_ctx *ctx, const ops_dispatch_args *args)
{
    const ops_routing *r = args->routing;
    int32_t cols = args->x.cols;
    TRY(cpu_mat_check("dispatch", "x", &args->x, r->rows, cols));
    TRY(cpu_mat_check("dispatch", "y", &args->y, r->rows * r->spec.top_k, cols));
    if (args->x.type != OPS_F32 || args->y.cols != cols || cols > ctx->max_cols)
        return FAIL(ST_INVALID, "dispatch: f32 of %d columns into %d", cols, args->y.cols);
    cpu_for(ctx, (size_t)cpu_pairs(r), 1, (size_t)cols / 4, dispatch_pairs, args);
    return ST_OK;
}

static void combine_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const ops_combine_args *a = arg;
    const ops_routing *r = a->routing;
    (void)thread;
    for (size_t row = begin; row < end; row++) {
        float *y = cpu_row(&a->y, (int32_t)row);
        if (!a->accumulate)
            memset(y, 0, (size_t)a->x.cols * sizeof(float));
        for (size_t pair = row * (size_t)r->spec.top_k; pair < (row + 1) * (size_t)r->spec.top_k; pair++)
            if (r->place[pair] >= 0)
                ctx->vec->add_scaled(a->weighed ? 1.0f : r->weight[pair], cpu_row(&a->x, r->place[pair]), a->x.cols, y);
    }
}

status cpu_combine(ops_ctx *ctx, const ops_combine_args *args)
{
    const ops_routing *r = args->routing;
    TRY(cpu_mat_check("combine", "x", &args->x, r->rows * r->spec.top_k, args->x.cols));
    TRY(cpu_mat_check("combine", "y", &args->y, r->rows, args->x.cols));
    if (args->x.type != OPS_F32 || args->y.type != OPS_F32)
        return FAIL(ST_INVALID, "combine: x and y must be f32");
    cpu_for(ctx, (size_t)r->rows, 1, (size_t)args->x.cols / 8 * (size_t)r->spec.top_k, combine_rows, args);
    return ST_OK;
}
