#!/usr/bin/env python3
"""What deploy/quickstart shows of the service's answers, read from standard input.

    quickstart_show.py answer    a stream of /v1/chat/completions: the text as it comes, then its figures
    quickstart_show.py ranks     /state: each rank's memory
"""
import json
import sys
import time


def answer():
    begin = time.monotonic()  # curl was started with us
    first = last = None
    chunks, usage, error = 0, {}, None
    for line in sys.stdin:
        if not line.startswith("data:"):
            error = error or (line.strip() if line.strip() and not line.startswith(":") else None)
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            break
        chunk = json.loads(data)
        error = error or chunk.get("error")
        usage = chunk.get("usage") or usage
        text = "".join(c["delta"].get("content") or "" for c in chunk.get("choices", []))
        if text:
            last = time.monotonic()
            first = first or last
            chunks += 1
            sys.stdout.write(text)
            sys.stdout.flush()
    print()
    if error or first is None:
        print(f"error: {error or 'no text came'}", file=sys.stderr)
        sys.exit(1)
    n = usage.get("completion_tokens", chunks)
    rate = f", {(n - 1) / (last - first):.1f} tokens/s" if n > 1 and last > first else ""
    print(f"\n   first token after {(first - begin) * 1000:.0f} ms, {n} tokens{rate}")


def ranks():
    for replica in json.load(sys.stdin)["replicas"]:
        print(f"   {replica['name']}: tp {replica['tp']} x pp {replica['pp']}, {replica['backend']}")
        for r in replica["ranks"]:
            weights, kv, resident = (r[k] / (1 << 20) for k in ("weight_bytes", "kv_bytes", "resident_bytes"))
            print(f"     rank {r['rank']} (stage {r['stage']}): {resident:.0f} MiB resident; weights {weights:.0f} MiB, KV cache {kv:.0f} MiB")


if __name__ == "__main__":
    {"answer": answer, "ranks": ranks}[sys.argv[1]]()
