"""The ceiling: our own HTTP server with nothing behind it, which sends a request's body back. echo.py PORT."""

from __future__ import annotations

import socket
import sys

from ekiben.serving import lean
from ekiben.serving.exchange import JSON, Exchange
from ekiben.serving.limits import Limits
from ekiben.serving.standin.services import service


@service(name="echo")
class Nothing:
    """No routes."""


class Echo(lean.Application):
    def handle(self, exchange: Exchange) -> None:
        self.metrics.in_progress += 1
        exchange.endpoint = "/"
        exchange.answer(200, JSON, bytes(exchange.body))


async def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        server = lean.Lean(Echo(Nothing, {}, Limits.from_environment()))
        await server.serve([listener], lambda: None)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
