"""What the emulator counts for CloudWatch, a row a minute and dimension in moto's own tables, and percentiles, which moto lacks."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from moto.cloudwatch.models import (
    CloudWatchBackend,
    Dimension,
    MetricAggregatedDatum,
    MetricDatum,
    MetricDatumBase,
    Statistics,
    cloudwatch_backends,
)
from moto.core.utils import utcnow

__all__ = ["count", "lambda_dimensions", "mend", "statistic"]

# Of one minute so many values are kept for percentiles, chosen evenly; sums and counts are of all.
KEPT = 1000

_lock = threading.Lock()


class Minute(MetricAggregatedDatum):
    """All that was counted in a minute under the same name and dimensions."""

    def __init__(self, namespace: str, name: str, dimensions: list[dict[str, str]], at: datetime, unit: str) -> None:
        super().__init__(namespace, name, math.inf, -math.inf, 0.0, 0.0, dimensions, at, unit)
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.min, self.max = min(self.min, value), max(self.max, value)
        self.sample_count += 1
        self.sum += value
        if len(self.values) < KEPT:
            self.values.append(value)
        elif (place := random.randrange(int(self.sample_count))) < KEPT:  # noqa: S311 - which value is kept is no secret
            self.values[place] = value


def count(
    account: str,
    region: str,
    namespace: str,
    where: Iterable[Mapping[str, str]],
    values: Mapping[str, tuple[float, str]],
) -> None:
    """Count `values` (metric -> value and unit) under each of the dimensions `where`."""
    backend, at = cloudwatch_backends[account][region], utcnow().replace(second=0, microsecond=0)
    with _lock:
        for dimensions in where:
            told = [{"Name": name, "Value": value} for name, value in dimensions.items()]
            for name, (value, unit) in values.items():
                _minute(backend, namespace, name, told, at, unit).add(value)


def lambda_dimensions(function: str, version: str, qualifier: str) -> list[dict[str, str]]:
    """Under what Lambda counts a call: https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-view.html."""
    whole = {"FunctionName": function}
    if not qualifier:
        return [whole, {**whole, "Resource": function}]
    resource = {**whole, "Resource": f"{function}:{qualifier}"}
    return [whole, resource] if qualifier == version else [whole, resource, {**resource, "ExecutedVersion": version}]


def statistic(data: Sequence[MetricDatumBase], name: str) -> float | None:
    """Sum, Average, Minimum, Maximum, SampleCount or a percentile of the data; None without any. Raises ValueError for another."""
    if not data:
        return None
    if name.startswith("p"):
        values = sorted(value for datum in data for value in _values(datum))
        rank = math.ceil(float(name[1:]) / 100 * len(values))
        return values[max(rank, 1) - 1] if values else None
    stats = Statistics([name], data[0].timestamp)
    stats.metric_data = list(data)
    found = _plainly(stats, name)
    if found is None:
        raise ValueError(f"the emulator does not know the statistic {name!r}")
    return float(found)


def mend() -> None:
    """Have moto know percentiles, and dimensions in any order."""

    def known(self: Statistics, stat: str) -> Any:
        return statistic(self.metric_data, stat) if stat.startswith("p") else _plainly(self, stat)

    def before(self: Dimension, other: Dimension) -> bool:
        return (self.name or "", self.value or "") < (other.name or "", other.value or "")

    Statistics.get_statistics_for_type = known  # type: ignore[method-assign]
    Dimension.__lt__ = before  # type: ignore[method-assign]


_plainly = Statistics.get_statistics_for_type


def _minute(
    backend: CloudWatchBackend, namespace: str, name: str, dimensions: list[dict[str, str]], at: datetime, unit: str
) -> Minute:
    wanted = [Dimension(one["Name"], one["Value"]) for one in dimensions]
    for datum in reversed(backend.metric_data):  # those of this minute are the last
        if datum.timestamp < at:
            break
        if (
            isinstance(datum, Minute)
            and (datum.namespace, datum.name) == (namespace, name)
            and datum.dimensions == wanted
        ):
            return datum
    made = Minute(namespace, name, dimensions, at, unit)
    backend.metric_data.append(made)
    return made


def _values(datum: MetricDatumBase) -> list[float]:
    if isinstance(datum, Minute):
        return datum.values
    return [datum.value] if isinstance(datum, MetricDatum) else []
