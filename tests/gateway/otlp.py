#!/usr/bin/env python3
"""A gateway's traces, at a collector that is an HTTP server of this test: each request's spans, their order and their parents; and collectors that are away, slow or unwilling.

    otlp.py --trireme BIN --fake BIN --checkpoint DIR [--model DIR]

With --model also a real replica on two ranks, whose ranks have spans.  Where the package opentelemetry-proto is installed, what is sent must be messages of its schema.
"""
import argparse
import asyncio
import base64
import http.server
import json
import os
import socket
import threading
import time

import serving
from serving import Failed, Report, Serving, get, post, stream

try:
    from google.protobuf import json_format
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
except ImportError:
    ExportTraceServiceRequest = None

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps what comes; `answers` are the next status codes, 200 when there are no more; a number of seconds below 100 is slept first."""

    def __init__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = outer.answers.pop(0) if outer.answers else 200
                if code < 100:
                    time.sleep(code)
                    code = 200
                outer.seen.append((self.path, dict(self.headers), body, code))
                try:
                    self.send_response(code)
                    self.send_header("Content-Length", "2")
                    self.end_headers()
                    self.wfile.write(b"{}")
                except OSError:
                    pass

            def log_message(self, *_):
                pass

        self.seen, self.answers = [], []
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self):
        return [s for _, _, body, code in list(self.seen) if code == 200 for r in json.loads(body)["resourceSpans"] for sc in r["scopeSpans"] for s in sc["spans"]]

    def wait(self, wanted, seconds=20):
        """Until a span that wanted(span) likes is there; all spans."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            spans = self.spans()
            if any(wanted(s) for s in spans):
                return spans
            time.sleep(0.05)
        raise Failed(f"no such span; there are {[s['name'] for s in self.spans()]}")


def attributes(span):
    return {a["key"]: next(iter(a["value"].values())) for a in span.get("attributes", [])}


def is_root(span):
    return span["kind"] == 2


def check_schema(report, collector):
    if ExportTraceServiceRequest is None:
        report.skip("messages of OTLP's schema", "no package opentelemetry-proto (PyPI)")
        return
    for _, _, body, _ in collector.seen:
        o = json.loads(body)
        for r in o["resourceSpans"]:
            for scope in r["scopeSpans"]:
                for s in scope["spans"]:
                    for key in ("traceId", "spanId", "parentSpanId"):  # hexadecimal in OTLP, where protobuf's own JSON has base64
                        s[key] = base64.b64encode(bytes.fromhex(s[key])).decode()
        message = json_format.ParseDict(o, ExportTraceServiceRequest())
        for s in message.resource_spans[0].scope_spans[0].spans:
            report.check(len(s.trace_id) == 16 and len(s.span_id) == 8 and len(s.parent_span_id) in (0, 8) and 0 < s.start_time_unix_nano <= s.end_time_unix_nano, f"a span: {s}")


def check_request(report, s, collector):
    before = time.time()
    status, _, body = asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 5}))
    report.check(status == 200, f"{status} {body}")
    spans = collector.wait(is_root)
    report.check(len({x["traceId"] for x in spans}) == 1 and len({x["spanId"] for x in spans}) == len(spans), "one trace, each span with an id of its own")
    (root,) = filter(is_root, spans)
    named = {x["name"]: x for x in spans if not is_root(x)}
    report.check(root["name"] == "POST /v1/completions" and root["parentSpanId"] == "" and "status" not in root, f"the request's own span: {root}")
    report.check({"gateway", "queue", "prefill", "decode"} <= named.keys() and all(x["parentSpanId"] == root["spanId"] for x in named.values()), f"its parts: {list(named)}")
    at = [int(named[n][k]) for n in ("gateway", "queue", "prefill", "decode") for k in ("startTimeUnixNano", "endTimeUnixNano")]
    report.check(at == sorted(at) and int(root["startTimeUnixNano"]) <= at[0] + 1000000 and at[-1] <= int(root["endTimeUnixNano"]) + 1000000, f"one after the other, within it: {at}")
    report.check(before - 0.1 <= int(root["startTimeUnixNano"]) * 1e-9 <= int(root["endTimeUnixNano"]) * 1e-9 <= time.time() + 0.1, "times are the clock's")
    a = attributes(root)
    report.check(a["gen_ai.usage.input_tokens"] == "3" and a["gen_ai.usage.output_tokens"] == "5" and a["gen_ai.request.max_tokens"] == "5" and a["gen_ai.response.finish_reason"] == "length", f"{a}")
    report.check(0 < a["gen_ai.latency.time_to_first_token"] <= a["gen_ai.latency.e2e"] and a["url.path"] == "/v1/completions", f"{a}")
    d = attributes(named["decode"])
    report.check(d["trireme.replica"] == "a" and int(d["trireme.last_step"]) > int(d["trireme.first_step"]) > 0, f"steps: {d}")
    path, headers, request, _ = collector.seen[0]
    resource = {x["key"]: x["value"]["stringValue"] for x in json.loads(request)["resourceSpans"][0]["resource"]["attributes"]}
    report.check(path == "/v1/traces" and headers["Content-Type"] == "application/json" and headers.get("x-tenant") == "a b" and resource["service.name"] == "trireme", f"{path} {headers} {resource}")


def check_parents(report, s, collector):
    def ask(value, **body):
        collector.seen.clear()
        asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2, **body}, headers={"traceparent": value}))
    ask(f"00-{TRACE}-{PARENT}-01")
    spans = collector.wait(is_root)
    (root,) = filter(is_root, spans)
    report.check(all(x["traceId"] == TRACE for x in spans) and root["parentSpanId"] == PARENT, f"it belongs to the caller's trace: {root}")
    ask(f"00-{TRACE}-{PARENT}-00")
    asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}, headers={"traceparent": f"00-{TRACE[::-1]}-{PARENT}-01"}))
    spans = collector.wait(is_root)
    report.check({x["traceId"] for x in spans} == {TRACE[::-1]}, "a trace that the caller does not sample is not sent")
    for wrong in ("", "00", f"00-{TRACE}-{PARENT}", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more", "x" * 5000):
        ask(wrong)
        (root,) = filter(is_root, collector.wait(is_root))
        report.check(root["traceId"] != TRACE and root["parentSpanId"] == "", f"traceparent {wrong[:80]!r} counts as none: {root['traceId']}")
    collector.seen.clear()
    status, _, _ = asyncio.run(post(s.port, "/v1/chat/completions", {"model": "nobody", "messages": []}))
    (root,) = filter(is_root, collector.wait(is_root))
    report.check(status == 404 and root["status"]["code"] == 2 and "nobody" in root["status"]["message"] and root["name"] == "POST /v1/chat/completions", f"an error: {status} {root}")
    collector.seen.clear()
    streamed = asyncio.run(stream(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 4, "n": 2}))
    (root,) = filter(is_root, collector.wait(is_root))
    report.check(streamed.done and attributes(root)["gen_ai.usage.output_tokens"] == "8" and attributes(root)["gen_ai.request.choice.count"] == "2", f"a stream: {attributes(root)}")


def check_unwilling(report, s, collector):
    """Requests are answered whatever the collector does; what it refuses for now is sent again."""
    collector.seen.clear()
    collector.answers[:] = [503, 429]
    asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}))
    collector.wait(is_root)
    report.check([code for *_, code in collector.seen] == [503, 429, 200], f"again until it is taken: {[code for *_, code in collector.seen]}")
    collector.seen.clear()
    collector.answers[:] = [400]
    asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}))
    until = time.monotonic() + 10
    while "do not reach" not in s.gateway.said() and time.monotonic() < until:
        time.sleep(0.05)
    report.check("status 400" in s.gateway.said() and [code for *_, code in collector.seen] == [400], f"what it calls wrong is not sent again, and the log says so: {s.gateway.said()[-600:]}")
    collector.seen.clear()
    collector.answers[:] = [3]
    begin = time.monotonic()
    for _ in range(40):
        status, *_ = asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}))
        report.check(status == 200, "a request beside a slow collector")
    took = time.monotonic() - begin
    collector.wait(lambda x: is_root(x) and sum(map(is_root, collector.spans())) == 40)
    report.check(took < 20, f"nobody waits for it: 40 requests took {took:.1f} s")


def check_end(report, s, collector):
    """The last request's spans leave before the gateway does."""
    collector.seen.clear()
    collector.answers[:] = []
    asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"}))
    code = s.gateway.end()
    report.check(code == 0 and any(x["traceId"] == TRACE for x in collector.spans()), f"exit code {code}, {len(collector.spans())} spans")


def check_nobody_there(report, a):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1/traces"
    with Serving(a.trireme, fake=a.fake, options=["--otlp-traces-endpoint", nobody]) as s:
        s.start_fake("a", a.checkpoint)
        s.wait_ready()
        status, *_ = asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}))
        begin = time.monotonic()
        code = s.gateway.end()
        report.check(status == 200 and code == 0 and time.monotonic() - begin < 10, f"no collector: {status}, exit code {code} after {time.monotonic() - begin:.1f} s")
    collector = Collector()
    with Serving(a.trireme, fake=a.fake, options=["--otlp-traces-endpoint", collector.url, "--trace-ratio", "0"]) as s:
        s.start_fake("a", a.checkpoint)
        s.wait_ready()
        for _ in range(5):
            asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}))
        s.gateway.end()
        report.check(not collector.seen, "--trace-ratio 0 begins no trace")
    for wrong in ("ftp://127.0.0.1", "127.0.0.1:4318"):
        try:
            with Serving(a.trireme, options=["--otlp-traces-endpoint", wrong]):
                report.check(False, f"{wrong} was taken")
        except Failed as e:
            report.check("traces go to an address" in str(e), f"{wrong}: {e}")


def check_ranks(report, a):
    """A real replica on two ranks: a span for each, with what its steps went into."""
    collector = Collector()
    with Serving(a.trireme, options=["--otlp-traces-endpoint", collector.url]) as s:
        s.start_replica("real", a.model, ranks=2, args=["--tp", 2, "--threads", 1])
        s.wait_ready()
        until = time.monotonic() + 60
        while not any(x["name"] == "rank 1" for x in collector.spans()) and time.monotonic() < until:
            asyncio.run(post(s.port, "/v1/completions", {"prompt": [5, 6, 7], "max_tokens": 240, "n": 128, "ignore_eos": True}))
        spans = collector.wait(lambda x: x["name"] == "rank 1")
        one = next(x for x in spans if x["name"] == "rank 1")
        both = {x["name"]: attributes(x) for x in spans if x["traceId"] == one["traceId"] and x["name"].startswith("rank ")}
        (root,) = [x for x in spans if is_root(x) and x["traceId"] == one["traceId"]]
        report.check(both.keys() == {"rank 0", "rank 1"} and one["parentSpanId"] == root["spanId"], f"both ranks, below the request: {both}")
        report.check(all(int(r["trireme.steps"]) > 0 and r["trireme.compute_seconds"] > 0 and r["trireme.collective_seconds"] > 0 for r in both.values()), f"what their steps went into: {both}")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--trireme", "--fake", "--checkpoint", "--model"):
        parser.add_argument(name, required=name != "--model")
    a = parser.parse_args()
    report, collector = Report(), Collector()
    os.environ["OTEL_EXPORTER_OTLP_HEADERS"] = "x-tenant=a%20b,other=c"
    with Serving(a.trireme, fake=a.fake, options=["--otlp-traces-endpoint", collector.url + "/"]) as s:
        s.start_fake("a", a.checkpoint)
        s.wait_ready()
        check_request(report, s, collector)
        check_schema(report, collector)
        check_parents(report, s, collector)
        check_unwilling(report, s, collector)
        check_end(report, s, collector)
    check_nobody_there(report, a)
    if a.model:
        check_ranks(report, a)
    report.end()


if __name__ == "__main__":
    main()
