/* coordinator/cli/bench_kernels.c - `trireme bench kernels`: each operation alone against what the machine allows.
 *
 * The limits are measured first (ops_peaks): reading memory, and the multiplying instructions on registers.  An operation's floor is the longer of its
 * bytes over the one and its arithmetic over the other; the last columns say how much of it is reached, and which of the two it is.  Weights are many
 * matrices, and caches many layers, used in turn, so that they come from memory as in a model; what else a step touches is in the processor's caches there
 * too, so memory does not bound it.  Times are the best of several passes, because other work only ever adds. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/cli/cli.h"
#include "coordinator/cli/cli_util.h"
#include "coordinator/results.h"
#include "ops/device.h"

enum { MAX_LIST = 32, PASSES = 5, FILL_BYTES = 1 << 20 };
#define PASS_SECONDS 0.04

typedef struct kernels_args {
    ops_device_kind device;
    const char *isa; /* NULL: every one that this machine has */
    const char *type; /* of weights; NULL: all */
    int threads;
    size_t memory;
    int32_t rows[MAX_LIST], n_rows;
    int32_t outputs, cols, context, heads, kv_heads, head_dim, vocabulary;
    bool json;
} kernels_args;

typedef struct kernels_bench {
    const kernels_args *a;
    json_t *environment;
    const ops_backend *ops;
    ops_ctx *ctx;
    ops_peaks peaks;
    ops_buf *weights; /* a->memory bytes, each a harmless code, scale and float */
} kernels_bench;

/* ---- the command line ---- */

enum { OPT_DEVICE = 0x5000, OPT_ISA, OPT_TYPE, OPT_MEMORY, OPT_ROWS, OPT_SHAPE, OPT_CONTEXT, OPT_HEADS, OPT_VOCABULARY, OPT_JSON };

static const struct argp_option options[] = {
    {"device", OPT_DEVICE, "cpu|cuda", 0, "What computes (default cpu)", 0},
    {"isa", OPT_ISA, "SET", 0, "Only this instruction set: c, avx2, avx512 or amx (default: each that this machine has, but c)", 0},
    {"type", OPT_TYPE, "TYPE", 0, "Only weights of this type, as in q4_k (default: all)", 0},
    {"threads", 't', "N", 0, "Threads (default: all cores granted)", 0},
    {"memory", OPT_MEMORY, "BYTES", 0, "Bytes of weights that are used in turn, and that are read to measure the memory: more than the caches (default 1GiB)", 0},
    {"rows", OPT_ROWS, "N,...", 0, "Rows of the products (default 1,2,4,8,16,32,64,512)", 0},
    {"shape", OPT_SHAPE, "OUTPUTSxINPUTS", 0, "Of the weights (default 2048x2048)", 0},
    {"ctx", OPT_CONTEXT, "TOKENS", 0, "Context of the attention (default 4096)", 0},
    {"heads", OPT_HEADS, "H/KV/DIM", 0, "Query heads, KV heads and width of a head (default 32/8/128)", 0},
    {"vocabulary", OPT_VOCABULARY, "N", 0, "Logits of a row that is sampled (default 128256)", 0},
    {"json", OPT_JSON, NULL, 0, "A line of JSON for each figure instead of a table", 0},
    {0},
};

static const char doc[] =
    "Measures each operation alone against the limits of this machine, which are measured first."
    "\v"
    "Examples:\n"
    "  trireme bench kernels\n"
    "  trireme bench kernels --isa avx2 --type q4_0 --rows 1,512 --shape 8192x2048 -t 1\n"
    "\n"
    "Columns: time, bytes read a second, operations a second (a multiply-add is two), how much of the limit that is, and whether the limit is memory or "
    "arithmetic. Run it on an otherwise idle machine.";

static bool parse_numbers(const char *text, char separator, int n, int32_t *out)
{
    for (int i = 0; i < n; i++) {
        char *end;
        long v = strtol(text, &end, 10);
        if (end == text || v < 1 || v > 1 << 22 || *end != (i + 1 < n ? separator : '\0'))
            return false;
        out[i] = (int32_t)v;
        text = end + 1;
    }
    return true;
}

static bool parse_rows(kernels_args *a, const char *text)
{
    int n = 1;
    for (const char *p = text; *p != '\0'; p++)
        n += *p == ',';
    a->n_rows = n;
    return n <= MAX_LIST && parse_numbers(text, ',', n, a->rows);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    kernels_args *a = state->input;
    int32_t three[3] = {0};
    switch (key) {
    case OPT_DEVICE:
        if (!ops_device_parse(arg, &a->device) || a->device == OPS_DEVICE_AUTO)
            argp_error(state, "--device %s: cpu or cuda", arg);
        return 0;
    case OPT_ISA:
        a->isa = arg;
        return 0;
    case OPT_TYPE:
        if (packed_type_parse(arg) == PACKED_TYPES)
            argp_error(state, "--type %s: no such type of weights", arg);
        a->type = arg;
        return 0;
    case 't':
        a->threads = cli_arg_int(state, "threads", arg, 1, 256);
        return 0;
    case OPT_MEMORY:
        a->memory = cli_arg_bytes(state, "memory", arg);
        return 0;
    case OPT_ROWS:
        if (!parse_rows(a, arg))
            argp_error(state, "--rows %s: up to %d numbers are needed, with commas", arg, MAX_LIST);
        return 0;
    case OPT_SHAPE:
        if (!parse_numbers(arg, 'x', 2, three))
            argp_error(state, "--shape %s: outputs x inputs is needed, as in 4096x2048", arg);
        a->outputs = three[0];
        a->cols = three[1];
        return 0;
    case OPT_CONTEXT:
        a->context = cli_arg_int(state, "ctx", arg, 1, 1 << 22);
        return 0;
    case OPT_HEADS:
        if (!parse_numbers(arg, '/', 3, three) || three[0] % three[1] != 0)
            argp_error(state, "--heads %s: query heads, KV heads that divide them and a width are needed, as in 32/8/128", arg);
        a->heads = three[0];
        a->kv_heads = three[1];
        a->head_dim = three[2];
        return 0;
    case OPT_VOCABULARY:
        a->vocabulary = cli_arg_int(state, "vocabulary", arg, 16, 1 << 22);
        return 0;
    case OPT_JSON:
        a->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- telling ---- */

/* What one call of an operation has to do at least. */
typedef struct work {
    double bytes, operations, peak; /* peak: of those operations a second; 0: unknown */
    bool cached;                    /* the bytes do not come from memory */
} work;

static const char *limit_of(const kernels_bench *b, const work *w, double *seconds)
{
    double memory = b->peaks.read > 0 && !w->cached ? w->bytes / b->peaks.read : 0, arithmetic = w->peak > 0 ? w->operations / w->peak : 0;
    *seconds = fmax(memory, arithmetic);
    return *seconds <= 0 ? "" : memory >= arithmetic ? "memory" : "arithmetic";
}

static status tell(const kernels_bench *b, const char *what, int32_t rows, const work *w, double seconds)
{
    double floor;
    const char *limit = limit_of(b, w, &floor);
    if (!b->a->json) {
        char time[CLI_AMOUNT];
        printf("  %-34s %5d rows %10s %8.1f GB/s %9.1f Gop/s", what, rows, cli_show_seconds(seconds, time), 1e-9 * w->bytes / seconds, 1e-9 * w->operations / seconds);
        if (floor > 0)
            printf("  %4.0f %% of %s", 100 * floor / seconds, limit);
        putchar('\n');
        fflush(stdout);
        return ST_OK;
    }
    json_t *o = json_pack("{ss ss si sf sf sf sf ss}", "backend", b->ops->ctx_describe(b->ctx), "test", what, "rows", rows, "seconds", seconds, "bytes", w->bytes, "operations",
                          w->operations, "floor_seconds", floor, "limit", limit);
    return results_put(o, b->environment, true, NULL);
}

static status tell_peaks(const kernels_bench *b)
{
    const ops_peaks *p = &b->peaks;
    if (!b->a->json && p->read <= 0) {
        printf("%s; its limits are not known\n", b->ops->ctx_describe(b->ctx));
        return ST_OK;
    }
    if (!b->a->json) {
        printf("%s; limits: memory %.1f GB/s, codes of 4 bits %.0f Gop/s, of 8 bits %.0f, f32 %.0f, bf16 %.0f\n", b->ops->ctx_describe(b->ctx), 1e-9 * p->read, 1e-9 * p->codes4,
               1e-9 * p->codes8, 1e-9 * p->f32, 1e-9 * p->bf16);
        return ST_OK;
    }
    json_t *o = json_pack("{ss ss sf sf sf sf sf}", "backend", b->ops->ctx_describe(b->ctx), "test", "peaks", "read", p->read, "codes4", p->codes4, "codes8", p->codes8, "f32",
                          p->f32, "bf16", p->bf16);
    return results_put(o, b->environment, true, NULL);
}

/* ---- timing ---- */

typedef status (*operation)(kernels_bench *b, void *arg, int i);

static status pass(kernels_bench *b, operation f, void *arg, int n, double *seconds)
{
    b->ops->step_begin(b->ctx, false);
    double begin = log_clock();
    for (int i = 0; i < n; i++)
        TRY(f(b, arg, i));
    TRY(b->ops->sync(b->ctx));
    *seconds = (log_clock() - begin) / n;
    b->ops->step_end(b->ctx);
    return ST_OK;
}

/* Seconds of one call in the fastest of several passes, each long enough to be timed. */
static status fastest(kernels_bench *b, operation f, void *arg, double *seconds)
{
    double t = 0;
    int n = 1;
    TRY(pass(b, f, arg, n, &t)); /* touches everything once */
    for (;;) {
        TRY(pass(b, f, arg, n, &t));
        if (t * n >= PASS_SECONDS || n > 1 << 24)
            break;
        n = t * n < PASS_SECONDS / 10 ? n * 8 : n * 2;
    }
    *seconds = t;
    for (int i = 1; i < PASSES; i++) {
        TRY(pass(b, f, arg, n, &t));
        *seconds = fmin(*seconds, t);
    }
    return ST_OK;
}

/* ---- products ---- */

typedef struct products {
    ops_linear_args args;
    packed_shape shape;
    size_t bytes; /* of one matrix, to the next multiple of 64 */
    int matrices;
} products;

static status one_product(kernels_bench *b, void *arg, int i)
{
    products *p = arg;
    p->args.w[0] = (ops_weight){b->weights, (size_t)(i % p->matrices) * p->bytes, p->shape};
    return b->ops->linear(b->ctx, &p->args);
}

static status matrix(kernels_bench *b, ops_type type, int32_t rows, int32_t cols, ops_mat *out)
{
    *out = (ops_mat){.type = type, .cols = cols, .stride = ops_row_bytes(type, cols)};
    return b->ops->buf_create(b->ctx, out->stride * (size_t)rows, "rows to measure with", &out->buf);
}

static status product(kernels_bench *b, packed_type type, int32_t rows)
{
    const packed_format *f = packed_format_of(type);
    products p = {.shape = {type, b->a->outputs, b->a->cols, 0}, .args = {.rows = rows, .n = 1}};
    packed_layout layout;
    char what[64];
    double seconds = 0;
    if (!packed_layout_of(p.shape, &layout) || layout.bytes > b->a->memory)
        return FAIL(ST_INVALID, "a matrix [%d, %d] of %s does not fit in --memory: give more, or a smaller --shape", b->a->outputs, b->a->cols, f->name);
    p.bytes = mem_align(layout.bytes, 64);
    p.matrices = (int)(b->a->memory / p.bytes);
    ops_type input = b->ops->linear_input(b->ctx, type);
    TRY(matrix(b, input, rows, b->a->cols, &p.args.x));
    status st = matrix(b, OPS_F32, rows, b->a->outputs, &p.args.y[0]);
    if (st == ST_OK)
        st = fastest(b, one_product, &p, &seconds);
    if (st == ST_OK) {
        double peak = !f->integer ? (input == OPS_BF16 ? b->peaks.bf16 : b->peaks.f32) : f->bits <= 4 && f->codebook == NULL ? b->peaks.codes4 : b->peaks.codes8;
        work w = {(double)layout.bytes, 2.0 * rows * p.shape.rows * p.shape.cols, peak, false};
        snprintf(what, sizeof(what), "linear %s %dx%d", f->name, p.shape.rows, p.shape.cols);
        st = tell(b, what, rows, &w, seconds);
    }
    if (p.args.y[0].buf != NULL)
        b->ops->buf_destroy(b->ctx, &p.args.y[0].buf);
    b->ops->buf_destroy(b->ctx, &p.args.x.buf);
    return st;
}

/* ---- attention ---- */

typedef struct attention_bench {
    ops_batch *batch;
    ops_kv *kv;
    ops_mat q, k, v, y;
    ops_attention_args attention;
    ops_qkv_args qkv;
    int32_t *tables, *tokens;
    ops_span *spans;
    int32_t layers, seqs, rows; /* rows: of each sequence */
} attention_bench;

static status one_attention(kernels_bench *b, void *arg, int i)
{
    attention_bench *t = arg;
    t->attention.kv_layer = i % t->layers;
    return b->ops->attention(b->ctx, t->batch, &t->attention);
}

static status one_qkv(kernels_bench *b, void *arg, int i)
{
    attention_bench *t = arg;
    (void)i;
    return b->ops->qkv(b->ctx, t->batch, &t->qkv);
}

/* The rows of each sequence at these positions; blocks lie scattered, as in a cache that has been in use. */
static status at_position(kernels_bench *b, attention_bench *t, int32_t position)
{
    int32_t each = (b->a->context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK;
    for (int32_t i = 0; i < t->seqs; i++)
        t->spans[i] = (ops_span){.row = i * t->rows, .n_rows = t->rows, .position = position, .table = {i * each}};
    ops_batch_desc d = {.n_rows = t->seqs * t->rows, .tokens = t->tokens, .n_spans = t->seqs, .spans = t->spans, .tables = {t->tables}, .n_table = {t->seqs * each}};
    return b->ops->batch_set(b->ctx, t->batch, &d);
}

static status attention_create(kernels_bench *b, attention_bench *t, ops_kv_type type)
{
    const kernels_args *a = b->a;
    int32_t n = t->seqs * t->rows, blocks = t->seqs * ((a->context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK);
    float *freq;
    TRY(mem_calloc((size_t)a->head_dim, sizeof(*freq), "measuring", &freq));
    for (int32_t i = 0; i < a->head_dim / 2; i++)
        freq[i] = powf(10000.0f, -2.0f * (float)i / (float)a->head_dim);
    ops_batch_limits l = {.max_rows = n, .max_spans = t->seqs, .max_out = 1, .max_blocks = blocks, .n_kv_groups = 1, .n_ropes = 1,
                          .ropes = {{a->head_dim / 2 * 2, false, 1, {freq}, {1}}}};
    status st = b->ops->batch_create(b->ctx, &l, &t->batch);
    free(freq);
    TRY(st);
    ops_kv_spec spec = {type, 1, a->kv_heads, a->head_dim, blocks};
    size_t layer = b->ops->kv_block_bytes(&spec) * (size_t)blocks;
    spec.n_layers = t->layers = layer < a->memory ? (int32_t)(a->memory / layer) : 1;
    TRY(b->ops->kv_create(b->ctx, &spec, &t->kv));
    for (int32_t i = 1; i < blocks; i++) /* memory that nobody wrote is not there yet */
        TRY(b->ops->kv_copy_block(b->ctx, t->kv, 0, i));
    TRY(mem_calloc((size_t)blocks, sizeof(*t->tables), "measuring", &t->tables));
    TRY(mem_calloc((size_t)n, sizeof(*t->tokens), "measuring", &t->tokens));
    TRY(mem_calloc((size_t)t->seqs, sizeof(*t->spans), "measuring", &t->spans));
    for (int32_t i = 0; i < blocks; i++)
        t->tables[i] = (int32_t)((int64_t)i * 7919 % blocks);
    TRY(matrix(b, OPS_F32, n, a->heads * a->head_dim, &t->q));
    TRY(matrix(b, OPS_F32, n, a->kv_heads * a->head_dim, &t->k));
    TRY(matrix(b, OPS_F32, n, a->kv_heads * a->head_dim, &t->v));
    TRY(matrix(b, OPS_F32, n, a->heads * a->head_dim, &t->y));
    t->qkv = (ops_qkv_args){.q = t->q, .k = t->k, .v = t->v, .n_heads = a->heads, .n_kv_heads = a->kv_heads, .head_dim = a->head_dim, .rope = 0, .kv = t->kv};
    t->attention = (ops_attention_args){.q = t->q, .n_heads = a->heads, .head_dim = a->head_dim, .heads_per_kv = a->heads / a->kv_heads,
                                        .scale = 1.0f / sqrtf((float)a->head_dim), .kv = t->kv, .y = t->y};
    return ST_OK;
}

static void attention_destroy(kernels_bench *b, attention_bench *t)
{
    ops_mat *all[] = {&t->q, &t->k, &t->v, &t->y};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i]->buf != NULL)
            b->ops->buf_destroy(b->ctx, &all[i]->buf);
    if (t->kv != NULL)
        b->ops->kv_destroy(b->ctx, &t->kv);
    if (t->batch != NULL)
        b->ops->batch_destroy(b->ctx, &t->batch);
    free(t->tables);
    free(t->tokens);
    free(t->spans);
}

/* The last `rows` tokens of each of `seqs` contexts. */
static status attention(kernels_bench *b, ops_kv_type type, int32_t seqs, int32_t rows)
{
    static const char *const names[] = {[OPS_KV_F32] = "f32", [OPS_KV_F16] = "f16", [OPS_KV_BF16] = "bf16", [OPS_KV_Q8] = "q8", [OPS_KV_F8] = "fp8"};
    const kernels_args *a = b->a;
    attention_bench t = {.seqs = seqs, .rows = rows < a->context ? rows : a->context};
    char what[64];
    double seconds = 0;
    status st = attention_create(b, &t, type);
    if (st == ST_OK)
        st = at_position(b, &t, a->context - t.rows);
    if (st == ST_OK)
        st = fastest(b, one_attention, &t, &seconds);
    if (st == ST_OK) {
        ops_kv_spec spec = {type, 1, a->kv_heads, a->head_dim, 1};
        double seen = (double)(a->context - t.rows) * t.rows + 0.5 * t.rows * (t.rows + 1); /* pairs of query and key */
        work w = {(double)b->ops->kv_block_bytes(&spec) / OPS_KV_BLOCK * a->context * seqs, 4.0 * a->heads * a->head_dim * seen * seqs, b->peaks.f32, false};
        snprintf(what, sizeof(what), "attention %s at %d, %d x %d", names[type], a->context, seqs, t.rows);
        st = tell(b, what, seqs * t.rows, &w, seconds);
    }
    if (st == ST_OK)
        st = fastest(b, one_qkv, &t, &seconds);
    if (st == ST_OK) {
        double elements = (double)(a->heads * 2 + a->kv_heads * 4) * a->head_dim * seqs * t.rows;
        work w = {elements * 4, 0, 0, true};
        snprintf(what, sizeof(what), "rope, KV write %s", names[type]);
        st = tell(b, what, seqs * t.rows, &w, seconds);
    }
    attention_destroy(b, &t);
    return st;
}

/* ---- rows ---- */

typedef struct rows_bench {
    ops_batch *batch;
    ops_mat x, part, y, gate, up, act, logits, adjusted;
    ops_norm_args norm;
    ops_gate_args gated;
    ops_sample_args sample;
    const float *parts[1];
    ops_sample_row *rows;
    ops_sample_out *out;
} rows_bench;

static status one_norm(kernels_bench *b, void *arg, int i)
{
    rows_bench *r = arg;
    (void)i;
    return b->ops->norm(b->ctx, r->batch, &r->norm);
}

static status one_gate(kernels_bench *b, void *arg, int i)
{
    (void)i;
    return b->ops->gate(b->ctx, &((rows_bench *)arg)->gated);
}

static status one_sample(kernels_bench *b, void *arg, int i)
{
    (void)i;
    return b->ops->sample(b->ctx, &((rows_bench *)arg)->sample);
}

static status rows_create(kernels_bench *b, rows_bench *r, int32_t n)
{
    const kernels_args *a = b->a;
    ops_type input = b->ops->linear_input(b->ctx, PACKED_Q8_0);
    ops_batch_limits l = {.max_rows = n, .max_spans = 1, .max_out = 1};
    ops_span span = {.n_rows = n};
    int32_t *tokens;
    TRY(b->ops->batch_create(b->ctx, &l, &r->batch));
    TRY(mem_calloc((size_t)n, sizeof(*tokens), "measuring", &tokens));
    ops_batch_desc d = {.n_rows = n, .tokens = tokens, .n_spans = 1, .spans = &span};
    status st = b->ops->batch_set(b->ctx, r->batch, &d);
    free(tokens);
    TRY(st);
    TRY(matrix(b, OPS_F32, n, a->cols, &r->x));
    TRY(matrix(b, OPS_F32, n, a->cols, &r->part));
    TRY(matrix(b, input, n, a->cols, &r->y));
    TRY(matrix(b, OPS_F32, n, a->outputs, &r->gate));
    TRY(matrix(b, OPS_F32, n, a->outputs, &r->up));
    TRY(matrix(b, input, n, a->outputs, &r->act));
    TRY(matrix(b, OPS_F32, n, a->vocabulary, &r->logits));
    TRY(matrix(b, OPS_F32, n, a->vocabulary, &r->adjusted));
    TRY(mem_calloc((size_t)n, sizeof(*r->rows), "measuring", &r->rows));
    TRY(mem_calloc((size_t)n, sizeof(*r->out), "measuring", &r->out));
    r->parts[0] = b->ops->mat_part(b->ctx, &r->part);
    r->norm = (ops_norm_args){.x = r->x, .parts = {r->parts, 1, r->part.stride / sizeof(float)}, .residual_scale = 1, .norm = OPS_NORM_RMS, .eps = 1e-5f, .n_y = 1, .y = {r->y}};
    r->gated = (ops_gate_args){n, r->gate, r->up, OPS_SILU, r->act, 0, NULL};
    r->sample = (ops_sample_args){r->logits, r->adjusted, 0, 1, 0, n, r->rows, r->out};
    return ST_OK;
}

static void rows_destroy(kernels_bench *b, rows_bench *r)
{
    ops_mat *all[] = {&r->x, &r->part, &r->y, &r->gate, &r->up, &r->act, &r->logits, &r->adjusted};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (all[i]->buf != NULL)
            b->ops->buf_destroy(b->ctx, &all[i]->buf);
    if (r->batch != NULL)
        b->ops->batch_destroy(b->ctx, &r->batch);
    free(r->rows);
    free(r->out);
}

/* Greedy; at temperature 1; and with the candidates that top-k and top-p need. */
static status samples(kernels_bench *b, rows_bench *r, int32_t n)
{
    static const struct {
        const char *name;
        float temperature;
        int32_t candidates;
    } ways[] = {{"sample greedy", 0, 1}, {"sample at temperature 1", 1, 1}, {"sample, 64 candidates", 1, 64}};
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        char what[64];
        double seconds;
        for (int32_t k = 0; k < n; k++)
            r->rows[k] = (ops_sample_row){.row = k, .temperature = ways[i].temperature, .repetition_penalty = 1, .seed = 9, .n_candidates = ways[i].candidates, .target = -1,
                                          .want_sample = true, .want_sum = ways[i].candidates > 1};
        TRY(fastest(b, one_sample, r, &seconds));
        work w = {4.0 * n * b->a->vocabulary, 0, 0, true};
        snprintf(what, sizeof(what), "%s of %d", ways[i].name, b->a->vocabulary);
        TRY(tell(b, what, n, &w, seconds));
    }
    return ST_OK;
}

static status rows(kernels_bench *b, int32_t n)
{
    rows_bench r = {0};
    char what[64];
    double seconds = 0;
    status st = rows_create(b, &r, n);
    if (st == ST_OK)
        st = fastest(b, one_norm, &r, &seconds);
    if (st == ST_OK) {
        work w = {(double)n * (3 * r.x.stride + r.y.stride), 0, 0, true};
        snprintf(what, sizeof(what), "residual, norm, quantise %d", b->a->cols);
        st = tell(b, what, n, &w, seconds);
    }
    if (st == ST_OK)
        st = fastest(b, one_gate, &r, &seconds);
    if (st == ST_OK) {
        work w = {(double)n * (2 * r.gate.stride + r.act.stride), 0, 0, true};
        snprintf(what, sizeof(what), "gate, quantise %d", b->a->outputs);
        st = tell(b, what, n, &w, seconds);
    }
    if (st == ST_OK)
        st = samples(b, &r, n < 32 ? n : 32);
    rows_destroy(b, &r);
    return st;
}

/* ---- all of it ---- */

static status weights_create(kernels_bench *b)
{
    char *fill;
    TRY(b->ops->buf_create(b->ctx, b->a->memory, "weights", &b->weights));
    TRY(mem_calloc(1, FILL_BYTES, "weights", &fill));
    memset(fill, 0x11, FILL_BYTES);
    status st = ST_OK;
    for (size_t at = 0; at < b->a->memory && st == ST_OK; at += FILL_BYTES)
        st = b->ops->buf_write(b->ctx, b->weights, at, fill, b->a->memory - at < FILL_BYTES ? b->a->memory - at : FILL_BYTES);
    free(fill);
    return st;
}

static status run(kernels_bench *b)
{
    const kernels_args *a = b->a;
    int32_t most = 1;
    for (int32_t i = 0; i < a->n_rows; i++)
        most = a->rows[i] > most ? a->rows[i] : most;
    if (b->ops->peaks != NULL)
        TRY(b->ops->peaks(b->ctx, a->memory, &b->peaks));
    TRY(tell_peaks(b));
    TRY(weights_create(b));
    for (int t = 0; t < PACKED_TYPES; t++) {
        if (a->type != NULL && packed_type_parse(a->type) != (packed_type)t)
            continue;
        for (int32_t i = 0; i < a->n_rows; i++)
            TRY(product(b, (packed_type)t, a->rows[i]));
    }
    b->ops->buf_destroy(b->ctx, &b->weights);
    if (a->type != NULL)
        return ST_OK;
    for (int t = 0; t < OPS_KV_TYPES; t++) {
        TRY(attention(b, (ops_kv_type)t, 1, 1));
        TRY(attention(b, (ops_kv_type)t, 16, 1));
        TRY(attention(b, (ops_kv_type)t, 1, 512));
    }
    TRY(rows(b, 1));
    return most > 1 ? rows(b, most) : ST_OK;
}

static status run_on(const kernels_args *a, json_t *environment, const ops_backend *ops, const char *isa)
{
    kernels_bench b = {.a = a, .environment = environment, .ops = ops};
    int32_t rows = 512, cols = a->heads * a->head_dim;
    for (int32_t i = 0; i < a->n_rows; i++)
        rows = a->rows[i] > rows ? a->rows[i] : rows;
    cols = a->cols > cols ? a->cols : cols;
    cols = a->outputs > cols ? a->outputs : cols;
    ops_ctx_options o = {.n_threads = a->threads, .first_core = 0, .spin = true, .isa = isa, .max_rows = rows, .max_cols = cols};
    status st = ops->ctx_create(&o, &b.ctx);
    if (st == ST_OK)
        st = run(&b);
    if (b.weights != NULL)
        ops->buf_destroy(b.ctx, &b.weights);
    if (b.ctx != NULL)
        ops->ctx_destroy(&b.ctx);
    return st;
}

/* Whether the CPU's backend has it on this machine. */
static bool has(const char *isa)
{
    ops_ctx *ctx = NULL;
    ops_ctx_options o = {.n_threads = 1, .first_core = -1, .isa = isa, .max_rows = 1, .max_cols = 64};
    bool yes = ops_cpu()->ctx_create(&o, &ctx) == ST_OK;
    ops_cpu()->ctx_destroy(&ctx);
    return yes;
}

int cli_bench_kernels(int argc, char **argv)
{
    static const char *const sets[] = {"amx", "avx512bf16", "avx512", "avx2"};
    kernels_args a = {.device = OPS_DEVICE_CPU, .memory = (size_t)1 << 30, .rows = {1, 2, 4, 8, 16, 32, 64, 512}, .n_rows = 8, .outputs = 2048, .cols = 2048,
                      .context = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .vocabulary = 128256};
    const struct argp argp = {options, parse, NULL, doc, NULL, NULL, NULL};
    const ops_backend *ops;
    json_t *environment = results_environment(argc, argv);
    cli_parse(&argp, argc, argv, &a);
    status st = ops_device_open(a.device, &ops, NULL, 0);
    int n = 0;
    for (size_t i = 0; i < ARRAY_LEN(sets) && st == ST_OK && a.isa == NULL && a.device == OPS_DEVICE_CPU; i++) {
        if (!has(sets[i]))
            continue;
        st = run_on(&a, environment, ops, sets[i]);
        n++;
    }
    if (st == ST_OK && n == 0)
        st = run_on(&a, environment, ops, a.isa);
    json_decref(environment);
    return cli_finish_output(st != ST_OK ? cli_report(st) : 0);
}
