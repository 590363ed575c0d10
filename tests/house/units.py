#!/usr/bin/env python3
"""The systemd units: systemd finds no fault with them, what they start exists, and little is open to them.

    units.py TRIREME UNIT_FOLDER
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

MOST_EXPOSED = 30  # of 100, as systemd-analyze counts


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.returncode, (done.stdout + done.stderr).strip()


def main():
    trireme, folder = (pathlib.Path(a).resolve() for a in sys.argv[1:])
    if shutil.which("systemd-analyze") is None:
        print("skipped: systemd-analyze is not installed")
        sys.exit(77)
    units, faults = sorted(folder.glob("*.service")), []
    if len(units) != 2:
        sys.exit(f"two units are in {folder}: {units}")
    with tempfile.TemporaryDirectory() as work:
        for unit in units:
            # An instance of a template; the program as it was built, since nothing is installed.
            copy = pathlib.Path(work) / unit.name.replace("@.", "@example.")
            text = unit.read_text()
            copy.write_text(re.sub(r"^(ExecStart=)trireme ", rf"\1{trireme} ", text, flags=re.M))
            for argv in (("systemd-analyze", "verify", "--man=no", copy), ("systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}", copy)):
                code, said = run(*argv)
                if code != 0 or (argv[1] == "verify" and unit.name.split(".")[0].rstrip("@") in said):
                    faults.append(f"{' '.join(map(str, argv[:2]))} {unit.name}: exit code {code}\n{said[-1500:]}")
            for command in re.findall(r"\btrireme (gateway|replica) ([^'\n]*)", text):
                code, told = run(trireme, command[0], "--help")
                faults += [f"{unit.name}: trireme {command[0]} has no {option}" for option in re.findall(r"--[a-z-]+", command[1]) if code != 0 or option not in told]
    print("\n".join(faults) or f"{len(units)} units")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
