"""Endpoints on SageMaker's instances: variants as revisions, on a SageMaker that changes endpoints at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws import variants
from ekiben.aws.runtime import Endpoint
from tests.fakes.aws import Edge

KIND = variants.Endpoint


def facts(name: str) -> dict[str, Any]:
    return {
        "endpoint": name, "role_arn": "arn:aws:iam::123456789012:role/server", "instance_type": "ml.m5.large", "instances": 1,
    }  # fmt: skip


def left(client: Callable[[str], Any], endpoint: variants.Endpoint) -> list[str]:
    """What there is of the endpoint: models and configurations."""
    there, name = client("sagemaker"), endpoint.part.facts["endpoint"]
    found = [one["ModelName"] for one in there.list_models()["Models"]]
    found += [one["EndpointConfigName"] for one in there.list_endpoint_configs()["EndpointConfigs"]]
    return sorted(one for one in found if one.startswith(f"{name}-"))


def test_revisions_come_take_traffic_and_go(
    endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    assert endpoint.revisions() == []
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})
    one, two = make(1), make(2)
    first = endpoint.deploy(one)
    assert (first.version, first.digest, first.weight, first.state, first.instances) == (
        "tiny:1",
        one.digest,
        0.0,
        "ready",
        1,
    )
    assert endpoint.deploy(one) == first
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})
    endpoint.shift({first.id: 100.0})
    second = endpoint.deploy(two)
    assert {found.id: found.weight for found in endpoint.revisions()} == {first.id: 100.0, second.id: 0.0}
    shifted = endpoint.shift({first.id: 70.0, second.id: 30.0})
    assert endpoint.shift({first.id: 70.0, second.id: 30.0}) == shifted
    assert {found.id: found.weight for found in shifted} == {first.id: 70.0, second.id: 30.0}
    with pytest.raises(ek.SpecError, match="30 % of the traffic"):
        endpoint.retire(second.id)
    for weights, error in (({first.id: 50.0}, ek.SpecError), ({"nobody": 100.0}, ek.NotFound)):
        with pytest.raises(error):
            endpoint.shift(weights)
    endpoint.shift({second.id: 100.0})
    endpoint.retire(first.id)
    endpoint.retire(first.id)
    assert [found.id for found in endpoint.revisions()] == [second.id]
    assert len(left(client, endpoint)) == 2, "a model and a configuration: what was before is gone"
    endpoint.shift({second.id: 100.0})
    assert [found.revision for found in endpoint.metrics()] == [second.id]


def test_the_model_names_its_bento_and_everything_has_tags(
    endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    version = make(1)
    revision = endpoint.deploy(version)
    there, name = client("sagemaker"), endpoint.part.facts["endpoint"]
    model = there.describe_model(ModelName=f"{name}-{revision.id}")
    assert model["PrimaryContainer"]["Environment"]["EKIBEN_BENTO"] == version.bento_uri
    config = there.describe_endpoint(EndpointName=name)["EndpointConfigName"]
    for arn in (model["ModelArn"], there.describe_endpoint_config(EndpointConfigName=config)["EndpointConfigArn"]):
        assert {"Key": "ekiben:component", "Value": "tiny-api"} in there.list_tags(ResourceArn=arn)["Tags"]


def test_what_sagemaker_cannot_do_is_said(endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion]) -> None:
    with pytest.raises(ek.Unsupported, match="tags"):
        endpoint.deploy(make(1), tag="candidate")
    with pytest.raises(ek.Unsupported, match="explain"):
        endpoint.invoke({"x": 1}, route="explain")
    with pytest.raises(ek.SpecError, match="JSON"):
        endpoint.invoke({"x": float("nan")})


def test_a_bento_with_other_bytes_is_never_deployed(
    endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], bucket: str
) -> None:
    version = make(1)
    client("s3").put_object(Bucket=bucket, Key=f"bentos/{version.digest}.tar", Body=b"other")
    with pytest.raises(ek.IntegrityError, match=version.digest):
        endpoint.deploy(version)
    assert left(client, endpoint) == []


def test_a_model_that_does_not_start_leaves_nothing_behind(
    endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], edge: Edge
) -> None:
    version, name = make(1), endpoint.part.facts["endpoint"]
    edge.endpoints[name] = {
        "EndpointStatus": "Failed",
        "FailureReason": "The container did not pass the ping health check.",
    }
    with pytest.raises(ek.ModelFailed, match="tiny:1 does not start: The container did not pass"):
        endpoint.deploy(version)
    assert endpoint.revisions() == []
    assert left(client, endpoint) == []
    assert endpoint.deploy(version).state == "ready"


def test_variants_with_traffic_scale_and_others_have_the_least(
    endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    endpoint.part.facts.update(instances=2, max_instances=5, concurrency=10)
    bound = Endpoint(endpoint.part, endpoint.platform)
    name, there = endpoint.part.facts["endpoint"], client("application-autoscaling")

    def scaled() -> dict[str, tuple[int, int]]:
        found = there.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        return {
            one["ResourceId"].rpartition("/")[2]: (one["MinCapacity"], one["MaxCapacity"])
            for one in found
            if one["ResourceId"].startswith(f"endpoint/{name}/variant/")
        }

    first, second = bound.deploy(make(1)), bound.deploy(make(2))
    assert scaled() == {}, "what has no traffic does not scale"
    bound.shift({first.id: 100.0})
    assert scaled() == {first.id: (2, 5)}
    (policy,) = there.describe_scaling_policies(
        ServiceNamespace="sagemaker", ResourceId=f"endpoint/{name}/variant/{first.id}"
    )["ScalingPolicies"]
    tracked = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracked["TargetValue"] == 7.0
    assert "ConcurrentRequests" in tracked["PredefinedMetricSpecification"]["PredefinedMetricType"]
    bound.shift({first.id: 50.0, second.id: 50.0})
    assert scaled() == {first.id: (2, 5), second.id: (2, 5)}
    client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=name, DesiredWeightsAndCapacities=[{"VariantName": first.id, "DesiredInstanceCount": 4}]
    )
    shifted = {one.id: one.instances for one in bound.shift({second.id: 100.0})}
    assert (scaled(), shifted[first.id]) == ({second.id: (2, 5)}, 2)
    bound.retire(first.id)
    bound.shift({second.id: 100.0})
    assert scaled() == {second.id: (2, 5)}


def test_calls(endpoint: variants.Endpoint, make: Callable[[int], ek.ModelVersion], edge: Edge) -> None:
    one = endpoint.deploy(make(1))
    endpoint.shift({one.id: 100.0})
    edge.say("/invocations", 200, {"y": 2}, {"x-Amzn-Invoked-Production-Variant": one.id, "x-amzn-RequestId": "r1"})
    answer = endpoint.invoke({"x": 1})
    assert (answer.body, answer.revision, answer.id, answer.endpoint) == ({"y": 2}, one.id, "r1", "tiny-api")
    for status, kind in ((400, ek.SpecError), (500, ek.ModelFailed), (503, ek.Unavailable)):
        told = {
            "__type": "ModelError",
            "Message": "it failed",
            "OriginalStatusCode": status,
            "OriginalMessage": '{"error": "no y"}',
        }
        edge.say("/invocations", 424, told)
        with pytest.raises(kind, match="no y"):
            endpoint.invoke({"x": 1})
    with pytest.raises(ek.NotFound, match="nobody"):
        endpoint.invoke({"x": 1}, revision="nobody")
