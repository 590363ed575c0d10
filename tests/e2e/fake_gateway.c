/* tests/e2e/fake_gateway.c - a gateway of lines: commands in JSON on standard input, what a replica says in JSON on standard output.
 *
 *   fake_gateway ENDPOINT [KEYS_DIR]      prints {"endpoint"} once it listens
 *
 *   {"op": "submit", "id", "tokens", "n_prompt", "hash", "priority", "pooling", "normalize", "sampling": {...}}   {"op": "cancel", "id"}
 *   {"op": "drain", "ms"}   {"op": "assets"}   {"op": "sleep", "ms"}   {"op": "goodbye", "reason", "retry"}   {"op": "quit"} */
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "comm/wire/wire.h"
#include "shard/text/grammar.h"

typedef struct line {
    struct line *next;
    json_t *json;
} line;

typedef struct gateway {
    wire_server *server;
    pthread_mutex_t lock;
    line *lines, **end;
    bool eof;
    wire_peer peer;
    Trireme__Hello *hello;
    /* assets being fetched, one after the other */
    size_t asset;
    bool fetching;
    mem_str bytes;
} gateway;

static void say(json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(o);
}

static void *reader(void *arg)
{
    gateway *g = arg;
    char *text = NULL;
    size_t cap = 0;
    while (getline(&text, &cap, stdin) > 0) {
        line *l = calloc(1, sizeof(*l));
        l->json = json_loads(text, 0, NULL);
        if (l->json == NULL) {
            fprintf(stderr, "fake_gateway: no JSON: %s", text);
            exit(2);
        }
        pthread_mutex_lock(&g->lock);
        *g->end = l;
        g->end = &l->next;
        pthread_mutex_unlock(&g->lock);
        wire_server_wake(g->server);
    }
    free(text);
    pthread_mutex_lock(&g->lock);
    g->eof = true;
    pthread_mutex_unlock(&g->lock);
    wire_server_wake(g->server);
    return NULL;
}

static void send_to_peer(gateway *g, const Trireme__Envelope *e)
{
    if (wire_server_send(g->server, g->peer, e) != ST_OK)
        say(json_pack("{ss}", "error", "not sent"));
}

/* ---- commands ---- */

static int32_t *ints(const json_t *list, size_t *n)
{
    *n = json_array_size(list);
    int32_t *v = calloc(*n + 1, sizeof(*v));
    for (size_t i = 0; i < *n; i++)
        v[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return v;
}

static double number(const json_t *o, const char *key, double dflt)
{
    const json_t *v = json_object_get(o, key);
    return v == NULL ? dflt : json_number_value(v);
}

/* "regex": source, or "grammar": hex bytes as they are. */
static void grammar_of(const json_t *o, Trireme__Sampling *s)
{
    const char *regex = json_string_value(json_object_get(o, "regex")), *hex = json_string_value(json_object_get(o, "grammar"));
    mem_str bytes = {0};
    if (regex != NULL && shard_grammar_compile(SHARD_GRAMMAR_REGEX, regex, strlen(regex), NULL, &bytes) != ST_OK)
        exit(2);
    for (; hex != NULL && hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
        char two[3] = {hex[0], hex[1], '\0'};
        mem_str_putc(&bytes, (char)strtoul(two, NULL, 16));
    }
    s->grammar.len = bytes.len;
    s->grammar.data = (uint8_t *)bytes.data;
}

static void sampling_of(const json_t *o, Trireme__Sampling *s)
{
    trireme__sampling__init(s);
    s->temperature = (float)number(o, "temperature", 0);
    s->top_k = (int32_t)number(o, "top_k", 0);
    s->top_p = (float)number(o, "top_p", 1);
    s->min_p = (float)number(o, "min_p", 0);
    s->repetition_penalty = (float)number(o, "repetition_penalty", 1);
    s->presence_penalty = (float)number(o, "presence_penalty", 0);
    s->frequency_penalty = (float)number(o, "frequency_penalty", 0);
    s->seed = (uint64_t)json_integer_value(json_object_get(o, "seed"));
    s->n_logprobs = (int32_t)number(o, "n_logprobs", -1);
    s->n_prompt_logprobs = (int32_t)number(o, "n_prompt_logprobs", -1);
    s->min_tokens = (int32_t)number(o, "min_tokens", 0);
    s->max_tokens = (int32_t)number(o, "max_tokens", 16);
    s->want_hash = true;
    s->stop = ints(json_object_get(o, "stop"), &s->n_stop);
    s->bias_tokens = ints(json_object_get(o, "bias_tokens"), &s->n_bias_tokens);
    s->n_bias_values = json_array_size(json_object_get(o, "bias_values"));
    s->bias_values = calloc(s->n_bias_values + 1, sizeof(float));
    for (size_t i = 0; i < s->n_bias_values; i++)
        s->bias_values[i] = (float)json_number_value(json_array_get(json_object_get(o, "bias_values"), i));
    s->allowed_tokens = ints(json_object_get(o, "allowed_tokens"), &s->n_allowed_tokens);
    s->logprob_tokens = ints(json_object_get(o, "logprob_tokens"), &s->n_logprob_tokens);
    s->n_bad_words = json_array_size(json_object_get(o, "bad_words"));
    s->bad_words = calloc(s->n_bad_words + 1, sizeof(*s->bad_words));
    for (size_t i = 0; i < s->n_bad_words; i++) {
        s->bad_words[i] = calloc(1, sizeof(Trireme__TokenList));
        trireme__token_list__init(s->bad_words[i]);
        s->bad_words[i]->tokens = ints(json_array_get(json_object_get(o, "bad_words"), i), &s->bad_words[i]->n_tokens);
    }
    grammar_of(o, s);
}

static void sampling_free(Trireme__Sampling *s)
{
    free(s->stop);
    free(s->bias_tokens);
    free(s->bias_values);
    free(s->allowed_tokens);
    free(s->logprob_tokens);
    for (size_t i = 0; i < s->n_bad_words; i++) {
        free(s->bad_words[i]->tokens);
        free(s->bad_words[i]);
    }
    free(s->bad_words);
    free(s->grammar.data);
}

static void submit(gateway *g, const json_t *o)
{
    Trireme__Submit m = TRIREME__SUBMIT__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    Trireme__Sampling s;
    sampling_of(json_object_get(o, "sampling"), &s);
    m.id = (uint64_t)json_integer_value(json_object_get(o, "id"));
    m.tokens = ints(json_object_get(o, "tokens"), &m.n_tokens);
    m.n_prompt = (int32_t)number(o, "n_prompt", (double)m.n_tokens);
    const char *hash = json_string_value(json_object_get(o, "hash"));
    m.hash = hash == NULL ? 0 : strtoull(hash, NULL, 16);
    m.priority = (int32_t)number(o, "priority", 0);
    m.pooling = (Trireme__Pooling)number(o, "pooling", 0);
    m.normalize = json_is_true(json_object_get(o, "normalize"));
    m.sampling = &s;
    e.body_case = TRIREME__ENVELOPE__BODY_SUBMIT;
    e.submit = &m;
    send_to_peer(g, &e);
    sampling_free(&s);
    free(m.tokens);
}

static void ask_asset(gateway *g)
{
    Trireme__AssetRequest a = TRIREME__ASSET_REQUEST__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    a.sha256 = g->hello->assets[g->asset]->sha256;
    a.offset = g->bytes.len;
    a.bytes = 64 << 10; /* several chunks of most files */
    e.body_case = TRIREME__ENVELOPE__BODY_ASSET_REQUEST;
    e.asset_request = &a;
    send_to_peer(g, &e);
}

static void command(gateway *g, const json_t *o, bool *quit)
{
    const char *op = json_string_value(json_object_get(o, "op"));
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    Trireme__Cancel cancel = TRIREME__CANCEL__INIT;
    Trireme__Drain drain = TRIREME__DRAIN__INIT;
    Trireme__Goodbye goodbye = TRIREME__GOODBYE__INIT;
    if (op == NULL)
        return;
    if (strcmp(op, "submit") == 0) {
        submit(g, o);
    } else if (strcmp(op, "cancel") == 0) {
        cancel.id = (uint64_t)json_integer_value(json_object_get(o, "id"));
        e.body_case = TRIREME__ENVELOPE__BODY_CANCEL;
        e.cancel = &cancel;
        send_to_peer(g, &e);
    } else if (strcmp(op, "drain") == 0) {
        drain.deadline_ms = (uint32_t)number(o, "ms", 0);
        e.body_case = TRIREME__ENVELOPE__BODY_DRAIN;
        e.drain = &drain;
        send_to_peer(g, &e);
    } else if (strcmp(op, "goodbye") == 0) {
        goodbye.reason = (char *)(uintptr_t)json_string_value(json_object_get(o, "reason"));
        goodbye.retry = json_is_true(json_object_get(o, "retry"));
        e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
        e.goodbye = &goodbye;
        send_to_peer(g, &e);
    } else if (strcmp(op, "assets") == 0) {
        g->asset = 0;
        g->fetching = g->hello != NULL && g->hello->n_assets > 0;
        mem_str_clear(&g->bytes);
        if (g->fetching)
            ask_asset(g);
    } else if (strcmp(op, "sleep") == 0) {
        usleep((useconds_t)(number(o, "ms", 0) * 1000));
    } else if (strcmp(op, "quit") == 0) {
        *quit = true;
    }
}

/* ---- what the replica says ---- */

static void said_hello(gateway *g, wire_peer peer, const Trireme__Hello *h)
{
    Trireme__Welcome w = TRIREME__WELCOME__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    size_t n = trireme__hello__get_packed_size(h);
    uint8_t *packed = malloc(n + 1);
    trireme__hello__pack(h, packed);
    if (g->hello != NULL)
        trireme__hello__free_unpacked(g->hello, NULL);
    g->hello = trireme__hello__unpack(NULL, n, packed);
    free(packed);
    g->peer = peer;
    w.gateway = (char *)(uintptr_t) "fake";
    w.epoch = (uint64_t)getpid();
    e.body_case = TRIREME__ENVELOPE__BODY_WELCOME;
    e.welcome = &w;
    json_t *assets = json_array();
    for (size_t i = 0; i < h->n_assets; i++)
        json_array_append_new(assets, json_pack("[sI]", h->assets[i]->name, (json_int_t)h->assets[i]->bytes));
    say(json_pack("{s{ss ss ss ss si si si sI si si ss si so}}", "hello", "replica", h->replica, "numerics", h->numerics_id, "digest", h->checkpoint_digest, "model",
                  h->model, "max_model_len", h->max_model_len, "vocab", h->vocab, "max_num_seqs", h->max_num_seqs, "kv_blocks", (json_int_t)h->kv_blocks, "tp", h->tp,
                  "pp", h->pp, "version", h->version, "embedding_dim", h->embedding_dim, "assets", assets));
    send_to_peer(g, &e);
}

static json_t *event_json(const Trireme__Event *e)
{
    char hash[17];
    json_t *top = json_array(), *embedding = json_array();
    snprintf(hash, sizeof(hash), "%016" PRIx64, e->hash);
    for (size_t i = 0; i < e->n_top; i++)
        json_array_append_new(top, json_pack("[ifi]", e->top[i]->token, (double)e->top[i]->logprob, e->top[i]->rank));
    for (size_t i = 0; i < e->n_embedding; i++)
        json_array_append_new(embedding, json_real((double)e->embedding[i]));
    return json_pack("{sI sb si si si ss sf si so so si sf sf}", "id", (json_int_t)e->id, "prompt", e->prompt, "index", e->index, "token", e->token, "finish",
                     (int)e->finish, "hash", hash, "logprob", (double)e->logprob, "rank", e->rank, "top", top, "embedding", embedding, "cached_tokens",
                     e->cached_tokens, "queue_seconds", e->queue_seconds, "prefill_seconds", e->prefill_seconds);
}

static void said_tokens(const Trireme__Tokens *t)
{
    json_t *list = json_array();
    for (size_t i = 0; i < t->n_events; i++)
        json_array_append_new(list, event_json(t->events[i]));
    say(json_pack("{so sI}", "events", list, "step", (json_int_t)t->step));
}

static void said_chunk(gateway *g, const Trireme__AssetChunk *c)
{
    const Trireme__AssetName *a = g->hello->assets[g->asset];
    uint8_t digest[HASH_SHA256_BYTES];
    if (!g->fetching)
        return;
    mem_str_append(&g->bytes, c->data.data, c->data.len);
    if (c->data.len > 0 && g->bytes.len < a->bytes) {
        ask_asset(g);
        return;
    }
    bool ok = hash_sha256_of(g->bytes.data, g->bytes.len, digest) == ST_OK && memcmp(digest, a->sha256.data, sizeof(digest)) == 0;
    say(json_pack("{ss sb}", "asset", a->name, "ok", ok));
    mem_str_clear(&g->bytes);
    if (++g->asset < g->hello->n_assets)
        ask_asset(g);
    else
        g->fetching = false;
}

static void said_load(const Trireme__Load *l)
{
    json_t *ranks = json_array();
    for (size_t i = 0; i < l->n_ranks; i++)
        json_array_append_new(ranks, json_pack("{si sI sf sf sf sf sI sI}", "rank", l->ranks[i]->rank, "steps", (json_int_t)l->ranks[i]->steps, "step_seconds",
                                               l->ranks[i]->step_seconds, "exchange_seconds", l->ranks[i]->exchange_seconds, "wait_seconds", l->ranks[i]->wait_seconds,
                                               "skew_seconds", l->ranks[i]->skew_seconds, "resident", (json_int_t)l->ranks[i]->resident_bytes, "kv_bytes",
                                               (json_int_t)l->ranks[i]->kv_bytes));
    say(json_pack("{s{si si sI sI sI sI sI sb so}}", "load", "running", l->running, "waiting", l->waiting, "kv_blocks", (json_int_t)l->kv_blocks, "kv_blocks_free",
                  (json_int_t)l->kv_blocks_free, "steps", (json_int_t)l->steps, "prompt_tokens", (json_int_t)l->prompt_tokens, "generated_tokens",
                  (json_int_t)l->generated_tokens, "draining", l->draining, "ranks", ranks));
}

/* Answered, so that the replica knows that everything before it was read. */
static void said_goodbye(gateway *g, const Trireme__Goodbye *m)
{
    Trireme__Goodbye answer = TRIREME__GOODBYE__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    say(json_pack("{ss sb}", "goodbye", m->reason, "retry", m->retry));
    answer.reason = (char *)(uintptr_t) "until then";
    e.body_case = TRIREME__ENVELOPE__BODY_GOODBYE;
    e.goodbye = &answer;
    send_to_peer(g, &e);
}

static void said(gateway *g, const wire_received *in)
{
    const Trireme__Envelope *e = in->message;
    switch (e->body_case) {
    case TRIREME__ENVELOPE__BODY_HELLO:
        said_hello(g, in->peer, e->hello);
        break;
    case TRIREME__ENVELOPE__BODY_TOKENS:
        said_tokens(e->tokens);
        break;
    case TRIREME__ENVELOPE__BODY_ABORTED:
        say(json_pack("{s{sI si ss sb}}", "aborted", "id", (json_int_t)e->aborted->id, "status", e->aborted->status, "message", e->aborted->message, "retry",
                      e->aborted->retry));
        break;
    case TRIREME__ENVELOPE__BODY_ASSET_CHUNK:
        said_chunk(g, e->asset_chunk);
        break;
    case TRIREME__ENVELOPE__BODY_LOAD:
        said_load(e->load);
        break;
    case TRIREME__ENVELOPE__BODY_HEALTH:
        say(json_pack("{s{sb sf ss}}", "health", "ok", e->health->ok, "stalled_seconds", e->health->stalled_seconds, "detail", e->health->detail));
        break;
    case TRIREME__ENVELOPE__BODY_GOODBYE:
        said_goodbye(g, e->goodbye);
        break;
    default:
        break;
    }
}

static bool commands(gateway *g)
{
    bool quit = false;
    pthread_mutex_lock(&g->lock);
    line *list = g->lines;
    g->lines = NULL;
    g->end = &g->lines;
    quit = g->eof;
    pthread_mutex_unlock(&g->lock);
    while (list != NULL) {
        line *l = list;
        list = l->next;
        command(g, l->json, &quit);
        json_decref(l->json);
        free(l);
    }
    return !quit;
}

int main(int argc, char **argv)
{
    gateway g = {.end = &g.lines};
    wire_security security = {.plain = argc < 3};
    if (argc < 2)
        return 2;
    if (argc > 2 && wire_security_gateway(argv[2], &security) != ST_OK)
        return 1;
    wire_server_options o = {.endpoint = argv[1], .security = &security};
    if (wire_server_create(&o, &g.server) != ST_OK)
        return 1;
    wire_security_clear(&security);
    say(json_pack("{ss}", "endpoint", wire_server_endpoint(g.server)));
    pthread_mutex_init(&g.lock, NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, reader, &g);
    while (commands(&g)) {
        wire_received in;
        if (wire_server_receive(g.server, 100, &in) != ST_OK)
            return 1;
        if (in.kind == WIRE_MESSAGE)
            said(&g, &in);
        else if (in.kind == WIRE_GONE)
            say(json_pack("{ss}", "gone", in.reason));
    }
    wire_server_destroy(&g.server);
    if (g.hello != NULL)
        trireme__hello__free_unpacked(g.hello, NULL);
    mem_str_free(&g.bytes);
    fflush(stdout);
    _exit(0); /* the reader may still wait for input */
}
