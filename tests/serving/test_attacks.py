"""Attacks on a server that runs: it stays up, answers the next good request, keeps its memory, and says no in words."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import until

from .asked import MULTIPART, form, part
from .conftest import Served, folder, served
from .test_edge import answers, post, progress, read_all

SERVICE = """
import asyncio
from pathlib import Path
from typing import Annotated
import bentoml
import numpy as np
import pandas as pd
from bentoml.validators import DType

@bentoml.service(name="attacked")
class Probe:
    @bentoml.api
    async def double(self, x: int) -> int:
        return 2 * x

    @bentoml.api
    async def number(self, x: float) -> float:
        return x

    @bentoml.api
    async def many(self, x: list[int]) -> int:
        return len(x)

    @bentoml.api
    async def anything(self, x) -> str:
        return type(x).__name__

    @bentoml.api
    async def array(self, x: np.ndarray) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def texts(self, x: Annotated[np.ndarray, DType("str_")]) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def frame(self, x: pd.DataFrame) -> list[int]:
        return list(x.shape)

    @bentoml.api
    async def file(self, f: Path) -> int:
        return f.stat().st_size

    @bentoml.api
    async def wait_for(self, path: str, more: str = "") -> str:
        while not Path(path).exists():
            await asyncio.sleep(0.01)
        return "done"
"""
MIB = 1024 * 1024
GROWTH_BYTES = 48 * MIB
CONNECTIONS = 100
LIMITS = {
    "EKIBEN_SERVER_HEAD_TIMEOUT_S": "2", "EKIBEN_SERVER_BODY_TIMEOUT_S": "2", "EKIBEN_SERVER_MAX_BODY_BYTES": str(8 * MIB),
    "EKIBEN_SERVER_MAX_CONNECTIONS": str(CONNECTIONS), "EKIBEN_SERVER_MAX_HELD_BYTES": str(20 * MIB),
}  # fmt: skip
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
START = b"POST /double HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("attacks")
    with served(folder(root / "bento", SERVICE), root / "worker", env=LIMITS) as worker:
        worker.post("/frame", {"x": [{"a": 1}]})
        worker.send("POST", "/file", form(part("f", "x", "x.txt")), MULTIPART)
        yield worker


@pytest.fixture(autouse=True)
def unharmed(attacked: Served) -> Iterator[None]:
    """After each attack the same process answers, and has not grown."""
    before = resident_bytes(attacked)
    yield
    assert attacked.process.poll() is None
    assert attacked.post("/double", {"x": 21}).json == 42
    assert resident_bytes(attacked) - before < GROWTH_BYTES


def resident_bytes(worker: Served) -> int:
    return int(Path(f"/proc/{worker.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_callers_who_send_a_byte_now_and_then_are_hung_up_on_and_nobody_waits_for_them(attacked: Served) -> None:
    begun = [
        b"GET /livez HTTP/1.1\r\nX: ",
        START + b"Content-Length: 1000\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n5;x=",
    ]
    slow = {attacked.connect(): b"" for _ in range(60)}
    for number, connected in enumerate(slow):
        connected.sendall(begun[number % len(begun)])
        connected.setblocking(False)
    deadline = time.monotonic() + 60
    left = set(slow)
    while left and time.monotonic() < deadline:
        assert attacked.post("/double", {"x": 1}).json == 2
        for connected in list(left):
            try:
                connected.send(b"a")
                piece = connected.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionError:
                piece = b""
            slow[connected] += piece
            if not piece:
                left.discard(connected)
        time.sleep(0.1)
    assert not left
    assert {answer[:13] for answer in slow.values()} == {b"HTTP/1.1 408 "}


@pytest.mark.parametrize(
    "sent",
    [
        START + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
        START + b"Content-Length: 8\r\nContent-Length: 0\r\n\r\n",
        START + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        START + b"Content-Length: 0, 0\r\n\r\n",
        START + b"Content-Length: +0\r\n\r\n",
        START + b"Content-Length: 0x0\r\n\r\n",
        START + b"Content-Length: 99999999999999999999\r\n\r\n",
        START + b"Content-Length : 0\r\n\r\n",
        START + b"X: a\r\n Content-Length: 5\r\n\r\n",
        START + b"X: a\nContent-Length: 5\r\n\r\n",
        START.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
        START + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloGG0\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n",
        START.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /double HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(128)),
        b"\x00" * 1000,
    ],
)
def test_what_two_programs_could_read_differently_is_refused_and_hides_no_second_request(
    attacked: Served, sent: bytes
) -> None:
    connected = attacked.connect()
    connected.sendall(sent + HIDDEN)
    answer = read_all(connected)
    assert len(re.findall(rb"HTTP/1\.1 \d\d\d ", answer)) == 1
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert b"connection: close" in answer
    assert answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/anything", b'{"x": ' + b"[" * 500_000, 400),
        ("/anything", b'{"x": ' * 500_000, 400),
        ("/anything", b'{"x": ' + b"9" * 1_000_000 + b"}", 400),
        ("/anything", b'{"x": 1e' + b"9" * 1_000_000 + b"}", 200),  # infinity
        ("/double", b'{"x": 1e999999}', 400),
        ("/double", b'{"x": "' + b"9" * 1_000_000 + b'"}', 400),
        ("/double", b'{"x": NaN}', 400),
        ("/double", b'{"x": -Infinity}', 400),
        ("/number", b'{"x": 1e999999}', 200),
        ("/number", b'{"x": -Infinity}', 200),
        ("/array", b'{"x": [' + b"9" * 1_000_000 + b"]}", 400),
        ("/array", b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}", 400),
        ("/array", json.dumps({"x": ["x" * 20_000] + [""] * 20_000}).encode(), 400),
        ("/array", json.dumps({"x": ["x" * 20_000, *range(20_000)]}).encode(), 400),
        ("/texts", json.dumps({"x": [["x" * 20_000], *([""] for _ in range(20_000))]}).encode(), 400),
        ("/frame", json.dumps({"x": [{str(number): 1} for number in range(8000)]}).encode(), 400),
        ("/frame", json.dumps({"x": {str(number): {str(number): 1} for number in range(8000)}}).encode(), 400),
        ("/frame", json.dumps({"x": [list(range(8000)), *([] for _ in range(8000))]}).encode(), 400),
        ("/frame", json.dumps({"x": {"a": list(range(8000)), **{str(n): 1 for n in range(8000)}}}).encode(), 400),
        ("/many", json.dumps({"x": ["x"] * 20_000}).encode(), 400),
        ("/double", b"\xff\xfe{\x00", 400),
        ("/double", b"\x80\x04K*.", 400),  # a pickle
    ],
)  # fmt: skip
def test_json_that_is_deep_huge_or_odd_is_answered_at_once(
    attacked: Served, path: str, body: bytes, status: int
) -> None:
    answer = attacked.send("POST", path, body, {"content-type": "application/json"})
    assert answer.status == status
    if status == 400:
        assert answer.json["error"]
        assert len(answer.body) < 2 * len(body) + 2000
    elif path == "/number":
        assert answer.json is None


@pytest.mark.parametrize(
    ("path", "given", "shape"),
    [
        ("/array", [["x" * (number % 30), number] for number in range(20_000)], [20_000, 2]),
        ("/array", ["x" * 1_000_000], [1]),
        ("/texts", ["word " * 50] * 5_000 + [""], [5_001]),
        ("/frame", [{"id": n, f"c{n % 40}": 1} for n in range(5_000)], [5_000, 41]),
        ("/frame", [{f"c{n}": n for n in range(500)}, {}], [2, 500]),
        ("/frame", {"a": list(range(50_000)), "b": 0}, [50_000, 2]),
    ],
    ids=["mixed", "one", "texts", "sparse", "wide", "long"],
)
def test_what_is_large_and_honest_is_taken(attacked: Served, path: str, given: object, shape: list[int]) -> None:
    answer = attacked.post(path, {"x": given})
    assert (answer.status, answer.json) == (200, shape)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_compressed_body_is_not_read(attacked: Served, coding: str) -> None:
    bomb = gzip.compress(b'{"x": ' + b" " * 50_000_000 + b"1}")
    headers = {"content-type": "application/json", "content-encoding": coding}
    answer = attacked.send("POST", "/double", bomb, headers)
    assert (answer.status, answer.json) == (415, [{"error": f"The content is encoded ({coding}). Send it as it is."}])
    plain = attacked.send("POST", "/double", b'{"x": 1}', {**headers, "content-encoding": "identity"})
    assert (plain.status, plain.json) == (200, 2)


@pytest.mark.parametrize(
    "body",
    [
        form(part("f", "", "a.txt") * 50_000),
        form(part("a", "") * 50_000),
        form(b'--frontier\r\ncontent-disposition: form-data; name="f"\r\n' + b"x: y\r\n" * 500_000 + b"\r\n\r\n"),
        form(b'--frontier\r\ncontent-disposition: form-data; name="' + b"f" * 5_000_000 + b'"\r\n\r\n\r\n'),
        form(part("a", "x" * 5_000_000)),
        b"--frontier\r\n" * 100_000,
        b"\r\n" * 1_000_000,
    ],
    ids=["files", "fields", "headers", "name", "field", "boundaries", "nothing"],
)
def test_a_form_of_many_parts_or_large_heads_is_refused(attacked: Served, body: bytes) -> None:
    answer = attacked.send("POST", "/file", body, MULTIPART)
    assert answer.status == 400
    assert answer.body


@pytest.mark.parametrize("charset", ["idna", "IDNA", "punycode", "undefined"])
def test_codecs_that_take_minutes_are_not_used(attacked: Served, charset: str) -> None:
    kind = {"content-type": f"{MULTIPART['content-type']}; charset={charset}"}
    answer = attacked.send("POST", "/anything", form(part("x", "xn--" + "a" * 900_000)), kind)
    assert (answer.status, answer.json) == (400, [{"error": f"The charset {charset} is not read. Send UTF-8."}])


@pytest.mark.parametrize(
    "body", [b"x=1&" * 1_000_000, b"x=" + b"%41" * 1_000_000, b"&" * 5_000_000], ids=["fields", "field", "nothing"]
)
def test_a_form_of_many_or_long_fields_is_refused(attacked: Served, body: bytes) -> None:
    answer = attacked.send("POST", "/anything", body, {"content-type": "application/x-www-form-urlencoded"})
    assert answer.status == 400
    assert "maximum" in answer.body.decode().lower()


def test_ten_thousand_pipelined_requests_are_answered_in_order(attacked: Served) -> None:
    connected = attacked.connect()
    sent = b"".join(post("/double", b'{"x": %d}' % number) for number in range(10_000))
    sender = os.fork()
    if not sender:
        connected.sendall(sent)
        os._exit(0)
    try:
        assert answers(connected, 10_000) == [(200, b"%d" % (2 * number)) for number in range(10_000)]
    finally:
        os.waitpid(sender, 0)


def test_a_body_in_chunks_of_two_bytes_takes_up_what_it_is(attacked: Served) -> None:
    before, connected = resident_bytes(attacked), attacked.connect()
    connected.sendall(START + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * 1_000_000)
    connected.sendall(b"2\r\nab\r\n")
    until(lambda: attacked.post("/double", {"x": 1}).json == 2)
    assert resident_bytes(attacked) - before < GROWTH_BYTES / 2


def test_a_flood_of_connections_is_told_that_there_are_too_many(attacked: Served) -> None:
    flood = [attacked.connect() for _ in range(CONNECTIONS + 50)]
    refused = [connected for connected in flood[-50:] if read_all(connected).startswith(b"HTTP/1.1 503 ")]
    assert len(refused) == 50
    for connected in flood:
        connected.close()
    until(lambda: attacked.send("GET", "/livez").status == 200, "there is room again")


def test_callers_who_leave_do_not_wear_off_the_limit_of_what_is_held(attacked: Served, tmp_path: Path) -> None:
    def waiting(path: Path) -> socket.socket:
        connected = attacked.connect()
        connected.sendall(post("/wait_for", json.dumps({"path": str(path), "more": "x" * 6 * MIB}).encode()))
        return connected

    for number in range(4):
        go = tmp_path / str(number)
        connected = waiting(go)
        until(lambda: progress(attacked.send("GET", "/metrics").body) == 2, "it has begun")
        connected.close()
        go.touch()
        until(lambda: progress(attacked.send("GET", "/metrics").body) == 1, "it is over")
    held = [waiting(tmp_path / "last") for _ in range(3)]
    until(lambda: progress(attacked.send("GET", "/metrics").body) == 4, "three are held")
    assert read_all(waiting(tmp_path / "last")).startswith(b"HTTP/1.1 503 ")
    (tmp_path / "last").touch()
    assert [answers(connected, 1) for connected in held] == [[(200, b"done")]] * 3
