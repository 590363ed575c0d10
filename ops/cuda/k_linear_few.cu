/* ops/cuda/k_linear_few.cu - up to 16 rows of x against packed weights of integers or bf16, on the matrix units (see k_linear.cuh).
 *
 * A block of 8 warps takes 8 / ways pairs of panels; the warps of one pair take a segment of k each, and the block adds the segments.  Weights are read once, 16
 * bytes a lane, straight from memory into registers; x comes from L1 and L2.  Limit: the memory's bandwidth.  Each warp keeps 3 or 4 units of its two panels
 * under way: 4 bits 2 KiB of codes, 8 bits 3, bf16 4, beside scales, so 16 to 32 KiB with one block an SM; two fit. */
#include "ops/cuda/k_linear.cuh"

/* Units under way; with more than 128 registers a thread the second block would not fit. */
template <int T, int TILES> static constexpr int depth_of = TILES == 1 && T != PACKED_BF16 && (linear_format<T>::loads == 2 || linear_format<T>::groups == 2) ? 3 : 4;

/* Unit of rows of x: b_row is row g's, scale_row those of rows 2 t and 2 t + 1. */
template <int T>
GPU_FN void x_load(x_unit<T> &x, const x_planes<T> &at, const char *b_row, const char *const (&scale_row)[2], int32_t unit, int t, int32_t cols)
{
    using f = linear_format<T>;
    x.b = *reinterpret_cast<const uint2 *>(b_row + static_cast<int64_t>(unit) * 32 + 8 * t);
    x_cut<T>(x.b, unit, t, cols);
    if (T == PACKED_BF16)
        return;
    LINEAR_UNROLL
    for (int c = 0; c < 2; c++) {
        x.scale[c] = *reinterpret_cast<const float *>(scale_row[c] + at.scale + static_cast<int64_t>(unit) * 4);
        LINEAR_UNROLL
        for (int i = 0; f::has_min && i < f::groups; i++)
            x.scaled[i][c] = *reinterpret_cast<const float *>(scale_row[c] + at.scaled + (static_cast<int64_t>(unit) * f::groups + i) * 4);
    }
}

/* TILES of 8 rows.  Grid: x pairs of panels, y tiles of rows. */
template <int T, int TILES> __global__ void __launch_bounds__(LINEAR_WARPS * 32, 2 / TILES) k_linear_few(const __grid_constant__ linear_job job)
{
    using f = linear_format<T>;
    constexpr int depth = depth_of<T, TILES>;
    GPU_SHARED(float, sums, [LINEAR_WARPS][TILES * 8][33]);
    int32_t rows = linear_rows(job), row0 = static_cast<int32_t>(blockIdx.y) * TILES * 8;
    if (row0 >= rows)
        return;
    const linear_part &part = job.part[linear_part_of_block(job, static_cast<int32_t>(blockIdx.x))];
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    int pairs = LINEAR_WARPS / job.ways, segment = warp % job.ways;
    int32_t pair0 = (static_cast<int32_t>(blockIdx.x) - part.first_block) * pairs, pair = pair0 + warp / job.ways;
    int32_t panel = pair * 2 + g / 4, last = part.w.panels - 1;
    int32_t begin = segment * job.segment_units, end = begin + job.segment_units;
    if (end > job.units)
        end = job.units;
    if (pair * 2 > last)
        end = begin;
    const char *at = static_cast<const char *>(part.w.p) + (panel < last ? panel : last) * part.w.panel_bytes;

    /* Rows that do not exist are the last one again: computed and not stored. */
    x_planes<T> planes = x_planes_of<T>(job.x.cols);
    const char *b_row[TILES], *scale_row[TILES][2];
    LINEAR_UNROLL
    for (int i = 0; i < TILES; i++) {
        int32_t r[3] = {row0 + i * 8 + g, row0 + i * 8 + 2 * t, row0 + i * 8 + 2 * t + 1};
        b_row[i] = static_cast<const char *>(job.x.p) + (r[0] < rows ? r[0] : rows - 1) * job.x.stride;
        scale_row[i][0] = static_cast<const char *>(job.x.p) + (r[1] < rows ? r[1] : rows - 1) * job.x.stride;
        scale_row[i][1] = static_cast<const char *>(job.x.p) + (r[2] < rows ? r[2] : rows - 1) * job.x.stride;
    }

    float acc[TILES][2][4] = {};
    weight_unit<T> w[depth];
    x_unit<T> x[depth][TILES];
    weight_supers supers;
    supers_begin<T>(supers, part.w, at, begin, g % 4);
    LINEAR_UNROLL
    for (int d = 0; d < depth; d++) {
        if (begin + d >= end)
            continue;
        weight_load<T>(w[d], part.w, at, begin + d, g % 4, t);
        LINEAR_UNROLL
        for (int i = 0; i < TILES; i++)
            x_load<T>(x[d][i], planes, b_row[i], scale_row[i], begin + d, t, job.x.cols);
    }
    for (int32_t unit = begin; unit < end; unit += depth) {
        LINEAR_UNROLL
        for (int d = 0; d < depth; d++) {
            if (unit + d >= end)
                continue;
            uint32_t a[2][4];
            float scale[f::groups][4], min[f::groups][4];
            weight_codes<T>(w[d], t, a);
            if (T != PACKED_BF16) {
                LINEAR_UNROLL
                for (int i = 0; i < f::groups; i++)
                    weight_scales<T>(w[d], supers, part.w, at, unit + d, i, g % 4, scale[i], min[i]);
            }
            int32_t next = unit + d + depth;
            if (next < end)
                weight_load<T>(w[d], part.w, at, next, g % 4, t);
            LINEAR_UNROLL
            for (int i = 0; i < TILES; i++) {
                unit_add<T>(a, scale, min, x[d][i], t, acc[i]);
                if (next < end)
                    x_load<T>(x[d][i], planes, b_row[i], scale_row[i], next, t, job.x.cols);
            }
        }
    }

    LINEAR_UNROLL
    for (int i = 0; i < TILES; i++) {
        LINEAR_UNROLL
        for (int j = 0; j < 2; j++) {
            LINEAR_UNROLL
            for (int e = 0; e < 4; e++)
                sums[warp][i * 8 + j * 4 + e][lane] = acc[i][j][e];
        }
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < pairs * TILES * 8 * 32; e += LINEAR_WARPS * 32) {
        int o = e % 32, r = e / 32 % (TILES * 8), p = e / 32 / (TILES * 8);
        int index = r / 8 * 8 + o / 2 % 2 * 4 + o % 2 * 2 + r % 2, from = o / 4 * 4 + r / 2 % 4;
        int32_t out = (pair0 + p) * 32 + o;
        if (row0 + r >= rows || out >= part.w.rows)
            continue;
        float sum = sums[p * job.ways][index][from];
        for (int s = 1; s < job.segments; s++)
            sum += sums[p * job.ways + s][index][from];
        linear_store(part, job.accumulate, row0 + r, out, sum);
    }
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
        return few<T>(j, blocks, s)
        CASE(PACKED_BF16);
        CASE(PACKED_Q8_0);
        CASE(PACKED_Q4_0);
        CASE(PACKED_Q4_1);
        CASE(PACKED_Q5_0);
        CASE(PACKED_Q5_1);
        CASE(PACKED_Q2_K);
        CASE(PACKED_Q3_K);
        CASE(PACKED_Q4_K);
        CASE(PACKED_Q5_K);
        CASE(PACKED_Q6_K);
        CASE(PACKED_IQ4_NL);
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}
