"""The batcher: who fails or leaves does so alone, and nothing is lost, answered twice or left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from ekiben.serving.batch import Batch, Job

from .rig import Rig, came_true, on_loop, turns


@given(st.lists(st.lists(st.one_of(st.integers(), st.just("bad")), max_size=7), max_size=12), st.booleans())
@settings(max_examples=40, deadline=None)
def test_whoever_asks_for_whatever_gets_his_own_rows_and_fails_for_his_own_fault(
    asked: list[list[Any]], asynchronous: bool
) -> None:
    async def test(rig: Rig) -> None:
        clients = [rig.client() for _ in asked]
        for client, own in zip(clients, asked, strict=True):
            client.ask(own)
        await came_true(lambda: all(client.status for client in clients))
        for client, own in zip(clients, asked, strict=True):
            if "bad" in own:
                assert client.status == 500
            else:
                assert (client.status, client.answer) == (200, [2 * each for each in own])
        assert all(len(call) <= 5 for call in rig.calls)
        assert rig.batcher._jobs == rig.batcher._rows == rig.batcher._running == rig.server.metrics.in_progress == 0
        assert not rig.batcher._waiting

    on_loop(test, asynchronous=asynchronous, max_batch_size=5)


ACTIONS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 5), st.lists(st.one_of(st.integers(0, 9), st.just("bad")), max_size=4)),
    st.tuples(st.sampled_from(["hang up", "late"]), st.integers(0, 5), st.none()),
    st.tuples(st.sampled_from(["turn", "hold", "let go", "wait"]), st.just(0), st.none()),
)


@given(st.lists(ACTIONS, max_size=40))
@settings(max_examples=150, deadline=None)
def test_nobody_is_lost_or_answered_twice_whoever_leaves_whenever(actions: list[tuple[str, int, Any]]) -> None:
    async def test(rig: Rig) -> None:
        rig.gate = asyncio.Event()
        rig.gate.set()
        rig.learn(fixed_s=0.01, row_s=0.001)
        clients, asked = [rig.client() for _ in range(6)], {}
        for action, number, rows in actions:
            client = clients[number]
            if action == "ask" and client.connection.current is None:
                client.ask(rows)
                asked[client] = rows
            elif action == "hang up":
                client.connection.connection_lost(None)
                asked.pop(client, None)
                clients[number] = rig.client()
            elif (
                action == "late" and (exchange := client.connection.current) is not None and exchange.timer is not None
            ):
                exchange.timer._run()
                assert client.status == 504
                asked.pop(client, None)
            elif action == "hold":
                rig.gate.clear()
            elif action == "let go":
                rig.gate.set()
            elif action == "wait":
                rig.clock.now_s += 0.02
            elif action == "turn":
                await turns()
        rig.gate.set()
        rig.clock.now_s += 1.0
        await came_true(lambda: rig.server.metrics.in_progress == 0)
        await turns()
        for client, rows in asked.items():
            assert client.wire.sent.count(b"HTTP/1.1") == 1
            assert client.status == (500 if "bad" in rows else 200)
            assert "bad" in rows or client.answer == [2 * each for each in rows]
        assert rig.batcher._jobs == rig.batcher._rows == rig.batcher._running == 0
        assert not rig.batcher._waiting

    on_loop(test, max_batch_size=5)


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


def test_who_leaves_a_request_of_many_calls_leaves_those_that_are_still_to_be_made() -> None:
    async def test(rig: Rig) -> None:
        rig.together = held = threading.Barrier(2)
        client = rig.client()
        client.ask(list(range(20)))
        await came_true(lambda: rig.calls)
        client.connection.connection_lost(None)
        rig.together = None
        await asyncio.to_thread(held.wait, 30)
        await came_true(lambda: rig.batcher._running == 0)
        assert rig.calls == [[0, 1, 2, 3, 4]]

    on_loop(test, asynchronous=False, max_batch_size=5)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_nothing_is_left_of_a_batch_that_is_done(asynchronous: bool) -> None:
    async def test(rig: Rig) -> None:
        for rows in ([1], [1, 2, 3], ["bad"]) * 3:
            clients = [rig.client() for _ in range(4)]
            for client in clients:
                client.ask(rows)
            clients[0].connection.connection_lost(None)
            await came_true(lambda clients=clients: all(client.status for client in clients[1:]))
        clients.clear()
        del client
        await turns()
        assert [each for each in gc.get_objects() if isinstance(each, Job | Batch)] == []

    logging.disable()  # a record holds its traceback
    gc.collect()
    gc.disable()
    try:
        on_loop(test, asynchronous=asynchronous, max_batch_size=5)
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
