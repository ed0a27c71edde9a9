"""The processes that run a bento for a batch: one that imports, and the workers forked from it, each with one batch at a time."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ekiben.batch import wire
from ekiben.batch.models import cores
from ekiben.errors import ModelFailed
from ekiben.station.bentos import Plan
from ekiben.station.processes import child_env

__all__ = ["BatchFailed", "Crew"]

SCRIPT = Path(__file__).with_name("worker.py")
START_S = 900.0
CLOSE_S = 5.0
TAIL_BYTES = 4000


class BatchFailed(Exception):
    """The model raised, or its worker died, on this batch; a part of it may do."""


class Crew:
    """`count` workers of one bento. Used as a context manager; `call` may be called from as many threads as there are workers."""

    def __init__(self, plan: Plan, route: str, count: int, *, timeout_s: float) -> None:
        self._plan, self._route, self._count, self._timeout_s = plan, route, count, timeout_s
        self._lock = threading.Lock()
        self.start_s = 0.0
        self._idle: queue.SimpleQueue[tuple[int, socket.socket] | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        """Start them, in `start_s` seconds. Raises ModelFailed, with the reason, when the service cannot be imported or made."""
        begun = time.monotonic()
        self._scratch = tempfile.TemporaryDirectory(prefix="ekiben-batch-", ignore_cleanup_errors=True)
        self._log_path = Path(self._scratch.name) / "log"
        self._control, theirs = socket.socketpair()
        threads = str(max(1, cores() // self._count))
        numbers = {name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        own = {
            "BENTOML_HOME": f"{self._scratch.name}/bentoml",
            "BENTO_DO_NOT_TRACK": "true",
            "TMPDIR": self._scratch.name,
        }
        with theirs, self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(self._plan.python), "-P", str(SCRIPT), str(self._plan.bento), str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=child_env({**numbers, **own}),
                pass_fds=[theirs.fileno()], start_new_session=True, cwd="/",
            )  # fmt: skip
        try:
            self._ready(self._control)
            for _ in range(self._count):
                self._idle.put(self._fork())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.start_s = time.monotonic() - begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control.close()
        with suppress(queue.Empty):
            while True:
                if idle := self._idle.get_nowait():
                    idle[1].close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._scratch.cleanup()

    def call(self, header: dict[str, Any], buffers: Sequence[Any]) -> tuple[dict[str, Any], list[bytearray]]:
        """The answer to one batch. Raises BatchFailed, or ModelFailed when no part of the batch would fare better."""
        taken, after = self._idle.get(), None
        try:
            if taken is None:
                raise ModelFailed("The workers have ended.", tail=self._tail())
            pid, channel = taken
            try:
                wire.send(channel, header, buffers)
                answer, out = wire.receive(channel)
                after = taken
            except TimeoutError as error:
                channel.close()
                self._buried(pid, kill=True)
                raise ModelFailed(
                    f"The model has not answered a batch within {self._timeout_s:g} s. Give it fewer rows at once "
                    "(--batch-rows), or more time (--timeout-s).", tail=self._tail(),
                ) from error  # fmt: skip
            except (EOFError, OSError) as error:
                channel.close()
                how = self._buried(pid, kill=False)
                after = self._fork()
                raise BatchFailed(how) from error
        finally:
            # Nobody waits for a worker that will not come: None says that there is none.
            self._idle.put(after)
        if "error" not in answer:
            return answer, out
        if answer.get("wrong"):
            raise ModelFailed(f"The route {self._route!r} cannot be used for batches: {answer['error']}.")
        raise BatchFailed(answer["error"])

    def _buried(self, pid: int, *, kill: bool) -> str:
        """How a worker ended; waits for it."""
        with self._lock:
            status = self._ask(b"w", {"wait": pid, "kill": kill})["status"]
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return f"its worker died {how}"

    def _fork(self) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            pid = self._ask(b"f", {"fork": self._route}, theirs)["pid"]
        ours.settimeout(START_S)
        self._ready(ours)
        ours.settimeout(self._timeout_s)
        return pid, ours

    def _ask(self, word: bytes, command: dict[str, Any], handle: socket.socket | None = None) -> dict[str, Any]:
        try:
            socket.send_fds(self._control, [word], [handle.fileno()] if handle else [])
            wire.send(self._control, command)
            return wire.receive(self._control)[0]
        except (EOFError, OSError) as error:
            raise ModelFailed("The process that imports the service has died.", tail=self._tail()) from error

    def _ready(self, channel: socket.socket) -> None:
        try:
            said, _ = wire.receive(channel)
        except (EOFError, OSError) as error:
            raise ModelFailed("The service of the bento cannot be started.", tail=self._tail()) from error
        if "error" in said:
            raise ModelFailed(f"The service of the bento cannot be started: {said['error']}.", tail=said["trace"])

    def _tail(self) -> str:
        with suppress(OSError), self._log_path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
        return ""
