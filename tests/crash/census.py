"""What an emulated AWS holds, asked of each service by itself: how many there are of each type of Pulumi's; and what a cluster
holds of a project, whatever its labels are."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ekiben.emulators.aws.plugin.kind import found
from ekiben.errors import NotFound
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.inventory import kinds
from ekiben.testing import EmulatedAws

__all__ = ["census", "named"]

# AWS's own.
DEFAULT = "default"


def census(aws: EmulatedAws) -> Counter[str]:
    """Type -> how many, of those that can outlive the stack that made them."""
    return Counter(_all(aws))


def named(text: str) -> Iterator[dict[str, Any]]:
    """Every object of the cluster, in whatever namespace and of whatever kind, in which that text is; `path` is where it is, where
    it is in no namespace."""
    cluster, operation = Cluster("default"), "count what there is"
    for kind in kinds(cluster, operation):
        with suppress(NotFound):  # the kind went meanwhile
            for thing in cluster.pages(f"{kind.root}/{kind.plural}", operation, {}):
                if text in json.dumps(thing):
                    path = f"{kind.root}/{kind.plural}/{thing['metadata']['name']}"
                    yield {**thing, "apiVersion": kind.root.partition("/")[2], "kind": kind.name, "path": path}


def _all(aws: EmulatedAws) -> Iterator[str]:
    yield from ("aws:s3/bucket:Bucket" for _ in aws.s3.list_buckets()["Buckets"])
    yield from ("aws:sqs/queue:Queue" for _ in aws.sqs.list_queues().get("QueueUrls", ()))
    yield from ("aws:sns/topic:Topic" for _ in aws.sns.list_topics()["Topics"])
    yield from ("aws:sns/topicSubscription:TopicSubscription" for _ in aws.sns.list_subscriptions()["Subscriptions"])
    yield from ("aws:ecr/repository:Repository" for _ in aws.ecr.describe_repositories()["repositories"])
    yield from ("aws:codebuild/project:Project" for _ in aws.codebuild.list_projects()["projects"])
    account = aws.sts.get_caller_identity()["Account"]
    yield from ("aws:budgets/budget:Budget" for _ in aws.budgets.describe_budgets(AccountId=account).get("Budgets", ()))
    clusters = aws.ecs.list_clusters()["clusterArns"]
    for cluster in aws.ecs.describe_clusters(clusters=clusters)["clusters"] if clusters else ():
        if cluster["status"] == "ACTIVE":
            yield "aws:ecs/cluster:Cluster"
    for key in aws.kms.list_keys()["Keys"]:
        told = aws.kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
        if told["KeyManager"] == "CUSTOMER" and told["KeyState"] == "Enabled":
            yield "aws:kms/key:Key"
    yield from _roles(aws)
    yield from _functions(aws)
    yield from _watch(aws)
    yield from _schedules(aws)


def _roles(aws: EmulatedAws) -> Iterator[str]:
    yield from ("aws:iam/policy:Policy" for _ in aws.iam.list_policies(Scope="Local")["Policies"])
    for role in _pages(aws.iam, "list_roles", "Roles"):
        yield "aws:iam/role:Role"
        name = role["RoleName"]
        yield from ("aws:iam/rolePolicy:RolePolicy" for _ in aws.iam.list_role_policies(RoleName=name)["PolicyNames"])
        attached = aws.iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        yield from ("aws:iam/rolePolicyAttachment:RolePolicyAttachment" for _ in attached)


def _functions(aws: EmulatedAws) -> Iterator[str]:
    client = aws.client("lambda")
    for function in _pages(client, "list_functions", "Functions"):
        yield "aws:lambda/function:Function"
        name = function["FunctionName"]
        yield from ("aws:lambda/alias:Alias" for _ in client.list_aliases(FunctionName=name)["Aliases"])
        if found(client.get_function_url_config, FunctionName=name):
            yield "aws:lambda/functionUrl:FunctionUrl"
        if found(client.get_function_event_invoke_config, FunctionName=name):
            yield "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig"


def _watch(aws: EmulatedAws) -> Iterator[str]:
    yield from ("aws:cloudwatch/logGroup:LogGroup" for _ in _pages(aws.logs, "describe_log_groups", "logGroups"))
    alarms = _pages(aws.cloudwatch, "describe_alarms", "MetricAlarms")
    yield from ("aws:cloudwatch/metricAlarm:MetricAlarm" for _ in alarms)
    for bus in aws.events.list_event_buses()["EventBuses"]:
        if bus["Name"] != DEFAULT:
            yield "aws:cloudwatch/eventBus:EventBus"
        for rule in aws.events.list_rules(EventBusName=bus["Name"])["Rules"]:
            yield "aws:cloudwatch/eventRule:EventRule"
            targets = aws.events.list_targets_by_rule(Rule=rule["Name"], EventBusName=bus["Name"])["Targets"]
            yield from ("aws:cloudwatch/eventTarget:EventTarget" for _ in targets)


def _schedules(aws: EmulatedAws) -> Iterator[str]:
    for group in aws.scheduler.list_schedule_groups()["ScheduleGroups"]:
        if group["Name"] != DEFAULT:
            yield "aws:scheduler/scheduleGroup:ScheduleGroup"
    yield from ("aws:scheduler/schedule:Schedule" for _ in aws.scheduler.list_schedules()["Schedules"])


def _pages(client: Any, operation: str, key: str) -> Iterator[dict[str, Any]]:
    for page in client.get_paginator(operation).paginate():
        yield from page[key]
