#!/usr/bin/env python3
"""A small hub on this machine, for tests: the routes of a model hub, and a second origin ("CDN") that it redirects large files to.

    hub_server.py LOG_FILE

Prints "HUB_PORT CDN_PORT" and serves until its standard input closes.  Each request is one line of LOG_FILE:
    hub|cdn METHOD PATH auth=<token or -> range=<header or ->
Repositories, under the owner "org", differ in what goes wrong (see REPOS)."""
import hashlib
import http.server
import json
import sys
import threading
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def blob_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def payload(n, seed):
    out = bytearray()
    while len(out) < n:
        out += hashlib.sha256(b"%d %d" % (seed, len(out))).digest()
    return bytes(out[:n])


CONFIG = b'{"model_type":"llama","architectures":["LlamaForCausalLM"]}'
TEXT = {"config.json": CONFIG, "README.md": b"---\nlicense: mit\n---\n", "tokenizer.json": b"{}", "pytorch_model.bin": b"pickle",
        "additional_chat_templates/tool use.jinja": b"T"}
BIG = payload(300000, 1)
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}).encode()
EVIL_INDEX = json.dumps({"weight_map": {"a": "../../../../evil.safetensors"}}).encode()
PARTS = {"model-00001-of-00002.safetensors": payload(1000, 2), "model-00002-of-00002.safetensors": payload(1000, 3)}
GGUFS = {"m-Q4_K_M.gguf": payload(2000, 4), "m-Q4_K_S.gguf": payload(2000, 5), "sub/m-Q8_0-00001-of-00002.gguf": payload(500, 6),
         "sub/m-Q8_0-00002-of-00002.gguf": payload(600, 7), "README.md": TEXT["README.md"]}

# name -> files; those of 1000 bytes and more are LFS
REPOS = {
    "good": {**TEXT, "model.safetensors": BIG},
    "flaky": {**TEXT, "model.safetensors": BIG},      # 503 twice for each path
    "cut": {**TEXT, "model.safetensors": BIG},        # the CDN closes after 100000 bytes of each answer
    "dead": {**TEXT, "model.safetensors": BIG},       # the CDN closes before the first byte
    "norange": {**TEXT, "model.safetensors": BIG},    # the CDN ignores Range
    "wronghash": {**TEXT, "model.safetensors": BIG},  # the listing has another SHA-256
    "wrongtext": {**TEXT, "model.safetensors": BIG},  # the listing has another git hash for config.json
    "longer": {**TEXT, "model.safetensors": BIG},     # the CDN sends more than was announced
    "nometa": {**TEXT, "model.safetensors": BIG},     # no sizes and hashes in the listing
    "loop": {**TEXT, "model.safetensors": BIG},       # redirects to itself
    "indexed": {**TEXT, "model.safetensors.index.json": INDEX, **PARTS},
    "evilindex": {**TEXT, "model.safetensors.index.json": EVIL_INDEX},
    "evilname": {**TEXT, "model.safetensors": BIG, "additional_chat_templates/../../../../../evil.jinja": b"E"},
    "gguf": GGUFS,
    "empty": {"config.json": CONFIG, "pytorch_model.bin": b"pickle"},
    "moved": {**TEXT, "model.safetensors": BIG},      # the revision's answer is of another commit than asked
}
log_lock = threading.Lock()
counts = {}


def lfs(name, data):
    return len(data) >= 1000 or name.endswith((".safetensors", ".gguf"))


def sibling(repo, name, data):
    out = {"rfilename": name}
    if repo == "nometa":
        return out
    out["size"] = len(data)
    out["blobId"] = blob_sha1(data)
    if repo == "wrongtext" and name == "config.json":
        out["blobId"] = "1" * 40
    if lfs(name, data):
        sha = hashlib.sha256(data).hexdigest() if repo != "wronghash" else "2" * 64
        out["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
    return out


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cdn_port = 0

    def log_message(self, *_):
        pass

    def note(self):
        auth = (self.headers.get("Authorization") or "-").replace("Bearer ", "")
        with log_lock, open(sys.argv[1], "a") as f:
            f.write(f"{self.server.kind} {self.command} {self.path} auth={auth} range={self.headers.get('Range') or '-'}\n")

    def answer(self, code, body=b"", headers=()):
        self.send_response(code)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.note()
        path = unquote(urlsplit(self.path).path)
        try:
            if self.server.kind == "cdn":
                self.cdn(path)
            elif path.startswith("/api/models/"):
                self.listing(path)
            else:
                self.resolve(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def listing(self, path):
        _, _, _, owner, repo, _, revision = path.split("/", 6)
        if repo == "gated":
            return self.answer(401, b"{}", [("X-Error-Code", "GatedRepo")])
        if owner != "org" or repo not in REPOS:
            return self.answer(404, b"{}", [("X-Error-Code", "RepoNotFound")])
        if revision not in ("main", "refs/pr/1", COMMIT, OTHER):
            return self.answer(404, b"{}", [("X-Error-Code", "RevisionNotFound")])
        if repo == "flaky" and self.count("flaky-list") < 2:
            return self.answer(503, b"busy")
        files = [sibling(repo, n, d) for n, d in REPOS[repo].items()]
        body = json.dumps({"id": f"org/{repo}", "sha": COMMIT, "siblings": files}).encode()
        return self.answer(200, body, [("Content-Type", "application/json")])

    def count(self, key):
        with log_lock:
            counts[key] = counts.get(key, -1) + 1
            return counts[key]

    def resolve(self, path):
        _, owner, repo, _, commit, name = path.split("/", 5)
        data = REPOS.get(repo, {}).get(name)
        if owner != "org" or data is None or commit != COMMIT:
            return self.answer(404, b"", [("X-Error-Code", "EntryNotFound")])
        if repo == "flaky" and self.count(path) < 2:
            return self.answer(503, b"busy")
        if repo == "loop":
            return self.answer(302, b"", [("Location", self.path)])
        if not lfs(name, data):
            return self.answer(200, data, [("ETag", f'"{blob_sha1(data)}"')])
        where = f"http://127.0.0.1:{self.cdn_port}/{repo}/{name}?signature=x"
        return self.answer(302, b"", [("Location", where), ("X-Linked-Size", str(len(data))), ("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')])

    def cdn(self, path):
        _, repo, name = path.split("/", 2)
        data = REPOS[repo][name]
        if self.headers.get("Authorization"):
            return self.answer(400, b"a token came along")
        if repo == "longer":
            data = data + b"more"
        begin, code, headers = 0, 200, []
        if self.headers.get("Range") and repo != "norange":
            begin = int(self.headers["Range"].split("=")[1].split("-")[0])
            if begin >= len(data):
                return self.answer(416)
            code = 206
            headers = [("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")]
        body = data[begin:]
        if repo in ("cut", "dead"):  # promises all, then closes
            self.send_response(code)
            for k, v in headers:
                self.send_header(k, v)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:100000 if repo == "cut" else 0])
            self.close_connection = True
            return None
        return self.answer(code, body, headers)


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass  # a client that hangs up is part of the tests


def main():
    servers = []
    for kind in ("hub", "cdn"):
        s = Server(("127.0.0.1", 0), Handler)
        s.kind = kind
        s.daemon_threads = True
        servers.append(s)
        threading.Thread(target=s.serve_forever, daemon=True).start()
    Handler.cdn_port = servers[1].server_address[1]
    print(servers[0].server_address[1], servers[1].server_address[1], flush=True)
    sys.stdin.read()


main()
