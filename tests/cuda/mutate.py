#!/usr/bin/env python3
"""Breaks the CUDA backend in one place at a time, by rule, and counts how many of the breaks its tests notice.

    mutate.py --list [--files RE] [--rules RE] [--sample N] [--seed S]       what would be broken
    mutate.py --work DIR --cuda-home DIR [--jobs N] [the same] [--report FILE [--again]]
              copies the source tree into DIR once for each job, breaks, builds and tests there; DIR is locked while it runs;
              --again: FILE is of an earlier run, what it has as caught is not tried again

Rules, over every .cu, .cuh and .c of ops/cuda and comm/nccl (comments and strings left alone):
    barrier   a __syncthreads, __syncwarp or named barrier is dropped
    wait      a gpu_cp_wait is dropped, or lets one group more stay under way; a commit is dropped
    fence     a __threadfence or a releasing store is dropped
    order     host: a wait, record, set or copy of the runtime is dropped; graphs aside
    stream    host: another stream, or another event, than the one meant
    bound     a comparison takes in, or leaves out, its edge; a + 1 or - 1 goes
    index     % for / and / for %; blockIdx.x for .y; lane for warp, row for column, i for j; a subscript one too far
A mutant is caught when a test fails, hangs or crashes: first as the test is, then (for barriers, waits and the host) with early copies or late streams,
then under ThreadSanitizer (barrier, wait, fence) or AddressSanitizer and UBSan (the others).  What does not compile does not count.  What cannot
be told apart from the original by anybody is listed, with the reason, in mutate_equivalent.txt beside this script.  Exit 0: at least 95 of 100
of the rest are caught.
"""
import argparse
import collections
import concurrent.futures
import fcntl
import hashlib
import json
import os
import pathlib
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
EQUIVALENT = pathlib.Path(__file__).with_name("mutate_equivalent.txt")
FOLDERS = ["ops/cuda", "comm/nccl"]
WANTED = 0.95

# The tests that cover a file, in the order to try them; a file without a line: TESTS_OF_THE_REST.
COVERS = [
    (r"k_sample\.cu", ["test_cuda_sample", "test_cuda_step"]),
    (r"k_(rows|kv)\.cu|rows\.cuh", ["test_cuda_rows", "test_cuda_step"]),
    (r"k_attention.*|attention_list\.c", ["test_cuda_attention", "test_cuda_step"]),
    (r"k_linear.*", ["test_cuda_linear", "test_cuda_moe", "test_cuda_step"]),
    (r"k_(moe|experts)\.cu|cuda_moe\.c", ["test_cuda_moe", "test_cuda_backend"]),
    (r"(k|cuda)_blaslt\.(cu|c)", ["test_cuda_blaslt"]),
    (r"k_reduce\.cu|cuda_comm\.c|cuda_nccl\.c", ["test_cuda_comm_2", "test_cuda_comm_3_hosts_001", "test_cuda_comm_death"]),
    (r"cuda_library\.c", ["test_cuda_library"]),
    (r"cuda_(ops|buffer)\.c", ["test_cuda_backend", "test_cuda_graph", "test_cuda_step", "test_cuda_blaslt"]),
]
TESTS_OF_THE_REST = ["test_cuda_backend", "test_cuda_graph", "test_cuda_step"]

# How a mutant of a rule is tried, in this order, until a test fails: (build, environment).
PLAIN, EARLY, LAZY = ("plain", {}), ("plain", {"CUEMU_CPASYNC": "early"}), ("plain", {"CUEMU_STREAMS": "lazy", "CUEMU_GUARD": "1"})
ASAN, TSAN, TSAN_EARLY = ("asan", {}), ("tsan", {}), ("tsan", {"CUEMU_CPASYNC": "early"})
RANDOM, OPEN = ("plain", {"CUEMU_STREAMS": "rand:5"}), ("plain", {"CUEMU_STREAMS": "lazy"}) # without the guard, which opens what was freed too
STAGES = {
    "barrier": [PLAIN, EARLY, TSAN, TSAN_EARLY], "wait": [PLAIN, EARLY, TSAN, TSAN_EARLY], "fence": [PLAIN, TSAN],
    "order": [PLAIN, LAZY, OPEN, RANDOM, ASAN], "stream": [PLAIN, LAZY, OPEN, RANDOM],
    "bound": [PLAIN, ASAN], "index": [PLAIN, ASAN],
}
SANITIZE = {"plain": "", "asan": "address,undefined", "tsan": "thread"}

Mutant = collections.namedtuple("Mutant", "file rule line begin end text was occurrence")


# ---- what can be broken ----

def code_of(text):
    """The text with comments, strings and preprocessor lines blanked; the same length."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    text = re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, text, flags=re.S)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)
    return re.sub(r"^\s*_?[Ss]tatic_assert\([^;]*;", blank, text, flags=re.M)


PAIRS = [("lane", "warp"), ("row", "col"), ("i", "j"), ("i", "k"), ("j", "k"), ("n", "k"), ("head", "row"), ("kv", "q")]
HOST_CALLS = r"cuda(?:StreamSynchronize|StreamWaitEvent|EventRecord|EventSynchronize|MemsetAsync|MemcpyAsync)"
TERM = r"(\*?(?:sizeof\([\w.>-]+\)|[\w.>\[\]-]+))"
CHOICE_OF_TWO = re.compile(TERM + r" [<>]=? " + TERM + r" \? (?:\1 : \2|\2 : \1)(?![\w.\[(-])")
DECLARATION = re.compile(r"^\s*(?!return\b|else\b|case\b)(?:[A-Za-z_]\w*\s+)+\**\w+(?:\[[^\]]*\])+\s*(?:=|;|,|\))")


def edits(path, code):
    """(rule, begin, end, replacement) of every mutant of a file."""
    for m in re.finditer(r"\b(?:__syncthreads|__syncwarp|gpu_named_barrier)\s*\([^;{}]*\)\s*;", code):
        yield "barrier", m.start(), m.end(), ";"
    for m in re.finditer(r"\bgpu_cp_wait<([^<>]+)>\(\s*\)\s*;", code):
        yield "wait", m.start(), m.end(), ";"
        yield "wait", m.start(1), m.end(1), f"({m.group(1)}) + 1"
    for m in re.finditer(r"\bgpu_cp_commit\(\s*\)\s*;", code):
        yield "wait", m.start(), m.end(), ";"
    for m in re.finditer(r"\b(?:__threadfence\w*|gpu_store_release_\w+)\s*\([^;{}]*\)\s*;", code):
        yield "fence", m.start(), m.end(), ";"

    # a whole statement of the host: TRY(...cudaX(...)...); or (void)cudaX(...);
    for m in re.finditer(r"^[ \t]*((?:\w+\()?(?:\(void\))?" + HOST_CALLS + r"\s*\([^;{}]*;)", code, re.M):
        yield "order", m.start(1), m.end(1), ";"
    for a, b in (("stream", "copies"), ("after", "before")):
        for m in re.finditer(rf"(?<![\w*&])((?:ctx->|c->)?)\b({a}|{b})\b", code):
            line = code[code.rfind("\n", 0, m.start()) + 1:code.find("\n", m.end())]
            if ("->" in m.group(1) or a == "after") and re.search(r"cuda\w+\(|\bk_\w+\(|follow\(", line) and not re.search(r"Create|Destroy", line):
                yield "stream", m.start(2), m.end(2), b if m.group(2) == a else a
    for m in re.finditer(r"\b(used|stage_free)\[([^\[\]]+(?:\[[^\[\]]*\])?[^\[\]]*)\]", code):
        line = code[code.rfind("\n", 0, m.start()) + 1:code.find("\n", m.end())]
        if re.search(r"cudaEvent(Record|Synchronize)|WaitEvent", line):
            yield "stream", m.start(2), m.end(2), f"({m.group(2)}) ^ 1"

    for m in re.finditer(r"(?<=[\w)\]] )(<=|>=|<|>)(?= [\w(*&!~-])", code):
        op = m.group(1)
        left = re.search(TERM + " $", code[code.rfind("\n", 0, m.start()):m.start()])
        if left and CHOICE_OF_TWO.match(code, m.start() - len(left.group(0))):
            continue # x < y ? x : y is the same with <=
        yield "bound", m.start(), m.end(), op[0] if len(op) == 2 else op + "="
    for m in re.finditer(r"(?<=[\w)\]])\s[+-] 1\b(?![.\w])", code):
        yield "bound", m.start(), m.end(), ""

    code = re.sub(r"^.*\bGPU_(?:SHARED|DYN_SMEM)\b.*$", lambda m: " " * len(m.group(0)), code, flags=re.M)
    for m in re.finditer(r"(?<=[\w)\]] )%(?= [\w(])", code):
        yield "index", m.start(), m.end(), "/"
    for m in re.finditer(r"(?<=[\w)\]] )/(?= (?:\d+|[A-Z][A-Z_0-9]+)\b(?![.]))", code):
        yield "index", m.start(), m.end(), "%"
    for m in re.finditer(r"\b((?:block|thread)Idx)\.([xyz])", code):
        others = {"x": "y", "y": "x", "z": "x"}
        yield "index", m.start(2), m.end(2), others[m.group(2)]
    for m in re.finditer(r"\[([^\[\]\n]+)\]", code):
        start = code.rfind("\n", 0, m.start()) + 1
        line = code[start:code.find("\n", m.end())]
        inner = m.group(1)
        before = code[:m.start()].rstrip()
        if DECLARATION.match(line) or before.endswith((",", "(", "=", "&")) and inner.strip() in ("=", "&", ""):
            continue
        if not re.search(r"[\w\])]$", before) or re.fullmatch(r"\s*[&=]?\s*", inner):
            continue
        yield "index", m.start(1), m.end(1), f"{inner} + 1"
        for a, b in PAIRS:
            for x, y in ((a, b), (b, a)):
                for w in re.finditer(rf"\b(?<![.>]){x}\b(?!\()", inner):
                    body = code[max(0, m.start() - 4000):m.start()]
                    if re.search(rf"\b{y}\b", body[body.rfind("\n}\n") + 1:]):
                        yield "index", m.start(1) + w.start(), m.start(1) + w.end(), y


def mutants_of(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    seen, out = collections.Counter(), []
    for rule, begin, end, new in sorted(set(edits(path, code_of(text)))):
        start = text.rfind("\n", 0, begin) + 1
        stop = text.find("\n", end)
        was = " ".join(text[start:stop].split())
        becomes = " ".join((text[start:begin] + new + text[end:stop]).split())
        if len(was) < 30:  # says little by itself: with the line before
            before = " ".join(text[:start].rstrip().rsplit("\n", 1)[-1].split())
            was, becomes = f"{before} / {was}", f"{before} / {becomes}"
        if was == becomes:
            continue
        seen[was, becomes] += 1
        out.append(Mutant(path, rule, text.count("\n", 0, begin) + 1, begin, end, new, (was, becomes), seen[was, becomes]))
    return out


def sources():
    return sorted(str(p.relative_to(ROOT)) for folder in FOLDERS for p in (ROOT / folder).iterdir() if p.suffix in (".cu", ".cuh", ".c") and p.name != "gpu.cuh")


def key_of(m):
    return (pathlib.Path(m.file).name, m.was[0], m.was[1], m.occurrence)


def equivalents():
    """file | the line as it is | as it becomes | reason   (a fifth field between: which of several equal lines)"""
    out = {}
    if EQUIVALENT.exists():
        for n, line in enumerate(EQUIVALENT.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            f = [x.strip() for x in line.split(" @@ ")]
            if len(f) not in (4, 5) or not f[-1]:
                sys.exit(f"{EQUIVALENT.name}:{n}: file @@ line @@ line broken [@@ occurrence] @@ reason")
            out[f[0], f[1], f[2], int(f[3]) if len(f) == 5 else 1] = f[-1]
    return out


def pick(mutants, n, seed):
    """n of them, by turns from each file and rule; a change of the code changes the choice only where it is."""
    groups = collections.defaultdict(list)
    for m in sorted(mutants, key=lambda m: hashlib.sha256(repr((seed, key_of(m))).encode()).digest()):
        groups[m.file, m.rule].append(m)
    out, order = [], sorted(groups)
    while len(out) < n and any(groups.values()):
        for k in order:
            if groups[k] and len(out) < n:
                out.append(groups[k].pop())
    return out


# ---- one tree to break things in ----

class Tree:
    def __init__(self, folder, options):
        self.folder, self.options, self.slow = folder, options, {}
        files = subprocess.run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout.splitlines()
        for f in files:
            source, target = ROOT / f, folder / "src" / f
            if source.is_file() and not (target.exists() and target.read_bytes() == source.read_bytes()):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    @staticmethod
    def run(folder, command, limit, env=None, cpu=None):
        """(exit status or None, output); cpu: seconds of the processor each process may use, which does not depend on what else runs here"""
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
                             preexec_fn=None if cpu is None else lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu)),
                             env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "CCACHE_BASEDIR": str(folder), "CCACHE_NOHASHDIR": "1", **(env or {})})
        try:
            text, _ = p.communicate(timeout=limit)
            return p.returncode, text
        except subprocess.TimeoutExpired:
            return None, "no end"
        finally:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
                p.communicate()

    def build(self, kind, tests):
        build = self.folder / kind
        if not (build / "build.ninja").exists():
            status, text = self.run(self.folder, ["cmake", "-G", "Ninja", "-S", self.folder / "src", "-B", build, "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
                                     "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O1 -g -w", "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 -g -w", "-DWITH_CUDA=on",
                                     *(["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []),
                                     f"-DSANITIZE={SANITIZE[kind]}", "-DWITH_CUDA=on", f"-DCUDA_HOME={self.options.cuda_home}"], 600)
            if status != 0:
                sys.exit(f"cmake in {build}: {text}")
        # Files: programs for a device have the same names.  One may have several runs, or be run by another.
        targets = sorted({"tests/" + re.sub(r"_(\d.*|death$)", end, t) for t in tests for end in ("", "_death" if t.endswith("_death") else "")})
        return self.run(self.folder, ["ninja", "-C", build, "-j1", *targets], 3600)

    def test(self, kind, env, name):
        """(passed, seconds of the processor, output). The first time (nothing broken) says how long it may take."""
        cpu = self.slow.get((kind, name), 600)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        status, text = self.run(self.folder, ["ctest", "--test-dir", self.folder / kind, "-R", f"^{name}$", "--no-tests=error", "--output-on-failure"],
                                60 + 40 * cpu, env, cpu)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return status == 0, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, text

    def baseline(self, mutants):
        """Everything unbroken passes; how long each test takes."""
        for kind in sorted({k for m in mutants for k, _ in stages_of(m)}):
            names = sorted({t for m in mutants for t in tests_of(m.file, kind) if kind in {k for k, _ in stages_of(m)}})
            status, text = self.build(kind, names)
            if status != 0:
                sys.exit(f"the unbroken tree does not build: {text[-3000:]}")
            for name in names:
                ok, seconds, text = self.test(kind, {}, name)
                if not ok:
                    sys.exit(f"{name} ({kind}) fails unbroken: {text[-3000:]}")
                self.slow[kind, name] = int(10 + 5 * seconds)

    def attempt(self, m):
        """(verdict, how): caught, invalid or missed."""
        path = self.folder / "src" / m.file
        original = path.read_bytes()
        text = original.decode()
        path.write_text(text[:m.begin] + m.text + text[m.end:])
        try:
            for kind, env in stages_of(m):
                tests = tests_of(m.file, kind)
                status, text_ = self.build(kind, tests)
                if status != 0:
                    return "invalid", "does not build"
                for name in tests:
                    ok, _, _ = self.test(kind, env, name)
                    if not ok:
                        return "caught", " ".join([name, kind, *(f"{k}={v}" for k, v in env.items())])
            return "missed", ""
        finally:
            path.write_bytes(original)


def stages_of(m):
    """Open MPI is not instrumented: no ThreadSanitizer there."""
    mpi = any(t.startswith("test_cuda_comm") for t in tests_of(m.file, "plain"))
    return [s for s in STAGES[m.rule] if not mpi or s[0] != "tsan"]


def tests_of(path, kind):
    """With a sanitizer, of jobs of several ranks the first."""
    name = pathlib.Path(path).name
    tests = next((tests for pattern, tests in COVERS if re.fullmatch(pattern, name)), TESTS_OF_THE_REST)
    return tests[:1] if kind != "plain" and tests[0].startswith("test_cuda_comm") else tests


def show(m):
    return f"{m.file}:{m.line} [{m.rule}]\n    - {m.was[0]}\n    + {m.was[1]}" + (f"   (number {m.occurrence})" if m.occurrence > 1 else "")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--list", action="store_true")
    p.add_argument("--files", default="", help="only files whose path has this")
    p.add_argument("--rules", default="", help="only rules whose name has this")
    p.add_argument("--sample", type=int, default=0, help="this many, by turns from each file and rule; 0: all")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--work", type=pathlib.Path, help="folder for the trees")
    p.add_argument("--cuda-home", default=os.environ.get("CUDA_HOME", ""))
    p.add_argument("--jobs", type=int, default=1)
    p.add_argument("--report", type=pathlib.Path)
    p.add_argument("--again", action="store_true")
    options = p.parse_args()

    known = equivalents()
    mutants = [m for f in sources() if re.search(options.files, f) for m in mutants_of(f) if re.search(options.rules, m.rule)]
    unknown = set(known) - {key_of(m) for f in sources() for m in mutants_of(f)}
    for k in sorted(unknown):
        print(f"{EQUIVALENT.name}: no such mutant: {' @@ '.join(map(str, k))}")
    total = len(mutants)
    if options.sample:
        mutants = pick(mutants, options.sample, options.seed)
    mutants = [m for m in mutants if key_of(m) not in known]
    if options.list:
        for m in mutants:
            print(show(m))
        print(f"{len(mutants)} of {total}; by rule {dict(collections.Counter(m.rule for m in mutants))}")
        sys.exit(1 if unknown else 0)
    if not options.work or not options.cuda_home:
        p.error("--work and --cuda-home are needed")
    if options.again and not options.report:
        p.error("--again wants --report")

    options.work.mkdir(parents=True, exist_ok=True)
    lock = open(options.work / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"{options.work} is in use")
    trees = queue.Queue()
    def tree_number(j):
        tree = Tree(options.work / f"tree{j}", options)
        tree.baseline(mutants)
        trees.put(tree)

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(tree_number, range(options.jobs)))
    results, wanted = [], {key_of(m): m for m in mutants}
    for r in json.loads(options.report.read_text()) if options.again else []:
        m = Mutant(*(tuple(r[f]) if f == "was" else r[f] for f in Mutant._fields))
        if key_of(m) in wanted and r["verdict"] != "missed":
            results.append((wanted.pop(key_of(m)), r["verdict"], r["how"]))

    def one(m):
        tree = trees.get()
        try:
            verdict, how = tree.attempt(m)
        finally:
            trees.put(tree)
        results.append((m, verdict, how))
        print(f"{len(results)}/{len(mutants)} {verdict} {how}: {show(m) if verdict == 'missed' else f'{m.file}:{m.line} [{m.rule}]'}", flush=True)
        if options.report:
            options.report.write_text(json.dumps([{**r[0]._asdict(), "verdict": r[1], "how": r[2]} for r in results], indent=1))

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, wanted.values()))
    count = collections.Counter(v for _, v, _ in results)
    print("\nmissed:")
    for m, verdict, _ in results:
        if verdict == "missed":
            print(show(m))
    by_rule = collections.Counter((m.rule, v) for m, v, _ in results)
    for rule in STAGES:
        print(f"{rule:8} caught {by_rule[rule, 'caught']:4}  missed {by_rule[rule, 'missed']:4}  not built {by_rule[rule, 'invalid']:4}")
    tried = count["caught"] + count["missed"]
    print(f"{tried} mutants, {count['invalid']} more do not build, {len(known) - len(unknown)} known as equivalent: {count['caught']} caught, "
          f"{100 * count['caught'] / max(tried, 1):.1f} %")
    sys.exit(0 if tried > 0 and count["caught"] >= WANTED * tried and not unknown else 1)


if __name__ == "__main__":
    main()
