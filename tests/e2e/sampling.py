"""Sampling against the distribution that the log-probabilities spell out: truncation, penalties, bias, end tokens, seeds, on one rank and split."""
import argparse
import collections
import math

from run import Report, generate

PROMPT = [5, 77, 131, 20, 9, 254, 33]
DRAWS = 2000


def ask(binary, model, requests, tp=1, pp=1):
    return generate(binary, model, [dict({"id": i, "prompt_ids": PROMPT, "max_tokens": 1, "ignore_eos": True, "temperature": 1}, **r)
                                    for i, r in enumerate(requests)], tp, pp, ("--compute", "f32", "--ctx", "200"))


def distribution(binary, model, vocab):
    """log-probabilities of the token after PROMPT, by token."""
    top = ask(binary, model, [{"temperature": 0, "logprobs": vocab}])[0]["logprobs"][0]["top"]
    return {t: p for t, p in top}


def chosen(answers):
    return [a["token_ids"][0] for a in answers]


def renormalised(logprobs, temperature=1.0):
    m = max(logprobs.values())
    e = {t: math.exp((p - m) / temperature) for t, p in logprobs.items()}
    total = sum(e.values())
    return {t: v / total for t, v in e.items()}


def nucleus(probabilities, top_p):
    kept, mass = set(), 0.0
    for t, p in sorted(probabilities.items(), key=lambda kv: -kv[1]):
        kept.add(t)
        mass += p
        if mass >= top_p:
            break
    return kept


def chi_square(counts, probabilities, n):
    """Over tokens expected at least five times, the rest together: (statistic, degrees of freedom)."""
    x, df, rest_expected, rest_seen = 0.0, -1, 0.0, 0
    for t, p in probabilities.items():
        if n * p >= 5:
            x += (counts[t] - n * p) ** 2 / (n * p)
            df += 1
        else:
            rest_expected += n * p
            rest_seen += counts[t]
    if rest_expected >= 5:
        x += (rest_seen - rest_expected) ** 2 / rest_expected
        df += 1
    return x, max(df, 1)


def check_draws(report, what, binary, model, fields, probabilities, tp):
    draws = chosen(ask(binary, model, [dict(fields, seed=s) for s in range(DRAWS)], tp))
    counts = collections.Counter(draws)
    outside = sorted(t for t in counts if t not in probabilities)
    report.check(not outside, f"{what}: drew {outside[:5]}, which truncation leaves out")
    x, df = chi_square(counts, probabilities, DRAWS)
    limit = df + 5 * math.sqrt(2 * df) + 5  # five sigma and more: seeds are fixed, so this never flickers
    report.check(x < limit, f"{what}: chi-square {x:.1f} with {df} degrees of freedom")
    print(f"{what}: {len(counts)} tokens, chi-square {x:.1f} ({df})", flush=True)
    return draws


def only(probabilities, kept):
    total = sum(probabilities[t] for t in kept)
    return {t: probabilities[t] / total for t in kept}


def check_distributions(report, binary, model, logprobs, tp):
    """The draws of each case, in order: every split must draw the same."""
    p = renormalised(logprobs)
    hot, hotter = renormalised(logprobs, 1.7), renormalised(logprobs, 3)
    order = sorted(p, key=lambda t: -p[t])
    top5 = only(p, order[:5])
    floor = 0.05 * max(p.values())
    cases = [("plain", {}, p), ("temperature 1.7", {"temperature": 1.7}, hot), ("top_k 5", {"top_k": 5}, top5),
             ("top_k 300", {"top_k": 300, "temperature": 3}, only(hotter, order[:300])), ("top_p 0.7", {"top_p": 0.7}, only(p, nucleus(p, 0.7))),
             ("top_p 0.999 hot", {"top_p": 0.999, "temperature": 3}, only(hotter, nucleus(hotter, 0.999))),
             ("min_p 0.05", {"min_p": 0.05}, only(p, [t for t in p if p[t] >= floor])),
             ("min_p 1e-4 hot", {"min_p": 1e-4, "temperature": 3}, only(hotter, [t for t in hotter if hotter[t] >= 1e-4 * max(hotter.values())])),
             ("top_k 5 then top_p 0.8", {"top_k": 5, "top_p": 0.8}, only(top5, nucleus(top5, 0.8)))]
    return {what: check_draws(report, f"tp {tp}, {what}", binary, model, {"temperature": 1, **fields}, q, tp) for what, fields, q in cases}


def check_controls(report, binary, model, logprobs, vocab, tp):
    order = sorted(logprobs, key=lambda t: -logprobs[t])
    best, second = order[:2]
    gap = logprobs[best] - logprobs[second]
    answers = ask(binary, model, [
        {"temperature": 0}, {"temperature": 0, "logit_bias": {str(best): -100}}, {"temperature": 0, "logit_bias": {str(second): gap + 0.01}},
        {"top_k": 1, "seed": 3}, {"top_p": 0.0, "seed": 3}, {"min_p": 1.0, "seed": 3},
        {"temperature": 0, "max_tokens": 8, "stop_token_ids": [best]}, {"temperature": 0, "max_tokens": 8, "min_tokens": 3, "stop_token_ids": [best]},
        {"seed": 11, "max_tokens": 20}, {"seed": 11, "max_tokens": 20}, {"seed": 12, "max_tokens": 20}], tp)
    a = [x["token_ids"] for x in answers]
    name = f"tp {tp}"
    report.check(a[0] == [best] and a[1] == [second] and a[2] == [second], f"{name}: bias: {a[:3]} with {best}, {second}")
    report.check(a[3] == a[4] == a[5] == [best], f"{name}: the narrowest truncations are greedy: {a[3:6]}")
    report.check(a[6] == [best] and answers[6]["finish_reason"] == "stop", f"{name}: an end token ends: {a[6]}")
    report.check(len(a[7]) > 3 and best not in a[7][:3], f"{name}: min_tokens bans end tokens: {a[7]}")
    report.check(a[8] == a[9] != a[10], f"{name}: seeds")
    report.check(abs(answers[0].get("seed", 0)) == 0 and answers[8]["seed"] == 11, f"{name}: the seed is told")


def check_penalties(report, binary, model, vocab, tp):
    """Greedy with penalties equals the argmax of penalised raw log-probabilities, step by step (a constant shift of all logits would show in the
    multiplicative penalty, so that one is checked by its effect alone)."""
    f, pr = 0.7, 0.9
    got = ask(binary, model, [{"temperature": 0, "max_tokens": 24, "frequency_penalty": f, "presence_penalty": pr, "logprobs": vocab}], tp)[0]
    seen = collections.Counter()
    wrong = 0
    for token, at in zip(got["token_ids"], got["logprobs"]):
        value = {t: p - f * seen[t] - (pr if seen[t] else 0) for t, p in at["top"]}
        top = max(value, key=value.get)
        wrong += top != token and value[top] - value[token] > 1e-4
        seen[token] += 1
    report.check(wrong == 0, f"tp {tp}: {wrong} tokens are not what presence and frequency penalties choose")
    plain, punished = ask(binary, model, [{"temperature": 0, "max_tokens": 60}, {"temperature": 0, "max_tokens": 60, "repetition_penalty": 50}], tp)
    report.check(len(set(punished["token_ids"])) > len(set(plain["token_ids"])), f"tp {tp}: repetition_penalty changes nothing")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--vocab", type=int, required=True)
    p.add_argument("--tp", default="1,3")
    a = p.parse_args()
    report = Report()
    logprobs = distribution(a.trireme, a.model, a.vocab)
    first = None
    for tp in map(int, a.tp.split(",")):
        check_controls(report, a.trireme, a.model, logprobs, a.vocab, tp)
        check_penalties(report, a.trireme, a.model, a.vocab, tp)
        draws = check_distributions(report, a.trireme, a.model, logprobs, tp)
        first = first or draws
        for what, d in draws.items():
            other = sum(x != y for x, y in zip(d, first[what]))  # a near-tie may fall either way
            report.check(other <= 2, f"tp {tp}, {what}: {other} of {len(d)} draws differ from those of the first split")
    report.end()


if __name__ == "__main__":
    main()
