"""What is said beside a request: events of Lambda, as JSON, and the headers of a trace.

An input is `trace` and the lines of headers, or any other word and an event.
"""

from __future__ import annotations

import json
from collections.abc import Hashable

from .findings import Check, Violation

__all__ = ["WORDS", "opened"]

ANSWER = [("Content-Type", "application/json"), ("Set-Cookie", "a=b"), ("X-A", "1"), ("X-A", "2")]
WORDS = [
    b"event\n", b"trace\n", b'"requestContext": {"http": {"method": "POST"}, "stage": "prod"}', b'"rawPath": "/prod/x"',
    b"null", b"[]", b"{}",
    b'"rawQueryString": "a=%ff&b"', b'"headers": {"content-type": "application/json", "Host": "x"}', b'"cookies": ["a=b"]',
    b"1e999",
    b'"isBase64Encoded": true', b'"body": "e30="', b'"body": "\\ud800"', b'"httpMethod": "GET"', b"true", b"3", b'"\\r\\nX: y"',
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n", b"tracestate: a=b,c@d=e\n", b"00-", b"-01",
    b"ff-", b",",
]  # fmt: skip


def opened() -> Check:
    from ekiben.serving import lambda_events, tracing

    def traced(text: bytes) -> Hashable:
        lines = [line.partition(b": ") for line in text.split(b"\n") if line]
        trace = tracing.of_caller([(name.lower(), value) for name, _, value in lines])
        if trace is None:
            return None
        if not (
            len(trace.trace_id) == 32 and len(trace.span_id) == 16 and 0 <= trace.flags < 256 and trace.state.isascii()
        ):
            raise Violation("a trace is no trace")
        return bool(trace.state), trace.flags & 1

    def check(data: bytes) -> Hashable:
        kind, _, text = data.partition(b"\n")
        if kind == b"trace":
            return traced(text)
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return "no event"
        try:
            request = lambda_events.request_of(event)
            result = lambda_events.result_of(event, 200, ANSWER, b"[1]")
        except lambda_events.Failed as failed:
            return failed.kind
        if not isinstance(request.body, bytes) or not all(
            isinstance(part, str) for pair in request.headers for part in pair
        ):
            raise Violation("an event makes no request")
        if not request.target.isascii() or any(byte in request.target for byte in " \r\n\0"):
            raise Violation("an event makes a request's line of its own")
        json.dumps(result)
        return request.method[:8], len(request.headers), bool(request.body), type(result).__name__

    return check
