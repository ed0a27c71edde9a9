"""What passes between the layers: plain records, standard library only, the same JSON everywhere.

Records hold names, URIs and digests, never secrets. `to_json` writes one canonical text (sorted keys, no NaN); `from_json`
refuses what it does not know, so that an old program never half-reads a new record. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, Self

from ekiben.errors import SpecError

__all__ = [
    "Decision",
    "Event",
    "Interruption",
    "Job",
    "LoggedPrediction",
    "ModelVersion",
    "Part",
    "Platform",
    "Prediction",
    "Record",
    "Revision",
    "RevisionMetrics",
    "Run",
    "now",
    "parse",
]

Kind = Literal["storage", "registry", "training", "endpoint", "function"]
RunState = Literal["pending", "running", "succeeded", "failed", "cancelled"]
VersionState = Literal["pending", "approved", "rejected", "archived"]
RevisionState = Literal["starting", "ready", "failed", "retiring", "retired"]


def now() -> str:
    """The time as RFC 3339 in UTC with microseconds: sortable as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Record:
    """Base of the records: canonical JSON out, strict JSON in."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(typing.cast(Any, self))

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Raises SpecError naming the record and the key for an unknown, missing or wrongly typed key."""
        return typing.cast(Self, _build(cls, data, cls.__name__))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        try:
            data = parse(text)
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{cls.__name__} is not JSON: {error}.") from error
        return cls.from_dict(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part(Record):
    """One component of a platform. `ref` is the provider's own id of it; `facts` is what a runtime needs to use it."""

    name: str
    kind: Kind
    provider: str
    ref: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform(Record):
    """What is: the one thing that crosses from deploy time to run time."""

    project: str
    stack: str
    parts: dict[str, Part] = field(default_factory=dict)
    schema: int = 1

    def subset(self, names: list[str]) -> Platform:
        """The same platform with only the parts in `names`: what a function is given of it."""
        return dataclasses.replace(self, parts={name: self.parts[name] for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class Event(Record):
    """Something happened. Delivered at least once: `id` is the same at each delivery.

    type: NewData, Schedule, Http, TrainingEnded, ModelDecided, or a name of your own. source: the part it comes from.
    subject: what it is about (an object's key, a run's id, "model:version"). time: when it happened.
    """

    id: str
    type: str
    source: str
    subject: str = ""
    time: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Record):
    """A request for a training run. `id` names the run: submitting it twice is one run.

    inputs: name -> URI prefix, instead of the spec's; params: over the spec's.
    """

    id: str
    inputs: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption(Record):
    """A run was stopped, and not by an error of its own. lost_s: the work since its last checkpoint, which was to be done again."""

    at: str
    reason: str
    lost_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Record):
    """A training run. URIs are prefixes in storage; `lineage` is what it was made from (see docs/lineage.md).

    started_at: of the first attempt; attempts: how often it was started, after failures and interruptions too.
    """

    id: str
    training: str
    state: RunState
    reason: str = ""
    submitted_at: str = ""
    started_at: str = ""
    ended_at: str = ""
    nodes: int = 1
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    model: str = ""
    model_uri: str = ""
    output_uri: str = ""
    log_uri: str = ""
    lineage: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    interruptions: list[Interruption] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def lost_s(self) -> float:
        """The work that its interruptions cost, in seconds."""
        return sum(one.lost_s for one in self.interruptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion(Record):
    """A version in the registry: the immutable manifest, and the state and aliases that the index gives it.

    key: the caller's name for it (the run's id): registering a key twice is one version.
    digest: sha256 (hex) of the bento. signature: columns, input and output schema. sample: {"route", "request", "response"}.
    """

    model: str
    version: int
    key: str
    digest: str
    bento_uri: str
    created_at: str
    created_by: str
    run_id: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    signature: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    state: VersionState = "pending"
    aliases: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"{self.model}:{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision(Record):
    """A line of the registry's append-only audit: who changed what, when, why, from what to what."""

    seq: int
    model: str
    version: int
    what: str
    who: str
    when: str
    why: str = ""
    before: str = ""
    after: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision(Record):
    """A model version deployed on an endpoint. weight: percent of the traffic, 0 to 100; tag: its own address."""

    id: str
    endpoint: str
    version: str
    digest: str
    state: RevisionState
    weight: float = 0.0
    tag: str = ""
    instances: int = 0
    reason: str = ""
    created_at: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RevisionMetrics(Record):
    """Counts since the revision was made, and latency over its last requests (milliseconds, as the gateway sees it)."""

    revision: str
    requests: int = 0
    errors: int = 0
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction(Record):
    """An endpoint's answer. `body` is the parsed JSON; `cold` says that the request was held while an instance started.

    id: what the host calls this request, in its prediction log and its answer's headers.
    """

    endpoint: str
    revision: str
    body: Any
    latency_ms: float
    cold: bool = False
    id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedPrediction(Record):
    """A row of the prediction log. latency_ms: as the host sees it, from the whole request to the answer.

    request, response: the bodies as text; empty where a body is large, is no UTF-8, or was streamed (its size says which
    was there; of a streamed one it is -1). trace_id: of the caller's `traceparent` header.
    """

    id: str
    time: str
    endpoint: str
    revision: str
    model_version: str
    route: str
    status: int
    latency_ms: float
    request: str
    response: str
    request_bytes: int
    response_bytes: int
    request_sha256: str
    trace_id: str = ""


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` (from JSON) as the annotated type `kind`. Covers what records use: scalars, list, dict, Literal, records."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise SpecError(f"{where} is {value!r}, not one of {', '.join(map(repr, typing.get_args(kind)))}.")
        return value
    if origin is list:
        _expect(isinstance(value, list), where, value, "a list")
        return [_build(typing.get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _expect(isinstance(value, Mapping), where, value, "an object")
        return {key: _build(typing.get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Record):
        _expect(isinstance(value, Mapping), where, value, "an object")
        hints = _hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise SpecError(f"{where} has the unknown key {unknown[0]!r}: was it written by a newer Ekiben?")
        required = {f.name for f in dataclasses.fields(typing.cast(Any, kind)) if _required(f)}
        if missing := sorted(required - set(value)):
            raise SpecError(f"{where} lacks the key {missing[0]!r}.")
        return kind(**{key: _build(hints[key], item, f"{where}.{key}") for key, item in value.items()})
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, value, "a number")
        _expect(abs(value) <= sys.float_info.max, where, value, "a finite number")
        return float(value)
    if kind is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), where, value, "a whole number")
        return value
    _expect(isinstance(value, kind), where, value, getattr(kind, "__name__", str(kind)))
    return value


def parse(text: str | bytes) -> Any:
    """What JSON says, without NaN and infinities, which JSON does not have. Raises ValueError, and RecursionError."""
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _finite(text: str) -> float:
    """1e999 is JSON, and Infinity, which could not be written again."""
    value = float(text)
    return _refuse(text) if value in (float("inf"), float("-inf")) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _expect(true: bool, where: str, value: Any, what: str) -> None:
    if not true:
        raise SpecError(f"{where} is {value!r}, not {what}.")


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


_HINTS: dict[type, Mapping[str, Any]] = {}


def _hints(kind: type) -> Mapping[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = types.MappingProxyType(typing.get_type_hints(kind))
    return _HINTS[kind]
