#!/usr/bin/env python3
"""Checks that the gateway's metrics are text that Prometheus takes: with promtool where it is installed, and always with the rules below.

    exposition.py TEST_METRICS
"""
import re
import shutil
import subprocess
import sys

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")


def labels_of(text):
    labels, at = {}, 0
    while at < len(text):
        m = LABEL.match(text, at)
        if not m or m.group(1) in labels:
            raise ValueError(f"labels {text!r}")
        labels[m.group(1)] = m.group(2)
        at = m.end()
    return labels


def family_of(name, kind, families):
    for suffix in {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total", "")}.get(kind, ("",)):
        if name.endswith(suffix) and name[:len(name) - len(suffix)] in families:
            return name[:len(name) - len(suffix)]
    return None


def check_histogram(name, samples):
    by_series = {}
    for sample, labels, value in samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        by_series.setdefault(key, []).append((sample, labels, value))
    for rows in by_series.values():
        buckets = [(float(l["le"]), v) for s, l, v in rows if s == name + "_bucket"]
        assert buckets == sorted(buckets), f"{name}: buckets out of order or not cumulative"
        assert [v for _, v in buckets] == sorted(v for _, v in buckets), f"{name}: not cumulative"
        assert buckets and buckets[-1][0] == float("inf"), f"{name}: no +Inf"
        count = [v for s, _, v in rows if s == name + "_count"]
        assert count == [buckets[-1][1]] and sum(s == name + "_sum" for s, _, _ in rows) == 1, f"{name}: count or sum"


def check(text, open_metrics):
    families, closed, current, seen, helped = {}, set(), None, set(), set()
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    if open_metrics:
        assert lines.pop() == "# EOF", "no # EOF at the end"
    for line in lines:
        m = re.fullmatch(rf"# (HELP|TYPE) ({NAME}) (.+)", line)
        if m and m.group(1) == "HELP":
            assert m.group(2) not in helped, f"second HELP: {line}"
            helped.add(m.group(2))
            continue
        if m:
            assert m.group(2) not in families and m.group(3) in ("counter", "gauge", "histogram"), line
            closed.add(current)
            current = m.group(2)
            families[current] = (m.group(3), [])
            continue
        m = SAMPLE.fullmatch(line)
        assert m, f"not a sample: {line!r}"
        kind, samples = families[current]
        assert family_of(m.group(1), kind, {current}) == current, f"{line!r} among the samples of {current}"
        if kind == "counter":
            assert m.group(1).endswith("_total"), line
        labels = labels_of(m.group(2) or "")
        key = (m.group(1), tuple(sorted(labels.items())))
        assert key not in seen, f"twice: {line!r}"
        seen.add(key)
        samples.append((m.group(1), labels, float(m.group(3))))
    for name, (kind, samples) in families.items():
        assert samples and name in helped, f"{name}: no samples or no help"
        if kind == "histogram":
            check_histogram(name, samples)
    return families


# What the stock vLLM board asks for.
BOARD = """e2e_request_latency_seconds prompt_tokens generation_tokens inter_token_latency_seconds time_to_first_token_seconds num_requests_running num_requests_waiting
kv_cache_usage_perc request_prompt_tokens request_generation_tokens request_success request_queue_time_seconds request_prefill_time_seconds
request_decode_time_seconds request_max_num_generation_tokens""".split()


def main():
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0; q=0.9, text/plain;q=0.5"):
        open_metrics = "openmetrics" in accept
        text = subprocess.run([sys.argv[1], "--text", accept], capture_output=True, text=True, check=True).stdout
        families = check(text, open_metrics)
        for prefix in ("trireme:", "vllm:"):
            missing = [n for n in BOARD if prefix + n not in families and prefix + n + "_total" not in families]
            assert not missing, f"{prefix}: {missing}"
        print(f"{accept}: {len(families)} families")
        if not open_metrics and shutil.which("promtool"):
            run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
            bad = [line for line in (run.stdout + run.stderr).splitlines() if "error while linting" in line or "parsing" in line]
            assert run.returncode in (0, 3) and not bad, run.stdout + run.stderr  # 3: remarks on style, which vLLM's names earn
            print("promtool: parsed")


if __name__ == "__main__":
    main()
