#include "coordinator/gateway/api_fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

/* ---- refusals ---- */

static int http_of(status st)
{
    switch (st) {
    case ST_NO_MEMORY:
    case ST_BUSY:
        return 503;
    case ST_INTERNAL:
    case ST_IO:
    case ST_CORRUPT:
        return 500;
    default:
        return 400;
    }
}

static void set_kind(api_error *e, status st, const char *param)
{
    e->http = http_of(st);
    e->type = e->http == 400 ? "invalid_request_error" : e->http == 503 ? "overloaded_error" : "internal_error";
    e->code = NULL;
    snprintf(e->param, sizeof(e->param), "%.63s", param == NULL ? "" : param);
}

status api_refuse(api_error *e, status st, const char *param, const char *format, ...)
{
    va_list args;
    set_kind(e, st, param);
    va_start(args, format);
    vsnprintf(e->message, sizeof(e->message), format, args);
    va_end(args);
    return st;
}

status api_refuse_message(api_error *e, status st, const char *param)
{
    set_kind(e, st, param);
    snprintf(e->message, sizeof(e->message), "%s", status_message());
    return st;
}

/* ---- the table ---- */

typedef enum kind {
    NUMBER,  /* float in [min, max] */
    WHOLE,   /* int32 in [min, max] */
    FLAG,    /* bool; has: where it is noted that it was given */
    TEXT,    /* const char * without NUL */
    VALUE,   /* const json_t *, of the types in `types` */
    NOTHING, /* cannot change the answer: accepted, whatever it is */
    ONLY,    /* accepted where it is one of `only` (JSON values between blanks), since then it changes nothing */
} kind;

enum { STRING = 1, LIST = 2, OBJECT = 4, INTEGER = 8, BOOLEAN = 16, ANY = 31 };

typedef struct field {
    const char *name;
    int who;
    kind kind;
    size_t offset;
    double min, max;
    unsigned types;
    size_t has;       /* offset of a bool; 0: none (no field begins there that could be one) */
    const char *only; /* ONLY; for the others: what to say beside the name */
} field;

#define AT(member) offsetof(api_fields, member)
enum {
    C = API_FOR_COMPLETIONS, H = API_FOR_CHAT, R = API_FOR_RESPONSES, E = API_FOR_EMBEDDINGS, T = API_FOR_TOKENIZE, D = API_FOR_DETOKENIZE, L = API_FOR_LINES,
    GENERATES = C | H | R, SAMPLES = GENERATES | L, ALL = GENERATES | E | T | D,
};

static const field table[] = {
    {"model", ALL, TEXT, AT(model), 0, 0, 0, 0, NULL},
    {"id", L, VALUE, AT(id), 0, 0, ANY, 0, NULL},

    {"prompt", C | T | L, VALUE, AT(prompt), 0, 0, STRING | LIST, 0, NULL},
    {"prompt_ids", L, VALUE, AT(prompt_ids), 0, 0, LIST, 0, NULL},
    {"messages", H | T | L, VALUE, AT(messages), 0, 0, LIST, 0, NULL},
    {"input", R | E, VALUE, AT(input), 0, 0, STRING | LIST, 0, NULL},
    {"tokens", D, VALUE, AT(tokens), 0, 0, LIST, 0, NULL},
    {"tools", H | R | T | L, VALUE, AT(tools), 0, 0, LIST, 0, NULL},
    {"documents", H | T | L, VALUE, AT(documents), 0, 0, LIST, 0, NULL},
    {"chat_template_kwargs", H | T | L | R, VALUE, AT(chat_template_kwargs), 0, 0, OBJECT, 0, NULL},
    {"chat_template", H | T, TEXT, AT(chat_template), 0, 0, 0, 0, NULL},
    {"tool_choice", H | R, VALUE, AT(tool_choice), 0, 0, STRING | OBJECT, 0, NULL},
    {"parallel_tool_calls", H | R, FLAG, AT(parallel_tool_calls), 0, 0, 0, 0, NULL},
    {"instructions", R, TEXT, AT(instructions), 0, 0, 0, 0, NULL},
    {"previous_response_id", R, TEXT, AT(previous_response_id), 0, 0, 0, 0, NULL},
    {"reasoning_effort", H, TEXT, AT(reasoning_effort), 0, 0, 0, 0, NULL},
    {"reasoning", R, VALUE, AT(reasoning), 0, 0, OBJECT, 0, NULL},
    {"include_reasoning", H, FLAG, AT(include_reasoning), 0, 0, 0, 0, NULL},
    {"suffix", C, TEXT, AT(suffix), 0, 0, 0, 0, NULL},
    {"echo", C | H, FLAG, AT(echo), 0, 0, 0, 0, NULL},
    {"add_generation_prompt", H | T | L, FLAG, AT(add_generation_prompt), 0, 0, 0, AT(has_add_generation_prompt), NULL},
    {"continue_final_message", H | T | L, FLAG, AT(continue_final_message), 0, 0, 0, 0, NULL},
    {"add_special_tokens", C | H | T | E | L, FLAG, AT(add_special_tokens), 0, 0, 0, AT(has_add_special_tokens), NULL},
    {"truncate_prompt_tokens", C | H | E, WHOLE, AT(truncate_prompt_tokens), -1, INT32_MAX, 0, 0, NULL},
    {"truncation_side", C | H | E, TEXT, AT(truncation_side), 0, 0, 0, 0, NULL},

    {"temperature", SAMPLES, NUMBER, AT(temperature), 0, 100, 0, 0, NULL},
    {"top_p", SAMPLES, NUMBER, AT(top_p), 0, 1, 0, 0, NULL},
    {"min_p", SAMPLES, NUMBER, AT(min_p), 0, 1, 0, 0, NULL},
    {"repetition_penalty", SAMPLES, NUMBER, AT(repetition_penalty), 1e-3, 1e3, 0, 0, NULL},
    {"presence_penalty", SAMPLES, NUMBER, AT(presence_penalty), -100, 100, 0, 0, NULL},
    {"frequency_penalty", SAMPLES, NUMBER, AT(frequency_penalty), -100, 100, 0, 0, NULL},
    {"top_k", SAMPLES, WHOLE, AT(top_k), -1, INT32_MAX, 0, 0, NULL},
    {"max_tokens", C | H | L, WHOLE, AT(max_tokens), 0, INT32_MAX, 0, 0, NULL},
    {"max_completion_tokens", H, WHOLE, AT(max_completion_tokens), 1, INT32_MAX, 0, 0, NULL},
    {"max_output_tokens", R, WHOLE, AT(max_output_tokens), 1, INT32_MAX, 0, 0, NULL},
    {"min_tokens", SAMPLES, WHOLE, AT(min_tokens), 0, INT32_MAX, 0, 0, NULL},
    {"n", C | H, WHOLE, AT(n), 1, INT32_MAX, 0, 0, NULL},
    {"priority", SAMPLES | E, WHOLE, AT(priority), INT32_MIN + 1, INT32_MAX, 0, 0, NULL},
    {"logprobs", C | H | L, VALUE, AT(logprobs), 0, 0, INTEGER | BOOLEAN, 0, NULL},
    {"top_logprobs", H | R, WHOLE, AT(top_logprobs), 0, INT32_MAX, 0, 0, NULL},
    {"prompt_logprobs", C | H | L, WHOLE, AT(prompt_logprobs), 0, INT32_MAX, 0, 0, NULL},
    {"logprob_token_ids", C | H | L, VALUE, AT(logprob_token_ids), 0, 0, LIST, 0, NULL},
    {"seed", SAMPLES, VALUE, AT(seed), 0, 0, INTEGER, 0, NULL},
    {"logit_bias", C | H | L, VALUE, AT(logit_bias), 0, 0, OBJECT, 0, NULL},
    {"stop", SAMPLES, VALUE, AT(stop), 0, 0, STRING | LIST, 0, NULL},
    {"stop_token_ids", SAMPLES, VALUE, AT(stop_token_ids), 0, 0, LIST, 0, NULL},
    {"allowed_token_ids", C | H | L, VALUE, AT(allowed_token_ids), 0, 0, LIST, 0, NULL},
    {"bad_words", C | H, VALUE, AT(bad_words), 0, 0, LIST, 0, NULL},
    {"bad_words_ids", L, VALUE, AT(bad_words_ids), 0, 0, LIST, 0, NULL},
    {"pooling", L, TEXT, AT(pooling), 0, 0, 0, 0, NULL},
    {"normalize", L, FLAG, AT(normalize), 0, 0, 0, 0, NULL},
    {"ignore_eos", SAMPLES, FLAG, AT(ignore_eos), 0, 0, 0, 0, NULL},
    {"include_stop_str_in_output", C | H | L, FLAG, AT(include_stop_str_in_output), 0, 0, 0, 0, NULL},
    {"skip_special_tokens", C | H | L, FLAG, AT(skip_special_tokens), 0, 0, 0, 0, NULL},
    {"cache_salt", GENERATES | E, TEXT, AT(cache_salt), 0, 0, 0, 0, NULL},
    {"request_id", GENERATES | E, TEXT, AT(request_id), 0, 0, 0, 0, NULL},

    {"response_format", C | H, VALUE, AT(response_format), 0, 0, OBJECT, 0, NULL},
    {"text", R, VALUE, AT(text), 0, 0, OBJECT, 0, NULL},
    {"structured_outputs", GENERATES, VALUE, AT(structured_outputs), 0, 0, OBJECT, 0, NULL},
    {"guided_json", C | H, VALUE, AT(guided_json), 0, 0, STRING | OBJECT | BOOLEAN, 0, NULL},
    {"guided_regex", C | H, VALUE, AT(guided_regex), 0, 0, STRING, 0, NULL},
    {"guided_choice", C | H, VALUE, AT(guided_choice), 0, 0, LIST, 0, NULL},
    {"guided_grammar", C | H, VALUE, AT(guided_grammar), 0, 0, STRING, 0, NULL},
    {"guided_json_object", C | H, VALUE, AT(guided_json_object), 0, 0, BOOLEAN, 0, NULL},

    {"stream", GENERATES, FLAG, AT(stream), 0, 0, 0, 0, NULL},
    {"stream_options", GENERATES, VALUE, AT(stream_options), 0, 0, OBJECT, 0, NULL},
    {"return_token_ids", C | H, FLAG, AT(return_token_ids), 0, 0, 0, 0, NULL},
    {"return_tokens_as_token_ids", C | H, FLAG, AT(return_tokens_as_token_ids), 0, 0, 0, 0, NULL},
    {"return_token_strs", T, FLAG, AT(return_token_strs), 0, 0, 0, 0, NULL},
    {"encoding_format", E, TEXT, AT(encoding_format), 0, 0, 0, 0, NULL},
    {"dimensions", E, WHOLE, AT(dimensions), 1, INT32_MAX, 0, 0, NULL},
    {"store", R, FLAG, AT(store), 0, 0, 0, AT(has_store), NULL},
    {"metadata", R, VALUE, AT(metadata), 0, 0, OBJECT, 0, NULL},
    {"user", R, VALUE, AT(user), 0, 0, STRING, 0, NULL},
    {"include", R, VALUE, AT(include), 0, 0, LIST, 0, NULL},

    /* These cannot change an answer here. */
    {"user", C | H | E, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"metadata", C | H, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"service_tier", GENERATES, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"safety_identifier", GENERATES, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"prompt_cache_key", GENERATES, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"prompt_cache_retention", GENERATES, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"prediction", H, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"session_id", GENERATES, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"stream_interval", GENERATES, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"media_io_kwargs", H, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"mm_processor_kwargs", H | E, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"guided_decoding_backend", C | H, NOTHING, 0, 0, 0, 0, 0, NULL},
    {"guided_whitespace_pattern", C | H, ONLY, 0, 0, 0, 0, 0, ""},
    {"spaces_between_special_tokens", C | H, NOTHING, 0, 0, 0, 0, 0, NULL}, /* no tokenizer here puts any */

    /* These would, and are not supported. */
    {"store", C | H, ONLY, 0, 0, 0, 0, 0, "false"},
    {"best_of", C, ONLY, 0, 0, 0, 0, 0, "1"},
    {"use_beam_search", C | H, ONLY, 0, 0, 0, 0, 0, "false"},
    {"length_penalty", C | H, ONLY, 0, 0, 0, 0, 0, "1 1.0 0 0.0"},
    {"early_stopping", C | H, ONLY, 0, 0, 0, 0, 0, "false"},
    {"prompt_embeds", C, ONLY, 0, 0, 0, 0, 0, ""},
    {"thinking_token_budget", GENERATES, ONLY, 0, 0, 0, 0, 0, ""},
    {"verbosity", H, ONLY, 0, 0, 0, 0, 0, "\"medium\""},
    {"modalities", H, ONLY, 0, 0, 0, 0, 0, "[\"text\"]"},
    {"audio", H, ONLY, 0, 0, 0, 0, 0, ""},
    {"web_search_options", H, ONLY, 0, 0, 0, 0, 0, ""},
    {"functions", H, ONLY, 0, 0, 0, 0, 0, "[]"},
    {"function_call", H, ONLY, 0, 0, 0, 0, 0, "\"none\" \"auto\""},
    {"return_prompt_text", C | H, ONLY, 0, 0, 0, 0, 0, "false"},
    {"return_token_offsets", C | H, ONLY, 0, 0, 0, 0, 0, "false"},
    {"kv_transfer_params", C | H | R, ONLY, 0, 0, 0, 0, 0, ""},
    {"ec_transfer_params", C | H | R, ONLY, 0, 0, 0, 0, 0, ""},
    {"vllm_xargs", GENERATES, ONLY, 0, 0, 0, 0, 0, "{}"},
    {"repetition_detection", C | H, ONLY, 0, 0, 0, 0, 0, ""},
    {"routed_experts_prompt_start", C | H, ONLY, 0, 0, 0, 0, 0, ""},
    {"background", R, ONLY, 0, 0, 0, 0, 0, "false"},
    {"max_tool_calls", R, ONLY, 0, 0, 0, 0, 0, ""},
    {"prompt", R, ONLY, 0, 0, 0, 0, 0, ""},
    {"conversation", R, ONLY, 0, 0, 0, 0, 0, ""},
    {"truncation", R, ONLY, 0, 0, 0, 0, 0, "\"disabled\""},
};

static const field *find(int who, const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if ((table[i].who & who) != 0 && strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

/* ---- reading ---- */

static status wrong_type(const field *f, api_error *e, const char *what)
{
    return api_refuse(e, ST_INVALID, f->name, "%s must be %s", f->name, what);
}

static unsigned type_of(const json_t *v)
{
    return json_is_string(v) ? STRING : json_is_array(v) ? LIST : json_is_object(v) ? OBJECT : json_is_integer(v) ? INTEGER : json_is_boolean(v) ? BOOLEAN : 0;
}

static status wrong_value(const field *f, api_error *e)
{
    static const char *const names[] = {"a string", "a list", "an object", "a whole number", "true or false"};
    char text[96] = "";
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (f->types & 1u << i)
            snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", text[0] == '\0' ? "" : " or ", names[i]);
    }
    return wrong_type(f, e, text);
}

/* Whether v, written as JSON, is one of the words of `only`. */
static bool is_one_of(const json_t *v, const char *only)
{
    char *text = json_line(v);
    size_t n = text == NULL ? 0 : strlen(text);
    bool found = false;
    for (const char *at = only; n > 0 && *at != '\0' && !found;) {
        size_t word = strcspn(at, " ");
        found = word == n && memcmp(at, text, n) == 0;
        at += word + (at[word] == ' ');
    }
    free(text);
    return found;
}

static status read_number(const field *f, const json_t *v, void *to, api_error *e)
{
    double d = json_number_value(v);
    if (!json_is_number(v))
        return wrong_type(f, e, "a number");
    if (!(d >= f->min && d <= f->max))
        return api_refuse(e, ST_INVALID, f->name, "%s is %g, must be from %g to %g", f->name, d, f->min, f->max);
    *(float *)to = (float)d;
    return ST_OK;
}

static status read_whole(const field *f, const json_t *v, void *to, api_error *e)
{
    double d = json_number_value(v);
    if (!json_is_number(v) || d != floor(d))
        return wrong_type(f, e, "a whole number");
    if (!(d >= f->min && d <= f->max))
        return api_refuse(e, ST_INVALID, f->name, "%s is %.0f, must be from %.0f to %.0f", f->name, d, f->min, f->max);
    *(int32_t *)to = (int32_t)d;
    return ST_OK;
}

static status read_text(const field *f, const json_t *v, void *to, api_error *e)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return wrong_type(f, e, "a string");
    *(const char **)to = json_string_value(v);
    return ST_OK;
}

static status read_field(const field *f, const json_t *v, api_fields *out, api_error *e)
{
    void *to = (char *)out + f->offset;
    if (json_is_null(v) || f->kind == NOTHING)
        return ST_OK;
    switch (f->kind) {
    case NUMBER:
        return read_number(f, v, to, e);
    case WHOLE:
        return read_whole(f, v, to, e);
    case TEXT:
        return read_text(f, v, to, e);
    case FLAG:
        if (!json_is_boolean(v))
            return wrong_type(f, e, "true or false");
        *(bool *)to = json_is_true(v);
        if (f->has != 0)
            *((bool *)((char *)out + f->has)) = true;
        return ST_OK;
    case VALUE:
        if ((f->types & type_of(v)) == 0)
            return wrong_value(f, e);
        *(const json_t **)to = v;
        return ST_OK;
    default:
        break;
    }
    if (is_one_of(v, f->only))
        return ST_OK;
    e->code = NULL;
    status st = api_refuse(e, ST_INVALID, f->name, f->only[0] == '\0' ? "%s is not supported" : "%s is not supported other than %s", f->name, f->only);
    e->code = "unsupported_parameter";
    return st;
}

static void clear(api_fields *f)
{
    *f = (api_fields){.temperature = NAN, .top_p = NAN, .min_p = NAN, .repetition_penalty = NAN, .presence_penalty = NAN, .frequency_penalty = NAN,
                      .top_k = API_ABSENT, .max_tokens = API_ABSENT, .max_completion_tokens = API_ABSENT, .max_output_tokens = API_ABSENT,
                      .min_tokens = API_ABSENT, .n = API_ABSENT, .priority = API_ABSENT, .top_logprobs = API_ABSENT, .prompt_logprobs = API_ABSENT,
                      .truncate_prompt_tokens = API_ABSENT, .dimensions = API_ABSENT, .skip_special_tokens = true, .parallel_tool_calls = true,
                      .include_reasoning = true};
}

status api_fields_read(int who, const json_t *body, api_fields *out, api_error *e)
{
    const char *name;
    json_t *v;
    clear(out);
    if (!json_is_object(body))
        return api_refuse(e, ST_INVALID, NULL, "a JSON object is needed");
    json_object_foreach((json_t *)body, name, v)
    {
        const field *f = find(who, name);
        if (f == NULL) {
            status st = api_refuse(e, ST_INVALID, name, "no field is called \"%.63s\"", name);
            e->code = "unknown_parameter";
            return st;
        }
        TRY(read_field(f, v, out, e));
    }
    return ST_OK;
}
