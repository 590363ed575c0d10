#!/usr/bin/env python3
"""The static gate: what nvcc made of each kernel, held against a committed table and against what the kernels promise.  Needs no GPU.

    gate.py --cuda-home DIR [--update] [--report FILE] OBJECT...

OBJECT is a .cu.o of cmake/cuda.cmake; beside it lies NAME.cu.ptxas, what ptxas -v said.  For each kernel and architecture it reads
  registers, stack, spills, static shared memory   from ptxas
  threads of a block                               from the kernel's __launch_bounds__, or promises.txt
  instruction counts                               from the machine code (cuobjdump -sass)
  blocks an SM holds at once                       own calculation (chips.py)
  bytes in flight                                  own reading of the machine code, see flight()
and fails when
  - a kernel has stack or spills, touches local memory, or adds floats atomically (the order of such sums is not fixed);
  - a kernel breaks a promise of promises.txt, has no line there, or a line there has no kernel;
  - anything differs from gate.json (the same nvcc release only: another release's table is another matter, and then the promises alone are checked).
--update writes the table of this release anew.  Exit code 1: failed; 77: a tool is missing.
"""
import argparse
import collections
import fnmatch
import json
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chips import CHIPS, REACHABLE, SM, occupancy  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent

# What is counted, by the beginning of an instruction's name.
COUNTED = {
    "ldg128": r"LDG\b.*\.(128|256)\b",      # 16 bytes a thread or more, global memory to registers
    "ldg": r"LDG\b(?!.*\.(128|256)\b)",
    "cp128": r"LDGSTS\b.*\.128\b",          # cp.async, 16 bytes
    "cp": r"LDGSTS\b(?!.*\.128\b)",
    "stg": r"STG\b",
    "lds": r"LDS\b",
    "sts": r"STS\b",
    "ldsm": r"LDSM\b",                      # ldmatrix
    "hmma": r"(HMMA|QMMA|OMMA)\b",          # tensor cores, floating point
    "imma": r"IMMA\b",                      # tensor cores, integers
    "dp4a": r"IDP\b",
    "ffma": r"(FFMA|HFMA)2?\b",
    "f64": r"D(ADD|MUL|FMA|SETP|MNMX)\b",
    "mufu": r"MUFU\b",
    "shfl": r"(SHFL|REDUX)\b",
    "bar": r"BAR\b",
    "call": r"CALL\b",                      # out of line: slow paths of division, square root
    "local": r"(LDL|STL)\b",
    "float_atomics": r"(RED|ATOM|ATOMG|ATOMS)\b.*\.ADD\.[FB]",
}


class Gate(Exception):
    pass


def run(*command):
    try:
        return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise Gate(f"{command[0]} is missing") from None
    except subprocess.CalledProcessError as e:
        raise Gate(f"{' '.join(map(str, command))}: {e.stderr.strip()}") from None


def names_of(mangled):
    """Mangled name -> name with template arguments, without parameters, return type and unnamed namespaces."""
    mangled = sorted(mangled)
    lines = subprocess.run(["c++filt"], input="\n".join(mangled), check=True, capture_output=True, text=True).stdout.split("\n")
    names = {}
    for m, line in zip(mangled, lines):
        line = line.replace("(anonymous namespace)::", "")
        depth, end = 0, len(line)
        for i, c in enumerate(line):        # the parameters begin at the first bracket that is in no template argument
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0 and line[i:i + 2] != "()":
                end = i
                break
        name = line[:end].removesuffix("()")
        name = re.sub(r"\((?:bool|int|unsigned int|long|char|short)\)", "", name)    # k<(int)4> -> k<4>
        names[m] = re.sub(r"^(?:void|static) +", "", name).strip()
    return names


def read_ptxas(text):
    """(mangled name, arch) -> registers, stack, spill, shared."""
    out, key = {}, None
    for line in text.split("\n"):
        if m := re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)a?f?'", line):
            key = (m[1], int(m[2]))
            out[key] = {"registers": 0, "stack": 0, "spill": 0, "shared": 0}
        elif key and (m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            # A function that is not inlined has lines of its own, which are its kernel's too.
            out[key]["stack"] = max(out[key]["stack"], int(m[1]))
            out[key]["spill"] += int(m[2]) + int(m[3])
        elif key and (m := re.search(r"Used (\d+) registers", line)):
            out[key]["registers"] = int(m[1])
            if s := re.search(r"(\d+)(?:\+\d+)? bytes smem", line):
                out[key]["shared"] = int(s[1])
    return out


# scoreboard: which of six counters says that the result is there (7: none).  wait: a bit for each counter that must be at rest before the instruction.
Instruction = collections.namedtuple("Instruction", "address op operands scoreboard wait")


def read_sass(text):
    """(mangled name, arch) -> instructions.  The second half of each encoding, on a line of its own, holds the scoreboards (since Volta)."""
    out, arch, code = {}, None, None
    for line in text.split("\n"):
        if m := re.match(r"\s*code for sm_(\d+)", line):
            arch = int(m[1])
        elif m := re.match(r"\s*Function : (\S+)", line):
            code = out.setdefault((m[1], arch), [])
        elif code is not None and (m := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);", line)):
            code.append(Instruction(int(m[1], 16), m[2], m[3].strip(), 7, 0))
        elif code and (m := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/$", line)):
            control = int(m[1], 16) >> 41
            code[-1] = code[-1]._replace(scoreboard=control >> 5 & 7, wait=control >> 11 & 63)
    return out


def read_bounds(text):
    """Section names and their EIATTR_MAX_THREADS -> (mangled name, arch) -> threads."""
    out, arch, name, wanted = {}, None, None, False
    for line in text.split("\n"):
        if m := re.match(r"arch = sm_(\d+)", line):
            arch = int(m[1])
        elif m := re.match(r"\.nv\.info\.(\S+)$", line):
            name = m[1]
        elif "Attribute:" in line:
            wanted = "EIATTR_MAX_THREADS" in line or "EIATTR_REQNTID" in line
        elif wanted and (m := re.match(r"\s*Value:\s*(0x[0-9a-f]+) (0x[0-9a-f]+) (0x[0-9a-f]+)", line)):
            out[name, arch] = int(m[1], 16) * int(m[2], 16) * int(m[3], 16)
            wanted = False
    return out


def width(op):
    """Bytes a thread moves with one load."""
    for bits in (256, 128, 64):
        if re.search(rf"\.{bits}\b", op):
            return bits // 8
    return 1 if re.search(r"\.[US]8\b", op) else 2 if re.search(r"\.[US]16\b", op) else 4


def counts_of(code):
    mix = {name: sum(bool(re.match(pattern, i.op)) for i in code) for name, pattern in COUNTED.items()}
    return {"instructions": sum(i.op != "NOP" for i in code), **{k: v for k, v in mix.items() if v}}


def in_order(code):
    """(instruction, whether it counts): the instructions in order, the body of each innermost loop that loads twice, of which the second time counts,
    being its steady state.  Where no loop loads, everything counts."""
    at = {ins.address: n for n, ins in enumerate(code)}
    loops = set()
    for n, ins in enumerate(code):
        m = re.search(r"\b0x([0-9a-f]+)$", ins.operands) if ins.op.startswith("BRA") else None
        if m and (begin := at.get(int(m[1], 16), n)) < n and any(i.op.startswith("LDG") for i in code[begin:n]):
            loops.add((begin, n))
    inner = {end: begin for begin, end in loops if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in loops)}
    for n, ins in enumerate(code):
        yield ins, not inner
        if n in inner:
            for again in code[inner[n]:n + 1]:
                yield again, True


def flight(code):
    """Most bytes of global loads that one thread has under way at once, in its loops if it has any.

    A load to registers is under way from its issue until an instruction waits for the scoreboard it counts on (all loads on that one have then
    arrived).  cp.async: until the wait (DEPBAR.LE SB0, n) that leaves only the n youngest groups.  Branches are read as not taken; whether a load
    meets memory or a cache cannot be read.
    """
    loads, open_group, groups, most = [], 0, [], 0      # loads: (scoreboard, bytes)
    for ins, counts in in_order(code):
        loads = [w for w in loads if not ins.wait >> w[0] & 1]
        if ins.op.startswith("LDGSTS"):
            open_group += width(ins.op)
        elif ins.op.startswith("LDG."):
            loads.append((ins.scoreboard, width(ins.op)))
        elif ins.op == "LDGDEPBAR":
            groups.append(open_group)
            open_group = 0
        elif ins.op.startswith("DEPBAR.LE") and (m := re.match(r"SB0, (0x[0-9a-f]+)$", ins.operands)):
            left = int(m[1], 16)
            groups = groups[len(groups) - left:] if 0 < left <= len(groups) else groups if left else []
        if counts:
            most = max(most, open_group + sum(groups) + sum(b for _, b in loads))
    return most


Promise = collections.namedtuple("Promise", "pattern threads dynamic words line")


def read_promises(path):
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        line = line.split("#", 1)[0].strip()
        if not line:
            continue
        fields = re.split(r"\s{2,}|\t+", line)
        if len(fields) not in (3, 4):
            raise Gate(f"{path}:{number}: wants: kernel  threads  dynamic shared bytes  [promises], two blanks apart")
        words = fields[3].split() if len(fields) == 4 else []
        for w in words:
            if not re.fullmatch(r"stream|tensor|async|dp4a|flight|f64|blocks=\d+", w):
                raise Gate(f"{path}:{number}: no such promise: {w}")
        out.append(Promise(fields[0], None if fields[1] == "-" else int(fields[1]), int(fields[2]), words, number))
    return out


def match(promises, name):
    """fnmatch, but <, >, [ and ] are themselves."""
    return next((p for p in promises if fnmatch.fnmatchcase(name, p.pattern.replace("[", "[[]"))), None)


def measure(cuda_home, objects, promises):
    """source -> kernel -> arch -> row; and the problems met on the way."""
    table, problems, used = {}, [], set()
    for obj in objects:
        source = obj.name.removesuffix(".o")
        log = obj.with_name(source + ".ptxas")
        if not log.exists():
            raise Gate(f"{log} is missing: build with cmake/cuda.cmake")
        ptxas = read_ptxas(log.read_text(encoding="utf-8"))
        cuobjdump = cuda_home / "bin/cuobjdump"
        sass = read_sass(run(cuobjdump, "-sass", obj))
        bounds = read_bounds(run(cuobjdump, "-elf", obj))
        names = names_of({k for k, _ in ptxas})
        for (mangled, arch), row in sorted(ptxas.items(), key=lambda i: (names[i[0][0]], i[0][1])):
            name = names[mangled]
            promise = match(promises, name)
            if promise is None:
                problems.append(f"{source} {name}: no line in promises.txt matches")
                promise = Promise("", None, 0, [], 0)
            used.add(promise.line)
            threads = promise.threads or bounds.get((mangled, arch))
            if threads is None:
                problems.append(f"{source} {name} sm_{arch}: neither __launch_bounds__ nor promises.txt says how many threads a block has")
                threads = 1024
            code = sass.get((mangled, arch))
            if not code:
                raise Gate(f"{obj}: no machine code of {name} for sm_{arch}")
            row = {**row, "dynamic": promise.dynamic, "threads": threads}
            row["blocks"], limits = occupancy(arch, row["registers"], row["shared"] + row["dynamic"], threads)
            row["limit"] = min(limits, key=limits.get)
            row["flight"] = flight(code)
            row["mix"] = counts_of(code)
            arches = table.setdefault(source, {}).setdefault(name, {})
            if f"sm_{arch}" in arches:
                raise Gate(f"{source}: two kernels are called {name}")
            arches[f"sm_{arch}"] = row
            problems += [f"{source} {name} sm_{arch}: {p}" for p in broken(row, promise, arch)]
    problems += [f"promises.txt:{p.line}: no kernel matches {p.pattern}" for p in promises if p.line not in used]
    return table, problems


def broken(row, promise, arch):
    mix = collections.Counter(row["mix"])
    if row["stack"] or row["spill"] or mix["local"]:
        yield f"local memory: {row['stack']} bytes of stack, {row['spill']} of spills, {mix['local']} LDL or STL"
    if mix["float_atomics"]:
        yield f"{mix['float_atomics']} float additions by atomics: their order is not fixed"
    if row["blocks"] == 0:
        yield f"no block fits on an SM: {row['registers']} registers x {row['threads']} threads, {row['shared'] + row['dynamic']} bytes shared"
    if mix["f64"] and "f64" not in promise.words:
        yield f"{mix['f64']} double-precision instructions"
    for word in promise.words:
        if word == "stream" and not mix["ldg128"] + mix["cp128"]:
            yield "promises stream, and has no 128-bit global load"
        elif word == "stream" and 16 * (mix["ldg128"] + mix["cp128"]) < 4 * (mix["ldg"] + mix["cp"]):
            yield f"promises stream, and has {mix['ldg'] + mix['cp']} narrow global loads beside {mix['ldg128'] + mix['cp128']} of 128 bits"
        elif word == "tensor" and not mix["hmma"] + mix["imma"]:
            yield "promises tensor, and has no tensor-core instruction"
        elif word == "async" and not mix["cp128"] + mix["cp"]:
            yield "promises async, and has no cp.async"
        elif word == "dp4a" and not mix["dp4a"]:
            yield "promises dp4a, and has none"
        elif word.startswith("blocks=") and row["blocks"] < int(word[7:]):
            yield f"promises {word[7:]} blocks an SM, and {row['blocks']} fit (limit: {row['limit']})"
        elif word == "flight":
            for chip in CHIPS:
                if chip.arch == arch and in_flight(row) < needed(chip):
                    yield (f"promises flight, and has {in_flight(row)} bytes under way an SM; {chip.name} needs {needed(chip):.0f}")


def in_flight(row):
    return row["blocks"] * row["threads"] * row["flight"]


def needed(chip):
    """Little's law: bytes under way = bytes/s x latency, shared by the SMs."""
    return REACHABLE * chip.memory * chip.latency_ns * 1e-9 / chip.sms


def little(table, promises):
    """The arithmetic of bytes in flight, for the kernels that promise it."""
    yield "bytes under way an SM: needed = %g of the memory's peak x latency / SMs; there = blocks x threads x bytes a thread (read from the code)" % REACHABLE
    for chip in CHIPS:
        yield (f"  {chip.name}: {REACHABLE} x {chip.memory / 1e12:g}e12 B/s x {chip.latency_ns:g}e-9 s / {chip.sms} = {needed(chip):.0f} B")
    for source, kernels in table.items():
        for name, arches in kernels.items():
            promise = match(promises, name)
            if promise and "flight" in promise.words:
                for arch, row in arches.items():
                    for chip in (c for c in CHIPS if f"sm_{c.arch}" == arch):
                        yield (f"  {source} {name} {chip.name}: {row['blocks']} x {row['threads']} x {row['flight']} = {in_flight(row)} B, "
                               f"{in_flight(row) / needed(chip):.2f} of what is needed")


def flat(row, prefix=""):
    for key, value in row.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def drift(old, new):
    """Lines that say what differs between two tables of one release."""
    cells = lambda t: {(s, k, a): dict(flat(row)) for s, kernels in t.items() for k, arches in kernels.items() for a, row in arches.items()}  # noqa: E731
    old, new = cells(old), cells(new)
    for key in sorted(old.keys() | new.keys()):
        where = " ".join(key)
        if key not in new:
            yield f"{where}: gone"
        elif key not in old:
            yield f"{where}: new"
        else:
            a, b = old[key], new[key]
            changes = [f"{f} {a.get(f, 0)} -> {b.get(f, 0)}" for f in sorted(a.keys() | b.keys()) if a.get(f, 0) != b.get(f, 0)]
            if changes:
                yield f"{where}: {', '.join(changes)}"


def write_table(path, releases):
    """One line a kernel and architecture, so that a diff reads as a table's."""
    def dump(value, depth):
        if depth == 4:
            return json.dumps(value)
        if not value:
            return "{}"
        pad = " " * (depth + 1)
        return "{\n" + ",\n".join(f"{pad}{json.dumps(k)}: {dump(v, depth + 1)}" for k, v in sorted(value.items(), key=lambda i: order(i[0]))) + "\n" + " " * depth + "}"
    path.write_text(dump(releases, 0) + "\n", encoding="utf-8")


def order(key):
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", key)]


def show(table):
    yield f"{'kernel':52} {'arch':6} {'regs':>4} {'shared':>7} {'thr':>4} {'blk':>3} {'occ':>4} {'limit':9} {'B/thr':>5}  instructions"
    for source, kernels in table.items():
        yield source
        for name, arches in kernels.items():
            for arch, row in arches.items():
                full = row["blocks"] * -(-row["threads"] // 32) / SM[int(arch[3:])].warps
                mix = " ".join(f"{k}={v}" for k, v in row["mix"].items() if k != "instructions")
                yield (f"  {name[:50]:50} {arch:6} {row['registers']:4} {row['shared'] + row['dynamic']:7} {row['threads']:4} {row['blocks']:3} {full:4.0%} "
                       f"{row['limit']:9} {row['flight']:5}  {row['mix']['instructions']}: {mix}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    p.add_argument("--cuda-home", type=pathlib.Path, required=True)
    p.add_argument("--table", type=pathlib.Path, default=HERE / "gate.json")
    p.add_argument("--promises", type=pathlib.Path, default=HERE / "promises.txt")
    p.add_argument("--update", action="store_true", help="write the table of this release of nvcc anew")
    p.add_argument("--report", type=pathlib.Path, help="write the readable table there")
    p.add_argument("objects", nargs="+", type=pathlib.Path)
    a = p.parse_args()
    if not (a.cuda_home / "bin/cuobjdump").exists():
        print(f"skipped: no cuobjdump in {a.cuda_home} (deploy/cuda installs it)")
        sys.exit(77)
    try:
        release = re.search(r", V(\S+)", run(a.cuda_home / "bin/nvcc", "--version"))[1]
        promises = read_promises(a.promises)
        table, problems = measure(a.cuda_home, a.objects, promises)
        releases = json.loads(a.table.read_text(encoding="utf-8")) if a.table.exists() else {}
    except Gate as e:
        sys.exit(f"gate: {e}")
    text = "\n".join([f"nvcc {release}; read from the machine code, not measured", *show(table), "", *little(table, promises)])
    print(text)
    if a.report:
        a.report.write_text(text + "\n", encoding="utf-8")
    n = sum(len(arches) for kernels in table.values() for arches in kernels.values())
    if a.update:
        releases[release] = table
        write_table(a.table, releases)
        print(f"\n{a.table}: {n} rows of nvcc {release} written")
    elif release in releases:
        differences = list(drift(releases[release], table))
        problems += [f"drift: {d}" for d in differences]
        if differences:
            print("\nIf this is meant: gate.py --update with the same arguments, and say why in the commit.")
    else:
        print(f"\nno table for nvcc {release} (there are {', '.join(sorted(releases)) or 'none'}): promises alone are checked")
    if problems:
        print(f"\n{len(problems)} problems:")
        print("\n".join("  " + q for q in problems))
        sys.exit(1)
    print(f"\n{n} kernels x architectures keep their promises")


if __name__ == "__main__":
    main()
