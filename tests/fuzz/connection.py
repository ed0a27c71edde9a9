"""Any bytes on a connection of the lean server, in one piece and in several."""

from __future__ import annotations

import random
import zlib
from collections.abc import Hashable

from .findings import Check, Violation
from .server import Asked, Server, counted

__all__ = ["WORDS", "opened"]

LIMITS = {"max_body_bytes": 4096, "max_head_bytes": 2048, "max_headers": 20, "max_held_bytes": 16_384}
EXPECTED = {200, 307, 400, 404, 405, 413, 415, 431, 501, 503}
WORDS = [
    b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"/one", b"/root_text",
    b"/stream",
    b"/livez", b"/metrics", b"/static_content/../x", b"http://x/one", b"*", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b" HTTP/2\r\n", b"Host: x\r\n",
    b"Content-Length: ", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Origin: http://a\r\n", b"Access-Control-Request-Method: POST\r\n", b"X-Amzn-SageMaker-Custom-Attributes: a\r\n",
    b"/invocations",
    b"/ping", b"/v2/models/fuzzed.one", b"/v2/health/ready",
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    b"Accept: application/x-npy\r\n", b"X-Request-ID: a\r\n", b"Content-Type: application/json\r\n",
    b"Content-Type: multipart/form-data; boundary=x\r\n",
    b"\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"5\r\nhello\r\n", b"ffffffffffffffff\r\n", b"5;x=y\r\n",
    b"\r\n folded\r\n", b": ",
    b"POST /root_text HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"GET /livez HTTP/1.1\r\n\r\n", b"x" * 1500,
    b"x: y\r\n" * 30,
]  # fmt: skip


def opened() -> Check:
    server = Server(**LIMITS)

    def check(data: bytes) -> Hashable:
        methods, whole, fine = counted(data)
        draw = random.Random(zlib.crc32(data))
        at_once = server.ask([data], methods)
        _judge(at_once, whole, fine)
        in_pieces = server.ask(_pieces(data, draw), methods, eof=draw.random() < 0.5)
        _judge(in_pieces, whole, fine)
        if (
            fine
            and len(in_pieces.replies) < whole
            and in_pieces.statuses == at_once.statuses[: len(in_pieces.replies)] == ()
        ):
            raise Violation("a request that came whole is not answered")
        _compare(at_once, in_pieces)
        return at_once.statuses[:4], min(whole, 4), fine, at_once.closed, in_pieces.statuses[:4]

    return check


def _judge(asked: Asked, whole: int, fine: bool) -> None:
    count = len(asked.replies)
    if unexpected := set(asked.statuses) - EXPECTED:
        raise Violation(f"an answer is a {min(unexpected)}")
    if count > whole + 1:
        raise Violation("there are more answers than requests")
    if not asked.closed and count != whole:
        raise Violation("not every request has one answer, and the connection stays open")
    if not fine and not asked.closed:
        raise Violation("what is no HTTP does not close the connection")
    if not fine and not whole and (count != 1 or asked.statuses[0] < 400):
        raise Violation("what is no HTTP is not refused")


def _compare(one: Asked, other: Asked) -> None:
    """How bytes come in packets changes nothing, but for what is measured in packets and what is dropped after a refusal."""
    shorter, longer = sorted((one.statuses, other.statuses), key=len)
    if 431 in one.statuses + other.statuses or 503 in one.statuses + other.statuses:
        return
    refused = bool(shorter) and shorter[-1] >= 400
    if shorter[: len(shorter) - refused] != longer[: len(shorter) - refused]:
        raise Violation("packets of another size make other answers")


def _pieces(data: bytes, draw: random.Random) -> list[bytes]:
    found, at = [], 0
    usual = draw.choice((1, 3, 20, 200))
    while at < len(data):
        size = 1 + int(draw.expovariate(1 / usual))
        found.append(data[at : at + size])
        at += size
    return found
