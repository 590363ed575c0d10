/* ops/cpu/cpu_vec.h - the kernels that are written once over sixteen lanes (vec.h) and exist once for each instruction set.
 *
 * A kernel works on one row, one head, one piece: which thread runs which is the callers' business (cpu_rows.c, cpu_attention.c,
 * cpu_sample.c).  Nothing here knows of threads, and no result depends on how the work was cut. */
#ifndef OPS_CPU_CPU_VEC_H
#define OPS_CPU_CPU_VEC_H

#include "ops/cpu/cpu_internal.h"
#include "ops/cpu/cpu_kv.h"

#define CPU_SAMPLE_PIECE 4096 /* columns of logits summed apart: piece sums are added in order */
#define CPU_TILE_QUERIES 24   /* (row, head) pairs attended together, so that keys and values are read once for all of them */

typedef struct cpu_norm_job { /* ops_norm_args with addresses; absent vectors NULL */
    int32_t cols;
    ops_parts parts;
    bool replace;
    float residual_scale, eps;
    ops_norm_kind post, norm;
    const float *part_bias, *post_weight, *post_bias, *weight, *bias;
} cpu_norm_job;

typedef struct cpu_head_job { /* what qkv does to one head, in this order; clip 0: none; no norm: OPS_QK_NONE; rope NULL: none */
    int32_t head_dim;
    float clip, eps;
    ops_qk_norm norm;
    int32_t rope_dims;
    bool interleaved;
} cpu_head_job;

/* One tile of queries against one chunk of positions of one KV head. */
typedef struct cpu_attention_tile {
    const cpu_kv_layout *kv;
    float scale, softcap;
    int32_t n;                              /* queries, at most CPU_TILE_QUERIES, ordered by position */
    const float *q;                         /* packed by attention_pack */
    int32_t begin[CPU_TILE_QUERIES], end[CPU_TILE_QUERIES]; /* positions each sees: [begin, end), all queries; both never fall */
    int32_t position[CPU_TILE_QUERIES];
    float slope[CPU_TILE_QUERIES];
    bool slopes;
    int32_t chunk;                          /* first position of the chunk */
    const char *block[OPS_ATTENTION_CHUNK / OPS_KV_BLOCK]; /* this KV head's part of each block; only those that some query sees are read */
    float *scores;                          /* scratch [n][OPS_ATTENTION_CHUNK] */
    float *max, *sum, *out;                 /* [n], [n], [n][padded dim]; a query that sees nothing here gets max -infinity */
} cpu_attention_tile;

typedef struct cpu_top { /* the best of what was offered: a heap whose root is the worst kept */
    int32_t n, limit;
    ops_candidate *heap;
} cpu_top;

struct cpu_vec_kernels {
    /* s = sum of parts, post norm, x += s; y = norm(x).  y NULL: only x.  s: scratch [cols].  row picks the parts' row. */
    void (*norm_row)(const cpu_norm_job *job, int32_t row, float *x, float *s, float *y);
    float (*sumsq)(const float *x, int32_t n);
    void (*to_bf16)(const float *x, int32_t n, uint16_t *y);
    void (*scale_add)(float *x, int32_t n, float scale, const float *add); /* x = x * scale (+ add) */
    void (*gate_row)(ops_activation activation, const float *gate, const float *up, int32_t n, float *y);
    /* y = exp(x - max) / sum of these (lanes rule), y = 1 / (1 + exp(-x)); y may be x.  A NaN does not hide the maximum. */
    void (*softmax)(const float *x, int32_t n, float *y);
    void (*sigmoid)(const float *x, int32_t n, float *y);
    float (*sum)(const float *x, int32_t n);
    void (*add_scaled)(float w, const float *x, int32_t n, float *y); /* y = fma(w, x, y) */
    void (*rope_table)(const float *inv_freq, int32_t n, int32_t position, float factor, float *cosine, float *sine);
    /* in and out may be the same; weight NULL = 1; inverse: the reciprocal root mean square of OPS_QK_FULL_RMS */
    void (*head)(const cpu_head_job *job, const float *in, float *out, const float *weight, float inverse, const float *cosine, const float *sine);
    /* Stores a token's key and value into its slot of a KV head's block. */
    void (*kv_put)(const cpu_kv_layout *kv, char *block, int32_t slot, const float *k, const float *v);

    void (*attention_pack)(const float *const *q, int32_t n, int32_t head_dim, float *packed);
    void (*attention_chunk)(const cpu_attention_tile *tile);
    /* (m, l, o) takes in a later chunk's; a chunk with max -infinity changes nothing. */
    void (*attention_merge)(float *m, float *l, float *o, float chunk_m, float chunk_l, const float *chunk_o, int32_t dim);
    /* y = o / l, a sink having joined; y [dim] */
    void (*attention_finish)(float m, float l, const float *o, const float *sink, int32_t dim, float *y);

    /* l = softcap(l * multiplier) in place; returns the maximum (-infinity when n is 0). */
    float (*logits_raw)(float *l, int32_t n, float multiplier, float softcap);
    /* l = allowed ? l / temperature : -infinity (temperature 0 or 1: no division); bit `first` of allow is l[0]'s; returns the maximum. */
    float (*logits_adjust)(float *l, int32_t n, const uint32_t *allow, int32_t first, float temperature);
    float (*sum_exp)(const float *l, int32_t n, float max);
    /* Best of l + noise (no noise: seed unused), better than *best or equal with a lower token; tokens first, first + 1 ... */
    void (*best)(const float *l, int32_t n, int32_t first, bool noise, uint64_t seed, uint32_t choice, int32_t position, ops_candidate *best);
    void (*top)(const float *l, int32_t n, int32_t first, cpu_top *top);
};

extern const cpu_vec_kernels cpu_vec_c, cpu_vec_avx2, cpu_vec_avx512;

/* cpu_sample.c: offers one candidate to the heap (used by the kernels for those that pass the bar). */
void cpu_top_offer(cpu_top *top, int32_t token, float logit);
/* By logit descending, then token ascending. */
void cpu_top_sort(cpu_top *top);

/* cpu_isa.c */
bool cpu_isa_parse(const char *name, cpu_isa *out);
const char *cpu_isa_name(cpu_isa isa);
/* NULL if this machine can run the level, else what it lacks ("AVX512-VNNI"). */
const char *cpu_isa_lacks(cpu_isa isa);
cpu_isa cpu_isa_best(void);

/* cpu_batch.c */
struct ops_batch {
    ops_batch_limits limits;
    int32_t n_rows, n_spans, n_out;
    int32_t *tokens, *position, *span_of, *out_rows; /* [max_rows], [max_rows], [max_rows], [max_out] */
    ops_span *spans;
    int32_t *tables[OPS_MAX_KV_GROUPS], n_table[OPS_MAX_KV_GROUPS];
    float *cosine[OPS_MAX_ROPES], *sine[OPS_MAX_ROPES]; /* [max_rows][dims / 2] */
    void *memory; /* all of the above, and what limits.ropes[].inv_freq point to */
    size_t memory_bytes;
};
status cpu_batch_create(ops_ctx *ctx, const ops_batch_limits *limits, ops_batch **out);
void cpu_batch_destroy(ops_ctx *ctx, ops_batch **batch);
status cpu_batch_set(ops_ctx *ctx, ops_batch *batch, const ops_batch_desc *desc);

/* cpu_rows.c, cpu_attention.c, cpu_moe.c, cpu_sample.c: the table's operations */
status cpu_embed(ops_ctx *ctx, const ops_batch *batch, const ops_embed_args *args);
status cpu_norm(ops_ctx *ctx, const ops_batch *batch, const ops_norm_args *args);
status cpu_sumsq(ops_ctx *ctx, const ops_sumsq_args *args);
status cpu_qkv(ops_ctx *ctx, const ops_batch *batch, const ops_qkv_args *args);
status cpu_gate(ops_ctx *ctx, const ops_gate_args *args);
status cpu_attention(ops_ctx *ctx, const ops_batch *batch, const ops_attention_args *args);
size_t cpu_attention_scratch_floats(int32_t head_dim); /* of one thread */
status cpu_routing_create(ops_ctx *ctx, const ops_routing_spec *spec, ops_routing **out);
void cpu_routing_destroy(ops_ctx *ctx, ops_routing **routing);
status cpu_route(ops_ctx *ctx, const ops_route_args *args);
status cpu_dispatch(ops_ctx *ctx, const ops_dispatch_args *args);
status cpu_combine(ops_ctx *ctx, const ops_combine_args *args);
size_t cpu_sample_scratch_bytes(void); /* of one thread */
status cpu_sample(ops_ctx *ctx, const ops_sample_args *args);

/* cpu_rows.c: runs fn over [0, n) items, each about `weight` vector operations of 16 lanes: on the calling thread alone when all of it
 * costs less than waking the others. */
typedef void (*cpu_items_fn)(ops_ctx *ctx, const void *arg, size_t begin, size_t end, int thread);
void cpu_for(ops_ctx *ctx, size_t n, size_t unit, size_t weight, cpu_items_fn fn, const void *arg);
/* Writes an f32 row as y's type into columns [col, col + n), zeros in the rest of the row; wide: scratch [y->cols rounded up to 64]. */
void cpu_put_row(const ops_ctx *ctx, const ops_mat *y, int32_t row, const float *src, int32_t col, int32_t n, float *wide);
static inline float *cpu_scratch(const ops_ctx *ctx, int thread)
{
    return (float *)(void *)(ctx->thread_scratch + (size_t)thread * ctx->thread_scratch_bytes);
}
static inline const float *cpu_vec_at(const ops_vec *v)
{
    return v->buf == NULL ? NULL : (const float *)(const void *)(v->buf->data + v->offset);
}
/* Whether the matrix lies inside its buffer and has the type and at least these columns. */
status cpu_mat_check(const char *op, const char *name, const ops_mat *m, int32_t rows, int32_t cols);

#endif
