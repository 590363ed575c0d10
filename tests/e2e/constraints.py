"""What a request may ask of its tokens beyond sampling parameters: allowed tokens, bad words, log-probabilities and ranks of named tokens, and vectors
instead of tokens; each against what the log-probabilities of the whole vocabulary say, alone, in company, and on every split."""
import argparse
import math

from run import Report, generate

PROMPT = [5, 77, 131, 20, 9, 254, 33]
N = 12


def ask(binary, model, requests, tp=1, pp=1, args=()):
    return generate(binary, model, [dict({"id": i, "prompt_ids": PROMPT, "max_tokens": N, "ignore_eos": True, "temperature": 0}, **r)
                                    for i, r in enumerate(requests)], tp, pp, ("--compute", "f32", "--ctx", "200", *args))


def ordered(top):
    """Tokens of a whole distribution, the likeliest first."""
    return [t for t, _ in top]


def requests(plain, vocab):
    """Named requests.  plain: the greedy answer with every log-probability, from one rank."""
    tokens, first = plain["token_ids"], ordered(plain["logprobs"][0]["top"])
    some = first[40:60:3]
    pair = tokens[2:4]  # a bad word of two tokens that greedy decoding says
    return {
        "plain": {"logprobs": vocab},
        "allowed": {"allowed_token_ids": some, "logprobs": vocab},
        "allowed hot": {"allowed_token_ids": some, "temperature": 2, "seed": 5, "max_tokens": 40},
        "allowed top_k": {"allowed_token_ids": some, "temperature": 2, "top_k": 3, "seed": 6, "max_tokens": 40, "logprobs": vocab},
        "allowed nucleus": {"allowed_token_ids": some, "temperature": 1, "top_p": 0.5, "seed": 6, "max_tokens": 40},
        "one bad": {"bad_words_ids": [[tokens[0]]]},
        "bad pair": {"bad_words_ids": [pair, [1, 2, 3, 4, 5, 6, 7, 8, 9]]},
        "bad begun in the prompt": {"bad_words_ids": [[PROMPT[-1], tokens[0]]]},
        "nothing left": {"allowed_token_ids": [7], "bad_words_ids": [[7]]},
        "nothing left later": {"allowed_token_ids": [7], "bad_words_ids": [[7, 7, 7]], "temperature": 1, "top_p": 0.9, "seed": 1},
        "named": {"logprobs": 2, "logprob_token_ids": [0, vocab - 1, first[0], first[3]]},
        "named only": {"logprob_token_ids": [first[100]]},
        "many named": {"logprobs": 0, "logprob_token_ids": list(range(0, vocab, 3)), "max_tokens": 2},
        "own rank": {"temperature": 3, "seed": 9, "logprobs": 0},
        "prompt ranks": {"prompt_logprobs": vocab, "max_tokens": 1},
        "prompt own ranks": {"prompt_logprobs": 0, "max_tokens": 1},
    }


def check_allowed(report, name, a, plain, some):
    best = next(t for t in ordered(plain["logprobs"][0]["top"]) if t in some)
    report.check(a["allowed"]["token_ids"][0] == best, f"{name}: the best allowed token comes")
    for token, at in zip(a["allowed"]["token_ids"], a["allowed"]["logprobs"]):
        top = dict(map(tuple, at["top"]))
        report.check(len(top) == len(plain["logprobs"][0]["top"]), f"{name}: log-probabilities are of all tokens, not of the allowed")
        report.check(top[token] == max(top[t] for t in some), f"{name}: greedy among the allowed")
    hot = a["allowed hot"]["token_ids"]
    report.check(len(hot) == 40 and set(hot) <= set(some) and len(set(hot)) > 2, f"{name}: only allowed tokens come: {hot}")
    for token, at in zip(a["allowed top_k"]["token_ids"], a["allowed top_k"]["logprobs"]):
        allowed = [t for t in ordered(at["top"]) if t in some]
        report.check(token in allowed[:3], f"{name}: top_k counts allowed tokens only")
    report.check(set(a["allowed nucleus"]["token_ids"]) <= set(some), f"{name}: top_p among the allowed")


def check_bad_words(report, name, a, plain):
    tokens = plain["token_ids"]
    report.check(tokens[0] not in a["one bad"]["token_ids"], f"{name}: a bad word of one token never comes")
    got = a["bad pair"]["token_ids"]
    report.check(got[:3] == tokens[:3] and got[3] != tokens[3], f"{name}: a bad word's last token is banned after its first: {got} for {tokens}")
    report.check(tokens[2:4] not in [got[i:i + 2] for i in range(len(got) - 1)], f"{name}: the bad word comes nowhere")
    report.check(a["bad begun in the prompt"]["token_ids"] == tokens, f"{name}: what the prompt ends with begins no bad word")
    report.check(a["nothing left"]["finish_reason"] == "error" and a["nothing left"]["token_ids"] == [], f"{name}: nothing may come: {a['nothing left']}")
    later = a["nothing left later"]
    report.check(later["finish_reason"] == "error" and later["token_ids"] == [7, 7], f"{name}: nothing may come after two tokens: {later}")


def check_named(report, name, a, vocab, plain):
    asked = [0, vocab - 1, *[ordered(plain["logprobs"][0]["top"])[i] for i in (0, 3)]]
    for at, whole in zip(a["named"]["logprobs"], a["plain"]["logprobs"]):
        order, values = ordered(whole["top"]), dict(map(tuple, whole["top"]))
        report.check(at["top"] == whole["top"][:2] and at["rank"] == 1, f"{name}: the likeliest beside the named ones")
        report.check(at["named"] == [[t, values[t], order.index(t) + 1] for t in asked], f"{name}: named tokens: {at['named']}")
    at, whole = a["named only"]["logprobs"][0], a["plain"]["logprobs"][0]
    report.check(at["named"][0][2] == 101 and at["top"] == [], f"{name}: one named token, nothing else: {at}")
    order, values = ordered(whole["top"]), dict(map(tuple, whole["top"]))
    want = [[t, values[t], order.index(t) + 1] for t in range(0, vocab, 3)]
    report.check(a["many named"]["logprobs"][0]["named"] == want, f"{name}: many named tokens")


def check_ranks(report, name, a, vocab):
    hot = a["own rank"]
    report.check(len({at["rank"] for at in hot["logprobs"]}) > 3, f"{name}: ranks vary: {[at['rank'] for at in hot['logprobs']]}")
    for known, at in zip(a["prompt ranks"]["prompt_logprobs"][1:], a["prompt own ranks"]["prompt_logprobs"][1:]):
        want = ordered(known["top"]).index(known["id"]) + 1
        report.check(at["rank"] == want == known["rank"] and at["id"] == known["id"] and at["logprob"] == known["logprob"],
                     f"{name}: rank of a prompt token: {at['rank']} for {want}")
    for at in a["plain"]["logprobs"]:
        report.check(ordered(at["top"]).index(at["id"]) + 1 == at["rank"] == 1 and len(at["top"]) == vocab, f"{name}: greedy takes rank 1")


def close(x, y):
    return max(abs(a - b) for a, b in zip(x, y)) <= 1e-4 * max(map(abs, x))


def check_pooling(report, binary, model, splits):
    """last of every prefix, then their mean is the mean pooling; chunks, company and splits change nothing."""
    prompt = PROMPT + list(range(100, 133))
    lasts = [{"prompt_ids": prompt[:n], "pooling": "last", "max_tokens": 1} for n in range(1, len(prompt) + 1)]
    whole = [{"prompt_ids": prompt, "pooling": kind, "normalize": n} for kind in ("last", "mean") for n in (False, True)]
    company = [{"prompt_ids": prompt[3:20], "max_tokens": 5, "logprobs": 3, "prompt_logprobs": 1}, *whole, {"max_tokens": 30}]
    first = None
    for tp, pp in splits:
        name = f"{tp}x{pp}"
        v = [x["embedding"] for x in ask(binary, model, lasts + whole, tp, pp)]
        last, last_unit, mean, mean_unit = v[-4:]
        prefixes = v[:-4]
        n = len(prefixes)
        report.check(last == prefixes[-1], f"{name}: the whole prompt's last token")
        report.check(close(mean, [sum(p[i] for p in prefixes) / n for i in range(len(mean))]), f"{name}: the mean is that of every token's state")
        for unit, of in ((last_unit, last), (mean_unit, mean)):
            length = math.sqrt(sum(x * x for x in of))
            report.check(abs(sum(x * x for x in unit) - 1) < 1e-5 and close(unit, [x / length for x in of]), f"{name}: normalised")
        chunked = ask(binary, model, whole, tp, pp, ("--prefill-chunk", "7", "--max-batched-tokens", "16"))
        report.check([x["embedding"] for x in chunked] == v[-4:], f"{name}: chunks change nothing")
        mixed = ask(binary, model, company, tp, pp)
        report.check([x["embedding"] for x in mixed[1:5]] == v[-4:], f"{name}: company changes nothing")
        alone = ask(binary, model, company[:1], tp, pp)[0]
        report.check(alone["logprobs"] == mixed[0]["logprobs"] and alone["prompt_logprobs"] == mixed[0]["prompt_logprobs"] and
                     alone["logits_hash"] == mixed[0]["logits_hash"], f"{name}: nor do vectors change the company's tokens")
        report.check(all(x["finish_reason"] == "stop" and x["token_ids"] == [] for x in mixed[1:5]), f"{name}: a vector comes without tokens")
        first = first or v
        report.check(all(close(x, y) for x, y in zip(first, v)), f"{name}: as on the first split")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--vocab", type=int, required=True)
    p.add_argument("--splits", default="1x1,2x1,2x2")
    a = p.parse_args()
    report = Report()
    splits = [tuple(map(int, s.split("x"))) for s in a.splits.split(",")]
    plain = ask(a.trireme, a.model, [{"logprobs": a.vocab}])[0]
    named = requests(plain, a.vocab)
    some = named["allowed"]["allowed_token_ids"]
    for tp, pp in splits:
        name = f"{tp}x{pp}"
        answers = ask(a.trireme, a.model, list(named.values()), tp, pp)
        by_name = dict(zip(named, answers))
        check_allowed(report, name, by_name, plain, some)
        check_bad_words(report, name, by_name, plain)
        check_named(report, name, by_name, a.vocab, plain)
        check_ranks(report, name, by_name, a.vocab)
        small = ask(a.trireme, a.model, list(named.values()), tp, pp, ("--kv-blocks", "14", "--max-batched-tokens", "8"))
        for what, x, y in zip(named, answers, small):
            for answer in (x, y):
                answer.pop("seed", None)
            report.check(x == y, f"{name}, {what}: small steps and preemptions change the answer")
    check_pooling(report, a.trireme, a.model, splits)
    report.end()


if __name__ == "__main__":
    main()
