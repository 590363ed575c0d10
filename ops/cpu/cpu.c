/* ops/cpu/cpu.c - the CPU backend's table; contexts and buffers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/cpu/cpu_vec.h"

static const cpu_vec_kernels *vec_kernels_of(cpu_isa isa)
{
#ifdef CPU_X86
    if (isa >= CPU_ISA_AVX512)
        return &cpu_vec_avx512;
    if (isa == CPU_ISA_AVX2)
        return &cpu_vec_avx2;
#endif
    (void)isa;
    return &cpu_vec_c;
}

/* ---- contexts ---- */
static status choose_isa(const char *name, cpu_isa *out)
{
    if (name == NULL)
        name = getenv("TRIREME_ISA");
    if (name == NULL || name[0] == '\0') {
        *out = cpu_isa_best();
        return ST_OK;
    }
    if (!cpu_isa_parse(name, out))
        return FAIL(ST_INVALID, "unknown instruction set '%s': c, avx2, avx512 or amx", name);
    const char *lacks = cpu_isa_lacks(*out);
    if (lacks != NULL)
        return FAIL(ST_INVALID, "instruction set '%s': this machine lacks %s; the best it has is '%s'", name, lacks, cpu_isa_name(cpu_isa_best()));
    return cpu_linear_kernels_of(*out) != NULL ? ST_OK : FAIL(ST_INVALID, "instruction set '%s' is not built into this program", name);
}

/* Scratch is sized here for every operation, so that a step allocates nothing. */
static status scratch_create(ops_ctx *ctx)
{
    size_t cols = mem_align((size_t)ctx->max_cols, 64), head = cols < 1024 ? cols : 1024, rows, bytes, need;
    size_t each[] = {2 * cols * sizeof(float), cpu_attention_scratch_floats((int32_t)head) * sizeof(float), cpu_sample_scratch_bytes(),
                     cpu_linear_scratch_bytes(ctx->max_rows, ctx->max_cols)};
    for (size_t i = 0; i < ARRAY_LEN(each); i++)
        ctx->thread_scratch_bytes = each[i] > ctx->thread_scratch_bytes ? each[i] : ctx->thread_scratch_bytes;
    ctx->thread_scratch_bytes = mem_align(ctx->thread_scratch_bytes, 4096);
    size_t quantise = mem_align(cpu_quantise_scratch_bytes(ctx->max_rows, ctx->max_cols), 4096);
    if (!mem_mul((size_t)ctx->max_rows, cols * sizeof(float), &rows) || !mem_mul(ctx->thread_scratch_bytes, (size_t)ctx->max_threads, &bytes) ||
        !mem_add(bytes, quantise, &need) || !mem_add(need, rows, &need))
        return FAIL(ST_INVALID, "scratch for steps of %d rows of %d: impossible size", ctx->max_rows, ctx->max_cols);
    void *block;
    TRY(mem_huge_alloc(need + 64, "scratch of the CPU backend", &block));
    ctx->scratch_bytes = need + 64;
    ctx->thread_scratch = block;
    ctx->quantise_scratch = ctx->thread_scratch + bytes;
    ctx->rows_scratch = (float *)(void *)(ctx->quantise_scratch + quantise);
    return ST_OK;
}

static void ctx_destroy(ops_ctx **out)
{
    ops_ctx *ctx = *out;
    if (ctx == NULL)
        return;
    threads_destroy(&ctx->pool);
    if (ctx->thread_scratch != NULL)
        mem_huge_free(ctx->thread_scratch, ctx->scratch_bytes);
    if (ctx->partials != NULL)
        mem_huge_free(ctx->partials, ctx->n_partials * sizeof(float));
    free(ctx);
    *out = NULL;
}

static status ctx_create(const ops_ctx_options *options, ops_ctx **out)
{
    cpu_isa isa;
    *out = NULL;
    if (options->max_rows < 1 || options->max_cols < 1 || options->max_cols > (1 << 28))
        return FAIL(ST_INVALID, "a context for steps of %d rows of %d", options->max_rows, options->max_cols);
    TRY(choose_isa(options->isa, &isa));
    ops_ctx *ctx;
    TRY(mem_calloc(1, sizeof(*ctx), "CPU backend", &ctx));
    ctx->isa = isa;
    ctx->vec = vec_kernels_of(isa);
    ctx->linear = cpu_linear_kernels_of(isa);
    ctx->max_rows = options->max_rows;
    ctx->max_cols = options->max_cols;
    threads_options t = {options->n_threads, options->spin, options->first_core, options->lent_cores, options->n_lent};
    status st = threads_create(&t, &ctx->pool);
    if (st == ST_OK) {
        ctx->n_threads = threads_count(ctx->pool);
        ctx->max_threads = ctx->n_threads + options->n_lent;
        st = scratch_create(ctx);
    }
    if (st != ST_OK) {
        ctx_destroy(&ctx);
        return st;
    }
    snprintf(ctx->description, sizeof(ctx->description), "cpu %s, %d thread%s", cpu_isa_name(isa), ctx->n_threads, ctx->n_threads == 1 ? "" : "s");
    /* f32 and integer formats give the same bits at every level; bf16 products have an order of their own where the machine multiplies pairs or tiles of them */
    snprintf(ctx->numerics_name, sizeof(ctx->numerics_name), "cpu 1 %s", isa == CPU_ISA_AMX ? "bf16 tiles" : isa == CPU_ISA_AVX512BF16 ? "bf16 pairs" : "f32");
    *out = ctx;
    return ST_OK;
}

static const char *ctx_describe(const ops_ctx *ctx)
{
    return ctx->description;
}

static const char *numerics(const ops_ctx *ctx)
{
    return ctx->numerics_name;
}

/* ---- buffers ---- */
static status buf_create(ops_ctx *ctx, size_t bytes, const char *what, ops_buf **out)
{
    (void)ctx;
    ops_buf *b;
    *out = NULL;
    TRY(mem_calloc(1, sizeof(*b), what, &b));
    b->owned = true;
    b->bytes = bytes;
    if (bytes > 0) {
        void *data;
        status st = mem_huge_alloc(bytes, what, &data);
        if (st != ST_OK) {
            free(b);
            return st;
        }
        b->data = data;
    }
    *out = b;
    return ST_OK;
}

static status buf_wrap(ops_ctx *ctx, void *memory, size_t bytes, ops_buf **out)
{
    (void)ctx;
    ops_buf *b;
    *out = NULL;
    if (memory == NULL || (uintptr_t)memory % 64 != 0)
        return FAIL(ST_INVALID, "wrapped memory must be 64-byte aligned");
    TRY(mem_calloc(1, sizeof(*b), "buffer", &b));
    *b = (ops_buf){.data = memory, .bytes = bytes};
    *out = b;
    return ST_OK;
}

static void buf_destroy(ops_ctx *ctx, ops_buf **buf)
{
    (void)ctx;
    if (*buf == NULL)
        return;
    if ((*buf)->owned && (*buf)->bytes > 0)
        mem_huge_free((*buf)->data, (*buf)->bytes);
    free(*buf);
    *buf = NULL;
}

static bool inside(const ops_buf *buf, size_t offset, size_t bytes)
{
    return offset <= buf->bytes && bytes <= buf->bytes - offset;
}

static status buf_write(ops_ctx *ctx, ops_buf *buf, size_t offset, const void *src, size_t bytes)
{
    (void)ctx;
    if (!inside(buf, offset, bytes))
        return FAIL(ST_INVALID, "write of %zu bytes at %zu into a buffer of %zu", bytes, offset, buf->bytes);
    if (bytes > 0)
        memcpy(buf->data + offset, src, bytes);
    return ST_OK;
}

static status buf_read(ops_ctx *ctx, const ops_buf *buf, size_t offset, void *dst, size_t bytes)
{
    (void)ctx;
    if (!inside(buf, offset, bytes))
        return FAIL(ST_INVALID, "read of %zu bytes at %zu from a buffer of %zu", bytes, offset, buf->bytes);
    if (bytes > 0)
        memcpy(dst, buf->data + offset, bytes);
    return ST_OK;
}

static void *buf_map(ops_ctx *ctx, ops_buf *buf)
{
    (void)ctx;
    return buf->data;
}

static const float *mat_part(ops_ctx *ctx, const ops_mat *m)
{
    (void)ctx;
    return (const float *)(const void *)(m->buf->data + m->offset);
}

static void *stream(ops_ctx *ctx)
{
    (void)ctx;
    return NULL;
}

/* ---- steps ---- */
static void step_begin(ops_ctx *ctx, bool lent)
{
    threads_step_begin(ctx->pool, lent);
    ctx->n_threads = threads_count(ctx->pool);
}

static void step_end(ops_ctx *ctx)
{
    threads_step_end(ctx->pool);
    ctx->n_threads = threads_count(ctx->pool);
}

static status sync_done(ops_ctx *ctx)
{
    (void)ctx; /* operations have run when they return */
    return ST_OK;
}

const ops_backend *ops_cpu(void)
{
    static const ops_backend table = {
        .name = "cpu",
        .ctx_create = ctx_create,
        .ctx_destroy = ctx_destroy,
        .ctx_describe = ctx_describe,
        .numerics = numerics,
        .buf_create = buf_create,
        .buf_wrap = buf_wrap,
        .buf_destroy = buf_destroy,
        .buf_write = buf_write,
        .buf_read = buf_read,
        .buf_map = buf_map,
        .mat_part = mat_part,
        .stream = stream,
        .linear_input = cpu_linear_input,
        .batch_create = cpu_batch_create,
        .batch_destroy = cpu_batch_destroy,
        .batch_set = cpu_batch_set,
        .kv_block_bytes = cpu_kv_block_bytes,
        .kv_create = cpu_kv_create,
        .kv_destroy = cpu_kv_destroy,
        .kv_copy_block = cpu_kv_copy_block,
        .routing_create = cpu_routing_create,
        .routing_destroy = cpu_routing_destroy,
        .embed = cpu_embed,
        .norm = cpu_norm,
        .linear = cpu_linear,
        .sumsq = cpu_sumsq,
        .qkv = cpu_qkv,
        .attention = cpu_attention,
        .gate = cpu_gate,
        .route = cpu_route,
        .dispatch = cpu_dispatch,
        .experts = cpu_experts,
        .combine = cpu_combine,
        .sample = cpu_sample,
        .step_begin = step_begin,
        .step_end = step_end,
        .sync = sync_done,
        .peaks = cpu_peaks,
    };
    return &table;
}
