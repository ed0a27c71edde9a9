"""Whether a blocking method is quick enough to be called where it stands, on the event loop, without a thread."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["SHORT_S", "Quick"]

# Proven by so many short calls in a row, until so many of so many calls are long: one may be the machine's doing.
SHORT_S, LONG_S = 0.001, 0.005
SLOW, OF_CALLS = 3, 256
TRIALS, MAX_TRIALS = 16, 4096


class Quick:
    """Of one method. `proven` is the answer; `allowed` says whether the service can bear a call that hangs after all."""

    __slots__ = ("_allowed", "_calls", "_short", "_slow", "_trials", "proven")

    def __init__(self, allowed: Callable[[], bool]) -> None:
        self.proven = False
        self._allowed = allowed
        self._trials, self._short = TRIALS, 0
        self._calls = self._slow = 0

    def took(self, seconds: float) -> None:
        """A call has ended."""
        if not self.proven:
            self._short = self._short + 1 if seconds < SHORT_S else 0
            self.proven = self._short >= self._trials and self._allowed()
            return
        self._calls += 1
        if self._calls == OF_CALLS:
            self._calls = self._slow = 0
        if seconds > LONG_S:
            self._slow += 1
            if self._slow >= SLOW:
                self.proven, self._short, self._slow = False, 0, 0
                self._trials = min(2 * self._trials, MAX_TRIALS)
