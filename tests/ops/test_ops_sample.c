/* tests/ops/test_ops_sample.c - penalties, masks, sums, noise and the best tokens against a plain rendering of ops.h's words; the same answer at every
 * level and thread count, for a row alone, and for a vocabulary cut in slices. */
#include "tests/ops/fixture.h"

#include "base/half.h"
#include "base/hash.h"

#define VOCAB 20011
#define ROWS 9

static ops_token_count counts[300];
static ops_token_bias biases[40];
static uint32_t allow[VOCAB / 32 + 1];

static void describe(ops_sample_row *r)
{
    uint64_t seed = 77;
    for (int i = 0; i < 300; i++)
        counts[i] = (ops_token_count){(i * 61 + 5) % VOCAB, i % 3, i % 2 == 0};
    for (int i = 0; i < 40; i++)
        biases[i] = (ops_token_bias){(i * 997 + 3) % VOCAB, uniform(&seed) * 5};
    for (size_t i = 0; i < ARRAY_LEN(allow); i++)
        allow[i] = random_bits(&seed) | random_bits(&seed);
    for (int i = 0; i < ROWS; i++)
        r[i] = (ops_sample_row){.row = i, .temperature = 1.0f, .repetition_penalty = 1.0f, .seed = 1000 + (uint64_t)i, .choice = (uint32_t)i, .position = 40 * i,
                                .n_candidates = 1, .n_raw = 5, .target = 17 * i, .want_sample = true, .want_sum = true, .want_hash = true};
    r[1].temperature = 0.0f;
    r[1].n_candidates = OPS_MAX_CANDIDATES;
    r[2].temperature = 0.7f;
    r[2].repetition_penalty = 1.3f;
    r[2].presence_penalty = 0.5f;
    r[2].frequency_penalty = 0.25f;
    r[2].n_counts = 300;
    r[2].counts = counts;
    r[3].n_bias = 40;
    r[3].bias = biases;
    r[3].n_candidates = 20;
    r[4].allow = allow;
    r[4].temperature = 1.7f;
    r[4].n_raw = OPS_MAX_CANDIDATES;
    r[5].want_sample = false;
    r[5].target = -1;
    r[6].want_hash = false;
    r[6].n_raw = 0;
    r[7] = r[2];
    r[7].row = 7;
    r[7].allow = allow;
    r[7].n_bias = 40;
    r[7].bias = biases;
    r[8].n_candidates = 0;
    r[8].want_sum = false;
}

static int by_logit(const void *a, const void *b)
{
    const ops_candidate *x = a, *y = b;
    return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->token < y->token ? -1 : x->token > y->token;
}

static void expect_top(const char *what, const float *l, const float *raw, int32_t n, int32_t first, const ops_candidate *got, int32_t n_got, int32_t wanted)
{
    ops_candidate *all = test_malloc(sizeof(*all) * (size_t)n);
    int32_t known = 0;
    for (int32_t i = 0; i < n; i++)
        if (l[i] > -INFINITY)
            all[known++] = (ops_candidate){first + i, l[i], raw[i]};
    qsort(all, (size_t)known, sizeof(*all), by_logit);
    assert_int_equal(n_got, known < wanted ? known : wanted);
    for (int32_t i = 0; i < n_got; i++)
        if (got[i].token != all[i].token || got[i].logit != all[i].logit || got[i].raw != all[i].raw)
            fail_msg("%s %d: token %d (%g, raw %g), want %d (%g, raw %g)", what, i, got[i].token, (double)got[i].logit, (double)got[i].raw, all[i].token,
                     (double)all[i].logit, (double)all[i].raw);
    test_free(all);
}

static void expect_row(const ops_sample_args *a, const ops_sample_row *r, const float *before, const float *logits, const float *adjusted, const ops_sample_out *o)
{
    static float want[VOCAB];
    int32_t n = a->logits.cols, first = a->vocab_begin;
    double max = -INFINITY, sum = 0;
    uint64_t hash = 0;
    for (int32_t i = 0; i < n; i++) {
        double l = (double)before[i] * a->multiplier;
        if (a->softcap > 0)
            l = a->softcap * tanh(l / a->softcap);
        assert_near("raw logit", logits[i], l, 1e-5);
        hash += hash_mix((uint64_t)(uint32_t)(first + i) << 32 | half_f32_bits(logits[i]));
        max = logits[i] > max ? logits[i] : max;
    }
    for (int32_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    assert_true(o->raw_max == (float)max);
    assert_near("raw sum", o->raw_sum, sum, sum * 2e-6);
    assert_true(o->hash == (r->want_hash ? hash : 0));
    assert_true(o->target_logit == (r->target >= first && r->target < first + n ? logits[r->target - first] : -INFINITY));
    expect_top("raw", logits, logits, n, first, o->raw, o->n_raw, r->n_raw);
    if (!r->want_sample) {
        assert_int_equal(o->n_candidates, 0);
        assert_int_equal(o->best.token, -1);
        return;
    }
    memcpy(want, logits, sizeof(float) * (size_t)n);
    for (int32_t i = 0; i < r->n_counts; i++) {
        int32_t t = r->counts[i].token - first;
        if (t < 0 || t >= n)
            continue;
        if (r->counts[i].generated > 0 || r->counts[i].in_prompt)
            want[t] = want[t] > 0 ? want[t] / r->repetition_penalty : want[t] * r->repetition_penalty;
        if (r->counts[i].generated > 0)
            want[t] -= r->presence_penalty + r->frequency_penalty * (float)r->counts[i].generated;
    }
    for (int32_t i = 0; i < r->n_bias; i++)
        if (r->bias[i].token >= first && r->bias[i].token < first + n)
            want[r->bias[i].token - first] += r->bias[i].bias;
    ops_candidate best = {-1, -INFINITY, 0};
    max = -INFINITY;
    sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (r->allow != NULL && !(r->allow[(first + i) / 32] >> ((first + i) % 32) & 1))
            want[i] = -INFINITY;
        if (r->temperature > 0)
            want[i] /= r->temperature;
        assert_true(adjusted[i] == want[i] || fabsf(adjusted[i] - want[i]) < 1e-5f);
        max = adjusted[i] > max ? adjusted[i] : max;
        float score = adjusted[i] + (r->temperature > 0 ? ops_gumbel(r->seed, r->choice, r->position, first + i) : 0.0f);
        if (score > best.logit)
            best = (ops_candidate){first + i, score, logits[i]};
    }
    for (int32_t i = 0; i < n; i++)
        sum += exp(adjusted[i] - max);
    assert_true(o->max == (float)max);
    if (r->want_sum)
        assert_near("sum", o->sum, sum, sum * 2e-6);
    else
        assert_true(o->sum == 0.0f);
    assert_int_equal(o->best.token, best.token);
    assert_true(o->best.logit == best.logit && o->best.raw == best.raw);
    expect_top("candidates", adjusted, logits, n, first, o->candidates, o->n_candidates, r->n_candidates);
}

static void fill(ops_ctx *ctx, const ops_mat *m, int32_t first)
{
    for (int32_t r = 0; r < ROWS; r++) {
        uint64_t seed = 300 + (uint64_t)r;
        for (int32_t i = -first; i < m->cols; i++) {
            float l = uniform(&seed) * 10 + (random_bits(&seed) % 50 == 0 ? 5.0f : 0.0f);
            if (i >= 0) /* coarse, so that ties are met */
                mat_row(ctx, m, r)[i] = r % 2 == 0 ? l : roundf(l * 16) / 16;
        }
    }
}

static ops_sample_out whole[ROWS];

static void rows_are_what_the_header_says(void **state)
{
    (void)state;
    static ops_sample_out out[ROWS];
    ops_sample_row rows[ROWS];
    describe(rows);
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        for (int k = 0; k < 2; k++) { /* all tokens; then some, with a cap */
            ops_mat logits = mat_make(ctx, OPS_F32, ROWS, k == 0 ? VOCAB : 5000), adjusted = mat_make(ctx, OPS_F32, ROWS, logits.cols),
                    before = mat_make(ctx, OPS_F32, ROWS, logits.cols);
            ops_sample_args a = {logits, adjusted, k == 0 ? 0 : 1013, k == 0 ? 1.0f : 0.8f, k == 0 ? 0.0f : 12.0f, ROWS, rows, out};
            fill(ctx, &logits, a.vocab_begin);
            fill(ctx, &before, a.vocab_begin);
            memset(out, 0xff, sizeof(out));
            OK(ops_cpu()->sample(ctx, &a));
            for (int32_t i = 0; i < ROWS; i++)
                expect_row(&a, &rows[i], mat_row(ctx, &before, i), mat_row(ctx, &logits, i), mat_row(ctx, &adjusted, i), &out[i]);
            if (c == 0 && k == 0)
                memcpy(whole, out, sizeof(out));
            for (int32_t i = 0; i < ROWS && k == 0; i++) {
                assert_true(half_f32_bits(out[i].raw_sum) == half_f32_bits(whole[i].raw_sum) && half_f32_bits(out[i].sum) == half_f32_bits(whole[i].sum));
                assert_true(half_f32_bits(out[i].best.logit) == half_f32_bits(whole[i].best.logit));
            }
            if (k == 0) { /* one row alone */
                static ops_sample_out alone;
                fill(ctx, &logits, 0);
                a.n = 1;
                a.rows = &rows[2];
                a.out = &alone;
                OK(ops_cpu()->sample(ctx, &a));
                assert_memory_equal(&alone.raw_sum, &whole[2].raw_sum, 4);
                assert_memory_equal(&alone.sum, &whole[2].sum, 4);
                assert_memory_equal(&alone.best, &whole[2].best, sizeof(alone.best));
            }
            mat_free(ctx, &logits);
            mat_free(ctx, &adjusted);
            mat_free(ctx, &before);
        }
    }
}

static void slices_add_up(void **state)
{
    (void)state;
    static ops_sample_out out[ROWS];
    static const int32_t cuts[] = {0, 7003, 7008, 15000, VOCAB};
    ops_sample_row rows[ROWS];
    describe(rows);
    for (int c = 0; c < n_contexts; c += 2) {
        ops_ctx *ctx = contexts[c].ctx;
        uint64_t hash[ROWS] = {0};
        ops_candidate best[ROWS];
        for (int i = 0; i < ROWS; i++)
            best[i] = (ops_candidate){-1, -INFINITY, 0};
        for (size_t s = 0; s + 1 < ARRAY_LEN(cuts); s++) {
            ops_mat logits = mat_make(ctx, OPS_F32, ROWS, cuts[s + 1] - cuts[s]), adjusted = mat_make(ctx, OPS_F32, ROWS, logits.cols);
            fill(ctx, &logits, cuts[s]);
            ops_sample_args a = {logits, adjusted, cuts[s], 1.0f, 0.0f, ROWS, rows, out};
            OK(ops_cpu()->sample(ctx, &a));
            for (int i = 0; i < ROWS; i++) {
                hash[i] += out[i].hash;
                if (out[i].best.token >= 0 && by_logit(&out[i].best, &best[i]) < 0)
                    best[i] = out[i].best;
            }
            mat_free(ctx, &logits);
            mat_free(ctx, &adjusted);
        }
        for (int i = 0; i < ROWS; i++) {
            assert_true(hash[i] == whole[i].hash);
            assert_int_equal(best[i].token, whole[i].best.token);
        }
    }
}

static void nothing_allowed_is_said_so(void **state)
{
    (void)state;
    static ops_sample_out out;
    uint32_t none[4] = {0};
    ops_ctx *ctx = contexts[0].ctx;
    ops_mat logits = mat_make(ctx, OPS_F32, 1, 100), adjusted = mat_make(ctx, OPS_F32, 1, 100);
    mat_fill(ctx, &logits, 1, 2.0f, 8);
    ops_sample_row r = {.temperature = 0.5f, .allow = none, .n_candidates = 3, .target = -1, .want_sample = true};
    ops_sample_args a = {logits, adjusted, 0, 1.0f, 0.0f, 1, &r, &out};
    OK(ops_cpu()->sample(ctx, &a));
    assert_int_equal(out.best.token, -1);
    assert_int_equal(out.n_candidates, 0);
    assert_true(out.max == -INFINITY && out.sum == 0.0f);
    status_mute();
    r.n_candidates = OPS_MAX_CANDIDATES + 1;
    assert_int_equal(ops_cpu()->sample(ctx, &a), ST_INVALID);
    r.n_candidates = 1;
    r.temperature = NAN;
    assert_int_equal(ops_cpu()->sample(ctx, &a), ST_INVALID);
    r.temperature = 1;
    r.row = 1;
    assert_int_equal(ops_cpu()->sample(ctx, &a), ST_INVALID);
    status_unmute();
    mat_free(ctx, &logits);
    mat_free(ctx, &adjusted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_what_the_header_says),
        cmocka_unit_test(slices_add_up),
        cmocka_unit_test(nothing_allowed_is_said_so),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
