/* ops/cuda/kernels.h - what the .cu files offer to the backend's plain C: one function an operation, which launches on a stream and returns.
 *
 * Pointers are device addresses unless a comment says host.  Shapes in elements, strides in bytes.  The number of rows of a launch (`rows`) bounds
 * the grid alone: how many there are is read from device memory (`n`, NULL: rows), so that a recorded graph of a bucket serves every smaller step.  No result depends on either.
 * Every function returns the launch's error; none waits, allocates, or writes what the arguments do not name. */
#ifndef OPS_CUDA_KERNELS_H
#define OPS_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "ops/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A matrix of activations: f32, bf16, or q8: a row is int8 codes [cols rounded up to 64], then for each 32 codes an f32 scale, its sum of codes as s32,
 * and scale * sum as f32; then for each 16 codes sum and scaled sum: the planes of the CPU's rows (cpu_linear.h), so that ops_row_bytes holds for both. */
typedef struct gpu_mat {
    void *p;
    int32_t type; /* ops_type */
    int32_t cols;
    int64_t stride;
} gpu_mat;

/* Where a packed matrix (base/packed.h) lies, with what a kernel needs of its layout. */
typedef struct gpu_weight {
    const void *p; /* NULL: absent */
    bool turned;   /* bf16 in row-major order, for cuBLASLt and embed alone; panels are as large and lie where they lay */
    int32_t type;  /* packed_type */
    int32_t rows, cols, phase;
    int32_t panels, units, groups, supers;
    int64_t panel_bytes, unit_bytes, scale_offset, min_offset, super_offset;
} gpu_weight;

/* One sequence's rows of a step; as ops_span, with the block tables' starts. */
typedef struct gpu_span {
    int32_t row, n_rows, position, rope_set;
    int32_t own_freq[OPS_MAX_ROPES]; /* where its own inv_freq begin in own_freq, -1: the set's */
    int32_t table[OPS_MAX_KV_GROUPS];
} gpu_span;

/* One step's description in device memory, at a fixed address for the life of the batch; the arrays too. */
typedef struct gpu_step {
    int32_t n_rows, n_spans, n_out, n_work;
    const int32_t *tokens;    /* [n_rows] */
    const int32_t *positions; /* [n_rows] */
    const int32_t *row_span;  /* [n_rows] */
    const gpu_span *spans;    /* [n_spans] */
    const int32_t *out_rows;  /* [n_out] */
    const int32_t *tables[OPS_MAX_KV_GROUPS];
    const float *rope[OPS_MAX_ROPES]; /* [n_rows][dims / 2][2]: cos, sin times the attention factor; filled by k_rope_tables */
    const float *own_freq;
} gpu_step;

/* ---- k_rows.cu ---- */

typedef struct gpu_rope {
    int32_t dims, n_sets;
    const float *inv_freq[2];
    float attention_factor[2];
    float *table; /* [max_rows][dims / 2][2] */
} gpu_rope;
/* Fills table for the step's rows: angle = (float)position * inv_freq in f32, as the CPU does (cpu_batch.c). rope: which of own_freq. */
cudaError_t k_rope_table(const gpu_step *step, int32_t rows, int32_t rope, const gpu_rope *spec, cudaStream_t s);

typedef struct gpu_embed {
    gpu_weight w, positions;
    int32_t row_begin, position_offset;
    float scale;
    gpu_mat y;
} gpu_embed;
cudaError_t k_embed(const gpu_step *step, int32_t rows, const gpu_embed *a, cudaStream_t s);

typedef struct gpu_norm { /* ops_norm_args */
    gpu_mat x;
    const float *part[64]; /* partial sums to add, in order */
    int32_t n_parts;
    int64_t part_stride;   /* floats */
    bool replace, select;
    const float *part_bias;
    float residual_scale;
    int32_t post, norm;    /* ops_norm_kind */
    const float *post_weight, *post_bias, *weight, *bias;
    float eps;
    int32_t n_y;
    gpu_mat y[2];
} gpu_norm;
cudaError_t k_norm(const gpu_step *step, int32_t rows, const gpu_norm *a, cudaStream_t s);

/* out[row] = sum of squares of x[row][col_begin .. col_end) */
cudaError_t k_sumsq(int32_t rows, const int32_t *n, gpu_mat x, int32_t col_begin, int32_t col_end, float *out, cudaStream_t s);

typedef struct gpu_gate {
    gpu_mat gate, up; /* up.p NULL: absent */
    int32_t activation; /* ops_activation */
    gpu_mat y;
    int32_t y_col;
} gpu_gate;
cudaError_t k_gate(int32_t rows, const int32_t *n, const gpu_gate *a, cudaStream_t s);

/* y (q8 or bf16) of x (f32). */
cudaError_t k_quantise(int32_t rows, const int32_t *n, gpu_mat x, gpu_mat y, cudaStream_t s);

/* ---- k_kv.cu: the paged cache, and what writes it ----
 *
 *   cache   [layer][KV head][block] of head_bytes each
 *   head    K codes | K scales | V codes | V scales, with e = head_dim rounded up to 16:
 *           codes [16 tokens][e] of f32, f16, bf16, int8 or e4m3; scales (q8 alone) f16 [ceil(e / 32)][16 tokens], rounded up to 64 bytes
 * Sizes and values are the CPU's (ops.h, cpu_kv.h); its K are transposed, these are not.  Planes start at multiples of 64.  Dimensions from head_dim to e
 * are written as zeros; tokens of a block that nobody wrote hold anything. */
typedef struct gpu_kv {
    char *p;
    int32_t type; /* ops_kv_type */
    int32_t n_layers, n_kv_heads, head_dim, padded;
    int64_t n_blocks, head_bytes, k_scales, v_codes, v_scales; /* planes: bytes from the start of a head */
} gpu_kv;
/* Fills the sizes (all but p); host code, no launch. false: impossible sizes. */
bool gpu_kv_layout(const ops_kv_spec *spec, gpu_kv *out);

typedef struct gpu_qkv { /* ops_qkv_args */
    gpu_mat q, k, v;
    int32_t n_heads, n_kv_heads, head_dim;
    float clip;
    int32_t norm; /* ops_qk_norm */
    const float *q_weight, *k_weight;
    int32_t q_step, k_step; /* floats from one head's norm weights to the next's; 0: all heads share them */
    float eps;
    const float *q_sumsq, *k_sumsq;
    int32_t q_total, k_total;
    int32_t rope; /* -1: none */
    int32_t rope_dims;
    bool interleaved;
    gpu_kv kv;
    int32_t kv_group, kv_layer;
} gpu_qkv;
cudaError_t k_qkv(const gpu_step *step, int32_t rows, const gpu_qkv *a, cudaStream_t s);
/* All layers and heads of block `from` onto block `to`. */
cudaError_t k_kv_copy_block(const gpu_kv *kv, int32_t from, int32_t to, cudaStream_t s);

/* ---- attention_list.c: what the attention of a step is cut into, for one window; plain C, no device ----
 *
 *   tile    up to GPU_ATTENTION_ROWS rows of one span, with all their heads
 *   chunk   OPS_ATTENTION_CHUNK absolute positions: attended apart, merged in order
 *   piece   a tile against some chunks that follow one another
 *   slot    a place in scratch for the result of one row (all heads): of all its chunks if one piece holds them all (`whole`), else of one chunk
 *
 * Which tiles are split over several pieces depends on the load alone and changes no bit of any result. */
#define GPU_ATTENTION_ROWS 128
typedef struct gpu_work {
    int32_t span, row, n_rows;  /* rows [row, row + n_rows) of the step */
    int32_t position;           /* of the first row */
    int32_t chunk, n_chunks;
    int32_t slot;               /* row r of the piece, chunk c: slot + (whole ? 0 : c - chunk) * n_rows + r */
    int32_t whole;
} gpu_work;
typedef struct gpu_row_slots { /* a row's results, in order: slot, slot + stride, ... */
    int32_t slot, stride, n, unused;
} gpu_row_slots;
typedef struct gpu_attention_list { /* followed by gpu_row_slots [max_rows], gpu_work [n_work] */
    int32_t n_work, most_rows;      /* most_rows: of a piece */
    int32_t n_slots, max_rows;
    int32_t unused[12];
} gpu_attention_list;
int32_t gpu_attention_max_work(int32_t max_rows, int32_t max_spans);
size_t gpu_attention_list_bytes(int32_t max_rows, int32_t max_spans);
/* Slots of scratch that steps within these limits are given: one a row, and more where splitting is worth it. */
int32_t gpu_attention_max_slots(int32_t max_rows, int64_t max_context);
int64_t gpu_attention_scratch(int32_t max_slots, int32_t n_heads, int32_t head_dim); /* floats */
/* Writes the list of a step for one window (0: none) and returns how many of its bytes are in use, from the start; list: gpu_attention_list_bytes, host. */
size_t gpu_attention_list_make(const ops_batch_desc *desc, int32_t window, int32_t max_rows, int32_t max_slots, void *list);

/* ---- k_attention.cu ---- */

typedef struct gpu_attention { /* ops_attention_args */
    gpu_mat q;
    int32_t n_heads, head_dim, head_begin, heads_per_kv, kv_head_begin;
    float scale, softcap;
    int32_t window;
    const float *sinks, *slopes; /* [n_heads] or NULL */
    gpu_kv kv;
    int32_t kv_group, kv_layer;
    gpu_mat y;
    int32_t y_col;
    const gpu_attention_list *list; /* device: the step's for this window */
    int32_t max_work;               /* bounds list->n_work; as little as is known, for it sizes the grid */
    int32_t max_rows;               /* bounds list->most_rows; 0: nothing known (in a graph).  Where all pieces are small a launch is saved */
    int32_t max_slots;              /* what the list was made with */
    float *partial;                 /* scratch: gpu_attention_scratch floats */
} gpu_attention;
/* Allows the kernels their shared memory on the device of the moment; once, before any capture. */
cudaError_t k_attention_init(void);
/* head_dim up to 512. */
cudaError_t k_attention(const gpu_step *step, int32_t rows, const gpu_attention *a, cudaStream_t s);

/* ---- k_linear.cu ---- */

typedef struct gpu_linear { /* ops_linear_args: x in the format k_linear_input names */
    gpu_mat x;
    int32_t n;
    gpu_weight w[OPS_MAX_FUSED];
    const float *bias[OPS_MAX_FUSED];
    gpu_mat y[OPS_MAX_FUSED];
    bool accumulate;
    float *partial; /* scratch for segments of k: gpu_linear_scratch floats; NULL: blocks do not share a k (slower where outputs are few) */
} gpu_linear;
ops_type gpu_linear_input(packed_type type);
int64_t gpu_linear_scratch(int32_t max_rows, int32_t max_out, int32_t max_cols);
cudaError_t k_linear(int32_t rows, const int32_t *n, const gpu_linear *a, cudaStream_t s);

/* ---- k_blaslt.cu: what goes with a product by cuBLASLt ---- */

/* So many panels of packed bf16 or fp8 (elements of 2 bytes or 1), from_bytes apart and cols a multiple of 16 bytes, in row-major order: [panel][16][cols].  from and to do not
 * overlap. */
cudaError_t k_blaslt_turn(const void *from, int64_t from_bytes, void *to, int32_t panels, int32_t cols, int32_t bytes, cudaStream_t s);
/* Rows [row, row + rows) of y, as far as there are so many (*n, NULL: all) = p[0], p[1] ... + bias (NULL: none); with accumulate y + (p + bias).  p may be those rows of y. */
typedef struct gpu_blaslt_add {
    const float *p; /* 16-byte aligned */
    int64_t p_stride; /* floats, a multiple of 4 */
    const float *bias;
    gpu_mat y;
    int32_t row, rows, cols;
    bool accumulate;
    const float *row_scale, *col_scale; /* of fp8: p is times the scale of its output, then that of its row, [rows of y] and [cols]; NULL: as it is */
} gpu_blaslt_add;
cudaError_t k_blaslt_add(const int32_t *n, const gpu_blaslt_add *a, cudaStream_t s);
/* Numbers of [-1, 1) in bf16, n a multiple of 2, or fp8 of sizes from 2^-3 to 2^2, n a multiple of 4: always the same. */
cudaError_t k_blaslt_numbers(void *x, int64_t n, int32_t bytes, cudaStream_t s);
/* x as fp8: a row's elements over its scale, which is its largest over 448.  codes [rows][cols], cols a multiple of 16; scale [rows]. */
cudaError_t k_blaslt_codes(int32_t rows, const int32_t *n, gpu_mat x, void *codes, float *scale, cudaStream_t s);
/* The scale of each row of packed fp8, [panels * 16]; *differ becomes 1 where a row has several. */
cudaError_t k_blaslt_scales(const gpu_weight *w, float *scale, uint32_t *differ, cudaStream_t s);
/* *differ becomes 1 where row 0 of y [cols] is not near the products of row 0 of x with w's rows (fp8, as the library has them): a 128th of the sum of the products' sizes. */
cudaError_t k_blaslt_near(const void *w, const void *x, const float *y, int32_t cols, int32_t k, uint32_t *differ, cudaStream_t s);
/* *differ becomes 1 where two matrices [rows, cols] do not have the same bits. */
cudaError_t k_blaslt_compare(const float *a, const float *b, int64_t stride, int32_t rows, int32_t cols, uint32_t *differ, cudaStream_t s);

/* ---- k_moe.cu: where the rows of a layer of experts go ----
 *
 * A pair is row * top_k + choice; a position is a pair's place in the order by expert, then by row, among those of this rank's experts.  A tile is some positions of
 * one expert that follow one another: what a block of k_experts computes. */
typedef struct gpu_expert_tile {
    int32_t expert, begin, end, unused; /* expert: counted from the first of this rank */
} gpu_expert_tile;

typedef struct gpu_routing { /* ops_routing */
    int32_t n_experts, top_k, expert_begin, n_local;
    int32_t *expert;        /* [pairs] */
    float *weight;          /* [pairs] */
    int32_t *place;         /* [pairs] position; of another rank's pairs: anything */
    int32_t *order;         /* [positions] pair */
    int32_t *offset;        /* [n_local + 1] position where an expert's begin; the last: how many there are */
    gpu_expert_tile *tiles; /* [gpu_expert_tiles] */
    int32_t *n_tiles;
} gpu_routing;

/* Rows of a tile, 8 or 32: by the pairs an expert has on average, if there are so many.  The tiles that so many pairs fall into, at most. */
int32_t gpu_expert_tile_rows(int32_t pairs, int32_t n_experts);
int32_t gpu_expert_tiles(int32_t pairs, int32_t n_local, int32_t tile_rows);

typedef struct gpu_route { /* ops_route_args */
    gpu_mat logits;
    int32_t scoring; /* ops_scoring */
    const float *bias;
    int32_t n_groups, top_groups;
    bool rate_by_two, renormalise;
    float scale;
    gpu_routing to;
} gpu_route;
/* expert, weight; then all the rest of the routing. */
cudaError_t k_route(int32_t rows, const int32_t *n, const gpu_route *a, cudaStream_t s);

/* y[position] = weight of the pair * x[row of the pair]; y: any format. */
cudaError_t k_dispatch(int32_t rows, const gpu_routing *r, gpu_mat x, gpu_mat y, cudaStream_t s);

/* y[row] = the row's pairs of this rank added in the order of the choice: fma(weight, x[position], y[row]) from 0, or with accumulate from y. */
typedef struct gpu_combine {
    gpu_routing from;
    gpu_mat x, y;
    bool weighed, accumulate;
} gpu_combine;
cudaError_t k_combine(int32_t rows, const int32_t *n, const gpu_combine *a, cudaStream_t s);

/* ---- k_experts.cu ---- */

typedef struct gpu_experts { /* ops_experts_args; w and bias of this rank's first expert */
    gpu_routing routing;
    bool x_by_row;
    gpu_mat x;
    int32_t n;
    gpu_weight w[OPS_MAX_FUSED];
    int64_t stride[OPS_MAX_FUSED]; /* bytes */
    const float *bias[OPS_MAX_FUSED];
    gpu_mat y[OPS_MAX_FUSED];
} gpu_experts;
/* rows: what k_route was told. */
cudaError_t k_experts(int32_t rows, const gpu_experts *a, cudaStream_t s);

/* ---- k_sample.cu ---- */

/* ops_sample_row with its lists in device memory. */
typedef struct gpu_sample_row {
    ops_sample_row row; /* counts, bias, allow: device addresses */
} gpu_sample_row;
typedef struct gpu_sample {
    gpu_mat logits, adjusted;
    int32_t vocab_begin;
    float multiplier, softcap;
    const gpu_sample_row *rows; /* [n] */
    ops_sample_out *out;        /* [n], device memory */
    void *scratch;              /* gpu_sample_scratch bytes */
} gpu_sample;
int64_t gpu_sample_scratch(int32_t max_rows, int32_t max_cols);
cudaError_t k_sample(int32_t rows, const int32_t *n, const gpu_sample *a, cudaStream_t s);

/* ---- k_reduce.cu: sums over the ranks of a host, whose memory this device sees (CUDA IPC); the ranks meet inside the kernels ----
 *
 * Block b of a rank waits for block b of every other one, never for another block of its own grid.  It tells them with a flag, and waits for theirs, which is as
 * high as its own count of meetings: nothing is reset, and a recorded launch can be played again.  All ranks queue the same operations with the same sizes. */
#define GPU_COMM_MAX 16    /* members */
#define GPU_COMM_BLOCKS 64 /* of a launch, at most */
#define GPU_COMM_OWN (2 + GPU_COMM_BLOCKS)                      /* words of `own` */
#define GPU_COMM_FLAGS (2 * GPU_COMM_BLOCKS * GPU_COMM_MAX)     /* words of flags[i]: [round][block][from] */

/* Pinned host memory: what the host and its device tell each other while kernels run. */
typedef struct gpu_comm_words {
    uint32_t abort;              /* by the host: whoever waits gives up, and so do all later kernels */
    uint32_t op, begun, ended;   /* which operation began last, how many did, how many ended */
    uint32_t late[GPU_COMM_MAX]; /* member that is waited for rather long: 1 */
} gpu_comm_words;

typedef struct gpu_comm {
    int32_t n, me;
    uint32_t *own;                 /* zeroed: [0] operations, [1] blocks that are done, [2...] meetings of each block */
    uint32_t *flags[GPU_COMM_MAX]; /* of member i, zeroed before anybody begins; others write in them */
    gpu_comm_words *words;
} gpu_comm;

typedef struct gpu_comm_slots { /* 16-byte aligned, readable up to a multiple of 4 floats */
    const float *slot[GPU_COMM_MAX];
    float *result[GPU_COMM_MAX];
} gpu_comm_slots;

/* All that the ranks queued before is done and seen by those who pass. */
cudaError_t k_comm_meet(const gpu_comm *c, uint32_t op, cudaStream_t s);
/* out = slot[0] + slot[1] + ...: every rank adds everything.  n floats. */
cudaError_t k_comm_one_shot(const gpu_comm *c, uint32_t op, const gpu_comm_slots *p, int64_t n, float *out, cudaStream_t s);
/* The same sum into result[i] of every member i: each rank adds one slice and writes it to all. */
cudaError_t k_comm_two_shot(const gpu_comm *c, uint32_t op, const gpu_comm_slots *p, int64_t n, cudaStream_t s);
/* out = sum over i of part i (i == me: mine, else parts + i * stride floats), n floats, in order; host_starts: bit i: part i begins another host, whose members are added up first. */
cudaError_t k_comm_sum(const float *parts, int64_t stride, int32_t n_parts, int32_t me, const float *mine, uint64_t host_starts, int64_t n, float *out, cudaStream_t s);
/* Tells the host that an operation of others' kernels (NCCL) begins, or ends. */
cudaError_t k_comm_mark(const gpu_comm *c, uint32_t op, bool begin, cudaStream_t s);

#ifdef __cplusplus
}
#endif
#endif
