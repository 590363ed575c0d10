/* coordinator/cli/plan_predict.h - the part of `trireme plan` that says how fast a checkpoint would be served.
 *
 *   plan.c          the options of all, and how one split lies on its ranks
 *   plan_predict.c  a machine, every split of it, the front and what is best within an SLO
 *   plan_page.c     the same as a page to look at
 *   plan_check.c    predictions beside what `trireme bench --json` measured */
#ifndef COORDINATOR_CLI_PLAN_PREDICT_H
#define COORDINATOR_CLI_PLAN_PREDICT_H

#include <argp.h>
#include <stdbool.h>

#include "shard/checkpoint.h"
#include "shard/plan/predict.h"

/* The options of plan_predict_argp. */
typedef struct plan_predict_args {
    const char *machine; /* NULL: nothing is to be predicted */
    const char *html, *check;
    shard_sweep_options sweep;
    double sum_bytes, dispatch_bytes, price;
    int32_t overlap_rows;
    bool every;
} plan_predict_args;
extern const struct argp plan_predict_argp;

/* What the other options of `trireme plan` say. */
typedef struct plan_question {
    const char *model;
    const shard_arch *arch;
    shard_types types;
    shard_kv_type kv_type;
    int32_t tp, pp, chunk, threads; /* 0: not given */
    shard_open_options open;
    bool json;
} plan_question;

/* Prints the answer; *found: something fits, within the SLO if there is one. */
status plan_predict(const plan_predict_args *args, const plan_question *question, bool *found);

/* A machine by name, from a file, or "here": rates measured with the threads of `active` ranks at once and divided by them, since they share memory and caches.  links: a machine whose
 * links are taken, NULL: "cpu"'s. */
typedef struct plan_here {
    const shard_arch *arch;
    const shard_types *types;
    shard_kv_type kv_type;
    int32_t threads, active;
    int32_t seqs, context; /* a decode step's, ... */
    int32_t chunk;         /* ... or the tokens of a prompt's step, which `context` tokens precede; 0: none */
} plan_here;
status plan_machine_here(const plan_here *h, const shard_machine *links, shard_machine *out);

/* Everything that a page shows. */
typedef struct plan_result {
    const plan_predict_args *args;
    const plan_question *question;
    const shard_serving *serving;
    const shard_sweep *sweep;
    double weights, active_weights;
    double seconds; /* that predicting took */
} plan_result;
status plan_page_write(const char *path, const plan_result *r);

/* Reads bench's JSON lines from args->check. */
status plan_check(const plan_predict_args *args, const plan_question *question);

#endif
