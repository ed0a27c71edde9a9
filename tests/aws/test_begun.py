"""What is known of resources whose making was begun: of every type that the components make, and what each would be called."""

from __future__ import annotations

import ast
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws
import pytest

import ekiben as ek
from ekiben.aws import begun
from ekiben.aws.components import policies
from tests.crash.clouds import Aws

from .conftest import REGION
from .program import Recorded, run

CRASH = Path(__file__).parents[1] / "crash" / "project"
# What only a role has that is larger than any in this program.
LARGE = {"aws:iam/policy:Policy"}
COMPONENTS = Path(ek.__file__).parent / "aws" / "components"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """The program whose `up` the crash test kills."""
    root = shutil.copytree(CRASH, tmp_path_factory.mktemp("crash"), dirs_exist_ok=True)
    (root / "change.txt").write_text("0")

    def program() -> list[Any]:
        pulumi.runtime.set_all_config({"ekiben:provider": "aws"})
        found = runpy.run_path(str(root / "cloud" / "__main__.py"))
        return [one for one in found.values() if isinstance(one, ek.components.Component)]

    return run(program, root)


def of_aws(made: Recorded) -> set[str]:
    return {one.type for one in made.made if one.type.startswith("aws:")}


def test_the_program_that_is_killed_has_every_type_that_a_component_makes(made: Recorded) -> None:
    called = set()
    for path in COMPONENTS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr=name, value=ast.Attribute(attr=module, value=ast.Name(id="aws")))
                ):
                    called.add(getattr(getattr(pulumi_aws, module), name).pulumi_type)
    assert len(called) > 30
    assert called == of_aws(made) | LARGE


def test_every_type_is_known_once(made: Recorded) -> None:
    tables = (begun.NAMED.keys(), begun.ASKED, begun.REPEATED)
    assert of_aws(made) | LARGE == set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_the_kills_are_aimed_at_as_many_resources_as_there_are(made: Recorded) -> None:
    assert len(made.made) + len({"the stack", "the provider aws", "the provider ekiben"}) == Aws.resources


def identity(type: str, inputs: dict[str, Any], known: tuple[str, ...] = ()) -> str | None:
    return begun.identity(type, inputs, {"region": REGION}, known)


def test_ids_are_those_that_the_plugin_gives(aws: str, client: Callable[[str], Any]) -> None:
    account = client("sts").get_caller_identity()["Account"]
    named = {"name": "one"}
    assert identity("aws:iam/role:Role", named) == "one"
    assert identity("aws:sns/topic:Topic", named) == client("sns").create_topic(Name="one")["TopicArn"]
    assert (
        identity("aws:ecs/cluster:Cluster", named)
        == client("ecs").create_cluster(clusterName="one")["cluster"]["clusterArn"]
    )
    document = policies.document([policies.allow(["s3:GetObject"], ["arn:aws:s3:::lake/*"])])
    policy = client("iam").create_policy(PolicyName="one", PolicyDocument=document)
    assert identity("aws:iam/policy:Policy", named) == policy["Policy"]["Arn"]
    assert identity("aws:budgets/budget:Budget", named) == f"{account}:one"
    assert identity("aws:lambda/functionUrl:FunctionUrl", {"functionName": "f"}) == "f"
    assert identity("aws:lambda/functionUrl:FunctionUrl", {"functionName": "f", "qualifier": "live"}) == "f/live"
    assert identity("aws:scheduler/schedule:Schedule", named) == "default/one"
    alias = f"arn:aws:lambda:{REGION}:{account}:function:f:one"
    assert identity("aws:lambda/alias:Alias", {**named, "functionName": "f"}) == alias


def test_what_is_made_again_is_not_looked_for_and_what_nobody_makes_is_left(aws: str) -> None:
    assert identity("aws:s3/bucketPolicy:BucketPolicy", {"bucket": "lake"}) == ""
    assert identity("aws:rds/instance:Instance", {"name": "one"}) is None
    with pytest.raises(KeyError):
        identity("aws:iam/role:Role", {})


def test_a_queue_is_asked_for_by_its_name(aws: str, client: Callable[[str], Any]) -> None:
    assert identity("aws:sqs/queue:Queue", {"name": "dead-1"}) == ""
    url = client("sqs").create_queue(QueueName="dead-1")["QueueUrl"]
    assert identity("aws:sqs/queue:Queue", {"name": "dead-1"}) == url


def test_a_key_is_asked_for_by_its_tags(aws: str, client: Callable[[str], Any]) -> None:
    kms, tags = client("kms"), {"ekiben:platform": "shop", "ekiben:stack": "begun", "ekiben:component": "watch"}
    listed = [{"TagKey": key, "TagValue": value} for key, value in tags.items()]
    key = "aws:kms/key:Key"
    assert identity(key, {"tags": tags}) == identity(key, {}) == ""
    old, gone, fresh = (kms.create_key(Tags=listed)["KeyMetadata"]["KeyId"] for _ in range(3))
    kms.create_key(Tags=[{"TagKey": "ekiben:platform", "TagValue": "another"}])
    kms.schedule_key_deletion(KeyId=gone, PendingWindowInDays=7)
    assert identity(key, {"tags": tags}, (old,)) == fresh
    assert identity(key, {"tags": tags}, (old, fresh)) == ""
