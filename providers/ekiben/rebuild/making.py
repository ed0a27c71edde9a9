"""A version made again: its sources fetched, its environment made, its job run, its model compared."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ekiben.errors import EkibenError, NoCapacity, ProviderError, SpecError, TrainingFailed
from ekiben.lineage.account import part
from ekiben.rebuild import fresh, sources, verdict
from ekiben.records import ModelVersion
from ekiben.runtime import Runtime
from ekiben.station import machine, supervision

__all__ = ["BOUND", "rebuild"]

BOUND = 1e-6
REQUESTS = 1000
TAIL_LINES = 20
# Of the runs that were made before all of it was recorded; a station's own defaults.
JOB = {
    "training": "", "entry": "train.py", "env": {}, "nodes": 1, "vcpu": 1.0, "memory_mib": 0, "gpu_count": 0, "gpu": "",
    "timeout_s": 86_400, "grace_s": 5,
}  # fmt: skip

Step = Callable[[str, str], None]


def rebuild(
    runtime: Runtime,
    version: ModelVersion,
    folder: Path,
    *,
    others: Sequence[str] = (),
    bound: float = BOUND,
    on_step: Step = lambda step, detail: None,
) -> dict[str, Any]:
    """Make `version` again below `folder`, which is empty, and compare: {"version", "verdict", "equal", "by", "why", "files",
    "predictions", "differences", "metrics", "seconds"}.

    verdict: "identical" (the model's files are equal byte for byte), "equivalent" (they are not, nor must they be, and no answer
    differs by more than `bound`) or "different". Files must be equal where XGBoost on the CPU wrote them and nothing differs from
    the run's environment. others: packages ("numpy==2.3.1") instead of those recorded. on_step: hears of each step.

    Raises IntegrityError, naming all of it, for sources that have changed or are missing; TrainingFailed where the job fails now;
    NoCapacity, ProviderError where the environment cannot be made; SpecError for a version whose run recorded too little.
    """
    if not math.isfinite(bound) or bound < 0:
        raise SpecError(f"The bound {bound} is not a number from 0 on.")
    clock = _Clock()
    lineage = version.lineage
    environment, job = part(lineage, "environment"), {**JOB, **part(lineage, "job")}
    found = sources.fetch(runtime, version, folder)
    count = sum(len(data.get("files") or ()) for data in part(lineage, "inputs").values())
    on_step("sources", f"code, bento and {count} input files are what was recorded ({clock.lap('sources'):.1f} s)")

    python = fresh.make(folder, found.lock, environment, others)
    library = fresh.offer_library(folder / "lib")
    cpus = max(1, math.ceil(job["vcpu"]))
    different = fresh.differences(python, library, environment, cpus * job["nodes"])
    told = _some(different) or "as recorded"
    on_step("environment", f"{told} ({clock.lap('environment'):.1f} s)")

    _train(folder, python, version, {**job, "params": part(lineage, "params")})
    on_step("training", f"done ({clock.lap('training'):.1f} s)")

    made = {
        "version": version.id,
        **_compared(runtime, version, found, folder, job, different, bound),
        "differences": different,
        "metrics": _metrics(version, folder),
    }
    clock.lap("comparison")
    return {**made, "seconds": clock.seconds}


def _train(folder: Path, python: Path, version: ModelVersion, job: Mapping[str, Any]) -> None:
    """Run the job in `folder`. Raises TrainingFailed with its reason."""
    gpus = machine.gpus() if job["gpu_count"] else []
    memory_mib = job["memory_mib"] or machine.memory_mib()
    asked = {**job, "memory_mib": memory_mib}
    given = supervision.allot(asked, [], machine.cpus(), machine.memory_mib(), gpus)
    if given is None:
        wanted = f"{job['gpu_count'] * job['nodes']} {job['gpu']} GPUs".replace("  ", " ")
        raise NoCapacity("ekiben", f"rebuild {version.id}", f"its run had {wanted}, and this machine has {len(gpus)}")
    ask = {
        **asked, "id": version.run_id or version.key, "inputs": sorted(part(version.lineage, "inputs")), "python": str(python),
        "params_json": json.dumps(job["params"], ensure_ascii=False), "cpus": given.cpus, "gpus": given.gpus,
        "spec_uri": (folder / "run.json").as_uri(),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(ask), encoding="utf-8")
    for name in ("model", "output", "checkpoints"):
        (folder / name).mkdir()
    command = [sys.executable, "-m", "ekiben.rebuild.attempt", str(folder)]
    with (folder / "attempt.log").open("wb") as log:
        attempt = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            attempt.wait()
        except BaseException:
            # It ends the job and all its processes before it ends itself.
            attempt.send_signal(signal.SIGTERM)
            attempt.wait()
            raise
    try:
        ended = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except OSError:
        ended = {"state": "failed", "reason": _tail(folder / "attempt.log") or "it was ended from outside"}
    if ended["state"] != "succeeded":
        raise TrainingFailed(
            f"{version.id} cannot be rebuilt: its job, which succeeded in the run {version.run_id}, "
            f"{'fails' if ended['state'] == 'failed' else 'was ended by others'} now: {ended['reason'].rstrip('.')}.",
            tail=_tail(folder / "log.txt"),
        )


def _compared(
    runtime: Runtime,
    version: ModelVersion,
    found: sources.Sources,
    folder: Path,
    job: Mapping[str, Any],
    different: Sequence[Mapping[str, str]],
    bound: float,
) -> dict[str, Any]:
    recorded, rebuilt = found.bento / "src" / "model", folder / "model"
    files = verdict.files_of(recorded, rebuilt)
    if all(file["equal"] for file in files):
        return {
            "verdict": "identical", "equal": True, "by": "bytes", "files": files, "predictions": None,
            "why": "all files of the model are equal byte for byte",
        }  # fmt: skip
    changed = [file["name"] for file in files if not file["equal"]]
    resumed = int(version.lineage.get("attempts") or 1) > 1
    exact = not different and job["nodes"] == 1 and not job["gpu_count"] and not resumed
    must = [name for name in changed if exact and verdict.booster(recorded / name)]
    try:
        answers = verdict.predictions(found.bento, rebuilt, _requests(runtime, version, folder), folder)
    except (EkibenError, OSError) as error:
        why = f"{_listed(changed)}, and the answers cannot be compared: {str(error).partition(chr(10))[0].rstrip('.')}"
        return {
            "verdict": "different", "equal": False, "by": "bytes", "why": why, "files": files, "predictions": None
        }  # fmt: skip
    answers["bound"] = bound
    close = not answers["first_other"] and answers["largest_difference"] <= bound
    told = (
        f"over {answers['requests']} requests {answers['first_other']}"
        if answers["first_other"]
        else f"over {answers['requests']} requests the largest difference of a number is {answers['largest_difference']:.3g}, "
        f"and the bound is {bound:g}"
    )
    if must:
        why = (
            f"{_listed(must)} although nothing differs from the environment of the run, where XGBoost writes the same bytes: "
            f"the job is not deterministic, or reads what is not recorded; {told}"
        )
    else:
        why = f"{_listed(changed)}{_cause(different, resumed)}; {told}"
    equal = close and not must
    return {
        "verdict": "equivalent" if equal else "different", "equal": equal, "by": "bytes" if must else "predictions", "why": why,
        "files": files, "predictions": answers,
    }  # fmt: skip


def _requests(runtime: Runtime, version: ModelVersion, folder: Path) -> list[dict[str, Any]]:
    """The version's sample, and the requests that the job has written to evaluation.jsonl: as stored, else as rebuilt."""
    found = []
    if "request" in version.sample:
        found.append({"route": version.sample.get("route") or "predict", "request": version.sample["request"]})
    uri = str(part(version.lineage, "run").get("output_uri") or "")
    where = f"{uri.rstrip('/')}/evaluation.jsonl"
    rebuilt = folder / "output" / "evaluation.jsonl"
    try:
        store = runtime.storage_of(where)
        lines = store.get(store.key(where)).decode().splitlines()
    except (ProviderError, SpecError):
        lines = rebuilt.read_text(encoding="utf-8").splitlines() if rebuilt.is_file() else []
    for number, line in enumerate(lines[:REQUESTS], 1):
        try:
            one = json.loads(line)
            found.append({"route": str(one.get("route") or "predict"), "request": one["request"]})
        except (ValueError, KeyError, AttributeError) as error:
            raise SpecError(f'Line {number} of evaluation.jsonl is not {{"route", "request"}}.') from error
    if not found:
        raise SpecError("The version has no sample, and its job wrote no evaluation.jsonl.")
    return found


def _metrics(version: ModelVersion, folder: Path) -> dict[str, dict[str, float | None]]:
    """Each metric as recorded and as rebuilt."""
    try:
        told = json.loads((folder / "output" / "metrics.json").read_text(encoding="utf-8")).get("metrics", {})
    except (OSError, ValueError, AttributeError):
        told = {}
    now = {
        name: float(value) for name, value in told.items() if isinstance(value, int | float) and math.isfinite(value)
    }
    return {
        name: {"recorded": version.metrics.get(name), "rebuilt": now.get(name)}
        for name in sorted({*version.metrics, *now})
    }


def _cause(different: Sequence[Mapping[str, str]], resumed: bool) -> str:
    if different:
        return f" ({_some(different)})"
    if resumed:
        return ", and the run was started more than once, so that it may have gone on from a checkpoint"
    return " although nothing differs from the environment of the run"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{shown} {'differs' if len(names) == 1 else 'differ'}"


def _some(different: Sequence[Mapping[str, str]]) -> str:
    shown = [f"{one['what']} {one['now']} instead of {one['recorded']}" for one in different[:5]]
    return ", ".join(shown) + (f" and {len(different) - 5} more" if len(different) > 5 else "")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (64 << 10)))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
    except OSError:
        return ""


class _Clock:
    """How long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def lap(self, name: str) -> float:
        now = time.monotonic()
        self.seconds[name] = round(now - self._began, 3)
        self._began = now
        return self.seconds[name]
