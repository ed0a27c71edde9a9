"""Training on Kubernetes: a run is an Indexed Job, or a TrainJob that comes to one. What its pods have stored says how it went; the
Job, whether it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ekiben import runtime
from ekiben.errors import AccessDenied, AlreadyExists, NotFound, Unavailable
from ekiben.kubernetes import trainjobs
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.errors import UNSEEN, trouble_of
from ekiben.kubernetes.events import publish
from ekiben.kubernetes.facts import COMPONENT, PROJECT, RUN, STACK, TrainingFacts, facts_of
from ekiben.kubernetes.jobs import ASK, ASKED, CANCELLED, ask_of, check_room, request, service
from ekiben.kubernetes.keys import job_name, run_key
from ekiben.kubernetes.runlogs import lines
from ekiben.kubernetes.storage import open_storage
from ekiben.records import Event, Interruption, Job, Part, Platform, Run, RunState, now
from ekiben.runs import job_digest, progress, told_object, told_objects
from ekiben.waiting import looks, patiently

__all__ = ["Training"]

FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 3.0
# SIGTERM, two minutes of grace, and what is stored of what there is.
CANCEL_TIMEOUT_S = 600.0
# Of making a TrainJob: some 15 s, after which the Trainer has seen what was made before it.
SEEN_ATTEMPTS = 8
# What the other nodes of a run have logged last is stored some seconds after its end.
SETTLE_TIMEOUT_S = 60.0
READERS = 8
OF_JOB = "batch.kubernetes.io/job-name"


class Training(runtime.Training):
    """The Jobs with this training's labels, or the TrainJobs."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, TrainingFacts)
        self._kind = self._facts.kind
        self._cluster = Cluster(self._facts.namespace, self._facts.context)
        self._storage = open_storage(
            self._facts.storage_uri, self._facts.namespace, self._facts.s3, self._facts.context
        )

    def submit(self, job: Job) -> Run:
        """See `runtime.Training`. Raises AlreadyExists for an id that names a run with other inputs or parameters."""
        checked = ask_of(self.part, self._facts, job, by="", at="")
        operation = f"submit the run {job.id!r}"
        with suppress(NotFound):
            return self._there(job, operation)
        ask = {**checked, "by": self._cluster.whoami(operation), "submitted_at": now()}
        data = json.dumps(ask, sort_keys=True, ensure_ascii=False).encode()
        # Named by its contents: of two submitters at once each has its own, and the Job names the one that it is given.
        key = run_key(self.part.name, job.id, f"asks/{hashlib.sha256(data).hexdigest()[:16]}.json")
        asked = request(self.platform, self.part, self._facts, ask, self._storage.uri(key))
        if not self._facts.elastic:
            with suppress(AccessDenied):  # who may not look at nodes learns of it by a run that waits
                check_room(asked, list(self._cluster.list("Node", operation)), operation)
        self._storage.put(key, data)
        if self._kind == "TrainJob":
            template, asked = trainjobs.of(asked)
            with suppress(AlreadyExists):
                self._cluster.create("TrainingRuntime", template, operation)
        self._make(asked, operation)
        return self._there(job, operation)

    def run(self, id: str) -> Run:
        operation = f"show the run {id!r}"
        try:
            return self._run(self._job(id, operation), operation)
        except NotFound:
            if found := self._stored(id):
                return found
            raise

    def runs(self) -> list[Run]:
        operation = f"list the runs of {self.part.name!r}"
        # The Jobs of a TrainJob carry the same labels.
        jobs = list(self._cluster.list(self._kind, operation, labels=f"{self._labels()},!{trainjobs.IN_JOBSET}"))
        pods: dict[str, list[dict[str, Any]]] = {}
        for pod in self._cluster.list("Pod", operation, labels=self._labels()):
            pods.setdefault(pod["metadata"]["labels"].get(OF_JOB, ""), []).append(pod)
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(
                lambda job: self._run(job, operation, pods.get(self._pods(job["metadata"]["name"]), [])), jobs
            )
            return sorted(found, key=lambda run: run.submitted_at, reverse=True)

    def logs(self, id: str, *, follow: bool = False) -> Iterator[str]:
        """See `runtime.Training`. From its pods while they are there, then from what they have stored."""
        operation = f"read the log of the run {id!r}"
        run = self.run(id)
        if not run.ended:
            yield from lines(
                self._cluster,
                self._pods(self._name(id)),
                run.nodes,
                operation,
                ended=lambda: self.run(id).ended,
                follow=follow,
            )
            return
        if run.nodes > 1:
            self._settled(id, operation)
        for rank in range(run.nodes):
            mark = f"[{rank}] " if run.nodes > 1 else ""
            for line in (
                self._kept(id, "log.txt" if rank == 0 else f"log-{rank}.txt").decode("utf-8", "replace").splitlines()
            ):
                yield mark + line

    def _settled(self, id: str, operation: str) -> None:
        """Wait, for a while, until the pods of a run that has ended have, too: they store their logs after node 0 has."""
        for _ in looks(SETTLE_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            pods = self._cluster.list("Pod", operation, labels={OF_JOB: self._pods(self._name(id))})
            if not any((pod.get("status") or {}).get("phase") == "Running" for pod in pods):
                return

    def cancel(self, id: str) -> Run:
        """See `runtime.Training`. Raises Unavailable when its pods have not ended after ten minutes."""
        operation = f"cancel the run {id!r}"
        found = self.run(id)
        if found.ended:
            return found
        change = {"metadata": {"annotations": {CANCELLED: now()}}, "spec": {"suspend": True}}
        self._cluster.patch(self._kind, self._name(id), change, operation)
        for _ in looks(CANCEL_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            if (found := self.run(id)).ended:
                self._tell(found)
                return found
        raise Unavailable(
            "kubernetes",
            operation,
            f"its pods have not ended after {CANCEL_TIMEOUT_S:g} s",
            "They go on ending; look at it later",
        )

    def _make(self, asked: Mapping[str, Any], operation: str) -> None:
        """Make the run's Job or TrainJob, unless it is there. What was made for it before, the Trainer sees a moment later."""

        def make() -> None:
            with suppress(AlreadyExists):
                self._cluster.create(self._kind, asked, operation)

        def unseen(error: Exception) -> bool:
            return isinstance(error, Unavailable) and UNSEEN in error.why

        patiently(make, unseen, SEEN_ATTEMPTS, FIRST_PAUSE_S)

    def _there(self, job: Job, operation: str) -> Run:
        """The run of this job's id. Raises NotFound, and AlreadyExists where it is another one's."""
        found = self._job(job.id, operation)
        if found["metadata"]["annotations"].get(ASKED) != job_digest(job):
            raise AlreadyExists(
                "kubernetes", operation, "a run of that id has other inputs or parameters", "Use another id"
            )
        if self._kind == "Job" and found["spec"]["completions"] > 1:
            # Also where who made the Job did not come to make its Service.
            with suppress(AlreadyExists):
                self._cluster.create("Service", service(found), operation)
        return self._run(found, operation)

    def _job(self, id: str, operation: str) -> dict[str, Any]:
        try:
            return self._cluster.get(self._kind, self._name(id), operation)
        except NotFound as error:
            why = f"the training {self.part.name!r} has no such run"
            raise NotFound("kubernetes", operation, why, "List them with `ekiben runs`") from error

    def _name(self, id: str) -> str:
        return job_name(self.part.name, id, self._facts.storage_uri)

    def _pods(self, name: str) -> str:
        """The Job that has the pods of the run whose Job or TrainJob is called so."""
        return trainjobs.job_of(name) if self._kind == "TrainJob" else name

    def _labels(self) -> str:
        return f"{PROJECT}={self.platform.project},{STACK}={self.platform.stack},{COMPONENT}={self.part.name}"

    def _run(self, job: Mapping[str, Any], operation: str, pods: list[dict[str, Any]] | None = None) -> Run:
        """The record of a Job, with what its pods have stored."""
        id = job["metadata"]["labels"][RUN]
        if pods is None:
            pods = list(self._cluster.list("Pod", operation, labels={OF_JOB: self._pods(job["metadata"]["name"])}))
        told = told_object(self._kept(id, "status.json"))
        ask = self._asked(job["metadata"]["annotations"].get(ASK, ""))
        state, reason = self._state(job, pods, told, operation)
        run = self._record(id, ask, told, state, reason, _times(job))
        if run.ended and not told and state != "cancelled":
            # No pod of it came to say so.
            self._tell(run)
        return run

    def _state(
        self, job: Mapping[str, Any], pods: list[dict[str, Any]], told: Mapping[str, Any], operation: str
    ) -> tuple[RunState, str]:
        status = job.get("status") or {}
        conditions = {one["type"]: one for one in status.get("conditions") or () if one.get("status") == "True"}
        alive = [
            pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Pending", "Running", "Unknown", None)
        ]
        if told.get("state") in ("succeeded", "failed"):
            return told["state"], str(told.get("reason", ""))
        if CANCELLED in job["metadata"]["annotations"]:
            if "Suspended" in conditions and not alive:
                return "cancelled", "cancelled"
            return "running", "it is being cancelled"
        if "Complete" in conditions:
            return "succeeded", ""
        if failed := conditions.get("Failed") or conditions.get("FailureTarget"):
            return "failed", self._why(pods, job, [failed], operation)
        if any((pod.get("status") or {}).get("phase") == "Running" for pod in alive):
            return "running", ""
        return "pending", self._why(alive, job, (), operation)

    def _why(self, pods: list[dict[str, Any]], job: Mapping[str, Any], conditions: Any, operation: str) -> str:
        """Why it waits, or has failed, by what the cluster says of its pods and of the Job; empty where it says nothing."""
        newest = sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
        for pod in newest:
            if trouble := trouble_of(pod):
                return str(trouble)
        name = job["metadata"]["name"]
        about = [*dict.fromkeys((name, self._pods(name))), *(pod["metadata"]["name"] for pod in newest[:1])]
        events: list[dict[str, Any]] = []
        with suppress(AccessDenied):
            for name in about:
                events.extend(self._cluster.list("Event", operation, fields=f"involvedObject.name={name}"))
        trouble = trouble_of(None, events if conditions or not newest else [], conditions)
        if trouble is None and newest and not conditions:
            trouble = trouble_of(None, events)
        return str(trouble) if trouble else str(conditions[0].get("message", "it failed")) if conditions else ""

    def _record(
        self,
        id: str,
        ask: Mapping[str, Any],
        told: Mapping[str, Any],
        state: RunState,
        reason: str,
        times: Mapping[str, str],
    ) -> Run:
        ended = state in ("succeeded", "failed", "cancelled")
        attempts = told_objects(self._kept(id, "attempts.json"))
        metrics = told.get("metrics", {}) if ended else {}
        if state == "running":
            metrics = progress(self._kept(id, "output/progress.jsonl").splitlines())
        uri, spec = self._storage.uri(run_key(self.part.name, id)), self._facts.spec
        return Run(
            id=id, training=self.part.name, state=state, reason=reason,
            submitted_at=str(ask.get("submitted_at") or times.get("submitted", "")),
            started_at=str(attempts[0]["started_at"]) if attempts else "",
            ended_at=str(told.get("ended_at") or times.get("ended", "")) if ended else "",
            nodes=int(ask.get("nodes", spec["nodes"])), params=dict(ask.get("params", {})), metrics=metrics,
            model=str(ask.get("model") or spec["model"] or self.part.name),
            model_uri=f"{uri}model/" if state == "succeeded" else "",
            output_uri=f"{uri}output/" if ended and attempts else "", log_uri=f"{uri}log.txt" if ended and attempts else "",
            lineage=told.get("lineage", {}), attempts=len(attempts), interruptions=_interruptions(attempts),
        )  # fmt: skip

    def _stored(self, id: str) -> Run | None:
        """A run whose Job somebody has deleted, as its pods have told it."""
        told = told_object(self._kept(id, "status.json"))
        asks = sorted(self._storage.list(run_key(self.part.name, id, "asks/")), key=lambda one: one.modified)
        if not told or not asks:
            return None
        ask = told_object(self._storage.get(asks[0].key))
        return self._record(id, ask, told, told["state"], str(told.get("reason", "")), {})

    def _asked(self, uri: str) -> dict[str, Any]:
        with suppress(NotFound):
            return told_object(self._storage.get(self._storage.key(uri)))
        return {}

    def _kept(self, id: str, name: str) -> bytes:
        """An object that the run's pods keep; empty where there is none."""
        try:
            return self._storage.get(run_key(self.part.name, id, name))
        except NotFound:
            return b""

    def _tell(self, run: Run) -> None:
        """Publish that it has ended, where its pods did not: once, by whomever sees it first."""
        with suppress(AlreadyExists):
            self._storage.put_if_absent(run_key(self.part.name, run.id, "told"), b"")
            event = Event(
                id=f"training-ended-{run.id}", type="TrainingEnded", source=run.training, subject=run.id, time=run.ended_at,
                data={"state": run.state, "reason": run.reason},
            )  # fmt: skip
            publish(event, Platform(project="", stack="", parts={self.part.name: self.part}))


def _times(job: Mapping[str, Any]) -> dict[str, str]:
    status = job.get("status") or {}
    ended = [one.get("lastTransitionTime", "") for one in status.get("conditions") or () if one.get("status") == "True"]
    return {
        "submitted": str(job["metadata"].get("creationTimestamp", "")),
        "ended": str(status.get("completionTime") or max(ended, default="")),
    }


def _interruptions(attempts: list[dict[str, Any]]) -> list[Interruption]:
    return [
        Interruption(
            at=str(one.get("ended_at", "")), reason=str(one.get("reason", "")), lost_s=float(one.get("lost_s", 0.0))
        )
        for one in attempts
        if one.get("state") == "interrupted"
    ]
