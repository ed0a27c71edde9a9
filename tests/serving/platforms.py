"""What the tests of platforms share: the real command, with the environment and the file system that a platform gives it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import PATIENCE_S, until

from .conftest import Answer, asked_of

EKIBEN = Path(sys.executable).with_name("ekiben")
SERVICE = """
import os
import time
from pathlib import Path

import bentoml
import numpy as np

@bentoml.service
class Probe:
    def __init__(self) -> None:
        while os.environ.get("HELD_BY") and Path(os.environ["HELD_BY"]).exists():
            time.sleep(0.01)

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        return 2 * x

    @bentoml.api
    def slow(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @bentoml.api
    def attributes(self, context: bentoml.Context) -> str:
        name = "x-amzn-sagemaker-custom-attributes"
        given = context.request.headers.get(name, "")
        context.response.headers[name] = given
        return given
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Container:
    """A running `ekiben serve`, and how a platform talks to it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    lost: list[str] = field(default_factory=list)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return asked_of(self.port, method, path, body, headers)

    def connects(self) -> bool:
        """A probe of the port alone."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def probe(self, path: str) -> int:
        """The status at `path`; 0 when nobody answers."""
        assert self.process.poll() is None, self.said()
        try:
            return self.send("GET", path).status
        except OSError:
            return 0

    def ready(self, path: str = "/readyz") -> None:
        until(lambda: self.probe(path) == 200, path)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def container(
    tmp_path: Path, *arguments: str, env: Mapping[str, str], command: Sequence[str] = (), port: int = 0
) -> Iterator[Container]:
    """`ekiben serve` with nothing in its environment but what the platform sets. `command` goes before it."""
    log = tmp_path / "container.log"
    given = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), **env}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, str(EKIBEN), "serve", *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=given
        )
    running = Container(process, port or int(given.get("PORT", 0)), log)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def sealed(writable: Path, *more: str) -> list[str]:
    """What makes the file system read-only but for `writable`, for the command behind it. `more` is run before that."""
    quoted = shlex.quote(str(writable))
    steps = [f"mount --bind {quoted} {quoted}", *more, "mount -o remount,ro,bind /", 'exec "$@"']
    return ["unshare", "-rm", "sh", "-ec", " && ".join(steps), "sealed"]


@functools.cache
def why_not_sealed() -> str:
    """Why this machine cannot make a file system read-only for one process; empty when it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    folder = Path("/tmp")
    done = subprocess.run([*sealed(folder), "true"], capture_output=True, text=True)
    return f"unshare: {done.stderr.strip()}" if done.returncode else ""


class Load:
    """Callers, each with a connection that it keeps, until nobody listens any more. What was not answered is in `lost`."""

    def __init__(self, running: Container, path: str, body: bytes, callers: int = 4) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self._running, self._path, self._body = running, path, body
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        for each in self._threads:
            each.start()

    def _call(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while True:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._running.port, timeout=PATIENCE_S)
                    connection.connect()
            except OSError:
                return
            try:
                connection.request("POST", self._path, self._body, {"content-type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.lost.append(f"status {answer.status}")
                self.answered += 1
                if answer.getheader("connection") == "close":
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection = None

    def join(self) -> None:
        for each in self._threads:
            each.join(PATIENCE_S)
