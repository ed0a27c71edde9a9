"""The prediction log of a server by itself: what the service answers to a POST, in the spool of a host (see spool.py).

`given` is what `ekiben serve` has made of its options: folder (of the spool), storage_uri, share, compaction and forwarding
(commands), flush_s (None: when a segment is full or old), endpoint, revision and model_version.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ahead import Ahead
from .exchange import new_id
from .spool import Spool
from .tracing import of_caller

if TYPE_CHECKING:
    from .application import Application
    from .exchange import Exchange

__all__ = ["COUNTERS", "Middleware", "Predictions", "spooled"]

COUNTERS = {
    "logged": ("ekiben_predictions_logged_total", "Predictions in the log"),
    "dropped": ("ekiben_predictions_dropped_total", "Predictions that the log could not take"),
}
# Of an answer of BentoML's own server; a larger one is logged as if it were streamed.
HELD_BYTES = 16 * 1024 * 1024
BENTOML_ID = b"x-bentoml-request-id"
Message = MutableMapping[str, Any]


def spooled(given: dict[str, Any]) -> tuple[Spool, Callable[..., None]]:
    """The spool, and what writes a row to it."""
    uri = given["storage_uri"]
    ahead = None if given["flush_s"] is None else Ahead([*given["forwarding"], uri], given["flush_s"])
    spool = Spool(Path(given["folder"]), lambda endpoint: uri, given["compaction"], ahead=ahead)
    named = {name: given[name] for name in ("endpoint", "revision", "model_version")}
    return spool, partial(spool.write, given["share"], **named)


class Predictions:
    """Of the lean server: `start` takes up what others have left, `answering` logs, `stop` brings the last rows to storage."""

    def __init__(self, application: Application, given: dict[str, Any]) -> None:
        self._application = application
        self.spool, self._write = spooled(given)
        self.start, self.stop = self.spool.start, self.spool.flush
        for kind, (name, what) in COUNTERS.items():
            application.metrics.counters[name] = (what, getattr(self.spool, kind).total)

    def answering(self, exchange: Exchange, status: int, body: bytes | None) -> None:
        if exchange.method != b"POST" or exchange.endpoint not in self._application.routes:
            return
        trace = exchange.trace
        self._write(
            id=exchange.id.decode("latin-1"), route=exchange.path.lstrip("/"), status=status,
            latency_ms=(time.perf_counter() - exchange.started) * 1000, request=exchange.body, response=body,
            trace_id=trace.trace_id if trace is not None else "",
        )  # fmt: skip


class Middleware:
    """Of BentoML's own server: ASGI. `routes` are those of the service's methods; `count` is told what became of a row."""

    def __init__(
        self,
        app: Any,
        given: dict[str, Any],
        routes: Collection[str],
        count: Callable[[str], None],
        flush_timeout_s: int,
    ) -> None:
        self._app, self._routes, self._count, self._flush_timeout_s = app, routes, count, flush_timeout_s
        self.spool, self._write = spooled(given)

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, partial(self._told, send))
        elif scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._routes:
            await self._app(scope, receive, send)
        else:
            await self._logged(scope, receive, send)

    async def _told(self, send: Callable[[Message], Awaitable[None]], message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.spool.start()
        elif message["type"].startswith("lifespan.shutdown"):
            with suppress(TimeoutError):
                await asyncio.wait_for(self.spool.flush(), self._flush_timeout_s)
        await send(message)

    async def _logged(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        started, request = time.perf_counter(), bytearray()
        held: list[Message] = []

        async def taken() -> Message:
            message = await receive()
            request.extend(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = next((value for name, value in message["headers"] if name.lower() == b"content-length"), b"")
                if said and int(said) <= HELD_BYTES:
                    # It is whole, in however many pieces. The row is to be there before the first.
                    held.append(message)
                    return
                self._row(scope, message, request, None, time.perf_counter() - started)
            elif held:
                held.append(message)
                if message.get("more_body"):
                    return
                whole = b"".join(each.get("body", b"") for each in held)
                self._row(scope, held[0], request, whole, time.perf_counter() - started)
                for each in held:
                    await send(each)
                held.clear()
                return
            await send(message)

        await self._app(scope, taken, sent)

    def _row(self, scope: Message, head: Message, request: bytearray, response: bytes | None, seconds: float) -> None:
        trace, before = of_caller(scope["headers"]), (self.spool.logged.total(), self.spool.dropped.total())
        id = next((value for name, value in head["headers"] if name.lower() == BENTOML_ID), b"") or new_id()
        self._write(
            id=id.decode("latin-1"), route=scope["path"].lstrip("/"), status=head["status"], latency_ms=seconds * 1000,
            request=request, response=response, trace_id=trace.trace_id if trace is not None else "",
        )  # fmt: skip
        if self.spool.logged.total() > before[0]:
            self._count("logged")
        elif self.spool.dropped.total() > before[1]:
            self._count("dropped")
