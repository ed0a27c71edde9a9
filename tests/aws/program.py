"""Programs of AWS components under a recording monitor, which answers as AWS would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi

from tests.recording import Made, Recording, ran

__all__ = ["ACCOUNT", "REGION", "Made", "Recorded", "run", "statements"]

ACCOUNT, REGION = "123456789012", "eu-west-1"
# Of each type the input that is its physical name, and where its ARN says so.
NAMED = {
    "aws:s3/bucket:Bucket": ("bucket", "arn:aws:s3:::{name}"),
    "aws:iam/role:Role": ("name", "arn:aws:iam::{account}:role/{name}"),
    "aws:iam/policy:Policy": ("name", "arn:aws:iam::{account}:policy/{name}"),
    "aws:lambda/function:Function": ("name", "arn:aws:lambda:{region}:{account}:function:{name}"),
    "aws:cloudwatch/eventBus:EventBus": ("name", "arn:aws:events:{region}:{account}:event-bus/{name}"),
    "aws:cloudwatch/eventRule:EventRule": ("name", "arn:aws:events:{region}:{account}:rule/{name}"),
    "aws:cloudwatch/logGroup:LogGroup": ("name", "arn:aws:logs:{region}:{account}:log-group:{name}"),
    "aws:sqs/queue:Queue": ("name", "arn:aws:sqs:{region}:{account}:{name}"),
    "aws:scheduler/scheduleGroup:ScheduleGroup": ("name", "arn:aws:scheduler:{region}:{account}:schedule-group/{name}"),
    "aws:sns/topic:Topic": ("name", "arn:aws:sns:{region}:{account}:{name}"),
    "aws:ecs/cluster:Cluster": ("name", "arn:aws:ecs:{region}:{account}:cluster/{name}"),
    "aws:kms/key:Key": ("keyId", "arn:aws:kms:{region}:{account}:key/{name}"),
    "aws:ecr/repository:Repository": ("name", "arn:aws:ecr:{region}:{account}:repository/{name}"),
    "aws:codebuild/project:Project": ("name", "arn:aws:codebuild:{region}:{account}:project/{name}"),
}
TAIL = "-0123abc"


class Recorded(Recording):
    """AWS answers with names and ARNs."""

    def outputs(self, args: pulumi.runtime.MockResourceArgs) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        if args.typ in NAMED:
            key, arn = NAMED[args.typ]
            name = outputs[key] = args.inputs.get(key, args.name + TAIL)
            outputs["arn"] = arn.format(name=name, account=ACCOUNT, region=REGION)
        if args.typ == "aws:sqs/queue:Queue":
            outputs["url"] = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{outputs['name']}"
        if args.typ == "aws:ecr/repository:Repository":
            outputs["repositoryUrl"] = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{outputs['name']}"
        if args.typ == "ekiben:aws:Image":
            outputs["image_uri"] = f"{args.inputs['repository_url']}@sha256:{args.inputs['tag']}"
        if args.typ == "aws:lambda/functionUrl:FunctionUrl":
            outputs["functionUrl"] = f"https://{args.name}.lambda-url.{REGION}.on.aws/"
        return outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[Any, Any]:
        return {
            "aws:index/getCallerIdentity:getCallerIdentity": {
                "accountId": ACCOUNT,
                "arn": "a",
                "userId": "u",
                "id": "i",
            },
            "aws:index/getRegion:getRegion": {
                "region": REGION,
                "name": REGION,
                "id": REGION,
                "endpoint": "e",
                "description": "",
            },
            "aws:index/getPartition:getPartition": {"partition": "aws", "dnsSuffix": "amazonaws.com", "id": "aws"},
        }[args.token]


def run(program: Callable[[], Any], root: Path, *, preview: bool = False) -> Recorded:
    """Run a program of the project `small`, stack `dev`, at `root`."""
    recorded = Recorded()
    ran(recorded, program, root, preview=preview)
    return recorded


def statements(made: Made, key: str = "policy") -> Iterator[Mapping[str, Any]]:
    """The statements of a policy that a resource carries."""
    yield from json.loads(made.inputs[key])["Statement"]
