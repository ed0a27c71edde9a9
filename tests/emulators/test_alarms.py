"""Alarms: what the emulator counts, what it makes of it, and who is told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pulumi.runtime.proto import provider_pb2 as proto

from ekiben.emulators.aws.metric_math import Query, calculated, query
from ekiben.emulators.aws.plugin.__main__ import Plugin
from ekiben.emulators.plugins.wire import struct
from tests.waiting import until

from .conftest import Aws
from .test_functions import call as invoke, make
from .test_kinds import Context, Resource

ACCOUNT, REGION = "123456789012", "us-east-1"


@pytest.mark.parametrize(
    ("expression", "values", "expected"),
    [
        ("100 * errors / requests", {"errors": 1.0, "requests": 4.0}, 25.0),
        ("100 * errors / requests", {"errors": 1.0, "requests": 0.0}, None),
        ("100 * FILL(errors, 0) / requests", {"errors": None, "requests": 4.0}, 0.0),
        ("errors / requests", {"errors": None, "requests": 4.0}, None),
        ("IF(requests >= 20, 100 * MAX([errors, url]) / requests, 0)", {"errors": 1.0, "url": None, "requests": 19.0}, 0.0),
        ("IF(requests >= 20, 100 * MAX([errors, url]) / requests, 0)", {"errors": 1.0, "url": 5.0, "requests": 20.0}, 25.0),
        ("SUM([errors, url])", {"errors": None, "url": None}, None),
    ],
)  # fmt: skip
def test_metric_math(expression: str, values: Mapping[str, float | None], expected: float | None) -> None:
    assert calculated(expression, values) == expected


@pytest.mark.parametrize("expression", ["ANOMALY_DETECTION_BAND(m1)", "m2 + 1", "m1 +", "__import__('os')", "m1.real"])
def test_an_expression_that_is_not_known_is_named(expression: str) -> None:
    with pytest.raises(ValueError, match="the emulator does not"):
        calculated(expression, {"m1": 1.0})


def test_a_metrics_insights_query() -> None:
    said = "SELECT AVG(Invocation5XXErrors) FROM SCHEMA(\"AWS/SageMaker\", EndpointName, VariantName) WHERE EndpointName = 'x'"
    assert query(said) == Query(
        namespace="AWS/SageMaker", metric="Invocation5XXErrors", statistic="Average",
        schema=frozenset({"EndpointName", "VariantName"}), where={"EndpointName": "x"},
    )  # fmt: skip
    assert query("errors / requests") is None
    with pytest.raises(ValueError, match="does not understand the query"):
        query("SELECT AVG(a) FROM b")


@pytest.fixture
def plugin(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    for name, value in aws.server.environment.items():
        monkeypatch.setenv(name, value)
    made = Plugin()
    made.Configure(proto.ConfigureRequest(args=struct({"defaultTags": {"tags": {"all": "1"}}})), Context())
    return made


class Listener:
    """A topic, encrypted, and a queue that hears what is published on it."""

    def __init__(self, aws: Aws, plugin: Plugin, *, publish: str, encrypt: str) -> None:
        name = f"told-{uuid.uuid4().hex[:8]}"
        self.sqs = aws.sqs
        self.key = Resource(
            plugin, "aws:kms/key:Key", enableKeyRotation=True, deletionWindowInDays=7,
            # EventBridge does not tell a key for whom it asks.
            policy=allowing(encrypt, ["kms:GenerateDataKey*", "kms:Decrypt"], bound=not encrypt.startswith("events.")),
        )  # fmt: skip
        self.topic = Resource(plugin, "aws:sns/topic:Topic", name=name, kmsMasterKeyId=self.key.state["arn"])
        aws.sns.set_topic_attributes(
            TopicArn=self.topic.id,
            AttributeName="Policy",
            AttributeValue=allowing(publish, "sns:Publish", self.topic.id),
        )
        self.queue = self.sqs.create_queue(QueueName=name)["QueueUrl"]
        aws.sns.subscribe(TopicArn=self.topic.id, Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")

    def heard(self) -> list[dict[str, Any]]:
        """What has come since it was asked last; it waits for the first."""
        got = self.sqs.receive_message(QueueUrl=self.queue, WaitTimeSeconds=5, MaxNumberOfMessages=10).get(
            "Messages", []
        )
        for one in got:
            self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])
        return [json.loads(json.loads(one["Body"])["Message"]) for one in got]


def allowing(service: str, action: Any, resource: str = "*", *, bound: bool = True) -> str:
    condition = {"Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}}} if bound else {}
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": action, "Resource": resource}
    return json.dumps({"Version": "2012-10-17", "Statement": [{**statement, **condition}]})


WATCH = "cloudwatch.amazonaws.com"


def failing(aws: Aws) -> tuple[str, Callable[[int], Any]]:
    """A function that fails when it is given 0, and the call of it by its alias."""
    name = f"f-{uuid.uuid4().hex[:8]}"
    make(aws, name, "def handler(event, context): return 1 / event", Publish=True)
    aws.__getattr__("lambda").create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    return name, lambda by: invoke(aws, name, by, Qualifier="live")


def metric(id: str, name: str, function: str) -> dict[str, Any]:
    where = {"FunctionName": function, "Resource": f"{function}:live"}
    asked = {"namespace": "AWS/Lambda", "metricName": name, "dimensions": where, "period": 300, "stat": "Sum"}
    return {"id": id, "metric": asked, "returnData": False}


def test_an_alarm_on_what_functions_count_reaches_an_encrypted_topic(plugin: Plugin, aws: Aws) -> None:
    listener = Listener(aws, plugin, publish=WATCH, encrypt=WATCH)
    function, call = failing(aws)
    share = {"id": "share", "expression": "IF(requests >= 2, 100 * FILL(errors, 0) / requests, 0)", "returnData": True}
    alarm = Resource(
        plugin, "aws:cloudwatch/metricAlarm:MetricAlarm", name=f"share-{function}", evaluationPeriods=1, threshold=40,
        comparisonOperator="GreaterThanThreshold", alarmActions=[listener.topic.id], treatMissingData="notBreaching",
        metricQueries=[metric("errors", "Errors", function), metric("requests", "Invocations", function), share],
    )  # fmt: skip
    assert alarm.refresh()
    assert alarm.diff() == ([], []), "what is read back is what was asked"
    call(0)
    call(1)
    (said,) = listener.heard()
    assert (said["AlarmName"], said["OldStateValue"], said["NewStateValue"]) == (f"share-{function}", "OK", "ALARM")
    assert said["NewStateReason"] == "Threshold Crossed: 50 was GreaterThanThreshold (40)."
    (told,) = aws.cloudwatch.describe_alarms(AlarmNames=[alarm.id])["MetricAlarms"]
    assert told["StateValue"] == "ALARM"
    alarm.delete()

    now = datetime.now(UTC)
    asked = {"Namespace": "AWS/Lambda", "Dimensions": [{"Name": "Resource", "Value": f"{function}:live"},
             {"Name": "FunctionName", "Value": function}]}  # fmt: skip
    queries = [
        {"Id": name, "MetricStat": {"Metric": {**asked, "MetricName": metric_name}, "Period": 3600, "Stat": stat}}
        for name, metric_name, stat in (("errors", "Errors", "Sum"), ("p99", "Duration", "p99"))
    ]
    found = aws.cloudwatch.get_metric_data(
        MetricDataQueries=queries, StartTime=now - timedelta(hours=1), EndTime=now + timedelta(hours=1)
    )["MetricDataResults"]
    values = {one["Id"]: sum(one["Values"]) for one in found}
    assert values["errors"] == 1
    assert values["p99"] > 0, "percentiles, and dimensions in any order"


@pytest.mark.parametrize(
    ("publish", "encrypt", "why"),
    [
        ("events.amazonaws.com", WATCH, "the topic's policy does not allow it"),
        (WATCH, "events.amazonaws.com", "the policy of the topic's key does not let it encrypt"),
    ],
)
def test_an_alarm_that_may_not_publish_is_heard_by_nobody(
    plugin: Plugin, aws: Aws, publish: str, encrypt: str, why: str
) -> None:
    listener = Listener(aws, plugin, publish=publish, encrypt=encrypt)
    log = aws.server.state_dir / "aws.log"
    name = f"quiet-{uuid.uuid4().hex[:8]}"
    aws.cloudwatch.put_metric_alarm(
        AlarmName=name, Namespace="none", MetricName="none", Period=60, EvaluationPeriods=1, Threshold=1, Statistic="Sum",
        ComparisonOperator="GreaterThanThreshold", AlarmActions=[listener.topic.id], TreatMissingData="breaching",
    )  # fmt: skip
    until(lambda: any(name in line and why in line for line in log.read_text().splitlines()))
    aws.cloudwatch.delete_alarms(AlarmNames=[name])
    assert aws.sqs.receive_message(QueueUrl=listener.queue).get("Messages", []) == []


def test_what_ends_is_told_too_and_unknown_expressions_are_said(plugin: Plugin, aws: Aws) -> None:
    listener = Listener(aws, plugin, publish=WATCH, encrypt=WATCH)
    name = f"set-{uuid.uuid4().hex[:8]}"
    asked = {"AlarmName": name, "EvaluationPeriods": 1, "Threshold": 1, "ComparisonOperator": "GreaterThanThreshold"}
    stat = {
        "Namespace": "none",
        "MetricName": "none",
        "Period": 60,
        "Statistic": "Sum",
        "TreatMissingData": "notBreaching",
    }
    aws.cloudwatch.put_metric_alarm(**asked, **stat, AlarmActions=[listener.topic.id], OKActions=[listener.topic.id])
    aws.cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a drill")
    heard: list[dict[str, Any]] = []
    while len(heard) < 2:
        heard += listener.heard()
    assert sorted((one["OldStateValue"], one["NewStateValue"]) for one in heard) == [("ALARM", "OK"), ("OK", "ALARM")]
    band = {"Id": "a", "Expression": "ANOMALY_DETECTION_BAND(b)", "ReturnData": True, "Period": 60}
    aws.cloudwatch.put_metric_alarm(**asked, Metrics=[band])
    until(
        lambda: (
            "ANOMALY_DETECTION_BAND"
            in aws.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateReason"]
        )
    )
    (told,) = aws.cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
    assert told["StateValue"] == "INSUFFICIENT_DATA"
    aws.cloudwatch.delete_alarms(AlarmNames=[name])


def test_an_event_reaches_a_topic(plugin: Plugin, aws: Aws) -> None:
    listener = Listener(aws, plugin, publish="events.amazonaws.com", encrypt="events.amazonaws.com")
    name = f"rule-{uuid.uuid4().hex[:8]}"
    aws.events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))
    paths, template = {"job": "$.detail.job"}, '{"text": "<job> has failed"}'
    target = {
        "Id": "t",
        "Arn": listener.topic.id,
        "InputTransformer": {"InputPathsMap": paths, "InputTemplate": template},
    }
    aws.events.put_targets(Rule=name, Targets=[target])
    aws.events.put_events(Entries=[{"Source": name, "DetailType": "Ended", "Detail": json.dumps({"job": "tuesday-1"})}])
    assert listener.heard() == [{"text": "tuesday-1 has failed"}]
