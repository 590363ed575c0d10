/* tests/base/test_packed.c - what the writers of the packed formats put in, the reader takes out; sizes are as promised. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/packed.h"
#include "base/status.h"

static uint32_t next_random(uint32_t *s)
{
    *s = *s * 1664525u + 1013904223u;
    return *s >> 8;
}

static uint16_t random_half(uint32_t *s)
{
    return half_f32_to_f16((float)(int32_t)(next_random(s) % 2001 - 1000) / 512.0f);
}

/* Fills a matrix from random codes and scales, keeping the value that each element must then have. */
static void fill_integers(const packed_layout *l, void *m, float *want, uint32_t *seed)
{
    const packed_format *f = l->format;
    int padded = l->units * PACKED_UNIT;
    for (int r = 0; r < l->shape.rows; r++) {
        uint16_t super[600], super_min[600];
        for (int s = 0; s < l->supers; s++)
            packed_set_super(l, m, r, s, super[s] = random_half(seed), super_min[s] = random_half(seed));
        uint8_t *codes = malloc((size_t)padded);
        for (int k = 0; k < padded; k++)
            codes[k] = (uint8_t)(next_random(seed) & ((1u << f->bits) - 1));
        for (int u = 0; u < l->units; u++)
            packed_set_unit(l, m, r, u, codes + u * PACKED_UNIT);
        for (int g = 0; g < l->groups; g++) {
            float scale, min = 0;
            uint16_t a, b = 0;
            if (f->scale == PACKED_SCALE_F16) {
                a = random_half(seed);
                b = random_half(seed);
                scale = half_f16_to_f32(a);
                min = half_f16_to_f32(b);
            } else {
                uint16_t mask = f->scale == PACKED_SCALE_U4 ? 15 : 255;
                a = (uint16_t)(next_random(seed) & mask);
                b = (uint16_t)(next_random(seed) & mask);
                int s = (l->shape.phase + g * f->group) / 256;
                scale = half_f16_to_f32(super[s]) * (float)(f->scale == PACKED_SCALE_S8 ? (int8_t)a : a);
                min = -(half_f16_to_f32(super_min[s]) * (float)b);
            }
            packed_set_scale(l, m, r, g, a, b);
            for (int k = g * f->group; k < (g + 1) * f->group && k < l->shape.cols; k++) {
                int c = f->codebook != NULL ? f->codebook[codes[k]] : f->bits == 8 ? (int8_t)codes[k] : codes[k] - f->zero;
                float v = scale * (float)c;
                want[r * l->shape.cols + k] = f->min != PACKED_SCALE_NONE ? v + min : v;
            }
        }
        free(codes);
    }
}

static void fill_floats(const packed_layout *l, void *m, float *want, uint32_t *seed)
{
    for (int r = 0; r < l->shape.rows; r++) {
        for (int k = 0; k < l->shape.cols; k++) {
            float v = (float)(int32_t)(next_random(seed) % 20001 - 10000) / 3000.0f;
            uint32_t bits = half_f32_bits(v);
            uint16_t h = l->shape.type == PACKED_BF16 ? half_f32_to_bf16(v) : half_f32_to_f16(v);
            uint8_t e = half_f32_to_e4m3(v);
            if (l->shape.type == PACKED_F8) {
                int32_t super = (l->shape.phase + k) / 128;
                packed_set_floats(l, m, r, k, 1, &e);
                packed_set_super_f32(l, m, r, super, 0.3f + (float)(super * 5 + r));
                want[r * l->shape.cols + k] = half_e4m3_to_f32(e) * (0.3f + (float)(super * 5 + r));
                continue;
            }
            packed_set_floats(l, m, r, k, 1, l->shape.type == PACKED_F32 ? (void *)&bits : (void *)&h);
            want[r * l->shape.cols + k] =
                l->shape.type == PACKED_F32 ? v : l->shape.type == PACKED_BF16 ? half_bf16_to_f32(h) : half_f16_to_f32(h);
        }
    }
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    static const struct {
        int rows, cols, phase;
    } shapes[] = {{1, 1, 0}, {16, 32, 0}, {17, 33, 0}, {33, 512, 0}, {5, 80, 0}, {20, 304, 96}, {3, 16, 240}, {2, 40, 224}};
    uint32_t seed = 7;
    for (int t = 0; t < PACKED_TYPES; t++) {
        for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
            packed_shape s = {(packed_type)t, shapes[i].rows, shapes[i].cols, shapes[i].phase};
            const packed_format *f = packed_format_of(s.type);
            s.phase = packed_has_super(f) ? s.phase % f->super : 0;
            s.phase -= s.phase % f->group;
            packed_layout l;
            assert_true(packed_layout_of(s, &l));
            assert_int_equal(l.bytes, packed_bytes(s));
            char *m = calloc(1, l.bytes);
            float *want = calloc((size_t)s.rows * (size_t)s.cols, 4), *got = calloc((size_t)s.cols, 4);
            if (f->integer)
                fill_integers(&l, m, want, &seed);
            else
                fill_floats(&l, m, want, &seed);
            for (int r = 0; r < s.rows; r++) {
                packed_dequantise(s, m, r, 0, s.cols, got);
                assert_memory_equal(got, want + r * s.cols, (size_t)s.cols * 4);
                int k0 = s.cols / 3, n = s.cols - k0 - s.cols / 4;
                packed_dequantise(s, m, r, k0, n, got);
                assert_memory_equal(got, want + r * s.cols + k0, (size_t)n * 4);
            }
            free(m);
            free(want);
            free(got);
        }
    }
}

/* Bytes of a block in a GGUF file against ours, for a matrix of a common size. */
static void packed_takes_no_more_than_the_file(void **state)
{
    (void)state;
    static const struct {
        packed_type type;
        double block, bytes, most;
    } of[] = {
        {PACKED_F32, 1, 4, 1.0},    {PACKED_F16, 1, 2, 1.0},    {PACKED_BF16, 1, 2, 1.0},     {PACKED_Q8_0, 32, 34, 1.03},  {PACKED_Q4_0, 32, 18, 1.03},
        {PACKED_Q4_1, 32, 20, 1.03}, {PACKED_Q5_0, 32, 22, 1.03}, {PACKED_Q5_1, 32, 24, 1.03},  {PACKED_Q2_K, 256, 84, 1.03}, {PACKED_Q3_K, 256, 110, 1.04},
        {PACKED_Q4_K, 256, 144, 1.03}, {PACKED_Q5_K, 256, 176, 1.03}, {PACKED_Q6_K, 256, 210, 1.03}, {PACKED_IQ4_NL, 32, 18, 1.03},
    };
    for (size_t i = 0; i < ARRAY_LEN(of); i++) {
        double file = 576.0 * 1536 / of[i].block * of[i].bytes;
        double ours = (double)packed_bytes((packed_shape){of[i].type, 576, 1536, 0});
        assert_true(ours >= file && ours <= of[i].most * file);
    }
}

static void impossible_shapes_are_refused(void **state)
{
    (void)state;
    static const packed_shape bad[] = {
        {PACKED_F32, 0, 4, 0}, {PACKED_F32, 4, 0, 0}, {PACKED_F32, -1, 4, 0}, {PACKED_F32, 4, INT32_MAX, 0}, {PACKED_Q4_0, 4, 32, 32}, {PACKED_Q6_K, 4, 32, 8},
        {PACKED_Q6_K, 4, 32, 256}, {PACKED_Q6_K, 4, 32, -16}, {PACKED_TYPES, 4, 32, 0},
    };
    packed_layout l;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(packed_layout_of(bad[i], &l));
        assert_int_equal(packed_bytes(bad[i]), 0);
    }
    assert_true(packed_layout_of((packed_shape){PACKED_F32, INT32_MAX, 1 << 30, 0}, &l)); /* 2^63 bytes: no overflow on 64 bits */
}

static void names_parse_back(void **state)
{
    (void)state;
    for (int t = 0; t < PACKED_TYPES; t++)
        assert_int_equal(packed_type_parse(packed_format_of((packed_type)t)->name), t);
    assert_int_equal(packed_type_parse("q4"), PACKED_TYPES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),       cmocka_unit_test(packed_takes_no_more_than_the_file),
        cmocka_unit_test(impossible_shapes_are_refused), cmocka_unit_test(names_parse_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
