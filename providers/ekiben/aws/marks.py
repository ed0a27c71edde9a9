"""Marks of the events that a function has had: one object each, written where none is, so that an event that comes twice is
handled once. EventBridge, Scheduler and Lambda deliver at least once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os

from ekiben.aws.storage import Storage, open_storage
from ekiben.errors import AlreadyExists, NotFound, PreconditionFailed
from ekiben.records import now

__all__ = ["PLACE", "claim", "finish"]

# The variable that says where they are: s3://BUCKET/deliveries/FUNCTION. Without it nothing is marked.
PLACE = "EKIBEN_DELIVERIES"


def claim(id: str, request: str, turn: str) -> bool:
    """Is this event for this delivery to handle? `request` stays the same when a delivery is tried again; `turn` is empty, or
    later than all before it with each replay.

    False where another delivery of it has come first: that one is tried again, and becomes a dead letter, by itself. False, too,
    where it is done already, in this turn or in a later one.
    """
    place = _place()
    if place is None:
        return True
    key, mine = _key(id), _mark(request, turn, "running")
    while True:
        with contextlib.suppress(AlreadyExists):
            place.put_if_absent(key, mine)
            return True
        try:
            etag = place.head(key).etag
            there = json.loads(place.get(key))
            if turn == there["turn"]:
                return bool(request == there["request"] and there["state"] == "running")
            if turn < there["turn"]:
                return False
            place.put_if_match(key, mine, etag)
            return True
        except (NotFound, PreconditionFailed):  # somebody was quicker: look again
            continue


def finish(id: str, request: str, turn: str) -> None:
    """The event is done."""
    if (place := _place()) is not None:
        place.put(_key(id), _mark(request, turn, "done"))


def _place() -> Storage | None:
    uri = os.environ.get(PLACE, "")
    return open_storage(uri, os.environ["AWS_REGION"]) if uri else None


def _key(id: str) -> str:
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()


def _mark(request: str, turn: str, state: str) -> bytes:
    return json.dumps({"request": request, "turn": turn, "state": state, "at": now()}).encode()
