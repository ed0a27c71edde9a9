"""Resources of Pulumi's own AWS plugin whose making was begun, and nobody saw it end: what they would be, if they were made.

The engine knows their names before it asks for them, so their ids are known, too: from the inputs, from the account, or by asking
AWS. Whether they are there, a refresh tells. `tests/aws/test_begun.py` holds the tables to what the components make.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.errors import NotFound

__all__ = ["ASKED", "NAMED", "REPEATED", "identity"]

# Type -> its id, as the plugin has it: https://www.pulumi.com/registry/packages/aws/api-docs/
NAMED = {
    "aws:budgets/budget:Budget": "{account}:{name}",
    "aws:cloudwatch/eventBus:EventBus": "{name}",
    "aws:cloudwatch/eventRule:EventRule": "{eventBusName}/{name}",
    "aws:cloudwatch/eventTarget:EventTarget": "{rule}-{targetId}",
    "aws:cloudwatch/logGroup:LogGroup": "{name}",
    "aws:cloudwatch/metricAlarm:MetricAlarm": "{name}",
    "aws:codebuild/project:Project": "arn:{partition}:codebuild:{region}:{account}:project/{name}",
    "aws:ecr/repository:Repository": "{name}",
    "aws:ecs/cluster:Cluster": "arn:{partition}:ecs:{region}:{account}:cluster/{name}",
    "aws:iam/policy:Policy": "arn:{partition}:iam::{account}:policy/{name}",
    "aws:iam/role:Role": "{name}",
    "aws:iam/rolePolicy:RolePolicy": "{role}:{name}",
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "{role}/{policyArn}",
    "aws:lambda/alias:Alias": "arn:{partition}:lambda:{region}:{account}:function:{functionName}:{name}",
    "aws:lambda/function:Function": "{name}",
    "aws:lambda/functionUrl:FunctionUrl": "{functionName}/{qualifier}",
    "aws:lambda/permission:Permission": "{statementId}",
    "aws:s3/bucket:Bucket": "{bucket}",
    "aws:scheduler/schedule:Schedule": "{groupName}/{name}",
    "aws:scheduler/scheduleGroup:ScheduleGroup": "{name}",
    "aws:sns/topic:Topic": "arn:{partition}:sns:{region}:{account}:{name}",
}
# Those whose ids only AWS knows.
ASKED = frozenset({"aws:kms/key:Key", "aws:sqs/queue:Queue"})
# Whoever makes these again comes to the same, and each goes with what it is a setting or a part of: nobody has to look for them.
REPEATED = frozenset(
    {
        "aws:ecr/repositoryPolicy:RepositoryPolicy",
        "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders",
        "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig",
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
        "aws:s3/bucketNotification:BucketNotification",
        "aws:s3/bucketObjectv2:BucketObjectv2",
        "aws:s3/bucketOwnershipControls:BucketOwnershipControls",
        "aws:s3/bucketPolicy:BucketPolicy",
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        "aws:s3/bucketVersioning:BucketVersioning",
        "aws:sns/topicPolicy:TopicPolicy",
        "aws:sns/topicSubscription:TopicSubscription",
        "aws:sqs/queuePolicy:QueuePolicy",
    }
)


def identity(type: str, inputs: Mapping[str, Any], settings: Mapping[str, Any], known: Collection[str]) -> str | None:
    """The id of a resource that was perhaps made; empty where there is none to look for, None of a type that no component makes.

    settings: of the resource's provider; known: the ids of that type that the state has. Raises KeyError where the inputs do not
    name it, and what AWS says to a question.
    """
    if type in REPEATED:
        return ""
    regions = (inputs.get("region"), settings.get("region"), *map(os.environ.get, ("AWS_REGION", "AWS_DEFAULT_REGION")))
    cloud = Cloud(next((str(region) for region in regions if region), ""))
    if type in ASKED:
        return _key(cloud, inputs, known) if type.endswith(":Key") else _queue(cloud, str(inputs["name"]))
    if type not in NAMED:
        return None
    return NAMED[type].format_map(_Known(cloud, inputs)).removesuffix("/")


class _Known(dict[str, Any]):
    """The inputs, and the account of whoever asks, who is asked for only where an id has it."""

    def __init__(self, cloud: Cloud, inputs: Mapping[str, Any]) -> None:
        super().__init__({"qualifier": "", "eventBusName": "default", "groupName": "default", **inputs})
        self._cloud = cloud

    def __missing__(self, key: str) -> str:
        if key not in ("partition", "region", "account"):
            raise KeyError(key)
        told = self._cloud.call("sts", "get_caller_identity", "ask whose credentials these are")
        _, partition, _, _, account, _ = str(told["Arn"]).split(":", 5)
        self.update(partition=partition, region=self._cloud.region, account=account)
        return str(self[key])


def _queue(cloud: Cloud, name: str) -> str:
    try:
        return str(cloud.call("sqs", "get_queue_url", f"look for the queue {name!r}", QueueName=name)["QueueUrl"])
    except NotFound:
        return ""


def _key(cloud: Cloud, inputs: Mapping[str, Any], known: Collection[str]) -> str:
    """A key has no name: it is the one with these tags that the state does not know, and that nobody has given up."""
    filters = [{"Key": key, "Values": [value]} for key, value in (inputs.get("tags") or {}).items()]
    asked = {"ResourceTypeFilters": ["kms:key"], "TagFilters": filters}
    for one in cloud.pages("resourcegroupstaggingapi", "get_resources", "look for a key", **asked) if filters else ():
        id = str(one["ResourceARN"]).rpartition("/")[2]
        told = cloud.call("kms", "describe_key", f"look at the key {id}", KeyId=id)["KeyMetadata"]
        if id not in known and told["KeyState"] == "Enabled":
            return id
    return ""
