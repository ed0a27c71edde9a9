"""The station's HTTP edge: whose host and token, errors to JSON, one line a request in access.jsonl.

Loopback alone keeps other machines out; the Host check keeps out web pages whose name was rebound to 127.0.0.1, the token other
users of this machine.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any

from aiohttp import web

from ekiben import records
from ekiben.errors import AccessDenied, EkibenError, NotFound, ProviderError, SpecError
from ekiben.serving.clock import now_ms
from ekiben.station import tokens
from ekiben.station.store import Store
from ekiben.station.wire import to_body

__all__ = ["AccessLog", "Guard", "Refused", "body_of", "guards"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_ROUTES = ("/livez", "/readyz", "/metrics")
HOSTS = ("127.0.0.1", "localhost", "[::1]")
ACCESS_LOG_BYTES = 64 * 1024 * 1024


class Refused(Exception):
    """An EkibenError with a status or headers of its own: 401, 413, 502, 504, Retry-After."""

    def __init__(self, error: EkibenError, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.error, self.status, self.headers = error, status, dict(headers or {})


class AccessLog:
    """access.jsonl: time, method, path, status, ms, endpoint, revision, bytes. No query, no token. One older file is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._size = path.stat().st_size
        self._lines: list[str] = []
        self._failed = False

    def write(
        self, method: str, path: str, status: int, size: int, ms: float, endpoint: str = "", revision: str = ""
    ) -> None:
        """Note a request. All that are noted in one turn of the event loop are one write, after it."""
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(
            f'{{"time":"{now_ms()}","method":"{method}","path":{quoted(path)},"status":{status},"ms":{ms:.3f},'
            f'"endpoint":{quoted(endpoint)},"revision":"{revision}","bytes":{size}}}\n'
        )

    def _flush(self) -> None:
        data = "".join(self._lines).encode("utf-8", "replace")
        self._lines.clear()
        try:
            self._file.write(data)
            self._size += len(data)
            if self._size > ACCESS_LOG_BYTES:
                self._file.close()
                self.path.replace(self.path.with_suffix(".jsonl.1"))
                self._file, self._size = self.path.open("ab", buffering=0), 0
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._failed = True
                logging.getLogger("ekiben.station").error("access.jsonl cannot be written: %s", error)

    def close(self) -> None:
        if self._lines:
            self._flush()
        self._file.close()


class Guard:
    """Who may call: those who name this machine, and have the station's token or a function's."""

    def __init__(self, store: Store, token: str) -> None:
        self._store, self._token = store, token.encode()

    def check_host(self, host: str) -> None:
        """Raises AccessDenied for the name of another machine."""
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            raise AccessDenied(
                "local", "answer", f"the request names the host {host[:80]!r}, not this machine", "Call 127.0.0.1"
            )

    def check_token(self, authorization: bytes, method: str, path: str, route: str, name: str) -> None:
        """Raises Refused (401) without a token that is known, AccessDenied for a function's that does not reach this."""
        given = authorization.removeprefix(b"Bearer ").strip()
        if given and hmac.compare_digest(given, self._token):
            return
        uses = tokens.uses_of(self._store, given.decode("utf-8", "surrogateescape")) if given else None
        if uses is None:
            what = "is wrong" if given else "is missing"
            error = AccessDenied(
                "local", f"{method} {path}", f"the token {what}",
                "Send `Authorization: Bearer` with the station's token: the file `token` in its state directory",
            )  # fmt: skip
            raise Refused(error, 401, {"WWW-Authenticate": "Bearer"})
        if not tokens.may(uses, method, route, name):
            raise AccessDenied(
                "local", f"{method} {path}", "a function reaches only the components in its `uses`",
                "Add the component to `uses=[...]` of the function",
            )  # fmt: skip


def guards(guard: Guard, log: AccessLog) -> list[Any]:
    """The middlewares of all but the endpoints' calls, outermost first."""

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        status, size = 500, 0
        try:
            response = await handler(request)
            # The next request may be a call of an endpoint, which is not read here.
            response.force_close()
            status, size = response.status, max(response.body_length, _length(response))
        finally:
            log.write(request.method, request.path, status, size, (time.perf_counter() - started) * 1000)
        return response

    @web.middleware
    async def translated(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return _answer(refused.error, refused.status, refused.headers)
        except EkibenError as error:
            return _answer(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            kind = NotFound if error.status == 404 else ProviderError
            refusal = kind("local", f"{request.method} {request.path}", error.reason.lower(), "Look at docs/station.md")
            return _answer(refusal, error.status)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            logging.getLogger("ekiben.station").exception("%s %s failed", request.method, request.path)
            return _answer(
                ProviderError("local", f"{request.method} {request.path}", "the station failed", "Look at station.log")
            )

    @web.middleware
    async def allowed(request: web.Request, handler: Handler) -> web.StreamResponse:
        guard.check_host(request.headers.get("Host", ""))
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        if route not in OPEN_ROUTES:
            given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
            guard.check_token(given, request.method, request.path, route, request.match_info.get("name", ""))
        return await handler(request)

    return [logged, translated, allowed]


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises SpecError when it is none."""
    try:
        body = records.parse(await request.read() or b"{}")
    except (ValueError, RecursionError) as error:
        raise SpecError(f"The body of {request.method} {request.path} is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise SpecError(f"The body of {request.method} {request.path} is not a JSON object.")
    return body


def _answer(error: EkibenError, status: int = 0, headers: Mapping[str, str] | None = None) -> web.Response:
    usual, body = to_body(error)
    return web.json_response(body, status=status or usual, headers=headers)


def _length(response: web.StreamResponse) -> int:
    body = getattr(response, "body", None)
    return len(body) if isinstance(body, bytes | bytearray) else 0
