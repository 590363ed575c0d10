"""The planner's phase times against what a run takes, on this machine, in the same minute.

    build/venv/bin/python tests/bench/plan_costs.py --trireme build/release/trireme -m build/models/smollm2.gguf -m build/models/gemma3.gguf

`trireme plan --device here` measures operations and adds them up; `trireme bench` runs decode steps.  Rounds of the two are interleaved, so that
a noisy neighbour hits both alike; the medians, their ratio and the spread of both are printed, nothing is asserted.  Run it on an idle machine:
where the spread is wider than the difference, the machine was not.
"""
import argparse
import itertools
import json
import statistics
import subprocess

PHASES = {"attention": ["attention"], "mlp": ["mlp"], "ends": ["embed", "head"]}


def line(argv):
    return json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def planned(a, model, tp, seqs, context):
    # bench's tokens are measured from the prompt's end on: half of them lie before the middle one
    cost = line([a.trireme, "plan", model, "--tp", str(tp), "--pp", "1", "--threads", "1", "--device", "here", "--step-seqs", str(seqs), "--step-ctx",
                 str(context + a.gen // 2), "--json"])["ranks"][0]["cost"]
    return {p: 1e3 * sum(cost[k] for k in keys) for p, keys in PHASES.items()}


def taken(a, model, tp, seqs, context):
    ranks = ["mpirun", "--oversubscribe", "-n", str(tp)] if tp > 1 else []
    ms = line([*ranks, a.trireme, "bench", "-m", model, "--threads", "1", "-b", str(seqs), "-d", str(context), "-p", "0", "-n", str(a.gen), "-r", "2",
               "--json"])["rank0_step_ms"]
    return {p: sum(ms[k] for k in keys) for p, keys in PHASES.items()}


def spread(values):
    return 100 * (max(values) - min(values)) / statistics.median(values)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", default="build/release/trireme")
    p.add_argument("-m", "--model", action="append", required=True)
    p.add_argument("--tp", type=int, nargs="+", default=[1], help="ranks of one thread; rank 0's phases are compared")
    p.add_argument("--seqs", type=int, nargs="+", default=[1, 4, 8])
    p.add_argument("--context", type=int, nargs="+", default=[16, 1024])
    p.add_argument("--gen", type=int, default=32)
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    print(f"{'checkpoint':28} tp seqs context  phase      planned ms  taken ms  planned/taken  spread of each")
    for model, tp, seqs, context in itertools.product(a.model, a.tp, a.seqs, a.context):
        rounds = [(planned(a, model, tp, seqs, context), taken(a, model, tp, seqs, context)) for _ in range(a.rounds)]
        for phase in PHASES:
            want, got = [r[0][phase] for r in rounds], [r[1][phase] for r in rounds]
            w, g = statistics.median(want), statistics.median(got)
            print(f"{model[-28:]:28} {tp:2} {seqs:4} {context:7}  {phase:9} {w:11.3f} {g:9.3f} {w / g:14.3f}  {spread(want):4.0f} % {spread(got):4.0f} %", flush=True)


if __name__ == "__main__":
    main()
