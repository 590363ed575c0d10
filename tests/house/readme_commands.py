#!/usr/bin/env python3
"""Runs every command of the README's shell blocks, in order, in a folder that looks like the repository.

    readme_commands.py README.md TRIREME MODELS_DIR

build/release/trireme is the program under test, build/models the checkpoints that deploy/check fetched.  What takes minutes or the
network is run in its short form (see STAND_INS).  Exit code 77 where there is no checkpoint.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

STAND_INS = [
    (r"deploy/quickstart$", "deploy/quickstart --dry-run"),
    (r"deploy/check$", "deploy/check --help"),
    (r"cmake --preset release$", "cmake --list-presets=configure"),     # deploy/check builds and installs this preset
    (r"cmake --preset release -DCUDA_HOME=.*$", "deploy/cuda --dry-run"),
    (r"cmake --build --preset release$", "cmake --list-presets=build"),
    # Until it is ready, and then Ctrl-C.
    (r"(\S+/trireme up .*)$", r"\1 --port 0 --json > up.json & p=$!; while [ ! -s up.json ] && kill -0 $p; do sleep 0.2; done; cat up.json; kill -INT $p; wait $p"),
    (r"(\S+/trireme pull) \S+$", r"\1 --help"),                         # tests/shard_files downloads from a local hub
]
SECONDS = 180


def blocks_of(text):
    return re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)


def commands_of(block):
    """Lines, a here-document being part of the line that opens it."""
    lines = iter(block.rstrip("\n").split("\n"))
    for line in lines:
        end = re.search(r"<<'(\w+)'", line)
        while end and not line.endswith(f"\n{end.group(1)}"):
            line += "\n" + next(lines)
        yield line


def lay_out(folder, root, trireme, models):
    for name in ("deploy", "README.md", "CHANGELOG.md", "CMakeLists.txt", "CMakePresets.json", "cmake"):
        (folder / name).symlink_to(root / name)
    (folder / "build/release").mkdir(parents=True)
    for file in trireme.parent.glob("*.so"):
        (folder / "build/release" / file.name).symlink_to(file)
    (folder / "build/release/trireme").symlink_to(trireme)
    (folder / "build/models").symlink_to(models)


def main():
    readme, trireme, models = (pathlib.Path(a).resolve() for a in sys.argv[1:])
    if not (models / "smollm2.gguf").exists():
        print(f"skipped: no smollm2.gguf in {models} (deploy/models.py fetches it)")
        sys.exit(77)
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
           "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "TRIREME_PLUGIN_DIR": str(trireme.parent)}
    n, failed = 0, []
    with tempfile.TemporaryDirectory() as folder:
        lay_out(pathlib.Path(folder), readme.parent, trireme, models)
        for block in blocks_of(readme.read_text(encoding="utf-8")):
            for command in commands_of(block):
                short = command
                for pattern, instead in STAND_INS:
                    short = re.sub(f"^{pattern}", instead, short)
                try:
                    run = subprocess.run(["bash", "-c", short], cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS)
                    why = f"exit code {run.returncode}\n{run.stdout[-500:]}{run.stderr[-1500:]}" if run.returncode != 0 else None
                    if why is None and not run.stdout.strip() and "cat >" not in short and " shard " not in short:
                        why = "no output"
                except subprocess.TimeoutExpired:
                    why = f"not done after {SECONDS} s"
                n += 1
                print(f"{'FAILED' if why else 'ok':6} {short.splitlines()[0]}")
                if why:
                    failed.append(f"{short}\n{why}")
    print("\n".join(failed) or f"{n} commands ran")
    sys.exit(1 if failed or n == 0 else 0)


if __name__ == "__main__":
    main()
