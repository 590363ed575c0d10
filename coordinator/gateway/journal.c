#include "coordinator/gateway/journal.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

typedef struct entry_list {
    gateway_entry *first, *last;
    int32_t n;
} entry_list;

typedef struct peer_list {
    uint64_t peer;
    entry_list entries;
} peer_list;

struct gateway_journal {
    gateway_journal_options opt;
    uint64_t next_id;
    gateway_entry **buckets; /* [n_buckets], a power of two */
    size_t n_buckets;
    entry_list waiting;
    peer_list *peers; /* those that have entries */
    int n_peers, cap_peers;
    gateway_journal_stats stats;
};

/* ---- lists ---- */

static void list_append(entry_list *l, gateway_entry *e)
{
    e->previous = l->last;
    e->next = NULL;
    *(l->last != NULL ? &l->last->next : &l->first) = e;
    l->last = e;
    l->n++;
}

static void list_insert_behind(entry_list *l, gateway_entry *before, gateway_entry *e)
{
    e->previous = before;
    e->next = before != NULL ? before->next : l->first;
    *(before != NULL ? &before->next : &l->first) = e;
    *(e->next != NULL ? &e->next->previous : &l->last) = e;
    l->n++;
}

/* Behind all of its priority or a lower number: mostly at the end. */
static void list_insert(entry_list *l, gateway_entry *e)
{
    gateway_entry *before = l->last;
    while (before != NULL && !before->returned && before->priority > e->priority)
        before = before->previous;
    list_insert_behind(l, before, e);
}

/* In front, but behind older ones that came back: who is sent back again and again must not be overtaken each time. */
static void list_insert_returned(entry_list *l, gateway_entry *e)
{
    gateway_entry *before = NULL;
    for (gateway_entry *o = l->first; o != NULL && o->returned && o->id < e->id; o = o->next)
        before = o;
    list_insert_behind(l, before, e);
}

static void list_remove(entry_list *l, gateway_entry *e)
{
    *(e->previous != NULL ? &e->previous->next : &l->first) = e->next;
    *(e->next != NULL ? &e->next->previous : &l->last) = e->previous;
    e->previous = e->next = NULL;
    l->n--;
}

/* a before b; both in *b afterwards. */
static void list_prepend_all(entry_list *a, entry_list *b)
{
    if (a->n == 0)
        return;
    a->last->next = b->first;
    *(b->first != NULL ? &b->first->previous : &b->last) = a->last;
    b->first = a->first;
    b->n += a->n;
    *a = (entry_list){0};
}

static peer_list *peer_of(const gateway_journal *j, uint64_t peer)
{
    for (int i = 0; i < j->n_peers; i++)
        if (j->peers[i].peer == peer)
            return &j->peers[i];
    return NULL;
}

static status peer_obtain(gateway_journal *j, uint64_t peer, peer_list **out)
{
    *out = peer_of(j, peer);
    if (*out != NULL)
        return ST_OK;
    if (j->n_peers == j->cap_peers) {
        int cap = j->cap_peers > 0 ? j->cap_peers * 2 : 8;
        peer_list *grown = realloc(j->peers, (size_t)cap * sizeof(*grown));
        if (grown == NULL)
            return FAIL(ST_NO_MEMORY, "journal: %d peers", cap);
        j->peers = grown;
        j->cap_peers = cap;
    }
    *out = &j->peers[j->n_peers++];
    **out = (peer_list){.peer = peer};
    return ST_OK;
}

static void unlink_entry(gateway_journal *j, gateway_entry *e)
{
    if (e->peer == 0) {
        list_remove(&j->waiting, e);
        return;
    }
    peer_list *p = peer_of(j, e->peer);
    list_remove(&p->entries, e);
    if (p->entries.n == 0)
        *p = j->peers[--j->n_peers];
}

/* ---- by id ---- */

static gateway_entry **bucket_of(const gateway_journal *j, uint64_t id)
{
    return &j->buckets[hash_mix(id) & (j->n_buckets - 1)];
}

static status grow_buckets(gateway_journal *j)
{
    gateway_entry **old = j->buckets, **grown;
    size_t n_old = j->n_buckets;
    TRY(mem_calloc(n_old * 2, sizeof(*grown), "journal", &grown));
    j->buckets = grown;
    j->n_buckets = n_old * 2;
    for (size_t i = 0; i < n_old; i++) {
        for (gateway_entry *e = old[i], *next; e != NULL; e = next) {
            next = e->chain;
            gateway_entry **b = bucket_of(j, e->id);
            e->chain = *b;
            *b = e;
        }
    }
    free(old);
    return ST_OK;
}

gateway_entry *gateway_journal_find(const gateway_journal *j, uint64_t id)
{
    gateway_entry *e = *bucket_of(j, id);
    while (e != NULL && e->id != id)
        e = e->chain;
    return e;
}

/* ---- life of an entry ---- */

static bool started(const gateway_entry *e)
{
    return e->n_tokens > 0;
}

status gateway_journal_create(const gateway_journal_options *options, gateway_journal **out)
{
    gateway_journal *j;
    TRY(mem_calloc(1, sizeof(*j), "journal", &j));
    j->opt = *options;
    j->opt.max_attempts = options->max_attempts > 0 ? options->max_attempts : 5;
    j->opt.wait_seconds = options->wait_seconds > 0 ? options->wait_seconds : 120;
    j->n_buckets = 256;
    status st = mem_calloc(j->n_buckets, sizeof(gateway_entry *), "journal", &j->buckets);
    if (st != ST_OK)
        free(j);
    else
        *out = j;
    return st;
}

void gateway_journal_destroy(gateway_journal **journal)
{
    gateway_journal *j = *journal;
    if (j == NULL)
        return;
    for (size_t i = 0; i < j->n_buckets; i++) {
        for (gateway_entry *e = j->buckets[i], *next; e != NULL; e = next) {
            next = e->chain;
            free(e->tokens);
            free(e);
        }
    }
    free(j->buckets);
    free(j->peers);
    free(j);
    *journal = NULL;
}

status gateway_journal_add(gateway_journal *j, const gateway_promise *promise, double now, gateway_entry **out)
{
    gateway_entry *e;
    if ((size_t)j->stats.n_entries >= j->n_buckets)
        TRY(grow_buckets(j));
    TRY(mem_calloc(1, sizeof(*e), "journal entry", &e));
    e->id = ++j->next_id;
    e->owner = promise->owner;
    e->sequence = promise->sequence;
    e->model = promise->model;
    e->priority = promise->priority;
    e->prompt = promise->prompt;
    e->n_prompt = promise->n_prompt;
    e->deadline = promise->deadline;
    e->waiting_since = now;
    gateway_entry **b = bucket_of(j, e->id);
    e->chain = *b;
    *b = e;
    list_insert(&j->waiting, e);
    j->stats.n_entries++;
    j->stats.n_unstarted++;
    j->stats.unstarted_tokens += e->n_prompt;
    j->stats.tokens += e->n_prompt;
    *out = e;
    return ST_OK;
}

void gateway_journal_end(gateway_journal *j, gateway_entry **entry)
{
    gateway_entry *e = *entry;
    *entry = NULL;
    unlink_entry(j, e);
    gateway_entry **at = bucket_of(j, e->id);
    while (*at != e)
        at = &(*at)->chain;
    *at = e->chain;
    j->stats.n_entries--;
    if (!started(e)) {
        j->stats.n_unstarted--;
        j->stats.unstarted_tokens -= e->n_prompt;
    }
    j->stats.tokens -= e->n_prompt + e->n_tokens;
    free(e->tokens);
    free(e);
}

gateway_entry *gateway_journal_waiting(const gateway_journal *j)
{
    return j->waiting.first;
}

status gateway_journal_sent(gateway_journal *j, gateway_entry *e, uint64_t peer, uint32_t numerics)
{
    peer_list *p;
    TRY(peer_obtain(j, peer, &p));
    list_remove(&j->waiting, e);
    list_append(&p->entries, e);
    e->peer = peer;
    e->peer_numerics = numerics;
    return ST_OK;
}

static void wait_again(gateway_journal *j, gateway_entry *e, bool failed, double now)
{
    e->peer = 0;
    e->returned = true;
    e->waiting_since = now;
    if (!failed && !started(e))
        return; /* nothing of it was computed */
    j->stats.n_replays++;
    e->replays++;
}

void gateway_journal_retry(gateway_journal *j, gateway_entry *e, bool failed, double now)
{
    if (e->peer == 0)
        return;
    e->avoid_peer = e->peer;
    unlink_entry(j, e);
    wait_again(j, e, failed, failed || e->waiting_since == 0 ? now : e->waiting_since);
    e->attempts += failed;
    list_insert_returned(&j->waiting, e);
}

int gateway_journal_gone(gateway_journal *j, uint64_t peer, double now)
{
    peer_list *p = peer_of(j, peer);
    if (p == NULL)
        return 0;
    entry_list l = p->entries;
    *p = j->peers[--j->n_peers];
    for (gateway_entry *e = l.first; e != NULL; e = e->next) {
        wait_again(j, e, true, now);
        e->attempts++;
    }
    int n = l.n;
    list_prepend_all(&l, &j->waiting);
    return n;
}

/* ---- tokens ---- */

static status take(gateway_journal *j, gateway_entry *e, const gateway_token *t)
{
    if (t->prompt) {
        e->n_prompt_taken = t->index;
    } else {
        if (e->n_tokens == e->cap) {
            int32_t cap = e->cap > 0 ? e->cap * 2 : 32;
            int32_t *grown = realloc(e->tokens, (size_t)cap * sizeof(*grown));
            if (grown == NULL)
                return FAIL(ST_NO_MEMORY, "journal: %d tokens", cap);
            e->tokens = grown;
            e->cap = cap;
        }
        if (!started(e)) {
            j->stats.n_unstarted--;
            j->stats.unstarted_tokens -= e->n_prompt;
        }
        e->tokens[e->n_tokens++] = t->token;
        e->hash = t->hash;
        j->stats.tokens++;
    }
    e->numerics = e->peer_numerics;
    e->attempts = 0;
    e->avoid_peer = 0;
    e->waiting_since = 0;
    return ST_OK;
}

status gateway_journal_token(gateway_journal *j, uint64_t peer, const gateway_token *t, gateway_verdict *verdict, gateway_entry **entry)
{
    gateway_entry *e = gateway_journal_find(j, t->id);
    if (e == NULL || e->peer != peer) {
        j->stats.n_unknown++;
        *verdict = GATEWAY_UNKNOWN;
        return ST_OK;
    }
    *entry = e;
    int32_t expected = t->prompt ? e->n_prompt_taken + 1 : e->n_tokens;
    if (t->index < expected) {
        j->stats.n_duplicates++;
        *verdict = GATEWAY_DUPLICATE;
        return ST_OK;
    }
    if (t->index > expected || (t->prompt && t->index >= e->n_prompt)) {
        j->stats.n_gaps++;
        *verdict = GATEWAY_GAP;
        return ST_OK;
    }
    *verdict = GATEWAY_TAKE;
    return take(j, e, t);
}

/* ---- giving up ---- */

static bool is_over(const gateway_journal *j, const gateway_entry *e, double now, gateway_give_up *why)
{
    if (e->deadline > 0 && now >= e->deadline)
        *why = GATEWAY_DEADLINE;
    else if (e->peer == 0 && e->attempts >= j->opt.max_attempts)
        *why = GATEWAY_ATTEMPTS;
    else if (e->peer == 0 && now - e->waiting_since >= j->opt.wait_seconds)
        *why = GATEWAY_WAITED;
    else
        return false;
    return true;
}

gateway_entry *gateway_journal_expired(gateway_journal *j, double now, gateway_give_up *why)
{
    for (gateway_entry *e = j->waiting.first; e != NULL; e = e->next)
        if (is_over(j, e, now, why))
            return e;
    for (int i = 0; i < j->n_peers; i++)
        for (gateway_entry *e = j->peers[i].entries.first; e != NULL; e = e->next)
            if (is_over(j, e, now, why))
                return e;
    return NULL;
}

void gateway_journal_stats_get(const gateway_journal *j, gateway_journal_stats *out)
{
    *out = j->stats;
    out->n_waiting = j->waiting.n;
}

int32_t gateway_journal_peer_load(const gateway_journal *j, uint64_t peer)
{
    const peer_list *p = peer_of(j, peer);
    return p != NULL ? p->entries.n : 0;
}

static const char *check_list(const gateway_journal *j, const entry_list *l, uint64_t peer, int32_t *n_entries, int32_t *n_unstarted, int64_t *tokens)
{
    int32_t n = 0;
    const gateway_entry *previous = NULL;
    for (const gateway_entry *e = l->first; e != NULL; previous = e, e = e->next) {
        if (e->previous != previous)
            return "a list is linked wrongly";
        if (e->peer != peer)
            return "an entry is in another's list";
        if (gateway_journal_find(j, e->id) != e)
            return "an entry is not found by its id";
        *n_unstarted += e->n_tokens == 0;
        *tokens += e->n_prompt + e->n_tokens;
        n++;
    }
    *n_entries += n;
    return n != l->n || l->last != previous ? "a list's count or end is wrong" : NULL;
}

const char *gateway_journal_check(const gateway_journal *j)
{
    int32_t n = 0, n_unstarted = 0;
    int64_t tokens = 0;
    const char *fault = check_list(j, &j->waiting, 0, &n, &n_unstarted, &tokens);
    for (int i = 0; i < j->n_peers && fault == NULL; i++)
        fault = check_list(j, &j->peers[i].entries, j->peers[i].peer, &n, &n_unstarted, &tokens);
    if (fault == NULL && (n != j->stats.n_entries || n_unstarted != j->stats.n_unstarted || tokens != j->stats.tokens))
        fault = "counts differ from what is there";
    return fault;
}
