/* tests/gateway/sim_journal.c - the journal against replicas that die, repeat themselves and refuse: many requests from a seed.
 *
 *   sim_journal [REQUESTS [SEED]]
 *
 * Replicas here are queues of messages with tokens that depend on the request and on the numerics id alone.  They die with messages under way
 * (some of which still arrive first), repeat messages, ask for a retry, leave one out.  What users see is compared with what one undisturbed replica
 * would have said: every request that is not cancelled ends once, with each token once and in order; a cancelled one gets nothing more; and what is
 * submitted again holds exactly what was taken, and goes to equal numerics only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "coordinator/gateway/journal.h"

enum { USERS = 512, REPLICAS = 6, MAX_JOBS = 256, MAX_MESSAGES = 4096 };

typedef struct user {
    bool alive, cancelled;
    uint64_t number;
    int32_t n_prompt, max_tokens, n_seen, n_prompt_seen;
    bool want_prompt, left_out; /* left_out: a replica kept a token of it back */
    uint32_t numerics; /* of its first token */
    gateway_entry *entry;
} user;

typedef struct job { /* a request as its replica knows it */
    uint64_t id, number;
    int32_t next, max_tokens, n_prompt, next_prompt;
} job;

typedef struct message {
    enum { TOKEN, RETRY } kind;
    gateway_token token;
    bool last;
} message;

typedef struct replica {
    uint64_t peer; /* 0: down */
    uint32_t numerics;
    job jobs[MAX_JOBS];
    int n_jobs;
    message messages[MAX_MESSAGES];
    int first, n;
} replica;

typedef struct sim {
    uint64_t seed, n_submitted, n_ended, n_cancelled, n_deaths, n_tokens, n_failed, next_peer;
    double now;
    gateway_journal *journal;
    user users[USERS];
    replica replicas[REPLICAS];
    int32_t prompt[64];
    bool gaps;
    const char *fault;
} sim;

static uint64_t next_u64(sim *s)
{
    return hash_mix(s->seed += 0x9e3779b97f4a7c15u);
}

static int32_t between(sim *s, int32_t low, int32_t high)
{
    return low + (int32_t)(next_u64(s) % (uint64_t)(high - low + 1));
}

static bool one_in(sim *s, int n)
{
    return next_u64(s) % (uint64_t)n == 0;
}

static void fault(sim *s, const char *what)
{
    if (s->fault == NULL)
        s->fault = what;
}

static int32_t token_of(uint64_t number, uint32_t numerics, int32_t i)
{
    return (int32_t)(hash_mix(number * 1000003 + (uint64_t)numerics * 7919 + (uint64_t)i) % 50000);
}

static uint64_t hash_of(uint64_t number, uint32_t numerics, int32_t i)
{
    return i < 0 ? 0 : hash_mix(number ^ (uint64_t)numerics << 40 ^ (uint64_t)i << 20);
}

static void user_end(sim *s, user *u)
{
    gateway_journal_end(s->journal, &u->entry);
    u->alive = false;
    s->n_ended++;
}

static void submit(sim *s)
{
    user *u = &s->users[s->n_submitted % USERS];
    if (u->alive)
        return;
    *u = (user){.alive = true, .number = ++s->n_submitted, .n_prompt = between(s, 1, 64), .max_tokens = between(s, 1, 40), .want_prompt = one_in(s, 10)};
    gateway_promise p = {.owner = u, .model = s, .prompt = s->prompt, .n_prompt = u->n_prompt};
    if (gateway_journal_add(s->journal, &p, s->now, &u->entry) != ST_OK)
        fault(s, "no memory");
}

/* ---- replicas ---- */

static void say(sim *s, replica *r, message m)
{
    if (r->n == MAX_MESSAGES)
        return fault(s, "the simulation's queue is too short");
    r->messages[(r->first + r->n++) % MAX_MESSAGES] = m;
}

static void replica_step(sim *s, replica *r)
{
    for (int i = 0; i < r->n_jobs; i++) {
        job *k = &r->jobs[i];
        message m = {TOKEN, {.id = k->id}, false};
        if (one_in(s, 300)) { /* too busy, say */
            say(s, r, (message){RETRY, {.id = k->id}, true});
            r->jobs[i--] = r->jobs[--r->n_jobs];
            continue;
        }
        if (k->next_prompt > 0 && k->next_prompt < k->n_prompt) {
            m.token.prompt = true;
            m.token.index = k->next_prompt++;
        } else {
            m.token.index = k->next;
            m.token.token = token_of(k->number, r->numerics, k->next);
            m.token.hash = hash_of(k->number, r->numerics, k->next);
            m.last = ++k->next >= k->max_tokens;
        }
        if (s->gaps && one_in(s, 500))
            s->users[(k->number - 1) % USERS].left_out = true;
        else
            say(s, r, m);
        if (one_in(s, 20))
            say(s, r, m);
        if (m.last)
            r->jobs[i--] = r->jobs[--r->n_jobs];
    }
}

static void accept_job(sim *s, replica *r, const user *u)
{
    const gateway_entry *e = u->entry;
    for (int32_t i = 0; i < e->n_tokens; i++)
        if (e->tokens[i] != token_of(u->number, r->numerics, i))
            fault(s, "a replay holds other tokens than were taken");
    if (e->n_tokens > 0 && e->hash != hash_of(u->number, r->numerics, e->n_tokens - 1))
        fault(s, "a replay holds another hash");
    if (e->n_tokens != u->n_seen)
        fault(s, "a replay begins where the user is not");
    r->jobs[r->n_jobs++] = (job){e->id, u->number, e->n_tokens, u->max_tokens, e->n_prompt, u->want_prompt && e->n_tokens == 0 ? 1 : 0};
}

static void dispatch(sim *s)
{
    for (gateway_entry *e = gateway_journal_waiting(s->journal), *next; e != NULL; e = next) {
        next = e->next;
        user *u = e->owner;
        int at = between(s, 0, REPLICAS - 1);
        for (int i = 0; i < REPLICAS; i++) {
            replica *r = &s->replicas[(at + i) % REPLICAS];
            if (r->peer == 0 || r->n_jobs == MAX_JOBS || (e->numerics != 0 && e->numerics != r->numerics))
                continue;
            if (gateway_journal_sent(s->journal, e, r->peer, r->numerics) != ST_OK)
                fault(s, "no memory");
            accept_job(s, r, u);
            break;
        }
    }
}

/* ---- what the gateway does with a message ---- */

static void cancel_job(replica *r, uint64_t id)
{
    for (int i = 0; i < r->n_jobs; i++)
        if (r->jobs[i].id == id)
            r->jobs[i--] = r->jobs[--r->n_jobs];
}

static void hand_on(sim *s, user *u, const message *m)
{
    if (!u->alive || u->cancelled)
        return fault(s, "a token for one who left");
    if (m->token.prompt) {
        if (m->token.index != ++u->n_prompt_seen)
            fault(s, "prompt tokens out of order");
        return;
    }
    if (u->n_seen == 0)
        u->numerics = u->entry->numerics;
    if (m->token.index != u->n_seen || m->token.token != token_of(u->number, u->numerics, u->n_seen))
        fault(s, "not the token that an undisturbed replica would have said");
    if (u->want_prompt && !u->left_out && u->n_prompt_seen != u->n_prompt - 1)
        fault(s, "prompt tokens are missing");
    u->n_seen++;
    s->n_tokens++;
    if (m->last && u->n_seen != u->max_tokens)
        fault(s, "ended too early");
    if (m->last)
        user_end(s, u);
}

static void receive(sim *s, replica *r)
{
    message m = r->messages[r->first];
    r->first = (r->first + 1) % MAX_MESSAGES;
    r->n--;
    gateway_verdict v;
    gateway_entry *e = NULL;
    if (m.kind == RETRY) {
        e = gateway_journal_find(s->journal, m.token.id);
        if (e != NULL && e->peer == r->peer)
            gateway_journal_retry(s->journal, e, one_in(s, 2), s->now);
        return;
    }
    if (gateway_journal_token(s->journal, r->peer, &m.token, &v, &e) != ST_OK)
        return fault(s, "no memory");
    if (v == GATEWAY_TAKE)
        hand_on(s, e->owner, &m);
    if (v == GATEWAY_GAP) {
        if (!((user *)e->owner)->left_out)
            fault(s, "a gap where nothing was left out");
        cancel_job(r, m.token.id);
        s->n_failed++;
        user_end(s, e->owner);
    }
}

static void cancel(sim *s)
{
    user *u = &s->users[between(s, 0, USERS - 1)];
    if (!u->alive)
        return;
    for (int i = 0; i < REPLICAS; i++) /* a replica hears of it; what it said before is under way */
        if (s->replicas[i].peer == u->entry->peer && one_in(s, 2))
            cancel_job(&s->replicas[i], u->entry->id);
    u->cancelled = true;
    s->n_cancelled++;
    user_end(s, u);
}

static void die(sim *s, replica *r)
{
    for (int arrives = one_in(s, 2) ? between(s, 0, r->n) : 0; arrives > 0; arrives--)
        receive(s, r);
    int32_t load = gateway_journal_peer_load(s->journal, r->peer);
    if (gateway_journal_gone(s->journal, r->peer, s->now) != load)
        fault(s, "not all entries of the dead wait again");
    *r = (replica){.numerics = r->numerics};
    s->n_deaths++;
}

static void advance(sim *s)
{
    s->now += 0.01;
    for (int i = 0; i < REPLICAS; i++) {
        replica *r = &s->replicas[i];
        if (r->peer == 0 && one_in(s, 20))
            r->peer = ++s->next_peer;
        if (r->peer != 0)
            replica_step(s, r);
        for (int n = between(s, 0, r->n); n > 0; n--)
            receive(s, r);
        if (r->peer != 0 && one_in(s, 100))
            die(s, r);
    }
    if (one_in(s, 2))
        cancel(s);
    gateway_give_up why;
    gateway_entry *e;
    while ((e = gateway_journal_expired(s->journal, s->now, &why)) != NULL) {
        if (why != GATEWAY_ATTEMPTS)
            fault(s, "given up too soon");
        s->n_failed++;
        user_end(s, e->owner);
    }
    dispatch(s);
    const char *broken = gateway_journal_check(s->journal);
    if (broken != NULL)
        fault(s, broken);
}

int main(int argc, char **argv)
{
    uint64_t requests = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000, seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    static sim s;
    s.seed = seed;
    for (int i = 0; i < REPLICAS; i++)
        s.replicas[i].numerics = i < 4 ? 1 : 2;
    gateway_journal_options o = {.max_attempts = 5, .wait_seconds = 1e9};
    if (gateway_journal_create(&o, &s.journal) != ST_OK)
        return 1;
    while (s.fault == NULL && (s.n_submitted < requests || s.n_ended < s.n_submitted)) {
        s.gaps = s.n_submitted % 5000 > 4500;
        for (int n = between(&s, 0, 8); n > 0 && s.n_submitted < requests; n--)
            submit(&s);
        advance(&s);
    }
    gateway_journal_stats stats;
    gateway_journal_stats_get(s.journal, &stats);
    gateway_journal_destroy(&s.journal);
    if (s.fault == NULL && (stats.n_entries != 0 || stats.tokens != 0 || stats.unstarted_tokens != 0))
        fault(&s, "something is left when all have ended");
    if (s.fault == NULL && s.n_failed * 20 > s.n_submitted)
        fault(&s, "too many were given up");
    if (s.fault != NULL) {
        printf("FAILED after %llu requests, seed %llu: %s\n", (unsigned long long)s.n_submitted, (unsigned long long)seed, s.fault);
        return 1;
    }
    printf("%llu requests (%llu cancelled, %llu failed), %llu tokens, %llu deaths, %llu replays, %llu duplicates dropped: every token once\n",
           (unsigned long long)s.n_ended, (unsigned long long)s.n_cancelled, (unsigned long long)s.n_failed, (unsigned long long)s.n_tokens,
           (unsigned long long)s.n_deaths, (unsigned long long)stats.n_replays, (unsigned long long)stats.n_duplicates);
    return stats.n_replays > 0 && stats.n_duplicates > 0 ? 0 : 1;
}
