#include "coordinator/gateway/responses.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"

enum { N_BUCKETS = 4096 };

typedef struct stored {
    int32_t owner;
    uint64_t call_id;
    size_t len;
    struct stored *chain, *newer, *older;
    char *body, *conversation; /* NULL while it is computed; conversation: JSON */
    char id[];
} stored;

struct responses {
    pthread_mutex_t lock;
    size_t max_bytes, bytes;
    stored *newest, *oldest;
    stored *buckets[N_BUCKETS];
};

status responses_create(size_t max_bytes, responses **out)
{
    TRY(mem_calloc(1, sizeof(**out), "stored responses", out));
    (*out)->max_bytes = max_bytes;
    pthread_mutex_init(&(*out)->lock, NULL);
    return ST_OK;
}

static stored **place_of(responses *r, int32_t owner, const char *id)
{
    stored **at = &r->buckets[hash_fast(id, strlen(id), (uint64_t)owner) % N_BUCKETS];
    while (*at != NULL && ((*at)->owner != owner || strcmp((*at)->id, id) != 0))
        at = &(*at)->chain;
    return at;
}

static size_t cost_of(const stored *s)
{
    return sizeof(*s) + strlen(s->id) + 1 + s->len + (s->conversation != NULL ? strlen(s->conversation) : 0);
}

static void drop(responses *r, stored **at)
{
    stored *s = *at;
    *at = s->chain;
    *(s->newer != NULL ? &s->newer->older : &r->newest) = s->older;
    *(s->older != NULL ? &s->older->newer : &r->oldest) = s->newer;
    r->bytes -= cost_of(s);
    free(s->body);
    free(s->conversation);
    free(s);
}

void responses_destroy(responses **responses_)
{
    responses *r = *responses_;
    if (r == NULL)
        return;
    while (r->oldest != NULL)
        drop(r, place_of(r, r->oldest->owner, r->oldest->id));
    pthread_mutex_destroy(&r->lock);
    free(r);
    *responses_ = NULL;
}

/* Takes s. */
static void insert(responses *r, stored *s)
{
    pthread_mutex_lock(&r->lock);
    stored **at = place_of(r, s->owner, s->id);
    if (*at != NULL)
        drop(r, at);
    at = place_of(r, s->owner, s->id);
    s->chain = *at;
    *at = s;
    s->older = r->newest;
    *(r->newest != NULL ? &r->newest->newer : &r->oldest) = s;
    r->newest = s;
    r->bytes += cost_of(s);
    while (r->bytes > r->max_bytes && r->oldest != NULL)
        drop(r, place_of(r, r->oldest->owner, r->oldest->id));
    pthread_mutex_unlock(&r->lock);
}

static stored *make(int32_t owner, const char *id)
{
    size_t n = strlen(id) + 1;
    stored *s = calloc(1, sizeof(*s) + n);
    if (s == NULL)
        return NULL; /* it is only not kept */
    memcpy(s->id, id, n);
    s->owner = owner;
    return s;
}

void responses_begin(responses *r, int32_t owner, const char *id, uint64_t call_id)
{
    stored *s = make(owner, id);
    if (s == NULL)
        return;
    s->call_id = call_id;
    insert(r, s);
}

void responses_put(responses *r, int32_t owner, const char *id, const char *body, size_t len, const json_t *conversation)
{
    stored *s = make(owner, id);
    if (s == NULL)
        return;
    s->body = malloc(len > 0 ? len : 1);
    s->conversation = json_line(conversation);
    if (s->body == NULL || s->conversation == NULL) {
        free(s->body);
        free(s->conversation);
        free(s);
        return;
    }
    memcpy(s->body, body, len);
    s->len = len;
    insert(r, s);
}

bool responses_get(responses *r, int32_t owner, const char *id, mem_str *body, uint64_t *call_id)
{
    pthread_mutex_lock(&r->lock);
    const stored *s = *place_of(r, owner, id);
    if (s != NULL)
        *call_id = s->call_id;
    if (s != NULL && s->body != NULL && body != NULL)
        mem_str_append(body, s->body, s->len);
    pthread_mutex_unlock(&r->lock);
    return s != NULL;
}

json_t *responses_conversation(responses *r, int32_t owner, const char *id)
{
    json_t *out = NULL;
    pthread_mutex_lock(&r->lock);
    const stored *s = *place_of(r, owner, id);
    if (s != NULL && s->conversation != NULL)
        out = json_loads(s->conversation, 0, NULL);
    pthread_mutex_unlock(&r->lock);
    return out;
}

void responses_remove(responses *r, int32_t owner, const char *id)
{
    pthread_mutex_lock(&r->lock);
    stored **at = place_of(r, owner, id);
    if (*at != NULL)
        drop(r, at);
    pthread_mutex_unlock(&r->lock);
}
