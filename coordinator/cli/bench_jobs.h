/* coordinator/cli/bench_jobs.h - `trireme bench` run by another one: several jobs at once, each on ranks of its own, and the rows that they measured. */
#ifndef COORDINATOR_CLI_BENCH_JOBS_H
#define COORDINATOR_CLI_BENCH_JOBS_H

#include "base/json.h"
#include "base/status.h"

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
