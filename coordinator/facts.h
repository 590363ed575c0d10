/* coordinator/facts.h - what a rank finds of its program, machine and limits, for `trireme doctor`: one JSON object, which travels to rank 0 as text.
 *
 *   host pid trireme commit binary mpi pmix libc kernel driver nccl backends cpu isa cores cores_online
 *   memory memory_limit memory_available thp hugepages swap_used nofile memlock stack shm shm_free rdma gpus [{name pci total_bytes free_bytes id}]
 *   checkpoint checkpoint_error content
 *
 * Bytes are numbers; a limit that is none is null, as what this machine does not have. */
#ifndef COORDINATOR_FACTS_H
#define COORDINATOR_FACTS_H

#include "base/json.h"
#include "comm/comm.h"
#include "shard/checkpoint.h"

typedef struct facts_options {
    const char *version, *commit; /* of this program */
    const char *model;            /* NULL: no checkpoint */
    shard_open_options open;
    bool content;                 /* read all of the checkpoint */
} facts_options;

/* Caller owns *facts, and *checkpoint (NULL where there is none or it does not open: then checkpoint_error says why). */
status facts_gather(comm_world *w, const facts_options *o, json_t **facts, shard_checkpoint **checkpoint);

#endif
