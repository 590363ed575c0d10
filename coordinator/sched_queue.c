/* coordinator/sched_queue.c - the waiting, by priority and age; requests by id. */
#include "coordinator/sched_internal.h"

#include <stdlib.h>

#include "base/mem.h"

bool sched_seq_before(const seq *a, const seq *b)
{
    if (a->request.priority != b->request.priority)
        return a->request.priority < b->request.priority;
    return a->arrival < b->arrival;
}

/* ---- waiting heap ---- */

static void heap_set(coord_sched *s, int32_t i, seq *q)
{
    s->heap[i] = q;
    q->heap_at = i;
}

static void heap_swap(coord_sched *s, int32_t i, int32_t j)
{
    seq *t = s->heap[i];
    heap_set(s, i, s->heap[j]);
    heap_set(s, j, t);
}

static void heap_sift_up(coord_sched *s, int32_t i)
{
    while (i > 0 && sched_seq_before(s->heap[i], s->heap[(i - 1) / 2])) {
        heap_swap(s, i, (i - 1) / 2);
        i = (i - 1) / 2;
    }
}

static void heap_sift_down(coord_sched *s, int32_t i)
{
    for (;;) {
        int32_t best = i;
        for (int32_t c = 2 * i + 1; c <= 2 * i + 2; c++) {
            if (c < s->n_heap && sched_seq_before(s->heap[c], s->heap[best]))
                best = c;
        }
        if (best == i)
            return;
        heap_swap(s, i, best);
        i = best;
    }
}

/* Room is made at submit, so that putting a preempted sequence back cannot fail. */
status sched_heap_reserve(coord_sched *s)
{
    size_t need = s->n_alive + 1;
    if (need <= (size_t)s->cap_heap)
        return ST_OK;
    int32_t cap = s->cap_heap == 0 ? 64 : s->cap_heap * 2;
    seq **p = realloc(s->heap, (size_t)cap * sizeof(*p));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "scheduler: no memory for %d waiting requests", cap);
    s->heap = p;
    s->cap_heap = cap;
    return ST_OK;
}

void sched_heap_push(coord_sched *s, seq *q)
{
    heap_set(s, s->n_heap, q);
    heap_sift_up(s, s->n_heap++);
}

void sched_heap_remove(coord_sched *s, seq *q)
{
    int32_t i = q->heap_at;
    s->n_heap--;
    if (i == s->n_heap)
        return;
    seq *last = s->heap[s->n_heap];
    heap_set(s, i, last);
    heap_sift_up(s, i);
    heap_sift_down(s, last->heap_at);
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
