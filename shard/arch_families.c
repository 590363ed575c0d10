/* shard/arch_families.c - the families: one row of facts each, no code.
 *
 * To add a family that the fields of arch_internal.h cover: a row here, a tiny checkpoint with its golden (tests/golden/make_golden.py).
 * Facts are those of the reference implementation (transformers' configuration_*.py and modeling_*.py), checked against its outputs. */
#include "shard/arch_internal.h"

/* ---- tensor names that differ from the common ones ---- */

#define SANDWICH_NORMS                                                  \
    {SHARD_POST_ATTN_NORM, "layers.%d.post_attention_layernorm"},       \
    {SHARD_POST_MLP_NORM, "layers.%d.post_feedforward_layernorm"}
#define FUSED(name, kind) {SHARD_Q, name, kind}, {SHARD_K, name, kind}, {SHARD_V, name, kind}
#define FUSED_GATE_UP(name) {SHARD_GATE, name, ARCH_STORE_GATE_UP}, {SHARD_UP, name, ARCH_STORE_GATE_UP}

static const arch_tensor gemma2_hf[] = {{SHARD_MLP_NORM, "layers.%d.pre_feedforward_layernorm"}, SANDWICH_NORMS, {0, NULL}};
static const arch_tensor post_norms_hf[] = {SANDWICH_NORMS, {0, NULL}};
static const arch_tensor phi_hf[] = {
    {SHARD_FINAL_NORM, "final_layernorm"}, {SHARD_O, "layers.%d.self_attn.dense"},
    {SHARD_UP, "layers.%d.mlp.fc1"},       {SHARD_DOWN, "layers.%d.mlp.fc2"},      {0, NULL},
};
static const arch_tensor phi3_hf[] = {FUSED("layers.%d.self_attn.qkv_proj", ARCH_STORE_QKV), FUSED_GATE_UP("layers.%d.mlp.gate_up_proj"), {0, NULL}};
static const arch_tensor gate_up_hf[] = {FUSED_GATE_UP("layers.%d.mlp.gate_up_proj"), {0, NULL}};
static const arch_tensor gate_up_gguf[] = {FUSED_GATE_UP("blk.%d.ffn_up"), {0, NULL}};
static const arch_tensor glm4_hf[] = {
    {SHARD_POST_ATTN_NORM, "layers.%d.post_self_attn_layernorm"}, {SHARD_POST_MLP_NORM, "layers.%d.post_mlp_layernorm"},
    FUSED_GATE_UP("layers.%d.mlp.gate_up_proj"), {0, NULL},
};
static const arch_tensor neox_hf[] = {
    {SHARD_TOKEN_EMBED, "embed_in"}, {SHARD_FINAL_NORM, "final_layer_norm"}, {SHARD_HEAD, "embed_out"},
    FUSED("layers.%d.attention.query_key_value", ARCH_STORE_GROUPED), {SHARD_O, "layers.%d.attention.dense"},
    {SHARD_UP, "layers.%d.mlp.dense_h_to_4h"}, {SHARD_DOWN, "layers.%d.mlp.dense_4h_to_h"}, {0, NULL},
};
static const arch_tensor opt_hf[] = {
    {SHARD_POS_EMBED, "embed_positions"}, {SHARD_FINAL_NORM, "final_layer_norm"}, {SHARD_ATTN_NORM, "layers.%d.self_attn_layer_norm"},
    {SHARD_O, "layers.%d.self_attn.out_proj"}, {SHARD_MLP_NORM, "layers.%d.final_layer_norm"},
    {SHARD_UP, "layers.%d.fc1"}, {SHARD_DOWN, "layers.%d.fc2"}, {0, NULL},
};
static const arch_tensor bloom_hf[] = {
    {SHARD_TOKEN_EMBED, "word_embeddings"}, {SHARD_EMBED_NORM, "word_embeddings_layernorm"}, {SHARD_FINAL_NORM, "ln_f"},
    {SHARD_ATTN_NORM, "h.%d.input_layernorm"}, FUSED("h.%d.self_attention.query_key_value", ARCH_STORE_GROUPED), {SHARD_O, "h.%d.self_attention.dense"},
    {SHARD_MLP_NORM, "h.%d.post_attention_layernorm"}, {SHARD_UP, "h.%d.mlp.dense_h_to_4h"}, {SHARD_DOWN, "h.%d.mlp.dense_4h_to_h"}, {0, NULL},
};
static const arch_tensor gptj_hf[] = {
    {SHARD_TOKEN_EMBED, "wte"}, {SHARD_FINAL_NORM, "ln_f"}, {SHARD_ATTN_NORM, "h.%d.ln_1"},
    {SHARD_Q, "h.%d.attn.q_proj"}, {SHARD_K, "h.%d.attn.k_proj"}, {SHARD_V, "h.%d.attn.v_proj"}, {SHARD_O, "h.%d.attn.out_proj"},
    {SHARD_UP, "h.%d.mlp.fc_in"}, {SHARD_DOWN, "h.%d.mlp.fc_out"}, {0, NULL},
};
#define GPT_HF                                                                                                          \
    {SHARD_TOKEN_EMBED, "wte"}, {SHARD_POS_EMBED, "wpe"}, {SHARD_FINAL_NORM, "ln_f"}, {SHARD_ATTN_NORM, "h.%d.ln_1"},   \
    {SHARD_O, "h.%d.attn.c_proj"}, {SHARD_MLP_NORM, "h.%d.ln_2"}, {SHARD_UP, "h.%d.mlp.c_fc"}, {SHARD_DOWN, "h.%d.mlp.c_proj"}
static const arch_tensor gpt2_hf[] = {GPT_HF, FUSED("h.%d.attn.c_attn", ARCH_STORE_QKV), {0, NULL}};
static const arch_tensor bigcode_heads_hf[] = {GPT_HF, FUSED("h.%d.attn.c_attn", ARCH_STORE_GROUPED), {0, NULL}};
/* EXAONE 3's own spelling, from before transformers knew it. */
static const arch_tensor exaone_hf[] = {
    {SHARD_TOKEN_EMBED, "embed_tokens"}, {SHARD_TOKEN_EMBED, "wte"},
    {SHARD_FINAL_NORM, "norm"}, {SHARD_FINAL_NORM, "ln_f"},
    {SHARD_ATTN_NORM, "layers.%d.input_layernorm"}, {SHARD_ATTN_NORM, "h.%d.ln_1"},
    {SHARD_Q, "layers.%d.self_attn.q_proj"}, {SHARD_Q, "h.%d.attn.attention.q_proj"},
    {SHARD_K, "layers.%d.self_attn.k_proj"}, {SHARD_K, "h.%d.attn.attention.k_proj"},
    {SHARD_V, "layers.%d.self_attn.v_proj"}, {SHARD_V, "h.%d.attn.attention.v_proj"},
    {SHARD_O, "layers.%d.self_attn.o_proj"}, {SHARD_O, "h.%d.attn.attention.out_proj"},
    {SHARD_MLP_NORM, "layers.%d.post_attention_layernorm"}, {SHARD_MLP_NORM, "h.%d.ln_2"},
    {SHARD_GATE, "layers.%d.mlp.gate_proj"}, {SHARD_GATE, "h.%d.mlp.c_fc_0"},
    {SHARD_UP, "layers.%d.mlp.up_proj"}, {SHARD_UP, "h.%d.mlp.c_fc_1"},
    {SHARD_DOWN, "layers.%d.mlp.down_proj"}, {SHARD_DOWN, "h.%d.mlp.c_proj"}, {0, NULL},
};
static const arch_tensor vaultgemma_hf[] = {{SHARD_MLP_NORM, "layers.%d.pre_feedforward_layernorm"}, {0, NULL}};
static const arch_tensor hyperclovax_hf[] = {{SHARD_POST_ATTN_NORM, "layers.%d.post_norm1"}, {SHARD_POST_MLP_NORM, "layers.%d.post_norm2"}, {0, NULL}};
#define FALCON_HF                                                                                                              \
    {SHARD_TOKEN_EMBED, "word_embeddings"}, {SHARD_FINAL_NORM, "ln_f"},                                                        \
    FUSED("h.%d.self_attention.query_key_value", ARCH_STORE_GROUPED), {SHARD_O, "h.%d.self_attention.dense"},                  \
    {SHARD_UP, "h.%d.mlp.dense_h_to_4h"}, {SHARD_DOWN, "h.%d.mlp.dense_4h_to_h"}
static const arch_tensor falcon_hf[] = {FALCON_HF, {SHARD_ATTN_NORM, "h.%d.input_layernorm"}, {SHARD_MLP_NORM, "h.%d.post_attention_layernorm"}, {0, NULL}};
static const arch_tensor falcon_two_hf[] = {FALCON_HF, {SHARD_ATTN_NORM, "h.%d.ln_attn"}, {SHARD_MLP_NORM, "h.%d.ln_mlp"}, {0, NULL}};
static const arch_tensor falcon_two_gguf[] = {{SHARD_ATTN_NORM, "blk.%d.attn_norm_2"}, {SHARD_MLP_NORM, "blk.%d.attn_norm"}, {0, NULL}};
static const arch_tensor seed_oss_gguf[] = {{SHARD_MLP_NORM, "blk.%d.post_attention_norm"}, {0, NULL}};
static const arch_tensor starcoder2_hf[] = {{SHARD_UP, "layers.%d.mlp.c_fc"}, {SHARD_DOWN, "layers.%d.mlp.c_proj"}, {0, NULL}};
static const arch_tensor stablelm_hf[] = {
    {SHARD_Q_NORM, "layers.%d.self_attn.q_layernorm.norms.%d", ARCH_STORE_PIECES},
    {SHARD_K_NORM, "layers.%d.self_attn.k_layernorm.norms.%d", ARCH_STORE_PIECES}, {0, NULL},
};

/* ---- rows ---- */

/* Facts shared by many rows. */
#define RMS(default_eps) .norm = SHARD_NORM_RMS, .eps_key = "rms_norm_eps", .eps = (default_eps)
#define LAYER_NORM(key, default_eps) .norm = SHARD_NORM_LAYER, .norm_bias = true, .eps_key = (key), .eps = (default_eps)
#define LLAMA_HF .hf_prefix = "model."

const arch_family arch_families[] = {
    {.family = "llama", .title = "Llama 1, 2, 3", .model_types = "llama", .hf_architectures = "LlamaForCausalLM", .gguf_names = "llama",
     .notes = "and its kin: Yi, SmolLM 1 and 2, DeepSeek-R1-Distill, Tulu; rope plain, linear, dynamic, llama3, yarn, longrope",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}",
     RMS(1e-6), .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias", LLAMA_HF, .gguf_rotary = true},
    {.family = "mistral", .title = "Mistral 7B, Nemo, Small", .model_types = "mistral", .hf_architectures = "MistralForCausalLM",
     .notes = "sliding window; a GGUF file of it says llama",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"num_key_value_heads\":8,\"sliding_window\":4096}",
     RMS(1e-6), .window = ARCH_WINDOW_ALL, LLAMA_HF},
    {.family = "ministral", .title = "Ministral 8B", .model_types = "ministral", .hf_architectures = "MinistralForCausalLM",
     .notes = "windows by layer", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"num_key_value_heads\":8,\"sliding_window\":4096}",
     RMS(1e-6), .window = ARCH_WINDOW_TYPES, LLAMA_HF},
    {.family = "qwen2", .title = "Qwen 2 and 2.5", .model_types = "qwen2", .hf_architectures = "Qwen2ForCausalLM", .gguf_names = "qwen2",
     .notes = "bias on q, k, v", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"sliding_window\":4096,\"max_window_layers\":28}",
     RMS(1e-6), .qkv_bias = "1", .window = ARCH_WINDOW_UPPER, LLAMA_HF},
    {.family = "qwen3", .title = "Qwen 3", .model_types = "qwen3", .hf_architectures = "Qwen3ForCausalLM", .gguf_names = "qwen3",
     .notes = "q/k norm by head; rope plain, yarn",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"sliding_window\":4096,\"max_window_layers\":28}",
     RMS(1e-6), .qk_norm = SHARD_QK_NORM_HEAD, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .window = ARCH_WINDOW_UPPER, LLAMA_HF},
    {.family = "gemma", .title = "Gemma 1", .model_types = "gemma", .hf_architectures = "GemmaForCausalLM", .gguf_names = "gemma",
     .notes = "norms of 1 + w, scaled embeddings", .defaults = "{\"tie_word_embeddings\":true,\"head_dim\":256}", .refuse = "use_bidirectional_attention",
     RMS(1e-6), .norm_plus_one = true, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .activation = "gelu_pytorch_tanh", .embed_sqrt = true,
     LLAMA_HF},
    {.family = "gemma2", .title = "Gemma 2", .model_types = "gemma2", .hf_architectures = "Gemma2ForCausalLM", .gguf_names = "gemma2",
     .notes = "norms before and after, soft caps, windows on every other layer",
     .defaults = "{\"hidden_act\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,\"head_dim\":256,\"query_pre_attn_scalar\":256,\"sliding_window\":4096,"
                 "\"sliding_window_pattern\":2,\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0}",
     .refuse = "use_bidirectional_attention",
     RMS(1e-6), .norm_plus_one = true, .post_attn_norm = true, .post_mlp_norm = true, .qkv_bias = "attention_bias", .o_bias = "attention_bias",
     .window = ARCH_WINDOW_PATTERN, .scale_key = "query_pre_attn_scalar", .scale_rsqrt = true, .softcaps = true, .embed_sqrt = true, LLAMA_HF, .hf = gemma2_hf},
    {.family = "gemma3", .title = "Gemma 3 (text)", .model_types = "gemma3_text", .hf_architectures = "Gemma3ForCausalLM", .gguf_names = "gemma3",
     .notes = "also the text part of Gemma3ForConditionalGeneration; two rope bases, q/k norm, five windows to one full layer",
     .defaults = "{\"hidden_act\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,\"head_dim\":256,\"num_attention_heads\":8,\"num_key_value_heads\":4,"
                 "\"vocab_size\":262208,\"max_position_embeddings\":131072,\"query_pre_attn_scalar\":256,\"sliding_window\":4096,\"sliding_window_pattern\":6,"
                 "\"rope_theta\":1000000.0,\"rope_local_base_freq\":10000.0}",
     .refuse = "use_bidirectional_attention",
     RMS(1e-6), .norm_plus_one = true, .post_attn_norm = true, .post_mlp_norm = true, .qk_norm = SHARD_QK_NORM_HEAD, .qkv_bias = "attention_bias",
     .o_bias = "attention_bias", .window = ARCH_WINDOW_PATTERN, .local_rope = ARCH_LOCAL_OWN, .scale_key = "query_pre_attn_scalar", .scale_rsqrt = true,
     .softcaps = true, .embed_sqrt = true, LLAMA_HF, .hf = gemma2_hf},
    {.family = "phi", .title = "Phi 1, 1.5, 2", .model_types = "phi", .hf_architectures = "PhiForCausalLM", .gguf_names = "phi2",
     .notes = "parallel block, partial rotation, biases",
     .defaults = "{\"hidden_act\":\"gelu_new\",\"tie_word_embeddings\":false,\"partial_rotary_factor\":0.5}", .refuse = "qk_layernorm",
     LAYER_NORM("layer_norm_eps", 1e-5), .parallel = "1", .parallel_one_norm = true, .qkv_bias = "1", .o_bias = "1", .mlp_bias = "1", .head_bias = "1",
     .plain_mlp = true, LLAMA_HF, .hf = phi_hf},
    {.family = "phi3", .title = "Phi 3, 3.5 mini, 4, 4 mini", .model_types = "phi3", .hf_architectures = "Phi3ForCausalLM", .gguf_names = "phi3",
     .notes = "fused projections, longrope", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}",
     RMS(1e-5), .window = ARCH_WINDOW_ALL, LLAMA_HF, .hf = phi3_hf, .gguf = gate_up_gguf},
    {.family = "olmo", .title = "OLMo 1", .model_types = "olmo", .hf_architectures = "OlmoForCausalLM", .gguf_names = "olmo",
     .notes = "LayerNorm without weight, clipped q, k, v", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}",
     .norm = SHARD_NORM_LAYER, .no_norm_weight = true, .eps = 1e-5, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .clip_key = "clip_qkv", LLAMA_HF,
     .gguf_rotary = true},
    {.family = "olmo3", .title = "OLMo 3", .model_types = "olmo3", .hf_architectures = "Olmo3ForCausalLM", .gguf_names = "olmo2",
     .gguf_when = "attention.sliding_window", .notes = "norms after only, q/k norm over all heads, windows with unscaled rope",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"sliding_window\":4096,\"sliding_window_pattern\":4,\"rope_theta\":500000.0}",
     RMS(1e-5), .no_attn_norm = true, .no_mlp_norm = true, .post_attn_norm = true, .post_mlp_norm = true, .qk_norm = SHARD_QK_NORM_FULL,
     .qkv_bias = "attention_bias", .o_bias = "attention_bias", .window = ARCH_WINDOW_PATTERN, .local_rope = ARCH_LOCAL_PLAIN, LLAMA_HF, .hf = post_norms_hf},
    {.family = "olmo2", .title = "OLMo 2", .model_types = "olmo2", .hf_architectures = "Olmo2ForCausalLM", .gguf_names = "olmo2",
     .notes = "norms after only, q/k norm over all heads", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}",
     RMS(1e-5), .no_attn_norm = true, .no_mlp_norm = true, .post_attn_norm = true, .post_mlp_norm = true, .qk_norm = SHARD_QK_NORM_FULL,
     .qkv_bias = "attention_bias", .o_bias = "attention_bias", LLAMA_HF, .hf = post_norms_hf},
    {.family = "gpt2", .title = "GPT-2", .model_types = "gpt2", .hf_architectures = "GPT2LMHeadModel", .gguf_names = "gpt2",
     .notes = "learned positions, transposed weights", .defaults = "{\"hidden_act\":\"gelu_new\",\"tie_word_embeddings\":true,\"scale_attn_weights\":true}",
     .refuse = "scale_attn_by_inverse_layer_idx !scale_attn_weights add_cross_attention",
     LAYER_NORM("layer_norm_epsilon", 1e-5), .qkv_bias = "1", .o_bias = "1", .mlp_bias = "1", .kv_heads = -1, .plain_mlp = true, .intermediate_times = 4,
     .nope = ARCH_NOPE_ALWAYS, .learned_positions = true, .hf_prefix = "transformer.", .hf = gpt2_hf, .hf_transposed = true},
    {.family = "granite", .title = "Granite 3 (dense)", .model_types = "granite", .hf_architectures = "GraniteForCausalLM", .gguf_names = "granite",
     .notes = "multipliers on embedding, attention, residual and logits",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"attention_multiplier\":1.0}",
     RMS(1e-6), .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias", .scale_key = "attention_multiplier",
     .embed_key = "embedding_multiplier", .residual_key = "residual_multiplier", .logit_key = "logits_scaling", .logit_divides = true, LLAMA_HF,
     .gguf_rotary = true},
    {.family = "stablelm", .title = "StableLM 2, 3B, Zephyr",
     .model_types = "stablelm stablelm_epoch", .hf_architectures = "StableLmForCausalLM StableLMEpochForCausalLM",
     .gguf_names = "stablelm", .notes = "LayerNorm, partial rotation; 12B: parallel block, a q/k norm for each head",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"partial_rotary_factor\":0.25}",
     LAYER_NORM("layer_norm_eps", 1e-5), .qk_norm = SHARD_QK_NORM_HEAD_LAYER, .qk_norm_key = "qk_layernorm", .parallel = "use_parallel_residual",
     .parallel_one_norm = true, .qkv_bias = "use_qkv_bias", LLAMA_HF, .hf = stablelm_hf},
    {.family = "starcoder2", .title = "StarCoder 2", .model_types = "starcoder2", .hf_architectures = "Starcoder2ForCausalLM", .gguf_names = "starcoder2",
     .notes = "LayerNorm, biases, sliding window",
     .defaults = "{\"hidden_act\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,\"num_key_value_heads\":2,\"use_bias\":true}",
     LAYER_NORM("norm_epsilon", 1e-5), .qkv_bias = "use_bias", .o_bias = "use_bias", .mlp_bias = "use_bias", .plain_mlp = true, .window = ARCH_WINDOW_ALL,
     LLAMA_HF, .hf = starcoder2_hf},
    {.family = "gpt_neox", .title = "GPT-NeoX, Pythia", .model_types = "gpt_neox", .hf_architectures = "GPTNeoXForCausalLM", .gguf_names = "gptneox",
     .notes = "parallel block with two norms, partial rotation",
     .defaults = "{\"hidden_act\":\"gelu\",\"tie_word_embeddings\":false,\"use_parallel_residual\":true,\"attention_bias\":true,"
                 "\"partial_rotary_factor\":0.25}",
     LAYER_NORM("layer_norm_eps", 1e-5), .parallel = "use_parallel_residual", .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "1",
     .kv_heads = -1, .plain_mlp = true, .hf_prefix = "gpt_neox.", .hf = neox_hf},
#define FALCON_ROW                                                                                                                                       \
    .family = "falcon", .title = "Falcon 1, 7B, 40B, 11B (Falcon 2)", .model_types = "falcon RefinedWeb RefinedWebModel",                                 \
    .hf_architectures = "FalconForCausalLM RWForCausalLM", .gguf_names = "falcon",                                                                        \
    .notes = "multi-query and grouped qkv, parallel blocks; falcon-rw: alibi",                                                                            \
    .defaults = "{\"hidden_act\":\"gelu\",\"tie_word_embeddings\":true,\"multi_query\":true,\"parallel_attn\":true,\"max_position_embeddings\":2048}",    \
    LAYER_NORM("layer_norm_epsilon", 1e-5), .parallel = "parallel_attn", .qkv_bias = "bias", .o_bias = "bias", .mlp_bias = "bias", .plain_mlp = true,     \
    .intermediate_times = 4, .alibi = "alibi", .alibi_scaled = true, .hf_prefix = "transformer."
    {FALCON_ROW, .when = "new_decoder_architecture parallel_attn !num_ln_in_parallel_attn=1", .hf = falcon_two_hf, .gguf = falcon_two_gguf},
    {FALCON_ROW, .when = "new_decoder_architecture parallel_attn num_ln_in_parallel_attn=1", .parallel_one_norm = true, .hf = falcon_hf},
    {FALCON_ROW, .when = "!new_decoder_architecture multi_query", .parallel_one_norm = true, .kv_heads = 1, .hf = falcon_hf},
    {FALCON_ROW, .when = "!new_decoder_architecture !multi_query", .parallel_one_norm = true, .kv_heads = -1, .hf = falcon_hf},
    {.family = "cohere", .title = "Command R, Aya 23, Aya Expanse", .model_types = "cohere", .hf_architectures = "CohereForCausalLM", .gguf_names = "command-r",
     .notes = "parallel block, LayerNorm without bias, interleaved rope; Command R+: q/k norm",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"rope_theta\":500000.0,\"logit_scale\":0.0625}",
     .norm = SHARD_NORM_LAYER, .eps_key = "layer_norm_eps", .eps = 1e-5, .qk_norm = SHARD_QK_NORM_HEAD_LAYER, .qk_norm_key = "use_qk_norm", .parallel = "1",
     .parallel_one_norm = true, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .rope_interleaved = true, .logit_key = "logit_scale", LLAMA_HF},
    {.family = "cohere2", .title = "Command R7B, Command A", .model_types = "cohere2", .hf_architectures = "Cohere2ForCausalLM", .gguf_names = "cohere2",
     .notes = "three windowed layers with rope to one full layer without",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"rope_theta\":10000.0,\"logit_scale\":0.0625,\"sliding_window\":4096,"
                 "\"sliding_window_pattern\":4}",
     .norm = SHARD_NORM_LAYER, .eps_key = "layer_norm_eps", .eps = 1e-5, .parallel = "1", .parallel_one_norm = true, .qkv_bias = "attention_bias",
     .o_bias = "attention_bias", .window = ARCH_WINDOW_PATTERN, .nope = ARCH_NOPE_FULL, .rope_interleaved = true, .logit_key = "logit_scale", LLAMA_HF},
    {.family = "smollm3", .title = "SmolLM 3", .model_types = "smollm3", .hf_architectures = "SmolLM3ForCausalLM", .gguf_names = "smollm3",
     .notes = "every fourth layer without position",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"num_key_value_heads\":4,\"rope_theta\":2000000.0,\"no_rope_layer_interval\":4}",
     RMS(1e-6), .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias", .window = ARCH_WINDOW_NOPE, .nope = ARCH_NOPE_LIST, LLAMA_HF,
     .gguf_rotary = true},
    {.family = "glm", .title = "GLM-4 9B (first release)", .model_types = "glm", .hf_architectures = "GlmForCausalLM",
     .notes = "partial interleaved rope", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"num_key_value_heads\":2,"
                                                      "\"attention_bias\":true,\"partial_rotary_factor\":0.5}",
     RMS(1.5625e-7), .qkv_bias = "attention_bias", .rope_interleaved = true, LLAMA_HF, .hf = gate_up_hf},
    {.family = "glm4", .title = "GLM-4 (0414), GLM-Z1", .model_types = "glm4", .hf_architectures = "Glm4ForCausalLM", .gguf_names = "glm4",
     .notes = "partial interleaved rope, norms before and after", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,"
                                                                             "\"num_key_value_heads\":2,\"attention_bias\":true,\"partial_rotary_factor\":0.5}",
     RMS(1.5625e-7), .post_attn_norm = true, .post_mlp_norm = true, .qkv_bias = "attention_bias", .rope_interleaved = true, LLAMA_HF, .hf = glm4_hf,
     .gguf = gate_up_gguf},
    {.family = "nemotron", .title = "Nemotron 3 8B, 4 15B/340B, Minitron", .model_types = "nemotron", .hf_architectures = "NemotronForCausalLM",
     .gguf_names = "nemotron", .notes = "LayerNorm of 1 + w, squared ReLU, partial rotation",
     .defaults = "{\"hidden_act\":\"relu2\",\"tie_word_embeddings\":false,\"partial_rotary_factor\":0.5}",
     LAYER_NORM("norm_eps", 1e-5), .norm_plus_one = true, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias", .plain_mlp = true,
     LLAMA_HF},
    {.family = "arcee", .title = "Arcee AFM 4.5B", .model_types = "arcee", .hf_architectures = "ArceeForCausalLM", .gguf_names = "arcee",
     .notes = "squared ReLU", .defaults = "{\"hidden_act\":\"relu2\",\"tie_word_embeddings\":false}",
     RMS(1e-5), .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias", .plain_mlp = true, LLAMA_HF, .gguf_rotary = true},
    {.family = "seed_oss", .title = "Seed-OSS", .model_types = "seed_oss", .hf_architectures = "SeedOssForCausalLM", .gguf_names = "seed_oss",
     .notes = "bias on q, k, v", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"attention_bias\":true}",
     RMS(1e-6), .qkv_bias = "attention_bias", .o_bias = "attention_out_bias", .mlp_bias = "mlp_bias", LLAMA_HF, .gguf = seed_oss_gguf},
    {.family = "exaone4", .title = "EXAONE 4", .model_types = "exaone4", .hf_architectures = "Exaone4ForCausalLM", .gguf_names = "exaone4",
     .notes = "norms after only, q/k norm by head, full layers without position where it has windows",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"sliding_window\":4096,\"sliding_window_pattern\":4}",
     RMS(1e-5), .no_attn_norm = true, .no_mlp_norm = true, .post_attn_norm = true, .post_mlp_norm = true, .qk_norm = SHARD_QK_NORM_HEAD,
     .window = ARCH_WINDOW_PATTERN, .nope = ARCH_NOPE_MIXED, LLAMA_HF, .hf = post_norms_hf},
    {.family = "helium", .title = "Helium 1", .model_types = "helium", .hf_architectures = "HeliumForCausalLM",
     .notes = "interleaved rope", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"num_attention_heads\":20,"
                                              "\"num_key_value_heads\":20,\"rope_theta\":100000.0}",
     RMS(1e-8), .qkv_bias = "attention_bias", .mlp_bias = "mlp_bias", .rope_interleaved = true, LLAMA_HF},
    {.family = "ernie4_5", .title = "ERNIE 4.5 (dense)", .model_types = "ernie4_5", .hf_architectures = "Ernie4_5ForCausalLM", .gguf_names = "ernie4_5",
     .notes = "interleaved rope", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,\"head_dim\":128,\"num_key_value_heads\":2,"
                                              "\"rope_theta\":500000.0}",
     RMS(1e-5), .qkv_bias = "use_bias", .o_bias = "use_bias", .mlp_bias = "use_bias", .rope_interleaved = true, LLAMA_HF},
    {.family = "exaone", .title = "EXAONE 3, 3.5, Deep", .model_types = "exaone", .hf_architectures = "ExaoneForCausalLM", .gguf_names = "exaone",
     .notes = "a Llama with names of its own", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"rope_theta\":500000.0}",
     RMS(1e-5), .qkv_bias = "attention_bias", .o_bias = "attention_bias", .mlp_bias = "mlp_bias", LLAMA_HF, .hf = exaone_hf},
    {.family = "internlm3", .title = "InternLM 3", .model_types = "internlm3", .hf_architectures = "InternLM3ForCausalLM",
     .notes = "a Llama with head_dim of its own; a GGUF file of it says llama",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"num_key_value_heads\":2}",
     RMS(1e-5), .qkv_bias = "attention_bias", .o_bias = "mlp_bias", .mlp_bias = "mlp_bias", LLAMA_HF},
    {.family = "cwm", .title = "Code World Model", .model_types = "cwm", .hf_architectures = "CwmForCausalLM",
     .notes = "one full layer, then three windows",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"num_key_value_heads\":8,\"sliding_window\":8192,"
                 "\"sliding_window_pattern\":\"GLLL\",\"rope_theta\":1000000.0}",
     RMS(1e-5), .window = ARCH_WINDOW_PATTERN, LLAMA_HF},
    {.family = "vaultgemma", .title = "VaultGemma", .model_types = "vaultgemma", .hf_architectures = "VaultGemmaForCausalLM",
     .notes = "Gemma 2 without norms after",
     .defaults = "{\"hidden_act\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,\"head_dim\":256,\"query_pre_attn_scalar\":256,"
                 "\"sliding_window\":4096,\"sliding_window_pattern\":2,\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0}",
     RMS(1e-6), .norm_plus_one = true, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .window = ARCH_WINDOW_PATTERN,
     .scale_key = "query_pre_attn_scalar", .scale_rsqrt = true, .softcaps = true, .embed_sqrt = true, LLAMA_HF, .hf = vaultgemma_hf},
#define HYPERCLOVAX_ROW                                                                                                                                  \
    .family = "hyperclovax", .title = "HyperCLOVA X SEED", .model_types = "hyperclovax", .hf_architectures = "HyperCLOVAXForCausalLM",                    \
    .notes = "multipliers, norms before and after",                                                                                                       \
    .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"use_post_norm\":true}", RMS(1e-6), .qkv_bias = "attention_bias",                  \
    .o_bias = "attention_bias", .mlp_bias = "mlp_bias", .scale_key = "attention_multiplier", .embed_key = "embedding_multiplier",                         \
    .residual_key = "residual_multiplier", .logit_key = "logits_scaling", LLAMA_HF
    {HYPERCLOVAX_ROW, .when = "use_post_norm", .post_attn_norm = true, .post_mlp_norm = true, .hf = hyperclovax_hf},
    {HYPERCLOVAX_ROW, .when = "!use_post_norm"},
    {.family = "opt", .title = "OPT (but 350M)", .model_types = "opt", .hf_architectures = "OPTForCausalLM", .notes = "learned positions from 2, ReLU, biases",
     .defaults = "{\"hidden_act\":\"relu\",\"tie_word_embeddings\":true,\"do_layer_norm_before\":true,\"enable_bias\":true,"
                 "\"layer_norm_elementwise_affine\":true}",
     .refuse = "!do_layer_norm_before !layer_norm_elementwise_affine _remove_final_layer_norm",
     LAYER_NORM(NULL, 1e-5), .qkv_bias = "enable_bias", .o_bias = "enable_bias", .mlp_bias = "enable_bias", .kv_heads = -1, .plain_mlp = true,
     .nope = ARCH_NOPE_ALWAYS, .learned_positions = true, .position_offset = 2, .hf_prefix = "model.decoder.", .hf = opt_hf},
    {.family = "bloom", .title = "BLOOM", .model_types = "bloom", .hf_architectures = "BloomForCausalLM", .gguf_names = "bloom",
     .notes = "alibi, a norm after the embedding",
     .defaults = "{\"hidden_act\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,\"max_position_embeddings\":2048}",
     .refuse = "apply_residual_connection_post_layernorm",
     LAYER_NORM("layer_norm_epsilon", 1e-5), .embed_norm = true, .qkv_bias = "1", .o_bias = "1", .mlp_bias = "1", .kv_heads = -1, .plain_mlp = true,
     .intermediate_times = 4, .nope = ARCH_NOPE_ALWAYS, .alibi = "1", .hf_prefix = "transformer.", .hf = bloom_hf},
    {.family = "gptj", .title = "GPT-J", .model_types = "gptj", .hf_architectures = "GPTJForCausalLM",
     .notes = "parallel block, partial interleaved rope", .defaults = "{\"hidden_act\":\"gelu_new\",\"tie_word_embeddings\":false,\"rope_dims\":64}",
     LAYER_NORM("layer_norm_epsilon", 1e-5), .parallel = "1", .parallel_one_norm = true, .mlp_bias = "1", .head_bias = "1", .kv_heads = -1,
     .plain_mlp = true, .intermediate_times = 4, .rope_interleaved = true, .hf_prefix = "transformer.", .hf = gptj_hf},
#define BIGCODE_ROW                                                                                                                                      \
    .family = "gpt_bigcode", .title = "StarCoder 1, SantaCoder", .model_types = "gpt_bigcode", .hf_architectures = "GPTBigCodeForCausalLM",               \
    .gguf_names = "starcoder", .notes = "learned positions, one KV head",                                                                                 \
    .defaults = "{\"hidden_act\":\"gelu_pytorch_tanh\",\"tie_word_embeddings\":true,\"scale_attn_weights\":true,\"multi_query\":true}",                   \
    .refuse = "!scale_attn_weights add_cross_attention", LAYER_NORM("layer_norm_epsilon", 1e-5), .qkv_bias = "1", .o_bias = "1", .mlp_bias = "1",         \
    .plain_mlp = true, .intermediate_times = 4, .nope = ARCH_NOPE_ALWAYS, .learned_positions = true, .hf_prefix = "transformer."
    {BIGCODE_ROW, .when = "multi_query", .kv_heads = 1, .hf = gpt2_hf},
    {BIGCODE_ROW, .when = "!multi_query", .kv_heads = -1, .hf = bigcode_heads_hf},

    /* Plans only, as long as the forward pass has neither experts nor latent attention: what counts bytes and work, no names of tensors. */
#define PLAN_ONLY .plan_only = true, .experts = true, RMS(1e-6), LLAMA_HF
    {.family = "mixtral", .title = "Mixtral", .model_types = "mixtral", .hf_architectures = "MixtralForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"num_key_value_heads\":8}", .window = ARCH_WINDOW_ALL, PLAN_ONLY},
    {.family = "qwen2_moe", .title = "Qwen 1.5 and 2 MoE", .model_types = "qwen2_moe", .hf_architectures = "Qwen2MoeForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"max_window_layers\":28}", .moe_plus_one = true, .qkv_bias = "1",
     .window = ARCH_WINDOW_UPPER, PLAN_ONLY},
    {.family = "qwen3_moe", .title = "Qwen 3 MoE", .model_types = "qwen3_moe", .hf_architectures = "Qwen3MoeForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"max_window_layers\":28}", .moe_plus_one = true,
     .qk_norm = SHARD_QK_NORM_HEAD, .qkv_bias = "attention_bias", .o_bias = "attention_bias", .window = ARCH_WINDOW_UPPER, PLAN_ONLY},
    {.family = "olmoe", .title = "OLMoE", .model_types = "olmoe", .hf_architectures = "OlmoeForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}", .qk_norm = SHARD_QK_NORM_FULL, PLAN_ONLY},
    {.family = "gpt_oss", .title = "gpt-oss", .model_types = "gpt_oss", .hf_architectures = "GptOssForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":64,\"sliding_window\":128,\"sliding_window_pattern\":2}",
     .qkv_bias = "1", .o_bias = "1", .window = ARCH_WINDOW_PATTERN, PLAN_ONLY},
    {.family = "glm4_moe", .title = "GLM-4.5", .model_types = "glm4_moe", .hf_architectures = "Glm4MoeForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,\"head_dim\":128,\"partial_rotary_factor\":0.5}", .qkv_bias = "attention_bias",
     .qk_norm = SHARD_QK_NORM_HEAD, .qk_norm_key = "use_qk_norm", PLAN_ONLY},
    {.family = "deepseek_v2", .title = "DeepSeek V2", .model_types = "deepseek_v2", .hf_architectures = "DeepseekV2ForCausalLM",
     .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}", .kv_heads = -1, .latent = true, .rope_interleaved = true, PLAN_ONLY},
    {.family = "deepseek_v3", .title = "DeepSeek V3 and R1, Kimi K2", .model_types = "deepseek_v3 kimi_k2",
     .hf_architectures = "DeepseekV3ForCausalLM", .defaults = "{\"hidden_act\":\"silu\",\"tie_word_embeddings\":false}", .kv_heads = -1, .latent = true,
     .rope_interleaved = true, PLAN_ONLY},
};

const int arch_n_families = ARRAY_LEN(arch_families);
