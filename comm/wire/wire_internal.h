/* comm/wire/wire_internal.h - what server and client share: the bounded codec, checks of what came in, sockets, the allow-list.
 *
 * Refusals of hostile input are expected, so nothing here logs them: functions return a code or a text, and callers count. */
#ifndef COMM_WIRE_WIRE_INTERNAL_H
#define COMM_WIRE_WIRE_INTERNAL_H

#include <stdatomic.h>
#include <zmq.h>

#include "base/mem.h"
#include "comm/wire/wire.h"

/* ---- codec.c ---- */
typedef struct wire_message {
    mem_arena *arena; /* holds the envelope */
    Trireme__Envelope *envelope;
} wire_message;
/* The memory an envelope may take: structs are larger than their bytes on the wire, a hostile frame's up to a hundred times. */
size_t wire_unpack_limit(size_t frame_bytes);
/* ST_FORMAT: not an envelope, without a body, or past the limit above. */
status wire_unpack(const void *data, size_t n, wire_message *out);
void wire_message_free(wire_message *m);

/* ---- check.c ---- */
typedef enum wire_side { WIRE_FROM_REPLICA, WIRE_FROM_GATEWAY } wire_side;
/* What a session's Hello said, for checks of what follows. */
typedef struct wire_limits {
    int32_t vocab, max_model_len, embedding_dim;
} wire_limits;
wire_limits wire_limits_of(const Trireme__Hello *hello);
/* NULL: may come from that side within the limits; else what is wrong.  Submits are judged by wire_check_submit. */
const char *wire_check(const Trireme__Envelope *e, wire_side from, const wire_limits *limits);
const char *wire_check_submit(const Trireme__Submit *s, const wire_limits *limits);

typedef struct wire_version {
    uint32_t oldest, newest;
} wire_version;
/* The newest protocol both speak; 0: none, and `reason` says who must be upgraded. */
#define WIRE_REASON 256
uint32_t wire_negotiate(wire_version theirs, wire_version ours, const char *who_they_are, const char *who_we_are, char reason[WIRE_REASON]);

/* ---- link.c ---- */
/* Bytes handed to ZeroMQ for one peer and not sent yet; the last of its messages frees it. */
typedef struct wire_quota wire_quota;
wire_quota *wire_quota_create(void);
void wire_quota_release(wire_quota **q);
/* A packed message under the quota.  ST_LIMIT: the quota is used up; ST_INVALID: over WIRE_MAX_MESSAGE or the whole quota; ST_NO_MEMORY. */
status wire_outgoing(const Trireme__Envelope *e, wire_quota *q, size_t limit, zmq_msg_t *out);
status wire_outgoing_bytes(const void *packed, size_t n, zmq_msg_t *out);

/* Any thread sets it; the owner sees it in the midst of messages, and messages in the midst of wakes: they take turns. */
typedef struct wire_wake {
    int fd;
    atomic_bool set;
    bool due, turn; /* owner's: to be told; the last thing told was a wake */
} wire_wake;
status wire_wake_create(wire_wake *w);
void wire_wake_destroy(wire_wake *w);
void wire_wake_set(wire_wake *w);
void wire_wake_look(wire_wake *w, bool readable); /* readable: its descriptor is, whatever the flag says */
bool wire_wake_turn(wire_wake *w);                /* a wake is to be told now */

/* Defaults filled in. */
typedef struct wire_tuning {
    double heartbeat, silence; /* seconds; a peer silent for longer is gone */
    int heartbeat_ms, send_queue;
    size_t send_bytes;
} wire_tuning;
wire_tuning wire_tuning_of(int heartbeat_ms, int send_queue, size_t send_bytes);

void *wire_context_create(void);
/* A socket of ours: bounds, heartbeats, no lingering.  NULL: see errno. */
void *wire_socket_create(void *context, int type, const wire_tuning *t);
status wire_socket_secure(void *socket, const wire_security *s, bool server);
/* Events of a socket on a PAIR socket; at most one monitor a context for each number. */
void *wire_monitor_create(void *context, void *socket, unsigned number, int events);
void wire_monitor_destroy(void *socket, void **monitor);
/* The next event; 0: none is waiting. */
int wire_monitor_next(void *monitor, int *value);
/* Waits until a socket has input, or the wake, or `seconds` are over. */
void wire_poll(zmq_pollitem_t *items, int n, double seconds);
/* ST_INVALID: not tcp://HOST:PORT or ipc://PATH.  A server's port may be "*". */
status wire_endpoint_check(const char *endpoint, bool server);

/* ST_BUSY: someone listens at a local socket, which ZeroMQ would take over without a word. */
status wire_endpoint_free(const char *endpoint);
bool wire_endpoint_local(const char *endpoint); /* not to be reached from other machines */

/* The connection that a message came over, so that it can be shut although ROUTER has no call for that.  The descriptor is ZeroMQ's and may be closed, and its
 * number used again, at any time: the kernel's cookie tells whether it is still the same socket. */
typedef struct wire_connection {
    int fd; /* -1: not known */
    uint64_t cookie;
} wire_connection;
wire_connection wire_connection_of(zmq_msg_t *m, const char *endpoint);
void wire_connection_shut(const wire_connection *c);

/* Receives the rest of a message of several parts; the number of parts there were. */
int wire_skip_parts(void *socket);
void wire_report(Trireme__Goodbye *g, Trireme__Envelope *e, const char *reason, bool retry); /* fills a Goodbye */

/* ---- keys.c ---- */
/* A key file's text, which is cut up; `path` is for messages.  At least a public key. */
status wire_keys_parse(const char *path, char *text, size_t n, wire_keys *out);

/* ---- allow.c ---- */
typedef struct wire_allow wire_allow;
status wire_allow_create(const char *dir, wire_allow **out);
void wire_allow_destroy(wire_allow **a);
/* Reads the folder again unless that was done within `age` seconds. */
void wire_allow_refresh(wire_allow *a, double now, double age);
/* The name of a key; NULL: not allowed. */
const char *wire_allow_find(const wire_allow *a, const char *public_key);
/* Answers one waiting question of ZeroMQ's authentication protocol; true: it was refused. */
bool wire_allow_answer(wire_allow *a, void *zap_socket, double now);
#define WIRE_KEY_PROPERTY "X-Trireme-Key" /* of a message: its peer's public key */

#endif
