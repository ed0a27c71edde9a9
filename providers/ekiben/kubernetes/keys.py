"""Where things lie in a stack's buckets, what objects made at run time are called, and what pods and their watchers agree on.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime

__all__ = ["EARLIER", "FAILED", "INTERRUPTED", "MASTER_PORT", "event_key", "event_time", "job_name", "run_key"]

# What the pods of a run and those who watch them agree on. Exit statuses: it has failed for good, or it was stopped and may go on.
FAILED, INTERRUPTED = 42, 143
# The first line of a pod that takes another one's place; as many lines follow of what that one has logged.
EARLIER = "ekiben: of earlier pods, {} lines:"
# Where node 0 is reached: that of `ekiben.job`.
MASTER_PORT = 29500
# The pods of an Indexed Job are NAME-INDEX-xxxxx, of a TrainJob NAME-node-0-INDEX-xxxxx, and hosts begin so: 63 characters at most.
NAME_CHARS = 45


def run_key(training: str, run: str, rest: str = "") -> str:
    """The key in storage of what belongs to a run."""
    return f"runs/{training}/{run}/{rest}"


def job_name(training: str, run: str, storage_uri: str) -> str:
    """The Job of a run: the same for the same run. Names begin with a letter, and have no capitals; ids may."""
    digest = hashlib.sha256(json.dumps([training, run, storage_uri]).encode()).hexdigest()[:8]
    plain = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    return f"run-{plain[: NAME_CHARS - 13].rstrip('-')}-{digest}"


def event_key(id: str, at: datetime | None = None) -> str:
    """The key of an event below the bus: keys sort by the time at which it was published, which is now."""
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{at or datetime.now(UTC):%Y%m%dT%H%M%S%f}-{digest}.json"


def event_time(key: str) -> datetime:
    """When the event at a key was published. Raises ValueError for the key of something else."""
    return datetime.strptime(key.rpartition("/")[2].partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
