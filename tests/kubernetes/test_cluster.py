"""The run face on a real cluster: real pods under Pod Security "restricted", which are killed, cancelled, and cannot be placed."""

from __future__ import annotations

import json
import uuid

import pytest

import ekiben as ek
from ekiben.kubernetes.facts import S3, RegistryFacts, StorageFacts
from ekiben.kubernetes.keys import job_name
from ekiben.kubernetes.registry import Registry
from ekiben.kubernetes.storage import Storage
from ekiben.kubernetes.training import Training
from tests.waiting import until

from .conftest import platform
from .stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def named(what: str) -> str:
    """A name of its own for each try: an id is one run, and what an earlier try has left is another one."""
    return f"{what}-{uuid.uuid4().hex[:6]}"


def finished(training: Training, id: str) -> ek.Run:
    return until(lambda: run if (run := training.run(id)).ended else None, f"the run {id} ends")


def test_storage_and_registry_read_the_keys_from_the_secret(stack: Stack) -> None:
    lake = StorageFacts(namespace=stack.namespace, uri=stack.bucket, s3=stack.s3)
    storage = Storage(
        ek.Part(name="lake", kind="storage", provider="kubernetes", ref="lake", facts=lake.to_dict()), platform()
    )
    assert storage.get(storage.put("a b/駅弁.txt", b"x").key) == b"x"
    facts = RegistryFacts(
        namespace=stack.namespace,
        uri=f"{stack.bucket}/registry/{named('models')}",
        s3=stack.s3,
        bus=f"{stack.bucket}/deliveries/_events",
    )
    part = ek.Part(name="models", kind="registry", provider="kubernetes", ref="models", facts=facts.to_dict())
    registry = Registry(part, platform(part))
    model = named("tiny")
    version = ek.ModelVersion(
        model=model,
        version=0,
        key="run-1",
        digest="0" * 64,
        bento_uri=f"{stack.bucket}/bentos/x.tar",
        created_at="",
        created_by="me",
    )
    assert registry.register(version).id == f"{model}:1"
    registry.decide(f"{model}:1", "approved", who="me", why="")
    told = [json.loads(stack.store.get(uri)) for uri, _ in stack.store.list(f"{stack.bucket}/deliveries/_events/")]
    assert [one["type"] for one in told if one["subject"] == f"{model}:1"] == ["ModelDecided"]
    absent = StorageFacts(namespace=stack.namespace, uri=stack.bucket, s3=S3(url=stack.url, secret="other"))
    lost = Storage(
        ek.Part(name="lake", kind="storage", provider="kubernetes", ref="lake", facts=absent.to_dict()), platform()
    )
    with pytest.raises(ek.NotFound, match="cannot read the keys of the store"):
        lost.get("x")


def test_a_run_is_submitted_once_followed_and_told_of_when_its_pods_are_gone(stack: Stack) -> None:
    training, id = stack.training(), named("Monday")
    job = ek.Job(id=id, params={"scale": 2.0, "steps": 3, "step_s": 0.5})
    first = training.submit(job)
    assert first.state in ("pending", "running")
    assert training.submit(job).submitted_at == first.submitted_at
    with pytest.raises(ek.AlreadyExists, match="other inputs or parameters"):
        training.submit(ek.Job(id=id, params={"scale": 3.0}))
    followed = list(training.logs(id, follow=True))
    assert "read 2 points on node 0" in followed
    run = finished(training, id)
    assert (run.state, run.metrics, run.attempts) == ("succeeded", {"slope": 6.0, "points": 2.0}, 1), run.reason
    assert json.loads(stack.store.get(f"{run.model_uri}model.json"))["slope"] == 6.0
    assert run.lineage["by"]
    assert id in [one.id for one in training.runs()]
    (pod,) = stack.pods(id)
    assert pod["metadata"]["labels"]["ekiben.dev/run"] == id
    stack.api.delete("Pod", pod["metadata"]["name"], "clean up")
    assert list(training.logs(id)) == followed
    # Also where somebody has deleted the Job.
    name = job_name("tiny", id, stack.bucket)
    stack.api.delete("Job", name, "clean up")
    until(lambda: name not in [one["metadata"]["name"] for one in stack.api.list("Job", "look")], "the Job goes")
    assert training.run(id).metrics == run.metrics
    with pytest.raises(ek.NotFound, match="no such run"):
        training.run(named("Tuesday"))


def test_a_pod_of_two_that_is_killed_comes_back_and_both_go_on_from_the_checkpoint(stack: Stack) -> None:
    training, id = stack.training(nodes=2, spot=True), named("pair")
    training.submit(ek.Job(id=id, params={"first_steps": 5000, "step_s": 0.05}))
    at = f"{stack.bucket}/runs/tiny/{id}"
    until(lambda: [uri for uri, _ in stack.store.list(f"{at}/checkpoints/attempts.txt")], "a checkpoint is stored")
    until(lambda: [uri for uri, _ in stack.store.list(f"{at}/log-1.txt")], "the second node works")
    (second,) = [
        one for one in stack.pods(id) if one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1"
    ]
    stack.api._json(
        "DELETE",
        stack.api.path("Pod", second["metadata"]["name"]),
        "kill a pod",
        {"gracePeriodSeconds": 0, "propagationPolicy": "Background"},
    )
    run = finished(training, id)
    assert (run.state, run.nodes, run.attempts) == ("succeeded", 2, 2), run.reason
    assert [one.reason for one in run.interruptions], "the first attempt was interrupted"
    wanted = ("[1] read 2 points on node 1", "attempt 2, with the checkpoint")

    def whole() -> bool:
        """The second node stores its log when the run has ended."""
        log = list(training.logs(id))
        return all(any(words in line for line in log) for words in wanted)

    until(whole, "both logs are stored")


def test_a_run_that_is_cancelled_is_gone_with_its_pods(stack: Stack) -> None:
    training, id = stack.training(), named("long")
    training.submit(ek.Job(id=id, params={"steps": 5000, "step_s": 0.05}))
    until(lambda: training.run(id).metrics, "it works")
    run = training.cancel(id)
    assert (run.state, run.reason) == ("cancelled", "cancelled")
    assert not [one for one in stack.pods(id) if one["status"]["phase"] == "Running"]
    assert training.cancel(id).state == "cancelled"
    kept = stack.store.get(f"{stack.bucket}/runs/tiny/{id}/checkpoints/terminated.txt")
    assert kept == b"yes", "SIGTERM came first"
    told = [json.loads(stack.store.get(uri)) for uri, _ in stack.store.list(f"{stack.bucket}/deliveries/_events/")]
    assert [one["data"]["state"] for one in told if one["subject"] == id] == ["cancelled"]


def test_what_cannot_run_says_why(stack: Stack) -> None:
    host = stack.image.partition("/")[0]
    training, id = stack.training(image=f"{host}/no-such-image:1"), named("unpulled")
    training.submit(ek.Job(id=id))
    run = until(lambda: run if "image" in (run := training.run(id)).reason else None, "the reason is told")
    assert run.state == "pending"
    assert "its image cannot be pulled" in run.reason
    assert "imagePullSecret" in run.reason
    assert training.cancel(id).state == "cancelled"
    too_large = stack.training(resources={"vcpu": 0.5, "memory_mib": 512, "gpus": 0, "gpu": ""}, nodes=1)
    too_large._facts.pod["containers"][0]["resources"]["requests"]["cpu"] = "900"
    too_large._facts.pod["containers"][0]["resources"]["limits"]["cpu"] = "900"
    id = named("large")
    with pytest.raises(ek.NoCapacity, match=r"no node of the cluster has cpu 900 \(the most is \d+\)"):
        too_large.submit(ek.Job(id=id))
    with pytest.raises(ek.NotFound):
        too_large.run(id)


def test_a_pod_that_the_namespace_forbids_is_a_run_that_says_so(stack: Stack) -> None:
    training, id = stack.training(), named("forbidden")
    training._facts.pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    training.submit(ek.Job(id=id))
    run = until(lambda: run if (run := training.run(id)).reason else None, "the reason is told")
    assert "violates PodSecurity" in run.reason
    assert "Pod Security" in run.reason
    training.cancel(id)
