"""Functions on a real station: calls, limits, retries, dead letters, new data, crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben import Http, NewData, On, Schedule
from ekiben.errors import AccessDenied, FunctionFailed, NotFound, SpecError
from ekiben.station.calls import Log
from ekiben.station.client import Client
from tests.station.stage import Stage, started
from tests.waiting import alive, until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with started(tmp_path_factory.mktemp("functions")) as stage:
        yield stage


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stage]:
    """A station that the test may kill."""
    with started(tmp_path) as stage:
        yield stage


def call(stage: Stage, name: str, **data: object) -> object:
    return stage.client.request("POST", f"/functions/{name}", data)["result"]


def log(stage: Stage, name: str) -> str:
    return stage.client.send("GET", f"/v1/functions/{name}/log").body.decode()


ECHO = """
    import os

    def handler(event, runtime):
        print("heard", event.id)
        return {"type": event.type, "data": event.data, "env": dict(os.environ)}
"""


def test_a_call_by_http_waits_for_what_the_handler_returns(stage: Stage) -> None:
    name = stage.function("echo", ECHO, on=(Http(),), env={"COLOUR": "grün"})
    answer = call(stage, name, text="päck", n=1.5)
    assert isinstance(answer, dict)
    assert (answer["type"], answer["data"]) == ("Http", {"text": "päck", "n": 1.5})
    (delivery,) = stage.deliveries(name)
    assert (delivery["state"], delivery["attempts"]) == ("done", 1)
    assert delivery["log_uri"].startswith("file:///")
    assert f"heard {delivery['event']['id']}" in log(stage, name)


def test_f14_nothing_but_its_own_reaches_the_handlers_environment(own: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    own.kill()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for handlers")
    own.start()
    name = own.function("nosy", ECHO, on=(Http(),), env={"COLOUR": "red"})
    answer = call(own, name)
    assert isinstance(answer, dict)
    inherited = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PWD"}
    ours = {name for name in answer["env"] if name.startswith(("EKIBEN_", "PYTHON"))}
    assert set(answer["env"]) - inherited - ours == {"COLOUR"}
    token = answer["env"]["EKIBEN_TOKEN"]
    assert token != (own.state_dir / "token").read_text("ascii").strip()
    with pytest.raises(AccessDenied):
        Client(own.state_dir, token).request("PUT", "/v1/resources/bucket/mine", {"spec": {}})
    for written in (
        own.state_dir / "station.log",
        own.state_dir / "access.jsonl",
        own.state_dir / "functions/nosy/log.txt",
    ):
        assert token not in written.read_text("utf-8")


def test_a_handler_that_raises_fails_its_caller_with_the_end_of_its_log(stage: Stage) -> None:
    name = stage.function(
        "raises", "def handler(event, runtime):\n    print('before')\n    raise KeyError('lost')", on=(Http(),)
    )
    with pytest.raises(FunctionFailed, match="KeyError: 'lost'") as caught:
        call(stage, name)
    assert "before" in caught.value.tail
    assert "Traceback" in caught.value.tail
    (delivery,) = stage.deliveries(name, "dead")
    assert "KeyError" in delivery["error"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import sys\ndef handler(event, runtime):\n    sys.exit(3)", "SystemExit: 3"),
        ("import os\ndef handler(event, runtime):\n    os._exit(3)", "ended with status 3"),
        ("import os\ndef handler(event, runtime):\n    os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("def handler(event, runtime):\n    return float('nan')", "not JSON compliant"),
        ("def handler(event, runtime):\n    return object()", "not JSON serializable"),
        ("import missing_module\ndef handler(event, runtime): ...", "No module named 'missing_module'"),
        ("def handler(event): ...", "positional argument"),
    ],
)
def test_whatever_ends_a_handler_is_one_failed_call(stage: Stage, code: str, why: str) -> None:
    stage.function("ends", code, on=(Http(),))
    with pytest.raises(FunctionFailed, match=why):
        call(stage, "ends")


@pytest.mark.parametrize(
    ("code", "why"),
    [("x = (", "no Python"), ("def other(event, runtime): ...", "no handler"), ("class handler: ...", "no handler")],
)
def test_code_without_a_handler_is_refused_when_it_is_declared(stage: Stage, code: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        stage.function("broken", code)
    with pytest.raises(NotFound):
        stage.deliveries("broken")


def test_who_has_no_address_cannot_be_called(stage: Stage) -> None:
    stage.function("silent", "def handler(event, runtime): ...", on=(On("Nothing"),))
    with pytest.raises(SpecError, match=r"ek\.Http"):
        call(stage, "silent")
    with pytest.raises(NotFound, match="silent"):
        call(stage, "nobody")


HANG = """
    import subprocess, sys, time

    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "{mark}"])
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "{mark}"], start_new_session=True)

    def handler(event, runtime):
        print("started", flush=True)
        {then}
"""


def test_f10_a_hung_handler_is_stopped_with_all_that_it_started(stage: Stage) -> None:
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code = deaf + _dedent(HANG.format(mark="ek-hang", then="time.sleep(300)"))
    stage.function("hangs", code, on=(Http(),), timeout_s=1)
    with pytest.raises(FunctionFailed, match="time limit of 1 s"):
        call(stage, "hangs")
    stage.gone("ek-hang")


def test_what_a_handler_leaves_running_ends_with_the_call(stage: Stage) -> None:
    stage.function("leaves", _dedent(HANG.format(mark="ek-leave", then="return len('left')")), on=(Http(),))
    assert call(stage, "leaves") == 4
    stage.gone("ek-leave")


def test_f10_a_handler_over_its_memory_is_stopped(stage: Stage) -> None:
    code = "import time\ndef handler(event, runtime):\n    ballast = bytearray(400 * 2**20)\n    time.sleep(60)"
    stage.function("eats", code, on=(Http(),), memory_mib=128)
    with pytest.raises(FunctionFailed, match="memory limit of 128 MiB"):
        call(stage, "eats")


FLAKY = """
    import pathlib

    def handler(event, runtime):
        tries = pathlib.Path({path!r})
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if len(tries.read_text()) < {good}:
            raise RuntimeError("not yet")
        return len(tries.read_text())
"""


def test_a_failed_delivery_is_tried_again(stage: Stage, tmp_path: Path) -> None:
    code = FLAKY.format(path=str(tmp_path / "tries"), good=3)
    stage.function("flaky", code, on=(On("Flaky"),), retries=3, backoff_s=0.05)
    stage.publish("flaky-1", "Flaky")
    (delivery,) = stage.settled("flaky", 1)
    assert (delivery["state"], delivery["attempts"], delivery["result"]) == ("done", 3, 3)


def test_a_dead_letter_waits_until_it_is_replayed(stage: Stage, tmp_path: Path) -> None:
    code = FLAKY.format(path=str(tmp_path / "tries"), good=3)
    stage.function("mortal", code, on=(On("Mortal"),), retries=1, backoff_s=0.05)
    stage.publish("mortal-1", "Mortal")
    (dead,) = stage.settled("mortal", 1)
    assert (dead["state"], dead["attempts"], dead["error"]) == ("dead", 2, "RuntimeError: not yet")
    stage.client.request("POST", f"/v1/functions/mortal/deliveries/{dead['id']}/replay")
    (done,) = until(lambda: stage.deliveries("mortal", "done"))
    assert (done["id"], done["event"]) == (dead["id"], dead["event"])
    with pytest.raises(NotFound):
        stage.client.request("POST", "/v1/functions/mortal/deliveries/nothing/replay")


def test_an_event_published_twice_is_delivered_once(stage: Stage) -> None:
    stage.function("counts", "def handler(event, runtime): return event.id", on=(On("Count"),))
    for id in ("c1", "c2", "c1", "c1", "c2"):
        stage.publish(id, "Count")
    assert sorted(one["event"]["id"] for one in stage.settled("counts", 2)) == ["c1", "c2"]


def test_two_files_that_land_are_two_calls(stage: Stage) -> None:
    code = "def handler(event, runtime): return [event.source, event.subject, event.data['bytes']]"
    (stage.lake / "drop").mkdir()
    (stage.lake / "drop" / "there before.csv").write_text("1")
    stage.function("lands", code, on=(NewData("lake", "drop/", settle_s=0.5),))
    (stage.lake / "drop" / "Übung.csv").write_text("22")
    (stage.lake / "drop" / "half.csv.part").write_text("333")
    results = [one["result"] for one in stage.settled("lands", 2)]
    assert sorted(results) == [["lake", "drop/there before.csv", 1], ["lake", "drop/Übung.csv", 2]]


def test_a_schedule_fires(stage: Stage) -> None:
    """The moment itself is in test_triggers; here, that a station follows the clock at all."""
    stage.function("ticks", "def handler(event, runtime): return event.data['due']", on=(Schedule("* * * * *"),))
    store = stage.state_dir / "station.db"
    import sqlite3

    with sqlite3.connect(store, timeout=10) as connection:
        connection.execute("update schedules set last_due = '2025-01-01T00:00:00Z' where function = 'ticks'")
    connection.close()
    stage.function("ticks", "def handler(event, runtime): return event.data['due']", on=(Schedule("* * * * *"),))
    (delivery, *_) = stage.settled("ticks", 1)
    assert delivery["result"].endswith(":00Z")


def test_an_update_changes_the_code_and_a_deleted_function_is_silent(stage: Stage) -> None:
    stage.function("changes", "def handler(event, runtime): return 1", on=(Http(), On("Change")))
    assert call(stage, "changes") == 1
    stage.function("changes", "def handler(event, runtime): return 2", on=(Http(),))
    assert call(stage, "changes") == 2
    stage.publish("change-1", "Change")
    assert [one["event"]["type"] for one in stage.deliveries("changes")] == ["Http", "Http"]
    stage.client.request("DELETE", "/v1/resources/function/changes")
    stage.client.request("DELETE", "/v1/resources/function/changes")
    with pytest.raises(NotFound):
        call(stage, "changes")


def test_a_bundle_that_was_tampered_with_is_mended_or_refused(stage: Stage) -> None:
    stage.function("sealed", "def handler(event, runtime): return 'as packed'", on=(Http(),))
    spec = stage.client.request("GET", "/v1/resources/function/sealed")["spec"]
    main = stage.state_dir / "code" / spec["code_sha256"] / "main.py"
    main.chmod(0o600)
    main.write_text("def handler(event, runtime): return 'tampered'")
    assert call(stage, "sealed") == "as packed"
    main.chmod(0o600)
    main.write_text("def handler(event, runtime): return 'tampered'")
    Path(spec["code_uri"].removeprefix("file://")).write_bytes(b"no tar")
    with pytest.raises(FunctionFailed, match="SHA-256"):
        call(stage, "sealed")


def test_a_flood_of_events_is_worked_off_four_at_once(stage: Stage, tmp_path: Path) -> None:
    code = f"""
        import os, pathlib, time
        here = pathlib.Path({str(tmp_path)!r})
        def handler(event, runtime):
            mine = here / event.id
            mine.touch()
            time.sleep(0.2)
            together = len(list(here.iterdir()))
            mine.unlink()
            return together
    """
    stage.function("floods", code, on=(On("Flood"),))
    for number in range(10):
        stage.publish(f"flood-{number}", "Flood")
    assert max(one["result"] for one in stage.settled("floods", 10)) <= 4


SLOW = """
    import os, pathlib, time

    def handler(event, runtime):
        marks = pathlib.Path({path!r})
        marks.open("a").write(f"{{os.getpid()}}\\n")
        while not pathlib.Path({path!r} + ".go").exists():
            time.sleep(0.02)
        return "went"
"""


def test_a_killed_handler_is_delivered_again(own: Stage, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    own.function("slow", SLOW.format(path=str(marks)), on=(On("Slow"),), retries=1, backoff_s=0.05)
    own.publish("slow-1", "Slow")
    until(marks.exists)
    until(marks.read_text)
    os.kill(int(marks.read_text()), signal.SIGKILL)
    until(lambda: len(marks.read_text().splitlines()) == 2)
    (tmp_path / "marks.go").touch()
    (delivery,) = own.settled("slow", 1)
    assert (delivery["state"], delivery["attempts"]) == ("done", 2)


def test_a_killed_station_delivers_again_and_leaves_no_handler(own: Stage, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    own.function("slow", SLOW.format(path=str(marks)), on=(On("Slow"), Http()), retries=0)
    own.publish("slow-1", "Slow")
    until(marks.exists)
    first = int(until(marks.read_text))
    own.kill()
    until(lambda: not alive(first), "the handler ends with its station")
    own.start()
    until(lambda: len(marks.read_text().splitlines()) == 2)
    (tmp_path / "marks.go").touch()
    (delivery,) = own.settled("slow", 1)
    assert (delivery["state"], delivery["event"]["id"]) == ("done", "slow-1")


def test_a_station_that_stops_in_order_delivers_again_too(own: Stage, tmp_path: Path) -> None:
    from ekiben.station import launch

    marks = tmp_path / "marks"
    own.function("slow", SLOW.format(path=str(marks)), on=(On("Slow"),), retries=0)
    own.publish("slow-1", "Slow")
    first = int(until(lambda: marks.exists() and marks.read_text()))
    launch.stop(own.state_dir)
    until(lambda: not alive(first), "it is gone")
    (tmp_path / "marks.go").touch()
    own.start()
    (delivery,) = own.settled("slow", 1)
    assert (delivery["state"], delivery["attempts"], len(marks.read_text().splitlines())) == ("done", 1, 2)


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.txt", limit_bytes=2000)
    for number in range(200):
        log.write("d1", f"line {number}")
    assert log.tail("d1", 2) == "line 198\nline 199"
    assert log.tail("d2") == ""
    assert len(log.read()) < 2 * 2100
    log.write("d2", "bad \udcff bytes")
    assert log.tail("d2") == "bad ? bytes"


def _dedent(code: str) -> str:
    import textwrap

    return textwrap.dedent(code)
