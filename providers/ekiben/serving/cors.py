"""Cross-origin requests (`@bentoml.service(http={"cors": {...}})`), answered as Starlette's CORSMiddleware answers them."""

from __future__ import annotations

import re
from typing import Any

from .exchange import TEXT, Exchange, Headers

__all__ = ["Cors", "of_service"]

ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")
# What a browser may send without asking.
SAFE_HEADERS = {"Accept", "Accept-Language", "Content-Language", "Content-Type"}
MAX_AGE_S = 600
PREFIX = "access_control_"
ASKED = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"


def of_service(config: dict[str, Any]) -> Cors:
    """What the configuration of a service that has CORS enabled allows. Raises ValueError where it says no origin."""
    said = {key.removeprefix(PREFIX): value for key, value in config["http"]["cors"].items() if value is not None}
    if not said.keys() & {"allow_origins", "allow_origin_regex"}:
        raise ValueError("http.cors is enabled and access_control_allow_origins is not set. Say which origins may ask.")
    return Cors(said)


class Cors:
    """`preflight` answers what a browser asks before it asks; `headers` are those of every other answer."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._origins = _texts(said.get("allow_origins"))
        self._all_origins = "*" in self._origins
        self._pattern = re.compile(said["allow_origin_regex"]) if "allow_origin_regex" in said else None
        methods = _texts(said.get("allow_methods", "GET"))
        self._methods = ALL_METHODS if "*" in methods else tuple(methods)
        asked = _texts(said.get("allow_headers"))
        self._all_headers = "*" in asked
        allowed = sorted(SAFE_HEADERS | set(asked))
        self._headers = {name.lower() for name in allowed}
        self._credentials = bool(said.get("allow_credentials"))
        exposed = ", ".join(_texts(said.get("expose_headers")))
        self._simple = _encoded(
            {
                "access-control-allow-origin": "*" if self._all_origins else "",
                "access-control-allow-credentials": "true" if self._credentials else "",
                "access-control-expose-headers": exposed,
            }
        )
        self._preflight = _encoded(
            {
                "vary": ASKED,
                "access-control-allow-origin": "*" if self._all_origins and not self._credentials else "",
                "access-control-allow-methods": ", ".join(self._methods),
                "access-control-max-age": str(said.get("max_age", MAX_AGE_S)),
                "access-control-allow-headers": "" if self._all_headers else ", ".join(allowed),
                "access-control-allow-credentials": "true" if self._credentials else "",
            }
        )

    def preflight(self, exchange: Exchange) -> bool:
        """Answer it, where it is a preflight."""
        asked = _asked(exchange)
        if asked is None:
            return False
        said, wrong = dict(self._preflight), []
        if not self._allows(origin := asked[b"origin"]):
            wrong.append("origin")
        elif not self._all_origins or self._credentials:
            said[b"access-control-allow-origin"] = origin
        if asked[b"access-control-request-method"].decode("latin-1") not in self._methods:
            wrong.append("method")
        names = asked.get(b"access-control-request-headers")
        if names is not None and self._all_headers:
            said[b"access-control-allow-headers"] = names
        elif (
            names is not None
            and not {name.strip() for name in names.decode("latin-1").lower().split(",")} <= self._headers
        ):
            wrong.append("headers")
        if b"access-control-request-private-network" in asked:
            wrong.append("private-network")
        body = f"Disallowed CORS {', '.join(wrong)}" if wrong else "OK"
        exchange.answer(400 if wrong else 200, TEXT, body.encode(), list(said.items()))
        return True

    def headers(self, exchange: Exchange, headers: Headers) -> Headers:
        """Those of an answer, and what they lack for whoever asks from another origin."""
        if _asked(exchange) is not None:
            return headers
        origin = next((value for name, value in exchange.headers if name == b"origin"), None)
        said = {} if origin is None else dict(self._simple)
        vary = [b"Origin"]
        if origin is not None and (self._credentials if self._all_origins else self._allows(origin)):
            said[b"access-control-allow-origin"] = origin
        kept = []
        for name, value in headers:
            if name.lower() == b"vary":
                vary.insert(-1, value)
            elif name.lower() not in said:
                kept.append((name, value))
        return [*kept, *said.items(), (b"vary", b", ".join(vary))]

    def _allows(self, origin: bytes) -> bool:
        text = origin.decode("latin-1")
        return self._all_origins or bool(self._pattern and self._pattern.fullmatch(text)) or text in self._origins


def _asked(exchange: Exchange) -> dict[bytes, bytes] | None:
    """The headers of a preflight, the first of each name; None for any other request."""
    if exchange.method != b"OPTIONS":
        return None
    asked = dict(reversed(exchange.headers))
    return asked if b"origin" in asked and b"access-control-request-method" in asked else None


def _texts(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _encoded(said: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode("latin-1") for name, value in said.items() if value}
