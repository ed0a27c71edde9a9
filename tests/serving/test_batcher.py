"""The batcher: who is called with whom, when, and where. Requests come as bytes, times are told."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from ekiben.serving.metrics import Metrics
from ekiben.serving.quick import TRIALS

from .rig import Rig, came_true, on_loop, turns


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


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_call_belongs_to_the_trace_of_its_request_and_a_joined_one_to_none(asynchronous: bool) -> None:
    async def test(rig: Rig) -> None:
        one, other, traces = rig.client(), rig.client(), ["4bf92f3577b34da6a3ce929d0e0e4736", "1" * 32]
        for client, trace in ((one, traces[0]), (other, traces[1]), (one, "")):
            client.ask([1], trace)
            await came_true(lambda client=client: client.status)
        one.ask([1], traces[0])
        other.ask([1], traces[1])
        await came_true(lambda: one.status and other.status)
        assert rig.traces == [*traces, "", ""]
        assert [len(call) for call in rig.calls] == [1, 1, 1, 2]

    on_loop(test, asynchronous=asynchronous)


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
        assert not rig.batcher.endpoint.quick.proven

    on_loop(test, asynchronous=False)


def test_with_threads_of_its_own_no_call_is_made_where_it_stands() -> None:
    async def test(rig: Rig) -> None:
        client = rig.client()
        for _ in range(2 * TRIALS):
            client.ask([1])
            await came_true(lambda: client.status)
        assert not rig.batcher.endpoint.quick.proven

    on_loop(test, asynchronous=False, threads=2)


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


def test_workers_of_one_port_add_up_their_batches(tmp_path: Path) -> None:
    one, other = (Metrics("s", "b", "1", shared=tmp_path) for _ in range(2))
    one.batch("work", 3, 40)
    one.write()
    (written,) = tmp_path.glob("*.json")
    written.rename(tmp_path / "1.json")  # as if it were another process's
    other.batch("work", 1, 5000)
    text = other.text().decode()
    assert 'adaptive_batch_size_bucket{method_name="work",worker_index="1",runner_name="s",' in text
    labels = 'method_name="work",worker_index="1",runner_name="s",service_name="b",service_version="1"'
    for name, total in (("size", 4.0), ("rows", 5040.0)):
        assert f"bentoml_service_adaptive_batch_{name}_sum{{{labels}}} {total}" in text
        assert f"bentoml_service_adaptive_batch_{name}_count{{{labels}}} 2.0" in text
    assert f'bentoml_service_adaptive_batch_rows_bucket{{{labels},le="64.0"}} 1.0' in text
    assert b"adaptive" not in Metrics("s", "b", "1").text()


def test_what_does_not_fill_a_batch_waits_for_the_call_before_it_though_there_are_threads() -> None:
    async def test(rig: Rig) -> None:
        rig.together = held = threading.Barrier(2)
        clients = [rig.client() for _ in range(3)]
        clients[0].ask([0])
        await came_true(lambda: rig.calls)
        for client in clients[1:]:
            client.ask([1])
        await turns()
        assert rig.batcher._running == 1
        rig.together = None
        await asyncio.to_thread(held.wait, 30)
        await came_true(lambda: all(client.status == 200 for client in clients))
        assert rig.calls == [[0], [1, 1]]

    on_loop(test, asynchronous=False, threads=3, max_batch_size=4)
