"""The registry's versions as SageMaker model packages: a group for each model, a package for each version, approval both ways.

The registry's records are the truth. A package says in its description which version it is, and in its approval's description
what Ekiben last decided: an approval status that differs from it was set by somebody in SageMaker, and is theirs to be taken over.
"""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from typing import Any

from ekiben.aws.client import Cloud
from ekiben.aws.facts import RegistryFacts, tags
from ekiben.errors import AlreadyExists, NotFound
from ekiben.records import ModelVersion, Part, Platform

__all__ = ["Mirror"]

# SageMaker has no archive: such a version keeps its approval, and its life cycle says the rest.
STATUS = {"pending": "PendingManualApproval", "approved": "Approved", "rejected": "Rejected"}
STATE = {status: state for state, status in STATUS.items()}
ARCHIVED = {"Stage": "Archived", "StageStatus": "Archived"}
DESCRIPTION_CHARS = 1024
PROPERTIES, PROPERTY_CHARS = 50, 256
DECIDED = re.compile(r"ekiben: (\w+)")


class Mirror:
    """The packages of one registry."""

    title, aliases = "SageMaker", False

    def __init__(self, facts: RegistryFacts, part: Part, platform: Platform) -> None:
        self._cloud, self._prefix, self._image = Cloud(facts.region), facts.model_groups, facts.image_uri
        self._tags = tags(platform, part)

    def show(self, version: ModelVersion, *, who: str = "", why: str = "") -> None:
        """Make the version's package where there is none, and give it the version's state. Repeating is safe."""
        operation = f"show {version.id} in SageMaker's model registry"
        arn = self._find(version.id, operation) or self._create(version, operation)
        told = self._describe(arn, operation)
        if _decided(told) == version.state:
            return
        change: dict[str, Any] = {"ModelLifeCycle": ARCHIVED} if version.state == "archived" else {}
        if version.state in STATUS:
            change["ModelApprovalStatus"] = STATUS[version.state]
        by = f" by {who}" if who else ""
        text = f"ekiben: {version.state}{by}" + (f": {why}" if why else "")
        self._cloud.call(
            "sagemaker", "update_model_package", operation,
            ModelPackageArn=arn, ApprovalDescription=_line(text)[:DESCRIPTION_CHARS], **change,
        )  # fmt: skip

    def decided_there(self, version: ModelVersion) -> tuple[str, str, str] | None:
        """What somebody decided in SageMaker: (state, who, why); None where nobody did."""
        operation = f"read what SageMaker's model registry says of {version.id}"
        if not (arn := self._find(version.id, operation)):
            return None
        told = self._describe(arn, operation)
        state = STATE[told.get("ModelApprovalStatus", STATUS["pending"])]
        if state in ("pending", version.state, _decided(told)):
            return None
        by = told.get("LastModifiedBy", {})
        who = by.get("UserProfileName") or by.get("IamIdentity", {}).get("Arn") or "somebody in SageMaker"
        said = str(told.get("ApprovalDescription", ""))
        return state, str(who), "" if DECIDED.match(said) else _line(said)

    def _find(self, id: str, operation: str) -> str:
        """The ARN of the package of a version; empty where there is none."""
        with suppress(NotFound):
            for package in self._cloud.pages(
                "sagemaker", "list_model_packages", operation,
                ModelPackageGroupName=self._group(id), SortBy="CreationTime", SortOrder="Descending",
            ):  # fmt: skip
                if str(package.get("ModelPackageDescription", "")).partition(" ")[0] == id:
                    return str(package["ModelPackageArn"])
        return ""

    def _create(self, version: ModelVersion, operation: str) -> str:
        group = self._group(version.id)
        with suppress(AlreadyExists):
            self._cloud.call(
                "sagemaker", "create_model_package_group", operation,
                ModelPackageGroupName=group, ModelPackageGroupDescription=f"The versions of {version.model}", Tags=self._tags,
            )  # fmt: skip
        made = self._cloud.call(
            "sagemaker", "create_model_package", operation,
            ModelPackageGroupName=group,
            ModelPackageDescription=f"{version.id} sha256:{version.digest}",
            ModelApprovalStatus=STATUS["pending"],
            # Repeated within some minutes this is the same package; afterwards `_find` sees it.
            ClientToken=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{group}/{version.id}/{version.digest}")),
            CustomerMetadataProperties=_properties(version),
            MetadataProperties=_metadata(version),
            **self._inference(version),
        )  # fmt: skip
        return str(made["ModelPackageArn"])

    def _describe(self, arn: str, operation: str) -> dict[str, Any]:
        return self._cloud.call("sagemaker", "describe_model_package", operation, ModelPackageName=arn)

    def _group(self, id: str) -> str:
        return f"{self._prefix}-{id.partition(':')[0]}"

    def _inference(self, version: ModelVersion) -> dict[str, Any]:
        """Where the bento is; of one that lies elsewhere SageMaker cannot say it."""
        if not version.bento_uri.startswith("s3://"):
            return {}
        source = {"S3Uri": version.bento_uri, "S3DataType": "S3Object", "CompressionType": "None"}
        container: dict[str, Any] = {"ModelDataSource": {"S3DataSource": source}}
        if self._image:
            container["Image"] = self._image
        types = ["application/json"]
        found = {"Containers": [container], "SupportedContentTypes": types, "SupportedResponseMIMETypes": types}
        return {"InferenceSpecification": found}


def _decided(package: dict[str, Any]) -> str:
    """The state that Ekiben last gave a package."""
    found = DECIDED.match(str(package.get("ApprovalDescription", "")))
    return found[1] if found else "pending"


def _properties(version: ModelVersion) -> dict[str, str]:
    """What the console shows of a version: all that its rules for names, values and their number let pass."""
    found = {
        "ekiben.version": version.id, "ekiben.digest": version.digest, "ekiben.run": version.run_id,
        "ekiben.created-by": version.created_by,
        **{f"metric.{name}": repr(value) for name, value in sorted(version.metrics.items())},
    }  # fmt: skip
    fit = {_allowed(name)[:128]: _allowed(value)[:PROPERTY_CHARS] for name, value in found.items() if value}
    return dict(list(fit.items())[:PROPERTIES])


def _metadata(version: ModelVersion) -> dict[str, str]:
    commit = str(version.lineage.get("code", {}).get("commit") or "")
    found = {"CommitId": commit, "GeneratedBy": version.run_id}
    return {name: value[:DESCRIPTION_CHARS] for name, value in found.items() if value}


def _allowed(text: str) -> str:
    return re.sub(r"[^\w\s.:/=+\-@]", "-", text)


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
