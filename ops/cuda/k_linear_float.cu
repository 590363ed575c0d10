/* ops/cuda/k_linear_float.cu - f32, f16 and fp8 weights times f32 rows, by multiply-add (k_linear_float.cuh). */
#include "ops/cuda/k_linear_float.cuh"

/* Grid: x panels, y tiles of ROWS rows. */
template <int T, int ROWS> __global__ void __launch_bounds__(LINEAR_WARPS * 32, ROWS == 1 ? 2 : 1) k_linear_float(const __grid_constant__ linear_job job)
{
    GPU_SHARED(float, sums, [LINEAR_WARPS][ROWS][16]);
    linear_row_range rows = {static_cast<int32_t>(blockIdx.y) * ROWS, linear_rows(job)};
    if (rows.row0 >= rows.end)
        return;
    const linear_part &part = job.part[linear_part_of_block(job, static_cast<int32_t>(blockIdx.x))];
    linear_float_block<T, ROWS>(job, part, rows, static_cast<int32_t>(blockIdx.x) - part.first_block, sums);
}

template <int T> static cudaError_t floats(const linear_job *j, int32_t blocks, cudaStream_t s)
{
    dim3 block(LINEAR_WARPS * 32);
    if (j->rows == 1)
        return GPU_LAUNCH((k_linear_float<T, 1>), dim3(static_cast<unsigned>(blocks)), block, 0, s, *j);
    return GPU_LAUNCH((k_linear_float<T, 8>), dim3(static_cast<unsigned>(blocks), static_cast<unsigned>((j->rows + 7) / 8)), block, 0, s, *j);
}

cudaError_t linear_float(const linear_job *j, int32_t blocks, cudaStream_t s)
{
    switch (j->part[0].w.type) {
    case PACKED_F32:
        return floats<PACKED_F32>(j, blocks, s);
    case PACKED_F16:
        return floats<PACKED_F16>(j, blocks, s);
    default:
        return floats<PACKED_F8>(j, blocks, s);
    }
}
