/* tests/coordinator/test_service_request.c - whatever a gateway submits is refused, or makes an admission that every rank takes: a step that a rank
 * refuses would take the whole job with it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "coordinator/service_internal.h"

enum { VOCAB = 300, CONTEXT = 64 };

static uint64_t rng_state;

static uint64_t next_u64(void)
{
    return hash_mix(rng_state += 0x9e3779b97f4a7c15u);
}

static int32_t below(int32_t n)
{
    return (int32_t)(next_u64() % (uint64_t)n);
}

/* Mostly sensible, sometimes anything. */
static float some_float(float usual)
{
    static const float odd[] = {NAN, INFINITY, -INFINITY, -1, 0, 1e-45f, 3.4e38f, -3.4e38f, 1e4f, 1};
    return below(40) == 0 ? odd[below((int32_t)(sizeof(odd) / sizeof(odd[0])))] : usual;
}

static int32_t some_int(int32_t usual)
{
    static const int32_t odd[] = {INT32_MIN, -1, 0, 1, VOCAB, VOCAB + 1, INT32_MAX};
    return below(40) == 0 ? odd[below((int32_t)(sizeof(odd) / sizeof(odd[0])))] : usual;
}

static int32_t *some_ids(size_t *n, int32_t most)
{
    *n = (size_t)below(below(8) == 0 ? most + 2 : 4);
    int32_t *ids = calloc(*n + 1, sizeof(*ids));
    for (size_t i = 0; i < *n; i++)
        ids[i] = below(2000) == 0 ? some_int(0) : below(VOCAB);
    return ids;
}

static void some_sampling(Trireme__Sampling *s)
{
    trireme__sampling__init(s);
    s->temperature = some_float(1);
    s->top_p = some_float(0.9f);
    s->min_p = some_float(0.1f);
    s->repetition_penalty = some_float(1.1f);
    s->presence_penalty = some_float(0.5f);
    s->frequency_penalty = some_float(-0.5f);
    s->top_k = some_int(below(500));
    s->min_tokens = some_int(below(10));
    s->max_tokens = some_int(1 + below(100));
    s->n_logprobs = some_int(below(10) - 1);
    s->n_prompt_logprobs = some_int(below(10) - 1);
    s->choice = (uint32_t)next_u64();
    s->seed = next_u64();
    s->stop = some_ids(&s->n_stop, STEP_MAX_STOP_IDS);
    s->bias_tokens = some_ids(&s->n_bias_tokens, VOCAB);
    s->n_bias_values = s->n_bias_tokens + (below(50) == 0);
    s->bias_values = calloc(s->n_bias_values + 1, sizeof(float));
    for (size_t i = 0; i < s->n_bias_values; i++)
        s->bias_values[i] = some_float(-1);
    s->allowed_tokens = some_ids(&s->n_allowed_tokens, VOCAB);
    s->logprob_tokens = some_ids(&s->n_logprob_tokens, VOCAB);
    s->n_bad_words = (size_t)below(4);
    s->bad_words = calloc(s->n_bad_words + 1, sizeof(*s->bad_words));
    for (size_t i = 0; i < s->n_bad_words; i++) {
        s->bad_words[i] = calloc(1, sizeof(Trireme__TokenList));
        trireme__token_list__init(s->bad_words[i]);
        s->bad_words[i]->tokens = some_ids(&s->bad_words[i]->n_tokens, CONTEXT);
    }
}

static void some_submit(Trireme__Submit *m, Trireme__Sampling *s)
{
    trireme__submit__init(m);
    some_sampling(s);
    m->id = next_u64();
    m->n_tokens = (size_t)below(below(10) == 0 ? CONTEXT + 5 : 20);
    m->tokens = calloc(m->n_tokens + 1, sizeof(int32_t));
    for (size_t i = 0; i < m->n_tokens; i++)
        m->tokens[i] = below(3000) == 0 ? some_int(0) : below(VOCAB);
    m->n_prompt = some_int(below(3) == 0 && m->n_tokens > 1 ? 1 + below((int32_t)m->n_tokens - 1) : (int32_t)m->n_tokens);
    m->pooling = (Trireme__Pooling)(below(4) == 0 ? 1 + below(2) : 0);
    m->normalize = below(2);
    m->sampling = below(20) == 0 ? NULL : s;
    m->cache_salt.len = (size_t)below(3) * 8;
    m->cache_salt.data = calloc(m->cache_salt.len + 1, 1);
}

static void submit_free(Trireme__Submit *m, Trireme__Sampling *s)
{
    for (size_t i = 0; i < s->n_bad_words; i++) {
        free(s->bad_words[i]->tokens);
        free(s->bad_words[i]);
    }
    free(s->bad_words);
    free(s->stop);
    free(s->bias_tokens);
    free(s->bias_values);
    free(s->allowed_tokens);
    free(s->logprob_tokens);
    free(m->tokens);
    free(m->cache_salt.data);
}

/* As a rank would decode it. */
static void admission_is_taken(const service_command *c)
{
    static const step_limits limits = {.max_seqs = 4, .max_tokens = 512, .max_blocks = 100, .max_blocks_per_span = 4, .max_bias = VOCAB, .max_prefix = CONTEXT,
                                       .vocab = VOCAB, .n_kv_groups = 1};
    const coord_request *r = &c->request;
    step_admit admit = {.slot = 1, .rope_set = r->rope_set, .n_prompt = r->n_prompt, .n_generated = r->n_tokens - r->n_prompt, .hash = r->hash,
                        .pooling = r->pooling, .normalize = r->normalize, .sampling = r->sampling};
    step_span span = {.slot = 1, .n_tokens = r->n_tokens, .tokens = r->tokens, .next_token = -1, .flags = STEP_SPAN_SAMPLE};
    step s = {.number = 1, .n_kv_groups = 1, .n_admit = 1, .admit = &admit, .n_spans = 1, .spans = &span}, got;
    step_arena arena = {0};
    size_t len = 0;
    (void)step_encode(&s, NULL, 0, &len);
    void *bytes = malloc(len);
    assert_int_equal(step_encode(&s, bytes, len, &len), ST_OK);
    if (step_decode(bytes, len, &limits, &arena, &got) != ST_OK)
        fail_msg("a rank refuses what was accepted: %s", status_message());
    free(bytes);
    step_arena_free(&arena);
}

static void accepted_requests_are_taken_by_every_rank(void **state)
{
    (void)state;
    shard_arch arch = {.vocab = VOCAB};
    service s = {.arch = &arch, .max_model_len = CONTEXT, .opt = {.max_logprobs = 1000}};
    int n_accepted = 0, n_refused = 0;
    for (rng_state = 1; n_accepted + n_refused < 60000;) {
        Trireme__Submit m;
        Trireme__Sampling sampling;
        service_command *c = NULL;
        some_submit(&m, &sampling);
        status st = service_request_of(&s, &m, &c);
        if (st == ST_OK) {
            n_accepted++;
            assert_non_null(c);
            assert_int_equal(c->gateway_id, m.id);
            assert_int_equal(c->request.n_tokens, m.n_tokens);
            admission_is_taken(c);
            service_command_free(&c);
        } else {
            n_refused++;
            assert_null(c);
            assert_true(status_message()[0] != '\0');
        }
        submit_free(&m, &sampling);
    }
    assert_true(n_accepted > 10000 && n_refused > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepted_requests_are_taken_by_every_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
