/* coordinator/sched_blocks.c - KV blocks: who has them, when they are free again. */
#include "coordinator/sched_internal.h"

#include <stdlib.h>

static void broken(coord_sched *s, const char *what)
{
    if (s->broken == NULL)
        s->broken = what;
}

static void block_move(coord_sched *s, int g, int32_t block, int32_t from, int32_t to)
{
    if (s->place[g][block] != from)
        broken(s, "a block is not where it should be: lost, or in two places");
    s->place[g][block] = to;
}

static flight *flight_of(coord_sched *s, uint64_t number)
{
    uint64_t oldest = s->next_step - (uint64_t)s->n_flights;
    return &s->flights[((uint64_t)s->flight_head + (number - oldest)) % (uint64_t)s->opt.depth];
}

void sched_block_free(coord_sched *s, int g, int32_t block)
{
    s->free_blocks[g][s->n_free[g]++] = block;
}

/* Gives a slot's block back: at once if every step naming it has retired, else when the last of them does. */
static void block_release(coord_sched *s, int32_t slot, uint64_t last_step, int g, int32_t block)
{
    s->held[g]--;
    if (last_step <= s->retired_step) {
        block_move(s, g, block, slot, AT_FREE);
        sched_block_free(s, g, block);
        return;
    }
    flight *f = flight_of(s, last_step);
    block_move(s, g, block, slot, AT_DEFERRED);
    s->next_block[g][block] = f->freed[g];
    f->freed[g] = block;
    s->n_deferred[g]++;
}

void sched_blocks_retired(coord_sched *s, flight *f)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        for (int32_t b = f->freed[g], next; b >= 0; b = next) {
            next = s->next_block[g][b];
            block_move(s, g, b, AT_DEFERRED, AT_FREE);
            sched_block_free(s, g, b);
            s->n_deferred[g]--;
        }
        f->freed[g] = -1;
    }
}

int32_t sched_blocks_for(const coord_sched *s, int64_t n_tokens)
{
    return (int32_t)((n_tokens + s->opt.block_tokens - 1) / s->opt.block_tokens);
}

/* First block a query at `position` may still read. */
int32_t sched_first_visible(const coord_sched *s, int g, int32_t position)
{
    int32_t w = s->opt.window[g];
    return w == 0 || position < w ? 0 : (position - w + 1) / s->opt.block_tokens;
}

/* The most blocks of a group that a sequence holds at once while `n` tokens are computed, alone and in chunks of `chunk`. */
int64_t sched_blocks_at_once(const coord_sched *s, int g, int64_t n, int32_t chunk)
{
    int64_t all = sched_blocks_for(s, n), w = s->opt.window[g];
    int64_t live = sched_blocks_for(s, w) + 1 + sched_blocks_for(s, chunk);
    return w > 0 && live < all ? live : all;
}

/* Blocks group g lacks before tokens [.., end) can be computed. */
int64_t sched_blocks_missing(const coord_sched *s, const seq *q, int g, int32_t end)
{
    int64_t need = sched_blocks_for(s, end) - (int64_t)q->tables[g].n;
    return need > 0 ? need : 0;
}

bool sched_blocks_available(const coord_sched *s, const seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (sched_blocks_missing(s, q, g, end) > s->n_free[g])
            return false;
    }
    return true;
}

/* The last position + 1 that the blocks q has and the free ones reach. */
int64_t sched_blocks_reach(const coord_sched *s, const seq *q)
{
    int64_t reach = INT32_MAX;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int64_t r = (q->tables[g].n + s->n_free[g]) * s->opt.block_tokens;
        reach = r < reach ? r : reach;
    }
    return reach;
}

/* Room in the tables for blocks up to `end`; false: out of memory. */
bool sched_tables_reserve(const coord_sched *s, seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        int32_t need = sched_blocks_for(s, end);
        if (need > t->cap) {
            int32_t cap = need + need / 2 + 4;
            int32_t *p = realloc(t->blocks, (size_t)cap * sizeof(*p));
            if (p == NULL)
                return false;
            t->blocks = p;
            t->cap = cap;
        }
    }
    return true;
}

/* Moves free blocks into q's tables: there are enough, and room was reserved. */
void sched_blocks_take(coord_sched *s, seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        for (int32_t need = sched_blocks_for(s, end); t->n < need; s->held[g]++) {
            int32_t block = s->free_blocks[g][--s->n_free[g]];
            block_move(s, g, block, AT_FREE, q->slot);
            t->blocks[t->n++] = block;
        }
    }
}

void sched_blocks_drop_before(coord_sched *s, seq *q, int g, int32_t first)
{
    block_table *t = &q->tables[g];
    for (; t->first < first && t->first < t->n; t->first++) /* the entry stays: the step just built may still name it */
        block_release(s, q->slot, q->last_step, g, t->blocks[t->first]);
}
