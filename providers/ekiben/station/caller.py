"""A call of an endpoint: what was asked, and the ways to answer it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from random import getrandbits
from typing import TYPE_CHECKING, Any

from ekiben.errors import EkibenError, ProviderError, SpecError
from ekiben.serving.clock import http_date
from ekiben.station import http1
from ekiben.station.edge import Refused
from ekiben.station.wire import to_body

if TYPE_CHECKING:
    from ekiben.station.front import Connection

__all__ = ["Call", "Gone", "refuse"]

JSON = b"Content-Type: application/json; charset=utf-8\r\n"

log = logging.getLogger("ekiben.station")


class Gone(Exception):
    """The caller has left."""


class Call:
    """A request to an endpoint, and the way to answer it. `held`: it waits for a worker; `begun`: the answer's head is out."""

    __slots__ = (
        "begun", "body", "chunked", "connection", "endpoint", "head", "held", "id", "query", "revision", "route", "size",
        "started", "status", "task", "which",
    )  # fmt: skip

    def __init__(self, connection: Connection, head: http1.Request | None) -> None:
        self.connection, self.head = connection, head
        self.endpoint = self.which = self.route = self.query = self.revision = ""
        self.started = time.perf_counter()
        self.id = f"{time.time_ns() // 1_000_000:012x}{getrandbits(80):020x}"
        self.body = b""
        self.task: asyncio.Task[None] | None = None
        self.held = self.begun = self.chunked = False
        self.status = self.size = 0

    @property
    def gone(self) -> bool:
        return self.connection.transport.is_closing()

    @property
    def latency_ms(self) -> float:
        return (time.perf_counter() - self.started) * 1000

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what it takes in a task, which ends when the caller leaves while the call is held."""
        self.task = asyncio.get_running_loop().create_task(work)

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """The whole answer."""
        self.begun, self.status, self.size = True, status, len(body)
        connection = self.connection
        told = b"" if status in http1.WITHOUT_BODY else b"Content-Length: %d\r\n" % len(body)
        if self.head is not None and self.head.method == b"HEAD":
            told, body = (b"" if b"Content-Length:" in lines else told), b""
        closes = b"" if connection.keeps else b"Connection: close\r\n"
        head = b"%b%b%bDate: %b\r\n%b\r\n" % (http1.status_line(status), lines, told, http_date(), closes)
        if not self.gone:
            connection.transport.write(head + body)
        connection.answered(self)

    def refuse(self, error: EkibenError, status: int = 0, headers: dict[str, str] | None = None) -> None:
        usual, body = to_body(error)
        lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in (headers or {}).items())
        self.answer(status or usual, JSON + lines, json.dumps(body).encode())

    def begin(self, status: int, lines: bytes, length: int) -> None:
        """The head of an answer that is streamed; a length below zero is not known."""
        self.begun, self.status = True, status
        assert self.head is not None
        self.chunked = length < 0 and self.head.chunks
        if length < 0 and not self.chunked:
            self.connection.keeps = False  # its end is the end of the connection
        told = b"Content-Length: %d\r\n" % length if length >= 0 else b""
        coding = b"Transfer-Encoding: chunked\r\n" if self.chunked else b""
        closes = b"" if self.connection.keeps else b"Connection: close\r\n"
        head = b"%b%b%b%bDate: %b\r\n%b\r\n" % (http1.status_line(status), lines, told, coding, http_date(), closes)
        self.connection.transport.write(head)

    async def send(self, part: bytes) -> None:
        """A part of a streamed answer; returns when the caller can take more. Raises Gone."""
        if self.gone:
            raise Gone
        self.size += len(part)
        self.connection.transport.write(b"%x\r\n%b\r\n" % (len(part), part) if self.chunked else part)
        await self.connection.drained()

    def finish(self) -> None:
        """The end of a streamed answer."""
        if self.chunked:
            self.connection.transport.write(b"0\r\n\r\n")
        self.connection.answered(self)

    def abort(self) -> None:
        """Break the connection: after the head of an answer there is no other way to say that the rest is missing."""
        self.connection.transport.abort()
        self.connection.answered(self)


def refuse(call: Call, error: BaseException) -> None:
    """Answer with an error; what is no error of ours is logged, and the caller is told no more than that."""
    with suppress(ConnectionError):
        if isinstance(error, Refused):
            call.refuse(error.error, error.status, error.headers)
        elif isinstance(error, http1.Bad):
            call.refuse(SpecError(f"The request is not taken: {error}."), error.status)
        elif isinstance(error, EkibenError):
            call.refuse(error)
        else:
            log.error("a call of %s failed", call.endpoint, exc_info=error)
            call.refuse(ProviderError("local", f"call {call.endpoint}", "the station failed", "Look at station.log"))
