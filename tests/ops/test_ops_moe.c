/* tests/ops/test_ops_moe.c - layers of experts: the choice and the order of the pairs against the definition in double, products against `linear` bit for bit, and
 * each row the same in any company, on every level and number of threads. */
#define FIXTURE_LEVELS "c", "avx2", "avx512", "avx512bf16", "amx"
#include "tests/ops/fixture.h"

#include "base/half.h"
#include "ops/cpu/cpu_internal.h"
#include "tests/ops/weights.h"

#define MAX_EXPERTS 512

typedef struct family {
    const char *name;
    int32_t n_experts, top_k;
    ops_scoring scoring;
    bool bias;
    int32_t n_groups, top_groups;
    bool rate_by_two, renormalise;
    float scale;
} family;

static const family FAMILIES[] = {
    {"one expert", 1, 1, OPS_SCORE_SOFTMAX, false, 0, 0, false, false, 1.0f},
    {"mixtral", 8, 2, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f},
    {"qwen2", 60, 4, OPS_SCORE_SOFTMAX, false, 0, 0, false, false, 1.0f},
    {"qwen3", 128, 8, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f},
    {"deepseek v2", 160, 6, OPS_SCORE_SOFTMAX, false, 8, 3, false, false, 16.0f},
    {"deepseek v3", 256, 8, OPS_SCORE_SIGMOID, true, 8, 4, true, true, 2.5f},
    {"kimi", 384, 8, OPS_SCORE_SIGMOID, true, 1, 1, true, true, 2.827f},
    {"llama 4", 16, 1, OPS_SCORE_SIGMOID, false, 0, 0, false, false, 1.0f},
    {"gpt-oss", 32, 4, OPS_SCORE_CHOSEN, false, 0, 0, false, false, 1.0f},
    {"chosen of groups", 24, 3, OPS_SCORE_CHOSEN, false, 4, 2, false, false, 1.0f},
    {"softmax with a bias", 65, 6, OPS_SCORE_SOFTMAX, true, 5, 2, false, true, 1.0f},
    {"groups of one", 9, 3, OPS_SCORE_SIGMOID, false, 9, 5, true, true, 1.0f},
    {"many chosen", 512, 22, OPS_SCORE_SIGMOID, true, 0, 0, false, true, 5.0f},
    {"all chosen", 32, 32, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f},
};

/* ---- the definition ---- */

/* The greatest of those that may be taken, the first of equal ones; NaN only where there is nothing else. */
static int32_t greatest(const double *key, const bool *may, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (may[i] && (best < 0 || key[i] > key[best] || (isnan(key[best]) && !isnan(key[i]))))
            best = i;
    return best;
}

static void reference_route(const family *f, const float *logits, const float *bias, int32_t *experts, double *weights)
{
    double score[MAX_EXPERTS], key[MAX_EXPERTS], max = -INFINITY, sum = 0;
    bool may[MAX_EXPERTS];
    int32_t n = f->n_experts, groups = f->n_groups > 1 ? f->n_groups : 1, each = n / groups;
    for (int32_t e = 0; e < n; e++)
        max = logits[e] > max ? (double)logits[e] : max;
    for (int32_t e = 0; e < n; e++)
        sum += exp(logits[e] - max);
    for (int32_t e = 0; e < n; e++) {
        score[e] = f->scoring == OPS_SCORE_SIGMOID ? 1 / (1 + exp(-(double)logits[e])) : exp(logits[e] - max) / sum;
        key[e] = f->bias ? score[e] + bias[e] : f->rate_by_two ? score[e] : logits[e];
        may[e] = groups == 1;
    }
    if (groups > 1) {
        double worth[MAX_EXPERTS];
        bool open[MAX_EXPERTS], in[MAX_EXPERTS];
        for (int32_t g = 0; g < groups; g++) {
            for (int32_t i = 0; i < each; i++)
                in[i] = true;
            int32_t first = greatest(key + g * each, in, each);
            worth[g] = key[g * each + first];
            in[first] = false;
            if (f->rate_by_two && each > 1)
                worth[g] += key[g * each + greatest(key + g * each, in, each)];
            open[g] = true;
        }
        for (int32_t t = 0; t < f->top_groups; t++) {
            int32_t g = greatest(worth, open, groups);
            open[g] = false;
            for (int32_t i = 0; i < each; i++)
                may[g * each + i] = true;
        }
    }
    double total = 0;
    for (int32_t j = 0; j < f->top_k; j++) {
        experts[j] = greatest(key, may, n);
        may[experts[j]] = false;
        total += f->scoring == OPS_SCORE_CHOSEN ? exp(logits[experts[j]] - (double)logits[experts[0]]) : score[experts[j]];
    }
    for (int32_t j = 0; j < f->top_k; j++) {
        if (f->scoring == OPS_SCORE_CHOSEN)
            weights[j] = exp(logits[experts[j]] - (double)logits[experts[0]]) / total;
        else
            weights[j] = f->renormalise ? score[experts[j]] / (total + 1e-20) : score[experts[j]];
        weights[j] *= f->scale;
    }
}

/* ---- the backend ---- */

static ops_routing *routing_make(ops_ctx *ctx, const family *f, int32_t begin, int32_t n)
{
    ops_routing *r;
    ops_routing_spec s = {.max_rows = MAX_ROWS, .n_experts = f->n_experts, .top_k = f->top_k, .expert_begin = begin, .n_local = n};
    OK(ops_cpu()->routing_create(ctx, &s, &r));
    return r;
}

static ops_route_args route_args(const family *f, ops_mat logits, ops_vec bias, ops_routing *r, int32_t rows)
{
    return (ops_route_args){.rows = rows, .logits = logits, .scoring = f->scoring, .bias = f->bias ? bias : (ops_vec){0}, .n_groups = f->n_groups,
                            .top_groups = f->top_groups, .rate_by_two = f->rate_by_two, .renormalise = f->renormalise, .scale = f->scale, .routing = r};
}

/* Pairs of this rank's experts, by expert, then by row; whoever is not there is nowhere. */
static void check_order(const ops_routing *r, int32_t rows)
{
    int32_t position = 0, k = r->spec.top_k;
    for (int32_t e = 0; e < r->spec.n_local; e++) {
        assert_int_equal(r->offset[e], position);
        for (int32_t pair = 0; pair < rows * k; pair++)
            if (r->expert[pair] == r->spec.expert_begin + e) {
                assert_int_equal(r->order[position], pair);
                assert_int_equal(r->place[pair], position);
                position++;
            }
    }
    assert_int_equal(r->offset[r->spec.n_local], position);
    for (int32_t pair = 0; pair < rows * k; pair++)
        if (r->expert[pair] < r->spec.expert_begin || r->expert[pair] >= r->spec.expert_begin + r->spec.n_local)
            assert_int_equal(r->place[pair], -1);
}

static void check_family(const family *f, int32_t rows)
{
    static int32_t experts[MAX_ROWS * OPS_MAX_CHOSEN];
    static float weights[MAX_ROWS * OPS_MAX_CHOSEN];
    int32_t n = f->n_experts, k = f->top_k, begin = n / 3;
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        ops_mat logits = mat_make(ctx, OPS_F32, rows, n);
        mat_fill(ctx, &logits, rows, 4.0f, (uint64_t)(n + rows));
        ops_vec bias = vec_make(ctx, n, 0.2f, 0.1f, 3);
        ops_routing *r = routing_make(ctx, f, begin, n - begin - n / 8);
        ops_route_args a = route_args(f, logits, bias, r, rows);
        OK(ops_cpu()->route(ctx, &a));
        check_order(r, rows);
        for (int32_t row = 0; row < rows && c == 0; row++) {
            int32_t want[OPS_MAX_CHOSEN];
            double weight[OPS_MAX_CHOSEN];
            reference_route(f, mat_row(ctx, &logits, row), vec_data(ctx, &bias), want, weight);
            for (int32_t j = 0; j < k; j++) {
                if (r->expert[row * k + j] != want[j])
                    fail_msg("%s: row %d choice %d is expert %d, not %d", f->name, row, j, r->expert[row * k + j], want[j]);
                assert_near(f->name, r->weight[row * k + j], weight[j], 2e-6 * fabs(weight[j]));
            }
        }
        if (c == 0) {
            memcpy(experts, r->expert, (size_t)(rows * k) * 4);
            memcpy(weights, r->weight, (size_t)(rows * k) * 4);
        }
        assert_memory_equal(experts, r->expert, (size_t)(rows * k) * 4);
        assert_memory_equal(weights, r->weight, (size_t)(rows * k) * 4);
        for (int32_t row = 0; row < rows; row += 5) { /* alone */
            a.rows = 1;
            a.logits.offset = (size_t)row * logits.stride;
            OK(ops_cpu()->route(ctx, &a));
            check_order(r, 1);
            assert_memory_equal(experts + row * k, r->expert, (size_t)k * 4);
            assert_memory_equal(weights + row * k, r->weight, (size_t)k * 4);
        }
        ops_cpu()->routing_destroy(ctx, &r);
        assert_null(r);
        mat_free(ctx, &logits);
        vec_free(ctx, &bias);
    }
}

static void routes_are_as_defined(void **state)
{
    (void)state;
    static const int32_t rows[] = {0, 1, 2, 33, MAX_ROWS};
    for (size_t f = 0; f < ARRAY_LEN(FAMILIES); f++)
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
            check_family(&FAMILIES[f], rows[i]);
}

/* One row; what was chosen. */
static const ops_routing *route_row(ops_ctx *ctx, const family *f, ops_routing *r, const float *row, const float *biases)
{
    ops_mat logits = mat_make(ctx, OPS_F32, 1, f->n_experts);
    ops_vec bias = vec_make(ctx, f->n_experts, 0.0f, 0.0f, 1);
    memcpy(mat_row(ctx, &logits, 0), row, (size_t)f->n_experts * 4);
    if (biases != NULL)
        memcpy((float *)(uintptr_t)vec_data(ctx, &bias), biases, (size_t)f->n_experts * 4);
    ops_route_args a = route_args(f, logits, bias, r, 1);
    OK(ops_cpu()->route(ctx, &a));
    check_order(r, 1);
    mat_free(ctx, &logits);
    vec_free(ctx, &bias);
    return r;
}

static void expect_choice(const ops_routing *r, const int32_t *want)
{
    for (int32_t j = 0; j < r->spec.top_k; j++)
        if (r->expert[j] != want[j])
            fail_msg("choice %d is expert %d, not %d", j, r->expert[j], want[j]);
}

static void ties_go_to_the_lowest_expert(void **state)
{
    (void)state;
    static const float equal[12] = {0}, zeros[12] = {-0.0f, 0, -1, 0, -0.0f, 2, 0, 0, 0, 0, 0, 0}, groups[12] = {1, 1, 0, 2, -1, 0, 1, 1, 0, 2, -5, -5};
    static const float biases[12] = {0.5f, 0.25f, 0.5f, 0.5f};
    family plain = {"ties", 12, 4, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f}, grouped = plain, biased = plain;
    grouped.n_groups = 4;
    grouped.top_groups = 2;
    biased.scoring = OPS_SCORE_SIGMOID;
    biased.bias = true;
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        ops_routing *r = routing_make(ctx, &plain, 0, 12);
        expect_choice(route_row(ctx, &plain, r, equal, NULL), (int32_t[]){0, 1, 2, 3});
        for (int j = 0; j < 4; j++)
            assert_true(r->weight[j] == 0.25f);
        expect_choice(route_row(ctx, &plain, r, zeros, NULL), (int32_t[]){5, 0, 1, 3});
        /* best of each group: 1 2 1 2; the two best sigmoids: 1.46 1.38 1.46 0.89 */
        expect_choice(route_row(ctx, &grouped, r, groups, NULL), (int32_t[]){3, 9, 5, 4});
        grouped.rate_by_two = true;
        grouped.scoring = OPS_SCORE_SIGMOID;
        expect_choice(route_row(ctx, &grouped, r, groups, NULL), (int32_t[]){0, 1, 6, 7});
        grouped.rate_by_two = false;
        expect_choice(route_row(ctx, &grouped, r, equal, NULL), (int32_t[]){0, 1, 2, 3});
        expect_choice(route_row(ctx, &biased, r, equal, biases), (int32_t[]){0, 2, 3, 1});
        for (int j = 0; j < 4; j++) /* the bias chose, and weighs nothing */
            assert_true(r->weight[j] == 0.25f);
        ops_cpu()->routing_destroy(ctx, &r);
    }
}

static void what_is_no_number_is_chosen_last(void **state)
{
    (void)state;
    float row[12] = {NAN, 1, NAN, -INFINITY, -3, NAN, -NAN, NAN, NAN, NAN, NAN, NAN}, all[12], infinite[12] = {0, INFINITY, -INFINITY, 3};
    for (int i = 0; i < 12; i++)
        all[i] = i % 2 == 0 ? NAN : -NAN;
    for (int c = 0; c < n_contexts; c++)
        for (int s = OPS_SCORE_SOFTMAX; s <= OPS_SCORE_SIGMOID; s++) {
            ops_ctx *ctx = contexts[c].ctx;
            family f = {"NaN", 12, 4, (ops_scoring)s, false, 0, 0, false, true, 1.0f};
            ops_routing *r = routing_make(ctx, &f, 0, 12);
            expect_choice(route_row(ctx, &f, r, row, NULL), (int32_t[]){1, 4, 3, 0});
            assert_true(isnan(r->weight[0])); /* a chosen one is none */
            expect_choice(route_row(ctx, &f, r, all, NULL), (int32_t[]){0, 1, 2, 3});
            expect_choice(route_row(ctx, &f, r, infinite, NULL), (int32_t[]){1, 3, 0, 4});
            ops_cpu()->routing_destroy(ctx, &r);
            f = (family){"NaN", 12, 3, (ops_scoring)s, false, 3, 2, s != OPS_SCORE_CHOSEN, false, 1.0f};
            r = routing_make(ctx, &f, 0, 12);
            (void)route_row(ctx, &f, r, all, NULL);
            expect_choice(r, (int32_t[]){0, 1, 2});
            (void)route_row(ctx, &f, r, row, NULL);
            for (int j = 0; j < 3; j++)
                assert_true(r->expert[j] >= 0 && r->expert[j] < 12);
            if (s == OPS_SCORE_CHOSEN)
                assert_true(r->expert[0] == 1);
            ops_cpu()->routing_destroy(ctx, &r);
        }
}

/* ---- products ---- */

/* Who goes where: each row's experts, by large logits. */
typedef enum spread { EVEN, SKEWED, ALL_TO_ONE, SPREADS } spread;

static void fill_logits(ops_ctx *ctx, const ops_mat *logits, int32_t rows, int32_t top_k, spread s)
{
    uint64_t seed = 77;
    mat_fill(ctx, logits, rows, 1.0f, 5);
    for (int32_t row = 0; row < rows; row++) {
        float *l = mat_row(ctx, logits, row);
        uint32_t first = random_bits(&seed) % (uint32_t)logits->cols;
        for (int32_t j = 0; j < top_k; j++) {
            uint32_t e = s == EVEN ? first + 3 * (uint32_t)j : s == SKEWED ? (uint32_t)j + (row % 7 == 0 ? first % 3 : 0) : (uint32_t)j;
            l[e % (uint32_t)logits->cols] = 9.0f - (float)j;
        }
    }
}

enum { PRODUCT_EXPERTS = 11, PRODUCT_TOP = 2, PRODUCT_BEGIN = 1, PRODUCT_LOCAL = 8 };
static const family PRODUCT = {"products", PRODUCT_EXPERTS, PRODUCT_TOP, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f};

/* Matrices of some experts with a gap between them. */
static ops_expert_weights weights_of(ops_ctx *ctx, packed_shape shape, int32_t n, uint32_t seed, bool bias)
{
    packed_layout l;
    ops_expert_weights w = {.first = {.offset = 128, .shape = shape}};
    assert_true(packed_layout_of(shape, &l));
    w.stride = mem_align(l.bytes, 64) + 192;
    OK(ops_cpu()->buf_create(ctx, w.first.offset + w.stride * (size_t)n, "test", &w.first.buf));
    char *at = (char *)ops_cpu()->buf_map(ctx, w.first.buf) + w.first.offset;
    for (int32_t e = 0; e < n; e++)
        for (int32_t r = 0; r < shape.rows; r++)
            weights_fill_row(&l, at + (size_t)e * w.stride, r, &seed);
    if (bias)
        w.bias = vec_make(ctx, n * shape.rows, 1.0f, 0.0f, seed);
    return w;
}

static void weights_free(ops_ctx *ctx, ops_expert_weights *w)
{
    ops_cpu()->buf_destroy(ctx, &w->first.buf);
    vec_free(ctx, &w->bias);
}

/* What linear gives for one row with one expert's matrix. */
static void linear_row(ops_ctx *ctx, const ops_expert_weights *w, int32_t expert, ops_mat x, int32_t row, ops_mat y)
{
    ops_linear_args a = {.rows = 1, .x = x, .n = 1, .w = {w->first}, .bias = {w->bias}, .y = {y}};
    a.x.offset += (size_t)row * x.stride;
    a.w[0].offset += (size_t)expert * w->stride;
    a.bias[0].offset += (size_t)expert * (size_t)w->first.shape.rows * 4;
    a.bias[0].n = w->first.shape.rows;
    OK(ops_cpu()->linear(ctx, &a));
}

/* Rows in the format that weights want. */
static ops_mat x_make(ops_ctx *ctx, packed_type type, int32_t rows, int32_t cols)
{
    ops_mat f = mat_make(ctx, OPS_F32, rows, cols), x = mat_make(ctx, ops_cpu()->linear_input(ctx, type), rows, cols);
    mat_fill(ctx, &f, rows, 2.0f, 9);
    ops_gate_args copy = {.rows = rows, .gate = f, .activation = OPS_RELU, .y = x}; /* some zeros, too */
    OK(ops_cpu()->gate(ctx, &copy));
    mat_free(ctx, &f);
    return x;
}

static void expect_pair(ops_ctx *ctx, const ops_experts_args *a, int i, int32_t position, ops_mat want, const char *what)
{
    const ops_routing *r = a->routing;
    int32_t e = 0, pair = r->order[position], outputs = a->w[i].first.shape.rows;
    while (r->offset[e + 1] <= position)
        e++;
    linear_row(ctx, &a->w[i], e, a->x, a->x_by_row ? pair / r->spec.top_k : position, want);
    if (memcmp(mat_row(ctx, &want, 0), mat_row(ctx, &a->y[i], position), (size_t)outputs * 4) != 0)
        fail_msg("%s: weights %d, position %d, expert %d: not what linear gives", what, i, position, e);
}

static void check_products(packed_type type, int32_t cols, int32_t rows, spread s, bool by_row)
{
    const packed_format *f = packed_format_of(type);
    char what[96];
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        snprintf(what, sizeof(what), "%s, %s, %d rows, spread %d%s", f->name, contexts[c].name, rows, s, by_row ? ", by row" : "");
        ops_mat logits = mat_make(ctx, OPS_F32, rows, PRODUCT_EXPERTS);
        fill_logits(ctx, &logits, rows, PRODUCT_TOP, s);
        ops_routing *r = routing_make(ctx, &PRODUCT, PRODUCT_BEGIN, PRODUCT_LOCAL);
        ops_route_args route = route_args(&PRODUCT, logits, (ops_vec){0}, r, rows);
        OK(ops_cpu()->route(ctx, &route));
        int32_t phase = packed_has_super(f) ? 112 - 112 % f->group : 0;
        ops_experts_args a = {.routing = r, .x_by_row = by_row, .x = x_make(ctx, type, by_row ? rows : rows * PRODUCT_TOP, cols), .n = 2};
        a.w[0] = weights_of(ctx, (packed_shape){type, 50, cols, phase}, PRODUCT_LOCAL, 3, true);
        a.w[1] = weights_of(ctx, (packed_shape){type, 17, cols, 0}, PRODUCT_LOCAL, 4, false);
        a.y[0] = mat_make(ctx, OPS_F32, rows * PRODUCT_TOP, 50);
        a.y[1] = mat_make(ctx, OPS_F32, rows * PRODUCT_TOP, 17);
        OK(ops_cpu()->experts(ctx, &a));
        int32_t pairs = r->offset[PRODUCT_LOCAL];
        ops_mat want = mat_make(ctx, OPS_F32, 1, 50);
        for (int i = 0; i < 2; i++) {
            for (int32_t p = 0; p < pairs; p++)
                expect_pair(ctx, &a, i, p, want, what);
            for (int32_t p = pairs; p < rows * PRODUCT_TOP; p++)
                for (int32_t o = 0; o < a.w[i].first.shape.rows; o++)
                    assert_true(isnan(mat_row(ctx, &a.y[i], p)[o])); /* no pair: not written */
        }
        for (int i = 0; i < 2; i++) {
            weights_free(ctx, &a.w[i]);
            mat_free(ctx, &a.y[i]);
        }
        mat_free(ctx, &want);
        mat_free(ctx, &a.x);
        mat_free(ctx, &logits);
        ops_cpu()->routing_destroy(ctx, &r);
    }
}

static void products_are_those_of_linear(void **state)
{
    (void)state;
    for (int t = 0; t < PACKED_TYPES; t++)
        for (int s = 0; s < SPREADS; s++) {
            check_products((packed_type)t, 144, 7 + 13 * s, (spread)s, true);
            check_products((packed_type)t, 80, 33 - 13 * s, (spread)s, false);
        }
    for (int t = 0; t < PACKED_TYPES; t += 5)
        check_products((packed_type)t, 96, 1, EVEN, true);
}

/* A row wider than a thread's gathering scratch, and tiles that are cut by it. */
static void wide_rows_are_gathered_in_pieces(void **state)
{
    (void)state;
    check_products(PACKED_F32, 1600, MAX_ROWS, ALL_TO_ONE, true);
    check_products(PACKED_Q8_0, 1600, MAX_ROWS, ALL_TO_ONE, true);
    ops_ctx *ctx;
    ops_ctx_options o = {.n_threads = 2, .first_core = -1, .max_rows = 4, .max_cols = 1 << 18};
    OK(ops_cpu()->ctx_create(&o, &ctx));
    ops_routing *r = routing_make(ctx, &PRODUCT, 0, PRODUCT_EXPERTS);
    int32_t cols = CPU_ROUTING_SCRATCH / 4 + 16;
    ops_mat logits = mat_make(ctx, OPS_F32, 3, PRODUCT_EXPERTS);
    fill_logits(ctx, &logits, 3, PRODUCT_TOP, ALL_TO_ONE);
    ops_route_args route = route_args(&PRODUCT, logits, (ops_vec){0}, r, 3);
    OK(ops_cpu()->route(ctx, &route));
    ops_experts_args a = {.routing = r, .x_by_row = true, .x = x_make(ctx, PACKED_F32, 3, cols), .n = 1};
    a.w[0] = weights_of(ctx, (packed_shape){PACKED_F32, 3, cols, 0}, PRODUCT_EXPERTS, 3, false);
    a.y[0] = mat_make(ctx, OPS_F32, 3 * PRODUCT_TOP, 3);
    OK(ops_cpu()->experts(ctx, &a));
    ops_mat want = mat_make(ctx, OPS_F32, 1, 3);
    for (int32_t p = 0; p < 3 * PRODUCT_TOP; p++)
        expect_pair(ctx, &a, 0, p, want, "wide");
    mat_free(ctx, &want);
    weights_free(ctx, &a.w[0]);
    mat_free(ctx, &a.x);
    mat_free(ctx, &a.y[0]);
    mat_free(ctx, &logits);
    ops_cpu()->routing_destroy(ctx, &r);
    ops_cpu()->ctx_destroy(&ctx);
}

/* ---- rows for pairs, pairs for rows ---- */

static void pairs_are_dispatched_gated_and_combined(void **state)
{
    (void)state;
    enum { ROWS = 29, COLS = 70 };
    static const ops_type formats[] = {OPS_F32, OPS_BF16, OPS_Q8};
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        ops_mat logits = mat_make(ctx, OPS_F32, ROWS, PRODUCT_EXPERTS), x = mat_make(ctx, OPS_F32, ROWS, COLS), y = mat_make(ctx, OPS_F32, ROWS, COLS);
        ops_mat results = mat_make(ctx, OPS_F32, ROWS * PRODUCT_TOP, COLS);
        mat_fill(ctx, &logits, ROWS, 3.0f, 6);
        mat_fill(ctx, &x, ROWS, 3.0f, 7);
        mat_fill(ctx, &results, ROWS * PRODUCT_TOP, 3.0f, 8);
        ops_routing *r = routing_make(ctx, &PRODUCT, PRODUCT_BEGIN, 4);
        ops_route_args route = route_args(&PRODUCT, logits, (ops_vec){0}, r, ROWS);
        OK(ops_cpu()->route(ctx, &route));
        int32_t pairs = r->offset[4];
        assert_true(pairs > 4 && pairs < ROWS * PRODUCT_TOP);
        for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
            ops_mat scaled = mat_make(ctx, OPS_F32, pairs, COLS), want = mat_make(ctx, formats[f], ROWS * PRODUCT_TOP, COLS), got = mat_make(ctx, formats[f], ROWS * PRODUCT_TOP, COLS);
            for (int32_t p = 0; p < pairs; p++)
                for (int32_t k = 0; k < COLS; k++)
                    mat_row(ctx, &scaled, p)[k] = mat_row(ctx, &x, r->order[p] / PRODUCT_TOP)[k] * r->weight[r->order[p]];
            for (int32_t p = 0; p < pairs; p++) /* one by one, by an activation that changes nothing where all is positive */
                for (int32_t k = 0; k < COLS; k++)
                    mat_row(ctx, &scaled, p)[k] = fabsf(mat_row(ctx, &scaled, p)[k]);
            ops_gate_args g = {.rows = pairs, .gate = scaled, .activation = OPS_RELU, .y = want};
            OK(ops_cpu()->gate(ctx, &g));
            for (int32_t row = 0; row < ROWS; row++)
                for (int32_t k = 0; k < COLS; k++)
                    mat_row(ctx, &x, row)[k] = fabsf(mat_row(ctx, &x, row)[k]);
            ops_dispatch_args d = {r, x, got};
            OK(ops_cpu()->dispatch(ctx, &d));
            assert_memory_equal(mat_row(ctx, &got, 0), mat_row(ctx, &want, 0), (size_t)ROWS * PRODUCT_TOP * got.stride); /* what is no pair's is as it was */
            mat_fill(ctx, &results, ROWS * PRODUCT_TOP, 3.0f, 8);
            g = (ops_gate_args){.rows = pairs, .gate = results, .up = results, .activation = OPS_SILU, .y = want};
            OK(ops_cpu()->gate(ctx, &g));
            g = (ops_gate_args){.gate = results, .up = results, .activation = OPS_SILU, .y = got, .pairs = r};
            OK(ops_cpu()->gate(ctx, &g));
            assert_memory_equal(mat_row(ctx, &got, 0), mat_row(ctx, &want, 0), (size_t)ROWS * PRODUCT_TOP * got.stride);
            mat_free(ctx, &scaled);
            mat_free(ctx, &want);
            mat_free(ctx, &got);
        }
        for (int mode = 0; mode < 4; mode++) {
            ops_combine_args a = {.routing = r, .x = results, .weighed = mode % 2 == 1, .accumulate = mode >= 2, .y = y};
            mat_fill(ctx, &y, ROWS, 1.0f, 12);
            ops_mat before = mat_make(ctx, OPS_F32, ROWS, COLS);
            memcpy(mat_row(ctx, &before, 0), mat_row(ctx, &y, 0), (size_t)ROWS * y.stride);
            OK(ops_cpu()->combine(ctx, &a));
            int32_t without = 0;
            for (int32_t row = 0; row < ROWS; row++) {
                int32_t found = 0;
                for (int32_t k = 0; k < COLS; k++) {
                    float want = a.accumulate ? mat_row(ctx, &before, row)[k] : 0.0f;
                    found = 0;
                    for (int32_t j = 0; j < PRODUCT_TOP; j++)
                        for (int32_t p = 0; p < pairs; p++)
                            if (r->order[p] == row * PRODUCT_TOP + j) {
                                want = fmaf(a.weighed ? 1.0f : r->weight[row * PRODUCT_TOP + j], mat_row(ctx, &results, p)[k], want);
                                found++;
                            }
                    if (memcmp(&want, &mat_row(ctx, &y, row)[k], 4) != 0)
                        fail_msg("combine, mode %d, %s: row %d column %d is %.9g, not %.9g", mode, contexts[c].name, row, k, (double)mat_row(ctx, &y, row)[k], (double)want);
                }
                without += found == 0;
            }
            assert_true(without > 0); /* rows whose experts are all elsewhere were among them */
            mat_free(ctx, &before);
        }
        ops_cpu()->routing_destroy(ctx, &r);
        mat_free(ctx, &logits);
        mat_free(ctx, &x);
        mat_free(ctx, &y);
        mat_free(ctx, &results);
    }
}

/* ---- a whole layer, in f32, against double; two ranks' halves add up to it ---- */

enum { LAYER_ROWS = 19, HIDDEN = 48, INNER = 33 };

static double layer_reference(ops_ctx *ctx, const ops_routing *r, const ops_mat *x, const ops_expert_weights *w, int32_t row, int32_t out)
{
    double sum = 0;
    int32_t k = r->spec.top_k;
    const char *data[3];
    for (int i = 0; i < 3; i++)
        data[i] = (const char *)ops_cpu()->buf_map(ctx, w[i].first.buf) + w[i].first.offset;
    for (int32_t j = 0; j < k; j++) {
        float in[2][HIDDEN], down[INNER];
        size_t e = (size_t)r->expert[row * k + j];
        double result = vec_data(ctx, &w[2].bias)[e * HIDDEN + (size_t)out];
        packed_dequantise(w[2].first.shape, data[2] + e * w[2].stride, out, 0, INNER, down);
        for (int32_t h = 0; h < INNER; h++) {
            double product[2];
            for (int i = 0; i < 2; i++) {
                packed_dequantise(w[i].first.shape, data[i] + e * w[i].stride, h, 0, HIDDEN, in[i]);
                product[i] = vec_data(ctx, &w[i].bias)[e * INNER + (size_t)h];
                for (int32_t c = 0; c < HIDDEN; c++)
                    product[i] += (double)in[i][c] * mat_row(ctx, x, row)[c];
            }
            result += down[h] * product[0] / (1 + exp(-product[0])) * product[1];
        }
        sum += result * r->weight[row * k + j];
    }
    return sum;
}

/* The experts [begin, begin + n) of the weights; y is added to. */
static ops_routing *layer(ops_ctx *ctx, const ops_mat *logits, const ops_mat *x, const ops_expert_weights *w, int32_t begin, int32_t n, const ops_mat *y)
{
    ops_routing *r = routing_make(ctx, &PRODUCT, begin, n);
    ops_mat gate = mat_make(ctx, OPS_F32, LAYER_ROWS * PRODUCT_TOP, INNER), up = mat_make(ctx, OPS_F32, LAYER_ROWS * PRODUCT_TOP, INNER);
    ops_mat act = mat_make(ctx, OPS_F32, LAYER_ROWS * PRODUCT_TOP, INNER), result = mat_make(ctx, OPS_F32, LAYER_ROWS * PRODUCT_TOP, HIDDEN);
    ops_route_args route = route_args(&PRODUCT, *logits, (ops_vec){0}, r, LAYER_ROWS);
    ops_experts_args in = {.routing = r, .x_by_row = true, .x = *x, .n = 2, .w = {w[0], w[1]}, .y = {gate, up}}, out = {.routing = r, .x = act, .n = 1, .w = {w[2]}, .y = {result}};
    for (int i = 0; i < 3; i++) {
        ops_expert_weights *at = i < 2 ? &in.w[i] : &out.w[0];
        int32_t biases = w[i].first.shape.rows * begin;
        at->first.offset += (size_t)begin * w[i].stride;
        at->bias.offset += (size_t)biases * 4;
        at->bias.n -= biases;
    }
    ops_gate_args g = {.gate = gate, .up = up, .activation = OPS_SILU, .y = act, .pairs = r};
    ops_combine_args c = {.routing = r, .x = result, .accumulate = true, .y = *y};
    OK(ops_cpu()->route(ctx, &route));
    OK(ops_cpu()->experts(ctx, &in));
    OK(ops_cpu()->gate(ctx, &g));
    OK(ops_cpu()->experts(ctx, &out));
    OK(ops_cpu()->combine(ctx, &c));
    mat_free(ctx, &gate);
    mat_free(ctx, &up);
    mat_free(ctx, &act);
    mat_free(ctx, &result);
    return r;
}

static void a_layer_is_its_experts_weighted_sum(void **state)
{
    (void)state;
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        ops_mat logits = mat_make(ctx, OPS_F32, LAYER_ROWS, PRODUCT_EXPERTS), x = mat_make(ctx, OPS_F32, LAYER_ROWS, HIDDEN);
        mat_fill(ctx, &logits, LAYER_ROWS, 3.0f, 16);
        mat_fill(ctx, &x, LAYER_ROWS, 1.0f, 17);
        ops_expert_weights w[3];
        for (int i = 0; i < 3; i++)
            w[i] = weights_of(ctx, (packed_shape){PACKED_F32, i < 2 ? INNER : HIDDEN, i < 2 ? HIDDEN : INNER, 0}, PRODUCT_EXPERTS, (uint32_t)(20 + i), true);
        for (int split = 0; split < 2; split++) {
            ops_mat y = mat_make(ctx, OPS_F32, LAYER_ROWS, HIDDEN);
            memset(mat_row(ctx, &y, 0), 0, (size_t)LAYER_ROWS * y.stride);
            ops_routing *r = layer(ctx, &logits, &x, w, 0, split == 0 ? PRODUCT_EXPERTS : 4, &y), *other = NULL;
            if (split == 1)
                other = layer(ctx, &logits, &x, w, 4, PRODUCT_EXPERTS - 4, &y);
            for (int32_t row = 0; row < LAYER_ROWS; row++)
                for (int32_t o = 0; o < HIDDEN; o++)
                    assert_near("layer", mat_row(ctx, &y, row)[o], layer_reference(ctx, r, &x, w, row, o), 2e-4); /* values of about 30 */
            ops_cpu()->routing_destroy(ctx, &r);
            ops_cpu()->routing_destroy(ctx, &other);
            mat_free(ctx, &y);
        }
        for (int i = 0; i < 3; i++)
            weights_free(ctx, &w[i]);
        mat_free(ctx, &logits);
        mat_free(ctx, &x);
    }
}

/* ---- refusals ---- */

static void refused(status st, const char *why)
{
    assert_int_equal(st, ST_INVALID);
    if (strstr(status_message(), why) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", status_message(), why);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    const ops_backend *be = ops_cpu();
    ops_ctx *ctx = contexts[0].ctx;
    ops_routing *r;
    status_mute();
    refused(be->routing_create(ctx, &(ops_routing_spec){1, 8, 9, 0, 8}, &r), "9 of 8 experts");
    refused(be->routing_create(ctx, &(ops_routing_spec){1, 64, OPS_MAX_CHOSEN + 1, 0, 8}, &r), "at most 32");
    refused(be->routing_create(ctx, &(ops_routing_spec){1, OPS_MAX_EXPERTS + 1, 1, 0, 8}, &r), "at most");
    refused(be->routing_create(ctx, &(ops_routing_spec){INT32_MAX, 8, 2, 0, 8}, &r), "a routing of");
    refused(be->routing_create(ctx, &(ops_routing_spec){0, 8, 2, 0, 8}, &r), "a routing of 0 rows");
    refused(be->routing_create(ctx, &(ops_routing_spec){1, 8, 2, 4, 5}, &r), "5 experts from 4 on, of 8");
    refused(be->routing_create(ctx, &(ops_routing_spec){1, 8, 2, -1, 5}, &r), "from -1 on");
    refused(be->routing_create(ctx, &(ops_routing_spec){1, 8, 2, INT32_MAX, INT32_MAX}, &r), "of 8");
    assert_null(r);
    OK(be->routing_create(ctx, &(ops_routing_spec){4, 8, 2, 2, 3}, &r));

    ops_mat logits = mat_make(ctx, OPS_F32, 4, 8), x = mat_make(ctx, OPS_F32, 8, 32), half = mat_make(ctx, OPS_BF16, 8, 64), narrow = mat_make(ctx, OPS_F32, 4, 7);
    ops_vec few = vec_make(ctx, 7, 1.0f, 0.0f, 1);
    mat_fill(ctx, &logits, 4, 1.0f, 1);
    ops_route_args a = {.rows = 5, .logits = logits, .scale = 1.0f, .routing = r}, b;
    refused(be->route(ctx, &a), "5 rows, the routing was made for 4");
    a.rows = 4;
    b = a, b.logits = narrow;
    refused(be->route(ctx, &b), "7 columns, 8 needed");
    b = a, b.logits = half;
    refused(be->route(ctx, &b), "f32");
    b = a, b.bias = few;
    refused(be->route(ctx, &b), "7 biases for 8");
    b = a, b.scoring = OPS_SCORE_CHOSEN, b.rate_by_two = true;
    refused(be->route(ctx, &b), "no scores");
    b = a, b.n_groups = 3, b.top_groups = 2;
    refused(be->route(ctx, &b), "groups");
    b = a, b.n_groups = 8, b.top_groups = 1;
    refused(be->route(ctx, &b), "2 experts in the best 1 of 8 groups");
    b = a, b.n_groups = 4, b.top_groups = 5;
    refused(be->route(ctx, &b), "groups");
    OK(be->route(ctx, &a));

    packed_layout l;
    packed_shape shape = {PACKED_F32, 16, 32, 0};
    ops_expert_weights w = weights_of(ctx, shape, 3, 1, true);
    assert_true(packed_layout_of(shape, &l));
    ops_experts_args e = {.routing = r, .x_by_row = true, .x = x, .n = 1, .w = {w}, .y = {x}}, g;
    OK(be->experts(ctx, &e));
    g = e, g.w[0].stride = l.bytes - 64;
    refused(be->experts(ctx, &g), "apart");
    g = e, g.w[0].stride += 128;
    refused(be->experts(ctx, &g), "exceed their buffer");
    g = e, g.w[0].stride = SIZE_MAX / 2 - SIZE_MAX / 2 % 64;
    refused(be->experts(ctx, &g), "exceed their buffer");
    g = e, g.w[0].bias.n = 47;
    refused(be->experts(ctx, &g), "48 needed");
    g = e, g.w[0].bias.offset = 4;
    refused(be->experts(ctx, &g), "biases");
    g = e, g.w[0].first.buf = NULL;
    refused(be->experts(ctx, &g), "absent");
    g = e, g.w[0].first.shape.cols = 33;
    refused(be->experts(ctx, &g), "do not fit x");
    g = e, g.w[0].first.shape.type = PACKED_Q8_0;
    refused(be->experts(ctx, &g), "format of x");
    g = e, g.y[0] = narrow;
    refused(be->experts(ctx, &g), "16 needed");
    g = e, g.y[0].offset = 64;
    refused(be->experts(ctx, &g), "do not fit a buffer");
    g = e, g.x_by_row = false, g.x.offset = 64;
    refused(be->experts(ctx, &g), "do not fit a buffer");
    g = e, g.n = OPS_MAX_FUSED + 1;
    refused(be->experts(ctx, &g), "at most 4");

    refused(be->dispatch(ctx, &(ops_dispatch_args){r, half, half}), "f32");
    refused(be->dispatch(ctx, &(ops_dispatch_args){r, x, narrow}), "needed");
    refused(be->dispatch(ctx, &(ops_dispatch_args){r, x, half}), "into 64");
    refused(be->combine(ctx, &(ops_combine_args){.routing = r, .x = half, .y = half}), "f32");
    refused(be->combine(ctx, &(ops_combine_args){.routing = r, .x = x, .y = narrow}), "needed");
    refused(be->gate(ctx, &(ops_gate_args){.gate = logits, .y = x, .pairs = r}), "8 rows of gate");
    status_unmute();
    weights_free(ctx, &w);
    mat_free(ctx, &logits);
    mat_free(ctx, &x);
    mat_free(ctx, &half);
    mat_free(ctx, &narrow);
    vec_free(ctx, &few);
    be->routing_destroy(ctx, &r);

    /* A rank without experts takes part, and adds nothing. */
    OK(be->routing_create(ctx, &(ops_routing_spec){4, 8, 2, 8, 0}, &r));
    ops_mat some = mat_make(ctx, OPS_F32, 4, 8), pairs = mat_make(ctx, OPS_F32, 8, 32), y = mat_make(ctx, OPS_F32, 4, 32);
    mat_fill(ctx, &some, 4, 1.0f, 1);
    OK(be->route(ctx, &(ops_route_args){.rows = 4, .logits = some, .scale = 1.0f, .routing = r}));
    OK(be->combine(ctx, &(ops_combine_args){.routing = r, .x = pairs, .y = y}));
    for (int32_t i = 0; i < 4 * 32; i++)
        assert_true(mat_row(ctx, &y, i / 32)[i % 32] == 0.0f);
    be->routing_destroy(ctx, &r);
    mat_free(ctx, &some);
    mat_free(ctx, &pairs);
    mat_free(ctx, &y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_are_as_defined),
        cmocka_unit_test(ties_go_to_the_lowest_expert),
        cmocka_unit_test(what_is_no_number_is_chosen_last),
        cmocka_unit_test(products_are_those_of_linear),
        cmocka_unit_test(wide_rows_are_gathered_in_pieces),
        cmocka_unit_test(pairs_are_dispatched_gated_and_combined),
        cmocka_unit_test(a_layer_is_its_experts_weighted_sum),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
