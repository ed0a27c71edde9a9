"""HTTP/1.1 heads and chunks, read strictly: what the grammar does not allow is refused, nothing is guessed or repaired.

Two programs that read one message differently is how requests are smuggled. So a head is matched against the grammar as a whole (a
bare line feed, a folded line, a blank before a colon match nothing), and its length is told in one way or it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

__all__ = ["Bad", "Chunked", "Request", "Response", "head_of", "request", "response", "status_line"]

HEAD_BYTES = 32 * 1024
FIELDS = 100
KNOWN = 256
KNOWN_BYTES = 1024
CHUNK_LINE_BYTES = 1024
TRAILER_BYTES = 8 * 1024

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,16384}) HTTP/1\.([01])\r\n")
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t -~\x80-\xff]*)?\r\n")
BLOCK = re.compile(rb"(?:" + TOKEN + rb":[\t -~\x80-\xff]*\r\n)*")
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*)\r\n")
LENGTH = re.compile(rb"\d{1,15}")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?")

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer")
) | {b"transfer-encoding", b"upgrade"}  # fmt: skip
# The gateway says these itself.
NOT_SENT = HOP_BY_HOP | {b"host", b"content-length", b"expect", b"authorization", b"ekiben-request-id"}
NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"date", b"server"}
WITHOUT_BODY = frozenset((204, 304))


class Bad(Exception):
    """The message is not HTTP/1.1, or more than is taken. `status` is what to answer."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


@dataclass(slots=True, frozen=True)
class Request:
    """A request's head. `length` is of the body, -1 for one in chunks; `lines` are the fields that are passed on.

    keep_alive: the connection is used again; chunks: the caller reads an answer in chunks; named: fields by lower-case name.
    """

    method: bytes
    target: bytes
    keep_alive: bool
    chunks: bool
    length: int
    named: dict[bytes, bytes]
    lines: bytes


@dataclass(slots=True, frozen=True)
class Response:
    """A response's head. `length` is of the body, -1 for one in chunks, -2 for one that ends with the connection."""

    status: int
    keep_alive: bool
    length: int
    lines: bytes


def head_of(data: bytes | bytearray) -> int:
    """Where the head ends, after its empty line; 0 when it is not whole yet. Raises Bad when it is too long to become one."""
    end = data.find(b"\r\n\r\n", 0, HEAD_BYTES)
    if end < 0:
        if len(data) >= HEAD_BYTES:
            raise Bad(f"its head has more than {HEAD_BYTES} bytes", 431)
        return 0
    return end + 4


def request(head: bytes) -> Request:
    """A head with its empty line. Raises Bad."""
    # On a connection that is used again, heads are mostly the same.
    return _known_request(head) if len(head) <= KNOWN_BYTES else _request(head)


def response(head: bytes, asked: bytes) -> Response:
    """A head with its empty line, of the answer to a request of the method `asked`. Raises Bad."""
    return _known_response(head, asked) if len(head) <= KNOWN_BYTES else _response(head, asked)


def _request(head: bytes) -> Request:
    first = REQUEST_LINE.match(head)
    if first is None:
        raise Bad("its first line is no request line of HTTP/1.1")
    method, target, minor = first.groups()
    named, passed = _fields(head, first.end(), NOT_SENT)
    if b"host" not in named:
        raise Bad("it names no host")
    length, modern = _length(named, 0), minor == b"1"
    if length < 0 and not modern:
        raise Bad("HTTP/1.0 has no chunks")
    closes = b"close" in named.get(b"connection", b"").lower()
    return Request(method, target, modern and not closes, modern, length, named, passed)


def _response(head: bytes, asked: bytes) -> Response:
    first = STATUS_LINE.match(head)
    if first is None:
        raise Bad("its first line is no status line of HTTP/1.1")
    status = int(first[2])
    named, passed = _fields(head, first.end(), NOT_RETURNED)
    length = _length(named, -2)
    if asked == b"HEAD" or status in WITHOUT_BODY or status < 200:
        if asked == b"HEAD" and length >= 0 and b"content-length" in named:
            passed += b"Content-Length: %d\r\n" % length
        length = 0
    keeps = first[1] == b"1" and b"close" not in named.get(b"connection", b"").lower() and length != -2
    return Response(status, keeps, length, passed)


_known_request = lru_cache(KNOWN)(_request)
_known_response = lru_cache(KNOWN)(_response)


def status_line(status: int) -> bytes:
    line = _LINES.get(status)
    if line is None:
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Status"
        line = _LINES[status] = f"HTTP/1.1 {status} {phrase}\r\n".encode()
    return line


_LINES: dict[int, bytes] = {}
# Fields that may be there once only, because they say where a message ends or who is meant.
ONCE = frozenset((b"host", b"content-length", b"transfer-encoding", b"authorization"))


def _fields(head: bytes, start: int, dropped: frozenset[bytes]) -> tuple[dict[bytes, bytes], bytes]:
    """All fields by lower-case name (of several the last one), and those to pass on, as they were."""
    end = len(head) - 2
    block = BLOCK.match(head, start)
    assert block is not None
    if block.end() != end:
        raise Bad("a line of its head is no field")
    found = FIELD.findall(head, start, end)
    if len(found) > FIELDS:
        raise Bad(f"it has more than {FIELDS} fields", 431)
    named: dict[bytes, bytes] = {}
    passed = []
    for name, value in found:
        lower, value = name.lower(), value.rstrip(b" \t")
        if lower in named:
            if lower in ONCE:
                raise Bad(f"it has {name.decode()} twice")
            if lower == b"connection":
                value = b"%b, %b" % (named[lower], value)
        named[lower] = value
        if lower not in dropped:
            passed.append((lower, b"%b: %b\r\n" % (name, value)))
    if b"connection" in named:
        hops = {token.strip().lower() for token in named[b"connection"].split(b",")}
        return named, b"".join([line for lower, line in passed if lower not in hops])
    return named, b"".join([line for _, line in passed])


def _length(named: dict[bytes, bytes], unsaid: int) -> int:
    if (coding := named.get(b"transfer-encoding")) is not None:
        if b"content-length" in named:
            raise Bad("it tells its length in two ways")
        if coding.lower() != b"chunked":
            raise Bad("its transfer coding is not chunked", 501)
        return -1
    said = named.get(b"content-length")
    if said is None:
        return unsaid
    if not LENGTH.fullmatch(said):
        raise Bad("its Content-Length is no length")
    return int(said)


class Chunked:
    """A body in chunks, as it comes in. `feed` gives what is new of it; `done` says that it is whole, `rest` what came after."""

    __slots__ = ("_buffer", "_left", "_trailer", "done", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._trailer = -1
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises Bad."""
        found: list[bytes] = []
        data, at = self._buffer + data, 0
        while True:
            if self._left > 2:  # of the chunk; the last two are its line end
                piece = data[at : at + self._left - 2]
                if piece:
                    found.append(piece)
                self._left -= len(piece)
                at += len(piece)
                if self._left > 2:
                    break
            if self._left:
                if len(data) - at < self._left:
                    break
                if data[at : at + self._left] != b"\r\n":
                    raise Bad("a chunk is longer than it said")
                at += self._left
                self._left = 0
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > (TRAILER_BYTES if self._trailer >= 0 else CHUNK_LINE_BYTES + 1):  # a \r, perhaps
                    raise Bad("a line between its chunks is too long")
                break
            line, at = data[at:end], end + 2
            if self._trailer >= 0:
                self._trailer += len(line)
                if not line:
                    self.done, self.rest, self._buffer = True, data[at:], b""
                    return found
                if self._trailer > TRAILER_BYTES or not BLOCK.fullmatch(line + b"\r\n"):
                    raise Bad("what follows its last chunk will not do")
                continue
            match = CHUNK_LINE.fullmatch(line)
            if match is None or len(line) > CHUNK_LINE_BYTES:
                raise Bad("a chunk does not tell its length")
            size = int(match[1], 16)
            if size:
                self._left = size + 2
            else:
                self._trailer = 0
        self._buffer = data[at:]
        return found
