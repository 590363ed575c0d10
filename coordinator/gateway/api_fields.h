/* coordinator/gateway/api_fields.h - a body's fields: known names, types and ranges, from one table of data. */
#ifndef COORDINATOR_GATEWAY_API_FIELDS_H
#define COORDINATOR_GATEWAY_API_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "coordinator/gateway/api.h"

/* Who knows a field. */
enum {
    API_FOR_COMPLETIONS = 1 << API_COMPLETIONS, API_FOR_CHAT = 1 << API_CHAT, API_FOR_RESPONSES = 1 << API_RESPONSES, API_FOR_EMBEDDINGS = 1 << API_EMBEDDINGS,
    API_FOR_TOKENIZE = 1 << API_TOKENIZE, API_FOR_DETOKENIZE = 1 << API_DETOKENIZE,
    API_FOR_LINES = 1 << 6, /* a line of `trireme generate`, the fields of `trireme chat` */
};

#define API_ABSENT INT32_MIN

/* As given: nothing is resolved.  Pointers are borrowed from the body's JSON; numbers that were not given are NAN and API_ABSENT. */
typedef struct api_fields {
    /* what to continue */
    const json_t *prompt, *prompt_ids, *messages, *input, *tokens;
    const json_t *tools, *documents, *chat_template_kwargs, *tool_choice, *id;
    const char *suffix, *chat_template, *instructions, *previous_response_id, *reasoning_effort;
    bool add_generation_prompt, has_add_generation_prompt, continue_final_message, echo, add_special_tokens, has_add_special_tokens;
    bool parallel_tool_calls, include_reasoning;
    int32_t truncate_prompt_tokens;
    const char *truncation_side;

    /* how to sample */
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, max_tokens, max_completion_tokens, max_output_tokens, min_tokens, n, priority, top_logprobs, prompt_logprobs;
    const json_t *logprobs, *seed, *logit_bias, *stop, *stop_token_ids, *allowed_token_ids, *bad_words, *bad_words_ids, *logprob_token_ids;
    bool ignore_eos, include_stop_str_in_output, skip_special_tokens;
    const char *cache_salt, *request_id, *pooling;
    bool normalize;

    /* what it must look like */
    const json_t *response_format, *text, *structured_outputs, *guided_json, *guided_regex, *guided_choice, *guided_grammar, *guided_json_object;

    /* how to answer */
    bool stream, return_token_ids, return_tokens_as_token_ids, return_token_strs, store;
    bool has_store;
    const json_t *stream_options, *metadata, *reasoning, *user, *include;
    const char *encoding_format, *model;
    int32_t dimensions;
} api_fields;

/* ST_INVALID: a field unknown, of the wrong type, out of range, or that would change the answer and is not supported; e names it.  `body` stays the
 * caller's and must outlive *out. */
status api_fields_read(int who, const json_t *body, api_fields *out, api_error *e);

/* Fills e and returns st, logging nothing.  param may be NULL. */
status api_refuse(api_error *e, status st, const char *param, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The same with this thread's last message, for a call that failed while muted. */
status api_refuse_message(api_error *e, status st, const char *param);

#endif
