"""The life of each of these resource types, by the plugin's own calls: made, the same, changed, changed behind its back, gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pulumi.runtime.proto import provider_pb2 as proto

from ekiben.emulators.aws.plugin.__main__ import Plugin
from ekiben.emulators.plugins.wire import plain, struct

from .conftest import Aws
from .images import role
from .test_functions import ROLE

pytestmark = pytest.mark.filterwarnings("ignore:.* has been deprecated in favor of:DeprecationWarning")

SIGNATURE = "4dabf18193072939515e22adb298388d"


def archive(text: str) -> dict[str, Any]:
    asset = {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "text": text, "hash": text}
    return {SIGNATURE: "0def7320c3a5731c473e5ecbe6d01bc7", "assets": {"main.py": asset}, "hash": text}


class Context:
    """In the place of gRPC's: an aborted call raises."""

    def abort(self, code: object, message: str) -> None:
        raise AssertionError(message)


class Resource:
    """A resource as the engine has it: what was asked, and what came back."""

    def __init__(self, plugin: Plugin, token: str, **inputs: Any) -> None:
        self.plugin, self.urn = plugin, f"urn:pulumi:dev::small::{token}::one"
        self.inputs = self.check(inputs, {})
        made = plugin.Create(proto.CreateRequest(urn=self.urn, properties=struct(self.inputs)), Context())
        self.id, self.state = made.id, plain(made.properties)

    def check(self, inputs: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
        asked = proto.CheckRequest(urn=self.urn, olds=struct(old), news=struct(inputs), randomSeed=b"seed")
        told = self.plugin.Check(asked, Context())
        assert not told.failures, told.failures
        return plain(told.inputs)

    def diff(self, **changes: Any) -> tuple[list[str], list[str]]:
        """Which inputs differ, and which of them force another resource."""
        new = self.check({**self.inputs, **changes}, self.inputs)
        told = self.plugin.Diff(
            proto.DiffRequest(
                id=self.id, urn=self.urn, olds=struct(self.state), news=struct(new), old_inputs=struct(self.inputs)
            ),
            Context(),
        )
        return list(told.diffs), list(told.replaces)

    def update(self, **changes: Any) -> None:
        new = self.check({**self.inputs, **changes}, self.inputs)
        asked = proto.UpdateRequest(id=self.id, urn=self.urn, olds=struct(self.state), news=struct(new))
        self.state, self.inputs = plain(self.plugin.Update(asked, Context()).properties), new

    def adopted(self) -> dict[str, Any]:
        """The inputs that an import of it finds."""
        return plain(self.plugin.Read(proto.ReadRequest(id=self.id, urn=self.urn), Context()).inputs)

    def refresh(self) -> bool:
        """Take in what is there; False when nothing is."""
        asked = proto.ReadRequest(id=self.id, urn=self.urn, properties=struct(self.state), inputs=struct(self.inputs))
        told = self.plugin.Read(asked, Context())
        if told.id:
            self.state, self.inputs = plain(told.properties), plain(told.inputs)
        return bool(told.id)

    def delete(self) -> None:
        for _ in range(2):  # what is gone already is gone
            self.plugin.Delete(proto.DeleteRequest(id=self.id, urn=self.urn, properties=struct(self.state)), Context())
        assert not self.refresh()


@pytest.fixture
def plugin(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    for name, value in aws.server.environment.items():
        monkeypatch.setenv(name, value)
    made = Plugin()
    made.Configure(proto.ConfigureRequest(args=struct({"defaultTags": {"tags": {"all": "1"}}})), Context())
    return made


@pytest.fixture(autouse=True)
def _role(aws: Aws) -> None:
    if not any(role["RoleName"] == "runner" for role in aws.iam.list_roles()["Roles"]):
        allow = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
        trust = {"Version": "2012-10-17", "Statement": [allow]}
        aws.iam.create_role(RoleName="runner", AssumeRolePolicyDocument=json.dumps(trust))


def function(plugin: Plugin, name: str) -> Resource:
    return Resource(
        plugin, "aws:lambda/function:Function", name=name, role=ROLE, runtime="python3.11", handler="main.handler",
        code=archive("def handler(event, context): return 1\n"), environment={"variables": {"A": "1"}}, publish=True,
        tags={"mine": "1"},
    )  # fmt: skip


def test_a_function_and_what_belongs_to_it(plugin: Plugin, aws: Aws) -> None:
    client = aws.__getattr__("lambda")
    one = function(plugin, "one")
    assert one.state["tagsAll"] == {"all": "1", "mine": "1"}
    assert one.state["version"] == "1"
    assert one.refresh()
    assert one.diff() == ([], [])
    assert one.diff(name="two", timeout=9) == (["name", "timeout"], ["name"])
    assert one.diff(code=archive("def handler(event, context): return 2\n")) == (["code"], [])
    one.update(code=archive("def handler(event, context): return 2\n"), environment={"variables": {"B": "2"}}, tags={})
    assert (one.state["version"], one.state["tagsAll"]) == ("2", {"all": "1"})
    config = client.get_function_configuration(FunctionName="one")
    assert config["Environment"] == {"Variables": {"B": "2"}}
    assert client.invoke(FunctionName="one", Qualifier="2")["Payload"].read() == b"2"
    assert client.invoke(FunctionName="one", Qualifier="1")["Payload"].read() == b"1"

    alias = Resource(plugin, "aws:lambda/alias:Alias", name="live", functionName="one", functionVersion="1")
    alias.update(functionVersion="2", routingConfig={"additionalVersionWeights": {"1": 0.25}})
    assert alias.refresh()
    assert alias.diff() == ([], [])
    assert client.get_alias(FunctionName="one", Name="live")["RoutingConfig"]["AdditionalVersionWeights"] == {"1": 0.25}
    # Whoever shifts the weights by hand is found out.
    client.update_alias(FunctionName="one", Name="live", RoutingConfig={"AdditionalVersionWeights": {"1": 0.5}})
    assert alias.refresh()
    assert alias.diff(routingConfig={"additionalVersionWeights": {"1": 0.25}})[0] == ["routingConfig"]

    may = Resource(
        plugin, "aws:lambda/permission:Permission", function="one", action="lambda:InvokeFunction",
        principal="events.amazonaws.com", sourceArn="arn:aws:events:us-east-1:123456789012:rule/r",
    )  # fmt: skip
    assert may.refresh()
    assert may.diff(principal="s3.amazonaws.com") == (["principal"], ["principal"])
    url = Resource(
        plugin, "aws:lambda/functionUrl:FunctionUrl", functionName="one", qualifier="live", authorizationType="AWS_IAM"
    )
    assert url.state["functionUrl"].startswith(aws.server.url)
    url.update(authorizationType="NONE")
    assert url.refresh()
    assert url.diff() == ([], [])
    events = Resource(
        plugin, "aws:lambda/functionEventInvokeConfig:FunctionEventInvokeConfig", functionName="one", maximumRetryAttempts=1,
        destinationConfig={"onFailure": {"destination": "arn:aws:sqs:us-east-1:123456789012:q"}},
    )  # fmt: skip
    assert events.refresh()
    assert events.diff() == ([], [])
    for resource in (events, url, may, alias, one):
        resource.delete()


def test_an_endpoint_moves_to_another_configuration(plugin: Plugin, aws: Aws, small: str) -> None:
    group = Resource(
        plugin,
        "aws:sagemaker/modelPackageGroup:ModelPackageGroup",
        modelPackageGroupName="g",
        modelPackageGroupDescription="d",
    )
    model = Resource(
        plugin, "aws:sagemaker/model:Model", executionRoleArn=role(aws, "kind", "sagemaker"),
        primaryContainer={"image": small, "environment": {"aB": "1"}}, tags={"a": "1"},
    )  # fmt: skip
    variant: dict[str, Any] = {"variantName": "v", "modelName": model.id, "initialInstanceCount": 1}
    variant |= {"instanceType": "ml.m5.large", "initialVariantWeight": 1}
    token = "aws:sagemaker/endpointConfiguration:EndpointConfiguration"
    first = Resource(plugin, token, name="first", productionVariants=[variant])
    second = Resource(plugin, token, name="second", productionVariants=[{**variant, "initialVariantWeight": 2}])
    endpoint = Resource(plugin, "aws:sagemaker/endpoint:Endpoint", endpointConfigName="first")
    for resource in (group, model, first, endpoint):
        assert resource.refresh()
        assert resource.diff() == ([], [])
    assert first.diff(productionVariants=[{**variant, "initialVariantWeight": 3}])[1] == ["productionVariants"]
    assert endpoint.diff(endpointConfigName="second") == (["endpointConfigName"], [])
    endpoint.update(endpointConfigName="second")
    assert aws.sagemaker.describe_endpoint(EndpointName=endpoint.id)["EndpointConfigName"] == "second"
    model.update(tags={"b": "2"})
    assert model.refresh()
    assert model.state["tagsAll"] == {"all": "1", "b": "2"}
    for resource in (endpoint, second, first, model, group):
        resource.delete()


def test_a_repository_keeps_its_rules(plugin: Plugin, aws: Aws) -> None:
    images = Resource(
        plugin, "aws:ecr/repository:Repository", forceDelete=True, imageScanningConfiguration={"scanOnPush": True}
    )
    selection = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 7}
    rule = {"rulePriority": 1, "selection": selection, "action": {"type": "expire"}}
    policy = Resource(
        plugin,
        "aws:ecr/lifecyclePolicy:LifecyclePolicy",
        repository=images.id,
        policy=json.dumps({"rules": [rule]}, indent=1),
    )
    for resource in (images, policy):
        assert resource.refresh()
        assert resource.diff() == ([], [])
    images.update(imageTagMutability="IMMUTABLE")
    assert aws.ecr.describe_repositories()["repositories"][0]["imageTagMutability"] == "IMMUTABLE"
    policy.delete()
    images.delete()


def test_a_cluster_and_what_its_tasks_run_on(plugin: Plugin, aws: Aws) -> None:
    cluster = Resource(plugin, "aws:ecs/cluster:Cluster", name="small", tags={"a": "1"})
    runs = Resource(
        plugin,
        "aws:ecs/clusterCapacityProviders:ClusterCapacityProviders",
        clusterName="small",
        capacityProviders=["FARGATE"],
    )
    assert runs.diff(capacityProviders=["FARGATE", "FARGATE_SPOT"])[1] == []
    cluster.update(tags={"b": "2"})
    (told,) = aws.ecs.describe_clusters(clusters=["small"], include=["TAGS"])["clusters"]
    tags = {tag["key"]: tag["value"] for tag in told["tags"]}
    assert (told["clusterArn"], tags) == (cluster.state["arn"], {"all": "1", "b": "2"})
    assert told["capacityProviders"] == ["FARGATE"]
    runs.delete()
    cluster.delete()
    assert not [one for one in aws.ecs.describe_clusters(clusters=["small"])["clusters"] if one["status"] == "ACTIVE"]


def test_a_schedule_and_its_group(plugin: Plugin, aws: Aws) -> None:
    group = Resource(plugin, "aws:scheduler/scheduleGroup:ScheduleGroup", name="jobs")
    arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
    one = Resource(
        plugin, "aws:scheduler/schedule:Schedule", groupName="jobs", scheduleExpression="cron(0 3 * * ? *)",
        flexibleTimeWindow={"mode": "OFF"}, target={"arn": arn, "roleArn": ROLE, "input": '{"a": 1}'},
        scheduleExpressionTimezone="Europe/Madrid",
    )  # fmt: skip
    for resource in (group, one):
        assert resource.refresh()
        assert resource.diff() == ([], [])
    one.update(state="DISABLED", scheduleExpression="rate(1 hour)")
    told = aws.scheduler.get_schedule(GroupName="jobs", Name=one.inputs["name"])
    assert (told["State"], told["ScheduleExpression"]) == ("DISABLED", "rate(1 hour)")
    assert one.diff(groupName="default")[1] == ["groupName"]
    one.delete()
    group.delete()


def test_a_budget_changes_in_place(plugin: Plugin, aws: Aws) -> None:
    notice = {
        "comparisonOperator": "GREATER_THAN", "notificationType": "ACTUAL", "threshold": 80, "thresholdType": "PERCENTAGE",
        "subscriberEmailAddresses": ["a@example.com"],
    }  # fmt: skip
    budget = Resource(
        plugin, "aws:budgets/budget:Budget", budgetType="COST", timeUnit="MONTHLY", limitAmount="50", limitUnit="USD",
        notifications=[notice], costFilters=[{"name": "TagKeyValue", "values": ["user:a$b"]}],
    )  # fmt: skip
    assert budget.refresh()
    assert budget.diff() == ([], [])
    budget.update(limitAmount="60", notifications=[{**notice, "threshold": 90}], tags={"x": "1"})
    name = budget.inputs["name"]
    told = aws.budgets.describe_budget(AccountId="123456789012", BudgetName=name)["Budget"]
    assert told["BudgetLimit"]["Amount"] == "60"
    noted = aws.budgets.describe_notifications_for_budget(AccountId="123456789012", BudgetName=name)["Notifications"]
    assert [one["Threshold"] for one in noted] == [90]
    assert budget.refresh()
    assert budget.diff() == ([], [])
    assert budget.state["tagsAll"] == {"all": "1", "x": "1"}
    budget.delete()


def test_a_budget_s_filter_is_read_back_as_it_was_asked(plugin: Plugin, aws: Aws) -> None:
    wanted = {"ands": [{"tags": {"key": "a:b", "values": ["1"]}}, {"tags": {"key": "c", "values": ["2"]}}]}
    budget = Resource(
        plugin, "aws:budgets/budget:Budget", budgetType="COST", timeUnit="MONTHLY", limitAmount="50", limitUnit="USD",
        filterExpression=wanted, metrics="UnblendedCost",
    )  # fmt: skip
    told = aws.budgets.describe_budget(AccountId="123456789012", BudgetName=budget.inputs["name"])["Budget"]
    assert [one["Tags"]["Key"] for one in told["FilterExpression"]["And"]] == ["a:b", "c"]
    assert budget.refresh()
    assert budget.diff() == ([], [])
    budget.update(filterExpression={"tags": {"key": "a:b", "values": ["3"]}})
    assert budget.refresh()
    assert budget.diff() == ([], [])
    budget.delete()


def test_a_topic_has_its_own_policy_again_when_another_one_goes(plugin: Plugin, aws: Aws) -> None:
    topic = Resource(plugin, "aws:sns/topic:Topic")
    policy = Resource(plugin, "aws:sns/topicPolicy:TopicPolicy", arn=topic.id, policy='{"Statement": []}')
    assert policy.refresh()
    assert policy.diff() == ([], [])
    policy.update(policy='{"Statement": [], "Version": "2012-10-17"}')
    policy.plugin.Delete(proto.DeleteRequest(id=policy.id, urn=policy.urn, properties=struct(policy.state)), Context())
    told = json.loads(aws.sns.get_topic_attributes(TopicArn=topic.id)["Attributes"]["Policy"])
    assert told["Statement"][0]["Condition"] == {"StringEquals": {"AWS:SourceOwner": "123456789012"}}
    topic.delete()


def test_a_key_rotates_and_is_gone_once_its_deletion_is_scheduled(plugin: Plugin, aws: Aws) -> None:
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    key = Resource(
        plugin, "aws:kms/key:Key", enableKeyRotation=True, deletionWindowInDays=7, policy=policy, tags={"a": "1"}
    )
    assert key.refresh()
    assert key.diff() == ([], [])
    assert aws.kms.get_key_rotation_status(KeyId=key.id)["KeyRotationEnabled"]
    key.update(enableKeyRotation=False, description="of the monitor", tags={"b": "2"})
    assert key.refresh()
    assert (key.diff(), key.state["tagsAll"]) == (([], []), {"all": "1", "b": "2"})
    assert not aws.kms.get_key_rotation_status(KeyId=key.id)["KeyRotationEnabled"]
    key.delete()
    told = aws.kms.describe_key(KeyId=key.id)["KeyMetadata"]
    assert told["KeyState"] == "PendingDeletion"
    assert 6 <= (told["DeletionDate"] - datetime.now(UTC)).days <= 7


@pytest.mark.parametrize(
    ("token", "inputs"),
    [
        ("aws:s3/bucket:Bucket", {"bucket": "theirs"}),
        ("aws:cloudwatch/logGroup:LogGroup", {"name": "/theirs", "retentionInDays": 7}),
        ("aws:sqs/queue:Queue", {"name": "theirs", "visibilityTimeoutSeconds": 60}),
        ("aws:sns/topic:Topic", {"name": "theirs", "tags": {"a": "1"}}),
        ("aws:iam/role:Role", {"name": "theirs", "assumeRolePolicy": '{"Version":"2012-10-17","Statement":[]}'}),
        ("aws:ecr/repository:Repository", {"name": "theirs"}),
        ("aws:ecs/cluster:Cluster", {"name": "theirs", "tags": {"a": "1"}}),
        ("aws:cloudwatch/eventRule:EventRule", {"name": "theirs", "scheduleExpression": "rate(1 hour)"}),
    ],
)
def test_what_is_there_is_imported_without_a_difference(plugin: Plugin, token: str, inputs: dict[str, Any]) -> None:
    one = Resource(plugin, token, **inputs)
    one.inputs = one.adopted()
    asked = one.check(inputs, {})
    told = one.plugin.Diff(
        proto.DiffRequest(
            id=one.id, urn=one.urn, olds=struct(one.state), news=struct(asked), old_inputs=struct(one.inputs)
        ),
        Context(),
    )
    assert list(told.diffs) == []
    one.delete()
