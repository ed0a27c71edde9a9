"""The part of a Kubernetes API server that those who list, watch and write statuses see."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

INGRESSES = "networking.internal.knative.dev/v1alpha1"


@dataclass
class FakeApi:
    """Objects by (kind, "namespace/name"). `gone`: watches from before are answered with 410; `patched`: what was written."""

    page: int = 500
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    patched: list[dict[str, Any]] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    before_patch: Callable[[str], Awaitable[int]] | None = None
    oldest: int = 0
    url: str = ""
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _watches: set[web.StreamResponse] = field(default_factory=set)
    _runner: web.AppRunner | None = None
    _ending: bool = False

    async def start(self, port: int = 0) -> None:
        self._ending = False
        app = web.Application()
        app.router.add_get("/api/v1/{kind}", self._get)
        app.router.add_get(f"/apis/{INGRESSES}/{{kind}}", self._get)
        app.router.add_patch(f"/apis/{INGRESSES}/namespaces/{{namespace}}/{{kind}}/{{name}}/status", self._patch)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        assert self._runner
        self._ending = True
        self._news.set()
        self.cut()
        await self._runner.cleanup()

    def put(self, kind: str, found: dict[str, Any]) -> None:
        """Create the object, or change it: another spec is another generation."""
        about = found["metadata"]
        key = (kind, f"{about['namespace']}/{about['name']}")
        old = self.objects.get(key)
        generation = 1
        if old:
            generation = old["metadata"]["generation"] + (old.get("spec") != found.get("spec"))
            found = {"status": old.get("status", {}), **found}
        self._set(kind, {**found, "metadata": {**about, "generation": generation}}, "MODIFIED" if old else "ADDED")

    def delete(self, kind: str, key: str) -> None:
        found = self.objects.pop((kind, key))
        self._tell(
            "DELETED", {**found, "metadata": {**found["metadata"], "resourceVersion": str(next(self._versions))}}, kind
        )

    def forget(self) -> None:
        """Compact: no watch can begin from anything that was, and those that are under way are cut."""
        self.oldest = next(self._versions)
        self.cut()

    def cut(self) -> None:
        for watch in self._watches:
            if watch._req is not None and watch._req.transport is not None:
                watch._req.transport.abort()

    def status(self, key: str) -> dict[str, Any]:
        return dict(self.objects["ingresses", key].get("status") or {})

    def _set(self, kind: str, found: dict[str, Any], event: str) -> None:
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[kind, f"{found['metadata']['namespace']}/{found['metadata']['name']}"] = found
        self._tell(event, found, kind)

    def _tell(self, event: str, found: dict[str, Any], kind: str) -> None:
        self.events.append((int(found["metadata"]["resourceVersion"]), kind, {"type": event, "object": found}))
        self._news.set()
        self._news = asyncio.Event()

    async def _get(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        if "watch" in request.query:
            return await self._watch(request, kind, int(request.query["resourceVersion"]))
        self.lists.append(kind)
        start = int(request.query.get("continue", "0"))
        found = [one for (of, _), one in sorted(self.objects.items()) if of == kind]
        end = start + min(int(request.query["limit"]), self.page)
        about = {"resourceVersion": str(next(self._versions)), "continue": str(end) if end < len(found) else ""}
        return web.json_response({"metadata": about, "items": found[start:end]})

    async def _watch(self, request: web.Request, kind: str, since: int) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.oldest:
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        self._watches.add(response)
        try:
            while not self._ending:
                news = self._news
                for version, of, event in self.events:
                    if of == kind and version > since:
                        await response.write(json.dumps(event).encode() + b"\n")
                        since = version
                await news.wait()
            return response
        except ConnectionError:
            return response
        finally:
            self._watches.discard(response)

    async def _patch(self, request: web.Request) -> web.Response:
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        kind = request.match_info["kind"]
        body = await request.json()
        assert request.content_type == "application/merge-patch+json"
        if self.before_patch and (answer := await self.before_patch(key)) != 200:
            return web.json_response({}, status=answer)
        found = self.objects.get((kind, key))
        if found is None:
            return web.json_response({}, status=404)
        if body["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            return web.json_response({}, status=409)
        self.patched.append(body)
        fresh = {**found, "metadata": {**found["metadata"]}, "status": body["status"]}
        self._set(kind, fresh, "MODIFIED")
        return web.json_response(fresh)
