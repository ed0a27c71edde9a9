"""Endpoints on SageMaker serverless: an endpoint a revision, and one that has the traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws import serverless
from tests.fakes.aws import Edge

KIND = serverless.Endpoint


def facts(name: str) -> dict[str, Any]:
    return {
        "serverless": name, "role_arn": "arn:aws:iam::123456789012:role/server", "memory_mib": 2048, "max_concurrency": 16,
    }  # fmt: skip


def left(client: Callable[[str], Any], endpoint: serverless.Endpoint) -> list[str]:
    """What there is of the endpoint: models, configurations, endpoints."""
    there, name = client("sagemaker"), endpoint.part.facts["serverless"]
    found = [f"model {one['ModelName']}" for one in there.list_models()["Models"]]
    found += [f"configuration {one['EndpointConfigName']}" for one in there.list_endpoint_configs()["EndpointConfigs"]]
    found += [f"endpoint {one['EndpointName']}" for one in there.list_endpoints()["Endpoints"]]
    return sorted(one for one in found if f" {name}" in one)


def live(client: Callable[[str], Any], endpoint: serverless.Endpoint) -> dict[str, Any]:
    """The variant that has the traffic, as its configuration has it."""
    there = client("sagemaker")
    name = there.describe_endpoint(EndpointName=endpoint.part.facts["serverless"])["EndpointConfigName"]
    (variant,) = there.describe_endpoint_config(EndpointConfigName=name)["ProductionVariants"]
    return dict(variant)


def test_revisions_come_take_all_traffic_and_go(
    endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    assert endpoint.revisions() == []
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})
    one, two = make(1), make(2)
    first = endpoint.deploy(one)
    assert (first.version, first.digest, first.weight, first.state) == ("tiny:1", one.digest, 0.0, "ready")
    assert endpoint.deploy(one) == first
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})
    endpoint.shift({first.id: 100.0})
    second = endpoint.deploy(two)
    assert {found.id: found.weight for found in endpoint.revisions()} == {first.id: 100.0, second.id: 0.0}
    for weights, error in (
        ({first.id: 50.0}, ek.SpecError),
        ({"nobody": 100.0}, ek.NotFound),
        ({first.id: 90.0, second.id: 10.0}, ek.Unsupported),
    ):
        with pytest.raises(error):
            endpoint.shift(weights)
    with pytest.raises(ek.SpecError, match="100 % of the traffic"):
        endpoint.retire(first.id)
    shifted = endpoint.shift({second.id: 100.0, first.id: 0.0})
    assert endpoint.shift({second.id: 100.0}) == shifted
    assert [(found.id, found.weight) for found in shifted] == [(second.id, 100.0), (first.id, 0.0)]
    endpoint.retire(first.id)
    endpoint.retire(first.id)
    endpoint.retire("nobody")
    assert [found.id for found in endpoint.revisions()] == [second.id]
    assert len(left(client, endpoint)) == 5, "a model, its endpoint, the one with the traffic, a configuration for each"
    assert [found.revision for found in endpoint.metrics()] == [second.id]


def test_what_is_made_has_the_size_that_was_asked_and_tags(
    bind: Callable[..., serverless.Endpoint], make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    endpoint = bind(provisioned=2)
    revision = endpoint.deploy(make(1))
    endpoint.shift({revision.id: 100.0})
    there, name = client("sagemaker"), endpoint.part.facts["serverless"]
    own = there.describe_endpoint(EndpointName=f"{name}-{revision.id}")
    told = there.describe_endpoint_config(EndpointConfigName=own["EndpointConfigName"])
    assert told["ProductionVariants"][0]["ServerlessConfig"] == {"MemorySizeInMB": 2048, "MaxConcurrency": 16}
    assert live(client, endpoint)["ServerlessConfig"]["ProvisionedConcurrency"] == 2
    for arn in (own["EndpointArn"], told["EndpointConfigArn"]):
        assert {"Key": "ekiben:component", "Value": "tiny-api"} in there.list_tags(ResourceArn=arn)["Tags"]


def test_a_size_that_was_changed_is_taken_over_by_the_next_shift_to_the_same_revision(
    bind: Callable[..., serverless.Endpoint], make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    revision = bind().deploy(make(1))
    bind().shift({revision.id: 100.0})
    before = left(client, bind())
    larger = bind(memory_mib=4096, provisioned=1)
    larger.shift({revision.id: 100.0})
    told = live(client, larger)
    assert (told["VariantName"], told["ServerlessConfig"]["MemorySizeInMB"]) == (revision.id, 4096)
    assert len(left(client, larger)) == len(before), "the configuration before is gone"


def test_what_serverless_cannot_do_is_said(
    endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion]
) -> None:
    with pytest.raises(ek.Unsupported, match="tags"):
        endpoint.deploy(make(1), tag="candidate")
    with pytest.raises(ek.Unsupported, match="explain"):
        endpoint.invoke({"x": 1}, route="explain")
    with pytest.raises(ek.SpecError, match="JSON"):
        endpoint.invoke({"x": float("nan")})
    with pytest.raises(ek.NotFound, match="there is: none"):
        endpoint.invoke({"x": 1}, revision="v1-00000000")


def test_a_bento_with_other_bytes_is_never_deployed(
    endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], bucket: str
) -> None:
    version = make(1)
    client("s3").put_object(Bucket=bucket, Key=f"bentos/{version.digest}.tar", Body=b"other")
    with pytest.raises(ek.IntegrityError, match=version.digest):
        endpoint.deploy(version)
    assert left(client, endpoint) == []


def test_a_model_that_does_not_start_leaves_nothing_behind(
    endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], edge: Edge
) -> None:
    version, name = make(1), f"{endpoint.part.facts['serverless']}-v1-{make(1).digest[:8]}"
    group = f"/aws/sagemaker/Endpoints/{name}"
    client("logs").create_log_group(logGroupName=group)
    edge.endpoints[name] = {"EndpointStatus": "Failed", "FailureReason": "It did not pass the ping health check."}
    with pytest.raises(ek.ModelFailed, match="tiny:1 does not start: It did not pass"):
        endpoint.deploy(version)
    assert endpoint.revisions() == []
    assert left(client, endpoint) == []
    assert client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"] == []
    assert endpoint.deploy(version).state == "ready"


def test_a_change_that_was_taken_back_is_a_failure_and_changes_nothing(
    endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], edge: Edge
) -> None:
    first, second = endpoint.deploy(make(1)), endpoint.deploy(make(2))
    endpoint.shift({first.id: 100.0})
    before = left(client, endpoint)
    edge.say("SageMaker.UpdateEndpoint", 200, {"EndpointArn": "arn:aws:sagemaker:eu-west-1:1:endpoint/api"})
    edge.endpoints[endpoint.part.facts["serverless"]] = {"FailureReason": "One or more containers failed."}
    with pytest.raises(ek.ModelFailed, match="tiny:2 does not take the traffic.*One or more containers failed"):
        endpoint.shift({second.id: 100.0})
    assert {one.id: one.weight for one in endpoint.revisions()} == {first.id: 100.0, second.id: 0.0}
    assert left(client, endpoint) == before


def test_a_deployment_and_a_retirement_that_were_killed_are_finished_by_repeating_them(
    endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], edge: Edge
) -> None:
    for step in ("CreateEndpointConfig", "CreateEndpoint"):
        edge.fail(f"SageMaker.{step}", "InternalFailure", status=500, times=4)
        with pytest.raises(ek.Unavailable):
            endpoint.deploy(make(1))
    revision = endpoint.deploy(make(1))
    for step in ("DeleteEndpoint", "DeleteEndpointConfig", "DeleteModel"):
        edge.fail(f"SageMaker.{step}", "InternalFailure", status=500, times=4)
        with pytest.raises(ek.Unavailable):
            endpoint.retire(revision.id)
    endpoint.retire(revision.id)
    assert [one for one in left(client, endpoint) if "configuration" not in one] == []


def test_calls(endpoint: serverless.Endpoint, make: Callable[[int], ek.ModelVersion], edge: Edge) -> None:
    one = endpoint.deploy(make(1))
    endpoint.shift({one.id: 100.0})
    name = endpoint.part.facts["serverless"]
    for revision, path in (("", name), (one.id, f"{name}-{one.id}")):
        headers = {"x-Amzn-Invoked-Production-Variant": one.id, "x-amzn-RequestId": "r1"}
        edge.say(f"/endpoints/{path}/invocations", 200, {"y": 2}, headers)
        answer = endpoint.invoke({"x": 1}, revision=revision)
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
    edge.fail("/invocations", "ThrottlingException", "Rate exceeded", status=429)
    with pytest.raises(ek.Unavailable, match="Rate exceeded"):
        endpoint.invoke({"x": 1})
