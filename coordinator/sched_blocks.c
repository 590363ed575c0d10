/* coordinator/sched_blocks.c - KV blocks: who holds them, when they are free again.
 *
 *   free --take--> held by one --(full, published)--> found and held by several
 *    ^               |  the last one gives it back
 *    |               v
 *    +---------- deferred, until every step naming it has retired
 *
 * A block that can be found by its key keeps it while deferred and free, and may be held again from there; taken from the free to hold something
 * else, it is forgotten first. */
#include "coordinator/sched_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

void sched_broken(coord_sched *s, const char *what)
{
    if (s->broken == NULL)
        s->broken = what;
}

static void block_move(coord_sched *s, block *b, uint8_t from, uint8_t to)
{
    if (b->at != from)
        sched_broken(s, "a block is not where it should be: lost, or in two places");
    b->at = to;
}

/* ---- lists ---- */

static void list_insert(block *blocks, block_list *l, int32_t id, bool at_head)
{
    block *b = &blocks[id];
    b->prev = at_head ? -1 : l->last;
    b->next = at_head ? l->first : -1;
    *(b->prev >= 0 ? &blocks[b->prev].next : &l->first) = id;
    *(b->next >= 0 ? &blocks[b->next].prev : &l->last) = id;
    l->n++;
}

static void list_remove(block *blocks, block_list *l, int32_t id)
{
    const block *b = &blocks[id];
    *(b->prev >= 0 ? &blocks[b->prev].next : &l->first) = b->next;
    *(b->next >= 0 ? &blocks[b->next].prev : &l->last) = b->prev;
    l->n--;
}

static flight *flight_of(coord_sched *s, uint64_t number)
{
    uint64_t oldest = s->next_step - (uint64_t)s->n_flights;
    return &s->flights[((uint64_t)s->flight_head + (number - oldest)) % (uint64_t)s->opt.depth];
}

/* ---- life ---- */

status sched_pool_create(coord_sched *s, int g)
{
    block_pool *p = &s->pools[g];
    if (s->opt.n_blocks[g] < 1 || s->opt.n_blocks[g] > INT32_MAX / 2)
        return FAIL(ST_INVALID, "scheduler: %lld KV blocks in group %d: at least 1 is needed", (long long)s->opt.n_blocks[g], g);
    *p = (block_pool){.n_blocks = (int32_t)s->opt.n_blocks[g], .window = s->opt.window[g], .free = {-1, -1, 0}};
    TRY(mem_calloc((size_t)p->n_blocks, sizeof(*p->blocks), "scheduler blocks", &p->blocks));
    for (int32_t id = 0; id < p->n_blocks; id++)
        list_insert(p->blocks, &p->free, id, false);
    return ST_OK;
}

void sched_pool_destroy(block_pool *p)
{
    free(p->blocks);
    free(p->tokens);
    free(p->buckets);
}

/* ---- holding and giving back ---- */

static void block_free(coord_sched *s, int g, int32_t id)
{
    block_pool *p = &s->pools[g];
    list_insert(p->blocks, &p->free, id, !p->blocks[id].cached);
}

static void block_give_back(coord_sched *s, int g, int32_t id, uint64_t last_step)
{
    block_pool *p = &s->pools[g];
    block *b = &p->blocks[id];
    b->last_step = last_step > b->last_step ? last_step : b->last_step;
    p->n_refs--;
    if (--b->refs > 0)
        return;
    p->n_held--;
    if (b->last_step <= s->retired_step) {
        block_move(s, b, BLOCK_HELD, BLOCK_FREE);
        block_free(s, g, id);
        return;
    }
    block_move(s, b, BLOCK_HELD, BLOCK_DEFERRED);
    list_insert(p->blocks, &flight_of(s, b->last_step)->given[g], id, false);
    p->n_deferred++;
}

static void block_hold(coord_sched *s, int g, int32_t id)
{
    block_pool *p = &s->pools[g];
    block *b = &p->blocks[id];
    p->n_refs++;
    if (b->refs++ > 0)
        return;
    p->n_held++;
    if (b->at == BLOCK_DEFERRED) {
        list_remove(p->blocks, &flight_of(s, b->last_step)->given[g], id);
        p->n_deferred--;
    } else {
        block_move(s, b, BLOCK_FREE, BLOCK_FREE);
        list_remove(p->blocks, &p->free, id);
    }
    b->at = BLOCK_HELD;
}

void sched_block_share(coord_sched *s, int g, int32_t id)
{
    if (!s->pools[g].blocks[id].cached)
        sched_broken(s, "a block is shared that nobody can find");
    block_hold(s, g, id);
}

void sched_blocks_retired(coord_sched *s, flight *f)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_pool *p = &s->pools[g];
        while (f->given[g].n > 0) {
            int32_t id = f->given[g].first;
            list_remove(p->blocks, &f->given[g], id);
            p->n_deferred--;
            block_move(s, &p->blocks[id], BLOCK_DEFERRED, BLOCK_FREE);
            block_free(s, g, id);
        }
    }
}

void sched_blocks_forget_all(coord_sched *s)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_pool *p = &s->pools[g];
        for (int32_t id = 0; id < p->n_blocks; id++) {
            if (p->blocks[id].cached)
                sched_prefix_evict(s, g, id);
            p->blocks[id].last_step = 0;
        }
    }
}

/* ---- how many ---- */

int32_t sched_blocks_for(const coord_sched *s, int64_t n_tokens)
{
    return (int32_t)((n_tokens + s->opt.block_tokens - 1) / s->opt.block_tokens);
}

int32_t sched_first_visible(const coord_sched *s, int g, int32_t position)
{
    int32_t w = s->opt.window[g];
    return w == 0 || position < w ? 0 : (position - w + 1) / s->opt.block_tokens;
}

int64_t sched_blocks_at_once(const coord_sched *s, int g, int64_t n, int32_t chunk)
{
    int64_t all = sched_blocks_for(s, n), w = s->opt.window[g];
    int64_t live = sched_blocks_for(s, w) + 1 + sched_blocks_for(s, chunk);
    return w > 0 && live < all ? live : all;
}

int64_t sched_blocks_missing(const coord_sched *s, const seq *q, int g, int32_t end)
{
    int64_t need = sched_blocks_for(s, end) - (int64_t)q->tables[g].n;
    return need > 0 ? need : 0;
}

bool sched_blocks_available(const coord_sched *s, const seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (sched_blocks_missing(s, q, g, end) > s->pools[g].free.n)
            return false;
    }
    return true;
}

int64_t sched_blocks_reach(const coord_sched *s, const seq *q)
{
    int64_t reach = INT32_MAX;
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        int64_t r = (q->tables[g].n + s->pools[g].free.n) * s->opt.block_tokens;
        reach = r < reach ? r : reach;
    }
    return reach;
}

/* ---- tables ---- */

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

void sched_blocks_take(coord_sched *s, seq *q, int32_t end)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        block_pool *p = &s->pools[g];
        for (int32_t need = sched_blocks_for(s, end); t->n < need;) {
            int32_t id = p->free.first;
            if (p->blocks[id].cached)
                sched_prefix_evict(s, g, id);
            block_hold(s, g, id);
            t->blocks[t->n++] = id;
        }
    }
}

void sched_blocks_drop_before(coord_sched *s, seq *q, int g, int32_t first)
{
    block_table *t = &q->tables[g];
    int32_t end = first < t->n ? first : t->n;
    for (int32_t i = end; i-- > t->first;) /* the entries stay: the step just built may still name them */
        block_give_back(s, g, t->blocks[i], q->last_step);
    t->first = end > t->first ? end : t->first;
}

/* ---- preemption ---- */

/* Adds to can[] the blocks that nobody would hold any more if q too gave its own back. */
static void count_given(coord_sched *s, const seq *q, int64_t *can)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        const block_table *t = &q->tables[g];
        for (int32_t i = t->first; i < t->n; i++) {
            block *b = &s->pools[g].blocks[t->blocks[i]];
            if (b->seen_in != s->seen) {
                b->seen_in = s->seen;
                b->seen = b->refs;
            }
            can[g] += --b->seen == 0 && b->last_step <= s->retired_step;
        }
    }
}

static bool enough(const coord_sched *s, const seq *q, int32_t end, const int64_t *can)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (sched_blocks_missing(s, q, g, end) > can[g])
            return false;
    }
    return true;
}

/* Who is in flight keeps its own, and so does who comes before q. */
bool sched_blocks_wrest(coord_sched *s, seq *q, int32_t end)
{
    int64_t can[STEP_MAX_KV_GROUPS];
    int32_t i = s->n_running - 1;
    s->seen++;
    for (int g = 0; g < s->opt.n_kv_groups; g++)
        can[g] = s->pools[g].free.n;
    for (; s->running[i] != q && !enough(s, q, end, can); i--) {
        if (s->running[i]->n_in_flight == 0)
            count_given(s, s->running[i], can);
    }
    if (!enough(s, q, end, can))
        return false;
    for (i = s->n_running - 1; s->running[i] != q && !sched_blocks_available(s, q, end); i--) {
        if (s->running[i]->n_in_flight > 0)
            continue;
        sched_seq_requeue(s, s->running[i]);
        s->stats.n_preemptions++;
    }
    return sched_blocks_available(s, q, end);
}
