"""The contract of trainings whose runs are TrainJobs, and what is the Trainer's own: controllers of its makers on a real cluster.

With the contract's tests on the rig `kubernetes`: the first time it builds the Trainer.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.kubernetes import leftovers, trainjobs
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.facts import RUN, S3, labels
from ekiben.kubernetes.storage import url_of
from ekiben.kubernetes.training import Training
from tests.waiting import until

from .conftest import RIGS, Rig, standing
from .test_training import (
    test_t1_t3_t4_t14_t17_a_run_from_submission_to_model,
    test_t2_submitting_an_id_again_is_the_same_run,
    test_t5_a_failed_job_says_why_and_keeps_its_log,
    test_t6_t9_t10_a_job_past_its_time_is_stopped,
    test_t7_a_job_over_its_memory_is_ended,
    test_t8_cancel_stops_everything,
    test_t9_t19_a_spot_run_goes_on_where_it_was_interrupted,
    test_t10_a_failed_run_is_tried_again_and_finds_its_checkpoints,
    test_t11_t12_logs_follow_until_the_end,
    test_t13_two_nodes,
)

__all__ = [
    "test_t1_t3_t4_t14_t17_a_run_from_submission_to_model",
    "test_t2_submitting_an_id_again_is_the_same_run",
    "test_t5_a_failed_job_says_why_and_keeps_its_log",
    "test_t6_t9_t10_a_job_past_its_time_is_stopped",
    "test_t7_a_job_over_its_memory_is_ended",
    "test_t8_cancel_stops_everything",
    "test_t9_t19_a_spot_run_goes_on_where_it_was_interrupted",
    "test_t10_a_failed_run_is_tried_again_and_finds_its_checkpoints",
    "test_t11_t12_logs_follow_until_the_end",
    "test_t13_two_nodes",
]

if "kubernetes" not in RIGS:
    pytest.skip("with the rig `kubernetes` alone: make conformance PROVIDER=kubernetes", allow_module_level=True)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = {"steps": 5000, "step_s": 0.05}
TRAINER, JOBSET = "apis/trainer.kubeflow.org/v1alpha1", "apis/jobset.x-k8s.io/v1alpha2"
# All that a run comes to, in its namespace.
MADE = {
    "TrainJob": f"{TRAINER}/namespaces/{{}}/trainjobs", "TrainingRuntime": f"{TRAINER}/namespaces/{{}}/trainingruntimes",
    "JobSet": f"{JOBSET}/namespaces/{{}}/jobsets", "Job": "apis/batch/v1/namespaces/{}/jobs",
    "Pod": "api/v1/namespaces/{}/pods", "Service": "api/v1/namespaces/{}/services",
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
}  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with standing("trainjobs") as made:
        yield made
        # What is destroyed has a run that goes on.
        pair = made.runtime.training("pair")
        pair.submit(ek.Job(id=named("last"), params=LONG))


def named(what: str) -> str:
    """A name of its own for each try."""
    return f"{what}-{uuid.uuid4().hex[:6]}"


def trained(rig: Rig, training: str, **facts: Any) -> Training:
    """One of the rig's trainings, with other facts than the deploy face has left."""
    part = rig.platform.parts[training]
    return Training(replace(part, facts={**part.facts, **facts}), rig.platform)


def cluster(rig: Rig) -> Cluster:
    return Cluster(rig.platform.parts["tiny"].facts["namespace"])


def made(rig: Rig, name: str) -> dict[str, list[str]]:
    """What there is of a run, by the name of its TrainJob: kind -> names."""
    there, found = cluster(rig), {}
    for kind, path in MADE.items():
        items = there.pages(path.format(there.namespace), "look", {})
        if names := [one["metadata"]["name"] for one in items if one["metadata"]["name"].startswith(name)]:
            found[kind] = names
    return found


def pods(rig: Rig, run: str) -> list[dict[str, Any]]:
    return list(cluster(rig).list("Pod", "look", labels={RUN: run}))


def finished(training: Training, id: str) -> ek.Run:
    return until(lambda: run if (run := training.run(id)).ended else None, f"the run {id} ends")


def test_it_makes_what_a_job_makes_and_is_told_of_when_all_of_it_is_gone(rig: Rig) -> None:
    outcomes = {}
    for kind in ("TrainJob", "Job"):
        training, id = trained(rig, "pair", kind=kind), named(kind.lower())
        training.submit(ek.Job(id=id, params={"scale": 2.0}))
        run = finished(training, id)
        assert (run.state, run.nodes, run.attempts) == ("succeeded", 2, 1), run.reason
        lake = rig.runtime.storage("lake")
        outcomes[kind] = {
            found.key.partition(f"{id}/")[2]: lake.get(found.key)
            for part in ("model", "output")
            for found in lake.list(f"runs/pair/{id}/{part}/")
        }
        outcomes[kind] = {key: data for key, data in outcomes[kind].items() if not key.endswith("progress.jsonl")}
        if kind == "TrainJob":
            log = list(training.logs(id))
            cluster(rig).delete("TrainJob", training._name(id), "take it away")
            until(lambda: set(made(rig, training._name(id))) <= {"TrainingRuntime"}, "all of it goes")  # noqa: B023
            assert sorted(training.logs(id)) == sorted(log)
            assert training.run(id).metrics == run.metrics
    assert "model/model.json" in outcomes["Job"]
    assert outcomes["TrainJob"] == outcomes["Job"]


def test_the_trainer_s_own_status_is_the_run_s(rig: Rig) -> None:
    """Where no pod of it came to tell anything; and a JobSet starts nothing anew."""
    training, id = trained(rig, "tiny"), named("state")
    training.submit(ek.Job(id=id, params={"fail": "for a reason"}))
    run = finished(training, id)
    assert (run.state, run.reason) == ("failed", "for a reason")
    name = training._name(id)

    def failed() -> dict[str, Any]:
        told = cluster(rig).get("TrainJob", name, "look").get("status") or {}
        return {one["type"]: one for one in told.get("conditions") or () if one["status"] == "True"}

    conditions = until(lambda: found if (found := failed()).get("Failed") else None, "the Trainer knows it, too")
    assert trainjobs.job_of(name) in conditions["Failed"]["message"]
    jobset = cluster(rig).read(f"{MADE['JobSet'].format(cluster(rig).namespace)}/{name}", "look")
    assert (jobset["status"].get("restarts", 0), len(pods(rig, id))) == (0, 1)


def test_a_pod_of_two_that_is_killed_comes_back_and_both_go_on_from_the_checkpoint(rig: Rig) -> None:
    spec = {**rig.platform.parts["pair"].facts["spec"], "spot": True}
    training, id = trained(rig, "pair", spec=spec), named("killed")
    training.submit(ek.Job(id=id, params={"first_steps": 5000, "step_s": 0.05}))
    lake, at = rig.runtime.storage("lake"), f"runs/pair/{id}"
    until(lambda: list(lake.list(f"{at}/checkpoints/attempts.txt")), "a checkpoint is stored")
    until(lambda: list(lake.list(f"{at}/log-1.txt")), "the second node works")
    index = "batch.kubernetes.io/job-completion-index"
    (second,) = [one for one in pods(rig, id) if one["metadata"]["labels"][index] == "1"]
    path = cluster(rig).path("Pod", second["metadata"]["name"])
    cluster(rig)._json("DELETE", path, "kill a pod", {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    run = finished(training, id)
    assert (run.state, run.nodes, run.attempts) == ("succeeded", 2, 2), run.reason
    assert len(run.interruptions) == 1
    until(lambda: "attempt 2, with the checkpoint" in "\n".join(training.logs(id)), "the log of both is stored")


def test_a_run_that_is_cancelled_has_had_its_grace_and_leaves_no_pod(rig: Rig) -> None:
    training, id = trained(rig, "tiny"), named("long")
    training.submit(ek.Job(id=id, params=LONG))
    until(lambda: training.run(id).metrics, "it works")
    run = training.cancel(id)
    assert (run.state, run.reason) == ("cancelled", "cancelled")
    assert not [one for one in pods(rig, id) if one["status"]["phase"] == "Running"]
    assert rig.runtime.storage("lake").get(f"runs/tiny/{id}/checkpoints/terminated.txt") == b"yes", "SIGTERM came first"
    assert training.submit(ek.Job(id=id, params=LONG)).state == "cancelled", "the id is that run"
    # One that has no pod yet.
    training.submit(ek.Job(id=(early := named("early")), params=LONG))
    assert training.cancel(early).state == "cancelled"
    until(lambda: not [one for one in pods(rig, early) if one["status"]["phase"] == "Running"], "no pod of it comes")


def test_what_cannot_run_says_why(rig: Rig) -> None:
    pod = rig.platform.parts["tiny"].facts["pod"]
    unpulled, forbidden, large = deepcopy(pod), deepcopy(pod), deepcopy(pod)
    unpulled["containers"][0]["image"] = f"{pod['containers'][0]['image'].partition('/')[0]}/no-such-image:1"
    forbidden["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    for amounts in large["containers"][0]["resources"].values():
        amounts["cpu"] = "900"
    for shape, words in ((unpulled, "its image cannot be pulled"), (forbidden, "violates PodSecurity")):
        training, id = trained(rig, "tiny", pod=shape), named("waits")
        training.submit(ek.Job(id=id))
        run = until(lambda: run if (run := training.run(id)).reason else None, "the reason is told")  # noqa: B023
        assert run.state == "pending"
        assert words in until(lambda: training.run(id).reason, "why it waits"), run.reason  # noqa: B023
        assert training.cancel(id).state == "cancelled"
    too_large, id = trained(rig, "tiny", pod=large), named("large")
    with pytest.raises(ek.NoCapacity, match=r"no node of the cluster has cpu 900"):
        too_large.submit(ek.Job(id=id))
    with pytest.raises(ek.NotFound):
        too_large.run(id)


@pytest.mark.parametrize("kind", ["jobsets.jobset.x-k8s.io", "jobs.batch"])
def test_what_the_trainer_and_jobset_cannot_make_says_why(rig: Rig, kind: str) -> None:
    there, training, id = cluster(rig), trained(rig, "tiny"), named("quota")
    at = f"api/v1/namespaces/{there.namespace}/resourcequotas"
    quota = {"metadata": {"name": id}, "spec": {"hard": {f"count/{kind}": "0"}}}
    there._json("POST", at, "set a quota", quota)
    try:
        until(lambda: there.read(f"{at}/{id}", "look").get("status", {}).get("hard"), "the quota holds")
        training.submit(ek.Job(id=id))
        run = until(lambda: run if "exceeded quota" in (run := training.run(id)).reason else None, "the reason is told")
        assert (run.state, "Raise the ResourceQuota" in run.reason) == ("pending", True)
        assert training.cancel(id).state == "cancelled"
    finally:
        there.delete_at(f"{at}/{id}", "take the quota away")
    assert not pods(rig, id)


def test_a_function_that_uses_it_may_do_what_it_has_to(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the function's own account, which has a Role for the training."""
    there, facts = cluster(rig), rig.platform.parts["tiny"].facts
    outside_url = url_of(there, S3.from_dict(facts["s3"]))
    at = f"api/v1/namespaces/{there.namespace}"
    keys = there.get("Secret", facts["s3"]["secret"], "look")["data"]
    told = there._json("POST", f"{at}/serviceaccounts/witness/token", "look", {"spec": {"expirationSeconds": 3600}})
    config = json.loads(Path(os.environ["KUBECONFIG"]).read_text("utf-8"))
    config["users"][0]["user"] = {"token": told["status"]["token"]}
    (tmp_path / "config").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    # As its pod has them.
    monkeypatch.setenv("EKIBEN_S3_SECRET", facts["s3"]["secret"])
    for name in ("access_key_id", "secret_access_key"):
        monkeypatch.setenv(f"AWS_{name.upper()}", base64.b64decode(keys[name]).decode())
    # And by the store's name, which leads nowhere from here.
    training, id = trained(rig, "tiny", s3={**facts["s3"], "outside_url": outside_url}), named("again")
    training.submit(ek.Job(id=id))
    assert "read 3 points on node 0" in list(training.logs(id, follow=True))
    run = finished(training, id)
    assert run.state == "succeeded", run.reason
    assert run.lineage["by"] == f"system:serviceaccount:{there.namespace}:witness"
    assert id in [one.id for one in training.runs()]
    training.submit(ek.Job(id=(stopped := named("stopped")), params=LONG))
    assert training.cancel(stopped).state == "cancelled"
    for kind in ("Job", "Secret"):
        with pytest.raises(ek.AccessDenied):
            list(there.list(kind, "look at what is not its own"))


def test_a_training_that_goes_takes_all_that_its_runs_have_made(rig: Rig) -> None:
    training, id = trained(rig, "fleeting"), named("gone")
    training.submit(ek.Job(id=id, params=LONG))
    until(lambda: training.run(id).metrics, "it works")
    assert set(made(rig, training._name(id))) == set(MADE)
    leftovers.deleted(cluster(rig), labels(rig.platform, rig.platform.parts["fleeting"]))
    until(lambda: not made(rig, training._name(id)), "all of it goes")
