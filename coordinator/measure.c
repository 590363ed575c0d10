/* coordinator/measure.c - how fast this machine is.
 *
 * Everything is timed as a step meets it, a decode step or one that computes prompts, of which a few matrices and layers are enough, since products take the time there.  Weights: matrix after matrix of a working set as large as all that a step reads (at most WORKING_SET), so that
 * between two reads of one as much else has gone through the caches; with one row and with a row for each sequence, the difference telling a row's part from
 * the part paid once.  Keys and values: layer after layer of a cache filled by those sequences, the weights having been read in between.  Last, whole layers
 * are run, since operations that follow one another take longer than each repeated: the sums are scaled to that. */
#include "coordinator/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/numbers.h"
#include "coordinator/measure_internal.h"

static const size_t WORKING_SET = (size_t)512 << 20, KV_BYTES = (size_t)512 << 20;

typedef struct job {
    bench *b;
    packed_type type;
    int32_t rows, count;
    ops_mat input;
    size_t stride;
    packed_shape shape;
} job;

/* Does item i of a job. */
typedef status (*job_fn)(const job *j, int32_t i);

static status run_linear(const job *j, int32_t i);

static status read_weights(const job *all)
{
    status st = ST_OK;
    for (int32_t i = 0; all != NULL && st == ST_OK && i < all->count; i++)
        st = run_linear(all, i);
    return st;
}

/* Seconds of all items of a job, one after the other: the sum of each one's median over the passes.  A step takes what is usual, not what is
 * best; and a moment taken by another process spoils one item of one pass and no more.  `between`: weights to read before each pass, or NULL. */
static status usual_of(bench *b, job_fn fn, const job *j, int passes, const job *between, double *seconds)
{
    status st = ST_OK;
    double *taken; /* [count][passes] */
    TRY(mem_calloc((size_t)j->count * (size_t)passes, sizeof(*taken), "measuring", &taken));
    b->ops->step_begin(b->ctx, false);
    for (int pass = 0; st == ST_OK && pass < passes; pass++) {
        st = read_weights(between);
        if (st == ST_OK)
            st = b->ops->sync(b->ctx);
        double last = log_clock();
        for (int32_t i = 0; st == ST_OK && i < j->count; i++) {
            st = fn(j, i);
            if (st == ST_OK)
                st = b->ops->sync(b->ctx);
            double now = log_clock();
            taken[(size_t)i * (size_t)passes + (size_t)pass] = now - last;
            last = now;
        }
    }
    b->ops->step_end(b->ctx);
    *seconds = 0;
    for (int32_t i = 0; i < j->count; i++)
        *seconds += numbers_median(taken + (size_t)i * (size_t)passes, (size_t)passes);
    free(taken);
    return st;
}

/* One norm over the batch's rows, into the format and width that the job's input has. */
static status run_norm(const job *j, int32_t i)
{
    (void)i;
    bench *b = j->b;
    ops_norm_args n = {.x = b->x, .norm = OPS_NORM_RMS, .eps = 1e-5f, .n_y = 1, .y = {j->input}};
    n.x.cols = j->input.cols;
    return b->ops->norm(b->ctx, b->batch, &n);
}

static status run_linear(const job *j, int32_t i)
{
    bench *b = j->b;
    ops_linear_args l = {.rows = j->rows, .x = j->input, .n = 1, .w = {{b->weights, (size_t)i * j->stride, j->shape}}, .y = {b->y}};
    l.y[0].cols = j->shape.rows;
    return b->ops->linear(b->ctx, &l);
}

static status run_attention(const job *j, int32_t i)
{
    bench *b = j->b;
    ops_attention_args a = {.q = b->x, .n_heads = b->a->n_heads, .head_dim = b->a->head_dim, .heads_per_kv = b->a->n_heads / b->a->n_kv_heads,
                            .scale = 0.1f, .kv = b->kv, .kv_layer = i, .y = b->h};
    a.q.cols = a.y.cols = b->a->n_heads * b->a->head_dim;
    return b->ops->attention(b->ctx, b->batch, &a);
}

/* Rotation and the write into the cache; the products before it are another job's. */
static status run_qkv(const job *j, int32_t i)
{
    bench *b = j->b;
    ops_qkv_args q = {.q = b->x, .k = b->x, .v = b->x, .n_heads = b->a->n_heads, .n_kv_heads = b->a->n_kv_heads, .head_dim = b->a->head_dim,
                      .rope = b->a->n_ropes > 0 ? 0 : -1, .kv = b->kv, .kv_layer = i};
    q.q.cols = b->a->n_heads * b->a->head_dim;
    q.k.cols = q.v.cols = b->a->n_kv_heads * b->a->head_dim;
    return b->ops->qkv(b->ctx, b->batch, &q);
}

static job job_of(bench *b, packed_type type, int32_t rows, int32_t out, int32_t in)
{
    job j = {.b = b, .type = type, .rows = rows, .input = b->h, .shape = {type, out, in, 0}};
    j.input.type = b->ops->linear_input(b->ctx, type);
    j.input.cols = in;
    j.input.stride = ops_row_bytes(j.input.type, in);
    j.stride = mem_align(packed_bytes(j.shape), 64);
    j.count = (int32_t)(b->working_set / j.stride);
    if (b->chunk > 1 && j.count > PROMPT_LAYERS)
        j.count = PROMPT_LAYERS;
    j.count = j.count > 0 ? j.count : 1;
    return j;
}

/* `chunk` rows for each of n sequences, the last of the tokens whose keys and values fill `blocks` blocks. */
static status batch_fill(bench *b, int32_t n, int32_t chunk, int32_t blocks)
{
    int32_t *tokens = NULL, *table = NULL;
    ops_span spans[MAX_SEQS];
    TRY(mem_calloc((size_t)n * (size_t)chunk, sizeof(*tokens), "measuring", &tokens));
    status st = mem_calloc((size_t)n * (size_t)blocks, sizeof(*table), "measuring", &table);
    if (st != ST_OK) {
        free(tokens);
        return st;
    }
    for (int32_t i = 0; i < n * blocks; i++)
        table[i] = i % (b->seqs * b->blocks);
    for (int32_t i = 0; i < n; i++)
        spans[i] = (ops_span){.row = i * chunk, .n_rows = chunk, .position = blocks * OPS_KV_BLOCK - chunk, .table = {i * blocks}};
    ops_batch_desc d = {.n_rows = n * chunk, .tokens = tokens, .n_spans = n, .spans = spans, .tables = {table}, .n_table = {n * blocks}};
    st = b->ops->batch_set(b->ctx, b->batch, &d);
    free(table);
    free(tokens);
    return st;
}

static status measure_weights(bench *b, packed_type type, shard_device *d)
{
    double one, many, overhead;
    job j = job_of(b, type, 1, b->out, b->in);
    double n = (double)j.count * b->out * b->in;
    int passes = b->chunk > 1 ? PROMPT_PASSES : PASSES;
    TRY(batch_fill(b, b->seqs, b->chunk, b->blocks));
    if (b->many != b->seqs * b->chunk)
        TRY(batch_fill(b, b->many, 1, 1));
    TRY(run_norm(&j, 0));
    TRY(usual_of(b, run_linear, &j, passes, NULL, &one));
    j.rows = b->many;
    TRY(usual_of(b, run_linear, &j, passes, NULL, &many));
    job tiny = job_of(b, type, 1, PACKED_ROWS, 32);
    tiny.count = 1;
    TRY(usual_of(b, run_linear, &tiny, SMALL_PASSES, NULL, &overhead));
    overhead = fmin(overhead, 0.9 * one / j.count); /* on a busy machine it may have come out as more than the whole */
    one -= overhead * j.count;
    many -= overhead * j.count;
    double row = (many - one) / (b->many - 1); /* noise may not make either part vanish */
    row = fmin(fmax(row, (b->chunk > 1 ? 1e-4 : 0.02) * one), 0.98 * one); /* of hundreds of rows each may be as good as free beside the first */
    d->macs_per_second[type] = n / row;
    d->weights_per_second[type] = n / fmax(one - row, 0.02 * one);
    double bytes = (double)j.stride * j.count / one, narrow;
    d->bytes_per_second = fmax(d->bytes_per_second, bytes);
    /* A matrix as narrow as k and v are takes longer than its share of a wide one's time. */
    int32_t rows = b->a->n_kv_heads * b->a->head_dim;
    job small = job_of(b, type, 1, rows < b->out ? rows : b->out, b->in);
    TRY(usual_of(b, run_linear, &small, passes, NULL, &narrow));
    double extra = narrow / small.count - overhead - (one / n) * small.shape.rows * (double)b->in;
    d->matrix_seconds = fmin(d->matrix_seconds, fmax(extra, 0)); /* the least of the types: noise only adds */
    return ST_OK;
}

/* Attention of a step of prompts: every row sees what came before its chunk and a part of that. */
static status measure_prompt_attention(bench *b, double linear, shard_device *d)
{
    const shard_arch *a = b->a;
    job j = {.b = b, .count = b->kv_layers < PROMPT_LAYERS ? b->kv_layers : PROMPT_LAYERS};
    double qkv, attention, rows = (double)b->seqs * b->chunk, keys = (double)b->blocks * OPS_KV_BLOCK - (b->chunk - 1) / 2.0;
    TRY(batch_fill(b, b->seqs, b->chunk, b->blocks));
    TRY(usual_of(b, run_qkv, &j, PASSES, NULL, &qkv));
    TRY(usual_of(b, run_attention, &j, PASSES, NULL, &attention));
    d->rotated_per_second = rows * (a->n_heads + 2.0 * a->n_kv_heads) * a->head_dim / fmax(qkv / j.count - linear, 1e-9);
    d->attention_macs_per_second = rows * keys * 2 * a->head_dim * a->n_heads / fmax(attention / j.count - linear, 1e-9);
    d->attention_head_seconds = 0;
    d->bytes_per_second = 1e18; /* in those seconds */
    return ST_OK;
}

static status measure_rest(bench *b, shard_kv_type kv_type, shard_device *d)
{
    double norm, small, linear, attention, start, qkv, layers = b->kv_layers, rows = b->seqs;
    const shard_arch *a = b->a;
    job wide = job_of(b, PACKED_F32, 1, PACKED_ROWS, b->in), tiny = job_of(b, PACKED_F32, 1, PACKED_ROWS, 32), all = wide;
    job between = job_of(b, b->type, 1, b->out, b->in);
    wide.count = tiny.count = 1;
    all.count = b->kv_layers;
    TRY(batch_fill(b, MANY, 1, 1));
    TRY(usual_of(b, run_norm, &wide, SMALL_PASSES, NULL, &norm));
    TRY(batch_fill(b, 1, 1, 1));
    TRY(usual_of(b, run_norm, &tiny, SMALL_PASSES, NULL, &small));
    TRY(usual_of(b, run_linear, &tiny, SMALL_PASSES, NULL, &linear));
    d->elements_per_second = (double)MANY * b->in / fmax(norm - small, norm * 0.1);
    d->phase_seconds = 2.25 * (small + linear); /* four or five operations in a phase */
    if (b->chunk > 1)
        return measure_prompt_attention(b, linear, d);
    TRY(batch_fill(b, b->seqs, 1, 1));
    TRY(usual_of(b, run_attention, &all, PASSES, &between, &start));
    TRY(batch_fill(b, b->seqs, 1, b->blocks));
    TRY(usual_of(b, run_qkv, &all, PASSES, &between, &qkv));
    TRY(usual_of(b, run_attention, &all, PASSES, &between, &attention));
    double heads = a->n_heads + 2.0 * a->n_kv_heads;
    d->rotated_per_second = rows * heads * a->head_dim / fmax(qkv / layers - linear, 1e-9);
    double macs = layers * rows * b->blocks * OPS_KV_BLOCK * 2 * a->head_dim * a->n_heads;
    shard_rank_plan r = {.kv_heads = {0, a->n_kv_heads}};
    double bytes = layers * rows * b->blocks * (double)shard_plan_kv_block_bytes(a, &r, kv_type);
    attention -= layers * linear;
    start -= layers * linear;
    /* What a sequence takes even where it has hardly any keys: of the time with one block that which more of them do not explain. */
    double block = b->blocks > 1 ? fmax(attention - start, 0) / (b->blocks - 1) : 0.5 * attention;
    double fixed = fmin(fmax(attention - block * b->blocks, 0), 0.9 * attention);
    d->attention_head_seconds = fixed / (layers * rows * a->n_heads);
    attention -= fixed;
    double work = attention - bytes / d->bytes_per_second;
    if (work < 0.2 * attention) { /* the cache comes slower than weights, or faster: what counts is the sum */
        work = 0.2 * attention;
        d->bytes_per_second = bytes / (attention - work);
    }
    d->attention_macs_per_second = macs / work;
    return ST_OK;
}

static ops_kv_type kv_type_of(shard_kv_type t)
{
    return t == SHARD_KV_F32 ? OPS_KV_F32 : t == SHARD_KV_F16 ? OPS_KV_F16 : t == SHARD_KV_BF16 ? OPS_KV_BF16 : t == SHARD_KV_F8 ? OPS_KV_F8 : OPS_KV_Q8;
}

/* A cache that the sequences fill, of as many layers as there is room for; else of fewer and shorter sequences. */
static status kv_make(bench *b, shard_kv_type type, int32_t context)
{
    shard_rank_plan r = {.kv_heads = {0, b->a->n_kv_heads}};
    size_t block = shard_plan_kv_block_bytes(b->a, &r, type), most = KV_BYTES / block;
    b->blocks = (context + OPS_KV_BLOCK - 1) / OPS_KV_BLOCK;
    if ((size_t)b->blocks > most)
        b->blocks = most > 1 ? (int32_t)most : 1;
    b->seqs = (size_t)b->seqs * (size_t)b->blocks > most ? (int32_t)(most / (size_t)b->blocks) : b->seqs;
    b->seqs = b->seqs > 1 ? b->seqs : 1;
    size_t layers = most / ((size_t)b->seqs * (size_t)b->blocks);
    b->kv_layers = b->a->n_layers < KV_LAYERS ? b->a->n_layers : KV_LAYERS;
    b->kv_layers = layers < 1 ? 1 : layers < (size_t)b->kv_layers ? (int32_t)layers : b->kv_layers;
    ops_kv_spec spec = {kv_type_of(type), b->kv_layers, b->a->n_kv_heads, b->a->head_dim, (int64_t)b->seqs * b->blocks + 1};
    TRY(b->ops->kv_create(b->ctx, &spec, &b->kv));
    for (int32_t i = 0; i + 1 < spec.n_blocks; i++) /* written once, so that the memory is its own */
        TRY(b->ops->kv_copy_block(b->ctx, b->kv, spec.n_blocks - 1, i));
    return ST_OK;
}

status measure_fill(const bench *b, packed_type type, ops_buf *buf, size_t bytes)
{
    enum { PIECE = 1 << 20 };
    char *piece;
    TRY(mem_calloc(1, PIECE, "measuring", &piece));
    /* f32 and bf16 of 0.01 to 0.05; elsewhere f16, as scales are, of 0.01 to 0.02.  Not all the same: equal logits would all be looked at twice. */
    int base = type == PACKED_F32 || type == PACKED_BF16 || type == PACKED_F8 ? 0x3c : 0x20, most = base == 0x3c ? 1 : 3;
    for (size_t i = 0; i < PIECE; i++)
        piece[i] = (char)(base | (int)(hash_mix(i) & (uint64_t)most));
    status st = ST_OK;
    for (size_t at = 0; st == ST_OK && at < bytes; at += PIECE)
        st = b->ops->buf_write(b->ctx, buf, at, piece, bytes - at < PIECE ? bytes - at : PIECE);
    free(piece);
    return st;
}

static status bench_make(bench *b, const coord_measure_options *o)
{
    int32_t q = b->a->n_heads * b->a->head_dim, widest = q > b->in ? q : b->in;
    widest = b->out > widest ? b->out : widest;
    ops_ctx_options c = {.n_threads = o->n_threads, .first_core = -1, .spin = true, .max_rows = b->max_rows, .max_cols = widest};
    TRY(b->ops->ctx_create(&c, &b->ctx));
    size_t in = ops_row_bytes(OPS_F32, widest) * (size_t)b->max_rows, out = ops_row_bytes(OPS_F32, b->out) * (size_t)b->max_rows;
    TRY(b->ops->buf_create(b->ctx, 2 * in + out, "measuring", &b->rows));
    TRY(measure_fill(b, PACKED_F32, b->rows, 2 * in + out));
    b->x = (ops_mat){b->rows, 0, OPS_F32, widest, ops_row_bytes(OPS_F32, widest)};
    b->h = (ops_mat){b->rows, in, OPS_F32, widest, ops_row_bytes(OPS_F32, widest)};
    b->y = (ops_mat){b->rows, 2 * in, OPS_F32, b->out, ops_row_bytes(OPS_F32, b->out)};
    size_t matrix = mem_align(packed_bytes((packed_shape){PACKED_F32, b->out, b->in, 0}), 64); /* one of the widest type must fit */
    size_t bytes = b->working_set > matrix ? b->working_set : matrix;
    TRY(b->ops->buf_create(b->ctx, bytes, "measuring", &b->weights));
    TRY(measure_fill(b, b->type, b->weights, bytes));
    TRY(kv_make(b, o->kv_type, b->chunk > 1 ? o->context + b->chunk : o->context));
    int32_t blocks = b->seqs * b->blocks;
    ops_batch_limits l = {.max_rows = b->max_rows, .max_spans = MAX_SEQS, .max_out = 1, .max_blocks = blocks > MAX_SEQS ? blocks : MAX_SEQS, .n_kv_groups = 1};
    float freq[SHARD_MAX_ROPE_DIMS / 2] = {0};
    if (b->a->n_ropes > 0) {
        l.n_ropes = 1;
        l.ropes[0] = (ops_rope_spec){b->a->ropes[0].dims, b->a->ropes[0].interleaved, 1, {freq, freq}, {1, 1}};
    }
    return b->ops->batch_create(b->ctx, &l, &b->batch);
}

static void bench_free(bench *b)
{
    if (b->ctx == NULL)
        return;
    if (b->kv != NULL)
        b->ops->kv_destroy(b->ctx, &b->kv);
    if (b->batch != NULL)
        b->ops->batch_destroy(b->ctx, &b->batch);
    if (b->weights != NULL)
        b->ops->buf_destroy(b->ctx, &b->weights);
    if (b->rows != NULL)
        b->ops->buf_destroy(b->ctx, &b->rows);
    b->ops->ctx_destroy(&b->ctx);
}

/* The types of matrices that a step multiplies with. */
static void types_used(const shard_arch *a, const shard_types *types, bool used[PACKED_TYPES])
{
    static const shard_role roles[] = {SHARD_Q, SHARD_K, SHARD_V, SHARD_O, SHARD_GATE, SHARD_UP, SHARD_DOWN, SHARD_HEAD, SHARD_TOKEN_EMBED};
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        for (int32_t l = 0; l < a->n_layers; l++)
            used[shard_plan_type(a, types, roles[i], l)] = true;
    }
}

static status measure(bench *b, const coord_measure_options *o, shard_device *d)
{
    bool used[PACKED_TYPES] = {false};
    TRY(bench_make(b, o));
    types_used(b->a, o->types, used);
    d->bytes_per_second = 0;
    d->matrix_seconds = INFINITY;
    for (int t = 0; t < PACKED_TYPES; t++) {
        if (used[t])
            TRY(measure_weights(b, (packed_type)t, d));
    }
    TRY(measure_rest(b, o->kv_type, d));
    return measure_layers(b, o, d);
}

/* Bytes that a decode step of the whole checkpoint reads. */
static double step_bytes(const coord_measure_options *o)
{
    static const shard_role roles[] = {SHARD_Q, SHARD_K, SHARD_V, SHARD_O, SHARD_GATE, SHARD_UP, SHARD_DOWN};
    const shard_arch *a = o->arch;
    double n = 0, q = (double)a->n_heads * a->head_dim, kv = (double)a->n_kv_heads * a->head_dim, up = a->intermediate;
    const double outs[ARRAY_LEN(roles)] = {q, kv, kv, q, a->mlp == SHARD_MLP_GATED ? up : 0, up, up};
    for (int32_t l = 0; l < a->n_layers; l++) {
        for (size_t i = 0; i < ARRAY_LEN(roles); i++)
            n += outs[i] * (double)packed_bytes((packed_shape){shard_plan_type(a, o->types, roles[i], l), PACKED_ROWS, a->hidden, 0}) / PACKED_ROWS;
    }
    n += a->vocab * (double)packed_bytes((packed_shape){shard_plan_type(a, o->types, SHARD_HEAD, 0), PACKED_ROWS, a->hidden, 0}) / PACKED_ROWS;
    shard_rank_plan r = {.kv_heads = {0, a->n_kv_heads}};
    return n + (double)o->seqs * o->context / SHARD_KV_BLOCK * a->n_layers * (double)shard_plan_kv_block_bytes(a, &r, o->kv_type);
}

status coord_measure_device(const ops_backend *ops, const coord_measure_options *options, shard_device *out)
{
    const shard_arch *a = options->arch;
    bench b = {.ops = ops, .a = a, .out = a->intermediate < MAX_SHAPE ? a->intermediate : MAX_SHAPE, .in = a->hidden < MAX_SHAPE ? a->hidden : MAX_SHAPE,
               .seqs = options->seqs < MAX_SEQS ? options->seqs : MAX_SEQS, .chunk = options->chunk > 1 ? options->chunk : 1,
               .type = shard_plan_type(a, options->types, SHARD_UP, 0)};
    double bytes = step_bytes(options);
    int64_t rows = (int64_t)b.seqs * b.chunk;
    if (rows > MAX_PROMPT_ROWS)
        return FAIL(ST_INVALID, "measuring: a step of %lld tokens is too large; at most %d", (long long)rows, MAX_PROMPT_ROWS);
    b.many = rows > 1 ? (int32_t)rows : MANY;
    b.max_rows = rows > MAX_SEQS ? (int32_t)rows : MAX_SEQS;
    b.working_set = bytes < (double)WORKING_SET ? (size_t)bytes : WORKING_SET;
    *out = *shard_device_find("cpu");
    out->name = "this machine";
    status st = measure(&b, options, out);
    bench_free(&b);
    return st;
}
