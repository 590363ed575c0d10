/* shard/write.h - `trireme shard`: a checkpoint cut into the final bytes of every rank.
 *
 * What is written is described in shard/cut.h.  The folder appears under its name only when it is whole: until then it is TARGET.tmp.PID beside it, which is
 * removed on any failure. */
#ifndef SHARD_WRITE_H
#define SHARD_WRITE_H

#include "shard/checkpoint.h"

typedef struct shard_write_options {
    bool f32;                   /* weights expanded to f32 (what the plan was made with) */
    const double *rank_weights; /* as given to the plan, or NULL */
    const char *tool_version, *tool_commit; /* for the manifest */
    bool quiet;                 /* no progress line */
} shard_write_options;

typedef struct shard_write_stats {
    uint64_t bytes;    /* of all rank files */
    int32_t ranks;
    uint64_t tensors;  /* slices written */
} shard_write_stats;

/* Cuts c as `plan` says into the new folder `target`.  ST_INVALID: target exists, or c is itself a cut; ST_IO: disk full, not writable ...: nothing is left
 * behind. */
status shard_write(shard_checkpoint *c, const shard_plan *plan, const shard_write_options *options, const char *target, shard_write_stats *out);

#endif
