"""Lambda's Runtime API as a function in a container meets it: one invocation at a time, each answered or failed once."""

from __future__ import annotations

import http.server
import itertools
import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.waiting import PATIENCE_S

VERSION = "/2018-06-01/runtime"
MAX_ANSWER_BYTES = 6 * 1024 * 1024 + 100


@dataclass
class Invocation:
    id: str
    event: bytes
    deadline_ms: int
    posted: queue.SimpleQueue[Posted] = field(default_factory=queue.SimpleQueue)


@dataclass
class Posted:
    """What was posted for an invocation. kind: response or error."""

    kind: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.waiting: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self.current: Invocation | None = None
        self.asked = threading.Event()
        self.taken = threading.Event()
        self.init_errors: queue.SimpleQueue[Posted] = queue.SimpleQueue()
        self.wrong: list[str] = []
        self._numbers = itertools.count(1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever was killed is no error of this server."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def send(self, event: Any, *, timeout_s: float = 30.0) -> Invocation:
        """Have it fetched; what is posted for it is in its `posted`."""
        deadline_ms = int((time.time() + timeout_s) * 1000)
        made = Invocation(
            f"00000000-0000-4000-8000-{next(self._numbers):012d}", json.dumps(event).encode(), deadline_ms
        )
        self.taken.clear()
        self.waiting.put(made)
        return made

    def invoke(self, event: Any, *, timeout_s: float = 30.0) -> Posted:
        return self.send(event, timeout_s=timeout_s).posted.get(timeout=PATIENCE_S)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        if self.path != f"{VERSION}/invocation/next":
            server.wrong.append(f"GET {self.path}")
            return self.reply(404, {"errorType": "NotFound"})
        if server.current is not None:
            server.wrong.append("the next invocation was asked for before the last was answered")
        server.asked.set()
        invocation = server.waiting.get()
        if invocation is None:
            self.close_connection = True
            return None
        server.current = invocation
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:123456789012:function:probe",
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1",
            "Content-Type": "application/json",
        }
        self.reply(200, invocation.event, headers)
        server.taken.set()
        return None

    def do_POST(self) -> None:
        server = self.server
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        *_, id, kind = self.path.split("/")
        posted = Posted(kind, {name.lower(): value for name, value in self.headers.items()}, body)
        if self.path == f"{VERSION}/init/error":
            server.init_errors.put(posted)
            return self.reply(202, {"status": "OK"})
        current = server.current
        if current is None or id != current.id or kind not in ("response", "error"):
            server.wrong.append(f"POST {self.path}")
            return self.reply(400, {"errorType": "InvalidRequestID"})
        if kind == "response" and len(body) > MAX_ANSWER_BYTES:
            server.wrong.append("a response that is too large")
            return self.reply(413, {"errorType": "RequestEntityTooLarge"})
        server.current = None
        current.posted.put(posted)
        return self.reply(202, {"status": "OK"})

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def runtime_api() -> Iterator[Server]:
    """The Runtime API, as long as the environment lives."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.waiting.put(None)
        server.shutdown()
        thread.join()
        server.server_close()
