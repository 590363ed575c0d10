"""deploy/slurm's own scripts in a real Slurm of three nodes (slurm_cluster.py): a replica of tp 2 x pp 2 over two nodes answers through the gateway; a node
that dies costs no request; an array; the gateway inside the replica's job; scancel and the time limit drain.

    slurm.py --trireme TRIREME --model CHECKPOINT --scripts deploy/slurm
"""
import argparse
import json
import os
import pathlib
import signal
import sys
import threading
import time
import urllib.request

import hosts
import run
import slurm_cluster
from multihost import told_within
from up_service import until

STREAMS, TOKENS = 6, 100
SMALL = ["--threads", 1, "--ctx", 1024, "--max-seqs", 8]  # four ranks on whatever this machine has


class Stream(threading.Thread):
    """A greedy completion, read as it comes."""

    def __init__(self, service, prompt, tokens):
        super().__init__(daemon=True)
        self.service, self.prompt, self.tokens = service, prompt, tokens
        self.text, self.n, self.finish, self.error = "", 0, None, None
        self.start()

    def run(self):
        body = {"model": self.service.model, "prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        try:
            with hosts.network(self.service.host), self.service.open("/v1/completions", body, 600) as answer:
                for line in answer:
                    if line.startswith(b"data: {"):
                        self.take(json.loads(line[6:]))
        except (OSError, ValueError, KeyError, run.Failed) as e:
            self.error = f"{type(e).__name__}: {e}"

    def take(self, event):
        choice = event["choices"][0]
        self.text += choice["text"]
        self.n += 1
        self.finish = choice["finish_reason"] or self.finish


class Service:
    """What deploy/slurm's scripts have written about a service, and requests to it from the first node."""

    def __init__(self, cluster, folder, trireme):
        self.cluster, self.folder, self.host, self.model = cluster, folder, cluster.names[0], None
        self.env = {"TRIREME": str(trireme), "TRIREME_SERVICE_DIR": str(folder)}

    def open(self, path, body=None, timeout=30):
        headers = {"Authorization": "Bearer " + (self.folder / "api-key").read_text().strip(), "Content-Type": "application/json"}
        url = (self.folder / "url").read_text().strip()
        for i, name in enumerate(self.cluster.names):  # which only the nodes know
            url = url.replace(name, self.cluster.address(i))
        request = urllib.request.Request(url + path, headers=headers, data=None if body is None else json.dumps(body).encode())
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout)

    def replicas(self):
        """Those that serve; none while the gateway is not there."""
        try:
            with hosts.network(self.host), self.open("/state") as answer:
                return [r for r in json.load(answer)["replicas"] if r["state"] == "ready"]
        except (OSError, ValueError):
            return []

    def wait_replicas(self, n, seconds=120):
        until(lambda: len(self.replicas()) == n, f"{n} replicas serve", seconds)
        with hosts.network(self.host), self.open("/v1/models") as answer:
            self.model = json.load(answer)["data"][0]["id"]

    def said(self):
        return "\n".join(p.read_text(errors="replace")[-2000:] for p in sorted(self.cluster.slurm.glob("trireme-*.log")))

    def streams(self, prompts, tokens):
        return [Stream(self, p, tokens) for p in prompts]


def prompts(n):
    return [f"Here is a story about a ship with {i + 2} decks. " for i in range(n)]


def wanted_texts(trireme, model, n, tokens):
    """Without a cluster: equal bit for bit where layers are split over equally many ranks."""
    requests = [{"id": i, "prompt": p, "max_tokens": tokens, "temperature": 0, "ignore_eos": True} for i, p in enumerate(prompts(n))]
    return [a["text"] for a in run.generate(trireme, model, requests, 2, 2, SMALL)]


def check_streams(report, what, streams, wanted, seconds=300):
    end = time.monotonic() + seconds
    for i, (s, text) in enumerate(zip(streams, wanted)):
        s.join(max(0.1, end - time.monotonic()))
        report.check(not s.is_alive() and s.error is None and s.finish == "length", f"{what}: request {i} is answered to its end: {s.n} pieces, {s.finish}, {s.error}")
        report.check(s.text == text, f"{what}: request {i}: {s.text!r}, not {text!r}")


def check_two_nodes(report, cluster, service, args, wanted):
    gateway = cluster.submit(args.scripts / "gateway.sbatch", env=service.env)
    replica = cluster.submit("--nodes=2", "--ntasks-per-node=2", args.scripts / "replica.sbatch", "-m", args.model, "--tp", 2, "--pp", 2, *SMALL, env=service.env)
    begin = time.monotonic()
    service.wait_replicas(1)
    print(f"two nodes serve {time.monotonic() - begin:.1f} s after sbatch", flush=True)
    (r,) = service.replicas()
    report.check(len({rank["host"] for rank in r["ranks"]}) == 2, f"ranks on two nodes: {r['ranks']}")
    check_streams(report, "two nodes", service.streams(prompts(STREAMS), TOKENS), wanted)
    check_killed_rank(report, cluster, service, replica, wanted)
    check_lost_node(report, cluster, service, replica, wanted)
    gateway = check_moved_gateway(report, cluster, service, args, gateway, replica)
    check_scancel(report, cluster, service, replica, wanted)
    cluster.ask("scancel", gateway)
    until(lambda: cluster.job(gateway)["JobState"] == "CANCELLED", "the gateway's job has ended", 60)


def streams_under_way(report, service, what, n=STREAMS):
    streams = service.streams(prompts(n), TOKENS)
    until(lambda: all(s.n >= 5 for s in streams), f"all requests stream: {[s.error for s in streams]}", 60)
    report.check(all(s.is_alive() for s in streams), f"{what}: all are under way when it comes")
    return streams


def check_killed_rank(report, cluster, service, job, wanted):
    """A rank that dies: the replica starts again on its nodes."""
    last = cluster.ask("scontrol", "show", "hostnames", cluster.job(job)["NodeList"]).split()[-1]
    ranks = [pid for pid in hosts.pids_in(last) if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().startswith(os.fsencode(service.env["TRIREME"]) + b"\0replica\0")]
    streams = streams_under_way(report, service, "a killed rank")
    begin = time.monotonic()
    os.kill(ranks[0], signal.SIGKILL)
    check_streams(report, "a killed rank", streams, wanted)
    print(f"requests went on and ended {time.monotonic() - begin:.1f} s after a rank was killed", flush=True)
    report.check(cluster.job(job)["Restarts"] == "0" and "it starts again in" in cluster.said(job), f"the replica started again in its job: {cluster.said(job)[-1500:]}")


def check_lost_node(report, cluster, service, job, wanted):
    streams = streams_under_way(report, service, "a lost node")
    before = cluster.job(job)["NodeList"]
    nodes = cluster.ask("scontrol", "show", "hostnames", before).split()
    victim = next(i for i, name in enumerate(cluster.names) if name in nodes and i > 0)
    begin = time.monotonic()
    cluster.lose_node(victim)
    check_streams(report, "a lost node", streams, wanted)
    j = cluster.job(job)
    print(f"requests went on and ended {time.monotonic() - begin:.1f} s after a node was lost: {before}, then {j['NodeList']}; queued again {j['Restarts']} times", flush=True)
    report.check(j["JobState"] == "RUNNING" and int(j["Restarts"]) == 1 and cluster.names[victim] not in cluster.ask("scontrol", "show", "hostnames", j["NodeList"]).split(),
                 f"the job was queued again and runs on nodes that live: {j['JobState']} {j['Restarts']} {j['NodeList']}")
    cluster.start_node(victim)


def check_moved_gateway(report, cluster, service, args, gateway, replica):
    """A gateway that comes back on another node is found by the replicas that run.  Returns its job."""
    was, before = (service.folder / "url").read_text(), cluster.job(replica)
    elsewhere = next(name for name in cluster.names if f"//{name}:" not in was)
    cluster.ask("scancel", gateway)
    moved = cluster.submit(f"--nodelist={elsewhere}", args.scripts / "gateway.sbatch", env=service.env)
    until(lambda: elsewhere in (service.folder / "url").read_text(), "the gateway is on another node", 60)
    service.wait_replicas(1)
    after = cluster.job(replica)
    report.check([after[k] for k in ("JobState", "Restarts", "NodeList")] == ["RUNNING", before["Restarts"], before["NodeList"]], f"the replica's job runs on: {after}")
    return moved


def check_scancel(report, cluster, service, job, wanted):
    streams = streams_under_way(report, service, "scancel", 2)
    cluster.ask("scancel", job)
    check_streams(report, "scancel", streams, wanted)
    until(lambda: cluster.job(job)["JobState"] == "CANCELLED", "the job has ended", 60)
    report.check("run to their end" in cluster.said(job), f"the replica says that it drains: {cluster.said(job)[-1500:]}")


def check_array(report, cluster, service, args, wanted):
    """Two replicas of one rank as an array; the gateway on the first node of another job.  The time limit drains."""
    one = ["-m", args.model, *SMALL]
    first = cluster.submit("--ntasks=1", "--time=3", args.scripts / "replica.sbatch", *one, env={**service.env, "TRIREME_WITH_GATEWAY": "1"})
    begin = time.monotonic()
    array = cluster.submit("--ntasks=1", "--array=0-1", args.scripts / "replica.sbatch", *one, env=service.env)
    service.wait_replicas(3)
    streams = service.streams(prompts(2 * STREAMS), 20)
    for s in streams:
        s.join(120)
    report.check(all(s.finish == "length" for s in streams), f"three replicas answer: {[(s.finish, s.error) for s in streams]}")
    cluster.ask("scancel", "--batch", "--signal=USR1", array)
    until(lambda: len(service.replicas()) == 1, "SIGUSR1 to the jobs of the array drains their replicas", 60)
    until(lambda: cluster.job(first)["JobState"] == "COMPLETED", "the job drained before its time limit", 240)
    ran = time.monotonic() - begin
    report.check(ran < 170 and "told to end" in cluster.said(first), f"drained after {ran:.0f} s of 180: {cluster.said(first)[-1500:]}")
    print(f"a job with a limit of 180 s had drained after {ran:.0f} s", flush=True)
    cluster.ask("scancel", array)


def check_absent(report, cluster, service, args, wanted):
    """Under srun too a rank that does not come is named, with its node."""
    late = cluster.path / "late"
    late.write_text('#!/bin/bash\n[ "$SLURM_PROCID" != 2 ] || exec sleep 600\nexec "$@"\n')
    late.chmod(0o755)
    job = ["srun", "-N3", "-n3", "--mpi=pmix", late, args.trireme, "generate", "-m", args.model, "-p", "x", "--max-tokens", 4, "--tp", 3, *SMALL]
    took = told_within(cluster, cluster.on(0, job), ["did not come", f"rank 2 ({cluster.names[2]})"], cluster.env, kill=False)
    report.check(took is not None, f"the absent rank is named: {(cluster.path / 'said').read_text()[-1500:]}")
    cluster.ask("scancel", "--state=RUNNING", "--user=root")
    until(lambda: cluster.states() == ["idle"] * len(cluster.names), "the job is gone", 60)
    if took is not None:
        print(f"under srun an absent rank is named after {took:.1f} s", flush=True)


CHECKS = {"absent": check_absent, "two_nodes": check_two_nodes, "array": check_array}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trireme", required=True, type=pathlib.Path)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--scripts", required=True, type=pathlib.Path)
    parser.add_argument("--only", default=",".join(CHECKS))
    args = parser.parse_args()
    args.trireme, args.model, args.scripts = (p.resolve() for p in (args.trireme, args.model, args.scripts))
    why = hosts.why_not() or slurm_cluster.why_not() or (None if args.model.exists() else f"no {args.model}: deploy/check fetches it")
    if why:
        print(f"skipped: {why}")
        sys.exit(77)
    report = run.Report()
    wanted = wanted_texts(args.trireme, args.model, STREAMS, TOKENS)
    with slurm_cluster.Cluster(3) as cluster:
        for name in args.only.split(","):
            service = Service(cluster, cluster.path / f"service-{name}", args.trireme)
            try:
                CHECKS[name](report, cluster, service, args, wanted)
            except run.Failed as e:
                report.check(False, f"{name}: {e}\n{service.said()}")
    sys.exit(report.end())


if __name__ == "__main__":
    main()
