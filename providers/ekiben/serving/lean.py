"""The lean server: one process, one thread that reads, answers and calls what is short, on uvloop where there is one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from . import tracing, watching
from .application import Application
from .exchange import Exchange, reseed
from .limits import Limits
from .listening import BACKLOG, accepted, refuse_newcomers
from .protocol import Connection
from .watching import Watch

__all__ = ["Lean", "run"]

TICK_S = 1.0
log = logging.getLogger("ekiben.serving")


class Lean:
    """Serves an application on sockets that listen already, until `stop`. What connections share is here.

    `shared`: other processes accept on the same sockets, and take whom this one does not.
    """

    def __init__(self, application: Application, *, linger_s: float = 0.0, shared: bool = False) -> None:
        self.application = application
        self.handle: Callable[[Exchange], None] = application.handle
        self.handle_traced: Callable[[Exchange], None] = partial(tracing.run, application.handle)
        self.exchange: Callable[[Connection], Exchange] = Exchange
        self.metrics, self.limits = application.metrics, application.limits
        self.context, self.watch = contextvars.copy_context(), Watch()
        self.head = b"server: BentoML Service/%s\r\n" % application.service.name.encode("latin-1", "replace")
        self.heads: dict[tuple[int, bytes], bytes] = {}
        self.connections: set[Connection] = set()
        self.draining = False
        self.now_s = time.monotonic()
        self.held_bytes = 0
        self._linger_s, self._shared = linger_s, shared
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._quiet = asyncio.Event()

    async def serve(self, listeners: list[socket.socket], ready: Callable[[], object]) -> None:
        """Start the service, call `ready`, answer until `stop`, then end in order. Raises what the service's start raises."""
        loop = asyncio.get_running_loop()
        await self.application.start()
        gc.freeze()  # what is there now stays: the collector need not look at it again and again
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        servers = []
        for listener in listeners:
            listener.setblocking(False)
            make = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            servers.append(await make(lambda: Connection(self), sock=listener.dup(), backlog=BACKLOG))
        for each in self.watch.starts:
            each()
        ready()
        await self._stopping.wait()
        await self._drain(servers, listeners)
        await self.application.stop()
        await self.watch.stop(self.limits.flush_timeout_s)

    def stop(self) -> None:
        self._stopping.set()

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        if self._timer is None:
            self._tick()

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if self.draining and not self.connections:
            self._quiet.set()

    async def _drain(self, servers: list[Any], listeners: list[socket.socket]) -> None:
        """Each answer from now on ends its connection. Who comes while we linger is answered, too."""
        loop = asyncio.get_running_loop()
        self.draining = self.application.draining = True
        if not self._shared:
            for listener in listeners:
                refuse_newcomers(listener)
        await asyncio.sleep(self._linger_s)
        for server in servers:
            server.close()
        for listener in listeners:
            for late in accepted(listener) if not self._shared else []:
                late.setblocking(False)
                await loop.connect_accepted_socket(lambda: Connection(self), late)
            listener.close()
        for connection in list(self.connections):
            connection.close_idle()
        if self.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), self.limits.drain_timeout_s)
        for connection in list(self.connections):
            connection.abort()
        for task in list(self.application.tasks):
            task.cancel()
        await asyncio.gather(*self.application.tasks, return_exceptions=True)
        self.metrics.write()

    def _tick(self) -> None:
        """Once a second while somebody is connected: end what has taken too long."""
        self.now_s = time.monotonic()
        for connection in list(self.connections):
            if 0 < connection.deadline_s < self.now_s:
                connection.expire()
        self.metrics.write()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick) if self.connections else None


def run(
    service: Any,
    listeners: list[socket.socket],
    about: dict[str, str],
    *,
    shared: Path | None = None,
    linger_s: float = 0.0,
    gateway: bool = False,
    predictions: dict[str, Any] | None = None,
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT. `shared`: where workers of one port add up their metrics; `gateway`: the only caller is one;

    `predictions`: where and how answers are logged. Raises what the service raises when it starts.
    """
    reseed()
    limits = Limits.from_environment()
    application = Application(service, about, limits.behind_gateway() if gateway else limits, shared)

    async def main() -> None:
        lean = Lean(application, linger_s=linger_s, shared=shared is not None)
        watching.install(lean, predictions)
        await lean.serve(listeners, ready)

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
