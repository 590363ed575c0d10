#!/usr/bin/env python3
"""Installs into a folder of its own, runs what was installed, and removes it: nothing may be left.

    install.py CMAKE BUILD_DIR CHECKPOINT
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile


WANTED = ("trireme", "LICENSE", "CHANGELOG.md", "trireme.conf.example", "gateway.sbatch", "replica.sbatch", "mpirun-ssh", "trireme-gateway.service", "trireme-replica@.service")


def check_ranks(program, checkpoint):
    """What was installed finds its plugin: two ranks over MPI."""
    if shutil.which("mpirun") is None:
        print("mpirun is not installed: one rank only")
        return
    env = {k: v for k, v in os.environ.items() if k != "TRIREME_PLUGIN_DIR"}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    done = subprocess.run(["mpirun", "--oversubscribe", "-n", "2", program, "generate", "-m", checkpoint, "-p", "x", "--max-tokens", "2", "--tp", "2", "--threads", "1"],
                          env=env, capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        sys.exit(f"the installed program does not run over MPI: exit code {done.returncode}\n{done.stderr[-2000:]}")


def main():
    cmake, build, checkpoint = sys.argv[1:]
    with tempfile.TemporaryDirectory() as stage:
        env = {**os.environ, "DESTDIR": stage}
        subprocess.run([cmake, "--install", build], check=True, env=env, stdout=subprocess.DEVNULL)
        files = [p for p in pathlib.Path(stage).rglob("*") if p.is_file()]
        names = {p.name for p in files}
        plugins = {p.name for p in pathlib.Path(build).glob("comm_mpi.so")}
        for wanted in (*WANTED, *plugins):
            if wanted not in names:
                sys.exit(f"{wanted} is not installed; there are {sorted(names)}")
        (program,) = [p for p in files if p.name == "trireme" and p.parent.name == "bin"]
        print(subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip())
        if plugins:
            check_ranks(program, checkpoint)
        subprocess.run([cmake, "--build", build, "--target", "uninstall"], check=True, env=env, stdout=subprocess.DEVNULL)
        left = [str(p) for p in pathlib.Path(stage).rglob("*") if p.is_file()]
        if left:
            sys.exit(f"left behind: {left}")
        print(f"{len(files)} files installed and removed")


if __name__ == "__main__":
    main()
