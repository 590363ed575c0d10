/* tests/ops/test_linear.c - the products agree with packed_dequantise in double, and bit for bit with one another: every packed type, at every
 * level that runs here (the emulated build runs all), for any number of rows and threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/ops/weights.h"

#define MAX_ROWS 70
#define MAX_COLS 2080

static const char *const level_names[CPU_ISAS] = {"c", "avx2", "avx512", "avx512bf16", "amx"};
static ops_ctx contexts[CPU_ISAS][4]; /* by level and threads (1, 2, 3) */
static cpu_isa levels[CPU_ISAS];
static int n_levels;

static int open_contexts(void **state)
{
    (void)state;
    n_levels = weights_levels(levels);
    printf("levels:");
    for (int i = 0; i < n_levels; i++)
        printf(" %s", level_names[levels[i]]);
    printf("\n");
    for (int i = 0; i < n_levels; i++)
        for (int t = 1; t <= 3; t++)
            if (weights_ctx(levels[i], t, MAX_ROWS, MAX_COLS, &contexts[i][t]) != ST_OK)
                return -1;
    return 0;
}

static int close_contexts(void **state)
{
    (void)state;
    for (int i = 0; i < n_levels; i++)
        for (int t = 1; t <= 3; t++)
            weights_ctx_free(&contexts[i][t]);
    return 0;
}

static ops_buf random_x(int32_t rows, int32_t cols, uint32_t seed)
{
    ops_buf b = weights_buf((size_t)rows * ops_row_bytes(OPS_F32, cols));
    memset(b.data, 0x7f, b.bytes); /* a row's padding may hold anything */
    for (int32_t r = 0; r < rows; r++)
        for (int32_t k = 0; k < cols; k++)
            ((float *)(void *)(b.data + (size_t)r * ops_row_bytes(OPS_F32, cols)))[k] = weights_uniform(&seed) * (float)(1 + r % 5);
    return b;
}

/* What x is worth to a weight that takes it as `type`. */
static void x_as_seen(const ops_ctx *ctx, ops_type type, const float *x, int32_t cols, double *out)
{
    static _Alignas(64) char row[MAX_COLS * 4];
    if (type == OPS_Q8)
        cpu_quantise_row(ctx, x, cols, row);
    for (int32_t k = 0; k < cols; k++)
        out[k] = type == OPS_F32 ? x[k] : type == OPS_BF16 ? half_bf16_to_f32(half_f32_to_bf16(x[k])) : (double)((int8_t *)row)[k] * cpu_q8_scales(row, cols)[k / 32];
}

/* Each of up to cols (and, for a group, a few more) rounded operations errs by at most 2^-24 of the sum of magnitudes so far; the minima of these weights are
 * below 3, and cancel against codes inside w. */
static void check_against_double(const ops_ctx *ctx, const ops_linear_args *a, const float *y, size_t y_stride)
{
    const packed_shape s = a->w[0].shape;
    double *x = malloc((size_t)s.cols * sizeof(*x));
    float *w = malloc((size_t)s.cols * sizeof(*w));
    for (int32_t r = 0; r < a->rows; r++) {
        x_as_seen(ctx, cpu_linear_input(ctx, s.type), cpu_row(&a->x, r), s.cols, x);
        for (int32_t o = 0; o < s.rows; o++) {
            double sum = 0, magnitude = 0, min_part = 0;
            packed_dequantise(s, a->w[0].buf->data, o, 0, s.cols, w);
            for (int32_t k = 0; k < s.cols; k++) {
                sum += w[k] * x[k];
                magnitude += fabs(w[k] * x[k]);
                min_part += fabs(x[k]); /* a minimum and its codes may cancel inside w */
            }
            double got = y[(size_t)r * y_stride + (size_t)o], most = (magnitude + 8 * min_part) * (s.cols + 8) * 0x1p-24 + 1e-30;
            if (!(fabs(got - sum) <= most))
                fail_msg("%s [%d, %d] phase %d row %d output %d: got %.9g, want %.9g (within %.3g)", packed_format_of(s.type)->name, s.rows, s.cols, s.phase, r, o,
                         got, sum, most);
        }
    }
    free(x);
    free(w);
}

static void run(ops_ctx *ctx, ops_linear_args a, int32_t row, int32_t n)
{
    a.rows = n;
    a.x.offset += (size_t)row * a.x.stride;
    for (int i = 0; i < a.n; i++)
        a.y[i].offset += (size_t)row * a.y[i].stride;
    assert_int_equal(cpu_linear(ctx, &a), ST_OK);
}

static void check_same(const ops_buf *got, const ops_buf *want, const packed_shape *s, const char *level, int threads, int rows)
{
    if (memcmp(got->data, want->data, want->bytes) == 0)
        return;
    for (size_t i = 0; i < want->bytes / 4; i++)
        if (memcmp(got->data + 4 * i, want->data + 4 * i, 4) != 0)
            fail_msg("%s [%d, %d] phase %d at %s, %d threads, %d rows at a time: element %zu is %.9g, not %.9g", packed_format_of(s->type)->name, s->rows,
                     s->cols, s->phase, level, threads, rows, i, (double)((float *)(void *)got->data)[i], (double)((float *)(void *)want->data)[i]);
}

/* Where the machine multiplies bf16 its products have their own order: they are their own reference. */
static bool own_order(cpu_isa level, packed_type type)
{
    return level >= CPU_ISA_AVX512BF16 && type == PACKED_BF16;
}

/* Of each pair the second product is added first, each addition rounded: what machines that say "bf16 pairs" must have in common. */
static void pairs_are_added_in_one_order(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 95, OUTPUTS = 33 };
    const packed_shape s = {PACKED_BF16, OUTPUTS, COLS, 0};
    ops_buf w = weights_make(s, 11), x = random_x(ROWS, COLS, 12), y = weights_buf(ROWS * ops_row_bytes(OPS_F32, OUTPUTS));
    ops_linear_args a = {.rows = ROWS, .n = 1, .x = weights_mat(&x, OPS_F32, COLS), .w = {{&w, 0, s}}, .y = {weights_mat(&y, OPS_F32, OUTPUTS)}};
    for (int i = 0; i < n_levels; i++) {
        if (levels[i] != CPU_ISA_AVX512BF16)
            continue;
        run(&contexts[i][1], a, 0, ROWS);
        for (int32_t r = 0; r < ROWS; r++)
            for (int32_t o = 0; o < OUTPUTS; o++) {
                float weights[COLS + 1] = {0}, values[COLS + 1] = {0}, sum = 0;
                packed_dequantise(s, w.data, o, 0, COLS, weights);
                for (int32_t k = 0; k < COLS; k++)
                    values[k] = half_bf16_to_f32(half_f32_to_bf16(((const float *)(const void *)cpu_row(&a.x, r))[k]));
                for (int32_t k = 0; k < COLS; k += 2)
                    sum = fmaf(weights[k], values[k], fmaf(weights[k + 1], values[k + 1], sum));
                assert_memory_equal((const float *)(const void *)cpu_row(&a.y[0], r) + o, &sum, sizeof(sum));
            }
    }
    free(w.data);
    free(x.data);
    free(y.data);
}

static void check_shape(packed_shape s, int32_t rows)
{
    static const int32_t pieces[] = {1, 2, 3, 7, 8, 33, MAX_ROWS};
    ops_buf w = weights_make(s, (uint32_t)(s.type * 1000 + s.cols)), x = random_x(rows, s.cols, 5);
    ops_buf want = weights_buf((size_t)rows * ops_row_bytes(OPS_F32, s.rows)), got = weights_buf(want.bytes);
    ops_linear_args a = {.rows = rows, .n = 1, .x = weights_mat(&x, OPS_F32, s.cols), .w = {{&w, 0, s}}};
    for (int i = 0; i < n_levels; i++) {
        bool reference = i == 0 || own_order(levels[i], s.type);
        if (reference) {
            a.y[0] = weights_mat(&want, OPS_F32, s.rows);
            run(&contexts[i][1], a, 0, rows);
            check_against_double(&contexts[i][1], &a, (const float *)(const void *)want.data, a.y[0].stride / 4);
        }
        a.y[0] = weights_mat(&got, OPS_F32, s.rows);
        for (size_t p = 0; p < ARRAY_LEN(pieces) && (p == 0 || pieces[p - 1] < rows); p++) {
            int threads = 1 + (int)p % 3;
            memset(got.data, 0, got.bytes);
            for (int32_t r = 0; r < rows; r += pieces[p])
                run(&contexts[i][threads], a, r, pieces[p] < rows - r ? pieces[p] : rows - r);
            check_same(&got, &want, &s, level_names[levels[i]], threads, pieces[p]);
        }
    }
    free(w.data);
    free(x.data);
    free(want.data);
    free(got.data);
}

/* The largest magnitudes of weights and x, with either sign: whatever adds products in 16 bits must hold them. */
static void extreme_codes_do_not_overflow(void **state)
{
    (void)state;
    enum { ROWS = 9, COLS = 320, OUTPUTS = 33 };
    ops_buf x = random_x(ROWS, COLS, 1);
    ops_linear_args a = {.rows = ROWS, .n = 1, .x = weights_mat(&x, OPS_F32, COLS)};
    for (int32_t r = 0; r < ROWS; r++)
        for (int32_t k = 0; k < COLS; k++)
            ((float *)(void *)cpu_row(&a.x, r))[k] = r % 3 == 0 ? 1 : r % 3 == 1 ? -1 : k % 2 == 0 ? 1 : -1;
    for (int t = 0; t < PACKED_TYPES * 2; t++) {
        const packed_format *f = packed_format_of((packed_type)(t / 2));
        packed_shape s = {(packed_type)(t / 2), OUTPUTS, COLS, 0};
        packed_layout l;
        uint8_t codes[PACKED_UNIT];
        if (!f->integer)
            continue;
        memset(codes, f->bits == 8 ? 0x7f + t % 2 : t % 2 == 0 ? 0 : (1 << f->bits) - 1, sizeof(codes));
        ops_buf w = weights_make(s, 17), want = weights_buf(ROWS * ops_row_bytes(OPS_F32, OUTPUTS)), got = weights_buf(want.bytes);
        assert_true(packed_layout_of(s, &l));
        for (int32_t o = 0; o < OUTPUTS; o++)
            for (int32_t u = 0; u < l.units; u++)
                packed_set_unit(&l, w.data, o, u, codes);
        a.w[0] = (ops_weight){&w, 0, s};
        for (int i = 0; i < n_levels; i++)
            for (int32_t piece = ROWS; piece > 0; piece -= 4) { /* nine rows, five, one */
                a.y[0] = weights_mat(i == 0 && piece == ROWS ? &want : &got, OPS_F32, OUTPUTS);
                for (int32_t r = 0; r < ROWS; r += piece)
                    run(&contexts[i][1], a, r, piece < ROWS - r ? piece : ROWS - r);
                if (i > 0 || piece < ROWS)
                    check_same(&got, &want, &s, level_names[levels[i]], 1, piece);
            }
        free(w.data);
        free(want.data);
        free(got.data);
    }
    free(x.data);
}

static void every_type_and_level_agrees(void **state)
{
    (void)state;
    static const int32_t outputs[] = {1, 15, 16, 17, 33, 100};
    static const struct {
        int32_t cols, phase;
    } ks[] = {{1, 0}, {16, 0}, {32, 0}, {33, 0}, {48, 16}, {95, 0}, {256, 0}, {304, 112}, {320, 240}, {576, 64}, {1056, 0}, {2080, 32}};
    for (int t = 0; t < PACKED_TYPES; t++) {
        const packed_format *f = packed_format_of((packed_type)t);
        for (size_t k = 0; k < ARRAY_LEN(ks); k++) {
            packed_shape s = {(packed_type)t, outputs[(k + (size_t)t) % ARRAY_LEN(outputs)], ks[k].cols, packed_has_super(f) ? ks[k].phase % f->super : 0};
            s.phase -= s.phase % f->group;
            check_shape(s, s.cols > 500 ? 9 : 34);
        }
        check_shape((packed_shape){(packed_type)t, 100, 64, 0}, MAX_ROWS);
    }
}

/* Four weights of different types and a bias each, added to what y holds. */
static void fused_weights_are_the_same_as_apart(void **state)
{
    (void)state;
    static const packed_type types[OPS_MAX_FUSED] = {PACKED_Q4_1, PACKED_Q6_K, PACKED_F16, PACKED_BF16};
    static const int32_t outputs[OPS_MAX_FUSED] = {50, 16, 33, 7};
    enum { COLS = 288 };
    ops_buf x = random_x(MAX_ROWS, COLS, 9), w[OPS_MAX_FUSED], y[2][OPS_MAX_FUSED], bias = weights_buf(64 * 4);
    for (int i = 0; i < 64; i++)
        ((float *)(void *)bias.data)[i] = (float)i * 0.37f - 3;
    for (int i = 0; i < OPS_MAX_FUSED; i++)
        w[i] = weights_make((packed_shape){types[i], outputs[i], COLS, 0}, 77);
    for (int lv = 0; lv < n_levels; lv++) {
        for (int rows = 1; rows <= MAX_ROWS; rows += 23) {
            ops_linear_args a = {.rows = rows, .n = OPS_MAX_FUSED, .x = weights_mat(&x, OPS_F32, COLS), .accumulate = true};
            for (int i = 0; i < OPS_MAX_FUSED; i++) {
                for (int b = 0; b < 2; b++) {
                    y[b][i] = random_x(MAX_ROWS, outputs[i], 3);
                }
                a.w[i] = (ops_weight){&w[i], 0, {types[i], outputs[i], COLS, 0}};
                a.bias[i] = (ops_vec){&bias, 4 * (size_t)i, outputs[i]};
                a.y[i] = weights_mat(&y[0][i], OPS_F32, outputs[i]);
            }
            assert_int_equal(cpu_linear(&contexts[lv][2], &a), ST_OK);
            for (int i = 0; i < OPS_MAX_FUSED; i++) {
                ops_buf product = weights_buf(y[1][i].bytes);
                ops_linear_args alone = {.rows = rows, .n = 1, .x = a.x, .w = {a.w[i]}, .y = {weights_mat(&product, OPS_F32, outputs[i])}};
                assert_int_equal(cpu_linear(&contexts[lv][1], &alone), ST_OK);
                for (int r = 0; r < rows; r++)
                    for (int o = 0; o < outputs[i]; o++) {
                        ops_mat before = weights_mat(&y[1][i], OPS_F32, outputs[i]);
                        float want = ((float *)cpu_row(&before, r))[o] + (((float *)cpu_row(&alone.y[0], r))[o] + ((float *)(void *)bias.data)[i + o]);
                        assert_memory_equal(&((float *)cpu_row(&a.y[i], r))[o], &want, 4);
                    }
                free(product.data);
                free(y[0][i].data);
                free(y[1][i].data);
            }
        }
    }
    for (int i = 0; i < OPS_MAX_FUSED; i++)
        free(w[i].data);
    free(x.data);
    free(bias.data);
}

static void quantised_rows_follow_the_rule(void **state)
{
    (void)state;
    enum { COLS = 200 };
    static _Alignas(64) char rows[CPU_ISAS][1024];
    float x[COLS];
    uint32_t seed = 4;
    for (int k = 0; k < COLS; k++)
        x[k] = k < 32 ? 0.0f : k < 64 ? weights_uniform(&seed) * 0x1p-140f : k == 70 ? INFINITY : k == 100 ? NAN : weights_uniform(&seed) * 3;
    x[130] = 127.0f; /* scale 1: halves show the rounding */
    x[131] = 2.5f;
    x[132] = -3.5f;
    assert_true(cpu_q8_row_bytes(COLS) <= sizeof(rows[0]));
    for (int i = 0; i < n_levels; i++) {
        memset(rows[i], 0x55, sizeof(rows[i]));
        cpu_quantise_row(&contexts[i][1], x, COLS, rows[i]);
        assert_memory_equal(rows[i], rows[0], 256 + 256 / 32 * 28);
    }
    const int8_t *q = (const int8_t *)rows[0];
    const float *scale = cpu_q8_scales(rows[0], COLS);
    for (int k = 0; k < 64; k++)
        assert_int_equal(q[k], 0);
    assert_true(scale[0] == 0 && scale[1] == 0 && isinf(scale[2]) && isnan(scale[3]) && scale[4] == 1);
    assert_true(q[130] == 127 && q[131] == 2 && q[132] == -4);
    for (int k = 160; k < 192; k++)
        assert_true(fabsf(x[k] - (float)q[k] * scale[5]) <= scale[5] * 0.501f);
    for (int k = COLS; k < 256; k++)
        assert_int_equal(q[k], 0);
    for (int g = 0; g < 16; g++) {
        int32_t sum = 0;
        for (int k = 0; k < 16; k++)
            sum += q[16 * g + k];
        assert_int_equal(cpu_q8_sums(rows[0], COLS)[g], sum);
    }
}

/* An integer weight given f32, and given the row that cpu_quantise_row makes of it. */
static void quantising_beforehand_changes_nothing(void **state)
{
    (void)state;
    packed_shape s = {PACKED_Q4_K, 40, 512, 0};
    ops_buf w = weights_make(s, 3), x = random_x(MAX_ROWS, s.cols, 8), q = weights_buf(MAX_ROWS * ops_row_bytes(OPS_Q8, s.cols)), y[2];
    ops_mat xf = weights_mat(&x, OPS_F32, s.cols), xq = weights_mat(&q, OPS_Q8, s.cols);
    for (int b = 0; b < 2; b++)
        y[b] = weights_buf(MAX_ROWS * ops_row_bytes(OPS_F32, s.rows));
    for (int r = 0; r < MAX_ROWS; r++)
        cpu_quantise_row(&contexts[0][1], cpu_row(&xf, r), s.cols, cpu_row(&xq, r));
    for (int i = 0; i < n_levels; i++) {
        for (int b = 0; b < 2; b++) {
            ops_linear_args a = {.rows = MAX_ROWS, .n = 1, .x = b == 0 ? xf : xq, .w = {{&w, 0, s}}, .y = {weights_mat(&y[b], OPS_F32, s.rows)}};
            assert_int_equal(cpu_linear(&contexts[i][3], &a), ST_OK);
        }
        assert_memory_equal(y[0].data, y[1].data, y[0].bytes);
    }
    free(w.data);
    free(x.data);
    free(q.data);
    free(y[0].data);
    free(y[1].data);
}

static void wrong_calls_are_refused(void **state)
{
    (void)state;
    packed_shape s = {PACKED_Q4_0, 16, 64, 0}, f = {PACKED_F32, 16, 64, 0};
    ops_buf w = weights_make(f, 3), x = weights_buf(4096), y = weights_buf(4096);
    ops_linear_args good = {.rows = 2, .n = 1, .x = weights_mat(&x, OPS_F32, 64), .w = {{&w, 0, s}}, .y = {weights_mat(&y, OPS_F32, 16)}}, a;
    assert_int_equal(cpu_linear(&contexts[0][1], &good), ST_OK);
    status_mute();
    a = good;
    a.x.cols = 63;
    assert_int_equal(cpu_linear(&contexts[0][1], &a), ST_INVALID);
    a = good;
    a.y[0].cols = 15;
    assert_int_equal(cpu_linear(&contexts[0][1], &a), ST_INVALID);
    a = good;
    a.w[0].shape.rows = 1 << 20;
    assert_int_equal(cpu_linear(&contexts[0][1], &a), ST_INVALID);
    a = good;
    a.rows = MAX_ROWS + 1;
    assert_int_equal(cpu_linear(&contexts[0][1], &a), ST_INVALID);
    a = good;
    a.w[0].shape = f;
    a.x.type = OPS_Q8;
    assert_int_equal(cpu_linear(&contexts[0][1], &a), ST_INVALID);
    a = good;
    a.n = OPS_MAX_FUSED + 1;
    assert_int_equal(cpu_linear(&contexts[0][1], &a), ST_INVALID);
    status_unmute();
    free(w.data);
    free(x.data);
    free(y.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantised_rows_follow_the_rule),     cmocka_unit_test(extreme_codes_do_not_overflow), cmocka_unit_test(every_type_and_level_agrees),
        cmocka_unit_test(pairs_are_added_in_one_order),
        cmocka_unit_test(fused_weights_are_the_same_as_apart), cmocka_unit_test(quantising_beforehand_changes_nothing),
        cmocka_unit_test(wrong_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
