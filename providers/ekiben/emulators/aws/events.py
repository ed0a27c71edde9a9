"""EventBridge rules that deliver to functions and topics, which moto does not: of what is put on a bus, and of S3's own events.

As in AWS a function's or a topic's policy must let EventBridge invoke it; what it refuses goes to the target's dead-letter queue.
"""

from __future__ import annotations

import copy
import json
import time
import uuid
from typing import Any

from moto.events.models import Rule
from moto.events.utils import EventTemplateParser

from ekiben.emulators.aws import topics
from ekiben.emulators.aws.functions import Functions

__all__ = ["connect", "invoke_targets"]

FUNCTION = ":function:"


def connect(functions: Functions) -> None:
    """Have moto's rules deliver to functions as well."""
    plainly = Rule.send_to_targets

    def send(self: Rule, original_event: Any, transform_input: bool = True) -> None:
        _as_s3_tells(original_event)
        # A rule without a pattern has a schedule, and hears nothing else; moto lets it hear all.
        if (
            self.state != "ENABLED"
            or not self.event_pattern.get_pattern()
            or not self.event_pattern.matches_event(original_event)
        ):
            return
        event = dict(original_event)
        if not isinstance(event.get("time"), str):
            event["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.get("time") or time.time()))
        event["id"] = str(uuid.uuid4())
        invoke_targets(functions, self, event)
        for target in self.targets:
            if target["Arn"].split(":")[2] == "sns":
                told = _input(target, event)
                text = told if isinstance(told, str) else json.dumps(told)
                topics.publish(target["Arn"], text, service="events.amazonaws.com", source_arn=self.arn)
        others = copy.copy(self)
        others.targets = [target for target in self.targets if target["Arn"].split(":")[2] not in ("lambda", "sns")]
        plainly(others, original_event, transform_input)

    Rule.send_to_targets = send  # type: ignore[method-assign]


def _as_s3_tells(event: dict[str, Any]) -> None:
    """An event of an object, in place, once for all rules: moto names the etag as notifications do, and counts no writes.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html
    """
    told = event.get("detail", {}).get("object") if event.get("source") == "aws.s3" else None
    if isinstance(told, dict) and "eTag" in told:
        told |= {"etag": told.pop("eTag"), "sequencer": f"{time.time_ns():018X}"}


def invoke_targets(functions: Functions, rule: Rule, event: dict[str, Any]) -> None:
    """Give an event to those targets of a rule that are functions."""
    for target in rule.targets:
        if FUNCTION in target["Arn"]:
            functions.deliver(
                target["Arn"], _input(target, event), service="events.amazonaws.com", source_arn=rule.arn,
                dead_letters=target.get("DeadLetterConfig", {}).get("Arn", ""),
            )  # fmt: skip


def _input(target: dict[str, Any], event: dict[str, Any]) -> Any:
    """What of an event a target gets."""
    if "Input" in target:
        return json.loads(target["Input"])
    if path := target.get("InputPath"):
        found: Any = event
        for part in path.removeprefix("$").strip(".").split("."):
            found = found.get(part) if isinstance(found, dict) and part else found
        return found
    if transformer := target.get("InputTransformer"):
        parse: Any = EventTemplateParser.parse
        return parse(transformer.get("InputTemplate"), transformer.get("InputPathsMap", {}), event)
    return event
