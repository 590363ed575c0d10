/* tests/ops/test_ops_rows.c - norm, gate, sums of squares and embedding against double precision, in every output format; each row alone equals the row
 * in company, at every level and thread count. */
#include "tests/ops/fixture.h"

#include "base/half.h"
#include "ops/cpu/cpu_internal.h"

static const int32_t SIZES[] = {1, 15, 16, 17, 31, 64, 100, 576, 1536}; /* beside the lanes' edges */

/* Bytes of a row, padding to whole groups included. */
static size_t row_bytes(const ops_mat *m)
{
    size_t k = cpu_q8_padded(m->cols);
    return m->type == OPS_Q8 ? k + k / 32 * 28 : ops_row_bytes(m->type, m->cols);
}

static void expect_row(ops_ctx *ctx, const ops_mat *m, int32_t row, const void *want, const char *what)
{
    if (memcmp(mat_row(ctx, m, row), want, row_bytes(m)) != 0)
        fail_msg("%s: row %d differs", what, row);
}

/* An f32 row (padding and columns before and after left zero) in the format of y. */
static void as_format(const ops_ctx *ctx, ops_type type, const float *x, int32_t cols, void *out)
{
    memset(out, 0, ops_row_bytes(type, cols));
    if (type == OPS_F32)
        memcpy(out, x, (size_t)cols * sizeof(float));
    else if (type == OPS_Q8)
        cpu_quantise_row(ctx, x, cols, out);
    else
        for (int32_t i = 0; i < cols; i++)
            ((uint16_t *)out)[i] = half_f32_to_bf16(x[i]);
}

static void reference_norm(ops_norm_kind kind, double *x, int32_t n, double eps, const float *weight, const float *bias)
{
    double mean = 0, square = 0;
    for (int32_t i = 0; i < n && kind == OPS_NORM_LAYER; i++)
        mean += x[i] / n;
    for (int32_t i = 0; i < n; i++)
        square += (x[i] - mean) * (x[i] - mean) / n;
    for (int32_t i = 0; i < n && kind != OPS_NORM_NONE; i++)
        x[i] = (x[i] - mean) / sqrt(square + eps) * (weight != NULL ? weight[i] : 1) + (bias != NULL ? bias[i] : 0);
}

typedef struct norm_case {
    const char *name;
    int32_t parts;
    bool replace, select, part_bias;
    ops_norm_kind post, norm;
    bool bias;
    ops_type y[2];
    int32_t n_y;
} norm_case;

static const norm_case NORMS[] = {
    {"rms", 0, false, false, false, OPS_NORM_NONE, OPS_NORM_RMS, false, {OPS_F32}, 1},
    {"layer, two formats", 2, false, false, true, OPS_NORM_NONE, OPS_NORM_LAYER, true, {OPS_Q8, OPS_F32}, 2},
    {"post norms", 3, false, false, true, OPS_NORM_RMS, OPS_NORM_RMS, false, {OPS_BF16}, 1},
    {"replaced, layer post", 1, true, false, false, OPS_NORM_LAYER, OPS_NORM_NONE, false, {OPS_F32, OPS_Q8}, 2},
    {"selected", 4, false, true, false, OPS_NORM_NONE, OPS_NORM_RMS, false, {OPS_F32, OPS_BF16}, 2},
    {"only x", 2, false, false, false, OPS_NORM_NONE, OPS_NORM_NONE, false, {OPS_F32}, 0},
};

static void check_norm(const norm_case *n, int32_t cols, int32_t rows)
{
    static float first_x[MAX_ROWS][MAX_COLS], first_y[MAX_ROWS][MAX_COLS];
    static char bytes[MAX_COLS * 4 + 64];
    static const int32_t selected[] = {1, 4, 5};
    int32_t n_out = n->select ? 3 : 0;
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        ops_batch *batch = batch_make(ctx, 0, 0, NULL);
        batch_plain(ctx, batch, rows, 0, NULL, n_out, selected);
        ops_mat x = mat_make(ctx, OPS_F32, rows, cols), part[4], y[2];
        mat_fill(ctx, &x, rows, 4.0f, 1);
        const float *parts[4];
        for (int p = 0; p < 4; p++) {
            part[p] = mat_make(ctx, OPS_F32, rows, cols);
            mat_fill(ctx, &part[p], rows, 3.0f, 2 + (uint64_t)p);
            parts[p] = mat_row(ctx, &part[p], 0);
        }
        ops_norm_args a = {.x = x, .parts = {parts, n->parts, part[0].stride / sizeof(float)}, .replace = n->replace, .select = n->select,
                           .residual_scale = 0.7f, .post = n->post, .norm = n->norm, .eps = 1e-5f, .n_y = n->n_y,
                           .post_weight = vec_make(ctx, cols, 0.5f, 1.0f, 11), .weight = vec_make(ctx, cols, 0.5f, 1.0f, 12)};
        if (n->part_bias)
            a.part_bias = vec_make(ctx, cols, 1.0f, 0.0f, 13);
        if (n->bias)
            a.bias = vec_make(ctx, cols, 1.0f, 0.0f, 14);
        for (int k = 0; k < n->n_y; k++)
            a.y[k] = y[k] = mat_make(ctx, n->y[k], rows, cols);
        ops_mat before = mat_make(ctx, OPS_F32, rows, cols);
        memcpy(mat_row(ctx, &before, 0), mat_row(ctx, &x, 0), x.stride * (size_t)rows);
        OK(ops_cpu()->norm(ctx, batch, &a));
        for (int32_t i = 0; i < (n->select ? n_out : rows); i++) {
            int32_t row = n->select ? selected[i] : i;
            double s[MAX_COLS], v[MAX_COLS];
            for (int32_t k = 0; k < cols; k++) {
                s[k] = n->part_bias ? vec_data(ctx, &a.part_bias)[k] : 0;
                for (int p = 0; p < n->parts; p++)
                    s[k] += mat_row(ctx, &part[p], row)[k];
            }
            if (n->parts > 0)
                reference_norm(n->post, s, cols, 1e-5, vec_data(ctx, &a.post_weight), NULL);
            for (int32_t k = 0; k < cols; k++) {
                v[k] = (n->replace ? 0 : mat_row(ctx, &before, row)[k]) + (n->parts > 0 ? (double)0.7f * s[k] : 0);
                assert_near(n->name, mat_row(ctx, &x, row)[k], v[k], 2e-5);
            }
            reference_norm(n->norm, v, cols, 1e-5, vec_data(ctx, &a.weight), vec_data(ctx, &a.bias));
            float *yf = NULL;
            for (int k = 0; k < n->n_y; k++)
                if (n->y[k] == OPS_F32)
                    yf = mat_row(ctx, &y[k], i);
            for (int32_t k = 0; k < cols && yf != NULL; k++)
                assert_near(n->name, yf[k], v[k], cols < 20 ? 2e-4 : 4e-5); /* few values: a small deviation amplifies */
            for (int k = 0; k < n->n_y && yf != NULL; k++) {
                as_format(ctx, n->y[k], yf, cols, bytes);
                expect_row(ctx, &y[k], i, bytes, n->name);
            }
            if (c == 0) {
                memcpy(first_x[i], mat_row(ctx, &x, row), (size_t)cols * sizeof(float));
                if (n->n_y > 0)
                    memcpy(first_y[i], mat_row(ctx, &y[0], i), row_bytes(&y[0]));
            }
            assert_memory_equal(first_x[i], mat_row(ctx, &x, row), (size_t)cols * sizeof(float));
            if (n->n_y > 0)
                assert_memory_equal(first_y[i], mat_row(ctx, &y[0], i), row_bytes(&y[0]));
        }
        for (int32_t row = 0; row < rows && n->select; row++) /* rows not selected are left alone */
            if (row != 1 && row != 4 && row != 5)
                assert_memory_equal(mat_row(ctx, &before, row), mat_row(ctx, &x, row), (size_t)cols * sizeof(float));
        if (!n->select && rows > 1) { /* the last row alone */
            memcpy(mat_row(ctx, &x, 0), mat_row(ctx, &before, rows - 1), (size_t)cols * sizeof(float));
            for (int p = 0; p < 4; p++)
                parts[p] = mat_row(ctx, &part[p], rows - 1);
            batch_plain(ctx, batch, 1, 0, NULL, 0, NULL);
            OK(ops_cpu()->norm(ctx, batch, &a));
            assert_memory_equal(mat_row(ctx, &x, 0), first_x[rows - 1], (size_t)cols * sizeof(float));
            for (int k = 0; k < n->n_y; k++)
                expect_row(ctx, &y[k], 0, mat_row(ctx, &y[k], rows - 1), n->name);
        }
        for (int p = 0; p < 4; p++)
            parts[p] = mat_row(ctx, &part[p], 0);
        batch_plain(ctx, batch, rows, 0, NULL, n_out, selected);
        memcpy(mat_row(ctx, &x, 0), mat_row(ctx, &before, 0), x.stride * (size_t)rows);
        for (int k = 0; k < n->n_y; k++)
            memset(mat_row(ctx, &y[k], 0), 0, y[k].stride * (size_t)rows);
        for (int half = 1; half >= 0; half--) { /* in two calls, the later rows first: a row is as it would be, or as it was */
            int32_t cut = rows - 3; /* between the selected ones */
            a.row_begin = half == 1 ? cut : 0;
            a.row_end = half == 1 ? rows : cut;
            OK(ops_cpu()->norm(ctx, batch, &a));
            for (int32_t i = 0; i < (n->select ? n_out : rows); i++) {
                static const char zeros[MAX_COLS * 4 + 64];
                int32_t row = n->select ? selected[i] : i;
                bool done = half == 0 || row >= cut;
                assert_memory_equal(done ? first_x[i] : mat_row(ctx, &before, row), mat_row(ctx, &x, row), (size_t)cols * sizeof(float));
                if (n->n_y > 0)
                    assert_memory_equal(done ? (const char *)first_y[i] : zeros, mat_row(ctx, &y[0], i), row_bytes(&y[0]));
            }
        }
        a.row_end = rows + 1;
        status_mute();
        assert_int_equal(ops_cpu()->norm(ctx, batch, &a), ST_INVALID);
        status_unmute();
        ops_cpu()->batch_destroy(ctx, &batch);
        mat_free(ctx, &x);
        mat_free(ctx, &before);
        for (int p = 0; p < 4; p++)
            mat_free(ctx, &part[p]);
        for (int k = 0; k < n->n_y; k++)
            mat_free(ctx, &y[k]);
        vec_free(ctx, &a.post_weight);
        vec_free(ctx, &a.weight);
        vec_free(ctx, &a.bias);
        vec_free(ctx, &a.part_bias);
    }
}

static void norms(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(NORMS); i++)
        for (size_t s = 0; s < ARRAY_LEN(SIZES); s++)
            check_norm(&NORMS[i], SIZES[s], SIZES[s] > 500 ? 40 : 7);
}

static void gates_write_where_told(void **state)
{
    (void)state;
    static char want[MAX_COLS * 4 + 64];
    static float row[MAX_COLS], first[MAX_ROWS][MAX_COLS];
    static const ops_type types[] = {OPS_F32, OPS_BF16, OPS_Q8};
    for (int c = 0; c < n_contexts; c++)
        for (size_t s = 0; s < ARRAY_LEN(SIZES); s++)
            for (int k = 0; k < 6; k++) {
                ops_ctx *ctx = contexts[c].ctx;
                int32_t cols = SIZES[s], rows = cols > 500 ? 33 : 3, before = k >= 3 ? 5 : 0, after = k >= 3 ? 40 : 0;
                ops_mat gate = mat_make(ctx, OPS_F32, rows, cols), up = mat_make(ctx, OPS_F32, rows, cols), y = mat_make(ctx, types[k % 3], rows, cols + before + after);
                mat_fill(ctx, &gate, rows, 6.0f, 5);
                mat_fill(ctx, &up, rows, 2.0f, 6);
                ops_gate_args a = {rows, gate, up, OPS_SILU, y, before, NULL};
                OK(ops_cpu()->gate(ctx, &a));
                for (int32_t r = 0; r < rows; r++) {
                    memset(row, 0, sizeof(row));
                    for (int32_t i = 0; i < cols; i++) {
                        double g = mat_row(ctx, &gate, r)[i], u = mat_row(ctx, &up, r)[i];
                        row[before + i] = k % 3 == 0 ? mat_row(ctx, &y, r)[before + i] : first[r][i];
                        assert_near("gate", row[before + i], g / (1 + exp(-g)) * u, 4e-6);
                        if (k % 3 == 0) { /* the f32 result serves the other formats, and the other contexts */
                            if (c > 0 && k == 3)
                                assert_memory_equal(&first[r][i], &row[before + i], 4);
                            first[r][i] = row[before + i];
                        }
                    }
                    as_format(ctx, y.type, row, y.cols, want);
                    expect_row(ctx, &y, r, want, "gate");
                }
                mat_free(ctx, &gate);
                mat_free(ctx, &up);
                mat_free(ctx, &y);
            }
}

static void sums_of_squares(void **state)
{
    (void)state;
    float first[MAX_ROWS];
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        ops_mat x = mat_make(ctx, OPS_F32, 50, 900);
        mat_fill(ctx, &x, 50, 3.0f, 9);
        float out[50];
        ops_sumsq_args a = {50, x, 3, 873, out};
        OK(ops_cpu()->sumsq(ctx, &a));
        for (int r = 0; r < 50; r++) {
            double want = 0;
            for (int i = 3; i < 873; i++)
                want += (double)mat_row(ctx, &x, r)[i] * mat_row(ctx, &x, r)[i];
            assert_near("sumsq", out[r], want, want * 1e-6);
        }
        if (c == 0)
            memcpy(first, out, sizeof(out));
        assert_memory_equal(first, out, sizeof(out));
        mat_free(ctx, &x);
    }
}

static void embedding_looks_up_scales_and_places(void **state)
{
    (void)state;
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        enum { ROWS = 40, COLS = 33, POSITIONS = 70 };
        packed_shape shape = {PACKED_F32, ROWS, COLS, 0}, pos_shape = {PACKED_F32, POSITIONS, COLS, 0};
        packed_layout l, pl;
        assert_true(packed_layout_of(shape, &l) && packed_layout_of(pos_shape, &pl));
        ops_weight w = {.shape = shape}, pos = {.shape = pos_shape};
        OK(ops_cpu()->buf_create(ctx, l.bytes, "w", &w.buf));
        OK(ops_cpu()->buf_create(ctx, pl.bytes, "p", &pos.buf));
        uint64_t seed = 4;
        for (size_t i = 0; i < l.bytes / 4; i++)
            ((float *)ops_cpu()->buf_map(ctx, w.buf))[i] = uniform(&seed);
        for (size_t i = 0; i < pl.bytes / 4; i++)
            ((float *)ops_cpu()->buf_map(ctx, pos.buf))[i] = uniform(&seed);
        int32_t tokens[60];
        for (int i = 0; i < 60; i++)
            tokens[i] = 100 + i - 5; /* rows 100 .. 139 are ours */
        tokens[30] = -1;
        ops_batch *batch = batch_make(ctx, 0, 0, NULL);
        batch_plain(ctx, batch, 60, 7, tokens, 0, NULL);
        for (int with = 0; with < 2; with++) {
            ops_mat y = mat_make(ctx, OPS_F32, 60, COLS);
            ops_embed_args a = {.w = w, .row_begin = 100, .scale = 1.5f, .position_offset = 2, .y = y};
            if (with)
                a.positions = pos;
            OK(ops_cpu()->embed(ctx, batch, &a));
            for (int32_t r = 0; r < 60; r++) {
                float e[COLS] = {0}, p[COLS] = {0};
                int32_t token = tokens[r] - 100;
                if (token >= 0 && token < ROWS)
                    packed_dequantise(shape, ops_cpu()->buf_map(ctx, w.buf), token, 0, COLS, e);
                if (with)
                    packed_dequantise(pos_shape, ops_cpu()->buf_map(ctx, pos.buf), r + 9, 0, COLS, p);
                for (int i = 0; i < COLS; i++) {
                    float scaled = e[i] * 1.5f;
                    assert_true(mat_row(ctx, &y, r)[i] == scaled + p[i]);
                }
                for (size_t i = COLS; i < y.stride / 4; i++)
                    assert_true(mat_row(ctx, &y, r)[i] == 0.0f);
            }
            mat_free(ctx, &y);
        }
        ops_cpu()->batch_destroy(ctx, &batch);
        ops_cpu()->buf_destroy(ctx, &w.buf);
        ops_cpu()->buf_destroy(ctx, &pos.buf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms),
        cmocka_unit_test(gates_write_where_told),
        cmocka_unit_test(sums_of_squares),
        cmocka_unit_test(embedding_looks_up_scales_and_places),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
