#!/usr/bin/env python3
"""`trireme bench scale` and `bench load`, and `bench --breakdown` that they stand on: rows, sums and ends.  No time is compared with a limit.

    bench_scale.py --trireme TRIREME --model CHECKPOINT
"""
import argparse
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import tempfile
import time

import run

PARTS = ("compute", "collective", "bubble", "scheduling", "missing")


def rows_of(text):
    return [json.loads(line) for line in text.splitlines()]


def bench(trireme, *args, code=0, env=None):
    got, out, err = run.run(trireme, ["bench", *args], env=env)
    if got != code:
        raise run.Failed(f"bench {' '.join(map(str, args))}: exit code {got}, not {code}\n{out[-500:]}\n{err[-1500:]}")
    return out, err


def check_parts(report, what, rank, most_missing=0.95):
    """most_missing: more than is missing where every rank has a core; on busy ones a rank may be put aside anywhere."""
    report.check(abs(sum(rank[p] for p in PARTS) - 1) < 1e-6, f"{what}: parts are all of the time: {rank}")
    report.check(all(0 <= rank[p] <= 1 for p in ("compute", "collective", "skew", "scheduling")) and -0.05 <= rank["bubble"] <= 1, f"{what}: parts are parts: {rank}")
    report.check(rank["compute"] > 0.01 and abs(rank["missing"]) < most_missing, f"{what}: clocks cover what happens: {rank}")
    report.check(rank["skew"] <= rank["collective"] + 1e-9, f"{what}: waiting in collectives is part of them: {rank}")


def check_breakdown(report, trireme, model):
    for tp, pp in ((1, 1), (2, 1), (1, 2)):
        what = f"--breakdown on {tp}x{pp}"
        code, out, err = run.run(trireme, ["bench", "-m", model, "--tp", tp, "--pp", pp, "--threads", 1, "-p", 64, "-n", 64, "-r", 2, "--breakdown", "--json"], tp * pp)
        if not report.check(code == 0, f"{what}: {err[-800:]}"):
            continue
        rows = rows_of(out)
        report.check([r["test"] for r in rows] == ["prefill", "decode"], f"{what}: {[r['test'] for r in rows]}")
        for row in rows:
            ranks = row["breakdown"]
            report.check([r["rank"] for r in ranks] == list(range(tp * pp)) and max(r["stage"] for r in ranks) == pp - 1, f"{what}: {ranks}")
            for r in ranks:
                check_parts(report, f"{what} {row['test']} rank {r['rank']}", r, 0.5)
                report.check((r["skew"] == 0 or tp > 1) and r["collective"] > 0 and (tp > 1 or r["collective"] < 0.1), f"{what}: only ranks of a stage wait for one another: {r}")
            # One rank may be the last one each time, and never wait.
            report.check(tp == 1 or any(r["skew"] > 0 for r in ranks), f"{what}: of the ranks of a stage one waits: {ranks}")
            if pp > 1:  # one sequence: one stage computes at a time
                report.check(sum(r["compute"] for r in ranks) < 1.1 and max(r["bubble"] for r in ranks) > 0.2, f"{what}: stages wait for one another: {ranks}")
            elif tp == 1:
                report.check(ranks[0]["bubble"] < 0.05, f"{what}: nobody else to wait for: {ranks}")
    code, out, err = run.run(trireme, ["bench", "-m", model, "--threads", 1, "-p", 16, "-n", 8, "-r", 1, "--breakdown"])
    report.check(code == 0 and "where it went" in out and out.count("decode 8 after 16") == 2, f"a table: {out}")


def check_scale(report, trireme, model, work):
    save = work / "scale.jsonl"
    splits = {(1, 1, 1): 1, (2, 1, 1): 2, (1, 2, 1): 2, (1, 1, 2): 2, (1, 2, 2): 4}
    text, _ = bench(trireme, "scale", "-m", model, "--splits", "1x1,2x1,1x2,1x1x2,1x2x2", "-t", 1, "-p", 48, "-n", 24, "-b", "2,4", "-r", 2, "--json", "--save", save, "--", "--kv-type", "q8")
    rows = rows_of(text)
    report.check(rows == rows_of(save.read_text()), "what is saved is what is printed")
    report.check(all(r["environment"]["replica"]["kv_type"] == "q8" for r in rows), "options behind -- reach the jobs")
    report.check(len(rows) == 5 * 2 * 2 * 2, f"{len(rows)} rows: of each split, phase, number of sequences and scaling")
    base = {}
    for r in rows:
        split, key = (r["tp"], r["pp"], r["replicas"]), (r["phase"], r["scaling"], r["batch"])
        what, ranks = f"{split} {key}", splits[split]
        base.setdefault(key, r)
        report.check(r["sequences"] == r["batch"] * (ranks if r["scaling"] == "weak" else 1), f"{what}: {r['sequences']} sequences")
        rates = [r["sequences"] * r["tokens"] / s for s in r["seconds"]]
        report.check(len(rates) == 2 and math.isclose(statistics.mean(rates), r["tokens_per_second"], rel_tol=1e-6), f"{what}: {r['tokens_per_second']} tokens/s of {rates}")
        speedup = r["tokens_per_second"] / base[key]["tokens_per_second"]
        report.check(math.isclose(speedup, r["speedup"], rel_tol=1e-9) and math.isclose(speedup / ranks, r["efficiency"], rel_tol=1e-9), f"{what}: over the first: {r['speedup']} {r['efficiency']}")
        report.check(sorted((b["replica"], b["rank"]) for b in r["breakdown"]) == [(i, k) for i in range(r["replicas"]) for k in range(r["tp"] * r["pp"])], f"{what}: each rank: {r['breakdown']}")
        report.check(abs(sum(r[p] for p in PARTS) - 1) < 1e-6, f"{what}: parts are all of the time")
        for b in r["breakdown"]:
            check_parts(report, what, b)
    cores = len(os.sched_getaffinity(0))
    report.check(all(("memory_read" in r) == (splits[r["tp"], r["pp"], r["replicas"]] <= cores) and r.get("memory_read", 1) > 0 for r in rows), "memory's bandwidth by cores, as far as there are any")
    text, _ = bench(trireme, "scale", "-m", model, "--splits", "1x1,1x1x2", "-t", 1, "-p", 0, "-n", 8, "-b", 1, "--scaling", "weak", "-r", 1)
    report.check("1 sequence for each rank (weak scaling)" in text and "tp 1 x pp 1 x 2 replicas" in text and "strong" not in text, f"a table: {text}")
    return save


def check_launcher(report, trireme, model, work):
    """A launcher of one's own is told how many ranks, and which of the replicas."""
    script, log = work / "launcher", work / "launched"
    script.write_text(f'#!/bin/sh\necho "$1 $2" >> {log}\nshift 2\nexec "$@"\n')
    script.chmod(0o755)
    bench(trireme, "scale", "-m", model, "--splits", "1x1,2x1,1x1x2", "-t", 1, "-p", 0, "-n", 4, "-b", 2, "-r", 1, "--scaling", "strong", "--json", "--launcher",
          f"{script} {{job}} {{ranks}} mpirun --oversubscribe -n {{ranks}}")
    report.check(sorted(log.read_text().splitlines()) == ["0 1", "0 1", "0 2", "1 1"], f"jobs were started as {log.read_text().splitlines()}")


def check_failures(report, trireme, model):
    text, err = bench(trireme, "scale", "-m", model, "--splits", "1x1,200x1", "-p", 0, "-n", 4, "-r", 1, "--scaling", "strong", "--json", "--launcher", "mpirun --oversubscribe -n 1", code=1)
    report.check("tp 200 x pp 1 is left out: a job of 200 ranks ended with exit code" in err and len(rows_of(text)) == 1, f"a split that cannot be is left out, by name: {err[-600:]}")
    _, err = bench(trireme, "scale", "-m", "/nonexistent", "--splits", "1x1", code=1)
    report.check("/nonexistent" in err, f"no checkpoint: {err[-400:]}")
    for args in (("scale",), ("scale", "-m", model, "--splits", "1"), ("scale", "-m", model, "--splits", "1x1x1x1"), ("scale", "-m", model, "--splits", "0x1"), ("scale", "-m", model, "-b", "0"),
                 ("scale", "-m", model, "--scaling", "some"), ("scale", "-m", model, "extra"), ("load",), ("load", "-m", model, "--cache", "hot"), ("load", "-m", model, "extra")):
        bench(trireme, *args, code=2)


def check_signal(report, trireme, model, work):
    """Ctrl-C in the first split ends with an error, in the second with what the first gave; no job outlives it."""
    script, log = work / "waits", work / "waits.log"
    script.write_text(f'#!/bin/sh\n[ "$1" = 2 ] || [ "$WAIT_AT_ONCE" ] && echo "$$" >{log} && exec sleep 1000\nshift\nexec "$@"\n')
    script.chmod(0o755)
    for at_once in ("yes", ""):
        log.unlink(missing_ok=True)
        p = subprocess.Popen([trireme, "bench", "scale", "-m", model, "--splits", "1x1,2x1", "-t", "1", "-p", "0", "-n", "8", "-b", "2", "-r", "1", "--scaling", "strong", "--json", "--launcher",
                              f"{script} {{ranks}}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **run.ENV, "WAIT_AT_ONCE": at_once})
        until = time.monotonic() + 30
        while not (log.exists() and log.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        job = int(log.read_text())
        p.send_signal(signal.SIGINT)
        try:
            text, err = p.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            p.kill()
            raise run.Failed("Ctrl-C does not end bench scale within 30 s") from None
        report.check(p.returncode == 1 and "ended by a signal" in err, f"Ctrl-C: exit code {p.returncode}, {err[-400:]}")
        report.check(not os.path.exists(f"/proc/{job}"), "its jobs are gone")
        rows = rows_of(text)
        report.check([r["tp"] for r in rows] == ([] if at_once else [1]) and ("decode 8, 2 sequences" in err) == (not at_once), f"what was measured before it is told: {text} {err[-400:]}")


def check_load(report, trireme, model, work):
    save = work / "load.jsonl"
    for tp in (1, 2):
        text, _ = bench(trireme, "load", "-m", model, "--tp", tp, "-t", 1, "-r", 2, "--json", "--save", save, env=run.ENV)
        rows = rows_of(text)
        report.check([r["cache"] for r in rows] == ["cold", "warm"], f"load on {tp}: {[r['cache'] for r in rows]}")
        for r in rows:
            what = f"load on {tp} {r['cache']}"
            report.check(len(r["seconds"]) == 2 and min(r["seconds"]) > r["load_seconds"] > 0 and min(r["seconds"]) > 0.5 * r["ready_seconds"] > 0, f"{what}: {r}")
            report.check(r["weight_bytes"] > 0 and 0 <= r["cached"] <= 1 and len(r["environment"]["replica"]["ranks"]) == tp, f"{what}: {r}")
        report.check(rows[1]["cached"] > 0.99 and rows[0]["cached"] <= rows[1]["cached"], f"files are in memory before a warm start: {rows[1]['cached']}")
    text, _ = bench(trireme, "load", "-m", model, "-r", 1, "--cache", "warm")
    report.check("warm" in text and "cold" not in text, f"a table: {text}")
    report.check(len(rows_of(save.read_text())) == 4, "rows are saved")


def check_report(report, trireme, model, work, save):
    code, _, err = run.run(trireme, ["bench", "-m", model, "--tp", 2, "--threads", 1, "-p", 0, "-n", 8, "-r", 1, "--trace-steps", "4-6", "--trace-file", work / "steps.json"], 2)
    report.check(code == 0, f"a trace: {err[-500:]}")
    code, _, err = run.run(trireme, ["report", save, work / "load.jsonl", work / "steps.json", "-o", work / "scale.html"])
    report.check(code == 0, f"report: {err[-500:]}")
    page = (work / "scale.html").read_text()
    report.check("Speed-up over ranks" in page and "Where the ranks" in page and "Step by step" in page and "rank 1, step 5, layer 0: attention" in page, "the page has curves, parts and steps")
    if os.environ.get("PAGE_SHOTS"):
        pathlib.Path(os.environ["PAGE_SHOTS"], "scale.html").write_text(page)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--model", required=True)
    a = parser.parse_args()
    report = run.Report()
    os.environ.update(run.ENV)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        check_breakdown(report, a.trireme, a.model)
        save = check_scale(report, a.trireme, a.model, work)
        check_launcher(report, a.trireme, a.model, work)
        check_failures(report, a.trireme, a.model)
        check_signal(report, a.trireme, a.model, work)
        check_load(report, a.trireme, a.model, work)
        check_report(report, a.trireme, a.model, work, save)
    report.end()


if __name__ == "__main__":
    main()
