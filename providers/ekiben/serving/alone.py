"""A bento served by itself: what `ekiben serve` becomes, in the bento's own environment.

With one worker this process is it; with several it imports what the service needs, forks them on one socket, starts another for
each that dies, and ends in order when it is told to.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import loading, worker
from .listening import refuse_newcomers

__all__ = ["main"]

BACKLOG = 1024
STILLBORN = 3
LINGER_S = 0.25


def main(given: dict[str, Any]) -> int:
    """`given`: bento, modules to import first, host and port or socket (a path), workers. Returns the exit status."""
    name = loading.about(Path(given["bento"]))["name"]
    try:
        listener, where = listening(given)
    except OSError as error:
        address = given["socket"] or f"{given['host']}:{given['port']}"
        why = error.strerror or error
        print(
            f"ekiben: cannot listen on {address}: {why}. Choose another place with --port, --host or --socket.",
            file=sys.stderr,
        )
        return 3
    folder = Path(tempfile.mkdtemp(prefix="ekiben-serve-"))
    removes = [str(folder), *([given["socket"]] if given["socket"] else [])]
    command = {"bento": given["bento"], "linger_s": LINGER_S, "metrics_dir": str(folder)}
    line = f"{name} is served at {where}"
    if given["workers"] == 1:
        worker.serve({**command, "says": f"{line} (Ctrl-C ends it)", "removes": removes}, listener)
        return 0
    try:
        return Workers(command, listener, given["workers"], line, folder).run(given["modules"])
    finally:
        worker.remove(removes)


def listening(given: dict[str, Any]) -> tuple[socket.socket, str]:
    """A socket that listens, and where it is reached. Raises OSError."""
    if path := given["socket"]:
        if _answers(path):
            raise OSError("another process listens there")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        return listener, f"unix:{path}"
    host, port = given["host"], given["port"]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    shown = f"[{host}]" if ":" in host else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


class Workers:
    """Several processes on one socket."""

    def __init__(self, command: dict[str, Any], listener: socket.socket, count: int, line: str, folder: Path) -> None:
        self.command, self.listener, self.count, self.line, self.folder = command, listener, count, line, folder
        self.pids: dict[int, int] = {}
        self.ready: set[int] = set()
        self.stillborn = 0
        self.leaving = self.said = False
        self.status = 0
        self._numbers = 0

    def run(self, modules: list[str]) -> int:
        for module in modules:
            with contextlib.suppress(ImportError):  # the worker shows it
                importlib.import_module(module)
        (self.folder / "shared").mkdir()
        gc.collect()
        gc.freeze()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.leave())
        for pid in [self.fork() for _ in range(self.count)]:
            self.wait_ready(pid)
        while self.pids:
            pid, status = os.waitpid(-1, 0)
            self.gone(pid, os.waitstatus_to_exitcode(status))
        return self.status

    def fork(self) -> int:
        self._numbers += 1
        own = self.folder / str(self._numbers)
        own.mkdir()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            shared = str(self.folder / "shared")
            self.become_worker({**self.command, "metrics_dir": str(own), "shared": shared, "ready_fd": write})
        os.close(write)
        self.pids[pid] = read
        return pid

    def become_worker(self, command: dict[str, Any]) -> None:
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            for read in self.pids.values():
                if read >= 0:
                    os.close(read)
            worker.serve(command, self.listener)
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait_ready(self, pid: int) -> None:
        """Until it answers or has ended: the first decides whether the others are worth starting."""
        if os.read(self.pids[pid], 1):
            self.ready.add(pid)
            self.stillborn = 0
            if len(self.ready) == self.count and not self.said:
                self.said = True
                print(f"{self.line} by {self.count} workers (Ctrl-C ends it)", flush=True)
        os.close(self.pids[pid])
        self.pids[pid] = -1

    def gone(self, pid: int, status: int) -> None:
        if self.pids.pop(pid, None) is None:
            return
        if self.leaving:
            return
        self.stillborn += pid not in self.ready
        self.ready.discard(pid)
        if self.stillborn >= STILLBORN or not self.said:
            print(f"ekiben: the workers do not start: the last ended with {status}. See above.", file=sys.stderr)
            self.status = status if status > 0 else 1
            self.leave()
            return
        print(f"ekiben: worker {pid} ended with {status}, and another one is started.", file=sys.stderr, flush=True)
        self.wait_ready(self.fork())

    def leave(self) -> None:
        again, self.leaving = self.leaving, True
        refuse_newcomers(self.listener)
        for pid in list(self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if again else signal.SIGTERM)
