/* tests/cuda/test_cuda_step.c - whole steps through the backend's table: a model of two layers is fed prompts and decodes, sequences come and go, and lists and
 * tables change from step to step.  Four run side by side: the CPU's plain C; the device with a wait after every operation; the device as the
 * worker uses it, which queues everything, waits only for results and lets decode steps be recorded; and the device with several steps queued before
 * anything is waited for.  Those on the device agree in every bit, and with the CPU within rounding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "ops/device.h"

#define OK(expr) assert_int_equal(expr, ST_OK)

enum {
    LAYERS = 2, HIDDEN = 96, HEADS = 6, KV_HEADS = 2, HEAD = 32, WIDE = 224, VOCAB = 528, MOST_ROWS = 40, SEQS = 6, BLOCKS = 97, LONGEST = 420, STEPS = 40, NEAR = 33, DEPTH = 4,
    ROW_FLOATS = HIDDEN * 8 + WIDE * 4 + VOCAB * (4 + DEPTH)
};

static uint64_t seed = 1;

static uint32_t draw(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

/* ---- a model on one backend ---- */

typedef struct model {
    const char *name;
    const ops_backend *o;
    ops_ctx *ctx;
    bool waits; /* after every operation */
    int depth;  /* steps that are queued before their results are wanted */
    ops_batch *batch;
    ops_kv *kv[LAYERS];
    ops_buf *weights, *rows;
    ops_weight embedding, qkv[LAYERS][3], out[LAYERS], up[LAYERS][2], down[LAYERS];
    ops_vec norm, bias, sinks;
    ops_mat x, h, q, k, v, attended, gate, upper, act, y, adjusted, logits[DEPTH];
    int played;
} model;

/* Where the next weight goes; its bytes are the same on every backend. */
static ops_weight weight(model *m, size_t *at, packed_type type, int32_t rows, int32_t cols)
{
    packed_shape s = {type, rows, cols, 0};
    size_t bytes = packed_bytes(s);
    char *fill = malloc(bytes);
    if (type == PACKED_F32) {
        for (size_t i = 0; i < bytes / 4; i++)
            ((float *)(void *)fill)[i] = ((float)draw(2001) - 1000.0f) / 1000.0f / sqrtf((float)cols);
    } else {
        for (size_t i = 0; i < bytes; i++) /* codes, scales and minima that are small and positive */
            fill[i] = (char)(0x10 + draw(8));
    }
    OK(m->o->buf_write(m->ctx, m->weights, *at, fill, bytes));
    free(fill);
    ops_weight w = {m->weights, *at, s};
    *at += mem_align(bytes, 64);
    return w;
}

static ops_vec vector(model *m, size_t *at, int32_t n)
{
    float *v = malloc((size_t)n * 4);
    for (int32_t i = 0; i < n; i++)
        v[i] = 0.5f + (float)draw(1000) / 1000.0f;
    OK(m->o->buf_write(m->ctx, m->weights, *at, v, (size_t)n * 4));
    free(v);
    ops_vec r = {m->weights, *at, n};
    *at += mem_align((size_t)n * 4, 64);
    return r;
}

static ops_mat matrix(model *m, size_t *at, ops_type type, int32_t cols)
{
    ops_mat r = {m->rows, *at, type, cols, ops_row_bytes(type, cols)};
    *at += r.stride * MOST_ROWS;
    return r;
}

static void model_open(model *m, const char *name, const ops_backend *o, const char *isa, bool waits, int depth)
{
    static const float freq[2][HEAD / 2] = {{1, 0.5f, 0.25f, 0.1f, 0.01f}, {0.7f, 0.3f, 0.2f}};
    size_t at = 0;
    *m = (model){.name = name, .o = o, .waits = waits, .depth = depth};
    ops_ctx_options options = {.n_threads = 1, .first_core = -1, .isa = isa, .max_rows = MOST_ROWS, .max_cols = VOCAB};
    OK(o->ctx_create(&options, &m->ctx));
    OK(o->buf_create(m->ctx, (size_t)4 << 20, "weights", &m->weights));
    OK(o->buf_create(m->ctx, (size_t)ROW_FLOATS * 4 * MOST_ROWS, "rows", &m->rows));
    seed = 77;
    m->embedding = weight(m, &at, PACKED_F32, VOCAB, HIDDEN);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < 3; i++)
            m->qkv[l][i] = weight(m, &at, PACKED_F32, i == 0 ? HEADS * HEAD : KV_HEADS * HEAD, HIDDEN);
        m->out[l] = weight(m, &at, PACKED_F32, HIDDEN, HEADS * HEAD);
        m->up[l][0] = weight(m, &at, PACKED_Q8_0, WIDE, HIDDEN);
        m->up[l][1] = weight(m, &at, PACKED_Q4_1, WIDE, HIDDEN);
        m->down[l] = weight(m, &at, l == 0 ? PACKED_Q5_1 : PACKED_F32, HIDDEN, WIDE);
    }
    m->norm = vector(m, &at, HIDDEN);
    m->bias = vector(m, &at, HEADS * HEAD);
    m->sinks = vector(m, &at, HEADS);
    assert_true(at <= (size_t)4 << 20);
    ops_batch_limits l = {.max_rows = MOST_ROWS, .max_spans = SEQS, .max_out = MOST_ROWS, .max_blocks = SEQS * (LONGEST / OPS_KV_BLOCK + 1), .max_context = LONGEST,
                          .n_kv_groups = 2, .n_ropes = 2, .ropes = {{HEAD, false, 2, {freq[0], freq[1]}, {1, 1.5f}}, {HEAD / 2, true, 1, {freq[1]}, {1}}}};
    OK(o->batch_create(m->ctx, &l, &m->batch));
    for (int i = 0; i < LAYERS; i++)
        OK(o->kv_create(m->ctx, &(ops_kv_spec){i == 0 ? OPS_KV_F16 : OPS_KV_F32, 2, KV_HEADS, HEAD, BLOCKS}, &m->kv[i]));
    at = 0;
    m->x = matrix(m, &at, OPS_F32, HIDDEN);
    m->h = matrix(m, &at, OPS_F32, HIDDEN);
    m->q = matrix(m, &at, OPS_F32, HEADS * HEAD);
    m->k = matrix(m, &at, OPS_F32, KV_HEADS * HEAD);
    m->v = matrix(m, &at, OPS_F32, KV_HEADS * HEAD);
    m->attended = matrix(m, &at, OPS_F32, HEADS * HEAD);
    m->gate = matrix(m, &at, OPS_F32, WIDE);
    m->upper = matrix(m, &at, OPS_F32, WIDE);
    m->act = matrix(m, &at, OPS_F32, WIDE);
    m->y = matrix(m, &at, OPS_F32, HIDDEN);
    for (int i = 0; i < depth; i++)
        m->logits[i] = matrix(m, &at, OPS_F32, VOCAB);
    m->adjusted = matrix(m, &at, OPS_F32, VOCAB);
    assert_true(at <= (size_t)ROW_FLOATS * 4 * MOST_ROWS);
}

static void model_close(model *m)
{
    for (int i = 0; i < LAYERS; i++)
        m->o->kv_destroy(m->ctx, &m->kv[i]);
    m->o->batch_destroy(m->ctx, &m->batch);
    m->o->buf_destroy(m->ctx, &m->weights);
    m->o->buf_destroy(m->ctx, &m->rows);
    m->o->ctx_destroy(&m->ctx);
}

static void did(model *m, status st)
{
    if (st != ST_OK)
        fail_msg("%s: %s", m->name, status_message());
    if (m->waits)
        OK(m->o->sync(m->ctx));
}

static void layer(model *m, int l, int32_t rows, bool last)
{
    const ops_backend *o = m->o;
    const float *parts[1] = {o->mat_part(m->ctx, &m->y)};
    ops_norm_args before = {.x = m->x, .parts = {parts, l > 0, m->y.stride / 4}, .residual_scale = 0.5f, .norm = OPS_NORM_RMS, .weight = m->norm, .eps = 1e-5f, .n_y = 1, .y = {m->h}};
    did(m, o->norm(m->ctx, m->batch, &before));
    did(m, o->linear(m->ctx, &(ops_linear_args){.rows = rows, .x = m->h, .n = 3, .w = {m->qkv[l][0], m->qkv[l][1], m->qkv[l][2]}, .bias = {m->bias}, .y = {m->q, m->k, m->v}}));
    ops_qkv_args qkv = {.q = m->q, .k = m->k, .v = m->v, .n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = HEAD, .norm = l == 0 ? OPS_QK_NONE : OPS_QK_HEAD_RMS, .eps = 1e-6f,
                        .rope = l, .kv = m->kv[l], .kv_group = l, .kv_layer = 1 - l};
    did(m, o->qkv(m->ctx, m->batch, &qkv));
    ops_attention_args attention = {.q = m->q, .n_heads = HEADS, .head_dim = HEAD, .heads_per_kv = HEADS / KV_HEADS, .scale = 0.2f, .softcap = l == 0 ? 0.0f : 20.0f,
                                    .window = l == 0 ? 0 : NEAR, .sinks = l == 0 ? (ops_vec){0} : m->sinks, .kv = m->kv[l], .kv_group = l, .kv_layer = 1 - l, .y = m->attended};
    did(m, o->attention(m->ctx, m->batch, &attention));
    did(m, o->linear(m->ctx, &(ops_linear_args){.rows = rows, .x = m->attended, .n = 1, .w = {m->out[l]}, .y = {m->y}}));
    ops_norm_args between = before;
    between.parts.n = 1;
    did(m, o->norm(m->ctx, m->batch, &between));
    did(m, o->linear(m->ctx, &(ops_linear_args){.rows = rows, .x = m->h, .n = 2, .w = {m->up[l][0], m->up[l][1]}, .y = {m->gate, m->upper}}));
    did(m, o->gate(m->ctx, &(ops_gate_args){rows, m->gate, m->upper, OPS_SILU, m->act, 0, NULL}));
    did(m, o->linear(m->ctx, &(ops_linear_args){.rows = rows, .x = m->act, .n = 1, .w = {m->down[l]}, .y = {m->y}}));
    if (last) {
        ops_norm_args end = before;
        end.parts.n = 1;
        end.select = true;
        did(m, o->norm(m->ctx, m->batch, &end));
    }
}

/* One step, up to the logits [n_out][VOCAB] and the results of its outputs, which are there after a sync.  A deep one's logits have a place of their own for each step and stay
 * outside the recording. */
static void step_queue(model *m, const ops_batch_desc *d, const ops_sample_row *wanted, int slot, ops_sample_out *results)
{
    const ops_backend *o = m->o;
    bool played = false, each = !m->waits && d->n_rows == d->n_spans && d->n_out == d->n_rows && o->graph_begin != NULL, deep = m->depth > 1;
    const ops_linear_args head = {.rows = d->n_out, .x = m->h, .n = 1, .w = {m->embedding}, .y = {m->logits[slot]}};
    o->step_begin(m->ctx, false);
    did(m, o->batch_set(m->ctx, m->batch, d));
    if (each)
        OK(o->graph_begin(m->ctx, m->batch, &played));
    if (!played) {
        did(m, o->embed(m->ctx, m->batch, &(ops_embed_args){.w = m->embedding, .scale = 3.0f, .y = m->x}));
        for (int l = 0; l < LAYERS; l++)
            layer(m, l, d->n_rows, l == LAYERS - 1);
        if (!deep)
            did(m, o->linear(m->ctx, &head));
        if (each)
            OK(o->graph_end(m->ctx));
    }
    if (deep)
        did(m, o->linear(m->ctx, &head));
    m->played += played;
    did(m, o->sample(m->ctx, &(ops_sample_args){m->logits[slot], m->adjusted, 0, 1.1f, 25.0f, d->n_out, wanted, results}));
    o->step_end(m->ctx);
}

static void logits_read(model *m, int slot, int32_t n_out, float *logits)
{
    for (int32_t i = 0; i < n_out; i++)
        OK(m->o->buf_read(m->ctx, m->rows, m->logits[slot].offset + (size_t)i * m->logits[slot].stride, logits + (size_t)i * VOCAB, VOCAB * 4));
}

/* ---- what is asked ---- */

typedef struct sequence {
    int32_t position; /* computed so far */
    bool alive;
    int32_t blocks[2][LONGEST / OPS_KV_BLOCK + 1]; /* by group */
    float own[HEAD / 2];                           /* frequencies that some bring */
} sequence;

typedef struct plan {
    ops_batch_desc d;
    int32_t tokens[MOST_ROWS], tables[2][SEQS * (LONGEST / OPS_KV_BLOCK + 1)], out_rows[MOST_ROWS];
    ops_span spans[SEQS];
    ops_sample_row wanted[MOST_ROWS];
    ops_token_count counts[MOST_ROWS][5];
    ops_token_bias bias[MOST_ROWS][3];
    uint32_t allow[MOST_ROWS][(VOCAB + 31) / 32];
} plan;

static void sequence_begin(sequence *s, int slot)
{
    enum { EACH = BLOCKS / SEQS };
    *s = (sequence){.alive = true};
    for (int g = 0; g < 2; g++) /* each slot has blocks of its own, in another order each time; group 1 reuses those behind its window */
        for (int32_t j = 0; j <= LONGEST / OPS_KV_BLOCK; j++)
            s->blocks[g][j] = slot * EACH + (j * 7 + (int32_t)g) % EACH;
    for (int i = 0; i < HEAD / 2; i++)
        s->own[i] = 1.0f / (float)(1 + i + slot);
}

static void wanted_make(plan *p, int32_t i, int32_t position)
{
    ops_sample_row *w = &p->wanted[i];
    *w = (ops_sample_row){.row = i, .temperature = (float)draw(3) / 2, .repetition_penalty = draw(2) ? 1.0f : 1.2f, .presence_penalty = draw(2) ? 0.0f : 0.3f,
                          .frequency_penalty = 0.1f, .n_counts = (int32_t)draw(6), .counts = p->counts[i], .n_bias = (int32_t)draw(4), .bias = p->bias[i], .seed = 5 + draw(3),
                          .position = position, .n_candidates = 1 + (int32_t)draw(20), .n_raw = (int32_t)draw(5), .target = draw(2) ? -1 : (int32_t)draw(VOCAB), .want_sample = true,
                          .want_sum = draw(2) == 0, .want_hash = true};
    for (int32_t k = 0; k < 5; k++)
        p->counts[i][k] = (ops_token_count){k * 100 + (int32_t)draw(100), (int32_t)draw(3), draw(2) == 0};
    for (int32_t k = 0; k < 3; k++)
        p->bias[i][k] = (ops_token_bias){k * 150 + (int32_t)draw(100), (float)draw(100) / 20 - 2.5f};
    if (draw(3) == 0) {
        w->allow = p->allow[i];
        for (size_t k = 0; k < ARRAY_LEN(p->allow[i]); k++)
            p->allow[i][k] = draw(0x7fffffff) << 1 | 1u;
    }
}

/* decode: each sequence has one row, and all outputs are wanted. */
static void plan_make(plan *p, sequence *s, bool decode)
{
    static const int32_t longest = (LONGEST / OPS_KV_BLOCK) * OPS_KV_BLOCK;
    *p = (plan){0};
    p->d = (ops_batch_desc){.tokens = p->tokens, .spans = p->spans, .tables = {p->tables[0], p->tables[1]}, .out_rows = p->out_rows};
    for (int i = 0; i < SEQS; i++) {
        int32_t each = LONGEST / OPS_KV_BLOCK + 1, n = 1, most = BLOCKS / SEQS * OPS_KV_BLOCK; /* blocks of a slot must not come round again */
        most = most < longest ? most : longest;
        if (!s[i].alive || s[i].position + MOST_ROWS >= most) {
            if (decode && s[i].alive && s[i].position + 1 < most)
                n = 1;
            else
                sequence_begin(&s[i], i);
        }
        if (!decode) {
            if (draw(4) == 0)
                continue;
            n = 1 + (int32_t)draw(i == 0 ? 20 : 4);
        } else if (s[i].position == 0) {
            continue;
        }
        ops_span *span = &p->spans[p->d.n_spans++];
        *span = (ops_span){.row = p->d.n_rows, .n_rows = n, .position = s[i].position, .rope_set = i % 2, .table = {p->d.n_table[0], p->d.n_table[1]}};
        if (i == 3)
            span->inv_freq[0] = s[i].own;
        for (int g = 0; g < 2; g++) {
            memcpy(p->tables[g] + p->d.n_table[g], s[i].blocks[g], sizeof(s[i].blocks[g]));
            p->d.n_table[g] += each;
        }
        for (int32_t r = 0; r < n; r++, p->d.n_rows++) {
            p->tokens[p->d.n_rows] = (int32_t)draw(VOCAB);
            if (decode || r == n - 1 || draw(3) == 0)
                p->out_rows[p->d.n_out++] = p->d.n_rows;
        }
        s[i].position += n;
        if (draw(25) == 0)
            s[i].alive = false;
    }
    for (int32_t i = 0; i < p->d.n_out; i++)
        wanted_make(p, i, (int32_t)draw(400));
}

/* ---- what must be alike ---- */

static void near(const plan *p, const float *a, const float *b, int number)
{
    for (int32_t i = 0; i < p->d.n_out * VOCAB; i++)
        if (!(fabsf(a[i] - b[i]) <= 0.02f))
            fail_msg("step %d: logit %d of output %d is %g on the CPU, %g on the device", number, i % VOCAB, i / VOCAB, (double)a[i], (double)b[i]);
}

static void same_results(const ops_sample_out *a, const ops_sample_out *b, int32_t n, int number)
{
    for (int32_t i = 0; i < n; i++) {
        assert_int_equal(a[i].hash, b[i].hash);
        assert_memory_equal(&a[i].best, &b[i].best, sizeof(a[i].best));
        assert_memory_equal(&a[i].raw_max, &b[i].raw_max, 5 * sizeof(float));
        assert_int_equal(a[i].n_candidates, b[i].n_candidates);
        assert_int_equal(a[i].n_raw, b[i].n_raw);
        if (memcmp(a[i].candidates, b[i].candidates, (size_t)a[i].n_candidates * sizeof(*a[i].candidates)) != 0 || memcmp(a[i].raw, b[i].raw, (size_t)a[i].n_raw * sizeof(*a[i].raw)) != 0)
            fail_msg("step %d: the candidates of output %d differ", number, i);
    }
}

/* The CPU's choice among its own logits, where the device's are as near as they are. */
static void near_results(const plan *p, const ops_sample_out *cpu, const ops_sample_out *device, int number)
{
    for (int32_t i = 0; i < p->d.n_out; i++) {
        bool low = fabsf(cpu[i].best.logit - device[i].best.logit) <= 0.1f && fabsf(cpu[i].raw_max - device[i].raw_max) <= 0.02f;
        if (!low || cpu[i].n_candidates != device[i].n_candidates || cpu[i].n_raw != device[i].n_raw ||
            (p->wanted[i].target >= 0 && !(fabsf(cpu[i].target_logit - device[i].target_logit) <= 0.02f)))
            fail_msg("step %d: output %d: best %g of token %d on the CPU, %g of %d on the device", number, i, (double)cpu[i].best.logit, cpu[i].best.token, (double)device[i].best.logit,
                     device[i].best.token);
        for (int32_t k = 0; k < cpu[i].n_candidates; k++)
            if (!(fabsf(cpu[i].candidates[k].logit - device[i].candidates[k].logit) <= 0.1f) && cpu[i].candidates[k].logit != device[i].candidates[k].logit)
                fail_msg("step %d: output %d: candidate %d has %g on the CPU, %g on the device", number, i, k, (double)cpu[i].candidates[k].logit, (double)device[i].candidates[k].logit);
    }
}

static void steps_are_alike(void **state)
{
    (void)state;
    const ops_backend *device;
    status_mute();
    if (ops_device_open(OPS_DEVICE_CUDA, &device, NULL, 0) != ST_OK) {
        print_message("skipped: %s\n", status_message());
        exit(77);
    }
    model m[4];
    sequence s[SEQS] = {{0}};
    static plan p;
    ops_sample_out *results[3], *deep_results[DEPTH], *kept_results[DEPTH];
    float *logits[3], *deep_logits = calloc((size_t)MOST_ROWS * VOCAB, sizeof(*deep_logits)), *kept_logits[DEPTH];
    int32_t n_kept[DEPTH];
    int n_queued = 0;
    model_open(&m[0], "CPU", ops_cpu(), "c", false, 1);
    model_open(&m[1], "device, waiting", device, NULL, true, 1);
    model_open(&m[2], "device", device, NULL, false, 1);
    model_open(&m[3], "device, steps ahead", device, NULL, false, DEPTH);
    for (int i = 0; i < 3; i++) {
        results[i] = calloc(MOST_ROWS, sizeof(**results));
        logits[i] = calloc((size_t)MOST_ROWS * VOCAB, sizeof(**logits));
    }
    for (int i = 0; i < DEPTH; i++) {
        deep_results[i] = calloc(MOST_ROWS, sizeof(**results));
        kept_results[i] = calloc(MOST_ROWS, sizeof(**results));
        kept_logits[i] = calloc((size_t)MOST_ROWS * VOCAB, sizeof(**logits));
    }
    for (int i = 0; i < SEQS; i++)
        sequence_begin(&s[i], i);
    seed = 4242;
    for (int n = 0; n < STEPS; n++) {
        plan_make(&p, s, n % 10 >= 3);
        if (p.d.n_rows == 0)
            continue;
        for (int i = 0; i < 3; i++) {
            step_queue(&m[i], &p.d, p.wanted, 0, results[i]);
            OK(m[i].o->sync(m[i].ctx));
            logits_read(&m[i], 0, p.d.n_out, logits[i]);
        }
        near(&p, logits[0], logits[1], n);
        near_results(&p, results[0], results[1], n);
        if (memcmp(logits[1], logits[2], (size_t)p.d.n_out * VOCAB * 4) != 0)
            fail_msg("step %d of %d rows: logits differ between waiting after each operation and not", n, p.d.n_rows);
        same_results(results[1], results[2], p.d.n_out, n);

        step_queue(&m[3], &p.d, p.wanted, n_queued, deep_results[n_queued]);
        memcpy(kept_results[n_queued], results[1], (size_t)p.d.n_out * sizeof(**results));
        memcpy(kept_logits[n_queued], logits[1], (size_t)p.d.n_out * VOCAB * 4);
        n_kept[n_queued++] = p.d.n_out;
        if (n_queued == DEPTH) {
            OK(device->sync(m[3].ctx));
            for (int i = 0; i < DEPTH; i++) {
                logits_read(&m[3], i, n_kept[i], deep_logits);
                if (memcmp(kept_logits[i], deep_logits, (size_t)n_kept[i] * VOCAB * 4) != 0)
                    fail_msg("step %d, number %d of those queued together: logits differ from those of steps waited for", n, i);
                same_results(kept_results[i], deep_results[i], n_kept[i], n);
            }
            n_queued = 0;
        }
    }
    OK(device->sync(m[3].ctx));
    assert_true(m[2].played >= 5);
    assert_true(m[3].played >= 5);
    for (int i = 0; i < 4; i++)
        model_close(&m[i]);
    for (int i = 0; i < 3; i++) {
        free(results[i]);
        free(logits[i]);
    }
    for (int i = 0; i < DEPTH; i++) {
        free(deep_results[i]);
        free(kept_results[i]);
        free(kept_logits[i]);
    }
    free(deep_logits);
    status_unmute();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(steps_are_alike)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
