"""Two stacks of one name on one cluster: which of them has the namespace, and what the other one is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.provider.experimental.provider import CheckRequest

from ekiben.engine.plugin import Plugin
from ekiben.errors import AlreadyExists
from ekiben.kubernetes.facts import OWNER
from tests.fakes.http import Handler, Server, serving
from tests.fakes.mlflow import kubeconfig

URN = "urn:pulumi:dev::small::ekiben:kubernetes:Owner::small-dev-owner"
PLURALS = {"Secret": "secrets", "NetworkPolicy": "networkpolicies", "ResourceQuota": "resourcequotas"}


class Api(Handler):
    """One namespace, None where there is none, and of each kind how many objects a stack has in it, None where nobody may look."""

    namespace: dict[str, Any] | None
    held: dict[str, int | None]

    def answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        *above, name = path.strip("/").split("/")
        if above == ["api", "v1", "namespaces"]:
            return self.told({"metadata": self.namespace} if self.namespace is not None else None, 404)
        if above == ["api", "v1", "namespaces", "small-dev"]:
            assert query["labelSelector"] == "app.kubernetes.io/managed-by=ekiben"
            count = self.held[next(kind for kind, plural in PLURALS.items() if plural == name)]
            return self.told({"items": [{}] * count} if count is not None else None, 403)
        kinds = [
            {"name": plural, "kind": kind, "namespaced": True, "verbs": ["list", "delete"]}
            for kind, plural in PLURALS.items()
        ]
        return self.told({"groups": []} if path == "/apis" else {"resources": kinds}, 404)

    def told(self, thing: dict[str, Any] | None, otherwise: int) -> None:
        self.reply(200 if thing is not None else otherwise, json.dumps(thing or {}).encode())


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(Api, "namespace", None, raising=False)
    monkeypatch.setattr(Api, "held", dict.fromkeys(PLURALS, 1), raising=False)
    with serving(Api) as server:
        (tmp_path / "kubeconfig").write_text(kubeconfig(server.url), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield server


def looked_at(old: dict[str, Any]) -> dict[str, Any]:
    """The inputs of the Owner, as the engine gets them before it makes anything. `old`: those that the state has."""
    wrapped = {key: PropertyValue(value) for key, value in old.items()}
    asked = CheckRequest(URN, wrapped, {"context": PropertyValue(""), "namespace": PropertyValue("small-dev")}, b"")
    loop = asyncio.new_event_loop()  # asyncio.run() would leave this thread without one, which Pulumi's mocks ask for
    try:
        told = loop.run_until_complete(Plugin().check(asked))
    finally:
        loop.close()
    assert not told.failures
    return {key: value.value for key, value in (told.inputs or {}).items()}


def test_a_stack_s_own_namespace_is_its_own_for_as_long_as_its_state_lasts(
    api: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = looked_at({})
    assert first["owner"]
    assert looked_at({})["owner"] != first["owner"], "what another one draws is another"
    monkeypatch.setattr(Api, "namespace", {"annotations": {OWNER: first["owner"]}})
    assert looked_at(first) == first


@pytest.mark.parametrize(
    "held",
    [
        {"Secret": 1, "NetworkPolicy": 1, "ResourceQuota": 1},
        {"Secret": None, "NetworkPolicy": 0, "ResourceQuota": 0},
    ],
    ids=["keys", "what may not be looked at"],
)
def test_another_stack_s_namespace_is_refused_with_whose_it_is(
    api: Server, monkeypatch: pytest.MonkeyPatch, held: dict[str, int | None]
) -> None:
    since = "2026-01-02T03:04:05Z"
    theirs = {"annotations": {OWNER: "ann@laptop-1a2b3c4d"}, "creationTimestamp": since}
    monkeypatch.setattr(Api, "namespace", theirs)
    monkeypatch.setattr(Api, "held", held)
    for old in ({}, {"owner": "bob@desk-00000000", "namespace": "small-dev"}):
        with pytest.raises(AlreadyExists, match="'small-dev'.*since 2026-01-02.*ann@laptop-1a2b3c4d.*another name"):
            looked_at(old)


@pytest.mark.parametrize(
    ("namespace", "held"),
    [
        ({"annotations": {"a": "b"}}, 1),
        ({}, 1),
        ({"annotations": {OWNER: "ann@laptop-1a2b3c4d"}, "deletionTimestamp": "2026-01-02T03:04:05Z"}, 1),
        ({"annotations": {OWNER: "ann@laptop-1a2b3c4d"}}, 0),
    ],
    ids=["nobody's", "without annotations", "on its way out", "nothing but guards in it"],
)
def test_a_namespace_in_which_nothing_is_lost_stands_in_nobody_s_way(
    api: Server, monkeypatch: pytest.MonkeyPatch, namespace: dict[str, Any], held: int
) -> None:
    monkeypatch.setattr(Api, "namespace", namespace)
    monkeypatch.setattr(Api, "held", {"Secret": held, "NetworkPolicy": 1, "ResourceQuota": 1})
    assert looked_at({})["owner"]
