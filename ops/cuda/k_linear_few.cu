/* ops/cuda/k_linear_few.cu - up to 16 rows of x against packed weights of integers or bf16 (k_linear_few.cuh). */
#include "ops/cuda/k_linear_few.cuh"

/* Grid: x pairs of panels, y tiles of rows. */
template <int T, int TILES> __global__ void __launch_bounds__(LINEAR_WARPS * 32, 2 / TILES) k_linear_few(const __grid_constant__ linear_job job)
{
    GPU_SHARED(uint4, shared, [few_words<T, TILES>()]);
    linear_row_range rows = {static_cast<int32_t>(blockIdx.y) * TILES * 8, linear_rows(job)};
    if (rows.row0 >= rows.end)
        return;
    const linear_part &part = job.part[linear_part_of_block(job, static_cast<int32_t>(blockIdx.x))];
    linear_few_block<T, TILES>(job, part, rows, static_cast<int32_t>(blockIdx.x) - part.first_block, shared);
}

template <int T> static cudaError_t few(const linear_job *j, int32_t blocks, cudaStream_t s)
{
    dim3 block(LINEAR_WARPS * 32);
    if (j->rows <= 8)
        return GPU_LAUNCH((k_linear_few<T, 1>), dim3(static_cast<unsigned>(blocks)), block, 0, s, *j);
    return GPU_LAUNCH((k_linear_few<T, 2>), dim3(static_cast<unsigned>(blocks), static_cast<unsigned>((j->rows + 15) / 16)), block, 0, s, *j);
}

cudaError_t linear_few(const linear_job *j, int32_t blocks, cudaStream_t s)
{
    switch (j->part[0].w.type) {
#define CASE(T) \
    case T:     \
        return few<T>(j, blocks, s);
        LINEAR_TENSOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}
