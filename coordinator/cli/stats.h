/* coordinator/cli/stats.h - how a run went, for people: times of one answer, and what each rank holds. */
#ifndef COORDINATOR_CLI_STATS_H
#define COORDINATOR_CLI_STATS_H

#include "coordinator/cli/replica_args.h"

/* The clock of one answer. */
typedef struct cli_answer_times {
    double submitted, first_token, last_token; /* log_clock() */
    int32_t n_prompt, n_tokens;
} cli_answer_times;

void cli_answer_begin(cli_answer_times *t, int32_t n_prompt);
void cli_answer_token(cli_answer_times *t);
/* "12 prompt tokens, first token after 0.08 s, then 31.2 tokens/s (64 tokens)" on standard error. */
void cli_answer_show(const cli_answer_times *t);
/* A line for each rank on standard error: its part, its memory as allocated and as the process holds it, its loading. */
void cli_ranks_show(const cli_replica *r);

#endif
