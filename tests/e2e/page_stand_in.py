"""A stand-in for the service, for what no checkpoint does on demand: hostile output, an answer that takes its time, errors.

It serves the page's files with the policy that page.h has, and just enough of the API for the page."""
import http.server
import json
import pathlib
import re
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "coordinator/gateway/page"
TYPES = {"index.html": "text/html; charset=utf-8", "style.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8"}
KEY = "stand-in-key"

HOSTILE = ["<img src=x onerror=\"document.title='owned'\">", "<script>document.title='owned'</script>\n\n", "**bold** and `co<b>de`\n", "- one\n- two\n\n",
           "```html\n<script>document.title='owned'</script>\n```\n", "javascript:alert(1) \u2028 \ud83d\udea3 end"]


def policy():
    text = (ROOT / "coordinator/gateway/page.h").read_text(encoding="utf-8")
    block = re.search(r"#define GATEWAY_PAGE_CSP(.*?)\n#define", text, re.S).group(1)
    return "".join(re.findall(r'"([^"]*)"', block))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disconnects = 0  # answers whose client went away
    seen = []        # chat bodies
    tokens = 0

    def log_message(self, *args):
        pass

    def answer(self, body, code=200, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", policy())
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self):
        if self.headers.get("Authorization") == f"Bearer {KEY}":
            return True
        self.answer({"error": {"message": "no key", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}}, 401)
        return False

    def do_GET(self):
        name = {"/": "index.html"}.get(self.path, self.path[1:])
        if name in TYPES:
            self.answer((PAGE / name).read_bytes(), kind=TYPES[name])
        elif not self.allowed():
            pass
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": "stand-in", "object": "model"}]})
        elif self.path == "/state":
            Handler.tokens += 7
            ranks = [{"rank": r, "stage": r, "tp_index": 0, "host": "h", "resident_bytes": 3 << 20, "weight_bytes": 2 << 20, "kv_bytes": 1 << 20, "steps": Handler.tokens,
                      "step_seconds": Handler.tokens * 0.01, "exchange_seconds": Handler.tokens * 0.001, "wait_seconds": 0, "skew_seconds": 0} for r in range(2)]
            self.answer({"version": "0", "requests": {"running": 1, "waiting": 2, "finished": 3}, "replicas": [
                {"name": "<b>one</b>", "state": "ready", "model": "stand-in", "backend": "cpu", "tp": 1, "pp": 2, "running": 1, "waiting": 2, "kv_blocks": 100, "kv_blocks_free": 60,
                 "kv_blocks_cached": 10, "generated_tokens": Handler.tokens, "prompt_tokens": 0, "prefix_queries": 10, "prefix_hits": 5, "ranks": ranks}]})
        else:
            self.answer({"error": {"message": "no such path"}}, 404)

    def chunk(self, delta, **more):
        text = json.dumps({"choices": [{"index": 0, "delta": delta}], **more})
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        Handler.seen.append(body)
        question = body["messages"][-1]["content"]
        if question == "refuse":
            self.answer({"error": {"message": "the prompt is <i>too long</i>"}}, 400)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in (f"word{i} " for i in range(10 ** 6)) if question == "for ever" else HOSTILE:
                self.chunk({"content": piece})
                time.sleep(0.05)
            self.chunk({}, usage={"completion_tokens": len(HOSTILE)})
            self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        except OSError:
            Handler.disconnects += 1
            self.close_connection = True


def start():
    """(URL, Handler)"""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/", Handler
