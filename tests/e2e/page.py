#!/usr/bin/env python3
"""The page at / in a real browser (headless Chromium through playwright).

    page.py --trireme TRIREME --model CHECKPOINT

First against a stand-in for the service, which can be hostile, slow and wrong; then the page that `trireme plan --html` writes; then against a service of the checkpoint on two ranks.

Skipped, with the reason, where the browser or playwright is not installed.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import page_stand_in
import run
from up_service import Service, until

SECONDS = 30


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def browser_of(playwright):
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        skip("no chromium (Debian's package chromium)")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


class Page:
    """A fresh page, and what went wrong on it."""

    def __init__(self, browser, url, **options):
        self.context = browser.new_context(**options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(SECONDS * 1000)
        self.errors, self.outside = [], []
        self.tab.on("pageerror", lambda e: self.errors.append(str(e)))
        self.tab.on("console", lambda m: self.errors.append(m.text) if m.type == "error" and "401" not in m.text and "400" not in m.text else None)
        self.tab.on("request", lambda r: self.outside.append(r.url) if not r.url.startswith((url.split("#")[0], "data:")) else None)
        self.tab.goto(url)

    def ask(self, text):
        self.tab.fill("#input", text)
        self.tab.press("#input", "Enter")

    def answers(self):
        return self.tab.locator(".message.assistant")

    def close(self):
        self.context.close()


def check_stand_in(report, browser):
    url, service = page_stand_in.start()
    # Without the key the page says so; with it, it works, and only this tab remembers.
    p = Page(browser, url)
    until(lambda: "API key is needed" in p.tab.inner_text("#status"), "the page asks for a key")
    report.check(p.tab.is_visible("#key"), "the settings open where the key is missing")
    p.tab.fill("#key", page_stand_in.KEY)
    p.tab.press("#key", "Tab")
    until(lambda: p.tab.input_value("#model") == "stand-in", "the model is listed")
    report.check(p.tab.evaluate("localStorage.length") == 0, "nothing is stored beyond the tab")
    p.close()

    # A link brings the key, which leaves the address at once.
    p = Page(browser, f"{url}#key={page_stand_in.KEY}")
    until(lambda: p.tab.input_value("#model") == "stand-in", "the model is listed")
    report.check("key" not in p.tab.url, "the key is gone from the address")

    # Hostile output stays text.
    p.tab.click("summary")
    p.tab.fill("#system", "Be brief.")
    p.tab.fill("#temperature", "0.5")
    p.tab.fill("#max-tokens", "77")
    p.ask("hostile")
    until(lambda: p.tab.is_visible("#send") and p.answers().count() == 1, "the answer ends")
    until(lambda: "6 tokens" in p.answers().inner_text(), "figures are shown")
    text = p.answers().inner_text()
    report.check(p.tab.title() == "Trireme" and p.tab.locator("#log img, #log script, #log b").count() == 0, "markup from the checkpoint is not run")
    report.check("<img src=x" in text and "\U0001f6a3 end" in text, "it is shown as it was written")
    report.check(p.answers().locator("strong").inner_text() == "bold" and p.answers().locator("p code").inner_text() == "co<b>de", "bold and code")
    report.check(p.answers().locator("pre code").inner_text().strip() == "<script>document.title='owned'</script>", "fenced code")
    report.check(p.answers().locator("li").count() == 2, "lists")
    body = service.seen[-1]
    report.check(body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hostile"}], "the system prompt leads")
    report.check((body["temperature"], body["max_tokens"], body["stream"], body["model"]) == (0.5, 77, True, "stand-in"), "the settings are sent")

    # Text comes while the answer is under way; stop ends it at the service too; the conversation goes on.
    p.ask("for ever")
    until(lambda: "word3" in p.answers().last.inner_text(), "text streams")
    report.check(p.tab.is_visible("#stop") and not p.tab.is_visible("#send"), "stop is offered while an answer comes")
    p.tab.click("#stop")
    until(lambda: service.disconnects == 1, "the service sees that the client left")
    until(lambda: "stopped" in p.answers().last.inner_text(), "the page says that it stopped")
    p.ask("refuse")
    until(lambda: p.tab.locator(".message.error").count() == 1, "an error is shown")
    report.check(p.tab.inner_text(".message.error") == "the prompt is <i>too long</i>", "in the service's words")
    roles = [m["role"] for m in service.seen[-1]["messages"]]
    report.check(roles == ["system", "user", "assistant", "user", "assistant", "user"], f"the conversation so far is sent: {roles}")
    p.tab.click("#clear")
    report.check(p.answers().count() == 0, "a new conversation is empty")

    # The live view.
    row = p.tab.locator(".replica")
    until(lambda: row.count() == 1 and "ready" in row.inner_text(), "the replica is shown")
    until(lambda: "10.0 ms" in row.inner_text(), "a rank's time of a step")
    report.check("40 of 100 blocks in use, 10 can be found again" in row.inner_text() and row.locator("tbody tr").count() == 2, "KV use and ranks")
    report.check(row.get_attribute("data-replica") == "<b>one</b>" and row.locator("b").count() == 0, "names are text too")
    report.check(not p.errors and not p.outside, f"no errors, nothing from outside: {p.errors} {p.outside}")
    p.close()
    check_looks(report, browser, url)


def check_looks(report, browser, url):
    """A phone, and a dark one: nothing wider than the screen, readable contrast, everything has a name."""
    for scheme in ("light", "dark"):
        p = Page(browser, f"{url}#key={page_stand_in.KEY}", viewport={"width": 360, "height": 640}, color_scheme=scheme, has_touch=True)
        until(lambda: p.tab.input_value("#model") == "stand-in", "the model is listed")
        p.ask("hostile")
        until(lambda: "6 tokens" in p.answers().inner_text(), "the answer ends")
        report.check(p.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{scheme}: fits a phone's width")
        report.check(p.tab.locator("#send").bounding_box()["y"] < 640, f"{scheme}: the button is on the screen")
        p.tab.click("#show-cluster")
        until(lambda: p.tab.is_visible(".replica") and not p.tab.is_visible("#input"), "the views take turns")
        report.check(p.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{scheme}: the cluster fits too")
        ratio = p.tab.evaluate("""() => {
            const lum = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(Number).map((x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                                 return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
            const ground = lum(getComputedStyle(document.body).backgroundColor);
            return Math.min(...[...document.querySelectorAll("body, #status, .state, dt, th, .note, h3")].map((e) => {
                const l = lum(getComputedStyle(e).color); return (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05); }));
        }""")
        report.check(ratio >= 4.5, f"{scheme}: contrast {ratio:.1f} is at least 4.5")
        unnamed = p.tab.evaluate("""[...document.querySelectorAll("button, input, select, textarea")].filter((e) => !(e.textContent.trim() && e.tagName === "BUTTON")
            && !(e.labels && e.labels.length)).map((e) => e.id)""")
        report.check(unnamed == [], f"{scheme}: every control has a name: {unnamed}")
        if os.environ.get("PAGE_SHOTS"):
            p.tab.screenshot(path=f"{os.environ['PAGE_SHOTS']}/cluster-{scheme}.png")
            p.tab.click("#show-chat")
            p.tab.screenshot(path=f"{os.environ['PAGE_SHOTS']}/chat-{scheme}.png")
            p.tab.set_viewport_size({"width": 1280, "height": 800})
            p.tab.screenshot(path=f"{os.environ['PAGE_SHOTS']}/wide-{scheme}.png")
        p.close()


def check_service(report, browser, trireme, model):
    """The real thing: the page that the gateway serves, a question, a stop, the ranks."""
    with Service(trireme, ["-m", model, "--tp", 2, "--port", 0]) as s:
        p = Page(browser, f"{s.url}/#key={s.key}")
        until(lambda: p.tab.input_value("#model") == s.model, "the model is listed")
        # A slow connection, so that an answer of a checkpoint that takes milliseconds can be watched.
        p.context.new_cdp_session(p.tab).send("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": 8000, "uploadThroughput": -1})
        p.tab.click("summary")
        p.tab.fill("#temperature", "0")
        p.tab.fill("#max-tokens", "64")
        p.ask("Hello")
        lengths = set()
        until(lambda: lengths.add(len(p.answers().inner_text())) or p.tab.is_visible("#send"), "the answer ends", 60)
        report.check(len(lengths) > 2 and "first token" in p.answers().inner_text(), f"text streams: lengths seen {sorted(lengths)}")
        asked = json.loads(s.ask("/v1/chat/completions", {"model": s.model, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 64})[1])
        said = "".join(asked["choices"][0]["message"]["content"].split())
        shown = "".join(p.answers().inner_text().split())
        report.check(said and shown.startswith(said[:20]), f"the page shows what the API says: {shown[:60]!r}, {said[:60]!r}")
        p.tab.fill("#max-tokens", "200")
        p.ask("Hello again")
        until(lambda: p.answers().count() == 2 and p.answers().last.inner_text().strip(), "an answer begins")
        p.tab.click("#stop")
        until(lambda: "stopped" in p.answers().last.inner_text(), "it stops")
        until(lambda: json.loads(s.ask("/state")[1])["requests"]["running"] == 0, "at the service too")
        row = p.tab.locator(".replica")
        until(lambda: " 0 of " in row.inner_text() and ", 0 can be found" not in row.inner_text(), "its blocks are free, and those of the prompts kept for another time")
        until(lambda: row.count() == 1 and row.locator(".state.ready").count() == 1, "the live view shows the replica")
        report.check(row.locator("tbody tr").count() == 2 and "MiB" in row.inner_text() and "tp 2 x pp 1" in row.inner_text(), f"and its ranks: {row.inner_text()}")
        report.check(not p.errors and not p.outside, f"no errors, nothing from outside: {p.errors} {p.outside}")
        p.close()
        report.check(s.stop() == 0, "the service ends")


def check_plan(report, browser, trireme):
    """The page that `trireme plan --html` writes: whole by itself, readable in both schemes, no wider than a phone."""
    config = pathlib.Path(__file__).resolve().parent.parent / "coordinator/configs/deepseek-v3.json"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "front.html"
        subprocess.run([trireme, "plan", config, "--machine", "h100", "--devices", "256", "--tpot", "50ms", "--html", file], check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
        for scheme in ("light", "dark"):
            p = Page(browser, file.as_uri(), viewport={"width": 360, "height": 640}, color_scheme=scheme)
            report.check(p.tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{scheme}: the front fits a phone's width")
            report.check(p.tab.locator("circle.on").count() > 5 and p.tab.locator("circle.best").count() == 1, f"{scheme}: the front and the best are drawn")
            report.check(p.tab.locator("tbody tr").count() >= p.tab.locator("circle.on").count(), f"{scheme}: and listed")
            ground, text = (p.tab.evaluate(f"getComputedStyle(document.body).{key}") for key in ("backgroundColor", "color"))
            report.check((ground == "rgb(255, 255, 255)") == (scheme == "light") and ground != text, f"{scheme}: in its colours: {text} on {ground}")
            report.check(not p.errors and not p.outside, f"{scheme}: no errors, nothing from outside: {p.errors} {p.outside}")
            if os.environ.get("PAGE_SHOTS"):
                p.tab.set_viewport_size({"width": 1280, "height": 900})
                p.tab.screenshot(path=f"{os.environ['PAGE_SHOTS']}/plan-{scheme}.png")
            p.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip("no playwright (PyPI)")
    report = run.Report()
    with sync_playwright() as playwright:
        browser = browser_of(playwright)
        try:
            check_stand_in(report, browser)
            check_plan(report, browser, args.trireme)
            check_service(report, browser, args.trireme, args.model)
        except run.Failed as e:
            report.check(False, str(e))
        finally:
            browser.close()
    sys.exit(report.end())


if __name__ == "__main__":
    main()
