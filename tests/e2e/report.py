#!/usr/bin/env python3
"""`trireme report`: its page in a real browser (headless Chromium through playwright), of made-up, hostile and real results.

    report.py --trireme TRIREME --model CHECKPOINT

PAGE_SHOTS=FOLDER keeps screenshots.  Without a browser the page is read as text only, and the reason is said.
"""
import argparse
import html.parser
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import run

OWNED = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&"
ENVIRONMENT = {"time": "2026-01-02T03:04:05Z", "version": "0", "commit": "abc", "host": "h", "cpu": "a processor", "command": ["trireme bench serve", "--label", OWNED], "load": 0.5,
               "replica": {"tp": 2, "ranks": [{"host": "h"}]}}


def serve_rows(label, speed):
    """A sweep: throughput saturates, latency grows."""
    for n in (1, 2, 4, 8, 16, 32):
        rate = speed * n / (1 + n / 8)
        yield {"test": "serve", "label": label, "model": "m", "endpoint": "/v1/completions", "prompts": "ids", "data": {"name": "random"}, "max_concurrency": n, "request_rate": "inf",
               "num_prompts": 10 * n, "completed": 10 * n, "failed": 1 if n == 32 else 0, "request_throughput": rate / 50, "output_throughput": rate, "median_ttft_ms": 20.5 + n ** 1.5,
               "p99_ttft_ms": 40.5 + 2 * n ** 1.5, "median_tpot_ms": 1000 * n / rate, "p99_tpot_ms": 1500 * n / rate, "p99_itl_ms": 9.5, "median_e2el_ms": 50000 * n / rate,
               "p99_e2el_ms": 60000 * n / rate, "max_concurrent_requests": n, "client_cpu": 0.011, "environment": ENVIRONMENT}


def scaling_rows():
    for tp, pp in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2)):
        for test, base in (("prefill", 1000.0), ("decode", 100.0)):
            yield {"test": test, "tokens": 64, "batch": 1, "depth": 0, "seconds": [0.5, 0.6, 0.4], "tokens_per_second": base * tp ** 0.9 * pp ** 0.8, "model": "m", "tp": tp, "pp": pp,
                   "threads": 1, "environment": ENVIRONMENT}


def comm_rows():
    for what, ns in (("sum", 2000), ("message", 900)):
        for size in (1 << k for k in range(10, 25, 2)):
            yield {"test": what, "path": "host", "bytes": size, "seconds": ns * 1e-9 + size / 8e9, "ranks": 2, "backend": "cpu", "environment": ENVIRONMENT}


def hostile_rows():
    yield {"test": OWNED, OWNED: OWNED, "x": 1.5, "list": [1, 2], "object": {OWNED: 1}, "environment": {OWNED: OWNED, "command": [OWNED, 5, None]}}
    yield {"test": "serve", "label": OWNED, "completed": 1, "output_throughput": 1e308, "median_ttft_ms": -1e308, "median_tpot_ms": 0.0, "request_throughput": "x", "failed": "y"}
    yield {"test": "prefill", "tp": 10 ** 18, "pp": 1, "tokens_per_second": 1e-300}
    yield {"test": "sum", "bytes": 1, "ranks": 2, "seconds": 1e-300, "environment": 5}
    yield {"test": "empty"}
    yield {"test": OWNED, "phase": OWNED, "tokens": OWNED, "scaling": OWNED, "breakdown": [{"rank": 1e308, "stage": OWNED, "compute": 1e308, "collective": -5, "skew": "x"}, 5, None, {"compute": 0.5, "bubble": 0.9}]}
    yield {"test": "decode", "breakdown": {"rank": 0}}


def trace(path):
    """A trace of steps with events that are none."""
    bars = [{"ph": "X", "pid": r, "tid": 0, "cat": "compute", "name": n, "ts": 10.5 * i, "dur": 9.5, "args": {"step": 1, "layer": i}} for r in range(2) for i, n in enumerate(["attention", "mlp", "exchange"])]
    wrong = [{"ph": "X", "name": "attention", "pid": p, "ts": t, "dur": d} for p, t, d in ((-1, 0, 1), (1e9, 0, 1), (0, "x", 1), (0, 1e308, 1e308), (0, 5, -1), (OWNED, 0, 1))]
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": [*bars, *wrong, 5, None, {"ph": "X", "name": OWNED, "pid": 0, "ts": 0, "dur": 1}]}))
    return path


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def report_of(trireme, out, *files, code=0):
    p = subprocess.run([trireme, "report", *map(str, files), "-o", str(out), "--title", OWNED], capture_output=True, text=True, timeout=60)
    if p.returncode != code:
        raise run.Failed(f"report: exit code {p.returncode}\n{p.stderr[-1500:]}")
    return p


class Tags(html.parser.HTMLParser):
    """Counts elements; every one must be closed, in order."""
    EMPTY = {"meta", "link", "br", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.wrong = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def check_text(report, path, figures):
    text = path.read_text(encoding="utf-8")
    tags = Tags(text)
    report.check(not tags.wrong and not tags.open, f"{path.name}: elements out of order: {tags.wrong} {tags.open}")
    report.check(tags.counts.get("figure", 0) == figures, f"{path.name}: {tags.counts.get('figure', 0)} figures, not {figures}")
    report.check("script" not in tags.counts and "img" not in tags.counts and "b" not in tags.counts, f"{path.name}: markup from results: {tags.counts}")
    report.check("http:" not in text and "https:" not in text and "nan" not in text.split("</style>")[1].lower().replace("finance", ""), f"{path.name}: addresses, or numbers that are none")


def check_browser(report, browser, path, points):
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 360)):
        page = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
        wrong, outside = [], []
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("request", lambda r: outside.append(r.url) if not r.url.startswith("file://") else None)
        page.goto(path.as_uri())
        what = f"{path.name}, {scheme}, {width}"
        report.check(not wrong and not outside, f"{what}: {wrong} {outside}")
        report.check(page.title() == OWNED and page.inner_text("h1") == OWNED, f"{what}: text stays text: {page.title()}")
        report.check(page.locator("figure circle").count() >= points, f"{what}: {page.locator('figure circle').count()} points")
        report.check(page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{what}: not wider than the screen")
        inside = page.evaluate("""[...document.querySelectorAll("figure > svg")].every((s) => { const v = s.viewBox.baseVal;
            return [...s.querySelectorAll("circle")].every((c) => c.cx.baseVal.value >= 0 && c.cx.baseVal.value <= v.width && c.cy.baseVal.value >= 0 && c.cy.baseVal.value <= v.height); })""")
        report.check(inside, f"{what}: points lie in their plots")
        ratio = page.evaluate("""() => {
            const lum = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(Number).map((x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                                 return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
            const ground = lum(getComputedStyle(document.body).backgroundColor), ratio = (l) => (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05);
            return Math.min(...[...document.querySelectorAll("h1, h2, p, td, th, li, figcaption")].map((e) => ratio(lum(getComputedStyle(e).color))),
                            ...[...document.querySelectorAll("svg text, circle")].map((e) => ratio(lum(getComputedStyle(e).fill)))); }""")
        report.check(ratio >= 4.5, f"{what}: contrast {ratio:.1f} is at least 4.5")
        if os.environ.get("PAGE_SHOTS"):
            page.screenshot(path=f"{os.environ['PAGE_SHOTS']}/{path.stem}-{scheme}-{width}.png", full_page=True)
        page.context.close()


def check_real(report, trireme, model, work):
    """What the program's own benchmarks print is what it reads."""
    path = work / "real.jsonl"
    with open(path, "w", encoding="utf-8") as f:
        for ranks in (1, 2):
            code, out, err = run.run(trireme, ["bench", "-m", model, "--tp", ranks, "--threads", 1, "-p", 16, "-n", 8, "-r", 2, "--json"], ranks)
            report.check(code == 0, f"bench on {ranks} ranks: {err[-500:]}")
            f.write(out)
        code, out, err = run.run(trireme, ["bench", "comm", "--sizes", "16K,64K", "--repeat", 3, "--json"], 2)
        report.check(code == 0, f"bench comm: {err[-500:]}")
        f.write(out)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    report.check(all({"time", "version", "commit", "build", "host", "cpu", "isa", "cores", "command"} <= r["environment"].keys() for r in rows), "every row says where it was measured")
    replica = rows[-6]["environment"]["replica"]
    report.check(replica["digest"].startswith("sha256:") and replica["tp"] == 2 and len(replica["ranks"]) == 2, f"and with what: {replica}")
    p = subprocess.run([trireme, "bench", "compare", path, path], capture_output=True, text=True, timeout=60)
    report.check(p.returncode == 0 and "no difference shown" in p.stdout, f"results against themselves: {p.returncode} {p.stdout}{p.stderr}")
    return path


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--trireme", required=True)
    p.add_argument("--model", required=True)
    a = p.parse_args()
    report = run.Report()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        made = write(work / "made.jsonl", [*serve_rows("first", 90), *serve_rows("second", 60), *scaling_rows(), *comm_rows()])
        hostile = write(work / "hostile.jsonl", hostile_rows())
        real = check_real(report, a.trireme, a.model, work)
        report_of(a.trireme, work / "made.html", made)
        report_of(a.trireme, work / "all.html", made, hostile, real, trace(work / "steps.json"))
        check_text(report, work / "made.html", 4 + 4 + 2)
        check_text(report, work / "all.html", 4 + 4 + 2 + 1 + 1)
        report.check((work / "all.html").read_text().split("Step by step")[1].split("</svg>")[0].count("<rect") == 6, "a trace's events, and nothing that is none")
        text = report_of(a.trireme, "-", made).stdout
        report.check(text == (work / "made.html").read_text(), "the same on standard output")
        for bad in (work / "nowhere", write(work / "none", []), write(work / "bad", [{"x": 1}]), write(work / "bad-trace", [{"traceEvents": 5}])):
            said = report_of(a.trireme, work / "none.html", bad, code=2).stderr
            report.check(bad.name in said and not (work / "none.html").exists(), f"{bad.name}: {said}")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            chromium = None
        if chromium is None:
            report.skip("the pages in a browser", "no chromium (Debian's package chromium), or no playwright (PyPI)")
            report.end()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            check_browser(report, browser, work / "made.html", 4 * 12 + 2 * 10 + 2 * 16)
            check_browser(report, browser, work / "all.html", 4 * 12 + 2 * 10 + 2 * 16)
            browser.close()
    report.end()


if __name__ == "__main__":
    main()
