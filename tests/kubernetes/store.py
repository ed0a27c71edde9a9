"""An S3-compatible store in this process: moto's server, one request at a time, as a store that keeps its word is."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import ThreadedMotoServer

from ekiben.kubernetes.s3 import Store


@contextmanager
def serving(address: str = "127.0.0.1") -> Iterator[str]:
    """The store's URL, at an address of this machine."""
    server = ThreadedMotoServer(address, 0, verbose=False)
    server.start()
    assert server._server is not None
    app, lock = server._server.app, threading.Lock()

    def locked(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with lock:
            return list(app(environ, start_response))

    server._server.app = locked
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def bucket(url: str) -> str:
    """A fresh bucket, as s3://NAME."""
    name = f"lake-{uuid.uuid4().hex[:12]}"
    client(url)._asked("PUT", f"s3://{name}")
    return f"s3://{name}"


def client(url: str) -> Store:
    return Store(url, "testing", "not-a-secret", "us-east-1")
