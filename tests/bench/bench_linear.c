/* tests/bench/bench_linear.c - speed of the products: GB/s of weights with one row, GOPS with many, beside the memory bandwidth measured here.
 *
 * bench_linear [-t threads] [-l level] [-w type] [-r rows] [-m MiB] [-n outputs] [-k cols]
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
    for (int c; (c = getopt(argc, argv, "t:l:w:r:m:n:k:")) != -1;) {
        switch (c) {
        case 't': o.threads = atoi(optarg); break;
        case 'l': o.level = optarg; break;
        case 'w': o.type = optarg; break;
        case 'r': o.rows = atoi(optarg); break;
        case 'm': o.mib = (size_t)atoi(optarg); break;
        case 'n': o.outputs = atoi(optarg); break;
        case 'k': o.cols = atoi(optarg); break;
        default: fprintf(stderr, "usage: bench_linear [-t threads] [-l level] [-w type] [-r rows] [-m MiB] [-n outputs] [-k cols]\n"); return 2;
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
            bench_level(&o, levels[i], &memory);
    return 0;
}
