"""So many requests a second, whether the earlier ones are answered or not, counted by what was so when each began."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import aiohttp

from tests.waiting import until

__all__ = ["Load", "between"]

ANSWER_TIMEOUT_S = 120.0


class Load:
    """POST to `url`, `per_second` times a second, for as long as the block lasts. `seen`: phase -> who answered, how often; what
    was no answer is there by what it was. `phase` is the caller's to change.
    """

    def __init__(self, url: str, headers: Mapping[str, str], per_second: float) -> None:
        self._url, self._headers, self._pause_s = url, dict(headers), 1 / per_second
        self.phase = "before"
        self.seen: dict[str, Counter[str]] = defaultdict(Counter)
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @contextmanager
    def during(self, phase: str, least: int = 0) -> Iterator[None]:
        """The phase of the requests that begin in this block, which lasts until `least` of them are answered."""
        self.phase = phase
        yield
        until(lambda: sum(list(self.seen[phase].values())) >= least, f"{least} requests are answered {phase}")

    async def _ask(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), headers=self._headers, timeout=timeout
            ) as session,
            asyncio.TaskGroup() as asked,
        ):
            due = asyncio.get_running_loop().time()
            while not self._over.is_set():
                asked.create_task(self._one(session, self.phase))
                due += self._pause_s
                await asyncio.sleep(due - asyncio.get_running_loop().time())

    async def _one(self, session: aiohttp.ClientSession, phase: str) -> None:
        try:
            async with session.post(self._url, json=1) as answer:
                said = await answer.read()
                who = json.loads(said)["by"] if answer.status == 200 else f"HTTP {answer.status}: {said[:200]!r}"
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            who = f"lost: {error!r}"
        self.seen[phase][who] += 1


def between(count: int, share: float, chance: float) -> range:
    """How many of `count` independent requests get a split's `share`, but for `chance` on either side: a binomial's quantiles."""
    weight, below = (1 - share) ** count, 0.0
    low, high = 0, count
    for number in range(count + 1):
        if below + weight <= chance:
            low = number + 1
        below += weight
        if below >= 1 - chance:
            high = number
            break
        weight *= (count - number) / (number + 1) * share / (1 - share)
    return range(low, high + 1)
