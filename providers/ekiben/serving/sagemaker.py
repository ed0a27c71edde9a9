"""The paths by which SageMaker knows a server, beside the service's own: GET /ping is /readyz, POST /invocations a method.

It is the method named `predict`, else the only one. What the service itself has at these paths goes before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

__all__ = ["INVOCATIONS", "PING", "default", "with_paths"]

PING, INVOCATIONS = "/ping", "/invocations"
PREDICT = "predict"

Asgi = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def default(methods: Mapping[str, Any]) -> str:
    """The name of the method that answers where no other is named; empty when none of several does."""
    if PREDICT in methods:
        return PREDICT
    return next(iter(methods)) if len(methods) == 1 else ""


def with_paths(app: Asgi, own: set[str], readyz: str, predict: str) -> Asgi:
    """An ASGI application with the two paths; `own` are those that it has, the others where it has what they stand for."""
    meant = {
        (method, path): target
        for method, path, target in (("GET", PING, readyz), ("POST", INVOCATIONS, predict))
        if target and path not in own
    }

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if target := meant.get((scope.get("method", ""), scope.get("path", ""))):
            scope = {**scope, "path": target, "raw_path": target.encode()}
        await app(scope, receive, send)

    return answer
