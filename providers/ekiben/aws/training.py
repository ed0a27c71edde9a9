"""Training on SageMaker: a run is a training job. The job is the truth; what the container wrote beside it says the rest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from ekiben import runtime
from ekiben.aws.client import Cloud
from ekiben.aws.facts import TrainingFacts, facts_of
from ekiben.aws.jobs import ask_of, job_name, job_scope, request, run_key, run_of
from ekiben.aws.logs import lines
from ekiben.aws.storage import open_storage
from ekiben.aws.waiting import looks, when_assumable
from ekiben.errors import AlreadyExists, NotFound, ProviderError, Unavailable
from ekiben.records import Interruption, Job, Part, Platform, Run, RunState, now
from ekiben.runs import job_digest, progress, told_object, told_objects

__all__ = ["Training"]

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
# A role that was made a moment ago cannot be assumed for some ten seconds, and seldom for a minute.
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 10.0
# SIGTERM, two minutes of grace, and the upload of what there is.
CANCEL_TIMEOUT_S = 900.0
READERS = 8

# What SageMaker calls a job that has no machine yet, or again none.
WAITING = frozenset(
    {"Starting", "Pending", "LaunchingMLInstances", "PreparingTrainingStack", "DownloadingTrainingImage", "Interrupted",
     "Restarting"}
)  # fmt: skip
ENDED: Mapping[str, RunState] = {
    "Completed": "succeeded",
    "Failed": "failed",
    "Stopped": "cancelled",
    "Deleting": "cancelled",
}


class Training(runtime.Training):
    """The training jobs whose names end with this training's scope (see `jobs.job_name`)."""

    def __init__(self, part: Part, platform: Platform) -> None:
        super().__init__(part, platform)
        self._facts = facts_of(part, TrainingFacts)
        self._cloud = Cloud(self._facts.region)
        self._scope = job_scope(platform, part, self._facts)
        self._storage = open_storage(self._facts.storage_uri, self._facts.region)

    def submit(self, job: Job) -> Run:
        """See `runtime.Training`. Raises AlreadyExists for an id that names a run with other inputs or parameters."""
        checked = ask_of(self.part, self._facts, job, by="", at="")
        operation = f"submit the run {job.id!r}"
        with suppress(NotFound):
            return self._there(job, operation)
        by = self._cloud.call("sts", "get_caller_identity", operation)["Arn"]
        ask = {**checked, "by": str(by), "submitted_at": now()}
        data = json.dumps(ask, sort_keys=True, ensure_ascii=False).encode()
        # Named by its contents: of two submitters at once each has its own, and the job names the one that it is given.
        key = run_key(self.part.name, job.id, f"asks/{hashlib.sha256(data).hexdigest()[:16]}.json")
        self._storage.put(key, data)
        asked = request(self.platform, self.part, self._facts, job, ask, self._storage.uri(key))
        with suppress(AlreadyExists):
            self._create(asked, operation)
        return self._there(job, operation)

    def _there(self, job: Job, operation: str) -> Run:
        """The run of this job's id. Raises NotFound, and AlreadyExists where it is another one's."""
        found = self._describe(job.id, operation)
        if self._asked(found).get("job_sha256") != job_digest(job):
            raise AlreadyExists("aws", operation, "a run of that id has other inputs or parameters", "Use another id")
        return self._run(found)

    def run(self, id: str) -> Run:
        return self._run(self._describe(id, f"show the run {id!r}"))

    def of_job(self, name: str) -> Run | None:
        """The run that a job was made for; None where it is not one of this training's."""
        if not name.endswith(f"-{self._scope}"):
            return None
        return self._run(self._cloud.call("sagemaker", "describe_training_job", f"show {name!r}", TrainingJobName=name))

    def runs(self) -> list[Run]:
        operation = f"list the runs of {self.part.name!r}"
        found = self._cloud.pages(
            "sagemaker", "list_training_jobs", operation,
            NameContains=f"-{self._scope}", SortBy="CreationTime", SortOrder="Descending",
        )  # fmt: skip
        names = [one["TrainingJobName"] for one in found if one["TrainingJobName"].endswith(f"-{self._scope}")]

        def show(name: str) -> Run:
            return self._run(self._cloud.call("sagemaker", "describe_training_job", operation, TrainingJobName=name))

        with ThreadPoolExecutor(READERS) as pool:
            return sorted(pool.map(show, names), key=lambda run: run.submitted_at, reverse=True)

    def logs(self, id: str, *, follow: bool = False) -> Iterator[str]:
        """See `runtime.Training`. From CloudWatch; where that keeps nothing any more, from what the run stored at its end."""
        run = self.run(id)
        streams = f"{job_name(id, self._scope)}/"
        any_line = False
        for line in lines(
            self._cloud, LOG_GROUP, f"read the log of the run {id!r}", prefix=streams, mark=run.nodes > 1,
            until=(lambda: self.run(id).ended) if follow else None,
        ):  # fmt: skip
            any_line = True
            yield line
        if not any_line:
            yield from self._kept(id, "log.txt").decode("utf-8", "replace").splitlines()

    def cancel(self, id: str) -> Run:
        """See `runtime.Training`. Raises Unavailable when the job has not ended after a quarter of an hour."""
        operation = f"cancel the run {id!r}"
        described = self._describe(id, operation)
        if described["TrainingJobStatus"] == "InProgress":
            try:
                self._cloud.call(
                    "sagemaker", "stop_training_job", operation, TrainingJobName=described["TrainingJobName"]
                )
            except ProviderError:
                # It may have ended in between, which SageMaker tells with a code that means many things.
                if self._describe(id, operation)["TrainingJobStatus"] == "InProgress":
                    raise
        for _ in looks(CANCEL_TIMEOUT_S, FIRST_PAUSE_S, LAST_PAUSE_S):
            if (described := self._describe(id, operation))["TrainingJobStatus"] in ENDED:
                return self._run(described)
        why = f"it has not ended after {CANCEL_TIMEOUT_S:g} s"
        raise Unavailable("aws", operation, why, "It goes on ending; look at it later")

    def _create(self, asked: Mapping[str, Any], operation: str) -> None:
        when_assumable(
            lambda: self._cloud.call("sagemaker", "create_training_job", operation, **asked),
            FIRST_PAUSE_S,
            LAST_PAUSE_S,
        )

    def _describe(self, id: str, operation: str) -> dict[str, Any]:
        name = job_name(id, self._scope)
        try:
            return self._cloud.call("sagemaker", "describe_training_job", operation, TrainingJobName=name)
        except NotFound as error:
            why = f"the training {self.part.name!r} has no such run"
            raise NotFound("aws", operation, why, "List them with `ekiben runs`") from error

    def _run(self, job: Mapping[str, Any]) -> Run:
        """The record of a job, with what its container has stored."""
        id = run_of(job)
        state, reason = _state(job, self._facts.spec["timeout_s"])
        ended = job["TrainingJobStatus"] in ENDED
        told = told_object(self._kept(id, "status.json")) if ended else {}
        attempts = told_objects(self._kept(id, "attempts.json")) if job.get("TrainingStartTime") else []
        if told.get("state") == "failed" and state == "failed":
            reason = str(told["reason"])
        metrics = told.get("metrics", {}) if ended else {}
        if state == "running":
            metrics = progress(self._kept(id, "output/progress.jsonl").splitlines())
        began = bool(job.get("TrainingStartTime"))
        model_uri = str(job.get("ModelArtifacts", {}).get("S3ModelArtifacts", ""))
        interruptions = _interruptions(job, attempts)
        return Run(
            id=id, training=self.part.name, state=state, reason=reason,
            submitted_at=_time(job.get("CreationTime")), started_at=_time(job.get("TrainingStartTime")),
            ended_at=_time(job.get("TrainingEndTime") or job.get("LastModifiedTime")) if ended else "",
            nodes=job["ResourceConfig"].get("InstanceCount", 1), params=_params(job, told, self._facts.spec),
            metrics=metrics, model=self._facts.spec["model"] or self.part.name,
            model_uri=_folder(model_uri) if state == "succeeded" else "",
            output_uri=self._storage.uri(run_key(self.part.name, id, "output")) + "/" if ended and began else "",
            log_uri=self._storage.uri(run_key(self.part.name, id, "log.txt")) if ended and began else "",
            lineage=told.get("lineage", {}), attempts=max(len(attempts), 1 + len(interruptions)) if began else 0,
            interruptions=interruptions,
        )  # fmt: skip

    def _asked(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What the job was asked, which its channel of that name brings to the container."""
        uris = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"] for one in job["InputDataConfig"]}
        return told_object(self._storage.get(self._storage.key(uris["ekiben-ask"])))

    def _kept(self, id: str, name: str) -> bytes:
        """A file that the container keeps in the run's checkpoints; empty where it has none."""
        try:
            return self._storage.get(run_key(self.part.name, id, name))
        except NotFound:
            return b""


def _state(job: Mapping[str, Any], timeout_s: int) -> tuple[RunState, str]:
    status, secondary = job["TrainingJobStatus"], job.get("SecondaryStatus", "")
    if secondary == "MaxRuntimeExceeded":
        return "failed", f"it ran past its time limit of {timeout_s} s"
    if secondary == "MaxWaitTimeExceeded":
        return "failed", "there was no spot capacity for it for too long"
    if status == "Failed":
        # "AlgorithmError: what the job said, exit code: 1"
        said = re.sub(r"^AlgorithmError:\s*|,\s*exit code:\s*-?\d+\s*$", "", job.get("FailureReason", ""))
        return "failed", said.strip() or "it failed, and SageMaker does not say why"
    if status in ENDED:
        return ENDED[status], "cancelled" if ENDED[status] == "cancelled" else ""
    began = job.get("TrainingStartTime")
    if secondary in WAITING or (secondary == "Downloading" and not began):
        return "pending", _message(job) if secondary == "Interrupted" else ""
    return "running", ""


def _message(job: Mapping[str, Any]) -> str:
    transitions = job.get("SecondaryStatusTransitions", [])
    return str(transitions[-1].get("StatusMessage", "")) if transitions else ""


def _interruptions(job: Mapping[str, Any], attempts: list[Any]) -> list[Interruption]:
    """When SageMaker took the machine away; what was lost is what the container could still say of it."""
    lost = [float(one.get("lost_s", 0.0)) for one in attempts if one.get("state") != "failed"]
    found = [one for one in job.get("SecondaryStatusTransitions", []) if one.get("Status") == "Interrupted"]
    return [
        Interruption(
            at=_time(one["StartTime"]),
            reason=str(one.get("StatusMessage") or "its spot instance was taken away"),
            lost_s=lost[number] if number < len(lost) else 0.0,
        )
        for number, one in enumerate(found)
    ]


def _params(job: Mapping[str, Any], told: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """With their types from the lineage; before a run has one, from what SageMaker shows, which has texts only."""
    if params := told.get("lineage", {}).get("params"):
        return dict(params)
    return {name: _typed(text, spec["params"].get(name)) for name, text in job.get("HyperParameters", {}).items()}


def _typed(text: str, like: Any) -> Any:
    if isinstance(like, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str | int | float | bool) else text


def _folder(uri: str) -> str:
    return uri if uri.endswith(("/", ".tar.gz")) else f"{uri}/"


def _time(value: datetime | None) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if value else ""
