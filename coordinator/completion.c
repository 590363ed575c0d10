#include "coordinator/completion.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "coordinator/gateway/api_fields.h"
#include "coordinator/gateway/api_prompt.h"
#include "coordinator/gateway/api_sampling.h"
#include "coordinator/gateway/api_text.h"
#include "coordinator/sampling.h"
#include "shard/arch.h"

struct coord_completion {
    coord_request request;
    shard_ids prompt, generated;
    api_sampling sampling; /* what the request's lists are borrowed from */
    step_bias *bias;
    step_tokens *bad_words;
    float *embedding;
    int32_t n_embedding;
    api_text *text;
    bool ended;
    const char *finish;
    uint64_t hash;
    bool want_hash;
    json_t *id, *logprobs, *prompt_logprobs;
};

/* ---- parsing: the API's fields, sampling and prompts, of one sequence ---- */

typedef struct parser {
    const json_t *object;
    coord_completion *c;
    const coord_completion_defaults *defaults;
    shard_checkpoint *checkpoint;
    const shard_text *text;
    api_fields fields;
    api_error *e;
} parser;

static status parse_prompt(const parser *p)
{
    const api_fields *f = &p->fields;
    coord_completion *c = p->c;
    mem_str rendered = {0};
    status st = ST_OK;
    if ((f->prompt != NULL) + (f->prompt_ids != NULL) + (f->messages != NULL) != 1)
        return api_refuse(p->e, ST_INVALID, NULL, "exactly one of prompt, prompt_ids and messages is needed");
    if (f->prompt != NULL && !json_is_string(f->prompt))
        return api_refuse(p->e, ST_INVALID, NULL, "prompt must be a string (token ids go in prompt_ids)");
    if (f->prompt_ids != NULL) {
        st = api_token_ids("prompt_ids", f->prompt_ids, shard_checkpoint_arch(p->checkpoint)->vocab, &c->prompt, p->e);
    } else if (f->prompt != NULL) {
        st = api_prompt_text("prompt", json_string_value(f->prompt), json_string_length(f->prompt), !f->has_add_special_tokens || f->add_special_tokens, p->text,
                             &c->prompt, p->e);
    } else {
        const api_chat chat = {.messages = f->messages, .tools = json_array_size(f->tools) > 0 ? f->tools : NULL, .messages_name = "messages"};
        st = api_prompt_chat(f, &chat, p->text, &rendered, &c->prompt, p->e);
    }
    mem_str_free(&rendered);
    TRY(st);
    if (c->prompt.n == 0)
        return api_refuse(p->e, ST_INVALID, NULL, "the prompt is empty: at least one token is needed");
    if (c->prompt.n >= (size_t)p->defaults->max_context)
        return api_refuse(p->e, ST_LIMIT, NULL, "the prompt has %zu tokens; a context of %d leaves room for %d at most", c->prompt.n, p->defaults->max_context,
                          p->defaults->max_context - 1);
    return ST_OK;
}

/* The step's form of what was resolved. */
static status take_sampling(const parser *p)
{
    coord_completion *c = p->c;
    const Trireme__Sampling *m = &c->sampling.message;
    step_sampling *s = &c->request.sampling;
    coord_sampling_of_wire(m, s);
    if (mem_calloc(m->n_bias_tokens + 1, sizeof(*c->bias), "logit_bias", &c->bias) != ST_OK ||
        mem_calloc(m->n_bad_words + 1, sizeof(*c->bad_words), "bad words", &c->bad_words) != ST_OK)
        return api_refuse_message(p->e, ST_NO_MEMORY, NULL);
    for (size_t i = 0; i < m->n_bias_tokens; i++)
        c->bias[i] = (step_bias){m->bias_tokens[i], m->bias_values[i]};
    for (size_t i = 0; i < m->n_bad_words; i++)
        c->bad_words[i] = (step_tokens){(int32_t)m->bad_words[i]->n_tokens, m->bad_words[i]->tokens};
    s->bias = c->bias;
    s->n_bias = (int32_t)m->n_bias_tokens;
    s->bad_words = c->bad_words;
    s->n_bad_words = (int32_t)m->n_bad_words;
    return ST_OK;
}

static status parse_pooling(const parser *p)
{
    coord_request *r = &p->c->request;
    const char *kind = p->fields.pooling;
    r->normalize = p->fields.normalize;
    if (kind == NULL)
        return ST_OK;
    if (strcmp(kind, "last") != 0 && strcmp(kind, "mean") != 0)
        return api_refuse(p->e, ST_INVALID, NULL, "pooling is \"last\" or \"mean\", not \"%.20s\"", kind);
    r->pooling = strcmp(kind, "last") == 0 ? STEP_POOL_LAST : STEP_POOL_MEAN;
    r->sampling.max_tokens = 1;
    return ST_OK;
}

static status parse_sampling(const parser *p)
{
    coord_completion *c = p->c;
    const api_limits limits = {.vocab = shard_checkpoint_arch(p->checkpoint)->vocab, .max_context = p->defaults->max_context, .default_max_tokens = p->defaults->max_tokens};
    Trireme__Sampling *m = &c->sampling.message;
    if (p->fields.max_tokens == 0)
        return api_refuse(p->e, ST_INVALID, NULL, "max_tokens must be at least 1");
    TRY(api_sampling_resolve(&p->fields, p->text, &limits, &c->sampling, p->e));
    api_sampling_fit(&p->fields, &limits, c->prompt.n, m);
    m->want_hash = c->want_hash = p->defaults->want_hash;
    return take_sampling(p);
}

/* Text is decoded where there is a tokenizer; a request of token ids without stop strings does without. */
static status parse_text(const parser *p)
{
    coord_completion *c = p->c;
    api_text_options o = {.stops = c->sampling.stops, .n_stops = c->sampling.n_stops, .include_stop = p->fields.include_stop_str_in_output,
                          .skip_special = p->fields.skip_special_tokens};
    status_mute();
    status st = shard_checkpoint_tokenizer(p->checkpoint, &o.tokenizer);
    if (st == ST_NOT_FOUND && o.n_stops == 0) {
        st = ST_OK;
        o.tokenizer = NULL;
    }
    if (st == ST_OK)
        st = api_text_create(&o, &c->text);
    status_unmute();
    return st == ST_OK ? ST_OK : api_refuse_message(p->e, st, NULL);
}

static status parse_all(parser *p)
{
    coord_completion *c = p->c;
    TRY(api_fields_read(API_FOR_LINES, p->object, &p->fields, p->e));
    c->id = json_incref((json_t *)p->fields.id);
    TRY(parse_prompt(p));
    TRY(parse_sampling(p));
    TRY(parse_pooling(p));
    TRY(parse_text(p));
    c->request.tokens = c->prompt.data;
    c->request.n_tokens = c->request.n_prompt = (int32_t)c->prompt.n;
    c->request.priority = p->fields.priority == API_ABSENT ? 0 : p->fields.priority;
    c->request.rope_set = shard_arch_rope_set(shard_checkpoint_arch(p->checkpoint), (int64_t)c->prompt.n);
    if (c->request.sampling.n_logprobs >= 0 || c->request.sampling.logprob_tokens.n > 0)
        c->logprobs = json_array();
    if (c->request.sampling.n_prompt_logprobs >= 0) {
        c->prompt_logprobs = json_array();
        json_array_append_new(c->prompt_logprobs, json_null());
    }
    return ST_OK;
}

status coord_completion_parse(const char *where, const json_t *object, uint64_t number, const coord_completion_defaults *defaults,
                              shard_checkpoint *checkpoint, coord_completion **out)
{
    coord_completion *c;
    const shard_text *text;
    api_error e;
    TRY(shard_checkpoint_text(checkpoint, &text));
    TRY(mem_calloc(1, sizeof(*c), "request", &c));
    c->request.id = number;
    parser p = {.object = object, .c = c, .defaults = defaults, .checkpoint = checkpoint, .text = text, .e = &e};
    status st = parse_all(&p);
    if (st != ST_OK) {
        coord_completion_destroy(&c);
        return FAIL(st, "%s: %s", where, e.message);
    }
    *out = c;
    return ST_OK;
}

void coord_completion_destroy(coord_completion **completion)
{
    coord_completion *c = *completion;
    if (c == NULL)
        return;
    shard_ids_free(&c->prompt);
    shard_ids_free(&c->generated);
    api_text_destroy(&c->text);
    api_sampling_free(&c->sampling);
    free(c->bias);
    free(c->bad_words);
    free(c->embedding);
    json_decref(c->id);
    json_decref(c->logprobs);
    json_decref(c->prompt_logprobs);
    free(c);
    *completion = NULL;
}

const coord_request *coord_completion_request(const coord_completion *c)
{
    return &c->request;
}

/* ---- the answer ---- */

/* The last n_named of the list are those that the request named. */
static json_t *logprob_json(const coord_event *e, int32_t n_named)
{
    json_t *top = json_array(), *named = n_named > 0 ? json_array() : NULL;
    for (int32_t i = 0; i < e->n_top - n_named; i++)
        json_array_append_new(top, json_pack("[if]", e->top[i].token, (double)e->top[i].logprob));
    for (int32_t i = e->n_top - n_named; i < e->n_top; i++)
        json_array_append_new(named, json_pack("[ifi]", e->top[i].token, (double)e->top[i].logprob, e->top[i].rank));
    return json_pack("{si sf si so so*}", "id", e->token, "logprob", (double)e->logprob, "rank", e->rank, "top", top, "named", named);
}

static status take_embedding(coord_completion *c, const coord_event *e)
{
    TRY(mem_calloc((size_t)e->n_embedding, sizeof(float), "a vector", &c->embedding));
    memcpy(c->embedding, e->embedding, (size_t)e->n_embedding * sizeof(float));
    c->n_embedding = e->n_embedding;
    return ST_OK;
}

static status ids_append(shard_ids *ids, int32_t id)
{
    TRY(mem_grow(&ids->data, &ids->cap, ids->n + 1, sizeof(*ids->data), "tokens"));
    ids->data[ids->n++] = id;
    return ST_OK;
}

status coord_completion_event(coord_completion *c, const coord_event *e, bool *ended, bool *cancel)
{
    *ended = *cancel = false;
    if (c->ended)
        return ST_OK;
    if (e->prompt) {
        json_array_append_new(c->prompt_logprobs, logprob_json(e, 0));
        return ST_OK;
    }
    bool stopped;
    if (e->token < 0) { /* a vector, or no token could come */
        c->ended = *ended = true;
        c->finish = e->n_embedding > 0 ? "stop" : "error";
        if (e->n_embedding > 0)
            TRY(take_embedding(c, e));
        return api_text_end(c->text);
    }
    TRY(ids_append(&c->generated, e->token));
    if (c->logprobs != NULL)
        json_array_append_new(c->logprobs, logprob_json(e, c->request.sampling.logprob_tokens.n));
    c->hash = e->hash;
    TRY(api_text_push(c->text, e->token, e->finish, &stopped));
    if (stopped || e->finish != 0) {
        c->ended = *ended = true;
        *cancel = e->finish == 0;
        c->finish = stopped || e->finish == 1 ? "stop" : "length";
    }
    return ST_OK;
}

const char *coord_completion_take_text(coord_completion *c, size_t *len)
{
    return api_text_take(c->text, len);
}

int32_t coord_completion_n_tokens(const coord_completion *c)
{
    return (int32_t)c->generated.n;
}

bool coord_completion_ended(const coord_completion *c)
{
    return c->ended;
}

static json_t *ids_json(const shard_ids *ids)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ids->n; i++)
        json_array_append_new(list, json_integer(ids->data[i]));
    return list;
}

json_t *coord_completion_answer(const coord_completion *c)
{
    char hash[17];
    size_t len;
    const char *text = api_text_all(c->text, &len);
    json_t *a = json_object();
    if (c->id != NULL)
        json_object_set(a, "id", c->id);
    json_object_set_new(a, "prompt_ids", ids_json(&c->prompt));
    json_object_set_new(a, "token_ids", ids_json(&c->generated));
    json_object_set_new(a, "text", text == NULL ? json_null() : json_stringn(text, len));
    json_object_set_new(a, "finish_reason", c->finish == NULL ? json_null() : json_string(c->finish));
    if (c->request.sampling.temperature > 0)
        json_object_set_new(a, "seed", json_integer((json_int_t)c->request.sampling.seed));
    if (c->want_hash) {
        snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)c->hash);
        json_object_set_new(a, "logits_hash", json_string(hash));
    }
    if (c->embedding != NULL) {
        json_t *v = json_array();
        for (int32_t i = 0; i < c->n_embedding; i++)
            json_array_append_new(v, json_real((double)c->embedding[i]));
        json_object_set_new(a, "embedding", v);
    }
    if (c->logprobs != NULL)
        json_object_set(a, "logprobs", c->logprobs);
    if (c->prompt_logprobs != NULL)
        json_object_set(a, "prompt_logprobs", c->prompt_logprobs);
    return a;
}
