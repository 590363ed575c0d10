"""A stand-in for a server, whose answers do what their requests say: the member "script" of a body names one of SCRIPTS.

It keeps what it saw, and when it sent what, on the clock that time.monotonic has: which clients on this machine share."""
import http.server
import json
import threading
import time

GAPS = (0.25, 0.1, 0.1, 0.2)  # seconds before each of an answer's outputs


def choice(text=None, end=None, **more):
    return {"choices": [{"index": 0, "text": text or "", "finish_reason": end, **more}]}


def delta(end=None, **more):
    return {"choices": [{"index": 0, "delta": more, "finish_reason": end}]}


def usage(prompt, completion):
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    seen = []          # {"path", "body", "came", "sent": [when each output was], "ended"}
    under_way = most = 0
    tokenize = True    # whether there is a /tokenize

    def log_message(self, *args):
        pass

    def answer(self, body, code=200, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": "stand-in"}]})
        else:
            self.answer({"error": {"message": "no such path"}}, 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            # Words of one token each, and one special token before a prompt.
            words = body["prompt"].split()
            self.answer({"tokens": [1] * body.get("add_special_tokens", True) + [100 + hash(w) % 900 for w in words]} if Handler.tokenize else {"detail": "Not Found"},
                        200 if Handler.tokenize else 404)
            return
        self.record = {"path": self.path, "body": body, "came": time.monotonic(), "sent": []}
        with Handler.lock:
            Handler.seen.append(self.record)
            Handler.under_way += 1
            Handler.most = max(Handler.most, Handler.under_way)
        try:
            SCRIPTS[body.get("script", "plain")](self)
        except OSError:
            self.close_connection = True
        self.over()
        self.record["ended"] = time.monotonic()

    def over(self):
        """No longer under way: said before the answer's last bytes go, on which a client may send its next request at once."""
        with Handler.lock:
            Handler.under_way -= not self.record.get("over", False)
            self.record["over"] = True

    # ---- what scripts do ----

    def begin(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def raw(self, data):
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    def event(self, o, output=False, eol="\n"):
        if output:
            self.record["sent"].append(time.monotonic())
        self.raw(f"data: {json.dumps(o)}{eol}{eol}".encode())

    def end(self):
        self.over()
        self.raw(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def plain(self):
        """An output after each gap."""
        self.begin()
        for i, gap in enumerate(GAPS):
            time.sleep(gap)
            self.event(choice(f"w{i} ", "length" if i == len(GAPS) - 1 else None), True)
        self.event(usage(11, len(GAPS)))
        self.end()

    def chat(self):
        """The role at once, which is no output; reasoning; several tokens in an output; an end of its own."""
        self.begin()
        self.event(delta(role="assistant", content=""))
        for gap, more in zip(GAPS, ({"reasoning_content": "hm"}, {"content": "two tokens"}, {"content": "one"}, {"content": "and another"})):
            time.sleep(gap)
            self.event(delta(**more), True)
        self.event(delta(end="stop"))
        self.event(usage(30, 8))
        self.end()

    def pieces(self):
        """Lines that end in any way, comments, an event on two lines, and pieces cut within characters."""
        self.begin()
        text = (": ping\r\n\r\n" + "".join(f"data: {json.dumps(choice(t), ensure_ascii=False)}\r\n\r\n" for t in ("é", "\U0001f6a3")) + "event: x\ndata: {\"choices\":\ndata: [{\"text\": \"z\"}]}\n\n"
                + f"data: {json.dumps(choice('', 'stop'))}\r\rdata: {json.dumps(usage(5, 3))}\n\ndata: [DONE]\n\n").encode()
        for i in range(0, len(text), 7):
            self.raw(text[i:i + 7])
        self.wfile.write(b"0\r\n\r\n")

    def uncounted(self):
        self.begin()
        for i in range(3):
            self.event(choice("x", "length" if i == 2 else None), True)
        self.end()

    def silent(self):
        """Tokens without any text."""
        self.begin()
        time.sleep(0.1)
        self.event(choice("", None), True)
        self.event(choice("", "length"))
        self.event(usage(4, 6))
        self.end()

    def busy(self):
        self.answer({"error": {"message": "too many requests", "type": "x"}}, 429)

    def page(self):
        self.answer(b"<html>\n<h1>Bad Gateway</h1>", 502, "text/html")

    def unstreamed(self):
        self.answer({"choices": [{"text": "all at once"}]})

    def broken(self):
        """An error once the stream has begun."""
        self.begin()
        self.event(choice("x"), True)
        self.event({"error": {"message": "the engine is gone"}})
        self.end()

    def cut(self):
        """The connection ends in the middle."""
        self.begin()
        self.event(choice("x"), True)
        self.close_connection = True
        self.connection.shutdown(2)

    def unfinished(self):
        """A stream that ends well as HTTP and not as an answer."""
        self.begin()
        self.event(choice("x"), True)
        self.wfile.write(b"0\r\n\r\n")

    def garbage(self):
        self.begin()
        self.raw(b"data: {\"choices\": \xff\n\n")
        self.end()

    def hang(self):
        self.begin()
        self.event(choice("x"), True)
        time.sleep(3)

    def mixed(self):
        """Every third fails."""
        with Handler.lock:
            n = len(Handler.seen)
        (self.busy if n % 3 == 0 else self.uncounted)()


SCRIPTS = {name: getattr(Handler, name) for name in ("plain", "chat", "pieces", "uncounted", "silent", "busy", "page", "unstreamed", "broken", "cut", "unfinished", "garbage", "hang", "mixed")}


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that leave are part of the tests


def start():
    """(URL, Handler)"""
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}", Handler
