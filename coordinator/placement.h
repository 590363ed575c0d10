/* coordinator/placement.h - which cores are a rank's, and what lies near them: memory node, GPU, network card.
 *
 * The launcher grants each rank some cores.  Where it granted ranks of a host the same ones, they are divided here, whole cores in the order of the topology (hwloc), so that a
 * rank's cores are neighbours; a rank with a GPU gets cores of the GPU's own socket first.  Every rank computes all of it from what the others granted and got, and so they agree.
 * What is chosen is a pure function of topology and grants, tested for machines that are not at hand. */
#ifndef COORDINATOR_PLACEMENT_H
#define COORDINATOR_PLACEMENT_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "comm/comm.h"
#include "coordinator/device.h"

struct hwloc_topology;
typedef struct hwloc_topology *placement_topology;

typedef struct coord_place {
    cpu_set_t cores; /* hardware threads, by the system's numbers */
    int n_cores;     /* whole cores among them */
    bool divided;    /* not by the launcher */
    bool shared;     /* with other ranks of this host */
    int shared_with; /* one of those, its place among the host's ranks; -1 */
    bool gpu_far;    /* the GPU lies at another socket or memory node than all of the cores */
    char numa[32];   /* memory nodes of the cores: "0", "0-1"; "" unknown */
    char pci[16];    /* of the GPU; "" none, or not known */
    char nic[32];    /* the network card nearest to the GPU, else to the cores: "mlx5_0"; "" none seen */
    int gpu;         /* number by which this process knows it; -1 none */
    bool real;       /* the topology is this machine's, not one that the environment describes (HWLOC_SYNTHETIC, HWLOC_XMLFILE) */
} coord_place;

/* What hwloc finds, or what HWLOC_XMLFILE or HWLOC_SYNTHETIC describe. */
status placement_topology_load(placement_topology *out);
void placement_topology_free(placement_topology *t);

/* A rank of the host, in their order. */
typedef struct placement_rank {
    cpu_set_t granted;
    char pci[16]; /* of its GPU, "0000:17:00.0"; "" none */
} placement_rank;
/* ranks[me]'s place.  Pure. */
status placement_choose(placement_topology t, const placement_rank *ranks, int n, int me, coord_place *out);

/* This rank's place; collective over `everyone`, the group of all ranks.  Where hwloc fails it is what was granted, and a line of the log says so. */
status coord_place_find(comm_world *w, comm_group *everyone, const coord_device *device, coord_place *out);
/* Keeps the calling thread, and those that it starts later, on n_threads of the place's cores: one to a core as far as they go.  false: more threads than there are, shared cores, or
 * not this machine; nothing is changed. */
bool coord_place_pin(const coord_place *p, int n_threads);

/* "cores 0-7, numa 0, gpu 0 (pci 0000:17:00.0), nic mlx5_0".  Returns text. */
enum { COORD_PLACE_TEXT = 256 };
const char *coord_place_text(const coord_place *p, char text[COORD_PLACE_TEXT]);
/* "0-3,8"; "" if there are none, "..." at the end of what does not fit.  Returns text. */
const char *coord_cores_text(const cpu_set_t *cores, char *text, size_t size);

#endif
