/* ops/cuda/k_linear_many.cu - more than a few rows of x against packed weights of integers or bf16 (k_linear_many.cuh). */
#include "ops/cuda/k_linear_many.cuh"

/* Grid: x 128 outputs, y 32 rows, z segments or 1. */
template <int T> __global__ void __launch_bounds__(MANY_WARPS * 32, 3) k_linear_many(const __grid_constant__ linear_job job)
{
    GPU_SHARED(x_stage<T>, stage, [MANY_STAGES]);
    GPU_SHARED(float, total, [MANY_TILES * 8][MANY_WARPS * 32]);
    linear_row_range rows = {static_cast<int32_t>(blockIdx.y) * LINEAR_TILE_ROWS, linear_rows(job)};
    if (rows.row0 >= rows.end)
        return;
    const linear_part &part = job.part[linear_part_of_block(job, static_cast<int32_t>(blockIdx.x))];
    linear_many_block<T>(job, part, rows, static_cast<int32_t>(blockIdx.x) - part.first_block, gridDim.z > 1, stage, total);
}

/* y = the segments' sums in order.  A thread an output, the grid's y a row.  Limit: memory (the L2 cache, mostly). */
static __global__ void __launch_bounds__(256) k_linear_merge(const __grid_constant__ linear_job job)
{
    int32_t row = static_cast<int32_t>(blockIdx.y), out = static_cast<int32_t>(blockIdx.x * 256 + threadIdx.x);
    if (row >= linear_rows(job) || out >= job.out)
        return;
    int i = 0;
    while (i + 1 < job.n_parts && out >= job.part[i + 1].first_out)
        i++;
    const float *from = job.partial + static_cast<int64_t>(row) * job.out + out;
    float sum = *from;
    for (int32_t s = 1; s < job.segments; s++)
        sum += from[static_cast<int64_t>(s) * job.rows * job.out];
    linear_store(job.part[i], job.accumulate, row, out - job.part[i].first_out, sum);
}

template <int T> static cudaError_t many(const linear_job *j, int32_t blocks, bool split, cudaStream_t s)
{
    dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>((j->rows + LINEAR_TILE_ROWS - 1) / LINEAR_TILE_ROWS), split ? static_cast<unsigned>(j->segments) : 1);
    cudaError_t e = GPU_LAUNCH((k_linear_many<T>), grid, dim3(MANY_WARPS * 32), 0, s, *j);
    if (e != cudaSuccess || !split)
        return e;
    dim3 merge(static_cast<unsigned>((j->out + 255) / 256), static_cast<unsigned>(j->rows));
    return GPU_LAUNCH(k_linear_merge, merge, dim3(256), 0, s, *j);
}

cudaError_t linear_many(const linear_job *j, int32_t blocks, bool split, cudaStream_t s)
{
    switch (j->part[0].w.type) {
#define CASE(T) \
    case T:     \
        return many<T>(j, blocks, split, s);
        LINEAR_TENSOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}
