"""The station's socket and callers who take their time: what they hold is let go. A front of its own, with short limits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ekiben.station.caller import Call, Gone
from ekiben.station.deadlines import Deadlines
from ekiben.station.edge import AccessLog
from ekiben.station.front import Front, Limits

LONG_S = 60.0
SHORT_S = 0.2
HEAD = b"POST /endpoints/api/x HTTP/1.1\r\nHost: a\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENT = {"head_s": LONG_S, "body_s": LONG_S, "idle_s": LONG_S, "stalled_s": LONG_S, "linger_s": LONG_S}


def run(
    folder: Path,
    use: Callable[[Callable[[], Awaitable[Streams]], Front], Awaitable[Any]],
    answer: Callable[[Call], Coroutine[Any, Any, None]] | None = None,
    **limits: Any,
) -> None:
    """Call `use(connect, front)` beside a front with these limits; the others are long."""
    import socket

    async def echo(call: Call) -> None:
        call.answer(200, b"", call.body)

    async def main() -> None:
        access = AccessLog(folder / "access.jsonl")
        front = Front(
            admit=lambda call: 10_000_000, answer=lambda call: call.start((answer or echo)(call)), access=access,
            rest=asyncio.Protocol,
            limits=Limits(**{**PATIENT, **limits}),
        )  # fmt: skip
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        await front.listen(listener)
        await asyncio.wait_for(use(lambda: asyncio.open_connection("127.0.0.1", port), front), LONG_S / 2)
        await front.close(5)
        assert front.connections == set()
        assert front.bodies_bytes == 0
        access.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def status(reader: asyncio.StreamReader) -> int:
    return int((await reader.readline()).split()[1])


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("head_s", HEAD),
        ("head_s", b"\r\n"),
        ("body_s", HEAD + b"Content-Length: 5\r\n\r\nabc"),
        ("body_s", HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab"),
    ],
)
def test_a_request_that_never_ends_is_refused_however_often_a_byte_comes(
    tmp_path: Path, limit: str, sent: bytes
) -> None:
    async def use(connect: Any, front: Front) -> None:
        reader, writer = await connect()
        writer.write(sent)
        reading = asyncio.create_task(status(reader))
        while not reading.done():
            if limit == "head_s" and sent == HEAD:
                writer.write(b"X: 1\r\n")
            await asyncio.sleep(SHORT_S / 8)
        assert reading.result() == 408
        writer.close()

    run(tmp_path, use, **{limit: SHORT_S}, body_bytes_per_s=1000)
    assert json.loads((tmp_path / "access.jsonl").read_text().splitlines()[0])["status"] == 408


def test_a_large_body_has_the_time_that_it_needs(tmp_path: Path) -> None:
    async def use(connect: Any, front: Front) -> None:
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
        for _ in range(10):
            writer.write(b"x" * 10_000)
            await asyncio.sleep(SHORT_S / 5)
        assert await status(reader) == 200
        writer.close()

    run(tmp_path, use, body_s=SHORT_S, body_bytes_per_s=50_000)


def test_a_connection_that_asks_nothing_is_closed(tmp_path: Path) -> None:
    async def use(connect: Any, front: Front) -> None:
        fresh, _ = await connect()
        assert await fresh.read() == b""
        reader, writer = await connect()
        writer.write(HEAD + b"Content-Length: 1\r\n\r\nx")
        assert (await reader.read()).endswith(b"\r\n\r\nx")

    run(tmp_path, use, idle_s=SHORT_S)


def test_one_who_does_not_read_its_answer_loses_it(tmp_path: Path) -> None:
    ended = []

    async def much(call: Call) -> None:
        call.begin(200, b"", -1)
        try:
            while True:
                await call.send(b"x" * 100_000)
        except Gone:
            ended.append(call.size)
            call.abort()

    async def use(connect: Any, front: Front) -> None:
        _, writer = await connect()
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        while front.connections or not ended:
            await asyncio.sleep(0.01)
        writer.close()

    run(tmp_path, use, much, stalled_s=SHORT_S)
    assert ended[0] < 20_000_000  # what the kernel's buffers take


def test_bodies_of_all_callers_together_have_a_limit(tmp_path: Path) -> None:
    async def use(connect: Any, front: Front) -> None:
        first, first_writer = await connect()
        first_writer.write(HEAD + b"Content-Length: 3000\r\n\r\n" + b"x" * 2000)
        while front.bodies_bytes < 2000:
            await asyncio.sleep(0.01)
        second, second_writer = await connect()
        second_writer.write(HEAD + b"Content-Length: 3000\r\n\r\n" + b"x" * 10)
        assert await status(second) == 503
        assert b"Retry-After: 1" in await second.readuntil(b"\r\n\r\n")
        first_writer.write(b"x" * 1000)
        assert await status(first) == 200
        for writer in (first_writer, second_writer):
            writer.close()

    run(tmp_path, use, bodies_bytes=1000)


def test_one_who_goes_on_sending_after_a_refusal_is_cut_off(tmp_path: Path) -> None:
    async def use(connect: Any, front: Front) -> None:
        reader, writer = await connect()
        writer.write(b"POST /endpoints/x\r\n\r\n")
        assert await status(reader) == 400
        while front.connections:
            with suppress(ConnectionError):
                writer.write(b"x" * 10_000)
                await writer.drain()
        reader, writer = await connect()
        writer.write(b"POST /endpoints/x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        while front.connections:  # it neither sends nor closes
            await asyncio.sleep(0.01)
        writer.close()

    run(tmp_path, use, linger_s=SHORT_S, linger_bytes=100_000)


def test_many_requests_in_one_go_do_not_pile_up(tmp_path: Path) -> None:
    most = 0

    async def slowly(call: Call) -> None:
        nonlocal most
        most = max(most, len(call.connection._buffer))
        await asyncio.sleep(0)
        call.answer(200, b"", call.body)

    async def use(connect: Any, front: Front) -> None:
        reader, writer = await connect()
        one = HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
        sending = asyncio.create_task(send(writer, one * 2000))
        for _ in range(2000):
            assert await status(reader) == 200
            await reader.readuntil(b"x" * 1000)
        await sending
        writer.close()

    async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    run(tmp_path, use, slowly, pipelined_bytes=10_000)
    assert most < 600_000  # a few reads of the loop's, not the two million bytes that were sent


def test_deadlines_are_moved_cleared_and_kept_by_one_timer() -> None:
    said: list[str] = []

    async def main() -> None:
        deadlines = Deadlines()
        deadlines.set("late", 0.3, lambda: said.append("late"))
        deadlines.set("soon", 0.05, lambda: said.append("soon"))
        deadlines.set("moved", 0.05, lambda: said.append("never"))
        deadlines.set("moved", 0.2, lambda: said.append("moved"))
        deadlines.set("cleared", 0.1, lambda: said.append("never"))
        deadlines.set("first", 0.01, lambda: deadlines.clear("cleared"))
        deadlines.clear("unknown")
        while len(said) < 3:
            await asyncio.sleep(0.01)
        assert deadlines._timer is None
        deadlines.set("closed", 0.01, lambda: said.append("never"))
        deadlines.close()
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert said == ["soon", "moved", "late"]
