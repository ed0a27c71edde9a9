"""The contract between the station's application and its nouns (buckets, objects, trainings, endpoints, functions, record).

The application owns HTTP, authentication, the table of resources and the order of things; a noun owns what its resources mean.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ekiben.errors import NotFound
from ekiben.records import Event
from ekiben.station.store import Store

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Context", "Noun", "Resource"]


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A declared resource: what `PUT /v1/resources/<kind>/<name>` left."""

    kind: str
    name: str
    spec: Mapping[str, Any]
    tags: Mapping[str, str]
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every noun is given.

    url: where the station answers, without a slash at the end. resource: look one up by kind and name (None when absent).
    resources: all of a kind. publish: store an event and let the functions that wait for it have it; call it inside the
    transaction that makes the event true, so that neither is without the other; publishing an id again is one event.
    """

    state_dir: Path
    url: str
    project: str
    stack: str
    store: Store
    resource: Callable[[str, str], Resource | None]
    resources: Callable[[str], Sequence[Resource]]
    publish: Callable[[Event], object]

    def named(self, kind: str, name: str) -> Resource:
        """The resource of that kind and name. Raises NotFound, naming those that there are."""
        resource = self.resource(kind, name)
        if resource is None:
            there = ", ".join(one.name for one in self.resources(kind)) or "none"
            raise NotFound("local", f"use the {kind} {name!r}", f"there is no such {kind}; there are: {there}")
        return resource


class Noun(Protocol):
    """A kind of resource."""

    kind: str

    def put(self, resource: Resource, before: Resource | None) -> Awaitable[Mapping[str, Any]]:
        """Make it so (idempotent), and return its facts. `before` is what was declared until now. Raises EkibenError."""

    def exists(self, resource: Resource) -> bool:
        """Is what it stands for still there (it may have been deleted by hand)? Called without a running station, too."""

    def delete(self, resource: Resource) -> Awaitable[None]:
        """Undo it; silent where nothing is."""

    def start(self) -> Awaitable[None]:
        """The station starts: take up what was left, after a crash too."""

    def stop(self) -> Awaitable[None]:
        """The station stops: leave in order what must run on or be found again."""

    def routes(self) -> Sequence[web.RouteDef]:
        """More routes, such as /v1/endpoints/{name}/revisions. The application checks the token first."""

    def metrics(self) -> str:
        """Prometheus text for /metrics; empty when there is none."""
