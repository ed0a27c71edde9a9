"""T: training (docs/contract.md)."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

import ekiben as ek
from tests.waiting import until

from .conftest import Rig


def read(rig: Rig, uri: str) -> bytes:
    lake = rig.runtime.storage("lake")
    return lake.get(lake.key(uri))


def test_t1_t3_t4_t14_t17_a_run_from_submission_to_model(rig: Rig) -> None:
    training = rig.runtime.training("tiny")
    id = f"run-{uuid.uuid4().hex[:8]}"
    assert training.submit(ek.Job(id=id, params={"scale": 2.0})).state in ("pending", "running")
    run = until(lambda: r if (r := training.run(id)).ended else None)
    assert run.state == "succeeded", run.reason
    assert run.metrics["slope"] == pytest.approx(6.0)
    assert run.metrics["points"] == 3
    assert json.loads(read(rig, run.model_uri.rstrip("/") + "/model.json"))["slope"] == pytest.approx(6.0)
    assert json.loads(read(rig, run.output_uri.rstrip("/") + "/signature.json"))["columns"] == ["x"]
    assert run.params == {"scale": 2.0}
    data = run.lineage["inputs"]["points"]
    assert data["rows"] == 3
    assert len(data["sha256"]) == 64
    assert sorted(f["uri"].rsplit("/", 1)[1] for f in data["files"]) == ["a.jsonl", "b.jsonl"]
    assert len(run.lineage["code"]["sha256"]) == 64
    assert {"commit", "dirty"} <= set(run.lineage["code"])
    assert {"python", "os", "cpu", "packages"} <= set(run.lineage["environment"])
    assert run.lineage["seeds"] == {"none": 0}
    ended = until(lambda: [e for e in rig.seen("TrainingEnded") if e["subject"] == id])
    assert (ended[0]["source"], ended[0]["data"]["state"]) == ("tiny", "succeeded")


def test_t2_submitting_an_id_again_is_the_same_run(rig: Rig) -> None:
    training = rig.runtime.training("tiny")
    job = ek.Job(id=f"run-{uuid.uuid4().hex[:8]}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: rig.connect().training("tiny").submit(job), range(8)))
    run = until(lambda: r if (r := training.run(job.id)).ended else None)
    assert training.submit(job) == run
    assert [r.id for r in training.runs()].count(job.id) == 1


def test_t5_a_failed_job_says_why_and_keeps_its_log(rig: Rig) -> None:
    run = rig.train(fail="row 3 has no y: 駅弁")
    assert (run.state, run.reason) == ("failed", "row 3 has no y: 駅弁")
    assert any("read 3 points" in line for line in rig.runtime.training("tiny").logs(run.id))
    assert b"read 3 points" in read(rig, run.log_uri)
    assert rig.train(no_model=True).state == "failed", "no model is no success"


def test_t6_t9_t10_a_job_past_its_time_is_stopped(rig: Rig) -> None:
    run = rig.train("brittle", steps=1000, step_s=0.1)
    assert run.state == "failed"
    assert "8 s" in run.reason
    lake = rig.runtime.storage("lake")
    kept = {found.key.rsplit("/", 1)[1] for found in lake.list(f"runs/brittle/{run.id}/checkpoints/")}
    assert kept == {"attempts.txt", "terminated.txt"}, "SIGTERM came first, and the checkpoints are kept"


def test_t7_a_job_over_its_memory_is_ended(rig: Rig) -> None:
    run = rig.train("brittle", eat_mib=600)
    assert run.state == "failed"
    assert "memory" in run.reason
    assert "256 MiB" in run.reason


def test_t8_cancel_stops_everything(rig: Rig) -> None:
    import subprocess

    training = rig.runtime.training("tiny")
    mark = uuid.uuid4().hex
    run = training.submit(ek.Job(id=f"run-{mark[:8]}", params={"fork": mark, "steps": 1000, "step_s": 0.1}))
    until(lambda: training.run(run.id).metrics.get("loss"))
    assert training.cancel(run.id).state == "cancelled"
    assert training.cancel(run.id).state == "cancelled"
    if rig.hosted:
        assert subprocess.run(["pgrep", "-f", mark], capture_output=True).stdout == b""
    with pytest.raises(ek.NotFound, match="no-such"):
        training.cancel("no-such-run")


def test_t10_a_failed_run_is_tried_again_and_finds_its_checkpoints(rig: Rig) -> None:
    run = rig.train("brittle", fail_first=True)
    assert run.state == "succeeded", run.reason


def test_t11_t12_logs_follow_until_the_end(rig: Rig) -> None:
    training = rig.runtime.training("tiny")
    run = training.submit(ek.Job(id=f"run-{uuid.uuid4().hex[:8]}", params={"steps": 3, "step_s": 0.2}))
    lines = list(training.logs(run.id, follow=True))
    assert any("read 3 points" in line for line in lines)
    assert training.run(run.id).ended
    assert training.runs()[0].id == run.id
    with pytest.raises(ek.NotFound):
        list(training.logs("no-such-run"))


def test_t13_two_nodes(rig: Rig) -> None:
    if ek.Feature.MULTI_NODE not in support(rig):
        pytest.skip("declared as lacking")
    run = rig.train("pair")
    assert run.state == "succeeded", run.reason
    lines = list(rig.runtime.training("pair").logs(run.id))
    assert {n for n in (0, 1) if any(f"on node {n}" in line for line in lines)} == {0, 1}
    failed = rig.train("pair", fail_rank=1, steps=1000, step_s=0.1)
    assert (failed.state, failed.reason) == ("failed", "rank 1 gives up")


@pytest.mark.parametrize(
    ("job", "match"),
    [
        (ek.Job(id="Räumlich"), "Räumlich"),
        (ek.Job(id="../up"), "up"),
        (ek.Job(id="x" * 64), "63"),
        (ek.Job(id="fine", inputs={"nothing": "lake/x"}), "nothing"),
        (ek.Job(id="fine", params={"scale": float("nan")}), "scale"),
        (ek.Job(id="fine", params={"scale": [1]}), "scale"),
    ],
)
def test_t15_a_bad_job_is_no_run(rig: Rig, job: ek.Job, match: str) -> None:
    before = len(rig.runtime.training("tiny").runs())
    with pytest.raises(ek.SpecError, match=match):
        rig.runtime.training("tiny").submit(job)
    assert len(rig.runtime.training("tiny").runs()) == before


def test_t18_a_run_outlives_its_host(rig: Rig) -> None:
    if not rig.hosted:
        pytest.skip("the provider's own host")
    training = rig.runtime.training("tiny")
    run = training.submit(ek.Job(id=f"run-{uuid.uuid4().hex[:8]}", params={"steps": 20, "step_s": 0.1}))
    until(lambda: training.run(run.id).state == "running")
    rig.crash()
    ended = until(lambda: r if (r := training.run(run.id)).ended else None)
    assert ended.state == "succeeded", ended.reason
    assert len(until(lambda: [e for e in rig.seen("TrainingEnded") if e["subject"] == run.id])) == 1


def test_t9_t19_a_spot_run_goes_on_where_it_was_interrupted(rig: Rig) -> None:
    if ek.Feature.SPOT not in support(rig):
        pytest.skip("declared as lacking")
    training = rig.runtime.training("fleeting")
    run = training.submit(ek.Job(id=f"run-{uuid.uuid4().hex[:8]}", params={"first_steps": 1000, "step_s": 0.1}))
    until(lambda: training.run(run.id).metrics.get("loss"))
    rig.take_away(run)
    ended = until(lambda: r if (r := training.run(run.id)).ended else None)
    assert (ended.state, ended.attempts) == ("succeeded", 2), ended.reason
    (one,) = ended.interruptions
    assert one.reason
    assert run.submitted_at < one.at < ended.ended_at
    assert 0 <= one.lost_s < 60
    lake = rig.runtime.storage("lake")
    assert lake.get(f"runs/fleeting/{run.id}/checkpoints/attempts.txt") == b"attempt\nattempt\n"
    assert lake.get(f"runs/fleeting/{run.id}/checkpoints/terminated.txt") == b"yes", "SIGTERM came first"
    assert len(until(lambda: [e for e in rig.seen("TrainingEnded") if e["subject"] == run.id])) == 1


def support(rig: Rig) -> ek.Support:
    import importlib

    found: ek.Support = importlib.import_module(ek.providers()[rig.provider]).SUPPORT
    return found
