"""Who may call, and what they are told of who answers, where the platform says so: with EKIBEN_SERVER_TOKEN in the environment a
caller has to show that token, and with EKIBEN_SERVER_REVISION answers name the revision that gave them.

Whether a server is alive and ready, and what it has counted, anybody may ask: probes have no token.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Collection
from typing import Any

from .exchange import JSON, Exchange

__all__ = ["Asgi", "allowed", "headers", "only"]

TOKEN, REVISION = "EKIBEN_SERVER_TOKEN", "EKIBEN_SERVER_REVISION"  # noqa: S105 - the names of variables
REFUSED = b'{"error":"the token is missing or wrong"}'
ASKS = (b"www-authenticate", b"Bearer")
# Since when this process serves: an answer to a request that is older was waited for.
_SINCE = b"%d" % (1000 * time.time())


def headers() -> tuple[tuple[bytes, bytes], ...]:
    """What every answer has beside its own."""
    revision = os.environ.get(REVISION, "").encode("latin-1", "ignore")
    return ((b"x-ekiben-revision", revision), (b"x-ekiben-since-ms", _SINCE)) if revision else ()


def allowed(given: Collection[tuple[bytes, bytes]]) -> bool:
    """Do these headers show the token, where one is asked for?"""
    token = os.environ.get(TOKEN, "").encode()
    if not token:
        return True
    shown = {
        value.removeprefix(b"Bearer ").strip() for name, value in given if name in (b"authorization", b"x-ekiben-token")
    }
    return any(hmac.compare_digest(one, token) for one in shown)


def only(handle: Callable[[Exchange], None], open_paths: Collection[bytes]) -> Callable[[Exchange], None]:
    """`handle` for those who may call, and for all at `open_paths`."""
    if not os.environ.get(TOKEN):
        return handle

    def handled(exchange: Exchange) -> None:
        if allowed(exchange.headers) or exchange.target.partition(b"?")[0] in open_paths:
            handle(exchange)
        else:
            exchange.path = exchange.target.partition(b"?")[0].decode("latin-1")
            exchange.connection.server.metrics.in_progress += 1
            exchange.answer(401, JSON, REFUSED, (ASKS,))

    return handled


class Asgi:
    """The same around an ASGI application."""

    def __init__(self, application: Any, open_paths: Collection[str]) -> None:
        self._application, self._open, self._headers = application, frozenset(open_paths), headers()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
        elif scope["path"] in self._open or allowed(scope["headers"]):
            await self._application(scope, receive, self._told(send))
        else:
            head = [(b"content-type", JSON), (b"content-length", b"%d" % len(REFUSED)), ASKS, *self._headers]
            await send({"type": "http.response.start", "status": 401, "headers": head})
            await send({"type": "http.response.body", "body": REFUSED})

    def _told(self, send: Any) -> Any:
        if not self._headers:
            return send

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        return told
