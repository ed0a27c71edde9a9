"""Schedules of the emulated AWS fire when they say, and what they deliver arrives."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from ekiben.emulators.aws.clock import next_time
from tests.waiting import until

from .conftest import Aws
from .test_functions import ROLE, make

NOW = datetime(2026, 3, 28, 12, 0, 30, tzinfo=UTC)  # a Saturday


@pytest.mark.parametrize(
    ("expression", "zone", "comes"),
    [
        ("at(2026-03-28T13:30:00)", "Europe/Madrid", "2026-03-28T12:30:00+00:00"),
        ("at(2026-03-28T12:30:00)", "Europe/Madrid", None),
        ("rate(5 minutes)", "UTC", "2026-03-28T12:05:30+00:00"),
        ("rate(1 hour)", "UTC", "2026-03-28T13:00:30+00:00"),
        ("cron(0 3 * * ? *)", "Europe/Madrid", "2026-03-29T01:00:00+00:00"),  # the clock goes forward in between
        ("cron(0 10 ? * 2-6 *)", "UTC", "2026-03-30T10:00:00+00:00"),
        ("cron(0 10 ? * MON-FRI *)", "UTC", "2026-03-30T10:00:00+00:00"),
        ("cron(0 10 1 1 ? 2028)", "UTC", "2028-01-01T10:00:00+00:00"),
        ("cron(0 10 1 1 ? 2020)", "UTC", None),
        ("cron(0 0 L * ? *)", "UTC", "2026-03-31T00:00:00+00:00"),
    ],
)
def test_when_a_schedule_comes_next(expression: str, zone: str, comes: str | None) -> None:
    found = next_time(expression, zone, NOW, NOW)
    assert (found and found.astimezone(UTC).isoformat()) == comes


@pytest.mark.parametrize("expression", ["cron(0 3 * * *)", "every(5 minutes)", "rate(5 weeks)", "rate(five minutes)"])
def test_what_is_no_schedule(expression: str) -> None:
    with pytest.raises(ValueError, match="is no schedule"):
        next_time(expression, "UTC", NOW, NOW)


def test_a_schedule_calls_its_function_and_goes(aws: Aws) -> None:
    aws.s3.create_bucket(Bucket="fired")
    arn = make(
        aws, "fire",
        "import json, boto3\n"
        "def handler(event, context):\n"
        "    boto3.client('s3').put_object(Bucket='fired', Key='it', Body=json.dumps(event).encode())\n",
    )  # fmt: skip
    soon = datetime.now(UTC) + timedelta(seconds=2)
    aws.scheduler.create_schedule(
        Name="once", ScheduleExpression=f"at({soon:%Y-%m-%dT%H:%M:%S})", FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={"Arn": arn, "RoleArn": ROLE, "Input": json.dumps({"at": "<aws.scheduler.scheduled-time>"})},
    )  # fmt: skip
    # A rule with a schedule hears no other event.
    aws.events.put_rule(Name="hourly", ScheduleExpression="rate(1 hour)")
    aws.events.put_targets(Rule="hourly", Targets=[{"Id": "f", "Arn": arn}])
    aws.events.put_events(Entries=[{"Source": "x", "DetailType": "y", "Detail": "{}"}])
    until(lambda: aws.s3.list_objects_v2(Bucket="fired").get("Contents"))
    event = json.loads(aws.s3.get_object(Bucket="fired", Key="it")["Body"].read())
    assert event == {"at": f"{soon:%Y-%m-%dT%H:%M:%SZ}"}
    assert until(lambda: not aws.scheduler.list_schedules()["Schedules"])
