"""Cron expressions of five fields, spelled out: dialects differ in steps, names, and in which day of the week is 0, 1 or 7."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

__all__ = ["Fields", "fields", "spelled"]


class Fields(NamedTuple):
    """The numbers that each field means. weekdays: 0 is Sunday; days, weekdays: empty where any will do."""

    minutes: list[int]
    hours: list[int]
    days: list[int]
    months: list[int]
    weekdays: list[int]


def fields(expression: str) -> Fields:
    """An expression that a spec took: of the two days one may be restricted at most."""
    from cronsim import CronSim

    found: Any = CronSim(expression, datetime.now(UTC))
    _, _, day, _, weekday = expression.split()
    assert day == "*" or weekday == "*", "the spec lets only one of the two days be restricted"
    return Fields(
        sorted(found.minutes),
        sorted(found.hours),
        [] if day == "*" else sorted(found.days),
        sorted(found.months),
        [] if weekday == "*" else sorted({number % 7 for number in found.weekdays}),
    )


def spelled(wanted: Iterable[int], first: int, last: int) -> str:
    """A set of numbers as a field: "*", or a list of numbers and ranges."""
    left = sorted(wanted)
    if left == list(range(first, last + 1)):
        return "*"
    parts: list[list[int]] = []
    for number in left:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
