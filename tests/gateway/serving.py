"""What the serving tests share: a gateway and replicas as processes, and an HTTP client that reads streams."""
import asyncio
import json
import math
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
import run  # noqa: E402

Failed, Report = run.Failed, run.Report


def stretched(model, folder, positions):
    """The checkpoint with room for more tokens than tests/golden's have."""
    out = pathlib.Path(folder) / pathlib.Path(model).name
    shutil.copytree(model, out)
    config = json.loads((out / "config.json").read_text())
    config["max_position_embeddings"] = positions
    (out / "config.json").write_text(json.dumps(config))
    return out


class Tensors:
    """A file of safetensors in bf16, to be changed and written."""

    def __init__(self, path):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        self.all = {}
        for name, t in json.loads(data[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + x for x in t["data_offsets"])
                self.all[name] = (t["shape"], data[begin:end])

    def fill(self, name, shape, values=None, rest=0.0):
        """values: {(row, column): value}"""
        out = bytearray(bf16(rest) * math.prod(shape))
        for (row, column), v in (values or {}).items():
            at = 2 * (row * shape[-1] + column)
            out[at:at + 2] = bf16(v)
        self.all[name] = (shape, bytes(out))

    def write(self, path):
        head, at = {}, 0
        for name, (shape, data) in self.all.items():
            head[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        text = json.dumps(head).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, data in self.all.values()))


def bf16(value):
    return struct.pack("<f", value)[2:]


def repeating(model, out, first, pieces, last):
    """A Llama made of the checkpoint that, after the token `first`, always says these pieces (each a token of its own, none twice), then `last`.

    Layers add nothing; the k-th token of the chain is embedded as the k-th unit vector, and the row of the head for the next one is that vector times 8.
    """
    out = pathlib.Path(out)
    shutil.copytree(model, out)
    config, tokenizer, texts = (json.loads((out / f).read_text()) for f in ("config.json", "tokenizer.json", "tokenizer_config.json"))
    ids = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    n, dim = config["vocab_size"] + len(pieces), config["hidden_size"]
    for i, piece in enumerate(pieces):
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": config["vocab_size"] + i, "content": piece, "special": False})
    chain = [ids[first], *range(config["vocab_size"], n), ids[last]]
    tensors = Tensors(out / "model.safetensors")
    for name, (shape, _) in list(tensors.all.items()):
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors.fill(name, shape)
    tensors.fill("model.norm.weight", [dim], rest=1.0)
    tensors.fill("model.embed_tokens.weight", [n, dim], {(t, k): 1.0 for k, t in enumerate(chain[:-1])})
    tensors.fill("lm_head.weight", [n, dim], {(t, k): 8.0 for k, t in enumerate(chain[1:])})
    tensors.write(out / "model.safetensors")
    config.update(vocab_size=n, tie_word_embeddings=False, max_position_embeddings=1024)
    texts["chat_template"] = ("{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
                              "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}")
    for f, value in (("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", texts)):
        (out / f).write_text(json.dumps(value))
    return out


class Process:
    """A child with its own log file and session; killed with all it started when the test ends."""

    def __init__(self, argv, log, env=None, stdin=subprocess.DEVNULL):
        self.log = log
        self.argv = [str(a) for a in argv]
        with open(log, "ab") as out:
            self.p = subprocess.Popen(self.argv, stdin=stdin, stdout=out, stderr=out, env={**os.environ, **run.ENV, **(env or {})}, start_new_session=True)

    def said(self):
        return pathlib.Path(self.log).read_text(encoding="utf-8", errors="replace")

    def wait_for(self, pattern, seconds=30):
        """The first match in what it said; it must come while the process lives."""
        until = time.monotonic() + seconds
        while True:
            m = re.search(pattern, self.said())
            if m:
                return m
            if self.p.poll() is not None or time.monotonic() > until:
                raise Failed(f"{self.argv[:2]}: no \"{pattern}\" (exit code {self.p.poll()})\n{self.said()[-2000:]}")
            time.sleep(0.02)

    def signal(self, number):
        self.p.send_signal(number)

    def kill(self):
        try:
            os.killpg(self.p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.p.wait()

    def end(self, seconds=20):
        """SIGTERM, and the exit code."""
        if self.p.poll() is None:
            self.p.terminate()
        try:
            return self.p.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.argv[:2]}: still there {seconds} s after SIGTERM\n{self.said()[-2000:]}") from None


class Serving:
    """One gateway, and replicas that come and go.  A context: leaves nothing behind."""

    def __init__(self, trireme, fake=None, options=(), plain=False, before=None):
        self.trireme, self.fake = trireme, fake
        self.dir = tempfile.mkdtemp(prefix="trireme-serving-")
        self.endpoint = f"ipc://{self.dir}/replicas"
        self.keys = None if plain else f"{self.dir}/keys"
        self.replicas, self.port, self.gateway = {}, 0, None
        self.options = list(options)
        self.started = 0
        self.before = before # what is to be made before the gateway starts
        self.api_key = None

    def __enter__(self):
        try:
            if self.keys:
                subprocess.run([self.trireme, "keygen", self.keys], check=True, capture_output=True)
            if self.before:
                self.before()
            self.start_gateway()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in list(self.replicas.values()) + ([self.gateway] if self.gateway else []):
            p.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def security(self):
        return ["--keys", self.keys] if self.keys else ["--plain"]

    def start_gateway(self):
        argv = [self.trireme, "gateway", "--listen", "127.0.0.1:0", "--replicas", self.endpoint, "--access-log", f"{self.dir}/access.log", *self.security(),
                *self.options]
        self.gateway = Process(argv, f"{self.dir}/gateway.log")
        self.port = int(self.gateway.wait_for(r"listening on .*port (\d+)").group(1))

    def start_fake(self, name, checkpoint, **options):
        argv = [self.fake, "--gateway", self.endpoint, "--checkpoint", checkpoint, "--name", name, *(["--keys", self.keys] if self.keys else [])]
        for k, v in options.items():
            argv += ["--" + k.replace("_", "-")] + ([] if v is True else [v])
        self.started += 1
        self.replicas[name] = Process(argv, f"{self.dir}/{name}.{self.started}.log", stdin=subprocess.PIPE)
        return self.replicas[name]

    def start_replica(self, name, model, ranks=1, args=()):
        argv = run.command(self.trireme, ["replica", "-m", model, "--gateway", self.endpoint, "--name", name, *(["--keys", self.keys] if self.keys else ["--plain"]), *args], ranks)
        self.started += 1
        self.replicas[name] = Process(argv, f"{self.dir}/{name}.{self.started}.log")
        return self.replicas[name]

    def kill_replica(self, name):
        self.replicas.pop(name).kill()

    def wait_ready(self, n=1, seconds=60):
        """Until n replicas are ready; the state."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            state = asyncio.run(get(self.port, "/state", headers={"Authorization": f"Bearer {self.api_key}"}))[2]
            if sum(r["state"] == "ready" for r in state["replicas"]) >= n:
                return state
            if self.gateway.p.poll() is not None:
                break
            time.sleep(0.05)
        raise Failed(f"{n} replicas are not ready\n{self.gateway.said()[-2000:]}" + "".join(p.said()[-2000:] for p in self.replicas.values()))

    def logs(self):
        return "".join(p.read_text(encoding="utf-8", errors="replace") for p in pathlib.Path(self.dir).glob("*.log"))


# ---- HTTP ----

async def read_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in head[1:] if ":" in line)}
    return int(head[0].split()[1]), headers


async def read_chunks(reader):
    while True:
        n = int((await reader.readline()).strip() or b"0", 16)
        data = await reader.readexactly(n)
        await reader.readline()
        if n == 0:
            return
        yield data


async def read_body(reader, headers):
    if headers.get("transfer-encoding") == "chunked":
        return b"".join([c async for c in read_chunks(reader)])
    return await reader.readexactly(int(headers.get("content-length", "0")))


def request_bytes(method, path, body=None, headers=None):
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: test", "Connection: close"]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


async def ask(port, method, path, body=None, headers=None, timeout=60):
    """(status, headers, decoded body)"""
    async def go():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request_bytes(method, path, body, headers))
            await writer.drain()
            status, got = await read_head(reader)
            data = await read_body(reader, got)
        finally:
            writer.close()
        return status, got, json.loads(data) if got.get("content-type", "").startswith("application/json") else data.decode()
    return await asyncio.wait_for(go(), timeout)


async def get(port, path, **kw):
    return await ask(port, "GET", path, **kw)


async def post(port, path, body, **kw):
    return await ask(port, "POST", path, body, **kw)


class Stream:
    """A streamed answer as it comes: `events` are the decoded data lines, `done` that [DONE] was seen."""

    def __init__(self):
        self.status, self.headers, self.events, self.done, self.body = 0, {}, [], False, None

    def text(self):
        return "".join(c.get("text") or (c.get("delta") or {}).get("content") or "" for e in self.events for c in e.get("choices", []))

    def finish(self):
        return next((c["finish_reason"] for e in self.events for c in e.get("choices", []) if c.get("finish_reason")), None)


async def stream(port, path, body, on_event=None, headers=None, timeout=120):
    """on_event(stream) after each event; what it returns, if true, ends the reading: the connection is closed in the middle."""
    s = Stream()

    async def go():
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            writer.write(request_bytes("POST", path, {**body, "stream": True}, headers))
            await writer.drain()
            s.status, s.headers = await read_head(reader)
            if not s.headers.get("content-type", "").startswith("text/event-stream"):
                s.body = json.loads(await read_body(reader, s.headers) or b"null")
                return
            rest = b""
            async for chunk in read_chunks(reader):
                rest += chunk
                while b"\n\n" in rest:
                    line, rest = rest.split(b"\n\n", 1)
                    line = line.split(b"data: ", 1)[-1] if b"data: " in line else line
                    if line == b"[DONE]":
                        s.done = True
                        continue
                    s.events.append(json.loads(line))
                    if on_event and on_event(s):
                        return
        finally:
            writer.close()
    await asyncio.wait_for(go(), timeout)
    return s
