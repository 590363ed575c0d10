/* tests/cuda/test_cuda_backend.c - the CUDA backend behind its table, as the program loads it: buffers, memory it is given, what it refuses, and that
 * recorded steps give the bits of unrecorded ones. */
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

#include "base/mem.h"
#include "ops/device.h"

#define OK(expr) assert_int_equal(expr, ST_OK)

static const ops_backend *be;
static ops_ctx *ctx;

static void refused(status st, const char *why)
{
    assert_true(st != ST_OK);
    if (strstr(status_message(), why) == NULL)
        print_error("\"%s\" does not say \"%s\"\n", status_message(), why);
    assert_non_null(strstr(status_message(), why));
}

/* What is said where no device can be used: in a process of its own, which meets the emulation first with this many devices. */
static void reason_without(const char *devices, char *out, size_t bytes)
{
    int fd[2], ended = -1;
    const ops_backend *none;
    assert_int_equal(pipe(fd), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setenv("CUEMU_DEVICES", devices, 1);
        bool opened = ops_device_open(OPS_DEVICE_CUDA, &none, NULL, 0) == ST_OK;
        const char *text = opened ? "opened" : status_message();
        _exit(write(fd[1], text, strlen(text)) != (ssize_t)strlen(text));
    }
    close(fd[1]);
    ssize_t n = read(fd[0], out, bytes - 1);
    close(fd[0]);
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_int_equal(ended, 0);
    assert_true(n > 0);
    out[n] = '\0';
}

static int open_backend(void **state)
{
    (void)state;
    char why[2048];
    status_mute();
    if (getenv("TRIREME_CUDA_EMULATED") != NULL) { /* before this process meets the emulation itself */
        reason_without("0", why, sizeof(why));
        assert_non_null(strstr(why, "CUDA_VISIBLE_DEVICES"));
        reason_without("-1", why, sizeof(why));
        assert_non_null(strstr(why, "there is no NVIDIA driver"));
        reason_without("-2", why, sizeof(why));
        assert_non_null(strstr(why, "the driver is for CUDA 11.4 and this program for 12.6: update"));
    }
    ops_ctx_options o = {.max_rows = 64, .max_cols = 256};
    if (ops_device_open(OPS_DEVICE_CUDA, &be, NULL, 0) != ST_OK) {
        print_message("skipped: %s\n", status_message());
        exit(77);
    }
    return be->ctx_create(&o, &ctx) != ST_OK;
}

static int close_backend(void **state)
{
    (void)state;
    be->ctx_destroy(&ctx);
    assert_null(ctx);
    be->ctx_destroy(&ctx);
    return 0;
}

static void a_context_says_what_it_is(void **state)
{
    (void)state;
    assert_string_equal(be->name, "cuda");
    assert_non_null(strstr(be->ctx_describe(ctx), "cuda"));
    assert_non_null(strstr(be->numerics(ctx), "cuda"));
    assert_true(be->devices() >= 1);
    ops_device_info info;
    OK(be->device_info(0, &info));
    assert_true(info.free_bytes > 0 && info.free_bytes <= info.total_bytes);
    ops_ctx *other;
    refused(be->ctx_create(&(ops_ctx_options){.device = 99, .max_rows = 1, .max_cols = 1}, &other), "CUDA_VISIBLE_DEVICES");
    refused(be->ctx_create(&(ops_ctx_options){.max_rows = 0, .max_cols = 1}, &other), "steps of 0 rows");
    refused(be->ctx_create(&(ops_ctx_options){.max_rows = 1, .max_cols = 0}, &other), "rows of 0");
    refused(be->ctx_create(&(ops_ctx_options){.max_rows = 1, .max_cols = (1 << 28) + 1}, &other), "steps of 1 rows");
    for (int32_t cols = 1; cols <= 1 << 28; cols += (1 << 28) - 1) {
        OK(be->ctx_create(&(ops_ctx_options){.max_rows = 1, .max_cols = cols}, &other));
        be->ctx_destroy(&other);
    }
}

static void marks_tell_the_devices_time(void **state)
{
    (void)state;
    enum { BYTES = 8 << 20, STEPS = 9 }; /* more steps than sets */
    double before[OPS_TIMES], after[OPS_TIMES];
    ops_buf *b;
    ops_batch *batch;
    ops_batch_limits l = {.max_rows = 64, .max_spans = 8, .max_out = 64, .max_blocks = 64, .n_kv_groups = 1};
    OK(be->buf_create(ctx, BYTES, "test", &b));
    OK(be->batch_create(ctx, &l, &batch));
    OK(be->time_read(ctx, before));
    for (int step = 0; step < STEPS; step++) {
        be->time_mark(ctx, 3);
        ops_gate_args g = {.rows = 64, .gate = {b, 0, OPS_F32, 256, 1024}, .activation = OPS_GELU, .y = {b, 1 << 20, OPS_F32, 256, 1024}};
        for (int i = 0; i < 4; i++)
            OK(be->gate(ctx, &g));
        be->time_mark(ctx, 0);
        OK(be->gate(ctx, &g));
        be->time_mark(ctx, 5);
        be->time_mark(ctx, OPS_TIMES); /* no such thing: nothing happens */
        g.rows = 1;
        OK(be->gate(ctx, &g));
        be->time_mark(ctx, -1);
    }
    OK(be->time_read(ctx, after));
    for (int i = 0; i < OPS_TIMES; i++)
        assert_true(i == 0 || i == 3 || i == 5 ? after[i] > before[i] : after[i] == before[i]);
    assert_true(after[3] - before[3] > after[5] - before[5]);
    OK(be->time_read(ctx, before)); /* nothing is counted twice */
    assert_memory_equal(before, after, sizeof(before));
    for (int step = 0; step < STEPS; step++) { /* nor with what comes later */
        be->time_mark(ctx, 7);
        OK(be->gate(ctx, &(ops_gate_args){.rows = 1, .gate = {b, 0, OPS_F32, 256, 1024}, .activation = OPS_GELU, .y = {b, 1 << 20, OPS_F32, 256, 1024}}));
        be->time_mark(ctx, -1);
        if (step % 2 == 0)
            continue;
        OK(be->time_read(ctx, after));
        for (int i = 0; i < OPS_TIMES; i++)
            assert_true(i == 7 ? after[i] > before[i] : after[i] == before[i]);
        memcpy(before, after, sizeof(before));
    }
    be->batch_destroy(ctx, &batch);
    be->buf_destroy(ctx, &b);
}

static void buffers_hold_what_was_written(void **state)
{
    (void)state;
    enum { BYTES = (19 << 20) + 5 }; /* more than all stages */
    ops_buf *b;
    unsigned char *up = malloc(BYTES), *down = malloc(BYTES), *want = malloc(BYTES);
    OK(be->buf_create(ctx, BYTES, "test", &b));
    assert_null(be->buf_map(ctx, b));
    memset(up, 0, BYTES);
    OK(be->buf_read(ctx, b, 0, down, BYTES));
    assert_memory_equal(down, up, BYTES);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < BYTES; i++)
            up[i] = want[i] = (unsigned char)(i * 7 + i / 251 + round);
        OK(be->buf_write(ctx, b, 0, up, BYTES));
        memset(up, 0xee, BYTES); /* ours again at return */
        OK(be->buf_read(ctx, b, 3, down, BYTES - 3));
        assert_memory_equal(down, want + 3, BYTES - 3);
    }
    OK(be->buf_read(ctx, b, BYTES - 1, down, 1)); /* the last byte, and a whole number of stages */
    assert_int_equal(down[0], want[BYTES - 1]);
    OK(be->buf_write(ctx, b, 0, want + 1, 4 << 20));
    OK(be->buf_read(ctx, b, 0, down, 4 << 20));
    assert_memory_equal(down, want + 1, 4 << 20);
    refused(be->buf_write(ctx, b, BYTES - 1, up, 2), "into a buffer of");
    refused(be->buf_read(ctx, b, SIZE_MAX, down, 2), "from a buffer of");
    OK(be->buf_write(ctx, b, BYTES, up, 0));
    be->buf_destroy(ctx, &b);
    assert_null(b);
    be->buf_destroy(ctx, &b);
    OK(be->buf_create(ctx, 0, "nothing", &b));
    be->buf_destroy(ctx, &b);
    refused(be->buf_create(ctx, (size_t)1 << 50, "too much", &b), "--ctx");
    free(want);
    free(up);
    free(down);
}

static ops_batch *batch_of(int32_t n_rows)
{
    ops_batch *b;
    ops_batch_limits l = {.max_rows = 64, .max_spans = 8, .max_out = 64, .max_blocks = 64, .n_kv_groups = 1};
    int32_t tokens[64] = {0}, table[16] = {0}, out[64];
    for (int32_t i = 0; i < n_rows; i++)
        out[i] = i;
    ops_span span = {.n_rows = n_rows};
    ops_batch_desc d = {.n_rows = n_rows, .tokens = tokens, .n_spans = 1, .spans = &span, .tables = {table}, .n_table = {16}, .n_out = n_rows, .out_rows = out};
    OK(be->batch_create(ctx, &l, &b));
    OK(be->batch_set(ctx, b, &d));
    return b;
}

/* x = x + the parts' sum, where one lies in wrapped memory of the host, as an exchange slot does, and one on the device. */
static void parts_come_from_host_and_device(void **state)
{
    (void)state;
    enum { ROWS = 3, COLS = 70 };
    size_t stride = ops_row_bytes(OPS_F32, COLS);
    float *host, *x = malloc(stride * ROWS), got[COLS];
    assert_int_equal(posix_memalign((void **)&host, 4096, 8192), 0);
    ops_buf *wrapped, *device;
    OK(be->buf_wrap(ctx, host, 8192, &wrapped));
    assert_ptr_equal(be->buf_map(ctx, wrapped), host);
    OK(be->buf_create(ctx, 2 * stride * ROWS, "test", &device));
    for (size_t i = 0; i < stride * ROWS / 4; i++)
        x[i] = (float)i;
    OK(be->buf_write(ctx, device, 0, x, stride * ROWS));
    OK(be->buf_write(ctx, device, stride * ROWS, x, stride * ROWS));
    memcpy(host + 64, x, stride * ROWS);
    ops_mat mx = {device, 0, OPS_F32, COLS, stride}, part = {device, stride * ROWS, OPS_F32, COLS, stride};
    ops_batch *b = batch_of(ROWS);
    const float *parts[2] = {host + 64, be->mat_part(ctx, &part)};
    ops_norm_args a = {.x = mx, .parts = {parts, 2, stride / 4}, .residual_scale = 1.0f};
    OK(be->norm(ctx, b, &a));
    for (int r = 0; r < ROWS; r++) {
        OK(be->buf_read(ctx, device, (size_t)r * stride, got, sizeof(got)));
        for (int c = 0; c < COLS; c++) {
            float want = 3.0f * x[(size_t)r * (stride / 4) + (size_t)c];
            assert_true(got[c] == want);
        }
    }
    parts[0] = x; /* memory the device was not told of */
    refused(be->norm(ctx, b, &a), "does not see");
    parts[0] = host + 2048 - 4; /* leaves what it was told of */
    refused(be->norm(ctx, b, &a), "does not see");
    a.parts.n = 65;
    refused(be->norm(ctx, b, &a), "at most 64");
    be->batch_destroy(ctx, &b);
    be->buf_destroy(ctx, &wrapped);
    be->buf_destroy(ctx, &device);
    refused(be->buf_wrap(ctx, (char *)host + 4, 64, &wrapped), "aligned");
    free(host);
    free(x);
}

/* A copy waits for what was queued before it, and what is queued after it waits for the copy; memory that goes waits for its last use. */
static void copies_and_operations_keep_their_order(void **state)
{
    (void)state;
    enum { COLS = 256, ROWS = 64, BYTES = COLS * ROWS * 4 };
    float *one = malloc(BYTES), *two = malloc(BYTES), *got = malloc(BYTES), *host;
    ops_buf *x, *y, *wrapped;
    OK(be->buf_create(ctx, BYTES, "test", &x));
    OK(be->buf_create(ctx, BYTES, "test", &y));
    for (int i = 0; i < COLS * ROWS; i++) {
        one[i] = (float)i;
        two[i] = -5.0f;
    }
    ops_batch *b = batch_of(ROWS);
    ops_mat mx = {x, 0, OPS_F32, COLS, COLS * 4}, my = {y, 0, OPS_F32, COLS, COLS * 4};
    for (int round = 0; round < 3; round++) {
        const float *part[1] = {be->mat_part(ctx, &mx)};
        OK(be->buf_write(ctx, x, 0, one, BYTES));
        OK(be->norm(ctx, b, &(ops_norm_args){.x = my, .replace = true, .parts = {part, 1, COLS}, .residual_scale = 1.0f})); /* y = x */
        OK(be->buf_write(ctx, x, 0, two, BYTES));
        OK(be->buf_read(ctx, y, 0, got, BYTES));
        assert_memory_equal(got, one, BYTES);
        OK(be->buf_read(ctx, x, 0, got, BYTES));
        assert_memory_equal(got, two, BYTES);
    }
    assert_int_equal(posix_memalign((void **)&host, 4096, BYTES), 0);
    memcpy(host, one, BYTES);
    OK(be->buf_wrap(ctx, host, BYTES, &wrapped));
    const float *part[1] = {host};
    OK(be->norm(ctx, b, &(ops_norm_args){.x = my, .replace = true, .parts = {part, 1, COLS}, .residual_scale = 1.0f}));
    be->buf_destroy(ctx, &wrapped);
    memcpy(host, two, BYTES); /* ours again */
    OK(be->buf_read(ctx, y, 0, got, BYTES));
    assert_memory_equal(got, one, BYTES);
    be->batch_destroy(ctx, &b);
    be->buf_destroy(ctx, &x);
    be->buf_destroy(ctx, &y);
    free(host);
    free(one);
    free(two);
    free(got);
}

/* Whatever is destroyed waits for what still uses it. */
static void what_is_destroyed_is_used_to_the_end(void **state)
{
    (void)state;
    ops_buf *rows;
    ops_ctx *own;
    size_t stride = ops_row_bytes(OPS_F32, 64);
    for (int round = 0; round < 5; round++) {
        ops_batch_limits l = {.max_rows = 64, .max_spans = 1, .max_out = 1, .max_blocks = 4, .n_kv_groups = 1, .n_ropes = 1, .ropes = {{64, false, 1, {(const float[32]){1, 2}}, {1}}}};
        int32_t tokens[64] = {0}, table[4] = {0, 1, 2, 3};
        ops_span span = {.n_rows = 64};
        ops_batch *b;
        ops_kv *kv;
        OK(be->ctx_create(&(ops_ctx_options){.max_rows = 64, .max_cols = 64}, &own));
        OK(be->buf_create(own, stride * 64 * 3, "test", &rows));
        OK(be->batch_create(own, &l, &b));
        OK(be->kv_create(own, &(ops_kv_spec){OPS_KV_F16, 1, 1, 64, 4}, &kv));
        ops_mat q = {rows, 0, OPS_F32, 64, stride}, y = {rows, stride * 64, OPS_F32, 64, stride}, k = {rows, stride * 128, OPS_F32, 64, stride};
        OK(be->batch_set(own, b, &(ops_batch_desc){.n_rows = 64, .tokens = tokens, .n_spans = 1, .spans = &span, .tables = {table}, .n_table = {4}}));
        OK(be->qkv(own, b, &(ops_qkv_args){.q = q, .k = k, .v = k, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .kv = kv}));
        OK(be->attention(own, b, &(ops_attention_args){.q = q, .n_heads = 1, .head_dim = 64, .heads_per_kv = 1, .scale = 1, .kv = kv, .y = y}));
        if (round == 0)
            be->kv_destroy(own, &kv);
        else if (round == 1)
            be->batch_destroy(own, &b);
        else if (round == 2)
            be->buf_destroy(own, &rows);
        else if (round == 3) {
            ops_routing *routing;
            OK(be->routing_create(own, &(ops_routing_spec){64, 8, 2, 0, 8}, &routing));
            OK(be->route(own, &(ops_route_args){.rows = 64, .logits = y, .routing = routing}));
            be->routing_destroy(own, &routing);
        } else { /* a larger step takes more scratch, while the smaller one's is in use */

            ops_weight w = {rows, 0, {PACKED_Q8_0, 16, 64, 0}};
            OK(be->linear(own, &(ops_linear_args){.rows = 1, .x = q, .n = 1, .w = {w}, .y = {y}}));
            OK(be->linear(own, &(ops_linear_args){.rows = 64, .x = q, .n = 1, .w = {w}, .y = {y}}));
        }
        be->kv_destroy(own, &kv);
        be->batch_destroy(own, &b);
        be->buf_destroy(own, &rows);
        be->ctx_destroy(&own);
    }
}

static void sums_come_back_at_sync(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 33 };
    size_t stride = ops_row_bytes(OPS_F32, COLS);
    float *x = calloc(ROWS, stride), out[12][ROWS];
    ops_buf *device;
    OK(be->buf_create(ctx, stride * ROWS, "test", &device));
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++)
            x[(size_t)r * (stride / 4) + (size_t)c] = (float)(r + 1);
    OK(be->buf_write(ctx, device, 0, x, stride * ROWS));
    for (int i = 0; i < 12; i++) { /* more than wait at once */
        ops_sumsq_args a = {.rows = ROWS, .x = {device, 0, OPS_F32, COLS, stride}, .col_begin = i, .col_end = COLS, .out = out[i]};
        OK(be->sumsq(ctx, &a));
    }
    OK(be->sync(ctx));
    for (int i = 0; i < 12; i++)
        for (int r = 0; r < ROWS; r++)
            assert_true(out[i][r] == (float)((r + 1) * (r + 1) * (COLS - i)));
    be->buf_destroy(ctx, &device);
    free(x);
}

static void what_contradicts_itself_is_refused(void **state)
{
    (void)state;
    ops_batch *b = batch_of(4);
    ops_buf *buf;
    size_t stride = ops_row_bytes(OPS_F32, 64);
    OK(be->buf_create(ctx, stride * 4, "test", &buf));
    ops_mat m = {buf, 0, OPS_F32, 64, stride}, beyond = {buf, stride, OPS_F32, 64, stride}, crooked = {buf, 4, OPS_F32, 32, stride};
    refused(be->norm(ctx, b, &(ops_norm_args){.x = beyond}), "do not fit");
    refused(be->norm(ctx, b, &(ops_norm_args){.x = crooked}), "do not fit");
    refused(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .weight = {buf, stride * 4 - 64, 64}}), "a vector of 64");
    refused(be->gate(ctx, &(ops_gate_args){.rows = 4, .gate = m, .y = m, .y_col = 1}), "65 needed");
    ops_linear_args l = {.rows = 4, .x = m, .n = 1, .w = {{buf, 0, {PACKED_F32, 16, 32, 0}}}, .y = {m}};
    refused(be->linear(ctx, &l), "does not fit x of 64");
    l.w[0].shape.cols = 64;
    refused(be->linear(ctx, &l), "exceeds its buffer");
    l.n = OPS_MAX_FUSED + 1;
    refused(be->linear(ctx, &l), "at most 4");
    ops_kv *kv;
    ops_kv_spec spec = {OPS_KV_F16, 1, 1, 64, 2};
    OK(be->kv_create(ctx, &spec, &kv));
    assert_int_equal(be->kv_block_bytes(&spec), ops_cpu()->kv_block_bytes(&spec)); /* the plan counts for both */
    for (int t = 0; t < OPS_KV_TYPES; t++) {
        spec.type = (ops_kv_type)t;
        assert_int_equal(be->kv_block_bytes(&spec), ops_cpu()->kv_block_bytes(&spec));
    }
    refused(be->kv_copy_block(ctx, kv, 0, 2), "has 2 blocks");
    ops_attention_args at = {.q = m, .n_heads = 1, .head_dim = 64, .heads_per_kv = 1, .scale = 1, .kv = kv, .y = m};
    for (int wrong = 0; wrong < 9; wrong++) {
        ops_attention_args bad = at;
        switch (wrong) {
        case 0: bad.kv_group = 1; break;
        case 1: bad.kv_group = -1; break;
        case 2: bad.kv_layer = 1; break;
        case 3: bad.kv_layer = -1; break;
        case 4: bad.head_begin = 1; break;     /* the second KV head */
        case 5: bad.kv_head_begin = 1; break;  /* one before the first */
        case 6: bad.window = -1; break;
        case 7: bad.y_col = -1; break;
        default: bad.head_dim = 32; break;
        }
        assert_int_equal(be->attention(ctx, b, &bad), ST_INVALID);
    }
    refused(be->norm(ctx, b, &(ops_norm_args){.x = {buf, 0, OPS_F32, 40, stride}, .n_y = 2, .y = {{buf, 0, OPS_F32, 48, stride}, {buf, 0, OPS_F32, 40, stride}}}), "y has 48 columns, x 40");
    OK(be->attention(ctx, b, &at));
    int32_t tokens[4] = {0}, bad[1] = {7};
    ops_span span = {.n_rows = 4};
    ops_batch_desc d = {.n_rows = 4, .tokens = tokens, .n_spans = 1, .spans = &span, .tables = {bad}, .n_table = {1}};
    OK(be->batch_set(ctx, b, &d));
    refused(be->attention(ctx, b, &at), "beyond the cache's 2");
    refused(be->qkv(ctx, b, &(ops_qkv_args){.q = m, .k = m, .v = m, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .rope = -1, .kv = kv}), "writes KV block 7 of 2");
    d.n_rows = 65;
    refused(be->batch_set(ctx, b, &d), "exceeds the batch's");
    OK(be->sync(ctx));
    be->kv_destroy(ctx, &kv);
    be->batch_destroy(ctx, &b);
    be->buf_destroy(ctx, &buf);
}

/* One past what is there, and the last that is; first and last entries of a list each by itself. */
static void limits_are_where_they_are_said_to_be(void **state)
{
    (void)state;
    enum { COLS = 64, BLOCKS = 3 };
    size_t stride = ops_row_bytes(OPS_F32, COLS);
    ops_buf *buf;
    ops_kv *kv;
    ops_batch *b;
    OK(be->buf_create(ctx, stride * 40, "test", &buf));
    OK(be->kv_create(ctx, &(ops_kv_spec){OPS_KV_F32, 1, 1, COLS, BLOCKS}, &kv));
    const ops_kv_spec nothing[] = {{OPS_KV_F32, 0, 1, COLS, BLOCKS}, {OPS_KV_F32, 1, 0, COLS, BLOCKS}, {OPS_KV_F32, 1, 1, COLS, 0}};
    const ops_kv_spec impossible[] = {{OPS_KV_F32, -1, 1, COLS, BLOCKS}, {OPS_KV_F32, 1, -1, COLS, BLOCKS}, {OPS_KV_F32, 1, 1, COLS, -1}};
    for (int i = 0; i < 3; i++) {
        ops_kv *k;
        OK(be->kv_create(ctx, &nothing[i], &k)); /* a stage may have no layer with a cache */
        be->kv_destroy(ctx, &k);
        refused(be->kv_create(ctx, &impossible[i], &k), "impossible size");
    }
    refused(be->kv_copy_block(ctx, kv, BLOCKS, 0), "has 3 blocks");
    refused(be->kv_copy_block(ctx, kv, -1, 0), "has 3 blocks");
    refused(be->kv_copy_block(ctx, kv, 0, -1), "has 3 blocks");
    OK(be->kv_copy_block(ctx, kv, 0, BLOCKS - 1));
    OK(be->kv_copy_block(ctx, kv, BLOCKS - 1, 0));

    /* Block tables: two sequences, the second with 3 blocks behind the first's one; what lies before a window is not looked at, the edges of what is read are. */
    ops_batch_limits l = {.max_rows = 16, .max_spans = 2, .max_out = 1, .max_blocks = 8, .n_kv_groups = 1};
    OK(be->batch_create(ctx, &l, &b));
    ops_mat m = {buf, 0, OPS_F32, COLS, stride}, y = {buf, stride * 20, OPS_F32, COLS, stride};
    int32_t tokens[16] = {0}, table[4] = {0};
    ops_span spans[2] = {{.row = 0, .n_rows = 2, .position = 14}, {.row = 2, .n_rows = 2, .position = 31, .table = {1}}};
    ops_batch_desc d = {.n_rows = 4, .tokens = tokens, .n_spans = 2, .spans = spans, .tables = {table}, .n_table = {4}};
    ops_attention_args at = {.q = m, .n_heads = 1, .head_dim = COLS, .heads_per_kv = 1, .scale = 1, .kv = kv, .y = y};
    for (int window = 0; window <= 17; window += 17) {
        at.window = window;
        for (int entry = 0; entry < 4; entry++) {
            for (int wrong = 0; wrong < 3; wrong++) {
                static const int32_t values[] = {-1, BLOCKS, BLOCKS - 1};
                memset(table, 0, sizeof(table));
                table[entry] = values[wrong];
                OK(be->batch_set(ctx, b, &d));
                if (wrong < 2) /* with a window of 17 position 31 sees 15 and on: the first block of the second sequence too ... */
                    refused(be->attention(ctx, b, &at), "beyond the cache's 3");
                else
                    OK(be->attention(ctx, b, &at));
            }
        }
    }
    at.window = 16; /* ... and with one of 16 it does not */
    memset(table, 0, sizeof(table));
    table[1] = 77;
    OK(be->batch_set(ctx, b, &d));
    OK(be->attention(ctx, b, &at));
    OK(be->sync(ctx));
    be->batch_destroy(ctx, &b);
    be->kv_destroy(ctx, &kv);

    /* Vectors and parts up to the last byte. */
    b = batch_of(4);
    OK(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .weight = {buf, stride * 40 - COLS * 4, COLS}, .eps = 1, .n_y = 1, .y = {y}}));
    refused(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .weight = {buf, stride * 40 - COLS * 4 + 4, COLS}, .eps = 1, .n_y = 1, .y = {y}}), "a vector of 64");
    refused(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .weight = {buf, stride * 41, COLS}, .eps = 1, .n_y = 1, .y = {y}}), "a vector of 64");
    refused(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .weight = {buf, 0, COLS - 1}, .eps = 1, .n_y = 1, .y = {y}}), "a vector of 63");
    ops_mat narrow = y; /* the second of two outputs */
    narrow.offset = stride * 39;
    refused(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .eps = 1, .n_y = 2, .y = {y, narrow}}), "do not fit");
    refused(be->norm(ctx, b, &(ops_norm_args){.x = m, .norm = OPS_NORM_RMS, .eps = 1, .n_y = 2, .y = {narrow, y}}), "do not fit");
    be->batch_destroy(ctx, &b);
    be->buf_destroy(ctx, &buf);
}

static void sampling_looks_at_every_row(void **state)
{
    (void)state;
    enum { COLS = 64, N = 3 };
    size_t stride = ops_row_bytes(OPS_F32, COLS);
    ops_buf *buf;
    OK(be->buf_create(ctx, stride * 6, "test", &buf));
    ops_mat logits = {buf, 0, OPS_F32, COLS, stride}, adjusted = {buf, stride * 3, OPS_F32, COLS, stride};
    ops_sample_out *out = calloc(N, sizeof(*out));
    const ops_sample_row good = {.temperature = 1, .repetition_penalty = 1, .n_candidates = 1, .target = -1, .want_sample = true};
    for (int wrong = -1; wrong < N * 7; wrong++) {
        ops_sample_row rows[N + 1];
        for (int i = 0; i <= N; i++) {
            rows[i] = good;
            rows[i].row = i % N;
        }
        ops_sample_row *r = &rows[wrong < 0 ? 0 : wrong / 7];
        switch (wrong < 0 ? -1 : wrong % 7) {
        case 0: r->row = -1; break;
        case 1: r->row = 6; break;
        case 2: r->n_candidates = OPS_MAX_CANDIDATES + 1; break;
        case 3: r->n_raw = OPS_MAX_CANDIDATES + 1; break;
        case 4: r->temperature = -0.5f; break;
        case 5: r->n_counts = -1; break;
        case 6: r->n_bias = -1; break;
        default: break;
        }
        ops_sample_args a = {logits, adjusted, 0, 1, 0, N, rows, out};
        if (wrong < 0)
            OK(be->sample(ctx, &a));
        else
            assert_int_equal(be->sample(ctx, &a), ST_INVALID);
    }
    /* Nothing is wanted of a row, or nothing allowed, adjusted or counted in most: each list's room is its own row's. */
    static ops_token_count counts[40000];
    static ops_token_bias bias[40000];
    static const uint32_t allow[2] = {~0u, ~0u};
    for (int i = 0; i < 40000; i++) {
        counts[i] = (ops_token_count){i % COLS, 1, false};
        bias[i] = (ops_token_bias){i % COLS, 0.5f};
    }
    for (int i = 0; i < N * 3; i++) {
        ops_sample_row rows[N] = {good, good, good};
        for (int k = 0; k < N; k++) {
            rows[k].n_candidates = rows[k].n_raw = 0;
            rows[k].temperature = 0;
        }
        if (i / N == 0)
            rows[i % N].n_counts = 10000 + 5000 * i, rows[i % N].counts = counts;
        else if (i / N == 1)
            rows[i % N].n_bias = 10000 + 5000 * i, rows[i % N].bias = bias;
        else
            rows[i % N].allow = allow;
        OK(be->sample(ctx, &(ops_sample_args){logits, adjusted, 0, 1, 0, N, rows, out}));
        OK(be->sync(ctx));
    }
    ops_sample_row one = good;
    ops_sample_args a = {logits, adjusted, INT32_MAX - 65536 - COLS, 1, 0, 1, &one, out};
    OK(be->sample(ctx, &a));
    a.vocab_begin++;
    refused(be->sample(ctx, &a), "columns of logits from token");
    a.vocab_begin = -1;
    refused(be->sample(ctx, &a), "columns of logits from token");
    a.vocab_begin = 0;
    a.n = 0;
    OK(be->sample(ctx, &a));
    OK(be->sync(ctx));
    be->buf_destroy(ctx, &buf);
    free(out);
}

/* What qkv stores attention reads, scales of several groups included: against sums in double over keys and values as they were before rounding. */
static void check_kept(ops_kv_type type, int32_t dim, size_t rows, double tolerance)
{
    enum { ROWS = 64, HEADS = 2 };
    const size_t wide = ops_row_bytes(OPS_F32, HEADS * dim), narrow = ops_row_bytes(OPS_F32, dim);
    float *q = calloc(ROWS, wide), *k = calloc(ROWS, narrow), *v = calloc(ROWS, narrow), *y = calloc(ROWS, wide);
    const size_t qs = wide / 4, ks = narrow / 4;
    uint32_t seed = 1;
    for (size_t r = 0; r < ROWS; r++)
        for (int32_t c = 0; c < HEADS * dim; c++) {
            float size = c / 32 % 2 == 0 ? 1.0f : 0.1f; /* a group of 32 unlike its neighbour, and a token unlike the next */
            q[r * qs + (size_t)c] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f;
            if (c >= dim)
                continue;
            k[r * ks + (size_t)c] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f * (r % 3 == 0 ? 2.0f : size);
            v[r * ks + (size_t)c] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-31f * (r % 3 == 1 ? 1.0f : size);
        }
    ops_buf *buf[4];
    const float *from[4] = {q, k, v, y};
    for (int i = 0; i < 4; i++) {
        OK(be->buf_create(ctx, ROWS * (i % 3 == 0 ? wide : narrow), "test", &buf[i]));
        OK(be->buf_write(ctx, buf[i], 0, from[i], ROWS * (i % 3 == 0 ? wide : narrow)));
    }
    ops_kv *kv;
    ops_kv_spec spec = {type, 1, 1, dim, 4};
    OK(be->kv_create(ctx, &spec, &kv));
    ops_batch *b = batch_of((int32_t)rows);
    int32_t tokens[ROWS] = {0}, table[] = {3, 1, 0, 2};
    ops_span span = {.n_rows = (int32_t)rows};
    OK(be->batch_set(ctx, b, &(ops_batch_desc){.n_rows = (int32_t)rows, .tokens = tokens, .n_spans = 1, .spans = &span, .tables = {table}, .n_table = {4}}));
    ops_mat mq = {buf[0], 0, OPS_F32, HEADS * dim, wide}, mk = {buf[1], 0, OPS_F32, dim, narrow}, mv = {buf[2], 0, OPS_F32, dim, narrow}, my = {buf[3], 0, OPS_F32, HEADS * dim, wide};
    OK(be->qkv(ctx, b, &(ops_qkv_args){.q = mq, .k = mk, .v = mv, .n_heads = HEADS, .n_kv_heads = 1, .head_dim = dim, .rope = -1, .kv = kv}));
    OK(be->attention(ctx, b, &(ops_attention_args){.q = mq, .n_heads = HEADS, .head_dim = dim, .heads_per_kv = HEADS, .scale = 0.3f, .kv = kv, .y = my}));
    OK(be->buf_read(ctx, buf[3], 0, y, ROWS * wide));
    for (size_t r = 0; r < rows; r++)
        for (size_t h = 0; h < HEADS; h++) {
            double weight[ROWS], sum = 0.0;
            for (size_t t = 0; t <= r; t++) {
                double dot = 0.0;
                for (size_t d = 0; d < (size_t)dim; d++)
                    dot += (double)q[r * qs + h * (size_t)dim + d] * (double)k[t * ks + d];
                sum += weight[t] = exp(0.3 * dot);
            }
            for (size_t d = 0; d < (size_t)dim; d++) {
                double want = 0.0, got = (double)y[r * qs + h * (size_t)dim + d];
                for (size_t t = 0; t <= r; t++)
                    want += weight[t] / sum * (double)v[t * ks + d];
                if (!(fabs(got - want) < tolerance))
                    fail_msg("type %d, heads of %d, row %zu, head %zu, dimension %zu: %g, want %g", (int)type, dim, r, h, d, got, want);
            }
        }
    be->kv_destroy(ctx, &kv);
    be->batch_destroy(ctx, &b);
    for (int i = 0; i < 4; i++)
        be->buf_destroy(ctx, &buf[i]);
    free(q);
    free(k);
    free(v);
    free(y);
}

static void keys_and_values_come_back(void **state)
{
    (void)state;
    static const double tolerance[] = {[OPS_KV_F32] = 1e-5, [OPS_KV_F16] = 2e-3, [OPS_KV_BF16] = 1e-2, [OPS_KV_Q8] = 1e-2, [OPS_KV_F8] = 6e-2}; /* fp8: a 16th of a value */
    for (int t = 0; t < OPS_KV_TYPES; t++) {
        check_kept((ops_kv_type)t, 40, 21, tolerance[t]);
        check_kept((ops_kv_type)t, 96, 21, tolerance[t]);
        check_kept((ops_kv_type)t, 128, 21, tolerance[t]);
    }
    check_kept(OPS_KV_F32, 40, 64, tolerance[OPS_KV_F32]); /* each array of the step's description is full */
}

/* ---- layers of experts ---- */

enum { MOE_ROWS = 16, MOE_EXPERTS = 6, MOE_TOP = 2, MOE_BEGIN = 1, MOE_LOCAL = 4, MOE_HIDDEN = 96, MOE_INNER = 64 };

typedef struct moe { /* a layer of one backend, all in one buffer */
    const ops_backend *be;
    ops_ctx *ctx;
    ops_buf *buf;
    size_t used, spare;
    ops_routing *routing;
    ops_mat logits, x, gate, up, act, result, y, pairs;
    ops_expert_weights w[3];
} moe;

static ops_mat moe_mat(moe *m, ops_type type, int32_t rows, int32_t cols)
{
    ops_mat mat = {m->buf, m->used, type, cols, ops_row_bytes(type, cols)};
    m->used += mat.stride * (size_t)rows;
    return mat;
}

static void moe_write(moe *m, size_t offset, size_t n, float scale, uint32_t seed)
{
    float *f = malloc(n * sizeof(*f));
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        f[i] = (float)(int32_t)seed * 0x1p-31f * scale;
    }
    OK(m->be->buf_write(m->ctx, m->buf, offset, f, n * sizeof(*f)));
    free(f);
}

static void moe_open(moe *m, const ops_backend *backend, ops_ctx *c)
{
    enum { BYTES = 1 << 20 };
    ops_routing_spec spec = {MOE_ROWS, MOE_EXPERTS, MOE_TOP, MOE_BEGIN, MOE_LOCAL};
    *m = (moe){.be = backend, .ctx = c};
    OK(backend->buf_create(c, BYTES, "layer", &m->buf));
    OK(backend->routing_create(c, &spec, &m->routing));
    m->logits = moe_mat(m, OPS_F32, MOE_ROWS, MOE_EXPERTS);
    m->x = moe_mat(m, OPS_Q8, MOE_ROWS, MOE_HIDDEN);
    m->gate = moe_mat(m, OPS_F32, MOE_ROWS * MOE_TOP, MOE_INNER);
    m->up = moe_mat(m, OPS_F32, MOE_ROWS * MOE_TOP, MOE_INNER);
    m->act = moe_mat(m, OPS_Q8, MOE_ROWS * MOE_TOP, MOE_INNER);
    m->result = moe_mat(m, OPS_F32, MOE_ROWS * MOE_TOP, MOE_HIDDEN);
    m->y = moe_mat(m, OPS_F32, MOE_ROWS, MOE_HIDDEN);
    m->pairs = moe_mat(m, OPS_Q8, MOE_ROWS * MOE_TOP, MOE_HIDDEN);
    m->spare = m->used;
    (void)moe_mat(m, OPS_F32, MOE_ROWS * MOE_TOP, MOE_INNER);
    for (int i = 0; i < 3; i++) {
        packed_layout l;
        packed_shape s = {PACKED_Q4_0, i < 2 ? MOE_INNER : MOE_HIDDEN, i < 2 ? MOE_HIDDEN : MOE_INNER, 0};
        assert_true(packed_layout_of(s, &l));
        m->w[i] = (ops_expert_weights){.first = {m->buf, m->used, s}, .stride = mem_align(l.bytes, 64)};
        char *bytes = calloc(MOE_LOCAL, m->w[i].stride);
        uint32_t seed = (uint32_t)i + 5;
        for (int e = 0; e < MOE_LOCAL; e++)
            for (int32_t r = 0; r < s.rows; r++)
                for (int32_t u = 0; u < l.units; u++) {
                    uint8_t codes[PACKED_UNIT];
                    for (int k = 0; k < PACKED_UNIT; k++)
                        codes[k] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 28);
                    packed_set_unit(&l, bytes + (size_t)e * m->w[i].stride, r, u, codes);
                    packed_set_scale(&l, bytes + (size_t)e * m->w[i].stride, r, u, (uint16_t)(0x2400 + (seed >> 23 & 0xff)), 0);
                }
        OK(backend->buf_write(c, m->buf, m->used, bytes, MOE_LOCAL * m->w[i].stride));
        free(bytes);
        m->used += MOE_LOCAL * m->w[i].stride;
        m->w[i].bias = (ops_vec){m->buf, m->used, MOE_LOCAL * s.rows};
        moe_write(m, m->used, (size_t)MOE_LOCAL * (size_t)s.rows, 0.5f, (uint32_t)i + 50);
        m->used += mem_align((size_t)MOE_LOCAL * (size_t)s.rows * sizeof(float), 64);
    }
    assert_true(m->used <= BYTES);
}

/* What comes into the layer: logits, and x by way of y. */
static void moe_step(moe *m, int32_t rows, uint32_t seed)
{
    moe_write(m, m->logits.offset, MOE_ROWS * m->logits.stride / sizeof(float), 3.0f, seed);
    moe_write(m, m->y.offset, MOE_ROWS * m->y.stride / sizeof(float), 1.0f, seed + 1);
    OK(m->be->gate(m->ctx, &(ops_gate_args){.rows = rows, .gate = m->y, .activation = OPS_GELU, .y = m->x}));
}

/* weighed: the weights act before the experts. */
static void moe_run(moe *m, int32_t rows, bool weighed)
{
    ops_experts_args in = {.routing = m->routing, .x_by_row = !weighed, .x = weighed ? m->pairs : m->x, .n = 2, .w = {m->w[0], m->w[1]}, .y = {m->gate, m->up}};
    ops_experts_args out = {.routing = m->routing, .x = m->act, .n = 1, .w = {m->w[2]}, .y = {m->result}};
    OK(m->be->route(m->ctx, &(ops_route_args){.rows = rows, .logits = m->logits, .renormalise = true, .scale = 1.5f, .routing = m->routing}));
    if (weighed)
        OK(m->be->dispatch(m->ctx, &(ops_dispatch_args){m->routing, m->y, m->pairs}));
    OK(m->be->experts(m->ctx, &in));
    OK(m->be->gate(m->ctx, &(ops_gate_args){.gate = m->gate, .up = m->up, .activation = OPS_SILU, .y = m->act, .pairs = m->routing}));
    OK(m->be->experts(m->ctx, &out));
    OK(m->be->combine(m->ctx, &(ops_combine_args){.routing = m->routing, .x = m->result, .weighed = weighed, .accumulate = true, .y = m->y}));
}

static void moe_close(moe *m)
{
    m->be->routing_destroy(m->ctx, &m->routing);
    assert_null(m->routing);
    m->be->routing_destroy(m->ctx, &m->routing);
    m->be->buf_destroy(m->ctx, &m->buf);
}

/* Rows that were computed, and those beyond, which are as they were. */
static void moe_same(moe *got, moe *want)
{
    static char a[MOE_ROWS * MOE_TOP * MOE_HIDDEN * 4 + 64 * MOE_ROWS * MOE_TOP], b[sizeof(a)];
    const ops_mat *of[2][4] = {{&got->y, &got->gate, &got->up, &got->result}, {&want->y, &want->gate, &want->up, &want->result}};
    for (int i = 0; i < 4; i++) {
        size_t bytes = (i == 0 ? MOE_ROWS : MOE_ROWS * MOE_TOP) * of[0][i]->stride;
        assert_true(bytes <= sizeof(a));
        OK(got->be->buf_read(got->ctx, got->buf, of[0][i]->offset, a, bytes));
        OK(want->be->buf_read(want->ctx, want->buf, of[1][i]->offset, b, bytes));
        assert_memory_equal(a, b, bytes);
    }
}

static void experts_give_the_cpus_bits(void **state)
{
    (void)state;
    ops_ctx *cpu;
    ops_ctx_options o = {.n_threads = 2, .first_core = -1, .max_rows = 64, .max_cols = 256};
    moe got, want;
    OK(ops_cpu()->ctx_create(&o, &cpu));
    moe_open(&got, be, ctx);
    moe_open(&want, ops_cpu(), cpu);
    static const int32_t counts[] = {1, 16, 0, 7};
    for (uint32_t i = 0; i < 8; i++) {
        moe_step(&got, counts[i % 4], i);
        moe_step(&want, counts[i % 4], i);
        moe_run(&got, counts[i % 4], i >= 4);
        moe_run(&want, counts[i % 4], i >= 4);
        moe_same(&got, &want);
    }
    ops_experts_args a = {.routing = got.routing, .x_by_row = true, .x = got.x, .n = 1, .w = {got.w[0]}, .y = {got.gate}}, bad;
    ops_routing *none;
    refused(be->routing_create(ctx, &(ops_routing_spec){1, 8, 9, 0, 8}, &none), "9 of 8 experts");
    refused(be->route(ctx, &(ops_route_args){.rows = MOE_ROWS + 1, .logits = got.logits, .routing = got.routing}), "made for 16");
    bad = a, bad.w[0].stride = got.w[0].stride - 64;
    refused(be->experts(ctx, &bad), "apart");
    bad = a, bad.w[0].stride = (size_t)1 << 40;
    refused(be->experts(ctx, &bad), "exceed their buffer");
    bad = a, bad.w[0].bias.n--;
    refused(be->experts(ctx, &bad), "needed");
    bad = a, bad.x = got.y;
    refused(be->experts(ctx, &bad), "format of x");
    bad = a, bad.y[0].offset = (1 << 20) - 64;
    refused(be->experts(ctx, &bad), "do not fit a buffer");
    bad = a, bad.n = OPS_MAX_FUSED + 1;
    refused(be->experts(ctx, &bad), "at most 4");
    bad = a, bad.n = -1;
    refused(be->experts(ctx, &bad), "at most 4");
    bad = a, bad.n = 0;
    OK(be->experts(ctx, &bad));
    bad = a, bad.n = OPS_MAX_FUSED; /* as many products as there may be */
    bad.w[1] = bad.w[2] = bad.w[3] = got.w[1];
    bad.y[1] = got.up, bad.y[2] = got.act, bad.y[3] = got.result;
    bad.y[2].type = OPS_F32, bad.y[2].stride = 256, bad.y[2].offset = got.spare;
    OK(be->experts(ctx, &bad));
    char up[256], again[256];
    OK(be->buf_read(ctx, got.buf, got.up.offset, up, sizeof(up)));
    OK(be->buf_read(ctx, got.buf, got.spare, again, sizeof(again)));
    assert_memory_equal(up, again, sizeof(up));
    OK(be->buf_read(ctx, got.buf, got.result.offset, again, sizeof(again)));
    assert_memory_equal(up, again, sizeof(up));
    refused(be->dispatch(ctx, &(ops_dispatch_args){got.routing, got.x, got.pairs}), "f32");
    refused(be->combine(ctx, &(ops_combine_args){.routing = got.routing, .x = got.x, .y = got.y}), "f32");
    moe_close(&got);
    moe_close(&want);
    ops_cpu()->ctx_destroy(&cpu);
}

/* Steps of as many sequences, then more and fewer of the same bucket, recorded and played, with other rows to other experts each time. */
static void recorded_experts_go_where_the_step_says(void **state)
{
    (void)state;
    static const int32_t counts[] = {5, 6, 8, 5, 7, 3};
    ops_batch *b;
    ops_batch_limits l = {.max_rows = 64, .max_spans = 16, .max_out = 64, .max_blocks = 64, .n_kv_groups = 1};
    ops_kv *kv;
    moe got, want;
    OK(be->batch_create(ctx, &l, &b));
    OK(be->kv_create(ctx, &(ops_kv_spec){OPS_KV_F16, 1, 1, 64, 2}, &kv));
    moe_open(&got, be, ctx);
    moe_open(&want, be, ctx);
    int n_played = 0;
    for (uint32_t i = 0; i < ARRAY_LEN(counts); i++) {
        int32_t tokens[16] = {0}, out[16], table[16] = {0}, n = counts[i];
        ops_span spans[16] = {0};
        bool played;
        for (int32_t r = 0; r < n; r++) {
            spans[r] = (ops_span){.row = r, .n_rows = 1, .table = {r}};
            out[r] = r;
        }
        OK(be->batch_set(ctx, b, &(ops_batch_desc){.n_rows = n, .tokens = tokens, .n_spans = n, .spans = spans, .tables = {table}, .n_table = {16}, .n_out = n, .out_rows = out}));
        moe_step(&want, n, i + 30);
        moe_run(&want, n, false);
        moe_step(&got, n, i + 30);
        ops_attention_args at = {.q = got.gate, .n_heads = 1, .head_dim = 64, .heads_per_kv = 1, .scale = 1, .kv = kv, .y = {got.buf, got.spare, OPS_F32, MOE_INNER, MOE_INNER * 4}}; /* without one no step is recorded */
        OK(be->graph_begin(ctx, b, &played));
        if (!played) {
            OK(be->attention(ctx, b, &at));
            moe_run(&got, n, false);
            OK(be->graph_end(ctx));
        }
        n_played += played;
        moe_same(&got, &want);
    }
    assert_true(n_played >= 2);
    moe_close(&got);
    moe_close(&want);
    be->kv_destroy(ctx, &kv);
    be->batch_destroy(ctx, &b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_context_says_what_it_is),      cmocka_unit_test(buffers_hold_what_was_written), cmocka_unit_test(parts_come_from_host_and_device),
        cmocka_unit_test(marks_tell_the_devices_time), cmocka_unit_test(copies_and_operations_keep_their_order), cmocka_unit_test(what_is_destroyed_is_used_to_the_end),
        cmocka_unit_test(sums_come_back_at_sync), cmocka_unit_test(what_contradicts_itself_is_refused),
        cmocka_unit_test(limits_are_where_they_are_said_to_be), cmocka_unit_test(sampling_looks_at_every_row), cmocka_unit_test(keys_and_values_come_back),
        cmocka_unit_test(experts_give_the_cpus_bits), cmocka_unit_test(recorded_experts_go_where_the_step_says),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
