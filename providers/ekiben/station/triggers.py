"""What starts functions by itself: the clock, and new files in a bucket. Pure decisions; `Functions` runs the loops.

The id of an event follows from what it tells of (function, expression and due time; storage, key and etag) and is a valid run
id, so a handler may name what it makes after it, and the station publishes no moment and no file twice.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from ekiben.errors import EkibenError, NotFound
from ekiben.folder import Folder
from ekiben.keys import is_data
from ekiben.records import Event, now
from ekiben.runtime import Object
from ekiben.station.events import Events
from ekiben.station.store import Store

__all__ = ["NewFiles", "Schedules", "dues", "latest_due"]

DDL = """
create table if not exists schedules (
  function text not null, cron text not null, zone text not null, last_due text not null, primary key (function, cron, zone));
"""

logger = logging.getLogger(__name__)

BATCH = 200

# cronsim takes the first of an hour that comes twice; a start this far back finds all that is due in the second one.
FOLD = timedelta(hours=3)
RECENT = timedelta(days=3)


def dues(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The times after `after` (aware) at which `cron` fires in `zone`, in UTC, in order.

    A time that the clocks jump over fires right after the jump; one that comes twice fires the first time only, unless
    the expression fires every hour or minute.
    """
    last = after
    for due in CronSim(cron, (after - FOLD).astimezone(ZoneInfo(zone))):
        if due.astimezone(UTC) > last:
            last = due.astimezone(UTC)
            yield last


def latest_due(cron: str, zone: str, after: datetime, until: datetime) -> datetime | None:
    """The last time in (after, until] at which `cron` fires, in UTC; None when it does not."""
    found = None
    for start in (max(after, until - RECENT), after):
        for due in itertools.takewhile(lambda due: due <= until, dues(cron, zone, start)):
            found = due
        if found or start == after:
            break
    return found


class Schedules:
    """The schedules of the functions. What was missed while the station was down fires once, for the latest time."""

    def __init__(self, store: Store, events: Events) -> None:
        self._store = store
        self._events = events
        store.declare(DDL)

    def declare(self, function: str, schedules: Iterable[tuple[str, str]], at: datetime) -> None:
        """Set the (cron, zone) pairs of a function; a new one fires from now on."""
        wanted = set(schedules)
        with self._store.transaction() as connection:
            rows = connection.execute("select cron, zone from schedules where function = ?", (function,)).fetchall()
            for cron, zone in {(row["cron"], row["zone"]) for row in rows} - wanted:
                connection.execute(
                    "delete from schedules where function = ? and cron = ? and zone = ?", (function, cron, zone)
                )
            for cron, zone in sorted(wanted):
                connection.execute(
                    "insert or ignore into schedules values (?, ?, ?, ?)", (function, cron, zone, _text(at))
                )

    def fire(self, at: datetime) -> list[Event]:
        """Publish what is due at `at`. A clock that was set back fires nothing twice."""
        fired = []
        for row in self._store.all("select * from schedules"):
            last = datetime.fromisoformat(row["last_due"])
            due = latest_due(row["cron"], row["zone"], min(last, at), at)
            if due is None and last <= at:
                continue
            with self._store.transaction() as connection:
                connection.execute(
                    "update schedules set last_due = ? where function = ? and cron = ? and zone = ?",
                    (_text(due or at), row["function"], row["cron"], row["zone"]),
                )
                if due is not None:
                    event = _scheduled(row, due)
                    if self._events.publish(event):
                        fired.append(event)
        return fired

    def pause_s(self, at: datetime, most_s: float) -> float:
        """Seconds until the next is due, `most_s` at most: the clock may be set meanwhile."""
        rows = self._store.all("select distinct cron, zone from schedules")
        firsts = (next(dues(row["cron"], row["zone"], at), None) for row in rows)
        return min([most_s, *((first - at).total_seconds() for first in firsts if first)])


@dataclass(slots=True)
class _Seen:
    etag: str
    since_s: float
    published: bool
    scan: int


class NewFiles:
    """New whole files in the buckets that NewData triggers watch. A file is whole when it has not changed for `settle_s`."""

    def __init__(
        self, events: Events, bucket: Callable[[str], Path], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._events = events
        self._bucket = bucket
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._scan = 0
        self._told: set[str] = set()

    def scan(self, triggers: Iterable[Mapping[str, Any]]) -> list[Event]:
        """Look once, and publish what has become whole. A bucket that is not there has no files."""
        at = self._clock()
        self._scan += 1
        fresh: list[tuple[str, Object]] = []
        by_storage: dict[str, list[Mapping[str, Any]]] = {}
        for trigger in triggers:
            by_storage.setdefault(trigger["storage"], []).append(trigger)
        for storage, own in sorted(by_storage.items()):
            for object in self._objects(storage, {trigger["prefix"] for trigger in own}):
                settles = [
                    float(trigger["settle_s"])
                    for trigger in own
                    if object.key.startswith(trigger["prefix"]) and object.key.endswith(trigger["suffix"])
                ]
                if settles and is_data(object.key) and self._is_whole(storage, object, at, max(settles)):
                    fresh.append((storage, object))
        for gone in [key for key, seen in self._seen.items() if seen.scan != self._scan]:
            del self._seen[gone]
        return self._publish(sorted(fresh, key=lambda one: (one[0], one[1].key)))

    def _objects(self, storage: str, prefixes: set[str]) -> Iterator[Object]:
        """The files below the prefixes, each once."""
        roots = {
            prefix for prefix in prefixes if not any(prefix != other and prefix.startswith(other) for other in prefixes)
        }
        for prefix in sorted(roots):
            try:
                yield from Folder(self._bucket(storage), "local").list(prefix)
            except NotFound:
                continue
            except EkibenError as error:
                if str(error) not in self._told:
                    self._told.add(str(error))
                    logger.warning("not all new data in %s is seen: %s", storage, error)

    def _is_whole(self, storage: str, object: Object, at: float, settle_s: float) -> bool:
        """Has it not changed for `settle_s`, and is not published yet?"""
        seen = self._seen.get((storage, object.key))
        if seen is None or seen.etag != object.etag:
            self._seen[storage, object.key] = _Seen(object.etag, at, published=False, scan=self._scan)
            return False
        seen.scan = self._scan
        return not seen.published and at - seen.since_s >= settle_s

    def _publish(self, fresh: list[tuple[str, Object]]) -> list[Event]:
        """In batches: a transaction for each of ten thousand files takes long, one for all of them keeps the others waiting."""
        published: list[Event] = []
        for batch in (fresh[start : start + BATCH] for start in range(0, len(fresh), BATCH)):
            events = [_landed(storage, object, self._bucket(storage)) for storage, object in batch]
            known = self._events.known([event.id for event in events])
            published += self._events.publish_all([event for event in events if event.id not in known])
            for storage, object in batch:
                self._seen[storage, object.key].published = True
        return published


def _landed(storage: str, object: Object, folder: Path) -> Event:
    return Event(
        id=f"newdata-{_digest('NewData', storage, object.key, object.etag)}",
        type="NewData",
        source=storage,
        subject=object.key,
        time=now(),
        data={"uri": (folder / object.key).as_uri(), "etag": object.etag, "bytes": object.size_bytes},
    )


def _scheduled(row: Mapping[str, Any], due: datetime) -> Event:
    return Event(
        id=f"schedule-{_digest('Schedule', row['function'], row['cron'], row['zone'], _text(due))}",
        type="Schedule",
        source=row["function"],
        subject=row["cron"],
        time=now(),
        data={"due": _text(due), "zone": row["zone"]},
    )


def _digest(*words: str) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:32]


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
