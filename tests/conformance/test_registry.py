"""R: the registry (docs/contract.md)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ekiben.errors import NotFound, SpecError
from ekiben.records import ModelVersion, now
from tests.waiting import until

from .conftest import Rig


def version(model: str, key: str) -> ModelVersion:
    return ModelVersion(
        model=model,
        version=99,
        key=key,
        digest="0" * 64,
        bento_uri="file:///nowhere",
        created_at=now(),
        created_by="tester",
        metrics={"auc": 0.9},
        signature={"columns": ["x"]},
        sample={"route": "predict"},
        lineage={"seeds": {"a": 1}},
    )


def test_r1_r2_r4_numbers_keys_and_manifests(rig: Rig, model: str) -> None:
    registry = rig.runtime.registry("models")
    first, second = registry.register(version(model, "a")), registry.register(version(model, "b"))
    assert (first.version, second.version) == (1, 2)
    again = registry.register(replace(version(model, "a"), metrics={"auc": 0.1}))
    assert (again.version, again.metrics) == (1, {"auc": 0.9})
    registry.decide(f"{model}:1", "approved", who="me", why="good")
    registry.alias(f"{model}:1", "champion", who="me", why="good")
    seen = registry.version(f"{model}:1")
    assert replace(seen, state=first.state, aliases=[]) == first
    assert (seen.state, seen.aliases) == ("approved", ["champion"])


def test_r3_50_writers_at_once_lose_nothing(rig: Rig, model: str) -> None:
    def write(n: int) -> int:
        return rig.connect().registry("models").register(version(model, f"key-{n}")).version

    with ThreadPoolExecutor(50) as pool:
        numbers = list(pool.map(write, range(50)))
    assert sorted(numbers) == list(range(1, 51))
    assert sorted(v.key for v in rig.runtime.registry("models").versions(model)) == sorted(
        f"key-{n}" for n in range(50)
    )


def test_r5_r8_r9_r12_decisions_are_audited_and_published(rig: Rig, model: str) -> None:
    registry = rig.runtime.registry("models")
    assert registry.register(version(model, "a")).state == "pending"
    for _ in range(2):
        assert registry.decide(f"{model}:1", "approved", who="Zoë", why="gut: 駅弁").state == "approved"
    lines = registry.audit(model)
    assert [(line.seq, line.before, line.after) for line in lines][-1][1:] == ("pending", "approved")
    assert (lines[-1].who, lines[-1].why) == ("Zoë", "gut: 駅弁")
    assert len([line for line in lines if line.after == "approved"]) == 1
    seen = until(lambda: [e for e in rig.seen("ModelDecided") if e["subject"] == f"{model}:1"])
    assert len(seen) == 1
    assert seen[0]["data"]["state"] == "approved"
    registry.decide(f"{model}:1", "rejected", who="me", why="changed my mind")
    assert registry.audit(model)[: len(lines)] == lines, "R12: no line ever changes"


def test_r6_r7_finding(rig: Rig, model: str) -> None:
    registry = rig.runtime.registry("models")
    for key in "abc":
        registry.register(version(model, key))
    assert [v.version for v in registry.versions(model)] == [3, 2, 1]
    assert {v.model for v in registry.versions()} >= {model}
    for ref, error in (
        (f"{model}:4", NotFound),
        (f"{model}@champion", NotFound),
        ("nope:1", NotFound),
        (model, SpecError),
    ):
        with pytest.raises(error):
            registry.version(ref)
    with pytest.raises(NotFound, match="3"):
        registry.version(f"{model}:4")


def test_r10_archived_is_final(rig: Rig, model: str) -> None:
    registry = rig.runtime.registry("models")
    registry.register(version(model, "a"))
    with pytest.raises(SpecError):
        registry.decide(f"{model}:1", "wonderful", who="me", why="")
    registry.decide(f"{model}:1", "archived", who="me", why="old")
    with pytest.raises(SpecError, match="archived"):
        registry.decide(f"{model}:1", "approved", who="me", why="")
    assert registry.version(f"{model}:1").state == "archived"


def test_r11_an_alias_points_at_one_version(rig: Rig, model: str) -> None:
    registry = rig.runtime.registry("models")
    for key in "ab":
        registry.register(version(model, key))
        registry.decide(f"{model}:{'ab'.index(key) + 1}", "approved", who="me", why="")
    for ref in (f"{model}:1", f"{model}:2", f"{model}:2"):
        registry.alias(ref, "champion", who="me", why="")
    assert registry.version(f"{model}@champion").version == 2
    assert registry.version(f"{model}:1").aliases == []
    with pytest.raises(NotFound):
        registry.alias(f"{model}:9", "champion", who="me", why="")


def test_r14_nan_is_refused(rig: Rig, model: str) -> None:
    registry = rig.runtime.registry("models")
    with pytest.raises(SpecError):
        registry.register(replace(version(model, "a"), metrics={"auc": float("nan")}))
    assert registry.versions(model) == []
    kept = registry.register(version(model, "a"))
    assert (kept.signature, kept.sample, kept.lineage) == (
        {"columns": ["x"]},
        {"route": "predict"},
        {"seeds": {"a": 1}},
    )
