"""A canary under load: a tenth of the traffic for a new revision, then all of it, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import ekiben as ek
from ekiben.kubernetes.endpoint import Endpoint

from .load import Load, between

__all__ = ["CHANCE", "COUNTED", "canary", "check", "load_of"]

PER_S = 50.0
# Of the canary: so many requests, and how seldom a right split may be taken for a wrong one, on either side.
COUNTED, CHANCE = 500, 1e-6


def load_of(one: Endpoint) -> Load:
    """Requests to the endpoint, by the cluster's ingress."""
    at = one._made.address("", "look")
    return Load(f"{at.url}/predict", {"host": at.host, "x-ekiben-token": "testing"}, PER_S)


def canary(
    load: Load, one: Endpoint, before: ek.Revision, after: ek.Revision, halfway: Callable[[], None] = lambda: None
) -> None:
    """Move the traffic. `halfway` is called while both have it."""
    with load.during("while the canary begins"):
        one.shift({before.id: 90, after.id: 10})
    with load.during("in the canary", COUNTED):
        halfway()
    with load.during("while all of it moves"):
        one.shift({after.id: 100})
    with load.during("after it has moved", 50):
        pass


def check(load: Load, before: ek.Revision, after: ek.Revision) -> None:
    """Each request was answered, by one of the two, and in the canary by each as often as its share says."""
    seen = load.seen
    assert {who for told in seen.values() for who in told} == {before.version, after.version}, seen
    assert set(seen["after it has moved"]) == {after.version}
    told = seen["in the canary"]
    assert told[after.version] in between(told.total(), 0.1, CHANCE), told
