"""The prediction log in storage: `predictions/<endpoint>/date=YYYY-MM-DD/<segment>.parquet`, a row for each prediction.

Hosts write it; whoever has the storage reads it, with any tool that knows Parquet and folders named `key=value`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC
from typing import Any

from ekiben.errors import MissingDependency
from ekiben.records import LoggedPrediction
from ekiben.runtime import Storage

__all__ = ["TYPES", "key", "prefix", "recent"]

# Of the columns, in the order of the record; Parquet's names for them.
TYPES = {
    "id": "string", "time": "timestamp[us, UTC]", "endpoint": "string", "revision": "string", "model_version": "string",
    "route": "string", "status": "int16", "latency_ms": "double", "request": "string", "response": "string",
    "request_bytes": "int64", "response_bytes": "int64", "request_sha256": "string", "trace_id": "string",
}  # fmt: skip


def prefix(endpoint: str) -> str:
    return f"predictions/{endpoint}/"


def key(endpoint: str, segment: str) -> str:
    """Where the rows of a segment go. Its name begins with its time, so names sort by time: 20260102T..."""
    return f"{prefix(endpoint)}date={segment[:4]}-{segment[4:6]}-{segment[6:8]}/{segment}.parquet"


def recent(storage: Storage, endpoint: str) -> Iterator[LoggedPrediction]:
    """The rows in storage, newest first, read as they are asked for. Raises MissingDependency without pyarrow."""
    names = [field.name for field in fields(LoggedPrediction)]
    for found in reversed(list(storage.list(prefix(endpoint)))):
        if found.key.endswith(".parquet"):
            for row in reversed(_rows(storage.get(found.key), names)):
                row["time"] = row["time"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                yield LoggedPrediction.from_dict(row)


def _rows(data: bytes, names: list[str]) -> list[dict[str, Any]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependency("pyarrow", "data") from error
    # Not read_table: it would take the folder's name for a column.
    rows: list[dict[str, Any]] = parquet.ParquetFile(arrow.BufferReader(data)).read(columns=names).to_pylist()
    return rows
