"""A disk that is slow, or does not answer: the station does, and a cancel waits for no copy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ekiben import Http, On
from tests.station.stage import Stage, started
from tests.waiting import until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with started(tmp_path_factory.mktemp("slow")) as stage:
        yield stage


def test_the_station_answers_while_its_state_cannot_be_written(stage: Stage) -> None:
    """Whoever holds SQLite's lock keeps all writers waiting, as a disk does that hangs."""
    stage.function("hears", "def handler(event, runtime): return event.id", on=(On("Slow"), Http()))
    stage.training("small", "from ekiben import job; (job.model_dir() / 'm').touch()")
    connection = sqlite3.connect(stage.state_dir / "station.db", timeout=10, isolation_level=None)
    connection.execute("begin immediate")
    with ThreadPoolExecutor(8) as pool:
        waiting = [
            pool.submit(stage.publish, "slow-1", "Slow"),
            pool.submit(stage.submit, "small", "small-1"),
            pool.submit(stage.client.request, "POST", "/functions/hears", {}),
            pool.submit(stage.function, "other", "def handler(event, runtime): ...", on=(Http(),)),
            pool.submit(stage.training, "other", "pass"),
            pool.submit(stage.bucket, "other"),
        ]
        for _ in range(20):
            assert stage.client.send("GET", "/livez").status == 200
            assert stage.client.request("GET", "/v1/trainings/small/runs") == {"runs": []}
            assert stage.deliveries("hears") == []
        assert not any(one.done() for one in waiting), "they wait, and nobody else does"
        connection.execute("rollback")
        for one in waiting:
            one.result(timeout=60)
    connection.close()
    assert stage.ended("small", "small-1").state == "succeeded"
    assert {one["state"] for one in stage.settled("hears", 2)} == {"done"}


def test_a_cancel_does_not_wait_for_the_copy_of_an_input(stage: Stage) -> None:
    """A terabyte that takes no room on the disk: nobody lives to see its copy."""
    size = 1 << 40
    (stage.lake / "huge").mkdir()
    with (stage.lake / "huge" / "a.bin").open("wb") as file:
        file.truncate(size)
    stage.training("copies", "print('started')", inputs={"huge": "lake/huge/"}, retries=3, spot=True)
    stage.submit("copies", "copies-1")
    copy = stage.state_dir / "runs" / "copies-1" / "inputs" / "huge" / "a.bin"
    until(copy.exists, "the copy has begun")
    run = stage.cancel("copies", "copies-1")
    assert (run.state, run.reason, run.attempts) == ("cancelled", "cancelled", 1)
    assert run.lineage["inputs"] == {}
    assert "started" not in stage.log("copies", "copies-1")
    until(lambda: not copy.exists(), "what was copied is taken away")
