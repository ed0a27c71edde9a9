"""`python -m ekiben.emulators.kubernetes.node STATE BIN`: the first process of the cluster's namespaces.

It mounts what is private, waits for its network device, starts the parts and starts them again when they end, answers names, and
provides volumes. It ends when its standard input does, which its keeper holds; the kernel then ends everything in the namespaces,
and takes mounts and network with them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ekiben.emulators.kubernetes import parts
from ekiben.emulators.kubernetes.api import Api, Refused
from ekiben.emulators.kubernetes.dns import Names
from ekiben.emulators.kubernetes.layout import HOST, NODE, NODE_NAME, PEER, PREFIX, READY, Layout, write_configs
from ekiben.emulators.kubernetes.volumes import provide

__all__ = ["main"]

DEVICE_PATIENCE_S = 30.0
PATIENCE_S = 180.0
AGAIN_AFTER_S = 1.0
END_S = 5.0
KEEP_DATA = ("etcd", "registry", "containerd")
POLL_S = 0.05
BEGUN = datetime.now(UTC)
logger = logging.getLogger("ekiben.emulators.kubernetes")


def main(at: Layout) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    # As this machine numbers it: /proc is still the one outside.
    print(os.readlink("/proc/self"), flush=True)
    _mount(at)
    _network()
    write_configs(at)
    shutil.rmtree(at.logs, ignore_errors=True)  # of the life before
    at.logs.mkdir()
    supervisor = Supervisor(at)
    threading.Thread(target=_until_the_keeper_ends, args=(supervisor,), daemon=True).start()
    threading.Thread(target=_start, args=(at, supervisor), daemon=True).start()
    return supervisor.run()


class Supervisor:
    """Starts parts, collects what has ended (also what others left behind: this is the first process), and starts again."""

    def __init__(self, at: Layout) -> None:
        self._at = at
        self._running: dict[int, parts.Part] = {}
        self._lock = threading.Lock()
        self._ending = False

    def start(self, wanted: list[parts.Part]) -> None:
        for part in wanted:
            with self._lock:
                if not self._ending:
                    self._running[self._spawn(part)] = part

    def run(self) -> int:
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(POLL_S)
                continue
            with self._lock:
                part = self._running.pop(pid, None)
                ending = self._ending
            if part is not None and not ending:
                logger.warning("%s ended (%s): started again", part.name, os.waitstatus_to_exitcode(status))
                threading.Timer(AGAIN_AFTER_S, self.start, ([part],)).start()

    def end(self) -> None:
        """Ask what keeps data to end, and wait a moment for it; the others are not waited for, nor by it."""
        with self._lock:
            self._ending = True
            running = dict(self._running)
        asked = {pid for pid, part in running.items() if part.name in KEEP_DATA}
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if pid in asked else signal.SIGKILL)
        deadline = time.monotonic() + END_S
        while self._running.keys() & asked and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _spawn(self, part: parts.Part) -> int:
        log = os.open(self._at.logs / f"{part.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            # Not subprocess: whoever waits there for one child would take it from `run`.
            return os.posix_spawn(
                part.command[0], part.command, parts.environment(self._at), setsid=True,
                file_actions=[(os.POSIX_SPAWN_DUP2, nothing, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
            )  # fmt: skip
        finally:
            os.close(log)
            os.close(nothing)


def _start(at: Layout, supervisor: Supervisor) -> None:
    try:
        supervisor.start(parts.storage(at))
        api = Api(at.kubeconfig)
        _wait(api.ready, "the API server is not ready")
        supervisor.start(parts.control(at))
        Names(api).start()
        provide(api, at.volumes)
        supervisor.start([*parts.node(at), *parts.edge(at)])
        _wait(lambda: _takes_pods(api), "the node is not ready")
        print(READY, flush=True)
    except BaseException:
        logger.exception("the cluster does not start")
        os._exit(1)


def _wait(found: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} after {PATIENCE_S:g} s")
        time.sleep(POLL_S)


def _takes_pods(api: Api) -> bool:
    """Has the node said in this life that it is ready, and has the first namespace the account that pods have?"""
    try:
        lease = api.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE_NAME}")
        conditions = api.get(f"/api/v1/nodes/{NODE_NAME}")["status"].get("conditions", [])
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
    except Refused:
        return False
    renewed = datetime.fromisoformat(lease["spec"]["renewTime"])
    return renewed > BEGUN and {"Ready": "True"}.items() <= {one["type"]: one["status"] for one in conditions}.items()


def _until_the_keeper_ends(supervisor: Supervisor) -> None:
    while os.read(0, 1):
        pass
    supervisor.end()
    os._exit(0)


def _mount(at: Layout) -> None:
    """/proc of the own process namespace; an empty /run; and the folders that Kubernetes takes for granted, below our state."""
    _run("mount", "-t", "proc", "proc", "/proc")
    _run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for folder, target in at.bound.items():
        folder.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(folder), target)
    _run("mount", "--make-rshared", "/var/lib")


def _network() -> None:
    deadline = time.monotonic() + DEVICE_PATIENCE_S
    while PEER not in {name for _, name in socket.if_nameindex()}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the network device {PEER} did not come")
        time.sleep(POLL_S)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{NODE}/{PREFIX}", "dev", PEER)
    _run("ip", "link", "set", PEER, "up")
    _run("ip", "route", "add", "default", "via", HOST)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1", "ascii")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=30)


if __name__ == "__main__":
    sys.exit(main(Layout(Path(sys.argv[1]), Path(sys.argv[2]))))
