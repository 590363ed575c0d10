#include "coordinator/gateway/registry.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    CHUNKS_AHEAD = 4,       /* asked for and not yet come */
    MAX_ASSETS = 256,       /* files of one checkpoint */
    MAX_IDLE_TEXTS = 8,     /* kept without a replica */
    MAX_SERVED = 256,       /* names and checkpoints known in this process's life */
    MAX_NUMERICS = 4096
};

typedef struct asset {
    char *name;
    uint8_t sha256[HASH_SHA256_BYTES];
    uint8_t *data;
    size_t len, cap, received, asked;
} asset;

struct gateway_text {
    uint8_t key[HASH_SHA256_BYTES]; /* of names and hashes of its files */
    enum { TEXT_FETCHING, TEXT_OPENING, TEXT_READY, TEXT_BROKEN } state;
    asset *assets;
    size_t n_assets, next; /* the asset being fetched */
    wire_peer source;      /* 0: nobody at the moment */
    double heard;
    shard_text *text;
    char *fault;           /* why it is broken */
    int n_replicas;
    _Atomic int refs;      /* the registry's, and each model version's */
    struct gateway_text *following;
};

struct gateway_served {
    char *name, *digest;
    gateway_model *current; /* held; NULL before the first */
    int n_replicas;
    int64_t created;
    struct gateway_served *next;
};

struct gateway_registry {
    gateway_registry_options opt;
    gateway_replica *replicas;
    gateway_text *texts;
    gateway_served *served;
    int n_served;
    char **numerics;
    uint32_t n_numerics;
    pthread_mutex_t lock; /* of `served` and each current, for other threads */
};

/* ---- texts ---- */

static void assets_free(gateway_text *t)
{
    for (size_t i = 0; i < t->n_assets; i++) {
        free(t->assets[i].name);
        free(t->assets[i].data);
    }
    free(t->assets);
    t->assets = NULL;
    t->n_assets = 0;
}

static void text_release(gateway_text **text)
{
    gateway_text *t = *text;
    *text = NULL;
    if (t == NULL || atomic_fetch_sub(&t->refs, 1) > 1)
        return;
    assets_free(t);
    shard_text_destroy(&t->text);
    free(t->fault);
    free(t);
}

static status key_of(const Trireme__Hello *h, uint8_t key[HASH_SHA256_BYTES])
{
    hash_sha256 *sha;
    TRY(hash_sha256_create(&sha));
    for (size_t i = 0; i < h->n_assets; i++) {
        const Trireme__AssetName *a = h->assets[i];
        hash_sha256_update(sha, a->name, strlen(a->name) + 1);
        hash_sha256_update(sha, a->sha256.data, a->sha256.len);
        hash_sha256_update(sha, &a->bytes, sizeof(a->bytes));
    }
    hash_sha256_final(sha, key);
    hash_sha256_destroy(&sha);
    return ST_OK;
}

static status text_create(const gateway_registry *r, const Trireme__Hello *h, const uint8_t key[HASH_SHA256_BYTES], gateway_text **out)
{
    gateway_text *t;
    uint64_t total = 0;
    TRY(mem_calloc(1, sizeof(*t), "a checkpoint's text", &t));
    atomic_init(&t->refs, 1);
    memcpy(t->key, key, HASH_SHA256_BYTES);
    t->assets = calloc(h->n_assets > 0 ? h->n_assets : 1, sizeof(*t->assets));
    bool whole = t->assets != NULL;
    for (size_t i = 0; i < h->n_assets && whole; i++) {
        asset *a = &t->assets[t->n_assets++];
        a->name = strdup(h->assets[i]->name);
        a->len = h->assets[i]->bytes;
        memcpy(a->sha256, h->assets[i]->sha256.data, HASH_SHA256_BYTES);
        total += a->len;
        whole = a->name != NULL && total <= r->opt.max_text_bytes;
    }
    if (whole) {
        *out = t;
        return ST_OK;
    }
    text_release(&t);
    return total > r->opt.max_text_bytes ? FAIL(ST_LIMIT, "its text files are more than the %zu MiB that are allowed", r->opt.max_text_bytes >> 20)
                                         : FAIL(ST_NO_MEMORY, "no memory for a checkpoint's text");
}

void gateway_text_open(gateway_text *t)
{
    shard_text_asset *assets = calloc(t->n_assets > 0 ? t->n_assets : 1, sizeof(*assets));
    status st = ST_NO_MEMORY;
    for (size_t i = 0; assets != NULL && i < t->n_assets; i++)
        assets[i] = (shard_text_asset){.name = t->assets[i].name, .data = t->assets[i].data, .len = t->assets[i].len};
    if (assets != NULL)
        st = shard_text_create(assets, t->n_assets, &t->text);
    if (st != ST_OK)
        t->fault = strdup(assets == NULL ? "out of memory" : status_message());
    free(assets);
}

/* ---- small things ---- */

static wire_peer source_of(const gateway_registry *r, const gateway_text *t)
{
    for (const gateway_replica *p = r->replicas; p != NULL; p = p->next)
        if (p->text == t)
            return p->peer;
    return 0;
}

gateway_replica *gateway_registry_first(const gateway_registry *r)
{
    return r->replicas;
}

gateway_replica *gateway_registry_find(const gateway_registry *r, wire_peer peer)
{
    gateway_replica *p = r->replicas;
    while (p != NULL && p->peer != peer)
        p = p->next;
    return p;
}

bool gateway_served_has_replica(const gateway_served *served)
{
    return served->n_replicas > 0;
}

const char *gateway_served_name(const gateway_served *served)
{
    return served->name;
}

const char *gateway_replica_state(const gateway_replica *r)
{
    return !r->ready ? "joining" : r->unwell ? "stalled" : r->draining ? "draining" : "ready";
}

static uint32_t numerics_of(gateway_registry *r, const char *id)
{
    for (uint32_t i = 0; i < r->n_numerics; i++)
        if (strcmp(r->numerics[i], id) == 0)
            return i + 1;
    if (r->n_numerics >= MAX_NUMERICS)
        return 0;
    char **grown = realloc(r->numerics, (r->n_numerics + 1) * sizeof(*grown));
    if (grown == NULL)
        return 0;
    r->numerics = grown;
    grown[r->n_numerics] = strdup(id);
    return grown[r->n_numerics] != NULL ? ++r->n_numerics : 0;
}

/* ---- versions of a model ---- */

void gateway_model_release(gateway_model **model)
{
    gateway_model *m = *model;
    *model = NULL;
    if (m == NULL || atomic_fetch_sub(&m->refs, 1) > 1)
        return;
    text_release(&m->text);
    free(m->name);
    free(m->digest);
    free(m->fingerprint);
    free(m->build);
    free(m->split);
    free(m);
}

static void add_distinct(mem_str *s, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = s->data; at != NULL && *at != '\0';) {
        size_t len = strcspn(at, "+");
        if (len == n && memcmp(at, text, n) == 0)
            return;
        at += len + (at[len] == '+');
    }
    if (s->len > 0)
        mem_str_putc(s, '+');
    mem_str_puts(s, text);
}

static int32_t smaller(int32_t a, int32_t b)
{
    return a == 0 || b < a ? b : a;
}

/* What holds for every replica of the model, so that any of them can take any of its requests. */
static bool gather(const gateway_registry *r, const gateway_served *served, gateway_model *m)
{
    mem_str builds = {0}, splits = {0};
    const char *adapter = "";
    for (const gateway_replica *p = r->replicas; p != NULL; p = p->next) {
        if (p->served != served)
            continue;
        const Trireme__Hello *h = p->hello;
        char split[64];
        snprintf(split, sizeof(split), "tp%dpp%d", h->tp, h->pp);
        add_distinct(&builds, h->version);
        add_distinct(&splits, split);
        adapter = h->adapter;
        m->api.max_model_len = smaller(m->api.max_model_len, h->max_model_len);
        m->api.vocab = smaller(m->api.vocab, h->vocab);
        m->api.embedding_dim = smaller(m->api.embedding_dim, h->embedding_dim);
        m->block_tokens = h->block_tokens;
        m->max_num_seqs += h->max_num_seqs;
        if (m->text == NULL) {
            m->text = p->text;
            atomic_fetch_add(&m->text->refs, 1);
        }
    }
    mem_str print = {0};
    const char *hex = strchr(served->digest, ':'); /* "sha256:..." */
    mem_str_printf(&print, "fp_%.12s%s%s_%s_%s", hex != NULL ? hex + 1 : served->digest, adapter[0] != '\0' ? "_" : "", adapter, builds.data, splits.data);
    for (size_t i = 0; !print.failed && i < print.len; i++)
        print.data[i] = print.data[i] == ' ' ? '-' : print.data[i];
    m->name = strdup(served->name);
    m->digest = strdup(served->digest);
    m->fingerprint = mem_str_take(&print);
    m->build = mem_str_take(&builds);
    m->split = mem_str_take(&splits);
    return m->name != NULL && m->digest != NULL && m->fingerprint != NULL && m->build != NULL && m->split != NULL;
}

/* The replicas of a model have changed: the next requests get a new version.  Without a replica the last one stays. */
static void renew(gateway_registry *r, gateway_served *served)
{
    gateway_model *m = NULL;
    if (served->n_replicas == 0)
        return;
    if (mem_calloc(1, sizeof(*m), "a served model", &m) != ST_OK)
        return;
    atomic_init(&m->refs, 1);
    m->served = served;
    if (!gather(r, served, m)) {
        log_error("no memory for a served model");
        gateway_model_release(&m);
        return;
    }
    m->api.name = m->name;
    m->api.digest = m->digest;
    m->api.fingerprint = m->fingerprint;
    m->api.text = m->text->text;
    m->api.created = served->created;
    m->api.log_text = r->opt.log_text;
    pthread_mutex_lock(&r->lock);
    gateway_model *old = served->current;
    served->current = m;
    pthread_mutex_unlock(&r->lock);
    gateway_model_release(&old);
}

status gateway_registry_model(gateway_registry *r, const char *name, gateway_model **out)
{
    gateway_served *best = NULL;
    int n = 0;
    pthread_mutex_lock(&r->lock);
    for (gateway_served *s = r->served; s != NULL; s = s->next) {
        if (s->current == NULL || (name[0] != '\0' && strcmp(s->name, name) != 0))
            continue;
        n += s->n_replicas > 0;
        if (best == NULL || (best->n_replicas == 0 && s->n_replicas > 0))
            best = s;
    }
    bool any = r->served != NULL;
    if (best != NULL && (name[0] != '\0' || n <= 1)) {
        *out = best->current;
        atomic_fetch_add(&(*out)->refs, 1);
    } else {
        best = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    return best != NULL ? ST_OK : any ? ST_NOT_FOUND : ST_BUSY;
}

size_t gateway_registry_models(gateway_registry *r, gateway_model **out, size_t cap)
{
    size_t n = 0;
    pthread_mutex_lock(&r->lock);
    for (gateway_served *s = r->served; s != NULL && n < cap; s = s->next) {
        if (s->current == NULL || s->n_replicas == 0)
            continue;
        out[n++] = s->current;
        atomic_fetch_add(&s->current->refs, 1);
    }
    pthread_mutex_unlock(&r->lock);
    return n;
}

/* ---- life of a replica ---- */

status gateway_registry_create(const gateway_registry_options *options, gateway_registry **out)
{
    gateway_registry *r;
    TRY(mem_calloc(1, sizeof(*r), "registry", &r));
    r->opt = *options;
    r->opt.max_text_bytes = options->max_text_bytes > 0 ? options->max_text_bytes : (size_t)512 << 20;
    r->opt.fetch_seconds = options->fetch_seconds > 0 ? options->fetch_seconds : 30;
    pthread_mutex_init(&r->lock, NULL);
    *out = r;
    return ST_OK;
}

static void replica_free(gateway_replica *p)
{
    if (p->hello != NULL)
        trireme__hello__free_unpacked(p->hello, NULL);
    if (p->load != NULL)
        trireme__load__free_unpacked(p->load, NULL);
    gateway_prefixes_destroy(&p->prefixes);
    free(p->user);
    free(p->detail);
    free(p);
}

void gateway_registry_destroy(gateway_registry **registry)
{
    gateway_registry *r = *registry;
    if (r == NULL)
        return;
    for (gateway_replica *p = r->replicas, *next; p != NULL; p = next) {
        next = p->next;
        replica_free(p);
    }
    for (gateway_text *t = r->texts, *next; t != NULL; t = next) {
        next = t->following;
        text_release(&t);
    }
    for (gateway_served *s = r->served, *next; s != NULL; s = next) {
        next = s->next;
        gateway_model_release(&s->current);
        free(s->name);
        free(s->digest);
        free(s);
    }
    for (uint32_t i = 0; i < r->n_numerics; i++)
        free(r->numerics[i]);
    free(r->numerics);
    pthread_mutex_destroy(&r->lock);
    free(r);
    *registry = NULL;
}

/* Texts without a replica beyond the few that are kept. */
static void forget_idle_texts(gateway_registry *r)
{
    int n_idle = 0;
    for (gateway_text **at = &r->texts; *at != NULL;) {
        gateway_text *t = *at;
        bool idle = t->n_replicas == 0 && t->state != TEXT_OPENING;
        if (idle && (t->state != TEXT_READY || ++n_idle > MAX_IDLE_TEXTS)) {
            *at = t->following;
            text_release(&t);
        } else {
            at = &t->following;
        }
    }
}

static void ask_chunks(gateway_registry *r, gateway_text *t);

static void forget(gateway_registry *r, gateway_replica *p)
{
    r->opt.left(r->opt.arg, p);
    gateway_replica **at = &r->replicas;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    gateway_text *t = p->text;
    gateway_served *served = p->served;
    if (served != NULL) {
        pthread_mutex_lock(&r->lock);
        served->n_replicas--;
        pthread_mutex_unlock(&r->lock);
        renew(r, served);
    }
    if (t != NULL) {
        t->n_replicas--;
        if (t->source == p->peer) { /* another one goes on where it stopped */
            t->source = source_of(r, t);
            if (t->next < t->n_assets)
                t->assets[t->next].asked = t->assets[t->next].received;
            if (t->source != 0 && t->state == TEXT_FETCHING)
                ask_chunks(r, t);
        }
    }
    replica_free(p);
    forget_idle_texts(r);
}

static void refuse(gateway_registry *r, wire_peer peer, const char *name, const char *why, bool retry)
{
    Trireme__Goodbye bye = TRIREME__GOODBYE__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    bye.reason = (char *)why;
    bye.retry = retry;
    e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e.goodbye = &bye;
    log_warn("replica %s is refused: %s", name, why);
    r->opt.send(r->opt.arg, peer, &e);
    r->opt.drop(r->opt.arg, peer);
}

static void refuse_and_forget(gateway_registry *r, gateway_replica *p, const char *why, bool retry)
{
    refuse(r, p->peer, p->hello->replica, why, retry);
    forget(r, p);
}

void gateway_registry_gone(gateway_registry *r, wire_peer peer, const char *why)
{
    gateway_replica *p = gateway_registry_find(r, peer);
    if (p == NULL)
        return;
    log_warn("replica %s is gone%s%s", p->hello->replica, why[0] != '\0' ? ": " : "", why);
    forget(r, p);
}

/* NULL: room for no more. */
static gateway_served *served_obtain(gateway_registry *r, const Trireme__Hello *h, const char **why)
{
    gateway_served *mine = NULL;
    for (gateway_served *s = r->served; s != NULL; s = s->next) {
        if (strcmp(s->name, h->model) != 0)
            continue;
        if (strcmp(s->digest, h->checkpoint_digest) == 0)
            mine = s;
        else if (s->n_replicas > 0) {
            *why = "another checkpoint is served under this model's name: stop its replicas first, or choose another name";
            return NULL;
        }
    }
    if (mine != NULL)
        return mine;
    *why = "too many models";
    if (r->n_served >= MAX_SERVED || (mine = calloc(1, sizeof(*mine))) == NULL)
        return NULL;
    mine->name = strdup(h->model);
    mine->digest = strdup(h->checkpoint_digest);
    mine->created = (int64_t)time(NULL);
    if (mine->name == NULL || mine->digest == NULL) {
        free(mine->name);
        free(mine->digest);
        free(mine);
        return NULL;
    }
    pthread_mutex_lock(&r->lock);
    mine->next = r->served;
    r->served = mine;
    r->n_served++;
    pthread_mutex_unlock(&r->lock);
    return mine;
}

static void make_ready(gateway_registry *r, gateway_replica *p)
{
    const char *why = NULL;
    gateway_served *served = served_obtain(r, p->hello, &why);
    const shard_text_info *info = shard_text_info_get(p->text->text);
    if (served == NULL) {
        refuse_and_forget(r, p, why, true);
        return;
    }
    if (info->vocab > p->hello->vocab) {
        refuse_and_forget(r, p, "its text names more tokens than it has", false);
        return;
    }
    p->ready = true;
    p->served = served;
    pthread_mutex_lock(&r->lock);
    served->n_replicas++;
    pthread_mutex_unlock(&r->lock);
    renew(r, served);
    log_info("replica %s is ready: model %s, tp %d, pp %d, %d sequences, %lld KV blocks", p->hello->replica, served->name, p->hello->tp, p->hello->pp,
             p->hello->max_num_seqs, (long long)p->hello->kv_blocks);
}

/* ---- fetching ---- */

static void text_fail(gateway_registry *r, gateway_text *t, const char *why, bool retry)
{
    for (gateway_replica *p = r->replicas, *next; p != NULL; p = next) {
        next = p->next;
        if (p->text == t)
            refuse_and_forget(r, p, why, retry);
    }
}

static void begin_opening(gateway_registry *r, gateway_text *t)
{
    t->state = TEXT_OPENING;
    t->source = 0;
    r->opt.open(r->opt.arg, t);
}

static void ask_chunks(gateway_registry *r, gateway_text *t)
{
    while (t->next < t->n_assets && t->assets[t->next].len == 0)
        t->next++;
    if (t->next == t->n_assets) {
        begin_opening(r, t);
        return;
    }
    asset *a = &t->assets[t->next];
    while (a->asked < a->len && a->asked - a->received < CHUNKS_AHEAD * WIRE_ASSET_CHUNK) {
        Trireme__AssetRequest q = TRIREME__ASSET_REQUEST__INIT;
        Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
        size_t n = a->len - a->asked < WIRE_ASSET_CHUNK ? a->len - a->asked : WIRE_ASSET_CHUNK;
        q.sha256 = (ProtobufCBinaryData){HASH_SHA256_BYTES, a->sha256};
        q.offset = a->asked;
        q.bytes = (uint32_t)n;
        e.body_case = TRIREME__ENVELOPE__BODY_ASSET_REQUEST;
        e.asset_request = &q;
        if (r->opt.send(r->opt.arg, t->source, &e) != ST_OK)
            return; /* gone or stuck: the deadline, or whoever else has it, sees to that */
        a->asked += n;
    }
}

/* Memory grows with what has come, not with what was announced. */
static bool asset_append(asset *a, const void *data, size_t n)
{
    if (a->received + n > a->cap) {
        size_t cap = a->cap * 2 > a->received + n ? a->cap * 2 : a->received + n;
        cap = cap < a->len ? cap : a->len;
        uint8_t *grown = realloc(a->data, cap);
        if (grown == NULL)
            return false;
        a->data = grown;
        a->cap = cap;
    }
    memcpy(a->data + a->received, data, n);
    a->received += n;
    return true;
}

static void asset_complete(gateway_registry *r, gateway_text *t, asset *a)
{
    uint8_t digest[HASH_SHA256_BYTES];
    if (hash_sha256_of(a->data, a->len, digest) != ST_OK || memcmp(digest, a->sha256, sizeof(digest)) != 0) {
        log_error("text file %s: not what its hash says", a->name);
        gateway_replica *p = gateway_registry_find(r, t->source);
        a->received = a->asked = 0; /* another replica may do better */
        if (p != NULL)
            refuse_and_forget(r, p, "a text file is not what its hash says", true);
        return;
    }
    t->next++;
    ask_chunks(r, t);
}

void gateway_registry_chunk(gateway_registry *r, wire_peer peer, const Trireme__AssetChunk *chunk, double now)
{
    gateway_replica *p = gateway_registry_find(r, peer);
    gateway_text *t = p != NULL ? p->text : NULL;
    if (t == NULL || t->state != TEXT_FETCHING || t->source != peer)
        return;
    asset *a = &t->assets[t->next];
    size_t n = chunk->data.len;
    if (chunk->sha256.len != HASH_SHA256_BYTES || memcmp(chunk->sha256.data, a->sha256, HASH_SHA256_BYTES) != 0 || chunk->offset != a->received || n == 0 ||
        n > a->asked - a->received) {
        refuse_and_forget(r, p, "a text file's chunk is not the one that was asked for", true);
        return;
    }
    if (!asset_append(a, chunk->data.data, n)) {
        text_fail(r, t, "the gateway has no memory for its text files", true);
        return;
    }
    t->heard = now;
    if (a->received == a->len)
        asset_complete(r, t, a);
    else
        ask_chunks(r, t);
}

void gateway_registry_opened(gateway_registry *r, gateway_text *t, double now)
{
    (void)now;
    assets_free(t);
    t->state = t->text != NULL ? TEXT_READY : TEXT_BROKEN;
    if (t->state == TEXT_BROKEN) {
        text_fail(r, t, t->fault != NULL ? t->fault : "out of memory", false);
    } else {
        for (gateway_replica *p = r->replicas, *next; p != NULL; p = next) {
            next = p->next;
            if (p->text == t)
                make_ready(r, p);
        }
    }
    forget_idle_texts(r);
}

static status text_obtain(gateway_registry *r, const Trireme__Hello *h, gateway_text **out)
{
    uint8_t key[HASH_SHA256_BYTES];
    for (size_t i = 0; i < h->n_assets; i++)
        if (h->n_assets > MAX_ASSETS || h->assets[i]->sha256.len != HASH_SHA256_BYTES)
            return FAIL(ST_FORMAT, "its list of text files is wrong");
    TRY(key_of(h, key));
    for (gateway_text *t = r->texts; t != NULL; t = t->following) {
        if (memcmp(t->key, key, sizeof(key)) == 0) {
            *out = t;
            return ST_OK;
        }
    }
    TRY(text_create(r, h, key, out));
    (*out)->following = r->texts;
    r->texts = *out;
    return ST_OK;
}

static status copy_hello(const Trireme__Hello *h, Trireme__Hello **out)
{
    size_t n = trireme__hello__get_packed_size(h);
    uint8_t *packed = malloc(n > 0 ? n : 1);
    *out = NULL;
    if (packed != NULL) {
        trireme__hello__pack(h, packed);
        *out = trireme__hello__unpack(NULL, n, packed);
    }
    free(packed);
    return *out != NULL ? ST_OK : FAIL(ST_NO_MEMORY, "no memory for a Hello");
}

static size_t prefix_capacity(const gateway_registry *r, const Trireme__Hello *h)
{
    if (r->opt.prefix_capacity > 0)
        return r->opt.prefix_capacity;
    int64_t n = h->kv_blocks < 512 ? 1024 : h->kv_blocks > (1 << 19) ? 1 << 20 : 2 * h->kv_blocks;
    return (size_t)n;
}

static status replica_create(gateway_registry *r, wire_peer peer, const char *user, const Trireme__Hello *h, gateway_replica **out)
{
    gateway_replica *p;
    status st;
    TRY(mem_calloc(1, sizeof(*p), "a replica", &p));
    p->peer = peer;
    TRY_GOTO(copy_hello(h, &p->hello), failed);
    TRY_GOTO(gateway_prefixes_create(prefix_capacity(r, h), &p->prefixes), failed);
    p->user = strdup(user);
    p->numerics = numerics_of(r, h->numerics_id);
    if (p->user == NULL || p->numerics == 0) {
        st = FAIL(ST_LIMIT, "no room for its numerics id");
        goto failed;
    }
    TRY_GOTO(text_obtain(r, h, &p->text), failed);
    p->text->n_replicas++;
    *out = p;
    return ST_OK;
failed:
    replica_free(p);
    return st;
}

static status welcome(gateway_registry *r, wire_peer peer)
{
    Trireme__Welcome w = TRIREME__WELCOME__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    w.gateway = (char *)r->opt.gateway;
    w.epoch = r->opt.epoch;
    e.body_case = TRIREME__ENVELOPE__BODY_WELCOME;
    e.welcome = &w;
    return r->opt.send(r->opt.arg, peer, &e);
}

static const char *hello_fault(const Trireme__Hello *h)
{
    if (h->model[0] == '\0' || strlen(h->model) > 255)
        return "its model has no name, or too long a one";
    if (h->max_model_len <= 0 || h->vocab <= 0 || h->max_num_seqs <= 0 || h->block_tokens <= 0 || h->kv_blocks <= 0)
        return "its sizes are not positive";
    return NULL;
}

void gateway_registry_hello(gateway_registry *r, wire_peer peer, const char *user, const Trireme__Hello *hello, double now)
{
    gateway_replica *p = gateway_registry_find(r, peer);
    const char *fault = p != NULL ? "it said Hello twice" : hello_fault(hello);
    if (p != NULL)
        forget(r, p);
    if (fault != NULL) {
        refuse(r, peer, hello->replica, fault, false);
        return;
    }
    status_mute();
    status st = replica_create(r, peer, user, hello, &p);
    status_unmute();
    if (st != ST_OK) {
        refuse(r, peer, hello->replica, status_message(), st != ST_FORMAT);
        return;
    }
    p->joined = p->progressed = now;
    p->next = r->replicas;
    r->replicas = p;
    log_info("replica %s joins: model %s, version %s%s%s", hello->replica, hello->model, hello->version, user[0] != '\0' ? ", key " : "", user);
    if (welcome(r, peer) != ST_OK)
        return; /* gone already: the wire will say so */
    gateway_text *t = p->text;
    if (t->state == TEXT_READY) {
        make_ready(r, p);
    } else if (t->state == TEXT_BROKEN) {
        refuse_and_forget(r, p, t->fault != NULL ? t->fault : "its text does not open", false);
    } else if (t->state == TEXT_FETCHING && t->source == 0) {
        t->source = peer;
        t->heard = now;
        ask_chunks(r, t);
    }
}

void gateway_registry_tick(gateway_registry *r, double now)
{
    for (gateway_text *t = r->texts, *next; t != NULL; t = next) {
        next = t->following;
        gateway_replica *p = t->state == TEXT_FETCHING && t->source != 0 ? gateway_registry_find(r, t->source) : NULL;
        if (p != NULL && now - t->heard > r->opt.fetch_seconds) {
            t->heard = now;
            refuse_and_forget(r, p, "it did not send its text files in time", true);
            return; /* the list may have changed; the next tick goes on */
        }
    }
}

/* ---- news of a replica ---- */

void gateway_registry_load(gateway_registry *r, wire_peer peer, const Trireme__Load *load, double now)
{
    gateway_replica *p = gateway_registry_find(r, peer);
    size_t n = trireme__load__get_packed_size(load);
    uint8_t *packed = p != NULL ? malloc(n > 0 ? n : 1) : NULL;
    if (packed == NULL)
        return;
    trireme__load__pack(load, packed);
    Trireme__Load *copy = trireme__load__unpack(NULL, n, packed);
    free(packed);
    if (copy == NULL)
        return;
    if (p->load == NULL || p->load->steps != copy->steps || copy->running + copy->waiting == 0)
        p->progressed = now;
    if (p->load != NULL)
        trireme__load__free_unpacked(p->load, NULL);
    p->load = copy;
    if (copy->draining && !p->draining)
        log_info("replica %s drains", p->hello->replica);
    p->draining = copy->draining;
}

void gateway_registry_health(gateway_registry *r, wire_peer peer, const Trireme__Health *health)
{
    gateway_replica *p = gateway_registry_find(r, peer);
    if (p == NULL)
        return;
    if (p->unwell == health->ok)
        log_warn("replica %s %s%s%s", p->hello->replica, health->ok ? "gets on again" : "makes no progress", health->detail[0] != '\0' ? ": " : "", health->detail);
    p->unwell = !health->ok;
    p->stalled_seconds = health->stalled_seconds;
    free(p->detail);
    p->detail = health->detail[0] != '\0' ? strdup(health->detail) : NULL;
}
