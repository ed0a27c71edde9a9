"""The clock and new files: decisions only, at times that the tests set."""

from __future__ import annotations

import itertools
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from ekiben import NewData, On, Schedule
from ekiben.keys import is_data
from ekiben.station.events import Events
from ekiben.station.store import Store
from ekiben.station.triggers import NewFiles, Schedules, dues, latest_due

PARIS = ZoneInfo("Europe/Paris")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(Store(tmp_path / "station.db"))


def first(cron: str, zone: str, after: str, count: int = 1) -> list[str]:
    return [due.isoformat()[:16] for due in itertools.islice(dues(cron, zone, at(after)), count)]


# In Paris the clocks go from 02:00 to 03:00 on 30 March 2025, and from 03:00 back to 02:00 on 26 October 2025.
@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("30 3 * * *", "2025-03-29T12:00", ["2025-03-30T01:30", "2025-03-31T01:30"]),
        ("30 2 * * *", "2025-03-29T12:00", ["2025-03-30T01:00", "2025-03-31T00:30"]),
        ("30 2 * * *", "2025-10-25T12:00", ["2025-10-26T00:30", "2025-10-27T01:30"]),
        ("30 2 * * *", "2025-10-26T00:10", ["2025-10-26T00:30", "2025-10-27T01:30"]),
        ("30 2 * * *", "2025-10-26T01:10", ["2025-10-27T01:30"]),
        ("0 * * * *", "2025-10-25T23:30", ["2025-10-26T00:00", "2025-10-26T01:00", "2025-10-26T02:00"]),
        ("0 * * * *", "2025-03-30T00:30", ["2025-03-30T01:00", "2025-03-30T02:00"]),
        ("15,45 2 * * *", "2025-03-30T00:00", ["2025-03-30T01:00", "2025-03-31T00:15", "2025-03-31T00:45"]),
    ],
)
def test_f3_schedules_follow_the_clocks_of_their_zone(cron: str, after: str, expected: list[str]) -> None:
    assert first(cron, "Europe/Paris", after, len(expected)) == expected


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "0 * * * *", "*/20 1-3 * * *", "15 2 * * 0", "0 0 1 * *", "7 3 30 3 *"]),
    st.sampled_from(["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.datetimes(datetime(2025, 1, 1), datetime(2026, 12, 1)),
    st.timedeltas(timedelta(0), timedelta(days=40)),
)
def test_looking_often_or_once_finds_the_same(cron: str, zone: str, start: datetime, span: timedelta) -> None:
    start = start.replace(tzinfo=UTC)
    found = list(itertools.takewhile(lambda due: due <= start + span, dues(cron, zone, start)))
    assert found == sorted(set(found))
    assert latest_due(cron, zone, start, start + span) == (found[-1] if found else None)
    for due in found[:3]:
        assert latest_due(cron, zone, due - timedelta(seconds=1), due) == due
        assert latest_due(cron, zone, due, due) is None


def scheduled(events: Events, cron: str, zone: str, since: str) -> Schedules:
    events.subscribe("nightly", [Schedule(cron, zone).model_dump()], retries=0, backoff_s=1)
    schedules = Schedules(events._store, events)
    schedules.declare("nightly", [(cron, zone)], at(since))
    return schedules


def fired(schedules: Schedules, moment: str) -> list[str]:
    return [one.data["due"] for one in schedules.fire(at(moment))]


def test_a_schedule_fires_when_it_is_due_and_once(events: Events) -> None:
    schedules = scheduled(events, "0 3 * * *", "Europe/Paris", "2025-06-01T00:30")
    assert fired(schedules, "2025-06-01T00:59") == []
    assert schedules.pause_s(at("2025-06-01T00:59"), 3600) == 60
    assert fired(schedules, "2025-06-01T01:00") == ["2025-06-01T01:00:00Z"]
    assert fired(schedules, "2025-06-01T01:00") == []
    assert fired(schedules, "2025-06-01T23:00") == []
    claim = events.claim()
    assert claim is not None
    assert (claim.function, claim.event.subject, claim.event.source) == ("nightly", "0 3 * * *", "nightly")


def test_what_was_missed_while_the_station_was_down_fires_once(events: Events) -> None:
    schedules = scheduled(events, "*/5 * * * *", "UTC", "2024-01-01T00:00")
    assert fired(schedules, "2025-06-01T00:07") == ["2025-06-01T00:05:00Z"]
    assert fired(schedules, "2025-06-01T00:08") == []
    rare = scheduled(events, "0 0 29 2 *", "UTC", "2023-01-01T00:00")
    assert fired(rare, "2025-06-01T00:08") == ["2024-02-29T00:00:00Z"]


def test_a_clock_that_is_set_back_fires_nothing_twice(events: Events) -> None:
    schedules = scheduled(events, "0 * * * *", "UTC", "2025-06-01T00:30")
    assert len(fired(schedules, "2025-06-01T10:00")) == 1
    for moment in ("2025-06-01T08:59", "2025-06-01T10:00", "2025-06-01T10:30"):
        assert fired(schedules, moment) == []
    assert fired(schedules, "2025-06-01T11:00") == ["2025-06-01T11:00:00Z"]


def test_a_clock_that_was_years_ahead_does_not_silence_a_schedule(events: Events) -> None:
    schedules = scheduled(events, "0 * * * *", "UTC", "2025-06-01T00:30")
    assert len(fired(schedules, "2035-06-01T10:00")) == 1
    fired(schedules, "2025-06-01T10:30")
    assert fired(schedules, "2025-06-01T11:00") == ["2025-06-01T11:00:00Z"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.just(15), st.integers(-7200, 7200)), min_size=1, max_size=60))
def test_whatever_the_clock_does_no_time_fires_twice_and_none_that_comes_is_passed_over(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    events = Events(Store(tmp_path_factory.mktemp("clock") / "station.db"))
    moment = at("2025-06-01T00:30")
    schedules = scheduled(events, "*/10 * * * *", "UTC", "2025-06-01T00:30")
    seen: list[str] = []
    for step in steps:
        before, moment = moment, moment + timedelta(seconds=step)
        found = [one.data["due"] for one in schedules.fire(moment)]
        assert not set(found) & set(seen)
        seen += found
        due = latest_due("*/10 * * * *", "UTC", before, moment) if step > 0 else None
        assert due is None or due.strftime("%Y-%m-%dT%H:%M:%SZ") in seen


def test_a_schedule_that_changed_starts_anew_and_one_that_went_is_silent(events: Events) -> None:
    schedules = scheduled(events, "0 * * * *", "UTC", "2025-06-01T00:30")
    schedules.declare("nightly", [("0 * * * *", "UTC"), ("30 * * * *", "UTC")], at("2025-06-01T00:50"))
    assert len(fired(schedules, "2025-06-01T01:00")) == 1
    schedules.declare("nightly", [], at("2025-06-01T01:10"))
    assert fired(schedules, "2025-06-01T05:00") == []


class Lake:
    """A watched folder, and a clock of its own."""

    def __init__(self, events: Events, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.at = 0.0
        self.events = events
        self.trigger = NewData("lake", "in/", settle_s=2.0).model_dump()
        self.restart()

    def restart(self) -> None:
        self.files = NewFiles(self.events, lambda storage: self.folder, clock=lambda: self.at)

    def write(self, key: str, text: str = "x") -> Path:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def look(self, after_s: float = 1.0) -> list[str]:
        self.at += after_s
        return [one.subject for one in self.files.scan([self.trigger])]


@pytest.fixture
def lake(events: Events, tmp_path: Path) -> Lake:
    return Lake(events, tmp_path / "lake")


def test_a_file_counts_when_it_has_not_changed_for_a_while(lake: Lake) -> None:
    lake.write("in/a.csv")
    assert [lake.look() for _ in range(5)] == [[], [], ["in/a.csv"], [], []]


def test_a_file_that_is_being_written_does_not_count_yet(lake: Lake) -> None:
    path = lake.write("in/a.csv", "1\n")
    for _ in range(10):
        with path.open("a") as file:
            file.write("2\n")
        assert lake.look() == []
    assert [lake.look(), lake.look()] == [[], ["in/a.csv"]]


def test_two_files_are_two_events_and_new_bytes_are_a_new_one(lake: Lake) -> None:
    lake.write("in/a.csv")
    lake.look()
    lake.write("in/b.csv")
    assert [lake.look(), lake.look(), lake.look()] == [[], ["in/a.csv"], ["in/b.csv"]]
    lake.write("in/a.csv", "new")
    assert [lake.look(), lake.look(2.0)] == [[], ["in/a.csv"]]


def test_a_station_that_starts_again_publishes_nothing_twice(lake: Lake) -> None:
    lake.write("in/a.csv")
    assert [lake.look(), lake.look(2.0)] == [[], ["in/a.csv"]]
    lake.restart()
    lake.write("in/b.csv")
    assert [lake.look(), lake.look(2.0), lake.look(2.0)] == [[], ["in/b.csv"], []]


def test_keys_are_unicode_with_spaces_and_percent_signs(lake: Lake) -> None:
    keys = ["in/Übung 1.csv", "in/100%.csv", "in/データ/a b.csv", "in/#hash?.csv"]
    for key in keys:
        lake.write(key)
    lake.look()
    assert sorted(lake.look(2.0)) == sorted(keys)
    uris = {one["subject"]: one["data"]["uri"] for one in lake.events.last()}
    assert uris["in/100%.csv"].endswith("/lake/in/100%25.csv")
    assert all(len(one["id"]) <= 63 and one["id"].replace("-", "").isalnum() for one in lake.events.last())


def test_half_written_hidden_reserved_and_other_files_do_not_count(lake: Lake) -> None:
    for name in ("a.tmp", "a.part", "a~", ".a", "a#1", "sub/.hidden/a"):
        lake.write(f"in/{name}")
    lake.write(".ekiben/staging/a")
    lake.write("out/a.csv")
    (lake.folder / "in" / "link.csv").symlink_to("/etc/hosts")
    assert [lake.look(), lake.look(9.0)] == [[], []]
    assert is_data("a/b.csv")
    assert not is_data("runs/tiny/run-1/model/model.json")
    assert not is_data(".well/known")


def test_a_file_that_goes_before_it_settled_is_no_event(lake: Lake) -> None:
    path = lake.write("in/a.csv")
    lake.look()
    path.unlink()
    assert [lake.look(9.0), lake.look(9.0)] == [[], []]
    lake.write("in/a.csv")
    assert [lake.look(9.0), lake.look(9.0)] == [[], ["in/a.csv"]]


def test_a_bucket_that_goes_and_comes_back(lake: Lake) -> None:
    lake.write("in/a.csv")
    lake.look()
    shutil.rmtree(lake.folder)
    assert lake.look(9.0) == []
    lake.write("in/a.csv")
    assert [lake.look(), lake.look(2.0)] == [[], ["in/a.csv"]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_told_of_once(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    lake.write("in/shut/a.csv").parent.chmod(0)
    try:
        lake.look()
        lake.look()
    finally:
        (lake.folder / "in" / "shut").chmod(0o700)
    assert caplog.text.count("permission denied") == 1


def test_functions_that_watch_the_same_place_share_an_event(lake: Lake) -> None:
    events = lake.events
    slow = NewData("lake", "in/", suffix=".csv", settle_s=5.0)
    events.subscribe("one", [lake.trigger], retries=0, backoff_s=1)
    events.subscribe("two", [slow.model_dump(), On("Custom").model_dump()], retries=0, backoff_s=1)
    lake.write("in/a.csv")
    triggers = events.triggers("NewData")
    assert len(triggers) == 2
    for after_s in (0.0, 3.0, 3.0, 3.0):
        lake.at += after_s
        lake.files.scan(triggers)
    assert [len(events.deliveries("one")), len(events.deliveries("two"))] == [1, 1]
