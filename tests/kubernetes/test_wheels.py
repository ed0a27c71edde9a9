"""Packages of trainings whose pods reach no index: what is fetched, and where it is put."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

import ekiben as ek
from ekiben.errors import ModelFailed, SpecError
from ekiben.kubernetes import declared, wheels
from ekiben.kubernetes.components import Storage, Training
from ekiben.kubernetes.components.settings import BENEATH
from ekiben.kubernetes.declared import KINDS
from ekiben.kubernetes.facts import S3, TrainingFacts, facts_of

from . import store
from .program import run

LOCK = """\
# What train.py imports.
--index-url https://packages.example/simple
numpy==2.4.6 ; python_full_version < '3.12'
numpy==2.5.5 ; python_full_version >= '3.12'
tzdata==2026.6 ; sys_platform == 'win32'
xgboost-cpu==3.2.0 ; platform_machine == 'x86_64' \\
    --hash=sha256:00 \\
    --hash=sha256:11
"""
# It does what it is asked, as far as a test sees it: a wheel for each line of the requirements.
UV = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in --dest) dest=$2 ;; --requirement) asked=$2 ;; esac
  shift
done
/bin/mkdir -p "$dest"
while read -r line || [ -n "$line" ]; do
  case "$line" in gone*) echo "no matching distribution for $line" >&2; exit 1 ;; esac
  echo "$line" > "$dest/${line%%==*}-${line##*==}-py3-none-any.whl"
done < "$asked"
"""


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bin" / "uv"
    path.parent.mkdir()
    path.write_text(UV)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent))


@pytest.fixture
def given(tmp_path: Path, store_url: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("EKIBEN_S3_SECRET", "keys")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    (tmp_path / "requirements.txt").write_text(LOCK)
    return {
        "context": "", "namespace": "small-dev", "s3": S3(url=store_url, secret="keys").to_dict(),
        "bucket": bucket.removeprefix("s3://"), "key": f"wheels/{uuid.uuid4().hex}/",
        "source_path": str(tmp_path / "requirements.txt"), "python": "3.11",
    }  # fmt: skip


def test_what_is_wanted_is_what_the_image_s_python_wants() -> None:
    assert wheels.wanted(LOCK, "3.11") == ["numpy==2.4.6", "xgboost-cpu==3.2.0"]
    assert wheels.wanted(LOCK, "3.13") == ["numpy==2.5.5", "xgboost-cpu==3.2.0"]
    assert wheels.wanted("# nothing\n\n", "3.13") == []
    with pytest.raises(SpecError, match="numpy=2"):
        wheels.wanted("numpy=2\n", "3.13")


@pytest.mark.parametrize(
    ("image", "python"),
    [
        ("docker.io/library/python:3.13-slim-bookworm", "3.13"),
        ("198.18.0.2:5000/python:3.11", "3.11"),
        ("registry.example/team/train-py3.12:7", "3.12"),
    ],
)
def test_the_python_of_an_image_is_in_its_name(image: str, python: str) -> None:
    assert wheels.python_of(image) == python


def test_an_image_whose_python_nobody_knows_is_refused() -> None:
    with pytest.raises(SpecError, match="ekiben:pythonImage"):
        wheels.python_of("registry.example:3000/team/train:7")


def test_the_wheels_of_a_lock_and_their_whole_life(given: dict[str, Any], store_url: str, uv: None) -> None:
    kind = KINDS["Wheels"]
    assert declared.read(kind, given) is None
    state = declared.put(kind, "", given)
    assert state["uri"] == f"s3://{given['bucket']}/{given['key']}"
    there = [uri.removeprefix(state["uri"]) for uri, _ in store.client(store_url).list(state["uri"])]
    assert there == ["numpy-2.4.6-py3-none-any.whl", wheels.LIST, "xgboost-cpu-3.2.0-py3-none-any.whl"]
    assert declared.put(kind, "", given) == state, "making it again is silent"
    assert declared.read(kind, state) == (given, state)
    declared.delete(kind, "", state)
    assert declared.lost(kind, state) == "uri"


def test_wheels_that_are_not_all_there_are_made_again(given: dict[str, Any], uv: None) -> None:
    Path(given["source_path"]).write_text("numpy==2.4.6\ngone==1\n")
    with pytest.raises(ModelFailed, match="fetch the wheels") as failed:
        declared.put(KINDS["Wheels"], "", given)
    assert "no matching distribution for gone==1" in str(failed.value)
    assert declared.read(KINDS["Wheels"], given) is None


def program() -> list[Any]:
    lake = Storage("lake")
    return [Training("income", ek.TrainingSpec(source="job", inputs={"census": "lake/people/"}), storage=lake)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "train.py").write_text("")
    (tmp_path / "job" / "requirements.txt").write_text(LOCK)
    return tmp_path


def test_a_training_has_its_wheels_where_the_config_says_so(project: Path) -> None:
    assert facts_of(run(program, project).parts["income"], TrainingFacts).wheels_uri == ""
    recorded = run(program, project, {"ekiben:wheels": "true", "ekiben:pythonImage": "python:3.11"})
    (made,) = recorded.all("Wheels")
    assert (made.inputs["python"], made.retained) == ("3.11", True)
    facts = facts_of(recorded.parts["income"], TrainingFacts)
    assert facts.wheels_uri == f"s3://lake/{made.inputs['key']}"
    (project / "job" / "requirements.txt").write_text("# only what Python has\n")
    recorded = run(program, project, {"ekiben:wheels": "true", "ekiben:pythonImage": "python:3.11"})
    assert recorded.all("Wheels") == []


def test_pods_may_use_more_than_they_are_put_on_a_node_for(project: Path) -> None:
    recorded = run(program, project, {"ekiben:cpuShare": "0.1"})
    (container,) = recorded.parts["income"].facts["pod"]["containers"]
    assert (container["resources"]["requests"]["cpu"], container["resources"]["limits"]["cpu"]) == ("100m", "1000m")


def test_what_a_stack_does_not_say_its_emulated_cluster_does(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        BENEATH, json.dumps({"ekiben:pythonImage": "node/python:3.11", "ekiben:storeImage": "node/store:1"})
    )
    recorded = run(program, project, {"ekiben:storeImage": "mine/store:2"})
    assert recorded.parts["income"].facts["pod"]["containers"][0]["image"] == "node/python:3.11"
    store_pod = recorded.one("StatefulSet", "small-dev-ekiben-store").inputs["spec"]["template"]["spec"]
    assert store_pod["containers"][0]["image"] == "mine/store:2", "the stack's own word counts"
