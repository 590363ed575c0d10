"""A replica in service at a gateway of lines (fake_gateway): the same tokens and hashes as `trireme generate` gives, on one rank and on several;
cancels, refusals, assets, drains, signals, lost gateways, dead and stopped ranks."""
import argparse
import gc
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from run import ENV, Failed, Report, command, generate

PATIENCE = 40  # seconds for anything to come
CTX = 40000
BLOCKS = CTX // 16 + 3
LONG = CTX - 100  # tokens of a request that is still under way when a slow machine comes to look: the tiny checkpoint takes 0.14 ms for each of the first

gc.disable()  # of the hundred thousand lines kept: a collection took 2.1 s beside two ranks, and the fake gateway, whose lines nobody read, counted as silent


class Lines:
    """A process that speaks JSON lines."""

    def __init__(self, argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        self.past = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def say(self, **o):
        self.process.stdin.write(json.dumps(o) + "\n")
        self.process.stdin.flush()

    def wait(self, want, seconds=PATIENCE, fail=True):
        """The first line from now on that want(line) likes; the others are kept in past."""
        until = time.monotonic() + seconds
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                if not fail:
                    return None
                raise Failed(f"nothing came; the last lines were {self.past[-3:]}") from None
            if line is None:
                raise Failed(f"the gateway ended; the last lines were {self.past[-3:]}")
            self.past.append(line)
            if want(line):
                return line

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Replica:
    def __init__(self, binary, model, endpoint, tp=1, pp=1, args=()):
        argv = command(binary, ["replica", "-m", model, "--gateway", endpoint, "--tp", tp, "--pp", pp, "--compute", "f32", "--ctx", CTX, "--threads", "1", *args], tp * pp)
        self.err = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(argv, stderr=self.err, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env={**os.environ, **ENV}, start_new_session=True)

    def ranks(self):
        """Process ids of the ranks, rank 0 first."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    session = int(f.read().rsplit(")", 1)[1].split()[3])
                with open(f"/proc/{pid}/environ") as f:
                    env = dict(v.split("=", 1) for v in f.read().split("\0") if "=" in v)
                with open(f"/proc/{pid}/cmdline") as f:
                    is_rank = f.read().split("\0")[0].endswith("trireme")
            except (OSError, ValueError):
                continue
            if is_rank and (int(pid) == self.process.pid or (session != os.getpid() and self.descends(int(pid)))):
                found.append((int(env.get("OMPI_COMM_WORLD_RANK", 0)), int(pid)))
        return [pid for _, pid in sorted(found)]

    def descends(self, pid):
        while pid > 1:
            if pid == self.process.pid:
                return True
            try:
                with open(f"/proc/{pid}/stat") as f:
                    pid = int(f.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                return False
        return False

    def wait(self, seconds=PATIENCE):
        """(exit code, standard error)"""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"the replica goes on after {seconds} s: {self.said()[-2000:]}") from None
        return code, self.said()

    def said(self):
        self.err.seek(0)
        return self.err.read()

    def kill(self):
        for pid in self.ranks():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def longer(model, work):
    """The checkpoint with a context long enough for requests that are under way for seconds."""
    path = os.path.join(work, "longer")
    shutil.copytree(model, path)
    config = os.path.join(path, "config.json")
    with open(config) as f:
        c = json.load(f)
    c["max_position_embeddings"] = CTX
    with open(config, "w") as f:
        json.dump(c, f)
    return path


def prompts(n, seed):
    r = random.Random(seed)
    return [[r.randrange(3, 500) for _ in range(r.randrange(1, 90))] for _ in range(n)]


def mixed(n, seed):
    """Requests as `generate` takes them, and as Submit does."""
    r = random.Random(seed)
    pairs = []
    for i, p in enumerate(prompts(n, seed)):
        g = {"id": i, "prompt_ids": p, "ignore_eos": True, "max_tokens": r.randrange(1, 30), "temperature": 0}
        s = {"max_tokens": g["max_tokens"]}
        kind = i % 6
        if kind == 1:
            g.update(temperature=1.3, seed=i, top_p=0.9)
        elif kind == 2:
            g.update(temperature=1, seed=i, top_k=7, min_p=0.01, frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=1.1)
        elif kind == 3:
            g.update(logprobs=3, prompt_logprobs=2, logprob_token_ids=[1, 2])
            s.update(n_logprobs=3, n_prompt_logprobs=2, logprob_tokens=[1, 2])
        elif kind == 4:
            g.update(allowed_token_ids=[5, 6, 7, 8], bad_words_ids=[[5, 6], [9]], temperature=1, seed=3, logit_bias={"7": 2.5})
            s.update(allowed_tokens=[5, 6, 7, 8], bad_words=[[5, 6], [9]], bias_tokens=[7], bias_values=[2.5])
        elif kind == 5:
            g.update(pooling="mean", normalize=True)
        for name in ("temperature", "seed", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"):
            if name in g:
                s[name] = g[name]
        submit = {"id": 1000 + i, "tokens": p, "sampling": s}
        if kind == 5:
            submit.update(pooling=2, normalize=True)
        pairs.append((g, submit))
    return pairs


def collect(gateway, ids):
    """Events of each request until all have ended."""
    events, open_ids = {i: [] for i in ids}, set(ids)
    while open_ids:
        line = gateway.wait(lambda l: "events" in l or "aborted" in l)
        if "aborted" in line:
            raise Failed(f"aborted: {line}")
        for e in line["events"]:
            events[e["id"]].append(e)
            if e["finish"]:
                open_ids.discard(e["id"])
    return events


def check_request(report, name, events, answer, kind):
    tokens = [e for e in events if not e["prompt"]]
    report.check(events[0]["queue_seconds"] >= 0 and events[0]["prefill_seconds"] > 0, f"{name}: the first event brings times: {events[0]}")
    if kind == 5:
        same = len(tokens) == 1 and all(abs(a - b) < 1e-6 for a, b in zip(tokens[0]["embedding"], answer["embedding"])) and len(tokens[0]["embedding"]) == len(answer["embedding"])
        report.check(same, f"{name}: the vector")
        return
    report.check([e["token"] for e in tokens] == answer["token_ids"], f"{name}: tokens {[e['token'] for e in tokens]} for {answer['token_ids']}")
    report.check([e["index"] for e in tokens] == list(range(len(tokens))), f"{name}: indices")
    report.check(tokens[-1]["hash"] == answer["logits_hash"], f"{name}: the hash of the logits")
    report.check([e["finish"] for e in tokens[:-1]] == [0] * (len(tokens) - 1) and tokens[-1]["finish"] == 2, f"{name}: finish")
    if kind == 3:
        for e, want in zip(tokens, answer["logprobs"]):
            report.check([t[0] for t in e["top"]] == [t for t, _ in want["top"]] + [1, 2] and e["rank"] == want["rank"], f"{name}: log-probabilities {e} for {want}")
        told = [e for e in events if e["prompt"]]
        report.check([e["index"] for e in told] == list(range(1, len(told) + 1)) and len(told) == len(answer["prompt_logprobs"]) - 1, f"{name}: prompt log-probabilities")


def check_same(report, a, name, tp, pp, gateway, n, reference):
    pairs = mixed(n, 7)
    for _, submit in pairs:
        gateway.say(op="submit", **submit)
    events = collect(gateway, [s["id"] for _, s in pairs])
    for i, ((_, s), answer) in enumerate(zip(pairs, reference)):
        check_request(report, f"{name}, request {i}", events[s["id"]], answer, i % 6)
    # A replay: the prompt and half of what was generated.
    i = next(i for i, (g, s) in enumerate(pairs) if i % 6 == 2 and len(reference[i]["token_ids"]) > 4)
    g, s = pairs[i]
    answer = reference[i]["token_ids"]
    half = len(answer) // 2
    hash_then = events[s["id"]][half - 1]["hash"]
    gateway.say(op="submit", **dict(s, id=5000, tokens=s["tokens"] + answer[:half], n_prompt=len(s["tokens"]), hash=hash_then))
    replay = collect(gateway, [5000])[5000]
    report.check([e["token"] for e in replay] == answer[half:] and replay[0]["index"] == half, f"{name}: a replay goes on where it was")
    report.check(replay[-1]["hash"] == reference[i]["logits_hash"], f"{name}: a replay's hash")


def texts_of(a, ids):
    lines = "".join(json.dumps({"ids": i}) + "\n" for i in ids)
    p = subprocess.run([a.trireme, "tokenize", "-m", a.model, "--decode", "--jsonl", "-"], input=lines, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line)["text"] for line in p.stdout.splitlines()]


def check_grammars(report, a, name, gateway, before):
    """What comes matches the grammar, ends where it ends, is the same in company and after a replay, and on every split (before: what the first gave)."""
    cases = [("[0-9]{3}-[0-9]{4}", {"temperature": 0}), ("(yes|no|maybe)", {"temperature": 1.5, "seed": 4}), ("[a-c]{1,40}z", {"temperature": 1, "seed": 5, "top_p": 0.9}),
             ("[0-9]{3}-[0-9]{4}", {"temperature": 2, "seed": 6}), ("x[0-9]{60}", {"temperature": 1, "seed": 7, "top_k": 3})]
    submits = [{"id": 600 + i, "tokens": [5, 77, 131], "sampling": {"regex": r, "max_tokens": 90, "stop": [2], **s}} for i, (r, s) in enumerate(cases)]
    for s in submits:
        gateway.say(op="submit", **s)
    events = collect(gateway, [s["id"] for s in submits])
    ids = [[e["token"] for e in events[s["id"]]] for s in submits]
    for (regex, _), i, text in zip(cases, ids, texts_of(a, [i[:-1] for i in ids])):
        report.check(re.fullmatch(regex, text) is not None and i[-1] == 2, f"{name}: {text!r} for {regex}")
    report.check(all(events[s["id"]][-1]["finish"] == 1 for s in submits), f"{name}: a grammar's end is the end")
    report.check(before is None or before == ids, f"{name}: grammars give what they gave on the first split")
    long = submits[4]
    for cut in (1, len(ids[4]) // 2, len(ids[4]) - 1):
        gateway.say(op="submit", **dict(long, id=700 + cut, tokens=long["tokens"] + ids[4][:cut], n_prompt=3, hash=events[604][cut - 1]["hash"]))
        again = collect(gateway, [700 + cut])[700 + cut]
        report.check([e["token"] for e in again] == ids[4][cut:] and again[-1]["hash"] == events[604][-1]["hash"], f"{name}: a replay of {cut} tokens inside a grammar")
    # Allowed tokens that the grammar does not know; tokens that left the grammar before; no grammar at all.
    for number, fields, tokens in ((800, {"regex": "[0-9]+", "allowed_tokens": [2]}, [5]), (801, {"regex": "[0-9]+"}, [5, 300, 301])):
        gateway.say(op="submit", id=number, tokens=tokens, n_prompt=1, sampling=fields)
        line = gateway.wait(lambda l, n=number: l.get("aborted", {}).get("id") == n)["aborted"]
        report.check("no token can follow" in line["message"], f"{name}: {line}")
    gateway.say(op="submit", id=802, tokens=[5], sampling={"grammar": "00ff00ff"})
    line = gateway.wait(lambda l: l.get("aborted", {}).get("id") == 802)["aborted"]
    report.check(line["status"] == -2 and not line["retry"], f"{name}: bytes that are no grammar: {line}")
    return ids


def check_refusals(report, name, gateway):
    bad = {"temperature": {"sampling": {"temperature": -1}}, "top_p": {"sampling": {"top_p": 1.5}}, "max_tokens": {"sampling": {"max_tokens": 0}},
           "log-probabilities": {"sampling": {"n_logprobs": 21}}, "bias": {"sampling": {"bias_tokens": [1], "bias_values": [1e30]}},
           "end tokens": {"sampling": {"stop": list(range(17))}}, "vocabulary": {"sampling": {"allowed_tokens": [512]}},
           "context": {"tokens": [5] * CTX}, "generated": {"tokens": [5, 6, 7], "n_prompt": 2, "pooling": 1},
           "no token can follow": {"sampling": {"allowed_tokens": [7], "bad_words": [[7]]}}}
    for i, (word, fields) in enumerate(bad.items()):
        gateway.say(op="submit", **{"id": 100 + i, "tokens": [5, 6], "sampling": {}, **fields})
        line = gateway.wait(lambda l, i=i: l.get("aborted", {}).get("id") == 100 + i)["aborted"]
        report.check(line["status"] in (-1, -3) and not line["retry"] and (word in line["message"] or "submit:" in line["message"]), f"{name}: refused for {word}: {line}")
    gateway.say(op="submit", id=200, tokens=[5, 6], sampling={"max_tokens": LONG})
    gateway.say(op="submit", id=200, tokens=[5, 6], sampling={"max_tokens": 3})
    line = gateway.wait(lambda l: "aborted" in l)["aborted"]
    report.check(line["id"] == 200 and "id" in line["message"], f"{name}: an id twice: {line}")
    gateway.say(op="cancel", id=200)


def check_cancel(report, name, gateway, pp, blocks):
    """A cancelled request's blocks are free again within pp + 1 steps, as the loads tell; no event of it comes after the others' next ones."""
    gateway.wait(lambda l: l.get("load", {}).get("running") == 0)
    gateway.say(op="submit", id=300, tokens=[5] * 60, sampling={"max_tokens": LONG})
    first = gateway.wait(lambda l: any(e["id"] == 300 and e["index"] == 3 for e in l.get("events", [])))
    gateway.say(op="cancel", id=300)
    gateway.say(op="submit", id=301, tokens=[9], sampling={"max_tokens": 1})
    after = gateway.wait(lambda l: any(e["id"] == 301 for e in l.get("events", [])))
    load = gateway.wait(lambda l: l.get("load", {}).get("running") == 0)["load"]
    report.check(load["kv_blocks_free"] == blocks, f"{name}: all blocks are free after a cancel: {load}")
    seen = [e["index"] for l in gateway.past for e in l.get("events", []) if e["id"] == 300]
    report.check(max(seen) < LONG - 1, f"{name}: a cancelled request did not run to its end ({max(seen)})")
    steps = after["step"] - first["step"]
    print(f"{name}: cancelled after step {first['step']}, the next request's only token in step {after['step']} ({steps} later)")
    late = [l for l in gateway.past[gateway.past.index(after):] for e in l.get("events", []) if e["id"] == 300]
    report.check(not late, f"{name}: events of a cancelled request: {late}")


def check_slow(report, name, gateway, replica):
    """A gateway that stands still for a moment, while more is answered than any queue or buffer on the way holds, loses nothing."""
    gateway.say(op="submit", id=350, tokens=[5, 6, 7], sampling={"max_tokens": LONG, "n_logprobs": 20})
    gateway.wait(lambda l: any(e["id"] == 350 for e in l.get("events", [])))
    for i in range(3):
        gateway.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        gateway.process.send_signal(signal.SIGCONT)
        # An answer from beyond what waited: the replica has heard the gateway again, however busy the machine is.
        gateway.say(op="submit", id=351 + i, tokens=[9], sampling={"max_tokens": 1})
        gateway.wait(lambda l: any(e["id"] == 351 + i for e in l.get("events", [])))
    gateway.say(op="cancel", id=350)
    gateway.wait(lambda l: l.get("load", {}).get("running") == 0)
    indices = [e["index"] for l in gateway.past for e in l.get("events", []) if e["id"] == 350]
    report.check(indices == list(range(len(indices))), f"{name}: tokens are missing: {len(indices)} came, the last one is {indices[-1]}")
    gone = [l for l in gateway.past if "gone" in l]
    report.check(not gone, f"{name}: the session went on: {gone}, the replica said {replica.said()[-2000:]}")
    print(f"{name}: {len(indices)} tokens past a gateway that stood still")


def check_loads(report, name, gateway, n_ranks):
    load = gateway.wait(lambda l: "load" in l and l["load"]["running"] == 0)["load"]
    report.check([r["rank"] for r in load["ranks"]] == list(range(n_ranks)), f"{name}: a figure for each rank")
    load = gateway.wait(lambda l: "load" in l and all(r["steps"] > 0 for r in l["load"]["ranks"]))["load"]
    report.check(all(r["step_seconds"] > 0 and r["resident"] > 0 and r["kv_bytes"] > 0 for r in load["ranks"]), f"{name}: {load['ranks']}")
    report.check(n_ranks == 1 or all(r["exchange_seconds"] > 0 for r in load["ranks"]), f"{name}: time in exchanges")
    health = gateway.wait(lambda l: "health" in l)["health"]
    report.check(health["ok"] and health["stalled_seconds"] < 60, f"{name}: health {health}")


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def check_idle(report, name, replica):
    """Idle ranks sleep: over a second they take far less than one rank that spins would."""
    ranks = replica.ranks()
    before, begin = cpu_seconds(ranks), time.monotonic()
    time.sleep(1.5)
    used = (cpu_seconds(ranks) - before) / (time.monotonic() - begin)
    print(f"{name}: idle, {len(ranks)} ranks use {used:.3f} cores")
    report.check(used < 0.5, f"{name}: idle ranks use {used:.2f} cores")


def serve(a, work, name, tp, pp, args=("--plain",), keys=()):
    gateway = Lines([a.gateway, f"ipc://{work}/{name}.sock", *keys])
    endpoint = gateway.wait(lambda l: "endpoint" in l)["endpoint"]
    replica = Replica(a.trireme, a.model, endpoint, tp, pp, args)
    return gateway, replica, endpoint


def check_split(report, a, work, tp, pp):
    name = f"{tp}x{pp}"
    n = 24
    reference = generate(a.trireme, a.model, [g for g, _ in mixed(n, 7)], tp, pp, ("--compute", "f32", "--ctx", CTX, "--threads", "1"))
    gateway, replica, _ = serve(a, work, name, tp, pp, ("--plain", "--max-seqs", "8", "--kv-blocks", str(BLOCKS), "--name", "here"))
    try:
        hello = gateway.wait(lambda l: "hello" in l)["hello"]
        report.check((hello["replica"], hello["tp"], hello["pp"], hello["vocab"], hello["max_model_len"], hello["kv_blocks"]) == ("here", tp, pp, 512, CTX, BLOCKS) and
                     hello["model"] == os.path.basename(a.model) and len(hello["numerics"]) == 64 and hello["digest"].startswith("sha256:"), f"{name}: hello {hello}")
        gateway.say(op="assets")
        for asset, _ in hello["assets"]:
            line = gateway.wait(lambda l: "asset" in l)
            report.check(line == {"asset": asset, "ok": True}, f"{name}: {line}")
        check_same(report, a, name, tp, pp, gateway, n, reference)
        a.grammars = check_grammars(report, a, name, gateway, getattr(a, "grammars", None))
        check_refusals(report, name, gateway)
        check_loads(report, name, gateway, tp * pp)
        check_cancel(report, name, gateway, pp, hello["kv_blocks"])
        check_slow(report, name, gateway, replica)
        check_idle(report, name, replica)
        # A drain: what runs ends, what comes is sent back, the job ends with 0.
        gateway.say(op="submit", id=400, tokens=[5, 6, 7], sampling={"max_tokens": 9000})
        gateway.wait(lambda l: any(e["id"] == 400 for e in l.get("events", [])))
        gateway.say(op="drain", ms=0)
        gateway.say(op="submit", id=401, tokens=[5, 6, 7], sampling={"max_tokens": 60})
        back = gateway.wait(lambda l: "aborted" in l)["aborted"]
        report.check(back["id"] == 401 and back["retry"], f"{name}: sent back while it drains: {back}")
        last = gateway.wait(lambda l: any(e["id"] == 400 and e["finish"] for e in l.get("events", [])))
        report.check(last["events"][-1]["index"] == 8999, f"{name}: what ran before the drain ends")
        gateway.wait(lambda l: "goodbye" in l)
        code, said = replica.wait()
        report.check(code == 0, f"{name}: exit code {code} after a drain: {said[-500:]}")
    except Failed:
        print(f"the replica said: {replica.said()[-2000:]}", flush=True)
        raise
    finally:
        gateway.end()
        replica.kill()
    return hello["numerics"]


def check_gateway_lost(report, a, work):
    """A killed gateway: what it submitted is void; the next one at that address is served."""
    keys = os.path.join(work, "keys")
    subprocess.run([a.trireme, "keygen", keys], check=True, stdout=subprocess.DEVNULL, timeout=60)
    gateway, replica, endpoint = serve(a, work, "lost", 1, 1, ("--keys", keys, "--ctx", "3000", "--kv-blocks", "190"), [keys])
    try:
        gateway.wait(lambda l: "hello" in l)
        for i in range(3):
            gateway.say(op="submit", id=i, tokens=[5, 6, 7 + i], sampling={"max_tokens": 990})
        gateway.wait(lambda l: "events" in l)
        gateway.end()
        gateway = Lines([a.gateway, endpoint, keys])
        gateway.wait(lambda l: "hello" in l)
        gateway.say(op="submit", id=1, tokens=[5, 6, 8], sampling={"max_tokens": 9})
        events = collect(gateway, [1])[1]
        report.check([e["index"] for e in events] == list(range(9)), f"lost gateway: a new request of an old id: {events}")
        others = [e for l in gateway.past for e in l.get("events", []) if e["id"] != 1]
        report.check(not others, f"lost gateway: events of the session before: {others}")
        load = gateway.wait(lambda l: l.get("load", {}).get("running") == 0)["load"]
        report.check(load["kv_blocks_free"] == 190, f"lost gateway: blocks are free: {load}")
        # SIGTERM with something running: a drain; a second one ends it at once.
        gateway.say(op="submit", id=2, tokens=[5, 6, 8], sampling={"max_tokens": 2990})
        gateway.wait(lambda l: "events" in l)
        replica.process.send_signal(signal.SIGTERM)
        end = gateway.wait(lambda l: "goodbye" in l)
        done = [e for l in gateway.past for e in l.get("events", []) if e["id"] == 2 and e["finish"]]
        report.check(len(done) == 1, f"SIGTERM: what runs ends first: {end}")
        code, said = replica.wait()
        report.check(code == 0, f"SIGTERM: exit code {code}: {said[-500:]}")
    except Failed:
        print(f"the replica said: {replica.said()[-2000:]}", flush=True)
        raise
    finally:
        gateway.end()
        replica.kill()


def caught(pid, number):
    with open(f"/proc/{pid}/status") as f:
        masks = dict(line.split(":", 1) for line in f)
    return int(masks["SigCgt"], 16) >> (number - 1) & 1 == 1


def check_signals(report, a, work):
    """Signals without a gateway, twice at once, and with a request under way that is sent back."""
    for n in (1, 2):
        replica = Replica(a.trireme, a.model, f"ipc://{work}/nobody.sock", 1, 1, ("--plain",))
        try:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until and not caught(replica.process.pid, signal.SIGTERM):
                time.sleep(0.05)
            for number in (signal.SIGTERM, signal.SIGUSR1)[:n]:
                replica.process.send_signal(number)
            code, said = replica.wait()
            report.check(code == 0, f"{n} signals without a gateway: exit code {code}: {said[-500:]}")
        finally:
            replica.kill()
    gateway, replica, _ = serve(a, work, "signals", 1, 1)
    try:
        gateway.wait(lambda l: "hello" in l)
        gateway.say(op="submit", id=1, tokens=[5, 6], sampling={"max_tokens": LONG})
        gateway.wait(lambda l: "events" in l)
        replica.process.send_signal(signal.SIGTERM)
        gateway.wait(lambda l: l.get("load", {}).get("draining"))
        replica.process.send_signal(signal.SIGTERM)
        back = gateway.wait(lambda l: "aborted" in l)["aborted"]
        report.check(back["id"] == 1 and back["retry"], f"two signals: what runs is sent back: {back}")
        code, said = replica.wait()
        report.check(code == 0, f"two signals: exit code {code}: {said[-500:]}")
    finally:
        gateway.end()
        replica.kill()
    gateway, replica, _ = serve(a, work, "unwanted", 1, 1)
    try:
        gateway.wait(lambda l: "hello" in l)
        gateway.say(op="goodbye", reason="not wanted here", retry=False)
        code, said = replica.wait()
        report.check(code == 2 and "not wanted here" in said, f"sent away: exit code {code}: {said[-500:]}")
    finally:
        gateway.end()
        replica.kill()


def check_dead_rank(report, a, work):
    gateway, replica, _ = serve(a, work, "dead", 2, 2)
    try:
        gateway.wait(lambda l: "hello" in l)
        ranks = replica.ranks()
        report.check(len(ranks) == 4, f"dead rank: {len(ranks)} ranks are found")
        gateway.say(op="submit", id=1, tokens=[5, 6, 8], sampling={"max_tokens": LONG})
        gateway.wait(lambda l: "events" in l)
        os.kill(ranks[2], signal.SIGKILL)
        gateway.wait(lambda l: "gone" in l or "goodbye" in l, 30)
        code, said = replica.wait(30)
        report.check(code not in (0, None), f"dead rank: exit code {code}")
        told = [line for line in said.splitlines() if "rank 2" in line]
        report.check("rank 2" in said, f"dead rank: said {said[-800:]}")
        print("dead rank:", told[:3])
    except Failed:
        print(f"the replica said: {replica.said()[-2000:]}", flush=True)
        raise
    finally:
        gateway.end()
        replica.kill()


def check_stopped_rank(report, a, work):
    """A rank that hangs: the watchdog tells the gateway, and ends the job."""
    gateway, replica, _ = serve(a, work, "stopped", 2, 1, ("--plain", "--step-timeout", "2"))
    try:
        gateway.wait(lambda l: "hello" in l)
        gateway.say(op="submit", id=1, tokens=[5, 6, 8], sampling={"max_tokens": LONG})
        gateway.wait(lambda l: "events" in l)
        os.kill(replica.ranks()[1], signal.SIGSTOP)
        gateway.say(op="submit", id=2, tokens=[5, 6, 8], sampling={"max_tokens": LONG})  # there is a step to wait for whatever the first does
        health = gateway.wait(lambda l: "health" in l and not l["health"]["ok"], 30)["health"]
        report.check("no step has ended" in health["detail"] and "rank " in health["detail"], f"stopped rank: {health}")
        code, said = replica.wait(30)
        report.check(code not in (0, None), f"stopped rank: exit code {code}")
        report.check(sum("no step has ended" in line for line in said.splitlines()) == 1, f"stopped rank: said once: {said[-800:]}")
        print("stopped rank:", health["detail"])
    except Failed:
        print(f"the replica said: {replica.said()[-2000:]}", flush=True)
        raise
    finally:
        gateway.end()
        replica.kill()


def check_refused(report, a):
    """What is wrong is said in one line, before the gateway matters."""
    for args, words, codes in ((["--gateway", "tcp://x:1", "--keys", "/nonexistent"], "keygen", (1, 2)), (["--plain"], "no gateway", (2,)),
                               (["--gateway", "nonsense", "--plain"], "tcp://HOST", (1, 2))):
        p = subprocess.run([a.trireme, "replica", "-m", a.model, "--ctx", "100", *args], capture_output=True, text=True, timeout=60)
        report.check(p.returncode in codes and words in p.stderr, f"refused {args}: {p.returncode} {p.stderr[-300:]}")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--gateway", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--splits", default="1x1,2x1,2x2")
    p.add_argument("--only", default="splits,lost,signals,dead,stopped,refused")
    a = p.parse_args()
    report = Report()
    only = a.only.split(",")
    with tempfile.TemporaryDirectory() as work:
        a.model = longer(a.model, work)
        if "splits" in only:
            ids = {s: check_split(report, a, work, *map(int, s.split("x"))) for s in a.splits.split(",")}
            report.check(len(set(ids.values())) == len({s.split("x")[0] for s in ids}), f"numerics ids tell tensor-parallel degrees apart, not stages: {ids}")
        if "lost" in only:
            check_gateway_lost(report, a, work)
        if "signals" in only:
            check_signals(report, a, work)
        if "dead" in only:
            check_dead_rank(report, a, work)
        if "stopped" in only:
            check_stopped_rank(report, a, work)
        if "refused" in only:
            check_refused(report, a)
    report.end()


if __name__ == "__main__":
    main()
