/* comm/host.h - the ranks of one host: who they are, how one waits and another wakes it, how all learn of an abort.
 *
 * Lies in a shared segment.  Each rank has lines of its own (128 bytes: two cache lines, since the prefetcher pulls pairs):
 *
 *   bell      a futex; rung (incremented, woken) by whoever changed something this rank may be waiting for
 *   sleeping  set by the rank before it looks one last time and sleeps; a waker that sees 0 saves the system call
 *   inbox     one bit for each local rank that has sent something (mailbox.h)
 *   note      what the rank is at, for whoever watches it
 *
 * A waker publishes with a sequentially consistent store and then reads `sleeping`; a sleeper stores `sleeping` and then reads
 * what was published: one of the two sees the other. */
#ifndef COMM_HOST_H
#define COMM_HOST_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/segment.h"
#include "comm/sync.h"

#define HOST_MAX_RANKS 512
#define HOST_ABORT_TEXT 768

enum { HOST_JOINING, HOST_ALIVE, HOST_LEFT };

typedef struct host_rank {
    alignas(128) atomic_uint bell;
    alignas(128) atomic_uint sleeping;
    atomic_int state;
    alignas(128) atomic_ullong inbox[HOST_MAX_RANKS / 64];
    alignas(128) atomic_ullong note; /* of comm_note */
} host_rank;

typedef struct host_abort {
    atomic_int state;     /* 0 none, 1 being written, 2 set */
    atomic_int forwarded; /* other hosts have been told, or told us */
    int rank;             /* that called; -1 unknown */
    char text[HOST_ABORT_TEXT];
} host_abort;

typedef struct host_shared {
    alignas(128) host_abort abort;
    host_rank ranks[];
} host_shared;

typedef struct host {
    segment *segment;
    host_shared *shared;
    int size, me;  /* local ranks, and which one I am */
    bool processes;
    atomic_llong next_check_ns; /* threads that watch devices look too */
} host;

/* Bytes that the shared block takes in front of the mailboxes. */
size_t host_shared_bytes(int size);
status host_join(host *h); /* segment, size, me, processes filled in: takes its place */
void host_leave(host *h);

static inline bool host_aborted(const host *h)
{
    return atomic_load_explicit(&h->shared->abort.state, memory_order_acquire) == 2;
}
/* The first caller's text wins (true); all ranks of the host are woken. */
bool host_abort_set(host *h, int rank, const char *text, bool from_wire);

/* After publishing: wakes rank i if it sleeps. */
static inline void host_wake(host *h, int i)
{
    host_rank *r = &h->shared->ranks[i];
    if (atomic_load(&r->sleeping) != 0) {
        atomic_fetch_add(&r->bell, 1);
        sync_futex_wake(&r->bell);
    }
}

/* A local rank that has died without leaving, -1 if none; looks at most ten times a second. */
int host_find_dead(host *h, int64_t now_ns);
static inline bool host_has_left(const host *h, int i)
{
    return atomic_load(&h->shared->ranks[i].state) == HOST_LEFT;
}

#endif
