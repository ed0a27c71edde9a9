"""`python -m ekiben.emulators.kubernetes.keeper STATE BIN`: the process on this machine that the cluster's life hangs on.

It holds the lock of the state folder, starts the first process of the cluster's namespaces, joins their network to this machine's,
and, when it is asked to end or that process has ended, takes away what remains. Killed itself, it takes the cluster with it: the
first process hears that its input has ended, and the kernel kills it besides.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from ekiben import daemon
from ekiben.emulators.kubernetes import images, machine, parts
from ekiben.emulators.kubernetes.layout import ABOUT, LOCK, LOG, READY, REGISTRY, SERVER, Layout
from ekiben.errors import AlreadyExists, EkibenError, Unavailable

__all__ = ["main", "serve"]

END_S = 20.0
LOOK_S = 1.0
logger = logging.getLogger("ekiben.emulators.kubernetes")


def main(at: Layout) -> int:
    """Detach, and return when the cluster answers; the exit status says whether it does."""
    return daemon.detached(lambda ready: serve(at, ready), at.state / LOG, logger)


def serve(at: Layout, ready: Callable[[], None]) -> int:
    lock = daemon.locked(
        at.state / LOCK, lambda pid: AlreadyExists(machine.PROVIDER, "start the cluster", f"process {pid} runs it")
    )
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    (at.state / ABOUT).unlink(missing_ok=True)
    machine.sweep()
    parts.keys(at)
    machine.make_groups()
    node = _node(at)
    try:
        threading.Thread(target=_watch, args=(node, at, ready, ended), daemon=True).start()
        # A signal that comes just before a wait is seen after it.
        while not ended.wait(LOOK_S):
            pass
    finally:
        (at.state / ABOUT).unlink(missing_ok=True)
        _end(node)
        machine.sweep()
        lock.close()
    return 0


def _watch(node: subprocess.Popen[str], at: Layout, ready: Callable[[], None], ended: threading.Event) -> None:
    """Tell when it is ready; and that it has ended."""
    assert node.stdout is not None
    try:
        pid = int(node.stdout.readline())  # of the first process, as it is numbered here
        machine.routes(pid)
        for line in node.stdout:
            if line.strip() == READY:
                for image in images.ensure(logger.info):
                    images.push(REGISTRY, image)
                about = {"pid": os.getpid(), "server": SERVER, "born": uuid.uuid4().hex}
                fresh = at.state / f".{ABOUT}"
                fresh.write_text(json.dumps(about), "utf-8")
                fresh.replace(at.state / ABOUT)
                ready()
    except (EkibenError, OSError, ValueError, subprocess.SubprocessError):
        logger.exception("the cluster does not start")
    finally:
        ended.set()


def _node(at: Layout) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "ekiben.emulators.kubernetes.node", str(at.state), str(at.bin)]
    try:
        return subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child=KILL", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env=parts.environment(at), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Unavailable(machine.PROVIDER, "start the cluster", str(error)) from error


def _end(node: subprocess.Popen[str]) -> None:
    """Close its input, wait a moment, and kill it; with it goes all that is in its namespaces."""
    assert node.stdin is not None
    node.stdin.close()
    try:
        node.wait(END_S)
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()


if __name__ == "__main__":
    sys.exit(main(Layout(Path(sys.argv[1]), Path(sys.argv[2]))))
