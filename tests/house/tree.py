#!/usr/bin/env python3
"""Keeps the source tree's rules true: who may include whom, where foreign libraries stay, no traces of one machine, no unfinished ends.

    tree.py ROOT
"""
import pathlib
import re
import subprocess
import sys

# target: what it may include besides itself ("*": everything).  The picture of the layers; README.md explains it.
MAY_INCLUDE = {
    "base": set(),
    "ops": {"base"},
    "shard_plan": {"base"},
    "shard_text": {"base"},
    "shard": {"shard_plan", "shard_text", "ops", "base"},
    "comm_step": {"base"},
    "comm_wire": {"base"},
    "comm_data": {"base"},
    "comm_nccl": {"comm_data", "ops", "base"},
    "worker": {"shard", "shard_plan", "shard_text", "ops", "comm_step", "comm_data", "base"},
    "coord_sched": {"shard_plan", "comm_step", "base"},
    "coord_gateway": {"shard_text", "comm_wire", "base"},
    "coordinator": "*",
    "tests": "*",
}
# A file belongs to the target of the first pattern its path matches.
TARGETS = [
    (r"base/", "base"), (r"ops/", "ops"), (r"shard/plan/", "shard_plan"), (r"shard/text/", "shard_text"), (r"shard/", "shard"),
    (r"comm/step", "comm_step"), (r"comm/wire/", "comm_wire"), (r"comm/nccl/", "comm_nccl"), (r"comm/", "comm_data"), (r"worker/", "worker"),
    (r"coordinator/sched", "coord_sched"), (r"coordinator/gateway", "coord_gateway"), (r"coordinator/", "coordinator"), (r"tests/", "tests"),
]
# Foreign headers that stay inside one folder.
ONLY_IN = [(r"mpi\.h", r"comm/|tests/"), (r"(cuda|cublas|nccl).*", r"ops/cuda|comm/|tests/"), (r"(zmq|czmq)\.h", r"comm/wire/|tests/"),
           (r"pmix\.h", r"comm/mpi/"), (r"hwloc.*", r"coordinator/placement|tests/"), (r"microhttpd\.h", r"coordinator/gateway/http"),
           (r"curl/.*", r"shard/hub|coordinator/|tests/"), (r"utf8proc\.h|pcre2\.h", r"shard/text/|tests/")]
GENERATED = {"trireme_version.h", "ops/cuda/blaslt_tiles.h", "comm/wire/wire.pb-c.h"}
SOURCE = (".c", ".h", ".cu", ".cuh")


def target_of(path):
    return next((target for pattern, target in TARGETS if re.match(pattern, path)), None)


def includes(text):
    for number, line in enumerate(text.splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+([<"])([^>"]+)[>"]', line)
        if m:
            yield number, m.group(1) == '"', m.group(2)


def check_includes(root, path, text, problems):
    mine = target_of(path)
    if mine is None:
        problems.append(f"{path}: belongs to no target; see tests/house/tree.py")
        return
    for number, own, name in includes(text):
        if not own:
            for header, folders in ONLY_IN:
                if re.fullmatch(header, name) and not re.match(folders, path):
                    problems.append(f"{path}:{number}: <{name}> stays inside {folders}")
            continue
        if name in GENERATED:
            continue
        if mine == "tests" and ((root / path).parent / name).is_file():
            continue
        if not (root / name).is_file():
            problems.append(f'{path}:{number}: "{name}" is not a path from the root')
            continue
        theirs, allowed = target_of(name), MAY_INCLUDE[mine]
        if theirs != mine and allowed != "*" and theirs not in allowed:
            problems.append(f"{path}:{number}: {mine} may not include {theirs} ({name})")
        if name.endswith("_internal.h") and pathlib.PurePath(name).parent not in pathlib.PurePath(path).parents and mine != "tests":
            problems.append(f"{path}:{number}: {name} stays in its folder")


def check_text(path, text, problems):
    marks = re.compile(r"\b(TODO|FIX" r"ME|XX" r"X)\b")
    traces = re.compile(r"(?<![\w.])/(work|root|home/\w+)/|\.\./sha" r"red")
    for number, line in enumerate(text.splitlines(), 1):
        if marks.search(line):
            problems.append(f"{path}:{number}: unfinished: {line.strip()[:80]}")
        if traces.search(line) and path != ".ci/run":
            problems.append(f"{path}:{number}: a path of one machine: {line.strip()[:80]}")


def main():
    root = pathlib.Path(sys.argv[1]).resolve()
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode != 0:
        print("skipped: not a git checkout, so there is no list of the project's files")
        sys.exit(77)
    problems, sources, bytes_in_tests = [], 0, 0
    for path in filter(None, listed.stdout.split("\0")):
        file = root / path
        if not file.is_file():
            continue
        if path.startswith("tests/"):
            bytes_in_tests += file.stat().st_size
        if path.startswith("tests/fuzz/corpus/") or path in ("LICENSE", "tests/house/tree.py"):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path.endswith(SOURCE):
            sources += 1
            check_includes(root, path, text, problems)
        if not path.startswith(("tests/golden/", "tests/data/")):
            check_text(path, text, problems)
    if bytes_in_tests > 40 << 20:
        problems.append(f"tests/ holds {bytes_in_tests >> 20} MiB; the most is 40 MiB")
    print("\n".join(problems) or f"{sources} sources keep the rules")
    sys.exit(1 if problems or sources == 0 else 0)


if __name__ == "__main__":
    main()
