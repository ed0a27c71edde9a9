"""What a killed station leaves half done is gone when the next one answers, and what it needs is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.station import processes
from ekiben.station.calls import MARK
from tests.station.stage import Stage, started
from tests.waiting import until

ANSWERS = "def handler(event, runtime):\n    return {0}\n"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with started(tmp_path) as stage:
        yield stage


def codes(stage: Stage) -> list[str]:
    return sorted(path.name for path in (stage.state_dir / "code").iterdir())


def declared(stage: Stage) -> list[str]:
    listed = stage.client.request("GET", "/v1/resources")["resources"]
    return sorted(one["spec"]["code_sha256"] for one in listed if one["kind"] in ("function", "training"))


def test_half_done_files_and_folders_are_gone(stage: Stage) -> None:
    stage.function("answers", ANSWERS.format(1))
    stage.kill()
    (stage.state_dir / "bentos").mkdir()
    left = [
        stage.state_dir / name
        for name in (
            ".station.json.123",
            ".token.12ab",
            ".platform.json.12ab.tmp",
            "code/.half.x.tmp",
            "bentos/.half.x.tmp",
        )
    ]
    for path in left[:3]:
        path.write_text("half")
    for path in [*left[3:], stage.lake.with_name(".gone.12ab.gone")]:
        (path / "in").mkdir(parents=True)
        (path / "in" / "file").touch()
        (path / "in").chmod(0o555)
    stage.start()
    assert [path for path in stage.state_dir.rglob(".*") if path.name != ".ekiben"] == []
    assert codes(stage) == declared(stage)
    stage.bucket("lake")


def test_code_goes_when_nothing_names_it_any_more(stage: Stage) -> None:
    for number in range(3):
        stage.function("answers", ANSWERS.format(number))
        assert codes(stage) == declared(stage)
    stage.training("job", "print(1)")
    assert len(codes(stage)) == 2
    stage.client.request("DELETE", "/v1/resources/function/answers")
    assert codes(stage) == declared(stage)
    assert len(codes(stage)) == 1


def test_code_that_runs_stays_until_it_has_ended(stage: Stage) -> None:
    go = stage.root / "go"
    late = f"""
        import pathlib, time

        def handler(event, runtime):
            pathlib.Path({str(go)!r} + ".begun").touch()
            while not pathlib.Path({str(go)!r}).exists():
                time.sleep(0.02)
            import late
            return late.WORD
    """
    from ekiben import On

    stage.function("answers", late, on=(On("Custom"),))
    # The bundle of a function may have more files than main.py: this one is imported late.
    spec = stage.client.request("GET", "/v1/resources/function/answers")["spec"]
    code = stage.code({"main.py": late, "late.py": "WORD = 'there'\n"})
    stage.client.request("PUT", "/v1/resources/function/answers", {"spec": {**spec, **code}})
    stage.publish("one")
    until(go.with_suffix(".begun").exists, "the call runs")
    stage.function("answers", ANSWERS.format(2), on=(On("Custom"),))
    go.touch()
    assert [one["result"] for one in stage.settled("answers", 1)] == ["there"]
    stage.client.request(
        "PUT", "/v1/resources/function/answers", {"spec": {**spec, **stage.code({"main.py": ANSWERS})}}
    )
    assert codes(stage) == declared(stage)


def test_a_call_of_a_killed_station_is_ended_even_when_nobody_knows_its_delivery(stage: Stage) -> None:
    import sqlite3

    from ekiben import On

    begun = stage.root / "begun"
    hangs = f"""
        import os, pathlib, tempfile, time

        def handler(event, runtime):
            tempfile.mkdtemp()
            pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))
            time.sleep(600)
    """
    stage.function("hangs", hangs, on=(On("Custom"),))
    stage.publish("one")
    until(lambda: begun.exists() and begun.read_text(), "the call runs")
    pid = int(begun.read_text())
    assert MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    stage.kill()
    with sqlite3.connect(stage.state_dir / "station.db", timeout=10) as connection:
        connection.execute("delete from deliveries")
    connection.close()
    stage.start()
    assert not processes.descendants(pid)
    assert not (stage.state_dir / "functions" / "hangs" / "calls").exists()
