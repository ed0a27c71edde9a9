"""Training runs as SageMaker training jobs: the request, idempotency, states, pages, logs, cancel."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import ekiben as ek
from ekiben import packing
from ekiben.aws import logs
from ekiben.aws.jobs import job_name
from ekiben.aws.training import LOG_GROUP, Training
from tests.fakes.aws import Edge

from .conftest import REGION, platform, put_json, training_part

NOT_ASSUMABLE = (
    "Could not assume role arn:aws:iam::123456789012:role/x. Please ensure that the role exists and allows principal "
    "'sagemaker.amazonaws.com' to assume the role."
)
RUNNING = {"TrainingJobStatus": "InProgress", "SecondaryStatus": "Training", "TrainingEndTime": None}


@pytest.fixture
def training(bucket: str, library: packing.Bundle, edge: Edge) -> Training:
    part = training_part(bucket, library)
    return Training(part, platform(part))


def id() -> str:
    return f"run-{uuid.uuid4().hex[:8]}"


def job_of(edge: Edge, run: str) -> dict[str, Any]:
    (asked,) = (
        body for target, body in edge.seen if target == "SageMaker.CreateTrainingJob" and run in body["TrainingJobName"]
    )
    return asked


def test_a_run_is_a_job_with_the_bundle_the_library_and_the_inputs_as_channels(
    training: Training, edge: Edge, client: Callable[[str], Any], bucket: str
) -> None:
    run = training.submit(ek.Job(id=id(), params={"scale": 2.0}))
    assert (run.training, run.model, run.params) == ("tiny", "tiny", {"scale": 2.0})
    job = job_of(edge, run.id)
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in job["InputDataConfig"]}
    assert set(channels) == {"ekiben-ask", "ekiben-code", "ekiben-library", "points"}
    assert channels["points"] == f"s3://{bucket}/points/"
    key = channels["ekiben-ask"].removeprefix(f"s3://{bucket}/")
    ask = json.loads(client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    assert (ask["id"], ask["params"], ask["timeout_s"]) == (run.id, {"scale": 2.0}, 60)
    assert ask["by"].startswith("arn:aws:")
    assert max(map(len, job["AlgorithmSpecification"]["ContainerArguments"])) <= 256
    assert {one["Key"]: one["Value"] for one in job["Tags"]} == {
        "ekiben:platform": "demo", "ekiben:stack": "test", "ekiben:component": "tiny"
    }  # fmt: skip
    assert not job["EnableManagedSpotTraining"]
    assert "VpcConfig" not in job
    assert job["StoppingCondition"]["MaxRuntimeInSeconds"] > 60


def test_what_the_spec_and_the_platform_ask_for_is_in_the_request(
    bucket: str, library: packing.Bundle, edge: Edge
) -> None:
    part = training_part(
        bucket, library, spec={"spot": True, "nodes": 3, "timeout_s": 2_419_200, "params": {"note": "ü" * 3000, "scale": 1.0}},
        instance_type="ml.g5.xlarge", kms_key="alias/lake", subnet_ids=["subnet-1"], security_group_ids=["sg-1"],
        network_isolation=True, wheels_uri=f"s3://{bucket}/wheels/",
    )  # fmt: skip
    run = Training(part, platform(part)).submit(ek.Job(id=id()))
    job = job_of(edge, run.id)
    assert job["EnableManagedSpotTraining"]
    assert job["EnableNetworkIsolation"]
    assert job["EnableInterContainerTrafficEncryption"]
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 2_419_200, "MaxWaitTimeInSeconds": 2_419_200}
    assert job["ResourceConfig"] == {"InstanceType": "ml.g5.xlarge", "InstanceCount": 3, "VolumeSizeInGB": 50}
    assert job["OutputDataConfig"]["KmsKeyId"] == "alias/lake"
    assert job["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert job["CheckpointConfig"] == {"S3Uri": f"s3://{bucket}/runs/tiny/{run.id}"}
    assert job["HyperParameters"] == {"scale": "1.0"}
    assert "ekiben-wheels" in {one["ChannelName"] for one in job["InputDataConfig"]}


def test_the_same_job_again_is_the_same_run_and_another_is_refused(training: Training, edge: Edge) -> None:
    job = ek.Job(id=id(), params={"scale": 3.0})
    first = training.submit(job)
    assert training.submit(job) == first
    with ThreadPoolExecutor(4) as pool:
        assert set(map(str, pool.map(lambda _: training.submit(job), range(4)))) == {str(first)}
    assert edge.count("CreateTrainingJob") == 1
    with pytest.raises(ek.AlreadyExists, match="other inputs or parameters"):
        training.submit(ek.Job(id=job.id, params={"scale": 4.0}))


def test_of_two_submitters_at_once_the_later_one_gets_the_run_of_the_first(training: Training, edge: Edge) -> None:
    job = ek.Job(id=id())
    edge.fail("DescribeTrainingJob", "ValidationException", "Requested resource not found.", times=2)
    edge.hold(job_name(job.id, training._scope))
    with pytest.raises(ek.NotFound):
        training.submit(job)
    edge.clear()
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: training.submit(job), range(8)))
    assert len({str(run) for run in runs}) == 1
    assert [run.id for run in training.runs()] == [job.id]


def test_a_role_that_is_not_yet_assumable_is_waited_for(training: Training, edge: Edge) -> None:
    edge.fail("CreateTrainingJob", "ValidationException", NOT_ASSUMABLE)
    run = training.submit(ek.Job(id=id()))
    assert edge.count("CreateTrainingJob") == 2
    assert training.run(run.id).state == "succeeded"


def test_throttling_is_tried_again_and_a_quota_is_no_capacity(training: Training, edge: Edge) -> None:
    edge.fail("CreateTrainingJob", "ThrottlingException", "Rate exceeded")
    assert training.submit(ek.Job(id=id())).id
    edge.fail("CreateTrainingJob", "ResourceLimitExceeded", "The account-level service limit is 0 Instances")
    bad = ek.Job(id=id())
    with pytest.raises(ek.NoCapacity, match="account-level service limit"):
        training.submit(bad)
    assert bad.id not in [run.id for run in training.runs()]
    with pytest.raises(ek.NotFound, match=bad.id):
        training.run(bad.id)


def test_a_long_run_id_makes_a_name_that_sagemaker_takes(training: Training) -> None:
    long = "a-" + "b" * 60 + "c"
    run = training.submit(ek.Job(id=long))
    assert run.id == long == training.run(long).id
    assert job_name(long, training._scope) != job_name(long[:-1] + "d", training._scope)


@pytest.mark.parametrize(
    ("job", "match"),
    [
        (ek.Job(id="../up"), "up"),
        (ek.Job(id="fine", inputs={"nothing": "s3://lake/x"}), "nothing"),
        (ek.Job(id="fine", inputs={"points": "file:///lake/x"}), "points"),
        (ek.Job(id="fine", params={"scale": float("nan")}), "scale"),
    ],
)
def test_a_bad_job_reaches_no_service(training: Training, edge: Edge, job: ek.Job, match: str) -> None:
    edge.clear()
    with pytest.raises(ek.SpecError, match=match):
        training.submit(job)
    assert edge.seen == []


def test_several_nodes_cannot_be_retried_and_it_says_so(bucket: str, library: packing.Bundle) -> None:
    part = training_part(bucket, library, spec={"nodes": 2, "retries": 1})
    with pytest.raises(ek.Unsupported, match="retries=0"):
        Training(part, platform(part)).submit(ek.Job(id=id()))


def test_runs_are_of_this_training_alone_over_all_pages_newest_first(
    bucket: str, library: packing.Bundle, edge: Edge
) -> None:
    one, other = training_part(bucket, library), training_part(bucket, library, name="other")
    training = Training(one, platform(one))
    ids = [training.submit(ek.Job(id=f"{number:02}-{id()}")).id for number in range(12)]
    Training(other, platform(other)).submit(ek.Job(id=id()))
    Training(one, platform(one, stack="second")).submit(ek.Job(id=id()))
    assert [run.id for run in training.runs()] == list(reversed(ids))


@pytest.mark.parametrize(
    ("told", "state", "reason"),
    [
        ({**RUNNING, "SecondaryStatus": "Starting", "TrainingStartTime": None}, "pending", ""),
        ({**RUNNING, "SecondaryStatus": "Downloading", "TrainingStartTime": None}, "pending", ""),
        (RUNNING, "running", ""),
        ({**RUNNING, "SecondaryStatus": "Uploading"}, "running", ""),
        ({**RUNNING, "SecondaryStatus": "Interrupted"}, "pending", "Preparing the instances"),
        ({"TrainingJobStatus": "Stopping", "SecondaryStatus": "Stopping"}, "running", ""),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "Stopped"}, "cancelled", "cancelled"),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"}, "failed", "60 s"),
        ({"TrainingJobStatus": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"}, "failed", "spot capacity"),
        ({"TrainingJobStatus": "Failed", "FailureReason": "AlgorithmError: no y: 駅弁, exit code: 1"}, "failed", "no y: 駅弁"),
        ({"TrainingJobStatus": "Failed", "FailureReason": "InternalServerError: sorry"}, "failed", "InternalServerError"),
    ],
)  # fmt: skip
def test_states(training: Training, edge: Edge, told: dict[str, Any], state: str, reason: str) -> None:
    run = training.submit(ek.Job(id=id()))
    edge.hold(job_name(run.id, training._scope), **told)
    found = training.run(run.id)
    assert found.state == state
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)
    assert bool(found.ended_at) == found.ended


def test_what_the_container_stored_is_in_the_run(
    training: Training, edge: Edge, client: Callable[[str], Any], bucket: str
) -> None:
    run = training.submit(ek.Job(id=id()))
    name, at = job_name(run.id, training._scope), f"runs/tiny/{run.id}"
    edge.hold(name, **RUNNING)
    lines = '{"name": "loss", "value": 0.5}\n{"name": "loss", "value": 0.25}\n{"name": "lo'
    client("s3").put_object(Bucket=bucket, Key=f"{at}/output/progress.jsonl", Body=lines.encode())
    assert training.run(run.id).metrics == {"loss": 0.25}
    moment = 1_790_000_000
    edge.hold(
        name, TrainingJobStatus="Completed", SecondaryStatus="Completed",
        ModelArtifacts={"S3ModelArtifacts": f"s3://{bucket}/{at}/{name}/output/model"},
        SecondaryStatusTransitions=[{"Status": "Interrupted", "StartTime": moment, "StatusMessage": "Spot"}],
    )  # fmt: skip
    put_json(client, bucket, f"{at}/attempts.json", [{"state": "interrupted", "lost_s": 2.5}, {"state": "succeeded"}])
    lineage = {"params": {"scale": 1}, "code": {}}
    put_json(
        client,
        bucket,
        f"{at}/status.json",
        {"state": "succeeded", "reason": "", "metrics": {"auc": 0.9}, "lineage": lineage},
    )
    done = training.run(run.id)
    assert (done.state, done.metrics, done.lineage, done.params) == ("succeeded", {"auc": 0.9}, lineage, {"scale": 1})
    assert done.model_uri == f"s3://{bucket}/{at}/{name}/output/model/"
    assert (done.attempts, done.lost_s) == (2, 2.5)
    assert done.interruptions[0].reason == "Spot"
    assert done.output_uri == f"s3://{bucket}/{at}/output/"
    assert done.log_uri == f"s3://{bucket}/{at}/log.txt"


def test_a_failure_is_told_in_the_words_of_the_container(
    training: Training, edge: Edge, client: Callable[[str], Any], bucket: str
) -> None:
    run = training.submit(ek.Job(id=id()))
    edge.hold(job_name(run.id, training._scope), TrainingJobStatus="Failed", FailureReason="AlgorithmError: cut of")
    put_json(client, bucket, f"runs/tiny/{run.id}/status.json", {"state": "failed", "reason": "cut off no more"})
    assert training.run(run.id).reason == "cut off no more"


def test_cancel_stops_and_waits_and_is_silent_afterwards(training: Training, edge: Edge) -> None:
    run = training.submit(ek.Job(id=id()))
    assert training.cancel(run.id).state == "succeeded", "it had ended"
    assert edge.count("StopTrainingJob") == 0
    edge.hold(job_name(run.id, training._scope), **RUNNING)
    assert training.cancel(run.id).state == "cancelled"
    assert training.cancel(run.id).state == "cancelled"
    assert edge.count("StopTrainingJob") == 1
    with pytest.raises(ek.NotFound, match="no-such-run"):
        training.cancel("no-such-run")


def test_a_run_that_ends_while_it_is_cancelled_has_ended_as_it_did(training: Training, edge: Edge) -> None:
    run = training.submit(ek.Job(id=id()))
    name = job_name(run.id, training._scope)
    edge.hold(name, **RUNNING)
    described = training._describe

    def ends(one: str, operation: str) -> dict[str, Any]:
        found = described(one, operation)
        edge.hold(name, TrainingJobStatus="Completed", SecondaryStatus="Completed")
        return found

    training._describe = ends  # type: ignore[method-assign]
    assert training.cancel(run.id).state == "succeeded"
    assert edge.count("StopTrainingJob") == 1


def put_lines(client: Callable[[str], Any], stream: str, *texts: str, at_ms: int = 0) -> None:
    there = client("logs")
    with contextlib.suppress(there.exceptions.ResourceAlreadyExistsException):
        there.create_log_group(logGroupName=LOG_GROUP)
    there.create_log_stream(logGroupName=LOG_GROUP, logStreamName=stream)
    at_ms = at_ms or int(time.time() * 1000)
    events = [{"timestamp": at_ms + number, "message": text} for number, text in enumerate(texts)]
    there.put_log_events(logGroupName=LOG_GROUP, logStreamName=stream, logEvents=events)


def test_logs_of_several_nodes_by_time_over_pages(
    bucket: str, library: packing.Bundle, edge: Edge, client: Callable[[str], Any]
) -> None:
    part = training_part(bucket, library, spec={"nodes": 2})
    training = Training(part, platform(part))
    run = training.submit(ek.Job(id=id()))
    name, now_ms = job_name(run.id, training._scope), int(time.time() * 1000)
    put_lines(client, f"{name}/algo-1-1700000000", *(f"line {n}" for n in range(300)), at_ms=now_ms)
    put_lines(client, f"{name}/algo-2-1700000000", "駅弁", at_ms=now_ms + 1000)
    put_lines(client, f"{name}0/algo-1-1700000000", "not mine", at_ms=now_ms)
    found = list(training.logs(run.id))
    assert found == [*(f"[0] line {n}" for n in range(300)), "[1] 駅弁"]


def test_logs_follow_until_the_end_and_repeat_nothing(
    training: Training, edge: Edge, client: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "PAUSE_S", 0.0)
    run = training.submit(ek.Job(id=id()))
    name = job_name(run.id, training._scope)
    edge.hold(name, **RUNNING)
    put_lines(client, f"{name}/algo-1-1", "one")
    following = training.logs(run.id, follow=True)
    assert next(following) == "one"
    put_lines(client, f"{name}/algo-1-2", "two")
    assert next(following) == "two"
    edge.hold(name, TrainingJobStatus="Completed", SecondaryStatus="Completed")
    put_lines(client, f"{name}/algo-1-3", "three")
    assert list(following) == ["three"]


def test_logs_after_cloudwatch_has_forgotten_them(
    training: Training, edge: Edge, client: Callable[[str], Any], bucket: str
) -> None:
    run = training.submit(ek.Job(id=id()))
    assert list(training.logs(run.id)) == []
    client("s3").put_object(Bucket=bucket, Key=f"runs/tiny/{run.id}/log.txt", Body=b"a\nb\n")
    assert list(training.logs(run.id)) == ["a", "b"]
    with pytest.raises(ek.NotFound):
        list(training.logs("no-such-run"))


def test_facts_that_are_missing_are_named(bucket: str, library: packing.Bundle) -> None:
    part = training_part(bucket, library)
    del part.facts["role_arn"]
    with pytest.raises(ek.SpecError, match="'tiny'.*'role_arn'"):
        Training(part, platform(part))
    assert REGION
