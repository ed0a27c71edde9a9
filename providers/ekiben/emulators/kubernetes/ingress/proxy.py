"""One request through: found in the table, given to a pod, streamed both ways.

What has not reached a pod is tried again, at another or when one comes; what may have reached one is not, but for
methods that mean the same when they come twice, without a body, which aiohttp sends once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from ekiben.emulators.kubernetes.ingress.backends import HEAD_BYTES, Address, Backends
from ekiben.emulators.kubernetes.ingress.routes import Path, Split, Table

__all__ = ["Limits", "Proxy"]

# RFC 9110, 7.6.1; `Expect` is answered here.
HOP_BY_HOP = frozenset(
    ("connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade")
)  # fmt: skip
WEBSOCKET_OWN = frozenset(
    ("sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions", "sec-websocket-protocol")
)
PAUSE_S = 0.1
MESSAGE_BYTES = 16 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one request may take. `patience_s`: how long it waits for a pod that takes connections."""

    body_bytes: int = 1 << 30
    requests: int = 1024
    patience_s: float = 10.0
    body_silence_s: float = 60.0


@dataclass
class Proxy:
    """Answers requests by `table`, which whoever follows the API server replaces as a whole; `known`: it is there."""

    backends: Backends
    limits: Limits = field(default_factory=Limits)
    table: Table = field(default_factory=Table)
    known: asyncio.Event = field(default_factory=asyncio.Event)
    busy: int = 0

    def server(self, *, inside: bool) -> web.Server:
        """The server of one listener: that of callers inside the cluster, or that of all others."""

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._counted(request, inside=inside)

        return web.Server(
            handle, handler_cancellation=True, auto_decompress=False, access_log=None, max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
        )  # fmt: skip

    async def _counted(self, request: web.BaseRequest, *, inside: bool) -> web.StreamResponse:
        if self.busy >= self.limits.requests:
            return _said(503, "too many requests at once", retry=True)
        self.busy += 1
        try:
            return await self._answer(request, inside=inside)
        except _Refused as refused:
            return refused.response
        finally:
            self.busy -= 1

    async def _answer(self, request: web.BaseRequest, *, inside: bool) -> web.StreamResponse:
        if not self.known.is_set():
            try:
                await asyncio.wait_for(self.known.wait(), self.limits.patience_s)
            except TimeoutError:
                return _said(503, "the routes are not known yet", retry=True)
        host = request.headers.get(hdrs.HOST, "")
        path = self.table.find(host, request.rel_url.raw_path, request.headers, inside=inside)
        if path is None:
            return _said(404, "no service answers at this host and path")
        if (request.content_length or 0) > self.limits.body_bytes:
            return _said(413, f"the body is larger than {self.limits.body_bytes} bytes")
        split = path.choose()
        if split is None:
            return _said(503, "no revision has traffic")
        headers = _onward(request, path, split)
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await self._websocket(request, split, headers)
        return await self._forward(request, split, headers)

    async def _forward(self, request: web.BaseRequest, split: Split, headers: CIMultiDict[str]) -> web.StreamResponse:
        refused: set[Address] = set()
        deadline = asyncio.get_running_loop().time() + self.limits.patience_s
        body = _Body(request, self.limits) if request.body_exists else None
        while True:
            address = await self._next(split, refused, deadline)
            async with self.backends.session(address) as session:
                try:
                    answer = await session.request(
                        request.method,
                        _url("http", address, request),
                        headers=headers,
                        data=body.chunks() if body else None,
                        allow_redirects=False,
                    )
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    refused.add(address)
                    continue
                except (aiohttp.ClientError, TimeoutError) as error:
                    if body and body.refusal:
                        return body.refusal
                    if isinstance(error, TimeoutError):
                        return _said(504, "the revision has not answered in time")
                    logger.warning("%s of %s: %r", address, split.service, error)
                    return _said(502, "the revision ended the connection before it answered")
                async with answer:
                    return await _stream(request, answer)

    async def _next(self, split: Split, refused: set[Address], deadline: float) -> Address:
        """An address to try; after all have refused, all of them again. Raises _Refused when the time is out."""
        loop = asyncio.get_running_loop()
        while (left_s := deadline - loop.time()) > 0:
            if refused and not set(self.backends.addresses(split)) - refused:
                refused.clear()
                await asyncio.sleep(min(PAUSE_S, left_s))
            elif address := await self.backends.another(split, refused, left_s):
                return address
        raise _Refused(_said(503, f"no pod of {split.service} takes connections", retry=True))

    async def _websocket(self, request: web.BaseRequest, split: Split, headers: CIMultiDict[str]) -> web.StreamResponse:
        offered = [
            one.strip() for one in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",") if one.strip()
        ]
        for name in WEBSOCKET_OWN:
            headers.popall(name, None)
        refused: set[Address] = set()
        deadline = asyncio.get_running_loop().time() + self.limits.patience_s
        while True:
            address = await self._next(split, refused, deadline)
            async with self.backends.session(address) as session:
                try:
                    there = await session.ws_connect(
                        _url("ws", address, request),
                        headers=headers,
                        protocols=offered,
                        autoping=False,
                        max_msg_size=MESSAGE_BYTES,
                    )
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    refused.add(address)
                    continue
                except aiohttp.WSServerHandshakeError as error:
                    return _said(error.status, "the revision takes no websocket here")
                except (aiohttp.ClientError, TimeoutError):
                    return _said(502, "the revision ended the connection before it answered")
                async with there:
                    here = web.WebSocketResponse(
                        protocols=[there.protocol] if there.protocol else (),
                        autoping=False,
                        max_msg_size=MESSAGE_BYTES,
                        compress=False,
                    )
                    await here.prepare(request)
                    relays = [asyncio.create_task(_relay(here, there)), asyncio.create_task(_relay(there, here))]
                    try:
                        await asyncio.wait(relays, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for relay in relays:
                            relay.cancel()
                        await asyncio.gather(*relays, return_exceptions=True)
                    return here


class _Body:
    """The caller's body, as it comes. `refusal`: why it was not taken to its end."""

    def __init__(self, request: web.BaseRequest, limits: Limits) -> None:
        self.refusal: web.Response | None = None
        self._request = request
        self._limits = limits

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._request.writer.output_size = 0
        size = 0
        while True:
            try:
                chunk = await asyncio.wait_for(self._request.content.readany(), self._limits.body_silence_s)
            except TimeoutError:
                self.refusal = _said(408, "the body does not come")
                raise
            if not chunk:
                return
            size += len(chunk)
            if size > self._limits.body_bytes:
                self.refusal = _said(413, f"the body is larger than {self._limits.body_bytes} bytes")
                raise ValueError("too large")
            yield chunk


class _Refused(Exception):
    def __init__(self, response: web.Response) -> None:
        super().__init__(response.status)
        self.response = response


def _onward(request: web.BaseRequest, path: Path, split: Split) -> CIMultiDict[str]:
    """The caller's headers without those of its connection, and the route's own, which no caller can set."""
    named = {one.strip().lower() for one in request.headers.get(hdrs.CONNECTION, "").split(",")}
    headers = CIMultiDict(
        (name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP | named
    )
    if hdrs.HOST in headers and path.rewrite_host:
        headers[hdrs.HOST] = path.rewrite_host
    before = headers.popall(hdrs.X_FORWARDED_FOR, [])
    headers[hdrs.X_FORWARDED_FOR] = ", ".join([*before, request.remote or "unknown"])
    headers[hdrs.X_FORWARDED_HOST] = request.headers.get(hdrs.HOST, "")
    headers[hdrs.X_FORWARDED_PROTO] = "http"
    for name, value in (*path.headers, *split.headers):
        headers[name] = value
    return headers


def _url(scheme: str, address: Address, request: web.BaseRequest) -> URL:
    host, port = address
    name = f"[{host}]" if ":" in host else host
    return URL(f"{scheme}://{name}:{port}{request.rel_url.raw_path_qs}", encoded=True)


async def _stream(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    named = {one.strip().lower() for one in answer.headers.get(hdrs.CONNECTION, "").split(",")}
    for name, value in answer.headers.items():
        if name.lower() not in HOP_BY_HOP | named:
            response.headers.add(name, value)
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
    except (aiohttp.ClientError, TimeoutError) as error:
        # The status has gone: only a connection that ends too early can say that this is not the whole answer.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the revision's answer was cut off") from error
    await response.write_eof()
    return response


async def _relay(
    source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    target: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.PING:
            await target.ping(message.data)
        elif message.type is aiohttp.WSMsgType.PONG:
            await target.pong(message.data)
    await target.close(code=source.close_code or aiohttp.WSCloseCode.GOING_AWAY)


def _said(status: int, why: str, *, retry: bool = False) -> web.Response:
    headers: Mapping[str, str] = {"Retry-After": "1"} if retry else {}
    return web.Response(status=status, text=f"ingress: {why}\n", headers=headers)
