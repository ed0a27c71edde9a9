"""What starts a function: events on the bus, and objects that have landed. Both are looked through from where the last look ended.

A look begins some time before that, since clocks differ and lists may lag; what comes twice has the same id. Standard library
alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ekiben.errors import EkibenError
from ekiben.keys import is_data
from ekiben.kubernetes.keys import event_key, event_time
from ekiben.kubernetes.s3 import Found, Refused, Store
from ekiben.records import Event

__all__ = ["Bus", "Landings"]

OVERLAP = timedelta(seconds=60)
KEPT = timedelta(days=14)


class Bus:
    """The events below `uri` that are for the function `name` with the triggers `on`. `mark`: what `Bus.mark` was."""

    def __init__(self, store: Store, uri: str, name: str, on: list[dict[str, Any]], mark: Any) -> None:
        self._store, self._uri, self._name, self._on = store, uri.rstrip("/"), name, on
        self.mark = str(mark or event_key("", datetime.now(UTC)))
        self._first = not mark
        self._seen: set[str] = set()

    def look(self) -> Iterator[Event]:
        """Those that have come since the last look."""
        start = self.mark if self._first else event_key("", event_time(self.mark) - OVERLAP).partition("-")[0]
        seen: set[str] = set()
        for one in self._store.look(f"{self._uri}/", f"{self._uri}/{start}"):
            key = one.uri.rpartition("/")[2]
            seen.add(key)
            if key not in self._seen and (event := self._read(one.uri)) and self._wanted(event):
                yield event
        self._seen = seen
        if seen:
            self.mark, self._first = max(seen), False

    def prune(self) -> None:
        """Forget events that every function had the time to see."""
        end = f"{self._uri}/{event_key('', datetime.now(UTC) - KEPT).partition('-')[0]}"
        for one in list(self._store.look(f"{self._uri}/")):
            if one.uri >= end:
                return
            self._store.delete(one.uri)

    def _read(self, uri: str) -> Event | None:
        try:
            return Event.from_json(self._store.get(uri))
        except (EkibenError, Refused):  # it is none, or somebody has taken it away
            return None

    def _wanted(self, event: Event) -> bool:
        for trigger in self._on:
            if (
                trigger["type"] == "On"
                and event.type == trigger["event"]
                and trigger.get("source") in ("", None, event.source)
            ):
                return True
            if trigger["type"] == event.type == "Schedule" and event.source == self._name:
                return True
        return False


class Landings:
    """The objects of a NewData trigger, whose `uri` is the storage's. `mark`: what `Landings.mark` was.

    What lies there before the first look is not new.
    """

    def __init__(self, store: Store, trigger: Mapping[str, Any], mark: Any) -> None:
        self._store, self.trigger, self._bucket = store, trigger, str(trigger["uri"]).rstrip("/")
        self.mark: dict[str, Any] = dict(mark or {})
        # At the second of the first look some were there, and some may have come.
        self._seen: set[tuple[str, str]] = {(uri, etag) for uri, etag in self.mark.get("had", ())}

    def look(self) -> Iterator[Event]:
        """Those that have come since the last look, the oldest first."""
        found = [one for one in self._store.look(f"{self._bucket}/{self.trigger.get('prefix', '')}") if self._data(one)]
        newest = max((one.modified for one in found), default="")
        if not self.mark:
            had = [(one.uri, one.etag) for one in found if one.modified == newest]
            self.mark, self._seen = {"from": newest, "at": newest, "had": had}, set(had)
            return
        since = _earlier(self.mark["at"])
        fresh = [one for one in found if one.modified >= since and one.modified >= self.mark["from"]]
        for one in sorted(fresh, key=lambda one: (one.modified, one.uri)):
            if (one.uri, one.etag) not in self._seen:
                yield self._event(one)
        self._seen = {(one.uri, one.etag) for one in fresh} | {(uri, etag) for uri, etag in self.mark["had"]}
        self.mark = {**self.mark, "at": max(self.mark["at"], newest)}

    def _data(self, one: Found) -> bool:
        key = one.uri.removeprefix(f"{self._bucket}/")
        return is_data(key) and not key.endswith("/") and key.endswith(str(self.trigger.get("suffix", "")))

    def _event(self, one: Found) -> Event:
        source, key = str(self.trigger["storage"]), one.uri.removeprefix(f"{self._bucket}/")
        words = json.dumps(["NewData", source, key, one.etag, one.modified])
        return Event(
            id=f"newdata-{hashlib.sha256(words.encode()).hexdigest()[:32]}", type="NewData", source=source, subject=key,
            time=one.modified, data={"uri": one.uri, "etag": one.etag, "bytes": one.size_bytes},
        )  # fmt: skip


def _earlier(at: str) -> str:
    """Some time before a time of the store's, as text of the same form."""
    if not at:
        return ""
    found = datetime.fromisoformat(at.replace("Z", "+00:00")) - OVERLAP
    return found.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
