/* ops/cuda/cuda_graph.c - decode steps recorded as CUDA graphs and played: a step is some ten launches a layer, which take the host longer than the device.
 *
 * A recording is made for a batch and a bucket: rows, and pieces of attention work, each rounded up to a power of two, and the rows of a piece; its launches ask the device how many there
 * are of either.  The first step of a bucket runs as ever, but with the bucket's sizes, so that all scratch is there; the second is recorded and then
 * played; later ones are played.  Scratch that has grown since makes a recording void.  A played step runs the same kernels on the same data: no bit differs. */
#include "ops/cuda/cuda_internal.h"

static void graph_drop(cuda_graph *g)
{
    if (g->exec != NULL)
        (void)cudaGraphExecDestroy(g->exec);
    g->exec = NULL;
}

void cuda_graphs_destroy(ops_ctx *ctx)
{
    for (int i = 0; i < ctx->n_graphs; i++) {
        graph_drop(&ctx->graphs[i]);
        cuda_times_destroy(&ctx->graphs[i].times);
    }
    ctx->n_graphs = 0;
}

/* NULL: there is no room for another. */
static cuda_graph *graph_of(ops_ctx *ctx, const ops_batch *b, int32_t rows, int32_t work, int32_t piece_rows, bool *seen)
{
    for (int i = 0; i < ctx->n_graphs; i++) {
        cuda_graph *g = &ctx->graphs[i];
        *seen = g->batch == b && g->rows == rows && g->work == work && g->piece_rows == piece_rows;
        if (*seen)
            return g;
    }
    *seen = false;
    if (ctx->n_graphs == CUDA_GRAPHS)
        return NULL;
    cuda_graph *g = &ctx->graphs[ctx->n_graphs++];
    *g = (cuda_graph){.batch = b, .rows = rows, .work = work, .piece_rows = piece_rows};
    return g;
}

/* Pieces of the step's longest work list, and rows of its largest piece; the lists of windows that attention was asked for so far. */
static void most_work(const ops_batch *b, int32_t *work, int32_t *piece_rows)
{
    *work = *piece_rows = 0;
    for (int i = 0; i < b->n_windows; i++) {
        const gpu_attention_list *l = b->windows[i].pinned[b->which];
        *work = l->n_work > *work ? l->n_work : *work;
        *piece_rows = l->most_rows > *piece_rows ? l->most_rows : *piece_rows;
    }
}

/* What the operations look at on the host before they launch. */
static status check_blocks(ops_batch *b)
{
    for (int i = 0; i < b->n_windows; i++) {
        for (int32_t g = 0; g < b->limits.n_kv_groups; g++) {
            cuda_window *w = &b->windows[i];
            if (w->kv_blocks[g] > 0)
                TRY(cuda_batch_check_read(b, w, g, w->kv_blocks[g]));
        }
    }
    return ST_OK;
}

static status play(ops_ctx *ctx, cuda_graph *g)
{
    TRY(cuda_times_before_play(ctx, g));
    CUDA_TRY(cudaGraphLaunch(g->exec, ctx->stream), "a step of %d rows", g->rows);
    return cuda_times_after_play(ctx, g);
}

status cuda_graph_begin(ops_ctx *ctx, ops_batch *b, bool *played)
{
    bool seen;
    int32_t work, piece_rows;
    *played = false;
    most_work(b, &work, &piece_rows);
    work = ops_graph_rows(work); /* rounded up alike */
    int32_t rows = ops_graph_rows(b->n_rows);
    if (b->n_rows == 0 || b->n_windows == 0 || rows > b->limits.max_rows || rows > ctx->max_rows) /* before the first attention the lists are not known */
        return ST_OK;
    cuda_graph *g = graph_of(ctx, b, rows, work, piece_rows, &seen);
    if (g == NULL)
        return ST_OK;
    if (g->exec != NULL && g->memory == ctx->memory) {
        TRY(check_blocks(b));
        TRY(play(ctx, g));
        *played = true;
        return ST_OK;
    }
    TRY(cuda_times_before_play(ctx, g));
    graph_drop(g);
    ctx->graph_batch = b;
    ctx->graph = g;
    if (!seen || g->memory != ctx->memory) /* once without recording, so that scratch is there */
        return ST_OK;
    CUDA_TRY(cudaStreamBeginCapture(ctx->stream, cudaStreamCaptureModeThreadLocal), "a step of %d rows", b->n_rows);
    ctx->recording = true;
    g->times.n = 0;
    return ST_OK;
}

static status instantiate(cuda_graph *g, cudaGraph_t graph)
{
    cudaGraphExec_t exec;
    CUDA_TRY(cudaGraphInstantiate(&exec, graph, 0), "a step of %d rows", g->rows);
    g->exec = exec;
    return ST_OK;
}

status cuda_graph_end(ops_ctx *ctx)
{
    cuda_graph *g = ctx->graph;
    bool recording = ctx->recording;
    cudaGraph_t graph;
    if (ctx->graph_batch == NULL)
        return ST_OK;
    ctx->graph_batch = NULL;
    ctx->recording = false;
    g->memory = ctx->memory;
    if (!recording)
        return ST_OK;
    CUDA_TRY(cudaStreamEndCapture(ctx->stream, &graph), "a step of %d rows", g->rows);
    status st = instantiate(g, graph);
    (void)cudaGraphDestroy(graph);
    TRY(st);
    return play(ctx, g);
}
