#!/usr/bin/env python3
"""Speed against llama.cpp (or its fork ik_llama.cpp) on the same GGUF files, cell by cell: ratios of medians of interleaved runs, and how much of the machine's limit.

    vs_llamacpp.py --trireme build/release/trireme --peer LLAMA/build/bin -m a.gguf -m b.gguf [--cells prefill:512,decode:0,batch:32] [--threads 2] [--isa avx2]

Cells: prefill:TOKENS, decode:CONTEXT, batch:SEQUENCES (decode with 16 tokens of context), start (a process from nothing to one token: seconds, peak memory),
perplexity (of --text: windows of 512, their second halves scored; the peer's llama-perplexity).
The peer is built by hand, with its own defaults for this machine; it is never needed to build or to test:
    pip download --no-deps --no-binary :all: llama-cpp-python && tar xzf llama_cpp_python-*.tar.gz && cd llama_cpp_python-*/vendor/llama.cpp
    cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF && cmake --build build --target llama-bench llama-batched-bench
random_gguf.py makes files of any shape.  The limit: for prefill the multiplying instructions, for decode reading memory (`trireme bench kernels`, measured first).
Run it on an otherwise idle machine.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import gguf

GENERATED = 48


def output(argv, env=None):
    p = subprocess.run([str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=3600)
    if p.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, argv))}: exit code {p.returncode}\n{p.stderr[-2000:]}")
    return p.stdout


# A process counts as its own peak what the one that started it had: a small one starts it.
START = """
import os, sys, time
begin = time.monotonic()
none = os.open(os.devnull, os.O_WRONLY)
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, none, 1), (os.POSIX_SPAWN_DUP2, none, 2)])
_, status, usage = os.wait4(pid, 0)
print(status, time.monotonic() - begin, usage.ru_maxrss * 1024)
"""


def timed(argv, env=None):
    """(seconds, peak resident bytes) of a process."""
    status, seconds, peak = output([sys.executable, "-S", "-E", "-c", START, *argv], env).split()
    if status != "0":
        raise SystemExit(f"{' '.join(map(str, argv))}: ended with {status}")
    return float(seconds), int(peak)


class Ours:
    name = "trireme"

    def __init__(self, a):
        self.binary, self.threads, self.env = a.trireme, a.threads, {"TRIREME_ISA": a.isa} if a.isa else {}

    def bench(self, model, *args):
        out = output([self.binary, "bench", "-m", model, "-t", self.threads, "-r", 1, "--device", "cpu", "--no-prefix-cache", "--json", *args], self.env)
        return json.loads(out.splitlines()[-1])["tokens_per_second"]

    def prefill(self, model, n):
        return self.bench(model, "-p", n, "-n", 0, "--ctx", n + 16)

    def decode(self, model, n):
        return self.bench(model, "-p", 0, "-n", GENERATED, "-d", max(n, 1), "--ctx", n + GENERATED + 16)

    def batch(self, model, n):
        return self.bench(model, "-p", 0, "-n", GENERATED, "-d", 16, "-b", n, "--max-seqs", n, "--ctx", 512)

    def start(self, model):
        return timed([self.binary, "generate", "-m", model, "-t", self.threads, "--device", "cpu", "--ctx", 512, "--max-tokens", 1, "-p", "the"], self.env)

    def ids(self, model, text, *args):
        p = subprocess.run([self.binary, "tokenize", "-m", model, "--jsonl", "-", *args], input=json.dumps({"text": text}), capture_output=True, text=True, check=True)
        return json.loads(p.stdout)["ids"]

    def perplexity(self, model, text):
        """As the peer counts: whole windows, each with the token that opens a text, where the checkpoint has one, in place of its first."""
        with open(text, encoding="utf-8") as f:
            text = f.read()
        ids, opening = self.ids(model, text, "--special"), self.ids(model, "", "--special")
        ids = ids[:len(ids) // 512 * 512]
        for i in range(0, len(ids), 512):
            ids[i:i + 1] = opening[:1] or ids[i:i + 1]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
            json.dump(ids, f)
            f.flush()
            out = output([self.binary, "perplexity", "-m", model, "-t", self.threads, "--device", "cpu", "--ctx", 528, "--ids", f.name, "--unscored", 257, "--json"], self.env)
        return json.loads(out)["perplexity"]


class Peer:
    def __init__(self, a):
        self.folder, self.threads, self.name = a.peer, a.threads, a.peer_name

    def bench(self, model, *args):
        out = output([f"{self.folder}/llama-bench", "-m", model, "-t", self.threads, "-r", 1, "-o", "json", *args])
        return json.loads(out)[-1]["avg_ts"]

    def prefill(self, model, n):
        return self.bench(model, "-p", n, "-n", 0)

    def decode(self, model, n):
        return self.bench(model, "-p", 0, "-n", GENERATED, *(["-d", n] if n else []))

    def batch(self, model, n):
        argv = [os.path.abspath(f"{self.folder}/llama-batched-bench"), "-m", os.path.abspath(model), "-t", self.threads, "-tb", self.threads, "-c", n * (32 + GENERATED), "-npp", 16,
                "-ntg", GENERATED, "-npl", n]
        with tempfile.TemporaryDirectory() as folder:  # ik_llama.cpp's writes its table to the error output and into a file where it runs
            p = subprocess.run([str(x) for x in argv], capture_output=True, text=True, cwd=folder, timeout=3600)
        rows = [r for r in re.findall(r"^\|(.*)\|\s*$", p.stdout + p.stderr, re.M) if re.match(r"\s*\d", r)]
        if p.returncode != 0 or not rows:
            raise SystemExit(f"{argv[0]}: exit code {p.returncode}\n{p.stderr[-2000:]}")
        return float(rows[-1].split("|")[7])  # S_TG t/s

    def start(self, model):
        return timed([f"{self.folder}/llama-bench", "-m", model, "-t", self.threads, "-r", 1, "-p", 0, "-n", 1, "--no-warmup"])

    def perplexity(self, model, text):
        p = subprocess.run([f"{self.folder}/llama-perplexity", "-m", model, "-t", str(self.threads), "-c", "512", "-b", "512", "-f", text], capture_output=True, text=True, timeout=7200)
        found = re.search(r"Final estimate: PPL = ([\d.]+)", p.stdout + p.stderr)
        if not found:
            raise SystemExit(f"llama-perplexity: exit code {p.returncode}\n{p.stderr[-2000:]}")
        return float(found[1])


def model_work(path):
    """Bytes and operations of a decoded token, operations of a prompt's token, and the type that most weights have."""
    sizes, layers, head, types = 0, 0, None, {}
    for t in gguf.GGUFReader(path).tensors:
        if len(t.shape) != 2:
            continue
        n = int(t.n_elements)
        if t.name.startswith("blk."):
            sizes += int(t.n_bytes)
            layers += n
            types[t.tensor_type.name.lower()] = types.get(t.tensor_type.name.lower(), 0) + n
        elif t.name == "output.weight" or (t.name == "token_embd.weight" and head is None):
            head = (int(t.n_bytes), n)
    return sizes + head[0], 2 * (layers + head[1]), 2 * layers, max(types, key=types.get)


def peaks(a):
    """The first line is of the best instruction set, or of the one wanted."""
    return json.loads(output([a.trireme, "bench", "kernels", "--json", "--type", "f32", "--rows", 1, "--shape", "16x64", "-t", a.threads, *(["--isa", a.isa] if a.isa else [])]).splitlines()[0])


def limit(kind, n, work, p):
    """Tokens a second."""
    size, decode_ops, prefill_ops, weights = work
    peak = p["bf16"] if weights == "bf16" else p["f32"] if weights in ("f16", "f32") else p["codes4"] if weights[:2] in ("q2", "q3", "q4") else p["codes8"]
    if kind == "prefill":
        return peak / prefill_ops
    n = 1 if kind == "decode" else n
    return n / max(size / p["read"], n * decode_ops / peak)


def rounds(a, run, ours, peer):
    """Both engines' results, by turns."""
    def quiet():
        return a.least_memory == 0 or peaks(a)["read"] >= a.least_memory * 1e9

    x, y = [], []
    for _ in range(a.rounds if a.least_memory == 0 else 5 * a.rounds):
        if not quiet():
            time.sleep(1)
            continue
        mine, other = run(ours), run(peer)
        if quiet():
            x.append(mine)
            y.append(other)
        if len(x) == a.rounds:
            break
    return x, y


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True)
    p.add_argument("--peer", required=True, help="folder with llama-bench and llama-batched-bench")
    p.add_argument("--peer-name", default="llama.cpp")
    p.add_argument("-m", "--model", action="append", required=True)
    p.add_argument("--cells", default="prefill:128,prefill:512,prefill:2048,decode:0,decode:1024,decode:4096,batch:4,batch:16,batch:32,start")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--isa", help="instruction set of trireme, where the peer was built for that one")
    p.add_argument("--text", help="a text file, for the cell perplexity")
    p.add_argument("--least-memory", type=float, default=0, metavar="GB/S", help="only rounds count before and after which memory is read so fast (machines that others share); "
                   "at most five times the rounds are run")
    p.add_argument("--json", help="a line for each cell is added to this file")
    a = p.parse_args()
    ours, peer, limits = Ours(a), Peer(a), peaks(a)
    print(f"{limits['backend']}; memory {limits['read'] / 1e9:.1f} GB/s; {a.rounds} interleaved rounds: median (lowest to highest)")
    for model in a.model:
        work = model_work(model)
        print(f"\n{os.path.basename(model)} ({os.path.getsize(model) / 1e6:.0f} MB, mostly {work[3]}), {a.threads} threads, tokens/s")
        print(f"{'':14} {'trireme':>26} {a.peer_name:>26}  ratio   of limit")
        for cell in a.cells.split(","):
            kind, _, n = cell.partition(":")
            if kind == "perplexity":
                mx, my = ours.perplexity(model, a.text), peer.perplexity(model, a.text)
                print(f"{kind:14} {mx:26.4f} {my:26.4f}  {mx / my:7.5f}", flush=True)
                continue
            x, y = rounds(a, lambda engine: engine.start(model) if kind == "start" else getattr(engine, kind)(model, int(n)), ours, peer)
            if not x:
                print(f"{cell:14} {f'in no round was memory read at {a.least_memory:.0f} GB/s':>60}", flush=True)
                continue
            if kind == "start":
                for i, (what, unit) in enumerate((("start, s", 1), ("peak, MB", 1e6))):
                    mx, my = (statistics.median(r[i] for r in v) / unit for v in (x, y))
                    print(f"{what:14} {mx:26.2f} {my:26.2f}  {mx / my:5.2f}", flush=True)
                continue
            mx, my, most = statistics.median(x), statistics.median(y), limit(kind, int(n), work, limits)
            print(f"{cell:14} {f'{mx:.1f} ({min(x):.1f} to {max(x):.1f})':>26} {f'{my:.1f} ({min(y):.1f} to {max(y):.1f})':>26}  {mx / my:5.2f}  {100 * mx / most:4.0f} %, {100 * my / most:3.0f} %",
                  flush=True)
            if a.json:
                with open(a.json, "a") as f:
                    f.write(json.dumps({"model": os.path.basename(model), "cell": cell, "threads": a.threads, "peer": a.peer_name, "backend": limits["backend"], "trireme": x, "other": y, "limit": most}) + "\n")


if __name__ == "__main__":
    main()
