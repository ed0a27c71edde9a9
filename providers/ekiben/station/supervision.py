"""From the station's side: a supervisor started once, found again after a crash, and what it has left behind taken away."""

from __future__ import annotations

import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ekiben.records import now
from ekiben.runs import progress
from ekiben.station import machine, processes
from ekiben.station.bundles import python_for, unpacked
from ekiben.station.client import locked
from ekiben.station.interruptions import last_beat, lost_s
from ekiben.station.output import JobLog
from ekiben.station.staging import clear_away, write_json

__all__ = ["Allotment", "alive", "allot", "cut_short", "launch", "live_metrics", "status", "tidy"]

PROGRESS_BYTES = 8 << 20

# Supervisors that this process has started, until they are reaped.
_children: list[subprocess.Popen[bytes]] = []
_reaping = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """What a run is given: per node the CPUs it is pinned to, and its GPUs."""

    cpus: list[list[int]]
    gpus: list[list[str]]


def allot(
    ask: Mapping[str, Any],
    running: Sequence[Mapping[str, Any]],
    cpus: Sequence[int],
    memory_mib: int,
    gpus: Sequence[machine.Gpu],
) -> Allotment | None:
    """CPUs and GPUs for a run beside those that are running; None while there is no room."""
    nodes = ask["nodes"]
    used = sum(one["vcpu"] * one["nodes"] for one in running)
    held = sum(one["memory_mib"] * one["nodes"] for one in running)
    if running and (used + ask["vcpu"] * nodes > len(cpus) or held + ask["memory_mib"] * nodes > memory_mib):
        return None
    taken = {gpu for one in running for node in one["gpus"] for gpu in node}
    free = [gpu.id for gpu in gpus if gpu.id not in taken and machine.suits(gpu, ask["gpu"])]
    if ask["gpu_count"] * nodes > len(free):
        return None
    load = dict.fromkeys(cpus, 0)
    for cpu in (cpu for one in running for node in one["cpus"] for cpu in node):
        load[cpu] = load.get(cpu, 0) + 1
    given = Allotment(cpus=[], gpus=[])
    for rank in range(nodes):
        mine = sorted(sorted(cpus, key=lambda cpu: load[cpu])[: max(1, math.ceil(ask["vcpu"]))])
        for cpu in mine:
            load[cpu] += 1
        given.cpus.append(mine)
        given.gpus.append(free[rank * ask["gpu_count"] : (rank + 1) * ask["gpu_count"]])
    return given


def launch(run_dir: Path, ask: Mapping[str, Any], state_dir: Path) -> None:
    """Start the supervisor of this attempt, unless one is alive: its lock passes from this process to it, without a gap."""
    code = unpacked(state_dir, ask)
    python = python_for(code)
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        spec_uri = (run_dir / "run.json").as_uri()
        write_json(run_dir / "run.json", {**ask, "code_dir": str(code), "python": str(python), "spec_uri": spec_uri})
        with (run_dir / "supervisor.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "ekiben.station.runner", str(run_dir), str(lock)], pass_fds=[lock],
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        with _reaping:
            _children.append(child)
    finally:
        os.close(lock)


def alive(run_dir: Path) -> bool:
    """Does a supervisor of this run live?"""
    with _reaping:
        _children[:] = [child for child in _children if child.poll() is None]
    return locked(run_dir / "lock")


def status(run_dir: Path) -> dict[str, Any] | None:
    """What the supervisor has last said of itself; None when nothing."""
    try:
        return dict(json.loads((run_dir / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def cut_short(run_dir: Path, status: Mapping[str, Any]) -> dict[str, Any]:
    """End what a supervisor left that was killed, and return the status that it would have left."""
    ended = processes.kill_marked("EKIBEN_SPEC_URI", (run_dir / "run.json").as_uri())
    # A job that was there until now may have worked until now; else the last sign of life tells.
    until = time.time() if ended else last_beat(run_dir)
    lost = lost_s(run_dir, status.get("working_since", 0.0), until)
    reason = "its supervisor was killed, or the machine was restarted"
    (run_dir / "room").unlink(missing_ok=True)
    log = JobLog(run_dir / "log.txt")
    log.note(f"interrupted: {reason}; {lost:.1f} s of work are lost")
    log.close()
    return {**status, "state": "interrupted", "reason": reason, "lost_s": lost, "ended_at": now()}


def tidy(run_dir: Path, *, stored: bool) -> None:
    """Drop what the run does not need any more. The log, the request and the status stay; results do unless they are `stored`."""
    results = ("model", "output", "checkpoints", "nodes") if stored else ()
    for part in ("inputs", "code", "lib", *results):
        clear_away(run_dir / part)
    for half_written in run_dir.glob(".*.json.*"):
        half_written.unlink(missing_ok=True)


def live_metrics(run_dir: Path) -> dict[str, float]:
    """The last value of each metric that a running job has logged."""
    try:
        with (run_dir / "output" / "progress.jsonl").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - PROGRESS_BYTES))
            return progress(file.read(PROGRESS_BYTES).splitlines())
    except OSError:
        return {}
