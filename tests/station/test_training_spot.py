"""Spot runs: whatever interrupts them, they go on from their last checkpoint, and say what it cost."""

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


# It counts to 3 and makes a checkpoint of each number, waits at 2 the first time that it comes there, and obeys SIGTERM.
COUNTS = """
    import os, pathlib, subprocess, sys, time
    from ekiben import job

    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", {root!r} + "/ek-spot"], start_new_session=True)
    job.terminating()
    seen = job.latest_checkpoint()
    count = int((seen.folder / "count").read_text()) if seen else 0
    print("starts at", count, "on", job.node().rank, flush=True)
    while count < 3:
        count += 1
        if job.node().rank == 0:
            job.save_checkpoint(count, lambda folder: (folder / "count").write_text(str(count)))
        while count == 2:
            print("waits", flush=True)
            time.sleep(0.05)
            if job.terminating() and {obeys}:
                count = 10
                job.save_checkpoint(count, lambda folder: (folder / "count").write_text(str(count)))
                job.leave()
    (job.model_dir() / "m").write_text(str(count))
"""


def begin(stage: Stage, *, obeys: bool = True, **spec: object) -> None:
    stage.training("counts", COUNTS.format(root=str(stage.root), obeys=obeys), **{"spot": True, "grace_s": 20, **spec})
    stage.submit("counts", "run-1")
    waiting(stage)


def waiting(stage: Stage, times: int = 1) -> None:
    def there() -> bool:
        log = stage.log("counts", "run-1")
        return log.count("starts at") >= times and "waits" in log[log.rindex("starts at") :]

    until(there, "the job waits")


def spot(stage: Stage) -> str:
    """What the job has started, by its command line."""
    return f"{stage.root}/ek-spot"


def supervisor(stage: Stage) -> int:
    (pid,) = stage.marked(f"ekiben.station.runner\0{stage.state_dir / 'runs' / 'run-1'}")
    return pid


def nodes(stage: Stage) -> list[int]:
    """The nodes' main processes, by rank."""
    (pid,) = until(
        lambda: stage.marked(f"ekiben.station.runner\0{stage.state_dir / 'runs' / 'run-1'}"), "one supervises"
    )
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return sorted(set(map(int, children)) & set(stage.marked("\0-u\0train.py")), key=rank)


def rank(pid: int) -> int:
    """Its environment tells; its number does not: after the highest one the kernel begins anew."""
    told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (found,) = (int(one.removeprefix(b"EKIBEN_NODE_RANK=")) for one in told if one.startswith(b"EKIBEN_NODE_RANK="))
    return found


def test_a_killed_job_goes_on_from_its_checkpoint(stage: Stage) -> None:
    begin(stage)
    os.kill(nodes(stage)[0], signal.SIGKILL)
    run = stage.ended("counts", "run-1")
    assert (run.state, run.reason, run.attempts) == ("succeeded", "", 2)
    (one,) = run.interruptions
    assert "ended by SIGKILL" in one.reason
    assert 0 < run.lost_s == one.lost_s < 60
    assert run.started_at < one.at < run.ended_at
    assert (run.lineage["attempts"], run.lineage["lost_s"]) == (2, one.lost_s)
    log = stage.log("counts", "run-1")
    assert f"ekiben: interrupted: {one.reason}; {one.lost_s:.1f} s of work are lost" in log
    assert "ekiben: attempt 2, with the checkpoint step-0000000002/count\nstarts at 2 on 0\n" in log
    assert (stage.lake / "runs/counts/run-1/model/m").read_text() == "3"
    stage.gone(spot(stage))
    assert [one["data"]["state"] for one in stage.events("TrainingEnded")] == ["succeeded"]


def test_a_killed_supervisor_and_the_run_goes_on(stage: Stage) -> None:
    begin(stage)
    os.kill(supervisor(stage), signal.SIGKILL)
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts, len(run.interruptions)) == ("succeeded", 2, 1)
    assert "supervisor was killed" in run.interruptions[0].reason
    assert run.lost_s > 0
    stage.gone(spot(stage))


def test_a_power_cut_is_measured_to_the_last_sign_of_life(stage: Stage) -> None:
    """Station, supervisor and job die at once, and the machine is back an hour later."""
    begin(stage)
    folder = stage.state_dir / "runs" / "run-1"
    pids = [supervisor(stage), *nodes(stage), *stage.marked(spot(stage))]
    stage.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not supervision.alive(folder))
    for path in (folder / "status.json", *(folder / "checkpoints").rglob("count")):
        at = path.stat().st_mtime - 3600
        os.utime(path, (at, at))
    status = supervision.status(folder)
    assert status is not None
    supervision.write_json(folder / "status.json", status | {"working_since": status["working_since"] - 3600})
    newest = max(path.stat().st_mtime for path in (folder / "checkpoints").rglob("count"))
    os.utime(folder / "status.json", (newest + 7, newest + 7))
    stage.start()
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts) == ("succeeded", 2)
    assert run.lost_s == pytest.approx(7, abs=0.01)


def test_sigterm_from_outside_gives_time_for_a_checkpoint_and_nothing_is_lost(stage: Stage) -> None:
    begin(stage)
    os.kill(nodes(stage)[0], signal.SIGTERM)
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts) == ("succeeded", 2)
    assert "status 143" in run.interruptions[0].reason
    assert "starts at 10" in stage.log("counts", "run-1")


def test_a_machine_that_shuts_down_terminates_the_supervisor_which_gives_the_job_its_grace(stage: Stage) -> None:
    begin(stage)
    supervisor_pid = supervisor(stage)
    launch.stop(stage.state_dir)
    os.kill(supervisor_pid, signal.SIGTERM)
    until(lambda: not supervision.alive(stage.state_dir / "runs" / "run-1"))
    stage.gone(spot(stage))
    stage.start()
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts) == ("succeeded", 2)
    assert "told to stop" in run.interruptions[0].reason
    assert "starts at 10" in stage.log("counts", "run-1")


def test_a_job_that_is_deaf_is_killed_after_its_grace_and_goes_on_all_the_same(stage: Stage) -> None:
    begin(stage, obeys=False, grace_s=0)
    os.kill(supervisor(stage), signal.SIGTERM)
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts) == ("succeeded", 2)
    assert "starts at 2 " in stage.log("counts", "run-1")


def test_interruptions_do_not_use_up_the_retries(stage: Stage) -> None:
    code = """
        import os, signal
        from ekiben import job
        marks = job.checkpoint_dir() / "marks"
        seen = marks.read_text() if marks.exists() else ""
        marks.write_text(seen + "x")
        if len(seen) in (0, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        job.fail(f"failed at {len(seen)}")
    """
    stage.training("fails", code, spot=True, retries=1)
    stage.submit("fails", "run-1")
    run = stage.ended("fails", "run-1")
    assert (run.state, run.reason, run.attempts, len(run.interruptions)) == ("failed", "failed at 3", 4, 2)


def test_a_jobs_own_crash_is_no_interruption(stage: Stage) -> None:
    stage.training("crashes", "import os; os.abort()", spot=True)
    stage.submit("crashes", "run-1")
    run = stage.ended("crashes", "run-1")
    assert (run.state, run.attempts, run.interruptions) == ("failed", 1, [])
    assert "SIGABRT" in run.reason


def test_a_killed_node_takes_the_others_along_and_all_go_on(stage: Stage) -> None:
    begin(stage, nodes=2, resources={"vcpu": 0.5, "memory_mib": 256})
    (second,) = until(lambda: nodes(stage)[1:], "both nodes run")
    os.kill(second, signal.SIGKILL)
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts) == ("succeeded", 2), run.reason
    assert "node 1 was ended by SIGKILL" in run.interruptions[0].reason


def test_a_cancel_while_it_waits_to_go_on_keeps_the_checkpoints(stage: Stage) -> None:
    whole = {"vcpu": len(os.sched_getaffinity(0)), "memory_mib": 256}
    begin(stage, resources=whole, grace_s=1)
    stage.training("greedy", "import time; time.sleep(300)", resources=whole, grace_s=0)
    stage.kill()
    os.kill(supervisor(stage), signal.SIGKILL)
    folder = stage.state_dir / "runs" / "run-1"
    until(lambda: not supervision.alive(folder))
    (folder / "cancel").touch()
    stage.start()
    run = stage.ended("counts", "run-1")
    assert (run.state, run.reason, len(run.interruptions)) == ("cancelled", "cancelled", 1)
    assert (stage.lake / "runs/counts/run-1/checkpoints/step-0000000002/count").read_text() == "2"
    stage.gone(spot(stage))


def test_without_spot_an_interruption_is_a_failure_that_is_told_of(stage: Stage) -> None:
    begin(stage, spot=False)
    os.kill(supervisor(stage), signal.SIGTERM)
    run = stage.ended("counts", "run-1")
    assert (run.state, run.attempts, len(run.interruptions)) == ("failed", 1, 1)
    assert "told to stop (SIGTERM)" in run.reason
    assert (stage.lake / "runs/counts/run-1/checkpoints/step-0000000010/count").exists()
