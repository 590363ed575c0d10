/* coordinator/gateway/api.h - the OpenAI API as a function of bytes: a body in, requests for the replica out; events in, JSON or SSE out.
 *
 * Knows nothing of sockets, threads or replicas: a call is created on any thread, and used by one thread at a time.
 *
 *   body ─ fields (api_fields) ─ messages, template, tokens (api_prompt) ─ sampling (api_sampling) ─> Submit
 *   Event ─ text, stop strings (api_text) ─ reasoning, tool calls (api_parser) ─ JSON, SSE (api_completions, api_chat, api_responses) ─> bytes
 *
 * What a stream sends is the difference between what the answer holds now and what was sent, so a stream put together again is the
 * answer that is not streamed. */
#ifndef COORDINATOR_GATEWAY_API_H
#define COORDINATOR_GATEWAY_API_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/status.h"
#include "comm/wire/wire.pb-c.h"
#include "shard/text/bundle.h"

typedef struct api_error { /* {"error": {message, type, param, code}} */
    int http;
    const char *type, *code; /* code NULL: null */
    char param[64];          /* "": null */
    char message[512];
} api_error;
void api_error_json(const api_error *e, mem_str *out);

/* What a served model is: its text and its limits.  Immutable; shared. */
typedef struct api_model {
    const char *name, *digest, *fingerprint; /* served name; checkpoint digest; system_fingerprint: digest, adapter, build, split */
    const shard_text *text;
    int32_t max_model_len, vocab, embedding_dim;
    int64_t created;                         /* Unix time it came up */
    bool log_text;
} api_model;

typedef enum api_route { API_COMPLETIONS, API_CHAT, API_RESPONSES, API_EMBEDDINGS, API_TOKENIZE, API_DETOKENIZE } api_route;
typedef struct api_call api_call;

/* Where earlier responses are kept: NULL functions mean nowhere, and then previous_response_id and "store": true are refused by name. */
typedef struct api_store {
    /* The conversation up to and with that response (a list of input items), a new reference; NULL: not there, or not this caller's. */
    json_t *(*find)(void *arg, const char *response_id);
    void *arg;
} api_store;

typedef struct api_call_options {
    const api_model *model;
    const char *request_id;          /* X-Request-Id or drawn */
    int32_t max_sequences;           /* prompts x n; 0 = 128 */
    int32_t max_prompt_tokens_total; /* of all prompts; 0 = no more than max_sequences x max_model_len */
    api_store store;
} api_call_options;

/* Only the "model" field of a body (to pick among several); "" if absent. */
status api_body_model(const char *body, size_t len, char *out, size_t cap);
/* Parses, renders, tokenises, resolves.  Not ST_OK: *error is filled (and nothing logged: messages may quote the body). */
status api_call_create(api_route route, const char *body, size_t len, const api_call_options *options, api_call **out, api_error *error);
void api_call_destroy(api_call **call);

/* What to submit; 0 for tokenise and detokenise, whose answer is ready.  id is left 0 for the caller to set in its own copy (the rest is borrowed until the
 * sequence's next event).  Asked again after some events it holds the tokens so far and their hash: what a replay submits. */
int api_call_n_sequences(const api_call *call);
const Trireme__Submit *api_call_sequence(const api_call *call, int i);
bool api_call_streams(const api_call *call);
const char *api_call_id(const api_call *call); /* "chatcmpl-..." */

/* One event of sequence i; one that is known already (after a replay) is dropped, one too far ahead is ST_FORMAT.  Appends SSE bytes ("data: {...}\n\n",
 * "data: [DONE]\n\n") to out when streaming.  *cancel: the sequence ended here (stop string, tool call complete ...) and the replica must be told. */
status api_call_event(api_call *call, int i, const Trireme__Event *event, mem_str *out, bool *cancel);
/* A sequence cannot be finished: streaming appends an error event; else the call's answer becomes the error. */
void api_call_fail(api_call *call, const api_error *error, mem_str *out);
bool api_call_ended(const api_call *call);
/* The body, once ended (also of a stream: what it would have been in one piece); *http is its status. */
status api_call_answer(const api_call *call, mem_str *out, int *http);
/* Of an ended response that is to be kept ("store" is not false): its conversation, for api_store; a new reference.  Else NULL. */
json_t *api_call_conversation(const api_call *call);

typedef struct api_call_usage {
    int32_t prompt_tokens, completion_tokens, cached_tokens, n, max_tokens;
    const char *finish; /* of the first choice, for logs and metrics; NULL: not ended */
} api_call_usage;
void api_call_usage_get(const api_call *call, api_call_usage *out);
/* Tokens of sequence i so far (prompt, then generated as received): the journal's, for a replay.  Borrowed until the next event. */
const int32_t *api_call_tokens(const api_call *call, int i, int32_t *n, uint64_t *hash);

#endif
