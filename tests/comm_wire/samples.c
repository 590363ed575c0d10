#include "samples.h"

#include <string.h>

#include "comm/wire/wire.h"
#include "pair.h"

static size_t pack(Trireme__Envelope__BodyCase body, void *message, uint8_t *out)
{
    Trireme__Envelope e = TRIREME__ENVELOPE__INIT;
    e.body_case = body;
    e.hello = message; /* any member of the union */
    size_t n = trireme__envelope__get_packed_size(&e);
    return n <= SAMPLE_BYTES ? trireme__envelope__pack(&e, out) : 0;
}

static size_t hello(uint8_t *out)
{
    uint8_t digest[32] = {1, 2, 3};
    Trireme__AssetName a = TRIREME__ASSET_NAME__INIT, *assets[] = {&a, &a};
    Trireme__Hello h = hello_of("sample", 99);
    a.name = "tokenizer.json";
    a.sha256 = (ProtobufCBinaryData){32, digest};
    a.bytes = 12345;
    h.protocol = h.oldest_protocol = WIRE_PROTOCOL;
    h.embedding_dim = 4;
    h.assets = assets;
    h.n_assets = 1;
    return pack(TRIREME__ENVELOPE__BODY_HELLO, &h, out);
}

static size_t asset(bool chunk, uint8_t *out)
{
    uint8_t digest[32] = {4, 5, 6}, data[] = "some text";
    Trireme__AssetRequest r = TRIREME__ASSET_REQUEST__INIT;
    Trireme__AssetChunk c = TRIREME__ASSET_CHUNK__INIT;
    r.sha256 = c.sha256 = (ProtobufCBinaryData){32, digest};
    r.offset = c.offset = 4096;
    r.bytes = 1 << 16;
    c.data = (ProtobufCBinaryData){sizeof(data), data};
    return chunk ? pack(TRIREME__ENVELOPE__BODY_ASSET_CHUNK, &c, out) : pack(TRIREME__ENVELOPE__BODY_ASSET_REQUEST, &r, out);
}

static size_t submit(uint8_t *out)
{
    int32_t tokens[] = {1, 2, 300, 511};
    float values[] = {0.5f, -2};
    uint8_t bytes[] = {9, 8, 7};
    Trireme__TokenList word = TRIREME__TOKEN_LIST__INIT, *words[] = {&word, &word};
    Trireme__Sampling p = TRIREME__SAMPLING__INIT;
    Trireme__Submit s = TRIREME__SUBMIT__INIT;
    word.tokens = tokens;
    word.n_tokens = 2;
    p.temperature = 0.7f;
    p.top_p = 0.9f;
    p.seed = 1234567890123u;
    p.n_logprobs = 5;
    p.max_tokens = 100;
    p.stop = p.bias_tokens = p.allowed_tokens = p.logprob_tokens = tokens;
    p.n_stop = p.n_allowed_tokens = p.n_logprob_tokens = 4;
    p.n_bias_tokens = p.n_bias_values = 2;
    p.bias_values = values;
    p.bad_words = words;
    p.n_bad_words = 2;
    p.grammar = s.cache_salt = (ProtobufCBinaryData){3, bytes};
    s.id = 5;
    s.tokens = tokens;
    s.n_tokens = 4;
    s.n_prompt = 3;
    s.priority = -1;
    s.sampling = &p;
    return pack(TRIREME__ENVELOPE__BODY_SUBMIT, &s, out);
}

static size_t tokens(uint8_t *out)
{
    float vector[] = {1, 2, 3, 4};
    Trireme__LogProb lp = TRIREME__LOG_PROB__INIT, *top[] = {&lp, &lp};
    Trireme__Event generated = TRIREME__EVENT__INIT, pooled = TRIREME__EVENT__INIT, *events[] = {&generated, &pooled, &generated};
    Trireme__Tokens t = TRIREME__TOKENS__INIT;
    lp.token = 17;
    lp.logprob = -0.25f;
    lp.rank = 1;
    generated.id = 5;
    generated.index = 3;
    generated.token = 300;
    generated.hash = 0xdeadbeefcafef00du;
    generated.top = top;
    generated.n_top = 2;
    generated.queue_seconds = 0.001;
    pooled.id = 6;
    pooled.finish = 1;
    pooled.embedding = vector;
    pooled.n_embedding = 4;
    t.step = 1000;
    t.events = events;
    t.n_events = 3;
    return pack(TRIREME__ENVELOPE__BODY_TOKENS, &t, out);
}

static size_t load(uint8_t *out)
{
    uint32_t buckets[] = {1, 2, 3};
    Trireme__RankLoad r = TRIREME__RANK_LOAD__INIT, *ranks[] = {&r, &r};
    Trireme__Load l = TRIREME__LOAD__INIT;
    r.rank = 1;
    r.host = "node7";
    r.resident_bytes = 1 << 30;
    r.step_seconds = 1.5;
    l.running = 3;
    l.kv_blocks = 1000;
    l.kv_blocks_free = 900;
    l.ranks = ranks;
    l.n_ranks = 2;
    l.step_tokens_buckets = buckets;
    l.n_step_tokens_buckets = 3;
    return pack(TRIREME__ENVELOPE__BODY_LOAD, &l, out);
}

static size_t small(int which, uint8_t *out)
{
    Trireme__Welcome w = TRIREME__WELCOME__INIT;
    Trireme__Goodbye g = TRIREME__GOODBYE__INIT;
    Trireme__Aborted a = TRIREME__ABORTED__INIT;
    Trireme__Cancel c = TRIREME__CANCEL__INIT;
    Trireme__Drain d = TRIREME__DRAIN__INIT;
    Trireme__Heartbeat b = TRIREME__HEARTBEAT__INIT;
    Trireme__Health h = TRIREME__HEALTH__INIT;
    w.protocol = WIRE_PROTOCOL;
    w.gateway = "gateway";
    g.reason = a.message = h.detail = "a reason";
    g.retry = true;
    a.id = c.id = 5;
    a.status = -7;
    d.deadline_ms = 30000;
    b.number = 3;
    h.stalled_seconds = 2.5;
    switch (which) {
    case 0:
        return pack(TRIREME__ENVELOPE__BODY_WELCOME, &w, out);
    case 1:
        return pack(TRIREME__ENVELOPE__BODY_GOODBYE, &g, out);
    case 2:
        return pack(TRIREME__ENVELOPE__BODY_ABORTED, &a, out);
    case 3:
        return pack(TRIREME__ENVELOPE__BODY_CANCEL, &c, out);
    case 4:
        return pack(TRIREME__ENVELOPE__BODY_DRAIN, &d, out);
    case 5:
        return pack(TRIREME__ENVELOPE__BODY_HEARTBEAT, &b, out);
    default:
        return pack(TRIREME__ENVELOPE__BODY_HEALTH, &h, out);
    }
}

size_t sample_write(int which, uint8_t out[SAMPLE_BYTES])
{
    switch (which) {
    case 0:
        return hello(out);
    case 1:
        return asset(false, out);
    case 2:
        return asset(true, out);
    case 3:
        return submit(out);
    case 4:
        return tokens(out);
    case 5:
        return load(out);
    default:
        return small(which - 6, out);
    }
}
