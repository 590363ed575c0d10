/* ops/cuda/cuda.c - the CUDA backend's table; contexts; what a failed call means. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "ops/cuda/cuda_internal.h"

/* ---- errors ---- */

typedef struct meaning {
    cudaError_t error;
    status st;
    const char *remedy;
} meaning;

static const meaning meanings[] = {
    {cudaErrorMemoryAllocation, ST_NO_MEMORY, "give a smaller --memory, --ctx, --max-seqs or --max-batched-tokens, a smaller --kv-type, or use more ranks"},
    {cudaErrorNoDevice, ST_UNSUPPORTED, "there is no device: is CUDA_VISIBLE_DEVICES right? --device cpu computes without one"},
    {cudaErrorInvalidDevice, ST_UNSUPPORTED, "there is no such device: is CUDA_VISIBLE_DEVICES the same for every rank?"},
    {cudaErrorInsufficientDriver, ST_UNSUPPORTED, "the driver is older than the CUDA this program was built with: update it, or use --device cpu"},
    {cudaErrorNoKernelImageForDevice, ST_UNSUPPORTED, "this build has no code for this device: build it for the device's architecture, or use --device cpu"},
    {cudaErrorDevicesUnavailable, ST_BUSY, "another process holds the device alone (nvidia-smi shows its compute mode)"},
    {cudaErrorNotSupported, ST_UNSUPPORTED, "this device or system cannot do that; --device cpu computes without it"},
    {cudaErrorHostMemoryAlreadyRegistered, ST_INTERNAL, "the same memory was given twice: please report it"},
    {cudaErrorECCUncorrectable, ST_IO, "the device's memory is damaged: see `nvidia-smi -q -d ECC`, and use another device"},
    {cudaErrorInvalidValue, ST_INTERNAL, "an argument that the device refuses: please report it"},
    {cudaErrorInvalidConfiguration, ST_INTERNAL, "a launch that the device refuses: please report it"},
    {cudaErrorLaunchOutOfResources, ST_INTERNAL, "a launch that the device has too few registers for: please report it"},
};
static const char broken[] = "the device's work was lost and this process cannot use it any more: start it again; the system's log (dmesg, Xid) may say why, and "
                             "CUDA_LAUNCH_BLOCKING=1 names the kernel";

status cuda_failed(cudaError_t e, const char *file, int line, const char *call, const char *what, ...)
{
    char subject[256];
    va_list args;
    va_start(args, what);
    vsnprintf(subject, sizeof(subject), what, args);
    va_end(args);
    (void)cudaGetLastError();
    meaning m = {e, ST_INTERNAL, broken};
    for (size_t i = 0; i < ARRAY_LEN(meanings); i++) {
        if (meanings[i].error == e)
            m = meanings[i];
    }
    char room[80] = "";
    size_t free_bytes, total;
    if (e == cudaErrorMemoryAllocation && cudaMemGetInfo(&free_bytes, &total) == cudaSuccess)
        snprintf(room, sizeof(room), "of the device's %zu MiB %zu are free; ", total >> 20, free_bytes >> 20);
    int name = (int)strcspn(call, "(");
    return status_fail(m.st, file, line, "%.*s, %s: %s (%s); %s%s", name, call, subject, cudaGetErrorString(e), cudaGetErrorName(e), room, m.remedy);
}

/* ---- contexts ---- */

status cuda_enter(ops_ctx *ctx)
{
    CUDA_TRY(cudaSetDevice(ctx->device), "device %d", ctx->device);
    return ST_OK;
}

status cuda_block_grow(ops_ctx *ctx, cuda_block *b, size_t bytes, const char *what)
{
    if (bytes <= b->bytes)
        return ST_OK;
    if (ctx->recording)
        return FAIL(ST_INTERNAL, "%s grows while a step is recorded", what);
    if (b == &ctx->quantise || b == &ctx->linear || b == &ctx->product || b == &ctx->codes || b == &ctx->attention) /* recordings name them */
        ctx->memory++;
    if (b->p != NULL) { /* operations that are queued may still use it */
        CUDA_TRY(cudaStreamSynchronize(ctx->stream), "before %s grows", what);
        CUDA_TRY(cudaFree(b->p), "%s", what);
        *b = (cuda_block){0};
    }
    CUDA_TRY(cudaMalloc(&b->p, bytes), "%zu bytes for %s", bytes, what);
    b->bytes = bytes;
    return ST_OK;
}

/* Work that is under way ends first.  What fails here has been told, or tells nothing new. */
static void ctx_destroy(ops_ctx **out)
{
    ops_ctx *ctx = *out;
    if (ctx == NULL)
        return;
    (void)cudaSetDevice(ctx->device);
    if (ctx->stream != NULL)
        (void)cudaStreamSynchronize(ctx->stream);
    cuda_graphs_destroy(ctx);
    for (int i = 0; i < CUDA_TIME_SETS; i++)
        cuda_times_destroy(&ctx->times[i]);
    if (ctx->copies != NULL)
        (void)cudaStreamSynchronize(ctx->copies);
#ifdef CUDA_BLASLT
    cuda_blaslt_destroy(ctx);
#endif
    void *const device[] = {ctx->quantise.p, ctx->linear.p, ctx->product.p, ctx->codes.p, ctx->attention.p, ctx->sample.p, ctx->sample_in.p, ctx->sample_out.p, ctx->sums};
    for (size_t i = 0; i < ARRAY_LEN(device); i++)
        (void)cudaFree(device[i]);
    for (int i = 0; i < CUDA_STAGES; i++) {
        if (ctx->stage[i] != NULL)
            (void)cudaFreeHost(ctx->stage[i]);
        if (ctx->stage_free[i] != NULL)
            (void)cudaEventDestroy(ctx->stage_free[i]);
    }
    if (ctx->results != NULL)
        (void)cudaFreeHost(ctx->results);
    if (ctx->computed != NULL)
        (void)cudaEventDestroy(ctx->computed);
    if (ctx->copied != NULL)
        (void)cudaEventDestroy(ctx->copied);
    if (ctx->stream != NULL)
        (void)cudaStreamDestroy(ctx->stream);
    if (ctx->copies != NULL)
        (void)cudaStreamDestroy(ctx->copies);
    (void)cudaGetLastError();
    free(ctx);
    *out = NULL;
}

static status streams_create(ops_ctx *ctx)
{
    CUDA_TRY(cudaStreamCreateWithFlags(&ctx->stream, cudaStreamNonBlocking), "for operations");
    CUDA_TRY(cudaStreamCreateWithFlags(&ctx->copies, cudaStreamNonBlocking), "for copies");
    CUDA_TRY(cudaEventCreateWithFlags(&ctx->computed, cudaEventDisableTiming), "of the operations");
    CUDA_TRY(cudaEventCreateWithFlags(&ctx->copied, cudaEventDisableTiming), "of the copies");
    for (int i = 0; i < CUDA_STAGES; i++) {
        void *p;
        CUDA_TRY(cudaHostAlloc(&p, CUDA_STAGE_BYTES, cudaHostAllocDefault), "%zu bytes of staging", CUDA_STAGE_BYTES);
        ctx->stage[i] = p;
        CUDA_TRY(cudaEventCreateWithFlags(&ctx->stage_free[i], cudaEventDisableTiming), "of staging");
    }
    void *sums;
    CUDA_TRY(cudaMalloc(&sums, (size_t)ctx->max_rows * (CUDA_PENDING + 2) * sizeof(float)), "sums of squares");
    ctx->sums = sums;
    return ST_OK;
}

static status describe(ops_ctx *ctx)
{
    struct cudaDeviceProp p;
    CUDA_TRY(cudaGetDeviceProperties(&p, ctx->device), "device %d", ctx->device);
    if (p.major < 8)
        return FAIL(ST_UNSUPPORTED, "device %d, %s, has compute capability %d.%d, and 8.0 is the least that is supported: use --device cpu", ctx->device, p.name, p.major,
                    p.minor);
    ctx->capability = p.major * 10 + p.minor;
    snprintf(ctx->description, sizeof(ctx->description), "cuda%s device %d, %.64s, sm_%d%d, %.1f GiB", cuda_emulated ? " EMULATED" : "", ctx->device, p.name, p.major, p.minor,
             (double)p.totalGlobalMem / (1 << 30));
    /* One order of sums whatever the number of rows; another architecture may have another. */
    snprintf(ctx->numerics_name, sizeof(ctx->numerics_name), "cuda 1 %s%d%d", cuda_emulated ? "emulated sm_" : "sm_", p.major, p.minor);
    return ST_OK;
}

/* Who multiplies by bf16 weights. */
static status gemm_choose(ops_ctx *ctx, const char *gemm)
{
    if (gemm != NULL && strcmp(gemm, "auto") != 0 && strcmp(gemm, "own") != 0 && strcmp(gemm, "cublaslt") != 0)
        return FAIL(ST_INVALID, "products by \"%s\": auto, own or cublaslt", gemm);
#ifdef CUDA_BLASLT
    return cuda_blaslt_create(ctx, gemm != NULL ? gemm : "auto");
#else
    (void)ctx;
    return gemm == NULL || strcmp(gemm, "cublaslt") != 0 ? ST_OK : FAIL(ST_UNSUPPORTED, "this build knows no cuBLASLt (cublasLt.h was missing): the own kernels compute without it");
#endif
}

static status ctx_create(const ops_ctx_options *options, ops_ctx **out)
{
    status st;
    *out = NULL;
    if (options->max_rows < 1 || options->max_cols < 1 || options->max_cols > (1 << 28))
        return FAIL(ST_INVALID, "a context for steps of %d rows of %d", options->max_rows, options->max_cols);
    ops_ctx *ctx;
    TRY(mem_calloc(1, sizeof(*ctx), "CUDA backend", &ctx));
    ctx->device = options->device;
    ctx->max_rows = options->max_rows;
    ctx->max_cols = options->max_cols;
    TRY_GOTO(cuda_enter(ctx), err);
    TRY_GOTO(describe(ctx), err);
    TRY_GOTO(streams_create(ctx), err);
    CUDA_TRY_GOTO(k_attention_init(), err, "shared memory of attention");
    TRY_GOTO(gemm_choose(ctx, options->gemm), err);
    *out = ctx;
    return ST_OK;
err:
    ctx_destroy(&ctx);
    return st;
}

static const char *ctx_describe(const ops_ctx *ctx)
{
    return ctx->description;
}

static const char *numerics(const ops_ctx *ctx)
{
    return ctx->numerics_name;
}

/* ---- devices ---- */

static int devices(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void)cudaGetLastError();
        return 0;
    }
    return n;
}

static status device_info(int device, ops_device_info *out)
{
    struct cudaDeviceProp p;
    *out = (ops_device_info){0};
    CUDA_TRY(cudaSetDevice(device), "device %d", device);
    CUDA_TRY(cudaGetDeviceProperties(&p, device), "device %d", device);
    CUDA_TRY(cudaMemGetInfo(&out->free_bytes, &out->total_bytes), "device %d", device);
    snprintf(out->name, sizeof(out->name), "%.63s", p.name);
    snprintf(out->pci, sizeof(out->pci), "%04x:%02x:%02x.0", (unsigned)p.pciDomainID & 0xffff, (unsigned)p.pciBusID & 0xff, (unsigned)p.pciDeviceID & 0xff);
    memcpy(out->id, &p.uuid, sizeof(out->id) < sizeof(p.uuid) ? sizeof(out->id) : sizeof(p.uuid));
    return ST_OK;
}

static void *stream(ops_ctx *ctx)
{
    return ctx->stream;
}

/* ---- steps ---- */

static void step_begin(ops_ctx *ctx, bool lent)
{
    (void)lent;
    (void)cuda_enter(ctx); /* batch_set came before, and would have failed */
}

static void step_end(ops_ctx *ctx)
{
    (void)ctx;
}

/* ---- memory ahead of need ---- */

static void reserve_begin(ops_ctx *ctx)
{
    (void)cuda_enter(ctx); /* what allocates tells */
    ctx->reserving = true;
}

static void reserve_end(ops_ctx *ctx)
{
    ctx->reserving = false;
}

#ifdef CUDA_COLLECTIVES
extern const struct comm_device_ops comm_cuda; /* comm/nccl/ */
#endif

const ops_backend *cuda_backend(void)
{
    static const ops_backend table = {
        .name = "cuda",
        .devices = devices,
        .device_info = device_info,
        .ctx_create = ctx_create,
        .ctx_destroy = ctx_destroy,
        .ctx_describe = ctx_describe,
        .numerics = numerics,
        .buf_create = cuda_buf_create,
        .buf_wrap = cuda_buf_wrap,
        .buf_destroy = cuda_buf_destroy,
        .buf_write = cuda_buf_write,
        .buf_read = cuda_buf_read,
#ifdef CUDA_BLASLT
        .weight_ready = cuda_weight_ready,
#endif
        .buf_map = cuda_buf_map,
        .mat_part = cuda_mat_part,
        .stream = stream,
#ifdef CUDA_COLLECTIVES
        .collectives = &comm_cuda,
#endif
        .linear_input = cuda_linear_input,
        .batch_create = cuda_batch_create,
        .batch_destroy = cuda_batch_destroy,
        .batch_set = cuda_batch_set,
        .kv_block_bytes = cuda_kv_block_bytes,
        .kv_create = cuda_kv_create,
        .kv_destroy = cuda_kv_destroy,
        .kv_copy_block = cuda_kv_copy_block,
        .routing_create = cuda_routing_create,
        .routing_destroy = cuda_routing_destroy,
        .embed = cuda_embed,
        .norm = cuda_norm,
        .linear = cuda_linear,
        .sumsq = cuda_sumsq,
        .qkv = cuda_qkv,
        .attention = cuda_attention,
        .gate = cuda_gate,
        .route = cuda_route,
        .dispatch = cuda_dispatch,
        .experts = cuda_experts,
        .combine = cuda_combine,
        .sample = cuda_sample,
        .graph_begin = cuda_graph_begin,
        .graph_end = cuda_graph_end,
        .time_mark = cuda_time_mark,
        .time_read = cuda_time_read,
        .reserve_begin = reserve_begin,
        .reserve_end = reserve_end,
        .step_begin = step_begin,
        .step_end = step_end,
        .sync = cuda_sync,
    };
    return &table;
}
