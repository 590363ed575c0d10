/* coordinator/sched_internal.h - what the scheduler's files share.  Stays in this folder.
 *
 *   sched.c         requests and their life; results
 *   sched_step.c    building a step: who gets how many of its tokens
 *   sched_queue.c   the waiting, by age and by length; requests by id
 *   sched_blocks.c  KV blocks: who holds them, when they are free again
 *   sched_prefix.c  the prefix cache: full blocks found again by what they hold
 *   sched_check.c   the invariants */
#ifndef COORDINATOR_SCHED_INTERNAL_H
#define COORDINATOR_SCHED_INTERNAL_H

#include "base/hash.h"
#include "coordinator/sched.h"

typedef enum seq_state { SEQ_WAITING, SEQ_RUNNING } seq_state;

typedef struct prefix_key {
    uint8_t bytes[HASH_SHA256_BYTES];
} prefix_key;

typedef struct block_table {
    int32_t *blocks;      /* [n] */
    int32_t n, cap;
    int32_t first;        /* blocks before this were given back, or never held */
    int32_t n_sent;       /* blocks the ranks have been told of */
} block_table;

enum { HEAP_BY_AGE, HEAP_BY_LENGTH, N_HEAPS };

typedef struct seq {
    coord_request request; /* tokens and salt are not read through it; its other lists lie in `lists` */
    void *lists;
    int32_t *tokens;
    int32_t n_tokens, cap;
    seq_state state;
    bool cancelled;
    int32_t slot;
    int32_t n_computed;    /* tokens computed by steps handed out, or found in the cache */
    int32_t span_begin;    /* where its span in last_step begins */
    int32_t n_in_flight;   /* steps that name it */
    bool awaiting_sample;
    bool admitted_before;
    int32_t prompt_logprobs_done; /* prompt tokens reported */
    int32_t cached_tokens; /* of its prompt, found at its first admission */
    double began;          /* see coord_sched_began */
    int64_t due;           /* order of service: steps built at its arrival + priority * COORD_PRIORITY_STEPS */
    uint64_t arrival;      /* among equals */
    uint64_t last_step;
    int32_t heap_at[N_HEAPS]; /* its place among the waiting */
    block_table tables[STEP_MAX_KV_GROUPS];
    prefix_key root, *keys; /* [n_keys] of its first full blocks; computed when first needed, kept through preemption */
    int32_t n_keys, cap_keys;
    int32_t n_published;   /* full blocks that the cache has been told of */
    struct seq *hash_next;
} seq;

/* ---- blocks ---- */

typedef struct block_list {
    int32_t first, last; /* -1 = none */
    int64_t n;
} block_list;

enum { BLOCK_FREE, BLOCK_DEFERRED, BLOCK_HELD };

typedef struct block {
    int32_t refs;          /* tables that hold it */
    int32_t prev, next;    /* in the list of the free, or of a flight's */
    int32_t chain;         /* cached: next one in its bucket */
    uint64_t last_step;    /* the last step known to name it */
    uint8_t at;            /* BLOCK_...: every move says from where */
    bool cached;           /* can be found by its key */
    int32_t seen;          /* scratch: references by those who would be preempted */
    uint32_t seen_in;
    prefix_key key;
} block;

/* One KV group's. */
typedef struct block_pool {
    int32_t n_blocks, window;
    block *blocks;
    block_list free;       /* handed out from its head: those that hold nothing, then the cached ones, the longest unused first */
    int64_t n_deferred, n_held, n_refs, n_cached;
    int32_t *tokens;       /* [n_blocks * block_tokens] what the cached ones hold; NULL without a prefix cache */
    int32_t *buckets;      /* first block of each; -1 = none */
    size_t n_buckets;      /* a power of two */
} block_pool;

/* What one step names: sequences, to count them out when it retires, and blocks given up while it was the last step to name them, which
 * are free when it retires. */
typedef struct flight {
    uint64_t number;
    bool decodes; /* has decoding sequences */
    int32_t n;
    seq **seqs; /* [max_seqs] */
    block_list given[STEP_MAX_KV_GROUPS];
} flight;

struct coord_sched {
    coord_sched_options opt;
    uint64_t next_step, retired_step, arrivals;

    seq **heaps[N_HEAPS]; /* the waiting */
    int32_t n_waiting, cap_heap;
    seq **running; /* by age */
    int32_t n_running;
    seq **buckets; /* id -> seq, chained */
    size_t n_buckets, n_alive;

    block_pool pools[STEP_MAX_KV_GROUPS];
    uint32_t seen; /* number of the last count with block.seen */
    hash_sha256 *hash; /* NULL: no prefix cache */
    int32_t *free_slots;
    int32_t n_free_slots;
    int32_t *retire; /* slots to name in the next step: free already, since ranks retire before they admit */
    int32_t n_retire;

    flight *flights; /* ring [depth] */
    int32_t flight_head, n_flights;
    bool lent;     /* the one in flight is */
    int32_t waves; /* flights among which the decoding sequences are divided */

    step_admit *admits;
    step_span *spans;
    int32_t *span_tokens;
    coord_sched_stats stats; /* the counters in it; n_steps is the scheduler's only clock */
    const char *broken; /* the first invariant seen broken */
};

/* ---- sched.c ---- */

/* Back among the waiting, at its old age, nothing computed.  No step in flight names it. */
void sched_seq_requeue(coord_sched *s, seq *q);

/* ---- sched_queue.c ---- */

/* Lower due first, then age. */
bool sched_seq_before(const seq *a, const seq *b);
/* Less left to compute comes first, inside the better priority. */
bool sched_seq_shorter(const seq *a, const seq *b);
/* Room is made at submit, so that putting a preempted sequence back cannot fail. */
status sched_heap_reserve(coord_sched *s);
void sched_heap_push(coord_sched *s, seq *q);
void sched_heap_remove(coord_sched *s, seq *q);
seq *sched_seq_find(const coord_sched *s, uint64_t id); /* NULL if not alive */
status sched_ids_reserve(coord_sched *s);               /* room for one more */
void sched_seq_remember(coord_sched *s, seq *q);
void sched_seq_forget(coord_sched *s, seq *q);          /* and frees it */
void sched_seq_free(seq *q);

/* ---- sched_blocks.c ---- */

status sched_pool_create(coord_sched *s, int g);
void sched_pool_destroy(block_pool *p);
void sched_broken(coord_sched *s, const char *what);
void sched_blocks_retired(coord_sched *s, flight *f);
int32_t sched_blocks_for(const coord_sched *s, int64_t n_tokens);
/* First block a query at `position` may still read. */
int32_t sched_first_visible(const coord_sched *s, int g, int32_t position);
/* The most blocks of a group that a sequence holds at once while `n` tokens are computed, alone and in chunks of `chunk`. */
int64_t sched_blocks_at_once(const coord_sched *s, int g, int64_t n, int32_t chunk);
/* Blocks group g lacks before tokens [.., end) can be computed. */
int64_t sched_blocks_missing(const coord_sched *s, const seq *q, int g, int32_t end);
bool sched_blocks_available(const coord_sched *s, const seq *q, int32_t end);
/* The last position + 1 that the blocks q has and the free ones reach. */
int64_t sched_blocks_reach(const coord_sched *s, const seq *q);
/* Room in the tables for blocks up to `end`; false: out of memory. */
bool sched_tables_reserve(const coord_sched *s, seq *q, int32_t end);
/* Moves free blocks into q's tables: there are enough, and room was reserved. */
void sched_blocks_take(coord_sched *s, seq *q, int32_t end);
/* One more table holds a cached block, wherever it lies. */
void sched_block_share(coord_sched *s, int g, int32_t id);
/* Gives blocks [t->first, first) back, the last one first, so that of a prefix its end is forgotten before its beginning. */
void sched_blocks_drop_before(coord_sched *s, seq *q, int g, int32_t first);
/* Preempts from the young end of the queue until q has blocks up to `end`; false: they cannot all be had, and nobody was preempted. */
bool sched_blocks_wrest(coord_sched *s, seq *q, int32_t end);
void sched_blocks_forget_all(coord_sched *s); /* the ranks are gone: nothing is cached or named any more */

/* ---- sched_prefix.c ---- */

status sched_prefix_create(coord_sched *s);
void sched_prefix_root(coord_sched *s, seq *q, const coord_request *r);
/* How many of q's first blocks the cache can serve to a sequence that is about to be admitted; they are written into its tables, still
 * empty otherwise, and not yet held. */
int32_t sched_prefix_find(coord_sched *s, seq *q);
/* Of those, how many of group g are held (the window's reach), and how many of them are counted among the free. */
int32_t sched_prefix_needs(const coord_sched *s, const seq *q, int g, int32_t n_blocks, int32_t *n_free);
void sched_prefix_take(coord_sched *s, seq *q, int32_t n_blocks);
/* q's blocks that are full by now can be found by others from here on. */
void sched_prefix_publish(coord_sched *s, seq *q);
void sched_prefix_evict(coord_sched *s, int g, int32_t id);
/* The cached block of this key and these tokens; -1 = none. */
int32_t sched_prefix_lookup(const coord_sched *s, int g, const prefix_key *key, const int32_t *tokens);

#endif
