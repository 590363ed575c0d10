/* shard/arch_tensors.c - from a role to the tensor that stores it.
 *
 * A family's own names come first, then the common ones: the spelling most Hugging Face decoders share, and GGUF's, which all share.
 * Biases are named like their weights. */
#include <stdio.h>
#include <string.h>

#include "shard/arch_internal.h"

static const arch_tensor common_hf[] = {
    {SHARD_TOKEN_EMBED, "embed_tokens"},
    {SHARD_FINAL_NORM, "norm"},
    {SHARD_HEAD, "lm_head"},
    {SHARD_ATTN_NORM, "layers.%d.input_layernorm"},
    {SHARD_Q, "layers.%d.self_attn.q_proj"},
    {SHARD_K, "layers.%d.self_attn.k_proj"},
    {SHARD_V, "layers.%d.self_attn.v_proj"},
    {SHARD_O, "layers.%d.self_attn.o_proj"},
    {SHARD_Q_NORM, "layers.%d.self_attn.q_norm"},
    {SHARD_K_NORM, "layers.%d.self_attn.k_norm"},
    {SHARD_MLP_NORM, "layers.%d.post_attention_layernorm"},
    {SHARD_GATE, "layers.%d.mlp.gate_proj"},
    {SHARD_UP, "layers.%d.mlp.up_proj"},
    {SHARD_DOWN, "layers.%d.mlp.down_proj"},
    {0, NULL},
};

static const arch_tensor common_gguf[] = {
    {SHARD_TOKEN_EMBED, "token_embd"},
    {SHARD_POS_EMBED, "position_embd"},
    {SHARD_EMBED_NORM, "token_embd_norm"},
    {SHARD_FINAL_NORM, "output_norm"},
    {SHARD_HEAD, "output"},
    {SHARD_ATTN_NORM, "blk.%d.attn_norm"},
    {SHARD_Q, "blk.%d.attn_q"},
    {SHARD_Q, "blk.%d.attn_qkv", ARCH_STORE_QKV},
    {SHARD_K, "blk.%d.attn_k"},
    {SHARD_K, "blk.%d.attn_qkv", ARCH_STORE_QKV},
    {SHARD_V, "blk.%d.attn_v"},
    {SHARD_V, "blk.%d.attn_qkv", ARCH_STORE_QKV},
    {SHARD_O, "blk.%d.attn_output"},
    {SHARD_Q_NORM, "blk.%d.attn_q_norm"},
    {SHARD_K_NORM, "blk.%d.attn_k_norm"},
    {SHARD_POST_ATTN_NORM, "blk.%d.post_attention_norm"},
    {SHARD_MLP_NORM, "blk.%d.ffn_norm"},
    {SHARD_GATE, "blk.%d.ffn_gate"},
    {SHARD_UP, "blk.%d.ffn_up"},
    {SHARD_DOWN, "blk.%d.ffn_down"},
    {SHARD_POST_MLP_NORM, "blk.%d.post_ffw_norm"},
    {0, NULL},
};

/* Prefixes met in the wild: bare models, and text models inside multimodal ones. */
static const char *const hf_prefixes[] = {"model.", "", "language_model.model.", "model.language_model.", "transformer.", "gpt_neox.", "model.text_model."};
static const char *const head_prefixes[] = {"", "language_model.", "model."};

/* The weight a bias belongs to; the role itself where it is no bias. */
static shard_role weight_of(shard_role role, bool *bias)
{
    static const shard_role biases[] = {SHARD_EMBED_NORM_B, SHARD_FINAL_NORM_B, SHARD_HEAD_B, SHARD_ATTN_NORM_B, SHARD_Q_B, SHARD_K_B, SHARD_V_B, SHARD_O_B,
                                        SHARD_POST_ATTN_NORM_B, SHARD_MLP_NORM_B, SHARD_GATE_B, SHARD_UP_B, SHARD_DOWN_B, SHARD_POST_MLP_NORM_B};
    *bias = false;
    for (size_t i = 0; i < ARRAY_LEN(biases); i++)
        *bias |= role == biases[i];
    return *bias ? (shard_role)(role - 1) : role; /* _B follows its weight in the enum */
}

static bool is_norm(shard_role weight)
{
    return weight == SHARD_EMBED_NORM || weight == SHARD_FINAL_NORM || weight == SHARD_ATTN_NORM || weight == SHARD_Q_NORM || weight == SHARD_K_NORM ||
           weight == SHARD_POST_ATTN_NORM || weight == SHARD_MLP_NORM || weight == SHARD_POST_MLP_NORM;
}

/* A name pattern with its %d's replaced by numbers; a %d without a number stays. */
static void fill(const char *pattern, const int32_t *numbers, int n, char *out, size_t size)
{
    size_t len = 0;
    for (const char *p = pattern; *p != '\0' && len + 1 < size;) {
        if (p[0] == '%' && p[1] == 'd' && n > 0) {
            int w = snprintf(out + len, size - len, "%d", *numbers++);
            len += w > 0 && (size_t)w < size - len ? (size_t)w : size - len - 1;
            n--;
            p += 2;
        } else {
            out[len++] = *p++;
        }
    }
    out[len] = '\0';
}

typedef struct lookup {
    shard_has_tensor_fn has;
    void *arg;
    char name[192], shown[192]; /* with the layer filled in; of ARCH_STORE_PIECES: shown keeps the piece's %d, name has 0 */
} lookup;

static bool spell(lookup *l, const char *prefix, const arch_tensor *t, int32_t layer, const char *suffix)
{
    char pattern[192];
    snprintf(pattern, sizeof(pattern), "%s%s%s", prefix, t->name, suffix);
    fill(pattern, (int32_t[]){layer, 0}, 2, l->name, sizeof(l->name));
    fill(pattern, (int32_t[]){layer}, 1, l->shown, sizeof(l->shown));
    return l->has == NULL || l->has(l->arg, l->name);
}

static bool spell_any(lookup *l, const char *const *prefixes, size_t n, const arch_tensor *t, int32_t layer, const char *suffix)
{
    for (size_t i = 0; i < n; i++) {
        if (spell(l, prefixes[i], t, layer, suffix))
            return true;
    }
    return false;
}

static bool spell_entry(lookup *l, const arch_family *row, bool gguf, const arch_tensor *t, int32_t layer, const char *suffix)
{
    if (gguf)
        return spell(l, "", t, layer, suffix);
    if (t->role == SHARD_HEAD)
        return spell_any(l, head_prefixes, ARRAY_LEN(head_prefixes), t, layer, suffix);
    return spell(l, row->hf_prefix, t, layer, suffix) || spell_any(l, hf_prefixes, ARRAY_LEN(hf_prefixes), t, layer, suffix);
}

/* The entry whose tensor is there; else the first that names the role, spelled its first way. */
static const arch_tensor *find_entry(lookup *l, const arch_family *row, bool gguf, shard_role weight, int32_t layer, const char *suffix)
{
    const arch_tensor *lists[] = {gguf ? row->gguf : row->hf, gguf ? common_gguf : common_hf}, *first = NULL;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (const arch_tensor *t = lists[i]; t != NULL && t->name != NULL; t++) {
            if (t->role != weight)
                continue;
            if (first == NULL)
                first = t;
            if (spell_entry(l, row, gguf, t, layer, suffix))
                return t;
        }
        if (first != NULL)
            break; /* a family's own names replace the common ones */
    }
    if (first != NULL)
        (void)spell(l, gguf || weight == SHARD_HEAD ? "" : row->hf_prefix, first, layer, suffix);
    return first;
}

/* Rows of q, k and v inside a fused tensor. */
static void place_qkv(const shard_arch *a, shard_role weight, bool grouped, shard_stored *out)
{
    int32_t hd = a->head_dim, per_group = a->n_heads / a->n_kv_heads;
    int64_t q_rows = (int64_t)a->n_heads * hd, kv_rows = (int64_t)a->n_kv_heads * hd;
    out->stored_rows = q_rows + 2 * kv_rows;
    if (!grouped) {
        out->row_begin = weight == SHARD_Q ? 0 : weight == SHARD_K ? q_rows : q_rows + kv_rows;
        return;
    }
    out->map = SHARD_ROWS_GROUPED;
    out->group_rows = (per_group + 2) * hd;
    out->group_begin = weight == SHARD_Q ? 0 : weight == SHARD_K ? per_group * hd : (per_group + 1) * hd;
    out->group_take = weight == SHARD_Q ? per_group * hd : hd;
}

static void place(const shard_arch *a, const arch_family *row, bool gguf, const arch_tensor *t, shard_role weight, bool bias, shard_stored *out)
{
    switch (t->store) {
    case ARCH_STORE_QKV:
    case ARCH_STORE_GROUPED:
        place_qkv(a, weight, t->store == ARCH_STORE_GROUPED, out);
        break;
    case ARCH_STORE_GATE_UP:
        out->stored_rows = 2 * (int64_t)a->intermediate;
        out->row_begin = weight == SHARD_UP ? a->intermediate : 0;
        break;
    case ARCH_STORE_PIECES:
        out->pieces = (int32_t)(out->stored_rows / a->head_dim);
        out->stored_rows = a->head_dim;
        break;
    case ARCH_STORE_WHOLE:
        break;
    }
    if (gguf && row->gguf_rotary && (weight == SHARD_Q || weight == SHARD_K)) {
        out->map = SHARD_ROWS_ROTARY;
        out->group_rows = out->rotary = a->head_dim;
    }
    out->transposed = !gguf && row->hf_transposed && shard_role_in_layer(weight) && !shard_role_is_vector(weight) && !bias;
    out->add = !gguf && row->norm_plus_one && !bias && is_norm(weight) ? 1 : 0;
}

bool shard_arch_stored(const shard_arch *arch, bool gguf, shard_role role, int32_t layer, shard_has_tensor_fn has_tensor, void *arg, shard_stored *out)
{
    const arch_family *row = arch_row(arch);
    int64_t rows, cols;
    bool bias;
    shard_role weight = weight_of(role, &bias);
    if (row == NULL || !shard_role_shape(arch, role, &rows, &cols) || (role == SHARD_HEAD && arch->tied_embeddings))
        return false;
    lookup l = {.has = has_tensor, .arg = arg};
    const arch_tensor *t = find_entry(&l, row, gguf, weight, layer, bias ? ".bias" : ".weight");
    if (t == NULL)
        return false;
    *out = (shard_stored){.stored_rows = rows, .stored_cols = cols};
    place(arch, row, gguf, t, weight, bias, out);
    memcpy(out->name, out->pieces > 0 ? l.shown : l.name, sizeof(out->name));
    return true;
}

void shard_stored_piece(const shard_stored *stored, int32_t i, char out[192])
{
    fill(stored->name, &i, stored->pieces > 0 ? 1 : 0, out, 192);
}
