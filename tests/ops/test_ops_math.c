/* tests/ops/test_ops_math.c - our exp, tanh, erf, sine, cosine and Gumbel noise against the C library in double, and equal bits at every level. */
#include "tests/ops/fixture.h"

#include "base/half.h"
#include "base/philox.h"
#include "ops/cpu/cpu_vec.h"

/* Distance in units of the last place of f32 at `want`. */
static double ulps(float got, double want)
{
    if ((double)got == want)
        return 0;
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

typedef float (*kernel)(const cpu_vec_kernels *v, float x);
typedef double (*reference)(double x);

static float k_exp(const cpu_vec_kernels *v, float x)
{
    return v->sum_exp(&x, 1, 0.0f);
}
static float k_tanh(const cpu_vec_kernels *v, float x)
{
    v->logits_raw(&x, 1, 1.0f, 1.0f);
    return x;
}
static float k_gate(const cpu_vec_kernels *v, float x, ops_activation a)
{
    float y;
    v->gate_row(a, &x, NULL, 1, &y);
    return y;
}
static float k_silu(const cpu_vec_kernels *v, float x)
{
    return k_gate(v, x, OPS_SILU);
}
static float k_gelu(const cpu_vec_kernels *v, float x)
{
    return k_gate(v, x, OPS_GELU);
}
static float k_gelu_tanh(const cpu_vec_kernels *v, float x)
{
    return k_gate(v, x, OPS_GELU_TANH);
}
static float k_relu(const cpu_vec_kernels *v, float x)
{
    return k_gate(v, x, OPS_RELU);
}
static float k_relu2(const cpu_vec_kernels *v, float x)
{
    return k_gate(v, x, OPS_RELU2);
}
static double r_silu(double x)
{
    return x / (1 + exp(-x));
}
static double r_gelu(double x)
{
    return 0.5 * x * (1 + erf(x * M_SQRT1_2));
}
static double r_gelu_tanh(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
}
static double r_relu(double x)
{
    return x > 0 ? x : 0;
}
static double r_relu2(double x)
{
    return x > 0 ? x * x : 0;
}

static const struct {
    const char *name;
    kernel f;
    reference want;
    float from, to;
    double ulps, absolute; /* either suffices: 1 + erf and 1 + tanh cancel for negative x, in every f32 implementation */
} FUNCTIONS[] = {
    {"exp", k_exp, exp, -103.0f, 88.7f, 1.5, 0},
    {"tanh", k_tanh, tanh, -12.0f, 12.0f, 2.5, 0},
    {"silu", k_silu, r_silu, -80.0f, 80.0f, 4, 0},
    {"gelu", k_gelu, r_gelu, -9.0f, 9.0f, 4, 2e-7},
    {"gelu tanh", k_gelu_tanh, r_gelu_tanh, -9.0f, 9.0f, 4, 4e-7},
    {"relu", k_relu, r_relu, -4.0f, 4.0f, 0, 0},
    {"relu squared", k_relu2, r_relu2, -4.0f, 4.0f, 1, 0},
};

static void functions_are_accurate_and_equal(void **state)
{
    (void)state;
    uint64_t seed = 1;
    for (size_t i = 0; i < ARRAY_LEN(FUNCTIONS); i++) {
        double worst = 0;
        for (int k = 0; k < 40000; k++) {
            float x = FUNCTIONS[i].from + (FUNCTIONS[i].to - FUNCTIONS[i].from) * (uniform(&seed) * 0.5f + 0.5f);
            if (k % 2 == 0 && FUNCTIONS[i].from < 0) /* small arguments too */
                x = ldexpf(x, -(int)(random_bits(&seed) % 30));
            float got = FUNCTIONS[i].f(&cpu_vec_c, x);
            double want = FUNCTIONS[i].want((double)x), off = ulps(got, want);
            if (fabs(got - want) <= FUNCTIONS[i].absolute)
                off = 0;
            worst = off > worst ? off : worst;
            if (off > FUNCTIONS[i].ulps)
                fail_msg("%s(%.9g): got %.9g, want %.9g, %.2f units off", FUNCTIONS[i].name, (double)x, (double)got, want, off);
            for (int c = 0; c < n_contexts; c += N_THREADS) {
                float other = FUNCTIONS[i].f(contexts[c].ctx->vec, x);
                if (half_f32_bits(other) != half_f32_bits(got))
                    fail_msg("%s(%.9g): %a with %s, %a in plain C", FUNCTIONS[i].name, (double)x, (double)other, contexts[c].name, (double)got);
            }
        }
        printf("%-12s worst %.2f units in the last place\n", FUNCTIONS[i].name, worst);
    }
}

static void ends_of_the_range(void **state)
{
    (void)state;
    for (int c = 0; c < n_contexts; c += N_THREADS) {
        const cpu_vec_kernels *v = contexts[c].ctx->vec;
        assert_true(k_exp(v, 0.0f) == 1.0f && k_exp(v, -0.0f) == 1.0f); /* merging chunks relies on these */
        assert_true(k_exp(v, -INFINITY) == 0.0f && k_exp(v, -150.0f) == 0.0f);
        assert_true(k_exp(v, 89.0f) == INFINITY && k_exp(v, INFINITY) == INFINITY && isnan(k_exp(v, NAN)));
        assert_true(k_tanh(v, 1e30f) == 1.0f && k_tanh(v, -INFINITY) == -1.0f && isnan(k_tanh(v, NAN)));
        assert_true(k_silu(v, -200.0f) == 0.0f && k_silu(v, 200.0f) == 200.0f && k_gelu(v, -50.0f) == 0.0f && k_gelu(v, 50.0f) == 50.0f);
    }
}

static void rope_tables_are_accurate(void **state)
{
    (void)state;
    static const int32_t positions[] = {0, 1, 2, 3, 100, 4095, 65537, 131072, 999999, 1048576, 10000000};
    double worst = 0;
    float freq[37];
    for (int i = 0; i < 37; i++)
        freq[i] = powf(10000.0f, -(float)i / 37.0f);
    for (size_t p = 0; p < ARRAY_LEN(positions); p++) {
        float c0[37], s0[37], c[37], s[37];
        cpu_vec_c.rope_table(freq, 37, positions[p], 1.0f, c0, s0);
        for (int i = 0; i < 37; i++) {
            double angle = (double)((float)positions[p] * freq[i]); /* rounded to f32 first, as the references do */
            double off_c = fabs(c0[i] - cos(angle)), off_s = fabs(s0[i] - sin(angle));
            worst = off_c > worst ? off_c : off_s > worst ? off_s : worst;
        }
        for (int k = 0; k < n_contexts; k += N_THREADS) {
            contexts[k].ctx->vec->rope_table(freq, 37, positions[p], 1.0f, c, s);
            assert_memory_equal(c, c0, sizeof(c));
            assert_memory_equal(s, s0, sizeof(s));
        }
    }
    printf("sine and cosine off by at most %.3g\n", worst);
    assert_true(worst < 1.2e-7);
    float c, s;
    cpu_vec_c.rope_table(freq, 1, 1, 2.5f, &c, &s);
    assert_near("attention factor", c, 2.5 * cos(1.0), 1e-6);
}

static void gumbel_noise(void **state)
{
    (void)state;
    double sum = 0, squares = 0;
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        uint64_t seed = 0x123456789abcdefu + (uint64_t)(i / 1000);
        int32_t token = i * 7, position = i % 1000;
        float g = ops_gumbel(seed, (uint32_t)i % 3, position, token);
        uint32_t t = (uint32_t)token, counter[4] = {t / 64 * 16 + t % 16, (uint32_t)position, (uint32_t)i % 3, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, w[4];
        philox4x32(counter, key, w);
        double v = ((double)w[t / 16 % 4] + 0.5) * 0x1p-32, exponential = -log1p(-v);
        if (v < 1 - 0x1p-24) /* v is rounded to f32: that shows in the lower tail, which never decides */
            assert_near("gumbel", g, -log(exponential), 2e-6 + 0x1p-25 / (1 - v) / exponential);
        sum += g;
        squares += (double)g * g;
        const float zero = 0.0f;
        for (int c = 0; c < n_contexts; c += N_THREADS) {
            ops_candidate best = {-1, -INFINITY, 0};
            contexts[c].ctx->vec->best(&zero, 1, token, true, seed, (uint32_t)i % 3, position, &best);
            assert_int_equal(best.token, token);
            if (half_f32_bits(best.logit) != half_f32_bits(g))
                fail_msg("noise of token %d: %a with %s, %a alone", token, (double)best.logit, contexts[c].name, (double)g);
        }
    }
    assert_near("mean", sum / N, 0.5772156649, 0.02); /* 5 standard errors */
    assert_near("variance", squares / N - (sum / N) * (sum / N), M_PI * M_PI / 6, 0.06);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_accurate_and_equal),
        cmocka_unit_test(ends_of_the_range),
        cmocka_unit_test(rope_tables_are_accurate),
        cmocka_unit_test(gumbel_noise),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
