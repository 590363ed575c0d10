/* tests/cuda/test_cuda_graph.c - recorded steps: which step of a bucket runs as ever, is recorded, is played; that a played one computes the bits of an unrecorded one from what
 * its own description says, refuses what an unrecorded one would, and counts its time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "ops/device.h"

#define OK(expr) assert_int_equal(expr, ST_OK)

enum { HEAD = 32, MOST_ROWS = 8, MOST_SPANS = 8, CONTEXT = 8192, NEAR = 20, FULL_BLOCKS = 70, NEAR_BLOCKS = 5, EACH = CONTEXT / OPS_KV_BLOCK };

static const ops_backend *be;
static ops_ctx *ctx;
static ops_buf *buf;
static ops_kv *full, *near; /* what group 0 keeps, and group 1, of which attention looks back by NEAR */

/* A step: so many sequences, of so many rows, from this position. */
typedef struct asked {
    int32_t n, rows[MOST_SPANS], position[MOST_SPANS];
} asked;

typedef struct runner {
    ops_batch *batch;
    ops_mat q, y[2], z;
    bool records;
} runner;

static int32_t tables[2][MOST_SPANS * EACH];

static ops_mat matrix(size_t *at)
{
    ops_mat m = {buf, *at, OPS_F32, HEAD, ops_row_bytes(OPS_F32, HEAD)};
    *at += m.stride * 64;
    return m;
}

static void batch_open(runner *r, int32_t max_rows)
{
    ops_batch_limits l = {.max_rows = max_rows, .max_spans = MOST_SPANS, .max_out = max_rows, .max_blocks = MOST_SPANS * EACH, .max_context = CONTEXT, .n_kv_groups = OPS_MAX_KV_GROUPS};
    OK(be->batch_create(ctx, &l, &r->batch));
}

static void tables_fill(void)
{
    for (int32_t i = 0; i < MOST_SPANS * EACH; i++) {
        tables[0][i] = (i * 3) % FULL_BLOCKS;
        tables[1][i] = i % NEAR_BLOCKS;
    }
}

static void set(runner *r, const asked *a)
{
    int32_t tokens[64] = {0}, out[64], rows = 0;
    ops_span spans[MOST_SPANS] = {0};
    for (int32_t i = 0; i < a->n; i++) {
        spans[i] = (ops_span){.row = rows, .n_rows = a->rows[i], .position = a->position[i], .table = {i * EACH, i * EACH}}; /* of groups 0 and 1 */
        for (int32_t j = 0; j < a->rows[i]; j++, rows++)
            out[rows] = rows;
    }
    ops_batch_desc d = {.n_rows = rows, .tokens = tokens, .n_spans = a->n, .spans = spans, .n_out = rows, .out_rows = out};
    for (int g = 0; g < OPS_MAX_KV_GROUPS; g++) { /* the others are not asked for */
        d.tables[g] = tables[g % 2];
        d.n_table[g] = MOST_SPANS * EACH;
    }
    OK(be->batch_set(ctx, r->batch, &d));
}

static status operations(runner *r)
{
    ops_attention_args far = {.q = r->q, .n_heads = 1, .head_dim = HEAD, .heads_per_kv = 1, .scale = 0.5f, .kv = full, .kv_group = 0, .y = r->y[0]}, close = far;
    close.window = NEAR;
    close.kv = near;
    close.kv_group = 1;
    close.y = r->y[1];
    be->time_mark(ctx, 0);
    TRY(be->attention(ctx, r->batch, &far));
    be->time_mark(ctx, 2);
    TRY(be->attention(ctx, r->batch, &close));
    const float *parts[2] = {be->mat_part(ctx, &r->y[0]), be->mat_part(ctx, &r->y[1])};
    ops_norm_args add = {.x = r->z, .replace = true, .parts = {parts, 2, r->y[0].stride / 4}, .residual_scale = 1.0f};
    TRY(be->norm(ctx, r->batch, &add));
    be->time_mark(ctx, -1);
    return ST_OK;
}

/* Whether it was played. */
static bool run(runner *r, const asked *a)
{
    bool played = false;
    set(r, a);
    if (r->records)
        OK(be->graph_begin(ctx, r->batch, &played));
    if (!played) {
        OK(operations(r));
        if (r->records)
            OK(be->graph_end(ctx));
    }
    return played;
}

static int32_t rows_of(const asked *a)
{
    int32_t n = 0;
    for (int32_t i = 0; i < a->n; i++)
        n += a->rows[i];
    return n;
}

static void check(runner *recorded, runner *plain, const asked *a, bool want_played, const char *what)
{
    static char got[64 * HEAD * 4], want[sizeof(got)];
    bool played = run(recorded, a);
    if (played != want_played)
        fail_msg("%s: a step of %d sequences was %splayed", what, a->n, played ? "" : "not ");
    run(plain, a);
    for (int i = 0; i < 3; i++) {
        const ops_mat *x = i < 2 ? &recorded->y[i] : &recorded->z, *y = i < 2 ? &plain->y[i] : &plain->z;
        size_t bytes = (size_t)rows_of(a) * x->stride;
        assert_true(bytes <= sizeof(got));
        OK(be->buf_read(ctx, buf, x->offset, got, bytes));
        OK(be->buf_read(ctx, buf, y->offset, want, bytes));
        if (memcmp(got, want, bytes) != 0)
            fail_msg("%s: result %d of a step of %d sequences, %splayed, differs from an unrecorded one", what, i, a->n, played ? "" : "not ");
    }
}

/* Different buckets, each apart from some other in one thing. */
static const asked steps[] = {
    {1, {1}, {0}},                                                  /* 1 row, 1 piece */
    {1, {1}, {600}},                                                /* 1 row, 3 pieces */
    {2, {1, 1}, {3, 9}},                                            /* 2 rows, 2 pieces of 1 */
    {1, {2}, {7}},                                                  /* 2 rows, 1 piece of 2 */
    {2, {1, 3}, {40, 70}},                                          /* 4 rows, 2 pieces, the largest of 3 */
    {2, {2, 2}, {40, 70}},                                          /* 4 rows, 2 pieces, the largest of 2 */
    {3, {1, 1, 1}, {200, 5, 250}},                                  /* 3 rows as 4 */
    {8, {1, 1, 1, 1, 1, 1, 1, 1}, {1, 20, 300, 4, 5, 600, 70, 8}}, /* as many as there can be */
};
static const asked fourth = {4, {1, 1, 1, 1}, {10, 11, 100, 201}}; /* the bucket of three */

static void setup(runner *recorded, runner *plain)
{
    size_t at = 0;
    float fill[64 * HEAD];
    ops_ctx_options o = {.max_rows = MOST_ROWS, .max_cols = 256};
    status_mute();
    if (ops_device_open(OPS_DEVICE_CUDA, &be, NULL, 0) != ST_OK) {
        print_message("skipped: %s\n", status_message());
        exit(77);
    }
    OK(be->ctx_create(&o, &ctx));
    OK(be->buf_create(ctx, (size_t)64 * HEAD * 4 * 16, "test", &buf));
    OK(be->kv_create(ctx, &(ops_kv_spec){OPS_KV_F32, 1, 1, HEAD, FULL_BLOCKS}, &full));
    OK(be->kv_create(ctx, &(ops_kv_spec){OPS_KV_F32, 1, 1, HEAD, NEAR_BLOCKS}, &near));
    uint32_t seed = 3;
    ops_mat q = matrix(&at);
    for (int i = 0; i < 64 * HEAD; i++)
        fill[i] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-30f;
    OK(be->buf_write(ctx, buf, q.offset, fill, sizeof(fill)));
    for (int i = 0; i < 2; i++) {
        runner *r = i == 0 ? recorded : plain;
        *r = (runner){.q = q, .y = {matrix(&at), matrix(&at)}, .z = matrix(&at), .records = i == 0};
        batch_open(r, MOST_ROWS);
    }
    /* Every block of both caches gets keys and values of its own. */
    ops_mat kv = matrix(&at);
    for (int32_t b = 0; b < FULL_BLOCKS * 2; b++) {
        asked a = {1, {MOST_ROWS}, {b % 2 * MOST_ROWS}};
        for (int32_t i = 0; i < EACH; i++)
            tables[0][i] = b / 2, tables[1][i] = b / 2 % NEAR_BLOCKS;
        set(plain, &a);
        for (int i = 0; i < MOST_ROWS * HEAD; i++)
            fill[i] = (float)(int32_t)(seed = seed * 1664525u + 1013904223u) * 0x1p-30f;
        OK(be->buf_write(ctx, buf, kv.offset, fill, MOST_ROWS * HEAD * 4));
        for (int g = 0; g < 2; g++)
            OK(be->qkv(ctx, plain->batch, &(ops_qkv_args){.q = plain->z, .k = kv, .v = kv, .n_heads = 1, .n_kv_heads = 1, .head_dim = HEAD, .rope = -1, .kv = g == 0 ? full : near, .kv_group = g}));
    }
    OK(be->sync(ctx));
    tables_fill();
}

static void teardown(runner *recorded, runner *plain)
{
    be->batch_destroy(ctx, &recorded->batch);
    be->batch_destroy(ctx, &plain->batch);
    be->kv_destroy(ctx, &full);
    be->kv_destroy(ctx, &near);
    be->buf_destroy(ctx, &buf);
    be->ctx_destroy(&ctx);
    status_unmute();
}

static void a_bucket_runs_is_recorded_is_played(void **state)
{
    (void)state;
    runner recorded, plain;
    setup(&recorded, &plain);
    check(&recorded, &plain, &steps[0], false, "the first step of all"); /* work lists are not known yet: of no bucket */
    for (int round = 0; round < 4; round++)
        for (size_t i = 0; i < ARRAY_LEN(steps); i++)
            check(&recorded, &plain, &steps[i], round >= 2, "in turn");
    check(&recorded, &plain, &fourth, true, "four rows");
    check(&recorded, &plain, &steps[6], true, "three again");

    /* A table says where keys and values lie: a played step looks it up anew. */
    for (int32_t i = 0; i < MOST_SPANS * EACH; i++) {
        tables[0][i] = (i * 5 + 1) % FULL_BLOCKS;
        tables[1][i] = (i + 2) % NEAR_BLOCKS;
    }
    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        check(&recorded, &plain, &steps[i], true, "with other tables");
    tables_fill();

    /* Another batch has recordings of its own. */
    runner other = recorded;
    batch_open(&other, MOST_ROWS);
    for (int n = 0; n < 4; n++) { /* once more: its work lists are not known at first */
        check(&other, &plain, &steps[0], n == 3, "another batch");
        check(&recorded, &plain, &steps[0], true, "the first batch");
    }
    be->batch_destroy(ctx, &other.batch);

    /* What that freed may have been recorded: all is recorded anew. */
    for (int n = 0; n < 4; n++)
        check(&recorded, &plain, &steps[1], n >= 2, "after a batch has gone");

    /* So it is when scratch has moved. */
    packed_layout l;
    packed_shape s = {PACKED_Q8_0, 16, HEAD, 0}; /* x has to be quantised */
    ops_buf *w;
    assert_true(packed_layout_of(s, &l));
    OK(be->buf_create(ctx, l.bytes + 4096, "weight", &w));
    ops_mat wide = {w, mem_align(l.bytes, 64), OPS_F32, 16, 64};
    OK(be->linear(ctx, &(ops_linear_args){.rows = 8, .x = recorded.q, .n = 1, .w = {{w, 0, s}}, .y = {wide}}));
    for (int n = 0; n < 4; n++)
        for (size_t i = 0; i < ARRAY_LEN(steps); i++)
            check(&recorded, &plain, &steps[i], n >= 2, "after scratch has grown");
    be->buf_destroy(ctx, &w);

    /* A bucket beyond the batch's rows, or the context's, is not recorded. */
    runner small = recorded;
    static const asked five = {5, {1, 1, 1, 1, 1}, {1, 2, 3, 4, 5}}, two = {2, {1, 1}, {60, 61}};
    batch_open(&small, 6);
    for (int n = 0; n < 5; n++)
        check(&small, &plain, &five, false, "more than the batch has");
    for (int n = 0; n < 4; n++)
        check(&small, &plain, &two, n >= 2, "fewer than the batch has");
    be->batch_destroy(ctx, &small.batch);
    batch_open(&small, 16);
    static const asked nine = {3, {3, 3, 3}, {1, 2, 3}};
    run(&small, &two); /* the context's scratch would not do for sixteen */
    for (int n = 0; n < 4; n++) {
        set(&small, &nine);
        bool played = true;
        OK(be->graph_begin(ctx, small.batch, &played));
        assert_false(played);
        OK(be->graph_end(ctx));
    }
    /* No rows: nothing is recorded, nothing computed. */
    for (int n = 0; n < 4; n++)
        check(&small, &plain, &(asked){0}, false, "no rows");
    be->batch_destroy(ctx, &small.batch);
    teardown(&recorded, &plain);
}

/* A batch's first steps, queued one behind the other: its work lists are made with the first, and each step keeps its own until the device has read it. */
static void first_steps_keep_their_lists(void **state)
{
    (void)state;
    enum { STEPS = 4 };
    static const int which[STEPS] = {1, 6, 4, 7};
    static char got[STEPS][64 * HEAD * 4], want[64 * HEAD * 4];
    runner recorded, plain;
    setup(&recorded, &plain);
    for (int round = 0; round < 3; round++) {
        runner r[STEPS];
        size_t at = recorded.q.stride * 64 * 10;
        batch_open(&r[0], MOST_ROWS);
        for (int i = 0; i < STEPS; i++) {
            r[i].batch = r[0].batch;
            r[i].q = recorded.q;
            r[i].y[0] = matrix(&at);
        }
        OK(be->sync(ctx));
        for (int i = 0; i < STEPS; i++) { /* 1, 3, 4 and 8 rows */
            ops_attention_args a = {.q = r[i].q, .n_heads = 1, .head_dim = HEAD, .heads_per_kv = 1, .scale = 0.5f, .kv = full, .kv_group = 0, .y = r[i].y[0]};
            set(&r[i], &steps[which[(i + round) % STEPS]]);
            OK(be->attention(ctx, r[i].batch, &a));
        }
        OK(be->sync(ctx));
        for (int i = 0; i < STEPS; i++) {
            const asked *a = &steps[which[(i + round) % STEPS]];
            size_t bytes = (size_t)rows_of(a) * recorded.q.stride;
            OK(be->buf_read(ctx, buf, r[i].y[0].offset, got[i], bytes));
            run(&plain, a);
            OK(be->buf_read(ctx, buf, plain.y[0].offset, want, bytes));
            assert_memory_equal(got[i], want, bytes);
        }
        be->batch_destroy(ctx, &r[0].batch);
    }
    teardown(&recorded, &plain);
}

/* There is room for 64 recordings: what comes later runs as ever, and those that are there are played. */
static void there_is_an_end_to_recordings(void **state)
{
    (void)state;
    runner recorded, plain;
    int n_played = 0, n_tried = 0;
    setup(&recorded, &plain);
    run(&recorded, &steps[0]);
    for (int chunks = 1; chunks <= 32; chunks *= 2)
        for (int32_t rows = 1; rows <= MOST_ROWS; rows++)
            for (int more = 0; more < 2 && rows + more <= MOST_ROWS; more++) {
                asked a = {1 + more, {rows, 1}, {(chunks - 1) * OPS_ATTENTION_CHUNK + 8, 3}};
                bool played = true;
                for (int n = 0; n < 3; n++)
                    played = run(&recorded, &a);
                n_tried++;
                n_played += played;
            }
    assert_true(n_tried > n_played); /* some fall into one bucket, which takes nobody's place */
    for (int n = 0; n < 3; n++) {
        static const asked late = {8, {1, 1, 1, 1, 1, 1, 1, 1}, {8000, 1, 2, 3, 4, 5, 6, 7}};
        check(&recorded, &plain, &late, false, "too late");
    }
    check(&recorded, &plain, &steps[0], true, "an early one");
    teardown(&recorded, &plain);
}

/* As many windows as there may be, each with a list of its own. */
static void there_is_an_end_to_windows(void **state)
{
    (void)state;
    runner recorded, plain;
    char got[HEAD * 4], want[HEAD * 4];
    setup(&recorded, &plain);
    const asked *a = &steps[1];
    ops_attention_args at = {.q = plain.q, .n_heads = 1, .head_dim = HEAD, .heads_per_kv = 1, .scale = 0.5f, .kv = full, .y = plain.y[0]};
    set(&plain, a);
    for (at.window = 0; at.window < 8; at.window++)
        OK(be->attention(ctx, plain.batch, &at));
    assert_int_equal(be->attention(ctx, plain.batch, &at), ST_LIMIT);
    for (int n = 0; n < 4; n++) { /* all lists are made anew with each step */
        bool played = false;
        set(&plain, a);
        OK(be->graph_begin(ctx, plain.batch, &played));
        assert_true(played == (n >= 2));
        for (at.window = 1; at.window < 8 && !played; at.window++)
            OK(be->attention(ctx, plain.batch, &at));
        if (!played)
            OK(be->graph_end(ctx));
        OK(be->buf_read(ctx, buf, at.y.offset, n == 0 ? want : got, sizeof(got)));
        assert_true(n == 0 || memcmp(got, want, sizeof(got)) == 0);
    }
    teardown(&recorded, &plain);
}

static void refused(runner *r, const asked *a)
{
    bool played = false;
    set(r, a);
    status st = be->graph_begin(ctx, r->batch, &played);
    assert_false(played);
    assert_int_equal(st, ST_INVALID);
    assert_non_null(strstr(status_message(), "beyond the cache's"));
}

static void a_played_step_refuses_what_others_would(void **state)
{
    (void)state;
    runner recorded, plain;
    setup(&recorded, &plain);
    const asked *a = &steps[1]; /* at position 600: blocks 0 to 37 of group 0, and of group 1 those from 581 on: 36 and 37 */
    run(&recorded, a);
    for (int n = 0; n < 3; n++)
        check(&recorded, &plain, a, n == 2, "to begin with");
    static const int32_t of_full[] = {0, 20, 37}, of_near[] = {36, 37};
    for (size_t i = 0; i < ARRAY_LEN(of_full); i++) {
        int32_t was = tables[0][of_full[i]];
        tables[0][of_full[i]] = FULL_BLOCKS;
        refused(&recorded, a);
        tables[0][of_full[i]] = -1;
        refused(&recorded, a);
        tables[0][of_full[i]] = FULL_BLOCKS - 1; /* which group 1 does not have */
        check(&recorded, &plain, a, true, "the last block");
        tables[0][of_full[i]] = was;
    }
    for (size_t i = 0; i < ARRAY_LEN(of_near); i++) {
        int32_t was = tables[1][of_near[i]];
        tables[1][of_near[i]] = NEAR_BLOCKS;
        refused(&recorded, a);
        tables[1][of_near[i]] = was;
    }
    for (int32_t i = 0; i < 36; i++) /* freed: never read */
        tables[1][i] = i % 2 == 0 ? -1 : 1 << 30;
    for (int32_t i = 38; i < EACH; i++)
        tables[0][i] = tables[1][i] = -1;
    check(&recorded, &plain, a, true, "with what was freed");
    teardown(&recorded, &plain);
}

static void played_steps_count_their_time(void **state)
{
    (void)state;
    runner recorded, plain;
    double before[OPS_TIMES], after[OPS_TIMES];
    setup(&recorded, &plain);
    run(&recorded, &steps[0]);
    for (int n = 0; n < 2; n++)
        for (int i = 0; i < 3; i++)
            run(&recorded, &steps[i]);
    OK(be->time_read(ctx, before));
    for (int i = 0; i < 9; i++) { /* each recording's times by themselves, also where it is played again before anybody has read them */
        assert_true(run(&recorded, &steps[i % 3]));
        if (i >= 6 || i % 3 == 2) {
            OK(be->time_read(ctx, after));
            for (int k = 0; k < OPS_TIMES; k++)
                assert_true(k == 0 || k == 2 ? after[k] > before[k] : after[k] == before[k]);
            memcpy(before, after, sizeof(before));
        }
    }
    OK(be->time_read(ctx, after)); /* nothing is counted twice */
    assert_memory_equal(before, after, sizeof(before));
    teardown(&recorded, &plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_runs_is_recorded_is_played),
        cmocka_unit_test(first_steps_keep_their_lists),
        cmocka_unit_test(there_is_an_end_to_recordings),
        cmocka_unit_test(there_is_an_end_to_windows),
        cmocka_unit_test(a_played_step_refuses_what_others_would),
        cmocka_unit_test(played_steps_count_their_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
