"""Schedules that fire: those of EventBridge Scheduler, and EventBridge's own rules with a schedule.

A time that passed while no emulator ran is not made up for; the flexible window is not used.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim
from moto.events.models import events_backends
from moto.scheduler.models import scheduler_backends

from ekiben.emulators.aws import roles
from ekiben.emulators.aws.call import Refused
from ekiben.emulators.aws.events import invoke_targets
from ekiben.emulators.aws.functions import SENDS, Functions

__all__ = ["Clock", "next_time"]

LOOK_S = 0.25
UNITS = {"minute": "minutes", "hour": "hours", "day": "days"}
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")

logger = logging.getLogger("ekiben.emulators.aws")


def next_time(expression: str, zone: str, after: datetime, since: datetime) -> datetime | None:
    """When at(...), rate(...) or cron(...) comes next after `after`; None when never. since: where a rate counts from.

    Raises ValueError for another expression.
    """
    kind, _, text = expression.strip().removesuffix(")").partition("(")
    tz = ZoneInfo(zone)
    if kind == "at":
        at = datetime.fromisoformat(text).replace(tzinfo=tz)
        return at if at > after else None
    if kind == "rate" and (found := re.fullmatch(r"(\d+) (minute|hour|day)s?", text)):
        step = timedelta(**{UNITS[found[2]]: int(found[1])})
        steps: int = (after - since) // step + 1
        return since + max(1, steps) * step
    if kind == "cron" and len(fields := text.split()) == 6:
        *five, years = fields
        five[4] = re.sub(r"\b[1-7]\b(?!#)", lambda day: DAYS[int(day[0]) - 1], five[4].upper())
        wanted = _years(years)
        times: Iterator[datetime] = CronSim(" ".join(field.replace("?", "*") for field in five), after.astimezone(tz))
        for at in times:
            if at.year in wanted:
                return at
            if at.year > max(wanted):
                return None
    raise ValueError(f"{expression!r} is no schedule: at(...), rate(...) or cron(...) with six fields")


class Clock:
    """Looks at moto's tables, and fires what is due."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._due: dict[tuple[Any, ...], datetime | None] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="clock").start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                self._look(datetime.now(UTC))
            except Exception:
                logger.exception("looking at the schedules")

    def _look(self, now: datetime) -> None:
        seen: set[tuple[Any, ...]] = set()
        for key, expression, zone, fire in (*self._schedules(), *self._rules()):
            seen.add(key)
            try:
                if key not in self._due:
                    self._due[key] = next_time(expression, zone, now, now)
                due = self._due[key]
                if due is not None and due <= now:
                    self._due[key] = next_time(expression, zone, now, due)
                    fire(due)
            except ValueError as error:
                self._due[key] = None
                logger.warning("a schedule that is not understood: %s", error)
        for key in self._due.keys() - seen:
            del self._due[key]

    def _schedules(self) -> Iterator[tuple[tuple[Any, ...], str, str, Any]]:
        for regions in list(scheduler_backends.values()):
            for backend in list(regions.values()):
                for group in list(backend.schedule_groups.values()):
                    for one in list(group.schedules.values()):
                        if one.state == "ENABLED":
                            zone, text = one.schedule_expression_timezone, one.schedule_expression
                            key = one.arn, text, zone, one.creation_date
                            yield key, text, zone, partial(self._fire, one, group)

    def _rules(self) -> Iterator[tuple[tuple[Any, ...], str, str, Any]]:
        for regions in list(events_backends.values()):
            for backend in list(regions.values()):
                for bus in list(backend.event_buses.values()):
                    for rule in list(bus.rules.values()):
                        if rule.scheduled_expression and rule.state == "ENABLED":
                            text = rule.scheduled_expression
                            yield (rule.arn, text), text, "UTC", partial(self._fire_rule, rule)

    def _fire(self, schedule: Any, group: Any, due: datetime) -> None:
        target = schedule.target
        words = {
            "schedule-arn": schedule.arn, "execution-id": str(uuid.uuid4()), "attempt-number": "1",
            "scheduled-time": due.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }  # fmt: skip
        text = re.sub(
            r"<aws\.scheduler\.([a-z-]+)>", lambda found: words.get(found[1], found[0]), target.get("Input") or "{}"
        )
        letters = target.get("DeadLetterConfig", {}).get("Arn", "")
        try:
            roles.trusted(target["RoleArn"], "scheduler.amazonaws.com")
        except Refused as refused:
            logger.warning("the schedule %s does not fire: %s", schedule.arn, refused.message)
            return
        if not roles.may(target["RoleArn"], SENDS[target["Arn"].split(":")[2]], target["Arn"]):
            return
        if ":function:" in target["Arn"]:
            try:
                event = json.loads(text)
            except ValueError:
                event = text
            self._functions.deliver(target["Arn"], event, dead_letters=letters)
        else:
            self._functions.send(target["Arn"], text.encode())
        if schedule.action_after_completion == "DELETE" and schedule.schedule_expression.startswith("at("):
            group.schedules.pop(schedule.name, None)

    def _fire_rule(self, rule: Any, due: datetime) -> None:
        event = {
            "version": "0", "id": str(uuid.uuid4()), "detail-type": "Scheduled Event", "source": "aws.events",
            "account": rule.account_id, "time": due.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": rule.region_name, "resources": [rule.arn], "detail": {},
        }  # fmt: skip
        invoke_targets(self._functions, rule, event)
        for target in rule.targets:
            if ":function:" not in target["Arn"]:
                self._functions.send(target["Arn"], json.dumps(event).encode())


def _years(text: str) -> set[int]:
    found: set[int] = set()
    for part in text.replace("?", "*").split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-") if span != "*" else ("1970", "-", "2199")
        found.update(range(int(first), int(last or (2199 if step else first)) + 1, int(step or 1)))
    return found
