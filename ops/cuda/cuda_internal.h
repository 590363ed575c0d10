/* ops/cuda/cuda_internal.h - what the plain C of the CUDA backend shares.  Stays in this folder.
 *
 *   cuda.c         the plugin's door and the table; contexts; errors
 *   cuda_buffer.c  buffers, wrapped host memory, what goes up and down
 *   cuda_batch.c   a step's description
 *   cuda_graph.c   decode steps recorded and played
 *   cuda_time.c    how long the device was at what
 *   cuda_ops.c     the operations: check, translate to device addresses, launch
 *   cuda_blaslt.c  products of large bf16 and fp8 weights by cuBLASLt, where it gives the same bits in every batch
 *   cuda_moe.c     those of layers of experts
 *   cuda_library.c NVIDIA's libraries, found at run time
 *   cuda_sample.c  sampling: its lists go up, its results come down
 *   cuda_plugin.c  errors and log lines on their way to the program; what this object was built for
 *
 * Two streams: `stream` runs the operations and whatever they need uploaded, in the order of the calls; `copies` moves buffers (buf_write,
 * buf_read), so that reading weights from disk, staging and the device's copy overlap.  Events order the two.  What the host reads of results comes
 * at `sync`.  One thread calls at a time, but not always the same one: whatever may come first from a thread sets its device. */
#ifndef OPS_CUDA_CUDA_INTERNAL_H
#define OPS_CUDA_CUDA_INTERNAL_H

#include "ops/cuda/kernels.h"
#include "ops/ops.h"

/* A call that failed becomes a status; its message names call, subject and remedy. */
status cuda_failed(cudaError_t e, const char *file, int line, const char *call, const char *what, ...) __attribute__((format(printf, 5, 6)));
#define CUDA_TRY(call, ...)                                                     \
    do {                                                                        \
        cudaError_t cuda_e_ = (call);                                           \
        if (cuda_e_ != cudaSuccess)                                             \
            return cuda_failed(cuda_e_, __FILE__, __LINE__, #call, __VA_ARGS__); \
    } while (0)
#define CUDA_TRY_GOTO(call, label, ...)                                         \
    do {                                                                        \
        cudaError_t cuda_e_ = (call);                                           \
        if (cuda_e_ != cudaSuccess) {                                           \
            st = cuda_failed(cuda_e_, __FILE__, __LINE__, #call, __VA_ARGS__);  \
            goto label;                                                         \
        }                                                                       \
    } while (0)

typedef struct cuda_gemm cuda_gemm; /* how cuBLASLt multiplies by weights of one shape (cuda_blaslt.c) */

typedef struct cuda_turned { /* a weight in cuBLASLt's order */
    size_t offset, bytes;
    packed_type type;
    int32_t rows, cols;
    const cuda_gemm *gemm;
} cuda_turned;

struct ops_buf {
    char *p;         /* device address */
    char *host;      /* of wrapped memory of the host, else NULL */
    size_t bytes;
    bool owned, registered; /* by us */
    cuda_turned *turned; /* by offset */
    int32_t n_turned;
    ops_buf *next;   /* of the context's buffers */
};

struct ops_kv {
    ops_kv_spec spec;
    gpu_kv layout;
    size_t bytes;
};

struct ops_routing {
    ops_routing_spec spec;
    int32_t rows, bound; /* of the last route: how many there were, and for how many it was launched */
    gpu_routing device;
    void *memory;
};

typedef struct cuda_block { /* device memory that grows */
    void *p;
    size_t bytes;
} cuda_block;

enum { CUDA_STAGES = 8, CUDA_PENDING = 8 };
#define CUDA_STAGE_BYTES ((size_t)2 << 20)

typedef struct cuda_pending { /* a result on its way to the host */
    void *to;
    const char *from; /* pinned */
    size_t bytes;
} cuda_pending;

typedef struct cuda_mark { /* from here to the next mark is time of `what`; -1: of nothing */
    cudaEvent_t event;
    int32_t what;
} cuda_mark;

typedef struct cuda_times { /* of a step, or of a recording */
    cuda_mark *marks;
    int32_t n, cap;
    cudaEvent_t over;
    bool pending;         /* to be read when `over` has come */
} cuda_times;
enum { CUDA_TIME_SETS = 4 };

/* A decode step recorded for up to so many rows and pieces of attention (graphs of other sizes are other graphs). */
typedef struct cuda_graph {
    const ops_batch *batch;
    int32_t rows, work, piece_rows;
    uint64_t memory;      /* ctx->memory when it was recorded: scratch has moved if it differs */
    cuda_times times;     /* marks among what was recorded */
    cudaGraphExec_t exec; /* NULL: such a step was seen once, and runs as ever */
} cuda_graph;
enum { CUDA_GRAPHS = 64 };

struct ops_ctx {
    int device;
    int32_t max_rows, max_cols;
    int capability;                         /* 80: compute capability 8.0 */
    cudaStream_t stream, copies;
    cudaEvent_t computed, copied;           /* one stream waits for the other */
    char *stage[CUDA_STAGES];               /* pinned; used in turn */
    cudaEvent_t stage_free[CUDA_STAGES];
    int next_stage;
    ops_buf *bufs;
    cuda_block quantise, linear, product, codes, attention, sample, sample_in, sample_out; /* product: cuBLASLt's, before bias and sum; codes: its x in fp8 */
    float *sums;                            /* device: results of sumsq, [CUDA_PENDING][max_rows]; then q_sumsq and k_sumsq of qkv, [2][max_rows] */
    char *results;                          /* pinned: what waits for sync */
    size_t results_bytes, results_used;
    cuda_pending pending[CUDA_PENDING];
    int n_pending;
    uint64_t memory;                        /* counts how often scratch has moved */
    cuda_graph graphs[CUDA_GRAPHS];
    int n_graphs;
    const ops_batch *graph_batch;           /* of the bracket that is open, else NULL */
    cuda_graph *graph;                      /* what the bracket is for */
    bool recording;
    struct cuda_blaslt *blaslt;             /* NULL: the own kernels multiply */
    bool reserving;                         /* operations take memory and compute nothing */
    cuda_times times[CUDA_TIME_SETS];       /* of the steps, in turn; unrecorded operations */
    int which_times;
    double seconds[OPS_TIMES];              /* read so far */
    status times_failed;                    /* what kept a mark from being made */
    char description[256], numerics_name[80];
};

typedef struct cuda_window { /* the attention work list of one window */
    int32_t window;
    gpu_attention_list *list;      /* device */
    gpu_attention_list *pinned[2]; /* filled in turn */
    int64_t kv_blocks[OPS_MAX_KV_GROUPS]; /* of the cache that it reads of this group; 0: it reads none */
    bool checked[OPS_MAX_KV_GROUPS];      /* in this step: the blocks it reads exist */
} cuda_window;
enum { CUDA_WINDOWS = 8 };

struct ops_batch {
    ops_batch_limits limits;
    char *device;          /* gpu_step, then the arrays of the step, one after the other */
    size_t bytes;
    char *pinned[2];       /* the same, filled in turn */
    cudaEvent_t used[2];   /* when the device has taken it */
    int which;
    int32_t max_slots;     /* of attention's scratch */
    size_t list_bytes;
    cuda_window windows[CUDA_WINDOWS];
    int n_windows;
    gpu_rope ropes[OPS_MAX_ROPES];
    float *rope_memory;
    /* the step, on the host */
    int32_t n_rows, n_spans, n_out;
    ops_span *spans;
    const int32_t *tables[OPS_MAX_KV_GROUPS]; /* in pinned memory */
    int32_t n_table[OPS_MAX_KV_GROUPS];
};

/* The rows a launch is made for, and where the device finds how many there are (NULL: as many). */
static inline int32_t cuda_rows(const ops_ctx *ctx, int32_t rows)
{
    return ctx->graph_batch != NULL ? ctx->graph->rows : rows;
}

static inline const int32_t *cuda_n(const ops_ctx *ctx)
{
    return ctx->graph_batch != NULL ? &((const gpu_step *)(const void *)ctx->graph_batch->device)->n_rows : NULL;
}

static inline const gpu_step *cuda_step(const ops_batch *b)
{
    return (const gpu_step *)(const void *)b->device;
}

/* ---- cuda.c ---- */
const ops_backend *cuda_backend(void);
status cuda_enter(ops_ctx *ctx); /* makes the context's device this thread's */
status cuda_block_grow(ops_ctx *ctx, cuda_block *b, size_t bytes, const char *what);

/* ---- cuda_buffer.c ---- */
status cuda_buf_create(ops_ctx *ctx, size_t bytes, const char *what, ops_buf **out);
status cuda_buf_wrap(ops_ctx *ctx, void *memory, size_t bytes, ops_buf **out);
void cuda_buf_destroy(ops_ctx *ctx, ops_buf **buf);
status cuda_buf_write(ops_ctx *ctx, ops_buf *buf, size_t offset, const void *src, size_t bytes);
status cuda_buf_read(ops_ctx *ctx, const ops_buf *buf, size_t offset, void *dst, size_t bytes);
void *cuda_buf_map(ops_ctx *ctx, ops_buf *buf);
const float *cuda_mat_part(ops_ctx *ctx, const ops_mat *m);
/* The device's address of host memory that was wrapped, or of a buffer's own; NULL if it is neither for all `bytes`. */
const void *cuda_address(const ops_ctx *ctx, const void *p, size_t bytes);
/* Host memory of any kind to the device, on the stream of the operations.  src is free at return. */
status cuda_upload(ops_ctx *ctx, void *device, const void *src, size_t bytes, const char *what);
/* The turned weight that some of these bytes belong to, NULL if none. */
const cuda_turned *cuda_buf_turned(const ops_buf *buf, size_t offset, size_t bytes);
status cuda_buf_turn(ops_buf *buf, const cuda_turned *t);
/* Room for so many bytes on their way to the host. */
status cuda_results_reserve(ops_ctx *ctx, size_t bytes);
/* Device memory to `to`, which is written at the next sync. */
status cuda_download(ops_ctx *ctx, const void *device, void *to, size_t bytes, const char *what);
status cuda_sync(ops_ctx *ctx);

/* ---- cuda_batch.c ---- */
status cuda_batch_create(ops_ctx *ctx, const ops_batch_limits *limits, ops_batch **out);
void cuda_batch_destroy(ops_ctx *ctx, ops_batch **batch);
status cuda_batch_set(ops_ctx *ctx, ops_batch *batch, const ops_batch_desc *desc);
/* The work list of a window, made now if no step had it before. */
status cuda_batch_window(ops_ctx *ctx, ops_batch *b, int32_t window, cuda_window **out);

/* Every block of this group that this window sees exists; looked at once a step. */
status cuda_batch_check_read(const ops_batch *b, cuda_window *w, int32_t kv_group, int64_t n_blocks);

/* ---- cuda_graph.c ---- */
status cuda_graph_begin(ops_ctx *ctx, ops_batch *batch, bool *played);
status cuda_graph_end(ops_ctx *ctx);
void cuda_graphs_destroy(ops_ctx *ctx);

/* ---- cuda_time.c ---- */
void cuda_time_mark(ops_ctx *ctx, int32_t what);
status cuda_time_read(ops_ctx *ctx, double seconds[OPS_TIMES]);
/* A recording's marks are read before it is played again, and wait to be read from then on. */
status cuda_times_before_play(ops_ctx *ctx, cuda_graph *g);
status cuda_times_after_play(ops_ctx *ctx, cuda_graph *g);
void cuda_times_destroy(cuda_times *t);

/* ---- cuda_ops.c ---- */
status cuda_mat_check(const char *op, const char *name, const ops_mat *m, int32_t rows, int32_t cols);
gpu_mat cuda_mat(const ops_mat *m);
/* *out NULL where the vector is absent. */
status cuda_vec_at(const char *op, const ops_vec *v, int32_t least, const float **out);
gpu_weight cuda_weight(const ops_weight *w, const packed_layout *l);
size_t cuda_kv_block_bytes(const ops_kv_spec *spec);
status cuda_kv_create(ops_ctx *ctx, const ops_kv_spec *spec, ops_kv **out);
void cuda_kv_destroy(ops_ctx *ctx, ops_kv **kv);
status cuda_kv_copy_block(ops_ctx *ctx, ops_kv *kv, int32_t from, int32_t to);
ops_type cuda_linear_input(const ops_ctx *ctx, packed_type type);
status cuda_embed(ops_ctx *ctx, const ops_batch *batch, const ops_embed_args *args);
status cuda_norm(ops_ctx *ctx, const ops_batch *batch, const ops_norm_args *args);
status cuda_linear(ops_ctx *ctx, const ops_linear_args *args);
status cuda_sumsq(ops_ctx *ctx, const ops_sumsq_args *args);
status cuda_qkv(ops_ctx *ctx, const ops_batch *batch, const ops_qkv_args *args);
status cuda_attention(ops_ctx *ctx, const ops_batch *batch, const ops_attention_args *args);
status cuda_gate(ops_ctx *ctx, const ops_gate_args *args);

/* ---- cuda_blaslt.c ---- */
typedef struct cuda_product { /* by a weight that is turned */
    const cuda_gemm *gemm;
    gpu_weight w;
    const float *bias;
    gpu_mat y;
    bool straight; /* y may be written by cuBLASLt itself, where nothing is to be added to it */
} cuda_product;
#ifdef CUDA_BLASLT
/* By ops_ctx_options.gemm; ctx->blaslt stays NULL where the own kernels are to multiply. */
status cuda_blaslt_create(ops_ctx *ctx, const char *gemm);
void cuda_blaslt_destroy(ops_ctx *ctx);
status cuda_weight_ready(ops_ctx *ctx, const ops_weight *w);
/* How many rows of x are read for so many: whole tiles. */
int32_t cuda_blaslt_rows(const cuda_gemm *g, int32_t rows);
bool cuda_gemm_is_f8(const cuda_gemm *g);
/* x (f32) in fp8 for whole tiles of all products that are by fp8 weights; while memory is reserved it is only taken. */
status cuda_blaslt_codes(ops_ctx *ctx, const cuda_product *p, int32_t n_products, const gpu_mat *x, int32_t rows, const int32_t *n);
/* x: bf16, with memory for cuda_blaslt_rows, or as cuda_blaslt_codes left it; rows and n as for kernels. */
status cuda_blaslt_linear(ops_ctx *ctx, const cuda_product *p, const gpu_mat *x, int32_t rows, const int32_t *n, bool accumulate);
#endif

/* ---- cuda_moe.c ---- */
/* Rows of a matrix of pairs, rows that a launch is made for, and where the device finds how many there are. */
void cuda_pairs(const ops_routing *r, int32_t *rows, int32_t *bound, const int32_t **n);
status cuda_routing_create(ops_ctx *ctx, const ops_routing_spec *spec, ops_routing **out);
void cuda_routing_destroy(ops_ctx *ctx, ops_routing **routing);
status cuda_route(ops_ctx *ctx, const ops_route_args *args);
status cuda_dispatch(ops_ctx *ctx, const ops_dispatch_args *args);
status cuda_experts(ops_ctx *ctx, const ops_experts_args *args);
status cuda_combine(ops_ctx *ctx, const ops_combine_args *args);

/* ---- cuda_sample.c ---- */
status cuda_sample(ops_ctx *ctx, const ops_sample_args *args);

/* ---- cuda_plugin.c ---- */
extern const bool cuda_emulated;
extern const char *const cuda_built_for;

#endif
