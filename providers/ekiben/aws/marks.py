"""Marks of the events that a function has had: one object each, written where none is, so that an event that comes twice is
handled once. EventBridge, Scheduler and Lambda deliver at least once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any

from ekiben.aws.storage import open_storage
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
    where = _where(id)
    if where is None:
        return True
    (store, key), mine = where, _mark(request, turn, "running")
    while True:
        with contextlib.suppress(AlreadyExists):
            store.put(key, mine, absent=True)
            return True
        try:
            etag = store.head(key).etag
            there = json.loads(store.get(key))
            if turn == there["turn"]:
                return bool(request == there["request"] and there["state"] == "running")
            if turn < there["turn"]:
                return False
            store.put(key, mine, etag=etag)
            return True
        except (NotFound, PreconditionFailed):  # somebody was quicker: look again
            continue


def finish(id: str, request: str, turn: str) -> None:
    """The event is done."""
    if where := _where(id):
        store, key = where
        store.put(key, _mark(request, turn, "done"))


def _where(id: str) -> tuple[Any, str] | None:
    """The store and the key of an event's mark."""
    uri = os.environ.get(PLACE, "")
    if not uri:
        return None
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    name = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()
    return open_storage(f"s3://{bucket}", os.environ["AWS_REGION"]).reserved, f"{prefix}/{name}"


def _mark(request: str, turn: str, state: str) -> bytes:
    return json.dumps({"request": request, "turn": turn, "state": state, "at": now()}).encode()
