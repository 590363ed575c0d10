/* ops/cuda/k_linear_many.cuh - more than a few rows of x against packed weights of integers or bf16 (see k_linear.cuh).
 *
 * A block of 4 warps computes 128 outputs x 32 rows: each warp has two panels of its own, which it reads as k_linear_few does, and all share x, which cp.async
 * brings into shared memory three stages of 4 units deep.  Where outputs and rows make too few blocks for the device, the grid's z is the segment of k, partial
 * takes the segments' sums, and k_linear_merge adds them.  Limits: with many rows of an integer format the multiply-adds of the scaled group sums (3 or 4
 * operations an output, row and group against 1/128 of an mma); of bf16 the matrix units and shared memory; with few rows memory. */
#ifndef OPS_CUDA_K_LINEAR_MANY_CUH
#define OPS_CUDA_K_LINEAR_MANY_CUH

#include "ops/cuda/k_linear.cuh"

#define MANY_WARPS 4
#define MANY_TILES (LINEAR_TILE_ROWS / 8)
#define MANY_STAGES 3
#define MANY_ROW_BYTES 160 /* of a row of a stage: 128, and 32 so that the four rows a half warp reads 8 bytes of lie in different banks */

template <int T> struct x_stage {
    using f = linear_format<T>;
    unsigned char codes[LINEAR_TILE_ROWS][MANY_ROW_BYTES];
    float scale[LINEAR_STAGE][LINEAR_TILE_ROWS];
    float scaled[f::has_min ? LINEAR_STAGE * f::groups : 1][LINEAR_TILE_ROWS];
};

/* The rows of x that a thread copies codes and scales of; those that do not exist are the last one again. */
struct stage_rows {
    static constexpr int n = LINEAR_TILE_ROWS * 8 / (MANY_WARPS * 32);
    int32_t codes[n], scale;
};
template <class Rows> GPU_FN stage_rows stage_rows_of(const Rows &rows)
{
    stage_rows s;
    LINEAR_UNROLL
    for (int i = 0; i < stage_rows::n; i++)
        s.codes[i] = rows.x_row(rows.row0 + static_cast<int>(threadIdx.x) / 8 + i * (MANY_WARPS * 4));
    s.scale = rows.x_row(rows.row0 + static_cast<int>(threadIdx.x) % LINEAR_TILE_ROWS);
    return s;
}

/* Begins the copy of units [unit, unit + 4). */
template <int T> GPU_FN void stage_load(x_stage<T> &st, const gpu_mat &x, const x_planes<T> &at, const stage_rows &from, int32_t unit)
{
    using f = linear_format<T>;
    const char *base = static_cast<const char *>(x.p);
    int tid = static_cast<int>(threadIdx.x);
    LINEAR_UNROLL
    for (int i = 0; i < stage_rows::n; i++) {
        int r = tid / 8 + i * (MANY_WARPS * 4), piece = tid % 8;
        int64_t k = static_cast<int64_t>(unit) * 32 + piece * 16;
        gpu_cp_async16_fill(&st.codes[r][piece * 16], base + from.codes[i] * x.stride + (k < at.codes ? k : 0), k < at.codes ? 16 : 0);
    }
    if (T == PACKED_BF16)
        return;
    int r = tid % LINEAR_TILE_ROWS, u = tid / LINEAR_TILE_ROWS;
    static_assert(MANY_WARPS * 32 == LINEAR_TILE_ROWS * LINEAR_STAGE, "a thread a scale");
    if (unit + u >= at.groups)
        return;
    gpu_cp_async4(&st.scale[u][r], base + from.scale * x.stride + at.scale + static_cast<int64_t>(unit + u) * 4);
    LINEAR_UNROLL
    for (int i = 0; f::has_min && i < f::groups; i++)
        gpu_cp_async4(&st.scaled[u * f::groups + i][r], base + from.scale * x.stride + at.scaled + (static_cast<int64_t>(unit + u) * f::groups + i) * 4);
}

template <int T> GPU_FN void stage_read(x_unit<T> &x, const x_stage<T> &st, int u, int tile, int g, int t, int32_t unit, int32_t cols)
{
    using f = linear_format<T>;
    x.b = *reinterpret_cast<const uint2 *>(&st.codes[tile * 8 + g][u * 32 + 8 * t]);
    x_cut<T>(x.b, unit, t, cols);
    if (T == PACKED_BF16)
        return;
    float2 s = *reinterpret_cast<const float2 *>(&st.scale[u][tile * 8 + 2 * t]);
    x.scale[0] = s.x, x.scale[1] = s.y;
    LINEAR_UNROLL
    for (int i = 0; f::has_min && i < f::groups; i++) {
        float2 m = *reinterpret_cast<const float2 *>(&st.scaled[u * f::groups + i][tile * 8 + 2 * t]);
        x.scaled[i][0] = m.x, x.scaled[i][1] = m.y;
    }
}

/* Block `block` of a part's outputs; split: the grid's z is the segment, whose sum goes to partial.  total: of the segments before this one, each thread its own. */
template <int T, class Rows>
GPU_FN void linear_many_block(const linear_job &job, const linear_part &part, const Rows &rows, int32_t block, bool split, x_stage<T> (&stage)[MANY_STAGES],
                              float (&total)[MANY_TILES * 8][MANY_WARPS * 32])
{
    using f = linear_format<T>;
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    int32_t out0 = block * LINEAR_TILE_OUT + warp * 32;
    int32_t panel = out0 / 16 + g / 4, last = part.w.panels - 1;
    const char *at = static_cast<const char *>(part.w.p) + (panel < last ? panel : last) * part.w.panel_bytes;
    int32_t begin = split ? static_cast<int32_t>(blockIdx.z) * job.segment_units : 0, end = split ? begin + job.segment_units : job.units;
    if (end > job.units)
        end = job.units;

    x_planes<T> planes = x_planes_of<T>(job.x.cols);
    stage_rows from = stage_rows_of(rows);
    weight_unit<T> w[LINEAR_STAGE];
    weight_supers supers;
    supers_begin<T>(supers, part.w, at, begin, g % 4);
    LINEAR_UNROLL
    for (int u = 0; u < LINEAR_STAGE; u++)
        if (begin + u < end)
            weight_load<T>(w[u], part.w, at, begin + u, g % 4, t);
    LINEAR_UNROLL
    for (int i = 0; i < MANY_STAGES - 1; i++) {
        if (begin + i * LINEAR_STAGE < end)
            stage_load<T>(stage[i], job.x, planes, from, begin + i * LINEAR_STAGE);
        gpu_cp_commit();
    }

    float acc[MANY_TILES][2][4] = {};
    int32_t segment_end = begin + job.segment_units;
    int at_stage = 0;
    for (int32_t unit = begin; unit < end; unit += LINEAR_STAGE) {
        gpu_cp_wait<MANY_STAGES - 2>();
        __syncthreads(); /* the stage has come for all, and all are done with the one before, which is filled again */
        int fill = at_stage == 0 ? MANY_STAGES - 1 : at_stage - 1;
        if (unit + (MANY_STAGES - 1) * LINEAR_STAGE < end)
            stage_load<T>(stage[fill], job.x, planes, from, unit + (MANY_STAGES - 1) * LINEAR_STAGE);
        gpu_cp_commit();
        LINEAR_UNROLL
        for (int u = 0; u < LINEAR_STAGE; u++) {
            if (unit + u >= end)
                continue;
            uint32_t a[2][4];
            float scale[f::groups][4], min[f::groups][4];
            weight_codes<T>(w[u], t, a);
            if (T != PACKED_BF16) {
                LINEAR_UNROLL
                for (int i = 0; i < f::groups; i++)
                    weight_scales<T>(w[u], supers, part.w, at, unit + u, i, g % 4, scale[i], min[i]);
            }
            if (unit + u + LINEAR_STAGE < end)
                weight_load<T>(w[u], part.w, at, unit + u + LINEAR_STAGE, g % 4, t);
            LINEAR_UNROLL
            for (int i = 0; i < MANY_TILES; i++) {
                x_unit<T> x;
                stage_read<T>(x, stage[at_stage], u, i, g, t, unit + u, job.x.cols);
                unit_add<T>(a, scale, min, x, t, acc[i]);
            }
        }
        at_stage = at_stage == MANY_STAGES - 1 ? 0 : at_stage + 1;
        if (unit + LINEAR_STAGE < segment_end || unit + LINEAR_STAGE >= end)
            continue;
        bool first = segment_end == begin + job.segment_units;
        segment_end += job.segment_units;
        LINEAR_UNROLL
        for (int i = 0; i < MANY_TILES * 8; i++) {
            float &sum = acc[i / 8][i / 4 % 2][i % 4], &all = total[i][threadIdx.x];
            all = first ? sum : all + sum;
            sum = 0;
        }
    }
    if (segment_end != begin + job.segment_units) {
        LINEAR_UNROLL
        for (int i = 0; i < MANY_TILES * 8; i++) {
            float &sum = acc[i / 8][i / 4 % 2][i % 4];
            sum = total[i][threadIdx.x] + sum;
        }
    }

    LINEAR_UNROLL
    for (int i = 0; i < MANY_TILES * 2; i++) {
        int tile = i / 2, c = i % 2;
        int32_t row = rows.row0 + tile * 8 + 2 * t + c;
        if (row >= rows.end)
            continue;
        LINEAR_UNROLL
        for (int o = 0; o < 4; o++) {
            int32_t out = out0 + 4 * g + o;
            if (out >= part.w.rows)
                continue;
            float sum = acc[tile][o / 2][o % 2 * 2 + c];
            if (split)
                job.partial[(static_cast<int64_t>(blockIdx.z) * job.rows + row) * job.out + part.first_out + out] = sum;
            else
                linear_store(part, job.accumulate, row, out, sum);
        }
    }
}

#endif
