"""Endpoints on the real cluster: revisions that come and go, traffic that is split, and a bad one that never gets any."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace

import pytest

import ekiben as ek
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.kubernetes.client import Cluster
from ekiben.kubernetes.endpoint import Endpoint
from ekiben.kubernetes.facts import COMPONENT
from ekiben.revisions import revision_id
from tests.waiting import until

from .conftest import platform
from .endpoints import endpoint, on_knative, version
from .stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def answers(one: Endpoint, count: int) -> Counter[str]:
    return Counter(one.invoke(number).body["by"] for number in range(count))


def lives_through_releases(stack: Stack, one: Endpoint, split: tuple[int, int]) -> None:
    first, bad, third = (version(stack, number) for number in (1, 2, 3))
    with pytest.raises(ek.Unavailable, match="no revision of it has traffic"):
        one.invoke({"x": 1})
    made = one.deploy(first, tag="next")
    assert (made.id, made.state, made.weight, made.tag) == (revision_id(first), "ready", 0.0, "next")
    assert one.deploy(first).created_at == made.created_at
    for by in (made.id, "next"):
        prediction = one.invoke({"x": "駅弁"}, revision=by)
        assert (prediction.body, prediction.revision) == ({"said": {"x": "駅弁"}, "by": "tiny:1"}, made.id)
    with pytest.raises(ek.Unavailable, match="no revision of it has traffic"):
        one.invoke({"x": 1})
    one.shift({made.id: 100})
    until(lambda: answers(one, 5) == {"tiny:1": 5}, "it has the traffic")
    (measured,) = one.metrics()
    assert (measured.revision, measured.errors) == (made.id, 0)
    assert measured.requests >= 5
    assert 0 < measured.p50_ms <= 100
    # One that does not start is gone, with the end of its log, and has had no traffic.
    with pytest.raises(ek.ModelFailed, match="tiny:2 does not start") as failed:
        one.deploy(bad)
    assert "bad magic" in failed.value.tail
    assert [(each.id, each.weight) for each in one.revisions()] == [(made.id, 100.0)]
    with pytest.raises(ek.IntegrityError):
        one.deploy(replace(third, digest="0" * 64))
    after = one.deploy(third)
    assert answers(one, 5) == {"tiny:1": 5}
    one.shift({made.id: split[0], after.id: split[1]})
    assert {each.id: each.weight for each in one.revisions()} == {made.id: split[0], after.id: split[1]}
    seen = answers(one, 60)
    assert set(seen) == {"tiny:1", "tiny:3"}
    with pytest.raises(ek.SpecError, match="has 50 % of the traffic"):
        one.retire(after.id)
    # No request is lost while the traffic moves.
    lost: list[Exception] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                one.invoke(0)
            except Exception as error:
                lost.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    one.shift({after.id: 100})
    over.set()
    asking.join()
    assert lost == []
    # The cluster tells its nodes of it a moment later.
    until(lambda: answers(one, 5) == {"tiny:3": 5}, "the traffic has moved")
    one.retire(made.id)
    one.retire(made.id)
    assert [each.id for each in one.revisions()] == [after.id]
    assert answers(one, 5) == {"tiny:3": 5}
    with pytest.raises(ek.NotFound, match="there is no revision 'v9-"):
        one.invoke(1, revision="v9-00000000")


def test_deployments_live_through_releases(stack: Stack) -> None:
    lives_through_releases(stack, endpoint(stack, "deployments"), (50, 50))


def test_knative_lives_through_releases(stack: Stack, emulated_knative: Chosen) -> None:
    lives_through_releases(stack, on_knative(stack, emulated_knative), (50, 50))


def test_a_split_that_pods_cannot_make_is_refused_with_what_to_do(stack: Stack) -> None:
    from ekiben.kubernetes.deployments import pods_by_weight

    assert pods_by_weight({"a": 75.0, "b": 25.0}, 1, 4) == {"a": 3, "b": 1}
    assert pods_by_weight({"a": 100.0}, 2, 4) == {"a": 2}
    with pytest.raises(ek.Unsupported, match="max_instances=4 of them do not make 90:10"):
        pods_by_weight({"a": 90.0, "b": 10.0}, 1, 4)


def test_the_labels_find_all_that_a_stack_has(stack: Stack) -> None:
    from ekiben.kubernetes.inventory import found

    one = endpoint(stack, "deployments")
    one.deploy(version(stack, 1))
    told = list(found("demo", "test", {}, platform(one.part)))
    kinds = {where.split("/")[-3] for _, where, tags in told if tags.get(COMPONENT) == one.part.name}
    assert {"Deployment", "Pod", "ReplicaSet", "Service"} <= kinds
    assert list(found("demo", "other", {})) == []
    assert isinstance(one._cluster, Cluster)
