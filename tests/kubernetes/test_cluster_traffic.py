"""Traffic on Knative under load: a canary, a bad revision, a rollback, a rollout, and nothing of it loses a request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import ekiben as ek
from ekiben.emulators.kubernetes.chosen import Chosen
from ekiben.kubernetes.endpoint import Endpoint
from tests.waiting import until

from .canary import CHANCE, COUNTED, canary, check, load_of
from .endpoints import on_knative, version, with_facts
from .load import between
from .stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STAYS = {"autoscaling.knative.dev/min-scale": "1"}
GOES = {"autoscaling.knative.dev/min-scale": "0", "autoscaling.knative.dev/window": "6s"}


@pytest.fixture(scope="module")
def served(stack: Stack, emulated_knative: Chosen) -> Endpoint:
    """One endpoint for all tests of this file."""
    return on_knative(stack, emulated_knative, annotations=STAYS)


def test_the_bounds_are_those_of_a_binomial() -> None:
    assert between(10, 0.5, 0.0) == range(0, 11)
    assert between(10, 0.5, 1 / 1024) == range(1, 10)
    assert between(10, 0.5, 11 / 1024) == range(2, 9)
    assert between(COUNTED, 0.1, CHANCE) == range(21, 86)


def test_a_rollout_under_load_loses_nothing(stack: Stack, served: Endpoint) -> None:
    old, bad, new = (version(stack, number) for number in (1, 2, 3))
    before = served.deploy(old)
    served.shift({before.id: 100})
    with load_of(served) as load:
        with load.during("while a bad one is deployed", 100):
            with pytest.raises(ek.ModelFailed, match="tiny:2 does not start"):
                served.deploy(bad)
            after = served.deploy(new)
        canary(load, served, before, after)
        with load.during("while it is rolled back"):
            served.shift({before.id: 100})
        with load.during("after the rollback", 50):
            pass
        with load.during("while it moves again"):
            served.shift({after.id: 100})
        with load.during("while the old one goes", 50):
            served.retire(before.id)
    check(load, before, after)
    for phase in ("while a bad one is deployed", "after the rollback"):
        assert set(load.seen[phase]) == {old.id}, phase
    assert set(load.seen["while the old one goes"]) == {new.id}


def test_one_that_is_scaled_to_zero_holds_its_first_requests_and_answers_them(stack: Stack, served: Endpoint) -> None:
    idle = with_facts(served, annotations=GOES)
    made = idle.deploy(version(stack, 4))
    idle.shift({made.id: 100})
    for other in idle.revisions():
        if other.id != made.id:
            idle.retire(other.id)
    pods = {"serving.knative.dev/revision": f"{served.part.name}-{made.id}"}
    until(lambda: not list(stack.api.list("Pod", "look", labels=pods)), "its last pod goes")
    with ThreadPoolExecutor(4) as pool:
        held = list(pool.map(idle.invoke, range(4)))
    assert [(one.body, one.cold) for one in held] == [({"said": number, "by": "tiny:4"}, True) for number in range(4)]
    warm = idle.invoke("again")
    assert (warm.body["by"], warm.cold) == ("tiny:4", False)
