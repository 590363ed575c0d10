/* ops/cuda/k_linear.cuh - what the files of the products share: how a packed panel becomes fragments of the matrix unit, and the order of the sums.
 *
 *   k_linear.cu        which kernel computes what; merging of segments
 *   k_linear_few       up to 16 rows of x: the weights' bytes decide
 *   k_linear_many      more rows: tiles of 128 outputs x 32 rows
 *   k_linear_float     f32 and f16 weights, by multiply-add
 *   k_experts.cu       the same for the rows of each expert
 * Of the middle three, .cuh holds what a block does with rows that it is given, .cu the kernels for rows that follow one another.
 *
 * A panel (packed.h) is 16 outputs in words of 4 bytes: 4 k of codes, or 2 of bf16.  One 16-byte load is 4 outputs of one word of k, and a word of k of
 * an output is just one register of mma's left operand.  So a warp takes two panels as 32 outputs, lane l = 4 g + t holding outputs 4 g .. 4 g + 3 and the
 * words 2 t and 2 t + 1 of each *unit* of 8 words (32 codes, or 16 bf16), and two mma (outputs 4 g, 4 g + 1; outputs 4 g + 2, 4 g + 3) times 8 rows of x
 * are exact s32 dots of a group (bf16: f32 sums).  The lane gets its own four outputs for rows 2 t and 2 t + 1: nothing is moved between lanes, k runs
 * in order, and scales stay with the lane that loaded them.  Which k meet in which slot of an mma differs from the PTX picture, alike in both operands.
 *
 * Order of sums: k is cut into segments by its length alone (linear_segments_of).  Inside a segment, from zero, group by group, as on the CPU (cpu_linear.h):
 *     acc = fma((float)idot, ws * xs, acc);  with minima: acc = fma(wm, xm, acc)
 * bf16: one mma a unit, in order.  f32 and f16: see k_linear_float.cu.  Then the segments' sums are added in order.  Every kernel does exactly this, so
 * the number of rows, the tile, and who adds the segments change no bit; with one segment (k < 1024) integer formats give the CPU's bits. */
#ifndef OPS_CUDA_K_LINEAR_CUH
#define OPS_CUDA_K_LINEAR_CUH

#include "ops/cuda/gpu.cuh"
#include "ops/cuda/kernels.h"

/* X for each type whose products are the tensor cores'. */
#define LINEAR_TENSOR_TYPES(X) \
    X(PACKED_BF16) X(PACKED_Q8_0) X(PACKED_Q4_0) X(PACKED_Q4_1) X(PACKED_Q5_0) X(PACKED_Q5_1) \
    X(PACKED_Q2_K) X(PACKED_Q3_K) X(PACKED_Q4_K) X(PACKED_Q5_K) X(PACKED_Q6_K) X(PACKED_IQ4_NL)

#define LINEAR_WARPS 8        /* of a block of the few-rows and float kernels */
#define LINEAR_FEW_ROWS 16    /* up to so many rows of x: k_linear_few */
#define LINEAR_TILE_OUT 128   /* of k_linear_many */
#define LINEAR_TILE_ROWS 32
#define LINEAR_STAGE 4        /* units; segments begin at multiples of it */

typedef struct linear_part {
    gpu_weight w;
    const float *bias;
    gpu_mat y;
    int32_t first_block; /* of the grid's x */
    int32_t first_out;   /* in a row of partial */
} linear_part;

typedef struct linear_job { /* weights of one type */
    gpu_mat x;
    const int32_t *n;
    int32_t rows;
    int32_t n_parts;
    int32_t ways;          /* 1, 2, 4, 8: most segments a k of this length has */
    int32_t segments, segment_units, units;
    int32_t out;           /* of all parts */
    bool accumulate;
    float *partial;        /* [segments][rows][out], where the grid's z is the segment */
    linear_part part[OPS_MAX_FUSED];
} linear_job;

/* Types whose products are multiply-adds of f32 rows (k_linear_float.cuh). */
static inline bool linear_is_float(int32_t type)
{
    return type == PACKED_F32 || type == PACKED_F16 || type == PACKED_F8;
}

/* k of a unit. */
static inline int32_t linear_unit(int32_t type)
{
    return type == PACKED_F16 || type == PACKED_F8 ? 64 : type == PACKED_BF16 ? 16 : 32;
}

/* The segments of a k of so many columns, for units of `unit` k. */
static inline void linear_segments_of(linear_job *j, int32_t cols, int32_t unit)
{
    j->ways = cols < 1024 ? 1 : cols < 2048 ? 2 : cols < 4096 ? 4 : 8;
    j->units = (int32_t)(((int64_t)cols + unit - 1) / unit);
    int32_t each = (j->units + j->ways - 1) / j->ways;
    j->segment_units = (each + LINEAR_STAGE - 1) / LINEAR_STAGE * LINEAR_STAGE;
    j->segments = (j->units + j->segment_units - 1) / j->segment_units;
}

/* Launchers; grid.x = blocks of all parts. */
cudaError_t linear_few(const linear_job *j, int32_t blocks, cudaStream_t s);
cudaError_t linear_many(const linear_job *j, int32_t blocks, bool split, cudaStream_t s);
cudaError_t linear_float(const linear_job *j, int32_t blocks, cudaStream_t s);

/* ---- in kernels ---- */

#define LINEAR_UNROLL _Pragma("unroll")

GPU_FN int32_t linear_rows(const linear_job &j)
{
    return j.n != nullptr && *j.n < j.rows ? *j.n : j.rows;
}

/* The part that block belongs to. */
GPU_FN int linear_part_of_block(const linear_job &j, int32_t block)
{
    int i = 0;
    while (i + 1 < j.n_parts && block >= j.part[i + 1].first_block)
        i++;
    return i;
}

GPU_FN float *linear_y(const linear_part &p, int32_t row)
{
    return reinterpret_cast<float *>(static_cast<char *>(p.y.p) + row * p.y.stride);
}

/* The rows a block computes are [row0, end) of y; x_row: which of x's that is, for those that do not exist the last one's. */
struct linear_row_range {
    int32_t row0, end;
    GPU_MEMBER int32_t x_row(int32_t r) const { return r < end ? r : end - 1; }
};

/* y = sum (+ bias), or y + that. */
GPU_FN void linear_store(const linear_part &p, bool accumulate, int32_t row, int32_t out, float sum)
{
    float *y = linear_y(p, row) + out;
    if (p.bias != nullptr)
        sum += p.bias[out];
    *y = accumulate ? *y + sum : sum;
}

/* Formats as constants; equal to packed.c's table (the tests compare values of every format). */
template <int T> struct linear_format;
#define LINEAR_FORMAT(T, BITS, GROUP, SCALE, MIN, ZERO)                                                                                              \
    template <> struct linear_format<T> {                                                                                                            \
        static constexpr int bits = BITS, group = GROUP, scale = SCALE, min = MIN, zero = ZERO;                                                      \
        static constexpr int groups = GROUP == 16 ? 2 : 1;                                                                                           \
        static constexpr int loads = BITS == 4 || BITS == 2 ? 1 : 2;                                                                                 \
        static constexpr bool has_min = MIN != PACKED_SCALE_NONE, has_super = SCALE >= PACKED_SCALE_S8;                                              \
    }
LINEAR_FORMAT(PACKED_BF16, 16, 1, PACKED_SCALE_NONE, PACKED_SCALE_NONE, 0);
LINEAR_FORMAT(PACKED_Q8_0, 8, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 0);
LINEAR_FORMAT(PACKED_Q4_0, 4, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 8);
LINEAR_FORMAT(PACKED_Q4_1, 4, 32, PACKED_SCALE_F16, PACKED_SCALE_F16, 0);
LINEAR_FORMAT(PACKED_Q5_0, 5, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 16);
LINEAR_FORMAT(PACKED_Q5_1, 5, 32, PACKED_SCALE_F16, PACKED_SCALE_F16, 0);
LINEAR_FORMAT(PACKED_Q2_K, 2, 16, PACKED_SCALE_U4, PACKED_SCALE_U4, 0);
LINEAR_FORMAT(PACKED_Q3_K, 3, 16, PACKED_SCALE_S8, PACKED_SCALE_NONE, 4);
LINEAR_FORMAT(PACKED_Q4_K, 4, 32, PACKED_SCALE_U8, PACKED_SCALE_U8, 0);
LINEAR_FORMAT(PACKED_Q5_K, 5, 32, PACKED_SCALE_U8, PACKED_SCALE_U8, 0);
LINEAR_FORMAT(PACKED_Q6_K, 6, 16, PACKED_SCALE_S8, PACKED_SCALE_NONE, 32);
LINEAR_FORMAT(PACKED_IQ4_NL, 4, 32, PACKED_SCALE_F16, PACKED_SCALE_NONE, 0);

/* What a lane holds of one unit of the weights: four outputs (a quad), as they lie in memory. */
template <int T> struct weight_unit {
    using f = linear_format<T>;
    uint4 code[f::loads];
    uint2 scale[f::groups], min[f::groups]; /* four f16, or four bytes in x */
};

/* The super-scales of the quad that a lane is at, and the next ones on their way: k only goes up, and a super-group is 8 units. */
struct weight_supers {
    int32_t now;
    float scale[4], min[4];
    uint2 next_scale, next_min;
};

GPU_FN void quad_words(const uint4 &v, uint32_t (&w)[4])
{
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}

/* Unit `unit` of a panel, outputs 4 q .. 4 q + 3, words 2 t and 2 t + 1: each of its loads is handed to `to`, as code(load, address, whether it is there) of 16 bytes,
 * scale(group, address) and min(group, address) of 8 (f16) or 4. */
template <int T, class To> GPU_FN void weight_visit(const To &to, const gpu_weight &w, const char *panel, int32_t unit, int q, int t)
{
    using f = linear_format<T>;
    if constexpr (T == PACKED_BF16) { /* packed's unit is one word of k: the last of ours may lack some */
        int32_t word = unit * 8 + 2 * t;
        const char *code = panel + static_cast<int64_t>(word) * 64 + q * 16;
        to.code(0, code, word < w.units);
        to.code(1, code + 64, word + 1 < w.units);
        return;
    }
    const char *code = panel + static_cast<int64_t>(unit) * (f::bits * 64) + q * 16;
    if (f::bits == 8) {
        to.code(0, code + 2 * t * 64, true);
        to.code(f::loads - 1, code + (2 * t + 1) * 64, true);
    } else if (f::bits >= 4) {
        to.code(0, code + t * 64, true);
        if (f::bits == 5)
            to.code(f::loads - 1, code + 4 * 64, true);
        if (f::bits == 6)
            to.code(f::loads - 1, code + (4 + t / 2) * 64, true);
    } else {
        to.code(0, code + t / 2 * 64, true);
        if (f::bits == 3)
            to.code(f::loads - 1, code + 2 * 64, true);
    }
    LINEAR_UNROLL
    for (int i = 0; i < f::groups; i++) {
        int64_t group = static_cast<int64_t>(unit) * f::groups + i, at = group * 16 + 4 * q;
        to.scale(i, panel + w.scale_offset + at * (f::scale == PACKED_SCALE_F16 ? 2 : 1));
        if (f::min == PACKED_SCALE_F16 || f::min == PACKED_SCALE_U8)
            to.min(i, panel + w.min_offset + at * (f::min == PACKED_SCALE_F16 ? 2 : 1));
    }
}

/* Into registers. */
template <int T> struct weight_to_unit {
    using f = linear_format<T>;
    weight_unit<T> &u;
    GPU_MEMBER void code(int i, const char *p, bool there) const { u.code[i] = there ? gpu_load_once16(p) : make_uint4(0, 0, 0, 0); }
    GPU_MEMBER void scale(int i, const char *p) const
    {
        if (f::scale == PACKED_SCALE_F16)
            u.scale[i] = *reinterpret_cast<const uint2 *>(p);
        else
            u.scale[i].x = *reinterpret_cast<const uint32_t *>(p);
    }
    GPU_MEMBER void min(int i, const char *p) const
    {
        if (f::min == PACKED_SCALE_F16)
            u.min[i] = *reinterpret_cast<const uint2 *>(p);
        else
            u.min[i].x = *reinterpret_cast<const uint32_t *>(p);
    }
};
template <int T> GPU_FN void weight_load(weight_unit<T> &u, const gpu_weight &w, const char *panel, int32_t unit, int q, int t)
{
    weight_visit<T>(weight_to_unit<T>{u}, w, panel, unit, q, t);
}

/* Four nibbles of v (bits 16 h ..) through IQ4_NL's table, a byte each. */
GPU_FN uint32_t codebook4(uint32_t nibbles)
{
    /* -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113 */
    uint32_t low = __byte_perm(0xbfad9881u, 0xf6eaddcfu, nibbles & 0x7777u);
    uint32_t high = __byte_perm(0x26190d01u, 0x71594535u, nibbles & 0x7777u);
    return __byte_perm(low, high, 0x3210u | (nibbles & 0x8888u) >> 1);
}

/* As the left operands of the two mma: a[j] of outputs 2 j and 2 j + 1 of the quad; codes as signed bytes with the zero point taken off. */
template <int T> GPU_FN void weight_codes(const weight_unit<T> &u, int t, uint32_t (&a)[2][4])
{
    using f = linear_format<T>;
    uint32_t first[4], second[4];
    quad_words(u.code[0], first);
    quad_words(u.code[f::loads - 1], second);
    LINEAR_UNROLL
    for (int r = 0; r < 4; r++) {
        uint32_t lo, hi; /* the words 2 t and 2 t + 1 */
        if (f::bits >= 8) {
            lo = first[r], hi = second[r];
        } else if (T == PACKED_IQ4_NL) {
            uint32_t p = codebook4(first[r] & 0xffffu), s = codebook4(first[r] >> 16);
            lo = __byte_perm(p, s, 0x6420u), hi = __byte_perm(p, s, 0x7531u);
        } else if (f::bits >= 4) {
            lo = first[r] & 0x0f0f0f0fu, hi = first[r] >> 4 & 0x0f0f0f0fu;
            if (f::bits == 5) {
                uint32_t h = second[r] >> (2 * t);
                lo |= (h & 0x01010101u) << 4, hi |= (h & 0x02020202u) << 3;
            } else if (f::bits == 6) {
                uint32_t h = second[r] >> (4 * (t & 1));
                lo |= (h & 0x03030303u) << 4, hi |= (h & 0x0c0c0c0cu) << 2;
            }
        } else {
            uint32_t w = first[r] >> (4 * (t & 1));
            lo = w & 0x03030303u, hi = w >> 2 & 0x03030303u;
            if (f::bits == 3) {
                uint32_t h = second[r] >> (2 * t);
                lo |= (h & 0x01010101u) << 2, hi |= (h & 0x02020202u) << 1;
            }
        }
        if (f::zero != 0) { /* byte by byte: no borrow leaves a byte whose top bit is set */
            lo = ((lo | 0x80808080u) - f::zero * 0x01010101u) ^ 0x80808080u;
            hi = ((hi | 0x80808080u) - f::zero * 0x01010101u) ^ 0x80808080u;
        }
        a[r / 2][r % 2] = lo;
        a[r / 2][2 + r % 2] = hi;
    }
}

GPU_FN void quad_halves(const uint2 &v, float (&out)[4])
{
    out[0] = gpu_f16_to_f32(static_cast<uint16_t>(v.x)), out[1] = gpu_f16_to_f32(static_cast<uint16_t>(v.x >> 16));
    out[2] = gpu_f16_to_f32(static_cast<uint16_t>(v.y)), out[3] = gpu_f16_to_f32(static_cast<uint16_t>(v.y >> 16));
}

template <int T> GPU_FN void supers_load(weight_supers &s, const gpu_weight &w, const char *panel, int32_t super, int q)
{
    const char *at = panel + w.super_offset + static_cast<int64_t>(super < w.supers ? super : w.supers - 1) * (linear_format<T>::has_min ? 64 : 32) + q * 8;
    s.next_scale = *reinterpret_cast<const uint2 *>(at);
    if (linear_format<T>::has_min)
        s.next_min = *reinterpret_cast<const uint2 *>(at + 32);
}
template <int T> GPU_FN int32_t super_of(const gpu_weight &w, int32_t unit, int i)
{
    return static_cast<int32_t>((w.phase + (static_cast<int64_t>(unit) * linear_format<T>::groups + i) * linear_format<T>::group) / PACKED_SUPER);
}
template <int T> GPU_FN void supers_begin(weight_supers &s, const gpu_weight &w, const char *panel, int32_t unit, int q)
{
    s.now = -1;
    if (linear_format<T>::has_super)
        supers_load<T>(s, w, panel, super_of<T>(w, unit, 0), q);
}

/* Scales and minima of group i of the unit: exact but for overflow, so in the CPU's bits. */
template <int T>
GPU_FN void weight_scales(const weight_unit<T> &u, weight_supers &s, const gpu_weight &w, const char *panel, int32_t unit, int i, int q, float (&scale)[4], float (&min)[4])
{
    using f = linear_format<T>;
    if (f::scale == PACKED_SCALE_F16) {
        quad_halves(u.scale[i], scale);
        if (f::has_min)
            quad_halves(u.min[i], min);
        return;
    }
    int32_t super = super_of<T>(w, unit, i);
    if (super != s.now) {
        s.now = super;
        quad_halves(s.next_scale, s.scale);
        if (f::has_min)
            quad_halves(s.next_min, s.min);
        supers_load<T>(s, w, panel, super + 1, q);
    }
    LINEAR_UNROLL
    for (int r = 0; r < 4; r++) {
        uint32_t c = u.scale[i].x >> (8 * r) & 255u;
        if (f::scale == PACKED_SCALE_S8)
            scale[r] = s.scale[r] * static_cast<float>(static_cast<int8_t>(c));
        else
            scale[r] = s.scale[r] * static_cast<float>(f::scale == PACKED_SCALE_U4 ? c & 15u : c);
        if (f::min == PACKED_SCALE_U4)
            min[r] = -(s.min[r] * static_cast<float>(c >> 4));
        else if (f::min == PACKED_SCALE_U8)
            min[r] = -(s.min[r] * static_cast<float>(u.min[i].x >> (8 * r) & 255u));
    }
}

/* What a lane holds of one unit of 8 rows of x: the right operand (row g, words 2 t and 2 t + 1); scales and scaled sums of rows 2 t and 2 t + 1. */
template <int T> struct x_unit {
    using f = linear_format<T>;
    uint2 b;
    float scale[2], scaled[f::groups][2];
};

/* One unit: acc[j][2 h + c] of output 4 g + 2 j + h and row 2 t + c. */
template <int T>
GPU_FN void unit_add(const uint32_t (&a)[2][4], const float (&scale)[linear_format<T>::groups][4], const float (&min)[linear_format<T>::groups][4],
                     const x_unit<T> &x, int t, float (&acc)[2][4])
{
    using f = linear_format<T>;
    if constexpr (T == PACKED_BF16) {
        uint32_t b[2] = {x.b.x, x.b.y};
        gpu_mma_bf16(acc[0], a[0], b);
        gpu_mma_bf16(acc[1], a[1], b);
        return;
    }
    LINEAR_UNROLL
    for (int i = 0; i < f::groups; i++) {
        /* Words 0..3 are the first group of 16, with lanes t = 0, 1; the others' x counts as zero meanwhile. */
        bool mine = f::groups == 1 || t / 2 == i;
        uint32_t b[2] = {mine ? x.b.x : 0, mine ? x.b.y : 0};
        LINEAR_UNROLL
        for (int j = 0; j < 2; j++) {
            /* The sum begins at the bits of 1.5 * 2^23, in whose neighbourhood floats are integers: |dot| < 2^22, so the conversion is one subtraction. */
            int32_t d[4] = {0x4b400000, 0x4b400000, 0x4b400000, 0x4b400000};
            gpu_mma_s8(d, a[j], b);
            LINEAR_UNROLL
            for (int e = 0; e < 4; e++) {
                int o = 2 * j + e / 2, c = e % 2;
                acc[j][e] = gpu_fma(__int_as_float(d[e]) - 12582912.0f, scale[i][o] * x.scale[c], acc[j][e]);
                if (f::has_min)
                    acc[j][e] = gpu_fma(min[i][o], x.scaled[i][c], acc[j][e]);
            }
        }
    }
}

/* Where the planes of a row of x lie (kernels.h), in bytes. */
template <int T> struct x_planes {
    int64_t codes, scale, scaled; /* codes: where they end */
    int32_t groups;               /* of 32, padding included */
};
template <int T> GPU_FN x_planes<T> x_planes_of(int32_t cols)
{
    if constexpr (T == PACKED_BF16)
        return {(static_cast<int64_t>(cols) * 2 + 63) / 64 * 64, 0, 0, 0};
    int64_t k = (static_cast<int64_t>(cols) + 63) / 64 * 64, g = k / 32;
    return {k, k, k + g * (linear_format<T>::groups == 2 ? 20 : 8), static_cast<int32_t>(g)};
}

/* bf16: what lies past the last column of x may be anything, and NaN times the weights' padding would be NaN. */
template <int T> GPU_FN void x_cut(uint2 &b, int32_t unit, int t, int32_t cols)
{
    if (T != PACKED_BF16 || static_cast<int64_t>(unit + 1) * 16 <= cols)
        return;
    int32_t left = cols - (unit * 16 + 4 * t);
    b.x = left <= 0 ? 0 : left == 1 ? b.x & 0xffffu : b.x;
    b.y = left <= 2 ? 0 : left == 3 ? b.y & 0xffffu : b.y;
}

#endif
