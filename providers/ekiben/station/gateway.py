"""The way of a call: which revision, which worker, there and back.

Requests are whole before they are sent on (they are bounded), so that one whose worker dies can be given to another, once. Answers
are logged before they leave; long ones are streamed through. The caller's token does not reach the model.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from ekiben.errors import EkibenError, ModelFailed, NotFound, Unavailable
from ekiben.records import RevisionMetrics
from ekiben.serving.spool import Spool
from ekiben.serving.tracing import of_caller
from ekiben.specs import EndpointSpec
from ekiben.station.caller import Call, Gone, refuse
from ekiben.station.edge import Guard, Refused
from ekiben.station.upstream import Answer, Broken
from ekiben.station.workers import Pool, Worker

__all__ = ["Counter", "Gateway", "Live", "pick"]

# After a worker's end its news may be on their way still.
NEWS_S = 1.0
# /endpoints/<name>[@<revision or tag>][/<route>][?<query>]
TARGET = re.compile(rb"/endpoints/([^/?]*)(?:/([^?]*))?(\?.*)?")


@dataclass
class Counter:
    """What a revision has answered since it was made, what of that is written down, and the latencies of its last requests."""

    requests: int = 0
    errors: int = 0
    written: int = 0
    last_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1024))

    def metrics(self, revision: str) -> RevisionMetrics:
        ordered = sorted(self.last_ms)

        def quantile(q: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else 0.0

        return RevisionMetrics(
            revision=revision, requests=self.requests, errors=self.errors,
            p50_ms=quantile(0.5), p95_ms=quantile(0.95), p99_ms=quantile(0.99),
        )  # fmt: skip


@dataclass
class Live:
    """An endpoint in memory: its spec, a pool for each revision, weights and tags as in the table."""

    name: str
    spec: EndpointSpec
    spool: Spool
    pools: dict[str, Pool] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    credit: dict[str, float] = field(default_factory=dict)

    def held(self, besides: Pool) -> int:
        return sum(len(pool.waiting) for pool in self.pools.values() if pool is not besides)


def pick(live: Live, which: str) -> str:
    """The revision for the next request: the one asked for (id or tag), else by weight, evenly spread (smooth round robin)."""
    if (
        not which
        and len(live.weights) == 1
        and (only := next(iter(live.weights))) in live.pools
        and live.weights[only] > 0
    ):
        return only
    if which:
        id = which if which in live.pools else live.tags.get(which, "")
        if id not in live.pools:
            raise NotFound(
                "local", f"call {live.name}@{which}", "no revision has that id or tag", "`ekiben endpoints` lists them"
            )
        return id
    weights = {id: weight for id, weight in live.weights.items() if weight > 0 and id in live.pools}
    if not weights:
        raise Refused(
            Unavailable("local", f"call {live.name}", "no model has been released to it", "Release one with `ekiben release`"),
            503, {"Retry-After": "5"},
        )  # fmt: skip
    credit = {id: live.credit.get(id, 0.0) + weight for id, weight in weights.items()}
    best = max(credit, key=lambda id: credit[id])
    credit[best] -= sum(weights.values())
    live.credit = credit
    return best


class Gateway:
    """What every call goes through. `used` is told of each, so that counts get written down."""

    def __init__(self, live: dict[str, Live], guard: Guard, used: Callable[[], None]) -> None:
        self._live, self._guard, self._used = live, guard, used

    def admit(self, call: Call) -> int:
        """The most bytes that this call's body may have. Raises AccessDenied, Refused (401), NotFound."""
        head = call.head
        assert head is not None
        self._guard.check_host(head.named[b"host"].decode("latin-1"))
        name, call.which, call.route, call.query = _target(head.target)
        live = self._live.get(name)
        if live is None or live.spec.auth != "none":
            path = head.target.partition(b"?")[0].decode()
            given = head.named.get(b"authorization", b"")
            self._guard.check_token(given, head.method.decode(), path, "/endpoints/{name}", name)
        if live is None:
            there = ", ".join(self._live) or "none"
            why = f"there is no such endpoint ({there})"
            raise NotFound("local", f"use the endpoint {name!r}", why, "Declare it and run `ekiben up`")
        call.endpoint = name
        return live.spec.max_request_bytes

    def answer(self, call: Call) -> None:
        """Answer a call from a worker: at once when one has room and an open connection, else in a task of its own.

        Every outcome is counted for the revision that the call was meant for.
        """
        self._used()
        live = self._live.get(call.endpoint)
        try:
            if live is None:
                raise NotFound("local", f"use the endpoint {call.endpoint!r}", "it is being deleted")
            call.revision = pick(live, call.which)
        except (Refused, EkibenError) as error:
            refuse(call, error)
            return
        pool = live.pools[call.revision]
        worker = pool.take()
        if worker is not None and worker.upstreams.idle:
            Straight(live, pool, worker, call)
        else:
            call.start(_answer(live, pool, call, worker, None))


class Straight:
    """A call on its way without a task: what goes wrong, and what is streamed, is a task's."""

    __slots__ = ("call", "live", "pool", "upstream", "worker")

    def __init__(self, live: Live, pool: Pool, worker: Worker, call: Call) -> None:
        self.live, self.pool, self.worker, self.call = live, pool, worker, call
        assert call.head is not None
        self.upstream = worker.upstreams.idle.pop()
        call.connection.deadlines.set(call, live.spec.timeout_s, self.late)
        self.upstream.ask(call.head.method, _message(live, call), self.told)

    def told(self, outcome: Answer | Broken) -> None:
        self.call.connection.deadlines.clear(self.call)
        if isinstance(outcome, Broken) or outcome.body is None:
            self.call.start(_answer(self.live, self.pool, self.call, self.worker, outcome))
            return
        self.worker.timeouts = 0
        self.pool.release(self.worker)
        try:
            _reply(self.live, self.call, outcome, cold=False)
        except Exception as error:
            refuse(self.call, error)
        _count(self.live, self.call)

    def late(self) -> None:
        self.upstream.abandon()
        self.pool.timed_out(self.worker)
        self.pool.release(self.worker)
        refused = _slow(self.live, self.pool)
        refused.headers["Ekiben-Revision"] = self.call.revision
        refuse(self.call, refused)
        _count(self.live, self.call)


async def _answer(live: Live, pool: Pool, call: Call, worker: Worker | None, outcome: Answer | Broken | None) -> None:
    """Answer a call; it may have a worker already, and that may have said something."""
    failed: bool | None = None
    try:
        await _from_some_worker(live, pool, call, worker, outcome)
    except asyncio.CancelledError:  # the caller has left while it was held
        failed = False
        raise
    except Gone:
        failed = False
        call.abort()
    except Exception as error:
        failed = True
        if call.begun:
            call.abort()
        else:
            if isinstance(error, Refused):
                error.headers.setdefault("Ekiben-Revision", call.revision)
            refuse(call, error)
    finally:
        _count(live, call, failed)


async def _from_some_worker(
    live: Live, pool: Pool, call: Call, worker: Worker | None, outcome: Answer | Broken | None
) -> None:
    cold = False
    for again in (True, False):
        if worker is None:
            worker = pool.take()
        if worker is None:
            call.held = True
            worker = await pool.wait(live.held(pool))
            call.held, cold = False, True
        try:
            await _exchange(live, pool, worker, call, outcome, cold=cold)
            return
        except Broken as broken:
            if call.begun:
                raise
            # It must not be given another request when it is dead and nobody knows yet.
            try:
                await asyncio.wait_for(asyncio.shield(worker.child.exited), NEWS_S)
            except TimeoutError:
                if broken.unreachable:
                    pool.replace(worker)
            if not again:
                raise Refused(
                    ModelFailed(
                        f"local: cannot call {pool.name}: two workers ended while they answered this request. "
                        "Look for what in the request ends the process (memory, a crash in native code).",
                        log_uri=pool.log_path.as_uri(),
                    ),
                    502,
                ) from broken
        finally:
            pool.release(worker)
        worker = outcome = None


async def _exchange(
    live: Live, pool: Pool, worker: Worker, call: Call, outcome: Answer | Broken | None, *, cold: bool
) -> None:
    """Ask the worker, unless there is an outcome already, and answer with what it says. Raises Broken, Gone, Refused (504)."""
    assert call.head is not None
    if isinstance(outcome, Broken) and not outcome.silent:
        raise outcome
    if outcome is not None and not isinstance(outcome, Answer):
        worker.upstreams.close_idle()
    late = Late(asyncio.current_task())
    call.connection.deadlines.set(
        late, live.spec.timeout_s - call.latency_ms / 1000 if outcome else live.spec.timeout_s, late
    )
    answer = outcome if isinstance(outcome, Answer) else None
    try:
        if answer is None:
            answer = await worker.upstreams.ask(call.head.method, _message(live, call))
        _reply(live, call, answer, cold=cold)
        if answer.body is None:
            while part := await answer.upstream.more():
                await call.send(part)
            call.finish()
        worker.timeouts = 0
    except asyncio.CancelledError:
        if not late.fired or late.task is None:
            raise
        late.task.uncancel()
        if call.connection.stalled:  # the model is not to blame for a caller who does not read
            raise Gone from None
        pool.timed_out(worker)
        raise _slow(live, pool) from None
    finally:
        call.connection.deadlines.clear(late)
        if answer is not None and answer.body is None:
            answer.upstream.leave()


def _reply(live: Live, call: Call, answer: Answer, *, cold: bool) -> None:
    """Log the answer and send it, or its head when it is streamed."""
    assert call.head is not None
    if call.head.method == b"POST":
        _log(live, call, answer)
    lines = b"%bEkiben-Revision: %b\r\nEkiben-Request-Id: %b\r\n%b" % (
        answer.head.lines, call.revision.encode(), call.id.encode(), b"Ekiben-Cold: 1\r\n" if cold else b"",
    )  # fmt: skip
    if answer.body is not None:
        call.answer(answer.head.status, lines, answer.body)
    else:
        call.begin(answer.head.status, lines, answer.head.length)


def _count(live: Live, call: Call, failed: bool | None = None) -> None:
    counter = live.counters.get(call.revision)
    if counter is None:  # it was retired meanwhile
        return
    counter.requests += 1
    counter.errors += call.status >= 500 if failed is None else failed
    counter.last_ms.append(call.latency_ms)


def _slow(live: Live, pool: Pool) -> Refused:
    slow = f"local: cannot call {pool.name}: the model took longer than {live.spec.timeout_s:g} s (timeout_s)."
    return Refused(ModelFailed(slow, log_uri=pool.log_path.as_uri()), 504)


class Late:
    """Cancels a task when its time is over, and knows that it did."""

    __slots__ = ("fired", "task")

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self.fired, self.task = False, task

    def __call__(self) -> None:
        self.fired = True
        if self.task is not None:
            self.task.cancel()


@lru_cache(1024)
def _target(target: bytes) -> tuple[str, str, str, str]:
    """The endpoint, the revision or tag, the route and the query that a target names."""
    match = TARGET.fullmatch(target)
    assert match is not None
    name, _, which = unquote(match[1].decode()).partition("@")
    return name, which, (match[2] or b"").decode(), (match[3] or b"").decode()


def _message(live: Live, call: Call) -> bytes:
    """The request as the worker gets it."""
    head = call.head
    assert head is not None
    token = head.named.get(b"authorization") if live.spec.auth == "none" else None
    return b"%b /%b HTTP/1.1\r\nHost: worker\r\n%b%bEkiben-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        head.method, (call.route + call.query).encode(), head.lines,
        b"" if token is None else b"Authorization: %b\r\n" % token, call.id.encode(), len(call.body), call.body,
    )  # fmt: skip


def _log(live: Live, call: Call, answer: Answer) -> None:
    """Before the answer leaves: what the caller has got is in the log, whatever becomes of this process."""
    assert call.head is not None
    given = call.head.named.get(b"traceparent")
    trace = of_caller([(b"traceparent", given)]) if given else None
    live.spool.write(
        live.spec.log_predictions, id=call.id, endpoint=live.name, revision=call.revision,
        model_version=live.versions.get(call.revision, ""), route=call.route, status=answer.head.status,
        latency_ms=call.latency_ms, request=call.body, response=answer.body, trace_id=trace.trace_id if trace else "",
    )  # fmt: skip
