/* coordinator/sched_internal.h - what the scheduler's files share.  Stays in this folder.
 *
 *   sched.c         requests and their life; building a step; results
 *   sched_queue.c   the waiting, by priority and age; requests by id
 *   sched_blocks.c  KV blocks: who has them, when they are free again
 *   sched_check.c   the invariants */
#ifndef COORDINATOR_SCHED_INTERNAL_H
#define COORDINATOR_SCHED_INTERNAL_H

#include "coordinator/sched.h"

typedef enum seq_state { SEQ_WAITING, SEQ_RUNNING } seq_state;

typedef struct block_table {
    int32_t *blocks;      /* [n] */
    int32_t n, cap;
    int32_t first;        /* blocks before this were given back */
    int32_t n_sent;       /* blocks the ranks have been told of */
} block_table;

typedef struct seq {
    coord_request request; /* its lists lie in `lists` */
    void *lists;
    int32_t *tokens;
    int32_t n_tokens, cap;
    seq_state state;
    bool cancelled;
    int32_t slot;
    int32_t n_computed;    /* tokens computed by steps handed out */
    int32_t n_in_flight;   /* steps that name it */
    bool awaiting_sample;
    int32_t prompt_logprobs_done; /* prompt tokens reported */
    uint64_t arrival;      /* order of age; kept through preemption */
    uint64_t last_step;
    int32_t heap_at;       /* its place among the waiting */
    block_table tables[STEP_MAX_KV_GROUPS];
    struct seq *hash_next;
} seq;

/* What one step names: sequences, to count them out when it retires, and blocks given up while it was the last step to name them, which
 * are free when it retires (lists through next_block). */
typedef struct flight {
    uint64_t number;
    int32_t n;
    seq **seqs; /* [max_seqs] */
    int32_t freed[STEP_MAX_KV_GROUPS]; /* first of the list, -1 = none */
} flight;

/* Where a block is, for the checks: every move says where it expects it. */
enum { AT_FREE = -1, AT_DEFERRED = -2 }; /* else the slot that holds it */

struct coord_sched {
    coord_sched_options opt;
    uint64_t next_step, retired_step, arrivals;

    seq **heap; /* waiting, by (priority, arrival) */
    int32_t n_heap, cap_heap;
    seq **running; /* by (priority, arrival) */
    int32_t n_running;
    seq **buckets; /* id -> seq, chained */
    size_t n_buckets, n_alive;

    int32_t *free_blocks[STEP_MAX_KV_GROUPS];
    int64_t n_free[STEP_MAX_KV_GROUPS], n_deferred[STEP_MAX_KV_GROUPS];
    int32_t *next_block[STEP_MAX_KV_GROUPS]; /* lists of deferred blocks */
    int32_t *place[STEP_MAX_KV_GROUPS];      /* of each block */
    int64_t held[STEP_MAX_KV_GROUPS];        /* blocks in tables */
    int32_t *free_slots;
    int32_t n_free_slots;
    int32_t *retire; /* slots to name in the next step: free already, since ranks retire before they admit */
    int32_t n_retire;

    flight *flights; /* ring [depth] */
    int32_t flight_head, n_flights;

    step_admit *admits;
    step_span *spans;
    int32_t *span_tokens;
    uint64_t n_preemptions, n_tokens_computed;
    const char *broken; /* the first invariant seen broken */
};

/* ---- sched_queue.c ---- */

/* Lower priority value first, then age. */
bool sched_seq_before(const seq *a, const seq *b);
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

void sched_block_free(coord_sched *s, int g, int32_t block);
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
void sched_blocks_drop_before(coord_sched *s, seq *q, int g, int32_t first);

#endif
