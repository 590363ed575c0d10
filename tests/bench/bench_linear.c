/* tests/bench/bench_linear.c - speed of the products: GB/s of weights with one row, GOPS with many, beside the memory bandwidth measured here.
 *
 * bench_linear [-t threads] [-l level] [-w type] [-r rows] [-m MiB] [-n outputs] [-k cols]
 * bench_linear -M hidden,kv,intermediate,layers,vocabulary [-w type] [-r rows] [-t threads] [-l level]
 * The second form runs the products of a whole transformer as a forward pass calls them (q, k, v at once; gate and up at once; the head in q8_0).
 * The weights of one measurement are many matrices, together larger than the caches, used in turn; times are the best of several passes. */
#include <getopt.h>
#include <stdio.h>
#include <time.h>

#include "base/mem.h"
#include "tests/ops/weights.h"

#define PASSES 7

static const char *const level_names[CPU_ISAS] = {"c", "avx2", "avx512", "amx"};

/* One thread is timed by the processor time it used, so that a busy machine disturbs it less. */
static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct reading {
    const char *data;
    size_t bytes;
    uint64_t sums[256];
} reading;

static void read_share(void *arg, int thread, int n_threads)
{
    typedef uint64_t lanes __attribute__((vector_size(64)));
    reading *r = arg;
    size_t b, e;
    threads_share(r->bytes, 4096, thread, n_threads, &b, &e);
    lanes s[2] = {{0}, {0}};
    for (size_t i = b; i + 128 <= e; i += 128) {
        s[0] += *(const lanes *)(const void *)(r->data + i);
        s[1] += *(const lanes *)(const void *)(r->data + i + 64);
    }
    s[0] += s[1];
    r->sums[thread % 256] = s[0][0] + s[0][3];
}

static double read_bandwidth(ops_ctx *ctx, const char *data, size_t bytes)
{
    double best = 1e9;
    reading r = {data, bytes, {0}};
    for (int i = 0; i < PASSES; i++) {
        double t = now();
        threads_run(ctx->pool, read_share, &r);
        t = now() - t;
        best = t < best ? t : best;
    }
    return (double)bytes / best * 1e-9;
}

typedef struct options {
    int threads, rows, outputs, cols;
    size_t mib;
    const char *level, *type;
    int hidden, kv, intermediate, layers, vocabulary; /* -M */
} options;

static void measure(ops_ctx *ctx, const options *o, packed_type type, int rows, ops_buf *memory, ops_buf *x, ops_buf *y)
{
    packed_shape s = {type, o->outputs, o->cols, 0};
    size_t bytes = packed_bytes(s);
    int matrices = (int)(memory->bytes / bytes), n = (int)(1000000000 / ((int64_t)(rows + 3) * s.rows * s.cols)) + 1;
    if (matrices == 0) {
        fprintf(stderr, "bench_linear: one matrix takes %zu bytes: give more MiB\n", bytes);
        exit(2);
    }
    ops_type input = cpu_linear_input(ctx, type);
    double best = 1e9;
    for (int pass = 0; pass < PASSES; pass++) {
        double t = now();
        threads_step_begin(ctx->pool);
        for (int i = 0; i < n; i++) {
            ops_linear_args a = {.rows = rows, .n = 1, .x = weights_mat(x, input, s.cols), .w = {{memory, (size_t)(i % matrices) * bytes, s}}, .y = {weights_mat(y, OPS_F32, s.rows)}};
            if (cpu_linear(ctx, &a) != ST_OK)
                exit(1);
        }
        threads_step_end(ctx->pool);
        t = (now() - t) / n;
        best = t < best ? t : best;
    }
    if (rows == 1)
        printf("  %7.1f GB/s", (double)bytes / best * 1e-9);
    else
        printf("  %6.0f GOPS", 2.0 * rows * s.rows * s.cols / best * 1e-9);
    fflush(stdout);
}

typedef struct model_call {
    int n, cols, outputs[OPS_MAX_FUSED];
} model_call;

/* One call; its weights are taken from memory one after another. */
static void model_linear(ops_ctx *ctx, const model_call *c, packed_type type, int rows, ops_buf *memory, size_t *at, ops_buf *x, ops_buf *y)
{
    ops_linear_args a = {.rows = rows, .n = c->n, .x = weights_mat(x, OPS_F32, c->cols)};
    for (int i = 0; i < c->n; i++) {
        packed_shape s = {type, c->outputs[i], c->cols, 0};
        if (*at + packed_bytes(s) > memory->bytes)
            *at = 0;
        a.w[i] = (ops_weight){memory, *at, s};
        a.y[i] = weights_mat(y, OPS_F32, s.rows);
        *at += packed_bytes(s);
    }
    if (cpu_linear(ctx, &a) != ST_OK)
        exit(1);
}

static void bench_model(const options *o, cpu_isa level, ops_buf *memory)
{
    int rows = o->rows != 0 ? o->rows : 1, widest = o->vocabulary > 2 * o->intermediate ? o->vocabulary : 2 * o->intermediate;
    packed_type type = o->type != NULL ? packed_type_parse(o->type) : PACKED_Q4_1;
    const model_call calls[] = {{3, o->hidden, {o->hidden, o->kv, o->kv}}, {1, o->hidden, {o->hidden}}, {2, o->hidden, {o->intermediate, o->intermediate}},
                                {1, o->intermediate, {o->hidden}}},
                     head = {1, o->hidden, {o->vocabulary}};
    ops_ctx ctx;
    if (type == PACKED_TYPES || weights_ctx(level, o->threads, rows, o->hidden > o->intermediate ? o->hidden : o->intermediate, &ctx) != ST_OK)
        exit(2);
    ops_buf x = weights_buf((size_t)rows * ops_row_bytes(OPS_F32, widest)), y = weights_buf((size_t)rows * ops_row_bytes(OPS_F32, widest));
    size_t at = 0;
    double best[2] = {1e9, 1e9};
    for (int pass = 0; pass < 4 * PASSES; pass++) {
        double t[3] = {now()};
        threads_step_begin(ctx.pool);
        for (int l = 0; l < o->layers; l++)
            for (size_t i = 0; i < ARRAY_LEN(calls); i++)
                model_linear(&ctx, &calls[i], type, rows, memory, &at, &x, &y);
        t[1] = now();
        model_linear(&ctx, &head, PACKED_Q8_0, 1, memory, &at, &x, &y); /* of a prompt's rows one wants logits */
        threads_step_end(ctx.pool);
        t[2] = now();
        for (int i = 0; i < 2; i++)
            best[i] = t[i + 1] - t[i] < best[i] ? t[i + 1] - t[i] : best[i];
    }
    printf("%s, %d threads, %d rows: layers %.3f ms, head %.3f ms: the products alone allow %.1f tokens/s\n", level_names[level], o->threads, rows, best[0] * 1e3,
           best[1] * 1e3, rows / (best[0] + best[1]));
    free(x.data);
    free(y.data);
    weights_ctx_free(&ctx);
}

static void bench_level(const options *o, cpu_isa level, ops_buf *memory)
{
    static const int rows[] = {1, 2, 4, 8, 32, 256};
    enum { MAX_ROWS = 512 };
    ops_ctx ctx;
    if (weights_ctx(level, o->threads, MAX_ROWS, o->cols, &ctx) != ST_OK)
        exit(1);
    ops_buf y = weights_buf(MAX_ROWS * ops_row_bytes(OPS_F32, o->outputs));
    printf("%s, %d threads; memory reads at %.1f GB/s; rows:", level_names[level], o->threads, read_bandwidth(&ctx, memory->data, memory->bytes));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        printf("%s %d", i == 0 ? "" : ",", rows[i]);
    printf("\n");
    for (int t = 0; t < PACKED_TYPES; t++) {
        if (o->type != NULL && strcmp(o->type, packed_format_of((packed_type)t)->name) != 0)
            continue;
        ops_type input = cpu_linear_input(&ctx, (packed_type)t);
        ops_buf x = weights_buf(MAX_ROWS * ops_row_bytes(OPS_F32, o->cols) * 2);
        ops_mat m = weights_mat(&x, input, o->cols);
        float *row = calloc((size_t)o->cols, 4);
        uint32_t seed = 1;
        for (int32_t k = 0; k < o->cols; k++)
            row[k] = weights_uniform(&seed);
        for (int r = 0; r < MAX_ROWS; r++) {
            if (input == OPS_Q8)
                cpu_quantise_row(&ctx, row, o->cols, cpu_row(&m, r));
            else if (input == OPS_F32)
                memcpy(cpu_row(&m, r), row, (size_t)o->cols * 4);
        }
        printf("  %-6s", packed_format_of((packed_type)t)->name);
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
            if (o->rows == 0 || o->rows == rows[i])
                measure(&ctx, o, (packed_type)t, o->rows != 0 ? o->rows : rows[i], memory, &x, &y);
        printf("\n");
        free(row);
        free(x.data);
    }
    free(y.data);
    weights_ctx_free(&ctx);
}

int main(int argc, char **argv)
{
    options o = {.threads = threads_cores_granted(), .outputs = 1536, .cols = 1536, .mib = 160};
    for (int c; (c = getopt(argc, argv, "t:l:w:r:m:n:k:M:")) != -1;) {
        switch (c) {
        case 't': o.threads = atoi(optarg); break;
        case 'l': o.level = optarg; break;
        case 'w': o.type = optarg; break;
        case 'r': o.rows = atoi(optarg); break;
        case 'm': o.mib = (size_t)atoi(optarg); break;
        case 'n': o.outputs = atoi(optarg); break;
        case 'k': o.cols = atoi(optarg); break;
        case 'M':
            if (sscanf(optarg, "%d,%d,%d,%d,%d", &o.hidden, &o.kv, &o.intermediate, &o.layers, &o.vocabulary) == 5)
                break;
            /* fall through */
        default: fprintf(stderr, "usage: bench_linear [-t threads] [-l level] [-w type] [-r rows] [-m MiB] [-n outputs] [-k cols] "
                                 "[-M hidden,kv,intermediate,layers,vocabulary]\n"); return 2;
        }
    }
    clock_used = o.threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    ops_buf memory = {.bytes = o.mib << 20};
    void *block;
    if (mem_huge_alloc(memory.bytes, "weights", &block) != ST_OK)
        return 1;
    memory.data = block;
    memset(memory.data, 0x11, memory.bytes); /* every byte is a harmless code, scale and float */
    cpu_isa levels[CPU_ISAS];
    int n = weights_levels(levels);
    for (int i = n - 1; i >= 0; i--)
        if (o.level != NULL ? strcmp(o.level, level_names[levels[i]]) == 0 : levels[i] != CPU_ISA_C)
            (o.layers != 0 ? bench_model : bench_level)(&o, levels[i], &memory);
    return 0;
}
