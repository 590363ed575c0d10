#!/usr/bin/env python3
"""Installs into a folder of its own, runs what was installed, and removes it: nothing may be left.

    install.py CMAKE BUILD_DIR
"""
import os
import pathlib
import subprocess
import sys
import tempfile


def main():
    cmake, build = sys.argv[1:]
    with tempfile.TemporaryDirectory() as stage:
        env = {**os.environ, "DESTDIR": stage}
        subprocess.run([cmake, "--install", build], check=True, env=env, stdout=subprocess.DEVNULL)
        files = [p for p in pathlib.Path(stage).rglob("*") if p.is_file()]
        names = {p.name for p in files}
        for wanted in ("trireme", "LICENSE"):
            if wanted not in names:
                sys.exit(f"{wanted} is not installed; there are {sorted(names)}")
        (program,) = [p for p in files if p.name == "trireme" and p.parent.name == "bin"]
        print(subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip())
        subprocess.run([cmake, "--build", build, "--target", "uninstall"], check=True, env=env, stdout=subprocess.DEVNULL)
        left = [str(p) for p in pathlib.Path(stage).rglob("*") if p.is_file()]
        if left:
            sys.exit(f"left behind: {left}")
        print(f"{len(files)} files installed and removed")


if __name__ == "__main__":
    main()
