"""What a cluster says, as errors with what to do: by the API's own answers, and by pods, jobs and events as clusters show them."""

from __future__ import annotations

import json
from typing import Any

import pytest

import ekiben as ek
from ekiben.kubernetes import knative
from ekiben.kubernetes.errors import REASONS, TROUBLES, error_of, trouble_of, unanswered
from ekiben.kubernetes.jobs import amount


def answer(code: int, reason: str = "", message: str = "it says so") -> ek.ProviderError:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return error_of(code, json.dumps(body).encode(), "do it")


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", ek.NotFound), (409, "AlreadyExists", ek.AlreadyExists), (403, "Forbidden", ek.AccessDenied),
        (401, "Unauthorized", ek.AccessDenied), (429, "TooManyRequests", ek.Unavailable), (504, "Timeout", ek.Unavailable),
        (500, "InternalError", ek.Unavailable), (503, "ServiceUnavailable", ek.Unavailable), (410, "Expired", ek.Unavailable),
        (422, "Invalid", ek.ProviderError), (413, "RequestEntityTooLarge", ek.ProviderError), (418, "NewReason", ek.ProviderError),
        (599, "", ek.Unavailable),
    ],
)  # fmt: skip
def test_each_reason_of_the_api_is_an_error_of_ours(code: int, reason: str, kind: type[ek.ProviderError]) -> None:
    error = answer(code, reason)
    assert type(error) is kind
    assert str(error).startswith("kubernetes: cannot do it: it says so.")


def test_a_change_that_somebody_else_was_quicker_with_may_be_repeated() -> None:
    error = answer(409, "Conflict")
    assert (type(error).__name__, error.retryable) == ("PreconditionFailed", True)


@pytest.mark.parametrize(
    ("message", "kind", "what_to_do"),
    [
        ('pods "x" is forbidden: exceeded quota: compute, requested: cpu=2, used: cpu=3', ek.NoCapacity, "ResourceQuota"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', ek.AccessDenied, "Pod Security"),
        ('admission webhook "policy.example" denied the request: no', ek.AccessDenied, "who runs the cluster"),
        ('admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: TrainingRuntime "x" not found: specified '
         "trainingRuntime must be created before the TrainJob is created", ek.Unavailable, "has not seen it yet"),
        ("unable to create new content in namespace shop because it is being terminated", ek.Unavailable, "ekiben up"),
        ("maximum memory usage per Container is 1Gi, but limit is 2Gi", ek.NoCapacity, "LimitRange"),
        ('User "me" cannot list resource "jobs"', ek.AccessDenied, "kubectl auth can-i"),
    ],
)  # fmt: skip
def test_what_is_forbidden_says_by_whom_and_what_to_do(message: str, kind: type[Exception], what_to_do: str) -> None:
    error = answer(403, "Forbidden", message)
    assert type(error) is kind
    assert what_to_do in str(error)


def test_an_answer_that_is_none_of_the_apis_is_still_an_error() -> None:
    assert "the API server answers 502" in str(error_of(502, b"<html>bad gateway", "do it"))
    assert type(error_of(400, b"[1]", "do it")) is ek.ProviderError
    assert "the kubeconfig" in str(unanswered(OSError("certificate verify failed"), "do it"))
    assert unanswered(OSError("connection refused"), "do it").retryable


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "pod"}, "status": status}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(containerStatuses=[{"name": "job", "state": {"waiting": {"reason": reason, "message": message}}}])


@pytest.mark.parametrize(
    ("shown", "says", "what_to_do", "lasting"),
    [
        (waiting("ImagePullBackOff", 'Back-off pulling image "x:1"'), "cannot be pulled", "imagePullSecret", True),
        (waiting("CreateContainerConfigError", 'secret "keys" not found'), "a Secret or a ConfigMap", "ekiben up", True),
        (
            pod(containerStatuses=[{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]),
            "went over its memory limit", "memory_mib", True,
        ),
        (
            pod(containerStatuses=[{
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"reason": "OOMKilled"}},
            }]),
            "went over its memory limit", "memory_mib", True,
        ),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                             "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]),
            "Insufficient nvidia.com/gpu", "add a node", False,
        ),
        (pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."), "evicted", "use less", False),
        (
            pod(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
            "higher priority", "priority", False,
        ),
    ],
)  # fmt: skip
def test_why_a_pod_does_not_run_is_said_with_what_to_do(
    shown: dict[str, Any], says: str, what_to_do: str, lasting: bool
) -> None:
    trouble = trouble_of(shown)
    assert trouble is not None
    assert says in str(trouble)
    assert what_to_do in str(trouble)
    assert trouble.lasting is lasting
    assert str(trouble.error("run it")).startswith("kubernetes: cannot run it: ")


def test_a_pod_that_runs_has_no_trouble_and_events_tell_what_it_cannot() -> None:
    running = pod(phase="Running", containerStatuses=[{"state": {"running": {}}}])
    assert trouble_of(running) is None
    events = [
        {"type": "Warning", "reason": "FailedMount", "message": "old", "lastTimestamp": "2026-01-01T00:00:00Z"},
        {"type": "Warning", "reason": "FailedCreate", "message": "exceeded quota: gpus", "lastTimestamp": "2026-01-02T00:00:00Z"},
        {"type": "Normal", "reason": "Scheduled", "message": "", "lastTimestamp": "2026-01-03T00:00:00Z"},
    ]  # fmt: skip
    trouble = trouble_of(None, events)
    assert trouble is not None
    assert trouble.kind is ek.NoCapacity
    assert "ResourceQuota" in trouble.remedy
    failed = trouble_of(
        None, (), [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too long"}]
    )
    assert failed is not None
    assert "timeout_s" in str(failed)


@pytest.mark.parametrize("reason", ["FailedCreate", "TrainJobResourcesCreationFailed", "JobCreationFailed"])
def test_whoever_cannot_make_what_a_run_comes_to_says_why(reason: str) -> None:
    event = {"type": "Warning", "reason": reason, "message": "exceeded quota: q", "eventTime": "2026-01-02T00:00:00Z"}
    trouble = trouble_of(None, [event])
    assert trouble is not None
    assert (trouble.kind, trouble.why) == (ek.NoCapacity, "its pods cannot be made (exceeded quota: q)")


def test_every_line_of_the_tables_is_a_sentence_with_what_to_do() -> None:
    for _, remedy in REASONS.values():
        assert not remedy.endswith(".")
    for reason, (kind, why, remedy, _) in TROUBLES.items():
        assert issubclass(kind, ek.ProviderError), reason
        assert why, reason
        assert remedy, reason
        assert not f"{why}{remedy}".endswith("."), reason


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", 0.5), ("2", 2.0), ("1Gi", 2.0**30), ("512Mi", 2.0**29), ("1k", 1000.0), ("1e3", 1000.0), (3, 3.0),
        ("1500000n", 0.0015),
    ],
)  # fmt: skip
def test_quantities_are_numbers(text: Any, value: float) -> None:
    assert amount(text) == pytest.approx(value)
    with pytest.raises(ValueError, match="no quantity"):
        amount("a lot")


def test_a_revision_that_waits_for_room_on_a_node_is_starting_and_one_that_cannot_be_pulled_has_failed() -> None:
    def conditions(reason: str, message: str) -> dict[str, Any]:
        told = {"status": "False", "reason": reason, "message": message}
        return {"status": {"conditions": [{"type": kind, **told} for kind in ("Ready", "ResourcesAvailable")]}}

    state, why = knative._state(conditions("Unschedulable", "0/1 nodes are available: 1 Insufficient cpu."))
    assert (state, "no node has room for it" in why) == ("starting", True)
    state, why = knative._state(conditions("ErrImagePull", "not found"))
    assert (state, "its image cannot be pulled" in why) == ("failed", True)
    assert knative._state(conditions("Other", "odd")) == ("failed", "Other: odd")


def test_of_a_long_reason_both_ends_are_told() -> None:
    said = f"Traceback (most recent call last): {'File x, line 1, in y ' * 100}KeyError: 'slope'"
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": said}}
    trouble = trouble_of({"status": {"containerStatuses": [{"name": "server", "state": waiting}]}})
    assert trouble is not None
    assert "(Traceback (most recent call last)" in str(trouble)
    assert "KeyError: 'slope')" in str(trouble)
    assert len(str(trouble)) < 600
