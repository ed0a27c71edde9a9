"""What a target must not do, and what is kept of it when it does."""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

__all__ = ["Check", "Finding", "Hang", "Violation", "finding", "minimised", "within"]

# Called with an input: says what came of it, in a few words that are the same for inputs of one kind. Raises what is wrong.
Check = Callable[[bytes], Hashable]
# An input of a few KiB that keeps the processor for so long can stop a server.
CPU_S = 2.0
TRIALS = 2000


class Violation(AssertionError):
    """A promise that is broken. The message is the same for all inputs that break it in one way."""


class Hang(Violation):
    """It took too long."""


@dataclass(frozen=True)
class Finding:
    """`what` tells findings apart: the error and where it was raised."""

    target: str
    what: str
    data: bytes
    traceback: str


@contextlib.contextmanager
def within(seconds: float = CPU_S) -> Iterator[None]:
    """Raises Hang when what is inside takes more of the processor than that; what is in C comes first to its end."""

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise Hang(f"it takes more than {seconds:g} s of the processor")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def finding(target: str, check: Check, data: bytes) -> Finding | None:
    """What is wrong with this input, or None."""
    try:
        with within():
            check(data)
    except Exception as error:
        if isinstance(error, Violation):
            what = str(error)
        else:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if "/ekiben/" in frame.filename] or frames
            places = [f"{each.filename.rpartition('/')[2]} {each.name}" for each in (ours[-1], frames[-1])]
            what = f"{type(error).__name__} in {' by '.join(dict.fromkeys(places))}"
        return Finding(target, what, data, "".join(traceback.format_exception(error)))
    return None


def minimised(found: Finding, check: Check) -> Finding:
    """The same with a shorter input: pieces are left out for as long as it stays the same finding."""
    size = len(found.data) // 2
    trials = 0
    while size:
        start = 0
        while start < len(found.data) and trials < TRIALS:
            trials += 1
            shorter = finding(found.target, check, found.data[:start] + found.data[start + size :])
            if shorter is not None and shorter.what == found.what:
                found = shorter
            else:
                start += size
        size //= 2
    return found
