"""The station's socket under many callers, slow readers and leaking models: bounded, and nothing is lost."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ekiben.records import ModelVersion
from ekiben.station import front
from tests.waiting import until

from .conftest import Station, sent, to_zero
from .raw import Raw


@pytest.fixture(scope="module")
def api(host: Station, doubling: ModelVersion) -> Station:
    host.released("api", doubling, max_request_bytes=100_000, concurrency=64)
    return host


def test_a_stream_waits_for_a_slow_reader_and_holds_no_more_than_a_buffer(
    host: Station, doubling: ModelVersion
) -> None:
    host.released("slow-reader", doubling)
    with Raw(host) as raw:
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.send(raw.request("slow-reader", "stream", b'{"count": 3000000}'))
        assert raw.file.readline() == b"HTTP/1.1 200 OK\r\n"
        before = resident_kib(host)
        assert sent(host.call("slow-reader")) == 6.0
        # 20 MB are waiting to be read.
        assert resident_kib(host) - before < 8_000


def resident_kib(host: Station) -> int:
    text = Path(f"/proc/{host.pid()}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])  # type: ignore[index]


def test_500_callers_at_zero_instances_are_all_answered_in_bounded_memory(
    host: Station, doubling: ModelVersion
) -> None:
    id = host.released("many", doubling, idle_s=1, max_queue=300, concurrency=32, max_instances=2, hold_s=120)
    to_zero(host, "many")
    before = resident_kib(host)
    raws = [Raw(host) for _ in range(500)]
    try:
        for number, raw in enumerate(raws):
            raw.send(raw.request("many", "predict", json.dumps({"x": number, "pad": "y" * 2000}).encode()))
        answers = [raw.answer() for raw in raws]
    finally:
        for raw in raws:
            raw.__exit__()
    statuses = Counter(status for status, _, _ in answers)
    assert sum(statuses.values()) == 500
    assert set(statuses) <= {200, 400, 422, 503}
    assert statuses[503] <= 200
    for number, (status, headers, body) in enumerate(answers):
        if status == 503:
            assert int(headers["retry-after"]) >= 1
        elif status == 200:
            assert body == f"{2.0 * number}".encode()
    assert resident_kib(host) - before < 40_000
    shown = host.client.request("GET", "/v1/endpoints/many/metrics")["metrics"][0]
    assert (shown["revision"], shown["requests"]) == (id, 500)


def test_more_connections_than_are_taken_are_told_to_come_again_and_those_who_look_after_it_get_in(
    api: Station,
) -> None:
    idle = [Raw(api) for _ in range(front.LIMITS.connections)]
    try:
        with Raw(api) as raw:
            status, headers, _ = raw.send(raw.request("api")).answer()
            assert (status, headers["retry-after"]) == (503, "1")
        assert api.client.request("GET", "/v1/endpoints/api/revisions")
        more = [Raw(api) for _ in range(front.LIMITS.spare)]
        try:
            with Raw(api) as raw:
                assert raw.answer()[0] == 503
        finally:
            for raw in more:
                raw.__exit__()
    finally:
        for raw in idle:
            raw.__exit__()
    until(lambda: api.call("api").status == 200, "there is room again")


def test_a_worker_that_leaks_is_replaced_and_no_request_is_lost(host: Station, doubling: ModelVersion) -> None:
    host.released("leaks", doubling, resources={"memory_mib": 300}, concurrency=8, max_instances=3, timeout_s=30)
    pids: set[int] = set()
    failed: list[Any] = []
    enough = threading.Event()

    def call(number: int) -> None:
        while not enough.is_set():
            answer = host.call("leaks", "allocate", {"mib": 8}) if number == 0 else host.call("leaks")
            if answer.status != 200:
                failed.append((answer.status, answer.body))
                return
            if number == 0:
                pids.add(answer.json())

    with ThreadPoolExecutor(6) as pool:
        calling = [pool.submit(call, number) for number in range(6)]
        try:
            until(lambda: len(pids) >= 3 or failed, "two workers were replaced")
        finally:
            enough.set()
        for one in calling:
            one.result()
    assert failed == []
