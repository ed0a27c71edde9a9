"""Events of a platform: objects below its bus, s3://BUCKET/deliveries/_events, in the order of their time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ekiben.errors import NotFound, SpecError
from ekiben.kubernetes.facts import S3
from ekiben.kubernetes.keys import event_key
from ekiben.kubernetes.storage import open_storage
from ekiben.records import Event, Platform

__all__ = ["EVENT_BYTES", "publish"]

# What the other providers carry, so that an event that is published here can be published there.
EVENT_BYTES = 240_000


def publish(event: Event, platform: Platform) -> None:
    """Write an event to the bus that the platform names. Raises NotFound where it names none, SpecError for one that is too large.

    Published again it is another object with the same id, and each function handles an id once.
    """
    data = event.to_json().encode()
    if len(data) > EVENT_BYTES:
        raise SpecError(
            f"The event {event.id!r} has {len(data)} bytes, and kubernetes carries {EVENT_BYTES} at most: put a URI in it."
        )
    facts = next(_with_bus(platform), None)
    if facts is None:
        raise NotFound(
            "kubernetes", f"publish {event.type}", "the platform has no part that names its events, such as a registry",
            "Give the function `uses=[...]` one",
        )  # fmt: skip
    store = open_storage(facts["bus"], facts["namespace"], S3.from_dict(facts["s3"]), facts.get("context", ""))
    store.put(event_key(event.id), data)


def _with_bus(platform: Platform) -> Iterator[dict[str, Any]]:
    for part in platform.parts.values():
        if part.provider == "kubernetes" and part.facts.get("bus"):
            yield part.facts
