/* worker/forward.c - the forward pass of one step on one rank: one for every family.
 *
 * shard/plan/arch.h draws the block.  Sums over the stage's ranks are lazy: a rank's output projection writes its partial into an exchange
 * slot, and the next norm adds the ranks' partials to the residual stream while it reads it (ops_parts), so that a block has two
 * synchronisations (one where attention and MLP are parallel) and no pass of its own for the sum.
 *
 * A segment is what lies between two such sums: it begins with the norm that takes in the sum before, and ends with the sum it starts.  Where devices sum (comm/device.h), a step of
 * many rows, whose time is mostly arithmetic, is cut in two pieces (sequence.c), which take turns segment by segment: while one piece's sum travels on a stream of its
 * own, the other's segment is computed.
 *
 *   operations   A seg 1 | B seg 1       | A seg 2       | B seg 2       | A seg 3 ...
 *   sums                 | A's of seg 1  | B's of seg 1  | A's of seg 2  | ...
 *
 * A sequence may lie in both pieces: its first rows' keys and values of a layer are written before the others' attention of that layer is queued.  Every row has the same bits
 * however a step is cut, so that the threshold may be any. */
#include <string.h>

#include "base/log.h"
#include "worker/worker_internal.h"

/* A matrix narrowed to `cols` columns in an activation format. */
static ops_mat mat_as(ops_mat m, ops_type type, int32_t cols)
{
    m.type = type;
    m.cols = cols;
    m.stride = ops_row_bytes(type, cols);
    return m;
}

static ops_mat rows_from(ops_mat m, int32_t row)
{
    m.offset += (size_t)row * m.stride;
    return m;
}

/* One product of a call: a role's weight, its bias, where it goes. */
typedef struct product {
    const ops_weight *weight;
    const ops_vec *bias;
    ops_mat y;
} product;

/* The formats in which consumers want a norm's output. */
typedef struct formats {
    int32_t n;
    ops_type type[2];
} formats;

static void formats_want(worker *w, formats *f, const ops_weight *weight)
{
    if (weight->buf == NULL)
        return;
    ops_type t = w->ops->linear_input(w->ctx, weight->shape.type);
    for (int32_t i = 0; i < f->n; i++) {
        if (f->type[i] == t)
            return;
    }
    if (f->n < 2)
        f->type[f->n++] = t;
}

static void formats_want_attention(worker *w, formats *f, const worker_weights *ww)
{
    formats_want(w, f, &ww->matrix[SHARD_Q]);
    formats_want(w, f, &ww->matrix[SHARD_K]);
    formats_want(w, f, &ww->matrix[SHARD_V]);
}

static void formats_want_mlp(worker *w, formats *f, const worker_weights *ww)
{
    formats_want(w, f, &ww->matrix[SHARD_GATE]);
    formats_want(w, f, &ww->matrix[SHARD_UP]);
}

/* Products that share one input, which `h` holds in formats f: one call for each format. */
static status products(worker *w, const formats *f, const ops_mat *h, int32_t rows, const product *p, int n, bool accumulate)
{
    int given = 0, taken = 0;
    for (int j = 0; j < n; j++)
        given += p[j].weight->buf != NULL;
    for (int32_t i = 0; i < f->n; i++) {
        ops_linear_args a = {.rows = rows, .x = h[i], .accumulate = accumulate};
        for (int j = 0; j < n; j++) {
            if (p[j].weight->buf == NULL || w->ops->linear_input(w->ctx, p[j].weight->shape.type) != f->type[i])
                continue;
            a.w[a.n] = *p[j].weight;
            a.bias[a.n] = *p[j].bias;
            a.y[a.n++] = p[j].y;
        }
        taken += a.n;
        if (a.n > 0)
            TRY(w->ops->linear(w->ctx, &a));
    }
    return taken == given ? ST_OK : FAIL(ST_UNSUPPORTED, "layer %d: its weights want one input in more than two formats", w->layer);
}

static ops_norm_kind norm_kind(const worker *w, bool present)
{
    return !present ? OPS_NORM_NONE : w->arch->norm == SHARD_NORM_RMS ? OPS_NORM_RMS : OPS_NORM_LAYER;
}

typedef struct norm_place { /* which weights a norm uses */
    bool post_present, present;
    const ops_vec *post, *post_bias, *weight, *bias;
    const ops_vec *part_bias;
} norm_place;

/* x += pending partial sums; h = norm(x) in formats f. */
static status norm(worker *w, ops_mat x, const norm_place *at, const formats *f, ops_mat *h, bool select)
{
    static const ops_vec none;
    TRY(worker_slot_wait(w));
    ops_norm_args a = {
        .x = x,
        .parts = {w->now->parts, w->now->n_parts, ops_row_bytes(OPS_F32, w->arch->hidden) / sizeof(float)},
        .select = select,
        .part_bias = at->part_bias != NULL ? *at->part_bias : none,
        .residual_scale = w->arch->residual_multiplier,
        .post = norm_kind(w, at->post_present),
        .norm = norm_kind(w, at->present),
        .eps = w->arch->norm_eps,
        .n_y = f->n,
        .row_begin = w->row_begin,
        .row_end = w->row_end,
    };
    if (at->post_present) {
        a.post_weight = *at->post;
        a.post_bias = *at->post_bias;
    }
    if (at->present) {
        a.weight = *at->weight;
        a.bias = *at->bias;
    }
    for (int32_t i = 0; i < f->n; i++)
        a.y[i] = h[i] = mat_as(h[i], f->type[i], w->arch->hidden);
    TRY(w->ops->norm(w->ctx, w->now->batch, &a));
    w->now->n_parts = 0;
    return w->row_end > 0 && f->n > 0 ? worker_meet(w) : ST_OK;
}

/* Where a norm's output lies: in the stage's common buffers if its ranks share the rows. */
static ops_mat *normed(worker *w)
{
    return w->row_end > 0 ? w->common_h : w->h;
}

/* The stage's ranks sum the squares of q and k over all heads; each KV head counts once, on the rank that has its group's first query head. */
static status full_qk_squares(worker *w)
{
    const shard_rank_plan *r = w->rank;
    int32_t hd = w->arch->head_dim, per = w->arch->n_heads / w->arch->n_kv_heads, rows = w->n_rows;
    int64_t k_begin = (r->heads.begin + per - 1) / per, k_end = (r->heads.end + per - 1) / per;
    ops_sumsq_args q = {.rows = rows, .x = w->q, .col_begin = 0, .col_end = w->q.cols, .out = w->sumsq};
    ops_sumsq_args k = {.rows = rows, .x = w->k, .out = w->sumsq + rows};
    k.col_begin = (int32_t)(k_begin - r->kv_heads.begin) * hd;
    k.col_end = (int32_t)(k_end - r->kv_heads.begin) * hd;
    TRY(w->ops->sumsq(w->ctx, &q));
    TRY(w->ops->sumsq(w->ctx, &k));
    if (w->reserving)
        return ST_OK;
    TRY(w->ops->sync(w->ctx));
    double started = log_clock();
    worker_note(w, WORKER_EXCHANGE);
    status st = comm_all_reduce(w->group, w->sumsq, 2 * (size_t)rows);
    w->times.exchange_seconds += log_clock() - started;
    return st;
}

static ops_qk_norm qk_norm_kind(shard_qk_norm k)
{
    switch (k) {
    case SHARD_QK_NORM_HEAD:
        return OPS_QK_HEAD_RMS;
    case SHARD_QK_NORM_HEAD_LAYER:
        return OPS_QK_HEAD_LAYER;
    case SHARD_QK_NORM_FULL:
        return OPS_QK_FULL_RMS;
    default:
        return OPS_QK_NONE;
    }
}

static status qkv_finish(worker *w, int32_t layer)
{
    const shard_arch *a = w->arch;
    const worker_weights *ww = &w->layers[layer - w->rank->layer_begin];
    if (a->qk_norm == SHARD_QK_NORM_FULL)
        TRY(full_qk_squares(w));
    const shard_layer *sl = &a->layers[layer];
    ops_qkv_args q = {
        .q = w->q,
        .k = w->k,
        .v = w->v,
        .n_heads = (int32_t)(w->rank->heads.end - w->rank->heads.begin),
        .n_kv_heads = (int32_t)(w->rank->kv_heads.end - w->rank->kv_heads.begin),
        .head_dim = a->head_dim,
        .clip = a->qkv_clip,
        .norm = qk_norm_kind(a->qk_norm),
        .q_weight = ww->vector[SHARD_Q_NORM],
        .k_weight = ww->vector[SHARD_K_NORM],
        .eps = a->qk_norm_eps,
        .q_sumsq = w->sumsq,
        .k_sumsq = w->sumsq == NULL ? NULL : w->sumsq + w->n_rows,
        .q_total = a->n_heads * a->head_dim,
        .k_total = a->n_kv_heads * a->head_dim,
        .rope = sl->rope,
        .kv = w->kv[sl->kv_group],
        .kv_group = sl->kv_group,
        .kv_layer = w->kv_layer[layer - w->rank->layer_begin],
    };
    return w->ops->qkv(w->ctx, w->now->batch, &q);
}

/* q, k, v of h; attention; this rank's partial of the output projection into *slot, an exchange slot begun here: after the squares' own sum,
 * since a group has one collective at a time. */
static status attention(worker *w, int32_t layer, const formats *f, const ops_mat *h, ops_mat *slot)
{
    const shard_arch *a = w->arch;
    const shard_rank_plan *r = w->rank;
    const worker_weights *ww = &w->layers[layer - r->layer_begin];
    const product qkv[3] = {{&ww->matrix[SHARD_Q], &ww->vector[SHARD_Q_B], w->q},
                            {&ww->matrix[SHARD_K], &ww->vector[SHARD_K_B], w->k},
                            {&ww->matrix[SHARD_V], &ww->vector[SHARD_V_B], w->v}};
    TRY(products(w, f, h, w->now->n_rows, qkv, 3, false));
    TRY(qkv_finish(w, layer));
    const shard_layer *sl = &a->layers[layer];
    const ops_weight *o = &ww->matrix[SHARD_O];
    formats of = {.n = 0};
    formats_want(w, &of, o);
    ops_mat att = mat_as(w->att, of.type[0], o->shape.cols);
    ops_attention_args at = {
        .q = w->q,
        .n_heads = (int32_t)(r->heads.end - r->heads.begin),
        .head_dim = a->head_dim,
        .head_begin = (int32_t)r->heads.begin,
        .heads_per_kv = a->n_heads / a->n_kv_heads,
        .kv_head_begin = (int32_t)r->kv_heads.begin,
        .scale = a->attention_scale,
        .softcap = a->attention_softcap,
        .window = sl->window,
        .sinks = ww->vector[SHARD_SINKS],
        .slopes = w->slopes,
        .kv = w->kv[sl->kv_group],
        .kv_group = sl->kv_group,
        .kv_layer = w->kv_layer[layer - r->layer_begin],
        .y = att,
        .y_col = (int32_t)(r->heads.begin * a->head_dim - r->o_cols.begin),
    };
    TRY(w->ops->attention(w->ctx, w->now->batch, &at));
    TRY(worker_slot(w, w->now->n_rows, slot));
    static const ops_vec none;
    const product po = {o, &none, *slot};
    return products(w, &of, &att, w->now->n_rows, &po, 1, false);
}

/* This rank's partial of the MLP into `slot` (added to what is there with `accumulate`). */
static status mlp(worker *w, int32_t layer, const formats *f, const ops_mat *h, ops_mat slot, bool accumulate)
{
    const shard_arch *a = w->arch;
    const shard_rank_plan *r = w->rank;
    const worker_weights *ww = &w->layers[layer - r->layer_begin];
    const product in[2] = {{&ww->matrix[SHARD_GATE], &ww->vector[SHARD_GATE_B], w->gate},
                           {&ww->matrix[SHARD_UP], &ww->vector[SHARD_UP_B], w->up}};
    TRY(products(w, f, h, w->now->n_rows, in, 2, false));
    static const ops_activation activations[] = {[SHARD_ACT_SILU] = OPS_SILU, [SHARD_ACT_GELU] = OPS_GELU,
        [SHARD_ACT_GELU_TANH] = OPS_GELU_TANH, [SHARD_ACT_RELU] = OPS_RELU, [SHARD_ACT_RELU2] = OPS_RELU2};
    const ops_weight *down = &ww->matrix[SHARD_DOWN];
    formats df = {.n = 0};
    formats_want(w, &df, down);
    ops_mat act = mat_as(w->act, df.type[0], down->shape.cols);
    ops_gate_args g = {.rows = w->now->n_rows, .gate = w->up, .activation = activations[a->activation], .y = act,
                       .y_col = (int32_t)(r->channels.begin - r->down_cols.begin)};
    if (a->mlp == SHARD_MLP_GATED) {
        g.gate = w->gate;
        g.up = w->up;
    }
    TRY(w->ops->gate(w->ctx, &g));
    static const ops_vec none;
    const product pd = {down, &none, slot};
    return products(w, &df, &act, w->now->n_rows, &pd, 1, accumulate);
}

static void phase_end(double *started, double exchange_before, const worker *w, double *phase)
{
    double now = log_clock();
    *phase += now - *started - (w->times.exchange_seconds - exchange_before);
    *started = now;
}

/* The norm before a block's first half: takes in what the block before left. */
static norm_place first_norm(const worker *w, int32_t layer)
{
    const worker_weights *ww = &w->layers[layer - w->rank->layer_begin];
    norm_place at = {.present = w->arch->attn_norm, .weight = &ww->vector[SHARD_ATTN_NORM], .bias = &ww->vector[SHARD_ATTN_NORM_B]};
    if (layer > w->rank->layer_begin && w->now->n_parts > 0) {
        const worker_weights *before = ww - 1;
        at.post_present = w->arch->post_mlp_norm;
        at.post = &before->vector[SHARD_POST_MLP_NORM];
        at.post_bias = &before->vector[SHARD_POST_MLP_NORM_B];
        at.part_bias = &w->mlp_out_bias[layer - 1 - w->rank->layer_begin];
    }
    return at;
}

static norm_place second_norm(const worker *w, int32_t layer, bool takes_sum)
{
    const worker_weights *ww = &w->layers[layer - w->rank->layer_begin];
    norm_place at = {.present = w->arch->mlp_norm, .weight = &ww->vector[SHARD_MLP_NORM], .bias = &ww->vector[SHARD_MLP_NORM_B]};
    if (takes_sum) {
        at.post_present = w->arch->post_attn_norm;
        at.post = &ww->vector[SHARD_POST_ATTN_NORM];
        at.post_bias = &ww->vector[SHARD_POST_ATTN_NORM_B];
        at.part_bias = &ww->vector[SHARD_O_B];
    }
    return at;
}

/* ---- segments ---- */

static status block_attention(worker *w, int32_t layer, ops_mat x)
{
    const worker_weights *ww = &w->layers[layer - w->rank->layer_begin];
    worker_note(w, WORKER_ATTENTION);
    double started = log_clock(), waited = w->times.exchange_seconds;
    formats f = {.n = 0};
    formats_want_attention(w, &f, ww);
    norm_place at = first_norm(w, layer);
    ops_mat slot, *h = normed(w);
    TRY(norm(w, x, &at, &f, h, false));
    TRY(attention(w, layer, &f, h, &slot));
    TRY(worker_slot_sum(w));
    phase_end(&started, waited, w, &w->times.attention_seconds);
    return ST_OK;
}

static status block_mlp(worker *w, int32_t layer, ops_mat x)
{
    const worker_weights *ww = &w->layers[layer - w->rank->layer_begin];
    worker_note(w, WORKER_MLP);
    double started = log_clock(), waited = w->times.exchange_seconds;
    formats f = {.n = 0};
    formats_want_mlp(w, &f, ww);
    norm_place at = second_norm(w, layer, true);
    ops_mat slot, *h = normed(w);
    TRY(norm(w, x, &at, &f, h, false));
    TRY(worker_slot(w, w->now->n_rows, &slot));
    TRY(mlp(w, layer, &f, h, slot, false));
    TRY(worker_slot_sum(w));
    phase_end(&started, waited, w, &w->times.mlp_seconds);
    return ST_OK;
}

static status block_parallel(worker *w, int32_t layer, ops_mat x)
{
    const worker_weights *ww = &w->layers[layer - w->rank->layer_begin];
    worker_note(w, WORKER_ATTENTION);
    double started = log_clock(), waited = w->times.exchange_seconds;
    formats f = {.n = 0}, fm = {.n = 0};
    formats_want_attention(w, &f, ww);
    formats *mlp_formats = w->arch->mlp_norm ? &fm : &f;
    formats_want_mlp(w, mlp_formats, ww);
    norm_place at = first_norm(w, layer);
    ops_mat slot, *h = normed(w);
    TRY(norm(w, x, &at, &f, h, false));
    TRY(attention(w, layer, &f, h, &slot));
    phase_end(&started, waited, w, &w->times.attention_seconds);
    worker_note(w, WORKER_MLP);
    if (w->arch->mlp_norm) { /* a norm of its own, of the same x */
        at = second_norm(w, layer, false);
        if (w->row_end > 0) /* others may still read the first's output */
            TRY(worker_meet(w));
        TRY(norm(w, x, &at, &fm, h, false));
    }
    TRY(mlp(w, layer, mlp_formats, h, slot, true));
    TRY(worker_slot_sum(w));
    phase_end(&started, waited, w, &w->times.mlp_seconds);
    return ST_OK;
}

/* Each rank looks up the rows it holds, the ranks' parts are added ... */
static status embed(worker *w, int32_t layer, ops_mat x)
{
    (void)layer;
    (void)x;
    worker_note(w, WORKER_EMBED);
    double started = log_clock(), waited = w->times.exchange_seconds;
    ops_mat slot;
    TRY(worker_slot(w, w->now->n_rows, &slot));
    ops_embed_args e = {
        .w = w->outside.matrix[SHARD_TOKEN_EMBED],
        .row_begin = (int32_t)w->rank->embed_rows.begin,
        .scale = w->arch->embed_multiplier,
        .position_offset = w->arch->position_offset,
        .y = slot,
    };
    if (w->rank->tp_index == 0) /* positions join the sum once */
        e.positions = w->outside.matrix[SHARD_POS_EMBED];
    TRY(w->ops->embed(w->ctx, w->now->batch, &e));
    TRY(worker_slot_sum(w));
    phase_end(&started, waited, w, &w->times.embed_seconds);
    return ST_OK;
}

/* ... and the sum replaces x. */
static status embed_sum(worker *w, int32_t layer, ops_mat x)
{
    (void)layer;
    double started = log_clock();
    worker_mark(w, WORKER_EMBED);
    TRY(worker_slot_wait(w));
    ops_norm_args a = {
        .x = x,
        .parts = {w->now->parts, w->now->n_parts, ops_row_bytes(OPS_F32, w->arch->hidden) / sizeof(float)},
        .replace = true,
        .residual_scale = 1.0f,
        .post = norm_kind(w, w->arch->embed_norm),
        .post_weight = w->outside.vector[SHARD_EMBED_NORM],
        .post_bias = w->outside.vector[SHARD_EMBED_NORM_B],
        .eps = w->arch->norm_eps,
        .row_begin = w->row_begin,
        .row_end = w->row_end,
    };
    TRY(w->ops->norm(w->ctx, w->now->batch, &a));
    w->now->n_parts = 0;
    phase_end(&started, w->times.exchange_seconds, w, &w->times.embed_seconds);
    return ST_OK;
}

/* What follows the last layer of this stage: the pending sum, and on the last stage the final norm of the rows whose logits are wanted. */
static status finish(worker *w, int32_t layer, ops_mat x)
{
    (void)layer;
    int32_t last = w->rank->layer_end - 1 - w->rank->layer_begin;
    worker_mark(w, WORKER_HEAD);
    norm_place at = {.present = false};
    formats f = {.n = 0};
    if (last >= 0 && w->now->n_parts > 0) {
        const worker_weights *before = &w->layers[last];
        at.post_present = w->arch->post_mlp_norm;
        at.post = &before->vector[SHARD_POST_MLP_NORM];
        at.post_bias = &before->vector[SHARD_POST_MLP_NORM_B];
        at.part_bias = &w->mlp_out_bias[last];
    }
    if (!w->last_stage)
        return norm(w, x, &at, &f, NULL, false);
    if (w->now->n_out == 0)
        return worker_slot_wait(w);
    double started = log_clock(), waited = w->times.exchange_seconds;
    worker_note(w, WORKER_HEAD);
    at.present = true;
    at.weight = &w->outside.vector[SHARD_FINAL_NORM];
    at.bias = &w->outside.vector[SHARD_FINAL_NORM_B];
    formats_want(w, &f, &w->outside.matrix[SHARD_HEAD]);
    if (w->n_out > w->n_sampled && f.type[0] != OPS_F32)
        f.type[f.n++] = OPS_F32;
    bool shared = w->row_end > 0;
    w->y = mat_as(shared ? w->common_y[0] : w->own_y, f.type[0], w->arch->hidden);
    w->pooled = f.n > 1 ? mat_as(shared ? w->common_y[1] : w->h[0], f.type[1], w->arch->hidden) : w->y;
    ops_mat y[2] = {rows_from(w->y, w->now->out), rows_from(w->pooled, w->now->out)};
    TRY(norm(w, x, &at, &f, y, true));
    phase_end(&started, waited, w, &w->times.head_seconds);
    return ST_OK;
}

status worker_head(worker *w, int32_t begin, int32_t n)
{
    const ops_weight *head = &w->outside.matrix[SHARD_HEAD];
    formats f = {.n = 0};
    formats_want(w, &f, head);
    ops_mat y = rows_from(w->y, begin);
    const product p = {head, &w->outside.vector[SHARD_HEAD_B], w->logits};
    return products(w, &f, &y, n, &p, 1, false);
}

/* Whether the step is one that others repeat launch by launch: each sequence decodes one token, and the host has no part in what is exchanged on the way. */
static bool repeats(const worker *w)
{
    bool on_device = (w->exchange_base == NULL || comm_group_on_device(w->group)) && (w->first_stage || w->before != NULL) && (w->last_stage || w->after != NULL);
    bool all_sampled = !w->last_stage || (w->n_rows == w->n_sampled && w->n_rows == w->n_out);
    return w->ops->graph_begin != NULL && on_device && w->arch->qk_norm != SHARD_QK_NORM_FULL && w->n_rows == w->n_spans && all_sampled;
}

typedef status (*segment)(worker *w, int32_t layer, ops_mat x);

/* The segment of each piece of the step, one after the other. */
static status in_turn(worker *w, segment s, int32_t layer, ops_mat x)
{
    for (int32_t i = 0; i < w->n_pieces; i++) {
        w->now = &w->piece[i];
        TRY(s(w, layer, rows_from(x, w->now->row)));
    }
    return ST_OK;
}

static status layers(worker *w, ops_mat x)
{
    for (int32_t l = w->rank->layer_begin; l < w->rank->layer_end; l++) {
        w->layer = l;
        TRY(in_turn(w, w->arch->parallel_block ? block_parallel : block_attention, l, x));
        if (!w->arch->parallel_block)
            TRY(in_turn(w, block_mlp, l, x));
    }
    return in_turn(w, finish, w->layer, x);
}

/* One stage of the step. */
static status whole(worker *w, ops_mat x, int which)
{
    TRY(w->first_stage ? in_turn(w, embed, w->layer, x) : worker_receive(w, x));
    if (w->first_stage)
        TRY(in_turn(w, embed_sum, w->layer, x));
    TRY(layers(w, x));
    return w->last_stage ? ST_OK : worker_hand_on(w, x, which);
}

/* The same as one recording, where the backend has that. */
static status decode(worker *w, ops_mat x, int which)
{
    bool played;
    TRY(comm_group_align(w->group)); /* at its end too: each time it is played it finds the exchange slots that it was recorded with */
    TRY(w->ops->graph_begin(w->ctx, w->batch, &played));
    if (played)
        return ST_OK;
    TRY(whole(w, x, which));
    TRY(comm_group_align(w->group));
    worker_mark(w, WORKER_IDLE);
    return w->ops->graph_end(w->ctx);
}

/* Every block's operations that need scratch, with as many rows as the batch may have. */
static status reserve_layers(worker *w, ops_batch *batch, int32_t rows)
{
    w->n_rows = rows;
    w->n_pieces = 1;
    w->now = &w->piece[0];
    *w->now = (worker_piece){.batch = batch, .n_rows = rows};
    for (int32_t l = w->rank->layer_begin; l < w->rank->layer_end; l++) {
        const worker_weights *ww = &w->layers[l - w->rank->layer_begin];
        ops_mat slot, h[2];
        formats fa = {.n = 0}, fm = {.n = 0};
        formats_want_attention(w, &fa, ww);
        formats_want_mlp(w, &fm, ww);
        for (int32_t i = 0; i < fa.n; i++)
            h[i] = mat_as(w->h[i], fa.type[i], w->arch->hidden);
        TRY(attention(w, l, &fa, h, &slot));
        for (int32_t i = 0; i < fm.n; i++)
            h[i] = mat_as(w->h[i], fm.type[i], w->arch->hidden);
        TRY(mlp(w, l, &fm, h, slot, false));
    }
    return ST_OK;
}

static status reserve_head(worker *w)
{
    formats f = {.n = 0};
    formats_want(w, &f, &w->outside.matrix[SHARD_HEAD]);
    w->y = mat_as(w->own_y, f.type[0], w->arch->hidden);
    return worker_head(w, 0, w->logits_rows < w->opt.max_batched_tokens ? w->logits_rows : w->opt.max_batched_tokens);
}

status worker_reserve(worker *w)
{
    if (w->ops->reserve_begin == NULL)
        return ST_OK;
    w->reserving = true;
    w->ops->reserve_begin(w->ctx);
    status st = reserve_layers(w, w->batch, w->opt.max_batched_tokens);
    if (st == ST_OK && w->batch_more != NULL)
        st = reserve_layers(w, w->batch_more, w->opt.max_batched_tokens / 2);
    if (st == ST_OK && w->last_stage)
        st = reserve_head(w);
    if (st == ST_OK && w->last_stage)
        st = worker_sample_reserve(w);
    w->ops->reserve_end(w->ctx);
    w->reserving = false;
    return st;
}

status worker_forward(worker *w, uint64_t step_number)
{
    int which = (int)(step_number & 1); /* two buffers: one may still be on its way to the next stage */
    ops_mat x = w->x[which];
    TRY(worker_handed_on(w, which));
    return repeats(w) ? decode(w, x, which) : whole(w, x, which);
}
