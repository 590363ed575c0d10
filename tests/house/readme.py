#!/usr/bin/env python3
"""Keeps the README true: its table of families is what the program prints, and the files it names exist.

    readme.py README.md FAMILIES [--write]
"""
import pathlib
import re
import subprocess
import sys

BEGIN, END = r"<!-- families: [^\n]* -->\n", r"<!-- end of families -->"


def main():
    readme, families = pathlib.Path(sys.argv[1]), sys.argv[2]
    text = readme.read_text(encoding="utf-8")
    table = subprocess.run([families], capture_output=True, text=True, check=True).stdout
    current = re.sub(f"({BEGIN}).*?({END})", lambda m: m.group(1) + table + m.group(2), text, count=1, flags=re.S)
    if "--write" in sys.argv:
        readme.write_text(current, encoding="utf-8")
        return
    problems = []
    if not re.search(f"{BEGIN}.*?{END}", text, re.S):
        problems.append("the marks around the table of families are gone")
    elif current != text:
        problems.append(f"the table of families is not current: tests/house/readme.py README.md {families} --write")
    root = readme.parent
    tour = text.split("## The files in reading order", 1)[-1].split("\n## ", 1)[0]
    for name in re.findall(r"`([\w./]+\.(?:c|h|py))`", tour) + re.findall(r"\]\(([\w./-]+)\)", text):
        if not (root / name).exists():
            problems.append(f"{name} does not exist")
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    problems += [f"no heading for #{a}" for a in re.findall(r"\]\(#([\w-]+)\)", text) if a not in anchors]
    print("\n".join(problems) or "the README's table, links and tour hold")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
