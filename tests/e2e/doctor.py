#!/usr/bin/env python3
"""`trireme doctor`, alone and on ranks: what it finds here, what it marks, exit codes; and the trace of steps over ranks.

    doctor.py --trireme BIN --model DIR
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import tempfile

import run
from run import Failed, Report

TWO_HOSTS = {"TRIREME_TEST_HOSTS": "2"}


def doctor(a, args, ranks=1, env=None, codes=(0, 1)):
    code, out, err = run.run(a.trireme, ["doctor", *args], ranks, env=env, timeout=120)
    if code not in codes:
        raise Failed(f"doctor {args} on {ranks}: exit code {code}\n{out[-1000:]}{err[-2000:]}")
    return code, out, err


def test_alone(a, report):
    code, out, _ = doctor(a, ["-m", a.model, "--content", "--json"])
    r = json.loads(out)
    me = r["ranks"][0]
    report.check(me["cores"] >= 1 and me["memory"] > 0 and len(me["binary"]) == 64 and me["checkpoint"].startswith("sha256:") and len(me["content"]) == 64 and me["isa"], f"facts: {me}")
    report.check(me["place"].startswith("cores ") and me["checkpoint_error"] is None, f"place: {me['place']}, {me['checkpoint_error']}")
    report.check(code == any(f["must"] for f in r["findings"]), f"exit code {code} with {r['findings']}")
    code, out, _ = doctor(a, ["-m", "/nowhere/at-all"], codes=(1,))
    report.check("MEND rank 0" in out and "the checkpoint cannot be used" in out, f"a checkpoint that is not there: {out[-500:]}")
    code, out, err = run.run(a.trireme, ["doctor", "--tp", "3"])
    report.check(code == 2 and "tp 3 x pp 0" in err or "this job has 1" in err, f"a split that is none: {code} {err}")


def test_ranks(a, report):
    """Two pretended hosts: what is between ranks is measured, and a checkpoint that differs on one of them is named."""
    code, out, _ = doctor(a, ["--tp", "2", "--json"], 4, TWO_HOSTS)
    r = json.loads(out)
    pairs = {tuple(x["ranks"]): x for x in r["links"]}
    report.check(set(pairs) == {(i, j) for i in range(4) for j in range(i + 1, 4)} and all(x["seconds"] > 0 and x["bytes_per_second"] > 1e5 for x in pairs.values()), f"pairs: {r['links']}")
    report.check(r["hosts"] == [0, 0, 1, 1] and [x["rank"] for x in r["ranks"]] == [0, 1, 2, 3], f"hosts: {r['hosts']}")
    sums = {x["what"] for x in r["sums"]}
    report.check(sums == {"all ranks", "stage 0", "stage 1", "stage 0 to 1"} and all(x["seconds"] > 0 for x in r["sums"]), f"sums: {r['sums']}")
    report.check(all(abs(x["clock_offset_seconds"]) <= 0.01 + x["clock_error_seconds"] for x in r["ranks"]), "the ranks of one machine have one clock")
    report.check({x["mpi"] for x in r["ranks"]} != {None}, "MPI's version")
    with tempfile.TemporaryDirectory() as folder:  # each rank sees the checkpoint at a path of its own
        for i in range(2):
            shutil.copytree(a.model, f"{folder}/{i}/model")
        weights = next(pathlib.Path(f"{folder}/1/model").glob("*.safetensors"))
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        argv = ["mpirun", "--oversubscribe"]
        for i in range(2):
            argv += [*([":"] if i else []), "-n", "1", "--wdir", f"{folder}/{i}", a.trireme, "doctor", "-m", "model", "--content"]
        code, out, err = run.run(argv[0], argv[1:], env=TWO_HOSTS)
        report.check(code == 1 and "MEND rank 1" in out and "checkpoint's bytes is" in out, f"other bytes on rank 1: {code} {out[-800:]}{err[-500:]}")


def test_machine(a, report):
    """The description for `trireme plan` has what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "machine.json")
        code, _, err = doctor(a, ["-m", a.model, "--machine", file], 2, TWO_HOSTS)
        report.check(file.exists(), f"no machine's description: {code} {err[-500:]}")
        if file.exists():
            m = json.loads(file.read_text())
            report.check(m["devices_per_host"] == 1 and m["memory_bytes"] > 0 and "in_host" not in m and m["between_hosts"]["bytes_per_second"] > 1e5, f"the machine: {m}")
            report.check(set(m["device"]["weights_per_second"]) == set(m["device"]["macs_per_second"]) and all(v > 0 for v in m["device"]["weights_per_second"].values())
                         and m["device"]["cache_bytes_per_second"] > 0, f"its device: {m['device']}")
            report.check(len(m["sums"]) > 2 and len({s["bytes"] for s in m["sums"]}) == len(m["sums"]) and all((s["ranks"], s["hosts"]) == (2, 2) and s["seconds"] > 0 for s in m["sums"]),
                         f"sums over both hosts, each size once: {m['sums']}")
    code, _, err = run.run(a.trireme, ["doctor", "--machine", "x.json"])
    report.check(code == 2 and "give a checkpoint with -m" in err, f"--machine without a checkpoint: {code} {err}")


def test_stopped(a, report):
    """A rank that is stopped before the first collective is named within the deadline."""
    stop = pathlib.Path(a.trireme).parent / "tests/stop_rank.so"
    if not stop.exists():
        return report.skip("a stopped rank", f"{stop} is not built")
    env = {"LD_PRELOAD": str(stop), "TRIREME_STOP_AT": "MPI_Iallgather", "TRIREME_STOP_RANK": "1"}
    argv = ["--oversubscribe", *(x for k, v in env.items() for x in ("-x", f"{k}={v}")), "-n", "3", a.trireme, "doctor", "--timeout", "2"]
    code, out, err = run.run("mpirun", argv, timeout=60)
    return report.check(code != 0 and re.search(r"rank 1 \([^)]+\) of 3 came and has not been heard of since, for 2 s", err), f"a stopped rank: {code} {err[-800:]}")


def check_trace(report, what, trace, ranks, steps, stages):
    """Bars nest, every rank has every step, and what is known of order holds: a step begins at no later stage before it does at the one before."""
    bars = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M" and e["name"] == "process_name"}
    report.check(set(names) == set(range(ranks)) and all(f"rank {i}, " in names[i] for i in names), f"{what}: ranks {names}")
    begins = {}
    for rank in range(ranks):
        mine = [e for e in bars if e["pid"] == rank]
        outer = [e for e in mine if e["cat"] == "step"]
        report.check([e["args"]["step"] for e in outer] == steps, f"{what}: rank {rank} has the steps {[e['args']['step'] for e in outer]}, not {steps}")
        for s in outer:
            inner = [e for e in mine if e["cat"] != "step" and e["args"]["step"] == s["args"]["step"]]
            begins[rank, s["args"]["step"]] = s["ts"]
            at = s["ts"]
            for e in inner:
                report.check(abs(e["ts"] - at) < 0.01 and e["dur"] >= 0, f"{what}: rank {rank}: {e} does not begin where the one before ended, {at}")
                at = e["ts"] + e["dur"]
            report.check(abs(at - (s["ts"] + s["dur"])) < 0.01, f"{what}: rank {rank}, {s['name']}: its parts end at {at}, it at {s['ts'] + s['dur']}")
            kinds = {e["name"] for e in inner}
            report.check({"batch", "attention", "mlp"} <= kinds and ("embedding" in kinds) == (stages[rank] == 0) and ("sampling" in kinds) == (stages[rank] == max(stages)),
                         f"{what}: rank {rank} of stage {stages[rank]} was at {sorted(kinds)}")
            report.check(stages[rank] == 0 or "waiting for a stage" in kinds, f"{what}: stage {stages[rank]} waits for the one before: {sorted(kinds)}")
    for (rank, step), ts in begins.items():
        ends = [e["ts"] + e["dur"] for e in bars if e["cat"] == "step" and e["pid"] == 0 and e["args"]["step"] == step]
        report.check(stages[rank] == 0 or any(e["ts"] + e["dur"] > ends[0] for e in bars if e["pid"] == rank and e["args"]["step"] == step), f"{what}: rank {rank} had done step {step} before stage 0")


def test_trace(a, report):
    for tp, pp, steps, asked in ((1, 1, [1, 2, 3], "3"), (2, 2, [2, 3, 4, 5], "2-5")):
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/trace.json"
            argv = ["generate", "-m", a.model, "--prompts", "-", "--tp", tp, "--pp", pp, "--trace-steps", asked, "--trace-file", file]
            request = json.dumps({"id": 1, "prompt": "hello", "max_tokens": 8, "ignore_eos": True})
            code, _, err = run.run(a.trireme, argv, tp * pp, stdin=request, env=TWO_HOSTS if pp > 1 else None)
            report.check(code == 0 and os.path.exists(file), f"generate with a trace: {code} {err[-800:]}")
            if os.path.exists(file):
                check_trace(report, f"tp {tp} x pp {pp}", json.loads(pathlib.Path(file).read_text()), tp * pp, steps, [i // tp for i in range(tp * pp)])
    code, _, err = run.run(a.trireme, ["generate", "-m", a.model, "-p", "x", "--trace-steps", "5-2"])
    report.check(code == 2 and "--trace-steps 5-2" in err, f"steps that are none: {code} {err}")


def test_places(a, report):
    """Ranks say where they are, and that they share what there is too little of."""
    ranks = (os.cpu_count() or 1) + 1
    code, _, err = run.run(a.trireme, ["generate", "-m", a.model, "-p", "hello", "--max-tokens", "2", "--tp", "1", "--pp", "2"], 2)
    report.check(code == 0 and "rank 0 host " in err and "rank 1 host " in err and ": cores " in err, f"places: {code} {err[-800:]}")
    if ranks <= 3:
        code, out, err = doctor(a, [], ranks)
        report.check("(shared)" in out and "cores are shared with other ranks" in out, f"{ranks} ranks on {ranks - 1} cores: {out[-1500:]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--model", required=True)
    a = parser.parse_args()
    a.trireme = os.path.abspath(a.trireme)
    report = Report()
    for test in (test_alone, test_ranks, test_machine, test_stopped, test_trace, test_places):
        test(a, report)
    report.end()


if __name__ == "__main__":
    main()
