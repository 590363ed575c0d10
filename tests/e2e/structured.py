#!/usr/bin/env python3
"""Structured output of a real checkpoint, asked for through the service: schemas of the suite in jsonschema's source package, at temperature 1.

    structured.py --trireme TRIREME --lines GRAMMAR_LINES --model CHECKPOINT --suite DIR [--schemas N] [--seeds N] [--max-tokens N]
                [--finish PERCENT] [--refused PERCENT]

Every answer that ended validates with Python's jsonschema; every one that was cut is the beginning of a text that the schema allows; at most 10 % of
the schemas are refused, each by a message that names what is not supported; and at least so many percent of the answers end.  Exit 77: no checkpoint, no jsonschema, no source package.
"""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import sys
import threading
import time

import run
from up_service import Service

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "shard_grammar"))
from schemas import Lines, chosen  # noqa: E402

# Examples of brief answers: most of the suite's schemas allow texts without end, and a small model at temperature 1 writes them unless it is shown.
EXAMPLES = [({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}, {"name": "Ann", "age": 31}), ({"minimum": 3}, 7),
            ({"items": {"type": "boolean"}}, [True, False]), ({"minLength": 2}, "abc"), ({"additionalProperties": {"type": "null"}}, {"a": None}),
            ({"required": ["a b", "c"]}, {"a b": 1, "c": 2}), ({"allOf": [{"format": "date"}, {}]}, "2001-02-03"), ({"dependentRequired": {"x": ["y"]}}, {}),
            ({"type": "object", "properties": {"v": {"type": "number"}, "next": {"$ref": "#"}}, "required": ["v"]}, {"v": 1}), ({"type": ["array", "null"]}, []),
            ({"not": {"type": "object"}}, 1), ({"pattern": "^b"}, "bc"), ({"contains": {"const": 5}}, [5]), ({"anyOf": [{"type": "string"}, {"minimum": 2}]}, "x"),
            ({"unevaluatedProperties": False, "properties": {"z": {"type": "string"}}}, {"z": "w"}), ({"maxItems": 2}, [1])]
SHOWN = [{"role": "system", "content": "You answer each JSON schema with one short JSON value that is valid."}]
for example, value in EXAMPLES:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", **example}
    SHOWN += [{"role": "user", "content": json.dumps(schema)}, {"role": "assistant", "content": json.dumps(value)}]


def body(service, schema, seed, max_tokens):
    return {"model": service.model, "messages": [*SHOWN, {"role": "user", "content": json.dumps(schema)}], "temperature": 1, "seed": seed, "max_tokens": max_tokens,
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


class Asked:
    """The answers to every schema, counted and judged."""

    def __init__(self, report, lines, args):
        self.report, self.lines, self.args = report, lines, args
        self.n, self.refused, self.cut = collections.Counter(), collections.Counter(), collections.Counter()
        self.lock = threading.Lock()

    def ask(self, service, first_seed, where, cls, schema):
        """All seeds of one schema, one after the other: they share the prompt and the grammar's masks."""
        for seed in range(first_seed, first_seed + self.args.seeds):
            status, text = service.ask("/v1/chat/completions", body(service, schema, seed, self.args.max_tokens), timeout=self.args.timeout)
            with self.lock:
                if not self.judge(where, cls, schema, seed, status, json.loads(text)):
                    return

    def judge(self, where, cls, schema, seed, status, answer):
        """Whether to ask again with another seed."""
        if status != 200:
            self.judge_refusal(where, status, answer["error"]["message"])
            return False
        choice, tokens = answer["choices"][0], answer["usage"]["completion_tokens"]
        text, reason = choice["message"]["content"] or "", choice["finish_reason"]
        self.n["tokens"] += tokens
        if reason == "stop":
            self.n["finished"] += 1
            try:
                problem = None
                cls(schema).validate(json.loads(text))
            except Exception as error:  # whatever the reference says against it
                problem = str(error).splitlines()[0]
            self.report.check(problem is None, f"{where}, seed {seed}: {text!r} validates: {problem}")
        elif self.report.check(reason == "length" and tokens == self.args.max_tokens, f"{where}, seed {seed}: {reason} after {tokens} tokens: {text!r}"):
            self.n["cut"] += 1
            self.cut[where] += 1
            self.judge_cut(where, schema, seed, text)
        return True

    def judge_cut(self, where, schema, seed, text):
        # A cut within a character leaves a mark in its place.
        texts = [text, text.rstrip("\ufffd")]
        verdict = self.lines.ask(kind="json_schema", source=json.dumps(schema, separators=(",", ":")), texts=texts)
        self.report.check(verdict["status"] == "ok" and any(verdict["prefix"]), f"{where}, seed {seed}: cut at the beginning of what is allowed: {text!r}")
        if self.args.verbose:
            print(f"cut: {where}, seed {seed}: {text!r}: {json.dumps(schema)}", flush=True)

    def judge_refusal(self, where, status, message):
        if status == 400 and "no text matches" in message:
            self.n["empty"] += 1  # nothing is valid against it
            return
        self.n["refused"] += 1
        self.refused[message] += 1
        self.report.check(status == 400 and ('"' in message or "not supported" in message), f"{where}: refused by name: {status} {message}")

    def say(self, seconds):
        ended = self.n["finished"] + self.n["cut"]
        share = 100 * self.n["finished"] / max(ended, 1)
        print(f"{self.args.schemas} schemas, {self.args.seeds} seeds: {self.n['refused']} schemas refused ({100 * self.n['refused'] / self.args.schemas:.1f} %), "
              f"{self.n['empty']} with no valid value; {ended} answers, {self.n['finished']} finished ({share:.1f} %), "
              f"{self.n['tokens'] / max(ended, 1):.0f} tokens on average, {seconds:.0f} s")
        for message, count in self.refused.most_common():
            print(f"  refused {count} x {message}")
        for where, count in self.cut.most_common():
            print(f"  cut {count} x {where}")
        self.report.check(ended > 0 and share >= self.args.finish, f"{share:.1f} % finish, of {self.args.finish} %")
        self.report.check(100 * self.n["refused"] <= self.args.refused * self.args.schemas, f"{self.n['refused']} of {self.args.schemas} schemas are refused")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--lines", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="every schema has its own seeds, from this one on (default %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--finish", type=float, default=95, help="percent of answers that must end (default %(default)s)")
    parser.add_argument("--refused", type=float, default=10, help="percent of schemas that may be refused (default %(default)s)")
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--timeout", type=int, default=600, help="seconds for one answer")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    if not pathlib.Path(args.model).exists():
        print(f"skipped: no {args.model}")
        sys.exit(77)
    report = run.Report()
    asked = Asked(report, Lines([args.lines]), args)
    schemas = chosen(args.suite, args.schemas)
    began = time.monotonic()
    with Service(args.trireme, ["-m", args.model, "--port", 0, "--max-seqs", args.at_once, "--ctx", 4096]) as service:
        with concurrent.futures.ThreadPoolExecutor(args.at_once) as pool:
            for done in [pool.submit(asked.ask, service, args.first_seed + i * args.seeds, *s[:3]) for i, s in enumerate(schemas)]:
                done.result()
        asked.say(time.monotonic() - began)
    report.end()


if __name__ == "__main__":
    main()
