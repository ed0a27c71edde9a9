"""Copying a version between registries: what travels, what is refused, and what dies on the way."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from ekiben import runtime
from ekiben.errors import AlreadyExists, IntegrityError, NotFound, SpecError
from ekiben.packing import archive
from ekiben.records import ModelVersion, Part, Platform
from ekiben.release import copy
from ekiben.storage import open_storage

from .fakes.memory import Faulty, Killed, Registry

_names = itertools.count()
SIGNATURE = {"columns": ["é"], "target": "y"}


class World(runtime.Runtime):
    """A storage and a registry of each of two providers: `lake`, `models` of `home`; `far-lake`, `far-models` of `far`."""

    def __init__(self, **facts: Any) -> None:
        name = next(_names)
        parts, self.bound = {}, dict[str, Any]()
        for provider, start in (("home", ""), ("far", "far-")):
            # Buckets of two providers may have one name: it is the provider that tells them apart.
            uri = f"memory://copies-{name}/{start}"
            lake, models = f"{start}lake", f"{start}models"
            parts[lake] = Part(name=lake, kind="storage", provider=provider, ref=lake, facts={"uri": uri})
            told = {"uri": f"{uri.rstrip('/')}/registry/{models}", **(facts if start else {})}
            parts[models] = Part(name=models, kind="registry", provider=provider, ref=models, facts=told)
            self.bound[lake] = open_storage(uri, provider=provider)
        super().__init__(Platform(project="p", stack="s", parts=parts))
        for models in ("models", "far-models"):
            self.bound[models] = Registry(parts[models], self.platform)
            self.bound[models]._objects.require_approval = parts[models].facts.get("require_approval", True)

    def _bind(self, contract: Any, name: str) -> Any:
        assert name in self.names(contract.kind)
        return self.bound[name]

    def killed_at(self, number: int) -> None:
        """Die at the call point of this number, of all storages' and registries'."""
        points = itertools.count()

        def die(point: str) -> None:
            if next(points) == number:
                raise Killed(f"{number}: {point}")

        self.bound = {name: Faulty(one, die) for name, one in self.bound.items()}

    def alive(self) -> None:
        self.bound = {name: one._inner if isinstance(one, Faulty) else one for name, one in self.bound.items()}


@pytest.fixture
def bento(tmp_path: Path) -> archive.Bundle:
    return archive.write({"bento.yaml": b"name: tiny\n", "src/model/m.ubj": bytes(range(256)) * 4096}, tmp_path)


def registered(world: World, bento: archive.Bundle, state: str = "approved", **over: Any) -> ModelVersion:
    lake, models = world.storage("lake"), world.registry("models")
    key = f"bentos/{bento.sha256}.tar"
    lake.put(key, bento.path)
    record = ModelVersion(
        model="tiny", version=0, key="run-1", digest=bento.sha256, bento_uri=lake.uri(key), created_at="", created_by="ann",
        run_id="run-1", metrics={"auc": 0.9}, signature=SIGNATURE, sample={"route": "predict", "request": 1, "response": 2},
        lineage={"by": "ann", "seeds": {"a": 1}},
    )  # fmt: skip
    made = models.register(dataclasses.replace(record, **over))
    return models.decide(made.id, state, who="bea", why="better") if state != "pending" else made


def go(world: World, ref: str = "tiny:1", **over: Any) -> ModelVersion:
    return copy(world, ref, **{"to": "far", "who": "cem", **over})


def test_the_same_record_and_the_same_bytes_are_there(bento: archive.Bundle) -> None:
    world = World()
    source = registered(world, bento)
    world.registry("models").alias(source.id, "champion", who="bea", why="")
    steps: list[tuple[str, str]] = []
    made = go(world, "tiny@champion", on_step=lambda *step: steps.append(step))
    far = world.registry("far-models")
    assert far.version("tiny:1") == made
    for name in ("model", "key", "digest", "run_id", "metrics", "signature", "sample", "state"):
        assert getattr(made, name) == getattr(source, name), name
    assert world.storage("far-lake").get(f"bentos/{bento.sha256}.tar") == bento.path.read_bytes()
    assert made.bento_uri == world.storage("far-lake").uri(f"bentos/{bento.sha256}.tar")
    assert made.aliases == [], "aliases say what serves, and nothing does"
    origin = {
        "registry": "models",
        "provider": "home",
        "version": "tiny:1",
        "created_at": source.created_at,
        "created_by": "ann",
    }
    assert made.lineage == {**source.lineage, "copied": [origin]}
    assert [step for step, _ in steps] == ["read", "write", "verify", "register", "decide"]
    assert all(detail for _, detail in steps)


def test_who_copied_is_in_the_audit_with_the_decision_it_follows(bento: archive.Bundle) -> None:
    world = World()
    registered(world, bento)
    made = go(world, why="for the shops in Zürich")
    assert made.created_by == "cem"
    lines = [(one.what, one.who, one.why) for one in world.registry("far-models").audit("tiny")]
    quoted = "for the shops in Zürich; copied from models (home), where tiny:1 is approved by bea: better"
    assert lines == [("registered", "cem", ""), ("approved", "cem", quoted)]


def test_copying_again_changes_nothing_and_what_was_decided_there_holds(bento: archive.Bundle) -> None:
    world = World()
    registered(world, bento)
    made, far = go(world), world.registry("far-models")
    before = far.audit("tiny")
    assert go(world) == made
    assert far.audit("tiny") == before
    far.decide(made.id, "rejected", who="dan", why="not here")
    assert go(world).state == "rejected"
    assert len(far.audit("tiny")) == len(before) + 1


def test_a_copy_of_a_copy_says_both_its_origins(bento: archive.Bundle) -> None:
    world = World()
    registered(world, bento)
    go(world)
    world.registry("models").decide("tiny:1", "archived", who="bea", why="")
    part = dataclasses.replace(world.platform.parts["models"], name="third", facts={})
    part.facts["uri"] = f"{world.storage('lake').uri()}/registry/third"
    world.platform.parts["third"] = part
    world.bound["third"] = Registry(part, world.platform)
    made = go(world, to="third", registry="far-models")
    assert [one["registry"] for one in made.lineage["copied"]] == ["models", "far-models"]
    assert made.state == "approved"


@pytest.mark.parametrize("state", ["pending", "rejected", "archived"])
def test_what_is_not_approved_is_copied_by_choice_as_what_it_is(bento: archive.Bundle, state: str) -> None:
    world = World()
    registered(world, bento, state)
    with pytest.raises(SpecError, match=f"is {state}, and only an approved version"):
        go(world)
    assert go(world, any_state=True).state == state


def test_a_registry_that_approves_everything_gets_only_what_is_approved(bento: archive.Bundle) -> None:
    world = World(require_approval=False)
    registered(world, bento, "pending")
    with pytest.raises(SpecError, match="there it would be approved"):
        go(world, any_state=True)
    assert world.registry("far-models").versions() == []
    world.registry("models").decide("tiny:1", "approved", who="bea", why="")
    assert go(world).state == "approved"


def test_a_bento_that_is_not_what_was_registered_is_not_copied(bento: archive.Bundle) -> None:
    world = World()
    registered(world, bento)
    world.storage("lake").put(f"bentos/{bento.sha256}.tar", b"another")
    with pytest.raises(IntegrityError, match=r"home: cannot copy tiny:1: .* is registered"):
        go(world)
    assert list(world.storage("far-lake").list()) == []


def test_what_lies_there_under_its_name_and_is_another_is_not_registered(bento: archive.Bundle) -> None:
    world = World()
    registered(world, bento)
    far = world.storage("far-lake")
    far.put(f"bentos/{bento.sha256}.tar", b"damaged")
    with pytest.raises(IntegrityError, match=r"far: cannot copy .* Delete it, and copy again"):
        go(world)
    assert world.registry("far-models").versions() == []
    far.delete(f"bentos/{bento.sha256}.tar")
    assert go(world).state == "approved"


def test_another_model_under_the_same_key_stays_as_it_is(bento: archive.Bundle, tmp_path: Path) -> None:
    world = World()
    registered(world, bento)
    other = ModelVersion(
        model="tiny", version=0, key="run-1", digest="0" * 64, bento_uri="memory://b", created_at="", created_by="eve"
    )
    far = world.registry("far-models")
    there = far.register(other)
    with pytest.raises(AlreadyExists, match="'run-1' is that of tiny:1 there"):
        go(world)
    assert far.versions() == [there]
    assert not [one for one in world.storage("far-lake").list("bentos/")]


def test_who_copies_and_where_must_be_told(bento: archive.Bundle) -> None:
    world = World()
    registered(world, bento)
    for over, said in (
        ({"to": "aws"}, r"'aws': there is none. .*: far-models \(far\), models \(home\)"),
        ({"to": "models", "registry": "models"}, "No registry to copy to 'models' from"),
        ({"who": " "}, "`who` is empty"),
    ):
        with pytest.raises(SpecError, match=said):
            go(world, **over)
    with pytest.raises(NotFound):
        go(world, "tiny:2")


def test_a_copy_that_is_killed_anywhere_is_finished_by_another(bento: archive.Bundle) -> None:
    for number in itertools.count():
        world = World()
        registered(world, bento)
        world.killed_at(number)
        try:
            go(world)
        except Killed:
            pass
        else:
            break
        world.alive()
        far = world.registry("far-models")
        for one in far.versions():  # never a record before its bento
            assert world.storage("far-lake").head(f"bentos/{one.digest}.tar").size_bytes == bento.path.stat().st_size
        made = go(world)
        assert (made.id, made.state) == ("tiny:1", "approved")
        assert [one.what for one in far.audit("tiny")] == ["registered", "approved"]
        assert [event.data["state"] for event in far.events][-1] == "approved"
    assert number > 10
