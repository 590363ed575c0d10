/* tests/shard_text/test_bundle.c - a checkpoint's text travels as assets, and says the same without the checkpoint.  With "real PATH ...": on these
 * checkpoints (77 if there are none). */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "shard/checkpoint.h"
#include "tests/shard_files/make.h"
#include "tests/shard_text/vectors.h"

/* ---- a vocabulary as bytes ---- */

static const char *const tokens[] = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b", "ab", "\xe2\x96\x81""ab", "\0z"};
static const size_t token_lens[] = {5, 3, 4, 3, 1, 1, 2, 5, 2};
static const float scores[] = {0, 0, 0, -1.5f, -2, -3, -0.25f, -0.125f, -1e30f};
static const int32_t types[] = {2, 3, 3, 1, 1, 1, 1, 1, 1};
static const char *const merges[] = {"a b", "\xe2\x96\x81 ab"};
static const size_t merge_lens[] = {3, 6};

static shard_vocab small_vocab(void)
{
    return (shard_vocab){.model = "llama", .pre = "default", .n_tokens = (int32_t)ARRAY_LEN(tokens), .tokens = tokens, .token_lens = token_lens,
                         .scores = scores, .types = types, .n_merges = 2, .merges = merges, .merge_lens = merge_lens, .bos = 1, .eos = 2, .unk = 0, .sep = -1,
                         .cls = -1, .pad = -1, .mask = 8, .add_bos = 1, .add_eos = 0, .add_space_prefix = -1, .remove_extra_whitespaces = 0,
                         .precompiled_charsmap = "\1\2\0\3", .charsmap_len = 4};
}

static void assert_same_vocab(const shard_vocab *a, const shard_vocab *b)
{
    assert_string_equal(a->model, b->model);
    assert_int_equal(a->pre == NULL, b->pre == NULL);
    if (a->pre != NULL)
        assert_string_equal(a->pre, b->pre);
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_merges, b->n_merges);
    for (int32_t i = 0; i < a->n_tokens; i++) {
        assert_int_equal(a->token_lens[i], b->token_lens[i]);
        assert_memory_equal(a->tokens[i], b->tokens[i], a->token_lens[i]);
    }
    for (int32_t i = 0; i < a->n_merges; i++) {
        assert_int_equal(a->merge_lens[i], b->merge_lens[i]);
        assert_memory_equal(a->merges[i], b->merges[i], a->merge_lens[i]);
    }
    assert_int_equal(a->scores == NULL, b->scores == NULL);
    assert_int_equal(a->types == NULL, b->types == NULL);
    if (a->scores != NULL)
        assert_memory_equal(a->scores, b->scores, (size_t)a->n_tokens * sizeof(float));
    if (a->types != NULL)
        assert_memory_equal(a->types, b->types, (size_t)a->n_tokens * sizeof(int32_t));
    const int32_t ids_a[] = {a->bos, a->eos, a->unk, a->sep, a->cls, a->pad, a->mask}, ids_b[] = {b->bos, b->eos, b->unk, b->sep, b->cls, b->pad, b->mask};
    const int8_t set_a[] = {a->add_bos, a->add_eos, a->add_space_prefix, a->remove_extra_whitespaces};
    const int8_t set_b[] = {b->add_bos, b->add_eos, b->add_space_prefix, b->remove_extra_whitespaces};
    assert_memory_equal(ids_a, ids_b, sizeof(ids_a));
    assert_memory_equal(set_a, set_b, sizeof(set_a));
    assert_int_equal(a->charsmap_len, b->charsmap_len);
    if (a->charsmap_len > 0)
        assert_memory_equal(a->precompiled_charsmap, b->precompiled_charsmap, a->charsmap_len);
}

static void a_vocabulary_comes_back_as_it_was(void **state)
{
    (void)state;
    for (int without = 0; without < 8; without++) {
        shard_vocab v = small_vocab(), back;
        mem_str bytes = {0};
        void *memory;
        v.pre = without & 1 ? NULL : v.pre;
        v.scores = without & 2 ? NULL : v.scores;
        v.types = without & 4 ? NULL : v.types;
        assert_int_equal(shard_vocab_encode(&v, &bytes), ST_OK);
        assert_int_equal(shard_vocab_decode("test", bytes.data, bytes.len, &back, &memory), ST_OK);
        assert_same_vocab(&v, &back);
        free(memory);
        mem_str_free(&bytes);
    }
}

static void a_vocabulary_cut_short_is_refused(void **state)
{
    (void)state;
    shard_vocab v = small_vocab(), back;
    mem_str bytes = {0};
    void *memory = NULL;
    assert_int_equal(shard_vocab_encode(&v, &bytes), ST_OK);
    status_mute();
    for (size_t n = 0; n < bytes.len; n++) {
        char *cut = malloc(n + 1); /* an exact block, so that a sanitizer sees one byte too many */
        memcpy(cut, bytes.data, n);
        cut = realloc(cut, n == 0 ? 1 : n);
        assert_int_equal(shard_vocab_decode("test", cut, n, &back, &memory), ST_FORMAT);
        assert_null(memory);
        free(cut);
    }
    mem_str_putc(&bytes, 'x');
    assert_int_equal(shard_vocab_decode("test", bytes.data, bytes.len, &back, &memory), ST_FORMAT);
    bytes.data[7] = '2';
    assert_int_equal(shard_vocab_decode("test", bytes.data, bytes.len, &back, &memory), ST_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "update"));
    status_unmute();
    mem_str_free(&bytes);
}

/* ---- bundles ---- */

static status open_assets(const char *const (*assets)[2], size_t n, shard_text **out)
{
    shard_text_asset a[8];
    for (size_t i = 0; i < n; i++)
        a[i] = (shard_text_asset){(char *)assets[i][0], (char *)assets[i][1], strlen(assets[i][1]), NULL};
    return shard_text_create(a, n, out);
}

static void what_a_bundle_says_is_read(void **state)
{
    (void)state;
    static const char *const assets[][2] = {
        {"text.json", "{\"version\":1,\"family\":\"qwen3\",\"vocab\":99,\"max_positions\":4096,\"pooling\":\"mean\",\"fim\":{\"prefix\":5,\"suffix\":6,\"middle\":7},"
                      "\"generation\":{\"bos\":1,\"eos\":[2,9],\"top_k\":20,\"temperature\":0.6},\"variables\":{\"bos_token\":\"<s>\"}}"},
        {"template/default.jinja", "D{{ bos_token }}"}, {"template/rag.jinja", "R"}, {"template/broken.jinja", "{% if %}"}, {"template/.jinja", "x"},
        {"of-a-later-version.bin", "?"},
    };
    shard_text *t;
    assert_int_equal(open_assets(assets, ARRAY_LEN(assets), &t), ST_OK);
    const shard_generation *g = shard_text_generation(t);
    assert_true(g->bos == 1 && g->n_eos == 2 && g->eos[1] == 9 && g->top_k == 20 && g->temperature == 0.6f && g->top_p < 0 && g->min_p < 0);
    const shard_text_info *info = shard_text_info_get(t);
    assert_string_equal(info->family, "qwen3");
    assert_true(info->vocab == 99 && info->max_positions == 4096 && info->pooling == SHARD_POOL_MEAN && info->fim_middle == 7);
    const shard_template *template, *again;
    const json_t *variables;
    assert_int_equal(shard_text_template(t, NULL, &template, &variables), ST_OK);
    assert_int_equal(shard_text_template(t, "default", &again, &variables), ST_OK);
    assert_ptr_equal(template, again);
    assert_string_equal(json_string_value(json_object_get(variables, "bos_token")), "<s>");
    assert_string_equal(shard_text_template_source(t, "rag", NULL), "R");
    assert_null(shard_text_template_source(t, "tool_use", NULL));
    assert_null(shard_text_tokenizer(t));
    status_mute();
    assert_int_equal(shard_text_template(t, "tool_use", &template, &variables), ST_NOT_FOUND);
    for (int i = 0; i < 2; i++)
        assert_int_equal(shard_text_template(t, "broken", &template, &variables), ST_FORMAT);
    const shard_tokenizer *none;
    assert_int_equal(shard_text_tokenizer_get(t, &none), ST_NOT_FOUND);
    status_unmute();
    shard_text_destroy(&t);
    assert_null(t);
}

static void hostile_bundles_are_refused(void **state)
{
    (void)state;
    static const struct { const char *name, *data; status want; } cases[] = {
        {"text.json", "", ST_FORMAT}, {"text.json", "[]", ST_FORMAT}, {"text.json", "{}", ST_FORMAT}, {"text.json", "{\"version\":2}", ST_UNSUPPORTED},
        {"text.json", "{\"version\":1,\"generation\":[]}", ST_FORMAT}, {"text.json", "{\"version\":1,\"generation\":{\"eos\":[-1]}}", ST_FORMAT},
        {"text.json", "{\"version\":1,\"generation\":{\"eos\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}}", ST_FORMAT},
        {"text.json", "{\"version\":1,\"pooling\":\"max\"}", ST_UNSUPPORTED}, {"text.json", "{\"version\":1,\"vocab\":-1}", ST_FORMAT},
        {"tokenizer.json", "{}", ST_FORMAT}, {"vocab.bin", "TRVOCAB1", ST_FORMAT}, {"vocab.bin", "", ST_FORMAT},
    };
    status_mute();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        shard_text *t = NULL;
        const char *const assets[][2] = {{cases[i].name, cases[i].data}};
        assert_int_equal(open_assets(assets, 1, &t), cases[i].want);
        assert_null(t);
    }
    status_unmute();
}

static void fill_in_the_middle_tokens_are_found(void **state)
{
    (void)state;
    static const char *const spelled[][3] = {{"<fim_prefix>", "<fim_suffix>", "<fim_middle>"}, {"[SUFFIX]", "[PREFIX]", "[MIDDLE]"}, {"<fim_prefix>", "x", "y"}};
    for (size_t i = 0; i < ARRAY_LEN(spelled); i++) {
        shard_vocab v = small_vocab();
        const char *with[12];
        size_t lens[12];
        float with_scores[12] = {0};
        int32_t with_types[12] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 4, 4, 4};
        memcpy(with, tokens, sizeof(tokens));
        memcpy(lens, token_lens, sizeof(token_lens));
        for (size_t k = 0; k < 3; k++) {
            with[9 + k] = spelled[i][k];
            lens[9 + k] = strlen(spelled[i][k]);
        }
        v.tokens = with, v.token_lens = lens, v.scores = with_scores, v.types = with_types, v.n_tokens = 12, v.charsmap_len = 0, v.n_merges = 0;
        mem_str bytes = {0};
        assert_int_equal(shard_vocab_encode(&v, &bytes), ST_OK);
        shard_text *t;
        shard_text_asset a = {(char *)"vocab.bin", bytes.data, bytes.len, NULL};
        assert_int_equal(shard_text_create(&a, 1, &t), ST_OK);
        const shard_text_info *info = shard_text_info_get(t);
        const int32_t want[][4] = {{9, 10, 11, false}, {10, 9, -1, true}, {-1, -1, -1, false}};
        assert_int_equal(info->fim_prefix, want[i][0]);
        assert_int_equal(info->fim_suffix, want[i][1]);
        assert_int_equal(info->fim_middle, want[i][2]);
        assert_int_equal(info->fim_suffix_first, want[i][3]);
        shard_text_destroy(&t);
        mem_str_free(&bytes);
    }
}

/* ---- bundles of checkpoints ---- */

static const char *const samples[] = {"", "Hello, world!  ", "The quick brown fox's 12345 jumps\n\n\tover", "<|im_start|>user\nhi<|im_end|>\n<bos><start_of_turn>",
                                      "na\xc3\xafve caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80 \xff\xfe", "   leading", "def f(x):\n    return x ** 2\n"};

static void assert_same_tokens(const shard_tokenizer *a, const shard_tokenizer *b)
{
    assert_int_equal(shard_tokenizer_size(a), shard_tokenizer_size(b));
    for (int32_t id = 0; id < shard_tokenizer_size(a); id++) {
        size_t na = 0, nb = 0;
        const char *sa = shard_tokenizer_token(a, id, &na), *sb = shard_tokenizer_token(b, id, &nb);
        assert_int_equal(sa == NULL, sb == NULL);
        assert_true(sa == NULL || (na == nb && memcmp(sa, sb, na) == 0));
        assert_int_equal(shard_tokenizer_is_special(a, id), shard_tokenizer_is_special(b, id));
    }
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        shard_ids x = {0}, y = {0};
        mem_str p = {0}, q = {0};
        assert_int_equal(shard_tokenizer_encode(a, samples[i], strlen(samples[i]), SHARD_ENCODE_ADD_SPECIAL, &x), ST_OK);
        assert_int_equal(shard_tokenizer_encode(b, samples[i], strlen(samples[i]), SHARD_ENCODE_ADD_SPECIAL, &y), ST_OK);
        assert_int_equal(x.n, y.n);
        assert_true(x.n == 0 || memcmp(x.data, y.data, x.n * sizeof(*x.data)) == 0);
        assert_int_equal(shard_tokenizer_decode(a, x.data, x.n, false, &p), ST_OK);
        assert_int_equal(shard_tokenizer_decode(b, y.data, y.n, false, &q), ST_OK);
        assert_true(p.len == q.len && (p.len == 0 || memcmp(p.data, q.data, p.len) == 0));
        shard_ids_free(&x);
        shard_ids_free(&y);
        mem_str_free(&p);
        mem_str_free(&q);
    }
}

static void render(const shard_template *t, const json_t *variables, mem_str *out)
{
    json_t *messages = json_pack("[{ssss}{ssss}]", "role", "user", "content", "Hi there", "role", "assistant", "content", "Hello!");
    shard_template_input in = {.messages = messages, .variables = variables, .add_generation_prompt = true, .now = "2026-02-03T14:05:06"};
    assert_int_equal(shard_template_render(t, &in, NULL, out), ST_OK);
    json_decref(messages);
}

static void assert_same_template(shard_checkpoint *c, const shard_text *text, const char *name)
{
    const shard_template *a, *b;
    const json_t *va, *vb;
    mem_str p = {0}, q = {0};
    status_mute();
    status st = shard_checkpoint_template_named(c, name, &a, &va);
    assert_int_equal(shard_text_template(text, name, &b, &vb), st);
    status_unmute();
    if (st != ST_OK)
        return;
    assert_true(json_equal(va, vb));
    render(a, va, &p);
    render(b, vb, &q);
    assert_string_equal(p.data, q.data);
    mem_str_free(&p);
    mem_str_free(&q);
}

/* Opens the bundle from copies with other names for where things came from, as one that has travelled. */
static void check_bundle_of(const char *path, bool whole)
{
    shard_checkpoint *c;
    shard_text_asset *assets;
    size_t n;
    shard_text *text;
    const shard_tokenizer *t;
    assert_int_equal(shard_checkpoint_open(path, &(shard_open_options){.config_only = true}, &c), ST_OK);
    assert_int_equal(shard_checkpoint_text_assets(c, &assets, &n), ST_OK);
    for (size_t i = 0; i < n; i++) {
        free(assets[i].where);
        assets[i].where = NULL;
    }
    assert_int_equal(whole ? shard_text_create(assets, n, &text) : shard_text_create_lazy("a", assets, n, &text), ST_OK);
    shard_text_assets_free(assets, n);
    status_mute();
    status st = shard_checkpoint_tokenizer(c, &t);
    status_unmute();
    assert_int_equal(st == ST_OK, shard_text_tokenizer(text) != NULL);
    if (st == ST_OK)
        assert_same_tokens(t, shard_text_tokenizer(text));
    const shard_generation *a = shard_checkpoint_generation(c), *b = shard_text_generation(text);
    assert_int_equal(a->bos, b->bos);
    assert_int_equal(a->n_eos, b->n_eos);
    assert_memory_equal(a->eos, b->eos, sizeof(a->eos));
    assert_true(a->temperature == b->temperature && a->top_p == b->top_p && a->min_p == b->min_p && a->top_k == b->top_k &&
                a->repetition_penalty == b->repetition_penalty);
    assert_string_equal(shard_text_info_get(text)->family, shard_checkpoint_arch(c)->family);
    assert_int_equal(shard_text_info_get(text)->vocab, shard_checkpoint_arch(c)->vocab);
    static const char *const names[] = {NULL, "tool_use", "rag"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_same_template(c, text, names[i]);
    shard_text_destroy(&text);
    shard_checkpoint_close(&c);
}

static void checkpoints_travel(void **state)
{
    (void)state;
    static const char *const goldens[] = {"gemma", "llama-9h3kv-llama3rope", "gpt2", "qwen3-6h2kv"};
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/golden/%s", TEST_SOURCE_DIR, goldens[i]);
        check_bundle_of(path, true);
    }
    char *folder = make_folder(), *gguf = make_path(folder, "tiny.gguf");
    make_llama_gguf(folder, "tiny.gguf", SHARD_Q8_0); /* two templates, and a vocabulary that cannot be used */
    check_bundle_of(gguf, false);
    make_remove(folder);
    free(folder);
    free(gguf);
}

static char **real_paths;

static void real_checkpoints_travel(void **state)
{
    (void)state;
    for (char **p = real_paths; *p != NULL; p++)
        check_bundle_of(*p, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vocabulary_comes_back_as_it_was), cmocka_unit_test(a_vocabulary_cut_short_is_refused), cmocka_unit_test(what_a_bundle_says_is_read),
        cmocka_unit_test(hostile_bundles_are_refused),       cmocka_unit_test(fill_in_the_middle_tokens_are_found), cmocka_unit_test(checkpoints_travel),
    };
    const struct CMUnitTest real[] = {cmocka_unit_test(real_checkpoints_travel)};
    if (argc < 2 || strcmp(argv[1], "real") != 0)
        return cmocka_run_group_tests(tests, NULL, NULL);
    real_paths = argv + 2;
    for (char **p = real_paths; *p != NULL; p++) {
        if (!file_exists(*p) && !file_is_dir(*p)) {
            printf("skipped: no %s\n", *p);
            return 77;
        }
    }
    return cmocka_run_group_tests(real, NULL, NULL);
}
