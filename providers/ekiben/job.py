"""A training job's side of the bargain: where its inputs are, where its results go, which node it is. Standard library only.

    from ekiben import job

    frame = read(job.inputs()["census"])
    model = train(frame, **job.params())
    job.log_metric("loss", 0.31, step=1)
    model.save_model(job.model_dir() / "model.ubj")

All of it is environment variables (EKIBEN_...), the same on every provider; a job may as well read them itself.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ekiben.errors import SpecError
from ekiben.records import now

__all__ = [
    "Checkpoint",
    "Node",
    "checkpoint_dir",
    "fail",
    "fast_path",
    "inputs",
    "latest_checkpoint",
    "leave",
    "log_metric",
    "model_dir",
    "node",
    "output_dir",
    "params",
    "save_checkpoint",
    "terminating",
    "xgboost_collective",
]

PORT = 29500
SAGEMAKER = Path("/opt/ml/input/config/resourceconfig.json")
TRACKER_TIMEOUT_S = 600

_terminated = threading.Event()


@dataclass(frozen=True, kw_only=True)
class Node:
    """One of the machines that train together: rank 0 is the master, which the others reach at master_addr:master_port."""

    rank: int = 0
    count: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = PORT


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What `save_checkpoint` left: the step it is of, and the folder with its files."""

    step: int
    folder: Path


def inputs() -> dict[str, Path]:
    """Input name -> the folder of its files."""
    start = "EKIBEN_INPUT_"
    return {
        name.removeprefix(start).lower(): Path(value) for name, value in os.environ.items() if name.startswith(start)
    }


def params() -> dict[str, Any]:
    """The run's parameters: the spec's, with the run's over them."""
    return dict(json.loads(os.environ.get("EKIBEN_PARAMS") or "{}"))


def model_dir() -> Path:
    """Where the model's files go. Raises SpecError outside of a run."""
    return _folder("EKIBEN_MODEL_DIR")


def output_dir() -> Path:
    """Where metrics.json, signature.json, lineage.json and reports go. Raises SpecError outside of a run."""
    return _folder("EKIBEN_OUTPUT_DIR")


def checkpoint_dir() -> Path:
    """What is written here is there again when the run is tried again. Raises SpecError outside of a run."""
    return _folder("EKIBEN_CHECKPOINT_DIR")


def save_checkpoint(step: int, write: Callable[[Path], object], *, keep: int = 2) -> Checkpoint:
    """Make the checkpoint of `step`: `write` fills the empty folder that it is given.

    It is there whole, and on the disk, or not at all, also when the process is killed meanwhile. The last `keep` stay. Where
    several nodes share a run, one of them makes it. Raises what `write` raises, and OSError.
    """
    root = checkpoint_dir()
    for left in root.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    fresh, old = (root / f".{secrets.token_hex(8)}.tmp" for _ in range(2))
    fresh.mkdir()
    made = Checkpoint(step=step, folder=root / f"step-{step:010d}")
    try:
        write(fresh)
        for path in (*fresh.rglob("*"), fresh):
            _to_disk(path)
        if made.folder.exists():
            made.folder.rename(old)
        fresh.rename(made.folder)
        _to_disk(root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    for earlier in _checkpoints(root)[: -max(keep, 1)]:
        shutil.rmtree(earlier.folder, ignore_errors=True)
    return made


def latest_checkpoint() -> Checkpoint | None:
    """The last one that an earlier attempt of this run has made; None where there is none. Raises SpecError outside of a run."""
    found = _checkpoints(checkpoint_dir())
    return found[-1] if found else None


def log_metric(name: str, value: float, step: int = 0) -> None:
    """Show a metric while the run goes on."""
    line = json.dumps({"name": name, "value": float(value), "step": step, "time": now()})
    with (output_dir() / "progress.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def fail(reason: str) -> NoReturn:
    """End the job; `reason` is shown as the run's."""
    (output_dir() / "failure.txt").write_text(reason, encoding="utf-8")
    raise SystemExit(1)


def fast_path() -> dict[str, Any]:
    """For signature.json: `fast_path`, the verdict on serving the XGBoost models in model_dir() without the Python package xgboost.

    Both ways answer the same rows, and are compared bit by bit, which takes some seconds; empty where there is no such model. To be
    asked when the models have been written.
    """
    from ekiben.serving.trees import verdict

    found = verdict(model_dir())
    return {} if found is None else {"fast_path": found}


def terminating() -> bool:
    """Has the platform asked the job to stop (SIGTERM: a cancel, a time limit, a machine taken away)?

    From the first call on, which must come from the main thread, SIGTERM no longer ends the process: look at each step, save a
    checkpoint, and `leave()`. The platform waits `grace_s` of the spec.
    """
    if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None):
        signal.signal(signal.SIGTERM, lambda *_: _terminated.set())
    return _terminated.is_set()


def leave() -> NoReturn:
    """End the job as it was told to (see `terminating`). It has not failed: a run with `spot` goes on from its checkpoint."""
    raise SystemExit(128 + signal.SIGTERM)


def node(environ: Mapping[str, str] | None = None, *, resource_config: Path = SAGEMAKER) -> Node:
    """Which node this is, as the platform tells it; a job that runs alone is rank 0 of 1. Raises SpecError for a contradiction.

    Asked in this order: EKIBEN_NODE_RANK (what Ekiben's own bootstrap sets), Kubeflow (PET_*), SageMaker (resourceconfig.json),
    Vertex AI (CLUSTER_SPEC), Azure ML (NODE_RANK), an Indexed Job (JOB_COMPLETION_INDEX), Open MPI.
    """
    env = os.environ if environ is None else environ
    found = (
        _ekiben(env) or _kubeflow(env) or _sagemaker(resource_config) or _vertex(env) or _azure(env) or _indexed(env)
    )
    found = found or _mpi(env) or Node()
    if not 0 <= found.rank < found.count or not found.master_addr:
        raise SpecError(
            f"The platform says that this is node {found.rank} of {found.count} with the master {found.master_addr!r}: "
            "set EKIBEN_NODE_RANK, EKIBEN_NODE_COUNT and EKIBEN_MASTER_ADDR."
        )
    return found


@contextmanager
def xgboost_collective() -> Iterator[Node]:
    """XGBoost's collective over all nodes: inside, `xgboost.train` on each node's part of the data makes one model on all of them.

    The tracker runs on rank 0. With one node there is no collective, and nothing is imported.
    """
    me = node()
    if me.count == 1:
        yield me
        return
    from xgboost.collective import CommunicatorContext
    from xgboost.tracker import RabitTracker

    tracker = None
    if me.rank == 0:
        address = socket.gethostbyname(me.master_addr)
        tracker = RabitTracker(me.count, address, me.master_port, sortby="task", timeout=TRACKER_TIMEOUT_S)
        tracker.start()
    # The ranks follow the order of the task ids as text.
    worker = {
        "dmlc_tracker_uri": socket.gethostbyname(me.master_addr),
        "dmlc_tracker_port": me.master_port,
        "dmlc_task_id": f"{me.rank:06d}",
        "dmlc_retry": 60,
        "dmlc_timeout": TRACKER_TIMEOUT_S,
    }
    with CommunicatorContext(**worker):
        yield me
    if tracker is not None:
        tracker.wait_for(TRACKER_TIMEOUT_S)


def _folder(name: str) -> Path:
    if not os.environ.get(name):
        raise SpecError(f"{name} is not set: start the job with `ekiben train`, or set it to a folder.")
    folder = Path(os.environ[name])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _checkpoints(root: Path) -> list[Checkpoint]:
    """All that are whole, oldest step first."""
    found = (path for path in root.iterdir() if re.fullmatch(r"step-\d{10,}", path.name))
    return sorted((Checkpoint(step=int(path.name[5:]), folder=path) for path in found), key=lambda one: one.step)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ekiben(env: Mapping[str, str]) -> Node | None:
    if "EKIBEN_NODE_RANK" not in env:
        return None
    return Node(
        rank=_whole(env, "EKIBEN_NODE_RANK"), count=_whole(env, "EKIBEN_NODE_COUNT", 1),
        master_addr=env.get("EKIBEN_MASTER_ADDR", "127.0.0.1"), master_port=_whole(env, "EKIBEN_MASTER_PORT", PORT),
    )  # fmt: skip


def _kubeflow(env: Mapping[str, str]) -> Node | None:
    if "PET_NODE_RANK" not in env:
        return None
    # PET_NNODES may be a range, "2:4".
    counts = {**env, "PET_NNODES": env.get("PET_NNODES", "1").rpartition(":")[2]}
    return Node(
        rank=_whole(env, "PET_NODE_RANK"), count=_whole(counts, "PET_NNODES"),
        master_addr=env.get("PET_MASTER_ADDR", "127.0.0.1"), master_port=_whole(env, "PET_MASTER_PORT", PORT),
    )  # fmt: skip


def _sagemaker(config: Path) -> Node | None:
    if not config.is_file():
        return None
    told = _object(config.read_text(encoding="utf-8"), str(config))
    # algo-2 comes before algo-10.
    hosts = sorted(map(str, told.get("hosts", ())), key=lambda host: (len(host), host))
    if told.get("current_host") not in hosts:
        raise SpecError(f"{config} does not say which of its hosts this is.")
    return Node(rank=hosts.index(told["current_host"]), count=len(hosts), master_addr=hosts[0])


def _vertex(env: Mapping[str, str]) -> Node | None:
    if not env.get("CLUSTER_SPEC"):
        return None
    told = _object(env["CLUSTER_SPEC"], "CLUSTER_SPEC")
    try:
        cluster, task = told["cluster"], told["task"]
        pools = sorted((name for name in cluster if name.startswith("workerpool")), key=lambda name: (len(name), name))
        before = pools[: pools.index(task["type"])]
        address, _, port = str(cluster[pools[0]][0]).partition(":")
        return Node(
            rank=sum(len(cluster[pool]) for pool in before) + int(task["index"]), count=sum(len(cluster[pool]) for pool in pools),
            master_addr=address, master_port=int(port or PORT),
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SpecError(f"CLUSTER_SPEC is not what Vertex AI writes: {error!r}.") from error


def _azure(env: Mapping[str, str]) -> Node | None:
    if "NODE_RANK" not in env or "MASTER_ADDR" not in env:
        return None
    # WORLD_SIZE counts processes, so the submitter says how many nodes there are.
    processes = _whole(env, "WORLD_SIZE", 1) // max(1, _whole(env, "LOCAL_WORLD_SIZE", 1))
    return Node(
        rank=_whole(env, "NODE_RANK"), count=_whole(env, "EKIBEN_NODE_COUNT", max(1, processes)),
        master_addr=env["MASTER_ADDR"], master_port=_whole(env, "MASTER_PORT", PORT),
    )  # fmt: skip


def _indexed(env: Mapping[str, str]) -> Node | None:
    if "JOB_COMPLETION_INDEX" not in env:
        return None
    return Node(
        rank=_whole(env, "JOB_COMPLETION_INDEX"), count=_whole(env, "EKIBEN_NODE_COUNT", 1),
        master_addr=env.get("EKIBEN_MASTER_ADDR", "127.0.0.1"), master_port=_whole(env, "EKIBEN_MASTER_PORT", PORT),
    )  # fmt: skip


def _mpi(env: Mapping[str, str]) -> Node | None:
    if "OMPI_COMM_WORLD_RANK" not in env:
        return None
    # Azure ML gives the master as "10.0.0.4:6000".
    master = env.get("MASTER_ADDR") or env.get("AZ_BATCH_MASTER_NODE", "127.0.0.1")
    return Node(
        rank=_whole(env, "OMPI_COMM_WORLD_RANK"), count=_whole(env, "OMPI_COMM_WORLD_SIZE", 1),
        master_addr=master.partition(":")[0], master_port=_whole(env, "MASTER_PORT", PORT),
    )  # fmt: skip


def _whole(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = env.get(name, "")
    if not value and default is not None:
        return default
    try:
        return int(value)
    except ValueError:
        raise SpecError(f"{name} is {value!r}, not a whole number.") from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise SpecError(f"{where} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise SpecError(f"{where} is not a JSON object.")
    return value
