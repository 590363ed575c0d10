/* comm/wire/check.c - what a message may hold, by who sends it.
 *
 * Shapes, counts, ranges and names: what would lead a reader astray.  Floats may be anything (a broken checkpoint gives NaN, and that must
 * not end a session); whether a request makes sense is for the scheduler. */
#include "comm/wire/wire_internal.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"

enum { MAX_TEXT = 512, MAX_REASON = 4096, MAX_ASSETS = 256, MAX_ASSET_NAME = 200, MAX_RANKS = 65536, MAX_SALT = 1024, MAX_BUCKETS = 256 };
static const int32_t most_int = 1 << 30;

static bool name_char(char c, bool first)
{
    bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return alnum || (!first && (c == '.' || c == '_' || c == '-'));
}

bool wire_name_valid(const char *name)
{
    size_t n = 0;
    for (; name[n] != '\0'; n++)
        if (n >= WIRE_NAME - 1 || !name_char(name[n], n == 0))
            return false;
    return n > 0;
}

/* Names joined by '/': each part begins with a letter or digit, so none is "..". */
static bool asset_name_valid(const char *name)
{
    size_t n = 0;
    bool first = true;
    for (; name[n] != '\0'; n++) {
        if (n >= MAX_ASSET_NAME || (name[n] == '/' ? first : !name_char(name[n], first)))
            return false;
        first = name[n] == '/';
    }
    return n > 0 && !first;
}

/* UTF-8 without control characters. */
static bool text_valid(const char *s, size_t most)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t n = strlen(s);
    if (n > most)
        return false;
    for (size_t i = 0; i < n;) {
        unsigned char c = p[i];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 4;
        if (c < 0x20 || c == 0x7f || more == 4)
            return false;
        for (size_t k = 1; k <= more; k++)
            if ((p[i + k] & 0xc0) != 0x80) /* the final NUL is none either */
                return false;
        if ((c == 0xe0 && p[i + 1] < 0xa0) || (c == 0xed && p[i + 1] >= 0xa0) || (c == 0xf0 && p[i + 1] < 0x90) || (c == 0xf4 && p[i + 1] >= 0x90))
            return false;
        i += more + 1;
    }
    return true;
}

static bool within(int64_t x, int64_t least, int64_t most)
{
    return x >= least && x <= most;
}

static bool is_digest(ProtobufCBinaryData b)
{
    return b.len == HASH_SHA256_BYTES;
}

static bool tokens_valid(const int32_t *tokens, size_t n, int32_t vocab)
{
    for (size_t i = 0; i < n; i++)
        if (!within(tokens[i], 0, (int64_t)vocab - 1))
            return false;
    return true;
}

wire_limits wire_limits_of(const Trireme__Hello *h)
{
    return (wire_limits){.vocab = h->vocab, .max_model_len = h->max_model_len, .embedding_dim = h->embedding_dim};
}

static const char *check_assets(const Trireme__Hello *h)
{
    if (h->n_assets > MAX_ASSETS)
        return "hello: too many assets";
    for (size_t i = 0; i < h->n_assets; i++) {
        const Trireme__AssetName *a = h->assets[i];
        if (!asset_name_valid(a->name) || !is_digest(a->sha256) || a->bytes > WIRE_MAX_ASSET)
            return "hello: an asset's name, digest or size";
        for (size_t k = 0; k < i; k++)
            if (strcmp(a->name, h->assets[k]->name) == 0)
                return "hello: two assets of one name";
    }
    return NULL;
}

static const char *check_hello(const Trireme__Hello *h)
{
    if (!wire_name_valid(h->replica))
        return "hello: replica: letters, digits, '.', '_' and '-', at most 63, the first a letter or digit";
    if (!text_valid(h->version, MAX_TEXT) || !text_valid(h->numerics_id, MAX_TEXT) || !text_valid(h->checkpoint_digest, MAX_TEXT) ||
        !text_valid(h->model, MAX_TEXT) || !text_valid(h->backend, MAX_TEXT) || !text_valid(h->adapter, MAX_TEXT))
        return "hello: a text that is too long or not printable";
    if (h->numerics_id[0] == '\0' || h->model[0] == '\0' || h->epoch == 0)
        return "hello: numerics_id, model and epoch are needed";
    if (!within(h->max_model_len, 1, most_int) || !within(h->vocab, 1, most_int) || !within(h->max_num_seqs, 1, most_int) ||
        !within(h->max_num_batched_tokens, 1, most_int) || !within(h->block_tokens, 1, most_int) || !within(h->kv_blocks, 1, INT64_MAX))
        return "hello: a size out of range";
    if (!within(h->tp, 1, MAX_RANKS) || !within(h->pp, 1, MAX_RANKS) || !within(h->embedding_dim, 0, most_int))
        return "hello: tp, pp or embedding_dim out of range";
    return check_assets(h);
}

static const char *check_event(const Trireme__Event *e, const wire_limits *l)
{
    if (e->n_embedding > 0)
        return e->n_embedding == (size_t)l->embedding_dim ? NULL : "event: not embedding_dim values";
    if (!within(e->token, 0, (int64_t)l->vocab - 1))
        return "event: a token outside the vocabulary";
    if (!within(e->index, 0, l->max_model_len) || !within(e->cached_tokens, 0, l->max_model_len) || e->finish > 2)
        return "event: index, cached_tokens or finish out of range";
    if (e->n_top > (size_t)l->vocab)
        return "event: more log-probabilities than tokens";
    for (size_t i = 0; i < e->n_top; i++)
        if (!within(e->top[i]->token, 0, (int64_t)l->vocab - 1))
            return "event: a log-probability of a token outside the vocabulary";
    return NULL;
}

static const char *check_tokens(const Trireme__Tokens *t, const wire_limits *l)
{
    for (size_t i = 0; i < t->n_events; i++) {
        const char *wrong = check_event(t->events[i], l);
        if (wrong != NULL)
            return wrong;
    }
    return NULL;
}

static const char *check_load(const Trireme__Load *l)
{
    if (l->running < 0 || l->waiting < 0 || l->kv_blocks < 0 || !within(l->kv_blocks_free, 0, l->kv_blocks) ||
        !within(l->kv_blocks_cached, 0, l->kv_blocks))
        return "load: a count out of range";
    if (l->n_ranks > MAX_RANKS || l->n_step_tokens_buckets > MAX_BUCKETS)
        return "load: too many ranks or buckets";
    for (size_t i = 0; i < l->n_ranks; i++) {
        const Trireme__RankLoad *r = l->ranks[i];
        if (!within(r->rank, 0, MAX_RANKS) || !within(r->stage, 0, MAX_RANKS) || !within(r->tp_index, 0, MAX_RANKS) || !text_valid(r->host, MAX_TEXT) ||
            r->resident_bytes < 0 || r->weight_bytes < 0 || r->kv_bytes < 0)
            return "load: a rank's numbers or host";
    }
    return NULL;
}

static const char *check_chunk(const Trireme__AssetChunk *c)
{
    return is_digest(c->sha256) && c->data.len <= WIRE_ASSET_CHUNK && c->offset <= WIRE_MAX_ASSET ? NULL : "asset_chunk: digest, offset or size";
}

static const char *check_from_replica(const Trireme__Envelope *e, const wire_limits *l)
{
    switch (e->body_case) {
    case TRIREME__ENVELOPE__BODY_HELLO:
        return check_hello(e->hello);
    case TRIREME__ENVELOPE__BODY_ASSET_CHUNK:
        return check_chunk(e->asset_chunk);
    case TRIREME__ENVELOPE__BODY_TOKENS:
        return check_tokens(e->tokens, l);
    case TRIREME__ENVELOPE__BODY_ABORTED:
        return text_valid(e->aborted->message, MAX_REASON) ? NULL : "aborted: message";
    case TRIREME__ENVELOPE__BODY_LOAD:
        return check_load(e->load);
    case TRIREME__ENVELOPE__BODY_HEALTH:
        return text_valid(e->health->detail, MAX_REASON) ? NULL : "health: detail";
    default:
        return "a message that only a gateway sends";
    }
}

static const char *check_from_gateway(const Trireme__Envelope *e)
{
    switch (e->body_case) {
    case TRIREME__ENVELOPE__BODY_WELCOME:
        return text_valid(e->welcome->gateway, MAX_TEXT) ? NULL : "welcome: gateway";
    case TRIREME__ENVELOPE__BODY_ASSET_REQUEST:
        return is_digest(e->asset_request->sha256) && within(e->asset_request->bytes, 1, WIRE_ASSET_CHUNK) && e->asset_request->offset <= WIRE_MAX_ASSET
                   ? NULL
                   : "asset_request: digest, offset or size";
    case TRIREME__ENVELOPE__BODY_SUBMIT:
    case TRIREME__ENVELOPE__BODY_CANCEL:
    case TRIREME__ENVELOPE__BODY_DRAIN:
        return NULL;
    default:
        return "a message that only a replica sends";
    }
}

const char *wire_check(const Trireme__Envelope *e, wire_side from, const wire_limits *limits)
{
    if (e->body_case == TRIREME__ENVELOPE__BODY_HEARTBEAT)
        return NULL;
    if (e->body_case == TRIREME__ENVELOPE__BODY_GOODBYE)
        return text_valid(e->goodbye->reason, MAX_REASON) ? NULL : "goodbye: reason";
    return from == WIRE_FROM_REPLICA ? check_from_replica(e, limits) : check_from_gateway(e);
}

static const char *check_sampling(const Trireme__Sampling *s, const wire_limits *l)
{
    if (s->n_bias_tokens != s->n_bias_values)
        return "submit: bias_tokens and bias_values differ in number";
    if (!tokens_valid(s->bias_tokens, s->n_bias_tokens, l->vocab) || !tokens_valid(s->allowed_tokens, s->n_allowed_tokens, l->vocab) ||
        !tokens_valid(s->logprob_tokens, s->n_logprob_tokens, l->vocab))
        return "submit: a token outside the vocabulary";
    for (size_t i = 0; i < s->n_bad_words; i++)
        if (s->bad_words[i]->n_tokens == 0 || !tokens_valid(s->bad_words[i]->tokens, s->bad_words[i]->n_tokens, l->vocab))
            return "submit: a bad word that is empty or outside the vocabulary";
    if (s->n_logprobs < -1 || s->n_prompt_logprobs < -1 || s->min_tokens < 0 || s->max_tokens < 0)
        return "submit: a count out of range";
    return NULL;
}

const char *wire_check_submit(const Trireme__Submit *s, const wire_limits *l)
{
    if (s->n_tokens == 0 || s->n_tokens > (size_t)l->max_model_len || !within(s->n_prompt, 1, (int64_t)s->n_tokens))
        return "submit: no tokens, more than max_model_len, or n_prompt not among them";
    if (!tokens_valid(s->tokens, s->n_tokens, l->vocab))
        return "submit: a token outside the vocabulary";
    if (s->cache_salt.len > MAX_SALT || !within((int64_t)s->pooling, TRIREME__POOLING__GENERATE, TRIREME__POOLING__POOL_MEAN))
        return "submit: cache_salt or pooling";
    if (s->sampling == NULL)
        return s->pooling == TRIREME__POOLING__GENERATE ? "submit: no sampling" : NULL;
    return check_sampling(s->sampling, l);
}

uint32_t wire_negotiate(wire_version theirs, wire_version ours, const char *who_they_are, const char *who_we_are, char reason[WIRE_REASON])
{
    if (theirs.oldest == 0 || theirs.oldest > theirs.newest)
        theirs.oldest = theirs.newest;
    reason[0] = '\0';
    if (theirs.oldest > ours.newest)
        snprintf(reason, WIRE_REASON, "%s needs replica protocol %u or newer and %s speaks %u at most: upgrade %s", who_they_are, theirs.oldest, who_we_are,
                 ours.newest, who_we_are);
    else if (theirs.newest < ours.oldest)
        snprintf(reason, WIRE_REASON, "%s speaks replica protocol %u at most and %s needs %u or newer: upgrade %s", who_they_are, theirs.newest, who_we_are,
                 ours.oldest, who_they_are);
    if (reason[0] != '\0')
        return 0;
    return theirs.newest < ours.newest ? theirs.newest : ours.newest;
}
