/* coordinator/client/figures.h - what requests took, and the figures made of it, as `vllm bench serve` defines them.
 *
 *   TTFT  from sending to the first output                 ITL   between outputs that follow each other (one may bring several tokens)
 *   E2E   from sending to the last event with a choice     TPOT  (E2E - TTFT) / (tokens - 1), of requests with at least 2 tokens
 *
 * Times are in seconds here, in milliseconds in the JSON; percentiles are interpolated between the two nearest.  Only requests that succeeded count; the others are counted
 * by what went wrong.  Pure. */
#ifndef COORDINATOR_CLIENT_FIGURES_H
#define COORDINATOR_CLIENT_FIGURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

typedef struct client_record {
    bool ok;
    int32_t n_prompt, n_output; /* tokens; of the prompt as the server counts it where it does */
    int32_t n_asked;            /* tokens that the answer was to have */
    double due, sent;           /* since the run began; due: when it was to be sent */
    double ttft, e2e;
    int32_t failure;            /* which of client_failures, if not ok */
} client_record;

/* Reasons, each once, and how often. */
typedef struct client_failures {
    struct client_failure {
        char what[256];
        int32_t n;
    } of[32];
    int32_t n, lost; /* lost: reasons that found no room; counted under the last one */
} client_failures;
int32_t client_failures_add(client_failures *f, const char *what); /* returns its index */

/* A growing list of durations. */
typedef struct client_times {
    double *of;
    size_t n, cap;
    bool failed; /* out of memory */
} client_times;
void client_times_add(client_times *t, double seconds);
void client_times_free(client_times *t);

typedef struct client_summary {
    double mean, median, sd, p90, p95, p99, max;
} client_summary;
/* Sorts t. All zero for none. */
void client_summarise(client_times *t, client_summary *out);

/* Service levels: seconds, 0 for none. */
typedef struct client_slo {
    double ttft, tpot, e2e;
} client_slo;

/* What one run gave. */
typedef struct client_run {
    client_record *records; /* [n], in the order of the data */
    int32_t n, peak;        /* peak: most requests under way at once */
    client_times itl;       /* of requests that succeeded */
    client_failures failures;
    double seconds;         /* from the first to the last moment */
    double cpu_seconds;     /* of this client */
    bool counted_by_server; /* false: the server gave no usage for some request, whose outputs stand for its tokens */
} client_run;
void client_run_free(client_run *r);

typedef struct client_figures {
    int32_t completed, failed, good, shorter; /* good: within the service levels; shorter: answers of fewer tokens than asked for */
    int64_t prompt_tokens, output_tokens;
    double request_rate, output_rate, total_rate, goodput; /* per second */
    client_summary ttft, tpot, itl, e2e, lateness;         /* lateness: sent after it was due */
} client_figures;
status client_figures_of(client_run *r, const client_slo *slo, client_figures *out);

/* The figures under vLLM's names, and what it has no name for. Caller owns; NULL: no memory. */
json_t *client_figures_json(const client_run *r, const client_figures *f, bool with_goodput);
/* Adds "requests", the figures of each, and "itls", all of them, in seconds. */
status client_details_put(const client_run *r, json_t *row);

#endif
