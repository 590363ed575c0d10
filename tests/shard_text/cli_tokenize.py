#!/usr/bin/env python3
"""`trireme tokenize` as scripts use it: lines in, lines out, exit codes.   cli_tokenize.py TRIREME DATA_FOLDER"""
import json
import os
import subprocess
import sys
import tempfile

BINARY, DATA = sys.argv[1], sys.argv[2]
TOKENIZER = os.path.join(DATA, "bpe-sentencepiece.tokenizer.json")
passed = failed = 0


def run(*args, text=""):
    p = subprocess.run([BINARY, "tokenize", *args], input=text.encode(), capture_output=True, timeout=60)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def check(name, condition, detail=""):
    global passed, failed
    passed, failed = passed + bool(condition), failed + (not condition)
    if not condition:
        print("FAIL %s %s" % (name, detail))


def refused(name, code, says, *args, text=""):
    rc, out, err = run(*args, text=text)
    check(name, rc == code and all(s in err for s in says) and "Traceback" not in err, "exit code %d, stderr %r" % (rc, err[-300:]))
    return out


def vectors():
    with open(os.path.join(DATA, "bpe-sentencepiece.vectors.jsonl")) as f:
        v = [json.loads(line) for line in f]
    texts = [x for x in v if "text" in x]
    for special in (False, True):
        lines = "".join(json.dumps({"text": x["text"]}) + "\n" for x in texts)
        rc, out, err = run("--tokenizer", TOKENIZER, *(["--special"] if special else []), "--jsonl", "-", text=lines)
        got = [json.loads(x)["ids"] for x in out.splitlines()]
        check("ids special=%s" % special, rc == 0 and got == [x["ids_special" if special else "ids"] for x in texts], err)
        lists = "".join(json.dumps({"ids": x.get("decode_ids", x.get("ids"))}) + "\n" for x in v)
        rc, out, err = run("--tokenizer", TOKENIZER, "--decode", *(["--special"] if special else []), "--jsonl", "-", text=lists)
        got = [json.loads(x)["text"] for x in out.splitlines()]
        check("texts special=%s" % special, rc == 0 and got == [x["decoded" if special else "decoded_skip"] for x in v], err)


def files_and_mixed_lines():
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.write('{"text": "the"}\n\n{"ids": [1, 2]}\n{"text": ""}')
        f.flush()
        rc, out, err = run("--tokenizer", TOKENIZER, "--jsonl", f.name)
        lines = [json.loads(x) for x in out.splitlines()]
        check("mixed lines keep their order", rc == 0 and [list(x) for x in lines] == [["ids"], ["text"], ["ids"]] and lines[2]["ids"] == [], out + err)


def refusals():
    ok = ("--tokenizer", TOKENIZER, "--jsonl", "-")
    refused("no options", 2, ["--tokenizer", "-m"])
    refused("both sources", 2, ["either"], "-m", "x", *ok)
    refused("no lines", 2, ["--jsonl"], "--tokenizer", TOKENIZER)
    refused("unknown option", 2, ["--sideways"], "--sideways", *ok)
    refused("stray argument", 2, ["stray"], *ok, "stray")
    refused("absent tokenizer", 2, ["/no/such.json"], "--tokenizer", "/no/such.json", "--jsonl", "-")
    refused("absent model", 2, ["/no/such.gguf"], "-m", "/no/such.gguf", "--jsonl", "-")
    refused("absent lines", 2, ["/no/such.jsonl"], "--tokenizer", TOKENIZER, "--jsonl", "/no/such.jsonl")
    out = refused("bad line", 2, ["line 2"], *ok, text='{"text": "a"}\nnot json\n{"text": "b"}\n')
    check("lines before the bad one are answered", out.count("\n") == 1, out)
    refused("wrong field", 2, ["line 1", "text"], *ok, text='{"prompt": "a"}\n')
    refused("text where ids are needed", 2, ["ids"], *ok, "--decode", text='{"text": "a"}\n')
    refused("negative id", 2, ["ids[1]"], *ok, text='{"ids": [1, -1]}\n')
    refused("fractional id", 2, ["ids[0]"], *ok, text='{"ids": [1.5]}\n')
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        f.write('{"model": {"type": "Rwkv", "vocab": {}}}')
        f.flush()
        refused("unknown kind", 2, [f.name, "Rwkv"], "--tokenizer", f.name, "--jsonl", "-")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            p = subprocess.run([BINARY, "tokenize", *ok], input=b'{"text": "a"}\n' * 5000, stdout=full, stderr=subprocess.PIPE, timeout=60)
        check("full disk", p.returncode == 1 and p.stderr != b"", "exit code %d" % p.returncode)


def help_teaches():
    rc, out, err = run("--help")
    check("help", rc == 0 and all(s in out for s in ("--decode", "--special", "--jsonl", "Example", "Exit code")), out[:200])


vectors()
files_and_mixed_lines()
refusals()
help_teaches()
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed else 0)
