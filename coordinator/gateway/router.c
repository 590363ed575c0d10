#include "coordinator/gateway/router.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

size_t gateway_prefix_count(size_t n_tokens, int32_t block_tokens)
{
    return n_tokens == 0 || block_tokens <= 0 ? 0 : (n_tokens - 1) / (size_t)block_tokens;
}

size_t gateway_prefix_hash(const int32_t *tokens, size_t n_tokens, int32_t block_tokens, const void *salt, size_t salt_len, uint64_t *out, size_t cap)
{
    size_t n = gateway_prefix_count(n_tokens, block_tokens);
    n = n < cap ? n : cap;
    uint64_t h = hash_fast(salt, salt_len, (uint64_t)salt_len);
    for (size_t i = 0; i < n; i++)
        out[i] = h = hash_fast(tokens + i * (size_t)block_tokens, (size_t)block_tokens * sizeof(*tokens), h);
    return n;
}

/* A hash table whose nodes also form a ring by last use; node 0 is the ring's head. */
typedef struct prefix_node {
    uint64_t hash;
    uint32_t chain;       /* next in the bucket; 0 ends */
    uint32_t newer, older;
} prefix_node;

struct gateway_prefixes {
    size_t capacity, used, n_buckets;
    prefix_node *nodes; /* [capacity + 1] */
    uint32_t *buckets;
};

status gateway_prefixes_create(size_t capacity, gateway_prefixes **out)
{
    gateway_prefixes *p;
    status st;
    if (capacity == 0 || capacity > UINT32_MAX / 2)
        return FAIL(ST_INVALID, "prefixes: a capacity of %zu", capacity);
    TRY(mem_calloc(1, sizeof(*p), "prefixes", &p));
    p->capacity = capacity;
    p->n_buckets = 16;
    while (p->n_buckets < capacity)
        p->n_buckets *= 2;
    TRY_GOTO(mem_calloc(capacity + 1, sizeof(*p->nodes), "prefixes", &p->nodes), failed);
    TRY_GOTO(mem_calloc(p->n_buckets, sizeof(*p->buckets), "prefixes", &p->buckets), failed);
    *out = p;
    return ST_OK;
failed:
    gateway_prefixes_destroy(&p);
    return st;
}

void gateway_prefixes_destroy(gateway_prefixes **p)
{
    if (*p == NULL)
        return;
    free((*p)->nodes);
    free((*p)->buckets);
    free(*p);
    *p = NULL;
}

static uint32_t *bucket_of(const gateway_prefixes *p, uint64_t hash)
{
    return &p->buckets[hash & (p->n_buckets - 1)];
}

static uint32_t find(const gateway_prefixes *p, uint64_t hash)
{
    uint32_t i = *bucket_of(p, hash);
    while (i != 0 && p->nodes[i].hash != hash)
        i = p->nodes[i].chain;
    return i;
}

static void ring_remove(gateway_prefixes *p, uint32_t i)
{
    prefix_node *n = &p->nodes[i];
    p->nodes[n->newer].older = n->older;
    p->nodes[n->older].newer = n->newer;
}

static void ring_insert_newest(gateway_prefixes *p, uint32_t i)
{
    prefix_node *n = &p->nodes[i], *head = &p->nodes[0];
    n->newer = 0;
    n->older = head->older; /* the head's "older" is the newest, its "newer" the oldest */
    p->nodes[head->older].newer = i;
    head->older = i;
}

static uint32_t node_take(gateway_prefixes *p)
{
    if (p->used < p->capacity)
        return (uint32_t)++p->used;
    uint32_t i = p->nodes[0].newer;
    uint32_t *at = bucket_of(p, p->nodes[i].hash);
    while (*at != i)
        at = &p->nodes[*at].chain;
    *at = p->nodes[i].chain;
    ring_remove(p, i);
    return i;
}

static void add_one(gateway_prefixes *p, uint64_t hash)
{
    uint32_t i = find(p, hash);
    if (i != 0) {
        ring_remove(p, i);
    } else {
        i = node_take(p);
        uint32_t *b = bucket_of(p, hash);
        p->nodes[i].hash = hash;
        p->nodes[i].chain = *b;
        *b = i;
    }
    ring_insert_newest(p, i);
}

size_t gateway_prefixes_match(const gateway_prefixes *p, const uint64_t *hashes, size_t n)
{
    size_t i = 0;
    while (i < n && find(p, hashes[i]) != 0)
        i++;
    return i;
}

void gateway_prefixes_add(gateway_prefixes *p, const uint64_t *hashes, size_t n)
{
    n = n < p->capacity ? n : p->capacity;
    for (size_t i = n; i-- > 0;)
        add_one(p, hashes[i]);
}

size_t gateway_prefixes_used(const gateway_prefixes *p)
{
    return p->used;
}

static int64_t price_of(const gateway_candidate *c, int32_t n_tokens)
{
    int64_t queued = c->n_requests + 1 > c->max_num_seqs ? c->n_requests + 1 - c->max_num_seqs : 0;
    return (int64_t)n_tokens - c->cached_tokens + (int64_t)c->n_requests * GATEWAY_REQUEST_TOKENS + queued * GATEWAY_QUEUED_TOKENS;
}

int gateway_route(const gateway_candidate *candidates, int n, int32_t n_tokens)
{
    int best = -1;
    for (int i = 0; i < n; i++) {
        int64_t mine = price_of(&candidates[i], n_tokens), least = best < 0 ? INT64_MAX : price_of(&candidates[best], n_tokens);
        if (mine < least || (mine == least && candidates[i].kv_used < candidates[best].kv_used))
            best = i;
    }
    return best;
}
