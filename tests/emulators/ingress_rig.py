"""An ingress in front of a fake API server and of pods that are real HTTP servers, all in one event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from ekiben.emulators.kubernetes.ingress import routes
from ekiben.emulators.kubernetes.ingress.__main__ import serve
from ekiben.emulators.kubernetes.ingress.proxy import Limits
from tests.fakes.cluster import FakeApi

T = TypeVar("T")
PATIENCE_S = 120.0
NAMESPACE = "shop"
INTERNAL = "ingress.knative-serving.svc.cluster.local"
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Pod:
    """A server that says its own name and what it was asked, or whatever `handle` answers."""

    name: str
    handle: Handler | None = None
    seen: list[web.BaseRequest] = field(default_factory=list)
    port: int = 0
    runner: web.ServerRunner | None = None

    async def start(self) -> Pod:
        self.runner = web.ServerRunner(web.Server(self._answer, auto_decompress=False), shutdown_timeout=PATIENCE_S)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        self.port = self.runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        assert self.runner
        await self.runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.seen.append(request)
        if self.handle:
            return await self.handle(request)
        body = await request.read()
        return web.json_response(
            {"pod": self.name, "path": request.path_qs, "headers": dict(request.headers), "body": len(body)}
        )


@dataclass
class Rig:
    api: FakeApi
    caller: aiohttp.ClientSession
    outside: str = ""
    inside: str = ""
    pods: list[Pod] = field(default_factory=list)

    async def pod(self, name: str, handle: Handler | None = None) -> Pod:
        self.pods.append(await Pod(name, handle).start())
        return self.pods[-1]

    def service(self, name: str, *ports: int) -> None:
        """The Service `name` and its Endpoints: pods of this machine at these ports."""
        about = {"namespace": NAMESPACE, "name": name}
        self.api.put(
            "services", {"metadata": about, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8012}]}}
        )
        subsets = [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": port}]} for port in ports]
        self.api.put("endpoints", {"metadata": dict(about), "subsets": subsets})

    def route(self, host: str, *splits: tuple[str, int], name: str = "api", **rest: Any) -> None:
        """A KIngress that shares the host's requests out by these percentages."""
        path = {"splits": [split(service, percent) for service, percent in splits]}
        self.ingress(name, [{"hosts": [host], "http": {"paths": [path]}, **rest}])

    def ingress(self, name: str, rules: list[dict[str, Any]], ingress_class: str = routes.CLASS) -> None:
        about = {
            "namespace": NAMESPACE, "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {routes.CLASS_ANNOTATIONS[0]: ingress_class},
        }  # fmt: skip
        self.api.put("ingresses", {"metadata": about, "spec": {"rules": rules}})

    async def ready(self, name: str = "api") -> dict[str, Any]:
        """The status, once it is that of the newest generation."""
        return await until(lambda: self._observed(f"{NAMESPACE}/{name}"))

    def _observed(self, key: str) -> dict[str, Any] | None:
        found = self.api.objects["ingresses", key]
        return (
            found["status"]
            if found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
            else None
        )

    @asynccontextmanager
    async def call(
        self, host: str, path: str = "/", *, method: str = "GET", inside: bool = False, **rest: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Host": host, **rest.pop("headers", {})}
        url = f"http://{self.inside if inside else self.outside}{path}"
        async with self.caller.request(method, url, headers=headers, **rest) as answer:
            yield answer

    async def said(self, host: str, path: str = "/", **rest: Any) -> dict[str, Any]:
        async with self.call(host, path, **rest) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())

    async def code(self, host: str, path: str = "/", **rest: Any) -> int:
        async with self.call(host, path, **rest) as answer:
            await answer.read()
            return answer.status


def split(service: str, percent: int) -> dict[str, Any]:
    return {
        "serviceNamespace": NAMESPACE, "serviceName": service, "servicePort": 80, "percent": percent,
        "appendHeaders": {"Knative-Serving-Namespace": NAMESPACE, "Knative-Serving-Revision": service},
    }  # fmt: skip


async def until(look: Callable[[], T | None]) -> T:
    """What `look` says, once it says something."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := look()):
            await asyncio.sleep(0.01)
    return found


def kubeconfig(folder: Path, url: str) -> Path:
    made = folder / "kubeconfig"
    made.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    return made


def run(folder: Path, scenario: Callable[[Rig], Awaitable[None]], limits: Limits | None = None) -> None:
    """Play the scenario before an ingress that has just begun."""

    async def play() -> None:
        api = FakeApi()
        await api.start()
        told, listening = asyncio.Event(), asyncio.Event()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as caller:
            rig = Rig(api, caller)

            def ready(outside: str, inside: str) -> None:
                rig.outside, rig.inside = outside, inside
                listening.set()

            serving = asyncio.create_task(
                serve(kubeconfig(folder, api.url), "127.0.0.1:0", "127.0.0.1:0", INTERNAL, told, ready, limits=limits)
            )
            try:
                await asyncio.wait(
                    [serving, asyncio.create_task(listening.wait())], return_when=asyncio.FIRST_COMPLETED
                )
                await scenario(rig)
            finally:
                told.set()
                await serving
                for pod in rig.pods:
                    await pod.stop()
                await api.stop()

    asyncio.run(asyncio.wait_for(play(), PATIENCE_S))


def conditions(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    return ((one["type"], one["status"]) for one in status["conditions"])
