#!/usr/bin/env python3
"""Two ranks of one thread against one process of two threads, on this machine: interleaved rounds, ratios of medians.

    ranks.py --trireme build/release/trireme -m model.gguf [-m ...] [--rounds 5] [--prompt 512] [--batch 4]

Rows: prefill and decode with --tp 2, decode of --batch sequences with --tp 2 and with --pp 2; each over the same in one process.  Run it on an otherwise idle machine.
"""
import argparse
import json
import os
import statistics
import subprocess


def rate(a, model, ranks, *args):
    argv = [*(["mpirun", "-n", "2"] if ranks else []), a.trireme, "bench", "-m", model, "-r", "1", "--device", "cpu", "--no-prefix-cache", "--json", "-t", "1" if ranks else "2", *ranks, *args]
    p = subprocess.run([str(x) for x in argv], capture_output=True, text=True, timeout=3600)
    if p.returncode != 0:
        raise SystemExit(f"{argv}: exit code {p.returncode}\n{p.stderr[-2000:]}")
    return json.loads(p.stdout.splitlines()[-1])["tokens_per_second"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True)
    p.add_argument("-m", "--model", action="append", required=True)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--gen", type=int, default=48)
    p.add_argument("--batch", type=int, default=4)
    a = p.parse_args()
    tp, pp = ("--tp", "2", "--pp", "1"), ("--tp", "1", "--pp", "2")
    one = ("-p", 0, "-n", a.gen, "--ctx", a.gen + 32)
    many = (*one, "-b", a.batch, "--max-seqs", a.batch)
    rows = ((f"prefill {a.prompt}, tp 2", tp, ("-p", a.prompt, "-n", 0, "--ctx", a.prompt + 16)), ("decode, tp 2", tp, one), (f"decode of {a.batch}, tp 2", tp, many), (f"decode of {a.batch}, pp 2", pp, many))
    for model in a.model:
        print(f"{os.path.basename(model)}, {a.rounds} rounds, tokens/s: median (lowest to highest)\n{'':20} {'2 ranks x 1 thread':>28} {'1 rank x 2 threads':>28}  ratio")
        for name, ranks, args in rows:
            x, y = [], []
            for _ in range(a.rounds):
                x.append(rate(a, model, ranks, *args))
                y.append(rate(a, model, (), *args))
            mx, my = statistics.median(x), statistics.median(y)
            print(f"{name:20} {f'{mx:.1f} ({min(x):.1f} to {max(x):.1f})':>28} {f'{my:.1f} ({min(y):.1f} to {max(y):.1f})':>28}  {mx / my:5.3f}", flush=True)


if __name__ == "__main__":
    main()
