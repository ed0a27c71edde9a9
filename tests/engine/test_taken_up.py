"""What a killed engine was at in a cloud: it is taken into the state, looked at, and forgotten only then."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pulumi import automation

from ekiben.engine.recovery import recover

STACK = "urn:pulumi:dev::shop"
PROVIDER = f"{STACK}::pulumi:providers:aws::default"


class Opened:
    """As much of an automation.Stack as taking up takes: its state, which a refresh of the real thing would change."""

    name = "dev"

    def __init__(self, root: Path, pending: list[Any], resources: list[Any]) -> None:
        self.workspace = self
        self.body = {"resources": [provider(), *resources], "pending_operations": pending}
        self.refreshed: list[list[str]] = []
        self.gone: set[str] = set()
        self.dies = False
        states = root / ".ekiben" / ".pulumi" / "stacks" / "shop"
        states.mkdir(parents=True)
        (states / "dev.json").write_text(json.dumps({"checkpoint": {"latest": self.body}}))

    def project_settings(self) -> Any:
        return type("Settings", (), {"name": "shop"})

    def export_stack(self) -> automation.Deployment:
        return automation.Deployment(version=3, deployment=deepcopy(self.body))

    def import_stack(self, state: automation.Deployment) -> None:
        self.body = dict(deepcopy(state.deployment or {}))

    def refresh(self, target: list[str]) -> None:
        self.refreshed.append(target)
        if self.dies:
            raise KeyboardInterrupt
        self.body["resources"] = [one for one in self.body["resources"] if one["urn"] not in self.gone]

    def ids(self) -> dict[str, bool]:
        """id -> is it to be deleted?"""
        return {one["id"]: bool(one.get("delete")) for one in self.body["resources"] if one["urn"] != PROVIDER}


def provider() -> dict[str, Any]:
    return {"urn": PROVIDER, "type": "pulumi:providers:aws", "id": "0", "inputs": {"region": "eu-west-1"}}


def role(name: str, id: str = "", type: str = "aws:iam/role:Role") -> dict[str, Any]:
    inputs = {"name": id or f"{name}-1"}
    return {"urn": f"{STACK}::{type}::{name}", "type": type, "id": id, "inputs": inputs, "provider": f"{PROVIDER}::0"}


def at(what: str, resource: dict[str, Any]) -> dict[str, Any]:
    return {"type": what, "resource": resource}


Make = Callable[..., Opened]


@pytest.fixture
def opened(tmp_path: Path) -> Make:
    return lambda pending, *resources: Opened(tmp_path, pending, list(resources))


def taken(root: Path, opened: Opened) -> list[str]:
    told: list[str] = []
    recover(root, opened, told.append)  # type: ignore[arg-type]
    return told


def test_what_was_perhaps_made_is_looked_at(tmp_path: Path, opened: Make) -> None:
    stack = opened([at("creating", role("made")), at("creating", role("never"))])
    stack.gone = {role("never")["urn"]}
    assert taken(tmp_path, stack) == ["Looking at what it was at: 2 resources"]
    assert stack.ids() == {"made-1": False}
    assert not stack.body["pending_operations"]


def test_what_was_to_replace_another_is_deleted(tmp_path: Path, opened: Make) -> None:
    stack = opened([at("creating", role("one"))], role("one", "one-0"))
    taken(tmp_path, stack)
    assert stack.ids() == {"one-0": False, "one-1": True}


@pytest.mark.parametrize("what", ["updating", "deleting"])
def test_what_was_being_changed_or_deleted_is_looked_at(tmp_path: Path, opened: Make, what: str) -> None:
    one = role("one", "one-0")
    stack = opened([at(what, one)], one)
    taken(tmp_path, stack)
    assert stack.refreshed == [[one["urn"]]]
    assert stack.ids() == {"one-0": False}
    assert not stack.body["pending_operations"]


def test_nothing_is_forgotten_or_doubled_where_that_is_killed_too(tmp_path: Path, opened: Make) -> None:
    pending = [at("creating", role("one")), at("creating", role("two"))]
    stack = opened(pending, role("two", "two-0"))
    stack.dies = True
    with pytest.raises(KeyboardInterrupt):
        taken(tmp_path, stack)
    assert stack.body["pending_operations"] == pending
    stack.dies = False
    taken(tmp_path, stack)
    assert stack.ids() == {"two-0": False, "one-1": False, "two-1": True}
    assert not stack.body["pending_operations"]


def test_what_nobody_knows_is_left_to_pulumi(tmp_path: Path, opened: Make) -> None:
    unknown = at("creating", role("one", type="aws:rds/instance:Instance"))
    stack = opened([unknown, at("creating", role("policy", type="aws:s3/bucketPolicy:BucketPolicy"))])
    taken(tmp_path, stack)
    assert stack.body["pending_operations"] == [unknown]
    assert not stack.refreshed
    assert not stack.ids()
