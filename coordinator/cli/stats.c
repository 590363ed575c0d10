#include "coordinator/cli/stats.h"

#include <stdio.h>

#include "base/log.h"

void cli_answer_begin(cli_answer_times *t, int32_t n_prompt)
{
    *t = (cli_answer_times){.submitted = log_clock(), .n_prompt = n_prompt};
}

void cli_answer_token(cli_answer_times *t)
{
    t->last_token = log_clock();
    if (t->n_tokens++ == 0)
        t->first_token = t->last_token;
}

void cli_answer_show(const cli_answer_times *t)
{
    if (t->n_tokens == 0)
        return;
    fprintf(stderr, "%d prompt tokens, first token after %.3f s", t->n_prompt, t->first_token - t->submitted);
    if (t->n_tokens > 1)
        fprintf(stderr, ", then %.1f tokens/s", (t->n_tokens - 1) / (t->last_token - t->first_token));
    fprintf(stderr, " (%d tokens)\n", t->n_tokens);
}

static double mib(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

void cli_ranks_show(const cli_replica *r)
{
    fprintf(stderr, "rank  stage  tp  weights MiB  KV MiB  buffers MiB  process MiB  loaded in s  backend\n");
    for (int i = 0; i < r->n_ranks; i++) {
        const coord_rank_report *p = &r->reports[i];
        fprintf(stderr, "%4d  %5d  %2d  %11.1f  %6.1f  %11.1f  %11.1f  %11.2f  %s\n", p->rank, p->stage, p->tp_index, mib(p->weight_bytes),
                mib(p->kv_bytes), mib(p->scratch_bytes), mib(p->resident_bytes), p->load_seconds, p->backend);
    }
}
