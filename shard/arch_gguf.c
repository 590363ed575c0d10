/* shard/arch_gguf.c - GGUF metadata, translated to the keys of config.json and then read by the same code.
 *
 * GGUF leaves much to the reader: what it never says (activation, norm kind, pattern of windows) is the family's default; whether there are biases, q/k
 * norms or a head of its own is told by the tensors; rope factors are tensors too. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/arch_internal.h"

typedef enum meta_kind { META_INT, META_F64, META_BOOL } meta_kind;

/* Metadata keys (after "<architecture>.") and the config keys they become. */
static const struct {
    const char *gguf, *hf;
    meta_kind kind;
} keys[] = {
    {"block_count", "num_hidden_layers", META_INT},
    {"embedding_length", "hidden_size", META_INT},
    {"attention.head_count", "num_attention_heads", META_INT},
    {"attention.head_count_kv", "num_key_value_heads", META_INT},
    {"attention.key_length", "head_dim", META_INT},
    {"feed_forward_length", "intermediate_size", META_INT},
    {"context_length", "max_position_embeddings", META_INT},
    {"vocab_size", "vocab_size", META_INT},
    {"rope.freq_base", "rope_theta", META_F64},
    {"rope.freq_base_swa", "rope_local_base_freq", META_F64},
    {"rope.dimension_count", "rope_dims", META_INT},
    {"attention.sliding_window", "sliding_window", META_INT},
    {"attention.scale", "attention_multiplier", META_F64},
    {"residual_scale", "residual_multiplier", META_F64},
    {"embedding_scale", "embedding_multiplier", META_F64},
    {"attn_logit_softcapping", "attn_logit_softcapping", META_F64},
    {"final_logit_softcapping", "final_logit_softcapping", META_F64},
    {"attention.clamp_kqv", "clip_qkv", META_F64},
    {"use_parallel_residual", "use_parallel_residual", META_BOOL},
    {"rope.scaling.original_context_length", "original_max_position_embeddings", META_INT},
    {"expert_count", "num_experts", META_INT},
    {"attention.kv_lora_rank", "kv_lora_rank", META_INT},
};

/* Tensors whose presence is a fact, under every name the families' configs have for it. */
static const struct {
    const char *tensor, *fact;
} tensor_facts[] = {
    {"blk.0.attn_q_norm.weight", "qk_layernorm"},
    {"blk.0.attn_q_norm.weight", "use_qk_norm"},
};

/* Models of which the reference scales q.k by hidden/heads instead of the family's default; GGUF does not say. */
static const struct {
    const char *gguf;
    int32_t n_layers;
} scaled_by_width[] = {{"gemma2", 46}, {"gemma3", 62}};

const char *arch_gguf_key(const char *hf_key)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (strcmp(keys[i].hf, hf_key) == 0)
            return keys[i].gguf;
    }
    return NULL;
}

typedef struct reader {
    const char *where, *arch;
    const shard_meta *meta;
    const arch_family *row;
    json_t *config;
    char name[160];
} reader;

static const char *full_key(reader *r, const char *key)
{
    snprintf(r->name, sizeof(r->name), "%s.%s", r->arch, key);
    return r->name;
}

static status put(reader *r, const char *key, json_t *value)
{
    return json_object_set_new(r->config, key, value) == 0 ? ST_OK : FAIL(ST_NO_MEMORY, "%s: out of memory", r->where);
}

static status put_f64(reader *r, const char *key, double value)
{
    if (!isfinite(value))
        return FAIL(ST_FORMAT, "%s: %s is not a finite number", r->where, r->name);
    return put(r, key, json_real(value));
}

static bool has_tensor(const shard_meta *meta, const char *name)
{
    int64_t rows, cols;
    return meta->tensor_shape(meta->arg, name, &rows, &cols);
}

/* A count that some files give for each layer: fine while all are equal. */
static status read_count(reader *r, const char *key, const char *hf)
{
    const int64_t *values;
    int64_t n, one;
    if (r->meta->get_int(r->meta->arg, full_key(r, key), &one))
        return put(r, hf, json_integer(one));
    n = r->meta->get_int_array(r->meta->arg, r->name, &values);
    for (int64_t i = 1; i < n; i++) {
        if (values[i] != values[0])
            return FAIL(ST_UNSUPPORTED, "%s: %s differs from layer to layer, which is not supported", r->where, r->name);
    }
    return n > 0 ? put(r, hf, json_integer(values[0])) : ST_OK;
}

static status read_keys(reader *r)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        double f;
        bool b;
        if (keys[i].kind == META_INT)
            TRY(read_count(r, keys[i].gguf, keys[i].hf));
        else if (keys[i].kind == META_F64 && r->meta->get_f64(r->meta->arg, full_key(r, keys[i].gguf), &f))
            TRY(put_f64(r, keys[i].hf, f));
        else if (keys[i].kind == META_BOOL && r->meta->get_bool(r->meta->arg, full_key(r, keys[i].gguf), &b))
            TRY(put(r, keys[i].hf, json_boolean(b)));
    }
    return ST_OK;
}

/* Keys that carry one name in GGUF and one for each family in config.json. */
static status read_family_keys(reader *r)
{
    static const char *const eps[] = {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"};
    double f;
    for (size_t i = 0; i < ARRAY_LEN(eps); i++) {
        if (r->row->eps_key != NULL && r->meta->get_f64(r->meta->arg, full_key(r, eps[i]), &f))
            TRY(put_f64(r, r->row->eps_key, f));
    }
    if (r->row->logit_key != NULL && r->meta->get_f64(r->meta->arg, full_key(r, "logit_scale"), &f))
        TRY(put_f64(r, r->row->logit_key, f));
    return ST_OK;
}

static status read_windows(reader *r)
{
    int64_t pattern;
    const int64_t *flags;
    if (r->meta->get_int(r->meta->arg, full_key(r, "attention.sliding_window_pattern"), &pattern))
        return put(r, "sliding_window_pattern", json_integer(pattern));
    int64_t n = r->meta->get_int_array(r->meta->arg, r->name, &flags);
    if (n < 0)
        return ST_OK;
    if (n > SHARD_MAX_LAYERS)
        return FAIL(ST_FORMAT, "%s: %s has %lld entries", r->where, r->name, (long long)n);
    json_t *types = json_array();
    for (int64_t i = 0; i < n; i++)
        (void)json_array_append_new(types, json_string(flags[i] != 0 ? "sliding_attention" : "full_attention"));
    return put(r, "layer_types", types);
}

static status read_tensors(reader *r)
{
    int64_t rows, cols, kv = 0;
    for (size_t i = 0; i < ARRAY_LEN(tensor_facts); i++) {
        TRY(put(r, tensor_facts[i].fact, json_boolean(has_tensor(r->meta, tensor_facts[i].tensor))));
    }
    if (r->meta->tensor_shape(r->meta->arg, "token_embd.weight", &rows, &cols))
        TRY(put(r, "vocab_size", json_integer(rows)));
    TRY(put(r, "tie_word_embeddings", json_boolean(!has_tensor(r->meta, "output.weight"))));
    /* Falcon: several KV heads mean the newer layout; without a second norm its block has one. */
    kv = json_integer_value(json_object_get(r->config, "num_key_value_heads"));
    if (strcmp(r->row->family, "falcon") == 0 && kv > 1) {
        TRY(put(r, "new_decoder_architecture", json_true()));
        TRY(put(r, "num_ln_in_parallel_attn", json_integer(has_tensor(r->meta, "blk.0.attn_norm_2.weight") ? 2 : 1)));
    }
    return ST_OK;
}

/* A list of rope factors from a tensor; *out NULL where there is none. */
static status factor_list(reader *r, const char *name, json_t **out)
{
    int64_t rows, cols, n;
    float *values;
    *out = NULL;
    if (!r->meta->tensor_shape(r->meta->arg, name, &rows, &cols))
        return ST_OK;
    if (rows < 1 || cols != 1 || rows > SHARD_MAX_ROPE_DIMS)
        return FAIL(ST_FORMAT, "%s: tensor %s has shape [%lld, %lld]; a list of at most %d factors is expected", r->where, name, (long long)rows,
                    (long long)cols, SHARD_MAX_ROPE_DIMS);
    TRY(r->meta->tensor_f32(r->meta->arg, name, &n, &values));
    json_t *list = json_array();
    status st = ST_OK;
    for (int64_t i = 0; i < n && st == ST_OK; i++) {
        if (!isfinite(values[i]))
            st = FAIL(ST_FORMAT, "%s: tensor %s: entry %lld is not finite", r->where, name, (long long)i);
        else if (json_array_append_new(list, json_real((double)values[i])) != 0)
            st = FAIL(ST_NO_MEMORY, "%s: out of memory", r->where);
    }
    free(values);
    if (st == ST_OK)
        *out = list;
    else
        json_decref(list);
    return st;
}

/* rope_factors_long/short (Phi-3), or rope_freqs: divisors for every length (Llama 3.1). */
static status rope_from_tensors(reader *r, json_t *rope, bool *found)
{
    json_t *freqs, *shorter, *longer;
    double factor = 1;
    TRY(factor_list(r, "rope_freqs.weight", &freqs));
    *found = freqs != NULL;
    if (freqs != NULL) {
        bool ok = json_object_set(rope, "long_factor", freqs) == 0 && json_object_set_new(rope, "short_factor", freqs) == 0 &&
                  json_object_set_new(rope, "attention_factor", json_real(1)) == 0;
        return ok ? ST_OK : FAIL(ST_NO_MEMORY, "%s: out of memory", r->where);
    }
    TRY(factor_list(r, "rope_factors_short.weight", &shorter));
    status st = factor_list(r, "rope_factors_long.weight", &longer);
    *found = shorter != NULL && longer != NULL;
    if (shorter != NULL)
        (void)json_object_set_new(rope, "short_factor", shorter);
    if (st == ST_OK && longer != NULL)
        (void)json_object_set_new(rope, "long_factor", longer);
    if (*found && r->meta->get_f64(r->meta->arg, full_key(r, "rope.scaling.attn_factor"), &factor) && isfinite(factor))
        (void)json_object_set_new(rope, "attention_factor", json_real(factor));
    return st;
}

/* yarn's attention factor: GGUF gives a further multiplier (llama.cpp: attn_factor * (1 + 0.1 ln factor)). */
static status yarn_from_keys(reader *r, json_t *rope, double factor)
{
    static const struct {
        const char *gguf, *hf;
    } betas[] = {{"rope.scaling.yarn_beta_fast", "beta_fast"}, {"rope.scaling.yarn_beta_slow", "beta_slow"}};
    double f, attention = 1;
    bool ok = true;
    for (size_t i = 0; i < ARRAY_LEN(betas); i++) {
        if (r->meta->get_f64(r->meta->arg, full_key(r, betas[i].gguf), &f) && isfinite(f))
            ok = ok && json_object_set_new(rope, betas[i].hf, json_real(f)) == 0;
    }
    if (r->meta->get_f64(r->meta->arg, full_key(r, "rope.scaling.attn_factor"), &attention) && isfinite(attention) && factor > 1)
        ok = ok && json_object_set_new(rope, "attention_factor", json_real(attention * (1 + 0.1 * log(factor)))) == 0;
    return ok ? ST_OK : FAIL(ST_NO_MEMORY, "%s: out of memory", r->where);
}

static status fill_rope(reader *r, json_t *rope)
{
    bool lists;
    double factor = 1;
    const char *type = r->meta->get_str(r->meta->arg, full_key(r, "rope.scaling.type"));
    TRY(rope_from_tensors(r, rope, &lists));
    bool given = r->meta->get_f64(r->meta->arg, full_key(r, "rope.scaling.factor"), &factor);
    if (!given && r->meta->get_f64(r->meta->arg, full_key(r, "rope.scale_linear"), &factor)) {
        given = true;
        type = type == NULL ? "linear" : type;
    }
    if (!isfinite(factor))
        return FAIL(ST_FORMAT, "%s: %s is not a finite number", r->where, r->name);
    bool ok = true;
    if (lists)
        type = "longrope";
    else if (type == NULL || strcmp(type, "none") == 0)
        type = "default";
    else if (given)
        ok = json_object_set_new(rope, "factor", json_real(factor)) == 0;
    if (strcmp(type, "yarn") == 0)
        TRY(yarn_from_keys(r, rope, factor));
    ok = ok && json_object_set_new(rope, "rope_type", json_string(type)) == 0;
    return ok ? ST_OK : FAIL(ST_NO_MEMORY, "%s: out of memory", r->where);
}

static status read_rope(reader *r)
{
    json_t *rope = json_object();
    status st = rope == NULL ? FAIL(ST_NO_MEMORY, "%s: out of memory", r->where) : fill_rope(r, rope);
    if (st != ST_OK) {
        json_decref(rope);
        return st;
    }
    return put(r, "rope_scaling", rope);
}

/* What the files leave out and the family's default gets wrong. */
static status read_exceptions(reader *r)
{
    int64_t layers = json_integer_value(json_object_get(r->config, "num_hidden_layers")), value_length, key_length;
    int64_t heads = json_integer_value(json_object_get(r->config, "num_attention_heads"));
    int64_t hidden = json_integer_value(json_object_get(r->config, "hidden_size"));
    for (size_t i = 0; i < ARRAY_LEN(scaled_by_width); i++) {
        if (strcmp(scaled_by_width[i].gguf, r->arch) == 0 && layers == scaled_by_width[i].n_layers && heads > 0)
            TRY(put(r, "query_pre_attn_scalar", json_integer(hidden / heads)));
    }
    if (r->row->scale_rsqrt && json_object_get(r->config, "query_pre_attn_scalar") == NULL && json_object_get(r->config, "head_dim") != NULL)
        TRY(put(r, "query_pre_attn_scalar", json_incref(json_object_get(r->config, "head_dim"))));
    if (r->meta->get_int(r->meta->arg, full_key(r, "attention.value_length"), &value_length) &&
        r->meta->get_int(r->meta->arg, full_key(r, "attention.key_length"), &key_length) && value_length != key_length)
        return FAIL(ST_UNSUPPORTED, "%s: %s.attention.value_length (%lld) differs from key_length (%lld), which is not supported", r->where, r->arch,
                    (long long)value_length, (long long)key_length);
    return ST_OK;
}

static status translate(reader *r)
{
    TRY(put(r, "model_type", json_string(r->arch)));
    TRY(read_keys(r));
    TRY(read_family_keys(r));
    TRY(read_windows(r));
    TRY(read_tensors(r));
    TRY(read_exceptions(r));
    return read_rope(r);
}

static bool gguf_has(void *arg, const char *name)
{
    return has_tensor(arg, name);
}

/* The row's turn: translate, then the common reading. */
static status build(reader *r, shard_arch *out, bool *taken)
{
    status st = translate(r);
    if (st != ST_OK)
        return st;
    arch_source src = {.where = r->where, .row = r->row, .gguf = r->arch, .config = NULL};
    TRY(arch_prepare(r->row, r->config, &src.config));
    *taken = src.config != NULL;
    if (*taken)
        st = arch_build(&src, gguf_has, (void *)r->meta, out);
    json_decref(src.config);
    return st;
}

status shard_arch_from_gguf(const char *where, const shard_meta *meta, shard_arch *out)
{
    const char *name = meta->get_str(meta->arg, "general.architecture");
    if (name == NULL)
        return FAIL(ST_FORMAT, "%s: general.architecture is missing", where);
    for (int i = 0; i < arch_n_families; i++) {
        reader r = {.where = where, .arch = name, .meta = meta, .row = &arch_families[i]};
        int64_t n;
        bool taken = false;
        if (!arch_word_in(r.row->gguf_names, name))
            continue;
        if (r.row->gguf_when != NULL && !meta->get_int(meta->arg, full_key(&r, r.row->gguf_when), &n))
            continue;
        r.config = json_object();
        if (r.config == NULL)
            return FAIL(ST_NO_MEMORY, "%s: out of memory", where);
        status st = build(&r, out, &taken);
        json_decref(r.config);
        if (st != ST_OK || taken)
            return st;
    }
    return arch_refuse(where, name);
}
