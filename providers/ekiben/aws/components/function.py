"""Function: a zip function on Lambda with its role, log and queue of dead letters, and what starts it. A monitor watches it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pulumi
import pulumi_aws as aws

from ekiben import components, packing
from ekiben.aws import SUPPORT, prices
from ekiben.aws.components import triggers
from ekiben.aws.components.policies import Asked, Known, Statement, allow, asking, document, like, tls_only
from ekiben.aws.components.program import LOG_DAYS, Aws, current
from ekiben.aws.components.registry import Registry
from ekiben.aws.components.storage import Storage
from ekiben.aws.jobs import scope_of
from ekiben.components import Component
from ekiben.cost import Cost
from ekiben.errors import SpecError, Unsupported
from ekiben.programs import facts
from ekiben.records import Platform
from ekiben.specs import NewData, On, Schedule

__all__ = ["Function", "function_statements", "queue_statements", "run_statements", "schedule_statements"]

RUNTIME, PYTHON = "python3.13", "3.13"
MACHINE = "x86_64"
ROOT, LIBRARY = "/var/task", "_ekiben"
RECORD = f"{LIBRARY}/platform.json"
MARKS = "deliveries"
# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
ENVIRONMENT_BYTES = 4096
LETTER_DAYS = 14
# What `ekiben.aws.letters` calls.
OF_LETTERS = ("ReceiveMessage", "ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes")
EVENT_AGE_S = 6 * 3600


class Function(Aws, components.Function):
    """function: the Lambda function; log, dead: its log group and the queue of its dead letters.

    What it uses is in its bundle, as the platform's record.
    """

    support = SUPPORT
    function: aws.lambda_.Function
    log: aws.cloudwatch.LogGroup
    dead: aws.sqs.Queue

    def create(self) -> None:
        spec = self.spec
        bundle = packing.function_bundle(components.source_folder(self, spec.source, "main.py"), "aws")
        self.identity = self.role("lambda.amazonaws.com")
        self.dead = aws.sqs.Queue(
            f"{self.name}-dead",
            message_retention_seconds=LETTER_DAYS * 24 * 3600,
            sqs_managed_sse_enabled=True,
            tags=self.tags,
            opts=self.opts(),
        )
        self.log = aws.cloudwatch.LogGroup(self.name, retention_in_days=LOG_DAYS, tags=self.tags, opts=self.opts())
        self.may(asking(run_statements, *self._places))
        for used in self.uses:
            if not isinstance(used, Aws):
                raise SpecError(
                    f"The function {self.name!r} is on aws and uses {used.name!r}, which is on {used.provider}: its role reaches "
                    "nothing there. Use components of aws."
                )
            used.grant(self)
        home = next((storage for used in self.uses for storage in _storages(used)), None)
        if home is not None:
            self.may(home.statements(f"{MARKS}/{self.name}/", write=True))
        self.acts()
        self.function = aws.lambda_.Function(
            self.name,
            runtime=RUNTIME,
            architectures=[MACHINE],
            handler="ekiben.aws.handler.handle",
            role=self.identity.arn,
            code=self._platform().apply(lambda record: _code(bundle, record)),
            timeout=spec.timeout_s,
            memory_size=spec.memory_mib,
            environment={"variables": self._environment(home)},
            logging_config={"log_format": "Text", "log_group": self.log.name},
            dead_letter_config={"target_arn": self.dead.arn},
            tags=self.tags,
            opts=self.opts(depends_on=self.policies),
        )
        invoked = aws.lambda_.FunctionEventInvokeConfig(
            self.name,
            function_name=self.function.name,
            maximum_retry_attempts=spec.retries,
            maximum_event_age_in_seconds=EVENT_AGE_S,
            opts=self.opts(),
        )
        # What starts it comes last, so that nothing is lost that starts it at once.
        rules = self._rules([invoked])
        self._schedules([invoked])
        aws.sqs.QueuePolicy(
            f"{self.name}-dead",
            queue_url=self.dead.url,
            policy=pulumi.Output.all(self.dead.arn, *(rule.arn for rule in rules)).apply(
                lambda arns: document(queue_statements(arns[0], arns[1:]))
            ),
            opts=self.opts(),
        )
        self.ref = self.function.arn
        self.facts = facts(
            region=self.region,
            function=self.function.name,
            log_group=self.log.name,
            timeout_s=spec.timeout_s,
            retries=spec.retries,
            url=self._url(),
            dead_letters=self.dead.url,
        )

    def cost(self) -> Cost:
        return prices.function(self.spec.memory_mib)

    def needs(self) -> Asked:
        return asking(function_statements, self._arn, *self._places)

    @property
    def _arn(self) -> Known:
        return Known(self.function.arn, like("lambda", f"function:{self.name}"))

    @property
    def _places(self) -> tuple[Known, Known]:
        """The ARNs of its log and of its dead letters."""
        return (
            Known(self.log.arn, like("logs", f"log-group:{self.name}")),
            Known(self.dead.arn, like("sqs", f"{self.name}-dead")),
        )

    def _platform(self) -> pulumi.Output[str]:
        """The record of what the function uses, and nothing else."""
        project, stack = pulumi.get_project(), pulumi.get_stack()
        return pulumi.Output.all(*(used.part for used in self.uses)).apply(
            lambda parts: Platform(project=project, stack=stack, parts={part.name: part for part in parts}).to_json()
        )

    def _environment(self, home: Storage | None) -> dict[str, pulumi.Input[str]]:
        """The spec's variables, then those that make it work. Raises Unsupported where they are more than Lambda holds.

        home: where it marks the events that it has had.
        """
        found: dict[str, pulumi.Input[str]] = {
            **self.spec.env, "PYTHONPATH": f"{ROOT}/{LIBRARY}", "EKIBEN_PLATFORM": f"{ROOT}/{RECORD}",
        }  # fmt: skip
        if home is not None:
            found["EKIBEN_DELIVERIES"] = pulumi.Output.concat(home.uri, f"/{MARKS}/{self.name}")
        # A bucket's name has 63 characters at most; the others are known.
        size = sum(
            len(f"{key}{value if isinstance(value, str) else 'x' * 120}".encode()) for key, value in found.items()
        )
        if size > ENVIRONMENT_BYTES:
            raise Unsupported(
                f"FunctionSpec of {self.name!r}: env: aws allows {ENVIRONMENT_BYTES} bytes of environment variables at most, and "
                f"these are {size}. Put what is large into a file of its source."
            )
        return found

    def _rules(self, ready: list[pulumi.Resource]) -> list[aws.cloudwatch.EventRule]:
        """The rules that deliver to the function, one for each trigger that is an event."""
        rules = []
        for number, trigger in enumerate(self.spec.on):
            suffix = f"-on-{number}"
            if isinstance(trigger, NewData):
                bucket = self._watched(number, trigger).bucket.bucket
                rules.append(
                    self._rule(suffix, bucket.apply(lambda name, one=trigger: triggers.landed(name, one)), ready)
                )
            elif isinstance(trigger, On) and trigger.event == "TrainingEnded":
                rules.append(self._rule(suffix, self._scopes(number, trigger).apply(triggers.trained), ready))
            elif isinstance(trigger, On):
                pattern = pulumi.Output.from_input(triggers.told(trigger.event, trigger.source))
                rules.append(self._rule(suffix, pattern, ready, self.bus))
                if trigger.event == "ModelDecided":
                    rules.extend(self._adopted(suffix, trigger, ready))
        return rules

    def _adopted(self, suffix: str, trigger: On, ready: list[pulumi.Resource]) -> Iterator[aws.cloudwatch.EventRule]:
        """Decisions in SageMaker's own registry: the handler takes them over, and then they are told on the bus."""
        for used in self.uses:
            shown = isinstance(used, Registry) and used.spec.mirror != "off"
            if isinstance(used, Registry) and shown and trigger.source in ("", used.name):
                yield self._rule(f"{suffix}-{used.name}", used.groups.apply(triggers.decided), ready)

    def _rule(
        self, suffix: str, pattern: pulumi.Output[Mapping[str, Any]], ready: list[pulumi.Resource],
        bus: aws.cloudwatch.EventBus | None = None,
    ) -> aws.cloudwatch.EventRule:  # fmt: skip
        """A rule and its target: the function, which lets that rule call it."""
        name, on = self.name + suffix, {"event_bus_name": bus.name} if bus else {}
        rule = aws.cloudwatch.EventRule(
            name,
            event_pattern=pattern.apply(lambda pattern: json.dumps(pattern, sort_keys=True)),
            tags=self.tags,
            opts=self.opts(),
            **on,
        )
        allowed = aws.lambda_.Permission(
            name,
            action="lambda:InvokeFunction",
            function=self.function.name,
            principal="events.amazonaws.com",
            source_arn=rule.arn,
            opts=self.opts(),
        )
        aws.cloudwatch.EventTarget(
            name,
            rule=rule.name,
            arn=self.function.arn,
            dead_letter_config={"arn": self.dead.arn},
            retry_policy={"maximum_event_age_in_seconds": EVENT_AGE_S, "maximum_retry_attempts": self.spec.retries},
            opts=self.opts(depends_on=[allowed, *ready]),
            **on,
        )
        return rule

    def _watched(self, number: int, trigger: NewData) -> Storage:
        known = {**current().storages, **{used.name: used for used in self.uses if isinstance(used, Storage)}}
        if trigger.storage not in known:
            raise SpecError(
                f"FunctionSpec of {self.name!r}: on[{number}] names the storage {trigger.storage!r}, which the program has not "
                f"made on aws before this function; it has made: {', '.join(known) or 'none'}."
            )
        return known[trigger.storage]

    def _scopes(self, number: int, trigger: On) -> pulumi.Output[list[str]]:
        """What the names of the jobs end with whose end is waited for."""
        project, stack = pulumi.get_project(), pulumi.get_stack()
        wanted = [
            used for used in self.uses if isinstance(used, components.Training) and trigger.source in ("", used.name)
        ]
        if not wanted:
            raise SpecError(
                f"FunctionSpec of {self.name!r}: on[{number}] waits for runs of {trigger.source or 'a training'!r} to end, which "
                "the function cannot look at: give it uses=[...] with that training."
            )
        found: pulumi.Output[list[str]] = pulumi.Output.all(
            *(
                pulumi.Output.all(used.name, used.facts["storage_uri"]).apply(
                    lambda told: scope_of(project, stack, told[0], told[1])
                )
                for used in wanted
            )
        )
        return found

    def _schedules(self, ready: list[pulumi.Resource]) -> None:
        wanted = [one for one in self.spec.on if isinstance(one, Schedule)]
        if not wanted:
            return
        role = self.role("scheduler.amazonaws.com", "-schedule")
        allowed = self.policy(
            role,
            "schedule-runs",
            asking(schedule_statements, self._arn, self._places[1]),
        )
        group = aws.scheduler.ScheduleGroup(self.name, tags=self.tags, opts=self.opts())
        for number, trigger in enumerate(wanted):
            aws.scheduler.Schedule(
                f"{self.name}-{number}",
                group_name=group.name,
                schedule_expression=triggers.cron(trigger.cron),
                schedule_expression_timezone=trigger.zone,
                flexible_time_window={"mode": "OFF"},
                target={
                    "arn": self.function.arn,
                    "role_arn": role.arn,
                    "input": json.dumps(triggers.due(self.name, trigger), sort_keys=True),
                    "dead_letter_config": {"arn": self.dead.arn},
                    "retry_policy": {
                        "maximum_event_age_in_seconds": EVENT_AGE_S, "maximum_retry_attempts": self.spec.retries,
                    },
                },
                opts=self.opts(depends_on=[allowed, *ready]),
            )  # fmt: skip

    def _url(self) -> pulumi.Input[str]:
        """Who calls it signs the request: a function has no open address."""
        if not any(one.type == "Http" for one in self.spec.on):
            return ""
        made = aws.lambda_.FunctionUrl(
            self.name, function_name=self.function.name, authorization_type="AWS_IAM", opts=self.opts()
        )
        url: pulumi.Output[str] = made.function_url
        return url


def _storages(component: Component[Any]) -> Iterator[Storage]:
    """The storages of AWS that a component lives in."""
    if isinstance(component, Storage):
        yield component
    elif isinstance(component, components.Registry | components.Training):
        yield from _storages(component.storage)
    elif isinstance(component, components.Endpoint):
        yield from _storages(component.registry)


def _code(bundle: packing.Bundle, record: str) -> pulumi.FileArchive:
    """The zip of a function: its bundle, obstore for Lambda's machine, and the record of what it uses."""
    with tarfile.open(bundle.path) as tar:
        members: dict[str, Any] = {
            member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None
        }
    for name, path in packing.vendored("obstore", machine=MACHINE, python=PYTHON).items():
        members[f"{LIBRARY}/{name}"] = path
    members[RECORD] = record.encode()
    return pulumi.FileArchive(str(packing.zipped(members).path))


def run_statements(log_arn: str, dead_arn: str) -> list[Statement]:
    """What every function does: it writes its log, and what is given up goes to its queue."""
    return [
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], [f"{log_arn}:*"]),
        allow(["sqs:SendMessage"], [dead_arn]),
    ]


def function_statements(function_arn: str, log_arn: str, dead_arn: str) -> list[Statement]:
    """What it takes to use a function: call it, read its log, and take dead letters out of their queue."""
    return [
        allow(["lambda:InvokeFunction"], [function_arn]),
        allow(["logs:FilterLogEvents"], [log_arn, f"{log_arn}:*"]),
        allow([f"sqs:{name}" for name in OF_LETTERS], [dead_arn]),
    ]


def schedule_statements(function_arn: str, dead_arn: str) -> list[Statement]:
    """What a schedule does: it calls the function, and leaves what it cannot hand over in the queue."""
    return [allow(["lambda:InvokeFunction"], [function_arn]), allow(["sqs:SendMessage"], [dead_arn])]


def queue_statements(queue_arn: str, rule_arns: Sequence[str]) -> list[Statement]:
    """The policy of the queue: its rules may put in what they cannot hand over, and nobody comes without TLS."""
    rules: Statement = {
        "Sid": "Rules",
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": list(rule_arns)}},
    }
    return [tls_only("sqs:*", queue_arn), *([rules] if rule_arns else [])]
