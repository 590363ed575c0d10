"""Real checkpoints against the reference implementation: continuations, log-probabilities and perplexity.

The goldens come from the folder that TRIREME_REFERENCE_DIR names; the checkpoints are converted or unpacked into --models by deploy/check:
smollm2.gguf, smollm2-f32/ and smollm2-bf16/ (Hugging Face directories), gemma3.gguf.
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile

from run import Failed, Report, generate, run

TOP5 = 5e-3  # of a log-probability in f32 compute


def clear_steps(record):
    """Greedy steps that can be compared: up to the first near-tie."""
    first = record.get("first_margin_below_0p02")
    return len(record["greedy_ids"]) if first is None else first


def check_record(report, what, record, answer):
    n = clear_steps(record)
    report.check(answer["token_ids"][:n] == record["greedy_ids"][:n], f"{what}: another continuation")
    worst = 0.0
    for position, top in record["prompt_positions"].items():
        p = int(position)
        at = answer["logprobs"][0] if p == len(record["prompt_ids"]) - 1 else answer["prompt_logprobs"][p + 1]
        got = dict(map(tuple, at["top"]))
        for token, want in zip(top["ids"], top["logprobs"]):
            worst = max(worst, abs(got.get(token, -1e9) - want))
    report.check(worst <= TOP5, f"{what}: log-probabilities of the prompt differ by {worst:.1e}")
    if n == len(record["greedy_ids"]) and "sum_logprob" in record:
        total = sum(t["logprob"] for t in answer["logprobs"])
        report.check(abs(total - record["sum_logprob"]) < 0.05, f"{what}: sum of log-probabilities {total} instead of {record['sum_logprob']}")
    return worst, n


def continuations(binary, report, model, goldens, split, compute, by_text):
    tp, pp = split
    records = json.loads(goldens.read_text())["records"]
    requests = []
    for i, r in enumerate(records):
        q = {"id": i, "max_tokens": len(r["greedy_ids"]), "temperature": 0, "ignore_eos": True, "logprobs": 5, "prompt_logprobs": 5}
        key = "messages" if "messages" in r else "prompt"
        q.update({key: r.get("messages") or r["text"]} if by_text else {"prompt_ids": r["prompt_ids"]})
        requests.append(q)
    what = f"{model.name} tp {tp} pp {pp} {compute}"
    try:
        answers = generate(binary, model, requests, tp, pp, ("--compute", compute, "--ctx", "2048"), timeout=900)
    except Failed as e:
        report.check(False, f"{what}: {e}")
        return
    worst = 0.0
    steps = 0
    for r, a in zip(records, answers):
        report.check(a["prompt_ids"] == r["prompt_ids"], f"{what}, {r['name']}: another tokenisation")
        d, n = check_record(report, f"{what}, {r['name']}", r, a)
        worst, steps = max(worst, d), steps + n
    print(f"{what}: {len(records)} prompts, {steps} comparable tokens, log-probabilities within {worst:.1e}", flush=True)


def perplexity(binary, model, ids, window, compute, tp=1, pp=1):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(ids, f)
        f.flush()
        code, out, err = run(binary, ["perplexity", "-m", model, "--ids", f.name, "--window", window, "--compute", compute, "--tp", tp, "--pp", pp,
                                      "--json"], tp * pp, timeout=1200)
    if code != 0:
        raise Failed(f"perplexity of {model}: exit code {code}\n{err[-1500:]}")
    return json.loads(out)


def perplexities(binary, report, models, golden, rows, split=(1, 1)):
    """rows: (checkpoint, compute, allowed relative difference or None: printed only)."""
    g = json.loads(golden.read_text())
    want = g["runs"][0]
    for name, compute, allowed in rows:
        if not (models / name).exists():
            report.skip(f"perplexity of {name}", "not made")
            continue
        got = perplexity(binary, models / name, g["token_ids"], want["window"], compute, *split)
        difference = got["perplexity"] / want["perplexity"] - 1
        print(f"perplexity {name:14} {compute:5} {got['perplexity']:9.4f}  reference (f32) {want['perplexity']:9.4f}  {100 * difference:+.3f} %", flush=True)
        report.check(got["tokens"] == want["tokens_scored"], f"{name}: {got['tokens']} tokens scored instead of {want['tokens_scored']}")
        if allowed is not None:
            report.check(abs(difference) <= allowed, f"{name} {compute}: perplexity {got['perplexity']} against {want['perplexity']}")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--models", required=True, type=pathlib.Path)
    p.add_argument("--splits", default="1x1,2x2")
    p.add_argument("--only", choices=("continuations", "perplexity"))
    a = p.parse_args()
    if not os.environ.get("TRIREME_REFERENCE_DIR"):
        print("skipped: TRIREME_REFERENCE_DIR names no folder of goldens")
        sys.exit(77)
    reference = pathlib.Path(os.environ["TRIREME_REFERENCE_DIR"])
    report = Report()
    cases = [("smollm2-f32", "smollm2/goldens_f32.json"), ("smollm2.gguf", "smollm2/goldens_f32.json"), ("smollm2-bf16", "smollm2/goldens_bf16.json"),
             ("gemma3.gguf", "gemma3-270m/goldens_f32.json")]
    for split in (() if a.only == "perplexity" else a.splits.split(",")):
        for name, goldens in cases:
            if not (a.models / name).exists():
                report.skip(name, f"not in {a.models}")
                continue
            continuations(a.trireme, report, a.models / name, reference / goldens, tuple(map(int, split.split("x"))), "f32", split == "1x1")
    if a.only != "continuations":
        perplexities(a.trireme, report, a.models, reference / "smollm2/perplexity_f32.json",
                     [("smollm2-f32", "f32", 1e-3), ("smollm2.gguf", "f32", 1e-3), ("smollm2-bf16", "auto", 1e-3), ("smollm2.gguf", "auto", 1e-2)])
        perplexities(a.trireme, report, a.models, reference / "gemma3-270m/perplexity_f32.json", [("gemma3.gguf", "f32", 1e-3), ("gemma3.gguf", "auto", 2e-2)])
    report.end()


if __name__ == "__main__":
    main()
