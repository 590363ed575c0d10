/* shard/arch_internal.h - what a family's row says, and the pieces that read it. */
#ifndef SHARD_ARCH_INTERNAL_H
#define SHARD_ARCH_INTERNAL_H

#include "shard/arch.h"

/* Which layers see a window of keys.  Rules other than ALL give way to the config's layer_types. */
typedef enum arch_window {
    ARCH_WINDOW_NONE,
    ARCH_WINDOW_ALL,     /* every layer where sliding_window is given */
    ARCH_WINDOW_TYPES,   /* the same, by layer_types */
    ARCH_WINDOW_UPPER,   /* layers max_window_layers and up, where use_sliding_window (Qwen) */
    ARCH_WINDOW_PATTERN, /* all but every sliding_window_pattern-th */
    ARCH_WINDOW_NOPE,    /* layers without position, where use_sliding_window (SmolLM3) */
} arch_window;

/* Which layers rotate nothing. */
typedef enum arch_nope {
    ARCH_NOPE_NEVER,
    ARCH_NOPE_LIST,     /* no_rope_layers (0: none), else every no_rope_layer_interval-th */
    ARCH_NOPE_FULL,     /* layers without a window */
    ARCH_NOPE_MIXED,    /* layers without a window, where the model has windows */
    ARCH_NOPE_ALWAYS,   /* learned positions or alibi */
} arch_nope;

/* How windowed layers rotate when a config gives one set of rope keys. */
typedef enum arch_local_rope {
    ARCH_LOCAL_SAME,
    ARCH_LOCAL_OWN,   /* base rope_local_base_freq, unscaled (Gemma 3) */
    ARCH_LOCAL_PLAIN, /* same base, unscaled (OLMo 3) */
} arch_local_rope;

/* How a role lies in its stored tensor. */
typedef enum arch_store {
    ARCH_STORE_WHOLE,
    ARCH_STORE_QKV,     /* q rows, then k rows, then v rows */
    ARCH_STORE_GROUPED, /* for each KV head: its q heads, its k, its v (GPT-NeoX, Falcon) */
    ARCH_STORE_GATE_UP, /* gate rows, then up rows */
    ARCH_STORE_PIECES,  /* one tensor for each head; a second %d in the name (StableLM) */
} arch_store;

typedef struct arch_tensor {
    shard_role role;
    const char *name; /* without prefix and ".weight"; %d is the layer */
    arch_store store;
} arch_tensor;

/* A condition on the merged config: terms "key" (true), "!key" (false or absent), "key=3", "!key=3"; all must hold.  NULL holds. */
typedef const char *arch_when;
/* A boolean fact: NULL or "0", "1", or the config key that says. */
typedef const char *arch_fact;

typedef struct arch_family {
    /* who */
    const char *family, *title, *notes;
    const char *model_types;      /* config.json's model_type, separated by blanks */
    const char *hf_architectures; /* config.json's architectures */
    const char *gguf_names;       /* general.architecture */
    const char *gguf_when;        /* and this key of the architecture must be there */
    arch_when when;               /* among rows of one model_type the first whose condition holds */
    const char *refuse;           /* terms as in arch_when: any that holds is refused by name */
    const char *defaults;         /* JSON: what the reference assumes for absent keys */

    /* norms */
    shard_norm norm;
    const char *eps_key;          /* NULL: eps */
    double eps;
    bool no_norm_weight, norm_bias, norm_plus_one; /* plus one: Hugging Face stores w for a norm that multiplies by 1 + w */
    bool no_attn_norm, no_mlp_norm, post_attn_norm, post_mlp_norm;
    shard_qk_norm qk_norm;
    arch_fact qk_norm_key;        /* NULL: always */

    /* block */
    arch_fact parallel;
    bool parallel_one_norm;       /* a parallel block shares its norm */
    arch_fact qkv_bias, o_bias, mlp_bias, head_bias;
    int8_t kv_heads;              /* 0: the config says; 1: one; -1: as many as query heads */
    bool plain_mlp;
    const char *activation;       /* forced, where configs are known to be wrong */
    int32_t intermediate_times;   /* intermediate_size / hidden_size where absent; 0: must be given */

    /* attention */
    arch_window window;
    arch_nope nope;
    arch_local_rope local_rope;
    bool rope_interleaved;
    arch_fact alibi;
    bool alibi_scaled;            /* Falcon's alibi: before the scale, in bf16 */
    const char *scale_key;        /* multiplies q.k; NULL: head_dim^-1/2 */
    bool scale_rsqrt;             /* scale_key's value^-1/2 */
    const char *clip_key;
    bool softcaps;                /* attn_logit_softcapping, final_logit_softcapping */

    /* experts, latent attention */
    bool plan_only;               /* can be planned, not run */
    bool experts;                 /* n_routed_experts, num_experts_per_tok ...; which layers have them: read_experts in arch.c */
    bool moe_plus_one;            /* every decoder_sparse_step-th layer counts from 1 (Qwen) */
    bool latent;                  /* kv_lora_rank, q_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim */

    /* ends */
    bool embed_norm;              /* a norm right after the embedding */
    bool learned_positions;
    int32_t position_offset;
    bool embed_sqrt;              /* embeddings times sqrt(hidden) */
    const char *embed_key, *residual_key, *logit_key;
    bool logit_divides;           /* logit_key divides */

    /* storage */
    const char *hf_prefix;        /* the first spelling tried; others follow */
    const arch_tensor *hf;        /* tried before the common names; ends with a NULL name */
    bool hf_transposed;           /* matrices of layers are stored [cols, rows] */
    const arch_tensor *gguf;
    bool gguf_rotary;             /* q and k rows in rotary pairs in GGUF */
} arch_family;

extern const arch_family arch_families[];
extern const int arch_n_families;

/* A config on its way to an architecture: canonical Hugging Face keys, defaults merged in. */
typedef struct arch_source {
    const char *where;
    json_t *config;
    const arch_family *row;
    const char *gguf; /* the GGUF architecture, or NULL: messages then name metadata keys */
} arch_source;

/* Whether text, blank-separated, holds word. */
bool arch_word_in(const char *words, const char *word);
/* ST_UNSUPPORTED naming the family, saying what it is (experts, latent attention) or what is supported. */
status arch_refuse(const char *where, const char *model_type);

/* The key as the file spells it (GGUF metadata key, or itself), into buf. */
const char *arch_key(const arch_source *src, const char *key, char buf[128]);
const char *arch_gguf_key(const char *hf_key);

/* The member, NULL where absent or null. */
json_t *arch_member(const arch_source *src, const char *key);
/* Typed, bounded reads with messages that name file and key; *out is left alone where the key is absent. */
status arch_read_int(const arch_source *src, const char *key, int64_t min, int64_t max, int32_t *out);
status arch_read_f64(const arch_source *src, const char *key, double min, double max, double *out);
status arch_read_f64_of(const arch_source *src, const json_t *obj, const char *key, double min, double max, double *out);

/* Fills out->ropes from the config and layers[].rope from `windowed`; needs the sizes to be set. */
status arch_ropes(const arch_source *src, const bool *windowed, shard_arch *out);

/* A copy of the config with canonical keys and the row's defaults merged in; *out NULL when the row's condition fails. */
status arch_prepare(const arch_family *row, const json_t *config, json_t **out);

/* From a merged, canonical config to facts, checked.  has_tensor may be NULL. */
status arch_build(const arch_source *src, shard_has_tensor_fn has_tensor, void *arg, shard_arch *out);

/* The row of an architecture. */
const arch_family *arch_row(const shard_arch *arch);

#endif
