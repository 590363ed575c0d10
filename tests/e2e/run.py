"""What the end-to-end tests share: starting trireme, alone or under mpirun, with a deadline."""
import json
import os
import signal
import subprocess
import sys

ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
       "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}


class Failed(Exception):
    pass


def command(binary, args, ranks=1):
    """The argv of a run on that many ranks; one rank runs without MPI."""
    return (["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []) + [binary] + [str(a) for a in args]


def run(binary, args, ranks=1, stdin="", env=None, timeout=120):
    """(exit code, stdout, stderr); a run past its deadline is killed with all its ranks and raises Failed."""
    argv = command(binary, args, ranks)
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         env={**os.environ, **ENV, **(env or {})}, start_new_session=True)
    try:
        out, err = p.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        out, err = p.communicate()
        raise Failed(f"{' '.join(argv)}: not over after {timeout} s\n{err[-2000:]}") from None
    return p.returncode, out, err


def generate(binary, model, requests, tp=1, pp=1, args=(), env=None, timeout=300, said=None):
    """Answers of `trireme generate --json`, in the order of the requests; what it said on standard error is appended to the list `said`."""
    text = "".join(json.dumps(r) + "\n" for r in requests)
    argv = ["generate", "-m", model, "--prompts", "-", "--json", "--tp", tp, "--pp", pp, *args]
    code, out, err = run(binary, argv, tp * pp, text, env, timeout)
    if code != 0:
        raise Failed(f"generate on {model} tp {tp} pp {pp} {args}: exit code {code}\n{err[-2000:]}")
    if said is not None:
        said.append(err)
    answers = [json.loads(line) for line in out.splitlines()]
    if [a["id"] for a in answers] != [r["id"] for r in requests]:
        raise Failed(f"generate on {model}: answers out of order or missing")
    return answers


class Report:
    """Counts checks; ends with the line that test runners read."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, ok, what):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {what}", flush=True)
        return ok

    def skip(self, what, why):
        self.skipped += 1
        print(f"skipped {what}: {why}", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        if self.failed:
            sys.exit(1)
        sys.exit(0 if self.passed else 77)
