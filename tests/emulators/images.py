"""The environment image of the conformance suite's bento, built by the emulated CodeBuild, and bentos that run in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ekiben as ek
from ekiben import packing

BENTO = Path(__file__).parents[1] / "rigs" / "project" / "bentos" / "tiny"
BUCKET, PROJECT, REPOSITORY = "lake", "images", "tiny"
ACCOUNT = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
PATIENCE_S = 120.0


def until(true: Callable[[], Any], what: str = "") -> Any:
    """The first true value of `true()`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.05)
    raise AssertionError(f"it never came true: {what}")


def role(aws: Any, name: str, service: str) -> str:
    """A role that the service may assume; its ARN."""
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": f"{service}.amazonaws.com"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    return str(aws.iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"])


def prepare(aws: Any) -> None:
    """A bucket, a repository, and a project that builds images into it."""
    aws.s3.create_bucket(Bucket=BUCKET)
    aws.ecr.create_repository(repositoryName=REPOSITORY, imageTagMutability="IMMUTABLE")
    aws.codebuild.create_project(
        name=PROJECT, serviceRole=role(aws, "builder", "codebuild"), artifacts={"type": "NO_ARTIFACTS"},
        source={"type": "S3", "location": f"{BUCKET}/none"},
        environment={
            "type": "LINUX_CONTAINER", "image": "aws/codebuild/amazonlinux-x86_64-standard:5.0",
            "computeType": "BUILD_GENERAL1_SMALL", "privilegedMode": True,
        },
        logsConfig={"cloudWatchLogs": {"status": "ENABLED", "groupName": "/builds"}},
    )  # fmt: skip


def build(aws: Any, context: packing.Bundle, tag: str = "") -> dict[str, Any]:
    """Build a context; the build when it has ended."""
    key = f"code/{context.path.name}"
    aws.s3.upload_file(str(context.path), BUCKET, key)
    name = f"{ACCOUNT}/{REPOSITORY}:{tag or context.sha256}"
    started = aws.codebuild.start_build(
        projectName=PROJECT, sourceLocationOverride=f"{BUCKET}/{key}",
        environmentVariablesOverride=[{"name": "IMAGE", "value": name}],
    )["build"]  # fmt: skip
    assert started["buildStatus"] == "IN_PROGRESS"

    def ended() -> dict[str, Any]:
        found: dict[str, Any] = aws.codebuild.batch_get_builds(ids=[started["id"]])["builds"][0]
        return found if found["buildComplete"] else {}

    return dict(until(ended, "the build ends"))


def said(aws: Any, build: dict[str, Any]) -> str:
    """Its log."""
    where = build["logs"]
    events = aws.logs.get_log_events(logGroupName=where["groupName"], logStreamName=where["streamName"])["events"]
    return "\n".join(event["message"] for event in events)


def version(aws: Any, folder: Path, number: int, slope: float | None) -> ek.ModelVersion:
    """A bento with a model of that slope, in the bucket; without a slope one that does not start."""
    model = folder / f"model-{number}"
    model.mkdir()
    (model / "model.json").write_text("not JSON" if slope is None else json.dumps({"slope": slope}))
    template = packing.template(BENTO)
    bento = packing.pack(template.path, model, {}, sha256=template.sha256, into=folder)
    aws.s3.upload_file(str(bento.path), BUCKET, f"bentos/{bento.sha256}.tar")
    return ek.ModelVersion(
        model="tiny", version=number, key=f"run-{number}", digest=bento.sha256, state="approved",
        bento_uri=f"s3://{BUCKET}/bentos/{bento.sha256}.tar", created_at="2026-01-01T00:00:00Z", created_by="ann",
    )  # fmt: skip
