"""A transport that goes nowhere, and the answers that were written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import h11

from .findings import Violation

__all__ = ["Reply", "Wire", "replies"]

Reply = tuple[int, bytes]
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = (b"connection", b"close")


class Wire(asyncio.Transport):
    """`sent` is what was written; `open` until either side has closed it; `reading` unless it was paused."""

    def __init__(self, protocol: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol = protocol
        self.sent = bytearray()
        self.open = self.reading = True
        self.ended = False

    def write(self, data: Any) -> None:
        if self.ended:
            raise Violation("something is written after the end of what is written")
        if self.open:
            self.sent += data

    def close(self) -> None:
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return not self.open

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol  # type: ignore[no-any-return]


def replies(sent: bytes, methods: Sequence[bytes], ended: bool) -> list[Reply]:
    """The status and body of each answer, read by h11 as a client that asked by these methods. Raises Violation."""
    found: list[Reply] = []
    rest = bytes(sent)
    while rest and (rest != CONTINUE or ended):  # who was told to go on, and did not, has no answer yet
        if len(found) < len(methods):
            reply, rest, closes = _reply(rest, methods[len(found)], ended)
        else:  # to what is no whole request, by whatever method
            try:
                reply, rest, closes = _reply(rest, b"POST", ended)
            except Violation:
                reply, rest, closes = _reply(rest, b"HEAD", ended)
        found.append(reply)
        if rest and closes:
            raise Violation("something follows an answer that closes the connection")
    return found


def _reply(sent: bytes, method: bytes, ended: bool) -> tuple[Reply, bytes, bool]:
    """The first answer, what follows it, and whether it closes the connection."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(sent)
    status, body, closes = 0, b"", False
    while True:
        try:
            event = client.next_event()
        except h11.RemoteProtocolError as error:
            raise Violation(f"an answer is no HTTP: {str(error)[:25]}") from error
        if event is h11.NEED_DATA:
            if not ended:
                raise Violation("an answer is not whole")
            client.receive_data(b"")
            ended = False
        elif isinstance(event, h11.Response):
            status, closes = event.status_code, CLOSE in [(name, value.lower()) for name, value in event.headers]
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage | h11.PAUSED):
            return (status, body), client.trailing_data[0], closes
