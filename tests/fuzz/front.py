"""Any bytes on a connection of the station's own socket, up to where aiohttp takes it over."""

from __future__ import annotations

import asyncio
import random
import tempfile
import zlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from .findings import Check, Violation
from .server import Asked
from .wire import Wire, replies

__all__ = ["WORDS", "opened"]

EXPECTED = {200, 400, 404, 408, 413, 431, 501, 503}
MAX_BYTES = 4096
QUIET = 4
WORDS = [
    b"POST /endpoints/api/predict HTTP/1.1\r\nHost: x\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD ",
    b"Host: x\r\n",
    b"Content-Length: ", b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"ffffffff\r\n", b"5;x=y\r\n", b"\r\n\r\n", b"\r\n",
    b" HTTP/1.0\r\n",
    b"Connection: close\r\n", b"Connection: X-Hop, keep-alive\r\n", b"Expect: 100-continue\r\n", b"Authorization: Bearer t\r\n",
    b"\r\n folded\r\n", b"x: y\r\n" * 101, b"y" * 3000,
]  # fmt: skip


class Fronted:
    """A front of its own, whose endpoint says back what it was sent."""

    def __init__(self) -> None:
        from ekiben.station.edge import AccessLog
        from ekiben.station.front import Connection, Front, Limits

        self.loop = asyncio.new_event_loop()
        self._connection = Connection
        self.bodies: list[bytes] = []
        self.methods: list[bytes] = []
        self.failure: BaseException | None = None
        self.handed_over = False
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.loop.set_exception_handler(self._unhandled)
        self.front: Any = self.loop.run_until_complete(self._made(Front, AccessLog(folder / "access.jsonl"), Limits()))

    async def _made(self, front: Any, access: Any, limits: Any) -> Any:
        return front(admit=self._admit, answer=self._answer, access=access, rest=self._rest, limits=limits)

    def ask(self, pieces: Sequence[bytes]) -> Asked:
        """Send these pieces on a connection of their own, then leave. Raises Violation."""
        return self.loop.run_until_complete(self._ask(pieces))

    async def _ask(self, pieces: Sequence[bytes]) -> Asked:
        self.bodies, self.methods, self.failure, self.handed_over = [], [], None, False
        connection = self._connection(self.front)
        wire = Wire(connection)
        connection.connection_made(wire)
        try:
            for piece in pieces:
                await asyncio.sleep(0)
                if wire.open and not self.handed_over:
                    connection.data_received(piece)
            await self._settled(connection, wire)
            if self.failure is not None:
                raise self.failure
            closed = not wire.open or wire.ended
            return Asked(replies(wire.sent, self.methods, closed), closed)
        finally:
            wire.close()
            await asyncio.sleep(0)
            left = self.front.connections or self.front.bodies_bytes
            self.front.connections.clear()
            self.front.bodies_bytes = 0
            if left and self.failure is None:
                raise Violation("a connection or its bytes are still known when it is lost")

    async def _settled(self, connection: Any, wire: Wire) -> None:
        """Nothing more happens: the answers and what is left to read stay as they are."""
        same, before = 0, (-1, -1)
        while same < QUIET:
            await asyncio.sleep(0)
            now = len(wire.sent), len(connection._buffer)
            same, before = (same + 1 if now == before and len(asyncio.all_tasks()) == 1 else 0), now

    def _admit(self, call: Any) -> int:
        self.methods.append(call.head.method)
        return MAX_BYTES

    def _answer(self, call: Any) -> None:
        async def echo() -> None:
            self.bodies.append(call.body)
            call.answer(200, b"", call.body)

        call.start(echo())

    def _rest(self) -> asyncio.Protocol:
        self.handed_over = True
        return asyncio.Protocol()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failure = context.get("exception") or Violation(context["message"])


def opened() -> Check:
    fronted = Fronted()

    def check(data: bytes) -> Hashable:
        draw = random.Random(zlib.crc32(data))
        seen = []
        for pieces in ([data], cut(data, draw)):
            asked = fronted.ask(pieces)
            if unexpected := set(asked.statuses) - EXPECTED:
                raise Violation(f"an answer is a {min(unexpected)}")
            if any(status >= 400 and not (body or b"HEAD" in data) for status, body in asked.replies):
                raise Violation("a refusal does not say why")
            seen.append((asked.statuses, tuple(fronted.bodies), fronted.handed_over))
        if seen[0] != seen[1]:
            raise Violation("packets of another size make other answers")
        return seen[0][0][:4], len(seen[0][1]), fronted.handed_over

    return check


def cut(data: bytes, draw: random.Random) -> list[bytes]:
    """`data` in pieces, short ones or long ones."""
    found, at = [], 0
    usual = draw.choice((1, 3, 20, 200))
    while at < len(data):
        size = 1 + int(draw.expovariate(1 / usual))
        found.append(data[at : at + size])
        at += size
    return found
