#!/usr/bin/env python3
"""Two load generators from PyPI, aiperf and guidellm, run unmodified against `trireme up`.

    clients.py --trireme BIN --venvs DIR --model CHECKPOINT... [--only aiperf,guidellm] [--requests N]

DIR/aiperf and DIR/guidellm are virtual environments with the tools; the first checkpoint that is there is served, its folder being the tools' tokenizer
as well.  Every request must succeed, and the tools' own counts must be right.  Exit code 77 where neither tool is installed.
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import run
from up_service import Service

STREAMS, PROMPT, ANSWER = 4, 50, 20
TOOL_SECONDS = 150
SLACK = 1.5  # between a prompt as it was drawn and as the server counts it: the chat template, words cut elsewhere
QUIET = {"NO_PROXY": "*", "DO_NOT_TRACK": "1"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def tool(argv, folder, env=None):
    """Runs one in a folder of its own, which is its home as well: (exit code, the end of what it said)."""
    kept = {k: v for k, v in os.environ.items() if k not in OFFLINE}
    p = subprocess.Popen([str(a) for a in argv], cwd=folder, env={**kept, **QUIET, "HOME": str(folder), **(env or {})}, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
    try:
        said, _ = p.communicate(timeout=TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        said, _ = p.communicate()
        said += f"\nnot over after {TOOL_SECONDS} s"
    return p.returncode, said[-3000:]


# ---- aiperf ----

def check_aiperf(report, what, found, a, streamed):
    """Its summary, and the record it wrote of each request."""
    summary = json.loads(found.read_text())
    report.check(not summary.get("error_summary") and not summary.get("error_request_count"), f"{what}: errors {summary.get('error_summary')}")
    records = [json.loads(line) for line in found.with_suffix(".jsonl").read_text().splitlines()]
    report.check(summary["request_count"]["avg"] == a.requests == len(records), f"{what}: {summary['request_count']}, {len(records)} records of {a.requests} requests")
    report.check(all(not r.get("error") for r in records), f"{what}: {[r['error'] for r in records if r.get('error')][:2]}")

    def values(name):
        return [r["metrics"][name]["value"] for r in records if name in r.get("metrics", {})]
    answers, prompts, latencies = values("output_sequence_length"), values("input_sequence_length"), values("request_latency")
    report.check(answers == [ANSWER] * a.requests, f"{what}: tokens of the answers: {answers}")
    report.check(len(prompts) == a.requests and all(PROMPT / SLACK <= n <= PROMPT * SLACK + 30 for n in prompts), f"{what}: tokens of the prompts: {prompts}")
    report.check(len(latencies) == a.requests and all(x > 0 for x in latencies), f"{what}: latencies {latencies}")
    if streamed:
        first = values("time_to_first_token")
        report.check(len(first) == a.requests and all(0 < t < x for t, x in zip(first, latencies)), f"{what}: times to the first token {first} within {latencies}")
    return f"{summary['output_token_throughput']['avg']:.1f} tokens/s"


def aiperf(report, s, a, venv):
    for endpoint, streamed in (("chat", True), ("completions", False)):
        what = f"aiperf {endpoint}{' streamed' if streamed else ''}"
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            # With HF_HUB_OFFLINE=1 it refuses a folder as a tokenizer, though that needs no net.
            code, said = tool([venv / "bin/aiperf", "profile", "-m", s.model, "--endpoint-type", endpoint, *(["--streaming"] if streamed else []), "--url", s.url, "--api-key", s.key,
                               "--tokenizer", a.served, "--concurrency", STREAMS, "--request-count", a.requests, "--synthetic-input-tokens-mean", PROMPT,
                               "--output-tokens-mean", ANSWER, "--extra-inputs", "ignore_eos:true", "--use-server-token-count", "--no-gpu-telemetry", "--random-seed", 1,
                               "--ui", "none", "--output-artifact-dir", folder], folder)
            found = list(pathlib.Path(folder).rglob("profile_export*aiperf.json"))
            if not report.check(code == 0 and len(found) == 1, f"{what}: exit code {code}, results {found}\n{said}"):
                continue
            found_records = list(found[0].parent.glob("profile_export*.jsonl"))
            if len(found_records) == 1:
                found_records[0].rename(found[0].with_suffix(".jsonl"))
            print(f"{what}: {check_aiperf(report, what, found[0], a, streamed)}, {time.monotonic() - began:.0f} s", flush=True)


# ---- guidellm ----

def check_guidellm(report, what, path, a):
    benchmark = json.loads(path.read_text())["benchmarks"][0]
    done, errors, cut = (benchmark["requests"][k] for k in ("successful", "errored", "incomplete"))
    # On a busy machine it ends before the last answers are in its file, and calls them neither done nor cut off; that all were answered is the gateway's count, below.
    report.check(a.requests - STREAMS < len(done) <= a.requests and not errors and not cut, f"{what}: {len(done)} of {a.requests}, {len(cut)} cut off, errors {[e.get('info') for e in errors][:2]}")
    answers, prompts = [r["output_tokens"] for r in done], [r["prompt_tokens"] for r in done]
    report.check(all(n == ANSWER for n in answers), f"{what}: tokens of the answers: {answers}")
    report.check(all(PROMPT / SLACK <= n <= PROMPT * SLACK + 30 for n in prompts), f"{what}: tokens of the prompts: {prompts}")
    report.check(all(r["output"] and r["response_id"] for r in done), f"{what}: answers without text or id")
    report.check(all(0 < r["time_to_first_token_ms"] < 1000 * r["request_latency"] for r in done), f"{what}: times to the first token")
    return f"{benchmark['metrics']['output_tokens_per_second']['successful']['mean']:.1f} tokens/s"


def guidellm(report, s, a, venv):
    for route in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        what = f"guidellm {route}"
        with tempfile.TemporaryDirectory() as folder:
            began, out = time.monotonic(), pathlib.Path(folder) / "out.json"
            code, said = tool([venv / "bin/guidellm", "run", "--backend", f"kind=openai_http,target={s.url},model={s.model},api_key={s.key},request_format={route}",
                               "--profile", f"kind=concurrent,streams={STREAMS}", "--constraint", f"kind=max_requests,count={a.requests}", "--tokenizer",
                               f"kind=huggingface_auto,model={a.served}", "--data", f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={ANSWER}", "--disable-progress",
                               "--output", f"kind=json,path={out}"], folder, OFFLINE)
            if report.check(code == 0 and out.exists(), f"{what}: exit code {code}\n{said}"):
                print(f"{what}: {check_guidellm(report, what, out, a)}, {time.monotonic() - began:.0f} s", flush=True)


def count_of(s, name, labels=""):
    """The sum of a metric's series."""
    lines = (line for line in s.ask("/metrics")[1].splitlines() if line.startswith(name + "{") and labels in line)
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


TOOLS = {"aiperf": (aiperf, 2), "guidellm": (guidellm, 3)}  # and the runs of each


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--venvs", required=True, type=pathlib.Path)
    p.add_argument("--model", required=True, nargs="+", type=pathlib.Path)
    p.add_argument("--only", default=",".join(TOOLS))
    p.add_argument("--requests", type=int, default=24)
    a = p.parse_args()
    report = run.Report()
    a.venvs = a.venvs.resolve()
    there = [name for name in a.only.split(",") if (a.venvs / name / "bin" / name).exists()]
    if not there:
        print(f"skipped: neither aiperf nor guidellm is installed in {a.venvs} (deploy/check --full puts them there)")
        sys.exit(77)
    a.served = next(m for m in a.model if m.exists()).resolve()
    with Service(a.trireme, ["-m", a.served, "--port", 0, "--ctx", 256, "--served-model-name", "served"]) as s:
        runs = 0
        for name in a.only.split(","):
            if name not in there:
                report.skip(name, f"it is not installed in {a.venvs / name}")
                continue
            TOOLS[name][0](report, s, a, a.venvs / name)
            runs += TOOLS[name][1]
        ended = count_of(s, "trireme:request_success_total")
        report.check(count_of(s, "trireme:request_success_total", 'finished_reason="length"') == ended >= runs * a.requests, f"the gateway's own count: {ended} of {runs} runs")
        report.check(s.stop() == 0, "the service ends in order")
    report.end()


if __name__ == "__main__":
    main()
