"""What is the same of calls of endpoints on every provider: payloads as JSON, and what a model's refusal means."""

from __future__ import annotations

import json
from typing import Any

from ekiben.errors import EkibenError, ModelFailed, SpecError, Unavailable

__all__ = ["as_json", "parsed", "refusal"]


def as_json(body: Any, what: str) -> str:
    """The JSON text of `body`. Raises SpecError, which begins with `what` and shows the body, where there is none."""
    try:
        text = json.dumps(body, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        shown = repr(body)
        shown = shown if len(shown) <= 200 else shown[:197] + "..."
        raise SpecError(f"{what} cannot be sent as JSON: {error}. It was: {shown}.") from error
    return text


def parsed(provider: str, endpoint: str, route: str, body: bytes) -> Any:
    """The model's answer. Raises ModelFailed for what is not JSON."""
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise ModelFailed(f"{provider}: the endpoint {endpoint!r} answered {route!r} with what is not JSON.") from error


def refusal(provider: str, endpoint: str, route: str, status: int, raw: bytes) -> EkibenError:
    """The error that an HTTP status of 400 or more, and what the model's server said with it, stand for."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    said = body.get("error") if isinstance(body, dict) else None
    detail = body.get("detail") if isinstance(body, dict) else None
    text = _fields(detail) or str(said or detail or raw[:500].decode("utf-8", "replace"))
    if status == 503:
        why = text.rstrip(".") or "it is busy"
        return Unavailable(provider, f"call the endpoint {endpoint!r}", why, "Try again later")
    if status < 500:
        return SpecError(
            f"{provider}: the model behind {endpoint!r} refuses the call of {route!r} (HTTP {status}): {text}"
        )
    return ModelFailed(f"{provider}: the model behind {endpoint!r} failed at {route!r} (HTTP {status}): {text}")


def _fields(detail: Any) -> str:
    """BentoML's list of what is wrong with a request: the first five fields, each with its place."""
    if not isinstance(detail, list) or not all(isinstance(item, dict) and "msg" in item for item in detail):
        return ""
    told = [": ".join((".".join(map(str, item.get("loc") or ())), str(item["msg"]))) for item in detail[:5]]
    more = f"; and {len(detail) - 5} more" if len(detail) > 5 else ""
    return "; ".join(text.removeprefix(": ") for text in told) + more
