/* coordinator/sched_queue.c - the waiting, by age and by length; requests by id. */
#include "coordinator/sched_internal.h"

#include <stdlib.h>

#include "base/mem.h"

bool sched_seq_before(const seq *a, const seq *b)
{
    return a->due != b->due ? a->due < b->due : a->arrival < b->arrival;
}

bool sched_seq_shorter(const seq *a, const seq *b)
{
    int32_t left_a = a->n_tokens - a->n_computed, left_b = b->n_tokens - b->n_computed;
    if (a->request.priority != b->request.priority)
        return a->request.priority < b->request.priority;
    return left_a != left_b ? left_a < left_b : sched_seq_before(a, b);
}

/* ---- the waiting, in two heaps ---- */

static bool heap_before(int h, const seq *a, const seq *b)
{
    return h == HEAP_BY_AGE ? sched_seq_before(a, b) : sched_seq_shorter(a, b);
}

static void heap_set(coord_sched *s, int h, int32_t i, seq *q)
{
    s->heaps[h][i] = q;
    q->heap_at[h] = i;
}

static void heap_swap(coord_sched *s, int h, int32_t i, int32_t j)
{
    seq *t = s->heaps[h][i];
    heap_set(s, h, i, s->heaps[h][j]);
    heap_set(s, h, j, t);
}

static void heap_sift_up(coord_sched *s, int h, int32_t i)
{
    while (i > 0 && heap_before(h, s->heaps[h][i], s->heaps[h][(i - 1) / 2])) {
        heap_swap(s, h, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
}

static void heap_sift_down(coord_sched *s, int h, int32_t i)
{
    for (;;) {
        int32_t best = i;
        for (int32_t c = 2 * i + 1; c <= 2 * i + 2; c++) {
            if (c < s->n_waiting && heap_before(h, s->heaps[h][c], s->heaps[h][best]))
                best = c;
        }
        if (best == i)
            return;
        heap_swap(s, h, i, best);
        i = best;
    }
}

status sched_heap_reserve(coord_sched *s)
{
    size_t need = s->n_alive + 1;
    if (need <= (size_t)s->cap_heap)
        return ST_OK;
    int32_t cap = s->cap_heap == 0 ? 64 : s->cap_heap * 2;
    for (int h = 0; h < N_HEAPS; h++) {
        seq **p = realloc(s->heaps[h], (size_t)cap * sizeof(*p));
        if (p == NULL)
            return FAIL(ST_NO_MEMORY, "scheduler: no memory for %d waiting requests", cap);
        s->heaps[h] = p;
    }
    s->cap_heap = cap;
    return ST_OK;
}

void sched_heap_push(coord_sched *s, seq *q)
{
    s->n_waiting++;
    for (int h = 0; h < N_HEAPS; h++) {
        heap_set(s, h, s->n_waiting - 1, q);
        heap_sift_up(s, h, s->n_waiting - 1);
    }
}

void sched_heap_remove(coord_sched *s, seq *q)
{
    s->n_waiting--;
    for (int h = 0; h < N_HEAPS; h++) {
        int32_t i = q->heap_at[h];
        seq *last = s->heaps[h][s->n_waiting];
        if (last == q)
            continue;
        heap_set(s, h, i, last);
        heap_sift_up(s, h, i);
        heap_sift_down(s, h, last->heap_at[h]);
    }
}

/* ---- ids ---- */

static seq **bucket_of(const coord_sched *s, uint64_t id)
{
    return &s->buckets[(id * 0x9e3779b97f4a7c15u >> 20) & (s->n_buckets - 1)];
}

seq *sched_seq_find(const coord_sched *s, uint64_t id)
{
    seq *q = *bucket_of(s, id);
    while (q != NULL && q->request.id != id)
        q = q->hash_next;
    return q;
}

status sched_ids_reserve(coord_sched *s)
{
    if (s->n_alive < s->n_buckets)
        return ST_OK;
    size_t old_n = s->n_buckets;
    seq **old = s->buckets;
    TRY(mem_calloc(old_n * 2, sizeof(*s->buckets), "scheduler ids", &s->buckets));
    s->n_buckets = old_n * 2;
    for (size_t i = 0; i < old_n; i++) {
        for (seq *q = old[i], *next; q != NULL; q = next) {
            next = q->hash_next;
            seq **b = bucket_of(s, q->request.id);
            q->hash_next = *b;
            *b = q;
        }
    }
    free(old);
    return ST_OK;
}

void sched_seq_free(seq *q)
{
    for (int g = 0; g < STEP_MAX_KV_GROUPS; g++)
        free(q->tables[g].blocks);
    free(q->lists);
    free(q->tokens);
    free(q->keys);
    free(q);
}

void sched_seq_remember(coord_sched *s, seq *q)
{
    seq **b = bucket_of(s, q->request.id);
    q->hash_next = *b;
    *b = q;
    s->n_alive++;
}

void sched_seq_forget(coord_sched *s, seq *q)
{
    seq **b = bucket_of(s, q->request.id);
    while (*b != q)
        b = &(*b)->hash_next;
    *b = q->hash_next;
    s->n_alive--;
    sched_seq_free(q);
}
