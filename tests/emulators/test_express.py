"""ECS Express of the emulated AWS: services answer at one address, change without losing a request, and go."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.waiting import until

from . import images
from .conftest import Aws

ROLES = {"executionRoleArn": ("executing", "ecs-tasks"), "infrastructureRoleArn": ("infrastructure", "ecs")}


@pytest.fixture(scope="module")
def service(builds: Aws, small: str) -> dict[str, Any]:
    """What a service of the small image is made of."""
    builds.ecs.create_cluster(clusterName="small")
    roles = {key: images.role(builds, *names) for key, names in ROLES.items()}
    return {**roles, "cluster": "small", "healthCheckPath": "/", "primaryContainer": container(small, "one")}


def container(image: str, name: str) -> dict[str, Any]:
    return {
        "image": image, "environment": [{"name": "NAME", "value": name}], "command": ["served"],
        "awsLogsConfiguration": {"logGroup": "/express", "logStreamPrefix": name},
    }  # fmt: skip


def settled(aws: Aws, arn: str) -> dict[str, Any]:
    """The newest deployment, when it has ended."""

    def found() -> Any:
        newest = aws.ecs.list_service_deployments(service=arn)["serviceDeployments"][0]
        return newest if "PROGRESS" not in newest["status"] else None

    return dict(until(found, "the deployment ends"))


def ask(url: str, asked: Any = None) -> dict[str, Any]:
    request = urllib.request.Request(
        url + "/predict?a=1", data=json.dumps(asked or {}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def test_a_service_from_its_creation_to_its_end(builds: Aws, service: dict[str, Any], small: str) -> None:
    ecs = builds.ecs
    made = ecs.create_express_gateway_service(serviceName="api", **service)["service"]
    arn = made["serviceArn"]
    assert settled(builds, arn)["status"] == "SUCCESSFUL"
    (active,) = ecs.describe_express_gateway_service(serviceArn=arn)["service"]["activeConfigurations"]
    url = active["ingressPaths"][0]["endpoint"]
    told = ask(url)
    assert (told["name"], told["words"]) == ("one", ["served"])
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(url, {"status": 422})
    assert (refused.value.code, json.load(refused.value)["error"]) == (422, "as asked")
    over, names = threading.Event(), []

    def call() -> None:
        while not over.is_set():
            names.append(ask(url, {"s": 0.02})["name"])
            time.sleep(0)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    ecs.update_express_gateway_service(serviceArn=arn, primaryContainer=container(small, "two"))
    assert settled(builds, arn)["status"] == "SUCCESSFUL"
    until(lambda: names[-1] == "two", "the new tasks answer")
    over.set()
    for caller in callers:
        caller.join()
    assert set(names) == {"one", "two"}
    (task,) = ecs.list_tasks(cluster="small", serviceName="api")["taskArns"]
    assert ecs.describe_tasks(cluster="small", tasks=[task])["tasks"][0]["lastStatus"] == "RUNNING"
    lines = builds.logs.filter_log_events(logGroupName="/express", logStreamNamePrefix="two/Main/")["events"]
    assert any("asked /predict?a=1" in line["message"] for line in lines)
    pid = ask(url)["pid"]
    ecs.delete_express_gateway_service(serviceArn=arn)
    until(
        lambda: ecs.describe_express_gateway_service(serviceArn=arn)["service"]["status"]["statusCode"] == "INACTIVE",
        "it ends",
    )
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(urllib.error.HTTPError, match="503"):
        ask(url)
    with pytest.raises(ClientError, match="ServiceNotFound"):
        ecs.update_express_gateway_service(serviceArn=arn)


def test_a_deployment_that_does_not_start_is_rolled_back(builds: Aws, service: dict[str, Any], small: str) -> None:
    ecs = builds.ecs
    arn = ecs.create_express_gateway_service(serviceName="kept", **service)["service"]["serviceArn"]
    settled(builds, arn)
    made = ecs.update_express_gateway_service(serviceArn=arn, primaryContainer=container(small, "broken"))["service"]

    def lost() -> list[str]:
        return list(ecs.list_tasks(cluster="small", serviceName="kept", desiredStatus="STOPPED")["taskArns"])

    until(lost, "a task ends")
    assert ecs.describe_tasks(cluster="small", tasks=lost()[:1])["tasks"][0]["stopCode"] == "EssentialContainerExited"
    newest = ecs.list_service_deployments(service=arn)["serviceDeployments"][0]
    assert newest["targetServiceRevisionArn"] == made["targetConfiguration"]["serviceRevisionArn"]
    ecs.stop_service_deployment(serviceDeploymentArn=newest["serviceDeploymentArn"], stopType="ROLLBACK")
    assert settled(builds, arn)["status"] == "ROLLBACK_SUCCESSFUL"
    (active,) = ecs.describe_express_gateway_service(serviceArn=arn)["service"]["activeConfigurations"]
    assert ask(active["ingressPaths"][0]["endpoint"])["name"] == "one"
    with pytest.raises(ClientError, match="Conflict"):
        ecs.stop_service_deployment(serviceDeploymentArn=newest["serviceDeploymentArn"])
    with pytest.raises(ClientError, match="not idempotent"):
        ecs.create_express_gateway_service(serviceName="kept", **service)
    ecs.delete_express_gateway_service(serviceArn=arn)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"cluster": "none"}, "ClusterNotFound"),
        ({"infrastructureRoleArn": "arn:aws:iam::123456789012:role/none"}, "assume role"),
        ({"primaryContainer": {"image": ""}}, "primaryContainer"),
    ],
)
def test_what_is_not_there_is_refused(builds: Aws, service: dict[str, Any], change: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError, match=code):
        builds.ecs.create_express_gateway_service(serviceName="never", **{**service, **change})
    assert builds.elbv2.describe_load_balancers()["LoadBalancers"] == []
