"""Grammars of JSON schemas against Python's jsonschema and the test suite in its source package.

  check_schemas.py GRAMMAR_LINES [--suite DIR] [--schemas 200] [--walks 5] [--all] [--tokenizer FILE] [--verbose]

DIR holds the source package.  For schemas drawn from the suite with a fixed seed:
  - at most 10 % are refused, each by a message that names what is not supported;
  - every text generated validates, and every one that was cut short does so when it is told to end;
  - no invalid instance of the suite is accepted; valid ones are, where the policy of writing lets them be (counted).
Exit 77: jsonschema or its source is not there.
"""
import argparse
import collections
import itertools
import json
import sys

from schemas import Lines, chosen


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def orders(value):
    """Compact texts of a value, its outermost members in every order if they are few."""
    if isinstance(value, dict) and 2 <= len(value) <= 4:
        return [compact(dict(p)) for p in itertools.permutations(value.items())]
    return [compact(value)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lines")
    parser.add_argument("--suite", default="jsonschema-suite")
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--walks", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--tokenizer")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    lines = Lines([args.lines] + ([args.tokenizer] if args.tokenizer else []))
    n = collections.Counter()
    refused = collections.Counter()
    wrong = []
    for where, cls, schema, group in chosen(args.suite, None if args.all else args.schemas, args.seed):
        texts = [(t, o) for t in group["tests"] for o in orders(t["data"])]
        answer = lines.ask(kind="json_schema", source=json.dumps(schema), texts=[o for _, o in texts], walks=args.walks, seed=args.seed, steps=60)
        n["schemas"] += 1
        if answer["status"] == "unsupported":
            n["refused"] += 1
            refused[answer["message"]] += 1
            if '"' not in answer["message"] and "not supported" not in answer["message"]:
                wrong.append(f"{where}: refused without a name: {answer['message']}")
            continue
        if answer["status"] == "invalid" and "no text matches" in answer["message"]:
            n["empty"] += 1
            if any(t["valid"] for t in group["tests"]):
                n["empty, though not"] += 1
                if args.verbose:
                    print(f"empty: {where} {json.dumps(schema)}")
            continue
        if answer["status"] != "ok":
            wrong.append(f"{where}: {answer['status']}: {answer['message']}")
            continue
        verdicts = {}
        for (test, text), accepted in zip(texts, answer["accepted"]):
            if accepted and not test["valid"]:
                wrong.append(f"{where}: accepts {text}")
            verdicts[id(test)] = verdicts.get(id(test), False) or accepted
        for test in group["tests"]:
            if test["valid"]:
                n["valid"] += 1
                n["valid accepted"] += verdicts[id(test)]
                if args.verbose and not verdicts[id(test)]:
                    print(f"not accepted: {where}: {compact(test['data'])}")
        validator = cls(schema)
        n["finished"] += len(answer["walks"])
        n["cut"] += len(answer["unfinished"])
        n["cut, never ended"] += sum(not u["finished"] for u in answer["unfinished"])
        for text in answer["walks"] + [u["text"] for u in answer["unfinished"] if u["finished"]]:
            try:
                validator.validate(json.loads(text))
            except Exception as error:  # whatever the reference says against it
                wrong.append(f"{where}: generated {text[:300]}: {str(error).splitlines()[0]}")
    print(", ".join(f"{v} {k}" for k, v in n.items()))
    for message, count in refused.most_common():
        print(f"  {count} x {message}")
    for line in wrong[:40]:
        print("WRONG", line)
    if n["refused"] * 10 > n["schemas"]:
        print(f"WRONG more than 10 % refused: {n['refused']} of {n['schemas']}")
        return 1
    if n["cut, never ended"] * 50 > n["cut"] + n["finished"]:
        print("WRONG too many texts that never end")
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
