"""Checkpoints in fp8 (e4m3), with scales for blocks, rows or whole tensors as DeepSeek, compressed-tensors and others write them: each gives, bit for bit, the logits of the
same weights multiplied out and stored as f32, on every split and instruction set, and from a folder that `trireme shard` wrote (with --device cuda, whose sums of the two have another order: the same tokens).  What contradicts itself is refused by name.
"""
import argparse
import json
import pathlib
import tempfile

import numpy as np
from run import Failed, Report, generate, run

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CHANNELS, LAYERS, VOCAB, BLOCK = 512, 12, 3, 64, 832, 2, 512, 128  # two ranks cut the channels inside a block
MATRICES = {"self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN), "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN), "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM), "mlp.gate_proj": (CHANNELS, HIDDEN), "mlp.up_proj": (CHANNELS, HIDDEN), "mlp.down_proj": (HIDDEN, CHANNELS)}
QUANTISATION = {
    "block": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
    "row": {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {"targets": ["Linear"]}}},
    "tensor": {"quant_method": "fp8", "activation_scheme": "static"},
}


def e4m3_values():
    """The value of each byte: sign, four bits of exponent (bias 7), three of fraction."""
    out = np.zeros(256, np.float32)
    for b in range(256):
        e, m = b >> 3 & 15, b & 7
        v = m / 8 * 2.0 ** -6 if e == 0 else (1 + m / 8) * 2.0 ** (e - 7)
        out[b] = np.nan if b & 127 == 127 else -v if b & 128 else v
    return out


VALUES = e4m3_values()


def bf16(x):
    return (np.asarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write(folder, tensors, quantisation):
    """tensors: name -> (dtype, shape, array)"""
    folder.mkdir(parents=True)
    header, data = {}, b""
    for name, (dtype, shape, x) in tensors.items():
        raw = np.ascontiguousarray(x).tobytes()
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
              "intermediate_size": CHANNELS, "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
    if quantisation is not None:
        config["quantization_config"] = quantisation
    (folder / "config.json").write_text(json.dumps(config))


def checkpoint(style, seed=5):
    """(tensors in fp8, the same multiplied out)"""
    rng = np.random.default_rng(seed)
    small, large = {}, {}

    def both(name, dtype, shape, x):
        small[name] = large[name] = (dtype, shape, x)

    both("model.embed_tokens.weight", "BF16", (VOCAB, HIDDEN), bf16(rng.normal(0, 1, (VOCAB, HIDDEN))))
    both("lm_head.weight", "BF16", (VOCAB, HIDDEN), bf16(rng.normal(0, 0.05, (VOCAB, HIDDEN))))
    both("model.norm.weight", "F32", (HIDDEN,), rng.uniform(0.8, 1.2, HIDDEN).astype(np.float32))
    for layer in range(LAYERS):
        p = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            both(f"{p}{norm}.weight", "F32", (HIDDEN,), rng.uniform(0.8, 1.2, HIDDEN).astype(np.float32))
        for name, (rows, cols) in MATRICES.items():
            codes = rng.integers(0, 256, (rows, cols), dtype=np.uint8)
            codes[codes & 127 == 127] = 0x3c
            codes = np.where(codes & 127 > 0x70, codes - 0x30, codes).astype(np.uint8)  # few huge ones
            shape = {"block": (-(-rows // BLOCK), -(-cols // BLOCK)), "row": (rows, 1), "tensor": ()}[style]
            scale = (rng.uniform(0.5, 1.5, shape) * 6e-3).astype(np.float32)
            if style == "row":
                stored = bf16(scale)
                scale = (stored.astype(np.uint32) << 16).view(np.float32)
                entry = ("BF16", shape, stored)
            else:
                entry = ("F32", shape, scale)
            each = np.repeat(np.repeat(scale, BLOCK, 0), BLOCK, 1)[:rows, :cols] if style == "block" else scale
            small[f"{p}{name}.weight"] = ("F8_E4M3", (rows, cols), codes)
            small[f"{p}{name}.weight_scale" + ("_inv" if style == "block" else "")] = entry
            large[f"{p}{name}.weight"] = ("F32", (rows, cols), (VALUES[codes] * each).astype(np.float32))
            if style == "tensor":  # of activations, which stay as they are
                small[f"{p}{name}.input_scale"] = ("F32", (), np.float32(0.5))
    return small, large


def requests():
    rng = np.random.default_rng(3)
    return [{"id": i, "prompt_ids": rng.integers(3, VOCAB, n).tolist(), "max_tokens": 6, "ignore_eos": True, "temperature": 0} for i, n in enumerate([1, 5, 17, 40])]


def outcome(answers, device="cpu"):
    return [(a["token_ids"], a["logits_hash"] if device == "cpu" else "") for a in answers]


def check_style(a, report, folder, style):
    small, large = checkpoint(style)
    write(folder / "fp8", small, QUANTISATION[style])
    write(folder / "f32", large, None)
    asked, base = requests(), ("--ctx", "128", "--max-seqs", "4", "--device", a.device)
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        for isa in a.isas.split(",") + [""] if split == "1x1" and a.device == "cpu" else [""]:
            program, env = (a.emulated or a.trireme, {"TRIREME_ISA": isa}) if isa else (a.trireme, None)
            want, got = (outcome(generate(program, folder / kind, asked, tp, pp, base, env), a.device) for kind in ("f32", "fp8"))
            report.check(got == want, f"fp8 by {style}, {split} {isa}: tokens or logits differ from f32: {got} {want}")
        cut = folder / f"cut-{split}"
        code, _, err = run(a.trireme, ["shard", folder / "fp8", cut, "--tp", tp, "--pp", pp, "--quiet"])
        if report.check(code == 0, f"fp8 by {style}: shard {split}: {err[-500:]}"):
            report.check(outcome(generate(a.trireme, cut, asked, tp, pp, base), a.device) == want, f"fp8 by {style}, cut for {split}: tokens or logits differ")
    args = (*base, "--compute", "f32")
    if a.device != "cpu":
        return
    try:
        report.check(outcome(generate(a.trireme, folder / "fp8", asked, args=args)) == outcome(generate(a.trireme, folder / "f32", asked, args=args)), f"fp8 by {style}, as f32: differ")
    except Failed as e:
        report.check(False, str(e))


def check_company(a, report, folder, style):
    """By cuBLASLt activations are rounded to fp8 as well, each row by itself: the same bits alone and in company."""
    write(folder / "fp8", checkpoint(style)[0], QUANTISATION[style])
    asked, base = requests(), ("--ctx", "128", "--device", a.device, "--gemm", "cublaslt", "--stats")
    for split in a.splits.split(","):
        tp, pp = map(int, split.split("x"))
        said = []
        alone = [outcome(generate(a.trireme, folder / "fp8", [r], tp, pp, (*base, "--max-seqs", "1"), said=said))[0] for r in asked]
        together = outcome(generate(a.trireme, folder / "fp8", asked, tp, pp, (*base, "--max-seqs", "4")))
        report.check(alone == together, f"fp8 by {style}, {split}, cuBLASLt: alone {alone}, together {together}")
        own = outcome(generate(a.trireme, folder / "fp8", asked, tp, pp, (*base[:-3], "--gemm", "own", "--max-seqs", "4")))
        report.check(own != together, f"fp8 by {style}, {split}: cuBLASLt and the own kernels have the same bits: {said[0][-500:]}")


def refused(a, report, folder, what, tensors, quantisation, text):
    write(folder, tensors, quantisation)
    code, _, err = run(a.trireme, ["generate", "-m", folder, "--prompts", "-", "--json"], stdin=json.dumps(requests()[0]) + "\n")
    report.check(code != 0 and text in err, f"{what}: exit code {code}: {err[-500:]}")


def check_refusals(a, report, folder):
    block, q = checkpoint("block")[0], QUANTISATION["block"]
    name = "model.layers.1.mlp.up_proj.weight"
    dtype, shape, codes = block[name]
    codes = codes.copy()
    codes[7, 300] = 0x7f
    refused(a, report, folder / "nan", "a weight that is no number", {**block, name: (dtype, shape, codes)}, q, name)
    dtype, shape, scales = block[name + "_scale_inv"]
    bad = scales.copy()
    for value, what in ((np.inf, "a scale that is no number"), (1e36, "a scale beyond what weights have")):
        bad[0, 1] = value
        refused(a, report, folder / f"{value}", what, {**block, name + "_scale_inv": (dtype, shape, bad)}, q, name + "_scale_inv")
    refused(a, report, folder / "lost", "scales that are not there", {k: v for k, v in block.items() if k != name + "_scale_inv"}, q, name + " is fp8")
    refused(a, report, folder / "shape", "scales for other blocks", block, {**q, "weight_block_size": [64, 128]}, "cannot be the scales of a weight")
    refused(a, report, folder / "narrow", "blocks that are too narrow", block, {**q, "weight_block_size": [128, 64]}, "multiples of 128")
    refused(a, report, folder / "e5m2", "another fp8", {**block, name: ("F8_E5M2", *block[name][1:])}, q, "F8_E5M2")
    refused(a, report, folder / "int8", "whole numbers", block, {"quant_method": "compressed-tensors", "format": "int-quantized"}, "compressed-tensors")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--styles", default="block,row,tensor")
    p.add_argument("--splits", default="1x1,2x1,1x2,2x2")
    p.add_argument("--isas", default="c,avx2")
    p.add_argument("--emulated", help="the program for instruction sets that this processor may lack")
    p.add_argument("--device", default="cpu")
    p.add_argument("--company", action="store_true", help="on a device that multiplies fp8, by cuBLASLt: alone against in company")
    a = p.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as d:
        for style in a.styles.split(","):
            (check_company if a.company else check_style)(a, report, pathlib.Path(d) / style, style)
        if a.device == "cpu":
            check_refusals(a, report, pathlib.Path(d))
    report.end()


if __name__ == "__main__":
    main()
