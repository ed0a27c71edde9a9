"""The whole project on this machine, in a folder of its own: no account, no cloud, and nothing left afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.example.conftest import ROOT

PROJECT = ("Pulumi.yaml", "infra", "functions", "training_jobs", "bentos")
PATIENCE_S = 180


class Here:
    """A copy of the project, with a stack of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in PROJECT:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
        (folder / "Pulumi.test.yaml").write_text("config:\n  ekiben:provider: local\n")
        (folder / ".venv").symlink_to(sys.prefix)

    def ekiben(self, *words: str) -> str:
        """What a verb prints. Fails the test when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "ekiben.cli", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={name: value for name, value in os.environ.items() if not name.startswith(("EKIBEN_", "PULUMI_"))},
        )
        assert done.returncode == 0, f"ekiben {' '.join(words)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def first(self, verb: str, true: Callable[[Any], Any]) -> Any:
        """The first of what `verb` lists, once it is there and `true`."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = json.loads(self.ekiben(verb, "--json"))
            if found and true(found[0]):
                return found[0]
            assert time.monotonic() < deadline, f"ekiben {verb}: {found}\n{self.ekiben('events')}"
            time.sleep(0.3)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    here = Here(tmp_path)
    yield here
    here.ekiben("destroy", "--yes")
    assert "nothing left" in here.ekiben("inventory")


@pytest.mark.timeout(600)
def test_data_that_lands_becomes_a_model_that_answers(here: Here, parquet: Path) -> None:
    here.ekiben("up")
    here.ekiben("put", *map(str, sorted(parquet.iterdir())), "lake/employment/")

    run = here.first("runs", lambda run: run["state"] in ("succeeded", "failed"))
    assert run["state"] == "succeeded", run["reason"]

    version = here.first("models", lambda version: version["run_id"] == run["id"])
    assert version["state"] == "pending", "a model waits for approval"
    here.ekiben("approve", "employment:1", "--why", "a test")

    def serves(endpoint: Any) -> bool:
        return any(revision["weight"] == 100 for revision in endpoint["revisions"])

    here.first("endpoints", serves)
    sample = version["sample"]
    answer = json.loads(here.ekiben("invoke", "employment-api", "--data", json.dumps(sample["request"])))
    assert answer == sample["response"], "the service says what the training job wrote down"
