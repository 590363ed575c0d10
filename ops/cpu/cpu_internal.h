/* ops/cpu/cpu_internal.h - what the files of the CPU backend share.  Stays in this folder.
 *
 * Levels: every kernel exists as plain C and is compiled again, from the same source where lanes suffice (vec.h: 16 virtual lanes)
 * or with its own intrinsics where they do not (linear_*.c), for each instruction set; cpu.c picks a table once from what the machine has. */
#ifndef OPS_CPU_CPU_INTERNAL_H
#define OPS_CPU_CPU_INTERNAL_H

#include "base/threads.h"
#include "ops/ops.h"

/* avx2: AVX2 FMA F16C; avx512: F BW DQ VL VNNI; amx: avx512 + BF16 + AMX-TILE/INT8/BF16. */
typedef enum cpu_isa { CPU_ISA_C, CPU_ISA_AVX2, CPU_ISA_AVX512, CPU_ISA_AVX512BF16, CPU_ISA_AMX, CPU_ISAS } cpu_isa;

typedef struct cpu_vec_kernels cpu_vec_kernels;       /* vec kernels of one level: cpu_vec.h */
typedef struct cpu_linear_kernels cpu_linear_kernels; /* products of one level: cpu_linear.h */

struct ops_buf {
    char *data;
    size_t bytes;
    bool owned;
};

struct ops_ctx {
    threads_pool *pool;
    int n_threads, max_threads; /* of this step; with those on lent cores */
    cpu_isa isa;
    const cpu_vec_kernels *vec;
    const cpu_linear_kernels *linear;
    int32_t max_rows, max_cols;
    char *quantise_scratch;  /* cpu_quantise_scratch_bytes, 64-byte aligned: a linear that is given F32 for a weight that wants another format converts here */
    char *thread_scratch;    /* max_threads x thread_scratch_bytes, 64-byte aligned */
    size_t thread_scratch_bytes;
    float *rows_scratch;     /* max_rows x max_cols: attention's result before it is converted */
    float *partials;         /* attention's chunk results; grown on demand, n_partials floats */
    size_t n_partials, scratch_bytes; /* scratch_bytes: of thread, quantise and rows scratch together */
    char description[128], numerics_name[128];
};

/* What the last route found.  A pair is row * top_k + choice; a position is a pair's place in the order by expert, then by row. */
struct ops_routing {
    ops_routing_spec spec;
    int32_t rows;
    int32_t *expert; /* [pairs] */
    float *weight;   /* [pairs] */
    int32_t *place;  /* [pairs] position; another rank's pairs: -1 */
    int32_t *order;  /* [positions] pair */
    int32_t *offset; /* [n_local + 1] position where an expert's pairs begin; the last: how many there are */
    char *scratch;   /* of each thread, CPU_ROUTING_SCRATCH bytes */
    void *memory;    /* all of these */
    size_t bytes;
};
#define CPU_ROUTING_SCRATCH (512 * 1024) /* rows gathered for a product; keys while a row's experts are chosen */

/* How many pairs this rank has. */
static inline int32_t cpu_pairs(const ops_routing *r)
{
    return r->offset[r->spec.n_local];
}

static inline void *cpu_row(const ops_mat *m, int32_t row)
{
    return m->buf->data + m->offset + (size_t)row * m->stride;
}

/* OPS_Q8 row of `cols`: with K = cols rounded up to 64 and G = K / 32 groups
 *   int8 codes [K] | f32 scale [G] | int32 sum of the 32 codes [G] | f32 scale * sum [G] | int32 sum of each 16 [2G] | f32 scale * sum of 16 [2G]
 * (padding zero; the whole a multiple of 64 bytes).  scale = amax / 127, code = round-half-even(x * (127 / amax)); amax 0 gives scale 0 and codes 0. */
static inline size_t cpu_q8_padded(int32_t cols)
{
    return ((size_t)cols + 63) / 64 * 64;
}
static inline size_t cpu_q8_row_bytes(int32_t cols)
{
    size_t k = cpu_q8_padded(cols);
    return (k + k / 32 * 28 + 63) / 64 * 64;
}
static inline const float *cpu_q8_scales(const void *row, int32_t cols)
{
    return (const float *)((const char *)row + cpu_q8_padded(cols));
}
static inline const int32_t *cpu_q8_sums(const void *row, int32_t cols) /* of each 16 codes */
{
    size_t k = cpu_q8_padded(cols);
    return (const int32_t *)((const char *)row + k + k / 32 * 12);
}
/* Bytes of ops_ctx.quantise_scratch: the rows of a step in both formats that F32 is converted to (weights of one call may want different ones). */
static inline size_t cpu_quantise_scratch_bytes(int32_t max_rows, int32_t max_cols)
{
    return (size_t)max_rows * (cpu_q8_row_bytes(max_cols) + ops_row_bytes(OPS_BF16, max_cols));
}

/* linear.c: the table's linear, experts and linear_input; and one row f32 -> OPS_Q8 (also used by norm, gate and attention for their outputs). */
status cpu_linear(ops_ctx *ctx, const ops_linear_args *args);
status cpu_experts(ops_ctx *ctx, const ops_experts_args *args);
ops_type cpu_linear_input(const ops_ctx *ctx, packed_type type);
const cpu_linear_kernels *cpu_linear_kernels_of(cpu_isa isa); /* NULL: not built in */
size_t cpu_linear_scratch_bytes(int32_t max_rows, int32_t max_cols); /* per thread */
status cpu_peaks(ops_ctx *ctx, size_t memory, ops_peaks *out); /* cpu_peaks.c */
void cpu_quantise_row(const ops_ctx *ctx, const float *x, int32_t cols, void *row);

#endif
