#include "coordinator/completion.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/json.h"
#include "base/mem.h"
#include "shard/arch.h"

#define MAX_STOP_STRINGS 64
#define MAX_STOP_BYTES 1024

struct coord_completion {
    coord_request request;
    shard_ids prompt, generated;
    step_bias *bias;
    step_tokens *bad_words;
    float *embedding;
    int32_t n_embedding;
    char *stop[MAX_STOP_STRINGS];
    int n_stop;
    size_t longest_stop;
    bool include_stop;
    shard_stream *stream; /* NULL: the checkpoint has no tokenizer, and no text is needed */
    mem_str text;
    size_t taken;         /* bytes of text handed out */
    bool ended;
    const char *finish;
    uint64_t hash;
    bool want_hash;
    json_t *id, *logprobs, *prompt_logprobs;
};

/* ---- parsing ---- */

typedef struct parser {
    const char *where;
    const json_t *object;
    coord_completion *c;
    const coord_completion_defaults *defaults;
    shard_checkpoint *checkpoint;
} parser;

static status fields_known(const parser *p)
{
    static const char *const known[] = {"id", "prompt", "prompt_ids", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
        "chat_template_kwargs", "max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty",
        "frequency_penalty", "logit_bias", "seed", "stop", "stop_token_ids", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
        "add_special_tokens", "logprobs", "prompt_logprobs", "logprob_token_ids", "allowed_token_ids", "bad_words_ids", "pooling", "normalize", "priority"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)p->object, key, value) {
        size_t i = 0;
        while (i < ARRAY_LEN(known) && strcmp(known[i], key) != 0)
            i++;
        if (i == ARRAY_LEN(known))
            return FAIL(ST_INVALID, "%s: no field is called \"%s\"", p->where, key);
    }
    return ST_OK;
}

/* A number in [min, max], default dflt. */
static status get_f32(const parser *p, const char *key, double dflt, double min, double max, float *out)
{
    double v = 0;
    TRY(json_get_f64(p->object, p->where, key, dflt, &v));
    if (!(v >= min && v <= max))
        return FAIL(ST_INVALID, "%s: %s is %g, must be from %g to %g", p->where, key, v, min, max);
    *out = (float)v;
    return ST_OK;
}

static status token_of(const parser *p, const char *key, const json_t *v, int32_t *out)
{
    int32_t vocab = shard_checkpoint_arch(p->checkpoint)->vocab;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab) {
        char *text = json_line(v);
        status st = FAIL(ST_INVALID, "%s: %s: %.40s is no token id (0 to %d)", p->where, key, text == NULL ? "?" : text, vocab - 1);
        free(text);
        return st;
    }
    *out = (int32_t)json_integer_value(v);
    return ST_OK;
}

static status ids_append(shard_ids *ids, int32_t id)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap == 0 ? 64 : ids->cap * 2;
        int32_t *data = realloc(ids->data, cap * sizeof(*data));
        if (data == NULL)
            return FAIL(ST_NO_MEMORY, "no memory for %zu tokens", cap);
        ids->data = data;
        ids->cap = cap;
    }
    ids->data[ids->n++] = id;
    return ST_OK;
}

static status prompt_from_ids(const parser *p, const json_t *list)
{
    size_t i;
    json_t *v;
    json_array_foreach((json_t *)list, i, v) {
        int32_t id;
        TRY(token_of(p, "prompt_ids", v, &id));
        TRY(ids_append(&p->c->prompt, id));
    }
    return ST_OK;
}

static status prompt_from_text(const parser *p, const char *text, size_t len, bool special)
{
    const shard_tokenizer *t;
    TRY(shard_checkpoint_tokenizer(p->checkpoint, &t));
    return shard_tokenizer_encode(t, text, len, special ? SHARD_ENCODE_ADD_SPECIAL : 0, &p->c->prompt);
}

static status prompt_from_messages(const parser *p, const json_t *messages)
{
    const shard_template *t;
    mem_str rendered = {0};
    json_t *tools, *documents, *kwargs;
    shard_template_input in = {.messages = messages};
    TRY(shard_checkpoint_template(p->checkpoint, &t, &in.variables));
    TRY(json_get_arr(p->object, p->where, "tools", &tools));
    TRY(json_get_arr(p->object, p->where, "documents", &documents));
    TRY(json_get_obj(p->object, p->where, "chat_template_kwargs", &kwargs));
    TRY(json_get_bool(p->object, p->where, "continue_final_message", false, &in.continue_final_message));
    TRY(json_get_bool(p->object, p->where, "add_generation_prompt", !in.continue_final_message, &in.add_generation_prompt));
    in.tools = tools;
    in.documents = documents;
    in.kwargs = kwargs;
    status st = shard_template_render(t, &in, NULL, &rendered);
    if (st == ST_OK) /* the template writes special tokens itself */
        st = prompt_from_text(p, rendered.data == NULL ? "" : rendered.data, rendered.len, false);
    mem_str_free(&rendered);
    return st;
}

static status parse_prompt(const parser *p)
{
    json_t *ids, *messages;
    const json_t *text = json_object_get(p->object, "prompt");
    TRY(json_get_arr(p->object, p->where, "prompt_ids", &ids));
    TRY(json_get_arr(p->object, p->where, "messages", &messages));
    if ((text != NULL) + (ids != NULL) + (messages != NULL) != 1)
        return FAIL(ST_INVALID, "%s: exactly one of prompt, prompt_ids and messages is needed", p->where);
    if (text != NULL && !json_is_string(text))
        return FAIL(ST_INVALID, "%s: prompt must be a string (token ids go in prompt_ids)", p->where);
    bool special = true;
    TRY(json_get_bool(p->object, p->where, "add_special_tokens", true, &special));
    TRY(ids != NULL    ? prompt_from_ids(p, ids)
        : text != NULL ? prompt_from_text(p, json_string_value(text), json_string_length(text), special)
                       : prompt_from_messages(p, messages));
    if (p->c->prompt.n == 0)
        return FAIL(ST_INVALID, "%s: the prompt is empty: at least one token is needed", p->where);
    if (p->c->prompt.n >= (size_t)p->defaults->max_context)
        return FAIL(ST_LIMIT, "%s: the prompt has %zu tokens; a context of %d leaves room for %d at most", p->where, p->c->prompt.n,
                    p->defaults->max_context, p->defaults->max_context - 1);
    return ST_OK;
}

static status stop_token(const parser *p, int32_t token)
{
    step_sampling *s = &p->c->request.sampling;
    for (int32_t i = 0; i < s->n_stop; i++) {
        if (s->stop[i] == token)
            return ST_OK;
    }
    if (s->n_stop == STEP_MAX_STOP_IDS)
        return FAIL(ST_INVALID, "%s: more than %d end tokens", p->where, STEP_MAX_STOP_IDS);
    s->stop[s->n_stop++] = token;
    return ST_OK;
}

static status parse_stop_tokens(const parser *p)
{
    json_t *list, *v;
    size_t i;
    bool ignore_eos = false;
    const shard_generation *g = shard_checkpoint_generation(p->checkpoint);
    TRY(json_get_bool(p->object, p->where, "ignore_eos", false, &ignore_eos));
    for (int32_t e = 0; !ignore_eos && e < g->n_eos; e++) {
        if (g->eos[e] < shard_checkpoint_arch(p->checkpoint)->vocab) /* else it can never come */
            TRY(stop_token(p, g->eos[e]));
    }
    TRY(json_get_arr(p->object, p->where, "stop_token_ids", &list));
    json_array_foreach(list, i, v) {
        int32_t token;
        TRY(token_of(p, "stop_token_ids", v, &token));
        TRY(stop_token(p, token));
    }
    return ST_OK;
}

static status stop_string(const parser *p, const json_t *v)
{
    coord_completion *c = p->c;
    if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > MAX_STOP_BYTES ||
        strlen(json_string_value(v)) != json_string_length(v))
        return FAIL(ST_INVALID, "%s: stop must be a string, or a list of strings, of 1 to %d bytes", p->where, MAX_STOP_BYTES);
    if (c->n_stop == MAX_STOP_STRINGS)
        return FAIL(ST_INVALID, "%s: more than %d stop strings", p->where, MAX_STOP_STRINGS);
    c->stop[c->n_stop] = strdup(json_string_value(v));
    if (c->stop[c->n_stop] == NULL)
        return FAIL(ST_NO_MEMORY, "%s: no memory for a stop string", p->where);
    c->n_stop++;
    c->longest_stop = json_string_length(v) > c->longest_stop ? json_string_length(v) : c->longest_stop;
    return ST_OK;
}

static status parse_stop_strings(const parser *p)
{
    json_t *stop = json_object_get(p->object, "stop"), *v;
    size_t i;
    TRY(json_get_bool(p->object, p->where, "include_stop_str_in_output", false, &p->c->include_stop));
    if (stop == NULL || json_is_null(stop))
        return ST_OK;
    if (!json_is_array(stop))
        return stop_string(p, stop);
    json_array_foreach(stop, i, v)
        TRY(stop_string(p, v));
    return ST_OK;
}

static status parse_bias(const parser *p)
{
    json_t *map, *value;
    const char *key;
    step_sampling *s = &p->c->request.sampling;
    TRY(json_get_obj(p->object, p->where, "logit_bias", &map));
    if (map == NULL || json_object_size(map) == 0)
        return ST_OK;
    TRY(mem_calloc(json_object_size(map), sizeof(step_bias), "logit_bias", &p->c->bias));
    s->bias = p->c->bias;
    json_object_foreach(map, key, value) {
        char *end;
        errno = 0;
        long token = strtol(key, &end, 10);
        if (*key == '\0' || *end != '\0' || errno != 0 || token < 0 || token >= shard_checkpoint_arch(p->checkpoint)->vocab ||
            !json_is_number(value) || fabs(json_number_value(value)) > 1e6)
            return FAIL(ST_INVALID, "%s: logit_bias maps token ids to numbers; \"%.20s\" is none", p->where, key);
        p->c->bias[s->n_bias++] = (step_bias){(int32_t)token, (float)json_number_value(value)};
    }
    return ST_OK;
}

/* A list of token ids; empty if absent. */
static status parse_tokens(const parser *p, const char *key, const json_t *list, step_tokens *out)
{
    int32_t *tokens;
    json_t *v;
    size_t i;
    if (list == NULL || json_array_size(list) == 0)
        return ST_OK;
    TRY(mem_calloc(json_array_size(list), sizeof(*tokens), key, &tokens));
    out->tokens = tokens;
    json_array_foreach((json_t *)list, i, v)
        TRY(token_of(p, key, v, &tokens[i]));
    out->n = (int32_t)json_array_size(list);
    return ST_OK;
}

static status parse_lists(const parser *p)
{
    step_sampling *s = &p->c->request.sampling;
    json_t *list, *word;
    size_t i;
    TRY(json_get_arr(p->object, p->where, "allowed_token_ids", &list));
    TRY(parse_tokens(p, "allowed_token_ids", list, &s->allowed));
    TRY(json_get_arr(p->object, p->where, "logprob_token_ids", &list));
    TRY(parse_tokens(p, "logprob_token_ids", list, &s->logprob_tokens));
    TRY(json_get_arr(p->object, p->where, "bad_words_ids", &list));
    if (list == NULL || json_array_size(list) == 0)
        return ST_OK;
    TRY(mem_calloc(json_array_size(list), sizeof(step_tokens), "bad_words_ids", &p->c->bad_words));
    s->bad_words = p->c->bad_words;
    s->n_bad_words = (int32_t)json_array_size(list);
    json_array_foreach(list, i, word) {
        if (!json_is_array(word) || json_array_size(word) == 0)
            return FAIL(ST_INVALID, "%s: bad_words_ids is a list of lists of token ids, none of them empty", p->where);
        TRY(parse_tokens(p, "bad_words_ids", word, &p->c->bad_words[i]));
    }
    return ST_OK;
}

static status parse_pooling(const parser *p)
{
    coord_request *r = &p->c->request;
    const char *kind = NULL;
    TRY(json_get_str(p->object, p->where, "pooling", NULL, &kind));
    TRY(json_get_bool(p->object, p->where, "normalize", false, &r->normalize));
    if (kind == NULL)
        return ST_OK;
    if (strcmp(kind, "last") != 0 && strcmp(kind, "mean") != 0)
        return FAIL(ST_INVALID, "%s: pooling is \"last\" or \"mean\", not \"%.20s\"", p->where, kind);
    r->pooling = strcmp(kind, "last") == 0 ? STEP_POOL_LAST : STEP_POOL_MEAN;
    r->sampling.max_tokens = 1;
    return ST_OK;
}

static status parse_logprobs(const parser *p, const char *key, int32_t *out)
{
    const json_t *v = json_object_get(p->object, key);
    int32_t vocab = shard_checkpoint_arch(p->checkpoint)->vocab;
    if (v == NULL || json_is_null(v) || json_is_false(v)) {
        *out = -1;
        return ST_OK;
    }
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > vocab)
        return FAIL(ST_INVALID, "%s: %s must be a whole number from 0 to %d: how many of the likeliest tokens to list", p->where, key, vocab);
    *out = (int32_t)json_integer_value(v);
    return ST_OK;
}

static status parse_seed(const parser *p)
{
    uint64_t *seed = &p->c->request.sampling.seed;
    int64_t given = 0;
    const json_t *v = json_object_get(p->object, "seed");
    if (v != NULL && !json_is_null(v)) {
        TRY(json_get_int(p->object, p->where, "seed", 0, INT64_MIN, INT64_MAX, &given));
        *seed = (uint64_t)given;
        return ST_OK;
    }
    if (getrandom(seed, sizeof(*seed), 0) != sizeof(*seed))
        return FAIL(ST_IO, "cannot draw a seed: %s", strerror(errno));
    *seed >>= 12; /* exact as a JSON number in every client */
    return ST_OK;
}

static double dflt(float checkpoint, double usual)
{
    return checkpoint >= 0 ? checkpoint : usual;
}

static status parse_sampling(const parser *p)
{
    step_sampling *s = &p->c->request.sampling;
    const shard_generation *g = shard_checkpoint_generation(p->checkpoint);
    int32_t room = p->defaults->max_context - (int32_t)p->c->prompt.n;
    TRY(get_f32(p, "temperature", dflt(g->temperature, 1), 0, 100, &s->temperature));
    TRY(get_f32(p, "top_p", dflt(g->top_p, 1), 0, 1, &s->top_p));
    TRY(get_f32(p, "min_p", dflt(g->min_p, 0), 0, 1, &s->min_p));
    TRY(get_f32(p, "repetition_penalty", dflt(g->repetition_penalty, 1), 1e-3, 1e3, &s->repetition_penalty));
    TRY(get_f32(p, "presence_penalty", 0, -100, 100, &s->presence_penalty));
    TRY(get_f32(p, "frequency_penalty", 0, -100, 100, &s->frequency_penalty));
    TRY(json_get_i32(p->object, p->where, "top_k", g->top_k > 0 ? g->top_k : 0, -1, INT32_MAX, &s->top_k));
    s->top_k = s->top_k < 0 ? 0 : s->top_k; /* -1 is how some clients say "off" */
    TRY(json_get_i32(p->object, p->where, "max_tokens", p->defaults->max_tokens, 1, INT32_MAX, &s->max_tokens));
    s->max_tokens = s->max_tokens > room ? room : s->max_tokens;
    TRY(json_get_i32(p->object, p->where, "min_tokens", 0, 0, INT32_MAX, &s->min_tokens));
    TRY(json_get_i32(p->object, p->where, "priority", 0, INT32_MIN, INT32_MAX, &p->c->request.priority));
    TRY(parse_logprobs(p, "logprobs", &s->n_logprobs));
    TRY(parse_logprobs(p, "prompt_logprobs", &s->n_prompt_logprobs));
    TRY(parse_seed(p));
    TRY(parse_bias(p));
    TRY(parse_lists(p));
    TRY(parse_pooling(p));
    TRY(parse_stop_tokens(p));
    s->want_hash = p->c->want_hash = p->defaults->want_hash;
    return ST_OK;
}

/* Text is decoded where there is a tokenizer; a request of token ids without stop strings does without. */
static status parse_text(const parser *p)
{
    coord_completion *c = p->c;
    const shard_tokenizer *t;
    bool skip_special = true;
    TRY(parse_stop_strings(p));
    TRY(json_get_bool(p->object, p->where, "skip_special_tokens", true, &skip_special));
    if (c->n_stop == 0)
        status_mute();
    status st = shard_checkpoint_tokenizer(p->checkpoint, &t);
    if (c->n_stop == 0)
        status_unmute();
    if (st == ST_NOT_FOUND && c->n_stop == 0)
        return ST_OK;
    TRY(st);
    return shard_stream_create(t, skip_special, &c->stream);
}

static status parse_all(const parser *p)
{
    coord_completion *c = p->c;
    if (!json_is_object(p->object))
        return FAIL(ST_INVALID, "%s: a JSON object is needed", p->where);
    TRY(fields_known(p));
    c->id = json_incref(json_object_get(p->object, "id"));
    TRY(parse_prompt(p));
    TRY(parse_sampling(p));
    TRY(parse_text(p));
    c->request.tokens = c->prompt.data;
    c->request.n_tokens = c->request.n_prompt = (int32_t)c->prompt.n;
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
    TRY(mem_calloc(1, sizeof(*c), "request", &c));
    c->request.id = number;
    parser p = {where, object, c, defaults, checkpoint};
    status st = parse_all(&p);
    if (st != ST_OK) {
        coord_completion_destroy(&c);
        return st == ST_FORMAT ? ST_INVALID : st; /* a field of the wrong type */
    }
    *out = c;
    return ST_OK;
}

void coord_completion_destroy(coord_completion **completion)
{
    coord_completion *c = *completion;
    if (c == NULL)
        return;
    for (int i = 0; i < c->n_stop; i++)
        free(c->stop[i]);
    shard_ids_free(&c->prompt);
    shard_ids_free(&c->generated);
    shard_stream_destroy(&c->stream);
    mem_str_free(&c->text);
    free(c->bias);
    free(c->embedding);
    free((void *)c->request.sampling.allowed.tokens);
    free((void *)c->request.sampling.logprob_tokens.tokens);
    for (int32_t i = 0; i < c->request.sampling.n_bad_words; i++)
        free((void *)c->bad_words[i].tokens);
    free(c->bad_words);
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

/* Ends the text at the first stop string that begins at `from` or later; true if there is one. */
static bool stop_found(coord_completion *c, size_t from)
{
    size_t at = SIZE_MAX, len = 0;
    for (int i = 0; i < c->n_stop; i++) {
        const char *hit = c->text.data == NULL ? NULL : memmem(c->text.data + from, c->text.len - from, c->stop[i], strlen(c->stop[i]));
        if (hit != NULL && (size_t)(hit - c->text.data) < at) {
            at = (size_t)(hit - c->text.data);
            len = strlen(c->stop[i]);
        }
    }
    if (at == SIZE_MAX)
        return false;
    c->text.len = at + (c->include_stop ? len : 0);
    c->text.data[c->text.len] = '\0';
    return true;
}

static status token_text(coord_completion *c, const coord_event *e, bool *stopped)
{
    *stopped = false;
    if (c->stream == NULL)
        return ST_OK;
    size_t before = c->text.len;
    /* An end token ends the answer; it is no text of it, special or not. */
    if (e->finish != 1)
        TRY(shard_stream_push(c->stream, e->token, &c->text));
    if (e->finish != 0)
        TRY(shard_stream_flush(c->stream, &c->text));
    if (c->text.failed)
        return FAIL(ST_NO_MEMORY, "no memory for the text of a request");
    size_t overlap = c->longest_stop > 0 ? c->longest_stop - 1 : 0;
    *stopped = c->n_stop > 0 && stop_found(c, before > overlap ? before - overlap : 0);
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
        return c->stream == NULL ? ST_OK : shard_stream_flush(c->stream, &c->text);
    }
    TRY(ids_append(&c->generated, e->token));
    if (c->logprobs != NULL)
        json_array_append_new(c->logprobs, logprob_json(e, c->request.sampling.logprob_tokens.n));
    c->hash = e->hash;
    TRY(token_text(c, e, &stopped));
    if (stopped || e->finish != 0) {
        c->ended = *ended = true;
        *cancel = e->finish == 0;
        c->finish = stopped || e->finish == 1 ? "stop" : "length";
    }
    return ST_OK;
}

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t held_back(const coord_completion *c)
{
    size_t held = 0;
    for (int i = 0; !c->ended && i < c->n_stop; i++) {
        size_t n = strlen(c->stop[i]);
        for (size_t k = n - 1 < c->text.len ? n - 1 : c->text.len; k > held; k--) {
            if (memcmp(c->text.data + c->text.len - k, c->stop[i], k) == 0) {
                held = k;
                break;
            }
        }
    }
    return held;
}

const char *coord_completion_take_text(coord_completion *c, size_t *len)
{
    size_t shown = c->text.len - held_back(c);
    const char *at = c->text.data == NULL ? "" : c->text.data + c->taken;
    *len = shown > c->taken ? shown - c->taken : 0;
    c->taken += *len;
    return at;
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
    json_t *a = json_object();
    if (c->id != NULL)
        json_object_set(a, "id", c->id);
    json_object_set_new(a, "prompt_ids", ids_json(&c->prompt));
    json_object_set_new(a, "token_ids", ids_json(&c->generated));
    json_object_set_new(a, "text", c->stream == NULL ? json_null() : json_stringn(c->text.data == NULL ? "" : c->text.data, c->text.len));
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
