/* ops/cpu/linear.c - y = x w^T for up to four weights that share x, and the same for the rows of each expert: checks, conversion of x, and who computes what.
 *
 * One parallel region a call.  A weight is a run of panels of 16 outputs; the panels of all weights are laid end to end and every thread takes
 * one contiguous share, even in bytes (one row: memory decides) or in panels (many rows: arithmetic decides).  With too few panels for the
 * threads, rows are split as well.  Inside a share with many rows: rows in tiles that stay in L2 (of floats a block of k of them), for each
 * panel its k in blocks that are unpacked once and stay in L1, for each block all rows of the tile.  None of this touches the order of any sum (cpu_linear.h). */
#include <string.h>

#include "base/half.h"
#include "ops/check.h"
#include "ops/cpu/cpu_linear.h"

#define ROW_TILE 256               /* most rows of a tile: the accumulators of one panel */
#define TILE_X_BYTES (1024 * 1024)  /* of x in a tile of rows: part of L2 */
#define FLOAT_BLOCK 256            /* k of a float panel between spills of the accumulators */
#define FLOAT_PANELS 2             /* float panels that take turns: a block of k of the rows' x is read from L2 by the second, instead of all k from L3 by each */
#define EXPAND_ROWS 12             /* from so many rows on, a block of half floats is expanded once for all of them */
#define ONE_PANELS 8               /* panels of a call of a one-row kernel */
#define ROWS_WORTH_SPLITTING 32
#define MEMORY_ROWS 8              /* up to so many rows reading the weights decides: shares are even in bytes */

typedef struct linear_scratch {
    cpu_tile tile[2];
    cpu_acc acc[2 * ROW_TILE]; /* of one panel or two */
} linear_scratch;

typedef struct weight_job {
    packed_layout layout;
    const char *data;
    ops_type x_type;
    size_t cost; /* of a panel */
    int64_t first; /* panels of the weights before this one */
} weight_job;

typedef struct linear_job {
    ops_ctx *ctx;
    const ops_linear_args *args;
    weight_job w[OPS_MAX_FUSED];
    const void *x[3]; /* by ops_type: x in that format, or NULL */
    size_t x_stride[3];
    bool convert[3];  /* still to be made from f32, inside the region */
    int32_t row_splits;
} linear_job;

ops_type cpu_linear_input(const ops_ctx *ctx, packed_type type)
{
    if (packed_format_of(type)->integer)
        return OPS_Q8;
    return type == PACKED_BF16 && ctx->linear->bf16 != NULL ? OPS_BF16 : OPS_F32;
}

size_t cpu_linear_scratch_bytes(int32_t max_rows, int32_t max_cols)
{
    (void)max_rows;
    (void)max_cols;
    return (sizeof(linear_scratch) + 63) / 64 * 64;
}

void cpu_quantise_row(const ops_ctx *ctx, const float *x, int32_t cols, void *row)
{
    ctx->linear->quantise(x, cols, row);
}

const cpu_linear_kernels *cpu_linear_kernels_of(cpu_isa isa)
{
    switch (isa) {
    case CPU_ISA_C:
        return &cpu_linear_c;
#ifdef CPU_X86
    case CPU_ISA_AVX2:
        return &cpu_linear_avx2;
    case CPU_ISA_AVX512:
        return &cpu_linear_avx512;
    case CPU_ISA_AVX512BF16:
        return &cpu_linear_avx512bf16;
    case CPU_ISA_AMX:
        return &cpu_linear_amx;
#endif
    default:
        return NULL;
    }
}

/* ---- x in the formats that the weights want ---- */

static void convert_row(const ops_ctx *ctx, ops_type to, const float *x, int32_t cols, void *out)
{
    if (to == OPS_Q8) {
        ctx->linear->quantise(x, cols, out);
        return;
    }
    uint16_t *h = out;
    for (int32_t k = 0; k < cols; k++)
        h[k] = half_f32_to_bf16(x[k]);
}

static void convert_rows(const linear_job *j, ops_type to, int32_t begin, int32_t end)
{
    const ops_mat *x = &j->args->x;
    for (int32_t r = begin; r < end; r++)
        convert_row(j->ctx, to, cpu_row(x, r), x->cols, (char *)(uintptr_t)j->x[to] + (size_t)r * j->x_stride[to]);
}

/* A short conversion is done by the caller before the region; a long one by all threads at its start. */
static status prepare_x(linear_job *j)
{
    const ops_linear_args *a = j->args;
    const ops_mat *x = &a->x;
    ops_ctx *ctx = j->ctx;
    j->x[x->type] = cpu_row(x, 0);
    j->x_stride[x->type] = x->stride;
    for (int i = 0; i < a->n; i++) {
        ops_type want = j->w[i].x_type;
        if (j->x[want] != NULL)
            continue;
        if (x->type != OPS_F32)
            return FAIL(ST_INVALID, "linear: %s weights cannot take this format of x", j->w[i].layout.format->name);
        if (a->rows > ctx->max_rows || x->cols > ctx->max_cols)
            return FAIL(ST_INVALID, "linear: x [%d, %d] is larger than the context's [%d, %d]", a->rows, x->cols, ctx->max_rows, ctx->max_cols);
        size_t q8 = (size_t)ctx->max_rows * cpu_q8_row_bytes(ctx->max_cols);
        j->x[want] = ctx->quantise_scratch + (want == OPS_Q8 ? 0 : q8);
        j->x_stride[want] = ops_row_bytes(want, x->cols);
        j->convert[want] = true;
        if ((int64_t)a->rows * x->cols <= 8192) {
            convert_rows(j, want, 0, a->rows);
            j->convert[want] = false;
        }
    }
    return ST_OK;
}

/* ---- one share ---- */

typedef struct piece { /* panels [p0, p1) of one weight for rows [r0, r1) */
    int weight;
    int32_t p0, p1, r0, r1;
} piece;

/* A panel's sums of n rows, `width` of them, with their bias (NULL: none), to `out` or added to what is there. */
static inline __attribute__((always_inline)) void finish_rows(const cpu_acc *acc, const float *bias, bool accumulate, int32_t width, int32_t n, char *out, size_t stride)
{
    for (int32_t r = 0; r < n; r++, out += stride) {
        float *y = (float *)(void *)out;
        for (int32_t o = 0; o < width; o++) {
            float v = bias != NULL ? acc[r][o] + bias[o] : acc[r][o];
            y[o] = accumulate ? y[o] + v : v;
        }
    }
}

/* A panel's accumulators become rows [row, row + n) of y. */
static void finish(const linear_job *j, const piece *pc, int32_t panel, int32_t row, int32_t n, const cpu_acc *acc)
{
    const ops_mat *y = &j->args->y[pc->weight];
    const ops_vec *bias = &j->args->bias[pc->weight];
    int32_t col = panel * PACKED_ROWS, outputs = j->w[pc->weight].layout.shape.rows - col;
    int32_t width = outputs < PACKED_ROWS ? outputs : PACKED_ROWS;
    char *out = (char *)cpu_row(y, row) + (size_t)col * sizeof(float);
    const float *b = bias->buf != NULL ? (const float *)(const void *)(bias->buf->data + bias->offset) + col : NULL;
    if (width < PACKED_ROWS || b != NULL)
        finish_rows(acc, b, j->args->accumulate, width, n, out, y->stride);
    else if (j->args->accumulate)
        finish_rows(acc, NULL, true, PACKED_ROWS, n, out, y->stride);
    else
        finish_rows(acc, NULL, false, PACKED_ROWS, n, out, y->stride);
}

static const void *x_row(const linear_job *j, ops_type type, int32_t row)
{
    return (const char *)j->x[type] + (size_t)row * j->x_stride[type];
}

static void piece_one_row(const linear_job *j, const piece *pc, linear_scratch *s)
{
    const weight_job *w = &j->w[pc->weight];
    const cpu_linear_kernels *k = j->ctx->linear;
    packed_type type = w->layout.shape.type;
    cpu_q8_view view = cpu_q8_view_of(x_row(j, w->x_type, pc->r0), 0, w->layout.shape.cols);
    for (int32_t p = pc->p0; p < pc->p1; p += ONE_PANELS) {
        int32_t n = pc->p1 - p < ONE_PANELS ? pc->p1 - p : ONE_PANELS;
        const char *panel = w->data + (size_t)p * w->layout.panel_bytes;
        if (w->x_type == OPS_Q8)
            k->one[type](&w->layout, panel, n, &view, s->acc);
        else
            k->floats_one[type](&w->layout, panel, n, x_row(j, OPS_F32, pc->r0), s->acc);
        for (int32_t i = 0; i < n; i++)
            finish(j, pc, p + i, pc->r0, 1, &s->acc[i]);
    }
}

/* k in blocks, so that a block of a panel stays in L1 for all rows, and the rows' in L2 for all panels. */
static void float_panels_rows(const linear_job *j, const packed_layout *l, const char *panel, int32_t n_panels, int32_t row, int32_t n, linear_scratch *s)
{
    const cpu_linear_kernels *k = j->ctx->linear;
    packed_type type = l->shape.type;
    const float *x = x_row(j, OPS_F32, row);
    float *block = (float *)(void *)s->tile;
    _Static_assert(sizeof(s->tile) >= FLOAT_BLOCK * PACKED_ROWS * sizeof(float), "a block fits where codes are unpacked");
    for (int32_t k0 = 0; k0 < l->shape.cols; k0 += FLOAT_BLOCK) {
        int32_t k1 = l->shape.cols - k0 < FLOAT_BLOCK ? l->shape.cols : k0 + FLOAT_BLOCK;
        for (int32_t p = 0; p < n_panels; p++) {
            const char *at = panel + (size_t)p * l->panel_bytes;
            if (k->expand[type] != NULL && (n >= EXPAND_ROWS || k->floats[type] == NULL)) {
                k->expand[type](l, at, k0, k1, block);
                k->floats[PACKED_F32](l, (const char *)block, 0, k1 - k0, x + k0, j->x_stride[OPS_F32], n, s->acc + p * n);
            } else {
                k->floats[type](l, at, k0, k1, x, j->x_stride[OPS_F32], n, s->acc + p * n);
            }
        }
    }
}

static void finish_all(const linear_job *j, const piece *pc, int32_t first, int32_t n_panels, int32_t row, int32_t n, const cpu_acc *acc)
{
    for (int32_t p = 0; p < n_panels; p++)
        finish(j, pc, first + p, row, n, acc + p * n);
}

/* Units in blocks, so that a block of the panels, unpacked, stays in L1 for all rows.  The last block's sums go straight to y where nothing is left to do to them. */
static void integer_panels_rows(const linear_job *j, const piece *pc, int32_t first, int32_t n_panels, int32_t row, int32_t n, linear_scratch *s)
{
    const cpu_linear_kernels *k = j->ctx->linear;
    const weight_job *w = &j->w[pc->weight];
    const ops_mat *y = &j->args->y[pc->weight];
    const packed_layout *l = &w->layout;
    packed_type type = l->shape.type;
    const char *panel = w->data + (size_t)first * l->panel_bytes;
    cpu_q8_view view = cpu_q8_view_of(j->x[OPS_Q8], j->x_stride[OPS_Q8], l->shape.cols);
    if (n > 1 && n <= k->few_rows) {
        k->few[type](l, panel, &view, row, n, s->acc);
        finish(j, pc, first, row, n, s->acc);
        return;
    }
    bool direct = !j->args->accumulate && j->args->bias[pc->weight].buf == NULL && (first + n_panels) * PACKED_ROWS <= l->shape.rows;
    int32_t blocks = (l->units + CPU_TILE_UNITS - 1) / CPU_TILE_UNITS, each = (l->units + blocks - 1) / blocks;
    for (int32_t u = 0; u < l->units; u += each) {
        int32_t units = l->units - u < each ? l->units - u : each;
        bool last = u + units == l->units;
        cpu_ahead ahead[2];
        for (int32_t p = 0; p < n_panels; p++) {
            const char *at = panel + (size_t)p * l->panel_bytes, *next = at + (size_t)n_panels * l->panel_bytes;
            k->unpack[type](l, at, u, units, &s->tile[p]);
            ahead[p] = cpu_ahead_block(l, last ? next : at + (size_t)(u + units) * l->unit_bytes, next, u, units);
            ahead[p].out = last ? (const char *)cpu_row(y, row) + (size_t)(first + p) * sizeof(cpu_acc) : NULL;
            ahead[p].out_stride = y->stride;
            ahead[p].direct = last && direct;
        }
        k->many[type](l, s->tile, n_panels, u, units, ahead, &view, row, n, s->acc);
    }
    if (!direct)
        finish_all(j, pc, first, n_panels, row, n, s->acc);
}

/* All k of one panel or two, from panel `first` on, for n rows of x from `row` on, as rows of y. */
static void panels_rows(const linear_job *j, const piece *pc, int32_t first, int32_t n_panels, int32_t row, int32_t n, linear_scratch *s)
{
    const weight_job *w = &j->w[pc->weight];
    const char *panel = w->data + (size_t)first * w->layout.panel_bytes;
    if (w->x_type == OPS_Q8) {
        integer_panels_rows(j, pc, first, n_panels, row, n, s);
        return;
    }
    if (w->x_type == OPS_BF16) {
        j->ctx->linear->bf16(&w->layout, panel, n_panels, x_row(j, OPS_BF16, row), j->x_stride[OPS_BF16], n, s->acc);
    } else {
        memset(s->acc, 0, (size_t)(n_panels * n) * sizeof(*s->acc));
        float_panels_rows(j, &w->layout, panel, n_panels, row, n, s);
    }
    finish_all(j, pc, first, n_panels, row, n, s->acc);
}

/* How many panels the kernel for n rows takes at once. */
static int32_t panels_at_once(const cpu_linear_kernels *k, ops_type x_type, int32_t n)
{
    if (x_type == OPS_F32)
        return n >= ROWS_WORTH_SPLITTING ? FLOAT_PANELS : 1;
    return x_type == OPS_BF16 ? 2 : n > 1 && n <= k->few_rows ? 1 : k->many_panels;
}

static void piece_many_rows(const linear_job *j, const piece *pc, linear_scratch *s)
{
    const weight_job *w = &j->w[pc->weight];
    size_t row_bytes = (size_t)w->layout.shape.cols * (w->x_type == OPS_BF16 ? 2 : 1);
    size_t fit = TILE_X_BYTES / row_bytes / 16 * 16;
    int32_t tile = w->x_type == OPS_F32 ? ROW_TILE : fit < 32 ? 32 : fit > ROW_TILE ? ROW_TILE : (int32_t)fit;
    for (int32_t r = pc->r0; r < pc->r1; r += tile) {
        int32_t n = pc->r1 - r < tile ? pc->r1 - r : tile, at_once = panels_at_once(j->ctx->linear, w->x_type, n);
        for (int32_t p = pc->p0, m; p < pc->p1; p += m) {
            m = pc->p1 - p < at_once ? pc->p1 - p : at_once;
            panels_rows(j, pc, p, m, r, n, s);
        }
    }
}

/* The panels [begin, end) of all weights end to end, for rows [r0, r1). */
static void run_panels(const linear_job *j, int64_t begin, int64_t end, int32_t r0, int32_t r1, linear_scratch *s)
{
    for (int i = 0; i < j->args->n; i++) {
        int64_t first = j->w[i].first, last = first + j->w[i].layout.panels;
        int64_t b = begin > first ? begin : first, e = end < last ? end : last;
        if (b >= e || r0 >= r1)
            continue;
        piece pc = {i, (int32_t)(b - first), (int32_t)(e - first), r0, r1};
        packed_type type = j->w[i].layout.shape.type;
        if (r1 - r0 == 1 && (j->w[i].x_type == OPS_Q8 || (j->w[i].x_type == OPS_F32 && j->ctx->linear->floats_one[type] != NULL)))
            piece_one_row(j, &pc, s);
        else
            piece_many_rows(j, &pc, s);
    }
}

/* The first panel of thread t's share: the one nearest to t / n of the total cost. */
static int64_t share_begin(const linear_job *j, int t, int n)
{
    size_t total = 0, before = 0;
    for (int i = 0; i < j->args->n; i++)
        total += j->w[i].cost * (size_t)j->w[i].layout.panels;
    size_t want = total / (size_t)n * (size_t)t + total % (size_t)n * (size_t)t / (size_t)n;
    for (int i = 0; i < j->args->n; i++) {
        size_t cost = j->w[i].cost, all = cost * (size_t)j->w[i].layout.panels;
        if (want < before + all)
            return j->w[i].first + (int64_t)((want - before + cost / 2) / cost);
        before += all;
    }
    return j->w[j->args->n - 1].first + j->w[j->args->n - 1].layout.panels;
}

static void run_thread(void *arg, int thread, int n_threads)
{
    const linear_job *j = arg;
    linear_scratch *s = (linear_scratch *)(void *)(j->ctx->thread_scratch + (size_t)thread * j->ctx->thread_scratch_bytes);
    int32_t rows = j->args->rows;
    for (int t = 0; t < 3; t++) {
        if (!j->convert[t])
            continue;
        size_t b, e;
        threads_share((size_t)rows, 1, thread, n_threads, &b, &e);
        convert_rows(j, (ops_type)t, (int32_t)b, (int32_t)e);
    }
    if (j->convert[OPS_Q8] || j->convert[OPS_BF16])
        threads_barrier(j->ctx->pool);
    if (j->row_splits == 1) {
        run_panels(j, share_begin(j, thread, n_threads), share_begin(j, thread + 1, n_threads), 0, rows, s);
        return;
    }
    /* Pieces of (row split, panel), split by split, so that a share is at most a few runs of panels. */
    int64_t panels = j->w[j->args->n - 1].first + j->w[j->args->n - 1].layout.panels;
    size_t at, end;
    threads_share((size_t)(panels * j->row_splits), 1, thread, n_threads, &at, &end);
    while (at < end) {
        int32_t split = (int32_t)((int64_t)at / panels);
        int64_t p0 = (int64_t)at % panels, left = (int64_t)(end - at);
        int64_t p1 = p0 + left < panels ? p0 + left : panels;
        size_t r0, r1;
        threads_share((size_t)rows, 16, split, j->row_splits, &r0, &r1);
        run_panels(j, p0, p1, (int32_t)r0, (int32_t)r1, s);
        at += (size_t)(p1 - p0);
    }
}

static status check_weight(const ops_linear_args *a, int i, weight_job *w)
{
    const ops_weight *from = &a->w[i];
    const ops_mat *y = &a->y[i];
    if (!packed_layout_of(from->shape, &w->layout))
        return FAIL(ST_INVALID, "linear: weight %d has an impossible shape [%d, %d]", i, from->shape.rows, from->shape.cols);
    if (from->shape.cols != a->x.cols || y->type != OPS_F32 || y->cols < from->shape.rows)
        return FAIL(ST_INVALID, "linear: weight %d [%d, %d] does not fit x of %d columns and y of %d", i, from->shape.rows, from->shape.cols, a->x.cols, y->cols);
    if (from->offset > from->buf->bytes || w->layout.bytes > from->buf->bytes - from->offset)
        return FAIL(ST_INVALID, "linear: weight %d of %zu bytes exceeds its buffer", i, w->layout.bytes);
    w->data = from->buf->data + from->offset;
    return ST_OK;
}

status cpu_linear(ops_ctx *ctx, const ops_linear_args *args)
{
    linear_job j = {.ctx = ctx, .args = args, .row_splits = 1};
    int64_t panels = 0;
    if (args->rows <= 0 || args->n <= 0)
        return ST_OK;
    if (args->n > OPS_MAX_FUSED)
        return FAIL(ST_INVALID, "linear: %d weights in one call, at most %d", args->n, OPS_MAX_FUSED);
    for (int i = 0; i < args->n; i++) {
        TRY(check_weight(args, i, &j.w[i]));
        j.w[i].x_type = cpu_linear_input(ctx, args->w[i].shape.type);
        j.w[i].cost = args->rows <= MEMORY_ROWS ? j.w[i].layout.panel_bytes : 1;
        j.w[i].first = panels;
        panels += j.w[i].layout.panels;
    }
    TRY(prepare_x(&j));
    int64_t most = args->rows / ROWS_WORTH_SPLITTING;
    while (ctx->n_threads > 1 && panels * j.row_splits < 8 * (int64_t)ctx->n_threads && j.row_splits * 2 <= most)
        j.row_splits *= 2;
    threads_run(ctx->pool, run_thread, &j);
    return ST_OK;
}

/* ---- experts ----
 *
 * Work is a list of tiles, an expert's rows some at a time, each with the panels of all weights; every thread takes one contiguous share of it, even in cost.  A tile then
 * runs as a linear of its own: the same kernels on the same rows, so the same bits.  Rows that do not follow one another are gathered first, by each thread for
 * its own tiles: a tile is small, and costs a fraction of what its panels do. */

#define PANEL_COST 4 /* rows that take as long as reading a panel from memory */

typedef struct experts_job {
    ops_ctx *ctx;
    const ops_experts_args *args;
    weight_job w[OPS_MAX_FUSED]; /* of the first expert */
    int64_t panels;              /* of all weights */
    int32_t tile;                /* rows of one, at most */
    int64_t cost;                /* of all tiles */
} experts_job;

/* The rows of a tile: where they lie, or else gathered into the thread's scratch. */
static const void *tile_rows(const experts_job *ej, int32_t position, int32_t n, int thread, size_t *stride)
{
    const ops_experts_args *a = ej->args;
    const ops_routing *r = a->routing;
    *stride = a->x.stride;
    if (!a->x_by_row || n == 1)
        return cpu_row(&a->x, a->x_by_row ? r->order[position] / r->spec.top_k : position);
    size_t bytes = ops_row_bytes(a->x.type, a->x.cols);
    char *to = r->scratch + (size_t)thread * CPU_ROUTING_SCRATCH;
    for (int32_t i = 0; i < n; i++)
        memcpy(to + (size_t)i * bytes, cpu_row(&a->x, r->order[position + i] / r->spec.top_k), bytes);
    *stride = bytes;
    return to;
}

static void run_tile(const experts_job *ej, int32_t expert, int32_t position, int32_t n, int64_t begin, int64_t end, int thread)
{
    const ops_experts_args *from = ej->args;
    ops_linear_args a = {.rows = n, .x = from->x, .n = from->n};
    linear_job j = {.ctx = ej->ctx, .args = &a, .row_splits = 1};
    j.x[from->x.type] = tile_rows(ej, position, n, thread, &j.x_stride[from->x.type]);
    for (int i = 0; i < from->n; i++) {
        j.w[i] = ej->w[i];
        j.w[i].data += (size_t)expert * from->w[i].stride;
        a.bias[i] = from->w[i].bias;
        a.bias[i].offset += (size_t)expert * (size_t)from->w[i].first.shape.rows * sizeof(float);
        a.y[i] = from->y[i];
        a.y[i].offset += (size_t)position * from->y[i].stride;
    }
    run_panels(&j, begin, end, 0, n, (linear_scratch *)(void *)(ej->ctx->thread_scratch + (size_t)thread * ej->ctx->thread_scratch_bytes));
}

static int64_t panel_cost(int32_t rows)
{
    return PANEL_COST + rows;
}

/* Rows of the tile that begins at a position of an expert whose rows end at `end`. */
static int32_t tile_at(const experts_job *ej, int32_t position, int32_t end)
{
    return end - position < ej->tile ? end - position : ej->tile;
}

static int64_t experts_cost(const experts_job *ej)
{
    const ops_routing *r = ej->args->routing;
    int64_t cost = 0;
    for (int32_t e = 0; e < r->spec.n_local; e++)
        for (int32_t p = r->offset[e]; p < r->offset[e + 1]; p += ej->tile)
            cost += panel_cost(tile_at(ej, p, r->offset[e + 1])) * ej->panels;
    return cost;
}

/* The first of a tile's panels that lies behind `want` of the cost; neighbours in the list of threads meet there. */
static int64_t panel_behind(const experts_job *ej, int64_t want, int64_t before, int64_t each)
{
    int64_t p = want <= before ? 0 : (want - before + each / 2) / each;
    return p < ej->panels ? p : ej->panels;
}

static void experts_thread(void *arg, int thread, int n_threads)
{
    const experts_job *ej = arg;
    const ops_routing *r = ej->args->routing;
    int64_t before = 0, begin = ej->cost * thread / n_threads, end = ej->cost * (thread + 1) / n_threads;
    for (int32_t e = 0; e < r->spec.n_local && before < end; e++)
        for (int32_t p = r->offset[e]; p < r->offset[e + 1]; p += ej->tile) {
            int32_t n = tile_at(ej, p, r->offset[e + 1]);
            int64_t each = panel_cost(n), p0 = panel_behind(ej, begin, before, each), p1 = panel_behind(ej, end, before, each);
            if (p0 < p1)
                run_tile(ej, e, p, n, p0, p1, thread);
            before += each * ej->panels;
        }
}

status cpu_experts(ops_ctx *ctx, const ops_experts_args *args)
{
    const ops_routing *r = args->routing;
    int32_t pairs = r->rows * r->spec.top_k;
    experts_job j = {.ctx = ctx, .args = args};
    if (args->n < 0 || args->n > OPS_MAX_FUSED)
        return FAIL(ST_INVALID, "experts: %d weights in one call, at most %d", args->n, OPS_MAX_FUSED);
    TRY(ops_mat_check("experts", "x", &args->x, args->x.buf != NULL ? args->x.buf->bytes : 0, args->x_by_row ? r->rows : pairs, args->x.cols));
    for (int i = 0; i < args->n; i++) {
        const ops_expert_weights *w = &args->w[i];
        TRY(ops_experts_check(&r->spec, args, i, w->first.buf != NULL ? w->first.buf->bytes : 0, w->bias.buf != NULL ? w->bias.buf->bytes : 0, &j.w[i].layout));
        TRY(ops_mat_check("experts", "y", &args->y[i], args->y[i].buf != NULL ? args->y[i].buf->bytes : 0, pairs, w->first.shape.rows));
        if (cpu_linear_input(ctx, w->first.shape.type) != args->x.type)
            return FAIL(ST_INVALID, "experts: %s weights cannot take this format of x", j.w[i].layout.format->name);
        j.w[i].data = w->first.buf->data + w->first.offset;
        j.w[i].x_type = args->x.type;
        j.w[i].first = j.panels;
        j.panels += j.w[i].layout.panels;
    }
    size_t fit = CPU_ROUTING_SCRATCH / ops_row_bytes(args->x.type, args->x.cols > 0 ? args->x.cols : 1);
    j.tile = !args->x_by_row || fit > ROW_TILE ? ROW_TILE : fit < 1 ? 1 : (int32_t)fit;
    j.cost = experts_cost(&j);
    if (j.cost > 0)
        threads_run(ctx->pool, experts_thread, &j);
    return ST_OK;
}
