/* tests/cuda/test_cuda_linear.c - the device's products agree with packed_dequantise in double, with the CPU's plain C bit for bit where k is one segment, and
 * with themselves bit for bit: alone or in a batch, any tile, any order of threads and blocks, k split over blocks or not. */
#include "tests/cuda/cuda_fixture.h"

#include "ops/cuda/kernels.h"
#include "tests/ops/weights.h"

#define MAX_ROWS 70
#define MAX_COLS 4256
#define ONE_SEGMENT 1024 /* k shorter than this is one segment (k_linear.cuh) */

static ops_ctx cpu;

static int open_all(void **state)
{
    (void)state;
    return device_open() && weights_ctx(CPU_ISA_C, 1, MAX_ROWS, MAX_COLS, &cpu) == ST_OK ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    weights_ctx_free(&cpu);
    device_close();
    return 0;
}

static gpu_weight upload_weight(packed_shape s, const ops_buf *host)
{
    packed_layout l;
    assert_true(packed_layout_of(s, &l));
    return (gpu_weight){.p = device_copy(host->data, l.bytes),
                        .type = (int32_t)s.type,
                        .rows = s.rows,
                        .cols = s.cols,
                        .phase = s.phase,
                        .panels = l.panels,
                        .units = l.units,
                        .groups = l.groups,
                        .supers = l.supers,
                        .panel_bytes = (int64_t)l.panel_bytes,
                        .unit_bytes = (int64_t)l.unit_bytes,
                        .scale_offset = (int64_t)l.scale_offset,
                        .min_offset = (int64_t)l.min_offset,
                        .super_offset = (int64_t)l.super_offset};
}

/* f32 rows of random numbers; what lies past the last column is NaN where bf16 or f32 rows allow anything there. */
typedef struct activations {
    int32_t rows, cols;
    ops_type type;
    ops_buf f32; /* what the values are, with those of bf16 rounded */
    ops_buf as;  /* in `type` */
    gpu_mat device;
} activations;

static activations make_x(int32_t rows, int32_t cols, ops_type type, uint32_t seed)
{
    activations a = {rows, cols, type, weights_buf((size_t)rows * ops_row_bytes(OPS_F32, cols)), weights_buf((size_t)rows * ops_row_bytes(type, cols)), {0}};
    memset(a.f32.data, 0xff, a.f32.bytes);
    for (int32_t r = 0; r < rows; r++) {
        float *x = (float *)(void *)(a.f32.data + (size_t)r * ops_row_bytes(OPS_F32, cols));
        char *as = a.as.data + (size_t)r * ops_row_bytes(type, cols);
        for (int32_t k = 0; k < cols; k++) {
            x[k] = weights_uniform(&seed) * (float)(1 + r % 5);
            if (type == OPS_BF16)
                x[k] = half_bf16_to_f32(half_f32_to_bf16(x[k]));
        }
        memset(as, 0xff, ops_row_bytes(type, cols));
        for (int32_t k = 0; k < cols && type == OPS_BF16; k++)
            ((uint16_t *)(void *)as)[k] = half_f32_to_bf16(x[k]);
        if (type == OPS_Q8)
            cpu_quantise_row(&cpu, x, cols, as);
        if (type == OPS_F32)
            memcpy(as, x, (size_t)cols * 4);
    }
    a.device = (gpu_mat){device_copy(a.as.data, (size_t)rows * ops_row_bytes(type, cols)), (int32_t)type, cols, (int64_t)ops_row_bytes(type, cols)};
    return a;
}

static void free_x(activations *a)
{
    device_free(a->device.p);
    free(a->f32.data);
    free(a->as.data);
}

static gpu_mat make_y(int32_t rows, int32_t cols)
{
    return (gpu_mat){device_make((size_t)rows * ops_row_bytes(OPS_F32, cols)), OPS_F32, cols, (int64_t)ops_row_bytes(OPS_F32, cols)};
}

static void fill(gpu_mat y, int32_t rows, int byte)
{
    CUDA_OK(cudaMemsetAsync(y.p, byte, (size_t)rows * (size_t)y.stride, stream));
}

/* Rows [0, rows) of y without their padding. */
static float *read_y(gpu_mat y, int32_t rows)
{
    char *padded = malloc((size_t)rows * (size_t)y.stride);
    float *out = malloc((size_t)rows * (size_t)y.cols * 4);
    device_read(padded, y.p, (size_t)rows * (size_t)y.stride);
    for (int32_t r = 0; r < rows; r++)
        memcpy(out + (size_t)r * (size_t)y.cols, padded + (size_t)r * (size_t)y.stride, (size_t)y.cols * 4);
    free(padded);
    return out;
}

/* Rows [row, row + n) of the call. */
static void run(gpu_linear a, int32_t row, int32_t n)
{
    a.x.p = (char *)a.x.p + row * a.x.stride;
    for (int32_t i = 0; i < a.n; i++)
        a.y[i].p = (char *)a.y[i].p + row * a.y[i].stride;
    CUDA_OK(k_linear(n, NULL, &a, stream));
}

static const char *shape_text(packed_shape s)
{
    static char text[96];
    snprintf(text, sizeof(text), "%s [%d, %d] phase %d", packed_format_of(s.type)->name, s.rows, s.cols, s.phase);
    return text;
}

/* Each rounded operation errs by at most 2^-24 of the sum of magnitudes so far; a minimum (below 3 here) and its codes may cancel inside w.  The matrix units may cut
 * what they add instead of rounding it: bf16 is allowed twice that. */
static void check_against_double(packed_shape s, const ops_buf *w, const activations *x, const float *y)
{
    float *row = malloc((size_t)s.cols * sizeof(*row));
    double *xs = malloc((size_t)s.cols * sizeof(*xs));
    for (int32_t r = 0; r < x->rows; r++) {
        for (int32_t k = 0; k < s.cols; k++) {
            const char *q = x->as.data + (size_t)r * ops_row_bytes(x->type, s.cols), *f = x->f32.data + (size_t)r * ops_row_bytes(OPS_F32, s.cols);
            xs[k] = x->type == OPS_Q8 ? (double)((const int8_t *)q)[k] * cpu_q8_scales(q, s.cols)[k / 32] : ((const float *)(const void *)f)[k];
        }
        for (int32_t o = 0; o < s.rows; o++) {
            double sum = 0, magnitude = 0, x_magnitude = 0;
            packed_dequantise(s, w->data, o, 0, s.cols, row);
            for (int32_t k = 0; k < s.cols; k++) {
                sum += row[k] * xs[k];
                magnitude += fabs(row[k] * xs[k]);
                x_magnitude += fabs(xs[k]);
            }
            double got = y[(size_t)r * (size_t)s.rows + (size_t)o];
            double most = (magnitude + (packed_format_of(s.type)->integer ? 8 * x_magnitude : 0)) * (s.cols + 8) * (s.type == PACKED_BF16 ? 0x1p-23 : 0x1p-24) + 1e-30;
            if (!(fabs(got - sum) <= most))
                fail_msg("%s row %d output %d: got %.9g, want %.9g (within %.3g)", shape_text(s), r, o, got, sum, most);
        }
    }
    free(row);
    free(xs);
}

static void check_same(packed_shape s, const char *how, int32_t rows, const float *got, const float *want)
{
    for (size_t i = 0; i < (size_t)rows * (size_t)s.rows; i++)
        if (memcmp(&got[i], &want[i], 4) != 0)
            fail_msg("%s, %s: row %zu output %zu is %.9g, not %.9g", shape_text(s), how, i / (size_t)s.rows, i % (size_t)s.rows, (double)got[i], (double)want[i]);
}

static void check_against_cpu(packed_shape s, ops_buf *w, activations *x, const float *y)
{
    ops_buf want = weights_buf((size_t)x->rows * ops_row_bytes(OPS_F32, s.rows));
    ops_linear_args a = {.rows = x->rows, .n = 1, .x = weights_mat(&x->as, OPS_Q8, s.cols), .w = {{w, 0, s}}, .y = {weights_mat(&want, OPS_F32, s.rows)}};
    OK(cpu_linear(&cpu, &a));
    for (int32_t r = 0; r < x->rows; r++)
        check_same(s, "against the CPU (row counts from here)", 1, y + (size_t)r * (size_t)s.rows, cpu_row(&a.y[0], r));
    free(want.data);
}

/* The whole batch first, checked; then pieces of it, each under another order. */
static void check_shape(packed_shape s, int32_t rows)
{
    static const int32_t pieces[] = {1, 3, 8, 11, 17, 33};
    ops_buf w = weights_make(s, (uint32_t)(s.type * 1000 + s.cols));
    activations x = make_x(rows, s.cols, gpu_linear_input(s.type), 5);
    gpu_linear a = {.x = x.device, .n = 1, .w = {upload_weight(s, &w)}, .y = {make_y(rows, s.rows)}};
    int64_t scratch = gpu_linear_scratch(rows, s.rows, s.cols);
    a.partial = scratch > 0 ? device_make((size_t)scratch * 4) : NULL;
    run(a, 0, rows);
    float *want = read_y(a.y[0], rows);
    check_against_double(s, &w, &x, want);
    if (packed_format_of(s.type)->integer && s.cols < ONE_SEGMENT)
        check_against_cpu(s, &w, &x, want);
    float *partial = a.partial;
    for (size_t p = 0; p < ARRAY_LEN(pieces); p++) {
        if (pieces[p] >= rows)
            continue;
        order_set((int)(p % 4));
        cuemu_set("CUEMU_CPASYNC", p % 2 == 0 ? "early" : "late");
        a.partial = p % 2 == 0 ? NULL : partial;
        fill(a.y[0], rows, 0xff);
        for (int32_t r = 0; r < rows; r += pieces[p])
            run(a, r, pieces[p] < rows - r ? pieces[p] : rows - r);
        char how[32];
        snprintf(how, sizeof(how), "%d rows at a time", pieces[p]);
        float *got = read_y(a.y[0], rows);
        check_same(s, how, rows, got, want);
        free(got);
    }
    for (int i = 0; order_set(i); i++) {
        cuemu_set("CUEMU_CPASYNC", i % 2 == 0 ? "late" : "early");
        a.partial = i / 2 % 2 == 0 ? NULL : partial;
        fill(a.y[0], rows, 0xff);
        run(a, 0, rows);
        float *got = read_y(a.y[0], rows);
        check_same(s, "all rows in another order", rows, got, want);
        free(got);
    }
    order_set(0);
    device_free(a.w[0].p);
    device_free(a.y[0].p);
    if (partial != NULL)
        device_free(partial);
    free_x(&x);
    free(want);
    free(w.data);
}

static void every_type_agrees(void **state)
{
    (void)state;
    static const int32_t outputs[] = {1, 15, 17, 33, 50};
    static const struct {
        int32_t cols, phase, rows;
    } ks[] = {{1, 0, 3}, {33, 0, 34}, {48, 16, 9}, {95, 0, 18}, {304, 112, 5}, {320, 240, 35}, {1056, 48, 18}};
    for (int t = 0; t < PACKED_TYPES; t++) {
        const packed_format *f = packed_format_of((packed_type)t);
        for (size_t k = 0; k < ARRAY_LEN(ks); k++) {
            packed_shape s = {(packed_type)t, outputs[(k + (size_t)t) % ARRAY_LEN(outputs)], ks[k].cols, packed_has_super(f) ? ks[k].phase % f->super : 0};
            s.phase -= s.phase % f->group;
            check_shape(s, ks[k].rows);
        }
    }
}

static void long_rows_have_segments(void **state)
{
    (void)state;
    static const packed_type types[] = {PACKED_F32, PACKED_F16, PACKED_BF16, PACKED_Q8_0, PACKED_Q5_K, PACKED_Q6_K, PACKED_IQ4_NL};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        check_shape((packed_shape){types[t], 18, 2081, 0}, 17);
        check_shape((packed_shape){types[t], 5, 4225, packed_has_super(packed_format_of(types[t])) ? 160 % packed_format_of(types[t])->super : 0}, 9);
    }
}

static void many_outputs_and_rows(void **state)
{
    (void)state;
    static const packed_type types[] = {PACKED_F16, PACKED_BF16, PACKED_Q4_0, PACKED_Q2_K, PACKED_Q3_K};
    for (size_t t = 0; t < ARRAY_LEN(types); t++)
        check_shape((packed_shape){types[t], 275, 100, 0}, 66);
}

/* y + (product + bias), for weights of several types at once; rows past *n stay as they were. */
static void fused_weights_add_to_what_is_there(void **state)
{
    (void)state;
    enum { COLS = 1100, ROWS = 20, N = 18 };
    static const packed_type types[OPS_MAX_FUSED] = {PACKED_Q4_1, PACKED_Q6_K, PACKED_Q4_1, PACKED_Q8_0};
    static const int32_t outputs[OPS_MAX_FUSED] = {50, 16, 33, 7};
    activations x = make_x(ROWS, COLS, OPS_Q8, 9);
    gpu_linear a = {.x = x.device, .n = OPS_MAX_FUSED, .accumulate = true}, one = {.x = x.device, .n = 1};
    float bias[64], before[ROWS * 64];
    for (int i = 0; i < 64; i++)
        bias[i] = (float)i * 0.37f - 3;
    float *device_bias = device_copy(bias, sizeof(bias));
    int32_t out = 0;
    for (int i = 0; i < OPS_MAX_FUSED; i++) {
        packed_shape s = {types[i], outputs[i], COLS, 0};
        ops_buf w = weights_make(s, (uint32_t)(77 + i));
        a.w[i] = upload_weight(s, &w);
        a.bias[i] = i == 1 ? NULL : device_bias + i;
        a.y[i] = make_y(ROWS, outputs[i]);
        out += outputs[i];
        free(w.data);
    }
    for (int i = 0; i < ROWS * 64; i++)
        before[i] = (float)(i % 97) * 0.5f - 20;
    a.partial = device_make((size_t)gpu_linear_scratch(ROWS, out, COLS) * 4);
    static const int32_t counts[] = {N, 5, 1, 0};
    for (size_t c = 0; c < ARRAY_LEN(counts); c++) {
        order_set((int)c % 4);
        int32_t *n = device_copy(&counts[c], 4);
        for (int i = 0; i < OPS_MAX_FUSED; i++)
            for (int r = 0; r < ROWS; r++)
                CUDA_OK(cudaMemcpyAsync((char *)a.y[i].p + r * a.y[i].stride, before + r * 64, (size_t)outputs[i] * 4, cudaMemcpyHostToDevice, stream));
        CUDA_OK(k_linear(c == 2 ? 3 : ROWS, n, &a, stream));
        for (int i = 0; i < OPS_MAX_FUSED; i++) {
            one.w[0] = a.w[i];
            one.y[0] = make_y(ROWS, outputs[i]);
            run(one, 0, ROWS);
            float *product = read_y(one.y[0], ROWS), *got = read_y(a.y[i], ROWS);
            for (int r = 0; r < ROWS; r++)
                for (int o = 0; o < outputs[i]; o++) {
                    float sum = product[r * outputs[i] + o] + (i == 1 ? 0.0f : bias[i + o]), was = before[r * 64 + o], want = r < counts[c] ? was + sum : was;
                    if (memcmp(&got[r * outputs[i] + o], &want, 4) != 0)
                        fail_msg("weight %d of %d rows: row %d output %d is %.9g, not %.9g", i, counts[c], r, o, (double)got[r * outputs[i] + o], (double)want);
                }
            device_free(one.y[0].p);
            free(product);
            free(got);
        }
        device_free(n);
    }
    order_set(0);
    for (int i = 0; i < OPS_MAX_FUSED; i++) {
        device_free(a.w[i].p);
        device_free(a.y[i].p);
    }
    device_free(a.partial);
    device_free(device_bias);
    free_x(&x);
}

/* Codes at the ends of their range: the sums of a group are the largest there are. */
static void largest_codes_are_exact(void **state)
{
    (void)state;
    enum { COLS = 512, ROWS = 17 };
    for (int t = 0; t < PACKED_TYPES; t++) {
        const packed_format *f = packed_format_of((packed_type)t);
        if (!f->integer)
            continue;
        packed_shape s = {(packed_type)t, 16, COLS, 0};
        packed_layout l;
        assert_true(packed_layout_of(s, &l));
        ops_buf w = weights_make(s, 12);
        for (int32_t r = 0; r < s.rows; r++)
            for (int32_t u = 0; u < l.units; u++) {
                uint8_t codes[PACKED_UNIT];
                memset(codes, f->bits == 8 ? (r % 2 == 0 ? 0x80 : 0x7f) : r % 2 == 0 ? 0 : (1 << f->bits) - 1, sizeof(codes));
                packed_set_unit(&l, w.data, r, u, codes);
            }
        activations x = make_x(ROWS, COLS, OPS_Q8, 31);
        for (int r = 0; r < ROWS; r++) {
            float big[COLS];
            for (int k = 0; k < COLS; k++)
                big[k] = r % 3 == 0 ? -1.0f : r % 3 == 1 ? 1.0f : k % 2 == 0 ? 1.0f : -1.0f;
            cpu_quantise_row(&cpu, big, COLS, x.as.data + (size_t)r * ops_row_bytes(OPS_Q8, COLS));
        }
        CUDA_OK(cudaMemcpyAsync(x.device.p, x.as.data, ROWS * ops_row_bytes(OPS_Q8, COLS), cudaMemcpyHostToDevice, stream));
        gpu_linear a = {.x = x.device, .n = 1, .w = {upload_weight(s, &w)}, .y = {make_y(ROWS, s.rows)}};
        run(a, 0, ROWS);
        float *got = read_y(a.y[0], ROWS);
        check_against_cpu(s, &w, &x, got);
        run(a, 0, 4);
        free(got);
        got = read_y(a.y[0], ROWS);
        check_against_cpu(s, &w, &x, got);
        free(got);
        device_free(a.w[0].p);
        device_free(a.y[0].p);
        free_x(&x);
        free(w.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_agrees),
        cmocka_unit_test(long_rows_have_segments),
        cmocka_unit_test(many_outputs_and_rows),
        cmocka_unit_test(fused_weights_add_to_what_is_there),
        cmocka_unit_test(largest_codes_are_exact),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
