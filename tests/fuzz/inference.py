"""Requests of the Open Inference Protocol, as JSON and with bytes behind it.

An input is a line with a method, and the length of the JSON where bytes follow; then the body.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable

from .findings import Check, Violation
from .server import Server

__all__ = ["WORDS", "opened"]

EXPECTED = {200, 400, 406, 415}
WORDS = [
    b'{"inputs": [', b'{"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}', b'"datatype": "BYTES"',
    b'"FP32"', b'"INT64"', b'"UINT8"', b'"BOOL"', b'"FP16"', b'"shape": [', b'"shape": []', b'"data": [', b'"a"', b"null",
    b"true",
    b'"parameters": {"binary_data_size": 32}', b'"parameters": {"binary_data_output": true}', b'"binary_data": true',
    b'"outputs": [{"name": "output"}]', b'"id": "1"', b"\x01\x00\x00\x00a", b"\x00\x00\x80?", b"\xff\xff\xff\x7f", b"[[",
    b"]]", b"{}",
    b"1e999", b"NaN", b"9223372036854775808", b"-1", b"1.5", b'"name": "y"', b"array_any", b"frame", b"rows",
    b"array_text", b"file",
]  # fmt: skip


def opened() -> Check:
    server = Server()
    names = [path.strip("/").encode() for path in server.application._posts]

    def check(data: bytes) -> Hashable:
        line, _, body = data.partition(b"\n")
        name, _, length = line.partition(b" ")
        if name not in names:
            name = names[zlib.crc32(name) % len(names)]
        told = b"Inference-Header-Content-Length: %b\r\n" % length if length.isdigit() else b""
        head = b"POST /v2/models/fuzzed.%b/infer HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
        asked = server.ask([head % (name, told, len(body)) + body], [b"POST"])
        if len(asked.replies) != 1:
            raise Violation("a request has not one answer")
        status, answer = asked.replies[0]
        if status not in EXPECTED and not (status == 404 and b"no model" in answer):
            raise Violation(f"{name.decode()} answers {status}")
        return name, status, answer[:60] if status >= 400 else b"", len(answer).bit_length()

    return check
