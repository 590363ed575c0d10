#!/usr/bin/env python3
"""`trireme bench serve` against aiperf and guidellm: the same load on the same service by turns, and what each says of it.

    vs_clients.py --trireme build/release/trireme --venvs build/clients -m build/models/smollm2-bf16 [--streams 4 | --rate 1.2] [--rounds 5]

The venvs are those that `deploy/check --full` makes.  Load: so many streams, or requests at an even rate (with streams aiperf looks for a free one all the time, which takes a core);
chat, synthetic prompts, answers of a fixed length.  Printed: each client's median over the rounds (lowest to highest) of output tokens/s, median TTFT and median TPOT; trireme's over
theirs; and whether they agree: within 5 %, or within what a client itself differs by from round to round where that is more.  The service keeps no prefix cache, so that no round
helps the next.  aiperf's and guidellm's inter-token latency of a request is what vLLM calls TPOT.  At a rate trireme's and aiperf's first request comes after a gap, as vLLM's does,
and guidellm's at once: of n requests its tokens/s are n / (n - 1) times as many.  Run it on an otherwise idle machine.  CPU is the share of the machine that the client itself takes while
it loads the service: what it took, in seconds and in CPU seconds, beyond a run of one request a stream, which is its start and its end.
"""
import argparse
import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import clients
from up_service import Service

CLOSE = 0.05
FIGURES = ("tokens/s", "TTFT ms", "TPOT ms")


class Broken(Exception):
    pass


def trireme(a, s, folder, seed):
    out = pathlib.Path(folder) / "out.jsonl"
    code, said = clients.tool([a.trireme, "bench", "serve", "--url", s.url, "--model", s.model, "--endpoint", "/v1/chat/completions",
                               *(["--request-rate", a.rate, "--burstiness", 1e6] if a.rate else ["--max-concurrency", a.streams]), "--num-prompts", a.requests,
                               "--random-input-len", a.prompt, "--random-output-len", a.answer, "--ignore-eos", "--seed", seed, "--save", out], folder,
                              {"OPENAI_API_KEY": s.key})
    if code != 0:
        raise Broken(said)
    r = json.loads(out.read_text())
    return r["completed"], r["output_throughput"], r["median_ttft_ms"], r["median_tpot_ms"]


def aiperf(a, s, folder, seed):
    code, said = clients.tool([a.venvs / "aiperf/bin/aiperf", "profile", "-m", s.model, "--endpoint-type", "chat", "--streaming", "--url", s.url, "--api-key", s.key, "--tokenizer", a.model,
                               *(["--request-rate", a.rate, "--arrival-pattern", "constant"] if a.rate else ["--concurrency", a.streams]),
                               "--request-count", a.requests, "--synthetic-input-tokens-mean", a.prompt, "--output-tokens-mean", a.answer, "--extra-inputs", "ignore_eos:true",
                               "--use-server-token-count", "--no-gpu-telemetry", "--random-seed", seed + 1, "--ui", "none", "--output-artifact-dir", folder], folder)
    found = list(pathlib.Path(folder).rglob("profile_export*aiperf.json"))
    if code != 0 or len(found) != 1:
        raise Broken(said)
    r = json.loads(found[0].read_text())
    return r["request_count"]["avg"], r["output_token_throughput"]["avg"], r["time_to_first_token"]["p50"], r["inter_token_latency"]["p50"]


def guidellm(a, s, folder, seed):
    out = pathlib.Path(folder) / "out.json"
    code, said = clients.tool([a.venvs / "guidellm/bin/guidellm", "run", "--backend", f"kind=openai_http,target={s.url},model={s.model},api_key={s.key},request_format=/v1/chat/completions",
                               "--profile", f"kind=constant,rate={a.rate}" if a.rate else f"kind=concurrent,streams={a.streams}", "--constraint",
                               f"kind=max_requests,count={a.requests}", "--tokenizer", f"kind=huggingface_auto,model={a.model}",
                               "--data", f"kind=synthetic_text,prompt_tokens={a.prompt},output_tokens={a.answer}", "--disable-progress", "--output", f"kind=json,path={out}"], folder, clients.OFFLINE)
    if code != 0 or not out.exists():
        raise Broken(said)
    b = json.loads(out.read_text())["benchmarks"][0]
    done, m = b["requests"]["successful"], b["metrics"]
    return len(done), sum(r["output_tokens"] for r in done) / b["duration"], m["time_to_first_token_ms"]["successful"]["median"], m["inter_token_latency_ms"]["successful"]["median"]


CLIENTS = {"trireme": trireme, "aiperf": aiperf, "guidellm": guidellm}


def cpu_seconds():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def run_once(a, s, name, seed, requests):
    """Its figures, CPU seconds and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.monotonic(), cpu_seconds()
        done, *figures = CLIENTS[name](argparse.Namespace(**{**vars(a), "requests": requests}), s, folder, seed)
        spent = cpu_seconds() - cpu, time.monotonic() - began
    if done != requests:
        raise Broken(f"{name}: {done} of {requests} requests")
    return figures, *spent


def measure(a, s, names):
    """{client: [[figures of a round, ...]]}, and of each its CPU seconds and seconds beyond its start's."""
    results, spent, start = {n: [] for n in names}, {n: [0.0, 0.0] for n in names}, {}
    for name in names:
        _, *start[name] = run_once(a, s, name, a.rounds, a.streams)
        print(f"start, {name}: {start[name][0]:.1f} CPU seconds in {start[name][1]:.1f} s", flush=True)
    for seed in range(a.rounds):
        for name in names if seed % 2 == 0 else reversed(names):
            figures, *took = run_once(a, s, name, seed, a.requests)
            spent[name] = [total + t - t0 for total, t, t0 in zip(spent[name], took, start[name])]
            results[name].append(figures)
            print(f"round {seed + 1}, {name}: " + ", ".join(f"{v:.2f} {f}" for v, f in zip(figures, FIGURES)) + f"; {took[0]:.1f} CPU seconds in {took[1]:.1f} s", flush=True)
    return results, spent


def spread(values):
    return (max(values) - min(values)) / statistics.median(values)


def show(results, spent):
    """Whether all agree."""
    agree = True
    print(f"\n{'':12}" + "".join(f"{f:>34}" for f in FIGURES) + "      CPU")
    for name, rounds in results.items():
        columns = list(zip(*rounds))
        cells = "".join(f"{f'{statistics.median(c):.2f} ({min(c):.2f} to {max(c):.2f})':>34}" for c in columns)
        print(f"{name:12}{cells}  {100 * spent[name][0] / max(spent[name][1], 1e-9) / os.cpu_count():5.1f} %")
    mine = list(zip(*results["trireme"]))
    for name in (n for n in results if n != "trireme"):
        for figure, x, y in zip(FIGURES, mine, zip(*results[name])):
            ratio, allowed = statistics.median(x) / statistics.median(y), max(CLOSE, spread(x), spread(y))
            good = abs(ratio - 1) <= allowed
            agree = agree and good
            print(f"trireme / {name}, {figure}: {ratio:.3f} ({'agrees' if good else 'DIFFERS'}; {100 * allowed:.1f} % allowed)")
    return agree


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", required=True, type=pathlib.Path)
    p.add_argument("--venvs", required=True, type=pathlib.Path)
    p.add_argument("-m", "--model", required=True, type=pathlib.Path, help="a directory with a tokenizer.json, which the clients read too")
    p.add_argument("--streams", type=int, default=4)
    p.add_argument("--rate", type=float, help="requests a second, evenly, however many are under way")
    p.add_argument("--requests", type=int, default=80)
    p.add_argument("--prompt", type=int, default=64)
    p.add_argument("--answer", type=int, default=64)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--timeout", type=int, default=1200, help="seconds for one run of a client")
    p.add_argument("--threads", type=int, help="of the replica (default: the machine's cores)")
    a = p.parse_args()
    clients.TOOL_SECONDS = a.timeout
    a.trireme, a.venvs, a.model = a.trireme.resolve(), a.venvs.resolve(), a.model.resolve()
    names = [n for n in CLIENTS if n == "trireme" or (a.venvs / n / "bin" / n).exists()]
    if len(names) == 1:
        print(f"skipped: neither aiperf nor guidellm is installed in {a.venvs} (deploy/check --full puts them there)")
        sys.exit(77)
    ctx = 2 * (a.prompt + a.answer) + 256
    with Service(str(a.trireme), ["-m", a.model, "--port", 0, "--ctx", ctx, "--served-model-name", "served", "--no-prefix-cache", *(["--threads", a.threads] if a.threads else [])]) as s:
        try:
            results, spent = measure(a, s, names)
        except Broken as e:
            raise SystemExit(f"a client failed: {e}") from None
        s.stop()
    sys.exit(0 if show(results, spent) else 1)


if __name__ == "__main__":
    main()
