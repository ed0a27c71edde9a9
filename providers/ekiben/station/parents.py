"""The parents of workers, from the station's side: `serving/parent.py` processes and the commands that they take."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import shutil
import stat
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ekiben.errors import AccessDenied, Unavailable
from ekiben.station.processes import child_env, held_mib

__all__ = ["Child", "Parent", "Parents", "scratch"]

SCRIPT = Path(__file__).parents[1] / "serving" / "parent.py"
CLOSE_S = 5.0
# Parents that have nothing to do stay while they hold no more than this together, and for so long when they hold more.
IDLE_MIB = 80.0
IDLE_S = 900.0
log = logging.getLogger("ekiben.station")


@dataclass
class Child:
    """A forked worker. `exited` is done, with its exit status (negative: the signal), when it is gone."""

    id: str
    pid: int
    exited: asyncio.Future[int]


class Parent:
    """One parent process, started on first use and again after it has died."""

    def __init__(
        self, python: Path, env: dict[str, str], log_path: Path, *, bare: bool, idle: Callable[[], None] = lambda: None
    ) -> None:
        """`idle` is called whenever it has lost its last worker, or is started without one."""
        self._idle = idle
        self._command = [str(python), "-P", str(SCRIPT), *(["--bare"] if bare else [])]
        self._env = env
        self._log_path = log_path
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self.used = 0.0
        self._forking: dict[str, asyncio.Future[int]] = {}
        self._children: dict[str, Child] = {}

    async def preload(self, modules: list[str]) -> None:
        """Have it import `modules`; returns at once."""
        async with self._lock:
            _tell(await self._running(), {"op": "import", "modules": modules})
            self._unused()

    async def fork(self, command: dict[str, Any]) -> Child:
        """Fork a worker (see serving/worker.py); returns when its socket listens. Raises Unavailable when the parent dies."""
        loop = asyncio.get_running_loop()
        name = command["id"]
        async with self._lock:
            process = await self._running()
            pid = self._forking[name] = loop.create_future()
            child = self._children[name] = Child(name, 0, loop.create_future())
            _tell(process, {"op": "start", **command})
        try:
            child.pid = await pid
            return child
        except BaseException:
            self.kill(name, 9)
            raise
        finally:
            self._forking.pop(name, None)

    def kill(self, name: str, number: int) -> None:
        """Signal a worker's process group; silent when it is gone."""
        process = self._process
        if name in self._children and process is not None and process.returncode is None:
            _tell(process, {"op": "kill", "id": name, "signal": number})

    @property
    def pid(self) -> int:
        """0 while none runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def needed(self) -> bool:
        """Has it workers?"""
        return bool(self._children)

    async def rest(self) -> None:
        """End it, unless it is needed; the next worker starts it again."""
        async with self._lock:
            if not self.needed:
                await self.close()

    async def close(self) -> None:
        """End it, and with it its workers."""
        process, reader = self._process, self._reader
        if process is None or process.stdin is None or reader is None:
            return
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), CLOSE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await reader

    async def _running(self) -> Process:
        """Its process, started when there is none. The lock is held."""
        if self._process is None or self._process.returncode is not None:
            if self._reader is not None:
                await self._reader
            with self._log_path.open("ab") as file:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=PIPE, stdout=PIPE, stderr=file, env=self._env, start_new_session=True, cwd="/"
                )
            self._reader = asyncio.create_task(self._read(self._process))
        return self._process

    def _unused(self) -> None:
        self.used = asyncio.get_running_loop().time()
        if not self.needed:
            self._idle()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            answer = json.loads(line)
            if "pid" in answer and (forking := self._forking.get(answer["id"])):
                if not forking.done():
                    forking.set_result(answer["pid"])
            elif "exited" in answer and (child := self._children.pop(answer["id"], None)):
                if not child.exited.done():
                    child.exited.set_result(answer["exited"])
                self._unused()
        await process.wait()
        for forking in self._forking.values():
            if not forking.done():
                forking.set_exception(
                    Unavailable(
                        "local",
                        "start a worker",
                        "its parent process ended",
                        f"Look at {self._log_path}, and try again",
                    )
                )
        for name in list(self._children):
            child = self._children.pop(name)
            if not child.exited.done():
                child.exited.set_result(-9)


class Parents:
    """One parent for each environment and number of threads. `scratch` is a private folder for sockets and metrics."""

    def __init__(self, state_dir: Path, *, idle_mib: float = IDLE_MIB, idle_s: float = IDLE_S) -> None:
        self._idle_mib, self._idle_s = idle_mib, idle_s
        self._timer: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None
        self.scratch = scratch(state_dir)
        # Held open, so that its number is given to no other folder while this station lives.
        self._made = os.open(self.scratch, os.O_RDONLY | os.O_DIRECTORY)
        self._log_path = state_dir / "logs" / "parents.log"
        self._log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._parents: dict[tuple[Path, int, bool], Parent] = {}

    def of(self, python: Path, vcpu: float, *, bare: bool = False) -> Parent:
        """The parent for `python`; a `bare` one imports nothing, so its workers are as good as fresh processes."""
        threads = max(1, math.floor(vcpu))
        key = (python, threads, bare)
        if key not in self._parents:
            self._parents[key] = Parent(python, self._env(threads), self._log_path, bare=bare, idle=self._idle)
        return self._parents[key]

    async def keep(self, pythons: set[Path]) -> None:
        """End the parents of all others."""
        for key in [key for key in self._parents if key[0] not in pythons]:
            await self._parents.pop(key).close()

    def _idle(self) -> None:
        """A parent has nothing to do: look in a while whether it is worth its memory."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._look)

    def _look(self) -> None:
        self._timer = None
        self._resting = asyncio.get_running_loop().create_task(self._rest())

    async def _rest(self) -> None:
        """Let parents go that nobody has needed for a while, the longest unused first, until the others hold little enough."""
        now = asyncio.get_running_loop().time()
        held = {parent: held_mib([parent.pid], 0) for parent in self._parents.values() if parent.pid}
        idle = sorted((parent for parent in held if not parent.needed), key=lambda parent: parent.used)
        for parent in idle:
            if sum(held.values()) <= self._idle_mib:
                return
            if now - parent.used < self._idle_s:
                self._idle()
                return
            log.info("a parent of workers that holds %.0f MiB has nothing to do and ends", held.pop(parent))
            await parent.rest()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._resting is not None:
            await asyncio.gather(self._resting, return_exceptions=True)
        await self.keep(set())
        with suppress(FileNotFoundError):
            # A station whose state directory was deleted by hand ends while its successor has a folder of that name.
            if os.path.samestat(os.fstat(self._made), self.scratch.stat()):
                await asyncio.to_thread(shutil.rmtree, self.scratch, True)
        os.close(self._made)

    def _env(self, threads: int) -> dict[str, str]:
        metrics = self.scratch / "parent"
        metrics.mkdir(parents=True, exist_ok=True)
        numbers = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        return child_env({
            **numbers,
            "BENTOML_HOME": str(self.scratch / "bentoml"), "BENTO_DO_NOT_TRACK": "true",
            # prometheus_client decides when it is imported whether it counts per process.
            "PROMETHEUS_MULTIPROC_DIR": str(metrics), "PYTHONUNBUFFERED": "1",
        })  # fmt: skip


def _tell(process: Process, command: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(command).encode() + b"\n")


def scratch(state_dir: Path) -> Path:
    """An empty folder of this station's own with a path short enough for unix sockets. Only the holder of the lock calls it."""
    name = f"ekiben-{os.getuid()}-{sha256(str(state_dir).encode()).hexdigest()[:8]}"
    folder = Path(tempfile.gettempdir()) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise AccessDenied(
            "local", f"use {folder}", "somebody else made it", "Remove it, or set TMPDIR to a folder of your own"
        )
    return folder
