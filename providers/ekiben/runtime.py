"""Run face: the contract that every provider implements, and the Runtime that binds it to a platform.

One class per kind of component, bound to one component; no optional methods; no pulumi, pydantic, bentoml or mlflow. Every
mutating call is idempotent on a name that the caller gives, because triggers deliver at least once. Errors are those of
`ekiben.errors`; a provider translates its SDK's in one table.
"""

from __future__ import annotations

import abc
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from ekiben.errors import NotFound, SpecError
from ekiben.records import (
    Decision,
    Event,
    Job,
    LoggedPrediction,
    ModelVersion,
    Part,
    Platform,
    Prediction,
    Revision,
    RevisionMetrics,
    Run,
)

__all__ = ["Endpoint", "Function", "Object", "Registry", "Runtime", "Storage", "Training", "connect"]


class Bound(abc.ABC):
    """A runtime object of one part of a platform. Making one calls nothing."""

    kind: ClassVar[str]

    def __init__(self, part: Part, platform: Platform) -> None:
        self.part = part
        self.platform = platform


class Object:
    """An object in storage: key, size in bytes, `etag` (changes with each write) and `modified` (RFC 3339, UTC)."""

    __slots__ = ("etag", "key", "modified", "size_bytes")

    def __init__(self, key: str, size_bytes: int, etag: str, modified: str) -> None:
        self.key, self.size_bytes, self.etag, self.modified = key, size_bytes, etag, modified

    def __repr__(self) -> str:
        return f"Object({self.key!r}, {self.size_bytes} bytes, etag={self.etag!r})"


class Storage(Bound):
    """Objects by key. Keys are relative, `/`-separated, never climb (`..`), and are refused with SpecError if they do.

    A write is seen whole or not at all.
    """

    kind = "storage"

    @abc.abstractmethod
    def uri(self, key: str = "") -> str:
        """The absolute URI of `key`: what other machines and other tools can open."""

    @abc.abstractmethod
    def key(self, uri: str) -> str:
        """The key of a URI of this storage. Raises SpecError for a URI of another."""

    @abc.abstractmethod
    def get(self, key: str) -> bytes:
        """The bytes of the object. Raises NotFound."""

    @abc.abstractmethod
    def head(self, key: str) -> Object:
        """The object without its bytes. Raises NotFound."""

    @abc.abstractmethod
    def put(self, key: str, data: bytes | Path) -> Object:
        """Write, over whatever is there. Repeating is safe. A Path is streamed."""

    @abc.abstractmethod
    def put_if_absent(self, key: str, data: bytes | Path) -> Object:
        """Write where nothing is; of many at once exactly one succeeds. Raises AlreadyExists."""

    @abc.abstractmethod
    def put_if_match(self, key: str, data: bytes, etag: str) -> Object:
        """Write over the object that has `etag`; of many at once exactly one succeeds. Raises PreconditionFailed."""

    @abc.abstractmethod
    def list(self, prefix: str = "") -> Iterator[Object]:
        """All objects whose key starts with `prefix`, sorted by key; pages are followed."""

    @abc.abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy within this storage, over whatever is there. Raises NotFound."""

    @abc.abstractmethod
    def delete(self, key: str) -> None:
        """Delete; silent where nothing is."""

    @abc.abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Stream the object into a file, whole or not at all. Raises NotFound."""


class Registry(Bound):
    """Model versions: an immutable manifest each, an index with states and aliases, an append-only audit."""

    kind = "registry"

    @abc.abstractmethod
    def register(self, version: ModelVersion) -> ModelVersion:
        """Add a version; `version.version` is ignored and given by the registry, 1, 2, 3...; no number is given twice.

        Repeating with the same `key` returns the version that the first call made. Raises SpecError for a bad record.
        """

    @abc.abstractmethod
    def version(self, ref: str) -> ModelVersion:
        """By "model:3" or "model@alias". Raises NotFound, naming what there is."""

    @abc.abstractmethod
    def versions(self, model: str = "") -> list[ModelVersion]:
        """Newest first; of all models when `model` is empty."""

    @abc.abstractmethod
    def decide(self, ref: str, state: str, *, who: str, why: str) -> ModelVersion:
        """Approve, reject or archive ("approved", "rejected", "archived"), and publish ModelDecided.

        Repeating the same decision changes nothing and publishes the same event again. Raises SpecError for a state that
        does not follow (archived is final), NotFound.
        """

    @abc.abstractmethod
    def alias(self, ref: str, alias: str, *, who: str, why: str) -> ModelVersion:
        """Point `alias` at a version. Repeating is safe. Raises NotFound."""

    @abc.abstractmethod
    def audit(self, model: str) -> list[Decision]:
        """Who did what, oldest first."""


class Training(Bound):
    """Runs of one training component."""

    kind = "training"

    @abc.abstractmethod
    def submit(self, job: Job) -> Run:
        """Start a run, and return without waiting for it. Submitting an id that is there returns that run.

        Raises SpecError for a bad job, NoCapacity, AccessDenied.
        """

    @abc.abstractmethod
    def run(self, id: str) -> Run:
        """A run as it is now. Raises NotFound."""

    @abc.abstractmethod
    def runs(self) -> list[Run]:
        """Newest first."""

    @abc.abstractmethod
    def logs(self, id: str, *, follow: bool = False) -> Iterator[str]:
        """The lines of a run's log, without newlines; with `follow`, until the run has ended. Raises NotFound."""

    @abc.abstractmethod
    def cancel(self, id: str) -> Run:
        """Stop a run and all its processes; returns when they are gone. Silent when it has ended. Raises NotFound."""


class Endpoint(Bound):
    """Revisions of one endpoint, and calls to it."""

    kind = "endpoint"

    @property
    def url(self) -> str:
        """Where it is called by HTTP: the URL that routes are put behind; empty where it has none, or none yet."""
        return str(self.part.facts.get("url", ""))

    @abc.abstractmethod
    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        """Make a revision at weight 0 and wait until it is ready or has failed. Deploying a version again returns its revision.

        Raises IntegrityError when the bento is not the one registered, ModelFailed when it does not start (with its log).
        """

    @abc.abstractmethod
    def revisions(self) -> list[Revision]:
        """Newest first, without those retired."""

    @abc.abstractmethod
    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        """Set the weights (revision id -> percent, sum 100), all at once; those not named get 0. Repeating is safe.

        Raises SpecError for a wrong sum or a revision that is not ready, NotFound.
        """

    @abc.abstractmethod
    def retire(self, revision: str) -> None:
        """Drain and remove a revision of weight 0. Silent when it is gone. Raises SpecError when it has traffic."""

    @abc.abstractmethod
    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        """Call it with a JSON payload; `revision` (an id or a tag) instead of the weights.

        Raises SpecError when the model refuses the payload, Unavailable, ModelFailed when the model fails.
        """

    @abc.abstractmethod
    def metrics(self) -> list[RevisionMetrics]:
        """Per revision, in the order of `revisions`."""

    @abc.abstractmethod
    def predictions(self, last: int = 100) -> list[LoggedPrediction]:
        """The last rows of its prediction log, newest first: those of the answers that were given, as far as they are logged."""


class Function(Bound):
    """Calls and deliveries of one function."""

    kind = "function"

    @abc.abstractmethod
    def call(self, data: Mapping[str, Any]) -> Any:
        """Call it as HTTP would, wait, and return what the handler returned. Raises FunctionFailed."""

    @abc.abstractmethod
    def deliveries(self, state: str = "") -> list[dict[str, Any]]:
        """Its deliveries, newest first: id, event, state (waiting, running, done, dead), attempts, error, log_uri."""

    @abc.abstractmethod
    def replay(self, delivery: str) -> None:
        """Put a dead letter back in the queue. Silent when it is not dead any more. Raises NotFound."""

    @abc.abstractmethod
    def logs(self) -> Iterator[str]:
        """The lines of its log, oldest first."""


B = TypeVar("B", bound=Bound)


class Runtime:
    """A platform, ready to use. `runtime.storage("lake")`, `.registry(...)`, `.training(...)`, `.endpoint(...)`."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def storage(self, name: str = "") -> Storage:
        return self._bind(Storage, name)

    def storage_of(self, uri: str, provider: str = "") -> Storage:
        """The storage of this platform that `uri` lies in. Raises SpecError where there is none.

        provider: whose, since those of two may have buckets of one name; by default anybody's.
        """
        names = [one for one in self.names("storage") if provider in ("", self.platform.parts[one].provider)]
        for name in names:
            store = self.storage(name)
            try:
                store.key(uri)
            except SpecError:
                continue
            return store
        raise SpecError(
            f"{uri!r} lies in no storage that can be used here ({', '.join(names) or 'there is none'}): give the function "
            "the storage too, `uses=[...]`."
        )

    def registry(self, name: str = "") -> Registry:
        return self._bind(Registry, name)

    def training(self, name: str = "") -> Training:
        return self._bind(Training, name)

    def endpoint(self, name: str = "") -> Endpoint:
        return self._bind(Endpoint, name)

    def function(self, name: str = "") -> Function:
        return self._bind(Function, name)

    def publish(self, event: Event) -> None:
        """Publish an event of your own to the functions of this platform; publishing an id again is one event."""
        for module in {self._module(part) for part in self.platform.parts.values()}:
            module.publish(event, self.platform)

    def names(self, kind: str) -> list[str]:
        return sorted(name for name, part in self.platform.parts.items() if part.kind == kind)

    def _bind(self, contract: type[B], name: str) -> B:
        """The provider's class for the part; an empty name takes the only one of its kind. Raises NotFound, naming those there."""
        names = self.names(contract.kind)
        if not name and len(names) == 1:
            name = names[0]
        if name not in names:
            there = f"there is {', '.join(names)}" if names else "there is none"
            raise NotFound(
                "ekiben", f"use the {contract.kind} {name!r}", f"the platform has no such component; {there}",
                "Name one of them, or give the function `uses=[...]`" if name else "Name the one you mean",
            )  # fmt: skip
        part = self.platform.parts[name]
        return cast(B, getattr(self._module(part), contract.__name__)(part, self.platform))

    @staticmethod
    def _module(part: Part) -> Any:
        from ekiben import providers

        known = providers()
        if part.provider not in known:
            raise SpecError(
                f"The platform's {part.kind} {part.name!r} is of the provider {part.provider!r}, which is not installed; "
                f"there are: {', '.join(sorted(known))}. Install the package that brings it."
            )
        return importlib.import_module(f"{known[part.provider]}.runtime")


def connect(platform: Platform | str | Path | None = None) -> Runtime:
    """The Runtime of a platform: a record, its JSON, or the path of a file that holds it.

    Without one: the environment variable EKIBEN_PLATFORM (JSON or a path). Raises SpecError when there is none or it is unreadable.
    """
    if platform is None:
        platform = os.environ.get("EKIBEN_PLATFORM", "")
        if not platform:
            raise SpecError(
                "There is no platform to connect to: pass one, or set EKIBEN_PLATFORM to the stack output "
                "`platform` (pulumi stack output platform --json) or to a file that holds it."
            )
    if isinstance(platform, Platform):
        return Runtime(platform)
    if isinstance(platform, str) and platform.lstrip().startswith("{"):
        return Runtime(Platform.from_json(platform))
    try:
        data = Path(platform).read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SpecError(f"The platform record {str(platform)!r} cannot be read: {why}.") from error
    return Runtime(Platform.from_json(data))
