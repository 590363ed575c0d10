/* tests/cuda/test_cuda_sample.c - sampling's kernels against the CPU's plain C: everything bit by bit but the sums, on odd shapes, slices, ties and rows of
 * nothing; a row alone as in a batch; lists longer than a merging block holds. */
#include "tests/cuda/cuda_fixture.h"

#include "base/half.h"
#include "ops/cuda/kernels.h"

#define MAX_ROWS 16

static ops_ctx *cpu;

/* ---- one call on both ---- */

typedef struct sides {
    int32_t rows, cols, vocab_begin;
    int64_t stride;                 /* bytes */
    float multiplier, softcap;
    const float *before;            /* [rows][stride] */
    ops_sample_row row[MAX_ROWS];
    float *logits[2], *adjusted[2]; /* CPU, GPU; host memory */
    ops_sample_out out[2][MAX_ROWS];
} sides;

static void sides_make(sides *s, int32_t rows, int32_t cols)
{
    *s = (sides){.rows = rows, .cols = cols, .multiplier = 1.0f, .stride = (int64_t)ops_row_bytes(OPS_F32, cols)};
    s->before = test_malloc((size_t)(rows * s->stride));
    memset((void *)(uintptr_t)s->before, 0xff, (size_t)(rows * s->stride));
    for (int k = 0; k < 2; k++) {
        s->logits[k] = test_malloc((size_t)(rows * s->stride));
        s->adjusted[k] = test_malloc((size_t)(rows * s->stride));
        memset(s->out[k], 0xff, sizeof(s->out[k]));
    }
    for (int32_t i = 0; i < rows; i++)
        s->row[i] = (ops_sample_row){.row = i, .temperature = 1.0f, .repetition_penalty = 1.0f, .target = -1, .want_sample = true};
}

static void sides_free(sides *s)
{
    test_free((void *)(uintptr_t)s->before);
    for (int k = 0; k < 2; k++) {
        test_free(s->logits[k]);
        test_free(s->adjusted[k]);
    }
}

static float *line(const sides *s, const float *m, int32_t row)
{
    return (float *)(uintptr_t)((const char *)m + row * s->stride);
}

static void on_cpu(sides *s)
{
    const ops_backend *b = ops_cpu();
    ops_mat m[2];
    size_t bytes = (size_t)(s->rows * s->stride);
    for (int k = 0; k < 2; k++) {
        m[k] = (ops_mat){.type = OPS_F32, .cols = s->cols, .stride = (size_t)s->stride};
        OK(b->buf_create(cpu, bytes, "test", &m[k].buf));
        OK(b->buf_write(cpu, m[k].buf, 0, s->before, bytes));
    }
    ops_sample_args a = {m[0], m[1], s->vocab_begin, s->multiplier, s->softcap, s->rows, s->row, s->out[0]};
    OK(b->sample(cpu, &a));
    OK(b->buf_read(cpu, m[0].buf, 0, s->logits[0], bytes));
    OK(b->buf_read(cpu, m[1].buf, 0, s->adjusted[0], bytes));
    for (int k = 0; k < 2; k++)
        b->buf_destroy(cpu, &m[k].buf);
}

/* Rows [from, from + n) of s by one launch for at least `launched` rows. */
static void on_gpu(sides *s, int32_t from, int32_t n, int32_t launched, bool with_n)
{
    int64_t bytes = s->rows * s->stride, words = (s->vocab_begin + s->cols + 31) / 32;
    gpu_sample_row rows[MAX_ROWS];
    void *lists[3 * MAX_ROWS];
    int n_lists = 0;
    for (int32_t i = 0; i < n; i++) {
        ops_sample_row *r = &rows[i].row;
        *r = s->row[from + i];
        if (r->n_counts > 0)
            r->counts = lists[n_lists++] = device_copy(r->counts, (size_t)r->n_counts * sizeof(*r->counts));
        if (r->n_bias > 0)
            r->bias = lists[n_lists++] = device_copy(r->bias, (size_t)r->n_bias * sizeof(*r->bias));
        if (r->allow != NULL)
            r->allow = lists[n_lists++] = device_copy(r->allow, (size_t)words * sizeof(*r->allow));
    }
    gpu_sample a = {.vocab_begin = s->vocab_begin, .multiplier = s->multiplier, .softcap = s->softcap};
    char *logits = device_copy(s->before, (size_t)bytes), *adjusted = device_make((size_t)bytes);
    a.logits = (gpu_mat){logits, OPS_F32, s->cols, s->stride};
    a.adjusted = (gpu_mat){adjusted + from * s->stride, OPS_F32, s->cols, s->stride}; /* row i of the call is row from + i here */
    gpu_sample_row *d_rows = device_copy(rows, (size_t)n * sizeof(*rows));
    a.rows = d_rows;
    a.out = device_copy(s->out[1] + from, (size_t)n * sizeof(*a.out));
    a.scratch = device_make((size_t)gpu_sample_scratch(launched, s->cols));
    int32_t *d_n = with_n ? device_copy(&n, sizeof(n)) : NULL;
    CUDA_OK(k_sample(launched, d_n, &a, stream));
    float *read[2] = {test_malloc((size_t)bytes), test_malloc((size_t)bytes)};
    device_read(read[0], logits, (size_t)bytes);
    device_read(read[1], adjusted, (size_t)bytes);
    device_read(s->out[1] + from, a.out, (size_t)n * sizeof(*a.out));
    for (int32_t i = from; i < from + n; i++) {
        memcpy(line(s, s->logits[1], s->row[i].row), line(s, read[0], s->row[i].row), (size_t)s->stride);
        memcpy(line(s, s->adjusted[1], i), line(s, read[1], i), (size_t)s->stride);
    }
    test_free(read[0]);
    test_free(read[1]);
    while (n_lists > 0)
        device_free(lists[--n_lists]);
    device_free(logits);
    device_free(adjusted);
    device_free(d_rows);
    device_free(a.out);
    device_free(a.scratch);
    device_free(d_n);
}

static void same_floats(const char *what, int32_t row, const float *got, const float *want, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (half_f32_bits(got[i]) != half_f32_bits(want[i]) && !(isnan(got[i]) && isnan(want[i])))
            fail_msg("%s, row %d, column %d of %d: %.9g, want %.9g", what, row, i, n, (double)got[i], (double)want[i]);
}

static void same_list(const char *what, int32_t row, const ops_candidate *got, int32_t n_got, const ops_candidate *want, int32_t n_want)
{
    if (n_got != n_want)
        fail_msg("%s, row %d: %d tokens, want %d", what, row, n_got, n_want);
    for (int32_t i = 0; i < n_got; i++)
        if (got[i].token != want[i].token || got[i].logit != want[i].logit || got[i].raw != want[i].raw)
            fail_msg("%s, row %d, %d of %d: token %d (%.9g, raw %.9g), want %d (%.9g, raw %.9g)", what, row, i, n_got, got[i].token, (double)got[i].logit,
                     (double)got[i].raw, want[i].token, (double)want[i].logit, (double)want[i].raw);
}

/* Sums run in another order, each term rounded alike: a few units of 2^-24 a term at most, far less together. */
static void same_sum(const char *what, int32_t row, float got, float want)
{
    if (isnan(want) ? !isnan(got) : !(fabs((double)got - want) <= 4e-6 * fabs((double)want)))
        fail_msg("%s, row %d: %.9g, want %.9g", what, row, (double)got, (double)want);
}

static void compare(const sides *s)
{
    for (int32_t i = 0; i < s->rows; i++) {
        const ops_sample_out *w = &s->out[0][i], *g = &s->out[1][i];
        int32_t r = s->row[i].row;
        same_floats("raw logits", r, line(s, s->logits[1], r), line(s, s->logits[0], r), (int32_t)(s->stride / 4)); /* the padding too */
        if (s->row[i].want_sample)
            same_floats("adjusted", i, line(s, s->adjusted[1], i), line(s, s->adjusted[0], i), s->cols);
        if (g->raw_max != w->raw_max || g->max != w->max) /* the sign of a zero is open: a maximum of both may be either */
            fail_msg("maxima, row %d: %.9g and %.9g, want %.9g and %.9g", i, (double)g->raw_max, (double)g->max, (double)w->raw_max, (double)w->max);
        same_floats("target", i, &g->target_logit, &w->target_logit, 1);
        same_sum("raw sum", i, g->raw_sum, w->raw_sum);
        same_sum("sum", i, g->sum, w->sum);
        if (g->hash != w->hash)
            fail_msg("hash, row %d: %016llx, want %016llx", i, (unsigned long long)g->hash, (unsigned long long)w->hash);
        same_list("best", i, &g->best, 1, &w->best, 1);
        same_list("raw", i, g->raw, g->n_raw, w->raw, w->n_raw);
        same_list("candidates", i, g->candidates, g->n_candidates, w->candidates, w->n_candidates);
    }
}

/* In every order of threads and blocks the emulation knows, the same bits. */
static void both(sides *s)
{
    static ops_sample_out first[MAX_ROWS];
    on_cpu(s);
    for (int o = 0; o == 0 || order_set(o); o++) {
        memset(s->out[1], 0xff, sizeof(s->out[1]));
        on_gpu(s, 0, s->rows, s->rows, false);
        compare(s);
        if (o == 0)
            memcpy(first, s->out[1], sizeof(first));
        else
            assert_memory_equal(s->out[1], first, sizeof(first));
    }
    order_set(0);
}

/* ---- what rows ask for ---- */

#define VOCAB 10240
static ops_token_count counts[300];
static ops_token_bias biases[50];
static uint32_t allow[VOCAB / 32 + 1];

static void describe(sides *s, int32_t seed_shift)
{
    uint64_t seed = 77 + (uint64_t)seed_shift;
    int32_t span = s->vocab_begin + s->cols + 40;
    span = span < VOCAB ? span : VOCAB;
    for (int i = 0; i < 300; i++)
        counts[i] = (ops_token_count){(i * 61 + 5) % span, i % 3, i % 2 == 0};
    for (int i = 0; i < 50; i++) /* some twice */
        biases[i] = (ops_token_bias){(i % 40 * 997 + 3) % span, uniform(&seed) * 5};
    for (size_t i = 0; i < ARRAY_LEN(allow); i++)
        allow[i] = random_bits(&seed) | random_bits(&seed);
    for (int32_t i = 0; i < s->rows; i++) {
        ops_sample_row *r = &s->row[i];
        *r = (ops_sample_row){.row = s->rows - 1 - i, .temperature = 1.0f, .repetition_penalty = 1.0f, .seed = 0x123456789abcdef0u * (uint64_t)(i + 1),
                              .choice = (uint32_t)i, .position = 40 * i, .n_candidates = 1, .n_raw = 5, .target = s->vocab_begin + 17 * i - 1,
                              .want_sample = true, .want_sum = true, .want_hash = true};
        switch (i % 9) {
        case 1:
            r->temperature = 0.0f;
            r->n_candidates = OPS_MAX_CANDIDATES;
            break;
        case 7:
            r->allow = allow;
            r->n_bias = 50;
            r->bias = biases;
            r->n_raw = 31;
            /* fallthrough */
        case 2:
            r->temperature = 0.7f;
            r->repetition_penalty = 1.3f;
            r->presence_penalty = 0.5f;
            r->frequency_penalty = 0.3f;
            r->n_counts = 300;
            r->counts = counts;
            r->n_candidates = 40;
            break;
        case 3:
            r->n_raw = 0;
            r->n_bias = 50;
            r->bias = biases;
            r->n_candidates = 20;
            break;
        case 4:
            r->allow = allow;
            r->temperature = 1.7f;
            r->n_raw = OPS_MAX_CANDIDATES;
            break;
        case 5:
            r->want_sample = false;
            break;
        case 6:
            r->want_hash = false;
            r->n_raw = 0;
            r->n_counts = 300; /* with no penalty at all */
            r->counts = counts;
            break;
        case 8:
            r->n_candidates = 0;
            r->want_sum = false;
            r->temperature = 0.01f;
            break;
        default:
            break;
        }
    }
}

static void fill(const sides *s, uint64_t seed)
{
    for (int32_t r = 0; r < s->rows; r++)
        for (int32_t c = 0; c < s->cols; c++) {
            float l = uniform(&seed) * 10 + (random_bits(&seed) % 50 == 0 ? 5.0f : 0.0f);
            line(s, s->before, r)[c] = r % 2 == 0 ? l : roundf(l * 16) / 16; /* coarse, so that ties are met */
        }
}

/* ---- tests ---- */

static void agrees_with_the_cpu(void **state)
{
    (void)state;
    static const struct {
        int32_t rows, cols, begin;
        float multiplier, softcap;
    } shapes[] = {{9, 1, 0, 1, 2},          {9, 31, 3, 1, 0},  {9, 33, 64, 0.8f, 1.5f}, {2, 511, 1013, 1, 12}, {2, 513, 31, 1, 0},
                  {9, 1023, 65, 0.7f, 30}, /* 65 + 1023: the map's last word ends with the last token */
                  {1, 4096, 0, 1, 0},       {3, 4097, 1, 1, 0}, {9, 5000, 1013, 0.8f, 12}, {2, 9217, 1000, 1, 0}};
    static sides s;
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        sides_make(&s, shapes[i].rows, shapes[i].cols);
        s.vocab_begin = shapes[i].begin;
        s.multiplier = shapes[i].multiplier;
        s.softcap = shapes[i].softcap;
        describe(&s, (int32_t)i);
        fill(&s, 300 + i);
        both(&s);
        sides_free(&s);
    }
}

static void a_row_alone_is_as_in_a_batch(void **state)
{
    (void)state;
    static sides s;
    static ops_sample_out together[MAX_ROWS];
    sides_make(&s, 9, 5000);
    describe(&s, 3);
    fill(&s, 5);
    both(&s);
    memcpy(together, s.out[1], sizeof(together));
    for (int32_t i = 0; i < s.rows; i++) {
        on_gpu(&s, i, 1, i % 2 == 0 ? 1 : 5, i % 2 != 0);
        assert_memory_equal(&s.out[1][i], &together[i], sizeof(together[i]));
    }
    compare(&s);
    memset(s.out[1], 0xff, sizeof(s.out[1]));
    on_gpu(&s, 0, 4, 12, true); /* a graph's bucket of 12 rows, 4 of them there */
    assert_memory_equal(s.out[1], together, 4 * sizeof(together[0]));
    sides_free(&s);
}

/* Equal logits, zeros of both signs, infinities, NaN, nothing allowed. */
static void ties_go_to_the_lowest_token(void **state)
{
    (void)state;
    static sides s;
    sides_make(&s, 8, 4500);
    s.vocab_begin = 7;
    static uint32_t none[5000 / 32 + 1], one[5000 / 32 + 1];
    one[4321 / 32] = 1u << 4321 % 32;
    for (int32_t r = 0; r < s.rows; r++) {
        s.row[r].temperature = r % 2 == 0 ? 0.0f : 0.5f;
        s.row[r].n_candidates = r == 1 ? 1 : 100;
        s.row[r].n_raw = r == 2 ? OPS_MAX_CANDIDATES : 33;
        s.row[r].want_sum = s.row[r].want_hash = true;
        s.row[r].seed = 11 + (uint64_t)r;
        float *l = line(&s, s.before, r);
        for (int32_t c = 0; c < s.cols; c++)
            l[c] = r == 0 ? -2.0f : r == 1 ? -INFINITY : r == 2 ? (c % 3 == 0 ? 0.0f : c % 3 == 1 ? -0.0f : -1.0f) : r == 3 ? NAN : (float)(c % 40);
    }
    float *l = line(&s, s.before, 4); /* fewer numbers than candidates, in the second piece too */
    for (int32_t c = 0; c < s.cols; c++)
        l[c] = c % 100 == 7 || c == 4499 ? (float)-c : c % 7 == 0 ? NAN : -INFINITY;
    line(&s, s.before, 5)[1700] = -3e38f;
    s.row[6].allow = none;
    s.row[7].allow = one;
    both(&s);
    assert_int_equal(s.out[1][6].best.token, -1);
    assert_int_equal(s.out[1][7].best.token, 4321);
    sides_free(&s);
}

/* One token allowed: best is its noise. */
static void noise_is_the_cpu_s(void **state)
{
    (void)state;
    static sides s;
    static uint32_t only[MAX_ROWS][40];
    for (int k = 0; k < 4; k++) {
        sides_make(&s, MAX_ROWS, 300);
        s.vocab_begin = 805;
        memset(only, 0, sizeof(only));
        for (int32_t r = 0; r < s.rows; r++) {
            int32_t token = s.vocab_begin + (r * 37 + k * 83) % s.cols;
            for (int32_t c = 0; c < s.cols; c++)
                line(&s, s.before, r)[c] = 0.0f;
            only[r][token / 32] |= 1u << token % 32;
            s.row[r].allow = only[r];
            s.row[r].seed = (uint64_t)r << 61 | (uint64_t)(k * 1234567 + r);
            s.row[r].choice = (uint32_t)(k + r);
            s.row[r].position = 1000 * r + k;
        }
        both(&s);
        for (int32_t r = 0; r < s.rows; r++) {
            const ops_sample_out *o = &s.out[1][r];
            float want = ops_gumbel(s.row[r].seed, s.row[r].choice, s.row[r].position, o->best.token);
            assert_int_equal(half_f32_bits(o->best.logit), half_f32_bits(want));
        }
        sides_free(&s);
    }
}

/* Many rows of one piece: the noise that decides, with what draws none far below. */
static void draws_are_the_cpu_s(void **state)
{
    (void)state;
    static sides s;
    for (int k = 0; k < 3; k++) {
        sides_make(&s, MAX_ROWS, 700);
        s.vocab_begin = 50 * k;
        uint64_t seed = 9 + (uint64_t)k;
        for (int32_t r = 0; r < s.rows; r++) {
            for (int32_t c = 0; c < s.cols; c++)
                line(&s, s.before, r)[c] = uniform(&seed) * (k == 0 ? 1.0f : k == 1 ? 20.0f : 300.0f);
            s.row[r].temperature = r % 2 == 0 ? 1.0f : 0.8f;
            s.row[r].seed = 1000 + (uint64_t)(k * MAX_ROWS + r);
            s.row[r].position = r;
        }
        both(&s);
        sides_free(&s);
    }
}

/* A logit far below the greatest wins by rare noise over the greatest's poor one, and by a hair loses. */
static void rare_draws_are_not_cut_off(void **state)
{
    (void)state;
    static sides s;
    sides_make(&s, 2, 500);
    int32_t high = 0, low = 0;
    float most = 0.0f;
    uint64_t seed = 0;
    for (uint64_t k = 0; k < 3000; k++)
        for (int32_t t = 0; t < s.cols; t++) {
            float g = ops_gumbel(k, 0, 0, t);
            if (g > most) {
                most = g;
                seed = k;
                high = t;
            }
        }
    assert_true(most > 13.0f);
    for (int32_t t = 0; t < s.cols; t++)
        low = ops_gumbel(seed, 0, 0, t) < ops_gumbel(seed, 0, 0, low) ? t : low;
    float apart = most - ops_gumbel(seed, 0, 0, low);
    for (int32_t r = 0; r < 2; r++) {
        for (int32_t c = 0; c < s.cols; c++)
            line(&s, s.before, r)[c] = -1000.0f;
        line(&s, s.before, r)[low] = 1.0f;
        line(&s, s.before, r)[high] = 1.0f - apart + (r == 0 ? 1e-3f : -1e-3f);
        s.row[r].seed = seed;
    }
    both(&s);
    assert_int_equal(s.out[1][0].best.token, high);
    assert_int_equal(s.out[1][1].best.token, low);
    sides_free(&s);
}

/* 34 pieces of 256 tokens each are more than a merging block holds at once. */
static void long_vocabularies_are_merged_in_rounds(void **state)
{
    (void)state;
    static sides s;
    sides_make(&s, 2, 139000);
    fill(&s, 21);
    for (int32_t r = 0; r < 2; r++) {
        s.row[r].n_candidates = r == 0 ? OPS_MAX_CANDIDATES : 0;
        s.row[r].n_raw = r == 0 ? 0 : OPS_MAX_CANDIDATES;
        s.row[r].temperature = 0.0f;
        s.row[r].want_sum = s.row[r].want_hash = true;
    }
    for (int32_t c = 0; c < s.cols; c++) /* rising: each round brings better ones */
        line(&s, s.before, 0)[c] = (float)(c / 3);
    line(&s, s.before, 1)[5] = 16.0f; /* the greatest lies with the first warp's units */
    both(&s);
    sides_free(&s);
}

static void refuses_nothing_and_touches_nothing(void **state)
{
    (void)state;
    gpu_sample a = {.multiplier = 1.0f};
    CUDA_OK(k_sample(0, NULL, &a, stream));
    assert_int_equal(gpu_sample_scratch(0, 100), 0);
    assert_true(gpu_sample_scratch(2, 4097) == 2 * gpu_sample_scratch(1, 8192));
}

static int open_all(void **state)
{
    (void)state;
    ops_ctx_options o = {.n_threads = 1, .first_core = -1, .isa = "c", .max_rows = MAX_ROWS, .max_cols = 1024};
    return ops_cpu()->ctx_create(&o, &cpu) == ST_OK && device_open() ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    ops_cpu()->ctx_destroy(&cpu);
    device_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_cpu),
        cmocka_unit_test(a_row_alone_is_as_in_a_batch),
        cmocka_unit_test(ties_go_to_the_lowest_token),
        cmocka_unit_test(noise_is_the_cpu_s),
        cmocka_unit_test(draws_are_the_cpu_s),
        cmocka_unit_test(rare_draws_are_not_cut_off),
        cmocka_unit_test(long_vocabularies_are_merged_in_rounds),
        cmocka_unit_test(refuses_nothing_and_touches_nothing),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
