/* coordinator/gateway/journal.h - what was promised and not yet kept: every sequence under way, with its tokens so far.
 *
 * A pure state machine: no clock, thread or socket is touched; one thread calls.  An entry lives from the moment a request is accepted until its last
 * token was handed on (or it is given up), so that whatever happens to a replica its sequences can be computed on by another:
 *
 *   add -> WAITING --sent--> SENT --end--> gone
 *             ^---- gone / retry ----'
 *
 * Tokens carry their index: one already taken is a duplicate and dropped, a gap is an error, so that each token is taken exactly once whoever computed
 * it.  From its first token on an entry is bound to the numerics id of the replica that computed it: another one would go on differently.  What dies
 * with every replica that touches it is given up after some attempts without a token. */
#ifndef COORDINATOR_GATEWAY_JOURNAL_H
#define COORDINATOR_GATEWAY_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct gateway_journal gateway_journal;

typedef struct gateway_entry { /* others read it */
    uint64_t id;           /* of the Submit; never reused */
    void *owner;           /* opaque: whose sequence it is ... */
    int32_t sequence;      /* ... and which of them */
    const void *model;     /* opaque: replicas of this model may run it */
    int32_t priority;      /* lower goes first */
    const int32_t *prompt; /* borrowed until the entry ends */
    int32_t n_prompt;
    int32_t *tokens;       /* generated so far */
    int32_t n_tokens, cap;
    uint64_t hash;         /* running logits hash after them */
    uint32_t numerics;     /* 0: any replica of the model; else only those of this numerics id */
    int32_t n_prompt_taken;
    uint64_t peer;         /* 0: waiting */
    uint32_t peer_numerics;
    int attempts;          /* times a replica failed it since its last token */
    uint32_t replays;      /* times it was moved in all, but for those when there was only no room and it had no token yet */
    bool returned;         /* a peer had it: before all that none has had */
    double waiting_since;  /* 0: it got a token since it was sent */
    double deadline;       /* 0: none */
    uint64_t avoid_peer;   /* asked it to go elsewhere, if there is an elsewhere */
    struct gateway_entry *previous, *next, *chain;
} gateway_entry;

typedef struct gateway_journal_options {
    int max_attempts;      /* 0 = 5 */
    double wait_seconds;   /* longest wait for a replica; 0 = 120 */
} gateway_journal_options;

status gateway_journal_create(const gateway_journal_options *options, gateway_journal **out);
void gateway_journal_destroy(gateway_journal **journal);

/* What is new about a request; the rest of the entry begins at zero.  prompt is borrowed until gateway_journal_end. */
typedef struct gateway_promise {
    void *owner;
    int32_t sequence;
    const void *model;
    int32_t priority;
    const int32_t *prompt;
    int32_t n_prompt;
    double deadline;
} gateway_promise;
status gateway_journal_add(gateway_journal *j, const gateway_promise *promise, double now, gateway_entry **out);
gateway_entry *gateway_journal_find(const gateway_journal *j, uint64_t id);
/* Forgets it, wherever it is; clears *entry. */
void gateway_journal_end(gateway_journal *j, gateway_entry **entry);

/* Those waiting, first to be sent first: what a peer has had, by age; then by priority and age; NULL if there are none, and ->next. */
gateway_entry *gateway_journal_waiting(const gateway_journal *j);
/* It was submitted to this peer. */
status gateway_journal_sent(gateway_journal *j, gateway_entry *entry, uint64_t peer, uint32_t numerics);
/* The peer gave it back.  failed: it could not compute it, which counts as an attempt; else it only has no room or leaves, and the time that the entry has
 * been without a token goes on. */
void gateway_journal_retry(gateway_journal *j, gateway_entry *entry, bool failed, double now);
/* The peer is gone: its entries wait again, before all others and in their order.  Returns how many. */
int gateway_journal_gone(gateway_journal *j, uint64_t peer, double now);

typedef enum gateway_verdict {
    GATEWAY_TAKE,      /* new, and recorded: hand it on */
    GATEWAY_DUPLICATE, /* already taken */
    GATEWAY_UNKNOWN,   /* ended, cancelled or moved meanwhile */
    GATEWAY_GAP        /* a token is missing before it: the peer is at fault */
} gateway_verdict;
typedef struct gateway_token {
    uint64_t id;
    bool prompt;       /* a prompt token's log-probabilities: index from 1 */
    int32_t index, token;
    uint64_t hash;
} gateway_token;
/* *entry is set unless unknown.  ST_NO_MEMORY: the entry is as before. */
status gateway_journal_token(gateway_journal *j, uint64_t peer, const gateway_token *t, gateway_verdict *verdict, gateway_entry **entry);

/* The next entry that is to be given up (the caller ends it), or NULL; why: a sentence. */
typedef enum gateway_give_up { GATEWAY_WAITED, GATEWAY_ATTEMPTS, GATEWAY_DEADLINE } gateway_give_up;
gateway_entry *gateway_journal_expired(gateway_journal *j, double now, gateway_give_up *why);

typedef struct gateway_journal_stats {
    int32_t n_entries, n_waiting;      /* waiting: with no replica */
    int32_t n_unstarted;               /* without a token so far, wherever they are */
    int64_t unstarted_tokens;          /* their prompts' */
    int64_t tokens;                    /* all prompts and tokens kept */
    uint64_t n_replays, n_duplicates, n_unknown, n_gaps;
} gateway_journal_stats;
void gateway_journal_stats_get(const gateway_journal *j, gateway_journal_stats *out);
int32_t gateway_journal_peer_load(const gateway_journal *j, uint64_t peer); /* entries it has */

/* For tests: NULL, or which invariant is broken. */
const char *gateway_journal_check(const gateway_journal *j);

#endif
