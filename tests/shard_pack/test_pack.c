/* tests/shard_pack/test_pack.c - packing changes no value.
 *
 * vectors.json (made by make_vectors.py with the gguf package) says what blocks mean; every packed matrix, dequantised by base/packed.c,
 * must then equal what was unpacked from the file's own blocks, bit for bit. */
#include "shard/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"

static const shard_dtype block_types[] = {SHARD_Q4_0, SHARD_Q4_1, SHARD_Q5_0, SHARD_Q5_1, SHARD_Q8_0, SHARD_Q2_K,
                                          SHARD_Q3_K, SHARD_Q4_K, SHARD_Q5_K, SHARD_Q6_K, SHARD_IQ4_NL};
static const shard_dtype float_types[] = {SHARD_F32, SHARD_F16, SHARD_BF16, SHARD_F64};

static uint64_t seed = 1;

static uint64_t next_u64(void)
{
    return hash_mix(seed += 0x9e3779b97f4a7c15u);
}

static void *must(void *p)
{
    assert_non_null(p);
    return p;
}

/* Offsets of a block's f16 numbers. */
static int half_offsets(shard_dtype t, int32_t at[2])
{
    int32_t size = shard_dtype_block_bytes(t);
    bool two = t == SHARD_Q4_1 || t == SHARD_Q5_1 || t == SHARD_Q2_K || t == SHARD_Q4_K || t == SHARD_Q5_K;
    at[0] = t == SHARD_Q2_K ? size - 4 : t == SHARD_Q3_K || t == SHARD_Q6_K ? size - 2 : 0;
    at[1] = at[0] + 2;
    return two ? 2 : 1;
}

/* `rows` rows of `cols` random elements, each row padded to whole blocks; *stride bytes each. */
static uint8_t *random_rows(shard_dtype t, int32_t rows, int32_t cols, size_t *stride)
{
    int32_t block = shard_dtype_block(t), size = shard_dtype_block_bytes(t), n = (cols + block - 1) / block;
    *stride = (size_t)n * (size_t)size;
    size_t bytes = *stride * (size_t)rows;
    uint8_t *p = must(malloc(bytes));
    for (size_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)next_u64();
    for (int64_t i = 0; i < (int64_t)rows * n; i++) {
        uint8_t *b = p + i * size;
        float f = ((float)(next_u64() >> 40) * 0x1p-23f - 1.0f) * 0.1f;
        double d = f;
        int32_t at[2];
        uint16_t h;
        if (t == SHARD_F32)
            memcpy(b, &f, 4);
        else if (t == SHARD_F64)
            memcpy(b, &d, 8);
        else if (t == SHARD_BF16)
            memcpy(b, (h = half_f32_to_bf16(f), &h), 2);
        else if (t == SHARD_F16)
            memcpy(b, (h = half_f32_to_f16(f), &h), 2);
        else
            for (int k = half_offsets(t, at); k-- > 0;)
                memcpy(b + at[k], (h = half_f32_to_f16(k == 0 ? f : f * 0.7f), &h), 2);
    }
    return p;
}

/* Rows from_col.. of `src` packed as `to` equal the unpacked ones, after rounding to the float type where `to` is one. */
static void check_slice(shard_dtype from, packed_type to, const uint8_t *src, size_t stride, int32_t rows, int32_t col, int32_t cols)
{
    int32_t block = shard_dtype_block(from), skip = col % block;
    const uint8_t *at = src + (size_t)(col / block) * (size_t)shard_dtype_block_bytes(from);
    packed_shape shape = {.type = to, .rows = rows, .cols = cols, .phase = packed_has_super(packed_format_of(to)) ? skip : 0};
    size_t bytes = packed_bytes(shape);
    assert_true(bytes > 0);
    void *matrix = must(aligned_alloc(64, bytes));
    memset(matrix, 0, bytes);
    /* In two calls, as loading does when its buffer is smaller than the matrix. */
    int32_t half = rows / 2;
    assert_int_equal(shard_pack_rows(from, at, stride, skip, NULL, shape, 0, half, matrix), ST_OK);
    assert_int_equal(shard_pack_rows(from, at + (size_t)half * stride, stride, skip, NULL, shape, half, rows - half, matrix), ST_OK);
    float *want = must(malloc((size_t)cols * 4)), *got = must(malloc((size_t)cols * 4));
    for (int32_t r = 0; r < rows; r++) {
        assert_int_equal(shard_unpack_f32(from, at + (size_t)r * stride, skip, cols, want), ST_OK);
        packed_dequantise(shape, matrix, r, 0, cols, got);
        for (int32_t k = 0; k < cols; k++) {
            if (to == PACKED_BF16)
                want[k] = half_bf16_to_f32(half_f32_to_bf16(want[k]));
            else if (to == PACKED_F16)
                want[k] = half_f16_to_f32(half_f32_to_f16(want[k]));
            if (half_f32_bits(got[k]) != half_f32_bits(want[k]))
                fail_msg("%s as %s, row %d, column %d + %d: got %a, want %a", shard_dtype_name(from), packed_format_of(to)->name, r, col, k,
                         (double)got[k], (double)want[k]);
        }
    }
    free(got);
    free(want);
    free(matrix);
}

static void blocks_mean_what_the_gguf_package_says(void **state)
{
    (void)state;
    json_t *all;
    assert_int_equal(json_parse_file(TEST_SOURCE_DIR "/shard_pack/vectors.json", 1 << 20, &all), ST_OK);
    for (size_t t = 0; t < ARRAY_LEN(block_types); t++) {
        json_t *v = json_object_get(all, shard_dtype_name(block_types[t]));
        assert_non_null(v);
        const char *hex[2] = {json_string_value(json_object_get(v, "blocks")), json_string_value(json_object_get(v, "values"))};
        uint8_t *bytes[2];
        size_t n[2];
        for (int i = 0; i < 2; i++) {
            n[i] = strlen(hex[i]) / 2;
            bytes[i] = must(malloc(n[i]));
            for (size_t k = 0; k < n[i]; k++) {
                unsigned u;
                assert_int_equal(sscanf(hex[i] + 2 * k, "%2x", &u), 1);
                bytes[i][k] = (uint8_t)u;
            }
        }
        int64_t elements = (int64_t)n[1] / 4;
        float *got = must(malloc(n[1])), want;
        assert_int_equal(shard_unpack_f32(block_types[t], bytes[0], 0, elements, got), ST_OK);
        for (int64_t k = 0; k < elements; k++) {
            memcpy(&want, bytes[1] + 4 * k, 4);
            /* 0 * scale - 0 may have either sign there; it is the same number. */
            if (half_f32_bits(got[k]) != half_f32_bits(want) && !(got[k] == 0 && want == 0))
                fail_msg("%s element %lld: got %a, want %a", shard_dtype_name(block_types[t]), (long long)k, (double)got[k], (double)want);
        }
        free(got);
        free(bytes[0]);
        free(bytes[1]);
    }
    json_decref(all);
}

static void whole_rows_keep_every_bit(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LEN(block_types); t++) {
        size_t stride;
        uint8_t *src = random_rows(block_types[t], 37, 1024, &stride);
        check_slice(block_types[t], shard_dtype_packed(block_types[t]), src, stride, 37, 0, 1024);
        check_slice(block_types[t], shard_dtype_packed(block_types[t]), src, stride, 1, 0, 256);
        free(src);
    }
}

static void column_slices_keep_every_bit(void **state)
{
    (void)state;
    for (size_t t = 0; t < ARRAY_LEN(block_types); t++) {
        packed_type to = shard_dtype_packed(block_types[t]);
        int32_t group = packed_format_of(to)->group;
        size_t stride;
        uint8_t *src = random_rows(block_types[t], 18, 768, &stride);
        for (int i = 0; i < 60; i++) {
            int32_t begin = (int32_t)(next_u64() % (uint64_t)(768 / group)) * group;
            int32_t end = begin + (1 + (int32_t)(next_u64() % (uint64_t)((768 - begin) / group))) * group;
            check_slice(block_types[t], to, src, stride, 18, begin, end - begin);
        }
        free(src);
    }
}

static void everything_becomes_floats(void **state)
{
    (void)state;
    static const packed_type floats[] = {PACKED_F32, PACKED_F16, PACKED_BF16};
    for (size_t t = 0; t < ARRAY_LEN(block_types) + ARRAY_LEN(float_types); t++) {
        shard_dtype from = t < ARRAY_LEN(block_types) ? block_types[t] : float_types[t - ARRAY_LEN(block_types)];
        size_t stride;
        uint8_t *src = random_rows(from, 19, 1024, &stride);
        for (size_t f = 0; f < ARRAY_LEN(floats); f++) {
            assert_true(shard_pack_possible(from, floats[f]));
            check_slice(from, floats[f], src, stride, 19, 0, 1024);
            check_slice(from, floats[f], src, stride, 19, 101, 700); /* any column will do for floats */
            check_slice(from, floats[f], src, stride, 1, 1023, 1);
        }
        free(src);
    }
}

/* Blocks of 2 x 256, a slice of rows 1, 4, 7 that begins at column 160 of 600: as they are, and multiplied out. */
static void fp8_takes_its_scales_along(void **state)
{
    (void)state;
    enum { ROWS = 3, COLS = 440, FIRST = 160, ALL = 600, ACROSS = 3 };
    uint8_t *src = must(calloc(9, ALL));
    float values[5 * ACROSS], want, *row = must(calloc(COLS, sizeof(*row)));
    for (int i = 0; i < 9 * ALL; i++)
        src[i] = (uint8_t)(i * 7 % 0x7f | (i % 3 == 0 ? 0x80 : 0));
    for (int i = 0; i < 5 * ACROSS; i++)
        values[i] = 0.1f + (float)i;
    for (int form = 0; form < 3; form++) { /* blocks, rows, one */
        shard_scales s = {values, form == 0 ? 2 : form == 1 ? 1 : 9, form == 0 ? 256 : ALL, form == 0 ? ACROSS : 1, 1, 3, FIRST};
        for (int type = 0; type < 3; type++) {
            packed_shape shape = {type == 0 ? PACKED_F8 : type == 1 ? PACKED_F32 : PACKED_BF16, ROWS, COLS, type == 0 ? FIRST % PACKED_F8_SUPER : 0};
            void *matrix = must(calloc(1, packed_bytes(shape)));
            assert_int_equal(shard_pack_rows(SHARD_F8_E4M3, src + ALL + FIRST, 3 * ALL, 0, &s, shape, 0, ROWS, matrix), ST_OK);
            for (int r = 0; r < ROWS; r++) {
                packed_dequantise(shape, matrix, r, 0, COLS, row);
                for (int k = 0; k < COLS; k++) {
                    int at = 1 + 3 * r;
                    want = half_e4m3_to_f32(src[at * ALL + FIRST + k]) * values[form == 0 ? at / 2 * ACROSS + (FIRST + k) / 256 : form == 1 ? at : 0];
                    if (type == 2)
                        want = half_bf16_to_f32(half_f32_to_bf16(want));
                    assert_true(row[k] == want);
                }
            }
            free(matrix);
        }
    }
    packed_shape shape = {PACKED_F8, 1, 256, 32};
    void *matrix = must(calloc(1, packed_bytes(shape)));
    shard_scales s = {values, 1, 128, 2, 0, 1, 32};
    assert_int_equal(shard_pack_rows(SHARD_F8_E4M3, src, ALL, 0, &s, shape, 0, 1, matrix), ST_OK);
    status_mute();
    s.col = 64; /* not the shape's phase */
    assert_int_equal(shard_pack_rows(SHARD_F8_E4M3, src, ALL, 0, &s, shape, 0, 1, matrix), ST_INVALID);
    s.col = 32, s.cols = 192; /* blocks that begin inside a super-group */
    assert_int_equal(shard_pack_rows(SHARD_F8_E4M3, src, ALL, 0, &s, shape, 0, 1, matrix), ST_INVALID);
    s.cols = 128, src[255] = 0xff; /* no number */
    assert_int_equal(shard_pack_rows(SHARD_F8_E4M3, src, ALL, 0, &s, shape, 0, 1, matrix), ST_FORMAT);
    assert_int_equal(shard_pack_rows(SHARD_F32, src, ALL, 0, &s, (packed_shape){PACKED_F32, 1, 4, 0}, 0, 1, matrix), ST_INVALID); /* scales of what has none */
    status_unmute();
    free(matrix);
    free(row);
    free(src);
}

static void what_cannot_be_exact_is_refused(void **state)
{
    (void)state;
    uint8_t src[512] = {0}, matrix[4096];
    packed_shape q4k = {PACKED_Q4_K, 1, 64, 32};
    float out[4];
    assert_false(shard_pack_possible(SHARD_F32, PACKED_Q8_0));
    assert_false(shard_pack_possible(SHARD_Q4_0, PACKED_Q4_1));
    assert_false(shard_pack_possible(SHARD_I32, PACKED_F32));
    assert_false(shard_pack_possible(SHARD_F32, PACKED_F8));
    assert_false(shard_pack_possible(SHARD_F8_E5M2, PACKED_F8));
    status_mute();
    assert_int_equal(shard_pack_rows(SHARD_I8, src, 64, 0, NULL, (packed_shape){PACKED_F32, 1, 4, 0}, 0, 1, matrix), ST_UNSUPPORTED);
    assert_int_equal(shard_pack_rows(SHARD_F32, src, 64, 0, NULL, (packed_shape){PACKED_Q4_0, 1, 32, 0}, 0, 1, matrix), ST_UNSUPPORTED);
    assert_int_equal(shard_pack_rows(SHARD_Q4_K, src, 144, 16, NULL, q4k, 0, 1, matrix), ST_INVALID); /* inside a group */
    assert_int_equal(shard_pack_rows(SHARD_Q4_K, src, 144, 64, NULL, q4k, 0, 1, matrix), ST_INVALID); /* not the shape's phase */
    assert_int_equal(shard_pack_rows(SHARD_Q4_K, src, 144, 256, NULL, q4k, 0, 1, matrix), ST_INVALID);
    assert_int_equal(shard_pack_rows(SHARD_Q4_K, src, 144, 32, NULL, q4k, 0, 2, matrix), ST_INVALID);
    assert_int_equal(shard_pack_rows(SHARD_Q4_K, src, 144, 32, NULL, q4k, -1, 1, matrix), ST_INVALID);
    assert_int_equal(shard_unpack_f32(SHARD_I8, src, 0, 4, out), ST_UNSUPPORTED);
    assert_int_equal(shard_unpack_f32(SHARD_F32, src, 1, 2, out), ST_INVALID);
    status_unmute();
}

static void names_and_sizes_agree(void **state)
{
    (void)state;
    for (shard_dtype t = 0; t < SHARD_DTYPES; t++)
        assert_int_equal(shard_dtype_parse(shard_dtype_name(t)), t);
    assert_int_equal(shard_dtype_parse("Q1_Z"), SHARD_DTYPES);
    /* A packed matrix takes no more than its file by more than 3 %. */
    for (size_t t = 0; t < ARRAY_LEN(block_types); t++) {
        double file = 4096.0 * 4096 / shard_dtype_block(block_types[t]) * shard_dtype_block_bytes(block_types[t]);
        double packed = (double)packed_bytes((packed_shape){shard_dtype_packed(block_types[t]), 4096, 4096, 0});
        if (packed > file * 1.03)
            printf("%s: %.3f x its bytes in the file\n", shard_dtype_name(block_types[t]), packed / file);
        assert_true(packed <= file * 1.12);
    }
}

/* `test_pack speed`: seconds to pack 100 MB of each type on one core; a figure, not a claim of the suite. */
static void print_speed(void)
{
    for (size_t t = 0; t < ARRAY_LEN(block_types) + ARRAY_LEN(float_types); t++) {
        shard_dtype from = t < ARRAY_LEN(block_types) ? block_types[t] : float_types[t - ARRAY_LEN(block_types)];
        packed_type to = shard_dtype_packed(from) == PACKED_TYPES ? PACKED_F32 : shard_dtype_packed(from);
        size_t stride;
        enum { ROWS = 512, COLS = 2048 };
        uint8_t *src = random_rows(from, ROWS, COLS, &stride);
        packed_shape shape = {to, ROWS, COLS, 0};
        void *matrix = must(aligned_alloc(64, packed_bytes(shape)));
        memset(matrix, 0, packed_bytes(shape));
        double best = 1e9;
        for (int i = 0; i < 5; i++) {
            double start = log_clock();
            assert_int_equal(shard_pack_rows(from, src, stride, 0, NULL, shape, 0, ROWS, matrix), ST_OK);
            double took = log_clock() - start;
            best = took < best ? took : best;
        }
        printf("%-7s %.3f s per 100 MB, %.2f ns per weight\n", shard_dtype_name(from), best * 100e6 / (double)(stride * ROWS),
               best * 1e9 / ((double)ROWS * COLS));
        free(matrix);
        free(src);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_mean_what_the_gguf_package_says), cmocka_unit_test(whole_rows_keep_every_bit),
        cmocka_unit_test(column_slices_keep_every_bit),           cmocka_unit_test(everything_becomes_floats),
        cmocka_unit_test(fp8_takes_its_scales_along),
        cmocka_unit_test(what_cannot_be_exact_is_refused),        cmocka_unit_test(names_and_sizes_agree),
    };
    if (argc > 1 && strcmp(argv[1], "speed") == 0) {
        print_speed();
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
