"""Training runs while what watches over them dies: a true end, no process left, nothing started twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.station import launch, supervision
from tests.station.stage import Stage, started
from tests.waiting import until


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with started(tmp_path) as stage:
        yield stage


# It marks each start, leaves a daemon behind, and goes on when it is told to.
MARKING = """
    import os, pathlib, subprocess, sys, time
    from ekiben import job

    marks = pathlib.Path({marks!r})
    with marks.open("a") as file:
        file.write("start\\n")
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", "{marks}.daemon"], start_new_session=True)
    print("ready", flush=True)
    while not pathlib.Path({marks!r} + ".go").exists():
        time.sleep(0.02)
    (job.model_dir() / "m").touch()
    (job.output_dir() / "metrics.json").write_text('{{"metrics": {{"a": 1}}}}')
"""


def begin(stage: Stage, id: str = "run-1", **spec: object) -> Path:
    """A run that waits; returns the file with its marks."""
    marks = stage.root / "marks"
    stage.training("waits", MARKING.format(marks=str(marks)), grace_s=0, **spec)
    stage.submit("waits", id)
    until(lambda: "ready" in stage.log("waits", id), "the job is ready")
    return marks


def go(marks: Path) -> None:
    marks.with_name("marks.go").touch()


def supervisor(stage: Stage, id: str = "run-1") -> int:
    (pid,) = stage.marked(f"ekiben.station.runner\0{stage.state_dir / 'runs' / id}")
    return pid


def ends(stage: Stage, id: str = "run-1") -> list[str]:
    return [one["data"]["state"] for one in stage.events("TrainingEnded") if one["subject"] == id]


def test_a_run_goes_on_without_its_station_and_the_next_one_takes_it_up(stage: Stage) -> None:
    marks = begin(stage)
    stage.kill()
    assert stage.marked(f"{marks}.daemon")
    stage.start()
    assert stage.run("waits", "run-1").state == "running"
    go(marks)
    run = stage.ended("waits", "run-1")
    assert (run.state, run.metrics, marks.read_text()) == ("succeeded", {"a": 1.0}, "start\n")
    assert ends(stage) == ["succeeded"]
    stage.gone(f"{marks}.daemon")


def test_a_run_that_ends_while_no_station_runs_is_told_by_the_next(stage: Stage) -> None:
    marks = begin(stage)
    launch.stop(stage.state_dir)
    go(marks)
    until(lambda: not supervision.alive(stage.state_dir / "runs" / "run-1"))
    stage.start()
    assert stage.ended("waits", "run-1").state == "succeeded"
    for _ in range(2):
        stage.kill()
        stage.start()
    assert (ends(stage), marks.read_text()) == (["succeeded"], "start\n")


def test_a_killed_supervisor_is_a_failed_run_without_processes(stage: Stage) -> None:
    marks = begin(stage)
    os.kill(supervisor(stage), signal.SIGKILL)
    run = stage.ended("waits", "run-1")
    assert (run.state, ends(stage), marks.read_text()) == ("failed", ["failed"], "start\n")
    assert "supervisor was killed" in run.reason
    stage.gone(f"{marks}.daemon")
    assert "ready" in (stage.lake / "runs/waits/run-1/log.txt").read_text()


def test_a_killed_supervisor_is_tried_again(stage: Stage) -> None:
    marks = begin(stage, retries=1)
    os.kill(supervisor(stage), signal.SIGKILL)
    until(lambda: marks.read_text() == "start\nstart\n")
    go(marks)
    assert stage.ended("waits", "run-1").state == "succeeded"
    stage.gone(f"{marks}.daemon")


def test_station_and_supervisor_killed_together_as_by_a_power_cut(stage: Stage) -> None:
    marks = begin(stage)
    pid = supervisor(stage)
    stage.kill()
    os.kill(pid, signal.SIGKILL)
    stage.start()
    assert stage.ended("waits", "run-1").state == "failed"
    assert (ends(stage), marks.read_text()) == (["failed"], "start\n")
    stage.gone(f"{marks}.daemon")


def test_a_cancel_that_the_station_did_not_live_to_see(stage: Stage) -> None:
    marks = begin(stage, retries=3)
    stage.kill()
    (stage.state_dir / "runs" / "run-1" / "cancel").touch()
    until(lambda: not supervision.alive(stage.state_dir / "runs" / "run-1"))
    stage.gone(f"{marks}.daemon")
    stage.start()
    assert stage.ended("waits", "run-1").state == "cancelled"
    assert (ends(stage), marks.read_text()) == (["cancelled"], "start\n")


def test_a_run_that_was_claimed_but_not_started_is_started_once(stage: Stage) -> None:
    """The station may die after it has marked a run as running and before its supervisor is there."""
    import sqlite3

    whole = {"vcpu": len(os.sched_getaffinity(0)), "memory_mib": 256}
    first = begin(stage, "first", resources=whole)
    stage.submit("waits", "second")
    stage.kill()
    with sqlite3.connect(stage.state_dir / "station.db", timeout=10) as connection:
        connection.execute("update runs set state = 'running', cpus = '[[0]]', gpus = '[[]]' where id = 'second'")
    connection.close()
    stage.start()
    until(lambda: "ready" in stage.log("waits", "second"))
    go(first)
    assert [stage.ended("waits", id).state for id in ("first", "second")] == ["succeeded", "succeeded"]
    assert first.read_text() == "start\nstart\n"


def test_a_killed_node_is_a_failed_run_that_says_so(stage: Stage) -> None:
    marks = begin(stage)
    (pid,) = [
        pid for pid in stage.marked("\0-u\0train.py") if _run_of(pid) == "run-1" and _parent(pid) == supervisor(stage)
    ]
    os.kill(pid, signal.SIGKILL)
    run = stage.ended("waits", "run-1")
    assert run.state == "failed"
    stage.gone(f"{marks}.daemon")
    assert "ended by SIGKILL, perhaps for lack of memory" in run.reason


def _run_of(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((one.partition(b"=")[2].decode() for one in variables if one.startswith(b"EKIBEN_RUN_ID=")), "")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
