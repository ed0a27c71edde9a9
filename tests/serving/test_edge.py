"""The edge: connections, limits of size and time, overload, the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE_S, until

from .conftest import Served, folder, served

SERVICE = """
import asyncio, os, time
from pathlib import Path
from typing import AsyncGenerator
import bentoml

@bentoml.service(name="edge", traffic={"timeout": 30})
class Probe:
    @bentoml.on_shutdown
    def leave(self):
        if path := os.environ.get("LEFT"):
            Path(path).touch()

    @bentoml.api
    async def double(self, x: int) -> int:
        return 2 * x

    @bentoml.api
    def size(self, text: str, /) -> int:
        return len(text)

    @bentoml.api
    async def wait_for(self, path: str) -> str:
        Path(path + ".begun").touch()
        while not Path(path).exists():
            await asyncio.sleep(0.01)
        return "done"

    @bentoml.api
    def block_for(self, path: str) -> str:
        Path(path + ".begun").touch()
        while not Path(path).exists():
            time.sleep(0.01)
        return "done"

    @bentoml.api
    async def stream(self, n: int, fail: int = -1, left: str = "") -> AsyncGenerator[str, None]:
        try:
            for number in range(n):
                if number == fail:
                    raise RuntimeError("half way")
                yield "x" * 1000
                await asyncio.sleep(0)
        finally:
            if left:
                Path(left).touch()

    @bentoml.api
    async def seen(self, ctx: bentoml.Context) -> dict[str, str]:
        return dict(ctx.request.headers)

    @bentoml.api
    async def split(self, value: str, ctx: bentoml.Context) -> str:
        ctx.response.headers["x-value"] = value
        return "told"

    @bentoml.api
    def quick(self, hang: bool = False) -> int:
        while hang:
            time.sleep(0.01)
        return threading_name()

def threading_name():
    import threading
    return int(threading.current_thread() is threading.main_thread())
"""
LIMITS = {
    "EKIBEN_SERVER_HEAD_TIMEOUT_S": "1", "EKIBEN_SERVER_BODY_TIMEOUT_S": "1", "EKIBEN_SERVER_MAX_BODY_BYTES": "100000",
    "EKIBEN_SERVER_MAX_QUEUE": "3", "EKIBEN_SERVER_IDLE_TIMEOUT_S": "600",
}  # fmt: skip


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("edge") / "bento", SERVICE)


@pytest.fixture(scope="module")
def edge(bento: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(bento, tmp_path_factory.mktemp("edge") / "worker", env=LIMITS) as worker:
        yield worker


def post(path: str, body: bytes, *headers: str) -> bytes:
    more = "".join(f"{header}\r\n" for header in headers)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def read_all(connected: socket.socket) -> bytes:
    """Until the other side closes."""
    found = b""
    while piece := connected.recv(65536):
        found += piece
    return found


def answers(connected: socket.socket, count: int) -> list[tuple[int, bytes]]:
    file, found = connected.makefile("rb"), []
    for _ in range(count):
        status = int(file.readline().split()[1])
        headers = http.client.parse_headers(file)
        found.append((status, file.read(int(headers["content-length"]))))
    return found


def test_one_connection_takes_many_requests_and_answers_in_order(edge: Served) -> None:
    connected = edge.connect()
    connected.sendall(b"".join(post("/double", b'{"x": %d}' % number) for number in range(50)))
    assert answers(connected, 50) == [(200, b"%d" % (2 * number)) for number in range(50)]
    connected.sendall(post("/double", b'{"x": 7}', "Connection: close"))
    assert read_all(connected).endswith(b"\r\n\r\n14")


def test_a_request_may_come_byte_by_byte_and_in_chunks(edge: Served) -> None:
    connected = edge.connect()
    for byte in post("/double", b'{"x": 7}'):
        connected.send(bytes([byte]))
    assert answers(connected, 1) == [(200, b"14")]
    chunked = (
        b'POST /double HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"x"\r\n4\r\n: 8}\r\n0\r\n\r\n'
    )
    connected.sendall(chunked)
    assert answers(connected, 1) == [(200, b"16")]


def test_what_follows_a_body_is_no_header(edge: Served) -> None:
    connected = edge.connect()
    head = b"POST /seen HTTP/1.1\r\nHost: x\r\n"
    connected.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Admin: yes\r\n\r\n")
    connected.sendall(head + b"Content-Length: 2\r\n\r\n{}")
    assert [(status, b"x-admin" in body) for status, body in answers(connected, 2)] == [(200, False), (200, False)]


def test_a_pipelined_request_of_another_version_changes_nothing_for_the_first(edge: Served, tmp_path: Path) -> None:
    connected = edge.connect()
    old = post("/wait_for", json.dumps({"path": str(tmp_path / "go")}).encode(), "Connection: keep-alive")
    connected.sendall(post("/stream", b'{"n": 2}') + old.replace(b"HTTP/1.1", b"HTTP/1.0"))
    until((tmp_path / "go.begun").exists)
    (tmp_path / "go").touch()
    connected.sendall(post("/double", b'{"x": 7}', "Connection: close"))
    found = read_all(connected)
    assert (found.count(b"chunked"), found.count(b"connection: keep-alive")) == (1, 1)
    assert found.endswith(b"14")


def test_a_caller_who_asks_first_is_told_to_go_on(edge: Served) -> None:
    connected = edge.connect()
    connected.sendall(b"POST /double HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n")
    assert connected.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connected.sendall(b'{"x": 7}')
    assert answers(connected, 1) == [(200, b"14")]


def test_http_1_0_and_half_closed_callers_are_answered(edge: Served) -> None:
    connected = edge.connect()
    connected.sendall(b'POST /double HTTP/1.0\r\nContent-Length: 8\r\n\r\n{"x": 7}')
    connected.shutdown(socket.SHUT_WR)
    assert read_all(connected).endswith(b"\r\n\r\n14")
    connected = edge.connect()
    connected.sendall(b'POST /stream HTTP/1.0\r\nContent-Length: 8\r\n\r\n{"n": 3}')
    head, _, body = read_all(connected).partition(b"\r\n\r\n")
    assert (b"chunked" in head, body) == (False, b"x" * 3000)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),  # TLS
        (b"POST /double HTTP/1.1\r\nContent-Length: 8\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /double HTTP/1.1\r\nContent-Length: 8\r\nContent-Length: 9\r\n\r\n", 400),
        (b"POST /double HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nx: " + b"y" * 200_000, 431),
        (b"GET /" + b"y" * 200_000, 431),
        (b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n", 431),
        (b"POST /size HTTP/1.1\r\nContent-Length: 100001\r\n\r\n", 413),
        (
            b"POST /size HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n") * 2,
            413,
        ),
        (  # what follows a body that is too large is not looked at
            b"POST /size HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1ffff\r\n"
            + b"x" * 0x1FFFF
            + b"\r\n0\r\nx: y\r\n\r\n",
            413,
        ),
        (b"POST /size HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 200_000, 431),
        (b"POST /size HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=" + b"y" * 200_000, 431),
        (b"\r\n" * 100_000, 431),
        (b"POST /size HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /size HTTP/1.1\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST /size HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET /livez HTTP/1.1\r\nHost:", 408),
        (b"POST /size HTTP/1.1\r\nContent-Length: 10\r\n\r\nxx", 408),
    ],
)
def test_what_is_malformed_too_large_or_too_slow_is_refused_and_hung_up_on(
    edge: Served, sent: bytes, status: int
) -> None:
    connected = edge.connect()
    connected.sendall(sent)
    answer = read_all(connected)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer
    assert edge.post("/double", {"x": 1}).json == 2


def test_each_answer_has_an_id_the_callers_own_where_there_is_one(edge: Served) -> None:
    ids = {edge.post("/double", {"x": 1}).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5
    assert {len(id) for id in ids} == {32}
    assert edge.post("/double", {"x": 1}, x_request_id="mine").headers["x-request-id"] == "mine"
    assert edge.post("/double", {"x": 1}, x_request_id="m" * 500).headers["x-request-id"] != "m" * 500
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert edge.post("/seen", {}, traceparent=parent).json["traceparent"] == parent


def test_a_header_that_would_be_two_is_left_out(edge: Served) -> None:
    assert edge.post("/split", {"value": "fine"}).headers["x-value"] == "fine"
    answer = edge.post("/split", {"value": "a\r\nset-cookie: stolen=1"})
    assert (answer.status, "set-cookie" in answer.headers, "x-value" in answer.headers) == (200, False, False)


def test_a_stream_that_fails_half_way_is_broken_off(edge: Served) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        edge.post("/stream", {"n": 5, "fail": 3})
    assert "half way" in edge.log.read_text()


def test_a_stream_ends_when_its_caller_leaves_and_holds_little_for_a_slow_one(edge: Served, tmp_path: Path) -> None:
    connected = edge.connect()
    left = tmp_path / "left"
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connected.sendall(post("/stream", json.dumps({"n": 1_000_000, "left": str(left)}).encode()))
    assert connected.recv(100)
    time.sleep(0.3)  # it would make a gigabyte of it if it did not wait
    assert int(Path(f"/proc/{edge.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 200 << 20
    assert not left.exists()
    connected.close()
    until(left.exists, "the generator is closed")


def test_more_than_the_queue_takes_is_a_503_that_says_when_to_try_again(edge: Served, tmp_path: Path) -> None:
    go = tmp_path / "go"
    found: list[Any] = []
    calls = [threading.Thread(target=lambda: found.append(edge.post("/wait_for", {"path": str(go)}))) for _ in range(3)]
    for call in calls:
        call.start()
    until(lambda: b"request_in_progress" in (text := edge.send("GET", "/metrics").body) and progress(text) == 4)
    refused = edge.post("/double", {"x": 1})
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert edge.send("GET", "/livez").status == 200
    go.touch()
    for call in calls:
        call.join()
    assert [answer.json if answer.status != 200 else answer.body for answer in found] == [b"done"] * 3
    assert edge.post("/double", {"x": 1}).json == 2


def progress(metrics: bytes) -> float:
    line = next(
        line for line in metrics.decode().splitlines() if line.startswith("bentoml_service_request_in_progress{")
    )
    return float(line.rpartition(" ")[2])


def test_at_the_end_what_has_begun_is_answered_and_nothing_is_lost(bento: Path, tmp_path: Path) -> None:
    go, found, lost = tmp_path / "go", [], []
    with served(bento, tmp_path / "worker", env={"LEFT": str(tmp_path / "left")}, linger_s=0.5) as worker:

        def hammer() -> None:
            while True:
                connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=PATIENCE_S)
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
                try:
                    connection.request("POST", "/double", b'{"x": 2}', {"content-type": "application/json"})
                    found.append(connection.getresponse().read())
                except OSError as error:
                    lost.append(error)
                finally:
                    connection.close()

        async_one = threading.Thread(target=lambda: found.append(worker.post("/wait_for", {"path": str(go)}).body))
        blocking = threading.Thread(target=lambda: found.append(worker.post("/block_for", {"path": f"{go}2"}).body))
        async_one.start()
        blocking.start()
        until(lambda: Path(f"{go}.begun").exists() and Path(f"{go}2.begun").exists())
        hammers = [threading.Thread(target=hammer) for _ in range(4)]
        for each in hammers:
            each.start()
        until(lambda: len(found) > 20)
        worker.process.send_signal(signal.SIGTERM)
        until(lambda: all(not each.is_alive() for each in hammers), "it takes no more")
        assert worker.process.poll() is None
        go.touch()
        Path(f"{go}2").touch()
        assert worker.process.wait(PATIENCE_S) == 0
        async_one.join()
        blocking.join()
    assert lost == []
    assert set(found) == {b"4", b"done"}
    assert (tmp_path / "left").exists()  # the hook of the end has run


def test_a_call_that_is_always_short_needs_no_thread_and_one_that_hangs_ends_the_worker(
    bento: Path, tmp_path: Path
) -> None:
    hasty = folder(tmp_path / "bento", SERVICE.replace('"timeout": 30', '"timeout": 0.1'))
    with served(hasty, tmp_path / "worker", env={"EKIBEN_SERVER_STUCK_S": "1"}) as worker:
        assert worker.post("/quick", {}).json == 0
        until(lambda: worker.post("/quick", {}).json == 1, "it is called on the main thread")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            worker.post("/quick", {"hang": True})
        assert worker.process.wait(PATIENCE_S) == 70
        assert "has not returned" in worker.log.read_text()


def test_more_calls_at_once_than_the_service_allows_are_a_429(tmp_path: Path) -> None:
    limited = folder(tmp_path / "bento", SERVICE.replace('"timeout": 30', '"timeout": 30, "max_concurrency": 1'))
    with served(limited, tmp_path / "worker") as worker:
        go = tmp_path / "go"
        first = threading.Thread(target=lambda: worker.post("/wait_for", {"path": str(go)}))
        first.start()
        until(Path(f"{go}.begun").exists)
        refused = worker.post("/double", {"x": 1})
        assert (refused.status, refused.json) == (429, {"error": "Too many requests"})
        assert refused.headers["retry-after"] == "1"
        assert worker.send("GET", "/readyz").status == 200
        go.touch()
        first.join()
        assert worker.post("/double", {"x": 1}).json == 2
