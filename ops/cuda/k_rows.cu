/* ops/cuda/k_rows.cu - the operations that work row by row: rope tables, embed, norm, sumsq, gate, quantise.
 *
 * All of them are bound by memory: each byte is read once and written once, 16 bytes a thread and access, and what a row needs twice stays in registers.
 * A row is a block's (norm, sumsq), or is cut into runs of 512 columns (the others); how it is cut depends on its columns alone.  Element-wise results are
 * the CPU's bit for bit (given the same f32 inputs); sums along a row have a tree of their own. */
#include "ops/cuda/rows.cuh"

#define PIECE_THREADS 128
#define PIECE (4 * PIECE_THREADS) /* columns of a row that one block has */

static dim3 pieces(int32_t rows, const gpu_mat *y)
{
    return dim3((unsigned)rows, (unsigned)(((int64_t)row_padded(y->type, y->cols) + PIECE - 1) / PIECE));
}

GPU_FN int32_t piece_column(void)
{
    return (int32_t)(blockIdx.y * PIECE + threadIdx.x * 4);
}

/* ---- rope tables (arXiv:2104.09864) ---- */

/* Sine and cosine as the CPU's tables have them (cpu_batch.c, vec_math.h): x = n pi/2 + r with pi/2 in three parts of f32, beyond 2^20 in two of double. */
GPU_FN void sin_cos(float x, float *sine, float *cosine)
{
    float r;
    int32_t quadrant;
    if (fabsf(x) > 0x1p20f) {
        const double n = rint((double)x * 0x1.45f306dc9c883p-1);
        r = (float)fma(-n, 0x1.1a62633145c07p-54, fma(-n, 0x1.921fb54442d18p+0, (double)x));
        quadrant = (int32_t)(n - 4.0 * floor(n * 0.25));
    } else {
        const float t = gpu_fma(x, 0x1.45f306p-1f, ROWS_MAGIC), n = t - ROWS_MAGIC;
        r = gpu_fma(-n, 0x1.921fb6p+0f, x);
        r = gpu_fma(n, 0x1.777a5cp-25f, r);
        r = gpu_fma(n, 0x1.ee59dap-50f, r);
        quadrant = (int32_t)(__float_as_uint(t) & 3u);
    }
    const float z = r * r;
    float s = gpu_fma(0x1.6bb6e6p-19f, z, -0x1.a00a66p-13f);
    s = gpu_fma(s, z, 0x1.111102p-7f);
    s = gpu_fma(s, z, -0x1.555556p-3f);
    s = gpu_fma(s * z, r, r);
    float c = gpu_fma(0x1.98a358p-16f, z, -0x1.6c076ap-10f);
    c = gpu_fma(c, z, 0x1.555542p-5f);
    c = gpu_fma(z * z, c, gpu_fma(z, -0.5f, 1.0f));
    const float a = (quadrant & 1) != 0 ? c : s, b = (quadrant & 1) != 0 ? s : c;
    *sine = (quadrant & 2) != 0 ? -a : a;
    *cosine = ((quadrant + 1) & 2) != 0 ? -b : b;
}

#define ROPE_THREADS 64

static __global__ void __launch_bounds__(ROPE_THREADS) rope_table_kernel(const gpu_step *step, int32_t rope, const __grid_constant__ gpu_rope spec)
{
    const int32_t row = (int32_t)blockIdx.x, half = spec.dims / 2;
    if (row >= step->n_rows)
        return;
    const gpu_span *span = &step->spans[step->row_span[row]];
    const int32_t set = span->rope_set < spec.n_sets ? span->rope_set : 0, own = span->own_freq[rope]; /* a rope with one set serves every sequence */
    const float *freq = own >= 0 ? step->own_freq + own : spec.inv_freq[set];
    const float position = (float)step->positions[row], factor = spec.attention_factor[set];
    float2 *out = (float2 *)spec.table + (int64_t)row * half;
    for (int32_t i = (int32_t)threadIdx.x; i < half; i += ROPE_THREADS) {
        float s, c;
        sin_cos(freq[i] * position, &s, &c);
        out[i] = make_float2(c * factor, s * factor);
    }
}

cudaError_t k_rope_table(const gpu_step *step, int32_t rows, int32_t rope, const gpu_rope *spec, cudaStream_t s)
{
    if (rows <= 0 || spec->dims < 2)
        return cudaSuccess;
    return GPU_LAUNCH(rope_table_kernel, dim3((unsigned)rows), dim3(ROPE_THREADS), 0, s, step, rope, *spec);
}

/* ---- embed ---- */

/* base/packed.c's table of formats, as code. */
struct format {
    int32_t bits, group, zero;
    packed_scale scale, min;
};

GPU_FN format format_of(int32_t type)
{
    switch (type) {
    case PACKED_Q8_0:
        return {8, 32, 0, PACKED_SCALE_F16, PACKED_SCALE_NONE};
    case PACKED_Q4_0:
        return {4, 32, 8, PACKED_SCALE_F16, PACKED_SCALE_NONE};
    case PACKED_Q4_1:
        return {4, 32, 0, PACKED_SCALE_F16, PACKED_SCALE_F16};
    case PACKED_Q5_0:
        return {5, 32, 16, PACKED_SCALE_F16, PACKED_SCALE_NONE};
    case PACKED_Q5_1:
        return {5, 32, 0, PACKED_SCALE_F16, PACKED_SCALE_F16};
    case PACKED_Q2_K:
        return {2, 16, 0, PACKED_SCALE_U4, PACKED_SCALE_U4};
    case PACKED_Q3_K:
        return {3, 16, 4, PACKED_SCALE_S8, PACKED_SCALE_NONE};
    case PACKED_Q4_K:
        return {4, 32, 0, PACKED_SCALE_U8, PACKED_SCALE_U8};
    case PACKED_Q5_K:
        return {5, 32, 0, PACKED_SCALE_U8, PACKED_SCALE_U8};
    case PACKED_Q6_K:
        return {6, 16, 32, PACKED_SCALE_S8, PACKED_SCALE_NONE};
    default: /* PACKED_IQ4_NL */
        return {4, 32, 0, PACKED_SCALE_F16, PACKED_SCALE_NONE};
    }
}

/* The four codes of chunk `chunk` of a unit of one row, a byte each; at: the row's word of the unit's first vector, vectors 64 bytes apart (packed.h). */
GPU_FN uint32_t codes_of(const char *at, int32_t bits, int32_t chunk)
{
    const uint32_t *word = (const uint32_t *)at;
    if (bits == 8)
        return word[16 * chunk];
    const bool four = bits >= 4;
    uint32_t codes = four ? (word[16 * (chunk / 2)] >> (chunk % 2 * 4)) & 0x0f0f0f0fu : (word[16 * (chunk / 4)] >> (chunk % 4 * 2)) & 0x03030303u;
    if (bits == 3 || bits == 5)
        codes |= ((word[16 * (bits - 1)] >> chunk) & 0x01010101u) << (bits - 1);
    else if (bits == 6)
        codes |= ((word[16 * (4 + chunk / 4)] >> (chunk % 4 * 2)) & 0x03030303u) << 4;
    return codes;
}

GPU_FN float code_value(int32_t type, const format &f, uint32_t code)
{
    if (type == PACKED_IQ4_NL) { /* the table -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, a byte each */
        const uint64_t table = code < 8 ? 0xf6eaddcfbfad9881u : 0x7159453526190d01u;
        return (float)(int8_t)(table >> (code % 8 * 8));
    }
    return (float)((f.bits == 8 ? (int32_t)(int8_t)code : (int32_t)code) - f.zero);
}

GPU_FN float f16_at(const char *p)
{
    return gpu_f16_to_f32(*(const uint16_t *)p);
}

/* Scale and minimum of a group, as packed_get_scale. */
GPU_FN void scale_of(const gpu_weight *w, const format &f, const char *panel, int32_t r, int32_t group, float *scale, float *min)
{
    const int64_t i = (int64_t)group * PACKED_ROWS + r;
    *min = 0.0f;
    if (f.scale == PACKED_SCALE_F16) {
        *scale = f16_at(panel + w->scale_offset + 2 * i);
        if (f.min == PACKED_SCALE_F16)
            *min = f16_at(panel + w->min_offset + 2 * i);
        return;
    }
    const bool has_min = f.min != PACKED_SCALE_NONE;
    const int64_t super = ((int64_t)w->phase + (int64_t)group * f.group) / PACKED_SUPER;
    const char *at = panel + w->super_offset + super * (has_min ? 64 : 32) + 2 * r;
    const uint8_t code = *(const uint8_t *)(panel + w->scale_offset + i);
    *scale = f16_at(at) * (f.scale == PACKED_SCALE_S8 ? (float)(int8_t)code : (float)(f.scale == PACKED_SCALE_U4 ? code & 15 : code));
    if (has_min)
        *min = -(f16_at(at + 32) * (float)(f.min == PACKED_SCALE_U4 ? code >> 4 : *(const uint8_t *)(panel + w->min_offset + i)));
}

/* Columns [k, k + 4) of a row of w as f32, k a multiple of 4, zeros past the last column. */
GPU_FN row4 packed_load4(const gpu_weight *w, int32_t row, int32_t k)
{
    row4 out = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (k >= w->cols)
        return out;
    const char *panel = (const char *)w->p + (int64_t)(row / PACKED_ROWS) * w->panel_bytes;
    const int32_t r = row % PACKED_ROWS;
    if (w->type == PACKED_F32 || w->type == PACKED_F16 || w->type == PACKED_BF16) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (k + j < w->cols) {
                const int64_t pair = (int64_t)((k + j) / 2) * 2 * PACKED_ROWS;
                if (w->type == PACKED_F32)
                    out.v[j] = ((const float *)panel)[(int64_t)(k + j) * PACKED_ROWS + r];
                else if (w->type == PACKED_BF16)
                    out.v[j] = gpu_bf16_to_f32(((const uint16_t *)panel)[w->turned ? (int64_t)r * w->cols + k + j : pair + 2 * r + j % 2]);
                else
                    out.v[j] = gpu_f16_to_f32(((const uint16_t *)panel)[pair + j % 2 * PACKED_ROWS + r]);
            }
        return out;
    }
    if (w->type == PACKED_F8) {
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (k + j < w->cols) {
                if (w->turned) { /* [row][k], then the rows' scales */
                    const float scale = ((const float *)((const char *)w->p + (int64_t)w->panels * PACKED_ROWS * w->cols))[row];
                    out.v[j] = gpu_e4m3_to_f32(((const uint8_t *)w->p)[(int64_t)row * w->cols + k + j]) * scale;
                    continue;
                }
                const float scale = ((const float *)(panel + w->super_offset))[(int64_t)((w->phase + k + j) / PACKED_F8_SUPER) * PACKED_ROWS + r];
                out.v[j] = gpu_e4m3_to_f32(((const uint8_t *)panel)[(int64_t)(k + j) * PACKED_ROWS + r]) * scale;
            }
        return out;
    }
    const format f = format_of(w->type);
    const uint32_t codes = codes_of(panel + (int64_t)(k / PACKED_UNIT) * w->unit_bytes + 4 * r, f.bits, k % PACKED_UNIT / 4);
    float scale, min;
    scale_of(w, f, panel, r, k / f.group, &scale, &min);
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (k + j < w->cols) {
            const float v = scale * code_value(w->type, f, (codes >> (8 * j)) & 255u);
            out.v[j] = f.min != PACKED_SCALE_NONE ? v + min : v;
        }
    return out;
}

/* One row is a gather of 4-byte words 64 bytes apart, since panels interleave 16 rows: a sector of 32 bytes is fetched for 4.  A step has few rows, and what
 * limits them is latency; hence many small blocks. */
static __global__ void __launch_bounds__(PIECE_THREADS) embed_kernel(const gpu_step *step, const __grid_constant__ gpu_embed a)
{
    const int32_t row = (int32_t)blockIdx.x, i = piece_column();
    if (row >= step->n_rows)
        return;
    const int64_t index = (int64_t)step->tokens[row] - a.row_begin, place = (int64_t)step->positions[row] + a.position_offset;
    row4 y = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (index >= 0 && index < a.w.rows) /* a row from outside has token -1 */
        y = packed_load4(&a.w, (int32_t)index, i);
    const bool placed = a.positions.p != NULL && place < a.positions.rows;
    row4 p = {{0.0f, 0.0f, 0.0f, 0.0f}};
    if (placed)
        p = packed_load4(&a.positions, (int32_t)place, i);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        y.v[k] *= a.scale;
        if (placed)
            y.v[k] += p.v[k];
    }
    row_put4(&a.y, row_at(&a.y, row), i, y);
}

cudaError_t k_embed(const gpu_step *step, int32_t rows, const gpu_embed *a, cudaStream_t s)
{
    if (rows <= 0)
        return cudaSuccess;
    return GPU_LAUNCH(embed_kernel, pieces(rows, &a->y), dim3(PIECE_THREADS), 0, s, step, *a);
}

/* ---- norm ---- */

#define NORM_MAX_COLS 20480

/* v = norm(v) * weight + bias along a row of n columns, thread t having columns 4 (t + j blockDim) .. + 3 in v[j]; zeros past the end before and after.
 * RMS: v / sqrt(mean(v^2) + eps); LAYER: mean and variance in two passes.  turn: see row_block_sum. */
template <int V, bool ALIGNED>
GPU_FN void normalise(int32_t kind, row4 (&v)[V], int32_t n, float eps, const float *weight, const float *bias, float *red, int &turn)
{
    float mean = 0.0f, sum = 0.0f;
    if (kind == OPS_NORM_LAYER) {
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += (v[j].v[0] + v[j].v[1]) + (v[j].v[2] + v[j].v[3]);
        mean = row_block_sum(sum, red, turn) / (float)n;
        turn ^= 1;
    }
    float square[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < V; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int32_t i = 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x) + k;
            v[j].v[k] = i < n ? v[j].v[k] - mean : 0.0f;
            square[k] = gpu_fma(v[j].v[k], v[j].v[k], square[k]);
        }
    sum = row_block_sum((square[0] + square[1]) + (square[2] + square[3]), red, turn);
    turn ^= 1;
    const float inverse = 1.0f / sqrtf(sum / (float)n + eps);
#pragma unroll
    for (int j = 0; j < V; j++) {
        const int32_t i = 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x);
        row4 w, b;
        if (weight != NULL)
            w = row_load4<ALIGNED>(weight, i, n);
        if (bias != NULL)
            b = row_load4<ALIGNED>(bias, i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float x = v[j].v[k] * inverse;
            x = weight != NULL ? x * w.v[k] : x;
            x = bias != NULL ? x + b.v[k] : x;
            v[j].v[k] = i + k < n ? x : 0.0f;
        }
    }
}

/* A block a row, which lives in registers, V fours a thread, from the first part read to the last format written: a part or x is read once, with V loads of
 * 16 bytes under way in every thread.  Reductions: a butterfly in each warp, then one over the warps' sums; at most four with a barrier each. */
template <int V, bool ALIGNED>
static __global__ void __launch_bounds__(512, 1) norm_kernel(const gpu_step *step, const __grid_constant__ gpu_norm a)
{
    GPU_SHARED(float, red, [64]);
    const int32_t at = (int32_t)blockIdx.x, n = a.x.cols;
    if (at >= (a.select ? step->n_out : step->n_rows)) /* the whole block */
        return;
    const int32_t row = a.select ? step->out_rows[at] : at;
    float *x = (float *)row_at(&a.x, row);
    row4 v[V];
    int turn = 0;
    if (a.n_parts > 0) {
        const int64_t from = (int64_t)row * a.part_stride;
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = row_load4<ALIGNED>(a.part[0] + from, 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x), n);
        for (int32_t p = 1; p <= a.n_parts; p++) { /* and the bias as the last one */
            const float *part = p < a.n_parts ? a.part[p] + from : a.part_bias;
            if (part == NULL)
                break;
#pragma unroll
            for (int j = 0; j < V; j++) {
                const row4 more = row_load4<ALIGNED>(part, 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x), n);
#pragma unroll
                for (int k = 0; k < 4; k++)
                    v[j].v[k] += more.v[k];
            }
        }
        if (a.post != OPS_NORM_NONE)
            normalise<V, ALIGNED>(a.post, v, n, a.eps, a.post_weight, a.post_bias, red, turn);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const int32_t i = 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x);
            row4 old;
            if (!a.replace)
                old = row_load4<ALIGNED>(x, i, n);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float scaled = v[j].v[k] * a.residual_scale;
                v[j].v[k] = i + k >= n ? 0.0f : a.replace ? scaled : old.v[k] + scaled;
            }
            row_store4<ALIGNED>(x, i, n, v[j]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = row_load4<ALIGNED>(x, 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x), n);
    }
    if (a.n_y == 0)
        return;
    if (a.norm != OPS_NORM_NONE)
        normalise<V, ALIGNED>(a.norm, v, n, a.eps, a.weight, a.bias, red, turn);
#pragma unroll 1
    for (int32_t k = 0; k < a.n_y; k++) {
        char *y = row_at(&a.y[k], at);
#pragma unroll
        for (int j = 0; j < V; j++)
            row_put4(&a.y[k], y, 4 * ((int32_t)threadIdx.x + j * (int32_t)blockDim.x), v[j]);
    }
}

template <int V> static cudaError_t launch_norm(const gpu_step *step, int32_t rows, int32_t threads, bool aligned, const gpu_norm *a, cudaStream_t s)
{
    const dim3 grid((unsigned)rows), block((unsigned)(threads + 31) / 32 * 32);
    return aligned ? GPU_LAUNCH((norm_kernel<V, true>), grid, block, 0, s, step, *a) : GPU_LAUNCH((norm_kernel<V, false>), grid, block, 0, s, step, *a);
}

cudaError_t k_norm(const gpu_step *step, int32_t rows, const gpu_norm *a, cudaStream_t s)
{
    if (a->x.cols > NORM_MAX_COLS || a->x.cols < 1 || a->n_parts > 64 || a->n_y > 2)
        return cudaErrorInvalidValue;
    if (rows <= 0)
        return cudaSuccess;
    bool aligned = a->x.cols % 4 == 0 && a->part_stride % 4 == 0 && row_aligned(a->part_bias) && row_aligned(a->post_weight) && row_aligned(a->post_bias) &&
                   row_aligned(a->weight) && row_aligned(a->bias);
    for (int32_t p = 0; p < a->n_parts; p++)
        aligned = aligned && row_aligned(a->part[p]);
    /* threads and fours a thread: of the columns alone, with up to 64 columns of padding inside */
    const int32_t fours = row_padded(OPS_Q8, a->x.cols) / 4;
    if (fours <= 512)
        return launch_norm<1>(step, rows, fours, aligned, a, s);
    if (fours <= 1024)
        return launch_norm<2>(step, rows, (fours + 1) / 2, aligned, a, s);
    if (fours <= 2048)
        return launch_norm<4>(step, rows, (fours + 3) / 4, aligned, a, s);
    return launch_norm<10>(step, rows, (fours + 9) / 10, aligned, a, s);
}

/* ---- sum of squares ---- */

#define SUMSQ_THREADS 256

/* A block a row; columns are counted from col_begin, so that where a row's slice begins changes nothing. */
static __global__ void __launch_bounds__(SUMSQ_THREADS) sumsq_kernel(int32_t rows, const int32_t *n, const __grid_constant__ gpu_mat x, int32_t col_begin,
                                                                     int32_t cols, float *out)
{
    GPU_SHARED(float, red, [64]);
    const int32_t row = (int32_t)blockIdx.x;
    if (row >= (n != NULL ? *n : rows))
        return;
    const float *from = (const float *)row_at(&x, row) + col_begin;
    float square[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int32_t i = 4 * (int32_t)threadIdx.x; i < cols; i += 4 * SUMSQ_THREADS) {
        const row4 v = row_load4(from, i, cols);
#pragma unroll
        for (int k = 0; k < 4; k++)
            square[k] = gpu_fma(v.v[k], v.v[k], square[k]);
    }
    const float sum = row_block_sum((square[0] + square[1]) + (square[2] + square[3]), red, 0);
    if (threadIdx.x == 0)
        out[row] = sum;
}

cudaError_t k_sumsq(int32_t rows, const int32_t *n, gpu_mat x, int32_t col_begin, int32_t col_end, float *out, cudaStream_t s)
{
    if (rows <= 0)
        return cudaSuccess;
    return GPU_LAUNCH(sumsq_kernel, dim3((unsigned)rows), dim3(SUMSQ_THREADS), 0, s, rows, n, x, col_begin, col_end - col_begin, out);
}

/* ---- gate and quantise ---- */

#define COPY (OPS_RELU2 + 1) /* no activation: what quantise wants */

template <int ACTIVATION> GPU_FN float activate(float g)
{
    switch (ACTIVATION) {
    case OPS_SILU:
        return g / (1.0f + row_exp(-g));
    case OPS_GELU:
        return g * 0.5f * (1.0f + row_erf(g * 0x1.6a09e6p-1f));
    case OPS_GELU_TANH:
        return g * 0.5f * (1.0f + row_tanh(0x1.988454p-1f * gpu_fma(g * g * g, 0.044715f, g)));
    case OPS_RELU:
        return g < 0.0f ? 0.0f : g;
    case OPS_RELU2:
        return g < 0.0f ? 0.0f : g * g;
    default:
        return g;
    }
}

/* 512 columns of a row of y a block, 16 bytes of gate and of up a thread; the grid has rows first, since there may be more than 65535. */
template <int ACTIVATION, bool ALIGNED>
static __global__ void __launch_bounds__(PIECE_THREADS) gate_kernel(int32_t rows, const int32_t *n, const __grid_constant__ gpu_gate a)
{
    const int32_t row = (int32_t)blockIdx.x, i = piece_column(), from = i - a.y_col, cols = a.gate.cols;
    if (row >= (n != NULL ? *n : rows))
        return;
    row4 v = row_load4<ALIGNED>((const float *)row_at(&a.gate, row), from, cols);
    row4 up = {{1.0f, 1.0f, 1.0f, 1.0f}};
    if (a.up.p != NULL)
        up = row_load4<ALIGNED>((const float *)row_at(&a.up, row), from, cols);
#pragma unroll
    for (int k = 0; k < 4; k++)
        v.v[k] = activate<ACTIVATION>(v.v[k]) * up.v[k]; /* outside, zeros: every activation of 0 is 0 */
    row_put4(&a.y, row_at(&a.y, row), i, v);
}

template <int ACTIVATION> static cudaError_t launch_gate(int32_t rows, const int32_t *n, const gpu_gate *a, cudaStream_t s)
{
    if (rows <= 0)
        return cudaSuccess;
    const dim3 grid = pieces(rows, &a->y), block(PIECE_THREADS);
    return a->gate.cols % 4 == 0 && a->y_col % 4 == 0 ? GPU_LAUNCH((gate_kernel<ACTIVATION, true>), grid, block, 0, s, rows, n, *a)
                                                      : GPU_LAUNCH((gate_kernel<ACTIVATION, false>), grid, block, 0, s, rows, n, *a);
}

cudaError_t k_gate(int32_t rows, const int32_t *n, const gpu_gate *a, cudaStream_t s)
{
    switch (a->activation) {
    case OPS_SILU:
        return launch_gate<OPS_SILU>(rows, n, a, s);
    case OPS_GELU:
        return launch_gate<OPS_GELU>(rows, n, a, s);
    case OPS_GELU_TANH:
        return launch_gate<OPS_GELU_TANH>(rows, n, a, s);
    case OPS_RELU:
        return launch_gate<OPS_RELU>(rows, n, a, s);
    case OPS_RELU2:
        return launch_gate<OPS_RELU2>(rows, n, a, s);
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t k_quantise(int32_t rows, const int32_t *n, gpu_mat x, gpu_mat y, cudaStream_t s)
{
    const gpu_gate copy = {x, {}, 0, y, 0};
    return launch_gate<COPY>(rows, n, &copy, s);
}
