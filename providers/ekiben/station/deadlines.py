"""Times by which things must have happened: one timer for all of them, and none while there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Deadlines"]

# Timers that come in bunches are looked at together.
GRAIN_S = 0.02


class Deadlines:
    """What is to be called when, by whom it is about: setting one again moves it. Cheap to set and to clear, on every request."""

    def __init__(self) -> None:
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def set(self, about: object, within_s: float, late: Callable[[], None]) -> None:
        at = self._loop.time() + within_s
        self._due[about] = at, late
        if self._timer is None or at < self._next - GRAIN_S:
            self._wake(at)

    def clear(self, about: object) -> None:
        """Silent where there is none."""
        self._due.pop(about, None)

    def close(self) -> None:
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time() + GRAIN_S / 2
        for about, (at, late) in list(self._due.items()):
            if at <= now and about in self._due:  # what was late before may have cleared it
                del self._due[about]
                late()
        if self._due and self._timer is None:
            self._wake(max(min(at for at, _ in self._due.values()), now + GRAIN_S))
