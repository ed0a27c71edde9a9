"""One call of a function: its own process and process group, a time limit, a memory limit, its output in the function's log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.records import Event, now
from ekiben.station import processes
from ekiben.station.output import Pump

__all__ = ["MARK", "Log", "Outcome", "call"]

# In the environment of every process of a call, so that the next station finds what a dead one left.
MARK = "EKIBEN_DELIVERY"
TICK_S = 0.2
GRACE_S = 3.0
LOG_BYTES = 4 * 1024 * 1024
PRINTED_BYTES = 1024 * 1024
RESULT_BYTES = 4 * 1024 * 1024


class Log:
    """A function's log: lines with their time and delivery. Of two files the older is dropped as the newer is full.

    A full disk costs lines, never a call: how much was lost is told as soon as there is room.
    """

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._lost_bytes = 0

    def write(self, delivery: str, text: str) -> None:
        """Add a line."""
        self.add(delivery, f"{text}\n".encode(errors="replace"))

    def add(self, delivery: str, block: bytes) -> None:
        """Add lines, each with its newline."""
        with self._lock:
            mark = f"{now()} {delivery} ".encode()
            lines = mark + block[:-1].replace(b"\n", b"\n" + mark) + b"\n"
            if self._lost_bytes:
                said = b"ekiben: the disk was full, and %d bytes of the log are lost here\n" % self._lost_bytes
                lines = b"\n" + mark + said + lines
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab", buffering=0) as file:
                    self._lost_bytes = len(lines) - file.write(lines)
                    full = file.tell() > self._limit_bytes
                if full:
                    os.replace(self.path, self._older)
            except OSError:
                self._lost_bytes += len(block)

    def read(self) -> str:
        """All of it, oldest first."""
        with self._lock:
            parts = [path.read_bytes() for path in (self._older, self.path) if path.exists()]
        return b"".join(parts).decode(errors="replace")

    def tail(self, delivery: str, lines: int = 20) -> str:
        """The last lines that a delivery wrote, without time and delivery."""
        mine = [line.split(" ", 2)[2] for line in self.read().splitlines() if line.split(" ", 2)[1:2] == [delivery]]
        return "\n".join(mine[-lines:])

    @property
    def _older(self) -> Path:
        return self.path.with_name(self.path.name + ".1")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call came to: `error` is empty when it succeeded."""

    result: Any = None
    error: str = ""


async def call(
    *,
    python: Path,
    bundle: Path,
    folder: Path,
    delivery: str,
    event: Event,
    env: Mapping[str, str],
    timeout_s: float,
    memory_mib: int,
    log: Log,
) -> Outcome:
    """Run the bundle's handler on `event`, and wait for it; when this returns, no process of it is left. `folder` is scratch."""
    result = folder / f"{delivery}.json"
    result.unlink(missing_ok=True)
    child_env = processes.child_env({**env, MARK: delivery, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"})
    read, printed = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            str(python), "-P", str(Path(__file__).with_name("handler.py")), str(bundle), str(result),
            cwd=bundle, env=child_env, start_new_session=True,
            stdin=asyncio.subprocess.PIPE, stdout=printed, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(printed)
    assert process.stdin is not None
    processes.spare_the_host(process.pid)
    pump = Pump(read, lambda block: log.add(delivery, block), PRINTED_BYTES)
    try:
        process.stdin.write(event.to_json().encode() + b"\n")
        stopped = await _watch(process, timeout_s, memory_mib)
    finally:
        # After the main process, too: what it started has no one to answer to.
        await asyncio.to_thread(_end, process.pid, delivery)
        await process.wait()
        process.stdin.close()
        await asyncio.to_thread(pump.join, GRACE_S)
    outcome = Outcome(error=stopped) if stopped else await asyncio.to_thread(_read, result, process.returncode or 0)
    if outcome.error:
        await asyncio.to_thread(log.write, delivery, f"failed: {outcome.error}")
    return outcome


def _end(pid: int, delivery: str) -> None:
    processes.end(pid)
    processes.kill_marked(MARK, delivery)


async def _watch(process: asyncio.subprocess.Process, timeout_s: float, memory_mib: int) -> str:
    """Wait until the process has ended, or end it. Returns why it was ended."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        left_s = deadline - loop.time()
        if left_s <= 0:
            processes.end(process.pid, signal.SIGTERM)
            await _ended(process, GRACE_S)
            return f"it ran past its time limit of {timeout_s:g} s"
        if await _ended(process, min(TICK_S, left_s)):
            return ""
        held = await asyncio.to_thread(_held_mib, process.pid, memory_mib)
        if held > memory_mib:
            processes.end(process.pid)
            return f"it went over its memory limit of {memory_mib} MiB (it held {held:.0f} MiB)"


def _held_mib(pid: int, limit_mib: int) -> float:
    return processes.held_mib(processes.descendants(pid), limit_mib)


async def _ended(process: asyncio.subprocess.Process, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), within_s)
    return process.returncode is not None


def _read(result: Path, status: int) -> Outcome:
    try:
        if result.stat().st_size > RESULT_BYTES:
            return Outcome(error=f"its result has more than {RESULT_BYTES} bytes as JSON")
        answer = json.loads(result.read_bytes())
        result.unlink()
    except (OSError, ValueError):
        return Outcome(error=_status(status))
    return Outcome(result=answer.get("result"), error=str(answer.get("error", "")))


def _status(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        why = ", perhaps for lack of memory" if status == -signal.SIGKILL else ""
        return f"its process was ended by {name}{why}"
    return f"its process ended with status {status} and left no result"
