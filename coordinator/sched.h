/* coordinator/sched.h - who runs what and when: continuous batching as a pure state machine.
 *
 * Requests, results and cancels come in, steps go out; no clock, thread, file or rank is touched, so that a million
 * requests are simulated in seconds.  One thread calls.
 *
 * A step is filled up to a token budget: one token for each decoding sequence (they leave an eighth, if there are prompts), then chunks of prefills, begun (at most
 * max_partial_prefills of them) or new.  Of the prefills' share one half goes by age and the other by length, the least left to compute
 * first, inside the best priority; what one half leaves, the other has.  So a long prompt gets half of the budget at least, once it is the oldest, and
 * a short one does not wait for the long one before it.  Age counts in steps, and a priority is worth COORD_PRIORITY_STEPS of them: whoever waits
 * long enough is served, whatever comes.  A sequence with a sample outstanding waits for its token.  Up to `depth` steps (one for each pipeline
 * stage) are in flight; each takes its share of the decoding sequences, the ones served longest ago first, so that no stage idles (or fewer do: coord_sched_divide); and chunks of one
 * prefill may follow each other in successive steps.
 *
 * A full KV block is kept after its sequence, as long as nobody needs its room, and serves others whose tokens begin alike (the prefix cache:
 * sched_prefix.c); a preempted sequence finds its own.
 *
 * KV blocks are handed out as a sequence grows, to the oldest first: who lacks blocks takes what is free, a chunk shrinking to it; then the
 * youngest sequence that no step in flight names gives all of its back, and is computed again later from prompt +
 * tokens so far (preemption by recompute); and while someone waits for blocks in vain nobody younger gets any.  So the oldest
 * sequence always gets on, and none starves.  A block returns to the pool when every step naming it has retired; a slot at once, since its
 * sequence is in no step in flight and ranks retire before they admit.
 *
 *   submit -> WAITING --admit--> RUNNING --finish--> gone          (cancel: gone as soon as no step in flight names it)
 *                ^------ preempt / lost ranks ----'
 */
#ifndef COORDINATOR_SCHED_H
#define COORDINATOR_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/step.h"

typedef struct coord_sched coord_sched;

enum { COORD_PRIORITY_STEPS = 1024 };

typedef struct coord_sched_options {
    int32_t max_seqs;             /* slots: sequences running at once */
    int32_t max_batched_tokens;   /* token budget of a step */
    int32_t max_prefill_chunk;    /* tokens of one prefill in one step; 0 = the budget */
    int32_t max_partial_prefills; /* prefills begun and not ended; 0 = 4 */
    int32_t max_context;          /* longest prompt + generation */
    int32_t depth;                /* steps in flight */
    int32_t block_tokens;         /* tokens in a KV block */
    int32_t n_kv_groups;
    int32_t window[STEP_MAX_KV_GROUPS];   /* 0 = full */
    int64_t n_blocks[STEP_MAX_KV_GROUPS]; /* of each group */
    bool no_prefix_cache;
    bool lend;                    /* a step with which nothing else could be in flight is `lent`, and stays alone until it retires */
    bool token_classes;           /* keys and values of a token depend on whether it was generated (kernels differ) */
    uint8_t prefix_seed[32];      /* what else they depend on: checkpoint, adapter; and a secret, so that nobody outside can aim at a key */
} coord_sched_options;

typedef struct coord_request {
    uint64_t id;             /* unique among those alive */
    const int32_t *tokens;   /* [n_tokens] prompt, and after a replay what was generated; copied */
    int32_t n_tokens;
    int32_t n_prompt;        /* <= n_tokens */
    int32_t priority;        /* lower runs first */
    int32_t rope_set;
    uint64_t hash;           /* running logits hash of what was generated */
    step_pooling pooling;    /* not STEP_GENERATE: one event with a vector; sampling.max_tokens is 1 */
    bool normalize;
    step_sampling sampling;  /* lists copied */
    bool no_prefix_cache;    /* takes nothing from the prefix cache, and leaves nothing in it */
    const uint8_t *cache_salt; /* [n_cache_salt] only requests of the same salt share blocks; not kept */
    size_t n_cache_salt;
} coord_request;

/* One token, one prompt token's log-probabilities (prompt = true), or the vector of one request.  finish STEP_NO_TOKEN and STEP_NOT_NUMBERS end a
 * request without a token (-1). */
typedef struct coord_event {
    uint64_t id;
    bool prompt;
    int32_t index;           /* of the token: generated tokens from 0; prompt tokens from 1 */
    int32_t token;
    uint8_t finish;          /* as in step_result_row */
    uint64_t hash;
    float logprob;
    int32_t rank;            /* as in step_result_row */
    int32_t n_top;
    const step_logprob *top;
    int32_t n_embedding;
    const float *embedding;
    int32_t cached_tokens;   /* of the prompt, that the prefix cache had when the request began: the same in each of its events */
    double began;            /* what coord_sched_began was told of its first step; 0: nothing */
} coord_event;
typedef void (*coord_event_fn)(void *arg, const coord_event *event);

status coord_sched_create(const coord_sched_options *options, coord_sched **out);
void coord_sched_destroy(coord_sched **sched);

/* ST_INVALID: empty prompt, longer than max_context allows, or more KV blocks than there are (the message says which). */
status coord_sched_submit(coord_sched *s, const coord_request *request);
/* true if the id was alive; no event for it comes afterwards. */
bool coord_sched_cancel(coord_sched *s, uint64_t id);

/* From now on at most n steps in flight, 1 to `depth`, have decoding sequences, each its share of them; `depth` at first. */
void coord_sched_divide(coord_sched *s, int32_t n);

/* Builds the next step if there is something to compute and fewer than `depth` are in flight; else returns false.  *out
 * borrows until the next call. */
bool coord_sched_next(coord_sched *s, step *out);

/* Tells the clock at which the step just built begins; requests whose first step it is keep it for their events. */
void coord_sched_began(coord_sched *s, double clock);

/* Retires the oldest step in flight.  ST_FORMAT if the result is not that step's.  Calls fn for each token. */
status coord_sched_apply(coord_sched *s, const step_result *result, coord_event_fn fn, void *arg);

/* The replica's ranks are gone, and with them every step in flight and all KV: everything running waits again, to be
 * computed anew by fresh ranks whose steps start from 1.  The prefix cache is empty. */
void coord_sched_lost(coord_sched *s);

/* Steps by tokens: bucket i counts those of at most 2^i; the last one, those of more. */
enum { COORD_STEP_BUCKETS = 18 };

typedef struct coord_sched_stats {
    int32_t n_waiting, n_running, n_in_flight;
    int64_t free_blocks[STEP_MAX_KV_GROUPS];   /* at hand, with those that are cached and held by nobody */
    int64_t cached_blocks[STEP_MAX_KV_GROUPS]; /* that may be found again, held or not */
    /* Since creation, through losses of ranks. */
    uint64_t n_preemptions, n_steps, n_tokens_computed;
    uint64_t n_prompt_tokens, n_generated_tokens;  /* of requests begun, cached ones included; of results taken */
    uint64_t prefix_queries, prefix_hits;          /* tokens of requests begun that the cache was asked for, and had */
    uint64_t steps_by_tokens[COORD_STEP_BUCKETS];
} coord_sched_stats;
void coord_sched_stats_get(const coord_sched *s, coord_sched_stats *out);

/* For tests and simulation: NULL, or which invariant is broken.  Every move of a block checks where it comes from and keeps the first fault, so
 * that coord_sched_check, which counts, sees after each step whether each block is in exactly one place, in time proportional to the sequences
 * running.  coord_sched_check_whole looks at every block, table and waiting request itself. */
const char *coord_sched_check(const coord_sched *s);
const char *coord_sched_check_whole(const coord_sched *s);

#endif
