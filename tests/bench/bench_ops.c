/* tests/bench/bench_ops.c - how fast the CPU's operations are: attention (decoding: bytes of cache read a second; prefill: arithmetic), norm, gate,
 * sampling, and what entering a region costs.  Usage: bench_ops [threads] [isa].  Best of several runs, as other work disturbs. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "ops/ops.h"

#define CHECK(expr)                                   \
    do {                                              \
        if ((expr) != ST_OK) {                        \
            fprintf(stderr, "%s\n", status_message()); \
            exit(1);                                  \
        }                                             \
    } while (0)

static const ops_backend *be;
static ops_ctx *ctx;
static int n_threads;

static ops_mat mat(int32_t rows, int32_t cols, ops_type type)
{
    ops_mat m = {.type = type, .cols = cols, .stride = ops_row_bytes(type, cols)};
    CHECK(be->buf_create(ctx, m.stride * (size_t)rows, "bench", &m.buf));
    float *p = be->buf_map(ctx, m.buf);
    for (size_t i = 0; i < m.stride * (size_t)rows / 4 && type == OPS_F32; i++)
        p[i] = (float)(i * 2654435761u % 1000) / 500.0f - 1.0f;
    return m;
}

typedef void (*work)(void *arg);

/* One thread: its own processor time, so that other work on the machine counts less. */
static double clock_now(void)
{
    struct timespec t;
    if (n_threads != 1)
        return log_clock();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds of the best of several runs; short work is timed many at a time. */
static double best(work f, void *arg)
{
    double least = 1e9, total = 0;
    int n = 1;
    f(arg);
    be->step_begin(ctx);
    for (int i = 0; i < 5 || total < 0.25; i++) {
        double t = clock_now();
        for (int k = 0; k < n; k++)
            f(arg);
        t = clock_now() - t;
        least = t / n < least ? t / n : least;
        total += t;
        if (t < 50e-6)
            n *= 2;
    }
    be->step_end(ctx);
    return least;
}

typedef struct attention_bench {
    ops_batch *batch;
    ops_attention_args a;
    ops_qkv_args w;
} attention_bench;

static void run_attention(void *arg)
{
    attention_bench *b = arg;
    CHECK(be->attention(ctx, b->batch, &b->a));
}
static void run_qkv(void *arg)
{
    attention_bench *b = arg;
    CHECK(be->qkv(ctx, b->batch, &b->w));
}

static void attention(const char *name, int32_t heads, int32_t kv_heads, int32_t dim, ops_kv_type type, int32_t seqs, int32_t rows, int32_t position)
{
    int32_t per_seq = (position + rows + 15) / 16, n = seqs * rows, blocks = seqs * per_seq;
    float *freq = malloc(sizeof(float) * (size_t)dim);
    for (int i = 0; i < dim / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * (float)i / (float)dim);
    ops_batch_limits l = {.max_rows = n, .max_spans = seqs, .max_blocks = blocks, .n_kv_groups = 1, .n_ropes = 1, .ropes = {{dim, false, 1, {freq}, {1}}}};
    attention_bench b;
    CHECK(be->batch_create(ctx, &l, &b.batch));
    ops_kv_spec spec = {type, 1, kv_heads, dim, blocks};
    ops_kv *kv;
    CHECK(be->kv_create(ctx, &spec, &kv));
    int32_t *table = malloc(sizeof(int32_t) * (size_t)blocks), *tokens = calloc((size_t)n, sizeof(int32_t));
    ops_span *spans = calloc((size_t)seqs, sizeof(ops_span));
    for (int32_t i = 0; i < blocks; i++)
        table[i] = (int32_t)((int64_t)i * 7919 % blocks);
    for (int32_t i = 0; i < seqs; i++)
        spans[i] = (ops_span){.row = i * rows, .n_rows = rows, .position = position, .table = {i * per_seq}};
    ops_batch_desc d = {.n_rows = n, .tokens = tokens, .n_spans = seqs, .spans = spans, .tables = {table}, .n_table = {blocks}};
    CHECK(be->batch_set(ctx, b.batch, &d));
    ops_mat q = mat(n, heads * dim, OPS_F32), k = mat(n, kv_heads * dim, OPS_F32), v = mat(n, kv_heads * dim, OPS_F32), y = mat(n, heads * dim, OPS_F32);
    for (int32_t p = 0; p < position; p += rows) { /* fill the cache */
        for (int32_t i = 0; i < seqs; i++)
            spans[i].position = p;
        ops_batch_desc f = d;
        CHECK(be->batch_set(ctx, b.batch, &f));
        b.w = (ops_qkv_args){.q = q, .k = k, .v = v, .n_heads = heads, .n_kv_heads = kv_heads, .head_dim = dim, .rope = 0, .kv = kv};
        if (rows > 1 || position <= 1024 || p % 97 == 0)
            CHECK(be->qkv(ctx, b.batch, &b.w));
    }
    for (int32_t i = 0; i < seqs; i++)
        spans[i].position = position;
    CHECK(be->batch_set(ctx, b.batch, &d));
    b.w = (ops_qkv_args){.q = q, .k = k, .v = v, .n_heads = heads, .n_kv_heads = kv_heads, .head_dim = dim, .rope = 0, .kv = kv};
    CHECK(be->qkv(ctx, b.batch, &b.w));
    b.a = (ops_attention_args){.q = q, .n_heads = heads, .head_dim = dim, .heads_per_kv = heads / kv_heads, .scale = 0.125f, .kv = kv, .y = y};
    double s = best(run_attention, &b);
    double flops = 4.0 * heads * dim * ((double)position * rows + (double)rows * (rows + 1) / 2) * seqs;
    double bytes = (double)be->kv_block_bytes(&spec) / 16 * (position + rows) * seqs;
    printf("%-34s %9.1f us  %7.1f GFLOP/s  %6.2f GB/s of cache   (qkv %.1f us)\n", name, s * 1e6, flops / s * 1e-9, bytes / s * 1e-9, best(run_qkv, &b) * 1e6);
    ops_mat *all[] = {&q, &k, &v, &y};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        be->buf_destroy(ctx, &all[i]->buf);
    be->kv_destroy(ctx, &kv);
    be->batch_destroy(ctx, &b.batch);
    free(table);
    free(tokens);
    free(spans);
    free(freq);
}

typedef struct rows_bench {
    ops_batch *batch;
    ops_norm_args n;
    ops_gate_args g;
    ops_sample_args s;
} rows_bench;

static void run_norm(void *arg)
{
    rows_bench *b = arg;
    CHECK(be->norm(ctx, b->batch, &b->n));
}
static void run_gate(void *arg)
{
    rows_bench *b = arg;
    CHECK(be->gate(ctx, &b->g));
}
static void run_sample(void *arg)
{
    rows_bench *b = arg;
    CHECK(be->sample(ctx, &b->s));
}

static void norm_and_gate(int32_t rows, int32_t hidden, int32_t wide)
{
    ops_batch_limits l = {.max_rows = rows, .max_spans = 1};
    rows_bench b = {0};
    CHECK(be->batch_create(ctx, &l, &b.batch));
    int32_t *tokens = calloc((size_t)rows, sizeof(int32_t));
    ops_span span = {.n_rows = rows};
    ops_batch_desc d = {.n_rows = rows, .tokens = tokens, .n_spans = 1, .spans = &span};
    CHECK(be->batch_set(ctx, b.batch, &d));
    ops_mat x = mat(rows, hidden, OPS_F32), part = mat(rows, hidden, OPS_F32), y = mat(rows, hidden, OPS_Q8), g = mat(rows, wide, OPS_F32), u = mat(rows, wide, OPS_F32),
            a = mat(rows, wide, OPS_Q8), w = mat(1, hidden, OPS_F32);
    const float *parts[1] = {be->buf_map(ctx, part.buf)};
    b.n = (ops_norm_args){.x = x, .parts = {parts, 1, part.stride / 4}, .residual_scale = 1e-3f, .norm = OPS_NORM_RMS, .weight = {w.buf, 0, hidden}, .eps = 1e-5f, .n_y = 1, .y = {y}};
    double s = best(run_norm, &b);
    printf("norm  %4d x %-6d to q8 %9.2f us  %6.2f GB/s\n", rows, hidden, s * 1e6, (double)rows * hidden * 13 / s * 1e-9);
    b.g = (ops_gate_args){rows, g, u, OPS_SILU, a, 0};
    s = best(run_gate, &b);
    printf("gate  %4d x %-6d to q8 %9.2f us  %6.2f GB/s\n", rows, wide, s * 1e6, (double)rows * wide * 9 / s * 1e-9);
    ops_mat *all[] = {&x, &part, &y, &g, &u, &a, &w};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        be->buf_destroy(ctx, &all[i]->buf);
    be->batch_destroy(ctx, &b.batch);
    free(tokens);
}

static void sample(const char *name, int32_t n, int32_t vocab, float temperature, int32_t candidates, bool hash)
{
    rows_bench b = {0};
    ops_mat l = mat(n, vocab, OPS_F32), a = mat(n, vocab, OPS_F32);
    for (int32_t r = 0; r < n; r++)
        for (int32_t i = 0; i < vocab; i++)
            ((float *)be->buf_map(ctx, l.buf))[(size_t)r * (l.stride / 4) + (size_t)i] *= 10.0f;
    ops_sample_row *rows = calloc((size_t)n, sizeof(*rows));
    ops_sample_out *out = calloc((size_t)n, sizeof(*out));
    for (int32_t i = 0; i < n; i++)
        rows[i] = (ops_sample_row){.row = i, .temperature = temperature, .repetition_penalty = 1, .seed = 9, .n_candidates = candidates, .target = -1, .want_sample = true, .want_sum = candidates > 0, .want_hash = hash};
    b.s = (ops_sample_args){l, a, 0, 1, 0, n, rows, out};
    double s = best(run_sample, &b);
    printf("%-34s %4d x %-6d %9.2f us  %6.3f ns a logit\n", name, n, vocab, s * 1e6, s / n / vocab * 1e9);
    be->buf_destroy(ctx, &l.buf);
    be->buf_destroy(ctx, &a.buf);
    free(rows);
    free(out);
}

/* What the machine gives: sums over memory that no cache holds, by one thread. */
#define READ_BYTES ((size_t)192 << 20)
static void run_read(void *arg)
{
    const uint64_t *p = arg;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < READ_BYTES / 8; i += 8)
        for (size_t k = 0; k < 8; k++)
            sum[k] += p[i + k];
    volatile uint64_t keep = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
    (void)keep;
}

int main(int argc, char **argv)
{
    be = ops_cpu();
    n_threads = argc > 1 ? atoi(argv[1]) : 0;
    ops_ctx_options o = {.n_threads = n_threads, .first_core = argc > 3 ? 0 : -1, .spin = true, .isa = argc > 2 ? argv[2] : NULL, .max_rows = 512, .max_cols = 16384};
    CHECK(be->ctx_create(&o, &ctx));
    printf("%s\n", be->ctx_describe(ctx));
    void *memory = aligned_alloc(64, READ_BYTES);
    memset(memory, 1, READ_BYTES);
    printf("memory, read by one thread: %.2f GB/s\n", (double)READ_BYTES / best(run_read, memory) * 1e-9);
    free(memory);
    attention("smollm2 decode at 64, f16", 9, 3, 64, OPS_KV_F16, 1, 1, 63);
    attention("smollm2 decode at 512, f16", 9, 3, 64, OPS_KV_F16, 1, 1, 511);
    attention("smollm2 decode at 32k, f16", 9, 3, 64, OPS_KV_F16, 1, 1, 32000);
    attention("8b decode at 64k, f16", 32, 8, 128, OPS_KV_F16, 1, 1, 64000);
    attention("8b decode at 64k, f32", 32, 8, 128, OPS_KV_F32, 1, 1, 64000);
    attention("8b decode at 64k, bf16", 32, 8, 128, OPS_KV_BF16, 1, 1, 64000);
    attention("8b decode at 64k, q8", 32, 8, 128, OPS_KV_Q8, 1, 1, 64000);
    attention("no groups, decode at 16k, f16", 32, 32, 128, OPS_KV_F16, 1, 1, 16000);
    attention("8b, 16 decodes at 2k, f16", 32, 8, 128, OPS_KV_F16, 16, 1, 2000);
    attention("smollm2 prefill 512, f16", 9, 3, 64, OPS_KV_F16, 1, 512, 0);
    attention("smollm2 prefill 512, q8", 9, 3, 64, OPS_KV_Q8, 1, 512, 0);
    attention("8b prefill 512 at 4k, f16", 32, 8, 128, OPS_KV_F16, 1, 512, 4096);
    attention("no groups, prefill 512, f32", 32, 32, 128, OPS_KV_F32, 1, 512, 0);
    norm_and_gate(1, 576, 1536);
    norm_and_gate(1, 4096, 14336);
    norm_and_gate(512, 576, 1536);
    sample("greedy", 1, 49152, 0, 1, false);
    sample("temperature 1", 1, 49152, 1, 1, false);
    sample("temperature 0.7, 64 candidates", 1, 49152, 0.7f, 64, false);
    sample("greedy with hash", 1, 49152, 0, 1, true);
    sample("temperature 1", 1, 262144, 1, 1, false);
    sample("temperature 1", 64, 49152, 1, 1, false);
    be->ctx_destroy(&ctx);
    return 0;
}
