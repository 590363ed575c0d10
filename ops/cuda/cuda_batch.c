/* ops/cuda/cuda_batch.c - one step's description: checked, packed into pinned memory, sent in one copy.
 *
 *   device   [gpu_step][tokens][positions][row_span][spans][out_rows][own_freq][table of group 0][table of group 1] ...   packed anew for each step
 *            [gpu_attention_list]                       one for each window that attention was ever asked for
 *            [inv_freq of the sets][rope tables]        written once; written by each step
 *
 * gpu_step and the work lists stay where they are for the batch's life, what gpu_step points to moves with the sizes of the step: kernels find it there.
 * Two pinned copies are filled in turn: while the device takes one step's, the next one's is written. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/check.h"
#include "ops/cuda/cuda_internal.h"

enum { ALIGN = 256 };

/* Places in the block that the device gets; with base NULL they are only counted. */
typedef struct packer {
    char *base;
    size_t at;
    bool overflow;
} packer;

static size_t place(packer *p, size_t n, size_t size)
{
    size_t bytes, end, at = p->at;
    if (!mem_mul(n, size, &bytes) || !mem_add(bytes, ALIGN - 1, &bytes) || !mem_add(at, bytes & ~(size_t)(ALIGN - 1), &end)) {
        p->overflow = true;
        return 0;
    }
    p->at = end;
    return at;
}

static size_t own_freq_floats(const ops_batch_limits *l)
{
    size_t n = 0;
    for (int32_t r = 0; r < l->n_ropes; r++)
        n += (size_t)l->ropes[r].dims / 2;
    return n;
}

static size_t bytes_at_most(const ops_batch_limits *l, bool *overflow)
{
    packer p = {0};
    size_t rows = (size_t)l->max_rows, spans = (size_t)l->max_spans;
    place(&p, 1, sizeof(gpu_step));
    for (int i = 0; i < 3; i++)
        place(&p, rows, sizeof(int32_t));
    place(&p, spans, sizeof(gpu_span));
    place(&p, (size_t)l->max_out, sizeof(int32_t));
    place(&p, spans * own_freq_floats(l), sizeof(float));
    for (int32_t g = 0; g < l->n_kv_groups; g++)
        place(&p, (size_t)l->max_blocks, sizeof(int32_t));
    *overflow = p.overflow;
    return p.at;
}

/* ---- life ---- */

static status rope_floats(const ops_batch_limits *l, size_t *out)
{
    size_t all = 0;
    for (int32_t r = 0; r < l->n_ropes; r++) {
        size_t half = mem_align((size_t)l->ropes[r].dims / 2, 64), table;
        if (!mem_mul(2 * half, (size_t)l->max_rows, &table) || !mem_add(table, 2 * half, &table) || !mem_add(all, table, &all))
            return FAIL(ST_INVALID, "rope tables of %d rows: impossible size", l->max_rows);
    }
    *out = all;
    return ST_OK;
}

static status ropes_create(ops_ctx *ctx, ops_batch *b)
{
    size_t floats = 0;
    void *p;
    TRY(rope_floats(&b->limits, &floats));
    if (floats == 0)
        return ST_OK;
    CUDA_TRY(cudaMalloc(&p, floats * sizeof(float)), "rope tables");
    b->rope_memory = p;
    float *at = p;
    for (int32_t r = 0; r < b->limits.n_ropes; r++) {
        ops_rope_spec *s = &b->limits.ropes[r];
        size_t half = mem_align((size_t)s->dims / 2, 64);
        b->ropes[r] = (gpu_rope){.dims = s->dims, .n_sets = s->n_sets};
        for (int32_t set = 0; set < s->n_sets; set++) {
            float *freq = at + (size_t)set * half;
            TRY(cuda_upload(ctx, freq, s->inv_freq[set], (size_t)s->dims / 2 * sizeof(float), "rope frequencies"));
            b->ropes[r].inv_freq[set] = freq;
            b->ropes[r].attention_factor[set] = s->attention_factor[set];
            s->inv_freq[set] = NULL; /* the caller's */
        }
        b->ropes[r].table = at + 2 * half;
        at += 2 * half + 2 * half * (size_t)b->limits.max_rows;
    }
    return ST_OK;
}

static status memory_create(ops_ctx *ctx, ops_batch *b)
{
    bool overflow;
    void *p;
    b->bytes = bytes_at_most(&b->limits, &overflow);
    if (overflow)
        return FAIL(ST_INVALID, "a batch of %d rows, %d blocks: impossible size", b->limits.max_rows, b->limits.max_blocks);
    CUDA_TRY(cudaMalloc(&p, b->bytes), "%zu bytes for a step's description", b->bytes);
    b->device = p;
    CUDA_TRY(cudaMemsetAsync(p, 0, sizeof(gpu_step), ctx->stream), "a step's description");
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaHostAlloc(&p, b->bytes, cudaHostAllocDefault), "%zu bytes for a step's description", b->bytes);
        b->pinned[i] = p;
        CUDA_TRY(cudaEventCreateWithFlags(&b->used[i], cudaEventDisableTiming), "of a step's description");
    }
    TRY(mem_calloc((size_t)b->limits.max_spans + 1, sizeof(*b->spans), "batch", &b->spans));
    return ropes_create(ctx, b);
}

status cuda_batch_create(ops_ctx *ctx, const ops_batch_limits *limits, ops_batch **out)
{
    status st;
    *out = NULL;
    TRY(ops_batch_limits_check(limits));
    TRY(cuda_enter(ctx));
    ops_batch *b;
    TRY(mem_calloc(1, sizeof(*b), "batch", &b));
    b->limits = *limits;
    int64_t context = limits->max_context > 0 ? limits->max_context : (int64_t)limits->max_blocks * OPS_KV_BLOCK;
    b->max_slots = gpu_attention_max_slots(limits->max_rows, context);
    b->list_bytes = gpu_attention_list_bytes(limits->max_rows, limits->max_spans);
    TRY_GOTO(memory_create(ctx, b), err);
    *out = b;
    return ST_OK;
err:
    cuda_batch_destroy(ctx, &b);
    return st;
}

void cuda_batch_destroy(ops_ctx *ctx, ops_batch **batch)
{
    ops_batch *b = *batch;
    if (b == NULL)
        return;
    (void)cudaSetDevice(ctx->device);
    (void)cudaStreamSynchronize(ctx->stream);
    ctx->memory++; /* recordings name it */
    (void)cudaFree(b->device);
    (void)cudaFree(b->rope_memory);
    for (int i = 0; i < b->n_windows; i++) {
        (void)cudaFree(b->windows[i].list);
        for (int k = 0; k < 2; k++) {
            if (b->windows[i].pinned[k] != NULL)
                (void)cudaFreeHost(b->windows[i].pinned[k]);
        }
    }
    for (int k = 0; k < 2; k++) {
        if (b->pinned[k] != NULL)
            (void)cudaFreeHost(b->pinned[k]);
        if (b->used[k] != NULL)
            (void)cudaEventDestroy(b->used[k]);
    }
    free(b->spans);
    free(b);
    *batch = NULL;
}

/* ---- a step ---- */

static size_t put(packer *p, const void *src, size_t n, size_t size)
{
    size_t at = place(p, n, size);
    if (n > 0)
        memcpy(p->base + at, src, n * size);
    return at;
}

/* The spans, and the frequencies that some bring; *freq: where those lie. */
static size_t put_spans(packer *p, const ops_batch *b, size_t *freq)
{
    size_t n = 0, at = place(p, (size_t)b->n_spans, sizeof(gpu_span));
    *freq = p->at; /* the last array of unknown length: ended below */
    gpu_span *out = (gpu_span *)(void *)(p->base + at);
    float *own = (float *)(void *)(p->base + *freq);
    for (int32_t i = 0; i < b->n_spans; i++) {
        const ops_span *s = &b->spans[i];
        out[i] = (gpu_span){.row = s->row, .n_rows = s->n_rows, .position = s->position, .rope_set = s->rope_set};
        memcpy(out[i].table, s->table, sizeof(out[i].table));
        for (int32_t r = 0; r < OPS_MAX_ROPES; r++) {
            out[i].own_freq[r] = -1;
            if (r >= b->limits.n_ropes || s->inv_freq[r] == NULL)
                continue;
            size_t half = (size_t)b->limits.ropes[r].dims / 2;
            memcpy(own + n, s->inv_freq[r], half * sizeof(float));
            out[i].own_freq[r] = (int32_t)n;
            n += half;
        }
    }
    place(p, n, sizeof(float));
    return at;
}

static void put_rows(packer *p, const ops_batch *b, size_t *positions, size_t *row_span)
{
    *positions = place(p, (size_t)b->n_rows, sizeof(int32_t));
    *row_span = place(p, (size_t)b->n_rows, sizeof(int32_t));
    int32_t *at = (int32_t *)(void *)(p->base + *positions), *span = (int32_t *)(void *)(p->base + *row_span);
    for (int32_t i = 0; i < b->n_spans; i++) {
        for (int32_t j = 0; j < b->spans[i].n_rows; j++) {
            at[b->spans[i].row + j] = b->spans[i].position + j;
            span[b->spans[i].row + j] = i;
        }
    }
}

static size_t pack(ops_batch *b, const ops_batch_desc *d)
{
    packer p = {.base = b->pinned[b->which]};
    size_t positions, row_span, freq;
    gpu_step *step = (gpu_step *)(void *)(p.base + place(&p, 1, sizeof(gpu_step)));
    size_t tokens = put(&p, d->tokens, (size_t)d->n_rows, sizeof(int32_t));
    put_rows(&p, b, &positions, &row_span);
    size_t out_rows = put(&p, d->out_rows, (size_t)d->n_out, sizeof(int32_t));
    size_t spans = put_spans(&p, b, &freq);
    const char *dev = b->device;
    *step = (gpu_step){
        .n_rows = d->n_rows,
        .n_spans = d->n_spans,
        .n_out = d->n_out,
        .tokens = (const int32_t *)(const void *)(dev + tokens),
        .positions = (const int32_t *)(const void *)(dev + positions),
        .row_span = (const int32_t *)(const void *)(dev + row_span),
        .spans = (const gpu_span *)(const void *)(dev + spans),
        .out_rows = (const int32_t *)(const void *)(dev + out_rows),
        .own_freq = (const float *)(const void *)(dev + freq),
    };
    for (int32_t g = 0; g < b->limits.n_kv_groups; g++) {
        size_t at = put(&p, d->tables[g], (size_t)d->n_table[g], sizeof(int32_t));
        step->tables[g] = (const int32_t *)(const void *)(dev + at);
        b->tables[g] = (const int32_t *)(const void *)(p.base + at);
        b->n_table[g] = d->n_table[g];
    }
    for (int32_t r = 0; r < b->limits.n_ropes; r++)
        step->rope[r] = b->ropes[r].table;
    return p.at;
}

/* ---- attention's work lists ---- */

static status window_fill(ops_ctx *ctx, ops_batch *b, cuda_window *w)
{
    ops_batch_desc d = {.n_rows = b->n_rows, .n_spans = b->n_spans, .spans = b->spans};
    gpu_attention_list *pinned = w->pinned[b->which];
    size_t bytes = gpu_attention_list_make(&d, w->window, b->limits.max_rows, b->max_slots, pinned);
    if (bytes > b->list_bytes)
        return FAIL(ST_INTERNAL, "attention of a step of %d rows: a work list of %zu bytes, at most %zu", b->n_rows, bytes, b->list_bytes);
    memset(w->checked, 0, sizeof(w->checked));
    CUDA_TRY(cudaMemcpyAsync(w->list, pinned, bytes, cudaMemcpyHostToDevice, ctx->stream), "attention's work list");
    return ST_OK;
}

static status window_create(const ops_batch *b, cuda_window *w)
{
    void *p;
    CUDA_TRY(cudaMalloc(&p, b->list_bytes), "%zu bytes for attention's work list", b->list_bytes);
    w->list = p;
    for (int k = 0; k < 2; k++) {
        CUDA_TRY(cudaHostAlloc(&p, b->list_bytes, cudaHostAllocDefault), "%zu bytes for attention's work list", b->list_bytes);
        w->pinned[k] = p;
    }
    return ST_OK;
}

status cuda_batch_window(ops_ctx *ctx, ops_batch *b, int32_t window, cuda_window **out)
{
    for (int i = 0; i < b->n_windows; i++) {
        if (b->windows[i].window == window) {
            *out = &b->windows[i];
            return ST_OK;
        }
    }
    if (b->n_windows == CUDA_WINDOWS)
        return FAIL(ST_LIMIT, "attention with more than %d different windows", CUDA_WINDOWS);
    if (ctx->recording)
        return FAIL(ST_INTERNAL, "attention with a window of %d comes first while a step is recorded", window);
    cuda_window *w = &b->windows[b->n_windows++];
    *w = (cuda_window){.window = window};
    status st = window_create(b, w);
    if (st == ST_OK)
        st = window_fill(ctx, b, w);
    if (st == ST_OK)
        CUDA_TRY(cudaEventRecord(b->used[b->which], ctx->stream), "a step's description");
    *out = w;
    return st;
}

/* The blocks it was told of come from outside: none is used before this has looked at it. */
status cuda_batch_check_read(const ops_batch *b, cuda_window *w, int32_t kv_group, int64_t n_blocks)
{
    if (w->checked[kv_group])
        return ST_OK;
    for (int32_t i = 0; i < b->n_spans; i++) {
        const ops_span *s = &b->spans[i];
        const int32_t *table = b->tables[kv_group] + s->table[kv_group];
        int32_t first = w->window > 0 && s->position >= w->window ? (s->position - w->window + 1) / OPS_KV_BLOCK : 0;
        for (int32_t j = first; j <= (s->position + s->n_rows - 1) / OPS_KV_BLOCK; j++) {
            if (table[j] < 0 || table[j] >= n_blocks)
                return FAIL(ST_INVALID, "attention: a block table names a KV block beyond the cache's %lld", (long long)n_blocks);
        }
    }
    w->checked[kv_group] = true;
    return ST_OK;
}

status cuda_batch_set(ops_ctx *ctx, ops_batch *b, const ops_batch_desc *d)
{
    TRY(ops_batch_check(&b->limits, d));
    TRY(cuda_enter(ctx));
    b->which ^= 1;
    CUDA_TRY(cudaEventSynchronize(b->used[b->which]), "the step before the last one is to be over");
    b->n_rows = d->n_rows;
    b->n_spans = d->n_spans;
    b->n_out = d->n_out;
    if (d->n_spans > 0)
        memcpy(b->spans, d->spans, (size_t)d->n_spans * sizeof(*b->spans));
    size_t bytes = pack(b, d);
    CUDA_TRY(cudaMemcpyAsync(b->device, b->pinned[b->which], bytes, cudaMemcpyHostToDevice, ctx->stream), "a step's description");
    for (int i = 0; i < b->n_windows; i++)
        TRY(window_fill(ctx, b, &b->windows[i]));
    CUDA_TRY(cudaEventRecord(b->used[b->which], ctx->stream), "a step's description");
    for (int32_t r = 0; r < b->limits.n_ropes && b->n_rows > 0; r++) {
        if (b->ropes[r].dims > 0)
            CUDA_TRY(k_rope_table(cuda_step(b), b->n_rows, r, &b->ropes[r], ctx->stream), "rope tables of %d rows", b->n_rows);
    }
    return ST_OK;
}
