/* coordinator/gateway/api_request.c - from fields to what is submitted: prompts, tools, sequences. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "coordinator/gateway/api_grammar.h"
#include "coordinator/gateway/api_internal.h"

/* ---- prompts ---- */

status api_call_add_prompt(api_call *c, api_prompt **out, api_error *e)
{
    if ((int64_t)(c->n_prompts + 1) * c->n > c->options.max_sequences)
        return api_refuse(e, ST_INVALID, c->n > 1 ? "n" : "prompt", "more than %d sequences (prompts x n) in one request", c->options.max_sequences);
    api_prompt *grown = realloc(c->prompts, (size_t)(c->n_prompts + 1) * sizeof(*grown));
    if (grown == NULL)
        return api_refuse(e, ST_NO_MEMORY, NULL, "no memory for prompts");
    c->prompts = grown;
    grown[c->n_prompts] = (api_prompt){0};
    *out = &grown[c->n_prompts++];
    return ST_OK;
}

static status one_prompt(api_call *c, const char *name, const json_t *v, bool special, api_error *e)
{
    api_prompt *p = NULL;
    TRY(api_call_add_prompt(c, &p, e));
    if (json_is_array(v))
        return api_token_ids(name, v, c->model->vocab, &p->ids, e);
    if (!json_is_string(v))
        return api_refuse(e, ST_INVALID, name, "%s must be a string, a list of strings, a list of token ids or a list of such lists", name);
    mem_str_append(&p->text, json_string_value(v), json_string_length(v));
    if (c->fields.suffix != NULL)
        return api_prompt_fill(api_str(&p->text), p->text.len, c->fields.suffix, strlen(c->fields.suffix), c->model->text, &p->ids, e);
    return api_prompt_text(name, api_str(&p->text), p->text.len, special, c->model->text, &p->ids, e);
}

status api_call_read_prompts(api_call *c, const char *name, const json_t *v, bool special, api_error *e)
{
    size_t i;
    json_t *item;
    const json_t *first = json_array_get(v, 0);
    if (v == NULL)
        return api_refuse(e, ST_INVALID, name, "%s is missing", name);
    if (json_is_string(v) || json_is_integer(first))
        return one_prompt(c, name, v, special, e);
    if (first == NULL)
        return api_refuse(e, ST_INVALID, name, "%s is empty: at least one is needed", name);
    json_array_foreach((json_t *)v, i, item)
        TRY(one_prompt(c, name, item, special, e));
    return ST_OK;
}

/* ---- sequences ---- */

static status check_prompts(const api_call *c, api_error *e)
{
    int64_t total = 0;
    const char *param = c->fields.messages != NULL ? "messages" : c->fields.input != NULL ? "input" : "prompt";
    for (int i = 0; i < c->n_prompts; i++) {
        api_prompt *p = &c->prompts[i];
        TRY(api_prompt_truncate(&c->fields, c->model->max_model_len, &p->ids, e));
        if (p->ids.n == 0)
            return api_refuse(e, ST_INVALID, param, "the prompt is empty: at least one token is needed");
        if (p->ids.n >= (size_t)c->model->max_model_len) {
            api_refuse(e, ST_LIMIT, param, "the prompt has %zu tokens; a context of %d leaves room for %d at most", p->ids.n, c->model->max_model_len,
                       c->model->max_model_len - 1);
            e->code = "context_length_exceeded";
            return ST_LIMIT;
        }
        total += (int64_t)p->ids.n * c->n;
    }
    if (c->options.max_prompt_tokens_total > 0 && total > c->options.max_prompt_tokens_total)
        return api_refuse(e, ST_LIMIT, param, "%lld prompt tokens in one request; at most %d are accepted", (long long)total, c->options.max_prompt_tokens_total);
    return ST_OK;
}

static status copy_tokens(const shard_ids *from, shard_ids *to, api_error *e)
{
    to->data = malloc(from->n * sizeof(*to->data));
    if (to->data == NULL)
        return api_refuse(e, ST_NO_MEMORY, NULL, "no memory for a prompt");
    memcpy(to->data, from->data, from->n * sizeof(*to->data));
    to->n = to->cap = from->n;
    return ST_OK;
}

static status begin_answer(api_call *c, api_sequence *s, api_error *e)
{
    const api_text_options text = {.tokenizer = shard_text_tokenizer(c->model->text), .stops = c->sampling.stops, .n_stops = c->sampling.n_stops,
                                   .include_stop = c->fields.include_stop_str_in_output, .include_end = c->fields.include_stop_str_in_output,
                                   .skip_special = c->fields.skip_special_tokens, .keep = c->marks, .n_keep = c->n_marks};
    const api_prompt *p = &c->prompts[s->prompt];
    status_mute();
    status st = text.tokenizer == NULL && text.n_stops > 0 ? FAIL(ST_INVALID, "stop strings need a tokenizer, and the checkpoint brings none") : ST_OK;
    if (st == ST_OK)
        st = api_text_create(&text, &s->text);
    if (st == ST_OK)
        st = api_parser_create(&c->parsing, &s->parser);
    if (st == ST_OK && c->ops == &api_completions_ops && c->fields.echo)
        st = api_parser_lead(s->parser, api_str(&p->text), p->text.len);
    else if (st == ST_OK)
        st = api_parser_lead(s->parser, api_str(&c->lead), c->lead.len);
    status_unmute();
    return st == ST_OK ? ST_OK : api_refuse_message(e, st, NULL);
}

static status make_sequence(api_call *c, int i, api_error *e)
{
    api_sequence *s = &c->sequences[i];
    s->prompt = i / c->n;
    s->choice = i % c->n;
    s->stop_token = -1;
    TRY(copy_tokens(&c->prompts[s->prompt].ids, &s->tokens, e));
    s->n_prompt = s->tokens.n;
    s->sampling = c->sampling.message;
    s->sampling.choice = (uint32_t)s->choice;
    s->sampling.want_hash = c->fields.return_token_ids; /* who compares tokens may compare these */
    api_sampling_fit(&c->fields, &c->limits, s->n_prompt, &s->sampling);
    s->discard = s->sampling.max_tokens == 0;
    if (s->discard) {
        if (!c->fields.echo && c->fields.prompt_logprobs == API_ABSENT)
            return api_refuse(e, ST_INVALID, "max_tokens", "max_tokens is 0, and neither echo nor prompt_logprobs is asked for: there would be no answer");
        s->sampling.max_tokens = 1;
    }
    if (s->sampling.min_tokens > s->sampling.max_tokens)
        return api_refuse(e, ST_INVALID, "min_tokens", "min_tokens is %d, but at most %d tokens can be generated", s->sampling.min_tokens, s->sampling.max_tokens);
    trireme__submit__init(&s->submit);
    s->submit.sampling = &s->sampling;
    s->submit.priority = c->fields.priority == API_ABSENT ? 0 : c->fields.priority;
    s->submit.cache_salt.data = (uint8_t *)c->fields.cache_salt;
    s->submit.cache_salt.len = c->fields.cache_salt == NULL ? 0 : strlen(c->fields.cache_salt);
    return begin_answer(c, s, e);
}

/* A list of texts with echo and logprobs needs its prompt's log-probabilities too. */
static void echo_logprobs(api_call *c)
{
    Trireme__Sampling *s = &c->sampling.message;
    c->want_logprobs = s->n_logprobs >= 0;
    if (c->ops == &api_completions_ops && c->fields.echo && s->n_logprobs >= 0 && s->n_prompt_logprobs < s->n_logprobs)
        s->n_prompt_logprobs = s->n_logprobs;
}

status api_call_make_sequences(api_call *c, api_error *e)
{
    TRY(check_prompts(c, e));
    TRY(api_sampling_resolve(&c->fields, c->model->text, &c->limits, &c->sampling, e));
    c->sampling.message.grammar.len = c->grammar.len;
    c->sampling.message.grammar.data = (uint8_t *)c->grammar.data; /* the sampling's now */
    c->grammar = (mem_str){0};
    echo_logprobs(c);
    c->parsing.id = c->id;
    if (mem_calloc((size_t)(c->n_prompts * c->n), sizeof(*c->sequences), "sequences", &c->sequences) != ST_OK)
        return api_refuse_message(e, ST_NO_MEMORY, NULL);
    for (int i = 0; i < c->n_prompts * c->n; i++) {
        c->n_sequences++;
        TRY(make_sequence(c, i, e));
    }
    return ST_OK;
}

/* ---- tools ---- */

static json_t *call_schema(const json_t *tool)
{
    const json_t *f = json_object_get(tool, "function"), *parameters = json_object_get(f, "parameters");
    json_t *schema = json_is_object(parameters) ? json_incref((json_t *)parameters) : json_pack("{ss}", "type", "object");
    return json_pack("{ss s{s{sO} so} s[ss] sb}", "type", "object", "properties", "name", "const", json_object_get(f, "name"), "arguments", schema, "required", "name",
                     "arguments", "additionalProperties", 0);
}

static json_t *calls_schema(const json_t *tools, bool one)
{
    size_t i;
    json_t *tool, *any = json_array();
    json_array_foreach((json_t *)tools, i, tool)
        json_array_append_new(any, call_schema(tool));
    json_t *items = json_array_size(any) == 1 ? json_incref(json_array_get(any, 0)) : json_pack("{sO}", "anyOf", any);
    json_decref(any);
    json_t *schema = json_pack("{ss so si}", "type", "array", "items", items, "minItems", 1);
    if (one)
        json_object_set_new(schema, "maxItems", json_integer(1));
    return schema;
}

static const json_t *find_tool(const json_t *tools, const char *name)
{
    size_t i;
    json_t *tool;
    json_array_foreach((json_t *)tools, i, tool)
    {
        if (strcmp(json_string_value(json_object_get(json_object_get(tool, "function"), "name")), name) == 0)
            return tool;
    }
    return NULL;
}

static status named_choice(api_call *c, const json_t *choice, json_t **forced, api_error *e)
{
    const char *type = json_string_value(json_object_get(choice, "type"));
    const json_t *holder = json_object_get(choice, "function");
    const char *name = json_string_value(json_object_get(holder != NULL ? holder : choice, "name"));
    if (type == NULL || strcmp(type, "function") != 0 || name == NULL)
        return api_refuse(e, ST_INVALID, "tool_choice", "tool_choice must be \"none\", \"auto\", \"required\", or name a function");
    const json_t *tool = find_tool(c->tools, name);
    if (tool == NULL)
        return api_refuse(e, ST_INVALID, "tool_choice", "tool_choice names \"%.128s\", which is not among the tools", name);
    const json_t *parameters = json_object_get(json_object_get(tool, "function"), "parameters");
    *forced = json_is_object(parameters) ? json_incref((json_t *)parameters) : json_pack("{ss}", "type", "object");
    c->parsing.calls = API_CALLS_ONE;
    c->parsing.name = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
    return ST_OK;
}

status api_call_tool_choice(api_call *c, json_t **forced, api_error *e)
{
    const json_t *choice = c->fields.tool_choice;
    const char *word = json_string_value(choice);
    *forced = NULL;
    c->parsing.one_call = !c->fields.parallel_tool_calls;
    if (c->tools != NULL && json_array_size(c->tools) == 0) {
        json_decref(c->tools);
        c->tools = NULL;
    }
    if (c->tools == NULL) {
        if (choice != NULL && !(word != NULL && (strcmp(word, "none") == 0 || strcmp(word, "auto") == 0)))
            return api_refuse(e, ST_INVALID, "tool_choice", "tool_choice needs tools");
        return ST_OK;
    }
    TRY(api_tools_check(c->tools, e));
    c->parsing.tools = c->tools;
    if (json_is_object(choice))
        return named_choice(c, choice, forced, e);
    if (word == NULL || strcmp(word, "auto") == 0) {
        c->parsing.calls = API_CALLS_AUTO;
    } else if (strcmp(word, "required") == 0) {
        c->parsing.calls = API_CALLS_LIST;
        *forced = calls_schema(c->tools, c->parsing.one_call);
    } else if (strcmp(word, "none") == 0) {
        json_decref(c->tools);
        c->parsing.tools = c->tools = NULL;
    } else {
        return api_refuse(e, ST_INVALID, "tool_choice", "tool_choice must be \"none\", \"auto\", \"required\", or name a function");
    }
    return ST_OK;
}

/* ---- chat ---- */

/* A grammar begins at the first token: what it lets through is the answer itself, with neither reasoning nor marks. */
static void plan_parsing(api_call *c, const api_prompt *p)
{
    const char *source = c->fields.chat_template != NULL ? c->fields.chat_template : shard_text_template_source(c->model->text, NULL, NULL);
    c->parsing.reasoning = c->grammar.len > 0 ? NULL : api_reasoning_find(source, shard_text_tokenizer(c->model->text));
    c->parsing.reasoning_open = api_reasoning_is_open(c->parsing.reasoning, api_str(&p->text), p->text.len);
    c->parsing.short_ids = source != NULL && strstr(source, "[TOOL_CALLS]") != NULL;
    c->hide_reasoning = !c->fields.include_reasoning;
    c->n_marks = api_parser_mark_tokens(&c->parsing, shard_text_tokenizer(c->model->text), c->marks, API_MAX_MARK_TOKENS);
}

status api_call_chat_prompt(api_call *c, const char *messages_name, api_error *e)
{
    api_prompt *p;
    json_t *forced;
    TRY(api_call_tool_choice(c, &forced, e));
    status st = api_grammar_make(&c->fields, forced, &c->grammar, e);
    json_decref(forced);
    TRY(st);
    if (c->grammar.len > 0 && c->parsing.calls == API_CALLS_AUTO)
        return api_refuse(e, ST_INVALID, "tools", "an answer cannot have a form of its own while tools may be called: set tool_choice to none or required");
    TRY(api_call_add_prompt(c, &p, e));
    const api_chat chat = {.messages = c->messages, .tools = c->tools, .messages_name = messages_name};
    TRY(api_prompt_chat(&c->fields, &chat, c->model->text, &p->text, &p->ids, e));
    plan_parsing(c, p);
    return api_call_make_sequences(c, e);
}
