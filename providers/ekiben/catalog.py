"""The index of a model in the registry, and what may become of it: plain data and pure functions, no storage.

States: pending -> approved or rejected, these two into each other, any of them -> archived, which is final. A version that has an
alias is neither rejected nor archived, and one that is rejected or archived gets no alias: what an alias names may be in service.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from ekiben.errors import SpecError
from ekiben.records import Decision, ModelVersion, Record, VersionState, now

__all__ = [
    "Entry",
    "Index",
    "aliased",
    "check_name",
    "check_text",
    "check_version",
    "decided",
    "manifest",
    "parse_ref",
    "registered",
]

NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){0,62}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
MAX_MANIFEST_BYTES = 1 << 20
MAX_TEXT = 2000
FOLLOWS: dict[VersionState, tuple[VersionState, ...]] = {
    "pending": ("approved", "rejected", "archived"),
    "approved": ("rejected", "archived"),
    "rejected": ("approved", "archived"),
    "archived": (),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Record):
    """A version in the index. seq, since: the audit entry that gave it its state. sha256: of its manifest."""

    key: str
    sha256: str
    state: VersionState
    seq: int
    since: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Index(Record):
    """The index of a model. seq: the last audit entry; tail: the entries that may not be objects of their own yet."""

    model: str
    seq: int = 0
    versions: dict[str, Entry] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    tail: list[Decision] = field(default_factory=list)
    schema: int = 1

    @property
    def numbers(self) -> list[int]:
        """The versions' numbers, rising."""
        return sorted(map(int, self.versions))

    def aliases_of(self, number: int) -> list[str]:
        return sorted(alias for alias, named in self.aliases.items() if named == number)

    def number_of(self, key: str) -> int:
        """The version that was registered with `key`; 0 when there is none."""
        return next((int(number) for number, entry in self.versions.items() if entry.key == key), 0)

    def problem(self, model: str) -> str:
        """What is wrong with an index that was read for `model`; empty when it is sound."""
        if self.schema != 1:
            return f"its schema is {self.schema}: was it written by a newer Ekiben?"
        if self.model != model:
            return f"it is the index of {self.model!r}"
        if not all(NUMBER.fullmatch(number) for number in self.versions):
            return "a version has no number"
        if not {str(number) for number in self.aliases.values()} <= set(self.versions):
            return "an alias names a version that it does not have"
        if [decision.seq for decision in self.tail] != list(range(self.seq - len(self.tail) + 1, self.seq + 1)):
            return "the last audit entries are not numbered in order"
        return ""


def registered(index: Index, version: ModelVersion, text: bytes, state: VersionState) -> Index:
    """With a version whose manifest (`text`) is in storage."""
    index = _noted(index, version.version, "registered", version.created_by, "", "", state)
    sha256 = hashlib.sha256(text).hexdigest()
    entry = Entry(key=version.key, sha256=sha256, state=state, seq=index.seq, since=index.tail[-1].when)
    return replace(index, versions={**index.versions, str(version.version): entry})


def decided(index: Index, number: int, state: str, who: str, why: str) -> Index | None:
    """With a version in another state; None when it is in that state. Raises SpecError for a state that does not follow."""
    entry, name = index.versions[str(number)], f"{index.model}:{number}"
    if state == entry.state:
        return None
    if state not in FOLLOWS["pending"]:
        raise SpecError(f"A version is decided to be approved, rejected or archived, not {state!r}.")
    if state not in FOLLOWS[entry.state]:
        raise SpecError(f"{name} is {entry.state}, which is final: it cannot become {state}.")
    if state != "approved" and (named := index.aliases_of(number)):
        raise SpecError(
            f"{name} has the alias {', '.join(named)}, so it may be in service and cannot become {state}: "
            "point the alias at another version first."
        )
    index = _noted(index, number, state, who, why, entry.state, state)
    changed = replace(entry, state=state, seq=index.seq, since=index.tail[-1].when)
    return replace(index, versions={**index.versions, str(number): changed})


def aliased(index: Index, number: int, alias: str, who: str, why: str) -> Index | None:
    """With an alias that points at a version; None when it does. Raises SpecError for one that is rejected or archived."""
    state, before = index.versions[str(number)].state, index.aliases.get(alias)
    if state in ("rejected", "archived"):
        raise SpecError(f"{index.model}:{number} is {state}: it cannot have the alias {alias!r}.")
    if before == number:
        return None
    index = _noted(index, number, f"alias {alias}", who, why, str(before or ""), str(number))
    return replace(index, aliases={**index.aliases, alias: number})


def _noted(index: Index, number: int, what: str, who: str, why: str, before: str, after: str) -> Index:
    decision = Decision(
        seq=index.seq + 1, model=index.model, version=number, what=what, who=who, when=now(), why=why, before=before,
        after=after,
    )  # fmt: skip
    return replace(index, seq=decision.seq, tail=[*index.tail, decision])


def manifest(version: ModelVersion) -> bytes:
    """The immutable part of a version as canonical JSON. Raises SpecError for what JSON cannot hold."""
    data: dict[str, Any] = version.to_dict()
    del data["state"], data["aliases"]
    try:
        return json.dumps(data, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"The version of {version.model} cannot be recorded as JSON: {error}.") from error


def check_version(version: ModelVersion) -> ModelVersion:
    """`version` as it is to be registered: pending, without number and aliases. Raises SpecError, naming the field."""
    check_name("model", version.model)
    check_text("ModelVersion.key", version.key, required=True)
    check_text("ModelVersion.created_by", version.created_by, required=True)
    if not DIGEST.fullmatch(version.digest):
        raise SpecError(f"ModelVersion.digest is {version.digest!r}, not a SHA-256 in hex.")
    if not version.bento_uri:
        raise SpecError("ModelVersion.bento_uri is empty: a version is registered after its bento is stored.")
    for name, value in version.metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise SpecError(f"ModelVersion.metrics.{name} is {value!r}, not a finite number.")
    version = replace(version, version=1, state="pending", aliases=[], created_at=version.created_at or now())
    if (size := len(manifest(version))) > MAX_MANIFEST_BYTES:
        raise SpecError(
            f"The manifest of {version.model} has {size} bytes, and {MAX_MANIFEST_BYTES} is the most: "
            "keep large things in storage, and their URIs in the lineage."
        )
    return ModelVersion.from_json(manifest(version))


def parse_ref(ref: str) -> tuple[str, int, str]:
    """Model, number and alias of "model:3" (no alias) or "model@alias" (number 0). Raises SpecError."""
    model, separator, rest = ref.partition("@" if "@" in ref else ":")
    check_name("model", model)
    if separator == "@":
        return model, 0, check_name("alias", rest)
    if not NUMBER.fullmatch(rest):
        raise SpecError(f"{ref!r} names no version: write {model}:3 or {model}@champion.")
    return model, int(rest), ""


def check_name(what: str, name: str) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SpecError(
            f"The {what} {name!r} will not do: use 1 to 63 of a-z, 0-9 and single dashes, a letter first and no dash last."
        )
    return name


def check_text(what: str, text: str, *, required: bool = False) -> None:
    if required and not text.strip():
        raise SpecError(f"{what} is empty: the audit says who did what.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SpecError(f"{what} is not valid Unicode.") from error
    if len(text) > MAX_TEXT:
        raise SpecError(f"{what} has {len(text)} characters, and {MAX_TEXT} is the most.")
