/* shard/arch_rope.c - rotary frequencies: every scaling kind, in the reference's order of f32 roundings.
 *
 * RoPE arXiv:2104.09864, linear arXiv:2306.15595, dynamic NTK (the base grows), YaRN arXiv:2309.00071, llama3 (the published code of Llama 3.1),
 * LongRoPE arXiv:2402.13753.  A config gives one object of rope keys (rope_parameters, or rope_theta + rope_scaling before transformers 5), or one
 * for windowed and one for full layers. */
#include <math.h>
#include <string.h>

#include "shard/arch_internal.h"

/* Bounds that no real checkpoint reaches: beyond them the arithmetic itself would go wrong. */
#define MAX_THETA 1e15
#define MAX_FACTOR 1e6
#define PI 3.14159265358979323846

/* One rope's keys, from whichever object holds them. */
typedef struct rope_keys {
    const json_t *obj; /* rope_parameters, rope_scaling or a nested object; NULL: none */
    double theta, partial;
    bool plain; /* ignore scaling keys */
} rope_keys;

static const json_t *member(const json_t *obj, const char *key)
{
    const json_t *v = obj == NULL ? NULL : json_object_get(obj, key);
    return v == NULL || json_is_null(v) ? NULL : v;
}

/* theta^(2i/dims), as f32 tensors compute it: the exponent is rounded before the power. */
static float frequency_base(double theta, int32_t i, int32_t dims)
{
    float exponent = (float)(2 * i) / (float)dims;
    return (float)pow((double)(float)theta, (double)exponent);
}

static void plain_frequencies(double theta, int32_t dims, float *inv)
{
    for (int32_t i = 0; i < dims / 2; i++)
        inv[i] = 1.0f / frequency_base(theta, i, dims);
}

static status check_frequencies(const arch_source *src, const shard_rope *r)
{
    for (int32_t set = 0; set < r->n_sets; set++) {
        if (!isfinite(r->attention_factor[set]) || r->attention_factor[set] <= 0)
            return FAIL(ST_FORMAT, "%s: rope scaling gives an attention factor of %g", src->where, (double)r->attention_factor[set]);
        for (int32_t i = 0; i < r->dims / 2; i++) {
            if (!isfinite(r->inv_freq[set][i]) || r->inv_freq[set][i] < 0)
                return FAIL(ST_FORMAT, "%s: rope scaling gives frequency %d the value %g", src->where, i, (double)r->inv_freq[set][i]);
        }
    }
    return ST_OK;
}

static status read_factor(const arch_source *src, const json_t *obj, shard_rope *r)
{
    if (member(obj, "factor") == NULL)
        return FAIL(ST_FORMAT, "%s: rope_scaling has no factor", src->where);
    return arch_read_f64_of(src, obj, "factor", 1e-6, MAX_FACTOR, &r->factor);
}

/* The trained length: the rope object's, else the config's, else max_position_embeddings. */
static status read_original(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r)
{
    r->original_positions = max_positions;
    TRY(arch_read_int(src, "original_max_position_embeddings", 1, INT32_MAX, &r->original_positions));
    if (member(src->config, "original_max_position_embeddings") == NULL && member(obj, "original_max_position_embeddings") != NULL) {
        double n;
        TRY(arch_read_f64_of(src, obj, "original_max_position_embeddings", 1, INT32_MAX, &n));
        r->original_positions = (int32_t)n;
    }
    return ST_OK;
}

static status scale_linear(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r)
{
    (void)max_positions;
    TRY(read_factor(src, obj, r));
    for (int32_t i = 0; i < r->dims / 2; i++)
        r->inv_freq[0][i] /= (float)r->factor;
    return ST_OK;
}

/* NTK-aware scaling for a sequence of `length` tokens, more than the trained ones. */
static void dynamic_frequencies(const shard_rope *r, double length, float *inv)
{
    double growth = r->factor * length / r->original_positions - (r->factor - 1);
    plain_frequencies(r->theta * pow(growth, (double)r->dims / (r->dims - 2)), r->dims, inv);
}

static status scale_dynamic(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r)
{
    TRY(read_factor(src, obj, r));
    if (r->factor < 1 || r->dims < 4)
        return FAIL(ST_FORMAT, "%s: dynamic rope scaling needs a factor of at least 1 and 4 rotated dimensions", src->where);
    /* max_position_embeddings is the trained length here; sequences may grow to factor times it. */
    r->original_positions = max_positions;
    r->switch_length = max_positions;
    r->n_sets = 2;
    r->attention_factor[1] = 1;
    dynamic_frequencies(r, floor(r->factor * max_positions), r->inv_freq[1]);
    return ST_OK;
}

static status scale_llama3(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r)
{
    double low = 1, high = 4;
    TRY(read_factor(src, obj, r));
    TRY(read_original(src, obj, max_positions, r));
    TRY(arch_read_f64_of(src, obj, "low_freq_factor", 1e-6, MAX_FACTOR, &low));
    TRY(arch_read_f64_of(src, obj, "high_freq_factor", 1e-6, MAX_FACTOR, &high));
    if (high <= low)
        return FAIL(ST_FORMAT, "%s: rope_scaling: high_freq_factor %g must exceed low_freq_factor %g", src->where, high, low);
    float factor = (float)r->factor, old = (float)r->original_positions;
    float long_wave = (float)(r->original_positions / low), short_wave = (float)(r->original_positions / high);
    for (int32_t i = 0; i < r->dims / 2; i++) {
        float f = r->inv_freq[0][i], wave = 1 / f * (float)(2 * PI);
        if (wave > long_wave) {
            r->inv_freq[0][i] = f / factor;
        } else if (wave >= short_wave) {
            float smooth = (1 / wave * old - (float)low) / (float)(high - low);
            r->inv_freq[0][i] = (1 - smooth) * f / factor + smooth * f;
        }
    }
    return ST_OK;
}

static double yarn_magnitude(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* The (fractional) dimension that turns `rotations` times over the trained length. */
static double yarn_dimension(const shard_rope *r, double rotations)
{
    return r->dims * log(r->original_positions / (rotations * 2 * PI)) / (2 * log(r->theta));
}

static status yarn_attention(const arch_source *src, const json_t *obj, shard_rope *r)
{
    double attention = 0, mscale = 0, all_dim = 0;
    TRY(arch_read_f64_of(src, obj, "attention_factor", 1e-6, MAX_FACTOR, &attention));
    TRY(arch_read_f64_of(src, obj, "mscale", 0, MAX_FACTOR, &mscale));
    TRY(arch_read_f64_of(src, obj, "mscale_all_dim", 0, MAX_FACTOR, &all_dim));
    if (attention == 0)
        attention = mscale != 0 && all_dim != 0 ? yarn_magnitude(r->factor, mscale) / yarn_magnitude(r->factor, all_dim) : yarn_magnitude(r->factor, 1);
    r->attention_factor[0] = (float)attention;
    return ST_OK;
}

static status scale_yarn(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r)
{
    double fast = 32, slow = 1;
    TRY(read_original(src, obj, max_positions, r));
    if (member(obj, "factor") == NULL)
        r->factor = (double)max_positions / r->original_positions;
    TRY(arch_read_f64_of(src, obj, "factor", 1e-6, MAX_FACTOR, &r->factor));
    TRY(arch_read_f64_of(src, obj, "beta_fast", 0, MAX_FACTOR, &fast));
    TRY(arch_read_f64_of(src, obj, "beta_slow", 0, MAX_FACTOR, &slow));
    fast = fast == 0 ? 32 : fast; /* 0 means the default in the reference */
    slow = slow == 0 ? 1 : slow;
    TRY(yarn_attention(src, obj, r));

    double low = yarn_dimension(r, fast), high = yarn_dimension(r, slow);
    if (!json_is_false(member(obj, "truncate"))) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < r->dims - 1 ? high : r->dims - 1;
    if (high == low)
        high += 0.001; /* no division by zero */
    for (int32_t i = 0; i < r->dims / 2; i++) {
        float base = frequency_base(r->theta, i, r->dims);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1 - ramp;
        r->inv_freq[0][i] = 1.0f / ((float)r->factor * base) * (1 - keep) + 1.0f / base * keep;
    }
    return ST_OK;
}

/* Divides each frequency of a set by the list's entry. */
static status apply_factors(const arch_source *src, const json_t *obj, const char *key, shard_rope *r, int32_t set)
{
    const json_t *list = member(obj, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)(r->dims / 2))
        return FAIL(ST_FORMAT, "%s: rope_scaling: %s must be a list of %d numbers, one for each rotated pair", src->where, key, r->dims / 2);
    for (int32_t i = 0; i < r->dims / 2; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        double f = json_number_value(v);
        if (!json_is_number(v) || !(f >= 1e-6 && f <= 1e9))
            return FAIL(ST_FORMAT, "%s: rope_scaling: %s[%d] must be a positive number", src->where, key, i);
        r->inv_freq[set][i] = 1.0f / ((float)f * frequency_base(r->theta, i, r->dims));
    }
    return ST_OK;
}

static status scale_longrope(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r)
{
    TRY(read_original(src, obj, max_positions, r));
    r->factor = (double)max_positions / r->original_positions;
    TRY(arch_read_f64_of(src, obj, "factor", 1e-6, MAX_FACTOR, &r->factor));
    double attention = 0;
    TRY(arch_read_f64_of(src, obj, "attention_factor", 1e-6, MAX_FACTOR, &attention));
    if (attention == 0 && r->factor > 1 && r->original_positions < 2)
        return FAIL(ST_FORMAT, "%s: original_max_position_embeddings %d is too small for longrope", src->where, r->original_positions);
    if (attention == 0)
        attention = r->factor <= 1 ? 1.0 : sqrt(1 + log(r->factor) / log(r->original_positions));
    r->attention_factor[0] = r->attention_factor[1] = (float)attention;
    TRY(apply_factors(src, obj, "short_factor", r, 0));
    TRY(apply_factors(src, obj, "long_factor", r, 1));
    if (memcmp(r->inv_freq[0], r->inv_freq[1], sizeof(r->inv_freq[0])) != 0) {
        r->n_sets = 2;
        r->switch_length = r->original_positions;
    }
    return ST_OK;
}

static const struct {
    const char *names; /* rope_type, or "type" in older configs */
    shard_rope_scaling kind;
    status (*scale)(const arch_source *src, const json_t *obj, int32_t max_positions, shard_rope *r);
} kinds[] = {
    {"default", SHARD_ROPE_PLAIN, NULL},
    {"linear", SHARD_ROPE_LINEAR, scale_linear},
    {"dynamic", SHARD_ROPE_DYNAMIC, scale_dynamic},
    {"llama3", SHARD_ROPE_LLAMA3, scale_llama3},
    {"yarn", SHARD_ROPE_YARN, scale_yarn},
    {"longrope su", SHARD_ROPE_LONGROPE, scale_longrope},
};

static status one_rope(const arch_source *src, const rope_keys *keys, const shard_arch *a, shard_rope *r)
{
    const json_t *type = member(keys->obj, "rope_type");
    if (type == NULL)
        type = member(keys->obj, "type");
    if (type != NULL && !json_is_string(type))
        return FAIL(ST_FORMAT, "%s: rope_type must be a string", src->where);
    const char *name = type == NULL || keys->plain ? "default" : json_string_value(type);

    *r = (shard_rope){.theta = keys->theta, .factor = 1, .n_sets = 1, .attention_factor = {1, 1}, .original_positions = a->max_positions,
                      .interleaved = src->row->rope_interleaved};
    TRY(arch_read_f64_of(src, keys->obj, "rope_theta", 1.0001, MAX_THETA, &r->theta));
    double partial = keys->partial;
    TRY(arch_read_f64_of(src, keys->obj, "partial_rotary_factor", 0, 1, &partial));
    r->dims = (int32_t)(a->head_dim * partial);
    TRY(arch_read_int(src, "rope_dims", 0, a->head_dim, &r->dims));
    if (r->dims < 2 || r->dims % 2 != 0 || r->dims > SHARD_MAX_ROPE_DIMS)
        return FAIL(ST_FORMAT, "%s: %d of head_dim's %d dimensions would rotate; must be an even number from 2 to %d", src->where, r->dims, a->head_dim,
                    SHARD_MAX_ROPE_DIMS);
    plain_frequencies(r->theta, r->dims, r->inv_freq[0]);

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!arch_word_in(kinds[i].names, name))
            continue;
        r->scaling = kinds[i].kind;
        if (kinds[i].scale != NULL)
            TRY(kinds[i].scale(src, keys->obj, a->max_positions, r));
        if (r->n_sets == 1) /* one answer for every length */
            memcpy(r->inv_freq[1], r->inv_freq[0], sizeof(r->inv_freq[0]));
        if (r->n_sets == 1)
            r->attention_factor[1] = r->attention_factor[0];
        return check_frequencies(src, r);
    }
    return FAIL(ST_UNSUPPORTED, "%s: rope scaling \"%s\" is not supported (supported: default, linear, dynamic, llama3, yarn, longrope)", src->where, name);
}

/* The longest sequence after scaling, as the checkpoints mean it: linear and dynamic configs give the trained length, yarn may, the others the final one.
 * Dynamic scaling has an answer for every length; beyond some times its factor there is little left to answer with. */
static int32_t scaled_positions(const shard_rope *r, int32_t max_positions)
{
    double n = max_positions;
    if (r->scaling == SHARD_ROPE_LINEAR)
        n = floor(max_positions * r->factor);
    else if (r->scaling == SHARD_ROPE_DYNAMIC)
        n = floor(max_positions * r->factor * 4);
    else if (r->scaling == SHARD_ROPE_YARN)
        n = floor(r->original_positions * r->factor);
    if (n < max_positions)
        n = max_positions;
    return n > 1 << 30 ? 1 << 30 : (int32_t)n;
}

static bool any(const bool *flags, int32_t n, bool wanted)
{
    for (int32_t i = 0; i < n; i++) {
        if (flags[i] == wanted)
            return true;
    }
    return false;
}

/* Where the keys of full and windowed layers are. */
static status find_keys(const arch_source *src, rope_keys *full, rope_keys *local)
{
    static const char *const objects[] = {"rope_parameters", "rope_scaling"};
    double theta = 10000, partial = 1;
    TRY(arch_read_f64(src, "rope_theta", 1.0001, MAX_THETA, &theta));
    TRY(arch_read_f64(src, "partial_rotary_factor", 0, 1, &partial));
    const json_t *obj = NULL;
    for (size_t i = 0; i < ARRAY_LEN(objects) && obj == NULL; i++) {
        obj = arch_member(src, objects[i]);
        if (obj != NULL && !json_is_object(obj))
            return FAIL(ST_FORMAT, "%s: %s must be an object", src->where, objects[i]);
    }
    *full = *local = (rope_keys){.obj = obj, .theta = theta, .partial = partial};
    const json_t *nested_full = member(obj, "full_attention"), *nested_local = member(obj, "sliding_attention");
    bool nested = nested_full != NULL || nested_local != NULL;
    if ((nested_full != NULL && !json_is_object(nested_full)) || (nested_local != NULL && !json_is_object(nested_local)))
        return FAIL(ST_FORMAT, "%s: rope_parameters: full_attention and sliding_attention must be objects", src->where);
    if (nested) {
        full->obj = nested_full;
        local->obj = nested_local;
    }
    if (src->row->local_rope == ARCH_LOCAL_OWN)
        TRY(arch_read_f64(src, "rope_local_base_freq", 1.0001, MAX_THETA, &local->theta));
    if (src->row->local_rope != ARCH_LOCAL_SAME && !nested) {
        local->plain = true;
        local->obj = NULL;
        if (src->row->local_rope == ARCH_LOCAL_PLAIN)
            TRY(arch_read_f64_of(src, obj, "rope_theta", 1.0001, MAX_THETA, &local->theta));
    }
    return ST_OK;
}

status arch_ropes(const arch_source *src, const bool *windowed, shard_arch *out)
{
    rope_keys full, local;
    out->n_ropes = 0;
    if (out->alibi || src->row->nope == ARCH_NOPE_ALWAYS)
        return ST_OK;
    TRY(find_keys(src, &full, &local));
    bool two = full.obj != local.obj || full.theta != local.theta || full.plain != local.plain;
    bool has_full = any(windowed, out->n_layers, false) || !two, has_local = any(windowed, out->n_layers, true) && two;
    int32_t max_positions = out->max_positions, local_rope = 0;
    if (has_full) {
        shard_rope *r = &out->ropes[out->n_ropes++];
        TRY(one_rope(src, &full, out, r));
        /* Gemma 3 gives the final length beside its linear factor. */
        if (src->row->local_rope != ARCH_LOCAL_OWN)
            max_positions = scaled_positions(r, out->max_positions);
    }
    if (has_local) {
        local_rope = out->n_ropes++;
        TRY(one_rope(src, &local, out, &out->ropes[local_rope]));
    }
    for (int32_t i = 0; i < out->n_layers; i++)
        out->layers[i].rope = (int8_t)(two && windowed[i] ? local_rope : 0);
    out->max_positions = max_positions;
    return ST_OK;
}

int32_t shard_arch_rope_set(const shard_arch *arch, int64_t n_tokens)
{
    int32_t set = 0;
    for (int32_t i = 0; i < arch->n_ropes; i++) {
        const shard_rope *r = &arch->ropes[i];
        if (r->n_sets > 1 && n_tokens > r->switch_length)
            set = r->scaling == SHARD_ROPE_DYNAMIC ? (int32_t)(n_tokens < INT32_MAX ? n_tokens : INT32_MAX) : set > 1 ? set : 1;
    }
    return set;
}

void shard_rope_frequencies(const shard_rope *r, int32_t rope_set, float *inv_freq)
{
    if (r->scaling == SHARD_ROPE_DYNAMIC && rope_set > r->switch_length)
        dynamic_frequencies(r, rope_set, inv_freq);
    else
        memcpy(inv_freq, r->inv_freq[rope_set > 0 && r->n_sets > 1], (size_t)(r->dims / 2) * sizeof(float));
}
