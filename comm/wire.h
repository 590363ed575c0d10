/* comm/wire.h - the bytes between hosts: what a transport must offer.
 *
 * Non-blocking, tagged, in order for each (from, to, channel, tag).  Everything above (groups, sums, deadlines, abort) is built on this
 * table once, so a transport stays small: MPI (comm/mpi, a plugin) and mailboxes between threads, which let one process play several hosts.
 * A transport logs nothing and links nothing of ours: it returns a code, and `error` says why. */
#ifndef COMM_WIRE_H
#define COMM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define COMM_WIRE_VERSION 2
#define COMM_WIRE_ANY (-1) /* receive from whoever sends */

typedef struct comm_wire comm_wire;

/* What a message is for; each channel has tags of its own. */
typedef enum comm_channel { COMM_CHANNEL_USER, COMM_CHANNEL_CONTROL, COMM_CHANNEL_GROUP, COMM_CHANNELS } comm_channel;

typedef struct comm_wire_request {
    uint64_t word[2]; /* the transport's own handle */
} comm_wire_request;

typedef struct comm_wire_ops {
    int version;
    const char *name;
    /* Joins the job; error (size bytes) tells why not: ST_TIMEOUT if ranks did not come, and rank 0 tells; ST_PEER if rank 0 was one of them. */
    status (*open)(int timeout_ms, comm_wire **out, int *rank, int *size, char *error, size_t error_size);
    /* Leaves it.  clean: all ranks do (else peers may be dead and nothing is waited for). */
    void (*close)(comm_wire **wire, bool clean);
    /* Why the last call failed. */
    const char *(*error)(const comm_wire *wire);
    /* What library it is, with its version. */
    const char *(*describe)(void);
    /* Everyone's `bytes`, in rank order; collective.  Fails as open does. */
    status (*gather_all)(comm_wire *wire, const void *mine, size_t bytes, void *all, int timeout_ms);
    status (*send)(comm_wire *wire, int to, comm_channel channel, int tag, const void *data, size_t bytes, comm_wire_request *out);
    status (*recv)(comm_wire *wire, int from, comm_channel channel, int tag, void *data, size_t max_bytes, comm_wire_request *out);
    /* ST_LIMIT: the message was longer than max_bytes. A request that is done or has failed is gone. */
    status (*test)(comm_wire *wire, comm_wire_request *request, bool *done, size_t *got);
    /* Gives up a receive that has not matched; a send is let go (its buffer stays untouched only after close). */
    void (*cancel)(comm_wire *wire, comm_wire_request *request);
    /* Moves pending messages along. */
    void (*poke)(comm_wire *wire);
} comm_wire_ops;

#endif
