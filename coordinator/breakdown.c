#include "coordinator/breakdown.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/links.h"

/* What a rank had spent when a step ended; between: from the step before to this one. */
typedef struct mark {
    double begin, end, between, result;
    double compute, collective, skew, stage;
} mark;

struct breakdown {
    mark *marks; /* marks[i]: step i; marks[0]: before the first */
    size_t n_marks, cap_marks;
    double begun;
    breakdown_range *ranges;
    size_t n_ranges, cap_ranges;
};

/* A rank's part of a stretch. */
typedef struct part {
    double compute, collective, skew, stage, result, between;
    double lead, tail; /* from the stretch's begin to the first of its steps, and from the last one's end to its own; by rank 0's clock */
    uint64_t steps;
} part;

status breakdown_create(breakdown **out)
{
    breakdown *b;
    *out = NULL;
    TRY(mem_calloc(1, sizeof(*b), "times of steps", &b));
    status st = mem_grow(&b->marks, &b->cap_marks, 1, sizeof(*b->marks), "times of steps");
    if (st != ST_OK) {
        breakdown_destroy(&b);
        return st;
    }
    b->marks[b->n_marks++] = (mark){0};
    *out = b;
    return ST_OK;
}

void breakdown_destroy(breakdown **b_)
{
    breakdown *b = *b_;
    if (b == NULL)
        return;
    free(b->marks);
    free(b->ranges);
    free(b);
    *b_ = NULL;
}

void breakdown_begin(breakdown *b)
{
    b->begun = log_clock();
}

status breakdown_end(breakdown *b, const worker *w, double result_seconds)
{
    double now = log_clock();
    worker_times t;
    TRY(mem_grow(&b->marks, &b->cap_marks, b->n_marks + 1, sizeof(*b->marks), "times of steps"));
    worker_times_get(w, &t);
    const mark *before = &b->marks[b->n_marks - 1];
    b->marks[b->n_marks++] = (mark){
        .begin = b->begun,
        .end = now,
        .between = before->between + (b->n_marks > 1 ? b->begun - before->end : 0),
        .result = result_seconds,
        .compute = t.embed_seconds + t.attention_seconds + t.mlp_seconds + t.head_seconds,
        .collective = t.exchange_seconds,
        .skew = t.skew_seconds,
        .stage = t.stage_wait_seconds,
    };
    return ST_OK;
}

status breakdown_measure(breakdown *b, const breakdown_range *range)
{
    TRY(mem_grow(&b->ranges, &b->cap_ranges, b->n_ranges + 1, sizeof(*b->ranges), "times of steps"));
    b->ranges[b->n_ranges++] = *range;
    return ST_OK;
}

static part part_of(const breakdown *b, const breakdown_range *range, double offset)
{
    if (range->last <= range->after || range->last >= b->n_marks)
        return (part){0};
    const mark *before = &b->marks[range->after], *first = before + 1, *last = &b->marks[range->last];
    return (part){
        .compute = last->compute - before->compute,
        .collective = last->collective - before->collective,
        .skew = last->skew - before->skew,
        .stage = last->stage - before->stage,
        .result = last->result - first->result,
        .between = last->between - first->between,
        .lead = first->begin + offset - range->begin,
        .tail = range->end - (last->end + offset),
        .steps = range->last - range->after,
    };
}

static coord_breakdown breakdown_of(const breakdown_range *range, const part *p, const part *rank0, bool is_rank0)
{
    /* Rank 0 waits for results between steps, and for the last of them after the last step. */
    double scheduling = rank0->between - rank0->result + rank0->lead, waits = p->between + p->lead + p->tail;
    scheduling = scheduling > 0 ? scheduling : 0;
    double own = is_rank0 || waits > scheduling ? scheduling : waits > 0 ? waits : 0;
    coord_breakdown o = {.seconds = range->end - range->begin, .compute = p->compute, .collective = p->collective, .skew = p->skew, .bubble = p->stage + waits - own, .scheduling = own};
    o.missing = o.seconds - o.compute - o.collective - o.bubble - o.scheduling;
    return o;
}

static status gather(const breakdown *b, const breakdown_range *ranges, size_t n, comm_world *w, comm_group *everyone, double offset, part *mine, part *all, coord_breakdown *out)
{
    size_t n_ranks = (size_t)comm_world_size(w);
    for (size_t i = 0; i < n; i++)
        mine[i] = part_of(b, &ranges[i], offset);
    TRY(comm_all_gather_equal(everyone, mine, n * sizeof(*mine), all));
    for (size_t i = 0; i < n && out != NULL; i++)
        for (size_t r = 0; r < n_ranks; r++)
            out[i * n_ranks + r] = breakdown_of(&ranges[i], &all[r * n + i], &all[i], r == 0);
    return ST_OK;
}

status breakdown_gather(breakdown *b, comm_world *w, comm_group *everyone, int timeout_ms, coord_breakdown **out)
{
    size_t n_ranks = (size_t)comm_world_size(w);
    bool root = comm_world_rank(w) == 0;
    uint64_t n = b->n_ranges;
    links_clock clock;
    part *parts = NULL;
    *out = NULL;
    TRY(links_clock_measure(w, timeout_ms, &clock));
    TRY(comm_broadcast(everyone, 0, &n, sizeof(n)));
    if (n == 0)
        return ST_OK;
    TRY(mem_grow(&b->ranges, &b->cap_ranges, n, sizeof(*b->ranges), "times of steps"));
    TRY(comm_broadcast(everyone, 0, b->ranges, n * sizeof(*b->ranges)));
    b->n_ranges = n;
    TRY(mem_calloc(n * (n_ranks + 1), sizeof(*parts), "times of steps", &parts));
    status st = root ? mem_calloc(n * n_ranks, sizeof(**out), "times of steps", out) : ST_OK;
    if (st == ST_OK)
        st = gather(b, b->ranges, n, w, everyone, clock.monotonic_offset, parts, parts + n, *out);
    free(parts);
    if (st != ST_OK) {
        free(*out);
        *out = NULL;
    }
    return st;
}
