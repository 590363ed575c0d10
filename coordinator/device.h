/* coordinator/device.h - the ranks of a job agree on what computes, and each finds its device. */
#ifndef COORDINATOR_DEVICE_H
#define COORDINATOR_DEVICE_H

#include "comm/comm.h"
#include "ops/device.h"

typedef struct coord_device {
    const ops_backend *ops; /* the same kind on every rank */
    int device;             /* of a backend that has some */
} coord_device;

/* Collective over `everyone`, the group of all ranks of the world.  AUTO takes CUDA where every rank has a device, else the CPU, and tells once what kept it
 * from that; CUDA fails on all ranks where one has none, with that rank's message. */
status coord_device_resolve(comm_world *w, comm_group *everyone, ops_device_kind kind, int timeout_ms, coord_device *out);

/* Bytes of this rank's device that are free, divided by the ranks that share it.  Collective like the above; only for backends that have devices. */
status coord_device_memory(comm_world *w, comm_group *everyone, const coord_device *d, int timeout_ms, size_t *out);

#endif
