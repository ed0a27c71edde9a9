"""A submitted job: checked against its training, and made into all that a supervisor has to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ekiben.errors import NoCapacity, NotFound
from ekiben.records import Job
from ekiben.runs import check_job
from ekiben.specs import TrainingSpec
from ekiben.station import machine
from ekiben.station.bundles import bucket_of
from ekiben.station.noun import Resource
from ekiben.whoami import whoami

__all__ = ["ask_of", "check_capacity"]


def ask_of(resource: Resource, job: Job, state_dir: Path) -> dict[str, Any]:
    """What is asked of the supervisor. Raises SpecError for a bad id, parameter or input, NotFound for a storage that is gone."""
    declared = resource.spec
    spec = TrainingSpec(**declared["spec"])
    params = check_job(resource.name, job, {"inputs": spec.inputs, "params": spec.params})
    inputs = {**declared.get("input_uris", {}), **job.inputs}
    for uri in (*inputs.values(), declared["storage_uri"]):
        bucket, _ = bucket_of(state_dir, uri)
        if not bucket.is_dir():
            why = f"there is no storage {bucket.name!r} any more, which it reads from or writes to"
            raise NotFound("local", f"submit the run {job.id!r}", why, "Mend it with `ekiben up`")
    return {
        "id": job.id, "training": resource.name, "model": spec.model or resource.name, "entry": spec.entry,
        "arguments": spec.arguments,
        "env": dict(spec.env), "inputs": inputs, "params": params, "params_json": json.dumps(params, ensure_ascii=False),
        "nodes": spec.nodes, "vcpu": spec.resources.vcpu, "memory_mib": spec.resources.memory_mib,
        "gpu_count": spec.resources.gpus, "gpu": spec.resources.gpu, "timeout_s": spec.timeout_s,
        "grace_s": spec.grace_s, "retries": spec.retries, "spot": spec.spot, "storage_uri": declared["storage_uri"],
        "code_uri": declared["code_uri"], "code_sha256": declared["code_sha256"],
        "code": {"uri": declared["code_uri"], "sha256": declared["code_sha256"], **declared.get("code", {})},
        "state_dir": str(state_dir), "by": whoami(),
    }  # fmt: skip


def check_capacity(ask: Mapping[str, Any], gpus: Sequence[machine.Gpu]) -> None:
    """Raise NoCapacity for what this machine can never give."""
    nodes, operation = ask["nodes"], f"start the run {ask['id']!r}"
    each = f" ({nodes} nodes)" if nodes > 1 else ""
    cpus, memory_mib = len(machine.cpus()), machine.memory_mib()
    if ask["vcpu"] * nodes > cpus:
        raise NoCapacity("local", operation, f"it asks for {ask['vcpu'] * nodes:g} CPUs{each} and this machine has {cpus}",
                         "Lower resources.vcpu, or train on a provider that has them")  # fmt: skip
    if ask["memory_mib"] * nodes > memory_mib:
        raise NoCapacity("local", operation, f"it asks for {ask['memory_mib'] * nodes} MiB{each} and this machine has {memory_mib}",
                         "Lower resources.memory_mib, or train on a provider that has them")  # fmt: skip
    wanted = ask["gpu_count"] * nodes
    fit = [gpu for gpu in gpus if machine.suits(gpu, ask["gpu"])]
    if wanted > len(fit):
        kind = f" {ask['gpu']}" if ask["gpu"] else ""
        there = ", ".join(gpu.name for gpu in gpus) or "none (nvidia-smi shows none)"
        raise NoCapacity("local", operation, f"it asks for {wanted}{kind} GPUs{each} and this machine has {len(fit)}: {there}",
                         "Set resources.gpus=0, or train on a provider that has them")  # fmt: skip
