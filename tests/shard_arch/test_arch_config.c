/* tests/shard_arch/test_arch_config.c - facts read from configs as they are published, and hostile configs refused with file and key named. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "arch_fixture.h"
#include "base/json.h"

static shard_arch a;

static void parse(const char *text)
{
    if (fixture_parse(text, &a) != ST_OK)
        fail_msg("%s", status_message());
}

#define LLAMA "{'model_type':'llama','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"    \
              "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu'"

static void llama_as_published(void **state)
{
    (void)state;
    parse("{'architectures':['LlamaForCausalLM'],'attention_bias':false,'head_dim':128,'hidden_act':'silu','hidden_size':16384,'intermediate_size':53248,"
          "'max_position_embeddings':131072,'mlp_bias':false,'model_type':'llama','num_attention_heads':128,'num_hidden_layers':126,'num_key_value_heads':8,"
          "'rms_norm_eps':1e-05,'rope_scaling':{'factor':8.0,'low_freq_factor':1.0,'high_freq_factor':4.0,'original_max_position_embeddings':8192,"
          "'rope_type':'llama3'},'rope_theta':500000.0,'tie_word_embeddings':false,'torch_dtype':'bfloat16','vocab_size':128256}");
    assert_string_equal(a.family, "llama");
    assert_int_equal(a.n_layers, 126);
    assert_int_equal(a.n_kv_heads, 8);
    assert_int_equal(a.max_positions, 131072);
    assert_int_equal(a.ropes[0].scaling, SHARD_ROPE_LLAMA3);
    assert_true(a.norm_weight && !a.norm_bias && a.attn_norm && a.mlp_norm && !a.post_attn_norm && !a.parallel_block);
    assert_true(fabsf(a.attention_scale - 1 / sqrtf(128)) < 1e-7f);
    int64_t rows, cols;
    assert_true(shard_role_shape(&a, SHARD_K, &rows, &cols));
    assert_true(rows == 1024 && cols == 16384);
    assert_false(shard_role_shape(&a, SHARD_Q_B, &rows, &cols));
    assert_true(shard_role_shape(&a, SHARD_HEAD, &rows, &cols));
    assert_true(rows == 128256 && cols == 16384);
}

/* What Google publishes leaves most keys to the reference's defaults. */
static void gemma3_inside_its_wrapper(void **state)
{
    (void)state;
    parse("{'architectures':['Gemma3ForConditionalGeneration'],'model_type':'gemma3','text_config':{'hidden_size':2560,'intermediate_size':10240,"
          "'model_type':'gemma3_text','num_hidden_layers':34,'rope_scaling':{'factor':8.0,'rope_type':'linear'},'sliding_window':1024},"
          "'vision_config':{'hidden_size':1152}}");
    assert_string_equal(a.family, "gemma3");
    assert_true(a.n_heads == 8 && a.n_kv_heads == 4 && a.head_dim == 256 && a.vocab == 262208 && a.tied_embeddings);
    assert_int_equal(a.max_positions, 131072);
    assert_int_equal(a.n_ropes, 2);
    assert_true(a.ropes[a.layers[0].rope].theta == 10000.0 && a.ropes[a.layers[0].rope].scaling == SHARD_ROPE_PLAIN);
    assert_true(a.ropes[a.layers[5].rope].theta == 1e6 && a.ropes[a.layers[5].rope].scaling == SHARD_ROPE_LINEAR);
    assert_true(a.layers[0].window == 1024 && a.layers[5].window == 0 && a.layers[6].window == 1024);
    assert_int_equal(a.n_kv_groups, 2);
    assert_int_equal(a.kv_groups[a.layers[5].kv_group].n_layers, 5);
    assert_true(a.embed_multiplier == sqrtf(2560));
    assert_true(a.post_attn_norm && a.post_mlp_norm && a.qk_norm == SHARD_QK_NORM_HEAD);
}

static void multimodal_mistral(void **state)
{
    (void)state;
    parse("{'model_type':'mistral3','tie_word_embeddings':false,'text_config':{'model_type':'mistral','head_dim':128,'hidden_size':5120,"
          "'intermediate_size':32768,'max_position_embeddings':131072,'num_attention_heads':32,'num_hidden_layers':40,'num_key_value_heads':8,"
          "'rms_norm_eps':1e-05,'rope_theta':1000000000.0,'sliding_window':null,'vocab_size':131072,'hidden_act':'silu'}}");
    shard_stored s;
    assert_string_equal(a.family, "mistral");
    assert_int_equal(a.layers[0].window, 0);
    assert_true(shard_arch_stored(&a, false, SHARD_Q, 3, NULL, NULL, &s));
    assert_string_equal(s.name, "model.layers.3.self_attn.q_proj.weight");
}

static void windows(void **state)
{
    (void)state;
    parse("{'model_type':'mistral','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu'}"); /* silence is 4096 */
    assert_true(a.layers[0].window == 4096 && a.layers[1].window == 4096 && a.n_kv_groups == 1);
    parse("{'model_type':'qwen2','hidden_size':64,'num_hidden_layers':4,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu','use_sliding_window':false,'sliding_window':32,'max_window_layers':1}");
    assert_int_equal(a.layers[3].window, 0);
    parse("{'model_type':'qwen2','hidden_size':64,'num_hidden_layers':4,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu','use_sliding_window':true,'sliding_window':32,'max_window_layers':1}");
    assert_true(a.layers[0].window == 0 && a.layers[1].window == 32 && a.q_bias && a.v_bias && !a.o_bias);
    parse("{'model_type':'exaone4','hidden_size':64,'num_hidden_layers':8,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu','sliding_window':16,'sliding_window_pattern':'LLLG'}");
    assert_true(a.layers[2].window == 16 && a.layers[3].window == 0 && a.layers[2].rope == 0 && a.layers[3].rope == -1);
    parse("{'model_type':'exaone4','hidden_size':64,'num_hidden_layers':8,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu','sliding_window':null}");
    assert_true(a.layers[3].window == 0 && a.layers[3].rope == 0);
    parse("{'model_type':'smollm3','hidden_size':64,'num_hidden_layers':4,'num_attention_heads':4,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu','no_rope_layers':[1,0,1,1]}");
    assert_true(a.layers[0].rope == 0 && a.layers[1].rope == -1 && a.layers[3].rope == 0);
}

static void lengths_after_scaling(void **state)
{
    (void)state;
    parse(LLAMA ",'rope_scaling':{'type':'linear','factor':4.0}}");
    assert_int_equal(a.max_positions, 1024);
    parse(LLAMA ",'rope_scaling':{'rope_type':'dynamic','factor':3.0}}");
    assert_int_equal(a.max_positions, 4 * 768); /* an answer for every length; the bound is ours */
    assert_true(a.ropes[0].n_sets == 2 && a.ropes[0].switch_length == 256);
    assert_int_equal(shard_arch_rope_set(&a, 256), 0);
    assert_int_equal(shard_arch_rope_set(&a, 257), 257); /* the prompt's own length */
    float at_300[SHARD_MAX_ROPE_DIMS / 2], at_768[SHARD_MAX_ROPE_DIMS / 2], plain[SHARD_MAX_ROPE_DIMS / 2];
    shard_rope_frequencies(&a.ropes[0], 300, at_300);
    shard_rope_frequencies(&a.ropes[0], 768, at_768);
    shard_rope_frequencies(&a.ropes[0], 0, plain);
    assert_memory_equal(at_768, a.ropes[0].inv_freq[1], (size_t)a.ropes[0].dims / 2 * sizeof(float));
    assert_memory_equal(plain, a.ropes[0].inv_freq[0], (size_t)a.ropes[0].dims / 2 * sizeof(float));
    int32_t slowest = a.ropes[0].dims / 2 - 1; /* grows with the length, so it turns ever more slowly */
    assert_true(plain[slowest] > at_300[slowest] && at_300[slowest] > at_768[slowest]);
    parse(LLAMA ",'rope_scaling':{'rope_type':'yarn','factor':4.0,'original_max_position_embeddings':256}}");
    assert_int_equal(a.max_positions, 1024);
}

static void falcon_variants(void **state)
{
    (void)state;
    shard_stored s;
    const char *base = "{'model_type':'falcon','hidden_size':128,'num_hidden_layers':2,'num_attention_heads':8,'vocab_size':64";
    char text[512];
    snprintf(text, sizeof(text), "%s,'num_kv_heads':8}", base);
    parse(text); /* 7B: num_kv_heads is written but unused */
    assert_true(a.n_kv_heads == 1 && a.parallel_block && !a.mlp_norm && a.intermediate == 512 && a.tied_embeddings && a.max_positions == 2048);
    snprintf(text, sizeof(text), "%s,'num_kv_heads':2,'new_decoder_architecture':true}", base);
    parse(text);
    assert_true(a.n_kv_heads == 2 && a.parallel_block && a.mlp_norm);
    assert_true(shard_arch_stored(&a, false, SHARD_K, 1, NULL, NULL, &s));
    assert_true(s.map == SHARD_ROWS_GROUPED && s.group_rows == 96 && s.group_begin == 64 && s.group_take == 16 && s.stored_rows == 192);
    assert_string_equal(s.name, "transformer.h.1.self_attention.query_key_value.weight");
    assert_true(shard_arch_stored(&a, false, SHARD_MLP_NORM_B, 0, NULL, NULL, &s));
    assert_string_equal(s.name, "transformer.h.0.ln_mlp.bias");
    snprintf(text, sizeof(text), "%s,'alibi':true,'multi_query':false,'parallel_attn':false,'bias':true}", base);
    parse(text);
    assert_true(a.n_kv_heads == 8 && !a.parallel_block && a.mlp_norm && a.alibi && a.layers[0].rope == -1 && a.n_ropes == 0);
    /* 8 heads: slopes 2^-1 .. 2^-8, before the scale of 1/4 */
    assert_true(shard_arch_alibi_slope(&a, 0) == 0.125f && shard_arch_alibi_slope(&a, 7) == 0.25f / 256);
    snprintf(text, sizeof(text), "%s,'new_decoder_architecture':true,'parallel_attn':false}", base);
    status_mute();
    assert_int_equal(fixture_parse(text, &a), ST_UNSUPPORTED);
    status_unmute();
}

static void storage(void **state)
{
    (void)state;
    shard_stored s;
    char piece[192];
    parse("{'model_type':'gpt2','n_embd':60,'n_layer':2,'n_head':5,'n_positions':128,'vocab_size':64,'activation_function':'gelu_new'}");
    assert_true(shard_arch_stored(&a, false, SHARD_V_B, 1, NULL, NULL, &s));
    assert_true(s.row_begin == 120 && s.stored_rows == 180 && !s.transposed);
    assert_true(shard_arch_stored(&a, false, SHARD_V, 1, NULL, NULL, &s));
    assert_true(s.row_begin == 120 && s.transposed);
    assert_string_equal(s.name, "transformer.h.1.attn.c_attn.weight");
    assert_false(shard_arch_stored(&a, false, SHARD_HEAD, 0, NULL, NULL, &s)); /* tied */

    parse("{'model_type':'stablelm','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'silu','qk_layernorm':true,'use_parallel_residual':true}");
    assert_true(shard_arch_stored(&a, false, SHARD_K_NORM, 1, NULL, NULL, &s));
    assert_int_equal(s.pieces, 2);
    shard_stored_piece(&s, 1, piece);
    assert_string_equal(piece, "model.layers.1.self_attn.k_layernorm.norms.1.weight");
    assert_true(a.ropes[0].dims == 4 && !a.mlp_norm && a.qk_norm == SHARD_QK_NORM_HEAD_LAYER);

    parse("{'model_type':'gemma','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':1,'intermediate_size':96,"
          "'vocab_size':128,'max_position_embeddings':256,'hidden_act':'gelu','hidden_activation':null}");
    assert_true(shard_arch_stored(&a, false, SHARD_ATTN_NORM, 1, NULL, NULL, &s));
    assert_true(s.add == 1.0f && a.activation == SHARD_ACT_GELU_TANH && a.head_dim == 256);
}

static void model_type_may_be_missing(void **state)
{
    (void)state;
    parse("{'architectures':['Qwen3ForCausalLM'],'hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,"
          "'intermediate_size':96,'vocab_size':128,'max_position_embeddings':256}");
    assert_string_equal(a.family, "qwen3");
    assert_int_equal(a.head_dim, 128);
}

/* Each is refused, naming the file and what is wrong. */
static const struct {
    const char *config;
    status code;
    const char *message; /* part of it */
} hostile[] = {
    {"[]", ST_FORMAT, "JSON object"},
    {"{}", ST_FORMAT, "model_type"},
    {"{'model_type':5}", ST_FORMAT, "model_type"},
    {"{'model_type':'frobnicate'}", ST_UNSUPPORTED, "\"frobnicate\" is not supported (supported: llama, mistral"},
    {"{'model_type':'mixtral'}", ST_UNSUPPORTED, "experts"},
    {"{'model_type':'deepseek_v3'}", ST_UNSUPPORTED, "latent attention"},
    {"{'model_type':'mamba'}", ST_UNSUPPORTED, "recurrent"},
    {"{'model_type':'bert'}", ST_UNSUPPORTED, "decoder"},
    {LLAMA ",'num_local_experts':8}", ST_UNSUPPORTED, "num_local_experts"},
    {LLAMA ",'kv_lora_rank':512}", ST_UNSUPPORTED, "latent attention"},
    {LLAMA ",'quantization_config':{'quant_method':'gptq'}}", ST_UNSUPPORTED, "gptq"},
    {LLAMA ",'hidden_act':'mish'}", ST_FORMAT, "duplicate"},
    {"{'model_type':'llama','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'hidden_act':'mish'}", ST_UNSUPPORTED, "\"mish\""},
    {"{'model_type':'llama','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'vocab_size':128,'max_position_embeddings':256}", ST_FORMAT,
     "intermediate_size is missing"},
    {"{'model_type':'llama','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'intermediate_size':96,'max_position_embeddings':256}", ST_FORMAT,
     "vocab_size is missing"},
    {"{'model_type':'llama','hidden_size':-64}", ST_FORMAT, "num_hidden_layers is missing"},
    {"{'model_type':'llama','num_hidden_layers':2,'hidden_size':-64}", ST_FORMAT, "hidden_size is -64"},
    {"{'model_type':'llama','num_hidden_layers':2,'hidden_size':0}", ST_FORMAT, "hidden_size is 0"},
    {"{'model_type':'llama','num_hidden_layers':2,'hidden_size':'64'}", ST_FORMAT, "hidden_size must be a whole number"},
    {"{'model_type':'llama','num_hidden_layers':2,'hidden_size':64.5}", ST_FORMAT, "hidden_size must be a whole number"},
    {"{'model_type':'llama','num_hidden_layers':2,'hidden_size':1e300}", ST_FORMAT, "hidden_size is 1"},
    {"{'model_type':'llama','num_hidden_layers':1025,'hidden_size':64}", ST_FORMAT, "num_hidden_layers is 1025, must be from 1 to 1024"},
    {"{'model_type':'llama','num_hidden_layers':0,'hidden_size':64}", ST_FORMAT, "num_hidden_layers is 0"},
    {"{'model_type':'llama','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':5,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'hidden_act':'silu'}", ST_FORMAT, "not a multiple of num_attention_heads (5)"},
    {"{'model_type':'llama','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':3,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'hidden_act':'silu'}", ST_FORMAT, "multiple of num_key_value_heads (3)"},
    {"{'model_type':'llama','hidden_size':60,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'hidden_act':'silu'}", ST_FORMAT, "head_dim is 15"},
    {LLAMA ",'head_dim':0}", ST_FORMAT, "head_dim is 0"},
    {LLAMA ",'head_dim':4096}", ST_FORMAT, "head_dim is 4096"},
    {LLAMA ",'rms_norm_eps':0}", ST_FORMAT, "rms_norm_eps is 0"},
    {LLAMA ",'rms_norm_eps':-1e-5}", ST_FORMAT, "rms_norm_eps"},
    {LLAMA ",'rms_norm_eps':'tiny'}", ST_FORMAT, "rms_norm_eps must be a number"},
    {LLAMA ",'rms_norm_eps':NaN}", ST_FORMAT, "not valid JSON"},
    {LLAMA ",'rope_theta':0}", ST_FORMAT, "rope_theta"},
    {LLAMA ",'rope_theta':-1e4}", ST_FORMAT, "rope_theta"},
    {LLAMA ",'rope_scaling':7}", ST_FORMAT, "rope_scaling must be an object"},
    {LLAMA ",'rope_scaling':{'rope_type':'spiral'}}", ST_UNSUPPORTED, "\"spiral\""},
    {LLAMA ",'rope_scaling':{'rope_type':3}}", ST_FORMAT, "rope_type must be a string"},
    {LLAMA ",'rope_scaling':{'rope_type':'linear'}}", ST_FORMAT, "no factor"},
    {LLAMA ",'rope_scaling':{'rope_type':'linear','factor':0}}", ST_FORMAT, "factor is 0"},
    {LLAMA ",'rope_scaling':{'rope_type':'linear','factor':1e300}}", ST_FORMAT, "factor"},
    {LLAMA ",'rope_scaling':{'rope_type':'dynamic','factor':0.5}}", ST_FORMAT, "dynamic"},
    {LLAMA ",'rope_scaling':{'rope_type':'llama3','factor':8.0,'low_freq_factor':4.0,'high_freq_factor':4.0}}", ST_FORMAT, "high_freq_factor"},
    {LLAMA ",'rope_scaling':{'rope_type':'longrope','short_factor':[1,2],'long_factor':[1,2]}}", ST_FORMAT, "short_factor must be a list of 8"},
    {LLAMA ",'rope_scaling':{'rope_type':'longrope','short_factor':[1,2,3,4,5,6,7,0],'long_factor':[1,2,3,4,5,6,7,8]}}", ST_FORMAT, "short_factor[7]"},
    {LLAMA ",'partial_rotary_factor':0.01}", ST_FORMAT, "would rotate"},
    {LLAMA ",'partial_rotary_factor':1.5}", ST_FORMAT, "partial_rotary_factor"},
    {LLAMA ",'attention_bias':'yes'}", ST_FORMAT, "attention_bias must be true or false"},
    {LLAMA ",'tie_word_embeddings':2}", ST_FORMAT, "tie_word_embeddings"},
    {"{'model_type':'phi','qk_layernorm':true}", ST_UNSUPPORTED, "qk_layernorm"},
    {"{'model_type':'gpt2','scale_attn_weights':false}", ST_UNSUPPORTED, "scale_attn_weights = false"},
    {"{'model_type':'gemma2','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'layer_types':['full_attention']}", ST_FORMAT, "layer_types must be a list of num_hidden_layers (2)"},
    {"{'model_type':'gemma2','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'layer_types':['full_attention','chunked_attention']}", ST_UNSUPPORTED, "chunked_attention"},
    {"{'model_type':'gemma2','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'query_pre_attn_scalar':0}", ST_FORMAT, "query_pre_attn_scalar"},
    {"{'model_type':'gemma2','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'sliding_window':-4}", ST_FORMAT, "sliding_window"},
    {"{'model_type':'granite','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'hidden_act':'silu','logits_scaling':0}", ST_FORMAT, "logits_scaling"},
    {"{'model_type':'smollm3','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'intermediate_size':96,'vocab_size':128,"
     "'max_position_embeddings':256,'no_rope_layers':['a','b']}", ST_FORMAT, "no_rope_layers[0]"},
    {"{'model_type':'exaone4','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,"
     "'vocab_size':128,'max_position_embeddings':256,'sliding_window_pattern':'XY'}", ST_FORMAT, "sliding_window_pattern"},
    {"{'model_type':'gemma3','text_config':{'model_type':'qwen3_moe'}}", ST_UNSUPPORTED, "experts"},
};

static void hostile_configs_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        status_mute();
        status st = fixture_parse(hostile[i].config, &a);
        status_unmute();
        if (st != hostile[i].code || strstr(status_message(), hostile[i].message) == NULL || strstr(status_message(), "config.json") == NULL)
            fail_msg("%s\n  gave %s: %s\n  wanted %s: ...%s...", hostile[i].config, status_text(st), status_message(), status_text(hostile[i].code),
                     hostile[i].message);
    }
    print_message("%zu hostile configs\n", ARRAY_LEN(hostile));
}

/* Checkpoints with experts or latent attention: named, with the reason. */
static void refused_families_say_why(void **state)
{
    (void)state;
    static const char *const names[] = {"deepseek-v2-mla-groups", "deepseek-v3-mla-sigmoid", "gpt-oss-sinks", "mixtral-4e2k", "qwen3moe-10e3k"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[512];
        json_t *config;
        snprintf(path, sizeof(path), "%s/golden/refused/%s.json", TEST_SOURCE_DIR, names[i]);
        assert_int_equal(json_parse_file(path, 1 << 20, &config), ST_OK);
        status_mute();
        assert_int_equal(shard_arch_from_config(path, config, NULL, NULL, &a), ST_UNSUPPORTED);
        status_unmute();
        assert_non_null(strstr(status_message(), "experts"));
        assert_non_null(strstr(status_message(), json_string_value(json_object_get(config, "model_type"))));
        json_decref(config);
    }
}

static status to_plan(const char *text)
{
    char buf[2048];
    json_t *config;
    snprintf(buf, sizeof(buf), "%s", text);
    for (char *p = buf; *p != '\0'; p++)
        *p = *p == '\'' ? '"' : *p;
    assert_int_equal(json_parse("config.json", buf, strlen(buf), &config), ST_OK);
    status st = shard_arch_to_plan("config.json", config, &a);
    json_decref(config);
    return st;
}

/* The same that are refused to run can be planned: experts and latent vectors have their sizes. */
static void refused_families_can_be_planned(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t experts, used, width, shared, dense, latent, q_latent, head_dim, value;
    } known[] = {
        {"deepseek-v2-mla-groups", 8, 3, 32, 64, 1, 32, 0, 24, 12},
        {"deepseek-v3-mla-sigmoid", 8, 3, 32, 32, 1, 32, 40, 24, 16},
        {"gpt-oss-sinks", 4, 2, 0, 0, 0, 0, 0, 0, 0},
        {"mixtral-4e2k", 4, 2, 0, 0, 0, 0, 0, 0, 0},
        {"qwen3moe-10e3k", 10, 3, 40, 0, 1, 0, 0, 0, 0}, /* mlp_only_layers */
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        char path[512];
        json_t *config;
        int32_t dense = 0;
        snprintf(path, sizeof(path), "%s/golden/refused/%s.json", TEST_SOURCE_DIR, known[i].name);
        assert_int_equal(json_parse_file(path, 1 << 20, &config), ST_OK);
        if (shard_arch_to_plan(path, config, &a) != ST_OK)
            fail_msg("%s", status_message());
        for (int32_t l = 0; l < a.n_layers; l++)
            dense += !a.layers[l].moe;
        assert_true(a.n_experts == known[i].experts && a.n_experts_used == known[i].used && dense == known[i].dense && a.shared_intermediate == known[i].shared);
        assert_int_equal(a.expert_intermediate, known[i].width > 0 ? known[i].width : a.intermediate);
        assert_true(a.kv_latent == known[i].latent && a.q_latent == known[i].q_latent && a.value_head_dim == known[i].value);
        if (known[i].latent > 0)
            assert_true(a.head_dim == known[i].head_dim && a.rope_head_dim == 8 && a.ropes[0].dims == 8);
        json_decref(config);
    }
    /* Every other layer; and those named are dense. */
#define MOE "{'model_type':'qwen2_moe','hidden_size':64,'num_hidden_layers':6,'num_attention_heads':4,'num_key_value_heads':2,'intermediate_size':96,'vocab_size':128,"      \
            "'max_position_embeddings':256,'num_experts':8,'num_experts_per_tok':2,'moe_intermediate_size':32,'shared_expert_intermediate_size':64"
    assert_int_equal(to_plan(MOE ",'decoder_sparse_step':2,'mlp_only_layers':[5]}"), ST_OK);
    assert_true(!a.layers[0].moe && a.layers[1].moe && !a.layers[2].moe && a.layers[3].moe && !a.layers[5].moe && a.shared_intermediate == 64 && a.shared_gate && a.q_bias);
    assert_int_equal(to_plan(LLAMA "}"), ST_OK); /* and those that run are planned as ever */
    assert_int_equal(a.n_experts, 0);
}

static void hostile_experts_are_refused(void **state)
{
    (void)state;
#define LATENT "{'model_type':'deepseek_v3','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'intermediate_size':96,'vocab_size':128,'max_position_embeddings':256," \
               "'n_routed_experts':8,'num_experts_per_tok':2,'moe_intermediate_size':32"
    static const struct {
        const char *config, *says;
    } cases[] = {
        {MOE ",'mlp_only_layers':[6]}", "mlp_only_layers[0]"},
        {MOE ",'mlp_only_layers':7}", "mlp_only_layers must be a list"},
        {MOE ",'decoder_sparse_step':0}", "decoder_sparse_step is 0"},
        {MOE ",'first_k_dense_replace':7}", "first_k_dense_replace is 7"},
        {"{'model_type':'mixtral','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':4,'intermediate_size':96,'vocab_size':128,'max_position_embeddings':256}",
         "num_key_value_heads"},
        {"{'model_type':'mixtral','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':8,'intermediate_size':96,'vocab_size':128,'max_position_embeddings':256,"
         "'num_local_experts':4,'num_experts_per_tok':5}", "num_experts_per_tok is 5"},
        {"{'model_type':'mixtral','hidden_size':64,'num_hidden_layers':2,'num_attention_heads':8,'intermediate_size':96,'vocab_size':128,'max_position_embeddings':256,"
         "'num_local_experts':-4}", "-4"},
        {LATENT ",'kv_lora_rank':32,'qk_nope_head_dim':16,'qk_rope_head_dim':8,'v_head_dim':16,'n_shared_experts':65537}", "n_shared_experts is 65537"},
        {LATENT "}", "kv_lora_rank is missing"},
        {LATENT ",'kv_lora_rank':32,'qk_nope_head_dim':16,'v_head_dim':16}", "qk_rope_head_dim is missing"},
        {LATENT ",'kv_lora_rank':0}", "kv_lora_rank is 0"},
        {LATENT ",'kv_lora_rank':32,'qk_nope_head_dim':1000,'qk_rope_head_dim':1000,'v_head_dim':16}", "head_dim is 2000"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        status_mute();
        status st = to_plan(cases[i].config);
        status_unmute();
        if (st != ST_FORMAT || strstr(status_message(), cases[i].says) == NULL)
            fail_msg("%s\n  gave %s: %s\n  wanted ...%s...", cases[i].config, status_text(st), status_message(), cases[i].says);
    }
}

static void the_table_of_families(void **state)
{
    (void)state;
    static const char *const wanted[] = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi", "phi3", "olmo", "olmo2", "olmo3",
                                         "gpt2", "granite", "stablelm", "starcoder2", "gpt_neox", "falcon", "cohere", "cohere2", "smollm3", "glm4", "nemotron"};
    shard_family_info info;
    size_t found = 0;
    int n = 0;
    for (; shard_family(n, &info); n++) {
        assert_true(info.title != NULL && info.hf_architectures != NULL && info.gguf_names != NULL && info.notes != NULL);
        for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
            found += strcmp(wanted[i], info.family) == 0;
    }
    assert_int_equal(found, ARRAY_LEN(wanted));
    assert_false(shard_family(n, &info));
    assert_true(shard_family(0, &info));
}

static void roles_have_names(void **state)
{
    (void)state;
    for (int i = 0; i < SHARD_ROLES; i++) {
        assert_non_null(shard_role_name(i));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(shard_role_name(i), shard_role_name(k));
    }
    assert_true(shard_role_in_layer(SHARD_Q) && !shard_role_in_layer(SHARD_HEAD) && shard_role_is_vector(SHARD_Q_B) && !shard_role_is_vector(SHARD_POS_EMBED));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_as_published),     cmocka_unit_test(gemma3_inside_its_wrapper), cmocka_unit_test(multimodal_mistral),
        cmocka_unit_test(windows),                cmocka_unit_test(lengths_after_scaling),     cmocka_unit_test(falcon_variants),
        cmocka_unit_test(storage),                cmocka_unit_test(model_type_may_be_missing), cmocka_unit_test(hostile_configs_are_refused),
        cmocka_unit_test(refused_families_say_why), cmocka_unit_test(refused_families_can_be_planned),
        cmocka_unit_test(hostile_experts_are_refused), cmocka_unit_test(the_table_of_families),   cmocka_unit_test(roles_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
