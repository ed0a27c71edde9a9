"""The supervisor of one attempt of a run: `python -m ekiben.station.runner RUN_DIR LOCK_FD`.

It is a session of its own, so it outlives the station. It holds RUN_DIR/lock from before it was started until it ends: that, and
not a process id, is the proof that it lives. RUN_DIR/run.json says what to do; RUN_DIR/status.json says how far it is and how
it ended; RUN_DIR/cancel asks it to stop.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import EkibenError
from ekiben.lineage import environment
from ekiben.packing.archive import files
from ekiben.records import now
from ekiben.station import processes
from ekiben.station.nodes import JobLog, Verdict, start, watch
from ekiben.station.staging import clear_away, fetch_inputs, store_results, write_json

__all__ = ["main"]

# What, beside data, code, environment and parameters, it takes to make the same run again.
REPEATED = ("training", "entry", "env", "nodes", "vcpu", "memory_mib", "gpu_count", "gpu", "timeout_s", "grace_s")


def main(run_dir: Path, lock: int) -> None:
    """Make the attempt, and leave its status."""
    os.set_inheritable(lock, False)
    processes.adopt_orphans()
    cancel = run_dir / "cancel"
    signal.signal(signal.SIGTERM, lambda *_: cancel.touch())
    ask = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    status: dict[str, Any] = {"attempt": ask["attempt"], "state": "running", "reason": "", "started_at": now()}
    write_json(run_dir / "status.json", status)
    log = JobLog(run_dir / "log.txt")
    found: dict[str, Any] = {}
    try:
        verdict = _attempt(run_dir, ask, log, found)
        if verdict.state == "succeeded" and not any(files(run_dir / "model")):
            verdict = Verdict(state="failed", reason="it left no model: there is nothing in EKIBEN_MODEL_DIR")
    except EkibenError as error:
        verdict = Verdict(state="failed", reason=str(error))
    except Exception as error:
        traceback.print_exc()
        verdict = Verdict(state="failed", reason=f"its supervisor failed: {type(error).__name__}: {error}")
    if verdict.state != "succeeded":
        log.note(f"{verdict.state}: {verdict.reason}")
    lineage = _lineage(run_dir, ask, found, log)
    metrics = _metrics(run_dir, log)
    try:
        store_results(
            run_dir, ask["storage_uri"], ask["training"], ask["id"], model=verdict.state == "succeeded", note=log.note
        )
    except (EkibenError, OSError) as error:
        verdict = Verdict(state="failed", reason=f"its results could not be stored: {error}")
    status |= {
        "state": verdict.state,
        "reason": verdict.reason,
        "ended_at": now(),
        "metrics": metrics,
        "lineage": lineage,
    }
    write_json(run_dir / "status.json", status)


def _attempt(run_dir: Path, ask: Mapping[str, Any], log: JobLog, found: dict[str, Any]) -> Verdict:
    if ask["attempt"] > 1:
        log.note(f"attempt {ask['attempt']}")
    for part in ("model", "output", "nodes", "code"):
        clear_away(run_dir / part)
    for part in ("model", "output", "checkpoints"):
        (run_dir / part).mkdir(exist_ok=True)
    found["inputs"] = fetch_inputs(Path(ask["state_dir"]), ask["inputs"], run_dir / "inputs")
    code = _own_copy(Path(ask["code_dir"]), run_dir / "code")
    _offer_library(run_dir / "lib")
    found["environment"] = _environment(ask["python"], code, run_dir / "lib")
    cancel = run_dir / "cancel"
    if cancel.exists():
        return Verdict(state="cancelled", reason="cancelled")
    nodes = start(run_dir, code, ask, log)
    return watch(nodes, run_dir, ask, cancel.exists)


def _own_copy(bundle: Path, into: Path) -> Path:
    """The code as the run's own files, which it may write beside."""
    for name, path in files(bundle).items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else 0o644)
    return into


def _offer_library(into: Path) -> None:
    """`import ekiben` (its job module) works in every interpreter that runs a job."""
    into.mkdir(exist_ok=True)
    link = into / "ekiben"
    if not link.is_symlink():
        link.symlink_to(Path(__file__).resolve().parents[1], target_is_directory=True)


def _environment(python: str, code: Path, library: Path) -> dict[str, Any]:
    """The environment of the interpreter that runs the job."""
    lock = code / "requirements.txt"
    if python == sys.executable:
        return environment(lock)
    program = (
        "import json, pathlib, sys; from ekiben.lineage import environment; "
        "print(json.dumps(environment(pathlib.Path(sys.argv[1]))))"
    )
    env = processes.child_env({"PYTHONPATH": str(library)})
    told = subprocess.run([python, "-c", program, str(lock)], env=env, capture_output=True, timeout=60, check=True)
    return dict(json.loads(told.stdout))


def _lineage(run_dir: Path, ask: Mapping[str, Any], found: Mapping[str, Any], log: JobLog) -> dict[str, Any]:
    told = _read_object(run_dir / "output" / "lineage.json", log)
    rows = told.get("rows", {})
    rows = rows if isinstance(rows, dict) else {}
    inputs = {
        name: {**snapshot, "rows": rows[name]} if name in rows else snapshot
        for name, snapshot in found.get("inputs", {}).items()
    }
    return {
        "inputs": inputs, "code": ask["code"], "environment": found.get("environment", {}), "params": ask["params"],
        "seeds": told.get("seeds", {}), "by": ask["by"], "job": {name: ask[name] for name in REPEATED},
    }  # fmt: skip


def _metrics(run_dir: Path, log: JobLog) -> dict[str, float]:
    told = _read_object(run_dir / "output" / "metrics.json", log).get("metrics", {})
    kept = {}
    for name, value in told.items() if isinstance(told, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            kept[str(name)] = float(value)
        else:
            log.note(f"the metric {name!r} is left out: {value!r} is no finite number")
    return kept


def _read_object(path: Path, log: JobLog) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.note(f"{path.name} is left out: {error}")
        return {}
    return value if isinstance(value, dict) else {}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
