"""The process of a stand-in plugin: the engine starts it, reads its port, and speaks gRPC with it."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from typing import Any

import grpc
from pulumi.runtime.proto import provider_pb2_grpc

from ekiben.engine.orphan import when_orphaned

__all__ = ["serve"]

MESSAGE_BYTES = 400 * 1024 * 1024


def serve(program: str, plugin: Callable[[str], Any], *, threads: int = 16) -> None:
    """Serve what `plugin` makes of the engine's address until the engine ends this process, or is gone.

    `threads`: operations at a time.
    """
    parser = argparse.ArgumentParser(prog=program, description="A Pulumi plugin: the engine starts it.")
    parser.add_argument("engine", nargs="?", default="", help="the engine's address")
    known, _ = parser.parse_known_args()
    limits = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES)]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=limits)
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(plugin(known.engine), server)
    port = server.add_insecure_port("127.0.0.1:0")
    when_orphaned(lambda: os._exit(1))
    with suppress(KeyboardInterrupt):  # the engine gives it as well, and waits for its own
        server.start()
        print(port, flush=True)
        threading.Event().wait()
