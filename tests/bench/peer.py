"""Speed against llama.cpp on the same GGUF file, the same machine, in the same run; and two ranks of one thread against one rank of two.

    python3 -m venv build/peer && build/peer/bin/pip install llama-cpp-python
    build/peer/bin/python tests/bench/peer.py --trireme build/release/trireme -m build/models/smollm2.gguf

Rounds are interleaved, so that a noisy neighbour hits all alike; medians and their ratios are printed, nothing is asserted.  Run it on an
otherwise idle machine.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import time

MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def ours(a, ranks, threads):
    argv = [a.trireme, "bench", "-m", a.model, "--tp", str(ranks), "--pp", "1", "-t", str(threads), "--ctx", str(a.prompt + a.gen + 32), "-p", str(a.prompt), "-n",
            str(a.gen), "-r", "1", "--json"]
    if ranks > 1:
        argv = ["mpirun", "-n", str(ranks)] + argv
    out = subprocess.run(argv, env={**os.environ, **MPI}, capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    speed = {r["test"].split()[0]: r["tokens_per_second"] for r in rows}
    return speed["prefill"], speed["decode"]


class Peer:
    def __init__(self, a, threads):
        from llama_cpp import Llama, __version__
        self.name = f"llama.cpp (llama-cpp-python {__version__}), {threads} threads"
        self.model = Llama(a.model, n_ctx=a.prompt + a.gen + 32, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
        self.prompt = [random.Random(1).randrange(1000, 40000) for _ in range(a.prompt)]
        self.gen = a.gen

    def run(self):
        self.model.reset()
        started = time.perf_counter()
        self.model.eval(self.prompt)
        filled = time.perf_counter()
        for i in range(self.gen):
            self.model.eval([100 + i])
        return len(self.prompt) / (filled - started), self.gen / (time.perf_counter() - filled)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True)
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--prompt", type=int, default=256)
    p.add_argument("--gen", type=int, default=64)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    runs = {f"trireme, {a.threads} threads": lambda: ours(a, 1, a.threads), f"trireme, mpirun -n {a.threads}, 1 thread each": lambda: ours(a, a.threads, 1)}
    try:
        peer = Peer(a, a.threads)
        runs[peer.name] = peer.run
    except ImportError:
        print("no peer: llama-cpp-python is not installed for this Python")
    results = {name: [] for name in runs}
    for _ in range(a.rounds):
        for name, run in runs.items():
            results[name].append(run())
    base = None
    print(f"{a.model}, prompt {a.prompt}, generated {a.gen}, {a.rounds} rounds: median (lowest to highest) tokens/s")
    for name, r in results.items():
        prefill, decode = ([x[i] for x in r] for i in (0, 1))
        mp, md = statistics.median(prefill), statistics.median(decode)
        base = base or (mp, md)
        print(f"{name:52} prefill {mp:7.1f} ({min(prefill):.1f} to {max(prefill):.1f})  decode {md:6.1f} ({min(decode):.1f} to {max(decode):.1f})"
              f"   first row / this: {base[0] / mp:.2f} {base[1] / md:.2f}")


if __name__ == "__main__":
    main()
