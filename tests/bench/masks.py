#!/usr/bin/env python3
"""What structured output adds to the time between tokens: the same prompt and as many tokens, with a schema and without, in rounds by turns.

    masks.py --trireme build/release/trireme MODEL...  [--rounds N] [--tokens N] [--streams 1,16]

Through the whole service (`trireme up`), streamed.  "schema": a list of people without end, the same in every round, so that its masks are mostly
known; "fresh": a schema that no round had before; "strings": a list of strings.  Printed for each: median and p99 of the gaps between streamed
tokens, and the processor time of the ranks for a token (which the neighbours on a busy machine disturb less), and their ratios to "plain".
Nothing is asserted.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from up_service import Service  # noqa: E402

PROMPT = "List the people in this small town, one after the other, each with a name, an age, a trade and what they like."


def people(mark=""):
    person = {"type": "object", "additionalProperties": False, "required": ["name" + mark, "age", "likes"], "properties": {
        "name" + mark: {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "trade": {"enum": ["baker", "smith", "weaver", "sailor"]},
        "likes": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 5}}}
    return {"type": "array", "items": person, "minItems": 1000}


KINDS = {"plain": lambda i: None, "schema": lambda i: people(), "fresh": lambda i: people(str(i)),
         "strings": lambda i: {"type": "array", "items": {"type": "string"}, "minItems": 1000}}


def gaps(service, schema, seed, tokens):
    """Seconds between one answer's tokens, the first one's wait left out."""
    body = {"model": service.model, "prompt": PROMPT, "temperature": 1, "seed": seed, "max_tokens": tokens, "min_tokens": tokens,
            "ignore_eos": True, "stream": True, "return_token_ids": True}
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    headers = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(service.url + "/v1/completions", headers=headers, data=json.dumps(body).encode())
    out, last, n = [], None, 0
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            got = sum(len(c.get("token_ids") or []) for c in json.loads(line[6:])["choices"])
            if got == 0:
                continue
            if last is not None:
                out += [(now - last) / got] * got
            last, n = now, n + got
    if n != tokens:
        raise RuntimeError(f"{n} tokens of {tokens} came")
    return out


def processor_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def round_of(service, schema, seed, tokens, streams):
    """(gaps of all streams, processor seconds for a token)"""
    out, problems = [], []

    def one(i):
        try:
            out.extend(gaps(service, schema, seed * 1000 + i, tokens))
        except Exception as error:  # told by the caller, in its thread
            problems.append(error)
    threads = [threading.Thread(target=one, args=(i,)) for i in range(streams)]
    ranks = service.ranks()
    before = processor_seconds(ranks)
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if problems:
        raise problems[0]
    return out, (processor_seconds(ranks) - before) / (tokens * streams)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--streams", default="1,16")
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    for model in args.models:
        with Service(args.trireme, ["-m", model, "--port", 0, "--ctx", 2048]) as service:
            for streams in map(int, args.streams.split(",")):
                took, cost = {k: [] for k in KINDS}, {k: [] for k in KINDS}
                for i in range(-1, args.rounds):
                    for kind, schema in KINDS.items():
                        found, seconds = round_of(service, schema(f"{streams}x{i + 1}"), i + 2, args.tokens, streams)
                        if i >= 0:  # the first round warms
                            took[kind] += found
                            cost[kind].append(seconds)
                base, base_cost = statistics.median(took["plain"]), statistics.median(cost["plain"])
                for kind in KINDS:
                    median, p99, seconds = statistics.median(took[kind]), statistics.quantiles(took[kind], n=100)[98], statistics.median(cost[kind])
                    print(f"{pathlib.Path(model).name}, {streams:2} streams, {kind:8} median {median * 1e3:7.2f} ms ({median / base:.3f} x)  p99 {p99 * 1e3:7.2f} ms  "
                          f"processor {seconds * 1e3:6.2f} ms a token ({seconds / base_cost:.3f} x)", flush=True)


if __name__ == "__main__":
    main()
