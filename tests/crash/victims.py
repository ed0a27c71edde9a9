"""Who can be killed: the processes of a project, found in /proc by what they are, and the thread that kills one of them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ekiben.station import launch
from tests.crash.plan import Point

__all__ = ["Killer", "Process", "find", "left_over", "processes"]

LOOK_S = 0.02


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    words: tuple[str, ...]
    began: int


def processes() -> Iterator[Process]:
    """Every living process."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                words = Path(entry.path, "cmdline").read_bytes().decode(errors="replace").split("\0")
                fields = Path(entry.path, "stat").read_text("utf-8").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    yield Process(int(entry.name), int(fields[1]), tuple(words), int(fields[19]))


def find(victim: str, state_dir: Path, command: int) -> list[int]:
    """The processes of that kind, oldest first, of the station or of the CLI whose pid is `command`."""
    there = sorted(processes(), key=lambda process: process.began)
    words = {process.pid: process.words for process in there}
    parents = {process.pid: process.parent for process in there}

    def below(pid: int, ancestor: int) -> bool:
        while pid and pid != ancestor:
            pid = parents.get(pid, 0)
        return pid == ancestor != 0

    def has(pid: int, text: str) -> bool:
        return any(text in word for word in words.get(pid, ()))

    station = _station(state_dir)
    runs = str(state_dir / "runs")
    is_victim: dict[str, Callable[[Process], bool]] = {
        "station": lambda p: p.pid == station,
        "parent": lambda p: p.parent == station and has(p.pid, "/serving/parent.py"),
        "worker": lambda p: has(p.parent, "/serving/parent.py") and parents.get(p.parent) == station,
        "supervisor": lambda p: has(p.pid, "ekiben.station.runner") and has(p.pid, runs),
        "node": lambda p: has(p.parent, "ekiben.station.runner") and has(p.parent, runs) and has(p.pid, "train.py"),
        "call": lambda p: has(p.pid, "/station/handler.py") and has(p.pid, str(state_dir)),
        "command": lambda p: p.pid == command,
        "engine": lambda p: p.words[0].endswith("/pulumi") and p.parent == command,
        "plugin": lambda p: has(p.pid, "ekiben.engine.plugin") and below(p.pid, command),
        "language": lambda p: has(p.pid, "ekiben.engine.language_host") and below(p.pid, command),
        "program": lambda p: has(p.pid, "pulumi-language-python-exec") and below(p.pid, command),
    }
    return [process.pid for process in there if is_victim[victim](process)]


def left_over(root: Path) -> list[str]:
    """The processes that name the project's folder in their command line or their environment, but this one."""
    found = []
    for process in processes():
        with suppress(OSError):
            told = "\0".join(process.words).encode() + Path(f"/proc/{process.pid}/environ").read_bytes()
            if str(root / ".ekiben").encode() in told and process.pid != os.getpid():
                found.append(" ".join(process.words)[:200])
    return found


def _station(state_dir: Path) -> int:
    with suppress(OSError, ValueError):
        if launch.running(state_dir):
            return int((state_dir / "station.lock").read_text("ascii"))
    return -1


class Killer(threading.Thread):
    """Waits for the moment of a point, kills, and remembers it. `command` is asked for the pid of the CLI that runs now; `moment`,
    where it is given, whether this is it.
    """

    def __init__(
        self, point: Point, state_dir: Path, checkpoint: Path, command: Callable[[], int],
        moment: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self.point, self.state_dir, self.checkpoint = point, state_dir, checkpoint
        self.command, self.moment = command, moment
        self.struck = 0
        self._over = threading.Event()

    def run(self) -> None:
        self._wait(self.moment or (self._changed() if self.point.making else self._victim))
        self._over.wait(self.point.delay_s)
        while not self._over.is_set():
            if pid := self._victim():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.struck = pid
                    return
            self._over.wait(LOOK_S)

    def give_up(self) -> None:
        self._over.set()
        self.join()

    def _victim(self) -> int:
        there = find(self.point.victim, self.state_dir, self.command())
        return there[self.point.number % len(there)] if there else 0

    def _changed(self) -> Callable[[], bool]:
        """Has an engine changed the state since the first one of this phase was seen?"""
        before: list[int] = []

        def look() -> bool:
            if not before and find("engine", self.state_dir, self.command()):
                before.append(self._written())
            return bool(before) and self._written() != before[0]

        return look

    def _written(self) -> int:
        try:
            return self.checkpoint.stat().st_mtime_ns
        except OSError:
            return 0

    def _wait(self, true: Callable[[], object]) -> None:
        while not self._over.is_set() and not true():
            time.sleep(LOOK_S)
