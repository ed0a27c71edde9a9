"""Waiting for what takes its time elsewhere: looks with pauses that grow, and an end."""

from __future__ import annotations

import time
from collections.abc import Iterator

__all__ = ["looks"]


def looks(timeout_s: float, first_pause_s: float, last_pause_s: float) -> Iterator[None]:
    """A turn for each look: at once, then after pauses that double up to the last; none after the first that came too late."""
    deadline, pause_s = time.monotonic() + timeout_s, first_pause_s
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, last_pause_s)
