"""A service started by `trireme up`, for tests: its address, requests to it, its processes."""
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid

import run

READY_SECONDS = 90


def until(condition, what, seconds=30):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise run.Failed(f"not within {seconds} s: {what}")
        time.sleep(0.05)


class Service:
    """`trireme up ARGS --json`; every process under it is known by a mark in its environment."""

    def __init__(self, trireme, args, env=None, wait=True):
        self.mark = f"TRIREME_TEST_MARK={uuid.uuid4().hex}"
        self.home = tempfile.TemporaryDirectory(prefix="trireme-test-")
        # A configuration of the machine must not reach the test, nor its folders be mistaken for somebody else's.
        mine = {"XDG_CONFIG_HOME": self.home.name, "XDG_RUNTIME_DIR": self.home.name, **(env or {})}
        self.argv = [trireme, "up", *[str(a) for a in args], "--json"]
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                                        env={**os.environ, **run.ENV, **mine, "TRIREME_TEST_MARK": self.mark.split("=")[1]})
        self.lines, self.out = [], []
        self.threads = [threading.Thread(target=self.listen, args=(self.process.stderr, self.lines), daemon=True),
                        threading.Thread(target=self.listen, args=(self.process.stdout, self.out), daemon=True)]
        for t in self.threads:
            t.start()
        if wait:
            self.wait_ready()

    @staticmethod
    def listen(stream, lines):
        for line in stream:
            lines.append(line.rstrip("\n"))

    def wait_ready(self):
        until(lambda: self.out or self.process.poll() is not None, f"{' '.join(self.argv)} is ready", READY_SECONDS)
        if not self.out:
            raise run.Failed(f"{' '.join(self.argv)} ended with {self.process.poll()}\n" + "\n".join(self.lines[-20:]))
        ready = json.loads(self.out[0])
        self.url, self.key, self.model = ready["url"], ready["api_key"], ready["model"]

    def ask(self, path, body=None, key=None, timeout=30):
        """(status, body as text)"""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, headers=headers, data=None if body is None else json.dumps(body).encode())
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def complete(self, prompt, **more):
        """A greedy completion: (text or None, status)."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": 8, "temperature": 0, **more}
        try:
            status, text = self.ask("/v1/completions", body)
        except OSError as e:
            return None, str(e)
        return (json.loads(text)["choices"][0]["text"] if status == 200 else None), status

    def processes(self, *words):
        """{pid: command line} of all processes under it whose command line has these words."""
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if all(w in line for w in words):
                        found[int(entry.name)] = line
            except OSError:
                continue
        return found

    def ranks(self):
        return [pid for pid, line in self.processes(" replica ").items() if "mpirun" not in line.split(" ")[0]]

    def stop(self, how=signal.SIGTERM, seconds=30):
        """The exit code; whatever is left after the deadline is killed, and that is a failure."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        end = time.monotonic() + 10
        while self.processes() and time.monotonic() < end:
            time.sleep(0.05)
        left = self.processes()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self.process.wait()
        for t in self.threads:
            t.join(10)
        self.left_files = sorted(p.name for p in pathlib.Path(self.home.name).glob("trireme-up.*"))
        self.home.cleanup()
        if code is None or left:
            raise run.Failed(f"{' '.join(self.argv)}: after signal {how} exit code {code}, left: {left}\n" + "\n".join(self.lines[-20:]))
        return code

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.returncode is None:
            try:
                self.stop(signal.SIGKILL)
            except run.Failed:
                if exception[0] is None:
                    raise
