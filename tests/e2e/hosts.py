"""Hosts on one machine: network namespaces with addresses and host names of their own on one switch; what only root may make.

Open MPI and Trireme tell hosts apart by their names, so a process on a host gets a UTS namespace of its own too, and /etc/hosts that knows them all.

    hosts.py HOSTS RANKS PROGRAM [ARGUMENT]...    runs an MPI program on so many hosts
"""
import contextlib
import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import run

NETWORK = "10.77.0"  # of the switch; a namespace hides it from everything else

ENTER = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'

# What mpirun starts its daemons with (plm_rsh_agent): like ssh HOST COMMAND.  A host that is listed in ABSENT is as one that is switched off: no answer.
AGENT = """#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
h=$1
shift
if grep -qx "$h" {absent}; then sleep 600; exit 255; fi
exec nsenter --net=/var/run/netns/"$h" unshare --uts --mount bash -c '{enter}' "$h" {names} bash -c "$*"
"""


def why_not():
    """Why there can be no hosts here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


def pids_in(namespace):
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(p) for p in done.stdout.split()]


def kill_in(namespace, spare=()):
    for pid in pids_in(namespace):
        with contextlib.suppress(OSError):
            if pid not in spare:
                os.kill(pid, signal.SIGKILL)


def clear_left():
    """What a test left that was killed itself."""
    for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines():
        name = line.split()[0]
        made = re.fullmatch(r"tri(\d+)(h\d+|sw)", name)
        if made and not pathlib.Path(f"/proc/{made[1]}").exists():
            kill_in(name)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*args):
    done = subprocess.run(["ip", *args], capture_output=True, text=True)
    if done.returncode != 0:
        raise run.Failed(f"ip {' '.join(args)}: {done.stderr.strip()}")


@contextlib.contextmanager
def network(name):
    """This thread's sockets are opened in that namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as back, open(f"/var/run/netns/{name}") as there:
        if libc.setns(there.fileno(), 0) != 0:
            raise run.Failed(f"setns {name}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            libc.setns(back.fileno(), 0)


class Hosts:
    def __init__(self, n):
        tag = f"tri{os.getpid()}"
        self.folder = tempfile.TemporaryDirectory(prefix="trireme-hosts-")
        self.path = pathlib.Path(self.folder.name)
        self.switch = f"{tag}sw"
        self.names = [f"{tag}h{i + 1}" for i in range(n)]
        self.made = []
        try:
            self.make()
        except BaseException:
            self.close()
            raise

    def make(self):
        clear_left()
        self.namespace(self.switch)
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")
        for i, name in enumerate(self.names):
            self.namespace(name)
            ip("link", "add", f"port{i}", "netns", self.switch, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", self.switch, "link", "set", f"port{i}", "master", "br0", "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{i + 1}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
        self.absent = self.path / "absent"
        self.absent.write_text("")
        self.known = self.path / "hosts"
        self.known.write_text("127.0.0.1 localhost\n" + "".join(f"{self.address(i)} {name}\n" for i, name in enumerate(self.names)))
        self.agent = self.path / "agent"
        self.agent.write_text(AGENT.format(absent=self.absent, enter=ENTER, names=self.known))
        self.agent.chmod(0o755)

    def namespace(self, name):
        ip("netns", "add", name)
        self.made.append(name)

    @staticmethod
    def address(i):
        return f"{NETWORK}.{i + 1}"

    def on(self, i, argv):
        """The argv that runs argv on host i.  (`ip netns exec` would hide /sys/fs/cgroup.)"""
        name = self.names[i]
        return ["nsenter", f"--net=/var/run/netns/{name}", "unshare", "--uts", "--mount", "bash", "-c", ENTER, name, str(self.known), *map(str, argv)]

    def mpirun(self, argv, ranks, interface="eth0", agent=None):
        """The argv of mpirun on host 0, a rank to each host in turn; their messages go by that interface."""
        file = self.path / "hostfile"
        file.write_text("".join(f"{name} slots=64\n" for name in self.names))
        return self.on(0, ["mpirun", "--oversubscribe", "--hostfile", file, "--map-by", "node", "--bind-to", "none", "--mca", "plm_rsh_agent", agent or self.agent,
                           "--mca", "oob_tcp_if_include", "eth0", "--mca", "btl", "self,vader,tcp", "--mca", "btl_tcp_if_include", interface, "-n", ranks, *argv])

    def second_network(self, interface, unplugged):
        """Another interface for each host, on another switch, to which one of them is not connected."""
        ip("-n", self.switch, "link", "add", "br1", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br1", "up")
        for i, name in enumerate(self.names):
            ip("link", "add", f"second{i}", "netns", self.switch, "type", "veth", "peer", "name", interface, "netns", name)
            ip("-n", self.switch, "link", "set", f"second{i}", *(["master", "br1"] if i != unplugged else []), "up")
            ip("-n", name, "addr", "add", f"10.79.0.{i + 1}/24", "dev", interface)
            ip("-n", name, "link", "set", interface, "up")

    def run(self, argv, timeout, env=None, stdin=""):
        """(exit code, stdout, stderr, seconds); at its end nothing is left on any host.  Past the timeout the exit code is None."""
        begin = time.monotonic()
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # what is left of a job would keep a pipe open
            given.write(stdin)
            given.seek(0)
            p = subprocess.Popen(list(map(str, argv)), stdin=given, stdout=out, stderr=err, env={**os.environ, **run.ENV, **(env or {})}, start_new_session=True)
            try:
                code = p.wait(timeout)
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(p.pid, signal.SIGKILL)
                p.wait()
            took = time.monotonic() - begin
            for name in self.names:
                kill_in(name)
            out.seek(0)
            err.seek(0)
            return code, out.read(), err.read(), took

    def close(self):
        for name in self.names:
            if name in self.made:
                kill_in(name)
        for name in self.made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def main():
    why = why_not()
    if why:
        print(f"skipped: {why}")
        sys.exit(77)
    n_hosts, n_ranks, *argv = sys.argv[1:]
    with Hosts(int(n_hosts)) as machines:
        code, out, err, _ = machines.run(machines.mpirun(argv, n_ranks), 100)
    print(out + err)
    sys.exit(1 if code is None else code)


if __name__ == "__main__":
    main()
