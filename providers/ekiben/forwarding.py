"""`python -m ekiben.forwarding STORAGE_URI`: what a segment of a prediction log has so far, to storage, each time that it is asked.

A line on stdin is the path of a segment, as JSON; the answer is a line on stdout, as JSON: why it is not there, or "". The object
is `predictions/<endpoint>/date=YYYY-MM-DD/<segment>.jsonl`, and is written over as the segment grows; ekiben.compaction makes
Parquet of the segment when it is full, and takes the object away.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

from ekiben.errors import EkibenError
from ekiben.predictions import LINES, key, prefix
from ekiben.storage import open_storage

__all__ = ["main"]


def main() -> int:
    storage = open_storage(sys.argv[1])
    # What a first request takes longer for is done before somebody waits for it.
    with suppress(EkibenError):
        storage.head(prefix("none"))
    for asked in sys.stdin:
        segment, why = Path(json.loads(asked)), ""
        try:
            storage.put(key(segment.parent.name, segment.stem, LINES), segment.read_bytes())
        except (EkibenError, OSError) as error:
            why = str(error)
        print(json.dumps(why), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
