"""The time as text, for what is written on every request: the seconds are put in words once a second."""

from __future__ import annotations

import time
from email.utils import formatdate

__all__ = ["http_date", "now_ms"]

_second = 0
_rfc3339 = ""
_http = b""


def now_ms() -> str:
    """RFC 3339 in UTC, with milliseconds."""
    at = time.time()
    _turn(int(at))
    return f"{_rfc3339}.{int(at % 1 * 1000):03d}Z"


def http_date() -> bytes:
    """As HTTP's Date has it."""
    _turn(int(time.time()))
    return _http


def _turn(second: int) -> None:
    global _second, _rfc3339, _http
    if second != _second:
        _rfc3339 = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _http = formatdate(second, usegmt=True).encode()
        _second = second
