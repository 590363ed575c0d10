/* shard/plan/arch.h - a checkpoint's architecture as data.
 *
 * One forward pass (worker/forward.c) reads this; a family is a row of facts, never code.  The struct holds
 * numbers and kinds only: no tensor, no file.  shard/arch.h fills it from config.json or GGUF metadata; the
 * planner counts bytes and work from it alone.
 *
 * The block, as the forward pass computes it (x: residual stream, [rows, hidden] f32):
 *
 *   sequential                                   parallel (parallel_block)
 *     h = norm(x, ATTN_NORM)                       h = norm(x, ATTN_NORM)
 *     a = attention(h)                             a = attention(h)
 *     x = x + r * post(a, POST_ATTN_NORM)          h2 = norm(x, MLP_NORM) where the family has it, else h
 *     h = norm(x, MLP_NORM)                        x = x + r * (a + mlp(h2))
 *     x = x + r * post(mlp(h), POST_MLP_NORM)
 *
 * A norm that a family lacks (no pre-norm in OLMo 2, no post-norm in Llama) is the identity; where norm_weight is
 * false the norms exist but have no weight (1).  r is residual_multiplier.  Around the blocks:
 *
 *   x = embed(token) * embed_multiplier (+ pos_embed(position + position_offset)); x = norm(x, EMBED_NORM) where embed_norm
 *   logits = (norm(x, FINAL_NORM) head^T + head_b) * logit_multiplier; then logit_softcap * tanh(logits / logit_softcap)
 *
 * and inside attention, for query head h at position p and key position j:
 *
 *   q, k, v = h Wq^T + bq ...; clamped to +-qkv_clip; q, k normalised by qk_norm; q, k rotated by ropes[layer.rope]
 *   s = attention_scale * q.k; s = attention_softcap * tanh(s / attention_softcap); s += shard_arch_alibi_slope(h) * (j - p)
 *
 * Layers of experts and latent attention have their fields here, and can be planned (shard/plan/predict.h); shard/arch.c refuses to
 * run them until the forward pass has them. */
#ifndef SHARD_PLAN_ARCH_H
#define SHARD_PLAN_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#define SHARD_MAX_LAYERS 1024
#define SHARD_MAX_ROPES 4
#define SHARD_MAX_ROPE_DIMS 512
#define SHARD_MAX_KV_GROUPS 8
#define SHARD_MAX_EOS 16

typedef enum shard_norm { SHARD_NORM_RMS, SHARD_NORM_LAYER } shard_norm;

typedef enum shard_mlp {
    SHARD_MLP_GATED, /* down(act(gate(h)) * up(h)) */
    SHARD_MLP_PLAIN, /* down(act(up(h))) */
} shard_mlp;

typedef enum shard_activation {
    SHARD_ACT_SILU,
    SHARD_ACT_GELU,      /* x * (1 + erf(x / sqrt 2)) / 2 */
    SHARD_ACT_GELU_TANH, /* gelu_new, gelu_pytorch_tanh, gelu_fast */
    SHARD_ACT_RELU,
    SHARD_ACT_RELU2,     /* relu(x)^2 */
} shard_activation;

typedef enum shard_qk_norm {
    SHARD_QK_NORM_NONE,
    SHARD_QK_NORM_HEAD,      /* RMS over each head, one weight [head_dim] for all heads (Qwen3, Gemma 3) */
    SHARD_QK_NORM_HEAD_LAYER, /* LayerNorm over each head, a weight of its own for each head (StableLM 2, Cohere) */
    SHARD_QK_NORM_FULL,      /* RMS over the whole projection, all heads together (OLMo 2 and 3) */
} shard_qk_norm;

/* A rotation: frequencies are computed once, in the reference's order of f32 roundings (inv_freq), with the scaling kind
 * already applied.  Two sets where the sequence's length decides (longrope, dynamic): set 0 up to switch_length tokens,
 * set 1 beyond; chosen once per sequence at admission.  Dynamic scaling's base grows with every token in the reference,
 * which no cache of rotated keys can follow: a sequence keeps the frequencies of its prompt's length
 * (shard_rope_frequencies; inv_freq[1] holds those of factor * original_positions tokens). */
typedef enum shard_rope_scaling {
    SHARD_ROPE_PLAIN,
    SHARD_ROPE_LINEAR,
    SHARD_ROPE_DYNAMIC,  /* NTK: the base grows with the sequence's length */
    SHARD_ROPE_LLAMA3,
    SHARD_ROPE_YARN,
    SHARD_ROPE_LONGROPE,
} shard_rope_scaling;

typedef struct shard_rope {
    shard_rope_scaling scaling;
    bool interleaved;       /* pairs (0,1)(2,3)... instead of halves */
    int32_t dims;           /* rotated dimensions of a head, even; 0 = no rotation */
    double theta;
    double factor;          /* what the checkpoint gives: position scale (linear, dynamic, llama3, yarn); 1 where none */
    int32_t original_positions; /* original_max_position_embeddings: the length the model was trained with before scaling */
    int32_t n_sets;         /* 1 or 2 */
    int32_t switch_length;  /* sequences longer than this use set 1 */
    float inv_freq[2][SHARD_MAX_ROPE_DIMS / 2];
    float attention_factor[2]; /* multiplies cos and sin (yarn, longrope) */
} shard_rope;

/* What differs from layer to layer. */
typedef struct shard_layer {
    int32_t window;    /* keys visible: positions p-window+1 .. p; 0 = all before */
    int8_t rope;       /* index into ropes, -1 = no position in this layer (NoPE) */
    int8_t kv_group;   /* index into kv_groups */
    bool moe;
} shard_layer;

/* Layers whose sequences keep the same blocks: a sequence has one block table for each group. */
typedef struct shard_kv_group {
    int32_t window;   /* 0 = full; else blocks wholly before the window may be freed */
    int32_t n_layers;
} shard_kv_group;

typedef struct shard_arch {
    char family[32];     /* "llama", "qwen2": what the supported-checkpoints table lists */
    char model_type[64]; /* as the checkpoint says */
    int32_t variant;     /* which row of the family, where it has several (Falcon) */

    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, intermediate, vocab;
    int32_t max_positions; /* the longest sequence, rope scaling included; with learned_positions the table's rows - position_offset */

    shard_norm norm;
    bool norm_weight, norm_bias; /* whether norms have a weight (not in OLMo 1) and a bias (LayerNorm, but not Cohere's) */
    float norm_eps;
    float qk_norm_eps;
    bool parallel_block;
    bool attn_norm, mlp_norm, post_attn_norm, post_mlp_norm; /* which norms a block has (mlp_norm false in a parallel block: h is shared) */
    bool q_bias, k_bias, v_bias, o_bias, mlp_bias, head_bias;

    shard_qk_norm qk_norm;
    bool qk_norm_after_rope; /* Hunyuan-like; false for all others */
    float attention_scale;   /* multiplies q·k */
    float attention_softcap; /* 0 = none: cap * tanh(s / cap) */
    bool attention_sinks;
    bool alibi;              /* arXiv:2108.12409; slopes by shard_arch_alibi_slope */
    float alibi_multiplier;  /* 1, or attention_scale where the family adds the bias before scaling (Falcon) */
    bool alibi_bf16;         /* slopes are rounded to bf16 first (Falcon) */
    float qkv_clip;          /* 0 = none; clamp of q, k, v projections (OLMo 1, MPT) */

    shard_mlp mlp;
    shard_activation activation;

    bool learned_positions;  /* POS_EMBED table of max_positions rows (GPT-2), */
    int32_t position_offset; /* ... indexed by position + offset (the table has that many rows more) */
    bool embed_norm;         /* a norm right after the embedding (BLOOM-like) */
    /* 1 where a family has none.  Gemma's embed_multiplier is sqrt(hidden) in f32 (the reference rounds it to the weights' type,
     * so a bf16 run of it differs by up to 2^-9; its f32 run does not). */
    float embed_multiplier, residual_multiplier, logit_multiplier;
    float logit_softcap;
    bool tied_embeddings;

    /* 0 for dense families.  In layers with `moe` a router gives each token n_experts_used of n_experts gated MLPs of expert_intermediate channels, beside
     * shared_intermediate channels that every token takes (shared_gate: weighted by a gate of its own); the other layers have `intermediate` channels. */
    int32_t n_experts, n_experts_used, expert_intermediate, shared_intermediate;
    bool shared_gate;
    /* Latent attention (arXiv:2405.04434), where kv_latent is above 0: keys and values come out of one vector of kv_latent, which is cached beside rope_head_dim rotated
     * dimensions that all heads share; queries come out of one of q_latent (0: straight from hidden).  head_dim is then a key's, its rope_head_dim included. */
    int32_t kv_latent, q_latent, rope_head_dim, value_head_dim;

    int32_t n_ropes;
    shard_rope ropes[SHARD_MAX_ROPES];
    int32_t n_kv_groups;
    shard_kv_group kv_groups[SHARD_MAX_KV_GROUPS];
    shard_layer layers[SHARD_MAX_LAYERS];
} shard_arch;

/* The roles a tensor can play.  _B is the bias of the role before it. */
typedef enum shard_role {
    SHARD_TOKEN_EMBED,
    SHARD_POS_EMBED,
    SHARD_EMBED_NORM, SHARD_EMBED_NORM_B,
    SHARD_FINAL_NORM, SHARD_FINAL_NORM_B,
    SHARD_HEAD, SHARD_HEAD_B,
    /* in each layer */
    SHARD_ATTN_NORM, SHARD_ATTN_NORM_B,
    SHARD_Q, SHARD_Q_B,
    SHARD_K, SHARD_K_B,
    SHARD_V, SHARD_V_B,
    SHARD_O, SHARD_O_B,
    SHARD_Q_NORM, SHARD_K_NORM, /* vectors of head_dim (HEAD) or heads * head_dim elements (HEAD_LAYER, FULL) */
    SHARD_SINKS,
    SHARD_POST_ATTN_NORM, SHARD_POST_ATTN_NORM_B,
    SHARD_MLP_NORM, SHARD_MLP_NORM_B,
    SHARD_GATE, SHARD_GATE_B,
    SHARD_UP, SHARD_UP_B,
    SHARD_DOWN, SHARD_DOWN_B,
    SHARD_POST_MLP_NORM, SHARD_POST_MLP_NORM_B,
    SHARD_ROLES
} shard_role;

/* "attn_q", "mlp_down": the name used in plans, manifests and messages. */
const char *shard_role_name(shard_role role);
/* Whether the role lives in each layer, and whether it is a vector (norm weight or bias; f32 in memory). */
bool shard_role_in_layer(shard_role role);
bool shard_role_is_vector(shard_role role);
/* Logical shape of a role in this architecture ([rows, cols]; vectors have cols 1); false: the family lacks it.
 * SHARD_HEAD has a shape even when embeddings are tied (its tensor is then TOKEN_EMBED's). */
bool shard_role_shape(const shard_arch *arch, shard_role role, int64_t *rows, int64_t *cols);

/* The slope of a query head with everything applied: s += slope * (key position - query position); 0 without alibi. */
float shard_arch_alibi_slope(const shard_arch *arch, int32_t head);

#endif
