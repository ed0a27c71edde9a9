"""The way of a request: which revision, which worker, there and back.

Requests are read whole before they are sent on (they are bounded), so that one whose worker dies can be given to another, once.
Answers are streamed through. The caller's token does not reach the model.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from ekiben.errors import ModelFailed, NotFound, SpecError, Unavailable
from ekiben.records import RevisionMetrics
from ekiben.specs import EndpointSpec
from ekiben.station.edge import Refused
from ekiben.station.spool import Answered, Spool
from ekiben.station.workers import Pool, Worker

__all__ = ["Counter", "Live", "call", "pick"]

WHOLE_BYTES = 1024 * 1024
HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer")
) | {"transfer-encoding", "upgrade"}
NOT_SENT = HOP_BY_HOP | {"host", "content-length", "expect"}
TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-.*", re.ASCII)
NOT_RETURNED = HOP_BY_HOP | {"content-length", "date", "server"}


@dataclass
class Counter:
    """What a revision has answered since it was last written down, and the latencies of its last requests."""

    requests: int = 0
    errors: int = 0
    last_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1024))

    def metrics(self, revision: str, requests: int, errors: int) -> RevisionMetrics:
        """Together with the counts that were written down."""
        ordered = sorted(self.last_ms)

        def quantile(q: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else 0.0

        return RevisionMetrics(
            revision=revision, requests=requests + self.requests, errors=errors + self.errors,
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


async def call(live: Live, which: str, request: web.Request) -> web.StreamResponse:
    """Answer a request from a worker. Every outcome is counted for the revision that it was meant for."""
    request["endpoint"] = live.name
    body = await _body(request, live.spec.max_request_bytes)
    id = request["revision"] = pick(live, which)
    request["id"] = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
    counter = live.counters.setdefault(id, Counter())
    request["started"] = started = time.perf_counter()
    failed = True
    try:
        response = await _from_some_worker(live, id, request, body)
        failed = response.status >= 500
        return response
    except Refused as refused:
        refused.headers.setdefault("Ekiben-Revision", id)
        raise
    except ConnectionResetError:
        failed = False
        raise
    finally:
        counter.requests += 1
        counter.errors += failed
        counter.last_ms.append((time.perf_counter() - started) * 1000)


async def _from_some_worker(live: Live, id: str, request: web.Request, body: bytes) -> web.StreamResponse:
    pool = live.pools[id]
    for again in (True, False):
        worker, held = await pool.acquire(live.held(pool))
        try:
            extra = {
                "Ekiben-Revision": id, "Ekiben-Request-Id": request["id"], **({"Ekiben-Cold": "1"} if held else {})
            }  # fmt: skip
            return await _exchange(live, pool, worker, request, body, extra)
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            # The news of the worker's death may be on its way still: it must not be given another request.
            try:
                await asyncio.wait_for(asyncio.shield(worker.child.exited), 1)
            except TimeoutError:
                if isinstance(error, aiohttp.ClientConnectorError):  # it lives, and nobody can reach it
                    pool.replace(worker)
            if again:
                continue
            raise Refused(
                ModelFailed(
                    f"local: cannot call {pool.name}: two workers ended while they answered this request. "
                    "Look for what in the request ends the process (memory, a crash in native code).",
                    log_uri=pool.log_path.as_uri(),
                ),
                502,
            ) from error
        finally:
            pool.release(worker)
    raise AssertionError("the loop returns or raises")


async def _exchange(
    live: Live, pool: Pool, worker: Worker, request: web.Request, body: bytes, extra: Mapping[str, str]
) -> web.StreamResponse:
    tail = request.raw_path.split("/", 3)
    url = URL("http://worker/" + (tail[3] if len(tail) > 3 else ""), encoded=True)
    headers = _passed(request.headers, NOT_SENT | ({"authorization"} if live.spec.auth == "platform" else set()))
    response: web.StreamResponse | None = None
    try:
        async with (
            asyncio.timeout(live.spec.timeout_s),
            worker.session.request(
                request.method, url, headers=headers, data=body or None, allow_redirects=False
            ) as answer,
        ):
            returned = _passed(answer.headers, NOT_RETURNED)
            returned.update(extra)
            if (answer.content_length or 0) <= WHOLE_BYTES and not answer.headers.get("Transfer-Encoding"):
                whole = await answer.read()
                response = web.Response(status=answer.status, headers=returned, body=whole)
                _log(live, request, extra["Ekiben-Revision"], answer.status, body, whole)
            else:
                streamed = web.StreamResponse(status=answer.status, headers=returned)
                streamed.content_length = answer.content_length
                response = streamed
                _log(live, request, extra["Ekiben-Revision"], answer.status, body, None)
                await streamed.prepare(request)
                async for chunk in answer.content.iter_any():
                    await streamed.write(chunk)
                await streamed.write_eof()
    except BaseException as error:
        if isinstance(error, TimeoutError):
            pool.timed_out(worker)
        if response is not None:
            # The head is sent: a broken connection is the only way left to say that the rest is missing.
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the caller left") from error
            request.transport.abort()
            raise ConnectionAbortedError("the model's answer broke off") from error
        if isinstance(error, TimeoutError):
            slow = f"local: cannot call {pool.name}: the model took longer than {live.spec.timeout_s:g} s (timeout_s)."
            raise Refused(ModelFailed(slow, log_uri=pool.log_path.as_uri()), 504) from error
        raise
    worker.timeouts = 0
    return response


def _log(live: Live, request: web.Request, id: str, status: int, body: bytes, answer: bytes | None) -> None:
    """Before the answer leaves: what the caller has got is in the log, whatever becomes of this process."""
    if request.method != "POST":
        return
    tail = request.raw_path.partition("?")[0].split("/", 3)
    trace = TRACE.fullmatch(request.headers.get("traceparent", ""))
    live.spool.write(
        Answered(
            id=request["id"], endpoint=live.name, revision=id, model_version=live.versions.get(id, ""),
            route=tail[3] if len(tail) > 3 else "", status=status,
            latency_ms=(time.perf_counter() - request["started"]) * 1000, request=body, response=answer,
            trace_id=trace[1] if trace else "",
        ),
        live.spec.log_predictions,
    )  # fmt: skip


async def _body(request: web.Request, limit: int) -> bytes:
    too_large = Refused(
        SpecError(f"The request is larger than the endpoint takes: {limit} bytes (max_request_bytes)."), 413
    )
    if (request.content_length or 0) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _passed(headers: Mapping[str, str], dropped: frozenset[str] | set[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped | named)
