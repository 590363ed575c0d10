/* coordinator/completion.h - one completion: a request as a user writes it (JSON), resolved to what the scheduler takes, and its answer from
 * tokens back to text and JSON.
 *
 * Resolving applies the chat template, tokenises, fills defaults (the checkpoint's generation settings, then the field's usual ones) and
 * draws a seed where none is given.  Text is decoded as tokens come; stop strings end it before they show. */
#ifndef COORDINATOR_COMPLETION_H
#define COORDINATOR_COMPLETION_H

#include <jansson.h>
#include <stdbool.h>

#include "base/status.h"
#include "coordinator/sched.h"
#include "shard/checkpoint.h"

typedef struct coord_completion coord_completion;

typedef struct coord_completion_defaults {
    int32_t max_tokens;   /* where a request names none */
    int32_t max_context;  /* max_tokens is cut to what the context leaves */
    bool want_hash;       /* keep the running hash of the logits */
} coord_completion_defaults;

/* `object`: prompt (text) | prompt_ids | messages (+ tools, documents, add_generation_prompt, continue_final_message, chat_template_kwargs);
 * max_tokens, min_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed, stop,
 * stop_token_ids, ignore_eos, include_stop_str_in_output, skip_special_tokens, add_special_tokens, logprobs, prompt_logprobs, logprob_token_ids,
 * allowed_token_ids, bad_words_ids (lists of ids), pooling ("last" or "mean": a vector instead of tokens), normalize, priority, id.
 * `number` becomes the scheduler's id; `where` starts messages.  ST_INVALID names the field; an unknown field is refused; ST_LIMIT: the prompt leaves
 * no room in the context.  Caller destroys *out. */
status coord_completion_parse(const char *where, const json_t *object, uint64_t number, const coord_completion_defaults *defaults,
                              shard_checkpoint *checkpoint, coord_completion **out);
void coord_completion_destroy(coord_completion **c);

const coord_request *coord_completion_request(const coord_completion *c);

/* Takes one event of this request.  *ended: nothing more will come; if *cancel too, a stop string was met and the scheduler must be told. */
status coord_completion_event(coord_completion *c, const coord_event *e, bool *ended, bool *cancel);

/* Text that may be shown and was not taken yet (never part of a stop string that may still complete, nor half a character). */
const char *coord_completion_take_text(coord_completion *c, size_t *len);
int32_t coord_completion_n_tokens(const coord_completion *c);
bool coord_completion_ended(const coord_completion *c);

/* {"id", "prompt_ids", "token_ids", "text", "finish_reason", "seed", "logits_hash", "logprobs", "prompt_logprobs", "embedding"}: the whole answer; NULL: out of
 * memory.  finish_reason "error": the request's own bans left no token that could come. */
json_t *coord_completion_answer(const coord_completion *c);

#endif
