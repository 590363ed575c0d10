/* ops/cuda/k_kv.cu - the paged cache: its layout, what writes it, and the copy of a block. */
#include "ops/cuda/rows.cuh"

#define KV_GROUP 32        /* dimensions of one q8 scale */
#define HEAD_WARPS 4
#define HEAD_SHARED 49152  /* bytes that need no leave */

/* ---- layout ---- */

static bool multiply(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool gpu_kv_layout(const ops_kv_spec *spec, gpu_kv *out)
{
    if ((unsigned)spec->type >= OPS_KV_TYPES || spec->n_layers < 0 || spec->n_kv_heads < 0 || spec->head_dim <= 0 || spec->head_dim > HEAD_SHARED / 4 ||
        spec->n_blocks < 0)
        return false;
    const int64_t e = (spec->head_dim + 15) / 16 * 16, groups = (e + KV_GROUP - 1) / KV_GROUP;
    const int64_t codes = OPS_KV_BLOCK * e * (spec->type == OPS_KV_F32 ? 4 : spec->type == OPS_KV_Q8 || spec->type == OPS_KV_F8 ? 1 : 2);
    const int64_t scales = spec->type == OPS_KV_Q8 ? (OPS_KV_BLOCK * groups * 2 + 63) / 64 * 64 : 0;
    int64_t all;
    gpu_kv kv = {};
    kv.type = spec->type;
    kv.n_layers = spec->n_layers;
    kv.n_kv_heads = spec->n_kv_heads;
    kv.head_dim = spec->head_dim;
    kv.padded = (int32_t)e;
    kv.n_blocks = spec->n_blocks;
    kv.k_scales = codes;
    kv.v_codes = codes + scales;
    kv.v_scales = 2 * codes + scales;
    kv.head_bytes = 2 * (codes + scales);
    if (!multiply(kv.head_bytes, spec->n_layers, &all) || !multiply(all, spec->n_kv_heads, &all) || !multiply(all, spec->n_blocks, &all))
        return false;
    *out = kv;
    return true;
}

/* ---- q, k, v ---- */

/* A q8 group's scale: amax / 127 rounded up to f16, so that no code exceeds 127 (vec_rows.c). */
GPU_FN uint16_t group_scale(float amax)
{
    const float want = amax / 127.0f;
    uint16_t h = gpu_f32_to_f16(want < 65504.0f ? want : 65504.0f);
    if (gpu_f16_to_f32(h) < want && h < 0x7bff)
        h++;
    return h;
}

/* Stores the warp's head x [padded] (zeros from head_dim on) as one token's codes at `codes`, and for q8 its scales at `scales`, one in every 16. */
GPU_FN void store_head(const gpu_kv *kv, const float *x, char *codes, uint16_t *scales)
{
    const int32_t lane = (int32_t)threadIdx.x & 31, e = kv->padded;
    for (int32_t d0 = 0; d0 < e; d0 += 128) { /* all lanes go round alike: they exchange the groups' maxima */
        const int32_t d = d0 + 4 * lane;
        const row4 v = row_load4<true>(x, d, e);
        float amax = 0.0f;
        if (kv->type == OPS_KV_Q8) {
#pragma unroll
            for (int k = 0; k < 4; k++)
                amax = fmaxf(amax, fabsf(v.v[k])); /* passes a NaN over, as the CPU does */
#pragma unroll
            for (int o = 1; o < 8; o *= 2)
                amax = fmaxf(amax, __shfl_xor_sync(ROWS_ALL, amax, o));
        }
        if (d >= e)
            continue;
        if (kv->type == OPS_KV_F32) {
            *(float4 *)(codes + 4 * d) = make_float4(v.v[0], v.v[1], v.v[2], v.v[3]);
        } else if (kv->type == OPS_KV_BF16) {
            *(uint2 *)(codes + 2 * d) = make_uint2(gpu_pack_bf16(v.v[0], v.v[1]), gpu_pack_bf16(v.v[2], v.v[3]));
        } else if (kv->type == OPS_KV_F16) {
            const uint32_t lo = (uint32_t)gpu_f32_to_f16(v.v[0]) | (uint32_t)gpu_f32_to_f16(v.v[1]) << 16;
            const uint32_t hi = (uint32_t)gpu_f32_to_f16(v.v[2]) | (uint32_t)gpu_f32_to_f16(v.v[3]) << 16;
            *(uint2 *)(codes + 2 * d) = make_uint2(lo, hi);
        } else if (kv->type == OPS_KV_F8) {
            uint32_t packed = 0;
#pragma unroll
            for (int k = 0; k < 4; k++)
                packed |= (uint32_t)gpu_f32_to_e4m3(v.v[k]) << (8 * k);
            *(uint32_t *)(codes + d) = packed;
        } else {
            const uint16_t h = group_scale(amax);
            const float scale = gpu_f16_to_f32(h);
            uint32_t packed = 0;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float c = scale > 0.0f ? v.v[k] / scale : 0.0f;
                c = c < 127.0f ? c : 127.0f; /* NaN becomes 127 rather than undefined */
                c = c > -127.0f ? c : -127.0f;
                packed |= ((__float_as_uint(c + ROWS_MAGIC) - __float_as_uint(ROWS_MAGIC)) & 255u) << (8 * k);
            }
            *(uint32_t *)(codes + d) = packed;
            if (d % KV_GROUP == 0)
                scales[d / KV_GROUP * OPS_KV_BLOCK] = h;
        }
    }
}

/* x [padded] of the warp, lane's fours its own, zeros from head_dim on: x = norm(x) * weight; FULL_RMS: x * inverse * weight. */
GPU_FN void norm_head(int32_t kind, float *x, int32_t head_dim, int32_t padded, float eps, const float *weight, float inverse, float sum, float square)
{
    const int32_t lane = (int32_t)threadIdx.x & 31;
    float mean = 0.0f;
    if (kind == OPS_QK_HEAD_LAYER) {
        mean = gpu_warp_sum(sum) / (float)head_dim;
        square = 0.0f;
        for (int32_t d = 4 * lane; d < head_dim; d += 128) {
            const row4 v = row_load4<true>(x, d, padded);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float distance = d + k < head_dim ? v.v[k] - mean : 0.0f;
                square = gpu_fma(distance, distance, square);
            }
        }
    }
    if (kind != OPS_QK_FULL_RMS)
        inverse = 1.0f / sqrtf(gpu_warp_sum(square) / (float)head_dim + eps);
    for (int32_t d = 4 * lane; d < head_dim; d += 128) {
        row4 v = row_load4<true>(x, d, padded), w = {{1.0f, 1.0f, 1.0f, 1.0f}};
        if (weight != NULL)
            w = row_load4(weight, d, head_dim);
#pragma unroll
        for (int k = 0; k < 4; k++)
            v.v[k] = d + k < head_dim ? (v.v[k] - mean) * inverse * w.v[k] : 0.0f;
        row_store4<true>(x, d, padded, v);
    }
}

/* Rotates the first rope_dims of x; table: cosine and sine of each pair. */
GPU_FN void rotate_head(float *x, const float2 *table, int32_t half, bool interleaved)
{
    for (int32_t i = (int32_t)threadIdx.x & 31; i < half; i += 32) {
        const int32_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : half + i;
        const float2 t = table[i];
        const float a = x[first], b = x[second];
        x[first] = gpu_fma(-b, t.y, a * t.x);
        x[second] = gpu_fma(a, t.y, b * t.x);
    }
}

/* A warp a head of a row: queries, then keys, then values; clamped, normalised (sums: a butterfly over lanes that own fours), turned and stored.  The head lies in
 * shared memory (head_dim rounded up to 16 floats a warp) because a rotation pairs what different lanes have read.
 * Each head is read once and written once in whole lines; at head_dim 128 a warp has 512 bytes under way and an SM, with 16 blocks, 32 KB. */
static __global__ void __launch_bounds__(32 * HEAD_WARPS) qkv_kernel(const gpu_step *step, const __grid_constant__ gpu_qkv a)
{
    GPU_DYN_SMEM(float, heads);
    const int32_t warp = (int32_t)threadIdx.x >> 5, lane = (int32_t)threadIdx.x & 31, row = (int32_t)blockIdx.x;
    const int32_t unit = (int32_t)(blockIdx.y * (blockDim.x >> 5)) + warp, hd = a.head_dim, e = a.kv.padded;
    if (row >= step->n_rows || unit >= a.n_heads + 2 * a.n_kv_heads) /* the whole warp; no barrier of the block follows */
        return;
    const bool is_q = unit < a.n_heads, is_v = unit >= a.n_heads + a.n_kv_heads;
    const int32_t h = is_q ? unit : is_v ? unit - a.n_heads - a.n_kv_heads : unit - a.n_heads;
    const gpu_mat *m = is_q ? &a.q : is_v ? &a.v : &a.k;
    float *from = (float *)row_at(m, row) + (int64_t)h * hd, *x = heads + warp * e;
    const int32_t position = step->positions[row];

    float sum = 0.0f, square = 0.0f;
    for (int32_t d = 4 * lane; d < e; d += 128) {
        row4 v = row_load4(from, d, hd);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (a.clip > 0.0f) { /* NaN passes */
                v.v[k] = v.v[k] > a.clip ? a.clip : v.v[k];
                v.v[k] = v.v[k] < -a.clip ? -a.clip : v.v[k];
            }
            sum += v.v[k];
            square = gpu_fma(v.v[k], v.v[k], square);
        }
        row_store4<true>(x, d, e, v);
    }
    if (a.norm != OPS_QK_NONE && !is_v) {
        const float *weight = is_q ? a.q_weight : a.k_weight;
        float inverse = 1.0f;
        if (a.norm == OPS_QK_FULL_RMS)
            inverse = 1.0f / sqrtf((is_q ? a.q_sumsq[row] : a.k_sumsq[row]) / (float)(is_q ? a.q_total : a.k_total) + a.eps);
        if (weight != NULL)
            weight += (int64_t)h * (is_q ? a.q_step : a.k_step);
        norm_head(a.norm, x, hd, e, a.eps, weight, inverse, sum, square);
    }
    __syncwarp();
    if (a.rope >= 0 && !is_v) {
        const int32_t half = a.rope_dims / 2;
        rotate_head(x, (const float2 *)step->rope[a.rope] + (int64_t)row * half, half, a.interleaved);
        __syncwarp();
    }
    if (is_q) {
        for (int32_t d = 4 * lane; d < hd; d += 128)
            row_store4(from, d, hd, row_load4<true>(x, d, e));
        return;
    }
    const int32_t slot = position % OPS_KV_BLOCK;
    const int32_t block = step->tables[a.kv_group][step->spans[step->row_span[row]].table[a.kv_group] + position / OPS_KV_BLOCK];
    char *head = a.kv.p + (((int64_t)a.kv_layer * a.kv.n_kv_heads + h) * a.kv.n_blocks + block) * a.kv.head_bytes;
    const int64_t codes = is_v ? a.kv.v_codes : 0, scales = is_v ? a.kv.v_scales : a.kv.k_scales;
    store_head(&a.kv, x, head + codes + slot * (a.kv.k_scales / OPS_KV_BLOCK), (uint16_t *)(head + scales) + slot);
}

cudaError_t k_qkv(const gpu_step *step, int32_t rows, const gpu_qkv *a, cudaStream_t s)
{
    const int64_t units = a->n_heads + 2 * (int64_t)a->n_kv_heads;
    const size_t bytes = (size_t)a->kv.padded * sizeof(float);
    if (a->head_dim < 1 || a->head_dim != a->kv.head_dim || bytes > HEAD_SHARED || units > 65535)
        return cudaErrorInvalidValue;
    if (rows <= 0 || units <= 0)
        return cudaSuccess;
    unsigned warps = HEAD_WARPS;
    while (warps > 1 && warps * bytes > HEAD_SHARED)
        warps /= 2;
    return GPU_LAUNCH(qkv_kernel, dim3((unsigned)rows, (unsigned)((units + warps - 1) / warps)), dim3(32 * warps), warps * bytes, s, step, *a);
}

/* ---- copy of a block ---- */

#define COPY_THREADS 128

/* A block of threads a layer and KV head: head_bytes from one place to another, 16 bytes a thread and access. */
static __global__ void __launch_bounds__(COPY_THREADS) kv_copy_kernel(char *cache, int64_t n_blocks, int64_t head_bytes, int32_t from, int32_t to)
{
    char *base = cache + (int64_t)blockIdx.x * n_blocks * head_bytes;
    const uint4 *src = (const uint4 *)(base + from * head_bytes);
    uint4 *dst = (uint4 *)(base + to * head_bytes);
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < head_bytes / 16; i += COPY_THREADS)
        dst[i] = src[i];
}

cudaError_t k_kv_copy_block(const gpu_kv *kv, int32_t from, int32_t to, cudaStream_t s)
{
    const int64_t heads = (int64_t)kv->n_layers * kv->n_kv_heads;
    if (from < 0 || to < 0 || from >= kv->n_blocks || to >= kv->n_blocks || heads > INT32_MAX)
        return cudaErrorInvalidValue;
    if (from == to || heads == 0)
        return cudaSuccess;
    return GPU_LAUNCH(kv_copy_kernel, dim3((unsigned)heads), dim3(COPY_THREADS), 0, s, kv->p, kv->n_blocks, kv->head_bytes, from, to);
}
