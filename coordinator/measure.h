/* coordinator/measure.h - how fast this machine is, in the planner's terms.
 *
 * Runs the backend's own operations for a moment, in the shapes of a checkpoint, and fills a shard_device: so that a plan's costs are
 * seconds on this machine.  Exchanges are not measured; their figures stay those of "cpu". */
#ifndef COORDINATOR_MEASURE_H
#define COORDINATOR_MEASURE_H

#include "ops/ops.h"
#include "shard/plan/plan.h"

typedef struct coord_measure_options {
    int n_threads; /* of a rank; 0 = all cores granted */
    const shard_arch *arch;
    const shard_types *types;
    shard_kv_type kv_type;
    int32_t seqs, context; /* of the steps that are planned for: what depends on them is measured there */
    int32_t chunk;         /* tokens that each of the sequences brings: 0 or 1 = a decode step, more = a step that computes prompts, after `context` tokens */
} coord_measure_options;

/* Takes a second or a few and at most 1.3 GB; ST_NO_MEMORY without them. */
status coord_measure_device(const ops_backend *ops, const coord_measure_options *options, shard_device *out);

#endif
