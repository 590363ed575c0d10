/* coordinator/gateway/gateway_internal.h - what the gateway's own files share: the call, and how the threads reach each other.
 *
 *   gateway.c   creation, the core thread and its mailbox
 *   call.c      a call on the workers: created, fed, answered
 *   dispatch.c  the core thread's side of calls: journal, choice of a replica, replays, cancels
 *   routes.c    the table of routes, admission, answers that need no call
 *   spans.c     what a request's trace says
 *   state.c     what /state, /load, /health and the gauges say */
#ifndef COORDINATOR_GATEWAY_GATEWAY_INTERNAL_H
#define COORDINATOR_GATEWAY_GATEWAY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "comm/wire/wire.h"
#include "coordinator/gateway/access.h"
#include "coordinator/gateway/api.h"
#include "coordinator/gateway/auth.h"
#include "coordinator/gateway/gateway.h"
#include "coordinator/gateway/http.h"
#include "coordinator/gateway/journal.h"
#include "coordinator/gateway/latency.h"
#include "coordinator/gateway/limits.h"
#include "coordinator/gateway/metrics.h"
#include "coordinator/gateway/otlp.h"
#include "coordinator/gateway/registry.h"
#include "coordinator/gateway/responses.h"
#include "coordinator/gateway/workers.h"

/* ---- work for the workers ---- */

typedef enum work_kind {
    WORK_CREATE,  /* of a call: parse and submit */
    WORK_EVENT,   /* call_event */
    WORK_FAIL,    /* call_failure */
    WORK_END,     /* the core thread is done with the call */
    WORK_TEXT     /* open a checkpoint's text: actor is a text_job */
} work_kind;

typedef struct call_work {
    gateway_work work;
    work_kind kind;
} call_work;

typedef struct call_event {
    call_work head;
    int32_t sequence;
    uint64_t received_ns, step;
    uint32_t replays;
    char replica[WIRE_NAME];
    Trireme__Event event; /* deep: what it points to follows in the same block */
} call_event;

typedef struct call_failure {
    call_work head;
    api_error error;
    int retry_after_s;
} call_failure;

/* ---- commands for the core thread ---- */

typedef enum command_kind { COMMAND_SUBMIT, COMMAND_CANCEL, COMMAND_TEXT, COMMAND_ASK } command_kind;

typedef struct command {
    struct command *next;
    command_kind kind;
    struct call *call;     /* SUBMIT: embedded in it */
    uint64_t call_id;      /* CANCEL */
    int32_t sequence;      /* CANCEL: -1 all */
    gateway_text *text;    /* TEXT */
    http_request *request; /* ASK: answered by the core thread ... */
    void (*answer)(gateway *g, http_request *request); /* ... with this */
} command;

/* ---- a call ---- */

typedef struct call {
    gateway_actor actor;   /* first: of its events */
    gateway_actor maker;   /* of its creation, in a pool of its own */
    gateway *g;
    uint64_t id;           /* of its HTTP request */
    int32_t caller;        /* number of its key */
    otlp_context trace;

    /* The worker's. */
    http_request *request; /* NULL once answered */
    api_route route;
    gateway_model *model;
    api_call *api;
    bool streams, begun, over;
    int n_sequences;
    Trireme__Submit *submits; /* [n_sequences]; their prompts are the call's own, the rest is the api's and does not change */
    int32_t *prompts;      /* of all sequences, one after the other */
    mem_str out;           /* what is to be written next */
    uint64_t *hashes;      /* prefixes of all sequences, one after the other ... */
    size_t *hash_first;    /* ... [n_sequences + 1]; the core's once submitted */
    uint64_t arrived_ns, first_token_ns, last_token_ns;
    uint64_t *token_ns;    /* [n_sequences] its last token */
    uint64_t first_step, last_step; /* of its tokens, at the replica that gave the last one */
    int32_t n_tokens, n_charged, most_tokens; /* most_tokens: of one sequence */
    double queue_seconds, prefill_seconds;
    uint32_t replays;
    char replica[WIRE_NAME];
    int64_t n_prompt_tokens; /* of all sequences */
    metrics_series *inter_token;
    call_work create, end;
    command submit;

    /* The core thread's. */
    gateway_entry **entries; /* [n_sequences], NULL once ended */
    int n_live;
    bool sent;
    struct span_rank *ranks; /* [n_ranks], where it is traced */
    size_t n_ranks;
    uint64_t sent_ns;
    struct call *chain;
} call;

typedef struct text_job {
    gateway_actor actor;
    call_work work;
    gateway_text *text;
} text_job;

struct gateway {
    gateway_options opt;
    http_server *http;
    auth *auth;
    limits *limits;
    metrics *metrics;
    access_log *access;
    otlp *otlp;                 /* NULL: no traces */
    responses *responses;
    gateway_workers *makers, *workers; /* calls are made, and texts opened, apart from what goes on: a schema may take seconds to compile */
    uint64_t started_ns;

    /* The core thread's. */
    pthread_t core;
    bool core_started;
    wire_server *wire;
    gateway_registry *registry; /* models: any thread */
    gateway_journal *journal;
    call **calls;               /* by id: [n_call_buckets] */
    size_t n_call_buckets, n_calls_known;
    double next_tick, published;
    bool pump_again;
    uint64_t n_finished, n_failed, n_cancelled;
    double finish_rate;         /* requests ended a second, lately */
    uint64_t n_finished_before;

    pthread_mutex_t mail_lock;
    command *mail_first, *mail_last;
    _Atomic bool stopping, core_ends; /* stopping: all calls fail */

    /* Published by the core thread, or counted by all. */
    _Atomic int n_calls;          /* made and not destroyed */
    _Atomic int capacity;         /* sequences that ready replicas run at once */
    _Atomic int n_unstarted;
    _Atomic int retry_after_s;
    _Atomic bool healthy, draining;
    _Atomic int n_ready;
    _Atomic uint64_t core_alive_ns;

    gateway_latency submit_latency, write_latency;
    metrics_series *write_series;

    /* The I/O thread's: the last refusal. */
    mem_str refusal;
    http_header refusal_header;
    char refusal_value[16];
};

/* gateway.c */
void gateway_post(gateway *g, command *c);                        /* any thread; embedded commands */
void gateway_post_cancel(gateway *g, uint64_t call_id, int32_t sequence);
void gateway_ask(gateway *g, http_request *r, void (*answer)(gateway *g, http_request *r)); /* has the core thread answer */
double gateway_clock(void);                                       /* seconds, of http_now */

/* call.c */
void call_begin(gateway *g, http_request *r, api_route route);    /* I/O thread */
bool call_work_run(void *arg, gateway_actor *actor, gateway_work *work); /* gateway_work_fn of the pool */
bool call_open_text(gateway *g, text_job *job);                   /* gateway.c */

/* dispatch.c: the core thread. */
void dispatch_submit(gateway *g, call *c);
void dispatch_cancel(gateway *g, uint64_t call_id, int32_t sequence);
void dispatch_tokens(gateway *g, wire_peer peer, const Trireme__Tokens *t, uint64_t received_ns);
void dispatch_aborted(gateway *g, wire_peer peer, const Trireme__Aborted *a);
void dispatch_replica_left(gateway *g, const gateway_replica *r);
void dispatch_pump(gateway *g);                                   /* what waits goes to whoever can take it */
void dispatch_expire(gateway *g);
void dispatch_fail_all(gateway *g);                               /* at the end */

/* routes.c */
void routes_respond_json(http_request **r, json_t *body);          /* takes both */
const http_route *gateway_routes(int *n);
bool routes_admit(void *arg, http_request *r, const http_route *route, http_answer *refuse);
void routes_gone(void *arg, uint64_t id);
void routes_done(void *arg, const http_record *record);
void routes_written(void *arg, uint64_t received_ns, uint64_t written_ns);

/* spans.c */
void spans_sent(call *c, const gateway_replica *r);               /* the core thread: to this replica */
void spans_computed(const call *c, const gateway_replica *r);     /* the core thread: the last token came from it */
/* A worker: the request is over.  usage, finish: NULL before it was understood; error: NULL if there was none. */
void spans_request(const call *c, const char *path, const char *request_id, const api_call_usage *usage, const char *finish, const char *error);

/* state.c: the core thread. */
bool state_is_stalled(const gateway *g, const gateway_replica *r, double now);
void state_publish_health(gateway *g, double now);                /* also capacity */
void state_publish(gateway *g, double passed);                    /* gauges and counters; seconds since the last time */
void state_answer(gateway *g, http_request *r);                   /* GET /state */
void state_load_answer(gateway *g, http_request *r);              /* GET /load */
void state_hide_replica(gateway *g, const gateway_replica *r);

#endif
