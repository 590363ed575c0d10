/* shard/arch.c - from a config with Hugging Face's keys to shard_arch, every number checked.
 *
 * GGUF metadata comes here too, translated to the same keys (arch_gguf.c), so that a fact is read in one place.  The order: find the family's row, merge
 * its defaults under the config, copy other spellings of a key to the canonical one, read sizes, block, layers, rope. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "shard/arch_internal.h"

/* Beyond these no checkpoint exists; within them every product of sizes fits in 64 bits. */
#define MAX_HIDDEN (1 << 20)
#define MAX_HEADS (1 << 14)
#define MAX_HEAD_DIM 1024
#define MAX_INTERMEDIATE (1 << 23)
#define MAX_VOCAB (1 << 25)
#define MAX_POSITIONS (1 << 30)
#define MAX_EXPERTS (1 << 16)

/* ---- words, refusals ---- */

bool arch_word_in(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = words; p != NULL && *p != '\0' && n > 0;) {
        size_t len = strcspn(p, " ");
        if (len == n && memcmp(p, word, n) == 0)
            return true;
        p += len;
        p += strspn(p, " ");
    }
    return false;
}

/* Families of which the engine lacks a part, so that the message can say which. */
static const struct {
    const char *names, *lacking;
} known[] = {
    {"mixtral qwen2_moe qwen2moe qwen3_moe qwen3moe gpt_oss gpt-oss phimoe olmoe granitemoe granitemoeshared dbrx glm4_moe glm4moe ernie4_5_moe "
     "ernie4_5-moe minimax minimax_m2 hunyuan_v1_moe hunyuan-moe dots1 llama4 llama4_text jetmoe flex_olmo grok",
     "its layers of experts (mixture of experts) are not supported"},
    {"deepseek deepseek_v2 deepseek_v3 deepseek2 minicpm3 kimi_k2 longcat_flash deepseek_v32",
     "its latent attention (MLA) and layers of experts are not supported"},
    {"mamba mamba2 jamba falcon_mamba falcon_h1 bamba zamba zamba2 granitemoehybrid nemotron_h lfm2 recurrent_gemma rwkv rwkv6 rwkv7 qwen3_next olmo_hybrid",
     "its recurrent (state-space or linear attention) layers are not supported"},
    {"bert roberta t5 bart mbart whisper distilbert modernbert", "it is not a decoder that generates text token by token"},
};

/* The families' names, separated by commas. */
static void list_families(mem_str *s)
{
    for (int i = 0; i < arch_n_families; i++) {
        if (!arch_families[i].plan_only && (i == 0 || strcmp(arch_families[i].family, arch_families[i - 1].family) != 0))
            mem_str_printf(s, "%s%s", s->len > 0 ? ", " : "", arch_families[i].family);
    }
}

status arch_refuse(const char *where, const char *model_type)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (arch_word_in(known[i].names, model_type))
            return FAIL(ST_UNSUPPORTED, "%s: architecture \"%.64s\": %s", where, model_type, known[i].lacking);
    }
    mem_str list = {0};
    list_families(&list);
    status st = FAIL(ST_UNSUPPORTED, "%s: architecture \"%.64s\" is not supported (supported: %s)", where, model_type, list.failed ? "see --help" : list.data);
    mem_str_free(&list);
    return st;
}

bool shard_family(int i, shard_family_info *out)
{
    for (int row = 0; row < arch_n_families; row++) {
        const arch_family *f = &arch_families[row];
        if (f->plan_only || (row > 0 && strcmp(f->family, f[-1].family) == 0) || i-- > 0)
            continue; /* rows of one family stand together */
        *out = (shard_family_info){f->family, f->title, f->hf_architectures, f->gguf_names != NULL ? f->gguf_names : "", f->notes};
        return true;
    }
    return false;
}

const arch_family *arch_row(const shard_arch *arch)
{
    int32_t variant = 0;
    for (int i = 0; i < arch_n_families; i++) {
        if (strcmp(arch_families[i].family, arch->family) == 0 && variant++ == arch->variant)
            return &arch_families[i];
    }
    return NULL;
}

/* ---- reading ---- */

const char *arch_key(const arch_source *src, const char *key, char buf[128])
{
    const char *gguf = src->gguf != NULL ? arch_gguf_key(key) : NULL;
    if (gguf != NULL)
        snprintf(buf, 128, "%s.%s", src->gguf, gguf);
    else
        snprintf(buf, 128, "%s", key);
    return buf;
}

json_t *arch_member(const arch_source *src, const char *key)
{
    json_t *v = json_object_get(src->config, key);
    return v == NULL || json_is_null(v) ? NULL : v;
}

status arch_read_int(const arch_source *src, const char *key, int64_t min, int64_t max, int32_t *out)
{
    char name[128];
    json_t *v = arch_member(src, key);
    if (v == NULL)
        return ST_OK;
    double d = json_number_value(v);
    if (!json_is_number(v) || d != floor(d))
        return FAIL(ST_FORMAT, "%s: %s must be a whole number", src->where, arch_key(src, key, name));
    if (d < (double)min || d > (double)max)
        return FAIL(ST_FORMAT, "%s: %s is %.17g, must be from %lld to %lld", src->where, arch_key(src, key, name), d, (long long)min, (long long)max);
    *out = (int32_t)d;
    return ST_OK;
}

status arch_read_f64_of(const arch_source *src, const json_t *obj, const char *key, double min, double max, double *out)
{
    char name[128];
    json_t *v = obj == NULL ? NULL : json_object_get(obj, key);
    if (v == NULL || json_is_null(v))
        return ST_OK;
    double d = json_number_value(v);
    if (!json_is_number(v))
        return FAIL(ST_FORMAT, "%s: %s must be a number", src->where, arch_key(src, key, name));
    if (!(d >= min && d <= max))
        return FAIL(ST_FORMAT, "%s: %s is %g, must be from %g to %g", src->where, arch_key(src, key, name), d, min, max);
    *out = d;
    return ST_OK;
}

status arch_read_f64(const arch_source *src, const char *key, double min, double max, double *out)
{
    return arch_read_f64_of(src, src->config, key, min, max, out);
}

/* An integer that must be there. */
static status need_int(const arch_source *src, const char *key, int64_t min, int64_t max, int32_t *out)
{
    char name[128];
    if (arch_member(src, key) == NULL)
        return FAIL(ST_FORMAT, "%s: %s is missing", src->where, arch_key(src, key, name));
    return arch_read_int(src, key, min, max, out);
}

/* A boolean fact: constant or key; 0 and 1 pass for false and true. */
static status read_fact(const arch_source *src, arch_fact fact, bool *out)
{
    char name[128];
    *out = false;
    if (fact == NULL || strcmp(fact, "0") == 0)
        return ST_OK;
    if (strcmp(fact, "1") == 0) {
        *out = true;
        return ST_OK;
    }
    const json_t *v = arch_member(src, fact);
    if (v == NULL)
        return ST_OK;
    if (!json_is_boolean(v) && !(json_is_integer(v) && (json_integer_value(v) == 0 || json_integer_value(v) == 1)))
        return FAIL(ST_FORMAT, "%s: %s must be true or false", src->where, arch_key(src, fact, name));
    *out = json_is_true(v) || json_integer_value(v) == 1;
    return ST_OK;
}

/* A multiplier; 1 where the family or the config has none. */
static status read_multiplier(const arch_source *src, const char *key, float *out)
{
    double d = 1;
    *out = 1;
    if (key == NULL)
        return ST_OK;
    TRY(arch_read_f64(src, key, 1e-6, 1e6, &d));
    *out = (float)d;
    return ST_OK;
}

/* One term of an arch_when. */
static bool term_holds(const json_t *config, const char *term, size_t len)
{
    char key[64];
    bool wanted = term[0] != '!';
    if (!wanted) {
        term++;
        len--;
    }
    if (len >= sizeof(key))
        return false;
    memcpy(key, term, len);
    key[len] = '\0';
    char *equals = strchr(key, '=');
    if (equals != NULL)
        *equals = '\0';
    const json_t *v = json_object_get(config, key);
    bool is = equals != NULL ? json_is_integer(v) && json_integer_value(v) == strtol(equals + 1, NULL, 10)
                             : json_is_true(v) || (json_is_integer(v) && json_integer_value(v) != 0);
    return is == wanted;
}

static bool when_holds(const json_t *config, arch_when when)
{
    for (const char *p = when; p != NULL && *p != '\0';) {
        size_t len = strcspn(p, " ");
        if (!term_holds(config, p, len))
            return false;
        p += len;
        p += strspn(p, " ");
    }
    return true;
}

/* ---- facts ---- */

static status read_latent(const arch_source *src, shard_arch *out)
{
    int32_t plain = 0;
    TRY(need_int(src, "kv_lora_rank", 1, MAX_HIDDEN, &out->kv_latent));
    TRY(arch_read_int(src, "q_lora_rank", 0, MAX_HIDDEN, &out->q_latent));
    TRY(need_int(src, "qk_nope_head_dim", 1, MAX_HEAD_DIM, &plain));
    TRY(need_int(src, "qk_rope_head_dim", 2, MAX_HEAD_DIM, &out->rope_head_dim));
    TRY(need_int(src, "v_head_dim", 1, MAX_HEAD_DIM, &out->value_head_dim));
    out->head_dim = plain + out->rope_head_dim;
    return ST_OK;
}

/* Sizes of the experts, and which layers have them: from first_k_dense_replace on, every moe_layer_freq-th (or decoder_sparse_step-th), but for mlp_only_layers. */
static status read_experts(const arch_source *src, shard_arch *out)
{
    int32_t first = 0, every = 1, n_shared = 0;
    TRY(need_int(src, "n_routed_experts", 1, MAX_EXPERTS, &out->n_experts));
    TRY(need_int(src, "num_experts_per_tok", 1, out->n_experts, &out->n_experts_used));
    out->expert_intermediate = out->intermediate;
    TRY(arch_read_int(src, "moe_intermediate_size", 1, MAX_INTERMEDIATE, &out->expert_intermediate));
    TRY(arch_read_int(src, "n_shared_experts", 0, MAX_EXPERTS, &n_shared));
    if ((int64_t)n_shared * out->expert_intermediate > MAX_INTERMEDIATE)
        return FAIL(ST_FORMAT, "%s: n_shared_experts is %d, too many of %d channels", src->where, n_shared, out->expert_intermediate);
    out->shared_intermediate = n_shared * out->expert_intermediate;
    TRY(arch_read_int(src, "shared_expert_intermediate_size", 0, MAX_INTERMEDIATE, &out->shared_intermediate));
    out->shared_gate = out->shared_intermediate > 0 && n_shared == 0;
    TRY(arch_read_int(src, "first_k_dense_replace", 0, out->n_layers, &first));
    TRY(arch_read_int(src, "moe_layer_freq", 1, SHARD_MAX_LAYERS, &every));
    TRY(arch_read_int(src, "decoder_sparse_step", 1, SHARD_MAX_LAYERS, &every));
    for (int32_t i = first; i < out->n_layers; i++)
        out->layers[i].moe = (src->row->moe_plus_one ? i + 1 : i) % every == 0;
    const json_t *dense = arch_member(src, "mlp_only_layers"), *v;
    size_t at;
    if (dense != NULL && !json_is_array(dense))
        return FAIL(ST_FORMAT, "%s: mlp_only_layers must be a list of layers", src->where);
    json_array_foreach(dense, at, v) {
        json_int_t layer = json_integer_value(v);
        if (!json_is_integer(v) || layer < 0 || layer >= out->n_layers)
            return FAIL(ST_FORMAT, "%s: mlp_only_layers[%zu] must be a layer from 0 to %d", src->where, at, out->n_layers - 1);
        out->layers[layer].moe = false;
    }
    return ST_OK;
}

static status read_sizes(const arch_source *src, shard_arch *out)
{
    const arch_family *f = src->row;
    TRY(need_int(src, "num_hidden_layers", 1, SHARD_MAX_LAYERS, &out->n_layers));
    TRY(need_int(src, "hidden_size", 1, MAX_HIDDEN, &out->hidden));
    TRY(need_int(src, "num_attention_heads", 1, MAX_HEADS, &out->n_heads));
    TRY(need_int(src, "vocab_size", 1, MAX_VOCAB, &out->vocab));
    TRY(need_int(src, "max_position_embeddings", 1, MAX_POSITIONS, &out->max_positions));

    out->n_kv_heads = f->kv_heads == 1 ? 1 : out->n_heads;
    if (f->kv_heads == 0)
        TRY(arch_read_int(src, "num_key_value_heads", 1, MAX_HEADS, &out->n_kv_heads));
    if (out->n_heads % out->n_kv_heads != 0)
        return FAIL(ST_FORMAT, "%s: num_attention_heads (%d) must be a multiple of num_key_value_heads (%d)", src->where, out->n_heads, out->n_kv_heads);

    if (f->latent)
        TRY(read_latent(src, out));
    else if (arch_member(src, "head_dim") == NULL && out->hidden % out->n_heads != 0)
        return FAIL(ST_FORMAT, "%s: hidden_size (%d) is not a multiple of num_attention_heads (%d), and there is no head_dim", src->where, out->hidden,
                    out->n_heads);
    if (!f->latent) {
        out->head_dim = out->hidden / out->n_heads;
        TRY(arch_read_int(src, "head_dim", 2, MAX_HEAD_DIM, &out->head_dim));
    }
    if (out->head_dim < 2 || out->head_dim > MAX_HEAD_DIM || out->head_dim % 2 != 0)
        return FAIL(ST_FORMAT, "%s: head_dim is %d, must be an even number from 2 to %d", src->where, out->head_dim, MAX_HEAD_DIM);

    if (f->intermediate_times > 0)
        out->intermediate = f->intermediate_times * out->hidden;
    else if (arch_member(src, "intermediate_size") == NULL)
        return need_int(src, "intermediate_size", 1, MAX_INTERMEDIATE, &out->intermediate);
    return arch_read_int(src, "intermediate_size", 1, MAX_INTERMEDIATE, &out->intermediate);
}

static status read_norms(const arch_source *src, shard_arch *out)
{
    const arch_family *f = src->row;
    double eps = f->eps;
    bool parallel, qk_norm;
    if (f->eps_key != NULL)
        TRY(arch_read_f64(src, f->eps_key, 1e-20, 0.1, &eps));
    TRY(read_fact(src, f->parallel, &parallel));
    TRY(read_fact(src, f->qk_norm_key == NULL ? "1" : f->qk_norm_key, &qk_norm));
    out->norm = f->norm;
    out->norm_weight = !f->no_norm_weight;
    out->norm_bias = f->norm_bias;
    out->norm_eps = out->qk_norm_eps = (float)eps;
    out->parallel_block = parallel;
    out->attn_norm = !f->no_attn_norm;
    out->mlp_norm = !f->no_mlp_norm && !(parallel && f->parallel_one_norm);
    out->post_attn_norm = f->post_attn_norm;
    out->post_mlp_norm = f->post_mlp_norm;
    out->qk_norm = qk_norm ? f->qk_norm : SHARD_QK_NORM_NONE;
    return ST_OK;
}

/* GGUF does not say: the tensors of the first layer tell. */
static void biases_of_tensors(shard_has_tensor_fn has, void *arg, shard_arch *out)
{
    bool fused = has(arg, "blk.0.attn_qkv.bias");
    out->q_bias = fused || has(arg, "blk.0.attn_q.bias");
    out->k_bias = fused || has(arg, "blk.0.attn_k.bias");
    out->v_bias = fused || has(arg, "blk.0.attn_v.bias");
    out->o_bias = has(arg, "blk.0.attn_output.bias");
    out->mlp_bias = has(arg, "blk.0.ffn_up.bias");
    out->head_bias = has(arg, "output.bias");
}

static status read_biases(const arch_source *src, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out)
{
    const arch_family *f = src->row;
    bool qkv;
    if (src->gguf != NULL && has_tensor != NULL) {
        biases_of_tensors(has_tensor, arg, out);
        return ST_OK;
    }
    TRY(read_fact(src, f->qkv_bias, &qkv));
    out->q_bias = out->k_bias = out->v_bias = qkv;
    TRY(read_fact(src, f->o_bias, &out->o_bias));
    TRY(read_fact(src, f->mlp_bias, &out->mlp_bias));
    return read_fact(src, f->head_bias, &out->head_bias);
}

static status read_activation(const arch_source *src, shard_arch *out)
{
    static const struct {
        const char *names;
        shard_activation activation;
    } kinds[] = {
        {"silu swish", SHARD_ACT_SILU},
        {"gelu gelu_python", SHARD_ACT_GELU},
        {"gelu_new gelu_pytorch_tanh gelu_fast gelu_python_tanh", SHARD_ACT_GELU_TANH},
        {"relu", SHARD_ACT_RELU},
        {"relu2 relu_squared", SHARD_ACT_RELU2},
    };
    const json_t *v = arch_member(src, "hidden_act");
    const char *name = src->row->activation != NULL ? src->row->activation : json_string_value(v);
    if (name == NULL)
        return FAIL(ST_FORMAT, "%s: hidden_act %s", src->where, v == NULL ? "is missing" : "must be a string");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (arch_word_in(kinds[i].names, name)) {
            out->activation = kinds[i].activation;
            out->mlp = src->row->plain_mlp ? SHARD_MLP_PLAIN : SHARD_MLP_GATED;
            return ST_OK;
        }
    }
    return FAIL(ST_UNSUPPORTED, "%s: activation \"%.64s\" is not supported (supported: silu, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu, relu2)",
                src->where, name);
}

static status read_attention(const arch_source *src, shard_arch *out)
{
    const arch_family *f = src->row;
    double scale = 1 / sqrt(out->head_dim), cap = 0, final_cap = 0, clip = 0;
    if (f->scale_key != NULL && arch_member(src, f->scale_key) != NULL) {
        TRY(arch_read_f64(src, f->scale_key, 1e-6, 1e6, &scale));
        if (f->scale_rsqrt)
            scale = 1 / sqrt(scale);
    }
    if (f->softcaps) {
        TRY(arch_read_f64(src, "attn_logit_softcapping", 1e-3, 1e6, &cap));
        TRY(arch_read_f64(src, "final_logit_softcapping", 1e-3, 1e6, &final_cap));
    }
    if (f->clip_key != NULL)
        TRY(arch_read_f64(src, f->clip_key, 1e-6, 1e9, &clip));
    TRY(read_fact(src, f->alibi, &out->alibi));
    out->attention_scale = (float)scale;
    out->attention_softcap = (float)cap;
    out->logit_softcap = (float)final_cap;
    out->qkv_clip = (float)clip;
    out->alibi_multiplier = f->alibi_scaled ? out->attention_scale : 1;
    out->alibi_bf16 = f->alibi_scaled;
    return ST_OK;
}

static status read_ends(const arch_source *src, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out)
{
    const arch_family *f = src->row;
    shard_stored head;
    out->learned_positions = f->learned_positions;
    out->position_offset = f->position_offset;
    out->embed_norm = f->embed_norm;
    TRY(read_multiplier(src, f->embed_key, &out->embed_multiplier));
    TRY(read_multiplier(src, f->residual_key, &out->residual_multiplier));
    TRY(read_multiplier(src, f->logit_key, &out->logit_multiplier));
    if (f->embed_sqrt)
        out->embed_multiplier = (float)sqrt(out->hidden);
    if (f->logit_divides)
        out->logit_multiplier = 1 / out->logit_multiplier;
    TRY(read_fact(src, "tie_word_embeddings", &out->tied_embeddings));
    /* Some configs say untied though the file has one matrix: then it serves both ends. */
    if (!out->tied_embeddings && has_tensor != NULL && shard_arch_stored(out, src->gguf != NULL, SHARD_HEAD, 0, has_tensor, arg, &head))
        out->tied_embeddings = !has_tensor(arg, head.name);
    return ST_OK;
}

/* ---- layers ---- */

/* Windows by the config's list; *given false where it has none. */
static status windows_by_types(const arch_source *src, int32_t n_layers, bool *windowed, bool *given)
{
    const json_t *types = arch_member(src, "layer_types");
    *given = types != NULL;
    if (types == NULL)
        return ST_OK;
    if (!json_is_array(types) || json_array_size(types) != (size_t)n_layers)
        return FAIL(ST_FORMAT, "%s: layer_types must be a list of num_hidden_layers (%d) entries", src->where, n_layers);
    for (int32_t i = 0; i < n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (type == NULL || (strcmp(type, "sliding_attention") != 0 && strcmp(type, "full_attention") != 0))
            return FAIL(ST_UNSUPPORTED, "%s: layer_types[%d] is %s%.64s; supported: full_attention, sliding_attention", src->where, i,
                        type == NULL ? "no string" : "", type == NULL ? "" : type);
        windowed[i] = type[0] == 's';
    }
    return ST_OK;
}

/* sliding_window_pattern: every n-th layer is full (0: none is windowed), or letters L (local) and G (global) repeated. */
static status windows_by_pattern(const arch_source *src, int32_t n_layers, bool *windowed)
{
    const char *letters = json_string_value(arch_member(src, "sliding_window_pattern"));
    if (letters != NULL) {
        size_t n = strlen(letters);
        if (n == 0 || strspn(letters, "LG") != n)
            return FAIL(ST_FORMAT, "%s: sliding_window_pattern must be a number or letters L and G", src->where);
        for (int32_t i = 0; i < n_layers; i++)
            windowed[i] = letters[(size_t)i % n] == 'L';
        return ST_OK;
    }
    int32_t pattern = 0;
    TRY(arch_read_int(src, "sliding_window_pattern", 0, SHARD_MAX_LAYERS, &pattern));
    for (int32_t i = 0; i < n_layers; i++)
        windowed[i] = pattern > 0 && (i + 1) % pattern != 0;
    return ST_OK;
}

/* Layers without position: a list of 0 and 1 (1: rotates), or every n-th. */
static status read_nope(const arch_source *src, int32_t n_layers, bool *nope)
{
    const json_t *list = arch_member(src, "no_rope_layers");
    int32_t interval = 0;
    TRY(arch_read_int(src, "no_rope_layer_interval", 0, SHARD_MAX_LAYERS, &interval));
    for (int32_t i = 0; i < n_layers; i++)
        nope[i] = list == NULL && interval > 0 && (i + 1) % interval == 0;
    if (list == NULL)
        return ST_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)n_layers)
        return FAIL(ST_FORMAT, "%s: no_rope_layers must be a list of num_hidden_layers (%d) entries", src->where, n_layers);
    for (int32_t i = 0; i < n_layers; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_integer(v) && !json_is_boolean(v))
            return FAIL(ST_FORMAT, "%s: no_rope_layers[%d] must be 0 or 1", src->where, i);
        nope[i] = !(json_is_true(v) || json_integer_value(v) != 0);
    }
    return ST_OK;
}

/* Which layers have a window, whatever its size. */
static status read_windowed(const arch_source *src, int32_t n_layers, const bool *nope, bool *windowed)
{
    arch_window rule = src->row->window;
    bool given = false, use = true;
    int32_t from = n_layers;
    if (rule == ARCH_WINDOW_UPPER || rule == ARCH_WINDOW_NOPE)
        TRY(read_fact(src, "use_sliding_window", &use));
    if (rule != ARCH_WINDOW_NONE && rule != ARCH_WINDOW_ALL)
        TRY(windows_by_types(src, n_layers, windowed, &given));
    if (rule == ARCH_WINDOW_UPPER)
        TRY(arch_read_int(src, "max_window_layers", 0, INT32_MAX, &from));
    if (rule == ARCH_WINDOW_PATTERN && !given) {
        TRY(windows_by_pattern(src, n_layers, windowed));
        given = true;
    }
    bool size = arch_member(src, "sliding_window") != NULL;
    for (int32_t i = 0; i < n_layers; i++) {
        if (!given)
            windowed[i] = rule == ARCH_WINDOW_UPPER ? i >= from : rule == ARCH_WINDOW_NOPE ? nope[i] : rule != ARCH_WINDOW_NONE;
        windowed[i] = windowed[i] && size && use;
    }
    return ST_OK;
}

/* Groups layers of one window: their sequences keep the same blocks. */
static void group_layers(shard_arch *out)
{
    out->n_kv_groups = 0;
    for (int32_t i = 0; i < out->n_layers; i++) {
        int32_t g = 0;
        while (g < out->n_kv_groups && out->kv_groups[g].window != out->layers[i].window)
            g++;
        if (g == out->n_kv_groups)
            out->kv_groups[out->n_kv_groups++] = (shard_kv_group){.window = out->layers[i].window};
        out->kv_groups[g].n_layers++;
        out->layers[i].kv_group = (int8_t)g;
    }
}

static status read_layers(const arch_source *src, shard_arch *out)
{
    bool windowed[SHARD_MAX_LAYERS] = {false}, nope[SHARD_MAX_LAYERS] = {false};
    int32_t window = 0;
    arch_nope rule = src->row->nope;
    if (src->row->window != ARCH_WINDOW_NONE)
        TRY(arch_read_int(src, "sliding_window", 0, MAX_POSITIONS, &window));
    if (rule == ARCH_NOPE_LIST)
        TRY(read_nope(src, out->n_layers, nope));
    TRY(read_windowed(src, out->n_layers, nope, windowed));
    bool windows = false;
    for (int32_t i = 0; i < out->n_layers; i++) {
        windowed[i] = windowed[i] && window > 0; /* GGUF: 0 says none */
        windows |= windowed[i];
        out->layers[i].window = windowed[i] ? window : 0;
    }
    TRY(arch_ropes(src, windowed, out));
    for (int32_t i = 0; i < out->n_layers; i++) {
        bool none = nope[i] || out->alibi || rule == ARCH_NOPE_ALWAYS || (rule == ARCH_NOPE_FULL && !windowed[i]) ||
                    (rule == ARCH_NOPE_MIXED && windows && !windowed[i]);
        if (none)
            out->layers[i].rope = -1;
    }
    group_layers(out);
    return ST_OK;
}

/* ---- what no row covers ---- */

/* Keys whose presence means experts, latent attention or another computation than the row's. */
static status refuse_keys(const arch_source *src)
{
    static const char *const experts[] = {"num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "kv_lora_rank"};
    char name[128];
    for (size_t i = 0; i < ARRAY_LEN(experts) && !src->row->plan_only; i++) {
        int32_t n = 0;
        TRY(arch_read_int(src, experts[i], INT32_MIN, INT32_MAX, &n));
        if (n > 1)
            return FAIL(ST_UNSUPPORTED, "%s: %s is %d: %s not supported", src->where, arch_key(src, experts[i], name), n,
                        i == ARRAY_LEN(experts) - 1 ? "latent attention (MLA) is" : "layers of experts (mixture of experts) are");
    }
    for (const char *p = src->row->refuse; p != NULL && *p != '\0';) {
        size_t len = strcspn(p, " ");
        if (term_holds(src->config, p, len))
            return FAIL(ST_UNSUPPORTED, "%s: %.*s = %s is not supported", src->where, (int)(p[0] == '!' ? len - 1 : len), p[0] == '!' ? p + 1 : p,
                        p[0] == '!' ? "false" : "true");
        p += len;
        p += strspn(p, " ");
    }
    const json_t *quantised = arch_member(src, "quantization_config");
    if (quantised != NULL && !shard_config_is_f8(quantised)) {
        const char *method = json_string_value(json_object_get(quantised, "quant_method"));
        return FAIL(ST_UNSUPPORTED, "%s: quantization_config: weights quantised with %.64s are not supported: use a checkpoint in f32, f16, bf16 or fp8 (e4m3), or a GGUF file",
                    src->where, method != NULL ? method : "an unnamed method");
    }
    return ST_OK;
}

bool shard_config_is_f8(const json_t *quantization_config)
{
    const char *method = json_string_value(json_object_get(quantization_config, "quant_method"));
    const char *format = json_string_value(json_object_get(quantization_config, "format")), *fmt = json_string_value(json_object_get(quantization_config, "fmt"));
    if (method == NULL || (fmt != NULL && strcmp(fmt, "e4m3") != 0))
        return false;
    if (strcmp(method, "compressed-tensors") == 0)
        return format != NULL && strcmp(format, "float-quantized") == 0;
    return strcmp(method, "fp8") == 0 || strcmp(method, "fbgemm_fp8") == 0;
}

status arch_build(const arch_source *src, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out)
{
    const arch_family *f = src->row;
    memset(out, 0, sizeof(*out));
    snprintf(out->family, sizeof(out->family), "%s", f->family);
    const char *type = json_string_value(json_object_get(src->config, "model_type"));
    snprintf(out->model_type, sizeof(out->model_type), "%s", type != NULL ? type : f->family);
    for (const arch_family *g = f; g > arch_families && strcmp(g[-1].family, f->family) == 0; g--)
        out->variant++;
    TRY(refuse_keys(src));
    TRY(read_sizes(src, out));
    TRY(read_norms(src, out));
    TRY(read_biases(src, has_tensor, arg, out));
    TRY(read_activation(src, out));
    TRY(read_attention(src, out));
    TRY(read_ends(src, has_tensor, arg, out));
    TRY(read_layers(src, out));
    return f->experts ? read_experts(src, out) : ST_OK;
}

/* ---- config.json ---- */

/* Other spellings of the canonical keys, in the order tried. */
static const struct {
    const char *key, *other;
} spellings[] = {
    {"hidden_size", "n_embd"},
    {"hidden_size", "n_embed"},
    {"num_hidden_layers", "n_layer"},
    {"num_attention_heads", "n_head"},
    {"num_key_value_heads", "num_kv_heads"},
    {"num_key_value_heads", "n_head_kv"},
    {"max_position_embeddings", "n_positions"},
    {"intermediate_size", "n_inner"},
    {"intermediate_size", "ffn_hidden_size"},
    {"hidden_act", "hidden_activation"},
    {"hidden_act", "activation_function"},
    {"hidden_act", "activation"},
    {"hidden_size", "d_model"},
    {"num_hidden_layers", "num_layers"},
    {"intermediate_size", "ffn_dim"},
    {"max_position_embeddings", "seq_length"},
    {"rms_norm_eps", "layer_norm_epsilon"},
    {"attention_bias", "qkv_bias"},
    {"mlp_bias", "bias"},
    {"rope_dims", "rotary_dim"},
    {"rope_theta", "rotary_emb_base"},
    {"partial_rotary_factor", "rotary_pct"},
    {"partial_rotary_factor", "rope_pct"},
    {"layer_norm_eps", "norm_eps"},
    {"sliding_window_pattern", "_sliding_window_pattern"},
    {"n_routed_experts", "num_experts"},
    {"n_routed_experts", "num_local_experts"},
    {"rope_dims", "qk_rope_head_dim"},
};

static status canonical(json_t *config)
{
    for (size_t i = 0; i < ARRAY_LEN(spellings); i++) {
        json_t *v = json_object_get(config, spellings[i].key), *other = json_object_get(config, spellings[i].other);
        bool empty = v == NULL || json_is_null(v);
        if (empty && other != NULL && json_object_set(config, spellings[i].key, other) != 0)
            return FAIL(ST_NO_MEMORY, "config: out of memory");
    }
    return ST_OK;
}

static status merge_defaults(const arch_family *row, json_t *config)
{
    json_t *defaults = json_loads(row->defaults, 0, NULL);
    status st = defaults != NULL && json_object_update_missing(config, defaults) == 0 ? ST_OK : FAIL(ST_NO_MEMORY, "%s: defaults", row->family);
    json_decref(defaults);
    return st;
}

/* Multimodal wrappers whose language model stands in text_config, with the type it has when it does not say. */
static const struct {
    const char *wrapper, *text;
} wrappers[] = {
    {"gemma3", "gemma3_text"}, {"mistral3", "mistral"}, {"llava", "llama"}, {"llava_next", "llama"}, {"idefics3", "llama"},
    {"smolvlm", "llama"}, {"aya_vision", "cohere2"}, {"cohere2_vision", "cohere2"},
};

/* A copy of the config, or of its text model's with the wrapper's ties and quantisation. */
static status unwrap(const char *where, const json_t *config, json_t **out)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const json_t *text = json_object_get(config, "text_config"), *from = config;
    const char *text_type = NULL;
    for (size_t i = 0; i < ARRAY_LEN(wrappers) && type != NULL && json_is_object(text); i++) {
        if (strcmp(wrappers[i].wrapper, type) == 0) {
            from = text;
            text_type = wrappers[i].text;
            log_info("%s: the language model of a %s checkpoint; images are not supported", where, type);
        }
    }
    json_t *copy = json_deep_copy(from);
    if (copy == NULL)
        return FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    bool ok = true;
    if (from == text) {
        static const char *const inherited[] = {"tie_word_embeddings", "quantization_config"};
        for (size_t i = 0; i < ARRAY_LEN(inherited); i++) {
            json_t *v = json_object_get(config, inherited[i]);
            if (v != NULL && json_object_get(copy, inherited[i]) == NULL)
                ok = ok && json_object_set_new(copy, inherited[i], json_deep_copy(v)) == 0;
        }
        if (json_object_get(copy, "model_type") == NULL)
            ok = ok && json_object_set_new(copy, "model_type", json_string(text_type)) == 0;
    }
    if (!ok) {
        json_decref(copy);
        return FAIL(ST_NO_MEMORY, "%s: out of memory", where);
    }
    *out = copy;
    return ST_OK;
}

/* The family's name in a config: model_type, else the first of its architectures. */
static const char *config_type(const json_t *config, bool *is_class)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    *is_class = type == NULL;
    return type != NULL ? type : json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
}

status arch_prepare(const arch_family *row, const json_t *config, json_t **out)
{
    json_t *copy = json_copy((json_t *)config); /* shallow: members are only read */
    *out = NULL;
    if (copy == NULL)
        return FAIL(ST_NO_MEMORY, "config: out of memory");
    status st = canonical(copy); /* first, so that a default does not hide another spelling */
    if (st == ST_OK)
        st = merge_defaults(row, copy);
    if (st == ST_OK && when_holds(copy, row->when))
        *out = copy;
    else
        json_decref(copy);
    return st;
}

static status build_from(const char *where, const json_t *config, bool to_plan, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out)
{
    bool is_class, known_type = false;
    const char *type = config_type(config, &is_class);
    if (type == NULL)
        return FAIL(ST_FORMAT, "%s: model_type is missing, so the architecture is unknown", where);
    for (int i = 0; i < arch_n_families; i++) {
        const arch_family *row = &arch_families[i];
        if ((row->plan_only && !to_plan) || !arch_word_in(is_class ? row->hf_architectures : row->model_types, type))
            continue;
        known_type = true;
        arch_source src = {.where = where, .row = row};
        TRY(arch_prepare(row, config, &src.config));
        if (src.config == NULL)
            continue;
        status st = arch_build(&src, has_tensor, arg, out);
        json_decref(src.config);
        return st;
    }
    if (known_type)
        return FAIL(ST_UNSUPPORTED, "%s: this combination of options of architecture \"%.64s\" is not supported", where, type);
    return arch_refuse(where, type);
}

static status from_config(const char *where, const json_t *config, bool to_plan, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out)
{
    json_t *copy;
    if (!json_is_object(config))
        return FAIL(ST_FORMAT, "%s: must be a JSON object", where);
    TRY(unwrap(where, config, &copy));
    status st = build_from(where, copy, to_plan, has_tensor, arg, out);
    json_decref(copy);
    return st;
}

status shard_arch_from_config(const char *where, const json_t *config, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out)
{
    return from_config(where, config, false, has_tensor, arg, out);
}

status shard_arch_to_plan(const char *where, const json_t *config, shard_arch *out)
{
    return from_config(where, config, true, NULL, NULL, out);
}
