"""What runs and deployments have made goes, and nothing of others; each deletion can be repeated."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws import declared, leftovers
from ekiben.aws.client import Cloud
from tests.fakes.aws import Edge

from .conftest import REGION, ROLE

JOBS, VARIANTS = declared.KINDS["Jobs"], declared.KINDS["Variants"]
GROUP = leftovers.LOG_GROUP
OURS = {"ekiben:platform": "demo", "ekiben:stack": "test", "ekiben:component": "tiny"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def logs(client: Callable[[str], Any]) -> Iterator[Any]:
    """CloudWatch Logs, without the account's one group of training jobs."""
    found = client("logs")
    _without(found)  # other tests of the account may have left it
    yield found
    _without(found)


def _without(logs: Any) -> None:
    for group in logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
        logs.delete_log_group(logGroupName=group["logGroupName"])


def tag_list(tags: dict[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def job(client: Callable[[str], Any], scope: str) -> str:
    name = f"run-{uuid.uuid4().hex[:6]}-{scope}"
    client("sagemaker").create_training_job(
        TrainingJobName=name, RoleArn=ROLE, AlgorithmSpecification={"TrainingImage": "i", "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": "s3://b/o"}, StoppingCondition={"MaxRuntimeInSeconds": 60},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
    )  # fmt: skip
    return name


def streams(logs: Any) -> set[str]:
    if not logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]:
        return set()
    return {one["logStreamName"] for one in logs.describe_log_streams(logGroupName=GROUP)["logStreams"]}


def test_the_log_group_of_jobs_is_kept_for_a_while_and_one_that_is_there_stays_as_it_is(logs: Any) -> None:
    inputs = {"region": REGION, "scope": "aaaa1111", "tags": OURS}
    state = declared.put(JOBS, "urn", inputs)
    assert state == {**inputs, "log_group": GROUP}
    (group,) = logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]
    assert group["retentionInDays"] == 30
    logs.put_retention_policy(logGroupName=GROUP, retentionInDays=365)
    assert declared.put(JOBS, "urn", inputs) == state
    (group,) = logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]
    assert group["retentionInDays"] == 365
    assert declared.lost(JOBS, state) == ""
    logs.delete_log_group(logGroupName=GROUP)
    assert declared.lost(JOBS, state) == "log_group"


def test_jobs_are_stopped_and_what_they_logged_goes_but_not_that_of_others(
    client: Callable[[str], Any], edge: Edge, logs: Any
) -> None:
    scope = uuid.uuid4().hex[:8]
    state = declared.put(JOBS, "urn", {"region": REGION, "scope": scope, "tags": OURS})
    running, other = job(client, scope), job(client, "0th3rs00")
    for name in (running, other):
        edge.hold(name, TrainingJobStatus="InProgress", SecondaryStatus="Training")
        logs.create_log_stream(logGroupName=GROUP, logStreamName=f"{name}/algo-1-1")
    summary = {
        "TrainingJobName": running,
        "TrainingJobArn": "arn:aws:sagemaker:eu-west-1:1:training-job/x",
        "CreationTime": 1,
    }
    for status in ("InProgress", "Stopping", "Stopped"):
        edge.say("ListTrainingJobs", 200, {"TrainingJobSummaries": [{**summary, "TrainingJobStatus": status}]})
    declared.delete(JOBS, "urn", state)
    assert edge.count("StopTrainingJob") == 1
    assert streams(logs) == {f"{other}/algo-1-1"}
    logs.delete_log_stream(logGroupName=GROUP, logStreamName=f"{other}/algo-1-1")
    declared.delete(JOBS, "urn", state)
    assert not logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"], "the last one takes the group with it"
    declared.delete(JOBS, "urn", state)


def test_a_log_group_that_somebody_else_has_made_is_left(logs: Any) -> None:
    logs.create_log_group(logGroupName=GROUP)
    # moto gives a group the tags of one of its name that was deleted.
    logs.untag_log_group(logGroupName=GROUP, tags=list(OURS))
    state = declared.put(JOBS, "urn", {"region": REGION, "scope": "aaaa1111", "tags": OURS})
    declared.delete(JOBS, "urn", state)
    assert logs.describe_log_groups(logGroupNamePrefix=GROUP)["logGroups"]


def test_a_job_that_does_not_end_is_told(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "STOP_TIMEOUT_S", 0.0)
    summary = {
        "TrainingJobName": "a-bbbb2222",
        "TrainingJobArn": "arn",
        "CreationTime": 1,
        "TrainingJobStatus": "Stopping",
    }
    for _ in range(3):
        edge.say("ListTrainingJobs", 200, {"TrainingJobSummaries": [summary]})
    with pytest.raises(ek.Unavailable, match="a job has not ended after 0 s"):
        declared.delete(JOBS, "urn", {"region": REGION, "scope": "bbbb2222", "tags": OURS, "log_group": GROUP})


def hosted(client: Callable[[str], Any], name: str, tags: dict[str, str]) -> None:
    sagemaker, marks = client("sagemaker"), tag_list(tags)
    container = {"Image": "1.dkr.ecr.eu-west-1.amazonaws.com/x:1"}
    sagemaker.create_model(ModelName=f"{name}-v1", ExecutionRoleArn=ROLE, PrimaryContainer=container, Tags=marks)
    variant = {
        "VariantName": "v1",
        "ModelName": f"{name}-v1",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=f"{name}-c", ProductionVariants=[variant], Tags=marks)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-c", Tags=marks)


def there(client: Callable[[str], Any], prefix: str) -> set[str]:
    sagemaker = client("sagemaker")
    found = {one["EndpointName"] for one in sagemaker.list_endpoints()["Endpoints"]}
    found |= {one["EndpointConfigName"] for one in sagemaker.list_endpoint_configs()["EndpointConfigs"]}
    found |= {one["ModelName"] for one in sagemaker.list_models()["Models"]}
    return {name for name in found if name.startswith(prefix)}


def test_an_endpoint_goes_with_all_that_deployments_made_for_it(client: Callable[[str], Any]) -> None:
    name = f"api-{uuid.uuid4().hex[:8]}"
    for one, tags in ((name, OURS), (f"{name}-v2", OURS), (f"{name}x", OURS), (f"{name}-other", {"team": "x"})):
        hosted(client, one, tags)
    scaling = client("application-autoscaling")
    target = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
    scaling.register_scalable_target(
        **target, ResourceId=f"endpoint/{name}/variant/v1", MinCapacity=1, MaxCapacity=2, RoleARN=ROLE
    )
    logs = client("logs")
    for group in (name, f"{name}-v2"):
        logs.create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{group}")
    inputs = {"region": REGION, "endpoint": name}
    state = declared.put(VARIANTS, "urn", inputs)
    assert declared.read(VARIANTS, state) == (inputs, state)
    for _ in "12":
        declared.delete(VARIANTS, "urn", state)
        left = {f"{name}x", f"{name}x-c", f"{name}x-v1", f"{name}-other", f"{name}-other-c", f"{name}-other-v1"}
        assert there(client, name) == left
        assert not scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        groups = logs.describe_log_groups(logGroupNamePrefix=f"/aws/sagemaker/Endpoints/{name}")["logGroups"]
        assert [one["logGroupName"] for one in groups] == [f"/aws/sagemaker/Endpoints/{name}"]


def test_an_endpoint_that_cannot_be_deleted_yet_is_tried_again(client: Callable[[str], Any], edge: Edge) -> None:
    name = f"api-{uuid.uuid4().hex[:8]}"
    hosted(client, name, OURS)
    edge.fail("DeleteEndpoint", "ValidationException", "Cannot update in-progress endpoint")
    leftovers.delete_variants(Cloud(REGION), name)
    assert there(client, name) == set()
