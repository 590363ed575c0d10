/* ops/cuda/cuda_buffer.c - device memory, host memory that the device sees, and what goes up and down.
 *
 * Host memory is copied through a ring of pinned stages: a copy from other memory would make the runtime wait.  A stage is used again when the
 * device has taken what was in it. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/cuda/cuda_internal.h"

/* ---- buffers ---- */

static void buf_add(ops_ctx *ctx, ops_buf *b)
{
    b->next = ctx->bufs;
    ctx->bufs = b;
}

static status buf_zero(ops_ctx *ctx, ops_buf *b, const char *what)
{
    void *p;
    CUDA_TRY(cudaMalloc(&p, b->bytes), "%zu bytes for %s", b->bytes, what);
    b->p = p;
    b->owned = true;
    CUDA_TRY(cudaMemsetAsync(p, 0, b->bytes, ctx->stream), "%s", what);
    return ST_OK;
}

status cuda_buf_create(ops_ctx *ctx, size_t bytes, const char *what, ops_buf **out)
{
    ops_buf *b;
    *out = NULL;
    TRY(cuda_enter(ctx));
    TRY(mem_calloc(1, sizeof(*b), what, &b));
    b->bytes = bytes;
    status st = bytes > 0 ? buf_zero(ctx, b, what) : ST_OK;
    if (st != ST_OK) {
        (void)cudaFree(b->p);
        free(b);
        return st;
    }
    buf_add(ctx, b);
    *out = b;
    return ST_OK;
}

/* Memory that the device has already is taken as it is. */
static status buf_register(ops_buf *b, void *memory)
{
    void *p;
    struct cudaPointerAttributes what = {0};
    CUDA_TRY(cudaPointerGetAttributes(&what, memory), "memory to wrap");
    if (what.type == cudaMemoryTypeDevice) {
        b->p = memory;
        return ST_OK;
    }
    b->host = memory;
    CUDA_TRY(cudaHostRegister(b->host, b->bytes, cudaHostRegisterMapped | cudaHostRegisterPortable), "%zu bytes of shared memory", b->bytes);
    b->registered = true;
    CUDA_TRY(cudaHostGetDevicePointer(&p, b->host, 0), "shared memory");
    b->p = p;
    return ST_OK;
}

status cuda_buf_wrap(ops_ctx *ctx, void *memory, size_t bytes, ops_buf **out)
{
    ops_buf *b;
    *out = NULL;
    if (memory == NULL || (uintptr_t)memory % 64 != 0 || bytes == 0)
        return FAIL(ST_INVALID, "wrapped memory must be 64-byte aligned");
    TRY(cuda_enter(ctx));
    TRY(mem_calloc(1, sizeof(*b), "buffer", &b));
    b->bytes = bytes;
    status st = buf_register(b, memory);
    if (st != ST_OK) {
        if (b->registered)
            (void)cudaHostUnregister(b->host);
        free(b);
        return st;
    }
    buf_add(ctx, b);
    *out = b;
    return ST_OK;
}

void cuda_buf_destroy(ops_ctx *ctx, ops_buf **buf)
{
    ops_buf *b = *buf;
    if (b == NULL)
        return;
    (void)cudaSetDevice(ctx->device);
    (void)cudaStreamSynchronize(ctx->stream); /* queued operations may use it */
    if (b->registered)
        (void)cudaHostUnregister(b->host);
    if (b->owned)
        (void)cudaFree(b->p);
    for (ops_buf **at = &ctx->bufs; *at != NULL; at = &(*at)->next) {
        if (*at == b) {
            *at = b->next;
            break;
        }
    }
    free(b->turned);
    free(b);
    *buf = NULL;
}

void *cuda_buf_map(ops_ctx *ctx, ops_buf *buf)
{
    (void)ctx;
    return buf->host;
}

const float *cuda_mat_part(ops_ctx *ctx, const ops_mat *m)
{
    (void)ctx;
    return (const float *)(const void *)((m->buf->host != NULL ? m->buf->host : m->buf->p) + m->offset);
}

const void *cuda_address(const ops_ctx *ctx, const void *p, size_t bytes)
{
    for (const ops_buf *b = ctx->bufs; b != NULL; b = b->next) {
        uintptr_t base = (uintptr_t)(b->host != NULL ? b->host : b->p), at = (uintptr_t)p;
        if (at >= base && at - base <= b->bytes && bytes <= b->bytes - (at - base))
            return b->p + (at - base);
    }
    return NULL;
}

/* ---- weights in another order ---- */

/* The first turned weight that ends behind this offset. */
static int32_t turned_at(const ops_buf *buf, size_t offset)
{
    int32_t lo = 0, hi = buf->n_turned;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (buf->turned[mid].offset + buf->turned[mid].bytes > offset)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

const cuda_turned *cuda_buf_turned(const ops_buf *buf, size_t offset, size_t bytes)
{
    int32_t i = turned_at(buf, offset);
    return i < buf->n_turned && buf->turned[i].offset < offset + bytes ? &buf->turned[i] : NULL;
}

status cuda_buf_turn(ops_buf *buf, const cuda_turned *t)
{
    int32_t i = turned_at(buf, t->offset);
    cuda_turned *grown = realloc(buf->turned, ((size_t)buf->n_turned + 1) * sizeof(*grown)); /* at load only */
    if (grown == NULL)
        return FAIL(ST_NO_MEMORY, "list of weights");
    memmove(grown + i + 1, grown + i, (size_t)(buf->n_turned - i) * sizeof(*grown));
    grown[i] = *t;
    buf->turned = grown;
    buf->n_turned++;
    return ST_OK;
}

/* ---- going up ---- */

static bool inside(const ops_buf *buf, size_t offset, size_t bytes)
{
    return offset <= buf->bytes && bytes <= buf->bytes - offset;
}

static status stage_take(ops_ctx *ctx, int *out)
{
    *out = ctx->next_stage;
    ctx->next_stage = (ctx->next_stage + 1) % CUDA_STAGES;
    CUDA_TRY(cudaEventSynchronize(ctx->stage_free[*out]), "a stage is to be free");
    return ST_OK;
}

static status copy_up(ops_ctx *ctx, cudaStream_t s, void *device, const void *src, size_t bytes, const char *what)
{
    for (size_t at = 0; at < bytes; at += CUDA_STAGE_BYTES) {
        size_t n = bytes - at < CUDA_STAGE_BYTES ? bytes - at : CUDA_STAGE_BYTES;
        int k;
        TRY(stage_take(ctx, &k));
        memcpy(ctx->stage[k], (const char *)src + at, n);
        CUDA_TRY(cudaMemcpyAsync((char *)device + at, ctx->stage[k], n, cudaMemcpyHostToDevice, s), "%zu bytes of %s to the device", n, what);
        CUDA_TRY(cudaEventRecord(ctx->stage_free[k], s), "%s", what);
    }
    return ST_OK;
}

status cuda_upload(ops_ctx *ctx, void *device, const void *src, size_t bytes, const char *what)
{
    return copy_up(ctx, ctx->stream, device, src, bytes, what);
}

/* What `after` does from now on follows what `before` has been given so far. */
static status follow(cudaStream_t after, cudaStream_t before, cudaEvent_t event)
{
    CUDA_TRY(cudaEventRecord(event, before), "copies and operations in their order");
    CUDA_TRY(cudaStreamWaitEvent(after, event, 0), "copies and operations in their order");
    return ST_OK;
}

status cuda_buf_write(ops_ctx *ctx, ops_buf *buf, size_t offset, const void *src, size_t bytes)
{
    if (!inside(buf, offset, bytes))
        return FAIL(ST_INVALID, "write of %zu bytes at %zu into a buffer of %zu", bytes, offset, buf->bytes);
    if (bytes == 0)
        return ST_OK;
    if (cuda_buf_turned(buf, offset, bytes) != NULL)
        return FAIL(ST_INVALID, "write of %zu bytes at %zu into a weight that was declared ready", bytes, offset);
    TRY(cuda_enter(ctx));
    if (buf->host != NULL) {
        TRY(cuda_sync(ctx));
        memcpy(buf->host + offset, src, bytes);
        return ST_OK;
    }
    TRY(follow(ctx->copies, ctx->stream, ctx->computed));
    TRY(copy_up(ctx, ctx->copies, buf->p + offset, src, bytes, "a buffer"));
    return follow(ctx->stream, ctx->copies, ctx->copied);
}

/* ---- coming down ---- */

status cuda_buf_read(ops_ctx *ctx, const ops_buf *buf, size_t offset, void *dst, size_t bytes)
{
    if (!inside(buf, offset, bytes))
        return FAIL(ST_INVALID, "read of %zu bytes at %zu from a buffer of %zu", bytes, offset, buf->bytes);
    if (bytes == 0)
        return ST_OK;
    if (cuda_buf_turned(buf, offset, bytes) != NULL)
        return FAIL(ST_INVALID, "read of %zu bytes at %zu from a weight that was declared ready", bytes, offset);
    TRY(cuda_enter(ctx));
    if (buf->host != NULL) {
        TRY(cuda_sync(ctx));
        memcpy(dst, buf->host + offset, bytes);
        return ST_OK;
    }
    TRY(follow(ctx->copies, ctx->stream, ctx->computed));
    for (size_t at = 0; at < bytes; at += CUDA_STAGE_BYTES) {
        size_t n = bytes - at < CUDA_STAGE_BYTES ? bytes - at : CUDA_STAGE_BYTES;
        int k;
        TRY(stage_take(ctx, &k));
        CUDA_TRY(cudaMemcpyAsync(ctx->stage[k], buf->p + offset + at, n, cudaMemcpyDeviceToHost, ctx->copies), "%zu bytes from the device", n);
        CUDA_TRY(cudaStreamSynchronize(ctx->copies), "reading from the device");
        memcpy((char *)dst + at, ctx->stage[k], n);
    }
    return ST_OK;
}

static status results_grow(ops_ctx *ctx, size_t bytes)
{
    TRY(cuda_sync(ctx));
    if (ctx->results != NULL)
        CUDA_TRY(cudaFreeHost(ctx->results), "results");
    ctx->results = NULL;
    ctx->results_bytes = 0;
    void *p;
    bytes = mem_align(bytes, 4096);
    CUDA_TRY(cudaHostAlloc(&p, bytes, cudaHostAllocDefault), "%zu bytes for results", bytes);
    ctx->results = p;
    ctx->results_bytes = bytes;
    return ST_OK;
}

status cuda_results_reserve(ops_ctx *ctx, size_t bytes)
{
    return bytes > ctx->results_bytes ? results_grow(ctx, bytes) : ST_OK;
}

status cuda_download(ops_ctx *ctx, const void *device, void *to, size_t bytes, const char *what)
{
    size_t room = mem_align(bytes, 64);
    if (bytes == 0)
        return ST_OK;
    if (ctx->n_pending == CUDA_PENDING)
        TRY(cuda_sync(ctx));
    if (room > ctx->results_bytes - ctx->results_used)
        TRY(results_grow(ctx, 2 * (ctx->results_used + room)));
    char *from = ctx->results + ctx->results_used;
    CUDA_TRY(cudaMemcpyAsync(from, device, bytes, cudaMemcpyDeviceToHost, ctx->stream), "%zu bytes of %s from the device", bytes, what);
    ctx->results_used += room;
    ctx->pending[ctx->n_pending++] = (cuda_pending){to, from, bytes};
    return ST_OK;
}

status cuda_sync(ops_ctx *ctx)
{
    CUDA_TRY(cudaStreamSynchronize(ctx->stream), "an operation queued before");
    for (int i = 0; i < ctx->n_pending; i++)
        memcpy(ctx->pending[i].to, ctx->pending[i].from, ctx->pending[i].bytes);
    ctx->n_pending = 0;
    ctx->results_used = 0;
    return ST_OK;
}
