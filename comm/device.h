/* comm/device.h - a group's collectives in the memory of devices: they are queued on a stream, and no host waits.
 *
 * A group that comm_group_create made may take on a table of a device's collectives (comm_device_ops, from the plugin that computes there).  From then
 * on comm_exchange_begin gives a slot in device memory and comm_exchange_end queues the sum; all else of comm.h stays in host memory.  Sums have the
 * order of comm.h on each of three paths, which give the same bits at every size:
 *
 *   one-shot   ranks meet, then whoever consumes the sum reads all peers' slots (CUDA IPC) and adds in order; comm_exchange_end gives a part for each member
 *   two-shot   each rank adds its slice of all slots, and writes it to everybody
 *   exchange   NCCL: slices are sent to whoever adds them, added there by a kernel of our own, and gathered
 *
 * Which one is taken depends on the size alone, by a table that all members share.
 *
 * A thread for each such group watches over the device, which waits for peers without the host: a rank that dies, an abort of the world, an asynchronous error and the
 * deadline of an operation that was begun and does not end are turned into an abort of the world that names rank and operation, and free the device. */
#ifndef COMM_DEVICE_H
#define COMM_DEVICE_H

#include "comm/comm.h"

#define COMM_DEVICE_VERSION 3
#define COMM_DEVICE_MAX 64  /* members of a group on devices */
#define COMM_DEVICE_BLOB 256

typedef enum comm_path { COMM_ONE_SHOT, COMM_TWO_SHOT, COMM_EXCHANGE, COMM_PATHS } comm_path;

/* Up to so many bytes: one-shot, two-shot; beyond: exchange.  A path that the machine lacks is passed over. */
typedef struct comm_choice {
    uint64_t one_shot, two_shot;
} comm_choice;
/* "one-shot=256K,two-shot=8M" (K, M, G: powers of 1024; "max": all sizes); a part that is missing keeps what *out held. */
status comm_choice_parse(const char *text, comm_choice *out);
void comm_choice_print(const comm_choice *c, char *out, size_t bytes);
/* Guesses from what others report of their machines: measured nowhere yet. */
comm_choice comm_choice_default(int n_members);

/* One half of an exchange that is cut in two: bytes [offset, offset + bytes) of the slots. */
typedef struct comm_half {
    int which; /* 0: the first, offset 0; 1: the other */
    size_t offset, bytes;
} comm_half;

typedef struct comm_device comm_device; /* the table's own part of a group */

typedef enum comm_device_op {
    COMM_DEVICE_NONE, COMM_DEVICE_EXCHANGE, COMM_DEVICE_ALL_REDUCE, COMM_DEVICE_ALL_GATHER, COMM_DEVICE_BROADCAST, COMM_DEVICE_SEND, COMM_DEVICE_RECV, COMM_DEVICE_MEET
} comm_device_op;

/* What a device is at, written by itself. */
typedef struct comm_device_state {
    uint32_t begun, ended;   /* operations */
    comm_device_op op;       /* the last that began */
    uint64_t missing;        /* members it has waited for rather long, a bit each; 0: not known */
    status failed;           /* an asynchronous error, else ST_OK */
    char why[256];           /* of the error */
} comm_device_state;

typedef struct comm_device_members { /* what the table's part is to know of the group */
    int n, me;
    const int *rank;         /* [n] world ranks, for messages */
    const int *host;         /* [n] members on one host have one number; numbered in the order of the sums */
    size_t exchange_bytes;   /* of a slot; 0: none, only send and recv */
    int device;
    void *stream;            /* operations are queued here */
    comm_choice choice;
    int timeout_ms;
    bool (*aborted)(void *); /* while it waits for others at start-up */
    void *aborted_arg;
} comm_device_members;

/* One table a device backend.  Starting takes three calls; what each gives is gathered from all members and handed to the next.  All but `abort` and `state` are called by
 * the rank's own thread, and ST_ABORTED after an abort has no message of its own.  Failures have been told with FAIL, their message naming call, rank and remedy. */
typedef struct comm_device_ops {
    int version;
    const char *name;
    status (*create)(const comm_device_members *m, void *blob, comm_device **out);
    status (*open)(comm_device *d, const void *blobs, void *blob);
    status (*start)(comm_device *d, const void *blobs);
    status (*quiet)(comm_device *d); /* waits for the stream */
    /* clean: all members do the same, nothing is under way. */
    void (*destroy)(comm_device **d, bool clean);
    const char *(*describe)(const comm_device *d); /* "one-shot up to 256 KiB, two-shot up to 8 MiB, then NCCL 2.28.3" */

    /* The i-th stretch of device memory in which slots and parts lie; the own slots are 0. false: there is none. */
    bool (*piece)(const comm_device *d, int i, void **base, size_t *bytes);
    status (*slot)(comm_device *d, size_t bytes, void **slot);
    status (*exchange)(comm_device *d, size_t bytes, const float *const **parts, int *n_parts);
    status (*half_slot)(comm_device *d, const comm_half *h, void **slot);
    status (*half_start)(comm_device *d, const comm_half *h, const float *const **parts, int *n_parts);
    status (*half_wait)(comm_device *d, int which);
    status (*align)(comm_device *d);
    status (*all_reduce)(comm_device *d, float *data, size_t n);
    status (*all_gather)(comm_device *d, const void *mine, const size_t *bytes, void *all);
    status (*broadcast)(comm_device *d, int root, void *data, size_t bytes);
    status (*send)(comm_device *d, int to, const void *data, size_t bytes);
    status (*recv)(comm_device *d, int from, void *data, size_t bytes);
    /* Replaces the table of sizes; all members alike, between operations. */
    void (*choose)(comm_device *d, const comm_choice *c);
    /* How a sum of so many bytes goes. */
    comm_path (*path)(const comm_device *d, size_t bytes);

    /* By the watching thread. abort: whatever waits on the device ends soon, with rubbish; all later calls fail. */
    void (*state)(comm_device *d, comm_device_state *out);
    void (*abort)(comm_device *d);
} comm_device_ops;

typedef struct comm_device_spec {
    const comm_device_ops *ops;
    int device;
    void *stream;          /* of the operations that write slots and read parts */
    size_t exchange_bytes; /* the group's, or 0: only send and recv */
    comm_choice choice;    /* the same on all members */
} comm_device_spec;

/* Gives the group its collectives on devices.  Collective over the members: all get them or none; in the latter case ST_UNSUPPORTED with the reason (not logged) says that
 * exchange through host memory stays and works; any other failure is one. */
status comm_group_device(comm_group *g, const comm_device_spec *spec);
bool comm_group_on_device(const comm_group *g);
const char *comm_group_device_describe(const comm_group *g); /* "" without */
bool comm_exchange_piece(const comm_group *g, int i, void **base, size_t *bytes);
/* Whether all that was queued went well: call it when the stream has been waited for, before results are believed. */
status comm_group_check(comm_group *g);
/* Brings the two slots back to the first, so that a recording of operations finds at each replay the slots it was made with. */
status comm_group_align(comm_group *g);

/* An exchange in two halves: comm_exchange_begin and _end for each, with their time on a stream of their own.  comm_half_start queues the half's sum behind what the caller's
 * stream holds so far, and leaves that stream to operations that fill the other half's slot; what is queued after comm_half_wait follows the sum.  Both halves of a
 * caller's n-th exchange are begun before either's n + 1st, each half is waited for before it is begun again, and both are before anything else of the group. */
status comm_half_begin(comm_group *g, const comm_half *h, void **slot);
status comm_half_start(comm_group *g, const comm_half *h, const float *const **parts, int *n_parts);
status comm_half_wait(comm_group *g, int which);

/* In device memory, queued on the stream; buffers 16-byte aligned and the stream's until the operation has ended. */
status comm_device_all_reduce(comm_group *g, float *data, size_t n);
status comm_device_all_gather(comm_group *g, const void *mine, const size_t *bytes, void *all);
status comm_device_broadcast(comm_group *g, int root, void *data, size_t bytes);
/* Both members call with the same bytes, in the same order. */
status comm_device_send(comm_group *g, int to, const void *data, size_t bytes);
status comm_device_recv(comm_group *g, int from, void *data, size_t bytes);
void comm_device_choose(comm_group *g, const comm_choice *c);
comm_path comm_device_path(const comm_group *g, size_t bytes); /* of a group on devices */

#endif
