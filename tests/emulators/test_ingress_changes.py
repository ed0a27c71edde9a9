"""The ingress while things change: routes and pods under load, the API server gone and back, and what is said in statuses."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from ekiben.emulators.kubernetes.ingress import routes
from ekiben.emulators.kubernetes.ingress.proxy import Limits
from tests.emulators.ingress_rig import INTERNAL, NAMESPACE, Rig, conditions, run, split, until

HOST = "api.shop.example.test"
KEY = f"{NAMESPACE}/api"


def test_changes_of_routes_and_pods_lose_no_request(tmp_path: Path) -> None:
    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        await asyncio.sleep(0.02)
        return web.json_response({"pod": "", "body": len(body)})

    async def scenario(rig: Rig) -> None:
        old = await rig.pod("api-0", slow)
        rig.service("api-0", old.port)
        rig.route(HOST, ("api-0", 100))
        await rig.ready()
        over = asyncio.Event()
        counted: Counter[int] = Counter()

        async def load() -> None:
            while not over.is_set():
                counted[await rig.code(HOST, method="POST", data=b"12345")] += 1

        callers = [asyncio.create_task(load()) for _ in range(8)]
        for number in range(1, 11):
            new = await rig.pod(f"api-{number}", slow)
            rig.service(f"api-{number}", new.port)
            rig.route(HOST, (f"api-{number - 1}", 50), (f"api-{number}", 50))
            await rig.ready()
            await until(lambda new=new: len(new.seen) > 5)  # type: ignore[misc]
            rig.route(HOST, (f"api-{number}", 100))
            await rig.ready()
            # As Knative has it: the revision without traffic loses its pods, which end when their requests have.
            rig.service(f"api-{number - 1}")
            await old.stop()
            rig.pods.remove(old)
            old = new
        over.set()
        await asyncio.gather(*callers)
        assert set(counted) == {200}
        assert counted[200] > 100

    run(tmp_path, scenario, Limits(patience_s=120))


def test_the_status_says_that_a_generation_is_served_when_it_is(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        answered: list[tuple[int, str]] = []

        async def look(key: str) -> int:
            generation = rig.api.objects["ingresses", key]["metadata"]["generation"]
            answered.append((generation, (await rig.said(HOST))["pod"]))
            return 200

        rig.api.before_patch = look
        for name in ("api-1", "api-2"):
            rig.service(name, (await rig.pod(name)).port)
        rig.route(HOST, ("api-1", 100))
        first = await rig.ready()
        assert dict(conditions(first)) == {"LoadBalancerReady": "True", "NetworkConfigured": "True", "Ready": "True"}
        for place in ("publicLoadBalancer", "privateLoadBalancer"):
            assert first[place] == {"ingress": [{"domainInternal": INTERNAL}]}
        rig.route(HOST, ("api-2", 100))
        second = await rig.ready()
        assert second["observedGeneration"] == 2
        assert second["conditions"] == first["conditions"]  # the times, too
        assert answered == [(1, "api-1"), (2, "api-2")]
        # What says nothing new is not written: neither its own status come back, nor pods that come and go.
        rig.service("api-2", 1)
        rig.service("api-2", rig.pods[1].port)
        assert (await rig.said(HOST))["pod"] == "api-2"
        assert len(rig.api.patched) == 2

    run(tmp_path, scenario)


def test_a_status_that_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        answers = [500, 409, 503]

        async def refuse(key: str) -> int:
            if not answers:
                return 200
            if (answer := answers.pop()) == 409:
                # Somebody else has changed it meanwhile; that change is followed.
                rig.route(HOST, ("api-1", 100), visibility="ExternalIP")
            return answer

        rig.api.before_patch = refuse
        rig.route(HOST, ("api-1", 100))
        assert (await rig.ready())["observedGeneration"] == 2
        assert answers == []

    run(tmp_path, scenario)


def test_an_object_that_makes_no_routes_says_why_and_harms_no_other(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1")).port)
        rig.ingress("bad", [{"hosts": ["bad.test"], "http": {"paths": [{"splits": [{"percent": 100}]}]}}])
        rig.ingress(
            "theirs", [{"hosts": ["theirs.test"], "http": {"paths": [{"splits": [split("api-1", 100)]}]}}], "istio"
        )
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        bad = await rig.ready("bad")
        assert dict(conditions(bad)) == {"LoadBalancerReady": "True", "NetworkConfigured": "False", "Ready": "False"}
        assert "serviceNamespace" in bad["conditions"][-1]["message"]
        assert await rig.code("theirs.test") == 404
        assert rig.api.status(f"{NAMESPACE}/theirs") == {}
        assert await rig.code(HOST) == 200

    run(tmp_path, scenario)


def test_of_two_objects_for_one_host_the_older_has_it() -> None:
    def made(created: str, service: str) -> dict[str, Any]:
        path = {"splits": [split(service, 100)]}
        spec = {"rules": [{"hosts": ["a.test"], "http": {"paths": [path]}}]}
        return {"metadata": {"creationTimestamp": created}, "spec": spec}

    table = routes.Table.of({"n/a": made("2026-01-02T00:00:00Z", "young"), "n/b": made("2026-01-01T00:00:00Z", "old")})
    found = table.find("a.test", "/", {}, inside=False)
    assert found
    assert found.splits[0].service == f"{NAMESPACE}/old"


def test_what_was_missed_is_listed_again(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.api.page = 2
        rig.service("api-1", (await rig.pod("api-1")).port)
        for number in range(5):
            rig.route(f"{number}.test", ("api-1", 100), name=f"r{number}")
            await rig.ready(f"r{number}")
        rig.api.events.clear()  # nobody is told what comes now
        rig.api.delete("ingresses", f"{NAMESPACE}/r0")
        rig.api.events.clear()
        rig.api.forget()
        rig.route(HOST, ("api-1", 100))
        rig.api.events.clear()
        await rig.ready()
        assert await rig.code("0.test") == 404
        assert [await rig.code(f"{number}.test") for number in range(1, 5)] == [200] * 4

    run(tmp_path, scenario)


def test_while_the_api_server_is_away_requests_go_where_they_went(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1")).port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        port = int(rig.api.url.rsplit(":", 1)[1])
        await rig.api.stop()
        assert [await rig.code(HOST) for _ in range(5)] == [200] * 5
        rig.route("later.test", ("api-1", 100), name="later")
        await rig.api.start(port)
        await rig.ready("later")
        assert await rig.code("later.test") == 200

    run(tmp_path, scenario)
