"""Endpoints of the emulated AWS that predict: images that were built, behind Lambda's aliases and SageMaker's variants."""

from __future__ import annotations

from typing import Any

import pytest

import ekiben as ek
from ekiben.aws import endpoint as lambdas, express, serverless, variants
from tests.waiting import until

from . import images
from .conftest import Aws


@pytest.fixture(autouse=True)
def _clean_environment() -> None:
    """The run face finds the emulator as a user's program does."""


def part(name: str, **facts: Any) -> ek.Part:
    more = {
        "region": "us-east-1", "model": "tiny@champion", "storage_uri": f"s3://{images.BUCKET}", "template_sha256": "0" * 64,
        "template_uri": f"s3://{images.BUCKET}/t",
    }  # fmt: skip
    return ek.Part(name=name, kind="endpoint", provider="aws", ref=name, facts={**more, **facts})


@pytest.fixture(scope="module")
def function(aws: Aws, image: str) -> str:
    getattr(aws, "lambda").create_function(
        FunctionName="tiny-api", PackageType="Image", Code={"ImageUri": image}, Role=images.role(aws, "server", "lambda"),
        Timeout=30, MemorySize=512,
    )  # fmt: skip
    return "tiny-api"


@pytest.fixture(scope="module")
def api(function: str) -> lambdas.Endpoint:
    made = part("tiny-api", function=function, alias="live", log_group=f"/aws/lambda/{function}")
    return lambdas.Endpoint(made, ek.Platform(project="demo", stack="test", parts={"tiny-api": made}))


def test_lambda_deploys_shifts_invokes_and_retires(
    api: lambdas.Endpoint, versions: list[ek.ModelVersion], aws: Aws
) -> None:
    one, two, broken = versions
    with pytest.raises(ek.Unavailable, match="release"):
        api.invoke({"x": 1.5})
    first = api.deploy(one)
    assert (first.state, first.weight) == ("ready", 0.0)
    api.shift({first.id: 100.0})
    answer = api.invoke({"x": 1.5})
    assert (answer.body, answer.revision) == ({"y": 3.0}, first.id)
    assert not answer.cold
    second = api.deploy(two)
    assert api.invoke({"x": 1.5}, revision=second.id).body == {"y": 4.5}
    with pytest.raises(ek.ModelFailed, match="tiny:3 does not start"):
        api.deploy(broken)
    assert [one.id for one in api.revisions()] == [second.id, first.id]
    with pytest.raises(ek.SpecError, match="x"):
        api.invoke({"x": "many"})
    with pytest.raises(ek.ModelFailed):
        api.invoke({}, route="broken")
    api.shift({second.id: 100.0})
    assert api.invoke({"x": 1.5}).revision == second.id
    api.retire(first.id)
    assert [one.id for one in api.revisions()] == [second.id]


@pytest.fixture(scope="module")
def hosted(image: str, aws: Aws) -> variants.Endpoint:
    made = part(
        "hosted", endpoint="hosted", role_arn=images.role(aws, "host", "sagemaker"), image_uri=image, instance_type="ml.g6.xlarge",
        instances=1,
    )  # fmt: skip
    return variants.Endpoint(made, ek.Platform(project="demo", stack="test", parts={"hosted": made}))


def test_sagemaker_deploys_shifts_invokes_and_retires(
    hosted: variants.Endpoint, versions: list[ek.ModelVersion], aws: Aws
) -> None:
    one, two, broken = versions
    first = hosted.deploy(one)
    assert (first.state, first.weight, first.instances) == ("ready", 0.0, 1)
    with pytest.raises(ek.Unavailable, match="release"):
        hosted.invoke({"x": 1.5})
    hosted.shift({first.id: 100.0})
    answer = hosted.invoke({"x": 1.5})
    assert (answer.body, answer.revision) == ({"y": 3.0}, first.id)
    second = hosted.deploy(two)
    assert hosted.invoke({"x": 1.5}, revision=second.id).body == {"y": 4.5}
    with pytest.raises(ek.ModelFailed, match="ping health check") as failed:
        hosted.deploy(broken)
    assert "JSONDecodeError" in failed.value.tail
    assert {found.id: found.weight for found in hosted.revisions()} == {first.id: 100.0, second.id: 0.0}
    with pytest.raises(ek.SpecError, match="x"):
        hosted.invoke({"x": "many"})
    hosted.shift({first.id: 50.0, second.id: 50.0})
    assert {hosted.invoke({"x": 1.0}).body["y"] for _ in range(40)} == {2.0, 3.0}
    counted = {found.revision: found for found in hosted.metrics()}
    assert counted[first.id].requests + counted[second.id].requests == 43
    assert counted[first.id].p50_ms > 0
    hosted.shift({second.id: 100.0})
    hosted.retire(first.id)
    assert [one.id for one in hosted.revisions()] == [second.id]
    assert hosted.invoke({"x": 1.5}).body == {"y": 4.5}


def test_sagemaker_serverless_gives_all_traffic_to_one(versions: list[ek.ModelVersion], image: str, aws: Aws) -> None:
    made = part(
        "thin", serverless="thin-api", role_arn=images.role(aws, "thin", "sagemaker"), image_uri=image, memory_mib=1024,
        max_concurrency=4,
    )  # fmt: skip
    thin = serverless.Endpoint(made, ek.Platform(project="demo", stack="test", parts={"thin": made}))
    one, two, broken = versions
    first = thin.deploy(one)
    with pytest.raises(ek.ModelFailed, match="tiny:3 does not start"):
        thin.deploy(broken)
    with pytest.raises(ek.Unavailable, match="release"):
        thin.invoke({"x": 1.5})
    thin.shift({first.id: 100.0})
    assert thin.invoke({"x": 1.5}).body == {"y": 3.0}
    second = thin.deploy(two)
    assert thin.invoke({"x": 1.5}, revision=second.id).body == {"y": 4.5}
    thin.shift({second.id: 100.0})
    assert thin.invoke({"x": 1.5}).body == {"y": 4.5}
    thin.retire(first.id)
    assert [found.id for found in thin.revisions()] == [second.id]


def test_ecs_express_moves_all_traffic_from_one_to_the_next(
    versions: list[ek.ModelVersion], image: str, aws: Aws
) -> None:
    cluster = aws.ecs.create_cluster(clusterName="demo")["cluster"]["clusterArn"]
    made = part(
        "wide", service="wide-api", cluster_arn=cluster, image_uri=image, vcpu=1, memory_mib=2048, min_instances=1,
        max_instances=2, timeout_s=90.0, log_group="/ekiben/wide-api",
        **{
            f"{name}_role_arn": images.role(aws, f"wide-{name}", service)
            for name, service in (("execution", "ecs-tasks"), ("infrastructure", "ecs"), ("task", "ecs-tasks"))
        },
    )  # fmt: skip
    wide = express.Endpoint(made, ek.Platform(project="demo", stack="test", parts={"wide": made}))
    one, two, broken = versions
    first = wide.deploy(one)
    assert (first.weight, first.instances) == (0.0, 1)
    with pytest.raises(ek.Unavailable, match="release"):
        wide.invoke({"x": 1.5})
    assert wide.invoke({"x": 1.5}, revision=first.id).body == {"y": 3.0}
    with pytest.raises(ek.ModelFailed, match="its tasks end") as failed:
        wide.deploy(broken)
    assert "JSONDecodeError" in failed.value.tail
    wide.shift({first.id: 100.0})
    assert wide.invoke({"x": 1.5}).body == {"y": 3.0}
    with pytest.raises(ek.SpecError, match="x"):
        wide.invoke({"x": "many"})
    second = wide.deploy(two)
    assert {found.id: found.weight for found in wide.shift({second.id: 100.0})} == {first.id: 0.0, second.id: 100.0}
    assert wide.invoke({"x": 1.5}).body == {"y": 4.5}
    assert wide.invoke({"seconds": 0.0}, route="slow").body == 0.0
    wide.retire(first.id)
    assert [found.id for found in wide.revisions()] == [second.id]
    (counted,) = wide.metrics()
    assert (counted.requests, counted.errors) == (2, 0)
    (balancer,) = aws.elbv2.describe_load_balancers()["LoadBalancers"]
    waits = aws.elbv2.describe_load_balancer_attributes(LoadBalancerArn=balancer["LoadBalancerArn"])["Attributes"]
    assert {one["Key"]: one["Value"] for one in waits}["idle_timeout.timeout_seconds"] == "95"
    aws.ecs.delete_express_gateway_service(serviceArn=f"{cluster.replace(':cluster/', ':service/')}/wide-api")
    until(lambda: not aws.elbv2.describe_load_balancers()["LoadBalancers"], "the balancer goes with the last service")
