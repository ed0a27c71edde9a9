"""Requests that are called together: one call for all, its answer split; and what becomes of them when that fails."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import rows
from .endpoint import FORMS
from .exchange import Exchange
from .rows import RowsError
from .standin.context import Call, call as current_call
from .standin.exceptions import BentoMLException

if TYPE_CHECKING:
    from .endpoint import Arguments, Endpoint

__all__ = ["Batch", "Callee", "Job"]

log = logging.getLogger("bentoml.serve")
_NOTHING = object()


class Job:
    """A request that waits for its call, or is in it. `dropped`: nobody waits for it any more."""

    __slots__ = (
        "batch",
        "came_s",
        "context",
        "dropped",
        "error",
        "exchange",
        "given",
        "kind",
        "output",
        "rows",
        "within",
    )

    def __init__(
        self, exchange: Exchange, arguments: Arguments, context: contextvars.Context | None, dim: int, came_s: float
    ) -> None:
        """Raises RowsError where it has no rows, or not as many everywhere."""
        self.exchange, self.context, self.came_s = exchange, context, came_s
        # With spans, what is current for this request is current in a call of its own.
        self.within = contextvars.copy_context() if context is None and exchange.trace is not None else context
        self.given = _named(arguments)
        found: int | None = None
        for each in self.given.values():
            count = rows.count(each, dim)
            if found is not None and count not in (None, found):
                raise RowsError("its values differ in their number of rows")
            found = found if count is None else count
        if found is None:
            raise RowsError("it has no rows")
        self.rows: int = found
        self.kind: Hashable = tuple([(key, rows.kind(each, dim)) for key, each in self.given.items()])
        self.dropped = False
        self.batch: Batch | None = None
        self.output: Any = _NOTHING
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.output is not _NOTHING or self.error is not None


class Callee:
    """The method that is called. `apart`: it has asked for the request of its call, so that each needs a call of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self._application = endpoint, endpoint.application
        method = endpoint.method
        self.name, self.func, self.max_rows = method.name, method.func, method.max_batch_size
        self.dim, self.answer_dim = method.batch_dim
        self.asynchronous = inspect.iscoroutinefunction(method.func)
        self.contextual = bool(method.ctx_param)
        self._extra = {method.ctx_param: self._application.service.context} if method.ctx_param else {}
        self.apart = False

    async def __call__(self, given: dict[int | str, Any], context: contextvars.Context | None) -> Any:
        """What the method gives. Where it blocks this never suspends."""
        args = [value for key, value in given.items() if isinstance(key, int)]
        kwargs = {key: value for key, value in given.items() if isinstance(key, str)} | self._extra
        instance = self._application.instance
        if not self.asynchronous:
            if context is None:
                return self.func(instance, *args, **kwargs)
            return context.run(self.func, instance, *args, **kwargs)
        work = self.func(instance, *args, **kwargs)
        if context is None:
            return await work
        # A task must not raise what would end the loop, such as SystemExit.
        output, error = await asyncio.get_running_loop().create_task(_outcome(work), context=context)
        if error is not None:
            raise error
        return output

    def read_again(self, job: Job) -> None:
        """A method may change the rows that it is given, and must not be given them so. But for a form: its rows are files."""
        if job.exchange.content_type.partition(b";")[0].strip() in FORMS:
            return
        form, exchange = job.exchange.form, job.exchange
        read = partial(self._endpoint.read, exchange.body) if form is None else partial(form.read, exchange)
        job.given = _named(read() if job.context is None else job.context.run(read))

    def joined(self, values: list[Any]) -> Any:
        """Of one kind. What has no rows is the same for all of them."""
        return rows.join(values, self.dim) if rows.count(values[0], self.dim) is not None else values[0]

    def pieces(self, value: Any, counts: list[int]) -> list[Any]:
        if len(counts) == 1 or rows.count(value, self.dim) is None:
            return [value] * len(counts)
        return rows.split(value, counts, self.dim)


class Batch:
    """`calls`: the requests, rows and seconds of each call that it took, and whether it went well."""

    def __init__(self, callee: Callee, jobs: list[Job], clock: Callable[[], float]) -> None:
        self.callee, self.jobs, self._clock = callee, jobs, clock
        self.rows = sum(job.rows for job in jobs)
        self.calls: list[tuple[int, int, float, bool]] = []
        self.task: asyncio.Task[Any] | None = None
        for job in jobs:
            job.batch = self

    def run(self) -> None:
        """Of a method that blocks: each job that is not dropped has its output or its error when this returns."""
        try:
            self.work().send(None)
        except StopIteration:
            return
        raise RuntimeError("a call that blocks was suspended")

    async def work(self) -> None:
        """The same, of either kind of method. Raises CancelledError when its task is cancelled."""
        await self._work(self.jobs)

    async def _work(self, jobs: list[Job]) -> None:
        """By halves until who fails is alone."""
        jobs = [job for job in jobs if not job.dropped]
        if len(jobs) == 1:
            await self._alone(jobs[0])
        elif jobs and not await self._together(jobs):
            for job in jobs:
                self.callee.read_again(job)
            half = len(jobs) // 2
            await self._work(jobs[:half])
            await self._work(jobs[half:])

    async def _together(self, jobs: list[Job]) -> bool:
        """False when they must be called again."""
        callee = self.callee
        if callee.apart:
            return False
        joined, context = None, None
        if callee.contextual:
            joined, context = Joined(), contextvars.copy_context()
            context.run(current_call.set, joined)
        counts = [job.rows for job in jobs]
        output = _NOTHING
        try:
            given = {key: callee.joined([job.given[key] for job in jobs]) for key in jobs[0].given}
            output = await self._timed(given, sum(counts), len(jobs), context)
        except BaseException:
            if self._cancelled():
                raise
        finally:
            if joined is not None:
                joined.close()
        if joined is not None and joined.asked:
            callee.apart = True
            log.warning("%s asks for the request of its call: requests are called one by one", callee.name)
        if output is _NOTHING or callee.apart:
            return False
        try:
            for job, part in zip(jobs, rows.split(output, counts, callee.answer_dim), strict=True):
                job.output = part
        except RowsError as error:
            self._miscounted(jobs, error)
        return True

    async def _alone(self, job: Job) -> None:
        """In several calls where its rows are more than one call may have."""
        callee = self.callee
        most = callee.max_rows
        counts = [min(most, job.rows - start) for start in range(0, job.rows, most)] or [0]
        outputs = []
        try:
            pieces = {key: callee.pieces(value, counts) for key, value in job.given.items()}
            for number, count in enumerate(counts):
                if job.dropped:
                    return
                given = {key: callee.joined([each[number]]) for key, each in pieces.items()}
                output = await self._timed(given, count, 1, job.within)
                try:
                    outputs += rows.split(output, [count], callee.answer_dim)
                except RowsError as error:
                    self._miscounted([job], error)
                    return
            job.output = rows.join(outputs, callee.answer_dim)
        except BaseException as error:
            if self._cancelled():
                raise
            job.error = error

    async def _timed(
        self, given: dict[int | str, Any], count: int, requests: int, context: contextvars.Context | None
    ) -> Any:
        well, started = False, self._clock()
        try:
            output = await self.callee(given, context)
            well = True
            return output
        finally:
            self.calls.append((requests, count, self._clock() - started, well))

    def _cancelled(self) -> bool:
        return self.task is not None and self.task.cancelling() > 0

    def _miscounted(self, jobs: list[Job], error: RowsError) -> None:
        log.error("%s: %s (%d requests)", self.callee.name, error, len(jobs))
        for job in jobs:
            job.error = error


class Joined(Call):
    """What `ctx` stands on in a call for several requests: what is one caller's must not reach another."""

    def __init__(self) -> None:
        super().__init__({}, b"")
        self.asked = False

    def _refuse(self) -> Any:
        self.asked = True
        raise BentoMLException("this call is for several requests, and has none of its own")

    request = response = property(_refuse)


def _named(arguments: Arguments) -> dict[int | str, Any]:
    args, kwargs = arguments
    given: dict[int | str, Any] = dict(enumerate(args))
    given.update(kwargs)
    return given


async def _outcome(work: Any) -> tuple[Any, BaseException | None]:
    try:
        return await work, None
    except BaseException as error:
        return None, error
