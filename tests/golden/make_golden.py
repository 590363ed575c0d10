#!/usr/bin/env python3
"""Makes the tiny checkpoints of this folder that golden tests run on, and ropes.json.

    make_golden.py [--only NAME ...] [--out DIR]     checkpoints with config.json, model.safetensors, golden.json
    make_golden.py --ropes                           ropes.json: the reference's rotary frequencies

Needs torch and transformers (tests do not: their results are committed).  Weights are random, but no tensor keeps a value
that hides a mistake in it: norm weights are far from 1, biases from 0, clips and multipliers bite.  The goldens are computed
in float32 on a CPU with eager attention (but where a spec says why not), the whole sequence at every step, from the weights as stored.

golden.json: about; records of three prompts: input_ids, logits of the last two positions, argmax_at_each_position,
next_token_logprobs, greedy_ids (24, end tokens not obeyed) and greedy_margins (first minus second logit).
"""
import argparse
import json
import math
import os
import shutil

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "qwen2-7h1kv")        # its small byte-level tokenizer (512 entries) serves all
SHORT = "The quick brown fox"
LONG = ("def heappush(heap, item):\n    heap.append(item)\n    _siftdown(heap, 0, len(heap)-1)\n\nArrays for which a[k] <= a[2*k+1] "
        "and a[k] <= a[2*k+2] for all k, counting elements from 0. Ünïcode: 東京 🙂.")
LONG_TOKENS, STEPS, MARGIN, TRIES = 70, 24, 0.03, 8


def plain(theta=10000.0, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


def yarn(**more):
    return {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
            "beta_slow": 1.0, **more}


def spec(name, config, note, legacy=True, dtype="bfloat16", attention="eager", **args):
    return dict(name=name, config=config, note=note, legacy=legacy, dtype=dtype, attention=attention, args={"max_position_embeddings": 256, **args})


# Head counts are odd where a family allows it, layers enough for two or four stages.
SPECS = [
    spec("llama-dynamic-rope", "LlamaConfig", "dynamic NTK scaling: beyond 35 positions the base grows with the sequence; the long prompt is as "
         "long as factor * max_position_embeddings, so that its logits are those of the longest sequence; its continuation grows further",
         hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, max_position_embeddings=35,
         rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}),
    spec("llama-yarn", "LlamaConfig", "yarn with the attention factor given", hidden_size=60, intermediate_size=72, num_hidden_layers=3,
         num_attention_heads=5, num_key_value_heads=5, head_dim=16, tie_word_embeddings=True, rope_parameters=yarn(attention_factor=1.3)),
    spec("llama-longrope", "LlamaConfig", "longrope: short factors up to 32 positions, long ones beyond; factor given", hidden_size=48,
         intermediate_size=80, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True,
         rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
                          "short_factor": [1.0, 1.1, 1.25, 1.5], "long_factor": [1.2, 2.0, 3.5, 7.0]}),
    spec("qwen2-upper-window", "Qwen2Config", "a window of 16 on layers 1 and up", hidden_size=60, intermediate_size=72, num_hidden_layers=3,
         num_attention_heads=5, num_key_value_heads=1, use_sliding_window=True, sliding_window=16, max_window_layers=1, tie_word_embeddings=True,
         rope_parameters=plain(1e6)),
    spec("ministral", "MinistralConfig", "windows by layer_types", legacy=False, hidden_size=60, intermediate_size=72, num_hidden_layers=4,
         num_attention_heads=3, num_key_value_heads=1, head_dim=16, sliding_window=16, tie_word_embeddings=True,
         layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"], rope_parameters=plain()),
    spec("gemma", "GemmaConfig", "norms of 1 + w, embeddings times sqrt(hidden), one KV head", hidden_size=60, intermediate_size=96,
         num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1, head_dim=24, rope_parameters=plain()),
    spec("olmo", "OlmoConfig", "LayerNorm without weight; clipped q, k, v", hidden_size=60, intermediate_size=72, num_hidden_layers=3,
         num_attention_heads=5, num_key_value_heads=1, clip_qkv=1.5, rope_parameters=plain()),
    spec("olmo3", "Olmo3Config", "windows of 16 with unscaled rope, full layers with yarn; norms after only; q/k norm over all heads", legacy=False,
         hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, sliding_window=16,
         rope_parameters={"sliding_attention": plain(500000.0), "full_attention": {**yarn(), "rope_theta": 500000.0}}),
    spec("phi", "PhiConfig", "parallel block; part of each head rotates; biases everywhere, head too", hidden_size=48, intermediate_size=192,
         num_hidden_layers=3, num_attention_heads=3, rope_parameters=plain(partial_rotary_factor=0.4), num_key_value_heads=3, hidden_act="gelu_new"),
    spec("phi3-partial", "Phi3Config", "fused projections, three quarters of each head rotate, window of 20, tied (as Phi-4 mini)", legacy=False,
         hidden_size=64, intermediate_size=72, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, sliding_window=20,
         rope_parameters=plain(partial_rotary_factor=0.75), tie_word_embeddings=True),
    spec("granite", "GraniteConfig", "multipliers on embedding, attention, residual and logits", hidden_size=60, intermediate_size=72,
         num_hidden_layers=3, num_attention_heads=5, num_key_value_heads=1, embedding_multiplier=2.5, attention_multiplier=0.2,
         residual_multiplier=0.6, logits_scaling=1.7, tie_word_embeddings=True, rope_parameters=plain()),
    spec("stablelm", "StableLmConfig", "LayerNorm with bias, a quarter of each head rotates, bias on q, k, v", hidden_size=48,
         intermediate_size=80, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3, use_qkv_bias=True,
         rope_parameters=plain(partial_rotary_factor=0.25)),
    spec("stablelm-parallel-qknorm", "StableLmConfig", "parallel block with one norm; a LayerNorm with its own weight for each q and k head",
         hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, qk_layernorm=True,
         use_parallel_residual=True, rope_parameters=plain(partial_rotary_factor=0.5)),
    spec("starcoder2", "Starcoder2Config", "LayerNorm, biases, window of 16, tied", hidden_size=60, intermediate_size=120, num_hidden_layers=3,
         num_attention_heads=5, num_key_value_heads=1, sliding_window=16, rope_parameters=plain(100000.0)),
    spec("gpt-neox-parallel", "GPTNeoXConfig", "q, k, v together for each head; parallel block with two norms; a quarter of each head rotates",
         hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=3, rope_parameters=plain(partial_rotary_factor=0.25)),
    spec("gpt-neox-sequential", "GPTNeoXConfig", "sequential block, whole heads rotate", legacy=False, hidden_size=48, intermediate_size=96,
         num_hidden_layers=2, num_attention_heads=4, use_parallel_residual=False, rope_parameters=plain(partial_rotary_factor=1.0)),
    spec("falcon-multiquery", "FalconConfig", "7B's layout: one KV head, parallel block with one norm", hidden_size=60, num_hidden_layers=3,
         num_attention_heads=5, rope_parameters=plain()),
    spec("falcon-grouped", "FalconConfig", "40B's layout: q, k, v by KV group, parallel block with two norms", hidden_size=48,
         num_hidden_layers=3, num_attention_heads=6, num_kv_heads=2, new_decoder_architecture=True, rope_parameters=plain()),
    spec("falcon-grouped-one-norm", "FalconConfig", "11B's layout: q, k, v by KV group, one norm; a width of its own", legacy=False,
         hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_kv_heads=3, new_decoder_architecture=True, num_ln_in_parallel_attn=1,
         ffn_hidden_size=112, tie_word_embeddings=False, rope_parameters=plain(500000.0)),
    spec("falcon-rw-alibi", "FalconConfig", "alibi, added before the scale; sequential block, biases, q, k, v for each head (made with sdpa "
         "attention: transformers 5's eager path adds alibi twice)", attention="sdpa", hidden_size=60,
         num_hidden_layers=2, num_attention_heads=5, alibi=True, bias=True, multi_query=False, parallel_attn=False),
    spec("cohere-qknorm", "CohereConfig", "parallel block, LayerNorm without bias, interleaved rope, logit_scale, a LayerNorm weight for each q and k head",
         hidden_size=60, intermediate_size=72, num_hidden_layers=3, num_attention_heads=5, num_key_value_heads=1, use_qk_norm=True, logit_scale=0.7,
         rope_parameters=plain()),
    spec("cohere2", "Cohere2Config", "three windowed layers with rope, then a full one without", legacy=False, hidden_size=48, intermediate_size=80,
         num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=2, sliding_window=16, logit_scale=0.8, rope_parameters=plain()),
    spec("smollm3", "SmolLM3Config", "every fourth layer without position", hidden_size=48, intermediate_size=80, num_hidden_layers=4,
         num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=plain(2e6)),
    spec("glm", "GlmConfig", "partial interleaved rope, bias on q, k, v, fused gate and up", hidden_size=60, intermediate_size=72,
         num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=1, head_dim=16, rope_parameters=plain(partial_rotary_factor=0.5)),
    spec("glm4", "Glm4Config", "partial interleaved rope, norms before and after", hidden_size=48, intermediate_size=80, num_hidden_layers=3,
         num_attention_heads=6, num_key_value_heads=2, head_dim=16, rope_parameters=plain(partial_rotary_factor=0.5)),
    spec("nemotron", "NemotronConfig", "LayerNorm of 1 + w with bias, squared ReLU, half of each head rotates", hidden_size=60,
         intermediate_size=120, num_hidden_layers=3, num_attention_heads=5, num_key_value_heads=1,
         rope_parameters=plain(partial_rotary_factor=0.5)),
    spec("arcee", "ArceeConfig", "squared ReLU with RMS norms; yarn", hidden_size=60, intermediate_size=120, num_hidden_layers=2,
         num_attention_heads=5, num_key_value_heads=5, rope_parameters=yarn()),
    spec("seed-oss", "SeedOssConfig", "bias on q, k, v; head_dim of its own", hidden_size=48, intermediate_size=80, num_hidden_layers=2,
         num_attention_heads=5, num_key_value_heads=1, head_dim=16, rope_parameters=plain(1e7)),
    spec("exaone4", "Exaone4Config", "norms after only, q/k norm by head, windows with rope, every fourth layer full and without", legacy=False,
         hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=3, num_key_value_heads=1, sliding_window=16,
         sliding_window_pattern=4, rope_parameters=plain(1e6)),
    spec("helium", "HeliumConfig", "interleaved rope", hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
         num_key_value_heads=3, head_dim=16, rope_parameters=plain(100000.0)),
    spec("ernie4-5", "Ernie4_5Config", "interleaved rope, biases", hidden_size=48, intermediate_size=80, num_hidden_layers=2,
         num_attention_heads=3, num_key_value_heads=1, head_dim=16, use_bias=True, rope_parameters=plain(500000.0)),
    spec("exaone", "ExaoneConfig", "llama3 rope", hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
         num_key_value_heads=1, rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                                 "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
    spec("internlm3", "InternLM3Config", "head_dim of its own, dynamic rope not reached", hidden_size=48, intermediate_size=80, num_hidden_layers=2,
         num_attention_heads=3, num_key_value_heads=1, head_dim=20, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e6, "factor": 6.0}),
    spec("cwm", "CwmConfig", "one full layer, then three windows", legacy=False, hidden_size=48, intermediate_size=80, num_hidden_layers=4,
         num_attention_heads=3, num_key_value_heads=1, head_dim=16, sliding_window=16, rope_parameters=plain(1e6)),
    spec("vaultgemma", "VaultGemmaConfig", "Gemma 2 without norms after", hidden_size=60, intermediate_size=96, num_hidden_layers=2,
         num_attention_heads=3, num_key_value_heads=1, head_dim=24, sliding_window=16, query_pre_attn_scalar=30, attn_logit_softcapping=20.0,
         final_logit_softcapping=12.0, rope_parameters=plain()),
    spec("hyperclovax", "HyperCLOVAXConfig", "multipliers, norms before and after", hidden_size=48, intermediate_size=80, num_hidden_layers=2,
         num_attention_heads=6, num_key_value_heads=2, embedding_multiplier=2.5, attention_multiplier=0.2, residual_multiplier=0.6, logits_scaling=0.7,
         rope_parameters=plain()),
    spec("opt", "OPTConfig", "learned positions from 2, ReLU, biases", hidden_size=60, ffn_dim=96, num_hidden_layers=3, num_attention_heads=5,
         word_embed_proj_dim=60, max_position_embeddings=128),
    spec("bloom", "BloomConfig", "alibi after the scale, a norm after the embedding, q, k, v for each head", legacy=False, hidden_size=60, n_layer=3,
         n_head=5),
    spec("gptj", "GPTJConfig", "parallel block, 8 of 20 dimensions rotate in pairs, biases in the MLP and the head", n_embd=60, n_layer=2, n_head=3,
         max_position_embeddings=128, rotary_dim=8),
    spec("gpt-bigcode", "GPTBigCodeConfig", "learned positions, one KV head", n_embd=60, n_layer=3, n_head=5, max_position_embeddings=128),
    spec("gpt-bigcode-heads", "GPTBigCodeConfig", "q, k, v for each head", legacy=False, n_embd=48, n_layer=2, n_head=3, max_position_embeddings=128,
         multi_query=False),
]


@torch.no_grad()
def fill(model, seed):
    """Every parameter by its part: what is a norm, a bias, an embedding, a projection."""
    g = torch.Generator().manual_seed(seed)
    config = model.config
    zero_based = config.model_type in ("gemma", "vaultgemma", "nemotron")       # these multiply by 1 + w
    for name, p in sorted(model.named_parameters()):
        r = torch.randn(p.shape, generator=g)
        if name.endswith("bias"):
            r *= 0.25
        elif "norm" in name or "ln_" in name:
            r = r * 0.3 + (0.0 if zero_based else 1.0)
        elif any(s in name for s in ("embed_tokens", "embed_positions", "embed_in", "word_embeddings", "wte", "wpe")):
            r *= 1.5 / math.sqrt(config.hidden_size) if config.model_type in ("gemma", "vaultgemma") else 0.45 if config.tie_word_embeddings else 1.0
        elif name.startswith(("lm_head", "embed_out")):
            r *= 4.0 / math.sqrt(config.hidden_size)
        else:                                                     # sharper attention than a trained start would have
            sharp = any(s in name for s in ("q_proj", "k_proj", "qkv", "query_key_value", "c_attn"))
            r *= (2.2 if sharp else 1.4) / math.sqrt(p.shape[-1])
        p.copy_(r)


def old_style(path, dtype):
    """Rewrites config.json with the keys of checkpoints from before transformers 5."""
    c = json.load(open(path))
    rope = c.pop("rope_parameters", None) or {}
    partial = rope.pop("partial_rotary_factor", None)
    neox = c["model_type"] == "gpt_neox"
    if rope:
        c["rotary_emb_base" if neox else "rope_theta"] = rope.pop("rope_theta")
        c["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if partial is not None:
        c["rotary_pct" if neox else "partial_rotary_factor"] = partial
    c.pop("dtype", None)
    c["torch_dtype"], c["transformers_version"] = dtype, "4.51.0"
    json.dump(c, open(path, "w"), indent=2)


@torch.no_grad()
def record(model, name, ids):
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    logp = torch.log_softmax(logits.double(), -1)
    seq, margins = list(ids), []
    for _ in range(STEPS):
        best = torch.topk(model(torch.tensor([seq]), use_cache=False).logits[0, -1], 2)
        margins.append(round((best.values[0] - best.values[1]).item(), 5))
        seq.append(best.indices[0].item())
    return {"name": name, "input_ids": ids,
            "logits": {str(p): [float(f"{x:.6g}") for x in logits[p].tolist()] for p in range(max(0, len(ids) - 2), len(ids))},
            "argmax_at_each_position": logits.argmax(-1).tolist(),
            "next_token_logprobs": [round(logp[i, t].item(), 5) for i, t in enumerate(ids[1:])],
            "greedy_ids": seq[len(ids):], "greedy_margins": margins}


def make(s, seed, out):
    """One checkpoint from one seed; its records."""
    tok = Tokenizer.from_file(os.path.join(SOURCE, "tokenizer.json"))
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    ends = {f"{k}_token_id": tok.token_to_id(f"<|{v}|>") for k, v in (("bos", "bos"), ("eos", "end"), ("pad", "pad"))}
    config = getattr(transformers, s["config"])(vocab_size=tok.get_vocab_size(), **ends, **s["args"])
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    fill(model, seed)
    model.to(getattr(torch, s["dtype"])).save_pretrained(out)
    if s["legacy"]:
        old_style(os.path.join(out, "config.json"), s["dtype"])
    for f in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join(SOURCE, f), out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation=s["attention"]).eval()
    prompts = [("short", tok.encode(SHORT).ids), ("one token", [ends["bos_token_id"]]), ("long", tok.encode(LONG).ids[:LONG_TOKENS])]
    return model, [record(model, n, ids) for n, ids in prompts]


def checkpoint(s, out_root):
    """The first seed whose greedy choices are all clear, else the clearest of those tried."""
    out, seed0 = os.path.join(out_root, s["name"]), 1000 + sum(map(ord, s["name"]))
    best = (-1.0, 0)
    for attempt in range(TRIES + 1):
        seed = seed0 + (attempt if attempt < TRIES else best[1])
        model, records = make(s, seed, out)
        worst = min(min(r["greedy_margins"]) for r in records)
        best = max(best, (worst, attempt))
        if worst > MARGIN or attempt == TRIES:
            break
    about = {"family": s["config"], "torch": torch.__version__, "transformers": transformers.__version__, "weights_stored_as": s["dtype"],
             "compute": f"float32, CPU, {s['attention']} attention, batch 1, no cache", "seed": seed, "parameters": sum(p.numel() for p in model.parameters()),
             "smallest_greedy_margin": worst, "note": s["note"]}
    with open(os.path.join(out, "golden.json"), "w") as f:
        f.write('{"about": ' + json.dumps(about) + ',\n"records": [\n' + ",\n".join(map(json.dumps, records)) + "\n]}\n")
    size = os.path.getsize(os.path.join(out, "model.safetensors"))
    print(f"{s['name']:26s} {size:7d} bytes, seed +{seed - seed0}, margin {worst}, spread "
          f"{torch.tensor(list(records[2]['logits'].values())[-1]).std():.2f}, greedy {records[2]['greedy_ids'][:6]}", flush=True)


# ---- ropes.json ----

def factors(n, last):
    return [round(1.0 + (last - 1.0) * (i / (n - 1)) ** 2, 4) for i in range(n)]


def rope_case(name, config, lengths, legacy=True, layers=(0,), **args):
    base = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=64)
    return dict(name=name, config=config, lengths=lengths, legacy=legacy, layers=layers, args={**base, **args})


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
ROPES = [
    rope_case("plain", "LlamaConfig", [10], head_dim=128, rope_parameters=plain(500000.0)),
    rope_case("plain-new", "LlamaConfig", [10], legacy=False, head_dim=64, rope_parameters=plain(1e7)),
    rope_case("linear", "LlamaConfig", [10], head_dim=64, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}),
    rope_case("dynamic", "LlamaConfig", [100, 2048, 8192], head_dim=128, max_position_embeddings=2048,
              rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}),
    rope_case("llama3", "LlamaConfig", [10], head_dim=128, max_position_embeddings=131072, rope_parameters=LLAMA3),
    rope_case("llama3-new", "LlamaConfig", [10], legacy=False, head_dim=64, max_position_embeddings=131072,
              rope_parameters={**LLAMA3, "factor": 32.0}),
    rope_case("yarn-qwen", "Qwen2Config", [10], hidden_size=256, max_position_embeddings=32768,
              rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}),
    rope_case("yarn-mscale", "LlamaConfig", [10], head_dim=64, max_position_embeddings=163840,
              rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32,
                               "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707}),
    rope_case("yarn-untruncated", "LlamaConfig", [10], legacy=False, head_dim=64, max_position_embeddings=131072,
              rope_parameters={"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                               "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}),
    rope_case("longrope-phi3", "Phi3Config", [4096, 4097], hidden_size=192, max_position_embeddings=131072, pad_token_id=0,
              original_max_position_embeddings=4096, rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0,
              "short_factor": factors(48, 2.8), "long_factor": factors(48, 64.0), "original_max_position_embeddings": 4096}),
    rope_case("longrope-partial", "Phi3Config", [100, 5000], legacy=False, hidden_size=256, max_position_embeddings=131072, pad_token_id=0,
              original_max_position_embeddings=4096, rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
              "short_factor": factors(48, 1.0), "long_factor": factors(48, 48.0), "original_max_position_embeddings": 4096}),
    rope_case("gemma3", "Gemma3TextConfig", [10], layers=(0, 5), num_hidden_layers=6, head_dim=256,
              rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, "sliding_attention": plain()}),
    rope_case("gemma3-new", "Gemma3TextConfig", [10], legacy=False, layers=(0, 5), num_hidden_layers=6, head_dim=256,
              rope_parameters={"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, "sliding_attention": plain()}),
    rope_case("olmo3", "Olmo3Config", [10], layers=(0, 3), num_hidden_layers=4, hidden_size=256, max_position_embeddings=65536,
              rope_parameters={"full_attention": {**yarn(), "rope_theta": 500000.0, "factor": 8.0, "original_max_position_embeddings": 8192,
                                                  "attention_factor": 1.2079441541679836}, "sliding_attention": plain(500000.0)}),
    rope_case("partial", "GPTNeoXConfig", [10], hidden_size=160, rope_parameters=plain(partial_rotary_factor=0.25)),
]


@torch.no_grad()
def rope_frequencies(case):
    config = getattr(transformers, case["config"])(**case["args"])
    model = transformers.AutoModel.from_config(config)
    path = os.path.join("/tmp", f"rope-{os.getpid()}")
    config.save_pretrained(path)
    written = json.load(open(os.path.join(path, "config.json")))
    if case["legacy"] and "full_attention" in written["rope_parameters"]:
        rope = written.pop("rope_parameters")
        full, local = rope["full_attention"], rope["sliding_attention"]
        written["rope_theta"] = full.pop("rope_theta")
        if written["model_type"] == "gemma3_text":
            written["rope_local_base_freq"] = local["rope_theta"]
        written["rope_scaling"] = full
    elif case["legacy"]:
        old_style(os.path.join(path, "config.json"), "float32")
        written = json.load(open(os.path.join(path, "config.json")))
    shutil.rmtree(path)
    found, rotary = [], model.rotary_emb
    for layer in case["layers"]:
        for length in case["lengths"]:
            kind = (config.layer_types[layer],) if isinstance(getattr(rotary, "rope_type", None), dict) else ()
            rotary(torch.zeros(1, 1, 8), torch.arange(length).unsqueeze(0), *kind)
            prefix = kind[0] + "_" if kind else ""
            found.append({"layer": layer, "length": length, "inv_freq": [float(f"{x:.9g}") for x in getattr(rotary, prefix + "inv_freq").tolist()],
                          "attention_factor": float(getattr(rotary, prefix + "attention_scaling"))})
    return {"name": case["name"], "config": written, "ropes": found}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", nargs="*")
    ap.add_argument("--out", default=HERE)
    ap.add_argument("--ropes", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(1)
    if args.ropes:
        with open(os.path.join(args.out, "ropes.json"), "w") as f:
            f.write("[\n" + ",\n".join(json.dumps(rope_frequencies(c)) for c in ROPES) + "\n]\n")
        return
    for s in SPECS:
        if not args.only or s["name"] in args.only:
            checkpoint(s, args.out)


if __name__ == "__main__":
    main()
