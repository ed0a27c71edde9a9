"""`python -m ekiben.compaction [--now]`: segments of prediction logs to Parquet, each put where nothing is, then removed.

On stdin: JSON, a list of {"segment": path, "storage_uri", "ahead"}; a segment's folder has the name of its endpoint. One that was
brought ahead (ekiben.forwarding) is there as JSON lines: they are taken away, and so are those of hosts that have ended. Repeating
is safe: a segment always becomes the same object, so that one which is there was put by a process that ended before it could
remove the segment. What fails is left as it is. Processes with segments in one place take turns: a host need not hold pyarrow
twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from ekiben.errors import AlreadyExists, EkibenError, NotFound
from ekiben.predictions import LINES, PARQUET, TYPES, began, key, prefix
from ekiben.runtime import Storage
from ekiben.storage import open_storage

__all__ = ["main"]

LOCK = "compaction.lock"
ROWS = 4096
# Gives way to those who answer, but not where the host is about to end: what it has not brought by then may be lost.
NICE, NOW = 10, "--now"
# Nobody writes to a segment for so long; see SEGMENT_S in ekiben/serving/spool.py.
LEFT_S = 3600.0


def main() -> int:
    if NOW not in sys.argv:
        os.nice(NICE)
    failed = 0
    for each in json.load(sys.stdin):
        segment = Path(each["segment"])
        try:
            with alone(segment.parent.parent):
                compact(segment, each["storage_uri"])
                if each.get("ahead"):
                    storage = open_storage(each["storage_uri"])
                    storage.delete(key(segment.parent.name, segment.stem, LINES))
                    adopt(storage, segment.parent.name)
        except (EkibenError, OSError) as error:
            failed += 1
            print(f"the predictions in {segment} stay there: {error}", file=sys.stderr, flush=True)
    return 1 if failed else 0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work on the segments below `folder`."""
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compact(segment: Path, storage_uri: str) -> None:
    """Raises EkibenError or OSError, and then the segment is as it was."""
    if not segment.exists():
        return
    with tempfile.TemporaryDirectory(prefix="ekiben-") as folder:
        path = Path(folder) / "rows.parquet"
        write(segment, path)
        with suppress(AlreadyExists):
            open_storage(storage_uri).put_if_absent(key(segment.parent.name, segment.stem), path)
    segment.unlink(missing_ok=True)


def adopt(storage: Storage, endpoint: str) -> None:
    """Make Parquet of the JSON lines that hosts have left who did not come back, of today and of the day before."""
    now = datetime.now(UTC)
    for day in (now - timedelta(days=1), now):
        for found in list(storage.list(f"{prefix(endpoint)}date={day:%Y-%m-%d}/")):
            name, _, kind = found.key.rpartition(".")
            at = began(name)
            if kind != LINES or at is None or (now - at).total_seconds() < LEFT_S:
                continue
            with tempfile.TemporaryDirectory(prefix="ekiben-") as folder, suppress(NotFound):
                lines, path = Path(folder, "rows.jsonl"), Path(folder, "rows.parquet")
                storage.download(found.key, lines)
                write(lines, path)
                with suppress(AlreadyExists):
                    storage.put_if_absent(f"{name}.{PARQUET}", path)
                storage.delete(found.key)


def write(segment: Path, path: Path) -> None:
    """The lines of `segment` as Parquet; a line that a power cut has torn is left out, and said."""
    import pyarrow as arrow
    from pyarrow import parquet

    schema = arrow.schema([(name, _type(kind)) for name, kind in TYPES.items()])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        rows = _rows(segment)
        while batch := list(islice(rows, ROWS)):
            writer.write_batch(arrow.RecordBatch.from_pylist(batch, schema=schema))


def _rows(segment: Path) -> Iterator[dict[str, Any]]:
    with segment.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                row["time"] = datetime.fromisoformat(row["time"])
            except (ValueError, KeyError, TypeError):
                print(f"{segment}, line {number}, is not whole and is left out", file=sys.stderr)
            else:
                yield row


def _type(kind: str) -> Any:
    import pyarrow as arrow

    return arrow.timestamp("us", tz="UTC") if kind.startswith("timestamp") else arrow.type_for_alias(kind)


if __name__ == "__main__":
    sys.exit(main())
