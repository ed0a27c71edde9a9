"""Any bytes as a worker's answer to the station's gateway: a whole answer, a stream, or a broken connection, and no fourth way."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from .findings import Check, Violation
from .front import cut
from .wire import Wire

__all__ = ["WORDS", "opened"]

WORDS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n",
    b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n",
    b"0\r\nX: y\r\n\r\n",
    b"Content-Length: 99999999\r\n", b"Connection: close\r\n", b"\r\n\r\n", b"ffffffff\r\n", b"\r\n folded\r\n",
    b"x: y\r\n" * 101,
]  # fmt: skip


def opened() -> Check:
    from ekiben.station.upstream import Answer, Broken, Upstream, Upstreams

    loop = asyncio.new_event_loop()
    failures: list[BaseException] = []
    loop.set_exception_handler(
        lambda _, context: failures.append(context.get("exception") or Violation(context["message"]))
    )

    async def answered(method: bytes, pieces: Sequence[bytes]) -> tuple[Hashable, ...]:
        home = Upstreams(Path("/nowhere"))
        upstream = Upstream(home)
        wire = Wire(upstream)
        upstream.connection_made(wire)
        told: list[Any] = []
        upstream.ask(method, b"", told.append)
        streamed: asyncio.Task[bytes] | None = None
        for piece in pieces:
            if wire.open:
                upstream.data_received(piece)
            if told and isinstance(told[0], Answer) and told[0].body is None and streamed is None:
                streamed = loop.create_task(_all_of(upstream))
            await asyncio.sleep(0)
        reused = upstream in home.idle
        if wire.open:
            wire.close()
        for _ in range(5):
            await asyncio.sleep(0)
        if len(told) != 1:
            raise Violation("a question has not one outcome")
        if failures:
            raise failures.pop()
        if home.idle:
            raise Violation("a lost connection is kept for the next question")
        outcome = told[0]
        if isinstance(outcome, Broken):
            return "broken", outcome.silent
        if streamed is None:
            return outcome.head.status, outcome.body, reused
        try:
            return outcome.head.status, await asyncio.wait_for(streamed, 5)
        except Broken:
            return outcome.head.status, "broken"

    def check(data: bytes) -> Hashable:
        method = b"HEAD" if data[:1] == b"h" else b"POST"
        seen = [
            loop.run_until_complete(answered(method, pieces))
            for pieces in ([data] * bool(data), cut(data, random.Random(zlib.crc32(data))))
        ]
        # What comes after a whole answer spoils the connection, not the answer; in one packet it is known sooner.
        if [each[:2] for each in seen[:1]] != [each[:2] for each in seen[1:]]:
            raise Violation("packets of another size make another answer")
        return seen[0][0], type(seen[0][1]).__name__, len(seen[0])

    return check


async def _all_of(upstream: Any) -> bytes:
    found = b""
    while part := await upstream.more():
        found += part
    return found
