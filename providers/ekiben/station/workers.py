"""Workers of one revision: started from zero, more by concurrency, fewer when idle, replaced when they die.

A worker is ready when it answers /readyz on its socket. It is first forked from the parent; when that one hangs or dies it is tried
once more as a fresh process, because some libraries do not live through a fork.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import shutil
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ekiben.errors import EkibenError, ModelFailed, Unavailable
from ekiben.specs import EndpointSpec
from ekiben.station.bentos import Plan
from ekiben.station.edge import Refused
from ekiben.station.launch import tail
from ekiben.station.parents import Child, Parent, Parents
from ekiben.station.processes import held_mib
from ekiben.station.upstream import Broken, Upstreams

__all__ = ["Pool", "Worker"]

FORKED_START_S = 60.0
FRESH_START_S = 300.0
TERMINATE_S = 10.0
TICK_S = 1.0
CRASHES = 3
CRASH_WINDOW_S = 60.0
MAX_PAUSE_S = 60.0
LOG_BYTES = 16 * 1024 * 1024
READY = b"GET /readyz HTTP/1.1\r\nHost: worker\r\n\r\n"
READY_PAUSE_S = 0.02

log = logging.getLogger("ekiben.station")
_numbers = itertools.count(1)


@dataclass(eq=False)
class Worker:
    """A process that serves. `in_flight` counts the requests that the gateway has given it."""

    child: Child
    parent: Parent
    upstreams: Upstreams
    files: tuple[Path, ...]
    in_flight: int = 0
    timeouts: int = 0
    leaving: bool = False
    since: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)


class Pool:
    """`spec`, `has_room` and `minimum` are asked anew each time: an endpoint may change.

    `plan` says what to run, and may take a while the first time; `changed` is told why it cannot serve, or "" when it can again.
    """

    def __init__(
        self,
        name: str,
        parents: Parents,
        log_path: Path,
        *,
        plan: Callable[[], Awaitable[Plan]],
        spec: Callable[[], EndpointSpec],
        has_room: Callable[[], bool],
        minimum: Callable[[], int],
        changed: Callable[[str], None],
        forked_start_s: float = FORKED_START_S,
    ) -> None:
        self.name, self.log_path = name, log_path
        self.workers: list[Worker] = []
        self.waiting: deque[asyncio.Future[Worker]] = deque()
        self.starting: set[asyncio.Task[None]] = set()
        self.closing = False
        self._plan = plan
        self._parents, self._spec, self._has_room = parents, spec, has_room
        self._minimum, self._changed = minimum, changed
        self._ending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._failures = 0
        self._blocked_until = 0.0
        self._reason = ""
        self._forked_start_s = forked_start_s
        self._bare = False
        self._abandoned = False

    @property
    def size(self) -> int:
        """Instances that serve or will in a moment."""
        return sum(not worker.leaving for worker in self.workers) + len(self.starting)

    @property
    def busy(self) -> int:
        return sum(worker.in_flight for worker in self.workers) + len(self.waiting)

    def take(self) -> Worker | None:
        """A worker with room, to be given back with `release`; None when a request must `wait` for one."""
        worker = self._free()
        if worker is not None:
            worker.in_flight += 1
        return worker

    async def wait(self, held_elsewhere: int = 0) -> Worker:
        """Hold a request until a worker has room for it. Give it back with `release`.

        Raises Refused (503, Retry-After) when the queue is full, the hold is over, or the model does not start.
        """
        spec = self._spec()
        self.grow(1)
        pause = self._blocked_until - time.monotonic()
        if pause > 0 and not self.size:
            raise self._unstartable()
        if self.closing:
            raise _not_now(self.name, "the revision is being retired", 1)
        if len(self.waiting) + held_elsewhere >= spec.max_queue:
            raise _not_now(self.name, f"{spec.max_queue} requests are held already", 1)
        future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        try:
            async with asyncio.timeout(spec.hold_s):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled() and not future.exception():
                self.release(future.result())
            if isinstance(error, TimeoutError):
                raise _not_now(self.name, f"no instance had room within {spec.hold_s:g} s", 1) from error
            raise
        finally:
            with suppress(ValueError):
                self.waiting.remove(future)
            self._settle()

    def release(self, worker: Worker) -> None:
        worker.in_flight -= 1
        worker.used = time.monotonic()
        self._hand_out()
        self._settle()

    def grow(self, more: int = 0) -> None:
        """Start as many workers as the requests (and `more` to come) and the minimum ask for, and the limits allow."""
        if self.closing or time.monotonic() < self._blocked_until:
            return
        wanted = max(self._minimum(), math.ceil((self.busy + more) / self._spec().concurrency))
        while self.size < wanted and (self.size == 0 or self._has_room()):
            task = asyncio.get_running_loop().create_task(self._start())
            self.starting.add(task)
            task.add_done_callback(self.starting.discard)

    async def first(self) -> None:
        """Start one worker and wait until it is ready. Raises ModelFailed, with the end of its log."""
        if not self.workers:
            worker = await self._launch()
            self._join(worker)

    async def drain(self, within_s: float) -> None:
        """Take no more, let what runs end within `within_s`, then end all workers."""
        self.closing = True
        self._settle()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), within_s)
        self._abandoned = True
        for task in list(self.starting):
            task.cancel()
        await asyncio.gather(*self.starting, return_exceptions=True)
        for future in self.waiting:
            if not future.done():
                future.set_exception(_not_now(self.name, "the revision was retired", 0))
        for worker in list(self.workers):
            self.end(worker)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._timer:
            self._timer.cancel()

    def recycle(self) -> None:
        """Replace all workers: how they are run has changed."""
        self._bare, self._blocked_until, self._failures = False, 0.0, 0
        for worker in list(self.workers):
            self.end(worker)
        self.grow()

    def end(self, worker: Worker) -> None:
        """Give it no more requests, let it finish those that it has, end it."""
        if not worker.leaving:
            worker.leaving = True
            task = asyncio.get_running_loop().create_task(self._end(worker))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def timed_out(self, worker: Worker) -> None:
        """A request ran past its time. A worker that only does that hangs, and is replaced."""
        worker.timeouts += 1
        if worker.timeouts >= min(3, self._spec().concurrency) and not worker.leaving:
            self.replace(worker)

    def replace(self, worker: Worker) -> None:
        """Kill a worker that does not do its work; what it had in hand is given to another once."""
        log.warning("%s: worker %d does not answer and is replaced", self.name, worker.child.pid)
        worker.parent.kill(worker.child.id, signal.SIGKILL)

    async def _start(self) -> None:
        try:
            worker = await self._launch()
        except Exception as error:
            if not isinstance(error, EkibenError):
                log.exception("%s: a worker could not be started", self.name)
            self._failed(str(error))
        else:
            self._join(worker)

    async def _launch(self) -> Worker:
        """A ready worker: forked, and when that fails fresh. Raises ModelFailed."""
        if not self._bare:
            try:
                return await self._launch_once(bare=False, within_s=self._forked_start_s)
            except (ModelFailed, Unavailable) as error:
                log.warning("%s: a forked worker did not start, a fresh one is tried: %s", self.name, error)
        worker = await self._launch_once(bare=True, within_s=FRESH_START_S)
        self._bare = True
        return worker

    async def _launch_once(self, *, bare: bool, within_s: float) -> Worker:
        spec, plan = self._spec(), await self._plan()
        parent = self._parents.of(plan.python, spec.resources.vcpu, bare=bare)
        id = f"w{next(_numbers)}"
        path, metrics = self._parents.scratch / f"{id}.sock", self._parents.scratch / id
        metrics.mkdir(parents=True)
        self.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        env = dict(spec.env) if spec.resources.gpus else {"CUDA_VISIBLE_DEVICES": "", **spec.env}
        child = await parent.fork(
            {
                "id": id, "modules": [] if bare else plan.modules, "socket": str(path), "log": str(self.log_path),
                "bento": str(plan.bento), "reason": plan.reason, "env": env, "timeout_s": spec.timeout_s,
                "metrics_dir": str(metrics),
            }
        )  # fmt: skip
        worker = Worker(child, parent, Upstreams(path), (path, metrics))
        try:
            async with asyncio.timeout(within_s):
                while (await worker.upstreams.ask(b"GET", READY)).head.status != 200:
                    await asyncio.sleep(READY_PAUSE_S)
            return worker
        except BaseException as error:
            parent.kill(id, signal.SIGKILL)
            status = await child.exited
            await self._forget(worker)
            if isinstance(error, TimeoutError):
                why = f"it was not ready within {within_s:g} s"
            elif isinstance(error, Broken):
                why = f"its process ended {_how(status)}"
            else:
                raise
            raise ModelFailed(
                f"local: cannot start {self.name}: {why}. Mend the service; `bentoml serve` on its folder shows the same.",
                log_uri=self.log_path.as_uri(), tail=tail(self.log_path),
            ) from error  # fmt: skip

    def _join(self, worker: Worker) -> None:
        self._failures, self._blocked_until = 0, 0.0
        if self._reason:
            self._reason = ""
            self._changed("")
        self.workers.append(worker)
        worker.child.exited.add_done_callback(lambda exited: self._gone(worker, exited.result()))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._hand_out()

    def _gone(self, worker: Worker, status: int) -> None:
        if worker in self.workers:
            self.workers.remove(worker)
        if worker.leaving:
            return
        worker.leaving = True
        self._ending.add(task := asyncio.get_running_loop().create_task(self._forget(worker)))
        task.add_done_callback(self._ending.discard)
        log.warning("%s: worker %d ended %s", self.name, worker.child.pid, _how(status))
        self._crashes.append(time.monotonic())
        if len(self._crashes) == CRASHES and self._crashes[-1] - self._crashes[0] < CRASH_WINDOW_S:
            self._failed(f"its workers keep ending ({_how(status)}); the end of the log:\n{tail(self.log_path)}")
        else:
            self.grow()

    def _failed(self, reason: str) -> None:
        """Try no more for a while, twice as long each time; those who wait are told, unless another worker serves them."""
        self._failures += 1
        pause = min(MAX_PAUSE_S, 2.0 ** (self._failures - 1))
        self._blocked_until = time.monotonic() + pause
        self._reason = reason
        log.error("%s does not start, next try in %g s at the earliest: %s", self.name, pause, reason)
        self._changed(reason)
        if not self.workers:
            while self.waiting:
                future = self.waiting.popleft()
                if not future.done():
                    future.set_exception(self._unstartable())
        if self._minimum():
            asyncio.get_running_loop().call_later(pause, self.grow)

    def _unstartable(self) -> Refused:
        pause = max(1, math.ceil(self._blocked_until - time.monotonic()))
        return _not_now(self.name, f"the model does not start: {self._reason.splitlines()[0].rstrip('.')}", pause)

    def _free(self) -> Worker | None:
        best, least = None, self._spec().concurrency
        for worker in self.workers:
            if worker.in_flight < least and not worker.leaving:
                best, least = worker, worker.in_flight
        return best

    def _hand_out(self) -> None:
        while self.waiting and (worker := self._free()):
            future = self.waiting.popleft()
            if not future.done():
                worker.in_flight += 1
                future.set_result(worker)

    def _settle(self) -> None:
        if self.busy:
            self._quiet.clear()
        else:
            self._quiet.set()

    def _tick(self) -> None:
        """While there are workers: end those that are idle, or over their memory."""
        self._timer = None
        now, spec = time.monotonic(), self._spec()
        spare, limit_mib = self.size - self._minimum(), spec.resources.memory_mib
        for worker in sorted(self.workers, key=lambda worker: worker.used):
            if spare > 0 and not worker.leaving and not worker.in_flight and now - worker.used >= spec.idle_s:
                spare -= 1
                self.end(worker)
            elif not worker.leaving and (held := held_mib([worker.child.pid], limit_mib)) > limit_mib:
                log.warning(
                    "%s: worker %d holds %d of %d MiB and is replaced", self.name, worker.child.pid, held, limit_mib
                )
                self.end(worker)
                self.grow()
        if self.workers:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def _end(self, worker: Worker) -> None:
        deadline = time.monotonic() + self._spec().timeout_s
        while (
            worker.in_flight and time.monotonic() < deadline and not self._abandoned and not worker.child.exited.done()
        ):
            await asyncio.sleep(0.05)
        for number in (signal.SIGTERM, signal.SIGKILL):
            worker.parent.kill(worker.child.id, number)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(worker.child.exited), TERMINATE_S)
                break
        if worker in self.workers:
            self.workers.remove(worker)
        await self._forget(worker)

    async def _forget(self, worker: Worker) -> None:
        worker.upstreams.close()
        socket, metrics = worker.files
        socket.unlink(missing_ok=True)
        await asyncio.to_thread(shutil.rmtree, metrics, True)


def _how(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    with suppress(ValueError):
        return f"by {signal.Signals(-status).name}"
    return f"by signal {-status}"


def _not_now(name: str, why: str, retry_s: int) -> Refused:
    headers: Mapping[str, str] = {"Retry-After": str(max(1, retry_s))}
    return Refused(Unavailable("local", f"call {name}", why, "Try again in a moment"), 503, headers)
