#!/usr/bin/env python3
"""The real gateway with replicas that compute nothing: deaths, mischief, cancels, overload, drain, many streams.

    gateway_fake.py --trireme BIN --fake BIN --checkpoint DIR [--only NAME,...] [--full]

Tokens of fake replicas depend on the request alone, so what a client must read is known: what an undisturbed run reads.
"""
import argparse
import asyncio
import json
import random
import signal
import time

import serving
from serving import Failed, Serving, ask, get, post, stream

CANARY = "xylophone-quagga-7261"


def prompts(n, seed, max_tokens=24):
    rng = random.Random(seed)
    for i in range(n):
        yield {"model": "fake", "prompt": [rng.randrange(1, 250) for _ in range(rng.randrange(1, 80))], "max_tokens": rng.randrange(1, max_tokens + 1), "seed": i}


async def all_streams(port, bodies, **kw):
    return await asyncio.gather(*(stream(port, "/v1/completions", b, **kw) for b in bodies))


def undisturbed(s, bodies):
    return [x.text() for x in asyncio.run(all_streams(s.port, bodies))]


def check_streams(report, what, got, want):
    wrong = [i for i, (g, w) in enumerate(zip(got, want)) if g.status != 200 or not g.done or g.text() != w or g.finish() != "length"]
    report.check(not wrong and len(got) == len(want), f"{what}: {len(wrong)} of {len(want)} streams differ from the undisturbed ones, first "
                 f"{[(got[i].status, got[i].body, got[i].done, got[i].finish(), got[i].text()[:60], want[i][:60]) for i in wrong[:1]]}")


def test_routes(s, a, report):
    """Answers that need little, and refusals."""
    status, _, body = asyncio.run(get(s.port, "/health"))
    report.check(status == 503 and "no replica" in body["error"]["message"], f"/health without a replica: {status} {body}")
    status, headers, body = asyncio.run(post(s.port, "/v1/completions", {"model": "fake", "prompt": "a"}))
    report.check(status == 503 and "retry-after" in headers, f"no replica yet: {status} {headers} {body}")
    s.start_fake("a", a.checkpoint)
    s.wait_ready()
    for path in ("/health", "/ping", "/version", "/load", "/metrics", "/state", "/v1/models", "/v1/models/fake"):
        status, _, body = asyncio.run(get(s.port, path))
        report.check(status == 200 and body != "", f"{path}: {status} {body}")
    status, _, body = asyncio.run(post(s.port, "/v1/completions", {"model": "none", "prompt": "a"}))
    report.check(status == 404 and body["error"]["code"] == "model_not_found" and "fake" in body["error"]["message"], f"unknown model: {status} {body}")
    status, _, body = asyncio.run(ask(s.port, "POST", "/v1/completions", b"{"))
    report.check(status == 400 and body["error"]["type"] == "invalid_request_error", f"malformed JSON: {status} {body}")
    status, _, body = asyncio.run(post(s.port, "/v1/load_lora_adapter", {"lora_name": "a"}))
    report.check(status in (403, 501), f"adapters: {status} {body}")
    status, _, body = asyncio.run(post(s.port, "/tokenize", {"prompt": "hello"}))
    report.check(status == 200 and body["count"] == len(body["tokens"]) > 0, f"/tokenize: {status} {body}")
    status, _, back = asyncio.run(post(s.port, "/detokenize", {"tokens": body.get("tokens", [])}))
    report.check(status == 200 and "hello" in back["prompt"], f"/detokenize: {status} {back}")
    status, _, body = asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 5, "seed": 1}))
    report.check(status == 200 and body["usage"]["completion_tokens"] == 5 and body["choices"][0]["finish_reason"] == "length", f"completion: {status} {body}")
    status, _, text = asyncio.run(get(s.port, "/metrics"))
    report.check(status == 200 and "trireme:request_success_total" in text and 'finished_reason="length"' in text, "/metrics counts the request")


def test_deaths(s, a, report):
    """Replicas are killed under streams, with one (restarted) and with two; every stream ends as if nothing had happened."""
    rng = random.Random(a.seed)
    s.start_fake("a", a.checkpoint, step_ms=3)
    s.wait_ready()
    bodies = list(prompts(8, a.seed, 60))
    want = undisturbed(s, bodies)

    async def disturbed(names):
        work = asyncio.create_task(all_streams(s.port, bodies))
        for _ in range(3):
            await asyncio.sleep(rng.uniform(0, 0.12))
            name = rng.choice(names)
            await asyncio.to_thread(s.kill_replica, name)
            await asyncio.sleep(rng.uniform(0, 0.1))
            s.start_fake(name, a.checkpoint, step_ms=3, mischief=True)
        return await work

    for seed in range(20 if a.full else 2):
        check_streams(report, f"one replica, killed and restarted, run {seed}", asyncio.run(disturbed(["a"])), want)
    s.start_fake("b", a.checkpoint, step_ms=3, mischief=True)
    s.wait_ready(2)
    for seed in range(20 if a.full else 2):
        check_streams(report, f"two replicas, run {seed}", asyncio.run(disturbed(["a", "b"])), want)
    report.check(asyncio.run(get(s.port, "/state"))[2]["requests"]["replayed"] > 0, "requests were replayed")


def test_other_numerics(s, a, report):
    """What began on one kind of replica does not go on at another, but waits."""
    s.start_fake("a", a.checkpoint, step_ms=5, numerics="one")
    s.wait_ready()
    body = {"prompt": [1, 2, 3], "max_tokens": 200, "seed": 3}
    want = undisturbed(s, [body])

    async def go():
        s.start_fake("b", a.checkpoint, step_ms=20, numerics="two")
        while True:
            state = (await get(s.port, "/state"))[2]
            if sum(r["state"] == "ready" for r in state["replicas"]) == 2:
                break
            await asyncio.sleep(0.02)
        seen = asyncio.Event()
        work = asyncio.create_task(stream(s.port, "/v1/completions", body, on_event=lambda x: seen.set()))
        await asyncio.wait_for(seen.wait(), 20)
        state = (await get(s.port, "/state"))[2]
        name = next(r["name"] for r in state["replicas"] if r["held"] > 0)
        await asyncio.to_thread(s.kill_replica, name)
        await asyncio.sleep(0.3)
        early = work.done()
        s.start_fake(name, a.checkpoint, step_ms=1, numerics={"a": "one", "b": "two"}[name])
        return name, early, await work
    name, early, got = asyncio.run(go())
    report.check(not early, "a stream ended although no replica of its kind was there")
    if name == "a":
        check_streams(report, "after the restart of its kind", [got], want)
    else:
        report.check(got.done and got.finish() == "length", "after the restart of its kind")


def test_cancel(s, a, report):
    """A client that leaves frees its place at the replica."""
    s.start_fake("a", a.checkpoint, step_ms=10, seqs=4)
    s.wait_ready()

    async def go():
        await asyncio.gather(*(stream(s.port, "/v1/completions", {"prompt": [1, i], "max_tokens": 3000, "seed": i}, on_event=lambda x: len(x.events) > 2) for i in range(8)
                               if i < 4))
        for _ in range(200):
            state = (await get(s.port, "/state"))[2]
            if state["replicas"][0]["held"] == 0:
                return state
            await asyncio.sleep(0.02)
        return state
    state = asyncio.run(go())
    report.check(state["replicas"][0]["held"] == 0 and state["requests"]["cancelled"] == 4, f"cancelled: {state['requests']} {state['replicas']}")
    got = asyncio.run(stream(s.port, "/v1/completions", {"prompt": [1], "max_tokens": 3, "seed": 1}))
    report.check(got.done, "and others are served")


def test_stall(s, a, report):
    """A replica that has work and ends no step: /health says so, it gets nothing more, and in the end its work goes elsewhere."""
    s.start_fake("a", a.checkpoint, step_ms=10 ** 7)
    s.wait_ready()
    body = {"prompt": [1, 2], "max_tokens": 5, "seed": 1}

    async def until(what):
        for _ in range(400):
            status, _, health = await get(s.port, "/health")
            if what(status):
                return status, health
            await asyncio.sleep(0.02)
        return status, health

    async def go():
        work = asyncio.create_task(stream(s.port, "/v1/completions", body))
        sick = await until(lambda status: status == 503)
        state = (await get(s.port, "/state"))[2]["replicas"][0]["state"]
        s.start_fake("b", a.checkpoint, step_ms=5)
        well = await until(lambda status: status == 200)
        other = await stream(s.port, "/v1/completions", {**body, "seed": 2})
        return sick, state, well, other, await work
    sick, state, well, other, moved = asyncio.run(go())
    report.check(sick[0] == 503 and "no step" in sick[1]["error"]["message"] and state == "stalled", f"a stalled replica: {sick} {state}")
    report.check(well[0] == 200 and other.done, f"another replica: {well} {other.status}")
    report.check(moved.done and moved.finish() == "length", "what the stalled one had goes on elsewhere")


def test_responses(s, a, report):
    """An answer of /v1/responses is kept for its key, may be cancelled under way, and deleted."""
    s.start_fake("a", a.checkpoint, step_ms=10)
    s.wait_ready()
    status, _, done = asyncio.run(post(s.port, "/v1/responses", {"input": "hello", "max_output_tokens": 3}))
    report.check(status == 200 and done["object"] == "response", f"a response: {status} {done}")
    status, _, kept = asyncio.run(get(s.port, f"/v1/responses/{done['id']}"))
    report.check(status == 200 and kept == done, f"kept: {status} {kept}")
    status, _, body = asyncio.run(post(s.port, f"/v1/responses/{done['id']}/cancel", {}))
    report.check(status == 400, f"one that has ended cannot be cancelled: {status} {body}")
    status, _, body = asyncio.run(ask(s.port, "DELETE", f"/v1/responses/{done['id']}"))
    report.check(status == 200 and body["deleted"] and asyncio.run(get(s.port, f"/v1/responses/{done['id']}"))[0] == 404, f"deleted: {status} {body}")

    async def cancel():
        began = asyncio.Event()
        found = []

        def on_event(x):
            found.append(x.events[0]["response"]["id"])
            began.set()
        work = asyncio.create_task(stream(s.port, "/v1/responses", {"input": "hello", "max_output_tokens": 3000}, on_event=on_event))
        await asyncio.wait_for(began.wait(), 20)
        under_way = await get(s.port, f"/v1/responses/{found[0]}")
        return under_way, await post(s.port, f"/v1/responses/{found[0]}/cancel", {}), await work
    under_way, answer, work = asyncio.run(cancel())
    report.check(under_way[0] == 200 and under_way[2]["status"] == "in_progress", f"under way: {under_way}")
    report.check(answer[0] == 200 and answer[2]["status"] == "cancelled", f"cancelled: {answer}")
    report.check(len(work.events) < 3000, "the stream ends there")
    state = asyncio.run(get(s.port, "/state"))[2]
    report.check(state["requests"]["cancelled"] == 1 and state["replicas"][0]["held"] == 0, f"its replica was told: {state['requests']}")


def access_lines(s):
    with open(f"{s.dir}/access.log", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def test_routing(s, a, report):
    """What shares a long prefix goes where that is; what shares nothing is spread."""
    for name in ("a", "b"):
        s.start_fake(name, a.checkpoint, step_ms=5)
    s.wait_ready(2)
    shared = [7 + i % 200 for i in range(300)]

    async def go():
        for i in range(6):
            await post(s.port, "/v1/completions", {"prompt": shared + [i], "max_tokens": 2}, headers={"X-Request-Id": f"shared-{i}"})
        await asyncio.gather(*(post(s.port, "/v1/completions", {"prompt": [i] * 30, "max_tokens": 20}, headers={"X-Request-Id": f"other-{i}"}) for i in range(8)))
        for i in range(6, 12): # another tenant's cache is another one
            await post(s.port, "/v1/completions", {"prompt": shared + [i], "max_tokens": 2, "cache_salt": "mine"}, headers={"X-Request-Id": f"shared-{i}"})
    asyncio.run(go())
    s.gateway.end()
    lines = access_lines(s)
    replica = {line["request_id"]: line.get("replica") for line in lines if "request_id" in line}
    report.check(len({replica.get(f"shared-{i}") for i in range(6)}) == 1, f"a shared prefix: {replica}")
    report.check({replica.get(f"other-{i}") for i in range(8)} == {"a", "b"}, f"others: {replica}")
    report.check(len({replica.get(f"shared-{i}") for i in range(6, 12)}) == 1, f"a salted prefix: {replica}")


def test_models(s, a, report):
    """Several models behind one gateway; replicas of a model come and go."""
    s.start_fake("a", a.checkpoint, model="one")
    s.start_fake("b", a.checkpoint, model="org/two")
    s.wait_ready(2)
    ids = [m["id"] for m in asyncio.run(get(s.port, "/v1/models"))[2]["data"]]
    report.check(sorted(ids) == ["one", "org/two"], f"models: {ids}")
    status, _, body = asyncio.run(get(s.port, "/v1/models/org/two"))
    report.check(status == 200 and body["id"] == "org/two", f"a name with a slash: {status} {body}")
    for model in ids:
        status, _, body = asyncio.run(post(s.port, "/v1/completions", {"model": model, "prompt": [1], "max_tokens": 2}))
        report.check(status == 200 and body["model"] == model, f"{model}: {status} {body}")
    status, _, body = asyncio.run(post(s.port, "/v1/completions", {"prompt": [1], "max_tokens": 2}))
    report.check(status == 404 and "one" in body["error"]["message"] and "org/two" in body["error"]["message"], f"no model named: {status} {body}")
    s.kill_replica("b")
    for _ in range(250):
        ids = [m["id"] for m in asyncio.run(get(s.port, "/v1/models"))[2]["data"]]
        if ids == ["one"]:
            break
        time.sleep(0.02)
    report.check(ids == ["one"], f"a model whose replicas left: {ids}")
    status, _, body = asyncio.run(post(s.port, "/v1/completions", {"prompt": [1], "max_tokens": 2}))
    report.check(status == 200, f"one model left needs no name: {status} {body}")


def test_timeouts(s, a, report):
    """What finds no replica in time, and what takes too long, ends with an error that says so."""
    s.start_fake("a", a.checkpoint, step_ms=20)
    s.wait_ready()
    body = {"prompt": [1, 2], "max_tokens": 2000, "seed": 1}

    async def orphaned():
        seen = asyncio.Event()
        streamed = asyncio.create_task(stream(s.port, "/v1/completions", body, on_event=lambda x: seen.set()))
        whole = asyncio.create_task(post(s.port, "/v1/completions", body))
        await asyncio.wait_for(seen.wait(), 20)
        await asyncio.to_thread(s.kill_replica, "a")
        return await streamed, await whole
    streamed, whole = asyncio.run(orphaned())
    report.check(streamed.status == 200 and "error" in streamed.events[-1] and "no replica" in streamed.events[-1]["error"]["message"], f"an orphaned stream: {streamed.events[-1:]}")
    report.check(whole[0] == 503 and whole[2]["error"]["code"] == "no_replica", f"an orphaned request: {whole}")
    s.start_fake("a", a.checkpoint, step_ms=20)
    s.wait_ready()
    status, _, answer = asyncio.run(post(s.port, "/v1/completions", body))
    report.check(status == 504 and answer["error"]["code"] == "timeout", f"too long a request: {status} {answer}")
    for _ in range(100):
        held = asyncio.run(get(s.port, "/state"))[2]["replicas"][0]["running"]
        if held == 0:
            break
        time.sleep(0.05)
    report.check(held == 0, "its replica was told")


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) // 1024


def overload_long(s, report):
    """Ten times what the replica can do, for 30 s: 4 sequences x 200 tokens/s are 40 requests/s of 20 tokens."""
    async def one(i, statuses):
        statuses.append((await post(s.port, "/v1/completions", {"prompt": [1, i % 200], "max_tokens": 20, "seed": i}))[0])

    async def go():
        statuses, tasks, memory, began = [], [], [], time.monotonic()
        for i in range(400 * 30):
            await asyncio.sleep(max(0, began + i / 400 - time.monotonic()))
            tasks.append(asyncio.create_task(one(i, statuses)))
            if i % 1200 == 0:
                memory.append(resident(s.gateway.p.pid))
        await asyncio.gather(*tasks)
        return statuses, memory
    statuses, memory = asyncio.run(go())
    print(f"overload: {statuses.count(200)} served, {statuses.count(429)} refused, gateway's memory {memory} MiB", flush=True)
    report.check(set(statuses) == {200, 429} and statuses.count(200) > 300, "overload is answered with 200 and 429 alone")
    report.check(memory[-1] <= memory[1] + 16, f"memory grows: {memory} MiB")


def test_overload(s, a, report):
    """More than may wait: 429 with Retry-After for some, answers for the others, and then all is as before."""
    s.start_fake("a", a.checkpoint, step_ms=5, seqs=4)
    s.wait_ready()

    async def go():
        return await asyncio.gather(*(post(s.port, "/v1/completions", {"prompt": [1, i], "max_tokens": 20, "seed": i}) for i in range(120)))
    answers = asyncio.run(go())
    if a.full:
        overload_long(s, report)
    refused = [x for x in answers if x[0] == 429]
    served = [x for x in answers if x[0] == 200]
    report.check(len(refused) + len(served) == 120 and refused and served, f"overload: {len(refused)} refused, {len(served)} served")
    report.check(all(int(h.get("retry-after", 0)) >= 1 and b["error"]["type"] == "rate_limit_error" for _, h, b in refused), "429 says when to come back")
    report.check(all(b["usage"]["completion_tokens"] == 20 for _, _, b in served), "what was taken in is answered whole")
    report.check(asyncio.run(post(s.port, "/v1/completions", {"prompt": [1], "max_tokens": 2}))[0] == 200, "it recovers")


def test_drain(s, a, report):
    """SIGTERM: streams go on to their end, new requests are refused, the exit code is 0."""
    s.start_fake("a", a.checkpoint, step_ms=10)
    s.wait_ready()
    bodies = list(prompts(6, 5, 60))
    want = undisturbed(s, bodies)

    async def go():
        seen = asyncio.Event()
        work = asyncio.create_task(all_streams(s.port, bodies, on_event=lambda x: seen.set()))
        await asyncio.wait_for(seen.wait(), 20)
        await asyncio.sleep(0.05)
        s.gateway.signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        try:
            late = (await post(s.port, "/v1/completions", bodies[0]))[0]
        except OSError:
            late = 0
        return late, await work
    late, got = asyncio.run(go())
    check_streams(report, "drain", got, want)
    report.check(late in (0, 503), f"a late request: {late}")
    report.check(s.gateway.p.wait(20) == 0, "exit code of a drained gateway")
    report.check("tokens received to socket written" in s.gateway.said(), "it says its latencies at the end")


def test_deadline(s, a, report):
    """A drain has an end: what is not over by then ends with an error, not with a cut."""
    s.start_fake("a", a.checkpoint, step_ms=20)
    s.wait_ready()
    body = {"prompt": [1, 2], "max_tokens": 3000, "seed": 1}

    async def go():
        seen = asyncio.Event()
        work = asyncio.create_task(stream(s.port, "/v1/completions", body, on_event=lambda x: seen.set()))
        await asyncio.wait_for(seen.wait(), 20)
        s.gateway.signal(signal.SIGTERM)
        return await work
    got = asyncio.run(go())
    report.check(got.status == 200 and "error" in got.events[-1] and got.events[-1]["error"]["code"] == "draining", f"at the drain's end: {got.events[-1:]}")
    report.check(s.gateway.p.wait(20) == 0, "exit code after a drain's deadline")


def test_canary(s, a, report):
    """No prompt and no answer in any log or metric."""
    s.start_fake("a", a.checkpoint)
    s.wait_ready()
    bodies = [{"prompt": CANARY, "max_tokens": 3}, {"prompt": CANARY, "max_tokens": "no"}, {"prompt": CANARY, CANARY: 1}, {"prompt": [CANARY]}]
    for body in bodies:
        asyncio.run(post(s.port, "/v1/completions", body))
        asyncio.run(stream(s.port, "/v1/completions", body))
    asyncio.run(ask(s.port, "POST", "/v1/completions", (CANARY + "{").encode()))
    asyncio.run(post(s.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 2}))
    asyncio.run(post(s.port, "/tokenize", {"prompt": CANARY}))
    metrics = asyncio.run(get(s.port, "/metrics"))[2]
    state = str(asyncio.run(get(s.port, "/state"))[2])
    s.gateway.end()
    logs = s.logs()
    report.check(CANARY not in logs and CANARY not in metrics and CANARY not in state, "the canary is in a log")
    report.check('"prompt_tokens"' in logs, "requests are logged")


def test_many(s, a, report):
    """A thousand streams at once: none lost, none doubled, little memory."""
    n = 1000 if a.full else 200
    s.start_fake("a", a.checkpoint, step_ms=50, seqs=4 * n)
    s.start_fake("b", a.checkpoint, step_ms=50, seqs=4 * n)
    s.wait_ready(2)
    bodies = [{"prompt": [1 + i % 200, 7, i // 200], "max_tokens": 20, "seed": i} for i in range(n)]
    began = time.monotonic()
    got = asyncio.run(all_streams(s.port, bodies))
    took = time.monotonic() - began
    again = asyncio.run(all_streams(s.port, bodies[:50]))
    check_streams(report, f"{n} streams", got[:50], [x.text() for x in again])
    report.check(all(x.done and x.finish() == "length" and x.events[-1] for x in got), "all streams end")
    with open(f"/proc/{s.gateway.p.pid}/status", encoding="ascii") as f:
        peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) // 1024
    latency = asyncio.run(get(s.port, "/state"))[2]["latency"]
    print(f"{n} streams of 20 tokens in {took:.1f} s, gateway's peak {peak} MiB, {latency}", flush=True)
    report.check(peak < 300 or a.sanitized, f"the gateway took {peak} MiB")


TESTS = {"routes": (test_routes, []), "deaths": (test_deaths, []), "numerics": (test_other_numerics, []), "cancel": (test_cancel, []), "stall": (test_stall, ["--stall", "1"]),
         "responses": (test_responses, []), "routing": (test_routing, []), "models": (test_models, []), "timeouts": (test_timeouts, ["--replay-wait", "1", "--request-timeout", "3"]),
         "overload": (test_overload, ["--max-waiting", "20"]), "drain": (test_drain, []), "deadline": (test_deadline, ["--drain", "1"]), "canary": (test_canary, []), "many": (test_many, [])}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--fake", required=True)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--only", default=",".join(TESTS))
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--full", action="store_true")
    p.add_argument("--sanitized", action="store_true")
    a = p.parse_args()
    report = serving.Report()
    for name in a.only.split(","):
        test, options = TESTS[name]
        began = time.monotonic()
        try:
            with Serving(a.trireme, a.fake, options) as s:
                try:
                    test(s, a, report)
                except Exception:
                    print(f"the gateway said:\n{s.gateway.said()[-3000:]}", flush=True)
                    raise
        except (Failed, OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, KeyError) as e:
            report.check(False, f"{name}: {type(e).__name__}: {e}")
        print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
    report.end()


if __name__ == "__main__":
    main()
