"""A server of batchable methods on a loop of the test's own, with made-up connections and a made-up clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ekiben.serving import tracing
from ekiben.serving.application import Application
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

    def ask(self, rows: Any, trace: str = "") -> None:
        self.wire.sent = b""
        body = json.dumps({"x": rows}).encode()
        told = f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n" if trace else ""
        head = f"POST {self.path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n{told}"
        self.connection.data_received(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

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
        self.traces: list[str] = []
        self.clock, self.fixed_s, self.row_s = Clock(), 0.0, 0.0
        self.gate: asyncio.Event | None = None
        self.together: threading.Barrier | None = None

        def called(x: list[Any]) -> list[Any]:
            rig.calls.append(list(x))
            trace = tracing.current.get(None)
            rig.traces.append("" if trace is None else trace.trace_id)
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
