/* ops/cuda/k_linear_few.cuh - up to 16 rows of x against packed weights of integers or bf16, on the matrix units (see k_linear.cuh).
 *
 * A block of 8 warps takes 8 / ways pairs of panels; the warps of one pair take a segment of k each, and the block adds the segments.  Weights are read once, 16
 * bytes a lane, by asynchronous copies into a ring of FEW_DEPTH units in shared memory where each lane has a place of its own: nobody waits for anybody.  (A ring in
 * registers shares one scoreboard, and a wait for its oldest unit is one for all.)  x comes from L1 and L2.  Limit: the memory's bandwidth: with two blocks an SM 512 lanes have
 * at least 3 units of 24 (4 bits) to 48 bytes under way, 36 to 72 KiB. */
#ifndef OPS_CUDA_K_LINEAR_FEW_CUH
#define OPS_CUDA_K_LINEAR_FEW_CUH

#include "ops/cuda/k_linear.cuh"

static constexpr int FEW_DEPTH = 4, FEW_THREADS = LINEAR_WARPS * 32;

/* Unit `unit` of the ring, of this thread. */
template <int T> struct weight_ring {
    using f = linear_format<T>;
    static constexpr bool min_of_its_own = f::min == PACKED_SCALE_F16 || f::min == PACKED_SCALE_U8;
    static constexpr int scale_size = f::scale == PACKED_SCALE_F16 ? 8 : 4, min_size = f::min == PACKED_SCALE_F16 ? 8 : 4;
    static constexpr int scale_at = 16 * f::loads * FEW_THREADS;
    static constexpr int min_at = scale_at + (f::scale == PACKED_SCALE_NONE ? 0 : f::groups * scale_size * FEW_THREADS);
    static constexpr int bytes = min_at + (min_of_its_own ? f::groups * min_size * FEW_THREADS : 0);
    char *at;

    GPU_MEMBER char *code_at(int i) const { return at + (i * FEW_THREADS + static_cast<int>(threadIdx.x)) * 16; }
    GPU_MEMBER char *scale_at_of(int i) const { return at + scale_at + (i * FEW_THREADS + static_cast<int>(threadIdx.x)) * scale_size; }
    GPU_MEMBER char *min_at_of(int i) const { return at + min_at + (i * FEW_THREADS + static_cast<int>(threadIdx.x)) * min_size; }

    /* weight_visit's */
    GPU_MEMBER void code(int i, const char *p, bool there) const
    {
        if (T == PACKED_BF16)
            gpu_cp_async16_fill(code_at(i), p, there ? 16 : 0);
        else
            gpu_cp_async16(code_at(i), p);
    }
    GPU_MEMBER void scale(int i, const char *p) const
    {
        if (scale_size == 8)
            gpu_cp_async8(scale_at_of(i), p);
        else
            gpu_cp_async4(scale_at_of(i), p);
    }
    GPU_MEMBER void min(int i, const char *p) const
    {
        if (min_size == 8)
            gpu_cp_async8(min_at_of(i), p);
        else
            gpu_cp_async4(min_at_of(i), p);
    }

    GPU_MEMBER void take(weight_unit<T> &u) const
    {
        LINEAR_UNROLL
        for (int i = 0; i < f::loads; i++)
            u.code[i] = *reinterpret_cast<const uint4 *>(code_at(i));
        LINEAR_UNROLL
        for (int i = 0; i < f::groups && f::scale != PACKED_SCALE_NONE; i++) {
            if (scale_size == 8)
                u.scale[i] = *reinterpret_cast<const uint2 *>(scale_at_of(i));
            else
                u.scale[i].x = *reinterpret_cast<const uint32_t *>(scale_at_of(i));
            if (min_of_its_own && min_size == 8)
                u.min[i] = *reinterpret_cast<const uint2 *>(min_at_of(i));
            else if (min_of_its_own)
                u.min[i].x = *reinterpret_cast<const uint32_t *>(min_at_of(i));
        }
    }
};

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

/* Words of 16 bytes that a block's rings, and then its sums, take. */
template <int T, int TILES> GPU_MEMBER constexpr int few_words(void)
{
    constexpr int ring = FEW_DEPTH * weight_ring<T>::bytes, sums = LINEAR_WARPS * TILES * 8 * 33 * 4;
    return (ring > sums ? ring : sums) / 16;
}

/* TILES of 8 rows and block `block` of a part's outputs.  shared: few_words. */
template <int T, int TILES, class Rows> GPU_FN void linear_few_block(const linear_job &job, const linear_part &part, const Rows &rows, int32_t block, uint4 *shared)
{
    using f = linear_format<T>;
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    int pairs = LINEAR_WARPS / job.ways, segment = warp % job.ways;
    int32_t pair0 = block * pairs, pair = pair0 + warp / job.ways;
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
        int32_t r[3] = {rows.row0 + i * 8 + g, rows.row0 + i * 8 + 2 * t, rows.row0 + i * 8 + 2 * t + 1};
        b_row[i] = static_cast<const char *>(job.x.p) + rows.x_row(r[0]) * job.x.stride;
        scale_row[i][0] = static_cast<const char *>(job.x.p) + rows.x_row(r[1]) * job.x.stride;
        scale_row[i][1] = static_cast<const char *>(job.x.p) + rows.x_row(r[2]) * job.x.stride;
    }

    float acc[TILES][2][4] = {};
    x_unit<T> x[FEW_DEPTH][TILES];
    weight_supers supers;
    supers_begin<T>(supers, part.w, at, begin, g % 4);
    weight_ring<T> ring[FEW_DEPTH];
    LINEAR_UNROLL
    for (int d = 0; d < FEW_DEPTH; d++) {
        ring[d].at = reinterpret_cast<char *>(shared) + d * weight_ring<T>::bytes;
        if (begin + d < end) {
            weight_visit<T>(ring[d], part.w, at, begin + d, g % 4, t);
            LINEAR_UNROLL
            for (int i = 0; i < TILES; i++)
                x_load<T>(x[d][i], planes, b_row[i], scale_row[i], begin + d, t, job.x.cols);
        }
        gpu_cp_commit();
    }
    for (int32_t unit = begin; unit < end; unit += FEW_DEPTH) {
        LINEAR_UNROLL
        for (int d = 0; d < FEW_DEPTH; d++) {
            if (unit + d >= end)
                continue;
            uint32_t a[2][4];
            float scale[f::groups][4], min[f::groups][4];
            weight_unit<T> w;
            gpu_cp_wait<FEW_DEPTH - 1>();
            ring[d].take(w);
            weight_codes<T>(w, t, a);
            if (T != PACKED_BF16) {
                LINEAR_UNROLL
                for (int i = 0; i < f::groups; i++)
                    weight_scales<T>(w, supers, part.w, at, unit + d, i, g % 4, scale[i], min[i]);
            }
            int32_t next = unit + d + FEW_DEPTH;
            if (next < end) /* what lay there has been used: it is in a, scale and min */
                weight_visit<T>(ring[d], part.w, at, next, g % 4, t);
            gpu_cp_commit();
            LINEAR_UNROLL
            for (int i = 0; i < TILES; i++) {
                unit_add<T>(a, scale, min, x[d][i], t, acc[i]);
                if (next < end)
                    x_load<T>(x[d][i], planes, b_row[i], scale_row[i], next, t, job.x.cols);
            }
        }
    }

    gpu_cp_wait<0>();
    __syncthreads(); /* the sums take the rings' place */
    float(*sums)[TILES * 8][33] = reinterpret_cast<float(*)[TILES * 8][33]>(shared);
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
        if (rows.row0 + r >= rows.end || out >= part.w.rows)
            continue;
        float sum = sums[p * job.ways][index][from];
        for (int s = 1; s < job.segments; s++)
            sum += sums[p * job.ways + s][index][from];
        linear_store(part, job.accumulate, rows.row0 + r, out, sum);
    }
}

#endif
