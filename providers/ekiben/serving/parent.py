"""The parent of workers: it imports what bentos need, once, and forks a worker for each command. One per locked environment.

Run by path: `python -P parent.py`; what else is in this folder is then the package `_ekiben_serving`. It imports and does nothing
else: a child that is forked after OpenMP or ONNX Runtime code has run in the parent hangs.

Commands come as JSON lines on stdin, answers go as JSON lines to stdout:

    {"op": "import", "modules": [...]}
    {"op": "start", "id": ..., "modules": [...], "socket": path, "log": path, ...}   ->  {"id": ..., "pid": ...}
    {"op": "kill", "id": ..., "signal": 15}
                                                                                     ->  {"id": ..., "exited": status}

A worker's socket listens before its "pid" is told, so who connects then waits until the worker answers, or sees it die.
When stdin ends the workers are killed; when the parent is killed they notice, by a pipe that only it holds open, and end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

BACKLOG = 1024
PACKAGE = "_ekiben_serving"


class Parent:
    def __init__(self) -> None:
        self.pids: dict[int, str] = {}
        self.lifeline, self._held_open = os.pipe()
        self.woken, self._wake = os.pipe()
        self._forked, self._loading = beside("forked"), beside("loading")

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, lambda number, frame: self.reap())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for end in (self.woken, self._wake):
            os.set_blocking(end, False)
        # A child that ends just before the wait would not be seen before the next command: the pipe ends the wait.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        rest = b""
        while True:
            ready, _, _ = select.select([0, self.woken], [], [])
            if self.woken in ready:
                os.read(self.woken, 65536)
            if 0 not in ready:
                continue
            if not (chunk := os.read(0, 65536)):
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.obey(json.loads(line))
        for pid in list(self.pids):
            os.killpg(pid, signal.SIGKILL)

    def obey(self, command: dict[str, Any]) -> None:
        if command["op"] == "kill":
            for pid, name in list(self.pids.items()):
                if name == command["id"]:
                    os.killpg(pid, command["signal"])
            return
        load(command["modules"])
        if command["op"] == "start":
            self.start(command)

    def start(self, command: dict[str, Any]) -> None:
        self._loading.compile_ahead(Path(command["bento"]))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(command["socket"])
        listener.listen(BACKLOG)
        gc.collect()
        gc.freeze()
        # A child that dies at once must not be told dead before it was told alive.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            self.become_worker(command, listener)
        listener.close()
        with contextlib.suppress(OSError):  # the child may have done it
            os.setpgid(pid, pid)
        self.pids[pid] = command["id"]
        tell({"id": command["id"], "pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def become_worker(self, command: dict[str, Any], listener: socket.socket) -> None:
        def work() -> None:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            nothing = os.open(os.devnull, os.O_RDWR)
            log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for source, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            for end in (self._held_open, self.woken, self._wake):
                os.close(end)
            self._forked.die_with_parent(self.lifeline, group=True)
            beside("worker").serve({**command, "gateway": True}, listener, lifeline=self.lifeline)

        self._forked.run_and_end(work)

    def reap(self) -> None:
        while self.pids:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.pids:
                tell({"id": self.pids.pop(pid), "exited": os.waitstatus_to_exitcode(status)})


def load(modules: list[str]) -> None:
    """Import; what cannot be imported is the worker's to report, where the service's author sees it."""
    for module in modules:
        if module not in sys.modules:
            try:
                importlib.import_module(module)
            except BaseException as error:
                print(f"parent: {module} cannot be imported: {error}", file=sys.stderr, flush=True)


def beside(name: str) -> Any:
    """The module `name` in this folder, without putting the folder on the path of what it runs."""
    return importlib.import_module(f"{PACKAGE}.{name}")


def make_package() -> None:
    """Make the modules in this folder importable, and no others."""
    here = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(PACKAGE, here / "__init__.py", submodule_search_locations=[str(here)])
    assert spec is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


def worker_anew(given: dict[str, Any]) -> None:
    """A worker that runs itself again, with the sockets that it had."""
    if given["lifeline"] >= 0:
        beside("forked").die_with_parent(given["lifeline"], group=given["command"].get("gateway", False))
    listener = socket.socket(fileno=given["listener"])
    beside("worker").serve(given["command"], listener, lifeline=given["lifeline"])


def tell(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    make_package()
    if "--worker" in sys.argv:
        worker_anew(json.loads(sys.argv[-1]))
    elif "--alone" in sys.argv:
        sys.exit(beside("alone").main(json.loads(sys.argv[-1])))
    else:
        Parent().serve()
