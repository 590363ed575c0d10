#!/usr/bin/env python3
"""Floors: the least time each kernel, and a whole step, can take on a GPU, and which limit binds.  Arithmetic from data sheets (chips.py), not measurement.

    roofline.py [--chip NAME]... [--kernels | --models]

For a kernel      floor = max over its limits of
  memory  bytes that must move at least once / (0.85 of the memory's peak)
  tensor  multiply-adds x 2 / the tensor cores' peak for the operands' type
  cores   instructions of the CUDA cores / (SMs x 128 x clock)
  link    bytes that must come in from other devices / NVLink's peak in one direction (between hosts: NIC bytes/s)
For a step        sum of its kernels' floors: layers run one after another, and nothing overlaps.

What is counted (R rows, K inputs, N outputs; B(f) bytes a weight of format f; every buffer read or written once, caches do the rest):
  linear     bytes  N K B(f) + R K A + 4 R N       A: bytes an activation, 2 (bf16) or 1 + 12/32 (8 bits, scale and sums of each 32)
             tensor 2 R N K;  integer formats also  cores 4 R N K / 32  (convert, scale, add; the minimum) on top of the matrix units
  attention  bytes  2 C H_kv D S (cache, S bytes an element, C positions) + 4 R H D (q) + 4 R H D (y);  tensor 4 H D x pairs of (row, position it sees)
  norm       bytes  R d (4 in + 4 out + 4 a partial sum + A)
  qkv        bytes  4 R (H + 2 H_kv) D + 4 R H D + 2 R H_kv D S
  gate       bytes  R F (8 + A);  embed  bytes  R d (B + 4);  sample  bytes  4 R V x 2
  all-reduce of R d f32 over t devices: the less of (t - 1) P (one shot) and 2 P (t - 1) / t (two shots), P = 4 R d: link
  between stages: 4 R d over the NIC: link
Not counted: launches, latencies of collectives, waves that do not fill the device, anything the caches miss.  So nothing reaches a floor, and a ratio to it
says how far there is to go, once a device has been measured.
"""
import argparse
import pathlib
import sys
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chips import CHIPS, REACHABLE  # noqa: E402

NIC = 50e9      # bytes/s between hosts for each GPU (400 Gbit/s)


@dataclass(frozen=True)
class Format:
    name: str
    bytes: float        # a weight, scales included
    activation: float   # an activation of its products
    integer: bool


FORMATS = [Format("bf16", 2, 2, False), Format("q8_0", 34 / 32, 1 + 12 / 32, True), Format("q4_k", 144 / 256, 1 + 12 / 32, True)]


@dataclass(frozen=True)
class Model:
    name: str
    layers: int
    dim: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tp: int = 1
    pp: int = 1
    head_dim: int = 128

    def parameters(self):
        attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.dim * self.ffn) + 2 * self.dim * self.vocab


MODELS = [
    Model("Llama-3.1-8B", 32, 4096, 32, 8, 14336, 128256),
    Model("Llama-3.1-70B, tp 8", 80, 8192, 64, 8, 28672, 128256, tp=8),
    Model("Llama-3.1-405B, tp 8 x pp 2", 126, 16384, 128, 8, 53248, 128256, tp=8, pp=2),
]


@dataclass
class Work:
    """What one kernel must do on one device."""
    kernel: str
    memory: float = 0
    tensor: float = 0
    cores: float = 0
    link: float = 0     # seconds already: NVLink or NIC
    integer: bool = False
    times: int = 1

    def limits(self, chip):
        return {"memory": self.memory / (REACHABLE * chip.memory), "tensor": self.tensor / (chip.int8 if self.integer else chip.bf16),
                "cores": self.cores / (chip.sms * 128 * chip.clock), "link": self.link}

    def floor(self, chip):
        limits = self.limits(chip)
        binds = max(limits, key=limits.get)
        return limits[binds], binds


def linear(name, f, rows, n, k, times=1):
    return Work(name, n * k * f.bytes + rows * (k * f.activation + 4 * n), 2 * rows * n * k, 4 * rows * n * k / 32 if f.integer else 0, 0, f.integer, times)


def attention(m, rows_of, contexts, tp, kv_bytes, times=1):
    """Sequences with rows_of new rows each and contexts positions in the end."""
    heads, kv = m.heads // tp, max(1, m.kv_heads // tp)
    pairs = sum(r * c - r * (r - 1) / 2 for r, c in zip(rows_of, contexts))
    rows = sum(rows_of)
    return Work("attention", 2 * sum(contexts) * kv * m.head_dim * kv_bytes + 8 * rows * heads * m.head_dim, 4 * heads * m.head_dim * pairs, times=times)


def step(m, f, rows_of, contexts, chip, kv_bytes=2):
    """The kernels of one step on one device of a stage: those of its layers, and of the stage that has the most to do (the last, with the head)."""
    rows, seqs, tp, layers = sum(rows_of), len(rows_of), m.tp, -(-m.layers // m.pp)
    heads, kv, ffn = m.heads // tp, max(1, m.kv_heads // tp), m.ffn // tp
    out = [
        Work("norm", rows * m.dim * (8 + 4 + f.activation), times=2 * layers),
        linear("linear qkv", f, rows, (heads + 2 * kv) * m.head_dim, m.dim, layers),
        Work("qkv", rows * m.head_dim * (4 * (heads + 2 * kv) + 4 * heads + 2 * kv * kv_bytes), times=layers),
        attention(m, rows_of, contexts, tp, kv_bytes, layers),
        linear("linear o", f, rows, m.dim, heads * m.head_dim, layers),
        linear("linear gate, up", f, rows, 2 * ffn, m.dim, layers),
        Work("gate", rows * ffn * (8 + f.activation), times=layers),
        linear("linear down", f, rows, m.dim, ffn, layers),
        linear("linear head", f, seqs, m.vocab // tp, m.dim),
        Work("sample", 8 * seqs * m.vocab // tp),
        Work("embed", rows * m.dim * (f.bytes + 4)),
    ]
    if tp > 1:
        payload = 4 * rows * m.dim
        out.append(Work("all-reduce", link=min((tp - 1) * payload, 2 * payload * (tp - 1) / tp) / chip.link, times=2 * layers))
    if m.pp > 1:
        out.append(Work("to the next stage", link=4 * rows * m.dim / tp / NIC))
    return out


def seconds(t):
    return f"{t * 1e6:.1f} us" if t < 1e-3 else f"{t * 1e3:.2f} ms"


def kernels(chips):
    m = MODELS[0]
    yield "Each kernel's floor, with the shapes of one layer of Llama-3.1-8B on one device (attention: 2048 positions a sequence, bf16 cache)."
    for rows, what in ((1, "decode, 1 sequence"), (32, "decode, 32 sequences"), (2048, "prefill of 2048 tokens")):
        prefill = rows == 2048
        yield f"\n{what}"
        yield f"  {'kernel':30}" + "".join(f"{c.name:>22}" for c in chips)
        works = []
        for f in FORMATS:
            for w in step(m, f, [rows] if prefill else [1] * rows, [2048] if prefill else [2048] * rows, chips[0]):
                if w.kernel.startswith("linear"):
                    works.append((f"{w.kernel}, {f.name}", w))
                elif f is FORMATS[0]:
                    works.append((w.kernel, w))
        for label, w in sorted(works, key=lambda i: (not i[0].startswith("linear"), i[0])):
            cells = (w.floor(c) for c in chips)
            yield f"  {label:30}" + "".join(f"{seconds(t) + ' ' + binds:>22}" for t, binds in cells)


def models(chips):
    yield "A step's floor and what binds it (share of the floor by limit).  tokens/s: of the replica, were each step to take its floor."
    for m in MODELS:
        yield f"\n{m.name}: {m.parameters() / 1e9:.1f}e9 weights, {m.tp * m.pp} device{'s' * (m.tp * m.pp > 1)}; with pp stages as many steps are under way, each device's step is given"
        for chip in chips:
            for f in FORMATS:
                weights = m.parameters() * f.bytes / (m.tp * m.pp)
                for label, rows_of, contexts in (("decode  1 x 2048", [1], [2048]), ("decode 32 x 2048", [1] * 32, [2048] * 32), ("prefill     2048", [2048], [2048])):
                    works = step(m, f, rows_of, contexts, chip)
                    kv = 2 * sum(contexts) * max(1, m.kv_heads // m.tp) * m.head_dim * 2 * -(-m.layers // m.pp)
                    if weights + kv > chip.memory_bytes:
                        yield f"  {chip.name:5} {f.name:5} {label}: {(weights + kv) / 1e9:.0f} GB do not fit"
                        continue
                    total, share = 0, {}
                    for w in works:
                        t, binds = w.floor(chip)
                        total += t * w.times
                        share[binds] = share.get(binds, 0) + t * w.times
                    top = max((w for w in works), key=lambda w: w.floor(chip)[0] * w.times)
                    shares = ", ".join(f"{k} {v / total:.0%}" for k, v in sorted(share.items(), key=lambda i: -i[1]))
                    yield (f"  {chip.name:5} {f.name:5} {label}: {seconds(total):>10}  {sum(rows_of) / total:9.0f} tokens/s  {shares}; most: {top.kernel} "
                           f"{top.floor(chip)[0] * top.times / total:.0%}")


def main():
    p = argparse.ArgumentParser(description="Floors of kernels and steps on GPUs: arithmetic, not measurement.")
    p.add_argument("--chip", action="append", choices=[c.name for c in CHIPS])
    only = p.add_mutually_exclusive_group()
    only.add_argument("--kernels", action="store_true")
    only.add_argument("--models", action="store_true")
    a = p.parse_args()
    chips = [c for c in CHIPS if not a.chip or c.name in a.chip]
    print("Floors by arithmetic from data sheets; nothing here was measured.  The formulas: the head of this file.")
    for c in chips:
        print(f"  {c.name}: memory {c.memory / 1e12:g} TB/s (x {REACHABLE}), bf16 {c.bf16 / 1e12:g}, int8 {c.int8 / 1e12:g} Top/s, "
              f"cores {c.sms * 128 * c.clock / 1e12:.1f}e12 instructions/s, NVLink {c.link / 1e9:g} GB/s, NIC {NIC / 1e9:g} GB/s")
    print()
    if not a.models:
        print("\n".join(kernels(chips)))
        print()
    if not a.kernels:
        print("\n".join(models(chips)))


if __name__ == "__main__":
    main()
