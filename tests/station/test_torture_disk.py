"""The disk is full: clear errors, the station goes on, and nothing is lost that was there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ekiben import Http, NewData, On
from ekiben.errors import FunctionFailed, NoCapacity, ProviderError
from tests.station.small_disk import Disk, small_disk
from tests.station.stage import Stage, started
from tests.waiting import until

MIB = 1 << 20
SMALL = "from ekiben import job; (job.model_dir() / 'm').touch()"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with small_disk(tmp_path_factory.mktemp("torture") / "disk", 48) as disk:
        yield disk


@pytest.fixture(scope="module")
def stage(disk: Disk) -> Iterator[Stage]:
    with started(disk.folder / "stage") as stage:
        yield stage


def works(stage: Stage, id: str) -> None:
    """A run and an event go through as ever."""
    stage.training("small", SMALL)
    stage.submit("small", f"small-{id}")
    assert stage.ended("small", f"small-{id}").state == "succeeded"
    stage.function("hears", "def handler(event, runtime): return event.id", on=(On("Fine"),))
    stage.publish(f"fine-{id}", "Fine")
    until(lambda: f"fine-{id}" in {one["event"]["id"] for one in stage.deliveries("hears", "done")}, "it is delivered")


def test_results_without_room_fail_the_run_and_stay_where_they_are(stage: Stage, disk: Disk) -> None:
    stage.training("large", f"from ekiben import job; (job.model_dir() / 'm').write_bytes(b'x' * {30 * MIB})")
    stage.submit("large", "large-1")
    run = stage.ended("large", "large-1")
    folder = stage.state_dir / "runs" / "large-1"
    assert run.state == "failed"
    assert "the disk or the quota is full. Make room, then repeat" in run.reason
    assert f"stay in {folder}" in run.reason
    assert (folder / "model" / "m").stat().st_size == 30 * MIB
    assert list((stage.lake / ".ekiben" / "staging").iterdir()) == []
    assert not (stage.lake / "runs" / "large" / "large-1").exists()
    stage.client.request("DELETE", "/v1/resources/training/large")
    assert not folder.exists()
    works(stage, "after-results")


def test_the_runs_own_copies_of_its_inputs_make_room_for_its_results(stage: Stage, disk: Disk) -> None:
    (stage.lake / "big").mkdir()
    (stage.lake / "big" / "a.bin").write_bytes(b"x" * (disk.free_bytes // 2 - 6 * MIB))
    code = f"from ekiben import job; (job.model_dir() / 'm').write_bytes(b'x' * {7 * MIB})"
    stage.training("reads", code, inputs={"big": "lake/big/"}, resources={"memory_mib": 512})
    stage.submit("reads", "reads-1")
    run = stage.ended("reads", "reads-1")
    assert (run.state, run.reason) == ("succeeded", "")
    assert (stage.lake / "runs/reads/reads-1/model/m").stat().st_size == 7 * MIB
    (stage.lake / "big" / "a.bin").unlink()
    stage.client.request("DELETE", "/v1/resources/training/reads")
    (stage.lake / "runs/reads/reads-1/model/m").unlink()


def test_an_input_without_room_for_its_copy_is_a_clear_failure(stage: Stage, disk: Disk) -> None:
    (stage.lake / "huge").mkdir()
    (stage.lake / "huge" / "a.bin").write_bytes(b"x" * (disk.free_bytes - 8 * MIB))
    stage.training("copies", SMALL, inputs={"huge": "lake/huge/"})
    stage.submit("copies", "copies-1")
    run = stage.ended("copies", "copies-1")
    assert run.state == "failed"
    assert "local: cannot copy the inputs of the run: the disk or the quota is full. Make room" in run.reason
    (stage.lake / "huge" / "a.bin").unlink()
    works(stage, "after-inputs")


def test_a_job_that_fills_the_disk_fails_by_itself_and_its_litter_goes(stage: Stage, disk: Disk) -> None:
    free = disk.free_bytes
    fills = """
        with open("litter", "wb", buffering=0) as file:
            print("filling", flush=True)
            while True:
                assert file.write(b"x" * 65536) == 65536, "No space left on device"
    """
    stage.training("fills", fills)
    stage.submit("fills", "fills-1")
    run = stage.ended("fills", "fills-1")
    assert run.state == "failed"
    assert "No space left on device" in run.reason
    until(lambda: disk.free_bytes > free - 2 * MIB, "the litter is taken away")
    assert "filling" in stage.log("fills", "fills-1")
    works(stage, "after-litter")


def test_a_log_that_cannot_be_written_costs_lines_and_not_the_run(stage: Stage, disk: Disk) -> None:
    prints = f"""
        import pathlib, time
        from ekiben import job
        (job.model_dir() / "m").touch()
        print("before", flush=True)
        pathlib.Path({str(disk.folder / "ready")!r}).touch()
        while not pathlib.Path({str(disk.folder / "go")!r}).exists():
            print("x" * 5000, flush=True)
            time.sleep(0.001)
        print("after", flush=True)
    """
    stage.training("prints", prints)
    stage.submit("prints", "prints-1")
    until((disk.folder / "ready").exists)
    until(lambda: "before" in stage.log("prints", "prints-1"))
    disk.fill()
    size = (stage.state_dir / "runs/prints-1/log.txt").stat().st_size
    disk.fill()
    assert (stage.state_dir / "runs/prints-1/log.txt").stat().st_size - size < MIB
    disk.make_room()
    (disk.folder / "go").touch()
    run = stage.ended("prints", "prints-1")
    log = stage.log("prints", "prints-1")
    assert (run.state, run.reason) == ("succeeded", "")
    assert "before\n" in log
    assert log.endswith("after\n")
    assert "ekiben: the disk was full, and " in log


def test_while_the_disk_is_full_nothing_is_taken_on_and_what_runs_ends_when_there_is_room(
    stage: Stage, disk: Disk
) -> None:
    go = disk.folder / "go-on"
    waits = f"""
        import pathlib, time
        def wait():
            while not pathlib.Path({str(go)!r}).exists():
                time.sleep(0.02)
    """
    waits = "\n".join(line[8:] for line in waits.splitlines())
    stage.training("waits", waits + "print('ready', flush=True)\nwait()\n" + SMALL)
    stage.function(
        "handles", waits + "def handler(event, runtime):\n    print('ready')\n    wait()\n    return event.id",
        on=(On("Full"), NewData("lake", "drop/", settle_s=0.5)), retries=10, backoff_s=0.2,
    )  # fmt: skip
    (stage.lake / "drop").mkdir()
    stage.submit("waits", "waits-1")
    stage.publish("full-1", "Full")
    until(lambda: "ready" in stage.log("waits", "waits-1"))
    until(lambda: stage.deliveries("handles", "running"))
    (stage.lake / "drop" / "early.csv").touch()
    disk.fill()

    numbers = itertools.count()

    def refused() -> bool:
        """The write-ahead log has some room of its own."""
        try:
            stage.publish(f"more-{next(numbers)}", "Unheard", data={"x": "x" * 100_000})
        except ProviderError as error:
            return "cannot write the station's state" in str(error)
        return False

    until(refused, "the disk takes no more")
    with pytest.raises(ProviderError):
        stage.submit("waits", "waits-2", params={"x": "x" * 100_000})
    assert stage.client.send("GET", "/livez").status == 200
    assert stage.run("waits", "waits-1").state == "running"
    go.touch()
    until(lambda: stage.marked(f"{stage.state_dir}/runs/waits-1") == [], "the supervisor has said its last words")
    assert stage.client.send("GET", "/livez").status == 200
    disk.make_room()
    run = stage.ended("waits", "waits-1")
    assert run.state == "succeeded" or f"stay in {stage.state_dir / 'runs/waits-1'}" in run.reason
    until(lambda: len(stage.deliveries("handles", "done")) == 2, "the event and the file are delivered")
    assert {one["event"]["subject"] for one in stage.deliveries("handles")} == {"", "drop/early.csv"}
    assert [one["data"]["state"] for one in stage.events("TrainingEnded") if one["subject"] == "waits-1"] == [run.state]
    works(stage, "after-all")


def test_a_call_that_the_disk_does_not_take_says_so(stage: Stage, disk: Disk) -> None:
    stage.function("answers", "def handler(event, runtime): return 'x' * 100_000", on=(Http(),))
    assert len(stage.client.request("POST", "/functions/answers", {})["result"]) == 100_000
    disk.fill()
    with pytest.raises((FunctionFailed, NoCapacity), match=r"No space left|the disk or the quota is full"):
        stage.client.request("POST", "/functions/answers", {})
    disk.make_room()
    assert len(stage.client.request("POST", "/functions/answers", {})["result"]) == 100_000


def test_the_stations_log_tells_of_lasting_trouble_once(stage: Stage) -> None:
    log = (stage.state_dir / "station.log").read_text("utf-8")
    assert log.count("following the runs failed, and goes on") <= 3
    assert len(log) < 200_000
