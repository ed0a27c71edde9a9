"""A connection: HTTP/1.1 read by httptools (the parser of Node.js), bounded in size and in time, answered in order."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from .exchange import TEXT, Exchange, new_id
from .limits import Limits
from .tracing import of_caller

if TYPE_CHECKING:
    from .metrics import Metrics
    from .watching import Watch

__all__ = ["Connection", "Server"]

LINGER_S = 2
MAX_ID_BYTES = 128
# What is said after a body is nobody's header.
TRAILERS: deque[tuple[bytes, bytes]] = deque(maxlen=0)


class Server(Protocol):
    """What connections share. `now_s` is the loop's time, to the second; `context` that of no exchange."""

    @property
    def handle(self) -> Callable[[Exchange], None]: ...

    @property
    def handle_traced(self) -> Callable[[Exchange], None]: ...

    @property
    def exchange(self) -> Callable[[Connection], Exchange]: ...

    context: contextvars.Context
    limits: Limits
    metrics: Metrics
    connections: set[Connection]
    head: bytes
    heads: dict[tuple[int, bytes], bytes]
    draining: bool
    now_s: float
    held_bytes: int
    watch: Watch

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One exchange at a time is answered; those that came with it wait in `waiting`, and reading pauses."""

    __slots__ = (
        "_aside_bytes", "_body", "_body_since_s", "_exchange", "_headers", "_held", "_parser", "_resumed", "_transport",
        "_unsent", "closed", "current", "deadline_s", "refused", "server", "waiting",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closed = self.refused = False
        self.current: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.deadline_s = 0.0
        self._exchange: Any = None
        self._headers: Any = TRAILERS
        self._body: bytes | bytearray = b""
        self._held = 0
        self._aside_bytes = (
            0  # that came since the last head or piece of a body: of a head, of chunks' lines, of trailers
        )
        self._body_since_s = 0.0
        self._resumed: asyncio.Future[None] | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = HttpRequestParser(self)
        self.server.opened(self)
        self.deadline_s = self.server.now_s + self.server.limits.head_timeout_s
        if len(self.server.connections) > self.server.limits.max_connections:
            self.refuse(503, "There are too many connections.")

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.server.closed(self)
        self._let_write()
        exchange, self.current = self.current, None
        # What is being answered is held until it is finished, though nobody waits for it.
        still_held = len(exchange.body) if exchange is not None else 0
        self.server.held_bytes -= self._held - still_held
        self._held = still_held
        if exchange is not None and exchange.on_gone is not None:
            exchange.on_gone()
        self.waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self._exchange is None and self.current is None:
            self.deadline_s = self.server.now_s + self.server.limits.head_timeout_s
        self._aside_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # answered without it
        except HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except HttpParserError:
            self.refuse(400, "Invalid HTTP request received.")
        if self._aside_bytes > self.server.limits.max_head_bytes:
            self.refuse(431, "The head of the request is too large.")
        if self.waiting:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        # A caller may close its half and wait for the answer.
        return self.current is not None or bool(self.waiting)

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._exchange = exchange = self.server.exchange(self)
        self._headers = exchange.headers

    def on_url(self, url: bytes) -> None:
        self._exchange.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.refused:
            return None
        exchange: Exchange = self._exchange
        self._headers, self._body, self._aside_bytes = TRAILERS, b"", 0
        exchange.method = self._parser.get_method()
        limits = self.server.limits
        if len(exchange.headers) > limits.max_headers:
            return self.refuse(431, f"The request has more than {limits.max_headers} headers.")
        exchange.chunks = self._parser.get_http_version() == "1.1"
        named = dict(exchange.headers)
        exchange.content_type, exchange.accept = named.get(b"content-type", b""), named.get(b"accept", b"")
        if int(named.get(b"content-length", 0)) > limits.max_body_bytes:
            return self._too_large()
        if b"transfer-encoding" in named and not self._only_chunked(exchange):
            return self.refuse(501, "The body of a request may be in chunks, and in no other transfer coding.")
        if (
            b"expect" in named
            and named[b"expect"].lower() == b"100-continue"
            and self.current is None
            and exchange.chunks
        ):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        given = named.get(b"x-request-id", b"")
        exchange.id = given if 0 < len(given) <= MAX_ID_BYTES else new_id()
        if b"traceparent" in named:
            exchange.trace = of_caller(exchange.headers)
        self._body_since_s = self.server.now_s
        self.deadline_s = self.server.now_s + limits.body_timeout_s
        return None

    def on_body(self, data: bytes) -> None:
        if self.refused:
            return None
        server, size = self.server, len(data)
        if not self._body:
            self._body = data
        else:
            # Not a list of pieces: one of two bytes would take up fifty.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        self._aside_bytes = 0
        self._held += size
        server.held_bytes += size
        limits, fed = server.limits, len(self._body)
        if fed > limits.max_body_bytes:
            return self._too_large()
        if server.held_bytes > limits.max_held_bytes:
            return self.refuse(503, "The server holds as much as it can.")
        self.deadline_s = self._body_since_s + limits.body_timeout_s + fed / limits.min_body_bytes_per_s
        return None

    def on_message_complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        if self.refused or exchange is None:
            return
        exchange.body, self._body = self._body, b""
        exchange.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        if self.current is None:
            self._begin(exchange)
        else:
            self.waiting.append(exchange)

    # What an exchange calls.

    @property
    def peer(self) -> Any:
        """The caller's address and port; no pair where they are a unix socket's."""
        return self._transport.get_extra_info("peername")

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._transport.write(data)

    def finished(self, exchange: Exchange) -> None:
        self.current = None
        self.server.held_bytes -= len(exchange.body)
        self._held -= len(exchange.body)
        if self.closed:
            return
        if not exchange.keep_alive or self.refused:
            self._close()
        elif self.waiting:
            # Not at once: a thousand requests in one packet must not be a thousand calls deep.
            asyncio.get_running_loop().call_soon(self._next, context=self.server.context)
        else:
            self.deadline_s = self.server.now_s + self.server.limits.idle_timeout_s

    async def writable(self) -> None:
        """Returns when the caller has taken what was written, nearly; or is gone."""
        if self._resumed is not None and not self.closed:
            await self._resumed

    def abort(self) -> None:
        if not self.closed:
            self._transport.abort()

    def expire(self) -> None:
        """Called by the server when the deadline has passed."""
        if self._exchange is not None and not self.refused:
            self.refuse(408, "The request took too long to come.")
        elif self._resumed is not None and (unsent := self._transport.get_write_buffer_size()) < self._unsent:
            self._unsent, self.deadline_s = unsent, self.server.now_s + self.server.limits.write_timeout_s
        elif self._resumed is not None or (self.refused and self.current is None):
            self.abort()
        elif self.current is None:
            self._close()

    def close_idle(self) -> None:
        if self.current is None and self._exchange is None and not self.waiting:
            self._close()

    def pause_writing(self) -> None:
        self._resumed = asyncio.get_running_loop().create_future()
        self._unsent = self._transport.get_write_buffer_size()
        self.deadline_s = self.server.now_s + self.server.limits.write_timeout_s

    def resume_writing(self) -> None:
        self._let_write()
        self.deadline_s = 0.0 if self.current else self.server.now_s + self.server.limits.idle_timeout_s

    def _let_write(self) -> None:
        future, self._resumed = self._resumed, None
        if future is not None and not future.done():
            future.set_result(None)

    def refuse(self, status: int, why: str) -> None:
        """Answer what cannot be read, or must not be, and read no more of it."""
        if self.refused:
            return
        self.refused = True
        exchange = self._exchange or self.server.exchange(self)
        self._exchange = None
        if exchange.target:  # its head may not be whole; an answer to HEAD has no body, whatever it says
            exchange.method = self._parser.get_method()
        exchange.id = exchange.id or new_id()
        exchange.keep_alive = False
        self.waiting.clear()
        self._body = b""
        if self.current is None:
            exchange.answer(status, TEXT, why.encode())

    def _too_large(self) -> None:
        self.refuse(413, f"The request is larger than this server takes: {self.server.limits.max_body_bytes} bytes.")

    def _only_chunked(self, exchange: Exchange) -> bool:
        codings = [value.strip().lower() for name, value in exchange.headers if name == b"transfer-encoding"]
        return exchange.chunks and codings == [b"chunked"]

    def _begin(self, exchange: Exchange) -> None:
        self.current = exchange
        self.deadline_s = 0.0
        server = self.server
        (server.handle if exchange.trace is None else server.handle_traced)(exchange)

    def _next(self) -> None:
        if self.waiting and self.current is None and not self.closed:
            exchange = self.waiting.popleft()
            if not self.waiting:
                self._transport.resume_reading()
            self._begin(exchange)

    def _close(self) -> None:
        if self.refused:
            # Closing with something unread would tear the answer away from a caller who is still sending.
            self._transport.write_eof() if self._transport.can_write_eof() else None
            self.deadline_s = self.server.now_s + LINGER_S
        else:
            self._transport.close()
