/* tests/comm/test_step.c - the step codec: what goes in comes out, and nothing out of bounds comes out. */
#include "comm/step.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

static const step_limits limits = {
    .max_seqs = 24, .max_tokens = 300, .max_blocks = 70000, .max_blocks_per_span = 40, .max_bias = 20, .max_prefix = 50, .vocab = 151000, .n_kv_groups = 2};

enum { MAX_STEP = 1 << 20 };

typedef struct rng {
    uint64_t state;
} rng;

static uint64_t next_u64(rng *r)
{
    return hash_mix(r->state += 0x9e3779b97f4a7c15u);
}

static int32_t below(rng *r, int32_t n) /* small numbers come often: varint edges */
{
    uint64_t v = next_u64(r);
    return (int32_t)((v >> 60) < 4 ? (v & 0xff) % (uint64_t)n : v % (uint64_t)n);
}

static float any_float(rng *r, float min, float max)
{
    return min + (max - min) * (float)(next_u64(r) >> 40) * 0x1p-24f;
}

/* Everything a random step points to. */
typedef struct step_store {
    int32_t retire[24], tokens[300], blocks[24 * 2 * 40], prefix[24 * 50];
    step_admit admits[24];
    step_bias bias[24 * 20];
    int32_t listed[24 * 200];
    step_tokens words[24 * 20];
    char grammar[300];
    step_copy copies[10];
    step_span spans[24];
} step_store;

/* Lists of an admission come from here. */
typedef struct list_store {
    int32_t *tokens; /* 200 */
    step_tokens *words; /* 20 */
    int32_t n;
} list_store;

static void slots_shuffled(rng *r, int32_t *slots)
{
    for (int32_t i = 0; i < limits.max_seqs; i++)
        slots[i] = i;
    for (int32_t i = limits.max_seqs; i-- > 1;) {
        int32_t j = below(r, i + 1), t = slots[i];
        slots[i] = slots[j];
        slots[j] = t;
    }
}

static step_tokens random_tokens(rng *r, list_store *l, int32_t min, int32_t max)
{
    step_tokens t = {min + below(r, max - min + 1), l->tokens + l->n};
    for (int32_t i = 0; i < t.n; i++)
        l->tokens[l->n++] = below(r, limits.vocab);
    return t;
}

static void random_lists(rng *r, list_store *l, const char *grammar, step_sampling *p)
{
    p->allowed = random_tokens(r, l, 0, limits.max_bias);
    p->logprob_tokens = random_tokens(r, l, 0, limits.max_bias);
    p->n_bad_words = below(r, limits.max_bias + 1);
    p->bad_words = l->words;
    for (int32_t i = 0; i < p->n_bad_words; i++)
        l->words[i] = random_tokens(r, l, 1, 8);
    p->n_grammar = (size_t)below(r, 300);
    p->grammar = grammar;
}

static void random_sampling(rng *r, step_bias *bias, step_sampling *p)
{
    *p = (step_sampling){.temperature = any_float(r, 0, 2),
                         .top_k = below(r, 1000),
                         .top_p = any_float(r, 0, 1),
                         .min_p = any_float(r, 0, 1),
                         .repetition_penalty = any_float(r, 0.5f, 2),
                         .presence_penalty = any_float(r, -2, 2),
                         .frequency_penalty = any_float(r, -2, 2),
                         .seed = next_u64(r),
                         .choice = (uint32_t)next_u64(r),
                         .n_logprobs = below(r, 20) - 1,
                         .n_prompt_logprobs = below(r, 20) - 1,
                         .min_tokens = below(r, 100),
                         .max_tokens = below(r, INT32_MAX),
                         .want_hash = below(r, 2),
                         .n_stop = below(r, STEP_MAX_STOP_IDS + 1),
                         .n_bias = below(r, limits.max_bias + 1),
                         .bias = bias};
    for (int32_t i = 0; i < p->n_stop; i++)
        p->stop[i] = below(r, limits.vocab);
    for (int32_t i = 0; i < p->n_bias; i++)
        bias[i] = (step_bias){below(r, limits.vocab), below(r, 5) == 0 ? -INFINITY : any_float(r, -100, 100)};
}

static void random_step(rng *r, step_store *m, step *s)
{
    int32_t slots[24], n_tokens = limits.max_tokens, n_blocks = 0, at = 0;
    *s = (step){.number = next_u64(r) | 1,
                .stop = below(r, 2),
                .lent = below(r, 2),
                .n_kv_groups = limits.n_kv_groups,
                .n_retire = below(r, limits.max_seqs + 1),
                .retire = m->retire,
                .n_admit = below(r, limits.max_seqs + 1),
                .admit = m->admits,
                .n_copies = below(r, 11),
                .copies = m->copies,
                .spans = m->spans};
    slots_shuffled(r, m->retire);
    slots_shuffled(r, slots);
    for (size_t i = 0; i < sizeof(m->grammar); i++)
        m->grammar[i] = (char)next_u64(r);
    for (int32_t i = 0; i < s->n_admit; i++) {
        m->admits[i] = (step_admit){.slot = slots[i], .rope_set = below(r, 2), .n_prompt = below(r, 5000), .n_generated = below(r, 5000),
                                    .hash = next_u64(r), .pooling = (step_pooling)below(r, 3), .normalize = below(r, 2)};
        step_admit *a = &m->admits[i];
        int32_t most = a->n_prompt + a->n_generated;
        a->n_prefix = most == 0 || below(r, 2) ? 0 : below(r, most < limits.max_prefix + 1 ? most : limits.max_prefix + 1);
        a->prefix = m->prefix + i * limits.max_prefix;
        for (int32_t t = 0; t < a->n_prefix; t++)
            m->prefix[i * limits.max_prefix + t] = below(r, limits.vocab);
        random_sampling(r, m->bias + i * limits.max_bias, &a->sampling);
        if (below(r, 2)) { /* of a prefix only what was generated travels */
            a->sampling.repetition_penalty = 1;
            a->sampling.presence_penalty = a->sampling.frequency_penalty = 0;
        }
        list_store l = {m->listed + i * 200, m->words + i * 20, 0};
        random_lists(r, &l, m->grammar, &m->admits[i].sampling);
    }
    for (int32_t i = 0; i < s->n_copies; i++)
        m->copies[i] = (step_copy){below(r, limits.n_kv_groups), below(r, limits.max_blocks), below(r, limits.max_blocks)};
    slots_shuffled(r, slots);
    for (int32_t want = below(r, limits.max_seqs + 1); s->n_spans < want && n_tokens > 0; s->n_spans++) {
        step_span *sp = &m->spans[s->n_spans];
        *sp = (step_span){.slot = slots[s->n_spans], .position = below(r, 1 << 20), .flags = below(r, 4), .tokens = m->tokens + at};
        sp->n_tokens = 1 + below(r, below(r, 3) == 0 ? n_tokens : 1);
        n_tokens -= sp->n_tokens;
        at += sp->n_tokens;
        for (int32_t i = 0; i < sp->n_tokens; i++)
            m->tokens[at - sp->n_tokens + i] = below(r, limits.vocab + 1) - 1;
        sp->next_token = below(r, limits.vocab + 1) - 1;
        for (int g = 0; g < limits.n_kv_groups; g++) {
            sp->n_new_blocks[g] = below(r, limits.max_blocks_per_span + 1);
            sp->new_blocks[g] = m->blocks + n_blocks;
            for (int32_t i = 0; i < sp->n_new_blocks[g]; i++)
                m->blocks[n_blocks++] = below(r, limits.max_blocks);
        }
    }
}

/* memcmp of lists that may be empty. */
static void same_list(const void *a, const void *b, size_t bytes)
{
    if (bytes > 0)
        assert_memory_equal(a, b, bytes);
}

static void same_tokens(const step_tokens *a, const step_tokens *b)
{
    assert_int_equal(a->n, b->n);
    same_list(a->tokens, b->tokens, (size_t)a->n * sizeof(int32_t));
}

static void same_sampling(const step_sampling *a, const step_sampling *b)
{
    assert_true(a->temperature == b->temperature && a->top_k == b->top_k && a->top_p == b->top_p && a->min_p == b->min_p);
    assert_true(a->repetition_penalty == b->repetition_penalty && a->presence_penalty == b->presence_penalty &&
                a->frequency_penalty == b->frequency_penalty);
    assert_true(a->seed == b->seed && a->choice == b->choice && a->n_logprobs == b->n_logprobs &&
                a->n_prompt_logprobs == b->n_prompt_logprobs);
    assert_true(a->min_tokens == b->min_tokens && a->max_tokens == b->max_tokens &&
                a->want_hash == b->want_hash && a->n_stop == b->n_stop && a->n_bias == b->n_bias);
    same_list(a->stop, b->stop, (size_t)a->n_stop * sizeof(int32_t));
    same_list(a->bias, b->bias, (size_t)a->n_bias * sizeof(step_bias));
    same_tokens(&a->allowed, &b->allowed);
    same_tokens(&a->logprob_tokens, &b->logprob_tokens);
    assert_int_equal(a->n_bad_words, b->n_bad_words);
    for (int32_t i = 0; i < a->n_bad_words; i++)
        same_tokens(&a->bad_words[i], &b->bad_words[i]);
    assert_int_equal(a->n_grammar, b->n_grammar);
    same_list(a->grammar, b->grammar, a->n_grammar);
}

static void same_step(const step *a, const step *b)
{
    assert_true(a->number == b->number && a->stop == b->stop && a->lent == b->lent && a->n_kv_groups == b->n_kv_groups);
    assert_true(a->n_retire == b->n_retire && a->n_admit == b->n_admit && a->n_copies == b->n_copies && a->n_spans == b->n_spans);
    same_list(a->retire, b->retire, (size_t)a->n_retire * sizeof(int32_t));
    same_list(a->copies, b->copies, (size_t)a->n_copies * sizeof(step_copy));
    for (int32_t i = 0; i < a->n_admit; i++) {
        const step_admit *x = &a->admit[i], *y = &b->admit[i];
        assert_true(x->slot == y->slot && x->rope_set == y->rope_set && x->n_prompt == y->n_prompt && x->n_generated == y->n_generated &&
                    x->hash == y->hash && x->pooling == y->pooling && x->normalize == y->normalize);
        assert_int_equal(x->n_prefix, y->n_prefix);
        same_list(x->prefix, y->prefix, (size_t)step_prefix_told(x) * sizeof(int32_t));
        same_sampling(&x->sampling, &y->sampling);
    }
    for (int32_t i = 0; i < a->n_spans; i++) {
        const step_span *x = &a->spans[i], *y = &b->spans[i];
        assert_true(x->slot == y->slot && x->position == y->position && x->n_tokens == y->n_tokens && x->flags == y->flags);
        assert_int_equal(x->next_token, y->next_token);
        same_list(x->tokens, y->tokens, (size_t)x->n_tokens * sizeof(int32_t));
        for (int g = 0; g < a->n_kv_groups; g++) {
            assert_int_equal(x->n_new_blocks[g], y->n_new_blocks[g]);
            same_list(x->new_blocks[g], y->new_blocks[g], (size_t)x->n_new_blocks[g] * sizeof(int32_t));
        }
    }
}

/* From an exact-size heap copy, so that a read past the end is one a sanitizer sees. */
static status decode_copy(const uint8_t *buf, size_t len, const step_limits *lim, step_arena *arena, step *out)
{
    uint8_t *copy = malloc(len == 0 ? 1 : len);
    assert_non_null(copy);
    memcpy(copy, buf, len);
    status st = step_decode(copy, len, lim, arena, out);
    free(copy);
    return st;
}

static uint8_t buf[MAX_STEP], again[MAX_STEP];
static step_store store;

static void random_steps_come_back(void **state)
{
    (void)state;
    rng r = {1};
    step_arena arena = {0};
    for (int i = 0; i < 2000; i++) {
        step s, got;
        size_t len, need, len2;
        random_step(&r, &store, &s);
        assert_int_equal(step_encode(&s, NULL, 0, &need), ST_LIMIT);
        assert_int_equal(step_encode(&s, buf, need - 1, &len), ST_LIMIT);
        assert_int_equal(step_encode(&s, buf, need, &len), ST_OK);
        assert_int_equal(len, need);
        assert_int_equal(decode_copy(buf, len, &limits, &arena, &got), ST_OK);
        same_step(&s, &got);
        assert_int_equal(step_encode(&got, again, sizeof(again), &len2), ST_OK);
        assert_int_equal(len2, len);
        assert_memory_equal(buf, again, len);
    }
    step_arena_free(&arena);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    rng r = {2};
    step_arena arena = {0};
    status_mute();
    for (int i = 0; i < 20; i++) {
        step s, got;
        size_t len;
        random_step(&r, &store, &s);
        assert_int_equal(step_encode(&s, buf, sizeof(buf), &len), ST_OK);
        for (size_t cut = 0; cut < len; cut++)
            assert_int_equal(decode_copy(buf, cut, &limits, &arena, &got), ST_FORMAT);
        buf[len] = 0;
        assert_int_equal(decode_copy(buf, len + 1, &limits, &arena, &got), ST_FORMAT);
        assert_non_null(strstr(status_message(), "too many"));
    }
    status_unmute();
    step_arena_free(&arena);
}

/* A small valid step; each case spoils one thing. */
typedef struct small_step {
    int32_t retire[2], tokens[3], blocks[4], prefix[3];
    step_bias bias[2];
    int32_t listed[4];
    step_tokens words[1];
    step_admit admit[2];
    step_copy copies[1];
    step_span spans[2];
    step s;
} small_step;

static void small_step_make(small_step *m)
{
    *m = (small_step){.retire = {3, 4}, .tokens = {5, 6, STEP_TOKEN_LAST}, .blocks = {1, 2, 3, 4}, .prefix = {1, 2, 3}};
    m->bias[0] = (step_bias){7, 1};
    m->bias[1] = (step_bias){8, -1};
    for (int i = 0; i < 4; i++)
        m->listed[i] = i;
    m->words[0] = (step_tokens){1, &m->listed[2]};
    for (int i = 0; i < 2; i++) {
        m->admit[i] = (step_admit){.slot = 3 + i, .n_prompt = 10, .n_prefix = 3, .prefix = m->prefix};
        m->admit[i].sampling = (step_sampling){.top_p = 1, .repetition_penalty = 1.5f, .n_logprobs = -1, .n_prompt_logprobs = -1, .max_tokens = 5,
                                               .n_stop = 1, .stop = {2}, .n_bias = 2, .bias = m->bias,
                                               .allowed = {1, &m->listed[0]}, .logprob_tokens = {1, &m->listed[1]}, .n_bad_words = 1,
                                               .bad_words = m->words, .n_grammar = 3, .grammar = "abc"};
        m->spans[i] = (step_span){.slot = 3 + i, .n_tokens = 1, .flags = 1, .tokens = &m->tokens[2 * i], .next_token = -1};
        for (int g = 0; g < 2; g++) {
            m->spans[i].n_new_blocks[g] = 1;
            m->spans[i].new_blocks[g] = &m->blocks[2 * i + g];
        }
    }
    m->s = (step){.number = 9, .n_kv_groups = 2, .n_retire = 2, .retire = m->retire, .n_admit = 2, .admit = m->admit, .n_copies = 1,
                  .copies = m->copies, .n_spans = 2, .spans = m->spans};
}

#define SPOIL_LIST(X)                                                          \
    X(m->s.number = 0)                                                         \
    X(m->s.n_kv_groups = 1)                                                    \
    X(m->s.n_kv_groups = 3)                                                    \
    X(m->retire[1] = 24)                                                       \
    X(m->retire[1] = m->retire[0])                                             \
    X(m->admit[1].slot = 24)                                                   \
    X(m->admit[1].slot = m->admit[0].slot)                                     \
    X(m->admit[0].rope_set = -1)                                                \
    X((m->admit[0].n_prompt = INT32_MAX, m->admit[0].n_generated = 1))         \
    X(m->admit[0].n_prompt = 3)                                                \
    X(m->prefix[2] = 151000)                                                   \
    X(m->prefix[2] = -1)                                                       \
    X(m->admit[0].sampling.temperature = NAN)                                  \
    X(m->admit[0].sampling.temperature = -1)                                   \
    X(m->admit[0].sampling.temperature = INFINITY)                             \
    X(m->admit[0].sampling.top_p = 1.5f)                                       \
    X(m->admit[0].sampling.top_p = NAN)                                        \
    X(m->admit[0].sampling.min_p = -0.5f)                                      \
    X(m->admit[0].sampling.repetition_penalty = -1)                            \
    X(m->admit[0].sampling.presence_penalty = INFINITY)                        \
    X(m->admit[0].sampling.frequency_penalty = NAN)                            \
    X(m->admit[0].sampling.n_logprobs = 151001)                                \
    X(m->admit[0].sampling.n_prompt_logprobs = 151001)                         \
    X(m->admit[0].sampling.stop[0] = 151000)                                   \
    X(m->bias[1].token = 151000)                                               \
    X(m->bias[1].bias = INFINITY)                                              \
    X(m->bias[1].bias = NAN)                                                   \
    X(m->admit[1].pooling = 3)                                                 \
    X(m->listed[0] = 151000)                                                   \
    X(m->listed[1] = 151000)                                                   \
    X(m->listed[2] = 151000)                                                   \
    X(m->words[0].n = 0)                                                       \
    X(m->copies[0].group = 2)                                                  \
    X(m->copies[0].from = 70000)                                               \
    X(m->copies[0].to = 70000)                                                 \
    X(m->spans[1].slot = 24)                                                   \
    X(m->spans[1].slot = m->spans[0].slot)                                     \
    X(m->spans[1].flags = 4)                                                   \
    X(m->spans[1].n_tokens = 0)                                                \
    X(m->spans[1].position = INT32_MAX)                                        \
    X(m->tokens[2] = 151000)                                                   \
    X(m->spans[1].next_token = 151000)                                         \
    X(m->blocks[3] = 70000)

static const char *spoil(small_step *m, int index)
{
    int i = 0;
#define SPOIL_CASE(what)                                                       \
    if (i++ == index) {                                                        \
        what;                                                                  \
        return #what;                                                          \
    }
    SPOIL_LIST(SPOIL_CASE)
#undef SPOIL_CASE
    return NULL;
}

static void every_value_out_of_bounds_is_refused(void **state)
{
    (void)state;
    step_arena arena = {0};
    small_step m;
    step got;
    size_t len;
    small_step_make(&m);
    assert_int_equal(step_encode(&m.s, buf, sizeof(buf), &len), ST_OK);
    assert_int_equal(decode_copy(buf, len, &limits, &arena, &got), ST_OK);
    status_mute();
    const char *what;
    int n = 0;
    for (;; n++) {
        small_step_make(&m);
        what = spoil(&m, n);
        if (what == NULL)
            break;
        assert_int_equal(step_encode(&m.s, buf, sizeof(buf), &len), ST_OK);
        if (decode_copy(buf, len, &limits, &arena, &got) != ST_FORMAT)
            fail_msg("accepted: %s", what);
    }
    assert_true(n >= 43);
    status_unmute();
    step_arena_free(&arena);
}

static void every_limit_is_enforced(void **state)
{
    (void)state;
    /* The small step needs exactly these. */
    const step_limits exact = {.max_seqs = 5, .max_tokens = 2, .max_blocks = 5, .max_blocks_per_span = 1, .max_bias = 2, .max_prefix = 3, .vocab = 9, .n_kv_groups = 2};
    step_arena arena = {0};
    small_step m;
    step got;
    size_t len;
    small_step_make(&m);
    assert_int_equal(step_encode(&m.s, buf, sizeof(buf), &len), ST_OK);
    assert_int_equal(decode_copy(buf, len, &exact, &arena, &got), ST_OK);
    status_mute();
    for (size_t i = 0; i < 7; i++) {
        step_limits less = exact;
        (&less.max_seqs)[i]--;
        assert_int_equal(decode_copy(buf, len, &less, &arena, &got), ST_FORMAT);
    }
    step_limits none = exact;
    none.vocab = 0;
    assert_int_equal(decode_copy(buf, len, &none, &arena, &got), ST_INVALID);
    status_unmute();
    step_arena_free(&arena);
}

static void a_longer_form_of_a_number_is_refused(void **state)
{
    (void)state;
    /* version, kind, number 1 as 0x81 0x00, flags, counts */
    const uint8_t longer[] = {STEP_VERSION, 1, 0x81, 0x00, 0, 2, 0, 0, 0, 0}, good[] = {STEP_VERSION, 1, 1, 0, 2, 0, 0, 0, 0};
    const uint8_t huge[] = {STEP_VERSION, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 2, 0, 0, 0, 0};
    const uint8_t version[] = {STEP_VERSION + 1, 1, 1, 0, 2, 0, 0, 0, 0}, kind[] = {STEP_VERSION, 2, 1, 0, 2, 0, 0, 0, 0};
    step_arena arena = {0};
    step got;
    assert_int_equal(decode_copy(good, sizeof(good), &limits, &arena, &got), ST_OK);
    assert_int_equal(got.number, 1);
    status_mute();
    assert_int_equal(decode_copy(longer, sizeof(longer), &limits, &arena, &got), ST_FORMAT);
    assert_int_equal(decode_copy(huge, sizeof(huge), &limits, &arena, &got), ST_FORMAT);
    assert_int_equal(decode_copy(version, sizeof(version), &limits, &arena, &got), ST_FORMAT);
    assert_int_equal(decode_copy(kind, sizeof(kind), &limits, &arena, &got), ST_FORMAT);
    status_unmute();
    step_arena_free(&arena);
}

static void results_come_back(void **state)
{
    (void)state;
    enum { ROWS = 30, TOP = 20, VOCAB = 50000 };
    static step_result_row rows[ROWS];
    static step_logprob top[ROWS][TOP];
    static float vector[ROWS][TOP];
    const step_result_limits limits_of = {ROWS, TOP, TOP, VOCAB};
    rng r = {3};
    step_arena arena = {0};
    status_mute();
    for (int i = 0; i < 300; i++) {
        step_result res = {.number = next_u64(&r), .n_rows = below(&r, ROWS + 1), .rows = rows}, got;
        for (int32_t k = 0; k < res.n_rows; k++) {
            rows[k] = (step_result_row){.slot = below(&r, 1000), .position = below(&r, 1 << 20), .token = below(&r, VOCAB + 1) - 1,
                                        .finish = (uint8_t)below(&r, STEP_FINISHES), .hash = next_u64(&r), .logprob = any_float(&r, -20, 0),
                                        .rank = below(&r, VOCAB + 1), .n_top = below(&r, TOP + 1), .top = top[k],
                                        .n_embedding = below(&r, TOP + 1), .embedding = vector[k]};
            for (int32_t t = 0; t < rows[k].n_top; t++)
                top[k][t] = (step_logprob){below(&r, VOCAB), t == 0 ? -INFINITY : any_float(&r, -20, 0), below(&r, VOCAB + 1)};
            for (int32_t t = 0; t < rows[k].n_embedding; t++)
                vector[k][t] = any_float(&r, -1, 1);
        }
        size_t len;
        assert_int_equal(step_result_encode(&res, buf, sizeof(buf), &len), ST_OK);
        assert_int_equal(step_result_decode(buf, len, &limits_of, &arena, &got), ST_OK);
        assert_true(got.number == res.number && got.n_rows == res.n_rows);
        for (int32_t k = 0; k < res.n_rows; k++) {
            const step_result_row *a = &rows[k], *b = &got.rows[k];
            assert_true(a->slot == b->slot && a->position == b->position && a->token == b->token && a->finish == b->finish);
            assert_true(a->hash == b->hash && a->logprob == b->logprob && a->rank == b->rank && a->n_top == b->n_top);
            same_list(a->top, b->top, (size_t)a->n_top * sizeof(step_logprob));
            assert_int_equal(a->n_embedding, b->n_embedding);
            same_list(a->embedding, b->embedding, (size_t)a->n_embedding * sizeof(float));
        }
        for (size_t cut = 0; i < 10 && cut < len; cut++) {
            uint8_t *copy = malloc(cut == 0 ? 1 : cut);
            memcpy(copy, buf, cut);
            assert_int_equal(step_result_decode(copy, cut, &limits_of, &arena, &got), ST_FORMAT);
            free(copy);
        }
        if (res.n_rows == 0)
            continue;
        rows[0].n_top = rows[0].n_embedding = TOP;
        for (int32_t t = 0; t < TOP; t++) {
            top[0][t] = (step_logprob){t, -1, 1};
            vector[0][t] = 1;
        }
        assert_int_equal(step_result_encode(&res, buf, sizeof(buf), &len), ST_OK);
        for (int less = 0; less < 4; less++) { /* each limit in turn is one too low */
            step_result_limits lim = {res.n_rows, TOP, TOP, VOCAB};
            assert_int_equal(step_result_decode(buf, len, &lim, &arena, &got), ST_OK);
            (&lim.max_rows)[less]--;
            rows[0].rank = less == 3 ? VOCAB : rows[0].rank;
            assert_int_equal(step_result_encode(&res, buf, sizeof(buf), &len), ST_OK);
            assert_int_equal(step_result_decode(buf, len, &lim, &arena, &got), ST_FORMAT);
        }
        rows[0].finish = STEP_FINISHES;
        assert_int_equal(step_result_encode(&res, buf, sizeof(buf), &len), ST_OK);
        assert_int_equal(step_result_decode(buf, len, &limits_of, &arena, &got), ST_FORMAT);
        rows[0].finish = 0;
        rows[0].token = VOCAB;
        assert_int_equal(step_result_encode(&res, buf, sizeof(buf), &len), ST_OK);
        assert_int_equal(step_result_decode(buf, len, &limits_of, &arena, &got), ST_FORMAT);
    }
    status_unmute();
    step_arena_free(&arena);
}

static void a_copy_borrows_nothing(void **state)
{
    (void)state;
    rng r = {4};
    for (int i = 0; i < 200; i++) {
        step_sampling from, to;
        void *memory;
        random_sampling(&r, store.bias, &from);
        list_store l = {store.listed, store.words, 0};
        random_lists(&r, &l, store.grammar, &from);
        if (i == 0)
            from = (step_sampling){0};
        assert_int_equal(step_sampling_copy(&from, &to, &memory), ST_OK);
        assert_true((memory == NULL) == (from.n_bias + from.allowed.n + from.logprob_tokens.n + from.n_bad_words == 0 && from.n_grammar == 0));
        same_sampling(&from, &to);
        /* The same again once what was borrowed has gone. */
        step_sampling second;
        void *memory2;
        assert_int_equal(step_sampling_copy(&to, &second, &memory2), ST_OK);
        memset(&store, 0x55, sizeof(store));
        same_sampling(&second, &to);
        free(memory);
        free(memory2);
    }
}

static void a_decoding_sequence_takes_few_bytes(void **state)
{
    (void)state;
    static step_span spans[256];
    int32_t last = STEP_TOKEN_LAST;
    for (int i = 0; i < 256; i++)
        spans[i] = (step_span){.slot = i, .position = 5000, .n_tokens = 1, .flags = STEP_SPAN_SAMPLE, .tokens = &last, .next_token = -1};
    step s = {.number = 1000, .n_kv_groups = 1, .n_spans = 256, .spans = spans};
    size_t len;
    assert_int_equal(step_encode(&s, buf, sizeof(buf), &len), ST_OK);
    assert_true(len <= 256 * 9 + 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_steps_come_back),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_value_out_of_bounds_is_refused),
        cmocka_unit_test(every_limit_is_enforced),
        cmocka_unit_test(a_longer_form_of_a_number_is_refused),
        cmocka_unit_test(results_come_back),
        cmocka_unit_test(a_copy_borrows_nothing),
        cmocka_unit_test(a_decoding_sequence_takes_few_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
