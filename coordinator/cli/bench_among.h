/* coordinator/cli/bench_among.h - the rows of `trireme bench` that measure the scheduler: what a shared prefix spares, what a long prompt costs the others. */
#ifndef COORDINATOR_CLI_BENCH_AMONG_H
#define COORDINATOR_CLI_BENCH_AMONG_H

#include <jansson.h>

#include "coordinator/replica.h"

enum { BENCH_OWN_TOKENS = 16 }; /* of a prompt after what it shares, and of a sequence before it decodes */

/* Time to first token of a prompt whose first `tokens` tokens were computed before, against that of one that begins like no other. */
typedef struct bench_shared {
    int32_t tokens, repeat;
    double cold_seconds, shared_seconds; /* means */
} bench_shared;
status bench_shared_measure(coord_replica *r, bench_shared *b);

/* A prompt of `tokens` tokens comes while `batch` sequences decode. */
typedef struct bench_among {
    int32_t tokens, batch, budget;
    double itl_alone_p50, itl_alone_p99;   /* of the sequences before it comes */
    double itl_during_p50, itl_during_p99; /* until its first token */
    double budget_step; /* one step of `budget` tokens: the mean of the prompt's, with nothing beside it */
    double ttft;        /* of the prompt */
    double ttft_alone;  /* with nothing beside it */
    double ttft_fair;   /* if its steps and the sequences' took turns: ttft_alone, and a decode step for each of its steps */
} bench_among;
status bench_among_measure(coord_replica *r, bench_among *b);
/* Tokens that one of the sequences may get meanwhile. */
int32_t bench_among_generated(int32_t tokens, int32_t batch, int32_t budget);

#endif
