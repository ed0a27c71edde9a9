"""SageMaker's endpoints of the emulated AWS: how they come, change and go, what they refuse, and that no request is lost."""

from __future__ import annotations

import json
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ekiben.testing import EmulatedAws as Aws
from tests.waiting import until

from . import images

FINAL = ("InService", "Failed")


class Sage:
    """SageMaker with models of the small image, each with a name of its own."""

    def __init__(self, aws: Aws, image: str, role: str) -> None:
        self.client, self.runtime, self._image, self._role = aws.sagemaker, aws.sagemaker_runtime, image, role

    def model(self, name: str, **container: Any) -> None:
        image = {"Image": self._image, "Environment": {"NAME": name}, **container}
        self.client.create_model(ModelName=name, ExecutionRoleArn=self._role, PrimaryContainer=image)

    def config(
        self, name: str, weights: dict[str, float], shadows: dict[str, float] | None = None, **more: Any
    ) -> None:
        def variants(given: dict[str, float]) -> list[dict[str, Any]]:
            shape = more or {"InitialInstanceCount": 1, "InstanceType": "ml.g6.xlarge"}
            return [
                {"VariantName": one, "ModelName": one, "InitialVariantWeight": weight, **shape}
                for one, weight in given.items()
            ]

        beside = {"ShadowProductionVariants": variants(shadows)} if shadows else {}
        self.client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=variants(weights), **beside)

    def endpoint(self, name: str, config: str) -> dict[str, Any]:
        self.client.create_endpoint(EndpointName=name, EndpointConfigName=config)
        return self.settled(name)

    def settled(self, name: str) -> dict[str, Any]:
        def found() -> Any:
            told = self.client.describe_endpoint(EndpointName=name)
            return told if told["EndpointStatus"] in FINAL else None

        return dict(until(found, f"{name} settles"))

    def ask(self, name: str, asked: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        body = json.dumps(asked or {}).encode()
        said = self.runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType="application/json", **more)
        return {**json.loads(said["Body"].read()), "variant": said.get("InvokedProductionVariant"), "said": said}


@pytest.fixture(scope="module")
def sage(builds: Aws, small: str) -> Iterator[Sage]:
    made = Sage(builds, small, images.role(builds, "hosting", "sagemaker"))
    for name in ("a", "b", "broken"):
        made.model(name)
    yield made
    for one in made.client.list_endpoints()["Endpoints"]:
        made.client.delete_endpoint(EndpointName=one["EndpointName"])
    for one in made.client.list_endpoint_configs()["EndpointConfigs"]:
        made.client.delete_endpoint_config(EndpointConfigName=one["EndpointConfigName"])


@pytest.fixture(scope="module")
def endpoint(sage: Sage) -> str:
    """One with the variants a and b."""
    sage.config("ab", {"a": 1.0, "b": 0.0})
    assert sage.endpoint("ab", "ab")["EndpointStatus"] == "InService"
    return "ab"


def test_variants_answer_by_weight_and_by_name(sage: Sage, endpoint: str) -> None:
    told = sage.ask(endpoint, Accept="application/json", CustomAttributes="trace=7")
    assert (told["name"], told["variant"], told["greeting"], told["words"]) == ("a", "a", "hello", ["serve"])
    assert (told["accept"], told["said"]["CustomAttributes"]) == ("application/json", "trace=7")
    assert sage.ask(endpoint, TargetVariant="b")["name"] == "b"
    assert {sage.ask(endpoint)["name"] for _ in range(10)} == {"a"}, "a weight of 0 gets nothing"
    wanted = [{"VariantName": "a", "DesiredWeight": 0.0}, {"VariantName": "b", "DesiredWeight": 5.0}]
    sage.client.update_endpoint_weights_and_capacities(EndpointName=endpoint, DesiredWeightsAndCapacities=wanted)
    found = {one["VariantName"]: one for one in sage.settled(endpoint)["ProductionVariants"]}
    assert (found["a"]["CurrentWeight"], found["b"]["CurrentWeight"], found["b"]["CurrentInstanceCount"]) == (
        0.0,
        5.0,
        1,
    )
    assert {sage.ask(endpoint)["name"] for _ in range(10)} == {"b"}


def test_what_the_model_refuses_and_what_is_not_there(sage: Sage, endpoint: str) -> None:
    with pytest.raises(ClientError) as failed:
        sage.ask(endpoint, {"status": 422})
    said: Any = failed.value.response
    assert (said["Error"]["Code"], said["OriginalStatusCode"]) == ("ModelError", 422)
    assert said["OriginalMessage"] == '{"error": "as asked"}'
    with pytest.raises(ClientError, match="Variant none was not found"):
        sage.ask(endpoint, TargetVariant="none")
    with pytest.raises(ClientError, match="Could not find endpoint config"):
        sage.client.update_endpoint(EndpointName="ab", EndpointConfigName="none")
    with pytest.raises(ClientError, match="Endpoint none of account .* not found"):
        sage.ask("none")
    for make in (
        lambda: sage.model("a"),
        lambda: sage.config("ab", {"a": 1.0}),
        lambda: sage.client.create_endpoint(EndpointName="ab", EndpointConfigName="ab"),
    ):
        with pytest.raises(ClientError, match="Cannot create already existing"):
            make()
    with pytest.raises(ClientError, match="Could not assume role"):
        sage.client.create_model(
            ModelName="x", ExecutionRoleArn="arn:aws:iam::123456789012:role/none", PrimaryContainer={"Image": "i"}
        )


def test_an_instance_that_is_killed_is_replaced(sage: Sage, endpoint: str) -> None:
    before = sage.ask(endpoint, TargetVariant="a")["pid"]
    os.kill(before, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{before}").exists(), "it is gone")
    assert sage.ask(endpoint, TargetVariant="a")["pid"] != before
    with pytest.raises(ClientError, match="ModelError"):
        sage.ask(endpoint, {"die": True}, TargetVariant="a")
    assert sage.ask(endpoint, TargetVariant="a")["name"] == "a"


def test_a_change_loses_no_request_and_one_that_fails_changes_nothing(sage: Sage, aws: Aws) -> None:
    for name in ("first", "second"):
        sage.model(name)
        sage.config(name, {name: 1.0})
    sage.config("bad", {"broken": 1.0})
    sage.endpoint("live", "first")
    old = sage.ask("live")["pid"]
    over = threading.Event()
    names: list[str] = []

    def call() -> None:
        while not over.is_set():
            names.append(sage.ask("live", {"s": 0.02})["name"])

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    sage.client.update_endpoint(EndpointName="live", EndpointConfigName="bad")
    with pytest.raises(ClientError, match="Cannot update in-progress"):
        sage.client.update_endpoint(EndpointName="live", EndpointConfigName="second")
    told = sage.settled("live")
    assert (told["EndpointStatus"], told["EndpointConfigName"]) == ("InService", "first")
    assert "broken did not pass the ping health check" in told["FailureReason"]
    sage.client.update_endpoint(EndpointName="live", EndpointConfigName="second")
    told = sage.settled("live")
    assert told["EndpointConfigName"] == "second"
    assert "FailureReason" not in told
    over.set()
    for caller in callers:
        caller.join()
    assert sage.ask("live")["name"] == "second"
    assert {"first"} <= set(names) <= {"first", "second"}
    until(lambda: not Path(f"/proc/{old}").exists(), "what was before is gone")
    lines = aws.logs.filter_log_events(logGroupName="/aws/sagemaker/Endpoints/live")["events"]
    assert any(line["logStreamName"].startswith("broken/") and "I do not start" in line["message"] for line in lines)


def test_one_that_cannot_start_has_failed_and_says_why(sage: Sage) -> None:
    sage.config("never", {"broken": 1.0})
    told = sage.endpoint("never", "never")
    assert told["EndpointStatus"] == "Failed"
    assert "ping health check" in told["FailureReason"]
    with pytest.raises(ClientError, match="not in service: it is Failed"):
        sage.ask("never")
    sage.model("absent", Image=f"{images.ACCOUNT}/{images.REPOSITORY}:absent")
    sage.config("absent", {"absent": 1.0})
    assert "does not exist" in sage.endpoint("absent", "absent")["FailureReason"]


def test_instances_come_and_go_by_their_number(sage: Sage) -> None:
    sage.config("wide", {"a": 1.0}, InitialInstanceCount=2, InstanceType="ml.m5.large")
    sage.endpoint("wide", "wide")

    def pids() -> set[int]:
        found: set[int] = set()
        callers = [threading.Thread(target=lambda: found.add(sage.ask("wide", {"s": 0.3})["pid"])) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        return found

    assert len(pids()) == 2
    wanted = [{"VariantName": "a", "DesiredInstanceCount": 1}]
    sage.client.update_endpoint_weights_and_capacities(EndpointName="wide", DesiredWeightsAndCapacities=wanted)
    (variant,) = sage.settled("wide")["ProductionVariants"]
    assert (variant["CurrentInstanceCount"], variant["CurrentWeight"]) == (1, 1.0)
    left = pids()
    assert len(left) == 1
    sage.client.delete_endpoint(EndpointName="wide")
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)


def test_a_shadow_gets_a_copy_and_its_answer_nobody(sage: Sage, aws: Aws) -> None:
    sage.config("shadowed", {"a": 1.0}, {"b": 1.0})
    assert sage.endpoint("shadowed", "shadowed")["EndpointStatus"] == "InService"
    told = sage.client.describe_endpoint_config(EndpointConfigName="shadowed")
    assert told["ShadowProductionVariants"][0]["ModelName"] == "b"
    assert sage.ask("shadowed", {"mark": 4711})["name"] == "a"

    def seen() -> bool:
        events = aws.logs.filter_log_events(logGroupName="/aws/sagemaker/Endpoints/shadowed")["events"]
        return any(one["logStreamName"].startswith("b/") and "4711" in one["message"] for one in events)

    until(seen, "the shadow has it")


def test_a_serverless_one_takes_so_many_requests_at_once(sage: Sage) -> None:
    sage.config("thin", {"a": 1.0}, ServerlessConfig={"MemorySizeInMB": 1024, "MaxConcurrency": 1})
    (variant,) = sage.endpoint("thin", "thin")["ProductionVariants"]
    assert variant["CurrentServerlessConfig"]["MaxConcurrency"] == 1
    pid = sage.ask("thin")["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")
    assert sage.ask("thin")["pid"] != pid, "it starts on demand"

    def long() -> None:
        with suppress(ClientError):  # it goes with the endpoint
            sage.ask("thin", {"s": 60.0})

    slow = threading.Thread(target=long)
    slow.start()

    def refused() -> bool:
        try:
            sage.ask("thin")
        except ClientError as error:
            return error.response["Error"]["Code"] == "ThrottlingException"
        return False

    until(refused, "a second one is too many")
    sage.client.delete_endpoint(EndpointName="thin")
    slow.join()


def test_model_data_lies_where_containers_look_for_it(sage: Sage, aws: Aws, tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("駅弁")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "model.txt", "model.txt")
    aws.s3.upload_file(str(tmp_path / "model.tar.gz"), images.BUCKET, "models/model.tar.gz")
    for name, key in (("packed", "models/model.tar.gz"), ("lost", "models/none.tar.gz")):
        sage.model(name, ModelDataUrl=f"s3://{images.BUCKET}/{key}")
        sage.config(name, {name: 1.0})
        sage.client.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sage.settled("packed")
    assert sage.ask("packed")["mine"] == "駅弁"
    assert "models/none.tar.gz" in sage.settled("lost")["FailureReason"]
