"""The callers' side of the station's socket: calls of endpoints are read and answered here, all else is aiohttp's.

A connection is looked at anew for each request, and one that aiohttp has answered is closed. Requests are read whole before
anything is done with them, within bounds of size and time, so that a slow or hostile caller costs a buffer and nothing else.
"""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from ekiben.errors import EkibenError, SpecError, Unavailable
from ekiben.station import http1
from ekiben.station.caller import Call, refuse
from ekiben.station.deadlines import Deadlines
from ekiben.station.edge import AccessLog, Refused

__all__ = ["Connection", "Front", "Limits"]

CALLS = re.compile(rb"[A-Z]{1,20} /endpoints/")
# As nginx has it: the caller left before there was an answer.
LEFT = 499
FILES = 65_536
BACKLOG = 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What callers may use up. `spare` connections more are for those who look after the station."""

    connections: int = 1024
    spare: int = 64
    bodies_bytes: int = 256 * 1024 * 1024
    """Of all requests that are being read or answered."""
    pipelined_bytes: int = 64 * 1024
    head_s: float = 15.0
    body_s: float = 30.0
    """And a second more for each `body_bytes_per_s` that came."""
    body_bytes_per_s: int = 16 * 1024
    idle_s: float = 75.0
    stalled_s: float = 30.0
    """Without reading anything of an answer."""
    linger_s: float = 10.0
    linger_bytes: int = 64 * 1024 * 1024
    """Read and dropped of a request that was refused, so that its caller gets to see why."""


LIMITS = Limits()


class Connection(asyncio.Protocol):
    """One connection of a caller: a head, its body, its answer, and again."""

    def __init__(self, front: Front) -> None:
        self.transport: asyncio.Transport
        self.keeps = True
        self.deadlines = front.deadlines
        self._front = front
        self._limits = front.limits
        self._call: Call | None = None
        self._read: Callable[[], None] | None = self._read_head
        self._buffer = b""
        self._body: list[bytes] = []
        self._size = 0
        self._most = 0
        self._chunks: http1.Chunked | None = None
        self._timed = self._paused = False
        self._stalled: asyncio.Future[None] | None = None
        self._lingered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one, and does not say so
        self._front.connections.add(self)
        if self._front.crowd > self._limits.connections + self._limits.spare:
            self._refuse(_busy(f"{self._limits.connections} connections are open"), 503, {"Retry-After": "1"})
        else:
            self._within(self._limits.idle_s, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if self._lingered:
            self._lingered += len(data)
            if self._lingered > self._limits.linger_bytes:
                self.transport.abort()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._read is not None:
            self._read()
        elif len(self._buffer) > self._limits.pipelined_bytes and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._front.connections.discard(self)
        self.deadlines.clear(self)
        self.resume_writing()
        self._drop_body()
        call = self._call
        if call is not None and call.held and call.task is not None:
            call.task.cancel()
            call.status = LEFT
            self._front.told(call)

    def pause_writing(self) -> None:
        self._stalled = asyncio.get_running_loop().create_future()
        self.deadlines.set(self._stalled, self._limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self.deadlines.clear(self._stalled)
            if not self._stalled.done():
                self._stalled.set_result(None)
            self._stalled = None
            if self._call is None and self._read is None and not self.transport.is_closing():
                self._next()

    async def drained(self) -> None:
        if self._stalled is not None:
            await asyncio.shield(self._stalled)

    @property
    def stalled(self) -> bool:
        """Does the caller not take what is sent to it?"""
        return self._stalled is not None

    def answered(self, call: Call) -> None:
        """The answer is out, as far as this side goes: on to the next request."""
        self._front.told(call)
        self._drop_body()
        self._call = None
        if self.transport.is_closing():
            return
        if self._lingered:
            # Closed with something unread, the kernel would take back what was sent.
            self._within(self._limits.linger_s, self.transport.abort)
            self.transport.write_eof()
        elif not self.keeps or self._front.closing:
            self.transport.close()
        elif self._stalled is None:
            # Not from here when there is another request already: of a thousand that are refused each would be inside the last.
            self._front.loop.call_soon(self._next) if self._buffer else self._next()

    def idle(self) -> bool:
        return self._call is None and not self._buffer

    def _next(self) -> None:
        if self.transport.is_closing():
            return
        self._read, self._timed = self._read_head, False
        self._within(self._limits.idle_s, self.transport.close)
        if self._buffer:
            self._read_head()
        else:
            self._read_on()

    def _read_on(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _read_head(self) -> None:
        data = self._buffer
        while data[:2] == b"\r\n":
            data = data[2:]
        try:
            end = http1.head_of(data)
            if not end:
                if not self._timed:  # from the head's first byte on, not from its last
                    self._within(self._limits.head_s, self._too_slow)
                    self._timed = True
                self._buffer = data
                self._read_on()
                return
            if not CALLS.match(data):
                self._hand_over(data)
                return
            head = http1.request(data[:end])
        except http1.Bad as bad:
            self._refuse(SpecError(f"The request is not taken: {bad}."), bad.status)
            return
        self._buffer = data[end:]
        call = self._call = Call(self, head)
        self.keeps = head.keep_alive
        try:
            self._most = self._front.admit(call)
            if self._front.crowd > self._limits.connections:
                raise Refused(_busy(f"{self._limits.connections} connections are open"), 503, {"Retry-After": "1"})
            if head.length > self._most:
                raise _too_large(f"has {head.length} bytes", self._most)
        except Exception as error:
            self._fail(error, unread=head.length != 0)
            return
        if not head.length:
            self._go(b"")
            return
        if not self._buffer and head.named.get(b"expect", b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._chunks = http1.Chunked() if head.length < 0 else None
        self._read = self._read_body
        self._read_body()

    def _read_body(self) -> None:
        assert self._call is not None
        assert self._call.head is not None
        data, length = self._buffer, self._call.head.length
        self._buffer = b""
        try:
            if self._chunks is not None:
                for part in self._chunks.feed(data):
                    self._keep(part)
                if self._size > self._most:
                    raise _too_large(f"has more than {self._size - 1} bytes", self._most)
                whole = self._chunks.done
                self._buffer = self._chunks.rest
            else:
                left = length - self._size
                if len(data) > left:
                    data, self._buffer = data[:left], data[left:]
                if data:
                    self._keep(data)
                whole = self._size == length
            if not whole and self._front.bodies_bytes - self._size > self._limits.bodies_bytes:
                raise Refused(
                    _busy(f"{self._limits.bodies_bytes} bytes of other requests are held"), 503, {"Retry-After": "1"}
                )
        except Exception as error:
            self._fail(error, unread=True)
            return
        if whole:
            self._go(self._body[0] if len(self._body) == 1 else b"".join(self._body))
        else:
            self._read_on()
            began = time.perf_counter() - self._call.started
            self._within(self._limits.body_s + self._size / self._limits.body_bytes_per_s - began, self._too_slow)

    def _keep(self, part: bytes) -> None:
        self._body.append(part)
        self._size += len(part)
        self._front.bodies_bytes += len(part)

    def _drop_body(self) -> None:
        self._front.bodies_bytes -= self._size
        self._body, self._size, self._chunks = [], 0, None

    def _go(self, body: bytes) -> None:
        call = self._call
        assert call is not None
        self._read = None
        self._body = []
        call.body = body
        self.deadlines.clear(self)
        self._front.answer(call)

    def _hand_over(self, data: bytes) -> None:
        """To aiohttp, which reads the head again and does all else with this connection."""
        self._front.connections.discard(self)
        self.deadlines.clear(self)
        self._buffer = b""
        protocol = self._front.rest()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        protocol.data_received(data)

    def _too_slow(self) -> None:
        self._refuse(SpecError("The request is not taken: it came too slowly."), 408)

    def _refuse(self, error: EkibenError, status: int, headers: dict[str, str] | None = None) -> None:
        self._fail(Refused(error, status, headers), unread=True)

    def _fail(self, error: Exception, *, unread: bool) -> None:
        """Refuse what is being read. When there is more of it to come the connection is closed, and not before it was read."""
        call = self._call = self._call or Call(self, None)
        self._read = None
        if unread:
            self.keeps = False
            self._lingered = 1
            self._buffer = b""
            self._read_on()
        refuse(call, error)

    def _within(self, seconds: float, late: Callable[[], None]) -> None:
        self.deadlines.set(self, seconds, late)


class Front:
    """What the connections share. `admit` says whether a call may be made, and how large it may be; `rest` is aiohttp's."""

    def __init__(
        self,
        *,
        admit: Callable[[Call], int],
        answer: Callable[[Call], None],
        access: AccessLog,
        rest: Callable[[], asyncio.Protocol],
        limits: Limits = LIMITS,
    ) -> None:
        self.admit, self.answer, self.rest, self.limits = admit, answer, rest, limits
        self.loop = asyncio.get_running_loop()
        self.deadlines = Deadlines()
        self.connections: set[Connection] = set()
        self.bodies_bytes = 0
        self.closing = False
        self._server: asyncio.Server | None = None
        self._access = access

    @property
    def crowd(self) -> int:
        return len(self.connections)

    def told(self, call: Call) -> None:
        """A line in access.jsonl."""
        head = call.head
        method, path = (head.method.decode(), head.target.partition(b"?")[0].decode()) if head else ("", "")
        self._access.write(method, path, call.status, call.size, call.latency_ms, call.endpoint, call.revision)

    async def listen(self, listener: socket.socket) -> None:
        """Take connections. What limits them is said in `limits`, and not the few open files that shells allow."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        with suppress(OSError, ValueError):  # where the system has a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        self._server = await self.loop.create_server(lambda: Connection(self), sock=listener, backlog=BACKLOG)

    async def close(self, grace_s: float) -> None:
        """Take no more requests, let those that run end within `grace_s`, then break their connections."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        until = self.loop.time() + grace_s
        while self.connections and self.loop.time() < until:
            for connection in [connection for connection in self.connections if connection.idle()]:
                connection.transport.close()
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.transport.abort()
        self.deadlines.close()


def _busy(why: str) -> Unavailable:
    return Unavailable("local", "take the request", why, "Try again in a moment")


def _too_large(what: str, most: int) -> Refused:
    return Refused(SpecError(f"The request {what}, and the endpoint takes {most} bytes (max_request_bytes)."), 413)
