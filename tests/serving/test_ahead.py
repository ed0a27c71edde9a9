"""Predictions of a server that may be frozen after each answer: in storage before it leaves, and no answer waits long for it."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ekiben import compaction
from ekiben.predictions import LINES, key, recent
from ekiben.serving.ahead import FORWARDING, Ahead
from ekiben.serving.spool import line
from ekiben.storage import open_storage

from .test_logging_predictions import ask, bento, lake, options, run, stored  # noqa: F401
from .test_serve import serve

# What answers as the process does that brings rows, as far as a test needs.
MUTE = (sys.executable, "-c", "import sys; [line for line in sys.stdin]")
ENDS = (sys.executable, "-c", "pass")
REFUSES = (sys.executable, "-c", "import sys\nfor line in sys.stdin: print('\"full\"', flush=True)")
COUNTS = (
    sys.executable,
    "-c",
    "import sys\nfor line in sys.stdin: open(sys.argv[1], 'a').write(line); print('\"\"', flush=True)",
)


def segment(folder: Path, *xs: int, at: datetime | None = None, endpoint: str = "api") -> Path:
    """A segment that begins then, with a row for each x."""
    at = at or datetime.now(UTC)
    path = folder / endpoint / f"{at:%Y%m%dT%H%M%S.%fZ}-{os.urandom(4).hex()}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for x in xs:
            row = line(
                id=f"{x:032x}", endpoint=endpoint, revision="v1-abc", model_version="m:1", route="predict", status=200,
                latency_ms=1.5, request=json.dumps({"x": x}).encode(), response=b"2",
            )  # fmt: skip
            told = json.loads(row)
            told["time"] = (at + timedelta(milliseconds=x)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            file.write(json.dumps(told).encode() + b"\n")
    return path


def xs(lake: Path, endpoint: str = "api") -> list[int]:  # noqa: F811
    return [json.loads(row.request)["x"] for row in recent(open_storage(lake.as_uri()), endpoint)]


def test_each_answer_is_in_storage_when_the_caller_has_it(bento: Path, tmp_path: Path, lake: Path) -> None:  # noqa: F811
    """On the server of BentoML itself, too."""
    for number, more in enumerate(((), ("--bentoml",))):
        told = options(tmp_path / str(number), lake, *more)
        with serve(str(bento), *told, AWS_LAMBDA_FUNCTION_NAME="f") as (_, where):
            for x in (1.5, 2.5):
                assert ask(where, "/double", {"x": x})[0] == 200
                newest = next(recent(open_storage(lake.as_uri()), "probe"))
                assert json.loads(newest.request) == {"x": x}
            assert sum(path.suffix == ".jsonl" for path in lake.rglob("*")) == 1
    assert [json.loads(row.request)["x"] for row in stored(lake)] == [2.5, 1.5, 2.5, 1.5]


def test_when_the_server_ends_its_lines_are_parquet(bento: Path, tmp_path: Path, lake: Path) -> None:  # noqa: F811
    with serve(str(bento), *options(tmp_path, lake), EKIBEN_LOG_FLUSH_S="0") as (_, where):
        ask(where, "/double", {"x": 1})
    assert [row.request for row in stored(lake)] == ['{"x": 1}']
    assert [path.suffix for path in lake.rglob("*-*.*") if path.is_file()] == [".parquet"]


def test_what_is_no_time_is_refused(bento: Path, tmp_path: Path, lake: Path) -> None:  # noqa: F811
    done = run("serve", str(bento), *options(tmp_path, lake), EKIBEN_LOG_FLUSH_S="soon")
    assert (done.returncode, "EKIBEN_LOG_FLUSH_S is 'soon'" in done.stderr) == (3, True), done.stderr


def test_what_the_segment_has_so_far_is_brought_each_time(tmp_path: Path, lake: Path) -> None:  # noqa: F811
    ahead = Ahead([*FORWARDING, lake.as_uri()], timeout_s=120)
    ahead.start()
    path = segment(tmp_path / "spool", 1, 2)
    assert ahead.bring(path)
    assert xs(lake) == [2, 1]
    with path.open("ab") as file:
        file.write(segment(tmp_path / "more", 3).read_bytes())
    assert ahead.bring(path)
    assert xs(lake) == [3, 2, 1]
    assert not ahead.bring(tmp_path / "spool" / "api" / "gone.jsonl")
    assert ahead.bring(path)
    ahead.stop()


@pytest.mark.parametrize(
    ("command", "why"),
    [(MUTE, "it takes longer"), (ENDS, "has ended"), (REFUSES, "full"), (("/nowhere",), "No such file")],
)
def test_what_cannot_be_brought_fails_nothing_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: tuple[str, ...], why: str
) -> None:
    ahead = Ahead(command, timeout_s=0.2 if command == MUTE else 120)
    ahead.start()
    path = segment(tmp_path, 1)
    for _ in range(3):
        assert not ahead.bring(path)
    ahead.stop()
    ahead.stop()
    said = [record.getMessage() for record in caplog.records if record.name == "ekiben.predictions"]
    assert len(said) == 1
    assert command != MUTE or why in said[0]


def test_rows_may_wait_for_the_next_time(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    ahead = Ahead([*COUNTS, str(asked)], every_s=3600, timeout_s=120)
    for _ in range(5):
        assert ahead.bring(segment(tmp_path, 1))
    ahead.stop()
    assert len(asked.read_text().splitlines()) == 1


def test_lines_that_a_host_has_left_become_parquet_and_others_stay(tmp_path: Path, lake: Path) -> None:  # noqa: F811
    storage, now = open_storage(lake.as_uri()), datetime.now(UTC)
    old, young = segment(tmp_path, 1, at=now - timedelta(hours=2)), segment(tmp_path, 2, at=now - timedelta(minutes=2))
    for path in (old, young):
        storage.put(key("api", path.stem, LINES), path.read_bytes())
    for _ in range(2):
        compaction.adopt(storage, "api")
        assert xs(lake) == [2, 1]
    assert {path.stem: path.suffix for path in lake.rglob("*-*.*") if path.is_file()} == {
        old.stem: ".parquet", young.stem: ".jsonl",
    }  # fmt: skip


def test_rows_of_several_hosts_come_newest_first(tmp_path: Path, lake: Path) -> None:  # noqa: F811
    """A segment that was begun earlier may have the newer rows."""
    storage, now = open_storage(lake.as_uri()), datetime.now(UTC) - timedelta(minutes=30)
    for path in (
        segment(tmp_path, 100, 60_000, at=now),
        segment(tmp_path, 1, 2, at=now + timedelta(seconds=30)),
        segment(tmp_path, 5, at=now - timedelta(days=1)),
    ):
        storage.put(key("api", path.stem, LINES), path.read_bytes())
    assert xs(lake) == [60_000, 2, 1, 100, 5]


def test_one_that_became_parquet_in_between_is_read_as_such(tmp_path: Path, lake: Path) -> None:  # noqa: F811
    storage, path = open_storage(lake.as_uri()), segment(tmp_path, 1, at=datetime.now(UTC) - timedelta(hours=2))
    storage.put(key("api", path.stem, LINES), path.read_bytes())

    class Slow:
        def __init__(self) -> None:
            self.list = storage.list

        def get(self, key: str) -> Any:
            compaction.adopt(storage, "api")
            return storage.get(key)

    assert [row.id for row in recent(Slow(), "api")] == [f"{1:032x}"]  # type: ignore[arg-type]
