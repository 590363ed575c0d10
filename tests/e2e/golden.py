"""Tiny checkpoints of every family against the reference implementation's numbers, on every split, with real MPI ranks.

Each checkpoint folder holds a golden.json (tests/golden/make_golden.py says how it was made).  In f32 compute the log-probabilities of
all positions, the whole distributions of the last two, and 24 greedy tokens must agree.
"""
import argparse
import json
import math
import pathlib

from run import Failed, Report, generate

TOLERANCE = 2e-3  # of a log-probability: rounding of float32 sums in another order stays under 1e-4
SPLITS = "1x1,2x1,3x1,4x1,1x2,2x2,1x4"


def log_softmax(logits):
    m = max(logits)
    norm = m + math.log(sum(math.exp(v - m) for v in logits))
    return [v - norm for v in logits]


def text_config(config):
    return config.get("text_config", config)


def size(config, *names):
    for n in names:
        if config.get(n) is not None:
            return config[n]
    raise KeyError(names[0])


def switching(config):
    """(length beyond which the rotation changes, whether it then stays): a cache keeps older keys as they were rotated, the reference does not."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type"))
    if kind in ("longrope", "su"):
        return config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings"), True
    if kind == "dynamic":
        return config["max_position_embeddings"], False
    return None, True


def request(i, record, vocab):
    return {"id": i, "prompt_ids": record["input_ids"], "max_tokens": len(record["greedy_ids"]), "temperature": 0, "ignore_eos": True,
            "logprobs": vocab, "prompt_logprobs": vocab}


def worst_difference(golden, answer):
    """Largest difference of a log-probability over everything the record holds, and where argmaxes differ."""
    worst, n = 0.0, len(golden["input_ids"])
    for i, want in enumerate(golden["next_token_logprobs"]):
        worst = max(worst, abs(answer["prompt_logprobs"][i + 1]["logprob"] - want))
    for position, logits in golden["logits"].items():
        p = int(position)
        at = answer["logprobs"][0] if p == n - 1 else answer["prompt_logprobs"][p + 1]
        want = log_softmax(logits)
        if len(at["top"]) != len(want):
            return math.inf
        for token, logprob in at["top"]:
            worst = max(worst, abs(want[token] - logprob))
    return worst


def wrong_argmax(golden, answer):
    for i, want in enumerate(golden["argmax_at_each_position"][:-1]):
        top = answer["prompt_logprobs"][i + 1]["top"]
        # a near-tie may fall either way
        if top[0][0] != want and top[0][1] - dict(map(tuple, top))[want] > TOLERANCE:
            return i
    return None


def check_checkpoint(binary, folder, tp, pp, report, extra=()):
    config = text_config(json.loads((folder / "config.json").read_text()))
    golden = json.loads((folder / "golden.json").read_text())
    vocab = config["vocab_size"]
    records = golden["records"]
    what = f"{folder.name} tp {tp} pp {pp}"
    try:
        answers = generate(binary, folder, [request(i, r, vocab) for i, r in enumerate(records)], tp, pp, ("--compute", "f32", *extra))
    except Failed as e:
        report.check(False, f"{what}: {e}")
        return 0.0
    worst = 0.0
    limit, stays = switching(config)
    for record, answer in zip(records, answers):
        name = record.get("name", record.get("about", ""))
        n, total = len(record["input_ids"]), len(record["input_ids"]) + len(record["greedy_ids"])
        d = worst_difference(record, answer)
        worst = max(worst, d)
        report.check(d <= TOLERANCE, f"{what}, {name}: log-probabilities differ by {d:.2e}")
        bad = wrong_argmax(record, answer)
        report.check(bad is None, f"{what}, {name}: another argmax at position {bad}")
        if limit is None or (stays and n > limit) or total <= limit:
            report.check(answer["token_ids"] == record["greedy_ids"],
                         f"{what}, {name}: greedy tokens {answer['token_ids']} instead of {record['greedy_ids']}")
    return worst


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--splits", default=SPLITS, help="tpxpp, comma-separated")
    p.add_argument("--device", default="cpu", help="what computes: cpu or cuda")
    p.add_argument("--only", help="checkpoints whose name contains one of these, comma-separated")
    p.add_argument("folders", nargs="+", type=pathlib.Path, help="folders of checkpoint folders")
    a = p.parse_args()
    report = Report()
    found = sorted(d for f in a.folders for d in f.iterdir() if (d / "golden.json").exists() and (not a.only or any(o in d.name for o in a.only.split(","))))
    for folder in found:
        config = text_config(json.loads((folder / "config.json").read_text()))
        if any(config.get(k) for k in ("num_local_experts", "num_experts", "n_routed_experts")):
            report.skip(folder.name, "a mixture of experts")
            continue
        layers = size(config, "num_hidden_layers", "n_layer", "num_layers")
        heads = size(config, "num_attention_heads", "n_head")
        worst = {}
        for split in a.splits.split(","):
            tp, pp = map(int, split.split("x"))
            if tp <= heads and pp <= layers:
                worst[split] = check_checkpoint(a.trireme, folder, tp, pp, report, ("--device", a.device))
        print(folder.name, " ".join(f"{s}:{w:.1e}" for s, w in worst.items()), flush=True)
    report.end()


if __name__ == "__main__":
    main()
