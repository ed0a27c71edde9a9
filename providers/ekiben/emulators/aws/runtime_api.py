"""The Runtime API that a function's process asks for work (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html).

One for each process, because the client names itself by the address only.
"""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["RuntimeApi"]


class RuntimeApi(ThreadingHTTPServer):
    """`offer` gives the process an event; `told` gets ("started" | "response" | "error" | "init", body) from it.

    "gone" is told of an event that no process was there to take.
    """

    daemon_threads = True

    def __init__(self, arn: str, timeout_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.arn, self.timeout_s = arn, timeout_s
        self.address = f"127.0.0.1:{self.server_port}"
        self.offered: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        threading.Thread(target=self.serve_forever, daemon=True, name="runtime-api").start()

    def offer(self, id: str, payload: bytes) -> None:
        self.offered.put((id, payload))

    def close(self) -> None:
        self.offered.put(None)
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The next event, however long it takes to come."""
        offered = self.server.offered.get()
        if offered is None:
            self.close_connection = True
            return
        if self._left():
            self.server.told.put(("gone", b""))
            self.close_connection = True
            return
        id, payload = offered
        self.server.told.put(("started", b""))
        deadline_ms = int((time.time() + self.server.timeout_s) * 1000)
        headers = {
            "Content-Type": "application/json", "Lambda-Runtime-Aws-Request-Id": id,
            "Lambda-Runtime-Deadline-Ms": str(deadline_ms), "Lambda-Runtime-Invoked-Function-Arn": self.server.arn,
        }  # fmt: skip
        self._answer(200, headers, payload)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        *_, before, last = self.path.split("/")
        self.server.told.put(("init" if before == "init" else last, body))
        self._answer(202, {}, b"")

    def _left(self) -> bool:
        """Whoever asked has ended while it waited: its warden may not have told yet."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: every event would be three lines."""
