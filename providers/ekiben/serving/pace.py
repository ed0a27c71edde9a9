"""When to call a batch, and how large: learned from how long calls take, and from how soon callers come back."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["Caller", "Pace"]

# Of the calls of one size, so much of what is known is the last one's.
NEW = 0.2
# The first calls of a process also load and compile things.
WARM_UP = 2
# What has not been seen for so many calls may have changed.
FORGOTTEN = 256
REFIT = 8
# Who has not come back by then did not come back because of an answer.
RETURN_S = 1.0


class Caller(Protocol):
    """A connection."""

    @property
    def closed(self) -> bool: ...


class Pace:
    """A call of n rows takes `fixed_s` + n * `row_s`. Times of the day are given, never asked for.

    Waiting for a row more pays when it comes sooner than `fixed_s`, which is what a call of its own would cost beside it. Who was
    just answered may come back at once; who else may come nobody knows. So a batch waits for those, and a lone caller never waits.
    """

    def __init__(self, max_latency_s: float) -> None:
        self.max_latency_s = max_latency_s
        self.fixed_s = self.row_s = 0.0
        # by powers of two: the number of the last call, the mean rows and seconds
        self._sizes: dict[int, tuple[int, float, float]] = {}
        self._calls = 0
        self._away: OrderedDict[Caller, float] = OrderedDict()
        self._return_s = self._spread_s = 0.0
        self._returns = 0

    def called(self, rows: int, seconds: float) -> None:
        """A call of so many rows has taken so long."""
        self._calls += 1
        if self._calls <= WARM_UP:
            return
        size = rows.bit_length()
        known = self._sizes.get(size)
        _, mean_rows, mean_s = known or (0, float(rows), seconds)
        self._sizes[size] = (self._calls, mean_rows + NEW * (rows - mean_rows), mean_s + NEW * (seconds - mean_s))
        if known is None or self._calls % REFIT == 0:
            self._fit()

    def expected_s(self, rows: int) -> float:
        """0 as long as nothing is known."""
        return self.fixed_s + rows * self.row_s

    def max_rows(self, limit: int) -> int:
        """The rows of a call, so that one under way and the next are both done within the latency; 1 at least."""
        room_s = self.max_latency_s / 2 - self.fixed_s
        if limit * self.row_s <= room_s:
            return limit
        return max(1, int(room_s / self.row_s)) if self.row_s > 0 else 1

    def came(self, caller: Caller, now_s: float) -> None:
        """A request has come."""
        since_s = self._away.pop(caller, None)
        if since_s is None or now_s - since_s > RETURN_S:
            return
        took_s = now_s - since_s
        if not self._returns:
            self._return_s, self._spread_s = took_s, took_s / 2
        else:
            self._spread_s += (abs(took_s - self._return_s) - self._spread_s) / 4
            self._return_s += (took_s - self._return_s) / 8
        self._returns += 1

    def answered(self, callers: list[Caller], now_s: float) -> None:
        """They have their answers, and may come back."""
        away = self._away
        for caller in callers:
            away.pop(caller, None)
            if not caller.closed:
                away[caller] = now_s
        while away and now_s - next(iter(away.values())) > RETURN_S:
            away.popitem(last=False)

    def until_s(self, idle_s: float, now_s: float) -> float:
        """Until when to wait for more before the next call; not after `now_s`: not at all.

        `idle_s`: since when the call would have been possible.
        """
        away = self._away
        while away and next(reversed(away)).closed:
            away.popitem()
        if not away or not self._returns:
            return now_s
        since_s = next(reversed(away.values()))  # who was answered last is the last to come
        latest_s = idle_s + self.fixed_s
        if since_s + self._return_s >= latest_s:
            return now_s
        return min(since_s + self._return_s + 4 * self._spread_s, latest_s)

    def _fit(self) -> None:
        """The line through what is known of each size. Calls of one size alone do not tell what is fixed: nothing, then."""
        self._sizes = {size: seen for size, seen in self._sizes.items() if self._calls - seen[0] < FORGOTTEN}
        sizes = list(self._sizes.values())
        rows, seconds = sum(each[1] for each in sizes) / len(sizes), sum(each[2] for each in sizes) / len(sizes)
        spread = sum((each[1] - rows) ** 2 for each in sizes)
        along = sum((each[1] - rows) * (each[2] - seconds) for each in sizes)
        slope = along / spread if spread else seconds / max(rows, 1.0)
        self.row_s = max(0.0, min(slope, seconds / max(rows, 1.0)))
        self.fixed_s = max(0.0, seconds - self.row_s * rows)
