"""Release and rollback over a platform in memory: what they owe when all goes well, when it does not, and when they die."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ekiben.errors import ModelFailed, NotFound, SpecError, Unavailable
from ekiben.records import ModelVersion, Revision
from ekiben.release import release, rollback
from ekiben.release.check import difference
from tests.waiting import PATIENCE_S

from .fakes.memory import Killed, Memory

SAMPLE = {"route": "predict", "request": {"x": 2.0}, "response": {"x": 2.0}}


def version(world: Memory, state: str = "approved", **over: Any) -> str:
    """One more version of `tiny`; its id."""
    models = world.registry()
    number = len(models.versions("tiny")) + 1
    record = ModelVersion(
        model="tiny", version=0, key=f"run-{number}", digest=f"{number:064x}"[::-1], bento_uri="memory://b", created_at="",
        created_by="test", sample=SAMPLE,
    )  # fmt: skip
    made = models.register(dataclasses.replace(record, **over))
    if state != "pending":
        models.decide(made.id, state, who="test", why="test")
    return made.id


def go(world: Memory, ref: str, **over: Any) -> Revision:
    return release(world, ref, who="ann", why="the March data", **over)


def back(world: Memory, **over: Any) -> Revision:
    return rollback(world, who="ann", why="complaints", **over)


def state(world: Memory) -> dict[str, str]:
    """What serves, and what the aliases say."""
    found = {"serving": world.fake.serving.version}
    for made in world.registry().versions("tiny"):
        found |= dict.fromkeys(made.aliases, made.id)
    return found


def test_the_first_release_has_no_champion_before_it() -> None:
    world = Memory()
    ref = version(world)
    steps: list[tuple[str, str]] = []
    revision = go(world, ref, on_step=lambda step, detail: steps.append((step, detail)))
    assert (revision.version, revision.weight) == (ref, 100)
    assert state(world) == {"serving": ref, "champion": ref}
    assert [step for step, _ in steps] == ["deploy", "test", "shift", "alias"]
    assert all(detail for _, detail in steps)


def test_the_second_release_names_the_one_before() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    go(world, second)
    assert state(world) == {"serving": second, "champion": second, "previous": first}
    entry = world.registry().audit("tiny")[-1]
    assert (entry.who, entry.why, entry.what, entry.after) == ("ann", "the March data", "alias champion", "2")


def test_releasing_again_changes_nothing() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    go(world, second)
    before = state(world), len(world.registry().audit("tiny"))
    assert go(world, second).version == second
    assert go(world, "tiny@champion").version == second
    assert (state(world), len(world.registry().audit("tiny"))) == before


@pytest.mark.parametrize(
    ("decided", "remedy"),
    [
        ("pending", "ekiben approve tiny:2"),
        ("rejected", "ekiben approve tiny:2"),
        ("archived", "release another version"),
    ],
)
def test_only_an_approved_version_is_released(decided: str, remedy: str) -> None:
    world = Memory()
    go(world, version(world))
    before = state(world), world.fake.revisions()
    ref = version(world, decided)
    with pytest.raises(SpecError, match=f"tiny:2 is {decided}.*{remedy}"):
        go(world, ref)
    assert (state(world), world.fake.revisions()) == before


def test_another_model_s_version_is_refused() -> None:
    world = Memory("other@champion")
    with pytest.raises(SpecError, match="serves other@champion, not tiny:1"):
        go(world, version(world))


def test_a_version_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        go(Memory(), "tiny:1")


def test_nobody_releases_anonymously() -> None:
    world = Memory()
    with pytest.raises(SpecError, match="`who` is empty"):
        release(world, version(world), who=" ", why="")
    assert world.fake.revisions() == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"x": 2.1}, r"\$\.x is 2.1, not 2.0"),
        ({"y": 2.0}, r"\$\.x is missing"),
        ({"x": None}, r"\$\.x is null, not 2.0"),
        (SpecError("x: a number is required."), "refuses its own sample request: x: a number"),
        (ModelFailed("KeyError: 'slope'."), "KeyError"),
    ],
)
def test_a_candidate_that_fails_its_sample_is_gone_and_the_traffic_stays(answer: Any, says: str) -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    world.fake.answers[second] = answer
    with pytest.raises(ModelFailed, match=says) as raised:
        go(world, second)
    assert "memory: cannot release tiny:2 on 'api'" in str(raised.value)
    assert "The traffic is as it was; the candidate is gone." in str(raised.value)
    assert state(world) == {"serving": first, "champion": first}
    assert [revision.version for revision in world.fake.revisions()] == [first]


def test_a_candidate_that_does_not_start_is_gone_and_its_log_is_shown() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    world.fake.broken.add(second)
    with pytest.raises(ModelFailed) as raised:
        go(world, second)
    assert (raised.value.tail, raised.value.log_uri) == ("KeyError: 'slope'", "file:///log")
    assert str(raised.value).count("KeyError") == 1
    assert state(world) == {"serving": first, "champion": first}
    assert len(world.fake.revisions()) == 1


def test_the_served_version_keeps_its_traffic_when_its_test_fails_now() -> None:
    world = Memory()
    ref = version(world)
    go(world, ref)
    world.fake.answers[ref] = {"x": 0.0}
    with pytest.raises(ModelFailed, match="It has traffic already, and keeps it"):
        go(world, ref)
    assert state(world) == {"serving": ref, "champion": ref}


def test_an_endpoint_that_does_not_answer_is_no_verdict() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    world.fake.answers[second] = Unavailable("memory", "call 'api'", "it is overloaded")
    with pytest.raises(Unavailable):
        go(world, second)
    assert state(world) == {"serving": first, "champion": first}
    del world.fake.answers[second]
    assert go(world, second).version == second


def test_a_version_without_a_sample_cannot_be_released() -> None:
    world = Memory()
    with pytest.raises(SpecError, match=r"tiny:1 has no sample.*signature\.json"):
        go(world, version(world, sample={}))
    assert all(not revision.weight for revision in world.fake.revisions())


def test_an_endpoint_of_a_fixed_version_takes_that_one_and_has_no_alias() -> None:
    world = Memory("tiny:1")
    first, second = version(world), version(world)
    go(world, first)
    assert state(world) == {"serving": first}
    with pytest.raises(SpecError, match="serves tiny:1, not tiny:2"):
        go(world, second)
    with pytest.raises(SpecError, match="one fixed version"):
        back(world)


def test_five_revisions_are_kept_and_the_one_before_among_them() -> None:
    world = Memory()
    refs = [version(world) for _ in range(8)]
    for ref in refs[:2]:
        go(world, ref)
    assert go(world, refs[0]).version == refs[0]
    for ref in refs[2:]:
        go(world, ref)
    assert [revision.version for revision in world.fake.revisions()] == refs[:2:-1]
    go(world, refs[3])
    for ref in [version(world) for _ in range(4)]:
        world.fake.deploy(world.registry().version(ref))
    go(world, refs[3])
    kept = {revision.version for revision in world.fake.revisions()}
    assert {refs[3], refs[7]} <= kept
    assert back(world).version == refs[7]


def test_a_revision_that_cannot_be_retired_fails_no_release() -> None:
    world = Memory()
    for _ in range(6):
        go(world, version(world))
    world.fake.stuck = {revision.id for revision in world.fake.revisions()}
    said: list[str] = []
    ref = version(world)
    assert go(world, ref, on_step=lambda step, detail: said.append(f"{step}: {detail}")).version == ref
    assert any(line.startswith("retire: not now:") for line in said)


def test_rollback_goes_back_and_a_second_one_forward_again() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    go(world, second)
    assert back(world).version == first
    assert state(world) == {"serving": first, "champion": first, "previous": second}
    assert back(world).version == second
    assert state(world) == {"serving": second, "champion": second, "previous": first}


def test_rollback_deploys_again_what_was_retired() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    go(world, second)
    world.fake.retire(next(revision.id for revision in world.fake.revisions() if revision.version == first))
    assert back(world).version == first


def test_rollback_without_a_version_before_says_so() -> None:
    world = Memory()
    with pytest.raises(NotFound, match="no release yet"):
        back(world)
    go(world, version(world))
    with pytest.raises(NotFound, match="first version"):
        back(world)


def test_rollback_to_a_version_that_fails_changes_nothing() -> None:
    world = Memory()
    first, second = version(world), version(world)
    go(world, first)
    go(world, second)
    before = state(world)
    world.fake.answers[first] = {"x": 0.0}
    with pytest.raises(ModelFailed):
        back(world)
    assert state(world) == before


def test_rollback_after_a_release_that_died_with_the_traffic_goes_to_the_champion() -> None:
    world = Memory()
    refs = [version(world) for _ in range(3)]
    go(world, refs[0])
    go(world, refs[1])
    world.fake.shift({world.fake.deploy(world.registry().version(refs[2])).id: 100.0})
    assert back(world).version == refs[1]
    assert state(world) == {"serving": refs[1], "champion": refs[1], "previous": refs[0]}
    world.fake.shift({world.fake.deploy(world.registry().version(refs[2])).id: 100.0})
    world.registry().alias(refs[1], "previous", who="x", why="")
    assert back(world).version == refs[1]
    assert state(world) == {"serving": refs[1], "champion": refs[1], "previous": refs[0]}


def prepared(released: int) -> tuple[Memory, list[str]]:
    world = Memory()
    refs = [version(world) for _ in range(released + 1)]
    for ref in refs[:released]:
        go(world, ref)
    return world, refs


@pytest.mark.parametrize(("released", "what"), [(0, "release"), (1, "release"), (7, "release"), (3, "rollback")])
def test_whatever_call_it_dies_at_doing_it_again_ends_right(released: int, what: str) -> None:
    act: Callable[[Memory, list[str]], Revision]
    act = (lambda world, refs: go(world, refs[-1])) if what == "release" else (lambda world, refs: back(world))
    world, refs = prepared(released)
    act(world, refs)
    right = state(world)
    for point in range(1000):
        world, refs = prepared(released)
        world.killed_at(point)
        try:
            act(world, refs)
        except Killed:
            world.killed_at(-1)
        else:
            break
        if released:
            assert world.fake.serving.version in refs
        weights = [revision.weight for revision in world.fake.revisions() if revision.weight]
        assert weights in ([], [100.0])
        if what == "rollback" and state(world) == right:
            continue  # It was done already: one more is another rollback.
        act(world, refs)
        assert state(world) == right, f"died at call point {point}"
    assert point > 10


@pytest.mark.parametrize("moment", ["deploy", "test", "shift", "alias", "retire"])
def test_a_release_in_the_middle_of_another_leaves_traffic_and_aliases_agreeing(moment: str) -> None:
    world, refs = prepared(7)
    other = version(world)
    pending = [other]

    def meanwhile(step: str, detail: str) -> None:
        if step == moment and pending:
            go(world, pending.pop())

    served = go(world, refs[-1], on_step=meanwhile)
    found = state(world)
    assert served.version == found["serving"] == found["champion"]
    assert found["previous"] != found["champion"]
    assert back(world).version == found["previous"]


def test_many_releases_at_once_leave_traffic_and_aliases_agreeing() -> None:
    world, refs = prepared(1)
    refs += [version(world) for _ in range(3)]
    start = threading.Barrier(len(refs))
    failures: list[BaseException] = []

    def run(ref: str) -> None:
        start.wait(PATIENCE_S)
        try:
            go(world, ref)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(ref,)) for ref in refs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []
    found = state(world)
    assert found["serving"] == found["champion"] != found["previous"]


@pytest.mark.parametrize(
    ("expected", "got", "found"),
    [
        ({"p": 0.1}, {"p": 0.1 + 1e-9}, ""),
        ({"p": 1e9}, {"p": 1e9 + 1}, ""),
        ({"p": 0.1}, {"p": 0.2}, "$.p is 0.2, not 0.1"),
        ([1, 2], [1], "$ has 1 items, not 2"),
        ([{"a": [1]}], [{"a": [2]}], "$[0].a[0] is 2, not 1"),
        (1, True, "$ is true, not 1"),
        (1, 1.0, ""),
        ("1", 1, '$ is 1, not "1"'),
        (None, None, ""),
        ({"é": 1}, {}, "$.é is missing"),
        ({}, {"a": 1}, "$.a is not expected"),
        (float("nan"), 1.0, "$ is 1.0, not NaN"),
        ([], {}, "$ is {}, not []"),
        ("a" * 200, "b", '$ is "b", not "aaa'),
    ],
)
def test_answers_are_compared_by_value_and_numbers_closely(expected: Any, got: Any, found: str) -> None:
    assert difference(expected, got).startswith(found) if found else not difference(expected, got)
