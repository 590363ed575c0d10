#include "coordinator/gateway/limits.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/mem.h"

/* What is in a bucket at a time; it refills from there. */
typedef struct bucket {
    double level;
    uint64_t at_ns;
    int64_t rate; /* a minute; 0: unlimited, or never used */
} bucket;

typedef struct state {
    bucket requests, tokens;
    int32_t running;
} state;

struct limits {
    pthread_mutex_t lock;
    state *states; /* by key number */
    int32_t n;
};

status limits_create(limits **out)
{
    TRY(mem_calloc(1, sizeof(**out), "rate limits", out));
    pthread_mutex_init(&(*out)->lock, NULL);
    return ST_OK;
}

void limits_destroy(limits **l)
{
    if (*l == NULL)
        return;
    pthread_mutex_destroy(&(*l)->lock);
    free((*l)->states);
    free(*l);
    *l = NULL;
}

static state *state_of(limits *l, int32_t number)
{
    if (number < 0)
        return NULL;
    if (number >= l->n) {
        state *grown = realloc(l->states, ((size_t)number + 16) * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        for (int32_t i = l->n; i < number + 16; i++)
            grown[i] = (state){0};
        l->states = grown;
        l->n = number + 16;
    }
    return &l->states[number];
}

/* Brings a bucket to now; a new or changed rate starts full, or keeps its debt. */
static void refill(bucket *b, int64_t rate, uint64_t now)
{
    if (b->rate != rate) {
        double debt = b->level < 0 && b->rate > 0 ? b->level : 0;
        *b = (bucket){.level = (double)rate + debt, .at_ns = now, .rate = rate};
        return;
    }
    if (now > b->at_ns) {
        b->level += (double)rate * (double)(now - b->at_ns) / 60e9;
        b->at_ns = now;
    }
    if (b->level > (double)rate)
        b->level = (double)rate;
}

/* Whole seconds until the bucket holds `want`. */
static int wait_s(const bucket *b, double want)
{
    double s = (want - b->level) * 60 / (double)b->rate;
    return s >= 86400 ? 86400 : s <= 1 ? 1 : (int)s + ((double)(int)s < s);
}

limits_verdict limits_admit(limits *l, const auth_key *key, uint64_t now, int *retry_after_s)
{
    const auth_limits *a = &key->limits;
    limits_verdict v = LIMITS_OK;
    *retry_after_s = 0;
    pthread_mutex_lock(&l->lock);
    state *s = state_of(l, key->number);
    if (s == NULL) { /* out of memory: nothing to count with */
        pthread_mutex_unlock(&l->lock);
        *retry_after_s = 1;
        return LIMITS_CONCURRENT;
    }
    refill(&s->requests, a->requests_per_min, now);
    refill(&s->tokens, a->tokens_per_min, now);
    if (a->max_concurrent > 0 && s->running >= a->max_concurrent) {
        v = LIMITS_CONCURRENT;
        *retry_after_s = 1;
    } else if (a->requests_per_min > 0 && s->requests.level < 1) {
        v = LIMITS_REQUESTS;
        *retry_after_s = wait_s(&s->requests, 1);
    } else if (a->tokens_per_min > 0 && s->tokens.level <= 0) {
        v = LIMITS_TOKENS;
        *retry_after_s = wait_s(&s->tokens, 1);
    }
    if (v == LIMITS_OK) {
        s->running++;
        s->requests.level -= 1;
    }
    pthread_mutex_unlock(&l->lock);
    return v;
}

void limits_release(limits *l, int32_t number)
{
    pthread_mutex_lock(&l->lock);
    state *s = state_of(l, number);
    if (s != NULL && s->running > 0)
        s->running--;
    pthread_mutex_unlock(&l->lock);
}

void limits_charge(limits *l, int32_t number, int64_t n_tokens, uint64_t now)
{
    pthread_mutex_lock(&l->lock);
    state *s = state_of(l, number);
    if (s != NULL && s->tokens.rate > 0) {
        refill(&s->tokens, s->tokens.rate, now);
        s->tokens.level -= (double)n_tokens;
    }
    pthread_mutex_unlock(&l->lock);
}

const char *limits_text(limits_verdict v)
{
    static const char *const texts[] = {"", "requests per minute", "tokens per minute", "requests at once"};
    return texts[v];
}

void limits_state_get(limits *l, const auth_key *key, uint64_t now, limits_state *out)
{
    *out = (limits_state){.requests_left = -1, .tokens_left = -1};
    pthread_mutex_lock(&l->lock);
    state *s = state_of(l, key->number);
    if (s != NULL) {
        refill(&s->requests, key->limits.requests_per_min, now);
        refill(&s->tokens, key->limits.tokens_per_min, now);
        if (key->limits.requests_per_min > 0)
            out->requests_left = s->requests.level > 0 ? (int64_t)s->requests.level : 0;
        if (key->limits.tokens_per_min > 0)
            out->tokens_left = s->tokens.level > 0 ? (int64_t)s->tokens.level : 0;
        out->running = s->running;
    }
    pthread_mutex_unlock(&l->lock);
}
