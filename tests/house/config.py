#!/usr/bin/env python3
"""Keeps deploy/trireme.conf.example true: every key in it, commented out or not, is an option of its command.

    config.py TRIREME EXAMPLE
"""
import re
import subprocess
import sys
import tempfile


def config(trireme, *args):
    return subprocess.run([trireme, "config", *args], capture_output=True, text=True, timeout=60)


def main():
    trireme, example = sys.argv[1:]
    problems = []
    text = open(example, encoding="utf-8").read()
    keys = re.findall(r"^;?([a-z][a-z0-9-]*) = ", text, re.M)
    as_it_is = config(trireme, "--config", example)
    if as_it_is.returncode != 0:
        problems.append(as_it_is.stderr)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write(re.sub(r"^;([a-z][a-z0-9-]*) = ", r"\1 = ", text, flags=re.M))
        f.flush()
        switched_on = config(trireme, "--config", f.name)
        if switched_on.returncode != 0:
            problems.append(switched_on.stderr)
        elif switched_on.stdout.count(f"; {f.name}:") != len(keys):
            problems.append(f"{len(keys)} keys, of which {switched_on.stdout.count(f.name + ':')} have an effect")
    # What `trireme config` prints is a configuration file itself, with nothing but defaults in it.
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write(config(trireme, "--config", "/dev/null").stdout)
        f.flush()
        again = config(trireme, "--config", f.name)
        if again.returncode != 0 or not re.findall(r"^\[\w+\]", again.stdout, re.M):
            problems.append(f"the output of `trireme config` is no configuration file: {again.stderr}")
    print("\n".join(problems) or f"{len(keys)} keys are options")
    sys.exit(1 if problems or not keys else 0)


if __name__ == "__main__":
    main()
