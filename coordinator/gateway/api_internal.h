/* coordinator/gateway/api_internal.h - what a call is inside, for the files that know one route each. */
#ifndef COORDINATOR_GATEWAY_API_INTERNAL_H
#define COORDINATOR_GATEWAY_API_INTERNAL_H

#include "coordinator/gateway/api.h"
#include "coordinator/gateway/api_fields.h"
#include "coordinator/gateway/api_parser.h"
#include "coordinator/gateway/api_prompt.h"
#include "coordinator/gateway/api_sampling.h"
#include "coordinator/gateway/api_text.h"
#include "coordinator/gateway/api_write.h"

enum { API_MAX_MARK_TOKENS = 48 };

/* A prompt, shared by its n sequences until they are made. */
typedef struct api_prompt {
    shard_ids ids;
    mem_str text; /* as rendered or given; empty for token ids */
} api_prompt;

/* Log-probabilities as JSON, entries with commas between; text grows, and a stream sends what is new.  Chat: `entries`; completions: four lists. */
typedef struct api_logprobs {
    mem_str entries, tokens, values, tops, offsets;
    size_t n_characters; /* of the text so far */
} api_logprobs;

/* How much of a sequence a stream has sent. */
typedef struct api_sent {
    size_t content, reasoning, ids, entries, tokens, values, tops, offsets, calls, arguments /* of the last call sent */;
    bool begun, prompt;
} api_sent;

typedef struct api_sequence {
    int prompt, choice;
    shard_ids tokens;          /* prompt, then generated */
    size_t n_prompt;
    uint64_t hash;
    Trireme__Sampling sampling; /* a copy whose arrays are the call's */
    Trireme__Submit submit;
    api_text *text;
    api_parser *parser;
    api_logprobs logprobs;
    mem_str prompt_logprobs;   /* JSON entries */
    int32_t n_prompt_events;
    int32_t cached_tokens, n_reasoning; /* n_reasoning: tokens that were thought */
    bool ended, discard;       /* discard: max_tokens is 0, what is generated counts as nothing */
    const char *finish, *stop; /* finish_reason; the stop string */
    int32_t stop_token;        /* a stop_token_ids token that ended it, or -1 */
    float *embedding;
    size_t n_embedding;
    api_sent sent;
    void *items;               /* responses: state of the stream's items */
} api_sequence;

/* What a route does in its own way. */
typedef struct api_route_ops {
    const char *prefix, *object, *chunk_object; /* "chatcmpl-", "chat.completion", "chat.completion.chunk" */
    int who;
    int32_t default_max_tokens;
    status (*prepare)(api_call *c, api_error *e);
    void (*chunk)(api_call *c, api_sequence *s, mem_str *out); /* after an event, when streaming */
    void (*finish)(api_call *c, mem_str *out);                 /* after the last sequence, when streaming */
    void (*fail)(api_call *c, mem_str *out);                   /* an error in a stream */
    void (*answer)(const api_call *c, mem_str *out);
    void (*drop)(api_sequence *s);                             /* frees what `items` holds; may be NULL */
} api_route_ops;
extern const api_route_ops api_completions_ops, api_chat_ops, api_responses_ops, api_embeddings_ops, api_tokenize_ops, api_detokenize_ops;

struct api_call {
    const api_route_ops *ops;
    api_call_options options;
    const api_model *model;
    json_t *body;
    api_fields fields;
    char id[160];
    int64_t created;
    mem_str head;              /* "id": ..., "object": ..., ... of a chunk, up to the choices */

    mem_str grammar;           /* compiled; the sampling's once that is resolved */
    api_sampling sampling;
    api_limits limits;
    api_prompt *prompts;
    int n_prompts;
    api_sequence *sequences;
    int n_sequences, n_ended;
    int n;                     /* choices a prompt */

    /* chat and responses */
    json_t *messages, *tools;  /* owned; tools NULL: none on offer */
    json_t *items;             /* responses: the conversation's items */
    api_parser_options parsing;
    mem_str lead;              /* what each answer begins with (echo) */
    int32_t marks[API_MAX_MARK_TOKENS];
    int n_marks;
    bool hide_reasoning;
    uint64_t event_number;     /* responses */

    bool stream, include_usage, continuous_usage, want_logprobs;
    bool ready;                /* nothing to submit */
    mem_str made;              /* then: the answer */
    bool failed;
    api_error failure;
};

/* ---- api_request.c: prompts and sequences ---- */
/* Adds an empty prompt; ids and text are filled by the caller. */
status api_call_add_prompt(api_call *c, api_prompt **out, api_error *e);
/* Makes the sequences of all prompts: sampling resolved, lengths checked, under c->grammar if there is one. */
status api_call_make_sequences(api_call *c, api_error *e);
/* A string, a list of strings, a list of ids or a list of such lists, as prompts. */
status api_call_read_prompts(api_call *c, const char *name, const json_t *v, bool special, api_error *e);
/* Messages (and tools) as the one prompt, and how its answer is to be parsed. */
status api_call_chat_prompt(api_call *c, const char *messages_name, api_error *e);
/* tool_choice: which calls may come; *forced: the schema that makes them, a new reference or NULL. */
status api_call_tool_choice(api_call *c, json_t **forced, api_error *e);

/* ---- api_answer.c: pieces of answers ---- */
void api_call_record_logprobs(api_call *c, api_sequence *s, const Trireme__Event *event);
void api_call_record_prompt_logprobs(api_call *c, api_sequence *s, const Trireme__Event *event);
/* "prompt_tokens": ... with its braces. */
void api_put_usage(const api_call *c, mem_str *out);
void api_put_stop_reason(const api_sequence *s, mem_str *out);
/* With return_token_ids: the generated tokens, or those beyond *sent, which moves; at the end the hash of their logits. */
void api_put_tokens(const api_call *c, const api_sequence *s, size_t *sent, mem_str *out);
/* What of `from` lies beyond *sent, as a list's entries (no comma first); moves *sent unless it is NULL. */
void api_put_entries(mem_str *out, const mem_str *from, size_t *sent);
void api_put_head(const api_call *c, const char *object, mem_str *out);
/* An SSE line of data around what `body` holds. */
void api_put_data(mem_str *out, const char *json, size_t len);
static inline const char *api_str(const mem_str *s)
{
    return s->len == 0 ? "" : s->data;
}
static inline const int32_t *api_generated(const api_sequence *s, size_t *n)
{
    *n = s->discard ? 0 : s->tokens.n - s->n_prompt;
    return s->tokens.data + s->n_prompt;
}

#endif
