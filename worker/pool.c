/* worker/pool.c - a request that asks for a vector, not for tokens: the hidden state after the final norm, of the last token or the mean over
 * all of them.
 *
 * Every rank of the last stage has whole rows of the residual stream, so its first one pools alone.  Sums are f64 and run in the order of
 * positions, from one chunk of the prompt to the next: the vector does not depend on how the prompt was cut. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "worker/worker_internal.h"

static status buffers(worker *w, worker_seq *q)
{
    size_t hidden = (size_t)w->arch->hidden;
    if (w->pool_row == NULL)
        TRY(mem_calloc(hidden, sizeof(float), "pooling", &w->pool_row));
    if (w->embeddings == NULL)
        TRY(mem_calloc((size_t)w->opt.max_seqs * hidden, sizeof(float), "pooling", &w->embeddings));
    if (q->pool == NULL)
        TRY(mem_calloc(hidden, sizeof(double), "pooling", &q->pool));
    return ST_OK;
}

static void add(worker *w, worker_seq *q)
{
    int32_t hidden = w->arch->hidden;
    if (q->n_pooled++ == 0)
        memset(q->pool, 0, (size_t)hidden * sizeof(*q->pool));
    for (int32_t i = 0; i < hidden; i++)
        q->pool[i] += (double)w->pool_row[i];
}

static void vector(const worker *w, const worker_seq *q, float *out)
{
    int32_t hidden = w->arch->hidden;
    double squares = 0, scale = 1.0 / q->n_pooled;
    for (int32_t i = 0; i < hidden; i++)
        squares += q->pool[i] * scale * (q->pool[i] * scale);
    if (q->normalize && squares > 0)
        scale /= sqrt(squares);
    for (int32_t i = 0; i < hidden; i++)
        out[i] = (float)(q->pool[i] * scale);
}

status worker_pool(worker *w)
{
    size_t hidden = (size_t)w->arch->hidden;
    float *next = NULL;
    if (w->n_out == w->n_sampled || w->rank->tp_index != 0)
        return ST_OK;
    TRY(w->ops->sync(w->ctx));
    for (int32_t i = w->n_sampled; i < w->n_out; i++) {
        const worker_out *o = &w->outs[i];
        worker_seq *q = &w->seqs[o->slot];
        TRY(buffers(w, q));
        if (next == NULL)
            next = w->embeddings;
        TRY(w->ops->buf_read(w->ctx, w->pooled.buf, w->pooled.offset + (size_t)i * w->pooled.stride, w->pool_row, hidden * sizeof(float)));
        add(w, q);
        if (!o->ends)
            continue;
        vector(w, q, next);
        w->result_rows[w->result.n_rows++] = (step_result_row){
            .slot = o->slot, .position = o->position, .token = -1, .finish = STEP_END_TOKEN, .n_embedding = w->arch->hidden, .embedding = next};
        next += hidden;
    }
    return ST_OK;
}
