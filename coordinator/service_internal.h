/* coordinator/service_internal.h - what the service's files share.  Stays in this folder.
 *
 *   service.c          the step thread: commands in, steps, events out
 *   service_wire.c     the wire thread: the gateway, loads, the watchdog
 *   service_request.c  a Submit checked and turned into a request */
#ifndef COORDINATOR_SERVICE_INTERNAL_H
#define COORDINATOR_SERVICE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "coordinator/service.h"
#include "shard/text/bundle.h"
#include "shard/text/grammar.h"

/* ---- what the wire thread asks of the step thread ---- */

typedef enum command_kind {
    COMMAND_SUBMIT,
    COMMAND_CANCEL, /* gateway_id */
    COMMAND_VOID,   /* the session is over: everything of it goes, nobody is told */
    COMMAND_ABORT,  /* a drain's time is over: everything goes, and is sent back */
} command_kind;

typedef struct service_command {
    struct service_command *next;
    command_kind kind;
    uint64_t session, gateway_id;
    double arrival;
    size_t bytes;          /* that count against the queue's bound */
    coord_request request; /* SUBMIT: lists in tokens, lists and salt */
    int32_t *tokens;
    void *lists;
    uint8_t *salt;
} service_command;

void service_command_free(service_command **c);

/* ---- what the step thread has for the gateway ---- */

typedef struct service_event {
    uint64_t gateway_id, hash;
    bool prompt;
    int32_t index, token, rank, cached_tokens;
    uint8_t finish;
    float logprob;
    double queue_seconds, prefill_seconds;
    size_t first_top, n_top, first_float, n_embedding; /* in the batch's arrays */
} service_event;

#define SERVICE_OUTBOX_BYTES ((size_t)256 << 20)

/* The events of one step, of which `sent` have left, or one request sent back (n = 0). */
typedef struct service_batch {
    struct service_batch *next;
    uint64_t session, step;
    size_t n, sent, cap, n_tops, cap_tops, n_floats, cap_floats;
    service_event *events;
    step_logprob *tops;
    float *floats;
    uint64_t aborted_id;
    status aborted;
    bool retry;
    char message[512];
} service_batch;

void service_batch_free(service_batch **b);

/* ---- a request under way; step thread ---- */

typedef struct service_entry {
    uint64_t id;   /* the scheduler's; 0 = free */
    uint64_t gateway_id, session;
    double arrival;
    bool told;     /* its first event has been made */
    size_t bytes;
    int32_t next;  /* in its bucket, or of the free ones; -1 = none */
} service_entry;

typedef struct service {
    coord_service_options opt;
    coord_replica *replica;
    const coord_rank_report *reports;
    const shard_arch *arch;
    int32_t max_model_len;
    int n_ranks;

    /* between the threads */
    pthread_mutex_t lock;
    pthread_cond_t wake;   /* of the step thread */
    service_command *commands, **commands_end;
    service_batch *batches, **batches_end;
    size_t outbox_bytes;   /* of batches; at most SERVICE_OUTBOX_BYTES */
    coord_sched_stats stats;
    coord_rank_load *loads; /* [n_ranks] */
    bool ending;           /* wire thread: no more commands will come; step thread ends when it has nothing left */
    bool ended;            /* step thread: has ended; `result` says how */
    status result;
    char why[1024];
    atomic_int alive;      /* requests taken and not ended */
    atomic_size_t bytes;   /* of them */
    atomic_bool working;   /* inside a run of steps */
    _Atomic double progress; /* when a step last ended, or work began */
    atomic_ullong session; /* of the gateway's; grows */

    /* step thread */
    service_entry *entries; /* [n_entries]; id % n_entries is its place */
    int32_t n_entries, first_free, n_under_way;
    int32_t *buckets;       /* by gateway_id */
    uint64_t serial;
    service_batch *batch;   /* being filled */
    int n_gone;             /* ended, and still counted as alive */
    size_t gone_bytes;
    double published, loads_published;
    status failed;          /* of an event */

    /* wire thread */
    shard_grammar_vocab *grammar_vocab; /* NULL: no grammars here */
    wire_client *client;    /* replaced under the lock */
    uint64_t epoch;
    shard_text_asset *assets;
    size_t n_assets;
    uint8_t (*digests)[32];
    double outbox_moved;    /* when the connection last took an answer, or there was none to take */
    bool welcomed, draining, stalled;
    double drain_deadline;  /* 0 = none */
    double load_at;
    int signals_seen;
    status verdict;         /* of the service, if not the step thread's */
} service;

/* service.c */
/* Queues; c is taken. */
void service_command_push(service *s, service_command **c);
/* What a batch counts for in the outbox. */
size_t service_batch_bytes(const service_batch *b);
/* Queues the word that a request is not, or no longer, under way here.  Of either thread. */
status service_send_back(service *s, uint64_t session, uint64_t gateway_id, status why, const char *message, bool retry);

/* service_wire.c */
status service_wire_create(service *s);
void service_wire_destroy(service *s);
void *service_wire_main(void *arg);

/* service_request.c */
void service_grammars_prepare(service *s);
/* A request from a Submit, whose ids the wire has checked.  ST_INVALID with status_message() naming the fault (muted: not logged). */
status service_request_of(const service *s, const Trireme__Submit *m, service_command **out);

#endif
