/* tests/gateway/fake_replica.c - a replica that computes nothing: its tokens are a function of the prompt, the seed and the position.
 *
 *   fake_replica --gateway ENDPOINT --checkpoint DIR [--model NAME] [--name NAME] [--keys DIR] [--numerics ID] [--seqs N] [--step-ms MS] [--vocab-from N] [--mischief]
 *
 * It speaks the whole protocol over a real connection, with the text of a real checkpoint, so that gateways are tested with thousands of streams, deaths and
 * odd messages on two cores.  Equal numerics ids give equal tokens, wherever a request is taken up again.  --mischief: messages are repeated, and now and then a request is
 * given back.  Ends when its input ends (its parent died) or by a signal. */
#include <argp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "comm/wire/wire.h"
#include "shard/checkpoint.h"

typedef struct fake_job {
    uint64_t id, key; /* key: of prompt and seed */
    int32_t n_prompt, n_tokens, max_tokens, n_logprobs;
    uint64_t hash;
    int32_t pooling;
} fake_job;

typedef struct fake {
    const char *gateway, *checkpoint, *model, *name, *keys, *numerics;
    int seqs, step_ms;
    bool mischief;
    shard_text_asset *assets;
    size_t n_assets;
    uint8_t (*hashes)[HASH_SHA256_BYTES];
    int32_t vocab;
    wire_client *client;
    bool connected, draining;
    fake_job *jobs;
    size_t n_jobs, cap_jobs;
    uint64_t steps, n_generated, n_prompt_tokens, random;
} fake;

enum { OPT_GATEWAY = 1000, OPT_CHECKPOINT, OPT_MODEL, OPT_NAME, OPT_KEYS, OPT_NUMERICS, OPT_SEQS, OPT_STEP, OPT_MISCHIEF };
static const struct argp_option options[] = {
    {"gateway", OPT_GATEWAY, "ENDPOINT", 0, NULL, 0}, {"checkpoint", OPT_CHECKPOINT, "DIR", 0, NULL, 0}, {"model", OPT_MODEL, "NAME", 0, NULL, 0},
    {"name", OPT_NAME, "NAME", 0, NULL, 0},           {"keys", OPT_KEYS, "DIR", 0, NULL, 0},             {"numerics", OPT_NUMERICS, "ID", 0, NULL, 0},
    {"seqs", OPT_SEQS, "N", 0, NULL, 0},              {"step-ms", OPT_STEP, "MS", 0, NULL, 0},           {"mischief", OPT_MISCHIEF, NULL, 0, NULL, 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    fake *f = state->input;
    switch (key) {
    case OPT_GATEWAY:
        f->gateway = arg;
        return 0;
    case OPT_CHECKPOINT:
        f->checkpoint = arg;
        return 0;
    case OPT_MODEL:
        f->model = arg;
        return 0;
    case OPT_NAME:
        f->name = arg;
        return 0;
    case OPT_KEYS:
        f->keys = arg;
        return 0;
    case OPT_NUMERICS:
        f->numerics = arg;
        return 0;
    case OPT_SEQS:
        f->seqs = atoi(arg);
        return 0;
    case OPT_STEP:
        f->step_ms = atoi(arg);
        return 0;
    case OPT_MISCHIEF:
        f->mischief = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static bool one_in(fake *f, uint64_t n)
{
    return f->mischief && hash_mix(f->random += 0x9e3779b97f4a7c15u) % n == 0;
}

/* ---- who we are ---- */

static status describe(fake *f)
{
    shard_checkpoint *c;
    shard_open_options o = {0};
    const shard_text *text;
    TRY(shard_checkpoint_open(f->checkpoint, &o, &c));
    TRY(shard_checkpoint_text(c, &text));
    TRY(shard_checkpoint_text_assets(c, &f->assets, &f->n_assets));
    f->vocab = shard_text_info_get(text)->vocab;
    TRY(mem_calloc(f->n_assets + 1, sizeof(*f->hashes), "hashes", &f->hashes));
    for (size_t i = 0; i < f->n_assets; i++)
        TRY(hash_sha256_of(f->assets[i].data, f->assets[i].len, f->hashes[i]));
    shard_checkpoint_close(&c);
    return ST_OK;
}

static status connect_client(fake *f)
{
    wire_security security = {.plain = true};
    Trireme__Hello h = TRIREME__HELLO__INIT;
    Trireme__AssetName *names = calloc(f->n_assets + 1, sizeof(*names)), **pointers = calloc(f->n_assets + 1, sizeof(*pointers));
    for (size_t i = 0; names != NULL && pointers != NULL && i < f->n_assets; i++) {
        trireme__asset_name__init(&names[i]);
        names[i].name = f->assets[i].name;
        names[i].sha256 = (ProtobufCBinaryData){HASH_SHA256_BYTES, f->hashes[i]};
        names[i].bytes = f->assets[i].len;
        pointers[i] = &names[i];
    }
    h.version = "fake";
    h.replica = (char *)f->name;
    h.epoch = hash_mix((uint64_t)getpid() ^ (uint64_t)(log_clock() * 1e9));
    h.numerics_id = (char *)f->numerics;
    h.checkpoint_digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    h.model = (char *)f->model;
    h.max_model_len = 4096;
    h.vocab = f->vocab;
    h.max_num_seqs = f->seqs;
    h.max_num_batched_tokens = 512;
    h.block_tokens = 16;
    h.kv_blocks = 1 << 16;
    h.tp = h.pp = 1;
    h.backend = "none";
    h.embedding_dim = 8;
    h.n_assets = f->n_assets;
    h.assets = pointers;
    wire_client_options o = {.endpoint = f->gateway, .security = &security, .hello = &h};
    if (f->keys != NULL)
        TRY(wire_security_replica(f->keys, NULL, &security));
    status st = wire_client_create(&o, &f->client);
    wire_security_clear(&security);
    free(names);
    free(pointers);
    return st;
}

/* ---- the work ---- */

static void send_envelope(fake *f, const Trireme__Envelope *e)
{
    wire_client_send(f->client, e);
}

static int32_t token_of(const fake *f, const fake_job *j)
{
    int32_t usable = f->vocab > 300 ? f->vocab - 260 : f->vocab; /* ordinary pieces of text, for most vocabularies */
    return (f->vocab > 300 ? 260 : 0) + (int32_t)(hash_mix(j->key ^ hash_fast(f->numerics, strlen(f->numerics), 0) ^ (uint64_t)j->n_tokens << 32) % (uint64_t)usable);
}

static void send_event(fake *f, Trireme__Event *e)
{
    Trireme__Tokens t = TRIREME__TOKENS__INIT;
    Trireme__Envelope envelope = TRIREME__ENVELOPE__INIT;
    t.step = f->steps;
    t.n_events = 1;
    t.events = &e;
    envelope.body_case = TRIREME__ENVELOPE__BODY_TOKENS;
    envelope.tokens = &t;
    send_envelope(f, &envelope);
}

static void say_token(fake *f, fake_job *j)
{
    float embedding[8];
    Trireme__LogProb *top[32], tops[32];
    Trireme__Event e = TRIREME__EVENT__INIT;
    e.id = j->id;
    e.index = j->n_tokens;
    e.token = token_of(f, j);
    e.hash = j->hash = hash_mix(j->hash + (uint64_t)e.token + 1);
    e.logprob = -0.5f;
    e.queue_seconds = 0.001;
    e.prefill_seconds = 0.002;
    for (int32_t i = 0; i < j->n_logprobs && i < 32; i++) {
        trireme__log_prob__init(&tops[i]);
        tops[i].token = (e.token + i) % f->vocab;
        tops[i].logprob = -0.5f - (float)i;
        tops[i].rank = i + 1;
        top[i] = &tops[i];
        e.n_top++;
    }
    e.top = top;
    j->n_tokens++;
    if (j->n_tokens >= j->max_tokens)
        e.finish = 2;
    if (j->pooling != TRIREME__POOLING__GENERATE) {
        for (int i = 0; i < 8; i++)
            embedding[i] = (float)(int8_t)(hash_mix(j->key + (uint64_t)i) & 255) / 128;
        e.finish = 1;
        e.n_embedding = 8;
        e.embedding = embedding;
    }
    send_event(f, &e);
    if (one_in(f, 20))
        send_event(f, &e);
    f->n_generated++;
    if (e.finish != 0)
        j->id = 0;
}

static void give_back(fake *f, fake_job *j)
{
    Trireme__Aborted a = TRIREME__ABORTED__INIT;
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    a.id = j->id;
    a.status = ST_BUSY;
    a.message = "mischief";
    a.retry = true;
    e.body_case = TRIREME__ENVELOPE__BODY_ABORTED;
    e.aborted = &a;
    send_envelope(f, &e);
    j->id = 0;
}

static void step_all(fake *f)
{
    size_t n = 0, running = f->n_jobs < (size_t)f->seqs ? f->n_jobs : (size_t)f->seqs;
    for (size_t i = 0; i < running; i++) {
        if (one_in(f, 200))
            give_back(f, &f->jobs[i]);
        else
            say_token(f, &f->jobs[i]);
    }
    for (size_t i = 0; i < f->n_jobs; i++)
        if (f->jobs[i].id != 0)
            f->jobs[n++] = f->jobs[i];
    f->steps += f->n_jobs > 0;
    f->n_jobs = n;
}

static void say_load(fake *f)
{
    Trireme__Load l = TRIREME__LOAD__INIT;
    Trireme__RankLoad rank = TRIREME__RANK_LOAD__INIT, *ranks[1] = {&rank};
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    l.running = (int32_t)(f->n_jobs < (size_t)f->seqs ? f->n_jobs : (size_t)f->seqs);
    l.waiting = (int32_t)f->n_jobs - l.running;
    l.kv_blocks = 1 << 16;
    l.kv_blocks_free = (1 << 16) - (int64_t)f->n_jobs;
    l.steps = f->steps;
    l.generated_tokens = f->n_generated;
    l.prompt_tokens = f->n_prompt_tokens;
    l.draining = f->draining;
    rank.host = "here";
    rank.steps = f->steps;
    l.n_ranks = 1;
    l.ranks = ranks;
    e.body_case = TRIREME__ENVELOPE__BODY_LOAD;
    e.load = &l;
    send_envelope(f, &e);
}

/* ---- the gateway's messages ---- */

static void take_submit(fake *f, const Trireme__Submit *s)
{
    if (f->n_jobs == f->cap_jobs) {
        f->cap_jobs = f->cap_jobs > 0 ? f->cap_jobs * 2 : 64;
        f->jobs = realloc(f->jobs, f->cap_jobs * sizeof(*f->jobs));
        if (f->jobs == NULL)
            abort();
    }
    f->n_prompt_tokens += (uint64_t)s->n_prompt;
    f->jobs[f->n_jobs++] = (fake_job){.id = s->id,
                                      .key = hash_fast(s->tokens, (size_t)s->n_prompt * sizeof(*s->tokens), s->sampling->seed + s->sampling->choice),
                                      .n_prompt = s->n_prompt,
                                      .n_tokens = (int32_t)s->n_tokens - s->n_prompt,
                                      .max_tokens = s->sampling->max_tokens,
                                      .n_logprobs = s->sampling->n_logprobs,
                                      .hash = s->hash,
                                      .pooling = (int32_t)s->pooling};
}

static void take_cancel(fake *f, uint64_t id)
{
    for (size_t i = 0; i < f->n_jobs; i++)
        if (f->jobs[i].id == id)
            f->jobs[i--] = f->jobs[--f->n_jobs];
}

static void send_chunk(fake *f, const Trireme__AssetRequest *q)
{
    for (size_t i = 0; i < f->n_assets; i++) {
        if (memcmp(f->hashes[i], q->sha256.data, HASH_SHA256_BYTES) != 0)
            continue;
        Trireme__AssetChunk c = TRIREME__ASSET_CHUNK__INIT;
        Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
        c.sha256 = q->sha256;
        c.offset = q->offset;
        c.data = (ProtobufCBinaryData){q->bytes, (uint8_t *)f->assets[i].data + q->offset};
        e.body_case = TRIREME__ENVELOPE__BODY_ASSET_CHUNK;
        e.asset_chunk = &c;
        send_envelope(f, &e);
        return;
    }
}

static void take(fake *f, const wire_received *m)
{
    if (m->kind == WIRE_GONE) {
        f->connected = false;
        f->n_jobs = 0;
        return;
    }
    switch (m->message->body_case) {
    case TRIREME__ENVELOPE__BODY_WELCOME:
        f->connected = true;
        f->n_jobs = 0;
        say_load(f);
        break;
    case TRIREME__ENVELOPE__BODY_GOODBYE:
        fprintf(stderr, "fake_replica: goodbye: %s\n", m->message->goodbye->reason);
        break;
    case TRIREME__ENVELOPE__BODY_ASSET_REQUEST:
        send_chunk(f, m->message->asset_request);
        break;
    case TRIREME__ENVELOPE__BODY_SUBMIT:
        take_submit(f, m->message->submit);
        break;
    case TRIREME__ENVELOPE__BODY_CANCEL:
        take_cancel(f, m->message->cancel->id);
        break;
    default:
        break;
    }
}

static bool parent_is_there(void)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};
    char c;
    return poll(&p, 1, 0) == 0 || read(0, &c, 1) > 0;
}

static void serve(fake *f)
{
    double next_step = log_clock(), next_load = next_step;
    while (parent_is_there()) {
        double now = log_clock();
        int wait = next_step > now ? (int)((next_step - now) * 1e3) + 1 : 0;
        wire_received m;
        status st = wire_client_receive(f->client, wait, &m);
        if (st != ST_OK)
            return;
        if (m.kind != WIRE_NOTHING)
            take(f, &m);
        now = log_clock();
        if (f->connected && now >= next_step) {
            step_all(f);
            next_step = now + f->step_ms * 1e-3;
        } else if (!f->connected) {
            next_step = now + 0.05;
        }
        if (f->connected && now >= next_load) {
            say_load(f);
            next_load = now + 0.5;
        }
    }
}

int main(int argc, char **argv)
{
    fake f = {.model = "fake", .name = "fake", .numerics = "n", .seqs = 16, .step_ms = 20};
    const struct argp argp = {options, parse, NULL, NULL, NULL, NULL, NULL};
    argp_parse(&argp, argc, argv, 0, NULL, &f);
    if (f.gateway == NULL || f.checkpoint == NULL) {
        fprintf(stderr, "fake_replica: --gateway and --checkpoint are needed\n");
        return 2;
    }
    f.random = (uint64_t)getpid();
    if (describe(&f) != ST_OK || connect_client(&f) != ST_OK)
        return 1;
    serve(&f);
    wire_client_destroy(&f.client);
    shard_text_assets_free(f.assets, f.n_assets);
    free(f.hashes);
    free(f.jobs);
    return 0;
}
