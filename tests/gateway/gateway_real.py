#!/usr/bin/env python3
"""The real gateway with real replicas of a tiny checkpoint: the same tokens as `trireme generate`, whatever dies meanwhile.

    gateway_real.py --trireme BIN --model DIR --vocab N [--only NAME,...] [--requests N] [--seeds N] [--seed FIRST]
"""
import argparse
import asyncio
import os
import pathlib
import random
import signal
import tempfile
import time

import serving
from serving import Failed, Serving, get, post, stream

run = serving.run


def mixed(n, vocab, seed):
    """Requests of all kinds, as `trireme generate` takes them."""
    rng = random.Random(seed)
    for i in range(n):
        r = {"id": f"r{i}", "prompt_ids": [rng.randrange(4, vocab) for _ in range(rng.randrange(1, 60))], "max_tokens": rng.randrange(1, 40), "seed": i, "ignore_eos": True}
        r["temperature"] = rng.choice([0, 0, 0.7, 1.0, 1.5])
        if i % 3 == 0:
            r.update(top_k=rng.choice([0, 5, 40]), top_p=rng.choice([1.0, 0.8]), min_p=rng.choice([0, 0.05]))
        if i % 4 == 1:
            r.update(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.3)
        if i % 5 == 2:
            r["logit_bias"] = {str(rng.randrange(vocab)): rng.choice([-100, 5])}
        yield r


def as_completion(r):
    body = {k: v for k, v in r.items() if k not in ("id", "prompt_ids")}
    return {**body, "prompt": r["prompt_ids"], "return_token_ids": True}


def tokens_of(s):
    return [t for e in s.events for c in e.get("choices", []) for t in c.get("token_ids") or []]


def hash_of(choices):
    return next((c["logits_hash"] for c in choices if c.get("logits_hash")), None)


def test_same(a, report):
    """Mixed requests, 32 at once, half of them streamed: tokens and logits hashes of `trireme generate` alone."""
    requests = list(mixed(a.requests, a.vocab, a.seed))
    want = run.generate(a.trireme, a.model, requests)
    with Serving(a.trireme) as s:
        s.start_replica("a", a.model, ranks=2, args=["--tp", 1, "--pp", 2])
        s.wait_ready()

        async def one(gate, i, r):
            async with gate:
                if i % 2:
                    x = await stream(s.port, "/v1/completions", as_completion(r))
                    return x.status, x.body, tokens_of(x), hash_of([c for e in x.events for c in e.get("choices", [])])
                status, _, b = await post(s.port, "/v1/completions", as_completion(r))
                return (status, None, b["choices"][0]["token_ids"], hash_of(b["choices"])) if status == 200 else (status, b, None, None)

        async def go():
            gate = asyncio.Semaphore(32)
            return await asyncio.gather(*(one(gate, i, r) for i, r in enumerate(requests)))
        got = asyncio.run(go())
        for r, w, g in zip(requests, want, got):
            report.check(g[2] == w["token_ids"] and g[3] == w["logits_hash"], f"{r}: got {g}, generate says {w['token_ids']} {w['logits_hash']}")


# ---- what dies ----

def children(pid):
    return [int(p) for t in pathlib.Path(f"/proc/{pid}/task").glob("*/children") for p in t.read_text().split()]


def ranks_of(process):
    """Processes of the ranks: below mpirun, or the process itself."""
    below = [p for p in children(process.p.pid) if b"replica" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes().split(b"\0")]
    return below or [process.p.pid]


def kill_rank(rng, process):
    try:
        os.kill(rng.choice(ranks_of(process)), signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_mpirun(rng, process):
    process.p.kill()


def kill_all(rng, process):
    os.killpg(process.p.pid, signal.SIGKILL)


async def supervise(s, name, start):
    """Starts the replica again when it has died, as `trireme up` does."""
    while s.replicas[name].p.poll() is None:
        await asyncio.sleep(0.02)
    await asyncio.to_thread(s.kill_replica, name) # what is left of it
    start(name)


async def kill_under_streams(s, bodies, names, rng, after):
    """Something dies when so many events have come, of all streams together."""
    kind, name = rng.choice([kill_rank, kill_mpirun, kill_all]), rng.choice(names)
    seen = 0

    def count(_):
        nonlocal seen
        seen += 1
        if seen == after:
            kind(rng, s.replicas[name])
    got = await streams(s.port, bodies, count)
    return kind.__name__, name, got


async def disturbed(s, bodies, names, start, rng, after):
    guards = {name: asyncio.create_task(supervise(s, name, start)) for name in names}
    kind, name, got = await kill_under_streams(s, bodies, names, rng, after)
    await asyncio.wait_for(guards[name], 60)
    for g in guards.values():
        g.cancel()
    return kind, got


async def streams(port, bodies, on_event=None):
    return await asyncio.gather(*(stream(port, "/v1/chat/completions" if "messages" in b else "/v1/completions", b, on_event, timeout=100) for b in bodies))


def other_bodies():
    """What `trireme generate` has no word for: the undisturbed answer is what is wanted."""
    yield {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, "seed": 1, "temperature": 1.2, "logprobs": True, "top_logprobs": 3, "n": 2}
    yield {"prompt": list(range(10, 110)), "max_tokens": 200, "seed": 3, "temperature": 1, "prompt_logprobs": 2, "logprobs": 1, "ignore_eos": True}
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 40}
    yield {"prompt": [5, 6, 7], "max_tokens": 200, "seed": 2, "temperature": 1, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def said(s):
    """A stream put together: everything but what may differ between two runs."""
    parts = {}
    for e in s.events:
        for c in e.get("choices", []):
            p = parts.setdefault(c["index"], [[], None, [], []])
            p[0].append(c.get("text") or (c.get("delta") or {}).get("content") or "")
            p[1] = c.get("finish_reason") or p[1]
            logprobs = c.get("logprobs") or {}
            p[2] += logprobs.get("content") or logprobs.get("token_logprobs") or []
            p[3] += c.get("prompt_logprobs") or []
    return s.status, s.done, {i: ("".join(p[0]), *p[1:]) for i, p in parts.items()}


def check_streams(report, what, got, want, others):
    wrong = [(g.status, g.body, len(tokens_of(g)), g.finish(), g.done) for g, w in zip(got, want) if tokens_of(g) != w["token_ids"] or not g.done]
    wrong += [str(said(g))[:300] for g, o in zip(got[len(want):], others) if said(g) != o]
    return report.check(not wrong, f"{what}: {len(wrong)} of {len(got)} streams differ: {wrong[:2]}")


def test_kills(a, report):
    """SIGKILL of a rank, of mpirun, of all of it, under 8 streams and more, with one replica and with two: the undisturbed answers."""
    with tempfile.TemporaryDirectory() as folder:
        model = serving.stretched(a.model, folder, 1024)
        requests = [{**r, "max_tokens": 600} for r in mixed(8, a.vocab, a.seed)]
        args = ["--tp", 2, "--pp", 1, "--threads", 1]
        want = run.generate(a.trireme, model, requests, tp=2, args=["--threads", 1])  # another split may differ in the last bits
        bodies = [as_completion(r) for r in requests] + list(other_bodies())
        for n_replicas in (1, 2):
            names = ["a", "b"][:n_replicas]
            with Serving(a.trireme) as s:
                def start(name):
                    s.start_replica(name, model, ranks=2, args=args)
                for name in names:
                    start(name)
                s.wait_ready(n_replicas)
                first = asyncio.run(streams(s.port, bodies))
                events = sum(len(x.events) for x in first)
                others = [said(x) for x in first[len(want):]]
                report.check(all(o[0] == 200 and o[1] for o in others), f"undisturbed: {[str(o)[:300] for o in others]}")
                check_streams(report, "undisturbed", first, want, others)
                seed, replayed = a.seed, 0
                while seed < a.seed + a.seeds or (replayed == 0 and seed < a.seed + a.seeds + 5):  # replicas are ahead of who reads: on a busy machine a kill may come after all is said
                    rng = random.Random(seed)
                    after = 1 if seed == a.seed or seed >= a.seed + a.seeds else 1 + int(rng.uniform(0, 0.8) * events)
                    kind, got = asyncio.run(disturbed(s, bodies, names, start, rng, after))
                    if not check_streams(report, f"{kind} with {n_replicas} replicas, seed {seed}", got, want, others):
                        print(s.gateway.said()[-1500:], flush=True)
                    s.wait_ready(n_replicas)
                    replayed = asyncio.run(get(s.port, "/state"))[2]["requests"]["replayed"]
                    seed += 1
                print(f"{n_replicas} replicas: {seed - a.seed} kills, {replayed} sequences went on elsewhere or after the restart", flush=True)
                report.check(replayed > 0, "nothing was replayed")


def test_leave(a, report):
    """A replica that is told to go ends what it has; the other one takes what is new, and nobody notices."""
    requests = [{**r, "max_tokens": 190} for r in mixed(8, a.vocab, a.seed)]
    want = run.generate(a.trireme, a.model, requests)
    bodies = [as_completion(r) for r in requests]
    with Serving(a.trireme) as s:
        for name in ("a", "b"):
            s.start_replica(name, a.model)
        s.wait_ready(2)

        async def go():
            work = asyncio.create_task(streams(s.port, bodies))
            await asyncio.sleep(0.03)
            s.replicas["a"].signal(signal.SIGTERM)
            later = await streams(s.port, bodies)
            return await work, later
        for got in asyncio.run(go()):
            check_streams(report, "a replica leaves", got, want, [])
        report.check(s.replicas["a"].p.wait(30) == 0, "exit code of a replica that left")
        s.replicas.pop("a")
        s.wait_ready(1)
        check_streams(report, "with the one that stayed", asyncio.run(streams(s.port, bodies)), want, [])


def test_cancel(a, report):
    """A closed connection frees its KV blocks."""
    with Serving(a.trireme) as s:
        s.start_replica("a", a.model)
        s.wait_ready()
        body = {"prompt": [5] * 40, "max_tokens": 200, "ignore_eos": True}

        async def go():
            await asyncio.gather(*(stream(s.port, "/v1/completions", {**body, "seed": i}, on_event=lambda x: len(x.events) > 3) for i in range(8)))
            for _ in range(250):
                r = (await get(s.port, "/state"))[2]["replicas"][0]
                if r["running"] == 0 and r["kv_blocks_free"] == r["kv_blocks"] and r["held"] == 0:
                    return r
                await asyncio.sleep(0.02)
            return r
        r = asyncio.run(go())
        report.check(r["running"] == 0 and r["held"] == 0, f"still running after its clients left: {r}")
        report.check(r["kv_blocks_free"] == r["kv_blocks"], f"blocks are kept: {r['kv_blocks_free']} of {r['kv_blocks']} are free")


TESTS = {"same": test_same, "kills": test_kills, "leave": test_leave, "cancel": test_cancel}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--vocab", type=int, required=True)
    p.add_argument("--only", default=",".join(TESTS))
    p.add_argument("--requests", type=int, default=32)
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    report = serving.Report()
    for name in a.only.split(","):
        began = time.monotonic()
        try:
            TESTS[name](a, report)
        except (Failed, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, KeyError) as e:
            report.check(False, f"{name}: {type(e).__name__}: {e}")
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    report.end()


if __name__ == "__main__":
    main()
