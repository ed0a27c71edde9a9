"""Bentos served as workers serve them: by the lean server, and by BentoML's own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ekiben.serving
from tests.waiting import PATIENCE_S, until

PARENT = Path(ekiben.serving.__file__).with_name("parent.py")


def folder(root: Path, service: str, name: str = "Probe", files: Mapping[str, str] | None = None) -> Path:
    """A bento made by hand."""
    for path, text in {
        "bento.yaml": f"service: service:{name}\nname: probe\nversion: abc\n",
        "src/service.py": textwrap.dedent(service),
        **(files or {}),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def asked_of(
    port: int, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """What the server on `port` answers, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@dataclass
class Served:
    """A worker that serves a bento on a port of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    sockets: list[socket.socket] = field(default_factory=list)

    def send(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return asked_of(self.port, method, path, body, headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        given = {
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self.send("POST", path, json.dumps(body), given)

    def connect(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        self.sockets.append(connected)
        return connected

    def ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the worker has ended with {self.process.returncode}:\n{self.log.read_text()}")
        try:
            return self.send("GET", "/readyz").status in (200, 404)
        except OSError:
            return False


@contextlib.contextmanager
def served(
    bento: Path, root: Path, *, own: bool = False, env: Mapping[str, str] | None = None, **command: Any
) -> Iterator[Served]:
    """A worker of its own for `bento`; `own` asks for BentoML's own server."""
    root.mkdir(parents=True, exist_ok=True)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    given = {
        "command": {"bento": str(bento), "metrics_dir": str(root), **command},
        "listener": listener.fileno(),
        "lifeline": -1,
    }
    log = root / "log"
    environment = {**os.environ, "EKIBEN_SERVER": "bentoml" if own else "", **(env or {})}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", str(PARENT), "--worker", json.dumps(given)],
            pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
        )  # fmt: skip
    port = listener.getsockname()[1]
    listener.close()
    worker = Served(process, port, log)
    try:
        until(worker.ready, "the worker is ready")
        yield worker
    finally:
        for each in worker.sockets:
            each.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def ipc(table: Any, *, file: bool = False, compression: str | None = None) -> bytes:
    """A table as an Arrow stream, or a file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
