/* coordinator/gateway/router.h - which replica a sequence goes to: where most of it is cached, and where least is going on.
 *
 * The gateway knows no replica's cache; it remembers, for each, the prefixes that it sent there: hashes of all block-aligned prefixes of a prompt,
 * chained from the request's salt, in a bounded table that forgets the least recently used.  That is what the replica's prefix cache does with its
 * blocks, so the guess is mostly right, and where it is wrong the answer is only later.
 *
 * The price of a replica for a sequence is the prompt tokens it would have to compute, plus a charge for each request it already has: a
 * replica that has more cached wins until it is so much busier that computing the prefix anew elsewhere is cheaper.  Equal prices: the one with less KV in use.
 *
 * Pure: no clock, thread or socket; one thread calls (gateway_prefix_hash: any). */
#ifndef COORDINATOR_GATEWAY_ROUTER_H
#define COORDINATOR_GATEWAY_ROUTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    GATEWAY_REQUEST_TOKENS = 64, /* one request more on a replica weighs as many prompt tokens: it shares every step with it */
    GATEWAY_QUEUED_TOKENS = 512  /* ... and beyond the sequences a replica runs at once it waits for others to end */
};

/* out[i]: hash of the first (i + 1) * block_tokens tokens.  The last token is always computed, so a prefix that is the whole prompt is none.  Returns how many. */
size_t gateway_prefix_hash(const int32_t *tokens, size_t n_tokens, int32_t block_tokens, const void *salt, size_t salt_len, uint64_t *out, size_t cap);
size_t gateway_prefix_count(size_t n_tokens, int32_t block_tokens);

/* Prefixes sent to one replica. */
typedef struct gateway_prefixes gateway_prefixes;
status gateway_prefixes_create(size_t capacity, gateway_prefixes **out);
void gateway_prefixes_destroy(gateway_prefixes **p);
/* How many of the hashes, from the first, are known. */
size_t gateway_prefixes_match(const gateway_prefixes *p, const uint64_t *hashes, size_t n);
/* They are known and most recent now; the shortest prefix last, since a longer one is worth nothing without it. */
void gateway_prefixes_add(gateway_prefixes *p, const uint64_t *hashes, size_t n);
size_t gateway_prefixes_used(const gateway_prefixes *p);

typedef struct gateway_candidate {
    int32_t cached_tokens;   /* of the sequence, by gateway_prefixes_match */
    int32_t n_requests;      /* running and waiting there */
    int32_t max_num_seqs;
    double kv_used;          /* share of its blocks in use, 0 .. 1 */
} gateway_candidate;
/* Index of the best, -1 if n is 0. */
int gateway_route(const gateway_candidate *candidates, int n, int32_t n_tokens);

#endif
