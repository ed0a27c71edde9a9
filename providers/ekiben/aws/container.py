"""What runs inside a SageMaker training container: `python3 -m ekiben.aws.container`, the supervisor of a training run.

It keeps the same contract as the station does, with the station's own code for the job's processes: limits, SIGTERM and grace,
the reason of a failure. SageMaker brings the channels and takes the folders away: `model` as the model, and `checkpoints`, which it
copies to storage while the run goes on and brings back when it starts an interrupted one again. Below that lie

    checkpoints/   what the job keeps          output/   metrics, signature, reports
    attempts.json  every attempt, and its end  status.json, log.txt   how the run has ended

Needs the standard library, and the part of Ekiben that `packing.job_library` packs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ekiben import job
from ekiben.lineage.data import snapshot
from ekiben.packing.archive import unpack
from ekiben.records import now
from ekiben.runs import lineage_of, metrics_of
from ekiben.station import processes
from ekiben.station.contained import (
    Attempts,
    Shown,
    empty,
    environment_of,
    failed_by,
    has_files,
    interpreter,
    own_copy,
    write,
)
from ekiben.station.interruptions import last_checkpoint, lost_s
from ekiben.station.nodes import Verdict, start, watch

__all__ = ["CHANNELS", "FAILURE_CHARS", "main"]

# Ekiben's own channels: with a dash, which the name of an input cannot have.
CHANNELS = {"ask": "ekiben-ask", "code": "ekiben-code", "library": "ekiben-library", "wheels": "ekiben-wheels"}
# SageMaker reads no more of the file.
FAILURE_CHARS = 1024
# How the job's own calls of AWS find the job's role, and no more than that role may do.
ROLE = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "TRAINING_JOB_NAME",
    "TRAINING_JOB_ARN",
)


class Machine:
    """The folders of this node, as SageMaker lays them out and as the station's code wants them."""

    def __init__(self, root: Path, scratch: Path, me: job.Node) -> None:
        self.root, self.me = root, me
        self.kept = root / "checkpoints" if me.rank == 0 else scratch / "kept"
        self.run_dir = scratch / "run"
        self.run_dir.mkdir(parents=True)
        self.own = root / "output"
        (self.own / "data").mkdir(parents=True, exist_ok=True)
        links = {
            "inputs": root / "input" / "data",
            "checkpoints": root / "checkpoints" / "checkpoints",
            "output": self.kept / "output",
            "model": root / "model" if me.rank == 0 else scratch / "model",
            "lib": Path(__file__).resolve().parents[2],
        }
        for name, target in links.items():
            target.mkdir(parents=True, exist_ok=True)
            (self.run_dir / name).symlink_to(target, target_is_directory=True)

    def channel(self, name: str) -> Path:
        return self.root / "input" / "data" / CHANNELS[name]

    def only(self, name: str) -> Path:
        """The one file of a channel."""
        (found,) = (path for path in self.channel(name).iterdir() if path.is_file())
        return found


def main() -> int:
    """Make the run, with its retries. Returns the exit status that SageMaker is to see."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    processes.adopt_orphans()
    root = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    me = job.node({}, resource_config=root / "input" / "config" / "resourceconfig.json")
    with tempfile.TemporaryDirectory(prefix="ekiben-") as scratch:
        machine = Machine(root, Path(scratch), me)
        earlier = machine.kept / "log.txt"
        if earlier.exists():
            shutil.copyfile(earlier, machine.run_dir / "log.txt")
        log = Shown(machine.run_dir / "log.txt")
        ask = json.loads(machine.only("ask").read_text(encoding="utf-8"))
        attempts = Attempts(machine.kept / "attempts.json")
        verdict = _run(machine, ask, attempts, log, told)
        log.close()
        shutil.copyfile(machine.run_dir / "log.txt", machine.kept / "log.txt")
    if verdict.state == "succeeded":
        return 0
    failure = root / "output" / "failure"
    failure.parent.mkdir(parents=True, exist_ok=True)
    failure.write_text(verdict.reason[:FAILURE_CHARS], encoding="utf-8")
    return 128 + signal.SIGTERM if verdict.state == "interrupted" else 1


def _run(machine: Machine, ask: dict[str, Any], attempts: Attempts, log: Shown, told: list[int]) -> Verdict:
    """Attempt after attempt, until one succeeds, or is told to stop, or has used up the retries."""
    found: dict[str, Any] = {}
    while True:
        attempt = attempts.begin()
        number = len(attempts.all)
        if number > 1:
            _, checkpoint = last_checkpoint(machine.run_dir)
            log.note(f"attempt {number}, " + (f"with the checkpoint {checkpoint}" if checkpoint else "from the start"))
        verdict = _attempt(machine, ask, found, attempt, log, told)
        if verdict.state == "interrupted":
            attempt["lost_s"] = lost_s(machine.run_dir, attempt.get("working_since", 0.0), time.time())
        if verdict.state != "succeeded":
            log.note(f"{verdict.state}: {verdict.reason}")
        attempt |= {"state": verdict.state, "reason": verdict.reason, "ended_at": now()}
        attempts.save()
        if verdict.state != "failed" or attempts.failures > ask["retries"] or told:
            break
    _tell(machine, {**ask, "attempt": number, "lost_s": attempts.lost_s}, found, verdict, log)
    return verdict


def _tell(machine: Machine, ask: Mapping[str, Any], found: Mapping[str, Any], verdict: Verdict, log: Shown) -> None:
    """How it ended, for `Training.run`."""
    output = machine.run_dir / "output"
    lineage = lineage_of(output, ask, found.get("inputs", {}), found.get("environment", {}), log.note)
    status = {"state": verdict.state, "reason": verdict.reason, "attempts": ask["attempt"], "ended_at": now()}
    write(machine.kept / "status.json", {**status, "metrics": metrics_of(output, log.note), "lineage": lineage})


def _attempt(
    machine: Machine,
    ask: Mapping[str, Any],
    found: dict[str, Any],
    attempt: dict[str, Any],
    log: Shown,
    told: list[int],
) -> Verdict:
    def asked() -> Verdict | None:
        return Verdict(state="interrupted", reason="it was told to stop (SIGTERM)") if told else None

    try:
        if "python" not in found:
            found |= _prepared(machine, ask)
        for part in (machine.run_dir / "model", machine.run_dir / "output", machine.own / "data"):
            empty(part)
        (machine.own / "failure").unlink(missing_ok=True)
        code = own_copy(found["bundle"], machine.run_dir / "code")
        if verdict := asked():
            return verdict
        attempt["working_since"] = time.time()
        given = {**ask, **_given(machine, ask), "python": found["python"]}
        verdict = watch(start(machine.run_dir, code, given, log), machine.run_dir, given, asked)
        verdict = _as_written_for_sagemaker(machine, verdict)
    except Exception as error:
        # What it was waiting for may have been told to stop, too.
        if verdict := asked():
            return verdict
        return failed_by(error)
    if verdict.state == "interrupted" and not told:
        # Nobody told this machine to stop: the kernel did it, most likely for lack of memory.
        verdict = Verdict(state="failed", reason=verdict.reason)
    if verdict.state == "succeeded" and machine.me.rank == 0 and not has_files(machine.run_dir / "model"):
        return Verdict(state="failed", reason="it left no model: there is nothing in EKIBEN_MODEL_DIR")
    return verdict


def _as_written_for_sagemaker(machine: Machine, verdict: Verdict) -> Verdict:
    """What the job left where SageMaker has it, and not Ekiben: files of its output, and why it failed."""
    output = machine.run_dir / "output"
    for path in sorted((machine.own / "data").rglob("*")):
        target = output / path.relative_to(machine.own / "data")
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    failure = machine.own / "failure"
    if verdict.state != "failed" or not failure.is_file():
        return verdict
    why = failure.read_text(encoding="utf-8", errors="replace").strip()[:FAILURE_CHARS]
    return Verdict(state="failed", reason=why or verdict.reason)


def _prepared(machine: Machine, ask: Mapping[str, Any]) -> dict[str, Any]:
    """The code, its interpreter, and (on the first node) what the inputs and the environment are."""
    bundle = unpack(machine.only("code"), ask["code_sha256"], machine.run_dir.parent / "bundle")
    lock, home = bundle / "requirements.txt", machine.run_dir.parent / "environment"
    found: dict[str, Any] = {"bundle": bundle, "python": interpreter(lock, home, machine.channel("wheels"))}
    if machine.me.rank:
        return found
    found["inputs"] = {name: _snapshot(machine, name, uri) for name, uri in sorted(ask["inputs"].items())}
    return {**found, "environment": environment_of(found["python"], lock, machine.run_dir / "lib")}


def _snapshot(machine: Machine, name: str, uri: str) -> dict[str, Any]:
    folder = machine.run_dir / "inputs" / name
    start = uri if uri.endswith("/") else uri.rpartition("/")[0] + "/"
    there = {start + path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {"uri": uri, **snapshot(there)}


def _given(machine: Machine, ask: Mapping[str, Any]) -> dict[str, Any]:
    """What this machine adds to the ask: the station's code sees one node of a single one, the job sees which of them it is."""
    me = machine.me
    gpus = [str(number) for number in range(ask["gpu_count"])]
    return {
        "nodes": 1, "cpus": [[]], "gpus": [gpus], "spec_uri": machine.only("ask").as_uri(),
        # The instance is the run's alone.
        "vcpu": max(ask["vcpu"], os.cpu_count() or 1),
        "machine_env": {
            "EKIBEN_NODE_RANK": str(me.rank), "EKIBEN_NODE_COUNT": str(me.count),
            "EKIBEN_MASTER_ADDR": me.master_addr, "EKIBEN_MASTER_PORT": str(me.master_port),
            **_toolkit(machine, ask, len(gpus)),
            **{name: os.environ[name] for name in (*ROLE, "SAGEMAKER_BASE_DIR") if name in os.environ},
        },
    }  # fmt: skip


def _toolkit(machine: Machine, ask: Mapping[str, Any], gpus: int) -> dict[str, str]:
    """The variables of SageMaker's own toolkit and of its ModelTrainer, for code that was written for them."""
    config = machine.root / "input" / "config"
    resources: dict[str, Any] = {"hosts": ["algo-1"], "current_host": "algo-1"}
    if (config / "resourceconfig.json").is_file():
        resources = json.loads((config / "resourceconfig.json").read_text(encoding="utf-8"))
    hosts, me = resources["hosts"], machine.me
    channels = {name: str(machine.root / "input" / "data" / name) for name in sorted(ask["inputs"])}
    told: dict[str, Any] = {
        "SM_MODEL_DIR": str(machine.run_dir / "model"), "SM_OUTPUT_DIR": str(machine.own),
        "SM_OUTPUT_DATA_DIR": str(machine.run_dir / "output"), "SM_OUTPUT_FAILURE": str(machine.own / "failure"),
        "SM_INPUT_DIR": str(machine.root / "input"), "SM_INPUT_DATA_DIR": str(machine.root / "input" / "data"),
        "SM_INPUT_CONFIG_DIR": str(config), "SM_CHANNELS": sorted(channels), "SM_HPS": ask["params"],
        "SM_SOURCE_DIR": str(machine.run_dir / "code"), "SM_ENTRY_SCRIPT": ask["entry"], "SM_LOG_LEVEL": 20,
        "SM_HOSTS": hosts, "SM_CURRENT_HOST": resources["current_host"], "SM_HOST_COUNT": len(hosts),
        "SM_CURRENT_HOST_RANK": me.rank, "SM_CURRENT_INSTANCE_TYPE": resources.get("current_instance_type", ""),
        "SM_NETWORK_INTERFACE_NAME": resources.get("network_interface_name", "eth0"), "SM_RESOURCE_CONFIG": resources,
        "SM_MASTER_ADDR": me.master_addr, "SM_MASTER_PORT": me.master_port, "SM_NUM_GPUS": gpus, "SM_NUM_NEURONS": 0,
        "SM_NUM_CPUS": os.cpu_count() or 1,
        **{f"SM_CHANNEL_{name.upper()}": path for name, path in channels.items()},
        **{f"SM_HP_{name.replace('-', '_').upper()}": value for name, value in ask["params"].items()},
    }  # fmt: skip
    told["SM_TRAINING_ENV"] = {
        "channel_input_dirs": channels, "hyperparameters": ask["params"], "job_name": os.environ.get("TRAINING_JOB_NAME", ""),
        **{name.removeprefix("SM_").lower(): told[name] for name in (
            "SM_CURRENT_HOST", "SM_CURRENT_INSTANCE_TYPE", "SM_HOSTS", "SM_INPUT_CONFIG_DIR", "SM_INPUT_DATA_DIR", "SM_INPUT_DIR",
            "SM_LOG_LEVEL", "SM_MASTER_ADDR", "SM_MASTER_PORT", "SM_MODEL_DIR", "SM_NETWORK_INTERFACE_NAME", "SM_NUM_CPUS",
            "SM_NUM_GPUS", "SM_NUM_NEURONS", "SM_OUTPUT_DATA_DIR", "SM_RESOURCE_CONFIG",
        )},
    }  # fmt: skip
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}


if __name__ == "__main__":
    sys.exit(main())
