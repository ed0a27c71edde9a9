"""`python -m ekiben.compaction`: segments of prediction logs to Parquet, each put where nothing is, then removed.

On stdin: JSON, a list of {"segment": path, "storage_uri"}; a segment's folder has the name of its endpoint. Repeating is safe: a
segment always becomes the same object, so that one which is there was put by a process that ended before it could remove the
segment. What fails is left as it is. Processes with segments in one place take turns: a host need not hold pyarrow twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from ekiben.errors import AlreadyExists, EkibenError
from ekiben.predictions import TYPES, key
from ekiben.storage import open_storage

__all__ = ["main"]

LOCK = "compaction.lock"
ROWS = 4096
NICE = 10


def main() -> int:
    os.nice(NICE)
    failed = 0
    for each in json.load(sys.stdin):
        segment = Path(each["segment"])
        try:
            with alone(segment.parent.parent):
                compact(segment, each["storage_uri"])
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
