/* tests/ops/fixture.h - contexts of every level and thread count through the public table, matrices, and a seeded generator. */
#ifndef TESTS_OPS_FIXTURE_H
#define TESTS_OPS_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/ops.h"

#define MAX_ROWS 80
#define MAX_COLS 1600

/* Over SIMDe everything takes minutes; how work is shared is the same code at every level, and AVX2 is not emulated. */
#ifdef OPS_EMULATED
#define N_THREADS 1
#define LEVELS_EVERYWHERE "c", "avx512"
#else
#define N_THREADS 3
#define LEVELS_EVERYWHERE "c", "avx2", "avx512"
#endif
#ifndef FIXTURE_LEVELS
#define FIXTURE_LEVELS LEVELS_EVERYWHERE
#endif
static const char *const LEVELS[] = {FIXTURE_LEVELS};
static struct {
    ops_ctx *ctx;
    char name[48];
} contexts[ARRAY_LEN(LEVELS) * N_THREADS];
static int n_contexts;

#define OK(expr) assert_int_equal(expr, ST_OK)

static inline int fixture_open(void **state)
{
    (void)state;
    for (size_t l = 0; l < ARRAY_LEN(LEVELS); l++)
        for (int t = 1; t <= N_THREADS; t++) {
            ops_ctx_options o = {.n_threads = t, .first_core = -1, .isa = LEVELS[l], .max_rows = MAX_ROWS, .max_cols = MAX_COLS};
            status_mute();
            status st = ops_cpu()->ctx_create(&o, &contexts[n_contexts].ctx);
            status_unmute();
            if (st != ST_OK) {
                printf("level %s not run: %s\n", LEVELS[l], status_message());
                break;
            }
            snprintf(contexts[n_contexts].name, sizeof(contexts[0].name), "%s with %d threads", LEVELS[l], t);
            n_contexts++;
        }
    return n_contexts > 0 ? 0 : -1;
}

static inline int fixture_close(void **state)
{
    (void)state;
    while (n_contexts > 0)
        ops_cpu()->ctx_destroy(&contexts[--n_contexts].ctx);
    return 0;
}

static inline uint32_t random_bits(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 32);
}
static inline float uniform(uint64_t *seed) /* [-1, 1) */
{
    return (float)(int32_t)random_bits(seed) * 0x1p-31f;
}

/* A matrix in a buffer of its own, its padding filled with NaN. */
static inline ops_mat mat_make(ops_ctx *ctx, ops_type type, int32_t rows, int32_t cols)
{
    ops_mat m = {.type = type, .cols = cols, .stride = ops_row_bytes(type, cols)};
    OK(ops_cpu()->buf_create(ctx, m.stride * (size_t)(rows > 0 ? rows : 1), "test", &m.buf));
    memset(ops_cpu()->buf_map(ctx, m.buf), 0xff, m.stride * (size_t)rows);
    return m;
}
static inline float *mat_row(ops_ctx *ctx, const ops_mat *m, int32_t row)
{
    return (float *)(void *)((char *)ops_cpu()->buf_map(ctx, m->buf) + m->offset + (size_t)row * m->stride);
}
static inline void mat_fill(ops_ctx *ctx, const ops_mat *m, int32_t rows, float scale, uint64_t seed)
{
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < m->cols; c++)
            mat_row(ctx, m, r)[c] = uniform(&seed) * scale;
}
static inline void mat_free(ops_ctx *ctx, ops_mat *m)
{
    ops_cpu()->buf_destroy(ctx, &m->buf);
}
static inline ops_vec vec_make(ops_ctx *ctx, int32_t n, float scale, float shift, uint64_t seed)
{
    ops_vec v = {.n = n};
    OK(ops_cpu()->buf_create(ctx, (size_t)n * sizeof(float), "test", &v.buf));
    float *p = ops_cpu()->buf_map(ctx, v.buf);
    for (int32_t i = 0; i < n; i++)
        p[i] = shift + uniform(&seed) * scale;
    return v;
}
static inline const float *vec_data(ops_ctx *ctx, const ops_vec *v)
{
    return v->buf == NULL ? NULL : ops_cpu()->buf_map(ctx, v->buf);
}
static inline void vec_free(ops_ctx *ctx, ops_vec *v)
{
    ops_cpu()->buf_destroy(ctx, &v->buf);
}

static inline void assert_near(const char *what, double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound))
        fail_msg("%s: got %.9g, want %.9g (bound %.2g)", what, got, want, bound);
}

/* A batch of one step. */
static inline ops_batch *batch_make(ops_ctx *ctx, int32_t groups, int32_t n_ropes, const ops_rope_spec *ropes)
{
    ops_batch_limits l = {.max_rows = MAX_ROWS, .max_spans = MAX_ROWS, .max_out = MAX_ROWS, .max_blocks = 1 << 16, .n_kv_groups = groups, .n_ropes = n_ropes};
    for (int32_t i = 0; i < n_ropes; i++)
        l.ropes[i] = ropes[i];
    ops_batch *b;
    OK(ops_cpu()->batch_create(ctx, &l, &b));
    return b;
}
/* n rows, one sequence, from a position on, no cache. */
static inline void batch_plain(ops_ctx *ctx, ops_batch *b, int32_t n, int32_t position, const int32_t *tokens, int32_t n_out, const int32_t *out)
{
    static const int32_t zeros[MAX_ROWS];
    static int32_t table[1 << 16];
    ops_span s = {.row = 0, .n_rows = n, .position = position};
    ops_batch_desc d = {.n_rows = n, .tokens = tokens != NULL ? tokens : zeros, .n_spans = n > 0, .spans = &s, .n_out = n_out, .out_rows = out};
    for (int g = 0; g < OPS_MAX_KV_GROUPS; g++) {
        d.tables[g] = table;
        d.n_table[g] = 1 << 16;
    }
    OK(ops_cpu()->batch_set(ctx, b, &d));
}

#endif
