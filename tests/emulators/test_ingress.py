"""The ingress by real HTTP: where requests go, what they carry, and what becomes of those that cannot be answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from ekiben.emulators.kubernetes.ingress.proxy import Limits
from tests.emulators.ingress_rig import NAMESPACE, Rig, run, split, until

HOST = "api.shop.example.test"
SHORT = Limits(patience_s=0.3, body_silence_s=0.3, body_bytes=1 << 20)


def test_ninety_of_a_hundred_requests_go_where_ninety_percent_do(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        for name in ("api-1", "api-2"):
            rig.service(name, (await rig.pod(name)).port)
        rig.route(HOST, ("api-1", 90), ("api-2", 10))
        await rig.ready()
        counted = Counter([(await rig.said(HOST))["pod"] for _ in range(1000)])
        # Five standard deviations of a binomial of 1000 and 0.1.
        assert counted.total() == 1000
        assert 52 <= counted["api-2"] <= 148
        for name in ("api-1", "api-2"):
            pod = next(pod for pod in rig.pods if pod.name == name)
            assert {one.headers["Knative-Serving-Revision"] for one in pod.seen} == {name}

    run(tmp_path, scenario)


def test_a_pod_sees_the_request_as_it_was_and_the_routes_headers(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1")).port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        seen = await rig.said(
            f"{HOST.upper()}:8080",
            "/a%2Fb//c?x=%20&y=1",
            headers={
                "Knative-Serving-Revision": "forged",
                "Connection": "X-Secret",
                "X-Secret": "mine",
                "X-Forwarded-For": "10.0.0.9",
                "Authorization": "Bearer b",
            },
        )
        assert seen["path"] == "/a%2Fb//c?x=%20&y=1"
        headers = seen["headers"]
        assert headers["Host"] == f"{HOST.upper()}:8080"
        assert headers["Knative-Serving-Revision"] == "api-1"
        assert headers["Knative-Serving-Namespace"] == NAMESPACE
        assert headers["X-Forwarded-For"] == "10.0.0.9, 127.0.0.1"
        assert headers["Authorization"] == "Bearer b"
        assert "X-Secret" not in headers

    run(tmp_path, scenario)


def test_the_longest_path_and_the_named_headers_win(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        for name in ("plain", "deep", "tagged"):
            rig.service(name, (await rig.pod(name)).port)
        paths = [
            {"splits": [split("plain", 100)]},
            {"path": "/v1/deep", "splits": [split("deep", 100)]},
            {"headers": {"Knative-Serving-Tag": {"exact": "blue"}}, "splits": [split("tagged", 100)]},
        ]
        rig.ingress("api", [{"hosts": [HOST], "http": {"paths": paths}}])
        await rig.ready()
        assert (await rig.said(HOST, "/v1"))["pod"] == "plain"
        assert (await rig.said(HOST, "/v1/deep/er"))["pod"] == "deep"
        assert (await rig.said(HOST, "/v1/deep", headers={"knative-serving-tag": "blue"}))["pod"] == "tagged"
        assert (await rig.said(HOST, headers={"Knative-Serving-Tag": "red"}))["pod"] == "plain"

    run(tmp_path, scenario)


def test_what_is_local_to_the_cluster_is_not_there_for_others(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1")).port)
        rig.route(HOST, ("api-1", 100))
        rig.route("api.shop.svc.cluster.local", ("api-1", 100), name="local", visibility="ClusterLocal")
        await rig.ready()
        await rig.ready("local")
        assert await rig.code("api.shop.svc.cluster.local") == 404
        assert await rig.code("api.shop.svc.cluster.local", inside=True) == 200
        assert await rig.code(HOST, inside=True) == 200
        assert await rig.code("nobody.example.test") == 404
        assert await rig.code("") == 404

    run(tmp_path, scenario)


def test_bodies_flow_both_ways_before_they_have_ended(tmp_path: Path) -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while chunk := await request.content.readany():
            await response.write(chunk)
        return response

    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1", echo)).port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def speak():  # type: ignore[no-untyped-def]
            for word in (b"one", b"two", b"three"):
                yield word
                assert await heard.get() == word

        async with rig.call(HOST, method="POST", data=speak(), expect100=True) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            async for chunk in answer.content.iter_any():
                heard.put_nowait(chunk)
        large = bytes(range(256)) * (1 << 14)
        async with rig.call(HOST, method="PUT", data=large, headers={"Content-Encoding": "gzip"}) as answer:
            assert await answer.read() == large
        assert rig.pods[0].seen[-1].headers["Content-Length"] == str(len(large))

    run(tmp_path, scenario)


def test_head_and_empty_answers_stay_what_they_are(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/none":
            return web.Response(status=204)
        if request.path == "/there":
            return web.Response(status=302, headers={"Location": "/elsewhere", "Set-Cookie": "a=b"})
        return web.Response(text="nine char", headers={"ETag": '"e"'})

    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1", handle)).port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        async with rig.call(HOST, method="HEAD") as answer:
            assert (answer.status, answer.headers["Content-Length"], answer.headers["ETag"]) == (200, "9", '"e"')
        assert await rig.code(HOST, "/none") == 204
        async with rig.call(HOST, "/there", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"], answer.headers["Set-Cookie"]) == (
                302,
                "/elsewhere",
                "a=b",
            )

    run(tmp_path, scenario)


def test_a_request_is_held_until_a_pod_is_there(tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        rig.service("api-1")
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        held = asyncio.create_task(rig.said(HOST, method="POST", data=b"12345"))
        pod = await rig.pod("api-1")
        port = pod.port
        await pod.stop()
        rig.service("api-1", port)  # it refuses connections first, as a pod does whose process is not up yet
        await asyncio.sleep(0.2)
        assert not held.done()
        await pod.start()
        assert (await held)["body"] == 5
        assert len(pod.seen) == 1

    run(tmp_path, scenario, Limits(patience_s=120))


def test_no_pod_is_503_and_a_pod_that_dies_is_502_and_asked_once(tmp_path: Path) -> None:
    async def die(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        assert request.transport
        request.transport.abort()
        return web.Response()

    async def scenario(rig: Rig) -> None:
        gone = await rig.pod("gone")
        await gone.stop()
        deadly = await rig.pod("deadly", die)
        rig.service("gone", gone.port)
        rig.service("empty")
        rig.service("deadly", deadly.port)
        for name in ("gone", "empty", "deadly", "unknown"):
            rig.route(f"{name}.test", (name, 100), name=name)
            await rig.ready(name)
        rig.route("none.test", ("deadly", 0), ("gone", 0), name="none")
        await rig.ready("none")
        for name in ("gone", "empty", "unknown", "none"):
            async with rig.call(f"{name}.test", method="POST", data=b"x") as answer:
                assert answer.status == 503
                assert (await answer.text()).startswith("ingress: no ")
        assert await rig.code("deadly.test", method="POST", data=b"x") == 502
        assert len(deadly.seen) == 1
        await gone.start()

    run(tmp_path, scenario, SHORT)


def test_an_answer_that_is_cut_off_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport
        request.transport.abort()
        return response

    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1", cut)).port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        with pytest.raises(aiohttp.ClientError):
            await rig.code(HOST)

    run(tmp_path, scenario)


def test_bodies_that_are_too_large_or_do_not_come_are_refused(tmp_path: Path) -> None:
    async def endless():  # type: ignore[no-untyped-def]
        while True:
            yield bytes(1 << 16)

    async def stalled():  # type: ignore[no-untyped-def]
        yield b"a"
        await asyncio.Event().wait()

    async def scenario(rig: Rig) -> None:
        rig.service("api-1", (await rig.pod("api-1")).port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        assert await rig.code(HOST, method="POST", data=bytes((1 << 20) + 1)) == 413
        assert await rig.code(HOST, method="POST", data=endless()) == 413
        assert await rig.code(HOST, method="POST", data=stalled()) == 408
        assert await rig.code(HOST, method="POST", data=bytes(1 << 20)) == 200

    run(tmp_path, scenario, SHORT)


def test_websockets_pass(tmp_path: Path) -> None:
    async def talk(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("v2",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(
                message.data
            ) if message.type is aiohttp.WSMsgType.BINARY else await socket.send_str(message.data)
        assert socket.close_code == 4001
        return socket

    async def scenario(rig: Rig) -> None:
        pod = await rig.pod("api-1", talk)
        rig.service("api-1", pod.port)
        rig.route(HOST, ("api-1", 100))
        await rig.ready()
        async with rig.caller.ws_connect(
            f"http://{rig.outside}/live", headers={"Host": HOST}, protocols=("v1", "v2")
        ) as socket:
            assert socket.protocol == "v2"
            await socket.send_str("é")
            assert await socket.receive_str() == "é"
            await socket.send_bytes(b"\0\xff")
            assert await socket.receive_bytes() == b"\0\xff"
            await socket.close(code=4001)
        await until(lambda: pod.seen[0].headers["Knative-Serving-Revision"] == "api-1")

    run(tmp_path, scenario)
