/* ops/cpu/cpu_batch.c - one step's description: copied, checked, and the rope tables of its rows. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/cpu/cpu_vec.h"

typedef struct plan { /* hands out pieces of one block; with base NULL only counts */
    char *base;
    size_t bytes;
    bool overflow;
} plan;

static void *take(plan *p, size_t n, size_t size)
{
    size_t bytes, end;
    if (!mem_mul(n, size, &bytes) || !mem_add(bytes, 63, &bytes) || !mem_add(p->bytes, bytes & ~(size_t)63, &end)) {
        p->overflow = true;
        return NULL;
    }
    void *at = p->base != NULL ? p->base + p->bytes : NULL;
    p->bytes = end;
    return at;
}

static void lay_out(ops_batch *b, plan *p)
{
    const ops_batch_limits *l = &b->limits;
    size_t rows = (size_t)l->max_rows;
    b->tokens = take(p, rows, sizeof(int32_t));
    b->position = take(p, rows, sizeof(int32_t));
    b->span_of = take(p, rows, sizeof(int32_t));
    b->out_rows = take(p, (size_t)l->max_out, sizeof(int32_t));
    b->spans = take(p, (size_t)l->max_spans, sizeof(ops_span));
    for (int32_t g = 0; g < l->n_kv_groups; g++)
        b->tables[g] = take(p, (size_t)l->max_blocks, sizeof(int32_t));
    for (int32_t r = 0; r < l->n_ropes; r++) {
        size_t half = (size_t)l->ropes[r].dims / 2;
        size_t all = 0;
        if (!mem_mul(rows, half, &all))
            p->overflow = true;
        b->cosine[r] = take(p, all, sizeof(float));
        b->sine[r] = take(p, all, sizeof(float));
        for (int32_t s = 0; s < l->ropes[r].n_sets; s++) {
            float *freq = take(p, half, sizeof(float));
            if (freq != NULL)
                memcpy(freq, l->ropes[r].inv_freq[s], half * sizeof(float));
            if (p->base != NULL)
                b->limits.ropes[r].inv_freq[s] = freq;
        }
    }
}

static status check_limits(const ops_batch_limits *l)
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

status cpu_batch_create(ops_ctx *ctx, const ops_batch_limits *limits, ops_batch **out)
{
    (void)ctx;
    *out = NULL;
    TRY(check_limits(limits));
    ops_batch *b;
    TRY(mem_calloc(1, sizeof(*b), "batch", &b));
    b->limits = *limits;
    plan p = {0};
    lay_out(b, &p);
    status st = p.overflow ? FAIL(ST_INVALID, "a batch of %d rows, %d blocks: impossible size", limits->max_rows, limits->max_blocks) : ST_OK;
    if (st == ST_OK)
        st = mem_huge_alloc(p.bytes + 64, "batch", &b->memory);
    if (st != ST_OK) {
        free(b);
        return st;
    }
    b->memory_bytes = p.bytes + 64;
    p = (plan){.base = b->memory};
    lay_out(b, &p);
    *out = b;
    return ST_OK;
}

void cpu_batch_destroy(ops_ctx *ctx, ops_batch **batch)
{
    (void)ctx;
    if (*batch == NULL)
        return;
    mem_huge_free((*batch)->memory, (*batch)->memory_bytes);
    free(*batch);
    *batch = NULL;
}

/* Each row belongs to one span, spans come in the order of their rows, tables reach to the last position. */
static status check(const ops_batch *b, const ops_batch_desc *d)
{
    const ops_batch_limits *l = &b->limits;
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

static void rope_rows(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread)
{
    const ops_batch *b = arg;
    (void)thread;
    for (int32_t r = 0; r < b->limits.n_ropes; r++) {
        const ops_rope_spec *s = &b->limits.ropes[r];
        size_t half = (size_t)s->dims / 2;
        for (size_t row = begin; row < end; row++) {
            const ops_span *span = &b->spans[b->span_of[row]];
            int32_t set = span->rope_set < s->n_sets ? span->rope_set : 0; /* a rope with one set serves every sequence */
            const float *own = span->inv_freq[r];
            ctx->vec->rope_table(own != NULL ? own : s->inv_freq[set], (int32_t)half, b->position[row], s->attention_factor[set], b->cosine[r] + row * half,
                                 b->sine[r] + row * half);
        }
    }
}

status cpu_batch_set(ops_ctx *ctx, ops_batch *b, const ops_batch_desc *d)
{
    TRY(check(b, d));
    b->n_rows = d->n_rows;
    b->n_spans = d->n_spans;
    b->n_out = d->n_out;
    if (d->n_rows > 0)
        memcpy(b->tokens, d->tokens, (size_t)d->n_rows * sizeof(int32_t));
    if (d->n_spans > 0)
        memcpy(b->spans, d->spans, (size_t)d->n_spans * sizeof(ops_span));
    if (d->n_out > 0)
        memcpy(b->out_rows, d->out_rows, (size_t)d->n_out * sizeof(int32_t));
    for (int32_t g = 0; g < b->limits.n_kv_groups; g++) {
        b->n_table[g] = d->n_table[g];
        if (d->n_table[g] > 0)
            memcpy(b->tables[g], d->tables[g], (size_t)d->n_table[g] * sizeof(int32_t));
    }
    for (int32_t i = 0; i < d->n_spans; i++)
        for (int32_t j = 0; j < d->spans[i].n_rows; j++) {
            b->position[d->spans[i].row + j] = d->spans[i].position + j;
            b->span_of[d->spans[i].row + j] = i;
        }
    size_t weight = 0;
    for (int32_t r = 0; r < b->limits.n_ropes; r++)
        weight += (size_t)b->limits.ropes[r].dims / 2 * 2; /* some 30 operations for 16 angles */
    if (weight > 0)
        cpu_for(ctx, (size_t)d->n_rows, 1, weight, rope_rows, b);
    return ST_OK;
}
