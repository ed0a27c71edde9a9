"""What the pod of a function's schedule does: it writes the event that the schedule is due onto the platform's bus.

    python -m ekiben.kubernetes.due

Which due time it is, the name of its Job says, so that a pod that comes twice tells of one event. Standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from datetime import UTC, datetime

from ekiben.kubernetes.keys import event_key
from ekiben.kubernetes.s3 import Store
from ekiben.records import Event, now

__all__ = ["event_of", "main"]

# What a schedule's pod is told: the function, its expression as the spec has it, its zone, and the platform's bus.
FUNCTION, CRON, ZONE, BUS, JOB = (
    "EKIBEN_FUNCTION_NAME", "EKIBEN_SCHEDULE", "EKIBEN_ZONE", "EKIBEN_BUS", "EKIBEN_JOB_NAME",
)  # fmt: skip


def event_of(function: str, cron: str, zone: str, job: str) -> Event:
    """The event of a Job that a CronJob has made: its name ends in the minutes since 1970 at which it was due.

    https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/cronjob/utils.go (getJobName)
    """
    due = datetime.fromtimestamp(int(job.rpartition("-")[2]) * 60, UTC).isoformat().replace("+00:00", "Z")
    words = json.dumps(["Schedule", function, cron, zone, due])
    return Event(
        id=f"schedule-{hashlib.sha256(words.encode()).hexdigest()[:32]}",
        type="Schedule", source=function, subject=cron, time=now(), data={"due": due, "zone": zone},
    )  # fmt: skip


def main() -> int:
    """Write the event. Raises what the store raises: the Job then tries again."""
    env = os.environ
    event = event_of(env[FUNCTION], env[CRON], env[ZONE], env[JOB])
    Store.of_environment().put(f"{env[BUS]}/{event_key(event.id)}", event.to_json().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
