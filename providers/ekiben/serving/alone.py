"""A bento served by itself: what `ekiben serve` becomes, in the bento's own environment.

This process forks the workers on one socket, starts another for each that dies, and ends in order when it is told to. It imports
next to nothing itself, so that one worker starts no later than it would alone; for several it imports what they share.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import forked, loading
from .listening import refuse_newcomers

__all__ = ["main"]

STILLBORN = 3
LINGER_S = 0.25
TOLD = (signal.SIGTERM, signal.SIGINT)


def main(given: dict[str, Any]) -> int:
    """`given`: bento, modules to import first, host and port or socket (a path), workers. Returns the exit status."""
    name = loading.about(Path(given["bento"]))["name"]
    try:
        listener, where = bound(given)
    except OSError as error:
        address = given["socket"] or f"{given['host']}:{given['port']}"
        why = error.strerror or error
        print(
            f"ekiben: cannot listen on {address}: {why}. Choose another place with --port, --host or --socket.",
            file=sys.stderr,
        )
        return 3
    folder = Path(tempfile.mkdtemp(prefix="ekiben-serve-"))
    command = {"bento": given["bento"], "linger_s": LINGER_S}
    try:
        return Workers(command, listener, given["workers"], f"{name} is served at {where}", folder).run(
            given["modules"]
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if given["socket"]:
            Path(given["socket"]).unlink(missing_ok=True)


def bound(given: dict[str, Any]) -> tuple[socket.socket, str]:
    """A socket that has its address, and where it is reached. Raises OSError.

    It listens as soon as a worker can answer, not before: a platform may take a port that can be connected to for a ready server.
    """
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
        return listener, f"unix:{path}"
    host, port = given["host"], given["port"]
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
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
    """One process or several on one socket."""

    def __init__(self, command: dict[str, Any], listener: socket.socket, count: int, line: str, folder: Path) -> None:
        self.command, self.listener, self.count, self.line, self.folder = command, listener, count, line, folder
        self.pids: dict[int, Path] = {}
        self.starting: dict[int, int] = {}
        self.ready: set[int] = set()
        self.stillborn = 0
        self.leaving = self.said = False
        self.status = 0
        self.lifeline, self._held_open = os.pipe()
        self._numbers = 0

    def run(self, modules: list[str]) -> int:
        for number in TOLD:
            signal.signal(number, lambda *_: self.leave())
        if self.count > 1:
            (self.folder / "shared").mkdir()
            for module in modules:
                with contextlib.suppress(ImportError):  # the worker shows it
                    importlib.import_module(module)
            gc.collect()
            gc.freeze()
        for pid in [self.fork() for _ in range(self.count)]:
            self.wait_ready(pid)
        while self.pids:
            pid, status = os.waitpid(-1, 0)
            self.gone(pid, os.waitstatus_to_exitcode(status))
        return self.status

    def fork(self) -> int:
        """Start a worker; its number, or 0 when there is no more to be started."""
        self._numbers += 1
        own = self.folder / str(self._numbers)
        own.mkdir()
        # A child must not be told to end before it can be told, nor act as its parent does.
        signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)
        if self.leaving:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
            return 0
        read, write = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                forked.run_and_end(lambda: self.work(own, write))
            self.pids[pid], self.starting[pid] = own, read
            return pid
        finally:
            os.close(write)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)

    def work(self, own: Path, ready_fd: int) -> None:
        for number in TOLD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
        for read in (*self.starting.values(), self._held_open):
            os.close(read)
        forked.die_with_parent(self.lifeline, group=False)
        from . import worker

        several = {"shared": str(self.folder / "shared")} if self.count > 1 else {}
        command = {**self.command, **several, "metrics_dir": str(own), "ready_fd": ready_fd}
        worker.serve(command, self.listener, lifeline=self.lifeline)

    def wait_ready(self, pid: int) -> None:
        """Until it answers or has ended: the first decides whether the others are worth starting."""
        if not pid:
            return
        if os.read(self.starting[pid], 1):
            self.ready.add(pid)
            self.stillborn = 0
            if len(self.ready) == self.count and not self.said:
                self.said = True
                by = f" by {self.count} workers" if self.count > 1 else ""
                print(f"{self.line}{by} (Ctrl-C ends it)", flush=True)
        os.close(self.starting.pop(pid))

    def gone(self, pid: int, status: int) -> None:
        own = self.pids.pop(pid, None)
        if own is None:  # as process 1 of a container this one is the parent of all who lose theirs
            return
        shutil.rmtree(own, ignore_errors=True)
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
        if not again:
            refuse_newcomers(self.listener)
            self.listener.close()
        for pid in list(self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if again else signal.SIGTERM)
