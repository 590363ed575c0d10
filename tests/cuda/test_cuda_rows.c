/* tests/cuda/test_cuda_rows.c - the kernels that work row by row, and what writes the cache, against the CPU's plain C on odd shapes: bit by bit where no sum along
 * a row is in it; each launch for more rows than there are; every order of threads gives the same bits; a row alone gives those of the row in company. */
#include "tests/cuda/cuda_fixture.h"

#include "ops/cpu/cpu_vec.h"
#include "ops/cuda/kernels.h"
#include "tests/ops/weights.h"

#define MAX_ROWS 48
#define MAX_COLS 24576
#define SPARE 3 /* rows a launch is for beyond those there are */

static const ops_type FORMATS[] = {OPS_F32, OPS_BF16, OPS_Q8};
static ops_ctx *cpu;

/* The i-th order, or the only one of a real device. */
static bool order_next(int i)
{
    return order_set(i) || i == 0;
}

/* ---- matrices on both sides ---- */

typedef struct pair {
    ops_buf buf;
    ops_mat cpu;
    gpu_mat gpu;
    int32_t rows;
} pair;

static size_t pair_bytes(const pair *p)
{
    return p->cpu.stride * (size_t)(p->rows + SPARE);
}

static pair pair_make(ops_type type, int32_t rows, int32_t cols) /* filled with 0xff */
{
    pair p = {.rows = rows};
    p.cpu = (ops_mat){.type = type, .cols = cols, .stride = ops_row_bytes(type, cols) + 64}; /* rows apart */
    p.buf = weights_buf(pair_bytes(&p));
    memset(p.buf.data, 0xff, p.buf.bytes);
    p.gpu = (gpu_mat){device_copy(p.buf.data, pair_bytes(&p)), type, cols, (int64_t)p.cpu.stride};
    return p;
}

static void pair_free(pair *p)
{
    device_free(p->gpu.p);
    free(p->buf.data);
}

static float *pair_row(const pair *p, int32_t row)
{
    return (float *)(void *)(p->buf.data + (size_t)row * p->cpu.stride);
}

static void pair_send(const pair *p)
{
    CUDA_OK(cudaMemcpyAsync(p->gpu.p, p->buf.data, pair_bytes(p), cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
}

static pair pair_random(int32_t rows, int32_t cols, float scale, uint64_t seed)
{
    pair p = pair_make(OPS_F32, rows, cols);
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++)
            pair_row(&p, r)[c] = uniform(&seed) * scale;
    pair_send(&p);
    return p;
}

/* What the GPU's side holds; free() it. */
static char *pair_read(const pair *p)
{
    char *host = malloc(pair_bytes(p));
    assert_non_null(host);
    device_read(host, p->gpu.p, pair_bytes(p));
    return host;
}

/* Bytes of a row that have a meaning: all but what rounds a q8 row up to 64. */
static size_t row_meant(const ops_mat *m)
{
    size_t k = cpu_q8_padded(m->cols);
    return m->type == OPS_Q8 ? k + k / 32 * 28 : ops_row_bytes(m->type, m->cols);
}

/* Bytes alike, or both a NaN where a row holds floats. */
static void same_row(const char *what, const ops_mat *m, int32_t row, const void *got, const void *want)
{
    const uint8_t *g = got, *w = want;
    for (size_t i = 0; i < row_meant(m); i++) {
        if (g[i] == w[i])
            continue;
        uint32_t a, b;
        uint16_t c, d;
        bool floats = m->type == OPS_F32 || (m->type == OPS_Q8 && i >= cpu_q8_padded(m->cols));
        memcpy(&a, g + i / 4 * 4, 4);
        memcpy(&b, w + i / 4 * 4, 4);
        memcpy(&c, g + i / 2 * 2, 2);
        memcpy(&d, w + i / 2 * 2, 2);
        if ((floats && isnan(half_bits_f32(a)) && isnan(half_bits_f32(b))) ||
            (m->type == OPS_BF16 && isnan(half_bf16_to_f32(c)) && isnan(half_bf16_to_f32(d))))
            continue;
        fail_msg("%s, format %d, row %d, byte %zu of %zu: %02x, want %02x (words %08x, %08x; %.9g, %.9g)", what, m->type, row, i, row_meant(m), g[i], w[i], a, b,
                 (double)half_bits_f32(a), (double)half_bits_f32(b));
    }
}

/* The GPU's rows [0, n) are the CPU's, and nothing else has been touched. */
static void pair_same(const char *what, const pair *p, int32_t n)
{
    char *got = pair_read(p);
    for (int32_t r = 0; r < p->rows + SPARE; r++) {
        char *row = got + (size_t)r * p->cpu.stride;
        if (r < n)
            same_row(what, &p->cpu, r, row, pair_row(p, r));
        for (size_t i = r < n ? p->cpu.stride - 64 : 0; i < p->cpu.stride; i++)
            if ((uint8_t)row[i] != 0xff)
                fail_msg("%s: byte %zu beyond row %d was written", what, i, r);
    }
    free(got);
}

/* An f32 row in the format of a matrix. */
static void as_format(ops_type type, const float *x, int32_t cols, void *out)
{
    memset(out, 0, ops_row_bytes(type, cols));
    if (type == OPS_F32)
        memcpy(out, x, (size_t)cols * sizeof(float));
    else if (type == OPS_Q8)
        cpu_quantise_row(cpu, x, cols, out);
    else
        for (int32_t i = 0; i < cols; i++)
            ((uint16_t *)out)[i] = half_f32_to_bf16(x[i]);
}

typedef struct vec { /* n floats that begin off alignment */
    ops_buf buf;
    ops_vec cpu;
    void *memory;
    float *gpu;
} vec;

static vec vec_random(int32_t n, float scale, float shift, uint64_t seed, int misaligned)
{
    vec v = {.buf = weights_buf(((size_t)n + 4) * sizeof(float))};
    for (int32_t i = 0; i < n; i++)
        ((float *)(void *)v.buf.data)[misaligned + i] = shift + uniform(&seed) * scale;
    v.cpu = (ops_vec){NULL, (size_t)misaligned * sizeof(float), n};
    v.memory = device_make(((size_t)n + (size_t)misaligned) * sizeof(float)); /* ends with the last element */
    v.gpu = (float *)v.memory + misaligned;
    CUDA_OK(cudaMemcpyAsync(v.memory, v.buf.data, ((size_t)n + (size_t)misaligned) * sizeof(float), cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    return v;
}

static void vec_free(vec *v)
{
    device_free(v->memory);
    free(v->buf.data);
}

/* ---- a step on both sides ---- */

#define MAX_SPANS 4
#define TABLE 64

typedef struct steps {
    int32_t n_rows, n_spans, n_out;
    int32_t tokens[MAX_ROWS], out_rows[MAX_ROWS], table[MAX_SPANS * TABLE];
    ops_span spans[MAX_SPANS];
    ops_batch_limits limits;
    float freq[2][64], own[64];

    ops_batch *batch;
    gpu_step host, *gpu;
    float *rope_table[OPS_MAX_ROPES];
    gpu_rope rope[OPS_MAX_ROPES];
} steps;

static void steps_add(steps *s, int32_t n_rows, int32_t position)
{
    ops_span *span = &s->spans[s->n_spans];
    *span = (ops_span){.row = s->n_rows, .n_rows = n_rows, .position = position};
    for (int g = 0; g < OPS_MAX_KV_GROUPS; g++)
        span->table[g] = s->n_spans * TABLE;
    s->n_rows += n_rows;
    s->n_spans++;
    assert_true(s->n_rows <= MAX_ROWS && s->n_spans <= MAX_SPANS);
}

/* Makes the CPU's batch and the GPU's description of the spans added. */
static void steps_open(steps *s)
{
    s->limits.max_rows = s->limits.max_out = MAX_ROWS;
    s->limits.max_spans = MAX_SPANS;
    s->limits.max_blocks = MAX_SPANS * TABLE;
    s->limits.n_kv_groups = 2;
    OK(ops_cpu()->batch_create(cpu, &s->limits, &s->batch));
    ops_batch_desc d = {.n_rows = s->n_rows, .tokens = s->tokens, .n_spans = s->n_spans, .spans = s->spans, .n_out = s->n_out, .out_rows = s->out_rows};
    for (int g = 0; g < 2; g++) {
        d.tables[g] = s->table;
        d.n_table[g] = s->n_spans * TABLE;
    }
    OK(ops_cpu()->batch_set(cpu, s->batch, &d));

    int32_t position[MAX_ROWS + SPARE], row_span[MAX_ROWS + SPARE];
    memset(position, 0x7f, sizeof(position));
    memset(row_span, 0x7f, sizeof(row_span));
    gpu_span spans[MAX_SPANS];
    memset(spans, 0xff, sizeof(spans));
    for (int32_t i = 0; i < s->n_spans; i++) {
        const ops_span *from = &s->spans[i];
        spans[i].row = from->row;
        spans[i].n_rows = from->n_rows;
        spans[i].position = from->position;
        spans[i].rope_set = from->rope_set;
        for (int r = 0; r < OPS_MAX_ROPES; r++)
            spans[i].own_freq[r] = from->inv_freq[r] != NULL ? 1 + (int32_t)(from->inv_freq[r] - s->own) : -1;
        memcpy(spans[i].table, from->table, sizeof(spans[i].table));
        for (int32_t j = 0; j < from->n_rows; j++) {
            position[from->row + j] = from->position + j;
            row_span[from->row + j] = i;
        }
    }
    float own[65];
    memset(own, 0xff, sizeof(own));
    memcpy(own + 1, s->own, sizeof(s->own));
    gpu_step *h = &s->host;
    h->n_rows = s->n_rows;
    h->n_spans = s->n_spans;
    h->n_out = s->n_out;
    h->tokens = device_copy(s->tokens, sizeof(s->tokens));
    h->positions = device_copy(position, sizeof(position));
    h->row_span = device_copy(row_span, sizeof(row_span));
    h->spans = device_copy(spans, sizeof(spans));
    h->out_rows = device_copy(s->out_rows, sizeof(s->out_rows));
    h->own_freq = device_copy(own, sizeof(own));
    h->tables[0] = device_copy(s->table, sizeof(s->table));
    h->tables[1] = h->tables[0];
    for (int32_t r = 0; r < s->limits.n_ropes; r++) {
        const ops_rope_spec *spec = &s->limits.ropes[r];
        s->rope_table[r] = device_make((size_t)s->n_rows * (size_t)spec->dims * sizeof(float));
        s->rope[r] = (gpu_rope){.dims = spec->dims, .n_sets = spec->n_sets, .table = s->rope_table[r]};
        h->rope[r] = s->rope_table[r];
        for (int32_t k = 0; k < spec->n_sets; k++) {
            s->rope[r].inv_freq[k] = device_copy(spec->inv_freq[k], (size_t)spec->dims / 2 * sizeof(float));
            s->rope[r].attention_factor[k] = spec->attention_factor[k];
        }
    }
    s->gpu = device_copy(h, sizeof(*h));
    for (int32_t r = 0; r < s->limits.n_ropes; r++)
        CUDA_OK(k_rope_table(s->gpu, s->n_rows + SPARE, r, &s->rope[r], stream));
}

static void steps_close(steps *s)
{
    ops_cpu()->batch_destroy(cpu, &s->batch);
    const void *all[] = {s->host.tokens, s->host.positions, s->host.row_span, s->host.spans, s->host.out_rows, s->host.own_freq, s->host.tables[0], s->gpu};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        device_free(all[i]);
    for (int32_t r = 0; r < s->limits.n_ropes; r++) {
        device_free(s->rope_table[r]);
        for (int32_t k = 0; k < s->rope[r].n_sets; k++)
            device_free(s->rope[r].inv_freq[k]);
    }
}

/* ---- rope tables ---- */

static void rope_tables_are_the_cpu_s(void **state)
{
    (void)state;
    for (int order = 0; order_next(order); order++) {
        steps s = {.limits.n_ropes = 2};
        for (int i = 0; i < 64; i++) {
            s.freq[0][i] = powf(10000.0f, -(float)i / 64);
            s.freq[1][i] = powf(500000.0f, -(float)i / 64);
            s.own[i] = 1.5f / (float)(1 + i);
        }
        s.limits.ropes[0] = (ops_rope_spec){.dims = 128, .n_sets = 2, .inv_freq = {s.freq[0], s.freq[1]}, .attention_factor = {1.0f, 1.25f}};
        s.limits.ropes[1] = (ops_rope_spec){.dims = 50, .n_sets = 1, .inv_freq = {s.freq[1]}, .attention_factor = {0.75f}};
        steps_add(&s, 3, 0);
        steps_add(&s, 1, 1000);
        s.spans[1].rope_set = 1;
        steps_add(&s, 2, 900);
        s.spans[2].rope_set = 1;
        s.spans[2].inv_freq[0] = s.own;
        steps_open(&s);
        for (int r = 0; r < 2; r++) {
            int32_t half = s.limits.ropes[r].dims / 2;
            float got[6 * 128];
            device_read(got, s.rope_table[r], (size_t)(s.n_rows * half) * 2 * sizeof(float));
            for (int32_t i = 0; i < s.n_rows * half; i++)
                if (got[2 * i] != s.batch->cosine[r][i] || got[2 * i + 1] != s.batch->sine[r][i])
                    fail_msg("rope %d, pair %d: %.9g %.9g, want %.9g %.9g", r, i, (double)got[2 * i], (double)got[2 * i + 1], (double)s.batch->cosine[r][i],
                             (double)s.batch->sine[r][i]);
        }
        steps_close(&s);
    }
}

/* Beyond 2^20 an angle is reduced in double. */
static void far_positions_keep_their_angle(void **state)
{
    (void)state;
    static const int32_t positions[] = {1048575, 1048577, 30000000, 2147000000};
    float freq[5] = {1.0f, 0.7853982f, 0.3f, 0.01f, 100.0f}, *d_freq = device_copy(freq, sizeof(freq));
    int32_t zeros[4] = {0}, *d_positions = device_copy(positions, sizeof(positions)), *d_zeros = device_copy(zeros, sizeof(zeros));
    gpu_span span = {.own_freq = {-1, -1, -1, -1}}, *d_span = device_copy(&span, sizeof(span));
    gpu_step step = {.n_rows = 4, .positions = d_positions, .row_span = d_zeros, .spans = d_span}, *d_step = device_copy(&step, sizeof(step));
    gpu_rope spec = {.dims = 10, .n_sets = 1, .inv_freq = {d_freq}, .attention_factor = {1.0f}, .table = device_make(4 * 5 * 2 * sizeof(float))};
    CUDA_OK(k_rope_table(d_step, 4, 0, &spec, stream));
    float got[40];
    device_read(got, spec.table, sizeof(got));
    for (int i = 0; i < 20; i++) {
        double angle = (double)((float)positions[i / 5] * freq[i % 5]);
        if (!(fabs(got[2 * i] - cos(angle)) < 2e-7) || !(fabs(got[2 * i + 1] - sin(angle)) < 2e-7))
            fail_msg("angle %.17g: %.9g %.9g, want %.9g %.9g", angle, (double)got[2 * i], (double)got[2 * i + 1], cos(angle), sin(angle));
    }
    const void *all[] = {d_freq, d_positions, d_zeros, d_span, d_step, spec.table};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        device_free(all[i]);
}

/* ---- embed ---- */

static gpu_weight weight_on_gpu(packed_shape shape, const ops_buf *buf)
{
    packed_layout l;
    assert_true(packed_layout_of(shape, &l));
    return (gpu_weight){.p = device_copy(buf->data, l.bytes), .type = shape.type, .rows = shape.rows, .cols = shape.cols, .phase = shape.phase,
                        .panels = l.panels, .units = l.units, .groups = l.groups, .supers = l.supers, .panel_bytes = (int64_t)l.panel_bytes,
                        .unit_bytes = (int64_t)l.unit_bytes, .scale_offset = (int64_t)l.scale_offset, .min_offset = (int64_t)l.min_offset,
                        .super_offset = (int64_t)l.super_offset};
}

static void check_embed(packed_type type, int32_t cols, int32_t phase, bool placed)
{
    enum { VOCABULARY = 37, FIRST = 100, POSITIONS = 9 };
    packed_shape shape = {type, VOCABULARY, cols, phase}, place = {(packed_type)((type + 5) % PACKED_TYPES), POSITIONS, cols, 0};
    ops_buf w = weights_make(shape, 3), p = weights_make(place, 4);
    steps s = {0};
    steps_add(&s, 7, 2);
    steps_add(&s, 5, 0);
    for (int32_t i = 0; i < s.n_rows; i++)
        s.tokens[i] = FIRST + i * 5 - 6; /* -6 and -1 before the slice, 39 and on behind it */
    s.tokens[9] = -1;
    steps_open(&s);
    pair y = pair_make(OPS_F32, s.n_rows, cols + 21);
    ops_embed_args a = {.w = {&w, 0, shape}, .row_begin = FIRST, .scale = placed ? 1.7f : 1.0f, .position_offset = 2, .y = y.cpu};
    gpu_embed g = {.w = weight_on_gpu(shape, &w), .row_begin = FIRST, .position_offset = 2, .scale = a.scale, .y = y.gpu};
    if (placed) {
        a.positions = (ops_weight){&p, 0, place};
        g.positions = weight_on_gpu(place, &p);
    }
    a.y.buf = &y.buf;
    OK(ops_cpu()->embed(cpu, s.batch, &a));
    CUDA_OK(k_embed(s.gpu, s.n_rows + SPARE, &g, stream));
    pair_same(packed_format_of(type)->name, &y, s.n_rows);
    device_free(g.w.p);
    if (placed)
        device_free(g.positions.p);
    pair_free(&y);
    steps_close(&s);
    free(w.data);
    free(p.data);
}

static void embedding_of_every_format(void **state)
{
    (void)state;
    static const int32_t cols[] = {1, 31, 33, 257, 576};
    for (int t = 0; t < PACKED_TYPES; t++)
        for (size_t c = 0; c < ARRAY_LEN(cols); c++) {
            assert_true(order_next((int)c % 2));
            check_embed((packed_type)t, cols[c], 0, c % 2 == 1);
            const packed_format *f = packed_format_of((packed_type)t);
            if (packed_has_super(f)) /* a slice that begins inside a super-group */
                check_embed((packed_type)t, cols[c], f->super - f->group, false);
        }
}

/* ---- norm ---- */

typedef struct norm_case {
    const char *name;
    int32_t parts;
    bool replace, select, part_bias;
    ops_norm_kind post, norm;
    bool bias;
    ops_type y;
    int32_t n_y;
} norm_case;

static const norm_case NORMS[] = {
    {"rms", 0, false, false, false, OPS_NORM_NONE, OPS_NORM_RMS, false, OPS_F32, 1},
    {"layer, two formats", 2, false, false, true, OPS_NORM_NONE, OPS_NORM_LAYER, true, OPS_Q8, 2},
    {"post norms", 3, false, false, true, OPS_NORM_RMS, OPS_NORM_RMS, false, OPS_BF16, 2},
    {"replaced, layer post", 1, true, false, false, OPS_NORM_LAYER, OPS_NORM_NONE, false, OPS_Q8, 2},
    {"four sums", 1, false, false, false, OPS_NORM_LAYER, OPS_NORM_LAYER, true, OPS_BF16, 2},
    {"selected", 4, false, true, false, OPS_NORM_NONE, OPS_NORM_RMS, false, OPS_Q8, 2},
    {"only x", 2, false, false, false, OPS_NORM_NONE, OPS_NORM_NONE, false, OPS_F32, 0},
};

static void near_row(const char *what, int32_t row, const float *got, const float *want, int32_t n, double bound)
{
    for (int32_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= bound))
            fail_msg("%s, row %d, column %d of %d: %.9g, want %.9g (bound %.2g)", what, row, i, n, (double)got[i], (double)want[i], bound);
}

static void check_norm(const norm_case *c, int32_t cols, int32_t rows)
{
    static const int32_t selected[] = {1, 4, 5};
    steps s = {.n_out = c->select ? 3 : 0};
    memcpy(s.out_rows, selected, sizeof(selected));
    steps_add(&s, rows, 0);
    steps_open(&s);
    pair x = pair_random(rows, cols, 4.0f, 1), before = pair_random(rows, cols, 4.0f, 1), part[4], y[2];
    const float *parts[4];
    gpu_norm g = {.x = x.gpu, .n_parts = c->parts, .replace = c->replace, .select = c->select, .residual_scale = 0.7f, .post = c->post, .norm = c->norm, .eps = 1e-5f,
                  .n_y = c->n_y};
    vec post = vec_random(cols, 0.5f, 1.0f, 11, 0), weight = vec_random(cols, 0.5f, 1.0f, 12, 0), part_bias = vec_random(cols, 1.0f, 0.0f, 13, 0),
        bias = vec_random(cols, 1.0f, 0.0f, 14, 0), off = vec_random(cols, 0.5f, 1.0f, 12, 1);
    for (int p = 0; p < 4; p++) {
        part[p] = pair_random(rows, cols, 3.0f, 20 + (uint64_t)p);
        parts[p] = pair_row(&part[p], 0);
        g.part[p] = part[p].gpu.p;
    }
    g.part_stride = (int64_t)(part[0].cpu.stride / sizeof(float));
    ops_norm_args a = {.x = x.cpu, .parts = {parts, c->parts, part[0].cpu.stride / sizeof(float)}, .replace = c->replace, .select = c->select, .residual_scale = 0.7f,
                       .post = c->post, .norm = c->norm, .eps = 1e-5f, .n_y = c->n_y, .post_weight = post.cpu, .weight = weight.cpu};
    a.x.buf = &x.buf;
    a.post_weight.buf = &post.buf;
    a.weight.buf = &weight.buf;
    g.post_weight = post.gpu;
    g.weight = weight.gpu;
    if (c->part_bias) {
        a.part_bias = part_bias.cpu;
        a.part_bias.buf = &part_bias.buf;
        g.part_bias = part_bias.gpu;
    }
    if (c->bias) {
        a.bias = bias.cpu;
        a.bias.buf = &bias.buf;
        g.bias = bias.gpu;
    }
    for (int k = 0; k < 2; k++) {
        y[k] = pair_make(k == 0 ? OPS_F32 : c->y, rows, cols);
        a.y[k] = y[k].cpu;
        a.y[k].buf = &y[k].buf;
        g.y[k] = y[k].gpu;
    }
    OK(ops_cpu()->norm(cpu, s.batch, &a));

    char *first_x = NULL, *first_y[2] = {NULL, NULL};
    int32_t n = c->select ? 3 : rows;
    for (int order = 0; order_next(order); order++) {
        if (order > 0)
            g.weight = off.gpu; /* the same, off alignment */
        CUDA_OK(cudaMemcpyAsync(x.gpu.p, before.buf.data, pair_bytes(&x), cudaMemcpyHostToDevice, stream));
        CUDA_OK(k_norm(s.gpu, rows + SPARE, &g, stream));
        char *got_x = pair_read(&x), *got_y[2] = {pair_read(&y[0]), pair_read(&y[1])};
        if (order > 0) {
            assert_memory_equal(got_x, first_x, pair_bytes(&x));
            for (int k = 0; k < 2; k++)
                assert_memory_equal(got_y[k], first_y[k], pair_bytes(&y[k]));
            free(got_x);
            free(got_y[0]);
            free(got_y[1]);
            continue;
        }
        first_x = got_x;
        memcpy(first_y, got_y, sizeof(got_y));
    }
    for (int32_t r = 0; r < rows; r++) {
        const float *got = (const float *)(const void *)(first_x + (size_t)r * x.cpu.stride);
        if (c->post == OPS_NORM_NONE)
            assert_memory_equal(got, pair_row(&x, r), x.cpu.stride); /* rows not selected too */
        else
            near_row(c->name, r, got, pair_row(&x, r), cols, 2e-5);
    }
    char *bytes = malloc(ops_row_bytes(OPS_F32, cols) + ops_row_bytes(OPS_Q8, cols));
    for (int32_t i = 0; i < n && c->n_y > 0; i++) {
        const char *got = first_y[0] + (size_t)i * y[0].cpu.stride;
        near_row(c->name, i, (const float *)(const void *)got, pair_row(&y[0], i), cols, cols < 20 ? 2e-4 : 4e-5); /* few values: a small deviation amplifies */
        for (int k = 0; k < c->n_y; k++) { /* the f32 result in the other format, padding too */
            as_format(y[k].cpu.type, (const float *)(const void *)got, cols, bytes);
            same_row(c->name, &y[k].cpu, i, first_y[k] + (size_t)i * y[k].cpu.stride, bytes);
        }
    }
    /* the last row alone */
    if (!c->select) {
        s.host.n_rows = 1;
        CUDA_OK(cudaMemcpyAsync(s.gpu, &s.host, sizeof(s.host), cudaMemcpyHostToDevice, stream));
        CUDA_OK(cudaMemcpyAsync(x.gpu.p, pair_row(&before, rows - 1), (size_t)cols * sizeof(float), cudaMemcpyHostToDevice, stream));
        for (int p = 0; p < c->parts; p++)
            g.part[p] += (int64_t)(rows - 1) * g.part_stride;
        CUDA_OK(k_norm(s.gpu, 1, &g, stream));
        char *got = pair_read(&x);
        assert_memory_equal(got, first_x + (size_t)(rows - 1) * x.cpu.stride, (size_t)cols * sizeof(float));
        free(got);
        for (int k = 0; k < c->n_y; k++) {
            got = pair_read(&y[k]);
            assert_memory_equal(got, first_y[k] + (size_t)(rows - 1) * y[k].cpu.stride, row_meant(&y[k].cpu));
            free(got);
        }
    }
    free(bytes);
    free(first_x);
    free(first_y[0]);
    free(first_y[1]);
    for (int p = 0; p < 4; p++)
        pair_free(&part[p]);
    pair_free(&y[0]);
    pair_free(&y[1]);
    pair_free(&x);
    pair_free(&before);
    vec_free(&post);
    vec_free(&weight);
    vec_free(&part_bias);
    vec_free(&off);
    vec_free(&bias);
    steps_close(&s);
}

static void norms(void **state)
{
    (void)state;
    static const int32_t cols[] = {1, 15, 16, 33, 100, 576, 1023, 2048, 2050};
    for (size_t i = 0; i < ARRAY_LEN(NORMS); i++) {
        for (size_t s = 0; s < ARRAY_LEN(cols); s++)
            check_norm(&NORMS[i], cols[s], cols[s] > 500 && !NORMS[i].select ? 2 : 6);
    }
    check_norm(&NORMS[1], 4097, 2);
    check_norm(&NORMS[2], 8132, 2);
    check_norm(&NORMS[4], 16385, 2);
    check_norm(&NORMS[1], 20480, 1);
    gpu_norm wide = {.x = {NULL, OPS_F32, 20481, 1 << 20}};
    assert_int_equal(k_norm(NULL, 1, &wide, stream), cudaErrorInvalidValue);
}

/* A row with a NaN is all NaN, one with an infinity has NaN there: but the padding stays zero, and codes 0 under a NaN scale. */
static void norms_of_what_is_no_number(void **state)
{
    (void)state;
    for (int kind = OPS_NORM_RMS; kind <= OPS_NORM_LAYER; kind++)
        for (size_t f = 0; f < ARRAY_LEN(FORMATS); f++) {
            enum { COLS = 70 };
            steps s = {0};
            steps_add(&s, 2, 0);
            steps_open(&s);
            pair x = pair_random(2, COLS, 4.0f, 1), y = pair_make(FORMATS[f], 2, COLS);
            pair_row(&x, 0)[3] = NAN;
            pair_row(&x, 1)[66] = INFINITY;
            pair_send(&x);
            ops_norm_args a = {.x = x.cpu, .norm = (ops_norm_kind)kind, .eps = 1e-5f, .n_y = 1, .y = {y.cpu}};
            gpu_norm g = {.x = x.gpu, .norm = kind, .eps = 1e-5f, .n_y = 1, .y = {y.gpu}};
            a.x.buf = &x.buf;
            a.y[0].buf = &y.buf;
            OK(ops_cpu()->norm(cpu, s.batch, &a));
            CUDA_OK(k_norm(s.gpu, 2, &g, stream));
            pair_same("norm", &y, 2);
            pair_free(&x);
            pair_free(&y);
            steps_close(&s);
        }
}

/* ---- sum of squares ---- */

static void sums_of_squares(void **state)
{
    (void)state;
    enum { ROWS = 5, COLS = 2100 };
    pair x = pair_random(ROWS, COLS, 3.0f, 9);
    float *out = device_make((ROWS + SPARE) * sizeof(float)), got[ROWS + SPARE], first[ROWS], moved[ROWS + SPARE];
    int32_t n = ROWS, *d_n = device_copy(&n, sizeof(n));
    for (int order = 0; order_next(order); order++)
        for (int slice = 0; slice < 4; slice++) {
            int32_t begin = slice == 0 ? 0 : slice == 1 ? 3 : 60, end = slice == 2 ? 60 : slice == 3 ? 61 : COLS;
            CUDA_OK(cudaMemsetAsync(out, 0xff, sizeof(got), stream));
            CUDA_OK(k_sumsq(ROWS + SPARE, d_n, x.gpu, begin, end, out, stream));
            device_read(got, out, sizeof(got));
            for (int r = 0; r < ROWS; r++) {
                double want = 0;
                for (int i = begin; i < end; i++)
                    want += (double)pair_row(&x, r)[i] * pair_row(&x, r)[i];
                if (!(fabs(got[r] - want) <= want * 1e-6))
                    fail_msg("sum of squares of row %d: %.9g, want %.9g", r, (double)got[r], want);
                if (slice == 1 && order > 0)
                    assert_memory_equal(&first[r], &got[r], sizeof(float));
                if (slice == 1)
                    first[r] = got[r];
            }
            assert_true(isnan(got[ROWS]));
        }
    for (int r = 0; r < ROWS; r++) /* the same values elsewhere in the row */
        memmove(pair_row(&x, r), pair_row(&x, r) + 3, (COLS - 3) * sizeof(float));
    pair_send(&x);
    CUDA_OK(k_sumsq(ROWS, NULL, x.gpu, 0, COLS - 3, out, stream));
    device_read(moved, out, ROWS * sizeof(float));
    assert_memory_equal(first, moved, sizeof(first));
    pair_free(&x);
    device_free(out);
    device_free(d_n);
}

/* ---- gate and quantise ---- */

/* Values where functions turn, in rows whose groups are all kinds. */
static void hard_values(pair *p)
{
    static const float hard[] = {0.0f, -0.0f, 1e-30f, -1e-38f, 0.624f, 0.626f, -0.9f, 0.92f, 4.0f, -4.06f, 87.0f, -88.0f, 103.0f, -104.5f, 1e9f, -3e38f};
    for (int32_t r = 0; r < p->rows; r++)
        for (int32_t c = 0; c < p->cpu.cols; c++) {
            if (c % 5 == r % 5)
                pair_row(p, r)[c] = hard[(c / 5 + r) % 16];
            if (r == p->rows - 1 && c % 32 == 7)
                pair_row(p, r)[c] = c % 3 == 0 ? NAN : c % 3 == 1 ? INFINITY : -INFINITY;
            if (r == 0 && c / 32 == 1)
                pair_row(p, r)[c] = c % 2 == 0 ? 0.0f : 0x1p-120f;
        }
    pair_send(p);
}

static void check_gate(ops_activation activation, int32_t cols, int32_t y_col, ops_type type, bool with_up)
{
    int32_t rows = 4, after = y_col > 0 ? 40 : 0;
    pair gate = pair_random(rows, cols, 6.0f, 5), up = pair_random(rows, cols, 2.0f, 6), y = pair_make(type, rows, y_col + cols + after);
    hard_values(&gate);
    ops_gate_args a = {.rows = rows, .gate = gate.cpu, .activation = activation, .y = y.cpu, .y_col = y_col};
    gpu_gate g = {.gate = gate.gpu, .activation = activation, .y = y.gpu, .y_col = y_col};
    a.gate.buf = &gate.buf;
    a.y.buf = &y.buf;
    if (with_up) {
        a.up = up.cpu;
        a.up.buf = &up.buf;
        g.up = up.gpu;
    }
    OK(ops_cpu()->gate(cpu, &a));
    int32_t *d_n = device_copy(&rows, sizeof(rows));
    CUDA_OK(k_gate(rows + SPARE, d_n, &g, stream));
    pair_same("gate", &y, rows);
    device_free(d_n);
    pair_free(&gate);
    pair_free(&up);
    pair_free(&y);
}

static void gates_write_where_told(void **state)
{
    (void)state;
    static const int32_t cols[] = {1, 31, 64, 100, 513};
    int k = 0;
    for (int activation = OPS_SILU; activation <= OPS_RELU2; activation++)
        for (size_t c = 0; c < ARRAY_LEN(cols); c++)
            for (size_t f = 0; f < ARRAY_LEN(FORMATS); f++, k++) {
                assert_true(order_next(k % 2));
                check_gate((ops_activation)activation, cols[c], 0, FORMATS[f], true);
                check_gate((ops_activation)activation, cols[c], k % 3 + 5, FORMATS[f], k % 4 != 0);
            }
    gpu_gate bad = {.activation = OPS_RELU2 + 1, .y = {NULL, OPS_F32, 1, 64}};
    assert_int_equal(k_gate(1, NULL, &bad, stream), cudaErrorInvalidValue);
}

/* Each activation at 20000 values from -10 to 10: the bits of the CPU. */
static void activations_are_the_cpu_s(void **state)
{
    (void)state;
    enum { COLS = 20000 };
    for (int activation = OPS_SILU; activation <= OPS_RELU2; activation++) {
        pair gate = pair_make(OPS_F32, 1, COLS), y = pair_make(OPS_F32, 1, COLS);
        for (int32_t c = 0; c < COLS; c++)
            pair_row(&gate, 0)[c] = (float)(c - COLS / 2) * 1e-3f;
        pair_send(&gate);
        ops_gate_args a = {.rows = 1, .gate = gate.cpu, .activation = (ops_activation)activation, .y = y.cpu};
        gpu_gate g = {.gate = gate.gpu, .activation = activation, .y = y.gpu};
        a.gate.buf = &gate.buf;
        a.y.buf = &y.buf;
        OK(ops_cpu()->gate(cpu, &a));
        CUDA_OK(k_gate(1, NULL, &g, stream));
        pair_same("activation", &y, 1);
        pair_free(&gate);
        pair_free(&y);
    }
}

static void quantises_as_the_cpu(void **state)
{
    (void)state;
    static const int32_t cols[] = {1, 31, 32, 65, 576, 1023};
    for (int order = 0; order_next(order); order++)
        for (size_t c = 0; c < ARRAY_LEN(cols); c++)
            for (size_t f = 0; f < ARRAY_LEN(FORMATS); f++) {
                pair x = pair_random(4, cols[c], 3.0f, 8), y = pair_make(FORMATS[f], 4, cols[c]);
                hard_values(&x);
                for (int32_t r = 0; r < 4; r++)
                    as_format(FORMATS[f], pair_row(&x, r), cols[c], pair_row(&y, r));
                CUDA_OK(k_quantise(4, NULL, x.gpu, y.gpu, stream));
                pair_same("quantise", &y, 4);
                pair_free(&x);
                pair_free(&y);
            }
}

/* ---- the cache ---- */

static void layout_has_the_cpu_s_sizes(void **state)
{
    (void)state;
    static const int32_t dims[] = {1, 16, 17, 64, 80, 96, 128, 200, 256, 576};
    gpu_kv kv;
    for (int t = OPS_KV_F32; t < OPS_KV_TYPES; t++)
        for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
            ops_kv_spec spec = {(ops_kv_type)t, 3, 5, dims[i], 7};
            assert_true(gpu_kv_layout(&spec, &kv));
            assert_int_equal(kv.head_bytes * 15, ops_cpu()->kv_block_bytes(&spec));
            assert_true(kv.head_bytes % 64 == 0 && kv.k_scales % 64 == 0 && kv.v_codes % 64 == 0 && kv.v_scales % 64 == 0);
        }
    static const ops_kv_spec bad[] = {{OPS_KV_F32, -1, 1, 64, 1}, {OPS_KV_F32, 1, -1, 64, 1}, {OPS_KV_F32, 1, 1, 0, 1}, {OPS_KV_F32, 1, 1, 70000, 1},
                                      {OPS_KV_F32, 1, 1, 64, -1}, {OPS_KV_F32, 1 << 30, 1 << 30, 64, 1}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(gpu_kv_layout(&bad[i], &kv));
}

typedef struct qkv_case {
    int32_t heads, kv_heads, dim;
    ops_kv_type type;
    ops_qk_norm norm;
    bool weights, per_head;
    float clip;
    int32_t rope_dims; /* 0: none */
    bool interleaved;
} qkv_case;

static const qkv_case QKVS[] = {
    {9, 3, 64, OPS_KV_F16, OPS_QK_NONE, false, false, 0.0f, 64, false},
    {5, 1, 128, OPS_KV_BF16, OPS_QK_HEAD_RMS, true, false, 0.0f, 128, false},
    {4, 4, 80, OPS_KV_BF16, OPS_QK_NONE, false, false, 2.0f, 32, false},
    {3, 1, 96, OPS_KV_Q8, OPS_QK_FULL_RMS, true, true, 0.0f, 96, true},
    {2, 1, 256, OPS_KV_F32, OPS_QK_HEAD_LAYER, true, true, 0.0f, 128, true},
    {2, 2, 5, OPS_KV_Q8, OPS_QK_NONE, false, false, 0.0f, 4, false},
    {3, 3, 31, OPS_KV_F16, OPS_QK_HEAD_RMS, false, false, 1.5f, 0, false},
    {2, 1, 31, OPS_KV_BF16, OPS_QK_HEAD_LAYER, false, false, 0.0f, 30, true},
    {1, 2, 1, OPS_KV_F32, OPS_QK_NONE, false, false, 0.0f, 0, false},
    {2, 1, 132, OPS_KV_Q8, OPS_QK_HEAD_RMS, true, true, 0.0f, 66, false},
    {3, 1, 96, OPS_KV_F8, OPS_QK_FULL_RMS, true, true, 0.0f, 96, true},
    {2, 1, 132, OPS_KV_F8, OPS_QK_HEAD_RMS, true, true, 0.0f, 66, false},
    {2, 2, 5, OPS_KV_F8, OPS_QK_NONE, false, false, 2.5f, 4, false},
    {0, 1, 64, OPS_KV_Q8, OPS_QK_NONE, false, false, 0.0f, 64, false},
};

enum { BLOCKS = 40, LAYERS = 2, LAYER = 1, GROUP = 1 };

static size_t code_bytes(ops_kv_type type)
{
    return type == OPS_KV_F32 ? 4 : type == OPS_KV_Q8 || type == OPS_KV_F8 ? 1 : 2;
}

/* Where a token's dimension lies: in the CPU's cache and in the GPU's, and its q8 scale. */
static size_t cpu_code(const cpu_kv_layout *l, bool v, int32_t slot, int32_t d, size_t size)
{
    return v ? l->v_codes + ((size_t)slot * (size_t)l->padded + (size_t)d) * size : ((size_t)d * OPS_KV_BLOCK + (size_t)slot) * size;
}
static size_t gpu_code(const gpu_kv *l, bool v, int32_t slot, int32_t d, size_t size)
{
    return (v ? (size_t)l->v_codes : 0) + ((size_t)slot * (size_t)l->padded + (size_t)d) * size;
}
static size_t gpu_scale(const gpu_kv *l, bool v, int32_t slot, int32_t g)
{
    return (size_t)(v ? l->v_scales : l->k_scales) + 2 * (size_t)(g * OPS_KV_BLOCK + slot);
}

static float element(ops_kv_type type, const char *code, const char *scale)
{
    uint16_t h;
    float f;
    if (type == OPS_KV_F8)
        return half_e4m3_to_f32((uint8_t)*code);
    memcpy(&f, code, type == OPS_KV_F32 ? 4 : 0);
    memcpy(&h, type == OPS_KV_Q8 ? scale : code, 2);
    return type == OPS_KV_F32 ? f : type == OPS_KV_F16 ? half_f16_to_f32(h) : type == OPS_KV_BF16 ? half_bf16_to_f32(h) : half_f16_to_f32(h) * (float)*(const int8_t *)code;
}

/* One token's head in both caches; then it is blanked in the GPU's. */
static void check_token(const qkv_case *c, const cpu_kv_layout *l, const gpu_kv *kv, const char *want, char *got, bool v, int32_t slot)
{
    size_t size = code_bytes(c->type);
    bool exact = v || c->norm == OPS_QK_NONE || c->norm == OPS_QK_FULL_RMS;
    for (int32_t d = 0; d < kv->padded; d++) {
        char *code = got + gpu_code(kv, v, slot, d, size), *scale = got + (c->type == OPS_KV_Q8 ? gpu_scale(kv, v, slot, d / 32) : 0);
        const char *want_code = want + cpu_code(l, v, slot, d, size);
        const char *want_scale = want + (v ? l->v_scales : l->k_scales) + 2 * ((size_t)(d / 32) * OPS_KV_BLOCK + (size_t)slot);
        if (d >= c->dim) {
            for (size_t i = 0; i < size; i++)
                assert_int_equal(code[i], 0);
        } else if (exact) {
            assert_memory_equal(code, want_code, size);
            if (c->type == OPS_KV_Q8)
                assert_memory_equal(scale, want_scale, 2);
        } else {
            static const double near[] = {[OPS_KV_F32] = 4e-6, [OPS_KV_F16] = 0x1p-10, [OPS_KV_BF16] = 0x1p-7, [OPS_KV_Q8] = 0.02, [OPS_KV_F8] = 0x1p-3};
            double a = element(c->type, code, scale), b = element(c->type, want_code, want_scale), step = near[c->type];
            if (!(fabs(a - b) <= step * (1 + fabs(b)))) /* the neighbour in the cache's type at most */
                fail_msg("%s, slot %d, dimension %d: %.9g, want %.9g", v ? "V" : "K", slot, d, a, b);
        }
    }
    for (int32_t d = kv->padded - 1; d >= 0; d--) {
        memset(got + gpu_code(kv, v, slot, d, size), 0x55, size);
        if (c->type == OPS_KV_Q8)
            memset(got + gpu_scale(kv, v, slot, d / 32), 0x55, 2);
    }
}

static void check_qkv(const qkv_case *c)
{
    static const int32_t span_rows[] = {1, 19, 2}, positions[] = {33, 0, 47};
    steps s = {.limits.n_ropes = c->rope_dims > 0 ? 2 : 0};
    for (int i = 0; i < 64; i++)
        s.freq[0][i] = powf(10000.0f, -(float)i / 64);
    for (int r = 0; r < 2; r++)
        s.limits.ropes[r] = (ops_rope_spec){.dims = r == 1 ? c->rope_dims : 2, .interleaved = c->interleaved, .n_sets = 1, .inv_freq = {s.freq[0]},
                                            .attention_factor = {1.1f}};
    for (int i = 0; i < 3; i++)
        steps_add(&s, span_rows[i], positions[i]);
    for (int i = 0; i < MAX_SPANS * TABLE; i++)
        s.table[i] = -7;
    int32_t block = 3;
    for (int i = 0; i < 3; i++)
        for (int32_t p = positions[i] / OPS_KV_BLOCK; p <= (positions[i] + span_rows[i] - 1) / OPS_KV_BLOCK; p++)
            s.table[i * TABLE + p] = block = (block + 17) % BLOCKS;
    steps_open(&s);

    ops_kv_spec spec = {c->type, LAYERS, c->kv_heads, c->dim, BLOCKS};
    ops_kv *kv;
    OK(ops_cpu()->kv_create(cpu, &spec, &kv));
    pair q = pair_random(s.n_rows, c->heads * c->dim + 3, 3.0f, 31), k = pair_random(s.n_rows, c->kv_heads * c->dim, 3.0f, 32),
         v = pair_random(s.n_rows, c->kv_heads * c->dim, 3.0f, 33), q_before = pair_random(s.n_rows, c->heads * c->dim + 3, 3.0f, 31);
    int32_t steps_q = c->per_head ? c->heads : 1, steps_k = c->per_head ? c->kv_heads : 1;
    vec qw = vec_random(steps_q * c->dim, 0.5f, 1.0f, 34, 1), kw = vec_random(steps_k * c->dim, 0.5f, 1.0f, 35, 0);
    float sums[2][MAX_ROWS];
    uint64_t seed = 36;
    for (int i = 0; i < 2 * MAX_ROWS; i++)
        sums[i / MAX_ROWS][i % MAX_ROWS] = 300.0f + 100.0f * uniform(&seed);
    ops_qkv_args a = {.q = q.cpu, .k = k.cpu, .v = v.cpu, .n_heads = c->heads, .n_kv_heads = c->kv_heads, .head_dim = c->dim, .clip = c->clip, .norm = c->norm, .eps = 1e-5f,
                      .q_sumsq = sums[0], .k_sumsq = sums[1], .q_total = 700, .k_total = 300, .rope = c->rope_dims > 0 ? 1 : -1, .kv = kv, .kv_group = GROUP, .kv_layer = LAYER};
    gpu_qkv g = {.q = q.gpu, .k = k.gpu, .v = v.gpu, .n_heads = c->heads, .n_kv_heads = c->kv_heads, .head_dim = c->dim, .clip = c->clip, .norm = c->norm, .eps = 1e-5f,
                 .q_sumsq = device_copy(sums[0], sizeof(sums[0])), .k_sumsq = device_copy(sums[1], sizeof(sums[1])), .q_total = 700, .k_total = 300, .rope = a.rope,
                 .rope_dims = c->rope_dims, .interleaved = c->interleaved, .kv_group = GROUP, .kv_layer = LAYER};
    a.q.buf = &q.buf;
    a.k.buf = &k.buf;
    a.v.buf = &v.buf;
    if (c->weights) {
        a.q_weight = qw.cpu;
        a.q_weight.buf = &qw.buf;
        a.k_weight = kw.cpu;
        a.k_weight.buf = &kw.buf;
        g.q_weight = qw.gpu;
        g.k_weight = kw.gpu;
        g.q_step = steps_q > 1 ? c->dim : 0;
        g.k_step = steps_k > 1 ? c->dim : 0;
    }
    assert_true(gpu_kv_layout(&spec, &g.kv));
    size_t bytes = (size_t)(g.kv.head_bytes * BLOCKS * LAYERS * c->kv_heads);
    g.kv.p = device_make(bytes);
    OK(ops_cpu()->qkv(cpu, s.batch, &a));

    char *cache[2] = {malloc(bytes), malloc(bytes)}, *got_q = NULL;
    for (int order = 0; order_next(order); order++) {
        CUDA_OK(cudaMemsetAsync(g.kv.p, 0x55, bytes, stream));
        CUDA_OK(cudaMemcpyAsync(q.gpu.p, q_before.buf.data, pair_bytes(&q), cudaMemcpyHostToDevice, stream));
        CUDA_OK(k_qkv(s.gpu, s.n_rows + SPARE, &g, stream));
        char *now = pair_read(&q);
        device_read(cache[order > 0], g.kv.p, bytes);
        if (order == 0) {
            got_q = now;
            continue;
        }
        assert_memory_equal(now, got_q, pair_bytes(&q));
        assert_memory_equal(cache[1], cache[0], bytes);
        free(now);
    }
    /* row by row: the same */
    CUDA_OK(cudaMemsetAsync(g.kv.p, 0x55, bytes, stream));
    CUDA_OK(cudaMemcpyAsync(q.gpu.p, q_before.buf.data, pair_bytes(&q), cudaMemcpyHostToDevice, stream));
    for (int32_t r = 0; r < s.n_rows; r++) {
        gpu_step one = s.host;
        gpu_qkv b = g;
        one.n_rows = 1;
        one.positions += r;
        one.row_span += r;
        b.q.p = (char *)b.q.p + r * b.q.stride;
        b.k.p = (char *)b.k.p + r * b.k.stride;
        b.v.p = (char *)b.v.p + r * b.v.stride;
        b.q_sumsq += r;
        b.k_sumsq += r;
        if (c->rope_dims > 0)
            one.rope[1] += (int64_t)r * c->rope_dims;
        gpu_step *d_one = device_copy(&one, sizeof(one));
        CUDA_OK(k_qkv(d_one, 1, &b, stream));
        CUDA_OK(cudaStreamSynchronize(stream));
        device_free(d_one);
    }
    char *alone = pair_read(&q);
    device_read(cache[1], g.kv.p, bytes);
    assert_memory_equal(alone, got_q, pair_bytes(&q));
    assert_memory_equal(cache[1], cache[0], bytes);
    free(alone);

    for (int32_t r = 0; r < s.n_rows; r++) {
        const float *got = (const float *)(const void *)(got_q + (size_t)r * q.cpu.stride);
        if (c->norm == OPS_QK_NONE || c->norm == OPS_QK_FULL_RMS)
            assert_memory_equal(got, pair_row(&q, r), q.cpu.stride); /* columns beyond the heads too */
        else
            near_row("q", r, got, pair_row(&q, r), c->heads * c->dim, 1e-5);
        int32_t i = s.batch->span_of[r], position = s.batch->position[r], b = s.table[i * TABLE + position / OPS_KV_BLOCK];
        for (int32_t h = 0; h < c->kv_heads; h++)
            for (int w = 0; w < 2; w++)
                check_token(c, &kv->layout, &g.kv, cpu_kv_head(kv, b, LAYER, h), cache[0] + (((size_t)LAYER * (size_t)c->kv_heads + (size_t)h) * BLOCKS + (size_t)b) * (size_t)g.kv.head_bytes,
                            w == 1, position % OPS_KV_BLOCK);
    }
    for (size_t i = 0; i < bytes; i++)
        if (cache[0][i] != 0x55)
            fail_msg("byte %zu of the cache was written", i);
    ops_cpu()->kv_destroy(cpu, &kv);
    free(cache[0]);
    free(cache[1]);
    free(got_q);
    device_free(g.q_sumsq);
    device_free(g.k_sumsq);
    device_free(g.kv.p);
    vec_free(&qw);
    vec_free(&kw);
    pair_free(&q);
    pair_free(&k);
    pair_free(&v);
    pair_free(&q_before);
    steps_close(&s);
}

static void heads_are_turned_and_stored(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(QKVS); i++)
        check_qkv(&QKVS[i]);
}

/* Values an f16, a q8 or an fp8 cannot hold end as the CPU's, and those in the middle between two of fp8. */
static void stores_what_does_not_fit_as_the_cpu(void **state)
{
    (void)state;
    static const float hard[] = {1e9f, -1e9f, 65504.0f, 65520.0f, 1e-8f, -6e-8f, 3e38f, INFINITY, -INFINITY, NAN, 0.0f, -0.0f};
    static const float ties[] = {17.0f, 19.0f, -21.0f, 0x3p-10f, 0x1p-10f, -0x5p-10f, 432.0f, -464.0f, 0xfp-10f, 1.0625f, -1.1875f, 2.125f};
    for (int t = OPS_KV_F32; t < OPS_KV_TYPES; t++)
        for (int with = 0; with < 4; with++) {
            enum { DIM = 70 };
            ops_kv_spec spec = {(ops_kv_type)t, 1, 1, DIM, 1};
            ops_kv *kv;
            OK(ops_cpu()->kv_create(cpu, &spec, &kv));
            steps s = {0};
            steps_add(&s, 3, 4);
            steps_open(&s);
            pair k = pair_random(3, DIM, 3.0f, 41), v = pair_random(3, DIM, 3.0f, 42);
            for (int32_t i = 0; i < 3 * 12; i++) {
                int32_t values = with == 0 ? 7 : with == 1 ? 9 : 12;
                pair_row(&k, i % 3)[i * 7 % DIM] = with == 3 ? ties[i % 12] : hard[i % values];
                pair_row(&v, i % 3)[i * 11 % DIM] = with == 3 ? ties[i % 12] : hard[i % values];
            }
            pair_send(&k);
            pair_send(&v);
            ops_qkv_args a = {.q = k.cpu, .k = k.cpu, .v = v.cpu, .n_kv_heads = 1, .head_dim = DIM, .rope = -1, .kv = kv};
            a.q.buf = a.k.buf = &k.buf;
            a.v.buf = &v.buf;
            gpu_qkv g = {.q = k.gpu, .k = k.gpu, .v = v.gpu, .n_kv_heads = 1, .head_dim = DIM, .rope = -1};
            assert_true(gpu_kv_layout(&spec, &g.kv));
            g.kv.p = device_make((size_t)g.kv.head_bytes);
            OK(ops_cpu()->qkv(cpu, s.batch, &a));
            CUDA_OK(k_qkv(s.gpu, 3, &g, stream));
            char *got = malloc((size_t)g.kv.head_bytes);
            device_read(got, g.kv.p, (size_t)g.kv.head_bytes);
            size_t size = code_bytes((ops_kv_type)t);
            for (int32_t i = 0; i < 2 * 3 * DIM; i++) {
                bool is_v = i >= 3 * DIM;
                int32_t slot = 4 + i / DIM % 3, d = i % DIM;
                const char *a_code = got + gpu_code(&g.kv, is_v, slot, d, size), *b_code = cpu_kv_head(kv, 0, 0, 0) + cpu_code(&kv->layout, is_v, slot, d, size);
                const char *b_scale = cpu_kv_head(kv, 0, 0, 0) + (is_v ? kv->layout.v_scales : kv->layout.k_scales) + 2 * ((size_t)(d / 32) * OPS_KV_BLOCK + (size_t)slot);
                const char *a_scale = got + (t == OPS_KV_Q8 ? gpu_scale(&g.kv, is_v, slot, d / 32) : 0);
                if (t != OPS_KV_Q8 && isnan(element((ops_kv_type)t, a_code, NULL)) && isnan(element((ops_kv_type)t, b_code, NULL)))
                    continue;
                if (memcmp(a_code, b_code, size) != 0 || (t == OPS_KV_Q8 && memcmp(a_scale, b_scale, 2) != 0))
                    fail_msg("type %d, %s, slot %d, dimension %d: %.9g, want %.9g", t, is_v ? "V" : "K", slot, d, (double)element((ops_kv_type)t, a_code, a_scale),
                             (double)element((ops_kv_type)t, b_code, b_scale));
            }
            free(got);
            device_free(g.kv.p);
            pair_free(&k);
            pair_free(&v);
            steps_close(&s);
            ops_cpu()->kv_destroy(cpu, &kv);
        }
}

static void a_block_is_copied_with_all_its_heads(void **state)
{
    (void)state;
    ops_kv_spec spec = {OPS_KV_Q8, 3, 2, 70, 5};
    gpu_kv kv;
    assert_true(gpu_kv_layout(&spec, &kv));
    size_t bytes = (size_t)(kv.head_bytes * 5 * 6);
    uint8_t *host = malloc(bytes), *got = malloc(bytes);
    uint64_t seed = 3;
    for (size_t i = 0; i < bytes; i++)
        host[i] = (uint8_t)random_bits(&seed);
    for (int order = 0; order_next(order); order++) {
        kv.p = device_copy(host, bytes);
        CUDA_OK(k_kv_copy_block(&kv, 3, 1, stream));
        CUDA_OK(k_kv_copy_block(&kv, 2, 2, stream));
        device_read(got, kv.p, bytes);
        for (size_t i = 0; i < bytes; i++) {
            size_t block = i / (size_t)kv.head_bytes % 5;
            assert_int_equal(got[i], block == 1 ? host[i + 2 * (size_t)kv.head_bytes] : host[i]);
        }
        device_free(kv.p);
    }
    assert_int_equal(k_kv_copy_block(&kv, -1, 0, stream), cudaErrorInvalidValue);
    assert_int_equal(k_kv_copy_block(&kv, 0, 5, stream), cudaErrorInvalidValue);
    free(host);
    free(got);
}

/* A step without rows launches nothing. */
static void nothing_is_nothing(void **state)
{
    (void)state;
    gpu_norm norm = {.x = {NULL, OPS_F32, 4, 64}};
    gpu_gate gate = {.y = {NULL, OPS_F32, 4, 64}};
    gpu_embed embed = {.y = {NULL, OPS_F32, 4, 64}};
    gpu_rope rope = {.dims = 4};
    CUDA_OK(k_norm(NULL, 0, &norm, stream));
    CUDA_OK(k_gate(0, NULL, &gate, stream));
    CUDA_OK(k_embed(NULL, 0, &embed, stream));
    CUDA_OK(k_rope_table(NULL, 0, 0, &rope, stream));
    CUDA_OK(k_sumsq(0, NULL, norm.x, 0, 4, NULL, stream));
    CUDA_OK(k_quantise(0, NULL, norm.x, gate.y, stream));
}

static int open_both(void **state)
{
    (void)state;
    ops_ctx_options o = {.n_threads = 1, .first_core = -1, .isa = "c", .max_rows = MAX_ROWS, .max_cols = MAX_COLS};
    return ops_cpu()->ctx_create(&o, &cpu) == ST_OK ? 0 : -1;
}

extern size_t cuemu_live(void) __attribute__((weak));

static int close_both(void **state)
{
    (void)state;
    ops_cpu()->ctx_destroy(&cpu);
    device_close();
    return cuemu_live == NULL || cuemu_live() == 0 ? 0 : -1; /* nothing of the device is left */
}

int main(void)
{
    if (!device_open()) {
        printf("no device\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rope_tables_are_the_cpu_s),
        cmocka_unit_test(far_positions_keep_their_angle),
        cmocka_unit_test(embedding_of_every_format),
        cmocka_unit_test(norms),
        cmocka_unit_test(norms_of_what_is_no_number),
        cmocka_unit_test(sums_of_squares),
        cmocka_unit_test(gates_write_where_told),
        cmocka_unit_test(activations_are_the_cpu_s),
        cmocka_unit_test(quantises_as_the_cpu),
        cmocka_unit_test(layout_has_the_cpu_s_sizes),
        cmocka_unit_test(heads_are_turned_and_stored),
        cmocka_unit_test(stores_what_does_not_fit_as_the_cpu),
        cmocka_unit_test(a_block_is_copied_with_all_its_heads),
        cmocka_unit_test(nothing_is_nothing),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
