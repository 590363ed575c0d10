/* ops/cpu/cpu_batch.c - one step's description: copied, checked, and the rope tables of its rows. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ops/check.h"
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

status cpu_batch_create(ops_ctx *ctx, const ops_batch_limits *limits, ops_batch **out)
{
    (void)ctx;
    *out = NULL;
    TRY(ops_batch_limits_check(limits));
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
    TRY(ops_batch_check(&b->limits, d));
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
