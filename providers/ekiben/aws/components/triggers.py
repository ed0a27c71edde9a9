"""What starts a function, in EventBridge's own words: cron expressions, and patterns of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ekiben.aws.events import SOURCE
from ekiben.cron import fields, spelled
from ekiben.specs import NewData, Schedule

__all__ = ["cron", "decided", "due", "landed", "told", "trained"]

DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
ENDED = ("Completed", "Failed", "Stopped")


def cron(expression: str) -> str:
    """A cron expression of five fields as Scheduler has it: with a year, and `?` for the one of the two days that says nothing.

    Everything else is spelled out, for dialects differ in steps and in which day of the week is 1: "0 9 * * 1-5" is
    cron(0 9 ? * MON-FRI *). See https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html#cron-based
    """
    found = fields(expression)
    told = [
        spelled(found.minutes, 0, 59),
        spelled(found.hours, 0, 23),
        "?" if found.weekdays else spelled(found.days or range(1, 32), 1, 31),
        spelled(found.months, 1, 12),
        ",".join(DAYS[number] for number in found.weekdays) or "?",
        "*",
    ]
    return f"cron({' '.join(told)})"


def due(function: str, schedule: Schedule) -> dict[str, str]:
    """What a schedule gives the function: Scheduler itself fills in the time that it was due."""
    return {
        "schedule": schedule.cron,
        "zone": schedule.zone,
        "due": "<aws.scheduler.scheduled-time>",
        "function": function,
    }


def landed(bucket: str, trigger: NewData) -> dict[str, Any]:
    """The pattern of S3's events of new objects with keys like these."""
    pattern: dict[str, Any] = {
        "source": ["aws.s3"], "detail-type": ["Object Created"], "detail": {"bucket": {"name": [bucket]}},
    }  # fmt: skip
    if keys := _keys(trigger.prefix, trigger.suffix):
        pattern["detail"]["object"] = {"key": [keys]}
    return pattern


def _keys(prefix: str, suffix: str) -> dict[str, str]:
    """A filter takes one of them; of both together a wildcard is made, in which an asterisk of a key is escaped."""
    if prefix and suffix:
        # A key must be as long as both: what overlaps (prefix "a/", suffix "/b", key "a/b") is no match.
        first, last = (text.replace("\\", "\\\\").replace("*", "\\*") for text in (prefix, suffix))
        return {"wildcard": f"{first}*{last}"}
    if prefix:
        return {"prefix": prefix}
    return {"suffix": suffix} if suffix else {}


def told(event: str, source: str) -> dict[str, Any]:
    """The pattern of an event of Ekiben's on the program's bus."""
    pattern: dict[str, Any] = {"source": [SOURCE], "detail-type": [event]}
    return {**pattern, "detail": {"source": [source]}} if source else pattern


def trained(scopes: Sequence[str]) -> dict[str, Any]:
    """The pattern of SageMaker's events of training jobs that have ended, of trainings with these scopes."""
    names = [{"suffix": f"-{scope}"} for scope in sorted(scopes)]
    return {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Training Job State Change"],
        "detail": {"TrainingJobStatus": list(ENDED), "TrainingJobName": names},
    }


def decided(groups: str) -> dict[str, Any]:
    """The pattern of SageMaker's events of model packages whose approval has changed, in groups whose names begin so."""
    return {
        "source": ["aws.sagemaker"],
        "detail-type": ["SageMaker Model Package State Change"],
        "detail": {"ModelPackageGroupName": [{"prefix": f"{groups}-"}]},
    }
