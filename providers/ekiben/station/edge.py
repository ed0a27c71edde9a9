"""The station's HTTP edge: whose host and token, errors to JSON, one line a request in access.jsonl.

Loopback alone keeps other machines out; the Host check keeps out web pages whose name was rebound to 127.0.0.1, the token other
users of this machine.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ekiben.errors import AccessDenied, EkibenError, NotFound, ProviderError, SpecError
from ekiben.records import now
from ekiben.station import tokens
from ekiben.station.store import Store
from ekiben.station.wire import to_body

__all__ = ["AccessLog", "Refused", "body_of", "guards"]

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
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, request: web.Request, status: int, size: int, ms: float) -> None:
        line = {
            "time": now(), "method": request.method, "path": request.path, "status": status, "ms": round(ms, 3),
            "endpoint": request.get("endpoint", ""), "revision": request.get("revision", ""), "bytes": size,
        }  # fmt: skip
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if self._file.tell() > ACCESS_LOG_BYTES:
            self._file.close()
            self.path.replace(self.path.with_suffix(".jsonl.1"))
            self._file = self.path.open("a", encoding="utf-8", buffering=1)

    def close(self) -> None:
        self._file.close()


def guards(store: Store, token: str, log: AccessLog, is_open: Callable[[str], bool]) -> list[Any]:
    """The middlewares, outermost first. `is_open` says whether an endpoint answers anybody."""

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        status, size = 500, 0
        try:
            response = await handler(request)
            status, size = response.status, max(response.body_length, _length(response))
        finally:
            log.write(request, status, size, (time.perf_counter() - started) * 1000)
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
        host = request.headers.get("Host", "")
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            raise AccessDenied(
                "local", "answer", f"the request names the host {host[:80]!r}, not this machine", "Call 127.0.0.1"
            )
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        name = request.match_info.get("name", "")
        if route in OPEN_ROUTES or (route.startswith("/endpoints/{name}") and is_open(name.partition("@")[0])):
            return await handler(request)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if given and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode()):
            return await handler(request)
        uses = tokens.uses_of(store, given) if given else None
        if uses is None:
            what = "is wrong" if given else "is missing"
            error = AccessDenied(
                "local", f"{request.method} {request.path}", f"the token {what}",
                "Send `Authorization: Bearer` with the station's token: the file `token` in its state directory",
            )  # fmt: skip
            raise Refused(error, 401, {"WWW-Authenticate": "Bearer"})
        if not tokens.may(uses, request.method, route, name):
            raise AccessDenied(
                "local", f"{request.method} {request.path}", "a function reaches only the components in its `uses`",
                "Add the component to `uses=[...]` of the function",
            )  # fmt: skip
        return await handler(request)

    return [logged, translated, allowed]


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object. Raises SpecError when it is none."""
    try:
        body = json.loads(await request.read() or b"{}", parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"The body of {request.method} {request.path} is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise SpecError(f"The body of {request.method} {request.path} is not a JSON object.")
    return body


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _answer(error: EkibenError, status: int = 0, headers: Mapping[str, str] | None = None) -> web.Response:
    usual, body = to_body(error)
    return web.json_response(body, status=status or usual, headers=headers)


def _length(response: web.StreamResponse) -> int:
    body = getattr(response, "body", None)
    return len(body) if isinstance(body, bytes | bytearray) else 0
