/* tests/shard_arch/test_arch_checkpoints.c - every tiny checkpoint: each tensor is claimed by the roles it holds, with their shapes, all of its rows and
 * nothing twice; the frequencies are the reference's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "arch_fixture.h"
#include "base/json.h"

/* Rows of each stored tensor taken so far, by name. */
static void claim(json_t *claims, const char *name, int64_t stored_rows, int64_t row)
{
    json_t *taken = json_object_get(claims, name);
    if (taken == NULL) {
        json_object_set_new(claims, name, json_string_nocheck(""));
        taken = json_array();
        for (int64_t i = 0; i < stored_rows; i++)
            json_array_append_new(taken, json_integer(0));
        json_object_set_new(claims, name, taken);
    }
    assert_in_range(row, 0, stored_rows - 1);
    json_array_set_new(taken, (size_t)row, json_integer(1 + json_integer_value(json_array_get(taken, (size_t)row))));
}

static int64_t stored_row(const shard_stored *s, int64_t r)
{
    switch (s->map) {
    case SHARD_ROWS_PLAIN:
        return s->row_begin + r;
    case SHARD_ROWS_GROUPED:
        return r / s->group_take * s->group_rows + s->group_begin + r % s->group_take;
    case SHARD_ROWS_ROTARY: {
        int64_t head = r / s->group_rows, j = r % s->group_rows, half = s->rotary / 2;
        return s->row_begin + head * s->group_rows + (j >= s->rotary ? j : j < half ? 2 * j : 2 * (j - half) + 1);
    }
    }
    return -1;
}

static void check_shape(const fixture *f, const char *name, int64_t rows, int64_t cols, bool transposed)
{
    const json_t *shape = json_object_get(json_object_get(f->tensors, name), "shape");
    int64_t first = json_integer_value(json_array_get(shape, 0)), second = json_array_size(shape) > 1 ? json_integer_value(json_array_get(shape, 1)) : 1;
    if (shape == NULL)
        fail_msg("%s: no tensor %s", f->name, name);
    /* A vector may be kept as a matrix (one row for each head). */
    bool vector = cols == 1 && first * second == rows;
    if (!vector && (transposed ? first != cols || second != rows : first != rows || second != cols))
        fail_msg("%s: %s is [%lld, %lld], wanted %lld x %lld", f->name, name, (long long)first, (long long)second, (long long)rows, (long long)cols);
}

static void check_role(fixture *f, json_t *claims, shard_role role, int32_t layer)
{
    int64_t rows, cols;
    shard_stored s;
    bool shaped = shard_role_shape(&f->arch, role, &rows, &cols);
    bool stored = shard_arch_stored(&f->arch, f->gguf, role, layer, fixture_has, f, &s);
    assert_int_equal(stored, shaped && !(role == SHARD_HEAD && f->arch.tied_embeddings));
    if (!stored)
        return;
    assert_int_equal(cols, s.stored_cols);
    for (int32_t piece = 0; piece < (s.pieces > 0 ? s.pieces : 1); piece++) {
        char name[192];
        shard_stored_piece(&s, piece, name);
        check_shape(f, name, s.stored_rows, s.stored_cols, s.transposed);
        for (int64_t r = 0; r < (s.pieces > 0 ? s.stored_rows : rows); r++)
            claim(claims, name, s.stored_rows, stored_row(&s, r));
    }
    if (s.pieces > 0)
        assert_int_equal(rows, s.pieces * s.stored_rows);
}

static void check_claims(const fixture *f, json_t *claims)
{
    const char *name;
    json_t *taken, *value;
    size_t i;
    json_object_foreach(f->tensors, name, taken) {
        if (json_object_get(claims, name) == NULL && !(f->arch.tied_embeddings && strcmp(name, "lm_head.weight") == 0))
            fail_msg("%s: no role claims %s", f->name, name);
    }
    json_object_foreach(claims, name, taken) {
        json_array_foreach(taken, i, value) {
            if (json_integer_value(value) != 1)
                fail_msg("%s: row %zu of %s is taken %lld times", f->name, i, name, (long long)json_integer_value(value));
        }
    }
}

static void check_all(fixture *f)
{
    json_t *claims = json_object();
    for (int role = 0; role < SHARD_ROLES; role++) {
        for (int32_t layer = 0; layer < (shard_role_in_layer(role) ? f->arch.n_layers : 1); layer++)
            check_role(f, claims, role, layer);
    }
    check_claims(f, claims);
    json_decref(claims);
}

static void check_checkpoint(const char *name)
{
    fixture f;
    fixture_open(name, &f);
    if (shard_arch_from_config(name, f.config, fixture_has, &f, &f.arch) != ST_OK)
        fail_msg("%s: %s", name, status_message());
    check_all(&f);

    /* The same facts without the tensors at hand. */
    shard_arch alone;
    assert_int_equal(shard_arch_from_config(name, f.config, NULL, NULL, &alone), ST_OK);
    assert_memory_equal(&alone, &f.arch, sizeof(alone));
    fixture_close(&f);
}

static void every_tensor_is_claimed_once(void **state)
{
    (void)state;
    static char names[128][128];
    int n = fixture_names(names, 128);
    assert_true(n >= 12);
    for (int i = 0; i < n; i++)
        check_checkpoint(names[i]);
    print_message("%d checkpoints\n", n);
}

/* The same checkpoints as llama.cpp's converter writes them: the facts agree but for what GGUF does not say. */
static void every_gguf_tensor_is_claimed_once(void **state)
{
    (void)state;
    static char names[64][128];
    int n = fixture_gguf_names(names, 64);
    assert_true(n >= 15);
    for (int i = 0; i < n; i++) {
        static fixture f, hf;
        fixture_open_gguf(names[i], &f);
        fixture_open(names[i], &hf);
        check_all(&f);
        assert_int_equal(shard_arch_from_config(names[i], hf.config, fixture_has, &hf, &hf.arch), ST_OK);
        const shard_arch *a = &f.arch, *b = &hf.arch;
        if (a->n_layers != b->n_layers || a->n_heads != b->n_heads || a->n_kv_heads != b->n_kv_heads || a->head_dim != b->head_dim ||
            a->intermediate != b->intermediate || a->vocab != b->vocab || a->tied_embeddings != b->tied_embeddings || a->q_bias != b->q_bias ||
            a->o_bias != b->o_bias || a->mlp_bias != b->mlp_bias || a->parallel_block != b->parallel_block || a->mlp_norm != b->mlp_norm ||
            a->qk_norm != b->qk_norm || a->activation != b->activation || a->norm_eps != b->norm_eps || a->attention_scale != b->attention_scale ||
            a->logit_multiplier != b->logit_multiplier || a->residual_multiplier != b->residual_multiplier || a->qkv_clip != b->qkv_clip ||
            memcmp(a->layers, b->layers, sizeof(a->layers)) != 0)
            fail_msg("%s: GGUF and Hugging Face disagree", names[i]);
        fixture_close(&f);
        fixture_close(&hf);
    }
    print_message("%d GGUF files\n", n);
}

static void compare_frequencies(const char *name, const shard_rope *r, int set, const json_t *want)
{
    const json_t *inv = json_object_get(want, "inv_freq");
    assert_int_equal(json_array_size(inv), r->dims / 2);
    for (int i = 0; i < r->dims / 2; i++) {
        double w = json_number_value(json_array_get(inv, (size_t)i)), g = r->inv_freq[set][i];
        /* A few roundings of f32: the reference's vector pow is good to 1 ulp, ours to half. */
        if (fabs(w - g) > 4e-7 * w)
            fail_msg("%s: set %d frequency %d: got %.9g want %.9g", name, set, i, g, w);
    }
    assert_true(fabs(json_number_value(json_object_get(want, "attention_factor")) - (double)r->attention_factor[set]) < 1e-6);
}

/* ropes.json: what the reference computes for configs of every scaling kind (make_golden.py --ropes). */
static void frequencies_are_the_references(void **state)
{
    (void)state;
    json_t *cases, *one;
    size_t i;
    assert_int_equal(json_parse_file(TEST_SOURCE_DIR "/golden/ropes.json", 4 << 20, &cases), ST_OK);
    assert_true(json_array_size(cases) >= 12);
    json_array_foreach(cases, i, one) {
        const char *name = json_string_value(json_object_get(one, "name"));
        shard_arch a;
        if (shard_arch_from_config(name, json_object_get(one, "config"), NULL, NULL, &a) != ST_OK)
            fail_msg("%s: %s", name, status_message());
        json_t *rope;
        size_t k;
        json_array_foreach(json_object_get(one, "ropes"), k, rope) {
            /* Each gives a layer, a length and the frequencies there. */
            int32_t layer = (int32_t)json_integer_value(json_object_get(rope, "layer"));
            int64_t length = json_integer_value(json_object_get(rope, "length"));
            compare_frequencies(name, &a.ropes[a.layers[layer].rope], shard_arch_rope_set(&a, length) > 0, rope);
        }
    }
    json_decref(cases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_tensor_is_claimed_once),
        cmocka_unit_test(every_gguf_tensor_is_claimed_once),
        cmocka_unit_test(frequencies_are_the_references),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
