#!/usr/bin/env python3
"""Serving against llama.cpp's llama-server on the same GGUF file: each server by turns, the same load of `trireme bench serve`; medians over the rounds.

    vs_llamaserver.py --trireme build/release/trireme --peer LLAMA/build/bin/llama-server -m model.gguf [--clients 1,8,32] [--prompt 64] [--answer 64]

The client's own share of the machine is in it, for both alike.  How the peer is built: vs_llamacpp.py (target llama-server).  Run it on an otherwise idle machine.
"""
import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import time
import urllib.request

FIGURES = (("tokens/s", "output_throughput", 1), ("TTFT p50, ms", "median_ttft_ms", -1), ("TTFT p99, ms", "p99_ttft_ms", -1), ("ITL p50, ms", "median_itl_ms", -1), ("ITL p99, ms", "p99_itl_ms", -1))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A process that answers at /health until the block ends."""

    def __init__(self, argv, port, env):
        self.argv, self.url, self.env = [str(a) for a in argv], f"http://127.0.0.1:{port}", {**os.environ, **env}

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.env, start_new_session=True)
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).close()
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.__exit__()
                    raise SystemExit(f"{' '.join(self.argv)}: does not serve")
                time.sleep(0.05)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True)
    p.add_argument("--peer", required=True, help="llama-server")
    p.add_argument("-m", "--model", required=True)
    p.add_argument("--clients", default="1,8,32")
    p.add_argument("--prompt", type=int, default=64, help="tokens of each prompt, drawn at random")
    p.add_argument("--answer", type=int, default=64, help="tokens of each answer")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    clients = [int(n) for n in a.clients.split(",")]
    most, length, results = max(clients), a.prompt + a.answer + 16, {}
    for _ in range(a.rounds):
        for name in ("trireme", "llama-server"):
            port = free_port()
            if name == "trireme":
                argv = [a.trireme, "up", "-m", a.model, "-t", a.threads, "--device", "cpu", "--port", port, "--max-seqs", most, "--ctx", length, "--no-prefix-cache"]
            else:
                argv = [a.peer, "-m", a.model, "-t", a.threads, "--host", "127.0.0.1", "--port", port, "-np", most, "-c", most * length]
            with Server(argv, port, {"TRIREME_API_KEY": "sk-bench"}) as server:
                for n in clients:
                    out = subprocess.run([a.trireme, "bench", "serve", "--url", server.url, "--num-prompts", str(max(6, 2 * n)), "--max-concurrency", str(n), "--random-input-len", str(a.prompt),
                                          "--random-output-len", str(a.answer), "--vocab-size", "20000", "--ignore-eos", "--extra-body", '{"cache_prompt": false}' if name != "trireme" else "{}",
                                          "--num-warmups", "1", "--json"], capture_output=True, text=True, env={**os.environ, "OPENAI_API_KEY": "sk-bench"}, timeout=3600)
                    if out.returncode != 0:
                        raise SystemExit(f"{name}: {out.stdout[-500:]}{out.stderr[-2000:]}")
                    row = json.loads(out.stdout.splitlines()[-1])
                    if row["total_output_tokens"] != row["completed"] * a.answer:
                        raise SystemExit(f"{name}: {row['total_output_tokens']} tokens in {row['completed']} answers of {a.answer}")
                    results.setdefault((n, name), []).append(row)
    print(f"{os.path.basename(a.model)}, {a.threads} threads, {a.prompt} + {a.answer} tokens, {a.rounds} rounds: median (lowest to highest)")
    for n in clients:
        for title, key, sign in FIGURES:
            x, y = ([row[key] for row in results[n, name]] for name in ("trireme", "llama-server"))
            mx, my = statistics.median(x), statistics.median(y)
            print(f"{n:3} clients {title:14} {f'{mx:.1f} ({min(x):.1f} to {max(x):.1f})':>28} {f'{my:.1f} ({min(y):.1f} to {max(y):.1f})':>28}  {mx / my if sign > 0 else my / mx:5.2f} x", flush=True)


if __name__ == "__main__":
    main()
