#!/usr/bin/env python3
"""Load on a real gateway with a real replica of a tiny checkpoint: every token of every answer is compared with `trireme generate`'s.

    gateway_load.py --trireme BIN --model DIR --vocab N [--only NAME,...] [--streams N] [--rate R --seconds S] [--overload S]
                    [--waiting N] [--drained N] [--sanitized]

The defaults are a small run; the full one is  --streams 1000 --rate 200 --seconds 30 --overload 30 --waiting 256.  Times are printed with the machine's load at that
time, and never asserted: what must hold is that no answer is wrong, refused without need or cut, that memory stays within bounds, and that all is given back.
"""
import argparse
import asyncio
import contextlib
import os
import pathlib
import random
import resource
import signal
import subprocess
import tempfile
import time

import serving
from load_client import Client
from serving import Failed, Serving, get

run = serving.run
GATEWAY_MIB = 300       # what the gateway may take, whatever the load
FLAT_MIB = 24           # how much more than after its first third an overload may take: allocators' slack


# ---- what is asked, and what must come back ----

class Workload:
    """Requests whose tokens are known from one run of `trireme generate`: greedy ones and drawn ones in turn."""

    def __init__(self, a, n, max_tokens, seed=1):
        """max_tokens: of every answer, or (least, most)."""
        rng = random.Random(seed)
        least, most = max_tokens if isinstance(max_tokens, tuple) else (max_tokens, max_tokens)
        self.requests = [{"id": f"r{i}", "prompt_ids": [rng.randrange(4, a.vocab) for _ in range(rng.randrange(4, 40))], "max_tokens": rng.randint(least, most), "temperature": i % 2,
                          "seed": i, "ignore_eos": True} for i in range(n)]
        self.want = [(w["token_ids"], w["text"]) for w in run.generate(a.trireme, a.model, self.requests)]

    def body(self, i, streamed, max_tokens=None):
        r = self.requests[i % len(self.requests)]
        return {"prompt": r["prompt_ids"], "max_tokens": max_tokens or r["max_tokens"], "temperature": r["temperature"], "seed": r["seed"], "ignore_eos": True,
                "return_token_ids": True, "stream": streamed}

    def n_tokens(self, i):
        return self.requests[i % len(self.requests)]["max_tokens"]

    def wrong(self, i, answer):
        """None, or how the i-th answer differs from what it must be."""
        tokens, text = self.want[i % len(self.want)]
        if answer.error:
            return answer.error
        if answer.status() != 200:
            return f"status {answer.status()}: {answer.body()[:200]}"
        if "text/event-stream" in (answer.header("content-type") or ""):
            events, done = answer.events()
            if not done:
                return "no [DONE]"
        else:
            events = [answer.json()]
        choices = [c for e in events for c in e.get("choices", [])]
        got = [t for c in choices for t in c.get("token_ids") or []]
        if got != tokens:
            at = next((k for k, (x, y) in enumerate(zip(got, tokens)) if x != y), min(len(got), len(tokens)))
            return f"{len(got)} tokens of {len(tokens)}, different from the {at}th on: {got[at:at + 4]}, not {tokens[at:at + 4]}"
        if "".join(c.get("text") or "" for c in choices) != text:
            return "another text"
        finish = [c["finish_reason"] for c in choices if c.get("finish_reason")]
        return None if finish == ["length"] else f"finish_reason {finish}"


def check_all(report, what, workload, answers):
    wrong = [(i, w) for i, x in enumerate(answers) for w in [workload.wrong(i, x)] if w]
    return report.check(not wrong, f"{what}: {len(wrong)} of {len(answers)} answers are wrong, first {wrong[:3]}")


# ---- figures ----

def memory_mib(pid, what="VmRSS"):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(what + ":")) / 1024


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values, share):
    values = sorted(values)
    return values[min(int(share * len(values)), len(values) - 1)] if values else float("nan")


def check_end(a, report, what, s, peak):
    report.check(peak < GATEWAY_MIB or a.sanitized, f"{what}: the gateway took {peak:.0f} MiB")
    held = given_back(s)
    report.check(held is None, f"{what}: not given back: {held}")


def peak_of(spans):
    """The most that were under way at one moment."""
    now = most = 0
    for _, step in sorted((t, step) for begin, end in spans for t, step in ((begin, 1), (end, -1))):
        now += step
        most = max(most, now)
    return most


def state_of(s):
    return asyncio.run(get(s.port, "/state"))[2]


class Meter:
    """What a stretch of load took; prints a line of the table."""

    def __init__(self, s):
        self.s, self.pids = s, {"gateway": s.gateway.p.pid, "replica": s.replicas["a"].p.pid}
        self.began, self.cpu = time.monotonic(), {k: cpu_seconds(p) for k, p in self.pids.items()}
        self.own = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])

    def show(self, what, answers, tokens):
        took = time.monotonic() - self.began
        cpu = {k: cpu_seconds(p) - self.cpu[k] for k, p in self.pids.items()}
        own = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - self.own
        peak = memory_mib(self.pids["gateway"], "VmHWM")
        good = [x for x in answers if x.status() == 200]
        latency = state_of(self.s)["latency"]
        print(f"{what}: {len(good)} answers, {tokens} tokens in {took:.1f} s ({tokens / took:.0f}/s); first byte p50 {percentile([x.first - x.due for x in good], 0.5) * 1e3:.0f} "
              f"p99 {percentile([x.first - x.due for x in good], 0.99) * 1e3:.0f} ms; whole p50 {percentile([x.ended - x.due for x in good], 0.5) * 1e3:.0f} p99 "
              f"{percentile([x.ended - x.due for x in good], 0.99) * 1e3:.0f} ms")
        for name, l in latency.items():
            print(f"    gateway added, {name}: p50 {l['p50_ms']:.2f} p99 {l['p99_ms']:.2f} max {l['max_ms']:.1f} ms ({l['n']})")
        print(f"    gateway peak {peak:.0f} MiB; CPU seconds: gateway {cpu['gateway']:.2f} ({cpu['gateway'] / max(tokens, 1) * 1e6:.0f} us a token), replica {cpu['replica']:.2f}, "
              f"client {own:.2f}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs", flush=True)
        return peak


def given_back(s, seconds=30):
    """None, or what is still held when all requests are over and their time is up."""
    until = time.monotonic() + seconds
    while True:
        state = state_of(s)
        r = state["replicas"][0] if state["replicas"] else None
        if r and r["held"] == 0 and r["running"] == 0 and r["waiting"] == 0 and r["kv_blocks_free"] == r["kv_blocks"] and state["requests"]["running"] == 0:
            return None
        if time.monotonic() > until:
            return f"{state['requests']} {r}"
        time.sleep(0.1)


@contextlib.contextmanager
def serve(a, n_seqs, gateway=(), replica=()):
    with Serving(a.trireme, options=gateway) as s:
        s.start_replica("a", a.model, args=["--max-seqs", n_seqs, "--threads", 1, *replica])
        s.wait_ready()
        yield s


# ---- the tests ----

def streams(a, report, what, n, at_once, max_tokens):
    w = Workload(a, min(n, 64), max_tokens)
    with serve(a, at_once, replica=["--max-batched-tokens", max(512, 2 * at_once)]) as s:
        client = Client(s.port)
        m = Meter(s)
        answers = client.run([(0, client.request("/v1/completions", w.body(i, True))) for i in range(n)], a.deadline, at_once)
        client.close()
        open_at_once = peak_of((x.first, x.ended) for x in answers if x.first is not None)
        peak = m.show(f"{what}, {open_at_once} at once", answers, sum(w.n_tokens(i) for i in range(n)))
        check_all(report, what, w, answers)
        check_end(a, report, what, s, peak)


def test_latency(a, report):
    """32 streams, others following them: what the gateway adds."""
    streams(a, report, f"{a.streams * 2} streams, 32 after 32", a.streams * 2, 32, (32, 96))


def test_streams(a, report):
    """All at once."""
    streams(a, report, f"{a.streams} streams", a.streams, a.streams, 150)


def test_rate(a, report):
    """Short completions, as many a second whether or not the ones before have been answered."""
    w = Workload(a, 64, 8)
    n = int(a.rate * a.seconds)
    what = f"{a.rate} requests/s for {a.seconds} s"
    with serve(a, 64) as s:
        client = Client(s.port)
        m = Meter(s)
        answers = client.run([(i / a.rate, client.request("/v1/completions", w.body(i, i % 2 == 0))) for i in range(n)], a.deadline)
        client.close()
        peak = m.show(what, answers, n * 8)
        check_all(report, what, w, answers)
        check_end(a, report, what, s, peak)


def test_both(a, report):
    """Short completions at their rate while the streams run."""
    long, short = Workload(a, 16, 150), Workload(a, 16, 8, seed=2)
    n = int(a.rate * a.seconds)
    what = f"{a.streams} streams, and {a.rate} requests/s for {a.seconds} s"
    with serve(a, a.streams + 64, replica=["--max-batched-tokens", max(512, 2 * a.streams)]) as s:
        client = Client(s.port)
        m = Meter(s)
        answers = client.run([(0, client.request("/v1/completions", long.body(i, True))) for i in range(a.streams)] +
                             [(i / a.rate, client.request("/v1/completions", short.body(i, i % 2 == 0))) for i in range(n)], a.deadline)
        client.close()
        peak = m.show(what, answers, a.streams * 150 + n * 8)
        check_all(report, what + " (streams)", long, answers[:a.streams])
        check_all(report, what + " (short ones)", short, answers[a.streams:])
        check_end(a, report, what, s, peak)


def test_overload(a, report):
    """Ten times what it can do: some are answered, the others told to come back later, memory stays, and afterwards all is as before."""
    w = Workload(a, 16, 160)
    n_seqs = 4
    with serve(a, n_seqs, ["--max-waiting", a.waiting], ["--max-waiting", 16]) as s: # the replica sends some back, too
        client = Client(s.port)

        def batch(n):
            """n requests, as many at a time as keep it busy."""
            return client.run([(0, client.request("/v1/completions", w.body(i, i % 2 == 0))) for i in range(n)], a.deadline, 2 * n_seqs)
        began = time.monotonic()
        alone = batch(60)
        capacity = 60 / (time.monotonic() - began)
        check_all(report, "before the overload", w, alone)
        rate = 10 * capacity
        pids = {"gateway": s.gateway.p.pid, "replica": s.replicas["a"].p.pid}
        seen = []
        m = Meter(s)
        answers = client.run([(i / rate, client.request("/v1/completions", w.body(i, i % 2 == 0))) for i in range(int(rate * a.overload))], a.deadline,
                             every=lambda now: seen.append((now, {k: memory_mib(p) for k, p in pids.items()})))
        refused = [x for x in answers if x.status() == 429]
        served = [(i, x) for i, x in enumerate(answers) if x.status() == 200]
        m.show(f"overload: {rate:.0f} requests/s where {capacity:.0f} are possible for {a.overload} s, {len(refused)} refused", answers, len(served) * 160)
        wrong = [(i, why) for i, x in enumerate(answers) if x.status() != 429 for why in [w.wrong(i, x)] if why]
        report.check(not wrong, f"overload: {len(wrong)} of {len(answers)} answers are neither whole nor a 429, first {wrong[:3]}")
        report.check(len(refused) > 0 and len(served) > 0, f"overload: {len(refused)} refused, {len(served)} served of {len(answers)}")
        report.check(all(int(x.header("retry-after") or 0) >= 1 for x in refused), "a 429 says when to come back")
        held = given_back(s)
        report.check(held is None, f"after the overload: not given back: {held}")
        end = {k: memory_mib(p) for k, p in pids.items()}
        third = next(x for t, x in seen if t >= a.overload / 3)
        print("    memory after a third and at the end: " + ", ".join(f"{k} {third[k]:.0f} -> {end[k]:.0f} MiB" for k in pids), flush=True)
        report.check(a.sanitized or all(end[k] < third[k] + FLAT_MIB for k in pids), f"overload: memory grew from {third} to {end}")
        check_all(report, "after the overload", w, batch(60))
        client.close()


def test_cancel(a, report):
    """Clients that close their connections amid others: their blocks are free while the others go on, and no stream got a wrong token."""
    n, stay, max_tokens, block = a.drained, 2, 16000, 16
    w = Workload(a, n, 200)
    with tempfile.TemporaryDirectory() as folder:
        a = argparse.Namespace(**{**vars(a), "model": serving.stretched(a.model, folder, 1 << 14)})
        with serve(a, n, replica=["--kv-blocks", 3000]) as s:
            client = Client(s.port)
            freed = []

            def every(now):
                r = state_of(s)["replicas"][0]
                used = r["kv_blocks"] - r["kv_blocks_free"]
                if r["held"] == r["running"] == stay and used <= stay * ((40 + r["steps"]) // block + 2): # a sequence gets a token a step
                    freed.append((now, used, r["steps"]))

            def leave(answer):
                return bool(freed) if answer.index < stay else len(answer.data) > 4000
            m = Meter(s)
            answers = client.run([(0, client.request("/v1/completions", w.body(i, True, max_tokens))) for i in range(n)], a.deadline, leave=leave, every=every)
            client.close()
            got = [[t for e in x.events()[0] for c in e["choices"] for t in c["token_ids"]] for x in answers]
            m.show(f"{n - stay} of {n} clients leave, then the others", answers, sum(map(len, got)))
            report.check(all(x.left for x in answers), f"streams that ended by themselves: {[(x.index, x.status(), x.error) for x in answers if not x.left][:3]}")
            report.check(freed != [], "the blocks of those that left were not free while the others ran")
            wrong = [i for i, g in enumerate(got) if g[:200] != w.want[i][0][:len(g)] or not g]
            report.check(not wrong, f"streams with wrong tokens before they were left: {wrong}")
            held = given_back(s)
            report.check(held is None, f"clients that left: not given back: {held}")


def test_drain(a, report):
    """SIGTERM while all streams are being read: none is cut."""
    n = a.drained
    with tempfile.TemporaryDirectory() as folder:
        a = argparse.Namespace(**{**vars(a), "model": serving.stretched(a.model, folder, 1024)})
        w = Workload(a, 8, 600)
        with serve(a, n) as s:
            client = Client(s.port)
            begun, running = set(), []

            def seen(answer):
                begun.add(answer.index)
                if len(begun) == n and not running:
                    running.extend(client.busy)
                    s.gateway.signal(signal.SIGTERM)
            answers = client.run([(0, client.request("/v1/completions", w.body(i, True))) for i in range(n)], a.deadline, leave=seen)
            client.close()
            report.check(running != [], f"the drain began when no stream of {n} ran: {len(begun)} had begun")
            print(f"drain: {len(running)} of {n} streams were being read", flush=True)
            check_all(report, f"drain under {n} streams", w, answers)
            report.check(s.gateway.p.wait(60) == 0, f"exit code of a drained gateway\n{s.gateway.said()[-1000:]}")


TESTS = {"latency": test_latency, "streams": test_streams, "rate": test_rate, "both": test_both, "overload": test_overload, "cancel": test_cancel, "drain": test_drain}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--vocab", type=int, required=True)
    p.add_argument("--only", default=",".join(TESTS))
    p.add_argument("--streams", type=int, default=100)
    p.add_argument("--rate", type=int, default=50)
    p.add_argument("--seconds", type=int, default=5)
    p.add_argument("--overload", type=int, default=5, help="seconds")
    p.add_argument("--waiting", type=int, default=16, help="requests that may wait in the overload")
    p.add_argument("--drained", type=int, default=50, help="streams that run when clients leave, or the gateway drains")
    p.add_argument("--sanitized", action="store_true", help="memory is not that of the program alone")
    p.add_argument("--deadline", type=int, default=100, help="seconds after the last request that all must be over")
    a = p.parse_args()
    report = serving.Report()
    for name in a.only.split(","):
        began = time.monotonic()
        try:
            TESTS[name](a, report)
        except (Failed, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, KeyError, subprocess.TimeoutExpired) as e:
            report.check(False, f"{name}: {type(e).__name__}: {e}")
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    report.end()


if __name__ == "__main__":
    main()
