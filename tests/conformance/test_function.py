"""F: functions (docs/contract.md)."""

from __future__ import annotations

import uuid

import pytest

import ekiben as ek
from tests.waiting import until

from .conftest import Rig


def test_f1_f4_f11_http_answers_with_what_the_handler_returned(rig: Rig) -> None:
    echo = rig.runtime.function("echo")
    answer = echo.call({"word": "駅弁"})
    assert answer == {"type": "Http", "data": {"word": "駅弁"}, "parts": ["lake"]}
    assert any(line.endswith("echo") or "echo " in line for line in echo.logs())
    with pytest.raises(ek.SpecError):
        rig.runtime.function("broken").call({})


def test_f2_new_data_is_seen_once_and_whole(rig: Rig) -> None:
    lake = rig.runtime.storage("lake")
    name = f"drop/{uuid.uuid4().hex[:8]} é%20.csv"
    lake.put(name, b"1,2")
    lake.put(name + ".tmp", b"half")
    seen = until(lambda: [e for e in rig.seen("NewData") if e["subject"] == name])
    assert (seen[0]["source"], seen[0]["data"]["uri"], seen[0]["data"]["bytes"]) == ("lake", lake.uri(name), 3)
    lake.put(name, b"1,2,3")
    until(lambda: len([e for e in rig.seen("NewData") if e["subject"] == name]) == 2)
    assert not [e for e in rig.seen("NewData") if e["subject"].endswith(".tmp")]


def test_f5_f6_an_event_published_twice_is_one(rig: Rig) -> None:
    event = ek.Event(id=f"custom-{uuid.uuid4().hex[:8]}", type="Custom", source="me", subject="s", data={"n": 1})
    for _ in range(3):
        rig.runtime.publish(event)
    until(lambda: [e for e in rig.seen("Custom") if e["id"] == event.id])
    witness = rig.runtime.function("witness")
    # A provider's log may be some seconds late.
    done = until(lambda: [d for d in witness.deliveries("done") if d["event"]["id"] == event.id])
    assert [d["id"] for d in witness.deliveries() if d["event"]["id"] == event.id] == [done[0]["id"]]
    assert done[0]["attempts"] == 1, "and it was handled once"


def test_f7_f8_f9_a_dead_letter_is_kept_and_replayed(rig: Rig) -> None:
    broken, lake = rig.runtime.function("broken"), rig.runtime.storage("lake")
    lake.delete("mended")
    event = ek.Event(id=f"broken-{uuid.uuid4().hex[:8]}", type="Broken", source="me", subject="the axle")
    rig.runtime.publish(event)
    dead = until(lambda: [d for d in broken.deliveries("dead") if d["event"]["id"] == event.id])[0]
    assert dead["attempts"] == 2
    assert "not mended, says the axle" in dead["error"]
    assert any("not mended, says the axle" in line for line in broken.logs())
    lake.put("mended", b"yes")
    broken.replay(dead["id"])
    until(lambda: [d for d in broken.deliveries("done") if d["id"] == dead["id"]])
    broken.replay(dead["id"])
    with pytest.raises(ek.NotFound):
        broken.replay("no-such-delivery")


def test_f12_a_crash_of_the_host_loses_no_event(rig: Rig) -> None:
    if not rig.hosted:
        pytest.skip("the provider's own host")
    ids = [f"crash-{uuid.uuid4().hex[:8]}" for _ in range(10)]
    for id in ids:
        rig.runtime.publish(ek.Event(id=id, type="Custom", source="me"))
    rig.crash()
    until(lambda: set(ids) <= {e["id"] for e in rig.seen("Custom")})
