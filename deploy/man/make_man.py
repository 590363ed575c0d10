#!/usr/bin/env python3
"""Writes the manual page: the frame trireme.1.in, with the commands as the program's own --help describes them.

    make_man.py TRIREME trireme.1.in OUT
"""
import re
import subprocess
import sys


def help_of(*command):
    return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=60,
                          env={"PATH": "/usr/bin:/bin", "ARGP_HELP_FMT": "rmargin=100,dup-args-note=0"}).stdout


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def commands_of(trireme):
    block = re.search(r"Commands:\n(.*?)\n\n", help_of(trireme), re.S)
    return re.findall(r"^  (\S+)\s+(.*)", block.group(1), re.M)


def section(trireme, name, summary):
    """The command's --help as it stands, without its first line of usage, which becomes the synopsis."""
    lines = help_of(trireme, name).rstrip("\n").split("\n")
    usage = re.sub(r"^Usage: (\S*/)?trireme ", "trireme ", lines[0])
    body = "\n".join(line for line in lines[1:] if not line.startswith("Mandatory or optional arguments") and not line.startswith("for any corresponding"))
    return f".SS trireme {name}\n{roff(summary[:1].upper() + summary[1:])}.\n.PP\n.nf\n.B {roff(usage)}\n{roff(body)}\n.fi\n"


def main():
    trireme, frame, out = sys.argv[1:]
    version = subprocess.run([trireme, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    text = open(frame, encoding="utf-8").read()
    commands = "".join(section(trireme, *c) for c in commands_of(trireme))
    with open(out, "w", encoding="utf-8") as f:
        f.write(text.replace("@VERSION@", version).replace("@COMMANDS@\n", commands))


if __name__ == "__main__":
    main()
