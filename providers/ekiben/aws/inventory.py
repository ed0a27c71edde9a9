"""What there is of a stack on AWS: by its tags, and by the names of what its runs and deployments make, which nobody tags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.aws.jobs import scope_of
from ekiben.aws.training import ENDED
from ekiben.errors import NotFound, SpecError
from ekiben.records import Platform

__all__ = ["found"]

# Roles are looked at one by one, since the tagging API leaves them out; those of AWS itself are nobody's.
THEIRS = "/aws-service-role/"


def found(
    project: str, stack: str, config: Mapping[str, Any], platform: Platform | None = None
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(name, ARN, tags) of each thing that is there. Training jobs that have ended are none, for AWS keeps their records for ever;
    nor are keys whose deletion is scheduled, and what ECS still has of clusters, services and task definitions that were deleted.

    config: the stack's; platform: of the stack, while that is known: without it only what is tagged is found. Raises SpecError
    where no region is named, and what AWS says.
    """
    region = config.get("aws:region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise SpecError(f"The stack {stack!r} names no region. Set aws:region in its config, or AWS_REGION.")
    cloud, seen = Cloud(str(region)), set()
    for name, arn, tags in (*_tagged(cloud, project, stack), *_roles(cloud, project, stack), *_made(cloud, platform)):
        if arn not in seen:
            seen.add(arn)
            yield name, arn, tags


def _tagged(cloud: Cloud, project: str, stack: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    wanted = {"ekiben:platform": project, "ekiben:stack": stack}
    filters = [{"Key": key, "Values": [value]} for key, value in wanted.items()]
    for one in cloud.pages("resourcegroupstaggingapi", "get_resources", "look for what is tagged", TagFilters=filters):
        arn = one["ResourceARN"]
        if not any(part in arn and gone(cloud, arn) for part, gone in RECORDS.items()):
            yield _name(arn), arn, {tag["Key"]: tag["Value"] for tag in one["Tags"]}


def _roles(cloud: Cloud, project: str, stack: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    operation = "look for roles"
    for role in cloud.pages("iam", "list_roles", operation):
        if role["Path"].startswith(THEIRS):
            continue
        with suppress(NotFound):
            told = cloud.call("iam", "list_role_tags", operation, RoleName=role["RoleName"])["Tags"]
            tags = {tag["Key"]: tag["Value"] for tag in told}
            if (tags.get("ekiben:platform"), tags.get("ekiben:stack")) == (project, stack):
                yield role["RoleName"], role["Arn"], tags


def _made(cloud: Cloud, platform: Platform | None) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Log groups, model packages, endpoints with their configurations and models, network interfaces."""
    if platform is None:
        return
    for part in platform.parts.values():
        if part.provider != "aws":
            continue
        facts: Mapping[str, Any] = part.facts
        tags = {"ekiben:component": part.name}
        groups = [facts.get("log_group", "")]
        groups += [f"/aws/lambda/{facts['function']}"] if facts.get("function") else []
        groups += [f"/aws/sagemaker/Endpoints/{name}" for name in _endpoints(facts)]
        for group in dict.fromkeys(groups):
            for one in _groups(cloud, group) if group else ():
                yield one["logGroupName"], one["arn"].removesuffix(":*"), tags
        for prefix in [*_endpoints(facts), *([facts["model_groups"]] if facts.get("model_groups") else [])]:
            for name, arn in _hosted(cloud, prefix):
                yield name, arn, tags
        marks = [*_endpoints(facts), *([facts["function"]] if facts.get("function") else [])]
        if part.kind == "training":
            marks.append(scope_of(platform.project, platform.stack, part.name, facts["storage_uri"]))
        for interface in _interfaces(cloud, facts.get("security_group_ids") or [], marks):
            yield interface, f"ec2:network-interface/{interface}", tags


def _endpoints(facts: Mapping[str, Any]) -> list[str]:
    return [str(facts[key]) for key in ("endpoint", "serverless") if facts.get(key)]


def _groups(cloud: Cloud, name: str) -> Iterator[dict[str, Any]]:
    for one in cloud.pages("logs", "describe_log_groups", "look for log groups", logGroupNamePrefix=name):
        if one["logGroupName"] == name:
            yield one


def _hosted(cloud: Cloud, prefix: str) -> Iterator[tuple[str, str]]:
    """What SageMaker has whose name is `prefix`, or begins with it and a dash."""
    operation, like = f"look for what begins with {prefix}", {"NameContains": prefix}
    for kind, found in {
        "Endpoint": cloud.pages("sagemaker", "list_endpoints", operation, **like),
        "EndpointConfig": cloud.pages("sagemaker", "list_endpoint_configs", operation, **like),
        "Model": cloud.pages("sagemaker", "list_models", operation, **like),
        "ModelPackageGroup": cloud.pages("sagemaker", "list_model_package_groups", operation, **like),
    }.items():
        for one in found:
            name = str(one[f"{kind}Name"])
            if name == prefix or name.startswith(f"{prefix}-"):
                yield name, str(one[f"{kind}Arn"])


def _interfaces(cloud: Cloud, groups: list[str], marks: list[str]) -> Iterator[str]:
    """Those in these security groups, which others may use too, whose description names what they were made for."""
    if groups:
        filters = [{"Name": "group-id", "Values": groups}]
        for one in cloud.pages("ec2", "describe_network_interfaces", "look for network interfaces", Filters=filters):
            if any(mark in one.get("Description", "") for mark in marks):
                yield str(one["NetworkInterfaceId"])


def _ended(cloud: Cloud, arn: str) -> bool:
    with suppress(NotFound):
        told = cloud.call(
            "sagemaker", "describe_training_job", "look at a training job", TrainingJobName=arn.rpartition("/")[2]
        )
        return told["TrainingJobStatus"] in ENDED
    return True


def _going(cloud: Cloud, arn: str) -> bool:
    """Does a key wait for its deletion? KMS deletes none at once; nobody can use it meanwhile, and nobody pays for it."""
    with suppress(NotFound):
        told = cloud.call("kms", "describe_key", "look at a key", KeyId=arn)
        return bool(told["KeyMetadata"]["KeyState"] == "PendingDeletion")
    return True


def _inactive(cloud: Cloud, arn: str) -> bool:
    """Has ECS only the record of it, which it keeps for some time?"""
    kind, operation = arn.split(":", 5)[5].partition("/")[0], "look at what ECS has"
    with suppress(NotFound):
        if kind == "cluster":
            told = cloud.call("ecs", "describe_clusters", operation, clusters=[arn])["clusters"]
            return not any(one["status"] == "ACTIVE" for one in told)
        if kind == "service":
            service = cloud.call("ecs", "describe_express_gateway_service", operation, serviceArn=arn)["service"]
            return bool(service["status"]["statusCode"] == "INACTIVE")
        if kind == "task-definition":
            made = cloud.call("ecs", "describe_task_definition", operation, taskDefinition=arn)["taskDefinition"]
            return bool(made["status"] != "ACTIVE")
        return False
    return True


# Part of an ARN -> is what AWS shows of it the record of what is gone?
RECORDS: Mapping[str, Callable[[Cloud, str], bool]] = {
    ":training-job/": _ended, ":kms:": _going, ":ecs:": _inactive,
}  # fmt: skip


def _name(arn: str) -> str:
    rest = arn.split(":", 5)[-1]
    return rest.removeprefix("log-group:") if rest.startswith("log-group:") else rest.rpartition("/")[2]
