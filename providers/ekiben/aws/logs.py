"""Lines from CloudWatch: of several streams in the order of their times, once each, and as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from ekiben.aws.client import Cloud
from ekiben.errors import NotFound

__all__ = ["lines"]

PAUSE_S = 2.0
# CloudWatch shows a line some seconds after it was printed, and those of two streams not in order.
LATE_MS = 30_000
# How often to look, after the end, without finding anything new.
LAST_LOOKS = 3


def lines(
    cloud: Cloud,
    group: str,
    operation: str,
    *,
    prefix: str = "",
    mark: bool = False,
    since_ms: int = 0,
    pattern: str = "",
    until: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """The lines of the streams that start with `prefix`; nothing where the group is not there yet. Pages are followed.

    pattern: of CloudWatch's filters, only lines that match. mark: put "[rank] " before each, from streams named
    ".../algo-RANK+1-...". until: go on until it is true and the last lines have come.
    """
    seen: dict[str, int] = {}
    newest, quiet = since_ms, 0
    while True:
        ended = until is None or until()
        fresh = False
        request = {"logGroupName": group, "startTime": max(since_ms, newest - LATE_MS)}
        if pattern:
            request["filterPattern"] = pattern
        if prefix:
            request["logStreamNamePrefix"] = prefix
        try:
            for event in cloud.pages("logs", "filter_log_events", operation, **request):
                if event["eventId"] in seen or not event["logStreamName"].startswith(prefix):
                    continue
                fresh = True
                seen[event["eventId"]] = event["timestamp"]
                newest = max(newest, event["timestamp"])
                yield _rank(event["logStreamName"]) * mark + event["message"].rstrip("\n")
        except NotFound:
            pass
        seen = {id: at for id, at in seen.items() if at >= newest - LATE_MS}
        quiet = 0 if fresh else quiet + ended
        if until is None or quiet >= LAST_LOOKS:
            return
        time.sleep(PAUSE_S)


def _rank(stream: str) -> str:
    """ "job/algo-2-1700000000" is the second node, whose rank is 1."""
    name = stream.rpartition("/")[2].split("-")
    return f"[{int(name[1]) - 1}] " if len(name) > 1 and name[0] == "algo" and name[1].isdigit() else ""
