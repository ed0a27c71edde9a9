"""Endpoints on ECS Express: a task definition a revision, a service that has the traffic, and one for each that is tried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws import declared, express, leftovers
from ekiben.aws.client import Cloud
from ekiben.aws.facts import ExpressFacts, facts_of
from ekiben.aws.services import Services
from tests.fakes.aws import Edge
from tests.fakes.express import BALANCER, GROUP, Express

from .conftest import REGION

KIND = express.Endpoint
CLUSTER = f"arn:aws:ecs:{REGION}:123456789012:cluster/demo"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Express]:
    made = Express()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def ecs(edge: Edge, gateway: Express) -> Express:
    gateway.clear()
    edge.express = gateway
    return gateway


def facts(name: str) -> dict[str, Any]:
    role = "arn:aws:iam::123456789012:role/"
    return {
        "service": name, "cluster_arn": CLUSTER, "execution_role_arn": f"{role}execution",
        "infrastructure_role_arn": f"{role}infrastructure", "task_role_arn": f"{role}task", "vcpu": 4, "memory_mib": 16_384,
        "image_uri": "1.dkr.ecr.us-east-1.amazonaws.com/serve@sha256:0", "min_instances": 2, "max_instances": 6,
        "timeout_s": 60.0, "log_group": f"/ekiben/{name}", "variables": {"EKIBEN_ENDPOINT": "tiny-api"},
    }  # fmt: skip


def definitions(client: Callable[[str], Any], endpoint: express.Endpoint) -> list[str]:
    name = endpoint.part.facts["service"]
    return list(client("ecs").list_task_definitions(familyPrefix=name)["taskDefinitionArns"])


def active(ecs: Express) -> list[str]:
    return sorted(name for name, one in ecs.services.items() if one["status"] == "ACTIVE")


def test_revisions_come_take_all_traffic_and_go(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], ecs: Express
) -> None:
    name = endpoint.part.facts["service"]
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
    assert active(ecs) == [f"{name}-{first.id}"], "it is tried at an address of its own"
    with pytest.raises(ek.Unavailable, match="release"):
        endpoint.invoke({"x": 1})
    (shifted,) = endpoint.shift({first.id: 100.0})
    assert (shifted.weight, shifted.instances) == (100.0, 2)
    assert active(ecs) == [name], "what has the traffic needs no service of its own"
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
    there = endpoint.shift({second.id: 100.0})
    assert endpoint.shift({second.id: 100.0}) == there
    assert {found.id: (found.weight, found.instances) for found in there} == {second.id: (100.0, 2), first.id: (0.0, 0)}
    with pytest.raises(ek.Unavailable, match="does not run"):
        endpoint.invoke({"x": 1}, revision=first.id)
    assert endpoint.deploy(one).instances == 1, "one that had the traffic before is tried again"
    endpoint.retire(first.id)
    endpoint.retire(first.id)
    endpoint.retire("nobody")
    assert [found.id for found in endpoint.revisions()] == [second.id]
    assert (active(ecs), len(definitions(client, endpoint))) == ([name], 1)


def test_a_task_is_what_was_asked_for(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], ecs: Express
) -> None:
    version = make(1)
    revision = endpoint.deploy(version)
    endpoint.shift({revision.id: 100.0})
    (arn,) = definitions(client, endpoint)
    said = client("ecs").describe_task_definition(taskDefinition=arn, include=["TAGS"])
    told = said["taskDefinition"]
    assert (told["cpu"], told["memory"], told["requiresCompatibilities"]) == ("4096", "16384", ["FARGATE"])
    assert {"key": "ekiben:component", "value": "tiny-api"} in said["tags"]
    (main,) = told["containerDefinitions"]
    assert main["name"] == "Main"
    assert [port["containerPort"] for port in main["portMappings"]] == [8080]
    environment = {pair["name"]: pair["value"] for pair in main["environment"]}
    assert environment == {
        "EKIBEN_BENTO": version.bento_uri, "EKIBEN_DIGEST": version.digest, "EKIBEN_ENDPOINT": "tiny-api",
        "EKIBEN_MODEL_VERSION": "tiny:1", "EKIBEN_REVISION": revision.id,
    }  # fmt: skip
    asked = ecs.services[endpoint.part.facts["service"]]["asked"]
    assert asked["scalingTarget"] == {"minTaskCount": 2, "maxTaskCount": 6}
    assert (asked["healthCheckPath"], "networkConfiguration" in asked) == ("/readyz", False)
    assert {"key": "ekiben:stack", "value": "test"} in asked["tags"]


def test_it_is_in_the_network_that_it_is_given(
    bind: Callable[..., express.Endpoint], make: Callable[[int], ek.ModelVersion], ecs: Express
) -> None:
    revision = bind(subnet_ids=["subnet-1"], security_group_ids=["sg-1"]).deploy(make(1))
    asked = ecs.services[f"{bind().part.facts['service']}-{revision.id}"]["asked"]
    assert asked["networkConfiguration"] == {"subnets": ["subnet-1"], "securityGroups": ["sg-1"]}


def test_bounds_that_were_changed_are_taken_over_by_the_next_shift_to_the_same_revision(
    bind: Callable[..., express.Endpoint], make: Callable[[int], ek.ModelVersion], ecs: Express
) -> None:
    revision = bind().deploy(make(1))
    bind().shift({revision.id: 100.0})
    assert bind(min_instances=3).shift({revision.id: 100.0})[0].instances == 3
    assert active(ecs) == [bind().part.facts["service"]]


def test_changes_are_waited_for_and_of_two_that_run_the_one_before_has_the_traffic(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], ecs: Express
) -> None:
    ecs.changing = 2
    first = endpoint.deploy(make(1))
    endpoint.shift({first.id: 100.0})
    second = endpoint.deploy(make(2))
    name = endpoint.part.facts["service"]
    before = ecs.services[name]["configurations"][0]
    ecs.begin(name, {**before, "taskDefinitionArn": before["taskDefinitionArn"][:-1] + "2"})
    assert len(ecs.services[name]["configurations"]) == 2
    assert {found.id: found.weight for found in endpoint.revisions()} == {first.id: 100.0, second.id: 0.0}
    assert {one.id: one.weight for one in endpoint.shift({second.id: 100.0})} == {first.id: 0.0, second.id: 100.0}


@pytest.mark.parametrize("way", ["undone", "no task starts"])
def test_a_change_that_was_taken_back_is_a_failure_and_the_traffic_is_as_it_was(
    endpoint: express.Endpoint,
    make: Callable[[int], ek.ModelVersion],
    client: Callable[[str], Any],
    ecs: Express,
    way: str,
) -> None:
    first = endpoint.deploy(make(1))
    endpoint.shift({first.id: 100.0})
    second = endpoint.deploy(make(2))
    arn = definitions(client, endpoint)[-1]
    if way == "undone":
        ecs.failing[arn] = "Deployment rolled back: alarm detected."
    else:
        ecs.ending[arn] = "EssentialContainerExited"
    why = "alarm detected" if way == "undone" else "its tasks end: Essential container in task exited"
    with pytest.raises(ek.ModelFailed, match=f"tiny:2 does not take the traffic of 'tiny-api': .*{why}"):
        endpoint.shift({second.id: 100.0})
    assert {one.id: one.weight for one in endpoint.revisions()} == {first.id: 100.0, second.id: 0.0}


def test_a_revision_that_does_not_start_leaves_nothing_behind(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], ecs: Express
) -> None:
    group, id = endpoint.part.facts["log_group"], f"v1-{make(1).digest[:8]}"
    logs = client("logs")
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName=f"{id}/Main/1")
    logs.put_log_events(
        logGroupName=group,
        logStreamName=f"{id}/Main/1",
        logEvents=[{"timestamp": int(1000 * time.time()), "message": "KeyError: 'slope'"}],
    )
    arn = f"arn:aws:ecs:{REGION}:123456789012:task-definition/{endpoint.part.facts['service']}:1"
    ecs.ending[arn] = "TaskFailedToStart"
    with pytest.raises(ek.ModelFailed, match="tiny:1 does not start: its tasks end") as caught:
        endpoint.deploy(make(1))
    assert "slope" in caught.value.tail
    assert (endpoint.revisions(), active(ecs), definitions(client, endpoint)) == ([], [], [])
    ecs.ending.clear()
    assert endpoint.deploy(make(1)).state == "ready"


def test_tasks_that_ended_because_there_were_too_many_are_no_failure(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], ecs: Express
) -> None:
    revision = endpoint.deploy(make(1))
    ecs.scaled_in = 5
    ecs.changing = 2
    assert endpoint.shift({revision.id: 100.0})[0].weight == 100.0


def test_two_at_once_make_one_revision(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any]
) -> None:
    version = make(1)
    services = Services(Cloud(REGION), facts_of(endpoint.part, ExpressFacts), [])
    other = services.register("deploy", version)
    assert endpoint.deploy(version).version == "tiny:1"
    assert definitions(client, endpoint) == [other]
    services.register("deploy", version)
    endpoint.retire(f"v1-{version.digest[:8]}")
    assert definitions(client, endpoint) == []


def test_a_bento_with_other_bytes_is_never_deployed(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], bucket: str
) -> None:
    version = make(1)
    client("s3").put_object(Bucket=bucket, Key=f"bentos/{version.digest}.tar", Body=b"other")
    with pytest.raises(ek.IntegrityError, match=version.digest):
        endpoint.deploy(version)
    assert definitions(client, endpoint) == []


def test_what_express_cannot_do_is_said(endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion]) -> None:
    with pytest.raises(ek.Unsupported, match="tags"):
        endpoint.deploy(make(1), tag="candidate")
    with pytest.raises(ek.SpecError, match="JSON"):
        endpoint.invoke({"x": float("nan")})
    with pytest.raises(ek.NotFound, match="there is: none"):
        endpoint.invoke({"x": 1}, revision="v1-00000000")


def test_calls(endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], ecs: Express) -> None:
    first = endpoint.deploy(make(1))
    assert endpoint.url == "", "ECS makes the address with the service"
    endpoint.shift({first.id: 100.0})
    assert endpoint.url.startswith(ecs.url)
    second = endpoint.deploy(make(2))
    name = endpoint.part.facts["service"]
    for revision, called in (("", name), (first.id, name), (second.id, f"{name}-{second.id}")):
        answer = endpoint.invoke({"y": "駅弁"}, route="/explain/all", revision=revision)
        assert (answer.revision, answer.id, answer.endpoint) == (revision or first.id, "r1", "tiny-api")
        assert answer.body.endswith(":2" if revision == second.id else ":1")
        assert ecs.asked[-1] == (f"/{called}/explain/all", b'{"y": "\\u99c5\\u5f01"}')
    for status, kind in ((400, ek.SpecError), (500, ek.ModelFailed), (503, ek.Unavailable)):
        ecs.answers[name] = (status, b'{"error": "no y"}')
        with pytest.raises(kind, match="no y"):
            endpoint.invoke({"x": 1})
    ecs.services[name]["configurations"][0]["ingressPaths"][0]["endpoint"] = "http://127.0.0.1:1"
    with pytest.raises(ek.Unavailable, match="cannot be reached"):
        endpoint.invoke({"x": 1})


def test_the_load_balancer_waits_as_long_as_a_call_may_take_and_never_less_than_it_did(
    bind: Callable[..., express.Endpoint], make: Callable[[int], ek.ModelVersion], ecs: Express, edge: Edge
) -> None:
    def said(waits_s: int) -> str:
        return (
            '<DescribeLoadBalancerAttributesResponse xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/">'
            "<DescribeLoadBalancerAttributesResult><Attributes><member><Key>idle_timeout.timeout_seconds</Key>"
            f"<Value>{waits_s}</Value></member></Attributes></DescribeLoadBalancerAttributesResult>"
            "</DescribeLoadBalancerAttributesResponse>"
        )

    for waits_s, changes in ((60, 1), (3600, 0)):
        edge.seen.clear()
        edge.say("Action=DescribeLoadBalancerAttributes", 200, said(waits_s))
        edge.say("Action=ModifyLoadBalancerAttributes", 200, said(0).replace("Describe", "Modify"))
        bind(timeout_s=1200.0).deploy(make(waits_s))
        assert edge.count("Action=ModifyLoadBalancerAttributes") == changes


def test_metrics_are_those_that_the_load_balancer_counts(
    endpoint: express.Endpoint, make: Callable[[int], ek.ModelVersion], client: Callable[[str], Any], ecs: Express
) -> None:
    first = endpoint.deploy(make(1))
    endpoint.shift({first.id: 100.0})
    name = endpoint.part.facts["service"]
    where = {
        "LoadBalancer": BALANCER.partition(":loadbalancer/")[2],
        "TargetGroup": GROUP.format(name).rpartition(":")[2],
    }
    ecs.services[name]["configurations"][0]["createdAt"] = datetime.now(UTC).timestamp() - 60
    dimensions = [{"Name": key, "Value": value} for key, value in where.items()]
    for metric, value in (("RequestCount", 7), ("HTTPCode_Target_5XX_Count", 2)):
        point = {
            "MetricName": metric,
            "Value": value,
            "Timestamp": datetime.now(UTC).replace(minute=0, second=0, microsecond=0),
            "Dimensions": dimensions,
        }
        client("cloudwatch").put_metric_data(Namespace="AWS/ApplicationELB", MetricData=[point])
    (found,) = endpoint.metrics()
    assert (found.revision, found.requests, found.errors) == (first.id, 7, 2)


def test_what_deployments_made_goes_with_the_component_and_nothing_of_others(
    endpoint: express.Endpoint,
    bind: Callable[..., express.Endpoint],
    make: Callable[[int], ek.ModelVersion],
    client: Callable[[str], Any],
    ecs: Express,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leftovers, "FIRST_PAUSE_S", 0.01)
    name = endpoint.part.facts["service"]
    first = endpoint.deploy(make(1))
    endpoint.shift({first.id: 100.0})
    endpoint.deploy(make(2))
    other = bind(service=f"{name}x", cluster_arn=f"{CLUSTER}-other")
    kept = other.deploy(make(1))
    ecs.changing = 1
    services = declared.KINDS["Services"]
    inputs = {"region": REGION, "cluster_arn": CLUSTER, "service": name}
    state = declared.put(services, "urn", inputs)
    assert declared.read(services, state) == (inputs, state)
    for _ in "12":
        declared.delete(services, "urn", state)
        assert (active(ecs), definitions(client, endpoint)) == ([f"{name}x-{kept.id}"], [])
        assert len(definitions(client, other)) == 1
