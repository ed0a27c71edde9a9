"""Threads for methods that block: as many as the service says, fed by one queue, and the loop woken once for many results."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

__all__ = ["Job", "Threads"]

Done = Callable[[Any, BaseException | None, float], None]


class Job:
    """A call that was asked for. `dropped`: nobody waits for it any more; when it has not begun it never will."""

    __slots__ = ("done", "dropped", "run")

    def __init__(self, run: Callable[[], Any], done: Done) -> None:
        self.run, self.done = run, done
        self.dropped = False


class Threads:
    """They start with the first job, and are daemons: a call that never returns does not keep the process."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.queued = 0
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._done: deque[tuple[Job, Any, BaseException | None, float]] = deque()
        self._started = self._waking = False

    def submit(self, run: Callable[[], Any], done: Done) -> Job:
        """Run it; then `done(result, error, seconds that it took)` is called on the loop, unless the job was dropped."""
        if not self._started:
            self._started = True
            loop = asyncio.get_running_loop()
            for number in range(self.count):
                threading.Thread(target=self._work, args=(loop,), name=f"call-{number}", daemon=True).start()
        job = Job(run, done)
        self.queued += 1
        self._queue.put(job)
        return job

    async def call(self, run: Callable[[], Any]) -> Any:
        """Run it and return what it returns, or raise what it raises."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: BaseException | None, seconds: float) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        job = self.submit(run, done)
        try:
            return await future
        finally:
            job.dropped = True

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            job = self._queue.get()
            result: Any = None
            error: BaseException | None = None
            started = time.perf_counter()
            if not job.dropped:
                try:
                    result = job.run()
                except BaseException as raised:
                    error = raised
            self._done.append((job, result, error, time.perf_counter() - started))
            del job, result, error
            if not self._waking:
                self._waking = True
                try:
                    loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop is closed: the server has ended
                    return

    def _deliver(self) -> None:
        self._waking = False
        while self._done:
            job, result, error, seconds = self._done.popleft()
            self.queued -= 1
            if not job.dropped:
                job.done(result, error, seconds)
