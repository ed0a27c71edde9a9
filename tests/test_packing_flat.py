"""The environment image of a bento as one layer: its context is the same bytes for the same environment, and says all of it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import yaml

from ekiben.errors import SpecError
from ekiben.packing import archive, flat_image
from ekiben.packing.flat import DESCRIPTION, LOCK, OWN_LOCK, SITE

PIN = "numpy==2.4.0\n"
BASE = "registry.example/python:{version}-slim"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(tmp_path: Path, *commands: str, lock: str = PIN) -> archive.Bundle:
    image = {"python_version": "3.11", "commands": ["apt-get install -y build-essential git", *commands]}
    members = {
        "bento.yaml": yaml.safe_dump({"image": image}).encode(),
        "env/python/requirements.txt": lock.encode(),
    }  # fmt: skip
    return flat_image(archive.write(members, tmp_path / "templates"), BASE)


def test_the_context_says_what_the_image_is(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    with zipfile.ZipFile(bundle.path) as file:
        told = json.loads(file.read(DESCRIPTION))
        assert file.read(LOCK).decode() == PIN
        assert b"--hash" in file.read(OWN_LOCK), "the server's own packages are pinned by their hashes"
        assert "ekiben/cli/__main__.py" in file.namelist()
    assert (told["base"], told["python"]) == ("registry.example/python:3.11-slim", "3.11")
    assert told["variables"]["PYTHONPATH"] == SITE
    assert not [name for name in told["variables"] if name.startswith("AWS_")]
    assert (told["user"], told["port"]) == ("65532:65532", 8080)


def test_the_same_environment_is_the_same_bytes_and_another_is_not(tmp_path: Path) -> None:
    assert made(tmp_path).sha256 == made(tmp_path).sha256
    assert made(tmp_path).sha256 != made(tmp_path, lock="numpy==2.4.1\n").sha256


def test_what_needs_a_container_to_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"apt-get install -y libgomp1.*ekiben:pythonImage"):
        made(tmp_path, "apt-get install -y libgomp1")
