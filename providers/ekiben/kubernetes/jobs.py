"""A training run's Job: what it is asked to do, and the objects that make it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ekiben.errors import NoCapacity
from ekiben.kubernetes import trainjobs
from ekiben.kubernetes.bootstrap import command, variables
from ekiben.kubernetes.facts import TrainingFacts, labels
from ekiben.kubernetes.keys import FAILED, MASTER_PORT, job_name, run_key
from ekiben.kubernetes.pods import s3_variables, variable
from ekiben.records import Job, Part, Platform
from ekiben.runs import run_ask

__all__ = ["ASKED", "CANCELLED", "ask_of", "check_room", "request", "service"]

# Annotations of a Job: where its ask lies, that of what was asked, and when it was cancelled.
ASK, ASKED, CANCELLED = "ekiben.dev/ask", "ekiben.dev/asked-sha256", "ekiben.dev/cancelled"
# Beside the job's own time: a node and the image, inputs brought, requirements installed, results taken.
AROUND_S = 1800
SPOT_WAIT_S = 24 * 3600
# After SIGTERM and the grace: what is not stored yet is stored.
STORE_S = 60
# Pods of a node that end without a verdict; those of spot capacity may come back as often as they are taken away.
OWN_RETRIES, SPOT_RETRIES = 3, 1000


def ask_of(part: Part, facts: TrainingFacts, job: Job, *, by: str, at: str) -> dict[str, Any]:
    """All that a pod has to know. Raises SpecError for a bad job."""
    return {
        **run_ask("kubernetes", part.name, facts, job, by=by, at=at), "wheels_uri": facts.wheels_uri, "bus": facts.bus,
        "run_uri": f"{facts.storage_uri.rstrip('/')}/{run_key(part.name, job.id).rstrip('/')}",
    }  # fmt: skip


def request(
    platform: Platform, part: Part, facts: TrainingFacts, ask: Mapping[str, Any], ask_uri: str
) -> dict[str, Any]:
    """The Job for the ask that lies at `ask_uri`; of a TrainJob what it is to come to."""
    name, nodes = job_name(part.name, ask["id"], facts.storage_uri), ask["nodes"]
    master = f"{trainjobs.job_of(name) if facts.kind == 'TrainJob' else name}-0.{name}"
    whose = labels(platform, part, run=ask["id"])
    pod = copy.deepcopy(facts.pod)
    container = pod["containers"][0]
    container["command"] = command("ekiben.kubernetes.container")
    container["env"] = [
        *container.get("env", ()), *s3_variables(facts.s3), *variables(facts.library_uri, facts.library_sha256),
        variable("EKIBEN_ASK_URI", ask_uri), variable("EKIBEN_MASTER_NAME", master if nodes > 1 else ""),
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]  # fmt: skip
    # The log of a pod that never came to log is the reason why it ended.
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    pod |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": ask["grace_s"] + STORE_S}
    if nodes > 1 and facts.kind == "Job":  # a JobSet does so by itself
        pod["subdomain"] = name
    whole_s = (ask["timeout_s"] + ask["grace_s"]) * (ask["retries"] + 1) + AROUND_S
    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    failed = {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [FAILED]},
    }
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "labels": whose, "annotations": {ASK: ask_uri, ASKED: ask["job_sha256"]},
        },
        "spec": {
            "completionMode": "Indexed", "completions": nodes, "parallelism": nodes,
            "backoffLimitPerIndex": SPOT_RETRIES if ask["spot"] else ask["retries"] + OWN_RETRIES,
            "podFailurePolicy": {"rules": [failed, disrupted]},
            "activeDeadlineSeconds": whole_s + (SPOT_WAIT_S if ask["spot"] else 0),
            "template": {"metadata": {"labels": whose}, "spec": pod},
        },
    }  # fmt: skip


def service(job: Mapping[str, Any]) -> dict[str, Any]:
    """The headless Service by which the nodes of a Job find each other: NAME-0.NAME. It goes with the Job."""
    meta = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": meta["name"], "labels": meta["labels"], "ownerReferences": [owner]},
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": True, "ports": [{"name": "master", "port": MASTER_PORT}],
            "selector": {"batch.kubernetes.io/job-name": meta["name"]},
        },
    }  # fmt: skip


def check_room(job: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]], operation: str) -> None:
    """Raise NoCapacity where a pod of the Job is larger than every node is, empty."""
    pod = job["spec"]["template"]["spec"]
    asked = {name: amount(value) for name, value in pod["containers"][0]["resources"]["requests"].items()}
    selector = pod.get("nodeSelector") or {}
    best: dict[str, float] = {}
    for node in nodes:
        has = {name: amount(value) for name, value in (node.get("status") or {}).get("allocatable", {}).items()}
        told = (node.get("metadata") or {}).get("labels") or {}
        if any(told.get(key) != value for key, value in selector.items()):
            continue
        if all(has.get(name, 0.0) >= value for name, value in asked.items()):
            return
        best = {name: max(best.get(name, 0.0), has.get(name, 0.0)) for name in asked}
    lacks = [
        f"{name} {asked[name]:g} (the most is {best.get(name, 0):g})"
        for name in asked
        if best.get(name, 0) < asked[name]
    ]
    why = f"no node of the cluster has {', '.join(lacks)}" if lacks else "no node of the cluster has all of it at once"
    raise NoCapacity("kubernetes", operation, why, "Ask for less, or add a node that has it")


def amount(text: Any) -> float:
    """A quantity of Kubernetes' as a number: "500m" is 0.5, "1Gi" is 2**30. Raises ValueError."""
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(m|[kMGTPE]|[KMGTPE]i|n|u)?", str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    unit = found[2] or ""
    if unit in ("n", "u", "m"):
        return float(found[1]) / {"n": 1e9, "u": 1e6, "m": 1e3}[unit]
    power = " kMGTPE".upper().index(unit[0].upper()) if unit else 0
    return float(found[1]) * (1024.0 if unit.endswith("i") else 1000.0) ** power
