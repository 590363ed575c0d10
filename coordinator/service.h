/* coordinator/service.h - a replica in service: a gateway's requests in, tokens out, for as long as the job lives.
 *
 * Runs on rank 0, in two threads:
 *
 *   step thread   the caller's: the only one to touch the replica (and with it MPI).  Takes commands, runs steps, puts what they give into the
 *                 outbox; sleeps while there is nothing to run
 *   wire thread   owns the connection to the gateway: checks and queues what comes, sends what is in the outbox, a Load about once a second,
 *                 and is the watchdog: it sees from the outside whether steps end
 *
 * What a gateway submitted is void when its session ends (it will submit again, here or elsewhere); the replica goes on and reconnects.  A drain
 * (asked for by the gateway, or by SIGTERM) ends what runs, sends back what comes, and ends the service.  A replica that breaks or stalls tells
 * the gateway, if it still can, and ends the job: the replica is the unit of failure. */
#ifndef COORDINATOR_SERVICE_H
#define COORDINATOR_SERVICE_H

#include <signal.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/wire/wire.h"
#include "coordinator/replica.h"

typedef struct coord_service_options {
    const char *endpoint;          /* of the gateway */
    const wire_security *security;
    const char *name;              /* of this replica among the gateway's */
    const char *model;             /* name it is served under */
    const char *version;           /* of the program, with its commit */
    int32_t max_seqs, max_batched_tokens; /* as the replica runs with */
    int32_t max_waiting;           /* requests taken beyond those that run; more are sent back */
    int32_t max_logprobs;          /* most log-probabilities a request may ask for, of each kind */
    double step_timeout;           /* seconds without a step's end, while there is work, until the job is ended */
    double drain_seconds;          /* longest drain after a signal; 0 = as long as it takes */
    const volatile sig_atomic_t *signals; /* how many of SIGTERM, SIGINT, SIGUSR1 have come: 1 drains, 2 end at once */
} coord_service_options;

/* Serves until drained or told to stop (ST_OK), refused by the gateway for good (ST_INVALID), or broken.  Says why, once.  `reports`: of coord_replica_report.
 * May end the process by itself where a step hangs and its thread cannot be reached. */
status coord_service_run(coord_replica *replica, const coord_rank_report *reports, const coord_service_options *options);

#endif
