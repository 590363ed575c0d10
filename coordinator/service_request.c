/* coordinator/service_request.c - a Submit checked and turned into a request.
 *
 * A gateway is trusted to be ours, not to be right: whatever would make a step fail is refused here, since a step that fails takes the whole job
 * with it.  Messages name fields and numbers, never tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/sampling.h"
#include "coordinator/service_internal.h"
#include "shard/arch.h"

enum { MAX_NAMED_LOGPROBS = 1024 };

static status in_range(const char *name, float v, double min, double max)
{
    return (double)v >= min && (double)v <= max ? ST_OK : FAIL(ST_INVALID, "%s is %g, must be from %g to %g", name, (double)v, min, max); /* NaN too */
}

static status ids_valid(const service *s, const char *name, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= s->arch->vocab)
            return FAIL(ST_INVALID, "%s: an id is outside the vocabulary of %d", name, s->arch->vocab);
    }
    return n <= (size_t)s->arch->vocab ? ST_OK : FAIL(ST_INVALID, "%s: %zu ids, more than the vocabulary of %d", name, n, s->arch->vocab);
}

static status numbers_valid(const service *s, const Trireme__Sampling *m)
{
    TRY(in_range("temperature", m->temperature, 0, 1e4));
    TRY(in_range("top_p", m->top_p, 0, 1));
    TRY(in_range("min_p", m->min_p, 0, 1));
    TRY(in_range("repetition_penalty", m->repetition_penalty, 1e-6, 1e6));
    TRY(in_range("presence_penalty", m->presence_penalty, -1e6, 1e6));
    TRY(in_range("frequency_penalty", m->frequency_penalty, -1e6, 1e6));
    if (m->top_k < 0 || m->min_tokens < 0 || m->max_tokens < 1)
        return FAIL(ST_INVALID, "top_k %d, min_tokens %d, max_tokens %d: none may be negative, max_tokens not 0", m->top_k, m->min_tokens, m->max_tokens);
    int32_t most = s->opt.max_logprobs < s->arch->vocab ? s->opt.max_logprobs : s->arch->vocab;
    if (m->n_logprobs > most || m->n_prompt_logprobs > most)
        return FAIL(ST_INVALID, "%d log-probabilities are asked for: this replica gives at most %d (--max-logprobs)",
                    m->n_logprobs > m->n_prompt_logprobs ? m->n_logprobs : m->n_prompt_logprobs, most);
    return ST_OK;
}

void service_grammars_prepare(service *s)
{
    const shard_tokenizer *t;
    const shard_generation *g = shard_checkpoint_generation(coord_replica_checkpoint(s->replica));
    status_mute();
    status st = shard_checkpoint_tokenizer(coord_replica_checkpoint(s->replica), &t);
    if (st == ST_OK)
        st = shard_grammar_vocab_create(t, s->arch->vocab, g->eos, g->n_eos, &s->grammar_vocab);
    if (st != ST_OK)
        log_info("requests with grammars are refused: %s", status_message());
    status_unmute();
}

/* Loads the grammar, as every rank of the last stage will: there it must not fail. */
static status grammar_valid(const service *s, const ProtobufCBinaryData *bytes)
{
    shard_grammar *g = NULL;
    if (bytes->len == 0)
        return ST_OK;
    if (s->grammar_vocab == NULL)
        return FAIL(ST_UNSUPPORTED, "this checkpoint's tokenizer allows no grammars");
    if (bytes->len > STEP_MAX_GRAMMAR)
        return FAIL(ST_LIMIT, "a grammar of %zu bytes: at most %zu", bytes->len, STEP_MAX_GRAMMAR);
    TRY(shard_grammar_load(bytes->data, bytes->len, s->grammar_vocab, &g));
    shard_grammar_destroy(&g);
    return ST_OK;
}

static status lists_valid(const service *s, const Trireme__Sampling *m)
{
    if (m->n_stop > STEP_MAX_STOP_IDS)
        return FAIL(ST_INVALID, "%zu end tokens: at most %d", m->n_stop, STEP_MAX_STOP_IDS);
    TRY(ids_valid(s, "stop", m->stop, m->n_stop));
    TRY(ids_valid(s, "bias_tokens", m->bias_tokens, m->n_bias_tokens));
    if (m->n_bias_values != m->n_bias_tokens)
        return FAIL(ST_INVALID, "%zu biases for %zu tokens", m->n_bias_values, m->n_bias_tokens);
    for (size_t i = 0; i < m->n_bias_values; i++) {
        if (!(m->bias_values[i] == -INFINITY || fabsf(m->bias_values[i]) <= 1e9f))
            return FAIL(ST_INVALID, "a bias is %g, must be -inf or from -1e9 to 1e9", (double)m->bias_values[i]);
    }
    TRY(ids_valid(s, "allowed_tokens", m->allowed_tokens, m->n_allowed_tokens));
    TRY(ids_valid(s, "logprob_tokens", m->logprob_tokens, m->n_logprob_tokens));
    if (m->n_logprob_tokens > MAX_NAMED_LOGPROBS)
        return FAIL(ST_INVALID, "%zu logprob_tokens: at most %d", m->n_logprob_tokens, MAX_NAMED_LOGPROBS);
    if (m->n_logprobs > 0 && m->n_logprob_tokens + (size_t)m->n_logprobs > (size_t)s->arch->vocab)
        return FAIL(ST_INVALID, "%zu logprob_tokens beside %d log-probabilities: more than the vocabulary of %d", m->n_logprob_tokens, m->n_logprobs, s->arch->vocab);
    if (m->n_bad_words > (size_t)s->arch->vocab)
        return FAIL(ST_INVALID, "%zu bad words, more than the vocabulary of %d", m->n_bad_words, s->arch->vocab);
    for (size_t i = 0; i < m->n_bad_words; i++) {
        TRY(ids_valid(s, "bad_words", m->bad_words[i]->tokens, m->bad_words[i]->n_tokens));
        if (m->bad_words[i]->n_tokens == 0)
            return FAIL(ST_INVALID, "bad_words: one is empty");
    }
    return grammar_valid(s, &m->grammar);
}

/* The sampling parameters, with lists of their own. */
static status sampling_take(const Trireme__Sampling *m, service_command *c)
{
    step_sampling borrowed;
    step_bias *bias = NULL;
    step_tokens *words = NULL;
    coord_sampling_of_wire(m, &borrowed);
    status st = mem_calloc(m->n_bias_tokens + 1, sizeof(*bias), "biases", &bias);
    if (st == ST_OK)
        st = mem_calloc(m->n_bad_words + 1, sizeof(*words), "bad words", &words);
    if (st == ST_OK) {
        for (size_t i = 0; i < m->n_bias_tokens; i++)
            bias[i] = (step_bias){m->bias_tokens[i], m->bias_values[i]};
        for (size_t i = 0; i < m->n_bad_words; i++)
            words[i] = (step_tokens){(int32_t)m->bad_words[i]->n_tokens, m->bad_words[i]->tokens};
        borrowed.n_bias = (int32_t)m->n_bias_tokens;
        borrowed.bias = bias;
        borrowed.n_bad_words = (int32_t)m->n_bad_words;
        borrowed.bad_words = words;
        st = step_sampling_copy(&borrowed, &c->request.sampling, &c->lists);
    }
    free(bias);
    free(words);
    return st;
}

static status tokens_take(const service *s, const Trireme__Submit *m, service_command *c)
{
    coord_request *r = &c->request;
    for (size_t i = 0; i < m->n_tokens; i++) {
        if (m->tokens[i] < 0 || m->tokens[i] >= s->arch->vocab)
            return FAIL(ST_INVALID, "tokens: an id is outside the vocabulary of %d", s->arch->vocab);
    }
    if (m->n_tokens < 1 || m->n_tokens >= (size_t)s->max_model_len || m->n_prompt < 1 || (size_t)m->n_prompt > m->n_tokens)
        return FAIL(ST_INVALID, "%zu tokens, %d of them the prompt: one at least, and at most %d in a context of %d", m->n_tokens, m->n_prompt,
                    s->max_model_len - 1, s->max_model_len);
    TRY(mem_calloc(m->n_tokens, sizeof(int32_t), "a prompt", &c->tokens));
    memcpy(c->tokens, m->tokens, m->n_tokens * sizeof(int32_t));
    r->tokens = c->tokens;
    r->n_tokens = (int32_t)m->n_tokens;
    r->n_prompt = m->n_prompt;
    r->priority = m->priority;
    r->hash = m->hash;
    r->rope_set = shard_arch_rope_set(s->arch, m->n_prompt);
    if (m->cache_salt.len == 0)
        return ST_OK;
    TRY(mem_calloc(m->cache_salt.len, 1, "a salt", &c->salt));
    memcpy(c->salt, m->cache_salt.data, m->cache_salt.len);
    r->cache_salt = c->salt;
    r->n_cache_salt = m->cache_salt.len;
    return ST_OK;
}

static status pooling_take(const Trireme__Submit *m, service_command *c)
{
    coord_request *r = &c->request;
    if (m->n_prompt != (int32_t)m->n_tokens)
        return FAIL(ST_INVALID, "a request for a vector has no generated tokens");
    r->pooling = m->pooling == TRIREME__POOLING__POOL_MEAN ? STEP_POOL_MEAN : STEP_POOL_LAST;
    r->normalize = m->normalize;
    r->sampling = (step_sampling){.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1, .n_prompt_logprobs = -1, .max_tokens = 1};
    return ST_OK;
}

static status generation_take(const service *s, const Trireme__Submit *m, service_command *c)
{
    if (m->sampling == NULL)
        return FAIL(ST_INVALID, "sampling is missing");
    TRY(numbers_valid(s, m->sampling));
    TRY(lists_valid(s, m->sampling));
    return sampling_take(m->sampling, c);
}

status service_request_of(const service *s, const Trireme__Submit *m, service_command **out)
{
    service_command *c;
    status_mute();
    status st = mem_calloc(1, sizeof(*c), "a request", &c);
    if (st == ST_OK) {
        c->kind = COMMAND_SUBMIT;
        c->gateway_id = m->id;
        c->bytes = trireme__submit__get_packed_size(m) + sizeof(*c);
        st = tokens_take(s, m, c);
        if (st == ST_OK)
            st = m->pooling == TRIREME__POOLING__GENERATE ? generation_take(s, m, c) : pooling_take(m, c);
        if (st != ST_OK)
            service_command_free(&c);
    }
    status_unmute();
    if (st == ST_OK)
        *out = c;
    return st;
}
