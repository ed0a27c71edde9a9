"""Programs of AWS components under a recording monitor, which answers as AWS would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import settings
from pulumi.runtime.mocks import MockMonitor

__all__ = ["ACCOUNT", "REGION", "Made", "Recorded", "run", "statements"]

ACCOUNT, REGION = "123456789012", "eu-west-1"
# Of each type the input that is its physical name, and where its ARN says so.
NAMED = {
    "aws:s3/bucket:Bucket": ("bucket", "arn:aws:s3:::{name}"),
    "aws:iam/role:Role": ("name", "arn:aws:iam::{account}:role/{name}"),
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


class Made:
    """One resource as the program asked for it."""

    def __init__(self, type_: str, name: str, inputs: dict[str, Any]) -> None:
        self.type, self.name, self.inputs = type_, name, inputs
        self.parent = ""
        self.retained = False

    def __repr__(self) -> str:
        return f"{self.type} {self.name}"


class Monitor(MockMonitor):
    """Keeps what a resource's options say, too, which mocks are not told."""

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(recorded)
        self.recorded = recorded

    def RegisterResource(self, request: Any) -> Any:
        answer = super().RegisterResource(request)
        for made in self.recorded.made:
            if (made.type, made.name) == (request.type, request.name):
                made.parent, made.retained = request.parent, request.retainOnDelete
        return answer


class Recorded(pulumi.runtime.Mocks):
    """Every resource that was made, and what the stack exports."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.parts: dict[str, Any] = {}
        self.errors: list[str] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.made.append(Made(args.typ, args.name, dict(args.inputs)))
        outputs = dict(args.inputs)
        if args.typ in NAMED:
            key, arn = NAMED[args.typ]
            outputs.setdefault(key, args.name + TAIL)
            outputs["arn"] = arn.format(name=outputs[key], account=ACCOUNT, region=REGION)
        if args.typ == "aws:sqs/queue:Queue":
            outputs["url"] = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{outputs['name']}"
        if args.typ == "aws:ecr/repository:Repository":
            outputs["repositoryUrl"] = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{outputs['name']}"
        if args.typ == "ekiben:aws:Image":
            outputs["image_uri"] = f"{args.inputs['repository_url']}@sha256:{args.inputs['tag']}"
        if args.typ == "aws:lambda/functionUrl:FunctionUrl":
            outputs["functionUrl"] = f"https://{args.name}.lambda-url.{REGION}.on.aws/"
        return f"{args.name}-id", outputs

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

    def all(self, type_: str) -> list[Made]:
        """Those of a type, named by its end: "Role", "s3/bucket:Bucket"."""
        return [one for one in self.made if one.type.endswith((f":{type_}", f"/{type_}")) or one.type == type_]

    def one(self, type_: str, name: str = "") -> Made:
        (found,) = [one for one in self.all(type_) if not name or one.name == name]
        return found


def run(program: Callable[[], Any], root: Path, *, preview: bool = False) -> Recorded:
    """Run a program of the project `small`, stack `dev`, at `root`; the parts of the components that it returns are `parts`."""
    recorded = Recorded()
    pulumi.runtime.set_mocks(recorded, project="small", stack="dev", preview=preview, monitor=Monitor(recorded))
    settings.SETTINGS.root_directory = str(root)  # type: ignore[attr-defined]

    def wrapped() -> None:
        for component in program():
            component.part.apply(lambda part: recorded.parts.__setitem__(part.name, part))

    pulumi.runtime.test(wrapped)()
    return recorded


def statements(made: Made, key: str = "policy") -> Iterator[Mapping[str, Any]]:
    """The statements of a policy that a resource carries."""
    yield from json.loads(made.inputs[key])["Statement"]
