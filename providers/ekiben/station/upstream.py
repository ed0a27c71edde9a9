"""Connections to a worker's socket, kept open: a request goes out whole, its answer comes back whole or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ekiben.station import http1

__all__ = ["Answer", "Broken", "Upstream", "Upstreams"]

# Of an answer that is taken whole; a longer one, and one whose length is not told, is streamed.
WHOLE_BYTES = 512 * 1024
# Of a stream, when its reader is slower than the worker.
AHEAD_BYTES = 256 * 1024


class Broken(Exception):
    """The worker cannot be reached, has closed the connection, or does not speak HTTP. `silent`: not a byte came back."""

    def __init__(self, why: str, *, unreachable: bool = False, silent: bool = False) -> None:
        super().__init__(why)
        self.unreachable, self.silent = unreachable, silent


@dataclass(slots=True)
class Answer:
    """`body` is None when it is to be read as a stream, from `upstream`."""

    head: http1.Response
    body: bytes | None
    upstream: Upstream


class Upstream(asyncio.Protocol):
    """One connection, and one exchange at a time on it."""

    def __init__(self, home: Upstreams) -> None:
        self._home = home
        self._transport: asyncio.Transport
        self._asked = b""
        self._then: Callable[[Answer | Broken], None] | None = None
        self._head: http1.Response | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._chunks: http1.Chunked | None = None
        self._left = 0
        self._streams = False
        self._arrived = asyncio.Event()
        self._ended = True
        self._keeps = False
        self._lost = ""

    def ask(self, method: bytes, message: bytes, then: Callable[[Answer | Broken], None]) -> None:
        """Send a whole request. `then` is told once: the answer, or why there is none."""
        self._asked, self._then = method, then
        self._head, self._streams, self._ended = None, False, False
        self._transport.write(message)

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._then = None
        self.close()

    async def more(self) -> bytes:
        """What has come of a streamed answer since; empty at its end. Raises Broken when it breaks off."""
        while not self._parts:
            if self._ended:
                self._rest()
                return b""
            if self._lost:
                raise Broken(self._lost)
            self._arrived.clear()
            if not self._transport.is_closing():
                self._transport.resume_reading()
            await self._arrived.wait()
        parts, self._parts, self._size = self._parts, [], 0
        return b"".join(parts)

    def leave(self) -> None:
        """Read no more of a streamed answer: one that is not at its end has no use for its connection any more."""
        if not self._ended or self._parts:
            self.close()

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one, and does not say so

    def data_received(self, data: bytes) -> None:
        if self._ended:
            self.close()  # nobody has asked
            return
        try:
            self._take(data)
        except http1.Bad as bad:
            self._break(f"it does not speak HTTP: {bad}", silent=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._home.forget(self)
        if self._head is not None and self._head.length == -2 and error is None and not self._ended:
            self._finish()
        self._break("it closed the connection", silent=self._head is None and not self._parts)

    def _take(self, data: bytes) -> None:
        if self._head is None:
            if self._parts:
                data = b"".join([*self._parts, data])
                self._parts = []
            while True:
                end = http1.head_of(data)
                if not end:
                    self._parts = [data]
                    return
                head = http1.response(data[:end], self._asked)
                data = data[end:]
                if head.status >= 200:
                    break
            self._begin(head)
        if self._chunks is not None:
            for part in self._chunks.feed(data):
                self._keep(part)
            if self._chunks.done:
                self._finish(keep=not self._chunks.rest)
        elif self._left >= 0:
            over = len(data) > self._left
            part = data[: self._left] if over else data
            self._left -= len(part)
            if part:
                self._keep(part)
            if not self._left:
                self._finish(keep=not over)
        elif data:
            self._keep(data)

    def _begin(self, head: http1.Response) -> None:
        self._head = head
        self._size = 0
        self._left = head.length
        self._chunks = http1.Chunked() if head.length == -1 else None
        self._streams = not 0 <= head.length <= WHOLE_BYTES
        if self._streams:
            self._tell(Answer(head, None, self))

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        if self._streams:
            self._size += len(part)
            if self._size > AHEAD_BYTES:
                self._transport.pause_reading()
            self._arrived.set()

    def _finish(self, *, keep: bool = True) -> None:
        """The answer is whole. The connection is used again, unless more came than there should be."""
        head = self._head
        assert head is not None
        self._ended = True
        self._keeps = keep and head.keep_alive
        if self._streams:
            self._arrived.set()
            return
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        self._rest()
        self._tell(Answer(head, body, self))

    def _rest(self) -> None:
        """Nothing of the answer is left here: the connection can be used again, or is of no use."""
        if self._keeps and not self._transport.is_closing():
            self._transport.resume_reading()
            self._home.idle.append(self)
        else:
            self.close()

    def _break(self, why: str, *, silent: bool) -> None:
        self._lost = why
        self._arrived.set()
        self._transport.abort()
        self._tell(Broken(why, silent=silent))

    def _tell(self, outcome: Answer | Broken) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(outcome)


class Upstreams:
    """The connections to one worker: as many as there are exchanges at once."""

    def __init__(self, path: Path) -> None:
        self.idle: list[Upstream] = []
        self._path = str(path)
        self._all: set[Upstream] = set()

    async def ask(self, method: bytes, message: bytes) -> Answer:
        """Send a whole request; returns its answer. Cancelled, it closes the connection. Raises Broken."""
        outcome: Answer | Broken = Broken("", silent=True)
        if self.idle:
            outcome = await _asked(self.idle.pop(), method, message)
            # It may be closed for having been idle, which says nothing about the worker.
            if isinstance(outcome, Broken) and outcome.silent:
                self.close_idle()
        if isinstance(outcome, Broken) and outcome.silent:
            outcome = await _asked(await self._connect(), method, message)
        if isinstance(outcome, Broken):
            raise outcome
        return outcome

    async def _connect(self) -> Upstream:
        try:
            _, upstream = await asyncio.get_running_loop().create_unix_connection(lambda: Upstream(self), self._path)
        except OSError as error:
            raise Broken(f"it cannot be reached ({error.strerror or error})", unreachable=True) from error
        self._all.add(upstream)
        return upstream

    def close_idle(self) -> None:
        while self.idle:
            self.idle.pop().close()

    def forget(self, upstream: Upstream) -> None:
        self._all.discard(upstream)
        if upstream in self.idle:
            self.idle.remove(upstream)

    def close(self) -> None:
        for upstream in list(self._all):
            upstream.close()


async def _asked(upstream: Upstream, method: bytes, message: bytes) -> Answer | Broken:
    answer: asyncio.Future[Answer | Broken] = asyncio.get_running_loop().create_future()
    upstream.ask(method, message, answer.set_result)
    try:
        return await answer
    except asyncio.CancelledError:
        upstream.abandon()
        raise
