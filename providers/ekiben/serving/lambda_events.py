"""What Lambda hands over, as an HTTP request, and the answer as Lambda wants it back.

An event of a function URL or of an API Gateway HTTP API (payload format 2.0) is the request that it describes; any other event is
the JSON of a call of the service's default method, and what that answers is the result. Sources: "Lambda function URLs: request
and response payloads" and "Create AWS Lambda proxy integrations for HTTP APIs", both of AWS.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

from .sagemaker import INVOCATIONS

__all__ = ["Failed", "Request", "request_of", "result_of"]

# Of one connection, or made anew for the next.
HOP_BY_HOP = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
TEXTS = ("application/javascript", "application/json", "application/x-ndjson", "application/xml", "image/svg+xml")
# What a path or a query may have as it stands; a percent sign begins what is encoded already.
SAFE = "/%:@!$&'()*+,;=?~-._[]"


class Failed(Exception):
    """The invocation fails. `kind` is what Lambda calls the error's type."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Request(NamedTuple):
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


def request_of(event: Any) -> Request:
    """The request in an event. Raises Failed for one of another payload format, and for what only looks like one of ours."""
    try:
        return _request_of(event)
    except (ValueError, TypeError, AttributeError) as error:
        raise Failed("Ekiben.Request", f"The event describes no HTTP request: {error}.") from error


def _request_of(event: Any) -> Request:
    http = _http(event)
    if http is None:
        if isinstance(event, dict) and "httpMethod" in event:
            raise Failed(
                "Ekiben.PayloadFormat",
                "The event has payload format 1.0, of a REST API or a load balancer. Use a function URL, or an HTTP API with 2.0.",
            )
        return Request("POST", INVOCATIONS, [("content-type", "application/json")], json.dumps(event).encode())
    headers = [(name, str(value)) for name, value in (event.get("headers") or {}).items()]
    headers = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
    if cookies := event.get("cookies"):
        headers = [*(pair for pair in headers if pair[0].lower() != "cookie"), ("cookie", "; ".join(cookies))]
    body = event.get("body") or ""
    return Request(
        str(http.get("method", "GET")), _target(event), headers,
        base64.b64decode(body) if event.get("isBase64Encoded") else body.encode("utf-8", "surrogatepass"),
    )  # fmt: skip


def result_of(event: Any, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Any:
    """What Lambda is given for an answer to the request of `event`. Raises Failed when a call without HTTP has failed."""
    several: dict[str, list[str]] = {}
    for name, value in headers:
        several.setdefault(name.lower(), []).append(value)
    kind = ",".join(several.get("content-type", [])).partition(";")[0].strip().lower()
    if _http(event) is None:
        if status != 200:
            raise Failed(f"Ekiben.Http{status}", body.decode("utf-8", "replace"))
        return json.loads(body) if kind == "application/json" else _text(body, kind, encoded=False)[0]
    cookies = several.pop("set-cookie", [])
    text, encoded = _text(body, kind, encoded="content-encoding" in several)
    return {
        "statusCode": status,
        "headers": {name: ",".join(values) for name, values in several.items() if name not in HOP_BY_HOP},
        **({"cookies": cookies} if cookies else {}),
        "body": text,
        "isBase64Encoded": encoded,
    }


def _http(event: Any) -> dict[str, Any] | None:
    context = event.get("requestContext") if isinstance(event, dict) else None
    http = context.get("http") if isinstance(context, dict) else None
    return http if isinstance(http, dict) else None


def _target(event: dict[str, Any]) -> str:
    path = event.get("rawPath") or "/"
    # An API has its stage in the path, unless that is the default one.
    stage = event["requestContext"].get("stage") or "$default"
    if stage != "$default" and (path == f"/{stage}" or path.startswith(f"/{stage}/")):
        path = path[len(stage) + 1 :] or "/"
    query = event.get("rawQueryString") or ""
    return quote(path, safe=SAFE.replace("?", "")) + (f"?{quote(query, safe=SAFE)}" if query else "")


def _text(body: bytes, kind: str, *, encoded: bool) -> tuple[str, bool]:
    """The body as Lambda's JSON can have it: itself, or in base64, and which."""
    if not encoded and (kind.startswith("text/") or kind in TEXTS or kind.endswith("+json") or not body):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode(), True
