"""The registry: over every store, and by many writers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from ekiben.catalog import MAX_MANIFEST_BYTES, Entry, Index
from ekiben.errors import NotFound, SpecError
from ekiben.records import Decision
from ekiben.storage import Storage, open_storage
from tests.storage.observed import Registry, check, version


def test_a_version_from_first_to_last(registry: Registry) -> None:
    given = version("run-1", metrics={"auc": 1}, lineage={"rows": {"a": 3}}, signature={"c": ["x"]}, sample={"é": "駅"})
    first = registry.register(given)
    assert first == replace(given, version=1, metrics={"auc": 1.0})
    assert registry.register(replace(given, metrics={"auc": 0.5})) == first, "a key again is the same version"
    assert registry.register(version("run-2")).version == 2
    assert registry.events == []
    assert registry.decide("tiny:1", "approved", who="Zoë", why="駅弁 \U0001f371").state == "approved"
    assert registry.alias("tiny:1", "champion", who="Zoë", why="").aliases == ["champion"]
    assert registry.version("tiny@champion") == replace(first, state="approved", aliases=["champion"])
    assert [(v.version, v.state) for v in registry.versions("tiny")] == [(2, "pending"), (1, "approved")]
    assert [(d.seq, d.version, d.what, d.before, d.after, d.who, d.why) for d in registry.audit("tiny")] == [
        (1, 1, "registered", "", "pending", "zoë", ""),
        (2, 2, "registered", "", "pending", "zoë", ""),
        (3, 1, "approved", "pending", "approved", "Zoë", "駅弁 \U0001f371"),
        (4, 1, "alias champion", "", "1", "Zoë", ""),
    ]
    assert sorted(found.key for found in registry.storage.list()) == [
        *(f"registry/models/tiny/audit/0000000{n}.json" for n in (1, 2, 3, 4)),
        "registry/models/tiny/index.json",
        *(f"registry/models/tiny/versions/{n}.json" for n in (1, 2)),
    ]


def test_r15_two_registries_in_one_storage_do_not_see_each_other(folder: Storage) -> None:
    ours, theirs = Registry(folder, prefix="registry/ours"), Registry(folder, prefix="registry/theirs")
    ours.register(version("run-1"))
    assert theirs.versions() == []
    assert theirs.register(version("run-2")).version == 1
    assert [found.key for found in ours.versions()] == ["run-1"]


def test_decisions(local: Registry) -> None:
    local.register(version("a"))
    for state in ("approved", "rejected", "approved", "rejected", "archived"):
        before = len(local.audit("tiny"))
        once = local.decide("tiny:1", state, who="me", why="")
        assert local.decide("tiny:1", state, who="you", why="again") == once
        assert once.state == state
        assert len(local.audit("tiny")) == before + 1
        assert local.events[-1] == local.events[-2]
        assert (local.events[-1].subject, local.events[-1].data) == ("tiny:1", {"state": state})
    assert len({event.id for event in local.events}) == 5
    with pytest.raises(SpecError, match="archived, which is final"):
        local.decide("tiny:1", "approved", who="me", why="")
    for state in ("pending", "wonderful", ""):
        with pytest.raises(SpecError, match="approved, rejected or archived"):
            local.decide("tiny:1", state, who="me", why="")


def test_what_an_alias_names_may_be_in_service(local: Registry) -> None:
    for key in "abc":
        local.register(version(key))
    local.alias("tiny:1", "champion", who="me", why="")
    for state in ("rejected", "archived"):
        with pytest.raises(SpecError, match="alias champion"):
            local.decide("tiny@champion", state, who="me", why="")
        local.decide("tiny:3", state, who="me", why="")
        with pytest.raises(SpecError, match=state):
            local.alias("tiny:3", "champion", who="me", why="")
    local.decide("tiny@champion", "approved", who="me", why="")
    assert local.alias("tiny:2", "champion", who="me", why="better").aliases == ["champion"]
    assert local.alias("tiny@champion", "previous", who="me", why="").aliases == ["champion", "previous"]
    assert local.version("tiny:1").aliases == []
    before = local.audit("tiny")
    local.alias("tiny:2", "champion", who="me", why="again")
    assert local.audit("tiny") == before
    local.decide("tiny:1", "archived", who="me", why="")


def test_without_approval_a_version_is_approved_as_it_is_registered(folder: Storage) -> None:
    registry = Registry(folder, require_approval=False)
    assert registry.register(version("a")).state == "approved"
    registry.register(version("a"))
    assert registry.events[0] == registry.events[1]
    registry.decide("tiny:1", "rejected", who="me", why="")
    assert registry.register(version("a")).state == "rejected"
    assert [event.data["state"] for event in registry.events] == ["approved", "approved", "rejected"]


def test_finding(local: Registry, folder: Storage) -> None:
    assert local.versions() == []
    assert local.versions("tiny") == []
    for call in (lambda: local.version("tiny:1"), lambda: local.audit("tiny")):
        with pytest.raises(NotFound, match="no model 'tiny'; there is none"):
            call()
    local.register(version("a"))
    local.register(version("b", "other", created_at="2026-02-02T00:00:00Z"))
    local.alias("tiny:1", "champion", who="me", why="")
    with pytest.raises(NotFound, match="there is tiny:1, tiny@champion"):
        local.version("tiny:2")
    with pytest.raises(NotFound, match="no model 'nope'; there is other, tiny"):
        local.decide("nope:1", "approved", who="me", why="")
    for bad in (
        "tiny",
        "tiny:",
        "tiny:0",
        "tiny:01",
        "tiny:x",
        "tiny@",
        "tiny@A",
        "Tiny:1",
        "../x:1",
        "tiny:1@a",
        "",
        "tiny:1\n",
    ):
        with pytest.raises(SpecError):
            local.version(bad)
    assert [found.id for found in local.versions()] == ["other:1", "tiny:1"]
    assert Registry(folder, "registry/models2").versions() == []
    assert Registry(folder, "registry/mod").versions() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", ""), ("model", "Über"), ("model", "../x"), ("model", "a" * 64), ("key", ""), ("key", "\ud800"),
        ("key", "k" * 2001), ("created_by", " "), ("digest", "0" * 63), ("digest", "A" * 64), ("bento_uri", ""),
        ("metrics", {"auc": float("nan")}), ("metrics", {"auc": float("inf")}), ("metrics", {"auc": "high"}),
        ("metrics", {"auc": True}), ("lineage", {"a": float("nan")}), ("lineage", {"a": {1, 2}}), ("sample", {"a": "\ud800"}),
        ("lineage", {"a": "x" * MAX_MANIFEST_BYTES}),
    ],
)  # fmt: skip
def test_a_bad_record_is_refused(local: Registry, field: str, value: object) -> None:
    with pytest.raises(SpecError):
        local.register(replace(version("a"), **{field: value}))
    assert list(local.storage.list()) == []


def test_bad_words_are_refused(local: Registry) -> None:
    local.register(version("a"))
    before = local.audit("tiny")
    for who, why in (("", "x"), (" \n", "x"), ("me", "\udcff"), ("me", "x" * 2001)):
        with pytest.raises(SpecError):
            local.decide("tiny:1", "approved", who=who, why=why)
        with pytest.raises(SpecError):
            local.alias("tiny:1", "champion", who=who, why=why)
    for alias in ("", "Champion", "1", "a/b", "latest version"):
        with pytest.raises(SpecError):
            local.alias("tiny:1", alias, who="me", why="")
    assert local.audit("tiny") == before


@pytest.mark.parametrize("kind", ["file", "memory", "s3"])
def test_50_threads_at_once(registry: Registry) -> None:
    def write(n: int) -> int:
        own = Registry(open_storage(registry.storage.uri()))
        return own.register(version(f"key-{n % 40}")).version

    with ThreadPoolExecutor(50) as pool:
        numbers = list(pool.map(write, range(50)))
    assert sorted(set(numbers)) == list(range(1, 41))
    assert numbers[:10] == numbers[40:], "the same key is the same version, also for two at once"
    check(registry, [f"key-{n}" for n in range(40)])


def test_50_processes_at_once(local: Registry, folder: Storage) -> None:
    program = f"""
import os, sys
from ekiben.storage import open_storage
from ekiben.registry import ObjectRegistry
from ekiben.records import ModelVersion
children = []
for n in range(25):
    if (child := os.fork()) == 0:
        registry = ObjectRegistry(open_storage({folder.uri()!r}), "registry/models", provider="local", source="models",
                                  publish=lambda event: None)
        key = f"{{sys.argv[1]}}-{{n}}"
        made = registry.register(ModelVersion(model="tiny", version=0, key=key, digest="0" * 64, bento_uri="x",
                                              created_at="", created_by="me"))
        if n % 5 == 0:
            registry.decide(made.id, "approved", who=key, why="")
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "ab"]
    assert [writer.wait(timeout=200) for writer in writers] == [0, 0]
    check(local, [f"{name}-{n}" for name in "ab" for n in range(25)])
    assert Counter(v.state for v in local.versions("tiny")) == {"approved": 10, "pending": 40}
    assert len(local.audit("tiny")) == 60


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
decisions = st.builds(
    Decision, seq=st.integers(1, 9), model=texts, version=st.integers(1, 9), what=texts, who=texts, when=texts, why=texts,
    before=texts, after=texts,
)  # fmt: skip
entries = st.builds(
    Entry, key=texts, sha256=texts, state=st.sampled_from(["pending", "approved"]), seq=st.integers(1), since=texts
)


@given(
    st.builds(
        Index, model=texts, seq=st.integers(0), versions=st.dictionaries(texts, entries, max_size=3),
        aliases=st.dictionaries(texts, st.integers(1, 9), max_size=3), tail=st.lists(decisions, max_size=3),
        schema=st.just(1),
    )
)  # fmt: skip
def test_an_index_survives_json(index: Index) -> None:
    assert Index.from_json(index.to_json().encode()) == index
    assert json.loads(index.to_json())["model"] == index.model


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts, lambda x: st.dictionaries(texts, x), max_leaves=6
)


@given(json_values)
def test_whatever_the_lineage_it_comes_back_or_is_refused(value: object) -> None:
    registry = Registry(open_storage("memory://lineage"))
    given = version("k", model="lineage", lineage={"x": value})
    try:
        made = registry.register(given)
    except SpecError:
        return
    assert registry.version(made.id) == made
    for found in list(registry.storage.list()):
        registry.storage.delete(found.key)
