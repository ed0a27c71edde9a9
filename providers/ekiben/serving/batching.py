"""Requests that come while others are at work, joined into one call: what `@bentoml.api(batchable=True)` asks for.

A request keeps its boundaries: its rows are in one call, unless they are more than `max_batch_size`, and it gets its own back, in
order. Where the call fails, those in it are called again by halves, so that who has made it fail fails alone.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from . import failures, rows
from .batch import Batch, Callee, Job
from .exchange import TEXT, Exchange
from .pace import Pace
from .quick import SHORT_S
from .rows import RowsError
from .standin.exceptions import BadInput

if TYPE_CHECKING:
    from .endpoint import Arguments, Endpoint

__all__ = ["Batcher", "refusal"]

# Nginx's number for a caller who hung up; only the metrics see it.
GONE = 499


def refusal(method: Any) -> str:
    """Why a batchable method cannot be served so; empty when it can."""
    dims = method.batch_dim
    if method.is_stream:
        return "streams"
    if len(dims) != 2 or not all(type(dim) is int for dim in dims):
        return f"has the batch_dim {dims!r}"
    fields = method.input_spec.model_fields.values()
    if not any(rows.may_have_rows(each.annotation, each.metadata, dims[0]) for each in fields):
        return f"takes nothing with rows along dimension {dims[0]}"
    return ""


class Batcher:
    """Of one method: requests are added, and answered through its endpoint."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float] = time.perf_counter) -> None:
        self.endpoint, self.application = endpoint, endpoint.application
        self.method = method = endpoint.method
        self.callee = Callee(endpoint)
        self.pace = Pace(method.max_latency_ms / 1000)
        self._clock = clock
        self._context = contextvars.copy_context()  # of no request
        # One call at a time, and more only where the service has threads for them and whole batches wait.
        self._most = 1 if self.callee.asynchronous else self.application.threads.count
        self._waiting: dict[Hashable, dict[Job, None]] = {}
        self._jobs = self._rows = self._running = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle_s: float | None = None

    def add(self, exchange: Exchange, arguments: Arguments, context: contextvars.Context | None) -> None:
        """It is answered in the end, whatever happens."""
        application, now_s = self.application, self._clock()
        self.pace.came(exchange.connection, now_s)
        try:
            job = Job(exchange, arguments, context, self.callee.dim, now_s)
        except RowsError as error:
            self.endpoint._fail(exchange, BadInput(f"it cannot be part of a batch: {error}"), context, asked=True)
            return
        if self._jobs >= application.limits.max_queue:
            self._overloaded(job)
            self.endpoint._close(context)
            return
        self._waiting.setdefault(job.kind, {})[job] = None
        self._jobs += 1
        self._rows += job.rows
        exchange.on_gone = lambda: self._drop(job, self._gone)
        if exchange.timer is not None:  # of a form that had to be read
            exchange.timer.cancel()
        wait_s = min(self.pace.max_latency_s, application.timeout_s)
        exchange.timer = application.loop.call_later(wait_s, self._late, job)
        self._schedule()

    # What ends a request before its call does.

    def _late(self, job: Job) -> None:
        left_s = self.application.timeout_s - (self._clock() - job.came_s)
        if self.pace.max_latency_s >= self.application.timeout_s or left_s <= 0:
            self._drop(job, lambda job: self.endpoint._too_late(job.exchange, job.context))
        elif job.batch is None and (self._running or self._jobs > 1):
            self._drop(job, self._overloaded)
        else:
            job.exchange.timer = self.application.loop.call_later(left_s, self._late, job)

    def _overloaded(self, job: Job) -> None:
        failures.answer_error(job.exchange, 503, "process is overloaded", retry_after_s=1)

    def _gone(self, job: Job) -> None:
        job.exchange.answer(GONE, TEXT, b"")

    def _drop(self, job: Job, answer: Callable[[Job], None]) -> None:
        """Answer it now, and leave it out of what is still to be called."""
        if job.dropped:
            return
        job.dropped, job.exchange.on_gone = True, None
        if job.batch is None:
            self._take(job)
            self.endpoint._close(job.context)
        elif job.batch.task is not None and all(other.dropped for other in job.batch.jobs):
            job.batch.task.cancel()
        answer(job)

    # What is called next, and when.

    def _schedule(self) -> None:
        """Not at once: what has come in the same moment is in the same call."""
        if not self._scheduled:
            self._scheduled = True
            self.application.loop.call_soon(self._begin, context=self._context)

    def _begin(self) -> None:
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        full = self.callee.apart or self._rows >= self.pace.max_rows(self.callee.max_rows)
        if not self._jobs or (self._running and (self._running >= self._most or not full)):
            return
        now_s = self._clock()
        if self._idle_s is None:
            self._idle_s = now_s
        until_s = self.pace.until_s(self._idle_s, now_s)
        if until_s > now_s and not full and not self.application.draining:
            oldest_s = next(iter(self._oldest())).came_s
            wait_s = min(until_s, oldest_s + self.pace.max_latency_s - self.pace.expected_s(self._rows + 1)) - now_s
            if wait_s > 0:
                self._timer = self.application.loop.call_later(wait_s, self._begin, context=self._context)
                return
        self._idle_s = None
        self._start(Batch(self.callee, self._next(now_s), self._clock))
        if self._jobs:
            self._schedule()

    def _oldest(self) -> dict[Job, None]:
        """Those of the kind whose first has waited longest."""
        kinds = self._waiting.values()
        return next(iter(kinds)) if len(kinds) == 1 else min(kinds, key=lambda jobs: next(iter(jobs)).came_s)

    def _next(self, now_s: float) -> list[Job]:
        """The oldest, and those of its kind that fit.

        Who would be late even so is answered 503. Not the last of all, whose call shows how long calls take now.
        """
        most = self.pace.max_rows(self.callee.max_rows)
        while True:
            batch: list[Job] = []
            total = 0
            for job in self._oldest():
                if batch and (self.callee.apart or total + job.rows > most):
                    break
                batch.append(job)
                total += job.rows
            if self._jobs == 1 or now_s + self.pace.expected_s(total) < batch[0].came_s + self.pace.max_latency_s:
                break
            self._drop(batch[0], self._overloaded)
        for job in batch:
            self._take(job)
        return batch

    def _take(self, job: Job) -> None:
        jobs = self._waiting[job.kind]
        del jobs[job]
        if not jobs:
            del self._waiting[job.kind]
        self._jobs -= 1
        self._rows -= job.rows

    # The call: here, in a thread or as a task.

    def _start(self, batch: Batch) -> None:
        self._running += 1
        if self.callee.asynchronous:
            batch.task = self.application.spawn(self._in_task(batch))
        elif self.endpoint.quick.proven and self.pace.expected_s(batch.rows) < SHORT_S:
            self._here(batch)
        else:
            self.application.threads.submit(batch.run, lambda _, error, seconds: self._done(batch, error))

    async def _in_task(self, batch: Batch) -> None:
        error: BaseException | None = None
        try:
            await batch.work()
        except BaseException as raised:
            error = raised
        self._done(batch, error)

    def _here(self, batch: Batch) -> None:
        application = self.application
        error: BaseException | None = None
        asyncio._set_running_loop(None)  # as in a thread, the method may run a loop of its own
        application.here_since = time.perf_counter()
        try:
            batch.run()
        except BaseException as raised:
            error = raised
        finally:
            application.here_since = 0.0
            asyncio._set_running_loop(application.loop)
        self._done(batch, error)

    def _done(self, batch: Batch, error: BaseException | None) -> None:
        """On the loop, once for each batch."""
        self._running -= 1
        for requests, count, seconds, well in batch.calls:
            self.application.metrics.batch(self.method.name, requests, count)
            if well:
                self.pace.called(count, seconds)
                self.endpoint.quick.took(seconds)
        for job in batch.jobs:
            if job.dropped:
                self.endpoint._close(job.context)
            else:
                self._answer(job, error)
            job.error = None  # its traceback leads back here
        self.pace.answered([job.exchange.connection for job in batch.jobs], self._clock())
        batch.jobs.clear()  # they lead back, too
        if self._jobs:
            self._schedule()

    def _answer(self, job: Job, error: BaseException | None) -> None:
        job.exchange.on_gone = None
        if not job.ended:
            job.error = error or asyncio.CancelledError()
        if isinstance(job.error, RowsError):
            failures.answer_error(job.exchange, 500, f"{self.method.name}: {job.error}")
            self.endpoint._close(job.context)
        else:
            self.endpoint._finish(job.exchange, job.output, job.error, job.context)
