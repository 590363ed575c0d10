/* ops/ops.h - the arithmetic a transformer needs: one table of operations per backend.
 *
 * A caller picks a table once, at start-up, and never asks again which one it got.  Knows nothing of ranks,
 * files or families.  All matrices are row-major [rows, cols] in buffers a backend owns; a row is one token of
 * the step.  Operations are queued on the context's stream and may return before they ran (the CPU runs them at
 * once); buf_read and sync wait.
 *
 * Same answer whatever the company: no result may depend, in any bit, on the number of rows of a call, on what
 * other rows hold, on the number of threads, or on the instruction set (f32 and integer formats).  Hence: sums
 * along k run in one fixed order (f32: k = 0, 1, 2 ... by fused multiply-add; integer formats: exact dot inside
 * a group, then the scaled group sums in order by fused multiply-add); reductions along a row use 16 virtual
 * lanes (element i goes to lane i mod 16) and one tree (8, 4, 2, 1); exp, tanh, erf, sin, cos are own code. */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/packed.h"
#include "base/status.h"

#define OPS_MAX_FUSED 4     /* weights of one linear call */
#define OPS_MAX_KV_GROUPS 8
#define OPS_MAX_ROPES 4
#define OPS_KV_BLOCK 16     /* tokens in a KV block */
#define OPS_ATTENTION_CHUNK 256 /* absolute positions [0,256) [256,512) ... are attended apart and merged in order */
#define OPS_MAX_CANDIDATES 256
#define OPS_MAX_EXPERTS 4096 /* of one layer */
#define OPS_MAX_CHOSEN 32    /* experts of one row */
#define OPS_TIMES 16 /* what a device's time may be told apart by */

typedef struct ops_ctx ops_ctx;     /* opaque: device, stream, threads, scratch */
typedef struct ops_buf ops_buf;     /* opaque: memory a backend owns */
typedef struct ops_batch ops_batch; /* opaque: one step's description on the device */
typedef struct ops_kv ops_kv;       /* opaque: paged KV cache of one KV group; the backend owns its block layout */
typedef struct ops_routing ops_routing; /* opaque: which rows go to which experts, on the device */

/* Activation formats.  OPS_Q8: int8 in groups of 32 with an f32 scale a group (amax / 127) and, for formats with a
 * minimum or zero point, the sums of each 16 codes. */
typedef enum ops_type { OPS_F32, OPS_BF16, OPS_Q8 } ops_type;

typedef struct ops_mat {
    ops_buf *buf;
    size_t offset; /* bytes; 64-byte aligned for whole rows */
    ops_type type;
    int32_t cols;
    size_t stride; /* bytes from row to row: at least ops_row_bytes(type, cols) */
} ops_mat;
/* Bytes of one row of a matrix (a multiple of 64). */
size_t ops_row_bytes(ops_type type, int32_t cols);

typedef struct ops_vec { /* f32 [n]; buf NULL = absent */
    ops_buf *buf;
    size_t offset;
    int32_t n;
} ops_vec;

typedef struct ops_weight { /* a packed matrix; buf NULL = absent */
    ops_buf *buf;
    size_t offset; /* 64-byte aligned */
    packed_shape shape;
} ops_weight;

typedef enum ops_activation { OPS_SILU, OPS_GELU, OPS_GELU_TANH, OPS_RELU, OPS_RELU2 } ops_activation;
typedef enum ops_norm_kind { OPS_NORM_NONE, OPS_NORM_RMS, OPS_NORM_LAYER } ops_norm_kind;

/* ---- the step ---- */
typedef struct ops_rope_spec {
    int32_t dims; /* rotated dimensions of a head */
    bool interleaved;
    int32_t n_sets;
    const float *inv_freq[2]; /* [dims / 2] */
    float attention_factor[2];
} ops_rope_spec;

typedef struct ops_batch_limits {
    int32_t max_rows, max_spans, max_out, max_blocks; /* max_blocks: entries of all block tables of one group */
    int32_t max_context; /* positions of one sequence; 0: as many as max_blocks hold */
    int32_t n_kv_groups, n_ropes;
    ops_rope_spec ropes[OPS_MAX_ROPES]; /* copied */
} ops_batch_limits;

/* One sequence's rows in this step: rows [row, row + n_rows) are its tokens at positions position, position + 1, ... */
typedef struct ops_span {
    int32_t row, n_rows, position;
    int32_t rope_set; /* which of each rope's sets */
    const float *inv_freq[OPS_MAX_ROPES]; /* [dims / 2] where the sequence has frequencies of its own (then no set is looked at), else NULL; borrowed until the next batch_set */
    int32_t table[OPS_MAX_KV_GROUPS]; /* where its block table starts in tables[group]; entry j holds positions 16j .. 16j+15 */
} ops_span;

typedef struct ops_batch_desc {
    int32_t n_rows;
    const int32_t *tokens; /* [n_rows]; -1 where the row comes from outside (embeddings) */
    int32_t n_spans;
    const ops_span *spans;
    const int32_t *tables[OPS_MAX_KV_GROUPS]; /* a freed entry (before the window) may hold anything: it is never read */
    int32_t n_table[OPS_MAX_KV_GROUPS];
    int32_t n_out;
    const int32_t *out_rows; /* [n_out] rows whose logits are wanted, ascending */
} ops_batch_desc;

/* ---- arguments of the operations ---- */

/* A list of partial sums [rows, cols] f32 to be added in this order. */
typedef struct ops_parts {
    const float *const *part; /* addresses the backend can read: of wrapped memory, from mat_part, and on the CPU any */
    int32_t n;
    size_t stride; /* floats from row to row */
} ops_parts;

/* s = sum of parts in order (+ part_bias); if post: s = norm(s) * post_weight (+ post_bias); x = x + residual_scale * s  (x is set, not added to, when
 * `replace`); y = norm(x) * weight (+ bias), or x itself with OPS_NORM_NONE.  RMS: arXiv:1910.07467; LAYER: arXiv:1607.06450 (mean and variance by the lanes rule,
 * two passes).  Rows: all of the batch; with `select`, only batch->out_rows, y compact [n_out, cols] (x is updated for those rows only). */
typedef struct ops_norm_args {
    ops_mat x;            /* f32 */
    ops_parts parts;      /* n 0: x is left as it is */
    bool replace, select;
    ops_vec part_bias;
    float residual_scale;
    ops_norm_kind post;
    ops_vec post_weight, post_bias;
    ops_norm_kind norm;
    ops_vec weight, bias; /* weight absent = 1 */
    float eps;
    int32_t n_y;          /* 0: only x is updated; 2: the same y in two formats */
    ops_mat y[2];
    /* Of x's rows only [row_begin, row_end), where row_end > 0: others are neither read nor written, in x or y.  Only where buffers lie in the host's memory (buf_map). */
    int32_t row_begin, row_end;
} ops_norm_args;

/* y[i] = x w[i]^T (+ bias[i]); with accumulate y[i] += (after the product: y + (product + bias)).  y f32, y[i].cols >= w[i].shape.rows.
 * x: F32, or linear_input's format of the weights; an integer weight given F32 quantises it first (same result). x.cols = w.shape.cols. */
typedef struct ops_linear_args {
    int32_t rows;
    ops_mat x;
    int32_t n;
    ops_weight w[OPS_MAX_FUSED];
    ops_vec bias[OPS_MAX_FUSED];
    ops_mat y[OPS_MAX_FUSED];
    bool accumulate;
} ops_linear_args;

/* y[row] = scale * w[token - row_begin] for tokens inside [row_begin, row_begin + w.rows), else 0; plus positions[p + position_offset] if given. y f32. */
typedef struct ops_embed_args {
    ops_weight w;
    int32_t row_begin;
    float scale;
    ops_weight positions;
    int32_t position_offset;
    ops_mat y;
} ops_embed_args;

typedef enum ops_qk_norm { OPS_QK_NONE, OPS_QK_HEAD_RMS, OPS_QK_HEAD_LAYER, OPS_QK_FULL_RMS } ops_qk_norm;

/* Per row: clamps q, k, v (clip > 0); normalises q and k heads; rotates them; writes k and v into the cache after rounding to its type.
 * q in place. q_weight: [head_dim] (HEAD_RMS) or [heads * head_dim] of this rank.  FULL_RMS: q_sumsq/k_sumsq [rows] hold the sums of squares over
 * all ranks' heads (from `sumsq`), q_total/k_total the number of elements they cover. rope -1: no rotation. */
typedef struct ops_qkv_args {
    ops_mat q, k, v; /* f32 */
    int32_t n_heads, n_kv_heads, head_dim;
    float clip;
    ops_qk_norm norm;
    ops_vec q_weight, k_weight;
    float eps;
    const float *q_sumsq, *k_sumsq;
    int32_t q_total, k_total;
    int32_t rope;
    ops_kv *kv;
    int32_t kv_group, kv_layer; /* which table, which layer of the cache */
} ops_qkv_args;

/* out[row] = sum of squares of x[row][col_begin .. col_end) (lanes rule); host-readable f32 [rows]. */
typedef struct ops_sumsq_args {
    int32_t rows;
    ops_mat x;
    int32_t col_begin, col_end;
    float *out;
} ops_sumsq_args;

/* Ragged causal attention over the paged cache (arXiv:2309.06180), online softmax (arXiv:1805.02867).  Query head h of this rank (global head_begin + h) uses the
 * cache's KV head (head_begin + h) / heads_per_kv - kv_head_begin.  A query at position p sees keys at positions max(0, p - window + 1) .. p (window 0: 0 .. p).
 * s = scale * q.k, then softcap * tanh(s / softcap), then + slope[h] * (key position - p).  sinks[h]: a logit that joins the softmax without a value. */
typedef struct ops_attention_args {
    ops_mat q; /* f32 [rows, n_heads * head_dim] */
    int32_t n_heads, head_dim;
    int32_t head_begin, heads_per_kv, kv_head_begin;
    float scale, softcap;
    int32_t window;
    ops_vec sinks, slopes; /* [n_heads] of this rank */
    ops_kv *kv;
    int32_t kv_group, kv_layer;
    ops_mat y;          /* any format; columns [y_col, y_col + n_heads * head_dim), zeros elsewhere */
    int32_t y_col;
} ops_attention_args;

/* y = act(gate) * up, or act(gate) when up.buf is NULL.  y: any format; written at columns [y_col, y_col + cols), zeros elsewhere. */
typedef struct ops_gate_args {
    int32_t rows;
    ops_mat gate, up; /* f32 */
    ops_activation activation;
    ops_mat y;
    int32_t y_col;
    const ops_routing *pairs; /* not NULL: the rows are those of its pairs, and `rows` is not looked at */
} ops_gate_args;

/* ---- layers of experts (arXiv:1701.06538, arXiv:2401.04088) ----
 *
 *   route      a row's logits -> its top_k experts and their weights.  Each (row, choice) is a pair; those whose expert this rank has are ordered by expert, then by row
 *   dispatch   a row of its own for each pair, times the pair's weight (families whose weights act on what goes in)
 *   experts    the pairs' rows times their expert's weights
 *   gate       as ever, over the pairs
 *   combine    the weighted sum of a row's pairs
 *
 * A routing holds what its last `route` wrote, and never comes to the host: which pairs there are, and how many, only the device knows.  So a matrix of pairs is made for all
 * of them, rows * top_k rows (of route's rows); the first so many as there are on this rank are used, and the others neither read nor written.  A recorded step
 * records the route with all that goes by it. */
typedef struct ops_routing_spec {
    int32_t max_rows;
    int32_t n_experts, top_k;      /* at most OPS_MAX_EXPERTS, OPS_MAX_CHOSEN */
    int32_t expert_begin, n_local; /* this rank's: [expert_begin, expert_begin + n_local); the choice is made among all */
} ops_routing_spec;

typedef enum ops_scoring {
    OPS_SCORE_SOFTMAX, /* over all experts */
    OPS_SCORE_CHOSEN,  /* softmax over the chosen */
    OPS_SCORE_SIGMOID
} ops_scoring;

/* The choice, by descending key, ties to the lowest expert; NaN is below everything.  Keys are the logits, which order experts as their scores do; with a bias, or where groups are
 * rated by two, they are score + bias (arXiv:2408.15664, arXiv:2412.19437).  n_groups > 1: the experts fall into so many runs of equal length, of which only the top_groups
 * best take part, a group being worth its best key (arXiv:2405.04434) or, with rate_by_two, the sum of its two best.
 * Weights: the scores (without bias) of the chosen; with renormalise divided by their sum + 1e-20; then times scale.  Sums by the lanes rule, of the chosen in the order of the choice. */
typedef struct ops_route_args {
    int32_t rows;
    ops_mat logits; /* f32 [rows, n_experts] */
    ops_scoring scoring;
    ops_vec bias;   /* [n_experts]; not with OPS_SCORE_CHOSEN */
    int32_t n_groups, top_groups; /* 0 or 1: no groups */
    bool rate_by_two;             /* not with OPS_SCORE_CHOSEN */
    bool renormalise;
    float scale;
    ops_routing *routing;
} ops_route_args;

/* y[pair] = weight of the pair * x[row of the pair].  x: f32, y: any format. */
typedef struct ops_dispatch_args {
    const ops_routing *routing;
    ops_mat x, y;
} ops_dispatch_args;

/* One matrix of each of this rank's experts, all of one shape, in one buffer. */
typedef struct ops_expert_weights {
    ops_weight first; /* of expert_begin */
    size_t stride;    /* bytes from an expert's to the next one's, a multiple of 64 */
    ops_vec bias;     /* [n_local * first.shape.rows], one expert's after the other's; absent: none */
} ops_expert_weights;

/* y[i][pair] = x w[i][expert of the pair]^T (+ bias): what `linear` gives for that row, bit for bit.  x: in linear_input's format of the weights (the same for all of a call);
 * each pair's row, or with x_by_row the row that the pair came from. */
typedef struct ops_experts_args {
    const ops_routing *routing;
    bool x_by_row;
    ops_mat x;
    int32_t n;
    ops_expert_weights w[OPS_MAX_FUSED];
    ops_mat y[OPS_MAX_FUSED]; /* f32, a row for each pair */
} ops_experts_args;

/* y[row] = fma(weight, x[pair], y[row]) for the row's pairs of this rank in the order of the choice, from 0, or with accumulate from what is there. */
typedef struct ops_combine_args {
    const ops_routing *routing; /* as many rows as it has */
    ops_mat x;                  /* f32, a row for each pair */
    bool weighed;               /* the weights have acted (dispatch): they count as 1 */
    bool accumulate;
    ops_mat y;                  /* f32 */
} ops_combine_args;

typedef struct ops_token_count {
    int32_t token;
    int32_t generated; /* how often it was generated */
    bool in_prompt;
} ops_token_count;

typedef struct ops_token_bias {
    int32_t token;
    float bias;
} ops_token_bias;

typedef struct ops_candidate {
    int32_t token;
    float logit; /* what it was chosen by: adjusted (best: with noise), or raw in the raw list */
    float raw;   /* the raw logit, before penalties, bias and temperature */
} ops_candidate;

/* Gumbel noise of one token of one draw: -log(-log(u)), u = 1 - (w + 1/2) / 2^32 with w from Philox as ops_sample_row says.  The same on every device. */
float ops_gumbel(uint64_t seed, uint32_t choice, int32_t position, int32_t token);

/* How one row of logits is looked at.  Order: repetition penalty (prompt and generated tokens: l > 0 ? l / r : l * r), presence and frequency penalties
 * (generated tokens), bias, mask, division by temperature (not at 0). */
typedef struct ops_sample_row {
    int32_t row;
    float temperature;
    float repetition_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0 = off */
    int32_t n_counts;
    const ops_token_count *counts;
    int32_t n_bias;
    const ops_token_bias *bias;
    const uint32_t *allow; /* bit t of the whole vocabulary, NULL = all */
    uint64_t seed;
    uint32_t choice;
    int32_t position;      /* noise: Philox4x32-10, key = seed; counter = {token / 64 * 16 + token % 16, position, choice, 0}; word token / 16 % 4 */
    int32_t n_candidates;  /* top of the adjusted logits wanted, <= OPS_MAX_CANDIDATES */
    int32_t n_raw;         /* top of the raw logits wanted (logprobs) */
    int32_t target;        /* a token whose raw logit is wanted, -1 none */
    bool want_hash, want_sample, want_sum;
} ops_sample_row;

typedef struct ops_sample_out {
    float raw_max, raw_sum;   /* of this slice: max, and sum exp(l - raw_max) (lanes rule) */
    float target_logit;       /* if the target lies in this slice, else -INFINITY */
    float max, sum;           /* the same of the adjusted logits (only with want_sample; sum: 0 without want_sum) */
    ops_candidate best;       /* argmax of adjusted + Gumbel noise (temperature 0: of adjusted); ties: the lowest token */
    uint64_t hash;            /* sum mod 2^64 over tokens of hash_mix(token << 32 | bits(raw logit)) */
    int32_t n_candidates, n_raw;
    ops_candidate candidates[OPS_MAX_CANDIDATES]; /* by logit descending, then token ascending; vocabulary ids */
    ops_candidate raw[OPS_MAX_CANDIDATES];
} ops_sample_out;

/* logits: [n, cols] f32, columns = vocabulary rows vocab_begin ... ; first each row becomes softcap(l * multiplier) in place (raw).  adjusted: [n, cols] f32,
 * row i receives rows[i]'s adjusted logits where want_sample, so that a caller may fetch whole rows for a second round. */
typedef struct ops_sample_args {
    ops_mat logits, adjusted;
    int32_t vocab_begin;
    float multiplier, softcap;
    int32_t n;
    const ops_sample_row *rows;
    ops_sample_out *out;
} ops_sample_args;

/* CPU: with e = head_dim rounded up to 16 and b = bytes of an element (q8, fp8: 1), one block of one layer and KV head takes
 *   2 * (16 * e * b + (q8: 32 * ceil(e / 32) rounded up to 64))        [K and V; q8: an f16 scale for each token and 32 dimensions]
 * and kv_block_bytes is that times n_layers * n_kv_heads. */
typedef enum ops_kv_type { OPS_KV_F32, OPS_KV_F16, OPS_KV_BF16, OPS_KV_Q8, OPS_KV_F8 } ops_kv_type; /* F8: fp8 e4m3 without scales (base/half.h) */
#define OPS_KV_TYPES (OPS_KV_F8 + 1)
typedef struct ops_kv_spec {
    ops_kv_type type;
    int32_t n_layers, n_kv_heads, head_dim;
    int64_t n_blocks;
} ops_kv_spec;

typedef struct ops_ctx_options {
    int device;
    int n_threads;      /* 0 = all cores granted */
    int first_core;     /* index into the granted cores where pinning starts; -1 = no pinning */
    bool spin;
    const int *lent_cores; /* [n_lent] cores, by the system's numbers, of ranks that wait while a step has `lent`; borrowed until the context is made */
    int n_lent;
    const char *isa;    /* NULL = best the machine has; "c" "avx2" "avx512" "avx512bf16" "amx" */
    const char *gemm;   /* who multiplies by bf16 weights on a GPU: "own" "cublaslt", NULL or "auto" = cuBLASLt by the large ones where it may */
    int32_t max_rows, max_cols; /* scratch sizing: rows of a step, widest activation */
} ops_ctx_options;

/* A device that has memory of its own. */
typedef struct ops_device_info {
    char name[64];
    uint8_t id[16];         /* the same for the same device, whatever its number */
    size_t free_bytes, total_bytes;
    char pci[16];           /* where it is on the bus, "0000:17:00.0"; "" unknown */
} ops_device_info;

/* Rows for which a recorded step of so many is made: the next power of two. */
int32_t ops_graph_rows(int32_t rows);

/* What bounds the operations: bytes read a second from memory that no cache holds, and operations a second (a multiply-add is two) of the products' own
 * instructions on registers; 0: not known. */
typedef struct ops_peaks {
    double read, codes4, codes8, f32, bf16; /* codes4: of weights whose codes have up to 4 bits and no codebook */
} ops_peaks;

struct comm_device_ops;

typedef struct ops_backend {
    const char *name; /* "cpu", "cuda"; for logs */

    /* Devices this process sees, and one of them as it is now.  NULL: the backend computes in the host's memory. */
    int (*devices)(void);
    status (*device_info)(int device, ops_device_info *out);

    status (*ctx_create)(const ops_ctx_options *options, ops_ctx **out);
    void (*ctx_destroy)(ops_ctx **ctx);
    const char *(*ctx_describe)(const ops_ctx *ctx); /* "cpu avx512 vnni, 2 threads" */
    const char *(*numerics)(const ops_ctx *ctx);     /* names everything that may change a bit: part of the numerics id */

    /* Zeroed memory. */
    status (*buf_create)(ops_ctx *ctx, size_t bytes, const char *what, ops_buf **out);
    /* Memory of somebody else, readable and writable by the device (an exchange slot): the host's, or the device's. */
    status (*buf_wrap)(ops_ctx *ctx, void *memory, size_t bytes, ops_buf **out);
    void (*buf_destroy)(ops_ctx *ctx, ops_buf **buf);
    status (*buf_write)(ops_ctx *ctx, ops_buf *buf, size_t offset, const void *src, size_t bytes);
    status (*buf_read)(ops_ctx *ctx, const ops_buf *buf, size_t offset, void *dst, size_t bytes);
    /* May be NULL.  Tells of a weight that `linear` will be given (embed too, perhaps), once, after it was written and before the first operation: the backend
     * may store it otherwise from here on, so its bytes are neither read nor written any more, and it is only used whole. */
    status (*weight_ready)(ops_ctx *ctx, const ops_weight *w);
    void *(*buf_map)(ops_ctx *ctx, ops_buf *buf); /* host address, NULL if the device's memory has none */
    /* Where a matrix's first row lies, as ops_parts takes it; not for the caller to read. */
    const float *(*mat_part)(ops_ctx *ctx, const ops_mat *m);
    /* The stream that operations are queued on, for whoever orders transfers with them; NULL: none. */
    void *(*stream)(ops_ctx *ctx);
    /* Collectives in the devices' memory, queued on that stream (comm/device.h, which knows what it is); NULL: through the host's only. */
    const struct comm_device_ops *collectives;

    /* The activation format a linear of this weight wants its input in. */
    ops_type (*linear_input)(const ops_ctx *ctx, packed_type type);

    status (*batch_create)(ops_ctx *ctx, const ops_batch_limits *limits, ops_batch **out);
    void (*batch_destroy)(ops_ctx *ctx, ops_batch **batch);
    status (*batch_set)(ops_ctx *ctx, ops_batch *batch, const ops_batch_desc *desc); /* copies; computes the rope tables of the rows */

    size_t (*kv_block_bytes)(const ops_kv_spec *spec); /* one block of all its layers */
    status (*kv_create)(ops_ctx *ctx, const ops_kv_spec *spec, ops_kv **out);
    void (*kv_destroy)(ops_ctx *ctx, ops_kv **kv);
    status (*kv_copy_block)(ops_ctx *ctx, ops_kv *kv, int32_t from, int32_t to);

    /* Nothing routed as yet: no rows. */
    status (*routing_create)(ops_ctx *ctx, const ops_routing_spec *spec, ops_routing **out);
    void (*routing_destroy)(ops_ctx *ctx, ops_routing **routing);

    status (*embed)(ops_ctx *ctx, const ops_batch *batch, const ops_embed_args *args);
    status (*norm)(ops_ctx *ctx, const ops_batch *batch, const ops_norm_args *args);
    status (*linear)(ops_ctx *ctx, const ops_linear_args *args);
    status (*sumsq)(ops_ctx *ctx, const ops_sumsq_args *args);
    status (*qkv)(ops_ctx *ctx, const ops_batch *batch, const ops_qkv_args *args);
    status (*attention)(ops_ctx *ctx, const ops_batch *batch, const ops_attention_args *args);
    status (*gate)(ops_ctx *ctx, const ops_gate_args *args);
    status (*route)(ops_ctx *ctx, const ops_route_args *args);
    status (*dispatch)(ops_ctx *ctx, const ops_dispatch_args *args);
    status (*experts)(ops_ctx *ctx, const ops_experts_args *args);
    status (*combine)(ops_ctx *ctx, const ops_combine_args *args);
    status (*sample)(ops_ctx *ctx, const ops_sample_args *args);

    /* May be NULL.  Bracket operations that later steps repeat, on a batch in which each sequence has one row and every row's output is wanted; all that
     * varies from step to step is in the batch.  *played: the backend has a recording of them, runs it, and the caller leaves them out, graph_end too;
     * else it calls them as ever.  Nothing in between may read from the device or wait for it.  A recording serves steps of any number of rows with
     * the same ops_graph_rows: what is told a number of rows in between (an exchange, a message) is told that one. */
    status (*graph_begin)(ops_ctx *ctx, ops_batch *batch, bool *played);
    status (*graph_end)(ops_ctx *ctx);

    /* May be NULL.  Bracket operations that take the memory which they would need, for as many rows as they are told or their batch may have, and compute nothing: whoever calls each
     * kind so at its largest finds out at start-up whether all has room, and nothing is allocated, nor waited for, later.  Only sampling's lists may grow beyond. */
    void (*reserve_begin)(ops_ctx *ctx);
    void (*reserve_end)(ops_ctx *ctx);

    /* May be NULL: operations run while they are called.  From a mark to the next the device's time is that of `what`, below OPS_TIMES, a number that the caller chooses; -1 ends a step,
     * or what is recorded of one.  Marks are queued as operations are, also into recordings, and count at each play.  read: seconds since the context was made; waits for what
     * was marked; a mark that could not be made is told here. */
    void (*time_mark)(ops_ctx *ctx, int32_t what);
    status (*time_read)(ops_ctx *ctx, double seconds[OPS_TIMES]);

    /* Bracket a step: threads stay awake in between.  lent: on the lent cores too. */
    void (*step_begin)(ops_ctx *ctx, bool lent);
    void (*step_end)(ops_ctx *ctx);
    status (*sync)(ops_ctx *ctx);

    /* May be NULL.  Measured now, by all threads, in about a second; `memory` bytes are read. */
    status (*peaks)(ops_ctx *ctx, size_t memory, ops_peaks *out);
} ops_backend;

const ops_backend *ops_cpu(void);

#endif
