/* coordinator/breakdown.h - where every rank's time went while rank 0 measured something: computing, in collectives, waiting for another stage, for the scheduler.
 *
 * A rank keeps a mark for each of its steps.  At the end rank 0 names the stretches of time that it measured, each with the steps that were computed in it, and every rank adds up its own
 * part of them.  Times of the parts are taken where they pass, each by itself; what they do not cover of a stretch is `missing`. */
#ifndef COORDINATOR_BREAKDOWN_H
#define COORDINATOR_BREAKDOWN_H

#include "base/status.h"
#include "comm/comm.h"
#include "worker/worker.h"

/* A stretch of time by rank 0's log_clock, and its steps: those after `after`, up to `last`. */
typedef struct breakdown_range {
    double begin, end;
    uint64_t after, last;
} breakdown_range;

/* Seconds of a rank. */
typedef struct coord_breakdown {
    double seconds;    /* of the stretch */
    double compute;    /* the plan's phases: embedding, attention, MLP, output head and sampling */
    double collective; /* in the stage's collectives; of it: */
    double skew;       /* waiting for the last rank of the stage to come */
    double bubble;     /* waiting for another stage: for its activations, for its results, for it to make room */
    double scheduling; /* rank 0: between its steps; the others: as long, of what they wait for a step */
    double missing;    /* of a rank's time; may be negative by what clocks differ */
} coord_breakdown;

typedef struct breakdown breakdown;

status breakdown_create(breakdown **out);
void breakdown_destroy(breakdown **b);

/* Around each step, which are numbered from 1 without a gap.  result_seconds: what this rank has waited for results so far. */
void breakdown_begin(breakdown *b);
status breakdown_end(breakdown *b, const worker *w, double result_seconds);

/* Rank 0: a stretch that breakdown_gather is to add up. */
status breakdown_measure(breakdown *b, const breakdown_range *range);

/* Collective over the world, whose ranks are those of `everyone`.  On rank 0 *out is [n][n_ranks] for the n stretches in their order; caller frees.  Elsewhere NULL. */
status breakdown_gather(breakdown *b, comm_world *w, comm_group *everyone, int timeout_ms, coord_breakdown **out);

#endif
