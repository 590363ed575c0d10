/* ops/cpu/vec_rows.c - norms, gates, rotations and conversions: the kernels that work along one row or one head. */
#include "ops/cpu/vec_kernels.h"

#include "ops/cpu/vec_math.h"

float VEC_NAME(sumsq)(const float *x, int32_t n)
{
    vf acc = vf_zero();
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        vf v = n - i >= VEC_LANES ? vf_load(x + i) : vf_load_n(x + i, n - i);
        acc = vf_fma(v, v, acc);
    }
    return vf_sum(acc);
}

float VEC_NAME(sum)(const float *x, int32_t n)
{
    vf acc = vf_zero();
    for (int32_t i = 0; i < n; i += VEC_LANES)
        acc = vf_add(acc, n - i >= VEC_LANES ? vf_load(x + i) : vf_load_n(x + i, n - i));
    return vf_sum(acc);
}

/* Sum of squared distances from the mean: the tail's idle lanes must not count. */
static float sum_squared_distance(const float *x, int32_t n, float mean)
{
    vf acc = vf_zero(), m = vf_set1(mean);
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        int left = n - i;
        vf d = vf_sub(left >= VEC_LANES ? vf_load(x + i) : vf_load_n(x + i, left), m);
        if (left < VEC_LANES)
            d = vf_select(vm_first(left), d, vf_zero());
        acc = vf_fma(d, d, acc);
    }
    return vf_sum(acc);
}

/* y = (x - mean) * inverse * weight + bias, what is absent left out; y may be x. */
static void affine(const float *x, int32_t n, const float *mean, float inverse, const float *weight, const float *bias, float *y)
{
    vf inv = vf_set1(inverse), m = vf_set1(mean != NULL ? *mean : 0.0f);
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        int left = n - i;
        vf v = left >= VEC_LANES ? vf_load(x + i) : vf_load_n(x + i, left);
        if (mean != NULL)
            v = vf_sub(v, m);
        v = vf_mul(v, inv);
        if (weight != NULL)
            v = vf_mul(v, left >= VEC_LANES ? vf_load(weight + i) : vf_load_n(weight + i, left));
        if (bias != NULL)
            v = vf_add(v, left >= VEC_LANES ? vf_load(bias + i) : vf_load_n(bias + i, left));
        if (left >= VEC_LANES)
            vf_store(y + i, v);
        else
            vf_store_n(y + i, left, v);
    }
}

static void normalise(ops_norm_kind kind, const float *x, int32_t n, float eps, const float *weight, const float *bias, float *y)
{
    if (kind == OPS_NORM_RMS) {
        affine(x, n, NULL, 1.0f / sqrtf(VEC_NAME(sumsq)(x, n) / (float)n + eps), weight, bias, y);
    } else {
        float mean = VEC_NAME(sum)(x, n) / (float)n;
        affine(x, n, &mean, 1.0f / sqrtf(sum_squared_distance(x, n, mean) / (float)n + eps), weight, bias, y);
    }
}

/* s = the parts added in order, then the bias.  The next row's are fetched meanwhile: other cores wrote them. */
static void add_parts(const cpu_norm_job *job, int32_t row, float *s)
{
    size_t at = (size_t)row * job->parts.stride;
    for (int32_t i = 0; i < job->cols; i += VEC_LANES) {
        int left = job->cols - i;
        for (int32_t p = 0; p < job->parts.n; p++)
            __builtin_prefetch(job->parts.part[p] + at + job->parts.stride + i);
        vf v = vf_load_n(job->parts.part[0] + at + i, left);
        for (int32_t p = 1; p < job->parts.n; p++)
            v = vf_add(v, vf_load_n(job->parts.part[p] + at + i, left));
        if (job->part_bias != NULL)
            v = vf_add(v, vf_load_n(job->part_bias + i, left));
        vf_store_n(s + i, left, v);
    }
}

void VEC_NAME(norm_row)(const cpu_norm_job *job, int32_t row, float *x, float *s, float *y)
{
    int32_t n = job->cols;
    if (job->parts.n > 0) {
        add_parts(job, row, s);
        if (job->post != OPS_NORM_NONE)
            normalise(job->post, s, n, job->eps, job->post_weight, job->post_bias, s);
        vf scale = vf_set1(job->residual_scale);
        for (int32_t i = 0; i < n; i += VEC_LANES) {
            vf v = vf_mul(vf_load_n(s + i, n - i), scale);
            vf_store_n(x + i, n - i, job->replace ? v : vf_add(vf_load_n(x + i, n - i), v));
        }
    }
    if (y == NULL)
        return;
    if (job->norm != OPS_NORM_NONE)
        normalise(job->norm, x, n, job->eps, job->weight, job->bias, y);
    else if (y != x)
        memcpy(y, x, (size_t)n * sizeof(float));
}

void VEC_NAME(to_bf16)(const float *x, int32_t n, uint16_t *y)
{
    int32_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        vf_store_bf16(y + i, vf_load(x + i));
    for (; i < n; i++)
        y[i] = half_f32_to_bf16(x[i]);
}

void VEC_NAME(scale_add)(float *x, int32_t n, float scale, const float *add)
{
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        vf v = vf_mul(vf_load_n(x + i, n - i), vf_set1(scale));
        vf_store_n(x + i, n - i, add != NULL ? vf_add(v, vf_load_n(add + i, n - i)) : v);
    }
}

/* ---- gates ---- */
VEC vf activate(ops_activation activation, vf g)
{
    const vf one = vf_set1(1.0f), half = vf_set1(0.5f);
    switch (activation) {
    case OPS_SILU:
        return vf_div(g, vf_add(one, vf_exp(vf_neg(g))));
    case OPS_GELU:
        return vf_mul(vf_mul(g, half), vf_add(one, vf_erf(vf_mul(g, vf_set1(0x1.6a09e6p-1f)))));
    case OPS_GELU_TANH: {
        vf inner = vf_mul(vf_set1(0x1.988454p-1f), vf_fma(vf_mul(vf_mul(g, g), g), vf_set1(0.044715f), g));
        return vf_mul(vf_mul(g, half), vf_add(one, vf_tanh(inner)));
    }
    case OPS_RELU:
        return vf_max(vf_zero(), g);
    default: {
        vf r = vf_max(vf_zero(), g);
        return vf_mul(r, r);
    }
    }
}

VEC void gate_of(ops_activation activation, const float *gate, const float *up, int32_t n, float *y)
{
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        vf v = activate(activation, vf_load_n(gate + i, n - i));
        vf_store_n(y + i, n - i, up != NULL ? vf_mul(v, vf_load_n(up + i, n - i)) : v);
    }
}

void VEC_NAME(gate_row)(ops_activation activation, const float *gate, const float *up, int32_t n, float *y)
{
    switch (activation) {
    case OPS_SILU:
        gate_of(OPS_SILU, gate, up, n, y);
        break;
    case OPS_GELU:
        gate_of(OPS_GELU, gate, up, n, y);
        break;
    case OPS_GELU_TANH:
        gate_of(OPS_GELU_TANH, gate, up, n, y);
        break;
    case OPS_RELU:
        gate_of(OPS_RELU, gate, up, n, y);
        break;
    default:
        gate_of(OPS_RELU2, gate, up, n, y);
    }
}

/* ---- experts ---- */
void VEC_NAME(softmax)(const float *x, int32_t n, float *y)
{
    vf most = vf_set1(-INFINITY), acc = vf_zero();
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        vf v = vf_load_n(x + i, n - i);
        most = vf_max(n - i >= VEC_LANES ? v : vf_select(vm_first(n - i), v, most), most); /* a NaN leaves the second */
    }
    vf max = vf_set1(vf_hmax(most));
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        vf e = vf_exp(vf_sub(vf_load_n(x + i, n - i), max));
        acc = vf_add(acc, n - i >= VEC_LANES ? e : vf_select(vm_first(n - i), e, vf_zero()));
        vf_store_n(y + i, n - i, e);
    }
    vf total = vf_set1(vf_sum(acc));
    for (int32_t i = 0; i < n; i += VEC_LANES)
        vf_store_n(y + i, n - i, vf_div(vf_load_n(y + i, n - i), total));
}

void VEC_NAME(sigmoid)(const float *x, int32_t n, float *y)
{
    const vf one = vf_set1(1.0f);
    for (int32_t i = 0; i < n; i += VEC_LANES)
        vf_store_n(y + i, n - i, vf_div(one, vf_add(one, vf_exp(vf_neg(vf_load_n(x + i, n - i))))));
}

void VEC_NAME(add_scaled)(float w, const float *x, int32_t n, float *y)
{
    vf scale = vf_set1(w);
    for (int32_t i = 0; i < n; i += VEC_LANES)
        vf_store_n(y + i, n - i, vf_fma(scale, vf_load_n(x + i, n - i), vf_load_n(y + i, n - i)));
}

/* ---- rotary positions (arXiv:2104.09864) ---- */

/* The angle is the f32 product, as the reference implementations round it; beyond 2^20 its sine is taken in double. */
void VEC_NAME(rope_table)(const float *inv_freq, int32_t n, int32_t position, float factor, float *cosine, float *sine)
{
    vf f = vf_set1(factor), p = vf_set1((float)position);
    for (int32_t i = 0; i < n; i += VEC_LANES) {
        vf angle = vf_mul(vf_load_n(inv_freq + i, n - i), p), s, c;
        uint32_t big = vm_bits(vf_gt(vf_abs(angle), vf_set1(0x1p20f)));
        vf_sincos(vf_select(vm_from_bits(big), vf_zero(), angle), &s, &c);
        vf_store_n(sine + i, n - i, vf_mul(s, f));
        vf_store_n(cosine + i, n - i, vf_mul(c, f));
        for (int32_t j = i; big != 0; j++, big >>= 1)
            if (big & 1) {
                float a = (float)position * inv_freq[j];
                sine[j] = (float)sin((double)a) * factor;
                cosine[j] = (float)cos((double)a) * factor;
            }
    }
}

static void rotate(const cpu_head_job *job, float *x, const float *cosine, const float *sine)
{
    int32_t half = job->rope_dims / 2;
    if (job->interleaved) {
        for (int32_t i = 0; i < half; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = fmaf(-b, sine[i], a * cosine[i]);
            x[2 * i + 1] = fmaf(a, sine[i], b * cosine[i]);
        }
        return;
    }
    for (int32_t i = 0; i < half; i += VEC_LANES) {
        int left = half - i;
        vf a = vf_load_n(x + i, left), b = vf_load_n(x + half + i, left), c = vf_load_n(cosine + i, left), s = vf_load_n(sine + i, left);
        vf_store_n(x + i, left, vf_fnma(b, s, vf_mul(a, c)));
        vf_store_n(x + half + i, left, vf_fma(a, s, vf_mul(b, c)));
    }
}

void VEC_NAME(head)(const cpu_head_job *job, const float *in, float *out, const float *weight, float inverse, const float *cosine, const float *sine)
{
    int32_t n = job->head_dim;
    if (in != out)
        memcpy(out, in, (size_t)n * sizeof(float));
    if (job->clip > 0.0f) {
        vf hi = vf_set1(job->clip), lo = vf_set1(-job->clip);
        for (int32_t i = 0; i < n; i += VEC_LANES)
            vf_store_n(out + i, n - i, vf_max(lo, vf_min(hi, vf_load_n(out + i, n - i))));
    }
    if (job->norm == OPS_QK_HEAD_RMS)
        normalise(OPS_NORM_RMS, out, n, job->eps, weight, NULL, out);
    else if (job->norm == OPS_QK_HEAD_LAYER)
        normalise(OPS_NORM_LAYER, out, n, job->eps, weight, NULL, out);
    else if (job->norm == OPS_QK_FULL_RMS)
        affine(out, n, NULL, inverse, weight, NULL, out);
    if (cosine != NULL)
        rotate(job, out, cosine, sine);
}

/* ---- storing keys and values ---- */
static float group_scale(const float *x, int32_t n, uint16_t *f16) /* amax / 127 rounded up to f16, so that no code exceeds 127 */
{
    float amax = 0.0f;
    for (int32_t i = 0; i < n; i++)
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    float want = amax / 127.0f;
    *f16 = half_f32_to_f16(want < 65504.0f ? want : 65504.0f);
    if (half_f16_to_f32(*f16) < want && *f16 < 0x7bff)
        ++*f16;
    return half_f16_to_f32(*f16);
}

/* Quantises one token's vector: code i at codes[i * step], scale g at scales[g * 16]. */
static void put_q8(const float *x, int32_t n, int8_t *codes, int32_t step, uint16_t *scales)
{
    for (int32_t g = 0; g * CPU_KV_GROUP < n; g++) {
        int32_t begin = g * CPU_KV_GROUP, end = n - begin < CPU_KV_GROUP ? n : begin + CPU_KV_GROUP;
        float scale = group_scale(x + begin, end - begin, &scales[g * OPS_KV_BLOCK]);
        for (int32_t i = begin; i < end; i++) {
            float c = scale > 0.0f ? x[i] / scale : 0.0f;
            c = c < 127.0f ? c : 127.0f; /* NaN becomes 127 rather than undefined */
            c = c > -127.0f ? c : -127.0f;
            codes[(size_t)i * (size_t)step] = (int8_t)((c + VEC_ROUND_MAGIC) - VEC_ROUND_MAGIC);
        }
    }
}

void VEC_NAME(kv_put)(const cpu_kv_layout *kv, char *block, int32_t slot, const float *k, const float *v)
{
    int32_t n = kv->head_dim, e = kv->padded, i;
    if (kv->type == OPS_KV_F32) {
        float *kc = (float *)(void *)block + slot, *vc = (float *)(void *)(block + kv->v_codes) + (size_t)slot * (size_t)e;
        for (i = 0; i < n; i++)
            kc[(size_t)i * OPS_KV_BLOCK] = k[i];
        memcpy(vc, v, (size_t)n * sizeof(float));
    } else if (kv->type == OPS_KV_Q8) {
        put_q8(k, n, (int8_t *)block + slot, OPS_KV_BLOCK, (uint16_t *)(void *)(block + kv->k_scales) + slot);
        put_q8(v, n, (int8_t *)(block + kv->v_codes) + (size_t)slot * (size_t)e, 1, (uint16_t *)(void *)(block + kv->v_scales) + slot);
    } else if (kv->type == OPS_KV_F8) {
        uint8_t *kc = (uint8_t *)block + slot, *vc = (uint8_t *)block + kv->v_codes + (size_t)slot * (size_t)e;
        for (i = 0; i < n; i++) {
            kc[(size_t)i * OPS_KV_BLOCK] = half_f32_to_e4m3(k[i]);
            vc[i] = half_f32_to_e4m3(v[i]);
        }
    } else {
        bool f16 = kv->type == OPS_KV_F16;
        uint16_t *kc = (uint16_t *)(void *)block + slot, *vc = (uint16_t *)(void *)(block + kv->v_codes) + (size_t)slot * (size_t)e, h[VEC_LANES];
        for (int32_t d = 0; d < n; d += VEC_LANES) {
            int left = n - d < VEC_LANES ? n - d : VEC_LANES;
            vf kk = vf_load_n(k + d, left), vv = vf_load_n(v + d, left);
            if (f16) {
                vf_store_f16(h, kk);
                vf_store_f16(vc + d, vv); /* rows of V are padded to whole vectors; idle lanes are zero */
            } else {
                vf_store_bf16(h, kk);
                vf_store_bf16(vc + d, vv);
            }
            for (i = 0; i < left; i++)
                kc[(size_t)(d + i) * OPS_KV_BLOCK] = h[i];
        }
    }
}
