#!/usr/bin/env python3
"""`trireme bench serve` against a server with scripted delays and faults, whose own clock says what is right, and against a real service.

    bench_serve.py --trireme TRIREME --model CHECKPOINT
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import run
import scripted
from up_service import Service, until

LATE = 0.25  # seconds by which a busy machine may delay what is measured


def percentile(values, p):
    """Between the two nearest, as numpy's."""
    v = sorted(values)
    at = p / 100 * (len(v) - 1)
    low = int(at)
    return v[low] + (v[min(low + 1, len(v) - 1)] - v[low]) * (at - low)


class Bench:
    def __init__(self, trireme, url):
        self.trireme, self.url = trireme, url

    def run(self, *args, code=0, key=None, timeout=120):
        """(rows, standard error)"""
        env = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
        env.pop("OPENAI_API_KEY", None)
        if key:
            env["OPENAI_API_KEY"] = key
        p = subprocess.run([self.trireme, "bench", "serve", "--url", self.url, "--json", "--save-detailed", *[str(a) for a in args]], capture_output=True, text=True, env=env,
                           timeout=timeout)
        if p.returncode != code:
            raise run.Failed(f"bench serve {args}: exit code {p.returncode}, not {code}\n{p.stdout[-500:]}\n{p.stderr[-1500:]}")
        return [json.loads(line) for line in p.stdout.splitlines()], p.stderr

    def script(self, name, *args, n=1, code=0, **options):
        chat = ("--endpoint", "/v1/chat/completions") if name == "chat" else ()
        rows, _ = self.run("--num-prompts", n, "--extra-body", json.dumps({"script": name}), "--random-input-len", 10, "--random-output-len", 4, *chat, *args, code=code, **options)
        return rows[0]


def check_definitions(report, bench, handler):
    """What is computed of the times is exact; the times themselves are the server's, up to what the machine delays."""
    for script, tokens, prompts in (("plain", 4, 11), ("chat", 8, 30)):
        handler.seen.clear()
        row = bench.script(script, "--max-concurrency", 3, n=6)
        requests, seen = row["requests"], sorted(handler.seen, key=lambda s: s["came"])
        if not report.check(row["completed"] == 6 and len(requests) == 6 and len(seen) == 6, f"{script}: {row['completed']} of 6, {row['failures']}"):
            continue
        report.check(row["total_output_tokens"] == 6 * tokens and row["total_input_tokens"] == 6 * prompts, f"{script}: the server's own counts: {row['total_output_tokens']}")
        report.check(row["max_concurrent_requests"] == 3, f"{script}: {row['max_concurrent_requests']} under way")
        # Exact: figures from the figures of the requests.
        ttft, e2e = [r["ttft"] for r in requests], [r["e2el"] for r in requests]
        tpot = [(e - t) / (r["output_len"] - 1) for r, t, e in zip(requests, ttft, e2e)]
        for name, values in (("ttft", ttft), ("tpot", tpot), ("e2el", e2e), ("itl", row["itls"])):
            want = {"mean": statistics.fmean(values), "median": statistics.median(values), "std": statistics.pstdev(values), **{f"p{p}": percentile(values, p) for p in (90, 95, 99)}}
            for what, v in want.items():
                report.check(abs(row[f"{what}_{name}_ms"] - 1e3 * v) < 1e-6 * (1 + 1e3 * v), f"{script}: {what} of {name}: {row[f'{what}_{name}_ms']}, not {1e3 * v}")
        report.check(abs(row["output_throughput"] * row["duration"] - row["total_output_tokens"]) < 1e-6 and
                     abs(row["request_throughput"] * row["duration"] - 6) < 1e-6 and
                     abs(row["total_token_throughput"] * row["duration"] - 6 * (tokens + prompts)) < 1e-6, f"{script}: throughputs are counts over {row['duration']}")
        # The server's clock: no output can be seen before it was sent, and the role and the usage are none.
        for mine, true in ((ttft, [s["sent"][0] - s["came"] for s in seen]), (e2e, [s["sent"][-1] - s["came"] for s in seen])):
            report.check(all(-0.001 <= m - t < LATE for m, t in zip(sorted(mine), sorted(true))), f"{script}: {sorted(mine)} against the server's {sorted(true)}")
        gaps = sorted(b - a for s in seen for a, b in zip(s["sent"], s["sent"][1:]))
        report.check(len(row["itls"]) == len(gaps) and abs(statistics.fmean(row["itls"]) - statistics.fmean(gaps)) < LATE, f"{script}: gaps {row['itls']} against {gaps}")


def check_streams(report, bench):
    row = bench.script("pieces")
    report.check(row["completed"] == 1 and row["total_output_tokens"] == 3 and len(row["itls"]) == 2, f"cut anywhere: {row['failures']} {row['itls']}")
    row = bench.script("uncounted")
    report.check(row["total_output_tokens"] == 3 and row["tokens_counted_by"] == "outputs" and row["shorter"] == 1, f"without usage the outputs count: {row['total_output_tokens']}")
    row = bench.script("silent")
    report.check(row["completed"] == 1 and row["total_output_tokens"] == 6 and row["mean_ttft_ms"] >= 100 and row["itls"] == [], f"tokens without text: {row['mean_ttft_ms']}")


def check_failures(report, bench):
    cases = {"busy": "HTTP 429: too many requests", "page": "HTTP 502: <html> <h1>Bad Gateway</h1>", "unstreamed": "is it streamed", "broken": "in the stream: the engine is gone",
             "cut": "", "unfinished": "the stream ended before the answer did", "garbage": "in the stream: an event that is no JSON object"}
    for script, why in cases.items():
        row = bench.script(script, n=2, code=1)
        said = list(row["failures"])
        report.check(row["completed"] == 0 and row["failed"] == 2 and sum(row["failures"].values()) == 2 and len(said) == 1 and why in said[0], f"{script}: {row['failures']}")
    began = time.monotonic()
    row = bench.script("hang", "--request-timeout", 0.5, code=1)
    report.check(row["failures"] == {"not over after 0.5 s": 1} and time.monotonic() - began < 2.5, f"a server that hangs: {row['failures']}")
    row = bench.script("mixed", "--max-concurrency", 1, n=6)
    report.check((row["completed"], row["failed"]) == (4, 2) and row["total_output_tokens"] == 12, f"failed ones do not count: {row['completed']}, {row['failures']}")
    _, said = Bench(bench.trireme, "http://127.0.0.1:9").run(code=1)
    report.check("127.0.0.1:9" in said, f"nobody there: {said}")
    for args, why in ((("--request-rate", "0"), "--request-rate 0"), (("--endpoint", "/x"), "--endpoint"), (("--dataset-name", "trace"), "--dataset-path"), (("extra",), "extra"),
                      (("--goodput", "ttft:x"), "--goodput"), (("--num-prompts", "1,2"), "--num-prompts"), (("--extra-body", "[]"), "--extra-body"),
                      (("--url", "http://me:secret@127.0.0.1:9"), "header"), (("--dataset-name", "trace", "--dataset-path", "/nowhere"), "/nowhere")):
        rows, said = bench.run(*args, code=2)
        report.check(why in said and not rows and "secret" not in said, f"{args}: {said[-300:]}")


def check_loads(report, bench, handler, work):
    # Open loop: requests come when they are due, whether or not those before have ended.
    handler.seen.clear()
    row = bench.script("plain", "--request-rate", 20, "--seed", 3, n=20)
    dues = sorted(r["due"] for r in row["requests"])
    report.check(abs(dues[-1] - 1) < 1e-9, f"20 requests at 20 a second are due within {dues[-1]} s")
    late = [r["sent"] - r["due"] for r in row["requests"]]
    report.check(min(late) >= 0 and statistics.median(late) < LATE, f"they are sent when they are due, and not before: {late}")
    report.check(row["max_concurrent_requests"] > 3, f"they do not wait for each other: {row['max_concurrent_requests']}")
    gaps = [b - a for a, b in zip([0, *dues], dues)]
    report.check(max(gaps) > 3 * min(gaps), "they are not even")
    # Bounded: nobody is sent beyond the bound, and what waits for it is late.  An answer that hung may still be under way at the server, whose client has left.
    end = time.monotonic() + 10
    while handler.under_way > 0 and time.monotonic() < end:
        time.sleep(0.01)
    handler.seen.clear()
    handler.most = 0
    row = bench.script("plain", "--request-rate", 1000, "--max-concurrency", 2, "--goodput", "e2el:1", n=4)
    report.check(handler.most == 2 == row["max_concurrent_requests"], f"{handler.most} at once at the server, {row['max_concurrent_requests']} here")
    report.check(row["max_lateness_ms"] > 1e3 * sum(scripted.GAPS) * 0.9 and row["request_goodput"] == 0, f"lateness {row['max_lateness_ms']}, goodput {row['request_goodput']}")
    # Sweeps and repeats, warm-up, a file that grows; nothing secret in it.
    handler.seen.clear()
    path = os.path.join(work, "serve.jsonl")
    for _ in range(2):
        bench.script("uncounted", "--max-concurrency", "1,2", "--num-prompts", "2,3", "--repeat", 2, "--num-warmups", 4, "--save", path, "--api-key", "s3cret", "--label", "sweep", "--header", "X-Y: z3cret")
    text = open(path, encoding="utf-8").read()
    rows = [json.loads(line) for line in text.splitlines()]
    report.check([(r["max_concurrency"], r["num_prompts"], r["run"]) for r in rows] == 2 * [(1, 2, 0), (1, 2, 1), (2, 3, 0), (2, 3, 1)], "each level as often as wanted")
    report.check(len(handler.seen) == 2 * (4 + 2 * 2 + 2 * 3), f"{len(handler.seen)} requests, those of the warm-up included")
    report.check("s3cret" not in text and "z3cret" not in text and all(r["label"] == "sweep" for r in rows), "a key is in no result")
    prompts = [tuple(s["body"]["prompt"]) for s in handler.seen[:14]]
    report.check(len(set(prompts)) == 14, "no two runs send the same prompts")
    report.check(all(r["environment"]["server"]["model"] == "stand-in" and r["environment"]["cpu"] and r["environment"]["command"][0] == "trireme bench serve" for r in rows), "the environment")
    # Hundreds at once in one thread.
    row = bench.script("uncounted", n=200, timeout=60)
    report.check(row["completed"] == 200 and row["max_concurrent_requests"] > 100, f"{row['completed']} of 200, {row['failures']}, {row['max_concurrent_requests']} at once")


def check_data(report, bench, handler, work):
    def bodies(*args, **options):
        handler.seen.clear()
        row = bench.script("uncounted", *args, **options)
        return row, [s["body"] for s in sorted(handler.seen, key=lambda s: s["came"])]
    # Words are counted by the server, special token and all; ids are its own.
    _, sent = bodies("--prompts", "text", n=3)
    report.check(all(isinstance(b["prompt"], str) and len(b["prompt"].split()) == 9 for b in sent), f"ten tokens are nine words: {sent[0]['prompt']}")
    _, sent = bodies("--prompts", "text", "--random-prefix-len", 5, "--endpoint", "/v1/chat/completions", n=3)
    words = [b["messages"][0]["content"].split() for b in sent]
    report.check(all(len(w) == 15 and w[:5] == words[0][:5] for w in words) and words[0] != words[1], f"a shared prefix: {words}")
    report.check(sent[0]["stream"] is True and sent[0]["stream_options"] == {"include_usage": True} and sent[0]["max_tokens"] == 4 and sent[0]["temperature"] == 0 and
                 "ignore_eos" not in sent[0] and sent[0]["model"] == "stand-in", f"the body: {sent[0]}")
    _, sent = bodies("--vocab-size", 5, "--ignore-eos", "--temperature", -1, n=2)
    report.check(all(len(b["prompt"]) == 10 and set(b["prompt"]) <= set(range(5)) and b["ignore_eos"] is True and "temperature" not in b for b in sent), f"ids: {sent[0]}")
    _, sent = bodies("--dataset-name", "prefix_repetition", "--prefix-repetition-prefix-len", 6, "--prefix-repetition-suffix-len", 2, "--prefix-repetition-num-prefixes", 2,
                     "--prefix-repetition-output-len", 3, n=6)
    report.check(sorted(list(map(str, (b["prompt"][:6] for b in sent))).count(str(p)) for p in {str(b["prompt"][:6]): b["prompt"][:6] for b in sent}.values()) == [3, 3] and
                 all(len(b["prompt"]) == 8 and b["max_tokens"] == 3 for b in sent), "two prefixes, three of each")
    # Conversations.
    path = os.path.join(work, "sharegpt.json")
    turns = [("a question of six words, please", "and an answer of six words"), ("short", "x"), ("q " * 2000, "a long one that is dropped"), ("what is said here first", "this is an answer too")]
    with open(path, "w", encoding="utf-8") as f:
        json.dump([{"id": i, "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}, {"from": "human", "value": "more"}]} for i, (q, a) in enumerate(turns)], f)
    _, sent = bodies("--dataset-name", "sharegpt", "--dataset-path", path, n=4)
    report.check(sorted((b["prompt"], b["max_tokens"]) for b in sent) == sorted(2 * [(turns[0][0], 6), (turns[3][0], 5)]), f"conversations: {[b['prompt'] for b in sent]}")
    # A trace, faster.
    path = os.path.join(work, "trace.jsonl")
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"timestamp": 5000 + 800 * i, "input_length": 20 + i, "output_length": 2 + i, "hash_ids": [7]}) + "\n" for i in range(3))
    handler.seen.clear()
    rows, _ = bench.run("--dataset-name", "trace", "--dataset-path", path, "--trace-speed", 4, "--extra-body", '{"script": "uncounted"}')
    seen = sorted(handler.seen, key=lambda s: s["came"])
    report.check([(len(s["body"]["prompt"]), s["body"]["max_tokens"]) for s in seen] == [(20, 2), (21, 3), (22, 4)] and seen[2]["body"]["prompt"][:20] == seen[0]["body"]["prompt"],
                 "lengths and blocks of the trace")
    due, sent = ([r[k] for r in rows[0]["requests"]] for k in ("due", "sent"))
    report.check([round(d, 9) for d in due] == [0, 0.2, 0.4] and all(s >= d for s, d in zip(sent, due)) and statistics.median(s - d for s, d in zip(sent, due)) < LATE, f"and its times: {due} {sent}")
    # A server that cannot count.
    handler.tokenize = False
    _, said = bench.run("--num-prompts", 1, code=2)
    report.check("--vocab-size" in said, f"without /tokenize: {said}")
    rows, said = bench.run("--num-prompts", 1, "--prompts", "text", "--extra-body", '{"script": "uncounted"}', "--random-input-len", 10)
    report.check(rows[0]["completed"] == 1 and "no /tokenize" in said, f"text is guessed: {said}")
    handler.tokenize = True


def check_service(report, trireme, model):
    """The gateway: what this client counts is what the gateway does."""
    def finished(s):
        lines = [line for line in s.ask("/metrics")[1].splitlines() if line.startswith("trireme:request_success_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
    with Service(trireme, ["-m", model, "--port", 0, "--ctx", 256]) as s:
        bench = Bench(trireme, s.url)
        rows, _ = bench.run(code=2)
        report.check(not rows, "without the key it says so")
        lengths = ("--random-input-len", 40, "--random-output-len", 12, "--ignore-eos")
        for args in ((), ("--prompts", "text"), ("--endpoint", "/v1/chat/completions"), ("--request-rate", "50")):
            rows, _ = bench.run("--num-prompts", 24, "--max-concurrency", 6, *lengths, *args, key=s.key)
            row = rows[0]
            report.check(row["completed"] == 24 and row["total_output_tokens"] == 24 * 12 and row["tokens_counted_by"] == "server" and row["shorter"] == 0, f"{args}: {row['completed']} {row['failures']}")
            exact = "/v1/chat/completions" not in args and "text" not in args
            report.check(row["total_input_tokens"] == 24 * 40 if exact else 24 * 30 <= row["total_input_tokens"] <= 24 * 120, f"{args}: {row['total_input_tokens']} tokens of prompts")
            # An answer of a millisecond may come in one piece.
            report.check(0 < row["median_ttft_ms"] <= row["median_e2el_ms"] and row["max_concurrent_requests"] <= 6 and row["client_cpu"] < 1,
                         f"{args}: {row['median_ttft_ms']}, {row['median_e2el_ms']} ms, {row['max_concurrent_requests']} at once, {row['client_cpu']} of a core")
            server = row["environment"]["server"]
            report.check(server["digest"].startswith("sha256:") and server["replicas"][0]["tp"] == 1, f"the server's own word: {server}")
        until(lambda: finished(s) == 4 * 24, "the gateway counts the same", 10)
        rows, _ = bench.run("--dataset-name", "prefix_repetition", "--prefix-repetition-prefix-len", 64, "--prefix-repetition-suffix-len", 8, "--prefix-repetition-num-prefixes", 1,
                            "--prefix-repetition-output-len", 4, "--num-prompts", 6, "--max-concurrency", 1, "--ignore-eos", key=s.key)
        hits = lambda: json.loads(s.ask("/state")[1])["replicas"][0]["prefix_hits"]
        until(lambda: hits() >= 5 * 64, "the prefix is found again", 10)
        report.check(rows[0]["completed"] == 6, f"{rows[0]['failures']}")
        report.check(s.stop() == 0, "the service ends")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    a = p.parse_args()
    report = run.Report()
    url, handler = scripted.start()
    bench = Bench(a.trireme, url)
    with tempfile.TemporaryDirectory() as work:
        for what, check in (("definitions", lambda: check_definitions(report, bench, handler)), ("streams", lambda: check_streams(report, bench)),
                            ("failures", lambda: check_failures(report, bench)), ("loads", lambda: check_loads(report, bench, handler, work)),
                            ("data", lambda: check_data(report, bench, handler, work)), ("service", lambda: check_service(report, a.trireme, a.model))):
            began = time.monotonic()
            try:
                check()
            except (run.Failed, subprocess.TimeoutExpired) as e:
                report.check(False, f"{what}: {e}")
            print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)
    report.end()


if __name__ == "__main__":
    main()
