"""W3C trace context: whose trace a request belongs to, as its `traceparent` says it, and where it is known while it is answered.

The log, OpenTelemetry's current span (where the service has imported OpenTelemetry) and what a method starts in a thread have it.
Nothing here imports OpenTelemetry.
"""

from __future__ import annotations

import contextvars
import logging
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exchange import Exchange

__all__ = ["LOG_FORMAT", "Trace", "Traced", "current", "enter", "of_caller", "run", "state_of"]

# https://www.w3.org/TR/trace-context/: a version that is not known yet may say more, after another hyphen.
TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
INVALID_VERSION, FIRST_VERSION = b"ff", b"00"
NO_TRACE, NO_SPAN = b"0" * 32, b"0" * 16
MEMBER = re.compile(
    rb"([a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
MAX_MEMBERS = 32
SAMPLED = 1
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(traced)s"

current: contextvars.ContextVar[Trace] = contextvars.ContextVar("trace")


class Trace:
    """Where a request stands: its trace, and the span that what it does belongs to.

    span: OpenTelemetry's, where there is one; error: the kind of what the call has raised.
    """

    __slots__ = ("error", "flags", "span", "span_id", "state", "trace_id")

    def __init__(self, trace_id: str, span_id: str, flags: int, state: str = "", span: Any = None) -> None:
        self.trace_id, self.span_id, self.flags, self.state, self.span = trace_id, span_id, flags, state, span
        self.error = ""


def of_caller(headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """What the caller's `traceparent` says; None where there is none, more than one, or a malformed one."""
    found = [value for name, value in headers if name == b"traceparent"]
    match = TRACEPARENT.fullmatch(found[0].strip(b" \t")) if len(found) == 1 else None
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == INVALID_VERSION or (version == FIRST_VERSION and more) or trace_id == NO_TRACE or span_id == NO_SPAN:
        return None
    state = state_of(value for name, value in headers if name == b"tracestate")
    return Trace(trace_id.decode(), span_id.decode(), int(flags, 16), state)


def state_of(values: Iterable[bytes]) -> str:
    """The members of `tracestate` headers as one; empty where one of them is malformed, twice there, or one too many."""
    members = [member for value in values for member in (part.strip(b" \t") for part in value.split(b",")) if member]
    keys = set()
    for member in members:
        match = MEMBER.fullmatch(member)
        if match is None or match[1] in keys:
            return ""
        keys.add(match[1])
    return b",".join(members).decode() if len(members) <= MAX_MEMBERS else ""


def run(handle: Callable[[Exchange], None], exchange: Exchange) -> None:
    """Have an exchange answered in a context of its own, which knows its trace."""
    assert exchange.trace is not None
    context = contextvars.copy_context()
    context.run(enter, exchange.trace)
    context.run(handle, exchange)


def enter(trace: Trace) -> None:
    """From now on, in this context, the trace is current."""
    current.set(trace)
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None or trace.span is not None:
        return
    from opentelemetry import context

    span = opentelemetry.SpanContext(
        int(trace.trace_id, 16), int(trace.span_id, 16), True,
        opentelemetry.TraceFlags(trace.flags), opentelemetry.TraceState.from_header([trace.state]),
    )  # fmt: skip
    context.attach(opentelemetry.set_span_in_context(opentelemetry.NonRecordingSpan(span)))


class Traced(logging.Filter):
    """Gives each record `traced`: in BentoML's words the trace that it belongs to, or nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        trace: Trace | None = getattr(record, "trace", None) or current.get(None)
        record.traced = ""
        if trace is not None:
            span_id, sampled = trace.span_id, trace.flags & SAMPLED
            if (inner := _inner(trace)) is not None:
                span_id, sampled = f"{inner.span_id:016x}", int(inner.trace_flags.sampled)
            record.traced = f" (trace={trace.trace_id},span={span_id},sampled={sampled})"
        return True


def _inner(trace: Trace) -> Any:
    """The span that the service itself has begun within this trace and not ended."""
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return None
    found = opentelemetry.get_current_span().get_span_context()
    return found if found.trace_id == int(trace.trace_id, 16) else None
