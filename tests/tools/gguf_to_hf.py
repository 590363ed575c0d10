#!/usr/bin/env python3
"""Converts a llama-family GGUF file with a byte-level BPE tokenizer into a Hugging Face directory, for tests.

    gguf_to_hf.py FILE.gguf OUT_DIR [--dtype bf16|f32|f16]

Weights are the file's, dequantised: f32 keeps them exactly, the others round to nearest even.  Needs numpy, gguf, tokenizers.
"""
import argparse
import json
import pathlib
import struct

import numpy
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

DTYPES = {"f32": ("F32", "float32"), "f16": ("F16", "float16"), "bf16": ("BF16", "bfloat16")}
LAYER_PARTS = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # GGUF's token type of special tokens


class Metadata:
    def __init__(self, reader):
        self.fields = reader.fields
        self.architecture = self["general.architecture"]

    def __getitem__(self, key):
        return self.fields[key].contents()

    def get(self, key):
        return self[key] if key in self.fields else None

    def model(self, key):
        return self[f"{self.architecture}.{key}"]


def hf_name(name):
    fixed = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    if name in fixed:
        return fixed[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_PARTS[part]}.{kind}"


def halves(weight, heads):
    """GGUF keeps the two members of a rotary pair in neighbouring rows; Hugging Face keeps them half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(0, 2, 1, 3).reshape(rows, columns)


def as_bytes(array, dtype):
    array = numpy.ascontiguousarray(array, dtype=numpy.float32)
    if dtype == "f32":
        return array.tobytes()
    if dtype == "f16":
        return array.astype(numpy.float16).tobytes()
    bits = array.view(numpy.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(numpy.uint16).tobytes()


def tensors_of(reader, meta):
    heads = {"attn_q": meta.model("attention.head_count"), "attn_k": meta.model("attention.head_count_kv")}
    for tensor in reader.tensors:
        weight = numpy.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32).reshape([int(n) for n in reversed(tensor.shape)])
        part = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        yield hf_name(tensor.name), halves(weight, heads[part]) if part in heads else weight


def write_safetensors(path, tensors, dtype):
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, weight in sorted(tensors):
        blob = as_bytes(weight, dtype)
        header[name] = {"dtype": DTYPES[dtype][0], "shape": list(weight.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            f.write(blob)


def config_of(meta, tied, dtype):
    hidden, heads = meta.model("embedding_length"), meta.model("attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": meta.model("feed_forward_length"),
        "num_hidden_layers": meta.model("block_count"), "num_attention_heads": heads, "num_key_value_heads": meta.model("attention.head_count_kv"),
        "head_dim": hidden // heads, "vocab_size": len(meta["tokenizer.ggml.tokens"]), "max_position_embeddings": meta.model("context_length"),
        "rms_norm_eps": round(float(meta.model("attention.layer_norm_rms_epsilon")), 12), "rope_theta": float(meta.model("rope.freq_base")),
        "rope_scaling": None, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"], "eos_token_id": meta["tokenizer.ggml.eos_token_id"], "torch_dtype": DTYPES[dtype][1],
    }


def tokenizer_of(meta):
    words, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word, kind in zip(words, kinds) if kind == CONTROL])
    return tokenizer


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf")
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--dtype", choices=DTYPES, default="bf16")
    a = p.parse_args()
    reader = GGUFReader(a.gguf)
    meta = Metadata(reader)
    if meta.architecture != "llama" or meta["tokenizer.ggml.model"] != "gpt2":
        raise SystemExit(f"error: {a.gguf}: only the llama layout with a byte-level BPE tokenizer is converted, not {meta.architecture}")
    a.out.mkdir(parents=True, exist_ok=True)
    tensors = list(tensors_of(reader, meta))
    write_safetensors(a.out / "model.safetensors", tensors, a.dtype)
    tokenizer_of(meta).save(str(a.out / "tokenizer.json"))
    words = meta["tokenizer.ggml.tokens"]
    tokens = {"bos_token": words[meta["tokenizer.ggml.bos_token_id"]], "eos_token": words[meta["tokenizer.ggml.eos_token_id"]]}
    files = {
        "tokenizer_config.json": {**tokens, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": meta.get("tokenizer.chat_template")},
        "generation_config.json": {k: meta[f"tokenizer.ggml.{k}"] for k in ("bos_token_id", "eos_token_id")},
        "config.json": config_of(meta, not any(name == "lm_head.weight" for name, _ in tensors), a.dtype),  # last: its presence says that all is there
    }
    for name, content in files.items():
        (a.out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{a.out}: {len(tensors)} tensors as {a.dtype}")


if __name__ == "__main__":
    main()
