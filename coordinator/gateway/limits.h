/* coordinator/gateway/limits.h - what a key may take: requests and tokens a minute (token buckets), and requests at once.
 *
 * A bucket holds a minute's worth and refills evenly.  Requests take one when admitted.  Tokens are charged when known - the prompt at submit, generated ones as
 * they come - so the bucket may go into debt; while it is in debt nothing new is admitted.  Time comes in from outside: a pure state machine under a lock. */
#ifndef COORDINATOR_GATEWAY_LIMITS_H
#define COORDINATOR_GATEWAY_LIMITS_H

#include <stdint.h>

#include "base/status.h"
#include "coordinator/gateway/auth.h"

typedef struct limits limits;
status limits_create(limits **out);
void limits_destroy(limits **l);

typedef enum limits_verdict { LIMITS_OK, LIMITS_REQUESTS, LIMITS_TOKENS, LIMITS_CONCURRENT } limits_verdict;

/* Admits a request of `key` (its limits as auth gave them: changes apply at once) or says which limit stands in the way and after how many
 * seconds (>= 1) to come back.  LIMITS_OK must be paired with limits_release. */
limits_verdict limits_admit(limits *l, const auth_key *key, uint64_t now_ns, int *retry_after_s);
void limits_release(limits *l, int32_t number);
void limits_charge(limits *l, int32_t number, int64_t n_tokens, uint64_t now_ns);

/* "requests per minute", "tokens per minute", "requests at once": for the 429. */
const char *limits_text(limits_verdict v);

/* For x-ratelimit-* headers; -1: unlimited. */
typedef struct limits_state {
    int64_t requests_left, tokens_left;
    int32_t running;
} limits_state;
void limits_state_get(limits *l, const auth_key *key, uint64_t now_ns, limits_state *out);

#endif
