"""Thousands of small files at once, and files that are still being written: an event each, and bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben import NewData
from ekiben.errors import NoCapacity
from ekiben.station.events import Events
from ekiben.station.store import Store
from ekiben.station.triggers import NewFiles
from tests.station.stage import Stage, started
from tests.waiting import until

FILES = 3_000
TRIGGER = NewData("lake", "in/", settle_s=0.5).model_dump()


@pytest.fixture
def events(tmp_path: Path) -> Events:
    events = Events(Store(tmp_path / "station.db"))
    for function in ("one", "two"):
        events.subscribe(function, [TRIGGER], retries=0, backoff_s=1)
    return events


class Watch:
    """A watched folder with so many files, looked at by a clock of its own."""

    def __init__(self, events: Events, folder: Path, count: int) -> None:
        self.at = 0.0
        self.events = events
        self.files = NewFiles(events, lambda _: folder, clock=lambda: self.at)
        for number in range(count):
            path = folder / "in" / f"{number % 100}" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")

    def look(self, after_s: float = 1.0) -> int:
        self.at += after_s
        return len(self.files.scan([TRIGGER]))


def test_what_is_kept_of_a_file_is_small(events: Events, tmp_path: Path) -> None:
    few = Watch(events, tmp_path / "few", 1)
    assert [few.look(), few.look()] == [0, 1]  # what the first look imports is not kept of a file
    watch = Watch(events, tmp_path / "lake", 1000)
    tracemalloc.start()
    try:
        assert [watch.look(), watch.look(), watch.look()] == [0, 1000, 0]
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 1000 * 1000
    assert peak_bytes < 1000 * 3000


def test_thousands_of_files_are_thousands_of_events(events: Events, tmp_path: Path) -> None:
    watch = Watch(events, tmp_path / "lake", FILES)
    assert [watch.look(), watch.look(), watch.look()] == [0, FILES, 0]
    assert {one["function"]: one["n"] for one in events.counts()} == {"one": FILES, "two": FILES}
    again = NewFiles(events, lambda _: tmp_path / "lake", clock=lambda: watch.at)
    watch.files = again
    assert [watch.look(), watch.look()] == [0, 0], "another station publishes none of them again"
    claims = [events.claim() for _ in range(20)]
    assert len({claim.id for claim in claims if claim}) == 20
    assert sorted(claim.function for claim in claims if claim) == ["one"] * 10 + ["two"] * 10


def test_a_batch_that_cannot_be_written_is_published_later_and_none_twice(
    events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(events, tmp_path / "lake", 450)
    watch.look()
    publish_all, calls = events.publish_all, []

    def full(batch: list[object]) -> object:
        calls.append(len(batch))
        if len(calls) == 2:
            raise NoCapacity("local", "write the station's state", "the disk or the quota is full")
        return publish_all(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(events, "publish_all", full)
    with pytest.raises(NoCapacity):
        watch.look()
    assert watch.look() == 250
    assert calls == [200, 200, 200, 50]
    assert {one["function"]: one["n"] for one in events.counts()} == {"one": 450, "two": 450}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with started(tmp_path_factory.mktemp("files")) as stage:
        yield stage


def test_files_that_land_at_once_are_each_handled_once_and_few_at_a_time(stage: Stage) -> None:
    code = f"""
        import os, pathlib
        here = pathlib.Path({str(stage.root / "calls")!r})
        def handler(event, runtime):
            (here / str(os.getpid())).touch()
            together = len(list(here.iterdir()))
            (here / str(os.getpid())).unlink()
            return [event.subject, together]
    """
    (stage.root / "calls").mkdir()
    stage.function("lands", code, on=(NewData("lake", "in/", settle_s=0.5),))
    source = stage.root / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}.json").write_text("{}")
    source.rename(stage.lake / "in")
    done = [one["result"] for one in stage.settled("lands", 40)]
    assert sorted(subject for subject, _ in done) == sorted(f"in/{number}.json" for number in range(40))
    assert max(together for _, together in done) <= 4


def test_a_file_that_grows_is_delivered_whole(stage: Stage) -> None:
    stage.function(
        "reads", "import pathlib, urllib.parse\ndef handler(event, runtime):\n"
        "    return len(pathlib.Path(urllib.parse.unquote(event.data['uri'][7:])).read_bytes())",
        on=(NewData("lake", "grows/", settle_s=1.0),),
    )  # fmt: skip
    (stage.lake / "grows").mkdir()
    (stage.lake / "grows" / "other").touch()
    with (stage.lake / "grows" / "a.csv").open("wb", buffering=0) as file:
        # It grows as long as the station takes to see another file as whole.
        until(lambda: file.write(b"x") and stage.deliveries("reads", "done"), "the other file is delivered")
        size = file.tell()
    found = {one["event"]["subject"]: one["result"] for one in stage.settled("reads", 2)}
    assert found == {"grows/other": 0, "grows/a.csv": size}
