"""Waiting for what takes its time elsewhere, and trying again what may go well a moment later: pauses that grow, and an end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

__all__ = ["looks", "patiently", "retry_after_s"]

T = TypeVar("T")
LONGEST_PAUSE_S = 5.0
_JITTER = random.SystemRandom()


def looks(timeout_s: float, first_pause_s: float, last_pause_s: float) -> Iterator[None]:
    """A turn for each look: at once, then after pauses that double up to the last; none after the first that came too late."""
    deadline, pause_s = time.monotonic() + timeout_s, first_pause_s
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, last_pause_s)


def patiently(call: Callable[[], T], again: Callable[[Exception], bool], attempts: int, first_pause_s: float) -> T:
    """What `call` returns, which is made again while `again` says so of what it raises: `attempts` times in all.

    The pauses double up to five seconds, and up to half of each is left out at random, so that those who failed together do not
    come back together. Who has asked for more by the error's `retry_after_s` is left alone for so long, five seconds at most.
    Whether a call may be made twice is for `again` to say. Raises what the last attempt does.
    """
    for done in range(attempts):
        try:
            return call()
        except Exception as error:
            if done + 1 == attempts or not again(error):
                raise
            pause_s = first_pause_s * 2**done * _JITTER.uniform(0.5, 1)
            asked_s = getattr(error, "retry_after_s", 0.0)
        time.sleep(min(max(pause_s, asked_s), LONGEST_PAUSE_S))
    raise ValueError(f"{attempts} attempts are none")


def retry_after_s(said: str) -> float:
    """What the header Retry-After asks for; 0 where it is empty, or names a date."""
    return float(said) if said.isascii() and said.isdigit() else 0.0
