"""Bodies of every content type for every kind of signature: a good one is answered, a bad one refused, no other way is there.

An input is a line with a route, a content type and, after a bar, what the caller takes; then the body.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from dataclasses import dataclass

from .findings import Check, Violation
from .server import Server

__all__ = ["KINDS", "WORDS", "Sent", "opened", "routes", "sent"]

KINDS = [
    b"application/json", b"", b"text/plain", b"application/octet-stream", b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x", b"multipart/form-data", b"multipart/form-data; boundary=x; charset=idna",
    b"application/json; charset=utf-16", b"image/png", b"application/vnd.bentoml+pickle", b"application/x-npy", b"text/csv",
    b"application/vnd.apache.arrow.stream", b"application/vnd.apache.arrow.file", b"application/x-ekiben-tensor",
    b'application/x-ekiben-tensor; dtype=float32; shape="2,2"',
]  # fmt: skip
EXPECTED = {200, 400, 404, 405, 406, 413, 415}
WORDS = [
    *KINDS, b"dtype=float64", b"shape=", b'"-1,2"',
    b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", b"'|O'",
    b"ARROW1\x00\x00", b"\xff\xff\xff\xff\x00\x00\x00\x00", b"\x00\x00\x80?", b" | application/x-npy, */*;q=0.5",
    b'{"x": ', b'{"person": {"age": 3}}', b'"age"', b'"name"', b'"born"', b'"friends": [',
    b'{"kind": "cat", "lives": 9}',
    b'{"kind": "dog", "bark": 1.5}', b'"animal": ', b'{"f": ', b'"x": [[1, 2], [3, 4]]', b'{"a": [1], "b": [2]}',
    b'[{"a": 1}, {"b": 2}]',
    b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity", b"1e999999", b"-0", b"[]", b"{}", b"[[", b"]]", b'""',
    b'"\\ud83d"',
    b'"2020-02-29"', b'"2026-01-02T03:04:05Z"', b'"P1D"', b'"red"', b"a=3&d=x&", b"x=%ff&", b"person=%7B%22age%22%3A3%7D&",
    b"--x\r\n", b"--x--\r\n", b'Content-Disposition: form-data; name="f"; filename="a.txt"\r\n', b"\r\n\r\n", b'; filename="',
    b'Content-Disposition: form-data; name="x"\r\n\r\n', b"Content-Type: image/png\r\n", b"Content-Type: image/nothing\r\n",
    b"Content-Transfer-Encoding: base64\r\n", b"http://[", b"http://127.0.0.1:1/", b"https://x/", b"\x89PNG\r\n\x1a\n",
    b"GIF89a", b"filename*=utf-8''a",
]  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """What is asked for by an input."""

    route: bytes
    kind: bytes
    accept: bytes
    body: bytes

    def http(self) -> bytes:
        typed = b"Content-Type: %b\r\n" % self.kind if self.kind else b""
        taken = b"Accept: %b\r\n" % self.accept if self.accept else b""
        head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b%bContent-Length: %d\r\n\r\n"
        return head % (self.route, typed, taken, len(self.body)) + self.body


def sent(data: bytes, known: list[bytes]) -> Sent:
    line, _, body = data.partition(b"\n")
    route, _, rest = bytes(byte for byte in line if byte >= 32 and byte != 127).partition(b" ")
    if route not in known:
        route = known[zlib.crc32(route) % len(known)]
    kind, _, accept = rest.partition(b" | ")
    return Sent(route, kind, accept, body)


def routes(server: Server) -> list[bytes]:
    return [path.encode() for path in server.application._posts]


def opened() -> Check:
    server = Server()
    known = routes(server)

    def check(data: bytes) -> Hashable:
        given = sent(data, known)
        asked = server.ask([given.http()], [b"POST"])
        if len(asked.replies) != 1:
            raise Violation("a request has not one answer")
        status, told = asked.replies[0]
        if status not in EXPECTED:
            raise Violation(f"{given.route.decode()} answers {status}")
        if status >= 400 and not told:
            raise Violation("an answer does not say what is wrong")
        return given.route, status, told[:60] if status >= 400 else b"", len(told).bit_length()

    return check
