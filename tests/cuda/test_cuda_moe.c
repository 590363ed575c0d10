/* tests/cuda/test_cuda_moe.c - layers of experts on the device: choice, weights and order are the CPU's, products those of k_linear for the same row (and the CPU's where
 * k is one segment), all bit by bit; in every order of threads and blocks, launched for more rows than there are, and nothing else is touched. */
#include "tests/cuda/cuda_fixture.h"

#include "ops/cpu/cpu_vec.h"
#include "ops/cuda/kernels.h"
#include "tests/ops/weights.h"

#define MAX_ROWS 96
#define MAX_COLS 2304
#define SPARE 3 /* rows a launch is for beyond those there are */
#define ONE_SEGMENT 1024 /* k shorter than this is one segment (k_linear.cuh) */

static ops_ctx *cpu;

static int open_all(void **state)
{
    (void)state;
    ops_ctx_options o = {.n_threads = 1, .first_core = -1, .isa = "c", .max_rows = MAX_ROWS, .max_cols = MAX_COLS};
    return device_open() && ops_cpu()->ctx_create(&o, &cpu) == ST_OK ? 0 : -1;
}

static int close_all(void **state)
{
    (void)state;
    ops_cpu()->ctx_destroy(&cpu);
    device_close();
    return 0;
}

/* The i-th order, or the only one of a real device. */
static bool order_next(int i)
{
    if (cuemu_set != NULL)
        cuemu_set("CUEMU_CPASYNC", i % 2 == 0 ? "late" : "early");
    return order_set(i) || i == 0;
}

/* ---- both sides ---- */

typedef struct side { /* rows of a matrix on both sides; 0xff where nobody wrote */
    ops_buf buf;
    ops_mat cpu;
    gpu_mat gpu;
    int32_t rows;
} side;

static side side_make(ops_type type, int32_t rows, int32_t cols)
{
    side m = {.rows = rows};
    size_t stride = ops_row_bytes(type, cols) + 64;
    m.buf = weights_buf(stride * (size_t)rows + 64);
    memset(m.buf.data, 0xff, m.buf.bytes);
    m.cpu = (ops_mat){.type = type, .cols = cols, .stride = stride};
    m.gpu = (gpu_mat){device_copy(m.buf.data, stride * (size_t)rows + 64), (int32_t)type, cols, (int64_t)stride};
    return m;
}

static ops_mat side_cpu(side *m)
{
    m->cpu.buf = &m->buf;
    return m->cpu;
}

static float *side_row(side *m, int32_t row)
{
    return (float *)(void *)(m->buf.data + (size_t)row * m->cpu.stride);
}

static void side_send(const side *m)
{
    CUDA_OK(cudaMemcpyAsync(m->gpu.p, m->buf.data, m->cpu.stride * (size_t)m->rows + 64, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
}

static void side_free(side *m)
{
    device_free(m->gpu.p);
    free(m->buf.data);
}

static side side_random(int32_t rows, int32_t cols, float scale, uint64_t seed)
{
    side m = side_make(OPS_F32, rows, cols);
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++)
            side_row(&m, r)[c] = uniform(&seed) * scale;
    side_send(&m);
    return m;
}

static bool both_nan(const void *a, const void *b)
{
    float x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return isnan(x) && isnan(y);
}

/* The device's bytes are the host's, but for what rounds a q8 row up to 64, which nobody reads. */
static void side_same(const char *what, const side *m)
{
    size_t bytes = m->cpu.stride * (size_t)m->rows, q8 = (size_t)(m->cpu.cols + 63) / 64 * 64, meant = m->cpu.type == OPS_Q8 ? q8 + q8 / 32 * 28 : m->cpu.stride;
    char *got = malloc(bytes);
    device_read(got, m->gpu.p, bytes);
    for (size_t i = 0; i + 4 <= bytes; i += 4)
        if (memcmp(got + i, m->buf.data + i, 4) != 0 && !both_nan(got + i, m->buf.data + i) && i % m->cpu.stride < meant) {
            uint32_t g, w;
            memcpy(&g, got + i, 4);
            memcpy(&w, m->buf.data + i, 4);
            fail_msg("%s: row %zu byte %zu: %08x, not %08x", what, i / m->cpu.stride, i % m->cpu.stride, g, w);
        }
    free(got);
}

typedef struct routing { /* both sides' */
    ops_routing *cpu;
    gpu_routing gpu;
    size_t pairs;
    int32_t capacity; /* tiles */
} routing;

static routing routing_make(int32_t n_experts, int32_t top_k, int32_t begin, int32_t n_local)
{
    routing r = {.pairs = (size_t)MAX_ROWS * (size_t)top_k, .capacity = gpu_expert_tiles(MAX_ROWS * top_k, n_local, 8)};
    ops_routing_spec s = {.max_rows = MAX_ROWS, .n_experts = n_experts, .top_k = top_k, .expert_begin = begin, .n_local = n_local};
    OK(ops_cpu()->routing_create(cpu, &s, &r.cpu));
    r.gpu = (gpu_routing){.n_experts = n_experts, .top_k = top_k, .expert_begin = begin, .n_local = n_local};
    r.gpu.expert = device_make(r.pairs * 4);
    r.gpu.weight = device_make(r.pairs * 4);
    r.gpu.place = device_make(r.pairs * 4);
    r.gpu.order = device_make(r.pairs * 4);
    r.gpu.offset = device_make(((size_t)n_local + 1) * 4);
    r.gpu.tiles = device_make((size_t)r.capacity * sizeof(gpu_expert_tile));
    r.gpu.n_tiles = device_make(4);
    return r;
}

static void routing_free(routing *r)
{
    ops_cpu()->routing_destroy(cpu, &r->cpu);
    const void *const all[] = {r->gpu.expert, r->gpu.weight, r->gpu.place, r->gpu.order, r->gpu.offset, r->gpu.tiles, r->gpu.n_tiles};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        device_free(all[i]);
}

static void routing_wipe(const routing *r)
{
    CUDA_OK(cudaMemsetAsync(r->gpu.expert, 0xee, r->pairs * 4, stream));
    CUDA_OK(cudaMemsetAsync(r->gpu.weight, 0xee, r->pairs * 4, stream));
    CUDA_OK(cudaMemsetAsync(r->gpu.place, 0xee, r->pairs * 4, stream));
    CUDA_OK(cudaMemsetAsync(r->gpu.order, 0xee, r->pairs * 4, stream));
    CUDA_OK(cudaMemsetAsync(r->gpu.tiles, 0xee, (size_t)r->capacity * sizeof(gpu_expert_tile), stream));
}

/* [0, n) as on the CPU, the rest as wiped. */
static void words_same(const char *what, const char *name, const void *device, const void *want, size_t n, size_t all)
{
    uint32_t *got = malloc((all > 0 ? all : 1) * 4), w;
    device_read(got, device, all * 4);
    for (size_t i = 0; i < all; i++) {
        if (i < n)
            memcpy(&w, (const char *)want + 4 * i, 4);
        else
            w = 0xeeeeeeee;
        if (got[i] != w && !(i < n && both_nan(&got[i], &w)))
            fail_msg("%s: %s %zu of %zu is %08x, not %08x", what, name, i, n, got[i], w);
    }
    free(got);
}

/* Every position is in one tile of its expert, tiles in order, none larger than allowed or smaller than it must be. */
static void tiles_cover(const char *what, const routing *r, int32_t bound)
{
    int32_t n_tiles, k = 0, each = gpu_expert_tile_rows(bound * r->gpu.top_k, r->gpu.n_experts);
    gpu_expert_tile *t = malloc((size_t)r->capacity * sizeof(*t));
    device_read(&n_tiles, r->gpu.n_tiles, 4);
    device_read(t, r->gpu.tiles, (size_t)r->capacity * sizeof(*t));
    for (int32_t e = 0; e < r->gpu.n_local; e++)
        for (int32_t p = r->cpu->offset[e]; p < r->cpu->offset[e + 1]; p += each, k++) {
            int32_t end = p + each < r->cpu->offset[e + 1] ? p + each : r->cpu->offset[e + 1];
            assert_true(k < n_tiles);
            if (t[k].expert != e || t[k].begin != p || t[k].end != end)
                fail_msg("%s: tile %d is expert %d [%d, %d), not %d [%d, %d)", what, k, t[k].expert, t[k].begin, t[k].end, e, p, end);
        }
    assert_int_equal(k, n_tiles);
    assert_true(n_tiles <= gpu_expert_tiles(bound * r->gpu.top_k, r->gpu.n_local, each));
    free(t);
}

/* ---- the choice and the order ---- */

typedef struct family {
    const char *name;
    int32_t n_experts, top_k, begin, n_local;
    ops_scoring scoring;
    bool bias;
    int32_t n_groups, top_groups;
    bool rate_by_two, renormalise;
    float scale;
} family;

static const family FAMILIES[] = {
    {"one expert", 1, 1, 0, 1, OPS_SCORE_SOFTMAX, false, 0, 0, false, false, 1.0f},
    {"mixtral", 8, 2, 0, 8, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f},
    {"qwen2, a half", 60, 4, 30, 30, OPS_SCORE_SOFTMAX, false, 1, 1, false, false, 1.0f},
    {"qwen3, none here", 128, 8, 128, 0, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f},
    {"deepseek v2", 160, 6, 0, 160, OPS_SCORE_SOFTMAX, false, 8, 3, false, false, 16.0f},
    {"deepseek v3", 256, 8, 128, 65, OPS_SCORE_SIGMOID, true, 8, 4, true, true, 2.5f},
    {"llama 4", 16, 1, 5, 1, OPS_SCORE_SIGMOID, false, 0, 0, false, false, 1.0f},
    {"gpt-oss", 32, 4, 1, 31, OPS_SCORE_CHOSEN, false, 0, 0, false, false, 1.0f},
    {"chosen of groups", 24, 3, 0, 24, OPS_SCORE_CHOSEN, false, 4, 2, false, false, 1.0f},
    {"softmax with a bias", 65, 6, 7, 50, OPS_SCORE_SOFTMAX, true, 5, 2, false, true, 1.0f},
    {"groups of one", 36, 3, 0, 36, OPS_SCORE_SIGMOID, false, 36, 5, true, true, 1.0f},
    {"more groups than lanes", 128, 24, 0, 128, OPS_SCORE_SIGMOID, true, 64, 24, true, true, 1.0f},
    {"all chosen", 32, 32, 0, 32, OPS_SCORE_SOFTMAX, false, 0, 0, false, true, 1.0f},
    {"more local experts than threads", 600, 22, 100, 400, OPS_SCORE_SIGMOID, true, 0, 0, false, true, 5.0f},
};

/* Rows of equal, infinite and no numbers among the others. */
static void hard_rows(side *logits)
{
    for (int32_t r = 0; r < logits->rows; r++)
        for (int32_t e = 0; e < logits->cpu.cols; e++) {
            float *l = &side_row(logits, r)[e];
            if (r % 11 == 3)
                *l = (float)(e * 7 % 3);
            else if (r % 11 == 5)
                *l = e % 2 == 0 ? -0.0f : 0.0f;
            else if (r % 11 == 6 && e % 3 != 1)
                *l = NAN;
            else if (r % 11 == 7)
                *l = NAN;
            else if (r % 11 == 8 && e % 4 == 0)
                *l = e % 8 == 0 ? INFINITY : -INFINITY;
            else if (r % 11 == 9)
                *l *= 50.0f;
        }
}

static void check_route(const family *f, int32_t rows)
{
    routing r = routing_make(f->n_experts, f->top_k, f->begin, f->n_local);
    side logits = side_random(rows + SPARE, f->n_experts, 4.0f, (uint64_t)(f->n_experts + rows)), bias = side_random(1, f->n_experts, 0.3f, 9);
    hard_rows(&logits);
    side_send(&logits);
    ops_route_args want = {.rows = rows, .logits = side_cpu(&logits), .scoring = f->scoring, .n_groups = f->n_groups, .top_groups = f->top_groups,
                           .rate_by_two = f->rate_by_two, .renormalise = f->renormalise, .scale = f->scale, .routing = r.cpu};
    gpu_route a = {.logits = logits.gpu, .scoring = (int32_t)f->scoring, .bias = f->bias ? bias.gpu.p : NULL, .n_groups = f->n_groups, .top_groups = f->top_groups,
                   .rate_by_two = f->rate_by_two, .renormalise = f->renormalise, .scale = f->scale, .to = r.gpu};
    if (f->bias)
        want.bias = (ops_vec){&bias.buf, 0, f->n_experts};
    OK(ops_cpu()->route(cpu, &want));
    size_t pairs = (size_t)rows * (size_t)f->top_k, here = (size_t)r.cpu->offset[f->n_local];
    int32_t *n = device_copy(&rows, 4);
    for (int i = 0; order_next(i); i++) {
        int32_t bound = i == 0 ? rows : rows + SPARE;
        routing_wipe(&r);
        CUDA_OK(k_route(bound, i == 0 ? NULL : n, &a, stream));
        words_same(f->name, "expert", r.gpu.expert, r.cpu->expert, pairs, r.pairs);
        words_same(f->name, "weight", r.gpu.weight, r.cpu->weight, pairs, r.pairs);
        words_same(f->name, "order", r.gpu.order, r.cpu->order, here, r.pairs);
        int32_t *place = malloc(pairs * 4 + 4);
        for (size_t p = 0; p < pairs; p++)
            place[p] = r.cpu->place[p] < 0 ? (int32_t)0xeeeeeeee : r.cpu->place[p];
        words_same(f->name, "place", r.gpu.place, place, pairs, r.pairs);
        free(place);
        if (f->n_local > 0) {
            words_same(f->name, "offset", r.gpu.offset, r.cpu->offset, (size_t)f->n_local + 1, (size_t)f->n_local + 1);
            tiles_cover(f->name, &r, bound);
        }
    }
    order_set(0);
    device_free(n);
    side_free(&logits);
    side_free(&bias);
    routing_free(&r);
}

static void routes_are_the_cpus(void **state)
{
    (void)state;
    for (size_t f = 0; f < ARRAY_LEN(FAMILIES); f++) {
        check_route(&FAMILIES[f], 1);
        check_route(&FAMILIES[f], 14);
    }
    check_route(&FAMILIES[1], MAX_ROWS - SPARE); /* many turns of the sorting block */
    check_route(&FAMILIES[7], MAX_ROWS - SPARE);
    check_route(&FAMILIES[11], 40);
}

/* ---- products ---- */

enum { EXPERTS = 9, TOP = 2, BEGIN = 1, LOCAL = 7, MAX_OUTPUTS = 160 };

typedef struct products {
    int n;
    packed_type type[OPS_MAX_FUSED];
    int32_t outputs[OPS_MAX_FUSED];
    bool bias[OPS_MAX_FUSED];
    int32_t cols, rows;
    bool by_row;
} products;

/* All rows' first choice is the same expert; in `one` the second as well. */
static void fill_logits(side *logits, bool one)
{
    uint64_t seed = 31;
    for (int32_t r = 0; r < logits->rows; r++)
        for (int32_t e = 0; e < EXPERTS; e++)
            side_row(logits, r)[e] = e == 2 ? 5.0f : e == (one ? 3 : (int32_t)(random_bits(&seed) % EXPERTS)) ? 4.0f : uniform(&seed);
    side_send(logits);
}

static ops_expert_weights experts_make(ops_buf *buf, packed_shape shape, uint32_t seed)
{
    packed_layout l;
    assert_true(packed_layout_of(shape, &l));
    ops_expert_weights w = {.first = {.offset = 64, .shape = shape}, .stride = mem_align(l.bytes, 64) + 128};
    *buf = weights_buf(w.first.offset + w.stride * LOCAL);
    for (int32_t e = 0; e < LOCAL; e++)
        for (int32_t r = 0; r < shape.rows; r++)
            weights_fill_row(&l, buf->data + w.first.offset + (size_t)e * w.stride, r, &seed);
    return w;
}

static gpu_weight experts_upload(const ops_expert_weights *w, const ops_buf *buf)
{
    packed_layout l;
    packed_shape s = w->first.shape;
    assert_true(packed_layout_of(s, &l));
    return (gpu_weight){.p = (char *)device_copy(buf->data, w->first.offset + w->stride * (LOCAL - 1) + l.bytes) + w->first.offset,
                        .type = (int32_t)s.type,
                        .rows = s.rows,
                        .cols = s.cols,
                        .phase = s.phase,
                        .panels = l.panels,
                        .units = l.units,
                        .groups = l.groups,
                        .supers = l.supers,
                        .panel_bytes = (int64_t)l.panel_bytes,
                        .unit_bytes = (int64_t)l.unit_bytes,
                        .scale_offset = (int64_t)l.scale_offset,
                        .min_offset = (int64_t)l.min_offset,
                        .super_offset = (int64_t)l.super_offset};
}

/* What k_linear gives for the row of one position, into that row of y. */
static void linear_position(const gpu_experts *a, int i, const ops_routing *r, int32_t position, gpu_mat y)
{
    int32_t e = 0;
    while (r->offset[e + 1] <= position)
        e++;
    gpu_linear l = {.x = a->x, .n = 1, .w = {a->w[i]}, .y = {y}};
    l.x.p = (char *)a->x.p + (a->x_by_row ? r->order[position] / TOP : position) * a->x.stride;
    l.w[0].p = (const char *)a->w[i].p + e * a->stride[i];
    l.bias[0] = a->bias[i] != NULL ? a->bias[i] + (size_t)e * (size_t)a->w[i].rows : NULL;
    l.y[0].p = (char *)y.p + position * y.stride;
    CUDA_OK(k_linear(1, NULL, &l, stream));
}

static void check_products(const products *p, bool one)
{
    char what[96];
    ops_type want = gpu_linear_input(p->type[0]);
    int32_t x_rows = p->by_row ? p->rows : p->rows * TOP;
    snprintf(what, sizeof(what), "%s [%d, %d], %d rows%s%s", packed_format_of(p->type[0])->name, p->outputs[0], p->cols, p->rows, p->by_row ? " by row" : "", one ? ", two experts" : "");
    routing r = routing_make(EXPERTS, TOP, BEGIN, LOCAL);
    side logits = side_make(OPS_F32, p->rows + SPARE, EXPERTS), f = side_random(x_rows, p->cols, 2.0f, 5), x = side_make(want, x_rows, p->cols);
    fill_logits(&logits, one);
    ops_gate_args copy = {.rows = x_rows, .gate = side_cpu(&f), .activation = OPS_RELU, .y = side_cpu(&x)};
    OK(ops_cpu()->gate(cpu, &copy));
    side_send(&x);
    ops_route_args route = {.rows = p->rows, .logits = side_cpu(&logits), .scale = 1.0f, .routing = r.cpu};
    gpu_route gpu = {.logits = logits.gpu, .scale = 1.0f, .to = r.gpu};
    OK(ops_cpu()->route(cpu, &route));
    int32_t pairs = r.cpu->offset[LOCAL];

    gpu_experts a = {.routing = r.gpu, .x_by_row = p->by_row, .x = x.gpu, .n = p->n};
    ops_experts_args c = {.routing = r.cpu, .x_by_row = p->by_row, .x = side_cpu(&x), .n = p->n};
    ops_buf w[OPS_MAX_FUSED];
    side y[OPS_MAX_FUSED], reference[OPS_MAX_FUSED], bias = side_random(1, LOCAL * MAX_OUTPUTS, 1.0f, 8);
    for (int i = 0; i < p->n; i++) {
        const packed_format *format = packed_format_of(p->type[i]);
        packed_shape s = {p->type[i], p->outputs[i], p->cols, packed_has_super(format) ? 112 - 112 % format->group : 0};
        c.w[i] = experts_make(&w[i], s, (uint32_t)(40 + i));
        c.w[i].first.buf = &w[i];
        c.w[i].bias = p->bias[i] ? (ops_vec){&bias.buf, (size_t)i * 4, LOCAL * p->outputs[i]} : (ops_vec){0};
        a.w[i] = experts_upload(&c.w[i], &w[i]);
        a.stride[i] = (int64_t)c.w[i].stride;
        a.bias[i] = p->bias[i] ? (const float *)bias.gpu.p + i : NULL;
        y[i] = side_make(OPS_F32, p->rows * TOP, p->outputs[i]);
        reference[i] = side_make(OPS_F32, p->rows * TOP, p->outputs[i]);
        a.y[i] = y[i].gpu;
        for (int32_t at = 0; at < pairs; at++)
            linear_position(&a, i, r.cpu, at, reference[i].gpu);
        device_read(y[i].buf.data, reference[i].gpu.p, reference[i].cpu.stride * (size_t)reference[i].rows); /* what is wanted */
    }
    int32_t *n = device_copy(&p->rows, 4);
    for (int k = 0; order_next(k); k++) {
        int32_t bound = k == 0 ? p->rows : p->rows + SPARE;
        CUDA_OK(k_route(bound, k == 0 ? NULL : n, &gpu, stream));
        for (int i = 0; i < p->n; i++)
            CUDA_OK(cudaMemsetAsync(y[i].gpu.p, 0xff, y[i].cpu.stride * (size_t)y[i].rows, stream));
        CUDA_OK(k_experts(bound, &a, stream));
        for (int i = 0; i < p->n; i++)
            side_same(what, &y[i]);
    }
    order_set(0);
    if (packed_format_of(p->type[0])->integer && p->cols < ONE_SEGMENT) { /* and the CPU's */
        for (int i = 0; i < p->n; i++) {
            memset(y[i].buf.data, 0xff, y[i].buf.bytes);
            c.y[i] = side_cpu(&y[i]);
        }
        OK(ops_cpu()->experts(cpu, &c));
        for (int i = 0; i < p->n; i++)
            side_same(what, &y[i]);
    }
    for (int i = 0; i < p->n; i++) {
        device_free((const char *)a.w[i].p - c.w[i].first.offset);
        free(w[i].data);
        side_free(&y[i]);
        side_free(&reference[i]);
    }
    device_free(n);
    side_free(&bias);
    side_free(&logits);
    side_free(&f);
    side_free(&x);
    routing_free(&r);
}

/* 33 rows are 66 pairs, 8 an expert: the larger number of an expert's rows is cut into tiles of 8.  37: tiles of 32, one of them full. */
static void products_are_those_of_linear(void **state)
{
    (void)state;
    for (int t = 0; t < PACKED_TYPES; t++) {
        bool odd = t % 2 == 1;
        check_products(&(products){1, {(packed_type)t}, {50}, {odd}, 144, odd ? 11 : 33, !odd}, t % 3 == 0);
        check_products(&(products){1, {(packed_type)t}, {17}, {!odd}, 95, 37 + 2 * (t % 2), odd}, t % 3 == 1);
    }
}

static void long_rows_have_segments(void **state)
{
    (void)state;
    static const packed_type types[] = {PACKED_F32, PACKED_F16, PACKED_BF16, PACKED_Q4_K, PACKED_Q6_K};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        check_products(&(products){1, {types[t]}, {20}, {false}, 2081, 3, true}, true);
        check_products(&(products){1, {types[t]}, {33}, {true}, 1100, 38, false}, true);
    }
}

/* Several weights, of several types, some with a bias, more outputs than a block has. */
static void weights_of_a_call_share_x(void **state)
{
    (void)state;
    check_products(&(products){3, {PACKED_Q4_0, PACKED_Q8_0, PACKED_Q4_0}, {150, 16, 33}, {true, false, false}, 96, 7, true}, false);
    check_products(&(products){3, {PACKED_Q4_0, PACKED_Q8_0, PACKED_Q4_0}, {150, 16, 33}, {false, true, true}, 96, 41, false}, false);
    check_products(&(products){2, {PACKED_F16, PACKED_F32}, {150, 5}, {true, false}, 40, 41, true}, false);
}

/* ---- rows for pairs, pairs for rows ---- */

static void pairs_are_dispatched_and_combined(void **state)
{
    (void)state;
    enum { ROWS = 13 };
    static const ops_type formats[] = {OPS_F32, OPS_BF16, OPS_Q8};
    static const int32_t widths[] = {1, 70, 512, 1100};
    for (size_t c = 0; c < ARRAY_LEN(widths); c++) {
        int32_t cols = widths[c], rows = ROWS;
        routing r = routing_make(EXPERTS, 3, 2, 4);
        side logits = side_random(ROWS + SPARE, EXPERTS, 3.0f, 6), x = side_random(ROWS + SPARE, cols, 3.0f, 7), results = side_random(ROWS * 3, cols, 3.0f, 8);
        ops_route_args route = {.rows = ROWS, .logits = side_cpu(&logits), .scale = 0.7f, .routing = r.cpu};
        gpu_route gpu = {.logits = logits.gpu, .scale = 0.7f, .to = r.gpu};
        OK(ops_cpu()->route(cpu, &route));
        CUDA_OK(k_route(ROWS, NULL, &gpu, stream));
        int32_t *n = device_copy(&rows, 4);
        for (size_t f = 0; f < ARRAY_LEN(formats); f++) {
            side y = side_make(formats[f], ROWS * 3 + SPARE, cols);
            ops_dispatch_args a = {r.cpu, side_cpu(&x), side_cpu(&y)};
            OK(ops_cpu()->dispatch(cpu, &a));
            for (int i = 0; order_next(i); i++) {
                CUDA_OK(cudaMemsetAsync(y.gpu.p, 0xff, y.cpu.stride * (size_t)y.rows, stream));
                CUDA_OK(k_dispatch(ROWS + (i > 0), &r.gpu, x.gpu, y.gpu, stream));
                side_same("dispatch", &y);
            }
            side_free(&y);
        }
        for (int mode = 0; mode < 4; mode++) {
            side y = side_random(ROWS + SPARE, cols, 1.0f, 12);
            char *before = malloc(y.buf.bytes);
            memcpy(before, y.buf.data, y.buf.bytes);
            ops_combine_args a = {.routing = r.cpu, .x = side_cpu(&results), .weighed = mode % 2 == 1, .accumulate = mode >= 2, .y = side_cpu(&y)};
            gpu_combine g = {r.gpu, results.gpu, y.gpu, a.weighed, a.accumulate};
            OK(ops_cpu()->combine(cpu, &a));
            for (int i = 0; order_next(i); i++) {
                CUDA_OK(cudaMemcpyAsync(y.gpu.p, before, y.cpu.stride * (size_t)y.rows, cudaMemcpyHostToDevice, stream));
                CUDA_OK(cudaStreamSynchronize(stream));
                CUDA_OK(k_combine(i == 0 ? ROWS : ROWS + SPARE, i == 0 ? NULL : n, &g, stream));
                side_same("combine", &y);
            }
            free(before);
            side_free(&y);
        }
        order_set(0);
        device_free(n);
        side_free(&logits);
        side_free(&x);
        side_free(&results);
        routing_free(&r);
    }
}

static void nothing_to_do_is_no_launch(void **state)
{
    (void)state;
    routing r = routing_make(EXPERTS, TOP, 0, 0);
    gpu_route route = {.to = r.gpu};
    gpu_experts experts = {.routing = r.gpu, .x = {.cols = 32}, .n = 1, .w = {{.type = PACKED_TYPES}}};
    gpu_combine combine = {.from = r.gpu};
    gpu_mat none = {NULL, OPS_F32, 4, 64};
    CUDA_OK(k_route(0, NULL, &route, stream));
    CUDA_OK(k_experts(1, &experts, stream));
    CUDA_OK(k_dispatch(1, &r.gpu, none, none, stream));
    CUDA_OK(k_combine(0, NULL, &combine, stream));
    experts.routing.n_local = 1;
    CUDA_OK(k_experts(0, &experts, stream));
    assert_int_equal(k_experts(1, &experts, stream), cudaErrorInvalidValue);
    for (int32_t pairs = 1; pairs < 300; pairs += 7) { /* as many tiles as the worst spread makes */
        for (int32_t n = 1; n < 12; n++) {
            int32_t alone = n - 1 < pairs - 1 ? n - 1 : pairs - 1, rest = pairs - alone;
            assert_true(gpu_expert_tiles(pairs, n, 8) >= alone + (rest + 7) / 8);
            assert_true(gpu_expert_tiles(pairs, n, 32) >= alone + (rest + 31) / 32);
        }
        assert_true(gpu_expert_tiles(pairs, 5, 8) <= pairs);
    }
    routing_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_are_the_cpus),
        cmocka_unit_test(products_are_those_of_linear),
        cmocka_unit_test(long_rows_have_segments),
        cmocka_unit_test(weights_of_a_call_share_x),
        cmocka_unit_test(pairs_are_dispatched_and_combined),
        cmocka_unit_test(nothing_to_do_is_no_launch),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
