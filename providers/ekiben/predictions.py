"""The prediction log in storage: `predictions/<endpoint>/date=YYYY-MM-DD/<segment>.parquet`, a row for each prediction.

Hosts write it; whoever has the storage reads it, with any tool that knows Parquet and folders named `key=value`. A segment that is
still written to by a host that may sleep is there as JSON lines, `<segment>.jsonl`, until it is Parquet.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from ekiben.errors import MissingDependency, NotFound
from ekiben.records import LoggedPrediction
from ekiben.runtime import Storage

__all__ = ["LINES", "PARQUET", "SEGMENT_S", "TYPES", "began", "key", "prefix", "recent"]

PARQUET, LINES = "parquet", "jsonl"
# As long as rows go into one segment, see ekiben/serving/spool.py.
SEGMENT_S = 300.0

# Of the columns, in the order of the record; Parquet's names for them.
TYPES = {
    "id": "string", "time": "timestamp[us, UTC]", "endpoint": "string", "revision": "string", "model_version": "string",
    "route": "string", "status": "int16", "latency_ms": "double", "request": "string", "response": "string",
    "request_bytes": "int64", "response_bytes": "int64", "request_sha256": "string", "trace_id": "string",
}  # fmt: skip


def prefix(endpoint: str) -> str:
    return f"predictions/{endpoint}/"


def key(endpoint: str, segment: str, kind: str = PARQUET) -> str:
    """Where the rows of a segment go. Its name begins with its time, so names sort by time: 20260102T..."""
    return f"{prefix(endpoint)}date={segment[:4]}-{segment[4:6]}-{segment[6:8]}/{segment}.{kind}"


def began(segment: str) -> datetime | None:
    """When a segment of this name, or at this key, was begun; None for what is not named so."""
    try:
        return datetime.strptime(segment.rpartition("/")[2].partition("-")[0], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def recent(storage: Storage, endpoint: str) -> Iterator[LoggedPrediction]:
    """The rows in storage, newest first, read as they are asked for. Raises MissingDependency without pyarrow.

    Several hosts write at once, each its own segments: a row comes when no segment that is not read yet can have a newer one.
    """
    kinds: dict[str, set[str]] = {}
    for found in storage.list(prefix(endpoint)):
        name, _, kind = found.key.rpartition(".")
        if kind in (PARQUET, LINES):
            kinds.setdefault(name, set()).add(kind)
    held: list[tuple[float, int, dict[str, Any]]] = []
    count = 0
    for name in sorted(kinds, reverse=True):
        if (at := began(name)) is not None:
            newest = (at + timedelta(seconds=SEGMENT_S)).timestamp()
            while held and -held[0][0] > newest:
                yield _row(heapq.heappop(held)[2])
        for row in reversed(_rows(storage, name, kinds[name])):
            count += 1
            heapq.heappush(held, (-row["time"].timestamp(), count, row))
    while held:
        yield _row(heapq.heappop(held)[2])


def _row(row: dict[str, Any]) -> LoggedPrediction:
    time = row["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return LoggedPrediction.from_dict({**row, "time": time})


def _rows(storage: Storage, name: str, kinds: set[str]) -> list[dict[str, Any]]:
    """The rows of a segment, oldest first. One that became Parquet in between is read as such."""
    if PARQUET not in kinds:
        try:
            rows = [json.loads(line) for line in storage.get(f"{name}.{LINES}").splitlines()]
        except NotFound:
            pass
        else:
            return [{**row, "time": datetime.fromisoformat(row["time"])} for row in rows]
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency("pyarrow", "data") from error
    names = [field.name for field in fields(LoggedPrediction)]
    data = storage.get(f"{name}.{PARQUET}")
    # Not read_table: it would take the folder's name for a column.
    found: list[dict[str, Any]] = parquet.ParquetFile(arrow.BufferReader(data)).read(columns=names).to_pylist()
    return found
