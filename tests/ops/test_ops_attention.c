/* tests/ops/test_ops_attention.c - qkv and attention against a double-precision reference, and bit for bit across levels, threads, row grouping and
 * chunking: a token decoded alone equals the same token recomputed within a prompt, whoever else is in the step. */
#include "tests/ops/fixture.h"

#include "base/half.h"
#include "ops/cpu/cpu_internal.h"
#include "ops/cpu/cpu_kv.h"

typedef struct shape {
    const char *name;
    int32_t n_heads, n_kv_heads, head_dim, head_begin, kv_head_begin, heads_per_kv; /* of this rank */
    ops_kv_type type;
    float softcap;
    int32_t window;
    bool sinks, slopes;
    int32_t rope_dims;
    bool interleaved;
    ops_qk_norm norm;
    int32_t length; /* of the longest sequence */
} shape;

static const shape SHAPES[] = {
    {"smollm2 f16", 9, 3, 64, 0, 0, 3, OPS_KV_F16, 0, 0, false, false, 64, false, OPS_QK_NONE, 290},
    {"f32", 4, 2, 32, 0, 0, 2, OPS_KV_F32, 0, 0, false, false, 32, false, OPS_QK_HEAD_RMS, 265},
    {"bf16 window", 4, 4, 80, 0, 0, 1, OPS_KV_BF16, 0, 19, false, false, 32, false, OPS_QK_NONE, 300},
    {"q8", 8, 2, 48, 0, 0, 4, OPS_KV_Q8, 0, 0, false, false, 48, true, OPS_QK_NONE, 280},
    {"q8 odd", 7, 1, 40, 0, 0, 7, OPS_KV_Q8, 0, 100, false, false, 40, false, OPS_QK_HEAD_LAYER, 270},
    {"sinks, softcap", 6, 2, 8, 0, 0, 3, OPS_KV_F32, 30.0f, 0, true, false, 8, false, OPS_QK_NONE, 290},
    {"slopes", 5, 5, 12, 0, 0, 1, OPS_KV_F32, 0, 0, false, true, 0, false, OPS_QK_NONE, 270},
    {"part of the heads", 5, 3, 16, 4, 0, 3, OPS_KV_F16, 0, 33, false, false, 16, false, OPS_QK_FULL_RMS, 100},
    {"fp8", 8, 2, 72, 0, 0, 4, OPS_KV_F8, 0, 0, false, false, 0, false, OPS_QK_NONE, 280},
    {"fp8 odd", 7, 1, 40, 0, 0, 7, OPS_KV_F8, 0, 100, false, false, 40, false, OPS_QK_HEAD_LAYER, 270},
    {"one kv head for 30", 30, 1, 16, 0, 0, 30, OPS_KV_F32, 0, 0, false, false, 16, false, OPS_QK_NONE, 40},
};

#define LAYERS 2
#define LAYER 1
#define SEQS 3
#define BLOCKS 260 /* of the cache */

typedef struct world { /* the same inputs for everyone: q, k, v of each position of each sequence */
    const shape *s;
    int32_t lengths[SEQS];
    float *q[SEQS], *k[SEQS], *v[SEQS];
    float inv_freq[64];
} world;

static float *random_floats(size_t n, float scale, uint64_t seed)
{
    float *p = test_malloc((n > 0 ? n : 1) * sizeof(float));
    for (size_t i = 0; i < n; i++)
        p[i] = uniform(&seed) * scale;
    return p;
}

static void world_make(world *w, const shape *s)
{
    *w = (world){.s = s, .lengths = {s->length, s->length / 3 + 1, 18}};
    for (int i = 0; i < SEQS; i++) {
        w->q[i] = random_floats((size_t)(w->lengths[i] * s->n_heads * s->head_dim), 3.0f, 10 + (uint64_t)i);
        w->k[i] = random_floats((size_t)(w->lengths[i] * s->n_kv_heads * s->head_dim), 1.5f, 20 + (uint64_t)i);
        w->v[i] = random_floats((size_t)(w->lengths[i] * s->n_kv_heads * s->head_dim), 1.0f, 30 + (uint64_t)i);
    }
    for (int i = 0; i < s->rope_dims / 2; i++)
        w->inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)s->rope_dims);
}

static void world_free(world *w)
{
    for (int i = 0; i < SEQS; i++) {
        test_free(w->q[i]);
        test_free(w->k[i]);
        test_free(w->v[i]);
    }
}

typedef struct engine { /* one context's cache and results */
    ops_ctx *ctx;
    const world *w;
    ops_kv *kv;
    ops_batch *batch;
    ops_mat q, k, v, y;
    ops_vec q_weight, k_weight, sinks, slopes;
    int32_t table[BLOCKS], blocks_of[SEQS];
    float *result[SEQS]; /* [length][heads * head_dim] */
    bool store_only;     /* steps write the cache and attend nothing */
} engine;

static void engine_make(engine *e, ops_ctx *ctx, const world *w)
{
    const shape *s = w->s;
    *e = (engine){.ctx = ctx, .w = w};
    ops_kv_spec spec = {s->type, LAYERS, s->n_kv_heads, s->head_dim, BLOCKS};
    OK(ops_cpu()->kv_create(ctx, &spec, &e->kv));
    ops_rope_spec rope = {s->rope_dims, s->interleaved, 1, {w->inv_freq}, {1.0f}};
    e->batch = batch_make(ctx, 1, 1, &rope);
    e->q = mat_make(ctx, OPS_F32, MAX_ROWS, s->n_heads * s->head_dim);
    e->k = mat_make(ctx, OPS_F32, MAX_ROWS, s->n_kv_heads * s->head_dim);
    e->v = mat_make(ctx, OPS_F32, MAX_ROWS, s->n_kv_heads * s->head_dim);
    e->y = mat_make(ctx, OPS_F32, MAX_ROWS, s->n_heads * s->head_dim + 5);
    int32_t nq = s->norm == OPS_QK_FULL_RMS ? s->n_heads * s->head_dim : s->head_dim, nk = s->norm == OPS_QK_FULL_RMS ? s->n_kv_heads * s->head_dim : s->head_dim;
    e->q_weight = vec_make(ctx, nq, 0.5f, 1.0f, 40);
    e->k_weight = vec_make(ctx, nk, 0.5f, 1.0f, 41);
    if (s->sinks)
        e->sinks = vec_make(ctx, s->n_heads, 3.0f, 0.0f, 42);
    if (s->slopes)
        e->slopes = vec_make(ctx, s->n_heads, 0.2f, 0.3f, 43);
    int32_t next = 7, at = 0;
    for (int i = 0; i < SEQS; i++) { /* blocks scattered over the cache */
        e->blocks_of[i] = at;
        for (int32_t b = 0; b * OPS_KV_BLOCK < w->lengths[i]; b++, next = (next + 37) % BLOCKS)
            e->table[at++] = next;
        e->result[i] = test_malloc(sizeof(float) * (size_t)(w->lengths[i] * s->n_heads * s->head_dim));
    }
    memset(e->kv->data, 0xff, e->kv->bytes); /* NaN: what a block held before must not matter, nor what lies in the slots not yet written */
}

static void engine_free(engine *e)
{
    ops_cpu()->kv_destroy(e->ctx, &e->kv);
    ops_cpu()->batch_destroy(e->ctx, &e->batch);
    mat_free(e->ctx, &e->q);
    mat_free(e->ctx, &e->k);
    mat_free(e->ctx, &e->v);
    mat_free(e->ctx, &e->y);
    vec_free(e->ctx, &e->q_weight);
    vec_free(e->ctx, &e->k_weight);
    vec_free(e->ctx, &e->sinks);
    vec_free(e->ctx, &e->slopes);
    for (int i = 0; i < SEQS; i++)
        test_free(e->result[i]);
}

/* One step: rows[i] new tokens of sequence i from done[i] on. */
static void engine_step(engine *e, const int32_t *rows, int32_t *done)
{
    const shape *s = e->w->s;
    ops_span spans[SEQS];
    int32_t n = 0, n_spans = 0, qw = s->n_heads * s->head_dim, kw = s->n_kv_heads * s->head_dim;
    static const int32_t tokens[MAX_ROWS];
    float q_sumsq[MAX_ROWS], k_sumsq[MAX_ROWS];
    for (int i = 0; i < SEQS; i++) {
        if (rows[i] == 0)
            continue;
        spans[n_spans++] = (ops_span){.row = n, .n_rows = rows[i], .position = done[i], .table = {e->blocks_of[i]}};
        for (int32_t r = 0; r < rows[i]; r++, n++) {
            memcpy(mat_row(e->ctx, &e->q, n), e->w->q[i] + (size_t)(done[i] + r) * (size_t)qw, (size_t)qw * sizeof(float));
            memcpy(mat_row(e->ctx, &e->k, n), e->w->k[i] + (size_t)(done[i] + r) * (size_t)kw, (size_t)kw * sizeof(float));
            memcpy(mat_row(e->ctx, &e->v, n), e->w->v[i] + (size_t)(done[i] + r) * (size_t)kw, (size_t)kw * sizeof(float));
        }
    }
    ops_batch_desc d = {.n_rows = n, .tokens = tokens, .n_spans = n_spans, .spans = spans, .tables = {e->table}, .n_table = {BLOCKS}};
    OK(ops_cpu()->batch_set(e->ctx, e->batch, &d));
    ops_sumsq_args sq = {n, e->q, 0, qw, q_sumsq}, sk = {n, e->k, 0, kw, k_sumsq};
    OK(ops_cpu()->sumsq(e->ctx, &sq));
    OK(ops_cpu()->sumsq(e->ctx, &sk));
    ops_qkv_args a = {.q = e->q, .k = e->k, .v = e->v, .n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim, .norm = s->norm,
                      .q_weight = e->q_weight, .k_weight = e->k_weight, .eps = 1e-5f, .q_sumsq = q_sumsq, .k_sumsq = k_sumsq, .q_total = qw, .k_total = kw,
                      .rope = s->rope_dims > 0 ? 0 : -1, .kv = e->kv, .kv_layer = LAYER};
    OK(ops_cpu()->qkv(e->ctx, e->batch, &a));
    if (e->store_only) {
        for (int i = 0; i < SEQS; i++)
            done[i] += rows[i];
        return;
    }
    ops_attention_args at = {.q = e->q, .n_heads = s->n_heads, .head_dim = s->head_dim, .head_begin = s->head_begin, .heads_per_kv = s->heads_per_kv,
                             .kv_head_begin = s->head_begin / s->heads_per_kv, .scale = 0.3f, .softcap = s->softcap, .window = s->window, .sinks = e->sinks,
                             .slopes = e->slopes, .kv = e->kv, .kv_layer = LAYER, .y = e->y, .y_col = 3};
    OK(ops_cpu()->attention(e->ctx, e->batch, &at));
    n = 0;
    for (int i = 0; i < SEQS; i++)
        for (int32_t r = 0; r < rows[i]; r++, n++) {
            float *y = mat_row(e->ctx, &e->y, n);
            for (int c = 0; c < 3; c++)
                assert_true(y[c] == 0.0f);
            assert_true(y[qw + 3] == 0.0f && y[qw + 4] == 0.0f);
            memcpy(e->result[i] + (size_t)(done[i] + r) * (size_t)qw, y + 3, (size_t)qw * sizeof(float));
        }
    for (int i = 0; i < SEQS; i++)
        done[i] += rows[i];
}

/* Runs every sequence to its end: chunks of `chunk` rows of each together, or one sequence after another. */
static void engine_run(engine *e, int32_t chunk, bool together)
{
    int32_t done[SEQS] = {0};
    if (together) {
        for (bool more = true; more;) {
            int32_t rows[SEQS], total = 0;
            for (int i = 0; i < SEQS; i++) {
                int32_t left = e->w->lengths[i] - done[i];
                rows[i] = left < chunk ? left : chunk;
                total += rows[i];
            }
            more = total > 0;
            if (more)
                engine_step(e, rows, done);
        }
        return;
    }
    for (int i = 0; i < SEQS; i++)
        while (done[i] < e->w->lengths[i]) {
            int32_t left = e->w->lengths[i] - done[i], rows[SEQS] = {0};
            rows[i] = left < chunk ? left : chunk;
            engine_step(e, rows, done);
        }
}

/* ---- the reference, in double ---- */
/* e4m3 as OCP's specification has it: sign, four bits of exponent with bias 7, three of mantissa; no infinities, all bits set is NaN. */
static double e4m3_value(int code)
{
    int e = code >> 3 & 15, m = code & 7;
    double v = e == 0 ? ldexp(m, -9) : ldexp(8 + m, e - 10);
    return (code & 0x7f) == 0x7f ? (double)NAN : (code & 0x80) != 0 ? -v : v;
}

/* The nearest of all values, of two as near the even code; beyond the last that one. */
static int e4m3_nearest(double x)
{
    int best = 0;
    for (int c = 1; c < 0x7f; c++) {
        double gap = fabs(e4m3_value(c) - fabs(x)), least = fabs(e4m3_value(best) - fabs(x));
        if (gap < least || (gap == least && c % 2 == 0) || isinf(x))
            best = c;
    }
    return isnan(x) ? 0x7f : signbit(x) ? best | 0x80 : best;
}

static double kv_round(const shape *s, double x)
{
    if (s->type == OPS_KV_F8)
        return e4m3_value(e4m3_nearest((float)x));
    if (s->type == OPS_KV_F16)
        return half_f16_to_f32(half_f32_to_f16((float)x));
    if (s->type == OPS_KV_BF16)
        return half_bf16_to_f32(half_f32_to_bf16((float)x));
    return x;
}

static void reference_head(const world *w, const float *in, const float *weight, double sumsq, int32_t total, int32_t position, double *out)
{
    const shape *s = w->s;
    int32_t n = s->head_dim, half = s->rope_dims / 2;
    double mean = 0, square = 0;
    for (int32_t i = 0; i < n; i++)
        mean += in[i] / (double)n;
    for (int32_t i = 0; i < n; i++)
        square += s->norm == OPS_QK_HEAD_LAYER ? (in[i] - mean) * (in[i] - mean) : (double)in[i] * in[i];
    for (int32_t i = 0; i < n; i++) {
        out[i] = in[i];
        if (s->norm == OPS_QK_HEAD_LAYER)
            out[i] = (in[i] - mean) / sqrt(square / n + 1e-5) * weight[i];
        else if (s->norm == OPS_QK_HEAD_RMS)
            out[i] = in[i] / sqrt(square / n + 1e-5) * weight[i];
        else if (s->norm == OPS_QK_FULL_RMS)
            out[i] = in[i] / sqrt(sumsq / total + 1e-5) * weight[i];
    }
    for (int32_t i = 0; i < half; i++) {
        double angle = (double)(w->inv_freq[i] * (float)position), c = cos(angle), sn = sin(angle);
        int32_t x = s->interleaved ? 2 * i : i, y = s->interleaved ? 2 * i + 1 : half + i;
        double a = out[x], b = out[y];
        out[x] = a * c - b * sn;
        out[y] = b * c + a * sn;
    }
}

static double squares(const float *x, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sum;
}

static void reference_check(const engine *e, int seq, int32_t position, double bound)
{
    const world *w = e->w;
    const shape *s = w->s;
    int32_t hd = s->head_dim, qw = s->n_heads * hd, kw = s->n_kv_heads * hd, first = s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
    const float *qin = w->q[seq] + (size_t)position * (size_t)qw, *q_weight = vec_data(e->ctx, &e->q_weight), *k_weight = vec_data(e->ctx, &e->k_weight);
    const float *sinks = vec_data(e->ctx, &e->sinks), *slopes = vec_data(e->ctx, &e->slopes);
    double q[128], k[128], *score = test_malloc(sizeof(double) * (size_t)(position + 1)), out[128];
    for (int32_t h = 0; h < s->n_heads; h++) {
        int32_t kv = (s->head_begin + h) / s->heads_per_kv - s->head_begin / s->heads_per_kv;
        bool full = s->norm == OPS_QK_FULL_RMS;
        reference_head(w, qin + (size_t)h * (size_t)hd, q_weight + (full ? h * hd : 0), squares(qin, qw), qw, position, q);
        double max = sinks != NULL ? (double)sinks[h] : -INFINITY, sum = 0;
        for (int32_t t = first; t <= position; t++) {
            const float *kin = w->k[seq] + (size_t)t * (size_t)kw;
            reference_head(w, kin + (size_t)kv * (size_t)hd, k_weight + (full ? kv * hd : 0), squares(kin, kw), kw, t, k);
            double dot = 0;
            for (int32_t d = 0; d < hd; d++)
                dot += q[d] * kv_round(s, k[d]);
            dot *= 0.3f;
            if (s->softcap > 0)
                dot = s->softcap * tanh(dot / s->softcap);
            if (slopes != NULL)
                dot += slopes[h] * (t - position);
            score[t] = dot;
            max = dot > max ? dot : max;
        }
        memset(out, 0, sizeof(out));
        if (sinks != NULL)
            sum += exp(sinks[h] - max);
        for (int32_t t = first; t <= position; t++) {
            double p = exp(score[t] - max);
            sum += p;
            for (int32_t d = 0; d < hd; d++)
                out[d] += p * kv_round(s, w->v[seq][(size_t)t * (size_t)kw + (size_t)(kv * hd + d)]);
        }
        for (int32_t d = 0; d < hd; d++)
            assert_near(s->name, e->result[seq][(size_t)position * (size_t)qw + (size_t)(h * hd + d)], out[d] / sum, bound);
    }
    test_free(score);
}

static void attention_matches_reference_and_itself(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(SHAPES); i++) {
        const shape *s = &SHAPES[i];
        world w;
        engine base;
        world_make(&w, s);
        engine_make(&base, contexts[0].ctx, &w); /* plain C, one thread, prompts in chunks of 23 */
        engine_run(&base, 23, true);
        /* f16/bf16: a key that rounds the other way moves a score by 2^-9 of its size; q8: by the width of a code; fp8: by a sixteenth, but not keys as they came */
        bool as_came = s->norm == OPS_QK_NONE && s->rope_dims == 0;
        double bound = s->type == OPS_KV_Q8 ? 0.08 : s->type == OPS_KV_F32 || (s->type == OPS_KV_F8 && as_came) ? 2e-5 : s->type == OPS_KV_F8 ? 0.08 : 4e-3;
        for (int q = 0; q < SEQS; q++)
            for (int32_t p = 0; p < w.lengths[q]; p += p < 40 ? 1 : 29)
                reference_check(&base, q, p, bound);
        for (int c = 0; c < n_contexts; c++) {
            static const struct {
                int32_t chunk;
                bool together;
            } ways[] = {{1, true}, {7, true}, {26, true}, {MAX_ROWS, false}};
            for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
                if (strncmp(contexts[c].name, "c ", 2) == 0 && k == 1) /* slow */
                    continue;
                engine e;
                engine_make(&e, contexts[c].ctx, &w);
                engine_run(&e, ways[k].chunk, ways[k].together);
                for (int q = 0; q < SEQS; q++)
                    if (memcmp(e.result[q], base.result[q], sizeof(float) * (size_t)(w.lengths[q] * s->n_heads * s->head_dim)) != 0)
                        fail_msg("%s, %s: chunks of %d %s: sequence %d differs", s->name, contexts[c].name, ways[k].chunk, ways[k].together ? "together" : "alone", q);
                engine_free(&e);
            }
        }
        engine_free(&base);
        world_free(&w);
    }
}

/* At long context a lone token's chunks are shared among the threads; who merges them must not matter. */
static void chunks_shared_among_threads_merge_to_the_same(void **state)
{
    (void)state;
    static const shape s = {"long context", 9, 3, 64, 0, 0, 3, OPS_KV_F16, 0, 0, true, false, 64, false, OPS_QK_NONE, 2310};
    world w;
    engine base;
    world_make(&w, &s);
    for (int c = 0; c < n_contexts; c++) {
        engine e;
        engine_make(&e, contexts[c].ctx, &w);
        int32_t done[SEQS] = {0}, last = s.length - 3;
        e.store_only = true;
        while (done[0] < last) {
            int32_t rows[SEQS] = {last - done[0] < MAX_ROWS ? last - done[0] : MAX_ROWS};
            engine_step(&e, rows, done);
        }
        e.store_only = false;
        for (int i = 0; i < 3; i++) {
            int32_t rows[SEQS] = {1, i == 2 ? 5 : 0}; /* alone, then beside a short one */
            engine_step(&e, rows, done);
        }
        if (contexts[c].ctx->n_threads > 1)
            assert_non_null(contexts[c].ctx->partials); /* they were shared */
        for (int32_t p = last; p < s.length && c == 0; p++)
            reference_check(&e, 0, p, 4e-3);
        size_t width = (size_t)(s.n_heads * s.head_dim);
        if (c == 0)
            base = e;
        else if (memcmp(e.result[0] + (size_t)last * width, base.result[0] + (size_t)last * width, 3 * width * sizeof(float)) != 0)
            fail_msg("%s: differs with %s", s.name, contexts[c].name);
        if (c > 0)
            engine_free(&e);
    }
    engine_free(&base);
    world_free(&w);
}

static void check_e4m3(float x)
{
    int want = e4m3_nearest((double)x), got = half_f32_to_e4m3(x);
    if (got != want && !(isnan(x) && (got & 0x7f) == 0x7f))
        fail_msg("%.9g (%08x) becomes fp8 %02x, want %02x", (double)x, half_f32_bits(x), (unsigned)got, (unsigned)want);
}

static void fp8_rounds_to_the_nearest(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (uint32_t b = 0; b < 65536; b++) /* every bf16: subnormals, infinities, NaN */
        check_e4m3(half_bits_f32(b << 16));
    for (int c = 0; c < 0x7e; c++) { /* where one value gives way to the next */
        float tie = (float)((e4m3_value(c) + e4m3_value(c + 1)) / 2), around[] = {tie, nextafterf(tie, 0.0f), nextafterf(tie, INFINITY), (float)e4m3_value(c)};
        for (size_t i = 0; i < ARRAY_LEN(around); i++) {
            check_e4m3(around[i]);
            check_e4m3(-around[i]);
        }
    }
    static const float hard[] = {448.0f, 449.0f, 464.0f, 479.0f, 480.0f, 512.0f, 3e38f, INFINITY, NAN, 0x1p-10f, 0x1.000002p-10f, 0x1p-149f, 0x1.fffffep-7f, 0.0f};
    for (size_t i = 0; i < ARRAY_LEN(hard); i++) {
        check_e4m3(hard[i]);
        check_e4m3(-hard[i]);
    }
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)random_bits(&seed);
        check_e4m3(half_bits_f32(bits));
        check_e4m3(half_bits_f32((bits & 0x807fffffu) | (uint32_t)(115 + i % 24) << 23)); /* 2^-12 .. 2^12 */
    }
    for (int c = 0; c < 256; c++) {
        float v = half_e4m3_to_f32((uint8_t)c);
        assert_true(((c & 0x7f) == 0x7f ? isnan(v) != 0 : v == (float)e4m3_value(c)) && (signbit(v) != 0) == (c > 127));
        assert_int_equal(half_f32_to_e4m3(v), c);
    }
}

/* One position that sees itself alone has the weight 1: each code's value comes out as it is, on every level. */
static void every_fp8_value_comes_through(void **state)
{
    (void)state;
    static const shape s = {"fp8 values", 2, 2, 128, 0, 0, 1, OPS_KV_F8, 0, 0, false, false, 0, false, OPS_QK_NONE, 54};
    for (int c = 0; c < n_contexts; c++) {
        world w;
        engine e;
        world_make(&w, &s);
        for (int i = 0; i < 256; i++) {
            w.v[0][i] = (float)e4m3_value(i);
            w.v[1][i] = (float)e4m3_value(i) * 1.04f; /* to be rounded */
        }
        engine_make(&e, contexts[c].ctx, &w);
        int32_t rows[SEQS] = {1, 1, 0}, done[SEQS] = {0};
        engine_step(&e, rows, done);
        for (int i = 0; i < 256; i++)
            for (int q = 0; q < 2; q++) {
                float want = (float)e4m3_value(e4m3_nearest((double)w.v[q][i])), got = e.result[q][i];
                if (!(got == want || (isnan(got) && isnan(want))))
                    fail_msg("%s: code %d: %.9g, want %.9g", contexts[c].name, i, (double)got, (double)want);
            }
        engine_free(&e);
        world_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_matches_reference_and_itself),
        cmocka_unit_test(chunks_shared_among_threads_merge_to_the_same),
        cmocka_unit_test(fp8_rounds_to_the_nearest),
        cmocka_unit_test(every_fp8_value_comes_through),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
