"""CloudWatch's alarms, which moto keeps and never looks at: judged each second, and told to topics and functions.

A window slides by minutes, the running one included, so an alarm is raised sooner than by AWS. The topic's policy, and that of its
key, have to let CloudWatch publish.
"""

from __future__ import annotations

import json
import logging
import operator
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from moto.cloudwatch.models import Alarm, CloudWatchBackend, Dimension, MetricDatumBase, cloudwatch_backends
from moto.core.utils import utcnow

from ekiben.emulators.aws import topics
from ekiben.emulators.aws.functions import Functions
from ekiben.emulators.aws.metric_math import calculated, query
from ekiben.emulators.aws.metrics import statistic

__all__ = ["Alarms"]

LOOK_S = 1.0
STEP = timedelta(minutes=1)
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt, "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt, "LessThanOrEqualToThreshold": operator.le,
}  # fmt: skip
ACTIONS = {"ALARM": "alarm_actions", "OK": "ok_actions", "INSUFFICIENT_DATA": "insufficient_data_actions"}

logger = logging.getLogger("ekiben.emulators.aws")


class Alarms:
    """Looks at moto's tables, and tells what has changed since it looked last."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._told: dict[str, str] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="alarms").start()

    def close(self) -> None:
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(LOOK_S):
            try:
                for account, regions in list(cloudwatch_backends.items()):
                    for region, backend in list(regions.items()):
                        if backend.alarms:
                            self._look(account, region, backend, utcnow())
            except Exception:
                logger.exception("looking at the alarms")

    def _look(self, account: str, region: str, backend: CloudWatchBackend, now: datetime) -> None:
        for alarm in list(backend.alarms.values()):
            if alarm.rule is not None:
                continue
            self._tell(account, region, alarm)  # of a state that somebody set
            state, reason = _judged(alarm, backend.metric_data, now)
            if state and state != alarm.state_value:
                alarm.update_state(reason, json.dumps({"version": "1.0", "queryDate": now.isoformat()}), state)
                self._tell(account, region, alarm)
        for arn in self._told.keys() - {alarm.alarm_arn for alarm in backend.alarms.values()}:
            if arn.split(":")[3:5] == [region, account]:
                del self._told[arn]

    def _tell(self, account: str, region: str, alarm: Alarm) -> None:
        before, after = self._told.get(alarm.alarm_arn, "OK"), alarm.state_value
        self._told[alarm.alarm_arn] = after
        if before == after or not alarm.actions_enabled:
            return
        logger.info("the alarm %s is %s: %s", alarm.name, after, alarm.state_reason)
        for arn in getattr(alarm, ACTIONS[after]) or ():
            _, _, service, *_ = arn.split(":")
            message = _message(account, region, alarm, before)
            if service == "sns":
                subject = f'{after}: "{alarm.name}" in {region}'
                topics.publish(
                    arn, json.dumps(message), service="cloudwatch.amazonaws.com", source_arn=alarm.alarm_arn, subject=subject
                )  # fmt: skip
            elif service == "lambda":
                event = {"source": "aws.cloudwatch", "alarmArn": alarm.alarm_arn, "alarmData": message}
                caller = "lambda.alarms.cloudwatch.amazonaws.com"
                self._functions.deliver(arn, event, service=caller, source_arn=alarm.alarm_arn)
            else:
                logger.warning("the emulator does nothing with the action %s of the alarm %s", arn, alarm.name)


def _judged(alarm: Alarm, data: list[MetricDatumBase], now: datetime) -> tuple[str, str]:
    """The state an alarm is in, and why; no state leaves it as it is."""
    minute = now.replace(second=0, microsecond=0)
    try:
        # What came in the last moments of a minute is still looked at when the next one has begun.
        states = [_state(alarm, data, end) for end in (minute + STEP, minute)]
    except (ValueError, KeyError) as error:
        return "INSUFFICIENT_DATA", str(error)
    return min(states, key=lambda state: ("ALARM", "OK", "INSUFFICIENT_DATA", "").index(state[0]))


def _state(alarm: Alarm, data: list[MetricDatumBase], end: datetime) -> tuple[str, str]:
    period = timedelta(seconds=_period_s(alarm))
    values = []
    for number in range(int(alarm.evaluation_periods)):
        until = end - number * period
        values.append(_value(alarm, [one for one in data if until - period <= one.timestamp < until]))
    there = [value for value in values if value is not None]
    compare, threshold = COMPARISONS[alarm.comparison_operator], float(alarm.threshold)
    over = [value for value in there if compare(value, threshold)]
    missing, treated = len(values) - len(there), alarm.treat_missing_data or "missing"
    needed = int(alarm.datapoints_to_alarm or alarm.evaluation_periods)
    if over and len(over) + (missing if treated == "breaching" else 0) >= needed:
        return "ALARM", f"Threshold Crossed: {over[0]:g} was {alarm.comparison_operator} ({threshold:g})."
    if there:
        return "OK", f"Threshold Crossed: {there[0]:g} was not {alarm.comparison_operator} ({threshold:g})."
    state = {"notBreaching": "OK", "breaching": "ALARM", "missing": "INSUFFICIENT_DATA", "ignore": ""}[treated]
    return state, f"no data, and missing data is {treated}"


def _period_s(alarm: Alarm) -> int:
    found: list[Any] = [alarm.period, *(one.period for one in alarm.metric_data_queries)]
    found += [one.metric_stat.period for one in alarm.metric_data_queries if one.metric_stat]
    return next(int(period) for period in found if period)


def _value(alarm: Alarm, data: list[MetricDatumBase]) -> float | None:
    """What the alarm looks at, in one period. Raises ValueError for an expression that is not known here."""
    if not alarm.metric_data_queries:
        name = alarm.statistic or alarm.extended_statistic or ""
        return statistic(list(_of(data, alarm.namespace, alarm.metric_name, alarm.dimensions)), name)
    values: dict[str, float | None] = {}
    for one in alarm.metric_data_queries:
        if one.metric_stat:
            metric = one.metric_stat.metric
            there = list(_of(data, metric.namespace, metric.metric_name, metric.dimensions))
            values[one.id] = statistic(there, one.metric_stat.stat)
    for one in alarm.metric_data_queries:
        if one.expression and (asked := query(one.expression)):
            found = [
                datum for datum in data
                if (datum.namespace, datum.name) == (asked.namespace, asked.metric)
                and {each.name for each in datum.dimensions} == asked.schema
                and asked.where.items() <= {each.name: each.value for each in datum.dimensions}.items()
            ]  # fmt: skip
            values[one.id] = statistic(found, asked.statistic)
        elif one.expression:
            values[one.id] = calculated(one.expression, values)
    (watched,) = (one.id for one in alarm.metric_data_queries if str(one.return_data).lower() != "false")
    return values[watched]


def _of(
    data: list[MetricDatumBase], namespace: str, name: str, dimensions: list[Dimension]
) -> Iterator[MetricDatumBase]:
    wanted = sorted((one.name, one.value) for one in dimensions)
    for datum in data:
        found = (datum.namespace, datum.name, sorted((one.name, one.value) for one in datum.dimensions))
        if found == (namespace, name, wanted):
            yield datum


def _message(account: str, region: str, alarm: Alarm, before: str) -> dict[str, Any]:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Notify_Users_Alarm_Changes.html."""
    return {
        "AlarmName": alarm.name, "AlarmDescription": alarm.description, "AWSAccountId": account, "Region": region,
        "NewStateValue": alarm.state_value, "NewStateReason": alarm.state_reason, "OldStateValue": before,
        "StateChangeTime": alarm.state_updated_timestamp.strftime("%Y-%m-%dT%H:%M:%S.000+0000"), "AlarmArn": alarm.alarm_arn,
        "Trigger": {
            "MetricName": alarm.metric_name, "Namespace": alarm.namespace, "Period": _period_s(alarm),
            "Threshold": alarm.threshold, "ComparisonOperator": alarm.comparison_operator,
            "EvaluationPeriods": alarm.evaluation_periods, "TreatMissingData": alarm.treat_missing_data or "missing",
        },
    }  # fmt: skip
