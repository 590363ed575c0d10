/* coordinator/sched_prefix.c - the prefix cache: full KV blocks found again by what they hold.
 *
 * What a block holds is settled by every token up to its end, the checkpoint and adapter, the rope set, and (where kernels differ between them) which
 * tokens were generated.  Its key is a SHA-256 chain over exactly these, started from the options' seed and the request's salt, so that a
 * block is found only behind its own prefix, and never by another tenant:
 *   root    = H(name, seed, rope set, salt's length, salt)
 *   key[i]  = H(key[i - 1] or root, class, tokens of block i)
 * The tokens are compared as well on a hit.
 *
 * A block can be found as soon as the step that fills it is built: ranks apply steps in order, and inside a step a layer writes all keys and values
 * before it reads any.  A hit never reaches a sequence's last token, and blocks are shared whole, so nobody writes into a shared one.
 *
 * A group with a window needs only the blocks that the first computed token still sees; those before it are named by any block.  The
 * hit is the longest that all groups can serve. */
#include "coordinator/sched_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static size_t power_above(size_t n)
{
    size_t p = 16;
    while (p < n)
        p *= 2;
    return p;
}

status sched_prefix_create(coord_sched *s)
{
    TRY(hash_sha256_create(&s->hash));
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_pool *p = &s->pools[g];
        p->n_buckets = power_above((size_t)p->n_blocks);
        TRY(mem_calloc((size_t)p->n_blocks * (size_t)s->opt.block_tokens, sizeof(int32_t), "prefix cache", &p->tokens));
        TRY(mem_calloc(p->n_buckets, sizeof(int32_t), "prefix cache", &p->buckets));
        memset(p->buckets, 0xff, p->n_buckets * sizeof(int32_t));
    }
    return ST_OK;
}

/* ---- keys ---- */

static bool caches(const coord_sched *s, const seq *q)
{
    return s->hash != NULL && !q->request.no_prefix_cache;
}

void sched_prefix_root(coord_sched *s, seq *q, const coord_request *r)
{
    static const char name[] = "trireme prefix 1";
    if (!caches(s, q))
        return;
    uint64_t salt = r->n_cache_salt;
    hash_sha256_update(s->hash, name, sizeof(name));
    hash_sha256_update(s->hash, s->opt.prefix_seed, sizeof(s->opt.prefix_seed));
    hash_sha256_update(s->hash, &r->rope_set, sizeof(r->rope_set));
    hash_sha256_update(s->hash, &salt, sizeof(salt));
    hash_sha256_update(s->hash, r->cache_salt, r->n_cache_salt);
    hash_sha256_final(s->hash, q->root.bytes);
}

/* Tokens of block i that belong to the prompt, where that makes a difference. */
static int32_t block_class(const coord_sched *s, const seq *q, int32_t i)
{
    int32_t in_prompt = q->request.n_prompt - i * s->opt.block_tokens;
    if (!s->opt.token_classes || in_prompt > s->opt.block_tokens)
        return s->opt.block_tokens;
    return in_prompt < 0 ? 0 : in_prompt;
}

/* Key of q's full block i; NULL: out of memory. */
static const prefix_key *key_of(coord_sched *s, seq *q, int32_t i)
{
    if (i >= q->cap_keys) {
        int32_t cap = sched_blocks_for(s, q->n_tokens) + 8;
        cap = cap > i ? cap : i + 1;
        prefix_key *p = realloc(q->keys, (size_t)cap * sizeof(*p));
        if (p == NULL)
            return NULL;
        q->keys = p;
        q->cap_keys = cap;
    }
    for (; q->n_keys <= i; q->n_keys++) {
        int32_t class = block_class(s, q, q->n_keys);
        hash_sha256_update(s->hash, q->n_keys > 0 ? &q->keys[q->n_keys - 1] : &q->root, sizeof(prefix_key));
        hash_sha256_update(s->hash, &class, sizeof(class));
        hash_sha256_update(s->hash, q->tokens + (size_t)q->n_keys * (size_t)s->opt.block_tokens, (size_t)s->opt.block_tokens * sizeof(int32_t));
        hash_sha256_final(s->hash, q->keys[q->n_keys].bytes);
    }
    return &q->keys[i];
}

/* ---- the table of a group ---- */

static int32_t *bucket_of(const block_pool *p, const prefix_key *key)
{
    uint64_t h;
    memcpy(&h, key->bytes, sizeof(h));
    return &p->buckets[h & (p->n_buckets - 1)];
}

static int32_t *tokens_of(const coord_sched *s, const block_pool *p, int32_t id)
{
    return p->tokens + (size_t)id * (size_t)s->opt.block_tokens;
}

int32_t sched_prefix_lookup(const coord_sched *s, int g, const prefix_key *key, const int32_t *tokens)
{
    const block_pool *p = &s->pools[g];
    for (int32_t id = *bucket_of(p, key); id >= 0; id = p->blocks[id].chain) {
        if (memcmp(&p->blocks[id].key, key, sizeof(*key)) == 0 &&
            memcmp(tokens_of(s, p, id), tokens, (size_t)s->opt.block_tokens * sizeof(int32_t)) == 0)
            return id;
    }
    return -1;
}

static void insert(coord_sched *s, int g, int32_t id, const prefix_key *key, const int32_t *tokens)
{
    block_pool *p = &s->pools[g];
    block *b = &p->blocks[id];
    if (b->cached || b->refs != 1)
        sched_broken(s, "a block is published that others hold");
    int32_t *bucket = bucket_of(p, key);
    b->key = *key;
    b->chain = *bucket;
    b->cached = true;
    *bucket = id;
    memcpy(tokens_of(s, p, id), tokens, (size_t)s->opt.block_tokens * sizeof(int32_t));
    p->n_cached++;
}

void sched_prefix_evict(coord_sched *s, int g, int32_t id)
{
    block_pool *p = &s->pools[g];
    int32_t *at = bucket_of(p, &p->blocks[id].key);
    while (*at != id)
        at = &p->blocks[*at].chain;
    *at = p->blocks[id].chain;
    p->blocks[id].cached = false;
    p->n_cached--;
}

/* ---- finding ---- */

/* Blocks of q that a hit may cover: its last token is always computed, and so are those whose logits or hidden state are still wanted. */
static int32_t most_blocks(const coord_sched *s, const seq *q)
{
    const coord_request *r = &q->request;
    int32_t most = q->n_tokens - 1;
    if (!caches(s, q) || r->pooling == STEP_POOL_MEAN)
        return 0;
    if (r->sampling.n_prompt_logprobs >= 0 && q->prompt_logprobs_done < r->n_prompt - 1)
        most = q->prompt_logprobs_done;
    return most / s->opt.block_tokens;
}

/* The first of blocks [from, end) that group g does not have; the others' ids go into the table. */
static int32_t first_absent(coord_sched *s, seq *q, int g, int32_t from, int32_t end)
{
    for (int32_t i = from; i < end; i++) {
        const int32_t *tokens = q->tokens + (size_t)i * (size_t)s->opt.block_tokens;
        const prefix_key *key = key_of(s, q, i);
        int32_t id = key == NULL ? -1 : sched_prefix_lookup(s, g, key, tokens);
        if (id < 0)
            return i;
        q->tables[g].blocks[i] = id;
    }
    return end;
}

/* If block i is absent and needed for a hit of n blocks, then it is needed for every hit of i + 1 to n: the next to try is i. */
int32_t sched_prefix_find(coord_sched *s, seq *q)
{
    int32_t n = most_blocks(s, q);
    if (n == 0 || !sched_tables_reserve(s, q, n * s->opt.block_tokens))
        return 0;
    for (int g = 0; g < s->opt.n_kv_groups; g++) { /* the full ones first: what they have, they have for all shorter hits too */
        if (s->opt.window[g] == 0)
            n = first_absent(s, q, g, 0, n);
    }
    for (int32_t before = n + 1; n < before;) {
        before = n;
        for (int g = 0; g < s->opt.n_kv_groups; g++) {
            if (s->opt.window[g] > 0)
                n = first_absent(s, q, g, sched_first_visible(s, g, n * s->opt.block_tokens), n);
        }
    }
    return n;
}

int32_t sched_prefix_needs(const coord_sched *s, const seq *q, int g, int32_t n_blocks, int32_t *n_free)
{
    int32_t first = sched_first_visible(s, g, n_blocks * s->opt.block_tokens);
    *n_free = 0;
    for (int32_t i = first; i < n_blocks; i++)
        *n_free += s->pools[g].blocks[q->tables[g].blocks[i]].at == BLOCK_FREE;
    return n_blocks - first;
}

void sched_prefix_take(coord_sched *s, seq *q, int32_t n_blocks)
{
    for (int g = 0; g < s->opt.n_kv_groups; g++) {
        block_table *t = &q->tables[g];
        int32_t first = sched_first_visible(s, g, n_blocks * s->opt.block_tokens);
        for (int32_t i = 0; i < first; i++)
            t->blocks[i] = 0; /* beyond the window: never read */
        for (int32_t i = first; i < n_blocks; i++)
            sched_block_share(s, g, t->blocks[i]);
        t->first = first;
        t->n = n_blocks;
    }
    q->n_computed = n_blocks * s->opt.block_tokens;
    q->n_published = n_blocks;
}

void sched_prefix_publish(coord_sched *s, seq *q)
{
    if (!caches(s, q))
        return;
    for (; q->n_published < q->n_computed / s->opt.block_tokens; q->n_published++) {
        int32_t i = q->n_published;
        const int32_t *tokens = q->tokens + (size_t)i * (size_t)s->opt.block_tokens;
        const prefix_key *key = key_of(s, q, i);
        for (int g = 0; key != NULL && g < s->opt.n_kv_groups; g++) {
            if (sched_prefix_lookup(s, g, key, tokens) < 0) /* computed twice at once: the first one's is kept */
                insert(s, g, q->tables[g].blocks[i], key, tokens);
        }
    }
}
