"""Waiting for what AWS takes its time for: looks with pauses that grow, and an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ekiben.aws.errors import RoleNotReady
from ekiben.waiting import looks

__all__ = ["looks", "when_assumable"]

T = TypeVar("T")
# IAM takes some seconds to make a new role known to the other services.
ROLE_TIMEOUT_S = 120.0


def when_assumable(call: Callable[[], T], first_pause_s: float, last_pause_s: float) -> T:
    """What `call` gives, tried again while the role that it names cannot be assumed yet. Raises RoleNotReady in the end."""
    refused: RoleNotReady | None = None
    for _ in looks(ROLE_TIMEOUT_S, first_pause_s, last_pause_s):
        try:
            return call()
        except RoleNotReady as error:
            refused = error
    assert refused is not None, "there is one look at least"
    raise refused
