/* ops/cuda/k_linear_float.cuh - f32, f16 and fp8 weights times f32 rows, by multiply-add.
 *
 * A warp takes one panel and a segment of k.  16 bytes of a panel are 4 (f32) or 8 (f16) outputs of one k, 8 bytes 8 of fp8, so 4 or 2 lanes cover the 16 outputs, and the
 * warp's 8 or 16 such lane groups take four k each of a *unit* of 32 or 64:  k belongs to lane group k / 4 mod 8 (16), which sums its k in order; the
 * groups are added by a tree (halves, quarters ...), then the segments in order.  Limits: one row, memory (8 loads of 16 bytes under way a lane); 8
 * rows, half multiply-adds, half the loads of x from L1. */
#ifndef OPS_CUDA_K_LINEAR_FLOAT_CUH
#define OPS_CUDA_K_LINEAR_FLOAT_CUH

#include "ops/cuda/k_linear.cuh"

template <int T> struct float_quad {
    static constexpr int outs = T == PACKED_F32 ? 4 : 8; /* of a load */
    static constexpr int lanes = 16 / outs;              /* of a k */
    static constexpr int unit = 4 * 32 / lanes;
    uint4 k[4]; /* of fp8 x and y */
};

template <int T> GPU_FN void float_load(float_quad<T> &w, const char *at, int32_t k, int32_t cols)
{
    LINEAR_UNROLL
    for (int i = 0; i < 4; i++) {
        if (T == PACKED_F8) {
            uint2 v = k + i < cols ? gpu_load_once8(at + static_cast<int64_t>(k + i) * 16) : make_uint2(0, 0);
            w.k[i] = make_uint4(v.x, v.y, 0, 0);
            continue;
        }
        w.k[i] = k + i < cols ? gpu_load_once16(at + static_cast<int64_t>(k + i) * (T == PACKED_F32 ? 64 : 32)) : make_uint4(0, 0, 0, 0);
    }
}

/* What fp8 values of the lane's outputs are multiplied by, of the super-group that was met last. */
template <int T> struct float_scales {
    float of[float_quad<T>::outs];
    int32_t super;
};

template <int T> GPU_FN void scales_of_k(float_scales<T> &s, const gpu_weight &w, const char *at, int32_t k)
{
    if (T != PACKED_F8)
        return;
    int32_t super = (w.phase + k) / PACKED_F8_SUPER;
    if (super == s.super || k >= w.cols)
        return;
    s.super = super;
    const float4 *from = reinterpret_cast<const float4 *>(at + static_cast<int64_t>(super) * 64);
    LINEAR_UNROLL
    for (int i = 0; i < float_quad<T>::outs; i += 4) {
        float4 v = from[i / 4];
        s.of[i] = v.x, s.of[i + 1] = v.y, s.of[i + 2] = v.z, s.of[i + 3] = v.w;
    }
}

template <int T> GPU_FN void float_values(const uint4 &v, const float_scales<T> &s, float (&out)[float_quad<T>::outs])
{
    uint32_t w[4] = {v.x, v.y, v.z, v.w};
    LINEAR_UNROLL
    for (int i = 0; i < float_quad<T>::outs; i++)
        out[i] = T == PACKED_F32   ? __uint_as_float(w[i % 4])
                 : T == PACKED_F16 ? gpu_f16_to_f32(static_cast<uint16_t>(w[i / 2 % 4] >> (i % 2 * 16)))
                                   : gpu_e4m3_to_f32(static_cast<uint8_t>(w[i / 4 % 4] >> (i % 4 * 8))) * s.of[i];
}

/* ROWS rows and block `block` of a part's outputs. */
template <int T, int ROWS, class Rows>
GPU_FN void linear_float_block(const linear_job &job, const linear_part &part, const Rows &rows, int32_t block, float (&sums)[LINEAR_WARPS][ROWS][16])
{
    using q = float_quad<T>;
    int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, o = lane % q::lanes * q::outs;
    int panels = LINEAR_WARPS / job.ways, segment = warp % job.ways;
    int32_t panel0 = block * panels, panel = panel0 + warp / job.ways, cols = job.x.cols;
    int32_t begin = segment * job.segment_units, end = begin + job.segment_units;
    if (end > job.units)
        end = job.units;
    if (panel >= part.w.panels)
        end = begin;
    const char *at = static_cast<const char *>(part.w.p) + panel * part.w.panel_bytes, *at_scales = at + part.w.super_offset + o * 4;
    at += o * (T == PACKED_F32 ? 4 : T == PACKED_F16 ? 2 : 1);
    const char *x_row[ROWS];
    LINEAR_UNROLL
    for (int r = 0; r < ROWS; r++)
        x_row[r] = static_cast<const char *>(job.x.p) + rows.x_row(rows.row0 + r) * job.x.stride;

    float acc[ROWS][q::outs] = {};
    q w[2];
    float_scales<T> scales;
    scales.super = -1;
    int32_t mine = lane / q::lanes * 4; /* first of the lane's four k in a unit */
    LINEAR_UNROLL
    for (int d = 0; d < 2; d++)
        if (begin + d < end)
            float_load<T>(w[d], at, (begin + d) * q::unit + mine, cols);
    for (int32_t unit = begin; unit < end; unit += 2) {
        LINEAR_UNROLL
        for (int d = 0; d < 2; d++) {
            if (unit + d >= end)
                continue;
            int32_t k = (unit + d) * q::unit + mine;
            float v[4][q::outs];
            LINEAR_UNROLL
            for (int i = 0; i < 4; i++) {
                scales_of_k<T>(scales, part.w, at_scales, k + i);
                float_values<T>(w[d].k[i], scales, v[i]);
            }
            if (unit + d + 2 < end)
                float_load<T>(w[d], at, k + 2 * q::unit, cols);
            LINEAR_UNROLL
            for (int r = 0; r < ROWS; r++) {
                float4 x = k < cols ? *reinterpret_cast<const float4 *>(x_row[r] + static_cast<int64_t>(k) * 4) : make_float4(0, 0, 0, 0);
                float xs[4] = {x.x, k + 1 < cols ? x.y : 0, k + 2 < cols ? x.z : 0, k + 3 < cols ? x.w : 0}; /* a row's padding may hold anything */
                LINEAR_UNROLL
                for (int i = 0; i < 4; i++) {
                    LINEAR_UNROLL
                    for (int c = 0; c < q::outs; c++)
                        acc[r][c] = gpu_fma(xs[i], v[i][c], acc[r][c]);
                }
            }
        }
    }

    LINEAR_UNROLL
    for (int r = 0; r < ROWS; r++) {
        LINEAR_UNROLL
        for (int c = 0; c < q::outs; c++) {
            LINEAR_UNROLL
            for (int m = 16; m >= q::lanes; m /= 2)
                acc[r][c] += __shfl_xor_sync(0xffffffffu, acc[r][c], m);
            if (lane < q::lanes)
                sums[warp][r][o + c] = acc[r][c];
        }
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < panels * ROWS * 16; e += LINEAR_WARPS * 32) {
        int c = e % 16, r = e / 16 % ROWS, p = e / 16 / ROWS;
        int32_t out = (panel0 + p) * 16 + c;
        if (rows.row0 + r >= rows.end || out >= part.w.rows)
            continue;
        float sum = sums[p * job.ways][r][c];
        for (int s = 1; s < job.segments; s++)
            sum += sums[p * job.ways + s][r][c];
        linear_store(part, job.accumulate, rows.row0 + r, out, sum);
    }
}

#endif
