#!/usr/bin/env python3
"""Converts tiny checkpoints of this folder to GGUF with llama.cpp's own converter, so that GGUF's tensor orders are tested against files that
nobody here wrote.

    make_gguf.py --llama-cpp DIR [--out DIR] [NAME ...]

DIR holds llama.cpp's conversion/ and gguf-py/.  Needs torch and transformers.  Each gguf/NAME.gguf holds the weights of NAME/ bit for bit
(f32 norms; Gemma's and Nemotron's with 1 added), so NAME/golden.json holds for it too.  The converter insists on knowing a tokenizer's
pre-tokenizer by hash, and on SentencePiece files for some families: here it is told to write the byte-level vocabulary it finds.
"""
import argparse
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What GGUF stores differently from Hugging Face: rotary pairs, fused and reordered q, k, v, shifted norms, factors as tensors.
NAMES = ["llama-9h3kv-llama3rope", "seed-oss", "phi3-longrope", "gpt2", "gemma", "gpt-neox-parallel",
         "falcon-grouped", "falcon-multiquery", "bloom", "gpt-bigcode", "exaone",
         "stablelm", "phi", "smollm3", "arcee", "cohere2", "exaone4", "ernie4-5", "cohere-qknorm", "olmo", "olmo3", "granite", "glm4", "nemotron"]
# Keys that the converter expects and newer configs no longer write.
EXTRA = {"gpt2": {"n_ctx": 128}, "gpt-neox-parallel": {"rotary_pct": 0.25}, "falcon-multiquery": {"num_kv_heads": 1}, "cohere2": {"rotary_pct": 1.0}}


def convert(name, out, conversion, base, gguf):
    path = HERE / name
    cls = conversion.get_model_class(base.ModelBase.load_hparams(path, False)["architectures"][0])
    cls.set_vocab = lambda self: self._set_vocab_gpt2()
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    stored = json.loads((path / "golden.json").read_text())["about"]["weights_stored_as"]
    kind = gguf.LlamaFileType.MOSTLY_BF16 if stored == "bfloat16" else gguf.LlamaFileType.ALL_F32
    hparams = {**base.ModelBase.load_hparams(path, False), **EXTRA.get(name, {})}
    cls(path, kind, out / f"{name}.gguf", hparams=hparams).write()
    print(name, os.path.getsize(out / f"{name}.gguf"), "bytes")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("names", nargs="*", default=NAMES)
    ap.add_argument("--llama-cpp", required=True, type=Path)
    ap.add_argument("--out", type=Path, default=HERE / "gguf")
    args = ap.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    import gguf
    import conversion
    import conversion.base as base
    args.out.mkdir(exist_ok=True)
    for name in args.names:
        convert(name, args.out, conversion, base, gguf)


if __name__ == "__main__":
    main()
