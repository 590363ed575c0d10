/* coordinator/sched_check.c - the invariants. */
#include "coordinator/sched_internal.h"

#include <stdlib.h>
#include <string.h>

/* What must hold of a running sequence's table, seen from the table alone and from its last block. */
static const char *check_table(const coord_sched *s, const seq *q, int g)
{
    const block_table *t = &q->tables[g];
    if ((int64_t)t->n * s->opt.block_tokens < q->n_computed)
        return "a token was computed without a block";
    if (t->first > sched_first_visible(s, g, q->n_computed) || t->n_sent > t->n)
        return "a block was given back that is still read";
    if (t->n == t->first)
        return NULL;
    const block *last = &s->pools[g].blocks[t->blocks[t->n - 1]];
    if (last->at != BLOCK_HELD || last->refs < 1)
        return "a table names a block that it does not hold";
    if (t->n * s->opt.block_tokens > q->n_computed && (last->refs != 1 || last->cached))
        return "a block that is still written is shared";
    return NULL;
}

const char *coord_sched_check(const coord_sched *s)
{
    if (s->broken != NULL)
        return s->broken;
    if (s->n_running + s->n_free_slots != s->opt.max_seqs)
        return "a slot is lost or held twice";
    if (s->n_flights < 0 || s->n_flights > s->opt.depth || s->n_retire > s->opt.max_seqs)
        return "more steps in flight, or slots to retire, than there may be";
    int64_t refs[STEP_MAX_KV_GROUPS] = {0};
    for (int32_t i = 0; i < s->n_running; i++) {
        const seq *q = s->running[i];
        if (i > 0 && sched_seq_before(q, s->running[i - 1]))
            return "running sequences are out of order";
        if (q->n_computed > q->n_tokens || (q->awaiting_sample && q->n_in_flight == 0))
            return "a sequence waits for a token that no step will bring";
        if (q->n_in_flight > 0 ? q->last_step <= s->retired_step : q->last_step > s->retired_step)
            return "a sequence's count of steps in flight is wrong";
        for (int g = 0; g < s->opt.n_kv_groups; g++) {
            const char *what = check_table(s, q, g);
            if (what != NULL)
                return what;
            refs[g] += q->tables[g].n - q->tables[g].first;
        }
    }
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        const block_pool *p = &s->pools[g];
        if (refs[g] != p->n_refs || p->n_held + p->free.n + p->n_deferred != p->n_blocks)
            return "a block is lost or held twice";
    }
    return NULL;
}

/* Every block of a list is at `at`, linked both ways, and held by nobody; their number, or -1. */
static int64_t check_list(const block_pool *p, const block_list *l, uint8_t at)
{
    int64_t n = 0;
    int32_t prev = -1;
    for (int32_t id = l->first; id >= 0; prev = id, id = p->blocks[id].next, n++) {
        if (n >= p->n_blocks || p->blocks[id].at != at || p->blocks[id].refs != 0 || p->blocks[id].prev != prev)
            return -1;
    }
    return prev == l->last && n == l->n ? n : -1;
}

/* Blocks that hold nothing are handed out before any cached one. */
static bool plain_first(const block_pool *p)
{
    bool cached = false;
    for (int32_t id = p->free.first; id >= 0; id = p->blocks[id].next) {
        if (cached && !p->blocks[id].cached)
            return false;
        cached |= p->blocks[id].cached;
    }
    return true;
}

/* Each cached block is found by its key, and what q's tables share is what q computed. */
static const char *check_cache(const coord_sched *s, int g)
{
    const block_pool *p = &s->pools[g];
    int64_t n = 0;
    for (int32_t id = 0; id < p->n_blocks; id++) {
        if (!p->blocks[id].cached)
            continue;
        n++;
        if (sched_prefix_lookup(s, g, &p->blocks[id].key, p->tokens + (size_t)id * (size_t)s->opt.block_tokens) != id)
            return "a cached block is not found, or twice there";
    }
    if (n != p->n_cached)
        return "cached blocks are miscounted";
    for (int32_t i = 0; i < s->n_running; i++) {
        const seq *q = s->running[i];
        for (int32_t k = q->tables[g].first; k < q->tables[g].n; k++) {
            const block *b = &p->blocks[q->tables[g].blocks[k]];
            if (b->cached && (k >= q->n_published || memcmp(&b->key, &q->keys[k], sizeof(b->key)) != 0))
                return "a table shares a block of other tokens";
            if (k >= q->n_published && b->refs != 1)
                return "a block is shared before it is full";
        }
    }
    return NULL;
}

/* Every block of group g is where it says, and held as often as it says. */
static const char *check_blocks(const coord_sched *s, int g)
{
    const block_pool *p = &s->pools[g];
    int64_t deferred = 0, held = 0;
    const char *what = NULL;
    if (check_list(p, &p->free, BLOCK_FREE) < 0 || !plain_first(p))
        return "a free block is elsewhere too, or out of order";
    for (int i = 0; i < s->opt.depth; i++) {
        int64_t n = check_list(p, &s->flights[i].given[g], BLOCK_DEFERRED);
        if (n < 0)
            return "a deferred block is elsewhere too";
        deferred += n;
    }
    if (deferred != p->n_deferred)
        return "a deferred block is lost";
    int32_t *refs = calloc((size_t)p->n_blocks, sizeof(*refs));
    if (refs == NULL)
        return "no memory to check in";
    for (int32_t i = 0; i < s->n_running; i++) {
        const block_table *t = &s->running[i]->tables[g];
        for (int32_t k = t->first; k < t->n; k++)
            refs[t->blocks[k]]++;
    }
    for (int32_t id = 0; id < p->n_blocks; id++) {
        if (refs[id] != p->blocks[id].refs || (refs[id] > 0) != (p->blocks[id].at == BLOCK_HELD))
            what = "a block is held more or less often than it says";
        held += refs[id] > 0;
    }
    free(refs);
    return what != NULL ? what : held != p->n_held ? "held blocks are miscounted" : s->hash != NULL ? check_cache(s, g) : NULL;
}

static const char *check_waiting(const coord_sched *s)
{
    for (int h = 0; h < N_HEAPS; h++) {
        for (int32_t i = 0; i < s->n_waiting; i++) {
            const seq *q = s->heaps[h][i], *parent = s->heaps[h][i > 0 ? (i - 1) / 2 : 0];
            bool before = h == HEAP_BY_AGE ? sched_seq_before(q, parent) : sched_seq_shorter(q, parent);
            if (q->heap_at[h] != i || before || q->slot != -1 || q->n_computed != 0)
                return "the waiting are out of order";
        }
    }
    return NULL;
}

const char *coord_sched_check_whole(const coord_sched *s)
{
    const char *what = coord_sched_check(s);
    for (int g = 0; what == NULL && g < s->opt.n_kv_groups; g++)
        what = check_blocks(s, g);
    if (what == NULL)
        what = check_waiting(s);
    size_t alive = 0;
    for (size_t i = 0; what == NULL && i < s->n_buckets; i++) {
        for (const seq *q = s->buckets[i]; q != NULL; q = q->hash_next)
            alive++;
    }
    if (what == NULL && (alive != s->n_alive || alive != (size_t)s->n_waiting + (size_t)s->n_running))
        what = "a request is lost or counted twice";
    return what;
}
