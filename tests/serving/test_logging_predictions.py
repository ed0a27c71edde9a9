"""The prediction log of `ekiben serve`: nothing that was answered is missing, and no prediction fails for it."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ekiben.cli import spooled
from ekiben.predictions import recent
from ekiben.records import LoggedPrediction
from ekiben.storage import open_storage
from tests.station.small_disk import small_disk
from tests.waiting import PATIENCE_S, until

from .conftest import folder, served
from .test_serve import serve

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVICE = """
import os
import sys
from collections.abc import AsyncGenerator

import bentoml

@bentoml.service
class Probe:
    @bentoml.api
    def double(self, x: float) -> float:
        return 2 * x

    @bentoml.api
    async def stream(self) -> AsyncGenerator[str, None]:
        yield "a"

    @bentoml.api
    def loaded(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in sys.modules})

    @bentoml.api
    async def pid(self) -> int:
        return os.getpid()
"""


@pytest.fixture
def bento(tmp_path: Path) -> Path:
    return folder(tmp_path / "bento", SERVICE)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compacts gives way to everybody: on a busy machine it takes longer than a server waits for it at its end."""
    monkeypatch.setenv("EKIBEN_SERVER_FLUSH_TIMEOUT_S", str(int(PATIENCE_S)))


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    return tmp_path / "lake"


def options(tmp_path: Path, lake: Path, *more: str) -> tuple[str, ...]:
    return ("--port", "0", "--log-predictions", lake.as_uri(), "--log-spool", str(tmp_path / "spool"), *more)


def ask(where: str, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(where.removeprefix("http://"), timeout=PATIENCE_S)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def stored(lake: Path, name: str = "probe") -> list[LoggedPrediction]:
    return list(recent(open_storage(lake.as_uri()), name))


def waiting(tmp_path: Path) -> list[dict[str, Any]]:
    """The rows that are not in storage yet."""
    segments = sorted((tmp_path / "spool").rglob("*.jsonl"))
    return [json.loads(line) for segment in segments for line in segment.read_bytes().splitlines()]


def counted(where: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(where.removeprefix("http://"), timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("ekiben_predictions_")]
    return {name.partition("{")[0]: float(value) for name, _, value in lines}


def test_what_was_answered_is_a_row_with_all_that_there_is_to_say(bento: Path, tmp_path: Path, lake: Path) -> None:
    body = b'{"x": 3, "ort": "Z\xc3\xbcrich"}'
    env = {"EKIBEN_REVISION": "r-7", "EKIBEN_MODEL_VERSION": "probe:4"}
    with serve(str(bento), *options(tmp_path, lake), **env) as (_, where):
        status, headers, said = ask(
            where, "/double?key=s3cret", body, traceparent=f"00-{TRACE}-{PARENT}-01", **{"x-request-id": 'a "mine"'}
        )
        ask(where, "/double", b"\xff")
        ask(where, "/stream", {})
        assert ask(where, "/nowhere", {})[0] == 404
        assert ask(where, "/livez", {})[0] == 405
        assert len(waiting(tmp_path)) == 3  # on disk before the answer was
        assert counted(where) == {"ekiben_predictions_logged_total": 3, "ekiben_predictions_dropped_total": 0}
        assert stored(lake) == []
    streamed, wrong, row = stored(lake)
    assert waiting(tmp_path) == []
    assert (status, headers["x-request-id"], said) == (200, row.id, row.response.encode())
    assert dataclasses.replace(row, time="", latency_ms=0.0) == LoggedPrediction(
        id='a "mine"', time="", endpoint="probe", revision="r-7", model_version="probe:4", route="double", status=200,
        latency_ms=0.0, request=body.decode(), response=said.decode(), request_bytes=len(body), response_bytes=len(said),
        request_sha256=hashlib.sha256(body).hexdigest(), trace_id=TRACE,
    )  # fmt: skip
    assert row.latency_ms > 0
    assert (wrong.status, wrong.request, wrong.request_bytes, wrong.trace_id) == (400, "", 1, "")
    assert (streamed.status, streamed.response, streamed.response_bytes) == (200, "", -1)
    assert [path.parent.name for path in lake.rglob("*.parquet")] == [f"date={row.time[:10]}"]


def test_the_server_does_not_load_what_writes_parquet(bento: Path, tmp_path: Path, lake: Path) -> None:
    with serve(str(bento), *options(tmp_path, lake)) as (_, where):
        assert not {"pyarrow", "obstore"} & set(json.loads(ask(where, "/loaded", {})[2]))


def test_killed_it_has_logged_what_it_answered_and_the_next_brings_it_to_storage(
    bento: Path, tmp_path: Path, lake: Path
) -> None:
    got: list[str] = []
    with serve(str(bento), *options(tmp_path, lake, "--workers", "2")) as (process, where):

        def hammer() -> None:
            while True:
                try:
                    got.append(ask(where, "/double", {"x": 1})[1]["x-request-id"])
                except (OSError, http.client.HTTPException):
                    return

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(got) > 100)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        process.kill()
        for thread in threads:
            thread.join()
    assert set(got) <= {row["id"] for row in waiting(tmp_path)}
    with serve(str(bento), *options(tmp_path, lake)):
        until(lambda: not waiting(tmp_path), "what was left is in storage")
    ids = [row.id for row in stored(lake)]
    assert set(got) <= set(ids)
    assert len(ids) == len(set(ids))


def test_several_workers_log_together_and_do_not_touch_what_another_one_writes(
    bento: Path, tmp_path: Path, lake: Path
) -> None:
    with serve(str(bento), *options(tmp_path, lake, "--workers", "3")) as (_, where):
        pids = until(
            lambda: len(found := {ask(where, "/pid", {})[2] for _ in range(30)}) == 3 and found, "all of them answer"
        )
        os.kill(int(pids.pop()), signal.SIGKILL)
        until(lambda: len(pids | {ask(where, "/pid", {})[2] for _ in range(30)}) == 3, "there is another one")
        # It takes up what the dead one has left, and nothing else.
        until(lambda: stored(lake), "what the dead one has left is in storage")
        sent = [ask(where, "/double", {"x": number})[1]["x-request-id"] for number in range(60)]
        assert set(sent) <= {row["id"] for row in waiting(tmp_path)}
        rows = len(stored(lake)) + len(waiting(tmp_path))
        until(lambda: counted(where)["ekiben_predictions_logged_total"] >= rows - len(stored(lake)), "they add up")
    ids = [row.id for row in stored(lake)]
    assert (len(ids), len(set(ids)), set(sent) <= set(ids)) == (rows, rows, True)
    assert waiting(tmp_path) == []


def test_a_share_is_logged(bento: Path, tmp_path: Path, lake: Path) -> None:
    with serve(str(bento), *options(tmp_path, lake, "--log-share", "0.3")) as (_, where):
        for _ in range(400):
            ask(where, "/double", {"x": 1})
    # 400 draws at 30 %: mean 120, standard deviation 9; six of them either way.
    assert 65 <= len(stored(lake)) <= 175


def test_a_storage_that_is_away_fails_nothing_and_holds_up_the_end_no_longer_than_the_limit(
    bento: Path, tmp_path: Path, lake: Path
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    with serve(str(bento), "--port", "0", "--log-predictions", str(away), "--log-spool", str(tmp_path / "spool")) as (
        process,
        where,
    ):
        away.rmdir()
        assert ask(where, "/double", {"x": 1})[0] == 200
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "1 files of predictions wait in" in said
    assert len(waiting(tmp_path)) == 1


def test_a_slow_storage_is_not_waited_for_at_the_end(bento: Path, tmp_path: Path, lake: Path) -> None:
    spool = tmp_path / "spool"
    with serve(str(bento), *options(tmp_path, lake), EKIBEN_SERVER_FLUSH_TIMEOUT_S="1") as (process, where):
        assert ask(where, "/double", {"x": 1})[0] == 200
        lock = next(spool.glob("predictions/*")) / "compaction.lock"
        with lock.open("a") as held:
            import fcntl

            fcntl.flock(held, fcntl.LOCK_EX)  # another process is at it, and does not come to an end
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert len(waiting(tmp_path)) == 1


def test_a_full_disk_drops_rows_and_counts_them(bento: Path, tmp_path: Path, lake: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        where_to = ("--port", "0", "--log-predictions", lake.as_uri(), "--log-spool", str(disk.folder))
        with serve(str(bento), *where_to) as (_, where):
            large = {"x": 1, "pad": "x" * 60_000}
            answers = [ask(where, "/double", large) for _ in range(40)]
            assert {status for status, _, _ in answers} == {200}
            told = counted(where)
            assert told["ekiben_predictions_dropped_total"] > 0
            assert sum(told.values()) == 40
        assert len(stored(lake)) == told["ekiben_predictions_logged_total"]


def test_where_only_tmp_can_be_written_rows_wait_there(bento: Path, tmp_path: Path, lake: Path) -> None:
    (tmp_path / "home").mkdir()
    blocked = tmp_path / "home" / ".local"
    blocked.write_text("a file is where a folder should be")
    (tmp_path / "tmp").mkdir()
    env = {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": "", "TMPDIR": str(tmp_path / "tmp")}
    with serve(str(bento), "--port", "0", EKIBEN_LOG_PREDICTIONS=lake.as_uri(), **env) as (_, where):
        assert ask(where, "/double", {"x": 1})[0] == 200
        found = list((tmp_path / "tmp" / f"ekiben-{os.getuid()}").rglob("*.jsonl"))
        assert len(found) == 1
        assert found[0].stat().st_mode & 0o077 == 0
    assert len(stored(lake)) == 1


def test_a_place_in_tmp_that_somebody_else_has_made_is_not_used(bento: Path, tmp_path: Path, lake: Path) -> None:
    (tmp_path / "home").write_text("no folder")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "tmp" / f"ekiben-{os.getuid()}").symlink_to(tmp_path / "theirs")
    env = {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": "", "TMPDIR": str(tmp_path / "tmp")}
    done = run("serve", str(bento), "--port", "0", "--log-predictions", str(lake), **env)
    assert (done.returncode, "somebody else has made it" in done.stderr) == (3, True), done.stderr
    assert list((tmp_path / "theirs").iterdir()) == []


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ekiben.cli", *arguments], capture_output=True, text=True, env={**os.environ, **env}
    )


def test_the_rows_are_shown_from_where_they_were_logged(bento: Path, tmp_path: Path, lake: Path) -> None:
    with serve(str(bento), *options(tmp_path, lake)) as (_, where):
        for x in (1, 2, 3):
            ask(where, "/double", {"x": x})
    shown = run("predictions", "probe", "--from", str(lake), "--last", "2", "--json")
    assert [(row["request"], row["response"]) for row in json.loads(shown.stdout)] == [
        ('{"x": 3}', "6.0"),
        ('{"x": 2}', "4.0"),
    ]


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["--log-predictions", "ftp://x/y"], {}, "ftp://x/y"),
        (["--log-predictions", "."], {"EKIBEN_ENDPOINT": "a/b"}, "The endpoint 'a/b' cannot be logged"),
        (["--log-predictions", ".", "--log-spool", "/proc/none"], {}, "Predictions cannot be logged: /proc/none"),
    ],
)
def test_what_cannot_be_logged_is_said_at_once(
    bento: Path, tmp_path: Path, arguments: list[str], env: dict[str, str], said: str
) -> None:
    done = run("serve", str(bento), "--port", "0", *arguments, **env)
    assert (done.returncode, said in done.stderr) == (3, True), done.stderr


def test_bentomls_own_server_logs_the_same_rows(bento: Path, tmp_path: Path, lake: Path) -> None:
    given = spooled.given(bento, "probe:3", lake.as_uri(), 1.0, str(tmp_path / "spool"))
    for own in (False, True):
        with served(bento, tmp_path / f"worker-{own}", own=own, predictions=given) as worker:
            where = f"http://127.0.0.1:{worker.port}"
            ask(where, "/double", b'{"x":  3}', traceparent=f"00-{TRACE}-{PARENT}-01")
            ask(where, "/double", b"\xff")
            ask(where, "/stream", {})
            ask(where, "/nowhere", {})
            assert len(waiting(tmp_path)) == 3
            assert counted(where)["ekiben_predictions_logged_total"] == 3
        assert waiting(tmp_path) == []
    rows = [dataclasses.replace(row, id="", time="", latency_ms=0) for row in reversed(stored(lake))]
    assert len(rows) == 6
    assert rows[:3] == rows[3:]
    assert {row.model_version for row in rows} == {"probe:3"}
