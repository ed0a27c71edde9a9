"""What a cluster says, as Ekiben's errors with what to do: one table by the API's reasons, one by those of pods, jobs and events.

The API's reasons: https://pkg.go.dev/k8s.io/apimachinery/pkg/apis/meta/v1#StatusReason. Its messages name objects and never hold
what is in a Secret; they are cut to one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ekiben.errors import (
    AccessDenied,
    AlreadyExists,
    NoCapacity,
    NotFound,
    PreconditionFailed,
    ProviderError,
    Unavailable,
)

__all__ = ["REASONS", "TROUBLES", "UNSEEN", "Trouble", "error_of", "trouble_of", "unanswered"]

SAID_CHARS = 400
_LATER = "Repeat it later"
_RIGHTS = "Give whoever calls this right in the namespace (`kubectl auth can-i --list` shows what there is)"
_QUOTA = "Raise the ResourceQuota of the namespace, ask for less, or wait until something has ended"
_SECURITY = "The namespace enforces Pod Security: look at what the pod asks, and at the namespace's label"
_IMAGE = (
    "Look at the image's name, whether it is in the registry, and whether the nodes may pull it (an imagePullSecret)"
)
_ROOM = "Ask for less, wait, or add a node that has it (CPU, memory, GPU, labels, taints)"
_MEMORY = "Ask for more memory_mib in the spec, or use less"

# The API's reason, or the HTTP status where it gives none -> the error, and what to do. What is not here is a ProviderError with
# the API's own words, and is meant to be one.
REASONS: Mapping[str, tuple[type[ProviderError], str]] = {
    **dict.fromkeys(("NotFound", "404"), (NotFound, "")),
    "AlreadyExists": (AlreadyExists, "Use another name"),
    **dict.fromkeys(("Conflict", "409"), (PreconditionFailed, "Read it again, then repeat")),
    **dict.fromkeys(("Forbidden", "403"), (AccessDenied, _RIGHTS)),
    **dict.fromkeys(
        ("Unauthorized", "401"), (AccessDenied, "Log in to the cluster again, and look at the kubeconfig's current context")
    ),
    **dict.fromkeys(
        ("TooManyRequests", "429", "ServerTimeout", "Timeout", "504", "InternalError", "500", "ServiceUnavailable", "503",
         "StoreReadError", "502"),
        (Unavailable, _LATER),
    ),
    **dict.fromkeys(("Expired", "Gone", "410"), (Unavailable, "Repeat it, from the beginning")),
    **dict.fromkeys(
        ("Invalid", "422", "BadRequest", "400"), (ProviderError, "Look at what was asked, and at what the cluster allows")
    ),
    **dict.fromkeys(("RequestEntityTooLarge", "413"), (ProviderError, "Make it smaller: an object has 1.5 MiB at most")),
    **dict.fromkeys(("MethodNotAllowed", "405"), (ProviderError, "The cluster may be too old for it")),
    **dict.fromkeys(
        ("NotAcceptable", "406", "UnsupportedMediaType", "415"), (ProviderError, "The cluster may be too old for it")
    ),
}  # fmt: skip

# What the Trainer says of a TrainJob whose TrainingRuntime was made a moment ago (pkg/runtime/core/trainingruntime.go).
UNSEEN = "trainingRuntime must be created before the TrainJob"
# What the API says in words alone -> the error, and what to do. Looked through before the reasons.
_WORDS: tuple[tuple[str, type[ProviderError], str], ...] = (
    (r"exceeded quota", NoCapacity, _QUOTA),
    (r"is being terminated", Unavailable, "The namespace is being deleted: wait until it is gone, then `ekiben up`"),
    (r"violates PodSecurity", AccessDenied, _SECURITY),
    (UNSEEN, Unavailable, "Repeat it later: the Trainer has not seen it yet"),
    (r"admission webhook .* denied", AccessDenied, "A policy of the cluster forbids it: ask who runs the cluster"),
    (r"(minimum|maximum) .* usage per (Container|Pod)", NoCapacity, "Look at the LimitRange of the namespace"),
    (r"failed calling webhook", Unavailable, "A webhook of the cluster does not answer; repeat it later"),
)


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a pod does not run. lasting: it will not go away by itself."""

    kind: type[ProviderError]
    why: str
    remedy: str
    lasting: bool = False

    def error(self, operation: str) -> ProviderError:
        return self.kind("kubernetes", operation, self.why, self.remedy)

    def __str__(self) -> str:
        return f"{self.why}. {self.remedy}." if self.remedy else self.why


# A reason of a container's state, a pod, a condition, a job or an event -> (error, what it means, what to do, does it last).
TROUBLES: Mapping[str, tuple[type[ProviderError], str, str, bool]] = {
    **dict.fromkeys(
        ("Unschedulable", "FailedScheduling"),
        (NoCapacity, "no node has room for it", _ROOM, False),
    ),
    "SchedulingGated": (Unavailable, "it is held back by a scheduling gate", "Wait for what has set it (a queue)", False),
    **dict.fromkeys(
        ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"), (NotFound, "its image cannot be pulled", _IMAGE, True)
    ),
    "ErrImageNeverPull": (NotFound, "its image is not on the node, and may not be pulled", _IMAGE, True),
    **dict.fromkeys(("InvalidImageName", "ImageInspectError"), (ProviderError, "its image's name is none", _IMAGE, True)),
    "CreateContainerConfigError": (
        NotFound, "a Secret or a ConfigMap that it needs is not there", "Mend it with `ekiben up`", True,
    ),
    **dict.fromkeys(
        ("CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun", "FailedCreatePodSandBox"),
        (ProviderError, "its container cannot be made", "Look at the node, and at the image's command", True),
    ),
    **dict.fromkeys(
        ("FailedMount", "FailedAttachVolume"),
        (Unavailable, "a volume cannot be mounted", "Look at the PersistentVolumeClaim", False),
    ),
    "OOMKilled": (NoCapacity, "it went over its memory limit", _MEMORY, True),
    "CrashLoopBackOff": (ProviderError, "it ends again and again", "Look at its log", True),
    "Error": (ProviderError, "it ended with an error", "Look at its log", True),
    "Evicted": (NoCapacity, "the node has evicted it", "Ask for what it uses (memory, disk), or use less", False),
    **dict.fromkeys(
        ("NodeLost", "NodeShutdown", "Terminated", "DeletionByTaintManager", "DeletionByPodGC", "TerminationByKubelet",
         "EvictionByEvictionAPI", "Shutdown", "UnexpectedAdmissionError", "NodeAffinity"),
        (Unavailable, "its node went away, or was drained", "It goes on elsewhere where it may; else repeat it", False),
    ),
    **dict.fromkeys(
        ("PreemptionByScheduler", "Preempted", "Preempting"),
        (NoCapacity, "a pod of higher priority took its place", "Wait, or give it a higher priority", False),
    ),
    "DeadlineExceeded": (Unavailable, "it was not done in its time", "Look why it waited, or give it more timeout_s", True),
    **dict.fromkeys(
        ("BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded"),
        (ProviderError, "its pods failed too often", "Look at its log", True),
    ),
    "PodFailurePolicy": (ProviderError, "it failed", "Look at its log", True),
    **dict.fromkeys(
        ("FailedCreate", "FailedCreatePod", "TrainJobResourcesCreationFailed", "JobCreationFailed",
         "HeadlessServiceCreationFailed"),
        (ProviderError, "its pods cannot be made", "Look at what the cluster says of it", False),
    ),
    "RevisionMissing": (NotFound, "the revision that has the traffic is not there", "Release the model again", True),
    "ProgressDeadlineExceeded": (Unavailable, "it did not become ready in time", "Look at its log and its node", True),
    "ContainerMissing": (NotFound, "its image is not in the registry", _IMAGE, True),
    "ResolvingDigests": (Unavailable, "its image is looked for in the registry", _LATER, False),
    "ExitCode1": (ProviderError, "its server does not start", "Look at its log", True),
    "Unhealthy": (Unavailable, "it does not answer its probe", "Look at its log", False),
}  # fmt: skip


def error_of(status: int, body: bytes, operation: str) -> ProviderError:
    """The error that an answer of the API with this HTTP status stands for."""
    try:
        told = json.loads(body)
    except ValueError:
        told = {}
    told = told if isinstance(told, dict) else {}
    said, reason = _line(str(told.get("message") or "")), str(told.get("reason") or "")
    for words, kind, remedy in _WORDS:
        if re.search(words, said):
            return kind("kubernetes", operation, said, remedy)
    kind, remedy = (
        REASONS.get(reason) or REASONS.get(str(status)) or (Unavailable if status >= 500 else ProviderError, "")
    )
    return kind("kubernetes", operation, said or f"the API server answers {status}", remedy)


def unanswered(error: Exception, operation: str) -> ProviderError:
    """The error for a server that was not reached, or that was not believed."""
    why = _line(str(error)) or type(error).__name__
    if "certificate" in why.lower():
        return AccessDenied(
            "kubernetes", operation, f"the API server's certificate is not believed ({why})", "Look at the kubeconfig"
        )
    return Unavailable(
        "kubernetes",
        operation,
        f"the API server does not answer ({why})",
        "Look at the network and the kubeconfig, then repeat",
    )


def trouble_of(
    pod: Mapping[str, Any] | None,
    events: Iterable[Mapping[str, Any]] = (),
    conditions: Iterable[Mapping[str, Any]] = (),
) -> Trouble | None:
    """Why something does not run: by its pod's own state, else by conditions of what owns it, else by the newest event."""
    for reason, said in (*_of_pod(pod or {}), *_of_conditions(conditions), *_of_events(events)):
        if reason in TROUBLES:
            kind, why, remedy, lasting = TROUBLES[reason]
            for words, other, instead in _WORDS:
                if re.search(words, said):
                    kind, remedy = other, instead
            return Trouble(kind=kind, why=f"{why} ({_line(said)})" if said else why, remedy=remedy, lasting=lasting)
    return None


def _of_pod(pod: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(reason, message) of what a pod says of itself, the most telling first."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            yield str(condition.get("reason", "")), str(condition.get("message", ""))
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        last = (container.get("lastState") or {}).get("terminated") or {}
        state = container.get("state") or {}
        terminated, waiting = state.get("terminated") or {}, state.get("waiting") or {}
        for ended in (terminated, last):
            if ended.get("reason") in ("OOMKilled", "StartError", "ContainerCannotRun"):
                yield str(ended["reason"]), str(ended.get("message", ""))
        if terminated.get("exitCode"):
            yield str(terminated.get("reason") or "Error"), f"exit status {terminated['exitCode']}"
        if waiting.get("reason"):
            yield str(waiting["reason"]), str(waiting.get("message", ""))
    if status.get("reason"):
        yield str(status["reason"]), str(status.get("message", ""))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            yield str(condition.get("reason", "")), str(condition.get("message", ""))


def _of_conditions(conditions: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    for one in conditions:
        if one.get("status") == ("True" if one.get("type") in ("Failed", "FailureTarget") else "False"):
            yield str(one.get("reason", "")), str(one.get("message", ""))


def _of_events(events: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    warned = [one for one in events if one.get("type") == "Warning"]
    for one in sorted(warned, key=_when, reverse=True):
        yield str(one.get("reason", "")), str(one.get("message", ""))


def _when(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    times = (
        event.get("lastTimestamp"),
        series.get("lastObservedTime"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
    )
    return str(next(filter(None, times), ""))


def _line(text: str) -> str:
    """On one line, and of a long text both ends: a traceback says what went wrong in its last words."""
    text = re.sub(r"\s+", " ", text).strip().rstrip(".")
    return text if len(text) <= SAID_CHARS else f"{text[: SAID_CHARS // 3]} ... {text[-SAID_CHARS * 2 // 3 + 5 :]}"
