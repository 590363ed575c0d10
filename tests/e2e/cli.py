"""The commands as scripts and people use them: generate, perplexity, bench, chat; alone and under mpirun.

Runs on a tiny checkpoint with a tokenizer and a chat template (a folder of tests/golden)."""
import argparse
import json
import math
import pathlib
import signal
import subprocess
import time

import os
from run import ENV, Report, generate, run

GREEDY = {"temperature": 0, "ignore_eos": True}


def answer(a, **fields):
    return generate(a.trireme, a.model, [{"id": 0, **fields}], args=["--compute", "f32"])[0]


def check_lines(a, report):
    """A wrong line is answered in its place; the others are answered all the same."""
    lines = ['{"id":"a","prompt_ids":[5,6,7],"max_tokens":4,"temperature":0}',
             '{"id":"b","prompt_ids":[5,6,7],"temprature":0}',
             "not json", "",
             '{"id":4,"prompt_ids":[5,6,7],"max_tokens":0}',
             '{"id":5,"prompt":"x","prompt_ids":[1]}',
             '{"id":6,"prompt_ids":[123456]}',
             '{"id":7,"prompt_ids":[]}',
             '{"id":8,"prompt_ids":[5],"stop":["a",1]}',
             '{"id":9,"prompt_ids":%s}' % json.dumps([5] * 300),
             '{"id":10,"prompt_ids":[5],"logit_bias":{"x":1}}',
             '{"id":11,"prompt_ids":[5],"temperature":-1}',
             '{"id":12,"prompt_ids":[5,6,7],"max_tokens":4,"temperature":0}']
    named = [None, "temprature", "line 3", "max_tokens", "exactly one", "123456", "empty", "stop", "300 tokens", "logit_bias", "temperature", None]
    code, out, err = run(a.trireme, ["generate", "-m", a.model, "--prompts", "-", "--json"], stdin="\n".join(lines) + "\n")
    answers = [json.loads(line) for line in out.splitlines()]
    report.check(code == 2 and len(answers) == len(named), f"wrong lines: exit code {code}, {len(answers)} answers")
    report.check([x["id"] for x in answers] == ["a", "b", None, 4, 5, 6, 7, 8, 9, 10, 11, 12], "ids in the order of the input")
    for x, name in zip(answers, named):
        report.check(("error" in x) == (name is not None), f"line of id {x['id']}: {x}")
        if name is not None and "error" in x:
            report.check(name in x["error"] and err.count(x["error"]) == 1, f"id {x['id']}: \"{name}\" told once in \"{x['error']}\"")
    report.check(answers[0].get("token_ids") == answers[-1].get("token_ids"), "lines around the wrong ones are answered")


def check_stops(a, report):
    whole = answer(a, prompt_ids=[9, 10, 11], max_tokens=40, **GREEDY)
    text = whole["text"]
    report.check(whole["finish_reason"] == "length" and len(whole["token_ids"]) == 40, "max_tokens")
    starts = [i for i in range(len(text) - 3) if "\ufffd" not in text[i:i + 3] and text.index(text[i:i + 3]) == i]
    for i in starts[1:: max(1, len(starts) // 6)]:
        stop = text[i:i + 3]
        x = answer(a, prompt_ids=[9, 10, 11], max_tokens=40, stop=["no such text", stop], **GREEDY)
        report.check(x["text"] == text[:i] and x["finish_reason"] == "stop", f"stop at {stop!r}: {x['text']!r}")
        x = answer(a, prompt_ids=[9, 10, 11], max_tokens=40, stop=stop, include_stop_str_in_output=True, **GREEDY)
        report.check(x["text"] == text[:i + 3], f"stop at {stop!r}, kept in the text")
    ids = whole["token_ids"]
    at = next(i for i in range(4, 40) if ids.index(ids[i]) == i)
    x = answer(a, prompt_ids=[9, 10, 11], max_tokens=40, stop_token_ids=[ids[at]], **GREEDY)
    report.check(x["finish_reason"] == "stop" and x["token_ids"] == ids[:at + 1], "an end token of the request ends it")
    x = answer(a, prompt_ids=[9, 10, 11], max_tokens=40, min_tokens=at + 3, stop_token_ids=[ids[at]], **GREEDY)
    report.check(ids[at] not in x["token_ids"][:at + 3] and len(x["token_ids"]) >= at + 3, "min_tokens holds end tokens back")
    code, out, _ = run(a.trireme, ["generate", "-m", a.model, "--compute", "f32", "-p", "some text", "-n", 20, "--temperature", 0])
    x = answer(a, prompt="some text", max_tokens=20, temperature=0)
    report.check(code == 0 and out == x["text"] + "\n", "a streamed answer equals the whole one")


def check_sampling(a, report):
    p = {"prompt_ids": [20, 21, 22, 23], "max_tokens": 16, "ignore_eos": True}
    one, two, three = (answer(a, seed=s, temperature=1.5, **p)["token_ids"] for s in (5, 5, 6))
    report.check(one == two and one != three, "a seed fixes the answer")
    report.check(answer(a, temperature=1.5, top_k=1, seed=3, **p)["token_ids"] == answer(a, temperature=0, **p)["token_ids"], "top_k 1 is greedy")
    hot, cold = answer(a, temperature=2, seed=1, logprobs=5, **p), answer(a, temperature=0, logprobs=5, **p)
    report.check(hot["logprobs"][0]["top"] == cold["logprobs"][0]["top"], "log-probabilities come before temperature")
    for x in (hot, cold):
        for token, lp in zip(x["token_ids"], x["logprobs"]):
            same = [v for t, v in lp["top"] if t == token]
            report.check(lp["id"] == token and len(lp["top"]) == 5 and (not same or same[0] == lp["logprob"]), f"log-probabilities of token {token}")
    first = cold["token_ids"][0]
    report.check(answer(a, temperature=0, logit_bias={str(first): -100}, **p)["token_ids"][0] != first, "logit_bias bans a token")
    report.check(set(answer(a, temperature=0, logit_bias={"77": 1000}, **p)["token_ids"]) == {77}, "logit_bias forces a token")
    full = answer(a, temperature=0, prompt_logprobs=512, **{**p, "max_tokens": 1})["prompt_logprobs"]
    report.check(full[0] is None and len(full) == 4 and [x["id"] for x in full[1:]] == [21, 22, 23], "prompt_logprobs")
    report.check(all(abs(sum(math.exp(v) for _, v in x["top"]) - 1) < 1e-4 for x in full[1:]), "they are of the full softmax")


def check_perplexity(a, report):
    golden = max(json.loads((a.model / "golden.json").read_text())["records"], key=lambda r: len(r["input_ids"]))
    file = a.work / "ids.json"
    file.write_text(json.dumps(golden["input_ids"]))
    for ranks, unscored in ((1, 1), (2, 1), (1, 7)):
        want = -sum(golden["next_token_logprobs"][unscored - 1:])
        code, out, err = run(a.trireme, ["perplexity", "-m", a.model, "--ids", file, "--window", 200, "--unscored", unscored, "--json", "--compute", "f32"], ranks)
        x = json.loads(out) if code == 0 else {}
        report.check(code == 0 and x["tokens"] == len(golden["input_ids"]) - unscored and abs(x["nll"] - want) < 2e-3 * x["tokens"]
                     and abs(x["perplexity"] - math.exp(x["nll"] / x["tokens"])) < 1e-3 * x["perplexity"], f"perplexity on {ranks} ranks, without {unscored} tokens: {x} {err[-300:]}")
    for content, name in (("{}", "list"), ("[1]", "at least 2"), ("[1,99999]", "entry 1")):
        file.write_text(content)
        code, out, err = run(a.trireme, ["perplexity", "-m", a.model, "--ids", file, "--json"])
        report.check(code == 2 and out == "" and name in err, f"perplexity of {content}: {code} {err}")


def check_bench(a, report):
    code, out, err = run(a.trireme, ["bench", "-m", a.model, "-p", "8,64", "-n", "5", "-b", "1,3", "-r", "2", "--json"])
    rows = [json.loads(line) for line in out.splitlines()]
    report.check(code == 0 and [(r["test"], r["tokens"], r["batch"]) for r in rows] ==
                 [("prefill", 8, 1), ("prefill", 64, 1), ("decode", 5, 1), ("prefill", 8, 3), ("prefill", 64, 3), ("decode", 5, 3)], f"bench's rows: {err}")
    report.check(all(r["tokens_per_second"] > 0 and len(r["seconds"]) == 2 and r["step_ms"] > 0 for r in rows), "bench's figures")
    code, out, err = run(a.trireme, ["bench", "-m", a.model, "-p", "0", "-n", "0", "-b", "3", "--shared", "64", "--among", "100", "--max-batched-tokens", "32", "--json"])
    rows = [json.loads(line) for line in out.splitlines()] if code == 0 else []
    report.check([(r["test"], r["tokens"]) for r in rows] == [("among", 100), ("shared", 64)], f"bench's rows of the scheduler: {code} {err[-300:]}")
    report.check(all(v > 0 for r in rows for k, v in r.items() if k not in ("test", "environment")), "bench's figures of the scheduler")
    code, out, err = run(a.trireme, ["bench", "-m", a.model, "-p", "8", "-n", "4", "-r", "1"], ranks=2)
    report.check(code == 0 and out.count("\n") == 4, f"bench as a table on two ranks: {code} {out} {err[-300:]}")


def chat(a, lines, args=(), ranks=1):
    return run(a.trireme, ["chat", "-m", a.model, "--compute", "f32", "--temperature", 0, "--max-tokens", 6, *args], ranks, "\n".join(lines) + "\n")


def check_chat(a, report):
    def expect(*messages):
        return answer(a, messages=list(messages), temperature=0, max_tokens=6)["text"]

    def user(text):
        return {"role": "user", "content": text}
    first = expect(user("hello"))
    second = expect(user("hello"), {"role": "assistant", "content": first}, user("and\nthen"))
    system = expect({"role": "system", "content": "be brief"}, user("hello"))
    block = expect({"role": "system", "content": "be brief"}, user("two\n\nlines"))
    script = ["hello", "and\\", "then", "", "/retry", "/reset", "hello", "/system be brief", "hello", "/reset", '"""', "two", "", "lines", '"""', "/nothing", "/stop", "/exit",
              "not reached"]
    want = "".join(x + "\n" for x in (first, second, second, first, system, block))
    for ranks in (1, 2):
        code, out, err = chat(a, script, ranks=ranks)
        report.check(code == 0 and out == want, f"a conversation on {ranks} ranks: {code} {out!r}, expected {want!r} {err[-300:]}")
        report.check("/nothing" in err, "an unknown command is told")
    code, out, err = chat(a, ["hello"], ["--system", "be brief"])
    report.check(code == 0 and out == system + "\n", "input that ends without /exit")
    code, out, err = chat(a, ["/set top_p 7", "/set temprature 0", "/set max_tokens 2", "hello"])
    short = answer(a, messages=[user("hello")], temperature=0, max_tokens=2)["text"]
    report.check(code == 0 and "top_p" in err and "temprature" in err and out == short + "\n", f"/set: {out!r} {err}")
    code, out, err = chat(a, ["one " * 20, "two " * 20, "three " * 20, "four " * 20])
    report.check(code == 0 and out.count("\n") >= 4 and "left out" in err, f"a conversation longer than the context: {code} {err}")
    code, out, err = chat(a, ["word " * 400, "hello"])
    report.check(code == 0 and out == first + "\n" and "context" in err, f"a message longer than the context: {code} {out!r} {err}")


def check_interrupt(a, report):
    """Ctrl-C ends the answer, not the conversation."""
    argv = [a.trireme, "chat", "-m", a.slow, "--temperature", "1", "--max-tokens", "100000", "--threads", "1"]
    p = subprocess.Popen([str(x) for x in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **ENV})
    try:
        p.stdin.write(b"/set ignore_eos true\nTell me a very long story.\n")
        p.stdin.flush()
        os.set_blocking(p.stdout.fileno(), True)
        p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        time.sleep(1)
        alive = p.poll() is None
        p.stdin.write(b"/set max_tokens 3\nhello\n")
        p.stdin.close()
        code = p.wait(60)
        report.check(alive and code == 0, f"Ctrl-C: alive {alive}, exit code {code}, {p.stderr.read()[-300:]}")
    finally:
        p.kill()


def check_memory(a, report):
    """What the plan says is what is allocated; and a process's resident memory is what it was before, and what has been touched of that."""
    for ranks in (1, 4):
        split = ["--tp", "2", "--pp", "2"] if ranks == 4 else []
        code, _, err = run(a.trireme, ["generate", "-m", a.model, "-p", "a", "--max-tokens", "2", "--stats", *split], ranks)
        lines = err.splitlines()
        head = next((i for i, line in enumerate(lines) if line.startswith("rank ")), None)
        if not report.check(code == 0 and head is not None and len(lines) >= head + 1 + ranks, f"--stats: {code} {err}"):
            continue
        for line in lines[head + 1:head + 1 + ranks]:
            weights, kv, buffers, planned, before, touched, now = map(float, line.split()[3:10])
            report.check(abs(weights + kv + buffers - planned) <= 0.02 * planned + 0.2, f"planned {planned} MiB, allocated {weights} + {kv} + {buffers}")
            report.check(0 < touched and abs(before + touched - now) <= 0.1 * now, f"resident {now} MiB, before {before}, touched {touched}")


def check_usage(a, report):
    """Wrong use is told once, whatever the number of ranks."""
    for ranks in (1, 3):
        for args, name in ((["generate", "-m", "x"], "either --prompt"), (["chat", "--tp", "0"], "--tp"), (["perplexity", "-m", "x"], "--text"),
                           (["bench", "-m", "x", "-p", "a"], "whole numbers"), (["nothing"], "nothing"), (["generate", "-m", "/nowhere/x", "-p", "a"], "/nowhere/x")):
            code, out, err = run(a.trireme, args, ranks)
            report.check(code == 2 and out == "" and err.count(name) == 1, f"{args} on {ranks} ranks: {code} {out} {err}")
    for command in ("generate", "chat", "perplexity", "bench"):
        code, out, err = run(a.trireme, [command, "--help"], 2)
        report.check(code == 0 and out.count("Examples:") == 1, f"{command} --help: {code} {err}")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--trireme", required=True)
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("."), help="folder for scratch files")
    p.add_argument("--slow", help="a checkpoint whose answers take long enough to be interrupted")
    p.add_argument("model", type=pathlib.Path)
    a = p.parse_args()
    report = Report()
    for check in (check_lines, check_stops, check_sampling, check_perplexity, check_bench, check_chat, check_memory, check_usage):
        check(a, report)
    if a.slow:
        check_interrupt(a, report)
    else:
        report.skip("Ctrl-C", "no --slow checkpoint")
    report.end()


if __name__ == "__main__":
    main()
