"""An image that is built: what is there is not built again, who builds is waited for, and who gives up stops the build."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from pulumi.provider.experimental import provider as api
from pulumi.provider.experimental.property_value import PropertyValue

import ekiben as ek
from ekiben.aws import builds, declared
from ekiben.aws.client import Cloud
from ekiben.engine.plugin import Plugin
from tests.fakes.aws import Edge

from .conftest import REGION

ACCOUNT = "123456789012"
TAG = hashlib.sha256(b"a context").hexdigest()
MANIFEST = {
    "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": f"sha256:{'0' * 64}"},
    "layers": [],
}  # fmt: skip


class Registry:
    """A repository, a project that builds into it, and what CodeBuild is to say."""

    def __init__(self, client: Callable[[str], Any], edge: Edge) -> None:
        self.client, self.edge, self.cloud = client, edge, Cloud(REGION)
        self.name = f"models-{uuid.uuid4().hex[:8]}"
        self.url = client("ecr").create_repository(repositoryName=self.name)["repository"]["repositoryUri"]
        self.inputs = {
            "region": REGION,
            "project": self.name,
            "repository_url": self.url,
            "tag": TAG,
            "source": "lake/code/x.zip",
        }
        self.stopped = threading.Event()

    def push(self) -> str:
        made = self.client("ecr").put_image(
            repositoryName=self.name, imageManifest=json.dumps(MANIFEST), imageTag=TAG, registryId=ACCOUNT
        )
        return str(made["image"]["imageId"]["imageDigest"])

    def build(self, status: str, **more: Any) -> dict[str, Any]:
        variables = [{"name": "IMAGE", "value": f"{self.url}:{TAG}", "type": "PLAINTEXT"}]
        return {
            "id": f"{self.name}:1",
            "buildStatus": status,
            "environment": {"environmentVariables": variables},
            **more,
        }

    def says(self, *states: dict[str, Any], running: bool = False) -> None:
        """What the project's builds are, then what the build is each time that it is asked for."""
        self.edge.say("ListBuildsForProject", 200, {"ids": [f"{self.name}:1"] if running else []})
        self.edge.say("StartBuild", 200, {"build": states[0]})
        for state in states:
            self.edge.say("BatchGetBuilds", 200, {"builds": [state]})

    def built(self) -> str:
        made = declared.put(declared.KINDS["Image"], "urn", self.inputs, 0.0, self.stopped)
        return str(made["image_uri"])


@pytest.fixture
def registry(client: Callable[[str], Any], edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name in ("FIRST_PAUSE_S", "ROLE_PAUSE_S"):
        monkeypatch.setattr(builds, name, 0.01)
    return Registry(client, edge)


def missing(registry: Registry, times: int = 1) -> None:
    registry.edge.fail("DescribeImages", "ImageNotFoundException", times=times)


def test_an_image_that_is_there_is_not_built(registry: Registry) -> None:
    digest = registry.push()
    assert registry.built() == f"{registry.url}@{digest}"
    assert registry.edge.count("StartBuild") == 0
    state = {**registry.inputs, "image_uri": f"{registry.url}@{digest}"}
    assert declared.read(declared.KINDS["Image"], state) == (registry.inputs, state)
    assert declared.lost(declared.KINDS["Image"], state) == ""


def test_an_image_that_is_not_there_is_built_from_its_context_and_named_by_its_digest(registry: Registry) -> None:
    digest = registry.push()
    missing(registry)
    registry.says(registry.build("IN_PROGRESS"), registry.build("SUCCEEDED"))
    assert registry.built() == f"{registry.url}@{digest}"
    asked = next(body for target, body in registry.edge.seen if target.endswith("StartBuild"))
    assert asked == {
        "projectName": registry.name,
        "sourceLocationOverride": "lake/code/x.zip",
        "environmentVariablesOverride": [{"name": "IMAGE", "value": f"{registry.url}:{TAG}", "type": "PLAINTEXT"}],
    }


def test_a_build_that_is_under_way_is_waited_for(registry: Registry) -> None:
    digest = registry.push()
    missing(registry)
    registry.says(registry.build("IN_PROGRESS"), registry.build("SUCCEEDED"), running=True)
    assert registry.built().endswith(digest)
    assert registry.edge.count("StartBuild") == 0


def test_of_two_that_push_the_same_the_one_that_fails_has_its_image(registry: Registry) -> None:
    digest = registry.push()
    missing(registry)
    registry.says(registry.build("FAILED", phases=[{"phaseType": "BUILD", "phaseStatus": "FAILED"}]))
    assert registry.built().endswith(digest)


def test_a_build_that_fails_says_where_and_ends_with_its_log(registry: Registry, client: Callable[[str], Any]) -> None:
    logs = client("logs")
    logs.create_log_group(logGroupName=registry.name)
    logs.create_log_stream(logGroupName=registry.name, logStreamName="one")
    lines = [{"timestamp": int(time.time() * 1000) + n, "message": f"line {n}\n"} for n in range(50)]
    logs.put_log_events(logGroupName=registry.name, logStreamName="one", logEvents=lines)
    phases = [
        {"phaseType": "INSTALL", "phaseStatus": "SUCCEEDED"},
        {
            "phaseType": "BUILD",
            "phaseStatus": "FAILED",
            "contexts": [{"message": "COMMAND_EXECUTION_ERROR: exit status 1."}],
        },
    ]
    missing(registry, times=2)
    registry.says(registry.build("FAILED", phases=phases, logs={"groupName": registry.name, "streamName": "one"}))
    with pytest.raises(
        ek.ModelFailed, match="has ended in BUILD with FAILED: COMMAND_EXECUTION_ERROR: exit status 1"
    ) as caught:
        registry.built()
    assert caught.value.tail.splitlines()[-1] == "line 49"
    assert "line 10" not in caught.value.tail
    assert caught.value.log_uri == f"cloudwatch:{REGION}:{registry.name}:one"


def test_a_role_that_is_not_ready_yet_is_waited_for(registry: Registry) -> None:
    digest = registry.push()
    missing(registry, times=4)
    registry.edge.say("ListBuildsForProject", 200, {"ids": []})
    registry.edge.fail(
        "StartBuild", "InvalidInputException", "Not authorized to perform: sts:AssumeRole on service role"
    )
    early = [{"phaseType": "DOWNLOAD_SOURCE", "phaseStatus": "FAILED"}]
    registry.says(registry.build("FAILED", phases=early))
    registry.says(registry.build("SUCCEEDED"))
    assert registry.built().endswith(digest)
    assert registry.edge.count("StartBuild") == 3


@pytest.mark.parametrize("how", ["cancelled", "too long"])
def test_who_gives_up_stops_the_build(registry: Registry, how: str) -> None:
    missing(registry)
    registry.says(*[registry.build("IN_PROGRESS")] * 3)
    registry.edge.say("StopBuild", 200, {"build": registry.build("STOPPED")})
    if how == "cancelled":
        registry.stopped.set()
    with pytest.raises(ek.Unavailable, match="cancelled|has not ended after 0.001 s"):
        declared.put(declared.KINDS["Image"], "urn", registry.inputs, 0.001, registry.stopped)
    assert registry.edge.count("StopBuild") == 1


def test_an_image_that_somebody_deleted_is_a_difference(registry: Registry) -> None:
    state = {**registry.inputs, "image_uri": f"{registry.url}@sha256:{'1' * 64}"}
    assert declared.read(declared.KINDS["Image"], state) is None
    assert declared.lost(declared.KINDS["Image"], state) == "image_uri"
    registry.push()
    assert declared.lost(declared.KINDS["Image"], state) == "image_uri", "it is another one"


def test_without_its_repository_there_is_no_image(registry: Registry) -> None:
    state = {**registry.inputs, "repository_url": f"{registry.url}-gone", "image_uri": "x"}
    assert declared.read(declared.KINDS["Image"], state) is None
    declared.delete(declared.KINDS["Image"], "urn", state)


def test_ctrl_c_stops_the_build_that_an_engine_waits_for(registry: Registry) -> None:
    plugin = Plugin()
    missing(registry)
    registry.says(*[registry.build("IN_PROGRESS")] * 500)
    registry.edge.say("StopBuild", 200, {"build": registry.build("STOPPED")})
    inputs = {key: PropertyValue(value) for key, value in registry.inputs.items()}
    urn = "urn:pulumi:dev::small::ekiben:aws:Registry$ekiben:aws:Image::models-image"
    asked = api.CreateRequest(urn, inputs, 0.0, False)

    async def interrupted() -> None:
        making = asyncio.create_task(plugin.create(asked))
        while not registry.edge.count("BatchGetBuilds"):
            await asyncio.sleep(0.01)
        await plugin.cancel()
        with pytest.raises(ek.Unavailable, match="it was cancelled, and the build was stopped"):
            await making

    loop = asyncio.new_event_loop()  # not run(), which takes the loop away that tests of programs go on
    loop.run_until_complete(asyncio.wait_for(interrupted(), 60))
    loop.close()
    assert registry.edge.count("StopBuild") == 1
