/* tests/shard_files/test_checkpoint.c - checkpoints of every form opened, any slice of them read, and what is wrong with one said. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hash.h"
#include "shard/checkpoint.h"
#include "tests/shard_files/make.h"

static const struct {
    shard_role role;
    const char *hf;
} roles[] = {{SHARD_Q, "self_attn.q_proj"}, {SHARD_K, "self_attn.k_proj"}, {SHARD_V, "self_attn.v_proj"}, {SHARD_O, "self_attn.o_proj"},
             {SHARD_GATE, "mlp.gate_proj"}, {SHARD_UP, "mlp.up_proj"},     {SHARD_DOWN, "mlp.down_proj"}, {SHARD_TOKEN_EMBED, NULL}, {SHARD_HEAD, NULL}};

static void hf_name(size_t i, int32_t layer, char out[128])
{
    if (roles[i].hf == NULL)
        snprintf(out, 128, "model.embed_tokens.weight");
    else
        snprintf(out, 128, "model.layers.%d.%s.weight", layer, roles[i].hf);
}

static packed_type type_of(const shard_checkpoint *c, shard_role role, int32_t layer, bool f32)
{
    const shard_types *t = shard_checkpoint_types(c, f32);
    return t->of == NULL ? t->dflt : (packed_type)t->of[(shard_role_in_layer(role) ? layer : 0) * SHARD_ROLES + role];
}

/* Reads a slice and compares each value with what make_value says. */
static void check_slice(shard_checkpoint *c, size_t i, int32_t layer, shard_slice rows, shard_slice cols, bool f32)
{
    char name[128];
    packed_shape s = {.type = type_of(c, roles[i].role, layer, f32), .rows = (int32_t)(rows.end - rows.begin), .cols = (int32_t)(cols.end - cols.begin)};
    size_t bytes = packed_bytes(s);
    void *m = aligned_alloc(64, mem_align(bytes, 64));
    float *row = malloc(sizeof(float) * (size_t)s.cols);
    memset(m, 0, bytes);
    assert_int_equal(shard_checkpoint_read_matrix(c, roles[i].role, layer, rows, cols, s, m), ST_OK);
    hf_name(i, layer, name);
    for (int32_t r = 0; r < s.rows; r++) {
        packed_dequantise(s, m, r, 0, s.cols, row);
        for (int32_t k = 0; k < s.cols; k++) {
            float want = make_value(name, rows.begin + r, cols.begin + k);
            if (row[k] != want)
                fail_msg("%s [%lld, %lld]: got %g, want %g", name, (long long)rows.begin + r, (long long)cols.begin + k, (double)row[k], (double)want);
        }
    }
    free(row);
    free(m);
}

static void check_many_slices(shard_checkpoint *c, bool f32)
{
    const shard_arch *a = shard_checkpoint_arch(c);
    uint64_t random = 7;
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        int64_t rows, cols;
        int32_t layers = shard_role_in_layer(roles[i].role) ? a->n_layers : 1;
        assert_true(shard_role_shape(a, roles[i].role, &rows, &cols));
        for (int32_t layer = 0; layer < layers; layer++) {
            check_slice(c, i, layer, (shard_slice){0, rows}, (shard_slice){0, cols}, f32);
            for (int n = 0; n < 12; n++) {
                random = hash_mix(random + 1);
                int64_t r0 = (int64_t)(random % (uint64_t)rows), r1 = r0 + 1 + (int64_t)((random >> 20) % (uint64_t)(rows - r0));
                int64_t c0 = (int64_t)((random >> 40) % (uint64_t)(cols / 32)) * 32;
                check_slice(c, i, layer, (shard_slice){r0, r1}, (shard_slice){c0, n % 2 == 0 ? cols : c0 + 32}, f32);
            }
        }
    }
}

static void check_vectors(shard_checkpoint *c)
{
    float v[64];
    assert_int_equal(shard_checkpoint_read_vector(c, SHARD_MLP_NORM, 1, (shard_slice){3, 60}, v), ST_OK);
    for (int i = 0; i < 57; i++)
        assert_true(v[i] == make_value("model.layers.1.post_attention_layernorm.weight", 3 + i, 0));
    assert_int_equal(shard_checkpoint_read_vector(c, SHARD_FINAL_NORM, 0, (shard_slice){0, 64}, v), ST_OK);
    assert_true(v[63] == make_value("model.norm.weight", 63, 0));
}

static shard_checkpoint *open_ok(const char *path)
{
    shard_checkpoint *c;
    assert_int_equal(shard_checkpoint_open(path, NULL, &c), ST_OK);
    return c;
}

static void every_slice_of_a_folder_is_right(void **state)
{
    (void)state;
    static const shard_dtype dtypes[] = {SHARD_F32, SHARD_F16, SHARD_BF16};
    for (size_t i = 0; i < ARRAY_LEN(dtypes); i++) {
        char *folder = make_folder();
        make_llama_folder(folder, dtypes[i]);
        shard_checkpoint *c = open_ok(folder);
        check_many_slices(c, false);
        check_many_slices(c, true);
        check_vectors(c);
        const shard_generation *g = shard_checkpoint_generation(c);
        assert_int_equal(g->n_eos, 2);
        assert_int_equal(g->eos[1], 5);
        assert_int_equal(g->bos, 1);
        assert_true(g->temperature > 0.59f && g->top_k == -1);
        shard_checkpoint_close(&c);
        make_remove(folder);
        free(folder);
    }
}

static void every_slice_of_a_gguf_is_right(void **state)
{
    (void)state;
    static const shard_dtype dtypes[] = {SHARD_F32, SHARD_F16, SHARD_BF16, SHARD_Q8_0};
    for (size_t i = 0; i < ARRAY_LEN(dtypes); i++) {
        char *folder = make_folder(), *path = make_path(folder, "tiny.gguf");
        make_llama_gguf(folder, "tiny.gguf", dtypes[i]);
        shard_checkpoint *c = open_ok(path);
        check_many_slices(c, false);
        check_many_slices(c, true);
        check_vectors(c);
        shard_checkpoint_close(&c);
        c = open_ok(folder); /* the only model of a folder */
        shard_checkpoint_close(&c);
        make_remove(folder);
        free(path);
        free(folder);
    }
}

static void split_gguf_is_one_checkpoint(void **state)
{
    (void)state;
    char *folder = make_folder(), *first = make_path(folder, "m-00001-of-00003.gguf"), *second = make_path(folder, "m-00002-of-00003.gguf");
    make_gguf a = {0}, b = {0}, d = {0};
    make_llama_metadata(&a, 0, 3);
    make_gguf_tensor(&a, "token_embd.weight", "model.embed_tokens.weight", SHARD_BF16, 70, 64, 0);
    make_llama_metadata(&b, 1, 3);
    make_llama_gguf_layer(&b, 0, SHARD_Q8_0);
    make_llama_metadata(&d, 2, 3);
    make_llama_gguf_layer(&d, 1, SHARD_F32);
    make_gguf_tensor(&d, "output_norm.weight", "model.norm.weight", SHARD_F32, 64, 0, 0);
    make_gguf_write(&a, folder, "m-00001-of-00003.gguf");
    make_gguf_write(&b, folder, "m-00002-of-00003.gguf");
    make_gguf_write(&d, folder, "m-00003-of-00003.gguf");
    shard_checkpoint *c = open_ok(first);
    check_many_slices(c, false);
    assert_int_equal(type_of(c, SHARD_Q, 0, false), PACKED_Q8_0);
    assert_int_equal(type_of(c, SHARD_HEAD, 0, false), PACKED_BF16);
    shard_checkpoint_close(&c);
    status_mute();
    assert_int_equal(shard_checkpoint_open(second, NULL, &c), ST_INVALID);
    assert_non_null(strstr(status_message(), "first part"));
    unlink(second);
    assert_int_equal(shard_checkpoint_open(first, NULL, &c), ST_NOT_FOUND);
    assert_non_null(strstr(status_message(), "m-00002-of-00003.gguf"));
    status_unmute();
    make_remove(folder);
    free(first);
    free(second);
    free(folder);
}

/* GPT-2 keeps its matrices [in, out]. */
static void transposed_matrices_are_turned(void **state)
{
    (void)state;
    char *folder = make_folder();
    make_text(folder, "config.json",
              "{\"architectures\":[\"GPT2LMHeadModel\"],\"model_type\":\"gpt2\",\"n_embd\":64,\"n_head\":4,\"n_layer\":1,\"n_positions\":32,\"vocab_size\":70}");
    make_st s = {0};
    static const struct {
        const char *name;
        int64_t rows, cols;
    } tensors[] = {{"wte.weight", 70, 64},        {"wpe.weight", 32, 64},           {"ln_f.weight", 64, 0},           {"ln_f.bias", 64, 0},
                   {"h.0.ln_1.weight", 64, 0},    {"h.0.ln_1.bias", 64, 0},         {"h.0.ln_2.weight", 64, 0},       {"h.0.ln_2.bias", 64, 0},
                   {"h.0.attn.c_attn.bias", 192, 0}, {"h.0.attn.c_proj.bias", 64, 0}, {"h.0.mlp.c_fc.bias", 256, 0},  {"h.0.mlp.c_proj.bias", 64, 0}};
    for (size_t i = 0; i < ARRAY_LEN(tensors); i++)
        make_st_tensor(&s, tensors[i].name, tensors[i].name, SHARD_F32, tensors[i].rows, tensors[i].cols, false);
    make_st_tensor(&s, "h.0.attn.c_attn.weight", "qkv", SHARD_F32, 192, 64, true);
    make_st_tensor(&s, "h.0.attn.c_proj.weight", "o", SHARD_F32, 64, 64, true);
    make_st_tensor(&s, "h.0.mlp.c_fc.weight", "up", SHARD_F32, 256, 64, true);
    make_st_tensor(&s, "h.0.mlp.c_proj.weight", "down", SHARD_F32, 64, 256, true);
    make_st_write(&s, folder, "model.safetensors");
    shard_checkpoint *c = open_ok(folder);
    static const struct {
        shard_role role;
        const char *name;
        int64_t first_row;
        shard_slice rows, cols;
    } reads[] = {{SHARD_Q, "qkv", 0, {0, 64}, {0, 64}},     {SHARD_K, "qkv", 64, {16, 48}, {0, 64}}, {SHARD_V, "qkv", 128, {1, 64}, {3, 61}},
                 {SHARD_DOWN, "down", 0, {0, 64}, {96, 256}}, {SHARD_UP, "up", 0, {100, 256}, {0, 64}}, {SHARD_O, "o", 0, {0, 64}, {32, 48}}};
    for (size_t i = 0; i < ARRAY_LEN(reads); i++) {
        packed_shape shape = {PACKED_F32, (int32_t)(reads[i].rows.end - reads[i].rows.begin), (int32_t)(reads[i].cols.end - reads[i].cols.begin), 0};
        void *m = aligned_alloc(64, mem_align(packed_bytes(shape), 64));
        memset(m, 0, packed_bytes(shape));
        assert_int_equal(shard_checkpoint_read_matrix(c, reads[i].role, 0, reads[i].rows, reads[i].cols, shape, m), ST_OK);
        for (int32_t r = 0; r < shape.rows; r++) {
            for (int32_t k = 0; k < shape.cols; k++) {
                float got;
                packed_dequantise(shape, m, r, k, 1, &got);
                assert_true(got == make_value(reads[i].name, reads[i].first_row + reads[i].rows.begin + r, reads[i].cols.begin + k));
            }
        }
        free(m);
    }
    float bias[64];
    assert_int_equal(shard_checkpoint_read_vector(c, SHARD_K_B, 0, (shard_slice){0, 64}, bias), ST_OK);
    assert_true(bias[5] == make_value("h.0.attn.c_attn.bias", 69, 0));
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(folder);
}

/* ---- several threads ---- */

typedef struct shared {
    shard_checkpoint *c;
    atomic_int bad;
} shared;

static void *read_all_parts(void *arg)
{
    shared *s = arg;
    for (int n = 0; n < 20; n++) {
        packed_shape shape = {type_of(s->c, SHARD_GATE, 1, false), 96, 64, 0};
        char *whole = aligned_alloc(64, mem_align(packed_bytes(shape), 64)), *parts = aligned_alloc(64, mem_align(packed_bytes(shape), 64));
        memset(whole, 0, packed_bytes(shape));
        memset(parts, 0, packed_bytes(shape));
        shard_slice rows = {0, 96}, cols = {0, 64};
        bool ok = shard_checkpoint_read_matrix(s->c, SHARD_GATE, 1, rows, cols, shape, whole) == ST_OK;
        for (int32_t r = 0; r < 96; r += 32)
            ok = ok && shard_checkpoint_read_part(s->c, SHARD_GATE, 1, rows, cols, shape, r, r + 32, parts) == ST_OK;
        if (!ok || memcmp(whole, parts, packed_bytes(shape)) != 0)
            atomic_store(&s->bad, 1);
        free(whole);
        free(parts);
    }
    return NULL;
}

static void threads_may_read_together(void **state)
{
    (void)state;
    char *folder = make_folder();
    make_llama_folder(folder, SHARD_BF16);
    shared s = {.c = open_ok(folder)};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all_parts, &s), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&s.bad), 0);
    shard_io_stats io;
    shard_checkpoint_io_stats(s.c, &io);
    assert_int_equal(io.bytes_needed, 4 * 20 * 2 * 96 * 64 * 2);
    assert_int_equal(io.bytes_read, io.bytes_needed); /* whole rows: nothing in excess */
    shard_checkpoint_close(&s.c);
    make_remove(folder);
    free(folder);
}

/* ---- refusals ---- */

static void expect_open_fails(const char *path, status want, const char *says)
{
    shard_checkpoint *c = NULL;
    status_mute();
    status st = shard_checkpoint_open(path, NULL, &c);
    status_unmute();
    if (st != want || strstr(status_message(), says) == NULL)
        fail_msg("%s: status %d, wanted %d and \"%s\"; message: %s", path, st, want, says, status_message());
}

/* Each case starts from a good folder and spoils one thing. */
static void spoiled_folders_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text; /* text NULL: remove the file */
        status st;
        const char *says;
    } cases[] = {
        {"config.json", NULL, ST_NOT_FOUND, "no config.json"},
        {"config.json", "{", ST_FORMAT, "config.json"},
        {"config.json", "[1]", ST_FORMAT, "config.json"},
        {"model.safetensors", NULL, ST_NOT_FOUND, "no model.safetensors"},
        {"model.safetensors", "short", ST_FORMAT, "model.safetensors"},
        {"model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", ST_FORMAT, "model.safetensors"},
        {"generation_config.json", "{\"eos_token_id\":\"x\"}", ST_FORMAT, "eos_token_id"},
        {"generation_config.json", "{\"temperature\":\"hot\"}", ST_FORMAT, "temperature"},
        {"tokenizer_config.json", "7", ST_FORMAT, "tokenizer_config.json"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *folder = make_folder(), *path = make_path(folder, cases[i].file);
        make_llama_folder(folder, SHARD_BF16);
        unlink(path);
        if (cases[i].text != NULL)
            make_text(folder, cases[i].file, cases[i].text);
        expect_open_fails(folder, cases[i].st, cases[i].says);
        make_remove(folder);
        free(path);
        free(folder);
    }
}

static void missing_and_misshapen_tensors_are_named(void **state)
{
    (void)state;
    char *folder = make_folder();
    make_llama_config(folder);
    make_st s = {0};
    make_st_tensor(&s, "model.embed_tokens.weight", "e", SHARD_BF16, 70, 64, false);
    make_st_write(&s, folder, "model.safetensors");
    expect_open_fails(folder, ST_FORMAT, "tensor model.norm.weight");
    make_st_tensor(&s, "model.embed_tokens.weight", "e", SHARD_BF16, 64, 70, false);
    make_st_write(&s, folder, "model.safetensors");
    expect_open_fails(folder, ST_FORMAT, "[64, 70]");
    make_text(folder, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"x-1.safetensors\"}}");
    char *single = make_path(folder, "model.safetensors");
    unlink(single);
    free(single);
    expect_open_fails(folder, ST_NOT_FOUND, "x-1.safetensors");
    shard_checkpoint *c; /* enough to plan with */
    assert_int_equal(shard_checkpoint_open(folder, &(shard_open_options){.config_only = true}, &c), ST_OK);
    shard_checkpoint_close(&c);
    make_st_raw(folder, "x-1.safetensors", "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    expect_open_fails(folder, ST_FORMAT, "tensor a");
    make_remove(folder);
    free(folder);
}

static void other_formats_are_refused_with_the_remedy(void **state)
{
    (void)state;
    char *folder = make_folder(), *st = make_path(folder, "model.safetensors"), *config = make_path(folder, "config.json");
    make_llama_folder(folder, SHARD_BF16);
    expect_open_fails(st, ST_INVALID, "config.json");
    expect_open_fails(config, ST_INVALID, "folder");
    unlink(st);
    make_text(folder, "pytorch_model.bin", "pickle");
    expect_open_fails(folder, ST_UNSUPPORTED, "save_pretrained");
    expect_open_fails("/no/such/place", ST_NOT_FOUND, "/no/such/place");
    shard_checkpoint *c;
    assert_int_equal(shard_checkpoint_open(config, &(shard_open_options){.config_only = true}, &c), ST_OK);
    assert_int_equal(shard_checkpoint_types(c, false)->dflt, PACKED_BF16);
    float v[4];
    status_mute();
    assert_int_equal(shard_checkpoint_read_vector(c, SHARD_FINAL_NORM, 0, (shard_slice){0, 4}, v), ST_INVALID);
    status_unmute();
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(st);
    free(config);
    free(folder);
}

static void quantised_folders_are_refused_by_method(void **state)
{
    (void)state;
    char *folder = make_folder();
    make_llama_folder(folder, SHARD_BF16);
    make_text(folder, "config.json",
              "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
              "\"num_hidden_layers\":2,\"intermediate_size\":96,\"vocab_size\":70,\"quantization_config\":{\"quant_method\":\"gptq\"}}");
    expect_open_fails(folder, ST_UNSUPPORTED, "gptq");
    make_remove(folder);
    free(folder);
}

/* A file that shrinks after it was opened is an error that names file and tensor, not a crash. */
static void shrinking_files_are_noticed(void **state)
{
    (void)state;
    char *folder = make_folder(), *path = make_path(folder, "model.safetensors");
    make_llama_folder(folder, SHARD_F32);
    shard_checkpoint *c = open_ok(folder);
    assert_int_equal(truncate(path, 4096), 0);
    float v[64];
    status_mute();
    status st = shard_checkpoint_read_vector(c, SHARD_MLP_NORM, 1, (shard_slice){0, 64}, v);
    status_unmute();
    assert_int_equal(st, ST_FORMAT);
    assert_non_null(strstr(status_message(), "model.safetensors"));
    assert_non_null(strstr(status_message(), "model.layers.1.post_attention_layernorm.weight"));
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(path);
    free(folder);
}

/* ---- describe ---- */

static void what_a_checkpoint_says_of_itself(void **state)
{
    (void)state;
    char *folder = make_folder();
    make_llama_folder(folder, SHARD_BF16);
    json_t *d;
    shard_checkpoint *c = open_ok(folder);
    assert_int_equal(shard_checkpoint_describe(c, &d), ST_OK);
    assert_true(json_is_null(json_object_get(d, "licence")));
    assert_true(json_is_null(json_object_get(d, "base")));
    assert_true(json_is_null(json_object_get(d, "evaluations")));
    assert_string_equal(json_string_value(json_object_get(d, "format")), "safetensors");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(d, "tensors"), "BF16"), "tensors")), 20);
    char digest[80];
    snprintf(digest, sizeof(digest), "%s", shard_checkpoint_digest(c));
    assert_int_equal(strlen(digest), 7 + 64);
    json_decref(d);
    shard_checkpoint_close(&c);

    make_text(folder, "README.md",
              "---\nlicense: other\nlicense_name: tiny-licence\nbase_model:\n- org/base\nbase_model_relation: finetune\ndatasets: [a/b, c/d]\n"
              "model-index:\n- name: x\n  results:\n  - task:\n      type: text-generation\n    dataset:\n      name: MMLU\n    metrics:\n"
              "    - type: acc\n      value: 0.5\n---\n# Text\n");
    c = open_ok(folder);
    assert_int_equal(shard_checkpoint_describe(c, &d), ST_OK);
    assert_string_equal(json_string_value(json_object_get(d, "licence")), "tiny-licence");
    assert_string_equal(json_string_value(json_array_get(json_object_get(d, "base"), 0)), "org/base");
    assert_string_equal(json_string_value(json_object_get(json_object_get(d, "parent"), "relation")), "finetune");
    const json_t *e = json_array_get(json_object_get(d, "evaluations"), 0);
    assert_string_equal(json_string_value(json_object_get(e, "dataset")), "MMLU");
    assert_true(json_real_value(json_object_get(e, "value")) == 0.5);
    assert_string_equal(shard_checkpoint_digest(c), digest); /* the card does not change the weights */
    json_decref(d);
    shard_checkpoint_close(&c);

    make_llama_folder(folder, SHARD_F16); /* the same values in another type */
    c = open_ok(folder);
    assert_string_not_equal(shard_checkpoint_digest(c), digest);
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(folder);
}

static void gguf_metadata_describes_too(void **state)
{
    (void)state;
    char *folder = make_folder();
    make_llama_gguf(folder, "tiny.gguf", SHARD_Q8_0);
    shard_checkpoint *c = open_ok(folder);
    json_t *d;
    assert_int_equal(shard_checkpoint_describe(c, &d), ST_OK);
    assert_string_equal(json_string_value(json_object_get(d, "name")), "Tiny test llama");
    assert_string_equal(json_string_value(json_object_get(d, "licence")), "apache-2.0");
    assert_string_equal(json_string_value(json_object_get(d, "base")), "Tiny Base");
    assert_int_equal(json_array_size(json_object_get(d, "chat_templates")), 2);
    json_decref(d);
    const shard_template *t;
    const json_t *variables;
    assert_int_equal(shard_checkpoint_template(c, &t, &variables), ST_OK);
    assert_string_equal(json_string_value(json_object_get(variables, "bos_token")), "<s>");
    assert_int_equal(shard_checkpoint_template_named(c, "tool_use", &t, &variables), ST_OK);
    status_mute();
    assert_int_equal(shard_checkpoint_template_named(c, "rag", &t, &variables), ST_NOT_FOUND);
    status_unmute();
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(folder);
}

/* ---- templates of a folder ---- */

static void templates_are_found_where_they_may_lie(void **state)
{
    (void)state;
    char *folder = make_folder(), *jinja = make_path(folder, "chat_template.jinja"), *extra = make_path(folder, "additional_chat_templates");
    const shard_template *t;
    const json_t *variables;
    make_llama_folder(folder, SHARD_BF16);
    shard_checkpoint *c = open_ok(folder);
    status_mute();
    assert_int_equal(shard_checkpoint_template(c, &t, &variables), ST_NOT_FOUND);
    status_unmute();
    shard_checkpoint_close(&c);
    make_text(folder, "tokenizer_config.json",
              "{\"bos_token\":{\"content\":\"<b>\"},\"eos_token\":\"<e>\",\"pad_token\":null,"
              "\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},{\"name\":\"tool_use\",\"template\":\"T\"}]}");
    c = open_ok(folder);
    mem_str out = {0};
    json_t *none = json_array();
    shard_template_input in = {.messages = none};
    assert_int_equal(shard_checkpoint_template(c, &t, &variables), ST_OK);
    assert_string_equal(json_string_value(json_object_get(variables, "bos_token")), "<b>");
    assert_string_equal(json_string_value(json_object_get(variables, "eos_token")), "<e>");
    assert_null(json_object_get(variables, "pad_token"));
    assert_int_equal(shard_template_render(t, &in, NULL, &out), ST_OK);
    assert_string_equal(out.data, "D");
    shard_checkpoint_close(&c);
    make_text(folder, "chat_template.jinja", "J");
    assert_int_equal(file_make_dirs(extra), ST_OK);
    make_text(extra, "rag.jinja", "R");
    c = open_ok(folder);
    mem_str_clear(&out);
    assert_int_equal(shard_checkpoint_template(c, &t, &variables), ST_OK);
    assert_int_equal(shard_template_render(t, &in, NULL, &out), ST_OK);
    assert_int_equal(shard_checkpoint_template_named(c, "rag", &t, &variables), ST_OK);
    assert_int_equal(shard_template_render(t, &in, NULL, &out), ST_OK);
    assert_int_equal(shard_checkpoint_template_named(c, "tool_use", &t, &variables), ST_OK);
    assert_int_equal(shard_template_render(t, &in, NULL, &out), ST_OK);
    assert_string_equal(out.data, "JRT");
    status_mute();
    assert_int_equal(shard_checkpoint_template_named(c, "../rag", &t, &variables), ST_NOT_FOUND);
    status_unmute();
    shard_checkpoint_close(&c);
    mem_str_free(&out);
    json_decref(none);
    make_remove(folder);
    free(jinja);
    free(extra);
    free(folder);
}

static void an_absent_tokenizer_is_named(void **state)
{
    (void)state;
    char *folder = make_folder();
    const shard_tokenizer *t;
    make_llama_folder(folder, SHARD_BF16);
    shard_checkpoint *c = open_ok(folder);
    status_mute();
    assert_int_equal(shard_checkpoint_tokenizer(c, &t), ST_NOT_FOUND);
    make_text(folder, "tokenizer.model", "spm");
    assert_int_equal(shard_checkpoint_tokenizer(c, &t), ST_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "save_pretrained"));
    status_unmute();
    shard_checkpoint_close(&c);
    make_remove(folder);
    free(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slice_of_a_folder_is_right),
        cmocka_unit_test(every_slice_of_a_gguf_is_right),
        cmocka_unit_test(split_gguf_is_one_checkpoint),
        cmocka_unit_test(transposed_matrices_are_turned),
        cmocka_unit_test(threads_may_read_together),
        cmocka_unit_test(spoiled_folders_are_refused),
        cmocka_unit_test(missing_and_misshapen_tensors_are_named),
        cmocka_unit_test(other_formats_are_refused_with_the_remedy),
        cmocka_unit_test(quantised_folders_are_refused_by_method),
        cmocka_unit_test(shrinking_files_are_noticed),
        cmocka_unit_test(what_a_checkpoint_says_of_itself),
        cmocka_unit_test(gguf_metadata_describes_too),
        cmocka_unit_test(templates_are_found_where_they_may_lie),
        cmocka_unit_test(an_absent_tokenizer_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
