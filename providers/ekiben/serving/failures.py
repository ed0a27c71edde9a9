"""What is answered when a call fails: BentoML's status and body for each kind of error."""

from __future__ import annotations

import logging
from typing import Any

from pydantic_core import ValidationError, to_json

from .exchange import JSON, Exchange
from .watching import tell

__all__ = ["answer_error", "answer_failure", "answer_json"]

# More of them would be an answer many times as long as the request.
MAX_DETAILS = 1000
UNEXPECTED = "An unexpected error has occurred, please check the server log."
log = logging.getLogger("bentoml.serve")


def answer_json(exchange: Exchange, status: int, body: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    if exchange.form is not None:
        body = exchange.form.told(body)
    exchange.answer(status, JSON, to_json(body), headers)


def answer_error(exchange: Exchange, status: int, why: str, *, retry_after_s: int = 0) -> None:
    """`{"error": why}`, and when to try again."""
    again = ((b"retry-after", b"%d" % retry_after_s),) if retry_after_s else ()
    answer_json(exchange, status, {"error": why}, again)


def answer_failure(exchange: Exchange, error: BaseException, *, asked: bool = False) -> None:
    """Answer with what `error` stands for. `asked`: it is about what the caller sent, which is not the log's to keep."""
    if isinstance(error, ValidationError):
        if not asked:
            _log(exchange, error)
        count, title = error.error_count(), error.title
        detail = error.errors(include_context=False, include_input=False) if count <= MAX_DETAILS else []
        answer_json(exchange, 400, {"error": f"{count} validation error for {title}", "detail": detail})
        return
    status = _status(error)
    if status is None or status >= 500:
        _log(exchange, error)
        answer_error(exchange, status or 500, UNEXPECTED)
    elif status in (401, 403):
        answer_error(exchange, status, "Authorization error")
    else:
        answer_json(exchange, status, [{"error": str(error)}])


def _status(error: BaseException) -> int | None:
    """The status of BentoML's own errors, from the stand-in or from BentoML itself."""
    for kind in type(error).__mro__:
        if kind.__name__ == "BentoMLException" and "error_mapping" in kind.__dict__:
            return int(error.error_code)  # type: ignore[attr-defined]
    return None


def _log(exchange: Exchange, error: BaseException) -> None:
    method = exchange.method.decode("latin-1")
    log.error("Exception on %s [%s]", exchange.path, method, exc_info=error, extra={"trace": exchange.trace})
    tell(exchange.connection.server.watch.failed, exchange, error)
