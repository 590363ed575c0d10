/* comm/group.h - a group's memory and members, for group.c (making it) and collect.c (the collectives).
 *
 *   segment on each host:  [line of each local member][results: 2][gather slots of every member: 2 each][common]  (results, gather slots: hosts > 1; common: one host)
 *                          [slots of local member 0: 2][slots of local member 1: 2] ...
 *
 * A line holds the member's sequence number: how many synchronisations it has come to.  Operation k uses slots of parity k % 2; a rank that
 * writes parity p again has passed the synchronisation of the operation in between, which every local member entered after it had done with p. */
#ifndef COMM_GROUP_H
#define COMM_GROUP_H

#include "comm/comm_internal.h"

typedef struct group_line {
    alignas(128) atomic_uint seq;
} group_line;

struct comm_group {
    comm_world *w;
    int n, me;
    int *ranks;           /* [n] world ranks */
    int *host_of;         /* [n] the group's own numbering of hosts, by first member */
    int n_hosts, my_host;
    int *host_begin;      /* [n_hosts + 1] into by_host */
    int *by_host;         /* [n] members, host by host, in group order */
    int n_local, my_local;
    int channels;         /* local members that speak to the other hosts, each for a slice of a large sum */
    int timeout_ms, tag;
    segment *segment;
    size_t segment_bytes;
    group_line *lines;    /* [n_local] */
    size_t slot_bytes, chunk_bytes, common_bytes;
    char *common;         /* n_hosts == 1 */
    char *results[2];     /* n_hosts > 1 */
    char **slots[2];      /* [n_local] */
    char **gather[2];     /* [n]: where a member's bytes of a gather lie on this host */
    const float **parts[2];
    size_t piece;         /* floats that cross between hosts at a time */
    float *wire_in;       /* what other hosts sent: [n_hosts][piece] */
    comm_wire_request *requests; /* [2 n] */
    int *request_peer;
    unsigned seq, op;
    comm_stats stats;
    struct group_device *device; /* NULL: in host memory alone */
};

/* device.c */
void group_device_destroy(comm_group *g);
status group_device_slot(comm_group *g, size_t bytes, void **slot);
status group_device_exchange(comm_group *g, size_t bytes, const float *const **parts, int *n_parts);

static inline int group_local_member(const comm_group *g, int local)
{
    return g->by_host[g->host_begin[g->my_host] + local];
}

#define COMM_MAX_HOSTS 512 /* that one group spans */
/* Each piece costs a network its round trips (a large message is announced first), so pieces are as large as all of what comes in at once may be. */
#define GROUP_WIRE_BYTES ((size_t)8 << 20)
#define GROUP_LEAST_PIECE 65536

/* collect.c: all local members have come here.  `what` names the operation in messages. */
status group_sync(comm_group *g, const char *what, int64_t deadline_ns);

#endif
