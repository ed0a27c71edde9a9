"""Endpoints: what is declared, the revisions deployed on them, and their routes. The way of a request is gateway.py's."""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from ekiben.errors import EkibenError, NotFound, SpecError
from ekiben.records import ModelVersion
from ekiben.revisions import revision_id
from ekiben.serving.spool import COMPACTION, Spool
from ekiben.specs import EndpointSpec
from ekiben.station.bentos import Bentos
from ekiben.station.edge import body_of
from ekiben.station.gateway import Counter, Live
from ekiben.station.noun import Context, Resource
from ekiben.station.parents import Parents
from ekiben.station.revisions import Revisions, Row, as_record
from ekiben.station.workers import Pool

__all__ = ["Endpoints"]

FLUSH_S = 2.0
STOP_S = 10.0
MOST_ROWS = 10_000
log = logging.getLogger("ekiben.station")


class Endpoints:
    """{"spec": EndpointSpec, "storage_uri": where its predictions are logged}."""

    kind = "endpoint"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.revisions = Revisions(context.store)
        self.live: dict[str, Live] = {}
        self.bentos = Bentos(context.state_dir)
        self.spool = Spool(context.state_dir / "predictions", self._storage_uri, COMPACTION)
        self.parents: Parents
        self._locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._flush: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None

    async def put(self, resource: Resource, before: Resource | None) -> Mapping[str, Any]:
        spec = _spec(resource)
        live = self.live.get(resource.name)
        if live is None:
            live = self.live[resource.name] = Live(resource.name, spec, self.spool)
            self._read(live)
        old, live.spec = live.spec, spec
        for pool in live.pools.values():
            if (old.env, old.resources, old.timeout_s) != (spec.env, spec.resources, spec.timeout_s):
                pool.recycle()
            pool.grow()
        return {"url": f"{self.context.url}/endpoints/{resource.name}"}

    def exists(self, resource: Resource) -> bool:
        return True

    async def delete(self, resource: Resource) -> None:
        live = self.live.pop(resource.name, None)
        if live is not None:
            await asyncio.gather(*(pool.drain(live.spec.drain_s) for pool in live.pools.values()))
        for row in self.revisions.of(resource.name):
            self.revisions.remove(resource.name, row["id"])
        await self.spool.remove(resource.name)
        await self._tidy()

    async def start(self) -> None:
        self.parents = Parents(self.context.state_dir)
        for resource in self.context.resources(self.kind):
            for row in self.revisions.of(resource.name):
                if row["state"] in ("starting", "retiring"):
                    self.revisions.remove(resource.name, row["id"])
            live = self.live[resource.name] = Live(resource.name, _spec(resource), self.spool)
            self._read(live)
            for row in self.revisions.of(resource.name):
                self._add_pool(live, row["id"], row["digest"], row["bento_uri"])
        self.spool.start()
        self._warming = asyncio.create_task(self._warm())

    async def stop(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        pools = [pool for live in self.live.values() for pool in live.pools.values()]
        await asyncio.gather(*(pool.drain(STOP_S) for pool in pools))
        if self._flush is not None:
            self._flush.cancel()
        await self.context.store.in_turn(self._write_counts, self._counts())
        await self.spool.stop()
        await self.parents.close()

    def routes(self) -> Sequence[web.RouteDef]:
        here = "/v1/endpoints/{name}"
        return [
            web.post(f"{here}/revisions", self._deploy),
            web.get(f"{here}/revisions", self._list),
            web.delete(f"{here}/revisions/{{revision}}", self._retire),
            web.put(f"{here}/weights", self._shift),
            web.get(f"{here}/metrics", self._metrics),
            web.get(f"{here}/predictions", self._predictions),
        ]

    def metrics(self) -> str:
        lines = ["# TYPE ekiben_endpoint_held gauge"]
        series: dict[str, list[str]] = {"requests_total": [], "errors_total": [], "instances": [], "latency_ms": []}
        for live in self.live.values():
            held = sum(len(pool.waiting) for pool in live.pools.values())
            lines.append(f'ekiben_endpoint_held{{endpoint="{live.name}"}} {held}')
            for row in self.revisions.of(live.name):
                one = _counter(live, row).metrics(row["id"])
                label = f'endpoint="{live.name}",revision="{row["id"]}"'
                series["requests_total"].append(f"{{{label}}} {one.requests}")
                series["errors_total"].append(f"{{{label}}} {one.errors}")
                series["instances"].append(f"{{{label}}} {_instances(live, row)}")
                for quantile, value in (("0.5", one.p50_ms), ("0.95", one.p95_ms), ("0.99", one.p99_ms)):
                    series["latency_ms"].append(f'{{{label},quantile="{quantile}"}} {value}')
        kinds = {"instances": "gauge", "latency_ms": "summary"}
        for name, values in series.items():
            lines.append(f"# TYPE ekiben_endpoint_{name} {kinds.get(name, 'counter')}")
            lines += [f"ekiben_endpoint_{name}{value}" for value in values]
        return "\n".join(lines) + "\n" + self.spool.metrics()

    def used(self) -> None:
        """A call is made: its counts are to be written down in a while."""
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_counts)

    async def _deploy(self, request: web.Request) -> web.Response:
        live = self._of(request.match_info["name"])
        body = await body_of(request)
        version, tag = ModelVersion.from_dict(body.get("version") or {}), str(body.get("tag") or "")
        id = revision_id(version)
        if (model := live.spec.model.partition("@")[0].partition(":")[0]) != version.model:
            raise SpecError(f"The endpoint {live.name!r} serves the model {model!r}, not {version.model!r}.")
        async with self._locks[live.name, id]:
            row = self.revisions.get(live.name, id)
            if row is None or row["state"] != "ready":
                await self._begin(live, id, version, row)
            if tag:
                self.revisions.tag(live.name, id, tag)
            self._read(live)
        return web.json_response(self._shown(live, id))

    async def _begin(self, live: Live, id: str, version: ModelVersion, row: Row | None) -> None:
        """Start the first worker of a revision; when that fails nothing has changed."""
        if row is None:
            self.revisions.add(live.name, version)
            live.counters[id] = Counter()
        try:
            pool = live.pools.get(id) or self._add_pool(live, id, version.digest, version.bento_uri)
            await pool.first()
        except BaseException:
            if row is None:
                self.revisions.remove(live.name, id)
                live.counters.pop(id, None)
                if failed := live.pools.pop(id, None):
                    await failed.drain(0)
                await self._tidy()
            raise
        self.revisions.set_state(live.name, id, "ready")

    async def _list(self, request: web.Request) -> web.Response:
        live = self._of(request.match_info["name"])
        return web.json_response({"revisions": self._all(live)})

    async def _shift(self, request: web.Request) -> web.Response:
        live = self._of(request.match_info["name"])
        weights = (await body_of(request)).get("weights")
        if not isinstance(weights, dict):
            raise SpecError("weights must be a JSON object: revision id -> percent.")
        self.revisions.shift(live.name, weights)
        self._read(live)
        for pool in live.pools.values():
            pool.grow()
        return web.json_response({"revisions": self._all(live)})

    async def _retire(self, request: web.Request) -> web.Response:
        live, id = self._of(request.match_info["name"]), request.match_info["revision"]
        async with self._locks[live.name, id]:
            if self.revisions.get(live.name, id):
                self.revisions.retiring(live.name, id)
                if pool := live.pools.get(id):
                    await asyncio.shield(asyncio.ensure_future(pool.drain(live.spec.drain_s)))
                live.pools.pop(id, None)
                live.counters.pop(id, None)
                self.revisions.remove(live.name, id)
                self._read(live)
                await self._tidy()
        return web.json_response({})

    async def _metrics(self, request: web.Request) -> web.Response:
        live = self._of(request.match_info["name"])
        shown = [_counter(live, row).metrics(row["id"]).to_dict() for row in self.revisions.of(live.name)]
        return web.json_response({"metrics": shown})

    async def _predictions(self, request: web.Request) -> web.Response:
        """Those that are not in storage yet."""
        live, last = self._of(request.match_info["name"]), request.query.get("last", "100")
        if not last.isdecimal() or not 0 < int(last) <= MOST_ROWS:
            raise SpecError(f"last={last!r} will not do: it is a number from 1 to {MOST_ROWS}.")
        rows = await asyncio.to_thread(self.spool.rows, live.name, int(last))
        return web.json_response({"predictions": rows})

    def _storage_uri(self, endpoint: str) -> str:
        declared = self.context.resource(self.kind, endpoint)
        return str(declared.spec.get("storage_uri", "")) if declared else ""

    def _of(self, name: str) -> Live:
        if name not in self.live:
            there = ", ".join(self.live) or "none"
            why = f"there is no such endpoint ({there})"
            raise NotFound("local", f"use the endpoint {name!r}", why, "Declare it and run `ekiben up`")
        return self.live[name]

    def _read(self, live: Live) -> None:
        """Weights and tags as the table has them."""
        rows = self.revisions.of(live.name)
        live.weights = {row["id"]: row["weight"] for row in rows}
        live.tags = {row["tag"]: row["id"] for row in rows if row["tag"]}
        live.versions = {row["id"]: row["version"] for row in rows}
        for row in rows:
            _counter(live, row)

    def _add_pool(self, live: Live, id: str, digest: str, bento_uri: str) -> Pool:
        def minimum() -> int:
            return math.ceil(live.spec.min_instances * live.weights.get(id, 0.0) / 100)

        def has_room() -> bool:
            return sum(pool.size for pool in live.pools.values()) < live.spec.max_instances

        def changed(reason: str) -> None:
            self.revisions.set_state(live.name, id, "failed" if reason else "ready", reason)

        pool = live.pools[id] = Pool(
            f"{live.name}@{id}", self.parents, self.context.state_dir / "logs" / "endpoints" / live.name / f"{id}.log",
            plan=lambda: self.bentos.plan(digest, bento_uri),
            spec=lambda: live.spec, has_room=has_room, minimum=minimum, changed=changed,
        )  # fmt: skip
        return pool

    async def _warm(self) -> None:
        """After a restart: the bentos checked, the parents' imports done, the minimum of instances started."""
        for live in list(self.live.values()):
            for row in self.revisions.of(live.name):
                try:
                    plan = await self.bentos.plan(row["digest"], row["bento_uri"])
                    await self.parents.of(plan.python, live.spec.resources.vcpu).preload(plan.modules)
                except EkibenError as error:
                    log.error("%s@%s cannot serve: %s", live.name, row["id"], error)
                if pool := live.pools.get(row["id"]):
                    pool.grow()

    async def _tidy(self) -> None:
        """Remove the bentos, and end the parents, that no revision needs."""
        needed = self.revisions.digests()
        await self.parents.keep(self.bentos.pythons(needed))
        await self.bentos.keep(needed)

    def _all(self, live: Live) -> list[dict[str, Any]]:
        return [as_record(row, _instances(live, row)).to_dict() for row in self.revisions.of(live.name)]

    def _shown(self, live: Live, id: str) -> dict[str, Any]:
        return next(shown for shown in self._all(live) if shown["id"] == id)

    def _flush_counts(self) -> None:
        self._flush = None
        self._writing = asyncio.create_task(self.context.store.in_turn(self._write_counts, self._counts()))

    def _counts(self) -> list[tuple[str, str, int, int]]:
        """What there is to write down: endpoint, revision, requests and errors since it was made."""
        changed = [
            (live.name, id, counter)
            for live in self.live.values()
            for id, counter in live.counters.items()
            if counter.requests != counter.written
        ]
        for _, _, counter in changed:
            counter.written = counter.requests
        return [(name, id, counter.requests, counter.errors) for name, id, counter in changed]

    def _write_counts(self, counts: list[tuple[str, str, int, int]]) -> None:
        try:
            with self.context.store.transaction():
                for count in counts:
                    self.revisions.count(*count)
        except sqlite3.Error as error:
            log.warning("the counts of calls are not written down: %s", error)


def _counter(live: Live, row: Row) -> Counter:
    if row["id"] not in live.counters:
        live.counters[row["id"]] = Counter(row["requests"], row["errors"], row["requests"])
    return live.counters[row["id"]]


def _spec(resource: Resource) -> EndpointSpec:
    if unknown := sorted(set(resource.spec) - {"spec", "storage_uri"}):
        raise SpecError(f"The endpoint {resource.name!r} has no key {unknown[0]!r}: send spec and storage_uri.")
    if not isinstance(resource.spec.get("spec"), dict):
        raise SpecError(f"The endpoint {resource.name!r} lacks its spec.")
    return EndpointSpec(**resource.spec["spec"])


def _instances(live: Live, row: Row) -> int:
    pool = live.pools.get(row["id"])
    return pool.size if pool else 0
