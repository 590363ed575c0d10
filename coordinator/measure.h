/* coordinator/measure.h - how fast this machine is, in the planner's terms.
 *
 * Runs the backend's own operations for a moment, in the shapes of a checkpoint, and fills a shard_device: so that a plan's costs are
 * seconds on this machine.  Exchanges are not measured; their figures stay those of "cpu". */
#ifndef COORDINATOR_MEASURE_H
#define COORDINATOR_MEASURE_H

#include "ops/ops.h"
#include "shard/plan/plan.h"

/* A rank with n_threads (0 = all cores granted).  Takes about half a second and at most 300 MB; ST_NO_MEMORY without them. */
status coord_measure_device(const ops_backend *ops, int n_threads, const shard_arch *arch, const shard_types *types, shard_kv_type kv_type,
                            shard_device *out);

#endif
