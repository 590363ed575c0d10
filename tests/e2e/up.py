#!/usr/bin/env python3
"""`trireme up`: ready, asked, broken and mended, ended; what it says when it cannot start.

    up.py --trireme TRIREME --model CHECKPOINT
"""
import argparse
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import run
from up_service import Service, until


def check_life(report, trireme, model):
    """Two ranks: answers; mends a killed rank, a killed mpirun, a killed gateway; drains; leaves nothing."""
    bin_first = {"PATH": "/bin:" + os.environ["PATH"]}  # as a service's may be: mpirun must not take its own path for /bin/mpirun
    with Service(trireme, ["-m", model, "--tp", 2, "--port", 0], env=bin_first) as s:
        report.check(len(s.out) == 1 and set(json.loads(s.out[0])) == {"url", "api_key", "model"}, f"one line of JSON: {s.out}")
        report.check(s.ask("/v1/models", key="wrong")[0] == 401, "a wrong key is refused")
        wanted, status = s.complete("Rowing is")
        report.check(wanted is not None, f"a completion, not {status}")
        report.check(len(s.ranks()) == 2 and len(s.processes(" gateway ")) == 1, f"two ranks and a gateway: {s.processes()}")
        report.check(not any(s.key in line for line in s.processes().values()), "the key is on no command line")
        for what, victim in (("a rank", lambda: s.ranks()[1]), ("mpirun", lambda: list(s.processes("mpirun "))[0]), ("the gateway", lambda: list(s.processes(" gateway "))[0])):
            pid = victim()
            os.kill(pid, signal.SIGKILL)
            until(lambda: pid not in s.processes() and any("started again" in line for line in s.lines), f"{what} is missed")
            text = until(lambda: s.complete("Rowing is")[0], f"it serves again after {what} was killed", 60)
            report.check(text == wanted, f"the same answer after {what} was killed: {text!r}, not {wanted!r}")
            report.check(len(s.ranks()) == 2, f"no rank is left over after {what} was killed")
            s.lines.clear()
        report.check(s.stop() == 0, "SIGTERM drains, exit code 0")
        report.check(s.left_files == [], f"no file is left: {s.left_files}")


def check_drain(report, trireme, model):
    """An answer that is under way when SIGTERM comes is finished; what comes after it is refused; a second signal ends at once."""
    with Service(trireme, ["-m", model, "--port", 0, "--replicas", 2]) as s:
        state = json.loads(s.ask("/state")[1])
        report.check(len(state["replicas"]) == 2, "two replicas")
        answers = []
        t = threading.Thread(target=lambda: answers.append(s.complete("Rowing is", max_tokens=400, ignore_eos=True)))
        t.start()
        until(lambda: json.loads(s.ask("/state")[1])["requests"]["running"] > 0 or answers, "the request runs")
        code = s.stop()
        t.join(30)
        report.check(code == 0 and answers and answers[0][0], f"the answer under way is whole: exit code {code}, {answers and answers[0][1]}")
    with Service(trireme, ["-m", model, "--port", 0, "--drain", 60]) as s:
        t = threading.Thread(target=lambda: s.complete("Rowing is", max_tokens=100000, ignore_eos=True), daemon=True)
        t.start()
        until(lambda: json.loads(s.ask("/state")[1])["requests"]["running"] > 0 or not t.is_alive(), "the request runs")
        s.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        begin = time.monotonic()
        code = s.stop(signal.SIGINT)
        report.check(code is not None and time.monotonic() - begin < 30, f"a second Ctrl-C ends it: exit code {code}")


def check_sudden_death(report, trireme, model):
    with Service(trireme, ["-m", model, "--tp", 2, "--port", 0]) as s:
        s.stop(signal.SIGKILL)  # fails by itself where anything is left
        report.check(True, "its death takes all with it")
    with Service(trireme, ["-m", model, "--tp", 2, "--port", 0], wait=False) as s:
        until(lambda: s.processes("mpirun"), "it is starting")
        code = s.stop(signal.SIGINT)
        report.check(code == 1 and not s.out, f"Ctrl-C while starting: exit code {code}")


def check_refusals(report, trireme, model):
    """One line with the reason and what to do, no process left, the right exit code."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    taken = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        conf = pathlib.Path(folder) / "trireme.conf"
        conf.write_text("[up]\nprot = 1\n")
        bad = pathlib.Path(folder) / "bad.conf"
        bad.write_text("[replica]\nctx = many\n")
        cases = [
            (["-m", "/no/such/model"], {}, 2, ["no such file"]),
            ([], {}, 2, ["no model", "-m MODEL"]),
            (["-m", model, "--port", taken], {}, 1, [f"port {taken} is in use", "--port"]),
            (["-m", model, "--tp", 2], {"PATH": folder}, 2, ["mpirun is not installed", "openmpi-bin"]),
            (["-m", model, "--port", 0, "--memory", "1KiB"], {}, 1, ["replica-0", "needs"]),
            (["-m", model, "--port", 0, "--tp", 2, "--memory", "1KiB"], {}, 1, ["replica-0", "needs"]),
            (["-m", model, "--config", conf], {}, 2, [f"{conf}:2", "did you mean \"port\""]),
            (["-m", model, "--port", 0, "--config", bad], {}, 2, ["replica-0"]),
        ]
        for args, env, code, words in cases:
            with Service(trireme, args, env=env, wait=False) as s:
                until(lambda: s.process.poll() is not None, f"{args} ends", 60)
                got = s.stop()
                errors = [line for line in s.lines if "error: " in line or "trireme up:" in line]
                report.check(got == code, f"{args}: exit code {got}, not {code}")
                report.check(len(errors) == 1 and all(w in errors[0] for w in words), f"{args}: one line with {words}: {s.lines}")
                report.check(not s.out and s.left_files == [], f"{args}: nothing on standard output, no file left")
    listener.close()


def check_config(report, trireme, model):
    """A file serves as the command line does, for `up` and for what it starts."""
    with tempfile.TemporaryDirectory() as folder:
        conf = pathlib.Path(folder) / "trireme.conf"
        conf.write_text(f"[up]\nport = 0\napi-key = from-the-file\n[replica]\nmodel = {pathlib.Path(model).resolve()}\nctx = 48\n")
        with Service(trireme, ["--config", conf]) as s:
            card = json.loads(s.ask("/v1/models")[1])["data"][0]
            report.check(s.key == "from-the-file" and card["max_model_len"] == 48, f"the file's values hold: {s.key}, {card}")
            s.stop()
        shown = subprocess.run([trireme, "config", "up", "--config", str(conf)], capture_output=True, text=True, timeout=60)
        report.check(f"port = 0    ; {conf}:2" in shown.stdout and "from-the-file" not in shown.stdout, f"trireme config shows where it comes from: {shown.stdout[:300]}")


def check_tls(report, trireme, model):
    """With a certificate the address is https, and readiness is seen through it."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        try:
            subprocess.run(make, capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.CalledProcessError) as e:
            report.skip("TLS", f"openssl makes no certificate: {e}")
            return
        with Service(trireme, ["-m", model, "--port", 0, "--tls-cert", cert, "--tls-key", key]) as s:
            context = ssl.create_default_context(cafile=cert)
            request = urllib.request.Request(s.url + "/v1/models", headers={"Authorization": f"Bearer {s.key}"})
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                report.check(s.url.startswith("https://") and answer.status == 200, f"{s.url} answers through TLS")
            report.check(s.stop() == 0, "and drains")


CHECKS = {"life": check_life, "drain": check_drain, "death": check_sudden_death, "refusals": check_refusals, "config": check_config, "tls": check_tls}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--trireme", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--only", default=",".join(CHECKS))
    args = parser.parse_args()
    report = run.Report()
    for name in args.only.split(","):
        try:
            CHECKS[name](report, args.trireme, args.model)
        except run.Failed as e:
            report.check(False, f"{name}: {e}")
    sys.exit(report.end())


if __name__ == "__main__":
    main()
