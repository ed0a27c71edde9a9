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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import forked, loading
from .listening import refuse_newcomers

__all__ = ["main"]

STILLBORN = 3
LINGER_S = 0.25
TOLD = (signal.SIGTERM, signal.SIGINT)


def main(given: dict[str, Any]) -> int:
    """`given`: bento, modules to import first, host and port or socket (a path), workers, predictions, lambda.

    `lambda` is the address of Lambda's Runtime API; where there is one, calls come from there, and nothing else is listened to.
    Returns the exit status.
    """
    name = loading.about(Path(given["bento"]))["name"]
    folder = Path(tempfile.mkdtemp(prefix="ekiben-serve-"))
    try:
        if given["lambda"]:
            given = {**given, "socket": str(folder / "socket")}
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
        try:
            return Workers(given, listener, f"{name} is served at {where}", folder).run(given["modules"])
        finally:
            if given["socket"]:
                Path(given["socket"]).unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    """One process or several on one socket, and on Lambda one more that brings them their calls."""

    def __init__(self, given: dict[str, Any], listener: socket.socket, line: str, folder: Path) -> None:
        self.bento, self.count, self.path, self.api = given["bento"], given["workers"], given["socket"], given["lambda"]
        self.listener, self.line, self.folder = listener, line, folder
        self.pids: dict[int, Path] = {}
        self.starting: dict[int, int] = {}
        self.ready: set[int] = set()
        self.predictions: dict[str, Any] | None = given.get("predictions")
        self.bringer = 0
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
        pids = [self.start() for _ in range(self.count)]
        if self.api:
            self.listener.listen()  # for none but the one that is forked here: it waits for the worker
            self.bringer = self.fork(self.bring)
        for pid in pids:
            self.wait_ready(pid)
        while self.pids or self.bringer:
            self.gone(*self.ended())
        return self.status

    def ended(self) -> tuple[int, int]:
        """The number and exit status of the next child that ends."""
        # Blocked between the look and the wait: a signal that comes there would not be seen before a child ends by itself.
        awaited = {signal.SIGCHLD, *TOLD}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    return pid, os.waitstatus_to_exitcode(status)
                if signal.sigwait(awaited) in TOLD:
                    self.leave()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)

    def fork(self, run: Callable[[], object], started: Callable[[int], object] = lambda pid: None) -> int:
        """The number of a child that runs `run`; 0 when there is none to be started any more."""
        # A child must not be told to end before it can be told, nor act as its parent does.
        signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)
        try:
            if self.leaving:
                return 0
            pid = os.fork()
            if pid == 0:
                forked.run_and_end(lambda: self.child(run))
            started(pid)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)

    def child(self, run: Callable[[], object]) -> None:
        for number in TOLD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)
        for read in (*self.starting.values(), self._held_open):
            os.close(read)
        forked.die_with_parent(self.lifeline, group=False)
        run()

    def start(self) -> int:
        """Start a worker; its number, or 0."""
        self._numbers += 1
        own = self.folder / str(self._numbers)
        own.mkdir()
        command: dict[str, Any] = {
            "bento": self.bento,
            "linger_s": 0.0 if self.api else LINGER_S,
            "predictions": self.predictions,
            "metrics_dir": str(own),
        }
        if self.count > 1:
            command["shared"] = str(self.folder / "shared")
        read, write = os.pipe()

        def work() -> None:
            os.close(read)
            from . import worker

            worker.serve({**command, "ready_fd": write}, self.listener, lifeline=self.lifeline)

        def started(pid: int) -> None:
            self.pids[pid], self.starting[pid] = own, read

        pid = self.fork(work, started)
        os.close(write)
        if not pid:
            os.close(read)
        return pid

    def bring(self) -> None:
        from . import lambda_runtime

        self.listener.close()
        lambda_runtime.run(self.api, self.path)

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
        if pid == self.bringer:
            self.bringer = 0
            if self.leaving:
                self.end(signal.SIGTERM)
            else:
                self.status = 1
                self.leave()
            return
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
            self.failed(status)
            self.leave()
            return
        print(f"ekiben: worker {pid} ended with {status}, and another one is started.", file=sys.stderr, flush=True)
        self.wait_ready(self.start())

    def failed(self, status: int) -> None:
        """Lambda is told at once; whatever waits for the worker waits in vain."""
        if self.bringer:
            os.kill(self.bringer, signal.SIGKILL)
            from . import lambda_runtime

            lambda_runtime.init_failed(self.api, f"The service does not start: its worker ended with {status}.")

    def leave(self) -> None:
        """End in order; when it is asked for a second time, at once."""
        again, self.leaving = self.leaving, True
        if not again:
            refuse_newcomers(self.listener)
            self.listener.close()
        self.end(signal.SIGKILL if again else signal.SIGTERM)

    def end(self, number: int) -> None:
        first = [self.bringer] if self.bringer else []  # its last call is to be answered
        for pid in first if first and number == signal.SIGTERM else [*first, *self.pids]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
