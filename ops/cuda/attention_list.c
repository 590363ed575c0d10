/* ops/cuda/attention_list.c - what the attention of a step is cut into (kernels.h): plain C, made once a step and window.
 *
 * A tile that one block (for each KV head) takes through all its chunks needs neither room for partial results nor a merge, but a long context then
 * keeps few blocks busy for long.  So tiles with more than their share of chunks are split, in pieces of `share` chunks, such that the whole step has
 * some SPREAD pieces for each KV head: on 132 SMs with two blocks each and 8 KV heads, 256 pieces are eight waves of equal length.  A result of a
 * chunk that is kept costs 4 (head_dim + 2) bytes written and read again for each query head, against 1024 head_dim bytes of 16-bit keys and values
 * read for each KV head: a few per cent. */
#include <string.h>

#include "ops/cuda/kernels.h"

#define SPREAD 256
#define EXTRA_SLOTS 12288 /* results of chunks kept at most: beyond, tiles stay whole */

static int32_t min_i(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t ceil_div(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int32_t max_tiles(int32_t max_rows, int32_t max_spans)
{
    return min_i(max_rows, max_rows / GPU_ATTENTION_ROWS + max_spans);
}

int32_t gpu_attention_max_work(int32_t max_rows, int32_t max_spans)
{
    return max_tiles(max_rows, max_spans) + SPREAD;
}

size_t gpu_attention_list_bytes(int32_t max_rows, int32_t max_spans)
{
    return sizeof(gpu_attention_list) + (size_t)max_rows * sizeof(gpu_row_slots) + (size_t)gpu_attention_max_work(max_rows, max_spans) * sizeof(gpu_work);
}

int32_t gpu_attention_max_slots(int32_t max_rows, int64_t max_context)
{
    int64_t all = (int64_t)max_rows * ((max_context + OPS_ATTENTION_CHUNK - 1) / OPS_ATTENTION_CHUNK);
    return max_rows + (int32_t)(all < EXTRA_SLOTS ? all : EXTRA_SLOTS);
}

/* [slot][head][head_dim rounded up to 16], then [slot][head][maximum, sum] */
int64_t gpu_attention_scratch(int32_t max_slots, int32_t n_heads, int32_t head_dim)
{
    return (int64_t)max_slots * n_heads * ((int64_t)(head_dim + 15) / 16 * 16 + 2);
}

typedef struct tile {
    int32_t span, row, n_rows, position; /* of the first row */
    int32_t chunk, n_chunks;
} tile;

/* Tile t of a span, the last rows first: they see the most. */
static tile tile_of(const ops_batch_desc *d, int32_t span, int32_t t, int32_t window)
{
    const ops_span *s = &d->spans[span];
    int32_t from = (ceil_div(s->n_rows, GPU_ATTENTION_ROWS) - 1 - t) * GPU_ATTENTION_ROWS, n = min_i(GPU_ATTENTION_ROWS, s->n_rows - from), position = s->position + from;
    int32_t seen = window > 0 && position >= window ? position - window + 1 : 0, chunk = seen / OPS_ATTENTION_CHUNK;
    return (tile){span, s->row + from, n, position, chunk, (position + n - 1) / OPS_ATTENTION_CHUNK - chunk + 1};
}

typedef struct maker {
    gpu_attention_list *list;
    gpu_row_slots *rows;
    gpu_work *work;
    int32_t share, spare; /* chunks of a piece; slots that may go to split tiles */
} maker;

static void put_tile(maker *m, const tile *t)
{
    gpu_attention_list *l = m->list;
    bool split = t->n_chunks > m->share && (int64_t)t->n_rows * t->n_chunks - t->n_rows <= m->spare;
    int32_t step = split ? m->share : t->n_chunks;
    for (int32_t c = 0; c < t->n_chunks; c += step)
        m->work[l->n_work++] = (gpu_work){t->span, t->row, t->n_rows, t->position, t->chunk + c, min_i(step, t->n_chunks - c), l->n_slots + c * t->n_rows, !split};
    for (int32_t r = 0; r < t->n_rows; r++)
        m->rows[t->row + r] = (gpu_row_slots){.slot = l->n_slots + r, .stride = t->n_rows, .n = split ? t->n_chunks : 1};
    l->n_slots += t->n_rows * (split ? t->n_chunks : 1);
    m->spare -= split ? t->n_rows * (t->n_chunks - 1) : 0;
    l->most_rows = t->n_rows > l->most_rows ? t->n_rows : l->most_rows;
}

size_t gpu_attention_list_make(const ops_batch_desc *desc, int32_t window, int32_t max_rows, int32_t max_slots, void *out)
{
    maker m = {.list = out, .spare = max_slots - desc->n_rows};
    *m.list = (gpu_attention_list){.max_rows = max_rows};
    m.rows = (gpu_row_slots *)(m.list + 1);
    m.work = (gpu_work *)(void *)(m.rows + max_rows);
    memset(m.rows, 0, (size_t)max_rows * sizeof(*m.rows));
    int64_t chunks = 0;
    for (int32_t i = 0; i < desc->n_spans; i++)
        for (int32_t t = 0; t < ceil_div(desc->spans[i].n_rows, GPU_ATTENTION_ROWS); t++)
            chunks += tile_of(desc, i, t, window).n_chunks;
    m.share = (int32_t)((chunks + SPREAD - 1) / SPREAD);
    m.share = m.share > 0 ? m.share : 1;
    for (int32_t i = 0; i < desc->n_spans; i++)
        for (int32_t t = 0; t < ceil_div(desc->spans[i].n_rows, GPU_ATTENTION_ROWS); t++) {
            tile one = tile_of(desc, i, t, window);
            put_tile(&m, &one);
        }
    return sizeof(*m.list) + (size_t)max_rows * sizeof(*m.rows) + (size_t)m.list->n_work * sizeof(*m.work);
}
