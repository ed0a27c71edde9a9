"""The access log: a line for each request, in BentoML's words or as JSON, and never a query, a token or a body.

A service asks for it (`@bentoml.service(logging={"access": {"enabled": True}})`), or its host does, with EKIBEN_SERVER_ACCESS_LOG.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from . import tracing
from .watching import Watched

__all__ = ["of_service"]

VARIABLE = "EKIBEN_SERVER_ACCESS_LOG"
FORMS = ("text", "json", "off")
SKIPPED = ("/metrics", "/healthz", "/livez", "/readyz")  # BentoML's own default, and so are the next
LIVEZ = "/health"
log = logging.getLogger("bentoml.access")


def of_service(config: dict[str, Any]) -> list[Callable[[Watched], None]]:
    """What writes the line of an exchange that has ended, where somebody wants it. Raises ValueError for an unknown form."""
    given = (config.get("logging") or {}).get("access") or {}
    form = os.environ.get(VARIABLE) or ("text" if given.get("enabled") else "off")
    if form not in FORMS:
        raise ValueError(f"{VARIABLE} is {form!r}, and must be one of {', '.join(FORMS)}")
    if form == "off":
        return []
    endpoints = config.get("endpoints") or {}
    skipped = [*given.get("skip_paths", SKIPPED), endpoints.get("livez", LIVEZ), endpoints.get("readyz", "")]
    skip = tuple(path for path in skipped if path)
    line = _json if form == "json" else _text(given)
    _to_stdout(plain=form == "json")

    def ended(exchange: Watched) -> None:
        path = exchange.path or unquote(exchange.target.partition(b"?")[0].decode("latin-1"))
        if not path.startswith(skip):
            log.info("%s", line(exchange, path), extra={"trace": exchange.trace})

    return [ended]


def _to_stdout(*, plain: bool) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(tracing.Traced())
    handler.setFormatter(logging.Formatter("%(message)s" if plain else tracing.LOG_FORMAT))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def _text(given: dict[str, Any]) -> Callable[[Watched, str], str]:
    shown = {
        name: given.get(name, True)
        for name in (
            "request_content_type",
            "request_content_length",
            "response_content_type",
            "response_content_length",
        )
    }

    def line(exchange: Watched, path: str) -> str:
        asked = ["scheme=http", f"method={exchange.method.decode('latin-1')}", f"path={_shown(path)}"]
        if shown["request_content_type"]:
            asked.append(f"type={_shown(exchange.content_type.decode('latin-1'))}")
        if shown["request_content_length"]:
            asked.append(f"length={exchange.header(b'content-length').decode('latin-1')}")
        said = [f"status={exchange.status}"]
        if shown["response_content_type"]:
            said.append(f"type={_shown(exchange.sent_type.decode('latin-1'))}")
        if shown["response_content_length"]:
            said.append(f"length={exchange.sent_bytes if exchange.sent_bytes >= 0 else ''}")
        taken_ms = (time.perf_counter() - exchange.started) * 1000
        return f"{_client(exchange)} ({','.join(asked)}) ({','.join(said)}) {taken_ms:.3f}ms"

    return line


def _json(exchange: Watched, path: str) -> str:
    trace = exchange.trace
    said = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "client": _client(exchange), "method": exchange.method.decode("latin-1"), "path": path, "status": exchange.status,
        "duration_ms": round((time.perf_counter() - exchange.started) * 1000, 3),
        "request_type": exchange.content_type.decode("latin-1"), "request_bytes": len(exchange.body),
        "response_type": exchange.sent_type.decode("latin-1"),
        "response_bytes": exchange.sent_bytes if exchange.sent_bytes >= 0 else None,
        "request_id": exchange.id.decode("latin-1"),
        **({"trace_id": trace.trace_id, "span_id": trace.span_id} if trace is not None else {}),
    }  # fmt: skip
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def _client(exchange: Watched) -> str:
    peer = exchange.connection.peer
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "_"


def _shown(text: str) -> str:
    """On one line: whoever asks must not write lines of their own."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
