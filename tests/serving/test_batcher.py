"""The batcher on a loop of the test's own: requests come as bytes on made-up connections, at times that are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ekiben.serving.application import Application
from ekiben.serving.endpoint import TRIALS
from ekiben.serving.lean import Lean
from ekiben.serving.limits import Limits
from ekiben.serving.protocol import Connection
from ekiben.serving.standin.context import call as current_call
from ekiben.serving.standin.services import api, service

LOOPS = 50


class Wire(asyncio.Transport):
    """What a connection writes to; `sent` is all that the caller has got."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Client:
    def __init__(self, server: Lean, path: str = "/work") -> None:
        self.wire, self.path = Wire(), path
        self.connection = Connection(server)
        self.connection.connection_made(self.wire)

    def ask(self, rows: Any) -> None:
        self.wire.sent = b""
        body = json.dumps({"x": rows}).encode()
        self.connection.data_received(
            b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (self.path.encode(), len(body), body)
        )

    @property
    def status(self) -> int:
        return int(self.wire.sent[9:12]) if self.wire.sent else 0

    @property
    def answer(self) -> Any:
        return json.loads(self.wire.sent.partition(b"\r\n\r\n")[2]) if self.wire.sent else None


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """A server of one batchable method, which takes as long by the made-up clock as the test says."""

    def __init__(self, asynchronous: bool = True, threads: int = 1, **options: Any) -> None:
        rig = self
        self.calls: list[list[Any]] = []
        self.clock, self.fixed_s, self.row_s = Clock(), 0.0, 0.0
        self.gate: asyncio.Event | None = None
        self.together: threading.Barrier | None = None

        def called(x: list[Any]) -> list[Any]:
            rig.calls.append(list(x))
            if rig.together is not None:
                rig.together.wait(30)
            rig.clock.now_s += rig.fixed_s + rig.row_s * len(x)
            if "bad" in x:
                raise ValueError("bad")
            return [each * 2 for each in x]

        async def work(self: Any, x: list[Any]) -> list[Any]:
            if rig.gate is not None:
                await rig.gate.wait()
            return called(x)

        def work_blocking(self: Any, x: list[Any]) -> list[Any]:
            return called(x)

        def changes(self: Any, x: list[dict[str, int]]) -> list[int]:
            rig.calls.append([dict(each) for each in x])
            for each in x:
                each["seen"] = each.get("seen", 0) + 1
                if each["a"] < 0:
                    raise ValueError("negative")
            return [each["seen"] for each in x]

        async def context(self: Any, x: list[Any], ctx) -> list[str]:
            rig.calls.append(list(x))
            with contextlib.suppress(Exception):
                return [type(current_call.get()).__name__, ctx.request.url.path][: len(x)]
            return ["swallowed"] * len(x)

        body = {
            "work": api(work if asynchronous else work_blocking, batchable=True, route="/work", **options),
            "changes": api(changes, batchable=True),
            "context": api(context, batchable=True),
        }
        made = service(threads=threads)(type("Rig", (), body))
        self.application = Application(made, {}, Limits())
        self.server = Lean(self.application)
        for endpoint in self.application._posts.values():
            assert endpoint._batcher is not None
            endpoint._batcher._clock = self.clock
        self.batcher: Any = self.application._posts["/work"]._batcher

    def client(self, path: str = "/work") -> Client:
        return Client(self.server, path)

    def learn(self, fixed_s: float, row_s: float) -> None:
        self.fixed_s, self.row_s = fixed_s, row_s
        for rows in (1, 1, 1, 2, 4, 8, 16):
            self.batcher.pace.called(rows, fixed_s + rows * row_s)


def on_loop(test: Callable[[Rig], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        rig = Rig(**options)
        await rig.application.start()
        await test(rig)

    asyncio.run(main())


async def turns() -> None:
    """The loop does what it can do at once. No timer is waited for."""
    for _ in range(LOOPS):
        await asyncio.sleep(0)


async def came_true(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.001)


def test_one_connection_is_never_made_to_wait() -> None:
    async def test(rig: Rig) -> None:
        rig.learn(fixed_s=5.0, row_s=0.1)  # where waiting would pay most
        client = rig.client()
        for number in range(50):
            client.ask([number])
            await turns()  # not a timer
            assert client.answer == [2 * number]
            rig.clock.now_s += 0.001
        assert rig.calls == [[number] for number in range(50)]

    on_loop(test)


def test_what_comes_in_one_moment_is_in_one_call() -> None:
    async def test(rig: Rig) -> None:
        clients = [rig.client() for _ in range(8)]
        for number, client in enumerate(clients):
            client.ask([number] * (number + 1))
        await turns()
        assert [client.answer for client in clients] == [[2 * number] * (number + 1) for number in range(8)]
        assert len(rig.calls) == 1

    on_loop(test)


def test_a_batch_waits_for_those_who_come_back_where_that_pays() -> None:
    async def test(rig: Rig) -> None:
        rig.learn(fixed_s=5.0, row_s=0.001)
        clients = [rig.client() for _ in range(4)]
        for client in clients:
            client.ask([0])
        await turns()
        for _ in range(10):  # they come back a little later, and one after the other
            for number, client in enumerate(clients):
                rig.clock.now_s += 0.01
                client.ask([number])
                await turns()
            assert [client.answer for client in clients] == [[0], [2], [4], [6]]
        assert [len(call) for call in rig.calls[-9:]] == [4] * 9
        # One is not away but has left: it is not waited for.
        for client in clients[:3]:
            rig.clock.now_s += 0.01
            client.ask([1])
        clients[3].connection.connection_lost(None)
        await turns()
        assert len(rig.calls[-1]) == 3

    on_loop(test)


def test_where_a_call_costs_little_nobody_is_waited_for() -> None:
    async def test(rig: Rig) -> None:
        rig.learn(fixed_s=0.001, row_s=0.001)
        clients = [rig.client() for _ in range(4)]
        for _ in range(10):
            for client in clients:
                rig.clock.now_s += 0.01
                client.ask([1])
                await turns()
                assert client.answer == [2]
        assert {len(call) for call in rig.calls} == {1}

    on_loop(test)


def test_it_waits_no_longer_than_they_take_and_a_server_that_ends_not_at_all() -> None:
    async def test(rig: Rig) -> None:
        rig.learn(fixed_s=5.0, row_s=0.001)
        clients = [rig.client() for _ in range(2)]
        for _ in range(5):
            for client in clients:
                client.ask([1])
            await turns()
            rig.clock.now_s += 0.01
        clients[0].ask([1])
        await turns()
        assert clients[0].status == 0
        rig.clock.now_s += 1.0
        await came_true(lambda: clients[0].status)
        for client in clients:
            client.ask([1])
        await turns()
        rig.clock.now_s += 0.01
        rig.application.draining = rig.server.draining = True
        clients[0].ask([1])
        await turns()
        assert clients[0].answer == [2]

    on_loop(test)


def test_those_who_would_be_late_are_told_so_and_the_others_are_in_time() -> None:
    async def test(rig: Rig) -> None:
        rig.learn(fixed_s=0.2, row_s=0.01)
        rig.gate = asyncio.Event()
        first, *clients = [rig.client() for _ in range(6)]
        first.ask([0])
        await turns()
        for client in clients[:2]:
            client.ask([1])
        rig.clock.now_s += 0.7
        for client in clients[2:]:
            client.ask([2])
        rig.clock.now_s += 0.2
        rig.gate.set()
        await turns()
        assert [client.status for client in (first, *clients)] == [200, 503, 503, 200, 200, 200]
        assert b"retry-after: 1" in clients[0].wire.sent

    on_loop(test, max_latency_ms=1000)


def test_an_estimate_that_has_gone_wrong_corrects_itself() -> None:
    async def test(rig: Rig) -> None:
        for _ in range(10):
            rig.batcher.pace.called(1, 60.0)
        for _ in range(100):
            clients = [rig.client() for _ in range(3)]
            for client in clients:
                client.ask([1])
            await turns()
        assert [client.status for client in clients] == [200] * 3

    on_loop(test, max_latency_ms=1000)


def test_a_call_has_no_more_rows_than_the_latency_allows_but_a_request_keeps_its_own() -> None:
    async def test(rig: Rig) -> None:
        rig.learn(fixed_s=0.0, row_s=0.1)
        clients = [rig.client() for _ in range(4)]
        for client in clients:
            client.ask([1, 2])
        big = rig.client()
        big.ask(list(range(20)))
        await turns()
        assert big.answer == [2 * each for each in range(20)]
        assert [len(call) for call in rig.calls] == [4, 4, 20]

    on_loop(test, max_latency_ms=1000, max_batch_size=50)


def test_a_kind_that_came_later_does_not_wait_for_ever() -> None:
    async def test(rig: Rig) -> None:
        rig.gate = asyncio.Event()
        clients = [rig.client() for _ in range(9)]
        for number, client in enumerate(clients):
            rig.clock.now_s += 0.001
            client.ask(["text"] if number % 3 == 1 else [number])
            await turns()
        rig.gate.set()
        await turns()
        assert all(client.status == 200 for client in clients)
        assert rig.calls == [[0], ["text"] * 3, [2, 3, 5, 6, 8]]

    on_loop(test)


def test_rows_that_a_failed_call_has_changed_are_read_again() -> None:
    async def test(rig: Rig) -> None:
        clients = [rig.client("/changes") for _ in range(4)]
        for number, client in enumerate(clients):
            client.ask([{"a": -1 if number == 2 else number}])
        await came_true(lambda: all(client.status for client in clients))
        assert [client.status for client in clients] == [200, 200, 500, 200]
        assert [clients[number].answer for number in (0, 1, 3)] == [[1]] * 3
        assert all("seen" not in row for call in rig.calls for row in call)

    on_loop(test)


def test_a_method_that_swallows_the_refusal_gets_each_request_by_itself_all_the_same() -> None:
    async def test(rig: Rig) -> None:
        clients = [rig.client("/context") for _ in range(3)]
        for _ in range(2):
            for client in clients:
                client.ask([1, 2])
            await turns()
            assert [client.answer for client in clients] == [["Call", "/context"]] * 3
        assert [len(call) for call in rig.calls] == [6, 2, 2, 2, 2, 2, 2]

    on_loop(test)


def test_a_blocking_method_that_is_short_needs_no_thread_until_it_is_slow() -> None:
    async def test(rig: Rig) -> None:
        client = rig.client()
        for _ in range(TRIALS):
            client.ask([1])
            await came_true(lambda: client.status)
        clients = [rig.client() for _ in range(5)]
        for number, each in enumerate(clients):
            each.ask([number])
        await turns()  # no thread could have answered so soon
        assert [each.answer for each in clients] == [[2 * number] for number in range(5)]
        assert len(rig.calls) == TRIALS + 1
        rig.fixed_s = 1.0
        for _ in range(10):
            client.ask([1])
            await came_true(lambda: client.status)
        assert not rig.batcher._inline

    on_loop(test, asynchronous=False)


def test_whole_batches_use_all_threads_that_the_service_has() -> None:
    async def test(rig: Rig) -> None:
        rig.together = threading.Barrier(3)
        clients = [rig.client() for _ in range(6)]
        for client in clients:
            client.ask([1, 2])
        await came_true(lambda: all(client.status for client in clients))
        assert {client.status for client in clients} == {200}
        assert [len(call) for call in rig.calls] == [4, 4, 4]

    on_loop(test, asynchronous=False, threads=3, max_batch_size=4)
