"""Events of a platform on its EventBridge bus: the whole event is the detail, its type the detail-type."""

from __future__ import annotations

from ekiben.aws.client import Cloud
from ekiben.errors import NotFound, SpecError, Unavailable
from ekiben.records import Event, Platform

__all__ = ["SOURCE", "publish"]

SOURCE = "ekiben"
# PutEvents takes 1 MiB, and targets get 256 KB less what surrounds the detail.
EVENT_BYTES = 240_000


def publish(event: Event, platform: Platform) -> None:
    """Put an event on the bus that the platform names. Raises NotFound where it names none, SpecError for one that is too large."""
    operation = f"publish {event.type}"
    detail = event.to_json()
    if (size := len(detail.encode())) > EVENT_BYTES:
        raise SpecError(
            f"The event {event.id!r} has {size} bytes, and aws carries {EVENT_BYTES} at most: put a URI in it."
        )
    found = (
        (part.facts.get("bus"), part.facts.get("region")) for part in platform.parts.values() if part.provider == "aws"
    )
    bus, region = next(((str(bus), str(region)) for bus, region in found if bus and region), ("", ""))
    if not bus:
        raise NotFound(
            "aws", operation, "the platform has no part that names its event bus, such as a registry",
            "Give the function `uses=[...]` one",
        )  # fmt: skip
    entry = {"EventBusName": bus, "Source": SOURCE, "DetailType": event.type, "Detail": detail}
    done = Cloud(region).call("events", "put_events", operation, Entries=[entry])
    if done.get("FailedEntryCount"):
        (said,) = done["Entries"]
        raise Unavailable(
            "aws", operation, f"{said.get('ErrorMessage', 'it failed')} ({said.get('ErrorCode', '')})", "Repeat it"
        )
