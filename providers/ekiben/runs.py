"""What is the same of training runs on every provider: the rules of a job, what a run logs, what it says of itself at its end.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ekiben.errors import SpecError
from ekiben.records import Job

__all__ = [
    "REPEATED",
    "RUN_ID",
    "Trained",
    "check_job",
    "job_digest",
    "lineage_of",
    "metrics_of",
    "progress",
    "run_ask",
    "told_object",
    "told_objects",
]

# SageMaker's rule for the names of jobs, the tightest of all.
RUN_ID = re.compile(r"[A-Za-z0-9](?:-*[A-Za-z0-9]){0,62}", re.ASCII)

# What, beside data, code, environment and parameters, it takes to make the same run again.
REPEATED = (
    "training", "entry", "arguments", "env", "nodes", "vcpu", "memory_mib", "gpu_count", "gpu", "timeout_s", "grace_s",
)  # fmt: skip


def check_job(training: str, job: Job, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the run: those of `spec` (a TrainingSpec's fields), with the job's over them.

    Raises SpecError for a bad id, an input that the training does not have, and a parameter of another type than a spec has.
    """
    if not RUN_ID.fullmatch(job.id) or len(job.id) > 63:
        raise SpecError(
            f"The run id {job.id!r} will not do on every provider: use 1 to 63 of A-Z, a-z, 0-9 and dashes, "
            "a letter or digit first and last."
        )
    if unknown := sorted(set(job.inputs) - set(spec["inputs"])):
        known = ", ".join(sorted(spec["inputs"])) or "none"
        raise SpecError(f"The training {training!r} has no input {unknown[0]!r}; it has: {known}.")
    params = {**spec["params"], **job.params}
    for name, value in params.items():
        if not isinstance(value, str | int | float | bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise SpecError(f"The parameter {name!r} is {value!r}: use text, a finite number, true or false.")
    return params


def job_digest(job: Job) -> str:
    """Of what a job asks beside its id: two jobs of one id are the same one only if this is the same."""
    asked = json.dumps([job.inputs, job.params], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()


class Trained(Protocol):
    """What the facts of a training have wherever its runs take all they need from an S3 store."""

    @property
    def spec(self) -> dict[str, Any]: ...
    @property
    def input_uris(self) -> dict[str, str]: ...
    @property
    def code(self) -> dict[str, Any]: ...
    @property
    def code_uri(self) -> str: ...
    @property
    def code_sha256(self) -> str: ...


def run_ask(provider: str, training: str, facts: Trained, job: Job, *, by: str, at: str) -> dict[str, Any]:
    """All that a supervisor in a container has to know of a run. Raises SpecError for a bad job."""
    spec = facts.spec
    params = check_job(training, job, spec)
    inputs = {**facts.input_uris, **job.inputs}
    if strange := sorted(name for name, uri in inputs.items() if not re.match(r"s3://[^/]+/", uri)):
        raise SpecError(
            f"The input {strange[0]!r} is {inputs[strange[0]]!r}: on {provider} it begins with s3://BUCKET/."
        )
    resources = spec["resources"]
    return {
        "id": job.id, "training": training, "model": spec["model"] or training, "entry": spec["entry"], "env": spec["env"],
        "arguments": spec.get("arguments", False), "inputs": inputs,
        "params": params, "params_json": json.dumps(params, ensure_ascii=False), "nodes": spec["nodes"],
        "vcpu": resources["vcpu"], "memory_mib": resources["memory_mib"], "gpu_count": resources["gpus"],
        "gpu": resources["gpu"], "timeout_s": spec["timeout_s"], "grace_s": spec["grace_s"], "retries": spec["retries"],
        "spot": spec["spot"], "code_sha256": facts.code_sha256,
        "code": {"uri": facts.code_uri, "sha256": facts.code_sha256, **facts.code}, "by": by, "submitted_at": at,
        "job_sha256": job_digest(job),
    }  # fmt: skip


def told_object(data: bytes) -> dict[str, Any]:
    """The JSON object that a run's container has stored; empty where there is none, or it was cut off while it was written."""
    value = _told(data)
    return value if isinstance(value, dict) else {}


def told_objects(data: bytes) -> list[dict[str, Any]]:
    """The list of JSON objects that a run's container has stored; empty as in `told_object`."""
    value = _told(data)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _told(data: bytes) -> Any:
    try:
        return json.loads(data or b"null")
    except ValueError:
        return None


def progress(lines: Iterable[bytes]) -> dict[str, float]:
    """The last value of each metric in the lines of a run's progress.jsonl; half a line is left out."""
    found: dict[str, float] = {}
    for line in lines:
        try:
            point = json.loads(line)
            value = float(point["value"])
        except (ValueError, KeyError, TypeError):
            continue
        if math.isfinite(value):
            found[str(point["name"])] = value
    return found


def metrics_of(output: Path, note: Callable[[str], None]) -> dict[str, float]:
    """The metrics in metrics.json of the folder `output`; `note` is told of what is left out."""
    told = _read_object(output / "metrics.json", note).get("metrics", {})
    kept = {}
    for name, value in told.items() if isinstance(told, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            kept[str(name)] = float(value)
        else:
            note(f"the metric {name!r} is left out: {value!r} is no finite number")
    return kept


def lineage_of(
    output: Path,
    ask: Mapping[str, Any],
    inputs: Mapping[str, Any],
    environment: Mapping[str, Any],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """What a run was made from, for `Run.lineage`: the job's own lineage.json adds rows and seeds. `ask`: what was submitted."""
    told = _read_object(output / "lineage.json", note)
    rows = told.get("rows", {})
    rows = rows if isinstance(rows, dict) else {}
    counted = {
        name: {**snapshot, "rows": rows[name]} if name in rows else snapshot for name, snapshot in inputs.items()
    }
    return {
        "inputs": counted, "code": ask["code"], "environment": environment, "params": ask["params"],
        "seeds": told.get("seeds", {}), "by": ask["by"], "job": {name: ask[name] for name in REPEATED if name in ask},
        "attempts": ask["attempt"], "lost_s": ask["lost_s"],
    }  # fmt: skip


def _read_object(path: Path, note: Callable[[str], None]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        note(f"{path.name} is left out: {error}")
        return {}
    return value if isinstance(value, dict) else {}
