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
    coord_sched_stats s;
    coord_replica_sched_stats(r->replica, &s);
    fprintf(stderr, "%llu steps, %llu tokens computed, %llu preemptions, %llu of %llu tokens found in the prefix cache\n", (unsigned long long)s.n_steps,
            (unsigned long long)s.n_tokens_computed, (unsigned long long)s.n_preemptions, (unsigned long long)s.prefix_hits,
            (unsigned long long)s.prefix_queries);
    fprintf(stderr, "MiB: weights, KV cache and buffers as allocated, as planned; resident: the process before them, touched of them, now; bytes read and needed\n"
                    "rank  stage  tp  weights      KV  buffers  planned  before  touched     now    read  needed  loaded s  ready s  backend\n");
    for (int i = 0; i < r->n_ranks; i++) {
        const coord_rank_report *p = &r->reports[i];
        fprintf(stderr, "%4d  %5d  %2d  %7.1f  %6.1f  %7.1f  %7.1f  %6.1f  %7.1f  %6.1f  %6.1f  %6.1f  %8.2f  %7.2f  %s\n", p->rank, p->stage, p->tp_index,
                mib(p->weight_bytes), mib(p->kv_bytes), mib(p->scratch_bytes), mib(p->predicted_bytes), mib(p->base_bytes), mib(p->touched_bytes), mib(p->resident_bytes),
                mib(p->io_read), mib(p->io_needed), p->load_seconds, p->ready_seconds, p->backend);
    }
}
