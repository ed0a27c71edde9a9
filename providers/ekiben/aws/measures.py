"""Counts and latencies from CloudWatch, by the version that answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ekiben.aws.client import Cloud
from ekiben.records import RevisionMetrics

__all__ = ["BALANCER", "LAMBDA", "SAGEMAKER", "Counted", "measured"]

# CloudWatch keeps hours for 15 months, and finer steps for a shorter time.
STEP_S = 3600
KEPT_DAYS = 455


class Counted(NamedTuple):
    """How a service calls what it counts; `ms` is its unit of time in milliseconds."""

    namespace: str
    requests: str
    errors: str
    latency: str
    ms: float


LAMBDA = Counted("AWS/Lambda", "Invocations", "Errors", "Duration", 1.0)
BALANCER = Counted("AWS/ApplicationELB", "RequestCount", "HTTPCode_Target_5XX_Count", "TargetResponseTime", 1000.0)
SAGEMAKER = Counted("AWS/SageMaker", "Invocations", "Invocation5XXErrors", "ModelLatency", 0.001)


def measured(
    cloud: Cloud, operation: str, revision: str, since: str, where: Sequence[Mapping[str, str]], counted: Counted
) -> RevisionMetrics:
    """Of the calls that are counted under any of the dimensions `where`: all since `since`, and the latency of their last hour."""
    if not where:
        return RevisionMetrics(revision=revision)
    now = datetime.now(UTC)
    start = max(now - timedelta(days=KEPT_DAYS), _at(since) or now - timedelta(days=1))
    start = start.replace(minute=0, second=0, microsecond=0)
    asked = {"requests": (counted.requests, "Sum"), "errors": (counted.errors, "Sum")}
    asked |= {f"p{at}_ms": (counted.latency, f"p{at}") for at in (50, 95, 99)}
    queries = [
        _query(f"{name}_{number}", counted.namespace, metric, statistic, dimensions)
        for name, (metric, statistic) in asked.items()
        for number, dimensions in enumerate(where)
    ]
    series: dict[str, list[tuple[datetime, float]]] = {}
    request = {"MetricDataQueries": queries, "StartTime": start, "EndTime": now + timedelta(minutes=1)}
    for result in cloud.pages("cloudwatch", "get_metric_data", operation, **request):
        name = str(result["Id"]).rpartition("_")[0]
        series.setdefault(name, []).extend(zip(result["Timestamps"], result["Values"], strict=True))
    latest = {name: max(points)[1] for name, points in series.items() if points}
    return RevisionMetrics(
        revision=revision,
        requests=int(sum(value for _, value in series.get("requests", []))),
        errors=int(sum(value for _, value in series.get("errors", []))),
        p50_ms=counted.ms * latest.get("p50_ms", 0.0),
        p95_ms=counted.ms * latest.get("p95_ms", 0.0),
        p99_ms=counted.ms * latest.get("p99_ms", 0.0),
    )


def _query(id: str, namespace: str, metric: str, statistic: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
    which = [{"Name": name, "Value": value} for name, value in dimensions.items()]
    counted = {"Namespace": namespace, "MetricName": metric, "Dimensions": which}
    return {"Id": id, "MetricStat": {"Metric": counted, "Period": STEP_S, "Stat": statistic}}


def _at(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
