/* coordinator/cli/bench_jobs.h - `trireme bench` run by another one: several jobs at once, each on ranks of its own, and the rows that they measured. */
#ifndef COORDINATOR_CLI_BENCH_JOBS_H
#define COORDINATOR_CLI_BENCH_JOBS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"

enum { BENCH_JOBS_REPEAT = 1000 }; /* measured runs at most */

/* Options of every command that runs such jobs; what stands after -- is for `trireme bench`. */
typedef struct bench_jobs_args {
    const char *model, *launcher, *save;
    int32_t repeat;
    bool json;
    char **rest;
    int n_rest;
} bench_jobs_args;
extern const struct argp bench_jobs_argp; /* a child; its input is a bench_jobs_args * */

typedef struct bench_jobs {
    int n;                       /* jobs */
    int ranks;                   /* of each */
    const char *launcher;        /* words that start one, with {ranks} and {job} where those stand; NULL: mpirun, on this machine, whose cores are divided among the jobs */
    const char *const *words;    /* after "trireme", ended by NULL */
    bool lockstep;               /* runs of all jobs begin together (--lockstep) */
    double first_token_seconds;  /* out: from the start to the first line that says "first token"; 0: none came */
} bench_jobs;

/* Runs them to their ends.  rows[i]: what the i-th wrote with --save, which is added to its words; caller json_decref()s each, NULL after a failure.  ST_ABORTED: a signal
 * came; another failure: what the first job that failed said. */
status bench_jobs_run(bench_jobs *jobs, json_t **rows);

#endif
