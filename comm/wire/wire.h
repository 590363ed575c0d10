/* comm/wire/wire.h - messages between gateway and replicas: ZeroMQ ROUTER/DEALER, protobuf-c, CURVE.
 *
 * Owns sockets, frames, keys, heartbeats and reconnection.  What messages mean is their owners' business.
 *
 *   replica: wire_client (DEALER) == tcp or ipc, CURVE ==> gateway: wire_server (ROUTER, mandatory)
 *
 * A frame holds one packed Trireme__Envelope (comm/wire/wire.proto) of at most WIRE_MAX_MESSAGE bytes.  A session begins with the
 * client's Hello, which the server checks (protocol, names, numbers) before its owner sees it, and ends with WIRE_GONE on either side:
 * the peer left, was silent for four heartbeats, was replaced, or broke the protocol.  A reconnection is a new session with a new peer,
 * so a message is either delivered, in order, or its session ends: nothing is lost in silence.  The last messages before an end may be lost with it (a socket that
 * closes while its peer is busy): whoever must know that its last word was heard waits for an answer to its Goodbye.
 *
 * One thread owns a server or a client and calls everything but *_wake, which any thread may call (also a signal handler) to end a wait.  Heartbeats
 * are sent and judged inside *_receive, so an owner that hangs is noticed by its peers; call it at least twice a heartbeat.
 *
 * What an allowed peer can still do: a ZeroMQ message of endlessly many parts is gathered by libzmq before anyone sees it. */
#ifndef COMM_WIRE_WIRE_H
#define COMM_WIRE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/wire/wire.pb-c.h"

enum { WIRE_PROTOCOL = 1, WIRE_OLDEST_PROTOCOL = 1 };
#define WIRE_MAX_MESSAGE ((size_t)16 << 20)
#define WIRE_ASSET_CHUNK ((size_t)1 << 20) /* most bytes an AssetRequest may ask for and an AssetChunk may bring */
#define WIRE_MAX_ASSET ((uint64_t)1 << 30)
#define WIRE_NAME 64 /* of a replica or key, with the final NUL: letters, digits, '.', '_', '-', the first a letter or digit */
#define WIRE_KEY 41  /* Z85, with the final NUL */

/* ---- keys ----
 * A key pair is a file of mode 0600, its public half the file PATH.pub.  A folder of keys, as `trireme keygen` makes it:
 *
 *   DIR/gateway  DIR/gateway.pub     the gateway's pair; replicas elsewhere need gateway.pub
 *   DIR/NAME     DIR/NAME.pub        a replica's pair; the first is called "replica"
 *   DIR/allow/NAME.pub               the replicas' public keys that the gateway admits; removing one takes effect within a second */
typedef struct wire_keys {
    char public_key[WIRE_KEY], secret_key[WIRE_KEY];
} wire_keys;
status wire_keys_create(wire_keys *out);
status wire_keys_write(const char *path, const wire_keys *keys); /* PATH and PATH.pub; refuses to overwrite */
status wire_keys_read(const char *path, wire_keys *out);         /* refuses a file that others may read, naming chmod */
status wire_public_key_read(const char *path, char out[WIRE_KEY]);
bool wire_name_valid(const char *name);

/* $XDG_CONFIG_HOME/trireme/keys or ~/.config/trireme/keys; caller frees. */
status wire_keys_dir_default(char **out);
/* Makes DIR with the pairs of "gateway" and "replica", which is allowed.  ST_INVALID where any of it exists. */
status wire_keys_dir_create(const char *dir);
/* Adds a replica's pair, or the public key from a file made elsewhere, and allows it.  ST_INVALID where the name is taken. */
status wire_keys_dir_add(const char *dir, const char *name);
status wire_keys_dir_allow(const char *dir, const char *name, const char *public_path);

/* How an end proves itself.  Made by wire_security_gateway or wire_security_replica, ended by wire_security_clear; copied by *_create. */
typedef struct wire_security {
    bool plain;                /* no encryption, any peer: only by explicit option */
    wire_keys keys;            /* our own */
    char *allow_dir;           /* server: folder of NAME.pub; read again when it changes.  Owned */
    char server_key[WIRE_KEY]; /* client: the gateway's public key */
} wire_security;
/* From a folder of keys; NULL: the default one.  ST_NOT_FOUND names `trireme keygen`.  key_name NULL: "replica". */
status wire_security_gateway(const char *keys_dir, wire_security *out);
status wire_security_replica(const char *keys_dir, const char *key_name, wire_security *out);
void wire_security_clear(wire_security *s); /* wipes the secret */

/* ---- what comes in ---- */
typedef uint64_t wire_peer; /* never reused; 0 = none */
typedef enum wire_kind { WIRE_NOTHING, WIRE_MESSAGE, WIRE_GONE } wire_kind;
typedef struct wire_received {
    wire_kind kind;
    wire_peer peer;
    Trireme__Envelope *message; /* WIRE_MESSAGE; borrowed until the next receive */
    const char *user;           /* server: name of the peer's key, "" if plain; borrowed likewise */
    const char *reason;         /* WIRE_GONE: why, for logs; borrowed likewise */
} wire_received;

/* Since creation. */
typedef struct wire_counters {
    uint64_t messages_in, messages_out, bytes_in, bytes_out; /* whole frames, heartbeats included */
    uint64_t bad_frames, strays;                             /* did not unpack or said what its sender may not say; came outside a session */
    uint64_t peers, peers_lost, peers_dropped;               /* sessions begun; ended by silence or loss; ended for breaking the protocol */
    uint64_t refused_keys, refused_hellos;                   /* handshakes without an allowed key; Hellos of another protocol or a taken name */
} wire_counters;

/* ---- gateway ---- */
typedef struct wire_server wire_server;
typedef struct wire_server_options {
    const char *endpoint; /* "tcp://0.0.0.0:7777", "ipc://..."; tcp port 0 or "*": any */
    const wire_security *security;
    int heartbeat_ms;     /* 0 = 500; a peer silent for 4 of them is gone */
    int send_queue;       /* messages kept for one peer; 0 = 4096 */
    size_t send_bytes;    /* and their bytes; 0 = 64 MiB */
    int max_peers;        /* 0 = 1024 */
} wire_server_options;
status wire_server_create(const wire_server_options *options, wire_server **out);
void wire_server_destroy(wire_server **s);              /* gives what is queued half a second to leave */
const char *wire_server_endpoint(const wire_server *s); /* as bound, with the real port */

/* Waits up to timeout_ms; WIRE_NOTHING: time over, or woken (in the midst of messages too, in turns with them).  A peer's first message is a Hello that was checked; the owner answers with Welcome (whose protocol is
 * filled in here) or with Goodbye and wire_server_drop.  After it come AssetChunk, Tokens, Aborted, Load, Health and Goodbye, their counts and sizes checked against the
 * Hello; floats may be anything.  Every Hello is followed by one WIRE_GONE in the end, unless the owner dropped the peer.
 * A Hello of a live peer's name is refused, except from the same process (key and epoch), whose earlier session ends first. */
status wire_server_receive(wire_server *s, int timeout_ms, wire_received *out);
/* Never waits, and logs nothing.  ST_LIMIT: the peer's queue is full; ST_NOT_FOUND: it is gone; ST_INVALID: too large a message. */
status wire_server_send(wire_server *s, wire_peer peer, const Trireme__Envelope *message);
/* Ends a session; what was sent before still leaves.  No WIRE_GONE follows. */
void wire_server_drop(wire_server *s, wire_peer peer);
void wire_server_wake(wire_server *s);
void wire_server_counters(const wire_server *s, wire_counters *out); /* owner's thread */

/* ---- replica ---- */
typedef struct wire_client wire_client;
typedef struct wire_client_options {
    const char *endpoint;
    const wire_security *security;
    const Trireme__Hello *hello; /* copied; sent on each (re)connection.  protocol and oldest_protocol 0: ours */
    int heartbeat_ms, send_queue;
    size_t send_bytes;           /* 0: as for a server */
} wire_client_options;
status wire_client_create(const wire_client_options *options, wire_client **out);
void wire_client_destroy(wire_client **c);
/* WIRE_MESSAGE: the first of a session is Welcome or Goodbye; then AssetRequest, Submit, Cancel, Drain and Goodbye.  A Submit whose shape is wrong is answered with Aborted
 * here.  WIRE_GONE: the session that Welcome began is over (silence, loss, restart, Goodbye): what was submitted is void; the client goes on trying to reconnect by itself,
 * with back-off, except after a Goodbye without `retry`. */
status wire_client_receive(wire_client *c, int timeout_ms, wire_received *out);
status wire_client_send(wire_client *c, const Trireme__Envelope *message); /* as wire_server_send; ST_NOT_FOUND: no session */
/* Why there is no session ("" while there is one): for a message to the user.  Borrowed until the next receive. */
const char *wire_client_problem(const wire_client *c);
void wire_client_wake(wire_client *c);
void wire_client_counters(const wire_client *c, wire_counters *out);

#endif
