#include "coordinator/sampling.h"

void coord_sampling_of_wire(const Trireme__Sampling *m, step_sampling *out)
{
    *out = (step_sampling){
        .temperature = m->temperature,
        .top_k = m->top_k,
        .top_p = m->top_p,
        .min_p = m->min_p,
        .repetition_penalty = m->repetition_penalty,
        .presence_penalty = m->presence_penalty,
        .frequency_penalty = m->frequency_penalty,
        .seed = m->seed,
        .choice = m->choice,
        .n_logprobs = m->n_logprobs < 0 ? -1 : m->n_logprobs,
        .n_prompt_logprobs = m->n_prompt_logprobs < 0 ? -1 : m->n_prompt_logprobs,
        .min_tokens = m->min_tokens,
        .max_tokens = m->max_tokens,
        .want_hash = m->want_hash,
        .n_stop = (int32_t)m->n_stop,
        .allowed = {(int32_t)m->n_allowed_tokens, m->allowed_tokens},
        .logprob_tokens = {(int32_t)m->n_logprob_tokens, m->logprob_tokens},
        .n_grammar = m->grammar.len,
        .grammar = m->grammar.data,
    };
    for (int32_t i = 0; i < out->n_stop; i++)
        out->stop[i] = m->stop[i];
}
