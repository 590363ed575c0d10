/* coordinator/gateway/registry.h - replicas that said Hello, and the models that they serve.
 *
 * A replica brings no path to its checkpoint but the names and hashes of its text files.  What the gateway lacks it asks for in chunks, a few at a time, verifies, and
 * opens on another thread; then the replica is ready, and its model served:
 *
 *   Hello -> JOINING (text: FETCHING -> OPENING) -> READY -> gone
 *
 * Texts are shared by their files' hashes: the second replica of a checkpoint, or the first one restarted, is ready at once.  Texts nobody uses are kept, a few.
 * A model is its name and checkpoint.  Each set of replicas that serves it makes a version, immutable and counted, that requests hold while
 * they run; a model without replicas stays known.
 *
 * One thread calls everything, except where noted.  Sending, dropping and opening are its owner's (hooks), so that it is tested without sockets and threads. */
#ifndef COORDINATOR_GATEWAY_REGISTRY_H
#define COORDINATOR_GATEWAY_REGISTRY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/wire/wire.h"
#include "coordinator/gateway/api.h"
#include "coordinator/gateway/router.h"

typedef struct gateway_registry gateway_registry;
typedef struct gateway_text gateway_text;     /* one checkpoint's text */
typedef struct gateway_served gateway_served; /* a name and its checkpoint; lives as long as the registry */

/* One version of a served model.  Any thread may read it and hold it. */
typedef struct gateway_model {
    api_model api;
    gateway_served *served;
    gateway_text *text;
    char *name, *digest, *fingerprint, *build, *split;
    int32_t block_tokens;
    int32_t max_num_seqs; /* of all its replicas together */
    _Atomic int refs;
} gateway_model;
void gateway_model_release(gateway_model **model); /* any thread */

enum { GATEWAY_STEP_BUCKETS = 32 };
typedef struct gateway_replica {
    wire_peer peer;
    Trireme__Hello *hello;        /* owned */
    Trireme__Load *load;          /* the last; NULL before the first */
    char *user;                   /* name of its key */
    uint32_t numerics;            /* number of its numerics id, from 1 */
    gateway_served *served;       /* NULL while joining */
    gateway_text *text;
    gateway_prefixes *prefixes;   /* sent there */
    bool ready, draining, unwell; /* unwell: by its own watchdog */
    char *detail;                 /* what the watchdog said, or NULL */
    double stalled_seconds;       /* by its own watchdog */
    double joined, progressed;    /* clock: a step ended, or nothing was to be done */
    double busy_until;            /* its queue was full: not before ... */
    int32_t busy_load;            /* ... or when it has fewer requests than this */
    uint64_t n_tokens;            /* received from it */
    uint64_t shown_steps[GATEWAY_STEP_BUCKETS], shown_prompt, shown_generated; /* of its counters, what metrics have seen */
    struct gateway_replica *next;
} gateway_replica;

typedef struct gateway_registry_options {
    const char *gateway;     /* our name */
    uint64_t epoch;
    size_t max_text_bytes;   /* text files of one checkpoint; 0 = 512 MiB */
    double fetch_seconds;    /* a replica that sends no chunk for so long is dropped; 0 = 30 */
    size_t prefix_capacity;  /* prefixes remembered for each replica; 0 = twice its KV blocks, within bounds */
    bool log_text;
    void *arg;               /* of the hooks */
    status (*send)(void *arg, wire_peer peer, const Trireme__Envelope *message);
    void (*drop)(void *arg, wire_peer peer);
    void (*open)(void *arg, gateway_text *text); /* have gateway_text_open called on another thread, then gateway_registry_opened here */
    void (*left)(void *arg, const gateway_replica *replica); /* it is about to be forgotten; whatever the cause */
} gateway_registry_options;
status gateway_registry_create(const gateway_registry_options *options, gateway_registry **out);
void gateway_registry_destroy(gateway_registry **registry);

/* What came in from a peer.  `now`: a clock in seconds. */
void gateway_registry_hello(gateway_registry *r, wire_peer peer, const char *user, const Trireme__Hello *hello, double now);
void gateway_registry_chunk(gateway_registry *r, wire_peer peer, const Trireme__AssetChunk *chunk, double now);
void gateway_registry_load(gateway_registry *r, wire_peer peer, const Trireme__Load *load, double now);
void gateway_registry_health(gateway_registry *r, wire_peer peer, const Trireme__Health *health);
void gateway_registry_gone(gateway_registry *r, wire_peer peer, const char *why);
/* Once in a while: gives up on those that bring no text. */
void gateway_registry_tick(gateway_registry *r, double now);

/* Any thread, once for each call of the open hook: makes the text of its files. */
void gateway_text_open(gateway_text *text);
void gateway_registry_opened(gateway_registry *r, gateway_text *text, double now);

gateway_replica *gateway_registry_first(const gateway_registry *r); /* and ->next */
gateway_replica *gateway_registry_find(const gateway_registry *r, wire_peer peer);
bool gateway_served_has_replica(const gateway_served *served);
const char *gateway_served_name(const gateway_served *served);
const char *gateway_replica_state(const gateway_replica *r); /* "joining", "ready", "draining", "stalled" */

/* Any thread.  The current version of the model of that name ("": the only one served), held for the caller.  ST_NOT_FOUND: unknown; ST_BUSY: there is no model at all yet. */
status gateway_registry_model(gateway_registry *r, const char *name, gateway_model **out);
/* Any thread.  All models with a replica, each held; returns how many of at most cap. */
size_t gateway_registry_models(gateway_registry *r, gateway_model **out, size_t cap);

#endif
