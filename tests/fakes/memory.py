"""A platform in memory: the real storage and registry over obstore's memory store, and an endpoint that keeps its promises.

`Faulty` makes any of them die at a chosen call, before or after the call has had its effect.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ekiben import runtime
from ekiben.errors import ModelFailed, NotFound, SpecError
from ekiben.records import Event, ModelVersion, Part, Platform, Prediction, Revision, RevisionMetrics
from ekiben.registry import ObjectRegistry
from ekiben.storage import open_storage

_names = itertools.count()


class Killed(BaseException):
    """The process is gone: no `except Exception` sees it."""


class Endpoint(runtime.Endpoint):
    """`answers`: version -> what it answers, or the error it raises; `broken`: versions that do not start."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self.answers: dict[str, Any] = {}
        self.broken: set[str] = set()
        self.stuck: set[str] = set()
        self._revisions: dict[str, Revision] = {}
        self._lock = threading.RLock()
        self._served = False

    def deploy(self, version: ModelVersion, *, tag: str = "") -> Revision:
        with self._lock:
            id = f"v{version.version}-{version.digest[:8]}"
            state: Any = "failed" if version.id in self.broken else "ready"
            if id not in self._revisions:
                self._revisions[id] = Revision(
                    id=id, endpoint=self.part.name, version=version.id, digest=version.digest, state=state, tag=tag
                )
            if version.id in self.broken:
                raise ModelFailed("the worker ended with exit code 1.", tail="KeyError: 'slope'", log_uri="file:///log")
            return self._revisions[id]

    def revisions(self) -> list[Revision]:
        with self._lock:
            return list(reversed(self._revisions.values()))

    def shift(self, weights: Mapping[str, float]) -> list[Revision]:
        with self._lock:
            if sum(weights.values()) != 100:
                raise SpecError(f"The weights sum to {sum(weights.values())}.")
            for id in weights:
                if id not in self._revisions:
                    raise NotFound("memory", f"shift to {id!r}", "there is no such revision")
                if self._revisions[id].state != "ready":
                    raise SpecError(f"{id} is not ready.")
            self._revisions = {
                id: replace(revision, weight=weights.get(id, 0.0)) for id, revision in self._revisions.items()
            }
            self._served = True
            return self.revisions()

    def retire(self, revision: str) -> None:
        with self._lock:
            if revision in self.stuck:
                raise SpecError(f"{revision} cannot be retired.")
            if revision in self._revisions and self._revisions[revision].weight:
                raise SpecError(f"{revision} has traffic.")
            self._revisions.pop(revision, None)

    def invoke(self, payload: Any, *, route: str = "predict", revision: str = "") -> Prediction:
        with self._lock:
            found = self._revisions[revision] if revision else self.serving
        answer = self.answers.get(found.version, payload)
        if isinstance(answer, Exception):
            raise answer
        return Prediction(endpoint=self.part.name, revision=found.id, body=answer, latency_ms=1.0)

    def metrics(self) -> list[RevisionMetrics]:
        return [RevisionMetrics(revision=revision.id) for revision in self.revisions()]

    def predictions(self, last: int = 100) -> list[Any]:
        return []

    @property
    def serving(self) -> Revision:
        """The one revision with traffic; that there is one, and that it is ready, is what a release owes."""
        (found,) = (revision for revision in self.revisions() if revision.weight)
        assert found.weight == 100
        assert found.state == "ready"
        return found


class Registry(runtime.Registry):
    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self.events: list[Event] = []
        lake, _, name = str(part.facts["uri"]).rpartition("/registry/")
        self._objects = ObjectRegistry(
            open_storage(lake), f"registry/{name}", provider="memory", source=part.name, publish=self.events.append
        )
        for method in ("register", "version", "versions", "decide", "alias", "audit"):
            setattr(self, method, getattr(self._objects, method))

    register = version = versions = decide = alias = audit = NotImplemented


class Faulty:
    """Calls of `inner`, counted by `die`, which may raise before or after each."""

    def __init__(self, inner: Any, die: Callable[[str], None]) -> None:
        self._inner, self._die = inner, die

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._die(f"before {name}")
            answer = found(*args, **kwargs)
            self._die(f"after {name}")
            return list(answer) if isinstance(answer, Iterator) else answer

        return call


class Memory(runtime.Runtime):
    """storage `lake`, registry `models`, endpoint `api`, which serves `model`."""

    def __init__(self, model: str = "tiny@champion", **facts: Any) -> None:
        uri = f"memory://lake-{next(_names)}"
        parts = (
            Part(name="lake", kind="storage", provider="memory", ref="lake", facts={"uri": uri}),
            Part(
                name="models", kind="registry", provider="memory", ref="models", facts={"uri": f"{uri}/registry/models"}
            ),
            Part(name="api", kind="endpoint", provider="memory", ref="api", facts={"model": model, **facts}),
        )
        super().__init__(Platform(project="p", stack="s", parts={part.name: part for part in parts}))
        self._bound: dict[str, Any] = {
            "storage": open_storage(uri),
            "registry": Registry(parts[1], self.platform),
            "endpoint": Endpoint(parts[2], self.platform),
        }
        self._die: Callable[[str], None] | None = None

    def _bind(self, contract: Any, name: str) -> Any:
        bound = self._bound[contract.kind]
        return Faulty(bound, self._die) if self._die else bound

    @property
    def fake(self) -> Endpoint:
        found: Endpoint = self._bound["endpoint"]
        return found

    def killed_at(self, number: int) -> None:
        """Die at the call point of this number, counted from now (two points a call: before it, after it); never when negative."""
        points = itertools.count()

        def die(point: str) -> None:
            if next(points) == number:
                raise Killed(f"{number}: {point}")

        self._die = die if number >= 0 else None
