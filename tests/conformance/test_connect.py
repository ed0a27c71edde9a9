"""C: connecting (docs/contract.md)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ekiben as ek
from ekiben import providers

from .conftest import Rig


def test_c1_connect_takes_a_record_its_json_a_path_or_the_environment(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = rig.platform.to_json()
    (tmp_path / "platform.json").write_text(text, "utf-8")
    for given in (rig.platform, text, tmp_path / "platform.json", str(tmp_path / "platform.json")):
        assert ek.connect(given).platform == rig.platform
    for value in (text, str(tmp_path / "platform.json")):
        monkeypatch.setenv("EKIBEN_PLATFORM", value)
        assert ek.connect().platform == rig.platform


def test_c2_binding_calls_nothing() -> None:
    part = ek.Part(name="lake", kind="storage", provider="local", ref="x", facts={"uri": "file:///nowhere/at/all"})
    api = ek.Part(
        name="api", kind="endpoint", provider="local", ref="x", facts={"station": "/nowhere", "url": "http://no"}
    )
    runtime = ek.connect(ek.Platform(project="p", stack="s", parts={"lake": part, "api": api}))
    runtime.storage("lake")
    runtime.endpoint("api")


def test_c3_a_bad_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EKIBEN_PLATFORM", raising=False)
    for given, match in (
        (None, "EKIBEN_PLATFORM"),
        (tmp_path / "absent.json", "absent.json"),
        ("{not json", "JSON"),
        ('{"project": "p", "stack": "s", "flavour": 1}', "flavour"),
        ('{"project": "p"}', "stack"),
        ('{"project": 1, "stack": "s"}', "project"),
        ('{"project": "p", "stack": "s", "parts": {"x": {"kind": "spoon"}}}', "parts.x"),
    ):
        with pytest.raises(ek.SpecError, match=match):
            ek.connect(given)


def test_c4_records_survive_json(rig: Rig) -> None:
    assert ek.Platform.from_json(rig.platform.to_json()) == rig.platform
    assert ek.Platform.from_json(rig.platform.to_json()).to_json() == rig.platform.to_json()


def test_c5_an_empty_name_binds_the_only_one(rig: Rig) -> None:
    assert rig.runtime.registry().part.name == "models"
    with pytest.raises(ek.NotFound, match="lake, spare"):
        rig.runtime.storage()
    with pytest.raises(ek.NotFound, match="tiny-api"):
        rig.runtime.endpoint("absent")


def test_c6_the_platform_holds_no_secret(rig: Rig) -> None:
    text = rig.platform.to_json()
    for file in rig.state_dir.rglob("*token*") if hasattr(rig, "state_dir") else []:
        assert file.read_text().strip() not in text


def test_c7_an_unknown_provider_is_named(rig: Rig) -> None:
    part = dataclasses.replace(rig.platform.parts["lake"], provider="moon")
    with pytest.raises(ek.EkibenError, match="moon"):
        ek.connect(dataclasses.replace(rig.platform, parts={"lake": part})).storage("lake")


@pytest.mark.parametrize("provider", sorted(providers()))
def test_c8_the_run_face_is_light(provider: str) -> None:
    program = (
        f"import json, sys, {providers()[provider]}.runtime, ekiben.release; print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    heavy = {"pulumi", "pydantic", "bentoml", "mlflow", "numpy", "xgboost", "boto3", "aiohttp"}
    assert not heavy & {name.partition(".")[0] for name in loaded}
