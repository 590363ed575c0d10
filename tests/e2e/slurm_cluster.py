"""A real Slurm of a few nodes on this machine: munged, slurmctld and a slurmd on each of some hosts (hosts.py), in a folder of its own."""
import os
import shutil
import signal
import subprocess
import time

import run
from hosts import Hosts, kill_in
from up_service import until

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "squeue", "sinfo", "scontrol")

# Timeouts are short, so that a test sees what takes minutes elsewhere: a silent node is down after 10 s, a job that is queued again may start after 15 s.
CONF = """
ClusterName=trireme
SlurmctldHost={control}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={path}/munge.socket,cred_expire=15
CredType=cred/munge
SlurmctldPort=6817
SlurmdPort=6818
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool/%n
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/slurmd.%n.pid
SlurmctldLogFile={path}/slurmctld.log
SlurmdLogFile={path}/slurmd.%n.log
TmpFS={path}/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdTimeout=10
KillWait=30
ReturnToService=2
SchedulerParameters=sched_min_interval=100000,bf_interval=1
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not():
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"Slurm is not installed: there is no {program} (deploy/check --full installs it)"
    return None


class Cluster(Hosts):
    def __init__(self, n):
        self.daemons = {}
        super().__init__(n)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        self.slurm = self.path / "slurm"
        for name in self.names:
            (self.slurm / "spool" / name).mkdir(parents=True)
            (self.slurm / "tmp" / name).mkdir(parents=True)
        (self.slurm / "state").mkdir()
        nodes = "".join(f"NodeName={name} NodeAddr={self.address(i)} CPUs=4 State=UNKNOWN\n" for i, name in enumerate(self.names))
        (self.slurm / "slurm.conf").write_text(CONF.format(control=self.names[0], address=self.address(0), path=self.slurm) + nodes)
        (self.slurm / "cgroup.conf").write_text("CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n")
        key = self.slurm / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.env = {**os.environ, "SLURM_CONF": str(self.slurm / "slurm.conf")}
        m = self.slurm
        self.daemon("munged", ["munged", "--foreground", "--force", f"--socket={m}/munge.socket", f"--key-file={key}", f"--pid-file={m}/munged.pid", f"--log-file={m}/munged.log",
                               f"--seed-file={m}/munged.seed"])
        until(lambda: (m / "munge.socket").exists(), "munged serves")
        self.daemon("slurmctld", self.on(0, ["slurmctld", "-D", "-c"]))
        for i in range(len(self.names)):
            self.start_node(i)
        until(lambda: self.states() == ["idle"] * len(self.names), "all nodes are idle", 60)

    def daemon(self, name, argv):
        with open(self.slurm / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

    def start_node(self, i):
        self.daemon(self.names[i], self.on(i, ["slurmd", "-D"]))

    def lose_node(self, i):
        """Its slurmd dies, and all that its jobs run there."""
        kill_in(self.names[i])

    def ask(self, *argv, cwd=None):
        done = subprocess.run(self.on(0, argv), env=self.env, capture_output=True, text=True, cwd=cwd, timeout=60)
        if done.returncode != 0:
            raise run.Failed(f"{' '.join(map(str, argv))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def states(self):
        return self.ask("sinfo", "-h", "-N", "-o", "%T").split()

    def submit(self, *argv, env=None):
        exports = ",".join(["ALL", *(f"{k}={v}" for k, v in (env or {}).items())])
        return self.ask("sbatch", "--parsable", f"--export={exports}", *argv, cwd=self.slurm)

    def job(self, job):
        """What scontrol shows of a job."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job).splitlines()[0]
        return dict(f.split("=", 1) for f in text.split() if "=" in f)

    def said(self, job):
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.slurm.glob(f"*-{job}.log")))

    def close(self):
        for d in self.daemons.values():
            if d.poll() is None:
                d.terminate()
        end = time.monotonic() + 10
        for d in self.daemons.values():
            try:
                d.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(d.pid, signal.SIGKILL)
                d.wait()
        super().close()
