/* tests/ops/test_ops_step.c - contexts, buffers, the cache's blocks and a step's description: what they hold and what they refuse. */
#include "tests/ops/fixture.h"

#include "ops/cpu/cpu_kv.h"
#include "ops/cpu/cpu_vec.h"

static void refused(status st)
{
    assert_int_equal(st, ST_INVALID);
    assert_true(strlen(status_message()) > 0);
}

static void contexts_say_what_they_are(void **state)
{
    (void)state;
    ops_ctx *ctx;
    ops_ctx_options o = {.n_threads = 2, .first_core = -1, .isa = "c", .max_rows = 4, .max_cols = 64};
    OK(ops_cpu()->ctx_create(&o, &ctx));
    assert_string_equal(ops_cpu()->ctx_describe(ctx), "cpu c, 2 threads");
    assert_non_null(strstr(ops_cpu()->numerics(ctx), "cpu"));
    ops_cpu()->step_begin(ctx, false);
    OK(ops_cpu()->sync(ctx));
    ops_cpu()->step_end(ctx);
    ops_cpu()->ctx_destroy(&ctx);
    assert_null(ctx);
    ops_cpu()->ctx_destroy(&ctx);
    setenv("TRIREME_ISA", "c", 1);
    o.isa = NULL;
    o.n_threads = 1;
    OK(ops_cpu()->ctx_create(&o, &ctx));
    assert_string_equal(ops_cpu()->ctx_describe(ctx), "cpu c, 1 thread");
    ops_cpu()->ctx_destroy(&ctx);
    unsetenv("TRIREME_ISA");
    OK(ops_cpu()->ctx_create(&o, &ctx)); /* the best there is */
    ops_cpu()->ctx_destroy(&ctx);
    status_mute();
    o.isa = "mmx";
    refused(ops_cpu()->ctx_create(&o, &ctx));
    assert_null(ctx);
    o.isa = "c";
    o.max_rows = 0;
    refused(ops_cpu()->ctx_create(&o, &ctx));
    for (int i = 0; i < CPU_ISAS; i++) /* what the machine lacks is named */
        if (cpu_isa_lacks((cpu_isa)i) != NULL) {
            o = (ops_ctx_options){.n_threads = 1, .isa = cpu_isa_name((cpu_isa)i), .max_rows = 1, .max_cols = 64};
            refused(ops_cpu()->ctx_create(&o, &ctx));
            assert_non_null(strstr(status_message(), cpu_isa_lacks((cpu_isa)i)));
        }
    status_unmute();
}

static void buffers_are_zeroed_and_bounded(void **state)
{
    (void)state;
    ops_ctx *ctx = contexts[0].ctx;
    ops_buf *b;
    char bytes[300], zero[300] = {0};
    OK(ops_cpu()->buf_create(ctx, 300, "test", &b));
    assert_true((uintptr_t)ops_cpu()->buf_map(ctx, b) % 64 == 0);
    OK(ops_cpu()->buf_read(ctx, b, 0, bytes, 300));
    assert_memory_equal(bytes, zero, 300);
    OK(ops_cpu()->buf_write(ctx, b, 290, "abcdefghij", 10));
    OK(ops_cpu()->buf_read(ctx, b, 295, bytes, 5));
    assert_memory_equal(bytes, "fghij", 5);
    status_mute();
    refused(ops_cpu()->buf_write(ctx, b, 291, bytes, 10));
    refused(ops_cpu()->buf_read(ctx, b, 301, bytes, 0));
    refused(ops_cpu()->buf_read(ctx, b, SIZE_MAX, bytes, 2));
    status_unmute();
    ops_cpu()->buf_destroy(ctx, &b);
    assert_null(b);
    _Alignas(64) char mine[128] = {0};
    OK(ops_cpu()->buf_wrap(ctx, mine, 128, &b));
    OK(ops_cpu()->buf_write(ctx, b, 3, "x", 1));
    assert_int_equal(mine[3], 'x');
    ops_cpu()->buf_destroy(ctx, &b);
    status_mute();
    refused(ops_cpu()->buf_wrap(ctx, mine + 1, 64, &b));
    status_unmute();
    OK(ops_cpu()->buf_create(ctx, 0, "nothing", &b));
    ops_cpu()->buf_destroy(ctx, &b);
}

static void blocks_have_the_published_size(void **state)
{
    (void)state;
    static const struct {
        ops_kv_type type;
        int32_t head_dim;
        size_t head; /* bytes of K and V of one head in a block */
    } want[] = {
        {OPS_KV_F32, 64, 2 * 16 * 64 * 4}, {OPS_KV_F16, 64, 2 * 16 * 64 * 2}, {OPS_KV_BF16, 80, 2 * 16 * 80 * 2}, {OPS_KV_Q8, 64, 2 * (16 * 64 + 64)},
        {OPS_KV_F16, 8, 2 * 16 * 16 * 2},  {OPS_KV_Q8, 33, 2 * (16 * 48 + 64)}, {OPS_KV_Q8, 96, 2 * (16 * 96 + 128)},
        {OPS_KV_F8, 64, 2 * 16 * 64},      {OPS_KV_F8, 33, 2 * 16 * 48},
    };
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        ops_kv_spec s = {want[i].type, 3, 5, want[i].head_dim, 2};
        assert_int_equal(ops_cpu()->kv_block_bytes(&s), want[i].head * 15);
    }
    ops_ctx *ctx = contexts[0].ctx;
    ops_kv *kv;
    ops_kv_spec s = {OPS_KV_F16, 2, 1, 16, 4};
    OK(ops_cpu()->kv_create(ctx, &s, &kv));
    size_t bytes = ops_cpu()->kv_block_bytes(&s);
    for (size_t i = 0; i < bytes; i++)
        kv->data[bytes + i] = (char)(i * 7 + 1);
    OK(ops_cpu()->kv_copy_block(ctx, kv, 1, 3));
    assert_memory_equal(kv->data + bytes, kv->data + 3 * bytes, bytes);
    status_mute();
    refused(ops_cpu()->kv_copy_block(ctx, kv, 1, 4));
    refused(ops_cpu()->kv_copy_block(ctx, kv, -1, 0));
    ops_cpu()->kv_destroy(ctx, &kv);
    s.n_blocks = INT64_MAX;
    refused(ops_cpu()->kv_create(ctx, &s, &kv));
    assert_null(kv);
    s = (ops_kv_spec){OPS_KV_F16, 2, 1, 0, 4};
    refused(ops_cpu()->kv_create(ctx, &s, &kv));
    status_unmute();
}

static void steps_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    ops_ctx *ctx = contexts[0].ctx;
    static int32_t tokens[MAX_ROWS + 1], table[8];
    float freq[4] = {1, 0.5f, 0.25f, 0.125f};
    ops_rope_spec rope = {8, false, 1, {freq}, {1}};
    ops_batch *b = batch_make(ctx, 1, 1, &rope);
    ops_span spans[3] = {{.row = 0, .n_rows = 2, .position = 30}, {.row = 2, .n_rows = 3, .position = 0, .table = {2}}};
    int32_t out[2] = {1, 4};
    const ops_batch_desc good = {.n_rows = 5, .tokens = tokens, .n_spans = 2, .spans = spans, .tables = {table}, .n_table = {3}, .n_out = 2, .out_rows = out};
    ops_batch_desc d = good;
    OK(ops_cpu()->batch_set(ctx, b, &d));
    status_mute();
    d.n_rows = 6; /* rows without a sequence */
    refused(ops_cpu()->batch_set(ctx, b, &d));
    d = good;
    d.n_table[0] = 2; /* a table that ends early */
    refused(ops_cpu()->batch_set(ctx, b, &d));
    d = good;
    d.n_rows = MAX_ROWS + 1;
    refused(ops_cpu()->batch_set(ctx, b, &d));
    d = good;
    out[0] = 4; /* not ascending */
    refused(ops_cpu()->batch_set(ctx, b, &d));
    out[0] = 1;
    spans[1].row = 1; /* overlapping */
    refused(ops_cpu()->batch_set(ctx, b, &d));
    spans[1].row = 2;
    spans[1].position = INT32_MAX - 2;
    refused(ops_cpu()->batch_set(ctx, b, &d));
    spans[1].position = 0;
    spans[0].table[0] = -1;
    refused(ops_cpu()->batch_set(ctx, b, &d));
    spans[0].table[0] = 0;
    spans[0].rope_set = 2;
    refused(ops_cpu()->batch_set(ctx, b, &d));
    spans[0].rope_set = 0;
    status_unmute();
    OK(ops_cpu()->batch_set(ctx, b, &good));

    /* blocks beyond the cache, heads that are not in it */
    ops_kv *kv;
    ops_kv_spec spec = {OPS_KV_F32, 1, 1, 8, 2};
    OK(ops_cpu()->kv_create(ctx, &spec, &kv));
    ops_mat q = mat_make(ctx, OPS_F32, 5, 8), k = mat_make(ctx, OPS_F32, 5, 8), v = mat_make(ctx, OPS_F32, 5, 8), y = mat_make(ctx, OPS_F32, 5, 8);
    mat_fill(ctx, &q, 5, 1, 1);
    mat_fill(ctx, &k, 5, 1, 2);
    mat_fill(ctx, &v, 5, 1, 3);
    ops_qkv_args a = {.q = q, .k = k, .v = v, .n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .rope = 0, .kv = kv};
    ops_attention_args at = {.q = q, .n_heads = 1, .head_dim = 8, .heads_per_kv = 1, .scale = 1, .kv = kv, .y = y};
    OK(ops_cpu()->qkv(ctx, b, &a));
    OK(ops_cpu()->attention(ctx, b, &at));
    status_mute();
    a.rope = 1;
    refused(ops_cpu()->qkv(ctx, b, &a));
    a.rope = 0;
    a.kv_layer = 1;
    refused(ops_cpu()->qkv(ctx, b, &a));
    a.kv_layer = 0;
    at.kv_layer = 1;
    refused(ops_cpu()->attention(ctx, b, &at));
    at.kv_layer = 0;
    at.head_begin = 1;
    refused(ops_cpu()->attention(ctx, b, &at));
    at.head_begin = 0;
    at.y_col = 1;
    refused(ops_cpu()->attention(ctx, b, &at));
    at.y_col = 0;
    table[0] = 2;
    OK(ops_cpu()->batch_set(ctx, b, &good));
    refused(ops_cpu()->attention(ctx, b, &at));
    table[1] = -7;
    OK(ops_cpu()->batch_set(ctx, b, &good));
    refused(ops_cpu()->qkv(ctx, b, &a));
    status_unmute();
    table[0] = table[1] = 0;
    mat_free(ctx, &q);
    mat_free(ctx, &k);
    mat_free(ctx, &v);
    mat_free(ctx, &y);
    ops_cpu()->kv_destroy(ctx, &kv);
    ops_cpu()->batch_destroy(ctx, &b);

    status_mute();
    ops_batch_limits l = {.max_rows = 4, .n_ropes = 1, .ropes = {{7, false, 1, {freq}, {1}}}};
    refused(ops_cpu()->batch_create(ctx, &l, &b));
    l.n_kv_groups = OPS_MAX_KV_GROUPS + 1;
    refused(ops_cpu()->batch_create(ctx, &l, &b));
    status_unmute();
    assert_null(b);
}

/* The embedding scale, positions and rope set of a step come from its own description. */
static void rope_sets_are_per_sequence(void **state)
{
    (void)state;
    for (int c = 0; c < n_contexts; c++) {
        ops_ctx *ctx = contexts[c].ctx;
        float near[2] = {1.0f, 0.5f}, far[2] = {0.125f, 0.0625f};
        ops_rope_spec ropes[2] = {{4, false, 2, {near, far}, {1.0f, 2.0f}}, {2, true, 1, {far}, {1.0f}}};
        ops_batch *b = batch_make(ctx, 0, 2, ropes);
        int32_t tokens[5] = {0};
        ops_span spans[2] = {{.row = 0, .n_rows = 2, .position = 9}, {.row = 2, .n_rows = 3, .position = 0, .rope_set = 1}};
        ops_batch_desc d = {.n_rows = 5, .tokens = tokens, .n_spans = 2, .spans = spans};
        OK(ops_cpu()->batch_set(ctx, b, &d));
        assert_near("set 0", b->cosine[0][1 * 2 + 1], cos(10 * 0.5), 1e-6);
        assert_near("set 1", b->sine[0][4 * 2], 2 * sin(2 * 0.125), 1e-6);
        assert_near("one set for all", b->sine[1][4], sin(2 * 0.125), 1e-6);
        ops_cpu()->batch_destroy(ctx, &b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_say_what_they_are),
        cmocka_unit_test(buffers_are_zeroed_and_bounded),
        cmocka_unit_test(blocks_have_the_published_size),
        cmocka_unit_test(steps_that_make_no_sense_are_refused),
        cmocka_unit_test(rope_sets_are_per_sequence),
    };
    return cmocka_run_group_tests(tests, fixture_open, fixture_close);
}
