#include "coordinator/gateway/api_sampling.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/json.h"
#include "coordinator/gateway/api_text.h"

void api_sampling_free(api_sampling *s)
{
    free(s->stop);
    free(s->bias_tokens);
    free(s->bias_values);
    free(s->allowed);
    free(s->logprob_tokens);
    for (size_t i = 0; i < s->message.n_bad_words; i++)
        free(s->word_lists[i].tokens);
    free(s->word_lists);
    free(s->words);
    free(s->message.grammar.data);
    for (int i = 0; i < s->n_stops; i++)
        free(s->stops[i]);
    free(s->stops);
    *s = (api_sampling){0};
}

/* ---- token ids ---- */

status api_token_id(const char *name, const json_t *v, int32_t vocab, int32_t *out, api_error *e)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab) {
        char *text = json_line(v);
        status st = api_refuse(e, ST_INVALID, name, "%s: %.40s is no token id (0 to %d)", name, text == NULL ? "?" : text, vocab - 1);
        free(text);
        return st;
    }
    *out = (int32_t)json_integer_value(v);
    return ST_OK;
}

status api_token_ids(const char *name, const json_t *list, int32_t vocab, shard_ids *out, api_error *e)
{
    size_t n = json_array_size(list);
    int32_t *data = realloc(out->data, (out->n + n + 1) * sizeof(*data));
    if (data == NULL)
        return api_refuse(e, ST_NO_MEMORY, name, "no memory for %zu tokens", n);
    out->data = data;
    out->cap = out->n + n + 1;
    for (size_t i = 0; i < n; i++) {
        TRY(api_token_id(name, json_array_get(list, i), vocab, &out->data[out->n], e));
        out->n++;
    }
    return ST_OK;
}

/* A list of at most `max` ids into an array that the sampling owns. */
static status id_list(const char *name, const json_t *list, int32_t vocab, size_t max, int32_t **data, size_t *n, api_error *e)
{
    shard_ids ids = {0};
    if (list == NULL)
        return ST_OK;
    if (json_array_size(list) > max)
        return api_refuse(e, ST_INVALID, name, "%s has %zu tokens; at most %zu are accepted", name, json_array_size(list), max);
    status st = api_token_ids(name, list, vocab, &ids, e);
    *data = ids.data; /* the sampling's from here on */
    *n = ids.n;
    return st;
}

/* ---- ends ---- */

static status add_end(api_sampling *s, int32_t token, api_error *e)
{
    for (size_t i = 0; i < s->message.n_stop; i++) {
        if (s->stop[i] == token)
            return ST_OK;
    }
    if (s->message.n_stop == API_MAX_END_TOKENS)
        return api_refuse(e, ST_INVALID, "stop_token_ids", "more than %d end tokens", API_MAX_END_TOKENS);
    s->stop[s->message.n_stop++] = token;
    return ST_OK;
}

static status end_tokens(const api_fields *f, const shard_generation *g, int32_t vocab, api_sampling *s, api_error *e)
{
    size_t i;
    json_t *v;
    if (mem_calloc(API_MAX_END_TOKENS, sizeof(*s->stop), "end tokens", &s->stop) != ST_OK)
        return api_refuse_message(e, ST_NO_MEMORY, NULL);
    s->message.stop = s->stop;
    for (int32_t k = 0; !f->ignore_eos && k < g->n_eos; k++) {
        if (g->eos[k] < vocab) /* else it can never come */
            TRY(add_end(s, g->eos[k], e));
    }
    s->n_eos = (int32_t)s->message.n_stop;
    json_array_foreach((json_t *)f->stop_token_ids, i, v)
    {
        int32_t token = 0;
        TRY(api_token_id("stop_token_ids", v, vocab, &token, e));
        TRY(add_end(s, token, e));
    }
    return ST_OK;
}

static status add_stop_string(api_sampling *s, const json_t *v, api_error *e)
{
    size_t n = json_string_length(v);
    if (!json_is_string(v) || n == 0 || n > API_MAX_STOP_BYTES || strlen(json_string_value(v)) != n)
        return api_refuse(e, ST_INVALID, "stop", "stop must be a string, or a list of strings, of 1 to %d bytes", API_MAX_STOP_BYTES);
    if (s->n_stops == API_MAX_STOP_STRINGS)
        return api_refuse(e, ST_INVALID, "stop", "more than %d stop strings", API_MAX_STOP_STRINGS);
    s->stops[s->n_stops] = strdup(json_string_value(v));
    if (s->stops[s->n_stops] == NULL)
        return api_refuse(e, ST_NO_MEMORY, "stop", "no memory for a stop string");
    s->n_stops++;
    return ST_OK;
}

static status stop_strings(const json_t *stop, api_sampling *s, api_error *e)
{
    size_t i;
    json_t *v;
    if (stop == NULL)
        return ST_OK;
    if (mem_calloc(API_MAX_STOP_STRINGS, sizeof(*s->stops), "stop strings", &s->stops) != ST_OK)
        return api_refuse_message(e, ST_NO_MEMORY, NULL);
    if (!json_is_array(stop))
        return add_stop_string(s, stop, e);
    json_array_foreach((json_t *)stop, i, v)
        TRY(add_stop_string(s, v, e));
    return ST_OK;
}

/* ---- what may come ---- */

static status bias(const json_t *map, int32_t vocab, api_sampling *s, api_error *e)
{
    const char *key;
    json_t *value;
    size_t n = json_object_size(map);
    if (n == 0)
        return ST_OK;
    if (n > (size_t)vocab)
        return api_refuse(e, ST_INVALID, "logit_bias", "logit_bias has %zu tokens; the vocabulary has %d", n, vocab);
    if (mem_calloc(n, sizeof(int32_t), "logit_bias", &s->bias_tokens) != ST_OK || mem_calloc(n, sizeof(float), "logit_bias", &s->bias_values) != ST_OK)
        return api_refuse_message(e, ST_NO_MEMORY, "logit_bias");
    s->message.bias_tokens = s->bias_tokens;
    s->message.bias_values = s->bias_values;
    json_object_foreach((json_t *)map, key, value)
    {
        char *end;
        errno = 0;
        long token = strtol(key, &end, 10);
        if (*key == '\0' || *end != '\0' || errno != 0 || token < 0 || token >= vocab || !json_is_number(value) || fabs(json_number_value(value)) > 1e6)
            return api_refuse(e, ST_INVALID, "logit_bias", "logit_bias maps token ids to numbers; \"%.20s\" is none", key);
        s->bias_tokens[s->message.n_bias_tokens++] = (int32_t)token;
        s->bias_values[s->message.n_bias_values++] = (float)json_number_value(value);
    }
    return ST_OK;
}

/* Room for n more words, each a list of tokens. */
static status more_words(api_sampling *s, size_t n, api_error *e)
{
    size_t all = s->message.n_bad_words + n;
    Trireme__TokenList *lists = realloc(s->word_lists, (all + 1) * sizeof(*lists)), **words;
    if (lists != NULL)
        s->word_lists = lists;
    words = lists == NULL ? NULL : realloc(s->words, (all + 1) * sizeof(*words));
    if (words == NULL)
        return api_refuse(e, ST_NO_MEMORY, "bad_words", "no memory for bad_words");
    s->message.bad_words = s->words = words;
    return ST_OK;
}

/* Takes the list over, or frees it where it is empty or there already. */
static void add_tokens(api_sampling *s, shard_ids *ids)
{
    size_t n = s->message.n_bad_words;
    bool known = ids->n == 0;
    for (size_t i = 0; i < n && !known; i++)
        known = s->word_lists[i].n_tokens == ids->n && memcmp(s->word_lists[i].tokens, ids->data, ids->n * sizeof(int32_t)) == 0;
    if (known) {
        shard_ids_free(ids);
        return;
    }
    trireme__token_list__init(&s->word_lists[n]);
    s->word_lists[n].tokens = ids->data;
    s->word_lists[n].n_tokens = ids->n;
    s->message.n_bad_words++;
}

/* The tokens of a word as it stands at the beginning of a text, or after a blank. */
static status add_word(api_sampling *s, const shard_tokenizer *t, const char *word, const char *before, api_error *e)
{
    shard_ids ids = {0};
    mem_str text = {0};
    mem_str_printf(&text, "%s%s", before, word);
    status_mute();
    status st = text.failed ? ST_NO_MEMORY : shard_tokenizer_encode(t, text.data, text.len, SHARD_ENCODE_PLAIN, &ids);
    status_unmute();
    mem_str_free(&text);
    if (st == ST_OK)
        add_tokens(s, &ids);
    else
        shard_ids_free(&ids);
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, "bad_words");
}

static status words_as_text(const json_t *list, const shard_text *text, api_sampling *s, api_error *e)
{
    size_t i, n = json_array_size(list);
    json_t *v;
    const shard_tokenizer *t = n == 0 ? NULL : shard_text_tokenizer(text);
    if (n == 0)
        return ST_OK;
    if (t == NULL)
        return api_refuse(e, ST_INVALID, "bad_words", "bad_words need a tokenizer, and the checkpoint brings none");
    if (n > API_MAX_BAD_WORDS)
        return api_refuse(e, ST_INVALID, "bad_words", "more than %d bad_words", API_MAX_BAD_WORDS);
    TRY(more_words(s, 2 * n, e));
    json_array_foreach((json_t *)list, i, v)
    {
        if (!json_is_string(v) || json_string_length(v) == 0 || json_string_length(v) > API_MAX_STOP_BYTES ||
            strlen(json_string_value(v)) != json_string_length(v))
            return api_refuse(e, ST_INVALID, "bad_words", "bad_words must be strings of 1 to %d bytes", API_MAX_STOP_BYTES);
        TRY(add_word(s, t, json_string_value(v), "", e));
        TRY(add_word(s, t, json_string_value(v), " ", e));
    }
    return ST_OK;
}

static status words_as_ids(const json_t *list, int32_t vocab, api_sampling *s, api_error *e)
{
    size_t i;
    json_t *word;
    if (json_array_size(list) > API_MAX_BAD_WORDS)
        return api_refuse(e, ST_INVALID, "bad_words_ids", "more than %d bad_words_ids", API_MAX_BAD_WORDS);
    TRY(more_words(s, json_array_size(list), e));
    json_array_foreach((json_t *)list, i, word)
    {
        shard_ids ids = {0};
        if (!json_is_array(word) || json_array_size(word) == 0)
            return api_refuse(e, ST_INVALID, "bad_words_ids", "bad_words_ids is a list of lists of token ids, none of them empty");
        status st = api_token_ids("bad_words_ids", word, vocab, &ids, e);
        if (st == ST_OK)
            add_tokens(s, &ids);
        else
            shard_ids_free(&ids);
        TRY(st);
    }
    return ST_OK;
}

static status bad_words(const api_fields *f, const shard_text *text, int32_t vocab, api_sampling *s, api_error *e)
{
    TRY(words_as_text(f->bad_words, text, s, e));
    TRY(words_as_ids(f->bad_words_ids, vocab, s, e));
    for (size_t i = 0; i < s->message.n_bad_words; i++) /* now that the lists stay where they are */
        s->words[i] = &s->word_lists[i];
    return ST_OK;
}

/* ---- log-probabilities ---- */

/* logprobs is a number of tokens, or (chat) true with the number in top_logprobs. */
static status logprobs(const api_fields *f, int32_t vocab, api_sampling *s, api_error *e)
{
    int64_t n = -1;
    if (json_is_integer(f->logprobs))
        n = json_integer_value(f->logprobs);
    else if (json_is_true(f->logprobs))
        n = f->top_logprobs == API_ABSENT ? 0 : f->top_logprobs;
    else if (f->top_logprobs != API_ABSENT && f->top_logprobs > 0)
        return api_refuse(e, ST_INVALID, "top_logprobs", "top_logprobs needs logprobs to be true");
    int32_t max = vocab < API_MAX_LOGPROBS ? vocab : API_MAX_LOGPROBS;
    if (n > max || (n < 0 && json_is_integer(f->logprobs)))
        return api_refuse(e, ST_INVALID, json_is_integer(f->logprobs) ? "logprobs" : "top_logprobs",
                          "logprobs must be a whole number from 0 to %d: how many of the likeliest tokens to list", max);
    if (f->prompt_logprobs != API_ABSENT && f->prompt_logprobs > max)
        return api_refuse(e, ST_INVALID, "prompt_logprobs",
                          "prompt_logprobs must be a whole number from 0 to %d: how many of the likeliest tokens to list", max);
    s->message.n_logprobs = n < 0 && f->logprob_token_ids != NULL ? 0 : (int32_t)n;
    s->message.n_prompt_logprobs = f->prompt_logprobs == API_ABSENT ? -1 : f->prompt_logprobs;
    return id_list("logprob_token_ids", f->logprob_token_ids, vocab, API_MAX_LOGPROB_TOKENS, &s->logprob_tokens, &s->message.n_logprob_tokens, e);
}

static status seed(const json_t *v, uint64_t *out, api_error *e)
{
    if (v != NULL) {
        *out = (uint64_t)json_integer_value(v);
        return ST_OK;
    }
    if (getrandom(out, sizeof(*out), 0) != sizeof(*out))
        return api_refuse(e, ST_IO, "seed", "cannot draw a seed: %s", strerror(errno));
    *out >>= 12; /* exact as a JSON number in every client */
    return ST_OK;
}

static float pick(float given, float checkpoint, float usual)
{
    return !isnan(given) ? given : checkpoint >= 0 ? checkpoint : usual;
}

static int32_t pick_whole(int32_t given, int32_t usual)
{
    return given != API_ABSENT ? given : usual;
}

status api_sampling_resolve(const api_fields *f, const shard_text *text, const api_limits *limits, api_sampling *out, api_error *e)
{
    const shard_generation *g = shard_text_generation(text);
    Trireme__Sampling *s = &out->message;
    trireme__sampling__init(s);
    s->temperature = pick(f->temperature, g->temperature, 1);
    s->top_p = pick(f->top_p, g->top_p, 1);
    s->min_p = pick(f->min_p, g->min_p, 0);
    s->repetition_penalty = pick(f->repetition_penalty, g->repetition_penalty, 1);
    s->presence_penalty = pick(f->presence_penalty, -1, 0);
    s->frequency_penalty = pick(f->frequency_penalty, -1, 0);
    s->top_k = pick_whole(f->top_k, g->top_k);
    s->top_k = s->top_k < 0 ? 0 : s->top_k; /* -1 is how some clients say "off" */
    s->min_tokens = pick_whole(f->min_tokens, 0);
    TRY(seed(f->seed, &s->seed, e));
    TRY(end_tokens(f, g, limits->vocab, out, e));
    TRY(stop_strings(f->stop, out, e));
    TRY(bias(f->logit_bias, limits->vocab, out, e));
    TRY(logprobs(f, limits->vocab, out, e));
    TRY(id_list("allowed_token_ids", f->allowed_token_ids, limits->vocab, (size_t)limits->vocab, &out->allowed, &s->n_allowed_tokens, e));
    if (f->allowed_token_ids != NULL && s->n_allowed_tokens == 0)
        return api_refuse(e, ST_INVALID, "allowed_token_ids", "allowed_token_ids is empty: nothing could be generated");
    TRY(bad_words(f, text, limits->vocab, out, e));
    s->allowed_tokens = out->allowed;
    s->logprob_tokens = out->logprob_tokens;
    return ST_OK;
}

void api_sampling_fit(const api_fields *f, const api_limits *limits, size_t n_prompt, Trireme__Sampling *s)
{
    int32_t room = limits->max_context - (int32_t)n_prompt, asked = limits->default_max_tokens;
    const int32_t given[] = {f->max_completion_tokens, f->max_output_tokens, f->max_tokens};
    for (size_t i = 0; i < ARRAY_LEN(given); i++) {
        if (given[i] != API_ABSENT) {
            asked = given[i];
            break;
        }
    }
    s->max_tokens = asked > room ? room : asked;
}
