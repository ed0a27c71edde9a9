"""`python -I -m ekiben.emulators.warden FD COMMAND...`: run a command that ends, with all that it started, when its owner does.

FD is the reading end of a pipe that only the owner writes to. A byte on it asks the command to end: SIGTERM to it alone, as in a
container. Its end, which the owner's death brings too, kills the command with all that it started. What the command leaves behind
is killed. Exits as the command does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ekiben.station import processes

__all__ = ["Ward"]


class Ward:
    """A command under a warden. `output`: a file to append what it prints to."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: IO[bytes]) -> None:
        reader, self._writer = os.pipe()
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "ekiben.emulators.warden", str(reader), *command],
                env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                pass_fds=(reader,), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(self._writer)
            raise
        finally:
            os.close(reader)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status, 128 and the signal's number where one ended it; None while it still runs."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def held_mib(self, limit_mib: float) -> float:
        """The memory that it and all that it has started hold, as the station counts it."""
        return processes.held_mib(processes.descendants(self._process.pid) - {self._process.pid}, limit_mib)

    def ask_to_end(self) -> None:
        with self._lock, suppress(OSError):
            if self._writer >= 0:
                os.write(self._writer, b"x")

    def kill(self) -> None:
        """End it, and return when all of it is gone."""
        with self._lock:
            if self._writer >= 0:
                os.close(self._writer)
                self._writer = -1
        self._process.wait()


def main(fd: int, command: list[str]) -> int:
    os.set_inheritable(fd, False)
    processes.adopt_orphans()
    try:
        child = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def obey() -> None:
        while os.read(fd, 1):
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
        processes.end(child.pid)
        _end_the_rest()
        os._exit(128 + signal.SIGKILL)

    killer = threading.Thread(target=obey, daemon=True)
    killer.start()
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    except ChildProcessError:
        killer.join()  # it has waited for the child that it killed, and ends this process
        raise
    processes.end(child.pid)
    _end_the_rest()
    return code if code >= 0 else 128 - code


def _end_the_rest() -> None:
    """Kill what the command has left behind; what is killed may have had children that come to us."""
    while others := processes.descendants(os.getpid()) - {os.getpid()}:
        for pid in others:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
