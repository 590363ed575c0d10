/* coordinator/sched_check.c - the invariants. */
#include "coordinator/sched_internal.h"

const char *coord_sched_check(const coord_sched *s)
{
    if (s->broken != NULL)
        return s->broken;
    if (s->n_running + s->n_free_slots != s->opt.max_seqs)
        return "a slot is lost or held twice";
    if (s->n_flights < 0 || s->n_flights > s->opt.depth || s->n_retire > s->opt.max_seqs)
        return "more steps in flight, or slots to retire, than there may be";
    int64_t held[STEP_MAX_KV_GROUPS] = {0};
    for (int32_t i = 0; i < s->n_running; i++) {
        const seq *q = s->running[i];
        if (i > 0 && sched_seq_before(q, s->running[i - 1]))
            return "running sequences are out of order";
        if (q->n_computed > q->n_tokens || (q->awaiting_sample && q->n_in_flight == 0))
            return "a sequence waits for a token that no step will bring";
        if (q->n_in_flight > 0 ? q->last_step <= s->retired_step : q->last_step > s->retired_step)
            return "a sequence's count of steps in flight is wrong";
        for (int g = 0; g < s->opt.n_kv_groups; g++) {
            const block_table *t = &q->tables[g];
            held[g] += t->n - t->first;
            if ((int64_t)t->n * s->opt.block_tokens < q->n_computed)
                return "a token was computed without a block";
            if (t->first > sched_first_visible(s, g, q->n_computed) || t->n_sent > t->n)
                return "a block was given back that is still read";
            if (t->n > t->first && s->place[g][t->blocks[t->n - 1]] != q->slot)
                return "a sequence's last block is another's";
        }
    }
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        if (held[g] != s->held[g] || held[g] + s->n_free[g] + s->n_deferred[g] != s->opt.n_blocks[g])
            return "a block is lost or held twice";
    }
    return NULL;
}

/* Every block of group g is where `place` says. */
static const char *check_blocks(const coord_sched *s, int g)
{
    for (int64_t i = 0; i < s->n_free[g]; i++) {
        if (s->place[g][s->free_blocks[g][i]] != AT_FREE)
            return "a free block is elsewhere too";
    }
    int64_t deferred = 0;
    for (int i = 0; i < s->opt.depth; i++) {
        for (int32_t b = s->flights[i].freed[g]; b >= 0; b = s->next_block[g][b], deferred++) {
            if (s->place[g][b] != AT_DEFERRED || deferred > s->n_deferred[g])
                return "a deferred block is elsewhere too";
        }
    }
    for (int32_t i = 0; i < s->n_running; i++) {
        const block_table *t = &s->running[i]->tables[g];
        for (int32_t k = t->first; k < t->n; k++) {
            if (s->place[g][t->blocks[k]] != s->running[i]->slot)
                return "a table holds a block that is not its own";
        }
    }
    return deferred == s->n_deferred[g] ? NULL : "a deferred block is lost";
}

const char *coord_sched_check_whole(const coord_sched *s)
{
    const char *what = coord_sched_check(s);
    for (int g = 0; what == NULL && g < s->opt.n_kv_groups; g++)
        what = check_blocks(s, g);
    for (int32_t i = 0; what == NULL && i < s->n_heap; i++) {
        if (s->heap[i]->heap_at != i || (i > 0 && sched_seq_before(s->heap[i], s->heap[(i - 1) / 2])) || s->heap[i]->slot != -1)
            what = "the waiting are out of order";
    }
    size_t alive = 0;
    for (size_t i = 0; what == NULL && i < s->n_buckets; i++) {
        for (const seq *q = s->buckets[i]; q != NULL; q = q->hash_next)
            alive++;
    }
    if (what == NULL && (alive != s->n_alive || alive != (size_t)s->n_heap + (size_t)s->n_running))
        what = "a request is lost or counted twice";
    return what;
}
