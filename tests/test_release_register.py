"""Registering a run's model: its bento, its record, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ekiben.errors import IntegrityError, SpecError
from ekiben.packing import archive
from ekiben.records import Run
from ekiben.release import register

from .fakes.memory import Killed, Memory

SIGNATURE = {
    "columns": ["x"],
    "target": "y",
    "sample": {"route": "predict", "request": {"x": 2.0}, "response": {"y": 6.0}},
}


def world_with_run(folder: Path, signature: Any = SIGNATURE) -> tuple[Memory, Run]:
    """A platform whose endpoint has a bento, and a run that has left a model there."""
    members = {
        "bento.yaml": b"service: service:Tiny\nname: tiny\nversion: template\n",
        "src/service.py": b"import bentoml\n",
    }
    template = archive.write(members, folder)
    world = Memory()
    lake = world.storage()
    key = f"bentos/{template.sha256}.tar"
    lake.put(key, template.path)
    facts = world.fake.part.facts
    facts.update(template_uri=lake.uri(key), template_sha256=template.sha256)
    lake.put("runs/tiny/r-1/model/model.json", b'{"slope": 3.0}')
    lake.put("runs/tiny/r-1/model/more/é.bin", b"\0\1")
    lake.put("runs/tiny/r-10/model/other.json", b"not mine")
    if signature is not None:
        text = signature if isinstance(signature, bytes) else json.dumps(signature).encode()
        lake.put("runs/tiny/r-1/output/signature.json", text)
    run = Run(
        id="r-1", training="tiny", state="succeeded", metrics={"slope": 3.0}, model="tiny",
        model_uri=lake.uri("runs/tiny/r-1/model/"), output_uri=lake.uri("runs/tiny/r-1/output/"),
        lineage={"by": "ann", "seeds": {"a": 1}},
    )  # fmt: skip
    return world, run


def test_a_run_becomes_a_version_that_says_all_about_itself(tmp_path: Path) -> None:
    world, run = world_with_run(tmp_path)
    version = register(world, run)
    assert (version.id, version.state, version.key, version.run_id) == ("tiny:1", "pending", "r-1", "r-1")
    assert (version.created_by, version.metrics, version.sample) == ("ann", {"slope": 3.0}, SIGNATURE["sample"])
    assert version.signature == {"columns": ["x"], "target": "y"}
    assert version.lineage["seeds"] == {"a": 1}
    assert version.lineage["bento"]["sha256"] == world.fake.part.facts["template_sha256"]
    lake = world.storage()
    lake.download(lake.key(version.bento_uri), tmp_path / "bento.tar")
    tree = archive.unpack(tmp_path / "bento.tar", version.digest, tmp_path / "bento")
    assert {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()} == {
        "bento.yaml", "ekiben.json", "src/service.py", "src/model/model.json", "src/model/more/é.bin",
    }  # fmt: skip


def test_registering_again_is_the_same_version(tmp_path: Path) -> None:
    world, run = world_with_run(tmp_path)
    assert register(world, run) == register(world, run)
    assert len(world.registry().versions("tiny")) == 1
    assert len([found for found in world.storage().list("bentos/")]) == 2


def test_whatever_call_it_dies_at_doing_it_again_ends_right(tmp_path: Path) -> None:
    for point in range(100):
        world, run = world_with_run(tmp_path)
        world.killed_at(point)
        try:
            register(world, run)
        except Killed:
            world.killed_at(-1)
        else:
            break
        version = register(world, run)
        assert (version.id, len(world.registry().versions("tiny"))) == ("tiny:1", 1)
    assert point > 10


def test_a_damaged_bento_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    world, run = world_with_run(tmp_path)
    version = register(world, run)
    lake = world.storage()
    key = lake.key(version.bento_uri)
    whole = lake.get(key)
    lake.put(key, whole[:100])
    register(world, run)
    assert lake.get(key) == whole


def test_a_corrupted_template_is_refused_and_nothing_is_registered(tmp_path: Path) -> None:
    world, run = world_with_run(tmp_path)
    lake = world.storage()
    key = lake.key(world.fake.part.facts["template_uri"])
    data = bytearray(lake.get(key))
    data[700] ^= 1
    lake.put(key, bytes(data))
    with pytest.raises(IntegrityError):
        register(world, run)
    assert world.registry().versions("tiny") == []
    assert len(list(lake.list("bentos/"))) == 1


@pytest.mark.parametrize("state", ["pending", "running", "failed", "cancelled"])
def test_only_the_model_of_a_run_that_succeeded_is_registered(tmp_path: Path, state: Any) -> None:
    world, run = world_with_run(tmp_path)
    with pytest.raises(SpecError, match=f"'r-1' is {state}"):
        register(world, dataclasses.replace(run, state=state))


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        (None, "wrote no signature.json"),
        (b"{", "is not JSON"),
        (b"[]", "has no sample"),
        ({"columns": ["x"]}, "has no sample"),
        ({"sample": {"request": {}}}, "has no sample"),
        ({"sample": "x"}, "has no sample"),
    ],
)
def test_a_run_without_a_sample_is_refused(tmp_path: Path, signature: Any, says: str) -> None:
    world, run = world_with_run(tmp_path, signature)
    with pytest.raises(SpecError, match=says):
        register(world, run)
    assert world.registry().versions("tiny") == []


def test_a_run_without_model_files_is_refused(tmp_path: Path) -> None:
    world, run = world_with_run(tmp_path)
    lake = world.storage()
    for found in list(lake.list("runs/tiny/r-1/model/")):
        lake.delete(found.key)
    with pytest.raises(SpecError, match="no model to pack"):
        register(world, run)


def test_a_run_in_a_storage_that_was_not_given_is_refused(tmp_path: Path) -> None:
    world, run = world_with_run(tmp_path)
    with pytest.raises(SpecError, match=r"lies in no storage that can be used here \(lake\).*uses="):
        register(world, dataclasses.replace(run, model_uri="s3://elsewhere/model/"))
