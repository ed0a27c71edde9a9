"""The station's application: the table of resources, the nouns that give them meaning, and their routes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from ekiben import __version__
from ekiben.errors import NotFound, SpecError
from ekiben.station import tokens
from ekiben.station.buckets import Buckets, Objects, Platforms
from ekiben.station.edge import AccessLog, Guard, body_of, guards
from ekiben.station.endpoints import Endpoints
from ekiben.station.events import Events
from ekiben.station.functions import Functions
from ekiben.station.gateway import Gateway
from ekiben.station.leftovers import keep_code
from ekiben.station.noun import Context, Noun, Resource
from ekiben.station.runs import Trainings
from ekiben.station.store import Store

__all__ = ["ACCESS", "GATEWAY", "Resources", "application"]

WITH_CODE = ("training", "function")
ACCESS = web.AppKey("access", AccessLog)
GATEWAY = web.AppKey("gateway", Gateway)
THREADS = 32
MAX_BODY_BYTES = 16 * 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


class Resources:
    """What was declared: kind and name -> spec, tags, facts. It survives the station."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.declare(
            "create table if not exists resources (kind text, name text, spec text not null, tags text not null,"
            " facts text not null, primary key (kind, name)) strict"
        )

    def get(self, kind: str, name: str) -> Resource | None:
        row = self._store.one("select * from resources where kind = ? and name = ?", (kind, name))
        return None if row is None else _resource(row)

    def of(self, kind: str) -> list[Resource]:
        return [
            _resource(row) for row in self._store.all("select * from resources where kind = ? order by name", (kind,))
        ]

    def all(self) -> list[Resource]:
        return [_resource(row) for row in self._store.all("select * from resources order by kind, name")]

    async def write(self, resource: Resource) -> None:
        spec, tags, facts = (
            json.dumps(dict(part), sort_keys=True) for part in (resource.spec, resource.tags, resource.facts)
        )
        await self._store.in_turn(
            self._store.run,
            "insert into resources values (?, ?, ?, ?, ?) on conflict (kind, name)"
            " do update set spec = excluded.spec, tags = excluded.tags, facts = excluded.facts",
            (resource.kind, resource.name, spec, tags, facts),
        )

    async def delete(self, kind: str, name: str) -> None:
        await self._store.in_turn(self._store.run, "delete from resources where kind = ? and name = ?", (kind, name))

    def moved(self, before: str, after: str) -> None:
        """The station answers at another URL than last time: the facts say so."""
        self._store.run(
            "update resources set facts = replace(facts, ?, ?)", (json.dumps(before)[1:-1], json.dumps(after)[1:-1])
        )


def application(
    state_dir: Path, *, url: str, project: str, stack: str, token: str, stop: Callable[[], None]
) -> web.Application:
    """The station of `state_dir`, to be served at `url`. `stop` is called, once, when a client asks it to stop.

    What calls endpoints goes through its GATEWAY, and not through the application's routes.
    """
    store = Store(state_dir / "station.db")
    tokens.declare(store)
    resources = Resources(store)
    events = Events(store)
    context = Context(
        state_dir=state_dir, url=url, project=project, stack=stack, store=store,
        resource=resources.get, resources=resources.of, publish=events.publish,
    )  # fmt: skip
    trainings, functions = Trainings(context), Functions(context, events)
    files: list[Noun] = [Buckets(context), Objects(context), Platforms(context)]
    # They start in this order, and stop the other way round.
    endpoints = Endpoints(context)
    by_kind = {noun.kind: noun for noun in [*files, endpoints, trainings, functions]}
    access, guard = AccessLog(state_dir / "access.jsonl"), Guard(store, token)

    async def tidy() -> None:
        """Delete the code that nothing names any more. A call may still import from what it was started with."""
        if not functions.calling:
            named = {str(one.spec["code_sha256"]) for kind in WITH_CODE for one in resources.of(kind)}
            await asyncio.to_thread(keep_code, state_dir, named | trainings.code())

    app = web.Application(middlewares=guards(guard, access), client_max_size=MAX_BODY_BYTES)
    app[ACCESS], app[GATEWAY] = access, Gateway(endpoints.live, guard, endpoints.used)
    app.add_routes(_resource_routes(resources, by_kind, tidy))
    app.add_routes(_own_routes(by_kind, stop))
    for noun in by_kind.values():
        app.add_routes(noun.routes())

    async def lifetime(app: web.Application) -> Any:
        # Many of its threads may wait for a slow disk at once; each costs next to nothing.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="station"))
        _settle_url(store, resources, url)
        started: list[Noun] = []
        try:
            for noun in by_kind.values():
                started.append(noun)
                await noun.start()
            await tidy()
            yield
        finally:
            for noun in reversed(started):
                await noun.stop()
            access.close()
            store.close()

    app.cleanup_ctx.append(lifetime)
    return app


def _settle_url(store: Store, resources: Resources, url: str) -> None:
    store.declare("create table if not exists settings (key text primary key, value text not null) strict")
    with store.transaction():
        row = store.one("select value from settings where key = 'url'")
        if row and row["value"] != url:
            resources.moved(row["value"], url)
        store.run(
            "insert into settings values ('url', ?) on conflict (key) do update set value = excluded.value", (url,)
        )


def _resource_routes(
    resources: Resources, by_kind: Mapping[str, Noun], tidy: Callable[[], Awaitable[None]]
) -> list[web.RouteDef]:
    locks: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
    changing: Counter[bool] = Counter()

    @asynccontextmanager
    async def alone(kind: str, name: str) -> AsyncIterator[None]:
        """One change of a resource at a time. The last of those that bring code tidies up."""
        changing[kind in WITH_CODE] += 1
        try:
            async with locks[kind, name]:
                yield
        finally:
            changing[kind in WITH_CODE] -= 1
        if kind in WITH_CODE and not changing[True]:
            await tidy()

    def of(request: web.Request) -> tuple[Noun, str]:
        kind, name = request.match_info["kind"], request.match_info["resource"]
        if kind not in by_kind:
            raise SpecError(f"There is no kind of resource {kind!r}; there are: {', '.join(by_kind)}.")
        if not NAME.fullmatch(name):
            raise SpecError(
                f"The name {name!r} of a {kind} will not do: use up to 128 of A-Z, a-z, 0-9, dots and dashes."
            )
        return by_kind[kind], name

    async def put(request: web.Request) -> web.Response:
        noun, name = of(request)
        body = await body_of(request)
        if unknown := sorted(set(body) - {"spec", "tags"}):
            raise SpecError(f"A resource has no key {unknown[0]!r}: send spec and tags.")
        spec, given_tags = body.get("spec", {}), body.get("tags", {})
        if not isinstance(spec, dict) or not isinstance(given_tags, dict):
            raise SpecError(f"spec and tags of the {noun.kind} {name!r} must be JSON objects.")
        async with alone(noun.kind, name):
            before = resources.get(noun.kind, name)
            facts = before.facts if before else {}
            resource = Resource(kind=noun.kind, name=name, spec=spec, tags=given_tags, facts=facts)
            resource = replace(resource, facts=await noun.put(resource, before))
            await resources.write(resource)
        return web.json_response(_shown(resource))

    async def get(request: web.Request) -> web.Response:
        noun, name = of(request)
        resource = resources.get(noun.kind, name)
        if resource is None or not noun.exists(resource):
            raise NotFound("local", f"show the {noun.kind} {name!r}", "there is none", "Declare it with `ekiben up`")
        return web.json_response(_shown(resource))

    async def delete(request: web.Request) -> web.Response:
        noun, name = of(request)
        async with alone(noun.kind, name):
            if resource := resources.get(noun.kind, name):
                await noun.delete(resource)
                await resources.delete(noun.kind, name)
        return web.json_response({})

    async def listed(request: web.Request) -> web.Response:
        return web.json_response({"resources": [_shown(resource) for resource in resources.all()]})

    where = "/v1/resources/{kind}/{resource}"
    return [web.put(where, put), web.get(where, get), web.delete(where, delete), web.get("/v1/resources", listed)]


def _own_routes(by_kind: Mapping[str, Noun], stop: Callable[[], None]) -> list[web.RouteDef]:
    started = time.time()

    async def alive(request: web.Request) -> web.Response:
        return web.json_response({"version": __version__})

    async def metrics(request: web.Request) -> web.Response:
        head = (
            "# TYPE ekiben_station_info gauge\n"
            f'ekiben_station_info{{version="{__version__}"}} 1\n'
            "# TYPE ekiben_station_start_time_seconds gauge\n"
            f"ekiben_station_start_time_seconds {started:.3f}\n"
        )
        text = head + "".join(noun.metrics() for noun in by_kind.values())
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def stopped(request: web.Request) -> web.Response:
        asyncio.get_running_loop().call_soon(stop)
        return web.json_response({}, status=202)

    return [
        web.get("/livez", alive), web.get("/readyz", alive), web.get("/metrics", metrics), web.post("/v1/stop", stopped),
    ]  # fmt: skip


def _resource(row: Mapping[str, Any]) -> Resource:
    parts = {key: json.loads(row[key]) for key in ("spec", "tags", "facts")}
    return Resource(kind=row["kind"], name=row["name"], **parts)


def _shown(resource: Resource) -> dict[str, Any]:
    return {
        "kind": resource.kind, "name": resource.name,
        "spec": dict(resource.spec), "tags": dict(resource.tags), "facts": dict(resource.facts),
    }  # fmt: skip
