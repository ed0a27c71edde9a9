"""The supervisor of one attempt of a run: `python -m ekiben.station.runner RUN_DIR LOCK_FD`.

It is a session of its own, so it outlives the station. It holds RUN_DIR/lock from before it was started until it ends: that, and
not a process id, is the proof that it lives. RUN_DIR/run.json says what to do; RUN_DIR/status.json says how far it is and how
it ended; RUN_DIR/cancel asks it to stop. SIGTERM, as when the machine shuts down, interrupts the run: what it has in its
checkpoints is not lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ekiben.errors import EkibenError
from ekiben.lineage import environment
from ekiben.packing.archive import files
from ekiben.records import now
from ekiben.runs import lineage_of, metrics_of
from ekiben.station import processes
from ekiben.station.interruptions import last_checkpoint, lost_s
from ekiben.station.nodes import Verdict, start, watch
from ekiben.station.output import JobLog
from ekiben.station.staging import clear_away, fetch_inputs, store_results, write_json

__all__ = ["main"]

LOOK_S = 0.1
ROOM_BYTES = 1 << 20


def main(run_dir: Path, lock: int) -> None:
    """Make the attempt, and leave its status."""
    os.set_inheritable(lock, False)
    processes.adopt_orphans()
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))

    def asked() -> Verdict | None:
        if (run_dir / "cancel").exists():
            return Verdict(state="cancelled", reason="cancelled")
        return Verdict(state="interrupted", reason="its supervisor was told to stop (SIGTERM)") if told else None

    ask = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    status: dict[str, Any] = {"attempt": ask["attempt"], "state": "running", "reason": "", "started_at": now()}
    write_json(run_dir / "status.json", status)
    _keep_room(run_dir / "room")
    log = JobLog(run_dir / "log.txt")
    found: dict[str, Any] = {}
    began_s = time.monotonic()
    try:
        verdict = _attempt(run_dir, ask, log, found, status, asked)
        if verdict.state == "succeeded" and not any(files(run_dir / "model")):
            verdict = Verdict(state="failed", reason="it left no model: there is nothing in EKIBEN_MODEL_DIR")
    except EkibenError as error:
        verdict = Verdict(state="failed", reason=str(error))
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        verdict = Verdict(state="failed", reason=f"its supervisor failed: {type(error).__name__}: {error}")
    if verdict.state == "interrupted":
        lost = lost_s(run_dir, status.get("working_since", 0.0), time.time())
        # The clock may have been set forward meanwhile.
        status["lost_s"] = round(min(lost, time.monotonic() - began_s), 3)
        log.note(f"interrupted: {verdict.reason}; {status['lost_s']:.1f} s of work are lost")
    elif verdict.state != "succeeded":
        log.note(f"{verdict.state}: {verdict.reason}")
    output = run_dir / "output"
    lineage = lineage_of(output, ask, found.get("inputs", {}), found.get("environment", {}), log.note)
    status |= {"lineage": lineage, "metrics": metrics_of(output, log.note)}
    if verdict.state != "interrupted":
        # Of an interrupted one the station does it, where the run does not go on: a machine that shuts down waits for nobody.
        verdict, status["stored"] = _stored(run_dir, ask, verdict, log)
    (run_dir / "room").unlink(missing_ok=True)
    write_json(run_dir / "status.json", {**status, "state": verdict.state, "reason": verdict.reason, "ended_at": now()})


def _attempt(
    run_dir: Path,
    ask: Mapping[str, Any],
    log: JobLog,
    found: dict[str, Any],
    status: dict[str, Any],
    asked: Callable[[], Verdict | None],
) -> Verdict:
    if ask["attempt"] > 1:
        _, checkpoint = last_checkpoint(run_dir)
        log.note(
            f"attempt {ask['attempt']}, " + (f"with the checkpoint {checkpoint}" if checkpoint else "from the start")
        )
    for part in ("model", "output", "nodes", "code"):
        clear_away(run_dir / part)
    for part in ("model", "output", "checkpoints"):
        (run_dir / part).mkdir(exist_ok=True)
    code = run_dir / "code"

    def prepare() -> None:
        found["inputs"] = fetch_inputs(Path(ask["state_dir"]), ask["inputs"], run_dir / "inputs")
        _own_copy(Path(ask["code_dir"]), code)
        _offer_library(run_dir / "lib")
        found["environment"] = _environment(ask["python"], code, run_dir / "lib")

    if verdict := _unless(asked, prepare) or asked():
        return verdict
    status["working_since"] = time.time()
    write_json(run_dir / "status.json", status)
    return watch(start(run_dir, code, ask, log), run_dir, ask, asked)


def _unless(asked: Callable[[], Verdict | None], work: Callable[[], None]) -> Verdict | None:
    """Do `work`, however slow the disk is, unless the run is to end meanwhile: then nobody waits for it."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        if verdict := asked():
            return verdict
        thread.join(LOOK_S)
    if failure:
        raise failure[0]
    return None


def _stored(run_dir: Path, ask: Mapping[str, Any], verdict: Verdict, log: JobLog) -> tuple[Verdict, bool]:
    """Store the results: the verdict after it, and whether they are stored. To make room the run's own copies go first."""
    for _ in range(2):
        try:
            store_results(
                run_dir,
                ask["storage_uri"],
                ask["training"],
                ask["id"],
                model=verdict.state == "succeeded",
                note=log.note,
            )
            return verdict, True
        except EkibenError as error:
            problem = str(error).rstrip(".")
            (run_dir / "inputs.json").unlink(missing_ok=True)
            for part in ("inputs", "code"):
                clear_away(run_dir / part)
    log.note(f"not stored: {problem}")
    first = f"{verdict.reason}; " if verdict.state == "failed" else ""
    return Verdict(
        state="failed", reason=f"{first}its results could not be stored, and stay in {run_dir}: {problem}"
    ), False


def _keep_room(path: Path) -> None:
    """Room on the disk for the last words, given back before they are said: a job may have filled it by then."""
    with contextlib.suppress(OSError), path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)


def _own_copy(bundle: Path, into: Path) -> None:
    """The code as the run's own files, which it may write beside."""
    for name, path in files(bundle).items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else 0o644)


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


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
