"""Projects that build, and who may pull what they push."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, found

__all__ = ["KINDS"]

PLAIN = ("description", "source", "environment", "serviceRole", "logsConfig", "artifacts")
TIMES = {"buildTimeout": "timeoutInMinutes", "queuedTimeout": "queuedTimeoutInMinutes"}
# A program's names -> the API's, where they differ.
LOGS = {"cloudwatchLogs": "cloudWatchLogs"}


def _asked(aws: Aws, props: Props) -> dict[str, Any]:
    asked = {key: props[key] for key in PLAIN if key in props}
    asked |= {theirs: int(props[ours]) for ours, theirs in TIMES.items() if ours in props}
    if "logsConfig" in asked:
        asked["logsConfig"] = {LOGS.get(key, key): value for key, value in asked["logsConfig"].items()}
        for value in asked["logsConfig"].values():
            value.setdefault("status", "ENABLED")
    tags = [{"key": key, "value": value} for key, value in aws.tags(props).items()]
    return {"name": props["name"], **asked, "tags": tags}


def _create(aws: Aws, props: Props) -> str:
    return str(aws.client("codebuild").create_project(**_asked(aws, props))["project"]["arn"])


def _name(id: str) -> str:
    return id.rpartition("/")[2]


def _read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    there = aws.client("codebuild").batch_get_projects(names=[_name(id)])["projects"]
    if not there:
        return None
    told: Mapping[str, Any] = there[0]
    found = {key: told[key] for key in PLAIN if told.get(key) not in (None, {})}
    if "logsConfig" in found:
        back = {theirs: ours for ours, theirs in LOGS.items()}
        found["logsConfig"] = {back.get(key, key): value for key, value in found["logsConfig"].items()}
    times = {ours: told[theirs] for ours, theirs in TIMES.items() if told.get(theirs)}
    tags = {tag["key"]: tag["value"] for tag in told.get("tags") or ()}
    return {**found, **times, "name": told["name"], "arn": told["arn"], "tags": tags}


def _update(aws: Aws, id: str, old: Props, new: Props) -> None:
    aws.client("codebuild").update_project(**_asked(aws, new))


def _policy_text(props: Props) -> str:
    policy = props["policy"]
    return policy if isinstance(policy, str) else json.dumps(policy)


def _put_policy(aws: Aws, props: Props) -> str:
    aws.client("ecr").set_repository_policy(repositoryName=props["repository"], policyText=_policy_text(props))
    return str(props["repository"])


def _read_policy(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = found(aws.client("ecr").get_repository_policy, repositoryName=id)
    return told and {"repository": id, "registryId": told["registryId"], "policy": told["policyText"]}


def _change_policy(aws: Aws, id: str, old: Props, new: Props) -> None:
    _put_policy(aws, new)


KINDS = [
    Kind(
        type="aws:codebuild/project:Project",
        takes=frozenset({"name", "tags", *PLAIN, *TIMES}), fixed=frozenset({"name"}), named="name", name_chars=150,
        defaults={"buildTimeout": 60, "queuedTimeout": 480}, tagged=True, outputs=("arn",),
        create=_create, read=_read, update=_update, adopt=lambda id: {"name": _name(id)},
        delete=lambda aws, id, props: aws.client("codebuild").delete_project(name=_name(id)),
    ),
    Kind(
        type="aws:ecr/repositoryPolicy:RepositoryPolicy",
        takes=frozenset({"repository", "policy"}), fixed=frozenset({"repository"}), outputs=("registryId",),
        create=_put_policy, read=_read_policy, update=_change_policy, adopt=lambda id: {"repository": id},
        delete=lambda aws, id, props: aws.client("ecr").delete_repository_policy(repositoryName=id),
    ),
]  # fmt: skip
