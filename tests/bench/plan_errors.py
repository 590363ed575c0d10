#!/usr/bin/env python3
"""How far predictions are from what runs take, on this machine: checkpoints x splits x batches x depths, measured by `trireme bench --json`, then `trireme plan --check`.

    build/venv/bin/python tests/bench/plan_errors.py --trireme build/release/trireme -m build/models/smollm2.gguf -m build/models/gemma3.gguf --shape 1b

--shape writes a file of random weights of that shape first (random_gguf.py), into --folder.  Ranks on other hosts, or behind a delay: --launch says how ranks are started, and --machine
names the file with what `trireme doctor` measured of the links.  Nothing is asserted.  Run it on an idle machine: --rounds measures and checks several times, and where rounds differ
by more than the errors, the machine was not idle.
"""
import argparse
import pathlib
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def splits(text):
    return [tuple(int(n) for n in s.split("x")) for s in text.split(",")]


def checkpoints(a):
    models = list(a.model)
    for shape in a.shape:
        path = a.folder / f"random-{shape}-{a.type}.gguf"
        if not path.exists():
            a.folder.mkdir(parents=True, exist_ok=True)
            subprocess.run([sys.executable, HERE / "random_gguf.py", path, "--shape", shape, "--type", a.type], check=True)
        models.append(str(path))
    return models


def measure(a, model, tp, pp, out):
    """Lines of results; a split that the checkpoint or the machine refuses is said so, and left out."""
    launch = shlex.split(a.launch.format(ranks=tp * pp)) if tp * pp > 1 else []
    command = [*launch, a.trireme, "bench", "-m", model, "--tp", str(tp), "--pp", str(pp), "--threads", str(a.threads), "-p", a.prompt, "-n", str(a.gen), "-b", a.batch, "-d", a.depth, "-r",
               str(a.repeat), "--json"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0 or not lines:
        print(f"no results: {shlex.join(command)} (exit code {run.returncode})", file=sys.stderr)
    out.write("".join(line + "\n" for line in lines))
    out.flush()
    return len(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trireme", default="build/release/trireme")
    p.add_argument("-m", "--model", action="append", default=[])
    p.add_argument("--shape", action="append", default=[], help="of random_gguf.py: 1b, 3b, 8b, tiny")
    p.add_argument("--type", default="q4_0")
    p.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/models"))
    p.add_argument("--splits", type=splits, default="1x1,2x1,1x2", help="tp x pp, with commas between")
    p.add_argument("--batch", default="1,4")
    p.add_argument("--depth", default="16,1024")
    p.add_argument("--prompt", default="128,512")
    p.add_argument("--gen", type=int, default=32)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--threads", type=int, default=1, help="of a rank")
    p.add_argument("--launch", default="mpirun --oversubscribe -n {ranks}")
    p.add_argument("--machine", help="whose links: passed on to plan --check")
    p.add_argument("--rounds", type=int, default=1)
    p.add_argument("--results", default="build/plan_errors.jsonl")
    a = p.parse_args()
    models = checkpoints(a)
    if not models:
        p.error("which checkpoints? -m FILE or --shape 1b")
    status = 0
    for i in range(a.rounds):
        n, path = 0, a.results if a.rounds == 1 else f"{a.results}.{i + 1}"
        with open(path, "w", encoding="utf-8") as out:
            for model in models:
                for tp, pp in a.splits:
                    n += measure(a, model, tp, pp, out)
        print(f"round {i + 1} of {a.rounds}: {n} results in {path}", flush=True)
        status |= subprocess.run([a.trireme, "plan", "--check", path, *(["--machine", a.machine] if a.machine else [])]).returncode if n > 0 else 1
    sys.exit(status)


if __name__ == "__main__":
    main()
