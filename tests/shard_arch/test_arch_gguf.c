/* tests/shard_arch/test_arch_gguf.c - facts from GGUF metadata, given as JSON. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "arch_fixture.h"
#include "base/json.h"
#include "shard/arch.h"

static shard_arch a;

static status read_gguf(const char *text)
{
    char buf[4096];
    json_t *j;
    snprintf(buf, sizeof(buf), "%s", text);
    for (char *p = buf; *p != '\0'; p++)
        *p = *p == '\'' ? '"' : *p;
    assert_int_equal(json_parse("test", buf, strlen(buf), &j), ST_OK);
    status st = fixture_parse_gguf(j, &a);
    json_decref(j);
    return st;
}

static void parse(const char *text)
{
    if (read_gguf(text) != ST_OK)
        fail_msg("%s", status_message());
}

#define SIZES(arch, layers, more)                                                                                                                          \
    "{'kv':{'general.architecture':'" arch "','" arch ".block_count':" layers ",'" arch ".embedding_length':64,'" arch ".attention.head_count':4,'" arch  \
    ".attention.head_count_kv':2,'" arch ".feed_forward_length':96,'" arch ".context_length':256" more "},'tensors':{'token_embd.weight':[128,64]"
#define RMS(arch) ",'" arch ".attention.layer_norm_rms_epsilon':1e-05"
#define LN(arch) ",'" arch ".attention.layer_norm_epsilon':1e-05"

static void llama_rows_are_in_rotary_pairs(void **state)
{
    (void)state;
    shard_stored s;
    parse(SIZES("llama", "2", RMS("llama") ",'llama.rope.dimension_count':16,'llama.rope.freq_base':100000.0") "}}");
    assert_true(a.vocab == 128 && a.tied_embeddings && a.n_kv_heads == 2 && a.head_dim == 16 && !a.q_bias && a.norm_eps == 1e-5f);
    assert_true(a.ropes[0].theta == 100000.0 && a.ropes[0].dims == 16);
    assert_true(shard_arch_stored(&a, true, SHARD_K, 1, NULL, NULL, &s));
    assert_string_equal(s.name, "blk.1.attn_k.weight");
    assert_true(s.map == SHARD_ROWS_ROTARY && s.group_rows == 16 && s.rotary == 16 && s.stored_rows == 32);
    assert_true(shard_arch_stored(&a, true, SHARD_V, 1, NULL, NULL, &s));
    assert_int_equal(s.map, SHARD_ROWS_PLAIN);
    parse(SIZES("llama", "2", RMS("llama")) ",'output.weight':[128,64],'blk.0.attn_q.bias':[64],'blk.0.attn_k.bias':[32],'blk.0.attn_v.bias':[32]}}");
    assert_true(!a.tied_embeddings && a.q_bias && a.k_bias && a.v_bias && !a.o_bias && !a.mlp_bias);
}

static void llama3_factors_come_as_a_tensor(void **state)
{
    (void)state;
    parse(SIZES("llama", "2", RMS("llama")) ",'rope_freqs.weight':[1.0,1.0,1.0,1.0,2.0,4.0,8.0,8.0]}}");
    assert_true(a.ropes[0].n_sets == 1 && a.ropes[0].attention_factor[0] == 1.0f);
    float plain = 1 / powf(10000, 14.0f / 16);
    assert_true(fabsf(a.ropes[0].inv_freq[0][7] - plain / 8) < 1e-6f * plain);
}

static void phi3_has_two_sets_of_factors(void **state)
{
    (void)state;
    shard_stored s;
    parse(SIZES("phi3", "2", RMS("phi3") ",'phi3.rope.scaling.original_context_length':64,'phi3.rope.scaling.attn_factor':1.19,"
                                         "'phi3.attention.sliding_window':0,'phi3.rope.dimension_count':16")
          ",'rope_factors_short.weight':[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],'rope_factors_long.weight':[1.5,2.0,3.0,4.0,5.0,6.0,7.0,8.0]}}");
    assert_true(a.ropes[0].n_sets == 2 && a.ropes[0].switch_length == 64 && a.ropes[0].attention_factor[1] == 1.19f);
    assert_int_equal(a.layers[0].window, 0);
    assert_true(shard_arch_stored(&a, true, SHARD_UP, 0, NULL, NULL, &s));
    assert_true(s.row_begin == 96 && s.stored_rows == 192);
    assert_string_equal(s.name, "blk.0.ffn_up.weight");
}

static void gemma_defaults_are_filled_in(void **state)
{
    (void)state;
    shard_stored s;
    parse(SIZES("gemma3", "12", RMS("gemma3") ",'gemma3.attention.key_length':24,'gemma3.attention.value_length':24,'gemma3.attention.sliding_window':32,"
                                              "'gemma3.rope.freq_base':1000000.0,'gemma3.rope.scaling.type':'linear','gemma3.rope.scaling.factor':8.0") "}}");
    assert_true(a.head_dim == 24 && a.n_ropes == 2 && a.layers[5].window == 0 && a.layers[4].window == 32);
    assert_true(a.ropes[a.layers[0].rope].theta == 10000.0 && a.ropes[a.layers[5].rope].scaling == SHARD_ROPE_LINEAR);
    assert_true(fabsf(a.attention_scale - 1 / sqrtf(24)) < 1e-7f);
    assert_true(shard_arch_stored(&a, true, SHARD_ATTN_NORM, 0, NULL, NULL, &s) && s.add == 0);
    parse(SIZES("gemma2", "46", RMS("gemma2") ",'gemma2.attention.key_length':32,'gemma2.attn_logit_softcapping':50.0,'gemma2.final_logit_softcapping':30.0,"
                                              "'gemma2.attention.sliding_window':32") "}}");
    assert_true(fabsf(a.attention_scale - 0.25f) < 1e-7f && a.attention_softcap == 50.0f && a.logit_softcap == 30.0f); /* hidden / heads = 16 */
}

static void variants_are_told_by_tensors(void **state)
{
    (void)state;
    shard_stored s;
    parse(SIZES("falcon", "2", LN("falcon")) ",'blk.0.attn_norm_2.weight':[64],'output.weight':[128,64]}}");
    assert_true(a.mlp_norm && a.parallel_block && a.n_kv_heads == 2);
    assert_true(shard_arch_stored(&a, true, SHARD_ATTN_NORM, 0, NULL, NULL, &s));
    assert_string_equal(s.name, "blk.0.attn_norm_2.weight");
    parse(SIZES("falcon", "2", LN("falcon")) "}}");
    assert_true(!a.mlp_norm && a.parallel_block);
    parse(SIZES("command-r", "2", LN("command-r") ",'command-r.logit_scale':0.0625") ",'blk.0.attn_q_norm.weight':[4,16]}}");
    assert_true(a.qk_norm == SHARD_QK_NORM_HEAD_LAYER && a.logit_multiplier == 0.0625f && a.ropes[0].interleaved);
    parse(SIZES("olmo2", "4", RMS("olmo2") ",'olmo2.attention.sliding_window':16,'olmo2.attention.sliding_window_pattern':[true,true,true,false]") "}}");
    assert_string_equal(a.family, "olmo3");
    assert_true(a.layers[2].window == 16 && a.layers[3].window == 0);
    parse(SIZES("olmo2", "4", RMS("olmo2")) "}}");
    assert_string_equal(a.family, "olmo2");
    parse(SIZES("granite", "2", RMS("granite") ",'granite.logit_scale':8.0,'granite.attention.scale':0.0078125,'granite.residual_scale':0.22,"
                                               "'granite.embedding_scale':12.0") "}}");
    assert_true(a.logit_multiplier == 0.125f && a.attention_scale == 0.0078125f && a.residual_multiplier == 0.22f && a.embed_multiplier == 12.0f);
    parse(SIZES("qwen2", "2", RMS("qwen2") ",'qwen2.rope.scaling.type':'yarn','qwen2.rope.scaling.factor':4.0,'qwen2.rope.scaling.original_context_length':128")
          ",'blk.0.attn_q.bias':[64],'blk.0.attn_k.bias':[32],'blk.0.attn_v.bias':[32]}}");
    assert_true(a.ropes[0].scaling == SHARD_ROPE_YARN && a.q_bias && a.max_positions == 512);
    assert_true(fabsf(a.ropes[0].attention_factor[0] - (1 + 0.1f * logf(4))) < 1e-6f);
}

static const struct {
    const char *text;
    status code;
    const char *message;
} hostile[] = {
    {"{'kv':{},'tensors':{}}", ST_FORMAT, "general.architecture"},
    {"{'kv':{'general.architecture':'deepseek2'},'tensors':{}}", ST_UNSUPPORTED, "latent attention"},
    {"{'kv':{'general.architecture':'gpt-oss'},'tensors':{}}", ST_UNSUPPORTED, "experts"},
    {"{'kv':{'general.architecture':'nonesuch'},'tensors':{}}", ST_UNSUPPORTED, "nonesuch"},
    {"{'kv':{'general.architecture':'llama'},'tensors':{}}", ST_FORMAT, "llama.block_count is missing"},
    {"{'kv':{'general.architecture':'llama','llama.block_count':100000},'tensors':{}}", ST_FORMAT, "llama.block_count is 100000"},
    {SIZES("llama", "2", ",'llama.expert_count':8") "}}", ST_UNSUPPORTED, "llama.expert_count is 8"},
    {SIZES("llama", "2", ",'llama.rope.freq_base':-3.0") "}}", ST_FORMAT, "llama.rope.freq_base"},
    {SIZES("llama", "2", ",'llama.attention.layer_norm_rms_epsilon':-3.0") "}}", ST_FORMAT, "rms_norm_eps"},
    {SIZES("llama", "2", ",'llama.attention.key_length':16,'llama.attention.value_length':8") "}}", ST_UNSUPPORTED, "value_length"},
    {SIZES("llama", "2", ",'llama.rope.dimension_count':99") "}}", ST_FORMAT, "rope.dimension_count"},
    {SIZES("llama", "2", "") ",'rope_freqs.weight':[1.0,2.0]}}", ST_FORMAT, "short_factor"},
    {SIZES("llama", "2", "") ",'rope_freqs.weight':[1000000,3]}}", ST_FORMAT, "rope_freqs.weight"},
    {"{'kv':{'general.architecture':'llama','llama.block_count':2,'llama.attention.head_count_kv':[2,4]},'tensors':{}}", ST_UNSUPPORTED, "differs from layer"},
};

static void hostile_metadata_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        status_mute();
        status st = read_gguf(hostile[i].text);
        status_unmute();
        if (st != hostile[i].code || strstr(status_message(), hostile[i].message) == NULL || strstr(status_message(), "model.gguf") == NULL)
            fail_msg("%s\n  gave %s: %s\n  wanted ...%s...", hostile[i].text, status_text(st), status_message(), hostile[i].message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_rows_are_in_rotary_pairs), cmocka_unit_test(llama3_factors_come_as_a_tensor), cmocka_unit_test(phi3_has_two_sets_of_factors),
        cmocka_unit_test(gemma_defaults_are_filled_in),   cmocka_unit_test(variants_are_told_by_tensors),    cmocka_unit_test(hostile_metadata_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
