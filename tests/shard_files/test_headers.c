/* tests/shard_files/test_headers.c - safetensors and GGUF headers: what is read, and that everything malformed is refused with a message that names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/gguf.h"
#include "shard/safetensors.h"
#include "tests/shard_files/make.h"

/* ---- safetensors ---- */

static status parse_st(const char *header, uint64_t data_bytes, shard_tensors *t)
{
    assert_int_equal(shard_tensors_init(t), ST_OK);
    size_t n = strlen(header);
    status_mute();
    status st = shard_safetensors_parse("m.safetensors", header, n, 8 + n + data_bytes, 0, t);
    status_unmute();
    return st;
}

static void good_safetensors_are_read(void **state)
{
    (void)state;
    shard_tensors t;
    assert_int_equal(parse_st("{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                              "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[20,22]},"
                              "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[22,22]}}",
                              22, &t),
                     ST_OK);
    assert_int_equal(t.n, 4);
    const shard_tensor *b = shard_tensors_find(&t, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, SHARD_BF16);
    assert_int_equal(b->elements, 6);
    assert_int_equal(b->bytes, 12);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 3);
    assert_int_equal(b->offset, shard_tensors_find(&t, "a")->offset + 8);
    assert_null(shard_tensors_find(&t, "c"));
    shard_tensors_free(&t);
}

#define T(dtype, shape, begin, end) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void bad_safetensors_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        uint64_t data;
        status st;
        const char *says;
    } cases[] = {
        {"[]", 0, ST_FORMAT, "object"},
        {"{\"a\":", 0, ST_FORMAT, "not valid JSON"},
        {"{\"a\":3}", 0, ST_FORMAT, "tensor a"},
        {"{\"a\":" T("F32", "[2]", "0", "8") "}", 4, ST_FORMAT, "tensor a"},
        {"{\"a\":" T("F32", "[2]", "0", "8") "}", 12, ST_FORMAT, "4 bytes after the last tensor"},
        {"{\"a\":" T("F32", "[1]", "0", "4") ",\"b\":" T("F32", "[1]", "2", "6") "}", 6, ST_FORMAT, "overlap"},
        {"{\"a\":" T("F32", "[1]", "0", "4") ",\"b\":" T("F32", "[1]", "8", "12") "}", 12, ST_FORMAT, "4 bytes before tensor b"},
        {"{\"a\":" T("F32", "[1]", "0", "4") ",\"b\":" T("F32", "[1]", "0", "4") "}", 4, ST_FORMAT, "overlap"},
        {"{\"a\":" T("F32", "[1]", "0", "4") ",\"a\":" T("F32", "[1]", "4", "8") "}", 8, ST_FORMAT, "duplicate"},
        {"{\"a\":" T("F4", "[1]", "0", "4") "}", 4, ST_UNSUPPORTED, "F4"},
        {"{\"a\":" T("Q4_K", "[256]", "0", "144") "}", 144, ST_UNSUPPORTED, "Q4_K"},
        {"{\"a\":" T("F32", "[3]", "0", "8") "}", 8, ST_FORMAT, "12"},
        {"{\"a\":" T("F32", "[-1]", "0", "8") "}", 8, ST_FORMAT, "shape"},
        {"{\"a\":" T("F32", "[1.5]", "0", "8") "}", 8, ST_FORMAT, "shape"},
        {"{\"a\":" T("F32", "[4611686018427387904,4]", "0", "8") "}", 8, ST_FORMAT, "overflows"},
        {"{\"a\":" T("F64", "[4611686018427387904]", "0", "8") "}", 8, ST_FORMAT, "overflows"},
        {"{\"a\":" T("F32", "[18446744073709551616]", "0", "8") "}", 8, ST_FORMAT, "not valid JSON"},
        {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, ST_FORMAT, "shape"},
        {"{\"a\":" T("F32", "[2]", "-8", "0") "}", 8, ST_FORMAT, "data_offsets"},
        {"{\"a\":" T("F32", "[2]", "8", "0") "}", 8, ST_FORMAT, "data_offsets"},
        {"{\"a\":" T("F32", "[2]", "0", "9223372036854775807") "}", 8, ST_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, ST_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, ST_FORMAT, "data_offsets"},
        {"{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, ST_FORMAT, "dtype"},
        {"{\"a\\nb\":" T("F32", "[2]", "0", "8") "}", 8, ST_FORMAT, "control character"},
        {"{\"a\\u0000b\":" T("F32", "[2]", "0", "8") "}", 8, ST_FORMAT, "NUL"},
        {"{\"\":" T("F32", "[2]", "0", "8") "}", 8, ST_FORMAT, "name"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        shard_tensors t;
        status st = parse_st(cases[i].header, cases[i].data, &t);
        if (st != cases[i].st || strstr(status_message(), cases[i].says) == NULL || strstr(status_message(), "m.safetensors") == NULL)
            fail_msg("case %zu: %s\n status %d, message: %s", i, cases[i].header, st, status_message());
        shard_tensors_free(&t);
    }
}

static void header_lengths_near_2_64_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint64_t n, file;
        status st;
    } cases[] = {{UINT64_MAX, 100, ST_FORMAT}, {UINT64_MAX - 7, 100, ST_FORMAT}, {UINT64_MAX - 8, UINT64_MAX, ST_LIMIT}, {93, 100, ST_FORMAT},
                 {0, 100, ST_FORMAT}, {1, 100, ST_FORMAT}, {(uint64_t)1 << 30, (uint64_t)1 << 40, ST_LIMIT}, {92, 100, ST_OK}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t first[8];
        uint64_t out;
        memcpy(first, &cases[i].n, 8);
        status_mute();
        assert_int_equal(shard_safetensors_header_bytes("m", first, cases[i].file, &out), cases[i].st);
        status_unmute();
    }
}

static void index_names_cannot_leave_the_folder(void **state)
{
    (void)state;
    static const char *const bad[] = {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
                                      "{\"weight_map\":{\"a\":\"..\"}}",               "{\"weight_map\":{\"a\":\"\"}}",
                                      "{\"weight_map\":{\"a\":7}}",                    "{\"weight_map\":{\"a\":\"sub\\\\x\"}}",
                                      "{\"weight_map\":{}}",                           "{\"weight_map\":[]}",
                                      "{}",                                            "[]"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char **names;
        size_t n;
        json_t *index = json_loads(bad[i], JSON_DECODE_ANY, NULL);
        status_mute();
        assert_int_equal(shard_safetensors_index_files("index", index, &names, &n), ST_FORMAT);
        status_unmute();
        json_decref(index);
    }
    const char **names;
    size_t n;
    json_t *index = json_loads("{\"weight_map\":{\"a\":\"2.st\",\"b\":\"1.st\",\"c\":\"2.st\"}}", 0, NULL);
    assert_int_equal(shard_safetensors_index_files("index", index, &names, &n), ST_OK);
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "2.st");
    free(names);
    json_decref(index);
}

/* ---- GGUF ---- */

typedef struct parsed {
    shard_gguf *g;
    shard_tensors t;
    bool need_more;
} parsed;

/* Parses the first `len` bytes of a file said to have `file_bytes`. */
static status parse_gguf(const void *bytes, size_t len, uint64_t file_bytes, parsed *p)
{
    *p = (parsed){0};
    assert_int_equal(shard_tensors_init(&p->t), ST_OK);
    uint8_t *copy = malloc(len + 1);
    memcpy(copy, bytes, len);
    status_mute();
    status st = shard_gguf_parse("m.gguf", copy, len, file_bytes, 0, &p->t, &p->need_more, &p->g);
    status_unmute();
    if (st != ST_OK || p->need_more)
        free(copy);
    return st;
}

static void parsed_free(parsed *p)
{
    shard_gguf_destroy(&p->g);
    shard_tensors_free(&p->t);
}

static void good_gguf_is_read(void **state)
{
    (void)state;
    static const char *const words[] = {"one", "", "three"};
    for (uint32_t version = 2; version <= 3; version++) {
        make_gguf g = {.version = version};
        make_gguf_str(&g, "general.architecture", "llama");
        make_gguf_u32(&g, "n", 7);
        make_gguf_f32(&g, "f", 0.5f);
        make_gguf_strs(&g, "words", words, 3);
        make_gguf_tensor(&g, "w", "w", SHARD_Q8_0, 3, 64, 0);
        make_gguf_tensor(&g, "v", "v", SHARD_F32, 5, 0, 0);
        mem_str file = {0};
        make_gguf_bytes(&g, &file);
        parsed p;
        assert_int_equal(parse_gguf(file.data, file.len, file.len, &p), ST_OK);
        int64_t n;
        double f;
        const char *const *list;
        const size_t *lens;
        assert_string_equal(shard_gguf_str(p.g, "general.architecture"), "llama");
        assert_true(shard_gguf_int(p.g, "n", &n) && n == 7);
        assert_false(shard_gguf_int(p.g, "f", &n));
        assert_true(shard_gguf_f64(p.g, "f", &f) && f == 0.5);
        assert_null(shard_gguf_str(p.g, "n"));
        assert_int_equal(shard_gguf_str_array(p.g, "words", &list, &lens), 3);
        assert_int_equal(lens[1], 0);
        assert_memory_equal(list[2], "three", 5);
        const shard_tensor *w = shard_tensors_find(&p.t, "w");
        assert_int_equal(w->dims[0], 3);
        assert_int_equal(w->dims[1], 64);
        assert_int_equal(w->bytes, 3 * 2 * 34);
        parsed_free(&p);
        mem_str_free(&file);
    }
}

/* Every proper prefix of a file: more is asked for while the file is longer, and refused when the file itself ends there. */
static void truncated_gguf_is_refused(void **state)
{
    (void)state;
    make_gguf g = {0};
    make_llama_metadata(&g, 0, 0);
    make_gguf_tensor(&g, "w", "w", SHARD_F32, 3, 4, 0);
    mem_str file = {0};
    make_gguf_bytes(&g, &file);
    for (size_t len = 0; len < file.len; len += len < 64 || len + 200 > file.len ? 1 : 7) {
        parsed p;
        status st = parse_gguf(file.data, len, file.len, &p);
        assert_int_equal(st, ST_OK);
        if (!p.need_more)
            assert_true(len >= p.g->header_bytes);
        else
            assert_int_equal(p.t.n, 0);
        parsed_free(&p);
        st = parse_gguf(file.data, len, len, &p);
        assert_int_equal(st, ST_FORMAT);
        assert_non_null(strstr(status_message(), "m.gguf"));
        parsed_free(&p);
    }
    mem_str_free(&file);
}


static void put(mem_str *s, uint64_t v, int n)
{
    mem_str_append(s, &v, (size_t)n);
}

static void put_text(mem_str *s, const char *t)
{
    put(s, strlen(t), 8);
    mem_str_puts(s, t);
}

static void head(mem_str *s, uint64_t tensors, uint64_t values)
{
    mem_str_puts(s, "GGUF");
    put(s, 3, 4);
    put(s, tensors, 8);
    put(s, values, 8);
}

static void one_tensor(mem_str *s, uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset)
{
    head(s, 1, 0);
    put_text(s, "w");
    put(s, n_dims, 4);
    for (uint32_t i = 0; i < n_dims; i++)
        put(s, dims[i], 8);
    put(s, type, 4);
    put(s, offset, 8);
    for (int i = 0; i < 256; i++)
        mem_str_putc(s, 0);
}

static void expect_refused(mem_str *s, status want, const char *says)
{
    parsed p;
    status st = parse_gguf(s->data, s->len, s->len, &p);
    if (st != want || strstr(status_message(), says) == NULL)
        fail_msg("status %d, wanted %d and \"%s\"; message: %s", st, want, says, status_message());
    parsed_free(&p);
    mem_str_free(s);
}

static void bad_gguf_is_refused(void **state)
{
    (void)state;
    mem_str s = {0};
    mem_str_puts(&s, "GGML garbage that is long enough to have a head");
    expect_refused(&s, ST_FORMAT, "not a GGUF");
    for (uint32_t v = 0; v < 5; v++) {
        if (v == 2 || v == 3)
            continue;
        mem_str_puts(&s, "GGUF");
        put(&s, v, 4);
        put(&s, 0, 8), put(&s, 0, 8);
        expect_refused(&s, ST_UNSUPPORTED, "version");
    }
    mem_str_puts(&s, "GGUF");
    put(&s, 0x03000000, 4);
    put(&s, 0, 8), put(&s, 0, 8);
    expect_refused(&s, ST_UNSUPPORTED, "big-endian");
    head(&s, UINT64_MAX, 0);
    expect_refused(&s, ST_LIMIT, "tensors");
    head(&s, 0, UINT64_MAX);
    expect_refused(&s, ST_LIMIT, "keys");
    head(&s, 0, 1), put(&s, UINT64_MAX - 3, 8);
    expect_refused(&s, ST_FORMAT, "ends inside");
    head(&s, 0, 1), put_text(&s, "k"), put(&s, 13, 4);
    expect_refused(&s, ST_FORMAT, "unknown kind");
    head(&s, 0, 1), put_text(&s, "k"), put(&s, 9, 4), put(&s, 4, 4), put(&s, (uint64_t)1 << 62, 8);
    expect_refused(&s, ST_FORMAT, "overflows");
    head(&s, 0, 1), put_text(&s, "k"), put(&s, 9, 4), put(&s, 8, 4), put(&s, UINT64_MAX, 8);
    expect_refused(&s, ST_FORMAT, "ends inside k");
    head(&s, 0, 1), put_text(&s, "k"), put(&s, 9, 4);
    for (int i = 0; i < 6; i++)
        put(&s, 9, 4), put(&s, 1, 8);
    expect_refused(&s, ST_LIMIT, "nested");
    head(&s, 0, 2), put_text(&s, "k"), put(&s, 4, 4), put(&s, 1, 4), put_text(&s, "k"), put(&s, 4, 4), put(&s, 1, 4);
    expect_refused(&s, ST_FORMAT, "twice");
    head(&s, 0, 1), put_text(&s, "general.alignment"), put(&s, 4, 4), put(&s, 24, 4);
    expect_refused(&s, ST_FORMAT, "power of two");
    one_tensor(&s, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0);
    expect_refused(&s, ST_FORMAT, "dimensions");
    one_tensor(&s, 2, (uint64_t[]){(uint64_t)1 << 62, 8}, 0, 0);
    expect_refused(&s, ST_FORMAT, "overflows");
    one_tensor(&s, 1, (uint64_t[]){UINT64_MAX}, 0, 0);
    expect_refused(&s, ST_FORMAT, "too large");
    one_tensor(&s, 1, (uint64_t[]){33}, 8, 0);
    expect_refused(&s, ST_FORMAT, "blocks");
    one_tensor(&s, 1, (uint64_t[]){1000}, 0, 0);
    expect_refused(&s, ST_FORMAT, "tensor w");
    one_tensor(&s, 1, (uint64_t[]){4}, 0, 8);
    expect_refused(&s, ST_FORMAT, "alignment");
    one_tensor(&s, 1, (uint64_t[]){4}, 0, UINT64_MAX - 31);
    expect_refused(&s, ST_FORMAT, "overflows");
    one_tensor(&s, 1, (uint64_t[]){256}, 23, 0);
    expect_refused(&s, ST_UNSUPPORTED, "IQ4_XS");
    one_tensor(&s, 1, (uint64_t[]){32}, 4, 0);
    expect_refused(&s, ST_UNSUPPORTED, "Q4_2");
    one_tensor(&s, 1, (uint64_t[]){32}, 77, 0);
    expect_refused(&s, ST_UNSUPPORTED, "unknown type 77");
}

static void overlapping_gguf_tensors_are_refused(void **state)
{
    (void)state;
    mem_str s = {0};
    head(&s, 2, 0);
    for (int i = 0; i < 2; i++) {
        put_text(&s, i == 0 ? "a" : "b");
        put(&s, 1, 4), put(&s, 16, 8), put(&s, 0, 4), put(&s, (uint64_t)i * 32, 8);
    }
    for (int i = 0; i < 256; i++)
        mem_str_putc(&s, 0);
    expect_refused(&s, ST_FORMAT, "overlap");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_safetensors_are_read),        cmocka_unit_test(bad_safetensors_are_refused),
        cmocka_unit_test(header_lengths_near_2_64_are_refused), cmocka_unit_test(index_names_cannot_leave_the_folder),
        cmocka_unit_test(good_gguf_is_read),                cmocka_unit_test(truncated_gguf_is_refused),
        cmocka_unit_test(bad_gguf_is_refused),              cmocka_unit_test(overlapping_gguf_tensors_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
