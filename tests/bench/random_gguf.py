#!/usr/bin/env python3
"""Writes a GGUF file of random weights in the shape of a real checkpoint, for measuring speed without downloading one.

    random_gguf.py OUT.gguf [--shape 1b] [--type q4_0]
    random_gguf.py OUT.gguf --type q4_k_m --quantize PATH/llama-quantize

Types that the Python package gguf packs (bf16 f16 q8_0 q4_0 q4_1 q5_0 q5_1) are made here, every matrix alike, the tied head included; others by llama.cpp's
llama-quantize from a bf16 file beside OUT.  Needs numpy and gguf.  Layers of one shape hold the same random numbers: each has pages of its own all the same.
"""
import argparse
import os
import subprocess

import gguf
import numpy as np

# hidden, layers, heads, KV heads, intermediate, vocabulary
SHAPES = {
    "1b": (2048, 16, 32, 8, 8192, 128256),   # Llama-3.2-1B
    "3b": (3072, 28, 24, 8, 8192, 128256),   # Llama-3.2-3B
    "8b": (4096, 32, 32, 8, 14336, 128256),  # Llama-3.1-8B
    "tiny": (256, 2, 4, 2, 512, 1024),
}


def byte_tokens():
    """The 256 bytes as GPT-2 writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    text, n = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in text:
            text[b] = chr(256 + n)
            n += 1
    return [text[b] for b in range(256)]


def add_vocabulary(w, n):
    tokens = byte_tokens() + ["\u0120t"]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    tokens += [f"<|{i}|>" for i in range(len(tokens), n)]
    kinds += [gguf.TokenType.CONTROL] * (n - len(kinds))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("llama-bpe")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(["\u0120 t"])
    w.add_bos_token_id(n - 2)
    w.add_eos_token_id(n - 1)


def write(path, shape, kind):
    hidden, layers, heads, kv_heads, wide, vocabulary = SHAPES[shape]
    head = hidden // heads
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(f"random {shape}")
    w.add_context_length(131072)
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(wide)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(head)
    w.add_rope_freq_base(500000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocabulary)
    w.add_file_type(getattr(gguf.LlamaFileType, ("ALL_F32" if kind == "f32" else "MOSTLY_" + kind.upper())))
    add_vocabulary(w, vocabulary)
    rng, packed = np.random.default_rng(1), {}

    def matrix(name, rows, cols):
        if (rows, cols) not in packed:
            m = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(cols ** -0.5)
            packed[rows, cols] = gguf.quants.quantize(m, gguf.GGMLQuantizationType[kind.upper()])
        w.add_tensor(name, packed[rows, cols], raw_dtype=gguf.GGMLQuantizationType[kind.upper()])

    matrix("token_embd.weight", vocabulary, hidden)
    w.add_tensor("output_norm.weight", np.ones(hidden, dtype=np.float32))
    for i in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            w.add_tensor(f"blk.{i}.{name}.weight", np.ones(hidden, dtype=np.float32))
        for name, rows, cols in (("attn_q", heads * head, hidden), ("attn_k", kv_heads * head, hidden), ("attn_v", kv_heads * head, hidden), ("attn_output", hidden, heads * head),
                                 ("ffn_gate", wide, hidden), ("ffn_up", wide, hidden), ("ffn_down", hidden, wide)):
            matrix(f"blk.{i}.{name}.weight", rows, cols)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--shape", choices=SHAPES, default="1b")
    p.add_argument("--type", default="q4_0")
    p.add_argument("--quantize", help="llama.cpp's llama-quantize, for types that are not made here")
    a = p.parse_args()
    if not a.quantize:
        write(a.out, a.shape, a.type.lower())
        return
    whole = a.out + ".bf16"
    if not os.path.exists(whole):
        write(whole, a.shape, "bf16")
    subprocess.run([a.quantize, whole, a.out, a.type.upper()], check=True)
    os.remove(whole)


if __name__ == "__main__":
    main()
