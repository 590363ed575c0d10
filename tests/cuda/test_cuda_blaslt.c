/* tests/cuda/test_cuda_blaslt.c - products by cuBLASLt behind the backend's table: they agree with packed_dequantise in double, a row has the same bits in every batch, in a
 * recorded step too; embeddings are looked up in turned weights; what is declared ready is used whole; a library that would not keep its order is found out.
 *
 * Runs on a device as well, where it says what cuBLASLt took; what the stand-in alone can do (CUBLASLT_EMU, CUEMU_FAIL) is left out there.  With an argument it is one such
 * run, that of the test with failing calls: exit code 0, results are right; 3, it ended with an error that names the call. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/device.h"

#define OK(expr) assert_int_equal(expr, ST_OK)
#define MAX_ROWS 200

static const ops_backend *be;
static bool emulated;
static const char *program;

static void refused(status st, const char *why)
{
    assert_true(st != ST_OK);
    if (strstr(status_message(), why) == NULL)
        print_error("\"%s\" does not say \"%s\"\n", status_message(), why);
    assert_non_null(strstr(status_message(), why));
}

static status ctx_try(const char *gemm, const char *library, ops_ctx **out)
{
    setenv("CUBLASLT_EMU", library, 1);
    ops_ctx_options o = {.max_rows = MAX_ROWS, .max_cols = 16384, .gemm = gemm};
    return be->ctx_create(&o, out);
}

static ops_ctx *ctx_of(const char *gemm, const char *library)
{
    ops_ctx *ctx;
    OK(ctx_try(gemm, library, &ctx));
    return ctx;
}

static float uniform(uint64_t *seed) /* [-1, 1) */
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(*seed >> 32) * 0x1p-31f;
}

static float rounded(float v)
{
    return half_bf16_to_f32(half_f32_to_bf16(v));
}

/* ---- a weight, as packed.h has it and as numbers ---- */

typedef struct weight {
    ops_weight w;
    ops_vec bias;
    float *values; /* [rows][cols] */
    float *biases; /* [rows] */
} weight;

static float f8_scale(int32_t row)
{
    return 0.011f * (float)(1 + row % 5);
}

static weight weight_make(ops_ctx *ctx, packed_type type, int32_t rows, int32_t cols, uint64_t seed)
{
    packed_shape shape = {type, rows, cols, 0};
    packed_layout l;
    assert_true(packed_layout_of(shape, &l));
    weight w = {.values = malloc((size_t)rows * (size_t)cols * 4), .biases = malloc((size_t)rows * 4)};
    char *packed = calloc(1, l.bytes);
    for (int32_t r = 0; r < rows; r++) {
        w.biases[r] = uniform(&seed);
        for (int32_t k = 0; k < cols; k++) {
            float *v = &w.values[(size_t)r * (size_t)cols + (size_t)k];
            *v = rounded(uniform(&seed));
            uint16_t half = half_f32_to_bf16(*v);
            uint8_t code = half_f32_to_e4m3(*v * (k % 9 == 0 ? 200.0f : 3.0f));
            packed_set_floats(&l, packed, r, k, 1, type == PACKED_F32 ? (const void *)v : type == PACKED_F8 ? (const void *)&code : (const void *)&half);
            if (type == PACKED_F8)
                *v = half_e4m3_to_f32(code) * f8_scale(r);
        }
        for (int32_t i = 0; type == PACKED_F8 && i < l.supers; i++)
            packed_set_super_f32(&l, packed, r, i, f8_scale(r));
    }
    size_t at = mem_align((size_t)rows * 4, 64); /* not at the start of its buffer */
    OK(be->buf_create(ctx, at + l.bytes, "test", &w.w.buf));
    OK(be->buf_write(ctx, w.w.buf, 0, w.biases, (size_t)rows * 4));
    OK(be->buf_write(ctx, w.w.buf, at, packed, l.bytes));
    w.w.offset = at;
    w.w.shape = shape;
    w.bias = (ops_vec){w.w.buf, 0, rows};
    free(packed);
    return w;
}

static weight weight_ready(ops_ctx *ctx, int32_t rows, int32_t cols, uint64_t seed)
{
    weight w = weight_make(ctx, PACKED_BF16, rows, cols, seed);
    OK(be->weight_ready(ctx, &w.w));
    return w;
}

static weight f8_ready(ops_ctx *ctx, int32_t rows, int32_t cols, uint64_t seed)
{
    weight w = weight_make(ctx, PACKED_F8, rows, cols, seed);
    OK(be->weight_ready(ctx, &w.w));
    return w;
}

static void weight_free(ops_ctx *ctx, weight *w)
{
    be->buf_destroy(ctx, &w->w.buf);
    free(w->values);
    free(w->biases);
}

/* ---- rows ---- */

typedef struct rows {
    int32_t n, cols;
    float *values; /* [n][cols], bf16's numbers */
    ops_mat f32, bf16;
} rows;

/* What lies behind a row's last column is NaN; the last row ends with its buffer. */
static rows rows_make(ops_ctx *ctx, int32_t n, int32_t cols, uint64_t seed)
{
    size_t wide = ops_row_bytes(OPS_F32, cols), narrow = ops_row_bytes(OPS_BF16, cols);
    rows x = {n, cols, malloc((size_t)n * (size_t)cols * 4), {NULL, 0, OPS_F32, cols, wide}, {NULL, 0, OPS_BF16, cols, narrow}};
    char *f32 = malloc((size_t)n * wide), *bf16 = malloc((size_t)n * narrow);
    memset(f32, 0xff, (size_t)n * wide);
    memset(bf16, 0xff, (size_t)n * narrow);
    for (int32_t r = 0; r < n; r++) {
        float size = r % 37 == 5 ? 0 : r % 37 == 6 ? 1e-38f : (float)(1 + r % 5); /* rows of nothing, and next to it */
        for (int32_t k = 0; k < cols; k++) {
            float v = rounded(uniform(&seed) * size);
            x.values[(size_t)r * (size_t)cols + (size_t)k] = v;
            ((float *)(void *)(f32 + (size_t)r * wide))[k] = v;
            ((uint16_t *)(void *)(bf16 + (size_t)r * narrow))[k] = half_f32_to_bf16(v);
        }
    }
    OK(be->buf_create(ctx, (size_t)n * wide, "test", &x.f32.buf));
    OK(be->buf_create(ctx, (size_t)n * narrow, "test", &x.bf16.buf));
    OK(be->buf_write(ctx, x.f32.buf, 0, f32, (size_t)n * wide));
    OK(be->buf_write(ctx, x.bf16.buf, 0, bf16, (size_t)n * narrow));
    free(f32);
    free(bf16);
    return x;
}

static void rows_free(ops_ctx *ctx, rows *x)
{
    be->buf_destroy(ctx, &x->f32.buf);
    be->buf_destroy(ctx, &x->bf16.buf);
    free(x->values);
}

static ops_mat mat_make(ops_ctx *ctx, int32_t n, int32_t cols)
{
    ops_mat m = {NULL, 0, OPS_F32, cols, ops_row_bytes(OPS_F32, cols)};
    OK(be->buf_create(ctx, (size_t)n * m.stride, "test", &m.buf));
    return m;
}

static ops_mat mat_from(ops_mat m, int32_t row)
{
    m.offset += (size_t)row * m.stride;
    return m;
}

/* Every number of the buffer becomes this one. */
static void mat_fill(ops_ctx *ctx, const ops_mat *m, int32_t n, float v)
{
    size_t count = (size_t)n * m->stride / 4;
    float *all = malloc(count * 4);
    for (size_t i = 0; i < count; i++)
        all[i] = v;
    OK(be->buf_write(ctx, m->buf, m->offset, all, count * 4));
    free(all);
}

/* [n][cols] without padding; *past: the padding and the rows after are still this number. */
static float *mat_read(ops_ctx *ctx, const ops_mat *m, int32_t n, int32_t all, float past)
{
    size_t stride = m->stride / 4;
    float *padded = malloc((size_t)all * m->stride), *out = malloc((size_t)n * (size_t)m->cols * 4 + 1);
    OK(be->buf_read(ctx, m->buf, m->offset, padded, (size_t)all * m->stride));
    for (size_t r = 0; r < (size_t)all; r++)
        for (size_t c = 0; c < stride; c++) {
            if (r < (size_t)n && c < (size_t)m->cols)
                out[r * (size_t)m->cols + c] = padded[r * stride + c];
            else if (padded[r * stride + c] != past)
                fail_msg("[%zu, %zu] behind [%d, %d] was written: %g", r, c, n, m->cols, padded[r * stride + c]);
        }
    free(padded);
    return out;
}

static void same_bits(const float *got, const float *want, int32_t n, int32_t cols, const char *what)
{
    for (int32_t r = 0; r < n; r++)
        for (int32_t c = 0; c < cols; c++) {
            size_t i = (size_t)r * (size_t)cols + (size_t)c;
            if (memcmp(&got[i], &want[i], 4) != 0)
                fail_msg("%s: [%d, %d] is %.9g, want %.9g", what, r, c, got[i], want[i]);
        }
}

/* Each rounded operation errs by at most 2^-24 of the sum of magnitudes so far, in whatever order; tensor cores may cut what they add, hence twice that. */
static bool near(const weight *w, const rows *x, int32_t row, int32_t n, const float *y)
{
    int32_t cols = w->w.shape.cols, outs = w->w.shape.rows;
    for (int32_t r = 0; r < n; r++)
        for (int32_t o = 0; o < outs; o++) {
            double sum = 0, magnitude = 0;
            for (int32_t k = 0; k < cols; k++) {
                double v = (double)w->values[(size_t)o * (size_t)cols + (size_t)k] * x->values[(size_t)(row + r) * (size_t)cols + (size_t)k];
                sum += v;
                magnitude += fabs(v);
            }
            double got = y[(size_t)r * (size_t)outs + (size_t)o], most = magnitude * (cols + 8) * 0x1p-23 + 1e-30;
            if (!(fabs(got - sum) <= most)) {
                print_error("[%d, %d] row %d output %d: got %.9g, want %.9g (within %.3g)\n", outs, cols, row + r, o, got, sum, most);
                return false;
            }
        }
    return true;
}

/* Rows as an fp8 product takes them: codes of a row over its largest element's 448th. */
static void f8_round(rows *x)
{
    for (int32_t r = 0; r < x->n; r++) {
        float *v = x->values + (size_t)r * (size_t)x->cols, largest = 0;
        for (int32_t k = 0; k < x->cols; k++)
            largest = fmaxf(largest, fabsf(v[k]));
        float scale = fmaxf(largest / 448.0f, 0x1p-126f), up = 1.0f / scale;
        for (int32_t k = 0; k < x->cols; k++)
            v[k] = half_e4m3_to_f32(half_f32_to_e4m3(v[k] * up)) * scale;
    }
}

/* Rows [row, row + n) of x by w, into y that held `before`. */
static float *product(ops_ctx *ctx, const weight *w, const ops_mat *x, int32_t row, int32_t n, bool bias, bool accumulate, float before)
{
    ops_mat y = mat_make(ctx, n + 1, w->w.shape.rows);
    mat_fill(ctx, &y, n + 1, before);
    ops_linear_args a = {.rows = n, .x = mat_from(*x, row), .n = 1, .w = {w->w}, .y = {y}, .accumulate = accumulate};
    if (bias)
        a.bias[0] = w->bias;
    OK(be->linear(ctx, &a));
    float *out = mat_read(ctx, &y, n, n + 1, before);
    be->buf_destroy(ctx, &y.buf);
    return out;
}

/* "... cuBLASLt 13.1.0 for 2 of 3 shapes"; the numerics id has the version as a number. */
static void taken(const ops_ctx *ctx, int *n, int *of)
{
    int version, major, minor, patch;
    const char *number = strstr(be->numerics(ctx), " cuBLASLt "), *dotted = strstr(be->ctx_describe(ctx), "cuBLASLt ");
    if (number != NULL && sscanf(number, " cuBLASLt %d", &version) == 1 && dotted != NULL && sscanf(dotted, "cuBLASLt %d.%d.%d", &major, &minor, &patch) == 3)
        assert_int_equal(version, major * 10000 + minor * 100 + patch);
    else
        assert_null(number);
    const char *at = strstr(be->ctx_describe(ctx), " for ");
    assert_non_null(at);
    assert_int_equal(sscanf(at, " for %d of %d shapes", n, of), 2);
}

static void all_taken(const ops_ctx *ctx)
{
    int n, of;
    taken(ctx, &n, &of);
    if (emulated)
        assert_int_equal(n, of);
    else
        print_message("%s\n", be->ctx_describe(ctx));
}

/* ---- tests ---- */

static const struct {
    int32_t outs, cols;
} shapes[] = {{16, 8}, {1, 64}, {17, 72}, {100, 520}, {257, 264}, {33, 2056}, {4096, 4096}, {14336, 4096}, {4096, 14336}};
enum { SMALL = 6 }; /* so many of them; the others are those of a model of 8 billion, for devices */

/* Of so many of the last rows of x, given as f32 and in the other format by turns. */
static void products_are_near(ops_ctx *ctx, const weight *w, const rows *x, const ops_mat *other)
{
    static const int32_t counts[] = {1, 31, 32, 33, 70, MAX_ROWS};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        int32_t row = MAX_ROWS - counts[i];
        float *y = product(ctx, w, i % 2 == 0 ? other : &x->f32, row, counts[i], false, false, 0.25f);
        assert_true(near(w, x, row, counts[i], y));
        free(y);
    }
}

static void products_agree_with_plain_c(void **state)
{
    (void)state;
    ops_ctx *ctx = ctx_of("cublaslt", "");
    for (size_t s = 0; s < SMALL; s++) {
        weight w = weight_ready(ctx, shapes[s].outs, shapes[s].cols, s);
        rows x = rows_make(ctx, MAX_ROWS, shapes[s].cols, 7 + s);
        products_are_near(ctx, &w, &x, &x.bf16);
        rows_free(ctx, &x);
        weight_free(ctx, &w);
    }
    all_taken(ctx);
    be->ctx_destroy(&ctx);
}

/* Alone, in company, at another place of it, with the bias and with what is added to: y + (product + bias), rounded like that. */
static void a_row_has_the_same_bits_in_every_batch(void **state)
{
    (void)state;
    ops_ctx *ctx = ctx_of("cublaslt", "");
    for (size_t s = 0; s < (emulated ? SMALL : ARRAY_LEN(shapes)); s++) {
        int32_t outs = shapes[s].outs;
        weight w = weight_ready(ctx, outs, shapes[s].cols, 40 + s);
        rows x = rows_make(ctx, MAX_ROWS, shapes[s].cols, 50 + s);
        float *all = product(ctx, &w, &x.bf16, 0, MAX_ROWS, false, false, 0.0f);
        for (int variant = 0; variant < 4; variant++) {
            bool bias = variant % 2 == 1, accumulate = variant / 2 == 1;
            const float before = 0.37f;
            float *want = malloc((size_t)MAX_ROWS * (size_t)outs * 4);
            for (size_t i = 0; i < (size_t)MAX_ROWS * (size_t)outs; i++) {
                volatile float v = all[i]; /* each operation rounded */
                if (bias)
                    v = v + w.biases[i % (size_t)outs];
                if (accumulate)
                    v = before + v;
                want[i] = v;
            }
            static const struct {
                int32_t row, n;
            } parts[] = {{0, 1}, {5, 1}, {MAX_ROWS - 1, 1}, {3, 2}, {31, 2}, {0, 32}, {17, 33}, {1, 64}, {64, 100}, {0, MAX_ROWS}};
            for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
                float *y = product(ctx, &w, i % 2 == 0 ? &x.f32 : &x.bf16, parts[i].row, parts[i].n, bias, accumulate, before);
                same_bits(y, want + (size_t)parts[i].row * (size_t)outs, parts[i].n, outs, bias ? accumulate ? "bias, added" : "bias" : accumulate ? "added" : "plain");
                free(y);
            }
            free(want);
        }
        free(all);
        rows_free(ctx, &x);
        weight_free(ctx, &w);
    }
    all_taken(ctx);
    be->ctx_destroy(&ctx);
}

/* ---- fp8 ---- */

static const struct {
    int32_t outs, cols;
} f8_shapes[] = {{1, 16}, {16, 64}, {17, 80}, {100, 528}, {257, 272}, {33, 2064}};

static void products_of_fp8_are_those_of_its_codes(void **state)
{
    (void)state;
    ops_ctx *ctx = ctx_of("cublaslt", "");
    for (size_t s = 0; s < ARRAY_LEN(f8_shapes); s++) {
        weight w = f8_ready(ctx, f8_shapes[s].outs, f8_shapes[s].cols, s);
        rows x = rows_make(ctx, MAX_ROWS, f8_shapes[s].cols, 7 + s);
        f8_round(&x);
        products_are_near(ctx, &w, &x, &x.f32);
        rows_free(ctx, &x);
        weight_free(ctx, &w);
    }
    all_taken(ctx);
    be->ctx_destroy(&ctx);
}

/* In company, with others that share x and others that do not go this way, with bias and sum. */
static void rows_of_fp8_have_the_same_bits_in_every_batch(void **state)
{
    (void)state;
    enum { OUTS = 100, COLS = 528 };
    ops_ctx *ctx = ctx_of("cublaslt", "");
    weight w = f8_ready(ctx, OUTS, COLS, 3), more = f8_ready(ctx, 17, COLS, 4), wide = weight_make(ctx, PACKED_F32, 19, COLS, 5);
    rows x = rows_make(ctx, MAX_ROWS, COLS, 9);
    float *all = product(ctx, &w, &x.f32, 0, MAX_ROWS, true, true, 0.37f), *others = product(ctx, &more, &x.f32, 0, MAX_ROWS, false, true, 0.37f);
    static const struct {
        int32_t row, n;
    } parts[] = {{0, 1}, {5, 1}, {MAX_ROWS - 1, 1}, {31, 2}, {0, 32}, {17, 33}, {64, 100}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        int32_t n = parts[i].n;
        ops_mat y[3] = {mat_make(ctx, n, OUTS), mat_make(ctx, n, 17), mat_make(ctx, n, 19)};
        for (int k = 0; k < 3; k++)
            mat_fill(ctx, &y[k], n, 0.37f);
        OK(be->linear(ctx, &(ops_linear_args){.rows = n, .x = mat_from(x.f32, parts[i].row), .n = 3, .w = {w.w, more.w, wide.w}, .bias = {w.bias}, .y = {y[0], y[1], y[2]}, .accumulate = true}));
        float *got = mat_read(ctx, &y[0], n, n, 0.37f), *second = mat_read(ctx, &y[1], n, n, 0.37f);
        same_bits(got, all + (size_t)parts[i].row * OUTS, n, OUTS, "fp8 with bias, added");
        same_bits(second, others + (size_t)parts[i].row * 17, n, 17, "fp8, added");
        free(got);
        free(second);
        for (int k = 0; k < 3; k++)
            be->buf_destroy(ctx, &y[k].buf);
    }
    free(all);
    free(others);
    rows_free(ctx, &x);
    weight_free(ctx, &w);
    weight_free(ctx, &more);
    weight_free(ctx, &wide);
    be->ctx_destroy(&ctx);
}

/* The own kernels multiply by what has scales along k, whatever is asked, and by all where the library's values are not near; both leave x as it is. */
static void fp8_that_does_not_go_this_way(void **state)
{
    (void)state;
    enum { OUTS = 50, COLS = 272, ROWS = 40 };
    for (int kind = 0; kind < 3; kind++) {
        if (kind == 2 && !emulated)
            continue;
        ops_ctx *ctx = ctx_of("cublaslt", kind == 2 ? "values" : "");
        weight w = weight_make(ctx, PACKED_F8, OUTS, kind == 1 ? 264 : COLS, 3);
        packed_layout l;
        packed_layout_of(w.w.shape, &l);
        if (kind == 0) { /* the last super-group of the last row */
            float other = 0.5f;
            size_t at = w.w.offset + (size_t)(l.panels - 1) * l.panel_bytes + l.super_offset + ((size_t)(l.supers - 1) * PACKED_ROWS + (OUTS - 1) % PACKED_ROWS) * 4;
            OK(be->buf_write(ctx, w.w.buf, at, &other, 4));
            for (int32_t k = 256; k < COLS; k++)
                w.values[(size_t)(OUTS - 1) * COLS + (size_t)k] *= other / f8_scale(OUTS - 1);
        }
        OK(be->weight_ready(ctx, &w.w));
        if (kind == 2) {
            int n, of;
            taken(ctx, &n, &of);
            assert_int_equal(n, 0);
        } else {
            assert_null(strstr(be->ctx_describe(ctx), "of 1 shapes"));
        }
        rows x = rows_make(ctx, ROWS, kind == 1 ? 264 : COLS, 5);
        float *y = product(ctx, &w, &x.f32, 0, ROWS, false, false, 0);
        assert_true(near(&w, &x, 0, ROWS, y));
        free(y);
        rows_free(ctx, &x);
        weight_free(ctx, &w);
        be->ctx_destroy(&ctx);
    }
}

/* A row of zeros, and what is not wanted of a step that has fewer rows than its bucket. */
static void rows_of_zeros_stay_zeros(void **state)
{
    (void)state;
    enum { OUTS = 33, COLS = 80 };
    ops_ctx *ctx = ctx_of("cublaslt", "");
    weight w = f8_ready(ctx, OUTS, COLS, 3);
    ops_mat x = mat_make(ctx, 3, COLS);
    mat_fill(ctx, &x, 3, 0);
    float *y = product(ctx, &w, &x, 0, 3, false, false, 7);
    for (int i = 0; i < 3 * OUTS; i++)
        assert_true(y[i] == 0);
    free(y);
    be->buf_destroy(ctx, &x.buf);
    weight_free(ctx, &w);
    be->ctx_destroy(&ctx);
}

/* With weights that the own kernels multiply by: K is no multiple of 8; another format; and in `auto` those that are small. */
static void weights_of_one_call_go_their_ways(void **state)
{
    (void)state;
    enum { ROWS = 37, COLS = 2048, OUTS = 2048 }; /* just large enough for auto */
    ops_ctx *ctx = ctx_of("cublaslt", ""), *mixed;
    OK(be->ctx_create(&(ops_ctx_options){.max_rows = ROWS, .max_cols = COLS}, &mixed)); /* the check goes over few rows */
    weight odd = weight_ready(ctx, 40, 60, 1);
    rows few = rows_make(ctx, ROWS, 60, 2);
    float *y = product(ctx, &odd, &few.bf16, 0, ROWS, true, false, 0);
    for (size_t i = 0; i < (size_t)ROWS * 40; i++)
        y[i] -= odd.biases[i % 40];
    assert_true(near(&odd, &few, 0, ROWS, y));
    assert_null(strstr(be->ctx_describe(ctx), "of 1 shapes"));
    free(y);
    rows_free(ctx, &few);
    weight_free(ctx, &odd);
    be->ctx_destroy(&ctx);

    weight large = weight_ready(mixed, OUTS, COLS, 3), small = weight_ready(mixed, 24, COLS, 4), wide = weight_make(mixed, PACKED_F32, 19, COLS, 5);
    OK(be->weight_ready(mixed, &wide.w));
    int n, of;
    taken(mixed, &n, &of);
    assert_int_equal(of, 1);
    rows x = rows_make(mixed, ROWS, COLS, 6);
    const weight *const all[] = {&small, &large, &wide};
    ops_linear_args a = {.rows = ROWS, .x = x.f32, .n = 3};
    for (int i = 0; i < 3; i++) {
        a.w[i] = all[i]->w;
        a.y[i] = mat_make(mixed, ROWS + 1, all[i]->w.shape.rows);
        mat_fill(mixed, &a.y[i], ROWS + 1, 0.5f);
    }
    OK(be->linear(mixed, &a));
    for (int i = 0; i < 3; i++) {
        float *got = mat_read(mixed, &a.y[i], ROWS, ROWS + 1, 0.5f);
        assert_true(near(all[i], &x, 0, ROWS, got));
        free(got);
        be->buf_destroy(mixed, &a.y[i].buf);
    }
    rows_free(mixed, &x);
    weight_free(mixed, &large);
    weight_free(mixed, &small);
    weight_free(mixed, &wide);
    be->ctx_destroy(&mixed);
}

static ops_batch *batch_make(ops_ctx *ctx)
{
    ops_batch *b;
    ops_batch_limits l = {.max_rows = 64, .max_spans = 64, .max_out = 64, .max_blocks = 64, .n_kv_groups = 1};
    OK(be->batch_create(ctx, &l, &b));
    return b;
}

/* n sequences of one row each. */
static void batch_rows(ops_ctx *ctx, ops_batch *b, int32_t n, const int32_t *tokens)
{
    int32_t table[64] = {0}, out[64];
    ops_span spans[64];
    memset(spans, 0, sizeof(spans));
    for (int32_t i = 0; i < n; i++) {
        out[i] = i;
        spans[i] = (ops_span){.row = i, .n_rows = 1, .table = {i}};
    }
    ops_batch_desc d = {.n_rows = n, .tokens = tokens, .n_spans = n, .spans = spans, .tables = {table}, .n_table = {n}, .n_out = n, .out_rows = out};
    OK(be->batch_set(ctx, b, &d));
}

static void embeddings_are_found_in_turned_weights(void **state)
{
    (void)state;
    enum { VOCAB = 100, COLS = 72, ROWS = 7 };
    ops_ctx *ctx = ctx_of("cublaslt", "");
    weight w = weight_ready(ctx, VOCAB, COLS, 60), positions = weight_ready(ctx, 5, COLS, 61), eight = f8_ready(ctx, VOCAB, 80, 62);
    ops_batch *b = batch_make(ctx);
    const int32_t tokens[ROWS] = {10, 11, 109, 9, 110, -1, 63};
    batch_rows(ctx, b, ROWS, tokens);
    ops_mat y = mat_make(ctx, ROWS, COLS);
    ops_embed_args a = {.w = w.w, .row_begin = 10, .scale = 1.5f, .positions = positions.w, .position_offset = 3, .y = y};
    OK(be->embed(ctx, b, &a));
    float *got = mat_read(ctx, &y, ROWS, ROWS, 0);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) {
            bool inside = tokens[r] >= 10 && tokens[r] < 10 + VOCAB;
            float v = (inside ? 1.5f * w.values[(tokens[r] - 10) * COLS + c] : 0.0f) + positions.values[3 * COLS + c];
            assert_true(got[r * COLS + c] == v);
        }
    free(got);
    be->buf_destroy(ctx, &y.buf);
    y = mat_make(ctx, ROWS, 80);
    OK(be->embed(ctx, b, &(ops_embed_args){.w = eight.w, .row_begin = 10, .scale = 1, .y = y}));
    got = mat_read(ctx, &y, ROWS, ROWS, 0);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < 80; c++)
            assert_true(got[r * 80 + c] == (tokens[r] >= 10 && tokens[r] < 10 + VOCAB ? eight.values[(tokens[r] - 10) * 80 + c] : 0.0f));
    free(got);
    be->buf_destroy(ctx, &y.buf);
    weight_free(ctx, &eight);
    be->batch_destroy(ctx, &b);
    weight_free(ctx, &w);
    weight_free(ctx, &positions);
    be->ctx_destroy(&ctx);
}

/* Steps of 5, 6 and 8 rows share a recording. */
static void recorded_steps_give_the_same_bits(void **state)
{
    (void)state;
    enum { COLS = 264, OUTS = 257, HEAD = 16 };
    ops_ctx *ctx = ctx_of("cublaslt", "");
    weight w = weight_ready(ctx, OUTS, COLS, 70);
    rows x = rows_make(ctx, MAX_ROWS, COLS, 71), now = rows_make(ctx, 8, COLS, 72);
    ops_batch *b = batch_make(ctx);
    ops_kv *kv;
    OK(be->kv_create(ctx, &(ops_kv_spec){OPS_KV_F16, 1, 1, HEAD, 2}, &kv));
    ops_mat y = mat_make(ctx, 8, OUTS), z = mat_make(ctx, 8, OUTS), q = mat_make(ctx, 8, HEAD), att = mat_make(ctx, 8, HEAD);
    float *want = product(ctx, &w, &x.f32, 0, MAX_ROWS, true, false, 0);
    const int32_t tokens[8] = {0}, steps[] = {5, 5, 5, 8, 6, 7, 5};
    int played_so_far = 0;
    for (size_t s = 0; s < ARRAY_LEN(steps); s++) {
        bool played;
        int32_t n = steps[s], row = (int32_t)s * 8;
        char *part = malloc(8 * x.f32.stride);
        OK(be->buf_read(ctx, x.f32.buf, (size_t)row * x.f32.stride, part, 8 * x.f32.stride));
        OK(be->buf_write(ctx, now.f32.buf, 0, part, (size_t)n * x.f32.stride));
        free(part);
        mat_fill(ctx, &y, 8, -3.0f);
        mat_fill(ctx, &z, 8, 2.0f);
        batch_rows(ctx, b, n, tokens);
        be->step_begin(ctx, false);
        OK(be->graph_begin(ctx, b, &played));
        if (!played) {
            ops_linear_args a = {.rows = n, .x = now.f32, .n = 1, .w = {w.w}, .bias = {w.bias}, .y = {y}};
            ops_attention_args at = {.q = q, .n_heads = 1, .head_dim = HEAD, .heads_per_kv = 1, .scale = 1, .kv = kv, .y = att};
            OK(be->linear(ctx, &a));
            a.y[0] = z;
            a.accumulate = true;
            OK(be->linear(ctx, &a));
            OK(be->attention(ctx, b, &at));
            OK(be->graph_end(ctx));
        }
        be->step_end(ctx);
        played_so_far += played;
        float *got = mat_read(ctx, &y, n, 8, -3.0f), *sum = mat_read(ctx, &z, n, 8, 2.0f);
        same_bits(got, want + (size_t)row * OUTS, n, OUTS, played ? "played" : "not played");
        for (size_t i = 0; i < (size_t)n * OUTS; i++)
            got[i] = 2.0f + got[i];
        same_bits(sum, got, n, OUTS, played ? "added, played" : "added, not played");
        free(got);
        free(sum);
    }
    assert_true(played_so_far >= 3);
    free(want);
    be->buf_destroy(ctx, &y.buf);
    be->buf_destroy(ctx, &z.buf);
    be->buf_destroy(ctx, &q.buf);
    be->buf_destroy(ctx, &att.buf);
    be->kv_destroy(ctx, &kv);
    be->batch_destroy(ctx, &b);
    rows_free(ctx, &x);
    rows_free(ctx, &now);
    weight_free(ctx, &w);
    be->ctx_destroy(&ctx);
}

/* In memory of the host that the device sees, as an exchange slot may be. */
static void results_go_to_wrapped_memory(void **state)
{
    (void)state;
    enum { ROWS = 70, OUTS = 100, COLS = 72 };
    ops_ctx *ctx = ctx_of("cublaslt", "");
    weight w = weight_ready(ctx, OUTS, COLS, 80);
    rows x = rows_make(ctx, ROWS, COLS, 81);
    size_t stride = ops_row_bytes(OPS_F32, OUTS);
    void *memory;
    assert_int_equal(posix_memalign(&memory, 4096, mem_align(ROWS * stride, 4096)), 0);
    memset(memory, 0, ROWS * stride);
    ops_mat y = {NULL, 0, OPS_F32, OUTS, stride};
    OK(be->buf_wrap(ctx, memory, ROWS * stride, &y.buf));
    OK(be->linear(ctx, &(ops_linear_args){.rows = ROWS, .x = x.bf16, .n = 1, .w = {w.w}, .y = {y}}));
    OK(be->sync(ctx));
    float *got = mat_read(ctx, &y, ROWS, ROWS, 0), *want = product(ctx, &w, &x.bf16, 0, ROWS, false, false, 0);
    same_bits(got, want, ROWS, OUTS, "in wrapped memory");
    free(got);
    free(want);
    be->buf_destroy(ctx, &y.buf);
    free(memory);
    rows_free(ctx, &x);
    weight_free(ctx, &w);
    be->ctx_destroy(&ctx);
}

static void a_ready_weight_is_used_whole(void **state)
{
    (void)state;
    ops_ctx *ctx = ctx_of("cublaslt", "");
    weight w = weight_ready(ctx, 64, 64, 90);
    int n, of;
    taken(ctx, &n, &of);
    char bytes[128] = {0};
    rows x = rows_make(ctx, 3, 64, 91);
    ops_mat y = mat_make(ctx, 3, 64);
    ops_weight part = w.w, far = w.w;
    if (n == 1) {
        refused(be->weight_ready(ctx, &w.w), "declared ready twice");
        refused(be->buf_read(ctx, w.w.buf, w.w.offset + 64, bytes, 1), "declared ready");
        refused(be->buf_write(ctx, w.w.buf, w.w.offset - 1, bytes, 2), "declared ready");
        part.shape.rows = 16;
        refused(be->linear(ctx, &(ops_linear_args){.rows = 3, .x = x.bf16, .n = 1, .w = {part}, .y = {y}}), "a part of one");
        part = w.w;
        part.offset += 2048;
        part.shape.rows = 48;
        refused(be->linear(ctx, &(ops_linear_args){.rows = 3, .x = x.bf16, .n = 1, .w = {part}, .y = {y}}), "a part of one");
    }
    OK(be->buf_write(ctx, w.w.buf, 0, bytes, sizeof(bytes))); /* the biases before it */
    far.offset += 64;
    refused(be->weight_ready(ctx, &far), "exceeds its buffer");
    OK(be->weight_ready(ctx, &(ops_weight){0}));
    be->buf_destroy(ctx, &y.buf);
    rows_free(ctx, &x);
    weight_free(ctx, &w);
    be->ctx_destroy(&ctx);
    refused(ctx_try("mkl", "", &ctx), "auto, own or cublaslt");
}

/* The numerics id tells cuBLASLt from the own kernels and shapes from other shapes, in whatever order they come. */
static void the_numerics_id_tells_who_multiplies(void **state)
{
    (void)state;
    char own[128], one[128], two[128];
    ops_ctx *ctx = ctx_of("own", "");
    weight a = weight_ready(ctx, 64, 64, 1), b;
    snprintf(own, sizeof(own), "%s", be->numerics(ctx));
    assert_null(strstr(be->ctx_describe(ctx), "cuBLASLt"));
    OK(be->weight_ready(ctx, &a.w)); /* it means nothing here */
    weight_free(ctx, &a);
    be->ctx_destroy(&ctx);
    ctx = ctx_of("cublaslt", "");
    assert_string_equal(be->numerics(ctx), own); /* nothing is multiplied by it yet */
    a = weight_ready(ctx, 64, 64, 1);
    snprintf(one, sizeof(one), "%s", be->numerics(ctx));
    b = weight_ready(ctx, 80, 64, 2);
    snprintf(two, sizeof(two), "%s", be->numerics(ctx));
    weight_free(ctx, &a);
    weight_free(ctx, &b);
    be->ctx_destroy(&ctx);
    ctx = ctx_of("cublaslt", "");
    b = weight_ready(ctx, 80, 64, 2);
    a = weight_ready(ctx, 64, 64, 1);
    assert_string_equal(be->numerics(ctx), two);
    if (emulated) {
        assert_string_not_equal(one, own);
        assert_string_not_equal(one, two);
        assert_true(strlen(two) < 96); /* what a report of a rank holds */
    }
    weight_free(ctx, &a);
    weight_free(ctx, &b);
    be->ctx_destroy(&ctx);
}

/* Whatever is wrong with the library, the own kernels' bits come out. */
static void a_library_that_does_not_serve_is_found_out(void **state)
{
    (void)state;
    enum { ROWS = 130, OUTS = 100, COLS = 520 };
    if (!emulated)
        skip();
    ops_ctx *ctx = ctx_of("own", "");
    weight w = weight_ready(ctx, OUTS, COLS, 7);
    rows x = rows_make(ctx, ROWS, COLS, 8);
    float *own = product(ctx, &w, &x.bf16, 0, ROWS, true, false, 0);
    char numerics[128];
    snprintf(numerics, sizeof(numerics), "%s", be->numerics(ctx));
    rows_free(ctx, &x);
    weight_free(ctx, &w);
    be->ctx_destroy(&ctx);
    static const char *const libraries[] = {"none", "cut", "stream", "rows", "place", "missing", ""};
    for (size_t i = 0; i < ARRAY_LEN(libraries); i++) {
        bool missing = strcmp(libraries[i], "missing") == 0, sound = libraries[i][0] == '\0';
        if (missing)
            refused(ctx_try("cublaslt", libraries[i], &ctx), "--gemm own");
        ctx = ctx_of(missing ? "auto" : "cublaslt", libraries[i]);
        w = weight_ready(ctx, OUTS, COLS, 7);
        x = rows_make(ctx, ROWS, COLS, 8);
        if (!missing) {
            int n, of;
            taken(ctx, &n, &of);
            assert_int_equal(n, sound);
            assert_int_equal(of, 1);
        }
        float *y = product(ctx, &w, &x.bf16, 0, ROWS, true, false, 0);
        if (sound) { /* it has an order of its own, or this test would see nothing */
            assert_int_not_equal(memcmp(y, own, (size_t)ROWS * OUTS * 4), 0);
            assert_string_not_equal(be->numerics(ctx), numerics);
        } else {
            same_bits(y, own, ROWS, OUTS, libraries[i]);
            assert_string_equal(be->numerics(ctx), numerics);
        }
        free(y);
        rows_free(ctx, &x);
        weight_free(ctx, &w);
        be->ctx_destroy(&ctx);
    }
    free(own);
}

/* ---- failing calls ---- */

#define TRY_OUT(call) \
    do {              \
        if (st == ST_OK) \
            st = (call); \
    } while (0)

/* One life of a context; what fails in it may fail. */
static int one_life(const char *name)
{
    enum { ROWS = 40, OUTS = 48, COLS = 64 };
    ops_ctx *ctx = NULL;
    ops_buf *buf[3] = {NULL};
    uint64_t seed = 5;
    packed_layout l;
    packed_shape shape = {PACKED_BF16, OUTS, COLS, 0};
    packed_layout_of(shape, &l);
    char *packed = calloc(1, l.bytes);
    float *values = malloc((size_t)OUTS * COLS * 4), *xs = malloc((size_t)ROWS * COLS * 4), *ys = malloc((size_t)ROWS * OUTS * 4);
    for (int i = 0; i < OUTS * COLS; i++) {
        uint16_t half = half_f32_to_bf16(uniform(&seed));
        values[i] = half_bf16_to_f32(half);
        packed_set_floats(&l, packed, i / COLS, i % COLS, 1, &half);
    }
    for (int i = 0; i < ROWS * COLS; i++)
        xs[i] = rounded(uniform(&seed));
    status st = ctx_try("cublaslt", "", &ctx);
    TRY_OUT(be->buf_create(ctx, l.bytes, "w", &buf[0]));
    TRY_OUT(be->buf_create(ctx, (size_t)ROWS * COLS * 4, "x", &buf[1]));
    TRY_OUT(be->buf_create(ctx, (size_t)ROWS * OUTS * 4, "y", &buf[2]));
    TRY_OUT(be->buf_write(ctx, buf[0], 0, packed, l.bytes));
    TRY_OUT(be->buf_write(ctx, buf[1], 0, xs, (size_t)ROWS * COLS * 4));
    ops_weight w = {buf[0], 0, shape};
    TRY_OUT(be->weight_ready(ctx, &w));
    ops_linear_args a = {.rows = ROWS, .x = {buf[1], 0, OPS_F32, COLS, COLS * 4}, .n = 1, .w = {w}, .y = {{buf[2], 0, OPS_F32, OUTS, OUTS * 4}}};
    TRY_OUT(be->linear(ctx, &a));
    TRY_OUT(be->buf_read(ctx, buf[2], 0, ys, (size_t)ROWS * OUTS * 4));
    int wrong = 0;
    if (st == ST_OK) {
        const weight reference = {.w = {.shape = shape}, .values = values};
        const rows x = {.n = ROWS, .cols = COLS, .values = xs};
        wrong = !near(&reference, &x, 0, ROWS, ys);
    } else if (strstr(status_message(), name) == NULL && strncmp(name, "kernel", 6) != 0) {
        print_error("\"%s\" does not name %s\n", status_message(), name);
        wrong = 1;
    }
    for (int i = 0; i < 3; i++)
        if (buf[i] != NULL)
            be->buf_destroy(ctx, &buf[i]);
    be->ctx_destroy(&ctx);
    free(packed);
    free(values);
    free(xs);
    free(ys);
    return wrong ? 1 : st == ST_OK ? 0 : 3;
}

/* A process of its own, since a device that has failed stays so. */
static int life_with(const char *name, int n)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char fault[96];
        snprintf(fault, sizeof(fault), "%s:%d", name, n);
        setenv("CUEMU_FAIL", fault, 1);
        if (strcmp(name, "kernel") == 0)
            setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* a device that is lost takes nothing back */
        setenv("TSAN_OPTIONS", "atexit_sleep_ms=20", 1); /* each of a hundred lives would wait a second at its end for threads that it left */
        execl(program, program, name, (char *)NULL);
        _exit(127);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128;
}

static void every_call_may_fail(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int most; /* calls of a life, about */
        bool told; /* the first of them ends it */
    } calls[] = {{"cublasLtCreate", 1, true},
                 {"cublasLtMatmulDescCreate", 1, true},
                 {"cublasLtMatmulDescSetAttribute", 1, true},
                 {"cublasLtMatrixLayoutCreate", 3, true},
                 {"cublasLtMatmulPreferenceCreate", 1, true},
                 {"cublasLtMatmulPreferenceSetAttribute", 6, true},
                 {"cublasLtMatrixLayoutSetAttribute", 60, false},
                 {"cublasLtMatmulAlgoGetHeuristic", 1, false},
                 {"cublasLtMatmulAlgoConfigGetAttribute", 9, false},
                 {"cublasLtMatmulAlgoCheck", 4, false},
                 {"cublasLtMatmul", 16, false},
                 {"cublasLtDestroy", 1, false},
                 {"cublasLtMatrixLayoutDestroy", 2, false},
                 {"cublasLtMatmulDescDestroy", 1, false},
                 {"cublasLtMatmulPreferenceDestroy", 1, false},
                 {"cudaMalloc", 9, true},
                 {"cudaMemsetAsync", 4, true},
                 {"cudaMemcpyAsync", 7, true},
                 {"kernel", 16, true}};
    if (!emulated)
        skip();
    int ended = 0;
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        for (int n = 1; n <= calls[i].most; n += 1 + n / 8) {
            int code = life_with(calls[i].name, n);
            if ((code != 0 && code != 3) || (n == 1 && calls[i].told && code != 3))
                fail_msg("%s fails at call %d: exit code %d", calls[i].name, n, code);
            ended += code == 3;
        }
    assert_true(ended > 30);
}

static int open_backend(void **state)
{
    (void)state;
    ops_ctx *ctx;
    status_mute();
    setenv("CUEMU_CC", "89", 0); /* the first that multiplies fp8 */
    if (ops_device_open(OPS_DEVICE_CUDA, &be, NULL, 0) != ST_OK || be->weight_ready == NULL || ctx_try("cublaslt", "", &ctx) != ST_OK) {
        print_message("skipped: %s\n", be != NULL && be->weight_ready == NULL ? "the backend was built without cuBLASLt" : status_message());
        exit(77);
    }
    emulated = strstr(be->ctx_describe(ctx), "EMULATED") != NULL;
    be->ctx_destroy(&ctx);
    return 0;
}

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc > 1) {
        unsetenv("CUEMU_LEAKS"); /* after a failed kernel nothing can be freed */
        status_mute();
        log_level_set(LOG_ERROR);
        return ops_device_open(OPS_DEVICE_CUDA, &be, NULL, 0) == ST_OK ? one_life(argv[1]) : 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree_with_plain_c),
        cmocka_unit_test(a_row_has_the_same_bits_in_every_batch),
        cmocka_unit_test(products_of_fp8_are_those_of_its_codes),
        cmocka_unit_test(rows_of_fp8_have_the_same_bits_in_every_batch),
        cmocka_unit_test(fp8_that_does_not_go_this_way),
        cmocka_unit_test(rows_of_zeros_stay_zeros),
        cmocka_unit_test(weights_of_one_call_go_their_ways),
        cmocka_unit_test(embeddings_are_found_in_turned_weights),
        cmocka_unit_test(recorded_steps_give_the_same_bits),
        cmocka_unit_test(results_go_to_wrapped_memory),
        cmocka_unit_test(a_ready_weight_is_used_whole),
        cmocka_unit_test(the_numerics_id_tells_who_multiplies),
        cmocka_unit_test(a_library_that_does_not_serve_is_found_out),
        cmocka_unit_test(every_call_may_fail),
    };
    return cmocka_run_group_tests(tests, open_backend, NULL);
}
