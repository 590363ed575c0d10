/* ops/cuda/k_experts.cu - the products of layers of experts: each pair's row of x times its expert's weights, by the blocks of k_linear_few, _many and _float, so in the
 * bits of a linear.
 *
 * A block of the grid's y takes one tile of the routing's list (k_moe.cu), positions of one expert, and one of its x some outputs of that expert's matrix.  The grid is
 * made for as many tiles as there can be; a block without one leaves after reading how many there are.  Limits: with tiles of 8 rows, those of few pairs an
 * expert, memory: every chosen expert's weights are read once for each of its tiles, all but the first time mostly from L2; with tiles of 32, those of k_linear_many. */
#include "ops/cuda/k_linear_few.cuh"
#include "ops/cuda/k_linear_float.cuh"
#include "ops/cuda/k_linear_many.cuh"

#define FLOAT_ROWS 8

typedef struct experts_tiles {
    const gpu_expert_tile *tiles;
    const int32_t *n_tiles;
    const int32_t *order;          /* x has a row for each row, to be found by the pair; NULL: for each position */
    int32_t top_k, tile_rows;
    int64_t stride[OPS_MAX_FUSED]; /* of the job's parts */
} experts_tiles;

/* Positions [row0, end). */
struct expert_rows {
    int32_t row0, end;
    const int32_t *order;
    int32_t top_k;
    GPU_MEMBER int32_t x_row(int32_t r) const
    {
        r = r < end ? r : end - 1;
        return order == nullptr ? r : order[r] / top_k;
    }
};

/* The tile's positions from `first` on (a block of few rows has a part of a tile), and the part as it is for the tile's expert; false: there is nothing to do. */
GPU_FN bool expert_block(const linear_job &job, const experts_tiles &t, int32_t tile, int32_t first, expert_rows &rows, linear_part &part)
{
    if (tile >= *t.n_tiles)
        return false;
    const gpu_expert_tile at = t.tiles[tile];
    rows = {at.begin + first, at.end, t.order, t.top_k};
    if (rows.row0 >= rows.end)
        return false;
    const int i = linear_part_of_block(job, static_cast<int32_t>(blockIdx.x));
    part = job.part[i];
    part.w.p = static_cast<const char *>(part.w.p) + at.expert * t.stride[i];
    if (part.bias != nullptr)
        part.bias += static_cast<int64_t>(at.expert) * part.w.rows;
    return true;
}

/* Grid: x pairs of panels, y tiles of 8 positions. */
template <int T> __global__ void __launch_bounds__(LINEAR_WARPS * 32, 2) k_experts_few(const __grid_constant__ linear_job job, const __grid_constant__ experts_tiles t)
{
    GPU_SHARED(uint4, shared, [few_words<T, 1>()]);
    expert_rows rows;
    linear_part part;
    if (!expert_block(job, t, static_cast<int32_t>(blockIdx.y), 0, rows, part))
        return;
    linear_few_block<T, 1>(job, part, rows, static_cast<int32_t>(blockIdx.x) - part.first_block, shared);
}

/* Blocks an SM: what finds an expert's rows and weights takes registers, and in three of a kind these formats would have none left. */
template <int T> static constexpr int many_blocks = T == PACKED_Q3_K || T == PACKED_Q5_K || T == PACKED_Q6_K ? 2 : 3;

/* Grid: x 128 outputs, y tiles of 32 positions. */
template <int T>
__global__ void __launch_bounds__(MANY_WARPS * 32, many_blocks<T>) k_experts_many(const __grid_constant__ linear_job job, const __grid_constant__ experts_tiles t)
{
    GPU_SHARED(x_stage<T>, stage, [MANY_STAGES]);
    GPU_SHARED(float, total, [MANY_TILES * 8][MANY_WARPS * 32]);
    expert_rows rows;
    linear_part part;
    if (!expert_block(job, t, static_cast<int32_t>(blockIdx.y), 0, rows, part))
        return;
    linear_many_block<T>(job, part, rows, static_cast<int32_t>(blockIdx.x) - part.first_block, false, stage, total);
}

/* Grid: x panels, y 8 positions of a tile. */
template <int T> __global__ void __launch_bounds__(LINEAR_WARPS * 32) k_experts_float(const __grid_constant__ linear_job job, const __grid_constant__ experts_tiles t)
{
    GPU_SHARED(float, sums, [LINEAR_WARPS][FLOAT_ROWS][16]);
    expert_rows rows;
    linear_part part;
    const int32_t each = t.tile_rows / FLOAT_ROWS, block = static_cast<int32_t>(blockIdx.y);
    if (!expert_block(job, t, block / each, block % each * FLOAT_ROWS, rows, part))
        return;
    linear_float_block<T, FLOAT_ROWS>(job, part, rows, static_cast<int32_t>(blockIdx.x) - part.first_block, sums);
}

/* The weights of one type, for so many tiles. */
static cudaError_t launch(linear_job *j, const experts_tiles *t, int32_t tiles, cudaStream_t s)
{
    const int32_t type = j->part[0].w.type;
    const bool few = !linear_is_float(type) && t->tile_rows == 8;
    linear_segments_of(j, j->x.cols, linear_unit(type));
    int32_t each = linear_is_float(type) ? LINEAR_WARPS / j->ways : few ? 2 * LINEAR_WARPS / j->ways : LINEAR_TILE_OUT / 16, blocks = 0;
    for (int i = 0; i < j->n_parts; i++) {
        j->part[i].first_block = blocks;
        blocks += (j->part[i].w.panels + each - 1) / each;
    }
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(linear_is_float(type) ? tiles * (t->tile_rows / FLOAT_ROWS) : tiles));
    switch (type) {
    case PACKED_F32:
        return GPU_LAUNCH((k_experts_float<PACKED_F32>), grid, dim3(LINEAR_WARPS * 32), 0, s, *j, *t);
    case PACKED_F16:
        return GPU_LAUNCH((k_experts_float<PACKED_F16>), grid, dim3(LINEAR_WARPS * 32), 0, s, *j, *t);
    case PACKED_F8:
        return GPU_LAUNCH((k_experts_float<PACKED_F8>), grid, dim3(LINEAR_WARPS * 32), 0, s, *j, *t);
#define CASE(T) \
    case T:     \
        return few ? GPU_LAUNCH((k_experts_few<T>), grid, dim3(LINEAR_WARPS * 32), 0, s, *j, *t) : GPU_LAUNCH((k_experts_many<T>), grid, dim3(MANY_WARPS * 32), 0, s, *j, *t);
        LINEAR_TENSOR_TYPES(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t k_experts(int32_t rows, const gpu_experts *a, cudaStream_t s)
{
    bool done[OPS_MAX_FUSED] = {};
    const gpu_routing &r = a->routing;
    const int32_t pairs = rows * r.top_k;
    if (pairs <= 0 || r.n_local == 0)
        return cudaSuccess;
    experts_tiles t = {r.tiles, r.n_tiles, a->x_by_row ? r.order : nullptr, r.top_k, gpu_expert_tile_rows(pairs, r.n_experts), {}};
    for (int32_t i = 0; i < a->n; i++) {
        if (done[i])
            continue;
        linear_job j = {};
        j.x = a->x;
        for (int32_t k = i; k < a->n; k++) {
            if (a->w[k].type != a->w[i].type)
                continue;
            done[k] = true;
            t.stride[j.n_parts] = a->stride[k];
            linear_part *p = &j.part[j.n_parts++];
            p->w = a->w[k];
            p->bias = a->bias[k];
            p->y = a->y[k];
        }
        cudaError_t e = launch(&j, &t, gpu_expert_tiles(pairs, r.n_local, t.tile_rows), s);
        if (e != cudaSuccess)
            return e;
    }
    return cudaSuccess;
}
