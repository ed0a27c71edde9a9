"""Monitor and Budget on AWS: what is watched, who may publish, who is told, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest

import ekiben as ek
from ekiben import components
from ekiben.aws import SUPPORT
from ekiben.aws.backends import choose
from ekiben.aws.components.budget import Budget
from ekiben.aws.components.endpoint import Endpoint
from ekiben.aws.components.monitor import Monitor, failed_pattern, key_statements, topic_statements
from ekiben.aws.components.program import Aws
from ekiben.aws.components.registry import Registry
from ekiben.aws.components.storage import Storage
from ekiben.errors import SpecError
from ekiben.features import Support

from .program import ACCOUNT, REGION, Recorded, run, statements

pytestmark = pytest.mark.filterwarnings("ignore:.* has been deprecated in favor of:DeprecationWarning")

MAIL, HOOK = "ops@example.org", "https://hooks.example.org/ekiben"


class Fn(Aws, components.Function):
    """A function as a monitor sees it."""

    support = SUPPORT

    def create(self) -> None:
        self.ref, self.facts = pulumi.Output.from_input(""), pulumi.Output.from_input({"function": f"{self.name}-1"})


class Fit(Aws, components.Training):
    """A training as a monitor sees it."""

    support = SUPPORT

    def create(self) -> None:
        self.identity = self.role("sagemaker.amazonaws.com")
        self.ref, self.facts = pulumi.Output.from_input(""), pulumi.Output.from_input({})


class Api(Endpoint):
    """An endpoint as a monitor sees it, wherever it is."""

    def create(self) -> None:
        self.backend = choose(self.name, self.spec)
        names = {"function": f"{self.name}-1", "alias": "live", "endpoint": f"{self.name}-2"}
        self.ref, self.facts = pulumi.Output.from_input(""), pulumi.Output.from_input(names)


def watched(**resources: Any) -> tuple[Fn, Fit, Api]:
    lake = Storage("lake")
    spec = ek.EndpointSpec(model="fit@champion", bento="b", min_instances=1 if resources else 0, **resources)
    api = Api("api", spec, registry=Registry("models", storage=lake))
    return Fn("hello", ek.FunctionSpec(source="f")), Fit("fit", ek.TrainingSpec(source="t"), storage=lake), api


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Recorded]:
    def made(spec: ek.MonitorSpec, **resources: Any) -> Recorded:
        def program() -> list[Any]:
            watch = Monitor("watch", spec, watches=watched(**resources))
            ek.export(watch)
            return []

        return run(program, tmp_path)

    return made


def test_every_part_is_watched_by_what_it_counts(made: Callable[..., Recorded]) -> None:
    recorded = made(ek.MonitorSpec(notify=(MAIL, HOOK), endpoint_p99_ms=250, function_failures=3, window_s=600))
    alarms = {one.name: one.inputs for one in recorded.all("MetricAlarm") if one.name.startswith("watch")}
    assert sorted(alarms) == ["watch-api-errors", "watch-api-p99", "watch-hello-dead", "watch-hello-errors"]
    for alarm in alarms.values():
        assert alarm["alarmActions"] == alarm["okActions"] == [f"arn:aws:sns:{REGION}:{ACCOUNT}:watch-0123abc"]
        assert alarm["treatMissingData"] == "notBreaching"
        assert alarm["tags"] == {"ekiben:platform": "small", "ekiben:stack": "dev", "ekiben:component": "watch"}
        assert sum(one["returnData"] for one in alarm["metricQueries"]) == 1, "one value is looked at"
        periods = {one["metric"]["period"] for one in alarm["metricQueries"] if "metric" in one}
        assert periods == {600}
    errors = {one["id"]: one for one in alarms["watch-api-errors"]["metricQueries"]}
    assert errors["requests"]["metric"]["dimensions"] == {"FunctionName": "api-1", "Resource": "api-1:live"}
    assert "requests >= 20" in errors["share"]["expression"]
    assert alarms["watch-api-errors"]["alarmDescription"] == (
        "small/dev: the endpoint api fails more than 5 % of its requests"
    )
    (p99,) = alarms["watch-api-p99"]["metricQueries"]
    assert (p99["metric"]["metricName"], p99["metric"]["stat"]) == ("Duration", "p99")
    assert alarms["watch-api-p99"]["comparisonOperator"] == "GreaterThanThreshold"
    assert alarms["watch-hello-errors"]["comparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert alarms["watch-hello-errors"]["threshold"] == 3
    told = {(one.inputs["protocol"], one.inputs["endpoint"]) for one in recorded.all("TopicSubscription")}
    assert told == {("email", MAIL), ("https", HOOK)}


def test_runs_that_fail_are_told_by_the_role_that_they_run_as(made: Callable[..., Recorded]) -> None:
    recorded = made(ek.MonitorSpec())
    rule = recorded.one("EventRule", "watch-fit")
    detail = json.loads(rule.inputs["eventPattern"])["detail"]
    assert detail == {"TrainingJobStatus": ["Failed"], "RoleArn": [f"arn:aws:iam::{ACCOUNT}:role/fit-0123abc"]}
    target = recorded.one("EventTarget", "watch-fit").inputs
    assert target["arn"].endswith(":watch-0123abc")
    assert "small/dev: a run of the training fit has failed: <why>" in target["inputTransformer"]["inputTemplate"]
    assert json.loads(target["inputTransformer"]["inputTemplate"]), "a text, as JSON"
    assert not made(ek.MonitorSpec(training_failures=False)).all("EventRule")


def test_the_topic_is_encrypted_and_open_to_its_own_alarms_and_rules_only(made: Callable[..., Recorded]) -> None:
    recorded = made(ek.MonitorSpec())
    key, topic = recorded.one("kms/key:Key"), recorded.one("sns/topic:Topic")
    assert topic.inputs["kmsMasterKeyId"].startswith("arn:aws:kms:")
    assert key.inputs["enableKeyRotation"] is True
    by_service = {one["Principal"].get("Service", ""): one for one in statements(key)}
    assert by_service[""]["Principal"]["AWS"] == f"arn:aws:iam::{ACCOUNT}:root"
    assert by_service["cloudwatch.amazonaws.com"]["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
    assert "Condition" not in by_service["events.amazonaws.com"], "EventBridge does not say for whom it encrypts"
    policy = {one["Sid"]: one for one in statements(recorded.one("sns/topicPolicy:TopicPolicy"))}
    assert policy["Alarms"]["Condition"]["ArnLike"] == {
        "aws:SourceArn": f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:watch-*"
    }
    assert policy["Rules"]["Condition"] == {
        "ArnEquals": {"aws:SourceArn": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/watch-fit-0123abc"]}
    }
    assert policy["TlsOnly"]["Effect"] == "Deny"
    assert {one["Resource"] for one in policy.values()} == {f"arn:aws:sns:{REGION}:{ACCOUNT}:watch-0123abc"}
    assert not [one for one in key_statements(ACCOUNT, ["cloudwatch.amazonaws.com"]) if "Condition" not in one]
    assert [one["Sid"] for one in topic_statements("t", "w-", ACCOUNT, REGION, "aws", [])] == ["Alarms", "TlsOnly"]


def test_a_customer_s_key_is_used_as_it_is(made: Callable[..., Recorded]) -> None:
    theirs = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"
    recorded = made(ek.MonitorSpec(kms_key=theirs))
    assert not recorded.all("kms/key:Key")
    assert recorded.one("sns/topic:Topic").inputs["kmsMasterKeyId"] == theirs


def test_alarms_that_are_turned_off_are_not_made(made: Callable[..., Recorded]) -> None:
    recorded = made(ek.MonitorSpec(endpoint_errors_percent=None, function_failures=None, dead_letters=None))
    assert not [one for one in recorded.all("MetricAlarm") if one.name.startswith("watch")]


def test_an_endpoint_on_sagemaker_is_watched_over_all_its_variants(made: Callable[..., Recorded]) -> None:
    recorded = made(ek.MonitorSpec(), resources=ek.Resources(gpus=1))
    alarm = recorded.one("MetricAlarm", "watch-api-errors").inputs
    (share,) = alarm["metricQueries"]
    assert share["expression"].endswith(
        "FROM SCHEMA(\"AWS/SageMaker\", EndpointName, VariantName) WHERE EndpointName = 'api-2'"
    )
    assert (alarm["threshold"], share["period"]) == (0.05, 300)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"endpoint_p99_ms": 100}, "endpoint_p99_ms=100: SageMaker measures each variant by itself"),
        ({"window_s": 14_400}, "window_s=14400: aws looks back over 10800 s at most there"),
    ],
)
def test_d8_what_cannot_be_watched_there_is_refused(made: Callable[..., Recorded], asked: Any, words: str) -> None:
    with pytest.raises(ek.Unsupported, match=words):
        made(ek.MonitorSpec(**asked), resources=ek.Resources(gpus=1))


def test_a_part_of_another_provider_is_refused(tmp_path: Path) -> None:
    class Elsewhere(components.Function):
        support = Support(provider="elsewhere", features=dict.fromkeys(ek.Feature, True))

        def create(self) -> None:
            pass

    def program() -> list[Any]:
        Monitor("watch", watches=[Elsewhere("hello", ek.FunctionSpec(source="f"))])
        return []

    with pytest.raises(SpecError, match="'hello', which is on elsewhere: CloudWatch counts nothing there"):
        run(program, tmp_path)


def test_a_budget_counts_what_carries_the_stack_s_tags(tmp_path: Path) -> None:
    spec = ek.BudgetSpec(monthly_usd=250, notify=(MAIL,), spent_percent=(100, 50, 50), forecast_percent=(120,))

    def program() -> list[Any]:
        ek.export(Budget("limit", spec))
        return []

    budget = run(program, tmp_path).one("budgets/budget:Budget").inputs
    assert (budget["limitAmount"], budget["limitUnit"], budget["timeUnit"]) == ("250.00", "USD", "MONTHLY")
    tags = {one["tags"]["key"]: one["tags"]["values"] for one in budget["filterExpression"]["ands"]}
    assert tags == {"ekiben:platform": ["small"], "ekiben:stack": ["dev"]}
    told = [(one["notificationType"], one["threshold"]) for one in budget["notifications"]]
    assert told == [("ACTUAL", 50), ("ACTUAL", 100), ("FORECASTED", 120)]
    assert {address for one in budget["notifications"] for address in one["subscriberEmailAddresses"]} == {MAIL}


def test_the_pattern_is_of_one_role() -> None:
    assert json.loads(failed_pattern("r"))["detail"]["RoleArn"] == ["r"]
