"""Resources that no other plugin has: an image that is built, and what runs and deployments leave, which goes with the platform.

Of the plugin `pulumi-resource-ekiben`; `ekiben.engine.kinds` says what each function has to do. Credentials are those of the
environment, as for the run face.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ekiben.aws import builds, leftovers
from ekiben.aws.client import Cloud
from ekiben.engine.kinds import Kind, changes, problems

__all__ = ["KINDS", "begun", "changes", "delete", "identity", "lost", "problems", "put", "read"]

KINDS = {
    kind.name: kind
    for kind in (
        # An environment image. source: BUCKET/KEY of its context; image_uri: by its digest. It goes with its repository.
        Kind(
            name="Image",
            inputs={"region": str, "project": str, "repository_url": str, "tag": str, "source": str},
            outputs={"image_uri": str},
            fixed=frozenset({"region", "repository_url", "tag"}),
            # How an image that is there was once built makes no difference.
            quiet=frozenset({"project", "source"}),
        ),
        # The training jobs of a scope (`ekiben.aws.jobs.job_name`), with what they log.
        Kind(
            name="Jobs",
            inputs={"region": str, "scope": str, "tags": dict},
            outputs={"log_group": str},
            fixed=frozenset({"region", "scope"}),
            quiet=frozenset({"tags"}),
        ),
        # The endpoint of SageMaker of this name, with its configurations and models.
        Kind(
            name="Variants",
            inputs={"region": str, "endpoint": str},
            outputs={},
            fixed=frozenset({"region", "endpoint"}),
        ),
        # The model package groups whose names begin so (`ekiben.aws.mirror`), with their packages.
        Kind(name="Packages", inputs={"region": str, "groups": str}, outputs={}, fixed=frozenset({"region", "groups"})),
        # The services of a cluster of ECS, which is for them alone, and the task definitions of this name.
        Kind(
            name="Services",
            inputs={"region": str, "cluster_arn": str, "service": str},
            outputs={},
            fixed=frozenset({"region", "cluster_arn", "service"}),
        ),
    )
}


def identity(kind: Kind, inputs: Mapping[str, Any]) -> str:
    keys = {"Image": "tag", "Jobs": "scope", "Packages": "groups", "Services": "service", "Variants": "endpoint"}
    key = keys[kind.name]
    return f"{kind.path}/{inputs[key]}"


def begun(kind: Kind, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The state of one whose making was begun, and nobody saw it end."""
    return {**inputs, **dict.fromkeys(kind.outputs, "")}


def lost(kind: Kind, state: Mapping[str, Any]) -> str:
    """The output that is true no more: the image, or the log group, was deleted by hand."""
    found = read(kind, state)
    if kind.name == "Image" and (found is None or found[1]["image_uri"] != state.get("image_uri")):
        return "image_uri"
    return "log_group" if kind.name == "Jobs" and found is not None and not found[1]["log_group"] else ""


def put(
    kind: Kind, urn: str, inputs: Mapping[str, Any], timeout_s: float = 0.0, stopped: threading.Event | None = None
) -> dict[str, Any]:
    """Make it so; returns the state."""
    cloud = Cloud(inputs["region"])
    if kind.name == "Image":
        digest = builds.built(
            cloud, project=inputs["project"], repository_url=inputs["repository_url"], tag=inputs["tag"],
            source=inputs["source"], stopped=stopped or threading.Event(), timeout_s=timeout_s,
        )  # fmt: skip
        return {**inputs, "image_uri": f"{inputs['repository_url']}@{digest}"}
    if kind.name == "Jobs":
        leftovers.keep_group(cloud, dict(inputs["tags"]))
        return {**inputs, "log_group": leftovers.LOG_GROUP}
    return dict(inputs)


def read(kind: Kind, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(inputs, state) as they are now, None when it is gone."""
    inputs = {key: state[key] for key in kind.inputs if key in state}
    cloud = Cloud(state["region"])
    if kind.name == "Image":
        digest = builds.image_digest(cloud, state["repository_url"], state["tag"])
        return (inputs, {**inputs, "image_uri": f"{state['repository_url']}@{digest}"}) if digest else None
    if kind.name == "Jobs":
        return inputs, {**inputs, "log_group": leftovers.LOG_GROUP if leftovers.kept_group(cloud) else ""}
    return inputs, dict(inputs)


def delete(kind: Kind, urn: str, state: Mapping[str, Any], timeout_s: float = 0.0) -> None:
    """Undo it; silent where nothing is."""
    cloud = Cloud(state["region"])
    if kind.name == "Jobs":
        leftovers.delete_jobs(cloud, state["scope"])
    elif kind.name == "Variants":
        leftovers.delete_variants(cloud, state["endpoint"])
    elif kind.name == "Packages":
        leftovers.delete_packages(cloud, state["groups"])
    elif kind.name == "Services":
        leftovers.delete_services(cloud, state["cluster_arn"], state["service"])
