"""The same answer whatever the company: a sequence's logits do not depend, in any bit, on batch, chunks, preemption, stages or instruction set.

Every run answers the same 24 prompts; the running hash over each answer's logits must equal that of the prompt alone.
"""
import argparse
import json
import math
import os
import random
import re
import sys
import tempfile

import formats
from run import Failed, Report, generate

WORDS = "the a of to and in is it you that he was for on are with as his they be at one have this from def return class import self".split()


def prompts(n, seed, vocab, longest):
    """Mixed lengths and sampling: greedy and seeded, penalties among them."""
    rng = random.Random(seed)
    out = []
    for i in range(n):
        length = rng.choice([1, 2, 5, 15, 16, 17, 40, longest])
        q = {"id": i, "prompt_ids": [rng.randrange(vocab) for _ in range(length)], "max_tokens": rng.randrange(4, 25), "ignore_eos": True}
        if i % 3 == 0:
            q.update(temperature=0)
        else:
            q.update(temperature=0.9, top_p=0.95, top_k=40 if i % 2 else 0, seed=1000 + i)
        if i % 4 == 1:
            q.update(repetition_penalty=1.2, frequency_penalty=0.1)
        out.append(q)
    return out


def same(report, what, want, got):
    bad = [w["id"] for w, g in zip(want, got) if w["logits_hash"] != g["logits_hash"] or w["token_ids"] != g["token_ids"]]
    return report.check(not bad, f"{what}: {len(bad)} of {len(want)} answers differ, first {bad[:3]}")


def preemptions(said):
    return int(re.search(r"(\d+) preemptions", said[0]).group(1))


def variant(report, what, binary, model, requests, want, tp, pp, args, env=None):
    said = []
    try:
        got = generate(binary, model, requests, tp, pp, (*args, "--stats"), env, said=said)
    except Failed as e:
        report.check(False, f"{what}: {e}")
        return
    if "--device cpu" in " ".join(args) and pp > 1 and tp * pp <= len(os.sched_getaffinity(0)): # each rank has cores of its own
        report.check(len(re.findall(r"rank \d+ host .*, lent cores \d", said[0])) == tp * pp, f"{what}: stages lend each other no cores")
    if what.endswith("preempted"):
        report.check(preemptions(said) >= 3, f"{what}: only {preemptions(said)} preemptions")
    if same(report, what, want, got):
        print(f"same: {what}", flush=True)


def replay(report, what, binary, model, requests, answers, tp, pp, args):
    """Prompt and answer computed again as one prompt give, bit for bit, the log-probabilities of decoding."""
    again = [{"id": r["id"], "prompt_ids": r["prompt_ids"] + a["token_ids"], "max_tokens": 1, "temperature": 0, "ignore_eos": True, "prompt_logprobs": 0}
             for r, a in zip(requests, answers)]
    got = generate(binary, model, again, tp, pp, args)
    bad = []
    for r, a, g in zip(requests, answers, got):
        n = len(r["prompt_ids"])
        if [t["logprob"] for t in a["logprobs"]] != [t["logprob"] for t in g["prompt_logprobs"][n:]]:
            bad.append(r["id"])
    if report.check(not bad, f"{what}: log-probabilities of a replay differ for {bad[:5]}"):
        print(f"same: {what}", flush=True)


def turns(vocab, longest):
    """Conversations that begin alike: some the same to the last token, and some that cross block boundaries one by one."""
    rng = random.Random(11)
    system = [rng.randrange(vocab) for _ in range(max(longest // 2, 34))]
    out = []
    for i, q in enumerate(prompts(24, 12, vocab, longest)):
        shared = system[:rng.choice([16, 31, 32, 33, len(system)])] if i % 6 else system
        q["prompt_ids"] = (shared + q["prompt_ids"][:rng.choice([1, 2, 15, 16, 17])])[:longest] if i % 4 else system[:32 + i % 3]
        if i % 8 == 6:
            q["prompt_logprobs"] = 0
        out.append(dict(q, logprobs=0))
    return out


def later_turns(requests, answers, vocab):
    """The next turn of each: prompt, answer, and something more."""
    rng = random.Random(13)
    return [dict(r, id=100 + r["id"], prompt_ids=r["prompt_ids"] + a["token_ids"] + [rng.randrange(vocab) for _ in range(rng.randrange(1, 6))])
            for r, a in zip(requests, answers)]


def talkers(vocab):
    """Short questions and long answers: preempted, they find blocks of what they generated.  They have few words, so that the counts of those matter."""
    rng = random.Random(17)
    words = {str(rng.randrange(vocab)): 30 for _ in range(8)}
    return [{"id": i, "prompt_ids": [rng.randrange(vocab) for _ in range(3 + i % 2)], "max_tokens": 40 + 9 * (i % 3), "ignore_eos": True, "logprobs": 0,
             "temperature": 1, "seed": i, "logit_bias": words, "repetition_penalty": 1.0 if i % 2 else 1.02, "frequency_penalty": 0.4,
             "presence_penalty": 0.5 * (i % 3)} for i in range(16)]


def computed(said):
    return int(re.search(r"(\d+) tokens computed", said[0]).group(1))


def found(said):
    return int(re.search(r"(\d+) of \d+ tokens found", said[0]).group(1))


def prefix_cache(a, report, kv, splits):
    """Answers with a prefix from the cache are those without: on their own, in company, in chunks, preempted; prompts and answers found again."""
    base = ["--device", a.device, "--compute", a.compute, "--kv-type", kv, "--ctx", str(a.ctx)]
    alone = {}
    for split in splits:
        tp, pp = map(int, split.split("x"))
        if tp not in alone:
            one = (*base, "--max-seqs", "1", "--no-prefix-cache")
            first = turns(a.vocab, a.longest)
            answers = generate(a.trireme, a.model, first, tp, 1, one)
            second = later_turns(first, answers, a.vocab)
            alone[tp] = (first + second, answers + generate(a.trireme, a.model, second, tp, 1, one))
        requests, want = alone[tp]
        for label, args in (("one by one", ["--max-seqs", "1"]), ("all together", ["--max-seqs", "48"]),
                            ("chunks of 7", ["--max-seqs", "24", "--prefill-chunk", "7"]), ("preempted", ["--max-seqs", "24", "--kv-blocks", "20"])):
            what, said = f"{a.model} {a.compute} kv {kv} tp {tp} pp {pp}, prefix cache, {label}", []
            try:
                got = generate(a.trireme, a.model, requests, tp, pp, (*base, *args, "--stats"), said=said)
            except Failed as e:
                report.check(False, f"{what}: {e}")
                continue
            report.check(found(said) >= 16 * len(requests), f"{what}: only {found(said)} tokens found")
            if label == "preempted":
                report.check(preemptions(said) >= 3, f"{what}: only {preemptions(said)} preemptions")
            report.check([w.get("prompt_logprobs") for w in want] == [g.get("prompt_logprobs") for g in got], f"{what}: log-probabilities of prompts differ")
            if same(report, what, want, got):
                print(f"same: {what}: {found(said)} tokens found, {preemptions(said)} preemptions", flush=True)


def own_answer_found(a, report, kv, splits):
    """So few blocks that sequences are preempted: what they had generated is found again."""
    for split in splits:
        tp, pp = map(int, split.split("x"))
        what = f"{a.model} {a.compute} kv {kv} tp {tp} pp {pp}, preempted answers found again"
        base, few, said, without = ["--compute", a.compute, "--kv-type", kv, "--ctx", "80"], ["--max-seqs", "4", "--kv-blocks", str(a.few_blocks), "--stats"], [], []
        requests = talkers(a.vocab)
        want = generate(a.trireme, a.model, requests, tp, 1, (*base, "--max-seqs", "1", "--no-prefix-cache"))
        got = generate(a.trireme, a.model, requests, tp, pp, (*base, *few), said=said)
        generate(a.trireme, a.model, requests, tp, pp, (*base, *few, "--no-prefix-cache"), said=without)
        report.check(preemptions(said) >= 2 and computed(said) < computed(without),
                     f"{what}: {preemptions(said)} preemptions, {computed(said)} tokens computed, {computed(without)} without the cache")
        if same(report, what, want, got):
            print(f"same: {what}: {preemptions(said)} preemptions, {computed(said)} tokens computed, {computed(without)} without the cache", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--emulated", help="the binary whose missing instruction sets are emulated")
    p.add_argument("--model")
    p.add_argument("--formats", help="instead of --model: one file of each of these types (comma-separated, or all) is made and run")
    p.add_argument("--vocab", type=int, default=formats.VOCAB)
    p.add_argument("--compute", default="auto")
    p.add_argument("--kv-types", default="auto")
    p.add_argument("--device", default="cpu", help="what computes: cpu or cuda")
    p.add_argument("--gemm", help="who multiplies by bf16 weights on a device: own or cublaslt")
    p.add_argument("--isas", default="", help="levels to compare, comma-separated")
    p.add_argument("--splits", default="1x1,1x2")
    p.add_argument("--longest", type=int, default=90)
    p.add_argument("--ctx", type=int, default=256)
    p.add_argument("--few-blocks", type=int, default=10, help="KV blocks with which four talkers are preempted; with windows they hold fewer")
    p.add_argument("--prefix-cache", action="store_true", help="only what the prefix cache may not change")
    a = p.parse_args()
    report = Report()
    if a.prefix_cache:
        for kv in a.kv_types.split(","):
            prefix_cache(a, report, kv, a.splits.split(","))
            own_answer_found(a, report, kv, a.splits.split(","))
        report.end()
    if a.model:
        one_model(report, a, a.model, filter(None, a.isas.split(",")))
        report.end()
    try:
        import gguf # noqa: F401
    except ImportError:
        print("skipped: the Python package gguf is not installed")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        for name in formats.TYPES if a.formats == "all" else a.formats.split(","):
            path = os.path.join(folder, f"{name}.gguf")
            formats.write(path, name)
            # a level with products of bf16 pairs adds them in an order of its own
            one_model(report, a, path, [] if name == "BF16" else filter(None, a.isas.split(",")))
            os.remove(path)
    report.end()


def one_model(report, a, model, isas):
    requests = [dict(r, logprobs=0) for r in prompts(24, 7, a.vocab, a.longest)]
    for kv in a.kv_types.split(","):
        base = ["--device", a.device, "--compute", a.compute, "--kv-type", kv, "--ctx", str(a.ctx), *(["--gemm", a.gemm] if a.gemm else [])]
        alone = {}
        for split in a.splits.split(","):
            tp, pp = map(int, split.split("x"))
            what = f"{model} {a.compute} kv {kv} tp {tp} pp {pp}"
            if tp not in alone: # one at a time, on the fewest stages: what everything else must equal
                alone[tp] = generate(a.trireme, model, requests, tp, 1, (*base, "--max-seqs", "1"))
                known = [t["logprob"] for answer in alone[tp] for t in answer["logprobs"]]
                report.check(all(map(math.isfinite, known)) and len(set(known)) > len(known) // 2, f"{what}: log-probabilities are no numbers, or all the same")
            want = alone[tp]
            for label, args in (("all together", ["--max-seqs", "24"]), ("chunks of 1", ["--max-seqs", "24", "--prefill-chunk", "1"]),
                                ("chunks of 7", ["--max-seqs", "24", "--prefill-chunk", "7"]), ("chunks of 512", ["--max-seqs", "24", "--prefill-chunk", "512"]),
                                ("preempted", ["--max-seqs", "24", "--kv-blocks", "20"])):
                variant(report, f"{what}, {label}", a.trireme, model, requests, want, tp, pp, (*base, *args))
            replay(report, f"{what}, replayed", a.trireme, model, requests, want, tp, pp, (*base, "--max-seqs", "8"))
        for isa in isas:
            variant(report, f"{model} {a.compute} kv {kv}, {isa}", a.emulated or a.trireme, model, requests, alone[1], 1, 1, (*base, "--max-seqs", "24"),
                    {"TRIREME_ISA": isa})


if __name__ == "__main__":
    main()
