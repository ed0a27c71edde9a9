"""The small part of ASGI that Starlette's requests and responses need, for services that use them."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from .exchange import Exchange

__all__ = ["scope_of", "send_response"]


def scope_of(exchange: Exchange) -> dict[str, Any]:
    raw_path, _, query = exchange.target.partition(b"?")
    transport = exchange.connection._transport
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1" if exchange.chunks else "1.0",
        "method": exchange.method.decode("latin-1"),
        "scheme": "http",
        "path": unquote(raw_path.decode("latin-1")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": exchange.headers,
        "client": tuple(peer[:2]) if isinstance(peer, tuple) else None,
        "server": tuple(own[:2]) if isinstance(own, tuple) else None,
        "state": {},
    }
    if exchange.trace is not None:
        scope.update(trace_id=int(exchange.trace.trace_id, 16), request_id=int(exchange.trace.span_id, 16))
    return scope


async def send_response(exchange: Exchange, response: Any, scope: dict[str, Any]) -> None:
    """Answer with a Starlette response. Raises what it raises before its head is sent; later the answer is broken off."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if exchange.gone:
            raise OSError("the caller left")
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            length = next((int(value) for name, value in headers if name == b"content-length"), None)
            if message["status"] in (204, 304):
                length = 0
            rest = [pair for pair in headers if pair[0] not in (b"content-length", b"connection", b"transfer-encoding")]
            exchange.start(message["status"], b"", rest, length)
        elif message["type"] == "http.response.body":
            exchange.write(bytes(message.get("body", b"")))
            await exchange.connection.writable()
            if not message.get("more_body"):
                exchange.end()

    try:
        await response(scope, receive, send)
    except BaseException:
        if not exchange.status:
            raise
        exchange.break_off()
        raise
