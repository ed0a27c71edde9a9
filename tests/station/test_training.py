"""Training runs on a real station: what a job gets and leaves, limits, cancel."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ekiben.errors import AlreadyExists, NotFound, SpecError
from ekiben.station.wire import from_body
from tests.station.stage import Stage, with_points
from tests.waiting import until


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with with_points(tmp_path_factory.mktemp("training")) as stage:
        yield stage


COMPLETE = """
    import json, os, stat, sys, subprocess
    from pathlib import Path
    from ekiben import job

    folder = job.inputs()["points"]
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    print("files", files)
    print("modes", sorted({stat.filemode(p.stat().st_mode)[:4] for p in folder.rglob("*") if p.is_file()}))
    print("params", json.dumps(job.params(), sort_keys=True, ensure_ascii=False))
    print("cwd", sorted(os.listdir(".")), "spec", Path(os.environ["EKIBEN_SPEC_URI"].removeprefix("file://")).exists())
    print("environment", sorted(n for n in os.environ if "SECRET" in n or n == "EKIBEN_TOKEN"))
    Path("scratch.txt").write_text("a job may write beside its code")
    job.log_metric("loss", 0.5, step=1)
    (job.model_dir() / "sub").mkdir()
    (job.model_dir() / "sub" / "model.json").write_text("{}")
    (job.checkpoint_dir() / "last.bin").write_bytes(b"c")
    out = job.output_dir()
    (out / "metrics.json").write_text('{"metrics": {"auc": 0.9, "n": 3, "bad": NaN, "word": "x", "yes": true}}')
    (out / "lineage.json").write_text('{"rows": {"points": 3}, "seeds": {"numpy": 7}}')
    (out / "report.html").write_text("<p>ü</p>")
"""


def test_a_run_from_its_inputs_to_its_event(stage: Stage) -> None:
    stage.training(
        "whole", COMPLETE, inputs={"points": "lake/points/"}, params={"depth": 3, "name": "ü"}, model="other"
    )
    first = stage.submit("whole", "whole-1", params={"depth": 4})
    assert first.state in ("pending", "running")
    run = stage.ended("whole", "whole-1")
    assert (run.state, run.reason, run.model) == ("succeeded", "", "other")
    assert (run.params, run.metrics) == ({"depth": 4, "name": "ü"}, {"auc": 0.9, "n": 3.0})
    assert run.submitted_at <= run.started_at <= run.ended_at
    at = stage.lake / "runs" / "whole" / "whole-1"
    assert run.model_uri == f"{at.as_uri()}/model/"
    assert sorted(str(path.relative_to(at)) for path in at.rglob("*") if path.is_file()) == [
        "checkpoints/last.bin", "log.txt", "model/sub/model.json", "output/lineage.json", "output/metrics.json",
        "output/progress.jsonl", "output/report.html",
    ]  # fmt: skip
    log = stage.log("whole", "whole-1")
    assert log == (at / "log.txt").read_text("utf-8")
    assert "files ['a.csv', 'sub/Übung 2%.csv']" in log
    assert "modes ['-r--']" in log
    assert 'params {"depth": 4, "name": "ü"}' in log
    assert "cwd ['train.py'] spec True" in log
    assert "environment []" in log
    assert "'bad' is left out" in log
    lineage = run.lineage
    points = lineage["inputs"]["points"]
    assert points["rows"] == 3
    assert [one["uri"].rpartition("/")[2] for one in points["files"]] == ["a.csv", "%C3%9Cbung%202%25.csv"]
    assert all(len(one["sha256"]) == 64 for one in points["files"])
    assert lineage["code"]["commit"] == "abc"
    assert lineage["seeds"] == {"numpy": 7}
    assert lineage["params"] == run.params
    assert "xgboost-cpu" in lineage["environment"]["packages"]
    assert lineage["by"]
    (event,) = [one for one in stage.events("TrainingEnded") if one["subject"] == "whole-1"]
    assert (event["source"], event["data"]["state"]) == ("whole", "succeeded")
    kept, dropped = stage.state_dir / "runs" / "whole-1", {"inputs", "code", "model", "checkpoints"}
    until(lambda: not dropped & {path.name for path in kept.iterdir()}, "the run's folder is tidied")


def test_an_id_is_one_run(stage: Stage) -> None:
    stage.training(
        "once", "open('x', 'w'); import os, pathlib; pathlib.Path(os.environ['EKIBEN_MODEL_DIR'], 'm').touch()"
    )
    stage.training("twice", "pass")
    threads = [threading.Thread(target=stage.submit, args=("once", "once-1")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = stage.ended("once", "once-1")
    assert stage.submit("once", "once-1") == ended
    assert len(stage.client.request("GET", "/v1/trainings/once/runs")["runs"]) == 1
    with pytest.raises(AlreadyExists, match="once"):
        stage.submit("twice", "once-1")
    with pytest.raises(NotFound):
        stage.run("twice", "once-1")


@pytest.mark.parametrize("id", ["", "-a", "a-", "a_b", "a b", "ü", "a" * 64, "../x", "a/b", "a.b"])
def test_an_id_that_not_every_provider_takes_is_refused(stage: Stage, id: str) -> None:
    stage.training("strict", "pass")
    with pytest.raises(SpecError, match="run id"):
        stage.submit("strict", id)


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ({"params": {"x": [1]}}, "'x'"),
        ({"params": {"x": None}}, "'x'"),
        ({"inputs": {"other": "file:///tmp/"}}, "has no input 'other'"),
        ({"inputs": {"points": "s3://bucket/x/"}}, "begin with file:///"),
        ({"inputs": {"points": "file:///etc/"}}, "does not lie in a storage"),
        ({"inputs": {"points": "LAKE/../../../etc/"}}, "climbs"),
        ({"inputs": {"points": "LAKE/%2e%2e/%2e%2e/"}}, "climbs"),
    ],
)
def test_a_bad_job_is_no_run(stage: Stage, job: dict[str, dict[str, str]], why: str) -> None:
    stage.training("careful", "pass", inputs={"points": "lake/points/"})
    if "inputs" in job:
        job = {"inputs": {name: uri.replace("LAKE", stage.lake.as_uri()) for name, uri in job["inputs"].items()}}
    with pytest.raises(SpecError, match=why):
        stage.submit("careful", "careful-1", **job)
    with pytest.raises(SpecError, match="NaN"):
        _submit_nan(stage)
    with pytest.raises(NotFound):
        stage.run("careful", "careful-1")


def _submit_nan(stage: Stage) -> None:
    answer = stage.client.send("POST", "/v1/trainings/careful/runs", b'{"id": "careful-1", "params": {"x": NaN}}')
    raise from_body(answer.status, answer.json())


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "print('loading')\nprint('no such column: age')\nraise SystemExit(3)",
            "it ended with status 3: no such column: age",
        ),
        ("from ekiben import job\njob.fail('row 7: bad ä')", "row 7: bad ä"),
        ("from ekiben import job\n(job.output_dir() / 'failure.txt').write_text('said so')", "said so"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "it was ended by SIGSEGV"),
        ("import os, signal\nprint('bye')\nos.kill(os.getpid(), signal.SIGTERM)", "it was ended by SIGTERM: bye"),
        ("pass", "it left no model: there is nothing in EKIBEN_MODEL_DIR"),
        ("x = (", "SyntaxError"),
    ],
)
def test_a_failed_run_says_why_and_keeps_its_log(stage: Stage, code: str, reason: str) -> None:
    stage.training("fails", code)
    id = f"fails-{abs(hash(code))}"
    stage.submit("fails", id)
    run = stage.ended("fails", id)
    assert run.state == "failed"
    assert reason in run.reason
    assert run.model_uri == ""
    stored = stage.lake / "runs" / "fails" / id
    assert (stored / "log.txt").exists()
    assert not (stored / "model").exists()
    assert [one["data"]["state"] for one in stage.events("TrainingEnded") if one["subject"] == id] == ["failed"]


def test_an_input_without_files_fails_before_the_job_starts(stage: Stage) -> None:
    stage.training("hungry", "print('started')", inputs={"points": "lake/nothing/"})
    stage.submit("hungry", "hungry-1")
    run = stage.ended("hungry", "hungry-1")
    assert (run.state, "started" in stage.log("hungry", "hungry-1")) == ("failed", False)
    assert "The input 'points' is empty" in run.reason
    stage.submit("hungry", "hungry-2", inputs={"points": (stage.lake / "points" / "a.csv").as_uri()})
    stage.ended("hungry", "hungry-2")
    assert stage.log("hungry", "hungry-2").startswith("started")


FORKS = """
    import os, signal, subprocess, sys, time
    from ekiben import job

    def beget(**how):
        program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"
        subprocess.Popen([sys.executable, "-c", program, "{mark}"], **how)

    beget()
    beget(start_new_session=True)
    if os.fork() == 0:
        beget(start_new_session=True)
        os._exit(0)
    {rest}
"""
PATIENT = """
    def leave(*_):
        (job.checkpoint_dir() / "terminated.txt").write_text("yes")
        sys.exit(143)
    signal.signal(signal.SIGTERM, leave)
    print("ready", flush=True)
    time.sleep(300)
"""


def test_cancel_gives_time_for_a_checkpoint_and_leaves_no_process(stage: Stage) -> None:
    stage.training("forks", FORKS.format(mark="ek-cancel", rest=PATIENT), grace_s=20)
    stage.submit("forks", "forks-1")
    until(lambda: "ready" in stage.log("forks", "forks-1"))
    until(lambda: len(stage.marked("ek-cancel")) == 3)
    run = stage.cancel("forks", "forks-1")
    assert run.state == "cancelled"
    stage.gone("ek-cancel")
    assert (stage.lake / "runs" / "forks" / "forks-1" / "checkpoints" / "terminated.txt").read_text() == "yes"
    assert stage.cancel("forks", "forks-1") == run
    assert [one["data"]["state"] for one in stage.events("TrainingEnded") if one["subject"] == "forks-1"] == [
        "cancelled"
    ]
    with pytest.raises(NotFound):
        stage.cancel("forks", "nothing")


def test_a_run_past_its_time_is_stopped_even_when_it_is_deaf(stage: Stage) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    stage.training("late", FORKS.format(mark="ek-late", rest=deaf), timeout_s=2, grace_s=0)
    stage.submit("late", "late-1")
    run = stage.ended("late", "late-1")
    assert (run.state, run.reason) == ("failed", "it ran past its time limit of 2 s")
    stage.gone("ek-late")


def test_what_a_successful_job_leaves_running_is_ended(stage: Stage) -> None:
    stage.training("litters", FORKS.format(mark="ek-litter", rest="(job.model_dir() / 'm').touch()"))
    stage.submit("litters", "litters-1")
    assert stage.ended("litters", "litters-1").state == "succeeded"
    stage.gone("ek-litter")


def test_a_run_over_its_memory_is_ended_with_the_reason(stage: Stage) -> None:
    eat = "import os, time\nif os.fork() == 0:\n    x = bytearray(500 * 2**20); time.sleep(60)\ntime.sleep(60)"
    stage.training("eats", eat, resources={"memory_mib": 256})
    stage.submit("eats", "eats-1")
    run = stage.ended("eats", "eats-1")
    assert run.state == "failed"
    assert "memory limit of 256 MiB" in run.reason


def test_memory_that_processes_share_counts_once(stage: Stage) -> None:
    share = """
        import os, time
        from ekiben import job
        x = b"x" * (150 * 2**20)
        if os.fork() == 0:
            time.sleep(1.5)
            os._exit(0)
        time.sleep(1.5)
        (job.model_dir() / "m").touch()
    """
    stage.training("shares", share, resources={"memory_mib": 256})
    stage.submit("shares", "shares-1")
    run = stage.ended("shares", "shares-1")
    assert (run.state, run.reason) == ("succeeded", "")


def test_metrics_and_log_are_live(stage: Stage) -> None:
    live = """
        import time
        from ekiben import job
        print("half a", end="")
        print(" line")
        job.log_metric("loss", 2)
        time.sleep(300)
    """
    stage.training("live", live, grace_s=0)
    stage.submit("live", "live-1")
    until(lambda: stage.run("live", "live-1").metrics == {"loss": 2.0})
    first = stage.client.send("GET", "/v1/trainings/live/runs/live-1/log?offset=0")
    assert (first.body, first.headers["ekiben-offset"], first.headers["ekiben-ended"]) == (b"half a line\n", "12", "0")
    rest = stage.client.send("GET", "/v1/trainings/live/runs/live-1/log?offset=12")
    assert (rest.body, rest.headers["ekiben-offset"]) == (b"", "12")
    stage.cancel("live", "live-1")
    end = stage.client.send("GET", "/v1/trainings/live/runs/live-1/log?offset=12")
    assert (end.headers["ekiben-ended"], b"cancelled" in end.body) == ("1", True)


def test_a_failed_run_is_tried_again_and_finds_its_checkpoints(stage: Stage) -> None:
    tries = """
        from ekiben import job
        marks = job.checkpoint_dir() / "marks"
        seen = marks.read_text() if marks.exists() else ""
        marks.write_text(seen + "x")
        (job.output_dir() / f"left-{len(seen)}").touch()
        if len(seen) < 2:
            job.fail(f"attempt {len(seen)}")
        (job.model_dir() / "m").touch()
    """
    stage.training("tries", tries, retries=2, inputs={"points": "lake/points/"})
    stage.submit("tries", "tries-1")
    run = stage.ended("tries", "tries-1")
    assert (run.state, run.reason) == ("succeeded", "")
    stored = stage.lake / "runs" / "tries" / "tries-1"
    assert sorted(path.name for path in (stored / "output").iterdir()) == ["left-2"]
    stage.training("tries", tries, retries=1)
    stage.submit("tries", "tries-2")
    assert (stage.ended("tries", "tries-2").state, stage.run("tries", "tries-2").reason) == ("failed", "attempt 1")


def test_a_declaration_without_its_script_is_refused(stage: Stage) -> None:
    with pytest.raises(NotFound, match=r"there is no other\.py"):
        stage.training("scriptless", "pass", entry="other.py")


def test_a_deleted_training_takes_its_runs_along(stage: Stage) -> None:
    stage.training("doomed", "import time; time.sleep(300) # ek-doomed", grace_s=0)
    stage.submit("doomed", "doomed-1")
    stage.running("doomed", "doomed-1")
    stage.client.request("DELETE", "/v1/resources/training/doomed")
    with pytest.raises(NotFound):
        stage.run("doomed", "doomed-1")
    assert not (stage.state_dir / "runs" / "doomed-1").exists()


def test_a_storage_that_is_gone_when_a_run_ends_is_a_clear_failure(stage: Stage) -> None:
    away = stage.bucket("away")
    stage.training("homeless", "import time; from ekiben import job; (job.model_dir() / 'm').touch(); time.sleep(1)")
    spec = stage.client.request("GET", "/v1/resources/training/homeless")["spec"]
    stage.client.request("PUT", "/v1/resources/training/homeless", {"spec": {**spec, "storage_uri": away.as_uri()}})
    stage.submit("homeless", "homeless-1")
    stage.running("homeless", "homeless-1")
    away.rmdir()
    run = stage.ended("homeless", "homeless-1")
    assert run.state == "failed"
    assert "could not be stored" in run.reason
    with pytest.raises(NotFound, match="no storage 'away' any more"):
        stage.submit("homeless", "homeless-2")
    assert stage.submit("homeless", "homeless-1") == run, "what was submitted before is told as ever"


def test_the_runs_record_and_its_event_are_one(stage: Stage) -> None:
    """Every run that has ended has its event, and no other has one."""
    with sqlite3.connect(stage.state_dir / "station.db", timeout=10) as connection:
        ended = {row[0] for row in connection.execute("select id from runs where state not in ('pending', 'running')")}
        told = {row[0] for row in connection.execute("select id from events where type = 'TrainingEnded'")}
    connection.close()
    assert {f"training-ended-{id}" for id in ended} <= told


def test_a_bucket_folder_is_not_followed_out_of(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("secret")
    (stage.lake / "linked").mkdir()
    (stage.lake / "linked" / "out.csv").symlink_to(tmp_path / "secret.csv")
    (stage.lake / "linked-folder").symlink_to(tmp_path)
    stage.training("follows", "print('started')", inputs={"points": "lake/linked/"})
    stage.submit("follows", "follows-1")
    assert "is empty" in stage.ended("follows", "follows-1").reason
    stage.submit("follows", "follows-2", inputs={"points": f"{stage.lake.as_uri()}/linked-folder/"})
    assert stage.ended("follows", "follows-2").state == "failed"
    assert "started" not in stage.log("follows", "follows-2")


def test_a_model_of_links_is_refused_and_nothing_of_it_stays(stage: Stage) -> None:
    links = """
        import os
        from ekiben import job
        os.symlink("/etc", job.model_dir() / "etc")
        os.symlink("/etc/hosts", job.output_dir() / "hosts")
    """
    stage.training("links", links, retries=1)
    stage.submit("links", "links-1")
    run = stage.ended("links", "links-1")
    assert run.state == "failed"
    assert "it is a link" in run.reason
    assert "'hosts' is no regular file" in stage.log("links", "links-1")
    tidy = {"inputs.json", "lock", "log.txt", "run.json", "status.json", "supervisor.log"}
    folder = stage.state_dir / "runs" / "links-1"
    until(lambda: {path.name for path in folder.iterdir()} == tidy, "the run's folder is tidied")
