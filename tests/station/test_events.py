"""Events and deliveries: once published, at least once delivered, whatever dies in between."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ekiben import Http, NewData, On, Schedule
from ekiben.errors import NotFound, SpecError
from ekiben.records import Event
from ekiben.station.events import Events, matches, pause_s, steady
from ekiben.station.store import Store


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events(tmp_path: Path, clock: Clock) -> Events:
    return Events(Store(tmp_path / "station.db"), clock=clock)


def on(events: Events, function: str, *triggers: object, retries: int = 2, backoff_s: float = 5.0) -> None:
    events.subscribe(function, [trigger.model_dump() for trigger in triggers], retries=retries, backoff_s=backoff_s)  # type: ignore[attr-defined]


def event(id: str = "e1", type: str = "Custom", source: str = "test", subject: str = "") -> Event:
    return Event(id=id, type=type, source=source, subject=subject)


def test_an_event_goes_once_to_each_function_that_waits_for_it(events: Events) -> None:
    on(events, "one", On("Custom"), On("Custom", source="test"))
    on(events, "two", On("Custom"))
    on(events, "other", On("Custom", source="elsewhere"), Http())
    assert events.publish(event())
    assert not events.publish(event())
    claims = [events.claim(), events.claim(), events.claim()]
    assert [claim.function if claim else None for claim in claims] == ["one", "two", None]


def test_nobody_is_woken_before_there_is_something_to_see(events: Events) -> None:
    on(events, "one", On("Custom"))
    seen: list[bool] = []

    def look() -> None:  # as another thread would
        with ThreadPoolExecutor() as pool:
            seen.append(pool.submit(events.claim).result() is not None)

    events.on_delivery = look
    with events._store.transaction():
        events.publish(event("inside"))
        assert seen == []
    assert seen == [True]
    events.publish(event("alone"))
    assert seen == [True, True]


def test_an_event_shares_the_fate_of_the_transaction_that_publishes_it(events: Events) -> None:
    on(events, "one", On("Custom"))

    def half() -> None:
        with events._store.transaction():
            events.publish(event())
            raise RuntimeError("what the event tells of did not happen")

    with pytest.raises(RuntimeError):
        half()
    assert events.claim() is None
    assert events.publish(event())


def test_fifty_publishers_at_once_make_one_event(events: Events) -> None:
    on(events, "one", On("Custom"))
    made: list[bool] = []
    threads = [threading.Thread(target=lambda: made.append(events.publish(event()))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 49 + [True]
    assert len(events.deliveries("one")) == 1


def test_a_failed_delivery_is_tried_again_with_growing_pauses_and_then_is_dead(events: Events, clock: Clock) -> None:
    on(events, "one", On("Custom"), retries=2, backoff_s=5.0)
    events.publish(event())
    for attempt, pause in ((1, 5.0), (2, 10.0)):
        claim = events.claim()
        assert claim is not None
        assert claim.attempt == attempt
        assert events.failed(claim, f"no {attempt}") == "waiting"
        assert events.claim() is None
        assert events.next_due_s() == pytest.approx(pause)
        clock.at += pause
    claim = events.claim()
    assert claim is not None
    assert events.failed(claim, "no 3") == "dead"
    assert events.next_due_s() is None
    (dead,) = events.deliveries("one", "dead")
    assert (dead["attempts"], dead["error"]) == (3, "no 3")


def test_a_dead_letter_is_replayed_with_all_its_tries(events: Events) -> None:
    on(events, "one", On("Custom"), retries=0)
    events.publish(event())
    claim = events.claim()
    assert claim is not None
    events.failed(claim, "no")
    events.replay("one", claim.id)
    events.replay("one", claim.id)
    again = events.claim()
    assert again is not None
    assert (again.id, again.attempt, again.event) == (claim.id, 1, claim.event)
    events.done(again, {"ok": True})
    events.replay("one", claim.id)
    assert [(one["state"], one["result"]) for one in events.deliveries("one")] == [("done", {"ok": True})]
    with pytest.raises(NotFound, match="none of that id"):
        events.replay("one", "nothing")
    with pytest.raises(NotFound):
        events.replay("two", claim.id)


def test_what_a_dead_station_had_claimed_is_delivered_again(tmp_path: Path) -> None:
    first = Events(Store(tmp_path / "station.db"))
    on(first, "one", On("Custom"))
    first.publish(event())
    lost = first.claim()
    call = first.claim_call(event("call", "Http", "one"), "one")
    second = Events(Store(tmp_path / "station.db"))
    assert second.claim() is None
    assert lost is not None
    assert sorted(second.recover()) == sorted([lost.id, call.id])
    again = second.claim()
    assert again is not None
    assert (again.id, again.attempt) == (lost.id, 2)
    assert second.claim() is None
    assert [one["id"] for one in second.deliveries("one", "dead")] == [call.id]
    first.done(lost, None)
    assert second.deliveries("one", "done") == []
    assert second.recover() == []


def test_a_clock_that_was_set_back_between_two_stations_makes_no_pause_longer(tmp_path: Path, clock: Clock) -> None:
    before = Events(Store(tmp_path / "station.db"), clock=clock)
    on(before, "one", On("Custom"), backoff_s=8.0)
    before.publish(event())
    claim = before.claim()
    assert claim is not None
    before.failed(claim, "not yet")
    clock.at -= 100_000
    after = Events(Store(tmp_path / "station.db"), clock=clock)
    after.recover()
    assert after.next_due_s() == 8.0
    clock.at += 8.0
    again = after.claim()
    assert again is not None
    assert (again.id, again.attempt) == (claim.id, 2)


def test_a_stations_own_clock_goes_evenly() -> None:
    clock = steady()
    ahead_s = clock() - time.time()
    assert abs(ahead_s) < 60
    assert clock() <= clock()


def test_a_delivery_that_was_not_made_keeps_its_tries(events: Events) -> None:
    on(events, "one", On("Custom"), retries=0)
    events.publish(event())
    for _ in range(5):
        claim = events.claim()
        assert claim is not None
        assert claim.attempt == 1
        events.release(claim)


def test_a_busy_function_does_not_hold_up_the_others(events: Events) -> None:
    on(events, "busy", On("Busy"))
    on(events, "quiet", On("Quiet"))
    for number in range(10):
        events.publish(event(f"b{number}", "Busy"))
    events.publish(event("q", "Quiet"))
    claims = [events.claim(), events.claim()]
    assert [claim.function for claim in claims if claim] == ["busy", "quiet"]


def test_a_forgotten_function_has_no_deliveries_and_gets_none(events: Events) -> None:
    on(events, "one", On("Custom"))
    events.publish(event())
    claim = events.claim()
    assert claim is not None
    events.forget("one")
    events.publish(event("e2"))
    assert events.failed(claim, "late") == "dead"
    assert events.deliveries("one") == []


def test_what_was_done_long_ago_is_dropped_but_never_published_again(events: Events) -> None:
    on(events, "one", On("Custom"))
    events.publish(event())
    for claim in (events.claim(), events.claim_call(event("call", "Http", "one"), "one")):
        assert claim is not None
        events.done(claim, None)
    events.prune("2001-01-01T00:00:00Z")
    assert len(events.deliveries("one")) == 2
    events.prune("9999-01-01T00:00:00Z")
    assert events.deliveries("one") == []
    assert [one["id"] for one in events.last()] == ["e1"]
    assert not events.publish(event())


def test_events_are_checked(events: Events) -> None:
    for bad in (event(id=""), event(type="")):
        with pytest.raises(SpecError):
            events.publish(bad)
    with pytest.raises(SpecError, match="waiting, running, done, dead"):
        events.deliveries("one", "lost")


@pytest.mark.parametrize(
    ("trigger", "what", "expected"),
    [
        (NewData("lake", "in/", suffix=".csv"), event(type="NewData", source="lake", subject="in/a.csv"), True),
        (NewData("lake", "in/", suffix=".csv"), event(type="NewData", source="lake", subject="in/a.txt"), False),
        (NewData("lake", "in/"), event(type="NewData", source="lake", subject="out/a.csv"), False),
        (NewData("lake", "in/"), event(type="NewData", source="pond", subject="in/a.csv"), False),
        (NewData("lake", "daten/ü"), event(type="NewData", source="lake", subject="daten/übung.csv"), True),
        (Schedule("0 3 * * *"), event(type="Schedule", source="f", subject="0 3 * * *"), True),
        (Schedule("0 3 * * *"), event(type="Schedule", source="g", subject="0 3 * * *"), False),
        (Http(), event(type="Http", source="f"), True),
        (Http(), event(type="Http", source="g"), False),
        (On("TrainingEnded"), event(type="TrainingEnded", source="any"), True),
        (On("TrainingEnded", source="a"), event(type="TrainingEnded", source="b"), False),
        (On("TrainingEnded"), event(type="ModelDecided"), False),
    ],
)
def test_triggers_match(trigger: object, what: Event, expected: bool) -> None:
    assert matches(trigger.model_dump(), what, "f") is expected  # type: ignore[attr-defined]


@given(st.floats(0.001, 900), st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(backoff_s: float, attempts: int) -> None:
    assert backoff_s <= pause_s(backoff_s, attempts) <= max(3600.0, backoff_s)
    assert pause_s(backoff_s, attempts) <= pause_s(backoff_s, attempts + 1)
