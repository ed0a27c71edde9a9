"""Monitor: CloudWatch alarms, and an encrypted SNS topic that tells of them and of training runs that failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_aws as aws

from ekiben import components
from ekiben.aws import SUPPORT, prices
from ekiben.aws.backends import Backend
from ekiben.aws.components.policies import Statement, document, tls_only
from ekiben.aws.components.program import Aws
from ekiben.components import Component
from ekiben.cost import Cost
from ekiben.errors import SpecError, Unsupported
from ekiben.monitoring import MonitorSpec

__all__ = [
    "Alarm",
    "Monitor",
    "function_alarms",
    "key_statements",
    "lambda_alarms",
    "topic_statements",
    "variant_alarms",
]

# Of a Metrics Insights query: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-metrics-insights-limits.html
INSIGHTS_S = 3 * 3600
DELETION_DAYS = 7
CLOUDWATCH, EVENTS = "cloudwatch.amazonaws.com", "events.amazonaws.com"

Text = pulumi.Input[str]


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """what: the end of its name. about: what it says to people. queries: its metrics, and the expression that is looked at.

    Above the threshold it is raised, and at it where `from_on`.
    """

    what: str
    about: str
    threshold: float
    from_on: bool = False
    queries: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


class Monitor(Aws, components.Monitor):
    """topic: who subscribes to it hears of every alarm that is raised or ends. key: what it is encrypted with, unless the spec
    names another one, whose policy then has to allow `key_statements`.
    """

    support = SUPPORT
    topic: aws.sns.Topic
    key: aws.kms.Key | None = None
    alarms: Sequence[tuple[Component[Any], Alarm]] = ()

    def create(self) -> None:
        # Asked first, so that what cannot be watched is refused before anything is made.
        self.alarms = [(watched, alarm) for watched in self.watches for alarm in self._alarms(watched)]
        trainings = [
            one for one in self.watches if isinstance(one, components.Training) and self.spec.training_failures
        ]
        services = [CLOUDWATCH, *([EVENTS] if trainings else [])]
        self.topic = aws.sns.Topic(self.name, kms_master_key_id=self._key(services), tags=self.tags, opts=self.opts())
        rules = [self._rule(training) for training in trainings]
        known = pulumi.Output.all(
            self.topic.arn, self.account, self.region, self.partition, *(one.arn for one in rules)
        )
        allowed = aws.sns.TopicPolicy(
            self.name,
            arn=self.topic.arn,
            policy=known.apply(
                lambda it: document(topic_statements(it[0], f"{self.name}-", it[1], it[2], it[3], it[4:]))
            ),
            opts=self.opts(),
        )
        for address in self.spec.notify:
            aws.sns.TopicSubscription(
                f"{self.name}-{hashlib.sha256(address.encode()).hexdigest()[:8]}",
                topic=self.topic.arn,
                protocol="https" if address.startswith("https:") else "email",
                endpoint=address,
                opts=self.opts(),
            )
        for training, rule in zip(trainings, rules, strict=True):
            self._told(training, rule, allowed)
        for watched, alarm in self.alarms:
            self._alarm(watched, alarm, allowed)
        self.ref = self.topic.arn

    def cost(self) -> Cost:
        return prices.monitor(len(self.alarms), own_key=self.key is not None)

    def _key(self, services: Sequence[str]) -> Text:
        """SNS's own key will not do: it lets no service publish, and alarms would be lost without a word."""
        if self.spec.kms_key:
            return str(self.spec.kms_key)
        about = pulumi.Output.all(self.account, self.region, self.partition)
        self.key = aws.kms.Key(
            self.name,
            description=f"What the monitor {self.name} tells",
            enable_key_rotation=True,
            deletion_window_in_days=DELETION_DAYS,
            policy=about.apply(lambda it: document([owner_statement(it[0], it[2]), *key_statements(it[0], services)])),
            tags=self.tags,
            opts=self.opts(),
        )
        arn: pulumi.Output[str] = self.key.arn
        return arn

    def _alarms(self, watched: Component[Any]) -> Iterator[Alarm]:
        if not isinstance(watched, Aws):
            raise SpecError(
                f"The monitor {self.name!r} is on aws and is to watch {watched.name!r}, which is on {watched.provider}: CloudWatch "
                "counts nothing there. Watch it with a monitor of that provider."
            )
        if isinstance(watched, components.Function):
            yield from function_alarms(self.spec, _fact(watched, "function"))
        elif isinstance(watched, components.Endpoint):
            backend: Backend | None = getattr(watched, "backend", None)
            if backend is None:  # it was refused, and nothing will be made
                return
            if backend.name == "lambda":
                yield from lambda_alarms(self.spec, _fact(watched, "function"), _fact(watched, "alias"))
            elif backend.name.startswith("sagemaker-"):
                key = "endpoint" if backend.name == "sagemaker-instances" else "serverless"
                yield from variant_alarms(self.name, self.spec, watched.name, _fact(watched, key))
            else:
                why = f"{backend.title} counts at a load balancer that it makes itself, and no alarm can name that"
                raise Unsupported(
                    f"MonitorSpec of {self.name!r}: watches={watched.name!r}: {why}. Leave it out, or ask for less, so that Lambda "
                    "holds it."
                )

    def _alarm(self, watched: Component[Any], alarm: Alarm, allowed: pulumi.Resource) -> None:
        whose = f"{pulumi.get_project()}/{pulumi.get_stack()}"
        actions = [self.topic.arn]
        aws.cloudwatch.MetricAlarm(
            f"{self.name}-{watched.name}-{alarm.what}",
            alarm_description=f"{whose}: the {watched.kind} {watched.name} {alarm.about}",
            metric_queries=alarm.queries,
            comparison_operator="GreaterThanOrEqualToThreshold" if alarm.from_on else "GreaterThanThreshold",
            threshold=alarm.threshold,
            evaluation_periods=1,
            treat_missing_data="notBreaching",
            alarm_actions=actions,
            ok_actions=actions,
            tags=self.tags,
            opts=self.opts(depends_on=[allowed]),
        )

    def _rule(self, training: Component[Any]) -> aws.cloudwatch.EventRule:
        """SageMaker has no metric of jobs that failed, but tells of each. A training has a role of its own."""
        assert isinstance(training, Aws)
        assert training.identity is not None
        return aws.cloudwatch.EventRule(
            f"{self.name}-{training.name}",
            description=f"A run of the training {training.name} has failed",
            event_pattern=training.identity.arn.apply(failed_pattern),
            tags=self.tags,
            opts=self.opts(),
        )

    def _told(self, training: Component[Any], rule: aws.cloudwatch.EventRule, allowed: pulumi.Resource) -> None:
        whose = f"{pulumi.get_project()}/{pulumi.get_stack()}"
        aws.cloudwatch.EventTarget(
            f"{self.name}-{training.name}",
            rule=rule.name,
            arn=self.topic.arn,
            input_transformer={
                "input_paths": {"job": "$.detail.TrainingJobName", "why": "$.detail.FailureReason"},
                "input_template": f'"{whose}: a run of the training {training.name} has failed: <why> (job <job>)"',
            },
            opts=self.opts(depends_on=[allowed]),
        )


def lambda_alarms(spec: MonitorSpec, function: Text, alias: Text) -> Iterator[Alarm]:
    """Of an endpoint on Lambda. What the model answers with 500 Lambda counts only where it is called by its URL."""
    where = {"FunctionName": function, "Resource": pulumi.Output.concat(function, ":", alias)}
    if spec.endpoint_errors_percent is not None:
        share = f"IF(requests >= {spec.min_requests}, 100 * MAX([FILL(errors, 0), FILL(answers, 0)]) / requests, 0)"
        yield Alarm(
            what="errors",
            about=f"fails more than {spec.endpoint_errors_percent:g} % of its requests",
            threshold=spec.endpoint_errors_percent,
            queries=[
                _metric("errors", "AWS/Lambda", "Errors", "Sum", where, spec.window_s),
                _metric("answers", "AWS/Lambda", "Url5xxCount", "Sum", where, spec.window_s),
                _metric("requests", "AWS/Lambda", "Invocations", "Sum", where, spec.window_s),
                {"id": "share", "expression": share, "label": "failed requests, percent", "return_data": True},
            ],
        )
    if spec.endpoint_p99_ms is not None:
        yield Alarm(
            what="p99",
            about=f"takes more than {spec.endpoint_p99_ms:g} ms for one request of a hundred",
            threshold=spec.endpoint_p99_ms,
            queries=[_metric("p99", "AWS/Lambda", "Duration", "p99", where, spec.window_s, watched=True)],
        )


def variant_alarms(monitor: str, spec: MonitorSpec, name: str, endpoint: Text) -> Iterator[Alarm]:
    """Of an endpoint on SageMaker, over all its variants, which come with releases. Raises Unsupported for what no query can do."""
    lacks = f"MonitorSpec of {monitor!r}, which watches the endpoint {name!r} on SageMaker: "
    if spec.endpoint_p99_ms is not None:
        raise Unsupported(
            f"{lacks}endpoint_p99_ms={spec.endpoint_p99_ms:g}: SageMaker measures each variant by itself, and CloudWatch has no "
            "percentile over several. Leave it out, or watch this endpoint with a monitor of its own."
        )
    if spec.endpoint_errors_percent is None:
        return
    if spec.window_s > INSIGHTS_S:
        raise Unsupported(
            f"{lacks}window_s={spec.window_s}: aws looks back over {INSIGHTS_S} s at most there. Ask for a shorter window."
        )
    # SageMaker sends 1 for a request that failed and 0 for any other: their average is the share.
    query = (
        'SELECT AVG(Invocation5XXErrors) FROM SCHEMA("AWS/SageMaker", EndpointName, VariantName) WHERE EndpointName = \'',
        endpoint,
        "'",
    )
    yield Alarm(
        what="errors",
        about=f"fails more than {spec.endpoint_errors_percent:g} % of its requests",
        threshold=spec.endpoint_errors_percent / 100,
        queries=[
            {"id": "share", "expression": pulumi.Output.concat(*query), "period": spec.window_s, "return_data": True}
        ],
    )


def function_alarms(spec: MonitorSpec, function: Text) -> Iterator[Alarm]:
    """Of a function."""
    asked = {
        "errors": (spec.function_failures, "Errors", "has failed {} times or more"),
        "dead": (spec.dead_letters, "AsyncEventsDropped", "has given up {} events or more"),
    }
    for what, (from_on, metric, about) in asked.items():
        if from_on is not None:
            queries = [
                _metric(what, "AWS/Lambda", metric, "Sum", {"FunctionName": function}, spec.window_s, watched=True)
            ]
            yield Alarm(what=what, about=about.format(from_on), threshold=from_on, from_on=True, queries=queries)


def topic_statements(
    topic_arn: str, alarms: str, account: str, region: str, partition: str, rule_arns: Sequence[str]
) -> list[Statement]:
    """Alarms whose names begin so, and these rules, may publish; nobody may without encryption on the way."""
    found: list[Statement] = [
        {
            "Sid": "Alarms",
            "Effect": "Allow",
            "Principal": {"Service": CLOUDWATCH},
            "Action": "sns:Publish",
            "Resource": topic_arn,
            "Condition": {
                "StringEquals": {"aws:SourceAccount": account},
                "ArnLike": {"aws:SourceArn": f"arn:{partition}:cloudwatch:{region}:{account}:alarm:{alarms}*"},
            },
        },
        tls_only("sns:Publish", topic_arn),
    ]
    if rule_arns:
        found.append(
            {
                "Sid": "Rules",
                "Effect": "Allow",
                "Principal": {"Service": EVENTS},
                "Action": "sns:Publish",
                "Resource": topic_arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": list(rule_arns)}},
            }
        )
    return found


def owner_statement(account: str, partition: str) -> Statement:
    """Without it nobody could ever change the key again. "*" is the key itself."""
    root = f"arn:{partition}:iam::{account}:root"
    return {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"}


def key_statements(account: str, services: Sequence[str]) -> list[Statement]:
    """What lets services publish to a topic that is encrypted with the key.

    EventBridge comes without saying for whom, so it cannot be bound to the account:
    https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
    """
    found: list[Statement] = []
    for service in services:
        made: dict[str, Any] = {
            "Effect": "Allow",
            "Principal": {"Service": service},
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": "*",
        }
        if service != EVENTS:
            made["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
        found.append(made)
    return found


def failed_pattern(role_arn: str) -> str:
    """The events of jobs that failed and ran as this role."""
    detail = {"TrainingJobStatus": ["Failed"], "RoleArn": [role_arn]}
    kind = "SageMaker Training Job State Change"
    return json.dumps({"source": ["aws.sagemaker"], "detail-type": [kind], "detail": detail}, sort_keys=True)


def _fact(watched: Component[Any], key: str) -> pulumi.Output[str]:
    """A fact of what is watched; empty where it was refused, and nothing will be made."""
    return watched.facts.apply(lambda facts: str(facts.get(key, "")))


def _metric(
    id: str, namespace: str, name: str, stat: str, where: Mapping[str, Text], window_s: int, *, watched: bool = False
) -> dict[str, Any]:
    metric = {"namespace": namespace, "metric_name": name, "dimensions": dict(where), "period": window_s, "stat": stat}
    return {"id": id, "metric": metric, "return_data": watched}
