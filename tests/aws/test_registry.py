"""The registry in a bucket, its decisions on the bus, and the mirror in SageMaker, both ways."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import ekiben as ek
from ekiben.aws.events import publish
from ekiben.aws.mirror import DECIDED
from ekiben.aws.registry import Registry
from tests.fakes.aws import Edge

from .conftest import REGION, platform

DIGEST = "a" * 64


@pytest.fixture
def bus(client: Callable[[str], Any]) -> str:
    name = f"bus-{uuid.uuid4().hex[:8]}"
    client("events").create_event_bus(Name=name)
    return name


@pytest.fixture
def groups() -> str:
    return f"demo-{uuid.uuid4().hex[:8]}"


def bound(bucket: str, bus: str, groups: str, **over: Any) -> Registry:
    facts = {"region": REGION, "uri": f"s3://{bucket}/registry/models", "bus": bus, "model_groups": groups, **over}
    part = ek.Part(name="models", kind="registry", provider="aws", ref="", facts=facts)
    return Registry(part, platform(part))


@pytest.fixture
def registry(bucket: str, bus: str, groups: str, edge: Edge) -> Registry:
    return bound(bucket, bus, groups)


def version(key: str = "run-1", **over: Any) -> ek.ModelVersion:
    fields: dict[str, Any] = {
        "model": "tiny", "version": 0, "key": key, "digest": DIGEST, "bento_uri": f"s3://lake/bentos/{DIGEST}.tar",
        "created_at": "", "created_by": "Ann O'Neil <ann@example.com>", "run_id": key, "metrics": {"auc": 0.9},
        "lineage": {"code": {"commit": "abc"}},
    }  # fmt: skip
    return ek.ModelVersion(**{**fields, **over})


def packages(client: Callable[[str], Any], groups: str, model: str = "tiny") -> list[dict[str, Any]]:
    there = client("sagemaker")
    found = there.list_model_packages(ModelPackageGroupName=f"{groups}-{model}", SortBy="CreationTime")
    return [
        there.describe_model_package(ModelPackageName=one["ModelPackageArn"])
        for one in found["ModelPackageSummaryList"]
    ]


def test_a_version_is_a_package_with_its_digest_and_state(
    registry: Registry, client: Callable[[str], Any], groups: str, edge: Edge
) -> None:
    made = registry.register(version())
    assert registry.register(version()) == made
    (package,) = packages(client, groups)
    assert package["ModelPackageDescription"] == f"tiny:1 sha256:{DIGEST}"
    assert package["ModelApprovalStatus"] == "PendingManualApproval"
    (asked,) = (body for target, body in edge.seen if target == "SageMaker.CreateModelPackage")
    assert asked["CustomerMetadataProperties"]["metric.auc"] == "0.9"
    assert asked["CustomerMetadataProperties"]["ekiben.created-by"] == "Ann O-Neil -ann@example.com-"
    assert asked["MetadataProperties"] == {"CommitId": "abc", "GeneratedBy": "run-1"}
    (group,) = (body for target, body in edge.seen if target == "SageMaker.CreateModelPackageGroup")
    assert {"Key": "ekiben:platform", "Value": "demo"} in group["Tags"]


def test_decisions_are_shown_with_who_and_why(registry: Registry, client: Callable[[str], Any], groups: str) -> None:
    registry.register(version())
    registry.register(version("run-2"))
    registry.decide("tiny:1", "approved", who="ann", why="it is\nbetter")
    registry.decide("tiny:2", "rejected", who="bob", why="")
    one, two = packages(client, groups)
    assert (one["ModelApprovalStatus"], one["ApprovalDescription"]) == (
        "Approved",
        "ekiben: approved by ann: it is better",
    )
    assert (two["ModelApprovalStatus"], two["ApprovalDescription"]) == ("Rejected", "ekiben: rejected by bob")
    assert [decision.who for decision in registry.audit("tiny")][-2:] == ["ann", "bob"]


def test_an_archived_version_keeps_its_approval_and_says_so_in_its_life_cycle(
    registry: Registry, client: Callable[[str], Any], groups: str, edge: Edge
) -> None:
    registry.register(version())
    registry.decide("tiny:1", "approved", who="ann", why="")
    registry.decide("tiny:1", "archived", who="ann", why="old")
    asked = [body for target, body in edge.seen if target == "SageMaker.UpdateModelPackage"][-1]
    assert asked["ModelLifeCycle"] == {"Stage": "Archived", "StageStatus": "Archived"}
    assert "ModelApprovalStatus" not in asked
    assert registry.adopt() == []
    assert registry.version("tiny:1").state == "archived"


def test_what_is_decided_in_sagemaker_is_taken_over(
    registry: Registry, client: Callable[[str], Any], groups: str
) -> None:
    for number in range(3):
        registry.register(version(f"run-{number}"))
    registry.decide("tiny:3", "approved", who="ann", why="")
    one, two, three = packages(client, groups)
    there = client("sagemaker")
    there.update_model_package(
        ModelPackageArn=one["ModelPackageArn"], ModelApprovalStatus="Approved", ApprovalDescription="ok"
    )
    there.update_model_package(ModelPackageArn=three["ModelPackageArn"], ModelApprovalStatus="Rejected")
    assert sorted((found.id, found.state) for found in registry.adopt("tiny")) == [
        ("tiny:1", "approved"),
        ("tiny:3", "rejected"),
    ]
    assert registry.adopt() == [], "taken over once"
    assert registry.version("tiny:2").state == "pending"
    decisions = {(one.version, one.after): (one.who, one.why) for one in registry.audit("tiny")}
    assert decisions[1, "approved"][1] == "ok"
    assert decisions[3, "rejected"] == ("fake-user-profile-name", "decided in SageMaker")
    assert DECIDED.match(packages(client, groups)[0]["ApprovalDescription"])


def test_a_decision_that_the_mirror_missed_is_shown_later_and_not_undone(
    registry: Registry, client: Callable[[str], Any], groups: str, edge: Edge
) -> None:
    registry.register(version())
    registry.decide("tiny:1", "approved", who="ann", why="")
    edge.fail("SageMaker.UpdateModelPackage", "AccessDeniedException", "not authorized")
    with pytest.raises(ek.AccessDenied, match="has recorded it, but not authorized.*repeat the same call"):
        registry.decide("tiny:1", "rejected", who="bob", why="")
    assert registry.version("tiny:1").state == "rejected"
    assert packages(client, groups)[0]["ModelApprovalStatus"] == "Approved"
    assert registry.adopt() == []
    assert packages(client, groups)[0]["ModelApprovalStatus"] == "Rejected"
    assert registry.version("tiny:1").state == "rejected"


def test_a_registration_that_the_mirror_missed_is_completed_by_repeating_it(
    registry: Registry, client: Callable[[str], Any], groups: str, edge: Edge
) -> None:
    edge.fail("SageMaker.CreateModelPackage", "InternalFailure", status=500, times=4)
    with pytest.raises(ek.Unavailable, match="has recorded it"):
        registry.register(version())
    assert packages(client, groups) == []
    assert registry.register(version()).id == "tiny:1"
    assert len(packages(client, groups)) == 1


def test_the_package_is_found_on_a_later_page(
    registry: Registry, edge: Edge, client: Callable[[str], Any], groups: str
) -> None:
    there = client("sagemaker")
    there.create_model_package_group(ModelPackageGroupName=f"{groups}-tiny")
    registry.register(version())
    for number in range(120):
        there.create_model_package(ModelPackageGroupName=f"{groups}-tiny", ModelPackageDescription=f"other:{number}")
    edge.clear()
    registry.decide("tiny:1", "approved", who="ann", why="")
    assert edge.count("SageMaker.ListModelPackages") > 1
    assert edge.count("SageMaker.CreateModelPackage") == 0


def test_without_a_mirror_sagemaker_is_not_called(bucket: str, bus: str, edge: Edge) -> None:
    registry = bound(bucket, bus, "")
    registry.register(version())
    registry.decide("tiny:1", "approved", who="ann", why="")
    assert registry.adopt() == []
    assert [target for target, _ in edge.seen if target.startswith("SageMaker")] == []


def test_writers_at_once_lose_nothing(bucket: str, bus: str, edge: Edge) -> None:
    def register(number: int) -> int:
        return bound(bucket, bus, "").register(version(f"run-{number}")).version

    with ThreadPoolExecutor(8) as pool:
        numbers = sorted(pool.map(register, range(12)))
    assert numbers == list(range(1, 13))


def test_decisions_are_on_the_bus(bucket: str, bus: str, edge: Edge) -> None:
    registry = bound(bucket, bus, "")
    registry.register(version())
    registry.decide("tiny:1", "approved", who="ann", why="")
    registry.decide("tiny:1", "approved", who="ann", why="")
    sent = [body["Entries"][0] for target, body in edge.seen if target.endswith("PutEvents")]
    assert {(one["EventBusName"], one["Source"], one["DetailType"]) for one in sent} == {
        (bus, "ekiben", "ModelDecided")
    }
    events = [ek.Event.from_json(one["Detail"]) for one in sent]
    assert len({event.id for event in events}) == 1
    assert (events[0].subject, events[0].data) == ("tiny:1", {"state": "approved"})


def test_an_event_that_the_bus_refuses_is_an_error(bucket: str, bus: str, edge: Edge) -> None:
    part = ek.Part(name="models", kind="registry", provider="aws", ref="", facts={"region": REGION, "bus": bus})
    edge.fail("PutEvents", "InternalException", status=500, times=4)
    with pytest.raises(ek.Unavailable, match="publish Custom"):
        publish(ek.Event(id="1", type="Custom", source="me"), platform(part))
    with pytest.raises(ek.SpecError, match="240000"):
        publish(ek.Event(id="1", type="Custom", source="me", data={"text": "x" * 300_000}), platform(part))
    with pytest.raises(ek.NotFound, match="event bus"):
        publish(ek.Event(id="1", type="Custom", source="me"), platform())
    assert json.dumps(part.facts)
