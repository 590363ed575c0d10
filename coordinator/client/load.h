/* coordinator/client/load.h - the load: sends a workload's requests as a plan says, one thread for thousands of streams, and records what each took.
 *
 *   closed loop   max_concurrency requests under way: one that ends makes room for the next
 *   open loop     each request has a moment when it is due (client_arrivals), whatever became of those before; max_concurrency, where given, makes it wait
 *
 * libcurl's multi interface over epoll; a timerfd wakes for what is due next.  A request's clock begins when it is handed to libcurl (its connection, where none is free, is part of
 * its time) and stops at the bytes as they are read.  Every request has a deadline, so that a run ends. */
#ifndef COORDINATOR_CLIENT_LOAD_H
#define COORDINATOR_CLIENT_LOAD_H

#include "base/log.h"
#include "coordinator/client/figures.h"
#include "coordinator/client/server.h"
#include "coordinator/client/workload.h"

typedef struct client_load_options {
    const char *model, *path; /* path: /v1/completions or /v1/chat/completions */
    bool chat, ignore_eos;
    double temperature;       /* negative: the server's own */
    const json_t *extra;      /* members that are added to each body, or NULL; borrowed */
    int32_t max_concurrency;  /* 0: no bound */
    double timeout;           /* seconds that a request may take */
    uint64_t salt;            /* as client_prompt_put */
    const double *due;        /* [n] ascending, seconds since the run begins; NULL: at once */
    int32_t first, n;         /* of the workload's requests */
    log_progress *progress;   /* or NULL */
} client_load_options;

/* Moments of n requests at a rate: gaps from a gamma distribution of shape `burstiness` (1: a Poisson process; less: bursts; more: even), scaled so that they take n / rate
 * seconds together, as `vllm bench serve` does. */
void client_arrivals(int32_t n, double rate, double burstiness, uint64_t seed, double *due);

/* Runs to the end.  Requests that fail are counted in out; other trouble is this machine's: no memory, no more open files. */
status client_load_run(const client_server *server, const client_workload *w, const client_load_options *o, client_run *out);

#endif
