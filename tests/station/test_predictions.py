"""The prediction log: nothing that was answered is missing, nothing is there twice, and no prediction fails for it."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ekiben import compaction
from ekiben.errors import SpecError
from ekiben.predictions import recent
from ekiben.records import LoggedPrediction, ModelVersion
from ekiben.serving.spool import COMPACTION, TEXT_BYTES, Spool, line
from ekiben.station import launch
from ekiben.storage import open_storage
from tests.waiting import PATIENCE_S, until

from .conftest import Station, at_once, sent


def logged(host: Station, name: str, last: int = 100) -> list[dict[str, Any]]:
    return list(host.client.request("GET", f"/v1/endpoints/{name}/predictions?last={last}")["predictions"])


def in_storage(lake: Path, name: str) -> list[LoggedPrediction]:
    return list(recent(open_storage(lake.as_uri()), name))


def answered(number: int, endpoint: str = "api", **more: Any) -> dict[str, Any]:
    given = {
        "id": f"{number:032x}", "endpoint": endpoint, "revision": "v1-abc", "model_version": "probe:1", "route": "predict",
        "status": 200, "latency_ms": 1.5, "request": b'{"x": 1}', "response": b"2",
    }  # fmt: skip
    return {**given, **more}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    return tmp_path / "lake"


@pytest.fixture
def spooled(tmp_path: Path, lake: Path) -> Callable[..., Spool]:
    """Run `use(spool)` in a loop of its own; returns the spool."""

    def run(use: Callable[[Spool], Any], uri: str | None = None, **limits: int) -> Spool:
        target = lake.as_uri() if uri is None else uri

        async def main() -> Spool:
            spool = Spool(tmp_path / "spool", lambda endpoint: target, COMPACTION, **limits)
            spool.start()
            if asyncio.iscoroutine(result := use(spool)):
                await result
            await spool.stop()
            return spool

        return asyncio.run(main())

    return run


def test_an_answer_is_logged_with_all_that_there_is_to_say(host: Station, doubling: ModelVersion) -> None:
    id = host.released("said", doubling)
    body = '{"x": 3,  "ort": "Zürich \\u0001"}'.encode()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = host.client.send("POST", "/endpoints/said/predict?dry=1", body, {"traceparent": trace})
    row = logged(host, "said")[0]
    assert answer.headers["ekiben-request-id"] == row["id"]
    assert re.fullmatch(r"[0-9a-f]{32}", row["id"])
    assert (row["revision"], row["model_version"], row["route"], row["status"]) == (
        id,
        "probe:1",
        "predict",
        answer.status,
    )
    assert (row["request"], row["response"]) == (body.decode(), answer.body.decode())
    assert row["request_sha256"] == hashlib.sha256(body).hexdigest()
    assert (row["request_bytes"], row["response_bytes"]) == (len(body), len(answer.body))
    assert row["trace_id"] == trace.split("-")[1]
    assert row["latency_ms"] > 0
    assert LoggedPrediction.from_dict(row).endpoint == "said"


def test_what_is_no_prediction_is_not_logged(host: Station, doubling: ModelVersion) -> None:
    host.released("only", doubling)
    for method, path in (("GET", "livez"), ("GET", "schema.json"), ("POST", "nowhere")):
        host.client.send(method, f"/endpoints/only/{path}", b"" if method == "POST" else None)
    assert [(row["route"], row["status"]) for row in logged(host, "only")] == [("nowhere", 404)]
    for last in ("0", "-1", "x", "10001", "٣"):
        with pytest.raises((SpecError, UnicodeEncodeError)):
            logged(host, "only", last=last)  # type: ignore[arg-type]


def test_bodies_that_are_no_text_or_large_or_streamed_are_logged_by_size_and_digest(
    host: Station, doubling: ModelVersion
) -> None:
    host.released("odd", doubling)
    for body in (b"\xff\xfe\x00", b'{"x": 1, "pad": "' + b"x" * TEXT_BYTES + b'"}', b""):
        host.client.send("POST", "/endpoints/odd/predict", body)
        row = logged(host, "odd", 1)[0]
        assert (row["request"], row["request_bytes"]) == ("", len(body))
        assert row["request_sha256"] == hashlib.sha256(body).hexdigest()
    sent_bytes = host.call("odd", "stream", {"count": 10}).body
    assert sent_bytes.split() == [str(number).encode() for number in range(10)]
    row = logged(host, "odd", 1)[0]
    assert (row["status"], row["response"], row["response_bytes"]) == (200, "", -1)


def test_a_share_is_logged_and_none_when_it_is_zero(host: Station, doubling: ModelVersion, spooled: Any) -> None:
    host.released("none", doubling, log_predictions=0)
    assert sent(host.call("none")) == 6.0
    assert logged(host, "none") == []

    def write(spool: Spool) -> None:
        for number in range(2000):
            spool.write(0.3, **answered(number))

    # 2,000 draws at 30 %: mean 600, standard deviation 20; six of them either way.
    assert 480 <= spooled(write).logged["api"] <= 720


def test_killed_right_after_its_answer_a_station_has_logged_it(station: Station, doubling: ModelVersion) -> None:
    station.released("api", doubling, max_instances=1, concurrency=16)
    token, port = (station.state_dir / "token").read_text(), int(station.client.url.rpartition(":")[2])
    got: list[str] = []

    def call(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            while True:
                connection.request("POST", "/endpoints/api/predict", b'{"x": 1}', headers)
                answer = connection.getresponse()
                got.append(answer.headers["Ekiben-Request-Id"])
                answer.read()
                if len(got) == 50:
                    station.kill()
        except (OSError, http.client.HTTPException):
            return

    at_once(8, call)  # type: ignore[arg-type]
    station.start()
    rows = Counter(row["id"] for row in logged(station, "api", 10_000))
    assert len(got) >= 50
    assert set(got) <= set(rows)
    assert set(rows.values()) == {1}


def test_rows_go_to_storage_once_and_the_log_is_one(station: Station, doubling: ModelVersion, lake: Path) -> None:
    spec = {"model": "probe@champion", "bento": "x"}
    station.client.request(
        "PUT", "/v1/resources/endpoint/api", {"spec": {"spec": spec, "storage_uri": lake.as_uri()}}
    )  # fmt: skip
    station.shift("api", **{station.deploy("api", doubling): 100})
    first = [sent(station.call("api", body={"x": x})) for x in range(3)]
    assert first == [0.0, 2.0, 4.0]
    launch.stop(station.state_dir)
    station.start()
    rows = until(lambda: in_storage(lake, "api"), "the rows are in storage")
    assert [row.response for row in rows] == ["4.0", "2.0", "0.0"]
    until(lambda: logged(station, "api") == [], "the segment is removed")
    (found,) = lake.glob("predictions/api/date=*/*.parquet")
    assert re.fullmatch(r"date=\d{4}-\d\d-\d\d", found.parent.name)
    assert rows[0].time.startswith(found.parent.name.removeprefix("date="))
    sent(station.call("api"))
    station.client.request("DELETE", "/v1/resources/endpoint/api")
    assert [row.response for row in in_storage(lake, "api")] == ["6.0", "4.0", "2.0", "0.0"]
    assert not (station.state_dir / "predictions" / "api").exists()


def test_a_disk_that_is_full_fails_no_prediction_and_leaves_no_half_line(spooled: Any, tmp_path: Path) -> None:
    def use(spool: Spool) -> None:
        spool.write(1, **answered(1))
        spool.write(1, **answered(2, request=b"x" * 2000))
        spool.write(1, **answered(3))
        folder = tmp_path / "spool" / "blocked"
        folder.write_text("a file is where its folder should be")
        spool.write(1, **answered(4, endpoint="blocked"))
        assert [row["id"][-1] for row in spool.rows("api", 10)] == ["3", "1"]

    spool = spooled(use, uri="", spool_bytes=1200)
    assert (spool.logged, spool.dropped) == ({"api": 2}, {"api": 1, "blocked": 1})
    assert 'ekiben_predictions_dropped_total{endpoint="api"} 1' in spool.metrics()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_write_that_fails_is_counted_and_tried_again(spooled: Any) -> None:
    def use(spool: Spool) -> None:
        spool.write(1, **answered(1))
        segment = spool._open["api"]
        right, segment.fd = segment.fd, os.open("/dev/full", os.O_WRONLY)
        spool.write(1, **answered(2))
        os.close(segment.fd)
        segment.fd = right
        spool.write(1, **answered(3))
        assert [row["id"][-1] for row in spool.rows("api", 10)] == ["3", "1"]

    assert spooled(use, uri="").dropped == {"api": 1}


def test_segments_that_are_full_go_to_storage_while_others_are_written(spooled: Any, lake: Path) -> None:
    async def use(spool: Spool) -> None:
        for number in range(60):
            spool.write(1, **answered(number))
            await asyncio.sleep(0)
        assert spool._compaction is not None
        await spool._compaction

    spool = spooled(use, segment_bytes=4000)
    stored, held = in_storage(lake, "api"), spool.rows("api", 100)
    assert len(list(lake.rglob("*.parquet"))) > 2
    ids = [row["id"] for row in held] + [row.id for row in stored]
    assert ids == [f"{number:032x}" for number in reversed(range(60))]
    assert spool._held == sum(path.stat().st_size for path in (spool.folder / "api").iterdir())


def test_it_gives_way_to_those_who_answer_but_not_when_its_host_ends(tmp_path: Path, lake: Path) -> None:
    told = "import os, sys; from ekiben import compaction; compaction.main(); print(os.nice(0), file=open(sys.argv[1], 'a'))"

    async def main() -> None:
        spool = Spool(
            tmp_path / "spool", lambda _: lake.as_uri(), (sys.executable, "-c", told, str(tmp_path / "nice")), 1
        )
        for number in range(2):
            spool.write(1, **answered(number))
        assert spool._compaction is not None
        await spool._compaction
        await spool.flush()

    asyncio.run(main())
    mine = os.nice(0)
    assert (tmp_path / "nice").read_text().split() == [str(min(mine + compaction.NICE, 19)), str(mine)]
    assert len(in_storage(lake, "api")) == 2


def test_compacted_again_after_a_crash_there_are_no_duplicates(tmp_path: Path, lake: Path) -> None:
    segment = tmp_path / "api" / "20260102T030405.000000Z-abcd.jsonl"
    segment.parent.mkdir()
    lines = (
        line(**answered(1)) + b'{"torn": \n' + b"\xff\n[1]\n" + line(**answered(2, request="é".encode())) + b'{"id": "3'
    )
    for _ in range(2):
        segment.write_bytes(lines)
        compaction.compact(segment, lake.as_uri())
        assert not segment.exists()
    compaction.compact(segment, lake.as_uri())
    assert [(row.id[-1], row.request) for row in in_storage(lake, "api")] == [("2", "é"), ("1", '{"x": 1}')]


def test_a_storage_that_is_gone_keeps_the_rows_here(spooled: Any, tmp_path: Path) -> None:
    spool = spooled(lambda spool: spool.write(1, **answered(1)))

    async def wait(spool: Spool) -> None:
        assert spool._compaction is not None
        await spool._compaction
        assert [row["id"][-1] for row in spool.rows("api", 10)] == ["1"]
        assert spool._timer is not None  # it tries again

    spooled(wait, uri=(tmp_path / "gone").as_uri())
    assert not (tmp_path / "gone").exists()

    async def lose(spool: Spool) -> None:
        await spool.remove("api")

    spool = spooled(lose, uri=(tmp_path / "gone").as_uri())
    assert (spool.rows("api", 10), spool._held) == ([], 0)


def test_a_line_is_what_the_record_says() -> None:
    odd = answered(1, route='a"\\\n', request='{"é": "\u2028\\n\\u0000"}'.encode(), response=None, trace_id="ab" * 16)
    row = LoggedPrediction.from_json(line(**odd))
    assert (row.route, row.request, row.response_bytes) == ('a"\\\n', '{"é": "\u2028\\n\\u0000"}', -1)
    assert json.loads(line(**odd))["latency_ms"] == 1.5
