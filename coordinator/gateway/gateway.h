/* coordinator/gateway/gateway.h - the gateway: clients' HTTP on one side, replicas' ZeroMQ on the other.
 *
 * Joins what its neighbours each do for themselves: http (sockets), auth and limits (who may), api (bodies), wire (replicas), registry, router, journal.
 *
 *   I/O thread (http)    admit, handler ---- create ----> makers     parse, render, tokenise, compile grammars
 *                                                            |
 *                                                     submit |   workers    tokens to text; write to the client
 *                                                            v      ^
 *   core thread          registry, router, journal ------ events, in order for each call
 *                               ^
 *                               `==== wire =======> replicas
 *
 * A call is one HTTP request on its way: it belongs to one maker, then to one worker at a time, and names itself to the core thread by its number.  Nobody waits for anybody: between the
 * threads are queues, whose lengths are bounded by what was admitted. */
#ifndef COORDINATOR_GATEWAY_GATEWAY_H
#define COORDINATOR_GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gateway gateway;

typedef struct gateway_options { /* strings are borrowed until gateway_destroy; 0 and NULL: the default beside it */
    const char *name;            /* "gateway" */
    const char *version, *commit;
    const char *const *listen;   /* "127.0.0.1:8000" */
    int n_listen;
    const char *tls_cert, *tls_key;
    const char *const *cors_origins;
    int n_cors_origins;
    const char *replicas;        /* endpoint where replicas come: "tcp://127.0.0.1:7777" */
    const char *keys_dir;        /* of wire_security_gateway */
    bool plain;                  /* replicas without encryption */
    const char *api_keys;        /* file of auth.h; NULL: none */
    const char *api_key;         /* a single key instead; NULL: none */
    const char *access_log;      /* path, "-" or NULL */
    bool vllm_metrics, log_text;
    const char *otlp_endpoint;   /* where traces go (otlp.h); NULL: nowhere */
    const char *otlp_headers;    /* "name=value,..."; NULL: none */
    double trace_ratio;          /* 0 to 1: of requests that belong to no trace yet, those traced */
    int n_workers, n_makers;     /* threads for answers: as many as cores, 2 to 8; for requests: n_workers if given, else 2 to 4 */
    int32_t max_waiting;         /* 2048: sequences without a token beyond what replicas run at once */
    int64_t max_waiting_tokens;  /* 4 Mi: of their prompts */
    int32_t max_sequences;       /* 128: of one request */
    int max_replays;             /* 5: without a token in between */
    double replay_seconds;       /* 120: longest wait for a replica */
    double request_seconds;      /* 3600: of a whole request */
    double stall_seconds;        /* 60: a replica with work whose steps do not end for so long is not given more */
    size_t max_body;             /* 16 MiB */
    int max_connections;         /* 4096 */
    size_t stored_bytes;         /* 64 MiB: answers of /v1/responses kept for a later GET */
} gateway_options;

/* Opens the sockets and starts the threads. */
status gateway_create(const gateway_options *options, gateway **out);
/* New requests are refused from now on; those at work go on. */
void gateway_drain(gateway *g);
/* Requests that are not yet answered. */
int gateway_active(const gateway *g);
/* Drains, ends what is not over within timeout_ms with an error, and says goodbye to the replicas. */
void gateway_destroy(gateway **g, int timeout_ms);

int gateway_http_port(const gateway *g, int i);
const char *gateway_replicas_endpoint(const gateway *g); /* as bound */
/* Files moved away or changed: the access log is opened again, keys are read. */
void gateway_reload(gateway *g);
/* One line to the log: the gateway's own share of latencies. */
void gateway_show_latency(const gateway *g);

#endif
