"""What the object stores' fakes share: a threaded HTTP server, and objects behind one lock."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

GENERATIONS = itertools.count(1_700_000_000_000_001)


@dataclass
class Blob:
    data: bytes
    generation: int = field(default_factory=lambda: next(GENERATIONS))
    modified: float = field(default_factory=time.time)

    @property
    def md5(self) -> str:
        return hashlib.md5(self.data).hexdigest()

    @property
    def http_date(self) -> str:
        return formatdate(self.modified, usegmt=True)


class Server(http.server.ThreadingHTTPServer):
    """Objects by (bucket, key). `fail`: statuses to answer with before anything else, one a request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[Handler], *, page: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.lock = threading.Lock()
        self.blobs: dict[tuple[str, str], Blob] = {}
        self.uploads: dict[str, dict[str, bytes]] = {}
        self.fail: list[int] = []
        self.seen: list[tuple[str, str]] = []
        self.page = page

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def keys(self, bucket: str, prefix: str, after: str) -> list[str]:
        return sorted(key for there, key in self.blobs if there == bucket and key.startswith(prefix) and key > after)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request: `answer` is given the decoded path, the query and the body."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        raise NotImplementedError

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.server.seen.append((self.command, self.path))
        if self.server.fail:
            self.reply(
                self.server.fail.pop(0), b"<Error><Code>Injected</Code><Message>as the test asked</Message></Error>"
            )
            return
        with self.server.lock:
            self.answer(unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True)), body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def ranged(self, data: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Status, bytes and headers for the Range that was asked for."""
        asked = self.headers.get("x-ms-range") or self.headers.get("Range") or ""
        if not asked.startswith("bytes="):
            return 200, data, {}
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        return 206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"}


@contextmanager
def serving(handler: type[Handler]) -> Iterator[Server]:
    server = Server(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
