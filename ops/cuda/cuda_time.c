/* ops/cuda/cuda_time.c - how long the device was at what, by events between the operations.
 *
 * A set holds the marks of one step, or of one recording, where they are nodes that record again at each play.  An event from mark to mark costs the device about a microsecond, so
 * that only who measures asks for it.  Sets are read when they are wanted again, or when somebody asks. */
#include <stdlib.h>

#include "base/mem.h"
#include "ops/cuda/cuda_internal.h"

static status set_grow(cuda_times *t)
{
    if (t->n < t->cap)
        return ST_OK;
    int32_t cap = t->cap == 0 ? 64 : 2 * t->cap;
    cuda_mark *marks = realloc(t->marks, (size_t)cap * sizeof(*marks));
    if (marks == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for %d times", cap);
    t->marks = marks;
    for (; t->cap < cap; t->cap++)
        marks[t->cap] = (cuda_mark){0};
    return ST_OK;
}

/* What is queued so far is what the set times. */
static status set_end(ops_ctx *ctx, cuda_times *t)
{
    if (t->over == NULL)
        CUDA_TRY(cudaEventCreateWithFlags(&t->over, cudaEventDisableTiming), "times");
    CUDA_TRY(cudaEventRecord(t->over, ctx->stream), "times");
    t->pending = true;
    return ST_OK;
}

static status set_read(ops_ctx *ctx, cuda_times *t)
{
    if (!t->pending)
        return ST_OK;
    t->pending = false;
    CUDA_TRY(cudaEventSynchronize(t->over), "times");
    for (int32_t i = 0; i + 1 < t->n; i++) {
        float ms;
        if (t->marks[i].what < 0)
            continue;
        CUDA_TRY(cudaEventElapsedTime(&ms, t->marks[i].event, t->marks[i + 1].event), "times");
        ctx->seconds[t->marks[i].what] += (double)ms * 1e-3;
    }
    return ST_OK;
}

void cuda_times_destroy(cuda_times *t)
{
    for (int32_t i = 0; i < t->cap; i++) {
        if (t->marks[i].event != NULL)
            (void)cudaEventDestroy(t->marks[i].event);
    }
    if (t->over != NULL)
        (void)cudaEventDestroy(t->over);
    free(t->marks);
    *t = (cuda_times){0};
}

static status mark(ops_ctx *ctx, int32_t what)
{
    cuda_times *t = ctx->recording ? &ctx->graph->times : &ctx->times[ctx->which_times];
    if (!ctx->recording && t->pending) { /* of some steps ago */
        TRY(set_read(ctx, t));
        t->n = 0;
    }
    if (!ctx->recording)
        TRY(cuda_enter(ctx)); /* the first thing a step does */
    TRY(set_grow(t));
    cuda_mark *m = &t->marks[t->n];
    if (m->event == NULL)
        CUDA_TRY(cudaEventCreateWithFlags(&m->event, cudaEventDefault), "times");
    m->what = what;
    CUDA_TRY(cudaEventRecordWithFlags(m->event, ctx->stream, ctx->recording ? cudaEventRecordExternal : cudaEventRecordDefault), "times");
    t->n++;
    if (what >= 0 || ctx->recording)
        return ST_OK;
    ctx->which_times = (ctx->which_times + 1) % CUDA_TIME_SETS;
    return set_end(ctx, t);
}

void cuda_time_mark(ops_ctx *ctx, int32_t what)
{
    if (ctx->times_failed == ST_OK && what < OPS_TIMES)
        ctx->times_failed = mark(ctx, what);
}

status cuda_time_read(ops_ctx *ctx, double seconds[OPS_TIMES])
{
    TRY(ctx->times_failed);
    TRY(cuda_enter(ctx));
    for (int i = 0; i < CUDA_TIME_SETS; i++) {
        bool read = ctx->times[i].pending;
        TRY(set_read(ctx, &ctx->times[i]));
        if (read)
            ctx->times[i].n = 0;
    }
    for (int i = 0; i < ctx->n_graphs; i++)
        TRY(set_read(ctx, &ctx->graphs[i].times));
    for (int i = 0; i < OPS_TIMES; i++)
        seconds[i] = ctx->seconds[i];
    return ST_OK;
}

status cuda_times_before_play(ops_ctx *ctx, cuda_graph *g)
{
    return set_read(ctx, &g->times);
}

status cuda_times_after_play(ops_ctx *ctx, cuda_graph *g)
{
    return g->times.n > 0 ? set_end(ctx, &g->times) : ST_OK;
}
