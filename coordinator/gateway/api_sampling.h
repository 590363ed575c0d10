/* coordinator/gateway/api_sampling.h - sampling parameters resolved: the request's, else the checkpoint's defaults, else the usual ones; a seed drawn. */
#ifndef COORDINATOR_GATEWAY_API_SAMPLING_H
#define COORDINATOR_GATEWAY_API_SAMPLING_H

#include "coordinator/gateway/api_fields.h"

enum { API_MAX_END_TOKENS = 16, API_MAX_BAD_WORDS = 512, API_MAX_LOGPROBS = 1024, API_MAX_LOGPROB_TOKENS = 1024 };

/* What the model's side allows. */
typedef struct api_limits {
    int32_t vocab;
    int32_t max_context;       /* max_tokens is cut to what it leaves */
    int32_t default_max_tokens; /* where none is asked for; INT32_MAX: all that is left */
} api_limits;

/* A sampling message and the arrays it points to, which it owns; zero-initialise. */
typedef struct api_sampling {
    Trireme__Sampling message;
    int32_t *stop, *bias_tokens, *allowed, *logprob_tokens;
    float *bias_values;
    Trireme__TokenList *word_lists, **words;
    int32_t n_eos;             /* of `stop`, the first so many are the checkpoint's end tokens */
    char **stops;              /* stop strings */
    int n_stops;
} api_sampling;
void api_sampling_free(api_sampling *s);

/* max_tokens is set by api_sampling_fit, once the prompt's length is known.  text may lack a tokenizer if there are no bad words. */
status api_sampling_resolve(const api_fields *f, const shard_text *text, const api_limits *limits, api_sampling *out, api_error *e);
/* Of a copy of the message: max_tokens for a prompt of that many tokens. */
void api_sampling_fit(const api_fields *f, const api_limits *limits, size_t n_prompt, Trireme__Sampling *s);

/* A list of token ids, each below vocab. */
status api_token_ids(const char *name, const json_t *list, int32_t vocab, shard_ids *out, api_error *e);
status api_token_id(const char *name, const json_t *v, int32_t vocab, int32_t *out, api_error *e);

#endif
