/* ops/ops.c - what is the same for every backend. */
#include "ops/ops.h"

#include "base/mem.h"
#include "ops/check.h"

size_t ops_row_bytes(ops_type type, int32_t cols)
{
    size_t n = cols > 0 ? (size_t)cols : 0, padded = (n + 63) / 64 * 64;
    if (type == OPS_Q8) /* codes; for each 32 scale, sum and scaled sum; for each 16 sum and scaled sum */
        return (padded + padded / 32 * 28 + 63) / 64 * 64;
    return (n * (type == OPS_F32 ? 4 : 2) + 63) / 64 * 64;
}

int32_t ops_graph_rows(int32_t rows)
{
    int32_t p = 1;
    while (p < rows && p < 1 << 30)
        p *= 2;
    return p;
}

status ops_mat_check(const char *op, const char *name, const ops_mat *m, size_t buf_bytes, int32_t rows, int32_t cols)
{
    size_t bytes, row = m->buf == NULL || m->cols < cols || cols < 0 ? 0 : ops_row_bytes(m->type, m->cols);
    if (m->buf == NULL || m->cols < cols || cols < 0)
        return FAIL(ST_INVALID, "%s: %s has %d columns, %d needed", op, name, m->buf == NULL ? 0 : m->cols, cols);
    if (rows > 0 && (!mem_mul(m->stride, (size_t)rows - 1, &bytes) || !mem_add(bytes, row, &bytes) || !mem_add(bytes, m->offset, &bytes) ||
                     bytes > buf_bytes || m->stride % 64 != 0 || m->offset % 64 != 0))
        return FAIL(ST_INVALID, "%s: %d rows of %s at %zu, %zu apart, do not fit a buffer of %zu bytes", op, rows, name, m->offset, m->stride, buf_bytes);
    return ST_OK;
}

status ops_batch_limits_check(const ops_batch_limits *l)
{
    if (l->max_rows < 0 || l->max_spans < 0 || l->max_out < 0 || l->max_blocks < 0 || l->n_kv_groups < 0 || l->n_kv_groups > OPS_MAX_KV_GROUPS ||
        l->n_ropes < 0 || l->n_ropes > OPS_MAX_ROPES)
        return FAIL(ST_INVALID, "batch limits out of range");
    for (int32_t r = 0; r < l->n_ropes; r++) {
        const ops_rope_spec *s = &l->ropes[r];
        if (s->dims < 0 || s->dims % 2 != 0 || s->n_sets < 1 || s->n_sets > 2 || s->inv_freq[0] == NULL || (s->n_sets == 2 && s->inv_freq[1] == NULL))
            return FAIL(ST_INVALID, "rope %d: %d dimensions, %d sets", r, s->dims, s->n_sets);
    }
    return ST_OK;
}

status ops_batch_check(const ops_batch_limits *l, const ops_batch_desc *d)
{
    if (d->n_rows < 0 || d->n_rows > l->max_rows || d->n_spans < 0 || d->n_spans > l->max_spans || d->n_out < 0 || d->n_out > l->max_out)
        return FAIL(ST_INVALID, "a step of %d rows, %d sequences, %d outputs exceeds the batch's %d, %d, %d", d->n_rows, d->n_spans, d->n_out, l->max_rows,
                    l->max_spans, l->max_out);
    for (int32_t g = 0; g < l->n_kv_groups; g++)
        if (d->n_table[g] < 0 || d->n_table[g] > l->max_blocks)
            return FAIL(ST_INVALID, "a step of %d KV blocks in group %d exceeds the batch's %d", d->n_table[g], g, l->max_blocks);
    int32_t row = 0;
    for (int32_t i = 0; i < d->n_spans; i++) {
        const ops_span *s = &d->spans[i];
        if (s->row != row || s->n_rows < 1 || s->n_rows > d->n_rows - row || s->position < 0 || s->position > INT32_MAX - 2 * OPS_ATTENTION_CHUNK - s->n_rows)
            return FAIL(ST_INVALID, "sequence %d of the step: rows %d + %d at position %d do not follow row %d", i, s->row, s->n_rows, s->position, row);
        int32_t blocks = (s->position + s->n_rows + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK;
        for (int32_t g = 0; g < l->n_kv_groups; g++)
            if (s->table[g] < 0 || s->table[g] > d->n_table[g] || d->n_table[g] - s->table[g] < blocks)
                return FAIL(ST_INVALID, "sequence %d of the step: its block table in group %d ends before position %d", i, g, s->position + s->n_rows - 1);
        for (int32_t r = 0; r < l->n_ropes; r++)
            if (s->rope_set < 0 || (s->rope_set > 0 && s->rope_set >= 2))
                return FAIL(ST_INVALID, "sequence %d of the step: rope set %d", i, s->rope_set);
        row += s->n_rows;
    }
    if (row != d->n_rows)
        return FAIL(ST_INVALID, "the step's sequences cover %d of %d rows", row, d->n_rows);
    for (int32_t i = 0; i < d->n_out; i++)
        if (d->out_rows[i] < 0 || d->out_rows[i] >= d->n_rows || (i > 0 && d->out_rows[i] <= d->out_rows[i - 1]))
            return FAIL(ST_INVALID, "output row %d of the step is %d", i, d->out_rows[i]);
    return ST_OK;
}

static status written_check(const ops_span *spans, int32_t n_spans, const int32_t *tables, const ops_kv_spec *kv, int32_t group)
{
    for (int32_t i = 0; i < n_spans; i++) {
        const ops_span *s = &spans[i];
        const int32_t *table = tables + s->table[group];
        for (int32_t j = s->position / OPS_KV_BLOCK; j <= (s->position + s->n_rows - 1) / OPS_KV_BLOCK; j++)
            if (table[j] < 0 || table[j] >= kv->n_blocks)
                return FAIL(ST_INVALID, "qkv: sequence %d of the step writes KV block %d of %lld", i, table[j], (long long)kv->n_blocks);
    }
    return ST_OK;
}

status ops_qkv_check(const ops_batch_limits *l, const ops_span *spans, int32_t n_spans, const int32_t *const *tables, const ops_kv_spec *kv, const ops_qkv_args *args)
{
    int32_t hd = args->head_dim;
    if (hd <= 0 || args->n_heads < 0 || args->n_kv_heads < 0 || args->rope >= l->n_ropes || (args->rope >= 0 && l->ropes[args->rope].dims > hd))
        return FAIL(ST_INVALID, "qkv: heads of %d dimensions, rope %d", hd, args->rope);
    if (args->q.type != OPS_F32 || args->k.type != OPS_F32 || args->v.type != OPS_F32)
        return FAIL(ST_INVALID, "qkv: q, k and v must be f32");
    if (args->norm == OPS_QK_FULL_RMS && (args->q_sumsq == NULL || args->k_sumsq == NULL))
        return FAIL(ST_INVALID, "qkv: a norm over all heads needs their sums of squares");
    if (kv->head_dim != hd || kv->n_kv_heads != args->n_kv_heads || args->kv_layer < 0 || args->kv_layer >= kv->n_layers || args->kv_group < 0 ||
        args->kv_group >= l->n_kv_groups)
        return FAIL(ST_INVALID, "qkv: the cache has %d layers, %d KV heads of %d", kv->n_layers, kv->n_kv_heads, kv->head_dim);
    return written_check(spans, n_spans, tables[args->kv_group], kv, args->kv_group);
}

status ops_routing_check(const ops_routing_spec *s)
{
    if (s->max_rows < 1 || s->n_experts < 1 || s->n_experts > OPS_MAX_EXPERTS || s->top_k < 1 || s->top_k > s->n_experts || s->top_k > OPS_MAX_CHOSEN ||
        s->max_rows > INT32_MAX / s->top_k)
        return FAIL(ST_INVALID, "a routing of %d rows to %d of %d experts: at most %d of %d", s->max_rows, s->top_k, s->n_experts, OPS_MAX_CHOSEN, OPS_MAX_EXPERTS);
    if (s->expert_begin < 0 || s->n_local < 0 || s->expert_begin > s->n_experts || s->n_local > s->n_experts - s->expert_begin)
        return FAIL(ST_INVALID, "a routing for %d experts from %d on, of %d", s->n_local, s->expert_begin, s->n_experts);
    return ST_OK;
}

status ops_route_check(const ops_routing_spec *s, const ops_route_args *a)
{
    if (a->rows < 0 || a->rows > s->max_rows)
        return FAIL(ST_INVALID, "route: %d rows, the routing was made for %d", a->rows, s->max_rows);
    if (a->logits.type != OPS_F32 || a->scoring < OPS_SCORE_SOFTMAX || a->scoring > OPS_SCORE_SIGMOID)
        return FAIL(ST_INVALID, "route: logits must be f32, scored in a known way");
    if (a->scoring == OPS_SCORE_CHOSEN && (a->bias.buf != NULL || a->rate_by_two))
        return FAIL(ST_INVALID, "route: a softmax over the chosen gives no scores to choose by");
    if (a->n_groups > 1 && (s->n_experts % a->n_groups != 0 || a->top_groups < 1 || a->top_groups > a->n_groups ||
                            s->n_experts / a->n_groups < (s->top_k + a->top_groups - 1) / a->top_groups))
        return FAIL(ST_INVALID, "route: %d experts in the best %d of %d groups of %d", s->top_k, a->top_groups, a->n_groups, s->n_experts);
    return ST_OK;
}

status ops_experts_check(const ops_routing_spec *s, const ops_experts_args *a, int i, size_t weight_bytes, size_t bias_bytes, packed_layout *l)
{
    const ops_expert_weights *w = &a->w[i];
    const packed_shape *shape = &w->first.shape;
    size_t bytes, all, biases;
    if (w->first.buf == NULL || !packed_layout_of(*shape, l))
        return FAIL(ST_INVALID, "experts: weights %d are absent or have an impossible shape [%d, %d]", i, shape->rows, shape->cols);
    if (shape->cols != a->x.cols || a->y[i].type != OPS_F32)
        return FAIL(ST_INVALID, "experts: weights %d [%d, %d] do not fit x of %d columns and y", i, shape->rows, shape->cols, a->x.cols);
    if (w->first.offset % 64 != 0 || w->stride % 64 != 0 || (s->n_local > 1 && w->stride < l->bytes) ||
        !mem_mul(w->stride, s->n_local > 0 ? (size_t)s->n_local - 1 : 0, &bytes) || !mem_add(bytes, s->n_local > 0 ? l->bytes : 0, &bytes) ||
        !mem_add(bytes, w->first.offset, &all) || all > weight_bytes)
        return FAIL(ST_INVALID, "experts: weights %d, %d of %zu bytes, %zu apart at %zu, exceed their buffer of %zu", i, s->n_local, l->bytes, w->stride, w->first.offset,
                    weight_bytes);
    if (w->bias.buf == NULL)
        return ST_OK;
    if (!mem_mul((size_t)s->n_local, (size_t)shape->rows, &biases) || w->bias.n < 0 || (size_t)w->bias.n < biases || w->bias.offset % sizeof(float) != 0 ||
        w->bias.offset > bias_bytes || (size_t)w->bias.n > (bias_bytes - w->bias.offset) / sizeof(float))
        return FAIL(ST_INVALID, "experts: biases %d are %d at %zu in a buffer of %zu bytes, %zu needed", i, w->bias.n, w->bias.offset, bias_bytes, biases);
    return ST_OK;
}
