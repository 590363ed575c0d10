#!/usr/bin/env python3
"""Two load generators from PyPI, aiperf and guidellm, run unmodified against a gateway and a replica.

    bench_clients.py --trireme BIN --model DIR [--aiperf BIN] [--guidellm BIN]

Where a tool is installed beside this Python, it is found there.  Exit code 77 if neither is.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import serving
from serving import Serving

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def find(given, name):
    for path in filter(None, (given, pathlib.Path(sys.executable).parent / name, shutil.which(name))):
        if pathlib.Path(path).exists():
            return str(path)
    return None


def tool(argv, folder, env=None, timeout=400):
    p = subprocess.run(argv, cwd=folder, env={**os.environ, "HOME": str(folder), **(env or {})}, capture_output=True, text=True, timeout=timeout)
    return p.returncode, (p.stdout + p.stderr)[-3000:]


def test_aiperf(binary, s, model, folder, report):
    n = 40
    code, said = tool([binary, "profile", "-m", model.name, "--endpoint-type", "chat", "--streaming", "--url", f"http://127.0.0.1:{s.port}", "--tokenizer", str(model),
                       "--concurrency", "4", "--request-count", str(n), "--synthetic-input-tokens-mean", "50", "--output-tokens-mean", "20", "--ui", "none"], folder)
    if not report.check(code == 0, f"aiperf: exit code {code}: {said}"):
        return
    found = list(pathlib.Path(folder).rglob("profile_export_aiperf.json"))
    if not report.check(len(found) == 1, f"aiperf: no result: {said}"):
        return
    result = json.loads(found[0].read_text())
    report.check(result["request_count"]["avg"] == n, f"aiperf: {result['request_count']} of {n} requests")
    report.check(not result.get("error_summary"), f"aiperf: {result.get('error_summary')}")
    print("aiperf: " + ", ".join(f"{k} {result[k]['avg']:.2f}" for k in ("time_to_first_token", "inter_token_latency", "output_token_throughput") if k in result), flush=True)


def test_guidellm(binary, s, model, folder, report):
    n = 40
    out = pathlib.Path(folder) / "guidellm.json"
    code, said = tool([binary, "run", "--backend", f"kind=openai_http,target=http://127.0.0.1:{s.port},model={model.name}", "--profile", "kind=concurrent,streams=4",
                       "--constraint", f"kind=max_requests,count={n}", "--tokenizer", f"kind=huggingface_auto,model={model}",
                       "--data", "kind=synthetic_text,prompt_tokens=50,output_tokens=20", "--disable-progress", "--output", f"kind=json,path={out}"], folder, OFFLINE)
    if not report.check(code == 0 and out.exists(), f"guidellm: exit code {code}: {said}"):
        return
    requests = json.loads(out.read_text())["benchmarks"][0]["requests"]
    report.check(len(requests["successful"]) >= n and not requests["errored"], f"guidellm: {len(requests['successful'])} of {n}, {len(requests['errored'])} errors")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--aiperf")
    p.add_argument("--guidellm")
    a = p.parse_args()
    tools = [(test_aiperf, find(a.aiperf, "aiperf")), (test_guidellm, find(a.guidellm, "guidellm"))]
    report = serving.Report()
    if not any(binary for _, binary in tools):
        print("skipped: neither aiperf nor guidellm is installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder, Serving(a.trireme) as s:
        model = serving.stretched(a.model, folder, 4096)
        s.start_replica("a", model)
        s.wait_ready()
        for test, binary in tools:
            if binary:
                test(binary, s, model, folder, report)
            else:
                report.skip(test.__name__, "it is not installed")
    report.end()


if __name__ == "__main__":
    main()
