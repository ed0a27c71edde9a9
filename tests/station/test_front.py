"""The station's socket under callers that are hostile, slow, many, or odd: raw bytes in, raw bytes out."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ekiben.records import ModelVersion
from ekiben.station import front
from tests.waiting import until

from .conftest import Station, bento, sent, version
from .raw import BODY, Raw


@pytest.fixture(scope="module")
def api(host: Station, doubling: ModelVersion) -> Station:
    host.released("api", doubling, max_request_bytes=100_000, concurrency=64)
    return host


def test_calls_and_all_else_take_turns_on_connections(api: Station) -> None:
    with Raw(api) as raw:
        for _ in range(3):
            status, headers, body = raw.send(raw.request("api")).answer()
            assert (status, body) == (200, b"6.0")
            assert "connection" not in headers
        assert raw.send(raw.head("/livez", method="GET")).answer()[0] == 200
        assert raw.closed()  # who comes after aiohttp would be read by it
    with Raw(api) as raw:
        status, headers, _ = raw.send(raw.head("/livez", method="GET") + raw.request("api")).answer()
        assert (status, headers["connection"]) == (200, "close")
        assert raw.closed()


def test_requests_that_come_together_or_in_pieces_are_answered_in_order(api: Station) -> None:
    with Raw(api) as raw:
        bodies = [json.dumps({"x": x}).encode() for x in range(20)]
        raw.send(b"".join(raw.request("api", "predict", body) for body in bodies))
        assert [raw.answer()[2] for _ in bodies] == [f"{2.0 * x}".encode() for x in range(20)]
        chunks = raw.head("/endpoints/api/predict", "Transfer-Encoding: chunked")
        chunks += b"3\r\n" + BODY[:3] + b"\r\n5;a\r\n" + BODY[3:] + b"\r\n0\r\nX: 1\r\n\r\n"
        for byte in b"\r\n" + raw.request("api") + chunks + raw.request("api", "predict", b'{"x": 7}'):
            raw.send(bytes([byte]))
        assert [raw.answer()[2] for _ in range(3)] == [b"6.0", b"6.0", b"14.0"]


def test_a_thousand_refused_requests_in_one_go_are_a_thousand_answers(api: Station) -> None:
    with Raw(api) as raw:
        raw.send(
            raw.head("/endpoints/api@nobody/x", method="GET") * 500 + raw.head("/endpoints/no/x", method="GET") * 500
        )
        assert {raw.answer()[0] for _ in range(1000)} == {404}
        assert raw.send(raw.request("api")).answer()[2] == b"6.0"


def test_an_old_caller_and_one_who_asks_first_are_served(api: Station) -> None:
    with Raw(api) as raw:
        raw.send(raw.head("/endpoints/api/stream", "Content-Length: 13", minor=0) + b'{"count":  5}')
        status, headers, body = raw.answer()
        assert (status, body) == (200, b"0\n1\n2\n3\n4\n")
        assert "transfer-encoding" not in headers
    with Raw(api) as raw:
        raw.send(raw.head("/endpoints/api/predict", f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
        assert raw.answer(bodiless=True)[0] == 100
        assert raw.send(BODY).answer()[2] == b"6.0"
        raw.send(raw.head("/endpoints/api/predict", "Content-Length: 999999", "Expect: 100-continue"))
        assert raw.answer()[0] == 413
    with Raw(api) as raw:
        status, headers, _ = raw.send(raw.head("/endpoints/api/livez", method="HEAD")).answer(bodiless=True)
        assert status in (200, 405)
        assert raw.send(raw.request("api")).answer()[2] == b"6.0"


@pytest.mark.parametrize(
    ("lines", "body", "expected"),
    [
        (["Content-Length: 8", "Transfer-Encoding: chunked"], b"0\r\n\r\n", 400),
        (["Content-Length: 8", "Content-Length: 8"], BODY, 400),
        (["Content-Length: 8", "X: a\r\n folded"], BODY, 400),
        (["Content-Length: 8 "], BODY, 200),
        (["Content-Length : 8"], BODY, 400),
        (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n", 501),
        (["Transfer-Encoding: chunked"], b"8\r\n" + BODY + b"0\r\n\r\n", 400),
        (["Transfer-Encoding: chunked"], b"zz\r\n", 400),
        (["X: a\nY: b"], b"", 400),
        (["X: " + "a" * 40_000], b"", 431),
        ([f"X-{number}: a" for number in range(200)], b"", 431),
        (["Host: other"], b"", 400),
    ],
)
def test_what_could_smuggle_a_request_is_refused_and_the_connection_closed(
    api: Station, lines: list[str], body: bytes, expected: int
) -> None:
    with Raw(api) as raw:
        raw.send(raw.head("/endpoints/api/predict", *lines) + body)
        status, headers, said = raw.answer()
        assert status == expected
        if expected != 200:
            assert json.loads(said)["error"]["message"].startswith("The request is not taken: ")
            assert headers["connection"] == "close"
            with suppress(OSError):
                raw.send(raw.request("api"))  # what comes after it is not read as a request
            assert raw.closed()
    assert sent(api.call("api")) == 6.0


def test_nothing_of_a_call_that_is_not_allowed_is_read_as_another(api: Station) -> None:
    hidden = b"POST /endpoints/api/predict HTTP/1.1\r\n\r\n"
    for target, status in (("/endpoints/nobody/x", 404), ("/endpoints/api@nobody/x", 404)):
        with Raw(api) as raw:
            raw.send(raw.head(target, f"Content-Length: {len(hidden)}") + hidden)
            assert raw.answer()[0] == status
    with Raw(api) as raw:
        raw.token = "wrong"
        raw.send(raw.head("/endpoints/api/predict", f"Content-Length: {len(hidden)}") + hidden)
        assert raw.answer()[0] == 401
        assert raw.closed()
    with Raw(api) as raw:
        raw.send(raw.request("api").replace(b"Host: localhost", b"Host: evil.example"))
        status, _, body = raw.answer()
        assert (status, b"evil.example" in body) == (403, True)


def test_a_body_that_is_too_large_is_answered_though_it_still_comes_and_the_answer_says_how_large(api: Station) -> None:
    with Raw(api) as raw:
        raw.send(raw.request("api", "predict", b"x" * 3_000_000))
        status, _, body = raw.answer()
        assert status == 413
        assert "has 3000000 bytes, and the endpoint takes 100000" in json.loads(body)["error"]["message"]
    with Raw(api) as raw:
        raw.send(raw.head("/endpoints/api/predict", "Transfer-Encoding: chunked"))
        with suppress(OSError):
            for _ in range(200):
                raw.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        status, _, body = raw.answer()
        assert (status, b"and the endpoint takes 100000" in body) == (413, True)


def test_a_caller_who_leaves_while_it_is_held_gives_its_place_back(host: Station, doubling: ModelVersion) -> None:
    host.released("leave", doubling, concurrency=1, max_instances=1, max_queue=1, drain_s=0, timeout_s=600)

    def held() -> bool:
        return 'ekiben_endpoint_held{endpoint="leave"} 1\n' in host.client.send("GET", "/metrics").body.decode()

    with Raw(host) as busy:
        busy.send(busy.request("leave", "pid", b'{"sleep_s": 600}'))
        assert not held()  # and by now the instance has it
        for _ in range(3):
            with Raw(host) as raw:
                raw.send(raw.request("leave"))
                until(held, "it is held")
                assert host.call("leave").status == 503
            until(lambda: not held(), "its place is free")
        host.client.request("DELETE", "/v1/resources/endpoint/leave")
        assert busy.answer()[0] in (502, 503)
    lines = [json.loads(line) for line in (host.state_dir / "access.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines if line["endpoint"] == "leave"].count(front.LEFT) == 3


@pytest.mark.parametrize(
    ("written", "status"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 502),
        ("nonsense\r\n\r\n", 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204),
    ],
)
def test_an_answer_that_is_none_is_the_models_failure_and_gets_no_further(
    host: Station, odd_worker: Callable[[str], str], written: str, status: int
) -> None:
    name = odd_worker(written)
    with Raw(host) as raw:
        got, headers, body = raw.send(raw.request(name)).answer(bodiless=status == 204)
        assert got == status
        assert body == (b"abc" if status == 200 else body)
        assert "evil" not in body.decode()
        assert "link" not in headers
        if status < 400:
            assert raw.send(raw.request(name)).answer(bodiless=status == 204)[0] == status


ODD = """
import os
from pathlib import Path

written = (Path(__file__).parent / "model" / "factor.json").read_text()
READY = b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n"

def serve_oddly():
    # In the worker that this module is imported in: answer on the socket that listens here already.
    import json, socket, stat, threading
    for fd in range(3, 64):
        try:
            found = socket.socket(fileno=os.dup(fd)) if stat.S_ISSOCK(os.fstat(fd).st_mode) else None
        except OSError:
            continue
        if found is not None and found.family == socket.AF_UNIX and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            break
    found.setblocking(True)

    def answer(connection):
        with connection:
            while data := connection.recv(65536):
                connection.sendall(READY if b"/readyz" in data else json.loads(written).encode())

    while True:
        threading.Thread(target=answer, args=(found.accept()[0],), daemon=True).start()

serve_oddly()
"""


@pytest.fixture
def odd_worker(host: Station, tmp_path: Path) -> Callable[[str], str]:
    """An endpoint whose worker writes these bytes for an answer."""

    def make(written: str) -> str:
        of = version(11, bento(tmp_path, factor=written, service=ODD))  # type: ignore[arg-type]
        name = f"odd-{of.digest[:8]}"
        host.released(name, of, timeout_s=10)
        return name

    return make


def test_after_the_station_was_killed_nobody_holds_its_port(station: Station, doubling: ModelVersion) -> None:
    station.released("api", doubling)
    with Raw(station) as raw:
        raw.send(raw.request("api")).answer()
        os.kill(station.pid(), signal.SIGKILL)
        assert raw.closed()
    station.start()
    until(lambda: station.call("api").status == 200)
