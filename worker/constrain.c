/* worker/constrain.c - which tokens a sequence lets come.
 *
 * Told to ops->sample as biases (minus infinity bans) and as a mask over the whole vocabulary, of which each rank applies its slice; so it
 * costs nothing where a request asks for nothing, and the choice is the same on every split.  Everything here follows from the
 * request and its own tokens: a replay meets the same constraints at the same places. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "worker/worker_internal.h"

static status allow_set(worker *w, worker_seq *q)
{
    const step_tokens *allowed = &q->sampling.allowed;
    size_t words = ((size_t)w->arch->vocab + 31) / 32;
    q->allows = allowed->n > 0;
    if (!q->allows)
        return ST_OK;
    if (q->allow == NULL)
        TRY(mem_calloc(words, sizeof(uint32_t), "allowed tokens", &q->allow));
    memset(q->allow, 0, words * sizeof(uint32_t));
    for (int32_t i = 0; i < allowed->n; i++)
        q->allow[allowed->tokens[i] / 32] |= 1u << (allowed->tokens[i] % 32);
    return ST_OK;
}

/* The biases asked for, and room for every ban that may join them. */
static status bias_set(worker_seq *q)
{
    const step_sampling *s = &q->sampling;
    size_t n = (size_t)s->n_bias + (size_t)s->n_stop + (size_t)s->n_bad_words;
    if (n == 0)
        return ST_OK;
    ops_token_bias *p = realloc(q->bias, n * sizeof(*p));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for %zu token biases", n);
    q->bias = p;
    for (int32_t i = 0; i < s->n_bias; i++)
        p[i] = (ops_token_bias){s->bias[i].token, s->bias[i].bias};
    return ST_OK;
}

static status tail_set(worker_seq *q)
{
    int32_t longest = 1;
    for (int32_t i = 0; i < q->sampling.n_bad_words; i++)
        longest = q->sampling.bad_words[i].n > longest ? q->sampling.bad_words[i].n : longest;
    q->n_tail = 0;
    q->cap_tail = longest - 1;
    if (longest == 1)
        return ST_OK;
    int32_t *p = realloc(q->tail, (size_t)q->cap_tail * sizeof(*p));
    if (p == NULL)
        return FAIL(ST_NO_MEMORY, "no memory for a bad word of %d tokens", longest);
    q->tail = p;
    return ST_OK;
}

status worker_constrain_admit(worker *w, worker_seq *q, const step_sampling *s)
{
    step_sampling kept = *s;
    kept.n_grammar = 0;
    free(q->lists);
    q->lists = NULL;
    TRY(step_sampling_copy(&kept, &q->sampling, &q->lists));
    TRY(worker_grammar_admit(w, q, s->grammar, s->n_grammar));
    TRY(allow_set(w, q));
    TRY(bias_set(q));
    return tail_set(q);
}

static void tail_push(worker_seq *q, int32_t token)
{
    if (q->cap_tail == 0)
        return;
    if (q->n_tail == q->cap_tail) {
        memmove(q->tail, q->tail + 1, (size_t)(q->n_tail - 1) * sizeof(*q->tail));
        q->n_tail--;
    }
    q->tail[q->n_tail++] = token;
}

status worker_constrain_saw(worker_seq *q, int32_t token)
{
    tail_push(q, token);
    return worker_grammar_saw(q, token);
}

/* Whether the tokens generated last are all of the word but its last one. */
static bool completes(const worker_seq *q, const step_tokens *word)
{
    int32_t before = word->n - 1;
    return before == 0 ||
           (before <= q->n_tail && memcmp(q->tail + q->n_tail - before, word->tokens, (size_t)before * sizeof(*q->tail)) == 0);
}

status worker_constrain_row(worker *w, worker_seq *q, ops_sample_row *r)
{
    const step_sampling *s = &q->sampling;
    int32_t n = s->n_bias;
    bool too_early = q->n_generated < s->min_tokens && !worker_grammar_ended(q); /* a grammar's end comes first: nothing else could follow */
    for (int32_t i = 0; too_early && i < s->n_stop; i++)
        q->bias[n++] = (ops_token_bias){s->stop[i], -INFINITY};
    for (int32_t i = 0; i < s->n_bad_words; i++) {
        if (completes(q, &s->bad_words[i]))
            q->bias[n++] = (ops_token_bias){s->bad_words[i].tokens[s->bad_words[i].n - 1], -INFINITY};
    }
    r->n_bias = n;
    r->bias = q->bias;
    r->allow = q->allows ? q->allow : NULL;
    return worker_grammar_row(w, q, r);
}

void worker_constrain_retire(worker_seq *q)
{
    worker_grammar_retire(q);
}

void worker_constrain_free(worker_seq *q)
{
    worker_grammar_retire(q);
    free(q->lists);
    free(q->bias);
    free(q->allow);
    free(q->tail);
    free(q->mask);
}
