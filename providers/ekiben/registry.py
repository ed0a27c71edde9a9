"""The model registry: records in a bucket, the same on every provider, with no server to run or to lose.

    <prefix>/<model>/versions/<n>.json          the manifest of a version: written once (put-if-absent), never changed
    <prefix>/<model>/index.json                 states and aliases: changed by put-if-match, so no change is lost
    <prefix>/<model>/audit/<seq, 8 digits>.json who did what, when, why, from what to what: written once

An audit entry goes into the index (`tail`) in the same write as its change, and from there to its own object, so there is an entry
if and only if the change happened. A crash between two writes leaves nothing that the next writer does not mend: a manifest that
is not in the index yet is taken into it, a tail that is not written out yet is written out. Which state follows which, and what an
alias may name, is said in `ekiben.catalog`.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from ekiben.catalog import (
    Index,
    aliased,
    check_name,
    check_text,
    check_version,
    decided,
    manifest,
    parse_ref,
    registered,
)
from ekiben.errors import (
    AlreadyExists,
    EkibenError,
    IntegrityError,
    NotFound,
    PreconditionFailed,
    ProviderError,
    SpecError,
    Unavailable,
)
from ekiben.records import Decision, Event, ModelVersion, Record, VersionState
from ekiben.runtime import Storage

__all__ = ["ObjectRegistry"]

CONTENTION_TIMEOUT_S = 120.0
FIRST_PAUSE_S = 0.01
LAST_PAUSE_S = 1.0
READERS = 16

_JITTER = random.SystemRandom()

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class ObjectRegistry:
    """What `runtime.Registry` promises, over `storage`, below `prefix`.

    provider: the name that errors begin with. source: the component's name, which its events come from. publish: is given each
    ModelDecided event, after the decision is recorded. require_approval: otherwise a version is approved as it is registered.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        *,
        provider: str,
        source: str,
        publish: Callable[[Event], None],
        require_approval: bool = True,
    ) -> None:
        self.storage = storage
        self.prefix = prefix.strip("/")
        self.provider = provider
        self.source = source
        self.publish = publish
        self.require_approval = require_approval

    def register(self, version: ModelVersion) -> ModelVersion:
        """See `runtime.Registry`. Raises SpecError for a record that is wrong or has more than 1 MiB."""
        version = check_version(version)
        state: VersionState = "pending" if self.require_approval else "approved"
        claimed: dict[int, tuple[ModelVersion, bytes]] = {}

        def add(index: Index) -> Index | None:
            if index.number_of(version.key):
                return None
            number = max(index.numbers, default=0)
            while not index.number_of(version.key):
                number += 1
                if number not in claimed:
                    claimed[number] = self._claim(version, number)
                index = registered(index, *claimed[number], state)
            return index

        index = self._update(version.model, f"register a version of {version.model!r}", add)
        number = index.number_of(version.key)
        if index.versions[str(number)].state == state == "approved":
            self._announce(index, number)
        return self._load(index, number)

    def version(self, ref: str) -> ModelVersion:
        """See `runtime.Registry`. Raises SpecError for what is neither "model:3" nor "model@alias"."""
        index = self._read(parse_ref(ref)[0])[1]
        return self._load(index, self._number(index, ref))

    def versions(self, model: str = "") -> list[ModelVersion]:
        """See `runtime.Registry`. A model that has no version has none: that is no error."""
        found: list[ModelVersion] = []
        for name in [check_name("model", model)] if model else self._models():
            index = self._read(name)[1]
            found += _at_once(lambda number, index=index: self._load(index, number), reversed(index.numbers))  # type: ignore[misc]
        return found if model else sorted(found, key=lambda version: version.created_at, reverse=True)

    def decide(self, ref: str, state: str, *, who: str, why: str) -> ModelVersion:
        """See `runtime.Registry`."""
        return self._change(ref, f"make {ref} {state}", state, who, why, decided, announce=True)

    def alias(self, ref: str, alias: str, *, who: str, why: str) -> ModelVersion:
        """See `runtime.Registry`. Raises SpecError for a version that is rejected or archived."""
        check_name("alias", alias)
        return self._change(ref, f"point {alias!r} at {ref}", alias, who, why, aliased)

    def audit(self, model: str) -> list[Decision]:
        """See `runtime.Registry`. Raises NotFound for a model that there is not, IntegrityError where an entry is missing."""
        # The index first: what is not in its tail was an object before it was read.
        index = self._read(check_name("model", model))[1]
        if not index.seq:
            raise self._no_model(f"read the audit of {model!r}", model)
        entries = {decision.seq: decision for decision in index.tail}
        keys = [found.key for found in self.storage.list(self._key(model, "audit/"))]
        for decision in _at_once(lambda key: self._parsed(Decision, key, self.storage.get(key)), keys):
            entries[decision.seq] = decision
        if missing := [str(seq) for seq in range(1, index.seq + 1) if seq not in entries]:
            raise IntegrityError(
                self.provider, f"read the audit of {model!r}", f"its entries {', '.join(missing)} are gone",
                f"Somebody deleted them from {self.storage.uri(self._key(model, 'audit/'))}; restore them from a copy",
            )  # fmt: skip
        return [entries[seq] for seq in sorted(entries)]

    def _change(
        self,
        ref: str,
        operation: str,
        value: str,
        who: str,
        why: str,
        change: Callable[[Index, int, str, str, str], Index | None],
        *,
        announce: bool = False,
    ) -> ModelVersion:
        check_text("who", who, required=True)
        check_text("why", why)
        model, number, _ = parse_ref(ref)

        def changed(index: Index) -> Index | None:
            nonlocal number
            number = self._number(index, ref)
            return change(index, number, value, who, why)

        index = self._update(model, operation, changed)
        if announce:
            self._announce(index, number)
        return self._load(index, number)

    def _update(self, model: str, operation: str, change: Callable[[Index], Index | None]) -> Index:
        """Change the index of a model: `change` is called on a fresh one until the write meets no other. Returns the index then.

        `change` returns None when there is nothing to change.
        """
        key, pause_s, deadline = self._key(model, "index.json"), FIRST_PAUSE_S, time.monotonic() + CONTENTION_TIMEOUT_S
        while True:
            etag, before = self._read(model)
            after = change(replace(before, tail=[]))
            self._flush(before)
            if after is None:
                return before
            data = after.to_json().encode()
            try:
                if etag:
                    self.storage.put_if_match(key, data, etag)
                else:
                    self.storage.put_if_absent(key, data)
            except (PreconditionFailed, AlreadyExists) as error:
                if time.monotonic() > deadline:
                    why = f"others kept changing {key} for {CONTENTION_TIMEOUT_S:g} s"
                    raise Unavailable(self.provider, operation, why, "Repeat it later") from error
                time.sleep(_JITTER.uniform(0, pause_s))
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                continue
            self._flush(after)
            return after

    def _flush(self, index: Index) -> None:
        """Give the audit entries in the tail objects of their own."""
        for decision in index.tail:
            key, data = self._key(index.model, f"audit/{decision.seq:08d}.json"), decision.to_json().encode()
            try:
                self.storage.put_if_absent(key, data)
            except AlreadyExists as error:
                if self.storage.get(key) != data:
                    why = f"another entry has the number {decision.seq}: is the index older than the audit?"
                    raise self._damaged(key, why) from error

    def _claim(self, version: ModelVersion, number: int) -> tuple[ModelVersion, bytes]:
        """Take the number, or learn who has it: the version whose manifest is there now, and the manifest."""
        version = replace(version, version=number)
        key, data = self._key(version.model, f"versions/{number}.json"), manifest(version)
        try:
            self.storage.put_if_absent(key, data)
        except AlreadyExists:
            data = self.storage.get(key)
            version = self._manifest(version.model, number, data)
        return version, data

    def _announce(self, index: Index, number: int) -> None:
        """Publish the event of a version's state: the same one each time, as long as the state is the same."""
        entry = index.versions[str(number)]
        event = Event(
            id=f"{self.source}-{index.model}-{number}-{entry.seq:08d}-{re.sub('[^0-9]', '', entry.since)}",
            type="ModelDecided", source=self.source, subject=f"{index.model}:{number}", time=entry.since,
            data={"state": entry.state},
        )  # fmt: skip
        try:
            self.publish(event)
        except EkibenError as error:
            why = error.why if isinstance(error, ProviderError) else str(error).rstrip(".")
            remedy = f"{error.remedy}; then repeat" if isinstance(error, ProviderError) and error.remedy else "Repeat"
            raise Unavailable(
                self.provider, f"publish that {event.subject} is {entry.state}",
                f"the registry has recorded it, but {why}", f"{remedy} the same call, which publishes it",
            ) from error  # fmt: skip

    def _load(self, index: Index, number: int) -> ModelVersion:
        entry = index.versions[str(number)]
        key = self._key(index.model, f"versions/{number}.json")
        try:
            data = self.storage.get(key)
        except NotFound as error:
            raise self._damaged(key, "it is gone") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise self._damaged(key, "it is not what was registered")
        version = self._manifest(index.model, number, data)
        return replace(version, state=entry.state, aliases=index.aliases_of(number))

    def _manifest(self, model: str, number: int, data: bytes) -> ModelVersion:
        key = self._key(model, f"versions/{number}.json")
        version = self._parsed(ModelVersion, key, data)
        if (version.model, version.version) != (model, number):
            raise self._damaged(key, f"it is the manifest of {version.id}")
        return version

    def _read(self, model: str) -> tuple[str, Index]:
        """The etag and the index of a model; no etag where there is none yet."""
        key = self._key(model, "index.json")
        for second in (False, True):
            try:
                etag, data = self._fetched(key)
                break
            except NotFound as error:
                if second:
                    raise self._damaged(key, "it is gone, and its audit is there") from error
            if not any(self.storage.list(self._key(model, "audit/"))):
                return "", Index(model=model)
            # The audit is written after the index: the first writer of all may have come in between. So look again.
        index = self._parsed(Index, key, data)
        if problem := index.problem(model):
            raise self._damaged(key, problem)
        return etag, index

    def _fetched(self, key: str) -> tuple[str, bytes]:
        # The etag first: when the object changes between the two calls, an update by the old etag fails, and is repeated.
        return self.storage.head(key).etag, self.storage.get(key)

    def _number(self, index: Index, ref: str) -> int:
        _, number, alias = parse_ref(ref)
        if not index.versions:
            raise self._no_model(f"find {ref!r}", index.model)
        if alias:
            number = index.aliases.get(alias, 0)
        if str(number) in index.versions:
            return number
        there = [f"{index.model}:{n}" for n in index.numbers[-10:]] + [
            f"{index.model}@{a}" for a in sorted(index.aliases)
        ]
        raise NotFound(self.provider, f"find {ref!r}", f"there is {', '.join(there)}")

    def _no_model(self, operation: str, model: str) -> NotFound:
        there = ", ".join(self._models()) or "none"
        return NotFound(self.provider, operation, f"the registry has no model {model!r}; there is {there}")

    def _models(self) -> list[str]:
        start = f"{self.prefix}/" if self.prefix else ""
        names = (found.key.removeprefix(start).split("/") for found in self.storage.list(start))
        return [name[0] for name in names if name[1:] == ["index.json"]]

    def _key(self, model: str, rest: str) -> str:
        return "/".join(part for part in (self.prefix, model, rest) if part)

    def _parsed(self, kind: type[R], key: str, data: bytes) -> R:
        try:
            return kind.from_json(data)
        except SpecError as error:
            raise self._damaged(key, f"it cannot be read: {str(error).rstrip('.')}") from error

    def _damaged(self, key: str, why: str) -> IntegrityError:
        return IntegrityError(
            self.provider, f"read {self.storage.uri(key)}", why, "Nothing was changed; restore it from a copy"
        )


def _at_once(call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The answers in the order of the items; the calls wait for the network side by side."""
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(call, items)
