/* coordinator/measure_layers.c - a step of made-up weights, operation by operation as worker/forward.c runs it, timed by phase. */
#include "coordinator/measure_internal.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"

static const double LONG_ENOUGH = 0.5; /* seconds, for all passes */

typedef struct step_bench {
    bench *b;
    const coord_measure_options *o;
    size_t at;                 /* the next weight lies here */
    int32_t rows, layers;      /* of a step; of those that are run */
    ops_buf *memory;
    ops_mat x, h, h2, q, k, v, att, gate, up, act, part, logits;
    ops_sample_out *out;
} step_bench;

typedef struct product {
    shard_role role;
    int32_t layer, rows, cols;
    ops_mat y;
} product;

static ops_mat mat(step_bench *s, size_t *at, int32_t rows, int32_t cols)
{
    ops_mat m = {s->memory, *at, OPS_F32, cols, ops_row_bytes(OPS_F32, cols)};
    *at += m.stride * (size_t)rows;
    return m;
}

static ops_mat mat_as(ops_mat m, ops_type type)
{
    m.type = type;
    m.stride = ops_row_bytes(type, m.cols);
    return m;
}

static packed_shape shape_of(const step_bench *s, const product *p)
{
    return (packed_shape){shard_plan_type(s->b->a, s->o->types, p->role, p->layer), p->rows, p->cols, 0};
}

static ops_type input_of(const step_bench *s, const product *p)
{
    return s->b->ops->linear_input(s->b->ctx, shape_of(s, p).type);
}

/* Weights follow one another through the working set, and begin again where it ends. */
static ops_weight weight_of(step_bench *s, const product *p)
{
    packed_shape shape = shape_of(s, p);
    size_t bytes = mem_align(packed_bytes(shape), 64);
    if (s->at + bytes > s->b->working_set)
        s->at = 0;
    ops_weight w = {s->b->weights, s->at, shape};
    s->at += bytes;
    return w;
}

/* Those of p[0..n) that take `x` in its format, in one call. */
static status products(step_bench *s, ops_mat x, const product *p, int n)
{
    ops_linear_args l = {.rows = s->rows, .x = x};
    for (int i = 0; i < n; i++) {
        if (p[i].rows == 0 || input_of(s, &p[i]) != x.type)
            continue;
        l.w[l.n] = weight_of(s, &p[i]);
        l.y[l.n] = p[i].y;
        l.y[l.n++].cols = p[i].rows;
    }
    return l.n == 0 ? ST_OK : s->b->ops->linear(s->b->ctx, &l);
}

/* The sum that the phase before left, the norm, and the products that share it. */
static status norm_and_products(step_bench *s, const product *p, int n)
{
    const bench *b = s->b;
    const float *part = b->ops->mat_part(b->ctx, &s->part);
    ops_norm_args a = {.x = s->x, .parts = {&part, 1, s->part.stride / sizeof(float)}, .residual_scale = 1.0f, .eps = 1e-5f};
    a.norm = b->a->norm == SHARD_NORM_RMS ? OPS_NORM_RMS : OPS_NORM_LAYER;
    const ops_mat places[2] = {s->h, s->h2};
    for (int i = 0; i < n; i++) {
        ops_type t = input_of(s, &p[i]);
        if (p[i].rows > 0 && (a.n_y == 0 || (a.n_y == 1 && a.y[0].type != t))) {
            a.y[a.n_y] = mat_as(places[a.n_y], t);
            a.n_y++;
        }
    }
    TRY(b->ops->norm(b->ctx, b->batch, &a));
    for (int i = 0; i < a.n_y; i++)
        TRY(products(s, a.y[i], p, n));
    return ST_OK;
}

static status attention_phase(step_bench *s, int32_t layer)
{
    const bench *b = s->b;
    const shard_arch *a = b->a;
    int32_t q = s->q.cols, kv = s->k.cols, cache = layer % b->kv_layers;
    const product in[] = {{SHARD_Q, layer, q, a->hidden, s->q}, {SHARD_K, layer, kv, a->hidden, s->k}, {SHARD_V, layer, kv, a->hidden, s->v}};
    const product o = {SHARD_O, layer, a->hidden, q, s->part};
    TRY(norm_and_products(s, in, 3));
    ops_qkv_args w = {.q = s->q, .k = s->k, .v = s->v, .n_heads = a->n_heads, .n_kv_heads = a->n_kv_heads, .head_dim = a->head_dim,
                      .rope = a->n_ropes > 0 ? 0 : -1, .kv = b->kv, .kv_layer = cache};
    TRY(b->ops->qkv(b->ctx, b->batch, &w));
    ops_attention_args at = {.q = s->q, .n_heads = a->n_heads, .head_dim = a->head_dim, .heads_per_kv = a->n_heads / a->n_kv_heads, .scale = 0.1f,
                             .window = a->layers[layer].window, .kv = b->kv, .kv_layer = cache, .y = mat_as(s->att, input_of(s, &o))};
    TRY(b->ops->attention(b->ctx, b->batch, &at));
    return products(s, at.y, &o, 1);
}

static status mlp_phase(step_bench *s, int32_t layer)
{
    const bench *b = s->b;
    const shard_arch *a = b->a;
    bool gated = a->mlp == SHARD_MLP_GATED;
    const product in[] = {{SHARD_GATE, layer, gated ? a->intermediate : 0, a->hidden, s->gate}, {SHARD_UP, layer, a->intermediate, a->hidden, s->up}};
    const product down = {SHARD_DOWN, layer, a->hidden, a->intermediate, s->part};
    TRY(norm_and_products(s, in, 2));
    static const ops_activation activations[] = {[SHARD_ACT_SILU] = OPS_SILU, [SHARD_ACT_GELU] = OPS_GELU, [SHARD_ACT_GELU_TANH] = OPS_GELU_TANH,
                                                 [SHARD_ACT_RELU] = OPS_RELU, [SHARD_ACT_RELU2] = OPS_RELU2};
    ops_gate_args g = {.rows = s->rows, .gate = gated ? s->gate : s->up, .activation = activations[a->activation], .y = mat_as(s->act, input_of(s, &down))};
    if (gated)
        g.up = s->up;
    TRY(b->ops->gate(b->ctx, &g));
    return products(s, g.y, &down, 1);
}

static status head_phase(step_bench *s)
{
    const bench *b = s->b;
    const product head = {SHARD_HEAD, 0, b->a->vocab, b->a->hidden, s->logits};
    int32_t all = s->rows;
    s->rows = b->seqs; /* a row of each sequence */
    status st = norm_and_products(s, &head, 1);
    s->rows = all;
    TRY(st);
    ops_sample_row rows[MAX_SEQS];
    for (int32_t i = 0; i < b->seqs; i++)
        rows[i] = (ops_sample_row){.row = i, .repetition_penalty = 1, .target = -1, .want_sample = true};
    ops_sample_args a = {.logits = s->logits, .adjusted = s->logits, .multiplier = 1, .n = b->seqs, .rows = rows, .out = s->out};
    return b->ops->sample(b->ctx, &a);
}

typedef struct phases {
    double attention, mlp, head; /* seconds of all passes */
} phases;

static status step_run(step_bench *s, phases *p)
{
    double last = log_clock(), now;
    s->at = 0;
    for (int32_t l = 0; l < s->layers; l++) {
        TRY(attention_phase(s, l));
        TRY(s->b->ops->sync(s->b->ctx));
        now = log_clock();
        p->attention += now - last;
        last = now;
        TRY(mlp_phase(s, l));
        TRY(s->b->ops->sync(s->b->ctx));
        now = log_clock();
        p->mlp += now - last;
        last = now;
    }
    TRY(head_phase(s));
    TRY(s->b->ops->sync(s->b->ctx));
    p->head += log_clock() - last;
    return ST_OK;
}

/* What the plan says of the same step with the operations' figures alone. */
static status planned(const coord_measure_options *o, const shard_device *d, shard_rank_plan *out)
{
    shard_plan_options p = {.tp = 1, .pp = 1, .types = *o->types, .kv_type = o->kv_type, .device = d, .cost_seqs = o->seqs, .cost_context = o->context,
                            .cost_rows = o->chunk, .may_not_fit = true};
    shard_plan *plan;
    TRY(shard_plan_create(o->arch, &p, &plan));
    *out = plan->ranks[0];
    shard_plan_destroy(&plan);
    return ST_OK;
}

static status step_make(step_bench *s)
{
    const shard_arch *a = s->b->a;
    const int32_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
    const int32_t cols[] = {a->hidden, a->hidden, a->hidden, q, kv, kv, q, a->intermediate, a->intermediate, a->intermediate, a->hidden, a->vocab};
    ops_mat *const mats[] = {&s->x, &s->h, &s->h2, &s->q, &s->k, &s->v, &s->att, &s->gate, &s->up, &s->act, &s->part, &s->logits};
    size_t bytes = 0, at = 0;
    int32_t rows[ARRAY_LEN(cols)];
    for (size_t i = 0; i < ARRAY_LEN(cols); i++) {
        rows[i] = mats[i] == &s->logits ? s->b->seqs : s->rows;
        bytes += ops_row_bytes(OPS_F32, cols[i]) * (size_t)rows[i];
    }
    TRY(s->b->ops->buf_create(s->b->ctx, bytes, "measuring", &s->memory));
    TRY(measure_fill(s->b, PACKED_F32, s->memory, bytes)); /* of zeros nothing but zeros would come, and logits that are all equal take longer than others */
    for (size_t i = 0; i < ARRAY_LEN(cols); i++)
        *mats[i] = mat(s, &at, rows[i], cols[i]);
    return mem_calloc((size_t)s->b->seqs, sizeof(*s->out), "measuring", &s->out);
}

static status step_measure(step_bench *s, shard_device *d)
{
    phases first = {0}, p = {0};
    shard_rank_plan plan;
    bench *b = s->b;
    int n = 0;
    TRY(planned(s->o, d, &plan));
    b->ops->step_begin(b->ctx, false);
    status st = step_run(s, &first); /* touches everything */
    for (double started = log_clock(); st == ST_OK && (n < 3 || log_clock() - started < LONG_ENOUGH); n++)
        st = step_run(s, &p);
    b->ops->step_end(b->ctx);
    TRY(st);
    double part = (double)s->layers / b->a->n_layers;
    d->attention_scale = p.attention / n / (plan.cost_attention * part);
    d->mlp_scale = p.mlp / n / (plan.cost_mlp * part);
    d->head_scale = p.head / n / plan.cost_head;
    return ST_OK;
}

/* The largest matrix must fit, and the sequences be those asked for. */
static bool can_run(const bench *b, const coord_measure_options *o)
{
    const shard_arch *a = b->a;
    if (a->hidden > b->in || a->intermediate > b->out || b->seqs < o->seqs || b->blocks < (o->context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK)
        return false;
    size_t head = packed_bytes((packed_shape){shard_plan_type(a, o->types, SHARD_HEAD, 0), a->vocab, a->hidden, 0});
    size_t wide = packed_bytes((packed_shape){PACKED_F32, a->intermediate > a->n_heads * a->head_dim ? a->intermediate : a->n_heads * a->head_dim, a->hidden, 0});
    return head > 0 && head <= b->working_set && wide <= b->working_set;
}

status measure_layers(bench *b, const coord_measure_options *o, shard_device *d)
{
    if (!can_run(b, o))
        return ST_OK;
    step_bench s = {.b = b, .o = o, .rows = b->seqs * b->chunk, .layers = b->a->n_layers};
    if (b->chunk > 1 && s.layers > PROMPT_LAYERS)
        s.layers = PROMPT_LAYERS;
    status st = step_make(&s);
    if (st == ST_OK)
        st = step_measure(&s, d);
    if (s.memory != NULL)
        b->ops->buf_destroy(b->ctx, &s.memory);
    free(s.out);
    return st;
}
