/* ops/cuda/k_linear.cu - y[i] = x w[i]^T (+ bias) (+ y): which kernel computes what (k_linear.cuh has the idea and the order of the sums).
 *
 * Weights of one call that have the same type share a launch.  The choice of kernel goes by the number of rows and outputs; no bit of a result does. */
#include "ops/cuda/k_linear.cuh"

#define ENOUGH_BLOCKS 512 /* of k_linear_many: about four an SM of the largest devices; with fewer, k is split over blocks */

ops_type gpu_linear_input(packed_type type)
{
    return type == PACKED_BF16 ? OPS_BF16 : linear_is_float(type) ? OPS_F32 : OPS_Q8;
}

static int64_t many_blocks(int32_t rows, int64_t out_blocks)
{
    return (static_cast<int64_t>(rows) + LINEAR_TILE_ROWS - 1) / LINEAR_TILE_ROWS * out_blocks;
}

int64_t gpu_linear_scratch(int32_t max_rows, int32_t max_out, int32_t max_cols)
{
    linear_job j;
    linear_segments_of(&j, max_cols, 32);
    if (max_rows <= LINEAR_FEW_ROWS || j.ways == 1)
        return 0;
    /* A launch (of all weights, or of those of one type) is split only below so many outputs x rows. */
    int64_t all = static_cast<int64_t>(max_rows) * max_out, most = static_cast<int64_t>(ENOUGH_BLOCKS) * LINEAR_TILE_ROWS * LINEAR_TILE_OUT;
    return j.ways * (all < most ? all : most);
}

/* The weights of one type. */
static cudaError_t launch(linear_job *j, cudaStream_t s)
{
    int32_t type = j->part[0].w.type;
    bool few = !linear_is_float(type) && j->rows <= LINEAR_FEW_ROWS;
    linear_segments_of(j, j->x.cols, linear_unit(type));
    /* Panels of a block. */
    int32_t each = linear_is_float(type) ? LINEAR_WARPS / j->ways : few ? 2 * LINEAR_WARPS / j->ways : LINEAR_TILE_OUT / 16, blocks = 0;
    for (int i = 0; i < j->n_parts; i++) {
        j->part[i].first_block = blocks;
        j->part[i].first_out = j->out;
        blocks += (j->part[i].w.panels + each - 1) / each;
        j->out += j->part[i].w.rows;
    }
    if (linear_is_float(type))
        return linear_float(j, blocks, s);
    if (few)
        return linear_few(j, blocks, s);
    bool split = j->partial != nullptr && j->segments > 1 && many_blocks(j->rows, blocks) < ENOUGH_BLOCKS;
    return linear_many(j, blocks, split, s);
}

cudaError_t k_linear(int32_t rows, const int32_t *n, const gpu_linear *a, cudaStream_t s)
{
    bool done[OPS_MAX_FUSED] = {};
    if (rows <= 0)
        return cudaSuccess;
    for (int32_t i = 0; i < a->n; i++) {
        if (done[i])
            continue;
        linear_job j = {};
        j.x = a->x;
        j.n = n;
        j.rows = rows;
        j.accumulate = a->accumulate;
        j.partial = a->partial;
        for (int32_t k = i; k < a->n; k++) {
            if (a->w[k].type != a->w[i].type)
                continue;
            done[k] = true;
            linear_part *p = &j.part[j.n_parts++];
            p->w = a->w[k];
            p->bias = a->bias[k];
            p->y = a->y[k];
        }
        cudaError_t e = launch(&j, s);
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}
