"""Ranks on hosts that share nothing but a network (hosts.py): golden tokens with tensor parallelism across hosts and with stages across hosts, over a good
network and over one with delay and loss; hosts and ranks that never come are named.

    multihost.py --trireme TRIREME --golden CHECKPOINTS --switch SLOW_SWITCH --ssh deploy/mpirun-ssh
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

import golden
import hosts
import run

DELAY_US, LOSS_PERMILLE = 2000, 10
NAMED_WITHIN = 30  # seconds


class OverHosts:
    """While it lasts, run.run starts mpirun on the hosts, a rank to each in turn."""

    def __init__(self, machines, interface="eth0"):
        self.machines, self.interface, self.took = machines, interface, 0.0

    def __enter__(self):
        self.before, run.run = run.run, self.run
        return self

    def __exit__(self, *exception):
        run.run = self.before

    def run(self, binary, args, ranks=1, stdin="", env=None, timeout=120):
        argv = self.machines.mpirun([binary, *args], ranks, self.interface)
        code, out, err, took = self.machines.run(argv, timeout, env, stdin)
        if code is None:
            raise run.Failed(f"{' '.join(map(str, argv))}: not over after {timeout} s\n{err[-2000:]}")
        self.took += took
        return code, out, err


def check_golden(report, machines, args):
    """Returns the seconds each split took over the good network."""
    took = {}
    for split in args.splits.split(","):
        tp, pp = map(int, split.split("x"))
        with OverHosts(machines) as over:
            golden.check_checkpoint(args.trireme, args.golden / args.checkpoint, tp, pp, report)
        took[split] = over.took
        print(f"tp {tp} x pp {pp} on {tp * pp} hosts: {over.took:.1f} s", flush=True)
    return took


def check_slow(report, machines, args):
    """A network with delay and loss changes the time, not the tokens."""
    quick = check_golden(report, machines, args)
    ports = [f"{name}=10.78.0.{i + 1}/24" for i, name in enumerate(machines.names)]
    switch = subprocess.Popen([args.switch, str(DELAY_US), str(LOSS_PERMILLE), "1", *ports], stdout=subprocess.PIPE, text=True)
    try:
        if switch.stdout.readline() != "ready\n":
            raise run.Failed(f"{args.switch} does not start")
        for split in quick:
            tp, pp = map(int, split.split("x"))
            with OverHosts(machines, "wan0") as over:
                golden.check_checkpoint(args.trireme, args.golden / args.checkpoint, tp, pp, report)
            print(f"tp {tp} x pp {pp} with {DELAY_US / 1000:g} ms and {LOSS_PERMILLE / 10:g} % lost: {over.took:.1f} s", flush=True)
            report.check(over.took > quick[split], f"{split}: the slow network takes longer: {over.took:.1f} s, not {quick[split]:.1f} s")
    finally:
        switch.terminate()
        said, _ = switch.communicate(timeout=20)
    passed, _, _, lost = said.split()[:4]
    print(f"the switch: {said.strip()}", flush=True)
    report.check(int(lost) > 0.003 * int(passed) > 1, f"frames went over it, and some were lost: {said}")


def told_within(machines, argv, words, env=None, kill=True):
    """Seconds until all words stand in one line that the job says, or None; then the job is ended, with kill all that runs on the hosts."""
    with subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(machines.path / "said", "w"),
                          env={**os.environ, **run.ENV, **(env or {})}, start_new_session=True) as p:
        begin, said = time.monotonic(), None
        while said is None and time.monotonic() - begin < NAMED_WITHIN:
            time.sleep(0.1)
            if any(all(w in line for w in words) for line in (machines.path / "said").read_text().splitlines()):
                said = time.monotonic() - begin
            elif p.poll() is not None:
                break
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
        for name in machines.names if kill else ():
            hosts.kill_in(name)
    return said


def check_absent(report, machines, args):
    """One that is switched off, one whose rank never starts, one that the network between ranks does not reach: each is named, and no other."""
    victim, model = machines.names[2], args.golden / args.checkpoint
    job = [args.trireme, "generate", "-m", model, "-p", "x", "--max-tokens", 4, "--tp", 2, "--pp", 2]

    def named(what, argv, words, env=None):
        took = told_within(machines, argv, [victim, *words], env)
        said = (machines.path / "said").read_text()
        report.check(took is not None, f"{what}: {victim} is named within {NAMED_WITHIN} s: {said[-2000:]}")
        lines = [line for line in said.splitlines() if line.startswith("trireme: ") or line.startswith("error: ")]
        report.check(not any(other in line for line in lines for other in machines.names[1:] if other != victim), f"{what}: no other is named: {lines}")
        if took is not None:
            print(f"{what}: named after {took:.1f} s", flush=True)

    machines.absent.write_text(victim + "\n")
    named("a host that is off", machines.mpirun(job, 4, agent=args.ssh), ["has not answered"], {"TRIREME_SSH": str(machines.agent)})
    machines.absent.write_text("")
    late = machines.path / "late"
    late.write_text('#!/bin/bash\n[ "$OMPI_COMM_WORLD_RANK" != 2 ] || exec sleep 600\nexec "$@"\n')
    late.chmod(0o755)
    named("a rank that never starts", machines.mpirun([late, *job], 4), ["did not come", "rank 2"])
    machines.second_network("data0", unplugged=2)
    named("a host that others do not reach", machines.mpirun(job, 4, "data0"), ["nothing has come", "rank 2"])


CHECKS = {"slow": check_slow, "golden": check_golden, "absent": check_absent}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--golden", required=True, type=pathlib.Path)
    parser.add_argument("--checkpoint", default="llama-9h3kv-llama3rope")
    parser.add_argument("--splits", default="4x1,1x3,2x2")
    parser.add_argument("--switch", required=True)
    parser.add_argument("--ssh", required=True)
    parser.add_argument("--only", default="slow,absent")
    args = parser.parse_args()
    why = hosts.why_not()
    if why:
        print(f"skipped: {why}")
        sys.exit(77)
    report = run.Report()
    with hosts.Hosts(4) as machines:
        for name in args.only.split(","):
            try:
                CHECKS[name](report, machines, args)
            except run.Failed as e:
                report.check(False, f"{name}: {e}")
    sys.exit(report.end())


if __name__ == "__main__":
    main()
