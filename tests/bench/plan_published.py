#!/usr/bin/env python3
"""What `trireme plan` predicts beside what others have published of their engines on real GPU clusters: the table of PREDICTIONS.md.

    plan_published.py --trireme build/release/trireme [--commands]

The machines' figures are data sheets' and a few fractions of them that are the same for all and were not fitted (shard/plan/machine.c); PREDICTIONS.md says what was changed after a first look.  A row says what was published, where, and the options
that describe it: the engine's formats, its split, its batch.  --commands prints the commands too.
"""
import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import tempfile

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "coordinator" / "configs"

TRT_06 = "TensorRT-LLM 0.6.1, docs/source/performance.md (github.com/NVIDIA/TensorRT-LLM, commit 138f96d4)"
TRT_10 = "TensorRT-LLM 1.0, docs/source/performance/perf-overview.md (github.com/NVIDIA/TensorRT-LLM, commit 00f37686)"
NIM = "NVIDIA NIM 1.8.0, docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance"
DEEPSEEK = "DeepSeek-V3/R1 inference system overview, 1 March 2025 (github.com/deepseek-ai/open-infra-index)"
SGLANG = "SGLang team, lmsys.org/blog/2025-05-05-large-scale-ep"

# DeepSeek's H800: an H100 whose NVLink has 200 GB/s in each direction.
H800 = {"machine": "h800", "base": "h100", "in_host": {"bytes_per_second": 0.8 * 200e9}}

FP8 = "--type fp8 --kv-type fp8 --sums bf16 --overlap-rows 0"
F16 = "--type f16 --kv-type f16 --sums bf16 --overlap-rows 0"
# Sequences and prompt tokens a GPU are assumptions where the sources, as read, do not say.  Two micro-batches at once, rows to experts in fp8 and back in bf16 (DeepEP), latent vectors in bf16.
WIDE = "--kv-type bf16 --sums bf16 --dispatch fp8 --overlap-rows 1 --tp 1 --pp 1"

# source, checkpoint, machine, options, what, published, from the best point's figures
ROWS = [
    (TRT_06, "llama-2-7b", "a100", f"{F16} --tp 1 --pp 1 --batch 60 --prompt-len 128 --output-len 2048", "tokens/s a GPU", 1928, "tokens_per_second_device"),
    (TRT_06, "llama-2-7b", "h100", f"{FP8} --tp 1 --pp 1 --batch 112 --prompt-len 128 --output-len 2048", "tokens/s a GPU", 6818, "tokens_per_second_device"),
    (TRT_06, "llama-2-70b", "a100", f"{F16} --tp 4 --pp 1 --batch 240 --prompt-len 128 --output-len 2048", "tokens/s a GPU", 525, "tokens_per_second_device"),
    (TRT_06, "llama-2-70b", "h100", f"{FP8} --tp 4 --pp 1 --batch 480 --prompt-len 128 --output-len 2048", "tokens/s a GPU", 1486, "tokens_per_second_device"),
    (TRT_06, "llama-2-70b", "h100", f"{FP8} --tp 2 --pp 1 --batch 64 --prompt-len 2048 --output-len 2048", "tokens/s a GPU", 547, "tokens_per_second_device"),
    (TRT_06, "llama-2-70b", "h100", f"{FP8} --tp 2 --pp 1 --batch 96 --prompt-len 2048 --output-len 128", "tokens/s a GPU", 306, "tokens_per_second_device"),
    (TRT_06, "llama-2-70b", "a100", f"{F16} --tp 4 --pp 1 --batch 1 --prompt-len 2048 --output-len 1", "first token, ms", 377, "ttft_seconds"),
    (TRT_06, "llama-2-70b", "h100", f"{FP8} --tp 4 --pp 1 --batch 1 --prompt-len 2048 --output-len 1", "first token, ms", 109, "ttft_seconds"),
    (TRT_10, "llama-3.1-70b", "h200", f"{FP8} --tp 1 --pp 1 --prompt-len 1000 --output-len 1000", "tokens/s, as many as fit", 2909, "tokens_per_second"),
    (TRT_10, "llama-3.1-70b", "h100", f"{FP8} --tp 2 --pp 1 --prompt-len 1000 --output-len 1000", "tokens/s, as many as fit", 4205, "tokens_per_second"),
    (TRT_10, "llama-3.1-405b", "h200", f"{FP8} --tp 8 --pp 1 --prompt-len 1000 --output-len 1000", "tokens/s, as many as fit", 3330, "tokens_per_second"),
    (TRT_10, "qwen3-235b-a22b", "h200", f"{FP8} --tp 1 --pp 1 --ep 8 --devices 8 --batch 3000 --prompt-len 1000 --output-len 1000", "tokens/s, all 3,000 at once", 23789, "tokens_per_second"),
    (NIM, "llama-3.1-70b", "h100", f"{FP8} --tp 2 --pp 1 --batch 1 --prompt-len 5000 --output-len 500", "time to first token, ms", 406.77, "ttft_seconds"),
    (NIM, "llama-3.1-70b", "h100", f"{FP8} --tp 2 --pp 1 --batch 1 --prompt-len 5000 --output-len 500", "between tokens, ms", 18.58, "tpot_seconds"),
    (NIM, "llama-3.1-70b", "h100", f"{FP8} --tp 2 --pp 1 --batch 25 --prompt-len 5000 --output-len 500", "between tokens, ms", 38.75, "tpot_seconds"),
    # Averages of a day.  Without what was in the cache already (56.3 % of 73.7 k tokens/s); 20 to 22 tokens/s a user over 4,989 tokens of cache on average: 88 sequences a GPU.
    (DEEPSEEK, "deepseek-v3", "h800", f"{WIDE} --ep 32 --devices 32 --batch 32 --batch-tokens 16384 --prompt-len 4096 --output-len 1", "prompt tokens/s a node of 8", 32200,
     "prompt_tokens_per_second"),
    (DEEPSEEK, "deepseek-v3", "h800", f"{WIDE} --ep 144 --devices 144 --batch 12672 --prompt-len 4489 --output-len 1000", "decoded tokens/s a node of 8", 14800, "decode_tokens_per_second"),
    (SGLANG, "deepseek-v3", "h100", f"{WIDE} --ep 32 --devices 32 --batch 32 --batch-tokens 16384 --prompt-len 2000 --output-len 1", "prompt tokens/s a node of 8", 52300,
     "prompt_tokens_per_second"),
    (SGLANG, "deepseek-v3", "h100", f"{WIDE} --ep 72 --devices 72 --batch 18432 --prompt-len 2000 --output-len 100", "decoded tokens/s a node of 8", 22300, "decode_tokens_per_second"),
]


def configurations(folder):
    """Checkpoints that tests have no use for: their sizes, on another's configuration."""
    base = json.loads((CONFIGS / "llama-3.1-70b.json").read_text())
    base.update(rope_scaling=None, max_position_embeddings=4096, vocab_size=32000, torch_dtype="float16")
    paths = {p.stem: p for p in CONFIGS.glob("*.json")}
    for name, sizes in {"llama-2-70b": {}, "llama-2-7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32,
                                                          "num_hidden_layers": 32}}.items():
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(json.dumps({**base, **sizes}))
    return paths


def show(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", default="build/release/trireme")
    p.add_argument("--commands", action="store_true")
    a = p.parse_args()
    sources, errors = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        paths = configurations(folder)
        h800 = folder / "h800.json"
        h800.write_text(json.dumps(H800))
        print("| | checkpoint | on | split, batch | prompt + output | | published | predicted | predicted / published |\n|---|---|---|---|---|---|---|---|---|")
        for source, model, machine, options, what, published, field in ROWS:
            command = [a.trireme, "plan", str(paths[model]), "--machine", str(h800) if machine == "h800" else machine, *options.split(), "--json"]
            if a.commands:
                print(shlex.join(command))
            answer = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)  # 1: it does not fit, and is answered all the same
            best = answer["best"]
            value = best[field] * (1000 if field.endswith("seconds") else 8 / answer["devices"] if "node" in what else 1)
            split = " x ".join(f"{k} {best[k]}" for k in ("tp", "ep") if best[k] > 1) or "1 GPU"
            if source not in sources:
                sources.append(source)
            errors.append(abs(value / published - 1))
            print(f"| {sources.index(source) + 1} | {model} | {machine} | {split}, {best['batch']:,} | {answer['prompt_len']} + {answer['output_len']} | {what} | {show(published)} | {show(value)} | "
                  f"{value / published:.2f} |", flush=True)
    print(f"\nMedian error {100 * statistics.median(errors):.0f} %, worst {100 * max(errors):.0f} %.\n")
    for i, source in enumerate(sources):
        print(f"{i + 1}. {source}")


if __name__ == "__main__":
    main()
