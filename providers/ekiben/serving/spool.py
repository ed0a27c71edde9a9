"""The prediction log of a host (a station, or a server by itself): a line for each answer, on disk before the answer leaves.

A line is one write to a file of its endpoint (a segment), so that the kernel has it when the host is killed. A segment that is
full, old or of yesterday becomes Parquet in the endpoint's storage, by a short-lived process: pyarrow is never loaded here. Several
processes may share a folder: a segment that is written to is locked, and one whose writer is gone is anybody's to bring to storage.
Logging never fails a prediction: what does not fit, or cannot be written, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import random
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from json.encoder import encode_basestring as quoted
from pathlib import Path
from typing import Any

from .ahead import Ahead
from .clock import now_ms

__all__ = ["COMPACTION", "Spool", "line"]

# What makes Parquet of segments, in the interpreter that Ekiben is installed in.
COMPACTION = (sys.executable, "-P", "-m", "ekiben.compaction")

SEGMENT_BYTES = 16 * 1024 * 1024
SEGMENT_S = 300.0
DAY_S = 86_400.0
# Of all segments together, while their storage cannot be reached.
SPOOL_BYTES = 512 * 1024 * 1024
TEXT_BYTES = 64 * 1024
MAX_PAUSE_S = 3600.0
COMPACTION_S = 3600.0

log = logging.getLogger("ekiben.predictions")


def line(
    *, id: str, endpoint: str, revision: str, model_version: str, route: str, status: int, latency_ms: float,
    request: bytes | bytearray, response: bytes | None, trace_id: str = "",
) -> bytes:  # fmt: skip
    """A row of the log (records.LoggedPrediction) as JSON, with a newline. `response` is None for one that is streamed."""
    asked, said = _text(request), "" if response is None else _text(response)
    # By hand, because it is on the way of every answer: the standard library's encoder takes three times as long.
    return (
        f'{{"id":{quoted(id)},"time":"{now_ms()}","endpoint":"{endpoint}","revision":"{revision}",'
        f'"model_version":"{model_version}","route":{quoted(route)},"status":{status},'
        f'"latency_ms":{latency_ms:.3f},"request":{quoted(asked)},"response":{quoted(said)},'
        f'"request_bytes":{len(request)},"response_bytes":{-1 if response is None else len(response)},'
        f'"request_sha256":"{sha256(request).hexdigest()}","trace_id":"{trace_id}"}}\n'
    ).encode()


@dataclass(slots=True)
class Segment:
    """A file that is written to."""

    path: Path
    fd: int
    ends: float
    size: int = 0


@dataclass
class Spool:
    """The segments in `folder`, a folder in it for each endpoint.

    `storage_uri` says where an endpoint's rows go, "" is nowhere; `compaction` is the command that brings them there. With
    `ahead` they are there before the answer leaves.
    """

    folder: Path
    storage_uri: Callable[[str], str]
    compaction: Sequence[str]
    segment_bytes: int = SEGMENT_BYTES
    spool_bytes: int = SPOOL_BYTES
    ahead: Ahead | None = None
    logged: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    _open: dict[str, Segment] = field(default_factory=dict)
    _held: int = 0
    _failures: int = 0
    _silent: bool = False
    _ending: bool = False
    _timer: asyncio.TimerHandle | None = None
    _compaction: asyncio.Task[None] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    # A service's own draws must not depend on whether its answers are logged.
    _chance: random.Random = field(default_factory=random.Random)

    def start(self) -> None:
        """Take up what an earlier process has left."""
        if self.ahead is not None:
            self.ahead.start()
        self._count()
        if self._held:
            self._compact()

    async def flush(self) -> None:
        """Bring what there is to storage, and write no more. Cancelled, it leaves the rest for the next start."""
        self._ending = True
        for endpoint in list(self._open):
            self._seal(endpoint)
        self._compact()
        assert self._compaction is not None
        try:
            await self._compaction
        finally:
            await self.stop()
            if left := len(self._segments()):
                log.warning("%d files of predictions wait in %s for the next start", left, self.folder)

    async def stop(self) -> None:
        """Write no more. What is not in storage yet is there at the next start."""
        if self.ahead is not None:
            self.ahead.stop()
        if self._timer:
            self._timer.cancel()
        if self._compaction:
            self._compaction.cancel()
            await asyncio.gather(self._compaction, return_exceptions=True)
        for endpoint in list(self._open):
            self._seal(endpoint)

    def write(self, share: float, *, endpoint: str, **answered: Any) -> None:
        """Log an answer (see `line`), or not, by chance, when `share` is below 1. It is with the kernel when this returns."""
        if share < 1 and self._chance.random() >= share:
            return
        try:
            row = line(endpoint=endpoint, **answered)
            if self._held + len(row) > self.spool_bytes:
                raise OSError(f"the segments have {self.spool_bytes} bytes, which is the most")
            segment = self._open.get(endpoint)
            if segment is None or time.time() >= segment.ends or segment.size >= self.segment_bytes:
                segment = self._begin(endpoint)
            if (written := os.write(segment.fd, row)) < len(row):
                os.ftruncate(segment.fd, segment.size)
                raise OSError(f"only {written} of {len(row)} bytes could be written")
        except OSError as error:
            self.dropped[endpoint] += 1
            if not self._silent:
                self._silent = True
                log.error("predictions of %s are not logged for now: %s", endpoint, error)
            return
        segment.size += len(row)
        self._held += len(row)
        self.logged[endpoint] += 1
        self._silent = False
        if self.ahead is not None:
            self.ahead.bring(segment.path)

    def rows(self, endpoint: str, last: int) -> list[dict[str, Any]]:
        """The last rows that are not in storage yet, newest first. Call it in a thread: it reads files."""
        found: list[dict[str, Any]] = []
        for path in reversed(self._segments(endpoint)):
            with suppress(FileNotFoundError):  # it has gone to storage
                for row in reversed(path.read_bytes().splitlines()):
                    if len(found) == last:
                        return found
                    with suppress(ValueError):  # a power cut may have torn it
                        found.append(json.loads(row))
        return found

    async def remove(self, endpoint: str) -> None:
        """Bring the rows of an endpoint that goes to its storage, and leave nothing of it here."""
        self._seal(endpoint)
        if segments := self._segments(endpoint):
            async with self._turn:
                await self._run(segments)
            if left := self._segments(endpoint):
                log.warning(
                    "the prediction log of %s could not go to its storage: %d files are lost", endpoint, len(left)
                )
        await asyncio.to_thread(shutil.rmtree, self.folder / endpoint, True)
        self._count()

    def metrics(self) -> str:
        lines = ["# TYPE ekiben_predictions_spool_bytes gauge", f"ekiben_predictions_spool_bytes {self._held}"]
        for name, counts in (("logged", self.logged), ("dropped", self.dropped)):
            lines.append(f"# TYPE ekiben_predictions_{name}_total counter")
            lines += [
                f'ekiben_predictions_{name}_total{{endpoint="{endpoint}"}} {count}'
                for endpoint, count in counts.items()
            ]
        return "\n".join(lines) + "\n"

    def _begin(self, endpoint: str) -> Segment:
        """A new segment, and the one before to storage."""
        full = endpoint in self._open
        self._seal(endpoint)
        folder = self.folder / endpoint
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        at = time.time()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = folder / f"{stamp}-{secrets.token_hex(4)}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        with suppress(OSError):  # a file system without locks is one that nobody shares
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A clock that is set back must not keep it open for ever: the timer goes by another clock.
        segment = self._open[endpoint] = Segment(path, fd, min(at + SEGMENT_S, (at // DAY_S + 1) * DAY_S))
        if full:
            self._compact()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SEGMENT_S, self._expire)
        return segment

    def _seal(self, endpoint: str) -> None:
        if segment := self._open.pop(endpoint, None):
            with suppress(OSError):
                os.close(segment.fd)

    def _expire(self) -> None:
        self._timer = None
        for endpoint in list(self._open):
            self._seal(endpoint)
        self._compact()

    def _segments(self, endpoint: str = "*") -> list[Path]:
        return sorted(self.folder.glob(f"{endpoint}/*.jsonl"), key=lambda path: path.name)

    def _compact(self) -> None:
        if self._compaction is None or self._compaction.done():
            self._compaction = asyncio.get_running_loop().create_task(self._compact_all())

    async def _compact_all(self) -> None:
        async with self._turn:
            while segments := self._sealed():
                await self._run(segments)
                if set(segments) & set(self._segments()):
                    self._failures += 1
                    pause = min(MAX_PAUSE_S, SEGMENT_S * 2.0 ** (self._failures - 1))
                    log.warning("%d files of predictions wait for their storage, %g s at least", len(segments), pause)
                    if self._timer is None:
                        self._timer = asyncio.get_running_loop().call_later(pause, self._expire)
                    return
                self._failures = 0

    def _sealed(self) -> list[Path]:
        """Those that nobody writes to, and that have a storage to go to."""
        written = {segment.path for segment in self._open.values()}
        mine = [path for path in self._segments() if path not in written and self.storage_uri(path.parent.name)]
        return [path for path in mine if _free(path)]

    async def _run(self, segments: list[Path]) -> None:
        """Have these made Parquet; those that are left could not be."""
        wanted = [
            {"segment": str(path), "storage_uri": uri, "ahead": self.ahead is not None}
            for path in segments
            if (uri := self.storage_uri(path.parent.name))
        ]
        process = await asyncio.create_subprocess_exec(
            *self.compaction,
            *(["--now"] if self._ending else []),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(process.communicate(json.dumps(wanted).encode()), COMPACTION_S)
        except TimeoutError:
            log.error("the prediction log took longer than %g s on its way to storage", COMPACTION_S)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            self._count()

    def _count(self) -> None:
        """What is held, by all who share the folder: another process may have brought some of it to storage."""
        self._held = sum(map(_size, self._segments()))


def _free(segment: Path) -> bool:
    """Whether nobody writes to it any more."""
    try:
        with segment.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _text(body: bytes | bytearray) -> str:
    if len(body) > TEXT_BYTES:
        return ""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
