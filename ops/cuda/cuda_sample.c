/* ops/cuda/cuda_sample.c - sampling: the rows' lists go up in one block, their results come down at the next sync.
 *
 *   block  [gpu_sample_row of each row][counts, bias, allow of row 0][... of row 1] ...   every list at a multiple of 16 bytes */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/cuda/cuda_internal.h"

#define MOST_TOKENS (INT32_MAX - 65536) /* kernels count to the end of a piece, past the last token */

/* Bits of the whole vocabulary that this slice needs: its last token's word. */
static size_t allow_bytes(const ops_sample_args *a)
{
    return ((size_t)a->vocab_begin + (size_t)a->logits.cols + 31) / 32 * sizeof(uint32_t);
}

static size_t counts_bytes(const ops_sample_row *r)
{
    return mem_align((size_t)r->n_counts * sizeof(ops_token_count), 16);
}

static size_t bias_bytes(const ops_sample_row *r)
{
    return mem_align((size_t)r->n_bias * sizeof(ops_token_bias), 16);
}

static status check(const ops_sample_args *a)
{
    bool any_sample = false;
    int32_t rows = 0;
    for (int32_t i = 0; i < a->n; i++) {
        const ops_sample_row *w = &a->rows[i];
        any_sample = any_sample || w->want_sample;
        rows = w->row >= rows ? w->row + 1 : rows;
        if (w->row < 0 || w->n_candidates < 0 || w->n_candidates > OPS_MAX_CANDIDATES || w->n_raw < 0 || w->n_raw > OPS_MAX_CANDIDATES || !(w->temperature >= 0.0f) ||
            w->n_counts < 0 || w->n_bias < 0)
            return FAIL(ST_INVALID, "sample: row %d, %d candidates, %d raw, temperature %g", w->row, w->n_candidates, w->n_raw, (double)w->temperature);
    }
    TRY(cuda_mat_check("sample", "logits", &a->logits, rows, a->logits.cols));
    if (any_sample)
        TRY(cuda_mat_check("sample", "adjusted", &a->adjusted, a->n, a->logits.cols));
    if (a->logits.type != OPS_F32 || (any_sample && a->adjusted.type != OPS_F32) || a->vocab_begin < 0 || a->vocab_begin > MOST_TOKENS - a->logits.cols)
        return FAIL(ST_INVALID, "sample: %d columns of logits from token %d", a->logits.cols, a->vocab_begin);
    return ST_OK;
}

/* One row's lists: appended to `host` if it is there, their device addresses put into *out; returns where the next row's begin. */
static size_t put_row(const ops_sample_args *a, int32_t i, char *host, const char *device, size_t at, gpu_sample_row *out)
{
    const ops_sample_row *r = &a->rows[i];
    out->row = *r;
    out->row.counts = (const ops_token_count *)(const void *)(device + at);
    if (r->n_counts > 0)
        memcpy(host + at, r->counts, (size_t)r->n_counts * sizeof(ops_token_count));
    at += counts_bytes(r);
    out->row.bias = (const ops_token_bias *)(const void *)(device + at);
    if (r->n_bias > 0)
        memcpy(host + at, r->bias, (size_t)r->n_bias * sizeof(ops_token_bias));
    at += bias_bytes(r);
    if (r->allow != NULL) {
        out->row.allow = (const uint32_t *)(const void *)(device + at);
        memcpy(host + at, r->allow, allow_bytes(a));
        at += mem_align(allow_bytes(a), 16);
    }
    return at;
}

static status upload(ops_ctx *ctx, const ops_sample_args *a)
{
    size_t rows = mem_align((size_t)a->n * sizeof(gpu_sample_row), 16), bytes = rows;
    for (int32_t i = 0; i < a->n; i++)
        bytes += counts_bytes(&a->rows[i]) + bias_bytes(&a->rows[i]) + (a->rows[i].allow != NULL ? mem_align(allow_bytes(a), 16) : 0);
    TRY(cuda_block_grow(ctx, &ctx->sample_in, mem_align(bytes, 65536), "sampling parameters"));
    if (ctx->reserving)
        return ST_OK;
    char *block; /* put together here, since a stage may be too small for it */
    TRY(mem_calloc(1, bytes, "sampling parameters", &block));
    size_t at = rows;
    for (int32_t i = 0; i < a->n; i++)
        at = put_row(a, i, block, ctx->sample_in.p, at, (gpu_sample_row *)(void *)block + i);
    status st = cuda_upload(ctx, ctx->sample_in.p, block, bytes, "sampling parameters");
    free(block);
    return st;
}

status cuda_sample(ops_ctx *ctx, const ops_sample_args *args)
{
    if (args->n <= 0)
        return ST_OK;
    TRY(check(args));
    TRY(upload(ctx, args));
    size_t out = (size_t)args->n * sizeof(ops_sample_out);
    TRY(cuda_block_grow(ctx, &ctx->sample_out, out, "sampling results"));
    TRY(cuda_block_grow(ctx, &ctx->sample, (size_t)gpu_sample_scratch(args->n, args->logits.cols), "sampling"));
    if (ctx->reserving)
        return cuda_results_reserve(ctx, mem_align(out, 64));
    gpu_sample a = {.logits = cuda_mat(&args->logits), .vocab_begin = args->vocab_begin, .multiplier = args->multiplier, .softcap = args->softcap,
                    .rows = ctx->sample_in.p, .out = ctx->sample_out.p, .scratch = ctx->sample.p};
    if (args->adjusted.buf != NULL)
        a.adjusted = cuda_mat(&args->adjusted);
    CUDA_TRY(k_sample(args->n, NULL, &a, ctx->stream), "%d rows of %d", args->n, args->logits.cols);
    return cuda_download(ctx, ctx->sample_out.p, args->out, out, "sampling results");
}
