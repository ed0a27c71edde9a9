"""Exchanges that are watched: by CORS, the access log, spans and the prediction log, where a service or its host asks for them.

A server that nobody watches makes plain exchanges, and pays nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .exchange import Exchange, Headers

if TYPE_CHECKING:
    from .lean import Lean
    from .protocol import Connection

__all__ = ["Watch", "Watched", "install", "tell"]

log = logging.getLogger("ekiben.serving")


@dataclass
class Watch:
    """What is called with each exchange. What they raise is logged, and changes no answer.

    headers: with an answer's headers, for those to send; answering: before an answer leaves, with its body, None for one that
    comes in pieces; failed: with what a call has raised; ended: when the answer is complete; starts: when the
    service has started; stops: at the end, all at once.
    """

    starts: list[Callable[[], None]] = field(default_factory=list)
    stops: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    headers: list[Callable[[Exchange, Headers], Headers]] = field(default_factory=list)
    answering: list[Callable[[Watched, int, bytes | None], None]] = field(default_factory=list)
    failed: list[Callable[[Exchange, BaseException], None]] = field(default_factory=list)
    ended: list[Callable[[Watched], None]] = field(default_factory=list)

    async def stop(self, timeout_s: float) -> None:
        """Let those who have something to send send it. What takes longer is left."""
        if self.stops:
            _, late = await asyncio.wait([asyncio.ensure_future(each()) for each in self.stops], timeout=timeout_s)
            for each in late:
                each.cancel()


class Watched(Exchange):
    """Knows what was answered: `sent_type`, and `sent_bytes` where the length is known beforehand, else -1."""

    __slots__ = ("sent_bytes", "sent_type")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.sent_type, self.sent_bytes = b"", -1

    def answer(self, status: int, content_type: bytes, body: bytes, headers: Headers = ()) -> None:
        if not self.answered:
            self.sent_bytes = len(body)
            tell(self.connection.server.watch.answering, self, status, body)
        super().answer(status, content_type, body, headers)

    def start(self, status: int, content_type: bytes, headers: Headers = (), length: int | None = None) -> None:
        if not self.answered and not self.status:
            self.sent_bytes = -1 if length is None else length
            tell(self.connection.server.watch.answering, self, status, None)
        super().start(status, content_type, headers, length)

    def _head(self, status: int, content_type: bytes, headers: Headers) -> bytes:
        for each in self.connection.server.watch.headers:
            headers = each(self, headers)
        self.sent_type = content_type or next(
            (value for name, value in headers if name.lower() == b"content-type"), b""
        )
        return super()._head(status, content_type, headers)

    def _done(self) -> None:
        super()._done()
        tell(self.connection.server.watch.ended, self)


def tell(watchers: Iterable[Callable[..., None]], *what: Any) -> None:
    for each in watchers:
        try:
            each(*what)
        except Exception:
            log.exception("what watches the exchanges has failed")


def install(lean: Lean, predictions: dict[str, Any] | None = None) -> None:
    """Have the exchanges of a server watched by those whom its service or the environment asks for.

    `predictions`: where and how answers are logged (see predictions.py). Raises ValueError for what they must not ask for.
    """
    application, watch = lean.application, lean.watch
    config = application.service.config
    if ((config.get("http") or {}).get("cors") or {}).get("enabled"):
        from . import cors

        application.cors = cors.of_service(config)
        watch.headers.append(application.cors.headers)
    if ((config.get("http") or {}).get("response") or {}).get("trace_id"):
        watch.headers.append(_with_trace)
    if os.environ.get("EKIBEN_SERVER_ACCESS_LOG") or ((config.get("logging") or {}).get("access") or {}).get("enabled"):
        from . import access

        watch.ended += access.of_service(config)
    if any(name.startswith("OTEL_") for name in os.environ):
        from . import otel

        if spans := otel.start(application):
            lean.handle = lean.handle_traced = spans.handle
            watch.failed.append(spans.failed)
            watch.ended.append(spans.ended)
            watch.stops.append(spans.stop)
    if any(name in os.environ for name in ("EKIBEN_SERVER_TOKEN", "EKIBEN_SERVER_REVISION")):
        from . import callers

        lean.handle, lean.handle_traced = (
            callers.only(each, application.health) for each in (lean.handle, lean.handle_traced)
        )
        lean.head += b"".join(b"%s: %s\r\n" % header for header in callers.headers())
    if predictions is not None:
        from .predictions import Predictions

        logged = Predictions(application, predictions)
        watch.starts.append(logged.start)
        watch.answering.append(logged.answering)
        watch.stops.append(logged.stop)
    if watch != Watch():
        lean.exchange = Watched


def _with_trace(exchange: Exchange, headers: Headers) -> Headers:
    """BentoML's `http={"response": {"trace_id": True}}`."""
    return headers if exchange.trace is None else [*headers, (b"x-bentoml-trace-id", exchange.trace.trace_id.encode())]
