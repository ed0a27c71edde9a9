"""The processes of one attempt of a run: started, limited, watched, and ended with all that they started."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.station import processes
from ekiben.station.interruptions import beat, from_outside
from ekiben.station.output import JobLog, Pump

__all__ = ["Node", "Verdict", "folder_of", "start", "watch"]

SETTLE_S = 2.0
TICK_S = 0.1
END_S = 10.0
BEAT_S = 1.0
REASON_CHARS = 2000


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How an attempt ended: succeeded, failed, cancelled or interrupted (ended by others, and may go on), and why."""

    state: str
    reason: str = ""


class Node:
    """One node's main process, and the pump of what it prints."""

    def __init__(self, rank: int, process: subprocess.Popen[bytes], pump: Pump) -> None:
        self.rank, self.process, self.pump = rank, process, pump


def folder_of(run_dir: Path, rank: int, part: str) -> Path:
    """The folder `part` (model, output) of a node: the run's own for rank 0, one aside for the others."""
    return run_dir / part if rank == 0 else run_dir / "nodes" / str(rank) / part


def start(run_dir: Path, code: Path, ask: Mapping[str, Any], log: JobLog) -> list[Node]:
    """Start all nodes of the run that `ask` describes."""
    count = int(ask["nodes"])
    port = _free_port()
    nodes: list[Node] = []
    try:
        for rank in range(count):
            nodes.append(_start(run_dir, code, ask, log, rank, port))
    except BaseException:
        for node in nodes:
            processes.end(node.process.pid)
        raise
    return nodes


def _start(run_dir: Path, code: Path, ask: Mapping[str, Any], log: JobLog, rank: int, port: int) -> Node:
    inputs = {f"EKIBEN_INPUT_{name.upper()}": str(run_dir / "inputs" / name) for name in ask["inputs"]}
    folders = {"EKIBEN_MODEL_DIR": folder_of(run_dir, rank, "model"), "EKIBEN_OUTPUT_DIR": folder_of(run_dir, rank, "output"),
               "EKIBEN_CHECKPOINT_DIR": run_dir / "checkpoints"}  # fmt: skip
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, math.floor(ask["vcpu"])))
    env = {
        "OMP_NUM_THREADS": threads,
        # Threads that wait must not burn the cores of a machine that is shared: a run took seven times as long beside others.
        "OMP_WAIT_POLICY": "PASSIVE",
        **ask["env"],
        **inputs,
        **{name: str(folder) for name, folder in folders.items()},
        "EKIBEN_RUN_ID": ask["id"],
        "EKIBEN_TRAINING": ask["training"],
        "EKIBEN_PARAMS": ask["params_json"],
        "EKIBEN_NODE_RANK": str(rank),
        "EKIBEN_NODE_COUNT": str(ask["nodes"]),
        "EKIBEN_MASTER_ADDR": "127.0.0.1",
        "EKIBEN_MASTER_PORT": str(port),
        "EKIBEN_SPEC_URI": ask["spec_uri"],
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(ask["gpus"][rank]),
        "PYTHONPATH": os.pathsep.join(filter(None, [ask["env"].get("PYTHONPATH", ""), str(run_dir / "lib")])),
        # Where this is one machine of several: which one, and who is the master.
        **ask.get("machine_env", {}),
    }
    with _affinity(ask["cpus"][rank]):
        process = subprocess.Popen(
            [ask["python"], "-u", ask["entry"], *_arguments(ask)], cwd=code, env=processes.child_env(env), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    processes.spare_the_host(process.pid)
    assert process.stdout is not None
    printed = os.dup(process.stdout.fileno())
    process.stdout.close()
    mark = b"[%d] " % rank if ask["nodes"] > 1 else b""

    def write(block: bytes) -> None:
        log.write(mark + block[:-1].replace(b"\n", b"\n" + mark) + b"\n" if mark else block)

    return Node(rank, process, Pump(printed, write, log.room_bytes // ask["nodes"]))


def _arguments(ask: Mapping[str, Any]) -> list[str]:
    """The parameters as words of the command line, where the spec wants them there: text as it is, all else as JSON."""
    given = ask["params"].items() if ask.get("arguments") else ()
    return [
        word for name, value in given for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    ]


def watch(nodes: list[Node], run_dir: Path, ask: Mapping[str, Any], asked: Callable[[], Verdict | None]) -> Verdict:
    """Wait for the nodes; end them all when one fails, goes over a limit, or `asked` gives a verdict from elsewhere.

    When this returns, no process of the run is left.
    """
    ended: set[int] = set()
    try:
        verdict = _watch(nodes, run_dir, ask, asked)
        if verdict.state == "failed" and not verdict.reason:
            # A node that dies takes the others along, often sooner than it has ended itself: let it say why.
            _wait(nodes, SETTLE_S)
        ended = {node.rank for node in nodes if node.process.poll() not in (None, 0)}
        if verdict.state != "succeeded":
            _terminate(nodes, float(ask["grace_s"]))
    finally:
        _end_all(nodes)
    for node in nodes:
        node.pump.join(END_S)
    return _explained(verdict, nodes, ended, run_dir) if verdict.state in ("succeeded", "failed") else verdict


def _watch(nodes: list[Node], run_dir: Path, ask: Mapping[str, Any], asked: Callable[[], Verdict | None]) -> Verdict:
    deadline = time.monotonic() + float(ask["timeout_s"])
    beaten = float("-inf")
    while True:
        if verdict := asked():
            return verdict
        if time.monotonic() - beaten > BEAT_S:
            beaten = time.monotonic()
            beat(run_dir)
        if time.monotonic() > deadline:
            return Verdict(state="failed", reason=f"it ran past its time limit of {ask['timeout_s']} s")
        status = [node.process.poll() for node in nodes]
        if any(code not in (None, 0) for code in status):
            return Verdict(state="failed")
        if all(code == 0 for code in status):
            return Verdict(state="succeeded")
        if over := _over_memory(nodes, int(ask["memory_mib"])):
            return Verdict(state="failed", reason=over)
        with contextlib.suppress(subprocess.TimeoutExpired):
            next(node for node in nodes if node.process.returncode is None).process.wait(TICK_S)


def _over_memory(nodes: list[Node], limit_mib: int) -> str:
    claimed: set[int] = set()
    for node in reversed(nodes):
        # What has lost its parent hangs below this process: the first node answers for it.
        pids = processes.descendants(node.process.pid)
        if node.rank == 0:
            pids |= processes.descendants(os.getpid()) - claimed - {os.getpid()}
        claimed |= pids
        held = processes.held_mib(pids, limit_mib)
        if held > limit_mib:
            who = f"node {node.rank}" if len(nodes) > 1 else "it"
            for one in nodes:
                processes.end(one.process.pid)
            return f"{who} went over its memory limit of {limit_mib} MiB (it held {held:.0f} MiB)"
    return ""


def _terminate(nodes: list[Node], grace_s: float) -> None:
    """SIGTERM to the main processes, and the time to write a checkpoint."""
    for node in nodes:
        if node.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.process.pid, signal.SIGTERM)
    _wait(nodes, grace_s)


def _wait(nodes: list[Node], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    for node in nodes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.process.wait(max(0.0, deadline - time.monotonic()))


def _end_all(nodes: list[Node]) -> None:
    """End whatever is left, also what a job's child has started behind its back."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        for node in nodes:
            processes.end(node.process.pid)
        left = processes.descendants(os.getpid()) - {os.getpid()}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for node in nodes:
            node.process.poll()
        if not left:
            return
        time.sleep(0.02)


def _explained(verdict: Verdict, nodes: list[Node], ended: set[int], run_dir: Path) -> Verdict:
    """The verdict with the job's own reason, where it gave one. `ended`: the ranks that failed before anybody stopped them."""
    told = {node.rank: _told(run_dir, node.rank) for node in nodes}
    dead = [
        node for node in nodes if node.rank in ended and from_outside(node.process.returncode) and not told[node.rank]
    ]
    if dead and not verdict.reason:
        # What the others say is then how they took it.
        return Verdict(state="interrupted", reason=_named(dead, nodes))
    for text in filter(None, told.values()):
        return Verdict(state="failed", reason=": ".join(filter(None, [verdict.reason, text]))[:REASON_CHARS])
    if verdict.state == "succeeded" or verdict.reason:
        return verdict
    # Which of them died first cannot be told: all that failed by themselves are named.
    stopped = (0, -signal.SIGTERM, -signal.SIGKILL)
    failed = [node for node in nodes if node.rank in ended or node.process.returncode not in stopped]
    return Verdict(state="failed", reason=_named(failed, nodes))


def _told(run_dir: Path, rank: int) -> str:
    """The reason that the job itself gave; empty where it gave none."""
    try:
        with (folder_of(run_dir, rank, "output") / "failure.txt").open(encoding="utf-8", errors="replace") as file:
            return file.read(REASON_CHARS).strip()
    except OSError:
        return ""


def _named(ended: list[Node], nodes: list[Node]) -> str:
    """How these nodes have ended."""
    each = [
        (f"node {node.rank} " if len(nodes) > 1 else "it ") + _ended(node.process.returncode, node.pump.last_line)
        for node in ended
    ]
    return "; ".join(text[: REASON_CHARS // len(each)] for text in each)


def _ended(status: int, last_line: str) -> str:
    last = f": {last_line}" if last_line else ""
    if status >= 0:
        return f"ended with status {status}{last}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"was ended by {name}" + (", perhaps for lack of memory" if status == -signal.SIGKILL else "") + last


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def _affinity(cpus: list[int]) -> Any:
    """Children started inside run on these CPUs only, where the system has such a thing."""
    if not cpus or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
