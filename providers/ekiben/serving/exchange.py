"""One request and its answer."""

from __future__ import annotations

import http
import itertools
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contents import Form
    from .protocol import Connection
    from .tracing import Trace

__all__ = ["JSON", "TEXT", "Exchange", "Headers"]

JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"
Headers = Iterable[tuple[bytes, bytes]]
STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}
# A header with one of these would be two.
BREAKS = re.compile(rb"[\r\n\0]")
MAX_HEADS = 256
_numbers = itertools.count(1)
_prefix = b""


def new_id() -> bytes:
    """128 bits as hexadecimals: the process's own half, and a number."""
    return b"%s%016x" % (_prefix, next(_numbers))


def reseed() -> None:
    """Each process has a prefix of its own; called again after a fork."""
    global _prefix
    _prefix = os.urandom(8).hex().encode()


reseed()


class Exchange:
    """Answered exactly once, by `answer` or by `start` and `write` and `end`.

    `endpoint` is its name in the metrics. `chunks`: its caller reads an answer in chunks. `trace` is the caller's, or the span that
    stands for this exchange.
    """

    __slots__ = (
        "accept", "answered", "body", "chunks", "connection", "content_type", "endpoint", "form", "headers", "id", "keep_alive",
        "method", "on_gone", "path", "started", "status", "streaming", "target", "timer", "trace",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | bytearray = b""
        self.target = self.method = self.id = self.content_type = self.accept = b""
        self.form: Form | None = None  # when it is not as BentoML has it
        self.path = self.endpoint = ""
        self.keep_alive = self.chunks = True
        self.status = 0
        self.streaming = self.answered = False
        self.started = time.perf_counter()
        self.timer: Any = None
        self.on_gone: Callable[[], object] | None = None
        self.trace: Trace | None = None

    def header(self, name: bytes) -> bytes:
        """The first header of that name, in lower case; empty when there is none."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    @property
    def gone(self) -> bool:
        return self.connection.closed

    def answer(self, status: int, content_type: bytes, body: bytes, headers: Headers = ()) -> None:
        """Send the whole answer; nothing happens when there is one already, or nobody to take it."""
        if self.answered:
            return
        head = self._head(status, content_type, headers)
        sent = b"" if self.method == b"HEAD" else body
        self.connection.write(b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), sent))
        self._done()

    def start(self, status: int, content_type: bytes, headers: Headers = (), length: int | None = None) -> None:
        """Begin an answer that comes in pieces, of a known length or chunked."""
        if self.answered or self.status:
            return
        self.streaming = length is None and self.chunks
        if length is None and not self.chunks:
            self.keep_alive = False
        how = b"" if length is None else b"content-length: %d\r\n" % length
        if self.streaming:
            how = b"transfer-encoding: chunked\r\n"
        self.connection.write(b"%s%s\r\n" % (self._head(status, content_type, headers), how))

    def write(self, piece: bytes) -> None:
        if self.answered or not piece or self.method == b"HEAD":
            return
        self.connection.write(b"%x\r\n%s\r\n" % (len(piece), piece) if self.streaming else piece)

    def end(self) -> None:
        if self.answered:
            return
        if self.streaming and self.method != b"HEAD":
            self.connection.write(b"0\r\n\r\n")
        self._done()

    def break_off(self) -> None:
        """The head is sent and the rest cannot be: a broken connection is the only way left to say so."""
        if not self.answered:
            self.keep_alive = False
            self._done()
            self.connection.abort()

    def _head(self, status: int, content_type: bytes, headers: Headers) -> bytes:
        """All of it but the length."""
        self.status = status
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        server = self.connection.server
        first = server.heads.get((status, content_type))
        if first is None:
            line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            kind = b"content-type: %s\r\n" % content_type if content_type else b""
            first = b"%s%s%sx-request-id: " % (line, server.head, kind)
            if len(server.heads) < MAX_HEADS:
                server.heads[status, content_type] = first
        more = (
            b"".join([b"%s: %s\r\n" % pair for pair in headers if not BREAKS.search(pair[0] + pair[1])])
            if headers
            else b""
        )
        if not self.keep_alive or server.draining:
            self.keep_alive = False
            more += b"connection: close\r\n"
        elif not self.chunks:
            more += b"connection: keep-alive\r\n"
        return b"%s%s\r\n%s" % (first, self.id, more)

    def _done(self) -> None:
        self.answered = True
        if self.timer is not None:
            self.timer.cancel()
        metrics = self.connection.server.metrics
        if self.endpoint:  # else it was refused before anybody has seen it
            metrics.in_progress -= 1
        metrics.observe(self.endpoint or "unknown", self.status, time.perf_counter() - self.started)
        self.connection.finished(self)
