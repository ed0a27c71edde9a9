"""`bentoml.Context`: the request and the answer of the call at hand, with Starlette's own request when it is asked for."""

from __future__ import annotations

import contextvars
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

__all__ = ["Call", "Cookie", "ServiceContext", "call", "request_temp_dir", "server_context"]

call: contextvars.ContextVar[Call] = contextvars.ContextVar("call")


class Call:
    """One request: made for methods that take a context or files. `scope` is its ASGI scope."""

    def __init__(self, scope: dict[str, Any], body: bytes) -> None:
        self._scope, self._body = scope, body
        self.temp_dir = ""

    @cached_property
    def request(self) -> Any:
        from starlette.requests import Request

        sent = iter([{"type": "http.request", "body": self._body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(sent, {"type": "http.disconnect"})

        request: Any = Request(self._scope, receive)
        request._body = self._body
        request.metadata = request.headers
        return request

    @cached_property
    def response(self) -> ResponseContext:
        return ResponseContext()

    def close(self) -> None:
        if self.temp_dir:
            shutil.rmtree(self.temp_dir, ignore_errors=True)


@dataclass
class Cookie:
    """As Starlette's `Response.set_cookie` takes it."""

    key: str
    value: str
    max_age: int | None
    expires: int | None
    path: str
    domain: str | None
    secure: bool
    httponly: bool
    samesite: str


def _headers() -> Any:
    from starlette.datastructures import MutableHeaders

    return MutableHeaders()


@dataclass
class ResponseContext:
    """What a method adds to its answer."""

    metadata: Any = field(default_factory=_headers)
    cookies: list[Cookie] = field(default_factory=list)
    status_code: int = 200

    @property
    def headers(self) -> Any:
        return self.metadata

    @headers.setter
    def headers(self, headers: Any) -> None:
        self.metadata = headers

    @cached_property
    def background(self) -> Any:
        from starlette.background import BackgroundTasks

        return BackgroundTasks()

    def set_cookie(
        self,
        key: str,
        value: str,
        max_age: int | None = None,
        expires: int | None = None,
        path: str = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: str = "lax",
    ) -> None:
        self.cookies.append(Cookie(key, value, max_age, expires, path, domain, secure, httponly, samesite))


class ServiceContext:
    """What a method that takes `ctx: bentoml.Context` gets; `state` is the process's own."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    @property
    def request(self) -> Any:
        return call.get().request

    @property
    def response(self) -> ResponseContext:
        return call.get().response

    @property
    def temp_dir(self) -> str:
        return request_temp_dir()


def request_temp_dir() -> str:
    """A folder of the request's own, removed with it."""
    this = call.get()
    if not this.temp_dir:
        this.temp_dir = tempfile.mkdtemp(prefix="request-")
    return this.temp_dir


@dataclass
class _Component:
    bento_name: str = ""
    bento_version: str = "not available"
    service_type: str | None = None
    service_name: str | None = None
    worker_index: int | None = None
    service_routes: list[str] = field(default_factory=list)

    @property
    def yatai_bento_deployment_name(self) -> str:
        return os.environ.get("YATAI_BENTO_DEPLOYMENT_NAME", "")

    @property
    def yatai_bento_deployment_namespace(self) -> str:
        return os.environ.get("YATAI_BENTO_DEPLOYMENT_NAMESPACE", "")


server_context = _Component()
