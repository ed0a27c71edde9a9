"""The lean server in this process, with the service of service.py, asked without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .findings import Violation
from .wire import Reply, Wire, replies

__all__ = ["Asked", "Server", "counted"]

ROUNDS = 10_000


@dataclasses.dataclass(frozen=True)
class Asked:
    """What came back, and whether the connection was closed for it."""

    replies: list[Reply]
    closed: bool

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(status for status, _ in self.replies)


class Server:
    """`limits`: in place of the server's own. Names are not looked up and nothing is fetched: there is no network here."""

    def __init__(self, **limits: int) -> None:
        from ekiben.serving import lean, standin
        from ekiben.serving.application import Application
        from ekiben.serving.limits import Limits
        from ekiben.serving.protocol import Connection

        def unknown(*_: object, **__: object) -> NoReturn:
            raise socket.gaierror(socket.EAI_NONAME, "there is no network here")

        socket.getaddrinfo = unknown
        self.logged = _Logged()
        self.folder = tempfile.mkdtemp(prefix="fuzz-")
        tempfile.tempdir = self.folder
        standin.install()
        from . import service

        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(self._unhandled)
        self._unhandled_error: BaseException | None = None
        self._connection = Connection
        self.application = Application(service.Probe, {"name": "fuzzed", "version": "1"}, Limits(**limits))
        asyncio.events._set_running_loop(self.loop)
        try:
            self.lean = lean.Lean(self.application)
        finally:
            asyncio.events._set_running_loop(None)
        self.loop.run_until_complete(self.application.start())

    def ask(self, pieces: Sequence[bytes], methods: Sequence[bytes], *, eof: bool = False) -> Asked:
        """Send these pieces on a connection of their own, wait for all that is answered, and leave. Raises Violation."""
        return self.loop.run_until_complete(self._ask(pieces, methods, eof))

    async def _ask(self, pieces: Sequence[bytes], methods: Sequence[bytes], eof: bool) -> Asked:
        lean, self.logged.error = self.lean, None
        lean.now_s = self.loop.time()
        connection = self._connection(lean)
        wire = Wire(connection)
        connection.connection_made(wire)
        try:
            for piece in pieces:
                for _ in range(ROUNDS):
                    if wire.reading or not wire.open:
                        break
                    await asyncio.sleep(0)
                if wire.open:
                    connection.data_received(piece)
            if eof and wire.open and not connection.eof_received():
                wire.close()
            await self._settled(connection)
            if wire.open and not wire.ended and not wire.reading:
                raise Violation("a connection that waits for its next request is not read")
            closed = not wire.open or wire.ended
            found = replies(wire.sent, methods, closed)
        except BaseException:
            wire.close()
            await asyncio.sleep(0.001)
            with contextlib.suppress(Violation):
                self._clean()
            lean.connections.clear()
            lean.held_bytes = self.application.metrics.in_progress = 0
            raise
        wire.close()
        await asyncio.sleep(0)
        await self._settled(connection)
        self._clean()
        if self.logged.error is not None and any(status >= 500 for status, _ in found):
            raise self.logged.error
        return Asked(found, closed)

    async def _settled(self, connection: Any) -> None:
        """Everything that was asked is answered. What runs in a thread is waited for."""
        for number in range(ROUNDS):
            if self._unhandled_error is not None:
                error, self._unhandled_error = self._unhandled_error, None
                raise error
            await asyncio.sleep(0 if number < 100 else 0.001)
            if (
                not self.application.tasks
                and connection.current is None
                and (not connection.waiting or connection.closed)
            ):
                return
        raise Violation("a request is never answered")

    def _clean(self) -> None:
        lean, metrics = self.lean, self.application.metrics
        if lean.connections:
            raise Violation("a connection that was lost is still known")
        if lean.held_bytes:
            lean.held_bytes = 0
            raise Violation("bytes of requests that are gone still count as held")
        if metrics.in_progress:
            metrics.in_progress = 0
            raise Violation("a request that is gone still counts as in progress")
        if os.listdir(self.folder):
            for left in Path(self.folder).iterdir():
                with contextlib.suppress(OSError):
                    left.unlink()
            raise Violation("a request leaves a file behind")

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._unhandled_error = context.get("exception") or Violation(context["message"])


class _Logged(logging.Handler):
    """In place of the log: the last error that was written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        root = logging.getLogger()
        root.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.error = record.exc_info[1]


class _Counted:
    """Counts requests, with httptools and nothing else."""

    def __init__(self) -> None:
        from httptools import HttpRequestParser

        self.methods: list[bytes] = []
        self.whole = 0
        self.parser = HttpRequestParser(self)

    def on_message_begin(self) -> None:
        pass

    def on_headers_complete(self) -> None:
        self.methods.append(self.parser.get_method())

    def on_message_complete(self) -> None:
        self.whole += 1


def counted(data: bytes) -> tuple[list[bytes], int, bool]:
    """The methods of the requests in `data`, how many of them are whole, and whether all of it is HTTP."""
    from httptools import HttpParserError, HttpParserUpgrade

    found = _Counted()
    fine = True
    try:
        found.parser.feed_data(data)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        fine = False
    return found.methods, found.whole, fine
