/* tests/cuda/test_cuda_attention.c - attention against a plain sum in double over what the cache holds, on every cache type and odd shapes; and each row
 * bit for bit the same, alone or in company, its prompt in one step or several, its chunks merged in one block or in scratch, in any order of threads. */
#include "tests/cuda/cuda_fixture.h"

#include "base/half.h"
#include "ops/cuda/kernels.h"

enum { LAYERS = 2, LAYER = 1, GROUP = 1, MAX_SPANS = 6, MAX_ROWS = 320, MAX_CONTEXT = 1024, BLOCKS_EACH = MAX_CONTEXT / OPS_KV_BLOCK };

typedef struct shape {
    const char *name;
    ops_kv_type type;
    int32_t head_dim, n_heads, head_begin, heads_per_kv, kv_head_begin;
    int32_t window;
    float scale, softcap;
    bool slopes, sinks;
    ops_type y_type;
    int32_t y_col, y_more; /* columns before and after */
    struct {
        int32_t position, n_rows;
    } spans[MAX_SPANS];
} shape;

typedef struct world { /* a shape's cache and queries */
    const shape *s;
    gpu_kv kv; /* p: device */
    char *cache;
    size_t cache_bytes;
    int32_t n_spans, n_rows;
    ops_span spans[MAX_SPANS];
    int32_t table[MAX_SPANS * BLOCKS_EACH];
    float *q, slopes[64], sinks[64];
    double *want; /* [rows][heads * head_dim] */
} world;

static int32_t element_bytes(ops_kv_type type)
{
    return type == OPS_KV_F32 ? 4 : type == OPS_KV_Q8 || type == OPS_KV_F8 ? 1 : 2;
}

/* As kernels.h says. */
static void lay_out(world *w, int32_t n_kv, int64_t n_blocks)
{
    int64_t e = (w->s->head_dim + 15) / 16 * 16, codes = 16 * e * element_bytes(w->s->type), scales = w->s->type == OPS_KV_Q8 ? (32 * ((e + 31) / 32) + 63) / 64 * 64 : 0;
    w->kv = (gpu_kv){.type = (int32_t)w->s->type, .n_layers = LAYERS, .n_kv_heads = n_kv, .head_dim = w->s->head_dim, .padded = (int32_t)e, .n_blocks = n_blocks,
                     .head_bytes = 2 * (codes + scales), .k_scales = codes, .v_codes = codes + scales, .v_scales = 2 * codes + scales};
    w->cache_bytes = (size_t)(LAYERS * n_kv * n_blocks * w->kv.head_bytes);
}

static char *head_at(const world *w, int32_t kv, int32_t block)
{
    return w->cache + ((int64_t)(LAYER * w->kv.n_kv_heads + kv) * w->kv.n_blocks + block) * w->kv.head_bytes;
}

static int32_t block_of(const world *w, int32_t span, int32_t position)
{
    return w->table[w->spans[span].table[GROUP] + position / OPS_KV_BLOCK];
}

static void put(const world *w, char *codes, char *scales, int32_t token, int32_t d, float v, float scale)
{
    int64_t at = (int64_t)token * w->kv.padded + d;
    switch (w->s->type) {
    case OPS_KV_F32:
        memcpy(codes + at * 4, &v, 4);
        break;
    case OPS_KV_F16: {
        uint16_t h = half_f32_to_f16(v);
        memcpy(codes + at * 2, &h, 2);
        break;
    }
    case OPS_KV_BF16: {
        uint16_t h = half_f32_to_bf16(v);
        memcpy(codes + at * 2, &h, 2);
        break;
    }
    case OPS_KV_F8:
        codes[at] = (char)half_f32_to_e4m3(v);
        break;
    default: {
        uint16_t h = half_f32_to_f16(scale);
        codes[at] = (char)(int8_t)lrintf(v * 127.0f);
        memcpy(scales + 2 * (d / 32 * 16 + token), &h, 2);
    }
    }
}

/* The tensor cores' path, by type and width. */
static bool rounds_q(const shape *s)
{
    return s->type != OPS_KV_F32 && s->head_dim <= 256;
}

static double get(const world *w, const char *codes, const char *scales, int32_t token, int32_t d)
{
    int64_t at = (int64_t)token * w->kv.padded + d;
    float f;
    uint16_t h;
    switch (w->s->type) {
    case OPS_KV_F32:
        memcpy(&f, codes + at * 4, 4);
        return f;
    case OPS_KV_F16:
    case OPS_KV_BF16:
        memcpy(&h, codes + at * 2, 2);
        return w->s->type == OPS_KV_F16 ? half_f16_to_f32(h) : half_bf16_to_f32(h);
    case OPS_KV_F8:
        return half_e4m3_to_f32((uint8_t)codes[at]);
    default: {
        memcpy(&h, scales + 2 * (d / 32 * 16 + token), 2);
        float v = (float)(int8_t)codes[at] * half_f16_to_f32(h);
        return rounds_q(w->s) ? half_f16_to_f32(half_f32_to_f16(v)) : v; /* the tensor cores' path expands to f16 */
    }
    }
}

/* Tokens of sequences get random keys and values; what no sequence wrote is 0xff, so NaN. */
static void fill_cache(world *w)
{
    uint64_t seed = 7;
    memset(w->cache, 0xff, w->cache_bytes);
    for (int32_t i = 0; i < w->n_spans; i++)
        for (int32_t p = 0; p < w->spans[i].position + w->spans[i].n_rows; p++)
            for (int32_t kv = 0; kv < w->kv.n_kv_heads; kv++) {
                char *head = head_at(w, kv, block_of(w, i, p));
                for (int32_t d = 0; d < w->kv.padded; d++) {
                    float scale = 0.002f * (float)(1 + (p + d / 32) % 7), k = d < w->s->head_dim ? uniform(&seed) : 0.0f, v = d < w->s->head_dim ? uniform(&seed) : 0.0f;
                    put(w, head, head + w->kv.k_scales, p % OPS_KV_BLOCK, d, k, scale);
                    put(w, head + w->kv.v_codes, head + w->kv.v_scales, p % OPS_KV_BLOCK, d, v, scale);
                }
            }
}

/* Table entries before a window may hold anything. */
static void spoil_tables(world *w)
{
    for (int32_t i = 0; i < w->n_spans && w->s->window > 0; i++) {
        int32_t seen = w->spans[i].position - w->s->window + 1;
        for (int32_t j = 0; (j + 1) * OPS_KV_BLOCK <= seen; j++)
            w->table[w->spans[i].table[GROUP] + j] = j % 2 == 0 ? -7 : 0x7fffffff;
    }
}

static double query_element(const world *w, float q)
{
    return !rounds_q(w->s) ? q : w->s->type == OPS_KV_BF16 ? half_bf16_to_f32(half_f32_to_bf16(q)) : half_f16_to_f32(half_f32_to_f16(q));
}

static void reference_row(const world *w, int32_t span, int32_t row, int32_t head)
{
    const shape *s = w->s;
    int32_t p = w->spans[span].position + row - w->spans[span].row, kv = (s->head_begin + head) / s->heads_per_kv - s->kv_head_begin, hd = s->head_dim;
    int32_t from = s->window > 0 && p >= s->window ? p - s->window + 1 : 0;
    const float *q = w->q + ((int64_t)row * s->n_heads + head) * hd;
    double *out = w->want + ((int64_t)row * s->n_heads + head) * hd, score[MAX_CONTEXT], max = s->sinks ? (double)w->sinks[head] : -INFINITY, sum = 0.0;
    for (int32_t t = from; t <= p; t++) {
        const char *k = head_at(w, kv, block_of(w, span, t));
        double dot = 0.0;
        for (int32_t d = 0; d < hd; d++)
            dot += query_element(w, q[d]) * get(w, k, k + w->kv.k_scales, t % OPS_KV_BLOCK, d);
        dot *= (double)s->scale;
        dot = s->softcap > 0.0f ? (double)s->softcap * tanh(dot / (double)s->softcap) : dot;
        score[t] = dot + (s->slopes ? (double)w->slopes[head] * (t - p) : 0.0);
        max = fmax(max, score[t]);
    }
    sum = s->sinks ? exp((double)w->sinks[head] - max) : 0.0;
    for (int32_t d = 0; d < hd; d++)
        out[d] = 0.0;
    for (int32_t t = from; t <= p; t++) {
        const char *v = head_at(w, kv, block_of(w, span, t)) + w->kv.v_codes;
        double e = exp(score[t] - max);
        sum += e;
        for (int32_t d = 0; d < hd; d++)
            out[d] += e * get(w, v, v + w->kv.v_scales - w->kv.v_codes, t % OPS_KV_BLOCK, d);
    }
    for (int32_t d = 0; d < hd; d++)
        out[d] /= sum;
}

static void world_make(world *w, const shape *s)
{
    uint64_t seed = 3;
    *w = (world){.s = s};
    int32_t n_kv = (s->head_begin + s->n_heads - 1) / s->heads_per_kv - s->kv_head_begin + 1, at = 0;
    for (; w->n_spans < MAX_SPANS && s->spans[w->n_spans].n_rows > 0; w->n_spans++) {
        ops_span *span = &w->spans[w->n_spans];
        *span = (ops_span){.row = w->n_rows, .n_rows = s->spans[w->n_spans].n_rows, .position = s->spans[w->n_spans].position};
        span->table[GROUP] = at;
        w->n_rows += span->n_rows;
        at += (span->position + span->n_rows + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK;
    }
    assert_true(w->n_rows <= MAX_ROWS);
    lay_out(w, n_kv, at + 3);
    for (int32_t i = 0; i < at; i++)
        w->table[i] = i + 1;
    for (int32_t i = at - 1; i > 0; i--) { /* scattered */
        int32_t j = (int32_t)(random_bits(&seed) % (uint32_t)(i + 1)), t = w->table[i];
        w->table[i] = w->table[j];
        w->table[j] = t;
    }
    w->cache = test_malloc(w->cache_bytes);
    fill_cache(w);
    int32_t width = s->n_heads * s->head_dim;
    w->q = test_malloc((size_t)(w->n_rows * width) * sizeof(float));
    w->want = test_malloc((size_t)(w->n_rows * width) * sizeof(double));
    for (int32_t i = 0; i < w->n_rows * width; i++)
        w->q[i] = uniform(&seed);
    for (int32_t h = 0; h < s->n_heads; h++) {
        w->slopes[h] = 0.01f * (float)(h + 1);
        w->sinks[h] = uniform(&seed) * 3.0f;
    }
    for (int32_t i = 0; i < w->n_spans; i++)
        for (int32_t r = 0; r < w->spans[i].n_rows; r++)
            for (int32_t h = 0; h < s->n_heads; h++)
                reference_row(w, i, w->spans[i].row + r, h);
    spoil_tables(w);
    w->kv.p = device_copy(w->cache, w->cache_bytes);
}

static void world_free(world *w)
{
    device_free(w->kv.p);
    test_free(w->cache);
    test_free(w->q);
    test_free(w->want);
}

/* ---- one step on the device ---- */

typedef struct part { /* rows [row, row + n_rows) of a span of the world, as a span of the step */
    int32_t span, row, n_rows;
} part;

typedef struct device_step {
    gpu_step *step;
    gpu_span *spans;
    int32_t *table;
    float *q;
    gpu_attention_list *list;
    int64_t q_stride; /* floats */
    int32_t n_rows, n_work, most_rows, max_slots;
} device_step;

/* The world's rows named by the parts follow one another; whole: no slot is left to split a tile. */
static device_step step_make(const world *w, const part *parts, int32_t n_parts, bool whole)
{
    device_step st = {0};
    ops_span spans[MAX_ROWS];
    gpu_span gpu[MAX_ROWS];
    const int32_t width = w->s->n_heads * w->s->head_dim;
    st.q_stride = (int64_t)(ops_row_bytes(OPS_F32, width) / 4);
    for (int32_t i = 0; i < n_parts; i++) {
        const ops_span *s = &w->spans[parts[i].span];
        spans[i] = (ops_span){.row = st.n_rows, .n_rows = parts[i].n_rows, .position = s->position + parts[i].row};
        gpu[i] = (gpu_span){.row = st.n_rows, .n_rows = parts[i].n_rows, .position = spans[i].position};
        spans[i].table[GROUP] = gpu[i].table[GROUP] = s->table[GROUP];
        st.n_rows += parts[i].n_rows;
    }
    float *q = test_malloc((size_t)(st.n_rows * st.q_stride) * sizeof(float));
    memset(q, 0xff, (size_t)(st.n_rows * st.q_stride) * sizeof(float));
    for (int32_t i = 0; i < n_parts; i++)
        for (int32_t r = 0; r < parts[i].n_rows; r++)
            memcpy(q + (spans[i].row + r) * st.q_stride, w->q + (int64_t)(w->spans[parts[i].span].row + parts[i].row + r) * width, (size_t)width * sizeof(float));
    st.q = device_copy(q, (size_t)(st.n_rows * st.q_stride) * sizeof(float));
    st.spans = device_copy(gpu, (size_t)n_parts * sizeof(*gpu));
    st.table = device_copy(w->table, sizeof(w->table));
    gpu_step step = {.n_rows = st.n_rows, .n_spans = n_parts, .spans = st.spans};
    step.tables[GROUP] = st.table;
    st.step = device_copy(&step, sizeof(step));
    ops_batch_desc desc = {.n_rows = st.n_rows, .n_spans = n_parts, .spans = spans};
    gpu_attention_list *list = test_malloc(gpu_attention_list_bytes(MAX_ROWS, n_parts));
    st.max_slots = whole ? st.n_rows : gpu_attention_max_slots(st.n_rows, MAX_CONTEXT);
    size_t used = gpu_attention_list_make(&desc, w->s->window, MAX_ROWS, st.max_slots, list);
    assert_true(used <= gpu_attention_list_bytes(MAX_ROWS, n_parts) && list->n_work <= gpu_attention_max_work(MAX_ROWS, n_parts) && list->n_slots <= st.max_slots);
    st.n_work = list->n_work;
    st.most_rows = list->most_rows;
    st.list = device_copy(list, used);
    test_free(list);
    test_free(q);
    return st;
}

static void step_free(device_step *st)
{
    device_free(st->step);
    device_free(st->spans);
    device_free(st->table);
    device_free(st->q);
    device_free(st->list);
}

/* y of the step, host memory [n_rows][row bytes]; more_rows: the launch is for more rows than there are. */
static char *attend(const world *w, const device_step *st, ops_type y_type, int32_t more_rows)
{
    const shape *s = w->s;
    const int32_t width = s->n_heads * s->head_dim, cols = s->y_col + width + s->y_more;
    size_t row = ops_row_bytes(y_type, cols), bytes = row * (size_t)(st->n_rows + more_rows);
    void *y = device_make(bytes);
    int64_t floats = gpu_attention_scratch(st->max_slots, s->n_heads, s->head_dim);
    float *scratch = device_make((size_t)floats * sizeof(float)), *slopes = device_copy(w->slopes, sizeof(w->slopes)), *sinks = device_copy(w->sinks, sizeof(w->sinks));
    gpu_attention a = {.q = {st->q, OPS_F32, width, st->q_stride * 4}, .n_heads = s->n_heads, .head_dim = s->head_dim, .head_begin = s->head_begin,
                       .heads_per_kv = s->heads_per_kv, .kv_head_begin = s->kv_head_begin, .scale = s->scale, .softcap = s->softcap, .window = s->window,
                       .sinks = s->sinks ? sinks : NULL, .slopes = s->slopes ? slopes : NULL, .kv = w->kv, .kv_group = GROUP, .kv_layer = LAYER,
                       .y = {y, (int32_t)y_type, cols, (int64_t)row}, .y_col = s->y_col, .list = st->list, .max_work = st->n_work + more_rows,
                       .max_rows = more_rows > 0 ? 0 : st->most_rows, .max_slots = st->max_slots, .partial = scratch};
    CUDA_OK(k_attention(st->step, st->n_rows + more_rows, &a, stream));
    char *out = test_malloc(bytes);
    device_read(out, y, bytes);
    device_free(y);
    device_free(scratch);
    device_free(slopes);
    device_free(sinks);
    return out;
}

/* Devices of 8.6 and 8.9 have too little shared memory for some kernels: those are refused by name. */
static bool served(const shape *s)
{
    gpu_attention a = {.n_heads = 1, .head_dim = s->head_dim, .heads_per_kv = 1, .kv = {.type = (int32_t)s->type, .head_dim = s->head_dim}};
    cudaError_t e = k_attention(NULL, 0, &a, stream);
    if (e == cudaErrorNotSupported)
        print_message("left out: heads of %d, cache %d: not on this device\n", s->head_dim, (int)s->type);
    else
        CUDA_OK(e);
    return e == cudaSuccess;
}

static int32_t whole_spans(const world *w, part *parts)
{
    for (int32_t i = 0; i < w->n_spans; i++)
        parts[i] = (part){i, 0, w->spans[i].n_rows};
    return w->n_spans;
}

/* ---- the claims ---- */

/* Probabilities are rounded to 8 bits (bf16) or 11 (f16) with values up to 1 (q8 caches: 1.8); scores of f32 sums in base 2. */
static double tolerance(const shape *s)
{
    return !rounds_q(s) ? 2e-5 : s->type == OPS_KV_BF16 ? 4e-3 : 1e-3;
}

static float y_element(const shape *s, const char *row, int32_t col)
{
    float f;
    uint16_t h;
    int32_t padded = (s->y_col + s->n_heads * s->head_dim + s->y_more + 63) / 64 * 64;
    switch (s->y_type) {
    case OPS_F32:
        memcpy(&f, row + col * 4, 4);
        return f;
    case OPS_BF16:
        memcpy(&h, row + col * 2, 2);
        return half_bf16_to_f32(h);
    default:
        memcpy(&f, row + padded + col / 32 * 4, 4);
        return f * (float)(int8_t)row[col];
    }
}

static void check_values(const world *w, const char *y)
{
    const shape *s = w->s;
    int32_t width = s->n_heads * s->head_dim, cols = s->y_col + width + s->y_more;
    size_t step = ops_row_bytes(s->y_type, cols);
    double tol = tolerance(s) + (s->y_type == OPS_Q8 ? 1.0 / 127 : s->y_type == OPS_BF16 ? 4e-3 : 0.0), worst = 0.0;
    for (int32_t r = 0; r < w->n_rows; r++)
        for (int32_t c = 0; c < cols; c++) {
            bool inside = c >= s->y_col && c < s->y_col + width;
            double want = inside ? w->want[(int64_t)r * width + c - s->y_col] : 0.0, err = fabs((double)y_element(s, y + (size_t)r * step, c) - want);
            worst = fmax(worst, err);
            if (!(err <= (inside ? tol : 0.0)))
                fail_msg("%s: row %d column %d: %g, want %g", s->name, r, c, (double)y_element(s, y + (size_t)r * step, c), want);
        }
    print_message("%s: worst error %.2g of %.2g\n", s->name, worst, tol);
}

static void check_same(const world *w, const char *what, const char *y, const char *rows, const part *parts, int32_t n_parts)
{
    size_t step = ops_row_bytes(OPS_F32, w->s->y_col + w->s->n_heads * w->s->head_dim + w->s->y_more);
    for (int32_t i = 0, at = 0; i < n_parts; i++)
        for (int32_t r = 0; r < parts[i].n_rows; r++, at++)
            if (memcmp(rows + (size_t)at * step, y + (size_t)(w->spans[parts[i].span].row + parts[i].row + r) * step, step) != 0)
                fail_msg("%s: %s changes the bits of row %d of span %d", w->s->name, what, parts[i].row + r, parts[i].span);
}

static void compare(const world *w, const char *what, const char *y, const part *parts, int32_t n_parts, bool whole, int32_t more_rows)
{
    device_step st = step_make(w, parts, n_parts, whole);
    char *rows = attend(w, &st, OPS_F32, more_rows);
    check_same(w, what, y, rows, parts, n_parts);
    test_free(rows);
    step_free(&st);
}

static void check_shape(const shape *s)
{
    static world w;
    part parts[MAX_ROWS];
    world_make(&w, s);
    int32_t n = whole_spans(&w, parts);
    device_step st = step_make(&w, parts, n, false);
    char *y = attend(&w, &st, s->y_type, 0), *plain = attend(&w, &st, OPS_F32, 0);
    check_values(&w, y);
    step_free(&st);
    compare(&w, "chunks merged inside a block", plain, parts, n, true, 0);
    compare(&w, "a launch for more rows", plain, parts, n, false, 5);
    for (int32_t i = 0; i < w.n_spans; i++) { /* alone: the first, a middle and the last row of each */
        int32_t rows[] = {0, w.spans[i].n_rows / 2, w.spans[i].n_rows - 1};
        for (int k = 0; k < 3; k++)
            compare(&w, "a row alone", plain, &(part){i, rows[k], 1}, 1, k == 1, 0);
        if (w.spans[i].n_rows > 2) {
            int32_t cut = w.spans[i].n_rows / 3;
            part two[] = {{i, cut, w.spans[i].n_rows - cut}, {(i + 1) % w.n_spans, 0, 1}, {i, 0, cut}};
            compare(&w, "a prompt in two steps", plain, two, 3, false, 0);
        }
    }
    test_free(plain);
    test_free(y);
    world_free(&w);
}

static const shape shapes[] = {
    {"bf16 9 heads of 64 in 3", OPS_KV_BF16, 64, 9, 0, 3, 0, 0, 0.5f, 0.0f, false, false, OPS_F32, 0, 0, {{599, 1}, {0, 45}, {250, 30}, {255, 1}, {0, 1}}},
    {"f16 8 heads of 128 in 1, capped", OPS_KV_F16, 128, 8, 0, 8, 0, 0, 0.5f, 5.0f, false, false, OPS_F32, 0, 0, {{530, 2}, {3, 20}, {511, 1}}},
    {"bf16 2 heads of 128, window", OPS_KV_BF16, 128, 2, 0, 1, 0, 100, 0.3f, 0.0f, false, false, OPS_BF16, 3, 5, {{200, 140}, {700, 1}, {300, 17}}},
    {"q8 5 heads of 80 in 1, sinks", OPS_KV_Q8, 80, 5, 0, 5, 0, 0, 1.0f, 0.0f, false, true, OPS_Q8, 0, 0, {{300, 1}, {120, 30}, {0, 3}}},
    {"f16 4 heads of 256 in 2, slopes", OPS_KV_F16, 256, 4, 0, 2, 0, 0, 0.2f, 0.0f, true, false, OPS_F32, 0, 0, {{270, 1}, {240, 25}}},
    {"f32 5 heads of 33, uneven", OPS_KV_F32, 33, 5, 2, 3, 0, 300, 0.7f, 0.0f, true, true, OPS_Q8, 7, 20, {{600, 1}, {250, 11}, {0, 4}}},
    {"bf16 5 heads of 40, uneven", OPS_KV_BF16, 40, 5, 5, 3, 1, 0, 0.7f, 3.0f, true, true, OPS_BF16, 40, 1, {{280, 1}, {0, 19}}},
    {"f16 24 heads of 17 in 1", OPS_KV_F16, 17, 24, 0, 24, 0, 64, 1.0f, 0.0f, false, false, OPS_F32, 1, 0, {{130, 1}, {64, 9}}},
    {"q8 4 heads of 96 in 2", OPS_KV_Q8, 96, 4, 0, 2, 0, 0, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{257, 1}, {60, 20}}},
    {"q8 2 heads of 250 in 1", OPS_KV_Q8, 250, 2, 0, 2, 0, 0, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{257, 1}, {50, 20}}},
    {"q8 4 heads of 128 in 1", OPS_KV_Q8, 128, 4, 0, 4, 0, 30, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{290, 1}, {50, 20}}},
    {"f32 2 heads of 200 in 1", OPS_KV_F32, 200, 2, 0, 2, 0, 0, 0.3f, 0.0f, false, false, OPS_F32, 0, 0, {{257, 1}, {10, 7}}},
    {"f32 1 head of 300", OPS_KV_F32, 300, 1, 0, 1, 0, 0, 0.3f, 0.0f, false, false, OPS_F32, 0, 0, {{257, 1}, {10, 7}}},
    {"bf16 2 heads of 320 in 1", OPS_KV_BF16, 320, 2, 0, 2, 0, 0, 0.3f, 0.0f, false, false, OPS_F32, 0, 0, {{100, 1}, {10, 7}}},
    {"f16 1 head of 512", OPS_KV_F16, 512, 1, 0, 1, 0, 0, 0.3f, 0.0f, false, false, OPS_F32, 0, 0, {{100, 1}}},
    {"fp8 9 heads of 64 in 3", OPS_KV_F8, 64, 9, 0, 3, 0, 0, 0.5f, 0.0f, false, false, OPS_F32, 0, 0, {{599, 1}, {0, 45}, {255, 1}, {0, 1}}},
    {"fp8 4 heads of 128 in 1, window", OPS_KV_F8, 128, 4, 0, 4, 0, 30, 1.0f, 5.0f, false, false, OPS_BF16, 3, 5, {{290, 1}, {50, 20}, {511, 2}}},
    {"fp8 5 heads of 75 in 1, sinks, slopes", OPS_KV_F8, 75, 5, 5, 3, 1, 0, 1.0f, 0.0f, true, true, OPS_Q8, 7, 1, {{300, 1}, {120, 30}, {0, 3}}},
    {"fp8 2 heads of 250 in 1", OPS_KV_F8, 250, 2, 0, 2, 0, 0, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{257, 1}, {50, 20}}},
    {"fp8 1 head of 260", OPS_KV_F8, 260, 1, 0, 1, 0, 0, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{100, 1}, {2, 3}}},
    {"q8 1 head of 260", OPS_KV_Q8, 260, 1, 0, 1, 0, 0, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{100, 1}, {2, 3}}},
};

static void every_shape_agrees(void **state)
{
    (void)state;
    const char *only = getenv("ATTENTION_SHAPE");
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if ((only == NULL || atoi(only) == (int)i) && served(&shapes[i]))
            check_shape(&shapes[i]);
}

/* In every order of threads and blocks, the same bits. */
static void order_changes_nothing(void **state)
{
    (void)state;
    static const int small[] = {1, 3, 6, 11, 16, 17};
    static world w;
    for (size_t i = 0; i < sizeof(small) / sizeof(small[0]); i++) {
        part parts[MAX_ROWS];
        if (!served(&shapes[small[i]]))
            continue;
        world_make(&w, &shapes[small[i]]);
        int32_t n = whole_spans(&w, parts);
        order_set(0);
        device_step st = step_make(&w, parts, n, i % 2 == 0);
        char *y = attend(&w, &st, OPS_F32, 0);
        for (int o = 1; order_set(o); o++) {
            char *again = attend(&w, &st, OPS_F32, 0);
            check_same(&w, "the order of threads", y, again, parts, n);
            test_free(again);
        }
        order_set(0);
        test_free(y);
        step_free(&st);
        world_free(&w);
    }
}

/* The list: every row and chunk once, results apart from one another, within the bounds, for loads of all kinds. */
static void lists_cover_each_chunk_once(void **state)
{
    (void)state;
    enum { ROWS = 512, SPANS = 64, CONTEXT = 131072 };
    uint64_t seed = 11;
    size_t bytes = gpu_attention_list_bytes(ROWS, SPANS);
    gpu_attention_list *list = test_malloc(bytes);
    int32_t max_slots = gpu_attention_max_slots(ROWS, CONTEXT);
    uint8_t *taken = test_malloc((size_t)max_slots), *seen = test_malloc((size_t)ROWS * (CONTEXT / OPS_ATTENTION_CHUNK));
    assert_true(gpu_attention_scratch(max_slots, 32, 128) * 4 <= (int64_t)256 << 20);
    for (int round = 0; round < 200; round++) {
        ops_span spans[SPANS];
        ops_batch_desc d = {.spans = spans};
        int32_t window = round % 3 == 1 ? 1 + (int32_t)(random_bits(&seed) % 5000) : 0, most = round % 5 == 0 ? CONTEXT : 1 + (int32_t)(random_bits(&seed) % CONTEXT);
        while (d.n_spans < SPANS && d.n_rows < ROWS) {
            int32_t n = round % 4 == 0 ? 1 : 1 + (int32_t)(random_bits(&seed) % 300);
            n = n < ROWS - d.n_rows ? n : ROWS - d.n_rows;
            n = n < most ? n : most;
            spans[d.n_spans++] = (ops_span){.row = d.n_rows, .n_rows = n, .position = round % 5 == 0 ? most - n : (int32_t)(random_bits(&seed) % (uint32_t)(most - n + 1))};
            d.n_rows += n;
            if (round % 7 == 0 && d.n_spans >= 1 + round / 7)
                break;
        }
        memset(list, 0xff, bytes);
        memset(taken, 0, (size_t)max_slots);
        memset(seen, 0, (size_t)ROWS * (CONTEXT / OPS_ATTENTION_CHUNK));
        size_t used = gpu_attention_list_make(&d, window, ROWS, max_slots, list);
        const gpu_row_slots *rows = (const gpu_row_slots *)(list + 1);
        const gpu_work *work = (const gpu_work *)(const void *)(rows + ROWS);
        assert_true(used <= bytes && list->n_work <= gpu_attention_max_work(ROWS, SPANS) && list->n_slots <= max_slots);
        for (int32_t i = 0; i < list->n_work; i++)
            for (int32_t r = 0; r < work[i].n_rows; r++)
                for (int32_t c = 0; c < work[i].n_chunks; c++) {
                    int32_t row = work[i].row + r, chunk = work[i].chunk + c, slot = work[i].slot + (work[i].whole ? 0 : c) * work[i].n_rows + r;
                    assert_true(slot < max_slots && work[i].n_rows <= list->most_rows && spans[work[i].span].row <= work[i].row);
                    assert_int_equal(work[i].position, spans[work[i].span].position + work[i].row - spans[work[i].span].row);
                    assert_int_equal(seen[row * (CONTEXT / OPS_ATTENTION_CHUNK) + chunk]++, 0);
                    if (!work[i].whole || c == 0)
                        assert_int_equal(taken[slot]++, 0);
                    bool listed = work[i].whole ? rows[row].n == 1 && rows[row].slot == slot
                                                : slot >= rows[row].slot && (slot - rows[row].slot) % rows[row].stride == 0 && (slot - rows[row].slot) / rows[row].stride < rows[row].n;
                    assert_true(listed);
                }
        for (int32_t i = 0; i < d.n_spans; i++)
            for (int32_t r = 0; r < spans[i].n_rows; r++) {
                int32_t p = spans[i].position + r, first = window > 0 && p >= window ? (p - window + 1) / OPS_ATTENTION_CHUNK : 0;
                for (int32_t c = first; c <= p / OPS_ATTENTION_CHUNK; c++)
                    assert_int_equal(seen[(spans[i].row + r) * (CONTEXT / OPS_ATTENTION_CHUNK) + c], 1);
            }
    }
    test_free(list);
    test_free(taken);
    test_free(seen);
}

static void refuses_what_no_kernel_serves(void **state)
{
    (void)state;
    gpu_attention a = {.n_heads = 1, .heads_per_kv = 1, .head_dim = 513, .kv = {.type = OPS_KV_F32, .head_dim = 513, .padded = 528}};
    assert_int_equal(k_attention(NULL, 1, &a, stream), cudaErrorInvalidValue);
    a.head_dim = a.kv.head_dim = 64;
    a.kv.type = OPS_KV_TYPES;
    assert_int_equal(k_attention(NULL, 1, &a, stream), cudaErrorInvalidValue);
}

/* One position that sees itself alone has the weight 1: each code's value comes out as it is, NaN too, of the tensor cores' kernel and the plain one. */
static void every_fp8_value_comes_through(void **state)
{
    (void)state;
    static world w;
    for (int32_t dim = 256; dim <= 512; dim += 256) {
        shape s = {"fp8 values", OPS_KV_F8, dim, 1, 0, 1, 0, 0, 1.0f, 0.0f, false, false, OPS_F32, 0, 0, {{0, 1}}};
        if (!served(&s))
            continue;
        world_make(&w, &s);
        char *v = head_at(&w, 0, block_of(&w, 0, 0)) + w.kv.v_codes;
        for (int32_t d = 0; d < dim; d++)
            v[d] = (char)d;
        device_free(w.kv.p);
        w.kv.p = device_copy(w.cache, w.cache_bytes);
        device_step st = step_make(&w, &(part){0, 0, 1}, 1, false);
        char *y = attend(&w, &st, OPS_F32, 0);
        for (int32_t d = 0; d < dim; d++) {
            float want = half_e4m3_to_f32((uint8_t)d), got = y_element(&s, y, d);
            if (!(got == want || (isnan(got) && isnan(want))))
                fail_msg("heads of %d, code %d: %.9g, want %.9g", dim, d % 256, (double)got, (double)want);
        }
        test_free(y);
        step_free(&st);
        world_free(&w);
    }
}

int main(void)
{
    if (!device_open()) {
        print_message("no CUDA device\n");
        return 77;
    }
    if (k_attention_init() != cudaSuccess)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_cover_each_chunk_once),
        cmocka_unit_test(refuses_what_no_kernel_serves),
        cmocka_unit_test(every_shape_agrees),
        cmocka_unit_test(order_changes_nothing),
        cmocka_unit_test(every_fp8_value_comes_through),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close();
    return failed;
}
