"""An HTTP client that hardly computes: one thread, one epoll, answers kept as they came and read after the run.

Where the client shares its cores with what it measures, work per token is what must be avoided: a token costs one recv here.
"""
import heapq
import json
import re
import select
import socket
import time

LAST_CHUNK = b"0\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.I)


class Answer:
    """What came back; times are seconds since the run began."""
    __slots__ = ("index", "due", "sent", "first", "ended", "data", "error", "left")

    def __init__(self, index, due):
        self.index, self.due, self.sent, self.first, self.ended = index, due, None, None, None
        self.data, self.error, self.left = bytearray(), None, False

    def head(self):
        return bytes(self.data[:max(self.data.find(b"\r\n\r\n"), 0)])

    def status(self):
        return int(self.data[9:12]) if self.ended is not None and self.error is None else 0

    def header(self, name):
        m = re.search(rb"\r\n" + name.encode() + rb": *([^\r]*)", self.head(), re.I)
        return m.group(1).decode() if m else None

    def body(self):
        at = self.data.find(b"\r\n\r\n") + 4
        if b"chunked" not in self.head().lower():
            return bytes(self.data[at:])
        out = []
        while True: # as far as it came
            end = self.data.find(b"\r\n", at)
            n = int(self.data[at:end], 16) if end >= 0 else 0
            if n == 0 or end + 2 + n > len(self.data):
                return b"".join(out)
            out.append(bytes(self.data[end + 2:end + 2 + n]))
            at = end + 4 + n

    def json(self):
        return json.loads(self.body())

    def events(self):
        """(decoded data lines, whether [DONE] was the last of them)"""
        lines = [e[len(b"data: "):] for e in self.body().split(b"\n\n")[:-1] if e.startswith(b"data: ")]
        done = bool(lines) and lines[-1] == b"[DONE]"
        return [json.loads(x) for x in lines if x != b"[DONE]"], done


class Connection:
    __slots__ = ("socket", "answer", "out", "complete")

    def __init__(self, port):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.answer, self.out, self.complete = None, b"", None

    def finder(self, data):
        """Once the head is there: a function that says whether the answer is complete."""
        at = data.find(b"\r\n\r\n")
        if at < 0:
            return None
        head = bytes(data[:at])
        m = LENGTH.search(head)
        if m:
            whole = at + 4 + int(m.group(1))
            return lambda d: len(d) >= whole
        return lambda d: d.endswith(LAST_CHUNK)


class Client:
    """run() sends each request at its time over as many connections as that takes, keeping those that are free for the next."""

    def __init__(self, port, headers=()):
        self.port, self.epoll, self.busy, self.free = port, select.epoll(), {}, []
        self.lines = [f"{k}: {v}" for k, v in headers]

    def close(self):
        for c in list(self.busy.values()) + self.free:
            c.socket.close()
        self.busy, self.free = {}, []
        self.epoll.close()

    def request(self, path, body):
        data = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "Host: load", "Content-Type: application/json", f"Content-Length: {len(data)}", *self.lines]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    def start(self, answer, request, now):
        if self.free:
            c = self.free.pop()
        else:
            c = Connection(self.port)
            self.epoll.register(c.socket.fileno(), select.EPOLLIN)
        c.answer, c.complete, answer.sent = answer, None, now
        self.busy[c.socket.fileno()] = c
        c.out = request
        self.send(c)

    def send(self, c):
        try:
            n = c.socket.send(c.out)
        except BlockingIOError:
            n = 0
        except OSError: # the reason is read, if there is one
            n = len(c.out)
        c.out = c.out[n:]
        self.epoll.modify(c.socket.fileno(), select.EPOLLIN | (select.EPOLLOUT if c.out else 0))

    def end(self, c, now, error=None, left=False):
        a = c.answer
        a.ended, a.error, a.left = now, error, left
        del self.busy[c.socket.fileno()]
        if error is None and not left and b"connection: close" not in a.head().lower():
            self.free.append(c)
        else:
            c.socket.close() # which takes it off the epoll

    def read(self, c, now, leave):
        a = c.answer
        try:
            data = c.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as e:
            self.end(c, now, str(e))
            return
        if not data:
            self.end(c, now, f"the connection was closed after {len(a.data)} bytes")
            return
        if a.first is None:
            a.first = now
        a.data += data
        if c.complete is None:
            c.complete = c.finder(a.data)
        left = leave is not None and leave(a)
        if c.complete is not None and c.complete(a.data):
            self.end(c, now)
        elif left:
            self.end(c, now, left=True)

    def idle(self, fd):
        """News of a connection that nothing was asked of: it was closed."""
        for i, c in enumerate(self.free):
            if c.socket.fileno() == fd:
                self.free.pop(i).socket.close()
                return

    def run(self, requests, deadline, at_once=1 << 30, leave=None, every=None):
        """requests: (seconds, bytes) in any order; each is sent at its time, or when fewer than at_once are under way.  leave(answer), after each read: whether the client closes its connection in the middle.  every(now): called about
        ten times a second.  Returns the answers, in the order of the requests; those not complete `deadline` seconds after the last start have an error."""
        began = time.monotonic()
        answers = [Answer(i, t) for i, (t, _) in enumerate(requests)]
        queue = [(t, i) for i, (t, _) in enumerate(requests)]
        heapq.heapify(queue)
        end = max((t for t, _ in requests), default=0) + deadline
        next_call = 0
        while queue or self.busy:
            now = time.monotonic() - began
            if now > end:
                break
            while queue and queue[0][0] <= now and len(self.busy) < at_once:
                _, i = heapq.heappop(queue)
                if at_once < len(requests): # it was not to be sent before another had ended
                    answers[i].due = now
                self.start(answers[i], requests[i][1], now)
            if every is not None and now >= next_call:
                every(now)
                next_call = now + 0.1
            wait = min(0.1, queue[0][0] - now) if queue and len(self.busy) < at_once else 0.1
            events = self.epoll.poll(max(wait, 0))
            now = time.monotonic() - began
            for fd, what in events:
                c = self.busy.get(fd)
                if c is None:
                    self.idle(fd)
                    continue
                if what & select.EPOLLOUT:
                    self.send(c)
                if what & ~select.EPOLLOUT:
                    self.read(c, now, leave)
        for c in list(self.busy.values()):
            self.end(c, time.monotonic() - began, f"not over after {deadline} s")
        for a in answers:
            if a.ended is None:
                a.ended, a.error = 0, "never sent"
        return answers
