#!/usr/bin/env python3
"""Keeps manual page and completion true: every command and option that --help shows is in them, and nothing else.

    docs.py TRIREME MANUAL_PAGE COMPLETION
"""
import re
import subprocess
import sys


def text_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def commands_of(trireme):
    block = re.search(r"Commands:\n(.*?)\n\n", text_of(trireme, "--help"), re.S)
    return re.findall(r"^  (\S+)", block.group(1), re.M)


def options_of(help_text):
    return set(re.findall(r"^\s{2,8}(?:-\S(?: \S+)?, )?(--[a-z][a-z0-9-]+)", help_text, re.M))


def complete(completion, *words):
    script = f'source "{completion}"; COMP_WORDS=({" ".join(words)} ""); COMP_CWORD={len(words)}; _trireme; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return set(text_of("bash", "-c", script).split())


def main():
    trireme, manual, completion = sys.argv[1:]
    page = open(manual, encoding="utf-8").read().replace("\\-", "-")
    problems = []
    commands = commands_of(trireme)
    if not commands:
        problems.append("`trireme --help` lists no commands")
    offered = complete(completion, trireme)
    for c in commands:
        options = options_of(text_of(trireme, c, "--help"))
        section = re.search(rf"^\.SS trireme {c}\n(.*?)(?=^\.S[SH] )", page, re.S | re.M)
        if section is None:
            problems.append(f"the manual page lacks the command {c}")
            continue
        written = set(re.findall(r"(?<!\S)(--[a-z][a-z0-9-]+)", section.group(1)))
        for o in sorted(options - written):
            problems.append(f"the manual page lacks {c} {o}")
        missing = options - complete(completion, trireme, c, "--")
        if missing:
            problems.append(f"completion of {c} lacks {' '.join(sorted(missing))}")
        if c not in offered:
            problems.append(f"completion lacks the command {c}")
    for c in re.findall(r"^\.SS trireme (\S+)", page, re.M):
        if c not in commands:
            problems.append(f"the manual page has a command {c} that is not there")
    print("\n".join(problems) or f"{len(commands)} commands documented")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
