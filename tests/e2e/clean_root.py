"""From nothing: deploy/quickstart, the Debian package, and what the container recipes say, each in a fresh Debian 12 (debootstrap) under chroot.

    clean_root.py --trireme TRIREME --source REPOSITORY --work FOLDER [--only quickstart,docker,apptainer]

There is no Docker or Apptainer here: their recipes' own lines are read and done in order, on the same Debian.  What a registry's image has besides, and what
those programs do themselves (layers, mounts, users' namespaces), is not tried.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

import run

# In namespaces that end with it: nothing mounted or started is left.  Where this machine trusts authorities of its own, since it reaches others by a proxy, so does the
# root, once it has ca-certificates.
ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/merged"
mount -t proc proc "$2/merged/proc"
mount --bind /sys "$2/merged/sys"
mount --rbind /dev "$2/merged/dev"
mount -t tmpfs -o size=1g tmpfs "$2/merged/dev/shm"
mkdir -p "$2/merged/mnt/checkpoint" && mount --bind "$3" "$2/merged/mnt/checkpoint"
cp -L /etc/resolv.conf "$2/merged/etc/resolv.conf"
[ ! -d /usr/local/share/ca-certificates ] || cp -RL /usr/local/share/ca-certificates "$2/merged/usr/local/share/"
root=$2/merged
shift 3
exec chroot "$root" "$@"
"""
STEP_SECONDS = 1800
NEEDED_BYTES = 5 << 30  # packages to build with, and a build of everything


class Layer:
    """A file system over others, as an image's layer is."""

    def __init__(self, below, folder, checkpoint):
        self.below, self.folder, self.checkpoint = below, folder, checkpoint
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("upper", "work", "merged"):
            (folder / name).mkdir(parents=True)

    def run(self, command, user="root", cwd="/", timeout=STEP_SECONDS, check=True):
        """(exit code, output) of a shell command inside."""
        inside = ["bash", "-c", f"cd {shlex.quote(cwd)} || exit 1\n{command}"]
        if user != "root":
            inside = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env", *inside]
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER, "enter", str(self.below), str(self.folder), str(self.checkpoint), *inside]
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        env |= {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy") or k in ("PIP_INDEX_URL", "PIP_CERT")}
        try:
            done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout)
        except subprocess.TimeoutExpired as e:
            raise run.Failed(f"{command}: not over after {timeout} s\n{(e.stdout or b'')[-2000:]}") from None
        if check and done.returncode != 0:
            raise run.Failed(f"{command}: exit code {done.returncode}\n{done.stdout[-3000:]}")
        return done.returncode, done.stdout

    def copy(self, source, target):
        """A folder's contents to a path inside."""
        for parent in reversed(pathlib.PurePath(target.lstrip("/")).parents):  # as they are below: /tmp may be written by all
            if (self.below / parent).is_dir() and not (self.folder / "upper" / parent).exists():
                (self.folder / "upper" / parent).mkdir()
                shutil.copystat(self.below / parent, self.folder / "upper" / parent)
        shutil.copytree(source, self.folder / "upper" / target.lstrip("/"), symlinks=True, dirs_exist_ok=True)


class Recipes:
    def __init__(self, args):
        self.work, self.source, self.checkpoint = args.work, args.source, args.source / "tests/golden/llama-9h3kv-llama3rope"
        self.base = self.work / "debian12"
        self.context = self.work / "context"

    def prepare(self):
        """The clean Debian, kept from one run to the next, and the files of the project."""
        self.work.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.work).free
        if free < NEEDED_BYTES:
            return f"{free >> 30} GiB of disk are free, {NEEDED_BYTES >> 30} are needed for a while"
        if not (self.base / ".whole").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            done = subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(self.base)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=STEP_SECONDS)
            if done.returncode != 0:
                return f"debootstrap: {done.stdout[-500:]}"
            (self.base / ".whole").touch()
        shutil.rmtree(self.context, ignore_errors=True)
        listed = subprocess.run(["git", "-C", str(self.source), "ls-files", "-z"], capture_output=True, text=True)
        if listed.returncode != 0:
            return "not a git checkout, so there is no list of the project's files"
        for name in filter(None, listed.stdout.split("\0")):
            if (self.source / name).is_file():
                (self.context / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.source / name, self.context / name)
        return None

    def layer(self, name):
        return Layer(self.base, self.work / name, self.checkpoint)


# ---- recipes ----

def docker_build(recipes, file):
    """(the last stage's layer, its settings)"""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", file.read_text(), flags=re.M)).splitlines()
    stages, layer, settings = {}, None, {}
    for word, rest in (line.split(None, 1) for line in lines if line.strip()):
        begin = time.monotonic()
        if word == "FROM":
            image, *name = re.split(r"\s+AS\s+", rest)
            if not image.startswith("debian:12"):
                raise run.Failed(f"{file.name}: FROM {image} is not Debian 12")
            layer, settings = recipes.layer("docker-" + (name[0] if name else "last")), {"USER": "root", "WORKDIR": "/"}
            stages[name[0] if name else "last"] = layer
        elif word == "COPY" and rest.startswith("--from="):
            stage, source, target = re.fullmatch(r"--from=(\S+) (\S+) (\S+)", rest).groups()
            layer.copy(stages[stage].folder / "upper" / source.lstrip("/"), target)
        elif word == "COPY":
            source, target = rest.split()
            layer.copy(recipes.context / source, target)
        elif word == "RUN":
            layer.run(rest, settings["USER"], settings["WORKDIR"])
        elif word in ("ENTRYPOINT", "CMD"):
            settings[word] = json.loads(rest)
        elif word in ("USER", "WORKDIR", "VOLUME", "EXPOSE"):
            settings[word] = rest
        else:
            raise run.Failed(f"{file.name}: {word} is not known here")
        print(f"   {word} {rest[:100]}: {time.monotonic() - begin:.0f} s", flush=True)
    return layer, settings


def apptainer_sections(file):
    parts = re.split(r"^%(\w+)\n", re.sub(r"^#.*\n", "", file.read_text(), flags=re.M), flags=re.M)
    return parts[0], dict(zip(parts[1::2], parts[2::2]))


SERVES = """trireme up -m /mnt/checkpoint --tp 2 --threads 1 --port 0 --json > up.json 2> up.log & p=$!
for i in $(seq 600); do [ -s up.json ] || ! kill -0 $p 2>/dev/null || { sleep 0.1; continue; }; break; done
cat up.json up.log; kill -INT $p; wait $p"""


def check_program(report, what, layer, user, folder):
    """It runs, finds its plugin, computes on two ranks, and serves."""
    environment = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; " if user == "root" else ""
    _, said = layer.run("trireme --version", user, folder)
    report.check("trireme 0." in said, f"{what}: {said}")
    ranks = "mpirun --oversubscribe -n 2 trireme generate -m /mnt/checkpoint -p x --max-tokens 4 --tp 2 --threads 1"
    code, said = layer.run(environment + ranks, user, folder, 120, check=False)
    report.check(code == 0, f"{what}: two ranks: exit code {code}\n{said[-1500:]}")
    code, said = layer.run(environment + SERVES, user, folder, 120, check=False)
    report.check(code == 0 and '"api_key"' in said, f"{what}: trireme up: exit code {code}\n{said[-1500:]}")


def check_docker(report, recipes):
    layer, settings = docker_build(recipes, recipes.source / "deploy/container/Dockerfile")
    _, said = layer.run(shlex.join(settings["ENTRYPOINT"] + settings["CMD"]), settings["USER"], settings["WORKDIR"])
    report.check("Usage" in said or "usage" in said, f"docker: what it runs by itself: {said[:300]}")
    check_program(report, "docker", layer, settings["USER"], settings["WORKDIR"])
    check_package(report, layer)


def check_package(report, layer):
    """The Debian package inside: its dependencies, its files as they were packed, and nothing left when it goes."""
    _, depends = layer.run("dpkg-query -W -f '${Depends}' trireme")
    report.check(all(p in depends for p in ("libopenmpi3", "libzmq5", "libmicrohttpd12", "libpcre2-8-0", "libc6")), f"package: it depends on {depends}")
    _, said = layer.run("dpkg --verify trireme")
    report.check(said == "", f"package: files differ: {said}")
    _, files = layer.run("dpkg -L trireme")
    for name in ("bin/trireme", "lib/trireme/comm_mpi.so", "lib/systemd/system/trireme-gateway.service", "share/trireme/slurm/replica.sbatch", "share/man/man1/trireme.1"):
        report.check(f"/usr/{name}" in files, f"package: {name} is in it: {files}")
    layer.run("apt-get purge -y trireme")
    _, left = layer.run(f"for f in {' '.join(f for f in files.split() if 'trireme' in f)}; do [ ! -e $f ] || echo $f; done; true")
    report.check(left == "", f"package: left behind: {left}")


def check_apptainer(report, recipes):
    header, section = apptainer_sections(recipes.source / "deploy/container/trireme.def")
    report.check(re.search(r"^Bootstrap: docker\nFrom: debian:12", header, re.M) is not None, f"apptainer: from Debian 12: {header}")
    layer = recipes.layer("apptainer")
    for line in section["files"].strip().splitlines():
        source, target = line.split()
        layer.copy(recipes.context / source, target)
    script = "set -e\n" + section["post"]
    layer.run(f"sh -c {shlex.quote(script)}")
    layer.run(f"sh -c {shlex.quote('set -e' + chr(10) + section['test'])}")
    _, said = layer.run(f"sh -c {shlex.quote(section['runscript'])} trireme --version")
    report.check("trireme 0." in said, f"apptainer: its runscript: {said[:300]}")
    check_program(report, "apptainer", layer, "root", "/root")


def check_quickstart(report, recipes):
    layer = recipes.layer("quickstart")
    layer.copy(recipes.context, "/src")
    begin = time.monotonic()
    _, said = layer.run("deploy/quickstart --once", cwd="/src")
    print(f"   deploy/quickstart --once: {time.monotonic() - begin:.0f} s", flush=True)
    report.check("tokens/s" in said, f"quickstart: {said[-1500:]}")
    layer.run("deploy/quickstart --remove", cwd="/src")
    _, left = layer.run("ls /src/build 2>/dev/null; true")
    report.check(left == "", f"quickstart --remove: left behind: {left}")


CHECKS = {"quickstart": check_quickstart, "docker": check_docker, "apptainer": check_apptainer}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trireme", help="of the build under test; not used, since everything is built anew")
    parser.add_argument("--source", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--only", default=",".join(CHECKS))
    args = parser.parse_args()
    args.source, args.work = args.source.resolve(), args.work.resolve()
    for program in ("debootstrap", "unshare", "git"):
        if shutil.which(program) is None:
            print(f"skipped: {program} is not installed")
            sys.exit(77)
    recipes = Recipes(args)
    why = "a clean root needs root" if os.geteuid() != 0 else recipes.prepare()
    if why:
        print(f"skipped: {why}")
        sys.exit(77)
    report = run.Report()
    for name in args.only.split(","):
        try:
            CHECKS[name](report, recipes)
        except run.Failed as e:
            report.check(False, f"{name}: {e}")
        finally:
            for layer in args.work.glob(f"{name}*"):
                shutil.rmtree(layer, ignore_errors=True)
    sys.exit(report.end())


if __name__ == "__main__":
    main()
