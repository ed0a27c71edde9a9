"""An environment image in ECR, by its tag: found there, or built by CodeBuild from its context in S3.

The tag is the digest of the context, so what is there is right, and building is repeatable: a build that is under way already is
waited for, and nothing is built that is there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.aws.errors import RoleNotReady
from ekiben.errors import ModelFailed, NotFound, ProviderError, Unavailable

__all__ = ["built", "image_digest"]

BUILD_TIMEOUT_S = 3600.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
# A fresh role may not be assumed yet, or may not read yet: such a build ends before its first command.
ATTEMPTS, ROLE_PAUSE_S = 4, 10.0
BEFORE_COMMANDS = frozenset({"SUBMITTED", "QUEUED", "PROVISIONING", "DOWNLOAD_SOURCE"})
# The commands that make the image are in the buildspec of the context.
VARIABLE = "IMAGE"
TAIL_LINES = 30


def image_digest(cloud: Cloud, repository_url: str, tag: str) -> str:
    """The digest ("sha256:...") of the image with this tag; empty where there is none, or no such repository."""
    registry, _, repository = repository_url.partition("/")
    try:
        found = cloud.call(
            "ecr", "describe_images", f"look for the image {tag[:12]}", registryId=registry.partition(".")[0],
            repositoryName=repository, imageIds=[{"imageTag": tag}],
        )  # fmt: skip
    except NotFound:
        return ""
    return str(found["imageDetails"][0]["imageDigest"])


def built(
    cloud: Cloud,
    *,
    project: str,
    repository_url: str,
    tag: str,
    source: str,
    stopped: threading.Event,
    timeout_s: float = 0.0,
) -> str:
    """The digest of the image, which is built where it is not there. `source`: BUCKET/KEY of its context.

    Raises ModelFailed, with the end of the build's log, when the build fails; Unavailable when it takes more than an hour or
    `stopped` is set, and the build is then stopped.
    """
    operation = f"build the image {tag[:12]}"
    image = f"{repository_url}:{tag}"
    for attempt in range(1, ATTEMPTS + 1):
        if digest := image_digest(cloud, repository_url, tag):
            return digest
        try:
            id = _under_way(cloud, project, image, operation) or _started(cloud, project, image, source, operation)
        except RoleNotReady:
            if attempt == ATTEMPTS or stopped.wait(ROLE_PAUSE_S):
                raise
            continue
        build = _ended(cloud, id, operation, stopped, timeout_s or BUILD_TIMEOUT_S)
        # Of two that pushed the same tag one has failed, and the image is there.
        if digest := image_digest(cloud, repository_url, tag):
            return digest
        phase, why = _failure(build)
        if phase not in BEFORE_COMMANDS or attempt == ATTEMPTS:
            break
        if stopped.wait(ROLE_PAUSE_S):
            raise _cancelled(operation)
    logs = build.get("logs", {})
    raise ModelFailed(
        f"aws: cannot {operation}: the build {id} {why}. Look at the lock and at what the service's image asks for.",
        tail=_tail(cloud, logs, operation),
        log_uri=f"cloudwatch:{cloud.region}:{logs.get('groupName', '')}:{logs.get('streamName', '')}" if logs else "",
    )


def _under_way(cloud: Cloud, project: str, image: str, operation: str) -> str:
    """The id of a build of this image that somebody has started already; empty where there is none."""
    newest = cloud.call("codebuild", "list_builds_for_project", operation, projectName=project, sortOrder="DESCENDING")
    if not newest.get("ids"):
        return ""
    for build in cloud.call("codebuild", "batch_get_builds", operation, ids=newest["ids"])["builds"]:
        if build["buildStatus"] == "IN_PROGRESS" and _image(build) == image:
            return str(build["id"])
    return ""


def _image(build: Mapping[str, Any]) -> str:
    variables = build.get("environment", {}).get("environmentVariables", [])
    return next((str(one["value"]) for one in variables if one["name"] == VARIABLE), "")


def _started(cloud: Cloud, project: str, image: str, source: str, operation: str) -> str:
    made = cloud.call(
        "codebuild", "start_build", operation, projectName=project, sourceLocationOverride=source,
        environmentVariablesOverride=[{"name": VARIABLE, "value": image, "type": "PLAINTEXT"}],
    )  # fmt: skip
    return str(made["build"]["id"])


def _ended(cloud: Cloud, id: str, operation: str, stopped: threading.Event, timeout_s: float) -> dict[str, Any]:
    pause_s, waited_s = FIRST_PAUSE_S, 0.0
    while True:
        found = cloud.call("codebuild", "batch_get_builds", operation, ids=[id])["builds"]
        if not found:
            raise NotFound("aws", operation, f"the build {id} is gone", "Repeat it")
        if found[0]["buildStatus"] != "IN_PROGRESS":
            return dict(found[0])
        if stopped.wait(pause_s):
            cloud.call("codebuild", "stop_build", operation, id=id)
            raise _cancelled(operation)
        waited_s += pause_s
        if waited_s > timeout_s:
            cloud.call("codebuild", "stop_build", operation, id=id)
            raise Unavailable(
                "aws", operation, f"the build {id} has not ended after {timeout_s:g} s", "Repeat it later"
            )
        pause_s = min(2 * pause_s, LAST_PAUSE_S)


def _cancelled(operation: str) -> ProviderError:
    return Unavailable("aws", operation, "it was cancelled, and the build was stopped", "Repeat it")


def _failure(build: Mapping[str, Any]) -> tuple[str, str]:
    """The phase in which a build has failed, and how it says so."""
    for phase in build.get("phases", []):
        if phase.get("phaseStatus") not in (None, "SUCCEEDED"):
            said = " ".join(str(one.get("message", "")) for one in phase.get("contexts", []))
            said = re.sub(r"\s+", " ", said).strip().rstrip(".")
            return phase["phaseType"], f"has ended in {phase['phaseType']} with {phase['phaseStatus']}" + (
                f": {said}" if said else ""
            )
    return "", f"has ended with {build['buildStatus']}"


def _tail(cloud: Cloud, logs: Mapping[str, Any], operation: str) -> str:
    if not logs.get("streamName"):
        return ""
    try:
        found = cloud.call(
            "logs", "get_log_events", operation, logGroupName=logs["groupName"], logStreamName=logs["streamName"],
            limit=TAIL_LINES, startFromHead=False,
        )  # fmt: skip
    except ProviderError:  # the build's own failure is what has to be told
        return ""
    return "\n".join(event["message"].rstrip("\n") for event in found["events"])
