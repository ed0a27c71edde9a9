"""Bodies of every content type for every kind of signature: a good one is answered, a bad one refused, no other way is there.

An input is a line with a route and a content type, then the body.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable

from .findings import Check, Violation
from .server import Server

__all__ = ["KINDS", "WORDS", "opened", "request", "routes", "split"]

KINDS = [
    b"application/json", b"", b"text/plain", b"application/octet-stream", b"application/x-www-form-urlencoded",
    b"multipart/form-data; boundary=x", b"multipart/form-data", b"multipart/form-data; boundary=x; charset=idna",
    b"application/json; charset=utf-16", b"image/png", b"application/vnd.bentoml+pickle",
]  # fmt: skip
EXPECTED = {200, 400, 404, 405, 413, 415}
WORDS = [
    *KINDS, b'{"x": ', b'{"person": {"age": 3}}', b'"age"', b'"name"', b'"born"', b'"friends": [',
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


def split(data: bytes, known: list[bytes]) -> tuple[bytes, bytes, bytes]:
    """The route, the content type and the body of an input."""
    line, _, body = data.partition(b"\n")
    route, _, kind = line.partition(b" ")
    if route not in known:
        route = known[zlib.crc32(route) % len(known)]
    return route, bytes(byte for byte in kind if byte >= 32 and byte != 127), body


def request(route: bytes, kind: bytes, body: bytes) -> bytes:
    typed = b"Content-Type: %b\r\n" % kind if kind else b""
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (route, typed, len(body), body)


def routes(server: Server) -> list[bytes]:
    return [path.encode() for path in server.application._posts]


def opened() -> Check:
    server = Server()
    known = routes(server)

    def check(data: bytes) -> Hashable:
        route, kind, body = split(data, known)
        asked = server.ask([request(route, kind, body)], [b"POST"])
        if len(asked.replies) != 1:
            raise Violation("a request has not one answer")
        status, told = asked.replies[0]
        if status not in EXPECTED:
            raise Violation(f"{route.decode()} answers {status}")
        if status >= 400 and not told:
            raise Violation("an answer does not say what is wrong")
        return route, status, told[:60] if status >= 400 else b"", len(told).bit_length()

    return check
