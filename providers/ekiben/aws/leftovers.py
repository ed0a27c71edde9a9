"""What runs and deployments have made, and no program knows of: deleted when the platform goes. Each may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.aws.scaling import stay
from ekiben.aws.training import ENDED, LOG_GROUP
from ekiben.aws.waiting import looks
from ekiben.errors import AlreadyExists, NotFound, ProviderError, Unavailable

__all__ = [
    "ENDPOINT_LOGS",
    "LOG_GROUP",
    "RETENTION_DAYS",
    "delete_jobs",
    "delete_packages",
    "delete_services",
    "delete_variants",
    "keep_group",
    "kept_group",
]

RETENTION_DAYS = 30
STOP_TIMEOUT_S = 900.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
OURS = "ekiben:platform"
ENDPOINT_LOGS = "/aws/sagemaker/Endpoints/"


def kept_group(cloud: Cloud) -> bool:
    """Is the log group of SageMaker's training jobs there?"""
    found = cloud.call(
        "logs", "describe_log_groups", "look for the log group of training jobs", logGroupNamePrefix=LOG_GROUP
    )
    return any(group["logGroupName"] == LOG_GROUP for group in found["logGroups"])


def keep_group(cloud: Cloud, tags: dict[str, str]) -> None:
    """The log group of SageMaker's training jobs, which is one for the whole account: one that is there stays as it is."""
    operation = "make the log group of training jobs"
    with suppress(AlreadyExists):
        cloud.call("logs", "create_log_group", operation, logGroupName=LOG_GROUP, tags=tags)
        cloud.call("logs", "put_retention_policy", operation, logGroupName=LOG_GROUP, retentionInDays=RETENTION_DAYS)


def delete_jobs(cloud: Cloud, scope: str) -> None:
    """Stop the jobs of this scope (see `jobs.job_name`), wait until they have ended, and delete what they logged.

    The group goes with the last stream, if Ekiben has made it. Raises Unavailable when a job does not end.
    """
    operation = f"delete what the training jobs {scope} have left"
    jobs = list(_jobs(cloud, scope, operation))
    for name, status in jobs:
        if status == "InProgress":
            # It may have ended meanwhile, which SageMaker tells with a code that means many things; waiting tells, too.
            with suppress(ProviderError):
                cloud.call("sagemaker", "stop_training_job", operation, TrainingJobName=name)
    _wait(
        lambda: all(status in ENDED for _, status in _jobs(cloud, scope, operation)), operation, "a job has not ended"
    )
    with suppress(NotFound):
        for name, _ in jobs:
            streams = cloud.pages(
                "logs", "describe_log_streams", operation, logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/"
            )
            for stream in list(streams):
                with suppress(NotFound):
                    cloud.call(
                        "logs",
                        "delete_log_stream",
                        operation,
                        logGroupName=LOG_GROUP,
                        logStreamName=stream["logStreamName"],
                    )
        _delete_empty_group(cloud, operation)


def delete_variants(cloud: Cloud, endpoint: str) -> None:
    """Delete the endpoint of this name and those named after it, with their configurations, models, scaling and logs.

    Raises Unavailable when one does not go.
    """
    operation = f"delete the endpoint {endpoint}"

    def endpoints() -> list[str]:
        found = cloud.pages("sagemaker", "list_endpoints", operation, NameContains=endpoint)
        return _ours(cloud, found, "Endpoint", endpoint, operation)

    for name in endpoints():
        with suppress(NotFound):
            there = cloud.call("sagemaker", "describe_endpoint", operation, EndpointName=name)
            for variant in there.get("ProductionVariants", []):
                stay(cloud, operation, f"endpoint/{name}/variant/{variant['VariantName']}")

    def gone() -> bool:
        left = endpoints()
        for name in left:
            # One that is being made or changed cannot be deleted until that has ended.
            with suppress(ProviderError):
                cloud.call("sagemaker", "delete_endpoint", operation, EndpointName=name)
        return not left

    _wait(gone, operation, "it is not gone")
    configurations = cloud.pages("sagemaker", "list_endpoint_configs", operation, NameContains=endpoint)
    for name in _ours(cloud, configurations, "EndpointConfig", endpoint, operation):
        with suppress(NotFound):
            cloud.call("sagemaker", "delete_endpoint_config", operation, EndpointConfigName=name)
    models = cloud.pages("sagemaker", "list_models", operation, NameContains=endpoint)
    for name in _ours(cloud, models, "Model", endpoint, operation):
        with suppress(NotFound):
            cloud.call("sagemaker", "delete_model", operation, ModelName=name)
    # The endpoint's own group is the program's, these are SageMaker's.
    for group in list(
        cloud.pages("logs", "describe_log_groups", operation, logGroupNamePrefix=f"{ENDPOINT_LOGS}{endpoint}-")
    ):
        with suppress(NotFound):
            cloud.call("logs", "delete_log_group", operation, logGroupName=group["logGroupName"])


def delete_packages(cloud: Cloud, groups: str) -> None:
    """Delete the model packages of the groups whose names begin so and a dash, then the groups."""
    operation = f"delete the model packages of {groups}"
    for one in list(cloud.pages("sagemaker", "list_model_package_groups", operation, NameContains=f"{groups}-")):
        group = one["ModelPackageGroupName"]
        if not group.startswith(f"{groups}-"):
            continue
        for package in list(cloud.pages("sagemaker", "list_model_packages", operation, ModelPackageGroupName=group)):
            with suppress(NotFound):
                arn = package["ModelPackageArn"]
                cloud.call("sagemaker", "delete_model_package", operation, ModelPackageName=arn)
        with suppress(NotFound):
            cloud.call("sagemaker", "delete_model_package_group", operation, ModelPackageGroupName=group)


def delete_services(cloud: Cloud, cluster_arn: str, family: str) -> None:
    """Delete the services of a cluster, with all that ECS made for them, and the task definitions of this family.

    Raises Unavailable when a service does not go.
    """
    operation = f"delete the services {family}"

    def gone() -> bool:
        try:
            left = list(cloud.pages("ecs", "list_services", operation, cluster=cluster_arn))
        except NotFound:
            return True
        for arn in left:
            # One that is being deleted cannot be again.
            with suppress(ProviderError):
                cloud.call("ecs", "delete_express_gateway_service", operation, serviceArn=arn)
        return not left

    _wait(gone, operation, "one is not gone")
    for status in ("ACTIVE", "INACTIVE"):
        for arn in list(
            cloud.pages("ecs", "list_task_definitions", operation, familyPrefix=family, status=status, sort="ASC")
        ):
            if arn.rpartition("/")[2].partition(":")[0] == family:
                with suppress(NotFound):
                    if status == "ACTIVE":
                        cloud.call("ecs", "deregister_task_definition", operation, taskDefinition=arn)
                    cloud.call("ecs", "delete_task_definitions", operation, taskDefinitions=[arn])


def _ours(cloud: Cloud, found: Iterable[Any], kind: str, endpoint: str, operation: str) -> list[str]:
    """Of what is named after the endpoint what Ekiben has made: another one's name may begin the same."""
    names = []
    for one in found:
        if f"{one[f'{kind}Name']}-".startswith(f"{endpoint}-"):
            tags = cloud.call("sagemaker", "list_tags", operation, ResourceArn=one[f"{kind}Arn"])["Tags"]
            if any(tag["Key"] == OURS for tag in tags):
                names.append(one[f"{kind}Name"])
    return names


def _jobs(cloud: Cloud, scope: str, operation: str) -> Iterator[tuple[str, str]]:
    for one in cloud.pages("sagemaker", "list_training_jobs", operation, NameContains=f"-{scope}"):
        if one["TrainingJobName"].endswith(f"-{scope}"):
            yield one["TrainingJobName"], one["TrainingJobStatus"]


def _delete_empty_group(cloud: Cloud, operation: str) -> None:
    if cloud.call("logs", "describe_log_streams", operation, logGroupName=LOG_GROUP, limit=1)["logStreams"]:
        return
    if OURS in cloud.call("logs", "list_tags_log_group", operation, logGroupName=LOG_GROUP)["tags"]:
        cloud.call("logs", "delete_log_group", operation, logGroupName=LOG_GROUP)


def _wait(done: Callable[[], bool], operation: str, why: str) -> None:
    for _ in looks(STOP_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
        if done():
            return
    raise Unavailable("aws", operation, f"{why} after {STOP_TIMEOUT_S:g} s", "It goes on ending; repeat it later")
