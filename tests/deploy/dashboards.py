#!/usr/bin/env python3
"""deploy/prometheus and deploy/grafana hold: the rules pass promtool's checks and their own tests, a real Prometheus scrapes a real gateway, and the dashboard's queries
and the rules' expressions find what they name there.

    dashboards.py --trireme BIN --fake BIN --checkpoint DIR --deploy DIR --exposition BIN

Exit code 77 where Debian's package prometheus is not installed (the dashboard's structure and its metrics' names are checked all the same).
"""
import argparse
import asyncio
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "gateway"))
import serving  # noqa: E402
from serving import Failed, Report, Serving, get, post  # noqa: E402


def queries_of(dashboard):
    """(panel, expression) of all panels, with Grafana's variables filled in."""
    for p in dashboard["panels"]:
        for t in p.get("targets", []):
            yield p["title"], t["expr"].replace("$__rate_interval", "1m").replace("$model", ".*")


def expressions_of(rules):
    """(name, expression) of each rule: in these files an expression is the rest of its line, or the indented lines after it."""
    for name, expr in re.findall(r"- (?:alert|record): (\S+)\n\s+expr: (.*(?:\n {10,}.*)*)", rules):
        yield name, " ".join(line.strip() for line in expr.removeprefix(">-").splitlines()).strip()


def metrics_in(expr):
    return set(re.findall(r"(?:trireme:|http_|process_)[a-z0-9_:]+", re.sub(r'"[^"]*"', "", expr)))


def check_structure(report, dashboard):
    panels = dashboard["panels"]
    report.check(dashboard["uid"] == "trireme" and dashboard["schemaVersion"] >= 36 and dashboard["title"], "the dashboard has no uid, title or version")
    report.check(len({p["id"] for p in panels}) == len(panels), "two panels have one id")
    for i, p in enumerate(panels):
        g = p["gridPos"]
        report.check(g["x"] >= 0 and g["x"] + g["w"] <= 24 and g["w"] > 0 and g["h"] > 0, f"{p['title']}: lies outside the grid: {g}")
        for q in panels[:i]:
            o = q["gridPos"]
            report.check(g["x"] >= o["x"] + o["w"] or o["x"] >= g["x"] + g["w"] or g["y"] >= o["y"] + o["h"] or o["y"] >= g["y"] + g["h"], f"{p['title']} covers {q['title']}")
        if p["type"] != "row":
            report.check(p["targets"] and all(t["expr"] and t["refId"] for t in p["targets"]), f"{p['title']}: no query")
            report.check(p["datasource"] == {"type": "prometheus", "uid": "${datasource}"} and all(t["datasource"] == p["datasource"] for t in p["targets"]),
                         f"{p['title']}: its source is not the one that is chosen")
            report.check(len({t["refId"] for t in p["targets"]}) == len(p["targets"]), f"{p['title']}: two queries have one letter")
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(panels))) - {"__rate_interval"}
    report.check(used <= variables, f"variables that are not there: {used - variables}")


def check_rules(report, folder):
    for argv in (["promtool", "check", "config", "prometheus.yml"], ["promtool", "check", "rules", "--lint-fatal", "trireme.rules.yml"], ["promtool", "test", "rules", "trireme.rules.test.yml"]):
        p = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60)
        report.check(p.returncode == 0, f"{' '.join(argv)}: {p.stdout}{p.stderr}")
    rules, tests = (folder / "trireme.rules.yml").read_text(), (folder / "trireme.rules.test.yml").read_text()
    for name in re.findall(r"- alert: (\S+)", rules):
        times = len(re.findall(rf"alertname: {name}\b", tests))
        report.check(times >= 2, f"{name} is tested {times} times: it should fire once, and once not")


class Prometheus:
    """Debian's, with the configuration of deploy/ but for the gateway's address and the interval."""

    def __init__(self, folder, target):
        self.dir = tempfile.mkdtemp(prefix="trireme-prometheus-")
        shutil.copy(folder / "trireme.rules.yml", self.dir)
        config, n = re.subn(r'targets: \["127.0.0.1:8000"\]', f'targets: ["{target}"]', (folder / "prometheus.yml").read_text())
        config, m = re.subn(r"(scrape_interval|evaluation_interval): 15s", r"\1: 1s", config)
        if n != 1 or m != 2:
            raise Failed("prometheus.yml has no target or interval to replace")
        pathlib.Path(self.dir, "prometheus.yml").write_text(config)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{s.getsockname()[1]}"
        self.process = serving.Process(["prometheus", f"--config.file={self.dir}/prometheus.yml", f"--storage.tsdb.path={self.dir}/data",
                                        f"--web.listen-address={self.url[7:]}", "--log.level=warn"], f"{self.dir}/log")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def ask(self, path, **params):
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(params)}", timeout=10) as answer:
            return json.load(answer)

    def query(self, expr):
        """What it finds, or the error."""
        try:
            return self.ask("query", query=expr)["data"]["result"], None
        except urllib.error.HTTPError as e:
            said = e.read().decode()
            return [], json.loads(said).get("error", said) if said.startswith("{") else f"{e}: {said}"  # text: it is not ready yet

    def wait(self, expr, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if self.query(expr)[0]:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise Failed(f"Prometheus finds nothing for {expr}\n{self.process.said()[-2000:]}")


def check_live(report, a, dashboard, rules):
    deploy = pathlib.Path(a.deploy)
    with Serving(a.trireme, fake=a.fake) as s:
        s.start_fake("a", a.checkpoint)
        s.wait_ready()
        for i in range(4):
            asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 5}))
        text = asyncio.run(get(s.port, "/metrics"))[2]
        # Families show themselves with their first series: what has not happened here is in the full exposition.
        text += subprocess.run([a.exposition, "--text", "text/plain"], capture_output=True, text=True, check=True, timeout=60).stdout
        names = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
        names |= {n + suffix for n in names for suffix in ("_bucket", "_sum", "_count")}
        recorded = {name for name, _ in expressions_of(rules) if ":" in name}
        for what, expr in [*queries_of(dashboard), *expressions_of(rules)]:
            lacking = metrics_in(expr) - names - recorded
            report.check(not lacking, f"{what}: the gateway has no {sorted(lacking)}")
        report.check(re.search(r"^process_resident_memory_bytes [1-9]", text, re.M), "the gateway's own memory is not told")
        if not shutil.which("prometheus"):
            return False
        with Prometheus(deploy / "prometheus", f"127.0.0.1:{s.port}") as p:
            p.wait('up{job="trireme"} == 1')
            asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 5}))
            p.wait("sum(rate(trireme:generation_tokens_total[1m])) > 0")
            found = 0
            for what, expr in [*queries_of(dashboard), *expressions_of(rules)]:
                result, error = p.query(expr)
                report.check(error is None, f"{what}: {expr}: {error}")
                found += bool(result)
            report.check(found > 20, f"only {found} queries find anything")
            active = p.ask("alerts")["data"]["alerts"]
            report.check(not [x for x in active if x["state"] == "firing"], f"alerts fire at a service that is well: {active}")
            loaded = [r["name"] for g in p.ask("rules")["data"]["groups"] for r in g["rules"]]
            report.check(len(loaded) == len(list(expressions_of(rules))), f"rules loaded: {loaded}")
    return True


def main():
    parser = argparse.ArgumentParser()
    for name in ("--trireme", "--fake", "--checkpoint", "--deploy", "--exposition"):
        parser.add_argument(name, required=True)
    a = parser.parse_args()
    deploy, report = pathlib.Path(a.deploy), Report()
    dashboard, rules = json.loads((deploy / "grafana/trireme.json").read_text()), (deploy / "prometheus/trireme.rules.yml").read_text()
    check_structure(report, dashboard)
    if shutil.which("promtool"):
        check_rules(report, deploy / "prometheus")
    live = check_live(report, a, dashboard, rules)
    if not live and report.failed == 0:
        print("skipped: no Prometheus to load the rules and answer the dashboard (apt-get install prometheus)")
        sys.exit(77)
    report.end()


if __name__ == "__main__":
    main()
